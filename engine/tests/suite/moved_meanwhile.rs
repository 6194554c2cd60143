//! Reads that a range is given up under: what the shard removes for want of owning it is not missing; and
//! the sweeper in a range that is about to be.
//!
//! An index and a disk that let something happen just before they are asked stand in for a reader that is
//! slow at the wrong moment.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sherd_engine::fs::{FaultFs, SimFs};
use sherd_engine::index::MemoryStore;
use sherd_engine::{
    Command, Condition, Engine, Error, Expiry, Key, Mutation, MutationOutcome, Result, Scan,
};

use crate::common::*;
use crate::hooked::{Call, Hooked, Hooks};

type Event = Box<dyn FnOnce() + Send>;

/// Of an index in memory: before its next look-up something happens.
#[derive(Default)]
struct Interrupted {
    before_the_next_get: Mutex<Option<Event>>,
    /// How often it was asked for neighbours.
    ranges: AtomicU64,
}

impl Hooks for Interrupted {
    fn before(&self, call: Call) -> Result<()> {
        match call {
            Call::Get => {
                let event = self.before_the_next_get.lock().unwrap().take();
                if let Some(event) = event {
                    event();
                }
            }
            Call::Range => _ = self.ranges.fetch_add(1, Ordering::Relaxed),
            _ => {}
        }
        Ok(())
    }
}

type Store = Hooked<MemoryStore, Interrupted>;

fn store() -> Store {
    Hooked::over(MemoryStore::new(), Interrupted::default())
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
fn engine_with(index: &Store, fs: &FaultFs<SimFs>) -> Engine {
    let fs = Arc::new(fs.clone());
    let (engine, _) = Engine::open_with(fs, index, Path::new("/data"), options()).unwrap();
    set_up(&engine);
    // Pages are read in the order of the log: something has to lie before what moves.
    put_at(&engine, kept(7), "document");
    for i in 0..200 {
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
    assert_eq!(engine.stat().documents, 8, "those that are kept");
}

#[test]
fn a_document_that_is_given_up_while_it_is_looked_up_is_not_missing() {
    type Look = fn(&Engine) -> Result<bool>;
    let looks: [Look; 2] = [
        |engine| Ok(engine.read(INDEX, &moved())?.is_some()),
        |engine| Ok(engine.version(INDEX, &moved())?.is_some()),
    ];
    for look in looks {
        let (index, fs) = (store(), FaultFs::new(SimFs::new()));
        let engine = engine_with(&index, &fs);
        let giving_up = engine.clone();
        let event: Event = Box::new(move || give_up(&giving_up, 2));
        *index.hooks.before_the_next_get.lock().unwrap() = Some(event);
        let found = look(&engine);
        assert_eq!(found, Err(Error::WrongShard { epoch: 2 }));
    }
}

#[test]
fn a_page_leaves_out_no_document_that_is_given_up_while_it_is_read() {
    let (index, fs) = (store(), FaultFs::new(SimFs::new()));
    let engine = engine_with(&index, &fs);
    let giving_up = engine.clone();
    fs.before_the_next_read(move || give_up(&giving_up, 2));
    assert_eq!(
        engine.scan(&whole(INDEX)).map(|page| page.items.len()),
        Err(Error::WrongShard { epoch: 2 })
    );
    let scan = Scan { range: KEPT[0], ..whole(INDEX) };
    assert_eq!(engine.scan(&scan).unwrap().items.len(), 8);
}

/// It asked again and again without a pause.
#[test]
fn the_sweeper_rests_while_what_has_expired_is_frozen() {
    let (index, time) = (store(), Time::default());
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
    let asked = index.hooks.ranges.load(Ordering::Relaxed);
    assert!((1..20).contains(&asked), "it asked {asked} times in a second");
    engine.execute(Command::Thaw { id }).unwrap();
    wait_until("it is swept", || engine.stat().documents == 0);
}
