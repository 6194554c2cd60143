//! What each operation does, over a socket against a real data directory.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::*;
use sherd_protocol::message::*;
use sherd_protocol::{Expiry, HashMethod, IndexSettings, Position, Range, WireError};
use sherd_server::{Config, MAX_PAGE_DOCUMENTS};

const DOCUMENT: &[u8] = b"\xabhello world";
const OTHER: &[u8] = b"\x2a";

fn found(key: &str, version: u64, document: &'static [u8]) -> ShardAnswer<'static> {
    let position = HashMethod::Md5.position(key);
    ShardAnswer::Document(Found { position, version, expires_at: 0, document })
}

#[tokio::test]
async fn a_document_is_written_read_popped_and_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (_shard, mut c) = Shard::with_index(Config::new(dir.path())).await;
    assert_eq!(c.ask(read("test")).await.answer(), ShardAnswer::Missing);
    assert_eq!(c.ask(has("test")).await.answer(), ShardAnswer::Missing);
    assert_eq!(c.ask(pop("test")).await.answer(), ShardAnswer::Missing);

    let version = c.write("test", DOCUMENT).await;
    assert_eq!(c.ask(read("test")).await.answer(), found("test", version, DOCUMENT));
    assert_eq!(c.ask(has("test")).await.answer(), found("test", version, b""));
    assert_eq!(c.ask(pop("test")).await.answer(), found("test", version, DOCUMENT));

    for gone in [read("test"), has("test"), pop("test"), remove("test", None)] {
        assert_eq!(c.ask(gone.clone()).await.answer(), ShardAnswer::Missing, "{gone:?}");
    }
    let ShardAnswer::Document(found) = found("test", 1, b"") else { unreachable!() };
    assert_eq!(found.position, Position(1_671_936), "the seed's transcript");
}

#[tokio::test]
async fn a_write_happens_when_its_condition_holds() {
    let dir = tempfile::tempdir().unwrap();
    let (_shard, mut c) = Shard::with_index(Config::new(dir.path())).await;
    let failed = |version| ShardAnswer::ConditionFailed { version };
    for needs_one in [Condition::Present, Condition::Version(1)] {
        assert_eq!(c.ask(write("k", DOCUMENT, needs_one)).await.answer(), failed(None));
    }
    let mut last = 0;
    for holds in [Condition::Absent, Condition::Any, Condition::Present, Condition::Version(0)] {
        let holds = if holds == Condition::Version(0) { Condition::Version(last) } else { holds };
        match c.ask(write("k", DOCUMENT, holds)).await.answer() {
            ShardAnswer::Written { version } if version > last => last = version,
            other => panic!("{holds:?} after version {last}: {other:?}"),
        }
    }
    for fails in [Condition::Absent, Condition::Version(last - 1), Condition::Version(last + 1)] {
        assert_eq!(c.ask(write("k", OTHER, fails)).await.answer(), failed(Some(last)));
    }
    assert_eq!(c.read("k").await.as_deref(), Some(DOCUMENT));
}

#[tokio::test]
async fn a_remove_may_name_the_version() {
    let dir = tempfile::tempdir().unwrap();
    let (_shard, mut c) = Shard::with_index(Config::new(dir.path())).await;
    let version = c.write("k", DOCUMENT).await;
    let refused = ShardAnswer::ConditionFailed { version: Some(version) };
    assert_eq!(c.ask(remove("k", Some(version + 1))).await.answer(), refused);
    match c.ask(remove("k", Some(version))).await.answer() {
        ShardAnswer::Removed { version: removal } => assert!(removal > version),
        other => panic!("{other:?}"),
    }
    assert_eq!(c.read("k").await, None);
}

