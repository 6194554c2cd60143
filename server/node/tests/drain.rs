//! Shutdown: what was begun is finished, nothing is begun any more.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::{Do, PATIENCE, Peer, Served, Told, until};
use sherd_node::Limits;
use sherd_protocol::WireError;
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_flight_are_answered_and_new_ones_refused() {
    let mut served = Served::start(Limits::default()).await;
    let mut busy = served.peer().await;
    let mut idle = served.peer().await;
    busy.send(1, Do::Hold(0)).await;
    busy.send(2, Do::Hold(0)).await;
    until("both are held", || served.held.lock().len() == 2).await;
    served.stop();
    idle.closed().await;
    assert!(TcpStream::connect(served.address).await.is_err(), "nobody listens any more");
    assert_eq!(busy.ask(3, Do::Hold(0)).await, Told::Error(WireError::ShuttingDown));
    served.release();
    let answers = busy.answers(2).await;
    assert_eq!(answers[&1], Told::Length(0));
    assert_eq!(answers[&2], Told::Length(0));
    busy.closed().await;
    drop((busy, idle));
    served.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answers_on_their_way_are_written_whole() {
    let mut served = Served::start(Limits::default()).await;
    let mut peer = served.peer().await;
    for id in 0..3 {
        peer.send(id, Do::Give(15 << 20)).await;
    }
    let first = peer.answer().await;
    assert_eq!(first, Some((0, Told::Bytes(vec![7; 15 << 20]))));
    served.stop();
    // The others were handled before the stop, or refused: each is answered either way.
    for id in 1..3 {
        let (answered, told) = peer.answer().await.unwrap();
        assert_eq!(answered, id);
        let whole = told == Told::Bytes(vec![7; 15 << 20]);
        assert!(whole || told == Told::Error(WireError::ShuttingDown));
    }
    peer.closed().await;
    drop(peer);
    served.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_finish_is_cut() {
    let drain_time = Duration::from_millis(100);
    let mut served = Served::start(Limits { drain_time, ..Limits::default() }).await;
    let mut peer = served.peer().await;
    peer.send(1, Do::Hold(0)).await;
    until("it is held", || !served.held.lock().is_empty()).await;
    let held = std::sync::Arc::clone(&served.held);
    let node = served.node.clone();
    served.stop();
    served.drained().await;
    peer.closed().await;
    assert_eq!(node.connections(), 0);
    // Answering afterwards harms nobody.
    held.lock().clear();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_not_said_hello_does_not_hold_the_node_up() {
    // Longer than the test waits: only the shutdown ends these connections.
    let never = 10 * PATIENCE;
    let limits = Limits { hello_time: never, drain_time: never, ..Limits::default() };
    let linger_time = limits.linger_time;
    let mut served = Served::start(limits).await;
    let mut silent = Vec::new();
    for sent in [&b""[..], b"\0", b"\0\0\0\x20\x83"] {
        let mut peer = Peer::connect(served.address).await;
        peer.raw(sent).await;
        silent.push(peer);
    }
    // Accepted after them, so they are accepted too.
    served.peer().await.is_well().await;
    until("the last one is gone", || served.node.connections() == 0).await;
    served.stop();
    let begun = Instant::now();
    served.drained().await;
    assert!(begun.elapsed() < linger_time, "{:?}", begun.elapsed());
    for mut peer in silent {
        peer.closed().await;
    }
}
