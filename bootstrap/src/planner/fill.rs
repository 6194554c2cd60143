//! What is stored where on the ring, and where a range is best cut.
//!
//! Fill is measured in buckets of the ring; inside a bucket documents are taken to be spread evenly.
//! Everything is counted up to a position and a range has the difference between its ends, so that
//! the parts of a range always add up to it.
//!
//! What is evened out between shards is *weight*: bytes, and very little for the width. Where nothing
//! is stored the width alone decides, with a handful of documents mostly the width, and from some
//! ten thousand bytes on the bytes.

use sherd_protocol::{RING_BUCKETS, RING_SIZE, Range, bucket_of, bucket_start};

/// The weight of a byte, where a position has 1: the whole ring weighs as much as 1,000 bytes.
const BYTE_WEIGHT: u128 = 10_000;

/// A bucket with more than this part of everything is cut inside: 2 %.
const HEAVY_PART: u128 = 50;

/// What would be left of a range below this part of everything is not left: 0.5 %.
const SLIVER_PART: u128 = 200;

/// Documents, and their bytes with those of their keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    /// How many documents.
    pub(crate) documents: u64,
    /// How many bytes.
    pub(crate) bytes: u64,
}

impl Amount {
    fn plus(self, other: Self) -> Self {
        Self {
            documents: self.documents.saturating_add(other.documents),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            documents: self.documents.saturating_sub(other.documents),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    /// The share that `part` has of `whole`, rounded down.
    fn share(self, part: u32, whole: u32) -> Self {
        let share = |of: u64| {
            let share = u128::from(of) * u128::from(part) / u128::from(whole.max(1));
            u64::try_from(share).unwrap_or(of)
        };
        Self { documents: share(self.documents), bytes: share(self.bytes) }
    }
}

/// What all shards together hold, by buckets of the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fill {
    /// What is below the start of each bucket, and of the end of the ring.
    below: Vec<Amount>,
}

/// The end of a range that a piece is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    High,
    Low,
}

impl Side {
    /// The piece on this side of a cut.
    fn piece(self, range: Range, at: u32) -> Range {
        match self {
            Self::High => Range { start: at, end: range.end },
            Self::Low => Range { start: range.start, end: at },
        }
    }
}

impl Fill {
    /// The fill of a ring with so much in each bucket.
    pub(crate) fn new(buckets: &[Amount; RING_BUCKETS]) -> Self {
        let mut below = vec![Amount::default()];
        let mut sum = Amount::default();
        for &bucket in buckets {
            sum = sum.plus(bucket);
            below.push(sum);
        }
        Self { below }
    }

    /// What a range holds.
    pub(super) fn amount(&self, range: Range) -> Amount {
        self.below(range.end).minus(self.below(range.start))
    }

    /// What a range weighs.
    pub(super) fn weight(&self, range: Range) -> u128 {
        self.weight_below(range.end).saturating_sub(self.weight_below(range.start))
    }

    /// What the whole ring weighs.
    pub(super) fn total_weight(&self) -> u128 {
        self.weight_below(RING_SIZE)
    }

    /// About `wanted` of a range, from one of its ends, with no more than `room` bytes; `None` if
    /// there is no such piece.
    ///
    /// It is the whole range if little more is there. Else it is cut where two buckets meet, unless
    /// one of them is heavy or that would be more than there is room for.
    pub(super) fn piece(&self, range: Range, side: Side, wanted: u128, room: u64) -> Option<Range> {
        let fits = |piece: &Range| piece.width() > 0 && self.amount(*piece).bytes <= room;
        let sliver = (self.total_weight() / SLIVER_PART).min(wanted / 4);
        if self.weight(range) <= wanted.saturating_add(sliver) && fits(&range) {
            return Some(range);
        }
        let exact = self.exact_cut(range, side, wanted, room);
        let off = |piece: &Range| self.weight(*piece).abs_diff(wanted);
        let on_buckets = self.cuts_near(range, exact).map(|at| side.piece(range, at));
        let nearest = on_buckets.into_iter().filter(fits).min_by_key(off);
        nearest.or_else(|| Some(side.piece(range, exact)).filter(fits))
    }

    /// The first position of the upper half of a range; `None` if it is too narrow to be halved.
    pub(super) fn middle(&self, range: Range) -> Option<u32> {
        let half = self.weight(range) / 2;
        let exact = self.exact_cut(range, Side::Low, half, u64::MAX);
        let inside = |at: &u32| range.start < *at && *at < range.end;
        let off = |at: &u32| self.weight(Side::Low.piece(range, *at)).abs_diff(half);
        let on_buckets = self.cuts_near(range, exact).into_iter().filter(inside).min_by_key(off);
        on_buckets.or_else(|| Some(exact.max(range.start + 1)).filter(inside))
    }

    /// Where a range is cut for the largest piece that neither weighs more than wanted nor has more
    /// bytes than there is room for.
    fn exact_cut(&self, range: Range, side: Side, wanted: u128, room: u64) -> u32 {
        let good = |at| {
            let piece = side.piece(range, at);
            self.weight(piece) <= wanted && self.amount(piece).bytes <= room
        };
        let at = match side {
            Side::High => first_position(good),
            Side::Low => first_position(|position| !good(position + 1)),
        };
        at.clamp(range.start, range.end)
    }

