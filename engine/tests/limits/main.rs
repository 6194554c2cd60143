//! Limits and evictions: what goes when there is no room, and that nothing else does.
//!
//! A limit holds at every LSN. Whatever is removed for it is removed in the batch of the write that
//! asked for it and before it, by the policy that was promised, and comes back where that write is
//! not done after all.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;
mod lowering;
mod policies;
mod scouted;

use std::collections::{BTreeSet, VecDeque};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use common::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sherd_engine::fs::Fault;
use sherd_engine::index::IndexStore;
use sherd_engine::{
    Command, Condition, Defect, Defects, Engine, Error, Expiry, IndexId, IndexSettings, Key,
    Mutation, MutationOutcome, Options, Outcome, Policy, Result,
};

const OTHER: IndexId = 2;

/// How many documents have room where a limit is met; each has [`DOCUMENT_BYTES`].
const ROOM: usize = 10;

/// Of a key of two bytes and a document of eight.
const DOCUMENT_BYTES: u64 = 10;

/// What the tests of policies store: with a key of two bytes, [`DOCUMENT_BYTES`].
const DOCUMENT: &str = "document";

/// The three limits that there are.
#[derive(Clone, Copy, Debug)]
enum Bound {
    Shard,
    IndexBytes,
    IndexDocuments,
}

const BOUNDS: [Bound; 3] = [Bound::Shard, Bound::IndexBytes, Bound::IndexDocuments];

/// Gives the shard the whole ring.
fn assign(engine: &Engine, limit: u64, policy: Policy) {
    let mut assignment = assignment(1, &[(0, RING)], limit);
    assignment.policy = policy;
    engine.execute(Command::Assign(assignment)).unwrap();
}

/// An engine with one index that has room for [`ROOM`] documents.
fn bounded(machine: &Machine, bound: Bound, policy: Policy) -> Engine {
    let (engine, _) = machine.open().unwrap();
    let most = ROOM as u64 * DOCUMENT_BYTES;
    match bound {
        Bound::Shard => {
            assign(&engine, most, policy);
            create_index(&engine, INDEX, IndexSettings::default());
        }
        Bound::IndexBytes => {
            assign(&engine, u64::MAX, policy);
            let settings = IndexSettings { max_bytes: Some(most), ..IndexSettings::default() };
            create_index(&engine, INDEX, settings);
        }
        Bound::IndexDocuments => {
            assign(&engine, u64::MAX, policy);
            let max_documents = Some(ROOM as u64);
            create_index(&engine, INDEX, IndexSettings { max_documents, ..Default::default() });
        }
    }
    engine
}

/// Fills an index up to its limit, with `k0` to `k9` in this order.
fn fill(engine: &Engine) {
    for i in 0..ROOM {
        put(engine, &format!("k{i}"), DOCUMENT);
    }
    assert_eq!(engine.stat().counts.evicted, 0, "there was room for all of them");
}

fn names(engine: &Engine) -> BTreeSet<String> {
    recount(engine).remove(&INDEX).unwrap().into_keys().collect()
}

/// Which of `k0` to `k9` are gone.
fn gone(engine: &Engine) -> Vec<usize> {
    let left = names(engine);
    (0..ROOM).filter(|i| !left.contains(&format!("k{i}"))).collect()
}

fn evicted(engine: &Engine) -> u64 {
    let stat = engine.stat();
    assert_eq!(stat.indexes.iter().map(|of| of.counts.evicted).sum::<u64>(), stat.counts.evicted);
    stat.counts.evicted
}

/// Each limit with a policy, full.
fn at_each_limit(policy: Policy, check: impl Fn(&Engine, Bound)) {
    for bound in BOUNDS {
        let engine = bounded(&Machine::default(), bound, policy);
        fill(&engine);
        check(&engine, bound);
    }
}

/// Of many documents the oldest is not sought, but one of the oldest.
fn mostly_newer(left: &BTreeSet<String>, than: usize) {
    let newer = left.iter().filter(|name| name.parse().is_ok_and(|i: usize| i >= than)).count();
    assert!(newer >= left.len() * 9 / 10, "{newer} of {}", left.len());
}

// In the log.

/// A record of the log: its kind, whether it is the last of its group, and, of a removal, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Logged {
    kind: u8,
    last_of_group: bool,
    reason: u8,
}

const PUT: u8 = 1;
const REMOVE: u8 = 2;
const EVICTED: u8 = 1;

