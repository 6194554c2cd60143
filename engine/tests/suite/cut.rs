//! Cuts: what is read from one is the shard as it was, whatever the shard does meanwhile, and the log that
//! is kept leads from one to the next, to every LSN and every time in between.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sherd_engine::verify::{
    Fault, Moment, SegmentFile, ShardContents, ShardFiles, check_backup, file_sum, read_backup,
};
use sherd_engine::{Command, Cut, Engine, Error, IndexSettings, Options};

use crate::common::*;

fn cut(engine: &Engine, keep: Option<u64>) -> Cut {
    let (sender, receiver) = mpsc::channel();
    engine.cut(keep, move |result| sender.send(result).unwrap());
    receiver.recv().unwrap().unwrap()
}

/// Brings the segments of a cut that are to be had: all that it has, for what it does not name may be
/// history.
fn bring(engine: &Engine, cut: &Cut, dir: &Path) -> ShardFiles {
    std::fs::create_dir_all(dir).unwrap();
    let manifest = dir.join("MANIFEST");
    std::fs::write(&manifest, &cut.manifest).unwrap();
    let mut segments = Vec::new();
    for segment in &cut.segments {
        let path = dir.join(format!("{}.log", segment.number));
        let mut bytes = Vec::new();
        while bytes.len() < segment.length as usize {
            let offset = bytes.len() as u32;
            let piece = engine.read_cut(cut.id, segment.number, offset, 1000).unwrap();
            assert!(!piece.is_empty());
            bytes.extend_from_slice(&piece);
        }
        std::fs::write(&path, bytes).unwrap();
        let sum = engine.sum_cut(cut.id, segment.number).unwrap();
        assert_eq!(file_sum(&path).unwrap(), (sum, u64::from(segment.length)));
        if segment.is_named {
            segments.push(SegmentFile { number: segment.number, length: segment.length, path });
        }
    }
    ShardFiles { manifest, segments }
}

type Documents = BTreeMap<String, String>;

fn documents(files: &ShardFiles, at: Moment) -> (Documents, ShardContents) {
    let mut found = BTreeMap::new();
    let contents = read_backup(files, at, &mut |document| {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let document_text = text(&document.document.bytes);
        assert!(found.insert(text(&document.key.bytes), document_text).is_none());
        Ok::<_, Error>(())
    });
    let contents = contents.unwrap();
    let sums = contents.indexes.get(&INDEX).map(|index| index.sums).unwrap_or_default();
    assert_eq!(sums.documents, found.len() as u64);
    (found, contents)
}

fn faults(files: &ShardFiles) -> Vec<Fault> {
    let mut found = Vec::new();
    check_backup(files, Moment::Cut, &mut |fault| found.push(fault)).unwrap();
    found
}

/// Writes, overwrites and removes at random.
fn work(engine: &Engine, rng: &mut StdRng, steps: usize) {
    for _ in 0..steps {
        let name = format!("key{}", rng.random_range(0..60));
        match rng.random_range(0..10) {
            0..3 => _ = one(engine, remove(&name)),
            3 => {
                let mutations = (0..rng.random_range(1..5)).map(|_| {
                    let name = format!("key{}", rng.random_range(0..60));
                    write(
                        &name,
                        &format!("group {}", rng.random::<u32>()),
                        sherd_engine::Condition::Any,
                    )
                });
                _ = mutate(engine, mutations.collect(), true);
            }
            _ => _ = put(engine, &name, &format!("{} {}", rng.random::<u64>(), "x".repeat(90))),
        }
    }
}

