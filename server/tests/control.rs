//! Assignments, locks, catalogue and size: what they refuse, what they change, what outlives a
//! restart.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::*;
use sherd_protocol::message::*;
use sherd_protocol::{Expiry, HashMethod, IndexSettings, Range, WireError};
use sherd_server::Config;

const DOCUMENT: &[u8] = b"\xabhello world";

fn create(id: u32, name: &str) -> ShardOperation<'static> {
    let settings = IndexSettings::default();
    ShardOperation::CreateIndex(Index { id, name: name.to_owned(), settings })
}

fn drop_index(id: u32) -> ShardOperation<'static> {
    ShardOperation::DropIndex(DropIndex { id, name: INDEX })
}

fn assign(change: impl FnOnce(&mut Assignment)) -> ShardOperation<'static> {
    let mut assignment = assignment();
    change(&mut assignment);
    ShardOperation::Assign(assignment)
}

#[tokio::test]
async fn a_shard_without_an_assignment_owns_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let shard = Shard::start(dir.path()).await;
    let mut c = Connection::open(shard.address).await;
    assert_eq!((c.welcome.name.as_str(), c.welcome.epoch, c.welcome.role), ("", 0, Role::Shard));
    let scan = ShardOperation::Scan(Scan {
        index: INDEX,
        range: Range::FULL,
        after: None,
        limit: 1,
        keys_only: false,
    });
    let requests =
        [write("k", DOCUMENT, Condition::Any), read("k"), has("k"), pop("k"), remove("k", None)];
    for request in requests {
        let error = c.error(request.clone()).await;
        assert_eq!(error, WireError::WrongShard { epoch: 0 }, "{request:?}");
    }
    assert_eq!(c.error(scan.clone()).await, WireError::WrongShard { epoch: 0 });
    c.done(create(INDEX_ID, INDEX)).await;
    assert_eq!(c.error(scan).await, WireError::WrongShard { epoch: 0 });
    assert_eq!(c.error(read("k")).await, WireError::WrongShard { epoch: 0 });
    assert_eq!(c.stat().await.ranges, []);
}

#[tokio::test]
async fn the_catalogue_and_the_assignment_outlive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (shard, mut c) = Shard::with_index(Config::new(dir.path())).await;
    let version = c.write("k", DOCUMENT).await;
    c.done(ShardOperation::Lock(Lock { owner: "backup" })).await;
    let before = c.stat().await;
    drop(c);
    shard.stop().await.unwrap();

    let shard = Shard::start(dir.path()).await;
    let mut c = Connection::open(shard.address).await;
    assert_eq!((c.welcome.name.as_str(), c.welcome.epoch), ("shard0", 1));
    let found = ShardAnswer::Document(Found {
        position: HashMethod::Md5.position("k"),
        version,
        expires_at: 0,
        document: DOCUMENT,
    });
    assert_eq!(c.ask(read("k")).await.answer(), found);
    let after = c.stat().await;
    assert_eq!((before.epoch, before.lineage), (1, 7));
    assert_eq!((after.epoch, after.lineage), (1, 7));
    assert_eq!(after.locked_by.as_deref(), Some("backup"));
    let uncounted = |indexes: Vec<IndexStat>| -> Vec<_> {
        indexes.into_iter().map(|at| IndexStat { counts: Counts::default(), ..at }).collect()
    };
    assert_eq!(uncounted(after.indexes), uncounted(before.indexes));
    assert_eq!(
        (after.documents, after.used, after.distribution, after.ranges),
        (before.documents, before.used, before.distribution, before.ranges)
    );
}