/// All records, in the order of the log (`docs/format.md`).
fn log(machine: &Machine) -> Vec<Logged> {
    let mut paths = machine.fs.paths();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    paths.sort();
    let mut records = Vec::new();
    for path in paths {
        let bytes = machine.fs.bytes(&path).unwrap();
        let mut offset = 64;
        while let Some(record) = bytes.get(offset..offset + 32) {
            let length = u32::from_le_bytes(record[4..8].try_into().unwrap()) as usize;
            if length < 32 {
                break;
            }
            let kind = record[28];
            let reason = if kind == REMOVE { bytes[offset + 32 + 66] } else { 0 };
            records.push(Logged { kind, last_of_group: record[29] & 1 == 1, reason });
            offset += length;
        }
    }
    records
}

/// Document that takes the room of five others: `k` and 49 bytes.
fn large() -> Mutation {
    write("k", &"l".repeat(49), Condition::Any)
}

#[test]
fn evictions_are_in_the_log_before_their_write_and_in_its_group() {
    let machine = Machine::default();
    let engine = bounded(&machine, Bound::Shard, Policy::Fifo);
    fill(&engine);
    assert!(matches!(one(&engine, large()), MutationOutcome::Written(_)));
    let log = log(&machine);
    let eviction = Logged { kind: REMOVE, last_of_group: false, reason: EVICTED };
    let write = Logged { kind: PUT, last_of_group: true, reason: 0 };
    assert_eq!(log[log.len() - 6..], [eviction, eviction, eviction, eviction, eviction, write]);
    assert_eq!(gone(&engine), [0, 1, 2, 3, 4]);
}

#[test]
fn a_power_cut_keeps_a_write_and_its_evictions_or_neither() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut found = BTreeSet::new();
    for policy in [Policy::Lru, Policy::Lfu, Policy::Fifo, Policy::Random] {
        for _ in 0..40 {
            let machine = Machine::default();
            // One segment: its end is not what this is about.
            let options = Options { segment_bytes: 64 << 10, ..options() };
            let (engine, _) = machine.open_with(options).unwrap();
            assign(&engine, 20 * 102, policy);
            create_index(&engine, INDEX, IndexSettings::default());
            for i in 0..20 {
                put(&engine, &format!("k{i:02}"), &"d".repeat(99));
            }
            if rng.random() {
                engine.checkpoint().unwrap();
            }
            let before = recount(&engine);
            // The batch reaches several sectors, none of them synced.
            machine.fs.fail(Fault::Sync, 0, ErrorKind::Other);
            let large = write("k", &"l".repeat(999), Condition::Any);
            let result = engine.execute(Command::Mutate { mutations: vec![large], atomic: false });
            assert!(matches!(result, Err(Error::OutcomeUnknown { .. })), "{result:?}");
            assert_eq!(recount(&engine), before, "nothing is seen of it");
            drop(engine);
            machine.fs.heal();
            // Mostly all or nothing, so that both are met.
            let survives = [0.0, 0.5, 1.0][rng.random_range(0..3)];
            machine.fs.crash(|| rng.random_bool(survives));
            machine.index.crash(rng.random());
            if rng.random() {
                machine.index.set_aside().unwrap();
            }
            let (engine, _) = machine.open().unwrap();
            let after = recount(&engine);
            let written = after[&INDEX].contains_key("k");
            found.insert(written);
            if written {
                assert_eq!((after[&INDEX].len(), evicted(&engine)), (11, 10));
            } else {
                assert_eq!(after, before);
                assert_eq!(evicted(&engine), 0);
            }
        }
    }
    assert_eq!(found.len(), 2, "there was no choice");
}

#[test]
fn an_acknowledged_eviction_is_there_after_a_power_cut_with_and_without_the_index() {
    for (policy, index_lost) in [
        (Policy::Lru, false),
        (Policy::Lfu, true),
        (Policy::Fifo, false),
        (Policy::Random, true),
        (Policy::Random, false),
    ] {
        let machine = Machine::default();
        let engine = bounded(&machine, Bound::Shard, policy);
        for i in 0..100 {
            put(&engine, &format!("{i:02}"), DOCUMENT);
            if i == 50 {
                engine.checkpoint().unwrap();
            }
        }
        let (before, stat) = (recount(&engine), engine.stat());
        assert_eq!((stat.documents, evicted(&engine)), (10, 90));
        drop(engine);
        machine.fs.crash(|| false);
        machine.index.crash(false);
        if index_lost {
            machine.index.set_aside().unwrap();
        }
        let (engine, recovery) = machine.open().unwrap();
        assert_eq!(recovery.rebuilt.is_some(), index_lost, "{recovery:?}");
        assert_eq!(recount(&engine), before);
        assert_eq!(evicted(&engine), 90);
        assert_eq!(engine.stat().indexes[0].documents, stat.indexes[0].documents);
    }
}

