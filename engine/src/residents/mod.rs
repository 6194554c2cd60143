//! What is remembered of documents in memory, to evict the right ones and to find the expired ones:
//! some 10 to 16 bytes each (`docs/limits.md`). Where no policy asks for that of all documents, there are
//! besides the 5 to 6 bytes of each by which it is told that a key is new without asking overlay and index.
//!
//! The sequencer alone adds and removes, as it evaluates, so that this and the evaluated state are
//! always of the same documents; readers note their accesses. Nothing of it is durable: opening
//! fills it anew, in the order of the documents' versions.
//!
//! Documents at positions that the shard does not own are remembered apart. Those that are being taken over
//! are neither evicted nor swept, and may be all that there is to choose from; those that were given up
//! are about to be removed, and make no room where a limit does not count them.

mod leaf;
mod table;
mod tracker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::RwLock;

pub(crate) use self::leaf::{Slot, Tag};
use self::tracker::Tracker;
use crate::command::{IndexId, Key, Version};
use crate::index::{Entry, IndexKey};
use crate::limits::Policy;

/// How many indexes are asked for a victim where several share the shard's policy.
const INDEXES_SAMPLED: usize = 4;

/// What happened since the shard was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) rejected: u64,
    pub(crate) hits: u64,
    pub(crate) misses: u64,
}

#[derive(Default)]
struct Counters {
    rejected: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Counters {
    fn add(&self, traffic: Traffic) {
        self.rejected.fetch_add(traffic.rejected, Ordering::Relaxed);
        self.hits.fetch_add(traffic.hits, Ordering::Relaxed);
        self.misses.fetch_add(traffic.misses, Ordering::Relaxed);
    }

    fn read(&self) -> Traffic {
        Traffic {
            rejected: self.rejected.load(Ordering::Relaxed),
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
        }
    }
}

/// Where a document belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// To the shard.
    Owned,
    /// To a range that was given up, or is being taken over.
    Apart,
}

#[derive(Default)]
struct OfIndex {
    counters: Counters,
    /// `None` where nothing is to be remembered yet.
    tracker: RwLock<Option<Arc<Tracker>>>,
    /// Of what is not owned.
    apart: RwLock<Option<Arc<Tracker>>>,
    /// The tags of all documents, owned or not, where the trackers do not hold all of them.
    tags: RwLock<Option<Arc<Tags>>>,
    /// The documents that there were could not be read.
    incomplete: AtomicBool,
}

/// A document as it is remembered: its key by a tag, which another document may have as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Resident {
    pub(crate) index: IndexId,
    pub(crate) slot: Slot,
}

impl Resident {
    /// The second since 1970 in which the document has expired; 0 for never.
    pub(crate) fn expiry(&self) -> u32 {
        self.slot.expiry
    }
}

/// The tags of an index's documents; one twice where two documents have it.
struct Tags(Tracker);

impl Default for Tags {
    fn default() -> Self {
        // Its slots have a tag and nothing else.
        Self(Tracker::new(Policy::Random))
    }
}

impl Tags {
    fn add(&self, tag: Tag) {
        self.0.insert(tag, 0, 0, 0);
    }

    fn remove(&self, tag: Tag) {
        self.0.remove(tag, 0);
    }

    fn has(&self, tag: Tag) -> bool {
        self.0.has(tag)
    }
}

/// What is remembered of the documents of all indexes.
#[derive(Default)]
pub(crate) struct Residents {
    indexes: RwLock<BTreeMap<IndexId, OfIndex>>,
    /// Of indexes that were dropped.
    dropped: Counters,
    /// Counts accesses.
    clock: AtomicU64,
}

impl Residents {
    /// Begins to remember the documents of an index for a policy, with none there yet.
    pub(crate) fn begin(&self, index: IndexId, policy: Policy) {
        let mut indexes = self.indexes.write();
        let of_index = indexes.entry(index).or_default();
        // Without a policy documents that expire are remembered, from the first one on.
        let tracker = policy.evicts_all().then(|| Arc::new(Tracker::new(policy)));
        *of_index.tracker.write() = tracker;
        *of_index.apart.write() = None;
        let tags = (!policy.evicts_all()).then(Arc::default);
        *of_index.tags.write() = tags;
        of_index.incomplete.store(false, Ordering::Relaxed);
    }

    /// Remembers nothing of the documents that an index has: they cannot be read.
    pub(crate) fn begin_without(&self, index: IndexId) {
        self.begin(index, Policy::Reject);
        if let Some(of_index) = self.indexes.read().get(&index) {
            *of_index.tags.write() = None;
            of_index.incomplete.store(true, Ordering::Relaxed);
        }
    }

