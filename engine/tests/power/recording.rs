//! A random workload, and everything that happened on the way.

use std::collections::BTreeSet;
use std::fmt;
use std::io::ErrorKind;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

use bytes::Bytes;
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use sherd_engine::fs::{Event, Fault, Observer, SimFs};
use sherd_engine::index::{IndexStore, MemoryStore};
use sherd_engine::{
    Assignment, Clock, Command, Condition, Defects, Durability, Engine, Error, Expiry,
    IndexSettings, Key, Mutation, MutationOutcome, Options, Outcome, Policy,
};

use super::history::{Follower, History, State};
use super::index::{CopiedSled, Damage, Held, IndexPast, Recorder, TestStore};
use super::interleave::{Boundary, interleave};
use super::model::{Model, Place, Text, inspect, key};
use super::{Check, DIR, RING, options, rng};

/// The time by which all is recovered: nothing has expired, so that all there is can be compared.
pub const BEGINNING: u64 = 0;

/// When workloads begin, in milliseconds since 1970. They end within the second, in which documents
/// expire but nothing is swept: the sweeper goes by seconds, and no seed would repeat it.
const START: u64 = 1_704_067_200_000;

const SEQUENCER_THREAD: &str = "sequencer";

/// What is noted in the journal.
#[derive(Clone)]
pub enum Mark {
    /// States up to this one were asked for.
    Submitted(State),
    /// This state is durable, as an answer said.
    Acknowledged(State),
    /// A document was read, or that there is none.
    Observed(Place, Option<Text>),
    /// A process has read its log and serves this state.
    Served(State),
    /// A process has ended.
    Ended,
    /// The index changed, or was flushed.
    Index { flushed: bool, held: Held },
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Submitted(state) => write!(f, "submitted to state {state}"),
            Self::Acknowledged(state) => write!(f, "acknowledged to state {state}"),
            Self::Observed(place, text) => {
                write!(f, "read {place:?}: {:?}", text.as_ref().map(|text| &text[..6]))
            }
            Self::Served(state) => write!(f, "state {state} is served"),
            Self::Ended => write!(f, "the process ended"),
            Self::Index { flushed, .. } => write!(f, "index changed, flushed: {flushed}"),
        }
    }
}

/// The marks of a journal, by number.
#[derive(Clone, Default)]
pub struct Marks(Arc<Mutex<Vec<Mark>>>);

impl Marks {
    pub fn put(&self, fs: &SimFs, mark: Mark) {
        let number = {
            let mut marks = self.0.lock();
            marks.push(mark);
            marks.len() - 1
        };
        fs.mark(number as u64);
    }

    pub fn get(&self, number: u64) -> Mark {
        self.0.lock()[number as usize].clone()
    }

    pub fn boundary(&self, number: u64) -> Boundary {
        match self.get(number) {
            Mark::Served(_) => Boundary::Begin,
            Mark::Ended => Boundary::End,
            _ => Boundary::None,
        }
    }

    /// An index that notes its changes.
    pub fn record(&self, fs: &SimFs, entries: MemoryStore, damage: Damage) -> TestStore {
        TestStore::new(entries, damage, Some(self.recorder(fs)))
    }

    fn recorder(&self, fs: &SimFs) -> Recorder {
        let (marks, fs) = (self.clone(), fs.clone());
        Arc::new(move |flushed, held| marks.put(&fs, Mark::Index { flushed, held }))
    }
}

/// Takes in a mark.
pub fn follow(
    mark: Mark,
    history: &History,
    follower: &mut Follower,
    index: &mut IndexPast,
) -> Check<()> {
    match mark {
        Mark::Submitted(state) => follower.submitted(state),
        Mark::Acknowledged(state) => follower.acknowledged(state),
        Mark::Observed(place, text) => follower.observed(history, &place, text.as_ref())?,
        Mark::Served(state) => follower.served(state),
        Mark::Ended => {}
        Mark::Index { flushed, held } => index.note(flushed, held),
    }
    Ok(())
}

