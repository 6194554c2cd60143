//! What is remembered of an index's documents: which to evict first, and which have expired.
//!
//! Victims are sampled, as Redis does (its documentation on key eviction), but from whole leaves of
//! a hash table: 64 documents or more are compared for each eviction, at the cost of a few cache
//! lines. What the order of eviction asks of a document is 32 bits:
//!
//! | policy | bits | first to go |
//! | --- | --- | --- |
//! | `lru` | the access clock when it was last accessed | the oldest |
//! | `lfu` | 8 of frequency, 24 of the access clock | the rarest, of these the oldest |
//! | `fifo` | its version, modulo 2^32 | the lowest |
//! | `random`, `ttl` | none | any; the one that expires soonest |
//!
//! `lfu` is after `TinyLFU` (Einziger, Friedman and Manes, 2017): frequencies are halved at times, so
//! that what was popular once goes in the end, and those of evicted documents are remembered for a
//! while, so that a document that comes back soon is not taken for a new one. They are remembered
//! by fingerprint instead of in a sketch, the frequent ones for longer.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::leaf::{Leaf, Slot, Tag};
use super::table::Table;
use crate::command::Version;
use crate::limits::Policy;

/// Tables, so that readers seldom meet at a lock.
const STRIPES: usize = 16;

/// How many documents are looked at for a victim, at least, where there are so many.
const SAMPLE: usize = 64;

/// By how much the access clock is shifted for the 24 bits of `lfu`.
const COARSE: u32 = 4;

/// What was accessed longer ago than this is taken to have been so this long ago, when it is looked
/// at: before 32 bits of the clock have gone round.
const OLDEST: u32 = 1 << 31;

/// This part of all that a clock tells is taken to be ahead of now.
const AHEAD_SHARE: u32 = 256;

/// Frequencies are halved each time that there were so many accesses for each document: with fewer,
/// those that are about to go cannot be told apart; with more, it takes long to find out that
/// others are popular now.
const ACCESSES_TO_HALVE: u64 = 20;

/// The highest frequency. It tells those that are about to go from the others, which is all that it
/// is for, and is forgotten after six halvings.
const MAX_FREQUENCY: u32 = 63;

const FREQUENCY_SHIFT: u32 = 24;

/// The bits below the frequency.
const STAMP: u32 = (1 << FREQUENCY_SHIFT) - 1;

/// Where a document stands in an order of eviction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Victim {
    /// The greater, the sooner it goes; comparable between indexes of one policy.
    pub(super) rank: u32,
    pub(super) slot: Slot,
}

/// What is remembered of an index's documents.
pub(super) struct Tracker {
    policy: Policy,
    stripes: [Mutex<Table>; STRIPES],
    documents: AtomicUsize,
    accesses: AtomicU64,
    /// No document expires before this second; `u64::MAX` for never.
    next_due: AtomicU64,
    /// Of `ttl`: when the first expires of the documents that came, or got another time, since this was
    /// taken; `u32::MAX` where there is none.
    soonest_new: AtomicU32,
}

/// The number of a stripe, from bits of the hash that choose no leaf.
fn stripe(hash: u64) -> usize {
    (hash >> 60) as usize % STRIPES
}

/// The second in which what expires at a time, in milliseconds, surely has.
fn second(milliseconds: u64) -> u32 {
    u32::try_from(milliseconds.div_ceil(1000)).unwrap_or(u32::MAX)
}

impl Tracker {
    pub(super) fn new(policy: Policy) -> Self {
        Self {
            policy,
            stripes: Default::default(),
            documents: AtomicUsize::new(0),
            accesses: AtomicU64::new(0),
            next_due: AtomicU64::new(u64::MAX),
            soonest_new: AtomicU32::new(u32::MAX),
        }
    }

    pub(super) fn policy(&self) -> Policy {
        self.policy
    }

    /// Whether it remembers a document that expires then, 0 for never.
    pub(super) fn holds(&self, expires_at: u64) -> bool {
        self.policy.evicts_all() || expires_at != 0
    }

    /// Whether a document of a tag is remembered.
    pub(super) fn has(&self, tag: Tag) -> bool {
        let hash = tag.hash();
        self.stripes[stripe(hash)].lock().find(tag, hash).is_some()
    }

