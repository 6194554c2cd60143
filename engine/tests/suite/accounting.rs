//! Accounting under many writers: whatever they do, whatever policy makes room for them, and
//! wherever the power is cut, totals equal a recount, no limit is exceeded at any moment that can
//! be seen, and the documents remembered for evictions are those that there are.
//!
//! What threads do at what time is not the seed's, so a failure is one of many runs of a seed; it
//! is printed, and `SHERD_ACCOUNTING_SEED` takes it.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sherd_engine::fs::Fault;
use sherd_engine::index::IndexStore;
use sherd_engine::{
    Command, Condition, Engine, Error, Expiry, IndexId, IndexSettings, Mutation, MutationOutcome,
    Options, Outcome, Policy, Result, Stat,
};

use crate::common::*;

const WRITERS: usize = 8;

/// What a writer does between two restarts, where no fault stops it.
const STEPS: u64 = 80;

/// Restarts of each history.
const ROUNDS: u64 = 3;

/// The shard's limit is this at most: the keys there are would need several times as much.
const LIMIT: u64 = 2500;

const INDEXES: [IndexId; 4] = [1, 2, 3, 4];
const KEYS: u32 = 50;
const POLICIES: [Policy; 6] =
    [Policy::Reject, Policy::Lru, Policy::Lfu, Policy::Fifo, Policy::Random, Policy::Ttl];
const SECOND: u64 = 1000;

/// What is shared by those who change limits and those who check them.
#[derive(Default)]
struct Shared {
    /// Odd while the limit of the shard is being changed: an answer is not seen at once.
    changes: AtomicU64,
    steps: AtomicU64,
    finished: AtomicBool,
}

/// The settings of an index: none, a limit of bytes, of documents, and all its own.
fn settings(index: IndexId, rng: &mut StdRng) -> IndexSettings {
    let none = IndexSettings::default();
    match index {
        2 => IndexSettings { max_bytes: Some(rng.random_range(300..700)), ..none },
        3 => IndexSettings { max_documents: Some(rng.random_range(5..15)), ..none },
        4 => IndexSettings {
            max_bytes: Some(rng.random_range(300..700)),
            max_documents: Some(rng.random_range(5..15)),
            policy: Some(POLICIES[rng.random_range(0..POLICIES.len())]),
            ttl: rng.random::<bool>().then_some(2 * SECOND),
        },
        _ => none,
    }
}

/// Checks what can be seen at one moment.
fn check_moment(engine: &Engine, shared: &Shared) -> Stat {
    let before = shared.changes.load(Ordering::SeqCst);
    let limit = engine.assignment().unwrap().limit;
    let stat = engine.stat();
    // Where it was changed meanwhile, which limit was in force is not known.
    let unchanged = before.is_multiple_of(2) && shared.changes.load(Ordering::SeqCst) == before;
    let limit = if unchanged { limit } else { LIMIT };
    assert!(stat.used <= limit, "{} of {limit} bytes", stat.used);
    for index in &stat.indexes {
        let IndexSettings { max_bytes, max_documents, .. } = index.settings;
        assert!(max_bytes.is_none_or(|limit| index.used <= limit), "{index:?}");
        assert!(max_documents.is_none_or(|limit| index.documents <= limit), "{index:?}");
    }
    let sums = (
        stat.indexes.iter().map(|index| index.documents).sum::<u64>(),
        stat.indexes.iter().map(|index| index.used).sum::<u64>(),
        stat.indexes.iter().map(|index| index.counts.evicted).sum::<u64>(),
        stat.indexes.iter().map(|index| index.counts.expired).sum::<u64>(),
    );
    let counts = stat.counts;
    assert_eq!(sums, (stat.documents, stat.used, counts.evicted, counts.expired));
    assert_eq!(stat.distribution.iter().sum::<u64>(), stat.documents);
    stat
}

/// Checks a shard of which nothing changes and nothing has expired.
fn check_still(engine: &Engine) {
    let everything = recount(engine);
    let shards = engine.assignment().unwrap().policy;
    let stat = check_moment(engine, &Shared::default());
    let tracked = stat.indexes.iter().map(|index| {
        let remembers_all =
            !matches!(index.settings.policy.unwrap_or(shards), Policy::Reject | Policy::Ttl);
        let documents = everything[&index.id].values();
        documents.filter(|document| remembers_all || document.expires_at != 0).count() as u64
    });
    assert_eq!(tracked.sum::<u64>(), stat.tracked_documents, "remembered for evictions");
}

