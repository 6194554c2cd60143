//! Reading the end of the log: what another shard that takes a range over is to repeat.
//!
//! Whoever reads goes on from a cursor, and may stop for long and come back after a restart: what it
//! has not read yet is held against compaction for a while after it last asked (the *pin*), or had it
//! held while it read something else. Where it stays away for longer, or the disk is full, compaction
//! may delete it; the next read is refused with [`Error::LogGone`], and the range has to be read anew.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::command::{Imported, Key};
use crate::effect::{self, Effect, Put, Reason};
use crate::error::{Error, Result};
use crate::log::record::{self, ALIGNMENT, HEADER_BYTES, Record, u32_at};
use crate::log::{Lsn, SEGMENT_HEADER_BYTES, Segment};
use crate::shared::Shared;

/// How much of a segment is read at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// After so much of the log, a page of it ends, whatever was in it for the reader.
const PAGE_SCAN_BYTES: usize = 4 * 1024 * 1024;

/// For how long what comes after the cursor is held after a read.
pub(crate) const PIN_TIME: Duration = Duration::from_secs(60);

/// Where a reader of the log goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TailCursor {
    /// The LSN of the next record, or the first after it.
    pub lsn: u64,
    /// The segment in which that lies, as far as known: 0 for not.
    pub segment: u32,
    /// The offset in it.
    pub offset: u32,
}

/// What lies behind a cursor in the log.
#[derive(Clone, Debug)]
pub struct Tail {
    /// What became of keys in the ranges asked for, in the order in which it did.
    pub documents: Vec<Imported>,
    /// Where to go on.
    pub next: TailCursor,
    /// The last LSN that is durable: all is read when `next` is beyond it. What is read of the documents
    /// later is as of then, or later.
    pub durable_lsn: u64,
}

/// What of the log is held for a reader.
pub(crate) struct Pin {
    /// From which LSN on, and until when.
    held: Mutex<Option<(Lsn, Instant)>>,
    /// For how long.
    time: Duration,
    /// What was held is not any more, and waits for a checkpoint.
    lapsed: AtomicBool,
    /// The condemned segments that were there for longer because something was held, and may still be.
    kept_back: Mutex<BTreeSet<u32>>,
}

impl Pin {
    /// Holds nothing yet, and then for so long.
    pub(crate) fn new(time: Duration) -> Self {
        Self {
            held: Mutex::default(),
            time,
            lapsed: AtomicBool::new(false),
            kept_back: Mutex::default(),
        }
    }

    /// Holds what comes from an LSN on.
    fn hold(&self, from: Lsn) {
        self.hold_until(from, Instant::now() + self.time);
    }

    fn hold_until(&self, from: Lsn, until: Instant) {
        *self.held.lock() = Some((from, until));
    }

    /// Holds nothing.
    pub(crate) fn release(&self) {
        if self.held.lock().take().is_some() {
            self.lapsed.store(true, Ordering::Release);
        }
    }

    /// The LSN from which on the log is held, if it is.
    fn held(&self, now: Instant) -> Option<Lsn> {
        let mut pin = self.held.lock();
        if pin.take_if(|(_, until)| *until < now).is_some() {
            self.lapsed.store(true, Ordering::Release);
        }
        pin.map(|(from, _)| from)
    }

    /// Notes which of the condemned segments may not be deleted now.
    fn note_kept_back(&self, condemned: &BTreeSet<u32>, deletable: &BTreeSet<u32>) {
        let mut kept_back = self.kept_back.lock();
        kept_back.extend(condemned.difference(deletable));
        kept_back.retain(|number| condemned.contains(number));
    }

    /// The condemned segments that were kept back once, and may be deleted by now or not. They are not what
    /// writes leave behind faster than it can be cleared away.
    pub(crate) fn kept_back(&self) -> BTreeSet<u32> {
        self.kept_back.lock().clone()
    }

