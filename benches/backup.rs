//! What is felt of a backup: `cargo bench --bench backup`.
//!
//! A cluster of two shards, as processes, with a million documents of 128 bytes. Fifty clients overwrite
//! random documents as fast as they can, each waiting for its answer. A backup is taken, and then the
//! same time without one is measured, in turns, so that what else happens on the machine falls on both.
//! Reported are the writes a second with a backup under way and without one, the mean of before and
//! behind it, and the longest write with it and behind it.
//!
//! Options: `--documents N`, `--clients N`, `--rounds N`, `--share PERCENT` and `--rate SIZE`, as of the
//! command.

#![allow(clippy::expect_used, reason = "a benchmark that cannot go on has nothing to report")]

mod common;
#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::median::median;
use common::{document, key, load};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sherd_client::{Client, Condition, Options};
use support::{Cluster, Process};
use tokio::task::JoinSet;
use tokio::time::sleep;

const INDEX: &str = "backup";

/// Between a backup and the measurement without one.
const SETTLING: Duration = Duration::from_secs(2);

struct Arguments {
    documents: u64,
    clients: u64,
    rounds: usize,
    backup: Vec<String>,
}

impl Arguments {
    fn parse() -> Self {
        let mut parsed = Self { documents: 1_000_000, clients: 50, rounds: 5, backup: Vec::new() };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().expect("a value behind it");
            match word.as_str() {
                "--documents" => parsed.documents = value().parse().expect("a number"),
                "--clients" => parsed.clients = value().parse().expect("a number"),
                "--rounds" => parsed.rounds = value().parse().expect("a number"),
                "--share" | "--rate" => parsed.backup.extend([word.clone(), value()]),
                // Given by cargo.
                "--bench" => {}
                other => panic!("{other} is no option"),
            }
        }
        parsed
    }
}

/// What the clients count.
#[derive(Default)]
struct Counts {
    writes: AtomicU64,
    /// In microseconds, since it was taken last.
    longest: AtomicU64,
}

impl Counts {
    fn take(&self) -> (u64, Duration) {
        let longest = Duration::from_micros(self.longest.swap(0, Ordering::Relaxed));
        (self.writes.load(Ordering::Relaxed), longest)
    }
}

/// Writes in some time.
#[derive(Clone, Copy)]
struct Measured {
    rate: f64,
    longest: Duration,
    took: Duration,
}

fn main() {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(run(&arguments));
}

async fn overwrite(client: Client, seed: u64, documents: u64, counts: Arc<Counts>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let document = document();
    loop {
        let key = key(rng.random_range(0..documents));
        let begun = Instant::now();
        client.write(INDEX, &key, &document, Condition::Any).await.expect("it is written");
        let took = begun.elapsed().as_micros() as u64;
        counts.longest.fetch_max(took, Ordering::Relaxed);
        counts.writes.fetch_add(1, Ordering::Relaxed);
    }
}

async fn measure(counts: &Counts, until: impl Future<Output = ()>) -> Measured {
    let (before, _) = counts.take();
    let begun = Instant::now();
    until.await;
    let took = begun.elapsed();
    let (after, longest) = counts.take();
    Measured { rate: (after - before) as f64 / took.as_secs_f64(), longest, took }
}

async fn run(arguments: &Arguments) {
    let cluster = Cluster::start_with(["--port", "0", "--shards", "2"]);
    let address = cluster.address.to_string();
    let client = Client::connect(&address, Options::default()).await.expect("the cluster serves");
    client.create_index(INDEX).await.expect("it is created");
    load(&client, INDEX, (0..arguments.documents).map(key)).await;
    let counts = Arc::new(Counts::default());
    let mut clients = JoinSet::new();
    for seed in 0..arguments.clients {
        clients.spawn(overwrite(client.clone(), seed, arguments.documents, Arc::clone(&counts)));
    }
    sleep(2 * SETTLING).await;
    println!("round  without/s  longest   during/s  longest   slower  backup");
    let mut ratios = Vec::new();
    let mut before: Option<Measured> = None;
    for round in 1..=arguments.rounds {
        // A directory of its own, or all but the first would have little to fetch.
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut command = cluster.command(["backup"]);
        command.arg(dir.path()).args(&arguments.backup);
        let during = measure(&counts, async {
            let mut taking = Process::start(&mut command);
            let taken = tokio::task::spawn_blocking(move || (taking.wait(), taking.stderr()));
            let (status, stderr) = taken.await.expect("it ends");
            assert!(status.success(), "{stderr}");
        });
        let during = during.await;
        drop(dir);
        sleep(SETTLING).await;
        let after = measure(&counts, sleep(during.took)).await;
        sleep(SETTLING).await;
        // The first round has nothing before it but a cluster that has just been filled.
        let before = before.replace(after).unwrap_or(after);
        let without = (before.rate + after.rate) / 2.0;
        let ratio = 1.0 - during.rate / without;
        ratios.push(ratio);
        println!(
            "{round:5}  {without:9.0}  {:6.1} ms  {:9.0}  {:6.1} ms  {:5.1}%  {:.1} s",
            after.longest.as_secs_f64() * 1000.0,
            during.rate,
            during.longest.as_secs_f64() * 1000.0,
            ratio * 100.0,
            during.took.as_secs_f64()
        );
    }
    // Before the cluster ends.
    clients.shutdown().await;
    println!("median: {:.1}% slower", median(ratios) * 100.0);
}
