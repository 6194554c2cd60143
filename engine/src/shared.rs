//! What the threads of an engine share.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use crate::cache::DocumentCache;
use crate::clock::Clock;
use crate::command::Key;
use crate::cut::Cuts;
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::hash::FastMap;
use crate::index::{self, Entry, IndexKey};
use crate::kept::Kept;
use crate::limits::Counts;
use crate::log::Segments;
use crate::log::record::Checksum;
use crate::overlay::Overlay;
use crate::read::Recount;
use crate::recovery::Lock;
use crate::residents::{Residents, Traffic};
use crate::scout::Scout;
use crate::space::Space;
use crate::state::{Change, Removals, State};
use crate::tail::Pin;
use crate::usage::Usage;
use crate::{IndexId, Stat};

/// An entry as it was looked up, and the state of [`Overlay::drops`] as of which it was: as long as
/// that stays, the index says the same of the key.
pub(crate) type LookedUp = (Entry, u64);

/// The same of keys that may not have been there.
pub(crate) type Found = FastMap<(IndexId, IndexKey), (Option<Entry>, u64)>;

/// What sequencer, checkpointer, compactor, sweeper, scout and readers share.
pub(crate) struct Shared {
    /// What is published. The sequencer writes it once for each batch, the checkpointer when it
    /// drops what it drained; readers hold it for a look-up or for a part of a page.
    pub(crate) view: RwLock<View>,
    /// Everything up to the checkpoint, and possibly more.
    pub(crate) index: index::Handle,
    pub(crate) segments: Arc<Segments>,
    pub(crate) cache: DocumentCache,
    pub(crate) residents: Residents,
    pub(crate) scout: Scout,
    pub(crate) clock: Clock,
    pub(crate) poison: Poison,
    /// Segments of which nothing is needed any more. The next checkpoint leaves them out of the
    /// manifest and deletes them.
    pub(crate) condemned: Mutex<BTreeSet<u32>>,
    /// What of the log is held for another shard, condemned or not.
    pub(crate) pin: Pin,
    /// What of the log is held for backups.
    pub(crate) cuts: Cuts,
    /// What of the log is kept until the next backup.
    pub(crate) kept: Kept,
    /// Whether writes come in faster than compaction gives space back.
    pub(crate) compaction_behind: AtomicBool,
    /// Whether there may be documents outside the owned ranges. Set with an assignment, cleared by
    /// the compactor when it has removed them.
    pub(crate) unowned: AtomicBool,
    /// How much of the last segment is written.
    pub(crate) active_bytes: AtomicU64,
    /// What the index took on disk at the last checkpoint.
    pub(crate) index_bytes: AtomicU64,
    /// What it took when it was put back on the disk last; 0 for never.
    pub(crate) renewed_index_bytes: AtomicU64,
    /// Segments that cannot be compacted, for they are damaged or cannot be read, and why.
    pub(crate) damaged: Mutex<BTreeMap<u32, Arc<str>>>,
    pub(crate) space: Arc<Space>,
    /// In which ranges nothing changes. Written by the sequencer.
    pub(crate) frozen: RwLock<Option<FrozenRanges>>,
    /// Why the last checkpoint failed. Written by the checkpointer.
    pub(crate) checkpoint_error: Mutex<Option<Arc<str>>>,
    /// The last LSN that is durable and published. Written by the sequencer.
    pub(crate) durable_lsn: AtomicU64,
    /// The LSN of the last checkpoint. Written by the checkpointer.
    pub(crate) checkpoint_lsn: AtomicU64,
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) dir: PathBuf,
    pub(crate) identity: u128,
    /// Of the log's records.
    pub(crate) checksum: Checksum,
    /// Held as long as anything of the engine lives.
    pub(crate) _lock: Lock,
}

/// Ranges in which nothing changes, and until when, of the clock's elapsed time.
type FrozenRanges = (Vec<(u32, u32)>, Duration);

/// What is published: durable unless the durability is of an interval.
pub(crate) struct View {
    pub(crate) state: State,
    pub(crate) overlay: Overlay,
    pub(crate) usage: Usage,
}

impl View {
    /// Publishes a change.
    pub(crate) fn apply(&mut self, change: Change) {
        self.state.apply(&change);
        self.usage.apply(&change);
        match change {
            Change::Document { index, key, entry, .. } => self.overlay.put(index, key, entry),
            Change::Tombstone { .. } => {}
            Change::Control(effect) => {
                if let crate::effect::Effect::DropIndex(drop) = effect {
                    self.overlay.drop_index(drop.id);
                }
            }
        }
    }

    /// Takes over what only a recount knows.
    pub(crate) fn take_counts(&mut self, counted: Recount) {
        self.state.take_distribution(&counted.state);
        self.usage.take_live(counted.usage);
    }
}

impl Shared {
    /// The published entry of a key.
    pub(crate) fn entry(&self, index: IndexId, key: &IndexKey) -> Result<Option<Entry>> {
        self.look_up(index, key).map(|(entry, _)| entry)
    }

    /// The published entry of a key, and the state of [`Overlay::drops`] as of which it was: as long
    /// as that stays, the index says the same of the key.
    pub(crate) fn look_up(&self, index: IndexId, key: &IndexKey) -> Result<(Option<Entry>, u64)> {
        let (known, drops) = {
            let overlay = &self.view.read().overlay;
            (overlay.get(index, key), overlay.drops)
        };
        let entry = match known {
            Some(entry) => entry,
            None => self.index.get()?.get(index, key.as_bytes())?,
        };
        Ok((entry, drops))
    }