#[tokio::test]
async fn a_shard_takes_newer_assignments_of_its_own_cluster_only() {
    let dir = tempfile::tempdir().unwrap();
    let (shard, mut c) = Shard::with_index(Config::new(dir.path())).await;
    c.done(assign(|_| {})).await;
    c.done(assign(|new| new.epoch = 5)).await;
    let stale = WireError::StaleEpoch { offered: 4, held: 5 };
    assert_eq!(c.error(assign(|new| new.epoch = 4)).await, stale);
    let stranger = "f".repeat(32);
    let wrong = WireError::WrongCluster {
        held: CLUSTER.to_owned(),
        name: "shard0".to_owned(),
        offered: stranger.clone(),
    };
    let other_cluster = assign(|new| (new.epoch, new.cluster) = (9, stranger));
    assert_eq!(c.error(other_cluster).await, wrong);
    for other in [
        assign(|new| (new.epoch, new.name) = (9, "shard1".to_owned())),
        assign(|new| (new.epoch, new.hash_method) = (9, HashMethod::Xxh3)),
    ] {
        let error = c.error(other).await;
        assert!(matches!(error, WireError::WrongCluster { .. }), "{error}");
    }
    let stat = c.stat().await;
    assert_eq!((stat.epoch, stat.name.as_str(), stat.cluster.as_str()), (5, "shard0", CLUSTER));
    assert_eq!(Connection::open(shard.address).await.welcome.epoch, 5);
}

#[tokio::test]
async fn an_assignment_that_makes_no_sense_is_refused_by_field() {
    let dir = tempfile::tempdir().unwrap();
    let shard = Shard::start(dir.path()).await;
    let mut c = Connection::open(shard.address).await;
    let range = |start, end| Range { start, end };
    let faults = [
        (assign(|new| new.cluster.clear()), "cluster"),
        (assign(|new| new.name = "n".repeat(257)), "name"),
        (assign(|new| new.epoch = 0), "epoch"),
        (assign(|new| new.ranges = vec![range(0, 10_000_001)]), "ranges[0]"),
        (assign(|new| new.ranges = vec![range(5, 5)]), "ranges[0]"),
        (assign(|new| new.ranges = vec![range(0, 5), range(4, 9)]), "ranges[1]"),
        (assign(|new| new.ranges = vec![range(5, 9), range(0, 4)]), "ranges[1]"),
        (ShardOperation::Lock(Lock { owner: "" }), "owner"),
        (create(7, "no spaces"), "name"),
    ];
    for (request, field) in faults {
        match c.error(request.clone()).await {
            WireError::BadRequest(bad) => assert_eq!(bad.place, field, "{request:?}: {}", bad.what),
            other => panic!("{request:?}: {other}"),
        }
    }
    assert_eq!(c.stat().await.epoch, 0);
}

#[tokio::test]
async fn keys_outside_the_ranges_are_refused_with_the_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let (_shard, mut c) = Shard::with_index(Config::new(dir.path())).await;
    // By md5, `test` is at 1,671,936 and `test1` at 8,204,544.
    c.write("test1", DOCUMENT).await;
    let half = Range { start: 0, end: 5_000_000 };
    c.done(assign(|new| (new.epoch, new.ranges) = (2, vec![half]))).await;
    c.write("test", DOCUMENT).await;
    let wrong = WireError::WrongShard { epoch: 2 };
    let requests = [
        write("test1", DOCUMENT, Condition::Any),
        read("test1"),
        has("test1"),
        pop("test1"),
        remove("test1", None),
    ];
    for request in requests {
        match c.ask(request.clone()).await.answer() {
            ShardAnswer::Error(error) => assert_eq!(error, wrong, "{request:?}"),
            other => panic!("{request:?}: {other:?}"),
        }
    }
    let scan = |range, after| {
        ShardOperation::Scan(Scan { index: INDEX, range, after, limit: 9, keys_only: false })
    };
    assert_eq!(c.error(scan(Range::FULL, None)).await, wrong);
    let reply = c.ask(scan(half, None)).await;
    let ShardAnswer::Page(page) = reply.answer() else { panic!("{:?}", reply.answer()) };
    assert_eq!(page.items.len(), 1);
    let mutations = ["test", "test1"].map(|key| {
        let (condition, expiry) = (Condition::Any, Expiry::Default);
        Mutation::Write(Write { index: INDEX, key, document: DOCUMENT, condition, expiry })
    });
    let batch = ShardOperation::Batch(Batch { mutations: mutations.to_vec(), atomic: false });
    let reply = c.ask(batch).await;
    let ShardAnswer::Batch(outcomes) = reply.answer() else { panic!("{:?}", reply.answer()) };
    assert!(matches!(outcomes[0], MutationOutcome::Written { .. }), "{outcomes:?}");
    assert_eq!(outcomes[1], MutationOutcome::Error(wrong));
}

