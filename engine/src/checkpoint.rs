//! Checkpoints: the frozen part of the overlay goes into the index, and the manifest says so.
//!
//! The sequencer freezes the overlay between two batches and sends a [`Snapshot`]; this thread
//! drains it in key order, makes the index durable, then replaces the manifest, then drops the
//! frozen part. A crash in between leaves the old manifest and an index that may hold later
//! states; a replay from the old checkpoint comes to the same end.
//!
//! A checkpoint that fails is tried again: a full disk may get space. Meanwhile the frozen part
//! stays in memory and answers reads. An index that failed on the way is opened again first.
//!
//! Where a checkpoint may take more space than there is, the index is parked in memory, which gives
//! back what it took on the disk: else a full disk could not be freed, for segments are deleted only
//! behind a checkpoint. It is put back when there is space for all of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::index::{Index, MAX_ENTRY_BYTES, ParkedIndex};
use crate::log::Lsn;
use crate::manifest::{Manifest, SegmentInfo};
use crate::overlay::{Generation, Overlay};
use crate::read;
use crate::shared::{Shared, View};
use crate::state::State;
use crate::usage::Usage;

/// How long a failed checkpoint waits before it is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How often a failure that goes on is said again.
const COMPLAIN_EVERY: Duration = Duration::from_secs(30);

/// What sled takes for an entry that is new, as a multiple of what it is given.
const INDEX_WRITES: u64 = 2;

/// By how much the index grows at most for a block of which an entry changes, until sled gives back
/// what it took before: measured, 700 to 1,020 bytes.
const BLOCK_WRITES: u64 = 1100;

/// By how much the index grows at most however many of its blocks change, as a divisor of what it
/// takes: measured, 0.34 to 0.47 of it.
const REWRITTEN_SHARE: u64 = 2;

/// What sled and the manifest may write besides.
const INDEX_BYTES: u64 = 2 * 1024 * 1024;

/// What sled takes for an entry where all are put in their order, besides its key: measured, 77 to 84
/// bytes with keys of 16.
const PUT_BACK_BYTES: u64 = 110;

/// What it takes for the key, as a multiple: a key may be in a fence as well.
const PUT_BACK_WRITES: u64 = 3;

/// With more documents, the index is not parked: some 150 bytes each, that is 600 MB of memory.
const MAX_PARKED_DOCUMENTS: u64 = 4_000_000;

/// Where the index takes this many times what its entries take, and [`RENEWED_BYTES`] besides, it is
/// made anew: sled gives back no space after mass removals.
const RENEWED_SHARE: u64 = 8;

/// See [`RENEWED_SHARE`].
const RENEWED_BYTES: u64 = 32 * 1024 * 1024;

/// A frozen overlay and the state at its end.
pub(crate) struct Snapshot {
    pub(crate) lsn: Lsn,
    pub(crate) state: State,
    pub(crate) usage: Usage,
    /// Segments to be deleted: the index, with this generation, points to none of them.
    pub(crate) condemned: Vec<u32>,
    pub(crate) generation: Arc<Generation>,
}

/// Works off snapshots until their sender is gone. Reports each failure and each end.
pub(crate) fn run(shared: &Shared, snapshots: &Receiver<Snapshot>, reports: &Sender<Result<()>>) {
    // The first time, and when a checkpoint has used it. Where there is no space, writes see to it.
    _ = shared.space.keep();
    let mut complaints = Complaints::default();
    while let Ok(snapshot) = snapshots.recv() {
        while let Err(error) = checkpoint(shared, &snapshot) {
            complaints.failed(shared, &error);
            _ = reports.send(Err(error));
            // The sequencer sends nothing more before this one is done, so a message would be a
            // mistake and a closed channel is the end of the engine.
            match snapshots.recv_timeout(RETRY_AFTER) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => return,
            }
        }
        complaints.succeeded(shared);
        shared.space.set_wanted(0);
        _ = shared.space.keep();
        _ = reports.send(Ok(()));
    }
}

