//! What limits and times to live cost.
//!
//! ```sh
//! cargo bench -p sherd-engine --bench limits -- full      # writes into a full shard and an empty one
//! cargo bench -p sherd-engine --bench limits -- memory --documents 4000000
//! cargo bench -p sherd-engine --bench limits -- expire --documents 10000000
//! ```
//!
//! `full` writes new keys in turn into an empty shard without a limit and into one that is at its
//! limit, so that each write evicts, and prints the ratio pair by pair. `memory` loads documents and
//! prints what the process takes. `expire` reads documents that stay, first in peace, then while
//! the others expire within a minute.

#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sherd_engine::{
    Assignment, Clock, Command, Condition, Engine, Expiry, IndexSettings, Key, Mutation,
    MutationOutcome, Options, Outcome, Policy,
};

const RING: u32 = 10_000_000;
const INDEX: u32 = 1;
const STAYING: u32 = 2;

/// Writes in flight, as of 50 connections.
const IN_FLIGHT: u64 = 50;

/// Documents loaded with one command.
const BATCH: u64 = 500;

/// Within which time all documents of `expire` do so.
const EXPIRING: Duration = Duration::from_secs(60);

/// For how long `expire` waits for the last to be removed.
const MOST_SWEEPING: Duration = Duration::from_secs(120);

/// How many reads a second each thread of `expire` makes.
const READS_A_SECOND: u32 = 5000;

/// When `expire` begins, in milliseconds since 1970.
const START: u64 = 1_700_000_000_000;

struct Arguments {
    documents: u64,
    bytes: usize,
    seconds: u64,
    pairs: u32,
    policies: Vec<Policy>,
}

fn main() {
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let what = words.next().unwrap_or_default();
    let mut arguments = Arguments {
        documents: 200_000,
        bytes: 128,
        seconds: 10,
        pairs: 5,
        policies: vec![Policy::Lru, Policy::Lfu, Policy::Fifo, Policy::Random, Policy::Ttl],
    };
    while let Some(word) = words.next() {
        let value = words.next().unwrap_or_default();
        let number = || value.parse().unwrap_or_else(|_| panic!("{word} {value}: no number"));
        match word.as_str() {
            "--documents" => arguments.documents = number(),
            "--bytes" => arguments.bytes = number() as usize,
            "--seconds" => arguments.seconds = number(),
            "--pairs" => arguments.pairs = number() as u32,
            "--policy" => arguments.policies = vec![policy(&value)],
            other => panic!("unknown argument {other}"),
        }
    }
    match what.as_str() {
        "full" => full(&arguments),
        "memory" => memory(&arguments),
        "expire" => expire(&arguments),
        // As `cargo bench` runs it without arguments: briefly.
        _ => full(&Arguments { documents: 20_000, seconds: 1, pairs: 1, ..arguments }),
    }
}

fn policy(name: &str) -> Policy {
    match name {
        "reject" => Policy::Reject,
        "lru" => Policy::Lru,
        "lfu" => Policy::Lfu,
        "fifo" => Policy::Fifo,
        "random" => Policy::Random,
        "ttl" => Policy::Ttl,
        other => panic!("unknown policy {other}"),
    }
}

fn open(dir: &Path, limit: u64, policy: Policy, clock: Clock) -> Engine {
    let options = Options { clock, ..Options::default() };
    let engine = Engine::open(dir, options).unwrap().0;
    let assignment = Assignment {
        cluster: "bench".to_owned(),
        name: "shard0".to_owned(),
        hash_method: "xxh3".to_owned(),
        epoch: 1,
        lineage: 0,
        ranges: vec![(0, RING)],
        limit,
        policy,
    };
    engine.execute(Command::Assign(assignment)).unwrap();
    for (id, name) in [(INDEX, "index"), (STAYING, "staying")] {
        let (name, settings) = (name.to_owned(), IndexSettings::default());
        engine.execute(Command::CreateIndex { id, name, settings }).unwrap();
    }
    engine
}

fn key(number: u64) -> Key {
    // Spread over the ring as a hash would.
    let position = (number * 7_919_999 % u64::from(RING)) as u32;
    Key { position, bytes: Bytes::from(format!("key{number:09}")) }
}

