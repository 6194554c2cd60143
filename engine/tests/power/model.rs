//! What a shard should hold: the engine's semantics once more, simply.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use sherd_engine::{Assignment, Command, Condition, Engine, Key, Mutation, Scan, Stat};

use super::{Check, RING};

/// Index, position and key.
pub type Place = (u32, u32, String);

pub type Text = Arc<str>;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    pub documents: BTreeMap<Place, Text>,
    pub indexes: BTreeMap<u32, String>,
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
            after.documents.remove(place);
            after.clone()
        });
        removals.collect()
    }

    pub fn used(&self) -> u64 {
        self.documents.iter().map(|(place, document)| (place.2.len() + document.len()) as u64).sum()
    }

    pub fn limit(&self) -> u64 {
        self.assignment.as_ref().map_or(0, |held| held.limit)
    }

    /// What a mutation makes of this; `None` where it does not take place.
    fn evaluate(&self, mutation: &Mutation) -> Option<Self> {
        let (Mutation::Write { index, key, .. }
        | Mutation::Touch { index, key, .. }
        | Mutation::Remove { index, key, .. }) = mutation;
        if !self.owns(key.position) || !self.indexes.contains_key(index) {
            return None;
        }
        let place = (*index, key.position, text(&key.bytes));
        let mut after = self.clone();
        match mutation {
            Mutation::Write { document, condition, .. } => {
                let present = self.documents.contains_key(&place);
                let holds = match condition {
                    Condition::Absent => !present,
                    Condition::Present => present,
                    Condition::Any => true,
                    Condition::Version(_) => return None,
                };
                if !holds {
                    return None;
                }
                let document = text(document);
                after.documents.insert(place, document.as_str().into());
                let grows = after.used() > self.used();
                (!grows || after.used() <= self.limit()).then_some(after)
            }
            Mutation::Touch { .. } => unreachable!("nothing is touched here"),
            Mutation::Remove { .. } => after.documents.remove(&place).map(|_| after),
        }
    }

    /// What a command makes of this, group by group: none where it has no effect.
    pub fn execute(&self, command: &Command) -> Vec<Self> {
        let mut after = self.clone();
        match command {
            Command::Mutate { .. } if self.locked_by.is_some() => return Vec::new(),
            Command::Mutate { mutations, atomic: true } => {
                let all = mutations.iter().try_fold(after, |model, step| model.evaluate(step));
                return all.into_iter().filter(|_| !mutations.is_empty()).collect();
            }
            Command::Mutate { mutations, atomic: false } => {
                let mut groups = Vec::new();
                for mutation in mutations {
                    if let Some(next) = after.evaluate(mutation) {
                        groups.push(next.clone());
                        after = next;
                    }
                }
                return groups;
            }
            Command::CreateIndex { id, name, .. } => _ = after.indexes.insert(*id, name.clone()),
            Command::DropIndex { id } => {
                after.indexes.remove(id);
                after.documents.retain(|place, _| place.0 != *id);
            }
            // Refused as long as documents are there from when it was owned before.
            Command::Assign(assignment)
                if self.given_up().any(|place| owns(&assignment.ranges, place.1)) => {}
            Command::Assign(assignment) => after.assignment = Some(assignment.clone()),
            Command::Lock { owner } => after.locked_by = Some(owner.clone()),
            Command::Release { .. } => after.locked_by = None,
            Command::SetIndex { .. } => unreachable!("no index is set here"),
            Command::SetLimit { limit, .. } => {
                if let Some(assignment) = &mut after.assignment {
                    assignment.limit = *limit;
                }
            }
        }
        if after == *self { Vec::new() } else { vec![after] }
    }

    /// What of a recovered shard is not as it is here; `None` when all is.
    pub fn differs(&self, found: &Found) -> Option<String> {
        let visible: BTreeMap<_, _> =
            self.documents.iter().filter(|(place, _)| self.owns(place.1)).collect();
        if !visible
            .iter()
            .map(|(place, text)| (*place, *text))
            .eq(found.documents.iter().map(|(place, (text, _))| (place, text)))
        {
            return Some("documents".to_owned());
        }
        let mut bins = [0; 5];
        for (_, position, _) in visible.keys() {
            bins[self.bin(*position)] += 1;
        }
        let mut indexes: Vec<_> = self
            .indexes
            .iter()
            .map(|(id, name)| {
                let of_index = self.documents.iter().filter(|(place, _)| place.0 == *id);
                let used = of_index.clone().map(|(place, text)| place.2.len() + text.len());
                (name.clone(), *id, of_index.count() as u64, used.sum::<usize>() as u64)
            })
            .collect();
        indexes.sort();
        let found_indexes: Vec<_> = found
            .stat
            .indexes
            .iter()
            .map(|index| (index.name.clone(), index.id, index.documents, index.used))
            .collect();
        let checks = [
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
    pub stat: Stat,
    pub assignment: Option<Assignment>,
}

/// Reads all that there is.
pub fn inspect(engine: &Engine) -> Check<Found> {
    let failed = |error| format!("a scan failed: {error}");
    let stat = engine.stat();
    let assignment = engine.assignment().map(|held| held.as_ref().clone());
    let mut documents = BTreeMap::new();
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
                let text = String::from_utf8_lossy(&document.bytes).as_ref().into();
                if documents.insert(place, (text, document.version)).is_some() {
                    return Err("a scan has a key twice".to_owned());
                }
            }
        }
    }
    Ok(Found { documents, stat, assignment })
}
