//! What the fuzzers drive, and the tests with the fuzzers' corpora: arbitrary bytes where a peer
//! would give frames, messages and documents.
//!
//! Each target panics where an invariant does not hold, and returns whether it took the bytes, so
//! that a corpus that no longer gets behind the first check is noticed. The seeds are what the
//! corpora began with.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use serde::Serialize;
use serde::de::IgnoredAny;

use crate::digest::Digest;
use crate::document::{self, DocumentError, MAX_NESTING};
use crate::error::WireError;
use crate::frame::{self, FrameError, LENGTH_BYTES};
use crate::limits::{Change, Expiry, IndexSettings, Policy, SettingsChange};
use crate::message::*;
use crate::range_map::{OwnedRange, Range, RangeMap, ShardInfo};
use crate::ring::{HashMethod, Position, RING_SIZE};

/// A stream of frames: the limit on frames (a power of two) and how many bytes arrive at a time,
/// then the stream.
///
/// However the bytes arrive, the same frames come out, no byte is lost or doubled, and none is over
/// the limit. A frame's body is one well-formed value or is refused.
pub fn frame(data: &[u8]) -> bool {
    let Some((&[limit, at_a_time], stream)) = data.split_first_chunk() else { return false };
    let limit = 1 << (limit % 20);
    let at_a_time = usize::from(at_a_time).max(1);

    let mut buffer = BytesMut::new();
    let mut bodies = Vec::new();
    let mut too_large = false;
    'arriving: for chunk in stream.chunks(at_a_time) {
        buffer.extend_from_slice(chunk);
        loop {
            match frame::split(&mut buffer, limit) {
                Ok(Some(body)) => bodies.push(body),
                Ok(None) => break,
                Err(error) => {
                    assert!(matches!(error, FrameError::TooLarge { .. }), "{error}");
                    too_large = true;
                    break 'arriving;
                }
            }
        }
    }
    let mut rest = stream;
    for body in &bodies {
        assert!(body.len() <= limit);
        let Some((length, after)) = rest.split_first_chunk::<LENGTH_BYTES>() else {
            panic!("more frames than there are bytes");
        };
        assert_eq!(u32::from_be_bytes(*length) as usize, body.len());
        assert_eq!(&after[..body.len()], &body[..]);
        rest = &after[body.len()..];
    }
    if !too_large {
        assert_eq!(rest, &buffer[..], "what is left waits for more");
    }

    let mut reading = stream;
    let mut buffer = BytesMut::new();
    for body in &bodies {
        let read = ready(frame::read(&mut reading, &mut buffer, limit));
        assert!(matches!(&read, Ok(Some(again)) if again == body), "{read:?}");
    }
    match ready(frame::read(&mut reading, &mut buffer, limit)) {
        Err(FrameError::TooLarge { .. }) => assert!(too_large),
        Err(FrameError::Truncated) => assert!(!too_large && !rest.is_empty()),
        Ok(None) => assert!(!too_large && rest.is_empty()),
        other => panic!("{other:?}"),
    }

    let mut taken = false;
    for body in &bodies {
        let decoded = frame::decode::<IgnoredAny>(body);
        assert_eq!(decoded.is_ok(), document::well_formed(body).is_ok());
        taken |= decoded.is_ok();
    }
    taken
}

/// The result of a future that waits for nothing.
fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("reading from memory does not wait"),
    }
}

/// Decodes a message; what is taken comes back as it went. A macro, for the second message borrows
/// from elsewhere than the first.
macro_rules! again {
    ($message:ty, $body:expr) => {
        frame::decode::<$message>($body).ok().inspect(|message| {
            let bytes = encoded(message);
            let decoded = frame::decode::<$message>(&bytes);
            assert!(matches!(&decoded, Ok(again) if again == message), "{message:?}: {decoded:?}");
        })
    };
}

