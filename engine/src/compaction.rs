//! Compaction: gives back the disk space of what is dead.
//!
//! The log grows with the history; live is only the last put of each key. The compactor picks the
//! sealed segment with the most garbage, has the sequencer append once more what of it lives on
//! (the documents, by the ordinary way of a batch, so that order and durability are those of any
//! write) and condemns the segment. The next checkpoint's index points nowhere into it, its
//! manifest no longer names it, and then the file is removed. This is the cleaner of a
//! log-structured file system (Rosenblum and Ousterhout, 1991), with the greedy choice of a victim.
//!
//! A removal is garbage when no older record of its key is left that it would have to outweigh in
//! a rebuild. Effects carry the first segment that may hold one, and the last is that of the
//! document removed; while any segment of these is there, the removal lives on as a *tombstone*.
//! Where tombstones pile up, the oldest segment is the victim: with nothing before it, all its
//! removals end, so that one round through the log ends all.
//!
//! How much of its time the compactor works grows with the garbage, from a fifth to all. Beyond that
//! it is *behind*, and the sequencer waits for it a little before each batch. Both are looked at with
//! every few records that are moved: a segment may take long, where the processor is busy with other
//! things. On a full disk it takes nearly all garbage there is.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::command::{Compacted, IndexId, Outcome, Version};
use crate::defect::Defect;
use crate::effect::{self, Effect, Remove, Replaced, Tombstone};
use crate::engine::{Completion, Options};
use crate::error::{Error, Result};
use crate::index::IndexKey;
use crate::log::{Located, SEGMENT_HEADER_BYTES, Segment, Source, read_segment};
use crate::queue::{Queue, Task};
use crate::read;
use crate::shared::{LookedUp, Shared};
use crate::state::State;
use crate::usage::BySegment;

/// How often the compactor looks for work when nothing tells it to.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long it waits after a failure.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The records that are appended with one batch, in bytes, when there is time: the writes of the same
/// batch wait for so much more to be evaluated and written, some 0.2 ms.
const CHUNK_BYTES: usize = 32 * 1024;

/// The records that are appended with one batch when there is none.
const LARGEST_CHUNK_BYTES: usize = 256 * 1024;

/// How many puts of a segment are sorted, to be looked up: some 100 bytes of memory each.
const PUTS_AT_A_TIME: usize = 100_000;

/// How many of them are looked up at a time.
const KEYS_AT_A_TIME: usize = 256;

/// How many documents outside the owned ranges are removed with one batch.
const SWEEP_KEYS: usize = 512;

/// After how many such batches a segment is compacted that is due, and after it there are as many again:
/// much is swept where much is given up, and writes go on meanwhile.
const SWEEPS_AT_A_TIME: usize = 16;

/// The share of its time that the compactor works at that, in percent: until they are gone, their range
/// cannot come back.
const SWEEP_SHARE_PERCENT: u64 = 50;

/// The disk space that all together may take, in percent of the live records, besides four
/// segments: the one being written, the one prepared, the reserve (a quarter), and what is left to
/// the sealed ones.
const SPACE_PERCENT: u64 = 160;

/// Segments may take so much, in percent of the live records, where the index leaves them less of
/// [`SPACE_PERCENT`], as it does with very small documents: with less garbage, compaction copies too
/// much for what it frees.
const LEAST_SPACE_PERCENT: u64 = 105;

/// By how much the index may have grown before the next checkpoint tells, in percent.
const INDEX_GROWTH_PERCENT: u64 = 10;

/// A segment with less garbage, in percent of its length, is not worth the copying.
const LEAST_GARBAGE_PERCENT: u64 = 10;

/// On a full disk it is, with as little as this.
const LEAST_GARBAGE_PERCENT_FULL: u64 = 2;

/// Compaction begins when the log is within so much of what it may take, in percent of the live
/// records and besides one segment.
const HEADWAY_PERCENT: u64 = 10;

/// Removals may take so much, in percent of the live records, before the oldest segments are
/// compacted for them.
const TOMBSTONE_PERCENT: u64 = 5;

/// Where writes wait already, a checkpoint that is to give back more than this, in percent of the live
/// records, is awaited before the next segment is copied.
const AWAITED_PERCENT: u64 = 4;

