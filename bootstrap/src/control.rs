//! Changing the cluster's state, and keeping the shards up to it.
//!
//! A change is persisted, then shown to clients and told to the shards, then answered once every
//! connected shard holds it; the drop of an index once every shard does. A shard that is away gets
//! it on its return: one task for each shard connects, hands out the newest state, and does so again
//! after every change and every loss of the connection. What a shard is told is the whole state,
//! never a step, so nothing depends on which steps it has seen.
//!
//! A shard that refuses because it belongs to another cluster is left as it is, and so is one that
//! holds a state that this bootstrap's does not come from: bootstrap then runs on an old copy of its
//! data. The status says why.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use sherd_client::{ConnectOptions, ShardReply};
use sherd_node::blocking;
use sherd_protocol::message::{
    Index, MoveId, MoveProgress, SetShare, SetSize, ShardOperation, ShardStatus, SourceOperation,
};
use sherd_protocol::ring::RING_BUCKETS;
use sherd_protocol::{Action, Plan, RangeMap, ShardInfo, WireError};
use tokio::sync::{
    Mutex as AsyncMutex, MutexGuard, RwLock as AsyncRwLock, RwLockWriteGuard, watch,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::mover;
use crate::moves::Transition;
use crate::planner::{self, Amount, Fill};
use crate::shard::{self, NoNewShard, OPERATION_TIME, Progress, Shard, Verdict};
use crate::state::{Command, State, now};
use crate::store::Store;

/// How long a change waits for the connected shards. One that has not answered by then is slow or
/// gone, and gets the change when it is back.
const ACKNOWLEDGE_TIME: Duration = Duration::from_secs(5);

/// How often it is looked for shards that have not been met before.
const MEETING_INTERVAL: Duration = Duration::from_secs(1);

/// How long a drop waits for all shards. Then whoever asked is told which are missing.
const CONFIRM_TIME: Duration = Duration::from_secs(2);

/// How long the source of a move that is cancelled may take to serve its range again: it does so by
/// itself after some seconds.
const THAW_TIME: Duration = Duration::from_secs(1);

/// How long a lower limit waits for the shards to evict down to it, before whoever asked is told to
/// ask again: less than a client's usual deadline, so that it hears why.
const LOWERING_TIME: Duration = Duration::from_secs(8);

/// The cluster's state and the shards.
pub(crate) struct Control {
    store: Arc<Store>,
    /// The persisted state. Its epoch tells how far a shard is.
    state: watch::Sender<Arc<State>>,
    /// Held while a change is persisted: one at a time. No shard is waited for meanwhile. The error is of
    /// a write that may or may not have happened, after which nothing can be changed before a restart has
    /// read what is there.
    changing: AsyncMutex<Option<String>>,
    /// Held while a limit is asked for, and while a range is frozen.
    quiet: AsyncMutex<()>,
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
    pub(crate) report: Mutex<Option<MoveProgress>>,
}

impl Control {
    pub(crate) fn new(store: Store, state: State, options: ConnectOptions) -> Self {
        Self {
            shards: RwLock::default(),
            store: Arc::new(store),
            state: watch::Sender::new(Arc::new(state)),
            changing: AsyncMutex::default(),
            quiet: AsyncMutex::default(),
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
        self.shards().iter().map(|shard| shard.status(epoch)).collect()
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
        let mut tasks = self.tasks.lock();
        tasks.spawn(mover::drive(Arc::clone(self)));
        tasks.spawn(meet_shards(Arc::clone(self)));
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
            let shard = Shard::new(info.name.clone(), self.verdict.clone());
            let (state, asking) = (self.state.subscribe(), Arc::clone(&self.asking));
            let options = self.options.clone();
            self.tasks.lock().spawn(shard.clone().look_after(state, asking, options));
            shards.push(shard);
        }
    }

    /// What would move for some actions, by what the shards hold now.
    ///
    /// # Errors
    /// `unavailable` while a shard that owns something is away; why the actions cannot be carried out.
    pub(crate) async fn plan(&self, actions: &[Action]) -> Result<Plan, WireError> {
        let state = self.state();
        let mut fill = [Amount::default(); RING_BUCKETS];
        // What owns nothing has nothing that could move, and need not be there.
        let owns = |shard: &Shard| !state.map.ranges_of(&shard.name).is_empty();
        for shard in self.shards().into_iter().filter(owns) {
            let asked = shard.ask(&ShardOperation::Buckets, OPERATION_TIME).await;
            let sums = match asked.map_err(|error| plan_without(&state, &shard, error))? {
                ShardReply::Buckets(sums) => sums,
                other => return Err(unexpected(&shard.name, &other)),
            };
            for ((amount, documents), bytes) in fill.iter_mut().zip(sums.documents).zip(sums.bytes)
            {
                amount.documents = amount.documents.saturating_add(documents);
                amount.bytes = amount.bytes.saturating_add(bytes);
            }
        }
        let mut plan = planner::plan(&state.map, &Fill::new(&fill), actions)?;
        let (shards, ranges) = (plan.shards_after.clone(), plan.after.clone());
        let after = RangeMap { shards, ranges, ..state.map.clone() };
        state.check_limits(&after).map_err(|why| WireError::bad_request("plan", why))?;
        plan.warnings = self.warn_of_added(&plan).await?;
        Ok(plan)
    }

    /// Persists a step of a move. Nobody is waited for.
    pub(crate) async fn advance(
        &self,
        id: &str,
        transition: Transition,
    ) -> Result<Arc<State>, WireError> {
        self.commit(&Command::AdvanceMove { id: id.to_owned(), transition, at: now() }).await
    }

    /// What the source of the move under way says to giving its range up.
    pub(crate) fn verdict(&self) -> watch::Receiver<Option<Verdict>> {
        self.verdict.subscribe()
    }

    /// The persisted state, as it changes.
    pub(crate) fn states(&self) -> watch::Receiver<Arc<State>> {
        self.state.subscribe()
    }

    /// Carries out a command: persists it, and waits for the shards to hold it. Other changes go on
    /// while shards are waited for: above all those of a move, whose range may be frozen.
    ///
    /// # Errors
    /// Why it was refused; then nothing has changed. `unavailable` when it could not be persisted,
    /// `index_held` when an index is dropped and a shard has not confirmed it.
    pub(crate) async fn change(&self, command: Command) -> Result<Arc<State>, WireError> {
        let is_dropped = |name: &str| self.state().is_dropped(name);
        let asking = match &command {
            Command::DropIndex { name } if is_dropped(name) => {
                return self.confirm_drop(name).await;
            }
            Command::CreateIndex { name, .. } if is_dropped(name) => {
                self.confirm_drop(name).await?;
                None
            }
            Command::StartMoves { plan, .. } => {
                self.check_added(plan).await?;
                None
            }
            Command::SetShard { .. } | Command::SetIndex { .. } => {
                Some(self.ask_for_limits(&command).await?)
            }
            _ => None,
        };
        let cancelled = match &command {
            Command::CancelMoves { .. } => self.state().moves.current().cloned(),
            _ => None,
        };
        let next = self.commit(&command).await?;
        drop(asking);
        // What is being handed over goes on.
        let cut_short = cancelled.filter(|_| next.moves.current().is_none());
        if let Some(cut_short) = &cut_short {
            self.thaw(&cut_short.from, &cut_short.id).await;
        }
        if let Command::DropIndex { name } = &command {
            return self.confirm_drop(name).await;
        }
        let epoch = next.map.epoch;
        let is_away = |_: &str, progress: &Progress| !progress.connected;
        if !self.hold(epoch, is_away, ACKNOWLEDGE_TIME).await {
            tracing::warn!(epoch, "a connected shard is slow to take the new state");
        }
        if let Some(cut_short) = &cut_short {
            // The target may have had it frozen before it was stopped.
            self.thaw(&cut_short.from, &cut_short.id).await;
        }
        Ok(next)
    }

    /// Applies a command to the newest state, persists what comes of it and shows it. Nobody is waited
    /// for.
    async fn commit(&self, command: &Command) -> Result<Arc<State>, WireError> {
        let mut failed = self.changing.lock().await;
        if let Some(why) = &*failed {
            return Err(unavailable(why.clone()));
        }
        self.check_kinship()?;
        let state = self.state();
        let next = Arc::new(state.apply(command)?);
        if next == state {
            return Ok(next);
        }
        self.persist(&mut failed, Arc::clone(&next)).await?;
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
        excused: impl Fn(&str, &Progress) -> bool,
        within: Duration,
    ) -> bool {
        let all_hold_it = async {
            for shard in self.shards() {
                let mut progress = shard.progress();
                let holds =
                    |progress: &Progress| progress.holds(epoch) || excused(&shard.name, progress);
                // The sender lives as long as `self`.
                _ = progress.wait_for(holds).await;
            }
        };
        timeout(within, all_hold_it).await.is_ok()
    }

    /// The shards that have a part in a state and do not hold it.
    fn away(&self, state: &State) -> Vec<String> {
        let is_away = |shard: &Shard| {
            !shard.progress().borrow().holds(state.map.epoch) && !state.has_no_part(&shard.name)
        };
        self.shards().into_iter().filter(is_away).map(|shard| shard.name).collect()
    }

    /// Waits until no shard holds a dropped index any more. A shard that is away would still serve
    /// it for a moment on its return, so without all of them the drop is not done, but for those that
    /// own nothing and so serve nothing.
    async fn confirm_drop(&self, name: &str) -> Result<Arc<State>, WireError> {
        let state = self.state();
        let excused = |shard: &str, _: &Progress| state.has_no_part(shard);
        if self.hold(state.map.epoch, excused, CONFIRM_TIME).await {
            // And no other: of one that was dropped meanwhile nobody may have heard.
            let ids = state.dropped.iter().map(|index| index.id).collect();
            return self.commit(&Command::ForgetDropped { ids }).await;
        }
        let shards = self.away(&state).join(", ");
        Err(WireError::IndexHeld { index: name.to_owned(), shards })
    }

    /// Checks that what a plan adds is there and can be added. Whoever mistypes an address hears it, and
    /// not of a shard that is waited for.
    async fn check_added(&self, plan: &Plan) -> Result<(), WireError> {
        for checked in self.check_each_added(plan).await? {
            checked.map_err(|error| WireError::bad_request("plan", error))?;
        }
        Ok(())
    }

    /// What of that [would be refused](Self::check_added) now, and may be mended until it is carried out.
    async fn warn_of_added(&self, plan: &Plan) -> Result<Vec<String>, WireError> {
        let mut warnings = Vec::new();
        for checked in self.check_each_added(plan).await? {
            match checked {
                Ok(()) => {}
                Err(NoNewShard::Absent(why)) => warnings.push(why),
                Err(error @ NoNewShard::Another(_)) => {
                    return Err(WireError::bad_request("plan", error));
                }
            }
        }
        Ok(warnings)
    }

    /// Checks each shard that a plan adds, in the plan's order; at the same time, for each may be at a host
    /// that says nothing.
    async fn check_each_added(
        &self,
        plan: &Plan,
    ) -> Result<Vec<Result<(), NoNewShard>>, WireError> {
        let state = self.state();
        let mut asked = JoinSet::new();
        for (place, action) in plan.actions.iter().enumerate() {
            let Action::Add { shard } = action else { continue };
            let (state, shard, options) = (Arc::clone(&state), shard.clone(), self.options.clone());
            asked.spawn(
                async move { (place, shard::check_new(&state.map, &shard, &options).await) },
            );
        }
        let mut checked = BTreeMap::new();
        while let Some(result) = asked.join_next().await {
            let (place, of_shard) = result.map_err(|error| unavailable(error.to_string()))?;
            checked.insert(place, of_shard);
        }
        Ok(checked.into_values().collect())
    }

    /// Refuses changes while a shard holds a state that this one does not come from.
    fn check_kinship(&self) -> Result<(), WireError> {
        for shard in self.shards() {
            if let Some(why) = shard.stranger() {
                return Err(unavailable(format!("shard {}: {why}", shard.name)));
            }
        }
        Ok(())
    }

    /// Asks the shards to take limits before they are persisted: a shard knows what it uses, and may
    /// refuse, or have to evict first. Should that fail half-way, or bootstrap die before the limits
    /// are persisted, the old ones are handed out again.
    ///
    /// What else changes meanwhile comes to the same as if it had changed after this.
    async fn ask_for_limits(&self, command: &Command) -> Result<Asking<'_>, WireError> {
        let until = Instant::now() + LOWERING_TIME;
        let quiet = timeout_at(until, self.quiet())
            .await
            .map_err(|_| unavailable("a range is being handed over; try again".to_owned()))?;
        let asking = self.asking.write().await;
        self.check_kinship()?;
        let before = self.state();
        let next = before.apply(command)?;
        match command {
            Command::SetShard { shard, policy, .. } => {
                let size = next.map.shard(shard).map_or(0, |info| info.size);
                let set = ShardOperation::SetSize(SetSize { size, policy: *policy });
                if let Some(shard) = self.shard(shard) {
                    shard.ask_for_limit(&set, until).await?;
                }
            }
            Command::SetIndex { name, .. } => {
                let settings = |state: &State| state.index(name).map(|index| index.settings);
                let lower = settings(&next).zip(settings(&before));
                if lower.is_some_and(|(next, before)| next.is_lower_than(&before)) {
                    self.ask_for_shares(&next, name, until).await?;
                }
            }
            _ => {}
        }
        Ok(Asking { _quiet: quiet, _asking: asking })
    }

    /// Asks the shards to take their shares of an index's limits.
    async fn ask_for_shares(
        &self,
        next: &State,
        name: &str,
        until: Instant,
    ) -> Result<(), WireError> {
        let mut asked = JoinSet::new();
        let has_part = |shard: &Shard| !next.has_no_part(&shard.name);
        for shard in self.shards().into_iter().filter(has_part) {
            let mut shares = next.shares(&shard.name).into_iter();
            let Some(share) = shares.find(|index| index.name == name) else { continue };
            asked.spawn(async move {
                let Index { id, name, settings } = &share;
                let share = SetShare { id: *id, name, settings: *settings, force: false };
                let asked = shard.ask_for_limit(&ShardOperation::SetIndex(share), until).await;
                asked.map_err(|error| refused_at(&shard.name, error))
            });
        }
        while let Some(result) = asked.join_next().await {
            result.map_err(|error| unavailable(error.to_string()))??;
        }
        Ok(())
    }

    /// Waits until neither a limit is being asked for nor a range is frozen, and keeps it so. Shards that
    /// are asked for a limit are told nothing, also not to give up a range.
    pub(crate) async fn quiet(&self) -> MutexGuard<'_, ()> {
        self.quiet.lock().await
    }

    /// Has the source of a move serve its range again, if it is frozen for that.
    pub(crate) async fn thaw(&self, source: &str, id: &str) {
        let Some(source) = self.shard(source) else { return };
        let thaw = ShardOperation::Source(SourceOperation::Thaw(MoveId { id }));
        if let Err(error) = source.ask(&thaw, THAW_TIME).await {
            // The freeze ends by itself.
            tracing::warn!(r#move = %id, %error, "the range is frozen for some seconds yet");
        }
    }
}

