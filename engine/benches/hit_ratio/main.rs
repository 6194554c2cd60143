//! Hit ratios of a bounded shard, used as a cache, beside exact LRU and Redis on the same accesses.
//!
//! ```sh
//! cargo bench -p sherd-engine --bench hit_ratio -- --plot docs/images/hit-ratio.svg
//! ```
//!
//! An access reads a document, and writes it where it is not there. `--policies lru,lfu` and
//! `--limits 1,5` restrict what is measured, `--results FILE` keeps the results and measures none
//! of them twice. Redis is started on a free port of this machine, and left out where there is none;
//! its clock is sped up by a library that the C compiler makes of `fast_clock.c`.

#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

mod exact;
mod plot;
mod redis;
mod results;
mod shard;
mod trace;

use std::path::PathBuf;
use std::time::Instant;

use crate::results::{Cell, Results};
use crate::trace::{Mix, Trace};

/// Bytes of a document, without its key.
const DOCUMENT_BYTES: usize = 100;

/// Bytes of a key.
const KEY_BYTES: usize = 16;

/// Who decides what goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Sherd(sherd_engine::Policy),
    /// Least recently used, exactly.
    Exact,
    /// By its name for the policy, and with which clock.
    Redis(&'static str, redis::Time),
}

/// With the names that tables and arguments have for them.
const SUBJECTS: [(&str, Subject); 8] = [
    ("lfu", Subject::Sherd(sherd_engine::Policy::Lfu)),
    ("lru", Subject::Sherd(sherd_engine::Policy::Lru)),
    ("fifo", Subject::Sherd(sherd_engine::Policy::Fifo)),
    ("random", Subject::Sherd(sherd_engine::Policy::Random)),
    ("exact LRU", Subject::Exact),
    ("Redis allkeys-lru", Subject::Redis("allkeys-lru", redis::Time::Real)),
    ("Redis allkeys-lru (fast clock)", Subject::Redis("allkeys-lru", redis::Time::Fast)),
    ("Redis allkeys-lfu", Subject::Redis("allkeys-lfu", redis::Time::Real)),
];

/// What one replay came to.
struct Replayed {
    hits: u64,
    /// How many documents there were, in the mean, once it was full.
    documents: f64,
    /// Bytes of memory for a document: what a shard remembers of it, or all that Redis takes.
    bytes: f64,
}

fn main() {
    let mut arguments = Arguments::default();
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        let value = words.next().unwrap();
        let list = || value.split(',').map(str::to_owned);
        match word.as_str() {
            "--accesses" => arguments.accesses = value.parse().unwrap(),
            "--keys" => arguments.keys = value.parse().unwrap(),
            "--limits" => arguments.limits = list().map(|limit| limit.parse().unwrap()).collect(),
            "--policies" => arguments.policies = list().collect(),
            "--in-flight" => arguments.in_flight = value.parse().unwrap(),
            "--seed" => arguments.seed = value.parse().unwrap(),
            "--results" => arguments.results = Some(value.into()),
            "--plot" => arguments.plot = Some(value.into()),
            other => panic!("unknown argument {other}"),
        }
    }
    println!("{arguments:?}");
    let mut results = Results::load(arguments.results.clone());
    for mix in Mix::ALL {
        let mut trace = None;
        for &percent in &arguments.limits {
            let documents = arguments.keys as usize * percent as usize / 100;
            for (name, subject) in SUBJECTS {
                let wanted = &arguments.policies;
                let skip = !wanted.is_empty() && !wanted.iter().any(|wanted| wanted == name);
                if skip || results.get(mix, percent, name).is_some() {
                    continue;
                }
                let trace = trace.get_or_insert_with(|| Trace::draw(mix, &arguments));
                let begun = Instant::now();
                let replayed = match subject {
                    Subject::Sherd(policy) => {
                        Some(shard::replay(trace, policy, documents, arguments.in_flight))
                    }
                    Subject::Exact => Some(exact::replay(trace, documents)),
                    Subject::Redis(policy, time) => redis::replay(trace, policy, documents, time),
                };
                let Some(replayed) = replayed else { continue };
                let ratio = replayed.hits as f64 / trace.accesses.len() as f64;
                println!(
                    "{} {percent} % {name}: {ratio:.4} with {:.0} documents, {:.1} bytes each, {:.0?}",
                    mix.name(),
                    replayed.documents,
                    replayed.bytes,
                    begun.elapsed()
                );
                results.add(Cell { mix, percent, name, ratio, bytes: replayed.bytes });
            }
        }
    }
    println!("\n{}", results.table());
    if let Some(path) = &arguments.plot {
        std::fs::write(path, plot::draw(&results)).unwrap();
        println!("drawn to {}", path.display());
    }
}

#[derive(Debug)]
struct Arguments {
    accesses: usize,
    keys: u32,
    /// In percent of what all keys' documents take.
    limits: Vec<u32>,
    /// Which of the names; none for all.
    policies: Vec<String>,
    /// How many writes of a shard may be unanswered.
    in_flight: usize,
    seed: u64,
    results: Option<PathBuf>,
    plot: Option<PathBuf>,
}

impl Default for Arguments {
    fn default() -> Self {
        Self {
            accesses: 10_000_000,
            keys: 1_000_000,
            limits: vec![1, 5, 10, 25],
            policies: Vec::new(),
            in_flight: 32,
            seed: 20_261_125,
            results: None,
            plot: None,
        }
    }
}
