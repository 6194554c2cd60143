//! Deadlines and the pauses between attempts.

use std::time::Duration;

use tokio::time::Instant;

/// The pause after the first failure: a shard that comes back does so within milliseconds.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// The longest pause: a cluster that is back after minutes is noticed at once for people, and
/// thousands of clients that wait for it ask it little.
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// When a call is given up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    /// The moment.
    pub(crate) at: Instant,
    /// How long that was from the start of the call, for messages.
    pub(crate) total: Duration,
}

impl Deadline {
    pub(crate) fn after(total: Duration) -> Self {
        Self { at: Instant::now() + total, total }
    }

    /// The deadline of a step, which may not take all that is left.
    pub(crate) fn step(self, most: Duration) -> Instant {
        self.at.min(Instant::now() + most)
    }
}

/// Attempts of one call.
pub(crate) struct Attempts {
    deadline: Deadline,
    /// Attempts that failed.
    pub(crate) failed: u32,
    pause: Duration,
}

impl Attempts {
    pub(crate) fn until(deadline: Deadline) -> Self {
        Self { deadline, failed: 0, pause: FIRST_PAUSE }
    }

    /// Pauses before the next attempt; `false` when the deadline leaves no time for it.
    pub(crate) async fn again(&mut self) -> bool {
        self.failed += 1;
        let pause = jittered(self.pause);
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        if Instant::now() + pause >= self.deadline.at {
            return false;
        }
        tokio::time::sleep(pause).await;
        true
    }

    /// Counts a failure after which the next attempt follows at once; `false` past the deadline.
    pub(crate) fn at_once(&mut self) -> bool {
        self.failed += 1;
        Instant::now() < self.deadline.at
    }
}

/// Half of `pause` up to all of it, so that clients that failed together do not return together.
fn jittered(pause: Duration) -> Duration {
    pause / 2 + pause / 2 * fastrand::u32(..1024) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pauses_grow_to_a_cap_and_end_at_the_deadline() {
        for pause in [FIRST_PAUSE, MAX_PAUSE] {
            for _ in 0..100 {
                let jittered = jittered(pause);
                assert!(pause / 2 <= jittered && jittered <= pause, "{jittered:?}");
            }
        }
        let started = Instant::now();
        let mut attempts = Attempts::until(Deadline::after(Duration::from_millis(200)));
        while attempts.again().await {}
        assert!(started.elapsed() <= Duration::from_millis(250), "{:?}", started.elapsed());
        // 10 + 20 + 40 + 80 ms, each at least half of it.
        assert!((3..=6).contains(&attempts.failed), "{}", attempts.failed);
    }
}
