//! Tables of leaves, in which a document is found by its tag and those that expire by when.
//!
//! A table is a linear hash table (Litwin, 1980): it grows and shrinks by a leaf at a time, so no
//! insertion takes long, and all leaves are about equally full at any size.

use std::collections::BTreeMap;

use super::leaf::{Leaf, MEAN_SLOTS, Slot, Tag};

/// A table of leaves, and when which of them is to be looked at for documents that expire.
#[derive(Debug, Default)]
pub(super) struct Table {
    leaves: Vec<Leaf>,
    slots: usize,
    /// By second. A leaf that is due at another one is passed over.
    schedule: BTreeMap<u32, Vec<u32>>,
    /// How often frequencies were halved.
    pub(super) age: u64,
}

impl Table {
    pub(super) fn leaves(&mut self) -> &mut [Leaf] {
        &mut self.leaves
    }

    /// The leaf that a hash belongs to, where there are so many; their number is not 0.
    fn place(hash: u64, leaves: usize) -> usize {
        let all = leaves.next_power_of_two() - 1;
        let place = hash as usize & all;
        if place < leaves { place } else { place & (all >> 1) }
    }

    pub(super) fn leaf_of(&mut self, hash: u64) -> Option<&mut Leaf> {
        let leaves = self.leaves.len();
        if leaves == 0 {
            return None;
        }
        Some(&mut self.leaves[Self::place(hash, leaves)])
    }

    /// Something of each cache line of the tags that are looked at for a hash.
    pub(super) fn glance(&self, hash: u64) -> u8 {
        if self.leaves.is_empty() {
            return 0;
        }
        self.leaves[Self::place(hash, self.leaves.len())].glance()
    }

    pub(super) fn find(&mut self, tag: Tag, hash: u64) -> Option<(&mut Leaf, usize)> {
        let leaf = self.leaf_of(hash)?;
        let place = leaf.find(tag)?;
        Some((leaf, place))
    }

    pub(super) fn insert(&mut self, slot: Slot, hash: u64) {
        if self.leaves.is_empty() {
            self.leaves.push(Leaf::default());
        }
        let place = Self::place(hash, self.leaves.len());
        self.leaves[place].push(slot);
        self.slots += 1;
        self.schedule(place, slot.expiry);
        if self.slots > self.leaves.len() * MEAN_SLOTS {
            self.split();
        }
    }

    /// Removes a slot of a tag: of several the one with that expiry, if there is one.
    pub(super) fn remove(&mut self, tag: Tag, hash: u64, expiry: u32) -> Option<Slot> {
        let (leaf, first) = self.find(tag, hash)?;
        let is_it = |place: &usize| {
            let slot = leaf.slot(*place);
            slot.tag == tag && slot.expiry == expiry
        };
        let place = (first..leaf.len()).find(is_it).unwrap_or(first);
        self.remove_at(hash, place)
    }

    /// Removes the first slot of a tag of which `is_it` says so.
    pub(super) fn remove_if(
        &mut self,
        tag: Tag,
        hash: u64,
        is_it: impl FnOnce(Slot) -> bool,
    ) -> Option<Slot> {
        let (leaf, place) = self.find(tag, hash)?;
        if !is_it(leaf.slot(place)) {
            return None;
        }
        self.remove_at(hash, place)
    }

    /// Removes the slot at a place of the leaf that a hash belongs to.
    fn remove_at(&mut self, hash: u64, place: usize) -> Option<Slot> {
        let slot = self.leaf_of(hash)?.remove(place);
        self.slots -= 1;
        if self.slots < (self.leaves.len() - 1) * MEAN_SLOTS / 2 {
            self.merge();
        }
        Some(slot)
    }

    /// Says when the document of a slot expires.
    pub(super) fn set_expiry(&mut self, tag: Tag, hash: u64, expiry: u32) {
        let leaves = self.leaves.len();
        let Some((leaf, place)) = self.find(tag, hash) else { return };
        if leaf.set_expiry(place, expiry) {
            self.schedule(Self::place(hash, leaves), expiry);
        }
    }

