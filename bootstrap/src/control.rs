//! Changing the cluster's state, and keeping the shards up to it.
//!
//! A change is persisted, then shown to clients and told to the shards, then answered once every
//! connected shard holds it; the drop of an index once every shard does. A shard that is away gets
//! it on its return: one task for each shard
//! connects, hands out the newest state, and does so again after every change and every loss of
//! the connection. What a shard is told is the whole state, never a step, so nothing depends on
//! which steps it has seen.
//!
//! A shard that refuses because it belongs to another cluster is left as it is, and so is one that
//! holds a state that this bootstrap's does not come from: bootstrap then runs on an old copy of its
//! data. The status says why.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use sherd_client::{ConnectOptions, Connection, Error as ClientError, ShardReply};
use sherd_node::{blocking, hold_at};
use sherd_protocol::message::{
    DropIndex, Incoming, Index, MoveId, Role, SetShare, SetSize, ShardOperation, ShardStat,
    ShardStatus, TargetOperation,
};
use sherd_protocol::ring::RING_BUCKETS;
use sherd_protocol::{Action, Plan, ShardInfo, WireError};
use tokio::sync::{Mutex as AsyncMutex, RwLock as AsyncRwLock, RwLockWriteGuard, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::mover;
use crate::moves::Taken;
use crate::planner::{self, Amount, Fill};
use crate::state::{Command, Kinship, State, now};
use crate::store::Store;

/// How long a change waits for the connected shards. One that has not answered by then is slow or
/// gone, and gets the change when it is back.
const ACKNOWLEDGE_TIME: Duration = Duration::from_secs(5);

/// How long a drop waits for all shards. Other changes wait meanwhile, and whoever asked is told
/// which shards are missing.
const CONFIRM_TIME: Duration = Duration::from_secs(2);

/// How long a shard may take for one control operation.
const OPERATION_TIME: Duration = Duration::from_secs(5);

/// How long a lower limit waits for the shards to evict down to it, before whoever asked is told to
/// ask again: less than a client's usual deadline, so that it hears why.
const LOWERING_TIME: Duration = Duration::from_secs(8);

/// How often a connected shard is asked for a sign of life.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// The pause before connecting again, doubled after each failure.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// The longest pause: a shard that is back is found within this time.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The cluster's state and the shards.
pub(crate) struct Control {
    store: Arc<Store>,
    /// The persisted state. Its epoch tells how far a shard is.
    state: watch::Sender<Arc<State>>,
    /// Held during a change: one at a time. The error is of a write that may or may not have
    /// happened, after which nothing can be changed before a restart has read what is there.
    changing: AsyncMutex<Option<String>>,
    /// Held for writing while shards are asked for what is not persisted yet, so that nobody tells
    /// them the persisted state meanwhile.
    asking: Arc<AsyncRwLock<()>>,
    /// In the order of the map.
    shards: RwLock<Vec<Shard>>,
    /// A task for each shard, and the one that drives moves.
    tasks: Mutex<JoinSet<()>>,
    options: ConnectOptions,
    /// What the source of the move under way said to giving its range up.
    verdict: watch::Sender<Option<Verdict>>,
    /// How far the move under way is.
    pub(crate) report: Mutex<Option<Incoming>>,
}

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
    name: String,
    connection: Arc<Mutex<Option<Connection>>>,
    progress: watch::Sender<Progress>,
    verdict: watch::Sender<Option<Verdict>>,
}

/// How far a shard is.
#[derive(Clone, Debug, Default)]
struct Progress {
    /// It is connected and has not refused.
    connected: bool,
    /// The epoch of the state it holds.
    epoch: u64,
    /// It holds a state that this bootstrap's does not come from.
    stranger: bool,
    /// Why it does not hold the newest.
    why: Option<String>,
}

impl Progress {
    /// Whether the shard is known to hold the state of `epoch`.
    fn holds(&self, epoch: u64) -> bool {
        self.connected && self.epoch >= epoch
    }
}

