//! An index that fails while the engine runs: it is opened again without a restart, and an index
//! that lost something is never asked.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sherd_engine::fs::SimFs;
use sherd_engine::index::MemoryStore;
use sherd_engine::{Command, Engine, Error, IndexSettings, Policy, Result, Scan};

use crate::common::*;
use crate::hooked::{Call, Hooked, Hooks};

/// Tells that an opening begins, and when it may go on.
type Gate = (Sender<()>, Receiver<()>);

/// Of an index in memory: it fails at the `puts`th put, and then always until it is opened again.
#[derive(Default)]
struct Failing {
    memory: MemoryStore,
    puts: AtomicU32,
    broken: AtomicBool,
    opened: AtomicU32,
    /// What an opening finds instead, where it lost something.
    stale: Mutex<Option<MemoryStore>>,
    /// An opening says that it begins, and waits until it may.
    gate: Mutex<Option<Gate>>,
}

impl Hooks for Failing {
    fn before(&self, call: Call) -> Result<()> {
        match call {
            Call::Open => {
                if let Some((begun, may_open)) = self.gate.lock().unwrap().take() {
                    begun.send(()).unwrap();
                    may_open.recv().unwrap();
                }
                if let Some(stale) = self.stale.lock().unwrap().take() {
                    self.memory.restore_entries(&stale);
                }
                self.broken.store(false, Ordering::SeqCst);
                self.opened.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
            Call::SetAside => return Ok(()),
            Call::Change => {
                if self.puts.load(Ordering::SeqCst) > 0
                    && self.puts.fetch_sub(1, Ordering::SeqCst) == 1
                {
                    self.broken.store(true, Ordering::SeqCst);
                    // As sled does: what was put since the last flush may be gone, or not.
                    self.memory.crash(false);
                }
            }
            Call::Get | Call::Range | Call::DropIndex | Call::Flush => {}
        }
        if self.broken.load(Ordering::SeqCst) {
            return Err(Error::Index("it failed before".into()));
        }
        Ok(())
    }
}

type Store = Hooked<MemoryStore, Failing>;

fn store() -> Store {
    let memory = MemoryStore::new();
    Hooked::over(memory.clone(), Failing { memory, ..Failing::default() })
}

fn open_engine(store: &Store, fs: &SimFs) -> Engine {
    Engine::open_with(Arc::new(fs.clone()), store, Path::new("/data"), options()).unwrap().0
}

#[test]
fn an_index_that_failed_is_opened_again_without_a_restart() {
    let (fs, store) = (SimFs::new(), store());
    let engine = open_engine(&store, &fs);
    set_up(&engine);
    for i in 0..100 {
        put(&engine, &format!("key{i}"), "old");
    }
    engine.checkpoint().unwrap();
    for i in (0..100).step_by(2) {
        put(&engine, &format!("key{i}"), "new");
    }
    store.hooks.puts.store(20, Ordering::SeqCst);
    assert!(matches!(engine.checkpoint(), Err(Error::Index(_))));
    // Opened again at once, and every document is there.
    assert_eq!(store.hooks.opened.load(Ordering::SeqCst), 2);
    assert_eq!(contents(&engine).len(), 100);
    assert_eq!(engine.stat().poisoned, None);
    assert!(engine.stat().checkpoint_error.is_some());
    put(&engine, "key0", "newer");
    engine.checkpoint().unwrap();
    assert_eq!(engine.stat().checkpoint_error, None);
    assert_eq!(get(&engine, "key0").as_deref(), Some("newer"));
    assert_eq!(get(&engine, "key2").as_deref(), Some("new"));
    assert_eq!(get(&engine, "key1").as_deref(), Some("old"));
    engine.close().unwrap();
}

/// They were answered as a fault of the node, which nobody tries again.
#[test]
fn what_is_asked_during_the_reopening_may_be_tried_again() {
    let (fs, store) = (SimFs::new(), store());
    let engine = open_engine(&store, &fs);
    set_up(&engine);
    put(&engine, "in the index", "1");
    engine.checkpoint().unwrap();
    put(&engine, "in the overlay", "1");
    let (begun, has_begun) = channel();
    let (open, may_open) = channel();
    *store.hooks.gate.lock().unwrap() = Some((begun, may_open));
    store.hooks.puts.store(1, Ordering::SeqCst);
    std::thread::scope(|scope| {
        scope.spawn(|| engine.checkpoint().unwrap_err());
        has_begun.recv().unwrap();
        let asked = key("in the index");
        let everything = Scan {
            index: INDEX,
            range: (0, RING),
            after: None,
            max_documents: 9,
            max_bytes: 1 << 20,
            keys_only: true,
        };
        let refused = [
            engine.read(INDEX, &asked).map(drop).unwrap_err(),
            engine.version(INDEX, &asked).map(drop).unwrap_err(),
            engine.scan(&everything).map(drop).unwrap_err(),
        ];
        assert_eq!(get(&engine, "in the overlay").as_deref(), Some("1"));
        open.send(()).unwrap();
        for error in refused {
            assert!(matches!(error, Error::IndexClosed { .. }), "{error}");
        }
    });
    assert_eq!(get(&engine, "in the index").as_deref(), Some("1"));
}

/// What came back from the failure lost entries that were flushed. It must not say of any document
/// that it is not there, or has an older version.
#[test]
fn an_index_that_came_back_with_less_is_not_asked() {
    let (fs, store) = (SimFs::new(), store());
    let engine = open_engine(&store, &fs);
    set_up(&engine);
    put(&engine, "early", "1");
    engine.checkpoint().unwrap();
    let stale = store.store.snapshot();
    put(&engine, "early", "2");
    put(&engine, "later", "1");
    engine.checkpoint().unwrap();
    put(&engine, "fresh", "1");
    *store.hooks.stale.lock().unwrap() = Some(stale);
    store.hooks.puts.store(1, Ordering::SeqCst);
    let error = engine.checkpoint().unwrap_err();
    assert!(error.to_string().contains("restart the shard to rebuild it"), "{error}");
    for name in ["early", "later", "never written"] {
        let read = engine.read(INDEX, &key(name));
        assert!(matches!(read, Err(Error::Index(_))), "{name}: {read:?}");
        assert!(matches!(engine.version(INDEX, &key(name)), Err(Error::Index(_))));
    }
    assert_eq!(get(&engine, "fresh").as_deref(), Some("1"), "not what the overlay answers");
    put(&engine, "fresh", "2");
    assert!(engine.stat().checkpoint_error.is_some());
    assert!(matches!(engine.close(), Err(Error::Index(_))), "not closed cleanly");
    drop(engine);
    let engine = open_engine(&store, &fs);
    let found = contents(&engine).into_iter().collect::<Vec<_>>();
    let expected = [("early", "2"), ("fresh", "2"), ("later", "1")];
    assert_eq!(found, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
}

/// Readers and the reopening are at work at once: a reader gets the right document or a refusal.
#[test]
fn reads_during_the_reopening_are_right_or_refused() {
    let (fs, store) = (SimFs::new(), store());
    let engine = open_engine(&store, &fs);
    set_up(&engine);
    for i in 0..500 {
        put(&engine, &format!("key{i}"), "same");
    }
    engine.checkpoint().unwrap();
    let stop = AtomicBool::new(false);
    let deadline = Instant::now() + Duration::from_secs(60);
    std::thread::scope(|scope| {
        for reader in 0..2 {
            let (engine, stop) = (&engine, &stop);
            scope.spawn(move || {
                for i in (reader..).step_by(7) {
                    if stop.load(Ordering::Relaxed) || Instant::now() > deadline {
                        break;
                    }
                    match engine.version(INDEX, &key(&format!("key{}", i % 500))) {
                        Ok(version) => assert!(version.is_some(), "key{}", i % 500),
                        Err(Error::IndexClosed { .. }) => {}
                        // Of the index itself, before it is closed.
                        Err(error) => assert!(matches!(error, Error::Index(_)), "{error}"),
                    }
                }
            });
        }
        for failure in 0..4 {
            put(&engine, &format!("more{failure}"), "same");
            store.hooks.puts.store(1, Ordering::SeqCst);
            assert!(engine.checkpoint().is_err());
            while engine.stat().checkpoint_error.is_some() {
                assert!(Instant::now() < deadline, "it is not tried again");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(contents(&engine).len(), 504);
}

/// A range was given up while the index could not be read: the assignment was durable, but that its
/// documents were to go was noted only after a recount that failed. They stayed, and came back with
/// the range.
#[test]
fn a_range_given_up_while_the_index_fails_does_not_come_back() {
    let (fs, store) = (SimFs::new(), store());
    let options = sherd_engine::Options { compaction: true, ..options() };
    let opened = Engine::open_with(Arc::new(fs), &store, Path::new("/data"), options);
    let engine = opened.unwrap().0;
    set_up(&engine);
    let positions: Vec<u32> = (0..200).map(|i| key(&format!("key{i}")).position).collect();
    (0..200).for_each(|i| _ = put(&engine, &format!("key{i}"), "document"));
    engine.checkpoint().unwrap();
    let mut sorted = positions.clone();
    sorted.sort_unstable();
    let half = sorted[100];
    let kept = positions.iter().filter(|&&position| position < half).count();
    assert!(kept > 0 && kept < 200);
    let assign =
        |epoch, end| engine.execute(Command::Assign(assignment(epoch, &[(0, end)], u64::MAX)));
    store.hooks.broken.store(true, Ordering::SeqCst);
    assign(2, half).unwrap_err();
    store.hooks.broken.store(false, Ordering::SeqCst);
    assign(2, half).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while engine.stat().documents > kept as u64 {
        assert!(Instant::now() < deadline, "{:?}", engine.stat());
        std::thread::sleep(Duration::from_millis(1));
    }
    assign(3, RING).unwrap();
    assert_eq!(contents(&engine).len(), kept);
}

/// What may expire or be evicted is read from the index when a policy changes; where that fails, again
/// with the next command of that kind.
#[test]
fn documents_that_could_not_be_read_for_a_new_policy_are_read_later() {
    let (fs, store) = (SimFs::new(), store());
    let engine = open_engine(&store, &fs);
    engine.execute(Command::Assign(assignment(1, &[(0, RING)], u64::MAX))).unwrap();
    let settings = |policy, ttl| IndexSettings { policy: Some(policy), ttl, ..Default::default() };
    let set = |settings| {
        engine.execute(Command::SetIndex { id: INDEX, settings, force: false }).unwrap();
        engine.stat().tracked_documents
    };
    create_index(&engine, INDEX, settings(Policy::Lru, Some(3_600_000)));
    put(&engine, "k", "document");
    engine.checkpoint().unwrap();
    assert_eq!(engine.stat().tracked_documents, 1);
    store.hooks.broken.store(true, Ordering::SeqCst);
    assert_eq!(set(settings(Policy::Ttl, None)), 0, "it could not be read");
    store.hooks.broken.store(false, Ordering::SeqCst);
    assert_eq!(set(settings(Policy::Ttl, Some(1000))), 1);
}
