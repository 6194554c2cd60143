//! One connection: answers find their callers, and a failure says what may have happened.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use common::{Scripted, forget, soon, until};
use parking_lot::Mutex;
use sherd_client::{ConnectOptions, Connection, Error, ShardReply};
use sherd_node::Responder;
use sherd_protocol::message::{Condition, KeyOf, ShardAnswer, ShardOperation, Write};
use sherd_protocol::{Expiry, WireError};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;

fn in_time() -> Instant {
    Instant::now() + common::PATIENCE
}

fn read(key: &str) -> ShardOperation<'_> {
    ShardOperation::Read(KeyOf { index: "i", key })
}

async fn open(node: &Scripted, options: &ConnectOptions) -> Connection {
    soon(Connection::open(&node.address.to_string(), options)).await.unwrap()
}

/// Answers a read with the length of its key, a moment later and from another thread.
fn measure(operation: &ShardOperation<'_>, responder: Responder) {
    let ShardOperation::Read(KeyOf { key, .. }) = operation else { panic!("{operation:?}") };
    let version = key.len() as u64;
    let later = Duration::from_micros(100 * (version % 7));
    tokio::spawn(async move {
        tokio::time::sleep(later).await;
        responder.send(&ShardAnswer::Written { version });
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_callers_each_get_their_own_answer() {
    let node = Scripted::shard("s", |operation, responder| measure(&operation, responder)).await;
    let connection = open(&node, &ConnectOptions::default()).await;
    let mut callers = JoinSet::new();
    for length in 1..=1000 {
        let connection = connection.clone();
        callers.spawn(async move {
            let key = "k".repeat(length);
            let reply = connection.shard(&read(&key), in_time()).await.unwrap();
            assert_eq!(reply, ShardReply::Written { version: length as u64 });
        });
    }
    while let Some(ended) = soon(callers.join_next()).await {
        ended.unwrap();
    }
    assert_eq!(node.node.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_is_unanswered_and_what_comes_later_is_not_sent() {
    let node = Scripted::shard("left", |_, responder| forget(responder)).await;
    let address = node.address;
    let connection = open(&node, &ConnectOptions::default()).await;
    let waiting = tokio::spawn({
        let connection = connection.clone();
        async move { connection.shard(&read("k"), in_time()).await.unwrap_err() }
    });
    until("the node has the request", || node.node.bytes_held() > 0).await;
    node.kill().await;
    let error = soon(waiting).await.unwrap();
    let Error::Unanswered { node, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*node, format!("shard left ({address})"));
    assert!(error.is_outcome_unknown() && !error.is_retryable());

    soon(connection.closed()).await;
    let error = connection.shard(&read("k"), in_time()).await.unwrap_err();
    assert!(matches!(error, Error::NotSent { .. }), "{error:?}");
    assert!(!error.is_outcome_unknown() && error.is_retryable());
}

/// The regression to fear: a large write of which the node cannot have all bytes is reported as
/// if it might have happened, and a caller does not dare to repeat it.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_which_a_byte_is_missing_was_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // Says hello and reads no more.
    let deaf = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = bytes::BytesMut::new();
        sherd_protocol::frame::read(&mut stream, &mut buffer, 4096).await.unwrap();
        let welcome = sherd_protocol::message::Welcome {
            version: sherd_protocol::PROTOCOL_VERSION,
            role: sherd_protocol::message::Role::Shard,
            name: String::new(),
            epoch: 0,
        };
        let welcome = sherd_protocol::message::HelloAnswer::Welcome(welcome);
        let mut out = bytes::BytesMut::new();
        sherd_protocol::frame::encode(&mut out, &welcome, 4096).unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, &out).await.unwrap();
        stream
    });
    let connection = soon(Connection::open(&address, &ConnectOptions::default())).await.unwrap();
    let stream = deaf.await.unwrap();
    // More than the sockets' buffers hold.
    let document = vec![0; 15 << 20];
    let send = async |document: &[u8]| {
        let (index, key, condition) = ("i", "k", Condition::Any);
        let write = ShardOperation::Write(Write {
            index,
            key,
            document,
            condition,
            expiry: Expiry::Default,
        });
        connection.shard(&write, in_time()).await.unwrap_err()
    };
    let close = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(stream);
    };
    let (small, large, ()) = tokio::join!(send(b"\xc0"), send(&document), close);
    assert!(matches!(large, Error::NotSent { .. }), "{large:?}");
    // The first one fits and may have been read.
    assert!(matches!(small, Error::Unanswered { .. }), "{small:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_bound_wait_for_a_place() {
    let held = Arc::new(Mutex::new(Vec::new()));
    let most = Arc::new(AtomicUsize::new(0));
    let node = Scripted::shard("s", {
        let (held, most) = (Arc::clone(&held), Arc::clone(&most));
        move |_, responder| {
            let mut held = held.lock();
            held.push(responder);
            most.fetch_max(held.len(), SeqCst);
        }
    })
    .await;
    let options = ConnectOptions { in_flight: 4, ..ConnectOptions::default() };
    let connection = open(&node, &options).await;
    let mut callers = JoinSet::new();
    for _ in 0..20 {
        let connection = connection.clone();
        callers.spawn(async move { connection.shard(&read("k"), in_time()).await.unwrap() });
    }
    until("the places are taken", || held.lock().len() == 4).await;
    let soon_over = Instant::now() + Duration::from_millis(30);
    let error = connection.shard(&read("k"), soon_over).await.unwrap_err();
    assert!(matches!(&error, Error::NotSent { reason, .. } if reason.contains('4')), "{error:?}");
    while !callers.is_empty() {
        let now: Vec<_> = std::mem::take(&mut *held.lock());
        now.into_iter().for_each(|responder| responder.send(&ShardAnswer::Done));
        _ = tokio::time::timeout(Duration::from_millis(5), callers.join_next()).await;
    }
    assert_eq!(most.load(SeqCst), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_a_place_learns_that_the_connection_ended() {
    let node = Scripted::shard("s", |_, responder| forget(responder)).await;
    let options = ConnectOptions { in_flight: 1, ..ConnectOptions::default() };
    let connection = open(&node, &options).await;
    let mut callers = JoinSet::new();
    for _ in 0..10 {
        let connection = connection.clone();
        callers.spawn(async move { connection.shard(&read("k"), in_time()).await.unwrap_err() });
    }
    until("the node has a request", || node.node.bytes_held() > 0).await;
    node.kill().await;
    let mut unanswered = 0;
    while let Some(error) = soon(callers.join_next()).await {
        match error.unwrap() {
            Error::Unanswered { .. } => unanswered += 1,
            error => assert!(matches!(error, Error::NotSent { .. }), "{error:?}"),
        }
    }
    assert_eq!(unanswered, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_gave_up_disturbs_nobody() {
    let held = Arc::new(Mutex::new(Vec::new()));
    let node = Scripted::shard("s", {
        let held = Arc::clone(&held);
        move |operation, responder| match operation {
            ShardOperation::Stat => held.lock().push(responder),
            other => measure(&other, responder),
        }
    })
    .await;
    let connection = open(&node, &ConnectOptions::default()).await;
    let soon_over = Instant::now() + Duration::from_millis(20);
    let error = connection.shard(&ShardOperation::Stat, soon_over).await.unwrap_err();
    assert!(matches!(error, Error::Unanswered { .. }), "{error:?}");
    let late = held.lock().pop().unwrap();
    late.send(&ShardAnswer::Done);
    for _ in 0..10 {
        let reply = connection.shard(&read("kkk"), in_time()).await.unwrap();
        assert_eq!(reply, ShardReply::Written { version: 3 });
    }
    assert!(!connection.is_closed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_too_long_for_a_frame_is_refused_here() {
    let node = Scripted::shard("s", |operation, responder| measure(&operation, responder)).await;
    let connection = open(&node, &ConnectOptions::default()).await;
    let error = connection.shard(&read(&"k".repeat(17 << 20)), in_time()).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
    assert!(connection.shard(&read("k"), in_time()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_closed_with_the_last_clone() {
    let node = Scripted::shard("s", |_, responder| forget(responder)).await;
    let connection = open(&node, &ConnectOptions::default()).await;
    let other = connection.clone();
    drop(connection);
    until("the hello is done", || node.node.connections() == 1).await;
    let operation = read("k");
    let cancelled = other.shard(&operation, in_time());
    assert!(tokio::time::timeout(Duration::from_millis(20), cancelled).await.is_err());
    drop(other);
    // The node still holds the request, so the reset of the connection ends it there.
    until("the task is gone", || {
        tokio::runtime::Handle::current().metrics().num_alive_tasks() <= 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_and_silent_connections_end() {
    let node = Scripted::shard("s", |operation, responder| match operation {
        ShardOperation::Stat => forget(responder),
        _ => responder.send(&ShardAnswer::Done),
    })
    .await;
    let short = Duration::from_millis(60);
    let options = ConnectOptions { idle_time: short, ..ConnectOptions::default() };
    let connection = open(&node, &options).await;
    assert_eq!(soon(connection.closed()).await, "the connection was idle");

    let options = ConnectOptions { silence_time: short, ..ConnectOptions::default() };
    let connection = open(&node, &options).await;
    tokio::time::sleep(3 * short).await;
    // Silence counts only while an answer is awaited.
    connection.shard(&read("k"), in_time()).await.unwrap();
    let error = connection.shard(&ShardOperation::Stat, in_time()).await.unwrap_err();
    assert!(
        matches!(&error, Error::Unanswered { reason, .. } if reason.contains("silent")),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_cannot_be_made_says_why() {
    let node = Scripted::guarded("secret").await;
    let address = node.address.to_string();
    let mut options = ConnectOptions::default();
    let error = Connection::open(&address, &options).await.unwrap_err();
    assert_eq!(error, Error::Refused { node: address.clone(), error: WireError::Unauthorized });
    assert!(!error.is_retryable());
    options.token = Some("secret".to_owned());
    Connection::open(&address, &options).await.unwrap();

    node.kill().await;
    let error = Connection::open(&address, &options).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot connect to {address}: ")), "{error}");
    assert!(error.is_retryable());

    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    options.connect_time = Duration::from_millis(50);
    let address = mute.local_addr().unwrap().to_string();
    let error = Connection::open(&address, &options).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot connect to {address}: no answer within 50ms"));
}
