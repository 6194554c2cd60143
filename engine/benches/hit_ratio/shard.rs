//! A real engine with its log on a disk.
//!
//! Durability is by interval: what is evicted does not depend on when the log is synced. Some writes
//! may be unanswered while later accesses read; one of a document on its way waits for it. So an
//! eviction may come that many accesses later than it would have.

use std::collections::HashMap;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use sherd_engine::{
    Assignment, Command, Condition, Durability, Engine, Expiry, IndexSettings, Key, Mutation,
    MutationOutcome, Options, Outcome, Policy,
};

use crate::trace::{Trace, key, scramble};
use crate::{DOCUMENT_BYTES, KEY_BYTES, Replayed};

const RING: u64 = 10_000_000;
const INDEX: u32 = 1;

/// How often the number of documents is taken.
const SAMPLE_EVERY: usize = 100_000;

/// Everything that may go wrong with a write is a panic there.
type Answered = (u32, sherd_engine::Result<Outcome>);

pub(crate) fn replay(
    trace: &Trace,
    policy: Policy,
    documents: usize,
    in_flight: usize,
) -> Replayed {
    let dir = tempfile::tempdir_in(std::env::var_os("BENCH_DIR").unwrap_or(".".into())).unwrap();
    let options = Options {
        durability: Durability::Interval(Duration::from_millis(100)),
        ..Options::default()
    };
    let (engine, _) = Engine::open(dir.path(), options).unwrap();
    set_up(&engine, policy, (documents * (KEY_BYTES + DOCUMENT_BYTES)) as u64);
    let document = Bytes::from(vec![b'd'; DOCUMENT_BYTES]);
    let (sender, receiver) = mpsc::channel::<Answered>();
    // Of the writes that are unanswered.
    let mut writing: HashMap<u32, ()> = HashMap::new();
    let await_one = |writing: &mut HashMap<u32, ()>| {
        let (number, outcome) = receiver.recv().unwrap();
        match outcome.unwrap() {
            Outcome::Mutated(outcomes) => {
                assert!(matches!(outcomes[..], [MutationOutcome::Written(_)]), "{outcomes:?}");
            }
            other => panic!("{other:?}"),
        }
        writing.remove(&number);
    };
    let mut hits = 0;
    let (mut counts, mut samples) = (0, 0);
    for (i, &number) in trace.accesses.iter().enumerate() {
        while writing.contains_key(&number) {
            await_one(&mut writing);
        }
        let position = (scramble(number) % RING) as u32;
        let key = Key { position, bytes: Bytes::copy_from_slice(&key(number)) };
        if engine.read(INDEX, &key).unwrap().is_some() {
            hits += 1;
        } else {
            while writing.len() >= in_flight {
                await_one(&mut writing);
            }
            writing.insert(number, ());
            let write = Mutation::Write {
                index: INDEX,
                key,
                document: document.clone(),
                condition: Condition::Any,
                expiry: Expiry::Never,
            };
            let sender = sender.clone();
            let done = move |outcome| _ = sender.send((number, outcome));
            engine
                .submit(Command::Mutate { mutations: vec![write], atomic: false }, Box::new(done));
        }
        if i % SAMPLE_EVERY == 0 && i > trace.accesses.len() / 2 {
            counts += engine.stat().documents;
            samples += 1;
        }
    }
    while !writing.is_empty() {
        await_one(&mut writing);
    }
    let stat = engine.stat();
    assert_eq!(stat.counts.hits, hits, "the shard counts as we do");
    engine.close().unwrap();
    Replayed {
        hits,
        documents: counts as f64 / f64::from(samples.max(1)),
        bytes: stat.tracked_bytes as f64 / stat.tracked_documents.max(1) as f64,
    }
}

fn set_up(engine: &Engine, policy: Policy, limit: u64) {
    let assignment = Assignment {
        cluster: "bench".to_owned(),
        name: "shard0".to_owned(),
        hash_method: "xxh3".to_owned(),
        epoch: 1,
        lineage: 0,
        ranges: vec![(0, RING as u32)],
        limit,
        policy,
    };
    engine.execute(Command::Assign(assignment)).unwrap();
    engine
        .execute(Command::CreateIndex {
            id: INDEX,
            name: "index".to_owned(),
            settings: IndexSettings::default(),
        })
        .unwrap();
}
