//! Taking a backup of a shard: a cut, and the segments of the log that are in it.

use serde::{Deserialize, Serialize};

use super::RangeSum;
use crate::digest::Digest;
use crate::range_map::Range;

/// What who takes a backup asks of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CutOperation {
    /// The shard as of now, between two batches. What of its log is in the cut is held for a minute
    /// after it was read from last. Answered `cut`.
    Begin(BeginCut),
    /// Some bytes of a segment of a cut. Answered `piece`, or refused with `cut_gone`.
    Fetch(FetchPiece),
    /// A checksum of a segment of a cut. Answered `segment_sum`, or refused with `cut_gone`.
    Sum(SumSegment),
    /// Lets go of a cut. Answered `done`, also when it is not held any more.
    End(EndCut),
    /// Keeps the log after an LSN, and nothing before it, for the next backup. Answered `done`.
    KeepLog(KeepLog),
}

/// A cut to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeginCut {
    /// Keeps the log from the cut on as well as what is kept of it already, as long as that takes no more
    /// bytes than this: so nothing of it is lost before the backup is complete. Left out, it is as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_log: Option<u64>,
}

/// Some bytes of a segment of a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchPiece {
    /// The cut's id.
    pub id: u64,
    /// The segment's number.
    pub segment: u32,
    /// Where the bytes begin.
    pub offset: u32,
    /// How many; a shard may give fewer, and gives none only at the segment's end.
    pub length: u32,
}

/// A segment of a cut to sum up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in a fetch")]
pub struct SumSegment {
    pub id: u64,
    pub segment: u32,
}

/// A cut to let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in a fetch")]
pub struct EndCut {
    pub id: u64,
}

/// What of the log is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepLog {
    /// What has a higher LSN: that of the cut of a backup that is complete.
    pub after: u64,
    /// As long as that takes no more bytes of the disk than this; 0 for none.
    pub bytes: u64,
}

/// A shard as of one LSN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Names what is held for it.
    pub id: u64,
    /// The last LSN that is in it.
    pub lsn: u64,
    /// The shard's clock at the cut, in milliseconds since 1970.
    pub clock: u64,
    /// Each batch of a higher LSN has its time behind it, as long as the log is kept. Left out where none
    /// will have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timed_after: Option<u64>,
    /// The epoch of the assignment held: of one epoch, a position has one owner.
    pub epoch: u64,
    /// The ranges owned, in ring order.
    pub ranges: Vec<Range>,
    /// What each index has there, in the order of their ids; those without any are left out.
    pub sums: Vec<RangeSum>,
    /// The identity of the data directory, in 32 hexadecimal digits.
    pub identity: String,
    /// The file `MANIFEST` of a data directory whose log ends with the cut.
    #[serde(with = "serde_bytes")]
    pub manifest: Vec<u8>,
    /// The segments of the log, in the order of their numbers. The last one goes on behind the cut.
    pub segments: Vec<CutSegment>,
}

/// A segment of a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutSegment {
    /// Its number.
    pub number: u32,
    /// Its length, in bytes; of the last one as far as the cut goes.
    pub length: u32,
    /// The LSN of its first record.
    pub first_lsn: u64,
    /// Whether the manifest names it; what it had lies elsewhere otherwise, as far as it is needed.
    pub named: bool,
}

/// Bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "described above")]
pub struct Piece<'a> {
    #[serde(with = "serde_bytes", borrow)]
    pub bytes: &'a [u8],
}

/// A checksum of a segment, as far as it is in a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentSum {
    /// The XXH3 of 128 bits, seed 0, of its bytes.
    pub sum: Digest,
}
