//! The index: where in the log each document lies. Derivable, so never precious.
//!
//! One ordered table for each index of the catalogue, from position and key to [`Entry`]. The
//! checkpointer alone writes to it. [`SledStore`] keeps it on disk; [`MemoryStore`] is its twin for
//! tests.

mod handle;
mod memory;
mod roomy;
mod sled;

pub(crate) use handle::Handle;
pub use memory::MemoryStore;
pub(crate) use roomy::RoomyStore;
pub use sled::SledStore;

use std::ops::Bound;
use std::sync::Arc;

use crate::command::{IndexId, Key, Version};
use crate::error::Result;
use crate::log::Lsn;
use crate::log::record::{u32_at, u64_at, u128_at};

/// Where a document lies, and what is asked of it without reading it.
///
/// | offset | bytes | field, little-endian |
/// | --- | --- | --- |
/// | 0 | 4 | number of the segment |
/// | 4 | 4 | offset of the record in it |
/// | 8 | 4 | length of the record |
/// | 12 | 4 | bytes of key and document |
/// | 16 | 8 | version |
/// | 24 | 8 | when it expires, in milliseconds since 1970; 0 for never |
/// | 32 | 16 | content hash |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    pub(crate) length: u32,
    pub(crate) bytes: u32,
    pub(crate) version: Version,
    pub(crate) expires_at: u64,
    pub(crate) content_hash: u128,
}

pub(crate) const ENTRY_BYTES: usize = 48;

impl Entry {
    pub(crate) fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[0..4].copy_from_slice(&self.segment.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.version.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.expires_at.to_le_bytes());
        bytes[32..48].copy_from_slice(&self.content_hash.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == ENTRY_BYTES).then(|| Self {
            segment: u32_at(bytes, 0),
            offset: u32_at(bytes, 4),
            length: u32_at(bytes, 8),
            bytes: u32_at(bytes, 12),
            version: u64_at(bytes, 16),
            expires_at: u64_at(bytes, 24),
            content_hash: u128_at(bytes, 32),
        })
    }
}

/// A key of the index: the position, big-endian, then the key's bytes. Byte order is ring order,
/// so a range of the ring is one contiguous scan.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IndexKey(Box<[u8]>);

const POSITION_BYTES: usize = 4;

impl IndexKey {
    pub(crate) fn new(position: u32, key: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(POSITION_BYTES + key.len());
        bytes.extend_from_slice(&position.to_be_bytes());
        bytes.extend_from_slice(key);
        Self(bytes.into())
    }

    /// Of bytes that an index kept; `None` where they are too short to be a key.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (bytes.len() > POSITION_BYTES).then(|| Self(bytes.into()))
    }

    pub(crate) fn position(&self) -> u32 {
        let mut position = [0; POSITION_BYTES];
        position.copy_from_slice(&self.0[..POSITION_BYTES]);
        u32::from_be_bytes(position)
    }

    /// The key without its position.
    pub(crate) fn key(&self) -> &[u8] {
        &self.0[POSITION_BYTES..]
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&Key> for IndexKey {
    fn from(key: &Key) -> Self {
        Self::new(key.position, &key.bytes)
    }
}

impl std::borrow::Borrow<[u8]> for IndexKey {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// Entries in ring order.
pub type Entries<'a> = Box<dyn Iterator<Item = Result<(IndexKey, Entry)>> + 'a>;

/// An open index store. Each function may fail with [`crate::Error::Index`]: the index is then to
/// be rebuilt, and the log is not concerned.
pub trait Index: Send + Sync {
    /// The entry of a key.
    fn get(&self, index: IndexId, key: &[u8]) -> Result<Option<Entry>>;

    /// Stores or, with `None`, removes the entry of a key.
    fn put(&self, index: IndexId, key: &[u8], entry: Option<&Entry>) -> Result<()>;

    /// The entries between two keys, the second excluded.
    fn range<'a>(&'a self, index: IndexId, from: Bound<&[u8]>, until: &[u8])
    -> Result<Entries<'a>>;

    /// Removes all entries of an index.
    fn drop_index(&self, index: IndexId) -> Result<()>;

    /// The indexes that have a table.
    fn indexes(&self) -> Result<Vec<IndexId>>;

    /// Makes all that was put durable, and remembers that it includes every effect up to
    /// `checkpoint`.
    fn flush(&self, checkpoint: Lsn) -> Result<()>;

    /// The LSN of the last flush that survived; 0 for none.
    fn checkpoint(&self) -> Result<Lsn>;
}

/// Where an index is kept between openings.
pub trait IndexStore: Send + Sync {
    /// Opens the index, empty if there was none.
    fn open(&self) -> Result<Arc<dyn Index>>;

    /// The same store, to be kept: an index that failed is opened again.
    fn share(&self) -> Arc<dyn IndexStore>;

    /// Sets aside what is there, so that the next opening begins empty. The index must be closed.
    fn set_aside(&self) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_and_other_bytes_do_not() {
        let entry = Entry {
            segment: 1,
            offset: 2,
            length: 3,
            bytes: 4,
            version: u64::MAX,
            expires_at: 6,
            content_hash: u128::MAX - 7,
        };
        assert_eq!(Entry::decode(&entry.encode()), Some(entry));
        assert_eq!(Entry::decode(&[0; 47]), None);
    }

    #[test]
    fn keys_order_by_position_and_then_by_key() {
        let keys = [(0, "b"), (255, "a"), (256, "a"), (256, "aa"), (9_999_999, "")];
        let keys = keys.map(|(position, key)| IndexKey::new(position, key.as_bytes()));
        assert!(keys.is_sorted());
        assert_eq!((keys[3].position(), keys[3].key()), (256, &b"aa"[..]));
    }
}
