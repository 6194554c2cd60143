//! Greetings, documents, what nodes say of themselves, and what controls them.

use sherd_protocol::message::*;
use sherd_protocol::range_map::OwnedRange;
use sherd_protocol::{
    Change, Expiry, HashMethod, IndexSettings, Policy, Position, Range, RangeMap, SettingsChange,
    ShardInfo, WireError,
};

use super::message::Message::{self, FromBootstrap, FromShard, ToBootstrap, ToShard};
use super::message::*;

pub(super) fn examples() -> Vec<(&'static str, Message)> {
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
