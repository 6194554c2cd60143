//! What a shard should hold: the engine's semantics once more, simply.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use sherd_engine::{
    Assignment, Command, Condition, Engine, Expiry, IndexSettings, Key, Mutation, Policy, Scan,
    Stat,
};

use super::{Check, RING};

/// Index, position and key.
pub type Place = (u32, u32, String);

pub type Text = Arc<str>;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    /// Those that have expired included: nothing sweeps them here.
    pub documents: BTreeMap<Place, Text>,
    /// When documents expire that do, in milliseconds since 1970.
    pub expires: BTreeMap<Place, u64>,
    pub indexes: BTreeMap<u32, String>,
    pub settings: BTreeMap<u32, IndexSettings>,
    pub assignment: Option<Assignment>,
    pub locked_by: Option<String>,
}

/// A key; its position is a hash of a kind.
pub fn key(name: &str) -> Key {
    let sum =
        name.bytes().fold(17u32, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    Key { position: sum % RING, bytes: Bytes::copy_from_slice(name.as_bytes()) }
}

fn owns(ranges: &[(u32, u32)], position: u32) -> bool {
    ranges.iter().any(|&(start, end)| (start..end).contains(&position))
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

impl Model {
    pub fn owns(&self, position: u32) -> bool {
        owns(self.assignment.as_ref().map_or(&[][..], |held| &held.ranges), position)
    }

    /// Documents outside of what is owned.
    fn given_up(&self) -> impl Iterator<Item = &Place> {
        self.documents.keys().filter(|place| !self.owns(place.1))
    }

    /// What comes of removing them, one by one.
    pub fn sweep(&self) -> Vec<Self> {
        let mut after = self.clone();
        let removals = self.given_up().map(|place| {
            after.remove(place);
            after.clone()
        });
        removals.collect()
    }

    pub fn used(&self) -> u64 {
        self.documents.iter().map(|(place, document)| (place.2.len() + document.len()) as u64).sum()
    }

    fn remove(&mut self, place: &Place) {
        self.documents.remove(place);
        self.expires.remove(place);
    }

    /// Whether there is a document that can be read.
    pub fn is_alive(&self, place: &Place, now: u64) -> bool {
        self.documents.contains_key(place) && self.expires.get(place).is_none_or(|at| *at > now)
    }

    /// The bytes and the documents of an index.
    pub fn totals(&self, index: u32) -> (u64, u64) {
        let documents = self.documents.iter().filter(|(place, _)| place.0 == index);
        let bytes = documents.clone().map(|(place, text)| (place.2.len() + text.len()) as u64);
        (bytes.sum(), documents.count() as u64)
    }

    /// The same of what is owned, which is what limits are for.
    pub fn owned_totals(&self, index: u32) -> (u64, u64) {
        let mut owned = self.clone();
        owned.documents.retain(|place, _| self.owns(place.1));
        owned.totals(index)
    }

    /// Whether this has room for what it has more than `before`.
    fn has_room(&self, before: &Self, index: u32) -> bool {
        let settings = self.settings[&index];
        let ((bytes, documents), (bytes_before, documents_before)) =
            (self.owned_totals(index), before.owned_totals(index));
        let fits = |now: u64, before: u64, limit: Option<u64>| {
            now <= before || limit.is_none_or(|limit| now <= limit)
        };
        fits(bytes, bytes_before, settings.max_bytes)
            && fits(documents, documents_before, settings.max_documents)
            && fits(self.used(), before.used(), Some(self.limit()))
    }

    /// The document that an index evicts to make room for another, if it evicts: the one written
    /// first. Documents begin with a number that counts them.
    fn first_written(&self, other: &Place) -> Option<&Place> {
        let evicts = self.settings[&other.0].policy == Some(Policy::Fifo);
        let documents = self.documents.iter().filter(|_| evicts);
        let documents = documents.filter(|(place, _)| place.0 == other.0 && *place != other);
        let documents = documents.filter(|(place, _)| self.owns(place.1));
        documents.min_by_key(|(_, text)| *text).map(|(place, _)| place)
    }

    /// Whether an index evicts.
    pub fn evicts(&self) -> bool {
        self.settings.values().any(|settings| settings.policy == Some(Policy::Fifo))
    }

    fn set_expiry(&mut self, place: &Place, expiry: Expiry, now: u64) {
        let at = match expiry {
            Expiry::Default => self.settings[&place.0].ttl.map_or(0, |ttl| now + ttl),
            Expiry::Never => 0,
            Expiry::After(milliseconds) => now + milliseconds,
            Expiry::At(at) => at,
        };
        if at == 0 {
            self.expires.remove(place);
        } else {
            self.expires.insert(place.clone(), at);
        }
    }

    /// The settings that an index has one after the other on the way to new ones; none where they
    /// are refused.
    fn set_index(&self, id: u32, settings: IndexSettings, force: bool) -> Vec<Self> {
        let Some(held) = self.settings.get(&id) else { return Vec::new() };
        let (bytes, documents) = self.owned_totals(id);
        let over = settings.max_bytes.is_some_and(|limit| bytes > limit)
            || settings.max_documents.is_some_and(|limit| documents > limit);
        if over && !force {
            return Vec::new();
        }
        let IndexSettings { max_bytes, max_documents, .. } = *held;
        let first = IndexSettings { max_bytes, max_documents, ..settings };
        let ways = if force { vec![settings] } else { vec![first, settings] };
        let mut groups: Vec<Self> = Vec::new();
        for settings in ways {
            let before = groups.last().unwrap_or(self);
            if before.settings[&id] != settings {
                let mut after = before.clone();
                after.settings.insert(id, settings);
                groups.push(after);
            }
        }
        groups
    }

    pub fn limit(&self) -> u64 {
        self.assignment.as_ref().map_or(0, |held| held.limit)
    }

    /// What a mutation makes of this; `None` where it does not take place.
    fn evaluate(&self, mutation: &Mutation, now: u64) -> Option<Self> {
        let (Mutation::Write { index, key, .. }
        | Mutation::Touch { index, key, .. }
        | Mutation::Remove { index, key, .. }) = mutation;
        if !self.owns(key.position) || !self.indexes.contains_key(index) {
            return None;
        }
        let place = (*index, key.position, text(&key.bytes));
        let mut after = self.clone();
        match mutation {
            Mutation::Write { document, condition, expiry, .. } => {
                let present = self.is_alive(&place, now);
                let holds = match condition {
                    Condition::Absent => !present,
                    Condition::Present => present,
                    Condition::Any => true,
                    Condition::Version(_) => return None,
                };
                if !holds {
                    return None;
                }
                let document: Text = text(document).as_str().into();
                let mut before = self.clone();
                loop {
                    let mut after = before.clone();
                    after.set_expiry(&place, *expiry, now);
                    after.documents.insert(place.clone(), Arc::clone(&document));
                    if after.has_room(&before, *index) {
                        return Some(after);
                    }
                    let victim = before.first_written(&place)?.clone();
                    before.remove(&victim);
                }
            }
            // Each document is like no other, so its bytes tell its version.
            Mutation::Touch { document, expiry, .. } => {
                let is_there = self.is_alive(&place, now)
                    && self.documents[&place].as_bytes() == document.as_ref();
                after.set_expiry(&place, *expiry, now);
                is_there.then_some(after)
            }
            Mutation::Remove { .. } => {
                after.remove(&place);
                self.is_alive(&place, now).then_some(after)
            }
        }
    }

    /// What a command makes of this, group by group: none where it has no effect.
    pub fn execute(&self, command: &Command, now: u64) -> Vec<Self> {
        let mut after = self.clone();
        match command {
            Command::Mutate { .. } if self.locked_by.is_some() => return Vec::new(),
            Command::Mutate { mutations, atomic: true } => {
                let all = mutations.iter().try_fold(after, |model, step| model.evaluate(step, now));
                return all.into_iter().filter(|_| !mutations.is_empty()).collect();
            }
            Command::Mutate { mutations, atomic: false } => {
                let mut groups = Vec::new();
                for mutation in mutations {
                    if let Some(next) = after.evaluate(mutation, now) {
                        groups.push(next.clone());
                        after = next;
                    }
                }
                return groups;
            }
            Command::CreateIndex { id, name, settings } => {
                after.indexes.insert(*id, name.clone());
                after.settings.insert(*id, *settings);
            }
            Command::DropIndex { id } => {
                after.indexes.remove(id);
                after.settings.remove(id);
                after.expires.retain(|place, _| place.0 != *id);
                after.documents.retain(|place, _| place.0 != *id);
            }
            // Refused as long as documents are there from when it was owned before.
            Command::Assign(assignment)
                if self.given_up().any(|place| owns(&assignment.ranges, place.1)) => {}
            Command::Assign(assignment) => after.assignment = Some(assignment.clone()),
            Command::Lock { owner } => after.locked_by = Some(owner.clone()),
            Command::Release { .. } => after.locked_by = None,
            Command::SetIndex { id, settings, force } => {
                return self.set_index(*id, *settings, *force);
            }
            Command::SetLimit { limit, .. } if self.used() > *limit => {}
            Command::SetLimit { limit, .. } => {
                if let Some(assignment) = &mut after.assignment {
                    assignment.limit = *limit;
                }
            }
            Command::Receive { .. }
            | Command::StopReceiving { .. }
            | Command::Freeze { .. }
            | Command::Thaw { .. }
            | Command::CheckFrozen { .. }
            | Command::GiveUp { .. } => panic!("no workload moves ranges; `handover.rs` does"),
        }
        if after == *self { Vec::new() } else { vec![after] }
    }

    /// What of a recovered shard is not as it is here; `None` when all is.
    pub fn differs(&self, found: &Found) -> Option<String> {
        let owned = self.documents.iter().filter(|(place, _)| self.owns(place.1));
        let visible = owned.clone().filter(|(place, _)| self.is_alive(place, found.now));
        if !visible.clone().eq(found.documents.iter().map(|(place, (text, _))| (place, text))) {
            return Some("documents".to_owned());
        }
        let expires = visible.filter_map(|(place, _)| self.expires.get_key_value(place));
        if !expires.eq(&found.expires) {
            return Some("times".to_owned());
        }
        let mut bins = [0; 5];
        for ((_, position, _), _) in owned {
            bins[self.bin(*position)] += 1;
        }
        let mut indexes: Vec<_> = self
            .indexes
            .iter()
            .map(|(id, name)| {
                let (used, documents) = self.totals(*id);
                (name.clone(), *id, documents, used)
            })
            .collect();
        indexes.sort();
        let found_indexes: Vec<_> = found
            .stat
            .indexes
            .iter()
            .map(|index| (index.name.clone(), index.id, index.documents, index.used))
            .collect();
        let settings = found.stat.indexes.iter().map(|index| (index.id, index.settings));
        let checks = [
            ("settings", settings.collect::<BTreeMap<_, _>>() == self.settings),
            ("catalogue or totals of an index", indexes == found_indexes),
            ("total of documents", self.documents.len() as u64 == found.stat.documents),
            ("total of bytes", self.used() == found.stat.used),
            ("distribution", bins == found.stat.distribution),
            ("lock", self.locked_by == found.stat.locked_by),
            ("assignment", self.assignment == found.assignment),
        ];
        let wrong = checks.into_iter().find(|(_, right)| !right)?;
        Some(format!("{}: {:?}, assignment {:?}", wrong.0, found.stat, found.assignment))
    }

    fn bin(&self, position: u32) -> usize {
        let ranges = self.assignment.as_ref().map_or(&[][..], |held| &held.ranges);
        let width: u64 = ranges.iter().map(|(start, end)| u64::from(end - start)).sum();
        let below = ranges.iter().map(|&(start, end)| position.clamp(start, end) - start);
        (below.map(u64::from).sum::<u64>() * 5 / width) as usize
    }
}

/// What a shard holds.
#[derive(Clone, Debug)]
pub struct Found {
    /// With their versions.
    pub documents: BTreeMap<Place, (Text, u64)>,
    pub expires: BTreeMap<Place, u64>,
    /// The time by which it was read.
    pub now: u64,
    pub stat: Stat,
    pub assignment: Option<Assignment>,
}

/// Reads all that there is.
pub fn inspect(engine: &Engine, now: u64) -> Check<Found> {
    let failed = |error| format!("a scan failed: {error}");
    let stat = engine.stat();
    let assignment = engine.assignment().map(|held| held.as_ref().clone());
    let (mut documents, mut expires) = (BTreeMap::new(), BTreeMap::new());
    for index in &stat.indexes {
        for &range in assignment.iter().flat_map(|held| &held.ranges) {
            let scan = Scan {
                index: index.id,
                range,
                after: None,
                max_documents: usize::MAX,
                max_bytes: usize::MAX,
                keys_only: false,
            };
            for (key, document) in engine.scan(&scan).map_err(failed)?.items {
                let place = (index.id, key.position, text(&key.bytes));
                if document.expires_at != 0 {
                    expires.insert(place.clone(), document.expires_at);
                }
                let text = String::from_utf8_lossy(&document.bytes).as_ref().into();
                if documents.insert(place, (text, document.version)).is_some() {
                    return Err("a scan has a key twice".to_owned());
                }
            }
        }
    }
    Ok(Found { documents, expires, now, stat, assignment })
}