/// What a workload left.
pub struct Recording {
    pub events: Vec<Event>,
    pub marks: Marks,
    pub history: History,
    pub options: Options,
    /// How many documents were evicted.
    pub evicted: u64,
}

/// What kinds of things a workload does.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Acknowledges before the sync; only a checkpoint makes durable.
    interval: bool,
    /// Processes of this workload end by faults of the disk.
    faults: bool,
    /// Most indexes of this workload evict.
    evicts: bool,
    bursts: usize,
}

impl Mix {
    pub fn of_workload(number: u64) -> Self {
        Self {
            interval: number % 6 == 5,
            faults: number % 3 == 1,
            evicts: number.is_multiple_of(2),
            bursts: 36,
        }
    }
}

/// Runs the workload of that number, with an index in memory.
pub fn record(seed: u64, number: u64, defects: Defects) -> Check<Recording> {
    record_with(seed, number, defects, |marks, fs| {
        Box::new(marks.record(fs, MemoryStore::new(), Damage::None))
    })
}

/// Runs it with sled in `dir`, and copies of sled's files in `copies`.
pub fn record_with_sled(seed: u64, number: u64, dir: &Path, copies: &Path) -> Check<Recording> {
    record_with(seed, number, Defects::default(), |marks, fs| {
        Box::new(CopiedSled::new(dir, copies, marks.recorder(fs)))
    })
}

fn record_with(
    seed: u64,
    number: u64,
    defects: Defects,
    store: impl FnOnce(&Marks, &SimFs) -> Box<dyn IndexStore>,
) -> Check<Recording> {
    let mix = Mix::of_workload(number);
    let mut options = options(defects);
    if mix.interval {
        options.durability = Durability::Interval(std::time::Duration::from_secs(3600));
    }
    let time = Arc::new(AtomicU64::new(START));
    options.clock = Clock::settable(Arc::clone(&time));
    let fs = SimFs::new();
    let marks = Marks::default();
    let store = store(&marks, &fs);
    let mut workload = Workload {
        rng: rng(&[seed, number]),
        time,
        mix,
        options,
        store,
        marks,
        history: History::default(),
        tip: 0,
        acknowledged: 0,
        serial: 0,
        bursts: 0,
        evicted: 0,
        next_index: 1,
        next_epoch: 1,
        burst: Arc::default(),
        fs,
    };
    while workload.bursts < mix.bursts {
        let bursts = workload.rng.random_range(mix.bursts / 3..=mix.bursts);
        workload.live(bursts)?;
    }
    let Workload { fs, marks, history, mut options, mut rng, evicted, .. } = workload;
    options.clock = Clock::settable(Arc::new(AtomicU64::new(BEGINNING)));
    let (_, steps) = fs.journal();
    let events = interleave(steps, &mut rng, |mark| marks.boundary(mark));
    Ok(Recording { events, marks, history, options, evicted })
}

type UnderWay = Arc<Mutex<Option<(Engine, BTreeSet<Place>)>>>;

struct Workload {
    rng: StdRng,
    time: Arc<AtomicU64>,
    mix: Mix,
    options: Options,
    fs: SimFs,
    store: Box<dyn IndexStore>,
    marks: Marks,
    history: History,
    /// The last state that was asked for, and the last one that a process answered for.
    tip: State,
    acknowledged: State,
    serial: u64,
    bursts: usize,
    evicted: u64,
    next_index: u32,
    next_epoch: u64,
    /// The engine and the places of the batch under way, for the reader.
    burst: UnderWay,
}

impl Workload {
    fn model(&self) -> &Model {
        self.history.model(self.tip).deref()
    }

    fn now(&self) -> u64 {
        self.time.load(Ordering::Relaxed)
    }

    fn mark(&self, mark: Mark) {
        self.marks.put(&self.fs, mark);
    }

