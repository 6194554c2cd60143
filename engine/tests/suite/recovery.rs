//! Recovery: what a crash, a cut, a flipped byte or a lost index leaves behind.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sherd_engine::fs::Fault;
use sherd_engine::{Command, Condition, Engine, Error, Mutation, MutationOutcome};

use crate::common::*;

type Contents = BTreeMap<String, String>;

fn segments(machine: &Machine) -> Vec<PathBuf> {
    let paths = machine.fs.paths().into_iter();
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "log")).collect()
}

#[test]
fn everything_is_there_after_a_crash_and_after_a_close() {
    let machine = Machine::default();
    let (engine, _) = machine.open().unwrap();
    set_up(&engine);
    let mut expected = Contents::new();
    for i in 0..200 {
        let name = format!("key{}", i % 70);
        if i % 7 == 3 {
            one(&engine, remove(&name));
            expected.remove(&name);
        } else {
            put(&engine, &name, &format!("document {i}"));
            expected.insert(name, format!("document {i}"));
        }
        if i % 60 == 59 {
            engine.checkpoint().unwrap();
        }
    }
    assert!(segments(&machine).len() > 3, "the test crosses segments");
    assert_eq!(contents(&engine), expected);
    drop(engine);
    machine.fs.crash(|| false);
    machine.index.crash(false);
    let (engine, recovery) = machine.open().unwrap();
    assert_eq!(contents(&engine), expected);
    assert!(recovery.replayed > 0 && recovery.replayed < 40, "{recovery:?}");
    assert_eq!(recovery.rebuilt, None);
    engine.close().unwrap();
    drop(engine);
    let (engine, recovery) = machine.open().unwrap();
    assert_eq!(recovery.replayed, 0);
    assert_eq!(contents(&engine), expected);
}

/// sled's threads may hold its files for a moment after it is closed, which looked like damage.
#[test]
fn an_index_that_is_still_held_at_a_restart_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, _) = Engine::open(dir.path(), options()).unwrap();
    set_up(&engine);
    put(&engine, "key", "document");
    engine.close().unwrap();
    drop(engine);
    let held = fs::File::open(dir.path().join("index/db")).unwrap();
    held.lock().unwrap();
    let (opening, opened) = mpsc::channel();
    let path = dir.path().to_owned();
    let open = thread::spawn(move || {
        opening.send(()).unwrap();
        Engine::open(&path, options()).unwrap()
    });
    opened.recv().unwrap();
    // Time for an opening that does not wait to find it held.
    thread::sleep(Duration::from_millis(100));
    assert!(!open.is_finished());
    drop(held);
    let (engine, recovery) = open.join().unwrap();
    assert_eq!((recovery.rebuilt, recovery.replayed), (None, 0));
    assert_eq!(get(&engine, "key").as_deref(), Some("document"));
}

/// The history of one random engine: after each acknowledged batch, what is there.
struct History {
    machine: Machine,
    states: Vec<Contents>,
}

/// A random batch, all of which can be done, and what is there after it.
fn random_batch(rng: &mut StdRng, batch: usize, before: &Contents) -> (Vec<Mutation>, Contents) {
    let mut now = before.clone();
    let mut mutations = Vec::new();
    for step in 0..rng.random_range(1..5) {
        let name = format!("key{}", rng.random_range(0..20));
        if rng.random_bool(0.3) && now.contains_key(&name) {
            now.remove(&name);
            mutations.push(remove(&name));
        } else {
            let filler = "x".repeat(rng.random_range(0..60));
            let document = format!("{batch}.{step} {filler}");
            mutations.push(write(&name, &document, Condition::Any));
            now.insert(name, document);
        }
    }
    (mutations, now)
}

/// Runs random atomic batches, with a checkpoint now and then; ends without closing.
fn random_history(rng: &mut StdRng, batches: usize, checkpoints: bool) -> History {
    let machine = Machine::default();
    let (engine, _) = machine.open().unwrap();
    set_up(&engine);
    let mut states = vec![Contents::new()];
    for batch in 0..batches {
        let (mutations, now) = random_batch(rng, batch, states.last().unwrap());
        let outcomes = mutate(&engine, mutations, true);
        assert!(!outcomes.contains(&MutationOutcome::Abandoned));
        states.push(now);
        if checkpoints && rng.random_bool(0.1) {
            engine.checkpoint().unwrap();
        }
    }
    drop(engine);
    History { machine, states }
}

