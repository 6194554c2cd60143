//! Limits, and what makes room when they are met.
//!
//! A write that would go over a limit of its index or of the shard makes room first: expired
//! documents go, then those that the policy names, each by a removal in the batch of the write and
//! before it. So what is used exceeds no limit at any LSN.
//!
//! The limits of an index are for its documents at owned positions; that of the shard is for all that it
//! stores, for it is about the disk. Victims are always owned: what was given up goes by itself, and what
//! arrives is another's still.
//!
//! Who makes room for whom: an index with a policy or a limit of its own does so for itself alone,
//! and those without share the shard's policy and make room for each other. So a cache evicts
//! nothing of an index whose policy is `reject`.

use std::collections::BTreeMap;

use super::Sequencer;
use crate::clock::has_expired;
use crate::command::{IndexId, Mutation, Outcome, Version};
use crate::defect::Defect;
use crate::effect::{self, Reason};
use crate::engine::Completion;
use crate::error::{Error, Result};
use crate::index::{Entry, IndexKey};
use crate::limits::{IndexSettings, Policy};
use crate::log::{Purpose, record};
use crate::residents::{Resident, Residents, Tag};
use crate::scout::Candidate;
use crate::shared::LookedUp;

/// How many documents are evicted with one batch where a limit is lowered.
const EVICTIONS_AT_A_TIME: usize = 256;

/// What the record of an eviction takes at most.
const EVICTION_BYTES: usize = 1024 + 128;

/// The bytes that evictions for one command may take in its batch, by how many they are about; more
/// are made in batches of their own beforehand.
const MOST_EVICTION_BYTES: usize = 1024 * 1024;

/// The bytes that they may take where they turn out to be more than that: victims may be much smaller
/// than the mean document.
const MOST_ROOM_FOR_EVICTIONS: usize = 16 * 1024 * 1024;

/// After so many victims that must stay, for their range is frozen on its way to another shard, there is
/// taken to be none to evict.
const MOST_SPARED: usize = 1000;

/// From so many documents on victims are found beforehand. The scout takes none, and finds the first
/// of a leaf each time that it looks there: of fewer leaves it would find the same ones again.
const SCOUTED_DOCUMENTS: usize = 10_000;

/// The bytes that the batch still has for the evictions of a command.
#[derive(Default)]
pub(super) struct RoomForEvictions {
    /// As it began.
    reserved: usize,
    left: usize,
    /// It was not enough.
    exceeded: bool,
}

impl RoomForEvictions {
    pub(super) fn new(reserved: usize) -> Self {
        Self { reserved, left: reserved, exceeded: false }
    }

    /// With how much to try again; `None` where it was enough, or as much as there may be.
    pub(super) fn more(&self) -> Option<usize> {
        let more = (self.reserved * 4).clamp(EVICTION_BYTES * 4, MOST_ROOM_FOR_EVICTIONS);
        (self.exceeded && self.reserved < MOST_ROOM_FOR_EVICTIONS).then_some(more)
    }
}

/// Which limit is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shortage {
    /// Of the bytes of the shard. As long as more is used than the limit, so much is allowed.
    Shard { used: u64, limit: u64, allowed: u64, needed: u64 },
    /// Of the bytes or the documents of the index.
    Index { id: IndexId, what: Measure, used: u64, limit: u64, allowed: u64, needed: u64 },
}

/// What a limit of an index counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    Bytes,
    Documents,
}

impl Shortage {
    pub(super) fn error(self) -> Error {
        match self {
            Self::Shard { used, limit, needed, .. } => Error::QuotaExceeded { used, limit, needed },
            Self::Index { id, what, used, limit, needed, .. } => {
                let what = match what {
                    Measure::Bytes => "bytes",
                    Measure::Documents => "documents",
                };
                Error::IndexFull { id, what, used, limit, needed }
            }
        }
    }

