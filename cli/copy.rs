//! Documents on their way from one index into another, of the same cluster or of another one.
//!
//! The ranges of the source are read at the same time, and a few pages of each are written while the next
//! ones are read. What should have come to the target is summed up, and compared with the digest that it
//! has in the end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sherd_client::{
    Client, Condition, Contents, Digest, Document, Error as ClientError, Expiry, Item, Mutation,
    Outcome, ScanOptions,
};
use sherd_engine::content_hash;
use sherd_protocol::{RING_SIZE, Range};
use tokio::task::JoinSet;

use crate::error::Error;
use crate::load::Conflict;
use crate::progress::{Done, Watch};

/// Ranges that are read at the same time.
const LANES: usize = 4;

/// Pages of a range on their way here while others are written.
const PAGES_AHEAD: usize = 2;

/// Pages of a range that are being written.
const PAGES_UNDER_WAY: usize = 2;

/// How often a write is tried again whose outcome is unknown, or whose document changes under it.
const MAX_ATTEMPTS: u32 = 10;

/// How often progress is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// An index of a cluster.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) client: Client,
    pub(crate) index: String,
}

/// What was copied.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Copied {
    /// Documents that were not there before.
    pub(crate) written: u64,
    pub(crate) overwritten: u64,
    /// Left as they were.
    pub(crate) existing: u64,
    bytes: u64,
    /// How the digest of the target has changed.
    change: Digest,
}

/// A copy under way.
pub(crate) struct Copy {
    from: Place,
    to: Place,
    on_conflict: Conflict,
    copied: Mutex<Copied>,
    /// The ranges that nobody reads yet, and how much of the ring was seen.
    ranges: Mutex<VecDeque<Range>>,
    seen: Mutex<u64>,
}

impl Copy {
    pub(crate) fn new(from: Place, to: Place, on_conflict: Conflict) -> Arc<Self> {
        let ranges = from.client.known_map().ranges;
        let ranges = ranges.iter().map(sherd_protocol::OwnedRange::range).collect();
        let (copied, ranges, seen) = (Mutex::default(), Mutex::new(ranges), Mutex::default());
        Arc::new(Self { from, to, on_conflict, copied, ranges, seen })
    }

    /// Copies everything, and checks it by the digest of the target.
    ///
    /// # Errors
    /// When a cluster does not answer, a document is there that must not be, or the target has not what
    /// it should.
    pub(crate) async fn run(self: Arc<Self>) -> Result<Copied, Error> {
        let before = contents(&self.to).await?;
        let mut lanes = JoinSet::new();
        for _ in 0..LANES {
            lanes.spawn(Arc::clone(&self).lane());
        }
        let mut progress = Watch::new(format!("copy of {}", self.from.index), Done::default());
        while !lanes.is_empty() {
            match tokio::time::timeout(WATCH_INTERVAL, lanes.join_next()).await {
                Ok(Some(Ok(result))) => result.inspect_err(|_| progress.end())?,
                Ok(Some(Err(error))) => std::panic::resume_unwind(error.into_panic()),
                Ok(None) => break,
                Err(_) => {
                    let (copied, seen) = (*self.copied.lock(), *self.seen.lock());
                    progress.show(Done {
                        fraction: Some(seen as f64 / f64::from(RING_SIZE)),
                        documents: copied.written + copied.overwritten + copied.existing,
                        bytes: copied.bytes,
                    });
                }
            }
        }
        progress.end();
        let copied = *self.copied.lock();
        let after = contents(&self.to).await?;
        let expected = before.digest.with(copied.change);
        if after.digest != expected || after.documents != before.documents + copied.written {
            return Err(Error::Failed(format!(
                "{} documents were copied, but {:?} has {} of them with the digest {}, and it should \
                 be {} with {expected}: something else wrote to it meanwhile, or documents have \
                 expired; compare `sherd digest` of both",
                copied.written + copied.overwritten,
                self.to.index,
                after.documents,
                after.digest,
                before.documents + copied.written,
            )));
        }
        Ok(copied)
    }

    /// Copies range after range.
    async fn lane(self: Arc<Self>) -> Result<(), Error> {
        loop {
            let next = self.ranges.lock().pop_front();
            let Some(range) = next else { return Ok(()) };
            let options = ScanOptions { range, ..ScanOptions::default() };
            let mut pages = self.from.client.scan_ahead(&self.from.index, options, PAGES_AHEAD)?;
            let mut seen_to = range.start;
            let mut see = |position: u32| {
                *self.seen.lock() += u64::from(position - seen_to);
                seen_to = position;
            };
            let mut writes = JoinSet::new();
            while let Some(items) = pages.next_page().await? {
                if writes.len() == PAGES_UNDER_WAY {
                    finished(writes.join_next().await)?;
                }
                if let Some(last) = items.last() {
                    see(last.document.position.0);
                }
                writes.spawn(Arc::clone(&self).write(items));
            }
            while !writes.is_empty() {
                finished(writes.join_next().await)?;
            }
            see(range.end);
        }
    }

