//! The index: where in the log each document lies. Derivable, so never precious.
//!
//! One ordered table for each index of the catalogue, from position and key to [`Entry`]. The
//! checkpointer alone writes to it. [`SledStore`] keeps it on disk, `ParkedIndex` in memory while a
//! full disk has no space for it, and [`MemoryStore`] is a twin for tests.

mod block;
mod handle;
mod key;
mod memory;
mod parked;
mod roomy;
mod sled;

pub(crate) use handle::Handle;
pub use key::IndexKey;
pub(crate) use key::LAST_KEY;
pub use memory::MemoryStore;
pub(crate) use parked::{ParkedIndex, copy};
pub(crate) use roomy::{Leftover, RoomyStore};
pub use sled::{SledStore, is_guarded};

use std::ops::Bound;
use std::sync::Arc;

use crate::command::{IndexId, Version};
use crate::effect::{self, ContentHash};
use crate::error::Result;
use crate::log::Lsn;
use crate::log::record::ALIGNMENT;

/// Where a document lies, and what is asked of it without reading it.
///
/// Encoded as varints (LEB128: seven bits a byte, the lowest first, the eighth bit set on all bytes
/// but the last), for sled keeps a multiple of what it is given: number of the segment, offset
/// of the record divided by 8, how many segments before it the first one is, bytes of key and
/// document, version, when it expires (milliseconds since 1970; 0 for never); then the content
/// hash, 16 bytes, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    /// No segment before this one holds a record of the key written since it was last absent: a
    /// removal is to be remembered while a segment from here to the last one is there.
    pub(crate) first_segment: u32,
    pub(crate) bytes: u32,
    pub(crate) version: Version,
    pub(crate) expires_at: u64,
    pub(crate) content_hash: ContentHash,
}

/// How many varints an encoded entry begins with.
const ENTRY_VARINTS: usize = 6;

/// What an entry takes at most: varints of four 32-bit and two 64-bit numbers, and the hash.
pub(crate) const MAX_ENTRY_BYTES: usize = 4 * 5 + 2 * 10 + 16;

impl Entry {
    /// An entry of no document that there is.
    #[cfg(test)]
    pub(crate) fn of_version(version: u64) -> Self {
        Self {
            segment: 1,
            offset: 64,
            first_segment: 1,
            bytes: 1,
            version,
            expires_at: 0,
            content_hash: 0.into(),
        }
    }

    /// Where the record lies: segment and offset.
    pub(crate) fn place(&self) -> (u32, u32) {
        (self.segment, self.offset)
    }

    /// The length of the document's record.
    pub(crate) fn record_bytes(&self) -> usize {
        effect::record_bytes(self.bytes as usize)
    }

    pub(crate) fn encode_into(&self, out: &mut Vec<u8>) {
        let before = self.segment.saturating_sub(self.first_segment);
        put_varint(out, u64::from(self.segment));
        put_varint(out, u64::from(self.offset) / ALIGNMENT as u64);
        put_varint(out, u64::from(before));
        put_varint(out, u64::from(self.bytes));
        put_varint(out, self.version);
        put_varint(out, self.expires_at);
        out.extend_from_slice(&u128::from(self.content_hash).to_le_bytes());
    }

    /// How long the encoded entry at the beginning is, without decoding it; `None` where it is cut.
    fn encoded_bytes(bytes: &[u8]) -> Option<usize> {
        let is_last = |byte: &u8| byte & 0x80 == 0;
        let mut ends = bytes.iter().enumerate().filter(|(_, byte)| is_last(byte));
        let (last, _) = ends.nth(ENTRY_VARINTS - 1)?;
        Some(last + 1 + size_of::<u128>())
    }

