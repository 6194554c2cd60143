//! From two maps to the moves between them.

use std::collections::BTreeMap;

use sherd_protocol::{OwnedRange, PlannedMove, Range, ShardBytes, ShardInfo};

use super::error::PlanError;
use super::fill::Fill;
use super::layout::Layout;

/// What has another owner after than before, in ring order: each piece with one owner before and one
/// after is a move.
pub(super) fn between(
    before: &[OwnedRange],
    after: &[OwnedRange],
    fill: &Fill,
) -> Vec<PlannedMove> {
    let mut moves: Vec<PlannedMove> = Vec::new();
    for (old, new) in overlapping(before, after).filter(|(old, new)| old.shard != new.shard) {
        let range = Range { start: old.start.max(new.start), end: old.end.min(new.end) };
        match moves.last_mut() {
            Some(last)
                if last.range.end == range.start
                    && last.from == old.shard
                    && last.to == new.shard =>
            {
                last.range.end = range.end;
            }
            _ => moves.push(PlannedMove {
                range,
                from: old.shard.clone(),
                to: new.shard.clone(),
                documents: 0,
                bytes: 0,
            }),
        }
    }
    for planned in &mut moves {
        let amount = fill.amount(planned.range);
        (planned.documents, planned.bytes) = (amount.documents, amount.bytes);
    }
    moves
}

/// The pairs of ranges of two maps that have positions in common.
fn overlapping<'a>(
    before: &'a [OwnedRange],
    after: &'a [OwnedRange],
) -> impl Iterator<Item = (&'a OwnedRange, &'a OwnedRange)> {
    before.iter().flat_map(move |old| {
        let first = after.partition_point(|new| new.end <= old.start);
        let common = after[first..].iter().take_while(|new| new.start < old.end);
        common.map(move |new| (old, new))
    })
}

/// The moves in an order in which each finds room, and how full each shard gets with that.
///
/// In ring order, except that a move for which there is no room yet waits until its target has given
/// away enough.
///
/// # Errors
/// When a shard is too small for what it gets, in the end or meanwhile.
pub(super) fn in_order(
    moves: Vec<PlannedMove>,
    before: &[OwnedRange],
    layout: &Layout<'_>,
) -> Result<(Vec<PlannedMove>, Vec<ShardBytes>), PlanError> {
    let mut held = Held::new(before, layout);
    held.check_ends(&moves)?;
    let mut waiting = moves;
    let mut ordered = Vec::new();
    while let Some(first) = waiting.first() {
        let next = waiting.iter().position(|planned| held.fits(planned));
        let next = next.ok_or_else(|| held.too_small_meanwhile(first))?;
        let planned = waiting.remove(next);
        held.carry_out(&planned);
        ordered.push(planned);
    }
    Ok((ordered, held.bytes(layout)))
}

/// What the shards hold while the moves run.
struct Held<'a> {
    shards: BTreeMap<&'a str, Holding>,
}

struct Holding {
    size: u64,
    before: u64,
    now: u64,
    peak: u64,
}

impl<'a> Held<'a> {
    fn new(before: &[OwnedRange], layout: &'a Layout<'_>) -> Self {
        let holding = |info: &'a ShardInfo| {
            let own = before.iter().filter(|owned| owned.shard == info.name);
            let bytes = own.map(|owned| layout.fill().amount(owned.range()).bytes).sum();
            (&*info.name, Holding { size: info.size, before: bytes, now: bytes, peak: bytes })
        };
        Self { shards: layout.infos().map(holding).collect() }
    }

    /// Checks that each shard that gets something has room for all of it in the end.
    fn check_ends(&self, moves: &[PlannedMove]) -> Result<(), PlanError> {
        for (&shard, holding) in &self.shards {
            let got = moves.iter().filter(|planned| planned.to == shard);
            let got: u64 = got.map(|planned| planned.bytes).sum();
            let given = moves.iter().filter(|planned| planned.from == shard);
            let given: u64 = given.map(|planned| planned.bytes).sum();
            let bytes = (holding.now + got).saturating_sub(given);
            if got > 0 && bytes > holding.size {
                let (shard, size) = (shard.to_owned(), holding.size);
                return Err(PlanError::TooSmall { shard, bytes, size });
            }
        }
        Ok(())
    }

    /// Whether a move's target has room for it now.
    fn fits(&self, planned: &PlannedMove) -> bool {
        let room = |to: &Holding| to.now + planned.bytes <= to.size;
        planned.bytes == 0 || self.shards.get(&*planned.to).is_some_and(room)
    }

    fn carry_out(&mut self, planned: &PlannedMove) {
        if let Some(to) = self.shards.get_mut(&*planned.to) {
            to.now += planned.bytes;
            to.peak = to.peak.max(to.now);
        }
        if let Some(from) = self.shards.get_mut(&*planned.from) {
            from.now = from.now.saturating_sub(planned.bytes);
        }
    }

    /// Why a move can neither be next nor wait for another.
    fn too_small_meanwhile(&self, planned: &PlannedMove) -> PlanError {
        let (now, size) = self.shards.get(&*planned.to).map_or((0, 0), |to| (to.now, to.size));
        let (shard, bytes) = (planned.to.clone(), now + planned.bytes);
        PlanError::TooSmallMeanwhile { shard, bytes, size }
    }

    fn bytes(&self, layout: &Layout<'_>) -> Vec<ShardBytes> {
        let of = |info: &ShardInfo| {
            let Holding { before, now: after, peak, .. } = *self.shards.get(&*info.name)?;
            Some(ShardBytes { shard: info.name.clone(), before, peak, after })
        };
        layout.infos().filter_map(of).collect()
    }
}
