//! The engine through its interface: what it promises, what it does on a disk that fails or is full, under clocks
//! that jump and processes that are killed. One program, so that tests which wait do so side by side.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/hooked.rs"]
mod hooked;
#[path = "../common/tmpfs.rs"]
mod tmpfs;

mod accounting;
mod compaction;
mod concurrency;
mod cut;
mod documents;
mod expiry;
mod failed_index;
mod fault_sites;
mod faults;
mod fixture;
mod full_disk;
mod handover;
mod kill;
mod moved_meanwhile;
mod pages;
mod recovery;
mod segments;
mod verify;
