//! How long something has not moved, as seen from time to time.

use std::time::Duration;

use tokio::time::Instant;

/// Watches a counter at ticks, so that the moving itself costs no look at the clock.
#[derive(Default)]
pub(crate) struct Stall {
    seen: Option<(u64, Instant)>,
}

impl Stall {
    /// The time since `mark` was first seen as it is; `None` is for "nothing to wait for".
    pub(crate) fn observe(&mut self, mark: Option<u64>, now: Instant) -> Duration {
        match (mark, self.seen) {
            (None, _) => {
                self.seen = None;
                Duration::ZERO
            }
            (Some(mark), Some((seen, since))) if mark == seen => now - since,
            (Some(mark), _) => {
                self.seen = Some((mark, now));
                Duration::ZERO
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_counts_only_while_the_mark_stands_still() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut stall = Stall::default();
        assert_eq!(stall.observe(Some(1), at(0)), Duration::ZERO);
        assert_eq!(stall.observe(Some(1), at(2)), Duration::from_secs(2));
        assert_eq!(stall.observe(Some(2), at(3)), Duration::ZERO);
        assert_eq!(stall.observe(Some(2), at(4)), Duration::from_secs(1));
        assert_eq!(stall.observe(None, at(5)), Duration::ZERO);
        assert_eq!(stall.observe(Some(2), at(6)), Duration::ZERO);
    }
}
