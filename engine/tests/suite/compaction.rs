//! Compaction: what is dead is reclaimed, what lives stays, and nothing comes back.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sherd_engine::fs::{Failure, FaultFs, Kind, Operation, SimFs};
use sherd_engine::index::{IndexStore, MemoryStore};
use sherd_engine::{Command, Defect, Defects, Engine, Error, IndexSettings, Options};

use crate::common::*;

/// Compacts until there is no garbage left, and returns how many segments went.
fn compact_all(engine: &Engine) -> usize {
    let mut deleted = 0;
    while engine.compact().unwrap().is_some() {
        deleted += 1;
        assert!(deleted < 10_000, "compaction comes to no end");
    }
    deleted
}

fn segment_files(machine: &Machine) -> usize {
    let paths = machine.fs.paths().into_iter();
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "log")).count()
}

/// The numbers of the segments that these bytes are in.
fn segments_with(machine: &Machine, bytes: &[u8]) -> Vec<u32> {
    let paths = machine.fs.paths().into_iter();
    let found = paths.filter(|path| {
        let holds = || {
            let all = machine.fs.bytes(path).unwrap();
            bytes.is_empty() || all.windows(bytes.len()).any(|window| window == bytes)
        };
        path.extension().is_some_and(|extension| extension == "log") && holds()
    });
    found.map(|path| path.file_stem().unwrap().to_str().unwrap().parse().unwrap()).collect()
}

/// Opens again after a power cut, with the index or without it.
fn cut_and_open(machine: &Machine, engine: Engine, index_lost: bool) -> Engine {
    drop(engine);
    machine.fs.crash(|| false);
    machine.index.crash(false);
    if index_lost {
        machine.index.set_aside().unwrap();
    }
    let (engine, recovery) = machine.open().unwrap();
    assert!(index_lost || recovery.rebuilt.is_none(), "{recovery:?}");
    engine
}

#[test]
fn overwritten_documents_are_reclaimed_and_live_ones_stay() {
    let machine = Machine::default();
    let (engine, _) = machine.open().unwrap();
    set_up(&engine);
    for round in 0..20 {
        for i in 0..30 {
            put(&engine, &format!("key{i}"), &format!("document {i} of round {round}"));
        }
    }
    let before = contents(&engine);
    let versions: Vec<_> =
        before.keys().map(|name| engine.version(INDEX, &key(name)).unwrap()).collect();
    let segments = segment_files(&machine);
    assert!(compact_all(&engine) > 10);
    assert!(segment_files(&machine) <= 4, "{} of {segments} left", segment_files(&machine));
    let mut engine = engine;
    for index_lost in [false, true] {
        engine = cut_and_open(&machine, engine, index_lost);
        assert_eq!(contents(&engine), before);
        let now = before.keys().map(|name| engine.version(INDEX, &key(name)).unwrap());
        assert_eq!(now.collect::<Vec<_>>(), versions, "a move keeps the version");
    }
}

/// The put lies in a cold segment that nothing compacts, the removal in one that goes.
#[test]
fn a_removal_outlives_its_segment_while_an_older_record_is_there() {
    let machine = Machine::default();
    let (engine, _) = machine.open().unwrap();
    set_up(&engine);
    put(&engine, "removed", "document");
    for i in 0..60 {
        put(&engine, &format!("cold{i}"), "stays as it is");
    }
    one(&engine, remove("removed"));
    for _ in 0..40 {
        put(&engine, "hot", "is overwritten all the time, which fills segments with garbage");
    }
    let [put_in, removal_in] = segments_with(&machine, b"removed")[..] else {
        panic!("the removal lies in another segment than the put")
    };
    // The cold segments have the least garbage, so the one with the removal goes before them.
    let (mut engine, mut outlived) = (engine, false);
    for _ in 0..1000 {
        let Some(compacted) = engine.compact().unwrap() else {
            assert!(outlived, "the removal's segment never went while the put's was there");
            return;
        };
        let left = segments_with(&machine, b"");
        outlived |= left.contains(&put_in) && !left.contains(&removal_in);
        engine = cut_and_open(&machine, engine, true);
        assert_eq!(get(&engine, "removed"), None, "back after {compacted:?}");
        assert_eq!(contents(&engine).len(), 61);
    }
    panic!("compaction comes to no end");
}

