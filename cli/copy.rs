//! Documents on their way from one index into another, of the same cluster or of another one.
//!
//! The ranges of the source are read at the same time, and a few pages of each are written while the next
//! ones are read. A page is one batch, and where keys of it are there, what they have is read together and
//! replaced by another batch, version by version. What should have come to the target is summed up, and compared with the digest that it
//! has in the end.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sherd_client::{
    Client, Condition, Contents, Digest, Document, Expiry, Item, Mutation, Outcome, ScanOptions,
};
use sherd_engine::content_hash;
use sherd_protocol::{OwnedRange, RING_SIZE, Range};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::error::Error;
use crate::load::Conflict;
use crate::output::say;
use crate::progress::{Done, Watch};
use crate::units::show_count;

/// Ranges that are read at the same time.
const LANES: usize = 4;

/// Pages of a range on their way here while others are written.
const PAGES_AHEAD: usize = 2;

/// Pages of a range that are being written.
const PAGES_UNDER_WAY: usize = 2;

/// The target's documents are read page by page where there are up to so many for each one of the source;
/// where there are more, one by one.
const MAX_DENSITY: u64 = 4;

/// Documents of the target that are being read one by one, of a page.
const READS_UNDER_WAY: usize = 64;

/// So many keys that are there and must not be are said one by one.
const REFUSALS_SAID: u64 = 20;

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
    /// Not copied, for they must not be there.
    pub(crate) failed: u64,
    bytes: u64,
    /// How the digest of the target has changed.
    change: Digest,
}

impl Copied {
    /// The documents of the source that are dealt with.
    pub(crate) fn documents(&self) -> u64 {
        self.written + self.overwritten + self.existing + self.failed
    }
}

/// A page that is being written: what came of it so far.
struct Page {
    copied: Copied,
    scratch: Vec<u8>,
}

/// A document that is to be written.
struct Write<'a> {
    item: &'a Item,
    /// What the target has, as far as is known.
    there: Option<Document>,
    /// What the last attempt was to replace.
    replaced: Option<Document>,
    /// The outcome of the last attempt is unknown. If the document is there as it was to be written, it was
    /// this attempt.
    is_unknown: bool,
}

impl<'a> Write<'a> {
    fn new(item: &'a Item) -> Self {
        Self { item, there: None, replaced: None, is_unknown: false }
    }

    fn is_there_as_written(&self) -> bool {
        let content = |document: &Document| (document.bytes.clone(), document.expires_at);
        self.there.as_ref().map(content) == Some(content(&self.item.document))
    }
}

/// A copy under way.
pub(crate) struct Copy {
    from: Place,
    to: Place,
    on_conflict: Conflict,
    copied: Mutex<Copied>,
    /// Most of the last page was there.
    are_there: AtomicBool,
    /// What the target has is read page by page.
    is_scanned: bool,
    /// How many keys were there that must not be.
    said: AtomicU64,
    /// No more is to be read.
    stopped: watch::Sender<bool>,
    /// All is copied.
    has_ended: AtomicBool,
    /// The ranges that nobody reads yet, and how much of the ring was seen.
    ranges: Mutex<VecDeque<Range>>,
    seen: Mutex<u64>,
    /// What the target had.
    before: Contents,
}

impl Copy {
    /// # Errors
    /// When a cluster does not answer, or an index is gone.
    pub(crate) async fn new(
        from: Place,
        to: Place,
        on_conflict: Conflict,
    ) -> Result<Arc<Self>, Error> {
        let map = from.client.known_map();
        let (source, target) = (contents(&from).await?, contents(&to).await?);
        Ok(Arc::new(Self {
            on_conflict,
            copied: Mutex::default(),
            are_there: AtomicBool::new(false),
            // A page of the source is one of the target where both are in the order of one hash.
            is_scanned: map.hash_method == to.client.known_map().hash_method
                && target.documents / MAX_DENSITY <= source.documents,
            said: AtomicU64::new(0),
            stopped: watch::Sender::new(false),
            has_ended: AtomicBool::new(false),
            ranges: Mutex::new(map.ranges.iter().map(OwnedRange::range).collect()),
            seen: Mutex::default(),
            before: target,
            from,
            to,
        }))
    }

    /// What is copied so far.
    pub(crate) fn copied(&self) -> Copied {
        *self.copied.lock()
    }

    /// Has it end: what is being written is waited for, and no more is read.
    pub(crate) fn stop(&self) {
        self.stopped.send_replace(true);
    }

