//! Mutations: evaluating them against what is pending and what is stored.

use std::sync::Arc;

use bytes::Bytes;

use super::room::RoomForEvictions;
use super::{Sequencer, Undo};
use crate::clock::has_expired;
use crate::command::{IndexId, Key, Mutation, MutationOutcome, Outcome, Version};
use crate::defect::Defect;
use crate::effect::{self, Effect, Put, Reason, Remove, Replaced};
use crate::error::{Error, Result};
use crate::index::{Entry, IndexKey};
use crate::limits::Expiry;
use crate::log::{Purpose, record};
use crate::residents::Resident;
use crate::shared::LookedUp;
use crate::state::Change;

/// For how many mutations what is looked at is fetched into the processor's cache: some 400 bytes each.
const WARMED_AT_A_TIME: usize = 256;

/// What to go back to when something fails half-way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    bytes: usize,
    records: u64,
    changes: usize,
    undo: usize,
}

/// A document to be put: what its record and its entry say.
pub(super) struct NewDocument<'a> {
    pub(super) index: IndexId,
    pub(super) key: IndexKey,
    pub(super) version: Version,
    pub(super) expires_at: u64,
    pub(super) document: &'a Bytes,
    /// What is there, expired or not.
    pub(super) found: Option<Entry>,
}

impl Sequencer {
    pub(super) fn mutate(&mut self, mutations: &[Mutation], atomic: bool) -> Result<Outcome> {
        if let Some(owner) = &self.state.locked_by {
            return Err(Error::Locked { owner: owner.clone() });
        }
        self.check_backlog()?;
        self.now = self.shared.clock.now();
        // An overwrite counts as growth: it takes room in the log now, and gives some back later.
        let removal = |mutation: &Mutation| matches!(mutation, Mutation::Remove { .. });
        let grows = !mutations.iter().all(removal);
        let purpose = if grows { Purpose::Growth } else { Purpose::Upkeep };
        let mut evictions = if grows { self.evict_beforehand(mutations, atomic)? } else { 0 };
        loop {
            // Room for all: the outcomes of one command stand or fall with one batch.
            let bytes = mutations.iter().map(record_bytes).sum::<usize>() + evictions;
            self.make_room(bytes, purpose)?;
            let mark = self.mark();
            self.room_for_evictions = RoomForEvictions::new(evictions);
            let outcomes = self.evaluate_all(mutations, atomic);
            match self.room_for_evictions.more() {
                Some(more) => evictions = more,
                None => return Ok(Outcome::Mutated(outcomes)),
            }
            self.roll_back(mark);
        }
    }

    fn evaluate_all(&mut self, mutations: &[Mutation], atomic: bool) -> Vec<MutationOutcome> {
        if atomic {
            return self.evaluate_group(mutations);
        }
        let mut outcomes = Vec::with_capacity(mutations.len());
        for some in mutations.chunks(WARMED_AT_A_TIME) {
            self.warm(some);
            outcomes.extend(some.iter().map(|mutation| {
                let start = self.batch.bytes.len();
                let outcome = self.evaluate(mutation);
                record::seal(&mut self.batch.bytes[start..], self.log.checksum());
                outcome
            }));
        }
        outcomes
    }

    /// Has what is looked at for mutations be in the processor's cache: those of the first one's index.
    fn warm(&self, mutations: &[Mutation]) {
        if let [first, _, ..] = mutations {
            let (index, _) = place(first);
            let places = mutations.iter().map(place);
            let keys = places.filter(|(of, _)| *of == index).map(|(_, key)| key);
            self.shared.residents.warm(index, keys);
        }
    }

    /// Evaluates all or none.
    fn evaluate_group(&mut self, mutations: &[Mutation]) -> Vec<MutationOutcome> {
        let mark = self.mark();
        let start = mark.bytes;
        let mut outcomes = Vec::with_capacity(mutations.len());
        for mutation in mutations {
            let begun = self.batch.bytes.len();
            let outcome = self.evaluate(mutation);
            if self.options.defects.has(Defect::BatchSplit) {
                record::seal(&mut self.batch.bytes[begun..], self.log.checksum());
            }
            let done = is_done(&outcome);
            outcomes.push(outcome);
            if !done {
                for outcome in outcomes.iter_mut().filter(|outcome| is_done(outcome)) {
                    *outcome = MutationOutcome::Abandoned;
                }
                outcomes.resize(mutations.len(), MutationOutcome::Abandoned);
                self.roll_back(mark);
                return outcomes;
            }
        }
        record::seal(&mut self.batch.bytes[start..], self.log.checksum());
        outcomes
    }

    /// What is evaluated up to here.
    pub(super) fn mark(&self) -> Mark {
        Mark {
            bytes: self.batch.bytes.len(),
            records: self.batch.records,
            changes: self.batch.changes.len(),
            undo: self.batch.undo.len(),
        }
    }

