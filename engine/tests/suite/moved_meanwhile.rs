//! Reads that a range is given up under: what the shard removes for want of owning it is not missing; and
//! the sweeper in a range that is about to be.
//!
//! An index and a disk that let something happen just before they are asked stand in for a reader that is
//! slow at the wrong moment.

use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sherd_engine::fs::{FaultFs, SimFs};
use sherd_engine::index::{Change, Entries, Entry, Index, IndexStore, MemoryStore};
use sherd_engine::{
    Command, Condition, Engine, Error, Expiry, IndexId, Key, Mutation, MutationOutcome, Result,
    Scan,
};

use crate::common::*;

type Event = Box<dyn FnOnce() + Send>;

/// An index in memory; before its next look-up something happens.
#[derive(Clone, Default)]
struct Interrupted {
    memory: MemoryStore,
    before_the_next_get: Arc<Mutex<Option<Event>>>,
    /// How often it was asked for neighbours.
    ranges: Arc<AtomicU64>,
}

impl IndexStore for Interrupted {
    fn open(&self) -> Result<Arc<dyn Index>> {
        Ok(Arc::new(self.clone()))
    }

    fn share(&self) -> Arc<dyn IndexStore> {
        Arc::new(self.clone())
    }

    fn set_aside(&self) -> Result<()> {
        self.memory.set_aside()
    }

    fn discard(&self) -> Result<()> {
        self.memory.discard()
    }
}

impl Index for Interrupted {
    fn get(&self, index: IndexId, key: &[u8]) -> Result<Option<Entry>> {
        let event = self.before_the_next_get.lock().unwrap().take();
        if let Some(event) = event {
            event();
        }
        self.memory.get(index, key)
    }

    fn apply(&self, index: IndexId, changes: &mut dyn Iterator<Item = Change<'_>>) -> Result<()> {
        self.memory.apply(index, changes)
    }

    fn range<'a>(
        &'a self,
        index: IndexId,
        from: Bound<&[u8]>,
        until: &[u8],
    ) -> Result<Entries<'a>> {
        self.ranges.fetch_add(1, Ordering::Relaxed);
        self.memory.range(index, from, until)
    }

    fn drop_index(&self, index: IndexId) -> Result<()> {
        self.memory.drop_index(index)
    }

    fn indexes(&self) -> Result<Vec<IndexId>> {
        self.memory.indexes()
    }

    fn flush(&self, checkpoint: u64) -> Result<()> {
        self.memory.flush(checkpoint)
    }

    fn checkpoint(&self) -> Result<u64> {
        self.memory.checkpoint()
    }

    fn bytes_on_disk(&self) -> u64 {
        0
    }
}

/// What the shard goes on to own.
const KEPT: [(u32, u32); 1] = [(0, RING / 2)];

fn kept(i: u32) -> Key {
    Key { position: i, bytes: format!("kept{i}").into() }
}

fn moved() -> Key {
    Key { position: RING / 2 + 7, bytes: "moved".into() }
}

fn put_at(engine: &Engine, key: Key, text: &str) {
    let (condition, expiry) = (Condition::Any, Expiry::Never);
    let document = text.to_owned().into();
    let outcome = one(engine, Mutation::Write { index: INDEX, key, document, condition, expiry });
    assert!(matches!(outcome, MutationOutcome::Written(_)), "{outcome:?}");
}

/// An engine with a document in the part of the ring that moves, which only the index and the log know.
fn engine_with(index: &Interrupted, fs: &FaultFs<SimFs>) -> Engine {
    let fs = Arc::new(fs.clone());
    let (engine, _) = Engine::open_with(fs, index, Path::new("/data"), options()).unwrap();
    set_up(&engine);
    put_at(&engine, kept(0), "document");
    for i in 1..200 {
        put_at(&engine, kept(i % 7), &format!("{i} {}", "x".repeat(100)));
        if i == 100 {
            put_at(&engine, moved(), "document");
        }
    }
    engine.checkpoint().unwrap();
    engine
}

/// Gives the range up, and removes all there is of it.
fn give_up(engine: &Engine, epoch: u64) {
    engine.execute(Command::Assign(assignment(epoch, &KEPT, u64::MAX))).unwrap();
    while engine.compact().unwrap().is_some() {}
    engine.checkpoint().unwrap();
    assert!(!engine.has_unowned());
}

#[test]
fn a_document_that_is_given_up_while_it_is_looked_up_is_not_missing() {
    type Look = fn(&Engine) -> Result<bool>;
    let looks: [Look; 2] = [
        |engine| Ok(engine.read(INDEX, &moved())?.is_some()),
        |engine| Ok(engine.version(INDEX, &moved())?.is_some()),
    ];
    for look in looks {
        let (index, fs) = (Interrupted::default(), FaultFs::new(SimFs::new()));
        let engine = engine_with(&index, &fs);
        let giving_up = engine.clone();
        let event: Event = Box::new(move || give_up(&giving_up, 2));
        *index.before_the_next_get.lock().unwrap() = Some(event);
        let found = look(&engine);
        assert_eq!(found, Err(Error::WrongShard { epoch: 2 }));
    }
}

#[test]
fn a_page_leaves_out_no_document_that_is_given_up_while_it_is_read() {
    let (index, fs) = (Interrupted::default(), FaultFs::new(SimFs::new()));
    let engine = engine_with(&index, &fs);
    let giving_up = engine.clone();
    fs.before_the_next_read(move || give_up(&giving_up, 2));
    let scan = Scan {
        index: INDEX,
        range: (0, RING),
        after: None,
        max_documents: usize::MAX,
        max_bytes: usize::MAX,
        keys_only: false,
    };
    assert_eq!(
        engine.scan(&scan).map(|page| page.items.len()),
        Err(Error::WrongShard { epoch: 2 })
    );
    let scan = Scan { range: KEPT[0], ..scan };
    assert_eq!(engine.scan(&scan).unwrap().items.len(), 7);
}

/// It asked again and again without a pause.
#[test]
fn the_sweeper_rests_while_what_has_expired_is_frozen() {
    let (index, time) = (Interrupted::default(), Time::default());
    let options = sherd_engine::Options { clock: time.clock(), ..options() };
    let fs = Arc::new(SimFs::new());
    let (engine, _) = Engine::open_with(fs, &index, Path::new("/data"), options).unwrap();
    set_up(&engine);
    let (id, ranges) = ("move".to_owned(), vec![(0, RING)]);
    put_until(&engine, INDEX, "expires", "document", Expiry::After(1_000));
    let at_most = Duration::from_secs(3600);
    engine.execute(Command::Freeze { id: id.clone(), ranges, at_most }).unwrap();
    time.advance(10_000);
    std::thread::sleep(Duration::from_secs(1));
    let asked = index.ranges.load(Ordering::Relaxed);
    assert!((1..20).contains(&asked), "it asked {asked} times in a second");
    engine.execute(Command::Thaw { id }).unwrap();
    wait_until("it is swept", || engine.stat().documents == 0);
}
