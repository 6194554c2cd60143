//! Keys of the index.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::command::Key;

pub(super) const POSITION_BYTES: usize = 4;

/// The first bytes, by which two are told apart: with a position and 11 bytes of the key, few that are met in a
/// look-up begin alike.
const HEAD_BYTES: usize = 15;

/// What lies in the key itself, position included. With a byte for the length and one for which of the two it is,
/// that is as much as a head and a pointer take.
const SHORT_BYTES: usize = 30;

/// After every key.
pub(crate) const LAST_KEY: [u8; 8] = [0xff; 8];

/// A key of the index: the position, big-endian, then the key's bytes. Byte order is ring order,
/// so a range of the ring is one contiguous scan.
///
/// Most keys are short and lie in here: to be looked up, cloned and dropped they need no other memory, which in a tree of
/// many would be somewhere else for each.
#[derive(Clone, Debug)]
pub struct IndexKey(Bytes);

#[derive(Clone, Debug)]
enum Bytes {
    /// Zeros behind what it is long.
    Short { length: u8, bytes: [u8; SHORT_BYTES] },
    /// Shared by clones. Its beginning lies here as well, and tells most of them apart.
    Long { head: [u8; HEAD_BYTES], bytes: Arc<[u8]> },
}

const _: () = assert!(size_of::<IndexKey>() == 32);

/// The beginning of a key as a number, zeros behind shorter ones: where two differ, they are ordered as the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Head([u64; 2]);

impl Head {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut head = [0; HEAD_BYTES];
        let count = bytes.len().min(HEAD_BYTES);
        head[..count].copy_from_slice(&bytes[..count]);
        Self::of_array(&head)
    }

    /// Not one `u128`, for that is aligned to 16 bytes, and so would be all that holds it.
    fn of_array(head: &[u8; HEAD_BYTES]) -> Self {
        let mut bytes = [0; size_of::<u128>()];
        bytes[..HEAD_BYTES].copy_from_slice(head);
        let head = u128::from_be_bytes(bytes);
        Self([(head >> 64) as u64, head as u64])
    }
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

    fn of_parts(first: &[u8], second: &[u8]) -> Self {
        let length = first.len() + second.len();
        Self(if length <= SHORT_BYTES {
            let mut bytes = [0; SHORT_BYTES];
            bytes[..first.len()].copy_from_slice(first);
            bytes[first.len()..length].copy_from_slice(second);
            Bytes::Short { length: length as u8, bytes }
        } else {
            let bytes: Arc<[u8]> = [first, second].concat().into();
            let mut head = [0; HEAD_BYTES];
            head.copy_from_slice(&bytes[..HEAD_BYTES]);
            Bytes::Long { head, bytes }
        })
    }

    pub(super) fn head(&self) -> Head {
        match &self.0 {
            Bytes::Short { bytes, .. } => {
                let mut head = [0; HEAD_BYTES];
                head.copy_from_slice(&bytes[..HEAD_BYTES]);
                Head::of_array(&head)
            }
            Bytes::Long { head, .. } => Head::of_array(head),
        }
    }

    pub(crate) fn position(&self) -> u32 {
        (self.head().0[0] >> 32) as u32
    }

    /// The key without its position.
    pub(crate) fn key(&self) -> &[u8] {
        self.as_bytes().get(POSITION_BYTES..).unwrap_or_default()
    }

    /// The position, big-endian, and the key.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Short { length, bytes } => bytes.get(..usize::from(*length)).unwrap_or_default(),
            Bytes::Long { bytes, .. } => bytes,
        }
    }
}

impl From<&Key> for IndexKey {
    fn from(key: &Key) -> Self {
        Self::new(key.position, &key.bytes)
    }
}

impl Ord for IndexKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.head().cmp(&other.head()).then_with(|| self.as_bytes().cmp(other.as_bytes()))
    }
}

impl PartialOrd for IndexKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for IndexKey {
    fn eq(&self, other: &Self) -> bool {
        self.head() == other.head() && self.as_bytes() == other.as_bytes()
    }
}

impl Eq for IndexKey {}

/// Order, equality and hash are those of the bytes.
impl Borrow<[u8]> for IndexKey {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl Hash for IndexKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_by_position_and_then_by_key() {
        // Of 30 bytes with the position, and longer ones.
        let long = [[b'b'; 40], [0; 40]].concat();
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
            (257, &long[..25]),
            (257, &long[..26]),
            (257, &long[..27]),
            (257, &long[..40]),
            (257, &long[..41]),
            (257, &long),
            (257, b"c"),
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
