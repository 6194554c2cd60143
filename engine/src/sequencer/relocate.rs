//! What the compactor asks of the sequencer: to append once more what is to outlive a segment, and
//! to remove what the shard gave up with its range.

use super::Sequencer;
use crate::command::{IndexId, Outcome};
use crate::compaction::Survivor;
use crate::defect::Defect;
use crate::effect::{Effect, Put, Reason, Remove, Tombstone};
use crate::engine::Completion;
use crate::error::Result;
use crate::index::{Entry, IndexKey};
use crate::log::{Purpose, record};
use crate::shared::LookedUp;
use crate::state::Change;

impl Sequencer {
    pub(super) fn relocate(&mut self, survivors: &[Survivor], done: Completion) {
        let before = self.batch.records;
        let result = self.try_relocate(survivors);
        // What was pending may have been committed on the way.
        self.batch.moved += self.batch.records.saturating_sub(before);
        self.batch.answers.push((done, result.map(|()| Outcome::Done)));
    }

    fn try_relocate(&mut self, survivors: &[Survivor]) -> Result<()> {
        self.shared.poison.check()?;
        self.check_backlog()?;
        let bytes = survivors.iter().map(Survivor::record_bytes).sum();
        self.make_room(bytes, Purpose::Upkeep)?;
        for survivor in survivors {
            let start = self.batch.bytes.len();
            match survivor {
                Survivor::Document { index, key, found, document } => {
                    self.relocate_document(*index, key, *found, document)?;
                }
                Survivor::Tombstone { index, key, version, replaced } => {
                    let (position, key) = (key.position(), key.key());
                    let (index, replaced, reason) = (*index, *replaced, Reason::Asked);
                    let removal = Remove { index, position, replaced, reason, key };
                    self.record(&Effect::Tombstone(Tombstone { version: *version, removal }));
                    self.note_tombstone(start);
                }
            }
            record::seal(&mut self.batch.bytes[start..], self.log.checksum());
        }
        Ok(())
    }

    /// Appends a document that still lies where the compactor found it; its version stays.
    fn relocate_document(
        &mut self,
        index: IndexId,
        key: &IndexKey,
        found: LookedUp,
        document: &[u8],
    ) -> Result<()> {
        if !self.state.indexes.contains_key(&index) {
            return Ok(());
        }
        let current = self.current_again(index, key, found)?;
        let Some(found) = current.filter(|entry| entry.place() == found.0.place()) else {
            return Ok(());
        };
        let mut replaced = self.replaced(&found);
        if self.options.defects.has(Defect::FirstSegmentForgotten) {
            replaced.first_segment = replaced.segment;
        }
        let (segment, offset) = self.next_place();
        let first_segment = replaced.first_segment;
        self.record(&Effect::Put(Put {
            index,
            position: key.position(),
            version: found.version,
            expires_at: found.expires_at,
            replaced: Some(replaced),
            key: key.key(),
            document,
        }));
        let entry = Entry { segment, offset, first_segment, ..found };
        self.change_document((index, key.clone()), Some(entry), Some(replaced), Reason::Asked);
        Ok(())
    }

    /// Counts the removal whose record begins at `start` of the batch.
    pub(super) fn note_tombstone(&mut self, start: usize) {
        let bytes = (self.batch.bytes.len() - start) as u32;
        let (segment, _) = self.log.place();
        self.batch.changes.push(Change::Tombstone { segment, bytes });
    }

    pub(super) fn sweep(&mut self, keys: &[(IndexId, IndexKey)], done: Completion) {
        let result = self.try_sweep(keys);
        self.batch.answers.push((done, result.map(|()| Outcome::Done)));
    }

    /// Removes documents that lie outside the owned ranges.
    fn try_sweep(&mut self, keys: &[(IndexId, IndexKey)]) -> Result<()> {
        self.shared.poison.check()?;
        self.check_backlog()?;
        let bytes = keys.iter().map(|(_, key)| crate::effect::record_bytes(key.key().len()));
        self.make_room(bytes.sum(), Purpose::Upkeep)?;
        for (index, key) in keys {
            let position = key.position();
            if self.state.keeps(position) || !self.state.indexes.contains_key(index) {
                continue;
            }
            if let Some(found) = self.current(*index, key)? {
                let start = self.batch.bytes.len();
                self.remove(*index, key.clone(), &found, Reason::Unowned);
                record::seal(&mut self.batch.bytes[start..], self.log.checksum());
            }
        }
        Ok(())
    }
}