#[test]
fn a_cut_stays_what_it_was_while_segments_are_compacted_and_deleted() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let machine = Machine::default();
    let (engine, _) = machine.open().unwrap();
    set_up(&engine);
    let dir = tempfile::tempdir().unwrap();
    for round in 0..6 {
        work(&engine, &mut rng, 300);
        if rng.random() {
            engine.checkpoint().unwrap();
        }
        let before = contents(&engine);
        let taken = cut(&engine, None);
        let sums = engine.sums(&[(0, RING)]).unwrap();
        assert_eq!(taken.sums, sums);
        work(&engine, &mut rng, 200);
        // Nothing of what it was is left in the directory.
        while engine.compact().unwrap().is_some() {}
        let files = bring(&engine, &taken, &dir.path().join(round.to_string()));
        engine.release_cut(taken.id);
        assert_eq!(faults(&files), []);
        let (found, contents) = documents(&files, Moment::Cut);
        assert_eq!(found, before, "round {round}");
        assert_eq!((contents.lsn, contents.identity), (taken.lsn, taken.identity));
        assert_eq!(contents.indexes[&INDEX].sums, sums[&INDEX]);
        assert_eq!(contents.assignment.as_ref(), Some(&*taken.assignment));
    }
}

#[test]
fn what_is_not_owned_and_what_was_dropped_is_not_in_it() {
    let machine = Machine::default();
    let (engine, _) = machine.open().unwrap();
    set_up(&engine);
    for i in 0..200 {
        put(&engine, &format!("key{i}"), "document");
    }
    let settings = IndexSettings::default();
    engine.execute(Command::CreateIndex { id: 2, name: "other".to_owned(), settings }).unwrap();
    engine.execute(Command::DropIndex { id: 2 }).unwrap();
    let mut positions: Vec<_> = (0..200).map(|i| key(&format!("key{i}")).position).collect();
    positions.sort_unstable();
    let half = (0, positions[100]);
    let sums = engine.sums(&[half]).unwrap();
    // Compaction is off, and so is the removal of what was given up.
    engine.execute(Command::Assign(assignment(2, &[half], u64::MAX))).unwrap();
    let taken = cut(&engine, None);
    assert_eq!(taken.sums, sums);
    let dir = tempfile::tempdir().unwrap();
    let files = bring(&engine, &taken, dir.path());
    let (found, contents) = documents(&files, Moment::Cut);
    assert!(found.len() < 200 && !found.is_empty());
    assert_eq!(contents.indexes[&INDEX].sums, sums[&INDEX]);
    assert_eq!(contents.indexes.len(), 1);
}

#[test]
fn every_flipped_byte_and_every_cut_of_a_backup_is_a_fault() {
    let machine = Machine::default();
    let (engine, _) = machine.open().unwrap();
    set_up(&engine);
    let mut rng = StdRng::seed_from_u64(7);
    work(&engine, &mut rng, 60);
    let taken = cut(&engine, None);
    let dir = tempfile::tempdir().unwrap();
    let files = bring(&engine, &taken, dir.path());
    assert!(files.segments.len() > 1);
    assert_eq!(faults(&files), []);
    let paths = files.segments.iter().map(|segment| &segment.path);
    for path in paths.chain([&files.manifest]) {
        let original = std::fs::read(path).unwrap();
        for byte in (0..original.len()).step_by(13).chain([original.len() - 1]) {
            let mut flipped = original.clone();
            flipped[byte] ^= 1;
            std::fs::write(path, flipped).unwrap();
            let found = faults(&files);
            let is_there =
                found.iter().any(|it| it.file == *path && it.offset <= Some(byte as u64));
            assert!(is_there, "byte {byte} of {}: {found:?}", path.display());
            std::fs::write(path, &original[..byte]).unwrap();
            assert_ne!(faults(&files), [], "{} cut at {byte}", path.display());
        }
        std::fs::write(path, original).unwrap();
    }
    assert_eq!(faults(&files), []);
}

