//! What the target stores of what comes: durable, seen by nobody, and gone when the move ends.

use std::time::Duration;

use bytes::Bytes;
use sherd_engine::{
    Command, Condition, Durability, Error, Expiry, Import, Imported, Key, Mutation,
    MutationOutcome, Options, Span,
};

use super::shards::*;
use crate::common::*;

#[test]
fn what_is_being_taken_over_is_seen_by_nobody_and_goes_when_the_move_ends() {
    let (source, target) = pair();
    bring_all(&source, &target);
    assert_eq!(target.engine().stat().documents, 1);
    let error = target.engine().read(1, &place(1)).unwrap_err();
    assert!(matches!(error, Error::WrongShard { .. }), "{error}");
    let outcome = write_at(target.engine(), place(1));
    assert!(matches!(outcome, MutationOutcome::Refused(Error::WrongShard { .. })), "{outcome:?}");
    let import = |id: &str, key: Key| {
        let document = Imported::Put {
            index: 1,
            key,
            version: 9,
            expires_at: 0,
            document: Bytes::from_static(b"x"),
        };
        let (id, note) = (id.to_owned(), Vec::new());
        let import = Import { id, documents: vec![document], whole: None, as_of: 0, note };
        target.engine().import(import).unwrap_err()
    };
    for error in [import("another", place(1)), import(MOVE, place(2))] {
        assert!(matches!(error, Error::NotReceiving { .. }), "{error}");
    }
    let command = Command::Receive { id: "another".to_owned(), ranges: vec![(0, 5)] };
    let error = target.engine().execute(command).unwrap_err();
    assert!(matches!(error, Error::Receiving { .. }), "{error}");
    target.engine().execute(Command::StopReceiving { id: MOVE.to_owned() }).unwrap();
    wait_until("it goes", || {
        target.engine().compact().unwrap();
        target.engine().stat().documents == 0
    });
}

/// Whatever the durability: the other shard is about to forget it.
#[test]
fn what_was_taken_over_outlives_a_power_cut() {
    let (source, mut target) = pair();
    target.engine = None;
    let interval = Durability::Interval(Duration::from_secs(3600));
    let options = Options { durability: interval, clock: target.time.clock(), ..options() };
    target.engine = Some(target.machine.open_with(options).unwrap().0);
    // Synced, as all that bootstrap says.
    target.assign(2, &[(0, 1000)]).unwrap();
    bring_all(&source, &target);
    let own = Key { position: 1, bytes: "own".into() };
    let (index, condition) = (1, Condition::Any);
    let (document, expiry) = (Bytes::from_static(b"x"), Expiry::Default);
    let write = Mutation::Write { index, key: own.clone(), document, condition, expiry };
    assert!(matches!(one(target.engine(), write), MutationOutcome::Written(_)));
    target.cut_power(false);
    assert_eq!(target.engine().read(1, &own).unwrap(), None, "nobody synced it");
    let brought = target.engine().sums(&[MOVING]).unwrap();
    assert_eq!(brought[&1].documents, 1);
    assert!(target.engine().stat().incoming.is_some_and(|held| !held.note.is_empty()));
}

/// All went with one batch, however many they were.
#[test]
fn of_a_page_that_leaves_much_out_what_goes_does_so_in_many_batches() {
    let time = Time::default();
    let mut target = Shard::new("away", &time, &[]);
    target.receive();
    let import = |documents, whole| {
        let (id, note) = (MOVE.to_owned(), b"note".to_vec());
        Import { id, documents, whole, as_of: 10_000, note }
    };
    for some in 0..100 {
        let put = |i: u32| Imported::Put {
            index: 1,
            key: place((some * 60 + i) * 2 + 1),
            version: 1,
            expires_at: 0,
            document: Bytes::from_static(b"document"),
        };
        target.engine().import(import((0..60).map(put).collect(), None)).unwrap();
    }
    assert_eq!(target.engine().stat().documents, 6_000);
    let span = Span { index: 1, range: MOVING, after: None, until: None };
    let kept = Imported::Put {
        index: 1,
        key: place(6_001),
        version: 1,
        expires_at: 0,
        document: Bytes::from_static(b"document"),
    };
    target.engine().import(import(vec![kept], Some(span))).unwrap();
    let stat = target.engine().stat();
    assert_eq!((stat.documents, stat.incoming.unwrap().note), (1, b"note".to_vec()));
    let lengths = target.machine.fs.paths().into_iter();
    let longest = lengths.filter_map(|path| Some(target.machine.fs.bytes(&path)?.len())).max();
    // Whoever writes meanwhile waits for one batch.
    assert!(longest.unwrap() < 100_000, "a batch made a segment of {longest:?} bytes");
    target.cut_power(true);
    assert_eq!(target.engine().stat().documents, 1);
}
