//! What the engine is asked, and what it answers.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::limits::{Counts, Expiry, IndexSettings, Policy};

/// The id of an index; never given twice in a cluster.
pub type IndexId = u32;

/// The version of a document: the LSN of the effect that wrote it, here or on the shard that it was taken
/// over from.
pub type Version = u64;

/// A document's key and its place on the ring. The engine does not know how keys become
/// positions, only that the same key always comes with the same one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The position, from 0 below the ring's size.
    pub position: u32,
    /// The key's bytes.
    pub bytes: Bytes,
}

/// What must hold for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// No document under the key.
    Absent,
    /// Nothing.
    Any,
    /// Some document under the key.
    Present,
    /// The document under the key has this version.
    Version(Version),
}

impl Condition {
    /// Whether it holds where a document of that version is, or none.
    pub(crate) fn holds(self, version: Option<Version>) -> bool {
        match self {
            Self::Absent => version.is_none(),
            Self::Any => true,
            Self::Present => version.is_some(),
            Self::Version(wanted) => version == Some(wanted),
        }
    }
}

/// A change of one document.
#[derive(Clone, Debug)]
pub enum Mutation {
    /// Stores `document` under `key` if `condition` holds.
    Write {
        /// The index.
        index: IndexId,
        /// The key.
        key: Key,
        /// The bytes to store, opaque to the engine.
        document: Bytes,
        /// What must hold.
        condition: Condition,
        /// When the document expires.
        expiry: Expiry,
    },
    /// Changes when the document under `key` expires, and leaves its version.
    Touch {
        /// The index.
        index: IndexId,
        /// The key.
        key: Key,
        /// The version that must be there; no other, for its bytes are stored once more.
        version: Version,
        /// The bytes that were read under that version.
        document: Bytes,
        /// When the document expires.
        expiry: Expiry,
    },
    /// Removes the document under `key`, of any version unless one is named.
    Remove {
        /// The index.
        index: IndexId,
        /// The key.
        key: Key,
        /// The version that must be there.
        version: Option<Version>,
    },
}

/// What a shard owns and who it is. An assignment replaces the one before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The cluster's id; fixed by the first assignment.
    pub cluster: String,
    /// The shard's name; fixed by the first assignment.
    pub name: String,
    /// The label of the method by which keys become positions; fixed by the first assignment.
    pub hash_method: String,
    /// The range map's epoch; never goes back.
    pub epoch: u64,
    /// What the map and the catalogue of that epoch came from, as a hash of their history: one
    /// epoch has one. Of one epoch, another is refused.
    pub lineage: u64,
    /// The half-open ranges `(start, end)` of positions owned, in ring order.
    pub ranges: Vec<(u32, u32)>,
    /// The limit on the bytes of keys and documents. When more is used and the policy allows, the
    /// shard evicts in the background until it is met.
    pub limit: u64,
    /// What becomes of a write for which there is no room, in indexes without a policy of their own.
    #[serde(default)]
    pub policy: Policy,
}

/// A part of the ring that the shard is taking over from another one, before it owns it. Its
/// documents are kept, and seen by nobody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incoming {
    /// Names the move.
    pub id: String,
    /// The half-open ranges `(start, end)` of positions, in ring order.
    pub ranges: Vec<(u32, u32)>,
    /// How far whoever brings the documents is: recorded with each [`Import`], and of no meaning here.
    #[serde(with = "serde_bytes")]
    pub note: Vec<u8>,
}

/// What became of a key on another shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Imported {
    /// A document was stored.
    Put {
        /// The index.
        index: IndexId,
        /// The key.
        key: Key,
        /// The document's version there, which it keeps.
        version: Version,
        /// When it expires, in milliseconds since 1970; 0 for never.
        expires_at: u64,
        /// Its bytes.
        document: Bytes,
    },
    /// The document was removed.
    Removed {
        /// The index.
        index: IndexId,
        /// The key.
        key: Key,
        /// The LSN of the removal there: a document with a later version is another one.
        version: Version,
    },
}

impl Imported {
    /// The index and the key.
    pub(crate) fn place(&self) -> (IndexId, &Key) {
        match self {
            Self::Put { index, key, .. } | Self::Removed { index, key, .. } => (*index, key),
        }
    }

