//! Starting and stopping: what is in flight is finished, what is acknowledged is there again, and
//! a process that could not keep its promise says so.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

#[cfg(target_os = "linux")]
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::*;
use sherd_protocol::message::*;
use sherd_protocol::{Expiry, IndexSettings, WireError};
use sherd_server::{Config, Error};
use tokio::net::{TcpListener, TcpStream};

const DOCUMENT: &[u8] = b"\xabhello world";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_answers_every_request_and_keeps_what_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let (shard, c) = Shard::with_index(Config::new(dir.path())).await;
    drop(c);
    let address = shard.address;
    let mut writers = Vec::new();
    let (first, mut started) = tokio::sync::mpsc::channel(1);
    for writer in 0..8 {
        let first = first.clone();
        writers.push(tokio::spawn(async move {
            let mut c = Connection::open(address).await;
            let (mut acknowledged, mut refused) = (Vec::new(), 0);
            for i in 0.. {
                let key = format!("{writer}:{i}");
                c.send(&write(&key, DOCUMENT, Condition::Absent)).await;
                // The connection ends between requests only: each that was sent and is not
                // answered was sent after the node had ended its side.
                let Some(reply) = c.receive().await else { break };
                match reply.answer() {
                    ShardAnswer::Written { .. } => acknowledged.push(key),
                    ShardAnswer::Error(WireError::ShuttingDown) => refused += 1,
                    other => panic!("{other:?}"),
                }
                _ = first.try_send(());
                if refused > 0 {
                    break;
                }
            }
            acknowledged
        }));
    }
    for _ in 0..100 {
        started.recv().await.unwrap();
    }
    shard.stop().await.unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");

    let shard = Shard::start(dir.path()).await;
    let mut c = Connection::open(shard.address).await;
    let mut count = 0;
    for writer in writers {
        for key in writer.await.unwrap() {
            assert_eq!(c.read(&key).await.as_deref(), Some(DOCUMENT), "{key}");
            count += 1;
        }
    }
    assert!(count >= 100);
    // A request may have been done and its answer not have got through, but no more than one each.
    assert!((count..=count + 8).contains(&c.stat().await.documents), "{count} acknowledged");
}

#[tokio::test]
async fn a_clean_stop_leaves_nothing_to_replay() {
    let dir = tempfile::tempdir().unwrap();
    let (shard, mut c) = Shard::with_index(Config::new(dir.path())).await;
    for i in 0..100 {
        c.write(&format!("key:{i}"), DOCUMENT).await;
    }
    drop(c);
    shard.stop().await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut replayed = None;
    let ready = |recovery: &sherd_engine::Recovery, _| replayed = Some(recovery.replayed);
    let stop_at_once = std::future::ready(());
    sherd_server::run(listener, Config::new(dir.path()), ready, stop_at_once).await.unwrap();
    assert_eq!(replayed, Some(0));
}