/// Written, overwritten, moved, removed: the first record lies in a cold segment, and all others go
/// before it.
fn moved_and_removed(defects: Defects) -> Option<String> {
    let machine = Machine::default();
    let open = || machine.open_with(Options { defects, ..options() });
    let (mut engine, _) = open().unwrap();
    set_up(&engine);
    put(&engine, "moved", "first");
    for i in 0..40 {
        put(&engine, &format!("cold{i}"), "stays as it is, so that its segment has no garbage");
    }
    let overwrite = |engine: &Engine| {
        for _ in 0..30 {
            put(engine, "hot", "is overwritten all the time, which fills segments with garbage");
        }
    };
    overwrite(&engine);
    put(&engine, "moved", "second");
    overwrite(&engine);
    let lies_in = segments_with(&machine, b"second")[0];
    while segments_with(&machine, b"second").contains(&lies_in) {
        engine.compact().unwrap().unwrap();
    }
    one(&engine, remove("moved"));
    overwrite(&engine);
    while let Some(compacted) = engine.compact().unwrap() {
        drop(engine);
        machine.fs.crash(|| false);
        machine.index.set_aside().unwrap();
        engine = match open() {
            Ok((engine, _)) => engine,
            Err(error) => return Some(error.to_string()),
        };
        if get(&engine, "moved").is_some() {
            return Some(format!("back after {compacted:?}"));
        }
    }
    None
}

#[test]
fn a_removal_outweighs_all_records_of_a_document_that_was_moved() {
    assert_eq!(moved_and_removed(Defects::default()), None);
    let forgotten = moved_and_removed(Defects::from(Defect::FirstSegmentForgotten));
    println!("{forgotten:?}");
    assert!(forgotten.is_some(), "the order of the segments does not show it");
}

#[test]
fn nothing_comes_back_whatever_is_compacted_and_lost() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..20 {
        let machine = Machine::default();
        let (mut engine, _) = machine.open().unwrap();
        set_up(&engine);
        let mut expected = BTreeMap::new();
        for step in 0..400 {
            // Some keys are written once, some all the time, some come and go.
            let name = match rng.random_range(0..10) {
                0 => format!("cold{step}"),
                1..6 => format!("hot{}", rng.random_range(0..5)),
                _ => format!("key{}", rng.random_range(0..40)),
            };
            if rng.random_bool(0.4) && !name.starts_with("cold") {
                one(&engine, remove(&name));
                expected.remove(&name);
            } else {
                let document = format!("document {step} {}", "x".repeat(rng.random_range(0..200)));
                put(&engine, &name, &document);
                expected.insert(name, document);
            }
            match rng.random_range(0..40) {
                0 => engine.checkpoint().unwrap(),
                1 | 2 => _ = engine.compact().unwrap(),
                3 => {
                    engine = cut_and_open(&machine, engine, rng.random());
                    assert_eq!(contents(&engine), expected);
                }
                _ => {}
            }
        }
        compact_all(&engine);
        assert_eq!(contents(&engine), expected);
        engine = cut_and_open(&machine, engine, true);
        assert_eq!(contents(&engine), expected);
    }
}

#[test]
fn removals_end_when_nothing_is_left_to_outweigh() {
    let machine = Machine::default();
    let (engine, _) = machine.open().unwrap();
    set_up(&engine);
    for i in 0..200 {
        put(&engine, &format!("key{i}"), "document");
    }
    for i in 0..200 {
        one(&engine, remove(&format!("key{i}")));
    }
    compact_all(&engine);
    assert!(segment_files(&machine) <= 2, "{} segments left", segment_files(&machine));
    let engine = cut_and_open(&machine, engine, true);
    assert!(contents(&engine).is_empty());
}