#[test]
fn the_last_segment_cut_at_every_byte_recovers_to_a_prefix_of_whole_batches() {
    let seed = rand::random();
    println!("seed {seed}");
    let history = random_history(&mut StdRng::seed_from_u64(seed), 30, false);
    let last = segments(&history.machine).pop().unwrap();
    let bytes = history.machine.fs.bytes(&last).unwrap();
    let used = (bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1).next_multiple_of(8);
    let mut reached = 0;
    for cut in 0..=used {
        history.machine.fs.damage(&last, bytes[..cut].to_vec());
        let (engine, _) = history.machine.open().unwrap();
        let found = contents(&engine);
        let batch = history.states.iter().rposition(|state| *state == found);
        let batch = batch.unwrap_or_else(|| panic!("cut at {cut}: no prefix of the history"));
        // An equal state may come twice; what counts is that a longer log never gives less.
        assert!(batch >= reached, "cut at {cut}: batch {batch} after {reached}");
        reached = batch;
        // What was cut is written again, and then nothing of the old tail comes back.
        put(&engine, "after", "the cut");
        drop(engine);
        let (engine, _) = history.machine.open().unwrap();
        let mut expected = found;
        expected.insert("after".to_owned(), "the cut".to_owned());
        assert_eq!(contents(&engine), expected, "cut at {cut}");
        drop(engine);
        // Back to before the cut: the segments that came after it go as well.
        for path in segments(&history.machine) {
            if path > last {
                sherd_engine::fs::Fs::remove(&history.machine.fs, &path).unwrap();
            }
        }
    }
    assert_eq!(reached, history.states.len() - 1, "uncut, all is there");
}

#[test]
fn a_flipped_byte_in_a_sealed_segment_is_named_and_never_served() {
    let history = random_history(&mut StdRng::seed_from_u64(7), 60, false);
    let all = segments(&history.machine);
    assert!(all.len() >= 3);
    let sealed = &all[1];
    let bytes = history.machine.fs.bytes(sealed).unwrap();
    for byte in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[byte] ^= 1 << (byte % 8);
        history.machine.fs.damage(sealed, flipped);
        let error = history.machine.open().map(drop).unwrap_err();
        let Error::Corrupt { file, offset, .. } = &error else { panic!("byte {byte}: {error}") };
        assert_eq!(file, sealed);
        assert!(*offset as usize <= byte && byte < *offset as usize + 512, "{byte}: {error}");
    }
    history.machine.fs.damage(sealed, bytes);
    let (engine, _) = history.machine.open().unwrap();
    assert_eq!(contents(&engine), *history.states.last().unwrap());
}

#[test]
fn a_flip_under_a_running_engine_is_found_when_the_document_is_read() {
    let machine = Machine::default();
    let (engine, _) = machine.open().unwrap();
    set_up(&engine);
    for i in 0..40 {
        put(&engine, &format!("key{i}"), &format!("document {i}"));
    }
    let first = &segments(&machine)[0];
    let mut bytes = machine.fs.bytes(first).unwrap();
    let place = bytes.windows(10).position(|window| window == b"document 3").unwrap();
    bytes[place] ^= 1;
    machine.fs.damage(first, bytes);
    let error = engine.read(INDEX, &key("key3")).unwrap_err();
    let Error::Corrupt { file, offset, .. } = &error else { panic!("{error}") };
    assert_eq!(file, first);
    assert!((*offset as usize) < place);
    assert_eq!(get(&engine, "key4").as_deref(), Some("document 4"));
}

#[test]
fn a_log_that_lost_what_the_manifest_counts_on_is_refused() {
    let machine = Machine::default();
    let (engine, _) = machine.open().unwrap();
    set_up(&engine);
    put(&engine, "k", "v");
    engine.close().unwrap();
    drop(engine);
    let last = segments(&machine).pop().unwrap();
    let bytes = machine.fs.bytes(&last).unwrap();
    machine.fs.damage(&last, bytes[..100].to_vec());
    let error = machine.open().map(drop).unwrap_err();
    assert!(matches!(&error, Error::Corrupt { file, .. } if *file == last), "{error}");
    sherd_engine::fs::Fs::remove(&machine.fs, &last).unwrap();
    let error = machine.open().map(drop).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
}

#[test]
fn power_loss_at_random_moments_loses_nothing_acknowledged() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for round in 0..40 {
        let history = random_history(&mut rng, 40, true);
        // Several in a row: what one recovery made is what the next one begins with.
        for crash in 0..3 {
            machine_crash(&history.machine, &mut rng);
            let (engine, _) = history.machine.open().unwrap();
            assert_eq!(
                contents(&engine),
                *history.states.last().unwrap(),
                "round {round}, crash {crash}"
            );
        }
    }
}

/// The disk fails at some write, sync or creation, of the engine or of the recovery after it, and
/// then the power: what is there is what was acknowledged, or with the one batch more that was
/// under way, whole.
#[test]
fn a_crash_in_the_middle_of_anything_leaves_whole_batches() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for round in 0..300 {
        let machine = Machine::default();
        let (engine, _) = machine.open().unwrap();
        set_up(&engine);
        let faults = [Fault::Write, Fault::Sync, Fault::Create];
        let fail = |rng: &mut StdRng, most: u32| {
            let fault = faults[rng.random_range(0..faults.len())];
            machine.fs.fail(fault, rng.random_range(0..most), ErrorKind::Other);
        };
        fail(&mut rng, 60);
        let mut acknowledged = Contents::new();
        let mut under_way = None;
        for batch in 0..60 {
            let (mutations, now) = random_batch(&mut rng, batch, &acknowledged);
            match engine.execute(Command::Mutate { mutations, atomic: true }) {
                Ok(_) => acknowledged = now,
                Err(_) => {
                    under_way = Some(now);
                    break;
                }
            }
            if rng.random_bool(0.1) {
                // May fail, like everything else here.
                _ = engine.checkpoint();
            }
        }
        drop(engine);
        machine_crash(&machine, &mut rng);
        fail(&mut rng, 6);
        drop(machine.open());
        machine_crash(&machine, &mut rng);
        let (engine, _) = machine.open().unwrap();
        let found = contents(&engine);
        let whole = found == acknowledged || under_way.as_ref() == Some(&found);
        assert!(whole, "round {round}: {found:?}\nacknowledged {acknowledged:?}\n{under_way:?}");
    }
}

