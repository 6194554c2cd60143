//! The sweeper: removes expired documents, in the background.
//!
//! That a document has expired is seen by whoever reads it; the sweeper only gives its space back.
//! Which have, the [residents](crate::residents) know by the second, so nothing is searched. Where
//! they are many, they go in ring order: neighbours lie in one block of the index. It works for a
//! share of its time, at a low priority, and a few hundred documents at a time, each batch of
//! removals being one of the sequencer's.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::clock::has_expired;
use crate::command::IndexId;
use crate::engine::Completion;
use crate::error::{Error, Result};
use crate::index::{Entry, IndexKey};
use crate::queue::{Queue, Task};
use crate::residents::Tag;
use crate::shared::Shared;

/// How often it is looked for expired documents.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// How long it waits after a failure.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// About how many expired documents are put in order at a time. Five bytes of memory each.
const DOCUMENTS_IN_ORDER: usize = 100_000;

/// How many of them are looked up, and removed with one batch.
const DOCUMENTS_AT_A_TIME: usize = 256;

/// The share of its time that the sweeper works, in percent.
const SHARE_PERCENT: u32 = 60;

/// The sweeper, on its thread.
pub(crate) struct Sweeper {
    pub(crate) shared: Arc<Shared>,
    pub(crate) queue: Arc<Queue>,
    /// Ends when the engine is closed.
    pub(crate) open: Receiver<()>,
}

impl Sweeper {
    /// Works until the engine is closed.
    pub(crate) fn run(self) {
        let mut wait = LOOK_INTERVAL;
        while let Err(RecvTimeoutError::Timeout) = self.open.recv_timeout(wait) {
            wait = LOOK_INTERVAL;
            if self.shared.poison.is_set() {
                continue;
            }
            match self.sweep() {
                Ok(()) | Err(Error::Closed) => {}
                Err(error) => {
                    tracing::warn!(%error, "expired documents are not removed yet");
                    wait = RETRY_AFTER;
                }
            }
        }
    }

    fn sweep(&self) -> Result<()> {
        let mut goes_on = true;
        // Index by index in turn: one of many expired documents does not keep the others waiting.
        while goes_on {
            goes_on = false;
            for index in self.shared.residents.ids() {
                goes_on |= self.sweep_some(index)?;
            }
        }
        Ok(())
    }

    /// Removes expired documents of an index. Returns whether it had any.
    fn sweep_some(&self, index: IndexId) -> Result<bool> {
        let now = self.shared.clock.now();
        let mut tags = self.shared.residents.due(index, now, DOCUMENTS_IN_ORDER);
        tags.sort_unstable();
        let mut any = false;
        for some in tags.chunks(DOCUMENTS_AT_A_TIME) {
            let begun = Instant::now();
            any |= self.remove(index, some, now)?;
            let pause = begun.elapsed() * (100 - SHARE_PERCENT) / SHARE_PERCENT;
            if !matches!(self.open.recv_timeout(pause), Err(RecvTimeoutError::Timeout)) {
                return Err(Error::Closed);
            }
        }
        Ok(any)
    }

    /// Removes the documents of tags that have expired by `now`. `false` where none has, or all of them are
    /// in a range that is frozen.
    fn remove(&self, index: IndexId, tags: &[Tag], now: u64) -> Result<bool> {
        let mut found = Vec::with_capacity(tags.len());
        for tag in tags {
            let (entries, drops) = self.shared.entries_of(index, *tag)?;
            // What is being taken over goes where it comes from.
            let is_incoming = self.shared.view.read().state.is_incoming(tag.position());
            let expired =
                |(_, entry): &(IndexKey, Entry)| has_expired(entry.expires_at, now) && !is_incoming;
            let expired = entries.into_iter().filter(expired);
            found.extend(expired.map(|(key, entry)| (index, key, (entry, drops))));
        }
        if found.is_empty() {
            return Ok(false);
        }
        let (sender, done) = mpsc::sync_channel(1);
        let answer: Completion = Box::new(move |result| _ = sender.send(result));
        self.queue.push(Task::Expire(found, answer));
        match done.recv().unwrap_or(Err(Error::Closed)) {
            Ok(_) => Ok(true),
            // What is frozen will not be for long, but nothing is gained by trying at once.
            Err(Error::Frozen) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
