//! Random histories against a model: the engine must answer, hold and count what a few ordered
//! maps do, whatever restarts, crashes and losses of the index lie in between.
//!
//! The model ([`model`]) predicts every outcome exactly, versions included. Where a fault lets an
//! outcome be unknown, what recovery finds must be the state after some whole group, none before
//! the last one that was acknowledged.
//!
//! A history ([`history`]) that fails is shrunk, printed, and its seed kept in `regressions` beside
//! this file, from where it is run first the next time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;
mod history;
mod model;
mod place;
mod run;

use common::{Machine, options};
use history::any_operation;
use place::Place;
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};
use run::run;
use sherd_engine::Options;

/// `SHERD_MODEL_TIMES` multiplies the histories, for a long run.
fn config(cases: u32) -> Config {
    let times = std::env::var("SHERD_MODEL_TIMES").map_or(1, |times| times.parse().unwrap());
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/model/regressions");
    Config {
        cases: cases * times,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(file))),
        max_shrink_iters: 2000,
        ..Config::default()
    }
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn a_simulated_machine_does_what_the_model_does(
        history in prop::collection::vec(any_operation(), 50..200),
        // Few keys: checkpoints come by themselves, at any time.
        checkpoint_keys in prop_oneof![Just(usize::MAX / 16), 1..20usize],
    ) {
        let machine = Machine::default();
        let place = Place::Simulated { machine, earlier: None };
        run(place, Options { checkpoint_keys, ..options() }, &history);
    }
}

proptest! {
    #![proptest_config(config(10))]

    #[test]
    fn a_real_disk_with_sled_does_what_the_model_does(
        history in prop::collection::vec(any_operation(), 50..120),
    ) {
        run(Place::Real(tempfile::tempdir().unwrap()), options(), &history);
    }
}
