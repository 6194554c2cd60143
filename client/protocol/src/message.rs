//! The messages that frames carry.
//!
//! The first frame of a connection is a [`Hello`], answered by a [`HelloAnswer`]. After that the
//! client sends [`Request`]s and the node [`Answer`]s; an answer carries the id of its request and
//! may come out of order. Requests that a client sends without waiting are executed in any order.
//!
//! Strings and documents borrow from the frame they were decoded from, so that a node handles a
//! document without copying or decoding it.

use std::fmt;

use serde::de::{self, DeserializeOwned};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::WireError;
use crate::frame::{self, FrameError};
use crate::limits::{Expiry, IndexSettings, Policy, SettingsChange};
use crate::range_map::{Range, RangeMap};
use crate::ring::{HashMethod, Position};

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Keeps documents.
    Shard,
    /// Keeps the range map and the index catalogue.
    Bootstrap,
}

/// The first frame of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::PROTOCOL_VERSION`] of the client.
    pub version: u32,
    /// Who connects, for the node's log.
    pub client: String,
    /// The shared secret, where the cluster has one.
    #[serde(default)]
    pub token: Option<String>,
}

/// The answer to a [`Hello`]; after a refusal the node closes the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "described by the types they hold")]
pub enum HelloAnswer {
    Welcome(Welcome),
    Refused(WireError),
}

/// Who answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// [`crate::PROTOCOL_VERSION`] of the node.
    pub version: u32,
    /// What the node is.
    pub role: Role,
    /// The shard's name; empty for a bootstrap and for a shard that waits for its first
    /// assignment.
    pub name: String,
    /// The epoch of the range map that the node knows; 0 for none.
    pub epoch: u64,
}

/// A request: an id that the answer repeats, and the operation.
///
/// On the wire an array of two, so that the id can be read where the operation is not understood.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "described above")]
pub struct Request<O> {
    pub id: u64,
    pub operation: O,
}

/// An answer: the id of its request, and the outcome. On the wire an array of two.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "described above")]
pub struct Answer<A> {
    pub id: u64,
    pub outcome: A,
}

impl<O: Serialize> Serialize for Request<O> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.id, &self.operation).serialize(serializer)
    }
}

impl<A: Serialize> Serialize for Answer<A> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.id, &self.outcome).serialize(serializer)
    }
}

/// Takes the id off the body of a request or an answer; the rest is the operation or outcome, for
/// [`frame::decode`].
///
/// # Errors
/// [`FrameError::Malformed`] when the body is no array of two that begins with an unsigned
/// integer: there is no id to answer to.
pub fn split_id(mut body: &[u8]) -> Result<(u64, &[u8]), FrameError> {
    let malformed = |what: &str| FrameError::Malformed(format!("{what} at the head of a message"));
    match rmp::decode::read_array_len(&mut body) {
        Ok(2) => {}
        Ok(length) => return Err(malformed(&format!("an array of {length}, not of 2"))),
        Err(_) => return Err(malformed("no array")),
    }
    let id = rmp::decode::read_int(&mut body).map_err(|_| malformed("no unsigned id"))?;
    Ok((id, body))
}

/// Decodes a whole request or answer.
///
/// # Errors
/// [`FrameError::Malformed`].
pub fn decode_with_id<T: DeserializeOwned>(body: &[u8]) -> Result<(u64, T), FrameError> {
    let (id, rest) = split_id(body)?;
    Ok((id, frame::decode(rest)?))
}

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

