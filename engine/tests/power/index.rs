//! The index through a power loss: recorded while the workload runs, and made stale, short,
//! damaged or missing for a recovery.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use sherd_engine::index::{Entries, Entry, Index, IndexStore, MemoryStore};
use sherd_engine::{Error, IndexId, Result};

/// Told of each moment of the index: whether it was a flush, and what it holds.
pub type Recorder = Arc<dyn Fn(bool, MemoryStore) + Send + Sync>;

/// What is wrong with an index besides its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    None,
    /// It does not open.
    Open,
    /// It opens, and fails when its entries are read.
    Read,
}

/// An index in memory that may be damaged, until it is set aside, and may be recorded.
#[derive(Clone)]
pub struct TestStore {
    pub entries: MemoryStore,
    damage: Arc<Mutex<Damage>>,
    recorder: Option<Recorder>,
    /// Whether it was set aside.
    pub set_aside: Arc<AtomicBool>,
}

impl TestStore {
    pub fn new(entries: MemoryStore, damage: Damage, recorder: Option<Recorder>) -> Self {
        let damage = Arc::new(Mutex::new(damage));
        Self { entries, damage, recorder, set_aside: Arc::default() }
    }

    pub fn damage(&self) -> Damage {
        *self.damage.lock()
    }

    fn record(&self, flushed: bool) {
        if let Some(recorder) = &self.recorder {
            recorder(flushed, self.entries.snapshot());
        }
    }
}

impl IndexStore for TestStore {
    fn open(&self) -> Result<Arc<dyn Index>> {
        match *self.damage.lock() {
            Damage::Open => Err(Error::Index("damaged".into())),
            _ => Ok(Arc::new(self.clone())),
        }
    }

    fn set_aside(&self) -> Result<()> {
        *self.damage.lock() = Damage::None;
        self.set_aside.store(true, Ordering::Relaxed);
        self.entries.set_aside()?;
        self.record(true);
        Ok(())
    }
}

impl Index for TestStore {
    fn get(&self, index: IndexId, key: &[u8]) -> Result<Option<Entry>> {
        Index::get(&self.entries, index, key)
    }

    fn put(&self, index: IndexId, key: &[u8], entry: Option<&Entry>) -> Result<()> {
        self.entries.put(index, key, entry)?;
        self.record(false);
        Ok(())
    }

    fn range<'a>(
        &'a self,
        index: IndexId,
        from: Bound<&[u8]>,
        until: &[u8],
    ) -> Result<Entries<'a>> {
        match *self.damage.lock() {
            Damage::Read => Err(Error::Index("a page is damaged".into())),
            _ => self.entries.range(index, from, until),
        }
    }

    fn drop_index(&self, index: IndexId) -> Result<()> {
        self.entries.drop_index(index)?;
        self.record(false);
        Ok(())
    }

    fn indexes(&self) -> Result<Vec<IndexId>> {
        self.entries.indexes()
    }

    fn flush(&self, checkpoint: u64) -> Result<()> {
        self.entries.flush(checkpoint)?;
        self.record(true);
        Ok(())
    }

    fn checkpoint(&self) -> Result<u64> {
        Index::checkpoint(&self.entries)
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
    flushed: Vec<MemoryStore>,
    /// Put since the last flush.
    unflushed: Option<MemoryStore>,
}

impl IndexPast {
    pub fn note(&mut self, flushed: bool, entries: &MemoryStore) {
        if flushed {
            self.flushed.push(entries.clone());
            self.unflushed = None;
        } else {
            self.unflushed = Some(entries.clone());
        }
    }

    /// The index as it comes back.
    pub fn come_back(&self, variant: Variant, rng: &mut StdRng) -> TestStore {
        let last = match self.flushed.last() {
            Some(last) => last.snapshot(),
            None => MemoryStore::new(),
        };
        last.crash(false);
        let older = |rng: &mut StdRng| match rng.random_range(0..=self.flushed.len()) {
            0 => MemoryStore::new(),
            n => self.flushed[n - 1].snapshot(),
        };
        let damage = match variant {
            Variant::DoesNotOpen => Damage::Open,
            Variant::CannotBeRead => Damage::Read,
            _ => Damage::None,
        };
        let entries = match variant {
            Variant::Unflushed => match &self.unflushed {
                Some(unflushed) => {
                    let entries = unflushed.snapshot();
                    entries.crash(true);
                    entries
                }
                None => last,
            },
            Variant::Stale => {
                let entries = older(rng);
                entries.crash(false);
                entries
            }
            Variant::OlderThanItSays => {
                last.restore_entries(&older(rng));
                last
            }
            Variant::Mixed => {
                let share = rng.random_range(0.0..1.0);
                last.mix(&older(rng), || rng.random_bool(share));
                last
            }
            Variant::Missing => MemoryStore::new(),
            _ => last,
        };
        TestStore::new(entries, damage, None)
    }
}
