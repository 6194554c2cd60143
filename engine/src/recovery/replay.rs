//! Replaying the log: record by record to a state.

use std::sync::Arc;

use super::log::Log;
use crate::effect::{self, Effect, Put, Reason, Remove, Replaced, Tombstone};
use crate::error::{Error, Result};
use crate::index::{Entry, Index, IndexKey};
use crate::log::{Located, Lsn, Segment, SegmentEnd, Segments, record};
use crate::overlay::Overlay;
use crate::read::{self, Recount};
use crate::residents::Residents;
use crate::shared::View;
use crate::state::Change;

/// A state that grows by the records of the log.
pub(crate) struct Replay {
    pub(crate) view: View,
    pub(super) records: u64,
    pub(super) scratch: Vec<u8>,
    /// Asked what was there before, only by [`Defect::TotalsFromIndex`].
    pub(super) believed: Option<Arc<dyn Index>>,
    /// [`Defect::OlderRecordWins`].
    pub(super) older_wins: bool,
}

impl Replay {
    pub(crate) fn new(view: View) -> Self {
        Self { view, records: 0, scratch: Vec::new(), believed: None, older_wins: false }
    }

    /// Takes a record before the checkpoint: places its document, and leaves the state, which is
    /// the manifest's, as it is. The records before may have been deleted, and so may the index.
    pub(super) fn place(
        &mut self,
        segment: &Segment,
        located: Located<'_>,
        index: &dyn Index,
        segments: &Segments,
    ) -> Result<()> {
        let (id, key, entry) = match decode(segment, located)? {
            // Of the records of a key, each is newer than the ones before it, or the same moved.
            Effect::Put(put) => {
                let Some(of_index) = self.view.state.indexes.get(&put.index) else {
                    return Ok(());
                };
                let name = Arc::clone(&of_index.name);
                let entry = self.entry(segment, located, &put, &name);
                (put.index, IndexKey::new(put.position, put.key), Some(entry))
            }
            Effect::Remove(removal) => {
                (removal.index, IndexKey::new(removal.position, removal.key), None)
            }
            // Only a tombstone may come after newer ones: it was moved behind them.
            Effect::Tombstone(Tombstone { version, removal }) => {
                let key = IndexKey::new(removal.position, removal.key);
                let found = match self.view.overlay.get(removal.index, &key) {
                    Some(entry) => entry,
                    None => index.get(removal.index, key.as_bytes())?,
                };
                // A version may be older than the record, which came from another shard: it is the
                // record that came before the removal or after it.
                let came_after = |entry: Entry| {
                    Ok(entry.version > version || lsn_at(segments, &entry)? > version)
                };
                if found.map_or(Ok(true), came_after)? {
                    return Ok(());
                }
                (removal.index, key, None)
            }
            _ => return Ok(()),
        };
        let held = || self.view.overlay.get(id, &key).flatten().is_some();
        if self.older_wins && entry.is_some() && held() {
            return Ok(());
        }
        if self.view.state.indexes.contains_key(&id) {
            self.view.overlay.put(id, key, entry);
        }
        self.records += 1;
        Ok(())
    }

    /// Counts the documents, and makes the residents remember them.
    pub(super) fn recount(
        &self,
        index: &dyn Index,
        log: &Log,
        end: Option<&(Arc<Segment>, SegmentEnd)>,
        residents: &Residents,
    ) -> Result<Recount> {
        let state = &self.view.state;
        residents.keep_only(|id| state.indexes.contains_key(&id));
        for (&id, of_index) in &state.indexes {
            residents.begin(id, state.policy(of_index));
        }
        let newest = end.map_or(0, |(_, end)| end.next_lsn - 1);
        read::recount(&self.view, index, &log.segments, |id, key, entry| {
            residents.fill((id, state.side(key.position())), key, entry, newest);
        })
    }

