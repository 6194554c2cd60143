//! What a peer cannot do: make a node hold much, wait long, or harm other peers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::{Do, Peer, Served, TOKEN, Told, frame_of, request, soon, until};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sherd_node::Limits;
use sherd_protocol::message::{HelloAnswer, Request};
use sherd_protocol::{PROTOCOL_VERSION, WireError};
use tokio::io::AsyncWriteExt;

const SHORT: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_told_why_they_are_refused() {
    let served = Served::start(Limits::default()).await;
    let refused = |error| HelloAnswer::Refused(error);

    let mut peer = Peer::connect(served.address).await;
    let version = WireError::UnsupportedVersion { client: 9, server: PROTOCOL_VERSION };
    assert_eq!(peer.hello(9, Some(TOKEN)).await, refused(version));
    peer.closed().await;

    for token in [None, Some("wrong")] {
        let mut peer = Peer::connect(served.address).await;
        let answer = peer.hello(PROTOCOL_VERSION, token).await;
        assert_eq!(answer, refused(WireError::Unauthorized));
        peer.closed().await;
    }

    let mut peer = Peer::connect(served.address).await;
    peer.raw(&frame_of(&"good day")).await;
    let answer = peer.hello_answer().await;
    assert!(matches!(&answer, HelloAnswer::Refused(WireError::BadRequest(_))), "{answer:?}");
    peer.closed().await;

    let mut peer = Peer::connect(served.address).await;
    peer.raw(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n").await;
    peer.closed().await;
    assert_eq!(served.node.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_before_within_and_after_a_frame_ends() {
    let limits =
        Limits { hello_time: SHORT, frame_time: SHORT, idle_time: 3 * SHORT, ..Limits::default() };
    let served = Served::start(limits).await;
    let mut silent = Peer::connect(served.address).await;
    let mut half_hello = Peer::connect(served.address).await;
    half_hello.raw(&[0, 0, 0, 20, 0x83]).await;
    let mut half_frame = served.peer().await;
    half_frame.raw(&request(1, Do::Measure(vec![0; 50]))[..30]).await;
    let mut half_length = served.peer().await;
    half_length.raw(&[0, 0]).await;
    let mut half_large = served.peer().await;
    half_large.raw(&request(1, Do::Measure(vec![0; 1 << 20]))[..1 << 19]).await;
    let mut idle = served.peer().await;
    let mut waiting = served.peer().await;
    waiting.send(7, Do::Hold(0)).await;

    let peers = [&mut silent, &mut half_hello, &mut half_frame, &mut half_length, &mut half_large];
    for peer in peers {
        peer.closed().await;
    }
    idle.closed().await;
    // A peer whose request takes long is neither idle nor slow.
    tokio::time::sleep(4 * SHORT).await;
    served.release();
    assert_eq!(waiting.answer().await, Some((7, Told::Length(0))));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_frame_is_refused_by_its_length_alone() {
    let served = Served::start(Limits { frame_bytes: 1 << 20, ..Limits::default() }).await;
    let mut good = served.peer().await;
    let mut peer = served.peer().await;
    let body = frame_of(&Request { id: 77, operation: Do::Measure(vec![0; 100]) });
    let mut oversized = (2u32 << 20).to_be_bytes().to_vec();
    oversized.extend_from_slice(&body[4..]);
    peer.raw(&oversized).await;
    let error = WireError::TooLarge { what: "the frame".to_owned(), size: 2 << 20, limit: 1 << 20 };
    assert_eq!(peer.answer().await, Some((77, Told::Error(error))));
    peer.closed().await;

    let mut peer = served.peer().await;
    peer.raw(&[0xff; 4]).await;
    peer.closed().await;
    good.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_ends_in_an_error_or_a_closed_connection() {
    let served = Served::start(Limits { frame_time: SHORT, ..Limits::default() }).await;
    let mut good = served.peer().await;

    let mut peer = served.peer().await;
    peer.raw(&frame_of(&(3u64, "levitate"))).await;
    let answer = peer.answer().await;
    assert!(
        matches!(&answer, Some((3, Told::Error(WireError::BadRequest(bad)))) if bad.place == "operation"),
        "{answer:?}"
    );
    peer.is_well().await;

    let bomb = [&[0x92, 0x04][..], &[0x91; 100_000], &[0xc0]].concat();
    let mut frame = (bomb.len() as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(&bomb);
    peer.raw(&frame).await;
    let answer = peer.answer().await;
    assert!(matches!(&answer, Some((4, Told::Error(WireError::BadRequest(_))))), "{answer:?}");

    peer.raw(&frame_of(&"no id")).await;
    peer.closed().await;

    let seed = rand::random();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..200 {
        let mut peer = served.peer().await;
        let garbage: Vec<u8> = (0..random.random_range(1..200)).map(|_| random.random()).collect();
        // Half of it in frames of the right length, so that it gets past the first check.
        if random.random() {
            peer.raw(&(garbage.len() as u32).to_be_bytes()).await;
        }
        peer.raw(&garbage).await;
        peer.stream.shutdown().await.unwrap();
        peer.closed().await;
    }
    good.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_too_many_is_told_so_and_gets_the_next_free_place() {
    let served = Served::start(Limits { connections: 3, ..Limits::default() }).await;
    let mut peers = vec![served.peer().await, served.peer().await, served.peer().await];
    let mut late = Peer::connect(served.address).await;
    let busy = WireError::Busy { what: "connections".to_owned(), limit: 3 };
    assert_eq!(late.hello_answer().await, HelloAnswer::Refused(busy));
    late.closed().await;
    for peer in &mut peers {
        peer.is_well().await;
    }
    peers.pop();
    until("a place is free", || served.node.connections() == 2).await;
    // The place is given up a moment after the connection is counted out.
    let welcome = async {
        loop {
            let mut peer = Peer::connect(served.address).await;
            if let HelloAnswer::Welcome(_) = peer.hello(PROTOCOL_VERSION, Some(TOKEN)).await {
                return peer;
            }
        }
    };
    soon(welcome).await.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_only_so_many_requests_in_flight() {
    let served = Served::start(Limits { in_flight: 5, ..Limits::default() }).await;
    let mut good = served.peer().await;
    let mut peer = served.peer().await;
    for id in 0..20 {
        peer.send(id, Do::Hold(0)).await;
    }
    for round in 0..4 {
        until("five are held", || served.held.lock().len() == 5).await;
        good.is_well().await;
        assert_eq!(served.held.lock().len(), 5, "in round {round}");
        served.release();
        peer.answers(5).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_costs_little_and_is_closed() {
    let limits = Limits {
        write_time: 5 * SHORT,
        answer_bytes: 1 << 20,
        total_answer_bytes: 8 << 20,
        pressure_time: SHORT,
        ..Limits::default()
    };
    let served = Served::start(limits).await;
    let mut good = served.peer().await;
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut peer = served.peer().await;
        for id in 0..200 {
            // More than the sockets' buffers hold.
            peer.send(id, Do::Give(1 << 20)).await;
        }
        slow.push(peer);
    }
    let mut highest = 0;
    let gone = async {
        while served.node.connections() > 1 {
            highest = highest.max(served.node.bytes_held());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(gone).await;
    assert!((7 << 20..10 << 20).contains(&highest), "{highest} bytes were held");
    assert_eq!(served.node.bytes_held(), 0);
    good.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_announced_count_before_they_exist() {
    let served = Served::start(Limits { answer_bytes: 1 << 20, ..Limits::default() }).await;
    let mut peer = served.peer().await;
    for id in 0..10 {
        peer.send(id, Do::Hold(300 << 10)).await;
    }
    until("four are held", || served.held.lock().len() == 4).await;
    served.peer().await.is_well().await;
    assert_eq!(served.held.lock().len(), 4, "1.2 MB are announced: no more is handled");
    for next in [4, 2] {
        served.release();
        peer.answers(4).await;
        // All of them: what is held later is not released.
        until("the next are held", || served.held.lock().len() == next).await;
    }
    served.release();
    peer.answers(2).await;
    assert_eq!(served.node.bytes_held(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_flight_are_bounded_over_all_connections() {
    let served = Served::start(Limits { small_request_bytes: 10_000, ..Limits::default() }).await;
    let mut peers = Vec::new();
    for _ in 0..10 {
        let mut peer = served.peer().await;
        for id in 0..100 {
            peer.send(id, Do::Hold(0)).await;
        }
        peers.push(peer);
    }
    let size = request(0, Do::Hold(0)).len() - 4;
    let most = 10_000usize.div_ceil(size);
    let mut answered = 0;
    while answered < 1000 {
        let held = (1000 - answered).min(most);
        until("the budget is used up", || served.held.lock().len() >= held).await;
        assert!(served.held.lock().len() <= most, "{size} bytes each");
        answered += served.held.lock().len();
        served.release();
    }
    for peer in &mut peers {
        peer.answers(100).await;
    }
    assert_eq!(served.node.bytes_held(), 0);
}

/// The process's resident memory.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn promises_of_large_frames_cost_little_and_stay_in_nobodys_way_for_long() {
    let limits =
        Limits { large_request_bytes: 32 << 20, pressure_time: SHORT, ..Limits::default() };
    let served = Served::start(limits).await;
    let mut good = served.peer().await;
    let before = resident_bytes();
    let mut promising = Vec::new();
    for _ in 0..50 {
        let mut peer = served.peer().await;
        let mut half = (16u32 << 20).to_be_bytes().to_vec();
        half.resize(100_000, 0x92);
        peer.raw(&half).await;
        promising.push(peer);
    }
    good.is_well().await;
    let grown = resident_bytes().saturating_sub(before);
    // Read buffers of 50 connections, and what other tests of this file do.
    assert!(grown < 64 << 20, "{grown} bytes more than before");
    let begun = Instant::now();
    assert_eq!(good.ask(1, Do::Measure(vec![0; 1 << 20])).await, Told::Length(1 << 20));
    eprintln!("a large frame had to wait for {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_panics_ends_its_connection_only() {
    let served = Served::start(Limits::default()).await;
    let mut good = served.peer().await;
    let mut peer = served.peer().await;
    peer.send(1, Do::Panic).await;
    peer.closed().await;
    good.is_well().await;
    assert_eq!(served.node.connections(), 1);
}
