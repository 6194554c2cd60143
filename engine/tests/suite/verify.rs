//! Verifying: a sound directory has no fault, every damage is named, and nothing is changed.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sherd_engine::fs::Fs;
use sherd_engine::index::{IndexKey, IndexStore, SledStore};
use sherd_engine::verify::{Fault, Report, verify, verify_with};
use sherd_engine::{Command, Condition, Engine, Error, Expiry, IndexSettings, Mutation, rebuild};

use crate::common::*;

const DATA: &str = "/data";

fn verify_machine(machine: &Machine) -> (Report, Vec<Fault>) {
    let mut faults = Vec::new();
    let index = Some(&machine.index as &dyn IndexStore);
    let report =
        verify_with(&machine.fs, index, Path::new(DATA), &mut |fault| faults.push(fault)).unwrap();
    assert_eq!(report.faults, faults.len() as u64);
    (report, faults)
}

fn verify_dir(dir: &Path) -> (Report, Vec<Fault>) {
    let mut faults = Vec::new();
    let report = verify(dir, true, &mut |fault| faults.push(fault)).unwrap();
    assert_eq!(report.faults, faults.len() as u64);
    (report, faults)
}

fn segments(machine: &Machine) -> Vec<PathBuf> {
    let paths = machine.fs.paths().into_iter();
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "log")).collect()
}

/// Documents over several segments, overwritten and removed, and changes behind the checkpoint.
fn write_history(engine: &Engine) {
    set_up(engine);
    for i in 0..90 {
        put(engine, &format!("key{}", i % 40), &format!("document {i} {}", "x".repeat(i)));
    }
    for i in 0..5 {
        one(engine, remove(&format!("key{i}")));
    }
    engine
        .execute(Command::CreateIndex {
            id: 2,
            name: "dropped".to_owned(),
            settings: IndexSettings::default(),
        })
        .unwrap();
    engine.checkpoint().unwrap();
    engine.execute(Command::DropIndex { id: 2 }).unwrap();
    mutate(engine, (0..5).map(|i| write(&format!("new{i}"), "n", Condition::Any)).collect(), true);
    one(engine, remove("key7"));
    put(engine, "key8", "after the checkpoint");
}

fn machine() -> Machine {
    let machine = Machine::default();
    let (engine, _) = machine.open().unwrap();
    write_history(&engine);
    drop(engine);
    machine
}

/// All files below a directory, with their bytes and times.
fn snapshot(dir: &Path) -> BTreeMap<PathBuf, (SystemTime, Vec<u8>)> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(snapshot(&path));
        } else {
            let modified = path.metadata().unwrap().modified().unwrap();
            let bytes = fs::read(&path).unwrap();
            files.insert(path, (modified, bytes));
        }
    }
    files
}

#[test]
fn a_sound_directory_has_no_fault_and_is_counted() {
    let machine = machine();
    let (report, faults) = verify_machine(&machine);
    assert_eq!(faults, []);
    assert_eq!(report.notes, <[String; 0]>::default());
    // 40 keys less 6 and 5 new ones; the control effects, 90 + 5 and what came after.
    assert_eq!((report.documents, report.indexes), (39, 1));
    assert_eq!(report.records, 2 + 95 + 1 + 1 + 5 + 2);
    assert_eq!((report.last_lsn, report.checkpoint_lsn), (report.records, 98));
    assert_eq!(report.entries, Some(35), "those of the checkpoint");
    let (engine, _) = machine.open().unwrap();
    let stat = engine.stat();
    let expected = (stat.documents, stat.used, stat.segments, stat.log_bytes);
    assert_eq!((report.documents, report.used, report.segments, report.log_bytes), expected);
    engine.close().unwrap();
    drop(engine);
    let (report, faults) = verify_machine(&machine);
    assert_eq!((faults, report.entries), (vec![], Some(39)));
}

