//! The time by which documents expire.
//!
//! It is the system's, but never goes back while the engine is open: a document that has expired
//! stays so. If the system's clock is set back by an hour, it stands still for that hour, and
//! documents expire late by as much; set ahead, they expire early by as much.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Tells milliseconds since 1970.
#[derive(Clone)]
pub struct Clock {
    /// Instead of the system's time.
    set: Option<Arc<AtomicU64>>,
    latest: Arc<AtomicU64>,
    made: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self { set: None, latest: Arc::default(), made: Instant::now() }
    }
}

impl Clock {
    /// A clock that another shows and sets, in milliseconds since 1970: for tests.
    pub fn settable(set: Arc<AtomicU64>) -> Self {
        Self { set: Some(set), ..Self::default() }
    }

    /// Now: never less than what it said before.
    pub(crate) fn now(&self) -> u64 {
        let now = match &self.set {
            Some(set) => set.load(Ordering::Relaxed),
            None => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            }
        };
        // Most often somebody has seen this millisecond already.
        let latest = self.latest.load(Ordering::Relaxed);
        if now <= latest { latest } else { self.latest.fetch_max(now, Ordering::Relaxed).max(now) }
    }

    /// How much time has passed since some moment, whatever is done to the system's clock.
    pub(crate) fn elapsed(&self) -> Duration {
        match &self.set {
            Some(_) => Duration::from_millis(self.now()),
            None => self.made.elapsed(),
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}

/// Whether what expires at a time, 0 for never, has done so by `now`.
pub(crate) fn has_expired(expires_at: u64, now: u64) -> bool {
    expires_at != 0 && expires_at <= now
}