    /// One process, from its opening to its end.
    fn live(&mut self, bursts: usize) -> Check<()> {
        let fs = Arc::new(self.fs.clone());
        let opened =
            Engine::open_with(fs, self.store.as_ref(), Path::new(DIR), self.options.clone());
        let (engine, recovery) = opened.map_err(|error| format!("a restart failed: {error}"))?;
        if let Some(why) = recovery.rebuilt {
            return Err(format!("a restart rebuilt a healthy index: {why}"));
        }
        // No power was lost: what was answered is there.
        let known = super::history::Known { required: self.acknowledged, tip: self.tip };
        let found = inspect(&engine, self.now())?;
        self.tip = self.history.find(known, &found).map_err(|why| format!("a restart: {why}"))?;
        self.acknowledged = self.tip;
        self.mark(Mark::Served(self.tip));
        // With an interval, what can be read may be lost.
        self.fs.observe((!self.mix.interval).then(|| self.reader()));
        let ended = self.work(&engine, bursts);
        self.fs.observe(None);
        *self.burst.lock() = None;
        self.evicted = engine.stat().counts.evicted;
        if ended? == Ending::Close {
            // Its writer may have been stopped by a fault.
            _ = engine.close();
        }
        drop(engine);
        self.fs.stop_process();
        self.mark(Mark::Ended);
        Ok(())
    }

    fn work(&mut self, engine: &Engine, bursts: usize) -> Check<Ending> {
        if self.model().assignment.is_none() {
            let all = self.assignment(vec![(0, RING)]);
            self.burst(engine, &[Command::Assign(all)])?;
        }
        // The first life of such a workload ends by a fault, later ones may.
        let most = if self.bursts == 0 { bursts } else { bursts * 2 };
        let fails_in = self.rng.random_range(bursts / 3..most);
        for burst in 0..bursts {
            self.bursts += 1;
            let fails = self.mix.faults && burst >= fails_in;
            if fails && burst == fails_in {
                let after = self.rng.random_range(0..6);
                self.fs.fail_once_on(SEQUENCER_THREAD, Fault::Sync, after, ErrorKind::Other);
            }
            let now = self.now() + self.rng.random_range(0..12);
            self.time.store(now.min(START + 999), Ordering::Relaxed);
            let commands = self.commands();
            if self.mix.faults && self.rng.random_bool(0.1) && !fails {
                self.burst_on_full_disk(engine, commands)?;
            } else if !self.burst(engine, &commands)? {
                return Ok(Ending::Kill);
            }
            if self.rng.random_bool(0.15) {
                let checkpointed = engine.checkpoint();
                if checkpointed.is_err() {
                    return Ok(Ending::Kill);
                }
                self.mark(Mark::Acknowledged(self.tip));
            }
            if self.rng.random_bool(0.2) && !self.compact(engine) {
                return Ok(Ending::Kill);
            }
        }
        self.fs.heal();
        Ok(if self.rng.random_bool(0.5) { Ending::Close } else { Ending::Kill })
    }

    /// One round of compaction, which removes first what lies outside of what is owned. Returns
    /// whether the engine still writes.
    fn compact(&mut self, engine: &Engine) -> bool {
        for after in self.model().sweep() {
            self.tip = self.history.push(self.tip, after);
        }
        self.mark(Mark::Submitted(self.tip));
        let Ok(compacted) = engine.compact() else { return false };
        // It ends with a checkpoint, if there was something to compact.
        if compacted.is_some() || !self.mix.interval {
            self.mark(Mark::Acknowledged(self.tip));
        }
        self.acknowledged = self.tip;
        true
    }

