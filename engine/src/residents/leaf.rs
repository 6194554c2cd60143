//! Leaves: what is remembered of some documents, and tables of leaves.
//!
//! A document is known by its *tag*, of five bytes: its position and sixteen bits of its key's hash.
//! Two documents may have the same tag; then there are two slots of it, and which is whose does not
//! matter much. The table is a linear hash table (Litwin, 1980): it grows and shrinks by a leaf at a
//! time, so no insertion takes long, and all leaves are about equally full at any size.

use std::collections::BTreeMap;

use twox_hash::XxHash3_64;

use crate::index::IndexKey;

/// How many slots leaves have in the mean: few enough to look at all of them.
pub(super) const MEAN_SLOTS: usize = 64;

/// By how many slots the vectors of a leaf grow: doubling them would leave a third unused.
const GROWTH_SLOTS: usize = 6;

/// How many tags a cache line of 64 bytes has.
const TAGS_A_LINE: usize = 12;

/// Of how many of the oldest ghosts the rarest is replaced. Those of documents that were written
/// and never read, by far the most, would soon push out the others.
const GHOSTS_COMPARED: u8 = 4;

/// A position, and sixteen bits of the key's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Tag([u8; 5]);

impl Tag {
    pub(crate) fn of(key: &IndexKey) -> Self {
        Self::new(key.position(), key.key())
    }

    pub(crate) fn new(position: u32, key: &[u8]) -> Self {
        let [_, a, b, c] = position.to_be_bytes();
        let [d, e, ..] = XxHash3_64::oneshot(key).to_be_bytes();
        Self([a, b, c, d, e])
    }

    pub(crate) fn position(self) -> u32 {
        let [a, b, c, ..] = self.0;
        u32::from_be_bytes([0, a, b, c])
    }

    /// Spreads all bits of the tag over all bits of the hash (the finalizer of MurmurHash3,
    /// Appleby).
    pub(super) fn hash(self) -> u64 {
        let [a, b, c, d, e] = self.0;
        let mut hash = u64::from_be_bytes([0, 0, 0, a, b, c, d, e]);
        for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
            hash ^= hash >> 33;
            hash = hash.wrapping_mul(factor);
        }
        hash ^ (hash >> 33)
    }
}

/// What is remembered of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slot {
    pub(crate) tag: Tag,
    /// The 32 bits by which the policy orders documents: see [`tracker`](super::tracker).
    pub(super) access: u32,
    /// The second since 1970 in which the document has expired; 0 for never.
    pub(super) expiry: u32,
}

/// The slots of some documents, field by field. A field that none needs takes no memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Leaf {
    tags: Vec<Tag>,
    access: Vec<u32>,
    expiry: Vec<u32>,
    /// Of documents evicted lately: twelve bits of the tag's hash, four of their frequency.
    pub(super) ghosts: Vec<u16>,
    /// From which on one is replaced next.
    oldest_ghost: u8,
    /// In which second the leaf is to be looked at: no document in it expires before. 0 for never.
    due: u32,
}

fn push<T>(field: &mut Vec<T>, value: T) {
    if field.len() == field.capacity() {
        field.reserve_exact(GROWTH_SLOTS);
    }
    field.push(value);
}

fn shrink<T>(field: &mut Vec<T>) {
    if field.capacity() > field.len() + 2 * GROWTH_SLOTS {
        field.shrink_to(field.len() + GROWTH_SLOTS);
    }
}

impl Leaf {
    pub(super) fn len(&self) -> usize {
        self.tags.len()
    }

    fn find(&self, tag: Tag) -> Option<usize> {
        self.tags.iter().position(|&found| found == tag)
    }

    pub(super) fn slot(&self, place: usize) -> Slot {
        let of = |field: &[u32]| field.get(place).copied().unwrap_or(0);
        Slot { tag: self.tags[place], access: of(&self.access), expiry: of(&self.expiry) }
    }

    fn push(&mut self, slot: Slot) {
        let len = self.tags.len();
        push(&mut self.tags, slot.tag);
        let fields = [(&mut self.access, slot.access), (&mut self.expiry, slot.expiry)];
        for (field, value) in fields {
            if field.is_empty() && value != 0 {
                field.reserve_exact(len + GROWTH_SLOTS);
                field.resize(len, 0);
            }
            if value != 0 || !field.is_empty() {
                push(field, value);
            }
        }
    }

    fn remove(&mut self, place: usize) -> Slot {
        let slot = self.slot(place);
        self.tags.swap_remove(place);
        shrink(&mut self.tags);
        for field in [&mut self.access, &mut self.expiry] {
            if !field.is_empty() {
                field.swap_remove(place);
                shrink(field);
            }
        }
        slot
    }

    pub(super) fn access(&mut self, place: usize) -> &mut u32 {
        if self.access.is_empty() {
            self.access.resize(self.tags.len(), 0);
        }
        &mut self.access[place]
    }

    pub(super) fn accesses(&mut self) -> &mut [u32] {
        &mut self.access
    }

