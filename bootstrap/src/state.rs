//! What bootstrap knows and persists: the range map, its history, and the index catalogue.
//!
//! It changes through one pure function, [`State::apply`], which takes a command and returns the
//! new state. Whoever persists a state before showing it (today a file, later a consensus log)
//! needs nothing else.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sherd_protocol::message::{Assignment, Index, PastMap};
use sherd_protocol::{
    IndexSettings, Plan, Policy, RangeMap, SettingsChange, ShardInfo, WireError, name,
};
use twox_hash::XxHash3_64;

use crate::config::ClusterConfig;
use crate::moves::{Move, Moves, Transition};

/// How many past maps are remembered.
const HISTORY_LENGTH: usize = 1000;

/// How many epochs of the lineage are remembered: a shard may have missed that many changes.
const LINEAGE_LENGTH: usize = 10_000;

/// What bootstrap knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Which shard owns what, at which epoch.
    pub(crate) map: RangeMap,
    /// The maps before this one, oldest first; epochs that changed the catalogue only are left out.
    pub(crate) history: Vec<PastMap>,
    /// The indexes there are, in the order in which they were created.
    pub(crate) indexes: Vec<Index>,
    /// The id of the next index: no id is given twice.
    pub(crate) next_index_id: u32,
    /// Indexes that were dropped, and that a shard which is away may still hold. Until all have
    /// confirmed, no index of the same name is created: that shard would take writes for the new
    /// one into the old one.
    pub(crate) dropped: Vec<Index>,
    /// The epochs that led here, oldest first, the present one last.
    pub(crate) lineage: Vec<Ancestor>,
    /// Ranges on their way between shards.
    #[serde(default)]
    pub(crate) moves: Moves,
    /// The shards that have taken an assignment. One of them that remembers none is not the one that it
    /// was: it runs on another data directory, or its disk is lost.
    #[serde(default)]
    pub(crate) met: BTreeSet<String>,
}

/// An epoch of the lineage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ancestor {
    /// The epoch.
    pub(crate) epoch: u64,
    /// A hash of the state at that epoch and of all before it.
    pub(crate) hash: u64,
}

/// How a state that a shard holds relates to this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kinship {
    /// It is this one or led to it, as far as is remembered.
    Ancestor,
    /// It came after this one, or from another history: this state is an old copy.
    Stranger,
}

/// A change of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Adds an index to the catalogue.
    CreateIndex {
        /// Its name.
        name: String,
        /// Its limits, policy and time to live.
        settings: IndexSettings,
    },
    /// Changes the settings of an index.
    SetIndex {
        /// Its name.
        name: String,
        /// What of them.
        change: SettingsChange,
    },
    /// Takes an index out of the catalogue.
    DropIndex {
        /// Its name.
        name: String,
    },
    /// Forgets dropped indexes: every shard has confirmed that it holds none of them.
    ForgetDropped {
        /// Their ids.
        ids: Vec<u32>,
    },
    /// Remembers that shards have taken an assignment.
    Meet {
        /// Their names.
        shards: Vec<String>,
    },
    /// Sets a shard's limit and policy.
    SetShard {
        /// The shard's name.
        shard: String,
        /// The new limit in bytes, where it is to change.
        size: Option<u64>,
        /// The new policy, where it is to change.
        policy: Option<Policy>,
        /// When, in milliseconds since 1970.
        at: u64,
    },
    /// Begins to carry out a plan.
    StartMoves {
        /// The plan.
        plan: Box<Plan>,
        /// How many bytes a second a move may bring.
        rate: Option<u64>,
        /// When, in milliseconds since 1970.
        at: u64,
    },
    /// Ends all moves that are not being handed over.
    CancelMoves {
        /// When, in milliseconds since 1970.
        at: u64,
    },
    /// Stops moves, or lets them go on.
    PauseMoves {
        /// Whether they stop.
        paused: bool,
    },
    /// The move under way goes on to its next step, or back to one.
    AdvanceMove {
        /// The move.
        id: String,
        /// What became of its step.
        transition: Transition,
        /// When, in milliseconds since 1970.
        at: u64,
    },
}

