//! Bringing a range from the source: page by page, then the log, then the end ([`complete`]).

mod complete;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use sherd_client::{ConnectOptions, Page, Tail, TailChange};
use sherd_engine::{Engine, Import, Imported, Key, Span};
use sherd_node::{blocking, hold_at};
use sherd_protocol::WireError;
use sherd_protocol::message::{MoveProgress, ShardAnswer};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::note::{After, Note};
use super::pace::Pace;
use super::shown::Shown;
use super::source::{Brought, SourceClient, Wanted};
use super::{Job, Shared, unavailable};
use crate::refusal::refusal;

/// The pause before connecting again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// The pause when there is nothing left to read of the log.
const IDLE_PAUSE: Duration = Duration::from_millis(20);

/// How often the target remembers how far it is where it stores nothing of what it reads: the source holds what
/// was not read yet, and a target that comes back without knowing would ask for what is gone.
const PERSIST_INTERVAL: Duration = Duration::from_secs(5);

/// How often the source is asked what the next page shows of its log, which takes a request.
const MARK_INTERVAL: Duration = Duration::from_millis(200);

/// After so long without a page or a part of the log, the source is asked to go on holding its log, which
/// it does for a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// The pulling of one job.
pub(super) struct Pull {
    engine: Engine,
    options: ConnectOptions,
    job: watch::Receiver<Job>,
    shared: Arc<Shared>,
    pace: Pace,
    /// How far it is; `None` where the engine is to be asked.
    note: Option<Note>,
    /// When the engine was last told how far it is.
    persisted_at: Instant,
    /// What was asked for before it was its turn, and the answer.
    ahead: Option<(Wanted, Result<Brought, WireError>)>,
    /// When the source was last asked for something that has it hold its log.
    held_at: Instant,
    /// What pages have shown of the log, and when that was noted last.
    shown: Shown,
    marked_at: Instant,
    cost: Cost,
}

/// What the last step took.
#[derive(Default)]
struct Cost {
    /// How long the import.
    importing: Duration,
    /// How long the source, for what was asked for before the import and meanwhile, but for the way.
    bringing: Duration,
    /// The bytes of a part of the log that pages had brought, and were not imported.
    left_out: u64,
}

impl Drop for Pull {
    fn drop(&mut self) {
        self.shared.waiting.close(&self.job.borrow().id);
    }
}