/// A message: which kind, then the frame's body.
///
/// What is taken means the same when it is encoded again. Where a range map is taken and checks
/// out, every position has one owner.
pub fn request(data: &[u8]) -> bool {
    let Some((&kind, body)) = data.split_first() else { return false };
    let rest = if kind % 6 < 2 { body } else { without_id(body) };
    match kind % 6 {
        0 => again!(Hello, rest).is_some(),
        1 => again!(HelloAnswer, rest).is_some(),
        2 => again!(ShardOperation<'_>, rest).is_some(),
        3 => again!(ShardAnswer<'_>, rest).is_some(),
        4 => again!(BootstrapOperation<'_>, rest).is_some(),
        _ => again!(BootstrapAnswer, rest).inspect(check_answer).is_some(),
    }
}

/// Takes the id off a message. What has none is refused, as an empty message is.
fn without_id(body: &[u8]) -> &[u8] {
    let Ok((id, rest)) = split_id(body) else { return b"" };
    let mut again = encoded(&(id, ()));
    // The nil that stands for the message.
    again.pop();
    assert!(matches!(split_id(&again), Ok((same, b"")) if same == id), "{id}");
    rest
}

fn check_answer(answer: &BootstrapAnswer) {
    let BootstrapAnswer::Map(map) = answer else { return };
    if map.check().is_ok() {
        let owned: u64 = map.ranges.iter().map(|range| u64::from(range.range().width())).sum();
        assert_eq!(owned, u64::from(RING_SIZE));
        for range in &map.ranges {
            assert_eq!(map.owner(Position(range.start)), Some(range));
            assert_eq!(map.owner(Position(range.end - 1)), Some(range));
            assert!(map.shard(&range.shard).is_some());
        }
        assert_eq!(map.owner(Position(RING_SIZE)), None);
    }
}

fn encoded(message: &impl Serialize) -> Vec<u8> {
    let mut wire = BytesMut::new();
    let framed = frame::encode(&mut wire, message, usize::MAX);
    assert!(framed.is_ok(), "{framed:?}");
    wire.split_off(LENGTH_BYTES).to_vec()
}

/// A document.
///
/// Another decoder must agree: what is taken it decodes, to its last byte, as a value without
/// extension types that nests as deep as allowed; and what comes before a fault is sound.
pub fn document(data: &[u8]) -> bool {
    match document::check(data) {
        Ok(()) => {
            let mut rest = data;
            let value = rmpv::decode::read_value_ref(&mut rest);
            assert!(rest.is_empty(), "taken with {} bytes behind it", rest.len());
            assert!(matches!(&value, Ok(value) if nesting(value) <= MAX_NESTING), "{value:?}");
            if let Some((_, cut)) = data.split_last() {
                assert!(matches!(document::check(cut), Err(DocumentError::Truncated { .. })));
            }
            let longer = [data, b"\xc0"].concat();
            let offset = data.len();
            assert_eq!(document::check(&longer), Err(DocumentError::TrailingBytes { offset }));
            true
        }
        Err(fault) => {
            match fault {
                DocumentError::Truncated { offset } => {
                    assert!(offset <= data.len());
                    let decoded = rmpv::decode::read_value_ref(&mut &data[..]);
                    assert!(decoded.is_err(), "{decoded:?} is called cut off at {offset}");
                }
                DocumentError::TrailingBytes { offset } => {
                    assert_eq!(document::check(&data[..offset]), Ok(()));
                }
                DocumentError::BadMarker { offset, marker } => assert_eq!(data[offset], marker),
                DocumentError::NotUtf8 { offset } => {
                    let decoded = rmpv::decode::read_value_ref(&mut &data[offset..]);
                    assert!(matches!(decoded, Ok(rmpv::ValueRef::String(text)) if text.is_err()));
                }
                DocumentError::TooDeep { offset } => {
                    // Each level has a header of a byte at least.
                    assert!((MAX_NESTING..data.len()).contains(&offset));
                }
                DocumentError::TooLarge { size } => assert_eq!(size, data.len()),
            }
            false
        }
    }
}

/// How deep a value nests; extension types and strings that are no text are deeper than any.
fn nesting(value: &rmpv::ValueRef<'_>) -> usize {
    let deepest = |values: &mut dyn Iterator<Item = &rmpv::ValueRef<'_>>| {
        1 + values.map(nesting).max().unwrap_or(0)
    };
    match value {
        rmpv::ValueRef::Array(values) => deepest(&mut values.iter()),
        rmpv::ValueRef::Map(pairs) => {
            deepest(&mut pairs.iter().flat_map(|(key, value)| [key, value]))
        }
        rmpv::ValueRef::String(text) if text.is_err() => usize::MAX / 2,
        rmpv::ValueRef::Ext(..) => usize::MAX / 2,
        _ => 0,
    }
}

/// The kind of a message in [`request`], and its frame's body.
fn messages() -> Vec<(&'static str, u8, Vec<u8>)> {
    let write = Write {
        index: "cities",
        key: "k|ä",
        document: b"\x81\xa1a\x01",
        condition: Condition::Version(7),
        expiry: Expiry::After(60_000),
    };
    let key = KeyOf { index: "cities", key: "test" };
    let remove = Remove { index: "cities", key: "test", version: Some(3) };
    let touch = Touch { index: "cities", key: "test", expiry: Expiry::At(1 << 41) };
    let set_shard = SetShard { shard: "a", size: Some(5), policy: Some(Policy::Random) };
    let scan = Scan {
        index: "cities",
        range: Range::FULL,
        after: Some(Cursor { position: Position(3), key: "k" }),
        limit: 10,
        keys_only: true,
    };
    let assignment = Assignment {
        cluster: "0f1e2d3c4b5a69788796a5b4c3d2e1f0".to_owned(),
        name: "shard0-0.5".to_owned(),
        epoch: 3,
        lineage: u64::MAX,
        hash_method: HashMethod::Xxh3,
        ranges: vec![Range { start: 0, end: 5_000_000 }],
        size: 1024,
        policy: Policy::Lru,
        gives_up: None,
    };
    let settings = IndexSettings {
        max_bytes: Some(1 << 30),
        max_documents: Some(1000),
        policy: Some(Policy::Ttl),
        ttl: Some(86_400_000),
    };
    let index = Index { id: 4, name: "cities".to_owned(), settings };
    let share = SetShare { id: 4, name: "cities", settings, force: true };
    let change = SettingsChange {
        max_bytes: Change::Set(1),
        policy: Change::Unset,
        ..SettingsChange::default()
    };
    let mutations = vec![Mutation::Write(write), Mutation::Remove(remove)];
    let owned = |start, end| OwnedRange { start, end, shard: "a".to_owned() };
    let map = RangeMap {
        cluster: assignment.cluster.clone(),
        epoch: 3,
        hash_method: HashMethod::Md5,
        shards: vec![ShardInfo {
            name: "a".to_owned(),
            host: "::1".to_owned(),
            port: 5050,
            size: 9,
            policy: Policy::Fifo,
        }],
        ranges: vec![owned(0, 5_000_000), owned(5_000_000, RING_SIZE)],
    };
    let error = WireError::QuotaExceeded { used: 1, limit: 2, needed: 3 };
    let outcomes = vec![
        MutationOutcome::Written { version: 1 },
        MutationOutcome::ConditionFailed { version: None },
        MutationOutcome::Error(WireError::bad_request("key", "too long")),
        MutationOutcome::Abandoned,
    ];
    let page = Page {
        items: [0, 1 << 40]
            .map(|expires_at| Item {
                position: Position(1),
                key: "k",
                version: 2,
                document: b"\xc0",
                expires_at,
            })
            .to_vec(),
        more: true,
    };
    let found =
        Found { position: Position(1_671_936), version: 2, expires_at: 1 << 40, document: b"\xc0" };
    let sum = RangeSum { index: 4, documents: 1, bytes: 13, digest: Digest(u128::MAX / 7) };
    let piece = FetchPiece { id: u64::MAX, segment: 5, offset: 64, length: 1 << 18 };
    let segment = CutSegment { number: 5, length: 4096, first_lsn: 7, named: true };
    let cut = Cut {
        id: u64::MAX,
        lsn: 9,
        clock: 1 << 40,
        timed_after: Some(5),
        epoch: 3,
        ranges: vec![Range::FULL],
        sums: vec![sum],
        identity: "0".repeat(32),
        manifest: b"SHERDMAN".to_vec(),
        segments: vec![segment],
    };
    let digests = Digests { epoch: 3, ranges: vec![Range::FULL], sums: vec![sum] };
    let why = Some("not connected".to_owned());
    let status = vec![ShardStatus { name: "a".to_owned(), ready: false, why }];
    let welcome =
        Welcome { version: 1, role: Role::Shard, name: "shard0-0.5".to_owned(), epoch: 3 };
    let hello = Hello { version: 1, client: "sherd".to_owned(), token: Some("secret".to_owned()) };

    let mut all = vec![
        ("hello", 0, encoded(&hello)),
        ("welcome", 1, encoded(&HelloAnswer::Welcome(welcome))),
        ("refused", 1, encoded(&HelloAnswer::Refused(WireError::Unauthorized))),
    ];
    let shard = [
        ("write", ShardOperation::Write(write)),
        ("read", ShardOperation::Read(key)),
        ("remove", ShardOperation::Remove(remove)),
        ("touch", ShardOperation::Touch(touch)),
        ("batch", ShardOperation::Batch(Batch { mutations, atomic: true })),
        ("scan", ShardOperation::Scan(scan)),
        ("stat", ShardOperation::Stat),
        ("digests", ShardOperation::Digests),
        (
            "cut-begin",
            ShardOperation::Cut(CutOperation::Begin(BeginCut { keep_log: Some(1 << 30) })),
        ),
        ("cut-fetch", ShardOperation::Cut(CutOperation::Fetch(piece))),
        ("assign", ShardOperation::Assign(assignment)),
        ("lock", ShardOperation::Lock(Lock { owner: "bootstrap" })),
        ("create-index", ShardOperation::CreateIndex(index.clone())),
        ("drop-index", ShardOperation::DropIndex(DropIndex { id: 4, name: "cities" })),
        ("set-index", ShardOperation::SetIndex(share)),
        ("set-size", ShardOperation::SetSize(SetSize { size: 1 << 40, policy: Some(Policy::Lfu) })),
    ];
    all.extend(shard.map(|(name, it)| (name, 2, encoded(&Request { id: 7, operation: it }))));
    let answers = [
        ("written", ShardAnswer::Written { version: 3 }),
        ("touched", ShardAnswer::Touched { version: 3, expires_at: 0 }),
        ("document", ShardAnswer::Document(found)),
        ("condition-failed", ShardAnswer::ConditionFailed { version: Some(4) }),
        ("batch-answer", ShardAnswer::Batch(outcomes)),
        ("page", ShardAnswer::Page(page)),
        ("stat-answer", ShardAnswer::Stat(Box::default())),
        ("digests-answer", ShardAnswer::Digests(Box::new(digests))),
        ("cut-answer", ShardAnswer::Cut(Box::new(cut))),
        ("cut-piece", ShardAnswer::Piece(Piece { bytes: b"SHERDLOG" })),
        ("error", ShardAnswer::Error(error)),
    ];
    all.extend(answers.map(|(name, it)| (name, 3, encoded(&Answer { id: u64::MAX, outcome: it }))));
    let bootstrap = [
        ("map", BootstrapOperation::Map),
        (
            "catalogue-create",
            BootstrapOperation::CreateIndex(NewIndex { name: "cities", settings }),
        ),
        ("catalogue-set", BootstrapOperation::SetIndex(ChangeIndex { name: "cities", change })),
        ("set-shard", BootstrapOperation::SetShard(set_shard)),
    ];
    all.extend(bootstrap.map(|(name, it)| (name, 4, encoded(&Request { id: 300, operation: it }))));
    let answers = [
        ("map-answer", BootstrapAnswer::Map(map)),
        ("indexes-answer", BootstrapAnswer::Indexes(vec![index])),
        ("status-answer", BootstrapAnswer::Status(status)),
    ];
    all.extend(answers.map(|(name, it)| (name, 5, encoded(&Answer { id: 70_000, outcome: it }))));
    all
}

/// What the corpus of [`request`] begins with: name and bytes.
pub fn request_seeds() -> Vec<(String, Vec<u8>)> {
    let seed =
        |(name, kind, body): (&str, u8, Vec<u8>)| (name.to_owned(), [&[kind][..], &body].concat());
    let mut seeds: Vec<_> = messages().into_iter().map(seed).collect();
    seeds.push(("unknown-operation".to_owned(), b"\x02\x92\x05\xa8levitate".to_vec()));
    seeds.push(("no-id".to_owned(), b"\x02\x92\xa1x\xa4stat".to_vec()));
    seeds.push((
        "later-field".to_owned(),
        b"\x00\x83\xa7version\x01\xa6client\xa1c\xa6colour\x91\x80".to_vec(),
    ));
    seeds
}

/// What the corpus of [`frame`] begins with: name and bytes.
pub fn frame_seeds() -> Vec<(String, Vec<u8>)> {
    let mut stream = Vec::new();
    for (_, _, body) in messages() {
        stream.extend_from_slice(&(body.len() as u32).to_be_bytes());
        stream.extend_from_slice(&body);
    }
    let seed = |name: &str, limit: u8, at_a_time: u8, stream: &[u8]| {
        (name.to_owned(), [&[limit, at_a_time][..], stream].concat())
    };
    vec![
        seed("whole", 16, 255, &stream),
        seed("byte-by-byte", 16, 1, &stream[..200]),
        seed("cut-off", 16, 7, &stream[..stream.len() - 3]),
        seed("over-the-limit", 6, 10, &stream),
        seed("empty-frames", 4, 3, &[0; 12]),
        seed("a-length-alone", 19, 4, &[0xff; 4]),
        seed("half-a-length", 19, 4, &[0, 0, 1]),
        seed("two-values-in-a-frame", 8, 4, b"\0\0\0\x02\x01\x02"),
    ]
}

/// What the corpus of [`document`] begins with: name and bytes.
pub fn document_seeds() -> Vec<(String, Vec<u8>)> {
    let nested = |depth: usize| [vec![0x91; depth], vec![0xc0]].concat();
    let every_type = [
        &b"\xdc\x00\x14"[..],
        b"\xc0\xc3\x2a\xff\xcc\xff\xcd\xff\xff\xce\xff\xff\xff\xff",
        b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xd0\x80\xd1\x80\x00\xd2\x80\x00\x00\x00",
        b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00\xca\x3f\x80\x00\x00",
        b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00\xa2hi\xd9\x02hi\xda\x00\x02hi\xc4\x01\xff",
        b"\x81\xa1a\x92\x01\x02\xde\x00\x01\x80\xc2\xdd\x00\x00\x00\x01\x01",
    ]
    .concat();
    let seeds: [(&str, &[u8]); 15] = [
        ("nil", b"\xc0"),
        ("string", b"\xabhello world"),
        ("object", b"\x82\xa4test\xa4test\xa1n\xcb\x3f\xec\xcc\xcc\xcc\xcc\xcc\xcd"),
        ("every-type", &every_type),
        ("as-deep-as-allowed", &nested(MAX_NESTING)),
        ("deeper-than-allowed", &nested(MAX_NESTING + 1)),
        ("map-key-twice", b"\x82\xa1a\x01\xa1a\x02"),
        ("map-as-a-key", b"\x81\x80\xc0"),
        ("promises-more-values", b"\xdd\xff\xff\xff\xff"),
        ("promises-a-longer-string", b"\xdb\xff\xff\xff\xff"),
        ("not-utf8", b"\x91\xa1\xff"),
        ("reserved-marker", b"\x91\xc1"),
        ("timestamp", b"\xd6\xff\x00\x00\x00\x00"),
        ("two-values", b"\x01\x02"),
        ("large-map-header", b"\xdf\x00\x00\x00\x01\xa1a\x01"),
    ];
    seeds.map(|(name, bytes)| (name.to_owned(), bytes.to_vec())).to_vec()
}