    /// Takes a record after the checkpoint.
    pub(crate) fn apply(&mut self, segment: &Segment, located: Located<'_>) -> Result<()> {
        let tombstone =
            Change::Tombstone { segment: segment.number, bytes: located.record.length as u32 };
        let change = match decode(segment, located)? {
            Effect::Put(put) => {
                let index = self.view.state.indexes.get(&put.index).ok_or_else(|| {
                    let what = "a document of an unknown index";
                    Error::corrupt(&segment.path, located.offset as usize, what)
                })?;
                let name = Arc::clone(&index.name);
                let entry = Some(self.entry(segment, located, &put, &name));
                let key = IndexKey::new(put.position, put.key);
                let (index, replaced) = (put.index, put.replaced);
                Change::Document { index, key, entry, replaced, reason: Reason::Asked }
            }
            Effect::Remove(Remove { index, position, replaced, reason, key }) => {
                self.view.apply(tombstone);
                let key = IndexKey::new(position, key);
                Change::Document { index, key, entry: None, replaced: Some(replaced), reason }
            }
            Effect::Tombstone(_) => tombstone,
            Effect::CreateIndex(fields) => Change::Control(Effect::CreateIndex(fields)),
            Effect::SetIndex(fields) => Change::Control(Effect::SetIndex(fields)),
            Effect::DropIndex(fields) => Change::Control(Effect::DropIndex(fields)),
            Effect::Assign(fields) => Change::Control(Effect::Assign(fields)),
            Effect::Lock(fields) => Change::Control(Effect::Lock(fields)),
            Effect::Release => Change::Control(Effect::Release),
            Effect::SetLimit(fields) => Change::Control(Effect::SetLimit(fields)),
            Effect::Skip(next) => Change::Control(Effect::Skip(next)),
            Effect::Receive(fields) => Change::Control(Effect::Receive(fields)),
            Effect::StopReceiving => Change::Control(Effect::StopReceiving),
            Effect::Time(time) => Change::Control(Effect::Time(time)),
        };
        let change = match &self.believed {
            Some(index) => believe(index.as_ref(), &self.view.overlay, change)?,
            None => change,
        };
        self.view.apply(change);
        self.records += 1;
        Ok(())
    }

    /// The entry of a put.
    pub(super) fn entry(
        &mut self,
        segment: &Segment,
        located: Located<'_>,
        put: &Put<'_>,
        index_name: &str,
    ) -> Entry {
        let Put { key, document, expires_at, version, .. } = *put;
        let scratch = &mut self.scratch;
        let content_hash = effect::content_hash(scratch, index_name, key, expires_at, document);
        Entry {
            segment: segment.number,
            offset: located.offset,
            first_segment: put.replaced.map_or(segment.number, |replaced| replaced.first_segment),
            bytes: (key.len() + document.len()) as u32,
            version,
            expires_at,
            content_hash: content_hash.into(),
        }
    }
}

/// The LSN of the record that an entry points to.
fn lsn_at(segments: &Segments, entry: &Entry) -> Result<Lsn> {
    let segment = segments.get(entry.segment).ok_or_else(|| {
        let what = format!("an entry points to segment {}, which is gone", entry.segment);
        Error::Index(what.into())
    })?;
    record::lsn_at(segment.file.as_ref(), entry.offset)
        .map_err(|error| Error::io("read a record", &segment.path, error))
}

pub(super) fn decode<'a>(segment: &Segment, located: Located<'a>) -> Result<Effect<'a>> {
    let Located { offset, record } = located;
    Effect::decode(record.kind, record.payload)
        .map_err(|what| Error::corrupt(&segment.path, offset as usize, what))
}

/// A change that replaces what the index says.
fn believe(index: &dyn Index, overlay: &Overlay, change: Change) -> Result<Change> {
    let Change::Document { index: id, key, entry, reason, .. } = change else { return Ok(change) };
    let held = match overlay.get(id, &key) {
        Some(held) => held,
        None => index.get(id, key.as_bytes())?,
    };
    let replaced = held.as_ref().map(Replaced::from);
    Ok(Change::Document { index: id, key, entry, replaced, reason })
}