    /// Takes back all that was evaluated since.
    pub(super) fn roll_back(&mut self, mark: Mark) {
        if self.batch.changes.len() == mark.changes {
            return;
        }
        self.batch.bytes.truncate(mark.bytes);
        self.batch.records = mark.records;
        self.batch.changes.truncate(mark.changes);
        self.undo_to(mark.undo);
        self.state = self.shared.view.read().state.clone();
        for change in &self.batch.changes {
            self.state.apply(change);
        }
        self.batch.pending.clear();
        for change in &self.batch.changes {
            if let Change::Document { index, key, entry, .. } = change {
                self.batch.pending.insert((*index, key.clone()), *entry);
            }
        }
    }

    /// Takes back what the last changes of the batch, from one on, made the residents.
    pub(super) fn undo_to(&mut self, from: usize) {
        let residents = &self.shared.residents;
        for undo in self.batch.undo.drain(from..).rev() {
            let Undo { index, key, before, after, taken } = undo;
            if let Some(taken) = taken {
                residents.restore(taken);
                continue;
            }
            let version = before.map_or(0, |entry| entry.version);
            let expires_at = |entry: Entry| entry.expires_at;
            let side = self.state.side(key.position());
            residents.change((index, side), &key, after, before.map(expires_at), version);
        }
    }

    /// Evaluates a mutation and, where it takes place, adds its effect to the batch.
    fn evaluate(&mut self, mutation: &Mutation) -> MutationOutcome {
        self.try_evaluate(mutation).unwrap_or_else(MutationOutcome::Refused)
    }

    fn try_evaluate(&mut self, mutation: &Mutation) -> Result<MutationOutcome> {
        let (index, key) = place(mutation);
        if !self.state.owns(key.position, key.position + 1) {
            return Err(Error::WrongShard { epoch: self.state.epoch() });
        }
        if self.is_frozen(key.position) {
            return Err(Error::Frozen);
        }
        let Some(of_index) = self.state.indexes.get(&index) else {
            return Err(Error::IndexNotFound(index));
        };
        let ttl = of_index.settings.ttl;
        let key = IndexKey::from(key);
        let found = self.present(index, &key)?;
        let alive = found.filter(|entry| !has_expired(entry.expires_at, self.now));
        let version = alive.map(|entry| entry.version);
        match mutation {
            Mutation::Write { document, condition, expiry, .. } => {
                if !condition.holds(version) {
                    return Ok(MutationOutcome::ConditionFailed(version));
                }
                let bytes = (key.key().len() + document.len()) as u64;
                let found = self.make_way(index, &key, bytes, found)?;
                let version = self.log.next_lsn() + self.batch.records;
                let expires_at = self.expires_at(*expiry, ttl);
                self.put(NewDocument { index, key, version, expires_at, document, found });
                Ok(MutationOutcome::Written(version))
            }
            Mutation::Touch { version: read, document, expiry, .. } => {
                let Some(entry) = alive else { return Ok(MutationOutcome::Missing) };
                let bytes = (key.key().len() + document.len()) as u64;
                if entry.version != *read || u64::from(entry.bytes) != bytes {
                    return Ok(MutationOutcome::ConditionFailed(version));
                }
                let expires_at = self.expires_at(*expiry, ttl);
                let version = entry.version;
                if expires_at != entry.expires_at {
                    self.put(NewDocument { index, key, version, expires_at, document, found });
                }
                Ok(MutationOutcome::Touched(version, expires_at))
            }
            Mutation::Remove { version: wanted, .. } => {
                let Some(entry) = alive else { return Ok(MutationOutcome::Missing) };
                if wanted.is_some() && *wanted != version {
                    return Ok(MutationOutcome::ConditionFailed(version));
                }
                Ok(MutationOutcome::Removed(self.remove(index, key, &entry, Reason::Asked)))
            }
        }
    }

    /// When what is written now expires, in milliseconds since 1970; 0 for never.
    fn expires_at(&self, expiry: Expiry, ttl_of_index: Option<u64>) -> u64 {
        let after = |milliseconds| self.now.saturating_add(milliseconds);
        match expiry {
            Expiry::Default => ttl_of_index.map_or(0, after),
            Expiry::Never => 0,
            Expiry::After(milliseconds) => after(milliseconds),
            Expiry::At(at) => at,
        }
    }

    /// Adds a put to the batch.
    pub(super) fn put(&mut self, new: NewDocument<'_>) {
        let NewDocument { index, key, version, expires_at, document, found } = new;
        let Some(of_index) = self.state.indexes.get(&index) else { return };
        let name = Arc::clone(&of_index.name);
        let content_hash =
            effect::content_hash(&mut self.scratch, &name, key.key(), expires_at, document);
        let replaced = found.map(|entry| self.replaced(&entry));
        let (segment, offset) = self.next_place();
        let entry = Entry {
            segment,
            offset,
            first_segment: replaced.map_or(segment, |replaced| replaced.first_segment),
            bytes: (key.key().len() + document.len()) as u32,
            version,
            expires_at,
            content_hash: content_hash.into(),
        };
        self.record(&Effect::Put(Put {
            index,
            position: key.position(),
            version,
            expires_at,
            replaced,
            key: key.key(),
            document,
        }));
        let residents = &self.shared.residents;
        let side = self.state.side(key.position());
        match found {
            Some(found) if found.version == version => {
                residents.change_expiry((index, side), &key, found.expires_at, expires_at);
            }
            _ => {
                let before = found.map(|found| found.expires_at);
                residents.change((index, side), &key, before, Some(expires_at), version);
            }
        }
        let undo =
            Undo { index, key: key.clone(), before: found, after: Some(expires_at), taken: None };
        self.batch.undo.push(undo);
        self.change_document((index, key), Some(entry), replaced, Reason::Asked);
    }

