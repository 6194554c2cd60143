//! Bad input on the wire: a typed error or a closed connection, and other clients unharmed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sherd_protocol::message::*;
use sherd_protocol::{DEFAULT_MAX_FRAME_BYTES, Expiry, WireError};
use sherd_server::Config;

const DOCUMENT: &[u8] = b"\xabhello world";

/// A shard, and a client that is there all the time and must not notice anything.
struct Attacked {
    shard: Shard,
    bystander: Connection,
    checks: u32,
    _dir: tempfile::TempDir,
}

impl Attacked {
    async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new(dir.path());
        change(&mut config);
        let (shard, bystander) = Shard::with_index(config).await;
        Self { shard, bystander, checks: 0, _dir: dir }
    }

    async fn attacker(&self) -> Connection {
        Connection::open(self.shard.address).await
    }

    async fn check_bystander(&mut self) {
        self.checks += 1;
        let key = format!("bystander:{}", self.checks);
        self.bystander.write(&key, DOCUMENT).await;
        assert_eq!(self.bystander.read(&key).await.as_deref(), Some(DOCUMENT));
        assert_eq!(self.bystander.stat().await.documents, u64::from(self.checks));
    }
}

/// A request's body: an id, and then bytes as they are.
fn request(id: u8, operation: &[u8]) -> Vec<u8> {
    frame_of(&[&[0x92, id], operation].concat())
}

#[tokio::test]
async fn an_oversized_frame_is_refused_by_its_length() {
    let mut attacked = Attacked::start(|_| {}).await;
    for length in [DEFAULT_MAX_FRAME_BYTES as u32 + 1, u32::MAX] {
        let mut attacker = attacked.attacker().await;
        attacker.send_raw(&[&length.to_be_bytes()[..], &[0x92, 9]].concat()).await;
        if let Some(reply) = attacker.receive().await {
            let limit = DEFAULT_MAX_FRAME_BYTES as u64;
            let what = "the frame".to_owned();
            let too_large = WireError::TooLarge { what, size: u64::from(length), limit };
            assert_eq!((reply.id, reply.answer()), (9, ShardAnswer::Error(too_large)));
        }
        assert!(attacker.is_closed().await);
        attacked.check_bystander().await;
    }
}

#[tokio::test]
async fn what_is_no_operation_is_a_bad_request_and_the_connection_goes_on() {
    let mut attacked = Attacked::start(|_| {}).await;
    let mut attacker = attacked.attacker().await;
    let bomb = vec![0x91; 1_000_000];
    let promised = b"\x81\xa5write\xdf\xff\xff\xff\xff";
    let promised_batch = b"\x81\xa5batch\x81\xa9mutations\xdd\xff\xff\xff\xff";
    let operations: [&[u8]; 14] = [
        b"",
        b"\xc1",
        b"\xc0",
        b"\x2a",
        b"\xa8levitate",
        b"\x81\xa8levitate\x80",
        b"\x81\xa4read\x80",
        b"\x81\xa4read\x81\xa5index\x05",
        b"\x81\xa4read\x82\xa5index\xa1i\xa3key\xa1\xff",
        b"\xa4stat\xc0",
        b"\x81\xa8set_size\x81\xa4size\xff",
        &bomb,
        promised,
        promised_batch,
    ];
    for operation in operations {
        let shown = &operation[..operation.len().min(40)];
        attacker.send_raw(&request(7, operation)).await;
        let reply = attacker.receive().await.expect("an answer");
        match reply.answer() {
            ShardAnswer::Error(WireError::BadRequest(bad)) => {
                assert_eq!((reply.id, bad.place.as_str()), (7, "operation"), "{shown:02x?}");
                assert!(bad.what.len() < 4096, "{} bytes of error", bad.what.len());
            }
            other => panic!("{shown:02x?}: {other:?}"),
        }
    }
    assert_eq!(attacker.read("k").await, None, "still served");
    attacked.check_bystander().await;
}

#[tokio::test]
async fn a_frame_without_an_id_closes_the_connection() {
    let mut attacked = Attacked::start(|_| {}).await;
    for body in
        [&b""[..], b"\xc1", b"\x93\x01\x02\x03", b"\x92\xa1x\xc0", b"\x92\xff\xc0", b"GET /"]
    {
        let mut attacker = attacked.attacker().await;
        attacker.send_raw(&frame_of(body)).await;
        assert!(attacker.receive().await.is_none(), "{body:02x?}");
    }
    attacked.check_bystander().await;
}

