//! Goes through a recording and recovers from every state that a power loss may leave, or from a
//! sample where there are too many.
//!
//! Several threads go through it side by side, each from the beginning, and take the points in turn. What is
//! tried at a point depends on the seed and its number alone, so who takes it makes no difference.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rand::Rng;
use rand::rngs::StdRng;
use sherd_engine::fs::{Event, Image, Medium, Pending, SimFs};
use sherd_engine::index::{IndexStore, SledStore};
use sherd_engine::{Command, Condition, Defects, Engine, Expiry, IndexSettings, Mutation};

use super::history::{Follower, Known, State};
use super::index::{Held, IndexPast, SLED_CACHE_BYTES, TestStore, Variant};
use super::interleave::interleave;
use super::model::{Model, inspect, key};
use super::recording::{
    BEGINNING, Mark, Marks, Recording, assignment, document, follow, record, record_with_sled,
};
use super::{Check, DIR, RING, rng};

const SECTOR_BYTES: usize = 512;
const PAGE_BYTES: usize = 4096;

/// How much is tried.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// About so many states in all.
    pub states: u64,
    /// Up to so many states of a point are all tried.
    pub exhaustive: usize,
    /// Of more, so many.
    pub sample: u64,
}

/// The share of states in which the recovery is cut off as well.
const CUT_RECOVERIES: f64 = 0.15;

/// The share of states after which is written, and the power cut once more.
const WRITTEN_AFTER: f64 = 0.3;

/// So many threads to a core: they mostly wait for those of an engine to begin and to end.
const THREADS_PER_CORE: usize = 3;

/// What was tried.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub workloads: u64,
    /// How many documents these evicted.
    pub evictions: u64,
    pub points: u64,
    /// Points of which all states were tried.
    pub exhaustive: u64,
    pub states: u64,
    /// States of which the recovery was cut off as well.
    pub cut_recoveries: u64,
    /// States after which was written, and the power cut once more.
    pub written_after: u64,
    pub rebuilt: u64,
    pub indexes: BTreeMap<Variant, u64>,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.workloads += other.workloads;
        self.evictions += other.evictions;
        self.points += other.points;
        self.exhaustive += other.exhaustive;
        self.states += other.states;
        self.cut_recoveries += other.cut_recoveries;
        self.written_after += other.written_after;
        self.rebuilt += other.rebuilt;
        for (variant, count) in other.indexes {
            *self.indexes.entry(variant).or_default() += count;
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} states of {} crash points in {} workloads with {} evictions; of {} points every state; \
             {} recoveries cut off as well; {} written to and cut off again; \
             {} indexes rebuilt; indexes: {:?}",
            self.states,
            self.points,
            self.workloads,
            self.evictions,
            self.exhaustive,
            self.cut_recoveries,
            self.written_after,
            self.rebuilt,
            self.indexes,
        )
    }
}

/// One state: of which workload, after how many events, and which of that point.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub seed: u64,
    pub workload: u64,
    /// Nowhere, where the workload itself failed.
    pub state: Option<(usize, u64)>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seed, self.workload)?;
        match self.state {
            Some((point, state)) => write!(f, ":{point}:{state}"),
            None => Ok(()),
        }
    }
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let numbers: Result<Vec<u64>, _> = text.split(':').map(str::parse).collect();
        match numbers.as_deref() {
            Ok(&[seed, workload]) => Ok(Self { seed, workload, state: None }),
            Ok(&[seed, workload, point, state]) => {
                Ok(Self { seed, workload, state: Some((point as usize, state)) })
            }
            _ => Err(format!("{text:?} is neither SEED:WORKLOAD nor SEED:WORKLOAD:POINT:STATE")),
        }
    }
}

/// A broken promise, and what replays it.
#[derive(Clone, Debug)]
pub struct Failure {
    pub place: Place,
    pub what: String,
}

/// Explores workload by workload until there are states enough.
pub fn explore(
    seed: u64,
    effort: Effort,
    defects: Defects,
    counts: &mut Counts,
) -> Result<(), Failure> {
    while counts.states < effort.states {
        explore_workload(seed, counts.workloads, None, effort, defects, counts)?;
        counts.workloads += 1;
    }
    Ok(())
}

/// Explores one state again. That there is no such state is a failure as well: nothing was tried.
pub fn replay(place: Place, effort: Effort, defects: Defects) -> Result<(), Failure> {
    let Place { seed, workload, state } = place;
    let mut counts = Counts::default();
    explore_workload(seed, workload, state, effort, defects, &mut counts)?;
    if counts.states == 0 {
        return Err(Failure { place, what: format!("there is no such state: {place}") });
    }
    Ok(())
}

