//! Faults while running: a disk that fails, a disk that is full.

use std::io::ErrorKind;
use std::sync::mpsc;

use sherd_engine::fs::Fault;
use sherd_engine::{Command, Condition, Error, Expiry, IndexSettings};

use crate::common::*;

fn try_put(engine: &sherd_engine::Engine, name: &str) -> Result<(), Error> {
    let mutations = vec![write(name, "document", Condition::Any)];
    engine.execute(Command::Mutate { mutations, atomic: false }).map(drop)
}

#[test]
fn a_failed_sync_stops_writing_for_good_and_reads_go_on() {
    for fault in [Fault::Sync, Fault::Write] {
        let machine = Machine::default();
        let (engine, _) = machine.open().unwrap();
        set_up(&engine);
        put(&engine, "before", "document");
        machine.fs.fail(fault, 0, ErrorKind::Other);
        let error = try_put(&engine, "during").unwrap_err();
        assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
        machine.fs.heal();
        let error = try_put(&engine, "after").unwrap_err();
        assert!(matches!(error, Error::Poisoned { .. }), "not tried again: {error}");
        assert_eq!(get(&engine, "before").as_deref(), Some("document"));
        assert_eq!(get(&engine, "during"), None, "what is not durable is not visible");
        assert!(engine.stat().poisoned.is_some());
        assert!(matches!(engine.close(), Err(Error::Poisoned { .. })));
        drop(engine);
        machine.fs.crash(|| false);
        machine.index.crash(false);
        let (engine, _) = machine.open().unwrap();
        assert_eq!(contents(&engine).keys().collect::<Vec<_>>(), ["before"]);
        put(&engine, "after", "document");
    }
}

/// A removal and a lower limit came into one batch, and the disk failed under the removal. Whether
/// it happened is unknown, and yet the limit was refused for what would then be gone.
#[test]
fn a_refusal_does_not_rest_on_a_write_of_unknown_outcome() {
    let machine = Machine::default();
    let (engine, _) = machine.open().unwrap();
    set_up(&engine);
    put(&engine, "k", "document");
    // Completions run on the sequencer's thread: the two commands wait until both are there.
    let (go, wait) = mpsc::channel::<()>();
    engine.submit(Command::Release { owner: String::new() }, Box::new(move |_| _ = wait.recv()));
    let (sender, results) = mpsc::channel();
    machine.fs.fail(Fault::Sync, 0, ErrorKind::Other);
    let removal = Command::Mutate { mutations: vec![remove("k")], atomic: false };
    for command in [removal, Command::SetLimit { limit: 0, policy: None }] {
        let sender = sender.clone();
        engine.submit(command, Box::new(move |result| sender.send(result).unwrap()));
    }
    go.send(()).unwrap();
    assert!(matches!(results.recv().unwrap(), Err(Error::OutcomeUnknown { .. })));
    let limit = results.recv().unwrap();
    assert!(matches!(limit, Err(Error::Poisoned { .. })), "{limit:?}");
}

#[test]
fn a_full_disk_refuses_writes_and_recovers_without_a_restart() {
    let machine = Machine::default();
    let (engine, _) = machine.open().unwrap();
    set_up(&engine);
    put(&engine, "before", "document");
    machine.fs.fail(Fault::Create, 0, ErrorKind::StorageFull);
    let mut written = 0;
    let error = loop {
        match try_put(&engine, &format!("key{written}")) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1000, "segments end");
    };
    assert!(matches!(error, Error::DiskFull { .. }), "{error}");
    assert!(matches!(try_put(&engine, "again").unwrap_err(), Error::DiskFull { .. }));
    assert_eq!(get(&engine, "before").as_deref(), Some("document"));
    assert_eq!(engine.stat().poisoned, None);
    machine.fs.heal();
    put(&engine, "after", "document");
    assert_eq!(contents(&engine).len(), written + 2);
    drop(engine);
    machine.fs.crash(|| false);
    machine.index.crash(false);
    let (engine, _) = machine.open().unwrap();
    assert_eq!(contents(&engine).len(), written + 2);
    assert_eq!(get(&engine, "again"), None, "what was refused did not happen");
}

#[test]
fn a_batch_refused_for_want_of_space_does_not_come_back() {
    let machine = Machine::default();
    let (engine, _) = machine.open().unwrap();
    set_up(&engine);
    put(&engine, "before", "document");
    machine.fs.fail(Fault::Write, 0, ErrorKind::StorageFull);
    assert!(matches!(try_put(&engine, "refused").unwrap_err(), Error::DiskFull { .. }));
    machine.fs.heal();
    put(&engine, "after", "document");
    drop(engine);
    machine.fs.crash(|| true);
    machine.index.crash(true);
    let (engine, _) = machine.open().unwrap();
    assert_eq!(contents(&engine).keys().collect::<Vec<_>>(), ["after", "before"]);
}