    /// The ends of the bucket around a cut, as far as the range goes; the cut itself if the bucket is
    /// heavy.
    fn cuts_near(&self, range: Range, at: u32) -> [u32; 2] {
        let bucket = bucket_of(at);
        let whole = Range { start: bucket_start(bucket), end: bucket_start(bucket + 1) };
        if self.weight(whole) > self.total_weight() / HEAVY_PART {
            return [at, at];
        }
        [whole.start, whole.end].map(|end| end.clamp(range.start, range.end))
    }

    /// What is below a position.
    fn below(&self, position: u32) -> Amount {
        let bucket = bucket_of(position);
        let up_to = |bucket: usize| self.below.get(bucket).or(self.below.last()).copied();
        let (start, end) = (bucket_start(bucket), bucket_start(bucket + 1));
        let before = up_to(bucket).unwrap_or_default();
        let inside = up_to(bucket + 1).unwrap_or_default().minus(before);
        before.plus(inside.share(position.saturating_sub(start), end - start))
    }

    fn weight_below(&self, position: u32) -> u128 {
        u128::from(self.below(position).bytes) * BYTE_WEIGHT + u128::from(position)
    }
}

/// The first position of which something holds that holds of all after it; the end of the ring if of
/// none.
fn first_position(holds: impl Fn(u32) -> bool) -> u32 {
    let (mut low, mut high) = (0, RING_SIZE);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(bytes: impl Fn(usize) -> u64) -> Fill {
        let amount = |bucket| Amount { documents: bytes(bucket) / 100, bytes: bytes(bucket) };
        Fill::new(&std::array::from_fn(amount))
    }

    #[test]
    fn parts_of_a_range_add_up_to_it() {
        let fill = fill(|bucket| bucket as u64 * 37);
        let cuts = [0, 1, 9_765, 9_766, 9_770, 4_000_001, 9_999_999, RING_SIZE];
        let parts = cuts.windows(2).map(|ends| Range { start: ends[0], end: ends[1] });
        let sum = parts.map(|part| fill.amount(part)).fold(Amount::default(), Amount::plus);
        assert_eq!(sum, fill.amount(Range::FULL));
        assert_eq!(sum.bytes, (0..1024).map(|bucket| bucket * 37).sum::<u64>());
    }

    #[test]
    fn a_part_of_a_bucket_has_its_share() {
        let fill = fill(|bucket| if bucket == 1 { 9_766 } else { 0 });
        let start = bucket_start(1);
        let amount = |from, to| fill.amount(Range { start: start + from, end: start + to }).bytes;
        assert_eq!((amount(0, 9_766), amount(0, 100), amount(100, 1_100)), (9_766, 100, 1_000));
    }

    #[test]
    fn pieces_end_where_buckets_meet() {
        let fill = fill(|_| 1_000);
        let byte = |bytes: u128| bytes * BYTE_WEIGHT;
        let range = Range { start: 5_000_000, end: RING_SIZE };
        let piece = |side, bytes, room| fill.piece(range, side, byte(bytes), room);
        let upper = |bucket| Some(Range { start: bucket_start(bucket), end: RING_SIZE });
        let lower = |bucket| Some(Range { start: 5_000_000, end: bucket_start(bucket) });
        assert_eq!(piece(Side::High, 10_200, u64::MAX), upper(1014));
        assert_eq!(piece(Side::Low, 9_800, u64::MAX), lower(522));
        // Not nothing, and not a little less than everything.
        assert_eq!(piece(Side::Low, 1, u64::MAX), lower(513));
        assert_eq!(piece(Side::Low, 510_000, u64::MAX), Some(range));
        // Where there is no room for a bucket, a part of one.
        assert_eq!(piece(Side::High, 1_900, 1_500), upper(1023));
        let narrow = piece(Side::High, 1_900, 500).unwrap();
        assert!((450..=500).contains(&fill.amount(narrow).bytes), "{narrow}");
        assert_eq!(piece(Side::High, 1_900, 0), None);
    }

    #[test]
    fn a_heavy_bucket_is_cut_inside() {
        let fill = fill(|bucket| if bucket == 700 { 1_000_000 } else { 0 });
        let piece = fill.piece(Range::FULL, Side::High, 250_000 * BYTE_WEIGHT, u64::MAX).unwrap();
        assert_eq!(bucket_of(piece.start), 700);
        assert!(fill.amount(piece).bytes.abs_diff(250_000) < 500, "{piece}");
        let middle = fill.middle(Range::FULL).unwrap();
        assert!(middle.abs_diff(bucket_start(700) + 9_765 / 2) < 10, "{middle}");
    }

    #[test]
    fn the_middle_is_inside() {
        let empty = fill(|_| 0);
        assert_eq!(empty.middle(Range::FULL), Some(5_000_000));
        assert_eq!(empty.middle(Range { start: 7, end: 9 }), Some(8));
        assert_eq!(empty.middle(Range { start: 7, end: 8 }), None);
        let in_a_bucket = empty.middle(Range { start: 100, end: 200 });
        assert_eq!(in_a_bucket, Some(150));
    }
}