    /// Sees to it that a leaf is looked at in a second at the latest.
    fn schedule(&mut self, place: usize, second: u32) {
        let leaf = &mut self.leaves[place];
        if second != 0 && (leaf.due == 0 || second < leaf.due) {
            leaf.due = second;
            self.schedule.entry(second).or_default().push(place as u32);
        }
    }

    /// Halves one leaf.
    fn split(&mut self) {
        let new = self.leaves.len();
        let old = new & ((new + 1).next_power_of_two() / 2 - 1);
        let whole = std::mem::take(&mut self.leaves[old]);
        if self.leaves.len() == self.leaves.capacity() {
            self.leaves.reserve_exact(4 + self.leaves.len() / 16);
        }
        for place in [old, new] {
            // Which ghost belongs where is not known: both keep all, until newer ones come.
            let half = Leaf::with_ghosts_of(&whole);
            if place == old { self.leaves[old] = half } else { self.leaves.push(half) }
        }
        self.scatter(&whole);
    }

    /// Puts the last leaf into the one that it was split from.
    fn merge(&mut self) {
        if let Some(last) = self.leaves.pop() {
            self.scatter(&last);
        }
    }

    /// Puts the slots of a leaf that is no more where they belong.
    fn scatter(&mut self, leaf: &Leaf) {
        for slot in leaf.slots() {
            let place = Self::place(slot.tag.hash(), self.leaves.len());
            self.leaves[place].push(slot);
            self.schedule(place, slot.expiry);
        }
    }

    /// The second at which the next leaf is due.
    pub(super) fn next_due(&mut self) -> Option<u32> {
        loop {
            let mut entry = self.schedule.first_entry()?;
            let second = *entry.key();
            let leaves = &self.leaves;
            let is_due =
                |place: u32| leaves.get(place as usize).is_some_and(|leaf| leaf.due == second);
            while let Some(&last) = entry.get().last() {
                if is_due(last) {
                    return Some(second);
                }
                entry.get_mut().pop();
            }
            entry.remove();
        }
    }

    /// The next leaf with documents that have expired by `now`; it is not due for these again.
    pub(super) fn take_due(&mut self, now: u32, found: &mut Vec<Tag>) -> bool {
        let Some(second) = self.next_due().filter(|&second| second <= now) else { return false };
        let Some(place) = self.schedule.get_mut(&second).and_then(Vec::pop) else { return false };
        let leaf = &mut self.leaves[place as usize];
        found.extend(leaf.expired(now));
        leaf.due = 0;
        let next = leaf.next_due(now);
        self.schedule(place as usize, next);
        true
    }

