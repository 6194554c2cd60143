//! A shard as bootstrap sees it: connected to, told the newest state, and how far it is with that.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sherd_client::{ConnectOptions, Connection, Error as ClientError, ShardReply};
use sherd_node::hold_at;
use sherd_protocol::message::{
    Assignment, DropIndex, MoveId, Role, SetShare, ShardOperation, ShardStat, ShardStatus,
    TargetOperation,
};
use sherd_protocol::{RangeMap, ShardInfo, WireError};
use thiserror::Error;
use tokio::sync::{RwLock as AsyncRwLock, watch};
use tokio::time::{Instant, sleep};

use crate::state::{Kinship, State};

/// How long a shard may take for one control operation.
pub(crate) const OPERATION_TIME: Duration = Duration::from_secs(5);

/// How often a connected shard is asked for a sign of life.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// The pause before connecting again, doubled after each failure.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// The longest pause: a shard that is back is found within this time.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// What the source of a move said to giving its range up.
///
/// Of one attempt there is one: a source that has refused is not asked again under the same epoch, or
/// the range might be taken back into the map while it is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The epoch of the map that is handed over to.
    pub(crate) epoch: u64,
    /// It has. Otherwise it has refused: the range was not frozen any more.
    pub(crate) given_up: bool,
}

/// A shard as its task sees it.
#[derive(Clone)]
pub(crate) struct Shard {
    pub(crate) name: String,
    connection: Arc<Mutex<Option<Connection>>>,
    progress: watch::Sender<Progress>,
    verdict: watch::Sender<Option<Verdict>>,
}

/// How far a shard is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// It is connected and has not refused.
    pub(crate) connected: bool,
    /// The epoch of the state it holds.
    epoch: u64,
    /// It holds a state that this bootstrap's does not come from.
    stranger: bool,
    /// Why it does not hold the newest.
    why: Option<String>,
}

impl Progress {
    /// Whether the shard is known to hold the state of `epoch`.
    pub(crate) fn holds(&self, epoch: u64) -> bool {
        self.connected && self.epoch >= epoch
    }
}

impl Shard {
    /// A shard that nobody has connected to. `verdict` is where it says what it said to giving up a
    /// range.
    pub(crate) fn new(name: String, verdict: watch::Sender<Option<Verdict>>) -> Self {
        let why = Some("not connected yet".to_owned());
        let progress = watch::Sender::new(Progress { why, ..Progress::default() });
        Self { name, connection: Arc::default(), progress, verdict }
    }

    /// How it is, where the newest state is that of `epoch`.
    pub(crate) fn status(&self, epoch: u64) -> ShardStatus {
        let progress = self.progress.borrow();
        let ready = progress.connected && progress.epoch == epoch;
        drop(progress);
        ShardStatus { name: self.name.clone(), ready, why: (!ready).then(|| self.why()) }
    }

    /// Why it does not hold the newest state.
    pub(crate) fn why(&self) -> String {
        let why = self.progress.borrow().why.clone();
        why.unwrap_or_else(|| "it is being told the newest state".to_owned())
    }

    /// Why changes are refused, where it holds a state that this bootstrap's does not come from.
    pub(crate) fn stranger(&self) -> Option<String> {
        let progress = self.progress.borrow();
        progress.stranger.then(|| progress.why.clone().unwrap_or_default())
    }

    /// How far it is, as that changes.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Waits until the shard holds the state of an epoch.
    pub(crate) async fn holds(&self, epoch: u64) {
        // The sender lives as long as `self`.
        _ = self.progress().wait_for(|progress| progress.holds(epoch)).await;
    }

    /// Waits until the shard is connected.
    pub(crate) async fn connects(&self) {
        // The sender lives as long as `self`.
        _ = self.progress().wait_for(|progress| progress.connected).await;
    }

    /// Asks the shard, if it is connected.
    pub(crate) async fn ask(
        &self,
        operation: &ShardOperation<'_>,
        within: Duration,
    ) -> Result<ShardReply, WireError> {
        self.ask_until(operation, Instant::now() + within, ToString::to_string).await
    }

    /// Asks the shard to take a limit.
    pub(crate) async fn ask_for_limit(
        &self,
        operation: &ShardOperation<'_>,
        until: Instant,
    ) -> Result<(), WireError> {
        let why = |error: &ClientError| match error {
            ClientError::Unanswered { .. } if Instant::now() >= until => {
                "it still evicts documents down to the lower limit".to_owned()
            }
            error => error.to_string(),
        };
        self.ask_until(operation, until, why).await.map(|_| ())
    }

