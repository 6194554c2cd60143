//! Documents and names: what is stored comes back byte for byte, and what is not a document or
//! not a name is refused with its place.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rmpv::Value;
use sherd_protocol::message::*;
use sherd_protocol::{Expiry, MAX_DOCUMENT_BYTES, WireError};
use sherd_server::Config;

fn encoded(value: &Value) -> Vec<u8> {
    let mut document = Vec::new();
    rmpv::encode::write_value(&mut document, value).unwrap();
    document
}

fn binary(length: usize) -> Vec<u8> {
    let mut document = vec![0xc6];
    document.extend_from_slice(&((length - 5) as u32).to_be_bytes());
    document.resize(length, 7);
    document
}

#[tokio::test]
async fn documents_of_every_type_come_back_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let (shard, mut c) = Shard::with_index(Config::new(dir.path())).await;
    let nan_with_payload = f64::from_bits(0x7ff8_dead_beef_0001);
    let signalling_nan = f64::from_bits(0xfff0_0000_0000_0001);
    let mut values = vec![
        Value::Nil,
        Value::from(true),
        Value::from(false),
        Value::from(""),
        Value::from("x".repeat(100_000)),
        Value::from("Zürich 北京 🦀"),
        Value::Binary(vec![]),
        Value::Binary((0..=255).collect()),
        Value::Binary(vec![0xff; 70_000]),
        Value::Array(vec![]),
        Value::Map(vec![]),
        Value::Array((0..70_000).map(Value::from).collect()),
        Value::Map((0..20).map(|i| (Value::from(i), Value::from(vec![Value::Nil; 3]))).collect()),
        (0..127).fold(Value::from("deep"), |inner, _| Value::from(vec![inner])),
        Value::F32(f32::from_bits(0x7fc0_1234)),
        Value::F64(nan_with_payload),
        Value::F64(signalling_nan),
    ];
    for exponent in 0..64 {
        for nearby in [-1i128, 0, 1] {
            for number in [(1i128 << exponent) + nearby, -(1i128 << exponent) + nearby] {
                if let Ok(number) = u64::try_from(number) {
                    values.push(Value::from(number));
                } else if let Ok(number) = i64::try_from(number) {
                    values.push(Value::from(number));
                }
            }
        }
    }
    values.extend([Value::from(i64::MIN), Value::from(i64::MAX), Value::from(u64::MAX)]);
    let floats = [0.0, -0.0, 1.5, f64::MIN, f64::MAX, f64::MIN_POSITIVE, f64::INFINITY, 5e-324];
    values.extend(floats.map(Value::F64));
    let mut documents: Vec<_> = values.iter().map(encoded).collect();
    // Encodings longer than they need be are documents, too, and stay as they are.
    documents.extend(
        [
            &b"\xcf\x00\x00\x00\x00\x00\x00\x00\x01"[..],
            b"\xd3\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\xdb\x00\x00\x00\x02hi",
            b"\xdd\x00\x00\x00\x01\xdf\x00\x00\x00\x01\xa1a\xc6\x00\x00\x00\x00",
            b"\x82\xa1a\x01\xa1a\x02",
        ]
        .map(<[u8]>::to_vec),
    );
    for (i, document) in documents.iter().enumerate() {
        c.write(&format!("key:{i}"), document).await;
        assert_eq!(c.read(&format!("key:{i}")).await.as_ref(), Some(document), "from memory");
    }
    drop(c);
    shard.stop().await.unwrap();
    let shard = Shard::start(dir.path()).await;
    let mut c = Connection::open(shard.address).await;
    for (i, document) in documents.iter().enumerate() {
        assert_eq!(c.read(&format!("key:{i}")).await.as_ref(), Some(document), "from disk");
    }
}

#[tokio::test]
async fn random_documents_come_back_byte_for_byte() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let (_shard, mut c) = Shard::with_index(Config::new(dir.path())).await;
    for _ in 0..500 {
        let document = encoded(&random_value(&mut random, 6));
        c.write("k", &document).await;
        assert_eq!(c.read("k").await, Some(document));
    }
}

fn random_value(random: &mut StdRng, depth: u32) -> Value {
    let length = random.random_range(0..6);
    match random.random_range(0..if depth == 0 { 6 } else { 8 }) {
        0 => Value::Nil,
        1 => Value::from(random.random::<bool>()),
        2 => Value::from(random.random::<i64>() >> random.random_range(0..64)),
        3 => Value::F64(f64::from_bits(random.random())),
        4 => Value::from((0..length).map(|_| random.random::<char>()).collect::<String>()),
        5 => Value::Binary((0..length * 50).map(|_| random.random()).collect()),
        6 => Value::Array((0..length).map(|_| random_value(random, depth - 1)).collect()),
        _ => Value::Map(
            (0..length)
                .map(|_| (random_value(random, depth - 1), random_value(random, depth - 1)))
                .collect(),
        ),
    }
}

