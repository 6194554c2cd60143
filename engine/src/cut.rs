//! Cuts: a shard as of one LSN, for a backup.
//!
//! Between two batches the sequencer notes where the log ends and what it amounts to: the manifest
//! that a checkpoint at that moment would write, and how long each segment is. Nothing is copied.
//! Up to there the segments never change any more: batches are appended behind it, a segment that
//! is sealed is cut to its last record, and what recovery zeroes or writes once more lies behind the
//! last acknowledged record or has the same bytes. So whoever has the cut reads the segments at
//! leisure while the shard goes on.
//!
//! The segments are *held* by keeping their files open. Compaction goes on, manifests drop what is
//! condemned, files are removed: their bytes stay readable, and take space, until the cut is let go.
//! It is when it is released, when nobody has read from it for a minute, on a full disk, and with the
//! end of the process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use twox_hash::xxhash3_128;

use crate::command::{Assignment, IndexId, Version};
use crate::error::{Error, Result};
use crate::log::{Lsn, Segment};
use crate::manifest::{Manifest, SegmentInfo};
use crate::shared::Shared;
use crate::state::{State, Sums};

/// How many cuts may be held at a time. One backup needs one; some more for those that were killed.
const MAX_CUTS: usize = 8;

/// How much of a segment is read at a time to be summed up.
const SUM_BYTES: usize = 256 * 1024;

/// A shard as of one LSN.
#[derive(Clone, Debug)]
pub struct Cut {
    /// Names what is held for it.
    pub id: u64,
    /// The last LSN that is in it.
    pub lsn: Version,
    /// The shard's clock at the cut, in milliseconds since 1970.
    pub clock: u64,
    /// Each batch of a higher LSN, before the cut and after it as long as the log is kept, has its time
    /// behind it. `None` where none will have one.
    pub timed_after: Option<Version>,
    /// The identity of the data directory.
    pub identity: u128,
    /// The file `MANIFEST` of a data directory whose log ends with the cut.
    pub manifest: Vec<u8>,
    /// What the shard owns.
    pub assignment: Arc<Assignment>,
    /// What the documents that it owns come to, by index; indexes without any are left out.
    pub sums: BTreeMap<IndexId, Sums>,
    /// The segments of the log, in the order of their numbers. The last one goes on behind the cut.
    pub segments: Vec<CutSegment>,
}

/// A segment of a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutSegment {
    /// Its number.
    pub number: u32,
    /// Its length, in bytes; of the last one as far as the cut goes.
    pub length: u32,
    /// The LSN of its first record.
    pub first_lsn: Version,
    /// Whether the manifest names it. What one that it does not name had has been moved on.
    pub is_named: bool,
}

/// What is held for those who read cuts.
pub(crate) struct Cuts {
    held: Mutex<BTreeMap<u64, Held>>,
    /// For how long after it was read from.
    time: Duration,
}

struct Held {
    until: Instant,
    /// The segments and how much of each is in the cut.
    segments: BTreeMap<u32, (Arc<Segment>, u32)>,
}

impl Cuts {
    /// Holds nothing yet, and then each for so long.
    pub(crate) fn new(time: Duration) -> Self {
        Self { held: Mutex::default(), time }
    }

    fn hold(&self, segments: BTreeMap<u32, (Arc<Segment>, u32)>) -> Result<u64> {
        self.let_go_lapsed(Instant::now());
        let mut held = self.held.lock();
        if held.len() >= MAX_CUTS {
            return Err(Error::TooManyCuts { limit: MAX_CUTS });
        }
        // Of a process before this one, or of a cut that was let go, no id comes again.
        let id = fastrand::u64(1..);
        held.insert(id, Held { until: Instant::now() + self.time, segments });
        Ok(id)
    }

    /// A segment of a cut and how much of it is in that. The cut is held on.
    fn segment(&self, id: u64, number: u32) -> Result<(Arc<Segment>, u32)> {
        self.let_go_lapsed(Instant::now());
        let mut held = self.held.lock();
        let cut = held.get_mut(&id).ok_or(Error::CutGone { id })?;
        cut.until = Instant::now() + self.time;
        let segment = cut.segments.get(&number);
        segment.cloned().ok_or(Error::NotInCut { segment: number })
    }

    /// Lets go of a cut; of one that is not there any more as well.
    pub(crate) fn release(&self, id: u64) {
        self.held.lock().remove(&id);
    }

    /// Lets go of all.
    pub(crate) fn release_all(&self) {
        self.held.lock().clear();
    }

    /// Lets go of those that nobody has read from for long.
    pub(crate) fn let_go_lapsed(&self, now: Instant) {
        self.held.lock().retain(|id, cut| {
            let is_held = now <= cut.until;
            if !is_held {
                tracing::warn!(id, "a cut is let go: nobody has read from it");
            }
            is_held
        });
    }
}