impl Pull {
    pub(super) fn new(
        engine: Engine,
        options: ConnectOptions,
        job: watch::Receiver<Job>,
        shared: Arc<Shared>,
        pace: Pace,
    ) -> Self {
        let now = Instant::now();
        Self {
            engine,
            options,
            job,
            shared,
            pace,
            note: None,
            persisted_at: now,
            ahead: None,
            held_at: now,
            shown: Shown::default(),
            marked_at: now,
            cost: Cost::default(),
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let id = self.job.borrow().id.clone();
            if !self.is_held(&id) {
                // The range is owned, or the move was ended, or the shard ends.
                return;
            }
            let ended = self.pull().await;
            if !self.is_held(&id) {
                // Also where that is why something was refused just now.
                tracing::debug!(r#move = %id, "nothing more is brought: the move has ended");
                return;
            }
            let Err(error) = ended else { continue };
            let why = error.to_string();
            if let Some(responder) = self.shared.waiting.take() {
                responder.refuse(&unavailable(&id, &why));
            }
            let is_new = {
                let error = &mut self.shared.progress.lock().error;
                let is_new = error.as_ref() != Some(&why);
                *error = Some(why.clone());
                is_new
            };
            if is_new {
                tracing::warn!(r#move = %id, %why, "a range is not brought now");
            }
            // What the engine holds counts: the last import may have been refused or not.
            (self.note, self.ahead) = (None, None);
            tokio::select! {
                biased;
                _ = self.job.changed() => {}
                () = sleep(RETRY_PAUSE) => {}
            }
        }
    }

    /// Whether the engine takes the range over still, and somebody could say otherwise.
    fn is_held(&self, id: &str) -> bool {
        self.job.has_changed().is_ok() && self.engine.incoming().is_some_and(|held| held.id == id)
    }

    /// Pulls until the move has ended, or something goes wrong.
    async fn pull(&mut self) -> Result<(), WireError> {
        let Job { id, range, from, .. } = self.job.borrow_and_update().clone();
        let source = SourceClient::connect(&from, &self.options, range);
        let source = source.await.map_err(|error| unavailable(&id, error))?;
        // It may be another process, and what the last one said of itself is not known of it.
        self.shown = Shown::default();
        loop {
            let changed = self.job.borrow_and_update().clone();
            if !self.is_held(&id) {
                return Ok(());
            }
            if changed.from != from {
                return Err(unavailable(&id, "the source has another address now"));
            }
            let is_paused = changed.rate == Some(0);
            if let Some(responder) = self.shared.waiting.take() {
                if is_paused {
                    responder.refuse(&unavailable(&id, "it is paused"));
                    continue;
                }
                let completed = self.complete(&source, &id).await;
                self.shared.completed.store(completed.is_ok(), Ordering::Release);
                match completed {
                    Ok(lsn) => responder.send(&ShardAnswer::Frozen { lsn }),
                    Err(error) => responder.refuse(&error),
                }
                continue;
            }
            if self.shared.completed.load(Ordering::Acquire) {
                // The source may not own it any more, which is as it should be.
                _ = self.wait(&source, Instant::now() + IDLE_PAUSE).await;
                continue;
            }
            if is_paused {
                // Bootstrap says so of the moves as a whole: nothing is wrong.
                self.shared.progress.lock().error = None;
                self.wait(&source, Instant::now() + RETRY_PAUSE).await?;
                continue;
            }
            let begun = Instant::now();
            let before = self.note(&source).await?.bytes;
            let is_up_to_date = self.step(&source, &id).await?;
            self.shared.progress.lock().error = self.pace.why();
            let until = if is_up_to_date {
                Instant::now() + IDLE_PAUSE
            } else {
                self.next_step_at(begun, before, changed.rate)
            };
            self.wait(&source, until).await?;
        }
    }

    /// When the next step may begin: it gives way to what else the shards have to do, and keeps to the
    /// rate. The last one was `begun` when `before` bytes had been brought.
    fn next_step_at(&self, begun: Instant, before: u64, rate: Option<u64>) -> Instant {
        // The target's own writers wait for imports alone: that the next page was asked for meanwhile
        // takes none of their time, nor does waiting for it.
        let pause = self.pace.pause(self.cost.importing, self.cost.bringing);
        let until = Instant::now() + pause;
        let (Some(rate), Some(note)) = (rate, &self.note) else { return until };
        let bytes = note.bytes - before + self.cost.left_out;
        until.max(begun + Duration::from_secs_f64(bytes as f64 / rate as f64))
    }

    /// Waits, but no longer than until there is something else to do. Meanwhile what is still to be read
    /// of the source's log is kept.
    async fn wait(&mut self, source: &SourceClient, until: Instant) -> Result<(), WireError> {
        loop {
            let keep_alive = self.held_at + KEEP_ALIVE;
            tokio::select! {
                biased;
                _ = self.job.changed() => return Ok(()),
                () = self.shared.waiting.came() => return Ok(()),
                () = sleep_until(until) => return Ok(()),
                () = sleep_until(keep_alive) => {}
            }
            self.held_at = Instant::now();
            if let Some(note) = &self.note {
                source.hold(note.tail).await?;
            }
        }
    }

    /// How far it is. At the beginning, from where on the log has what is not read yet.
    async fn note(&mut self, source: &SourceClient) -> Result<&mut Note, WireError> {
        if self.note.is_none() {
            let held = self.engine.incoming().and_then(|held| Note::decode(&held.note));
            let note = match held {
                Some(note) => {
                    // It goes on from there, perhaps with nothing left to bring.
                    let mut progress = self.shared.progress.lock();
                    let (id, error) = (progress.id.clone(), progress.error.take());
                    *progress = MoveProgress { error, copied: false, ..note.progress(&id) };
                    note
                }
                None => Note { tail: source.tail_end().await?, ..Note::default() },
            };
            self.note = Some(note);
        }
        // Just set.
        Ok(self.note.get_or_insert_default())
    }

    /// Brings a page or a part of the log. Returns whether nothing was left to bring.
    async fn step(&mut self, source: &SourceClient, id: &str) -> Result<bool, WireError> {
        self.cost = Cost::default();
        let note = self.note(source).await?.clone();
        let Some(wanted) = note.wanted() else {
            let mut next = note;
            match source.index_after(next.done).await? {
                Some(index) => next.reading = Some((index, None)),
                // It is said together with how much of the log is left.
                None => next.copied = true,
            }
            self.note = Some(next);
            return Ok(false);
        };
        match self.bring(source, &wanted).await {
            Ok(Brought::Page { index, after, page }) => {
                self.pace.look();
                self.take_page(source, id, note, (index, after, page)).await?;
                hold_at("target copying").await;
                Ok(false)
            }
            Ok(Brought::Tail(tail)) => self.take_tail(source, id, note, tail).await,
            Err(WireError::LogGone { .. }) => self.begin_anew(source, id).await,
            // Dropped since.
            Err(WireError::IndexNotFound { .. }) if let Wanted::Page { index, .. } = wanted => {
                self.note = Some(Note { done: index, reading: None, ..note });
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// What was asked for while the last was imported, if it is that; else it is asked for now.
    async fn bring(
        &mut self,
        source: &SourceClient,
        wanted: &Wanted,
    ) -> Result<Brought, WireError> {
        match self.ahead.take() {
            Some((ahead, brought)) if ahead == *wanted => brought,
            _ => {
                self.held_at = Instant::now();
                let brought = source.bring(wanted).await;
                self.cost.bringing = self.held_at.elapsed().saturating_sub(source.round_trip);
                brought
            }
        }
    }

    /// Imports a page of an index.
    async fn take_page(
        &mut self,
        source: &SourceClient,
        id: &str,
        mut next: Note,
        (index, after, page): (u32, After, Page),
    ) -> Result<(), WireError> {
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
        let ahead = next.wanted();
        self.import_and_ask(source, id, (documents, Some(whole), next), ahead).await
    }

    /// Imports a part of the log. Returns whether nothing was left of it.
    async fn take_tail(
        &mut self,
        source: &SourceClient,
        id: &str,
        note: Note,
        tail: Tail,
    ) -> Result<bool, WireError> {
        let behind = (tail.durable_lsn + 1).saturating_sub(tail.next.lsn);
        let is_all = behind == 0;
        {
            let mut progress = self.shared.progress.lock();
            (progress.copied, progress.behind) = (true, behind);
        }
        self.pace.look();
        self.pace.look_at_source(tail.durable_lsn);
        self.pace.look_at_log(behind);
        let next = Note { tail: tail.next, ..note };
        let last_lsn = next.tail.lsn.saturating_sub(1);
        let is_shown = |it: &TailChange| self.shown.covers(it.index, it.position.0, last_lsn);
        let (shown, changes): (Vec<_>, Vec<_>) = tail.changes.into_iter().partition(is_shown);
        self.cost.left_out = shown.into_iter().map(|change| bytes_of(&imported(change))).sum();
        let documents: Vec<_> = changes.into_iter().map(imported).collect();
        let is_further = next.tail.lsn != note.tail.lsn;
        let is_due = is_further && self.persisted_at.elapsed() >= PERSIST_INTERVAL;
        if documents.is_empty() && !is_due {
            // Not worth a record.
            self.note = Some(next);
        } else {
            // Of the end of the log, more is there only later.
            let ahead = next.wanted().filter(|_| !is_all);
            self.import_and_ask(source, id, (documents, None, next), ahead).await?;
        }
        Ok(is_all)
    }

    /// Imports, and asks the source for what comes then meanwhile: it reads while this shard writes and
    /// syncs. What it answers is of use only if the import succeeds, and is dropped with the note if not.
    async fn import_and_ask(
        &mut self,
        source: &SourceClient,
        id: &str,
        (documents, whole, next): (Vec<Imported>, Option<Span>, Note),
        ahead: Option<Wanted>,
    ) -> Result<(), WireError> {
        let begun = Instant::now();
        let is_marked = self.marked_at.elapsed() >= MARK_INTERVAL;
        let asking = async {
            let wanted = ahead?;
            // Before the page is asked for.
            let mark = match &wanted {
                Wanted::Page { .. } if is_marked => source.done_lsn().await.ok(),
                _ => None,
            };
            let asked_at = Instant::now();
            let brought = source.bring(&wanted).await;
            let bringing = asked_at.elapsed().saturating_sub(source.round_trip);
            Some((wanted, brought, bringing, mark))
        };
        let importing = async {
            let imported = self.import(id, documents, whole, next).await;
            (imported, begun.elapsed())
        };
        let ((imported, importing), ahead) = tokio::join!(importing, asking);
        self.cost.importing = importing;
        if let Some((wanted, brought, bringing, mark)) = ahead {
            if let (Wanted::Page { index, after, .. }, Some(lsn)) = (&wanted, mark) {
                self.shown.note(*index, after.as_ref().map(|(position, _)| *position), lsn);
                self.pace.look_at_source(lsn);
                self.marked_at = Instant::now();
            }
            (self.ahead, self.held_at) = (Some((wanted, brought)), begun);
            self.cost.bringing += bringing;
        }
        imported
    }

    /// Reads the range from its beginning once more, over what is there. Returns that something is left.
    async fn begin_anew(&mut self, source: &SourceClient, id: &str) -> Result<bool, WireError> {
        tracing::info!(r#move = %id, "the range is read anew: the source's log went on");
        let tail = source.tail_end().await?;
        let Note { documents, bytes, .. } = self.note(source).await?.clone();
        let mut progress = self.shared.progress.lock();
        (progress.copied, progress.behind) = (false, 0);
        drop(progress);
        self.pace.begin_anew();
        self.shown = Shown::default();
        self.note = Some(Note { tail, documents, bytes, ..Note::default() });
        Ok(false)
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
        let engine = self.engine.clone();
        let imported = blocking(move || engine.import(import)).await;
        let imported = imported.map_err(|error| WireError::Internal { what: error.to_string() })?;
        imported.map_err(|error| self.refusal(error))?;
        self.persisted_at = Instant::now();
        let mut progress = self.shared.progress.lock();
        *progress = MoveProgress { behind: progress.behind, ..next.progress(id) };
        drop(progress);
        self.note = Some(next);
        Ok(())
    }

    /// The refusal of an import, with the name of the index that has no room: who reads it is to give it
    /// more.
    fn refusal(&self, error: sherd_engine::Error) -> WireError {
        let name = match error {
            sherd_engine::Error::IndexFull { id, .. } => {
                let indexes = self.engine.stat().indexes.into_iter();
                indexes.filter(|index| index.id == id).map(|index| index.name).next()
            }
            _ => None,
        };
        refusal(error, &name.unwrap_or_default())
    }
}

fn imported(change: TailChange) -> Imported {
    let TailChange { index, key, position, version, stored } = change;
    let key = Key { position: position.0, bytes: key.into() };
    match stored {
        Some((document, expires_at)) => Imported::Put { index, key, version, expires_at, document },
        None => Imported::Removed { index, key, version },
    }
}

fn bytes_of(imported: &Imported) -> u64 {
    match imported {
        Imported::Put { key, document, .. } => (key.bytes.len() + document.len()) as u64,
        Imported::Removed { key, .. } => key.bytes.len() as u64,
    }
}
