//! How fast a backup reads from a shard: so that those who write hardly notice.

use std::time::Duration;

use tokio::time::sleep;

/// How much of a shard's time a backup takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// The share of the time in which something is asked of a shard, in percent: 1 to 100.
    pub(crate) share: u32,
    /// How many bytes a second are read from a shard at most.
    pub(crate) rate: Option<u64>,
}

impl Pace {
    /// Rests after something that took some time and brought so many bytes.
    pub(super) async fn rest(&self, took: Duration, bytes: u64) {
        let share = self.share.clamp(1, 100);
        let by_share = took * (100 - share) / share;
        let whole =
            self.rate.map(|rate| Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64));
        let by_rate = whole.unwrap_or_default().saturating_sub(took);
        let rest = by_share.max(by_rate);
        if !rest.is_zero() {
            sleep(rest).await;
        }
    }
}