    /// Forgets all indexes but those.
    pub(crate) fn keep_only(&self, is_there: impl Fn(IndexId) -> bool) {
        self.indexes.write().retain(|&index, _| is_there(index));
    }

    /// Forgets an index.
    pub(crate) fn drop_index(&self, index: IndexId) {
        if let Some(of_index) = self.indexes.write().remove(&index) {
            self.dropped.add(of_index.counters.read());
        }
    }

    /// Whether the documents of an index are remembered for that policy, or are to be so from the
    /// first one that expires on.
    pub(crate) fn serves(&self, index: IndexId, policy: Policy) -> bool {
        let indexes = self.indexes.read();
        let Some(of_index) = indexes.get(&index) else { return false };
        if of_index.incomplete.load(Ordering::Relaxed) {
            return false;
        }
        let order = |policy: Policy| policy.evicts_all().then_some(policy);
        let held = of_index.tracker.read().as_ref().and_then(|tracker| order(tracker.policy()));
        held == order(policy)
    }

    fn tracker(&self, index: IndexId) -> Option<Arc<Tracker>> {
        self.indexes.read().get(&index)?.tracker.read().clone()
    }

    /// The tags of all documents of an index, where they are kept.
    fn tags(&self, index: IndexId) -> Option<Arc<Tags>> {
        self.indexes.read().get(&index)?.tags.read().clone()
    }

    /// The tracker of an index that has a document which expires then.
    fn tracker_for(&self, index: IndexId, side: Side, expires_at: u64) -> Option<Arc<Tracker>> {
        let indexes = self.indexes.read();
        let of_index = indexes.get(&index)?;
        let tracker = match side {
            Side::Owned => &of_index.tracker,
            Side::Apart => &of_index.apart,
        };
        if let Some(tracker) = &*tracker.read() {
            return Some(Arc::clone(tracker));
        }
        let here = of_index.tracker.read().as_ref().map(|here| here.policy());
        let policy = here.unwrap_or(Policy::Ttl);
        if expires_at == 0 && !policy.evicts_all() {
            return None;
        }
        let new = || Arc::new(Tracker::new(policy));
        Some(Arc::clone(tracker.write().get_or_insert_with(new)))
    }

