//! What should come of it: a shard as a few ordered maps.

use std::collections::BTreeMap;

use bytes::Bytes;
use sherd_engine::{
    Assignment, Command, Condition, Document, Error, Expiry, IndexId, IndexSettings, Key, Mutation,
    MutationOutcome, Outcome, Policy,
};

use crate::history::{Change, Kind, NAMES, OWNERS, RANGES, Step, When, key};

pub(crate) type Documents = BTreeMap<(u32, Bytes), Document>;

/// What a shard holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Model {
    pub(crate) indexes: BTreeMap<IndexId, (String, Documents)>,
    pub(crate) highest_index_id: IndexId,
    pub(crate) assignment: Option<Assignment>,
    pub(crate) locked_by: Option<String>,
    pub(crate) next_lsn: u64,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self {
            indexes: BTreeMap::new(),
            highest_index_id: 0,
            assignment: None,
            locked_by: None,
            next_lsn: 1,
        }
    }

    pub(crate) fn used(&self) -> u64 {
        self.indexes.values().map(|(_, documents)| bytes_of(documents)).sum()
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.assignment.as_ref().map_or(0, |held| held.epoch)
    }

    pub(crate) fn owned(&self) -> Vec<(u32, u32)> {
        self.assignment.as_ref().map_or_else(Vec::new, |held| held.ranges.clone())
    }

    pub(crate) fn owns(&self, position: u32) -> bool {
        self.owned().iter().any(|&(start, end)| (start..end).contains(&position))
    }

    /// Documents by fifths of what is owned.
    pub(crate) fn distribution(&self) -> [u64; 5] {
        let mut bins = [0; 5];
        let owned = self.owned();
        let width: u64 = owned.iter().map(|&(start, end)| u64::from(end - start)).sum();
        for (_, documents) in self.indexes.values() {
            for (position, _) in documents.keys().filter(|(position, _)| self.owns(*position)) {
                let below = owned.iter().map(|&(start, end)| {
                    u64::from(end.min(*position)).saturating_sub(u64::from(start))
                });
                bins[(below.sum::<u64>() * 5 / width) as usize] += 1;
            }
        }
        bins
    }

    /// Removes what lies outside of what is owned.
    pub(crate) fn sweep(&mut self) {
        let owned = self.owned();
        let owns =
            |position: u32| owned.iter().any(|&(start, end)| (start..end).contains(&position));
        for (_, documents) in self.indexes.values_mut() {
            documents.retain(|(position, _), _| owns(*position));
        }
    }

    /// The command of a step, at this point of the history.
    pub(crate) fn command(&self, step: &Step) -> Command {
        match step.clone() {
            Step::Mutate { mutations, atomic } => {
                let mutations = mutations.iter().map(|change| self.mutation(change)).collect();
                Command::Mutate { mutations, atomic }
            }
            Step::CreateIndex { id, name } => Command::CreateIndex {
                id,
                name: NAMES[name].to_owned(),
                settings: IndexSettings::default(),
            },
            Step::DropIndex { id } => Command::DropIndex { id },
            Step::Assign { epoch, lineage, ranges, limit, foreign } => {
                Command::Assign(Assignment {
                    cluster: if foreign { "another" } else { "cluster" }.to_owned(),
                    name: "shard0".to_owned(),
                    hash_method: "md5".to_owned(),
                    epoch: self.epoch().saturating_add_signed(epoch.into()),
                    lineage,
                    ranges: RANGES[ranges].to_vec(),
                    limit,
                    policy: Policy::Reject,
                })
            }
            Step::Lock { owner } => Command::Lock { owner: OWNERS[owner].to_owned() },
            Step::Release { owner } => Command::Release { owner: OWNERS[owner].to_owned() },
            Step::SetLimit { limit } => Command::SetLimit { limit, policy: None },
        }
    }

    pub(crate) fn mutation(&self, change: &Change) -> Mutation {
        let key = key(change.key);
        let there = self.document(change.index, &key).map_or(0, |document| document.version);
        let version = |is_there: bool| if is_there { there } else { there + 1 };
        let index = change.index;
        match change.kind {
            Kind::Write { fill, length, condition } => Mutation::Write {
                index,
                key,
                document: vec![fill; length].into(),
                condition: match condition {
                    When::Absent => Condition::Absent,
                    When::Any => Condition::Any,
                    When::Present => Condition::Present,
                    When::Version(is_there) => Condition::Version(version(is_there)),
                },
                expiry: Expiry::Default,
            },
            Kind::Remove { version: named } => {
                Mutation::Remove { index, key, version: named.map(version) }
            }
        }
    }

    pub(crate) fn document(&self, index: IndexId, key: &Key) -> Option<&Document> {
        self.indexes.get(&index)?.1.get(&(key.position, key.bytes.clone()))
    }

    /// Executes a command. Whenever a group of effects is done, the state after it joins `trail`.
    pub(crate) fn execute(
        &mut self,
        command: &Command,
        trail: &mut Vec<Self>,
    ) -> Result<Outcome, Error> {
        if let Command::Mutate { mutations, atomic } = command {
            if let Some(owner) = self.locked_by.clone() {
                return Err(Error::Locked { owner });
            }
            return Ok(Outcome::Mutated(self.mutate(mutations, *atomic, trail)));
        }
        if self.control(command)? {
            self.next_lsn += 1;
            trail.push(self.clone());
        }
        Ok(Outcome::Done)
    }

    pub(crate) fn mutate(
        &mut self,
        mutations: &[Mutation],
        atomic: bool,
        trail: &mut Vec<Self>,
    ) -> Vec<MutationOutcome> {
        let before = self.clone();
        let mut outcomes = Vec::new();
        for mutation in mutations {
            let outcome = self.evaluate(mutation).unwrap_or_else(MutationOutcome::Refused);
            let done = is_done(&outcome);
            outcomes.push(outcome);
            if done && !atomic {
                trail.push(self.clone());
            }
            if !done && atomic {
                *self = before;
                for outcome in outcomes.iter_mut().filter(|outcome| is_done(outcome)) {
                    *outcome = MutationOutcome::Abandoned;
                }
                outcomes.resize(mutations.len(), MutationOutcome::Abandoned);
                return outcomes;
            }
        }
        if atomic {
            trail.push(self.clone());
        }
        outcomes
    }

    pub(crate) fn evaluate(&mut self, mutation: &Mutation) -> Result<MutationOutcome, Error> {
        let (Mutation::Write { index, key, .. }
        | Mutation::Touch { index, key, .. }
        | Mutation::Remove { index, key, .. }) = mutation;
        if !self.owns(key.position) {
            return Err(Error::WrongShard { epoch: self.epoch() });
        }
        if !self.indexes.contains_key(index) {
            return Err(Error::IndexNotFound(*index));
        }
        let used = self.used();
        let limit = self.assignment.as_ref().map_or(0, |held| held.limit);
        let lsn = self.next_lsn;
        let there = self.document(*index, key).cloned();
        let found = there.as_ref().map(|document| document.version);
        let place = (key.position, key.bytes.clone());
        let documents = &mut self.indexes.get_mut(index).unwrap().1;
        let outcome = match mutation {
            Mutation::Write { document, condition, .. } => {
                let holds = match *condition {
                    Condition::Absent => found.is_none(),
                    Condition::Any => true,
                    Condition::Present => found.is_some(),
                    Condition::Version(version) => found == Some(version),
                };
                if !holds {
                    return Ok(MutationOutcome::ConditionFailed(found));
                }
                let freed = there.map_or(0, |old| key.bytes.len() + old.bytes.len()) as u64;
                let needed = ((key.bytes.len() + document.len()) as u64).saturating_sub(freed);
                if needed > 0 && used + needed > limit {
                    return Err(Error::QuotaExceeded { used, limit, needed });
                }
                documents.insert(
                    place,
                    Document { version: lsn, expires_at: 0, bytes: document.clone() },
                );
                MutationOutcome::Written(lsn)
            }
            Mutation::Touch { .. } => panic!("nothing is touched here"),
            Mutation::Remove { version, .. } => match found {
                None => return Ok(MutationOutcome::Missing),
                Some(there) if version.is_some_and(|named| named != there) => {
                    return Ok(MutationOutcome::ConditionFailed(found));
                }
                Some(_) => {
                    documents.remove(&place);
                    MutationOutcome::Removed(lsn)
                }
            },
        };
        self.next_lsn += 1;
        Ok(outcome)
    }

    /// Whether a control command changes anything.
    pub(crate) fn control(&mut self, command: &Command) -> Result<bool, Error> {
        match command.clone() {
            Command::Mutate { .. } => panic!("a mutation is no control command"),
            Command::CreateIndex { id, name, .. } => {
                let other = self.indexes.iter().find(|(_, (taken, _))| *taken == name);
                match (self.indexes.get(&id), other) {
                    (Some((held, _)), _) if *held == name => return Ok(false),
                    (Some((held, _)), _) => {
                        return Err(Error::IndexExists { id, name: held.clone() });
                    }
                    (None, Some((&id, _))) => return Err(Error::IndexExists { id, name }),
                    (None, None) if id <= self.highest_index_id => {
                        return Err(Error::IndexIdUsed { id, name });
                    }
                    (None, None) => {}
                }
                self.indexes.insert(id, (name, Documents::new()));
                self.highest_index_id = id;
                Ok(true)
            }
            Command::DropIndex { id } => Ok(self.indexes.remove(&id).is_some()),
            Command::Assign(offered) => {
                if let Some(held) = &self.assignment {
                    if held.cluster != offered.cluster {
                        return Err(Error::WrongCluster {
                            held: held.cluster.clone(),
                            name: held.name.clone(),
                            offered: offered.cluster.clone(),
                            offered_name: offered.name.clone(),
                        });
                    }
                    let other_history =
                        offered.epoch == held.epoch && offered.lineage != held.lineage;
                    if offered.epoch < held.epoch || other_history {
                        let (offered, held) = (offered.epoch, held.epoch);
                        return Err(Error::StaleEpoch { offered, held });
                    }
                }
                // What was given up must be gone before it may be taken back.
                let mut given_up = self.indexes.values().flat_map(|(_, documents)| {
                    documents.keys().filter(|(position, _)| !self.owns(*position))
                });
                let taken_back = |position: u32| {
                    offered.ranges.iter().any(|&(start, end)| (start..end).contains(&position))
                };
                if let Some(&(position, _)) = given_up.find(|(position, _)| taken_back(*position)) {
                    return Err(Error::NotCleared { position });
                }
                let changed = self.assignment.as_ref() != Some(&offered);
                self.assignment = Some(offered);
                Ok(changed)
            }
            Command::Lock { owner } => match &self.locked_by {
                Some(by) if *by == owner => Ok(false),
                Some(by) => Err(Error::Locked { owner: by.clone() }),
                None => {
                    self.locked_by = Some(owner);
                    Ok(true)
                }
            },
            Command::Release { owner } => match &self.locked_by {
                Some(by) if *by != owner => Err(Error::Locked { owner: by.clone() }),
                _ => Ok(self.locked_by.take().is_some()),
            },
            Command::SetIndex { .. } => panic!("no index is set here"),
            Command::SetLimit { limit, .. } => {
                let used = self.used();
                let Some(held) = &mut self.assignment else {
                    return Err(Error::WrongShard { epoch: 0 });
                };
                if used > limit {
                    return Err(Error::QuotaExceeded { used, limit, needed: 0 });
                }
                Ok(std::mem::replace(&mut held.limit, limit) != limit)
            }
        }
    }
}

pub(crate) fn is_done(outcome: &MutationOutcome) -> bool {
    matches!(outcome, MutationOutcome::Written(_) | MutationOutcome::Removed(_))
}

pub(crate) fn bytes_of(documents: &Documents) -> u64 {
    documents.iter().map(|((_, key), document)| (key.len() + document.bytes.len()) as u64).sum()
}