/// For how long condemned segments wait for a checkpoint that comes for another reason.
const LONGEST_CONDEMNED: Duration = Duration::from_secs(5);

/// How often it looks while it is behind, or the disk is full.
const LOOK_INTERVAL_URGENT: Duration = Duration::from_millis(20);

/// The least share of its time that the compactor works once it has begun, in percent.
const LEAST_SHARE_PERCENT: u64 = 20;

/// What is asked of the compactor.
pub(crate) enum Request {
    /// To see whether there is work.
    Look,
    /// To compact the segment with the most garbage, however little.
    Compact(SyncSender<Result<Option<Compacted>>>),
}

/// What of a segment lives on.
pub(crate) enum Survivor {
    Document { index: IndexId, key: IndexKey, found: LookedUp, document: Bytes },
    Tombstone { index: IndexId, key: IndexKey, version: Version, replaced: Replaced },
}

impl Survivor {
    /// The length of the record it is to have.
    pub(crate) fn record_bytes(&self) -> usize {
        effect::record_bytes(match self {
            Self::Document { key, document, .. } => key.key().len() + document.len(),
            Self::Tombstone { key, .. } => key.key().len(),
        })
    }
}

/// The compactor, on its thread.
pub(crate) struct Compactor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) options: Options,
    pub(crate) requests: Receiver<Request>,
    /// How far it is with what is not to be kept.
    pub(crate) sweep: RefCell<Option<Sweep>>,
    /// Since when there are condemned segments for which no checkpoint was asked for.
    pub(crate) condemned_since: Cell<Option<Instant>>,
}

/// Removing what is not to be kept, from the beginning of the ring to its end.
pub(crate) struct Sweep {
    kept: Kept,
    /// The last document that was found.
    after: Option<(IndexId, IndexKey)>,
}

/// What says which documents are to be kept: the epoch, and what is being taken over. How far that is makes
/// no difference.
type Kept = (u64, Option<(String, Vec<(u32, u32)>)>);

fn kept(state: &State) -> Kept {
    let incoming = state.incoming.as_deref();
    (state.epoch(), incoming.map(|incoming| (incoming.id.clone(), incoming.ranges.clone())))
}

/// What of a segment may live on.
enum Stored {
    Put(StoredPut),
    Tombstone(Survivor),
}

/// A document as it was put, there or not.
#[derive(Clone)]
struct StoredPut {
    index: IndexId,
    key: IndexKey,
    /// The segment and the offset.
    place: (u32, u32),
    document: Bytes,
}

/// A sealed segment to compact.
struct Victim {
    segment: Arc<Segment>,
    length: u32,
    /// Somebody waits for it.
    awaited: bool,
}

/// What is to be appended with one batch.
struct Chunk<'a> {
    compactor: &'a Compactor,
    /// Somebody waits for it.
    awaited: bool,
    /// The share of its time that the compactor works, in percent.
    share: u64,
    /// When the work on it began.
    begun: Instant,
    survivors: Vec<Survivor>,
    bytes: usize,
    /// The bytes of the chunks before.
    moved: u64,
}

impl Chunk<'_> {
    fn push(&mut self, survivor: Survivor) -> Result<()> {
        self.bytes += survivor.record_bytes();
        self.survivors.push(survivor);
        if self.bytes >= self.most() { self.append() } else { Ok(()) }
    }

    /// How many bytes go with one batch: more as the compactor's share of its time grows.
    fn most(&self) -> usize {
        let urgency = self.share.saturating_sub(LEAST_SHARE_PERCENT) as usize;
        let more = (LARGEST_CHUNK_BYTES - CHUNK_BYTES) * urgency;
        CHUNK_BYTES + more / (100 - LEAST_SHARE_PERCENT) as usize
    }

    fn append(&mut self) -> Result<()> {
        let survivors = std::mem::take(&mut self.survivors);
        if !survivors.is_empty() {
            self.compactor.ask(|done| Task::Relocate(survivors, done))?;
        }
        self.moved += std::mem::take(&mut self.bytes) as u64;
        if !self.awaited {
            self.share = self.compactor.look_at_urgency(self.moved);
        }
        self.compactor.pause(self.begun, self.share);
        self.begun = Instant::now();
        Ok(())
    }
}

