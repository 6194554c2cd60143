//! The state that the log amounts to, documents aside: catalogue, assignment, lock and totals.
//!
//! It changes by [`Change`]s only, the same whether they come from the sequencer or from a replay,
//! and is a function of the effects alone. So totals after a crash are exact without a count.

mod buckets;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::buckets::Sums;
pub(crate) use self::buckets::{BUCKETS, Buckets};
use crate::command::{Assignment, Incoming, IndexId, Version};
use crate::effect::{Effect, Reason, Replaced};
use crate::index::{Entry, IndexKey};
use crate::limits::{IndexSettings, Policy};
use crate::residents::Side;

/// How many bins the distribution of documents over the owned ranges has.
pub(crate) const BINS: usize = 5;

/// What all documents of an index come to: the [`Sums`] of a part of the ring, and the versions besides. The manifest
/// has them as they are here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Totals {
    pub(crate) documents: u64,
    /// Of keys and documents.
    pub(crate) bytes: u64,
    /// Of the content hashes, modulo 2^128: the same for the same documents in any order.
    pub(crate) digest: u128,
    /// Of the versions, modulo 2^64: tells a document from an older one of the same content.
    pub(crate) versions: u64,
}

/// What a document adds to totals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) bytes: u32,
    pub(crate) content_hash: u128,
    pub(crate) version: Version,
}

impl From<&Entry> for Share {
    fn from(entry: &Entry) -> Self {
        let Entry { bytes, content_hash, version, .. } = *entry;
        Self { bytes, content_hash: content_hash.into(), version }
    }
}

impl From<&Replaced> for Share {
    fn from(replaced: &Replaced) -> Self {
        let Replaced { bytes, content_hash, version, .. } = *replaced;
        Self { bytes, content_hash: content_hash.into(), version }
    }
}

impl Totals {
    pub(crate) fn add(&mut self, share: Share) {
        // Saturating, as below.
        self.documents = self.documents.saturating_add(1);
        self.bytes = self.bytes.saturating_add(u64::from(share.bytes));
        self.digest = self.digest.wrapping_add(share.content_hash);
        self.versions = self.versions.wrapping_add(share.version);
    }

    fn subtract(&mut self, share: Share) {
        // Saturating, for a log that lies must not bring the process down; the recount at
        // opening finds such totals out.
        self.documents = self.documents.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(u64::from(share.bytes));
        self.digest = self.digest.wrapping_sub(share.content_hash);
        self.versions = self.versions.wrapping_sub(share.version);
    }
}

/// How many documents were removed by the shard itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Removals {
    pub(crate) evicted: u64,
    pub(crate) expired: u64,
}

impl Removals {
    fn note(&mut self, reason: Reason) {
        match reason {
            Reason::Asked | Reason::Unowned => {}
            Reason::Evicted => self.evicted = self.evicted.saturating_add(1),
            Reason::Expired => self.expired = self.expired.saturating_add(1),
        }
    }
}

/// An index of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IndexState {
    pub(crate) name: Arc<str>,
    pub(crate) totals: Totals,
    #[serde(default)]
    pub(crate) settings: IndexSettings,
    #[serde(default)]
    pub(crate) removals: Removals,
    /// Documents by fifths of the owned ranges. Not kept up by a change of the ranges, and not
    /// persisted: whoever applies one, and whoever opens, recounts.
    #[serde(skip)]
    pub(crate) distribution: [u64; BINS],
    /// The bytes of those documents, counted like them.
    #[serde(skip)]
    pub(crate) owned_bytes: u64,
    /// Not persisted either.
    #[serde(skip)]
    pub(crate) buckets: Buckets,
}

impl IndexState {
    /// The bytes and the documents at positions that are owned. The limits of the index are for these: of what
    /// was given up, or is being taken over, another shard has its share.
    pub(crate) fn owned(&self) -> (u64, u64) {
        (self.owned_bytes, saturating_sum(self.distribution.iter().copied()))
    }
}

/// What an effect changes.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// A document was stored, or removed where there is no entry.
    Document {
        index: IndexId,
        key: IndexKey,
        entry: Option<Entry>,
        /// What was there before.
        replaced: Option<Replaced>,
        /// Of a removal.
        reason: Reason,
    },
    /// A removal is recorded, for the first time or once more.
    Tombstone {
        segment: u32,
        /// Of the record.
        bytes: u32,
    },
    /// Any other effect.
    Control(Effect<'static>),
}