#[test]
fn a_dropped_index_is_reclaimed_and_stays_away() {
    let machine = Machine::default();
    let (engine, _) = machine.open().unwrap();
    set_up(&engine);
    for i in 0..200 {
        put(&engine, &format!("key{i}"), "document");
    }
    engine.execute(Command::DropIndex { id: INDEX }).unwrap();
    engine
        .execute(Command::CreateIndex {
            id: INDEX + 1,
            name: "index".to_owned(),
            settings: IndexSettings::default(),
        })
        .unwrap();
    compact_all(&engine);
    assert!(segment_files(&machine) <= 2, "{} segments left", segment_files(&machine));
    let mut engine = engine;
    for index_lost in [false, true] {
        engine = cut_and_open(&machine, engine, index_lost);
        let stat = engine.stat();
        assert_eq!((stat.documents, stat.used), (0, 0));
        assert_eq!(stat.indexes.iter().map(|index| index.id).collect::<Vec<_>>(), [INDEX + 1]);
        let again = Command::CreateIndex {
            id: INDEX,
            name: "other".to_owned(),
            settings: IndexSettings::default(),
        };
        assert!(matches!(engine.execute(again), Err(Error::IndexIdUsed { .. })));
    }
}

#[test]
fn documents_of_a_released_range_go_before_the_range_may_come_back() {
    let machine = Machine::default();
    let (engine, _) = machine.open().unwrap();
    set_up(&engine);
    for i in 0..700 {
        put(&engine, &format!("key{i}"), "document");
    }
    let all = contents(&engine);
    let mut positions: Vec<_> = all.keys().map(|name| key(name).position).collect();
    positions.sort_unstable();
    let half = positions[positions.len() / 2];
    let (kept, released): (Vec<_>, Vec<_>) = all.keys().partition(|name| key(name).position < half);
    assert!(!kept.is_empty() && !released.is_empty());
    engine.execute(Command::Assign(assignment(2, &[(0, half)], u64::MAX))).unwrap();
    let back = Command::Assign(assignment(3, &[(0, RING)], u64::MAX));
    assert!(matches!(engine.execute(back.clone()), Err(Error::NotCleared { .. })));
    let engine = cut_and_open(&machine, engine, false);
    assert!(matches!(engine.execute(back.clone()), Err(Error::NotCleared { .. })), "remembered");
    compact_all(&engine);
    assert_eq!(engine.stat().documents, kept.len() as u64);
    engine.execute(back).unwrap();
    assert_eq!(contents(&engine).keys().collect::<Vec<_>>(), kept);
    let engine = cut_and_open(&machine, engine, true);
    assert_eq!(contents(&engine).keys().collect::<Vec<_>>(), kept);
}