    /// Whether something was held and is not any more; tells so once.
    pub(crate) fn take_lapsed(&self) -> bool {
        self.lapsed.swap(false, Ordering::AcqRel)
    }
}

impl Shared {
    /// The condemned segments that may be deleted.
    pub(crate) fn deletable(&self) -> BTreeSet<u32> {
        let condemned = self.condemned.lock().clone();
        let deletable = self.not_held(condemned.clone());
        self.pin.note_kept_back(&condemned, &deletable);
        deletable
    }

    /// Of condemned segments, those that nothing holds.
    fn not_held(&self, mut condemned: BTreeSet<u32>) -> BTreeSet<u32> {
        if condemned.is_empty() {
            return condemned;
        }
        if self.space.is_full() {
            self.pin.release();
        }
        let kept = self.kept.get().map(|keep| keep.after + 1);
        let held = [self.pin.held(Instant::now()), kept];
        let Some(from) = held.into_iter().flatten().min() else { return condemned };
        let segments = self.segments.all();
        for pair in segments.windows(2) {
            // The last LSN of a segment is before the first one of the next.
            if pair[1].first_lsn > from {
                condemned.remove(&pair[0].number);
            }
        }
        condemned
    }

    /// Where the log goes on, for a reader that is about to read all that there is.
    pub(crate) fn tail_end(&self) -> TailCursor {
        let lsn = self.durable_lsn.load(Ordering::Acquire) + 1;
        self.pin.hold(lsn);
        TailCursor { lsn, segment: 0, offset: 0 }
    }

    /// Holds what comes from the cursor on, as far as it is there. Whether all of it is.
    pub(crate) fn hold_log(&self, from: TailCursor) -> bool {
        // Of what is gone, holding the rest would help nobody. A checkpoint may be about to delete
        // some, so it is looked again.
        if !self.has_log_from(from.lsn) {
            return false;
        }
        self.pin.hold(from.lsn);
        self.has_log_from(from.lsn)
    }

    /// Whether no segment was deleted of those that come from an LSN on.
    fn has_log_from(&self, lsn: Lsn) -> bool {
        let segments = self.segments.all();
        let after = segments.partition_point(|segment| segment.first_lsn <= lsn);
        after.checked_sub(1).is_some_and(|first| {
            segments[first..].windows(2).all(|pair| pair[1].number == pair[0].number + 1)
        })
    }

    /// What became of keys in `ranges` from the cursor on, some `max_bytes` of it.
    pub(crate) fn tail(
        &self,
        from: TailCursor,
        ranges: &[(u32, u32)],
        max_bytes: usize,
    ) -> Result<Tail> {
        let durable_lsn = self.durable_lsn.load(Ordering::Acquire);
        self.pin.hold(from.lsn);
        {
            // After the LSN was read: up to there the ranges were owned.
            let state = &self.view.read().state;
            if !ranges.iter().all(|&(start, end)| state.owns(start, end)) {
                return Err(Error::WrongShard { epoch: state.epoch() });
            }
        }
        let mut reader =
            Reader { shared: self, next: from, durable_lsn, scanned: 0, scratch: Vec::new() };
        let mut documents = Vec::new();
        let mut bytes = 0;
        while reader.next.lsn <= durable_lsn
            && bytes < max_bytes
            && reader.scanned < PAGE_SCAN_BYTES
        {
            for effect in reader.some(documents.is_empty())? {
                let (index, key, length) = match &effect {
                    Imported::Put { index, key, document, .. } => (index, key, document.len()),
                    Imported::Removed { index, key, .. } => (index, key, 0),
                };
                let within = |&(start, end): &(u32, u32)| (start..end).contains(&key.position);
                let wanted =
                    ranges.iter().any(within) && self.view.read().state.indexes.contains_key(index);
                if wanted {
                    bytes += key.bytes.len() + length;
                    documents.push(effect);
                }
            }
        }
        Ok(Tail { documents, next: reader.next, durable_lsn })
    }
}