// What is not evicted.

#[test]
fn a_write_larger_than_the_limit_itself_is_refused_and_evicts_nothing() {
    for policy in [Policy::Lru, Policy::Lfu, Policy::Fifo, Policy::Random, Policy::Ttl] {
        for bound in [Bound::Shard, Bound::IndexBytes] {
            let machine = Machine::default();
            let engine = bounded(&machine, bound, policy);
            fill_until(&engine, Expiry::After(3_600_000));
            let records = log(&machine).len();
            // 101 bytes, where 100 are allowed: anew, and in the place of 10.
            for name in ["n0", "k3"] {
                let error = refused(&engine, write(name, &"x".repeat(99), Condition::Any));
                let full = matches!(error, Error::QuotaExceeded { .. } | Error::IndexFull { .. });
                assert!(full, "{error}");
            }
            assert_eq!((gone(&engine), evicted(&engine)), (vec![], 0), "{policy:?} {bound:?}");
            assert_eq!(log(&machine).len(), records, "not a word of it in the log");
            // One byte less has room, once all the others are gone.
            put(&engine, "n0", &"x".repeat(98));
            assert_eq!(names(&engine).into_iter().collect::<Vec<_>>(), ["n0"]);
        }
    }
}

fn fill_until(engine: &Engine, expiry: Expiry) {
    for i in 0..ROOM {
        put_until(engine, INDEX, &format!("k{i}"), DOCUMENT, expiry);
    }
}

/// Where not even all that may go makes room, none of it goes.
#[test]
fn a_write_that_is_refused_in_the_end_evicts_nothing() {
    let machine = Machine::default();
    // Of the shard's ten documents, seven never expire.
    let engine = bounded(&machine, Bound::Shard, Policy::Ttl);
    for i in 0..ROOM {
        let expiry = if i < 3 { Expiry::After(3_600_000) } else { Expiry::Never };
        put_until(&engine, INDEX, &format!("k{i}"), DOCUMENT, expiry);
    }
    let records = log(&machine).len();
    for _ in 0..2 {
        refused(&engine, write("n0", &"x".repeat(38), Condition::Any));
        assert_eq!((gone(&engine), evicted(&engine)), (vec![], 0));
    }
    assert_eq!(log(&machine).len(), records);
    assert_eq!(engine.stat().counts.rejected, 2);
    // They are still known, in their order.
    put(&engine, "n0", &"x".repeat(28));
    assert_eq!(gone(&engine), [0, 1, 2]);
}

#[test]
fn an_index_with_a_policy_or_a_limit_of_its_own_evicts_from_itself_alone() {
    let own = [
        IndexSettings { policy: Some(Policy::Fifo), ..IndexSettings::default() },
        IndexSettings { max_bytes: Some(1 << 20), ..IndexSettings::default() },
        IndexSettings { max_documents: Some(1000), ..IndexSettings::default() },
    ];
    for settings in own {
        let (engine, _) = Machine::default().open().unwrap();
        assign(&engine, 100, Policy::Fifo);
        create_index(&engine, INDEX, IndexSettings::default());
        create_index(&engine, OTHER, settings);
        // The five of the shard's policy are the oldest.
        for i in 0..5 {
            put(&engine, &format!("k{i}"), DOCUMENT);
        }
        for i in 0..20 {
            put_to(&engine, OTHER, &format!("{i:02}"), DOCUMENT);
        }
        let all = recount(&engine);
        assert_eq!(all[&INDEX].len(), 5, "{settings:?}");
        assert_eq!(all[&OTHER].keys().collect::<Vec<_>>(), ["15", "16", "17", "18", "19"]);
        // And the other way round.
        for i in 5..20 {
            put(&engine, &format!("{i:02}"), DOCUMENT);
        }
        let all = recount(&engine);
        assert_eq!(all[&INDEX].keys().collect::<Vec<_>>(), ["15", "16", "17", "18", "19"]);
        assert_eq!(all[&OTHER].len(), 5, "{settings:?}");
    }
}