fn some_key(rng: &mut StdRng) -> (IndexId, String) {
    let index = INDEXES[rng.random_range(0..INDEXES.len())];
    // Some are asked for more often.
    let most = if rng.random() { KEYS / 5 } else { KEYS };
    (index, format!("key{}", rng.random_range(0..most)))
}

fn some_expiry(rng: &mut StdRng) -> Expiry {
    match rng.random_range(0..6) {
        0..2 => Expiry::Default,
        2 => Expiry::Never,
        // In whole seconds, so that the sweeper sees to all that has expired.
        _ => Expiry::After(rng.random_range(0..6) * SECOND),
    }
}

fn some_write(rng: &mut StdRng) -> Mutation {
    let (index, name) = some_key(rng);
    let condition = match rng.random_range(0..10) {
        0 => Condition::Absent,
        1 => Condition::Present,
        _ => Condition::Any,
    };
    let length = if rng.random_bool(0.02) { 800 } else { rng.random_range(0..60) };
    let document = Bytes::from(vec![b'd'; length]);
    let expiry = some_expiry(rng);
    Mutation::Write { index, key: key(&name), document, condition, expiry }
}

fn some_mutation(engine: &Engine, rng: &mut StdRng) -> Mutation {
    let (index, name) = some_key(rng);
    let key = key(&name);
    match rng.random_range(0..10) {
        0 => Mutation::Remove { index, key, version: None },
        1..3 => match engine.read(index, &key).unwrap() {
            Some(document) => Mutation::Touch {
                index,
                key,
                version: document.version,
                document: document.bytes,
                expiry: some_expiry(rng),
            },
            None => some_write(rng),
        },
        _ => some_write(rng),
    }
}

/// Writes until the steps are done or the disk fails.
fn write_on(engine: &Engine, time: &Time, shared: &Shared, mut rng: StdRng) {
    for _ in 0..STEPS {
        shared.steps.fetch_add(1, Ordering::Relaxed);
        if rng.random_bool(0.01) {
            time.advance(SECOND);
        }
        if rng.random_bool(0.3) {
            let (index, name) = some_key(&mut rng);
            engine.read(index, &key(&name)).unwrap();
            continue;
        }
        let count = if rng.random_bool(0.3) { rng.random_range(2..6) } else { 1 };
        let mutations = (0..count).map(|_| some_mutation(engine, &mut rng)).collect();
        let command = Command::Mutate { mutations, atomic: rng.random() };
        let Ok(outcome) = engine.execute(command) else { return };
        let Outcome::Mutated(outcomes) = outcome else { panic!("{outcome:?}") };
        for outcome in outcomes {
            if let MutationOutcome::Refused(error) = outcome {
                let full = matches!(error, Error::QuotaExceeded { .. } | Error::IndexFull { .. });
                assert!(full, "{error}");
            }
        }
        check_moment(engine, shared);
    }
}

/// Changes limits, and policies where told to, as long as others write.
fn change_limits(engine: &Engine, shared: &Shared, policies: bool, mut rng: StdRng) {
    let mut done = true;
    while done && !shared.finished.load(Ordering::Relaxed) {
        let result = if rng.random() {
            let policy = policies.then(|| POLICIES[rng.random_range(0..POLICIES.len())]);
            let limit = rng.random_range(LIMIT / 2..=LIMIT);
            shared.changes.fetch_add(1, Ordering::SeqCst);
            let result = engine.execute(Command::SetLimit { limit, policy });
            shared.changes.fetch_add(1, Ordering::SeqCst);
            result
        } else {
            let id = INDEXES[rng.random_range(0..INDEXES.len())];
            let settings = settings(id, &mut rng);
            engine.execute(Command::SetIndex { id, settings, force: false })
        };
        done = may_be(&result);
        check_moment(engine, shared);
        // A few changes for some hundred writes.
        let next = shared.steps.load(Ordering::Relaxed) + 30;
        while shared.steps.load(Ordering::Relaxed) < next
            && !shared.finished.load(Ordering::Relaxed)
        {
            thread::yield_now();
        }
    }
}

/// Whether a change of a limit was answered as on a disk that works.
fn may_be(result: &Result<Outcome>) -> bool {
    match result {
        Ok(_) | Err(Error::QuotaExceeded { .. } | Error::IndexFull { .. }) => true,
        Err(Error::LoweringAnother) => panic!("nobody else changes limits"),
        Err(_) => false,
    }
}

