//! Taking a range over from another shard: the target's part of a move.
//!
//! One task at a time pulls from the source: page by page all documents of the range, then the end of
//! the source's log. What it brings goes into the engine together with how far it is, so that it goes
//! on from there after a restart of either; bootstrap tells it to, for it alone knows where the source
//! is. A page holds all that the source has between two keys, so a range that has to be read anew (the
//! source's log was compacted meanwhile) is read over what is there already.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sherd_client::{ConnectOptions, Connection, Error as ClientError, ShardReply};
use sherd_engine::{Command, Engine, Import, Imported, Key, Span};
use sherd_node::{Responder, blocking, hold_at};
use sherd_protocol::message::{
    Cursor, Export, Freeze, Incoming, MoveId, RangeSum, ReadTail, ShardAnswer, ShardOperation,
    SourceOperation, TailCursor,
};
use sherd_protocol::{Position, Range, WireError};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::operation::sums;
use crate::refusal::refusal;

/// How long the source may take for one request.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// The pause before connecting again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// The pause when there is nothing left to read of the log.
const IDLE_PAUSE: Duration = Duration::from_millis(20);

/// For how long the source freezes the range at most. What is left then is short, and bootstrap has
/// the source give the range up at once.
const FREEZE_TIME: Duration = Duration::from_secs(5);

/// The share of its time that a move works, in percent, but for its end: what else the shards have to do
/// goes on beside it.
const SHARE_PERCENT: u32 = 50;

/// For how much of that the rest of the log is waited for.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// How many pages of the log are read before the range is frozen, to be nearly up to date.
const PAGES_BEFORE_FREEZE: usize = 50;

/// What is to be taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) range: Range,
    /// The address of the source.
    pub(crate) from: String,
    /// Bytes a second; 0 for none now.
    pub(crate) rate: Option<u64>,
}

/// How far it is, as the engine remembers it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// Where the log goes on.
    tail: TailCursor,
    /// All indexes up to this id were read.
    done: u32,
    /// The index that is being read, and the key after which.
    reading: Option<(u32, Option<(u32, String)>)>,
    /// All indexes were.
    copied: bool,
    /// What was brought.
    documents: u64,
    bytes: u64,
}

/// What takes ranges over.
#[derive(Clone)]
pub(crate) struct Receiver(Arc<Inner>);

struct Inner {
    engine: Engine,
    options: ConnectOptions,
    runtime: Handle,
    current: Mutex<Option<Current>>,
}

/// The move under way.
struct Current {
    job: watch::Sender<Job>,
    progress: Arc<Mutex<Incoming>>,
    completions: mpsc::UnboundedSender<Responder>,
    completed: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Receiver {
    pub(crate) fn new(engine: Engine, options: ConnectOptions) -> Self {
        let (runtime, current) = (Handle::current(), Mutex::default());
        Self(Arc::new(Inner { engine, options, runtime, current }))
    }

    /// Takes a job on, which the engine has begun, in the place of any other.
    pub(crate) fn take_on(&self, job: Job) {
        let mut current = self.0.current.lock();
        if let Some(current) = &*current
            && current.job.borrow().id == job.id
            && !current.task.is_finished()
        {
            current.job.send_if_modified(|held| std::mem::replace(held, job.clone()) != job);
            // It is not handed over, or bootstrap would not say so.
            current.completed.store(false, Ordering::Release);
            return;
        }
        end(current.take());
        let progress = Arc::new(Mutex::new(Incoming { id: job.id.clone(), ..Incoming::default() }));
        let (job, jobs) = watch::channel(job);
        let (completions, asked) = mpsc::unbounded_channel();
        let completed = Arc::new(AtomicBool::new(false));
        let pull = Pull {
            engine: self.0.engine.clone(),
            options: self.0.options.clone(),
            job: jobs,
            progress: Arc::clone(&progress),
            note: None,
            asked,
            completed: Arc::clone(&completed),
        };
        let task = self.0.runtime.spawn(pull.run()).abort_handle();
        *current = Some(Current { job, progress, completions, completed, task });
    }

    /// Ends a job.
    pub(crate) fn stop(&self, id: &str) {
        end(self.0.current.lock().take_if(|current| current.job.borrow().id == id));
    }

    /// Completes a job, and answers then.
    pub(crate) fn complete(&self, id: &str, responder: Responder) {
        let current = self.0.current.lock();
        match current.as_ref().filter(|current| current.job.borrow().id == id) {
            // A task that ended refuses what was sent to it, by dropping it.
            Some(current) => _ = current.completions.send(responder),
            None => responder.refuse(&unavailable(id, "it was not told to receive anything")),
        }
    }

    /// How far the move is that the engine knows of.
    pub(crate) fn progress(&self, held: Option<&sherd_engine::Incoming>) -> Option<Incoming> {
        let held = held?;
        let current = self.0.current.lock();
        if let Some(current) = current.as_ref().filter(|it| it.job.borrow().id == held.id) {
            return Some(current.progress.lock().clone());
        }
        let note = Note::decode(&held.note).unwrap_or_default();
        let error = Some("it waits to be told to go on".to_owned());
        Some(Incoming { error, ..note.progress(&held.id) })
    }
}

fn end(current: Option<Current>) {
    if let Some(current) = current {
        current.task.abort();
    }
}

fn unavailable(id: &str, why: impl std::fmt::Display) -> WireError {
    WireError::Unavailable { what: format!("the move {id}"), why: format!("{why}") }
}

impl Note {
    fn decode(bytes: &[u8]) -> Option<Self> {
        rmp_serde::from_slice(bytes).ok()
    }

