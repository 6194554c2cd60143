//! Answers as a caller keeps them: documents are slices of the frame they came in, not copies.
//!
//! # Caveats
//! A document kept keeps the memory of the answers that arrived along with it. Whoever keeps few
//! of many for long should copy them ([`Bytes::copy_from_slice`]).

use bytes::Bytes;
use sherd_protocol::message::{
    BucketSums, Cut, Digests, MutationOutcome, RangeSum, SegmentSum, ShardAnswer, ShardStat,
    TailCursor,
};
use sherd_protocol::{FrameError, Position, WireError, frame};

/// A stored document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Where its key falls on the ring.
    pub position: Position,
    /// Grows with every write of the key.
    pub version: u64,
    /// When it expires, in milliseconds since 1970; 0 for never, and where only its presence was
    /// asked for.
    pub expires_at: u64,
    /// One MessagePack value; empty where only its presence was asked for.
    pub bytes: Bytes,
}

/// A key with its document, from a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: String,
    /// What is stored under it; its bytes are empty where only keys were asked for.
    pub document: Document,
}

/// A part of a scan, in ring order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The documents.
    pub items: Vec<Item>,
    /// Whether there may be more after the last of them.
    pub more: bool,
}

/// What became of a key, from the end of a shard's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TailChange {
    /// The index's id.
    pub index: u32,
    /// The key.
    pub key: String,
    /// Where it falls.
    pub position: Position,
    /// The document's version; of a removal its LSN.
    pub version: u64,
    /// The document and when it expires; nothing of a removal.
    pub stored: Option<(Bytes, u64)>,
}

/// A part of the end of a shard's log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in the protocol")]
pub struct Tail {
    pub changes: Vec<TailChange>,
    pub next: TailCursor,
    pub durable_lsn: u64,
}

/// What a shard answered, other than an error.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "as in the protocol")]
pub enum ShardReply {
    Written { version: u64 },
    Removed { version: u64 },
    Touched { version: u64, expires_at: u64 },
    Document(Document),
    Missing,
    ConditionFailed { version: Option<u64> },
    Batch(Vec<MutationOutcome>),
    Page(Page),
    Stat(Box<ShardStat>),
    Digests(Box<Digests>),
    TailEnd(TailCursor),
    Tail(Tail),
    Frozen { lsn: u64 },
    Sums(Vec<RangeSum>),
    Buckets(Box<BucketSums>),
    Cut(Box<Cut>),
    Piece(Bytes),
    SegmentSum(SegmentSum),
    Done,
}

impl ShardReply {
    /// Decodes an outcome; the error answer is the inner error.
    pub(crate) fn decode(outcome: &Bytes) -> Result<Result<Self, WireError>, FrameError> {
        let own = |borrowed: &[u8]| outcome.slice_ref(borrowed);
        Ok(Ok(match frame::decode::<ShardAnswer<'_>>(outcome)? {
            ShardAnswer::Written { version } => Self::Written { version },
            ShardAnswer::Removed { version } => Self::Removed { version },
            ShardAnswer::Touched { version, expires_at } => Self::Touched { version, expires_at },
            ShardAnswer::Document(found) => Self::Document(Document {
                position: found.position,
                version: found.version,
                expires_at: found.expires_at,
                bytes: own(found.document),
            }),
            ShardAnswer::Missing => Self::Missing,
            ShardAnswer::ConditionFailed { version } => Self::ConditionFailed { version },
            ShardAnswer::Batch(outcomes) => Self::Batch(outcomes),
            ShardAnswer::Page(page) => {
                let items = page.items.iter().map(|item| Item {
                    key: item.key.to_owned(),
                    document: Document {
                        position: item.position,
                        version: item.version,
                        expires_at: item.expires_at,
                        bytes: own(item.document),
                    },
                });
                Self::Page(Page { items: items.collect(), more: page.more })
            }
            ShardAnswer::Stat(stat) => Self::Stat(stat),
            ShardAnswer::Digests(digests) => Self::Digests(digests),
            ShardAnswer::TailEnd(cursor) => Self::TailEnd(cursor),
            ShardAnswer::Tail(tail) => {
                let changes = tail.changes.iter().map(|change| TailChange {
                    index: change.index,
                    key: change.key.to_owned(),
                    position: change.position,
                    version: change.version,
                    stored: change.document.map(|document| (own(document), change.expires_at)),
                });
                let (next, durable_lsn) = (tail.next, tail.durable_lsn);
                Self::Tail(Tail { changes: changes.collect(), next, durable_lsn })
            }
            ShardAnswer::Frozen { lsn } => Self::Frozen { lsn },
            ShardAnswer::Sums(sums) => Self::Sums(sums),
            ShardAnswer::Buckets(buckets) => Self::Buckets(buckets),
            ShardAnswer::Cut(cut) => Self::Cut(cut),
            ShardAnswer::Piece(piece) => Self::Piece(own(piece.bytes)),
            ShardAnswer::SegmentSum(sum) => Self::SegmentSum(sum),
            ShardAnswer::Done => Self::Done,
            ShardAnswer::Error(error) => return Ok(Err(error)),
        }))
    }
}
