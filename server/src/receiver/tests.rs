//! A source and a target over loopback, with engines that the tests reach into, and requests to the
//! source that the tests see before it does.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sherd_client::{ConnectOptions, Connection, ShardReply};
use sherd_engine::{
    Command, Engine, IndexSettings, Key, Mutation, MutationOutcome, Options, Outcome,
};
use sherd_node::{Handler, Limits, Node, Responder};
use sherd_protocol::message::{
    Condition, Export, Freeze, Hello, MoveId, MoveProgress, Receive, ShardOperation,
    SourceOperation, TailCursor, TargetOperation, Welcome, Write,
};
use sherd_protocol::{Expiry, HashMethod, Range, WireError, frame};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use super::note::Note;
use crate::found_at::FoundAt;
use crate::shard::{Service, Shard};

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(30);

const ID: &str = "1.0";

/// A document, and another one.
const DOCUMENTS: [&[u8]; 2] = [b"\xa5hello", b"\xa5world"];

/// Sees a request before the shard does.
type Spy = Arc<dyn Fn(&ShardOperation<'_>, &Engine) + Send + Sync>;

struct Spied {
    service: Service,
    engine: Engine,
    spy: Spy,
}

impl Handler for Spied {
    fn welcome(&self, hello: &Hello) -> Result<Welcome, WireError> {
        self.service.welcome(hello)
    }

    fn handle(&self, body: Bytes, responder: Responder) {
        if let Ok(operation) = frame::decode(&body) {
            (self.spy)(&operation, &self.engine);
        }
        self.service.handle(body, responder);
    }
}

/// A shard that serves.
struct Served {
    engine: Engine,
    shard: Arc<Shard>,
    address: String,
    connection: Connection,
    _dir: TempDir,
}

impl Served {
    /// A shard with the indexes 1 and 2.
    async fn start(name: &str, ranges: &[(u32, u32)], spy: Spy) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { segment_bytes: 64 * 1024, ..Options::default() };
        let (engine, _) = Engine::open(dir.path(), options).unwrap();
        let assignment = sherd_engine::Assignment {
            cluster: "c".to_owned(),
            name: name.to_owned(),
            hash_method: HashMethod::Md5.to_string(),
            epoch: 1,
            lineage: 0,
            ranges: ranges.to_vec(),
            limit: 1 << 30,
            policy: sherd_engine::Policy::Reject,
        };
        engine.execute(Command::Assign(assignment)).unwrap();
        for (id, name) in [(1, "i"), (2, "j")] {
            let (name, settings) = (name.to_owned(), IndexSettings::default());
            engine.execute(Command::CreateIndex { id, name, settings }).unwrap();
        }
        let node = Node::new(Limits::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let found_at = FoundAt::new(dir.path(), address);
        let options = ConnectOptions::default();
        let shard = Shard::new(engine.clone(), node.clone(), None, options, found_at);
        let address = address.to_string();
        let shard = Arc::new(shard.unwrap());
        let service = Service(Arc::clone(&shard));
        let handler = Spied { service, engine: engine.clone(), spy };
        tokio::spawn(async move { node.serve(listener, handler, std::future::pending()).await });
        let connection = Connection::open(&address, &ConnectOptions::default()).await.unwrap();
        Self { engine, shard, address, connection, _dir: dir }
    }

    async fn ask(&self, operation: ShardOperation<'_>) -> Result<ShardReply, WireError> {
        let answer = self.connection.shard(&operation, Instant::now() + PATIENCE).await;
        answer.map_err(|error| error.wire().cloned().unwrap_or_else(|| panic!("{error}")))
    }

    async fn write(&self, index: &str, key: &str, document: &[u8]) {
        let (condition, expiry) = (Condition::Any, Expiry::Default);
        let write = Write { index, key, document, condition, expiry };
        self.ask(ShardOperation::Write(write)).await.unwrap();
    }

    async fn target(&self, operation: TargetOperation<'_>) -> Result<ShardReply, WireError> {
        self.ask(ShardOperation::Target(operation)).await
    }

    async fn complete(&self) -> Result<ShardReply, WireError> {
        self.target(TargetOperation::Complete(MoveId { id: ID })).await
    }

    /// Asks for the completion, which must succeed.
    async fn completes(&self) {
        let frozen = self.complete().await.unwrap();
        assert!(matches!(frozen, ShardReply::Frozen { .. }), "{frozen:?}");
    }

    /// Takes the whole ring over.
    async fn receive(&self, from: &Self, rate: Option<u64>) {
        let receive = Receive { id: ID, range: Range::FULL, from: &from.address, rate };
        self.target(TargetOperation::Receive(receive)).await.unwrap();
    }

    async fn incoming(&self) -> MoveProgress {
        match self.ask(ShardOperation::Stat).await.unwrap() {
            ShardReply::Stat(stat) => stat.incoming.unwrap_or_default(),
            other => panic!("{other:?}"),
        }
    }

    /// Waits until something is said of what comes.
    async fn until(&self, what: &str, is_so: impl Fn(&MoveProgress) -> bool) {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let incoming = self.incoming().await;
            if is_so(&incoming) {
                return;
            }
            assert!(Instant::now() < give_up, "never {what}: {incoming:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn until_copied(&self) {
        self.until("copied", |incoming| incoming.copied && incoming.behind == 0).await;
    }

    /// As after a restart: the target remembers how far it was.
    fn remember(&self, note: &Note) {
        let ranges = vec![(Range::FULL.start, Range::FULL.end)];
        self.engine.execute(Command::Receive { id: ID.to_owned(), ranges }).unwrap();
        self.import(Vec::new(), note);
    }

    fn import(&self, documents: Vec<sherd_engine::Imported>, note: &Note) {
        let (id, note) = (ID.to_owned(), note.encode());
        let import = sherd_engine::Import { id, documents, whole: None, as_of: 0, note };
        self.engine.import(import).unwrap();
    }
}

fn key(name: &'static str) -> Key {
    Key { position: HashMethod::Md5.position(name).0, bytes: Bytes::from_static(name.as_bytes()) }
}

/// A document of a binary value of 1,024 such bytes.
fn kilobyte(byte: u8) -> Vec<u8> {
    [&b"\xc5\x04\x00"[..], &[byte; 1024]].concat()
}

/// A write past the protocol.
fn put(name: &'static str, document: &'static [u8]) -> Command {
    let write = Mutation::Write {
        index: 1,
        key: key(name),
        document: Bytes::from_static(document),
        condition: sherd_engine::Condition::Any,
        expiry: sherd_engine::Expiry::Default,
    };
    Command::Mutate { mutations: vec![write], atomic: false }
}

fn no_spy() -> Spy {
    Arc::new(|_, _| {})
}

/// A source of the whole ring and a target of nothing.
async fn pair(spy: Spy) -> (Served, Served) {
    let source = Served::start("source", &[(Range::FULL.start, Range::FULL.end)], spy).await;
    (source, Served::start("target", &[], no_spy()).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_source_is_told_to_hold_its_log_while_pages_are_read() {
    let held = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&held);
    let spy = move |operation: &ShardOperation<'_>, _: &Engine| {
        if let ShardOperation::Source(SourceOperation::Export(Export { hold, .. })) = operation {
            seen.lock().push(*hold);
        }
    };
    let (source, target) = pair(Arc::new(spy)).await;
    for i in 0..300 {
        source.write("i", &format!("key{i}"), &kilobyte(7)).await;
    }
    let lsn = source.engine.tail_end().lsn;
    target.receive(&source, None).await;
    target.until_copied().await;
    let held = held.lock();
    let end = TailCursor { lsn, ..TailCursor::default() };
    assert!(held.len() > 2, "{held:?}");
    assert!(held.iter().all(|hold| *hold == Some(end)), "{held:?}");
}

/// What is changed while pages are read, before and behind the page that is, in two indexes: nothing of it is
/// missed, and what later pages have shown is not stored once more.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_pages_have_shown_is_not_taken_from_the_log_again() {
    const DOCUMENTS: usize = 2_000;
    const CHANGES: usize = 40;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let rng = Mutex::new(StdRng::seed_from_u64(seed));
    let change = |rng: &mut StdRng, index: u32, number: usize| {
        let name = format!("key{number}");
        let position = HashMethod::Md5.position(&name).0;
        let key = Key { position, bytes: name.into() };
        if rng.random() {
            return Mutation::Remove { index, key, version: None };
        }
        let document = kilobyte(rng.random()).into();
        let (condition, expiry) = (sherd_engine::Condition::Any, sherd_engine::Expiry::Default);
        Mutation::Write { index, key, document, condition, expiry }
    };
    let changed = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&changed);
    let spy = move |operation: &ShardOperation<'_>, engine: &Engine| {
        if let ShardOperation::Source(SourceOperation::Export(_)) = operation {
            let rng = &mut *rng.lock();
            let changes = (0..CHANGES).map(|_| {
                let (index, number) = (rng.random_range(1..3), rng.random_range(..DOCUMENTS));
                change(rng, index, number)
            });
            let mutations = changes.collect();
            let outcome = engine.execute(Command::Mutate { mutations, atomic: false }).unwrap();
            let Outcome::Mutated(outcomes) = outcome else { panic!("{outcome:?}") };
            let missing = |outcome: &&MutationOutcome| **outcome == MutationOutcome::Missing;
            let done = outcomes.len() - outcomes.iter().filter(missing).count();
            count.fetch_add(done as u64, Ordering::Relaxed);
        }
    };
    let (source, target) = pair(Arc::new(spy)).await;
    for index in [1, 2] {
        let rng = &mut StdRng::seed_from_u64(seed);
        let mutations = (0..2 * DOCUMENTS).map(|number| change(rng, index, number % DOCUMENTS));
        let mutations = mutations.collect();
        source.engine.execute(Command::Mutate { mutations, atomic: false }).unwrap();
    }
    let loaded = source.engine.stat().documents;
    // Some twenty pages a second.
    target.receive(&source, Some(1_200_000)).await;
    target.until_copied().await;
    target.completes().await;
    let (changed, brought) = (changed.load(Ordering::Relaxed), target.incoming().await.documents);
    println!("{changed} changes of {loaded} documents, {brought} brought");
    assert!(changed > 500 && brought > loaded);
    assert!(brought < loaded + changed * 17 / 20);
}