/// The state after some LSN.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    pub(crate) indexes: BTreeMap<IndexId, IndexState>,
    ids: HashMap<Arc<str>, IndexId>,
    pub(crate) assignment: Option<Arc<Assignment>>,
    pub(crate) locked_by: Option<String>,
    /// The bytes of all keys and documents.
    pub(crate) used: u64,
    /// The highest id that an index ever had: a second index of an id would be taken for the first.
    pub(crate) highest_index_id: IndexId,
    /// Of all indexes that there ever were.
    pub(crate) removals: Removals,
    /// What is being taken over from another shard.
    pub(crate) incoming: Option<Arc<Incoming>>,
}

impl State {
    pub(crate) fn new(
        indexes: BTreeMap<IndexId, IndexState>,
        assignment: Option<Assignment>,
        locked_by: Option<String>,
        highest_index_id: IndexId,
        removals: Removals,
    ) -> Self {
        let ids = indexes.iter().map(|(&id, index)| (Arc::clone(&index.name), id)).collect();
        let assignment = assignment.map(Arc::new);
        let used = saturating_sum(indexes.values().map(|index| index.totals.bytes));
        let incoming = None;
        Self { indexes, ids, assignment, locked_by, used, highest_index_id, removals, incoming }
    }

    /// How many documents there are.
    pub(crate) fn documents(&self) -> u64 {
        saturating_sum(self.indexes.values().map(|index| index.totals.documents))
    }

    /// Documents by fifths of the owned ranges, in ring order.
    pub(crate) fn distribution(&self) -> [u64; BINS] {
        let mut sums = [0; BINS];
        for index in self.indexes.values() {
            for (sum, count) in sums.iter_mut().zip(index.distribution) {
                *sum += count;
            }
        }
        sums
    }

    /// Takes over the distribution, what is owned and the buckets that a recount came to.
    pub(crate) fn take_distribution(&mut self, counted: &Self) {
        for (id, index) in &mut self.indexes {
            if let Some(counted) = counted.indexes.get(id) {
                index.distribution = counted.distribution;
                index.owned_bytes = counted.owned_bytes;
                index.buckets = counted.buckets.clone();
            }
        }
    }

    /// Whether both have the same indexes with the same totals.
    pub(crate) fn same_totals(&self, other: &Self) -> bool {
        let totals = |state: &Self| -> Vec<_> {
            state
                .indexes
                .iter()
                .map(|(&id, index)| (id, index.name.clone(), index.totals))
                .collect()
        };
        totals(self) == totals(other)
    }

    /// The id of the index of that name.
    pub(crate) fn index_id(&self, name: &str) -> Option<IndexId> {
        self.ids.get(name).copied()
    }