impl Control {
    pub(crate) fn new(store: Store, state: State, options: ConnectOptions) -> Self {
        Self {
            shards: RwLock::default(),
            store: Arc::new(store),
            state: watch::Sender::new(Arc::new(state)),
            changing: AsyncMutex::default(),
            asking: Arc::default(),
            tasks: Mutex::default(),
            options,
            verdict: watch::Sender::default(),
            report: Mutex::default(),
        }
    }

    /// The persisted state.
    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.borrow())
    }

    /// How the shards are.
    pub(crate) fn status(&self) -> Vec<ShardStatus> {
        let epoch = self.state().map.epoch;
        let status = |shard: &Shard| {
            let progress = shard.progress.borrow();
            let ready = progress.connected && progress.epoch == epoch;
            let why = (!ready).then(|| {
                progress.why.clone().unwrap_or_else(|| "it is being told the newest state".into())
            });
            ShardStatus { name: shard.name.clone(), ready, why }
        };
        self.shards().iter().map(status).collect()
    }

    /// The shards, in the order of the map.
    pub(crate) fn shards(&self) -> Vec<Shard> {
        self.shards.read().clone()
    }

    /// The shard of that name.
    pub(crate) fn shard(&self, name: &str) -> Option<Shard> {
        self.shards.read().iter().find(|shard| shard.name == name).cloned()
    }

    /// Starts a task for each shard, and one for moves.
    pub(crate) fn start(self: &Arc<Self>) {
        self.suit_shards();
        self.tasks.lock().spawn(mover::drive(Arc::clone(self)));
    }

    /// Ends all tasks.
    pub(crate) fn stop(&self) {
        self.tasks.lock().abort_all();
    }

    /// Looks after the shards of the map, and no others. The task of a shard that is not in it any more
    /// ends by itself.
    fn suit_shards(&self) {
        let state = self.state();
        let mut shards = self.shards.write();
        let known = std::mem::take(&mut *shards);
        for info in &state.map.shards {
            if let Some(shard) = known.iter().find(|shard| shard.name == info.name) {
                shards.push(shard.clone());
                continue;
            }
            let shard = Shard {
                name: info.name.clone(),
                connection: Arc::default(),
                progress: watch::Sender::new(Progress {
                    why: Some("not connected yet".to_owned()),
                    ..Progress::default()
                }),
                verdict: self.verdict.clone(),
            };
            let (state, asking) = (self.state.subscribe(), Arc::clone(&self.asking));
            let options = self.options.clone();
            self.tasks.lock().spawn(shard.clone().look_after(state, asking, options));
            shards.push(shard);
        }
    }

    /// What would move for some actions, by what the shards hold now.
    ///
    /// # Errors
    /// `unavailable` while a shard is away; why the actions cannot be carried out.
    pub(crate) async fn plan(&self, actions: &[Action]) -> Result<Plan, WireError> {
        let state = self.state();
        let mut fill = [Amount::default(); RING_BUCKETS];
        for shard in self.shards() {
            let sums = match shard.ask(&ShardOperation::Buckets, OPERATION_TIME).await? {
                ShardReply::Buckets(sums) => sums,
                other => return Err(unexpected(&shard.name, &other)),
            };
            for ((amount, documents), bytes) in fill.iter_mut().zip(sums.documents).zip(sums.bytes)
            {
                amount.documents = amount.documents.saturating_add(documents);
                amount.bytes = amount.bytes.saturating_add(bytes);
            }
        }
        Ok(planner::plan(&state.map, &Fill::new(&fill), actions)?)
    }

    /// Persists a step of a move. Nobody is waited for.
    pub(crate) async fn take_step(&self, id: &str, taken: Taken) -> Result<(), WireError> {
        let mut failed = self.changing.lock().await;
        if let Some(why) = &*failed {
            return Err(unavailable(why.clone()));
        }
        self.check_kinship()?;
        let command = Command::TakeStep { id: id.to_owned(), taken, at: now() };
        let next = Arc::new(self.state().apply(&command)?);
        self.persist(&mut failed, next).await
    }

    /// What the source of the move under way says to giving its range up.
    pub(crate) fn verdict(&self) -> watch::Receiver<Option<Verdict>> {
        self.verdict.subscribe()
    }

    /// The persisted state, as it changes.
    pub(crate) fn states(&self) -> watch::Receiver<Arc<State>> {
        self.state.subscribe()
    }

    /// Carries out a command: persists it, and waits for the shards to hold it.
    ///
    /// # Errors
    /// Why it was refused; then nothing has changed. `unavailable` when it could not be persisted,
    /// `index_held` when an index is dropped and a shard has not confirmed it.
    pub(crate) async fn change(&self, command: Command) -> Result<Arc<State>, WireError> {
        let mut failed = self.changing.lock().await;
        if let Some(why) = &*failed {
            return Err(unavailable(why.clone()));
        }
        self.check_kinship()?;
        match &command {
            Command::DropIndex { name } if self.state().is_dropped(name) => {
                return self.confirm_drop(&mut failed, name).await;
            }
            Command::CreateIndex { name, .. } if self.state().is_dropped(name) => {
                self.confirm_drop(&mut failed, name).await?;
            }
            _ => {}
        }
        let next = Arc::new(self.state().apply(&command)?);
        {
            let _asking = match &command {
                Command::SetShard { .. } | Command::SetIndex { .. } => {
                    Some(self.ask_for_limits(&command, &next).await?)
                }
                _ => None,
            };
            self.persist(&mut failed, Arc::clone(&next)).await?;
        }
        if let Command::DropIndex { name } = &command {
            return self.confirm_drop(&mut failed, name).await;
        }
        let epoch = next.map.epoch;
        if !self.hold(epoch, |progress| !progress.connected, ACKNOWLEDGE_TIME).await {
            tracing::warn!(epoch, "a connected shard is slow to take the new state");
        }
        Ok(next)
    }

    /// Persists a state and shows it.
    async fn persist(
        &self,
        failed: &mut Option<String>,
        next: Arc<State>,
    ) -> Result<(), WireError> {
        let (store, persisted) = (Arc::clone(&self.store), Arc::clone(&next));
        let written = blocking(move || store.write(&persisted)).await;
        let written = written.map_err(|error| error.to_string());
        if let Err(why) = written.and_then(|written| written.map_err(|error| error.to_string())) {
            tracing::error!(%why, "the state could not be persisted; restart bootstrap");
            *failed = Some(why.clone());
            return Err(unavailable(why));
        }
        self.state.send_replace(next);
        self.suit_shards();
        Ok(())
    }

    /// Waits for a time until every shard holds the state of `epoch`, those for which `excused` is
    /// true excepted. Returns whether they do.
    async fn hold(
        &self,
        epoch: u64,
        excused: impl Fn(&Progress) -> bool,
        within: Duration,
    ) -> bool {
        let all_hold_it = async {
            for shard in self.shards() {
                let mut progress = shard.progress.subscribe();
                let holds = |progress: &Progress| progress.holds(epoch) || excused(progress);
                // The sender lives as long as `self`.
                _ = progress.wait_for(holds).await;
            }
        };
        timeout(within, all_hold_it).await.is_ok()
    }

    /// The shards that do not hold the state of `epoch`.
    fn away(&self, epoch: u64) -> Vec<String> {
        let is_away = |shard: &Shard| !shard.progress.borrow().holds(epoch);
        self.shards().into_iter().filter(is_away).map(|shard| shard.name).collect()
    }

    /// Waits until no shard holds a dropped index any more. A shard that is away would still serve
    /// it for a moment on its return, so without all of them the drop is not done.
    async fn confirm_drop(
        &self,
        failed: &mut Option<String>,
        name: &str,
    ) -> Result<Arc<State>, WireError> {
        let state = self.state();
        if self.hold(state.map.epoch, |_| false, CONFIRM_TIME).await {
            let forgotten = Arc::new(state.apply(&Command::ForgetDropped)?);
            self.persist(failed, Arc::clone(&forgotten)).await?;
            return Ok(forgotten);
        }
        let shards = self.away(state.map.epoch).join(", ");
        Err(WireError::IndexHeld { index: name.to_owned(), shards })
    }

    /// Refuses changes while a shard holds a state that this one does not come from.
    fn check_kinship(&self) -> Result<(), WireError> {
        for shard in self.shards() {
            let progress = shard.progress.borrow();
            if progress.stranger {
                let why = progress.why.clone().unwrap_or_default();
                return Err(unavailable(format!("shard {}: {why}", shard.name)));
            }
        }
        Ok(())
    }

    /// Asks the shards to take limits before they are persisted: a shard knows what it uses, and may
    /// refuse, or have to evict first. Should that fail half-way, or bootstrap die before the limits
    /// are persisted, the old ones are handed out again.
    async fn ask_for_limits(
        &self,
        command: &Command,
        next: &State,
    ) -> Result<RwLockWriteGuard<'_, ()>, WireError> {
        let asking = self.asking.write().await;
        let until = Instant::now() + LOWERING_TIME;
        match command {
            Command::SetShard { shard: name, policy, .. } => {
                let size = next.map.shard(name).map_or(0, |info| info.size);
                let set = ShardOperation::SetSize(SetSize { size, policy: *policy });
                if let Some(shard) = self.shard(name) {
                    shard.ask_for_limit(&set, until).await?;
                }
            }
            Command::SetIndex { name, .. } => {
                let (before, after) = (self.state(), next);
                let settings = |state: &State| state.index(name).map(|index| index.settings);
                let (before, after) = (settings(&before), settings(after));
                let is_lower = after.zip(before).is_some_and(|(a, b)| a.is_lower_than(&b));
                if is_lower {
                    let mut asked = JoinSet::new();
                    for shard in self.shards() {
                        let mut shares = next.shares(&shard.name).into_iter();
                        let Some(share) = shares.find(|index| index.name == *name) else {
                            continue;
                        };
                        asked.spawn(async move {
                            let Index { id, name, settings } = &share;
                            let share =
                                SetShare { id: *id, name, settings: *settings, force: false };
                            shard.ask_for_limit(&ShardOperation::SetIndex(share), until).await
                        });
                    }
                    while let Some(result) = asked.join_next().await {
                        result.map_err(|error| unavailable(error.to_string()))??;
                    }
                }
            }
            _ => {}
        }
        Ok(asking)
    }
}