#[test]
fn what_a_crash_leaves_is_no_fault() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for round in 0..60 {
        let machine = Machine::default();
        let (engine, _) = machine.open().unwrap();
        set_up(&engine);
        for step in 0..rng.random_range(1..250) {
            let name = format!("key{}", rng.random_range(0..30));
            match rng.random_range(0..24) {
                0 => engine.checkpoint().unwrap(),
                1 => _ = engine.compact().unwrap(),
                2 => {
                    // Another index of a name that there was before, or none.
                    let made = Command::CreateIndex {
                        id: step + 2,
                        name: "other".to_owned(),
                        settings: IndexSettings::default(),
                    };
                    if engine.execute(made).is_err() {
                        let id = engine.index_id("other").unwrap();
                        engine.execute(Command::DropIndex { id }).unwrap();
                    }
                }
                3..9 => _ = one(&engine, remove(&name)),
                9..12 => {
                    let other = engine.index_id("other").unwrap_or(INDEX);
                    let document = bytes::Bytes::from_static(b"other");
                    let condition = Condition::Any;
                    let key = key(&name);
                    one(
                        &engine,
                        Mutation::Write {
                            index: other,
                            key,
                            document,
                            condition,
                            expiry: Expiry::Default,
                        },
                    );
                }
                _ => _ = put(&engine, &name, &"d".repeat(rng.random_range(0..200))),
            }
        }
        drop(engine);
        machine.fs.crash(|| rng.random());
        machine.index.crash(rng.random());
        let (_, faults) = verify_machine(&machine);
        assert_eq!(faults, [], "round {round}");
    }
}

#[test]
fn every_flipped_byte_of_a_sealed_segment_is_one_fault_and_the_rest_is_checked() {
    let machine = machine();
    let (sound, _) = verify_machine(&machine);
    let all = segments(&machine);
    assert!(all.len() >= 4);
    let sealed = &all[1];
    let bytes = machine.fs.bytes(sealed).unwrap();
    for byte in (0..bytes.len()).step_by(3) {
        let mut flipped = bytes.clone();
        flipped[byte] ^= 1 << (byte % 8);
        machine.fs.damage(sealed, flipped);
        let (report, faults) = verify_machine(&machine);
        let of_log: Vec<_> = faults.iter().filter(|fault| fault.offset.is_some()).collect();
        let first = of_log[0];
        assert_eq!(first.file, *sealed, "byte {byte}");
        let offset = first.offset.unwrap() as usize;
        assert!(offset <= byte && byte < offset + 512, "byte {byte}: {first}");
        let lost = if byte < 64 { 0 } else { 1 };
        assert_eq!(report.records, sound.records - lost, "byte {byte}: {faults:?}");
        // Besides, the document that was in the record, if it was the newest of its key.
        assert!(of_log.len() <= 2, "byte {byte}: {faults:?}");
        assert!(of_log.iter().all(|fault| fault.offset == first.offset), "byte {byte}: {faults:?}");
    }
    machine.fs.damage(sealed, bytes);
    assert_eq!(verify_machine(&machine).1, []);
}

#[test]
fn each_of_many_damages_is_named() {
    let machine = machine();
    let all = segments(&machine);
    let mut expected = Vec::new();
    for path in [&all[0], &all[2], &all[3]] {
        let mut bytes = machine.fs.bytes(path).unwrap();
        for place in [200, 1500] {
            bytes[place] ^= 4;
        }
        machine.fs.damage(path, bytes);
        expected.extend([path.clone(), path.clone()]);
    }
    let (report, faults) = verify_machine(&machine);
    let damaged = faults.iter().filter(|fault| fault.what.contains("the next whole record"));
    let damaged: Vec<_> = damaged.map(|fault| fault.file.clone()).collect();
    assert_eq!(damaged, expected, "{faults:#?}");
    assert!(report.notes.iter().any(|note| note.contains("totals")), "{:?}", report.notes);
}

#[test]
fn damage_in_the_last_segment_is_a_fault_and_a_torn_end_is_none() {
    let machine = machine();
    let last = segments(&machine).pop().unwrap();
    let bytes = machine.fs.bytes(&last).unwrap();
    let end = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    let mut torn = bytes.clone();
    torn[end] ^= 1;
    machine.fs.damage(&last, torn);
    let (report, faults) = verify_machine(&machine);
    assert_eq!(faults, []);
    assert!(report.notes[0].contains("never acknowledged"), "{:?}", report.notes);
    let mut damaged = bytes;
    damaged[64 + 40] ^= 1;
    machine.fs.damage(&last, damaged);
    let (_, faults) = verify_machine(&machine);
    assert_eq!((faults[0].file.as_path(), faults[0].offset), (last.as_path(), Some(64)));
}