    /// Finds documents that have expired by `now`, until there are `most`. Leaves that have none any more
    /// are scheduled anew.
    pub(super) fn due(&mut self, now: u32, most: usize, found: &mut Vec<Tag>) {
        let mut passed = Vec::new();
        'all: for (&second, places) in self.schedule.range(..=now) {
            for &place in places {
                if found.len() >= most {
                    break 'all;
                }
                let Some(leaf) = self.leaves.get(place as usize) else { continue };
                if leaf.due != second {
                    continue;
                }
                let before = found.len();
                found.extend(leaf.expired(now));
                if found.len() == before {
                    passed.push(place as usize);
                }
            }
        }
        for place in passed {
            let leaf = &mut self.leaves[place];
            leaf.due = 0;
            let next = leaf.next_due(now);
            self.schedule(place, next);
        }
    }

    /// Makes `found` those slots of its own and of the table that expire soonest, some `most` of them, in
    /// their order.
    pub(super) fn soonest_of_all(&mut self, most: usize, found: &mut Vec<Slot>) {
        let by_expiry = |slot: &Slot| slot.expiry;
        // Once there are enough, when the last of them expires.
        let mut last = if found.len() < most { None } else { found.last().map(by_expiry) };
        let mut visited = Vec::new();
        // Taken out and scheduled anew, for what is passed over would be met each time.
        'all: while let Some(mut entry) = self.schedule.first_entry() {
            let second = *entry.key();
            while !entry.get().is_empty() {
                // What comes now expires in that second at the earliest.
                if last.is_some_and(|last| last <= second) {
                    break 'all;
                }
                let leaf = entry.get_mut().pop().and_then(|place| {
                    let leaf = self.leaves.get_mut(place as usize)?;
                    (leaf.due == second).then_some((place, leaf))
                });
                let Some((place, leaf)) = leaf else { continue };
                leaf.due = 0;
                let expiring = leaf.slots().filter(|slot| slot.expiry != 0);
                let first = expiring.clone().map(|slot| slot.expiry).min().unwrap_or(0);
                found.extend(expiring);
                visited.push((place as usize, first));
                if found.len() >= 2 * most {
                    found.select_nth_unstable_by_key(most, by_expiry);
                    found.truncate(most);
                    last = found.iter().map(by_expiry).max();
                }
            }
            entry.remove();
        }
        for (place, first) in visited {
            self.schedule(place, first);
        }
        found.sort_unstable_by_key(by_expiry);
        found.truncate(most);
    }

    /// A slot that expires no later than any other, and when that is known to be so: its leaf is
    /// the first that is due.
    pub(super) fn soonest(&mut self) -> Option<Slot> {
        loop {
            let second = self.next_due()?;
            let place = *self.schedule.get(&second)?.last()? as usize;
            let leaf = &mut self.leaves[place];
            let soonest =
                leaf.slots().filter(|slot| slot.expiry != 0).min_by_key(|slot| slot.expiry);
            match soonest {
                Some(slot) if slot.expiry <= second => return Some(slot),
                // What was due first is gone.
                later => {
                    leaf.due = 0;
                    self.schedule(place, later.map_or(0, |slot| slot.expiry));
                }
            }
        }
    }

    /// The bytes that it takes in memory, those of the allocator excepted.
    pub(super) fn memory(&self) -> usize {
        self.leaves.iter().map(Leaf::memory).sum::<usize>()
            + self.leaves.capacity() * size_of::<Leaf>()
            + self.schedule.values().map(|places| 32 + places.capacity() * 4).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a sorted list, while documents come, go and get other times; and what was scheduled once
    /// does not stay for ever.
    #[test]
    fn those_that_expire_soonest_are_found_whatever_came_and_went() {
        const MOST: usize = 50;
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut table = Table::default();
        let mut model: Vec<Slot> = Vec::new();
        for round in 0..2000 {
            for _ in 0..rng.usize(..20) {
                let tag = Tag::new(rng.u32(..1 << 24), &rng.u16(..).to_be_bytes());
                let expiry = [0, rng.u32(1..500), 10_000 + round][rng.usize(..3)];
                let slot = Slot { tag, access: 0, expiry };
                table.insert(slot, tag.hash());
                model.push(slot);
            }
            for _ in 0..rng.usize(..3).min(model.len()) {
                let place = rng.usize(..model.len());
                let expiry = rng.u32(1..20_000);
                table.set_expiry(model[place].tag, model[place].tag.hash(), expiry);
                model[place].expiry = expiry;
            }
            model.sort_by_key(|slot| slot.expiry);
            let expiring = model.partition_point(|slot| slot.expiry == 0);
            let mut found = Vec::new();
            table.soonest_of_all(MOST, &mut found);
            let seconds = |slots: &[Slot]| slots.iter().map(|slot| slot.expiry).collect::<Vec<_>>();
            let soonest = &model[expiring..];
            assert_eq!(seconds(&found), seconds(&soonest[..soonest.len().min(MOST)]));
            // As evictions do: the first of them go.
            for slot in found.iter().take(rng.usize(..12)) {
                assert!(table.remove(slot.tag, slot.tag.hash(), slot.expiry).is_some());
                model.retain(|other| other != slot);
            }
        }
        let scheduled: usize = table.schedule.values().map(Vec::len).sum();
        assert!(scheduled < 4 * table.leaves.len() + 500, "{scheduled}, {}", table.leaves.len());
    }
}