    /// Sorts the documents by their positions anew.
    pub(crate) fn sort(&self, side: impl Fn(u32) -> Side) {
        let mut trackers = Vec::new();
        for (&index, of_index) in &*self.indexes.read() {
            let mut note = |of, tracker: &RwLock<Option<Arc<Tracker>>>| {
                trackers.extend(tracker.read().clone().map(|tracker| (index, of, tracker)));
            };
            note(Side::Owned, &of_index.tracker);
            note(Side::Apart, &of_index.apart);
        }
        let mut moved = Vec::new();
        for (index, of, tracker) in trackers {
            let slots = tracker.take_where(|tag| side(tag.position()) != of);
            moved.push((index, if of == Side::Owned { Side::Apart } else { Side::Owned }, slots));
        }
        for (index, to, slots) in moved.into_iter().filter(|(_, _, slots)| !slots.is_empty()) {
            // That there are any says that they are remembered.
            let Some(tracker) = self.tracker_for(index, to, u64::MAX) else { continue };
            slots.into_iter().for_each(|slot| tracker.restore(slot));
        }
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    /// Remembers a document that was stored before: the older `newest` is than its version, the
    /// longer ago it is taken to have been accessed.
    pub(crate) fn fill(
        &self,
        (index, side): (IndexId, Side),
        key: &IndexKey,
        entry: &Entry,
        newest: Version,
    ) {
        if let Some(tags) = self.tags(index) {
            tags.add(Tag::of(key));
        }
        let Some(tracker) = self.tracker_for(index, side, entry.expires_at) else { return };
        if tracker.holds(entry.expires_at) {
            let age = newest.saturating_sub(entry.version);
            let clock = self.clock.load(Ordering::Relaxed).wrapping_sub(age);
            tracker.insert(Tag::of(key), entry.version, entry.expires_at, clock);
        }
    }

    /// Takes over what became of a document: when it expired before and when it does now (0 for
    /// never), `None` where there was or is none; and its version.
    pub(crate) fn change(
        &self,
        (index, side): (IndexId, Side),
        key: &IndexKey,
        before: Option<u64>,
        after: Option<u64>,
        version: Version,
    ) {
        if before.is_some() != after.is_some()
            && let Some(tags) = self.tags(index)
        {
            match after {
                Some(_) => tags.add(Tag::of(key)),
                None => tags.remove(Tag::of(key)),
            }
        }
        let Some(tracker) = self.tracker_for(index, side, after.unwrap_or(0)) else { return };
        let held = before.is_some_and(|expires_at| tracker.holds(expires_at));
        let holds = after.filter(|&expires_at| tracker.holds(expires_at));
        let tag = Tag::of(key);
        match (held, holds) {
            (false, None) => {}
            (false, Some(expires_at)) => tracker.insert(tag, version, expires_at, self.tick()),
            (true, Some(expires_at)) => tracker.rewrite(tag, version, expires_at, self.tick()),
            (true, None) => tracker.remove(tag, before.unwrap_or(0)),
        }
    }

    /// Notes when a document expires, from now on and before; its access does not change.
    pub(crate) fn change_expiry(
        &self,
        (index, side): (IndexId, Side),
        key: &IndexKey,
        before: u64,
        after: u64,
    ) {
        let Some(tracker) = self.tracker_for(index, side, after) else { return };
        if tracker.holds(before) && tracker.holds(after) {
            tracker.set_expiry(Tag::of(key), after);
        } else {
            self.change((index, side), key, Some(before), Some(after), 0);
        }
    }

    /// Notes a read of a document, or of none.
    pub(crate) fn note_read(&self, index: IndexId, key: &IndexKey, found: bool) {
        let indexes = self.indexes.read();
        let Some(of_index) = indexes.get(&index) else { return };
        let counters = &of_index.counters;
        let counter = if found { &counters.hits } else { &counters.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        if found && let Some(tracker) = &*of_index.tracker.read() {
            tracker.touch(Tag::of(key), self.tick());
        }
    }

    /// Notes that a write was refused.
    pub(crate) fn note_rejected(&self, index: IndexId) {
        if let Some(of_index) = self.indexes.read().get(&index) {
            of_index.counters.rejected.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What happened in an index since the start.
    pub(crate) fn traffic(&self, index: IndexId) -> Traffic {
        self.indexes.read().get(&index).map_or_else(Traffic::default, |of| of.counters.read())
    }

    /// What happened since the start in indexes that were dropped.
    pub(crate) fn traffic_of_dropped(&self) -> Traffic {
        self.dropped.read()
    }

    /// Whether a document is surely not there, after all that was evaluated: all documents of the
    /// index that the shard owns are remembered, and none of its tag. Not so while victims are taken and
    /// not removed. Of a key that the shard does not own it says nothing.
    pub(crate) fn lacks(&self, index: IndexId, key: &IndexKey) -> bool {
        if let Some(tags) = self.tags(index) {
            return !tags.has(Tag::of(key));
        }
        self.tracker(index)
            .is_some_and(|tracker| tracker.policy().evicts_all() && !tracker.has(Tag::of(key)))
    }

    /// Has what [`Self::lacks`] looks at be in the processor's cache, for many keys of an index.
    pub(crate) fn warm<'a>(&self, index: IndexId, keys: impl Iterator<Item = &'a Key>) {
        let tags: Vec<_> = keys.map(|key| Tag::new(key.position, &key.bytes)).collect();
        match (self.tags(index), self.tracker(index)) {
            (Some(of_index), _) => of_index.0.warm(&tags),
            (None, Some(tracker)) => tracker.warm(&tags),
            (None, None) => {}
        }
    }

    /// Takes the document to evict from some indexes of one policy, if there is any.
    pub(crate) fn take_victim(&self, among: &[IndexId], newest: Version) -> Option<Resident> {
        // Whoever reads it meanwhile comes too late.
        self.take(self.victim(among, newest)?)
    }

    /// Takes a document that was found to be a victim, accessed since or not.
    pub(crate) fn take(&self, victim: Resident) -> Option<Resident> {
        let slot = self.tracker(victim.index)?.evict(victim.slot.tag)?;
        self.note_taken(victim.index, slot);
        Some(Resident { slot, ..victim })
    }

    /// Takes a document that was found to be a victim, if it was not accessed since.
    pub(crate) fn take_if_unchanged(&self, victim: Resident) -> Option<Resident> {
        let slot = self.tracker(victim.index)?.evict_if_unchanged(victim.slot)?;
        self.note_taken(victim.index, slot);
        Some(Resident { slot, ..victim })
    }

    fn note_taken(&self, index: IndexId, slot: Slot) {
        if let Some(tags) = self.tags(index) {
            tags.remove(slot.tag);
        }
    }

    /// How many documents are remembered of some indexes.
    pub(crate) fn documents(&self, of: &[IndexId]) -> usize {
        of.iter().filter_map(|&index| self.tracker(index)).map(|tracker| tracker.len()).sum()
    }

    /// The document to evict from some indexes of one policy, if there is any.
    pub(crate) fn victim(&self, among: &[IndexId], newest: Version) -> Option<Resident> {
        let trackers: Vec<_> = among
            .iter()
            .filter_map(|&index| Some((index, self.tracker(index)?)))
            .filter(|(_, tracker)| tracker.len() > 0)
            .collect();
        let clock = self.clock.load(Ordering::Relaxed);
        let victim = |(index, tracker): &(IndexId, Arc<Tracker>)| {
            let victim = tracker.victim(clock, newest)?;
            Some((victim.rank, Resident { index: *index, slot: victim.slot }))
        };
        let exact = trackers.first().is_some_and(|(_, tracker)| tracker.policy() == Policy::Ttl);
        let best = if exact || trackers.len() <= INDEXES_SAMPLED {
            trackers.iter().filter_map(victim).max_by_key(|(rank, ..)| *rank)
        } else {
            let total: usize = trackers.iter().map(|(_, tracker)| tracker.len()).sum();
            let by_documents = |_| {
                let mut place = fastrand::usize(..total.max(1));
                trackers.iter().find(|(_, tracker)| {
                    let here = place < tracker.len();
                    place = place.saturating_sub(tracker.len());
                    here
                })
            };
            let drawn = (0..INDEXES_SAMPLED).filter_map(by_documents);
            drawn.filter_map(victim).max_by_key(|(rank, ..)| *rank)
        };
        best.map(|(_, victim)| victim)
    }

    /// Of `ttl`: when the first expires of the documents of some indexes that came, or got another time,
    /// since this was forgotten, which it is now; `u32::MAX` where there is none.
    pub(crate) fn take_soonest_new(&self, among: &[IndexId]) -> u32 {
        let trackers = among.iter().filter_map(|&index| self.tracker(index));
        trackers.map(|tracker| tracker.take_soonest_new()).min().unwrap_or(u32::MAX)
    }

    /// The same, and it is not forgotten.
    pub(crate) fn soonest_new(&self, among: &[IndexId]) -> u32 {
        let trackers = among.iter().filter_map(|&index| self.tracker(index));
        trackers.map(|tracker| tracker.soonest_new()).min().unwrap_or(u32::MAX)
    }

    /// Of `ttl`: the documents of some indexes that expire soonest, some `most` of them, in their order.
    pub(crate) fn soonest(&self, among: &[IndexId], most: usize) -> Vec<Resident> {
        let mut found = Vec::new();
        for &index in among {
            let Some(tracker) = self.tracker(index) else { continue };
            found.extend(tracker.soonest(most).into_iter().map(|slot| Resident { index, slot }));
        }
        found.sort_by_key(Resident::expiry);
        found.truncate(most);
        found
    }

    /// Of `ttl`: takes a document for one that has just come.
    pub(crate) fn note_soonest(&self, victim: Resident) {
        if let Some(tracker) = self.tracker(victim.index) {
            tracker.note_soonest(victim.expiry());
        }
    }

    /// Puts back what was taken and not evicted.
    pub(crate) fn restore(&self, taken: Resident) {
        if let Some(tracker) = self.tracker(taken.index) {
            tracker.restore(taken.slot);
        }
        if let Some(tags) = self.tags(taken.index) {
            tags.add(taken.slot.tag);
        }
    }

    /// Documents of an index that have expired by `now`, in milliseconds since 1970: up to some
    /// `most` of them, not named again unless they are put off.
    pub(crate) fn take_due(&self, index: IndexId, now: u64, most: usize) -> Vec<Tag> {
        self.tracker(index).map_or_else(Vec::new, |tracker| tracker.take_due(now, most))
    }

    /// Documents of an index that have expired by `now`: up to some `most` of them, which are named
    /// until they are removed.
    pub(crate) fn due(&self, index: IndexId, now: u64, most: usize) -> Vec<Tag> {
        self.tracker(index).map_or_else(Vec::new, |tracker| tracker.due(now, most))
    }

    /// Sees to it that an expired document is named again.
    pub(crate) fn put_off(&self, index: IndexId, tag: Tag) {
        if let Some(tracker) = self.tracker(index) {
            tracker.put_off(tag);
        }
    }

    /// The indexes there are.
    pub(crate) fn ids(&self) -> Vec<IndexId> {
        self.indexes.read().keys().copied().collect()
    }

    /// The documents remembered for evictions and times to live, and the bytes that takes; tags do not count.
    pub(crate) fn memory(&self) -> (usize, usize) {
        let mut trackers = Vec::new();
        for of_index in self.indexes.read().values() {
            trackers.extend(of_index.tracker.read().clone());
            trackers.extend(of_index.apart.read().clone());
        }
        let documents = trackers.iter().map(|tracker| tracker.len()).sum();
        (documents, trackers.iter().map(|tracker| tracker.memory()).sum())
    }
}
