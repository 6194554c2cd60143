//! Pages of scans: what is on them, and how they are read from the log.

use std::path::Path;
use std::sync::Arc;

use sherd_engine::fs::{Failure, FaultFs, Kind, Operation, SimFs};
use sherd_engine::index::MemoryStore;
use sherd_engine::{Condition, Engine, Scan};

use crate::common::*;

const READ: (Operation, Kind) = (Operation::Read, Kind::Segment);

const EIO: i32 = 5;

fn failure(for_good: bool) -> Failure {
    Failure { errno: EIO, for_good, arrives: 0 }
}

/// An engine with documents that were written as one batch, but for one in the middle.
fn engine_with(documents: usize, fs: &FaultFs<SimFs>) -> Engine {
    let fs = Arc::new(fs.clone());
    let options = sherd_engine::Options { segment_bytes: 1 << 20, ..options() };
    let (engine, _) =
        Engine::open_with(fs, &MemoryStore::new(), Path::new("/data"), options).unwrap();
    set_up(&engine);
    let mut keys: Vec<_> = (0..documents).map(|i| key(&format!("key{i}"))).collect();
    keys.sort_by(|a, b| (a.position, &a.bytes).cmp(&(b.position, &b.bytes)));
    let name = |i: usize| std::str::from_utf8(&keys[i].bytes).unwrap();
    mutate(
        &engine,
        (0..documents).map(|i| write(name(i), "document", Condition::Any)).collect(),
        false,
    );
    put(&engine, name(documents / 2), "written again");
    engine
}

#[test]
fn documents_that_lie_beside_each_other_in_the_log_are_read_at_once() {
    let fs = FaultFs::new(SimFs::new());
    let engine = engine_with(1_000, &fs);
    fs.fail(READ, 2, failure(true));
    assert_eq!(engine.scan(&whole(INDEX)).unwrap().items.len(), 1_000, "of some 64 bytes each");
}

#[test]
fn what_cannot_be_read_between_two_documents_is_not_missed() {
    let fs = FaultFs::new(SimFs::new());
    let engine = engine_with(9, &fs);
    fs.fail(READ, 0, failure(false));
    let documents: Vec<_> =
        engine.scan(&whole(INDEX)).unwrap().items.into_iter().map(|item| item.1.bytes).collect();
    assert_eq!(fs.failed(), 1);
    let mut expected = ["document"; 9];
    expected[4] = "written again";
    assert_eq!(documents, expected);
}

#[test]
fn a_document_that_cannot_be_read_is_not_left_out() {
    let fs = FaultFs::new(SimFs::new());
    let engine = engine_with(9, &fs);
    fs.fail(READ, 0, failure(true));
    let refused = engine.scan(&whole(INDEX)).unwrap_err().to_string();
    assert!(refused.contains("read a document"), "{refused}");
}

#[test]
fn a_page_that_may_have_nothing_has_nothing() {
    let engine = engine_with(9, &FaultFs::new(SimFs::new()));
    for (max_documents, max_bytes) in [(0, usize::MAX), (usize::MAX, 0)] {
        let page = engine.scan(&Scan { max_documents, max_bytes, ..whole(INDEX) }).unwrap();
        assert_eq!((page.items.len(), page.more), (0, true));
    }
}

#[test]
fn pages_of_a_scan_follow_each_other_through_overlay_and_index() {
    let (engine, _) = Machine::default().open().unwrap();
    set_up(&engine);
    for i in 0..100 {
        put(&engine, &format!("key{i}"), "old");
    }
    engine.checkpoint().unwrap();
    for i in (0..100).step_by(3) {
        put(&engine, &format!("key{i}"), "new");
    }
    for i in (0..100).step_by(5) {
        one(&engine, remove(&format!("key{i}")));
    }
    let contents = contents(&engine);
    for i in 0..100 {
        let expected = match i {
            i if i % 5 == 0 => None,
            i if i % 3 == 0 => Some("new"),
            _ => Some("old"),
        };
        assert_eq!(contents.get(&format!("key{i}")).map(String::as_str), expected, "key{i}");
    }
}