/// The target was away for so long that the source has deleted what it had not read.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_range_is_read_anew_where_the_log_was_compacted_meanwhile() {
    for copied in [false, true] {
        let (source, target) = pair(no_spy()).await;
        for round in 0..300 {
            let document = kilobyte(round as u8);
            source.write("i", &format!("key{}", round % 10), &document).await;
        }
        source.write("j", "key", DOCUMENTS[0]).await;
        while source.engine.compact().unwrap().is_some() {}
        let beginning = TailCursor { lsn: 1, ..TailCursor::default() };
        let is_there = sherd_engine::TailCursor { lsn: 1, ..Default::default() };
        assert!(!source.engine.hold_log(is_there), "compaction deletes the beginning");
        let note = Note { tail: beginning, copied, reading: Some((1, None)), ..Note::default() };
        target.remember(&note);
        target.receive(&source, None).await;
        target.until("anew", |incoming| incoming.copied && incoming.documents >= 11).await;
        target.completes().await;
    }
}

/// The source served the range again before it was compared, so that both differ without a fault.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_freeze_that_runs_out_before_the_comparison_is_tried_again() {
    let thaws = Arc::new(Mutex::new(1));
    let spy = move |operation: &ShardOperation<'_>, engine: &Engine| {
        let is_summed_up = matches!(operation, ShardOperation::Source(SourceOperation::Sums(_)));
        let mut thaws = thaws.lock();
        if is_summed_up && *thaws > 0 {
            *thaws -= 1;
            engine.execute(Command::Thaw { id: ID.to_owned() }).unwrap();
            engine.execute(put("key", DOCUMENTS[1])).unwrap();
        }
    };
    let (source, target) = pair(Arc::new(spy)).await;
    source.write("i", "key", DOCUMENTS[0]).await;
    target.receive(&source, None).await;
    target.until_copied().await;
    let error = target.complete().await.unwrap_err();
    assert!(matches!(error, WireError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("not frozen"), "{error}");
    target.completes().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_target_with_another_document_is_found_out_and_the_source_goes_on() {
    let (source, target) = pair(no_spy()).await;
    for key in ["key", "another"] {
        source.write("i", key, DOCUMENTS[0]).await;
    }
    target.receive(&source, None).await;
    target.until_copied().await;
    // As long, and newer, so that nothing that comes replaces it.
    let document = Bytes::from_static(DOCUMENTS[1]);
    let version = source.engine.tail_end().lsn + 1000;
    let altered =
        sherd_engine::Imported::Put { index: 1, key: key("key"), version, expires_at: 0, document };
    let note = Note::decode(&target.engine.incoming().unwrap().note).unwrap();
    target.import(vec![altered], &note);
    let error = target.complete().await.unwrap_err();
    let WireError::Mismatch { id, what } = &error else { panic!("{error}") };
    assert_eq!(id, ID);
    assert!(what.contains("the index with the id 1"), "{what}");
    assert!(what.contains("source has 2 documents") && what.contains("target 2"), "{what}");
    // The source owns the range and is not frozen.
    source.write("i", "key", DOCUMENTS[0]).await;
    let owned = &source.engine.assignment().unwrap().ranges;
    assert_eq!(owned[..], [(Range::FULL.start, Range::FULL.end)]);
    assert!(target.engine.assignment().unwrap().ranges.is_empty());
}

/// Until the range is served again or belongs to another shard, and no longer than a caller can wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_change_in_a_frozen_range_waits_for_what_becomes_of_it() {
    let source = Served::start("source", &[(Range::FULL.start, Range::FULL.end)], no_spy()).await;
    let freeze = async || {
        let freeze = Freeze { id: ID, range: Range::FULL, at_most: 60_000 };
        source.ask(ShardOperation::Source(SourceOperation::Freeze(freeze))).await.unwrap();
    };
    let write = async || {
        let (condition, expiry) = (Condition::Any, Expiry::Default);
        let write = Write { index: "i", key: "key", document: DOCUMENTS[0], condition, expiry };
        source.ask(ShardOperation::Write(write)).await
    };
    let until_parked = async || {
        let give_up = Instant::now() + PATIENCE;
        while source.shard.parked.len() == 0 {
            assert!(Instant::now() < give_up, "nothing waits");
            sleep(Duration::from_millis(1)).await;
        }
    };
    freeze().await;
    let thaw = async {
        until_parked().await;
        source.ask(ShardOperation::Source(SourceOperation::Thaw(MoveId { id: ID }))).await
    };
    let (written, thawed) = tokio::join!(write(), thaw);
    thawed.unwrap();
    assert!(matches!(written, Ok(ShardReply::Written { .. })), "{written:?}");

    freeze().await;
    let give_up = async {
        until_parked().await;
        let held = source.engine.assignment().unwrap();
        let assignment = sherd_engine::Assignment { epoch: 2, ranges: vec![], ..(*held).clone() };
        source.engine.execute(Command::Assign(assignment)).unwrap();
    };
    let (written, ()) = tokio::join!(write(), give_up);
    assert_eq!(written.unwrap_err(), WireError::WrongShard { epoch: 2 });
    assert_eq!(source.shard.parked.len(), 0);

    let held = source.engine.assignment().unwrap();
    let ranges = vec![(Range::FULL.start, Range::FULL.end)];
    let assignment = sherd_engine::Assignment { epoch: 3, ranges, ..(*held).clone() };
    let assigned = async || source.engine.execute(Command::Assign(assignment.clone())).is_ok();
    let give_up = Instant::now() + PATIENCE;
    while !assigned().await {
        assert!(Instant::now() < give_up, "what was given up is never cleared away");
        sleep(Duration::from_millis(5)).await;
    }
    freeze().await;
    let refused = write().await.unwrap_err();
    assert!(matches!(refused, WireError::Unavailable { .. }), "{refused}");
}

