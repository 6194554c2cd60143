//! Moving a range from one shard, the *source*, to another, the *target*.
//!
//! The target pulls: pages of all documents of the range, then the end of the source's log. Bootstrap
//! tells it to begin, and to complete once it is nearly up to date: it then has the source freeze the
//! range, brings the rest, and compares digests. What follows are assignments: the source's without the
//! range, which is refused unless the range is still frozen, and then the target's.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Cursor;
use crate::digest::Digest;
use crate::range_map::Range;
use crate::ring::Position;

/// What bootstrap asks of the target of a move. Answered `done`, but for the completion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetOperation<'a> {
    /// To take a range over, in the background, and to go on if it does already. The shard goes on by
    /// itself only when it is told again after a restart.
    #[serde(borrow)]
    Receive(Receive<'a>),
    /// To end that, and to remove what came.
    Stop(MoveId<'a>),
    /// To have the source freeze the range, and to bring the rest. Answered `frozen` when target and
    /// source have the same; `mismatch` where they have not; anything else has to be tried again.
    Complete(MoveId<'a>),
}

/// A range to take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receive<'a> {
    /// Names the move.
    pub id: &'a str,
    /// The range.
    pub range: Range,
    /// The address of the source, `host:port`.
    pub from: &'a str,
    /// How many bytes a second may be brought; 0 for none now, left out for as many as come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
}

/// Which move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "described above")]
pub struct MoveId<'a> {
    pub id: &'a str,
}

/// What a target asks of the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceOperation<'a> {
    /// Where the log goes on. What is exported from now on and what comes then is all there is.
    /// Answered `tail_end`.
    TailEnd,
    /// A page of all documents of an index in a range, those that have expired and are not removed yet
    /// as well. Answered `page`, or refused with `log_gone` where the log cannot be held.
    #[serde(borrow)]
    Export(Export<'a>),
    /// What became of keys in a range from a place in the log on. Answered `tail`, or refused with
    /// `log_gone`.
    Tail(ReadTail),
    /// Refuses changes in a range for a while, in memory only. Answered `frozen`.
    Freeze(Freeze<'a>),
    /// Ends that. Answered `done`.
    Thaw(MoveId<'a>),
    /// What the documents of a frozen range come to. Answered `sums`, or refused with `not_frozen` where
    /// the freeze did not last.
    Sums(SumUp<'a>),
}

/// A page of an index, by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export<'a> {
    /// The index's id.
    pub index: u32,
    /// The positions to visit.
    pub range: Range,
    /// Where the page before ended: documents after this one.
    #[serde(default, borrow)]
    pub after: Option<Cursor<'a>>,
    /// From where on the log is to be held, for it is read after the pages.
    #[serde(default)]
    pub hold: Option<TailCursor>,
}

/// Where a reader of a shard's log goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TailCursor {
    /// The log goes on with the first record of this LSN or a higher one.
    pub lsn: u64,
    /// The segment that it lies in; 0 where that is not known.
    pub segment: u32,
    /// The offset in it.
    pub offset: u32,
}

/// The log from a place on, as far as it is of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "described above")]
pub struct ReadTail {
    pub from: TailCursor,
    pub range: Range,
}

/// A range to freeze.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze<'a> {
    /// Names the move.
    pub id: &'a str,
    /// The range; the shard must own all of it.
    pub range: Range,
    /// For how many milliseconds at most.
    pub at_most: u64,
}

/// A frozen range to sum up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SumUp<'a> {
    /// Names the move.
    pub id: &'a str,
    /// What the freeze was answered with.
    pub lsn: u64,
    /// The range.
    pub range: Range,
}

/// What became of keys of a range, in the order in which it did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tail<'a> {
    /// What became of keys.
    #[serde(borrow)]
    pub changes: Vec<TailChange<'a>>,
    /// Where to go on.
    pub next: TailCursor,
    /// The last LSN that is durable: all is read when `next` is beyond it.
    pub durable_lsn: u64,
}

/// What became of a key; on the wire an array `[index, position, key, version, document, expires_at]`,
/// for there are many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailChange<'a> {
    /// The index's id.
    pub index: u32,
    /// Where the key falls.
    pub position: Position,
    /// The key.
    pub key: &'a str,
    /// The document's version; of a removal its LSN.
    pub version: u64,
    /// The document; nothing, nil, of a removal.
    pub document: Option<&'a [u8]>,
    /// When it expires, in milliseconds since 1970; 0 for never.
    pub expires_at: u64,
}

impl Serialize for TailChange<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { index, position, key, version, document, expires_at } = *self;
        let document = document.map(serde_bytes::Bytes::new);
        (index, position, key, version, document, expires_at).serialize(serializer)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for TailChange<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        type Fields<'a> = (u32, Position, &'a str, u64, Option<&'a serde_bytes::Bytes>, u64);
        let (index, position, key, version, document, expires_at) =
            Fields::<'de>::deserialize(deserializer)?;
        let document = document.map(|document| &**document);
        Ok(Self { index, position, key, version, document, expires_at })
    }
}

/// What the documents of a range come to, in one index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in a stat")]
pub struct RangeSum {
    pub index: u32,
    pub documents: u64,
    pub bytes: u64,
    pub digest: Digest,
}

/// How far the target of a move is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MoveProgress {
    /// Names the move.
    pub id: String,
    /// Whether all documents were brought once; what is left is the end of the source's log.
    pub copied: bool,
    /// How many documents were brought, those of the log as well.
    pub documents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many records of the source's log were left to read when it was read last.
    pub behind: u64,
    /// Why it does not go on, if it does not; it is tried again.
    pub error: Option<String>,
}

/// What the documents of each of the 1,024 buckets of the ring come to, of those owned or in part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketSums {
    /// How many there are.
    pub documents: Vec<u64>,
    /// The bytes of their keys and documents.
    pub bytes: Vec<u64>,
}
