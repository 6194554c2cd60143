//! What the threads of an engine share.

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::cache::DocumentCache;
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::index::{self, Entry, IndexKey};
use crate::log::Segments;
use crate::log::record::Checksum;
use crate::overlay::Overlay;
use crate::space::Space;
use crate::state::{Change, State};
use crate::{IndexId, Stat};

/// What the sequencer, the checkpointer and the readers share.
pub(crate) struct Shared {
    /// What is published. The sequencer writes it once for each batch, the checkpointer when it
    /// drops what it drained; readers hold it for a look-up or for a part of a page.
    pub(crate) view: RwLock<View>,
    /// Everything up to the checkpoint, and possibly more.
    pub(crate) index: index::Handle,
    pub(crate) segments: Arc<Segments>,
    pub(crate) cache: DocumentCache,
    pub(crate) poison: Poison,
    pub(crate) space: Arc<Space>,
    /// Why the last checkpoint failed. Written by the checkpointer.
    pub(crate) checkpoint_error: Mutex<Option<Arc<str>>>,
    /// The last durable LSN. Written by the sequencer.
    pub(crate) durable_lsn: AtomicU64,
    /// The LSN of the last checkpoint. Written by the checkpointer.
    pub(crate) checkpoint_lsn: AtomicU64,
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) dir: PathBuf,
    pub(crate) identity: u128,
    /// Of the log's records.
    pub(crate) checksum: Checksum,
    /// Held as long as anything of the engine lives.
    pub(crate) _lock: Box<dyn Any + Send + Sync>,
}

/// What is published: durable unless the durability is of an interval.
pub(crate) struct View {
    pub(crate) state: State,
    pub(crate) overlay: Overlay,
}

impl View {
    /// Publishes a change.
    pub(crate) fn apply(&mut self, change: Change) {
        self.state.apply(&change);
        match change {
            Change::Document { index, key, entry, .. } => self.overlay.put(index, key, entry),
            Change::Control(effect) => {
                if let crate::effect::Effect::DropIndex(drop) = effect {
                    self.overlay.drop_index(drop.id);
                }
            }
        }
    }
}

impl Shared {
    /// The published entry of a key.
    pub(crate) fn entry(&self, index: IndexId, key: &IndexKey) -> Result<Option<Entry>> {
        let known = self.view.read().overlay.get(index, key.as_bytes());
        match known {
            Some(entry) => Ok(entry),
            None => self.index.get()?.get(index, key.as_bytes()),
        }
    }

    pub(crate) fn stat(&self) -> Stat {
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
            })
            .collect();
        indexes.sort_by(|a, b| a.name.cmp(&b.name));
        Stat {
            documents: state.documents(),
            used: state.used,
            distribution: state.distribution(),
            indexes,
            locked_by: state.locked_by.clone(),
            poisoned: self.poison.reason().map(|reason| reason.as_ref().to_owned()),
            disk_full: self.space.full().map(|why| why.as_ref().to_owned()),
            checkpoint_error: self.checkpoint_error.lock().as_deref().map(str::to_owned),
            durable_lsn: self.durable_lsn.load(Ordering::Acquire),
            checkpoint_lsn: self.checkpoint_lsn.load(Ordering::Acquire),
            segments: segments.len() as u64,
            log_bytes,
        }
    }
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
