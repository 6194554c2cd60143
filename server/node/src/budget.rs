//! A number of bytes that connections share, and wait for when it is used up.
//!
//! Whoever asks while anything is left gets all it asks for, so that a large request is never
//! starved by small ones; the budget is exceeded by one request at most. Taking and giving back
//! cost one atomic operation each while nobody waits.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// Bytes shared by all connections of a node.
pub(crate) struct Budget {
    limit: usize,
    used: AtomicUsize,
    /// Whether `waiters` has any, so that giving back need not lock.
    waiting: AtomicBool,
    /// The tasks to wake when something is given back, by connection.
    waiters: Mutex<HashMap<u64, Waker>>,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        let waiters = Mutex::default();
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
            waiting: AtomicBool::new(false),
            waiters,
        })
    }

    /// Whether nothing is left.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.used.load(SeqCst) >= self.limit
    }

    /// Bytes taken now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(SeqCst)
    }

    /// Takes `bytes`, or has the task of `connection` woken when it may try again.
    pub(crate) fn poll_take(
        self: &Arc<Self>,
        cx: &Context<'_>,
        connection: u64,
        bytes: usize,
    ) -> Poll<Charge> {
        let take = || {
            let taken = |used: usize| (used < self.limit).then(|| used.saturating_add(bytes));
            self.used.fetch_update(SeqCst, SeqCst, taken).is_ok()
        };
        let charge = |()| Charge { budget: Arc::clone(self), bytes };
        self.poll_until(cx, connection, take).map(charge)
    }

    /// Waits until anything is left, as [`Budget::poll_take`], without taking it.
    pub(crate) fn poll_left(&self, cx: &Context<'_>, connection: u64) -> Poll<()> {
        self.poll_until(cx, connection, || !self.is_exhausted())
    }

    fn poll_until(&self, cx: &Context<'_>, connection: u64, ready: impl Fn() -> bool) -> Poll<()> {
        if ready() {
            return Poll::Ready(());
        }
        let mut waiters = self.waiters.lock();
        waiters.insert(connection, cx.waker().clone());
        self.waiting.store(true, SeqCst);
        drop(waiters);
        // Whoever gave back in between has seen nobody waiting. This wait is then over already.
        if ready() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Takes `bytes` even where nothing is left.
    pub(crate) fn take_anyway(&self, bytes: usize) {
        self.used.fetch_add(bytes, SeqCst);
    }

    /// Gives `bytes` back.
    pub(crate) fn give(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.used.fetch_sub(bytes, SeqCst);
        if self.waiting.load(SeqCst) {
            let woken = {
                let mut waiters = self.waiters.lock();
                self.waiting.store(false, SeqCst);
                std::mem::take(&mut *waiters)
            };
            woken.into_values().for_each(Waker::wake);
        }
    }
}

/// Bytes taken from a budget; given back on drop.
pub(crate) struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.give(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::task::Wake;

    use super::*;

    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn who_waits_is_woken_when_something_is_given_back() {
        let count = Arc::new(Count(AtomicU32::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let cx = Context::from_waker(&waker);
        let budget = Budget::new(10);
        let Poll::Ready(first) = budget.poll_take(&cx, 1, 9) else { panic!("9 of 10") };
        let Poll::Ready(second) = budget.poll_take(&cx, 1, 100) else { panic!("one may go over") };
        assert!(budget.is_exhausted());
        assert!(budget.poll_take(&cx, 2, 1).is_pending());
        assert!(budget.poll_take(&cx, 2, 1).is_pending());
        drop(first);
        assert_eq!(count.0.load(SeqCst), 1, "one wake-up for one waiter");
        assert!(budget.poll_take(&cx, 2, 1).is_pending());
        drop(second);
        assert_eq!(count.0.load(SeqCst), 2);
        assert!(budget.poll_take(&cx, 2, 1).is_ready());
        assert_eq!(budget.used(), 0);
    }
}