/// Reads the log, chunk by chunk.
struct Reader<'a> {
    shared: &'a Shared,
    next: TailCursor,
    durable_lsn: Lsn,
    /// The bytes read.
    scanned: usize,
    /// To hash a content.
    scratch: Vec<u8>,
}

impl Reader<'_> {
    /// What the next groups of records did to documents. Empty where a segment ends. A group that is
    /// long is read only if it is `the_first`: with others before it, it might be too much.
    fn some(&mut self, the_first: bool) -> Result<Vec<Imported>> {
        let gone = Error::LogGone { after: self.next.lsn.saturating_sub(1) };
        let segment = self.segment().ok_or_else(|| gone.clone())?;
        let failed = |error| Error::failed("read the log", &segment.path, error);
        let sealed = segment.sealed.get().copied();
        let limit = match sealed {
            Some(length) => u64::from(length),
            None => segment.file.length().map_err(failed)?,
        };
        let left = limit.saturating_sub(u64::from(self.next.offset)) as usize;
        if sealed.is_some() && left == 0 {
            let number = segment.number + 1;
            let next = self.shared.segments.get(number).ok_or(gone)?;
            self.next = TailCursor {
                lsn: self.next.lsn.max(next.first_lsn),
                segment: number,
                offset: SEGMENT_HEADER_BYTES as u32,
            };
            return Ok(Vec::new());
        }
        let mut length = CHUNK_BYTES.min(left);
        loop {
            let mut bytes = vec![0; length];
            match segment.file.read_exact_at(&mut bytes, u64::from(self.next.offset)) {
                Ok(()) => {}
                // It is being sealed, and was cut to its length just now.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof && sealed.is_none() => {
                    return Ok(Vec::new());
                }
                Err(error) => return Err(failed(error)),
            }
            let is_long = length > CHUNK_BYTES;
            let (effects, read) = self.decode(&segment, &Bytes::from(bytes), is_long)?;
            if read > 0 {
                self.scanned += read;
                self.next.offset += read as u32;
                return Ok(effects);
            }
            if length == left {
                let what = "what was durable is missing";
                return Err(Error::corrupt(&segment.path, self.next.offset as usize, what));
            }
            // A group that is longer than the chunk.
            if !the_first {
                self.scanned = PAGE_SCAN_BYTES;
                return Ok(Vec::new());
            }
            length = (length * 4).min(left);
        }
    }

    /// The segment of the next record. Where its place is not known, that of its beginning.
    fn segment(&mut self) -> Option<Arc<Segment>> {
        let TailCursor { lsn, segment, offset } = self.next;
        let known = self.shared.segments.get(segment).filter(|_| offset > 0);
        if known.is_some() {
            return known;
        }
        let all = self.shared.segments.all();
        let after = all.partition_point(|segment| segment.first_lsn <= lsn);
        let found = all.get(after.checked_sub(1)?)?;
        let next = all.get(after);
        // Between a segment and the next one that is there, others may have been deleted.
        let is_whole = next.is_none_or(|next| next.number == found.number + 1);
        if !is_whole {
            return None;
        }
        self.next.segment = found.number;
        self.next.offset = SEGMENT_HEADER_BYTES as u32;
        Some(Arc::clone(found))
    }

    /// What the whole groups in `bytes` did, as far as they are durable and wanted, and how many bytes
    /// these take. Of a chunk that is for one long group, the first only.
    fn decode(
        &mut self,
        segment: &Segment,
        bytes: &Bytes,
        only_first: bool,
    ) -> Result<(Vec<Imported>, usize)> {
        let start = self.next.offset as usize;
        let corrupt = |offset, what: &str| Error::corrupt(&segment.path, start + offset, what);
        let mut effects = Vec::new();
        let mut group = Vec::new();
        let (mut offset, mut end) = (0, 0);
        let mut next_lsn = self.next.lsn;
        while bytes.len() - offset >= HEADER_BYTES {
            let length = u32_at(bytes, offset + 4) as usize;
            let is_cut_off = length > bytes.len() - offset;
            if is_cut_off && length.is_multiple_of(ALIGNMENT) {
                break;
            }
            let record = record::decode(&bytes[offset..], &self.shared.checksum)
                .map_err(|what| corrupt(offset, what))?;
            // Before the cursor only where its place was not known.
            if record.lsn > self.durable_lsn {
                break;
            }
            offset += record.length;
            next_lsn = next_lsn.max(record.next_lsn());
            if record.lsn >= self.next.lsn {
                let effect = Effect::decode(record.kind, record.payload)
                    .map_err(|what| corrupt(offset, what))?;
                if !self.is_a_move(&effect) {
                    group.extend(change(&record, &effect, bytes));
                }
            }
            if record.last_of_group {
                effects.append(&mut group);
                end = offset;
                self.next.lsn = next_lsn;
                if only_first || next_lsn > self.durable_lsn {
                    break;
                }
            }
        }
        Ok((effects, end))
    }

    /// Whether compaction put a document elsewhere and changed nothing. It may do so several times as
    /// often as documents are written: a reader that had to repeat that might never come to the end.
    fn is_a_move(&mut self, effect: &Effect<'_>) -> bool {
        let Effect::Put(Put { index, version, expires_at, key, document, replaced, .. }) = *effect
        else {
            return false;
        };
        // A document that is touched keeps its version as well, but not its content.
        let Some(replaced) = replaced.filter(|replaced| replaced.version == version) else {
            return false;
        };
        let view = self.shared.view.read();
        view.state.indexes.get(&index).is_some_and(|index| {
            let scratch = &mut self.scratch;
            let hash = effect::content_hash(scratch, &index.name, key, expires_at, document);
            hash == replaced.content_hash.into()
        })
    }
}

