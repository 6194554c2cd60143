//! The planner: which ranges move, and to whom, so that what is to be done to a cluster is done.
//!
//! [`plan`] is a pure function: of the map, of what is stored where, and of the actions. It asks no
//! shard and changes nothing, and for the same it always returns the same. What it keeps to:
//!
//! * as little as can be is moved, in few pieces, from the ends of ranges, so that the map does not
//!   shatter;
//! * ranges are cut where two buckets of the ring meet, unless a bucket is heavy ([`fill`]);
//! * a shard's share of everything is by its size;
//! * no position moves twice, whatever the actions: what comes back is not moved at all;
//! * no shard gets more than its size, not even while the moves run.
//!
//! What is even is a matter of 2 % ([`EVEN_PART`]): a difference below is not worth a move.

mod error;
mod fill;
mod layout;
mod moves;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;

use sherd_protocol::name::check_shard;
use sherd_protocol::{Action, Plan, RING_BUCKETS, RING_SIZE, Range, RangeMap, ShardInfo};

pub(crate) use self::error::PlanError;
pub(crate) use self::fill::{Amount, Fill};
use self::layout::{Layout, Member, signed};

/// A shard within this part of everything of its share is as good as even: 2 %. A rebalance ends
/// there, and does nothing where all are.
const EVEN_PART: u128 = 50;

/// Of a shard that leaves, nobody gets less than this part of everything, if it is there: 1 %, half
/// of what is even enough. Less is not worth a cut.
const LEAST_PART: u128 = 100;

/// A new shard does without the last of its share, if for less than this part of it one more shard
/// would have to give: one in sixteen, and never more than [`LEAST_PART`].
const LAST_PART: u128 = 16;

/// Plans actions, each on what the one before leaves.
///
/// # Errors
/// What cannot be done, and what to do about it.
pub(crate) fn plan(map: &RangeMap, fill: &Fill, actions: &[Action]) -> Result<Plan, PlanError> {
    let mut layout = Layout::new(map, fill)?;
    for action in actions {
        layout.apply(action)?;
    }
    let moves = moves::between(&map.ranges, &layout.ranges(), fill);
    let (moves, bytes) = moves::in_order(moves, &map.ranges, &layout)?;
    Ok(Plan {
        cluster: map.cluster.clone(),
        epoch: map.epoch,
        actions: actions.to_vec(),
        moves,
        before: map.ranges.clone(),
        after: layout.ranges(),
        shards_after: layout.shards(),
        bytes,
        warnings: Vec::new(),
    })
}

/// The shards that actions leave, whatever moves for them.
///
/// # Errors
/// As [`plan`], but for what is a matter of ranges and of what is stored where.
pub(crate) fn shards_after(
    map: &RangeMap,
    actions: &[Action],
) -> Result<Vec<ShardInfo>, PlanError> {
    let fill = Fill::new(&[Amount::default(); RING_BUCKETS]);
    let mut layout = Layout::new(map, &fill)?;
    for action in actions {
        layout.check(action)?;
    }
    Ok(layout.shards())
}

