//! A real small filesystem that is filled and freed, with the real sled on it.
//!
//! Needs the right to mount a tmpfs, and says so where it is missing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sherd_engine::fs::{DiskFs, FaultFs, Fs};
use sherd_engine::index::SledStore;
use sherd_engine::{
    Command, Condition, Engine, Error, MutationOutcome, Options, Outcome, Recovery, rebuild,
};

use crate::common::*;
use crate::tmpfs::Tmpfs;

const ROUNDS: u32 = 100;

/// Of the filesystem.
const BYTES: u64 = 32 << 20;

const RESERVE: u64 = 4 << 20;

fn options() -> Options {
    Options {
        segment_bytes: 64 * 1024,
        reserve_bytes: Some(RESERVE),
        checkpoint_keys: 500,
        ..crate::common::options()
    }
}

fn open(dir: &Path) -> (Engine, Recovery) {
    Engine::open(&dir.join("data"), options()).unwrap()
}

fn try_put(engine: &Engine, name: &str, document: &str) -> Result<(), Error> {
    let mutations = vec![write(name, document, Condition::Any)];
    match engine.execute(Command::Mutate { mutations, atomic: false })? {
        Outcome::Mutated(outcomes) => match &outcomes[0] {
            MutationOutcome::Written(_) => Ok(()),
            MutationOutcome::Refused(error) => Err(error.clone()),
            other => panic!("{other:?}"),
        },
        Outcome::Done | Outcome::Frozen(_) => {
            panic!("a mutation was answered as a control command")
        }
    }
}

fn is_of_the_index(error: &Error) -> bool {
    matches!(error, Error::Index(_) | Error::IndexClosed { .. })
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} does not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The documents themselves fill the disk, and their removal frees it: by compaction, which has to
/// work where nothing is left.
#[test]
fn documents_fill_the_disk_and_removing_them_frees_it_a_hundred_times() {
    let Some(disk) = Tmpfs::mount(BYTES) else { return };
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let begun = Instant::now();
    let options = Options { compaction: true, ..options() };
    let open = || Engine::open(&disk.path().join("data"), options.clone()).unwrap().0;
    let mut engine = open();
    set_up(&engine);
    let mut expected = BTreeMap::new();
    let (mut writes, mut removes) = (0, 0);
    for round in 0..ROUNDS {
        let error = loop {
            let name = format!("key{}", rng.random_range(0..6_000));
            let document = format!("{writes} {}", "x".repeat(rng.random_range(0..40_000)));
            match try_put(&engine, &name, &document) {
                Ok(()) => _ = expected.insert(name, document),
                Err(error) => break error,
            }
            writes += 1;
        };
        assert!(matches!(error, Error::DiskFull { .. }), "round {round}: {error}");
        assert_eq!(contents(&engine), expected, "round {round}, full");
        if round % 10 == 9 {
            drop(engine);
            engine = open();
            assert_eq!(contents(&engine), expected, "round {round}, started on a full disk");
        }
        let names: Vec<_> = expected.keys().cloned().collect();
        let share = rng.random_range(0.2..0.8);
        for name in names.iter().filter(|_| rng.random_bool(share)) {
            assert!(matches!(one(&engine, remove(name)), MutationOutcome::Removed(_)));
            expected.remove(name);
            removes += 1;
        }
        let after = format!("after {round}");
        wait_for("space", || try_put(&engine, "after", &after).is_ok());
        expected.insert("after".to_owned(), after);
        assert_eq!(engine.stat().poisoned, None);
    }
    engine.close().unwrap();
    drop(engine);
    let engine = open();
    assert_eq!(contents(&engine), expected);
    println!("{ROUNDS} rounds, {writes} writes, {removes} removes, {:?}", begun.elapsed());
}