    /// Executes commands as one batch of the sequencer, as far as that goes. Returns whether the
    /// engine still writes.
    fn burst(&mut self, engine: &Engine, commands: &[Command]) -> Check<bool> {
        let begun = self.tip;
        let mut ends = Vec::new();
        let mut places = BTreeSet::new();
        for command in commands {
            for after in self.model().execute(command, self.now()) {
                self.tip = self.history.push(self.tip, after);
            }
            ends.push(self.tip);
            places.extend(places_of(command));
        }
        self.mark(Mark::Submitted(self.tip));
        *self.burst.lock() = Some((engine.clone(), places));
        // The sequencer is held until all are queued: so they are one batch, every time.
        let (release, held) = mpsc::channel::<()>();
        let (at_it, is_held) = mpsc::channel();
        let hold = move |_| {
            _ = at_it.send(());
            _ = held.recv();
        };
        engine.submit(nothing(), Box::new(hold));
        _ = is_held.recv();
        let (sender, answers) = mpsc::channel();
        for (i, command) in commands.iter().enumerate() {
            let (sender, marks, fs) = (sender.clone(), self.marks.clone(), self.fs.clone());
            let durable = !self.mix.interval;
            let end = ends[i];
            let done = move |result: Result<Outcome, Error>| {
                if durable && result.is_ok() {
                    marks.put(&fs, Mark::Acknowledged(end));
                }
                _ = sender.send((i, result));
            };
            engine.submit(command.clone(), Box::new(done));
        }
        drop((release, sender));
        let mut writes = true;
        for (i, result) in answers {
            match result {
                Ok(outcome) => {
                    self.acknowledged = self.acknowledged.max(ends[i]);
                    self.learn(&commands[i], &outcome);
                }
                Err(Error::OutcomeUnknown { .. } | Error::Poisoned { .. } | Error::Io { .. }) => {
                    writes = false;
                }
                Err(error) => {
                    let before = if i == 0 { begun } else { ends[i - 1] };
                    if before != ends[i] {
                        return Err(format!("{:?} was refused: {error}", commands[i]));
                    }
                }
            }
        }
        // What follows a batch is done when the next command is answered.
        _ = engine.execute(nothing());
        Ok(writes)
    }

    /// The disk is full when the command is written, and then no more.
    fn burst_on_full_disk(&mut self, engine: &Engine, mut commands: Vec<Command>) -> Check<()> {
        commands.truncate(1);
        let before = self.tip;
        let full = ErrorKind::StorageFull;
        self.fs.fail_once_on(SEQUENCER_THREAD, Fault::Write, 0, full);
        let Some(command) = commands.pop() else { return Ok(()) };
        for after in self.model().execute(&command, self.now()) {
            self.tip = self.history.push(self.tip, after);
        }
        self.mark(Mark::Submitted(self.tip));
        let result = engine.execute(command);
        self.fs.heal();
        match result {
            Ok(_) => {
                // Nothing was written: the command had no effect.
                self.mark(Mark::Acknowledged(self.tip));
                self.acknowledged = self.tip;
            }
            Err(Error::DiskFull { .. }) => {
                self.tip = before;
                // Refused for good: it must not come back.
                self.mark(Mark::Submitted(self.tip));
            }
            Err(_) => {}
        }
        _ = engine.execute(nothing());
        Ok(())
    }

    fn learn(&mut self, command: &Command, outcome: &Outcome) {
        let (Command::Mutate { mutations, .. }, Outcome::Mutated(outcomes)) = (command, outcome)
        else {
            return;
        };
        for (mutation, outcome) in mutations.iter().zip(outcomes) {
            if let (Mutation::Write { document, .. }, MutationOutcome::Written(version)) =
                (mutation, outcome)
            {
                let text = std::str::from_utf8(document).unwrap();
                self.history.versions.insert(text.into(), *version);
            }
        }
    }