#[test]
fn lost_segments_and_a_lost_end_are_named() {
    let machine = machine();
    let all = segments(&machine);
    let path = &all[1];
    let bytes = machine.fs.bytes(path).unwrap();
    machine.fs.damage(path, bytes[..2000].to_vec());
    let (_, faults) = verify_machine(&machine);
    let fault = &faults[0];
    assert_eq!((fault.file.as_path(), fault.offset), (path.as_path(), Some(2000)), "{faults:?}");
    assert!(fault.what.contains("cut off"), "{fault}");
    let again = faults.iter().filter(|fault| fault.what.contains("cut off")).count();
    assert_eq!(again, 1, "{faults:?}");
    machine.fs.remove(path).unwrap();
    let (_, faults) = verify_machine(&machine);
    assert_eq!(faults[0].file.as_path(), path.as_path());
    assert!(faults[0].what.contains("missing"), "{faults:?}");
    let rest = &faults[1..];
    assert!(!rest.is_empty(), "its documents are named");
    assert!(rest.iter().all(|f| f.what.contains("damage") || f.what.contains("no entry")));
    for path in &all[2..] {
        machine.fs.remove(path).unwrap();
    }
    let (_, faults) = verify_machine(&machine);
    assert!(faults.iter().any(|fault| fault.what.contains("the log ends with LSN")), "{faults:?}");
}

#[test]
fn a_damaged_header_does_not_hide_the_records_behind_it() {
    let machine = machine();
    let (sound, _) = verify_machine(&machine);
    for path in segments(&machine) {
        let bytes = machine.fs.bytes(&path).unwrap();
        let mut damaged = bytes.clone();
        damaged[33] ^= 1;
        machine.fs.damage(&path, damaged);
        let (report, faults) = verify_machine(&machine);
        let found: Vec<_> = faults.iter().map(|fault| (&fault.file, fault.offset)).collect();
        assert_eq!(found, [(&path, Some(0))]);
        assert_eq!((report.records, report.documents), (sound.records, sound.documents));
        machine.fs.damage(&path, bytes);
    }
}

#[test]
fn a_manifest_that_is_damaged_lost_or_wrong_is_named() {
    let machine = machine();
    let (sound, _) = verify_machine(&machine);
    let path = Path::new(DATA).join("MANIFEST");
    let bytes = machine.fs.bytes(&path).unwrap();
    for byte in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[byte] ^= 1;
        machine.fs.damage(&path, damaged);
        let (report, faults) = verify_machine(&machine);
        assert_eq!(faults.len(), 1, "byte {byte}: {faults:?}");
        assert_eq!(faults[0].file, path);
        assert_eq!(report.records, sound.records, "the log is checked all the same");
    }
    // A count that is wrong under a checksum that is right.
    let mut wrong = bytes.clone();
    let place = wrong.windows(9).position(|window| window == b"documents").unwrap() + 9;
    wrong[place] += 1;
    reseal(&mut wrong, 16, 20);
    machine.fs.damage(&path, wrong);
    let (_, faults) = verify_machine(&machine);
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].what.contains("35 documents"), "{}", faults[0]);
    assert!(faults[0].what.contains("the manifest says 36 documents"), "{}", faults[0]);
    machine.fs.remove(&path).unwrap();
    let (_, faults) = verify_machine(&machine);
    assert_eq!((faults[0].file.as_path(), faults.len()), (path.as_path(), 1), "{faults:?}");
}

/// Puts the CRC-32 of all other bytes at `place`; the field is 4 bytes and ends at `after`.
fn reseal(bytes: &mut [u8], place: usize, after: usize) {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..place]);
    hasher.update(&bytes[after..]);
    bytes[place..after].copy_from_slice(&hasher.finalize().to_le_bytes());
}

/// Where the records of a segment begin and how long they are.
fn records(segment: &[u8]) -> Vec<(usize, usize)> {
    let mut records = Vec::new();
    let mut offset = 64;
    while let Some(length) = segment.get(offset + 4..offset + 8) {
        let length = u32::from_le_bytes(length.try_into().unwrap()) as usize;
        if length == 0 {
            break;
        }
        records.push((offset, length));
        offset += length;
    }
    records
}