impl Shard {
    /// Asks the shard, if it is connected.
    pub(crate) async fn ask(
        &self,
        operation: &ShardOperation<'_>,
        within: Duration,
    ) -> Result<ShardReply, WireError> {
        let what = || format!("shard {:?}", self.name);
        let away = |why: String| WireError::Unavailable { what: what(), why };
        let connection = self.connection.lock().clone();
        let connection = connection.ok_or_else(|| away("it is not connected".to_owned()))?;
        match connection.shard(operation, Instant::now() + within).await {
            Ok(reply) => Ok(reply),
            Err(ClientError::Refused { error, .. }) => Err(error),
            Err(error) => Err(away(error.to_string())),
        }
    }

    /// Waits until the shard holds the state of an epoch.
    pub(crate) async fn holds(&self, epoch: u64) {
        // The sender lives as long as `self`.
        _ = self.progress.subscribe().wait_for(|progress| progress.holds(epoch)).await;
    }

    /// Asks the shard to take a limit.
    async fn ask_for_limit(
        &self,
        operation: &ShardOperation<'_>,
        until: Instant,
    ) -> Result<(), WireError> {
        let away = |why: String| {
            let what = format!("shard {:?}", self.name);
            WireError::Unavailable { what, why }
        };
        let connection = self.connection.lock().clone();
        let connection = connection.ok_or_else(|| away("it is not connected".to_owned()))?;
        match connection.shard(operation, until).await {
            Ok(_) => Ok(()),
            Err(ClientError::Refused { error, .. }) => Err(error),
            Err(ClientError::Unanswered { .. }) if Instant::now() >= until => {
                Err(away("it still evicts documents down to the lower limit".to_owned()))
            }
            Err(error) => Err(away(error.to_string())),
        }
    }

