//! Sums over the documents of an index by buckets of the ring, kept up with each change.
//!
//! The ring has 1,024 buckets of equal width. What a part of it holds (documents, bytes, and a digest
//! of the content) is the sum over the buckets inside, and over the few documents of those that it
//! cuts. So two shards can compare a range without reading it.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use super::Share;

/// How many buckets the ring has.
pub(crate) const BUCKETS: usize = 1024;

/// The positions of the ring.
const RING_SIZE: u64 = 10_000_000;

/// What the documents of an index in a part of the ring come to: what two shards compare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// How many there are.
    pub documents: u64,
    /// The bytes of their keys and documents.
    pub bytes: u64,
    /// The sum of their content hashes, modulo 2^128: the same for the same documents in any order.
    pub digest: u128,
}

impl Sums {
    pub(crate) fn add(&mut self, share: Share) {
        *self += Self::from(share);
    }

    // Saturating, as the totals of an index are: the recount at opening finds a log that lies.
    fn subtract(&mut self, share: Share) {
        let Self { documents, bytes, digest } = Self::from(share);
        self.documents = self.documents.saturating_sub(documents);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.digest = self.digest.wrapping_sub(digest);
    }
}

impl From<Share> for Sums {
    fn from(share: Share) -> Self {
        Self { documents: 1, bytes: u64::from(share.bytes), digest: share.content_hash }
    }
}

impl std::ops::AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.documents = self.documents.saturating_add(other.documents);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.digest = self.digest.wrapping_add(other.digest);
    }
}

/// The sums of an index by buckets. A clone shares them until one of the two changes.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Buckets(Arc<[Sums; BUCKETS]>);

/// What indexes without documents share.
static EMPTY: LazyLock<Arc<[Sums; BUCKETS]>> =
    LazyLock::new(|| Arc::new([Sums::default(); BUCKETS]));

impl fmt::Debug for Buckets {
    /// Those that are not empty.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let filled = self.0.iter().enumerate().filter(|(_, sums)| **sums != Sums::default());
        f.debug_map().entries(filled).finish()
    }
}

impl Default for Buckets {
    fn default() -> Self {
        Self(Arc::clone(&EMPTY))
    }
}

impl Buckets {
    pub(crate) fn add(&mut self, position: u32, share: Share) {
        Arc::make_mut(&mut self.0)[bucket(position)].add(share);
    }

    pub(crate) fn subtract(&mut self, position: u32, share: Share) {
        Arc::make_mut(&mut self.0)[bucket(position)].subtract(share);
    }

    /// The sums over the buckets that lie wholly in `[start, end)`, and what of it is in others.
    pub(crate) fn sums(&self, start: u32, end: u32) -> (Sums, Vec<(u32, u32)>) {
        let whole = inside(start, end);
        let mut sums = Sums::default();
        if whole.is_empty() {
            let rest = if start < end { vec![(start, end)] } else { Vec::new() };
            return (sums, rest);
        }
        for bucket in &self.0[whole.clone()] {
            sums += *bucket;
        }
        let mut rest = vec![(start, first_of(whole.start)), (first_of(whole.end), end)];
        rest.retain(|(start, end)| start < end);
        (sums, rest)
    }

    /// All of them, in ring order.
    pub(crate) fn all(&self) -> &[Sums; BUCKETS] {
        &self.0
    }
}

/// The bucket of a position.
fn bucket(position: u32) -> usize {
    let bucket = u64::from(position) * BUCKETS as u64 / RING_SIZE;
    // No position is beyond the ring, but a log may lie.
    (bucket as usize).min(BUCKETS - 1)
}

/// The first position of a bucket.
pub(super) fn first_of(bucket: usize) -> u32 {
    (bucket as u64 * RING_SIZE).div_ceil(BUCKETS as u64) as u32
}

/// The buckets wholly inside `[start, end)`.
fn inside(start: u32, end: u32) -> Range<usize> {
    let at_or_after = |position: u32| {
        let bucket = u64::from(position) * BUCKETS as u64;
        (bucket.div_ceil(RING_SIZE) as usize).min(BUCKETS)
    };
    let from = at_or_after(start);
    // The one that `end` is in is cut, unless it begins there; behind the ring there is none.
    let until = if u64::from(end) >= RING_SIZE { BUCKETS } else { bucket(end) };
    from..until.max(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(bytes: u32) -> Share {
        Share { bytes, content_hash: u128::MAX - u128::from(bytes), version: 1 }
    }

    #[test]
    fn buckets_and_their_first_positions_agree() {
        for number in 0..BUCKETS {
            assert_eq!(bucket(first_of(number)), number);
            if number > 0 {
                assert_eq!(bucket(first_of(number) - 1), number - 1);
            }
        }
        assert_eq!(first_of(BUCKETS), 10_000_000);
    }

    /// Of every range, whole buckets and rest together are the range, and the rest is small.
    #[test]
    fn a_range_is_its_whole_buckets_and_two_pieces_at_most() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut buckets = Buckets::default();
        let positions: Vec<u32> = (0..5_000).map(|_| random.u32(..10_000_000)).collect();
        for &position in &positions {
            buckets.add(position, share(position % 100));
        }
        for _ in 0..2_000 {
            let ends = [random.u32(..=10_000_000), random.u32(..=10_000_000)];
            let near = ends[0].saturating_add(random.u32(..30_000)).min(10_000_000);
            for end in [ends[1], near] {
                let (start, end) = (ends[0].min(end), ends[0].max(end));
                let (mut sums, rest) = buckets.sums(start, end);
                assert!(rest.iter().all(|(from, until)| until - from < 2 * 9_766), "{rest:?}");
                let within =
                    |&&position: &&u32, from: u32, until: u32| (from..until).contains(&position);
                for (from, until) in rest {
                    for position in positions.iter().filter(|it| within(it, from, until)) {
                        sums.add(share(position % 100));
                    }
                }
                let mut expected = Sums::default();
                for position in positions.iter().filter(|it| within(it, start, end)) {
                    expected.add(share(position % 100));
                }
                assert_eq!(sums, expected, "[{start}, {end})");
            }
        }
    }

    #[test]
    fn what_is_taken_away_was_never_there() {
        let mut buckets = Buckets::default();
        buckets.add(77, share(9));
        buckets.add(9_999_999, share(5));
        buckets.subtract(77, share(9));
        assert_eq!(buckets.sums(0, 9_000_000), (Sums::default(), vec![(8_994_141, 9_000_000)]));
        assert_eq!(buckets.sums(9_000_000, 10_000_000).0, Sums::from(share(5)));
    }
}