/// Says that checkpoints fail, and not each second anew.
#[derive(Default)]
struct Complaints {
    last: Option<Instant>,
}

impl Complaints {
    fn failed(&mut self, shared: &Shared, error: &Error) {
        let why = error.to_string();
        let changed = {
            let mut noted = shared.checkpoint_error.lock();
            let other_kind = noted.as_deref().map(without_digits) != Some(without_digits(&why));
            *noted = Some(why.into());
            other_kind
        };
        if changed || self.last.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY) {
            self.last = Some(Instant::now());
            tracing::error!(
                %error, dir = %shared.dir.display(), "a checkpoint failed and will be tried again"
            );
        }
    }

    fn succeeded(&mut self, shared: &Shared) {
        if shared.checkpoint_error.lock().take().is_some() {
            self.last = None;
            tracing::info!(dir = %shared.dir.display(), "checkpoints succeed again");
        }
    }
}

/// A message without its figures: that other bytes are free does not make it another one.
fn without_digits(message: &str) -> String {
    message.chars().filter(|char| !char.is_ascii_digit()).collect()
}

fn checkpoint(shared: &Shared, snapshot: &Snapshot) -> Result<()> {
    let put_back = put_back_if_possible(shared);
    if let Err(error) = check_space(shared, snapshot)
        && (shared.index.parked().is_some() || !park(shared, snapshot, &error)?)
    {
        return Err(error);
    }
    shared.index.reopen(|index| whats_wrong(shared, snapshot, index))?;
    let written = {
        let index = shared.index.get()?;
        drain(&*index, &snapshot.generation).and_then(|()| index.flush(snapshot.lsn))
    };
    if let Err(error) = written {
        // Somebody took the space meanwhile. One that was parked by an opening was never flushed with
        // what the last checkpoint had, and would count as lost.
        return Err(match put_back {
            Some(parked) => take_back(shared, parked, error),
            None => replace_index(shared, snapshot, error),
        });
    }
    note_index_bytes(shared);
    let tombstones = &snapshot.usage.tombstones;
    let segments = SegmentInfo::list(&shared.segments, tombstones, &snapshot.condemned);
    Manifest::of(shared.identity, snapshot.lsn, &snapshot.state, segments)
        .write(shared.fs.as_ref(), &shared.dir)?;
    shared.index.discard_if_parked()?;
    shared.checkpoint_lsn.store(snapshot.lsn, Ordering::Release);
    // The order matters, see the cache: no reader that looked a key up before may cache it now,
    // then the cache forgets what the overlay had answers for, then the overlay does.
    shared.view.write().overlay.drops += 1;
    shared.cache.remove(&snapshot.generation);
    shared.view.write().overlay.frozen = None;
    delete(shared, &snapshot.condemned);
    renew_if_mostly_empty(shared, snapshot)
}

/// Deletes segments that the manifest no longer names. A file that cannot be removed is left for
/// the next opening.
///
/// The order matters to the compactor, which asks what is condemned and then what there is: a segment
/// that is there and not condemned any more would look as if it were full of garbage.
fn delete(shared: &Shared, condemned: &[u32]) {
    for &number in condemned {
        // Who reads from it holds it open.
        let segment = shared.segments.remove(number);
        shared.view.write().usage.forget(number);
        shared.condemned.lock().remove(&number);
        let Some(segment) = segment else { continue };
        if let Err(error) = shared.fs.remove(&segment.path) {
            tracing::warn!(path = %segment.path.display(), %error, "a deleted segment stays");
        }
    }
}

/// What a checkpoint may take while the index is in memory: the manifest.
const PARKED_BYTES: u64 = 64 * 1024;

/// What a checkpoint of generations may take.
pub(crate) struct Needed {
    /// For blocks of the index that change.
    rewritten: u64,
    /// For entries that are new, and all else.
    added: u64,
}