#[tokio::test]
async fn a_locked_shard_reads_and_does_not_write() {
    let dir = tempfile::tempdir().unwrap();
    let (_shard, mut c) = Shard::with_index(Config::new(dir.path())).await;
    let lock = |owner| ShardOperation::Lock(Lock { owner });
    let release = |owner| ShardOperation::Release(Lock { owner });
    c.write("k", DOCUMENT).await;
    c.done(release("backup")).await;
    c.done(lock("backup")).await;
    c.done(lock("backup")).await;
    let locked = WireError::Locked { owner: "backup".to_owned() };
    let refused = [
        write("k", DOCUMENT, Condition::Any),
        remove("k", None),
        pop("k"),
        lock("other"),
        release("other"),
        ShardOperation::Batch(Batch {
            mutations: vec![Mutation::Remove(Remove { index: INDEX, key: "k", version: None })],
            atomic: true,
        }),
    ];
    for request in refused {
        assert_eq!(c.error(request.clone()).await, locked, "{request:?}");
    }
    assert_eq!(c.read("k").await.as_deref(), Some(DOCUMENT));
    assert_eq!(c.stat().await.locked_by.as_deref(), Some("backup"));
    c.done(release("backup")).await;
    c.write("k", DOCUMENT).await;
}

#[tokio::test]
async fn indexes_are_told_by_name_and_id() {
    let dir = tempfile::tempdir().unwrap();
    let (_shard, mut c) = Shard::with_index(Config::new(dir.path())).await;
    c.write("k", DOCUMENT).await;
    c.done(create(INDEX_ID, INDEX)).await;
    let exists = WireError::IndexExists { index: INDEX.to_owned() };
    assert_eq!(c.error(create(2, INDEX)).await, exists);
    assert_eq!(c.error(create(INDEX_ID, "other")).await, exists);

    c.done(drop_index(INDEX_ID)).await;
    c.done(drop_index(INDEX_ID)).await;
    let gone = WireError::IndexNotFound { index: INDEX.to_owned() };
    for request in [read("k"), has("k"), pop("k"), write("k", DOCUMENT, Condition::Any)] {
        assert_eq!(c.error(request.clone()).await, gone, "{request:?}");
    }
    assert_eq!((c.stat().await.used, c.stat().await.documents), (0, 0));
    match c.error(create(INDEX_ID, INDEX)).await {
        WireError::BadRequest(bad) => assert_eq!(bad.place, "id", "{}", bad.what),
        other => panic!("an id is never given again: {other}"),
    }
    // Under its new id the index is empty, whatever it held under the old one.
    c.done(create(3, INDEX)).await;
    assert_eq!(c.read("k").await, None);
}

#[tokio::test]
async fn a_full_shard_refuses_writes_and_takes_removes() {
    let dir = tempfile::tempdir().unwrap();
    let (_shard, mut c) = Shard::with_index(Config::new(dir.path())).await;
    let set = |size| ShardOperation::SetSize(SetSize { size, policy: None });
    let one = (1 + DOCUMENT.len()) as u64;
    c.done(set(2 * one)).await;
    c.write("a", DOCUMENT).await;
    c.write("b", DOCUMENT).await;
    let full = WireError::QuotaExceeded { used: 2 * one, limit: 2 * one, needed: one };
    assert_eq!(c.error(write("c", DOCUMENT, Condition::Any)).await, full);
    // What takes no more than it gives back is no growth.
    c.write("a", DOCUMENT).await;
    match c.error(set(one)).await {
        WireError::QuotaExceeded { used, limit, .. } => assert_eq!((used, limit), (2 * one, one)),
        other => panic!("{other}"),
    }
    assert!(matches!(c.ask(remove("a", None)).await.answer(), ShardAnswer::Removed { .. }));
    c.write("c", DOCUMENT).await;
    assert_eq!(c.stat().await.max_size, 2 * one);
}