/// From one backup to the next every state that there was can be had: by LSN, and by time.
#[test]
fn the_log_that_is_kept_leads_to_every_moment_between_two_backups() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let machine = Machine::default();
    let time = Time::default();
    let options = Options { clock: time.clock(), ..options() };
    let (mut engine, _) = machine.open_with(options.clone()).unwrap();
    set_up(&engine);
    let dir = tempfile::tempdir().unwrap();
    work(&engine, &mut rng, 300);
    while engine.compact().unwrap().is_some() {}
    let first = cut(&engine, Some(1 << 30));
    let base = bring(&engine, &first, &dir.path().join("first"));
    engine.release_cut(first.id);
    engine.keep_log(first.lsn, 1 << 30).unwrap();
    let last_of_first = first.segments.last().unwrap().number;

    let mut states = vec![(first.lsn, time.now(), contents(&engine))];
    time.advance(1);
    for step in 0..120 {
        let steps = rng.random_range(1..4);
        work(&engine, &mut rng, steps);
        let state = (engine.stat().durable_lsn, time.now(), contents(&engine));
        states.push(state);
        time.advance(rng.random_range(1..50));
        if step % 20 == 7 {
            for _ in 0..10 {
                _ = engine.compact().unwrap();
            }
        }
        if step == 60 {
            // What is kept is remembered.
            engine.close().unwrap();
            drop(engine);
            (engine, _) = machine.open_with(options.clone()).unwrap();
        }
    }
    let second = cut(&engine, None);
    let later = bring(&engine, &second, &dir.path().join("second"));
    let numbers: Vec<_> = second.segments.iter().map(|segment| segment.number).collect();
    let last = *numbers.last().unwrap();
    let since: Vec<_> = numbers.into_iter().filter(|number| *number >= last_of_first).collect();
    assert_eq!(since, (last_of_first..=last).collect::<Vec<_>>(), "some was deleted");
    assert!(second.segments.iter().any(|segment| !segment.is_named), "nothing was compacted");

    let before = base.segments.iter().filter(|segment| segment.number < last_of_first).cloned();
    let history = second.segments.iter().filter(|segment| segment.number >= last_of_first);
    let history = history.map(|segment| SegmentFile {
        number: segment.number,
        length: segment.length,
        path: dir.path().join("second").join(format!("{}.log", segment.number)),
    });
    let files =
        ShardFiles { manifest: base.manifest.clone(), segments: before.chain(history).collect() };
    for (i, (lsn, at, expected)) in states.iter().enumerate() {
        let (found, _) = documents(&files, Moment::Lsn(*lsn));
        assert!(found == *expected, "LSN {lsn}, state {i}");
        // Of the first state, the batches were before the log was kept.
        let (found, contents) = documents(&files, Moment::Time(*at));
        assert!(found == *expected, "time {at}, state {i}, LSN {} for {lsn}", contents.lsn);
    }
    // In the middle of a group nothing of it counts.
    for lsn in (first.lsn..=second.lsn).step_by(7) {
        let (_, contents) = documents(&files, Moment::Lsn(lsn));
        assert!(contents.lsn <= lsn && lsn - contents.lsn < 5, "{} for {lsn}", contents.lsn);
    }
    let (found, contents) = documents(&files, Moment::Lsn(second.lsn));
    assert_eq!(contents.lsn, second.lsn);
    assert_eq!(found, documents(&later, Moment::Cut).0);
}

/// A moment has a time only if the log was kept without a gap: whoever has two cuts is told.
#[test]
fn a_cut_says_since_when_each_batch_has_its_time() {
    let machine = Machine::default();
    let time = Time::default();
    let options = Options { clock: time.clock(), ..options() };
    let (mut engine, _) = machine.open_with(options.clone()).unwrap();
    set_up(&engine);
    let cut_after_a_write = |engine: &Engine, keep: Option<u64>| {
        put(engine, "key", &time.now().to_string());
        time.advance(1);
        let taken = cut(engine, keep);
        engine.release_cut(taken.id);
        assert_eq!(taken.clock, time.now());
        taken
    };
    assert_eq!(cut_after_a_write(&engine, None).timed_after, None);
    let first = cut_after_a_write(&engine, Some(1 << 30));
    assert_eq!(first.timed_after, Some(first.lsn));
    engine.keep_log(first.lsn, 1 << 30).unwrap();
    engine.close().unwrap();
    drop(engine);
    (engine, _) = machine.open_with(options.clone()).unwrap();
    let second = cut_after_a_write(&engine, None);
    assert_eq!(second.timed_after, Some(first.lsn), "over a restart");

    // Something is written that has no time.
    engine.keep_log(0, 0).unwrap();
    put(&engine, "key", "without a time");
    let third = cut_after_a_write(&engine, Some(1 << 30));
    assert_eq!(third.timed_after, Some(third.lsn));
    // And once more, with the end of a backup that was cut before.
    engine.keep_log(0, 0).unwrap();
    put(&engine, "key", "without a time");
    engine.keep_log(third.lsn, 1 << 30).unwrap();
    let fourth = cut_after_a_write(&engine, Some(1 << 30));
    assert_eq!(fourth.timed_after, Some(fourth.lsn));
    let fifth = cut_after_a_write(&engine, None);
    assert_eq!(fifth.timed_after, Some(fourth.lsn));
}