impl State {
    /// The state of a new cluster. `cluster` is its id.
    pub(crate) fn new(config: &ClusterConfig, cluster: String) -> Self {
        let mut state = Self {
            map: RangeMap {
                cluster,
                epoch: 1,
                hash_method: config.hash_method,
                shards: config.shards.clone(),
                ranges: config.ranges.clone(),
            },
            history: Vec::new(),
            indexes: Vec::new(),
            next_index_id: 1,
            dropped: Vec::new(),
            lineage: Vec::new(),
            moves: Moves::default(),
            met: BTreeSet::new(),
        };
        state.extend_lineage();
        state
    }

    /// The state after a command.
    ///
    /// # Errors
    /// Why the command cannot be carried out.
    pub(crate) fn apply(&self, command: &Command) -> Result<Self, WireError> {
        let mut next = self.clone();
        if let Command::StartMoves { plan, rate, .. } = command
            && plan.is_empty()
        {
            self.check_start(plan, *rate)?;
            return Ok(next);
        }
        // No shard and no client is told of these, so no epoch.
        match command {
            Command::ForgetDropped { ids } => {
                next.dropped.retain(|index| !ids.contains(&index.id));
                return Ok(next);
            }
            Command::Meet { shards } => {
                let in_map = shards.iter().filter(|shard| self.map.shard(shard).is_some());
                next.met.extend(in_map.cloned());
                return Ok(next);
            }
            _ => {}
        }
        // Every change gets an epoch, those of the catalogue too: so a bootstrap on an old copy of
        // its data is found out, before it makes shards drop the indexes that it does not know.
        next.map.epoch += 1;
        match command {
            Command::CreateIndex { name, settings } => {
                name::check_index(name).map_err(|error| WireError::bad_request("name", error))?;
                if self.index(name).is_some() {
                    return Err(WireError::IndexExists { index: name.clone() });
                }
                if self.is_dropped(name) {
                    let shards = "not all have confirmed it".to_owned();
                    return Err(WireError::IndexHeld { index: name.clone(), shards });
                }
                self.check_settings(settings)?;
                let (id, name, settings) = (self.next_index_id, name.clone(), *settings);
                next.indexes.push(Index { id, name, settings });
                next.next_index_id += 1;
            }
            Command::SetIndex { name, change } => {
                let index = next.indexes.iter_mut().find(|index| index.name == *name);
                let missing = || WireError::IndexNotFound { index: name.clone() };
                let index = index.ok_or_else(missing)?;
                index.settings = change.apply(index.settings);
                self.check_settings(&index.settings)?;
            }
            Command::DropIndex { name } => {
                let Some(index) = self.index(name) else {
                    return Err(WireError::IndexNotFound { index: name.clone() });
                };
                next.dropped.push(index.clone());
                next.indexes.retain(|index| index.name != *name);
            }
            Command::ForgetDropped { .. } | Command::Meet { .. } => {}
            Command::SetShard { shard, size, policy, at } => {
                let position = self.map.shards.iter().position(|known| known.name == *shard);
                let Some(position) = position else {
                    let what = format!("there is no shard {shard:?}; `sherd map` names them");
                    return Err(WireError::bad_request("shard", what));
                };
                if *size == Some(0) {
                    return Err(WireError::bad_request("size", "a shard needs at least 1 byte"));
                }
                let info = &mut next.map.shards[position];
                info.size = size.unwrap_or(info.size);
                info.policy = policy.unwrap_or(info.policy);
                let set = format!("shard {shard:?} set to {} bytes, {}", info.size, info.policy);
                next.remember(&self.map, *at, set);
            }
            Command::StartMoves { plan, rate, at } => {
                self.start_moves(&mut next, plan, *rate, *at)?;
            }
            Command::CancelMoves { at } => self.cancel_moves(&mut next, *at),
            Command::PauseMoves { paused } => self.pause_moves(&mut next, *paused),
            Command::AdvanceMove { id, transition, at } => {
                self.advance_move(&mut next, id, transition, *at)?;
            }
        }
        // One that has left may come again, empty.
        next.met.retain(|shard| next.map.shard(shard).is_some());
        next.extend_lineage();
        Ok(next)
    }

