//! Clients, shards and bootstrap on a simulated network, deterministically.
//!
//! The real code of all nodes runs on one thread, in simulated time, over a network that delays, loses,
//! holds back and partitions, on disks that lose what was not synced; meanwhile ranges are moved about.
//! Everything is drawn from a seed, and the same seed is the same run. At the end the history of all
//! clients must be linearizable, and each shard own what the map says. Clients must not be told of any
//! error, but that an outcome is unknown.
//!
//! What it does not have: the real disk, sled and the kernel's TCP, and documents that expire or are
//! evicted. Of the engine's threads, those that answer are waited for at each call, and what works in the
//! background does so at moments of the simulated time.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `SHERD_SIMULATIONS` | how many seeds are tried; default 1,000 |
//! | `SHERD_SIMULATION_SEED` | the first seed; default random |
//! | `SHERD_SIMULATION_REPLAY` | one seed to try again, as a failure names it |
//! | `SHERD_SIMULATION_DISKS_LIE` | set, disks lose with the power what they had said was synced |
//! | `SHERD_SIMULATION_LOG` | what to log of it, such as `info` or `turmoil=trace`, which is every message |

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod faults;
mod hosts;
mod network;
mod run;
#[path = "../support/mod.rs"]
mod support;

use std::env;
use std::fmt;
use std::process::Command;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use run::{Outcome, simulate};
use support::from_environment;
use support::history::check;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// What is lost on the network is noticed after so long.
const SILENCE_TIME: Duration = Duration::from_millis(1500);

/// How many seeds are tried at every change.
const SEEDS: u64 = 1000;

struct SimulatedTime;

impl FormatTime for SimulatedTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{:?}", turmoil::sim_elapsed().unwrap_or_default())
    }
}

/// What came of a seed, in one line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Summary {
    /// Of all operations of all clients, their answers and when they were.
    checksum: u64,
    operations: u64,
    crashes: u64,
    cuts: u64,
    moved: u64,
    /// Simulated, in milliseconds.
    elapsed: u64,
}

/// What the line of a summary begins with.
const SUMMARY: &str = "summary:";

impl Summary {
    fn of(outcome: &Outcome) -> Self {
        let (history, log) = (&outcome.history, &outcome.log);
        let all = format!("{history:?} {log:?} {:?}", outcome.map.ranges);
        Self {
            checksum: u64::from(crc32fast::hash(all.as_bytes())),
            operations: history.len() as u64,
            crashes: outcome.crashes,
            cuts: outcome.cuts,
            moved: outcome.moved,
            elapsed: outcome.elapsed.as_millis() as u64,
        }
    }

    /// Counts another one in.
    fn add(&mut self, other: Self) {
        self.operations += other.operations;
        self.crashes += other.crashes;
        self.cuts += other.cuts;
        self.moved += other.moved;
        self.elapsed += other.elapsed;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { checksum, operations, crashes, cuts, moved, elapsed } = self;
        write!(f, "{SUMMARY} {checksum} {operations} {crashes} {cuts} {moved} {elapsed}")
    }
}

impl FromStr for Summary {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let numbers = line.strip_prefix(SUMMARY).unwrap_or_default().split_whitespace();
        let numbers: Result<Vec<u64>, _> = numbers.map(str::parse).collect();
        match numbers.as_deref() {
            Ok(&[checksum, operations, crashes, cuts, moved, elapsed]) => {
                Ok(Self { checksum, operations, crashes, cuts, moved, elapsed })
            }
            _ => Err(format!("{line:?} is no summary")),
        }
    }
}

/// Simulates a seed in this process and checks what came of it.
fn replay(seed: u64) {
    if let Ok(filter) = env::var("SHERD_SIMULATION_LOG") {
        // Of the time of the simulation, not of ours: so the logs of two runs can be compared.
        tracing_subscriber::fmt().with_env_filter(filter).with_timer(SimulatedTime).init();
    }
    let disks_lie = env::var(DISKS_LIE).is_ok();
    let outcome = simulate(seed, disks_lie).unwrap_or_else(|what| panic!("{what}"));
    println!("{}\n{:?}", outcome.log.join("\n"), outcome.map.ranges);
    check(&outcome.history).unwrap_or_else(|violation| panic!("{violation}"));
    println!("{}", Summary::of(&outcome));
}

