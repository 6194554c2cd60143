//! The index through a power loss: recorded while the workload runs, and made stale, short,
//! damaged or missing for a recovery.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use sherd_engine::index::{MemoryStore, SledStore};
use sherd_engine::{Error, Result};

use super::hooked::{Call, Hooked, Hooks};

/// What sled may cache.
pub const SLED_CACHE_BYTES: u64 = 1 << 20;

/// Told of each moment of the index: whether it was a flush, and what it holds.
pub type Recorder = Arc<dyn Fn(bool, Held) + Send + Sync>;

/// What an index holds at some moment.
#[derive(Clone)]
pub enum Held {
    Memory(MemoryStore),
    /// A copy of sled's files.
    Files(PathBuf),
}

/// What is wrong with an index besides its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    None,
    /// It does not open.
    Open,
    /// It opens, and fails when its entries are read.
    Read,
}

/// Of an index in memory: it may be damaged, until it is set aside, and may be recorded.
pub struct Damaged {
    damage: Mutex<Damage>,
    recorder: Option<Recorder>,
    entries: MemoryStore,
    was_set_aside: AtomicBool,
}

impl Hooks for Damaged {
    fn before(&self, call: Call) -> Result<()> {
        match (call, *self.damage.lock()) {
            (Call::Open, Damage::Open) => Err(Error::Index("damaged".into())),
            (Call::Range, Damage::Read) => Err(Error::Index("a page is damaged".into())),
            _ => Ok(()),
        }
    }

    fn after(&self, call: Call) {
        if call == Call::SetAside {
            *self.damage.lock() = Damage::None;
            self.was_set_aside.store(true, Ordering::Relaxed);
        }
        let is_flushed = matches!(call, Call::SetAside | Call::Flush);
        let is_changed = matches!(call, Call::Change | Call::DropIndex);
        if let Some(recorder) = self.recorder.as_ref().filter(|_| is_flushed || is_changed) {
            recorder(is_flushed, Held::Memory(self.entries.snapshot()));
        }
    }
}

pub type TestStore = Hooked<MemoryStore, Damaged>;

impl TestStore {
    pub fn new(entries: MemoryStore, damage: Damage, recorder: Option<Recorder>) -> Self {
        let (damage, was_set_aside) = (Mutex::new(damage), AtomicBool::new(false));
        let hooks = Damaged { damage, recorder, entries: entries.clone(), was_set_aside };
        Self::over(entries, hooks)
    }

    pub fn damage(&self) -> Damage {
        *self.hooks.damage.lock()
    }

    pub fn was_set_aside(&self) -> bool {
        self.hooks.was_set_aside.load(Ordering::Relaxed)
    }
}

/// In which state an index comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variant {
    /// As it was flushed last.
    Flushed,
    /// With entries that were put after the last flush.
    Unflushed,
    /// As it was flushed some time before, and says so.
    Stale,
    /// With older entries than it says.
    OlderThanItSays,
    /// Short of some entries, or with some that are older.
    Mixed,
    /// It does not open.
    DoesNotOpen,
    /// It opens and cannot be read.
    CannotBeRead,
    /// There is none.
    Missing,
}

impl Variant {
    pub const ALL: [Self; 8] = [
        Self::Flushed,
        Self::Unflushed,
        Self::Stale,
        Self::OlderThanItSays,
        Self::Mixed,
        Self::DoesNotOpen,
        Self::CannotBeRead,
        Self::Missing,
    ];

    pub fn pick(rng: &mut StdRng) -> Self {
        match rng.random_range(0..100) {
            0..30 => Self::Flushed,
            30..55 => Self::Unflushed,
            55..65 => Self::Stale,
            65..73 => Self::OlderThanItSays,
            73..81 => Self::Mixed,
            81..86 => Self::DoesNotOpen,
            86..91 => Self::CannotBeRead,
            _ => Self::Missing,
        }
    }

    /// Whether nothing is wrong with it: a recovery must not have to rebuild it.
    pub fn is_healthy(self) -> bool {
        matches!(self, Self::Flushed | Self::Unflushed)
    }
}

/// What an index held up to some moment.
#[derive(Clone, Default)]
pub struct IndexPast {
    flushed: Vec<Held>,
    /// Put since the last flush.
    unflushed: Option<Held>,
}

/// A copy of entries; none where there are none in memory.
fn entries(held: Option<&Held>) -> MemoryStore {
    match held {
        Some(Held::Memory(entries)) => entries.snapshot(),
        _ => MemoryStore::new(),
    }
}