/// A disk of 160 MiB and segments of 32 MiB stuck for good after some rounds: with few segments,
/// removes and compaction put more into the overlay than a checkpoint had space for, and without a
/// checkpoint no segment is deleted. Here all is an eighth of that.
#[test]
fn a_disk_of_five_segments_frees_itself_by_removes() {
    let Some(disk) = Tmpfs::mount(20 << 20) else { return };
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let options = Options {
        segment_bytes: 4 << 20,
        reserve_bytes: None,
        compaction: true,
        ..crate::common::options()
    };
    let open = || Engine::open(&disk.path().join("data"), options.clone()).unwrap().0;
    let mut engine = open();
    set_up(&engine);
    let mut expected = BTreeMap::new();
    let mut writes = 0;
    for round in 0..8 {
        let error = loop {
            let name = format!("key{writes}");
            match try_put(&engine, &name, &format!("{writes:01000}")) {
                Ok(()) => _ = expected.insert(name, format!("{writes:01000}")),
                Err(error) => break error,
            }
            writes += 1;
        };
        assert!(matches!(error, Error::DiskFull { .. }), "round {round}: {error}");
        let removed: Vec<_> = expected.keys().filter(|_| rng.random_bool(0.6)).cloned().collect();
        for names in removed.chunks(50) {
            wait_for("room for removes", || {
                let mutations = names.iter().map(|name| remove(name)).collect();
                engine.execute(Command::Mutate { mutations, atomic: false }).is_ok()
            });
        }
        for name in &removed {
            expected.remove(name);
        }
        if round % 4 == 3 {
            drop(engine);
            engine = open();
        }
        wait_for("space", || try_put(&engine, "after", "x").is_ok());
        expected.insert("after".to_owned(), "x".to_owned());
        assert_eq!(contents(&engine), expected, "round {round}");
    }
}

#[test]
fn a_disk_filled_and_freed_a_hundred_times_loses_nothing_and_needs_no_restart() {
    let Some(disk) = Tmpfs::mount(BYTES) else { return };
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let begun = Instant::now();
    let mut engine = open(disk.path()).0;
    set_up(&engine);
    let mut expected = BTreeMap::new();
    let (mut restarts, mut refusals, mut removes, mut writes) = (0, 0, 0, 0);
    let mut reserves_taken = 0;
    for round in 0..ROUNDS {
        // Somebody else takes the space, all of it or nearly, while documents come in.
        let before = rng.random_range(0..30);
        let mut i = 0;
        let mut taken = false;
        // A checkpoint that met the full disk while it was being filled gave the reserve up, and who
        // filled it got it: nothing is promised then but that nothing is lost.
        let mut reserve_taken = false;
        let error = loop {
            if i == before {
                disk.fill_but(rng.random_range(0..4) * 100_000);
                taken = true;
                reserve_taken = !disk.path().join("data/reserve").exists();
                reserves_taken += u32::from(reserve_taken);
            }
            let name = format!("key{}", rng.random_range(0..400));
            let document = format!("{round}.{i} {}", "x".repeat(rng.random_range(0..1000)));
            match try_put(&engine, &name, &document) {
                Ok(()) => _ = expected.insert(name, document),
                Err(error) => break error,
            }
            i += 1;
            assert!(i < 1000, "the disk is never full");
        };
        writes += i;
        assert!(taken && matches!(error, Error::DiskFull { .. }), "round {round}: {error}");
        refusals += 1;
        let full = engine.stat();
        assert_eq!(full.poisoned, None);
        assert!(full.disk_full.is_some(), "round {round}");
        assert_eq!(contents(&engine), expected, "round {round}, full");
        // Removes go on, durably, and so do checkpoints.
        let names: Vec<_> = expected.keys().cloned().collect();
        for _ in 0..rng.random_range(1..10) {
            let name = &names[rng.random_range(0..names.len())];
            let mutations = vec![remove(name)];
            let removed = match engine.execute(Command::Mutate { mutations, atomic: false }) {
                Err(Error::DiskFull { .. }) if reserve_taken => break,
                removed => removed.unwrap(),
            };
            let there = expected.remove(name).is_some();
            let removed = matches!(&removed, Outcome::Mutated(outcomes)
                if matches!(outcomes[..], [MutationOutcome::Removed(_)]));
            assert_eq!(removed, there, "round {round}");
            removes += 1;
        }
        if rng.random_bool(0.3) {
            match engine.checkpoint() {
                Err(Error::DiskFull { .. }) if reserve_taken => {}
                done => done.unwrap(),
            }
        }
        if round % 10 == 9 {
            // As a kill would leave it, and started again on the full disk.
            drop(engine);
            disk.fill();
            engine = open(disk.path()).0;
            restarts += 1;
            assert_eq!(contents(&engine), expected, "round {round}, started on a full disk");
            // Where the reserve was used up before, there may be no room left to remove in.
            let name = format!("key{}", rng.random_range(0..400));
            let mutations = vec![remove(&name)];
            match engine.execute(Command::Mutate { mutations, atomic: false }) {
                Ok(_) => _ = expected.remove(&name),
                Err(error) => assert!(matches!(error, Error::DiskFull { .. }), "{error}"),
            }
        }
        disk.free();
        // At the first write, not at some later one.
        try_put(&engine, "after", &format!("round {round}")).unwrap();
        expected.insert("after".to_owned(), format!("round {round}"));
        assert_eq!(engine.stat().disk_full, None, "round {round}");
    }
    engine.close().unwrap();
    assert_eq!(contents(&engine), expected);
    drop(engine);
    let (engine, recovery) = open(disk.path());
    assert_eq!(recovery.rebuilt, None);
    assert_eq!(contents(&engine), expected);
    println!(
        "{ROUNDS} rounds, {writes} writes, {refusals} times full, {removes} removes meanwhile, \
         {restarts} starts on the full disk, {reserves_taken} times the reserve was taken, {:?}",
        begun.elapsed()
    );
    assert!(reserves_taken < ROUNDS / 4, "the reserve is hardly ever held");
}

