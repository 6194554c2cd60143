//! Deadlines and the pauses between attempts.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::Error;

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
    /// When the attempt under way began.
    begun: Instant,
    /// Why the one before failed.
    before: Option<Error>,
}

impl Attempts {
    pub(crate) fn until(deadline: Deadline) -> Self {
        Self { deadline, failed: 0, pause: FIRST_PAUSE, begun: Instant::now(), before: None }
    }

    /// Pauses after a failure, before the next attempt.
    ///
    /// # Errors
    /// Why to give up, when the deadline leaves no time for it.
    pub(crate) async fn again(&mut self, error: Error) -> Result<(), Error> {
        self.failed += 1;
        let pause = jittered(self.pause);
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        if Instant::now() + pause >= self.deadline.at {
            return Err(self.why(error));
        }
        tokio::time::sleep(pause).await;
        self.go_on(error);
        Ok(())
    }

    /// Counts a failure after which the next attempt follows at once.
    ///
    /// # Errors
    /// Why to give up, past the deadline.
    pub(crate) fn at_once(&mut self, error: Error) -> Result<(), Error> {
        self.failed += 1;
        if Instant::now() >= self.deadline.at {
            return Err(self.why(error));
        }
        self.go_on(error);
        Ok(())
    }

    fn go_on(&mut self, error: Error) {
        self.begun = Instant::now();
        self.before = Some(error);
    }

    /// Why to give up. An attempt that the deadline cut off soon after it had begun says nothing of why the
    /// one before failed.
    fn why(&mut self, last: Error) -> Error {
        let is_cut_off = matches!(last, Error::Unanswered { .. })
            && Instant::now() >= self.deadline.at
            && self.begun.elapsed() < MAX_PAUSE;
        self.before.take().filter(|_| is_cut_off).unwrap_or(last)
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
        let failure = || Error::Unsettled { what: "a hand-over".to_owned() };
        while attempts.again(failure()).await.is_ok() {}
        assert!(started.elapsed() <= Duration::from_millis(250), "{:?}", started.elapsed());
        // 10 + 20 + 40 + 80 ms, each at least half of it.
        assert!((3..=6).contains(&attempts.failed), "{}", attempts.failed);
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_was_cut_off_does_not_hide_why_the_one_before_failed() {
        let reason = || Error::Unsettled { what: "a hand-over".to_owned() };
        let cut_off =
            || Error::Unanswered { node: "a".to_owned(), reason: "the deadline".to_owned() };
        let given_up = async |total, last: Error| {
            let mut attempts = Attempts::until(Deadline::after(total));
            attempts.again(reason()).await.unwrap();
            tokio::time::sleep_until(attempts.deadline.at).await;
            attempts.again(last).await.unwrap_err()
        };
        let (short, long) = (Duration::from_millis(100), Duration::from_secs(10));
        assert_eq!(given_up(short, cut_off()).await, reason());
        // It had its time.
        assert_eq!(given_up(long, cut_off()).await, cut_off());
        let other = Error::NotSent { node: "a".to_owned(), reason: "closed".to_owned() };
        assert_eq!(given_up(short, other.clone()).await, other);
    }
}
