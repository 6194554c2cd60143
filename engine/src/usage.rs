//! What the segments of the log are used for, by segment: the records of live documents, and
//! removals. All else is garbage.

use std::collections::BTreeMap;

use crate::command::IndexId;
use crate::hash::FastMap;
use crate::index::Entry;
use crate::state::Change;

/// Bytes of records by the number of their segment.
pub(crate) type BySegment = BTreeMap<u32, u64>;

/// What is published, by segment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage {
    /// The records of live documents. By index, for the drop of an index frees what was its own.
    live: FastMap<IndexId, BySegment>,
    /// The records of removals, needed or not.
    pub(crate) tombstones: BySegment,
}

impl Usage {
    /// Of a log with these removals and no documents.
    pub(crate) fn with_tombstones(tombstones: BySegment) -> Self {
        Self { live: FastMap::default(), tombstones }
    }

    /// Counts a live document.
    pub(crate) fn add(&mut self, index: IndexId, entry: &Entry) {
        let of_segment = self.live.entry(index).or_default().entry(entry.segment).or_default();
        *of_segment += entry.record_bytes() as u64;
    }

    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Document { index, entry, replaced, .. } => {
                if let Some(replaced) = replaced
                    && let Some(of_index) = self.live.get_mut(index)
                    && let Some(bytes) = of_index.get_mut(&replaced.segment)
                {
                    *bytes = bytes.saturating_sub(replaced.record_bytes() as u64);
                }
                if let Some(entry) = entry {
                    self.add(*index, entry);
                }
            }
            Change::Tombstone { segment, bytes } => {
                *self.tombstones.entry(*segment).or_default() += u64::from(*bytes);
            }
            Change::Control(crate::effect::Effect::DropIndex(drop)) => {
                self.live.remove(&drop.id);
            }
            Change::Control(_) => {}
        }
    }

    /// Takes over what a recount found to be live.
    pub(crate) fn take_live(&mut self, counted: Self) {
        self.live = counted.live;
    }

    /// The live bytes of each segment that has any.
    pub(crate) fn live(&self) -> BySegment {
        let mut sums = BySegment::new();
        for of_index in self.live.values() {
            for (&segment, bytes) in of_index.iter().filter(|(_, bytes)| **bytes > 0) {
                *sums.entry(segment).or_default() += bytes;
            }
        }
        sums
    }

    /// Forgets a segment that is deleted.
    pub(crate) fn forget(&mut self, segment: u32) {
        self.tombstones.remove(&segment);
        for of_index in self.live.values_mut() {
            of_index.remove(&segment);
        }
    }
}
