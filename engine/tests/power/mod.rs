//! Power loss, enumerated.
//!
//! A [`recording`] runs a random workload on a simulated filesystem and index, and has the journal
//! of both, with marks of what was submitted, acknowledged and read. [`explore`] goes through the
//! journal, and at each of its steps builds the states that a power loss there may leave, recovers
//! from them, and compares with the [`model`]: a prefix of the history, whole groups, with all
//! that was acknowledged or read.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of this module")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub mod explore;
pub mod history;
#[path = "../common/hooked.rs"]
pub mod hooked;
pub mod index;
pub mod interleave;
pub mod model;
pub mod recording;

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use sherd_engine::{Defects, Options};

pub const RING: u32 = 10_000_000;
pub const DIR: &str = "/data";

/// A promise that was broken, and how.
pub type Check<T> = Result<T, String>;

/// What replays a part of a run: the same parts give the same choices.
pub fn rng(parts: &[u64]) -> StdRng {
    let mixed = parts.iter().fold(0x9e37_79b9_7f4a_7c15u64, |sum, part| {
        (sum.rotate_left(23) ^ part).wrapping_mul(0xff51_afd7_ed55_8ccd)
    });
    StdRng::seed_from_u64(mixed)
}

/// Small segments, so that workloads cross their borders; no checkpoint and no compaction unless
/// asked for. What threads do by themselves, such as making the reserve, no seed would repeat.
pub fn options(defects: Defects) -> Options {
    Options {
        segment_bytes: 4096,
        checkpoint_keys: usize::MAX / 16,
        checkpoint_interval: Duration::from_secs(3600),
        index_cache_bytes: 1 << 20,
        document_cache_bytes: 1 << 14,
        reserve_bytes: Some(0),
        compaction: false,
        defects,
        ..Options::default()
    }
}
