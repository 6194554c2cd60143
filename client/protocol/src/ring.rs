//! The ring: how a key becomes a position.
//!
//! A position is an integer from 0 to 9,999,999. The hash is of the key alone, so that one key's
//! documents in several indexes live on the same shard. The method is chosen when a cluster is
//! made and fixed from then on: another method would put every key elsewhere.

use std::fmt;
use std::str::FromStr;

use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

/// The number of positions on the ring; ranges end at most here.
pub const RING_SIZE: u32 = 10_000_000;

/// The number of equal parts that the ring is measured in: what is told of a shard's fill, and where
/// ranges are cut. Enough for tens of shards, and few enough to travel with every answer.
pub const RING_BUCKETS: usize = 1024;

/// The bucket that holds a position; [`RING_BUCKETS`] for the end of the ring.
pub fn bucket_of(position: u32) -> usize {
    (u64::from(position) * RING_BUCKETS as u64 / u64::from(RING_SIZE)) as usize
}

/// The first position of a bucket; [`RING_SIZE`] for [`RING_BUCKETS`] and all above.
pub fn bucket_start(bucket: usize) -> u32 {
    let bucket = bucket.min(RING_BUCKETS) as u64;
    (bucket * u64::from(RING_SIZE)).div_ceil(RING_BUCKETS as u64) as u32
}

/// Where a key falls on the ring: 0 to 9,999,999.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Position(pub u32);

impl Position {
    /// The position as people see it in `hash_`: a fraction of the ring, from 0.0 below 1.0.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / f64::from(RING_SIZE)
    }
}

/// How a cluster turns keys into positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HashMethod {
    /// Pyshard's: the MD5 of the key as a big-endian 128-bit integer, rounded to a double, modulo
    /// 10,000,000. The rounding leaves 78,125 distinct positions, all multiples of 128: enough for
    /// tens of shards.
    #[default]
    Md5,
    /// `floor(XXH3_64(key) · 10,000,000 / 2^64)`, seed 0: all ten million positions.
    Xxh3,
}

impl HashMethod {
    /// The position of `key`.
    pub fn position(self, key: &str) -> Position {
        let position = match self {
            Self::Md5 => {
                let digest: [u8; 16] = Md5::digest(key.as_bytes()).into();
                remainder_as_double(u128::from_be_bytes(digest))
            }
            Self::Xxh3 => {
                let hash = XxHash3_64::oneshot(key.as_bytes());
                ((u128::from(hash) * u128::from(RING_SIZE)) >> 64) as u32
            }
        };
        Position(position)
    }
}

/// The powers of two modulo [`RING_SIZE`], as far as a digest is longer than the significand of a double.
const POWERS: [u64; 128 - f64::MANTISSA_DIGITS as usize + 1] = {
    let mut powers = [1; 128 - f64::MANTISSA_DIGITS as usize + 1];
    let mut i = 1;
    while i < powers.len() {
        powers[i] = powers[i - 1] * 2 % RING_SIZE as u64;
        i += 1;
    }
    powers
};

/// What Python has for `float(digest) % 10_000_000`: the digest rounded to the nearest double, of two as near to the
/// even one, and the remainder of that, which is exact. In integers, for a remainder of two doubles so far apart is
/// found bit by bit.
fn remainder_as_double(digest: u128) -> u32 {
    let bits = u128::BITS - digest.leading_zeros();
    let cut = bits.saturating_sub(f64::MANTISSA_DIGITS);
    let kept = digest >> cut;
    let (rest, half) = (digest - (kept << cut), (1 << cut) >> 1);
    let is_up = cut > 0 && (rest > half || rest == half && kept % 2 == 1);
    let rounded = kept as u64 + u64::from(is_up);
    let ring = u64::from(RING_SIZE);
    (rounded % ring * POWERS[cut as usize] % ring) as u32
}

impl fmt::Display for HashMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Md5 => "md5",
            Self::Xxh3 => "xxh3",
        })
    }
}

impl FromStr for HashMethod {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "md5" => Ok(Self::Md5),
            "xxh3" => Ok(Self::Xxh3),
            other => Err(format!("unknown hash method {other:?}: use \"md5\" or \"xxh3\"")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn md5_reproduces_the_transcript_of_pyshards_readme() {
        assert_eq!(HashMethod::Md5.position("test").fraction(), 0.1671936);
        assert_eq!(HashMethod::Md5.position("test1").fraction(), 0.8204544);
    }

    #[test]
    fn the_position_is_that_of_the_digest_as_a_double() {
        let as_double = |digest: u128| (digest as f64 % f64::from(RING_SIZE)) as u32;
        // Of digests with a few bits at either end and a run of ones between, many lie on or beside a tie.
        for (high, low) in (0..128).flat_map(|high| (0..=high).map(move |low| (high, low))) {
            let (one, run) = (1_u128 << high, (1_u128 << high) - (1_u128 << low));
            for digest in [one, run, one | 1 << low, one | run, one | 3 << low >> 1] {
                for digest in [digest.wrapping_sub(1), digest, digest.wrapping_add(1)] {
                    assert_eq!(remainder_as_double(digest), as_double(digest), "{digest:#034x}");
                }
            }
        }
        for i in 0..100_000_u32 {
            let digest = u128::from_be_bytes(Md5::digest(i.to_be_bytes()).into()) >> (i % 100);
            assert_eq!(remainder_as_double(digest), as_double(digest), "{digest:#034x}");
        }
        assert_eq!(remainder_as_double(0), 0);
        assert_eq!(remainder_as_double(u128::MAX), as_double(u128::MAX));
    }

    #[test]
    fn xxh3_uses_the_high_bits_of_the_hash() {
        assert_eq!(HashMethod::Xxh3.position("test"), Position(6_202_692));
        assert_eq!(HashMethod::Xxh3.position(""), Position(1_758_804));
    }

    #[test]
    fn buckets_meet_and_hold_their_positions() {
        assert_eq!((bucket_start(0), bucket_of(0)), (0, 0));
        for bucket in 0..RING_BUCKETS {
            let (start, end) = (bucket_start(bucket), bucket_start(bucket + 1));
            assert!((9765..=9766).contains(&(end - start)));
            assert_eq!((bucket_of(start), bucket_of(end - 1)), (bucket, bucket));
        }
        assert_eq!((bucket_start(RING_BUCKETS), bucket_of(RING_SIZE)), (RING_SIZE, RING_BUCKETS));
        assert_eq!(bucket_start(usize::MAX), RING_SIZE);
    }
}