    /// Whether nothing is left to be copied: only the digest may be another one.
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }

    fn is_stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    /// Waits until no more is to be read.
    async fn until_stopped(&self) {
        let mut stopped = self.stopped.subscribe();
        // The sender is there as long as this is.
        _ = stopped.wait_for(|stopped| *stopped).await;
    }

    /// Copies everything, and checks it by the digest of the target. What was copied is known then, whatever
    /// it came to.
    ///
    /// # Errors
    /// When a cluster does not answer, a document is refused, or the target has not what it should.
    pub(crate) async fn run(self: Arc<Self>) -> Result<(), Error> {
        let mut lanes = JoinSet::new();
        for _ in 0..LANES {
            lanes.spawn(Arc::clone(&self).lane());
        }
        let mut progress = Watch::new(format!("copy of {}", self.from.index), Done::default());
        let mut result = Ok(());
        while !lanes.is_empty() {
            match tokio::time::timeout(WATCH_INTERVAL, lanes.join_next()).await {
                Ok(Some(Ok(ended))) => {
                    // The others end with what they are writing, so that it is counted.
                    if ended.is_err() {
                        self.stop();
                    }
                    result = result.and(ended);
                }
                Ok(Some(Err(error))) => std::panic::resume_unwind(error.into_panic()),
                Ok(None) => break,
                Err(_) => {
                    let (copied, seen) = (self.copied(), *self.seen.lock());
                    progress.show(Done {
                        fraction: Some(seen as f64 / f64::from(RING_SIZE)),
                        documents: copied.documents(),
                        bytes: copied.bytes,
                    });
                }
            }
        }
        drop(progress);
        let left = self.said.load(Ordering::Relaxed).saturating_sub(REFUSALS_SAID);
        if left > 0 {
            let index = &self.to.index;
            say!("{left} more of the keys are in index {index:?} already");
        }
        result?;
        if self.is_stopped() {
            return Ok(());
        }
        self.has_ended.store(true, Ordering::Relaxed);
        self.prove().await
    }

    /// Compares what the target has with what it should.
    async fn prove(&self) -> Result<(), Error> {
        let (before, copied) = (self.before, self.copied());
        let after = contents(&self.to).await?;
        let expected = before.digest.with(copied.change);
        if after.digest != expected || after.documents != before.documents + copied.written {
            return Err(Error::Failed(format!(
                "{} copied, but {:?} has {} of them with the digest {}, and it should be {} with \
                 {expected}: something else wrote to it meanwhile, or documents have expired or were \
                 evicted; compare `sherd digest` of both",
                show_count(copied.written + copied.overwritten, "document"),
                self.to.index,
                after.documents,
                after.digest,
                before.documents + copied.written,
            )));
        }
        Ok(())
    }

    /// Copies range after range.
    async fn lane(self: Arc<Self>) -> Result<(), Error> {
        loop {
            let next = self.ranges.lock().pop_front();
            let Some(range) = next else { return Ok(()) };
            let mut writes = JoinSet::new();
            let mut result = self.read(range, &mut writes).await;
            while let Some(written) = writes.join_next().await {
                result = result.and(finished(written));
            }
            if result.is_err() || self.is_stopped() {
                return result;
            }
        }
    }

    /// Reads a range, and has its pages written, a few at a time.
    async fn read(
        self: &Arc<Self>,
        range: Range,
        writes: &mut JoinSet<Result<(), Error>>,
    ) -> Result<(), Error> {
        let options = ScanOptions { range, ..ScanOptions::default() };
        let mut pages = self.from.client.scan_ahead(&self.from.index, options, PAGES_AHEAD)?;
        let mut seen_to = range.start;
        let mut see = |position: u32| {
            *self.seen.lock() += u64::from(position - seen_to);
            seen_to = position;
        };
        loop {
            let next = tokio::select! {
                biased;
                () = self.until_stopped() => return Ok(()),
                next = pages.next_page() => next?,
            };
            let Some(items) = next else { break };
            if writes.len() == PAGES_UNDER_WAY
                && let Some(written) = writes.join_next().await
            {
                finished(written)?;
            }
            if let Some(last) = items.last() {
                see(last.document.position.0);
            }
            writes.spawn(Arc::clone(self).write(items));
        }
        see(range.end);
        Ok(())
    }

    /// Writes a page. What of it is done counts, also where not all is.
    async fn write(self: Arc<Self>, items: Vec<Item>) -> Result<(), Error> {
        let mut page = Page { copied: Copied::default(), scratch: Vec::new() };
        let result = self.write_into(&items, &mut page).await;
        let copied = page.copied;
        let mut all = self.copied.lock();
        all.written += copied.written;
        all.overwritten += copied.overwritten;
        all.existing += copied.existing;
        all.failed += copied.failed;
        all.bytes += copied.bytes;
        all.change = all.change.with(copied.change);
        result
    }

    async fn write_into(&self, items: &[Item], page: &mut Page) -> Result<(), Error> {
        // Where most of a page was there, the next one is looked for before it is sent.
        let is_looked_for =
            self.on_conflict == Conflict::Overwrite && self.are_there.load(Ordering::Relaxed);
        let mut writes: Vec<_> = items.iter().map(Write::new).collect();
        if !is_looked_for {
            writes = self.attempt(writes, page).await?;
        }
        for attempt in 0..MAX_ATTEMPTS {
            if writes.is_empty() {
                break;
            }
            self.look(&mut writes).await?;
            if attempt == 0 {
                let are_there = writes.iter().filter(|write| write.there.is_some()).count();
                self.are_there.store(2 * are_there > items.len(), Ordering::Relaxed);
            }
            writes.retain(|write| {
                let is_this = write.is_unknown && write.is_there_as_written();
                if is_this {
                    self.note(page, write.item, write.replaced.as_ref());
                } else if write.there.is_some() && self.on_conflict != Conflict::Overwrite {
                    self.leave(page, write.item);
                }
                !is_this && (write.there.is_none() || self.on_conflict == Conflict::Overwrite)
            });
            writes = self.attempt(writes, page).await?;
        }
        match writes.first() {
            None => Ok(()),
            Some(Write { item, .. }) => Err(Error::Failed(format!(
                "key {:?} of index {:?} changes again and again",
                item.key, self.to.index
            ))),
        }
    }

    /// Writes each document in the place of what is there as far as is known: of something else that came
    /// meanwhile nothing is lost. Returns those that are to be looked for.
    async fn attempt<'a>(
        &self,
        writes: Vec<Write<'a>>,
        page: &mut Page,
    ) -> Result<Vec<Write<'a>>, Error> {
        let index: Arc<str> = self.to.index.as_str().into();
        let mutation = |Write { item, there, .. }: &Write<'_>| Mutation::Write {
            index: Arc::clone(&index),
            key: item.key.clone(),
            document: item.document.bytes.clone(),
            condition: there
                .as_ref()
                .map_or(Condition::Absent, |it| Condition::Version(it.version)),
            expiry: expiry(item),
        };
        let mutations: Vec<_> = writes.iter().map(mutation).collect();
        let (mut again, mut failed) = (Vec::new(), None);
        for (mut write, result) in writes.into_iter().zip(self.to.client.batch(&mutations).await) {
            write.replaced = write.there.take();
            match result {
                Ok(Outcome::Written(_)) => self.note(page, write.item, write.replaced.as_ref()),
                Ok(Outcome::ConditionFailed(Some(_)))
                    if self.on_conflict != Conflict::Overwrite && !write.is_unknown =>
                {
                    self.leave(page, write.item);
                }
                // There, or somebody else was faster, or an attempt before that was not answered.
                Ok(Outcome::ConditionFailed(_)) => again.push(write),
                Err(error) if error.is_outcome_unknown() => {
                    write.is_unknown = true;
                    again.push(write);
                }
                Ok(other) => {
                    failed.get_or_insert(Error::Failed(format!("a write came to {other:?}")));
                }
                Err(error) => _ = failed.get_or_insert(error.into()),
            }
        }
        failed.map_or(Ok(again), Err)
    }

    /// Reads what the target has of these keys, which are of one page and in its order.
    async fn look(&self, writes: &mut [Write<'_>]) -> Result<(), Error> {
        let Place { client, index } = &self.to;
        if !self.is_scanned {
            // Of few of its documents, or where the target has them in another order.
            let mut reading = JoinSet::new();
            let keys: Vec<_> = writes.iter().map(|write| write.item.key.clone()).collect();
            let mut keys = keys.into_iter().enumerate();
            loop {
                while reading.len() < READS_UNDER_WAY
                    && let Some((i, key)) = keys.next()
                {
                    let (client, index) = (client.clone(), index.clone());
                    reading.spawn(async move { (i, client.read(&index, &key).await) });
                }
                match reading.join_next().await {
                    None => return Ok(()),
                    Some(Ok((i, found))) => writes[i].there = found?,
                    Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
                }
            }
        }
        let ends = (writes.first(), writes.last());
        let (Some(first), Some(last)) = ends else { return Ok(()) };
        let range =
            Range { start: first.item.document.position.0, end: last.item.document.position.0 + 1 };
        let mut found = HashMap::new();
        let mut pages = client.scan(index, ScanOptions { range, ..ScanOptions::default() })?;
        while let Some(items) = pages.next_page().await? {
            found.extend(items.into_iter().map(|item| (item.key, item.document)));
        }
        for write in writes {
            write.there = found.remove(&write.item.key);
        }
        Ok(())
    }

    /// Takes note of a document that is not written, for the target has its key.
    fn leave(&self, page: &mut Page, Item { key, document }: &Item) {
        page.copied.bytes += (key.len() + document.bytes.len()) as u64;
        if self.on_conflict != Conflict::Fail {
            page.copied.existing += 1;
            return;
        }
        page.copied.failed += 1;
        if self.said.fetch_add(1, Ordering::Relaxed) < REFUSALS_SAID {
            say!(
                "key {key:?} is in index {:?} already; --on-conflict skip leaves its document, overwrite \
                 replaces it",
                self.to.index
            );
        }
    }

    /// Takes note of a document that was written, in the place of another one or of none.
    fn note(
        &self,
        Page { copied, scratch }: &mut Page,
        Item { key, document }: &Item,
        replaced: Option<&Document>,
    ) {
        copied.bytes += (key.len() + document.bytes.len()) as u64;
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

fn finished(written: Result<Result<(), Error>, tokio::task::JoinError>) -> Result<(), Error> {
    written.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
