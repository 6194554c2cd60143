//! The sequencer: the one writer of a shard.
//!
//! It drains the queue of waiting commands, evaluates each in order against what is pending and
//! what is published, appends all effects as one batch, makes it durable once, publishes the
//! effects, then answers. Durable, visible, acknowledged: in this order.
//!
//! A sync takes the time of some hundred evaluations, so batches should be large. Where many
//! callers are at work, a batch therefore waits for those that the batch before answered: they are
//! about to ask again. It waits no longer than it takes to sync twice.
//!
//! After a failed write or sync nothing more is written: commands are answered with the reason. A
//! full disk is different: the batch is refused as a whole, and the next one is tried.

mod due;
mod handover;
mod lower;
mod mutate;
mod relocate;
mod room;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use self::handover::Frozen;
use self::lower::Lowering;
use self::room::RoomForEvictions;
use crate::checkpoint::Snapshot;
use crate::command::{Assignment, Command, Import, IndexId, Outcome};
use crate::compaction;
use crate::cut::Cut;
use crate::defect::Defect;
use crate::effect::{self, CreateIndex, DropIndex, Effect, Lock};
use crate::engine::{Completion, Durability, Options};
use crate::error::{Error, Result};
use crate::hash::FastMap;
use crate::index::{Entry, IndexKey};
use crate::log::{LogWriter, Purpose, record};
use crate::queue::{Gather, Queue, Task};
use crate::read;
use crate::residents::Resident;
use crate::shared::{Found, Shared};
use crate::state::{Change, State};

/// A batch is made durable when it has this many bytes, whatever still waits: what is acknowledged
/// later waits longer.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// From how many callers on a batch waits for those that were just answered to come back. Few
/// callers never wait for each other.
const GATHER_CALLERS: usize = 4;

/// For how many commands a batch waits at most: with so many, a sync costs each of them less than
/// its evaluation does, and waiting for more only leaves the disk idle.
const GATHER_COMMANDS: usize = 64;

/// How long a batch waits for them at most, in syncs as they took lately: for longer, it would be
/// better to sync what is there.
const GATHER_SYNCS: u32 = 2;

/// How long a batch waits for them at most, where syncs take long.
const MAX_GATHER_TIME: Duration = Duration::from_millis(1);

/// How long a batch waits for a compactor that is behind, at most: so each batch takes along some of
/// what gives space back.
const COMPACTION_WAIT: Duration = Duration::from_millis(20);

/// How often it is looked whether there still is space for the next checkpoint.
const FREE_INTERVAL: Duration = Duration::from_millis(50);

/// The share of a new measurement in the running mean of the time that a sync takes, as a divisor.
const SYNC_TIME_WEIGHT: u32 = 8;

/// The bytes a record of a control effect is given room for, besides its strings.
const CONTROL_RECORD_BYTES: usize = 1024;

/// The sequencer, on its thread.
pub(crate) struct Sequencer {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    log: LogWriter,
    options: Options,
    /// What was evaluated: the published state and the pending changes.
    state: State,
    batch: Batch,
    channels: Channels,
    checkpoint_running: bool,
    /// Segments wait for a checkpoint, to be deleted.
    checkpoint_wanted: bool,
    /// Why the running checkpoint does not come to its end.
    checkpoint_error: Option<Error>,
    last_sync: Instant,
    /// How long a sync took lately: a running mean.
    sync_time: Duration,
    last_freeze: Instant,
    last_space_check: Instant,
    last_free_check: Instant,
    last_fit_check: Instant,
    scratch: Vec<u8>,
    /// The time by which the present command is evaluated, in milliseconds since 1970.
    now: u64,
    /// Of the present command.
    room_for_evictions: RoomForEvictions,
    lowering: Option<Lowering>,
    /// Ranges that are about to be given up.
    frozen: Option<Frozen>,
    /// A limit in force may be exceeded.
    over_limit: bool,
    /// Evicting for a lower limit failed, and is tried again then.
    lower_again: Option<Instant>,
}

/// To and from the other threads of the engine.
pub(crate) struct Channels {
    pub(crate) snapshots: Sender<Snapshot>,
    pub(crate) checkpointed: Receiver<Result<()>>,
    pub(crate) compactor: Sender<compaction::Request>,
}

