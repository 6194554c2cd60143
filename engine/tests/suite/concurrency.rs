//! Readers beside the writer, with checkpoints so frequent that every hand-over between overlay,
//! cache and index happens all the time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use rand::Rng;
use sherd_engine::{Command, Condition, Engine, MutationOutcome, Options, Outcome};

use crate::common::*;

const KEYS: usize = 40;
const ROUNDS: u64 = 1500;

/// A read that begins after a write was acknowledged sees that write or a later one, and two reads
/// of one thread never go backwards.
fn reads_never_go_back(engine: &Engine) {
    set_up(engine);
    let acknowledged: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    let finished = AtomicBool::new(false);
    let name = |i: usize| format!("key{i}");
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut rng = rand::rng();
                let mut seen = [0; KEYS];
                while !finished.load(Ordering::Acquire) {
                    let i = rng.random_range(0..KEYS);
                    let least = acknowledged[i].load(Ordering::Acquire).max(seen[i]);
                    let found = match get(engine, &name(i)) {
                        Some(document) => document.parse().unwrap(),
                        // Removed in every tenth round: the round before counts.
                        None => continue,
                    };
                    assert!(found >= least, "key{i}: {found} after {least}");
                    seen[i] = found;
                }
            });
        }
        scope.spawn(|| {
            while !finished.load(Ordering::Acquire) {
                let page = engine
                    .scan(&sherd_engine::Scan {
                        index: INDEX,
                        range: (0, RING),
                        after: None,
                        max_documents: 1000,
                        max_bytes: 1 << 20,
                        keys_only: false,
                    })
                    .unwrap();
                assert!(page.items.len() <= KEYS);
                assert!(page.items.windows(2).all(|pair| {
                    (pair[0].0.position, &pair[0].0.bytes) < (pair[1].0.position, &pair[1].0.bytes)
                }));
            }
        });
        let mut rng = rand::rng();
        for round in 1..=ROUNDS {
            let i = rng.random_range(0..KEYS);
            if round % 10 == 0 {
                one(engine, remove(&name(i)));
            } else {
                put(engine, &name(i), &round.to_string());
                acknowledged[i].store(round, Ordering::Release);
            }
        }
        finished.store(true, Ordering::Release);
    });
    contents(engine);
}

fn frequent_checkpoints() -> Options {
    Options { checkpoint_keys: 7, ..options() }
}

#[test]
fn reads_never_go_back_over_the_index_in_memory() {
    let (engine, _) = Machine::default().open_with(frequent_checkpoints()).unwrap();
    reads_never_go_back(&engine);
}

#[test]
fn reads_never_go_back_over_sled() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, _) = Engine::open(dir.path(), frequent_checkpoints()).unwrap();
    reads_never_go_back(&engine);
}

#[test]
fn of_many_writers_that_find_a_key_absent_one_wins() {
    let (engine, _) = Machine::default().open().unwrap();
    set_up(&engine);
    for round in 0..50 {
        let key = format!("key{round}");
        let won: usize = thread::scope(|scope| {
            let writers: Vec<_> = (0..8)
                .map(|writer| {
                    let write = write(&key, &writer.to_string(), Condition::Absent);
                    let engine = &engine;
                    scope.spawn(move || {
                        let command = Command::Mutate { mutations: vec![write], atomic: false };
                        let Outcome::Mutated(outcomes) = engine.execute(command).unwrap() else {
                            panic!("no outcomes");
                        };
                        usize::from(matches!(outcomes[0], MutationOutcome::Written(_)))
                    })
                })
                .collect();
            writers.into_iter().map(|writer| writer.join().unwrap()).sum()
        });
        assert_eq!(won, 1, "{key}");
    }
}
