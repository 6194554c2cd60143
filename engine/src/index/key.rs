//! Keys of the index.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::command::Key;

pub(super) const POSITION_BYTES: usize = 4;

/// The bytes of a key that lie with it: with a position and 12 bytes of the key, few that are met in a look-up
/// begin alike.
const HEAD_BYTES: usize = size_of::<u128>();

/// After every key.
pub(crate) const LAST_KEY: [u8; 8] = [0xff; 8];

/// The first bytes of a key, zeros behind shorter ones, as two numbers: where these differ, they are ordered as
/// the bytes are. Not as one `u128`, for that is aligned to 16 bytes, and so would be all that holds a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Head(u64, u64);

impl Head {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut head = [0; HEAD_BYTES];
        let count = bytes.len().min(HEAD_BYTES);
        head[..count].copy_from_slice(&bytes[..count]);
        let head = u128::from_be_bytes(head);
        Self((head >> 64) as u64, head as u64)
    }
}

/// A key of the index: the position, big-endian, then the key's bytes. Byte order is ring order,
/// so a range of the ring is one contiguous scan.
///
/// A clone shares the bytes. The first of them lie with the key besides: they tell most keys apart,
/// so that a look-up in a tree of many needs none of the others', which may lie anywhere in memory.
#[derive(Clone, Debug)]
pub struct IndexKey {
    head: Head,
    bytes: Arc<[u8]>,
}

impl IndexKey {
    pub(crate) fn new(position: u32, key: &[u8]) -> Self {
        Self::of_parts(&position.to_be_bytes(), key)
    }

    /// Of bytes that an index kept; `None` where they are too short to be a key.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (bytes.len() > POSITION_BYTES).then(|| Self::of_parts(bytes, &[]))
    }

    /// A bound for look-ups, which need not be a whole key.
    pub(crate) fn bound(bytes: &[u8]) -> Self {
        Self::of_parts(bytes, &[])
    }

    fn of_parts(position: &[u8], key: &[u8]) -> Self {
        let bytes: Arc<[u8]> = if key.is_empty() {
            position.into()
        } else {
            position.iter().chain(key).copied().collect()
        };
        Self { head: Head::of(&bytes), bytes }
    }

    pub(crate) fn position(&self) -> u32 {
        (self.head.0 >> 32) as u32
    }

    /// The key without its position.
    pub(crate) fn key(&self) -> &[u8] {
        self.bytes.get(POSITION_BYTES..).unwrap_or_default()
    }

    /// The position, big-endian, and the key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl From<&Key> for IndexKey {
    fn from(key: &Key) -> Self {
        Self::new(key.position, &key.bytes)
    }
}

impl Ord for IndexKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.head.cmp(&other.head).then_with(|| self.bytes.cmp(&other.bytes))
    }
}

impl PartialOrd for IndexKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for IndexKey {
    fn eq(&self, other: &Self) -> bool {
        self.head == other.head && self.bytes == other.bytes
    }
}

impl Eq for IndexKey {}

/// Order, equality and hash are those of the bytes.
impl Borrow<[u8]> for IndexKey {
    fn borrow(&self) -> &[u8] {
        &self.bytes
    }
}

impl Hash for IndexKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_by_position_and_then_by_key() {
        let keys = [
            (0, &b"b"[..]),
            (255, b"a"),
            (256, b"a"),
            (256, b"a\0"),
            (256, b"a\0\0\0\0"),
            (256, b"a\0\0\0\x01"),
            (256, b"aa"),
            (256, b"aabbccdd"),
            (256, b"aabbccde"),
            (9_999_999, b""),
        ];
        let keys = keys.map(|(position, key)| IndexKey::new(position, key));
        for (i, key) in keys.iter().enumerate() {
            for (j, other) in keys.iter().enumerate() {
                assert_eq!(key.cmp(other), i.cmp(&j), "{key:?} {other:?}");
                assert_eq!(key.as_bytes().cmp(other.as_bytes()), i.cmp(&j));
                assert_eq!(key == other, i == j);
            }
        }
        assert_eq!((keys[2].position(), keys[2].key()), (256, &b"a"[..]));
        assert_eq!((keys[8].position(), keys[8].key()), (256, &b"aabbccde"[..]));
    }

    #[test]
    fn bytes_that_are_no_key_are_told() {
        assert_eq!(IndexKey::from_bytes(&[0, 0, 1, 0]), None);
        let key = IndexKey::from_bytes(&[0, 0, 1, 0, 7]);
        assert_eq!(key, Some(IndexKey::new(256, &[7])));
    }
}