/// What is evaluated and not yet durable.
#[derive(Default)]
struct Batch {
    /// The records, as they go to the log.
    bytes: Vec<u8>,
    /// How many LSNs they take: one each, but for skips.
    records: u64,
    /// How many of them move something and change nothing.
    moved: u64,
    /// It is synced whatever the durability: something of it was taken over from another shard.
    sync: bool,
    changes: Vec<Change>,
    /// The latest entries of the keys that the batch changes.
    pending: FastMap<(IndexId, IndexKey), Option<Entry>>,
    answers: Vec<(Completion, Result<Outcome>)>,
    /// How to take back what the changes made the residents.
    undo: Vec<Undo>,
}

/// A change of the residents: what was there before, and when what is there now expires.
struct Undo {
    index: IndexId,
    key: IndexKey,
    before: Option<Entry>,
    after: Option<u64>,
    /// What the residents knew of it, where it was evicted.
    taken: Option<Resident>,
}

impl Sequencer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        queue: Arc<Queue>,
        log: LogWriter,
        options: Options,
        channels: Channels,
    ) -> Self {
        let state = shared.view.read().state.clone();
        Self {
            shared,
            queue,
            log,
            options,
            state,
            batch: Batch::default(),
            channels,
            checkpoint_running: false,
            checkpoint_wanted: false,
            checkpoint_error: None,
            last_sync: Instant::now(),
            sync_time: Duration::ZERO,
            last_freeze: Instant::now(),
            last_space_check: Instant::now(),
            last_free_check: Instant::now(),
            last_fit_check: Instant::now(),
            scratch: Vec::new(),
            now: 0,
            room_for_evictions: RoomForEvictions::default(),
            lowering: None,
            frozen: None,
            // A kill may have come before a limit was met.
            over_limit: true,
            lower_again: None,
        }
    }

    /// Works until the queue is closed. Returns whether all is written and checkpointed.
    pub(crate) fn run(mut self) -> Result<()> {
        let mut tasks = Vec::new();
        let mut callers_awaited = 1;
        loop {
            let delay = self.backlog_delay();
            if !delay.is_zero() {
                thread::sleep(delay);
            }
            let compactor = self.shared.compaction_behind.load(Ordering::Relaxed);
            let time = if compactor {
                COMPACTION_WAIT
            } else {
                (self.sync_time * GATHER_SYNCS).min(MAX_GATHER_TIME)
            };
            let gather = Gather { tasks: callers_awaited, compactor, time };
            let open = self.queue.take(&mut tasks, self.next_deadline(), &gather);
            // Compactor and sweeper are no callers to wait for: they take their time.
            let taken = tasks.iter().filter(|task| task.is_of_caller()).count();
            for task in tasks.drain(..) {
                match task {
                    Task::Command(command, done) => self.handle(command, done),
                    Task::Import(import, found, done) => self.handle_import(&import, found, done),
                    Task::Relocate(survivors, done) => self.relocate(&survivors, done),
                    Task::Sweep(keys, done) => self.sweep(&keys, done),
                    Task::Expire(found, done) => self.expire(&found, done),
                    Task::Checkpoint(done) => {
                        self.commit();
                        _ = done.send(self.checkpoint_now());
                    }
                    Task::CheckpointSoon => self.checkpoint_wanted = true,
                    Task::Cut(keep, done) => done(self.cut(keep)),
                }
            }
            self.commit();
            self.lower_on();
            let callers = taken + self.queue.len();
            let waits_for_syncs = self.options.durability == Durability::Always;
            let many = waits_for_syncs && callers >= GATHER_CALLERS;
            callers_awaited = if many { callers.min(GATHER_COMMANDS) } else { 1 };
            self.sync_when_due();
            self.freeze_when_due();
            self.check_space_when_due();
            if !open {
                break;
            }
        }
        if self.queue.is_abandoned() {
            return Ok(());
        }
        self.checkpoint_now()
    }

    /// A cut of all that came before, all of it durable.
    fn cut(&mut self, keep: Option<u64>) -> Result<Cut> {
        self.settle()?;
        // Whatever the durability: a backup must not have what a power cut takes from the shard.
        self.sync_or_stop()?;
        self.shared.cut(self.log.next_lsn() - 1, &self.state, self.log.place(), keep)
    }

    fn handle(&mut self, command: Command, done: Completion) {
        if let Err(error) = self.shared.poison.check() {
            self.batch.answers.push((done, Err(error)));
            return;
        }
        let result = match command {
            Command::Mutate { mutations, atomic } => self.mutate(&mutations, atomic),
            Command::SetLimit { limit, policy } => return self.set_limit(limit, policy, done),
            Command::SetIndex { id, settings, force: false } => {
                return self.set_index(id, settings, done);
            }
            Command::SetIndex { id, settings, force: true } => self.force_index(id, settings),
            Command::Freeze { id, ranges, at_most } => self.freeze_ranges(id, ranges, at_most),
            Command::Thaw { id } => Ok(self.thaw(&id)),
            Command::CheckFrozen { id, frozen_at } => self.check_still_frozen(id, frozen_at),
            control => self.control(control),
        };
        self.batch.answers.push((done, result));
    }

    fn handle_import(&mut self, import: &Import, found: Found, done: Completion) {
        let checked = self.shared.poison.check();
        let result = checked.and_then(|()| self.import(import, found));
        self.batch.answers.push((done, result));
    }

    // Control commands. Each is a batch of its own, so that it sees and changes the published
    // state, and mutations after it see its outcome.

    fn control(&mut self, command: Command) -> Result<Outcome> {
        self.settle()?;
        match self.control_effect(command)? {
            Some(effect) => self.record_control(effect),
            None => {
                self.suit_residents();
                Ok(Outcome::Done)
            }
        }
    }

    /// Commits what is pending. It may have failed: no answer may rest on the state without it.
    fn settle(&mut self) -> Result<()> {
        self.commit();
        self.shared.poison.check()
    }

    /// Records a control effect, with a batch of its own.
    fn record_control(&mut self, effect: Effect<'static>) -> Result<Outcome> {
        let mut encoded = Vec::new();
        effect.encode(&mut encoded);
        self.make_room(CONTROL_RECORD_BYTES + encoded.len(), Purpose::Upkeep)?;
        let old_ranges = self.state.assignment.as_ref().map(|held| held.ranges.clone());
        self.record(&effect);
        record::seal(&mut self.batch.bytes, self.log.checksum());
        let dropped = match &effect {
            Effect::DropIndex(drop) => Some(drop.id),
            _ => None,
        };
        let assigned = matches!(effect, Effect::Assign(_));
        let stopped = matches!(effect, Effect::StopReceiving);
        let change = Change::Control(effect);
        self.state.apply(&change);
        self.batch.changes.push(change);
        self.try_commit()?;
        let new_ranges = self.state.assignment.as_ref().map(|held| held.ranges.clone());
        if old_ranges != new_ranges {
            let state = &self.state;
            self.shared.residents.sort(|position| state.side(position));
        }
        // Whatever the durability: others rely on it, and a range given up must not come back.
        self.sync_or_stop()?;
        if let Some(id) = dropped {
            self.shared.residents.drop_index(id);
        }
        self.suit_residents();
        self.over_limit |= assigned;
        if assigned {
            self.forget_given_up();
        }
        if stopped {
            // What came goes.
            self.sweep_unowned();
        }
        if old_ranges != new_ranges && self.state.documents() > 0 {
            // First what must not fail: what the shard gave up must go, or it would come back with
            // the range.
            self.sweep_unowned();
            self.recount_distribution()?;
        }
        Ok(Outcome::Done)
    }

    /// Has the compactor remove what is not to be kept.
    fn sweep_unowned(&self) {
        self.shared.unowned.store(true, Ordering::Release);
        _ = self.channels.compactor.send(compaction::Request::Look);
    }

    /// The effect of a control command, `None` where it is done already.
    fn control_effect(&self, command: Command) -> Result<Option<Effect<'static>>> {
        let state = &self.state;
        Ok(match command {
            // Not asked for here.
            Command::Mutate { .. }
            | Command::SetLimit { .. }
            | Command::SetIndex { .. }
            | Command::Freeze { .. }
            | Command::Thaw { .. }
            | Command::CheckFrozen { .. } => None,
            Command::CreateIndex { id, name, settings } => {
                match (state.indexes.get(&id), state.index_id(&name)) {
                    (Some(index), _) if *index.name == *name => None,
                    (None, None) if id > state.highest_index_id => {
                        Some(Effect::CreateIndex(CreateIndex { id, name, settings }))
                    }
                    (None, None) => return Err(Error::IndexIdUsed { id, name }),
                    (Some(index), _) => {
                        return Err(Error::IndexExists { id, name: index.name.as_ref().into() });
                    }
                    (None, Some(id)) => return Err(Error::IndexExists { id, name }),
                }
            }
            Command::DropIndex { id } => {
                state.indexes.contains_key(&id).then_some(Effect::DropIndex(DropIndex { id }))
            }
            Command::Assign(assignment) => self.assign(assignment)?,
            Command::GiveUp { assignment, id, frozen_at } => {
                let given_up = self.assign(assignment)?;
                if let Some(Effect::Assign(assignment)) = &given_up {
                    self.check_given_up_is_frozen(&id, frozen_at, assignment)?;
                }
                given_up
            }
            Command::Receive { id, ranges } => self.receive(id, ranges)?,
            Command::StopReceiving { id } => {
                let is_held = state.incoming.as_ref().is_some_and(|held| held.id == id);
                is_held.then_some(Effect::StopReceiving)
            }
            Command::Lock { owner } => match &state.locked_by {
                None => Some(Effect::Lock(Lock { owner })),
                Some(by) if *by == owner => None,
                Some(by) => return Err(Error::Locked { owner: by.clone() }),
            },
            Command::Release { owner } => match &state.locked_by {
                None => None,
                Some(by) if *by == owner => Some(Effect::Release),
                Some(by) => return Err(Error::Locked { owner: by.clone() }),
            },
        })
    }

    /// The effect of an assignment.
    fn assign(&self, assignment: Assignment) -> Result<Option<Effect<'static>>> {
        check_assignment(self.state.assignment.as_deref(), &assignment)?;
        let held = self.state.assignment.as_deref() == Some(&assignment);
        self.check_cleared(&assignment.ranges)?;
        Ok((!held).then_some(Effect::Assign(assignment)))
    }

    /// Refuses ranges that were given up as long as documents of that time are there: they must not
    /// come back.
    fn check_cleared(&self, ranges: &[(u32, u32)]) -> Result<()> {
        if !self.shared.unowned.load(Ordering::Acquire) {
            return Ok(());
        }
        let view = self.shared.view.read();
        let index = self.shared.index.get()?;
        match read::unowned(&view, &*index, ranges, None, 1)?.first() {
            Some((_, key)) => Err(Error::NotCleared { position: key.position() }),
            None => Ok(()),
        }
    }

    /// Counts the documents by fifths of new ranges. Writing waits for it, so it goes by buckets, and
    /// reads what the fifths cut of them.
    fn recount_distribution(&mut self) -> Result<()> {
        let shared = &self.shared;
        let counted = read::distributions(&shared.view.read(), &*shared.index.get()?)?;
        let mut view = shared.view.write();
        for state in [&mut self.state, &mut view.state] {
            state.set_distributions(&counted);
        }
        Ok(())
    }

    // Batches.

    fn record(&mut self, effect: &Effect<'_>) {
        let lsn = self.log.next_lsn() + self.batch.records;
        let mut durable = self.log.durable_lsn();
        if self.options.defects.has(Defect::BatchTestifiesForItself) {
            durable = lsn - 1;
        }
        record::append(&mut self.batch.bytes, lsn, durable, effect.kind(), |out| {
            effect.encode(out);
        });
        self.batch.records += 1;
    }

    /// Makes sure that the batch can take `bytes` more, in the segment it is for.
    fn make_room(&mut self, bytes: usize, purpose: Purpose) -> Result<()> {
        let bytes = bytes + self.time_bytes();
        let wanted = self.batch.bytes.len() + bytes;
        self.checkpoint_while_it_fits();
        if purpose == Purpose::Growth {
            self.check_space(wanted)?;
        }
        if wanted <= self.log.room() && (wanted <= MAX_BATCH_BYTES || self.batch.records == 0) {
            return Ok(());
        }
        self.try_commit()?;
        let (sealed, _) = self.log.place();
        let live = self.shared.view.read().usage.live().values().sum();
        let made = self.log.make_room(bytes, self.options.segment_bytes_for(live), purpose);
        made.inspect_err(|error| self.poison_unless_harmless(error))?;
        if self.log.place().0 != sealed {
            _ = self.channels.compactor.send(compaction::Request::Look);
        }
        Ok(())
    }

    /// Refuses what grows the store as long as the disk is full.
    fn check_space(&mut self, bytes: usize) -> Result<()> {
        let full = self.shared.space.is_full();
        if full || self.last_free_check.elapsed() >= FREE_INTERVAL {
            self.last_free_check = Instant::now();
            let needed = self.next_checkpoint_bytes();
            self.shared.space.note_checkpoint(needed)?;
            self.checkpoint_wanted |= self.shared.space.check_put_back()?;
        }
        if full {
            self.shared.space.keep()?;
        }
        self.log.check_growth(bytes)
    }

    /// The room that is left for when a batch was written.
    fn time_bytes(&self) -> usize {
        if self.shared.kept.is_timed() { effect::TIME_RECORD_BYTES } else { 0 }
    }

    /// Says behind a batch when it was written, where the log is kept: what is acknowledged before a time
    /// comes before the first record of a later one, and what begins after it, behind it.
    fn record_time(&mut self) {
        let start = self.batch.bytes.len();
        let bytes = self.time_bytes();
        // What only moves things is of no time, and must not make garbage for the next compaction.
        let is_change = self.batch.moved < self.batch.records;
        if bytes == 0 || !is_change || start + bytes > self.log.room() {
            return;
        }
        let time = Effect::Time(self.shared.clock.now());
        self.record(&time);
        record::seal(&mut self.batch.bytes[start..], self.log.checksum());
    }

    /// Ends the batch: append, sync, publish, answer.
    fn commit(&mut self) {
        // Whoever waits was told.
        _ = self.try_commit();
    }

    fn try_commit(&mut self) -> Result<()> {
        let written = self.write_batch();
        match &written {
            Ok(()) => {
                self.publish();
                self.note_durable();
            }
            Err(_) => {
                self.undo_to(0);
                self.batch.changes.clear();
                self.state = self.shared.view.read().state.clone();
            }
        }
        self.batch.bytes.clear();
        self.batch.records = 0;
        self.batch.moved = 0;
        self.batch.sync = false;
        self.batch.pending.clear();
        self.batch.undo.clear();
        for (done, result) in self.batch.answers.drain(..) {
            // An answer may rest on the pending changes even where it brought none.
            done(written.clone().and(result));
        }
        written
    }

    fn write_batch(&mut self) -> Result<()> {
        if self.batch.records == 0 {
            return Ok(());
        }
        self.shared.poison.check()?;
        self.record_time();
        let appended = self.log.append(&self.batch.bytes, self.batch.records);
        self.shared.active_bytes.store(u64::from(self.log.place().1), Ordering::Relaxed);
        if appended.is_ok() && self.options.defects.has(Defect::AcknowledgeBeforeSync) {
            self.batch.answers.drain(..).for_each(|(done, result)| done(result));
        }
        if appended.is_ok() && self.options.defects.has(Defect::PublishedBeforeSync) {
            self.publish();
        }
        let syncs = self.batch.sync || self.options.durability == Durability::Always;
        let written = if syncs { appended.and_then(|()| self.sync_log()) } else { appended };
        written.map_err(|error| match error {
            Error::DiskFull { .. } => error,
            error => {
                self.shared.poison.set(&error);
                // The bytes may be on disk, all or some: a restart may find them.
                Error::OutcomeUnknown { reason: error.to_string().into() }
            }
        })
    }

    /// Makes what was appended durable, and says so: all of it is published.
    fn sync(&mut self) -> Result<()> {
        self.sync_log()?;
        self.note_durable();
        Ok(())
    }

    fn sync_log(&mut self) -> Result<()> {
        let begun = Instant::now();
        self.log.sync()?;
        self.last_sync = Instant::now();
        let took = self.last_sync - begun;
        self.sync_time += took / SYNC_TIME_WEIGHT;
        self.sync_time -= self.sync_time / SYNC_TIME_WEIGHT;
        Ok(())
    }

    /// Says how much is durable. All of it must be published: who reads the log up to there, and then the
    /// documents, must see done what it says.
    fn note_durable(&self) {
        self.shared.durable_lsn.store(self.log.durable_lsn(), Ordering::Release);
    }

    fn publish(&mut self) {
        if self.batch.changes.is_empty() {
            return;
        }
        let mut view = self.shared.view.write();
        for change in self.batch.changes.drain(..) {
            view.apply(change);
        }
    }

    fn poison_unless_harmless(&self, error: &Error) {
        let harmless = matches!(
            error,
            Error::DiskFull { .. } | Error::NoDescriptors { .. } | Error::TooLarge { .. }
        );
        if !harmless {
            self.shared.poison.set(error);
        }
    }
}

fn check_assignment(held: Option<&Assignment>, offered: &Assignment) -> Result<()> {
    let Some(held) = held else { return Ok(()) };
    let same = held.cluster == offered.cluster
        && held.name == offered.name
        && held.hash_method == offered.hash_method;
    if !same {
        return Err(Error::WrongCluster {
            held: held.cluster.clone(),
            name: held.name.clone(),
            offered: offered.cluster.clone(),
            offered_name: offered.name.clone(),
        });
    }
    // Of two states of one epoch, one is not of this history.
    let other_history = offered.epoch == held.epoch && offered.lineage != held.lineage;
    if offered.epoch < held.epoch || other_history {
        return Err(Error::StaleEpoch { offered: offered.epoch, held: held.epoch });
    }
    Ok(())
}
