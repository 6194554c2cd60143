//! One attempt for many who want the same.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use tokio::sync::Mutex;

use crate::error::Error;

/// Runs one attempt at a time; whoever asked while one was running shares how it ended.
#[derive(Default)]
pub(crate) struct SingleFlight {
    /// Attempts that have ended.
    ended: AtomicU64,
    /// How the last one ended. Held while one runs: if its caller gives up, the next one runs its
    /// own.
    last: Mutex<Option<Error>>,
}

impl SingleFlight {
    /// Runs `attempt`, or waits for the one that runs.
    pub(crate) async fn run(
        &self,
        attempt: impl AsyncFnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let ended = self.ended.load(SeqCst);
        let mut last = self.last.lock().await;
        if self.ended.load(SeqCst) == ended {
            *last = attempt().await.err();
            self.ended.fetch_add(1, SeqCst);
        }
        last.clone().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn a_hundred_callers_share_one_attempt_and_its_failure() {
        let flight = Arc::new(SingleFlight::default());
        let runs = Arc::new(AtomicU64::new(0));
        let mut callers = JoinSet::new();
        for _ in 0..100 {
            let (flight, runs) = (Arc::clone(&flight), Arc::clone(&runs));
            callers.spawn(async move {
                let attempt = async || {
                    runs.fetch_add(1, SeqCst);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Err(Error::NoSuchShard { shard: "s".to_owned() })
                };
                flight.run(attempt).await
            });
        }
        while let Some(result) = callers.join_next().await {
            assert!(result.unwrap().is_err());
        }
        assert_eq!(runs.load(SeqCst), 1);
        assert_eq!(flight.run(async || Ok(())).await, Ok(()));
    }

    #[tokio::test]
    async fn an_attempt_whose_caller_gave_up_is_taken_over() {
        let flight = SingleFlight::default();
        let forever = flight.run(async || std::future::pending().await);
        assert!(tokio::time::timeout(Duration::from_millis(10), forever).await.is_err());
        assert_eq!(flight.run(async || Ok(())).await, Ok(()));
    }
}