#[test]
fn a_damaged_segment_is_not_compacted_away() {
    let machine = Machine::default();
    let (engine, _) = machine.open().unwrap();
    set_up(&engine);
    for i in 0..100 {
        put(&engine, &format!("key{}", i % 10), "document");
    }
    for path in machine.fs.paths().into_iter().filter(|path| path.ends_with("0000000001.log")) {
        let mut bytes = machine.fs.bytes(&path).unwrap();
        bytes[3000] ^= 1;
        machine.fs.damage(&path, bytes);
    }
    let error = loop {
        match engine.compact() {
            Ok(compacted) => assert!(compacted.is_some(), "the damage went unnoticed"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert!(machine.fs.paths().iter().any(|path| path.ends_with("0000000001.log")));
    assert_eq!(contents(&engine).len(), 10);
}

/// Readers and writers beside a compactor that always has work.
#[test]
fn documents_stay_readable_while_they_are_moved() {
    let machine = Machine::default();
    let options = Options { checkpoint_keys: 50, compaction: true, ..options() };
    let (engine, _) = machine.open_with(options).unwrap();
    set_up(&engine);
    let names: Vec<_> = (0..100).map(|i| format!("key{i}")).collect();
    for name in &names {
        put(&engine, name, "0");
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = vec![0u64; names.len()];
                while !done.load(Ordering::Relaxed) {
                    for (name, last) in names.iter().zip(&mut last) {
                        let now: u64 = get(&engine, name).unwrap().trim().parse().unwrap();
                        assert!(now >= *last, "{name} went back from {last} to {now}");
                        *last = now;
                    }
                    let page = engine.scan(&whole(INDEX)).unwrap();
                    assert_eq!(page.items.len(), names.len());
                }
            });
        }
        for round in 1..60 {
            for name in names.iter().step_by(1 + round % 3) {
                put(&engine, name, &format!("{round:>60}"));
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    let written = engine.stat().durable_lsn * 200;
    let bytes = engine.stat().log_bytes;
    assert!(bytes < written / 3, "{bytes} bytes of the log are left of some {written}");
    let expected = contents(&engine);
    let engine = cut_and_open(&machine, engine, true);
    assert_eq!(contents(&engine), expected);
}

/// A sector of a victim could not be read, and the compactor tried that segment again and again, for
/// ever, while the others filled the disk.
#[test]
fn a_segment_that_cannot_be_read_is_left_and_the_others_are_compacted() {
    let fs = FaultFs::new(SimFs::new());
    let options = Options { compaction: true, ..options() };
    let opened =
        Engine::open_with(Arc::new(fs.clone()), &MemoryStore::new(), Path::new("/data"), options);
    let engine = opened.unwrap().0;
    set_up(&engine);
    let unreadable = Failure { errno: 5, for_good: false, arrives: 0 };
    fs.fail((Operation::Read, Kind::Segment), 0, unreadable);
    let deadline = Instant::now() + Duration::from_secs(60);
    // Far more is written than is left where garbage goes.
    let mut written = 0;
    while written < 2000 || engine.stat().damaged.is_none() || engine.stat().segments > 30 {
        put(&engine, &format!("key{}", written % 20), &"overwritten".repeat(20));
        written += 1;
        assert!(Instant::now() < deadline, "{:?}", engine.stat());
    }
    let damaged = engine.stat().damaged.unwrap();
    assert!(damaged.contains(".log") && damaged.contains("os error 5"), "{damaged}");
    assert_eq!(contents(&engine).len(), 20);
}

/// So many documents that they are swept in many batches, 512 with each.
fn put_many(engine: &Engine, documents: u32) {
    let names: Vec<_> = (0..documents).map(|i| format!("{i:06}")).collect();
    for some in names.chunks(20) {
        let text = "x".repeat(100);
        let writes = some.iter().map(|name| write(name, &text, sherd_engine::Condition::Any));
        mutate(engine, writes.collect(), false);
    }
}

fn give_all_up(engine: &Engine) {
    engine.execute(Command::Assign(assignment(2, &[], u64::MAX))).unwrap();
}

/// It waited until all that was given up was removed, while the log grew.
#[test]
fn segments_are_compacted_while_what_was_given_up_is_still_being_removed() {
    let machine = Machine::default();
    let options = || Options { compaction: true, ..options() };
    let (engine, _) = machine.open_with(options()).unwrap();
    set_up(&engine);
    put_many(&engine, 40_000);
    let segments = || -> Vec<_> {
        let paths = machine.fs.paths().into_iter();
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "log")).collect()
    };
    let before = segments();
    give_all_up(&engine);
    let (mut least, mut left) = (before.len(), 0);
    wait_until("all is removed", || {
        let there = segments();
        let still_there = before.iter().filter(|path| there.contains(path)).count();
        let documents = engine.stat().documents;
        if documents > 0 {
            (least, left) = (still_there.min(least), documents);
        }
        documents == 0
    });
    println!("{least} of {} segments were there with {left} documents left", before.len());
    assert!(least < before.len(), "no segment went while there was something to remove");
}

/// Removing takes room before it gives any back, and compaction may make some.
#[test]
fn where_nothing_can_be_removed_for_want_of_space_compaction_goes_on() {
    let (fs, index) = (FaultFs::new(SimFs::new()), MemoryStore::new());
    let open = |compaction| {
        let options = Options { compaction, reserve_bytes: Some(0), ..options() };
        let opened = Engine::open_with(Arc::new(fs.clone()), &index, Path::new("/data"), options);
        opened.unwrap().0
    };
    let engine = open(false);
    set_up(&engine);
    put_many(&engine, 1000);
    for i in 0..3000 {
        put(&engine, "overwritten", &format!("{i} {}", "x".repeat(100)));
    }
    give_all_up(&engine);
    engine.close().unwrap();
    drop(engine);
    let engine = open(true);
    let no_space = Failure { errno: 28, for_good: true, arrives: 0 };
    fs.fail((Operation::Create, Kind::Spare), 0, no_space);
    let before = engine.stat().segments;
    wait_until("segments go", || engine.stat().segments + 10 < before);
    assert!(engine.stat().documents > 500, "it could not be removed");
    fs.heal();
    wait_until("all is removed", || engine.stat().documents == 0);
}