    /// Takes an encoded entry off the beginning.
    pub(crate) fn take(bytes: &mut &[u8]) -> Option<Self> {
        let segment = u32::try_from(take_varint(bytes)?).ok()?;
        let offset = take_varint(bytes)?.checked_mul(ALIGNMENT as u64)?;
        let before = u32::try_from(take_varint(bytes)?).ok()?;
        let entry = Self {
            segment,
            offset: u32::try_from(offset).ok()?,
            first_segment: segment.checked_sub(before)?,
            bytes: u32::try_from(take_varint(bytes)?).ok()?,
            version: take_varint(bytes)?,
            expires_at: take_varint(bytes)?,
            content_hash: u128::from_le_bytes(*bytes.first_chunk()?).into(),
        };
        *bytes = &bytes[size_of::<u128>()..];
        Some(entry)
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let low = u64::from(byte & 0x7f);
        // Of the tenth byte one bit is left.
        if low << shift >> shift != low {
            return None;
        }
        value |= low << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A key, and its new entry; `None` where it has none any more.
pub type Change<'a> = (&'a IndexKey, Option<Entry>);

/// Entries in ring order.
pub type Entries<'a> = Box<dyn Iterator<Item = Result<(IndexKey, Entry)>> + 'a>;

/// An open index store. Each function may fail with [`crate::Error::Index`]: the index is then to
/// be rebuilt, and the log is not concerned.
pub trait Index: Send + Sync {
    /// The entry of a key.
    fn get(&self, index: IndexId, key: &[u8]) -> Result<Option<Entry>>;

    /// The entries of some keys, which are in key order: those of neighbours come for little more than
    /// that of one.
    fn get_all(&self, index: IndexId, keys: &[&IndexKey]) -> Result<Vec<Option<Entry>>> {
        keys.iter().map(|key| self.get(index, key.as_bytes())).collect()
    }

    /// Makes changes, which are in key order. Only one thread may at a time; others read meanwhile.
    fn apply(&self, index: IndexId, changes: &mut dyn Iterator<Item = Change<'_>>) -> Result<()>;

    /// Makes a single change.
    fn put(&self, index: IndexId, key: &IndexKey, entry: Option<&Entry>) -> Result<()> {
        self.apply(index, &mut std::iter::once((key, entry.copied())))
    }

    /// All keys at a position with their entries.
    fn at(&self, index: IndexId, position: u32) -> Result<Vec<(IndexKey, Entry)>> {
        let (from, until) = (position.to_be_bytes(), (position + 1).to_be_bytes());
        self.range(index, Bound::Included(&from), &until)?.collect()
    }

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

    /// How much of the disk it takes, as far as that can be told.
    fn bytes_on_disk(&self) -> u64;
}

/// Where an index is kept between openings.
pub trait IndexStore: Send + Sync {
    /// Opens the index, empty if there was none.
    fn open(&self) -> Result<Arc<dyn Index>>;

    /// The same store, to be kept: an index that failed is opened again.
    fn share(&self) -> Arc<dyn IndexStore>;

    /// Removes what is left of an index that was to replace this one and did not come to its end.
    fn remove_unfinished(&self) -> Result<()> {
        Ok(())
    }

    /// Sets aside what is there, so that the next opening begins empty. The index must be closed.
    fn set_aside(&self) -> Result<()>;

    /// Deletes what is there, so that the next opening begins empty. The index must be closed.
    fn discard(&self) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_and_cut_ones_do_not() {
        let small = Entry {
            segment: 3,
            offset: 64,
            first_segment: 1,
            bytes: 4,
            version: 5,
            expires_at: 0,
            content_hash: 7.into(),
        };
        let large = Entry {
            segment: u32::MAX,
            offset: u32::MAX - 7,
            first_segment: 0,
            bytes: u32::MAX,
            version: u64::MAX,
            expires_at: u64::MAX,
            content_hash: u128::MAX.into(),
        };
        for entry in [small, large] {
            let mut bytes = Vec::new();
            entry.encode_into(&mut bytes);
            assert!(bytes.len() <= MAX_ENTRY_BYTES);
            for cut in 0..bytes.len() {
                assert_eq!(Entry::take(&mut &bytes[..cut]), None);
            }
            assert_eq!(Entry::encoded_bytes(&bytes), Some(bytes.len()));
            bytes.push(7);
            let mut rest = bytes.as_slice();
            assert_eq!((Entry::take(&mut rest), rest), (Some(entry), &[7][..]));
        }
        assert_eq!(Entry::take(&mut &[0xff; 40][..]), None, "a varint without an end");
    }
}