/// What the sealed segments are used for.
struct Space {
    sealed: Vec<Sealed>,
    /// The live bytes of all segments.
    live: u64,
    /// The bytes of removals in sealed segments.
    tombstones: u64,
    /// The bytes of segments that wait for a checkpoint, to be deleted.
    condemned: u64,
    /// Others do that were held for another shard or a backup until lately.
    released: bool,
}

struct Sealed {
    segment: Arc<Segment>,
    length: u32,
    garbage: u64,
}

impl Space {
    fn sealed_bytes(&self) -> u64 {
        self.sealed.iter().map(|sealed| u64::from(sealed.length)).sum()
    }

    /// The segment with the largest share of garbage, where that is more than `percent`.
    fn most_garbage(&self, percent: u64) -> Option<&Sealed> {
        let share = |sealed: &Sealed| sealed.garbage * 1000 / u64::from(sealed.length.max(1));
        let most = self.sealed.iter().max_by_key(|sealed| share(sealed))?;
        (most.garbage > u64::from(most.length) * percent / 100).then_some(most)
    }

    /// The oldest segment, where there are more bytes of removals than `most`.
    fn oldest_for_tombstones(&self, most: u64) -> Option<&Sealed> {
        (self.tombstones > most).then(|| self.sealed.first()).flatten()
    }
}

