//! How much of the shards' time a move takes: what else they have to do goes on beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The share of the time in which a move imports, and in which the source reads for it, in percent, but
/// for its end.
const SHARE_PERCENT: u32 = 50;

/// The same of a shard that serves clients meanwhile, whose requests wait for those of the move.
const BUSY_SHARE_PERCENT: u32 = 10;

/// The longest pause between two imports.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// So many requests of clients a second make the target busy, and so many records a second in its log the
/// source.
const BUSY_REQUESTS: u64 = 100;

/// How often it is looked whether they are.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// By how much more of the time, where that is not enough to come nearer to the end of the source's log.
const SHARE_STEP_PERCENT: u32 = 5;

/// How often that is looked at: for long enough to see what the last step came to.
const NEARER_INTERVAL: Duration = Duration::from_secs(5);

/// What is left of the log is to come to an end within so long, as fast as it becomes less.
const END_WITHIN: Duration = Duration::from_secs(60);

/// With so many records or fewer left it does not matter how fast they become less: bootstrap has the move
/// completed already where four times as many are left.
const FEW_LEFT: u64 = 5_000;

/// How much of the shards' time a move takes.
pub(super) struct Pace {
    /// How many requests of clients the target had.
    served: Arc<AtomicU64>,
    target: Activity,
    source: Activity,
    /// How much more than their share, in percent of the time.
    more: u32,
    /// How much of the source's log was left when, and whether that becomes less fast enough.
    left: Option<(u64, Instant)>,
    is_nearer: bool,
}

/// Whether a shard serves others meanwhile, by what it counts.
struct Activity {
    /// What it had counted when.
    seen: Option<(u64, Instant)>,
    is_busy: bool,
}

impl Activity {
    fn since(seen: Option<(u64, Instant)>) -> Self {
        Self { seen, is_busy: true }
    }

    fn look(&mut self, count: u64) {
        let (before, at) = *self.seen.get_or_insert_with(|| (count, Instant::now()));
        let elapsed = at.elapsed();
        if elapsed >= LOOK_INTERVAL {
            let rate = count.saturating_sub(before) as f64 / elapsed.as_secs_f64();
            self.is_busy = rate > BUSY_REQUESTS as f64;
            self.seen = Some((count, Instant::now()));
        }
    }
}

impl Pace {
    pub(super) fn new(served: Arc<AtomicU64>) -> Self {
        let target = Activity::since(Some((served.load(Ordering::Relaxed), Instant::now())));
        let source = Activity::since(None);
        Self { served, target, source, more: 0, left: None, is_nearer: true }
    }

    /// The share of a shard's time, in percent.
    fn share(&self, of: &Activity) -> u32 {
        let share = if of.is_busy { BUSY_SHARE_PERCENT } else { SHARE_PERCENT };
        (share + self.more).min(100)
    }

    /// Looks how busy the target is.
    pub(super) fn look(&mut self) {
        self.target.look(self.served.load(Ordering::Relaxed));
    }

    /// Looks how busy the source is, by the last LSN of its log.
    pub(super) fn look_at_source(&mut self, last_lsn: u64) {
        self.source.look(last_lsn);
    }

    /// Looks how much of the log is left: where it grows as fast as it is read, a move would never end.
    pub(super) fn look_at_log(&mut self, left: u64) {
        // The first time there is nothing to compare with.
        let (before, at) = *self.left.get_or_insert_with(|| (left, Instant::now()));
        let elapsed = at.elapsed();
        if elapsed < NEARER_INTERVAL {
            return;
        }
        let read = before.saturating_sub(left) as f64 / elapsed.as_secs_f64();
        self.is_nearer = left <= FEW_LEFT || left as f64 <= read * END_WITHIN.as_secs_f64();
        if !self.is_nearer {
            self.more = (self.more + SHARE_STEP_PERCENT).min(100);
        }
        self.left = Some((left, Instant::now()));
    }

    /// All is brought once more: what was left of the log says nothing.
    pub(super) fn begin_anew(&mut self) {
        (self.left, self.is_nearer) = (None, true);
    }

    /// The pause behind an import, for which the source read for some time. A shard on which each takes so
    /// long that the longest is not enough is not helped by more.
    pub(super) fn pause(&self, importing: Duration, bringing: Duration) -> Duration {
        let behind = |work: Duration, share: u32| work * (100 - share) / share;
        let (target, source) = (self.share(&self.target), self.share(&self.source));
        behind(importing, target).max(behind(bringing, source)).min(LONGEST_PAUSE)
    }

    /// Why it takes so long, if that is because of the source's writers.
    pub(super) fn why(&self) -> Option<String> {
        let (left, _) = self.left?;
        let is_late = self.more + BUSY_SHARE_PERCENT >= 100 && !self.is_nearer;
        is_late.then(|| {
            format!(
                "the source is written to nearly as fast as its log can be read: {left} records are left"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_move_gives_way_to_clients() {
        let served = Arc::new(AtomicU64::new(0));
        let mut pace = Pace::new(Arc::clone(&served));
        let milliseconds = Duration::from_millis;
        let mut lsn = 1_000_000;
        pace.look_at_source(lsn);
        // Requests and records in a second, and the shares behind them of target and source.
        for (requests, records, shares) in [
            (0, 0, (50, 50)),
            (200, 0, (10, 50)),
            (0, 200, (50, 10)),
            (200, 200, (10, 10)),
            (50, 50, (50, 50)),
        ] {
            served.fetch_add(requests, Ordering::Relaxed);
            lsn += records;
            tokio::time::advance(LOOK_INTERVAL).await;
            pace.look();
            pace.look_at_source(lsn);
            let pauses = [(1, 0), (0, 1)];
            let pauses = pauses.map(|(importing, bringing)| {
                pace.pause(milliseconds(importing), milliseconds(bringing)).as_millis()
            });
            let pause = |share: u128| (100 - share) / share;
            assert_eq!(pauses, [pause(shares.0), pause(shares.1)], "{requests} {records}");
        }
        assert_eq!(pace.pause(milliseconds(3), milliseconds(2)), milliseconds(3), "the longer one");
        let hours = Duration::from_secs(10_000);
        assert_eq!(pace.pause(hours, hours), LONGEST_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_move_does_not_give_way_for_ever() {
        let mut pace = Pace::new(Arc::default());
        let more = async |pace: &mut Pace, left: u64| {
            tokio::time::advance(NEARER_INTERVAL).await;
            pace.look_at_log(left);
            pace.more
        };
        // 600,000 records are read within a minute, 10,000 a second.
        assert_eq!(more(&mut pace, 600_000).await, 0);
        assert_eq!(more(&mut pace, 545_000).await, 0);
        assert_eq!(more(&mut pace, 505_000).await, SHARE_STEP_PERCENT);
        assert_eq!(pace.why(), None);
        for left in 0..20 {
            more(&mut pace, 600_000 + left).await;
        }
        assert_eq!(pace.pause(LOOK_INTERVAL, LOOK_INTERVAL), Duration::ZERO);
        assert!(pace.why().is_some_and(|why| why.contains("600019 records")), "{:?}", pace.why());
        more(&mut pace, FEW_LEFT).await;
        assert_eq!(pace.why(), None);
    }
}