fn write(index: u32, number: u64, bytes: usize, expiry: Expiry) -> Mutation {
    let document = vec![b'x'; bytes].into();
    Mutation::Write { index, key: key(number), document, condition: Condition::Any, expiry }
}

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir_in(std::env::var_os("BENCH_DIR").unwrap_or(".".into())).unwrap()
}

fn load(
    engine: &Engine,
    index: u32,
    numbers: std::ops::Range<u64>,
    make: impl Fn(u64) -> Mutation,
) {
    let begun = Instant::now();
    let count = numbers.end - numbers.start;
    let mut numbers = numbers.peekable();
    while numbers.peek().is_some() {
        let mutations = numbers.by_ref().take(BATCH as usize).map(&make).collect();
        engine.execute(Command::Mutate { mutations, atomic: false }).unwrap();
    }
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    println!("  loaded {count} documents into index {index}, {rate:.0} a second");
}

/// Writes new keys for a time, so many in flight. Returns how many a second.
fn write_new(engine: &Engine, first: u64, bytes: usize, time: Duration, expiry: Expiry) -> f64 {
    let (sender, receiver) = mpsc::channel();
    let mut next = first;
    let mut submit = || {
        let sender = sender.clone();
        let mutations = vec![write(INDEX, next, bytes, expiry)];
        next += 1;
        let done = move |result: sherd_engine::Result<Outcome>| {
            let Outcome::Mutated(outcomes) = result.unwrap() else { panic!("no mutation") };
            assert!(matches!(outcomes[0], MutationOutcome::Written(_)), "{outcomes:?}");
            _ = sender.send(());
        };
        engine.submit(Command::Mutate { mutations, atomic: false }, Box::new(done));
    };
    let begun = Instant::now();
    (0..IN_FLIGHT).for_each(|_| submit());
    let mut answered = 0u64;
    while answered < IN_FLIGHT || begun.elapsed() < time {
        receiver.recv().unwrap();
        answered += 1;
        submit();
    }
    let rate = answered as f64 / begun.elapsed().as_secs_f64();
    (0..IN_FLIGHT).for_each(|_| receiver.recv().unwrap());
    rate
}

fn full(arguments: &Arguments) {
    let Arguments { documents, bytes, seconds, pairs, ref policies } = *arguments;
    let time = Duration::from_secs(seconds);
    // Keys have twelve bytes.
    let limit = documents * (bytes as u64 + 12);
    println!("{documents} documents of {bytes} bytes at the limit, {IN_FLIGHT} writes in flight");
    for &policy in policies {
        let expiry = if policy == Policy::Ttl { Expiry::After(86_400_000) } else { Expiry::Never };
        let mut ratios = Vec::new();
        for _ in 0..pairs {
            let dir = temporary();
            let engine = open(dir.path(), u64::MAX, Policy::Reject, Clock::default());
            let empty = write_new(&engine, 0, bytes, time, expiry);
            drop(engine);
            drop(dir);
            let dir = temporary();
            let engine = open(dir.path(), limit, policy, Clock::default());
            load(&engine, INDEX, 0..documents, |number| write(INDEX, number, bytes, expiry));
            engine.checkpoint().unwrap();
            let full = write_new(&engine, documents, bytes, time, expiry);
            let stat = engine.stat();
            assert!(stat.counts.evicted > 0 && stat.used <= limit, "{stat:?}");
            ratios.push(full / empty);
            let (ratio, evicted) = (full / empty, stat.counts.evicted);
            println!(
                "  {policy:?}: empty {empty:.0}, full {full:.0} a second, {ratio:.2}; {evicted} evicted"
            );
            drop(engine);
        }
        ratios.sort_by(f64::total_cmp);
        println!("{policy:?}: median {:.2} of an empty shard's", ratios[ratios.len() / 2]);
    }
}