    fn is_of_bytes(self) -> bool {
        !matches!(self, Self::Index { what: Measure::Documents, .. })
    }

    /// Whether there would be room for so many bytes were all else gone, what is replaced included.
    fn can_be_met(self, bytes: u64) -> bool {
        let (Self::Shard { limit, needed, .. } | Self::Index { limit, needed, .. }) = self;
        if self.is_of_bytes() { bytes <= limit } else { needed <= limit }
    }
}

impl Sequencer {
    /// Makes room for a document of so many bytes, key included, in the place of what is found.
    /// Returns what is found then: an expired document may have been removed.
    pub(super) fn make_way(
        &mut self,
        index: IndexId,
        key: &IndexKey,
        bytes: u64,
        mut found: Option<Entry>,
    ) -> Result<Option<Entry>> {
        let mut spared = Vec::new();
        let mark = self.mark();
        let made = loop {
            let replaced = found.map_or(0, |entry| u64::from(entry.bytes));
            let documents = u64::from(found.is_none());
            let Some(shortage) = self.shortage(index, bytes, replaced, documents) else {
                break Ok(());
            };
            if !shortage.can_be_met(bytes) {
                break Err(shortage.error());
            }
            if self.room_for_evictions.left < EVICTION_BYTES {
                self.room_for_evictions.exceeded = true;
                break Err(shortage.error());
            }
            let begun = self.batch.bytes.len();
            match self.evict(index, shortage, Some(key), &mut spared) {
                Ok(true) => {
                    if self.options.defects.has(Defect::EvictionSplit) {
                        record::seal(&mut self.batch.bytes[begun..], self.log.checksum());
                    }
                    self.room_for_evictions.left -= self.batch.bytes.len() - begun;
                    // Expired, it may have been what went.
                    if let Some(&entry) = self.batch.pending.get(&(index, key.clone())) {
                        found = entry;
                    }
                }
                Ok(false) => break Err(shortage.error()),
                Err(error) => break Err(error),
            }
        };
        for taken in spared {
            self.shared.residents.restore(taken);
        }
        if made.is_err() {
            // What is refused evicts nothing.
            self.roll_back(mark);
            if self.room_for_evictions.more().is_none() {
                self.shared.residents.note_rejected(index);
            }
        }
        made.map(|()| found)
    }

    /// Which limit would be exceeded by a document of so many bytes in the place of one of
    /// `replaced` bytes. What takes no more than it gives back is never refused.
    fn shortage(
        &self,
        index: IndexId,
        bytes: u64,
        replaced: u64,
        documents: u64,
    ) -> Option<Shortage> {
        let of_index = self.state.indexes.get(&index)?;
        let needed = bytes.saturating_sub(replaced);
        let (settings, may_be_over) = self.settings_for_writes(index, of_index);
        let (owned_bytes, owned_documents) = of_index.owned();
        let limits = [
            (Measure::Bytes, owned_bytes, needed, settings.max_bytes),
            (Measure::Documents, owned_documents, documents, settings.max_documents),
        ];
        for (what, used, needed, limit) in limits {
            let Some(limit) = limit else { continue };
            let allowed = if may_be_over { limit.max(used) } else { limit };
            if needed > 0 && used + needed > allowed {
                return Some(Shortage::Index { id: index, what, used, limit, allowed, needed });
            }
        }
        let (limit, may_be_over) = self.limit_for_writes();
        let used = self.state.used;
        let allowed = if may_be_over { limit.max(used) } else { limit };
        let exceeded = needed > 0 && used + needed > allowed;
        exceeded.then_some(Shortage::Shard { used, limit, allowed, needed })
    }