#[tokio::test]
async fn another_version_is_told_which_is_spoken() {
    let mut attacked = Attacked::start(|_| {}).await;
    for version in [0, 2, u32::MAX] {
        let hello = Hello { version, ..hello() };
        let (_, answer) = Connection::greet(attacked.shard.address, &hello).await;
        let refused = WireError::UnsupportedVersion { client: version, server: 1 };
        assert_eq!(answer, HelloAnswer::Refused(refused));
    }
    attacked.check_bystander().await;
}

#[tokio::test]
async fn who_sends_half_a_frame_and_then_nothing_is_cut_off() {
    let mut attacked = Attacked::start(|config| {
        config.limits.frame_time = Duration::from_millis(200);
        config.limits.hello_time = Duration::from_millis(200);
    })
    .await;
    // Before the hello, and inside it.
    for begun in [&b""[..], b"\x00\x00\x00", b"\x00\x00\x00\x20\x83\xa7ver"] {
        let mut stream = tokio::net::TcpStream::connect(attacked.shard.address).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, begun).await.unwrap();
        let mut rest = Vec::new();
        let ended = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest);
        _ = tokio::time::timeout(PATIENCE, ended).await.expect("cut off");
    }
    let whole = request(1, b"\xa4stat");
    let large = frame_of(&vec![0x92; 100_000]);
    for half in [&whole[..1], &whole[..whole.len() - 1], &large[..50_000]] {
        let mut attacker = attacked.attacker().await;
        attacker.send_raw(half).await;
        assert!(attacker.is_closed().await, "{} bytes", half.len());
    }
    attacked.check_bystander().await;
}

#[tokio::test]
async fn who_hangs_up_inside_a_frame_harms_nobody() {
    let mut attacked = Attacked::start(|_| {}).await;
    let whole = request(1, b"\xa4stat");
    for cut in 1..whole.len() {
        let mut attacker = attacked.attacker().await;
        attacker.send_raw(&whole[..cut]).await;
    }
    // And with answers under way.
    for _ in 0..20 {
        let mut attacker = attacked.attacker().await;
        for _ in 0..50 {
            attacker.send(&read("k")).await;
        }
    }
    attacked.check_bystander().await;
}

/// Valid requests with bytes flipped, cut out and put in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mangled_requests_never_harm_the_shard() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut attacked = Attacked::start(|config| {
        config.limits.frame_time = Duration::from_millis(200);
    })
    .await;
    let scan = Scan {
        index: "i",
        range: sherd_protocol::Range::FULL,
        after: Some(Cursor { position: sherd_protocol::Position(3), key: "k" }),
        limit: 10,
        keys_only: false,
    };
    let remove = Remove { index: "i", key: "k", version: Some(9) };
    let mutations = vec![Mutation::Remove(remove); 5];
    let originals = [
        ShardOperation::Write(Write {
            index: "i",
            key: "key",
            document: DOCUMENT,
            condition: Condition::Version(3),
            expiry: Expiry::After(5),
        }),
        ShardOperation::Batch(Batch { mutations, atomic: true }),
        ShardOperation::Scan(scan),
        ShardOperation::Remove(remove),
        ShardOperation::Stat,
    ]
    .map(|operation| framed(&Request { id: 1, operation }).to_vec());
    for round in 0..400 {
        let mut attacker = attacked.attacker().await;
        for _ in 0..10 {
            let mut bytes = originals[random.random_range(0..originals.len())].clone();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(4..bytes.len());
                match random.random_range(0..3) {
                    0 => bytes[at] = random.random(),
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, random.random()),
                }
            }
            // Mostly with the length that they now have.
            if random.random_range(0..10) > 0 {
                let length = (bytes.len() - 4) as u32;
                bytes[..4].copy_from_slice(&length.to_be_bytes());
            }
            if tokio::io::AsyncWriteExt::write_all(&mut attacker.stream, &bytes).await.is_err() {
                break;
            }
        }
        if round % 20 == 0 {
            attacked.check_bystander().await;
        }
    }
    attacked.check_bystander().await;
}