/// Somebody else takes the space just when it was found to be enough: sled meets the end of the disk.
#[test]
fn sled_on_a_full_disk_is_opened_again_and_nothing_reads_as_not_there() {
    const FAILURES: u32 = 7;
    let Some(disk) = Tmpfs::mount(BYTES) else { return };
    // As if there were space whenever it is asked for.
    let fs = FaultFs::new(DiskFs);
    fs.set_free_bytes(|| 1 << 40);
    let fs: Arc<dyn Fs> = Arc::new(fs);
    let data = disk.path().join("data");
    let store = SledStore::new(data.join("index"), 1 << 20);
    let options = Options { checkpoint_keys: 1 << 20, reserve_bytes: Some(0), ..options() };
    let open = || Engine::open_with(Arc::clone(&fs), &store, &data, options.clone()).unwrap().0;
    let mut engine = open();
    set_up(&engine);
    let (mut failures, mut rebuilds, mut refused) = (0, 0, 0);
    let mut expected = BTreeMap::new();
    // Long, and new ones each time: sled has to grow.
    let name = |round: u32, i: u32| format!("{round}-{}-{i:04}", "k".repeat(200));
    let mut rounds = 0..2 * FAILURES;
    while failures < FAILURES {
        // Where there was space after all, once more.
        let round = rounds.next().expect("sled hardly meets the end of the disk");
        for batch in 0..4 {
            let names: Vec<_> = (0..500).map(|i| name(round, batch * 500 + i)).collect();
            let document = format!("{round}");
            let mutations = names.iter().map(|name| write(name, &document, Condition::Any));
            mutate(&engine, mutations.collect(), false);
            expected.extend(names.into_iter().map(|name| (name, document.clone())));
        }
        disk.fill_but(u64::from(round % 10) * 20_000);
        let failed = engine.checkpoint().is_err();
        failures += u32::from(failed);
        assert_eq!(engine.stat().poisoned, None);
        assert_eq!(engine.stat().checkpoint_error.is_some(), failed);
        // These are in the overlay, so they are answered.
        for i in (0..2000).step_by(97) {
            assert_eq!(get(&engine, &name(round, i)), Some(format!("{round}")));
        }
        // These are only in the index.
        for old in 0..round {
            match engine.read(INDEX, &key(&name(old, 7))) {
                Ok(document) => assert_eq!(document.unwrap().bytes, format!("{old}")),
                Err(error) => assert!(is_of_the_index(&error), "{error}"),
            }
        }
        match engine.read(INDEX, &key("never written")) {
            Ok(document) => assert_eq!(document, None),
            Err(error) => {
                assert!(is_of_the_index(&error), "{error}");
                refused += 1;
            }
        }
        disk.free();
        let mut error = None;
        wait_for("the end of the failure", || {
            error = engine.checkpoint().err();
            println!("round {round}: {error:?}");
            let lost = |error: &Error| error.to_string().contains("restart");
            error.as_ref().is_none_or(lost)
        });
        if error.is_some() {
            // sled may damage its files on a full disk, and is then not asked any more.
            assert!(engine.close().is_err());
            drop(engine);
            rebuilds += 1;
            engine = open();
        }
        assert_eq!(contents(&engine), expected, "round {round}");
    }
    println!(
        "{failures} times sled met the end of the disk: {refused} times it was closed when asked, \
         {rebuilds} times it was damaged, else it went on"
    );
    engine.close().unwrap();
}

