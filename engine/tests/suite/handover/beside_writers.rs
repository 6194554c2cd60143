//! Imports while others write at the target: each finds all of its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sherd_engine::{Condition, Document, Expiry, Import, Imported, Key, Mutation, MutationOutcome};

use super::shards::*;
use crate::common::*;

/// What comes goes with the batches of those who write at the target: with groups that fail, removals, and LSNs
/// that skip between them.
#[test]
fn who_writes_beside_what_comes_finds_all_of_it_and_so_does_the_new_owner() {
    const WRITERS: u32 = 3;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let time = Time::default();
    let mut target = Shard::new("away", &time, &[(0, MIDDLE)]);
    target.receive();
    let stopped = AtomicBool::new(false);
    let (mut written, mut brought) = (BTreeMap::new(), BTreeMap::new());
    std::thread::scope(|scope| {
        let (engine, stopped) = (target.engine(), &stopped);
        let write = move |writer: u32| {
            let mut rng = StdRng::seed_from_u64(seed + u64::from(writer));
            let mut model: BTreeMap<Bytes, String> = BTreeMap::new();
            for round in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let key = |i: u32| Key {
                    position: i * 1000 + writer,
                    bytes: format!("{writer}-{i}").into(),
                };
                let [one, other] = [(); 2].map(|()| key(rng.random_range(0..50)));
                let put = |key: &Key, condition| Mutation::Write {
                    index: 1,
                    key: key.clone(),
                    document: format!("{writer} {round}").into(),
                    condition,
                    expiry: Expiry::Default,
                };
                if rng.random_bool(0.3) {
                    let remove = Mutation::Remove { index: 1, key: one.clone(), version: None };
                    mutate(engine, vec![remove], false);
                    model.remove(&one.bytes);
                    continue;
                }
                // Of two, the second may fail, and the first with it.
                let condition =
                    if rng.random() { Condition::Any } else { Condition::Version(u64::MAX) };
                let group = vec![put(&one, Condition::Any), put(&other, condition)];
                let outcomes = mutate(engine, group, true);
                if outcomes.iter().all(|it| matches!(it, MutationOutcome::Written(_))) {
                    model.insert(one.bytes, format!("{writer} {round}"));
                    model.insert(other.bytes, format!("{writer} {round}"));
                }
            }
            model
        };
        let writers: Vec<_> =
            (1..=WRITERS).map(|writer| scope.spawn(move || write(writer))).collect();
        let mut rng = StdRng::seed_from_u64(seed);
        let mut version = 1;
        for round in 0..300 {
            // Now and then so far ahead that LSNs skip.
            version += if round % 50 == 49 { 1 << 24 } else { rng.random_range(1..10) };
            let mut documents = Vec::new();
            for i in 0..rng.random_range(1..20) {
                let key = place(rng.random_range(0..300) * 2 + 1);
                let (index, version) = (1, version + i);
                if rng.random_bool(0.2) {
                    brought.remove(&key.bytes);
                    documents.push(Imported::Removed { index, key, version });
                } else {
                    let text = format!("{round} {i}");
                    brought.insert(key.bytes.clone(), text.clone());
                    let document = text.into();
                    documents.push(Imported::Put { index, key, version, expires_at: 0, document });
                }
            }
            version += documents.len() as u64;
            let (id, note) = (MOVE.to_owned(), Vec::new());
            engine.import(Import { id, documents, whole: None, as_of: version, note }).unwrap();
            if round % 60 == 30 {
                engine.checkpoint().unwrap();
            }
        }
        stopped.store(true, Ordering::Relaxed);
        for writer in writers {
            written.extend(writer.join().unwrap());
        }
    });
    let documents = (written.len() + brought.len()) as u64;
    let texts = |target: &Shard| -> BTreeMap<Bytes, String> {
        let found = scan_index(target.engine(), 1).into_iter();
        let text = |document: Document| String::from_utf8(document.bytes.to_vec()).unwrap();
        found.map(|(key, document)| (Bytes::from(key), text(document))).collect()
    };
    target.assign(2, &[(0, RING)]).unwrap();
    let expected: BTreeMap<_, _> = written.into_iter().chain(brought).collect();
    for index_lost in [false, true] {
        assert_eq!(target.engine().stat().documents, documents);
        assert_eq!(texts(&target), expected);
        target.cut_power(index_lost);
    }
    assert_eq!(texts(&target), expected);
}
