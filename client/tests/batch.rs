//! Batches: in the caller's order, each change on its own, or all of one shard's together.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use common::{Cluster, Scripted, client, forget, key_of, real_cluster, soon};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sherd_client::{Condition, Error, Expiry, Mutation, Outcome};
use sherd_protocol::WireError;
use sherd_protocol::message::{self, MutationOutcome, ShardAnswer, ShardOperation};

fn write(key: &str, document: &'static [u8]) -> Mutation {
    conditional(key, document, Condition::Any)
}

fn conditional(key: &str, document: &'static [u8], condition: Condition) -> Mutation {
    let (index, key) = ("i".into(), key.to_owned());
    let (document, expiry) = (Bytes::from_static(document), Expiry::Default);
    Mutation::Write { index, key, document, condition, expiry }
}

fn remove(key: &str) -> Mutation {
    Mutation::Remove { index: "i".into(), key: key.to_owned(), version: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_has_its_result_in_its_place() {
    let data = tempfile::tempdir().unwrap();
    let (_shards, cluster) = real_cluster(&["a", "b", "c"], data.path()).await;
    let bootstrap = cluster.bootstrap().await;
    let client = client(&bootstrap).await;
    client.write("i", "there", b"\xc0", Condition::Absent).await.unwrap();
    let elsewhere = |key: &str| Mutation::Write {
        index: "nowhere".into(),
        key: key.to_owned(),
        document: Bytes::from_static(b"\xc0"),
        condition: Condition::Any,
        expiry: Expiry::Default,
    };
    let results = soon(client.batch(&[
        write("one", b"\x01"),
        conditional("there", b"\x02", Condition::Absent),
        write("bad document", b"\xc1"),
        remove("missing"),
        elsewhere("k"),
        remove("there"),
        write("", b"\x01"),
        elsewhere("l"),
        write("two", b"\x02"),
    ]))
    .await;
    let is_missing_index = |result: &Result<Outcome, Error>| {
        matches!(result, Err(Error::Refused { error: WireError::IndexNotFound { .. }, .. }))
    };
    assert!(matches!(results[0], Ok(Outcome::Written(_))), "{results:?}");
    assert!(matches!(results[1], Ok(Outcome::ConditionFailed(Some(_)))), "{results:?}");
    assert!(matches!(results[2], Err(Error::Document(_))), "{results:?}");
    assert!(matches!(results[3], Ok(Outcome::Missing)), "{results:?}");
    assert!(is_missing_index(&results[4]), "{results:?}");
    assert!(matches!(results[5], Ok(Outcome::Removed(_))), "{results:?}");
    assert!(matches!(results[6], Err(Error::Name(_))), "{results:?}");
    assert!(is_missing_index(&results[7]), "{results:?}");
    assert!(matches!(results[8], Ok(Outcome::Written(_))), "{results:?}");
    assert_eq!(results.len(), 9);
    assert_eq!(&client.read("i", "two").await.unwrap().unwrap().bytes[..], b"\x02");
    assert!(client.batch(&[]).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_a_frame_holds_is_sent_in_parts() {
    let data = tempfile::tempdir().unwrap();
    let (_shards, cluster) = real_cluster(&["a", "b"], data.path()).await;
    let bootstrap = cluster.bootstrap().await;
    let client = client(&bootstrap).await;
    let document = |bytes: usize, n: u32| {
        let mut document = vec![0xc6];
        document.extend_from_slice(&(bytes as u32).to_be_bytes());
        document.extend((0..bytes).map(|at| (at as u32 ^ n) as u8));
        Bytes::from(document)
    };
    // 40 MB: some documents larger than a part, and many small ones.
    let mutations: Vec<_> = (0..6000u32)
        .map(|n| Mutation::Write {
            index: "i".into(),
            key: format!("k{n}"),
            document: document(if n % 1000 == 0 { 5 << 20 } else { 1000 }, n),
            condition: Condition::Absent,
            expiry: Expiry::Default,
        })
        .collect();
    let results = soon(client.batch(&mutations)).await;
    assert!(results.iter().all(|result| matches!(result, Ok(Outcome::Written(_)))));
    for n in [0, 1, 999, 1000, 5999] {
        let Mutation::Write { key, document, .. } = &mutations[n] else { unreachable!() };
        assert_eq!(client.read("i", key).await.unwrap().unwrap().bytes, document);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_atomic_batch_is_all_or_nothing_and_of_one_shard() {
    let data = tempfile::tempdir().unwrap();
    let (_shards, cluster) = real_cluster(&["a", "b"], data.path()).await;
    let bootstrap = cluster.bootstrap().await;
    let client = client(&bootstrap).await;
    let map = client.known_map();
    let (one, two, other) = (key_of(&map, "a", 1), key_of(&map, "a", 2), key_of(&map, "b", 1));
    let results = client.atomic_batch(&[write(&one, b"\x01"), write(&two, b"\x02")]).await.unwrap();
    assert!(results.iter().all(|result| matches!(result, Ok(Outcome::Written(_)))), "{results:?}");

    let fails = [write(&one, b"\x07"), conditional(&two, b"\x07", Condition::Absent)];
    let results = client.atomic_batch(&fails).await.unwrap();
    assert!(matches!(results[..], [Ok(Outcome::Abandoned), Ok(Outcome::ConditionFailed(_))]));
    assert_eq!(&client.read("i", &one).await.unwrap().unwrap().bytes[..], b"\x01");

    let error = client.atomic_batch(&[write(&one, b"\x07"), write(&other, b"\x07")]).await;
    let error = error.unwrap_err();
    assert!(
        matches!(&error, Error::NotOneShard { shard, other_shard, .. }
        if shard == "a" && other_shard == "b"),
        "{error:?}"
    );
    assert_eq!(client.has("i", &other).await.unwrap(), None);

    let many = vec![write(&one, b"\x07"); 10_001];
    assert!(matches!(client.atomic_batch(&many).await, Err(Error::TooManyChanges { .. })));
    assert_eq!(client.atomic_batch(&[]).await, Ok(Vec::new()));
}

/// What is refused for now is repeated, and nothing overtakes it: a shard that refuses at random
/// must end with the last value of every key.
#[tokio::test(flavor = "multi_thread")]
async fn changes_of_one_key_keep_their_order_through_repeats() {
    let seed = rand::random();
    eprintln!("seed {seed}");
    let random = Mutex::new(StdRng::seed_from_u64(seed));
    let log = Arc::new(Mutex::new(Vec::new()));
    let shard = Scripted::shard("a", {
        let log = Arc::clone(&log);
        move |operation, responder| {
            let ShardOperation::Batch(batch) = operation else { panic!("{operation:?}") };
            let mut random = random.lock();
            let outcomes = batch.mutations.iter().map(|mutation| {
                let message::Mutation::Write(write) = mutation else { panic!("{mutation:?}") };
                if random.random_bool(0.1) {
                    return MutationOutcome::Error(WireError::Locked { owner: "m".to_owned() });
                }
                log.lock().push((write.key.to_owned(), write.document[0]));
                MutationOutcome::Written { version: 1 }
            });
            let outcomes = outcomes.collect();
            responder.send(&ShardAnswer::Batch(outcomes));
        }
    })
    .await;
    let bootstrap = Cluster::of(&[("a", shard.address)]).bootstrap().await;
    let client = client(&bootstrap).await;
    const VALUES: [&[u8]; 5] = [b"\x00", b"\x01", b"\x02", b"\x03", b"\x04"];
    let mutations: Vec<_> = VALUES
        .iter()
        .flat_map(|value| (0..10).map(|key| write(&format!("k{key}"), value)))
        .collect();
    let results = soon(client.batch(&mutations)).await;
    assert!(results.iter().all(|result| *result == Ok(Outcome::Written(1))), "{results:?}");
    for key in 0..10 {
        let key = format!("k{key}");
        let of_key = log.lock().iter().filter(|(of, _)| *of == key).map(|(_, v)| *v).collect();
        let of_key: Vec<u8> = of_key;
        assert_eq!(of_key, [0, 1, 2, 3, 4], "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_shard_makes_its_part_unknown_and_leaves_the_other_alone() {
    let asked = Arc::new(AtomicU32::new(0));
    let lost = Scripted::shard("lost", {
        let asked = Arc::clone(&asked);
        move |_, responder| {
            asked.fetch_add(1, SeqCst);
            forget(responder);
        }
    })
    .await;
    let well = Scripted::shard("well", |operation, responder| {
        let ShardOperation::Batch(batch) = operation else { panic!("{operation:?}") };
        let outcome = MutationOutcome::Written { version: 5 };
        responder.send(&ShardAnswer::Batch(vec![outcome; batch.mutations.len()]));
    })
    .await;
    let cluster = Cluster::of(&[("lost", lost.address), ("well", well.address)]);
    let bootstrap = cluster.bootstrap().await;
    let client = client(&bootstrap).await.with_deadline(Duration::from_secs(5));
    let map = client.known_map();
    let (one, two) = (key_of(&map, "lost", 1), key_of(&map, "well", 1));
    let batch =
        tokio::spawn(
            async move { client.batch(&[write(&one, b"\x01"), write(&two, b"\x01")]).await },
        );
    common::until("the shard has its part", || asked.load(SeqCst) == 1).await;
    lost.kill().await;
    let results = soon(batch).await.unwrap();
    let Err(Error::OutcomeUnknown(unknown)) = &results[0] else { panic!("{results:?}") };
    assert_eq!(unknown.operation, "write");
    assert_eq!(results[1], Ok(Outcome::Written(5)));
    assert_eq!(asked.load(SeqCst), 1, "it is not repeated");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_atomic_batch_without_an_answer_is_of_unknown_outcome_as_a_whole() {
    let shard = Scripted::shard("a", |_, responder| forget(responder)).await;
    let bootstrap = Cluster::of(&[("a", shard.address)]).bootstrap().await;
    let client = client(&bootstrap).await.with_deadline(Duration::from_millis(200));
    let error = client.atomic_batch(&[write("k", b"\x01"), remove("l")]).await.unwrap_err();
    let Error::OutcomeUnknown(unknown) = &error else { panic!("{error:?}") };
    assert_eq!(unknown.operation, "atomic batch");
    assert!(error.is_outcome_unknown() && !error.is_retryable());
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_under_which_the_log_failed_are_of_unknown_outcome_one_by_one() {
    let failed = || WireError::OutcomeUnknown { reason: "disk on fire".to_owned() };
    let shard = Scripted::shard("a", move |operation, responder| {
        let ShardOperation::Batch(batch) = operation else { panic!("{operation:?}") };
        if batch.mutations.len() == 1 || batch.atomic {
            return responder.refuse(&failed());
        }
        let outcomes = batch.mutations.iter().map(|mutation| match mutation {
            message::Mutation::Write(_) => MutationOutcome::Written { version: 5 },
            message::Mutation::Remove(_) => MutationOutcome::Error(failed()),
        });
        responder.send(&ShardAnswer::Batch(outcomes.collect()));
    })
    .await;
    let bootstrap = Cluster::of(&[("a", shard.address)]).bootstrap().await;
    let client = client(&bootstrap).await;
    // The key that comes again begins a second request, which fails as a whole.
    let changes = [write("k", b"\x01"), remove("l"), write("k", b"\x02")];
    let results = soon(client.batch(&changes)).await;
    assert_eq!(results[0], Ok(Outcome::Written(5)));
    for (place, expected) in [(1, ("remove", "l")), (2, ("write", "k"))] {
        let Err(Error::OutcomeUnknown(unknown)) = &results[place] else { panic!("{results:?}") };
        assert_eq!((unknown.operation, &*unknown.key), expected);
        assert!(unknown.reason.contains("disk on fire"), "{}", unknown.reason);
    }
    let error = client.atomic_batch(&changes[..2]).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown(_)), "{error:?}");
}
