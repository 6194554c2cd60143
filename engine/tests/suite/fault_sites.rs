//! Every place where the engine writes, syncs, cuts, renames or creates a file fails, at its first,
//! second and fiftieth call, once and for good, with an I/O error and with a full disk; writes also
//! fail half-way.
//!
//! After each: what was acknowledged is durable, reads go on, and either it is visible that writing
//! has stopped, or it goes on without a restart.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sherd_engine::fs::{Failure, FaultFs, File, Fs, Kind, Operation, SimFs, Site};
use sherd_engine::index::MemoryStore;
use sherd_engine::{
    Command, Condition, Engine, Error, Mutation, MutationOutcome, Options, Outcome, Result,
};

use crate::common::*;

type Contents = BTreeMap<String, String>;

const EIO: i32 = 5;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;

/// Those that a running engine comes to.
const RUNNING: [Site; 17] = [
    (Operation::Write, Kind::Segment),
    (Operation::Sync, Kind::Segment),
    (Operation::SetLen, Kind::Segment),
    (Operation::Create, Kind::Spare),
    (Operation::Write, Kind::Spare),
    (Operation::Sync, Kind::Spare),
    (Operation::Rename, Kind::Spare),
    (Operation::SyncDir, Kind::LogDir),
    (Operation::Create, Kind::Manifest),
    (Operation::Write, Kind::Manifest),
    (Operation::Sync, Kind::Manifest),
    (Operation::Rename, Kind::Manifest),
    (Operation::SyncDir, Kind::DataDir),
    (Operation::Create, Kind::Reserve),
    (Operation::Write, Kind::Reserve),
    (Operation::Sync, Kind::Reserve),
    (Operation::Remove, Kind::Reserve),
];

/// A machine whose disk fails where it is told to.
struct Faulty {
    sim: SimFs,
    fs: FaultFs<SimFs>,
    index: MemoryStore,
}

impl Faulty {
    fn new() -> Self {
        let sim = SimFs::new();
        let failing = sim.clone();
        // As Linux does: the bytes count as clean from then on, and are not on the disk.
        let fs = FaultFs::new(sim.clone()).when_a_sync_fails(move |file: &dyn File| {
            failing.fail_sync_of(file);
        });
        // Too little for a checkpoint while there is a reserve: each releases it, and then it is
        // made again.
        let files = sim.clone();
        fs.set_free_bytes(move || match files.bytes(Path::new("/data/reserve")) {
            Some(_) => 2 << 20,
            None => 1 << 30,
        });
        Self { sim, fs, index: MemoryStore::new() }
    }

    fn open(&self) -> Result<Engine> {
        let fs = Arc::new(self.fs.clone());
        let options = Options { reserve_bytes: Some(64 << 10), ..options() };
        Ok(Engine::open_with(fs, &self.index, Path::new("/data"), options)?.0)
    }

    /// Loses all that is not durable.
    fn lose_power(&self) {
        self.fs.heal();
        self.sim.crash(|| false);
        self.index.crash(false);
    }
}

/// What an engine was asked, and what may be there because of it.
#[derive(Default)]
struct Asked {
    /// Acknowledged.
    sure: Contents,
    /// What an operation of unknown outcome would have made of a key.
    unknown: Option<(String, Option<String>)>,
    steps: u32,
    refused: u32,
}

impl Asked {
    /// Writes or removes one of some keys, and checks a few others.
    fn step(&mut self, engine: &Engine) -> Option<Error> {
        let i = self.steps;
        self.steps += 1;
        let name = format!("key{}", i * 7 % 40);
        let (mutation, after) = if i % 5 == 4 {
            (remove(&name), None)
        } else {
            let document = format!("document {i}, {}", "x".repeat((i % 13) as usize * 40));
            (write(&name, &document, Condition::Any), Some(document))
        };
        let refused = match engine.execute(one_of(mutation)) {
            Ok(Outcome::Mutated(outcomes)) => {
                assert!(!matches!(outcomes[0], MutationOutcome::Refused(_)), "{outcomes:?}");
                match after {
                    Some(document) => _ = self.sure.insert(name, document),
                    None => _ = self.sure.remove(&name),
                }
                None
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                if matches!(error, Error::OutcomeUnknown { .. }) {
                    assert!(self.unknown.is_none(), "the writer has stopped");
                    self.unknown = Some((name, after));
                }
                self.refused += 1;
                Some(error)
            }
        };
        let name = format!("key{}", i * 11 % 40);
        assert_eq!(get(engine, &name), self.sure.get(&name).cloned(), "step {i}: {refused:?}");
        refused
    }

    /// That just this is there, or with the one of unknown outcome.
    fn check(&self, found: &Contents, when: &str) {
        let mut with_unknown = self.sure.clone();
        if let Some((name, after)) = self.unknown.clone() {
            match after {
                Some(document) => _ = with_unknown.insert(name, document),
                None => _ = with_unknown.remove(&name),
            }
        }
        assert!(*found == self.sure || *found == with_unknown, "{when}");
    }
}

