//! Waiting for several futures of one task.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

/// Runs all `futures` at the same time and returns what they returned, in their order.
///
/// Polls each of them whenever one is woken: meant for tens of them, one a shard.
pub(crate) async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    enum Entry<F: Future> {
        Running(Pin<Box<F>>),
        Done(F::Output),
    }
    let mut entries: Vec<_> =
        futures.into_iter().map(|future| Some(Entry::Running(Box::pin(future)))).collect();
    poll_fn(|cx| {
        let mut running = false;
        for entry in &mut entries {
            if let Some(Entry::Running(future)) = entry {
                match future.as_mut().poll(cx) {
                    Poll::Ready(output) => *entry = Some(Entry::Done(output)),
                    Poll::Pending => running = true,
                }
            }
        }
        if running {
            return Poll::Pending;
        }
        let done = entries.iter_mut().filter_map(|entry| match entry.take() {
            Some(Entry::Done(output)) => Some(output),
            _ => None,
        });
        Poll::Ready(done.collect())
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn results_keep_their_order_whichever_ends_first() {
        let futures = [30u64, 10, 0, 20].map(|millis| async move {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            millis
        });
        assert_eq!(join_all(futures).await, [30, 10, 0, 20]);
        assert!(join_all(Vec::<std::future::Ready<()>>::new()).await.is_empty());
    }
}
