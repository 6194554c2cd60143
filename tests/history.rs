//! The checker of linearizability itself: what is right passes, and what is wrong is found.
//!
//! Histories made by hand say what each call and answer means. Simulated ones, of a store in memory
//! that is right, must all pass; with a mistake in them they must not. On small histories, right
//! and wrong, the checker agrees with one that tries every order without any cleverness.
//! `SHERD_HISTORY_SEED` repeats a run.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use sherd_client::Condition;
use support::from_environment;
use support::history::{Answer, Call, History, MUTATIONS, Operation, check};
use support::load::draw;

fn rng() -> StdRng {
    let seed = from_environment("SHERD_HISTORY_SEED").unwrap_or_else(rand::random);
    println!("seed {seed}");
    StdRng::seed_from_u64(seed)
}

/// An operation on the key `k`, between two moments in milliseconds.
fn at(client: usize, when: Range<u64>, call: Call, answer: Answer) -> Operation {
    let [invoked, answered] = [when.start, when.end].map(Duration::from_millis);
    Operation { client, key: "k".into(), call, invoked, answer, answered }
}

fn write(value: u64, condition: Condition) -> Call {
    Call::Write { value, condition }
}

fn any(value: u64) -> Call {
    write(value, Condition::Any)
}

fn written(version: u64) -> Answer {
    Answer::Written { version }
}

fn found(value: u64, version: u64) -> Answer {
    Answer::Found { value, version }
}

fn removed(version: u64) -> Answer {
    Answer::Removed { version }
}

fn failed(version: impl Into<Option<u64>>) -> Answer {
    Answer::ConditionFailed { version: version.into() }
}

const REMOVE: Call = Call::Remove { version: None };

