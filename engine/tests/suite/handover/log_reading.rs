//! The log of the source, as who takes the range over reads it: held for as long as that one asks.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use sherd_engine::{Error, Expiry, Imported, Mutation, Options, TailCursor};

use super::shards::*;
use crate::common::*;

/// What the reader of the log has not read is held, for as long as it asks.
#[test]
fn compaction_leaves_what_a_reader_of_the_log_has_not_read() {
    let (source, target) = pair();
    let mut progress = bring_all(&source, &target);
    let removed = Mutation::Remove { index: 1, key: place(1), version: None };
    one(source.engine(), removed);
    for i in 0..200 {
        put_to(source.engine(), 2, "hot", &format!("{i} {}", "x".repeat(100)));
    }
    while source.engine().compact().unwrap().is_some_and(|compacted| compacted.moved > 0) {}
    while !progress.step(source.engine(), target.engine()).unwrap() {}
    assert_eq!(target.engine().sums(&[MOVING]).unwrap(), BTreeMap::new());
    let (source_sums, target_sums) = (source.engine().sums(&[MOVING]), Ok(BTreeMap::new()));
    assert_eq!(source_sums, target_sums);
}

/// Under overwrites it moves several documents for each that is written, and a target that repeated them
/// came never to the end.
#[test]
fn what_compaction_moves_is_not_read_again_and_what_is_touched_is() {
    let (source, target) = pair();
    let progress = bring_all(&source, &target);
    for i in 0..200 {
        put_to(source.engine(), 2, "hot", &format!("{i} {}", "x".repeat(100)));
    }
    let compact = |_| source.engine().compact().unwrap().map_or(0, |compacted| compacted.moved);
    let moved: u64 = (0..100).map(compact).sum();
    assert!(moved > 0);
    let tail = source.engine().tail(progress.tail, &[(0, RING)], usize::MAX).unwrap();
    let hot = |read: &&Imported| matches!(read, Imported::Put { index: 2, .. });
    let count = tail.documents.iter().filter(hot).count();
    assert_eq!((count, tail.documents.len()), (200, 200));
    let (key, document) = (place(1), Bytes::from_static(b"document"));
    let version = source.engine().version(1, &key).unwrap().unwrap();
    let expiry = Expiry::After(1_000);
    one(source.engine(), Mutation::Touch { index: 1, key, version, document, expiry });
    let tail = source.engine().tail(tail.next, &[(0, RING)], usize::MAX).unwrap();
    let [Imported::Put { index: 1, version: read, expires_at, .. }] = &tail.documents[..] else {
        panic!("{:?}", tail.documents)
    };
    assert_eq!(*read, version);
    assert!(*expires_at > 0);
}

/// A cursor comes over the wire.
#[test]
fn a_cursor_from_nowhere_is_refused() {
    let (source, _) = pair();
    for segment in [0, u32::MAX] {
        let nowhere = TailCursor { lsn: 0, segment, offset: segment };
        let error = source.engine().tail(nowhere, &[MOVING], 100).unwrap_err();
        assert_eq!(error, Error::LogGone { after: 0 });
        assert!(!source.engine().hold_log(nowhere));
    }
}

/// Nothing may happen any more at which it would be deleted.
#[test]
fn what_was_held_goes_by_itself_when_nobody_asks_any_more() {
    let machine = Machine::default();
    let options = Options { compaction: true, log_held: Duration::from_secs(3), ..options() };
    let (engine, _) = machine.open_with(options).unwrap();
    set_up(&engine);
    engine.tail_end();
    for i in 0..2_000 {
        put(&engine, "hot", &format!("{i} {}", "x".repeat(100)));
    }
    wait_until("the log is as short as it can be", || engine.stat().segments < 10);
}

/// While it copies pages it reads nothing of the log, however long that takes.
#[test]
fn who_has_the_log_held_finds_it_later_and_is_told_where_it_is_gone() {
    let (mut source, target) = pair();
    let progress = bring_all(&source, &target);
    // A restart holds nothing, as after a minute without a word.
    source.cut_power(false);
    assert!(source.engine().hold_log(progress.tail));
    let compact_all = |source: &Shard, texts: std::ops::Range<u32>| {
        for i in texts {
            put_to(source.engine(), 2, "hot", &format!("{i} {}", "x".repeat(100)));
        }
        while source.engine().compact().unwrap().is_some_and(|compacted| compacted.moved > 0) {}
        source.engine().checkpoint().unwrap();
    };
    one(source.engine(), Mutation::Remove { index: 1, key: place(1), version: None });
    compact_all(&source, 0..200);
    assert!(source.engine().hold_log(progress.tail));
    let mut behind = progress.clone();
    while !behind.step(source.engine(), target.engine()).unwrap() {}
    assert_eq!(behind.tail.lsn, source.engine().stat().durable_lsn + 1, "it read the log");
    assert_eq!(target.engine().sums(&[MOVING]).unwrap(), BTreeMap::new());
    source.cut_power(false);
    compact_all(&source, 200..400);
    while source.engine().compact().unwrap().is_some() {}
    assert!(!source.engine().hold_log(progress.tail), "it is gone");
    let error = source.engine().tail(progress.tail, &[MOVING], 100).unwrap_err();
    assert!(matches!(error, Error::LogGone { .. }), "{error}");
}

/// Where it was deleted, the range is read anew, and what is not there any more goes.
#[test]
fn a_reader_that_comes_too_late_begins_again_and_misses_nothing() {
    let (mut source, target) = pair();
    let progress = bring_all(&source, &target);
    // A restart holds nothing.
    source.cut_power(false);
    one(source.engine(), Mutation::Remove { index: 1, key: place(1), version: None });
    for i in 0..200 {
        put_to(source.engine(), 2, "hot", &format!("{i} {}", "x".repeat(100)));
    }
    while source.engine().compact().unwrap().is_some() {}
    let error = source.engine().tail(progress.tail, &[MOVING], 100).unwrap_err();
    assert!(matches!(error, Error::LogGone { .. }), "{error}");
    let mut progress = progress;
    while !progress.step(source.engine(), target.engine()).unwrap() {}
    assert_eq!(target.engine().sums(&[MOVING]).unwrap(), BTreeMap::new());
}