    /// Adds the removal of a document to the batch, and returns its LSN.
    pub(super) fn remove(
        &mut self,
        index: IndexId,
        key: IndexKey,
        found: &Entry,
        reason: Reason,
    ) -> Version {
        let side = self.state.side(key.position());
        self.shared.residents.change((index, side), &key, Some(found.expires_at), None, 0);
        self.record_removal((index, key), found, reason, None)
    }

    /// Adds the removal of a document to the batch that the residents have forgotten already.
    pub(super) fn remove_taken(&mut self, taken: Resident, key: IndexKey, found: &Entry) {
        self.record_removal((taken.index, key), found, Reason::Evicted, Some(taken));
    }

    fn record_removal(
        &mut self,
        (index, key): (IndexId, IndexKey),
        found: &Entry,
        reason: Reason,
        taken: Option<Resident>,
    ) -> Version {
        let lsn = self.log.next_lsn() + self.batch.records;
        let start = self.batch.bytes.len();
        let replaced = self.replaced(found);
        let (position, of_key) = (key.position(), key.key());
        self.record(&Effect::Remove(Remove { index, position, replaced, reason, key: of_key }));
        self.note_tombstone(start);
        let undo = Undo { index, key: key.clone(), before: Some(*found), after: None, taken };
        self.batch.undo.push(undo);
        self.change_document((index, key), None, Some(replaced), reason);
        lsn
    }

    /// The entry of a key after all that was evaluated, expired or not. Only while no victim is taken
    /// that is not removed.
    fn present(&self, index: IndexId, key: &IndexKey) -> Result<Option<Entry>> {
        // Of new keys, the residents tell it for less than overlay and index take.
        if self.shared.residents.lacks(index, key) {
            debug_assert!(
                !matches!(self.current(index, key), Ok(Some(_))),
                "residents lack {key:?}"
            );
            return Ok(None);
        }
        self.current(index, key)
    }

    /// The entry of a key after all that was evaluated, expired or not.
    pub(super) fn current(&self, index: IndexId, key: &IndexKey) -> Result<Option<Entry>> {
        match self.batch.pending.get(&(index, key.clone())) {
            Some(entry) => Ok(*entry),
            None => self.shared.entry(index, key),
        }
    }

    /// The same of a key that was looked up before.
    pub(super) fn current_again(
        &self,
        index: IndexId,
        key: &IndexKey,
        (before, drops): LookedUp,
    ) -> Result<Option<Entry>> {
        match self.batch.pending.get(&(index, key.clone())) {
            Some(entry) => Ok(*entry),
            None => self.shared.look_up_again(index, key, (Some(before), drops)),
        }
    }

    /// What an effect says of the document that it replaces.
    pub(super) fn replaced(&self, entry: &Entry) -> Replaced {
        // Segments before the first one there is hold nothing any more.
        let first_segment = entry.first_segment.max(self.shared.segments.first());
        Replaced { first_segment, ..Replaced::from(entry) }
    }

    /// Where the next record of the batch will lie: segment and offset.
    pub(super) fn next_place(&self) -> (u32, u32) {
        let (segment, batch_start) = self.log.place();
        (segment, batch_start + self.batch.bytes.len() as u32)
    }

    pub(super) fn change_document(
        &mut self,
        (index, key): (IndexId, IndexKey),
        entry: Option<Entry>,
        replaced: Option<Replaced>,
        reason: Reason,
    ) {
        let change = Change::Document { index, key: key.clone(), entry, replaced, reason };
        self.state.apply(&change);
        self.batch.changes.push(change);
        self.batch.pending.insert((index, key), entry);
    }
}

/// The index and the key that a mutation is about.
fn place(mutation: &Mutation) -> (IndexId, &Key) {
    match mutation {
        Mutation::Write { index, key, .. }
        | Mutation::Touch { index, key, .. }
        | Mutation::Remove { index, key, .. } => (*index, key),
    }
}

fn is_done(outcome: &MutationOutcome) -> bool {
    use MutationOutcome::{Removed, Touched, Written};
    matches!(outcome, Written(_) | Touched(..) | Removed(_))
}

/// The bytes that the record of a mutation may take.
fn record_bytes(mutation: &Mutation) -> usize {
    match mutation {
        Mutation::Write { key, document, .. } | Mutation::Touch { key, document, .. } => {
            effect::record_bytes(key.bytes.len() + document.len())
        }
        Mutation::Remove { key, .. } => effect::record_bytes(key.bytes.len()),
    }
}