#[tokio::test]
async fn the_mutations_of_a_batch_stand_each_for_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (_shard, mut c) = Shard::with_index(Config::new(dir.path())).await;
    c.write("there", DOCUMENT).await;
    let batch = |mutations| ShardOperation::Batch(Batch { mutations, atomic: false });
    let reply = c
        .ask(batch(vec![
            put("new", INDEX),
            put("there", INDEX),
            put("new", "no_such_index"),
            Mutation::Remove(Remove { index: INDEX, key: "new", version: None }),
            Mutation::Remove(Remove { index: INDEX, key: "new", version: None }),
        ]))
        .await;
    let ShardAnswer::Batch(outcomes) = reply.answer() else { panic!("{:?}", reply.answer()) };
    let no_index = WireError::IndexNotFound { index: "no_such_index".to_owned() };
    assert!(matches!(outcomes[0], MutationOutcome::Written { .. }), "{outcomes:?}");
    assert!(matches!(outcomes[1], MutationOutcome::ConditionFailed { version: Some(_) }));
    assert_eq!(outcomes[2], MutationOutcome::Error(no_index));
    assert!(matches!(outcomes[3], MutationOutcome::Removed { .. }), "{outcomes:?}");
    assert_eq!(outcomes[4], MutationOutcome::Missing);
    assert_eq!(c.ask(batch(vec![])).await.answer(), ShardAnswer::Batch(vec![]));
}

#[tokio::test]
async fn an_atomic_batch_is_all_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (_shard, mut c) = Shard::with_index(Config::new(dir.path())).await;
    let atomic = |mutations| ShardOperation::Batch(Batch { mutations, atomic: true });
    c.write("there", DOCUMENT).await;
    let missing = Mutation::Remove(Remove { index: INDEX, key: "not there", version: None });
    let failing = [put("there", INDEX), put("a", "no_such_index"), missing];
    for (i, fails) in failing.into_iter().enumerate() {
        let reply = c.ask(atomic(vec![put("a", INDEX), fails, put("b", INDEX)])).await;
        let ShardAnswer::Batch(outcomes) = reply.answer() else { panic!("{:?}", reply.answer()) };
        assert_eq!(outcomes.len(), 3);
        assert_eq!(outcomes[0], MutationOutcome::Abandoned, "case {i}");
        assert_eq!(outcomes[2], MutationOutcome::Abandoned, "case {i}");
        assert!(
            matches!(
                outcomes[1],
                MutationOutcome::ConditionFailed { .. }
                    | MutationOutcome::Error(WireError::IndexNotFound { .. })
                    | MutationOutcome::Missing
            ),
            "case {i}: {outcomes:?}"
        );
        assert_eq!((c.read("a").await, c.read("b").await), (None, None), "case {i}");
    }
    let reply = c.ask(atomic(vec![put("a", INDEX), put("b", INDEX)])).await;
    let ShardAnswer::Batch(outcomes) = reply.answer() else { panic!("{:?}", reply.answer()) };
    assert!(outcomes.iter().all(|outcome| matches!(outcome, MutationOutcome::Written { .. })));
    assert_eq!(c.read("b").await.as_deref(), Some(DOCUMENT));
}

fn put(key: &'static str, index: &'static str) -> Mutation<'static> {
    let (condition, expiry) = (Condition::Absent, Expiry::Default);
    Mutation::Write(Write { index, key, document: DOCUMENT, condition, expiry })
}

#[tokio::test]
async fn a_batch_over_the_limit_is_refused_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (_shard, mut c) = Shard::with_index(Config::new(dir.path())).await;
    let mut mutations = vec![put("k", INDEX); MAX_BATCH_MUTATIONS + 1];
    let error =
        c.error(ShardOperation::Batch(Batch { mutations: mutations.clone(), atomic: false })).await;
    assert!(matches!(&error, WireError::BadRequest(bad) if bad.place == "mutations"), "{error}");
    mutations.pop();
    let reply = c.ask(ShardOperation::Batch(Batch { mutations, atomic: false })).await;
    let ShardAnswer::Batch(outcomes) = reply.answer() else { panic!("{:?}", reply.answer()) };
    assert_eq!(outcomes.len(), MAX_BATCH_MUTATIONS);
    assert!(matches!(outcomes[0], MutationOutcome::Written { .. }));
    assert!(matches!(outcomes[1], MutationOutcome::ConditionFailed { .. }));
}