    /// Checks the settings of an index: that each shard gets something of each limit.
    pub(crate) fn check_settings(&self, settings: &IndexSettings) -> Result<(), WireError> {
        if settings.ttl == Some(0) {
            return Err(WireError::bad_request("settings.ttl", "a time to live is at least 1 ms"));
        }
        match without_share(&self.map, settings) {
            None => Ok(()),
            Some((field, shard)) => {
                let what = format!(
                    "too low: nothing of it is left for shard {shard:?}, whose share is by the width of \
                     its ranges"
                );
                Err(WireError::bad_request(&format!("settings.{field}"), what))
            }
        }
    }

    /// Checks that with another map each shard gets something of each limit of an index: it could not
    /// be met there.
    pub(crate) fn check_limits(&self, map: &RangeMap) -> Result<(), String> {
        for Index { name, settings, .. } in &self.indexes {
            if let Some((field, shard)) = without_share(map, settings) {
                let option = field.replace('_', "-");
                return Err(format!(
                    "nothing of the {field} of index {name:?} would be left for shard {shard:?}, whose \
                     share is by the width of its ranges; raise it with `sherd index set {name} \
                     --{option}`, or give the shard more or nothing"
                ));
            }
        }
        Ok(())
    }

    /// Whether an index of that name was dropped and may still be held by a shard.
    pub(crate) fn is_dropped(&self, name: &str) -> bool {
        self.dropped.iter().any(|index| index.name == name)
    }

    /// How the state that a shard holds relates to this one.
    pub(crate) fn kinship(&self, epoch: u64, hash: u64) -> Kinship {
        let before_memory = self.lineage.first().is_some_and(|oldest| epoch < oldest.epoch);
        if before_memory || self.lineage.contains(&Ancestor { epoch, hash }) {
            Kinship::Ancestor
        } else {
            Kinship::Stranger
        }
    }

    /// Adds this state to its lineage.
    fn extend_lineage(&mut self) {
        let before = self.lineage.last().map_or(0, |ancestor| ancestor.hash);
        let told = (&self.map, &self.indexes, self.next_index_id, before);
        // Plain structures of strings and integers into memory: there is nothing to fail.
        let bytes = serde_json::to_vec(&told).unwrap_or_default();
        let hash = XxHash3_64::oneshot(&bytes);
        self.lineage.push(Ancestor { epoch: self.map.epoch, hash });
        if self.lineage.len() > LINEAGE_LENGTH {
            self.lineage.remove(0);
        }
    }

    /// The index of that name.
    pub(crate) fn index(&self, name: &str) -> Option<&Index> {
        self.indexes.iter().find(|index| index.name == name)
    }

    /// The indexes with a shard's share of their settings.
    pub(crate) fn shares(&self, shard: &str) -> Vec<Index> {
        let ranges = self.ranges_with_incoming(shard);
        let share =
            |index: &Index| Index { settings: index.settings.share(&ranges), ..index.clone() };
        self.indexes.iter().map(share).collect()
    }

    /// What a shard is to be told; `None` for a shard that is not in the map.
    pub(crate) fn assignment(&self, shard: &str) -> Option<Assignment> {
        let info = self.map.shard(shard)?;
        Some(Assignment {
            cluster: self.map.cluster.clone(),
            name: info.name.clone(),
            epoch: self.map.epoch,
            lineage: self.lineage.last().map_or(0, |ancestor| ancestor.hash),
            hash_method: self.map.hash_method,
            ranges: self.map.ranges_of(shard),
            size: info.size,
            policy: info.policy,
            gives_up: self.moves.current().filter(|it| it.from == shard).and_then(Move::frozen),
        })
    }

    /// In what a config differs from the state, for a report: the state wins.
    pub(crate) fn differences(&self, config: &ClusterConfig) -> Vec<String> {
        let mut found = Vec::new();
        let map = &self.map;
        if map.hash_method != config.hash_method {
            let (ours, theirs) = (map.hash_method, config.hash_method);
            found.push(format!("hash_method: the cluster has {ours}, the config {theirs}"));
        }
        for shard in &config.shards {
            match map.shard(&shard.name) {
                None => found.push(format!("shard {:?}: only in the config", shard.name)),
                Some(ours) => {
                    let fields = [
                        ("host, port", ours.address(), shard.address()),
                        ("size", ours.size.to_string(), shard.size.to_string()),
                        ("policy", ours.policy.to_string(), shard.policy.to_string()),
                    ];
                    let different = fields.into_iter().filter(|(_, ours, theirs)| ours != theirs);
                    found.extend(different.map(|(field, ours, theirs)| {
                        let name = &shard.name;
                        format!(
                            "shard {name:?}: {field}: the cluster has {ours}, the config {theirs}"
                        )
                    }));
                }
            }
        }
        for shard in &map.shards {
            if !config.shards.iter().any(|theirs| theirs.name == shard.name) {
                found.push(format!("shard {:?}: only in the cluster", shard.name));
            }
        }
        if map.ranges != config.ranges {
            found.push(format!("ranges: the cluster has those of epoch {}", map.epoch));
        }
        found
    }

