//! What the sequencer does at times: syncs of an interval, and checkpoints.

use std::sync::atomic::Ordering;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use super::Sequencer;
use crate::checkpoint::{Needed, Snapshot};
use crate::defect::Defect;
use crate::engine::Durability;
use crate::error::{Error, Result};

/// A checkpoint is started when this part of the documents has changed, as a divisor: of some 20 entries in
/// each block of the index, ten then. With five, an import took a tenth more of the processor, with twenty hardly less:
/// not for what is in memory then and to be replayed.
const CHECKPOINT_SHARE: u64 = 2;

/// How many times as many keys as are told start a checkpoint at most, whatever the documents: what a kill
/// leaves to be replayed, and the memory, grow with it.
const MOST_CHECKPOINT_KEYS: usize = 6;

/// How many keys the active overlay may have, as a multiple of the least that start a checkpoint, before
/// writing waits for the running checkpoint: it bounds the memory, whatever the documents.
const OVERLAY_BACKLOG: usize = 8;

const _: () = assert!(MOST_CHECKPOINT_KEYS < OVERLAY_BACKLOG);

/// How long a batch is put off at most where the backlog is nearly full.
const MAX_BACKLOG_DELAY: Duration = Duration::from_millis(20);

/// How often it is looked whether removes and compaction leave space for the next checkpoint.
const FIT_INTERVAL: Duration = Duration::from_millis(20);

/// How often it is looked whether a full disk has space again, where no write asks for it.
const SPACE_INTERVAL: Duration = Duration::from_secs(1);

impl Sequencer {
    fn unsynced(&self) -> bool {
        self.log.durable_lsn() + 1 < self.log.next_lsn()
    }

