//! Moves of ranges: what bootstrap, source and target say to each other.

use sherd_protocol::message::*;
use sherd_protocol::range_map::OwnedRange;
use sherd_protocol::{
    Action, HashMethod, Plan, PlannedMove, Policy, Position, Range, RangeMap, ShardBytes,
    ShardInfo, WireError,
};

use super::message::Message::{self, FromBootstrap, FromShard, ToBootstrap, ToShard};
use super::message::*;

/// What is said in the course of a move.
pub(super) fn examples_of_moves() -> Vec<(&'static str, Message)> {
    let id = "7.0";
    let range = Range { start: 2_500_000, end: 5_000_000 };
    let (a, b) = ("shard0-0.5", "shard0.5-1");
    let source = |id, operation| ToShard(id, ShardOperation::Source(operation));
    let target = |id, operation| ToShard(id, ShardOperation::Target(operation));
    let change = |key, position, version, document, expires_at| {
        let position = Position(position);
        TailChange { index: 1, position, key, version, document, expires_at }
    };
    let incoming = |documents, bytes| MoveProgress {
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