#[test]
fn indexes_without_settings_of_their_own_make_room_for_each_other() {
    let (engine, _) = Machine::default().open().unwrap();
    assign(&engine, 100, Policy::Fifo);
    create_index(&engine, INDEX, IndexSettings::default());
    create_index(&engine, OTHER, IndexSettings { ttl: Some(3_600_000), ..Default::default() });
    for i in 0..10 {
        put(&engine, &format!("k{i}"), DOCUMENT);
    }
    for i in 0..4 {
        put_to(&engine, OTHER, &format!("o{i}"), DOCUMENT);
    }
    let all = recount(&engine);
    assert_eq!(all[&INDEX].keys().collect::<Vec<_>>(), ["k4", "k5", "k6", "k7", "k8", "k9"]);
    assert_eq!(all[&OTHER].len(), 4);
}

#[test]
fn a_cache_beside_an_index_that_rejects_never_touches_it() {
    let (engine, _) = Machine::default().open().unwrap();
    assign(&engine, 100, Policy::Lru);
    let settings = IndexSettings { policy: Some(Policy::Reject), ..IndexSettings::default() };
    create_index(&engine, INDEX, settings);
    create_index(&engine, OTHER, IndexSettings::default());
    fill(&engine);
    // The shard is full, and nothing of it may go.
    refused(&engine, write_to(OTHER, "o0", DOCUMENT, Expiry::Default));
    refused(&engine, write("n0", DOCUMENT, Condition::Any));
    assert_eq!((names(&engine).len(), evicted(&engine)), (10, 0));
}

#[test]
fn an_overwrite_in_a_full_shard_evicts_for_what_it_grows_and_never_itself() {
    at_each_limit(Policy::Fifo, |engine, bound| {
        put(engine, "k0", "overwrit");
        put(engine, "k1", "less");
        assert_eq!((gone(engine), evicted(engine)), (vec![], 0), "{bound:?}");
        if matches!(bound, Bound::IndexDocuments) {
            // However large it is, it stays one document.
            put(engine, "k2", &"l".repeat(1000));
            assert_eq!((gone(engine), evicted(engine)), (vec![], 0));
            return;
        }
        // 96 of 100 bytes are used. `k2` is the oldest, and it grows by 14: one other has to go.
        put(engine, "k2", &"m".repeat(22));
        assert_eq!((gone(engine), evicted(engine)), (vec![3], 1), "{bound:?}");
        assert_eq!(get(engine, "k2").unwrap(), "m".repeat(22));
        // To the limit itself: all others go.
        put(engine, "k2", &"l".repeat(98));
        assert_eq!(names(engine).into_iter().collect::<Vec<_>>(), ["k2"]);
        assert_eq!(evicted(engine), 9, "and not itself, to be written anew");
    });
}

/// An overwrite needs no more than it grows by, also where it is so large that evictions for it
/// would be made beforehand.
#[test]
fn a_large_overwrite_among_small_documents_evicts_none_of_them() {
    let options = Options { segment_bytes: 4 << 20, ..options() };
    let (engine, _) = Machine::default().open_with(options).unwrap();
    let (small, large) = (2000, 100_000);
    assign(&engine, small * 10 + large, Policy::Fifo);
    create_index(&engine, INDEX, IndexSettings::default());
    put(&engine, "large", &"a".repeat(large as usize - 5));
    for chunk in (0..small).collect::<Vec<_>>().chunks(500) {
        let write = |i| write(&format!("{i:04}"), "docume", Condition::Any);
        mutate(&engine, chunk.iter().map(write).collect(), false);
    }
    assert_eq!(engine.stat().used, small * 10 + large);
    put(&engine, "large", &"b".repeat(large as usize - 5));
    assert_eq!((engine.stat().documents, evicted(&engine)), (small + 1, 0));
    // One that fails needs nothing at all.
    let absent = write("large", &"c".repeat(large as usize - 5), Condition::Absent);
    assert!(matches!(one(&engine, absent), MutationOutcome::ConditionFailed(Some(_))));
    assert_eq!((engine.stat().documents, evicted(&engine)), (small + 1, 0));
}

/// A write may need more evictions than one batch takes.
#[test]
fn a_large_document_takes_the_place_of_thousands() {
    let machine = Machine::default();
    let options = Options { segment_bytes: 4 << 20, ..options() };
    let (engine, _) = machine.open_with(options.clone()).unwrap();
    assign(&engine, 30_000, Policy::Fifo);
    create_index(&engine, INDEX, IndexSettings::default());
    for chunk in (0..3000).collect::<Vec<_>>().chunks(500) {
        let write = |i| write(&format!("{i:04}"), "docume", Condition::Any);
        mutate(&engine, chunk.iter().map(write).collect(), false);
    }
    put(&engine, "large", &"l".repeat(25_000 - 5));
    let left = names(&engine);
    assert_eq!((left.len(), evicted(&engine)), (501, 2500));
    assert!(left.contains("large"));
    mostly_newer(&left, 1500);
    drop(engine);
    machine.index.set_aside().unwrap();
    let (engine, _) = machine.open_with(options).unwrap();
    assert_eq!(names(&engine), left);
}

