//! The worked examples of `docs/protocol.md` against the crate, byte for byte.
//!
//! Each fenced block that begins with `hex NAME` is one frame, its annotations after a `;`. The
//! message of that name in [`examples`] or one of the others like it must encode to exactly these bytes,
//! and they must decode to it. A block marked `hex NAME decodes` shows another encoding that a node
//! accepts: it only has to decode. Every block has its message and every message its block. The
//! worked computation of positions is compared step by step.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;

use bytes::BytesMut;
use md5::{Digest, Md5};
use sherd_protocol::message::*;
use sherd_protocol::range_map::OwnedRange;
use sherd_protocol::{
    Action, Change, DEFAULT_MAX_FRAME_BYTES, Expiry, HashMethod, IndexSettings, Plan, PlannedMove,
    Policy, Position, Range, RangeMap, SettingsChange, ShardBytes, ShardInfo, WireError, frame,
};

#[derive(Debug, PartialEq)]
enum Message {
    Hello(Hello),
    HelloAnswer(HelloAnswer),
    ToShard(u64, ShardOperation<'static>),
    FromShard(u64, ShardAnswer<'static>),
    ToBootstrap(u64, BootstrapOperation<'static>),
    FromBootstrap(u64, BootstrapAnswer),
}

use Message::{FromBootstrap, FromShard, ToBootstrap, ToShard};

impl Message {
    fn encode(&self) -> Vec<u8> {
        let mut wire = BytesMut::new();
        let limit = DEFAULT_MAX_FRAME_BYTES;
        match self {
            Self::Hello(hello) => frame::encode(&mut wire, hello, limit),
            Self::HelloAnswer(answer) => frame::encode(&mut wire, answer, limit),
            ToShard(id, operation) => {
                frame::encode(&mut wire, &Request { id: *id, operation }, limit)
            }
            FromShard(id, outcome) => frame::encode(&mut wire, &Answer { id: *id, outcome }, limit),
            ToBootstrap(id, operation) => {
                frame::encode(&mut wire, &Request { id: *id, operation }, limit)
            }
            FromBootstrap(id, outcome) => {
                frame::encode(&mut wire, &Answer { id: *id, outcome }, limit)
            }
        }
        .unwrap();
        wire.to_vec()
    }

    /// Decodes `bytes` as a message of the same kind as `self`.
    fn decode_alike(&self, bytes: &'static [u8]) -> Self {
        let length = frame::body_length(bytes, DEFAULT_MAX_FRAME_BYTES).unwrap().unwrap();
        let body = &bytes[frame::LENGTH_BYTES..];
        assert_eq!(body.len(), length, "the length in front does not fit the body");
        match self {
            Self::Hello(_) => Self::Hello(frame::decode(body).unwrap()),
            Self::HelloAnswer(_) => Self::HelloAnswer(frame::decode(body).unwrap()),
            message => {
                let (id, rest) = split_id(body).unwrap();
                match message {
                    ToShard(..) => ToShard(id, frame::decode(rest).unwrap()),
                    FromShard(..) => FromShard(id, frame::decode(rest).unwrap()),
                    ToBootstrap(..) => ToBootstrap(id, frame::decode(rest).unwrap()),
                    _ => FromBootstrap(id, frame::decode(rest).unwrap()),
                }
            }
        }
    }
}

const CLUSTER: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";

const LINEAGE: u64 = 0x1234_5678_9abc_def0;

/// The beginning of the year 2030.
const EXPIRES_AT: u64 = 1_893_456_000_000;

/// `"hello world"`, as a document.
const HELLO_WORLD: &[u8] = b"\xabhello world";

/// `{"hello": "world"}`, as a document.
const HELLO_MAP: &[u8] = b"\x81\xa5hello\xa5world";

fn write(condition: Condition) -> Write<'static> {
    let expiry = Expiry::Default;
    Write { index: "test_index", key: "test", document: HELLO_WORLD, condition, expiry }
}

fn key_of(key: &'static str) -> KeyOf<'static> {
    KeyOf { index: "test_index", key }
}

fn examples() -> Vec<(&'static str, Message)> {
    let scan = Scan {
        index: "test_index",
        range: Range { start: 0, end: 5_000_000 },
        after: None,
        limit: 1000,
        keys_only: false,
    };
    let item = |position, key, document, expires_at| {
        let position = Position(position);
        Item { position, key, version: 7, document, expires_at }
    };
    let shard = |name: &str, port| ShardInfo {
        name: name.to_owned(),
        host: "127.0.0.1".to_owned(),
        port,
        size: 1024,
        policy: Policy::Reject,
    };
    let owned = |start, end, shard: &str| OwnedRange { start, end, shard: shard.to_owned() };
    let settings = IndexSettings {
        max_documents: Some(1000),
        policy: Some(Policy::Lru),
        ..IndexSettings::default()
    };
    let index =
        || Index { id: 1, name: "test_index".to_owned(), settings: IndexSettings::default() };
    let bounded = || Index { settings, ..index() };
    vec![
        ("hello", Message::Hello(Hello { version: 1, client: "example".to_owned(), token: None })),
        (
            "hello_with_token",
            Message::Hello(Hello {
                version: 1,
                client: "example".to_owned(),
                token: Some("secret".to_owned()),
            }),
        ),
        (
            "welcome_of_a_shard",
            Message::HelloAnswer(HelloAnswer::Welcome(Welcome {
                version: 1,
                role: Role::Shard,
                name: "shard0-0.5".to_owned(),
                epoch: 3,
            })),
        ),
        (
            "refused",
            Message::HelloAnswer(HelloAnswer::Refused(WireError::UnsupportedVersion {
                client: 2,
                server: 1,
            })),
        ),
        ("write", ToShard(1, ShardOperation::Write(write(Condition::Absent)))),
        (
            "write_of_a_version",
            ToShard(
                300,
                ShardOperation::Write(Write {
                    document: HELLO_MAP,
                    ..write(Condition::Version(7))
                }),
            ),
        ),
        ("written", FromShard(1, ShardAnswer::Written { version: 7 })),
        ("condition_failed", FromShard(1, ShardAnswer::ConditionFailed { version: Some(7) })),
        (
            "condition_failed_on_nothing",
            FromShard(300, ShardAnswer::ConditionFailed { version: None }),
        ),
        ("read", ToShard(2, ShardOperation::Read(key_of("test")))),
        (
            "document",
            FromShard(
                2,
                ShardAnswer::Document(Found {
                    position: Position(1_671_936),
                    version: 7,
                    expires_at: 0,
                    document: HELLO_WORLD,
                }),
            ),
        ),
        ("missing", FromShard(2, ShardAnswer::Missing)),
        ("has", ToShard(3, ShardOperation::Has(key_of("test")))),
        (
            "has_it",
            FromShard(
                3,
                ShardAnswer::Document(Found {
                    position: Position(1_671_936),
                    version: 7,
                    expires_at: 0,
                    document: b"",
                }),
            ),
        ),
        ("pop", ToShard(4, ShardOperation::Pop(key_of("test")))),
        (
            "remove",
            ToShard(
                5,
                ShardOperation::Remove(Remove {
                    index: "test_index",
                    key: "test",
                    version: Some(7),
                }),
            ),
        ),
        (
            "write_that_expires",
            ToShard(
                23,
                ShardOperation::Write(Write {
                    expiry: Expiry::After(2000),
                    ..write(Condition::Any)
                }),
            ),
        ),
        (
            "touch",
            ToShard(
                24,
                ShardOperation::Touch(Touch {
                    index: "test_index",
                    key: "test",
                    expiry: Expiry::At(EXPIRES_AT),
                }),
            ),
        ),
        ("touched", FromShard(24, ShardAnswer::Touched { version: 7, expires_at: EXPIRES_AT })),
        (
            "document_that_expires",
            FromShard(
                25,
                ShardAnswer::Document(Found {
                    position: Position(1_671_936),
                    version: 7,
                    expires_at: EXPIRES_AT,
                    document: HELLO_WORLD,
                }),
            ),
        ),
        ("removed", FromShard(5, ShardAnswer::Removed { version: 8 })),
        (
            "batch",
            ToShard(
                6,
                ShardOperation::Batch(Batch {
                    mutations: vec![
                        Mutation::Write(write(Condition::Any)),
                        Mutation::Remove(Remove { index: "test_index", key: "4", version: None }),
                    ],
                    atomic: true,
                }),
            ),
        ),
        (
            "batch_done",
            FromShard(
                6,
                ShardAnswer::Batch(vec![
                    MutationOutcome::Written { version: 9 },
                    MutationOutcome::Removed { version: 10 },
                ]),
            ),
        ),
        (
            "batch_undone",
            FromShard(
                6,
                ShardAnswer::Batch(vec![MutationOutcome::Abandoned, MutationOutcome::Missing]),
            ),
        ),
        ("scan", ToShard(7, ShardOperation::Scan(scan))),
        (
            "page",
            FromShard(
                7,
                ShardAnswer::Page(Page {
                    items: vec![
                        item(900_864, "4", b"\xcb\x3f\xec\xcc\xcc\xcc\xcc\xcc\xcd", 0),
                        item(1_671_936, "test", HELLO_WORLD, EXPIRES_AT),
                    ],
                    more: true,
                }),
            ),
        ),
        (
            "scan_goes_on",
            ToShard(
                8,
                ShardOperation::Scan(Scan {
                    after: Some(Cursor { position: Position(1_671_936), key: "test" }),
                    keys_only: true,
                    ..scan
                }),
            ),
        ),
        ("stat", ToShard(9, ShardOperation::Stat)),
        (
            "stat_answer",
            FromShard(
                9,
                ShardAnswer::Stat(Box::new(ShardStat {
                    cluster: CLUSTER.to_owned(),
                    name: "shard0-0.5".to_owned(),
                    epoch: 3,
                    lineage: LINEAGE,
                    ranges: vec![Range { start: 0, end: 5_000_000 }],
                    max_size: 1024,
                    policy: Policy::Reject,
                    used: 16,
                    documents: 1,
                    distribution: [0, 1, 0, 0, 0],
                    counts: Counts { evicted: 0, expired: 1, rejected: 0, hits: 5, misses: 2 },
                    indexes: vec![IndexStat {
                        id: 1,
                        name: "test_index".to_owned(),
                        documents: 1,
                        used: 16,
                        settings,
                        counts: Counts { hits: 5, ..Counts::default() },
                    }],
                    locked_by: None,
                    incoming: None,
                    damaged: None,
                    poisoned: None,
                    disk_full: None,
                    checkpoint_error: None,
                    durable_lsn: 9,
                    checkpoint_lsn: 2,
                    segments: 1,
                    log_bytes: 67_108_864,
                    tracked_documents: 1,
                    tracked_bytes: 2000,
                    connections: 2,
                    pid: 4242,
                })),
            ),
        ),
        ("digests", ToShard(31, ShardOperation::Digests)),
        (
            "digests_answer",
            FromShard(
                31,
                ShardAnswer::Digests(Box::new(Digests {
                    epoch: 3,
                    ranges: vec![Range { start: 0, end: 5_000_000 }],
                    sums: vec![RangeSum {
                        index: 1,
                        documents: 1,
                        bytes: 16,
                        digest: sherd_protocol::Digest(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
                    }],
                })),
            ),
        ),
        (
            "assign",
            ToShard(
                10,
                ShardOperation::Assign(Assignment {
                    cluster: CLUSTER.to_owned(),
                    name: "shard0-0.5".to_owned(),
                    epoch: 3,
                    lineage: LINEAGE,
                    hash_method: HashMethod::Md5,
                    ranges: vec![Range { start: 0, end: 5_000_000 }],
                    size: 1024,
                    policy: Policy::Lru,
                    gives_up: None,
                }),
            ),
        ),
        ("done", FromShard(10, ShardAnswer::Done)),
        ("lock", ToShard(11, ShardOperation::Lock(Lock { owner: "backup" }))),
        ("release", ToShard(12, ShardOperation::Release(Lock { owner: "backup" }))),
        ("create_index_on_a_shard", ToShard(13, ShardOperation::CreateIndex(index()))),
        (
            "drop_index_on_a_shard",
            ToShard(14, ShardOperation::DropIndex(DropIndex { id: 1, name: "test_index" })),
        ),
        (
            "set_index_on_a_shard",
            ToShard(
                21,
                ShardOperation::SetIndex(SetShare {
                    id: 1,
                    name: "test_index",
                    settings: settings.share(&[Range { start: 0, end: 5_000_000 }]),
                    force: true,
                }),
            ),
        ),
        (
            "set_size_of_a_shard",
            ToShard(15, ShardOperation::SetSize(SetSize { size: 65_536, policy: None })),
        ),
        (
            "error_index_full",
            FromShard(
                22,
                ShardAnswer::Error(WireError::IndexFull {
                    index: "test_index".to_owned(),
                    what: "documents".to_owned(),
                    used: 500,
                    limit: 500,
                    needed: 1,
                    shard: String::new(),
                }),
            ),
        ),
        (
            "error_wrong_shard",
            FromShard(16, ShardAnswer::Error(WireError::WrongShard { epoch: 4 })),
        ),
        (
            "error_quota_exceeded",
            FromShard(
                17,
                ShardAnswer::Error(WireError::QuotaExceeded {
                    used: 1010,
                    limit: 1024,
                    needed: 16,
                }),
            ),
        ),
        (
            "error_bad_request",
            FromShard(
                18,
                ShardAnswer::Error(WireError::bad_request(
                    "key",
                    "a key has 1 to 1024 bytes, this one has 0",
                )),
            ),
        ),
        (
            "error_outcome_unknown",
            FromShard(
                20,
                ShardAnswer::Error(WireError::OutcomeUnknown { reason: "sync failed".to_owned() }),
            ),
        ),
        ("error_without_fields", FromShard(19, ShardAnswer::Error(WireError::ShuttingDown))),
        ("map", ToBootstrap(1, BootstrapOperation::Map)),
        (
            "map_answer",
            FromBootstrap(
                1,
                BootstrapAnswer::Map(RangeMap {
                    cluster: CLUSTER.to_owned(),
                    epoch: 3,
                    hash_method: HashMethod::Md5,
                    shards: vec![shard("shard0-0.5", 5050), shard("shard0.5-1", 5051)],
                    ranges: vec![
                        owned(0, 5_000_000, "shard0-0.5"),
                        owned(5_000_000, 10_000_000, "shard0.5-1"),
                    ],
                }),
            ),
        ),
        ("indexes", ToBootstrap(2, BootstrapOperation::Indexes)),
        ("indexes_answer", FromBootstrap(2, BootstrapAnswer::Indexes(vec![index()]))),
        (
            "create_index",
            ToBootstrap(
                3,
                BootstrapOperation::CreateIndex(NewIndex {
                    name: "test_index",
                    settings: IndexSettings::default(),
                }),
            ),
        ),
        ("index_answer", FromBootstrap(3, BootstrapAnswer::Index(index()))),
        (
            "drop_index",
            ToBootstrap(4, BootstrapOperation::DropIndex(IndexName { name: "test_index" })),
        ),
        (
            "set_index",
            ToBootstrap(
                7,
                BootstrapOperation::SetIndex(ChangeIndex {
                    name: "test_index",
                    change: SettingsChange {
                        max_documents: Change::Set(1000),
                        policy: Change::Set(Policy::Lru),
                        ttl: Change::Unset,
                        ..SettingsChange::default()
                    },
                }),
            ),
        ),
        ("bounded_index_answer", FromBootstrap(7, BootstrapAnswer::Index(bounded()))),
        (
            "set_shard",
            ToBootstrap(
                5,
                BootstrapOperation::SetShard(SetShard {
                    shard: "shard0-0.5",
                    size: Some(65_536),
                    policy: None,
                }),
            ),
        ),
        ("status", ToBootstrap(6, BootstrapOperation::Status)),
        (
            "status_answer",
            FromBootstrap(
                6,
                BootstrapAnswer::Status(vec![ShardStatus {
                    name: "shard0-0.5".to_owned(),
                    ready: false,
                    why: Some("connection refused".to_owned()),
                }]),
            ),
        ),
    ]
}

/// What is said in the course of a move.
fn examples_of_moves() -> Vec<(&'static str, Message)> {
    let id = "7.0";
    let range = Range { start: 2_500_000, end: 5_000_000 };
    let (a, b) = ("shard0-0.5", "shard0.5-1");
    let source = |id, operation| ToShard(id, ShardOperation::Source(operation));
    let target = |id, operation| ToShard(id, ShardOperation::Target(operation));
    let change = |key, position, version, document, expires_at| {
        let position = Position(position);
        TailChange { index: 1, position, key, version, document, expires_at }
    };
    let incoming = |documents, bytes| Incoming {
        id: id.to_owned(),
        copied: true,
        documents,
        bytes,
        behind: 3,
        error: None,
    };
    let owned = |start, end, shard: &str| OwnedRange { start, end, shard: shard.to_owned() };
    let info = |name: &str, port| ShardInfo {
        name: name.to_owned(),
        host: "127.0.0.1".to_owned(),
        port,
        size: 1024,
        policy: Policy::Reject,
    };
    let fill = |shard: &str, before, peak, after| {
        let shard = shard.to_owned();
        ShardBytes { shard, before, peak, after }
    };
    let actions = vec![
        Action::Add { shard: info("c", 5052) },
        Action::Split { shard: a.to_owned(), at: Some(2_500_000) },
    ];
    let planned =
        PlannedMove { range, from: a.to_owned(), to: "c".to_owned(), documents: 1, bytes: 13 };
    let before = vec![owned(0, 5_000_000, a), owned(5_000_000, 10_000_000, b)];
    let plan = Plan {
        cluster: CLUSTER.to_owned(),
        epoch: 6,
        actions: actions.clone(),
        moves: vec![planned],
        before: before.clone(),
        after: vec![
            owned(0, 2_500_000, a),
            owned(2_500_000, 5_000_000, "c"),
            owned(5_000_000, 10_000_000, b),
        ],
        shards_after: vec![info(a, 5050), info(b, 5051), info("c", 5052)],
        bytes: vec![fill(a, 29, 29, 16), fill(b, 0, 0, 0), fill("c", 0, 13, 13)],
        warnings: Vec::new(),
    };
    let copying = MoveStatus {
        id: id.to_owned(),
        range,
        from: a.to_owned(),
        to: "c".to_owned(),
        step: MoveStep::Copying,
        documents: 1,
        bytes: 13,
        progress: Some(incoming(2, 14)),
        why: None,
    };
    vec![
        ("buckets", ToShard(26, ShardOperation::Buckets)),
        (
            "receive",
            target(
                27,
                TargetOperation::Receive(Receive {
                    id,
                    range,
                    from: "127.0.0.1:5050",
                    rate: Some(1_048_576),
                }),
            ),
        ),
        ("stop", target(28, TargetOperation::Stop(MoveId { id }))),
        ("complete", target(29, TargetOperation::Complete(MoveId { id }))),
        ("complete_done", FromShard(29, ShardAnswer::Frozen { lsn: 300 })),
        (
            "error_mismatch",
            FromShard(
                29,
                ShardAnswer::Error(WireError::Mismatch {
                    id: id.to_owned(),
                    what: "index 1".to_owned(),
                }),
            ),
        ),
        ("tail_end", source(1, SourceOperation::TailEnd)),
        (
            "tail_end_answer",
            FromShard(1, ShardAnswer::TailEnd(TailCursor { lsn: 290, segment: 0, offset: 0 })),
        ),
        (
            "export",
            source(2, SourceOperation::Export(Export { index: 1, range, after: None, hold: None })),
        ),
        (
            "export_goes_on",
            source(
                3,
                SourceOperation::Export(Export {
                    index: 1,
                    range,
                    after: Some(Cursor { position: Position(3_441_280), key: "7" }),
                    hold: Some(TailCursor { lsn: 290, segment: 0, offset: 0 }),
                }),
            ),
        ),
        (
            "tail",
            source(
                4,
                SourceOperation::Tail(ReadTail {
                    from: TailCursor { lsn: 290, segment: 0, offset: 0 },
                    range,
                }),
            ),
        ),
        (
            "tail_answer",
            FromShard(
                4,
                ShardAnswer::Tail(Tail {
                    changes: vec![
                        change("7", 3_441_280, 292, Some(HELLO_WORLD), EXPIRES_AT),
                        change("9", 3_785_600, 297, None, 0),
                    ],
                    next: TailCursor { lsn: 298, segment: 2, offset: 4096 },
                    durable_lsn: 300,
                }),
            ),
        ),
        ("error_log_gone", FromShard(4, ShardAnswer::Error(WireError::LogGone { after: 289 }))),
        ("freeze", source(5, SourceOperation::Freeze(Freeze { id, range, at_most: 5000 }))),
        ("frozen", FromShard(5, ShardAnswer::Frozen { lsn: 300 })),
        ("sums", source(6, SourceOperation::Sums(SumUp { id, lsn: 300, range }))),
        (
            "sums_answer",
            FromShard(
                6,
                ShardAnswer::Sums(vec![RangeSum {
                    index: 1,
                    documents: 1,
                    bytes: 13,
                    digest: sherd_protocol::Digest(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
                }]),
            ),
        ),
        ("thaw", source(7, SourceOperation::Thaw(MoveId { id }))),
        (
            "assign_without_a_range",
            ToShard(
                30,
                ShardOperation::Assign(Assignment {
                    cluster: CLUSTER.to_owned(),
                    name: a.to_owned(),
                    epoch: 8,
                    lineage: LINEAGE,
                    hash_method: HashMethod::Md5,
                    ranges: vec![Range { start: 0, end: 2_500_000 }],
                    size: 1024,
                    policy: Policy::Reject,
                    gives_up: Some(Frozen { id: id.to_owned(), lsn: 300 }),
                }),
            ),
        ),
        (
            "error_not_frozen",
            FromShard(30, ShardAnswer::Error(WireError::NotFrozen { id: id.to_owned() })),
        ),
        ("plan", ToBootstrap(8, BootstrapOperation::Plan(PlanActions { actions }))),
        ("plan_answer", FromBootstrap(8, BootstrapAnswer::Plan(Box::new(plan)))),
        ("moves", ToBootstrap(9, BootstrapOperation::Moves)),
        (
            "moves_answer",
            FromBootstrap(
                9,
                BootstrapAnswer::Moves(MovesStatus {
                    moves: vec![copying],
                    paused: false,
                    rate: Some(1_048_576),
                }),
            ),
        ),
        ("cancel_moves", ToBootstrap(10, BootstrapOperation::CancelMoves)),
        (
            "pause_moves",
            ToBootstrap(11, BootstrapOperation::PauseMoves(PauseMoves { paused: true })),
        ),
        ("history", ToBootstrap(12, BootstrapOperation::History)),
        (
            "history_answer",
            FromBootstrap(
                12,
                BootstrapAnswer::History(vec![PastMap {
                    map: RangeMap {
                        cluster: CLUSTER.to_owned(),
                        epoch: 6,
                        hash_method: HashMethod::Md5,
                        shards: vec![info(a, 5050), info(b, 5051)],
                        ranges: before,
                    },
                    until: EXPIRES_AT,
                    why: "shard \"c\" added".to_owned(),
                }]),
            ),
        ),
    ]
}

/// Of a backup.
fn examples_of_cuts() -> Vec<(&'static str, Message)> {
    let id = 7_000_000_000_000_000_000;
    let digest = sherd_protocol::Digest(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
    let cut = |of, operation| ToShard(of, ShardOperation::Cut(operation));
    let segment = |number, length, first_lsn| CutSegment { number, length, first_lsn, named: true };
    vec![
        ("cut_begin", cut(40, CutOperation::Begin(BeginCut { keep_log: Some(1 << 30) }))),
        (
            "cut_answer",
            FromShard(
                40,
                ShardAnswer::Cut(Box::new(Cut {
                    id,
                    lsn: 290,
                    clock: EXPIRES_AT,
                    timed_after: Some(120),
                    epoch: 3,
                    ranges: vec![Range { start: 0, end: 5_000_000 }],
                    sums: vec![RangeSum { index: 1, documents: 1, bytes: 16, digest }],
                    identity: "ffeeddccbbaa99887766554433221100".to_owned(),
                    manifest: b"SHERDMAN\x03\0\0\0".to_vec(),
                    segments: vec![segment(4, 33_554_424, 101), segment(5, 10_480, 205)],
                })),
            ),
        ),
        (
            "cut_fetch",
            cut(41, CutOperation::Fetch(FetchPiece { id, segment: 5, offset: 0, length: 262_144 })),
        ),
        (
            "cut_piece",
            FromShard(41, ShardAnswer::Piece(Piece { bytes: b"SHERDLOG\x03\0\0\0\x05\0\0\0" })),
        ),
        ("cut_sum", cut(42, CutOperation::Sum(SumSegment { id, segment: 4 }))),
        ("cut_segment_sum", FromShard(42, ShardAnswer::SegmentSum(SegmentSum { sum: digest }))),
        ("cut_end", cut(43, CutOperation::End(EndCut { id }))),
        ("cut_keep_log", cut(44, CutOperation::KeepLog(KeepLog { after: 290, bytes: 1 << 30 }))),
        ("error_cut_gone", FromShard(41, ShardAnswer::Error(WireError::CutGone { id }))),
    ]
}

struct Block {
    name: String,
    only_decodes: bool,
    line: usize,
    bytes: Vec<u8>,
}

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/protocol.md");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The blocks of the document, and a check that what the annotations quote is what the bytes say.
fn blocks() -> Vec<Block> {
    let text = document();
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(block) = &mut open {
            if line == "```" {
                blocks.extend(open.take());
                continue;
            }
            let (hex, annotation) = line.split_once(';').unwrap_or((line, ""));
            let bytes: Vec<u8> = hex
                .split_whitespace()
                .map(|byte| {
                    assert_eq!(byte.len(), 2, "line {number}: {byte:?} is no byte in hex");
                    u8::from_str_radix(byte, 16).unwrap()
                })
                .collect();
            check_annotation(number, &bytes, annotation);
            block.bytes.extend(bytes);
        } else if let Some(marker) = line.strip_prefix("```hex ") {
            let (name, decodes) = marker.split_once(' ').unwrap_or((marker, ""));
            assert!(["", "decodes"].contains(&decodes), "line {number}: unknown mark {decodes:?}");
            open = Some(Block {
                name: name.to_owned(),
                only_decodes: !decodes.is_empty(),
                line: number,
                bytes: Vec::new(),
            });
        }
    }
    assert!(open.is_none(), "the last block is not closed");
    assert!(!blocks.is_empty(), "docs/protocol.md has no examples");
    blocks
}

/// Each quoted word of an annotation stands in the bytes of its line, in the same order.
fn check_annotation(number: usize, bytes: &[u8], annotation: &str) {
    let mut from = 0;
    for quoted in annotation.split('"').skip(1).step_by(2) {
        let found = bytes[from..].windows(quoted.len().max(1)).position(|w| w == quoted.as_bytes());
        from += found.unwrap_or_else(|| panic!("line {number}: {quoted:?} is not in the bytes"));
        from += quoted.len();
    }
}

#[test]
fn every_example_of_the_document_is_what_the_crate_says() {
    let messages: BTreeMap<_, _> =
        examples().into_iter().chain(examples_of_moves()).chain(examples_of_cuts()).collect();
    let mut unseen: Vec<_> = messages.keys().copied().collect();
    for block in blocks() {
        let at = format!("example {:?}, docs/protocol.md line {}", block.name, block.line);
        let message = messages
            .get(block.name.as_str())
            .unwrap_or_else(|| panic!("{at}: no message of that name to compare with"));
        if !block.only_decodes {
            let encoded = message.encode();
            assert_eq!(
                hex(&block.bytes),
                hex(&encoded),
                "{at}: left in the document, right encoded"
            );
            let index = unseen.iter().position(|name| *name == block.name);
            unseen.remove(index.unwrap_or_else(|| panic!("{at}: a second block of that name")));
        }
        assert_eq!(&message.decode_alike(block.bytes.leak()), message, "{at}: decoded");
    }
    let missing: Vec<_> =
        unseen.iter().map(|name| format!("{name}: {}", hex(&messages[name].encode()))).collect();
    assert!(missing.is_empty(), "messages without a block:\n{}", missing.join("\n"));
}

#[test]
fn the_worked_positions_of_the_document_are_right() {
    let text = document();
    let digest: [u8; 16] = Md5::digest(b"test").into();
    let number = u128::from_be_bytes(digest);
    let md5 = HashMethod::Md5.position("test").0;
    let hash = twox_hash::XxHash3_64::oneshot(b"test");
    let xxh3 = HashMethod::Xxh3.position("test").0;
    let steps = [
        format!("| MD5 | `{}` |", hex(&digest).replace(' ', "")),
        format!("| as an integer | {number} |"),
        format!("| rounded to a double | {} |", number as f64 as u128),
        format!("| modulo 10,000,000 | **{md5}** |"),
        format!("| as `hash_` | {} |", HashMethod::Md5.position("test").fraction()),
        format!("the result would be {},", number % 10_000_000),
        format!("| XXH3_64 | `{hash:016x}` |"),
        format!("| as an integer | {hash} |"),
        format!("| · 10,000,000 | {} |", u128::from(hash) * 10_000_000),
        format!("| / 2^64, rounded down | **{xxh3}** |"),
    ];
    for step in steps {
        assert!(text.contains(&step), "the document lacks {step:?}");
    }
    let table = text.split("```positions\n").nth(1).expect("a table of positions");
    let rows = table.lines().skip(1).take_while(|line| *line != "```");
    let mut count = 0;
    for row in rows {
        let columns: Vec<_> = row.split_whitespace().collect();
        let [key, md5, xxh3] = columns[..] else { panic!("not three columns: {row:?}") };
        assert_eq!(HashMethod::Md5.position(key).0.to_string(), md5, "{key}");
        assert_eq!(HashMethod::Xxh3.position(key).0.to_string(), xxh3, "{key}");
        count += 1;
    }
    assert!(count > 0, "the table of positions is empty");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}
