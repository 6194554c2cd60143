//! The documents that the log amounts to, at the checkpoint and since.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use crate::command::IndexId;
use crate::effect::{self, Effect, Replaced, Tombstone};
use crate::index::{Entry, IndexKey};
use crate::log::Lsn;
use crate::manifest::Manifest;
use crate::state::{Share, Totals};

use super::log::Place;
use super::{Fault, Faults};

/// The documents of a part of the ring.
pub(super) struct LiveSet {
    checkpoint: Lsn,
    part: Range<u32>,
    /// The names of the indexes: the manifest's, and those created since and not dropped.
    names: HashMap<IndexId, Arc<str>>,
    tables: HashMap<IndexId, HashMap<IndexKey, Slot>>,
    /// Whether each state since the checkpoint is of use: an index may have any of them.
    every_state: bool,
    scratch: Vec<u8>,
}

/// What is known of a key.
#[derive(Default)]
pub(super) struct Slot {
    /// The LSN of the record that it was found in, up to the checkpoint; of a removal that is repeated,
    /// that of the removal.
    lsn: Lsn,
    at_checkpoint: Option<Entry>,
    /// What came after the checkpoint; the last of it where nothing else is of use.
    since: Vec<Option<Entry>>,
    /// The index has an entry of the key.
    pub(super) seen: bool,
}

impl Slot {
    /// The state at the end of the log.
    pub(super) fn last(&self) -> Option<&Entry> {
        self.since.last().unwrap_or(&self.at_checkpoint).as_ref()
    }

    /// Whether the index may have this entry, or with `None` may have none.
    pub(super) fn allows(&self, entry: Option<&Entry>) -> bool {
        self.at_checkpoint.as_ref() == entry
            || self.since.iter().any(|state| state.as_ref() == entry)
    }
}

impl LiveSet {
    pub(super) fn new(manifest: &Manifest, part: Range<u32>) -> Self {
        let names = manifest.indexes.iter().map(|(&id, index)| (id, Arc::clone(&index.name)));
        Self {
            checkpoint: manifest.checkpoint_lsn,
            part,
            names: names.collect(),
            tables: HashMap::new(),
            every_state: true,
            scratch: Vec::new(),
        }
    }

    /// Knows only the state at the checkpoint and the last one: a key that is written again and again since
    /// takes no more memory than another.
    pub(super) fn of_the_last_state(self) -> Self {
        Self { every_state: false, ..self }
    }

    pub(super) fn part(&self) -> Range<u32> {
        self.part.clone()
    }

    /// The indexes at the end of the log.
    pub(super) fn indexes(&self) -> impl Iterator<Item = (IndexId, &Arc<str>)> {
        self.names.iter().map(|(&id, name)| (id, name))
    }

    /// The keys of an index that a record was found of.
    pub(super) fn table_mut(&mut self, index: IndexId) -> &mut HashMap<IndexKey, Slot> {
        self.tables.entry(index).or_default()
    }

    /// Takes the next record of the log.
    pub(super) fn apply(
        &mut self,
        place: &Place<'_>,
        effect: &Effect<'_>,
        faults: &mut Faults<'_>,
    ) {
        let lsn = place.located.record.lsn;
        match effect {
            Effect::Put(put) if self.part.contains(&put.position) => {
                let Some(name) = self.names.get(&put.index) else {
                    return self.check_index(place, faults);
                };
                let entry = Entry {
                    segment: place.segment,
                    offset: place.located.offset,
                    first_segment: put
                        .replaced
                        .map_or(place.segment, |replaced| replaced.first_segment),
                    bytes: (put.key.len() + put.document.len()) as u32,
                    version: put.version,
                    expires_at: put.expires_at,
                    content_hash: effect::content_hash(
                        &mut self.scratch,
                        name,
                        put.key,
                        put.expires_at,
                        put.document,
                    )
                    .into(),
                };
                let key = (put.index, IndexKey::new(put.position, put.key));
                self.set(place, key, lsn, Some(entry), put.replaced.as_ref(), faults);
            }
            Effect::Remove(removal) if self.part.contains(&removal.position) => {
                if !self.names.contains_key(&removal.index) {
                    return self.check_index(place, faults);
                }
                let key = (removal.index, IndexKey::new(removal.position, removal.key));
                self.set(place, key, lsn, None, Some(&removal.replaced), faults);
            }
            // A removal before the checkpoint once more. Since then, it changes nothing.
            Effect::Tombstone(Tombstone { version, removal })
                if self.part.contains(&removal.position)
                    && lsn <= self.checkpoint
                    && self.names.contains_key(&removal.index) =>
            {
                let key = (removal.index, IndexKey::new(removal.position, removal.key));
                self.set(place, key, *version, None, Some(&removal.replaced), faults);
            }
            // Up to the checkpoint the manifest has the catalogue.
            Effect::CreateIndex(create) if lsn > self.checkpoint => {
                self.names.insert(create.id, create.name.as_str().into());
            }
            Effect::DropIndex(drop) if lsn > self.checkpoint => {
                self.names.remove(&drop.id);
            }
            _ => {}
        }
    }

    /// Up to the checkpoint a record may be of an index that was dropped since.
    fn check_index(&self, place: &Place<'_>, faults: &mut Faults<'_>) {
        if place.located.record.lsn > self.checkpoint && !place.behind_gap {
            let what = "a document of an unknown index";
            faults.add(Fault::new(place.path, u64::from(place.located.offset), what));
        }
    }

    fn set(
        &mut self,
        place: &Place<'_>,
        (index, key): (IndexId, IndexKey),
        lsn: Lsn,
        entry: Option<Entry>,
        replaced: Option<&Replaced>,
        faults: &mut Faults<'_>,
    ) {
        let slot = self.tables.entry(index).or_default().entry(key).or_default();
        if place.located.record.lsn <= self.checkpoint {
            // Only a removal that is repeated may come after newer ones.
            if lsn >= slot.lsn {
                slot.lsn = lsn;
                slot.at_checkpoint = entry;
            }
            return;
        }
        let before = slot.last().map(|entry| (entry.segment, Share::from(entry)));
        let said = replaced.map(|replaced| (replaced.segment, Share::from(replaced)));
        if before != said && !place.behind_gap {
            let show = |state: Option<(u32, Share)>| match state {
                Some((segment, share)) => {
                    format!("version {} in segment {segment}", share.version)
                }
                None => "nothing".to_owned(),
            };
            let what = format!(
                "the record says that it replaced {}, there was {}",
                show(said),
                show(before)
            );
            faults.add(Fault::new(place.path, u64::from(place.located.offset), what));
        }
        if !self.every_state {
            slot.since.clear();
        }
        // Most keys are written once.
        if slot.since.is_empty() {
            slot.since.reserve_exact(1);
        }
        slot.since.push(entry);
    }
}

/// What the documents add up to.
#[derive(Default)]
pub(super) struct AllTotals {
    pub(super) at_checkpoint: BTreeMap<IndexId, Totals>,
    /// Of all indexes.
    pub(super) at_end: Totals,
}

impl AllTotals {
    /// Adds a part of the ring.
    pub(super) fn add(&mut self, live: &LiveSet) {
        for (&id, table) in &live.tables {
            let at_checkpoint = self.at_checkpoint.entry(id).or_default();
            for slot in table.values() {
                if let Some(entry) = &slot.at_checkpoint {
                    at_checkpoint.add(Share::from(entry));
                }
                if let Some(entry) = slot.last()
                    && live.names.contains_key(&id)
                {
                    self.at_end.add(Share::from(entry));
                }
            }
        }
    }
}