    /// The indexes that make room for each other with this one.
    fn group(&self, index: IndexId) -> Vec<IndexId> {
        let stands_alone = |settings: &IndexSettings| {
            let IndexSettings { max_bytes, max_documents, policy, ttl: _ } = settings;
            max_bytes.is_some() || max_documents.is_some() || policy.is_some()
        };
        match self.state.indexes.get(&index) {
            Some(of_index) if !stands_alone(&of_index.settings) => {
                let others = self.state.indexes.iter();
                others.filter(|(_, of)| !stands_alone(&of.settings)).map(|(&id, _)| id).collect()
            }
            _ => vec![index],
        }
    }

    /// Removes a document to make room for one of an index: first one that has expired. `false`
    /// where there is none. The document of `spare` is not evicted, but put among the spared.
    fn evict(
        &mut self,
        index: IndexId,
        shortage: Shortage,
        spare: Option<&IndexKey>,
        spared: &mut Vec<Resident>,
    ) -> Result<bool> {
        let in_reach: Vec<IndexId> = match shortage {
            // Of any group: expired documents are nobody's.
            Shortage::Shard { .. } => self.state.indexes.keys().copied().collect(),
            Shortage::Index { .. } => vec![index],
        };
        for id in in_reach {
            if self.evict_expired(id)? {
                return Ok(true);
            }
        }
        let Some(of_index) = self.state.indexes.get(&index) else { return Ok(false) };
        let policy = self.state.policy(of_index);
        if policy == Policy::Reject {
            return Ok(false);
        }
        let group = match shortage {
            Shortage::Shard { .. } => self.group(index),
            Shortage::Index { .. } => vec![index],
        };
        let newest = self.log.next_lsn() + self.batch.records;
        while let Some((taken, key, entry)) = self.next_victim(&group, policy, newest)? {
            let is_spared = taken.index == index && spare == Some(&key);
            if is_spared || self.is_on_its_way(key.position()) {
                spared.push(taken);
                if spared.len() < MOST_SPARED {
                    continue;
                }
                break;
            }
            self.remove_taken(taken, key, &entry);
            return Ok(true);
        }
        Ok(false)
    }

    /// Removes a document of an index that has expired. `false` where there is none.
    fn evict_expired(&mut self, index: IndexId) -> Result<bool> {
        let tags = self.shared.residents.take_due(index, self.now, 1);
        let mut removed = tags.iter().map(|&tag| self.remove_expired(index, tag));
        let removed = removed.find(|removed| !matches!(removed, Ok(false)));
        // What is removed is not known any more, and so not put off.
        for tag in tags {
            self.shared.residents.put_off(index, tag);
        }
        removed.unwrap_or(Ok(false))
    }

    /// Takes the next document to evict from the residents of a group: one that the scout found, if it
    /// may have and that is still true, or else one that is looked for here.
    fn next_victim(
        &self,
        group: &[IndexId],
        policy: Policy,
        newest: Version,
    ) -> Result<Option<(Resident, IndexKey, Entry)>> {
        let residents = &self.shared.residents;
        // Of few documents, which is the first changes with each that goes.
        let scouted = residents.documents(group) >= SCOUTED_DOCUMENTS;
        let exact = policy == Policy::Ttl;
        let next = || if scouted { self.shared.scout.next(group, exact, residents) } else { None };
        while let Some(Candidate { victim, key, found }) = next() {
            let stale = self.options.defects.has(Defect::StaleVictimEvicted);
            let take = if stale { Residents::take } else { Residents::take_if_unchanged };
            let Some(taken) = take(residents, victim) else { continue };
            let entry = self.current_again(taken.index, &key, found);
            match entry.inspect_err(|_| residents.restore(taken))? {
                Some(entry) => return Ok(Some((taken, key, entry))),
                // There may be another document of the tag, whose slot this is.
                None => residents.restore(taken),
            }
        }
        while let Some(taken) = residents.take_victim(group, newest) {
            let found = self.find(taken.index, taken.slot.tag);
            match found.inspect_err(|_| residents.restore(taken))? {
                Some((key, entry)) => return Ok(Some((taken, key, entry))),
                // No document has the tag.
                None => continue,
            }
        }
        Ok(None)
    }

