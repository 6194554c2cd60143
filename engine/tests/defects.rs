//! The harness bites: it finds each defect that is built into the engine on purpose.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod power;

use power::explore::{Counts, Effort, explore};
use sherd_engine::{Defect, Defects};

/// Few states of each point, so that many workloads get their turn.
const EFFORT: Effort = Effort { states: 200_000, exhaustive: 16, sample: 8 };

#[test]
fn every_seeded_defect_is_found() {
    let seed = std::env::var("SHERD_POWER_LOSS_SEED").ok();
    let seed = seed.map_or_else(|| u64::from(rand::random::<u32>()), |seed| seed.parse().unwrap());
    println!("seed {seed}");
    let mut missed = Vec::new();
    // A document is to be overwritten, moved and removed, and all but its oldest record compacted away: no
    // random workload does. `compaction.rs` shows that a history of that kind finds it. And none has as many
    // documents as it takes for victims to be found beforehand: `limits/scouted.rs` has.
    let by_a_history = [Defect::FirstSegmentForgotten, Defect::StaleVictimEvicted];
    for defect in Defect::ALL.into_iter().filter(|defect| !by_a_history.contains(defect)) {
        let mut counts = Counts::default();
        match explore(seed, EFFORT, Defects::from(defect), &mut counts) {
            Err(failure) => {
                let first_line = failure.what.lines().next().unwrap_or_default();
                println!(
                    "{defect:?}: found after {} states, in workload {}: {first_line}",
                    counts.states, failure.place.workload
                );
            }
            Ok(()) => {
                println!("{defect:?}: missed in {} states", counts.states);
                missed.push(defect);
            }
        }
    }
    assert!(missed.is_empty(), "missed: {missed:?}");
}
