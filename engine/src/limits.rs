//! What bounds a shard and its indexes: limits, what happens at them, and times to live.

use serde::{Deserialize, Serialize};

/// What becomes of a write for which there is no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// It is refused.
    #[default]
    Reject,
    /// The documents that were not read or written for the longest time are evicted.
    Lru,
    /// The documents that are read and written least often are evicted.
    Lfu,
    /// The documents whose last write is the longest ago are evicted.
    Fifo,
    /// Documents are evicted at random.
    Random,
    /// The documents that expire soonest are evicted; those that never expire are not.
    Ttl,
}

impl Policy {
    /// Whether documents may be evicted that never expire.
    pub(crate) fn evicts_all(self) -> bool {
        !matches!(self, Self::Reject | Self::Ttl)
    }
}

/// The settings of an index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IndexSettings {
    /// The limit on the bytes of its keys and documents in this shard.
    pub max_bytes: Option<u64>,
    /// The limit on the number of its documents in this shard.
    pub max_documents: Option<u64>,
    /// What becomes of a write for which there is no room; `None` for what the shard does.
    pub policy: Option<Policy>,
    /// How long a document lives that is written with [`Expiry::Default`], in milliseconds; `None`
    /// for ever.
    pub ttl: Option<u64>,
}

/// When a document expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiry {
    /// After the time to live of its index.
    #[default]
    Default,
    /// Never.
    Never,
    /// So many milliseconds from now.
    After(u64),
    /// At that time, in milliseconds since 1970.
    At(u64),
}

/// What happened in an index or a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