/// What a shard says of itself. Bytes count keys and documents, nothing else.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShardStat {
    /// The cluster's id; empty before the first assignment.
    pub cluster: String,
    /// The shard's name; empty before the first assignment.
    pub name: String,
    /// The epoch of the assignment held.
    pub epoch: u64,
    /// The lineage of the assignment held.
    pub lineage: u64,
    /// The ranges owned, in ring order.
    pub ranges: Vec<Range>,
    /// The limit in bytes.
    pub max_size: u64,
    /// What becomes of a write for which there is no room, in indexes without a policy of their
    /// own.
    pub policy: Policy,
    /// The bytes used.
    pub used: u64,
    /// How many documents there are.
    pub documents: u64,
    /// Documents by fifths of the ranges owned, in ring order.
    pub distribution: [u64; 5],
    /// What happened in all indexes, dropped ones included.
    pub counts: Counts,
    /// The indexes, in the order of their names.
    pub indexes: Vec<IndexStat>,
    /// Who holds the write lock.
    pub locked_by: Option<String>,
    /// What is known to be damaged of the log, if anything: a segment whose space does not come back.
    pub damaged: Option<String>,
    /// Why the shard stopped writing, if it did.
    pub poisoned: Option<String>,
    /// Why the shard refuses writes for want of space on its disk, if it does.
    pub disk_full: Option<String>,
    /// Why the last checkpoint failed, if it did; it is tried again.
    pub checkpoint_error: Option<String>,
    /// The last LSN that is durable.
    pub durable_lsn: u64,
    /// The LSN up to which the index on disk holds everything.
    pub checkpoint_lsn: u64,
    /// Log segments on disk, and their bytes.
    pub segments: u64,
    /// Bytes of the log on disk.
    pub log_bytes: u64,
    /// Documents that are remembered in memory for evictions and times to live.
    pub tracked_documents: u64,
    /// The bytes that takes.
    pub tracked_bytes: u64,
    /// Open connections.
    pub connections: u64,
    /// The shard's process id.
    pub pid: u32,
}

/// What a shard says of an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in the shard's own stat")]
pub struct IndexStat {
    pub id: u32,
    pub name: String,
    pub documents: u64,
    pub used: u64,
    /// The shard's share of them.
    #[serde(default)]
    pub settings: IndexSettings,
    #[serde(default)]
    pub counts: Counts,
}

/// What happened in an index or a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Documents evicted to make room, ever.
    pub evicted: u64,
    /// Documents removed because they had expired, ever.
    pub expired: u64,
    /// Writes refused because of a limit, since the shard was started.
    pub rejected: u64,
    /// Reads that found a document, since the shard was started.
    pub hits: u64,
    /// Reads that found none, since the shard was started.
    pub misses: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.evicted += other.evicted;
        self.expired += other.expired;
        self.rejected += other.rejected;
        self.hits += other.hits;
        self.misses += other.misses;
    }
}

/// What a client asks of bootstrap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BootstrapOperation<'a> {
    /// Answered `map`.
    Map,
    /// Answered `indexes`.
    Indexes,
    /// Answered `index`, or the error `index_exists`.
    #[serde(borrow)]
    CreateIndex(NewIndex<'a>),
    /// Changes settings of an index. Answered `index`. Where a limit is lowered, every shard must be
    /// there, and what [`ShardOperation::SetIndex`] is refused with refuses it.
    SetIndex(ChangeIndex<'a>),
    /// Answered `index`, or the error `index_not_found`.
    DropIndex(IndexName<'a>),
    /// Sets a shard's limit in bytes, and its policy. Answered `done`.
    SetShard(SetShard<'a>),
    /// Answered `status`.
    Status,
}

/// The index to create.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "described above")]
pub struct NewIndex<'a> {
    pub name: &'a str,
    #[serde(default, skip_serializing_if = "IndexSettings::is_default")]
    pub settings: IndexSettings,
}

/// The index to change, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "described above")]
pub struct ChangeIndex<'a> {
    pub name: &'a str,
    pub change: SettingsChange,
}

/// The index to drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "described above")]
pub struct IndexName<'a> {
    pub name: &'a str,
}

/// The new limit and policy of a shard, each where it is to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "described above")]
pub struct SetShard<'a> {
    pub shard: &'a str,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
}

/// What bootstrap answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "described with the operations")]
pub enum BootstrapAnswer {
    Map(RangeMap),
    Indexes(Vec<Index>),
    Index(Index),
    Status(Vec<ShardStatus>),
    Done,
    Error(WireError),
}