/// Remembers for ever which shards have taken an assignment.
async fn meet_shards(control: Arc<Control>) {
    loop {
        let state = control.state();
        let is_new =
            |shard: &Shard| shard.progress().borrow().connected && !state.met.contains(&shard.name);
        let shards: Vec<_> =
            control.shards().into_iter().filter(is_new).map(|shard| shard.name).collect();
        if !shards.is_empty()
            && let Err(error) = control.commit(&Command::Meet { shards }).await
        {
            // It is tried again; meanwhile they are known by their connection.
            tracing::debug!(%error, "it could not be kept which shards there are");
        }
        sleep(MEETING_INTERVAL).await;
    }
}

/// Shards are being asked for limits.
struct Asking<'a> {
    _quiet: MutexGuard<'a, ()>,
    _asking: RwLockWriteGuard<'a, ()>,
}

fn unexpected(shard: &str, reply: &ShardReply) -> WireError {
    WireError::Internal { what: format!("shard {shard:?} answered {reply:?}") }
}

/// Which shard refuses a limit.
fn refused_at(name: &str, mut error: WireError) -> WireError {
    if let WireError::IndexFull { shard, .. } = &mut error {
        name.clone_into(shard);
    }
    error
}

/// A plan needs a shard that does not answer: with what to do about it.
fn plan_without(state: &State, shard: &Shard, error: WireError) -> WireError {
    let WireError::Unavailable { what, why } = error else { return error };
    let address = state.map.shard(&shard.name).map(ShardInfo::address).unwrap_or_default();
    let why = format!(
        "{why}; a plan goes by what every shard holds: start this one at {address}, and plan again"
    );
    WireError::Unavailable { what, why }
}

