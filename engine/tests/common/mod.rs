//! What the engine's tests share: short names for commands, and a recount.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of this module")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sherd_engine::fs::SimFs;
use sherd_engine::index::MemoryStore;
use sherd_engine::{
    Assignment, Command, Condition, Engine, Expiry, IndexSettings, Key, Mutation, MutationOutcome,
    Options, Outcome, Policy, Recovery, Result, Scan,
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
        Outcome::Done => panic!("a mutation was answered as a control command"),
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

/// All documents, by scanning; checks their order, and that totals equal a recount.
pub fn contents(engine: &Engine) -> BTreeMap<String, String> {
    let mut contents = BTreeMap::new();
    let mut after: Option<Key> = None;
    let mut used = 0;
    loop {
        let page = engine
            .scan(&Scan {
                index: INDEX,
                range: (0, RING),
                after: after.clone(),
                max_documents: 7,
                max_bytes: 1 << 20,
                keys_only: false,
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