    /// A reader that looks, before each operation of the sequencer on the filesystem, at what the
    /// batch under way is about to change.
    fn reader(&self) -> Observer {
        let (burst, marks, fs) = (Arc::clone(&self.burst), self.marks.clone(), self.fs.clone());
        Arc::new(move || {
            if thread::current().name() != Some(SEQUENCER_THREAD) {
                return;
            }
            let Some((engine, places)) = burst.lock().clone() else { return };
            for place in places {
                let key =
                    Key { position: place.1, bytes: Bytes::copy_from_slice(place.2.as_bytes()) };
                if let Ok(found) = engine.read(place.0, &key) {
                    let text = found.map(|document| {
                        Text::from(String::from_utf8_lossy(&document.bytes).as_ref())
                    });
                    marks.put(&fs, Mark::Observed(place, text));
                }
            }
        })
    }

    // What to do.

    fn commands(&mut self) -> Vec<Command> {
        let model = self.model().clone();
        if let Some(owner) = model.locked_by {
            // Refused, then released.
            let refused = self.mutate(1..3);
            return vec![refused, Command::Release { owner }];
        }
        if model.indexes.is_empty() {
            return vec![self.create_index()];
        }
        match self.rng.random_range(0..100) {
            0..3 if model.indexes.len() < 3 => vec![self.create_index()],
            3..6 => {
                let ids: Vec<_> = model.indexes.keys().copied().collect();
                vec![Command::DropIndex { id: *ids.choose(&mut self.rng).unwrap() }]
            }
            6..9 => vec![Command::Lock { owner: "bootstrap".to_owned() }],
            9..12 => {
                let cut = self.rng.random_range(1..RING);
                let ranges = match self.rng.random_range(0..3) {
                    0 => vec![(0, RING)],
                    1 => vec![(cut / 2, cut), (cut, RING)],
                    _ => vec![(0, cut)],
                };
                vec![Command::Assign(self.assignment(ranges))]
            }
            12..15 => {
                // Refused, where it is less than is used. What would be evicted for it is another's
                // test.
                let below = if model.evicts() { 0 } else { 300 };
                let limit = (model.used() + self.rng.random_range(0..2000)).saturating_sub(below);
                vec![Command::SetLimit { limit, policy: None }]
            }
            15..19 => vec![Command::SetLimit { limit: u64::MAX, policy: None }],
            19..23 => {
                let ids: Vec<_> = model.indexes.keys().copied().collect();
                let id = *ids.choose(&mut self.rng).unwrap();
                let (mut settings, force) = (self.settings(), self.rng.random());
                if settings.policy == Some(Policy::Fifo) {
                    let (bytes, documents) = model.owned_totals(id);
                    settings.max_bytes = settings.max_bytes.map(|limit| limit.max(bytes));
                    settings.max_documents =
                        settings.max_documents.map(|limit| limit.max(documents));
                }
                vec![Command::SetIndex { id, settings, force }]
            }
            _ => (0..self.rng.random_range(1..4)).map(|_| self.mutate(1..5)).collect(),
        }
    }

    fn assignment(&mut self, ranges: Vec<(u32, u32)>) -> Assignment {
        self.next_epoch += 1;
        assignment(self.next_epoch, ranges)
    }

    fn create_index(&mut self) -> Command {
        let id = self.next_index;
        self.next_index += 1;
        // A name that was dropped may come again.
        let taken: BTreeSet<_> = self.model().indexes.values().cloned().collect();
        let mut names = (0..).map(|n| format!("index{n}"));
        let name = names.find(|name| !taken.contains(name)).unwrap_or_default();
        Command::CreateIndex { id, name, settings: self.settings() }
    }

    fn settings(&mut self) -> IndexSettings {
        let (evicts, rng) = (self.mix.evicts, &mut self.rng);
        let ttl = rng.random_bool(0.3).then(|| rng.random_range(1..300));
        if evicts && rng.random_bool(0.7) {
            // The one policy of which it can be told beforehand what goes.
            let policy = Some(Policy::Fifo);
            let max_bytes = rng.random_bool(0.3).then(|| rng.random_range(300..2000));
            let max_documents = rng.random_bool(0.7).then(|| rng.random_range(1..8));
            return IndexSettings { max_bytes, max_documents, policy, ttl };
        }
        IndexSettings {
            max_bytes: rng.random_bool(0.2).then(|| rng.random_range(1000..6000)),
            max_documents: rng.random_bool(0.2).then(|| rng.random_range(5..24)),
            policy: rng.random_bool(0.2).then_some(Policy::Reject),
            ttl,
        }
    }