/// How bootstrap sees a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardStatus {
    /// The shard's name.
    pub name: String,
    /// Whether it is connected and holds the newest assignment and catalogue.
    pub ready: bool,
    /// Why it is not ready.
    pub why: Option<String>,
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    fn round_trip<T: Serialize>(message: &T) -> BytesMut {
        let mut wire = BytesMut::new();
        frame::encode(&mut wire, message, 1 << 20).unwrap();
        wire.split_off(frame::LENGTH_BYTES)
    }

    #[test]
    fn operations_come_back_as_they_went_and_borrow_from_the_frame() {
        let operations = [
            ShardOperation::Write(Write {
                index: "i",
                key: "k|ä",
                document: b"\x81\xa1a\x01",
                condition: Condition::Version(7),
                expiry: Expiry::After(2000),
            }),
            ShardOperation::Touch(Touch { index: "i", key: "k", expiry: Expiry::Never }),
            ShardOperation::SetIndex(SetShare {
                id: 7,
                name: "i",
                settings: IndexSettings { policy: Some(Policy::Lfu), ..IndexSettings::default() },
                force: true,
            }),
            ShardOperation::Stat,
            ShardOperation::Batch(Batch {
                mutations: vec![
                    Mutation::Write(Write {
                        index: "i",
                        key: "k",
                        document: b"\xc0",
                        condition: Condition::Absent,
                        expiry: Expiry::Default,
                    }),
                    Mutation::Remove(Remove { index: "i", key: "l", version: None }),
                ],
                atomic: true,
            }),
            ShardOperation::Scan(Scan {
                index: "i",
                range: Range::FULL,
                after: Some(Cursor { position: Position(3), key: "k" }),
                limit: 10,
                keys_only: false,
            }),
        ];
        for operation in operations {
            let body = round_trip(&Request { id: u64::MAX, operation: operation.clone() });
            let (id, rest) = split_id(&body).unwrap();
            assert_eq!(id, u64::MAX);
            assert_eq!(frame::decode::<ShardOperation<'_>>(rest).unwrap(), operation);
        }
    }

    #[test]
    fn answers_come_back_as_they_went() {
        let outcomes = [
            ShardAnswer::Written { version: 3 },
            ShardAnswer::Missing,
            ShardAnswer::Touched { version: 3, expires_at: 7 },
            ShardAnswer::Document(Found {
                position: Position(1),
                version: 2,
                expires_at: 3,
                document: b"\xc0",
            }),
            ShardAnswer::Page(Page {
                items: [0, 1 << 40]
                    .map(|expires_at| Item {
                        position: Position(1),
                        key: "k",
                        version: 2,
                        document: b"",
                        expires_at,
                    })
                    .to_vec(),
                more: true,
            }),
            ShardAnswer::Stat(Box::default()),
            ShardAnswer::Error(WireError::QuotaExceeded { used: 1, limit: 2, needed: 3 }),
            ShardAnswer::Error(WireError::bad_request("key", "too short")),
        ];
        for outcome in outcomes {
            let body = round_trip(&Answer { id: 1, outcome: outcome.clone() });
            let (_, rest) = split_id(&body).unwrap();
            assert_eq!(frame::decode::<ShardAnswer<'_>>(rest).unwrap(), outcome);
        }
    }

    #[test]
    fn the_id_is_read_where_the_operation_is_unknown() {
        let body = round_trip(&(5u64, "levitate"));
        let (id, rest) = split_id(&body).unwrap();
        assert_eq!(id, 5);
        assert!(frame::decode::<ShardOperation<'_>>(rest).is_err());
        assert!(split_id(b"\xc0").is_err());
        assert!(split_id(b"\x92\xa1x\xc0").is_err());
    }

    #[test]
    fn fields_a_later_version_adds_are_passed_over() {
        #[derive(Serialize)]
        struct Later {
            index: &'static str,
            key: &'static str,
            colour: &'static str,
        }
        let body = round_trip(&Later { index: "i", key: "k", colour: "blue" });
        assert_eq!(frame::decode::<KeyOf<'_>>(&body).unwrap(), KeyOf { index: "i", key: "k" });
    }
}
