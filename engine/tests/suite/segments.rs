//! How long segments are, and how soon those go that compaction has emptied. With segments as long as they are by
//! default, on a real disk.

use std::path::Path;

use sherd_engine::{Engine, Options};

use crate::common::*;

const MIB: u64 = 1 << 20;

/// The shortest segment.
const SHORT: u64 = 8 * MIB;

fn open(dir: &Path, compaction: bool) -> Engine {
    let segment_bytes = Options::default().segment_bytes;
    Engine::open(dir, Options { segment_bytes, compaction, ..options() }).unwrap().0
}

fn lengths(dir: &Path) -> Vec<u64> {
    let files = std::fs::read_dir(dir.join("log")).unwrap().map(Result::unwrap);
    files.filter_map(|file| Some(file.metadata().ok()?.len())).collect()
}

fn document(round: usize, mebibytes: u64) -> String {
    format!("{round} {}", "x".repeat((mebibytes * MIB) as usize - 1000))
}

#[test]
fn a_small_store_has_short_segments_and_takes_documents_of_any_length() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = open(dir.path(), false);
    set_up(&engine);
    for round in 0..3 {
        for i in 0..10 {
            put(&engine, &format!("key{i}"), &document(round, 1));
        }
        assert!(lengths(dir.path()).iter().all(|&length| length <= SHORT), "{round}");
        drop(engine);
        engine = open(dir.path(), false);
    }
    for i in 0..3 {
        put(&engine, &format!("long{i}"), &document(i, 12));
    }
    let longest = lengths(dir.path()).into_iter().max().unwrap();
    assert!((12 * MIB - 1000..13 * MIB).contains(&longest), "{longest}");
    drop(engine);
    let engine = open(dir.path(), false);
    assert!((0..3).all(|i| get(&engine, &format!("long{i}")) == Some(document(i, 12))));
    assert!((0..10).all(|i| get(&engine, &format!("key{i}")) == Some(document(2, 1))));
}

/// Emptied segments wait for a checkpoint that comes for another reason, and none does here.
#[test]
fn what_was_compacted_is_deleted_though_nobody_writes_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), true);
    set_up(&engine);
    for round in 0..10 {
        for i in 0..10 {
            put(&engine, &format!("key{i}"), &document(round, 1));
        }
    }
    // What compaction leaves alone comes to 66 MiB, and two segments are prepared or written. What waits may take 48 MiB
    // before a checkpoint is asked for, more than all else.
    let bytes = || lengths(dir.path()).iter().sum::<u64>();
    wait_until("emptied segments are deleted", || bytes() <= 90 * MIB);
    assert!((0..10).all(|i| get(&engine, &format!("key{i}")) == Some(document(9, 1))));
}
