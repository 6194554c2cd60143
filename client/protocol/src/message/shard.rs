//! What is asked of a shard, and its answers.

use std::fmt;

use serde::de;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    BucketSums, Cut, CutOperation, Digests, Piece, RangeSum, SegmentSum, ShardStat,
    SourceOperation, Tail, TailCursor, TargetOperation,
};
use crate::error::WireError;
use crate::limits::{Expiry, IndexSettings, Policy};
use crate::range_map::Range;
use crate::ring::{HashMethod, Position};

/// What must hold for a write to happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// No document under the key: the seed's insert-only default.
    #[default]
    Absent,
    /// Nothing.
    Any,
    /// Some document under the key.
    Present,
    /// The document under the key has this version.
    Version(u64),
}

/// What a client asks of a shard, and bootstrap of a shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardOperation<'a> {
    /// Stores a document. Answered `written` or `condition_failed`.
    #[serde(borrow)]
    Write(Write<'a>),
    /// Answered `document` or `missing`.
    Read(KeyOf<'a>),
    /// Answered `document` with empty bytes (there, with its version) or `missing`.
    Has(KeyOf<'a>),
    /// Removes a document and returns it. Answered `document` or `missing`.
    Pop(KeyOf<'a>),
    /// Removes a document. Answered `removed`, `missing` or `condition_failed`.
    Remove(Remove<'a>),
    /// Changes when a document expires, and nothing else. Answered `touched` or `missing`.
    Touch(Touch<'a>),
    /// Several writes and removes. Answered `batch`.
    Batch(Batch<'a>),
    /// Documents in ring order. Answered `page`.
    Scan(Scan<'a>),
    /// Answered `stat`.
    Stat,
    /// What the documents of the ranges owned come to. Answered `digests`.
    Digests,

    /// Gives the shard its name, ranges and limit. Answered `done`.
    Assign(Assignment),
    /// Refuses writes until released; reads go on. Survives a restart. Answered `done`.
    Lock(Lock<'a>),
    /// Lets go of a lock by the same owner. Answered `done`.
    Release(Lock<'a>),
    /// Creates an index with this shard's share of its settings. Answered `done`, also when the index
    /// is there already under the same id.
    CreateIndex(Index),
    /// Sets this shard's share of an index's settings. Answered `done`, or refused.
    SetIndex(SetShare<'a>),
    /// Removes an index and its documents. Answered `done`, also when it is not there.
    DropIndex(DropIndex<'a>),
    /// Sets the limit in bytes, and the policy. Where more is used, the policy decides: refused with
    /// `quota_exceeded`, or answered `done` once enough is evicted.
    SetSize(SetSize),
    /// What the documents of each bucket of the ring come to. Answered `buckets`.
    Buckets,

    /// To a shard that is to take a range over, or does.
    Target(TargetOperation<'a>),
    /// To the shard that it is taken over from.
    Source(SourceOperation<'a>),

    /// Of who takes a backup.
    Cut(CutOperation),
}

/// Where a document is: index and key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "described above")]
pub struct KeyOf<'a> {
    pub index: &'a str,
    pub key: &'a str,
}

/// Stores `document` under `key` if `condition` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "described above")]
pub struct Write<'a> {
    pub index: &'a str,
    pub key: &'a str,
    #[serde(with = "serde_bytes", borrow)]
    pub document: &'a [u8],
    #[serde(default)]
    pub condition: Condition,
    #[serde(default, skip_serializing_if = "Expiry::is_default")]
    pub expiry: Expiry,
}

/// Changes when the document under `key` expires; its version stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "described above")]
pub struct Touch<'a> {
    pub index: &'a str,
    pub key: &'a str,
    pub expiry: Expiry,
}

/// Removes the document under `key`, of any version unless `version` names one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "described above")]
pub struct Remove<'a> {
    pub index: &'a str,
    pub key: &'a str,
    #[serde(default)]
    pub version: Option<u64>,
}

/// The most mutations of a batch: what a node holds of one in memory is many times the bytes of a
/// short mutation on the wire.
pub const MAX_BATCH_MUTATIONS: usize = 10_000;

/// Several mutations, executed in their order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch<'a> {
    /// What to do, at most [`MAX_BATCH_MUTATIONS`]; all keys must belong to the shard.
    #[serde(borrow)]
    pub mutations: Vec<Mutation<'a>>,
    /// All or nothing: when one is neither written nor removed, those before it are undone and
    /// those after not tried. Otherwise each stands for itself. Nobody sees a part of an atomic batch, also after a
    /// crash.
    #[serde(default)]
    pub atomic: bool,
}

/// One step of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "described by the types they hold")]
pub enum Mutation<'a> {
    #[serde(borrow)]
    Write(Write<'a>),
    Remove(Remove<'a>),
}

/// A page of an index's documents in ring order: by position, then by key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scan<'a> {
    /// The index.
    pub index: &'a str,
    /// The positions to visit; answered `wrong_shard` when the shard does not own all of them, or
    /// all from that of `after` on.
    pub range: Range,
    /// Where the page before ended: documents after this one. Stays true while ranges move.
    #[serde(default, borrow)]
    pub after: Option<Cursor<'a>>,
    /// The most documents in the page, at least 1; a node may stop earlier, but not before the
    /// first.
    pub limit: u32,
    /// Leaves the documents' bytes out.
    #[serde(default)]
    pub keys_only: bool,
}

/// A place in a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "described above")]
pub struct Cursor<'a> {
    pub position: Position,
    pub key: &'a str,
}

/// What bootstrap gives a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The cluster's id; a shard serves one cluster for life.
    pub cluster: String,
    /// The shard's name in it.
    pub name: String,
    /// The map's epoch; a shard refuses one older than it holds.
    pub epoch: u64,
    /// A hash of the history of maps and catalogues that led to this epoch: one epoch has one
    /// lineage. A shard keeps and tells it; 0 where none was given.
    #[serde(default)]
    pub lineage: u64,
    /// How keys become positions.
    pub hash_method: HashMethod,
    /// What the shard owns, in ring order.
    pub ranges: Vec<Range>,
    /// How many bytes of keys and documents it may hold.
    pub size: u64,
    /// What becomes of a write for which there is no room, in indexes without a policy of their
    /// own.
    #[serde(default, skip_serializing_if = "Policy::is_default")]
    pub policy: Policy,
    /// The freeze under which the shard gives ranges up: it must still hold. Left out where it gives up
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gives_up: Option<Frozen>,
}

/// A freeze of a range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    /// The move that it is for.
    pub id: String,
    /// The LSN after which nothing changes.
    pub lsn: u64,
}

/// Who locks or releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "described above")]
pub struct Lock<'a> {
    pub owner: &'a str,
}

/// An index of the catalogue. Its id is never given again, so that an index dropped and created
/// anew is told from its forerunner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "described above")]
pub struct Index {
    pub id: u32,
    pub name: String,
    #[serde(default, skip_serializing_if = "IndexSettings::is_default")]
    pub settings: IndexSettings,
}

/// A shard's share of an index's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetShare<'a> {
    /// The index's id.
    pub id: u32,
    /// Its name, for messages.
    pub name: &'a str,
    /// The share.
    pub settings: IndexSettings,
    /// Sets the limits as they are, whatever is used: documents are evicted in the background, or
    /// writes refused, until they are met. Otherwise, where more is used, the policy decides:
    /// refused with `index_full`, or answered `done` once enough is evicted.
    #[serde(default)]
    pub force: bool,
}

/// The index to drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "described above")]
pub struct DropIndex<'a> {
    pub id: u32,
    pub name: &'a str,
}

/// The new limit in bytes, and the new policy where it is to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "described above")]
pub struct SetSize {
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
}

/// What a shard answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "described with the operations")]
pub enum ShardAnswer<'a> {
    Written {
        version: u64,
    },
    Removed {
        version: u64,
    },
    /// The document's version, and when it expires, in milliseconds since 1970; 0 for never.
    Touched {
        version: u64,
        expires_at: u64,
    },
    #[serde(borrow)]
    Document(Found<'a>),
    Missing,
    /// The condition does not hold; the version there is, if any.
    ConditionFailed {
        version: Option<u64>,
    },
    Batch(Vec<MutationOutcome>),
    Page(Page<'a>),
    Stat(Box<ShardStat>),
    Digests(Box<Digests>),
    TailEnd(TailCursor),
    Tail(Tail<'a>),
    /// Nothing changes in the range after this LSN.
    Frozen {
        lsn: u64,
    },
    Sums(Vec<RangeSum>),
    Buckets(Box<BucketSums>),
    Cut(Box<Cut>),
    Piece(Piece<'a>),
    SegmentSum(SegmentSum),
    Done,
    Error(WireError),
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_never(expires_at: &u64) -> bool {
    *expires_at == 0
}

/// A document as read or popped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "described above")]
pub struct Found<'a> {
    pub position: Position,
    pub version: u64,
    /// When it expires, in milliseconds since 1970; 0, and left out, for never.
    #[serde(default, skip_serializing_if = "is_never")]
    pub expires_at: u64,
    #[serde(with = "serde_bytes", borrow)]
    pub document: &'a [u8],
}

/// What became of one mutation of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "described with the operations")]
pub enum MutationOutcome {
    Written {
        version: u64,
    },
    Removed {
        version: u64,
    },
    Missing,
    ConditionFailed {
        version: Option<u64>,
    },
    Error(WireError),
    /// Not done because another mutation of the atomic batch failed.
    Abandoned,
}

/// Documents in ring order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<'a> {
    /// The documents.
    #[serde(borrow)]
    pub items: Vec<Item<'a>>,
    /// Whether there may be more after the last item; the scan goes on from there.
    pub more: bool,
}

/// One document of a page; on the wire an array `[position, key, version, document]`, for pages
/// hold many, with `expires_at` behind where it expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "described above")]
pub struct Item<'a> {
    pub position: Position,
    pub key: &'a str,
    pub version: u64,
    /// Empty where the scan asked for keys only.
    pub document: &'a [u8],
    /// When it expires, in milliseconds since 1970; 0 for never.
    pub expires_at: u64,
}

impl Serialize for Item<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let document = serde_bytes::Bytes::new(self.document);
        let Self { position, key, version, expires_at, .. } = *self;
        match expires_at {
            0 => (position, key, version, document).serialize(serializer),
            _ => (position, key, version, document, expires_at).serialize(serializer),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Item<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ItemVisitor)
    }
}

/// Reads an item, which is of four values or five.
struct ItemVisitor;

impl<'de> de::Visitor<'de> for ItemVisitor {
    type Value = Item<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of position, key, version, document and maybe a time")
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut values: A) -> Result<Item<'de>, A::Error> {
        let short = |length| de::Error::invalid_length(length, &self);
        let position = values.next_element()?.ok_or_else(|| short(0))?;
        let key = values.next_element()?.ok_or_else(|| short(1))?;
        let version = values.next_element()?.ok_or_else(|| short(2))?;
        let document: &serde_bytes::Bytes = values.next_element()?.ok_or_else(|| short(3))?;
        let expires_at = values.next_element()?.unwrap_or(0);
        Ok(Item { position, key, version, document, expires_at })
    }
}