impl Needed {
    pub(crate) fn of<'a>(
        shared: &Shared,
        generations: impl IntoIterator<Item = &'a Generation>,
    ) -> Self {
        if shared.index.parked().is_some() {
            return Self { rewritten: 0, added: PARKED_BYTES };
        }
        let (mut keys, mut entries) = (0, 0);
        for generation in generations {
            keys += generation.keys as u64;
            entries += (generation.key_bytes + generation.keys * MAX_ENTRY_BYTES) as u64;
        }
        let index_bytes = shared.index_bytes.load(Ordering::Acquire);
        let rewritten = (keys * BLOCK_WRITES).min(index_bytes / REWRITTEN_SHARE);
        Self { rewritten, added: entries * INDEX_WRITES + INDEX_BYTES }
    }

    /// At the worst.
    pub(crate) fn bytes(&self) -> u64 {
        self.rewritten + self.added
    }

    /// Where nothing else can bring more: entries are hardly ever as long as they may be.
    fn least(&self) -> u64 {
        self.rewritten + self.added / 2
    }
}

/// What it takes to put an index on the disk.
pub(crate) fn put_back_bytes(parked: &ParkedIndex) -> u64 {
    let (key_bytes, entries) = parked.size();
    PUT_BACK_BYTES * entries + PUT_BACK_WRITES * key_bytes + INDEX_BYTES
}