impl Shared {
    /// A cut of what is published and durable, up to `lsn`; the log ends at `end`, a segment and an
    /// offset. Only the sequencer may ask for it, for nothing may be published meanwhile.
    ///
    /// With `keep`, what comes after it is kept from now on, for the next backup, up to so many bytes.
    pub(crate) fn cut(
        &self,
        lsn: Lsn,
        state: &State,
        end: (u32, u32),
        keep: Option<u64>,
    ) -> Result<Cut> {
        let assignment = state.assignment.clone().ok_or(Error::WrongShard { epoch: 0 })?;
        let sums = self.sums(&assignment.ranges)?;
        // What was condemned has been moved on before it was. In this order: what is deleted now is
        // in neither.
        let condemned: Vec<u32> = self.condemned.lock().iter().copied().collect();
        let all = self.segments.all();
        let length = |segment: &Segment| match segment.sealed.get() {
            Some(&length) => length,
            None => end.1,
        };
        let segments = all.iter().map(|segment| CutSegment {
            number: segment.number,
            length: length(segment),
            first_lsn: segment.first_lsn,
            is_named: !condemned.contains(&segment.number),
        });
        let segments: Vec<_> = segments.collect();
        let infos = {
            let tombstones = &self.view.read().usage.tombstones;
            SegmentInfo::list(&self.segments, tombstones, &condemned)
        };
        let manifest =
            Manifest::of(self.identity, lsn, state, infos).encode().map_err(|error| {
                let error = std::io::Error::other(error);
                Error::io("encode the manifest of a cut of", &self.dir, error)
            })?;
        let held = all.into_iter().map(|segment| {
            let length = length(&segment);
            (segment.number, (segment, length))
        });
        let id = self.cuts.hold(held.collect())?;
        // What is kept since the last backup as well, until this one is complete.
        let keep = keep.filter(|&bytes| bytes > 0);
        let timed_after = self.kept.at_cut(lsn, keep);
        if keep.is_some() {
            self.kept.save(self.fs.as_ref(), &self.dir)?;
        }
        let (clock, identity) = (self.clock.now(), self.identity);
        Ok(Cut { id, lsn, clock, timed_after, identity, manifest, assignment, sums, segments })
    }

    /// Keeps the log after an LSN, and nothing before it, up to so many bytes; with 0, nothing.
    pub(crate) fn keep_log(&self, after: Lsn, max_bytes: u64) -> Result<()> {
        let after = after.min(self.durable_lsn.load(Ordering::Acquire));
        let fs = self.fs.as_ref();
        match max_bytes {
            0 => self.kept.end(fs, &self.dir),
            _ => self.kept.set(fs, &self.dir, after, max_bytes),
        }
    }

    /// The bytes of segments that are there only because the log is kept.
    pub(crate) fn kept_bytes(&self) -> u64 {
        let Some(keep) = self.kept.get() else { return 0 };
        let condemned = self.condemned.lock().clone();
        let segments = self.segments.all();
        let after_it = segments.partition_point(|segment| segment.first_lsn <= keep.after + 1);
        let kept = segments[after_it.saturating_sub(1)..].iter();
        let kept = kept.filter(|segment| condemned.contains(&segment.number));
        kept.filter_map(|segment| segment.sealed.get()).map(|&length| u64::from(length)).sum()
    }

    /// Some bytes of a segment of a cut.
    pub(crate) fn read_cut(&self, id: u64, number: u32, offset: u32, most: usize) -> Result<Bytes> {
        let (segment, length) = self.cuts.segment(id, number)?;
        let left = length.saturating_sub(offset) as usize;
        let mut bytes = vec![0; left.min(most)];
        read(&segment, &mut bytes, u64::from(offset))?;
        Ok(bytes.into())
    }

    /// The XXH3 of 128 bits of what of a segment is in a cut.
    pub(crate) fn sum_cut(&self, id: u64, number: u32) -> Result<u128> {
        let (segment, length) = self.cuts.segment(id, number)?;
        let mut hasher = xxhash3_128::Hasher::new();
        let mut bytes = vec![0; SUM_BYTES];
        let mut offset = 0;
        while offset < length as usize {
            let piece = &mut bytes[..SUM_BYTES.min(length as usize - offset)];
            read(&segment, piece, offset as u64)?;
            hasher.write(piece);
            offset += piece.len();
        }
        Ok(hasher.finish_128())
    }
}

fn read(segment: &Segment, bytes: &mut [u8], offset: u64) -> Result<()> {
    let failed = |error| Error::failed("read a segment", &segment.path, error);
    segment.file.read_exact_at(bytes, offset).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_lapses_unless_it_is_read_from() {
        let minute = Duration::from_secs(60);
        let cuts = Cuts::new(minute);
        let id = cuts.hold(BTreeMap::new()).unwrap();
        cuts.let_go_lapsed(Instant::now());
        assert_eq!(cuts.segment(id, 1).map(drop), Err(Error::NotInCut { segment: 1 }));
        cuts.let_go_lapsed(Instant::now() + 2 * minute);
        assert_eq!(cuts.segment(id, 1).map(drop), Err(Error::CutGone { id }));
    }

    #[test]
    fn cuts_that_are_held_are_bounded_and_come_free() {
        let cuts = Cuts::new(Duration::from_secs(60));
        let ids: Vec<_> = (0..MAX_CUTS).map(|_| cuts.hold(BTreeMap::new()).unwrap()).collect();
        let refused = cuts.hold(BTreeMap::new()).unwrap_err();
        assert_eq!(refused, Error::TooManyCuts { limit: MAX_CUTS });
        cuts.release(ids[3]);
        assert!(cuts.hold(BTreeMap::new()).is_ok());
    }
}
