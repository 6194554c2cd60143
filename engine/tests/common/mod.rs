//! What the engine's tests share: short names for commands, and a recount.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of this module")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sherd_engine::fs::SimFs;
use sherd_engine::index::MemoryStore;
use sherd_engine::{
    Assignment, Clock, Command, Condition, Document, Engine, Error, Expiry, IndexId, IndexSettings,
    Key, Mutation, MutationOutcome, Options, Outcome, Policy, Recovery, Result, Scan,
};

pub const RING: u32 = 10_000_000;
pub const INDEX: u32 = 1;

/// Small segments, so that tests cross their borders, and no checkpoint and no compaction unless
/// asked for.
pub fn options() -> Options {
    Options {
        segment_bytes: 4096,
        checkpoint_keys: usize::MAX / 16,
        checkpoint_interval: Duration::from_secs(3600),
        index_cache_bytes: 1 << 20,
        document_cache_bytes: 1 << 16,
        compaction: false,
        ..Options::default()
    }
}

pub fn assignment(epoch: u64, ranges: &[(u32, u32)], limit: u64) -> Assignment {
    Assignment {
        cluster: "cluster".to_owned(),
        name: "shard0".to_owned(),
        hash_method: "md5".to_owned(),
        epoch,
        lineage: 0,
        ranges: ranges.to_vec(),
        limit,
        policy: Policy::Reject,
    }
}

/// Gives the shard the whole ring and one index.
pub fn set_up(engine: &Engine) {
    engine.execute(Command::Assign(assignment(1, &[(0, RING)], u64::MAX))).unwrap();
    engine
        .execute(Command::CreateIndex {
            id: INDEX,
            name: "index".to_owned(),
            settings: IndexSettings::default(),
        })
        .unwrap();
}

/// A key; its position is a hash of a kind, always the same.
pub fn key(name: &str) -> Key {
    let sum = name.bytes().fold(17u32, |sum, byte| sum.wrapping_mul(31) + u32::from(byte));
    Key { position: sum % RING, bytes: Bytes::copy_from_slice(name.as_bytes()) }
}

pub fn write(name: &str, document: &str, condition: Condition) -> Mutation {
    let document = Bytes::copy_from_slice(document.as_bytes());
    Mutation::Write { index: INDEX, key: key(name), document, condition, expiry: Expiry::Default }
}

pub fn remove(name: &str) -> Mutation {
    Mutation::Remove { index: INDEX, key: key(name), version: None }
}

pub fn mutate(engine: &Engine, mutations: Vec<Mutation>, atomic: bool) -> Vec<MutationOutcome> {
    match engine.execute(Command::Mutate { mutations, atomic }).unwrap() {
        Outcome::Mutated(outcomes) => outcomes,
        Outcome::Done | Outcome::Frozen(_) => {
            panic!("a mutation was answered as a control command")
        }
    }
}

pub fn one(engine: &Engine, mutation: Mutation) -> MutationOutcome {
    mutate(engine, vec![mutation], false).remove(0)
}

pub fn put(engine: &Engine, name: &str, document: &str) -> u64 {
    match one(engine, write(name, document, Condition::Any)) {
        MutationOutcome::Written(version) => version,
        other => panic!("{name} was not written: {other:?}"),
    }
}

pub fn get(engine: &Engine, name: &str) -> Option<String> {
    let document = engine.read(INDEX, &key(name)).unwrap()?;
    Some(String::from_utf8(document.bytes.to_vec()).unwrap())
}

/// All of an index, on one page.
pub fn whole(index: IndexId) -> Scan {
    Scan {
        index,
        range: (0, RING),
        after: None,
        max_documents: usize::MAX,
        max_bytes: usize::MAX,
        keys_only: false,
    }
}

/// All documents, by scanning; checks their order, and that totals equal a recount.
pub fn contents(engine: &Engine) -> BTreeMap<String, String> {
    let mut contents = BTreeMap::new();
    let mut after: Option<Key> = None;
    let mut used = 0;
    loop {
        let page = engine
            .scan(&Scan {
                after: after.clone(),
                max_documents: 7,
                max_bytes: 1 << 20,
                ..whole(INDEX)
            })
            .unwrap();
        for (key, document) in page.items {
            if let Some(before) = &after {
                assert!((before.position, &before.bytes) < (key.position, &key.bytes));
            }
            used += key.bytes.len() + document.bytes.len();
            let name = String::from_utf8(key.bytes.to_vec()).unwrap();
            let document = String::from_utf8(document.bytes.to_vec()).unwrap();
            assert!(contents.insert(name, document).is_none());
            after = Some(key);
        }
        if !page.more {
            break;
        }
    }
    let stat = engine.stat();
    assert_eq!(stat.documents, contents.len() as u64, "documents against a recount");
    assert_eq!(stat.used, used as u64, "bytes against a recount");
    assert_eq!(stat.distribution.iter().sum::<u64>(), stat.documents, "distribution");
    contents
}