/// The process is restarted after a failed sync, the machine loses power later. Linux takes bytes
/// whose sync failed for clean, so that a second sync alone does not make them durable: a shard
/// that recovered them from the page cache served what a power loss then took, and with it
/// everything that was acknowledged behind them.
#[test]
fn what_is_served_after_a_failed_sync_and_a_restart_survives_a_power_loss() {
    for later_writes in [0, 3] {
        let machine = Machine::default();
        let (engine, _) = machine.open().unwrap();
        set_up(&engine);
        put(&engine, "before", "document");
        machine.fs.fail(Fault::Sync, 0, ErrorKind::Other);
        try_put(&engine, "during").unwrap_err();
        drop(engine);
        machine.fs.stop_process();
        let (engine, _) = machine.open().unwrap();
        for i in 0..later_writes {
            put(&engine, &format!("after{i}"), "document");
        }
        let served = contents(&engine);
        drop(engine);
        machine.fs.crash(|| false);
        machine.index.crash(false);
        let (engine, _) = machine.open().unwrap();
        assert_eq!(contents(&engine), served, "{later_writes} later writes");
    }
}

/// A process killed between the renaming of a new segment and the sync of its directory left a
/// segment that its successor wrote to, and a power loss then took by its name.
#[test]
fn a_segment_whose_name_was_not_synced_is_not_lost_later() {
    for syncs_that_succeed in 0..40 {
        let machine = Machine::default();
        let (engine, _) = machine.open().unwrap();
        set_up(&engine);
        let mut expected = 0;
        machine.fs.fail(Fault::Sync, syncs_that_succeed, ErrorKind::Other);
        while expected < 60 && try_put(&engine, &format!("key{expected}")).is_ok() {
            expected += 1;
        }
        drop(engine);
        machine.fs.stop_process();
        let (engine, _) = machine.open().unwrap();
        put(&engine, "after", "document");
        let served = contents(&engine);
        assert!(served.len() > expected, "what was acknowledged is there");
        drop(engine);
        machine.fs.crash(|| false);
        machine.index.crash(false);
        let (engine, _) = machine.open().unwrap();
        assert_eq!(contents(&engine), served, "{syncs_that_succeed} syncs");
    }
}

/// A document may hold the bytes of a log, even of one that is like ours. In a torn batch they were
/// taken for a witness that the batch had been durable.
#[test]
fn a_document_that_looks_like_records_does_not_make_a_torn_batch_damage() {
    let other = Machine::default();
    let (engine, _) = other.open().unwrap();
    set_up(&engine);
    for i in 0..20 {
        put(&engine, &format!("key{i}"), "document");
    }
    drop(engine);
    let path = other.fs.paths().into_iter().find(|path| path.ends_with("0000000001.log")).unwrap();
    let log = other.fs.bytes(&path).unwrap();

    // At every alignment, for the document begins anywhere.
    for shift in 0..8 {
        let machine = Machine::default();
        let (engine, _) = machine.open().unwrap();
        set_up(&engine);
        put(&engine, "before", "document");
        let before = machine.fs.bytes(&path).unwrap();
        let end = before.iter().rposition(|&byte| byte != 0).unwrap() + 1;
        let mut document = vec![b' '; shift];
        document.extend_from_slice(&log[64..2048]);
        let write = sherd_engine::Mutation::Write {
            index: INDEX,
            key: key("log"),
            document: document.into(),
            condition: Condition::Any,
            expiry: Expiry::Never,
        };
        one(&engine, write);
        drop(engine);
        let mut torn = machine.fs.bytes(&path).unwrap();
        torn[(end + 40).next_multiple_of(8)] ^= 1;
        machine.fs.damage(&path, torn);
        let (engine, _) = machine.open().unwrap();
        assert_eq!(contents(&engine).keys().collect::<Vec<_>>(), ["before"], "shift {shift}");
    }
}

#[test]
fn an_index_id_is_not_given_twice() {
    let machine = Machine::default();
    let (engine, _) = machine.open().unwrap();
    set_up(&engine);
    put(&engine, "k", "old");
    engine.execute(Command::DropIndex { id: INDEX }).unwrap();
    assert_eq!(engine.stat().distribution, [0; 5]);
    let again = Command::CreateIndex {
        id: INDEX,
        name: "other".to_owned(),
        settings: IndexSettings::default(),
    };
    assert!(matches!(engine.execute(again.clone()), Err(Error::IndexIdUsed { .. })));
    engine.checkpoint().unwrap();
    drop(engine);
    let (engine, _) = machine.open().unwrap();
    assert!(matches!(engine.execute(again), Err(Error::IndexIdUsed { .. })));
}

#[test]
fn an_index_that_kept_an_older_version_of_the_same_content_is_rebuilt() {
    let machine = Machine::default();
    let (engine, _) = machine.open().unwrap();
    set_up(&engine);
    put(&engine, "k", "same");
    engine.checkpoint().unwrap();
    let stale = machine.index.snapshot();
    let version = put(&engine, "k", "same");
    engine.checkpoint().unwrap();
    drop(engine);
    machine.index.restore_entries(&stale);
    let (engine, recovery) = machine.open().unwrap();
    assert!(recovery.rebuilt.is_some());
    assert_eq!(engine.version(INDEX, &key("k")).unwrap(), Some(version));
}
