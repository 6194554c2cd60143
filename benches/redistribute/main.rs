//! What is felt of a range that moves: `cargo bench --bench redistribute`.
//!
//! A cluster of three shards, each with a third of the ring, as processes. The first third has a million
//! documents of 128 bytes, and 5,000 writes a second go to it, whatever it answers; clients as fast as
//! they can read and write in the other two thirds. Then the first third moves to the second shard and
//! back, three times. Reported are how long no write to the moving range was answered in each move, the
//! longest that one took, and the throughput of the other thirds while it moves beside that of just
//! before: on the way there the second shard is the target, on the way back the source, which serves the
//! writes to the moving range already before.
//!
//! Options: `--documents N`, `--writes N` a second, `--clients N` of each of the other thirds, 0 for none,
//! `--moves N`, `--rate BYTES` a second for a move,
//! `--plot FILE` for a plot (SVG) of the first two moves over time.

#![allow(clippy::expect_used, reason = "a benchmark that cannot go on has nothing to report")]

#[path = "../common/mod.rs"]
mod common;
mod plot;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{document, key, load};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sherd_client::{Client, Condition, Options};
use sherd_protocol::{Action, OwnedRange, Position, RING_SIZE, Range};
use support::Cluster;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};

const INDEX: &str = "moves";

/// The tasks that write to the moving range, each its part of the rate.
const WRITERS: u64 = 50;

/// The clients of each of the other thirds, unless it is said.
const CLIENTS: u64 = 4;

/// The documents of each of them.
const OTHER_DOCUMENTS: usize = 20_000;

/// How long the clients are at work before anything counts: by then overwrites have checkpoints and
/// compaction to show for.
const WARM_UP: Duration = Duration::from_secs(60);

/// How long it is measured before each move.
const BEFORE: Duration = Duration::from_secs(20);

/// How long the hand-over may still be felt after a move.
const BETWEEN: Duration = Duration::from_secs(3);

const THIRD: u32 = RING_SIZE / 3;

struct Arguments {
    documents: usize,
    writes: u64,
    clients: u64,
    moves: usize,
    rate: Option<u64>,
    plot: Option<String>,
}

impl Arguments {
    fn parse() -> Self {
        let mut parsed = Self {
            documents: 1_000_000,
            writes: 5_000,
            clients: CLIENTS,
            moves: 6,
            rate: None,
            plot: None,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut number =
                || words.next().and_then(|word| word.parse().ok()).expect("a number behind it");
            match word.as_str() {
                "--documents" => parsed.documents = number() as usize,
                "--writes" => parsed.writes = number(),
                "--clients" => parsed.clients = number(),
                "--moves" => parsed.moves = number() as usize,
                "--rate" => parsed.rate = Some(number()),
                "--plot" => parsed.plot = words.next(),
                // Given by cargo.
                "--bench" => {}
                other => panic!("{other} is no option"),
            }
        }
        parsed
    }
}

/// What was measured, by the time since the start.
#[derive(Default)]
struct Measured {
    /// Of writes to the moving range: when they were due, and how long they took.
    writes: Vec<(Duration, Duration)>,
    /// Operations of the other thirds that ended by a time.
    others: [Vec<(Duration, u64)>; 2],
    /// When moves began and ended.
    moves: Vec<(Duration, Duration)>,
}

fn main() {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(run(&arguments));
}

/// Keys that lie in a range, so many.
fn keys_in(client: &Client, range: Range, count: usize) -> Vec<String> {
    let keys = (0u64..).map(key);
    keys.filter(|key| range.contains(client.position(key))).take(count).collect()
}