impl Compactor {
    /// Works until the engine is closed.
    pub(crate) fn run(self) {
        let mut wait = LOOK_INTERVAL;
        loop {
            match self.requests.recv_timeout(wait) {
                Ok(Request::Compact(done)) => _ = done.send(self.compact_now()),
                Ok(Request::Look) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            wait = LOOK_INTERVAL;
            self.let_go_of_cuts();
            self.bound_what_is_kept();
            if !self.options.compaction || self.shared.poison.is_set() {
                continue;
            }
            match self.sweep_and_compact() {
                Ok(true) => wait = Duration::ZERO,
                Ok(false)
                    if self.shared.compaction_behind.load(Ordering::Relaxed)
                        || self.shared.space.is_full() =>
                {
                    wait = LOOK_INTERVAL_URGENT;
                }
                Ok(false) | Err(Error::Closed) => {}
                Err(error) => {
                    tracing::warn!(%error, "compaction failed and will be tried again");
                    wait = RETRY_AFTER;
                    // Writes do not wait for what may never come.
                    self.shared.compaction_behind.store(false, Ordering::Relaxed);
                }
            }
        }
    }

    /// Gives back the space of what is held for backups that have ended, and of all of it where the
    /// disk is full.
    fn let_go_of_cuts(&self) {
        if self.shared.space.is_full() {
            self.shared.cuts.release_all();
        } else {
            self.shared.cuts.let_go_lapsed(Instant::now());
        }
    }

    /// Ends the keeping of the log for the next backup where it would take too much, or the disk is full.
    fn bound_what_is_kept(&self) {
        let shared = &self.shared;
        let Some(keep) = shared.kept.get() else { return };
        let bytes = shared.kept_bytes();
        if bytes <= keep.max_bytes && !shared.space.is_full() {
            return;
        }
        tracing::warn!(
            bytes,
            most = keep.max_bytes,
            disk_full = shared.space.is_full(),
            "the log is not kept for the next backup any more: the moments since the last one are lost"
        );
        if let Err(error) = shared.kept.end(shared.fs.as_ref(), &shared.dir) {
            tracing::warn!(%error, "after a restart it is kept again");
        }
        self.queue.push(Task::CheckpointSoon);
    }

    /// Removes some of what is not to be kept, and compacts what is due, the one whatever becomes of the
    /// other. Returns whether there is more to remove.
    fn sweep_and_compact(&self) -> Result<bool> {
        // On a full disk there may be no room for removals before compaction has made some.
        let (swept, compacted) = if self.shared.space.is_full() {
            let compacted = self.compact_when_due(usize::MAX);
            (self.sweep(), compacted)
        } else {
            let swept = self.sweep();
            let most = if matches!(swept, Ok(true)) { 1 } else { usize::MAX };
            (swept, self.compact_when_due(most))
        };
        compacted.and(swept)
    }

    /// Compacts the segments that are due, so many at most unless writes wait for it.
    fn compact_when_due(&self, most: usize) -> Result<()> {
        for number in 0.. {
            let space = self.space();
            if self.shared.pin.take_lapsed() && (space.condemned > 0 || space.released) {
                // Nothing else may ask for one.
                self.queue.push(Task::CheckpointSoon);
            }
            self.ask_for_checkpoint_when_due(&space);
            let victim = self.due(&space);
            // Writes wait only for what comes: a victim's end, or that of a checkpoint.
            let checkpoints = self.shared.checkpoint_error.lock().is_none();
            let something_comes = victim.is_some() || (space.condemned > 0 && checkpoints);
            let behind = something_comes && self.is_behind(&space, 0);
            self.shared.compaction_behind.store(behind, Ordering::Relaxed);
            let Some(victim) = victim else { break };
            if number >= most && !behind {
                break;
            }
            // A checkpoint is about to give space back; until then a copy would take more of it. On a
            // full disk all that gives space back counts.
            let much = space.condemned > space.live * AWAITED_PERCENT / 100;
            if behind && much && checkpoints && !self.shared.space.is_full() {
                return Ok(());
            }
            let begun = Instant::now();
            let moved = match self.compact(&victim) {
                Err(error) if is_of(&victim.segment, &error) => {
                    tracing::error!(%error, "a damaged segment is left as it is");
                    let why = error.to_string().into();
                    self.shared.damaged.lock().insert(victim.segment.number, why);
                    continue;
                }
                moved => moved?,
            };
            tracing::debug!(
                segment = victim.segment.number, bytes = victim.length, moved,
                elapsed = ?begun.elapsed(), "compacted a segment"
            );
        }
        Ok(())
    }

    /// Has condemned segments deleted. A checkpoint for each would rewrite most of a small index many times a second: they
    /// wait for one together, as long as there is room for them.
    fn ask_for_checkpoint_when_due(&self, space: &Space) {
        let Some(since) = self.condemned_since.get() else { return };
        if self.shared.condemned.lock().is_empty() {
            self.condemned_since.set(None);
        } else if space.condemned > self.room_for_condemned(space)
            || self.is_behind(space, 0)
            || self.shared.space.is_full()
            || since.elapsed() >= LONGEST_CONDEMNED
        {
            self.condemned_since.set(None);
            self.queue.push(Task::CheckpointSoon);
        }
    }

    /// Compacts the segment with the most garbage, or, where there are removals only, the oldest
    /// one, and deletes it.
    fn compact_now(&self) -> Result<Option<Compacted>> {
        while self.sweep()? {}
        let space = self.space();
        let Some(sealed) = space.most_garbage(0).or_else(|| space.oldest_for_tombstones(0)) else {
            return Ok(None);
        };
        let Sealed { segment, length, .. } = sealed;
        let victim = Victim { segment: Arc::clone(segment), length: *length, awaited: true };
        let moved = self.compact(&victim)?;
        let (done, checkpointed) = mpsc::sync_channel(1);
        self.queue.push(Task::Checkpoint(done));
        checkpointed.recv().unwrap_or(Err(Error::Closed))?;
        Ok(Some(Compacted { segment: victim.segment.number, bytes: u64::from(*length), moved }))
    }

    fn space(&self) -> Space {
        let condemned = self.shared.condemned.lock().clone();
        // What is held for another shard is there in any case, and nothing makes it less. When it is let go
        // that is much at once, for which writes that came since are not to wait.
        let mut deletable = self.shared.deletable();
        let kept_back = self.shared.pin.kept_back();
        let released = !deletable.is_disjoint(&kept_back);
        deletable.retain(|number| !kept_back.contains(number));
        let damaged: BTreeSet<u32> = self.shared.damaged.lock().keys().copied().collect();
        let segments = self.shared.segments.all();
        let (live, tombstones) = {
            let view = self.shared.view.read();
            (view.usage.live(), view.usage.tombstones.clone())
        };
        let bytes_of = |segment: &Segment| {
            let of = |bytes: &BySegment| bytes.get(&segment.number).copied().unwrap_or(0);
            (of(&live), of(&tombstones))
        };
        let sealed: Vec<Sealed> = segments
            .iter()
            .filter(|segment| {
                !condemned.contains(&segment.number) && !damaged.contains(&segment.number)
            })
            .filter_map(|segment| {
                let length = *segment.sealed.get()?;
                let (live, tombstones) = bytes_of(segment);
                let used = SEGMENT_HEADER_BYTES as u64 + live + tombstones;
                let garbage = u64::from(length).saturating_sub(used);
                Some(Sealed { segment: Arc::clone(segment), length, garbage })
            })
            .collect();
        let tombstones = sealed.iter().map(|sealed| bytes_of(&sealed.segment).1).sum();
        let condemned = segments
            .iter()
            .filter(|segment| deletable.contains(&segment.number))
            .filter_map(|segment| segment.sealed.get())
            .map(|&length| u64::from(length))
            .sum();
        Space { sealed, live: live.values().sum(), tombstones, condemned, released }
    }

    /// How long segments are now.
    fn segment_bytes(&self, space: &Space) -> u64 {
        u64::from(self.options.segment_bytes_for(space.live))
    }

    /// By how much a segment is shorter now than it may be: of those of which there is room for four, three are the one
    /// being written, the one prepared, and what a victim's copy takes.
    fn spared(&self, space: &Space) -> u64 {
        u64::from(self.options.segment_bytes) - self.segment_bytes(space)
    }

    /// What segments may take that wait for a checkpoint.
    fn room_for_condemned(&self, space: &Space) -> u64 {
        2 * self.spared(space)
    }

    /// What the written segments may take, and still leave room for what outlives the next victim.
    fn limit(&self, space: &Space) -> u64 {
        let segment_bytes = u64::from(self.options.segment_bytes);
        let index_bytes = self.shared.index_bytes.load(Ordering::Acquire);
        let index_bytes = index_bytes * (100 + INDEX_GROWTH_PERCENT) / 100;
        let allowed = (space.live * SPACE_PERCENT / 100).saturating_sub(index_bytes);
        let allowed = allowed.max(space.live * LEAST_SPACE_PERCENT / 100);
        let more = segment_bytes / 4 * 5 + self.spared(space);
        (allowed + more).saturating_sub(self.room_for_a_victim(space))
    }

    /// What may have to be appended of a segment before it is condemned.
    fn room_for_a_victim(&self, space: &Space) -> u64 {
        (space.live / 2).min(self.segment_bytes(space))
    }

    /// What is written: the sealed segments, and the last one as far as it goes.
    fn written(&self, space: &Space) -> u64 {
        space.sealed_bytes() + self.shared.active_bytes.load(Ordering::Relaxed)
    }

    /// Whether writes come in faster than space comes back. `moved` bytes were appended of the victim
    /// that is being copied.
    fn is_behind(&self, space: &Space, moved: u64) -> bool {
        // A victim that is being copied has its room. Where there are many segments, some of that is
        // for what else is in motion.
        let many = (space.live / (2 * self.segment_bytes(space))).max(1);
        let room = self.room_for_a_victim(space) / many + self.room_for_condemned(space);
        self.written(space) + space.condemned > self.limit(space) + room + moved
    }

    /// Which segment is to be compacted now, if any.
    fn due(&self, space: &Space) -> Option<Victim> {
        let segment_bytes = u64::from(self.options.segment_bytes);
        let is_full = self.shared.space.is_full();
        let is_due = self.share(space, 0) > 0;
        let most_tombstones = space.live * TOMBSTONE_PERCENT / 100 + segment_bytes / 4;
        let least = if is_full { LEAST_GARBAGE_PERCENT_FULL } else { LEAST_GARBAGE_PERCENT };
        let victim = is_due.then(|| space.most_garbage(least)).flatten().or_else(|| {
            // Behind a segment that stays no round would end them.
            let all_go = self.shared.damaged.lock().is_empty();
            all_go.then(|| space.oldest_for_tombstones(most_tombstones)).flatten()
        })?;
        let Sealed { segment, length, .. } = victim;
        Some(Victim { segment: Arc::clone(segment), length: *length, awaited: false })
    }

    /// The share of its time that the compactor works, in percent, 0 where it need not; `moved` as
    /// above.
    fn share(&self, space: &Space, moved: u64) -> u64 {
        let headway = space.live * HEADWAY_PERCENT / 100 + self.segment_bytes(space);
        let over = if self.shared.space.is_full() {
            headway
        } else {
            let allowed = self.limit(space) + moved;
            (self.written(space) + headway).saturating_sub(allowed).min(headway)
        };
        if over == 0 {
            return 0;
        }
        LEAST_SHARE_PERCENT + (100 - LEAST_SHARE_PERCENT) * over / headway
    }

    /// While a segment is copied, of which `moved` bytes were appended: sees whether writes are to wait.
    /// Returns the share of its time that the compactor works.
    fn look_at_urgency(&self, moved: u64) -> u64 {
        let space = self.space();
        self.ask_for_checkpoint_when_due(&space);
        self.shared.compaction_behind.store(self.is_behind(&space, moved), Ordering::Relaxed);
        self.share(&space, moved).max(LEAST_SHARE_PERCENT)
    }

    /// Has everything appended that outlives a segment, and condemns it. Returns how many bytes
    /// were appended.
    fn compact(&self, victim: &Victim) -> Result<u64> {
        let segment = &victim.segment;
        let mut bytes = vec![0; victim.length as usize];
        segment
            .file
            .read_exact_at(&mut bytes, 0)
            .map_err(|error| Error::failed("read a segment", &segment.path, error))?;
        let bytes = Bytes::from(bytes);
        let source = Source { path: &segment.path, bytes: &bytes, checksum: &self.shared.checksum };
        let mut chunk = Chunk {
            compactor: self,
            awaited: victim.awaited,
            share: if victim.awaited { 100 } else { self.look_at_urgency(0) },
            begun: Instant::now(),
            survivors: Vec::new(),
            bytes: 0,
            moved: 0,
        };
        let mut puts = Vec::new();
        read_segment(source, segment.first_lsn, Some(victim.length), |located| {
            match self.decode(segment, located, &bytes)? {
                Some(Stored::Put(put)) => puts.push(put),
                Some(Stored::Tombstone(tombstone)) => chunk.push(tombstone)?,
                None => {}
            }
            if puts.len() == PUTS_AT_A_TIME {
                self.push_live(&mut puts, &mut chunk)
            } else {
                Ok(())
            }
        })?;
        self.push_live(&mut puts, &mut chunk)?;
        chunk.append()?;
        if self.options.defects.has(Defect::DeletedBeforeCheckpoint) {
            _ = self.shared.fs.remove(&segment.path);
        }
        self.shared.condemned.lock().insert(segment.number);
        if self.condemned_since.get().is_none() {
            self.condemned_since.set(Some(Instant::now()));
        }
        Ok(chunk.moved)
    }

    /// What of a record may live on.
    fn decode(
        &self,
        segment: &Segment,
        Located { offset, record }: Located<'_>,
        bytes: &Bytes,
    ) -> Result<Option<Stored>> {
        let effect = Effect::decode(record.kind, record.payload)
            .map_err(|what| Error::corrupt(&segment.path, offset as usize, what))?;
        Ok(match effect {
            Effect::Put(_) if self.options.defects.has(Defect::DeletedWhileInUse) => None,
            Effect::Put(put) => Some(Stored::Put(StoredPut {
                index: put.index,
                key: IndexKey::new(put.position, put.key),
                place: (segment.number, offset),
                document: bytes.slice_ref(put.document),
            })),
            Effect::Remove(removal) => self.tombstone(segment, record.lsn, &removal),
            Effect::Tombstone(Tombstone { version, removal }) => {
                self.tombstone(segment, version, &removal)
            }
            // The manifest has what these amount to.
            _ => None,
        })
    }

    /// Has those documents appended that still lie where they were put. They come in key order, for
    /// the look-ups of neighbours are cheap.
    fn push_live(&self, puts: &mut Vec<StoredPut>, chunk: &mut Chunk<'_>) -> Result<()> {
        puts.sort_unstable_by(|a, b| (a.index, &a.key).cmp(&(b.index, &b.key)));
        for of_index in puts.chunk_by(|a, b| a.index == b.index) {
            for some in of_index.chunks(KEYS_AT_A_TIME) {
                let index = some[0].index;
                let keys: Vec<&IndexKey> = some.iter().map(|put| &put.key).collect();
                let (entries, drops) = self.shared.look_up_all(index, &keys)?;
                for (put, entry) in some.iter().zip(entries) {
                    let Some(entry) = entry.filter(|entry| entry.place() == put.place) else {
                        continue;
                    };
                    let StoredPut { key, document, .. } = put.clone();
                    chunk.push(Survivor::Document {
                        index,
                        key,
                        found: (entry, drops),
                        document,
                    })?;
                }
            }
        }
        puts.clear();
        Ok(())
    }

    /// The tombstone of a removal that is still needed.
    fn tombstone(
        &self,
        victim: &Segment,
        version: Version,
        removal: &Remove<'_>,
    ) -> Option<Stored> {
        let Remove { index, position, replaced, key, .. } = *removal;
        if !self.shared.view.read().state.indexes.contains_key(&index) {
            return None;
        }
        // Condemned segments go with the victim or before it.
        let condemned = self.shared.condemned.lock();
        let is_there = |number: u32| number != victim.number && !condemned.contains(&number);
        let older = replaced.first_segment..=replaced.segment;
        let needed = self.shared.segments.any(older, is_there);
        let needed = needed && !self.options.defects.has(Defect::TombstoneDropped);
        let key = IndexKey::new(position, key);
        let tombstone = Survivor::Tombstone { index, key, version, replaced };
        needed.then_some(Stored::Tombstone(tombstone))
    }

    /// Removes some of the documents that are not to be kept, if there are any. Returns whether it is
    /// to go on.
    fn sweep(&self) -> Result<bool> {
        let shared = &self.shared;
        if !shared.unowned.load(Ordering::Acquire) {
            return Ok(false);
        }
        let now = kept(&shared.view.read().state);
        let begun = self.sweep.take().filter(|sweep| sweep.kept == now);
        let mut sweep = begun.unwrap_or(Sweep { kept: now, after: None });
        for _ in 0..SWEEPS_AT_A_TIME {
            let begun = Instant::now();
            let page = {
                let view = shared.view.read();
                let whole_ring = [(0, u32::MAX)];
                let index = shared.index.get()?;
                read::unowned(&view, &*index, &whole_ring, sweep.after.as_ref(), SWEEP_KEYS)?
            };
            if page.is_empty() {
                // Under the lock under which an assignment is published: a later one counts.
                let view = shared.view.read();
                if kept(&view.state) == sweep.kept {
                    shared.unowned.store(false, Ordering::Release);
                    return Ok(false);
                }
                return Ok(true);
            }
            let last = page.last().cloned();
            self.ask(|done| Task::Sweep(page, done))?;
            // What was refused comes again.
            sweep.after = last;
            self.pause(begun, SWEEP_SHARE_PERCENT);
        }
        _ = self.sweep.replace(Some(sweep));
        Ok(!self.queue.is_closed())
    }

    fn ask(&self, task: impl FnOnce(Completion) -> Task) -> Result<()> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.queue.push(task(Box::new(move |result: Result<Outcome>| {
            _ = sender.send(result.map(drop));
        })));
        receiver.recv().unwrap_or(Err(Error::Closed))
    }

    /// Waits as long as it takes to have worked `share` percent of the time since `begun`.
    fn pause(&self, begun: Instant, share: u64) {
        let worked = begun.elapsed();
        let pause = worked * (100 - share.min(100)) as u32 / share.max(1) as u32;
        if !self.queue.is_closed() && !pause.is_zero() {
            thread::sleep(pause.min(LOOK_INTERVAL));
        }
    }
}

/// Whether an error is of reading a segment: of damage, or of a disk that does not give its bytes.
fn is_of(segment: &Segment, error: &Error) -> bool {
    match error {
        Error::Corrupt { .. } => true,
        Error::Io { file, .. } => *file == segment.path,
        _ => false,
    }
}