#[test]
fn histories_that_are_right_pass() {
    use Answer::{Missing, Refused, There, Unknown};
    use Call::{Has, Pop, Read};
    let rights: [(&str, History); 14] = [
        (
            "one after the other",
            vec![
                at(0, 0..1, Read, Missing),
                at(0, 2..3, write(1, Condition::Absent), written(4)),
                at(0, 4..5, Has, There { version: 4 }),
                at(0, 6..7, write(2, Condition::Version(4)), written(6)),
                at(0, 8..9, write(3, Condition::Absent), failed(6)),
                at(0, 10..11, write(4, Condition::Version(4)), failed(6)),
                at(0, 12..13, Call::Remove { version: Some(4) }, failed(6)),
                at(0, 14..15, Pop, found(2, 6)),
                at(0, 16..17, write(5, Condition::Present), failed(None)),
                at(0, 18..19, Call::Remove { version: Some(6) }, Missing),
                at(0, 20..21, any(6), written(8)),
                at(0, 22..23, REMOVE, removed(9)),
                at(0, 24..25, Read, Missing),
            ],
        ),
        (
            "reads beside a write find either document",
            vec![
                at(0, 0..1, any(1), written(1)),
                at(0, 2..10, any(2), written(2)),
                at(1, 3..5, Read, found(1, 1)),
                at(2, 4..6, Read, found(2, 2)),
                at(3, 7..9, Read, found(2, 2)),
            ],
        ),
        (
            "writes at the same time come in the order of their versions",
            vec![
                at(0, 0..10, any(1), written(2)),
                at(1, 0..10, any(2), written(1)),
                at(2, 11..12, Read, found(1, 2)),
            ],
        ),
        (
            "of two pops at the same time one gets the document",
            vec![
                at(0, 0..1, any(1), written(1)),
                at(1, 2..4, Pop, found(1, 1)),
                at(2, 2..4, Pop, Missing),
            ],
        ),
        (
            "an unknown outcome that never was",
            vec![
                at(0, 0..1, any(1), written(1)),
                at(1, 2..3, any(2), Unknown),
                at(2, 2..3, Pop, Unknown),
                at(0, 8..9, Read, found(1, 1)),
            ],
        ),
        (
            "one that was at once",
            vec![
                at(0, 0..1, any(1), written(1)),
                at(1, 2..4, any(2), Unknown),
                at(2, 3..4, Read, found(2, 2)),
                at(0, 8..9, any(3), written(3)),
            ],
        ),
        (
            "one that was long after its client was told",
            vec![
                at(1, 0..1, any(1), Unknown),
                at(0, 2..3, any(2), written(1)),
                at(0, 4..5, Read, found(2, 1)),
                at(0, 6..7, Read, found(1, 2)),
            ],
        ),
        (
            "one that removed",
            vec![
                at(0, 0..1, any(1), written(1)),
                at(1, 2..3, Call::Remove { version: Some(1) }, Unknown),
                at(0, 4..5, Read, found(1, 1)),
                at(0, 6..7, write(2, Condition::Absent), written(3)),
            ],
        ),
        (
            "two that explain something together only",
            vec![
                at(0, 0..1, any(1), Unknown),
                at(1, 0..1, write(2, Condition::Present), Unknown),
                at(2, 2..3, Read, found(2, 2)),
            ],
        ),
        (
            "the version of an unknown outcome is seen before its value",
            vec![
                at(0, 0..1, any(1), Unknown),
                at(0, 0..1, any(2), Unknown),
                at(1, 2..3, Has, There { version: 7 }),
                at(1, 4..5, write(3, Condition::Absent), failed(7)),
                at(1, 6..7, Read, found(2, 7)),
            ],
        ),
        (
            "an unknown outcome overwritten without anyone having seen it",
            vec![
                at(0, 0..1, any(1), Unknown),
                at(1, 2..3, REMOVE, removed(2)),
                at(1, 4..5, any(3), written(3)),
            ],
        ),
        (
            "what was refused did not happen",
            vec![
                at(0, 0..1, any(1), Refused),
                at(0, 2..3, Read, Missing),
                at(0, 4..5, write(2, Condition::Absent), written(1)),
            ],
        ),
        (
            "answers at the instant of the next call say nothing of their order",
            vec![at(0, 0..1, Read, found(1, 1)), at(1, 1..2, any(1), written(1))],
        ),
        ("none", Vec::new()),
    ];
    for (name, history) in rights {
        check(&history).unwrap_or_else(|violation| panic!("{name}: {violation}"));
    }
}