#[test]
fn a_time_that_came_twice_is_told() {
    let machine = Machine::default();
    let time = Time::default();
    let open = || machine.open_with(Options { clock: time.clock(), ..options() }).unwrap().0;
    let mut engine = open();
    set_up(&engine);
    let first = cut(&engine, Some(1 << 30));
    let dir = tempfile::tempdir().unwrap();
    let base = bring(&engine, &first, &dir.path().join("first"));
    // From 100 it goes back to 50: over a restart, for before it would stand still.
    for at in [0, 60, 100, 50, 70, 120] {
        time.set(Time::START + at);
        if at == 50 {
            engine.close().unwrap();
            drop(engine);
            engine = open();
        }
        put(&engine, "key", &at.to_string());
    }
    let second = cut(&engine, None);
    assert_eq!(second.clock, Time::START + 120);
    let later = bring(&engine, &second, &dir.path().join("second"));
    let files = ShardFiles { manifest: base.manifest, segments: later.segments };
    for (at, is_ambiguous, expected) in [
        (0, false, "0"),
        (49, false, "0"),
        (50, true, "0"),
        (65, true, "60"),
        (99, true, "60"),
        (100, false, "70"),
        (119, false, "70"),
        (120, false, "120"),
    ] {
        let (found, contents) = documents(&files, Moment::Time(Time::START + at));
        assert_eq!(contents.is_ambiguous, is_ambiguous, "at {at}");
        assert_eq!(found["key"], expected, "at {at}");
    }
}

#[test]
fn the_log_is_kept_up_to_its_bound_only() {
    let machine = Machine::default();
    let options = Options { compaction: true, ..options() };
    let (engine, _) = machine.open_with(options).unwrap();
    set_up(&engine);
    let first = cut(&engine, Some(20_000));
    engine.release_cut(first.id);
    let overwrite = |rounds: u32| {
        for i in 0..rounds {
            put(&engine, "hot", &format!("{i} {}", "x".repeat(200)));
        }
    };
    let is_whole = || {
        let taken = cut(&engine, None);
        engine.release_cut(taken.id);
        let first = taken.segments.first().unwrap().number;
        first == 1 && taken.segments.len() == (taken.segments.last().unwrap().number) as usize
    };
    overwrite(30);
    for _ in 0..5 {
        _ = engine.compact().unwrap();
    }
    assert!(is_whole());
    let begun = std::time::Instant::now();
    while is_whole() {
        overwrite(100);
        assert!(begun.elapsed() < Duration::from_secs(60), "it is kept without end");
    }
}

#[test]
fn a_cut_that_nobody_reads_from_is_let_go() {
    let machine = Machine::default();
    let options = Options { log_held: Duration::from_millis(50), ..options() };
    let (engine, _) = machine.open_with(options).unwrap();
    set_up(&engine);
    let taken = cut(&engine, None);
    let number = taken.segments[0].number;
    assert!(engine.read_cut(taken.id, number, 0, 10).is_ok());
    std::thread::sleep(Duration::from_millis(100));
    let gone = engine.read_cut(taken.id, number, 0, 10).unwrap_err();
    assert_eq!(gone, Error::CutGone { id: taken.id });
    assert_eq!(cut(&engine, None).segments, taken.segments);
}