    /// When to look again although no command came.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let lower_again = self.lower_again.filter(|_| self.is_lowering());
        if self.is_lowering() && lower_again.is_none() {
            return Some(Instant::now());
        }
        let sync = match self.options.durability {
            Durability::Interval(interval) if self.unsynced() && !self.shared.poison.is_set() => {
                Some(self.last_sync + interval)
            }
            _ => None,
        };
        let idle = (!self.shared.view.read().overlay.active.is_empty())
            .then(|| self.last_freeze + self.options.checkpoint_interval);
        // A running checkpoint is looked after when the next command comes, or now and then.
        let running = self.checkpoint_running.then(|| Instant::now() + Duration::from_millis(100));
        let idle = if self.checkpoint_running { running } else { idle };
        let space = self.shared.space.is_full().then(|| self.last_space_check + SPACE_INTERVAL);
        [sync, idle, space, lower_again].into_iter().flatten().min()
    }

    /// Finds out whether a full disk has space again, also when nobody writes.
    pub(super) fn check_space_when_due(&mut self) {
        if self.shared.space.is_full()
            && self.last_space_check.elapsed() >= SPACE_INTERVAL
            && self.shared.poison.check().is_ok()
        {
            // Where it has not, it says so itself.
            _ = self.check_space(0);
            self.last_space_check = Instant::now();
        }
    }

    pub(super) fn sync_when_due(&mut self) {
        if let Durability::Interval(interval) = self.options.durability
            && self.unsynced()
            && self.last_sync.elapsed() >= interval
            && self.shared.poison.check().is_ok()
            && let Err(error) = self.sync()
        {
            self.shared.poison.set(&error);
        }
    }

    pub(super) fn freeze_when_due(&mut self) {
        self.note_checkpoint(false);
        let (keys, empty) = {
            let active = &self.shared.view.read().overlay.active;
            (active.keys, active.is_empty())
        };
        if self.checkpoint_running {
            if keys >= self.backlog() && self.checkpoint_error.is_none() {
                // Memory is bounded by waiting here; commands wait in the queue, which its callers
                // bound.
                self.note_checkpoint(true);
            }
            return;
        }
        let idle = self.last_freeze.elapsed() >= self.options.checkpoint_interval && !empty;
        if keys >= self.checkpoint_keys() || idle || self.checkpoint_wanted {
            self.freeze();
        }
    }

    /// How many changed keys start a checkpoint. Of a large index each change rewrites a block of its
    /// own, which many changes together share.
    fn checkpoint_keys(&self) -> usize {
        let least = self.options.checkpoint_keys;
        let share = (self.state.documents() / CHECKPOINT_SHARE) as usize;
        share.clamp(least, least.saturating_mul(MOST_CHECKPOINT_KEYS))
    }

    /// How long the next batch is to be put off, because the index takes in less than is written: from
    /// half the backlog on, so that writes slow down before they stop.
    pub(super) fn backlog_delay(&self) -> Duration {
        if !self.checkpoint_running || self.checkpoint_error.is_some() {
            return Duration::ZERO;
        }
        let half = self.backlog() / 2;
        let keys = self.shared.view.read().overlay.active.keys;
        MAX_BACKLOG_DELAY.mul_f64((keys.saturating_sub(half) as f64 / half as f64).min(1.0))
    }

    fn backlog(&self) -> usize {
        self.options.checkpoint_keys * OVERLAY_BACKLOG
    }

    /// Refuses mutations where the index cannot be written and memory would run full.
    pub(super) fn check_backlog(&self) -> Result<()> {
        match &self.checkpoint_error {
            Some(error) if self.shared.view.read().overlay.active.keys >= self.backlog() => {
                Err(error.clone())
            }
            _ => Ok(()),
        }
    }

    /// What a checkpoint of all that is published may take.
    pub(super) fn next_checkpoint_bytes(&self) -> u64 {
        let overlay = &self.shared.view.read().overlay;
        let generations = [Some(&overlay.active), overlay.frozen.as_deref()];
        Needed::of(&self.shared, generations.into_iter().flatten()).bytes()
    }

    /// Checkpoints what is published before the disk has no more space for that. Removes and
    /// compaction go on where writes are refused, and all that they do has to go into the index
    /// before a segment is deleted: if that once took more than there is, nothing would come back.
    pub(super) fn checkpoint_while_it_fits(&mut self) {
        if self.last_fit_check.elapsed() < FIT_INTERVAL {
            return;
        }
        self.last_fit_check = Instant::now();
        let Some(free) = self.shared.space.for_checkpoint() else { return };
        let is_tight = |this: &Self| this.next_checkpoint_bytes() > free / 2;
        // One that fails is tried again by itself, and is not waited for.
        if !is_tight(self) || self.checkpoint_error.is_some() {
            return;
        }
        self.note_checkpoint(true);
        let empty = self.shared.view.read().overlay.active.is_empty();
        if !empty && !self.checkpoint_running && is_tight(self) {
            self.freeze();
            self.note_checkpoint(true);
        }
    }

    /// Notes how the running checkpoint goes; waits, if told to, for its end or its next failure.
    fn note_checkpoint(&mut self, wait: bool) {
        while self.checkpoint_running {
            let report = if wait {
                self.channels.checkpointed.recv().map_err(|_| TryRecvError::Disconnected)
            } else {
                self.channels.checkpointed.try_recv()
            };
            match report {
                Ok(Ok(())) => {
                    self.checkpoint_running = false;
                    self.checkpoint_error = None;
                }
                Ok(Err(error)) => {
                    self.checkpoint_error = Some(error);
                    if wait {
                        return;
                    }
                }
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    let what = Error::Index("the checkpointer ended unexpectedly".into());
                    self.shared.poison.set(&what);
                    self.checkpoint_running = false;
                }
            }
        }
    }

    /// Hands what is published to the checkpointer. None may be running.
    fn freeze(&mut self) {
        self.last_freeze = Instant::now();
        self.checkpoint_wanted = false;
        // The index must not get ahead of the log.
        if self.shared.poison.check().is_err() {
            return;
        }
        if !self.options.defects.has(Defect::CheckpointBeforeSync)
            && let Err(error) = self.sync()
        {
            self.shared.poison.set(&error);
            return;
        }
        let deletable = self.shared.deletable().into_iter().collect();
        let snapshot = {
            let mut view = self.shared.view.write();
            Snapshot {
                lsn: self.log.next_lsn() - 1,
                state: view.state.clone(),
                usage: view.usage.clone(),
                condemned: deletable,
                generation: view.overlay.freeze(),
            }
        };
        self.checkpoint_running = self.channels.snapshots.send(snapshot).is_ok();
    }

    /// Checkpoints all that is published, and waits for it.
    pub(super) fn checkpoint_now(&mut self) -> Result<()> {
        self.shared.poison.check()?;
        self.note_checkpoint(true);
        let checkpointed = self.shared.checkpoint_lsn.load(Ordering::Acquire);
        let anything = checkpointed + 1 < self.log.next_lsn()
            || !self.shared.deletable().is_empty()
            || self.shared.index.parked().is_some();
        if !self.checkpoint_running && anything {
            self.freeze();
            self.note_checkpoint(true);
        }
        self.shared.poison.check()?;
        match &self.checkpoint_error {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }
}
