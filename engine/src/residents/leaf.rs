//! Leaves: what is remembered of some documents.
//!
//! A document is known by its *tag*, of five bytes: its position and sixteen bits of its key's hash.
//! Two documents may have the same tag; then there are two slots of it, and which is whose does not
//! matter much.

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
    pub(super) due: u32,
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
    /// A leaf without slots that remembers the same documents as evicted.
    pub(super) fn with_ghosts_of(other: &Self) -> Self {
        let (ghosts, oldest_ghost) = (other.ghosts.clone(), other.oldest_ghost);
        Self { ghosts, oldest_ghost, ..Self::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.tags.len()
    }

    pub(super) fn find(&self, tag: Tag) -> Option<usize> {
        self.tags.iter().position(|&found| found == tag)
    }

    /// Something of each cache line of the tags.
    pub(super) fn glance(&self) -> u8 {
        self.tags.iter().step_by(TAGS_A_LINE).fold(0, |seen, tag| seen ^ tag.0[0])
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> + Clone {
        (0..self.len()).map(|place| self.slot(place))
    }

    pub(super) fn slot(&self, place: usize) -> Slot {
        let of = |field: &[u32]| field.get(place).copied().unwrap_or(0);
        Slot { tag: self.tags[place], access: of(&self.access), expiry: of(&self.expiry) }
    }

    pub(super) fn push(&mut self, slot: Slot) {
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

    pub(super) fn remove(&mut self, place: usize) -> Slot {
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

    /// Says when a document expires. Returns whether there is anything new to say.
    pub(super) fn set_expiry(&mut self, place: usize, expiry: u32) -> bool {
        if expiry != 0 && self.expiry.is_empty() {
            self.expiry.resize(self.tags.len(), 0);
        }
        let field = self.expiry.get_mut(place);
        field.map(|field| *field = expiry).is_some()
    }

    /// Any slot.
    pub(super) fn random(&self) -> Option<Slot> {
        (self.len() > 0).then(|| self.slot(fastrand::usize(..self.len())))
    }

    /// The documents that have expired by `now`, a second.
    pub(super) fn expired(&self, now: u32) -> impl Iterator<Item = Tag> {
        let slots = self.tags.iter().zip(&self.expiry);
        slots.filter(move |(_, expiry)| **expiry != 0 && **expiry <= now).map(|(tag, _)| *tag)
    }

    /// When the first of the documents expires that have not by `now`, a second; 0 for never.
    pub(super) fn next_due(&self, now: u32) -> u32 {
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

    /// The bytes that its fields take in memory.
    pub(super) fn memory(&self) -> usize {
        self.tags.capacity() * size_of::<Tag>()
            + (self.access.capacity() + self.expiry.capacity()) * size_of::<u32>()
            + self.ghosts.capacity() * size_of::<u16>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