/// A simulated machine: a filesystem and an index that outlive the engine.
#[derive(Clone, Default)]
pub struct Machine {
    pub fs: SimFs,
    pub index: MemoryStore,
}

impl Machine {
    pub fn open(&self) -> Result<(Engine, Recovery)> {
        Engine::open_with(Arc::new(self.fs.clone()), &self.index, Path::new("/data"), options())
    }

    pub fn open_with(&self, options: Options) -> Result<(Engine, Recovery)> {
        Engine::open_with(Arc::new(self.fs.clone()), &self.index, Path::new("/data"), options)
    }
}

/// A time that tests set: no second passes unless they say so.
#[derive(Clone)]
pub struct Time(Arc<AtomicU64>);

impl Time {
    /// In 2024, in milliseconds since 1970.
    pub const START: u64 = 1_704_067_200_000;

    pub fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub fn set(&self, now: u64) {
        self.0.store(now, Ordering::Relaxed);
    }

    pub fn advance(&self, milliseconds: u64) {
        self.0.fetch_add(milliseconds, Ordering::Relaxed);
    }

    /// A clock that shows this time.
    pub fn clock(&self) -> Clock {
        Clock::settable(Arc::clone(&self.0))
    }
}

impl Default for Time {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(Self::START)))
    }
}

/// Waits until something holds that comes by itself; how soon does not matter.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it never came: {what}");
        std::thread::yield_now();
    }
}

pub fn create_index(engine: &Engine, id: IndexId, settings: IndexSettings) {
    let name = format!("index{id}");
    engine.execute(Command::CreateIndex { id, name, settings }).unwrap();
}

/// A write to any index, that expires when it is said.
pub fn write_to(index: IndexId, name: &str, document: &str, expiry: Expiry) -> Mutation {
    let document = Bytes::copy_from_slice(document.as_bytes());
    Mutation::Write { index, key: key(name), document, condition: Condition::Any, expiry }
}

pub fn put_to(engine: &Engine, index: IndexId, name: &str, document: &str) -> u64 {
    put_until(engine, index, name, document, Expiry::Default)
}

pub fn put_until(
    engine: &Engine,
    index: IndexId,
    name: &str,
    document: &str,
    expiry: Expiry,
) -> u64 {
    match one(engine, write_to(index, name, document, expiry)) {
        MutationOutcome::Written(version) => version,
        other => panic!("{name} was not written: {other:?}"),
    }
}

/// Why a mutation was refused.
pub fn refused(engine: &Engine, mutation: Mutation) -> Error {
    match one(engine, mutation) {
        MutationOutcome::Refused(error) => error,
        other => panic!("it was not refused: {other:?}"),
    }
}

/// What lies in an index, by scanning.
pub fn scan_index(engine: &Engine, index: IndexId) -> BTreeMap<String, Document> {
    let mut found = BTreeMap::new();
    let mut after = None;
    loop {
        let page = engine
            .scan(&Scan {
                after: after.clone(),
                max_documents: 64,
                max_bytes: 1 << 20,
                ..whole(index)
            })
            .unwrap();
        for (key, document) in page.items {
            let name = String::from_utf8(key.bytes.to_vec()).unwrap();
            assert!(found.insert(name, document).is_none());
            after = Some(key);
        }
        if !page.more {
            return found;
        }
    }
}

pub type Everything = BTreeMap<IndexId, BTreeMap<String, Document>>;

/// What lies in all indexes; checks that the totals of each, and of the shard, equal this recount.
/// Nothing may be changing, and nothing expired.
pub fn recount(engine: &Engine) -> Everything {
    let stat = engine.stat();
    let mut everything = Everything::new();
    let (mut documents, mut used) = (0, 0);
    for index in &stat.indexes {
        let found = scan_index(engine, index.id);
        let bytes = |(name, document): (&String, &Document)| name.len() + document.bytes.len();
        let counted = (found.len() as u64, found.iter().map(bytes).sum::<usize>() as u64);
        assert_eq!((index.documents, index.used), counted, "index {} against a recount", index.id);
        documents += counted.0;
        used += counted.1;
        everything.insert(index.id, found);
    }
    assert_eq!((stat.documents, stat.used), (documents, used), "the shard against a recount");
    assert_eq!(stat.distribution.iter().sum::<u64>(), documents, "distribution");
    everything
}
