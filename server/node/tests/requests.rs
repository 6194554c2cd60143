//! What a well-behaved peer gets: every request its own answer, whatever the sizes and timing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use bytes::BytesMut;
use common::{Do, Served, Told, request, until};
use sherd_node::Limits;
use sherd_protocol::WireError;
use tokio::io::AsyncWriteExt;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_requests_in_one_burst_are_each_answered() {
    let served = Served::start(Limits { in_flight: 16, ..Limits::default() }).await;
    let mut peer = served.peer().await;
    let mut burst = BytesMut::new();
    for id in 0..10_000 {
        burst.extend_from_slice(&request(id, Do::Measure(vec![1; id as usize % 300])));
    }
    let (reader, mut writer) = peer.stream.into_split();
    let writing = tokio::spawn(async move { writer.write_all(&burst).await.map(|()| writer) });
    let mut buffer = BytesMut::new();
    let mut reader = reader;
    for expected in 0..10_000u64 {
        let read = sherd_protocol::frame::read(&mut reader, &mut buffer, 1 << 20);
        let body = common::soon(read).await.unwrap().unwrap();
        let (id, told) = sherd_protocol::message::decode_with_id::<Told>(&body).unwrap();
        assert_eq!((id, told), (expected, Told::Length(expected as usize % 300)));
    }
    drop(writing.await.unwrap().unwrap());
    peer = served.peer().await;
    peer.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_may_arrive_byte_by_byte() {
    let served = Served::start(Limits::default()).await;
    let mut peer = served.peer().await;
    for byte in request(5, Do::Measure(vec![0; 40])) {
        peer.raw(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(peer.answer().await, Some((5, Told::Length(40))));
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_every_size_around_the_read_buffer_pass() {
    let served = Served::start(Limits::default()).await;
    let mut peer = served.peer().await;
    let around = (32 * 1024 - 40)..(32 * 1024 + 10);
    for length in around.chain([0, 1, 1 << 20, 15 << 20]) {
        assert_eq!(peer.ask(1, Do::Measure(vec![1; length])).await, Told::Length(length));
    }
    assert_eq!(peer.ask(2, Do::Give(15 << 20)).await, Told::Bytes(vec![7; 15 << 20]));
    until("all budgets given back", || served.node.bytes_held() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_overtake_requests_that_take_longer() {
    let served = Served::start(Limits::default()).await;
    let mut peer = served.peer().await;
    peer.send(1, Do::Hold(0)).await;
    assert_eq!(peer.ask(2, Do::Measure(vec![])).await, Told::Length(0));
    assert_eq!(peer.ask(3, Do::Elsewhere).await, Told::Length(0));
    served.release();
    assert_eq!(peer.answer().await, Some((1, Told::Length(0))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_request_and_an_answer_too_long_are_errors() {
    let served = Served::start(Limits { frame_bytes: 1 << 16, ..Limits::default() }).await;
    let mut peer = served.peer().await;
    let dropped = WireError::Internal { what: "the request was dropped".to_owned() };
    assert_eq!(peer.ask(1, Do::Forget).await, Told::Error(dropped));
    let Told::Error(WireError::TooLarge { what, size, limit }) =
        peer.ask(2, Do::Give(1 << 16)).await
    else {
        panic!("the answer does not fit");
    };
    assert_eq!((what.as_str(), limit), ("the answer", 1 << 16));
    assert!(size > limit);
    peer.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_ends_its_side_still_gets_its_answers() {
    let served = Served::start(Limits::default()).await;
    let mut peer = served.peer().await;
    peer.send(1, Do::Hold(0)).await;
    peer.stream.shutdown().await.unwrap();
    until("the request is held", || !served.held.lock().is_empty()).await;
    served.release();
    assert_eq!(peer.answer().await, Some((1, Told::Length(0))));
    assert_eq!(peer.answer().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_to_a_peer_that_left_are_dropped() {
    let served = Served::start(Limits::default()).await;
    let mut peer = served.peer().await;
    peer.send(1, Do::Hold(1 << 19)).await;
    until("the request is held", || !served.held.lock().is_empty()).await;
    peer.stream.set_zero_linger().unwrap();
    drop(peer);
    until("the connection is gone", || served.node.connections() == 0).await;
    served.release();
    assert_eq!(served.node.bytes_held(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn long_and_short_answers_come_whole_and_leave_nothing_charged() {
    let served = Served::start(Limits::default()).await;
    let mut peer = served.peer().await;
    // Around the length from which an answer is handed over in a buffer of its own.
    let edge = 32 * 1024;
    let lengths = [1, 300_000, 5, edge - 20, edge - 1, edge, edge + 1, 2_000_000, 0, 100_000, 7];
    for round in 0..20 {
        let mut requests = Vec::new();
        for (id, &length) in (0..).zip(&lengths) {
            requests.extend_from_slice(&request(id, Do::Give(length)));
        }
        peer.raw(&requests).await;
        let answers = peer.answers(lengths.len()).await;
        for (id, &length) in (0..).zip(&lengths) {
            assert!(answers[&id] == Told::Bytes(vec![7; length]), "round {round}, {length} bytes");
        }
    }
    until("nothing is charged", || served.node.bytes_held() == 0).await;
}