/// What an effect did to a document, if to one.
fn change(record: &Record<'_>, effect: &Effect<'_>, bytes: &Bytes) -> Option<Imported> {
    let key = |position: u32, key: &[u8]| Key { position, bytes: bytes.slice_ref(key) };
    match effect {
        Effect::Put(put) => Some(Imported::Put {
            index: put.index,
            key: key(put.position, put.key),
            version: put.version,
            expires_at: put.expires_at,
            document: bytes.slice_ref(put.document),
        }),
        // What the shard removes for want of owning it is not gone.
        Effect::Remove(removal) if removal.reason == Reason::Unowned => None,
        Effect::Remove(removal) => Some(Imported::Removed {
            index: removal.index,
            key: key(removal.position, removal.key),
            version: record.lsn,
        }),
        // A removal once more, which came before; all else is no document's.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_back_is_known_until_it_is_gone() {
        let pin = Pin::new(PIN_TIME);
        let set = |numbers: &[u32]| numbers.iter().copied().collect::<BTreeSet<_>>();
        pin.note_kept_back(&set(&[1, 2, 3]), &set(&[1]));
        assert_eq!(pin.kept_back(), set(&[2, 3]));
        // Let go, and another one that was never held.
        pin.note_kept_back(&set(&[2, 3, 4]), &set(&[2, 3, 4]));
        assert_eq!(pin.kept_back(), set(&[2, 3]));
        pin.note_kept_back(&set(&[3, 4]), &set(&[3, 4]));
        assert_eq!(pin.kept_back(), set(&[3]));
    }

    #[test]
    fn a_pin_lapses_unless_it_is_extended() {
        let (pin, begun) = (Pin::new(PIN_TIME), Instant::now());
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        assert_eq!(pin.held(begun), None);
        pin.hold_until(7, at(60));
        assert_eq!(pin.held(at(60)), Some(7));
        pin.hold_until(7, at(110));
        assert_eq!(pin.held(at(110)), Some(7));
        assert!(!pin.take_lapsed());
        assert_eq!(pin.held(at(111)), None);
        assert_eq!(pin.held(begun), None, "what lapsed does not come back");
        assert!(pin.take_lapsed() && !pin.take_lapsed());
    }
}