    /// Asks the shard, if it is connected. `why` says of an error that is no refusal why it does not
    /// answer.
    async fn ask_until(
        &self,
        operation: &ShardOperation<'_>,
        until: Instant,
        why: impl FnOnce(&ClientError) -> String,
    ) -> Result<ShardReply, WireError> {
        let what = || format!("shard {:?}", self.name);
        let away = |why: String| WireError::Unavailable { what: what(), why };
        let connection = self.connection.lock().clone();
        let connection =
            connection.ok_or_else(|| away(format!("it is not connected: {}", self.why())))?;
        match connection.shard(operation, until).await {
            Ok(reply) => Ok(reply),
            Err(ClientError::Refused { error, .. }) => Err(error),
            Err(error) => Err(away(why(&error))),
        }
    }

    /// Connects, tells the newest state, and again, for ever.
    pub(crate) async fn look_after(
        self,
        mut state: watch::Receiver<Arc<State>>,
        asking: Arc<AsyncRwLock<()>>,
        options: ConnectOptions,
    ) {
        let mut pause = FIRST_PAUSE;
        loop {
            let info = state.borrow().map.shard(&self.name).cloned();
            let Some(info) = info else { return };
            let ended = match connect(&info, &options).await {
                Ok(connection) => self.attend(&connection, &mut state, &asking).await,
                Err(why) => why,
            };
            if self.connection.lock().take().is_some() {
                // It was up to the state: not one that refuses, to be left alone for longer.
                pause = FIRST_PAUSE;
            }
            self.progress.send_modify(|progress| {
                let why = Some(ended.clone());
                if progress.why != why {
                    tracing::warn!(shard = %self.name, why = %ended, "a shard is away");
                }
                *progress = Progress { connected: false, why, ..*progress };
            });
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Keeps a connected shard up to the state until the connection is lost or it refuses;
    /// returns why.
    async fn attend(
        &self,
        connection: &Connection,
        state: &mut watch::Receiver<Arc<State>>,
        asking: &AsyncRwLock<()>,
    ) -> String {
        let mut verdict = self.verdict.subscribe();
        loop {
            let telling = asking.read().await;
            let newest = Arc::clone(&state.borrow_and_update());
            let said = *verdict.borrow_and_update();
            // A target that is told before the source has given the range up would be a second owner.
            let awaits_source = newest
                .awaits_source(&self.name)
                .is_some_and(|epoch| said != Some(Verdict { epoch, given_up: true }));
            let is_told = if awaits_source {
                false
            } else {
                match self.bring_up_to(connection, &newest).await {
                    Ok(is_told) => is_told,
                    Err(why) => return why,
                }
            };
            drop(telling);
            *self.connection.lock() = Some(connection.clone());
            if !is_told {
                tokio::select! {
                    biased;
                    changed = state.changed() => if changed.is_err() {
                        return "bootstrap is stopping".to_owned();
                    },
                    _ = verdict.changed() => {}
                    why = connection.closed() => return why,
                }
                continue;
            }
            let known = self.progress.borrow().connected;
            if !known {
                tracing::info!(shard = %self.name, epoch = newest.map.epoch, "a shard is ready");
            }
            self.progress.send_replace(Progress {
                connected: true,
                epoch: newest.map.epoch,
                stranger: false,
                why: None,
            });
            tokio::select! {
                biased;
                changed = state.changed() => if changed.is_err() {
                    return "bootstrap is stopping".to_owned();
                },
                why = connection.closed() => return why,
                // Telling the state again is the sign of life: it also mends what someone else
                // may have changed.
                () = sleep(PING_INTERVAL) => {}
            }
        }
    }

    /// Tells a shard the state: its assignment, then what its indexes lack and have too much. `false`
    /// where it does not give up a range that it is to give up, for it may have changed.
    async fn bring_up_to(&self, connection: &Connection, state: &State) -> Result<bool, String> {
        let held = stat(connection).await.map_err(|error| error.to_string())?;
        self.check_kinship(state, &held)?;
        self.check_memory(state, &held)?;
        // Also where it has left the map: it is not to go on with what it was taking over.
        self.end_other_move(connection, state, &held).await?;
        let assignment = state.assignment(&self.name).ok_or("it is not in the map any more")?;
        if !self.assign(connection, state, assignment).await? {
            return Ok(false);
        }
        self.suit_indexes(connection, state, &held).await?;
        Ok(true)
    }

    /// Leaves a shard alone that holds a state which this one does not come from.
    fn check_kinship(&self, state: &State, held: &ShardStat) -> Result<(), String> {
        let is_stranger = held.cluster == state.map.cluster
            && state.kinship(held.epoch, held.lineage) == Kinship::Stranger;
        self.progress.send_if_modified(|progress| {
            std::mem::replace(&mut progress.stranger, is_stranger) != is_stranger
        });
        if !is_stranger {
            return Ok(());
        }
        Err(format!(
            "this bootstrap is at epoch {}, the shard holds an epoch {} that this one does not know: \
             bootstrap runs on an old copy of its data; stop it and start it on the newest",
            state.map.epoch, held.epoch
        ))
    }

    /// Leaves alone what has no memory of the assignment that the shard took: with that it has lost all
    /// documents, and given its ranges again it would say of each that it is not there, and take new ones.
    fn check_memory(&self, state: &State, held: &ShardStat) -> Result<(), String> {
        let name = &self.name;
        if !held.cluster.is_empty() || !state.met.contains(name) {
            return Ok(());
        }
        Err(format!(
            "it is empty, and has been a shard of this cluster before: it was started on another data \
             directory, or on a disk that is not mounted; stop it and start it on its own directory. If that \
             is lost for good, start bootstrap (or `sherd up`) once with --lost {name}, and it begins empty"
        ))
    }

    /// Ends the taking over of a range that is not to come any more.
    async fn end_other_move(
        &self,
        connection: &Connection,
        state: &State,
        held: &ShardStat,
    ) -> Result<(), String> {
        let Some(held) = &held.incoming else { return Ok(()) };
        let is_current = |it: &crate::moves::Move| it.id == held.id && it.to == self.name;
        if state.moves.current().is_some_and(is_current) {
            return Ok(());
        }
        let stop = TargetOperation::Stop(MoveId { id: &held.id });
        let stopped = ask(connection, &ShardOperation::Target(stop)).await;
        stopped.map(|_| ()).map_err(|error| error.to_string())
    }

    /// Tells a shard what it owns. Where it hands a range over, what it says to giving that up is told
    /// everyone; `false` where it refuses, now or before.
    async fn assign(
        &self,
        connection: &Connection,
        state: &State,
        assignment: Assignment,
    ) -> Result<bool, String> {
        let operation = ShardOperation::Assign(assignment);
        let Some(epoch) = state.hands_over(&self.name) else {
            let assigned = ask(connection, &operation).await;
            return assigned.map(|_| true).map_err(|error| refused(&error));
        };
        hold_at("bootstrap handing over").await;
        if *self.verdict.borrow() == Some(Verdict { epoch, given_up: false }) {
            return Ok(false);
        }
        let assigned = ask(connection, &operation).await;
        let given_up = match &assigned {
            Ok(_) => true,
            Err(error) if matches!(error.wire(), Some(WireError::NotFrozen { .. })) => false,
            Err(error) => return Err(refused(error)),
        };
        let said = Some(Verdict { epoch, given_up });
        self.verdict.send_if_modified(|held| std::mem::replace(held, said) != said);
        Ok(given_up)
    }

    /// Drops the indexes that a shard has too much, makes those that it lacks, and gives it its share of
    /// their limits.
    async fn suit_indexes(
        &self,
        connection: &Connection,
        state: &State,
        held: &ShardStat,
    ) -> Result<(), String> {
        let failed = |error: ClientError| error.to_string();
        for index in &held.indexes {
            if !state.indexes.iter().any(|known| known.id == index.id) {
                let drop = DropIndex { id: index.id, name: &index.name };
                ask(connection, &ShardOperation::DropIndex(drop)).await.map_err(failed)?;
            }
        }
        for index in state.shares(&self.name) {
            let told = match held.indexes.iter().find(|held| held.id == index.id) {
                None => ShardOperation::CreateIndex(index),
                Some(held) if held.settings != index.settings => {
                    ShardOperation::SetIndex(SetShare {
                        id: index.id,
                        name: &held.name,
                        settings: index.settings,
                        force: true,
                    })
                }
                Some(_) => continue,
            };
            ask(connection, &told).await.map_err(failed)?;
        }
        Ok(())
    }
}

/// Connects to a shard; why that is not possible.
pub(crate) async fn connect(
    info: &ShardInfo,
    options: &ConnectOptions,
) -> Result<Connection, String> {
    let address = info.address();
    let connection =
        Connection::open(&address, options).await.map_err(|error| error.to_string())?;
    if connection.welcome().role != Role::Shard {
        return Err(format!("at {address} listens {}, no shard", connection.node()));
    }
    Ok(connection)
}

/// Why a shard cannot be added as things are.
#[derive(Debug, Error)]
pub(crate) enum NoNewShard {
    /// Nobody answers there, which may be mended by starting one.
    #[error("{0}")]
    Absent(String),
    /// Somebody else listens there.
    #[error("{0}")]
    Another(String),
}

/// Checks that where a new shard is said to be there is one that can be of this cluster.
pub(crate) async fn check_new(
    map: &RangeMap,
    new: &ShardInfo,
    options: &ConnectOptions,
) -> Result<(), NoNewShard> {
    let (name, address) = (&new.name, new.address());
    let absent = |error: ClientError| {
        let (host, port) = (&new.host, new.port);
        NoNewShard::Absent(format!(
            "shard {name:?} cannot be added while there is none at {address} ({error}): start it there with \
             `sherd shard --host {host} --port {port} --data DIR`, or name the address of one that waits"
        ))
    };
    let connection = Connection::open(&address, options).await.map_err(absent)?;
    if connection.welcome().role != Role::Shard {
        return Err(NoNewShard::Another(format!(
            "shard {name:?} cannot be added: at {address} listens {}, no shard; name the address of a \
             `sherd shard`",
            connection.node()
        )));
    }
    let held = stat(&connection).await.map_err(absent)?;
    check_identity(map, new, &held).map_err(NoNewShard::Another)
}

/// Checks that a shard is no other than the one that is to be added, by what it says of itself: it may
/// have more than one address.
fn check_identity(map: &RangeMap, new: &ShardInfo, held: &ShardStat) -> Result<(), String> {
    let (cluster, name) = (&held.cluster, &held.name);
    let what = if cluster.is_empty() || (*cluster == map.cluster && *name == new.name) {
        return Ok(());
    } else if *cluster != map.cluster {
        format!("of another cluster, {cluster}; start the new one on an empty data directory")
    } else if map.shard(name).is_some() {
        "which is in the map already; start the new one on a data directory of its own".to_owned()
    } else {
        "which was removed from this cluster; add it under that name, or start it on an empty data \
         directory"
            .to_owned()
    };
    Err(format!(
        "shard {:?} cannot be added: at {} listens shard {name:?}, {what}",
        new.name,
        new.address()
    ))
}

async fn ask(
    connection: &Connection,
    operation: &ShardOperation<'_>,
) -> Result<ShardReply, ClientError> {
    connection.shard(operation, Instant::now() + OPERATION_TIME).await
}

/// What a shard says of itself.
pub(crate) async fn stat(connection: &Connection) -> Result<Box<ShardStat>, ClientError> {
    match ask(connection, &ShardOperation::Stat).await? {
        ShardReply::Stat(stat) => Ok(stat),
        other => Err(ClientError::Protocol {
            node: connection.node().to_owned(),
            what: format!("a stat was answered {other:?}"),
        }),
    }
}

/// Why a shard does not take the assignment, with what to do about it.
fn refused(error: &ClientError) -> String {
    match error.wire() {
        Some(WireError::WrongCluster { .. }) => format!(
            "{error}; one of the two was started on another data directory than before: start bootstrap on that of \
             the shard's cluster, or the shard on one of this cluster or an empty one"
        ),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClusterConfig;

    #[test]
    fn a_new_shard_is_no_other() {
        let text = r#"{"shards": [{"name": "a", "size": 10, "host": "h", "port": 1}]}"#;
        let map = State::new(&ClusterConfig::parse(text).unwrap(), "c0ffee".to_owned()).map;
        let (name, host) = ("n".to_owned(), "localhost".to_owned());
        let new = ShardInfo { name, host, port: 7, ..map.shards[0].clone() };
        let held = |cluster: &str, name: &str| {
            let (cluster, name) = (cluster.to_owned(), name.to_owned());
            check_identity(&map, &new, &ShardStat { cluster, name, ..ShardStat::default() })
        };
        assert_eq!(held("", ""), Ok(()));
        assert_eq!(held("c0ffee", "n"), Ok(()), "it was removed, and comes back");
        let refused = [
            ("c0ffee", "a", "listens shard \"a\", which is in the map already"),
            ("c0ffee", "old", "add it under that name"),
            ("decaf", "n", "of another cluster, decaf"),
        ];
        for (cluster, name, what) in refused {
            let why = held(cluster, name).unwrap_err();
            assert!(why.contains(what) && why.contains("at localhost:7 listens"), "{why}");
        }
    }
}
