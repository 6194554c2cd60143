//! Cuts of a shard: what a backup fetches.

use sherd_protocol::message::*;
use sherd_protocol::{Range, WireError};

use super::message::Message::{self, FromShard, ToShard};
use super::message::*;

/// Of a backup.
pub(super) fn examples_of_cuts() -> Vec<(&'static str, Message)> {
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