#[test]
fn histories_that_are_wrong_are_found() {
    use Answer::{Missing, Refused, Unknown};
    use Call::{Has, Pop, Read};
    let first = || at(0, 0..1, any(1), written(1));
    let second = || at(0, 2..3, any(2), written(2));
    let wrongs: [(&str, History); 21] = [
        ("a stale read", vec![first(), second(), at(1, 4..5, Read, found(1, 1))]),
        (
            "a read goes back beside a write that it overlaps",
            vec![
                first(),
                at(0, 2..20, any(2), written(2)),
                at(1, 3..5, Read, found(2, 2)),
                at(2, 6..8, Read, found(1, 1)),
            ],
        ),
        ("a write is lost", vec![first(), at(1, 4..5, Read, Missing)]),
        (
            "a write is lost before the next one",
            vec![first(), at(1, 4..5, write(2, Condition::Absent), written(2))],
        ),
        ("a has does not see a write", vec![first(), at(1, 4..5, Has, Missing)]),
        (
            "a removed document is back",
            vec![first(), at(0, 2..3, REMOVE, removed(2)), at(1, 4..5, Read, found(1, 1))],
        ),
        (
            "a popped document is back",
            vec![
                first(),
                at(0, 2..3, Pop, found(1, 1)),
                at(1, 4..5, Read, Missing),
                at(1, 6..7, Read, found(1, 1)),
            ],
        ),
        (
            "a document is popped twice",
            vec![first(), at(1, 2..5, Pop, found(1, 1)), at(2, 3..6, Pop, found(1, 1))],
        ),
        (
            "a pop returns what was overwritten",
            vec![first(), second(), at(1, 4..5, Pop, found(1, 1))],
        ),
        (
            "a version goes back",
            vec![at(0, 0..1, any(1), written(5)), at(0, 2..3, any(2), written(4))],
        ),
        (
            "a version goes back over a removal",
            vec![
                at(0, 0..1, any(1), written(5)),
                at(0, 2..3, REMOVE, removed(9)),
                at(0, 4..5, any(2), written(7)),
            ],
        ),
        (
            "a version goes back over a pop",
            vec![
                at(0, 0..1, any(1), written(5)),
                at(0, 2..3, Pop, found(1, 5)),
                at(0, 4..5, any(2), written(6)),
            ],
        ),
        ("a version twice", vec![first(), at(0, 2..3, any(2), written(1))]),
        ("a document with another version", vec![first(), at(1, 2..3, Read, found(1, 2))]),
        (
            "a conditional write against a wrong version",
            vec![first(), second(), at(1, 4..5, write(3, Condition::Version(1)), written(3))],
        ),
        (
            "two writes against one version",
            vec![
                first(),
                at(1, 2..5, write(2, Condition::Version(1)), written(2)),
                at(2, 2..5, write(3, Condition::Version(1)), written(3)),
            ],
        ),
        (
            "a condition fails that holds",
            vec![first(), at(1, 2..3, write(2, Condition::Version(1)), failed(1))],
        ),
        ("a document that nobody wrote", vec![first(), at(1, 2..3, Read, found(9, 9))]),
        (
            "what was refused is there",
            vec![at(0, 0..1, any(1), Refused), at(1, 2..3, Read, found(1, 1))],
        ),
        (
            "an unknown outcome before its invocation",
            vec![at(1, 0..1, Read, found(1, 1)), at(0, 2..3, any(1), Unknown)],
        ),
        (
            "an unknown outcome has two versions",
            vec![
                at(0, 0..1, any(1), Unknown),
                at(1, 2..3, Read, found(1, 3)),
                at(1, 4..5, Read, found(1, 4)),
            ],
        ),
    ];
    for (name, history) in wrongs {
        let violation = check(&history).expect_err(name);
        assert_eq!(violation.key, "k", "{name}");
        // What else happened, before and after and to other keys, does not hide it.
        let other = |operation: &Operation| Operation { key: "l".into(), ..operation.clone() };
        let apart: History = history.iter().map(|o| at(7, 100..200, o.call, Refused)).collect();
        let beside = at(3, 0..1000, any(100), Unknown);
        let mut history: History = history.into_iter().chain(apart).chain([beside]).collect();
        history.push(other(&first()));
        history.reverse();
        check(&history).expect_err(name);
    }
}

#[test]
fn a_violation_shows_what_has_to_do_with_it() {
    let mut history = vec![
        at(0, 0..1, any(1), written(1)),
        at(1, 2..3, any(2), written(2)),
        at(2, 3..5, Call::Has, Answer::There { version: 2 }),
        at(1, 4..6, Call::Pop, Answer::Unknown),
        at(2, 5..7, Call::Read, found(1, 1)),
    ];
    // Of no interest, before and after.
    for step in 0..100 {
        history.push(at(3, 100 + step * 2..101 + step * 2, Call::Read, Answer::Missing));
    }
    let violation = check(&history).expect_err("it is stale").to_string();
    let expected = "\
key \"k\": no order of its operations explains their answers.
The longest order ends with value 2, version 2.
> could be next, but not with its answer; ? may have happened after it.
     0.000000 to    0.001000 s  client 0  write 1: written, version 1
     0.002000 to    0.003000 s  client 1  write 2: written, version 2
     0.003000 to    0.005000 s  client 2  has: version 2 is there
?    0.004000 to         ... s  client 1  pop: outcome unknown
>    0.005000 to    0.007000 s  client 2  read: value 1, version 1
";
    assert_eq!(violation, expected, "{violation}");
}