    /// Connects, tells the newest state, and again, for ever.
    async fn look_after(
        self,
        mut state: watch::Receiver<Arc<State>>,
        asking: Arc<AsyncRwLock<()>>,
        options: ConnectOptions,
    ) {
        let mut pause = FIRST_PAUSE;
        loop {
            let info = state.borrow().map.shard(&self.name).cloned();
            let Some(info) = info else { return };
            let ended = match self.connect(&info, &options).await {
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

    async fn connect(
        &self,
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
        let assignment = state.assignment(&self.name).ok_or("it is not in the map any more")?;
        let epoch = assignment.epoch;
        let failed = |error: ClientError| error.to_string();
        let held = stat(connection).await.map_err(failed)?;
        let is_stranger = held.cluster == state.map.cluster
            && state.kinship(held.epoch, held.lineage) == Kinship::Stranger;
        self.progress.send_if_modified(|progress| {
            std::mem::replace(&mut progress.stranger, is_stranger) != is_stranger
        });
        if is_stranger {
            return Err(format!(
                "this bootstrap is at epoch {epoch}, the shard holds an epoch {} that this one \
                 does not know: bootstrap runs on an old copy of its data; stop it and start it on \
                 the newest",
                held.epoch
            ));
        }
        if let Some(held) = &held.incoming
            && !state.moves.current().is_some_and(|it| it.id == held.id && it.to == self.name)
        {
            let stop = TargetOperation::Stop(MoveId { id: &held.id });
            ask(connection, &ShardOperation::Target(stop)).await.map_err(failed)?;
        }
        let attempt = state.hands_over(&self.name);
        if attempt.is_some() {
            hold_at("bootstrap handing over").await;
        }
        if let Some(epoch) = attempt
            && *self.verdict.borrow() == Some(Verdict { epoch, given_up: false })
        {
            return Ok(false);
        }
        let assigned = ask(connection, &ShardOperation::Assign(assignment)).await;
        let is_refused =
            |error: &ClientError| matches!(error.wire(), Some(WireError::NotFrozen { .. }));
        if let Some(epoch) = attempt {
            let given_up = match &assigned {
                Ok(_) => Some(true),
                Err(error) if is_refused(error) => Some(false),
                Err(_) => None,
            };
            if let Some(given_up) = given_up {
                let said = Some(Verdict { epoch, given_up });
                self.verdict.send_if_modified(|held| std::mem::replace(held, said) != said);
                if !given_up {
                    return Ok(false);
                }
            }
        }
        assigned.map_err(|error| refused(&error))?;
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
        Ok(true)
    }
}

async fn ask(
    connection: &Connection,
    operation: &ShardOperation<'_>,
) -> Result<ShardReply, ClientError> {
    connection.shard(operation, Instant::now() + OPERATION_TIME).await
}

async fn stat(connection: &Connection) -> Result<Box<ShardStat>, ClientError> {
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
            "{error}; start the shard on a data directory of this cluster, or on an empty one"
        ),
        _ => error.to_string(),
    }
}

fn unexpected(shard: &str, reply: &ShardReply) -> WireError {
    WireError::Internal { what: format!("shard {shard:?} answered {reply:?}") }
}

fn unavailable(why: String) -> WireError {
    WireError::Unavailable { what: "bootstrap's state".to_owned(), why }
}