    /// The document of a tag, after all that was evaluated.
    fn find(&self, index: IndexId, tag: Tag) -> Result<Option<(IndexKey, Entry)>> {
        for (key, published) in self.shared.entries_of(index, tag)?.0 {
            let place = (index, key);
            match self.batch.pending.get(&place) {
                Some(None) => {}
                Some(Some(entry)) => return Ok(Some((place.1, *entry))),
                None => return Ok(Some((place.1, published))),
            }
        }
        let pending = self.batch.pending.iter();
        let found = pending.filter(|((id, key), _)| *id == index && Tag::of(key) == tag);
        let mut found = found.filter_map(|((_, key), entry)| Some((key.clone(), (*entry)?)));
        Ok(found.next())
    }

    /// Removes a document of a tag that has expired. `false` where there is none.
    fn remove_expired(&mut self, index: IndexId, tag: Tag) -> Result<bool> {
        for (key, _) in self.shared.entries_of(index, tag)?.0 {
            if let Some(entry) = self.current(index, &key)?
                && has_expired(entry.expires_at, self.now)
                && !self.is_on_its_way(key.position())
            {
                self.remove(index, key, &entry, Reason::Expired);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes documents that have expired: of the sweeper.
    pub(super) fn expire(&mut self, found: &[(IndexId, IndexKey, LookedUp)], done: Completion) {
        let result = self.try_expire(found);
        self.batch.answers.push((done, result.map(|()| Outcome::Done)));
    }

    /// # Errors
    /// [`Error::Frozen`] where all of them are to stay for now.
    fn try_expire(&mut self, found: &[(IndexId, IndexKey, LookedUp)]) -> Result<()> {
        self.shared.poison.check()?;
        self.check_backlog()?;
        let bytes = found.iter().map(|(_, key, _)| effect::record_bytes(key.key().len()));
        self.make_room(bytes.sum(), Purpose::Upkeep)?;
        self.now = self.shared.clock.now();
        let mut spared = 0;
        for (index, key, found) in found {
            if !self.state.indexes.contains_key(index) {
                continue;
            }
            if self.is_on_its_way(key.position()) {
                spared += 1;
                continue;
            }
            if let Some(found) = self.current_again(*index, key, *found)?
                && has_expired(found.expires_at, self.now)
            {
                let start = self.batch.bytes.len();
                self.remove(*index, key.clone(), &found, Reason::Expired);
                record::seal(&mut self.batch.bytes[start..], self.log.checksum());
            }
        }
        if spared == found.len() { Err(Error::Frozen) } else { Ok(()) }
    }

    /// How many bytes the evictions for a command may take; where that is too much for one batch,
    /// evicts what is needed for most of it, and commits, before the command is evaluated.
    pub(super) fn evict_beforehand(
        &mut self,
        mutations: &[Mutation],
        atomic: bool,
    ) -> Result<usize> {
        // As if all writes were of new documents, for which nothing has to be looked up.
        let mut growths: BTreeMap<IndexId, (u64, u64)> = BTreeMap::new();
        for mutation in mutations {
            if let Mutation::Write { index, key, document, .. } = mutation {
                let (bytes, documents) = growths.entry(*index).or_default();
                *bytes += (key.bytes.len() + document.len()) as u64;
                *documents += 1;
            }
        }
        let mut most = 0;
        for (index, growth) in growths {
            most += self.evict_for_growth(index, growth, mutations, atomic)?;
        }
        Ok(most.min(MOST_EVICTION_BYTES))
    }

    /// The same for the writes to one index, with which it grows by so many bytes and documents at most.
    fn evict_for_growth(
        &mut self,
        index: IndexId,
        (mut bytes, mut documents): (u64, u64),
        mutations: &[Mutation],
        atomic: bool,
    ) -> Result<usize> {
        let mut is_exact = false;
        while let Some(shortage) = self.shortage(index, bytes, 0, documents) {
            let needed = self.evictions_for(shortage) * EVICTION_BYTES;
            if needed > MOST_EVICTION_BYTES && !is_exact {
                (bytes, documents) = self.growth(index, mutations, atomic)?;
                is_exact = true;
                continue;
            }
            if needed <= MOST_EVICTION_BYTES || !shortage.can_be_met(bytes) {
                return Ok(needed);
            }
            let excess = |this: &Self| Some((index, this.shortage(index, bytes, 0, documents)?));
            if !self.evict_some(excess)? {
                break;
            }
            self.try_commit()?;
        }
        Ok(0)
    }

    /// By how many bytes and documents an index grows with the writes of a command that will be
    /// done, as far as the outcome of one is not another's.
    fn growth(&self, index: IndexId, mutations: &[Mutation], atomic: bool) -> Result<(u64, u64)> {
        let (mut bytes, mut documents) = (0, 0);
        for mutation in mutations {
            let Mutation::Write { index: id, key, document, condition, .. } = mutation else {
                continue;
            };
            let key = IndexKey::from(key);
            let found = self.current(*id, &key)?;
            let alive = found.filter(|entry| !has_expired(entry.expires_at, self.now));
            if !condition.holds(alive.map(|entry| entry.version)) {
                if atomic {
                    return Ok((0, 0));
                }
            } else if *id == index {
                let replaced = found.map_or(0, |entry| u64::from(entry.bytes));
                bytes += ((key.key().len() + document.len()) as u64).saturating_sub(replaced);
                documents += u64::from(found.is_none());
            }
        }
        Ok((bytes, documents))
    }

    /// About how many documents have to go, and some more.
    fn evictions_for(&self, shortage: Shortage) -> usize {
        let (Shortage::Shard { used, allowed, needed, .. }
        | Shortage::Index { used, allowed, needed, .. }) = shortage;
        let over = (used + needed).saturating_sub(allowed);
        let mean = if shortage.is_of_bytes() {
            self.state.used / self.state.documents().max(1)
        } else {
            1
        };
        (over / mean.max(1)) as usize * 2 + 2
    }

    /// Evicts documents as long as there is an excess, some hundred at most, with a batch of their
    /// own: of the group of the index that is named with it. `false` where there is none to evict.
    pub(super) fn evict_some(
        &mut self,
        excess: impl Fn(&Self) -> Option<(IndexId, Shortage)>,
    ) -> Result<bool> {
        self.make_room(EVICTIONS_AT_A_TIME * EVICTION_BYTES, Purpose::Upkeep)?;
        let mut any = false;
        for _ in 0..EVICTIONS_AT_A_TIME {
            let Some((index, shortage)) = excess(self) else { break };
            let start = self.batch.bytes.len();
            let mut spared = Vec::new();
            let evicted = self.evict(index, shortage, None, &mut spared);
            for taken in spared {
                self.shared.residents.restore(taken);
            }
            let evicted = evicted?;
            record::seal(&mut self.batch.bytes[start..], self.log.checksum());
            any |= evicted;
            if !evicted {
                break;
            }
        }
        Ok(any)
    }

    /// Makes the residents remember what the policies ask for now; an index whose policy is new is
    /// read once, and writing waits for it. Where it cannot be read, its documents are not evicted
    /// until the next control command.
    pub(super) fn suit_residents(&self) {
        let residents = &self.shared.residents;
        let view = self.shared.view.read();
        for (&id, of_index) in &view.state.indexes {
            let policy = view.state.policy(of_index);
            if residents.serves(id, policy) {
                continue;
            }
            residents.begin(id, policy);
            let filled = if of_index.totals.documents > 0 {
                self.shared.fill_residents(&view, id)
            } else {
                Ok(())
            };
            if let Err(error) = filled {
                tracing::warn!(index = %of_index.name, %error, "documents cannot be evicted yet");
                residents.begin_without(id);
            }
        }
    }
}
