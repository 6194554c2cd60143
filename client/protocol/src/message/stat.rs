//! What a shard says of itself.

use serde::{Deserialize, Serialize};

use super::{MoveProgress, RangeSum};
use crate::limits::{IndexSettings, Policy};
use crate::range_map::Range;

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
    /// The range that is being taken over from another shard, if one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incoming: Option<MoveProgress>,
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

/// What the documents of the ranges that a shard owns come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    /// The epoch of the assignment that says so: of one epoch, a position has one owner.
    pub epoch: u64,
    /// The ranges owned, in ring order.
    pub ranges: Vec<Range>,
    /// What each index has there, in the order of their ids; those without any are left out.
    pub sums: Vec<RangeSum>,
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
