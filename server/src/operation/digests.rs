//! `digests`: what the documents of the ranges that the shard owns come to.

use sherd_engine::Engine;
use sherd_node::Responder;
use sherd_protocol::message::{Digests, RangeSum, ShardAnswer};
use sherd_protocol::{Digest, Range, WireError};

use crate::refusal::refusal;
use crate::shard::Shard;

pub(crate) fn digests(shard: &Shard, responder: Responder) {
    shard.read(responder, 0, |engine, responder| match owned(engine) {
        Ok(digests) => responder.send(&ShardAnswer::Digests(Box::new(digests))),
        Err(error) => responder.refuse(&error),
    });
}

/// What is owned comes to. Blocks.
fn owned(engine: &Engine) -> Result<Digests, WireError> {
    let epoch = || engine.assignment().map_or(0, |held| held.epoch);
    let assignment = engine.assignment().ok_or(WireError::WrongShard { epoch: 0 })?;
    let ranges = assignment.ranges.iter().map(|&(start, end)| Range { start, end });
    let ranges: Vec<_> = ranges.collect();
    let sums = sums(engine, &ranges)?;
    if epoch() != assignment.epoch {
        // Some of what was summed up may have been another shard's by then.
        return Err(WireError::Unavailable {
            what: "a digest".to_owned(),
            why: "the shard is being told what it owns".to_owned(),
        });
    }
    Ok(Digests { epoch: assignment.epoch, ranges, sums })
}

/// What the documents of ranges come to, by index. Blocks.
pub(crate) fn sums(engine: &Engine, ranges: &[Range]) -> Result<Vec<RangeSum>, WireError> {
    let ranges: Vec<_> = ranges.iter().map(|range| (range.start, range.end)).collect();
    let sums = engine.sums(&ranges).map_err(|error| refusal(error, ""))?;
    let sum = |(index, sums): (u32, sherd_engine::Sums)| {
        let sherd_engine::Sums { documents, bytes, digest } = sums;
        RangeSum { index, documents, bytes, digest: Digest(digest) }
    };
    Ok(sums.into_iter().map(sum).collect())
}