/// Whoever reads of it is to give that index more.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_target_without_room_says_in_which_index() {
    let (source, target) = pair(no_spy()).await;
    source.write("j", "key", DOCUMENTS[0]).await;
    let settings = IndexSettings { max_bytes: Some(3), ..IndexSettings::default() };
    target.engine.execute(Command::SetIndex { id: 2, settings, force: false }).unwrap();
    target.receive(&source, None).await;
    let is_named = |why: &String| why.contains("\"j\"");
    target.until("refused", |incoming| incoming.error.as_ref().is_some_and(is_named)).await;
    let settings = IndexSettings::default();
    target.engine.execute(Command::SetIndex { id: 2, settings, force: false }).unwrap();
    target.until_copied().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_index_dropped_half_way_is_left_out() {
    let (source, target) = pair(no_spy()).await;
    source.write("i", "key", DOCUMENTS[0]).await;
    source.write("j", "key", DOCUMENTS[0]).await;
    target.receive(&source, None).await;
    target.until_copied().await;
    source.engine.execute(Command::DropIndex { id: 1 }).unwrap();
    // Bootstrap has not told the target yet.
    let error = target.complete().await.unwrap_err();
    assert!(matches!(error, WireError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("an index is being created or dropped"), "{error}");
    target.engine.execute(Command::DropIndex { id: 1 }).unwrap();
    target.completes().await;

    // While it is read.
    let (source, target) = pair(no_spy()).await;
    source.write("j", "key", DOCUMENTS[0]).await;
    let cursor = source.engine.tail_end();
    let tail = TailCursor { lsn: cursor.lsn, ..TailCursor::default() };
    let reading = Some((1, Some((7, "key".to_owned()))));
    target.remember(&Note { tail, reading, ..Note::default() });
    for engine in [&source.engine, &target.engine] {
        engine.execute(Command::DropIndex { id: 1 }).unwrap();
    }
    target.receive(&source, None).await;
    target.until_copied().await;
    target.completes().await;
    assert_eq!(target.incoming().await.documents, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pause_ends_when_something_else_is_said() {
    let (source, target) = pair(no_spy()).await;
    for i in 0..300 {
        source.write("i", &format!("key{i}"), &kilobyte(7)).await;
    }
    // The first page is paid off after a day.
    target.receive(&source, Some(1)).await;
    target.until("begun", |incoming| incoming.documents > 0).await;
    let incoming = target.incoming().await;
    assert!(!incoming.copied, "{incoming:?}");
    target.receive(&source, Some(0)).await;
    let error = target.complete().await.unwrap_err();
    assert!(error.to_string().contains("it is paused"), "{error}");
    let paused = target.incoming().await;
    assert_eq!((paused.documents, paused.error), (incoming.documents, None));
    target.receive(&source, Some(1)).await;
    target.until("on", |now| now.documents > incoming.documents).await;
    target.receive(&source, None).await;
    target.until_copied().await;
    assert_eq!(target.incoming().await.documents, 300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_those_who_wait_for_the_completion_the_last_is_answered() {
    let (go_on, held) = std::sync::mpsc::channel::<()>();
    let summed_up = Arc::new(AtomicBool::new(false));
    let (held, seen) = (Mutex::new(held), Arc::clone(&summed_up));
    let spy = move |operation: &ShardOperation<'_>, _: &Engine| {
        if matches!(operation, ShardOperation::Source(SourceOperation::Sums(_)))
            && !seen.swap(true, Ordering::AcqRel)
        {
            tokio::task::block_in_place(|| _ = held.lock().recv());
        }
    };
    let (source, target) = pair(Arc::new(spy)).await;
    source.write("i", "key", DOCUMENTS[0]).await;
    target.receive(&source, None).await;
    target.until_copied().await;
    let target = Arc::new(target);
    let ask = || {
        let target = Arc::clone(&target);
        tokio::spawn(async move { target.complete().await })
    };
    let first = ask();
    let give_up = Instant::now() + PATIENCE;
    while !summed_up.load(Ordering::Acquire) {
        assert!(Instant::now() < give_up, "it never completes");
        sleep(Duration::from_millis(5)).await;
    }
    // While the first is being answered, only one can wait: which of the two came later is not known.
    let (second, third) = (ask(), ask());
    let refused = async {
        loop {
            for waiting in [&second, &third] {
                if waiting.is_finished() {
                    return;
                }
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("one of two is refused at once");
    go_on.send(()).unwrap();
    let first = first.await.unwrap().unwrap();
    assert!(matches!(first, ShardReply::Frozen { .. }), "{first:?}");
    let (answers, refusals): (Vec<_>, Vec<_>) =
        [second.await.unwrap(), third.await.unwrap()].into_iter().partition(Result::is_ok);
    assert_eq!((answers.len(), refusals.len()), (1, 1));
    let error = refusals[0].as_ref().unwrap_err();
    assert!(error.to_string().contains("asked for again"), "{error}");

    // Of a move that has ended nobody waits for anything.
    target.target(TargetOperation::Stop(MoveId { id: ID })).await.unwrap();
    let error = target.complete().await.unwrap_err();
    assert!(matches!(error, WireError::Unavailable { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_next_page_is_asked_for_while_one_is_imported() {
    let (go_on, asked_again) = std::sync::mpsc::channel();
    let waited = Arc::new(Mutex::new(None));
    let stalled = Arc::new(OnceLock::<Engine>::new());
    let (state, exports) = (Mutex::new(Some((asked_again, Arc::clone(&waited)))), Mutex::new(0));
    let target = Arc::clone(&stalled);
    let spy = move |operation: &ShardOperation<'_>, _: &Engine| {
        if !matches!(operation, ShardOperation::Source(SourceOperation::Export(_))) {
            return;
        }
        *exports.lock() += 1;
        if let Some((asked_again, waited)) = state.lock().take() {
            // The target imports nothing until it has asked for more.
            let done = move |_| *waited.lock() = Some(asked_again.recv_timeout(PATIENCE));
            let nothing = Command::Thaw { id: ID.to_owned() };
            target.get().unwrap().submit(nothing, Box::new(done));
        } else {
            _ = go_on.send(*exports.lock());
        }
    };
    let (source, target) = pair(Arc::new(spy)).await;
    assert!(stalled.set(target.engine.clone()).is_ok());
    for i in 0..300 {
        source.write("i", &format!("key{i}"), &kilobyte(7)).await;
    }
    target.receive(&source, None).await;
    target.until_copied().await;
    assert_eq!(*waited.lock(), Some(Ok(2)));
    assert_eq!(target.incoming().await.documents, 300);
    target.completes().await;
}