    /// The slot for which `rank`, of what the policy made of it, is greatest; with that rank. Tags are
    /// not looked at but for that one's: they would be more than half of what is fetched into the cache.
    pub(super) fn greatest(&self, rank: impl Fn(u32) -> u32) -> Option<(u32, Slot)> {
        if self.access.is_empty() {
            return (self.len() > 0).then(|| (rank(0), self.slot(0)));
        }
        // First which rank and then whose: the processor compares several ranks at a time.
        let greatest = self.access.iter().fold(0, |greatest, &access| greatest.max(rank(access)));
        let place = self.access.iter().position(|&access| rank(access) == greatest)?;
        Some((greatest, self.slot(place)))
    }

    /// Any slot.
    pub(super) fn random(&self) -> Option<Slot> {
        (self.len() > 0).then(|| self.slot(fastrand::usize(..self.len())))
    }

    /// The documents that have expired by `now`, a second.
    fn expired(&self, now: u32) -> impl Iterator<Item = Tag> {
        let slots = self.tags.iter().zip(&self.expiry);
        slots.filter(move |(_, expiry)| **expiry != 0 && **expiry <= now).map(|(tag, _)| *tag)
    }

    /// When the first of the documents expires that have not by `now`, a second; 0 for never.
    fn next_due(&self, now: u32) -> u32 {
        self.expiry.iter().copied().filter(|&expiry| expiry > now).min().unwrap_or(0)
    }

    /// Remembers a document that is evicted: its hash and its frequency, below 16.
    pub(super) fn remember(&mut self, hash: u64, frequency: u16) {
        let ghost = Self::ghost(hash) | frequency;
        if self.ghosts.len() < MEAN_SLOTS {
            push(&mut self.ghosts, ghost);
        } else {
            let place = |step| usize::from((self.oldest_ghost + step) % MEAN_SLOTS as u8);
            let oldest = (0..GHOSTS_COMPARED).map(place);
            if let Some(rarest) = oldest.min_by_key(|&place| self.ghosts[place] & 0xf) {
                self.ghosts[rarest] = ghost;
            }
            self.oldest_ghost = (self.oldest_ghost + 1) % MEAN_SLOTS as u8;
        }
    }

    /// The frequency of an evicted document, if it is remembered.
    pub(super) fn recall(&mut self, hash: u64) -> Option<u16> {
        let ghost = Self::ghost(hash);
        let found = self.ghosts.iter_mut().find(|found| **found & !0xf == ghost)?;
        // Forgotten, without making a gap.
        Some(std::mem::take(found) & 0xf)
    }

    fn ghost(hash: u64) -> u16 {
        // Bits that choose neither the stripe nor, in any table that fits memory, the leaf.
        ((hash >> 40) as u16) << 4
    }
}

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
        let tags = &self.leaves[Self::place(hash, self.leaves.len())].tags;
        tags.iter().step_by(TAGS_A_LINE).fold(0, |seen, tag| seen ^ tag.0[0])
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
        if expiry != 0 && leaf.expiry.is_empty() {
            leaf.expiry.resize(leaf.tags.len(), 0);
        }
        if let Some(field) = leaf.expiry.get_mut(place) {
            *field = expiry;
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
            let (ghosts, oldest_ghost) = (whole.ghosts.clone(), whole.oldest_ghost);
            let half = Leaf { ghosts, oldest_ghost, ..Leaf::default() };
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
        for slot in (0..leaf.len()).map(|place| leaf.slot(place)) {
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
                let slots = (0..leaf.len()).map(|place| leaf.slot(place));
                let expiring = slots.filter(|slot| slot.expiry != 0);
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
            let expiring = (0..leaf.len()).map(|place| leaf.slot(place));
            let soonest = expiring.filter(|slot| slot.expiry != 0).min_by_key(|slot| slot.expiry);
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
        let of_leaf = |leaf: &Leaf| {
            leaf.tags.capacity() * size_of::<Tag>()
                + (leaf.access.capacity() + leaf.expiry.capacity()) * size_of::<u32>()
                + leaf.ghosts.capacity() * size_of::<u16>()
        };
        self.leaves.iter().map(of_leaf).sum::<usize>()
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
                let tag = Tag(rng.u64(..).to_be_bytes()[..5].try_into().unwrap());
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

    /// Ghosts came and went in turn, and a hundred documents that were written once and never read
    /// pushed out those that come back.
    #[test]
    fn frequent_ghosts_outlive_rare_ones() {
        let mut leaf = Leaf::default();
        let hash = |number: u64| number << 40;
        leaf.remember(hash(1), 5);
        for number in 2..1000 {
            leaf.remember(hash(number), 1);
        }
        assert_eq!(leaf.ghosts.len(), MEAN_SLOTS);
        assert_eq!(leaf.recall(hash(1)), Some(5));
        assert_eq!(leaf.recall(hash(1)), None, "once");
        assert_eq!(leaf.recall(hash(2)), None, "pushed out");
        assert_eq!(leaf.recall(hash(999)), Some(1));
    }
}