#[tokio::test]
async fn a_data_directory_serves_one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let _shard = Shard::start(dir.path()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let second = sherd_server::run(
        listener,
        Config::new(dir.path()),
        |_, _| panic!("not ready"),
        std::future::pending(),
    );
    match second.await {
        Err(Error::Open { data, error: sherd_engine::Error::InUse { .. } }) => {
            assert_eq!(data, dir.path());
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_limit_too_small_for_a_document_is_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(dir.path());
    config.limits.frame_bytes = 1 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let run = sherd_server::run(listener, config, |_, _| {}, std::future::pending());
    assert!(matches!(run.await, Err(Error::FrameLimit { limit: 1_048_576 })));
}

#[tokio::test]
async fn only_the_token_opens_a_shard() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(dir.path());
    config.token = Some("secret".to_owned());
    let shard = Shard::start_with(config).await;
    for wrong in [None, Some("Secret".to_owned())] {
        let (_, answer) =
            Connection::greet(shard.address, &Hello { token: wrong, ..hello() }).await;
        assert_eq!(answer, HelloAnswer::Refused(WireError::Unauthorized));
    }
    let token = Some("secret".to_owned());
    let (_, answer) = Connection::greet(shard.address, &Hello { token, ..hello() }).await;
    assert!(matches!(answer, HelloAnswer::Welcome(_)), "{answer:?}");
}

/// The log's directory vanishes, so that the next segment cannot be made.
#[tokio::test]
async fn a_shard_that_can_no_longer_write_reads_on_and_says_so_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut config = Config::new(&data);
    config.engine.segment_bytes = 64 * 1024;
    let (shard, mut c) = Shard::with_index(config).await;
    c.write("k", DOCUMENT).await;
    std::fs::rename(&data, dir.path().join("elsewhere")).unwrap();
    let document = [&[0xc5, 0x40, 0x00][..], &[7; 0x4000]].concat();
    let mut error = None;
    for i in 0..64 {
        match c.ask(write(&format!("key:{i}"), &document, Condition::Any)).await.answer() {
            ShardAnswer::Written { .. } => {}
            ShardAnswer::Error(refused) => {
                error = Some(refused);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    println!("refused with {error:?}");
    let after = c.error(write("k", DOCUMENT, Condition::Any)).await;
    assert!(matches!(after, WireError::Poisoned { .. }), "{after}");
    assert!(c.stat().await.poisoned.is_some());
    assert_eq!(c.read("k").await.as_deref(), Some(DOCUMENT));
    drop(c);
    match shard.stop().await {
        Err(Error::Close { error: sherd_engine::Error::Poisoned { .. }, .. }) => {}
        other => panic!("{other:?}"),
    }
}

/// A log whose last segment lies in memory, where it can be made unwritable under the process.
#[cfg(target_os = "linux")]
struct FragileLog {
    memory: std::fs::File,
}

#[cfg(target_os = "linux")]
impl FragileLog {
    /// Moves the last segment of a stopped shard.
    fn of(data: &Path) -> Self {
        use std::os::fd::AsRawFd;

        let files = std::fs::read_dir(data.join("log")).unwrap();
        let paths = files.map(|entry| entry.unwrap().path());
        let is_segment = |path: &PathBuf| path.extension().is_some_and(|end| end == "log");
        let segment = paths.filter(is_segment).max().expect("a segment");
        let flags = rustix::fs::MemfdFlags::ALLOW_SEALING | rustix::fs::MemfdFlags::CLOEXEC;
        let mut memory =
            std::fs::File::from(rustix::fs::memfd_create("fragile segment", flags).unwrap());
        std::io::copy(&mut std::fs::File::open(&segment).unwrap(), &mut memory).unwrap();
        std::fs::remove_file(&segment).unwrap();
        let place = format!("/proc/self/fd/{}", memory.as_raw_fd());
        std::os::unix::fs::symlink(place, &segment).unwrap();
        Self { memory }
    }

    /// From now on every write to it fails.
    fn fail(&self) {
        rustix::fs::fcntl_add_seals(&self.memory, rustix::fs::SealFlags::WRITE).unwrap();
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_change_under_which_the_log_fails_is_of_unknown_outcome() {
    let batch = |atomic| {
        let put = Write {
            index: INDEX,
            key: "new",
            document: DOCUMENT,
            condition: Condition::Any,
            expiry: Expiry::Default,
        };
        let mutations = vec![
            Mutation::Write(put),
            Mutation::Remove(Remove { index: INDEX, key: "k", version: None }),
        ];
        ShardOperation::Batch(Batch { mutations, atomic })
    };
    let changes = [
        write("new", DOCUMENT, Condition::Absent),
        pop("k"),
        remove("k", None),
        batch(false),
        batch(true),
        ShardOperation::CreateIndex(Index {
            id: 9,
            name: "other".to_owned(),
            settings: IndexSettings::default(),
        }),
        ShardOperation::Lock(Lock { owner: "backup" }),
    ];
    for change in changes {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new(dir.path());
        config.engine.segment_bytes = 64 * 1024;
        let (shard, mut c) = Shard::with_index(config).await;
        c.write("k", DOCUMENT).await;
        drop(c);
        shard.stop().await.unwrap();
        let log = FragileLog::of(dir.path());
        let shard = Shard::start(dir.path()).await;
        let mut c = Connection::open(shard.address).await;
        c.write("before", DOCUMENT).await;

        log.fail();
        let error = c.error(change.clone()).await;
        let WireError::OutcomeUnknown { reason } = &error else { panic!("{change:?}: {error:?}") };
        assert!(!error.is_retryable());
        assert_eq!(c.stat().await.poisoned.as_ref(), Some(reason), "{change:?}");
        // Afterwards it is sure that nothing is done, and reads go on.
        let after = c.error(write("after", DOCUMENT, Condition::Any)).await;
        assert!(matches!(after, WireError::Poisoned { .. }), "{change:?}: {after:?}");
        assert_eq!(c.read("before").await.as_deref(), Some(DOCUMENT), "{change:?}");
        drop(c);
        match shard.stop().await {
            Err(Error::Close { error: sherd_engine::Error::Poisoned { .. }, .. }) => {}
            other => panic!("{change:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn who_stays_idle_while_the_shard_stops_does_not_hold_it_up() {
    let dir = tempfile::tempdir().unwrap();
    let (shard, mut idle) = Shard::with_index(Config::new(dir.path())).await;
    // Half a frame, too.
    let mut half = Connection::open(shard.address).await;
    half.send_raw(&[0, 0]).await;
    idle.write("k", DOCUMENT).await;
    let stopped = tokio::time::timeout(Duration::from_secs(5), shard.begin_stop()).await;
    stopped.expect("within the drain time").unwrap().unwrap();
}
