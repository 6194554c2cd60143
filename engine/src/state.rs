//! The state that the log amounts to, documents aside: catalogue, assignment, lock and totals.
//!
//! It changes by [`Change`]s only, the same whether they come from the sequencer or from a replay,
//! and is a function of the effects alone. So totals after a crash are exact without a count.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::command::{Assignment, IndexId};
use crate::effect::Effect;
use crate::index::{Entry, IndexKey};

/// How many bins the distribution of documents over the owned ranges has.
pub(crate) const BINS: usize = 5;

/// Sums over documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Totals {
    pub(crate) documents: u64,
    /// Of keys and documents.
    pub(crate) bytes: u64,
    /// Of the content hashes, modulo 2^128: the same for the same documents in any order.
    pub(crate) digest: u128,
}

impl Totals {
    pub(crate) fn add(&mut self, bytes: u64, content_hash: u128) {
        self.documents += 1;
        self.bytes += bytes;
        self.digest = self.digest.wrapping_add(content_hash);
    }

    pub(crate) fn subtract(&mut self, bytes: u64, content_hash: u128) {
        // Saturating, for a log that lies must not bring the process down; the recount at
        // opening finds such totals out.
        self.documents = self.documents.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.digest = self.digest.wrapping_sub(content_hash);
    }
}

/// An index of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IndexState {
    pub(crate) name: Arc<str>,
    pub(crate) totals: Totals,
}

/// What an effect changes.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// A document was stored, or removed where there is no entry.
    Document {
        index: IndexId,
        key: IndexKey,
        entry: Option<Entry>,
        /// Bytes and content hash of what was there before.
        replaced: Option<(u32, u128)>,
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
    pub(crate) totals: Totals,
    /// Documents by fifths of the owned ranges. Not kept up by a change of the ranges: whoever
    /// applies one recounts.
    pub(crate) distribution: [u64; BINS],
}

impl State {
    pub(crate) fn new(
        indexes: BTreeMap<IndexId, IndexState>,
        assignment: Option<Assignment>,
        locked_by: Option<String>,
        totals: Totals,
    ) -> Self {
        let ids = indexes.iter().map(|(&id, index)| (Arc::clone(&index.name), id)).collect();
        let assignment = assignment.map(Arc::new);
        Self { indexes, ids, assignment, locked_by, totals, distribution: [0; BINS] }
    }

    /// The id of the index of that name.
    pub(crate) fn index_id(&self, name: &str) -> Option<IndexId> {
        self.ids.get(name).copied()
    }

    /// Applies what an effect changes.
    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Document { index, key, entry, replaced } => {
                let bin = self.bin(key.position());
                let Some(of_index) = self.indexes.get_mut(index) else { return };
                for totals in [&mut self.totals, &mut of_index.totals] {
                    if let Some((bytes, content_hash)) = *replaced {
                        totals.subtract(u64::from(bytes), content_hash);
                    }
                    if let Some(entry) = entry {
                        totals.add(u64::from(entry.bytes), entry.content_hash);
                    }
                }
                if let Some(bin) = bin {
                    let count = &mut self.distribution[bin];
                    *count -= u64::from(replaced.is_some()).min(*count);
                    *count += u64::from(entry.is_some());
                }
            }
            Change::Control(effect) => self.apply_control(effect),
        }
    }

    fn apply_control(&mut self, effect: &Effect<'static>) {
        match effect {
            Effect::CreateIndex(create) => {
                let name: Arc<str> = create.name.as_str().into();
                self.ids.insert(Arc::clone(&name), create.id);
                self.indexes.insert(create.id, IndexState { name, totals: Totals::default() });
            }
            Effect::DropIndex(drop) => {
                if let Some(index) = self.indexes.remove(&drop.id) {
                    self.ids.remove(&index.name);
                    let Totals { documents, bytes, digest } = index.totals;
                    self.totals.documents = self.totals.documents.saturating_sub(documents);
                    self.totals.bytes = self.totals.bytes.saturating_sub(bytes);
                    self.totals.digest = self.totals.digest.wrapping_sub(digest);
                }
            }
            Effect::Assign(assignment) => self.assignment = Some(Arc::new(assignment.clone())),
            Effect::Lock(lock) => self.locked_by = Some(lock.owner.clone()),
            Effect::Release => self.locked_by = None,
            Effect::SetLimit(set) => {
                if let Some(assignment) = &mut self.assignment {
                    Arc::make_mut(assignment).limit = set.limit;
                }
            }
            // Documents come as `Change::Document`.
            Effect::Put(_) | Effect::Remove(_) => {}
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

    /// The limit on bytes; without an assignment nothing may be stored.
    pub(crate) fn limit(&self) -> u64 {
        self.assignment.as_ref().map_or(0, |assignment| assignment.limit)
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.assignment.as_ref().map_or(0, |assignment| assignment.epoch)
    }

    /// Which fifth of the owned ranges a position lies in.
    pub(crate) fn bin(&self, position: u32) -> Option<usize> {
        let ranges = &self.assignment.as_ref()?.ranges;
        let width: u64 = ranges.iter().map(|&(start, end)| u64::from(end - start)).sum();
        let mut before = 0;
        for &(start, end) in ranges {
            if (start..end).contains(&position) {
                let place = before + u64::from(position - start);
                return Some((place * BINS as u64 / width) as usize);
            }
            before += u64::from(end - start);
        }
        None
    }
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
            ranges: ranges.to_vec(),
            limit: 100,
        };
        State::new(BTreeMap::new(), Some(assignment), None, Totals::default())
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
    fn bins_are_fifths_of_what_is_owned() {
        let state = with_ranges(&[(0, 10), (90, 100)]);
        let bins = [0, 3, 4, 9, 90, 95, 99, 50].map(|position| state.bin(position));
        let expected = [Some(0), Some(0), Some(1), Some(2), Some(2), Some(3), Some(4), None];
        assert_eq!(bins, expected);
    }
}