/// Moves the index to memory where there is no space for a checkpoint. Whether it did.
fn park(shared: &Shared, snapshot: &Snapshot, why: &Error) -> Result<bool> {
    if snapshot.state.documents() > MAX_PARKED_DOCUMENTS {
        return Ok(false);
    }
    match shared.index.park() {
        Ok(()) => {
            tracing::warn!(
                dir = %shared.dir.display(), %why,
                "the index is kept in memory until there is space for it"
            );
            if let Some(parked) = shared.index.parked() {
                let needed = put_back_bytes(&parked);
                shared.space.note_parked(Some(needed));
            }
            Ok(true)
        }
        // It is closed: there is nothing to move.
        Err(Error::Index(_) | Error::IndexClosed { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Puts a parked index back on the disk, if there is space for it. What was in memory until then, if so.
fn put_back_if_possible(shared: &Shared) -> Option<Arc<ParkedIndex>> {
    let parked = shared.index.parked()?;
    let needed = put_back_bytes(&parked);
    shared.space.note_parked(Some(needed));
    if shared.space.check_put_back().is_err() {
        return None;
    }
    if shared.space.free().is_some_and(|free| free < needed) {
        shared.space.release("the index goes back on the disk");
    }
    match shared.index.put_back(&parked) {
        Ok(()) => {
            shared.space.note_parked(None);
            note_index_bytes(shared);
            let bytes = shared.index_bytes.load(Ordering::Acquire);
            shared.renewed_index_bytes.store(bytes, Ordering::Release);
            tracing::info!(dir = %shared.dir.display(), "the index is on the disk again");
            Some(parked)
        }
        Err(error) => {
            tracing::warn!(%error, "the index stays in memory");
            None
        }
    }
}

/// Has an index that was just put back on the disk, and failed there, be in memory again as it was. The
/// error to report.
fn take_back(shared: &Shared, parked: Arc<ParkedIndex>, error: Error) -> Error {
    if matches!(error, Error::DiskFull { .. }) {
        shared.space.release("the index met a full disk");
    }
    shared.space.note_parked(Some(put_back_bytes(&parked)));
    tracing::warn!(%error, "the index is kept in memory again");
    match shared.index.take_back(parked) {
        Ok(()) => error,
        Err(error) => error,
    }
}

/// Remembers what the index takes on the disk.
fn note_index_bytes(shared: &Shared) {
    if let Ok(index) = shared.index.get() {
        shared.index_bytes.store(index.bytes_on_disk(), Ordering::Release);
    }
}

/// Parks an index that takes far more of the disk than its entries do: the next checkpoint puts it
/// back.
fn renew_if_mostly_empty(shared: &Shared, snapshot: &Snapshot) -> Result<()> {
    let documents = snapshot.state.documents();
    let entries = documents.saturating_mul(MAX_ENTRY_BYTES as u64);
    let bytes = shared.index.get()?.bytes_on_disk();
    let much = entries * RENEWED_SHARE + RENEWED_BYTES;
    // Of long keys it takes as much when it is new.
    let more = 2 * shared.renewed_index_bytes.load(Ordering::Acquire);
    if bytes > much.max(more) && documents <= MAX_PARKED_DOCUMENTS {
        shared.index.park()?;
        tracing::info!(bytes, documents, "the index is made anew: it was mostly empty");
        put_back_if_possible(shared);
    }
    Ok(())
}

/// Makes sure that there is space for a checkpoint, by releasing the reserve if need be. A
/// checkpoint that waits costs memory only; an index that meets a full disk has to be opened again.
/// Where the checkpoint gives segments back, less than what it may take at the worst will do: it
/// would wait for what only it can bring.
fn check_space(shared: &Shared, snapshot: &Snapshot) -> Result<()> {
    let needed = Needed::of(shared, [&*snapshot.generation]);
    let worst = needed.bytes();
    let needed = if snapshot.condemned.is_empty() { worst } else { needed.least() };
    let free = || {
        let failed = |error| Error::io("ask for the free space of", &shared.dir, error);
        shared.fs.free_bytes(&shared.dir).map_err(failed)
    };
    let mut bytes = free()?;
    if bytes < worst {
        // Until the checkpoint is done, the reserve is not made again of what this frees.
        shared.space.set_wanted(worst);
        if shared.space.release("a checkpoint needs its space") {
            bytes = free()?;
        }
    }
    if bytes < needed {
        let what = format!(
            "{bytes} bytes are free, a checkpoint asks for {needed} ({})",
            shared.dir.display()
        );
        return Err(Error::DiskFull { what: what.into() });
    }
    Ok(())
}

/// Opens an index that could not be written once more. The error to report.
fn replace_index(shared: &Shared, snapshot: &Snapshot, error: Error) -> Error {
    if matches!(error, Error::NoDescriptors { .. }) {
        // Of our own sync of its files: the index itself is well.
        return error;
    }
    shared.index.close(&error);
    if matches!(error, Error::DiskFull { .. }) {
        shared.space.release("the index met a full disk");
    }
    match shared.index.reopen(|index| whats_wrong(shared, snapshot, index)) {
        Ok(()) => error,
        Err(error) => error,
    }
}

/// What is wrong with an index that was opened again while running, if anything is. With the frozen
/// generation over it, it must amount to the state of the snapshot: everything since the last
/// checkpoint is in there, and everything before was flushed.
fn whats_wrong(shared: &Shared, snapshot: &Snapshot, index: &dyn Index) -> Result<Option<String>> {
    let flushed = index.checkpoint()?;
    let checkpoint = shared.checkpoint_lsn.load(Ordering::Acquire);
    if flushed < checkpoint {
        return Ok(Some(format!(
            "it was last flushed at LSN {flushed}, the checkpoint is at {checkpoint}"
        )));
    }
    let frozen = Some(Arc::clone(&snapshot.generation));
    let overlay = Overlay { frozen, ..Overlay::default() };
    let view = View { state: snapshot.state.clone(), overlay, usage: Usage::default() };
    let counted = read::recount(&view, index, &shared.segments, |_, _, _| ())?;
    if !counted.state.same_totals(&snapshot.state) {
        let documents = (counted.state.documents(), snapshot.state.documents());
        return Ok(Some(format!(
            "it does not count right ({} documents of {})",
            documents.0, documents.1
        )));
    }
    // An entry of before a move counts the same, and points to what is about to be deleted.
    let same_places = counted.usage.live() == snapshot.usage.live();
    Ok((!same_places).then(|| "some documents lie elsewhere than it says".to_owned()))
}

/// Puts a generation into the index.
pub(crate) fn drain(index: &dyn Index, generation: &Generation) -> Result<()> {
    for &dropped in &generation.dropped {
        index.drop_index(dropped)?;
    }
    for (&id, table) in &generation.tables {
        index.apply(id, &mut table.iter().map(|(key, entry)| (key, *entry)))?;
    }
    Ok(())
}
