//! Digests: whether two sets of documents are the same.

use std::fmt;
use std::iter::Sum;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_bytes::ByteArray;

/// The sum of the content hashes of documents, modulo 2^128 (`docs/format.md`): the same for the same
/// indexes, keys, documents and times of expiry, wherever and in whichever order they lie.
///
/// On the wire 16 bytes, big-endian; printed as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest(pub u128);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Digest {
    /// The digest of both together.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    /// The digest of what is left where `other` is taken away.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0.wrapping_sub(other.0))
    }
}

impl Sum for Digest {
    fn sum<I: Iterator<Item = Self>>(digests: I) -> Self {
        digests.fold(Self::default(), Self::with)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0.to_be_bytes())
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = ByteArray::<16>::deserialize(deserializer)?;
        Ok(Self(u128::from_be_bytes(bytes.into_array())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_go_round_and_the_order_does_not_matter() {
        let digests = [u128::MAX, 7, 1 << 127, 1 << 127].map(Digest);
        let sum: Digest = digests.into_iter().sum();
        assert_eq!(sum, digests.into_iter().rev().sum());
        assert_eq!(sum.to_string(), "00000000000000000000000000000006");
        assert_eq!(sum.without(digests[1]).with(digests[1]), sum);
        assert_eq!(Digest(1).without(Digest(2)), Digest(u128::MAX));
    }
}