    /// Writes a page.
    async fn write(self: Arc<Self>, items: Vec<Item>) -> Result<(), Error> {
        let index: Arc<str> = self.to.index.as_str().into();
        let write = |item: &Item| Mutation::Write {
            index: Arc::clone(&index),
            key: item.key.clone(),
            document: item.document.bytes.clone(),
            condition: Condition::Absent,
            expiry: expiry(item),
        };
        let mutations: Vec<_> = items.iter().map(write).collect();
        let mut copied = Copied::default();
        let mut scratch = Vec::new();
        for (item, result) in items.iter().zip(self.to.client.batch(&mutations).await) {
            copied.bytes += (item.key.len() + item.document.bytes.len()) as u64;
            match result {
                Ok(Outcome::Written(_)) => self.note(&mut copied, &mut scratch, item, None),
                Ok(Outcome::ConditionFailed(_)) => {
                    self.settle(item, false, &mut copied, &mut scratch).await?;
                }
                Ok(other) => return Err(Error::Failed(format!("a write came to {other:?}"))),
                Err(error) if error.is_outcome_unknown() => {
                    self.settle(item, true, &mut copied, &mut scratch).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let mut all = self.copied.lock();
        all.written += copied.written;
        all.overwritten += copied.overwritten;
        all.existing += copied.existing;
        all.bytes += copied.bytes;
        all.change = all.change.with(copied.change);
        Ok(())
    }

    /// Does what is to be done about a key that the target may have. A write `is_unknown` whose outcome is:
    /// if the document is there as it was to be written, it was this write.
    async fn settle(
        &self,
        item: &Item,
        mut is_unknown: bool,
        copied: &mut Copied,
        scratch: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let Place { client, index } = &self.to;
        let Item { key, document } = item;
        // What the write of unknown outcome was to replace.
        let mut replaced: Option<Document> = None;
        for _ in 0..MAX_ATTEMPTS {
            let there = client.read(index, key).await?;
            let is_same = there.as_ref().is_some_and(|there| {
                (&there.bytes, there.expires_at) == (&document.bytes, document.expires_at)
            });
            if is_unknown && is_same {
                self.note(copied, scratch, item, replaced.as_ref());
                return Ok(());
            }
            let condition = match (&there, self.on_conflict) {
                (None, _) => Condition::Absent,
                (Some(there), Conflict::Overwrite) => Condition::Version(there.version),
                (Some(_), Conflict::Skip) => {
                    copied.existing += 1;
                    return Ok(());
                }
                (Some(_), Conflict::Fail) => {
                    return Err(Error::DoesNotHold(format!(
                        "key {key:?} is in index {index:?} already; --on-conflict skip leaves its \
                         document, overwrite replaces it"
                    )));
                }
            };
            let written =
                client.write_expiring(index, key, &document.bytes, condition, expiry(item)).await;
            replaced = there;
            match written {
                Ok(_) => {
                    self.note(copied, scratch, item, replaced.as_ref());
                    return Ok(());
                }
                // Somebody else was faster: looked at once more.
                Err(ClientError::ConditionFailed { .. }) => is_unknown = false,
                Err(error) if error.is_outcome_unknown() => is_unknown = true,
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Failed(format!("key {key:?} of index {index:?} changes again and again")))
    }

    /// Takes note of a document that was written, in the place of another one or of none.
    fn note(
        &self,
        copied: &mut Copied,
        scratch: &mut Vec<u8>,
        Item { key, document }: &Item,
        replaced: Option<&Document>,
    ) {
        let mut hash = |Document { expires_at, bytes, .. }: &Document| {
            Digest(content_hash(scratch, &self.to.index, key.as_bytes(), *expires_at, bytes))
        };
        copied.change = copied.change.with(hash(document));
        match replaced {
            Some(replaced) => {
                copied.change = copied.change.without(hash(replaced));
                copied.overwritten += 1;
            }
            None => copied.written += 1,
        }
    }
}

/// What an index has.
async fn contents(Place { client, index }: &Place) -> Result<Contents, Error> {
    let contents = client.contents().await?.remove(index);
    contents.ok_or_else(|| Error::Failed(format!("index {index:?} was dropped meanwhile")))
}

fn expiry(item: &Item) -> Expiry {
    match item.document.expires_at {
        0 => Expiry::Never,
        at => Expiry::At(at),
    }
}

fn finished(write: Option<Result<Result<(), Error>, tokio::task::JoinError>>) -> Result<(), Error> {
    match write {
        Some(Ok(result)) => result,
        Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
        None => Ok(()),
    }
}