fn one_of(mutation: Mutation) -> Command {
    Command::Mutate { mutations: vec![mutation], atomic: false }
}

/// Works until `stop`, or for long enough: writes, removes and checkpoints. Whether it stopped.
fn work(engine: &Engine, asked: &mut Asked, stop: impl Fn() -> bool) -> bool {
    for _ in 0..1200 {
        if stop() {
            return true;
        }
        asked.step(engine);
        if asked.steps.is_multiple_of(20) {
            _ = engine.checkpoint();
        }
    }
    stop()
}

fn fail_and_recover(site: Site, before: u64, failure: Failure) -> Option<bool> {
    let what = format!("{site:?} {failure:?} after {before}");
    let disk = Faulty::new();
    let engine = disk.open().unwrap();
    set_up(&engine);
    // Until it made its reserve and its next segment, it is not known which call is the first.
    wait_for(|| {
        [Kind::Reserve, Kind::Spare].iter().all(|kind| {
            disk.fs.calls().get(&(Operation::Sync, *kind)).is_some_and(|calls| *calls > 0)
        })
    });
    let mut asked = Asked::default();
    disk.fs.fail(site, before, failure);
    if !work(&engine, &mut asked, || disk.fs.failed() > 0) {
        return None;
    }
    // A while under the fault.
    for _ in 0..60 {
        asked.step(&engine);
    }
    let meanwhile = engine.checkpoint();
    let what = format!("{what}, checkpoint {meanwhile:?}");
    asked.check(&contents(&engine), &what);
    disk.fs.heal();
    let stat = engine.stat();
    let poisoned = stat.poisoned.is_some();
    if poisoned {
        let error = asked.step(&engine).unwrap();
        assert!(matches!(error, Error::Poisoned { .. }), "{what}: {error}");
    } else {
        assert_eq!(asked.unknown, None, "{what}");
        for _ in 0..60 {
            assert_eq!(asked.step(&engine), None, "{what}: it goes on");
        }
        engine.checkpoint().unwrap();
        assert_eq!(engine.stat().checkpoint_error, None, "{what}");
        // The thread that prepares segments may have met the checkpoint that used the reserve.
        wait_for(|| engine.stat().disk_full.is_none());
    }
    asked.check(&contents(&engine), &what);
    match engine.close() {
        Err(Error::Poisoned { .. }) => assert!(poisoned, "{what}"),
        closed => assert_eq!((closed, poisoned), (Ok(()), false), "{what}"),
    }
    drop(engine);
    disk.lose_power();
    let engine = disk.open().unwrap();
    asked.check(&contents(&engine), &format!("{what}, after the power loss"));
    Some(poisoned)
}

fn wait_for(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "it does not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// All faults, each at its calls.
fn faults() -> Vec<(Site, u64, Failure)> {
    let mut faults = Vec::new();
    for site in RUNNING {
        // Of a write, nothing arrives, or the greater part.
        let arrives: &[u8] = if site.0 == Operation::Write { &[0, 200] } else { &[0] };
        for (errno, before, for_good) in [EIO, ENOSPC].into_iter().flat_map(|errno| {
            let at = [(0, false), (0, true), (1, false), (1, true), (49, false), (49, true)];
            at.map(|(before, for_good)| (errno, before, for_good))
        }) {
            for &arrives in arrives {
                faults.push((site, before, Failure { errno, for_good, arrives }));
            }
        }
    }
    faults
}

/// Whether writing must stop for good; `None` where it depends on whether the call was for something
/// that is made again anyway.
fn stops((operation, kind): Site, errno: i32) -> Option<bool> {
    match (operation, kind) {
        (_, Kind::Manifest | Kind::Reserve | Kind::DataDir) => Some(false),
        // Nothing is known after a failed sync, for whatever reason.
        (Operation::Sync, Kind::Segment) | (Operation::SyncDir, _) => Some(true),
        _ if errno == ENOSPC => Some(false),
        (_, Kind::Segment) | (Operation::Rename, _) => Some(true),
        _ => None,
    }
}

#[test]
fn every_call_site_fails_and_nothing_acknowledged_is_lost() {
    let faults = faults();
    let next = AtomicUsize::new(0);
    let ended = Mutex::new(BTreeMap::<(Site, i32), (u32, u32)>::new());
    // Side by side, for they wait for retries most of the time.
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                while let Some(&(site, before, failure)) =
                    faults.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let poisoned = fail_and_recover(site, before, failure);
                    let poisoned = poisoned
                        .unwrap_or_else(|| panic!("{site:?} does not have {} calls", before + 1));
                    if let Some(stops) = stops(site, failure.errno) {
                        assert_eq!(poisoned, stops, "{site:?} {failure:?}");
                    }
                    let mut ended = ended.lock().unwrap();
                    let (stopped, went_on) = ended.entry((site, failure.errno)).or_default();
                    *(if poisoned { stopped } else { went_on }) += 1;
                }
            });
        }
    });
    println!("{} faults; writing stopped, went on:", faults.len());
    for ((site, errno), (stopped, went_on)) in ended.into_inner().unwrap() {
        println!("{site:?} error {errno}: {stopped}, {went_on}");
    }
}

