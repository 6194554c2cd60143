//! How fast a backup reads from a shard: so that those who write hardly notice.

use std::iter;
use std::time::Duration;

/// How long nothing is asked of a shard at most: well below the minute for which it holds a cut.
const LONGEST: Duration = Duration::from_secs(20);

/// How much of a shard's time a backup takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// The share of the time in which something is asked of a shard, in percent: 1 to 100.
    pub(crate) share: u32,
    /// How many bytes a second are read from a shard at most.
    pub(crate) rate: Option<u64>,
}

impl Pace {
    /// How long to rest after something that took some time and brought so many bytes: one slice after the
    /// other, between which the cut has to be asked for something, so that it is held on.
    pub(super) fn rest(
        &self,
        took: Duration,
        bytes: u64,
    ) -> impl Iterator<Item = Duration> + use<> {
        let share = self.share.clamp(1, 100);
        let by_share = took * (100 - share) / share;
        let whole =
            self.rate.map(|rate| Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64));
        let by_rate = whole.unwrap_or_default().saturating_sub(took);
        let mut rest = by_share.max(by_rate);
        iter::from_fn(move || {
            let slice = rest.min(LONGEST);
            rest -= slice;
            (!slice.is_zero()).then_some(slice)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At these paces what is read in one go is followed by a rest of more than a minute.
    #[test]
    fn no_rest_is_so_long_that_a_cut_lapses() {
        const HELD: Duration = Duration::from_secs(60);
        let second = Duration::from_secs(1);
        let by_rate = Pace { share: 100, rate: Some(1000) };
        let by_share = Pace { share: 1, rate: None };
        for (pace, whole) in [(by_rate, Duration::from_secs(261)), (by_share, 99 * second)] {
            let slices: Vec<_> = pace.rest(second, 262_000).collect();
            assert_eq!(slices.iter().sum::<Duration>(), whole);
            assert!(slices.iter().all(|slice| *slice * 2 < HELD), "{slices:?}");
        }
        assert_eq!(Pace { share: 100, rate: None }.rest(second, 262_000).count(), 0);
        assert_eq!(Pace { share: 50, rate: None }.rest(second, 262_000).count(), 1);
    }
}