fn machine_crash(machine: &Machine, rng: &mut StdRng) {
    machine.index.crash(rng.random_bool(0.5));
    machine.fs.crash(|| rng.random_bool(0.5));
}

// With the real sled and real files.

fn open_dir(dir: &Path) -> (Engine, sherd_engine::Recovery) {
    Engine::open(dir, options()).unwrap()
}

fn random_documents(engine: &Engine, rng: &mut StdRng) -> Contents {
    for i in 0..300 {
        let name = format!("key{}", rng.random_range(0..200));
        if rng.random_bool(0.2) {
            one(engine, remove(&name));
        } else {
            put(engine, &name, &format!("document {i}"));
        }
        if i == 200 {
            engine.checkpoint().unwrap();
        }
    }
    contents(engine)
}

#[test]
fn a_lost_index_is_rebuilt_with_the_same_documents() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, _) = open_dir(dir.path());
    set_up(&engine);
    let expected = random_documents(&engine, &mut StdRng::seed_from_u64(1));
    engine.close().unwrap();
    drop(engine);
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    let (engine, recovery) = open_dir(dir.path());
    assert!(recovery.rebuilt.is_some());
    assert_eq!(contents(&engine), expected);
    drop(engine);
    let (engine, recovery) = open_dir(dir.path());
    assert_eq!(recovery.rebuilt, None, "rebuilt once, not at every opening");
    assert_eq!(contents(&engine), expected);
}

#[test]
fn an_index_damaged_at_random_never_shows() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    // Side by side, for most of the time goes by with the disk.
    let rebuilt: u32 = thread::scope(|scope| {
        let run = |number| scope.spawn(move || damage_again_and_again(seed.wrapping_add(number)));
        [0, 1].map(run).map(|thread| thread.join().unwrap()).iter().sum()
    });
    println!("rebuilt {rebuilt} times of 50");
    assert!(rebuilt > 0, "the damage was never noticed");
}

/// Returns how often the index was rebuilt, in 25 rounds.
fn damage_again_and_again(seed: u64) -> u32 {
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let (engine, _) = open_dir(dir.path());
    set_up(&engine);
    let mut rebuilt = 0;
    let mut engine = Some(engine);
    for round in 0..25 {
        let running = engine.take().unwrap();
        let expected = random_documents(&running, &mut rng);
        if rng.random_bool(0.5) {
            running.close().unwrap();
        }
        drop(running);
        damage_a_file(&dir.path().join("index"), &mut rng);
        let (opened, recovery) = open_dir(dir.path());
        rebuilt += u32::from(recovery.rebuilt.is_some());
        assert_eq!(contents(&opened), expected, "round {round}: {recovery:?}");
        engine = Some(opened);
    }
    rebuilt
}

/// Overwrites, cuts or extends one file of a directory at a random place.
fn damage_a_file(dir: &Path, rng: &mut StdRng) {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file() && path.metadata().unwrap().len() > 0)
        .collect();
    files.sort();
    let path = &files[rng.random_range(0..files.len())];
    let mut bytes = fs::read(path).unwrap();
    match rng.random_range(0..4) {
        0 => bytes.truncate(rng.random_range(0..bytes.len())),
        1 => bytes.extend((0..100).map(|_| rng.random::<u8>())),
        2 => {
            let start = rng.random_range(0..bytes.len());
            let end = (start + rng.random_range(1..5000)).min(bytes.len());
            rng.fill(&mut bytes[start..end]);
        }
        _ => {
            let at = rng.random_range(0..bytes.len());
            bytes[at] ^= 1 << rng.random_range(0..8);
        }
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_second_process_is_kept_out() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, _) = open_dir(dir.path());
    let error = Engine::open(dir.path(), options()).unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    drop(engine);
    open_dir(dir.path());
}

#[test]
fn commands_after_the_close_are_refused_and_reads_go_on() {
    let (engine, _) = Machine::default().open().unwrap();
    set_up(&engine);
    put(&engine, "k", "v");
    engine.close().unwrap();
    engine.close().unwrap();
    assert_eq!(engine.execute(Command::DropIndex { id: INDEX }), Err(Error::Closed));
    assert_eq!(get(&engine, "k").as_deref(), Some("v"));
}