    /// The same of some keys, which are in their order.
    pub(crate) fn look_up_all(
        &self,
        index: IndexId,
        keys: &[&IndexKey],
    ) -> Result<(Vec<Option<Entry>>, u64)> {
        let (known, drops): (Vec<_>, _) = {
            let overlay = &self.view.read().overlay;
            (keys.iter().map(|key| overlay.get(index, key)).collect(), overlay.drops)
        };
        let of_keys = || keys.iter().copied().zip(&known);
        let unknown: Vec<_> =
            of_keys().filter(|(_, known)| known.is_none()).map(|(key, _)| key).collect();
        let mut on_disk = self.index.get()?.get_all(index, &unknown)?.into_iter();
        let entry = |known: Option<_>| known.unwrap_or_else(|| on_disk.next().flatten());
        Ok((known.iter().copied().map(entry).collect(), drops))
    }

    /// What is published of keys of some indexes.
    pub(crate) fn look_up_places<'a>(
        &self,
        places: impl Iterator<Item = (IndexId, &'a Key)>,
    ) -> Result<Found> {
        let mut keys: BTreeMap<IndexId, BTreeSet<IndexKey>> = BTreeMap::new();
        for (index, key) in places {
            keys.entry(index).or_default().insert(IndexKey::from(key));
        }
        let mut found = Found::default();
        for (index, keys) in keys {
            let sorted: Vec<_> = keys.iter().collect();
            let (entries, drops) = self.look_up_all(index, &sorted)?;
            let keys = keys.into_iter().zip(entries);
            found.extend(keys.map(|(key, entry)| ((index, key), (entry, drops))));
        }
        Ok(found)
    }

    /// The published entry of a key that was looked up before.
    pub(crate) fn look_up_again(
        &self,
        index: IndexId,
        key: &IndexKey,
        (before, drops): (Option<Entry>, u64),
    ) -> Result<Option<Entry>> {
        let known = {
            let overlay = &self.view.read().overlay;
            let unchanged = (overlay.drops == drops).then_some(before);
            overlay.get(index, key).or(unchanged)
        };
        match known {
            Some(entry) => Ok(entry),
            None => self.index.get()?.get(index, key.as_bytes()),
        }
    }

    pub(crate) fn stat(&self) -> Stat {
        let (tracked_documents, tracked_bytes) = self.residents.memory();
        let segments = self.segments.all();
        let log_bytes = segments.iter().filter_map(|segment| segment.file.length().ok()).sum();
        let view = self.view.read();
        let state = &view.state;
        let mut indexes: Vec<_> = state
            .indexes
            .iter()
            .map(|(&id, index)| crate::IndexStat {
                id,
                name: index.name.as_ref().to_owned(),
                documents: index.totals.documents,
                used: index.totals.bytes,
                settings: index.settings,
                counts: counts(index.removals, self.residents.traffic(id)),
            })
            .collect();
        let traffic = indexes.iter().fold(self.residents.traffic_of_dropped(), |sum, index| {
            let Counts { rejected, hits, misses, .. } = index.counts;
            Traffic {
                rejected: sum.rejected + rejected,
                hits: sum.hits + hits,
                misses: sum.misses + misses,
            }
        });
        indexes.sort_by(|a, b| a.name.cmp(&b.name));
        Stat {
            documents: state.documents(),
            used: state.used,
            distribution: state.distribution(),
            counts: counts(state.removals, traffic),
            indexes,
            locked_by: state.locked_by.clone(),
            incoming: state.incoming.as_deref().cloned(),
            damaged: self.damaged.lock().values().next().map(|why| why.as_ref().to_owned()),
            poisoned: self.poison.reason().map(|reason| reason.as_ref().to_owned()),
            disk_full: self.space.full().map(|why| why.as_ref().to_owned()),
            checkpoint_error: self.checkpoint_error.lock().as_deref().map(str::to_owned),
            durable_lsn: self.durable_lsn.load(Ordering::Acquire),
            checkpoint_lsn: self.checkpoint_lsn.load(Ordering::Acquire),
            tracked_documents: tracked_documents as u64,
            tracked_bytes: tracked_bytes as u64,
            segments: segments.len() as u64,
            log_bytes,
        }
    }
}

fn counts(removals: Removals, traffic: Traffic) -> Counts {
    let Removals { evicted, expired } = removals;
    let Traffic { rejected, hits, misses } = traffic;
    Counts { evicted, expired, rejected, hits, misses }
}

/// Why the writer stopped, if it did. Once set it stays: after a failed write or sync nothing is
/// known of what is on disk until a recovery has read it.
#[derive(Default)]
pub(crate) struct Poison {
    poisoned: AtomicBool,
    reason: Mutex<Option<Arc<str>>>,
}

impl Poison {
    pub(crate) fn set(&self, error: &Error) {
        let mut reason = self.reason.lock();
        if reason.is_none() {
            tracing::error!(%error, "writing stops; reads of durable documents go on");
            *reason = Some(error.to_string().into());
            self.poisoned.store(true, Ordering::Release);
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.is_set()
            && let Some(reason) = self.reason()
        {
            return Err(Error::Poisoned { reason });
        }
        Ok(())
    }

    pub(crate) fn is_set(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    pub(crate) fn reason(&self) -> Option<Arc<str>> {
        self.reason.lock().clone()
    }
}