    fn expiry(&mut self) -> Expiry {
        match self.rng.random_range(0..10) {
            0..6 => Expiry::Default,
            6 => Expiry::Never,
            7..9 => Expiry::After(self.rng.random_range(1..300)),
            // Never swept either.
            _ => Expiry::At(START + self.rng.random_range(1000..100_000)),
        }
    }

    /// A touch of some document whose version is known.
    fn touch(&mut self) -> Option<Mutation> {
        let model = Arc::clone(self.history.model(self.tip));
        let version = |text| Some((text, *self.history.versions.get(text)?));
        let known =
            model.documents.iter().filter_map(|(place, text)| Some((place, version(text)?)));
        let known: Vec<_> = known.collect();
        let &(place, (text, version)) = known.choose(&mut self.rng)?;
        let (index, key) = (place.0, key(&place.2));
        let document = Bytes::copy_from_slice(text.as_bytes());
        let expiry = self.expiry();
        Some(Mutation::Touch { index, key, version, document, expiry })
    }

    fn mutate(&mut self, count: std::ops::Range<usize>) -> Command {
        let atomic = self.rng.random_bool(0.5);
        let mutations = (0..self.rng.random_range(count)).map(|_| self.mutation()).collect();
        Command::Mutate { mutations, atomic }
    }

    fn mutation(&mut self) -> Mutation {
        let ids: Vec<_> = self.model().indexes.keys().copied().collect();
        let index = ids.choose(&mut self.rng).copied().unwrap_or(1);
        let key = key(&format!("k{:02}", self.rng.random_range(0..24)));
        if self.rng.random_bool(0.25) {
            return Mutation::Remove { index, key, version: None };
        }
        if self.rng.random_bool(0.1)
            && let Some(touch) = self.touch()
        {
            return touch;
        }
        self.serial += 1;
        // Few lengths: what is written after a recovery may lie exactly over what was torn.
        let length = match self.rng.random_range(0..100) {
            0..55 => 21,
            55..75 => 93,
            75..90 => 300,
            90..98 => 900,
            // More than a segment.
            _ => 4500,
        };
        let condition = match self.rng.random_range(0..10) {
            0 => Condition::Absent,
            1 => Condition::Present,
            _ => Condition::Any,
        };
        let document = document(self.serial, length).into();
        let expiry = self.expiry();
        Mutation::Write { index, key, document, condition, expiry }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Close,
    Kill,
}

/// A document like no other.
pub fn document(serial: u64, length: usize) -> String {
    let mut text = format!("{serial:06} ");
    while text.len() < length {
        text.push(char::from(b'a' + (serial as usize + text.len()) as u8 % 26));
    }
    text
}

pub fn assignment(epoch: u64, ranges: Vec<(u32, u32)>) -> Assignment {
    Assignment {
        cluster: "cluster".to_owned(),
        name: "shard0".to_owned(),
        hash_method: "md5".to_owned(),
        epoch,
        lineage: 0,
        ranges,
        limit: u64::MAX,
        policy: Policy::Reject,
    }
}

/// A command without effect.
fn nothing() -> Command {
    Command::Release { owner: "nobody".to_owned() }
}

fn places_of(command: &Command) -> Vec<Place> {
    let Command::Mutate { mutations, .. } = command else { return Vec::new() };
    mutations
        .iter()
        .map(|mutation| {
            let (Mutation::Write { index, key, .. }
            | Mutation::Touch { index, key, .. }
            | Mutation::Remove { index, key, .. }) = mutation;
            (*index, key.position, String::from_utf8(key.bytes.to_vec()).unwrap())
        })
        .collect()
}