    /// Looks at where tags would be, all of them at a time: what is not in the processor's cache then comes
    /// there at the same time, and not after each other.
    pub(super) fn warm(&self, tags: &[Tag]) {
        let mut by_stripe: [Vec<u64>; STRIPES] = Default::default();
        for tag in tags {
            let hash = tag.hash();
            by_stripe[stripe(hash)].push(hash);
        }
        for (stripe, hashes) in self.stripes.iter().zip(&by_stripe) {
            let table = stripe.lock();
            let seen = hashes.iter().fold(0, |seen, &hash| seen ^ table.glance(hash));
            std::hint::black_box(seen);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.documents.load(Ordering::Relaxed)
    }

    /// Adds a document that was not there. `clock` is the access clock, or what stands for it.
    pub(super) fn insert(&self, tag: Tag, version: Version, expires_at: u64, clock: u64) {
        let hash = tag.hash();
        let mut table = self.stripes[stripe(hash)].lock();
        let access = match self.policy {
            Policy::Lru => clock as u32,
            Policy::Fifo => version as u32,
            Policy::Lfu => {
                let recalled = table.leaf_of(hash).and_then(|leaf| leaf.recall(hash));
                frequent(1 + u32::from(recalled.unwrap_or(0)), clock)
            }
            Policy::Reject | Policy::Random | Policy::Ttl => 0,
        };
        let expiry = second(expires_at);
        table.insert(Slot { tag, access, expiry }, hash);
        self.documents.fetch_add(1, Ordering::Relaxed);
        self.note_due(expiry);
    }

    fn note_due(&self, expiry: u32) {
        if expiry != 0 {
            self.next_due.fetch_min(u64::from(expiry), Ordering::Relaxed);
            if self.policy == Policy::Ttl {
                self.note_soonest(expiry);
            }
        }
    }

    /// Notes, after it was added, that a document expires in a second.
    pub(super) fn note_soonest(&self, second: u32) {
        self.soonest_new.fetch_min(second, Ordering::Relaxed);
    }

    /// Puts back what was taken.
    pub(super) fn restore(&self, slot: Slot) {
        let hash = slot.tag.hash();
        self.stripes[stripe(hash)].lock().insert(slot, hash);
        self.documents.fetch_add(1, Ordering::Relaxed);
        self.note_due(slot.expiry);
    }

    /// Takes the documents of which `is_taken` says so.
    pub(super) fn take_where(&self, is_taken: impl Fn(Tag) -> bool) -> Vec<Slot> {
        let mut taken = Vec::new();
        for stripe in &self.stripes {
            let mut table = stripe.lock();
            let begun = taken.len();
            for leaf in table.leaves() {
                taken.extend(leaf.slots().filter(|slot| is_taken(slot.tag)));
            }
            for slot in &taken[begun..] {
                table.remove(slot.tag, slot.tag.hash(), slot.expiry);
            }
            self.documents.fetch_sub(taken.len() - begun, Ordering::Relaxed);
        }
        taken
    }

    /// Forgets a document that expires then, 0 for never.
    pub(super) fn remove(&self, tag: Tag, expires_at: u64) {
        let hash = tag.hash();
        let expiry = second(expires_at);
        if self.stripes[stripe(hash)].lock().remove(tag, hash, expiry).is_some() {
            self.documents.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Takes a document that is to be evicted.
    pub(super) fn evict(&self, tag: Tag) -> Option<Slot> {
        self.evict_if(tag, |_| true)
    }

    /// Takes a document that is to be evicted, if its slot is still the same.
    pub(super) fn evict_if_unchanged(&self, slot: Slot) -> Option<Slot> {
        self.evict_if(slot.tag, |found| found == slot)
    }

    fn evict_if(&self, tag: Tag, is_it: impl FnOnce(Slot) -> bool) -> Option<Slot> {
        let hash = tag.hash();
        let mut table = self.stripes[stripe(hash)].lock();
        let slot = table.remove_if(tag, hash, is_it)?;
        self.documents.fetch_sub(1, Ordering::Relaxed);
        if self.policy == Policy::Lfu
            && let Some(leaf) = table.leaf_of(hash)
        {
            leaf.remember(hash, (slot.access >> FREQUENCY_SHIFT).min(15) as u16);
        }
        Some(slot)
    }

    /// Notes a read.
    pub(super) fn touch(&self, tag: Tag, clock: u64) {
        if matches!(self.policy, Policy::Lru | Policy::Lfu) {
            self.access(tag, 0, clock, None);
        }
    }

    /// Notes that a document was written anew.
    pub(super) fn rewrite(&self, tag: Tag, version: Version, expires_at: u64, clock: u64) {
        self.access(tag, version, clock, Some(second(expires_at)));
    }

    /// Notes when a document expires.
    pub(super) fn set_expiry(&self, tag: Tag, expires_at: u64) {
        let hash = tag.hash();
        let expiry = second(expires_at);
        self.stripes[stripe(hash)].lock().set_expiry(tag, hash, expiry);
        self.note_due(expiry);
    }

    fn access(&self, tag: Tag, version: Version, clock: u64, expiry: Option<u32>) {
        let hash = tag.hash();
        let mut table = self.stripes[stripe(hash)].lock();
        if self.policy == Policy::Lfu {
            let accesses = self.accesses.fetch_add(1, Ordering::Relaxed);
            let age = accesses / (self.len() as u64 * ACCESSES_TO_HALVE).max(1);
            halve_up_to(&mut table, age);
        }
        let Some((leaf, place)) = table.find(tag, hash) else { return };
        match self.policy {
            Policy::Lru => *leaf.access(place) = clock as u32,
            Policy::Fifo => *leaf.access(place) = version as u32,
            Policy::Lfu => {
                let access = leaf.access(place);
                *access = frequent((*access >> FREQUENCY_SHIFT) + 1, clock);
            }
            Policy::Reject | Policy::Random | Policy::Ttl => {}
        }
        if let Some(expiry) = expiry {
            table.set_expiry(tag, hash, expiry);
            drop(table);
            self.note_due(expiry);
        }
    }

    /// The document of a leaf that goes first.
    fn first_of(&self, leaf: &mut Leaf, clock: u64, newest: Version) -> Option<Victim> {
        let age_at = |now: u32| move |access: u32| age(now, access, u32::MAX);
        let first = match self.policy {
            Policy::Lru => {
                let age = age_at(clock as u32);
                let oldest = leaf.greatest(age)?;
                if oldest.0 <= OLDEST {
                    Some(oldest)
                } else {
                    for access in leaf.accesses() {
                        if age(*access) > OLDEST {
                            *access = (clock as u32).wrapping_sub(OLDEST);
                        }
                    }
                    leaf.greatest(age)
                }
            }
            Policy::Fifo => leaf.greatest(age_at(newest as u32)),
            Policy::Lfu => {
                let now = (clock >> COARSE) as u32;
                leaf.greatest(|access| {
                    let rarity = MAX_FREQUENCY - (access >> FREQUENCY_SHIFT);
                    (rarity << FREQUENCY_SHIFT) | age(now, access, STAMP)
                })
            }
            Policy::Random | Policy::Reject | Policy::Ttl => {
                // As if each slot had drawn a rank: the greatest of many is greater than that of few.
                let greatest = fastrand::f64().powf(1.0 / leaf.len() as f64);
                leaf.random().map(|slot| ((greatest * f64::from(u32::MAX)) as u32, slot))
            }
        };
        first.map(|(rank, slot)| Victim { rank, slot })
    }

    /// Of `ttl`: the documents that expire soonest, some `most` of them, in their order.
    pub(super) fn soonest(&self, most: usize) -> Vec<Slot> {
        let mut found = Vec::new();
        for stripe in &self.stripes {
            stripe.lock().soonest_of_all(most, &mut found);
        }
        found
    }

    /// When the first expires of what came since it was last asked and forgotten.
    pub(super) fn take_soonest_new(&self) -> u32 {
        self.soonest_new.swap(u32::MAX, Ordering::Relaxed)
    }

    pub(super) fn soonest_new(&self) -> u32 {
        self.soonest_new.load(Ordering::Relaxed)
    }

    /// The document to evict: for `ttl` exactly the one that expires soonest, otherwise the first of
    /// a sample. `newest` is the last version given.
    pub(super) fn victim(&self, clock: u64, newest: Version) -> Option<Victim> {
        if self.policy == Policy::Ttl {
            let soonest = self.stripes.iter().filter_map(|stripe| stripe.lock().soonest());
            let soonest = soonest.min_by_key(|slot| slot.expiry);
            return soonest.map(|slot| Victim { rank: u32::MAX - slot.expiry, slot });
        }
        let first = fastrand::usize(..STRIPES);
        let mut seen = 0;
        let mut best: Option<Victim> = None;
        for i in 0..STRIPES {
            let mut table = self.stripes[(first + i) % STRIPES].lock();
            let leaves = table.leaves();
            if leaves.is_empty() {
                continue;
            }
            let place = fastrand::usize(..leaves.len());
            let leaf = &mut leaves[place];
            seen += leaf.len();
            if let Some(first) = self.first_of(leaf, clock, newest)
                && best.is_none_or(|best| best.rank < first.rank)
            {
                best = Some(first);
            }
            if seen >= SAMPLE {
                break;
            }
        }
        // Where nearly all are gone, no sample finds one.
        best.or_else(|| {
            self.stripes.iter().find_map(|stripe| {
                let mut table = stripe.lock();
                table.leaves().iter_mut().find_map(|leaf| self.first_of(leaf, clock, newest))
            })
        })
    }

    /// Whether a document may have expired by `now`, in milliseconds.
    fn is_due(&self, now: u64) -> bool {
        self.next_due.load(Ordering::Relaxed) <= now / 1000
    }

    /// Documents that have expired by `now`, in milliseconds: some `most` of them, which are not
    /// named again.
    pub(super) fn take_due(&self, now: u64, most: usize) -> Vec<Tag> {
        self.find_due(
            now,
            |table, now, found| {
                while found.len() < most && table.take_due(now, found) {}
            },
        )
    }

    /// Documents that have expired by `now`, in milliseconds: some `most` of them, which are named
    /// until they are removed.
    pub(super) fn due(&self, now: u64, most: usize) -> Vec<Tag> {
        let of_stripe = most.div_ceil(STRIPES);
        self.find_due(now, |table, now, found| table.due(now, found.len() + of_stripe, found))
    }

    fn find_due(&self, now: u64, find: impl Fn(&mut Table, u32, &mut Vec<Tag>)) -> Vec<Tag> {
        let mut found = Vec::new();
        if !self.is_due(now) {
            return found;
        }
        let now_second = u32::try_from(now / 1000).unwrap_or(u32::MAX);
        // Whoever adds a document meanwhile names its second after this.
        self.next_due.store(u64::MAX, Ordering::Relaxed);
        let mut next = u64::MAX;
        for stripe in &self.stripes {
            let mut table = stripe.lock();
            find(&mut table, now_second, &mut found);
            next = next.min(table.next_due().map_or(u64::MAX, u64::from));
        }
        self.next_due.fetch_min(next, Ordering::Relaxed);
        found
    }

    /// Sees to it that an expired document is named again.
    pub(super) fn put_off(&self, tag: Tag) {
        let hash = tag.hash();
        let mut table = self.stripes[stripe(hash)].lock();
        let Some((leaf, place)) = table.find(tag, hash) else { return };
        let expiry = leaf.slot(place).expiry;
        table.set_expiry(tag, hash, expiry);
        drop(table);
        self.note_due(expiry);
    }

    /// The bytes that it takes in memory.
    pub(super) fn memory(&self) -> usize {
        self.stripes.iter().map(|stripe| stripe.lock().memory()).sum()
    }
}

/// How long ago `then` was, as far as `bits` tell. Others go on meanwhile, and what they did may come
/// after `now`: that is not long ago, but just now.
fn age(now: u32, then: u32, bits: u32) -> u32 {
    let age = now.wrapping_sub(then) & bits;
    if age > bits - bits / AHEAD_SHARE { 0 } else { age }
}

/// The bits of `lfu`.
fn frequent(frequency: u32, clock: u64) -> u32 {
    (frequency.min(MAX_FREQUENCY) << FREQUENCY_SHIFT) | ((clock >> COARSE) as u32 & STAMP)
}

/// Halves the frequencies of a table as often as all should have been.
fn halve_up_to(table: &mut Table, age: u64) {
    let times = (age.saturating_sub(table.age)).min(8) as u32;
    if times == 0 {
        return;
    }
    table.age = age;
    for leaf in table.leaves() {
        for access in leaf.accesses() {
            *access =
                (((*access >> FREQUENCY_SHIFT) >> times) << FREQUENCY_SHIFT) | (*access & STAMP);
        }
        for ghost in &mut leaf.ghosts {
            *ghost = (*ghost & !0xf) | ((*ghost & 0xf) >> times);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Leaves that were split lately have half as many documents as the others.
    #[test]
    fn random_evicts_each_document_as_often_as_any_other() {
        const DRAWS: usize = 200_000;
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        fastrand::seed(seed);
        let tracker = Tracker::new(Policy::Random);
        for i in 0..5000_u32 {
            tracker.insert(Tag::new(i, &i.to_be_bytes()), 1, 0, 0);
        }
        let in_small_leaf = |tag: Tag| {
            let hash = tag.hash();
            let mut table = tracker.stripes[stripe(hash)].lock();
            table.leaf_of(hash).is_some_and(|leaf| leaf.len() < 56)
        };
        let victims = (0..DRAWS).filter_map(|_| tracker.victim(0, 1));
        let of_small = victims.filter(|victim| in_small_leaf(victim.slot.tag)).count();
        let small = (0..5000_u32).filter(|i| in_small_leaf(Tag::new(*i, &i.to_be_bytes()))).count();
        assert!((500..4500).contains(&small), "{small} documents in small leaves");
        let times = (of_small as f64 / DRAWS as f64) / (small as f64 / 5000.0);
        // A small leaf is sampled with another one, so that it is not exactly as often.
        assert!((0.92..1.02).contains(&times), "{times} times as often, in small leaves");
    }

    #[test]
    fn what_came_after_the_clock_was_read_is_not_the_oldest() {
        for bits in [u32::MAX, STAMP] {
            assert_eq!(age(7, 7, bits), 0);
            assert_eq!(age(7, 5, bits), 2);
            assert_eq!(age(5, 7, bits), 0, "two ahead");
            assert_eq!(age(1, bits, bits), 2, "gone round");
            assert_eq!(age(bits / 2, 0, bits), bits / 2);
        }
    }
}