#[test]
fn an_index_newer_than_the_manifest_is_no_fault() {
    let machine = Machine::default();
    let (engine, _) = machine.open().unwrap();
    write_history(&engine);
    let path = Path::new(DATA).join("MANIFEST");
    let before = machine.fs.bytes(&path).unwrap();
    engine.checkpoint().unwrap();
    drop(engine);
    let after = machine.fs.bytes(&path).unwrap();
    assert_ne!(before, after);
    // As if the crash had come between the two.
    machine.fs.damage(&path, before);
    let (report, faults) = verify_machine(&machine);
    assert_eq!((faults, report.entries), (vec![], Some(39)));
    // What was changed since the checkpoint may still be missing, but not be something else.
    let index = machine.index.open().unwrap();
    let other = index.get(INDEX, entry_key("key9").as_bytes()).unwrap();
    index.put(INDEX, &entry_key("new1"), None).unwrap();
    assert_eq!(verify_machine(&machine).1, []);
    index.put(INDEX, &entry_key("new1"), other.as_ref()).unwrap();
    index.put(INDEX, &entry_key("key8"), None).unwrap();
    assert_eq!(verify_machine(&machine).1.len(), 2);
}

#[test]
fn records_that_check_out_and_lie_are_named() {
    let machine = machine();
    let all = segments(&machine);
    // A write behind the checkpoint that says it replaced another version than there was.
    let last = all.last().unwrap();
    let sound = machine.fs.bytes(last).unwrap();
    let mut bytes = sound.clone();
    let &(offset, length) = records(&bytes).last().unwrap();
    assert_eq!(bytes[offset + 28], 1, "the write of key8");
    bytes[offset + 32 + 56] ^= 1;
    let identity: [u8; 16] = bytes[16..32].try_into().unwrap();
    let mut crc = crc32fast::Hasher::new();
    crc.update(&identity);
    crc.update(&bytes[offset + 4..offset + length]);
    bytes[offset..offset + 4].copy_from_slice(&crc.finalize().to_le_bytes());
    machine.fs.damage(last, bytes);
    let (_, faults) = verify_machine(&machine);
    let place = (last.as_path(), Some(offset as u64));
    assert_eq!((faults[0].file.as_path(), faults[0].offset), place);
    assert_eq!(faults.len(), 1);
    assert!(faults[0].what.contains("says that it replaced version"), "{}", faults[0]);
    machine.fs.damage(last, sound);
    // A segment cut between two records, and a next one that agrees.
    let [cut, next] = [&all[1], &all[2]];
    let bytes = machine.fs.bytes(cut).unwrap();
    let &(end, _) = records(&bytes).last().unwrap();
    machine.fs.damage(cut, bytes[..end].to_vec());
    let mut bytes = machine.fs.bytes(next).unwrap();
    bytes[40..44].copy_from_slice(&(end as u32).to_le_bytes());
    let crc = crc32fast::hash(&bytes[..60]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    machine.fs.damage(next, bytes);
    let (_, faults) = verify_machine(&machine);
    let chain = faults.iter().find(|fault| fault.what.contains("last LSN is not the one before"));
    let chain = chain.unwrap_or_else(|| panic!("{faults:?}"));
    assert_eq!((chain.file.as_path(), chain.offset), (cut.as_path(), Some(end as u64)));
    let other = faults.iter().any(|fault| fault.what.contains("gives another length"));
    assert!(other, "the manifest has the length as well: {faults:?}");
}

#[test]
fn an_unknown_version_is_refused_with_both_named() {
    let machine = machine();
    let path = Path::new(DATA).join("MANIFEST");
    let mut bytes = machine.fs.bytes(&path).unwrap();
    bytes[8] = 99;
    reseal(&mut bytes, 16, 20);
    machine.fs.damage(&path, bytes);
    let error = verify_with(&machine.fs, None, Path::new(DATA), &mut |_| {}).unwrap_err();
    let Error::UnknownFormat { found: 99, known, .. } = error else { panic!("{error}") };
    assert!(error.to_string().contains(&format!("99 is not known here, {known} is")), "{error}");
}

fn entry_key(name: &str) -> IndexKey {
    IndexKey::from(&key(name))
}

#[test]
fn entries_that_are_lost_stale_strange_or_swapped_are_named_each() {
    let machine = Machine::default();
    let (engine, _) = machine.open().unwrap();
    set_up(&engine);
    for i in 0..10 {
        put(&engine, &format!("key{i}"), &format!("old {i}"));
    }
    engine.checkpoint().unwrap();
    let index = machine.index.open().unwrap();
    let old = index.get(INDEX, entry_key("key3").as_bytes()).unwrap();
    put(&engine, "key3", "new 3");
    engine.close().unwrap();
    drop(engine);
    let [first, second] =
        ["key5", "key6"].map(|name| index.get(INDEX, entry_key(name).as_bytes()).unwrap());
    index.put(INDEX, &entry_key("key1"), None).unwrap();
    index.put(INDEX, &entry_key("key3"), old.as_ref()).unwrap();
    index.put(INDEX, &entry_key("key5"), second.as_ref()).unwrap();
    index.put(INDEX, &entry_key("key6"), first.as_ref()).unwrap();
    index.put(INDEX, &entry_key("stranger"), old.as_ref()).unwrap();
    let (report, faults) = verify_machine(&machine);
    let mut found: Vec<_> = faults.iter().map(|fault| fault.what.as_str()).collect();
    found.sort_unstable();
    assert_eq!(found.len(), 5, "{found:#?}");
    assert!(found[0].starts_with("key \"key1\" of index \"index\" has no entry"), "{found:#?}");
    assert!(found[1].starts_with("key \"stranger\" of index \"index\" has an entry"), "{found:#?}");
    for (what, name) in found[2..].iter().zip(["key3", "key5", "key6"]) {
        assert!(what.starts_with(&format!("the entry of key {name:?}")), "{what}");
        assert!(what.contains(".log:"), "{what}: the place in the log");
    }
    assert!(faults.iter().all(|fault| fault.file == Path::new(DATA).join("index")));
    assert_eq!((report.entries, report.documents), (Some(10), 10));
}

#[test]
fn an_index_older_than_the_checkpoint_is_one_fault() {
    let machine = machine();
    machine.index.set_aside().unwrap();
    let (report, faults) = verify_machine(&machine);
    assert_eq!(faults.len(), 1);
    assert!(faults[0].what.contains("missing"), "{faults:?}");
    assert_eq!((report.entries, report.documents), (None, 39));
}

/// A directory of the real filesystem with sled, left as by a crash.
fn disk() -> (tempfile::TempDir, PathBuf) {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("data");
    let (engine, _) = Engine::open(&dir, options()).unwrap();
    write_history(&engine);
    drop(engine);
    (temporary, dir)
}

#[test]
fn on_disk_nothing_is_changed_and_a_running_shard_is_left_alone() {
    let (_temporary, dir) = disk();
    let before = snapshot(&dir);
    let (report, faults) = verify_dir(&dir);
    assert_eq!((faults, report.entries), (vec![], Some(35)));
    assert_eq!(snapshot(&dir), before);
    let without = verify(&dir, false, &mut |_| {}).unwrap();
    assert_eq!(without, Report { entries: None, ..report });
    let (engine, _) = Engine::open(&dir, options()).unwrap();
    assert!(matches!(verify(&dir, true, &mut |_| {}), Err(Error::InUse { .. })));
    assert!(matches!(rebuild(&dir, &options()), Err(Error::InUse { .. })));
    drop(engine);
    // A copy without the lock's file, as of a backup, is nobody's.
    fs::remove_file(dir.join("LOCK")).unwrap();
    assert_eq!(verify_dir(&dir).1, []);
    assert!(!dir.join("LOCK").exists());
}

#[test]
fn sleds_own_damage_and_lost_entries_are_found_and_a_rebuild_mends_them() {
    let (_temporary, dir) = disk();
    let store = SledStore::new(dir.join("index"), 1 << 20);
    let index = store.open().unwrap();
    index.put(INDEX, &entry_key("key9"), None).unwrap();
    let flushed = index.checkpoint().unwrap();
    index.flush(flushed).unwrap();
    let entries = index.range(INDEX, Bound::Unbounded, &[0xff; 8]).unwrap().count();
    drop(index);
    let before = snapshot(&dir);
    let (report, faults) = verify_dir(&dir);
    assert_eq!(report.entries, Some(entries as u64));
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].what.contains("\"key9\""), "{}", faults[0]);
    assert_eq!(snapshot(&dir), before);
    let rebuilt = rebuild(&dir, &options()).unwrap();
    assert_eq!((rebuilt.stat.documents, rebuilt.replaced), (39, true));
    assert_eq!(indexes(&dir), ["index"], "what was replaced can be made from the log at any time");
    assert_eq!(verify_dir(&dir).1, []);
    // All of sled's files overwritten: whatever it makes of them, something is wrong.
    for (path, (_, bytes)) in snapshot(&dir.join("index")) {
        fs::write(path, vec![0xa5; bytes.len()]).unwrap();
    }
    let before = snapshot(&dir);
    let (report, faults) = verify_dir(&dir);
    assert_eq!((faults.len(), report.entries), (1, None), "{faults:?}");
    assert_eq!(snapshot(&dir), before);
    rebuild(&dir, &options()).unwrap();
    assert_eq!(indexes(&dir), ["index"]);
    assert_eq!(verify_dir(&dir).1, []);
    let (engine, recovery) = Engine::open(&dir, options()).unwrap();
    assert_eq!((recovery.rebuilt, recovery.replayed), (None, 0));
    assert_eq!(contents(&engine).len(), 39);
}

