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
//! | `SHERD_SIMULATION_LOG` | what to log of it, such as `info` or `turmoil=trace`, which is every message |

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod faults;
mod hosts;
mod network;
mod run;
#[path = "../support/mod.rs"]
mod support;

use std::env;
use std::panic::catch_unwind;
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
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        write!(writer, "{:?}", turmoil::sim_elapsed().unwrap_or_default())
    }
}

/// Simulates a seed and checks what came of it.
fn try_seed(seed: u64) -> Result<Outcome, String> {
    let outcome = catch_unwind(|| simulate(seed)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panicked: {}", text.unwrap_or_default()))
    })?;
    check(&outcome.history)
        .map_err(|violation| format!("{violation}\n{}", outcome.log.join("\n")))?;
    Ok(outcome)
}

#[test]
fn a_cluster_keeps_its_promises_whatever_the_network_does() {
    if let Some(seed) = from_environment("SHERD_SIMULATION_REPLAY") {
        if let Ok(filter) = env::var("SHERD_SIMULATION_LOG") {
            // Of the time of the simulation, not of ours: so the logs of two runs can be compared.
            tracing_subscriber::fmt().with_env_filter(filter).with_timer(SimulatedTime).init();
        }
        let outcome = try_seed(seed).unwrap_or_else(|what| panic!("{what}"));
        println!("{}\n{:?}", outcome.log.join("\n"), outcome.map.ranges);
        return;
    }
    let seeds = from_environment("SHERD_SIMULATIONS").unwrap_or(SEEDS);
    let first = from_environment("SHERD_SIMULATION_SEED")
        .unwrap_or_else(|| u64::from(rand::random::<u32>()));
    println!("seeds {first} to {}", first + seeds - 1);
    let begun = Instant::now();
    let (next, failed) = (AtomicU64::new(0), Mutex::new(None));
    let totals = Mutex::new((Duration::ZERO, 0, 0, 0, 0));
    let work = || {
        while failed.lock().is_none() {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= seeds {
                break;
            }
            match try_seed(first + number) {
                Ok(outcome) => {
                    let mut totals = totals.lock();
                    totals.0 += outcome.elapsed;
                    totals.1 += outcome.history.len();
                    totals.2 += outcome.crashes;
                    totals.3 += outcome.cuts;
                    totals.4 += outcome.moved;
                }
                Err(what) => *failed.lock() = Some((first + number, what)),
            }
        }
    };
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    if let Some((seed, what)) = failed.into_inner() {
        panic!("SHERD_SIMULATION_REPLAY={seed}: {what}");
    }
    let (elapsed, operations, crashes, cuts, moved) = totals.into_inner();
    println!(
        "{seeds} seeds: {operations} operations in {elapsed:.0?} of simulated time, {crashes} crashes, \
         {cuts} cuts of the network, {moved} plans carried out; {:.0?}",
        begun.elapsed()
    );
    assert!(crashes > 0 && cuts > 0 && moved > 0, "nothing happens in these simulations");
}

/// Else no seed would replay anything.
#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..6 {
        let [first, again] = [(); 2].map(|()| try_seed(seed).unwrap());
        assert_eq!(first.log, again.log, "seed {seed}");
        assert_eq!(first.history, again.history, "seed {seed}");
        assert_eq!(first.elapsed, again.elapsed, "seed {seed}");
    }
}