#[test]
fn running_out_of_descriptors_refuses_a_write_and_nothing_else() {
    for site in [(Operation::Create, Kind::Spare), (Operation::SyncDir, Kind::LogDir)] {
        for before in [0, 1, 5] {
            let disk = Faulty::new();
            let engine = disk.open().unwrap();
            set_up(&engine);
            disk.fs.fail(site, before, Failure { errno: EMFILE, for_good: true, arrives: 0 });
            let mut asked = Asked::default();
            let error = loop {
                if let Some(error) = asked.step(&engine) {
                    break error;
                }
            };
            assert!(matches!(error, Error::NoDescriptors { .. }), "{site:?}: {error}");
            for _ in 0..20 {
                asked.step(&engine);
            }
            assert_eq!(engine.stat().poisoned, None);
            disk.fs.heal();
            for _ in 0..100 {
                assert_eq!(asked.step(&engine), None, "{site:?} after {before}");
            }
            asked.check(&contents(&engine), "it goes on");
            drop(engine);
            disk.lose_power();
            asked.check(&contents(&disk.open().unwrap()), "after the power loss");
        }
    }
}

/// The thread that prepares segments syncs beside the one that writes: its sync failed as well.
#[test]
fn a_sync_that_is_to_fail_fails_alone() {
    let fs = SimFs::new();
    let [doomed, other] = ["doomed", "other"].map(|name| {
        let file = fs.create(&Path::new("/").join(name)).unwrap();
        file.write_all_at(b"bytes", 0).unwrap();
        file
    });
    fs.sync_dir(Path::new("/")).unwrap();
    let (asked, synced) = (AtomicUsize::new(0), Arc::new(Mutex::new(None)));
    let noted = Arc::clone(&synced);
    // Called in the midst of each sync: in that of the first file the other one is synced.
    fs.observe(Some(Arc::new(move || {
        if asked.fetch_add(1, Ordering::Relaxed) == 0 {
            let result = std::thread::scope(|scope| {
                scope.spawn(|| other.sync_data().is_ok()).join().unwrap()
            });
            *noted.lock().unwrap() = Some(result);
        }
    })));
    fs.fail_sync_of(doomed.as_ref());
    assert_eq!(*synced.lock().unwrap(), Some(true));
    fs.crash(|| false);
    let left = ["doomed", "other"].map(|name| fs.bytes(&Path::new("/").join(name)).unwrap());
    assert_eq!(left, [b"".to_vec(), b"bytes".to_vec()]);
    assert!(doomed.sync_data().is_err(), "of a machine that has crashed");
}

/// Each call of a recovery fails: the next one comes to the same.
#[test]
fn every_call_of_an_opening_fails_and_the_next_opening_finds_everything() {
    let mut sites = BTreeMap::<Site, u64>::new();
    for new in [true, false] {
        for errno in [EIO, ENOSPC, EMFILE] {
            let calls = calls_of_an_opening(new);
            for (site, count) in calls {
                for before in 0..count {
                    let (disk, mut asked) = a_machine(new);
                    disk.fs.fail(site, before, Failure { errno, for_good: false, arrives: 128 });
                    match disk.open() {
                        Ok(engine) if !new => _ = asked.step(&engine),
                        _ => {}
                    }
                    // Which calls come to be depends on how its threads take turns.
                    if disk.fs.failed() > 0 {
                        *sites.entry(site).or_default() += 1;
                    }
                    disk.lose_power();
                    let engine = disk.open().unwrap();
                    if new {
                        set_up(&engine);
                    } else {
                        asked
                            .check(&contents(&engine), &format!("{site:?} {errno} after {before}"));
                    }
                    put(&engine, "after", "it");
                }
            }
        }
    }
    let failed: u64 = sites.values().sum();
    println!("{failed} faults at {} sites of an opening: {sites:?}", sites.len());
    assert!(sites.len() >= 14 && failed >= 90, "{failed} at {sites:?}");
}

/// A machine that was killed in the middle of things, or a new one.
fn a_machine(new: bool) -> (Faulty, Asked) {
    let (disk, mut asked) = (Faulty::new(), Asked::default());
    if !new {
        let engine = disk.open().unwrap();
        set_up(&engine);
        for i in 0..60 {
            asked.step(&engine);
            if i == 40 {
                engine.checkpoint().unwrap();
            }
        }
        drop(engine);
        disk.sim.stop_process();
    }
    (disk, asked)
}

/// How many calls of each site an opening takes, those of its threads included.
fn calls_of_an_opening(new: bool) -> BTreeMap<Site, u64> {
    let (disk, _) = a_machine(new);
    let before = disk.fs.calls();
    drop(disk.open().unwrap());
    let calls = disk.fs.calls().into_iter();
    let calls = calls.map(|(site, count)| (site, count - before.get(&site).unwrap_or(&0)));
    calls.filter(|(_, count)| *count > 0).collect()
}