    fn encode(&self) -> Vec<u8> {
        // A plain structure into memory: there is nothing to fail.
        rmp_serde::to_vec_named(self).unwrap_or_default()
    }

    fn progress(&self, id: &str) -> Incoming {
        let Self { copied, documents, bytes, .. } = *self;
        Incoming { id: id.to_owned(), copied, documents, bytes, ..Incoming::default() }
    }
}

/// The pulling of one job.
struct Pull {
    engine: Engine,
    options: ConnectOptions,
    job: watch::Receiver<Job>,
    progress: Arc<Mutex<Incoming>>,
    /// How far it is; `None` where the engine is to be asked.
    note: Option<Note>,
    /// It is complete, and nothing more is brought unless it is told to go on: the source may have given
    /// the range up.
    completed: Arc<AtomicBool>,
    /// Who waits for its end.
    asked: mpsc::UnboundedReceiver<Responder>,
}

/// A source that is connected.
struct Source {
    connection: Connection,
    range: Range,
}

impl Pull {
    async fn run(mut self) {
        loop {
            let id = self.job.borrow().id.clone();
            if !self.is_held(&id) {
                // The range is owned, or the move was ended.
                return;
            }
            let Err(error) = self.pull().await;
            let why = error.to_string();
            while let Ok(responder) = self.asked.try_recv() {
                responder.refuse(&unavailable(&id, &why));
            }
            let is_new = {
                let error = &mut self.progress.lock().error;
                let is_new = error.as_ref() != Some(&why);
                *error = Some(why.clone());
                is_new
            };
            if is_new {
                tracing::warn!(r#move = %id, %why, "a range is not brought now");
            }
            // What the engine holds counts: the last import may have been refused or not.
            self.note = None;
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Whether the engine takes the range over still.
    fn is_held(&self, id: &str) -> bool {
        self.engine.incoming().is_some_and(|held| held.id == id)
    }

    /// Pulls until something goes wrong, or the move has ended.
    async fn pull(&mut self) -> Result<std::convert::Infallible, WireError> {
        let Job { id, range, from, .. } = self.job.borrow_and_update().clone();
        let connection = Connection::open(&from, &self.options)
            .await
            .map_err(|error| unavailable(&id, error))?;
        let source = Source { connection, range };
        loop {
            let changed = self.job.borrow_and_update().clone();
            if !self.is_held(&id) {
                return Err(unavailable(&id, "it has ended"));
            }
            if changed.from != from {
                return Err(unavailable(&id, "the source has another address now"));
            }
            if changed.rate == Some(0) {
                self.progress.lock().error = Some("it is paused".to_owned());
                sleep(RETRY_PAUSE).await;
                continue;
            }
            if let Ok(responder) = self.asked.try_recv() {
                let completed = self.complete(&source, &id).await;
                self.completed.store(completed.is_ok(), Ordering::Release);
                match completed {
                    Ok(lsn) => responder.send(&ShardAnswer::Frozen { lsn }),
                    Err(error) => responder.refuse(&error),
                }
                continue;
            }
            if self.completed.load(Ordering::Acquire) {
                sleep(IDLE_PAUSE).await;
                continue;
            }
            let begun = Instant::now();
            let before = self.note(&source).await?.bytes;
            let is_up_to_date = self.step(&source, &id).await?;
            self.progress.lock().error = None;
            if is_up_to_date {
                sleep(IDLE_PAUSE).await;
                continue;
            }
            let mut until =
                Instant::now() + begun.elapsed() * (100 - SHARE_PERCENT) / SHARE_PERCENT;
            if let (Some(rate), Some(note)) = (changed.rate, &self.note) {
                let time = (note.bytes - before) as f64 / rate as f64;
                until = until.max(begun + Duration::from_secs_f64(time));
            }
            sleep_until(until).await;
        }
    }

    /// How far it is. At the beginning, from where on the log has what is not read yet.
    async fn note(&mut self, source: &Source) -> Result<&mut Note, WireError> {
        if self.note.is_none() {
            let held = self.engine.incoming().and_then(|held| Note::decode(&held.note));
            let note = match held {
                Some(note) => {
                    // It goes on from there, perhaps with nothing left to bring.
                    let mut progress = self.progress.lock();
                    let (id, error) = (progress.id.clone(), progress.error.take());
                    *progress = Incoming { error, ..note.progress(&id) };
                    note
                }
                None => Note { tail: source.tail_end().await?, ..Note::default() },
            };
            self.note = Some(note);
        }
        // Just set.
        Ok(self.note.get_or_insert_default())
    }

    /// Brings a page. Returns whether nothing was left to bring.
    async fn step(&mut self, source: &Source, id: &str) -> Result<bool, WireError> {
        let note = self.note(source).await?.clone();
        if note.copied {
            return self.step_of_log(source, id, note).await;
        }
        let mut next = note.clone();
        let Some((index, after)) = note.reading else {
            match source.index_after(note.done).await? {
                Some(index) => next.reading = Some((index, None)),
                None => next.copied = true,
            }
            self.progress.lock().copied = next.copied;
            self.note = Some(next);
            return Ok(false);
        };
        let page = match source.export(index, after.as_ref()).await {
            Ok(page) => page,
            // Dropped since.
            Err(WireError::IndexNotFound { .. }) => {
                self.note = Some(Note { done: index, reading: None, ..next });
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let key = |position: u32, key: &str| Key {
            position,
            bytes: Bytes::copy_from_slice(key.as_bytes()),
        };
        let last = page.items.last().map(|item| (item.document.position.0, item.key.clone()));
        let until = if page.more { last.clone() } else { None };
        let whole = Span {
            index,
            range: (source.range.start, source.range.end),
            after: after.as_ref().map(|(position, name)| key(*position, name)),
            until: until.as_ref().map(|(position, name)| key(*position, name)),
        };
        if page.more {
            next.reading = Some((index, last));
        } else {
            (next.done, next.reading) = (index, None);
        }
        let documents: Vec<_> = page
            .items
            .into_iter()
            .map(|item| Imported::Put {
                index,
                key: key(item.document.position.0, &item.key),
                version: item.document.version,
                expires_at: item.document.expires_at,
                document: item.document.bytes,
            })
            .collect();
        self.import(id, documents, Some(whole), next).await?;
        hold_at("target copying").await;
        Ok(false)
    }

    /// Brings what the log has next. Returns whether nothing was left of it.
    async fn step_of_log(
        &mut self,
        source: &Source,
        id: &str,
        note: Note,
    ) -> Result<bool, WireError> {
        let tail = match source.tail(note.tail).await {
            Ok(tail) => tail,
            Err(WireError::LogGone { .. }) => {
                tracing::info!(r#move = %id, "the range is read anew: the source's log went on");
                let tail = source.tail_end().await?;
                let Note { documents, bytes, .. } = note;
                self.progress.lock().copied = false;
                self.note = Some(Note { tail, documents, bytes, ..Note::default() });
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let behind = (tail.durable_lsn + 1).saturating_sub(tail.next.lsn);
        let is_all = behind == 0;
        let next = Note { tail: tail.next, ..note };
        let documents: Vec<_> = tail
            .changes
            .into_iter()
            .map(|change| {
                let (index, version) = (change.index, change.version);
                let bytes = Bytes::from(change.key.into_bytes());
                let key = Key { position: change.position.0, bytes };
                match change.stored {
                    Some((document, expires_at)) => {
                        Imported::Put { index, key, version, expires_at, document }
                    }
                    None => Imported::Removed { index, key, version },
                }
            })
            .collect();
        if documents.is_empty() {
            // Not worth a record.
            self.note = Some(next);
        } else {
            self.import(id, documents, None, next).await?;
        }
        self.progress.lock().behind = behind;
        Ok(is_all)
    }

    async fn import(
        &mut self,
        id: &str,
        documents: Vec<Imported>,
        whole: Option<Span>,
        mut next: Note,
    ) -> Result<(), WireError> {
        next.documents += documents.len() as u64;
        next.bytes += documents.iter().map(bytes_of).sum::<u64>();
        let as_of = next.tail.lsn.saturating_sub(1);
        let import = Import { id: id.to_owned(), documents, whole, as_of, note: next.encode() };
        let (done, imported) = oneshot::channel();
        let done = move |result| _ = done.send(result);
        self.engine.submit(Command::Import(import), Box::new(done));
        let imported = imported.await.unwrap_or(Err(sherd_engine::Error::Closed));
        imported.map_err(|error| refusal(error, ""))?;
        let mut progress = self.progress.lock();
        *progress = Incoming { behind: progress.behind, ..next.progress(id) };
        drop(progress);
        self.note = Some(next);
        Ok(())
    }

    /// Freezes the range at the source, brings the rest, and sees that both have the same. Where that
    /// fails, the source goes on with the range at once. Returns the LSN after which nothing changes.
    async fn complete(&mut self, source: &Source, id: &str) -> Result<u64, WireError> {
        let mut pages = 0;
        while !self.step(source, id).await? {
            pages += 1;
            if pages >= PAGES_BEFORE_FREEZE {
                return Err(unavailable(id, "the target is not up to date yet"));
            }
        }
        hold_at("target freezing").await;
        let frozen_at = source.freeze(id).await?;
        hold_at("target frozen").await;
        let brought = self.bring_rest(source, id, frozen_at).await;
        if brought.is_err() {
            _ = source.ask(SourceOperation::Thaw(MoveId { id })).await;
        }
        brought.map(|()| frozen_at)
    }

    async fn bring_rest(
        &mut self,
        source: &Source,
        id: &str,
        frozen_at: u64,
    ) -> Result<(), WireError> {
        let until = Instant::now() + DRAIN_TIME;
        while self.note(source).await?.tail.lsn <= frozen_at {
            if Instant::now() > until {
                return Err(unavailable(id, "the target could not keep up with the source"));
            }
            self.step(source, id).await?;
        }
        // Also where nothing was brought: versions go on from there.
        let note = self.note(source).await?.clone();
        self.import(id, Vec::new(), None, note).await?;
        hold_at("target brought").await;
        let (theirs, ours) = (source.sums().await?, self.sums(source.range).await?);
        hold_at("target compared").await;
        let Some((index, what)) = difference(&theirs, &ours) else { return Ok(()) };
        let is_here = self.engine.stat().indexes.iter().any(|known| known.id == index);
        if !is_here || !source.indexes().await?.contains(&index) {
            return Err(unavailable(id, "an index is being created or dropped"));
        }
        Err(WireError::Mismatch { id: id.to_owned(), what })
    }

    async fn sums(&self, range: Range) -> Result<Vec<RangeSum>, WireError> {
        let engine = self.engine.clone();
        let counted = blocking(move || sums(&engine, &[range])).await;
        counted.map_err(|error| WireError::Internal { what: error.to_string() })?
    }
}

/// In which index the documents of source and target differ, and how, if they do.
fn difference(source: &[RangeSum], target: &[RangeSum]) -> Option<(u32, String)> {
    if source == target {
        return None;
    }
    let of = |sums: &[RangeSum], index: u32| {
        let found = sums.iter().find(|sum| sum.index == index);
        found.map_or((0, 0, None), |sum| (sum.documents, sum.bytes, Some(sum.digest)))
    };
    let indexes = source.iter().chain(target).map(|sum| sum.index);
    let differs = |&index: &u32| of(source, index) != of(target, index);
    let index = indexes.filter(differs).min()?;
    let ((documents, bytes, _), (ours, our_bytes, _)) = (of(source, index), of(target, index));
    let what = format!(
        "of the index with the id {index} the source has {documents} documents of {bytes} bytes, the \
         target {ours} of {our_bytes}, or others"
    );
    Some((index, what))
}

fn bytes_of(imported: &Imported) -> u64 {
    match imported {
        Imported::Put { key, document, .. } => (key.bytes.len() + document.len()) as u64,
        Imported::Removed { key, .. } => key.bytes.len() as u64,
    }
}

impl Source {
    async fn ask(&self, operation: SourceOperation<'_>) -> Result<ShardReply, WireError> {
        let operation = ShardOperation::Source(operation);
        let asked = self.connection.shard(&operation, Instant::now() + REQUEST_TIME).await;
        asked.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: ClientError) -> WireError {
        match error {
            ClientError::Refused { error, .. } => error,
            error => WireError::Unavailable {
                what: format!("the source, {}", self.connection.node()),
                why: error.to_string(),
            },
        }
    }

    fn unexpected(&self, reply: &ShardReply) -> WireError {
        let what = format!("{} answered {reply:?}", self.connection.node());
        WireError::Internal { what }
    }

    async fn tail_end(&self) -> Result<TailCursor, WireError> {
        match self.ask(SourceOperation::TailEnd).await? {
            ShardReply::TailEnd(cursor) => Ok(cursor),
            other => Err(self.unexpected(&other)),
        }
    }

    /// The first index of the source with a higher id.
    async fn index_after(&self, id: u32) -> Result<Option<u32>, WireError> {
        let ids = self.indexes().await?.into_iter();
        Ok(ids.filter(|&found| found > id).min())
    }

    /// The ids of the source's indexes.
    async fn indexes(&self) -> Result<Vec<u32>, WireError> {
        let until = Instant::now() + REQUEST_TIME;
        let stat = self.connection.shard(&ShardOperation::Stat, until).await;
        match stat.map_err(|error| self.failed(error))? {
            ShardReply::Stat(stat) => Ok(stat.indexes.iter().map(|index| index.id).collect()),
            other => Err(self.unexpected(&other)),
        }
    }

    async fn export(
        &self,
        index: u32,
        after: Option<&(u32, String)>,
    ) -> Result<sherd_client::Page, WireError> {
        let after = after.map(|(position, key)| Cursor { position: Position(*position), key });
        let export = Export { index, range: self.range, after };
        match self.ask(SourceOperation::Export(export)).await? {
            ShardReply::Page(page) => Ok(page),
            other => Err(self.unexpected(&other)),
        }
    }

    async fn tail(&self, from: TailCursor) -> Result<sherd_client::Tail, WireError> {
        let read = ReadTail { from, range: self.range };
        match self.ask(SourceOperation::Tail(read)).await? {
            ShardReply::Tail(tail) => Ok(tail),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Returns the LSN after which nothing changes.
    async fn freeze(&self, id: &str) -> Result<u64, WireError> {
        let at_most = FREEZE_TIME.as_millis() as u64;
        let freeze = Freeze { id, range: self.range, at_most };
        match self.ask(SourceOperation::Freeze(freeze)).await? {
            ShardReply::Frozen { lsn } => Ok(lsn),
            other => Err(self.unexpected(&other)),
        }
    }

    async fn sums(&self) -> Result<Vec<RangeSum>, WireError> {
        match self.ask(SourceOperation::Sums(self.range)).await? {
            ShardReply::Sums(sums) => Ok(sums),
            other => Err(self.unexpected(&other)),
        }
    }
}