#[tokio::test]
async fn the_largest_document_is_stored_and_one_byte_more_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (shard, mut c) = Shard::with_index(Config::new(dir.path())).await;
    let (largest, longest_key) = (binary(MAX_DOCUMENT_BYTES), "k".repeat(1024));
    c.write(&longest_key, &largest).await;
    let too_large = WireError::TooLarge {
        what: "the document".to_owned(),
        size: MAX_DOCUMENT_BYTES as u64 + 1,
        limit: MAX_DOCUMENT_BYTES as u64,
    };
    let longer = binary(MAX_DOCUMENT_BYTES + 1);
    assert_eq!(c.error(write("k", &longer, Condition::Any)).await, too_large);
    assert_eq!(c.read("k").await, None);
    drop(c);
    shard.stop().await.unwrap();
    let shard = Shard::start(dir.path()).await;
    let mut c = Connection::open(shard.address).await;
    assert!(c.read(&longest_key).await.as_ref() == Some(&largest), "from disk");
    match c.ask(pop(&longest_key)).await.answer() {
        ShardAnswer::Document(found) => assert!(found.document == largest),
        _ => panic!("not popped"),
    }
}

#[tokio::test]
async fn keys_of_all_kinds_are_kept_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (_shard, mut c) = Shard::with_index(Config::new(dir.path())).await;
    let long = "ä".repeat(512);
    let keys =
        ["a", "A", "a ", "a|b", "|", "a\tb", "a\nb", "\0", "ä", "a\u{308}", "北京", "🦀", &long];
    for (i, key) in keys.iter().enumerate() {
        c.write(key, &[i as u8]).await;
    }
    for (i, key) in keys.iter().enumerate() {
        assert_eq!(c.read(key).await, Some(vec![i as u8]), "{key:?}");
    }
    assert_eq!(c.stat().await.documents, keys.len() as u64);
}

#[tokio::test]
async fn what_is_no_document_or_name_is_refused_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let (_shard, mut c) = Shard::with_index(Config::new(dir.path())).await;
    let too_deep = [vec![0x91; 129], vec![0xc0]].concat();
    let documents: [&[u8]; 7] =
        [b"", b"\xc1", b"\x92\x01", b"\x01\x02", b"\xa1\xff", b"\xd4\x01\x00", &too_deep];
    for document in documents {
        match c.error(write("k", document, Condition::Any)).await {
            WireError::BadRequest(bad) => assert_eq!(bad.place, "document", "{document:02x?}"),
            other => panic!("{document:02x?}: {other}"),
        }
    }
    let in_batch = |mutation| {
        let fine = Mutation::Remove(Remove { index: INDEX, key: "fine", version: None });
        ShardOperation::Batch(Batch { mutations: vec![fine, mutation], atomic: false })
    };
    let (condition, expiry) = (Condition::Any, Expiry::Default);
    let put = |index, key, document| Write { index, key, document, condition, expiry };
    let scan = |change: fn(&mut Scan<'static>)| {
        let range = sherd_protocol::Range::FULL;
        let mut scan = Scan { index: INDEX, range, after: None, limit: 1, keys_only: false };
        change(&mut scan);
        ShardOperation::Scan(scan)
    };
    let long = "k".repeat(1025);
    let cursor = |position, key| Some(Cursor { position: sherd_protocol::Position(position), key });
    let faults = [
        (read(""), "key"),
        (has(&long), "key"),
        (pop(&long), "key"),
        (remove("", None), "key"),
        (ShardOperation::Read(KeyOf { index: "", key: "k" }), "index"),
        (ShardOperation::Write(put("a/b", "k", b"\xc0")), "index"),
        (in_batch(Mutation::Write(put(INDEX, "k", b""))), "mutations[1].document"),
        (in_batch(Mutation::Write(put(INDEX, "", b"\xc0"))), "mutations[1].key"),
        (in_batch(Mutation::Write(put("a b", "k", b"\xc0"))), "mutations[1].index"),
        (scan(|scan| scan.limit = 0), "limit"),
        (scan(|scan| scan.range.end = 10_000_001), "range"),
        (scan(|scan| (scan.range.start, scan.range.end) = (5, 4)), "range"),
        (scan(|scan| scan.index = "ä"), "index"),
        (
            ShardOperation::Scan(Scan {
                index: INDEX,
                range: sherd_protocol::Range { start: 0, end: 5 },
                after: cursor(5, "k"),
                limit: 1,
                keys_only: false,
            }),
            "after.position",
        ),
        (
            ShardOperation::Scan(Scan {
                index: INDEX,
                range: sherd_protocol::Range::FULL,
                after: cursor(5, ""),
                limit: 1,
                keys_only: false,
            }),
            "after.key",
        ),
    ];
    for (request, place) in faults {
        match c.error(request.clone()).await {
            WireError::BadRequest(bad) => assert_eq!(bad.place, place, "{request:?}: {}", bad.what),
            other => panic!("{request:?}: {other}"),
        }
    }
    assert_eq!(c.stat().await.documents, 0);
}