/// Scans to the end and returns what the pages held: positions, keys, documents' bytes.
async fn scan_all(
    c: &mut Connection,
    range: Range,
    limit: u32,
    keys_only: bool,
) -> (usize, Vec<(Position, String, Vec<u8>)>) {
    let (mut pages, mut all) = (0, Vec::<(Position, String, Vec<u8>)>::new());
    loop {
        let last = all.last().map(|(position, key, _)| (*position, key.clone()));
        let after = last.as_ref().map(|(position, key)| Cursor { position: *position, key });
        let scan = Scan { index: INDEX, range, after, limit, keys_only };
        let reply = c.ask(ShardOperation::Scan(scan)).await;
        let ShardAnswer::Page(page) = reply.answer() else { panic!("{:?}", reply.answer()) };
        assert!(page.items.len() <= limit as usize);
        assert!(!page.more || !page.items.is_empty(), "no progress");
        pages += 1;
        for item in page.items {
            all.push((item.position, item.key.to_owned(), item.document.to_vec()));
        }
        if !page.more {
            return (pages, all);
        }
    }
}

#[tokio::test]
async fn a_scan_goes_through_an_index_in_ring_order() {
    let dir = tempfile::tempdir().unwrap();
    let (_shard, mut c) = Shard::with_index(Config::new(dir.path())).await;
    let mut expected = Vec::new();
    for i in 0..500u16 {
        let key = format!("key:{i}");
        let document = [&[0xcd][..], &i.to_be_bytes()].concat();
        c.write(&key, &document).await;
        expected.push((HashMethod::Md5.position(&key), key, document));
    }
    expected.sort();
    for limit in [1, 7, 500, 501, u32::MAX] {
        let (pages, all) = scan_all(&mut c, Range::FULL, limit, false).await;
        assert_eq!(all, expected, "limit {limit}");
        assert!(pages >= 500usize.div_ceil(limit as usize), "limit {limit}: {pages} pages");
    }
    let (_, keys) = scan_all(&mut c, Range::FULL, 100, true).await;
    assert!(keys.iter().all(|(_, _, document)| document.is_empty()));
    assert!(keys.iter().map(|item| &item.1).eq(expected.iter().map(|item| &item.1)));

    let part = Range { start: 2_000_000, end: 7_000_000 };
    let (_, inside) = scan_all(&mut c, part, 100, false).await;
    let expected_inside: Vec<_> =
        expected.iter().filter(|item| part.contains(item.0)).cloned().collect();
    assert_eq!(inside, expected_inside);
    let empty = Range { start: 5, end: 5 };
    assert_eq!(scan_all(&mut c, empty, 100, false).await, (1, vec![]));
}

#[tokio::test]
async fn pages_are_bounded_and_fit_a_frame() {
    let dir = tempfile::tempdir().unwrap();
    let (_shard, mut c) = Shard::with_index(Config::new(dir.path())).await;
    // A page almost full, and then the largest document: the fullest page there can be.
    let binary = |length: usize| {
        let mut document = vec![0xc6];
        document.extend_from_slice(&((length - 5) as u32).to_be_bytes());
        document.resize(length, 7);
        document
    };
    let mut keys: Vec<_> = (0..4).map(|i| format!("key:{i}")).collect();
    keys.sort_by_key(|key| HashMethod::Md5.position(key));
    c.write(&keys[0], &binary(sherd_server::PAGE_BYTES - 100)).await;
    for key in &keys[1..] {
        c.write(key, &binary(sherd_protocol::MAX_DOCUMENT_BYTES)).await;
    }
    let (pages, all) = scan_all(&mut c, Range::FULL, 1000, false).await;
    assert_eq!((pages, all.len()), (3, 4));
    assert!(all.iter().map(|item| &item.1).eq(&keys));
    // Keys alone: short ones are bounded by their number.
    for chunk in 0..2 {
        let keys: Vec<_> = (0..6000).map(|i| format!("{chunk}:{i}")).collect();
        let mutations = keys
            .iter()
            .map(|key| {
                Mutation::Write(Write {
                    index: INDEX,
                    key,
                    document: OTHER,
                    condition: Condition::Absent,
                    expiry: Expiry::Default,
                })
            })
            .collect();
        c.ask(ShardOperation::Batch(Batch { mutations, atomic: false })).await;
    }
    let (pages, all) = scan_all(&mut c, Range::FULL, u32::MAX, true).await;
    assert_eq!(all.len(), 12_004);
    assert_eq!(pages, 12_004usize.div_ceil(MAX_PAGE_DOCUMENTS));
}

