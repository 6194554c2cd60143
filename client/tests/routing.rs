//! Which shard a call goes to, what is tried again, and what a failure says.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use common::{Cluster, NIL, RealShard, Scripted, client, forget, full, key_of, real_cluster, soon};
use parking_lot::Mutex;
use sherd_client::{Client, Condition, Error, Options};
use sherd_node::Responder;
use sherd_protocol::message::{Index, ShardAnswer, ShardOperation};
use sherd_protocol::range_map::OwnedRange;
use sherd_protocol::ring::RING_SIZE;
use sherd_protocol::{IndexSettings, Position, WireError};
use tokio::task::JoinSet;

/// A shard that owns nothing any more, as one that handed its ranges over at epoch 2.
async fn emptied(name: &str) -> Scripted {
    Scripted::shard(name, |_, responder| {
        responder.refuse(&WireError::WrongShard { epoch: 2 });
    })
    .await
}

fn short() -> Options {
    Options { deadline: Duration::from_millis(300), ..Options::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_lives_on_the_shard_that_owns_its_key() {
    let data = tempfile::tempdir().unwrap();
    let (shards, cluster) = real_cluster(&["a", "b", "c"], data.path()).await;
    let bootstrap = cluster.bootstrap().await;
    let client = client(&bootstrap).await;
    let map = client.known_map();
    for shard in ["a", "b", "c"] {
        for salt in 0..10 {
            let key = key_of(&map, shard, salt);
            let version = client.write("i", &key, b"\xa5hello", Condition::Absent).await.unwrap();
            let document = client.read("i", &key).await.unwrap().unwrap();
            assert_eq!((document.version, &document.bytes[..]), (version, &b"\xa5hello"[..]));
            assert_eq!(document.position, client.position(&key));
            assert_eq!(client.has("i", &key).await.unwrap(), Some(version));
        }
    }
    let views = client.stat().await;
    let documents: Vec<_> =
        views.iter().map(|view| view.stat.as_ref().unwrap().documents).collect();
    assert_eq!(documents, [10, 10, 10]);

    let key = key_of(&map, "b", 0);
    let error = client.write("i", &key, NIL, Condition::Absent).await.unwrap_err();
    let Error::ConditionFailed { version: Some(version), .. } = error else { panic!("{error:?}") };
    assert!(error.does_not_hold());
    let error = client.remove("i", &key, Some(version + 1)).await.unwrap_err();
    assert!(error.to_string().contains("it must have version"), "{error}");
    assert!(client.remove("i", &key, Some(version)).await.unwrap().is_some());
    assert_eq!(client.remove("i", &key, None).await.unwrap(), None);
    let key = key_of(&map, "c", 0);
    assert_eq!(&client.pop("i", &key).await.unwrap().unwrap().bytes[..], b"\xa5hello");
    assert_eq!(client.pop("i", &key).await.unwrap(), None);
    for shard in shards {
        shard.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_stored_is_refused_before_anything_is_sent() {
    let cluster = Cluster::of(&[("a", "127.0.0.1:1".parse().unwrap())]);
    let bootstrap = cluster.bootstrap().await;
    let client = client(&bootstrap).await;
    let started = Instant::now();
    let write = async |index: &str, key: &str, document: &[u8]| {
        client.write(index, key, document, Condition::Any).await.unwrap_err()
    };
    assert!(matches!(write("i", "", NIL).await, Error::Name(_)));
    assert!(matches!(write("i", &"k".repeat(1025), NIL).await, Error::Name(_)));
    assert!(matches!(write("no/slash", "k", NIL).await, Error::Name(_)));
    assert!(matches!(write("i", "k", b"").await, Error::Document(_)));
    assert!(matches!(write("i", "k", b"\xc0\xc0").await, Error::Document(_)));
    assert!(matches!(client.read("i", "").await, Err(Error::Name(_))));
    assert!(client.scan("a b", sherd_client::ScanOptions::default()).is_err());
    assert!(started.elapsed() < Duration::from_secs(1), "nobody was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_map_is_refreshed_once_for_many_waiters() {
    let data = tempfile::tempdir().unwrap();
    let emptied = emptied("old").await;
    let new = RealShard::start("new", data.path(), None).await;
    let cluster = Cluster::of(&[("old", emptied.address), ("new", new.address)]);
    full(&mut cluster.map.lock(), "old");
    let bootstrap = cluster.bootstrap().await;
    let client = client(&bootstrap).await;
    cluster.change(|map| full(map, "new"));
    new.assign(&cluster).await;
    *cluster.maps_asked.lock() = 0;
    let mut callers = JoinSet::new();
    for n in 0..100 {
        let client = client.clone();
        callers.spawn(async move {
            client.write("i", &format!("k{n}"), NIL, Condition::Absent).await.unwrap();
        });
    }
    while let Some(ended) = soon(callers.join_next()).await {
        ended.unwrap();
    }
    assert_eq!(client.known_map().epoch, 2);
    let asked = *cluster.maps_asked.lock();
    assert!((1..=5).contains(&asked), "bootstrap was asked {asked} times");
}

/// A shard gets a range, dies before it hears of it, the move goes back, and the shard leaves the
/// cluster: nobody tells it of a newer map, so it cannot tell the client either.
#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_left_before_it_heard_of_its_range_does_not_hold_the_client() {
    let data = tempfile::tempdir().unwrap();
    let behind = Scripted::shard("gone", |_, responder| {
        responder.refuse(&WireError::WrongShard { epoch: 1 });
    })
    .await;
    let kept = RealShard::start("kept", data.path(), None).await;
    let cluster = Cluster::of(&[("gone", behind.address), ("kept", kept.address)]);
    cluster.change(|map| full(map, "gone"));
    let bootstrap = cluster.bootstrap().await;
    let client = client(&bootstrap).await;
    assert_eq!(client.known_map().epoch, 2);
    cluster.change(|map| {
        full(map, "kept");
        map.shards.retain(|shard| shard.name == "kept");
    });
    kept.assign(&cluster).await;
    let version = client.write("i", "k", NIL, Condition::Absent).await.unwrap();
    assert_eq!(client.read("i", "k").await.unwrap().unwrap().version, version);
    kept.stop().await;
}

/// A shard that is slow to refuse has many refusals on their way when the map is there already.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_comes_late_does_not_fetch_the_map_again() {
    const CALLS: usize = 50;
    let data = tempfile::tempdir().unwrap();
    let waiting: Arc<Mutex<Vec<Responder>>> = Arc::default();
    let slow = Scripted::shard("old", {
        let waiting = Arc::clone(&waiting);
        move |_, responder| waiting.lock().push(responder)
    })
    .await;
    let new = RealShard::start("new", data.path(), None).await;
    let cluster = Cluster::of(&[("old", slow.address), ("new", new.address)]);
    full(&mut cluster.map.lock(), "old");
    let bootstrap = cluster.bootstrap().await;
    let client = client(&bootstrap).await;
    let mut callers = JoinSet::new();
    for n in 0..CALLS {
        let client = client.clone();
        callers.spawn(async move {
            client.write("i", &format!("k{n}"), NIL, Condition::Absent).await.unwrap();
        });
    }
    common::until("all calls are at the shard", || waiting.lock().len() == CALLS).await;
    cluster.change(|map| full(map, "new"));
    new.assign(&cluster).await;
    *cluster.maps_asked.lock() = 0;
    let waiting = std::mem::take(&mut *waiting.lock());
    for responder in waiting {
        responder.refuse(&WireError::WrongShard { epoch: 2 });
        // The next one is late.
        common::until("the map is there", || client.known_map().epoch == 2).await;
    }
    while let Some(ended) = soon(callers.join_next()).await {
        ended.unwrap();
    }
    assert_eq!(*cluster.maps_asked.lock(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_map_that_cannot_be_had_is_told_with_the_reason() {
    let emptied = emptied("old").await;
    let cluster = Cluster::of(&[("old", emptied.address)]);
    let bootstrap = cluster.bootstrap().await;
    let client = Client::connect(&bootstrap.address.to_string(), short()).await.unwrap();
    let error = client.read("i", "k").await.unwrap_err().to_string();
    assert!(error.contains("epoch 2") && error.contains("has epoch 1 still"), "{error}");
    bootstrap.kill().await;
    let error = client.read("i", "k").await.unwrap_err().to_string();
    assert!(error.contains("the map cannot be had: cannot connect to bootstrap"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_map_and_another_clusters_bootstrap_change_nothing() {
    let shard = Scripted::shard("a", |_, responder| {
        responder.send(&ShardAnswer::Missing);
    })
    .await;
    let cluster = Cluster::of(&[("a", shard.address)]);
    cluster.change(|_| {});
    let bootstrap = cluster.bootstrap().await;
    let client = Client::connect(&bootstrap.address.to_string(), short()).await.unwrap();
    cluster.map.lock().epoch = 1;
    assert_eq!(client.map().await.unwrap().epoch, 2, "never goes back");
    cluster.map.lock().cluster = "f".repeat(32);
    assert!(matches!(client.map().await, Err(Error::WrongCluster { .. })));
    assert_eq!(client.read("i", "k").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_without_an_answer_is_of_unknown_outcome_and_not_repeated() {
    let asked = Arc::new(AtomicU32::new(0));
    let shard = Scripted::shard("left", {
        let asked = Arc::clone(&asked);
        move |_, responder| {
            asked.fetch_add(1, SeqCst);
            forget(responder);
        }
    })
    .await;
    let cluster = Cluster::of(&[("left", shard.address)]);
    let bootstrap = cluster.bootstrap().await;
    let client = client(&bootstrap).await;
    let pop = tokio::spawn({
        let client = client.clone();
        async move { client.pop("i", "k").await.unwrap_err() }
    });
    common::until("the shard has the request", || asked.load(SeqCst) == 1).await;
    let address = shard.kill().await;
    let error = soon(pop).await.unwrap();
    assert!(error.is_outcome_unknown() && !error.is_retryable());
    let Error::OutcomeUnknown(unknown) = &error else { panic!("{error:?}") };
    assert_eq!((unknown.operation, &*unknown.index, &*unknown.key), ("pop", "i", "k"));
    assert_eq!(unknown.node, format!("shard left ({address})"));
    let text = error.to_string();
    assert!(
        text.starts_with("it is unknown whether pop of \"k\" in index \"i\" happened"),
        "{text}"
    );
    assert_eq!(asked.load(SeqCst), 1);

    let error = client.with_deadline(Duration::from_millis(200)).create_index("x").await;
    assert!(matches!(error, Err(Error::OutcomeUnknown(_))), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_under_which_the_log_failed_is_of_unknown_outcome_and_not_repeated() {
    let asked = Arc::new(AtomicU32::new(0));
    let failed = || WireError::OutcomeUnknown { reason: "sync the log: disk on fire".to_owned() };
    let shard = Scripted::shard("a", {
        let asked = Arc::clone(&asked);
        move |_, responder| {
            asked.fetch_add(1, SeqCst);
            responder.refuse(&failed());
        }
    })
    .await;
    let bootstrap = Cluster::of(&[("a", shard.address)]).bootstrap().await;
    let client = client(&bootstrap).await;
    let changes = [
        ("write", client.write("i", "k", NIL, Condition::Version(3)).await.unwrap_err()),
        ("pop", client.pop("i", "k").await.unwrap_err()),
        ("remove", client.remove("i", "k", None).await.unwrap_err()),
    ];
    for (operation, error) in changes {
        assert!(error.is_outcome_unknown() && !error.is_retryable(), "{error:?}");
        let Error::OutcomeUnknown(unknown) = &error else { panic!("{error:?}") };
        assert_eq!((unknown.operation, &*unknown.index, &*unknown.key), (operation, "i", "k"));
        let text = error.to_string();
        assert!(text.contains("disk on fire") && text.contains("shard a ("), "{text}");
    }
    assert_eq!(asked.load(SeqCst), 3, "nothing is repeated");
    // A read changes nothing: it just failed.
    let error = client.read("i", "k").await.unwrap_err();
    assert!(matches!(&error, Error::Refused { error, .. } if *error == failed()), "{error:?}");
    assert_eq!(asked.load(SeqCst), 4);

    // Bootstrap passes on what a shard or its own log said.
    let failing = Cluster::of(&[("a", shard.address)]).failing_bootstrap(failed()).await;
    let client = common::client(&failing).await;
    let created = client.create_index("x").await.unwrap_err();
    let dropped = client.drop_index("x").await.unwrap_err();
    for error in [created, dropped] {
        assert!(matches!(error, Error::OutcomeUnknown(_)), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_passes_its_deadline_is_of_unknown_outcome() {
    let shard = Scripted::shard("a", |_, responder| forget(responder)).await;
    let bootstrap = Cluster::of(&[("a", shard.address)]).bootstrap().await;
    let client = Client::connect(&bootstrap.address.to_string(), short()).await.unwrap();
    let error = client.write("i", "k", NIL, Condition::Any).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown(_)), "{error:?}");
    // A read changed nothing, so it just failed.
    let error = client.read("i", "k").await.unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_survives_the_loss_of_its_shard() {
    let asked = Arc::new(AtomicBool::new(false));
    let shard = Scripted::shard("a", {
        let asked = Arc::clone(&asked);
        move |_, responder| {
            asked.store(true, SeqCst);
            forget(responder);
        }
    })
    .await;
    let bootstrap = Cluster::of(&[("a", shard.address)]).bootstrap().await;
    let client = client(&bootstrap).await;
    let read = tokio::spawn(async move { client.read("i", "k").await });
    common::until("the shard has the request", || asked.load(SeqCst)).await;
    let address = shard.kill().await;
    let answer = |_: ShardOperation<'_>, responder: Responder| {
        responder.send(&ShardAnswer::Missing);
    };
    let _again = Scripted::shard_on(address, "a", answer).await;
    assert_eq!(soon(read).await.unwrap(), Ok(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_waits_for_a_shard_that_is_down() {
    let data = tempfile::tempdir().unwrap();
    let (mut shards, cluster) = real_cluster(&["a"], data.path()).await;
    let bootstrap = cluster.bootstrap().await;
    let client = client(&bootstrap).await;
    client.write("i", "before", NIL, Condition::Absent).await.unwrap();
    let address = shards.pop().unwrap().stop().await;
    let write = tokio::spawn({
        let client = client.clone();
        async move { client.write("i", "k", NIL, Condition::Absent).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!write.is_finished());
    let _again = RealShard::start("a", &data.path().join("a"), Some(address)).await;
    soon(write).await.unwrap().unwrap();
    assert!(client.has("i", "before").await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_names_the_last_attempt() {
    let shard = Scripted::shard("left", |_, _| {}).await;
    let cluster = Cluster::of(&[("left", shard.address)]);
    let address = shard.kill().await;
    let bootstrap = cluster.bootstrap().await;
    let client = Client::connect(&bootstrap.address.to_string(), short()).await.unwrap();
    let error = client.write("i", "k", NIL, Condition::Any).await.unwrap_err();
    assert!(error.is_retryable(), "it was never sent");
    let text = error.to_string();
    assert!(
        text.starts_with("write of \"k\" in index \"i\" was given up after 300ms and "),
        "{text}"
    );
    assert!(text.contains(&format!("cannot connect to shard left ({address}): ")), "{text}");

    let address = bootstrap.kill().await.to_string();
    let text = Client::connect(&address, short()).await.unwrap_err().to_string();
    assert!(text.contains(&format!("cannot connect to bootstrap ({address})")), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_that_pass_are_waited_out_and_others_returned_at_once() {
    let refusals = Arc::new(AtomicU32::new(0));
    let shard = Scripted::shard("a", {
        let refusals = Arc::clone(&refusals);
        move |_, responder| match refusals.fetch_add(1, SeqCst) {
            0 => responder.refuse(&WireError::Locked { owner: "move".to_owned() }),
            1 => responder.refuse(&WireError::ShuttingDown),
            2 => responder.refuse(&WireError::Busy { what: "scans".to_owned(), limit: 1 }),
            3 => responder.send(&ShardAnswer::Written { version: 9 }),
            _ => responder.refuse(&WireError::QuotaExceeded { used: 1, limit: 2, needed: 3 }),
        }
    })
    .await;
    let bootstrap = Cluster::of(&[("a", shard.address)]).bootstrap().await;
    let client = client(&bootstrap).await;
    assert_eq!(client.write("i", "k", NIL, Condition::Any).await, Ok(9));
    let error = client.write("i", "k", NIL, Condition::Any).await.unwrap_err();
    assert!(matches!(error.wire(), Some(WireError::QuotaExceeded { .. })), "{error:?}");
    assert_eq!(refusals.load(SeqCst), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_a_shard_is_about_to_get_is_waited_for() {
    let data = tempfile::tempdir().unwrap();
    let (shards, cluster) = real_cluster(&["a"], data.path()).await;
    let bootstrap = cluster.bootstrap().await;
    let client = client(&bootstrap).await;

    let started = Instant::now();
    let error = client.read("nowhere", "k").await.unwrap_err();
    assert!(error.does_not_hold() && started.elapsed() < Duration::from_secs(2), "{error:?}");

    let settings = IndexSettings::default();
    cluster.indexes.lock().push(Index { id: 2, name: "late".to_owned(), settings });
    let write = tokio::spawn({
        let client = client.clone();
        async move { client.write("late", "k", NIL, Condition::Absent).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!write.is_finished());
    shards[0].assign(&cluster).await;
    soon(write).await.unwrap().unwrap();

    // Without bootstrap nobody knows whether it is about to come.
    let options = Options { deadline: Duration::from_secs(1), ..Options::default() };
    let client = Client::connect(&bootstrap.address.to_string(), options).await.unwrap();
    bootstrap.kill().await;
    let error = client.read("later", "k").await.unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    assert!(matches!(error.wire(), Some(WireError::IndexNotFound { .. })), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_served_while_bootstrap_is_down() {
    let data = tempfile::tempdir().unwrap();
    let (mut shards, cluster) = real_cluster(&["a", "b"], data.path()).await;
    let bootstrap = cluster.bootstrap().await;
    let client = client(&bootstrap).await;
    bootstrap.kill().await;
    let shard = shards.pop().unwrap();
    let address = shard.stop().await;
    let _again = RealShard::start("b", &data.path().join("b"), Some(address)).await;
    for n in 0..20 {
        let key = format!("k{n}");
        client.write("i", &key, NIL, Condition::Absent).await.unwrap();
        assert!(client.read("i", &key).await.unwrap().is_some());
    }
    let mut keys = client.keys("i").unwrap();
    let mut seen = 0;
    while keys.next().await.unwrap().is_some() {
        seen += 1;
    }
    assert_eq!(seen, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_at_a_shards_address_is_not_written_to() {
    let stranger = Scripted::shard("of another cluster", |_, responder| {
        responder.send(&ShardAnswer::Written { version: 1 });
    })
    .await;
    let cluster = Cluster::of(&[("a", stranger.address)]);
    let bootstrap = cluster.bootstrap().await;
    let client = Client::connect(&bootstrap.address.to_string(), short()).await.unwrap();
    let error = client.write("i", "k", NIL, Condition::Any).await.unwrap_err().to_string();
    assert!(error.contains("is shard of another cluster, not shard a"), "{error}");

    let address = stranger.address.to_string();
    let error = Client::connect(&address, short()).await.unwrap_err().to_string();
    assert!(error.contains("not a bootstrap"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_goes_through_all_shards_in_ring_order() {
    let data = tempfile::tempdir().unwrap();
    let (_shards, cluster) = real_cluster(&["a", "b", "c"], data.path()).await;
    let bootstrap = cluster.bootstrap().await;
    let client = client(&bootstrap).await;
    let mut expected = Vec::new();
    for n in 0..500 {
        let key = format!("k{n}");
        client.write("i", &key, b"\x2a", Condition::Absent).await.unwrap();
        expected.push((client.position(&key), key));
    }
    expected.sort();
    for page in [1, 7, 1000] {
        let options = sherd_client::ScanOptions { page, ..Default::default() };
        let mut scan = client.scan("i", options).unwrap();
        let mut seen = Vec::new();
        while let Some(item) = scan.next().await.unwrap() {
            assert_eq!(&item.document.bytes[..], b"\x2a");
            seen.push((item.document.position, item.key));
        }
        assert_eq!(seen, expected, "in pages of {page}");
        for ahead in [1, 4] {
            let options = sherd_client::ScanOptions { page, ..Default::default() };
            let mut scan = client.scan_ahead("i", options, ahead).unwrap();
            let mut seen = Vec::new();
            while let Some(items) = soon(scan.next_page()).await.unwrap() {
                assert!((1..=page as usize).contains(&items.len()));
                seen.extend(items.into_iter().map(|item| (item.document.position, item.key)));
            }
            assert_eq!(seen, expected, "in pages of {page}, {ahead} ahead");
        }
    }
    let options = sherd_client::ScanOptions {
        after: Some(expected[99].clone()),
        keys_only: true,
        ..Default::default()
    };
    let mut scan = client.scan("i", options).unwrap();
    let page = scan.next_page().await.unwrap().unwrap();
    assert_eq!(page[0].key, expected[100].1);
    assert!(page[0].document.bytes.is_empty());

    // What is asked ahead keeps to the range, and to what it begins after.
    let (first, last) = (expected[99].clone(), expected[400].0.0);
    let range = sherd_protocol::Range { start: 0, end: last };
    let options =
        sherd_client::ScanOptions { range, after: Some(first), page: 20, ..Default::default() };
    let mut scan = client.scan_ahead("i", options, 3).unwrap();
    let mut seen = Vec::new();
    while let Some(items) = soon(scan.next_page()).await.unwrap() {
        seen.extend(items.into_iter().map(|item| (item.document.position, item.key)));
    }
    let wanted = expected[100..].iter().filter(|(position, _)| position.0 < last);
    assert_eq!(seen, wanted.cloned().collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_ahead_that_failed_does_not_end_as_if_it_were_whole() {
    let data = tempfile::tempdir().unwrap();
    let (shards, cluster) = real_cluster(&["a", "b"], data.path()).await;
    let bootstrap = cluster.bootstrap().await;
    let client = client(&bootstrap).await.with_deadline(Duration::from_millis(300));
    for n in 0..300 {
        client.write("i", &format!("k{n}"), NIL, Condition::Absent).await.unwrap();
    }
    let options = sherd_client::ScanOptions { page: 10, ..Default::default() };
    let mut scan = client.scan_ahead("i", options, 2).unwrap();
    soon(scan.next_page()).await.unwrap().unwrap();
    drop(shards);
    let error = loop {
        match soon(scan.next_page()).await {
            Ok(page) => assert!(page.is_some(), "it ends as if there were no more"),
            Err(error) => break error,
        }
    };
    assert_eq!(soon(scan.next_page()).await.unwrap_err(), error, "and stays so");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_stays_true_while_a_range_moves() {
    let data = tempfile::tempdir().unwrap();
    let (shards, cluster) = real_cluster(&["a", "b"], data.path()).await;
    full(&mut cluster.map.lock(), "a");
    cluster.change(|_| {});
    shards[0].assign(&cluster).await;
    let bootstrap = cluster.bootstrap().await;
    let client = client(&bootstrap).await;
    let mut expected = Vec::new();
    for n in 0..200 {
        let key = format!("k{n}");
        client.write("i", &key, NIL, Condition::Absent).await.unwrap();
        expected.push((client.position(&key), key));
    }
    expected.sort();
    let options = sherd_client::ScanOptions { page: 30, ..Default::default() };
    let mut scan = client.scan("i", options).unwrap();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let page = scan.next_page().await.unwrap().unwrap();
        seen.extend(page.into_iter().map(|item| (item.document.position, item.key)));
    }
    // The part after the middle of what is left moves to the other shard, documents and all.
    let (Position(middle), _) = expected[130];
    let moved = expected[130..].to_vec();
    cluster.change(|map| {
        let range = |start, end, shard: &str| OwnedRange { start, end, shard: shard.to_owned() };
        map.ranges = vec![range(0, middle, "a"), range(middle, RING_SIZE, "b")];
    });
    for shard in &shards {
        shard.assign(&cluster).await;
    }
    client.map().await.unwrap();
    for (_, key) in &moved {
        client.write("i", key, NIL, Condition::Absent).await.unwrap();
    }
    while let Some(item) = soon(scan.next()).await.unwrap() {
        seen.push((item.document.position, item.key));
    }
    assert_eq!(seen, expected);
}