#[test]
fn a_shard_killed_on_a_full_disk_starts_reads_and_removes() {
    let Some(disk) = Tmpfs::mount(BYTES) else { return };
    let (engine, _) = open(disk.path());
    set_up(&engine);
    for i in 0..2000 {
        put(&engine, &format!("key{i}"), &"x".repeat(i % 500));
    }
    drop(engine);
    disk.fill();
    for start in 0..3 {
        let (engine, recovery) = open(disk.path());
        assert_eq!(recovery.rebuilt, None, "start {start}");
        assert_eq!(contents(&engine).len(), 2000 - start);
        let error = try_put(&engine, "new", "document").unwrap_err();
        assert!(matches!(error, Error::DiskFull { .. }), "start {start}: {error}");
        let removed = one(&engine, remove(&format!("key{start}")));
        assert!(matches!(removed, MutationOutcome::Removed(_)), "start {start}: {removed:?}");
        drop(engine);
        // What the start has freed is taken as well.
        if start < 2 {
            disk.fill_but(2 << 20);
        }
    }
    disk.free();
    let (engine, _) = open(disk.path());
    put(&engine, "new", "document");
    assert_eq!(contents(&engine).len(), 1998);
}

/// No reserve, and not a byte for sled to be opened with: an index in memory stands in for it.
#[test]
fn where_the_index_cannot_be_opened_for_want_of_space_memory_stands_in() {
    let Some(disk) = Tmpfs::mount(BYTES) else { return };
    let options = Options { reserve_bytes: Some(0), ..options() };
    let open = || Engine::open(&disk.path().join("data"), options.clone()).unwrap();
    let (engine, _) = open();
    set_up(&engine);
    let mut expected = BTreeMap::new();
    for i in 0..1500 {
        let (name, document) = (format!("key{}", i % 1000), format!("document {i}"));
        put(&engine, &name, &document);
        expected.insert(name, document);
        if i == 1200 {
            engine.checkpoint().unwrap();
        }
    }
    drop(engine);
    disk.fill();
    for _ in 0..2 {
        let (engine, recovery) = open();
        assert_eq!(recovery.rebuilt, None);
        assert_eq!(contents(&engine), expected);
        let name = expected.keys().next().unwrap().clone();
        one(&engine, remove(&name));
        expected.remove(&name);
        // Without the index, it takes no more of the disk than a manifest does.
        match engine.checkpoint() {
            Ok(()) | Err(Error::DiskFull { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(engine.stat().disk_full.is_some());
        assert_eq!(contents(&engine), expected);
        drop(engine);
        disk.fill();
    }
    let (engine, _) = open();
    disk.free();
    put(&engine, "after", "it");
    expected.insert("after".to_owned(), "it".to_owned());
    // Now it is on the disk, up to date and asked.
    engine.checkpoint().unwrap();
    assert_eq!(contents(&engine), expected);
    engine.close().unwrap();
    drop(engine);
    let (engine, recovery) = open();
    assert_eq!((recovery.replayed, recovery.rebuilt), (0, None));
    assert_eq!(contents(&engine), expected);
}

/// It took a healthy index away, and the reserve, and left half of a new one.
#[test]
fn a_rebuild_without_room_leaves_the_index_and_the_reserve_as_they_were() {
    let Some(disk) = Tmpfs::mount(BYTES) else { return };
    let dir = disk.path().join("data");
    let (engine, _) = open(disk.path());
    set_up(&engine);
    for batch in 0..120 {
        let names = (0..500).map(|i| format!("key{}", batch * 500 + i));
        let mutations = names.map(|name| write(&name, "document", Condition::Any)).collect();
        mutate(&engine, mutations, false);
    }
    let expected = contents(&engine);
    engine.close().unwrap();
    drop(engine);
    let files = || {
        let mut found = BTreeMap::new();
        for sub in ["", "index"] {
            for entry in std::fs::read_dir(dir.join(sub)).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    found.insert(path.clone(), std::fs::read(path).unwrap());
                } else {
                    found.insert(path, Vec::new());
                }
            }
        }
        found
    };
    let before = files();
    // Refused before it begins, and in the midst of it.
    for left in [0, 1 << 20, 9 << 18, 5 << 19] {
        disk.free();
        disk.fill_but(left);
        let error = rebuild(&dir, &options()).map(drop).unwrap_err();
        println!("{left} bytes left: {error}");
        assert!(matches!(error, Error::DiskFull { .. }), "{error}");
        let text = error.to_string();
        let index = dir.join("index").display().to_string();
        assert!(text.contains(&format!("{index} is as it was")), "{text}");
        assert!(text.contains("free some and rebuild again"), "{text}");
        assert!(files() == before, "{left} bytes left: something has changed");
    }
    let (engine, recovery) = open(disk.path());
    assert_eq!((recovery.rebuilt, contents(&engine) == expected), (None, true));
    drop(engine);
    disk.free();
    assert_eq!(rebuild(&dir, &options()).unwrap().stat.documents, 60_000);
    let (engine, recovery) = open(disk.path());
    assert_eq!((recovery.rebuilt, contents(&engine) == expected), (None, true));
}