async fn run(arguments: &Arguments) {
    let cluster = Cluster::start_with(["--port", "0", "--shards", "3"]);
    let options = Options { deadline: Duration::from_secs(60), ..Options::default() };
    let address = cluster.address.to_string();
    let connect = async || Client::connect(&address, options.clone()).await.expect("it serves");
    let client = connect().await;
    client.create_index(INDEX).await.expect("a new index");
    let map = client.known_map();
    let thirds: Vec<Range> = map.ranges.iter().map(OwnedRange::range).collect();
    assert!(thirds[0].contains(Position(THIRD / 2)) && thirds.len() == 3, "{map:?}");
    let moving = Arc::new(keys_in(&client, thirds[0], arguments.documents));
    let others = [1, 2].map(|i| Arc::new(keys_in(&client, thirds[i], OTHER_DOCUMENTS)));
    let begun = Instant::now();
    load(&client, INDEX, moving.iter().cloned()).await;
    for keys in &others {
        load(&client, INDEX, keys.iter().cloned()).await;
    }
    println!("{} documents loaded in {:.1?}", moving.len(), begun.elapsed());

    let start = Instant::now() + WARM_UP;
    let stopped = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for i in 0..WRITERS {
        let (client, keys, stopped) = (connect().await, Arc::clone(&moving), Arc::clone(&stopped));
        let pause = Duration::from_secs_f64(WRITERS as f64 / arguments.writes as f64);
        writers.push(tokio::spawn(write_at_a_rate(client, keys, stopped, start, pause, i)));
    }
    let counts: [Arc<AtomicU64>; 2] = Default::default();
    let mut clients = Vec::new();
    for (keys, count) in others.iter().zip(&counts) {
        for i in 0..arguments.clients {
            let (keys, stopped) = (Arc::clone(keys), Arc::clone(&stopped));
            let worker = as_fast_as_it_can(connect().await, keys, stopped, Arc::clone(count), i);
            clients.push(tokio::spawn(worker));
        }
    }
    sleep(WARM_UP).await;
    let sampler = tokio::spawn(sample(counts, Arc::clone(&stopped), start));

    let mut measured = Measured::default();
    let names: Vec<String> = map.shards.iter().map(|shard| shard.name.clone()).collect();
    for i in 0..arguments.moves {
        sleep(BEFORE).await;
        let (former, to) = (&names[i % 2], &names[(i + 1) % 2]);
        let began = start.elapsed();
        move_range(&client, thirds[0], to, arguments.rate).await;
        measured.moves.push((began, start.elapsed()));
        sleep(BETWEEN).await;
        let own = if i % 2 == 0 { 0 } else { OTHER_DOCUMENTS as u64 };
        until_removed(&client, former, own).await;
        println!("removed at the source {:.1?} later", start.elapsed() - measured.moves[i].1);
    }
    stopped.store(true, Ordering::Relaxed);
    for writer in writers {
        let writes = writer.await.expect("no write fails").into_iter();
        // Before the start is warming up.
        measured.writes.extend(writes.filter(|(due, _)| !due.is_zero()));
    }
    for client in clients {
        client.await.expect("no client fails");
    }
    measured.others = sampler.await.expect("it samples");
    measured.writes.sort_unstable();
    report(&measured);
    if let Some(path) = &arguments.plot {
        std::fs::write(path, plot::draw(&measured)).expect("the plot is written");
    }
}

