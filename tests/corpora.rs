//! The fuzzers' corpora and random mutations of them, through the functions that the fuzzers
//! drive. The rows' corpus is run among the tests of the command, where their parser is.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../fuzz/replay.rs"]
mod replay;

use std::path::Path;

use replay::replay;
use sherd_bootstrap::fuzzing as bootstrap;
use sherd_engine::fuzzing as engine;
use sherd_protocol::fuzzing as protocol;

#[test]
fn log_reader() {
    replay("log_reader", engine::log_reader, 100_000);
}

#[test]
fn manifest() {
    replay("manifest", engine::manifest, 100_000);
}

#[test]
fn frame() {
    replay("frame", protocol::frame, 100_000);
}

#[test]
fn request() {
    replay("request", protocol::request, 100_000);
}

#[test]
fn document() {
    replay("document", protocol::document, 100_000);
}

#[test]
fn config() {
    replay("config", bootstrap::config, 100_000);
}

/// Seeds that a change of a format made stale are written anew by
/// `cargo test --test corpora -- --ignored`.
#[test]
#[ignore = "writes the seeds that come from encoders to fuzz/corpus"]
fn write_seeds() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (target, seeds) in [
        ("log_reader", engine::log_reader_seeds()),
        ("manifest", engine::manifest_seeds()),
        ("frame", protocol::frame_seeds()),
        ("request", protocol::request_seeds()),
        ("document", protocol::document_seeds()),
    ] {
        let dir = corpora.join(target);
        std::fs::create_dir_all(&dir).unwrap();
        for (name, bytes) in seeds {
            std::fs::write(dir.join(name), bytes).unwrap();
        }
    }
}