impl Layout<'_> {
    /// Checks an action as far as it is about shards, and has them join and leave.
    fn check(&mut self, action: &Action) -> Result<(), PlanError> {
        match action {
            Action::Add { shard } => {
                self.check_new(shard)?;
                self.join(shard.clone());
            }
            Action::Remove { shard } => {
                let leaving = self.find_leaving(shard)?;
                self.leave(leaving);
            }
            Action::Split { shard, .. } => _ = self.find(shard)?,
            Action::Merge { into, from } => _ = self.find_merging(into, from)?,
            Action::Move { range, to } => _ = self.find_target(*range, to)?,
            Action::Rebalance => {}
        }
        Ok(())
    }

    fn apply(&mut self, action: &Action) -> Result<(), PlanError> {
        match action {
            Action::Add { shard } => self.add(shard),
            Action::Remove { shard } => self.remove(shard),
            Action::Split { shard, at } => self.split(shard, *at),
            Action::Merge { into, from } => self.merge(into, from),
            Action::Move { range, to } => self.move_range(*range, to),
            Action::Rebalance => {
                self.rebalance();
                Ok(())
            }
        }
    }

    fn add(&mut self, info: &ShardInfo) -> Result<(), PlanError> {
        self.check_new(info)?;
        let new = self.join(info.clone());
        let donors = self.donors(new);
        // What a cut was off by, the next donor makes up for.
        let mut carried = 0;
        for (i, &(donor, amount)) in donors.iter().enumerate() {
            let next: Vec<_> = donors[i + 1..].iter().map(|&(donor, _)| donor).collect();
            let wanted = signed(amount) + carried;
            let taken = self.take_all(donor, new, wanted.max(0).unsigned_abs(), &next);
            carried = wanted - signed(taken);
        }
        Ok(())
    }

    /// Checks that a new shard is one, and no other.
    fn check_new(&self, info: &ShardInfo) -> Result<(), PlanError> {
        check_shard(&info.name)?;
        let fault = |field, what| Err(PlanError::Field { shard: info.name.clone(), field, what });
        if info.host.is_empty() {
            return fault("host", "missing");
        }
        if info.host.chars().any(|char| char.is_control() || char.is_whitespace()) {
            return fault(
                "host",
                "neither spaces nor control characters are in the name of a host",
            );
        }
        if info.port == 0 {
            return fault("port", "0 is not a port, 1 to 65535");
        }
        if info.size == 0 {
            return fault("size", "a shard needs at least 1 byte");
        }
        for other in self.infos() {
            let shard = info.name.clone();
            if other.name == info.name {
                return Err(PlanError::NameTaken { shard });
            }
            if other.address() == info.address() {
                let (other, address) = (other.name.clone(), info.address());
                return Err(PlanError::AddressTaken { shard, other, address });
            }
        }
        Ok(())
    }

    /// Which shards give how much of its share to a new one: those with the greatest surplus, and no
    /// more than that. In ring order, so that the pieces of neighbours meet.
    fn donors(&self, new: Member) -> Vec<(Member, u128)> {
        let surpluses = self.surpluses();
        let share = surpluses[new].unsigned_abs();
        let negligible = (share / LAST_PART).min(self.fill().total_weight() / LEAST_PART);
        let mut giving: Vec<_> = self.staying().filter(|&shard| surpluses[shard] > 0).collect();
        giving.sort_by_key(|&shard| Reverse(surpluses[shard]));
        let mut donors = Vec::new();
        let mut left = share;
        for shard in giving {
            if left <= negligible {
                break;
            }
            let amount = left.min(surpluses[shard].unsigned_abs());
            donors.push((shard, amount));
            left -= amount;
        }
        donors.sort_by_key(|&(shard, _)| self.ranges_of(shard).first().map(|range| range.start));
        donors
    }

    /// Takes pieces until about `wanted` is taken or there is none left. Returns what they weigh.
    fn take_all(&mut self, from: Member, to: Member, wanted: u128, next: &[Member]) -> u128 {
        let mut taken = 0;
        while wanted > taken {
            let piece = self.take(from, to, wanted - taken, next);
            taken += piece;
            if piece == 0 || wanted.saturating_sub(taken) <= self.rounding(wanted) {
                break;
            }
        }
        taken
    }

    /// A shard that can be removed.
    fn find_leaving(&self, name: &str) -> Result<Member, PlanError> {
        let leaving = self.find(name)?;
        if self.staying().all(|shard| shard == leaving) {
            return Err(PlanError::LastShard { shard: name.to_owned() });
        }
        Ok(leaving)
    }

    fn remove(&mut self, name: &str) -> Result<(), PlanError> {
        let leaving = self.find_leaving(name)?;
        self.leave(leaving);
        while let Some(&range) = self.ranges_of(leaving).first() {
            let least = self.fill().total_weight() / LEAST_PART;
            let partners = self.partners(leaving);
            let taken = partners.iter().any(|&(shard, lack)| {
                let wanted = lack.max(0).unsigned_abs().max(least);
                self.take(leaving, shard, wanted, &[]) > 0
            });
            // Where it fits nowhere, it is the sizes that are refused in the end.
            if let (false, Some(&(shard, _))) = (taken, partners.first()) {
                self.give(range, shard);
            }
        }
        Ok(())
    }

    fn split(&mut self, name: &str, at: Option<u32>) -> Result<(), PlanError> {
        let owner = self.find(name)?;
        let shard = || name.to_owned();
        let ranges = self.ranges_of(owner);
        let (range, at) = match at {
            Some(at) => {
                let inside = |range: &&Range| range.start < at && at < range.end;
                let range = ranges.iter().find(inside);
                (*range.ok_or_else(|| PlanError::NotInside { shard: shard(), at })?, at)
            }
            None => {
                // The first of equals.
                let heaviest = ranges.iter().rev().max_by_key(|range| self.fill().weight(**range));
                let range = *heaviest.ok_or_else(|| PlanError::NoRange { shard: shard() })?;
                let middle = self.fill().middle(range);
                (range, middle.ok_or_else(|| PlanError::TooNarrow { shard: shard() })?)
            }
        };
        let surpluses = self.surpluses();
        let others = self.staying().filter(|&other| other != owner);
        let neediest = others.min_by_key(|&other| surpluses[other]);
        let to = neediest.ok_or_else(|| PlanError::NoOtherShard { shard: shard() })?;
        self.give(Range { start: at, end: range.end }, to);
        Ok(())
    }

    /// Two shards, of which one can give the other what it has.
    fn find_merging(&self, into: &str, from: &str) -> Result<(Member, Member), PlanError> {
        let (to, giving) = (self.find(into)?, self.find(from)?);
        if to == giving {
            return Err(PlanError::IntoItself { shard: into.to_owned() });
        }
        Ok((to, giving))
    }

    fn merge(&mut self, into: &str, from: &str) -> Result<(), PlanError> {
        let (to, giving) = self.find_merging(into, from)?;
        for range in self.ranges_of(giving) {
            self.give(range, to);
        }
        Ok(())
    }

    /// A shard to which a range can go.
    fn find_target(&self, range: Range, to: &str) -> Result<Member, PlanError> {
        if range.start >= range.end || range.end > RING_SIZE {
            return Err(PlanError::NoSuchRange { range });
        }
        self.find(to)
    }

    fn move_range(&mut self, range: Range, to: &str) -> Result<(), PlanError> {
        let to = self.find_target(range, to)?;
        self.give(range, to);
        Ok(())
    }

    /// Brings the shard that is furthest from its share nearer to it, until all are near enough, or
    /// those that are not find nobody to give to or take from.
    ///
    /// It ends: a shard that is not near enough gets nearer each time, and no partner gets further
    /// from its share than is near enough, since a piece is off by less than that.
    fn rebalance(&mut self) {
        let even = self.fill().total_weight() / EVEN_PART;
        loop {
            let surpluses = self.surpluses();
            let off = |shard: &Member| surpluses[*shard].unsigned_abs();
            let mut uneven: Vec<_> = self.staying().filter(|shard| off(shard) > even).collect();
            uneven.sort_by_key(|shard| Reverse(off(shard)));
            let done = uneven.into_iter().any(|shard| self.even_out(shard, surpluses[shard] > 0));
            if !done {
                break;
            }
        }
    }

    /// Has a shard give to its best partner, or take from it. Whether there is one.
    fn even_out(&mut self, shard: Member, gives: bool) -> bool {
        let partners = self.partners(shard).into_iter().filter(|&(_, amount)| amount > 0);
        partners.map(|(other, amount)| (other, amount.unsigned_abs())).any(|(other, amount)| {
            let (from, to) = if gives { (shard, other) } else { (other, shard) };
            self.take(from, to, amount, &[]) > 0
        })
    }

    /// The others that stay, and how much of a shard's surplus each lacks, or has of what the shard
    /// lacks; the best first. A neighbour counts double, as it takes a piece without a new range.
    fn partners(&self, shard: Member) -> Vec<(Member, i128)> {
        let surpluses = self.surpluses();
        let own = surpluses[shard];
        let others = self.staying().filter(|&other| other != shard);
        let mut partners: Vec<_> =
            others.map(|other| (other, own.abs().min(-own.signum() * surpluses[other]))).collect();
        partners.sort_by_key(|&(other, amount)| {
            let neighbour = amount > 0 && self.meet(shard, other);
            Reverse(if neighbour { 2 * amount } else { amount })
        });
        partners
    }
}