/// Moves a range to a shard, and waits until it is there.
async fn move_range(client: &Client, range: Range, to: &str, rate: Option<u64>) {
    let action = Action::Move { range, to: to.to_owned() };
    let plan = client.plan(vec![action]).await.expect("a plan");
    assert_eq!(plan.moves.len(), 1);
    client.apply(plan, rate).await.expect("it begins");
    while !client.moves().await.expect("bootstrap answers").moves.is_empty() {
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a shard has removed what it gave up, and has only its own documents: before that the range
/// cannot come back.
async fn until_removed(client: &Client, shard: &str, own: u64) {
    loop {
        let views = client.stat().await;
        let view = views.into_iter().find(|view| view.shard.name == shard);
        let stat = view.expect("it is in the map").stat.expect("it answers");
        if stat.documents == own {
            return;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Writes at a steady rate, however long a write takes: it counts from when it was due.
async fn write_at_a_rate(
    client: Client,
    keys: Arc<Vec<String>>,
    stopped: Arc<AtomicBool>,
    start: Instant,
    pause: Duration,
    seed: u64,
) -> Vec<(Duration, Duration)> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut due = interval(pause);
    // What is done is taken at once: a task keeps its memory until then.
    let mut under_way = JoinSet::new();
    let mut writes = Vec::new();
    while !stopped.load(Ordering::Relaxed) {
        let begun = due.tick().await.into_std().saturating_duration_since(start);
        let key = keys[rng.random_range(0..keys.len())].clone();
        let (client, document) = (client.clone(), document());
        under_way.spawn(async move {
            let written = client.write(INDEX, &key, &document, Condition::Any).await;
            written.expect("no client meets an error");
            (begun, start.elapsed() - begun)
        });
        while let Some(write) = under_way.try_join_next() {
            writes.push(write.expect("no write fails"));
        }
    }
    writes.extend(under_way.join_all().await);
    writes
}

/// Reads and writes in turn.
async fn as_fast_as_it_can(
    client: Client,
    keys: Arc<Vec<String>>,
    stopped: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    seed: u64,
) {
    let mut rng = StdRng::seed_from_u64(seed);
    while !stopped.load(Ordering::Relaxed) {
        let key = &keys[rng.random_range(0..keys.len())];
        if rng.random() {
            client.read(INDEX, key).await.expect("no client meets an error");
        } else {
            let written = client.write(INDEX, key, &document(), Condition::Any).await;
            written.expect("no client meets an error");
        }
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Takes down the counts ten times a second.
async fn sample(
    counts: [Arc<AtomicU64>; 2],
    stopped: Arc<AtomicBool>,
    start: Instant,
) -> [Vec<(Duration, u64)>; 2] {
    let mut samples: [Vec<(Duration, u64)>; 2] = Default::default();
    // What came before is warming up.
    let begun = counts.each_ref().map(|count| count.load(Ordering::Relaxed));
    let mut due = interval(Duration::from_millis(100));
    while !stopped.load(Ordering::Relaxed) {
        due.tick().await;
        for ((samples, count), begun) in samples.iter_mut().zip(&counts).zip(begun) {
            samples.push((start.elapsed(), count.load(Ordering::Relaxed) - begun));
        }
    }
    samples
}

/// Operations a second between two times.
fn rate(samples: &[(Duration, u64)], from: Duration, until: Duration) -> f64 {
    let within = |(at, _): &&(Duration, u64)| (from..=until).contains(at);
    let first = samples.iter().find(within);
    let last = samples.iter().rfind(within);
    match (first, last) {
        (Some((from, before)), Some((until, after))) if until > from => {
            (after - before) as f64 / (*until - *from).as_secs_f64()
        }
        _ => f64::NAN,
    }
}

fn percentile(sorted: &[Duration], percent: f64) -> Duration {
    let place = (sorted.len() as f64 * percent / 100.0) as usize;
    sorted[place.min(sorted.len() - 1)]
}

fn report(measured: &Measured) {
    // What came before has settled by then.
    let quiet_time = BEFORE - Duration::from_secs(2);
    let before =
        |samples: &[(Duration, u64)], from: Duration| rate(samples, from - quiet_time, from);
    let quiet: Vec<Duration> = sorted(measured.writes.iter().filter(|(at, _)| *at < BEFORE));
    println!(
        "before: a write to the range that will move took p50 {:.1?}, p99 {:.1?}, longest {:.1?}",
        percentile(&quiet, 50.0),
        percentile(&quiet, 99.0),
        percentile(&quiet, 100.0)
    );
    println!(
        "move took  none written for  longest write  p99 of writes  second shard's range  third shard's"
    );
    let (mut longest, mut gaps) = (Vec::new(), Vec::new());
    let mut answered: Vec<Duration> =
        measured.writes.iter().map(|(due, took)| *due + *took).collect();
    answered.sort_unstable();
    for (i, &(from, until)) in measured.moves.iter().enumerate() {
        let during = |(at, _): &&(Duration, Duration)| (from..=until).contains(at);
        let writes = sorted(measured.writes.iter().filter(during));
        let [second, third] = measured.others.each_ref().map(|samples| {
            let (before, during) = (before(samples, from), rate(samples, from, until));
            Beside { before, ratio: during / before }
        });
        longest.push(percentile(&writes, 100.0));
        let gap = longest_gap(&answered, from, until);
        gaps.push(gap);
        println!(
            "{:5} {:6.2}s  {:12.1?}  {:12.1?}  {:12.1?}  {:>20}  {:>20}",
            if i % 2 == 0 { "there" } else { "back" },
            (until - from).as_secs_f64(),
            gap,
            percentile(&writes, 100.0),
            percentile(&writes, 99.0),
            second.to_string(),
            third.to_string(),
        );
    }
    longest.sort_unstable();
    gaps.sort_unstable();
    println!(
        "none written for: median {:.1?}, the most {:.1?}; \
         the longest write of a move: median {:.1?}, the most {:.1?}",
        percentile(&gaps, 50.0),
        percentile(&gaps, 100.0),
        percentile(&longest, 50.0),
        percentile(&longest, 100.0),
    );
}

/// The throughput of a range that does not move, in operations a second before a move, and how many
/// times that while it lasted. There is none where no clients are beside it.
struct Beside {
    before: f64,
    ratio: f64,
}

impl fmt::Display for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { before, ratio } = self;
        if ratio.is_finite() { write!(f, "{ratio:.2} of {before:.0}/s") } else { write!(f, "-") }
    }
}

/// The longest time within a move, and a little after it, in which no write to the moving range was
/// answered: its freeze, as clients see it, and whatever else held all of them up.
fn longest_gap(answered: &[Duration], from: Duration, until: Duration) -> Duration {
    let first = answered.partition_point(|at| *at < from);
    let last = answered.partition_point(|at| *at < until + BETWEEN);
    let gaps = answered[first..last].windows(2).map(|pair| pair[1] - pair[0]);
    gaps.max().unwrap_or_default()
}

fn sorted<'a>(writes: impl Iterator<Item = &'a (Duration, Duration)>) -> Vec<Duration> {
    let mut took: Vec<_> = writes.map(|(_, took)| *took).collect();
    took.sort_unstable();
    took
}