/// The names of index directories in a data directory.
fn indexes(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    let mut names: Vec<_> = names.filter(|name| name.starts_with("index")).collect();
    names.sort();
    names
}

/// They take space, which a full disk lacks.
#[test]
fn an_opening_keeps_only_the_last_damaged_index_and_nothing_of_a_rebuild_cut_off() {
    let (_temporary, dir) = disk();
    for name in ["index.damaged-2", "index.damaged-7", "index.new", "index.old", "index.mine"] {
        fs::create_dir(dir.join(name)).unwrap();
        fs::write(dir.join(name).join("db"), name).unwrap();
    }
    for round in 0..3 {
        for (path, (_, bytes)) in snapshot(&dir.join("index")) {
            fs::write(path, vec![round; bytes.len()]).unwrap();
        }
        let damaged = fs::read(dir.join("index/db")).unwrap();
        let (engine, recovery) = Engine::open(&dir, options()).unwrap();
        assert!(recovery.rebuilt.is_some());
        assert_eq!(contents(&engine).len(), 39);
        drop(engine);
        assert_eq!(indexes(&dir), ["index", "index.damaged-1", "index.mine"]);
        assert!(fs::read(dir.join("index.damaged-1/db")).unwrap() == damaged, "round {round}");
    }
    rebuild(&dir, &options()).unwrap();
    assert_eq!(indexes(&dir), ["index", "index.damaged-1", "index.mine"]);
}