    /// Applies what an effect changes.
    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Document { index, key, entry, replaced, reason } => {
                let bin = self.bin(key.position());
                let Some(of_index) = self.indexes.get_mut(index) else { return };
                of_index.removals.note(*reason);
                self.removals.note(*reason);
                if let Some(replaced) = replaced {
                    of_index.totals.subtract(Share::from(replaced));
                    of_index.buckets.subtract(key.position(), Share::from(replaced));
                    self.used = self.used.saturating_sub(u64::from(replaced.bytes));
                }
                if let Some(entry) = entry {
                    of_index.totals.add(Share::from(entry));
                    of_index.buckets.add(key.position(), Share::from(entry));
                    self.used = self.used.saturating_add(u64::from(entry.bytes));
                }
                if let Some(bin) = bin {
                    let bytes = &mut of_index.owned_bytes;
                    let of = |share: Option<u32>| u64::from(share.unwrap_or(0));
                    *bytes = bytes.saturating_sub(of(replaced.map(|it| it.bytes)));
                    *bytes = bytes.saturating_add(of(entry.map(|it| it.bytes)));
                    let count = &mut of_index.distribution[bin];
                    *count -= u64::from(replaced.is_some()).min(*count);
                    *count += u64::from(entry.is_some());
                }
            }
            Change::Tombstone { .. } => {}
            Change::Control(effect) => self.apply_control(effect),
        }
    }

    fn apply_control(&mut self, effect: &Effect<'static>) {
        match effect {
            Effect::CreateIndex(create) => {
                let name: Arc<str> = create.name.as_str().into();
                self.ids.insert(Arc::clone(&name), create.id);
                let index = IndexState {
                    name,
                    totals: Totals::default(),
                    settings: create.settings,
                    removals: Removals::default(),
                    distribution: [0; BINS],
                    owned_bytes: 0,
                    buckets: Buckets::default(),
                };
                self.indexes.insert(create.id, index);
                self.highest_index_id = self.highest_index_id.max(create.id);
            }
            Effect::SetIndex(set) => {
                if let Some(index) = self.indexes.get_mut(&set.id) {
                    index.settings = set.settings;
                }
            }
            Effect::DropIndex(drop) => {
                if let Some(index) = self.indexes.remove(&drop.id) {
                    self.ids.remove(&index.name);
                    self.used = self.used.saturating_sub(index.totals.bytes);
                }
            }
            Effect::Assign(assignment) => {
                self.assignment = Some(Arc::new(assignment.clone()));
                let is_owned = |incoming: &Arc<Incoming>| {
                    incoming.ranges.iter().all(|&(start, end)| self.owns(start, end))
                };
                // What was being taken over is this shard's now.
                if self.incoming.as_ref().is_some_and(is_owned) {
                    self.incoming = None;
                }
            }
            Effect::Receive(incoming) => self.incoming = Some(Arc::new(incoming.clone())),
            Effect::StopReceiving => self.incoming = None,
            Effect::Lock(lock) => self.locked_by = Some(lock.owner.clone()),
            Effect::Release => self.locked_by = None,
            Effect::SetLimit(set) => {
                if let Some(assignment) = &mut self.assignment {
                    let assignment = Arc::make_mut(assignment);
                    assignment.limit = set.limit;
                    assignment.policy = set.policy.unwrap_or(assignment.policy);
                }
            }
            // Documents come as `Change::Document`.
            Effect::Put(_)
            | Effect::Remove(_)
            | Effect::Tombstone(_)
            | Effect::Skip(_)
            | Effect::Time(_) => {}
        }
    }

    /// Whether all of `[start, end)` is owned.
    pub(crate) fn owns(&self, start: u32, end: u32) -> bool {
        let Some(assignment) = &self.assignment else { return false };
        let mut position = start;
        for &(from, until) in &assignment.ranges {
            if from <= position && position < until {
                position = until;
            }
        }
        position >= end
    }

    /// Whether a part of a bucket is owned.
    pub(crate) fn owns_any_of(&self, bucket: usize) -> bool {
        let (first, end) = (buckets::first_of(bucket), buckets::first_of(bucket + 1));
        let overlaps = |&(start, until): &(u32, u32)| start < end && first < until;
        self.assignment.as_ref().is_some_and(|held| held.ranges.iter().any(overlaps))
    }

    /// Whether a document at a position is to be kept: it is owned, or being taken over.
    pub(crate) fn keeps(&self, position: u32) -> bool {
        self.owns(position, position + 1) || self.is_incoming(position)
    }

    /// Whether documents at a position are being taken over.
    pub(crate) fn is_incoming(&self, position: u32) -> bool {
        let within = |&(start, end): &(u32, u32)| (start..end).contains(&position);
        self.incoming.as_ref().is_some_and(|incoming| incoming.ranges.iter().any(within))
    }

    /// Where a document at a position belongs.
    pub(crate) fn side(&self, position: u32) -> Side {
        if self.owns(position, position + 1) { Side::Owned } else { Side::Apart }
    }

    /// What of `within` is not to be kept, in ring order.
    pub(crate) fn unowned(&self, within: &[(u32, u32)]) -> Vec<(u32, u32)> {
        let owned = self.assignment.as_ref().map_or(&[][..], |assignment| &assignment.ranges);
        let incoming = self.incoming.as_ref().map_or(&[][..], |incoming| &incoming.ranges);
        let mut kept = [owned, incoming].concat();
        kept.sort_unstable();
        let mut rest = Vec::new();
        for &(start, end) in within {
            let mut position = start;
            for &(from, until) in &kept {
                if from > position {
                    rest.push((position, from.min(end)));
                }
                position = position.max(until);
            }
            rest.push((position, end));
        }
        rest.retain(|(start, end)| start < end);
        rest
    }

    /// The limit on bytes; without an assignment nothing may be stored.
    pub(crate) fn limit(&self) -> u64 {
        self.assignment.as_ref().map_or(0, |assignment| assignment.limit)
    }

    /// What becomes of a write to an index for which there is no room.
    pub(crate) fn policy(&self, index: &IndexState) -> Policy {
        let of_shard = || self.assignment.as_ref().map(|assignment| assignment.policy);
        index.settings.policy.or_else(of_shard).unwrap_or_default()
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.assignment.as_ref().map_or(0, |assignment| assignment.epoch)
    }

    /// The fifths of the owned ranges, each as ranges of positions: the inverse of [`State::bin`].
    pub(crate) fn bins(&self) -> [Vec<(u32, u32)>; BINS] {
        let ranges = self.assignment.as_ref().map_or(&[][..], |assignment| &assignment.ranges);
        let width_of = |start: u32, end: u32| u64::from(end.saturating_sub(start));
        let width: u64 = ranges.iter().map(|&(start, end)| width_of(start, end)).sum();
        // The first place, counted over all ranges, of a bin.
        let first = |bin: usize| (bin as u64 * width).div_ceil(BINS as u64);
        std::array::from_fn(|bin| {
            let (from, until) = (first(bin), first(bin + 1));
            let mut before = 0;
            let mut pieces = Vec::new();
            for &(start, end) in ranges {
                let here = before..before + width_of(start, end);
                let (first, last) = (from.max(here.start), until.min(here.end));
                if first < last {
                    let position = |place: u64| start + (place - before) as u32;
                    pieces.push((position(first), position(last)));
                }
                before = here.end;
            }
            pieces
        })
    }

    /// Takes over distributions that were counted, and the bytes of each.
    pub(crate) fn set_distributions(&mut self, counted: &BTreeMap<IndexId, ([u64; BINS], u64)>) {
        for (id, index) in &mut self.indexes {
            (index.distribution, index.owned_bytes) = counted.get(id).copied().unwrap_or_default();
        }
    }

    /// Which fifth of the owned ranges a position lies in.
    pub(crate) fn bin(&self, position: u32) -> Option<usize> {
        let ranges = &self.assignment.as_ref()?.ranges;
        // Saturating, for a range that a damaged manifest turns round owns nothing.
        let width_of = |start: u32, end: u32| u64::from(end.saturating_sub(start));
        let width: u64 = ranges.iter().map(|&(start, end)| width_of(start, end)).sum();
        let mut before = 0;
        for &(start, end) in ranges {
            if (start..end).contains(&position) {
                let place = before + u64::from(position - start);
                return Some((place * BINS as u64 / width) as usize);
            }
            before += width_of(start, end);
        }
        None
    }
}

