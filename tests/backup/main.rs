//! Backups of real clusters: cut while they are written to, shared with earlier ones, cut off, damaged,
//! and restored into other clusters.
//!
//! * `backups`: a directory of them, and the documents and clusters they are taken from;
//! * `cuts`: what a backup has of a cluster that is written to, or whose ranges move;
//! * `files`: what of the directory is shared, damaged, or left of a backup that was cut off;
//! * `restoring`: what comes out of it; `moments`: between two backups.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod backups;
mod cuts;
mod files;
mod moments;
mod restoring;
#[path = "../support/mod.rs"]
mod support;
