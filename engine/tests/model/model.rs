//! What should come of it: a shard as a few ordered maps.

use std::collections::BTreeMap;

use bytes::Bytes;
use sherd_engine::{
    Assignment, Command, Condition, Document, Error, Expiry, IndexId, IndexSettings, Key, Mutation,
    MutationOutcome, Outcome, Policy,
};

use crate::history::{Change, Kind, Life, NAMES, OWNERS, RANGES, Step, When, key};

pub(crate) type Documents = BTreeMap<(u32, Bytes), Document>;

/// What an index holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Index {
    pub(crate) name: String,
    pub(crate) settings: IndexSettings,
    /// Those that have expired included, until they are swept.
    pub(crate) documents: Documents,
    /// How many were swept.
    pub(crate) expired: u64,
}

/// What a shard holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Model {
    pub(crate) indexes: BTreeMap<IndexId, Index>,
    /// How many expired documents were swept, of dropped indexes as well.
    pub(crate) expired: u64,
    /// The time, in milliseconds since 1970.
    pub(crate) now: u64,
    pub(crate) highest_index_id: IndexId,
    pub(crate) assignment: Option<Assignment>,
    pub(crate) locked_by: Option<String>,
    pub(crate) next_lsn: u64,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self {
            indexes: BTreeMap::new(),
            expired: 0,
            now: 0,
            highest_index_id: 0,
            assignment: None,
            locked_by: None,
            next_lsn: 1,
        }
    }

    pub(crate) fn used(&self) -> u64 {
        self.indexes.values().map(|index| bytes_of(&index.documents)).sum()
    }

    /// The bytes and the documents of an index that lie in what is owned: its limits are for these.
    fn owned_totals(&self, index: &Index) -> (u64, u64) {
        let mut owned = index.documents.clone();
        owned.retain(|(position, _), _| self.owns(*position));
        (bytes_of(&owned), owned.len() as u64)
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
        for index in self.indexes.values() {
            for (position, _) in index.documents.keys().filter(|(position, _)| self.owns(*position))
            {
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
        for index in self.indexes.values_mut() {
            index.documents.retain(|(position, _), _| owns(*position));
        }
    }

    /// What the sweeper does: owned documents go whose time is over by the second.
    pub(crate) fn expire(&mut self) {
        let (second, owned) = (self.now / 1000, self.owned());
        let owns =
            |position: u32| owned.iter().any(|&(start, end)| (start..end).contains(&position));
        for index in self.indexes.values_mut() {
            let before = index.documents.len();
            index.documents.retain(|(position, _), document| {
                document.expires_at == 0
                    || document.expires_at.div_ceil(1000) > second
                    || !owns(*position)
            });
            let expired = (before - index.documents.len()) as u64;
            index.expired += expired;
            self.expired += expired;
            self.next_lsn += expired;
        }
    }

    /// Whether a document can still be read.
    pub(crate) fn is_alive(&self, document: &Document) -> bool {
        document.expires_at == 0 || document.expires_at > self.now
    }

    /// The command of a step, at this point of the history.
    pub(crate) fn command(&self, step: &Step) -> Command {
        match step.clone() {
            Step::Mutate { mutations, atomic } => {
                let mutations = mutations.iter().map(|change| self.mutation(change)).collect();
                Command::Mutate { mutations, atomic }
            }
            Step::CreateIndex { id, name, settings } => {
                Command::CreateIndex { id, name: NAMES[name].to_owned(), settings }
            }
            Step::SetIndex { id, settings, force } => Command::SetIndex { id, settings, force },
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
        let expiry = |life: Life| match life {
            Life::Default => Expiry::Default,
            Life::Never => Expiry::Never,
            Life::After(milliseconds) => Expiry::After(milliseconds),
            Life::At(milliseconds) => Expiry::At(self.now + milliseconds),
        };
        match change.kind {
            Kind::Write { fill, length, condition, life } => Mutation::Write {
                index,
                key,
                document: vec![fill; length].into(),
                condition: match condition {
                    When::Absent => Condition::Absent,
                    When::Any => Condition::Any,
                    When::Present => Condition::Present,
                    When::Version(is_there) => Condition::Version(version(is_there)),
                },
                expiry: expiry(life),
            },
            Kind::Touch { version: named, bytes: same, life } => {
                let document = self.document(index, &key).map(|document| document.bytes.clone());
                let mut bytes = document.unwrap_or_default().to_vec();
                if !same {
                    bytes.push(0);
                }
                Mutation::Touch {
                    index,
                    key,
                    version: version(named),
                    document: bytes.into(),
                    expiry: expiry(life),
                }
            }
            Kind::Remove { version: named } => {
                Mutation::Remove { index, key, version: named.map(version) }
            }
        }
    }

    /// The document that is stored under a key, expired or not.
    fn stored(&self, index: IndexId, key: &Key) -> Option<&Document> {
        self.indexes.get(&index)?.documents.get(&(key.position, key.bytes.clone()))
    }

    pub(crate) fn document(&self, index: IndexId, key: &Key) -> Option<&Document> {
        self.stored(index, key).filter(|document| self.is_alive(document))
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
        if let Command::SetIndex { id, settings, force } = *command {
            for settings in self.settings_on_the_way(id, settings, force)? {
                self.indexes.get_mut(&id).unwrap().settings = settings;
                self.next_lsn += 1;
                trail.push(self.clone());
            }
        } else if self.control(command)? {
            self.next_lsn += 1;
            trail.push(self.clone());
        }
        Ok(Outcome::Done)
    }

    /// The settings that an index has one after the other until it has new ones: all but the limits
    /// come first.
    fn settings_on_the_way(
        &self,
        id: IndexId,
        settings: IndexSettings,
        force: bool,
    ) -> Result<Vec<IndexSettings>, Error> {
        let index = self.indexes.get(&id).ok_or(Error::IndexNotFound(id))?;
        let mut held = index.settings;
        let IndexSettings { max_bytes, max_documents, .. } = held;
        let (bytes, documents) = self.owned_totals(index);
        let limits = [
            ("bytes", bytes, settings.max_bytes),
            ("documents", documents, settings.max_documents),
        ];
        for (what, used, limit) in limits {
            if let Some(limit) = limit.filter(|&limit| used > limit && !force) {
                return Err(Error::IndexFull { id, what, used, limit, needed: 0 });
            }
        }
        let first = IndexSettings { max_bytes, max_documents, ..settings };
        let ways = if force { vec![settings] } else { vec![first, settings] };
        Ok(ways.into_iter().filter(|&next| std::mem::replace(&mut held, next) != next).collect())
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
        let (lsn, now) = (self.next_lsn, self.now);
        let there = self.stored(*index, key).cloned();
        let alive = self.document(*index, key).cloned();
        let found = alive.as_ref().map(|document| document.version);
        let place = (key.position, key.bytes.clone());
        let (owned_bytes, owned_documents) = self.owned_totals(&self.indexes[index]);
        let Index { settings, documents, .. } = self.indexes.get_mut(index).unwrap();
        let expires_at = |expiry: &Expiry| match *expiry {
            Expiry::Default => settings.ttl.map_or(0, |ttl| now + ttl),
            Expiry::Never => 0,
            Expiry::After(milliseconds) => now + milliseconds,
            Expiry::At(at) => at,
        };
        let outcome = match mutation {
            Mutation::Write { document, condition, expiry, .. } => {
                let holds = match *condition {
                    Condition::Absent => found.is_none(),
                    Condition::Any => true,
                    Condition::Present => found.is_some(),
                    Condition::Version(version) => found == Some(version),
                };
                if !holds {
                    return Ok(MutationOutcome::ConditionFailed(found));
                }
                // What has expired and is not swept has its place still.
                let freed =
                    there.as_ref().map_or(0, |old| key.bytes.len() + old.bytes.len()) as u64;
                let needed = ((key.bytes.len() + document.len()) as u64).saturating_sub(freed);
                let limits = [
                    ("bytes", owned_bytes, settings.max_bytes, needed),
                    (
                        "documents",
                        owned_documents,
                        settings.max_documents,
                        u64::from(there.is_none()),
                    ),
                ];
                for (what, used, limit, needed) in limits {
                    if let Some(limit) = limit.filter(|&limit| needed > 0 && used + needed > limit)
                    {
                        return Err(Error::IndexFull { id: *index, what, used, limit, needed });
                    }
                }
                if needed > 0 && used + needed > limit {
                    return Err(Error::QuotaExceeded { used, limit, needed });
                }
                let expires_at = expires_at(expiry);
                documents
                    .insert(place, Document { version: lsn, expires_at, bytes: document.clone() });
                MutationOutcome::Written(lsn)
            }
            Mutation::Touch { version, document, expiry, .. } => {
                let Some(mut touched) = alive else { return Ok(MutationOutcome::Missing) };
                if touched.version != *version || touched.bytes.len() != document.len() {
                    return Ok(MutationOutcome::ConditionFailed(found));
                }
                let expires_at = expires_at(expiry);
                let outcome = MutationOutcome::Touched(touched.version, expires_at);
                if expires_at == touched.expires_at {
                    // Nothing is written for it.
                    return Ok(outcome);
                }
                touched.expires_at = expires_at;
                documents.insert(place, touched);
                outcome
            }
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
            Command::Receive { .. }
            | Command::StopReceiving { .. }
            | Command::Freeze { .. }
            | Command::Thaw { .. }
            | Command::CheckFrozen { .. }
            | Command::GiveUp { .. } => panic!("no step moves ranges; `handover.rs` does"),
            Command::CreateIndex { id, name, settings } => {
                let other = self.indexes.iter().find(|(_, index)| index.name == name);
                match (self.indexes.get(&id), other) {
                    (Some(held), _) if held.name == name => return Ok(false),
                    (Some(held), _) => {
                        return Err(Error::IndexExists { id, name: held.name.clone() });
                    }
                    (None, Some((&id, _))) => return Err(Error::IndexExists { id, name }),
                    (None, None) if id <= self.highest_index_id => {
                        return Err(Error::IndexIdUsed { id, name });
                    }
                    (None, None) => {}
                }
                let documents = Documents::new();
                self.indexes.insert(id, Index { name, settings, documents, expired: 0 });
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
                let mut given_up = self.indexes.values().flat_map(|index| {
                    index.documents.keys().filter(|(position, _)| !self.owns(*position))
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
            Command::SetIndex { .. } => panic!("its steps are done one by one"),
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
    use MutationOutcome::{Removed, Touched, Written};
    matches!(outcome, Written(_) | Touched(..) | Removed(_))
}

pub(crate) fn bytes_of(documents: &Documents) -> u64 {
    documents.iter().map(|((_, key), document)| (key.len() + document.bytes.len()) as u64).sum()
}