/// Has all of them at work, until they are done or the disk fails. Returns what was seen last.
fn work(engine: &Engine, machine: &Machine, time: &Time, policies: bool, seed: u64) -> Stat {
    let mut rng = StdRng::seed_from_u64(seed);
    let shared = Shared::default();
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|_| {
                let rng = StdRng::seed_from_u64(rng.random());
                let shared = &shared;
                scope.spawn(move || write_on(engine, time, shared, rng))
            })
            .collect();
        let changes = StdRng::seed_from_u64(rng.random());
        scope.spawn(|| change_limits(engine, &shared, policies, changes));
        let checker = scope.spawn(|| {
            let mut last = check_moment(engine, &shared);
            while !shared.finished.load(Ordering::Relaxed) {
                let now = check_moment(engine, &shared);
                assert!(now.counts.evicted >= last.counts.evicted);
                assert!(now.counts.expired >= last.counts.expired);
                last = now;
            }
            last
        });
        if rng.random_bool(0.7) {
            let at = rng.random_range(0..STEPS * WRITERS as u64);
            while shared.steps.load(Ordering::Relaxed) < at
                && !writers.iter().all(thread::ScopedJoinHandle::is_finished)
            {
                thread::yield_now();
            }
            let fault = [Fault::Write, Fault::Sync][rng.random_range(0..2)];
            machine.fs.fail(fault, rng.random_range(0..5), ErrorKind::Other);
        }
        let panicked = writers.into_iter().filter_map(|writer| writer.join().err()).count();
        shared.finished.store(true, Ordering::Relaxed);
        assert_eq!(panicked, 0, "writers failed");
        checker.join().unwrap()
    })
}

fn history(policy: Policy, policies: bool, seed: u64) {
    println!("{policy:?}, policies changed: {policies}, seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let (machine, time) = (Machine::default(), Time::default());
    let mut of_start = |time: &Time| Options {
        segment_bytes: 32 << 10,
        checkpoint_keys: rng.random_range(20..200),
        compaction: rng.random(),
        clock: time.clock(),
        ..options()
    };
    let (mut engine, _) = machine.open_with(of_start(&time)).unwrap();
    let mut assignment = assignment(1, &[(0, RING)], LIMIT);
    assignment.policy = policy;
    engine.execute(Command::Assign(assignment)).unwrap();
    let mut rng = StdRng::seed_from_u64(seed + 1);
    for index in INDEXES {
        create_index(&engine, index, settings(index, &mut rng));
    }
    // At the beginning of time nothing has expired: all there is can be counted.
    let beginning = Time::default();
    beginning.set(0);
    for _ in 0..ROUNDS {
        let last = work(&engine, &machine, &time, policies, rng.random());
        machine.fs.heal();
        if engine.stat().poisoned.is_none() {
            wait_until_swept(&engine);
            check_still(&engine);
        }
        drop(engine);
        let survives = [0.0, 0.5, 1.0][rng.random_range(0..3)];
        machine.fs.crash(|| rng.random_bool(survives));
        machine.index.crash(rng.random());
        if rng.random_bool(0.4) {
            machine.index.set_aside().unwrap();
        }
        let (counted, _) = machine.open_with(of_start(&beginning)).unwrap();
        check_still(&counted);
        let counts = counted.stat().counts;
        assert!(counts.evicted >= last.counts.evicted, "what was seen was durable");
        assert!(counts.expired >= last.counts.expired, "what was seen was durable");
        drop(counted);
        engine = machine.open_with(of_start(&time)).unwrap().0;
        wait_until_swept(&engine);
        check_still(&engine);
    }
}

fn wait_until_swept(engine: &Engine) {
    wait_until("what has expired is swept", || {
        let left: usize = INDEXES.iter().map(|&index| scan_index(engine, index).len()).sum();
        engine.stat().documents == left as u64
    });
}

fn seed() -> u64 {
    let given = std::env::var("SHERD_ACCOUNTING_SEED");
    given.map_or_else(|_| u64::from(rand::random::<u32>()), |seed| seed.parse().unwrap())
}

#[test]
fn totals_and_limits_hold_under_reject() {
    history(Policy::Reject, false, seed());
}

#[test]
fn totals_and_limits_hold_under_lru() {
    history(Policy::Lru, false, seed());
}

#[test]
fn totals_and_limits_hold_under_lfu() {
    history(Policy::Lfu, false, seed());
}

#[test]
fn totals_and_limits_hold_under_fifo() {
    history(Policy::Fifo, false, seed());
}

#[test]
fn totals_and_limits_hold_under_random() {
    history(Policy::Random, false, seed());
}

#[test]
fn totals_and_limits_hold_under_ttl() {
    history(Policy::Ttl, false, seed());
}

#[test]
fn totals_and_limits_hold_while_policies_change() {
    history(Policy::Lru, true, seed());
}
