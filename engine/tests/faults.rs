//! Faults while running: a disk that fails, a disk that is full.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::ErrorKind;

use common::*;
use sherd_engine::fs::Fault;
use sherd_engine::{Command, Condition, Error};

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
        assert!(matches!(error, Error::Io { .. }), "{error}");
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