    pub(crate) fn version(&self) -> Version {
        match self {
            Self::Put { version, .. } | Self::Removed { version, .. } => *version,
        }
    }
}

/// The keys of an index that come after `after` and not after `until`, within a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The index.
    pub index: IndexId,
    /// The half-open range of positions.
    pub range: (u32, u32),
    /// The key after which it begins, if not with the range.
    pub after: Option<Key>,
    /// The last key, if it does not end with the range.
    pub until: Option<Key>,
}

impl Span {
    pub(crate) fn contains(&self, index: IndexId, key: &Key) -> bool {
        let order = |other: &Key| (key.position, &key.bytes).cmp(&(other.position, &other.bytes));
        index == self.index
            && (self.range.0..self.range.1).contains(&key.position)
            && self.after.as_ref().is_none_or(|after| order(after).is_gt())
            && self.until.as_ref().is_none_or(|until| order(until).is_le())
    }
}

/// Documents of another shard, for ranges that are being taken over.
#[derive(Clone, Debug)]
pub struct Import {
    /// Of the move.
    pub id: String,
    /// What to store and to remove, each where nothing later is there.
    pub documents: Vec<Imported>,
    /// What else is there of these keys goes: the documents are all that the other shard has of them.
    pub whole: Option<Span>,
    /// The LSN of the other shard as of which this is. The shard's own LSNs go beyond it: a key that was
    /// removed there must not get a version that it had.
    pub as_of: Version,
    /// Recorded with them, see [`Incoming::note`].
    pub note: Vec<u8>,
}

/// An operation for the sequencer. Commands are executed one after the other, in the order in
/// which they were submitted.
#[derive(Clone, Debug)]
pub enum Command {
    /// Changes documents.
    Mutate {
        /// The changes, executed in their order.
        mutations: Vec<Mutation>,
        /// All or nothing, also after a crash; otherwise each stands for itself.
        atomic: bool,
    },
    /// Creates an index; done already if it exists with the same id.
    CreateIndex {
        /// Its id.
        id: IndexId,
        /// Its name.
        name: String,
        /// Its limits and times to live.
        settings: IndexSettings,
    },
    /// Changes the settings of an index. When it has more than the new limits allow, the policy
    /// decides: refused with `IndexFull`, or done when enough is evicted.
    SetIndex {
        /// Its id.
        id: IndexId,
        /// Its new settings.
        settings: IndexSettings,
        /// Takes the limits as they are: the shard evicts in the background until they are met, or
        /// refuses writes.
        force: bool,
    },
    /// Drops an index and its documents; done already if there is none of that id.
    DropIndex {
        /// Its id.
        id: IndexId,
    },
    /// Takes an assignment; done already if it is the one held.
    Assign(Assignment),
    /// Refuses mutations until released; survives restarts.
    Lock {
        /// Who locks.
        owner: String,
    },
    /// Ends a lock of the same owner; done already if there is none.
    Release {
        /// Who locked.
        owner: String,
    },
    /// Begins to take over ranges that the shard does not own; done already if it does so for the
    /// same move.
    Receive {
        /// Names the move.
        id: String,
        /// The ranges.
        ranges: Vec<(u32, u32)>,
    },
    /// Ends that before the ranges are owned, and removes what came; done already if there is none of
    /// that name.
    StopReceiving {
        /// The move.
        id: String,
    },
    /// Refuses changes in owned ranges for some time, in memory only: they are about to be given up.
    /// Answered with the LSN after which nothing changes there. A second one replaces the first.
    Freeze {
        /// Names the move.
        id: String,
        /// The ranges.
        ranges: Vec<(u32, u32)>,
        /// For how long at most.
        at_most: Duration,
    },
    /// Ends that; done already if there is none of that name.
    Thaw {
        /// The move.
        id: String,
    },
    /// Done if what was frozen for a move is so still, and was all the time.
    CheckFrozen {
        /// The move.
        id: String,
        /// The LSN that the freeze was answered with.
        frozen_at: Version,
    },
    /// Takes an assignment without the ranges that are frozen for a move, if they still are: so nothing
    /// can have changed in them since. Done already if it is the one held.
    GiveUp {
        /// The assignment.
        assignment: Assignment,
        /// The move.
        id: String,
        /// The LSN that the freeze was answered with: another one may be of later.
        frozen_at: Version,
    },
    /// Sets the limit on bytes. When more is used, the policy decides: refused with
    /// `QuotaExceeded`, or done when enough is evicted.
    SetLimit {
        /// The new limit.
        limit: u64,
        /// The new policy, where it is to change.
        policy: Option<Policy>,
    },
}