fn explore_workload(
    seed: u64,
    workload: u64,
    only: Option<(usize, u64)>,
    effort: Effort,
    defects: Defects,
    counts: &mut Counts,
) -> Result<(), Failure> {
    let failed = |what| Failure { place: Place { seed, workload, state: None }, what };
    let recorded = guarded(|| record(seed, workload, defects));
    let recording = recorded.map_err(failed)?;
    counts.evictions += recording.evicted;
    let walk = Walk {
        seed,
        workload,
        only,
        effort,
        recording: &recording,
        next: AtomicUsize::new(0),
        failed: AtomicBool::new(false),
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    // What leads to the one state is told once.
    let threads = if only.is_some() { 1 } else { cores * THREADS_PER_CORE };
    let ends = thread::scope(|scope| {
        let run = || {
            let mut counts = Counts::default();
            let end = walk.run(&mut counts);
            (counts, end)
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    let mut failures = Vec::new();
    for (of_thread, end) in ends {
        *counts += of_thread;
        failures.extend(end.err());
    }
    failures.into_iter().min_by_key(|failure| failure.place.state).map_or(Ok(()), Err)
}

/// The way through a recording, on which several threads are.
struct Walk<'a> {
    seed: u64,
    workload: u64,
    only: Option<(usize, u64)>,
    effort: Effort,
    recording: &'a Recording,
    /// The first point that nobody has taken.
    next: AtomicUsize,
    /// One of the threads has found a failure.
    failed: AtomicBool,
}

impl Walk<'_> {
    /// Takes points until there are none left, or somebody fails.
    fn run(&self, counts: &mut Counts) -> Result<(), Failure> {
        let end = self.try_run(counts);
        if end.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        end
    }

    fn try_run(&self, counts: &mut Counts) -> Result<(), Failure> {
        let recording = self.recording;
        let mut medium = Medium::default();
        let mut follower = Follower::default();
        let mut index = IndexPast::default();
        let mut taken = self.take();
        for (number, event) in recording.events.iter().map(Some).chain([None]).enumerate() {
            let is_taken = number == taken;
            if is_taken {
                taken = self.take();
            }
            if let Some(Event::Mark(mark)) = event {
                // The state of the disk is as before; what is known is more.
                let mark = recording.marks.get(*mark);
                follow(mark, &recording.history, &mut follower, &mut index)
                    .map_err(|what| self.failure(None, what))?;
                continue;
            }
            if is_taken && self.only.is_none_or(|(wanted, _)| wanted == number) {
                let point = Point { recording, known: follower.known, index: &index };
                self.explore(number, &point, &medium, counts)?;
            }
            if let Some(event) = event {
                medium.apply(event);
            }
        }
        Ok(())
    }

    fn take(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn failure(&self, state: Option<(usize, u64)>, what: String) -> Failure {
        let Self { seed, workload, .. } = *self;
        Failure { place: Place { seed, workload, state }, what }
    }

    /// Tries the states of a point.
    fn explore(
        &self,
        number: usize,
        point: &Point<'_>,
        medium: &Medium,
        counts: &mut Counts,
    ) -> Result<(), Failure> {
        counts.points += 1;
        let choices = Choices::of(medium, self.effort);
        counts.exhaustive += u64::from(choices.exhaustive);
        for state in 0..choices.count {
            if self.only.is_some_and(|(_, wanted)| wanted != state) {
                continue;
            }
            if self.failed.load(Ordering::Relaxed) {
                break;
            }
            let mut rng = rng(&[self.seed, self.workload, number as u64, state]);
            let image = choices.image(state, &mut rng);
            if self.only.is_some() {
                tell(self.recording, number);
            }
            counts.states += 1;
            guarded(|| point.check(image, &mut rng, counts))
                .map_err(|what| self.failure(Some((number, state)), what))?;
        }
        Ok(())
    }
}

/// Explores a sample of `states` states with the real sled.
pub fn explore_with_sled(seed: u64, states: u64, counts: &mut Counts) -> Result<(), Failure> {
    // Of each workload so many, at random points.
    let of_workload = 40;
    while counts.states < states {
        let workload = counts.workloads;
        let failed = |state, what| Failure { place: Place { seed, workload, state }, what };
        let dir = tempfile::tempdir().unwrap();
        let copies = dir.path().join("copies");
        let recorded = record_with_sled(seed, workload, &dir.path().join("index"), &copies);
        let recording = recorded.map_err(|what| failed(None, what))?;
        let mut rng = rng(&[seed, workload]);
        let chance = f64::from(of_workload) / recording.events.len() as f64;
        let mut medium = Medium::default();
        let mut follower = Follower::default();
        let mut index = IndexPast::default();
        for (number, event) in recording.events.iter().enumerate() {
            if let Event::Mark(mark) = event {
                let mark = recording.marks.get(*mark);
                follow(mark, &recording.history, &mut follower, &mut index)
                    .map_err(|what| failed(None, what))?;
            }
            medium.apply(event);
            if rng.random_bool(chance.min(1.0)) {
                counts.points += 1;
                counts.states += 1;
                let point = Point { recording: &recording, known: follower.known, index: &index };
                let dir = dir.path().join(number.to_string());
                guarded(|| point.check_with_sled(&medium, &dir, &mut rng, counts))
                    .map_err(|what| failed(Some((number, 0)), what))?;
            }
        }
        counts.workloads += 1;
    }
    Ok(())
}

/// Prints what led to a point.
fn tell(recording: &Recording, number: usize) {
    let from = number.saturating_sub(40);
    for (number, event) in recording.events[..number].iter().enumerate().skip(from) {
        match event {
            Event::Mark(mark) => println!("{number}: {}", recording.marks.get(*mark)),
            Event::Write { file, offset, bytes } => {
                println!("{number}: write to file {file} at {offset}, {} bytes", bytes.len());
            }
            event => println!("{number}: {event:?}"),
        }
    }
}

/// A panic is a failure like others.
fn guarded<T>(run: impl FnOnce() -> Check<T>) -> Check<T> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panicked: {}", text.unwrap_or_default()))
    })
}

