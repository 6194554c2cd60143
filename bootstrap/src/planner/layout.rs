//! Who owns what while a plan is being made.

use std::cmp::Reverse;

use sherd_protocol::{OwnedRange, Range, RangeMap, ShardInfo};

use super::error::PlanError;
use super::fill::{Fill, Side};

/// The weights of shards are rounded to so many bits, so that a share is reckoned without overflow.
const SIZE_BITS: u32 = 48;

/// A piece that is this part of everything short of what was wanted is still enough: 1 %, the most
/// that a cut where two buckets meet may be off.
const ROUNDING_PART: u128 = 100;

/// A shard by its place in [`Layout::members`].
pub(super) type Member = usize;

/// A shard of the map, or one that the plan adds.
struct Shard {
    info: ShardInfo,
    /// Whether the plan removes it: it gets nothing any more.
    removed: bool,
}

/// A range and its owner.
#[derive(Clone, Copy)]
struct Part {
    range: Range,
    owner: Member,
}

/// The shards and their ranges, as the actions planned so far leave them.
pub(super) struct Layout<'a> {
    fill: &'a Fill,
    members: Vec<Shard>,
    /// In ring order, covering the ring; two that meet have different owners.
    parts: Vec<Part>,
}

/// A piece that may be taken: of which part, and which of it.
struct Piece {
    of: Range,
    range: Range,
    side: Side,
}

impl<'a> Layout<'a> {
    /// The layout of a map.
    ///
    /// # Errors
    /// What is wrong with the map.
    pub(super) fn new(map: &RangeMap, fill: &'a Fill) -> Result<Self, PlanError> {
        map.check()?;
        let members = map.shards.iter().cloned();
        let members = members.map(|info| Shard { info, removed: false }).collect();
        let mut layout = Self { fill, members, parts: Vec::new() };
        for owned in &map.ranges {
            let owner = layout.find(&owned.shard)?;
            layout.push(Part { range: owned.range(), owner });
        }
        Ok(layout)
    }