/// The resident size of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn memory(arguments: &Arguments) {
    let dir = temporary();
    let policy = *arguments.policies.first().unwrap();
    let before = resident();
    let engine = open(dir.path(), u64::MAX, policy, Clock::default());
    let bytes = arguments.bytes;
    load(&engine, INDEX, 0..arguments.documents, |number| {
        write(INDEX, number, bytes, Expiry::Never)
    });
    engine.checkpoint().unwrap();
    // Each is read once, as in use.
    for number in 0..arguments.documents {
        assert!(engine.version(INDEX, &key(number)).unwrap().is_some());
    }
    let after = resident();
    let stat = engine.stat();
    println!(
        "{policy:?}, {} documents of {bytes} bytes: resident {:.0} MB, {:.1} bytes a document; of these \
         {:.1} bytes a document for evictions",
        stat.documents,
        after as f64 / 1e6,
        (after - before) as f64 / stat.documents as f64,
        stat.tracked_bytes as f64 / stat.tracked_documents.max(1) as f64,
    );
    drop(engine);
}

fn expire(arguments: &Arguments) {
    let dir = temporary();
    let now = Arc::new(AtomicU64::new(START));
    let clock = Clock::settable(Arc::clone(&now));
    let engine = open(dir.path(), u64::MAX, Policy::Reject, clock);
    let bytes = arguments.bytes;
    let staying = 100_000;
    load(&engine, STAYING, 0..staying, |number| write(STAYING, number, bytes, Expiry::Never));
    let expires_at = |number: u64| {
        // In no order of the keys.
        let within = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % EXPIRING.as_millis() as u64;
        Expiry::At(START + 1000 + within)
    };
    load(&engine, INDEX, 0..arguments.documents, |number| {
        write(INDEX, number, bytes, expires_at(number))
    });
    engine.checkpoint().unwrap();
    let quiet = read_for(&engine, staying, &|elapsed| elapsed < Duration::from_secs(30));
    report("quiet", &quiet);
    let begun = Instant::now();
    let set_clock = || {
        now.store(START + begun.elapsed().as_millis() as u64, Ordering::Relaxed);
        engine.stat().documents - staying
    };
    let busy = read_for(&engine, staying, &|elapsed| {
        set_clock();
        elapsed < EXPIRING + Duration::from_secs(1)
    });
    report("while they expire", &busy);
    let ratio = busy.value_at_quantile(0.99) as f64 / quiet.value_at_quantile(0.99) as f64;
    println!("  p99 {ratio:.2} of the quiet one; {} removed by then", engine.stat().counts.expired);
    let swept = read_for(&engine, staying, &|elapsed| set_clock() > 0 && elapsed < MOST_SWEEPING);
    report("until they are removed", &swept);
    println!(
        "{} documents removed after {:.1} s",
        engine.stat().counts.expired,
        begun.elapsed().as_secs_f64(),
    );
    drop(engine);
}

/// Reads at a steady rate as long as it is told to; `go_on` is asked now and then with the time since
/// it began. Times count from when a read was due.
fn read_for(engine: &Engine, documents: u64, go_on: &dyn Fn(Duration) -> bool) -> Histogram<u64> {
    let ended = AtomicBool::new(false);
    let begun = Instant::now();
    let reader = |seed| {
        let mut times = Histogram::<u64>::new(3).unwrap();
        let mut random = StdRng::seed_from_u64(seed);
        let mut due = Instant::now();
        while !ended.load(Ordering::Relaxed) {
            due += Duration::from_secs(1) / READS_A_SECOND;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let number = random.random_range(0..documents);
            let found = engine.read(STAYING, &key(number)).unwrap();
            assert!(found.is_some());
            times.record(due.elapsed().as_micros() as u64).unwrap();
        }
        times
    };
    thread::scope(|scope| {
        let readers = [1, 2].map(|seed| scope.spawn(move || reader(seed)));
        while go_on(begun.elapsed()) {
            thread::sleep(Duration::from_millis(50));
        }
        ended.store(true, Ordering::Relaxed);
        let mut all = Histogram::<u64>::new(3).unwrap();
        readers.into_iter().for_each(|reader| all.add(reader.join().unwrap()).unwrap());
        all
    })
}

fn report(what: &str, times: &Histogram<u64>) {
    let at = |quantile| times.value_at_quantile(quantile);
    println!(
        "  {what}: {} reads, us: p50 {}, p99 {}, p99.9 {}, longest {}",
        times.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        times.max()
    );
}