/// What a simulation has: clients that each do so many operations on so many keys.
#[derive(Clone, Copy)]
struct Simulation {
    clients: usize,
    keys: usize,
    operations: usize,
    /// The share of operations whose outcome is unknown.
    unknown: f64,
}

/// A store in memory.
#[derive(Default)]
struct Store {
    version: u64,
    documents: HashMap<Arc<str>, (u64, u64)>,
}

impl Simulation {
    /// The history of a store that is right: each operation happens at one moment between its
    /// invocation and its answer, or, where the outcome is unknown, at a later one or never.
    fn run(self, rng: &mut impl Rng) -> History {
        let keys: Vec<Arc<str>> = (0..self.keys).map(|key| format!("{key}").into()).collect();
        let mut plan = Vec::new();
        for client in 0..self.clients {
            let mut now = 0;
            for _ in 0..self.operations {
                let invoked = now + rng.random_range(0..10);
                let moment = invoked + rng.random_range(0..20);
                now = moment + rng.random_range(0..20);
                let unknown = rng.random_bool(self.unknown);
                let moment = if unknown { invoked + rng.random_range(0..200) } else { moment };
                let key = Arc::clone(keys.choose(rng).expect("there are keys"));
                let never = at(client, invoked..now, Call::Read, Answer::Unknown);
                plan.push((moment, unknown, Operation { key, ..never }));
            }
        }
        plan.sort_by_key(|(moment, ..)| *moment);
        let mut store = Store::default();
        let mut history = History::new();
        for (value, (_, unknown, mut operation)) in (0..).zip(plan) {
            let document = store.documents.get(&operation.key);
            // Mostly the right one.
            let known = document.map(|(_, version)| version - rng.random_range(0..4) / 3);
            operation.call = draw(rng, value, known);
            if !(unknown && rng.random_bool(0.5)) {
                operation.answer = store.apply(&operation.key, operation.call);
            }
            if unknown {
                operation.answer = Answer::Unknown;
            }
            history.push(operation);
        }
        history.shuffle(rng);
        history
    }
}

impl Store {
    fn apply(&mut self, key: &Arc<str>, call: Call) -> Answer {
        let document = self.documents.get(key).copied();
        let version = document.map(|(_, version)| version);
        let holds = |condition| match condition {
            Condition::Any => true,
            Condition::Absent => version.is_none(),
            Condition::Present => version.is_some(),
            Condition::Version(wanted) => version == Some(wanted),
        };
        let found = document.map_or(Answer::Missing, |(value, version)| found(value, version));
        match call {
            Call::Read => found,
            Call::Has => version.map_or(Answer::Missing, |version| Answer::There { version }),
            Call::Write { condition, .. } if !holds(condition) => failed(version),
            Call::Write { value, .. } => {
                self.version += 1;
                self.documents.insert(Arc::clone(key), (value, self.version));
                written(self.version)
            }
            Call::Remove { .. } | Call::Pop if version.is_none() => Answer::Missing,
            Call::Remove { version: Some(wanted) } if version != Some(wanted) => failed(version),
            Call::Remove { .. } | Call::Pop => {
                self.version += 1;
                self.documents.remove(key);
                if call == Call::Pop { found } else { removed(self.version) }
            }
        }
    }
}

#[test]
fn a_store_that_is_right_passes_and_one_that_is_not_is_found() {
    let mut rng = rng();
    let (mut due, mut found, mut tried) = (0, 0, 0);
    for round in 0..600 {
        let unknown = [0.0, 0.02, 0.1][round % 3];
        let clients = rng.random_range(2..9);
        let simulation = Simulation { clients, keys: 1, operations: 30, unknown };
        let history = simulation.run(&mut rng);
        check(&history).unwrap_or_else(|violation| panic!("{violation}"));
        for mutation in MUTATIONS {
            let Some(mutated) = mutation.spoil(&history, &mut rng) else { continue };
            let is_found = check(&mutated.history).is_err();
            tried += 1;
            due += u32::from(mutated.by_construction);
            found += u32::from(is_found);
            assert!(is_found || !mutated.by_construction, "{mutation:?}: {:#?}", mutated.history);
        }
    }
    println!("of {tried} mistakes {due} had to be found, and {found} were");
    assert!(due > 1000);
}