/// A sum of what a file may lie about.
fn saturating_sum(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_ranges(ranges: &[(u32, u32)]) -> State {
        let assignment = Assignment {
            cluster: "c".to_owned(),
            name: "s".to_owned(),
            hash_method: "md5".to_owned(),
            epoch: 1,
            lineage: 0,
            ranges: ranges.to_vec(),
            limit: 100,
            policy: Policy::Reject,
        };
        State::new(BTreeMap::new(), Some(assignment), None, 0, Removals::default())
    }

    #[test]
    fn ownership_is_of_the_whole_range_over_adjacent_ranges() {
        let state = with_ranges(&[(0, 10), (10, 20), (30, 40)]);
        assert!(state.owns(0, 20));
        assert!(state.owns(39, 40));
        assert!(!state.owns(15, 25));
        assert!(!state.owns(20, 21));
        assert!(!State::default().owns(0, 1));
    }

    #[test]
    fn what_is_not_owned_is_what_lies_between() {
        let state = with_ranges(&[(5, 10), (20, 30)]);
        assert_eq!(state.unowned(&[(0, 50)]), [(0, 5), (10, 20), (30, 50)]);
        assert_eq!(state.unowned(&[(6, 9), (22, 35)]), [(30, 35)]);
        assert_eq!(state.unowned(&[(0, 7), (8, 15)]), [(0, 5), (10, 15)]);
    }

    #[test]
    fn what_is_being_taken_over_is_kept_and_not_owned() {
        let mut state = with_ranges(&[(20, 30)]);
        let incoming =
            Incoming { id: "m".to_owned(), ranges: vec![(5, 10), (30, 32)], note: Vec::new() };
        state.apply(&Change::Control(Effect::Receive(incoming)));
        assert_eq!(state.unowned(&[(0, 50)]), [(0, 5), (10, 20), (32, 50)]);
        assert!(state.keeps(7) && !state.owns(7, 8) && !state.keeps(10));
        let mut owned = state.assignment.as_deref().unwrap().clone();
        owned.ranges = vec![(5, 10), (20, 31)];
        state.apply(&Change::Control(Effect::Assign(owned.clone())));
        assert!(state.incoming.is_some(), "a part of it is owned only");
        owned.ranges = vec![(5, 10), (20, 32)];
        state.apply(&Change::Control(Effect::Assign(owned)));
        assert_eq!(state.incoming, None);
    }

    #[test]
    fn bins_are_fifths_of_what_is_owned() {
        let state = with_ranges(&[(0, 10), (90, 100)]);
        let bins = [0, 3, 4, 9, 90, 95, 99, 50].map(|position| state.bin(position));
        let expected = [Some(0), Some(0), Some(1), Some(2), Some(2), Some(3), Some(4), None];
        assert_eq!(bins, expected);
        for ranges in [&[(0, 10), (90, 100)][..], &[(7, 8)], &[(0, 3), (5, 6), (10, 33)], &[]] {
            let state = with_ranges(ranges);
            let bins = state.bins();
            for position in 0..100 {
                let within = |&(start, end): &(u32, u32)| (start..end).contains(&position);
                let bin = bins.iter().position(|pieces| pieces.iter().any(within));
                assert_eq!(bin, state.bin(position), "{position} of {ranges:?}");
            }
        }
    }
}