/// The states of one point.
struct Choices {
    by_sector: Pending,
    by_page: Pending,
    /// All of them, where they are few: whether by pages, and the picks.
    all: Vec<(bool, Vec<usize>)>,
    exhaustive: bool,
    count: u64,
}

impl Choices {
    fn of(medium: &Medium, effort: Effort) -> Self {
        let by_sector = medium.pending(SECTOR_BYTES);
        let by_page = medium.pending(PAGE_BYTES);
        let mut all = Vec::new();
        let sectors = every_pick(&by_sector, effort.exhaustive);
        let exhaustive = sectors.is_some();
        if let Some(picks) = sectors {
            all.extend(picks.into_iter().map(|picks| (false, picks)));
            let pages = every_pick(&by_page, effort.exhaustive).unwrap_or_default();
            if by_page.options() != by_sector.options() {
                all.extend(pages.into_iter().map(|picks| (true, picks)));
            }
        }
        let count = if exhaustive { all.len() as u64 } else { effort.sample };
        Self { by_sector, by_page, all, exhaustive, count }
    }

    fn image(&self, state: u64, rng: &mut StdRng) -> Image {
        if let Some((by_page, picks)) = self.all.get(state as usize) {
            let pending = if *by_page { &self.by_page } else { &self.by_sector };
            return pending.image(picks);
        }
        let pending = if state % 3 == 2 { &self.by_page } else { &self.by_sector };
        let options = pending.options();
        let picks = match state {
            0 => vec![0; options.len()],
            1 => options.iter().map(|options| options - 1).collect(),
            _ => random_picks(&options, rng),
        };
        pending.image(&picks)
    }
}

fn random_picks(options: &[usize], rng: &mut StdRng) -> Vec<usize> {
    // Now mostly old, now mostly new.
    let new = rng.random_range(0.0..1.0);
    options
        .iter()
        .map(|&options| {
            let last = options - 1;
            if rng.random_bool(new) {
                rng.random_range(1..=last)
            } else {
                rng.random_range(0..last)
            }
        })
        .collect()
}

/// Every way to pick that leads to another state; `None` where there are too many.
fn every_pick(pending: &Pending, most: usize) -> Option<Vec<Vec<usize>>> {
    let options = pending.options();
    let count = options.iter().try_fold(1usize, |all, options| all.checked_mul(*options))?;
    if count > most {
        return None;
    }
    let mut picks = BTreeSet::new();
    for number in 0..count {
        let mut rest = number;
        let mut pick: Vec<_> = options
            .iter()
            .map(|options| {
                let pick = rest % options;
                rest /= options;
                pick
            })
            .collect();
        pending.normalize(&mut pick);
        picks.insert(pick);
    }
    Some(picks.into_iter().collect())
}