/// Simulates a seed in a process of its own, as a replay does: what the simulation of another one leaves
/// behind, such as the state of generators of random numbers, would make it another.
fn try_seed(seed: u64) -> Result<Summary, String> {
    try_seed_with(seed, &[])
}

fn try_seed_with(seed: u64, variables: &[(&str, &str)]) -> Result<Summary, String> {
    let this = env::current_exe().map_err(|error| error.to_string())?;
    let name = "a_cluster_keeps_its_promises_whatever_the_network_does";
    let ran = Command::new(this)
        .args(["--exact", name, "--nocapture"])
        .env(REPLAY, seed.to_string())
        .envs(variables.iter().copied())
        .output()
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&ran.stdout);
    if !ran.status.success() {
        return Err(format!("{said}\n{}", String::from_utf8_lossy(&ran.stderr)));
    }
    let line = said.lines().find(|line| line.starts_with(SUMMARY));
    line.ok_or_else(|| format!("no summary: {said}"))?.parse()
}

/// Names the seed to try again.
const REPLAY: &str = "SHERD_SIMULATION_REPLAY";

/// Has disks lose what they said was synced.
const DISKS_LIE: &str = "SHERD_SIMULATION_DISKS_LIE";

#[test]
fn a_cluster_keeps_its_promises_whatever_the_network_does() {
    if let Some(seed) = from_environment(REPLAY) {
        return replay(seed);
    }
    let seeds = from_environment("SHERD_SIMULATIONS").unwrap_or(SEEDS);
    let drawn = || u64::from(rand::random::<u32>());
    let first = from_environment("SHERD_SIMULATION_SEED").unwrap_or_else(drawn);
    println!("seeds {first} to {}", first + seeds - 1);
    let begun = Instant::now();
    let (next, failed) = (AtomicU64::new(0), Mutex::new(None));
    let totals = Mutex::new(Summary::default());
    let work = || {
        while failed.lock().is_none() {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= seeds {
                break;
            }
            match try_seed(first + number) {
                Ok(summary) => totals.lock().add(summary),
                Err(what) => *failed.lock() = Some((first + number, what)),
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    if let Some((seed, what)) = failed.into_inner() {
        panic!("{REPLAY}={seed}: {what}");
    }
    let Summary { operations, crashes, cuts, moved, elapsed, .. } = totals.into_inner();
    println!(
        "{seeds} seeds: {operations} operations in {:.0?} of simulated time, {crashes} crashes, \
         {cuts} cuts of the network, {moved} plans carried out; {:.0?}",
        Duration::from_millis(elapsed),
        begun.elapsed()
    );
    assert!(crashes > 0 && cuts > 0 && moved > 0, "nothing happens in these simulations");
}

/// Else no seed would replay anything.
#[test]
#[allow(unexpected_cfgs, reason = "it is one of tokio's")]
fn the_same_seed_is_the_same_run() {
    if cfg!(not(tokio_unstable)) {
        println!(
            "skipped: built without the cfg of .cargo/config.toml, tokio draws from the system"
        );
        return;
    }
    for seed in 0..10 {
        let [first, again] =
            [(); 2].map(|()| try_seed(seed).unwrap_or_else(|what| panic!("{what}")));
        assert_eq!(first, again, "seed {seed}");
    }
}

/// What is acknowledged and lost with the power of a machine is found: else all the other seeds would prove
/// little.
#[test]
fn disks_that_lie_are_found() {
    let first = u64::from(rand::random::<u32>());
    println!("seeds from {first}");
    let lost = (first..first + 500).find_map(|seed| {
        let what = try_seed_with(seed, &[(DISKS_LIE, "1")]).err()?;
        // That a shard cannot open what is left of its log is as good, but not what this is about.
        what.contains("no order of its operations").then_some(seed)
    });
    println!("found with seed {:?}", lost.expect("documents that were lost are not missed"));
}