    /// Puts a map that is being replaced into the history.
    pub(crate) fn remember(&mut self, past: &RangeMap, at: u64, why: String) {
        self.history.push(PastMap { map: past.clone(), until: at, why });
        if self.history.len() > HISTORY_LENGTH {
            self.history.remove(0);
        }
    }
}

/// Of which limit a shard of a map would get nothing though it owns something, and which shard.
fn without_share<'a>(
    map: &'a RangeMap,
    settings: &IndexSettings,
) -> Option<(&'static str, &'a str)> {
    let of_shard = |shard: &'a ShardInfo| {
        let ranges = map.ranges_of(&shard.name);
        let share = settings.share(&ranges);
        let limits = [("max_bytes", share.max_bytes), ("max_documents", share.max_documents)];
        let nothing = limits.into_iter().find(|(_, limit)| *limit == Some(0));
        nothing.filter(|_| !ranges.is_empty()).map(|(field, _)| (field, &*shard.name))
    };
    map.shards.iter().find_map(of_shard)
}

/// Now, in milliseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use sherd_protocol::Change;

    use super::*;

    fn state() -> State {
        let text = r#"{"shards": [
            {"name": "a", "start": 0, "end": 0.25, "size": 10, "host": "h", "port": 1},
            {"name": "b", "start": 0.25, "end": 1, "size": 10, "host": "h", "port": 2}
        ]}"#;
        State::new(&ClusterConfig::parse(text).unwrap(), "c0ffee".to_owned())
    }

    fn create(name: &str) -> Command {
        Command::CreateIndex { name: name.to_owned(), settings: IndexSettings::default() }
    }

    fn drop_index(name: &str) -> Command {
        Command::DropIndex { name: name.to_owned() }
    }

    #[test]
    fn an_index_id_is_never_given_twice() {
        let state = state().apply(&create("x")).unwrap().apply(&create("y")).unwrap();
        let dropped = state.apply(&drop_index("y")).unwrap();
        let too_early = dropped.apply(&create("y"));
        assert!(matches!(too_early, Err(WireError::IndexHeld { .. })), "{too_early:?}");
        let state = dropped
            .apply(&Command::ForgetDropped { ids: vec![2] })
            .unwrap()
            .apply(&create("y"))
            .unwrap();
        let another = dropped.apply(&Command::ForgetDropped { ids: vec![7] }).unwrap();
        assert!(another.is_dropped("y"), "only what was confirmed is forgotten");
        let ids: Vec<_> = state.indexes.iter().map(|index| (index.id, &*index.name)).collect();
        assert_eq!(ids, [(1, "x"), (3, "y")]);
        let exists = WireError::IndexExists { index: "x".to_owned() };
        assert_eq!(state.apply(&create("x")), Err(exists));
        let missing = WireError::IndexNotFound { index: "z".to_owned() };
        assert_eq!(state.apply(&drop_index("z")), Err(missing));
        assert!(matches!(state.apply(&create("no/slash")), Err(WireError::BadRequest(_))));
    }

    #[test]
    fn an_old_copy_knows_its_descendants_for_strangers() {
        let newest = |state: &State| *state.lineage.last().unwrap();
        let old = state().apply(&create("x")).unwrap();
        let held = newest(&old.apply(&create("y")).unwrap());
        assert_eq!(old.kinship(held.epoch, held.hash), Kinship::Stranger);
        // Also when the copy has gone on by itself to the same epoch and beyond.
        let strayed = old.apply(&create("z")).unwrap();
        assert_eq!(strayed.map.epoch, held.epoch);
        assert_eq!(strayed.kinship(held.epoch, held.hash), Kinship::Stranger);
        let further = strayed.apply(&drop_index("z")).unwrap();
        assert_eq!(further.kinship(held.epoch, held.hash), Kinship::Stranger);
        let Ancestor { epoch, hash } = newest(&old);
        assert_eq!(further.kinship(epoch, hash), Kinship::Ancestor);
    }

    #[test]
    fn who_has_met_bootstrap_is_no_matter_of_shards_and_epochs() {
        let before = state();
        let meet = |names: &[&str]| {
            let shards = names.iter().map(|&name| name.to_owned()).collect();
            Command::Meet { shards }
        };
        let met = before.apply(&meet(&["a", "gone"])).unwrap();
        assert_eq!(met.met, BTreeSet::from(["a".to_owned()]), "what has left is not waited for");
        assert_eq!((&met.map, &met.lineage), (&before.map, &before.lineage));
        assert_eq!(met.apply(&create("x")).unwrap().met, met.met);
        // As it was written before there was anything of it.
        let mut old = serde_json::to_value(&before).unwrap();
        old.as_object_mut().unwrap().remove("met");
        assert_eq!(serde_json::from_value::<State>(old).unwrap(), before);
    }

    #[test]
    fn a_new_size_or_policy_makes_a_new_epoch_and_the_old_map_is_remembered() {
        let before = state();
        let set = |shard: &str, size| Command::SetShard {
            shard: shard.to_owned(),
            size: Some(size),
            policy: Some(Policy::Lfu),
            at: 7,
        };
        let after = before.apply(&set("b", 99)).unwrap();
        assert_eq!(after.map.epoch, before.map.epoch + 1);
        let told = after.assignment("b").map(|told| (told.size, told.policy));
        assert_eq!(told, Some((99, Policy::Lfu)));
        assert_eq!(after.history.len(), 1);
        assert_eq!(after.history[0].map, before.map);
        assert_eq!(after.map.check(), Ok(()));
        assert!(matches!(before.apply(&set("z", 1)), Err(WireError::BadRequest(_))));
        assert!(matches!(before.apply(&set("a", 0)), Err(WireError::BadRequest(_))));
    }

    #[test]
    fn shards_share_the_limits_of_an_index_by_the_width_of_their_ranges() {
        let settings = IndexSettings { max_bytes: Some(1000), ..IndexSettings::default() };
        let made = Command::CreateIndex { name: "x".to_owned(), settings };
        let state = state().apply(&made).unwrap();
        let share = |state: &State, shard: &str| state.shares(shard)[0].settings;
        assert_eq!(share(&state, "a").max_bytes, Some(250));
        assert_eq!(share(&state, "b").max_bytes, Some(750));
        let change = SettingsChange {
            max_bytes: Change::Unset,
            max_documents: Change::Set(5),
            policy: Change::Set(Policy::Lru),
            ttl: Change::Set(1),
        };
        let set = |change| Command::SetIndex { name: "x".to_owned(), change };
        let after = state.apply(&set(change)).unwrap();
        assert_eq!(after.map.epoch, state.map.epoch + 1);
        let expected = IndexSettings {
            max_bytes: None,
            max_documents: Some(4),
            policy: Some(Policy::Lru),
            ttl: Some(1),
        };
        assert_eq!(share(&after, "b"), expected);
        // A quarter of 3 documents is none.
        let too_low = SettingsChange { max_documents: Change::Set(3), ..change };
        let error = after.apply(&set(too_low)).unwrap_err().to_string();
        assert!(error.contains("max_documents") && error.contains("\"a\""), "{error}");
        let never = SettingsChange { ttl: Change::Set(0), ..change };
        assert!(matches!(after.apply(&set(never)), Err(WireError::BadRequest(_))));
    }

    #[test]
    fn differences_to_a_config_are_named() {
        let text = r#"{"hash_method": "xxh3", "shards": [
            {"name": "a", "start": 0, "end": 0.5, "size": 11, "host": "h", "port": 1},
            {"name": "z", "start": 0.5, "end": 1, "size": 10, "host": "h", "port": 3}
        ]}"#;
        let found = state().differences(&ClusterConfig::parse(text).unwrap());
        assert_eq!(
            found,
            [
                "hash_method: the cluster has md5, the config xxh3",
                "shard \"a\": size: the cluster has 10, the config 11",
                "shard \"z\": only in the config",
                "shard \"b\": only in the cluster",
                "ranges: the cluster has those of epoch 1",
            ]
        );
    }
}
