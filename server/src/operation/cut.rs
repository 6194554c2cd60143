//! `cut`: the shard as of one LSN, and the segments of its log, for a backup.
//!
//! A piece is read on a blocking thread, as a page of a scan is, and takes its turn among them. Who
//! takes the backup asks for one after the other, and rests in between: how much of the shard's time
//! a backup takes is that one's choice.

use sherd_node::Responder;
use sherd_protocol::message::{
    BeginCut, Cut, CutOperation, CutSegment, EndCut, FetchPiece, KeepLog, Piece, RangeSum,
    SegmentSum, ShardAnswer, SumSegment,
};
use sherd_protocol::{Digest, Range};

use crate::refusal::refusal;
use crate::shard::Shard;

/// The most bytes of a piece: enough that the round trip does not count, and small enough that those
/// who write hardly notice one.
const MAX_PIECE_BYTES: u32 = 256 * 1024;

pub(crate) fn cut(shard: &Shard, operation: CutOperation, responder: Responder) {
    match operation {
        CutOperation::Begin(BeginCut { keep_log }) => {
            shard.engine.cut(keep_log, move |result| match result {
                Ok(cut) => responder.send(&ShardAnswer::Cut(Box::new(on_the_wire(cut)))),
                Err(error) => responder.refuse(&refusal(error, "")),
            });
        }
        CutOperation::Fetch(FetchPiece { id, segment, offset, length }) => {
            let most = length.min(MAX_PIECE_BYTES) as usize;
            shard.read(responder, most, move |engine, responder| {
                match engine.read_cut(id, segment, offset, most) {
                    Ok(bytes) => responder.send(&ShardAnswer::Piece(Piece { bytes: &bytes })),
                    Err(error) => responder.refuse(&refusal(error, "")),
                }
            });
        }
        CutOperation::Sum(SumSegment { id, segment }) => {
            shard.read(responder, 0, move |engine, responder| match engine.sum_cut(id, segment) {
                Ok(sum) => {
                    responder.send(&ShardAnswer::SegmentSum(SegmentSum { sum: Digest(sum) }));
                }
                Err(error) => responder.refuse(&refusal(error, "")),
            });
        }
        CutOperation::End(EndCut { id }) => {
            shard.engine.release_cut(id);
            responder.send(&ShardAnswer::Done);
        }
        CutOperation::KeepLog(KeepLog { after, bytes }) => {
            shard.read(responder, 0, move |engine, responder| {
                match engine.keep_log(after, bytes) {
                    Ok(()) => responder.send(&ShardAnswer::Done),
                    Err(error) => responder.refuse(&refusal(error, "")),
                }
            });
        }
    }
}

fn on_the_wire(cut: sherd_engine::Cut) -> Cut {
    let sherd_engine::Cut {
        id,
        lsn,
        clock,
        timed_after,
        identity,
        manifest,
        assignment,
        sums,
        segments,
    } = cut;
    let sum = |(index, sums): (u32, sherd_engine::Sums)| {
        let sherd_engine::Sums { documents, bytes, digest } = sums;
        RangeSum { index, documents, bytes, digest: Digest(digest) }
    };
    let segment = |segment: sherd_engine::CutSegment| {
        let sherd_engine::CutSegment { number, length, first_lsn, is_named: named } = segment;
        CutSegment { number, length, first_lsn, named }
    };
    Cut {
        id,
        lsn,
        clock,
        timed_after,
        epoch: assignment.epoch,
        ranges: assignment.ranges.iter().map(|&(start, end)| Range { start, end }).collect(),
        sums: sums.into_iter().map(sum).collect(),
        identity: format!("{identity:032x}"),
        manifest,
        segments: segments.into_iter().map(segment).collect(),
    }
}
