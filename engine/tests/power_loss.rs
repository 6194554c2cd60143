//! Power loss at every step of random workloads: whatever the disk and the index keep of it, what
//! is recovered is a prefix of the history with all that was acknowledged.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `SHERD_POWER_LOSS_STATES` | how many states are tried; default 50,000 |
//! | `SHERD_POWER_LOSS_SEED` | the seed, printed by every run; default random |
//! | `SHERD_POWER_LOSS_REPLAY` | one state to try again, as a failure names it |

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod power;

use std::env;
use std::time::Instant;

use power::explore::{Counts, Effort, Place, explore, explore_with_sled, replay};
use power::recording::{Recording, record};
use sherd_engine::Defects;
use sherd_engine::fs::Event;

const EFFORT: Effort = Effort { states: 50_000, exhaustive: 128, sample: 32 };

/// States with the real sled, which takes its time.
const SLED_STATES: u64 = 300;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap())
}

fn seed() -> u64 {
    let seed = number("SHERD_POWER_LOSS_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
    println!("seed {seed}");
    seed
}

#[test]
fn power_lost_at_any_step_leaves_a_prefix_with_all_that_was_acknowledged() {
    let none = Defects::default();
    if let Ok(place) = env::var("SHERD_POWER_LOSS_REPLAY") {
        if let Err(failure) = replay(place.parse().unwrap(), EFFORT, none) {
            panic!("{}", failure.what);
        }
        return;
    }
    let states = number("SHERD_POWER_LOSS_STATES").unwrap_or(EFFORT.states);
    let seed = seed();
    let mut counts = Counts::default();
    let begun = Instant::now();
    let explored = explore(seed, Effort { states, ..EFFORT }, none, &mut counts);
    println!("{counts}; {:.0?}", begun.elapsed());
    if let Err(failure) = explored {
        panic!("SHERD_POWER_LOSS_REPLAY={}: {}", failure.place, failure.what);
    }
    assert!(counts.evictions > 0, "no workload evicts");
    assert!(counts.cut_recoveries * 10 >= counts.states, "a tenth of the recoveries is cut off");
}

#[test]
fn power_lost_with_the_real_sled_stale_damaged_or_without_files() {
    let seed = seed();
    let mut counts = Counts::default();
    let begun = Instant::now();
    let explored = explore_with_sled(seed, SLED_STATES, &mut counts);
    println!("with sled: {counts}; {:.0?}", begun.elapsed());
    if let Err(failure) = explored {
        panic!("SHERD_POWER_LOSS_SEED={seed}, {}: {}", failure.place, failure.what);
    }
}

/// A typing error looked like a success.
#[test]
fn a_replay_of_what_there_is_not_fails() {
    let there: Place = "7:1:20:0".parse().unwrap();
    assert_eq!(there.to_string(), "7:1:20:0");
    let none = Defects::default();
    replay(there, EFFORT, none).map_err(|failure| failure.what).unwrap();
    for text in ["7:1:1000000:0", "7:1:20:1000000"] {
        let failure = replay(text.parse().unwrap(), EFFORT, none).unwrap_err();
        assert!(failure.what.contains("there is no such state"), "{}", failure.what);
    }
    for text in ["", "7", "7:", "7:1:20", "7:1:20:", "7:1:20:0:0", "7:1:x:0", " 7:1"] {
        assert!(text.parse::<Place>().is_err(), "{text:?}");
    }
}

/// Else no seed would replay anything.
#[test]
fn a_workload_is_the_same_every_time() {
    for workload in 0..6 {
        let [first, again] = [(); 2].map(|()| record(7, workload, Defects::default()).unwrap());
        assert!(first.events.len() > 150);
        assert_eq!(outline(&first), outline(&again), "workload {workload}");
    }
}

/// The events without their bytes: the identity of the data directory is in them.
fn outline(recording: &Recording) -> Vec<String> {
    let line = |event: &Event| match event {
        Event::Mark(mark) => recording.marks.get(*mark).to_string(),
        Event::Write { file, offset, bytes } => format!("{file} {offset} {}", bytes.len()),
        event => format!("{event:?}"),
    };
    recording.events.iter().map(line).collect()
}