/// How many go cannot be told from the mean: the oldest may be the smallest by far. The writes of a
/// command have room in its batch all the same.
#[test]
fn a_write_evicts_as_many_small_documents_as_it_takes() {
    for atomic in [false, true] {
        let machine = Machine::default();
        let (engine, _) = machine.open().unwrap();
        let (small, large) = (300, 10);
        assign(&engine, small * 4 + large * 20_000, Policy::Fifo);
        create_index(&engine, INDEX, IndexSettings::default());
        for i in 0..small {
            put(&engine, &format!("{i:04}"), "");
        }
        for i in 0..large {
            put(&engine, &format!("large{i}"), &"l".repeat(20_000 - 6));
        }
        assert_eq!(engine.stat().used, small * 4 + large * 20_000);
        let commands = vec![
            write("k", &"k".repeat(999), Condition::Any),
            write("large0", "m", Condition::Any),
        ];
        let outcomes = mutate(&engine, commands, atomic);
        assert!(
            matches!(outcomes[..], [MutationOutcome::Written(_), MutationOutcome::Written(_)]),
            "{outcomes:?}"
        );
        assert_eq!((evicted(&engine), engine.stat().counts.rejected), (250, 0));
        let before = recount(&engine);
        drop(engine);
        machine.index.set_aside().unwrap();
        let (engine, _) = machine.open().unwrap();
        assert_eq!(recount(&engine), before);
    }
}

#[test]
fn an_atomic_group_that_fails_after_evicting_evicts_nothing() {
    for policy in [Policy::Lru, Policy::Lfu, Policy::Fifo, Policy::Random] {
        let machine = Machine::default();
        let engine = bounded(&machine, Bound::Shard, policy);
        fill(&engine);
        let (before, records) = (recount(&engine), log(&machine).len());
        for _ in 0..5 {
            let outcomes = mutate(
                &engine,
                vec![
                    write("n0", DOCUMENT, Condition::Absent),
                    write("n1", &"x".repeat(38), Condition::Absent),
                    write("n2", DOCUMENT, Condition::Present),
                ],
                true,
            );
            assert!(matches!(
                outcomes[..],
                [
                    MutationOutcome::Abandoned,
                    MutationOutcome::Abandoned,
                    MutationOutcome::ConditionFailed(None)
                ]
            ));
            assert_eq!(recount(&engine), before, "{policy:?}");
            assert_eq!((evicted(&engine), log(&machine).len()), (0, records));
            assert_eq!(engine.stat().tracked_documents, 10);
        }
        // The residents know all ten again: all of them can go, and none twice.
        for i in 0..10 {
            put(&engine, &format!("m{i}"), DOCUMENT);
            assert_eq!((engine.stat().documents, evicted(&engine)), (10, i + 1), "{policy:?}");
        }
        assert_eq!(engine.stat().tracked_documents, 10);
    }
}

/// Back in their places, and not as if they had just been written.
#[test]
fn a_failed_atomic_group_leaves_the_order_of_evictions() {
    for policy in [Policy::Lru, Policy::Fifo] {
        let engine = bounded(&Machine::default(), Bound::Shard, policy);
        fill(&engine);
        let group =
            vec![write("n0", &"x".repeat(28), Condition::Any), write("k9", "", Condition::Absent)];
        let outcomes = mutate(&engine, group, true);
        assert!(matches!(outcomes[1], MutationOutcome::ConditionFailed(Some(_))), "{outcomes:?}");
        for i in 0..2 {
            put(&engine, &format!("n{i}"), DOCUMENT);
        }
        assert_eq!(gone(&engine), [0, 1], "{policy:?}");
    }
}

#[test]
fn an_atomic_group_that_succeeds_evicts_for_all_of_it() {
    let machine = Machine::default();
    let engine = bounded(&machine, Bound::Shard, Policy::Fifo);
    fill(&engine);
    let group = (0..4).map(|i| write(&format!("n{i}"), DOCUMENT, Condition::Absent)).collect();
    mutate(&engine, group, true);
    assert_eq!(gone(&engine), [0, 1, 2, 3]);
    let log = log(&machine);
    let group = &log[log.len() - 8..];
    assert_eq!(group.iter().filter(|record| record.last_of_group).count(), 1, "{group:?}");
}
