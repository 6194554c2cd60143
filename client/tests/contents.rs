//! What the whole cluster holds, while ranges move and when they do not.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Cluster, Scripted, client};
use parking_lot::Mutex;
use sherd_client::{Client, Contents, Digest, Error, Options};
use sherd_protocol::message::{Digests, Index, RangeSum, ShardAnswer, ShardOperation};
use sherd_protocol::ring::RING_SIZE;
use sherd_protocol::{IndexSettings, Range, WireError};

type Answers = Arc<Mutex<Vec<Result<Digests, WireError>>>>;

/// A shard that gives these answers, one after the other, and the last one for ever.
async fn answering(name: &str, answers: Vec<Result<Digests, WireError>>) -> (Scripted, Answers) {
    let answers = Arc::new(Mutex::new(answers));
    let left = Arc::clone(&answers);
    let script = move |operation: ShardOperation<'_>, responder: sherd_node::Responder| {
        assert_eq!(operation, ShardOperation::Digests);
        let mut answers = left.lock();
        let answer = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
        match answer {
            Ok(digests) => responder.send(&ShardAnswer::Digests(Box::new(digests))),
            Err(error) => responder.refuse(&error),
        }
    };
    (Scripted::shard(name, script).await, answers)
}

fn owning(epoch: u64, ranges: &[(u32, u32)], documents: u64) -> Result<Digests, WireError> {
    let ranges = ranges.iter().map(|&(start, end)| Range { start, end }).collect();
    let digest = Digest(u128::MAX - u128::from(documents));
    let sum = RangeSum { index: 1, documents, bytes: 10 * documents, digest };
    // An index that was dropped since.
    let dropped = RangeSum { index: 9, ..sum };
    Ok(Digests { epoch, ranges, sums: vec![sum, dropped] })
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_are_asked_again_while_a_range_is_handed_over() {
    let (half, end) = (RING_SIZE / 2, RING_SIZE);
    let busy = WireError::Unavailable { what: "a digest".to_owned(), why: "told".to_owned() };
    let source = vec![
        // Both have documents of the range; nobody has heard of the new map.
        Err(busy),
        // It was told to give the range up, and the target does not know.
        owning(6, &[(0, half)], 3),
        owning(6, &[(0, half)], 3),
    ];
    let target = vec![owning(5, &[], 0), owning(5, &[], 0), owning(6, &[(half, end)], 4)];
    let (source, left) = answering("a", source).await;
    let (target, _) = answering("b", target).await;
    let cluster = Cluster::of(&[("a", source.address), ("b", target.address)]);
    let empty = Index { id: 2, name: "empty".to_owned(), settings: IndexSettings::default() };
    cluster.indexes.lock().push(empty);
    let bootstrap = cluster.bootstrap().await;
    let contents = client(&bootstrap).await.contents().await.unwrap();
    let digest = [Digest(u128::MAX - 3), Digest(u128::MAX - 4)].into_iter().sum();
    let of_both = Contents { documents: 7, bytes: 70, digest };
    let expected = [("empty".to_owned(), Contents::default()), ("i".to_owned(), of_both)];
    assert_eq!(contents, expected.into());
    assert_eq!(left.lock().len(), 1, "each answer was looked at");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_that_does_not_end_and_a_refusal_are_told() {
    let deadline = Duration::from_millis(300);
    let options = || Options { deadline, ..Options::default() };
    let (shard, _) = answering("a", vec![owning(5, &[(0, RING_SIZE / 2)], 1)]).await;
    let bootstrap = Cluster::of(&[("a", shard.address)]).bootstrap().await;
    let client = Client::connect(&bootstrap.address.to_string(), options()).await.unwrap();
    let error = client.contents().await.unwrap_err();
    let Error::Deadline { last, .. } = &error else { panic!("{error}") };
    assert!(matches!(**last, Error::Unsettled { .. }) && error.is_retryable(), "{error}");
    assert!(error.to_string().contains("[0.5, 1) has no owner"), "{error}");

    let (shard, _) = answering("a", vec![Err(WireError::Internal { what: "sled".into() })]).await;
    let bootstrap = Cluster::of(&[("a", shard.address)]).bootstrap().await;
    let client = Client::connect(&bootstrap.address.to_string(), options()).await.unwrap();
    let error = client.contents().await.unwrap_err();
    assert!(matches!(error.wire(), Some(WireError::Internal { .. })), "{error}");
}