#[tokio::test]
async fn stat_says_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let (_shard, mut c) = Shard::with_index(Config::new(dir.path())).await;
    let other = Index { id: 2, name: "another".to_owned(), settings: IndexSettings::default() };
    c.done(ShardOperation::CreateIndex(other)).await;
    for i in 0..100 {
        c.write(&format!("key:{i}"), DOCUMENT).await;
    }
    let stat = c.stat().await;
    let used = (0..100).map(|i| format!("key:{i}").len() + DOCUMENT.len()).sum::<usize>() as u64;
    assert_eq!((stat.documents, stat.used), (100, used));
    assert_eq!(stat.distribution.iter().sum::<u64>(), 100);
    assert_eq!(
        (stat.cluster.as_str(), stat.name.as_str(), stat.epoch, stat.max_size),
        (CLUSTER, "shard0", 1, 1 << 30)
    );
    assert_eq!(stat.ranges, [Range::FULL]);
    let index = |id, name: &str, documents, used| {
        let (settings, counts) = (IndexSettings::default(), Counts::default());
        IndexStat { id, name: name.to_owned(), documents, used, settings, counts }
    };
    assert_eq!(stat.indexes, [index(2, "another", 0, 0), index(1, INDEX, 100, used)]);
    assert_eq!((stat.locked_by, stat.poisoned), (None, None));
    assert!(stat.durable_lsn >= 103 && stat.segments >= 1 && stat.log_bytes > 0);
    assert_eq!((stat.connections, stat.pid), (1, std::process::id()));
}

#[tokio::test]
async fn digests_are_of_what_is_owned_under_the_epoch_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let shard = Shard::start(dir.path()).await;
    let mut c = Connection::open(shard.address).await;
    assert_eq!(c.error(ShardOperation::Digests).await, WireError::WrongShard { epoch: 0 });
    drop((c, shard.stop().await.unwrap()));

    let (_shard, mut c) = Shard::with_index(Config::new(dir.path())).await;
    let empty = Digests { epoch: 1, ranges: vec![Range::FULL], sums: Vec::new() };
    assert_eq!(c.digests().await, empty);
    // By md5, `test` is at 1,671,936 and `test1` at 8,204,544.
    c.write("test", DOCUMENT).await;
    let lower = c.digests().await.sums;
    c.write("test1", DOCUMENT).await;
    let both = c.digests().await.sums;
    assert_eq!((lower.len(), lower[0].index, lower[0].documents), (1, INDEX_ID, 1));
    assert_eq!(lower[0].bytes, ("test".len() + DOCUMENT.len()) as u64);
    assert_eq!((both.len(), both[0].documents), (1, 2));
    assert_ne!(both[0].digest, lower[0].digest);
    // What was given up is there for a while, and is another shard's.
    let half = Range { start: 0, end: 5_000_000 };
    let assignment = Assignment { epoch: 2, ranges: vec![half], ..assignment() };
    c.done(ShardOperation::Assign(assignment)).await;
    assert_eq!(c.digests().await, Digests { epoch: 2, ranges: vec![half], sums: lower });
}

#[tokio::test]
async fn requests_without_waiting_are_all_answered() {
    let dir = tempfile::tempdir().unwrap();
    let (_shard, mut c) = Shard::with_index(Config::new(dir.path())).await;
    let keys: Vec<_> = (0..2000).map(|i| format!("key:{i}")).collect();
    let (mut asked, mut answered) = (Vec::new(), Vec::new());
    for key in &keys {
        asked.push(c.send(&write(key, DOCUMENT, Condition::Absent)).await);
        asked.push(c.send(&read(key)).await);
    }
    for _ in &asked {
        let reply = c.receive().await.expect("an answer");
        match reply.answer() {
            ShardAnswer::Written { .. } | ShardAnswer::Document(_) | ShardAnswer::Missing => {}
            other => panic!("{other:?}"),
        }
        answered.push(reply.id);
    }
    answered.sort_unstable();
    assert_eq!(answered, asked);
    assert_eq!(c.stat().await.documents, 2000);
}