/// A moment at which the power goes.
struct Point<'a> {
    recording: &'a Recording,
    known: Known,
    index: &'a IndexPast,
}

impl Point<'_> {
    fn check(&self, image: Image, rng: &mut StdRng, counts: &mut Counts) -> Check<()> {
        let variant = Variant::pick(rng);
        *counts.indexes.entry(variant).or_default() += 1;
        let fs = SimFs::from_image(image);
        let store = self.index.come_back(variant, rng);
        self.recoveries(&fs, &store, variant, rng, counts)
            .map_err(|what| format!("with the index {variant:?}: {what}"))
    }

    fn recoveries(
        &self,
        fs: &SimFs,
        store: &TestStore,
        variant: Variant,
        rng: &mut StdRng,
        counts: &mut Counts,
    ) -> Check<()> {
        if rng.random_bool(CUT_RECOVERIES) {
            counts.cut_recoveries += 1;
            return self.cut_recovery(fs, store, rng);
        }
        let (engine, state) = self.recover(fs, store, self.known)?;
        let rebuilt = store.was_set_aside();
        counts.rebuilt += u64::from(rebuilt);
        if rebuilt && variant.is_healthy() {
            return Err("it was rebuilt, though it was whole".to_owned());
        }
        if rng.random_bool(WRITTEN_AFTER) {
            counts.written_after += 1;
            return self.write_after(fs, store, engine, state, rng);
        }
        Ok(())
    }

    fn check_with_sled(
        &self,
        medium: &Medium,
        dir: &Path,
        rng: &mut StdRng,
        counts: &mut Counts,
    ) -> Check<()> {
        let variant = Variant::pick(rng);
        *counts.indexes.entry(variant).or_default() += 1;
        let with = |what| format!("with sled's files {variant:?}: {what}");
        self.index.come_back_in(dir, variant, rng);
        let store = SledStore::new(dir, SLED_CACHE_BYTES);
        let fs = SimFs::from_image(some_image(medium, rng));
        let options = self.recording.options.clone();
        let opened = Engine::open_with(Arc::new(fs.clone()), &store, Path::new(DIR), options);
        let (engine, recovery) =
            opened.map_err(|error| with(format!("recovery failed: {error}")))?;
        let history = &self.recording.history;
        let state = history.find(self.known, &inspect(&engine, BEGINNING)?).map_err(with)?;
        counts.rebuilt += u64::from(recovery.rebuilt.is_some());
        if let Some(why) = recovery.rebuilt
            && variant == Variant::Flushed
        {
            return Err(with(format!("it was rebuilt, though it was whole: {why}")));
        }
        drop(engine);
        // Once more from what the recovery left, wherever it was cut off.
        let (image, steps) = fs.journal();
        let cut = rng.random_range(0..=steps.len());
        let mut medium = Medium::new(&image);
        for step in &steps[..cut] {
            medium.apply(&step.event);
        }
        let fs = SimFs::from_image(some_image(&medium, rng));
        counts.cut_recoveries += 1;
        let known =
            if cut == steps.len() { Known { required: state, tip: state } } else { self.known };
        self.recover(&fs, &store, known)?;
        Ok(())
    }

    /// Recovers; what is found must be a state that there may be.
    fn recover(&self, fs: &SimFs, store: &dyn IndexStore, known: Known) -> Check<(Engine, State)> {
        let options = self.recording.options.clone();
        let opened = Engine::open_with(Arc::new(fs.clone()), store, Path::new(DIR), options);
        let (engine, _) = opened.map_err(|error| format!("recovery failed: {error}"))?;
        let state = self.recording.history.find(known, &inspect(&engine, BEGINNING)?)?;
        Ok((engine, state))
    }

    /// Cuts the recovery off at some step, and recovers again.
    fn cut_recovery(&self, fs: &SimFs, store: &TestStore, rng: &mut StdRng) -> Check<()> {
        let marks = Marks::default();
        let damage = store.damage();
        let recorded = marks.record(fs, store.store.clone(), damage);
        let mut index = IndexPast::default();
        index.note(true, Held::Memory(store.store.snapshot()));
        let (engine, state) = self.recover(fs, &recorded, self.known)?;
        marks.put(fs, Mark::Served(state));
        drop(engine);
        let (image, steps) = fs.journal();
        let events = interleave(steps, rng, |mark| marks.boundary(mark));
        let cut = rng.random_range(0..=events.len());
        let mut medium = Medium::new(&image);
        let mut follower = Follower::from(self.known);
        for event in &events[..cut] {
            if let Event::Mark(mark) = event {
                let mark = marks.get(*mark);
                follow(mark, &self.recording.history, &mut follower, &mut index)?;
            }
            medium.apply(event);
        }
        let again = |what| format!("the recovery was cut off after {cut} steps: {what}");
        let (fs, store) = cut_power(&medium, &index, rng);
        self.recover(&fs, &store, follower.known).map_err(again)?;
        Ok(())
    }

    /// Writes to what was recovered, and cuts the power again: all of that is there.
    fn write_after(
        &self,
        fs: &SimFs,
        store: &TestStore,
        engine: Engine,
        state: State,
        rng: &mut StdRng,
    ) -> Check<()> {
        let mut model = self.recording.history.model(state).as_ref().clone();
        let execute = |model: &mut Model, command: Command| {
            let done = engine.execute(command.clone());
            done.map_err(|error| format!("after the recovery: {error}"))?;
            if let Some(after) = model.execute(&command, BEGINNING).pop() {
                *model = after;
            }
            Ok::<_, String>(())
        };
        if let Some(owner) = model.locked_by.clone() {
            execute(&mut model, Command::Release { owner })?;
        }
        if rng.random_bool(0.3) || model.used() * 2 > model.limit() {
            // What lies outside the ranges goes first.
            engine.compact().map_err(|error| format!("after the recovery: {error}"))?;
            model = model.sweep().pop().unwrap_or(model);
            let all = assignment(1_000_000, vec![(0, RING)]);
            execute(&mut model, Command::Assign(all))?;
        }
        let index = match model.indexes.keys().next() {
            Some(index) => *index,
            None => {
                execute(
                    &mut model,
                    Command::CreateIndex {
                        id: 1000,
                        name: "after".to_owned(),
                        settings: IndexSettings::default(),
                    },
                )?;
                1000
            }
        };
        // Mostly what was lost, as a client would that had no answer: of the same length, it comes to
        // lie where the other was.
        let lost = self.recording.history.writes(state, self.known.tip);
        for i in 0..rng.random_range(1..4) {
            let (index, key, length) = match lost.get(i) {
                Some(((of_index, _, name), text)) if model.indexes.contains_key(of_index) => {
                    (*of_index, key(name), text.len())
                }
                _ => (index, key(&format!("k{:02}", rng.random_range(0..24))), 21),
            };
            let document = document(900_000 + i as u64, length).into();
            let write = Mutation::Write {
                index,
                key,
                document,
                condition: Condition::Any,
                expiry: Expiry::Default,
            };
            execute(&mut model, Command::Mutate { mutations: vec![write], atomic: false })?;
        }
        let interval = self.recording.options.durability != sherd_engine::Durability::Always;
        if interval || rng.random_bool(0.2) {
            engine.checkpoint().map_err(|error| format!("after the recovery: {error}"))?;
        }
        drop(engine);
        let (image, steps) = fs.journal();
        let mut medium = Medium::new(&image);
        for step in steps {
            medium.apply(&step.event);
        }
        let mut past = IndexPast::default();
        past.note(true, Held::Memory(store.store.snapshot()));
        let (fs, store) = cut_power(&medium, &past, rng);
        let options = self.recording.options.clone();
        let opened = Engine::open_with(Arc::new(fs), &store, Path::new(DIR), options);
        let (engine, _) = opened.map_err(|error| format!("the second recovery failed: {error}"))?;
        match model.differs(&inspect(&engine, BEGINNING)?) {
            None => Ok(()),
            Some(what) => Err(format!(
                "what was written after the recovery is not what is there then: {what}"
            )),
        }
    }
}

/// A machine after some power loss at the end of what the medium took in.
fn cut_power(medium: &Medium, index: &IndexPast, rng: &mut StdRng) -> (SimFs, TestStore) {
    let image = some_image(medium, rng);
    let variant = Variant::pick(rng);
    (SimFs::from_image(image), index.come_back(variant, rng))
}

/// Some image that the power may leave.
fn some_image(medium: &Medium, rng: &mut StdRng) -> Image {
    let piece = if rng.random_bool(0.5) { SECTOR_BYTES } else { PAGE_BYTES };
    let pending = medium.pending(piece);
    let options = pending.options();
    let picks = match rng.random_range(0..4) {
        0 => vec![0; options.len()],
        1 => options.iter().map(|options| options - 1).collect(),
        _ => random_picks(&options, rng),
    };
    pending.image(&picks)
}