#[test]
fn hundreds_of_thousands_of_operations_are_checked_in_seconds() {
    let mut rng = rng();
    // As a load has it, and one key that is never left alone.
    for (clients, keys, operations) in [(8, 200, 50_000), (8, 1, 2000)] {
        let simulation = Simulation { clients, keys, operations, unknown: 0.0005 };
        let history = simulation.run(&mut rng);
        let started = Instant::now();
        check(&history).unwrap_or_else(|violation| panic!("{violation}"));
        println!("{} operations on {keys} keys: {:?}", history.len(), started.elapsed());
    }
}

/// Whether some order explains a history of one key: every order is tried, and every version that
/// a change may have had whose version is not told.
fn brute_force(history: &[&Operation], document: Option<(u64, u64)>, last: u64) -> bool {
    const MAX_VERSION: u64 = 9;
    if history.iter().all(|operation| operation.answer == Answer::Unknown) {
        return true;
    }
    (0..history.len()).any(|next| {
        let operation = history[next];
        if history.iter().any(|other| other.precedes(operation)) {
            return false;
        }
        let mut rest = history.to_vec();
        rest.remove(next);
        // The store gives versions one after the other: the next one is that after `before`.
        (last..MAX_VERSION).any(|before| {
            let key = &operation.key;
            let documents = document.map(|document| (Arc::clone(key), document));
            let mut store = Store { version: before, documents: documents.into_iter().collect() };
            let answer = store.apply(key, operation.call);
            let changed = store.version > before;
            let fits = operation.answer == Answer::Unknown || operation.answer == answer;
            let last = if changed { store.version } else { last };
            // Without a change there is no version to choose.
            (changed || before == last)
                && fits
                && brute_force(&rest, store.documents.get(key).copied(), last)
        })
    })
}

/// Changes one answer to that of another operation, or a version or value in it.
fn blur(history: &mut [Operation], rng: &mut impl Rng) {
    let [from, to] = [0; 2].map(|_| rng.random_range(0..history.len()));
    let other = history[from].answer;
    let answer = &mut history[to].answer;
    match answer {
        _ if rng.random_bool(0.3) => *answer = other,
        Answer::Found { value, .. } if rng.random_bool(0.5) => *value = rng.random_range(0..6),
        Answer::Found { version, .. }
        | Answer::There { version }
        | Answer::Written { version }
        | Answer::Removed { version } => *version = rng.random_range(1..7),
        Answer::ConditionFailed { version } => *version = Some(rng.random_range(1..7)),
        _ => *answer = [Answer::Missing, Answer::Unknown][rng.random_range(0..2)],
    }
}

/// The search leaves out most orders; this is to show that it leaves out none that matters.
#[test]
fn on_small_histories_it_agrees_with_trying_every_order() {
    const HISTORIES: usize = 4000;
    let mut rng = rng();
    let mut right = 0;
    for _ in 0..HISTORIES {
        let clients = rng.random_range(1..6);
        let simulation = Simulation { clients, keys: 1, operations: 6 / clients, unknown: 0.3 };
        let mut history = simulation.run(&mut rng);
        for _ in 0..rng.random_range(0..3) {
            blur(&mut history, &mut rng);
        }
        let operations: Vec<_> = history.iter().collect();
        let expected = brute_force(&operations, None, 0);
        let checked = check(&history);
        assert_eq!(checked.is_ok(), expected, "{history:#?}\n{checked:?}");
        right += usize::from(expected);
    }
    println!("{right} of {HISTORIES} histories are linearizable");
    assert!((HISTORIES / 5..HISTORIES * 4 / 5).contains(&right));
}