    /// What is stored where.
    pub(super) fn fill(&self) -> &'a Fill {
        self.fill
    }

    /// All shards that there are or were.
    pub(super) fn infos(&self) -> impl Iterator<Item = &ShardInfo> {
        self.members.iter().map(|member| &member.info)
    }

    /// The shards that stay.
    pub(super) fn staying(&self) -> impl Iterator<Item = Member> {
        (0..self.members.len()).filter(|&member| !self.members[member].removed)
    }

    /// The shards that stay, for the map.
    pub(super) fn shards(&self) -> Vec<ShardInfo> {
        self.staying().map(|member| self.members[member].info.clone()).collect()
    }

    /// The ranges, for the map.
    pub(super) fn ranges(&self) -> Vec<OwnedRange> {
        let owned = |part: &Part| OwnedRange {
            start: part.range.start,
            end: part.range.end,
            shard: self.members[part.owner].info.name.clone(),
        };
        self.parts.iter().map(owned).collect()
    }

    /// The shard of that name.
    ///
    /// # Errors
    /// When there is none, or none any more.
    pub(super) fn find(&self, name: &str) -> Result<Member, PlanError> {
        let found = self.members.iter().position(|member| member.info.name == name);
        match found {
            Some(member) if self.members[member].removed => {
                Err(PlanError::Gone { shard: name.to_owned() })
            }
            Some(member) => Ok(member),
            None => Err(PlanError::UnknownShard { shard: name.to_owned() }),
        }
    }

    /// A new shard, without ranges.
    pub(super) fn join(&mut self, info: ShardInfo) -> Member {
        self.members.push(Shard { info, removed: false });
        self.members.len() - 1
    }

    /// Has a shard leave: it keeps its ranges until they are given away.
    pub(super) fn leave(&mut self, member: Member) {
        self.members[member].removed = true;
    }

    /// The ranges of a shard, in ring order.
    pub(super) fn ranges_of(&self, owner: Member) -> Vec<Range> {
        let own = self.parts.iter().filter(|part| part.owner == owner);
        own.map(|part| part.range).collect()
    }

    /// What each shard has above its share of everything; below zero what it lacks. The shares are by
    /// the sizes of the shards that stay.
    pub(super) fn surpluses(&self) -> Vec<i128> {
        let mut surpluses: Vec<i128> =
            self.shares().into_iter().map(|share| -signed(share)).collect();
        for part in &self.parts {
            surpluses[part.owner] += signed(self.fill.weight(part.range));
        }
        surpluses
    }

    /// What each shard should have.
    fn shares(&self) -> Vec<u128> {
        let size = |member: &Shard| if member.removed { 0 } else { u128::from(member.info.size) };
        let sum: u128 = self.members.iter().map(size).sum();
        let shift = (u128::BITS - sum.leading_zeros()).saturating_sub(SIZE_BITS);
        let sizes: Vec<_> = self.members.iter().map(|member| size(member) >> shift).collect();
        let sum = sizes.iter().sum::<u128>().max(1);
        sizes.into_iter().map(|size| self.fill.total_weight() * size / sum).collect()
    }

    /// The bytes that a shard may still get.
    fn room(&self, member: Member) -> u64 {
        let held = self.ranges_of(member).into_iter().map(|range| self.fill.amount(range).bytes);
        self.members[member].info.size.saturating_sub(held.sum())
    }

    /// Gives a range to a shard, whoever owns parts of it.
    pub(super) fn give(&mut self, range: Range, to: Member) {
        for Part { range: old, owner } in std::mem::take(&mut self.parts) {
            let before = Range { start: old.start, end: old.end.min(range.start) };
            let inside = Range { start: old.start.max(range.start), end: old.end.min(range.end) };
            let after = Range { start: old.start.max(range.end), end: old.end };
            self.push(Part { range: before, owner });
            self.push(Part { range: inside, owner: to });
            self.push(Part { range: after, owner });
        }
    }

    /// Adds a part after the others, or its range to that of the last one if the owner is the same.
    fn push(&mut self, part: Part) {
        if part.range.width() == 0 {
            return;
        }
        match self.parts.last_mut() {
            Some(last) if last.owner == part.owner => last.range.end = part.range.end,
            _ => self.parts.push(part),
        }
    }

    /// Moves about `wanted` from one shard to another in one piece, or less if the ranges are shorter
    /// or there is no room. Returns what it weighs, 0 for nothing.
    ///
    /// Best is a piece with which the map gets no more ranges than before, then one beside a shard of
    /// `next`: those give a piece to the same shard later, which then joins this one.
    pub(super) fn take(&mut self, from: Member, to: Member, wanted: u128, next: &[Member]) -> u128 {
        let enough = wanted.saturating_sub(self.rounding(wanted));
        let cost = |piece: &Piece| {
            let weight = self.fill.weight(piece.range);
            let cut = usize::from(piece.range != piece.of);
            let [joined, lonely] = [
                self.beside(piece, |owner| owner == to),
                usize::from(self.beside(piece, |owner| next.contains(&owner)) == 0),
            ];
            // As many new ranges as there are cuts, less those of the target that it joins.
            (Reverse(weight.min(enough)), 2 + cut - joined, lonely, piece.side, piece.of.start)
        };
        let Some(best) = self.pieces(from, to, wanted).into_iter().min_by_key(cost) else {
            return 0;
        };
        self.give(best.range, to);
        self.fill.weight(best.range)
    }

    /// The pieces that a shard may give: of each of its ranges one from either end.
    fn pieces(&self, from: Member, to: Member, wanted: u128) -> Vec<Piece> {
        let room = self.room(to);
        let piece = |of, side| {
            let range = self.fill.piece(of, side, wanted, room)?;
            Some(Piece { of, range, side })
        };
        let ranges = self.ranges_of(from).into_iter();
        ranges
            .flat_map(|of| [Side::High, Side::Low].map(|side| piece(of, side)))
            .flatten()
            .collect()
    }

    /// How many of a piece's neighbours are owned by such a shard.
    fn beside(&self, piece: &Piece, such: impl Fn(Member) -> bool) -> usize {
        let touches = |part: &&Part| {
            part.range.end == piece.range.start || part.range.start == piece.range.end
        };
        self.parts.iter().filter(touches).filter(|part| such(part.owner)).count()
    }

    /// Whether ranges of two shards meet.
    pub(super) fn meet(&self, one: Member, other: Member) -> bool {
        let pair = |parts: &[Part]| (parts[0].owner, parts[1].owner);
        self.parts.windows(2).map(pair).any(|pair| pair == (one, other) || pair == (other, one))
    }

    /// By how much less than wanted a piece may have and still be enough.
    pub(super) fn rounding(&self, wanted: u128) -> u128 {
        (self.fill.total_weight() / ROUNDING_PART).min(wanted / 4)
    }
}

/// A weight as a signed number: weights have at most 78 bits.
pub(super) fn signed(weight: u128) -> i128 {
    i128::try_from(weight).unwrap_or(i128::MAX)
}