/// What became of a command that was not refused as a whole.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// One outcome for each mutation.
    Mutated(Vec<MutationOutcome>),
    /// Done, durably.
    Done,
    /// Frozen: nothing changes after this LSN.
    Frozen(Version),
}

/// What became of a mutation.
#[derive(Clone, Debug, PartialEq)]
pub enum MutationOutcome {
    /// Stored, with the document's new version.
    Written(Version),
    /// Touched: the document's version, and when it expires, in milliseconds since 1970; 0 for
    /// never.
    Touched(Version, u64),
    /// Removed; the LSN of the removal.
    Removed(Version),
    /// Nothing to remove or to touch.
    Missing,
    /// The condition does not hold; the version that is there.
    ConditionFailed(Option<Version>),
    /// Refused.
    Refused(Error),
    /// Not done because another mutation of the atomic batch was not.
    Abandoned,
}

/// A stored document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its version.
    pub version: Version,
    /// When it expires, in milliseconds since 1970; 0 for never.
    pub expires_at: u64,
    /// Its bytes, as they were written.
    pub bytes: Bytes,
}

/// Which documents a page of a scan holds.
#[derive(Clone, Debug)]
pub struct Scan {
    /// The index.
    pub index: IndexId,
    /// The half-open range of positions; the shard must own what is left of it after `after`.
    pub range: (u32, u32),
    /// The key after which the page begins.
    pub after: Option<Key>,
    /// The most documents in the page.
    pub max_documents: usize,
    /// The bytes of keys and documents after which the page ends; it may be over by one document.
    pub max_bytes: usize,
    /// Leaves the documents' bytes out.
    pub keys_only: bool,
}

/// A page of a scan, ordered by position and then by the key's bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The keys and documents; the bytes are empty where only keys were asked for.
    pub items: Vec<(Key, Document)>,
    /// Whether there may be more after the last item.
    pub more: bool,
}

/// What a compaction did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// The number of the segment that was deleted.
    pub segment: u32,
    /// Its length.
    pub bytes: u64,
    /// How much of it was appended once more.
    pub moved: u64,
}

/// What is stored, exactly: equal to a recount at every LSN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// How many documents there are.
    pub documents: u64,
    /// The bytes of their keys and documents.
    pub used: u64,
    /// Documents by fifths of the owned ranges, in ring order.
    pub distribution: [u64; 5],
    /// What happened, dropped indexes included as far as [`Counts`] are of ever.
    pub counts: Counts,
    /// Of each index, by name.
    pub indexes: Vec<IndexStat>,
    /// Who holds the lock.
    pub locked_by: Option<String>,
    /// What is being taken over from another shard.
    pub incoming: Option<Incoming>,
    /// What is known to be damaged of the log, if anything: a segment whose space does not come back.
    pub damaged: Option<String>,
    /// Why the writer stopped, if it did.
    pub poisoned: Option<String>,
    /// Why writes are refused for want of space, if they are.
    pub disk_full: Option<String>,
    /// Why the last checkpoint failed, if it did; it is tried again.
    pub checkpoint_error: Option<String>,
    /// The last LSN that is durable.
    pub durable_lsn: u64,
    /// The LSN up to which the index on disk holds everything.
    pub checkpoint_lsn: u64,
    /// The documents that are remembered in memory for evictions and times to live.
    pub tracked_documents: u64,
    /// The bytes that takes.
    pub tracked_bytes: u64,
    /// Segments of the log.
    pub segments: u64,
    /// Bytes that the log's segments take.
    pub log_bytes: u64,
}

/// What is stored in an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexStat {
    /// Its id.
    pub id: IndexId,
    /// Its name.
    pub name: String,
    /// How many documents it has, those that were given up and are not removed yet and those that are
    /// being taken over as well.
    pub documents: u64,
    /// The bytes of their keys and documents.
    pub used: u64,
    /// Its settings.
    pub settings: IndexSettings,
    /// What happened.
    pub counts: Counts,
}