impl IndexPast {
    pub fn note(&mut self, flushed: bool, held: Held) {
        if flushed {
            self.flushed.push(held);
            self.unflushed = None;
        } else {
            self.unflushed = Some(held);
        }
    }

    /// Some flush of before, or none.
    fn older(&self, rng: &mut StdRng) -> Option<&Held> {
        let flush = rng.random_range(0..=self.flushed.len());
        flush.checked_sub(1).map(|flush| &self.flushed[flush])
    }

    /// Puts sled's files as they come back into `dir`; damaged ones for what sled does not do of
    /// itself.
    pub fn come_back_in(&self, dir: &Path, variant: Variant, rng: &mut StdRng) {
        let held = match variant {
            Variant::Missing => None,
            Variant::Stale => self.older(rng),
            Variant::Unflushed => self.unflushed.as_ref().or(self.flushed.last()),
            _ => self.flushed.last(),
        };
        let Some(Held::Files(files)) = held else { return };
        copy_dir(files, dir);
        if !matches!(variant, Variant::Flushed | Variant::Unflushed | Variant::Stale) {
            damage_a_file(dir, rng);
        }
    }

    /// The index as it comes back.
    pub fn come_back(&self, variant: Variant, rng: &mut StdRng) -> TestStore {
        let last = entries(self.flushed.last());
        last.crash(false);
        let damage = match variant {
            Variant::DoesNotOpen => Damage::Open,
            Variant::CannotBeRead => Damage::Read,
            _ => Damage::None,
        };
        let came_back = match variant {
            Variant::Unflushed if self.unflushed.is_some() => {
                let unflushed = entries(self.unflushed.as_ref());
                unflushed.crash(true);
                unflushed
            }
            Variant::Stale => {
                let older = entries(self.older(rng));
                older.crash(false);
                older
            }
            Variant::OlderThanItSays => {
                last.restore_entries(&entries(self.older(rng)));
                last
            }
            Variant::Mixed => {
                let share = rng.random_range(0.0..1.0);
                let older = entries(self.older(rng));
                last.mix(&older, || rng.random_bool(share));
                last
            }
            Variant::Missing => MemoryStore::new(),
            _ => last,
        };
        TestStore::new(came_back, damage, None)
    }
}

/// An index in sled whose files are copied, each time into a directory of their own in `copies`,
/// at each flush and now and then between.
pub type CopiedSled = Hooked<SledStore, Copier>;

pub struct Copier {
    dir: PathBuf,
    copies: PathBuf,
    made: AtomicU64,
    changes: AtomicU64,
    recorder: Recorder,
}

/// Every so many changes sled's files are copied between two flushes.
const CHANGES_PER_COPY: u64 = 7;

impl CopiedSled {
    pub fn new(dir: &Path, copies: &Path, recorder: Recorder) -> Self {
        let store = SledStore::new(dir, SLED_CACHE_BYTES);
        let (dir, copies) = (dir.to_owned(), copies.to_owned());
        let (made, changes) = (AtomicU64::new(0), AtomicU64::new(0));
        Self::over(store, Copier { dir, copies, made, changes, recorder })
    }
}

impl Hooks for Copier {
    fn after(&self, call: Call) {
        match call {
            Call::Change | Call::DropIndex => self.record(false),
            Call::Flush => self.record(true),
            Call::Open | Call::SetAside | Call::Get | Call::Range => {}
        }
    }
}

impl Copier {
    fn record(&self, flushed: bool) {
        if !flushed && self.changes.fetch_add(1, Ordering::Relaxed) % CHANGES_PER_COPY != 3 {
            return;
        }
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let copy = self.copies.join(number.to_string());
        copy_dir(&self.dir, &copy);
        (self.recorder)(flushed, Held::Files(copy));
    }
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            _ = fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Overwrites, cuts or extends one file of a directory at a random place.
fn damage_a_file(dir: &Path, rng: &mut StdRng) {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file() && path.metadata().unwrap().len() > 0)
        .collect();
    files.sort();
    let path = files.choose(rng).unwrap();
    let mut bytes = fs::read(path).unwrap();
    // Most of sled's file is room for later.
    let used = bytes.iter().rposition(|&byte| byte != 0).map_or(bytes.len(), |last| last + 1);
    let at = rng.random_range(0..used);
    match rng.random_range(0..3) {
        0 => bytes.truncate(at),
        1 => {
            let end = (at + rng.random_range(1..5000)).min(bytes.len());
            rng.fill(&mut bytes[at..end]);
        }
        _ => bytes[at] ^= 1 << rng.random_range(0..8),
    }
    fs::write(path, bytes).unwrap();
}