#[test]
fn a_rebuild_changes_nothing_where_the_log_is_damaged_or_the_directory_is_none() {
    let (temporary, dir) = disk();
    let sealed = dir.join("log/0000000001.log");
    let mut bytes = fs::read(&sealed).unwrap();
    bytes[1000] ^= 1;
    fs::write(&sealed, bytes).unwrap();
    let before = snapshot(&dir);
    let error = rebuild(&dir, &options()).map(drop).unwrap_err();
    assert!(matches!(&error, Error::Corrupt { file, .. } if *file == sealed), "{error}");
    assert_eq!(snapshot(&dir), before);
    // What the damage does not touch is still served with the index there is.
    let (engine, recovery) = Engine::open(&dir, options()).unwrap();
    assert_eq!(recovery.rebuilt, None);
    assert_eq!(get(&engine, "new1").as_deref(), Some("n"));
    drop(engine);
    // The log says nothing of itself that the manifest has to say.
    fs::rename(dir.join("MANIFEST"), dir.join("kept")).unwrap();
    let error = rebuild(&dir, &options()).map(drop).unwrap_err();
    assert!(
        error.to_string().ends_with("MANIFEST is damaged at offset 0: the manifest is missing")
    );
    let (_, faults) = verify_dir(&dir);
    assert!(faults.iter().any(|fault| fault.to_string().ends_with("the manifest is missing")));
    fs::rename(dir.join("kept"), dir.join("MANIFEST")).unwrap();
    fs::rename(dir.join("log"), temporary.path().join("log")).unwrap();
    let (_, faults) = verify_dir(&dir);
    let expected = format!("{}: the directory of the log is missing", dir.join("log").display());
    assert_eq!(faults[0].to_string(), expected);
    let missing = temporary.path().join("missing");
    assert!(rebuild(&missing, &options()).is_err());
    assert!(verify(&missing, true, &mut |_| {}).is_err());
    assert!(!missing.exists());
}