/// A popped document is gone, so whoever got it is the only one, also while others rewrite it; and
/// none is gone that nobody got.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_pops_never_lose_or_double_a_document() {
    const KEYS: u32 = 4;
    const WRITES: u32 = 300;
    let dir = tempfile::tempdir().unwrap();
    let (shard, mut c) = Shard::with_index(Config::new(dir.path())).await;
    let address = shard.address;
    let mut writers = Vec::new();
    for writer in 0..4 {
        writers.push(tokio::spawn(async move {
            let mut c = Connection::open(address).await;
            let mut written = Vec::new();
            for i in 0..WRITES {
                let (key, mark) = (i % KEYS, writer * WRITES + i);
                let document = [&[0xce][..], &mark.to_be_bytes()].concat();
                // Some insert, some rewrite, so that pops meet other versions than they read.
                let insert = (i / KEYS).is_multiple_of(2);
                let condition = if insert { Condition::Absent } else { Condition::Any };
                match c.ask(write(&format!("key:{key}"), &document, condition)).await.answer() {
                    ShardAnswer::Written { version } => written.push((key, version, mark, insert)),
                    ShardAnswer::ConditionFailed { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
            written
        }));
    }
    let mut poppers = Vec::new();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    for _ in 0..4 {
        let stopped = stopped.clone();
        poppers.push(tokio::spawn(async move {
            let mut c = Connection::open(address).await;
            let mut popped = Vec::new();
            while !*stopped.borrow() {
                for key in 0..KEYS {
                    match c.ask(pop(&format!("key:{key}"))).await.answer() {
                        ShardAnswer::Document(found) => {
                            let mark = u32::from_be_bytes(found.document[1..].try_into().unwrap());
                            popped.push((found.version, mark));
                        }
                        ShardAnswer::Missing => {}
                        other => panic!("{other:?}"),
                    }
                }
            }
            popped
        }));
    }
    let (mut written, mut popped) = (Vec::new(), std::collections::BTreeMap::new());
    for writer in writers {
        written.extend(writer.await.unwrap());
    }
    stop.send(true).unwrap();
    for popper in poppers {
        for (version, mark) in popper.await.unwrap() {
            assert_eq!(popped.insert(version, mark), None, "version {version} was popped twice");
        }
    }
    for key in 0..KEYS {
        if let Some(left) = c.read(&format!("key:{key}")).await {
            let mark = u32::from_be_bytes(left[1..].try_into().unwrap());
            let (_, version, ..) = *written.iter().find(|write| write.2 == mark).unwrap();
            assert_eq!(popped.insert(version, mark), None, "version {version} is popped and there");
        }
    }
    written.sort_unstable();
    for (i, &(key, version, mark, _)) in written.iter().enumerate() {
        let followed_by_rewrite = written.get(i + 1).is_some_and(|next| next.0 == key && !next.3);
        match popped.remove(&version) {
            Some(found) => assert_eq!(found, mark, "version {version} is of another write"),
            None => assert!(followed_by_rewrite, "version {version} of key {key} is lost"),
        }
    }
    assert_eq!(popped.len(), 0, "popped what nobody wrote: {popped:?}");
}

/// Nobody else removes the document, so a pop must not say that there is none because others
/// rewrote it while it looked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pop_of_a_document_that_is_being_rewritten_finds_it() {
    let dir = tempfile::tempdir().unwrap();
    let (shard, mut c) = Shard::with_index(Config::new(dir.path())).await;
    let address = shard.address;
    let mut writers = Vec::new();
    for _ in 0..3 {
        writers.push(tokio::spawn(async move {
            let mut c = Connection::open(address).await;
            loop {
                c.write("k", OTHER).await;
            }
        }));
    }
    for round in 0..200 {
        c.write("k", DOCUMENT).await;
        match c.ask(pop("k")).await.answer() {
            ShardAnswer::Document(_) => {}
            // Contention so bad that it gave up, and removed nothing.
            ShardAnswer::Error(WireError::Unavailable { .. }) => {}
            other => panic!("round {round}: {other:?}"),
        }
    }
    writers.iter().for_each(tokio::task::JoinHandle::abort);
}