fn unavailable(why: String) -> WireError {
    WireError::Unavailable { what: "bootstrap's state".to_owned(), why }
}

#[cfg(test)]
mod tests {
    use sherd_protocol::IndexSettings;

    use super::*;
    use crate::config::ClusterConfig;

    #[tokio::test]
    async fn a_drop_that_waits_for_a_shard_holds_no_other_change_up() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path()).unwrap();
        // Nobody listens there.
        let text = r#"{"shards": [{"name": "a", "size": 10, "host": "127.0.0.1", "port": 1}]}"#;
        let state = State::new(&ClusterConfig::parse(text).unwrap(), "c0ffee".to_owned());
        let control = Arc::new(Control::new(store, state, ConnectOptions::default()));
        control.start();
        let create = |name: &str| {
            let (name, settings) = (name.to_owned(), IndexSettings::default());
            control.change(Command::CreateIndex { name, settings })
        };
        create("x").await.unwrap();
        let dropping = tokio::spawn({
            let control = Arc::clone(&control);
            async move { control.change(Command::DropIndex { name: "x".to_owned() }).await }
        });
        let mut states = control.states();
        states.wait_for(|state| state.is_dropped("x")).await.unwrap();
        create("y").await.unwrap();
        assert!(!dropping.is_finished(), "it waits still");
        let refused = dropping.await.unwrap().unwrap_err();
        let expected = WireError::IndexHeld { index: "x".to_owned(), shards: "a".to_owned() };
        assert_eq!(refused, expected);
        control.stop();
    }
}
