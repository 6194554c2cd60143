//! Ranges that move from one shard to another while they change: what the engines of both do.
//!
//! A driver that knows nothing but pages of the source and its log moves a range to and fro between
//! two simulated machines, while documents are written, removed, touched, expire and are compacted,
//! and while power is cut on either side. At the end the new owner has exactly what the model has.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sherd_engine::index::IndexStore;
use sherd_engine::{
    Assignment, Command, Document, Durability, Engine, Error, Expiry, Import, Imported, IndexId,
    IndexSettings, Key, Mutation, MutationOutcome, Options, Outcome, Policy, Scan, Span,
    TailCursor,
};

use crate::common::*;

const INDEXES: [IndexId; 2] = [1, 2];
const MIDDLE: u32 = RING / 2;
/// What moves to and fro.
const MOVING: (u32, u32) = (MIDDLE, MIDDLE + 2_000_003);
const MOVE: &str = "move";

/// A key somewhere in the ring, half of all in the range that moves.
fn place(i: u32) -> Key {
    let position =
        if i.is_multiple_of(2) { i * 7919 % MIDDLE } else { MIDDLE + i * 7919 % 2_000_003 };
    Key { position, bytes: format!("key{i}").into() }
}

fn is_moving(key: &Key) -> bool {
    (MOVING.0..MOVING.1).contains(&key.position)
}

/// A shard on a machine of its own.
struct Shard {
    name: &'static str,
    machine: Machine,
    engine: Option<Engine>,
    time: Time,
    policy: Policy,
    limit: u64,
}

impl Shard {
    fn new(name: &'static str, time: &Time, ranges: &[(u32, u32)]) -> Self {
        let machine = Machine::default();
        let (policy, limit) = (Policy::Reject, u64::MAX);
        let mut shard = Self { name, machine, engine: None, time: time.clone(), policy, limit };
        shard.open();
        shard.assign(1, ranges).unwrap();
        for id in INDEXES {
            create_index(shard.engine(), id, IndexSettings::default());
        }
        shard
    }

    fn open(&mut self) {
        let options = Options { clock: self.time.clock(), ..options() };
        self.engine = Some(self.machine.open_with(options).unwrap().0);
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    fn cut_power(&mut self, index_lost: bool) {
        self.engine = None;
        self.machine.fs.crash(|| false);
        self.machine.index.crash(false);
        if index_lost {
            self.machine.index.set_aside().unwrap();
        }
        self.open();
    }

    fn assignment(&self, epoch: u64, ranges: &[(u32, u32)]) -> Assignment {
        let policy = self.policy;
        Assignment { name: self.name.to_owned(), policy, ..assignment(epoch, ranges, self.limit) }
    }

    fn assign(&self, epoch: u64, ranges: &[(u32, u32)]) -> Result<Outcome, Error> {
        self.engine().execute(Command::Assign(self.assignment(epoch, ranges)))
    }

    fn receive(&self) {
        let (id, ranges) = (MOVE.to_owned(), vec![MOVING]);
        // What it had of the range before may still be on its way out.
        wait_until("the range is cleared", || {
            let command = Command::Receive { id: id.clone(), ranges: ranges.clone() };
            match self.engine().execute(command) {
                Ok(_) => true,
                Err(Error::NotCleared { .. }) => {
                    self.engine().compact().unwrap();
                    false
                }
                Err(error) => panic!("{error}"),
            }
        });
    }

    fn freeze(&self, at_most: Duration) -> u64 {
        let (id, ranges) = (MOVE.to_owned(), vec![MOVING]);
        match self.engine().execute(Command::Freeze { id, ranges, at_most }).unwrap() {
            Outcome::Frozen(lsn) => lsn,
            other => panic!("{other:?}"),
        }
    }

    fn give_up(&self, epoch: u64, ranges: &[(u32, u32)], frozen_at: u64) -> Result<Outcome, Error> {
        let assignment = self.assignment(epoch, ranges);
        self.engine().execute(Command::GiveUp { assignment, id: MOVE.to_owned(), frozen_at })
    }
}

/// How far the target is, which its log remembers.
#[derive(Clone, Debug, PartialEq)]
struct Progress {
    /// The index that is being read, by its place in [`INDEXES`]; beyond them when all are.
    index: usize,
    after: Option<Key>,
    tail: TailCursor,
    /// Before which pages everything was done up to which LSN: by index, and the position after which. Not
    /// remembered.
    shown: Vec<((usize, Option<u32>), u64)>,
}

impl Progress {
    fn begin(source: &Engine) -> Self {
        Self { index: 0, after: None, tail: source.tail_end(), shown: Vec::new() }
    }

    /// Whether a page has shown what became of a document up to an LSN.
    fn is_shown(&self, imported: &Imported, lsn: u64) -> bool {
        let (Imported::Put { index, key, .. } | Imported::Removed { index, key, .. }) = imported;
        let place = INDEXES.iter().position(|id| id == index).unwrap();
        let is_behind = |(page, after): (usize, Option<u32>)| {
            page < place || page == place && after.is_none_or(|after| after < key.position)
        };
        self.shown.iter().any(|&(page, done)| is_behind(page) && done >= lsn)
    }

    fn encode(&self) -> Vec<u8> {
        let TailCursor { lsn, segment, offset } = self.tail;
        let after = self.after.as_ref().map_or_else(String::new, |key| {
            format!("{} {}", key.position, std::str::from_utf8(&key.bytes).unwrap())
        });
        format!("{} {lsn} {segment} {offset} {after}", self.index).into_bytes()
    }

    fn of(target: &Engine) -> Option<Self> {
        let note = target.stat().incoming?.note;
        let text = String::from_utf8(note).unwrap();
        let mut words = text.split_whitespace();
        let index = words.next()?.parse().unwrap();
        let mut number = || words.next().unwrap().parse::<u64>().unwrap();
        let tail = TailCursor { lsn: number(), segment: number() as u32, offset: number() as u32 };
        let after = words.next().map(|position| Key {
            position: position.parse().unwrap(),
            bytes: Bytes::copy_from_slice(words.next().unwrap().as_bytes()),
        });
        Some(Self { index, after, tail, shown: Vec::new() })
    }

    /// Brings the next documents. Returns whether the target has all that is durable at the source.
    fn step(&mut self, source: &Engine, target: &Engine) -> Result<bool, Error> {
        let mut next = self.clone();
        let (documents, whole, done) = match INDEXES.get(self.index) {
            Some(&index) => {
                let after = self.after.as_ref().map(|key| key.position);
                next.shown.push(((self.index, after), source.stat().durable_lsn));
                let scan = Scan {
                    index,
                    range: MOVING,
                    after: self.after.clone(),
                    max_documents: 5,
                    max_bytes: 1 << 20,
                    keys_only: false,
                };
                let page = source.export(&scan)?;
                let last = page.items.last().map(|(key, _)| key.clone());
                let until = if page.more { last.clone() } else { None };
                let put = |(key, document): (Key, Document)| Imported::Put {
                    index,
                    key,
                    version: document.version,
                    expires_at: document.expires_at,
                    document: document.bytes,
                };
                let after = self.after.clone();
                let whole = Span { index, range: MOVING, after, until };
                (next.index, next.after) =
                    if page.more { (self.index, last) } else { (self.index + 1, None) };
                (page.items.into_iter().map(put).collect(), Some(whole), false)
            }
            None => match source.tail(self.tail, &[MOVING], 300) {
                Ok(tail) => {
                    next.tail = tail.next;
                    let is_new = |it: &Imported| !self.is_shown(it, tail.next.lsn - 1);
                    let documents = tail.documents.into_iter().filter(is_new).collect();
                    (documents, None, tail.next.lsn > tail.durable_lsn)
                }
                Err(Error::LogGone { .. }) => {
                    *self = Self::begin(source);
                    return Ok(false);
                }
                Err(error) => return Err(error),
            },
        };
        let (id, note) = (MOVE.to_owned(), next.encode());
        let as_of = next.tail.lsn - 1;
        target.import(Import { id, documents, whole, as_of, note })?;
        *self = next;
        Ok(done)
    }
}

/// What the cluster should have.
#[derive(Default)]
struct Model {
    /// By index and key: document, version, expiry.
    documents: BTreeMap<(IndexId, Bytes), (String, u64, u64)>,
    /// The highest version that a key ever had, or was removed at.
    highest: BTreeMap<(IndexId, Bytes), u64>,
}

impl Model {
    fn note_version(&mut self, at: &(IndexId, Bytes), version: u64, seed: u64) {
        let before = self.highest.insert(at.clone(), version).unwrap_or(0);
        assert!(version > before, "version {version} of {at:?} after {before}, seed {seed}");
    }

    fn alive(&self, now: u64) -> BTreeMap<(IndexId, Bytes), (String, u64, u64)> {
        let mut alive = self.documents.clone();
        alive.retain(|_, (_, _, expires_at)| *expires_at == 0 || *expires_at > now);
        alive
    }
}

/// A random change, of the shard that owns the key.
fn change(random: &mut StdRng, shards: [&Shard; 2], model: &mut Model, seed: u64) {
    let [home, owner] = shards;
    let index = INDEXES[random.random_range(0..2)];
    let key = place(random.random_range(0..120));
    let engine = if is_moving(&key) { owner.engine() } else { home.engine() };
    let at = (index, key.bytes.clone());
    let now = home.time.now();
    let there = model.documents.get(&at).filter(|(_, _, until)| *until == 0 || *until > now);
    let there = there.cloned();
    match random.random_range(0..10) {
        0..6 => {
            let text =
                format!("{}{}", random.random::<u32>(), "x".repeat(random.random_range(0..90)));
            let expiry = match random.random_range(0..4) {
                0 => Expiry::After(random.random_range(1..5_000)),
                _ => Expiry::Never,
            };
            let document = Bytes::from(text.clone());
            let condition = sherd_engine::Condition::Any;
            let outcome = one(engine, Mutation::Write { index, key, document, condition, expiry });
            let MutationOutcome::Written(version) = outcome else {
                panic!("{outcome:?}, seed {seed}")
            };
            model.note_version(&at, version, seed);
            let expires_at = if let Expiry::After(after) = expiry { now + after } else { 0 };
            model.documents.insert(at, (text, version, expires_at));
        }
        6..8 => match one(engine, Mutation::Remove { index, key, version: None }) {
            MutationOutcome::Removed(version) => {
                assert!(there.is_some(), "{at:?} was removed and not there, seed {seed}");
                model.note_version(&at, version, seed);
                model.documents.remove(&at);
            }
            MutationOutcome::Missing => assert_eq!(there, None, "{at:?}, seed {seed}"),
            other => panic!("{other:?}, seed {seed}"),
        },
        8 => {
            let Some((text, version, _)) = there else { return };
            let (document, expiry) = (Bytes::from(text), Expiry::At(now + 3_000));
            let touch = Mutation::Touch { index, key, version, document, expiry };
            let outcome = one(engine, touch);
            assert_eq!(outcome, MutationOutcome::Touched(version, now + 3_000), "seed {seed}");
            model.documents.get_mut(&at).unwrap().2 = now + 3_000;
        }
        _ => home.time.advance(random.random_range(0..400)),
    }
}

/// All that can be read of some ranges.
fn read_all(
    engine: &Engine,
    ranges: &[(u32, u32)],
) -> BTreeMap<(IndexId, Bytes), (String, u64, u64)> {
    let mut found = BTreeMap::new();
    for index in INDEXES {
        for &range in ranges {
            let (after, max_documents, max_bytes) = (None, usize::MAX, usize::MAX);
            let scan = Scan { index, range, after, max_documents, max_bytes, keys_only: false };
            for (key, document) in engine.scan(&scan).unwrap().items {
                let text = String::from_utf8(document.bytes.to_vec()).unwrap();
                found.insert((index, key.bytes), (text, document.version, document.expires_at));
            }
        }
    }
    found
}

/// A range moves to and fro; everything happens meanwhile.
fn history(seed: u64) -> u32 {
    let mut random = StdRng::seed_from_u64(seed);
    let time = Time::default();
    let others = [(0, MIDDLE), (MOVING.1, RING)];
    let mut home = Shard::new("home", &time, &[(0, RING)]);
    let mut away = Shard::new("away", &time, &[]);
    // One of the two is far ahead with its versions.
    for i in 0..random.random_range(0..400) {
        put_to(home.engine(), 2, "ahead", &format!("{i}"));
    }
    one(home.engine(), Mutation::Remove { index: 2, key: key("ahead"), version: None });
    let mut model = Model::default();
    let mut owner_is_home = true;
    let (mut epoch, mut moved) = (1, 0);
    for _ in 0..random.random_range(2..5) {
        let mut progress = None;
        for _ in 0..400 {
            let (source, target) =
                if owner_is_home { (&mut home, &mut away) } else { (&mut away, &mut home) };
            match random.random_range(0..100) {
                0 => source.cut_power(random.random()),
                1 => {
                    target.cut_power(random.random());
                    // It goes on from where its log says.
                    progress = Progress::of(target.engine());
                }
                2..5 => drop(source.engine().compact().unwrap()),
                5..7 => drop(target.engine().compact().unwrap()),
                7 => source.engine().checkpoint().unwrap(),
                8 => target.engine().checkpoint().unwrap(),
                9 if progress.is_some() && random.random_ratio(1, 4) => {
                    let id = MOVE.to_owned();
                    target.engine().execute(Command::StopReceiving { id }).unwrap();
                    progress = None;
                }
                10..50 => match &mut progress {
                    Some(progress) => {
                        progress.step(source.engine(), target.engine()).unwrap();
                    }
                    None => {
                        target.receive();
                        progress = Some(Progress::begin(source.engine()));
                    }
                },
                _ => {
                    let owner = if owner_is_home { &home } else { &away };
                    change(&mut random, [&home, owner], &mut model, seed);
                }
            }
        }
        let (source, target) =
            if owner_is_home { (&mut home, &mut away) } else { (&mut away, &mut home) };
        if progress.is_none() {
            target.receive();
        }
        let mut progress = progress.unwrap_or_else(|| Progress::begin(source.engine()));
        epoch += 1;
        let kept: &[(u32, u32)] = if owner_is_home { &others } else { &[] };
        if random.random() {
            // Frozen, and then not any more: the range stays.
            let frozen_at = source.freeze(Duration::from_secs(60));
            if random.random() {
                source.cut_power(false);
            } else {
                source.engine().execute(Command::Thaw { id: MOVE.to_owned() }).unwrap();
            }
            let refused = source.give_up(epoch, kept, frozen_at).unwrap_err();
            assert!(matches!(refused, Error::NotFrozen { .. }), "{refused}, seed {seed}");
            let owner = if owner_is_home { &home } else { &away };
            change(&mut random, [&home, owner], &mut model, seed);
        }
        let (source, target) =
            if owner_is_home { (&mut home, &mut away) } else { (&mut away, &mut home) };
        let frozen_at = source.freeze(Duration::from_secs(60));
        while !progress.step(source.engine(), target.engine()).unwrap() {}
        assert!(progress.tail.lsn > frozen_at);
        let sums = |shard: &Shard| shard.engine().sums(&[MOVING]).unwrap();
        assert_eq!(sums(source), sums(target), "seed {seed}");
        source.give_up(epoch, kept, frozen_at).unwrap();
        let all: &[(u32, u32)] = if owner_is_home { &[MOVING] } else { &[(0, RING)] };
        target.assign(epoch, all).unwrap();
        if !owner_is_home {
            // What stays where it is has no move.
            assert_eq!(target.engine().stat().incoming, None);
        }
        owner_is_home = !owner_is_home;
        moved += 1;
        let owner = if owner_is_home { &home } else { &away };
        let mut there = read_all(owner.engine(), &[MOVING]);
        there.extend(read_all(home.engine(), &others));
        assert_eq!(there, model.alive(time.now()), "seed {seed}");
        let former = if owner_is_home { &away } else { &home };
        let key = place(1);
        let refused = former.engine().read(1, &key).unwrap_err();
        assert!(matches!(refused, Error::WrongShard { .. }), "{refused}, seed {seed}");
    }
    // The log alone says the same.
    for shard in [&mut home, &mut away] {
        shard.cut_power(true);
    }
    let owner = if owner_is_home { &home } else { &away };
    let mut there = read_all(owner.engine(), &[MOVING]);
    there.extend(read_all(home.engine(), &others));
    assert_eq!(there, model.alive(time.now()), "after a rebuild, seed {seed}");
    let former = if owner_is_home { &away } else { &home };
    wait_until("what was given up is gone", || {
        former.engine().compact().unwrap();
        former.engine().sums(&[MOVING]).unwrap().is_empty()
    });
    moved
}

#[test]
fn a_range_moves_to_and_fro_whatever_happens_meanwhile() {
    let seed = std::env::var("SHERD_HANDOVER_SEED").ok().and_then(|seed| seed.parse().ok());
    let first: u64 = seed.unwrap_or_else(rand::random);
    let histories = if seed.is_some() { 1 } else { 40 };
    println!("seed {first}: SHERD_HANDOVER_SEED repeats it");
    let mut moved = 0;
    for i in 0..histories {
        let seed = first.wrapping_add(i);
        println!("history {seed}");
        moved += history(seed);
    }
    println!("{moved} moves");
}

/// Two shards, of which one is to hand the moving range to the other, with a document in it.
fn pair() -> (Shard, Shard) {
    let time = Time::default();
    let (source, target) =
        (Shard::new("home", &time, &[(0, RING)]), Shard::new("away", &time, &[]));
    let [key, other] = [place(1), place(2)];
    for key in [key, other] {
        let (document, expiry) = (Bytes::from_static(b"document"), Expiry::Never);
        let condition = sherd_engine::Condition::Any;
        one(source.engine(), Mutation::Write { index: 1, key, document, condition, expiry });
    }
    (source, target)
}

fn bring_all(source: &Shard, target: &Shard) -> Progress {
    target.receive();
    let mut progress = Progress::begin(source.engine());
    while !progress.step(source.engine(), target.engine()).unwrap() {}
    progress
}

fn write_at(engine: &Engine, key: Key) -> MutationOutcome {
    let (document, expiry) = (Bytes::from_static(b"another"), Expiry::Never);
    let condition = sherd_engine::Condition::Any;
    one(engine, Mutation::Write { index: 1, key, document, condition, expiry })
}

#[test]
fn a_frozen_range_refuses_changes_for_a_while_and_the_rest_does_not() {
    let (source, _) = pair();
    source.freeze(Duration::from_secs(3600));
    assert_eq!(write_at(source.engine(), place(1)), MutationOutcome::Refused(Error::Frozen));
    assert!(source.engine().read(1, &place(1)).unwrap().is_some(), "it can be read");
    assert!(matches!(write_at(source.engine(), place(2)), MutationOutcome::Written(_)));
    source.engine().execute(Command::Thaw { id: "another".to_owned() }).unwrap();
    assert_eq!(write_at(source.engine(), place(1)), MutationOutcome::Refused(Error::Frozen));
    source.engine().execute(Command::Thaw { id: MOVE.to_owned() }).unwrap();
    assert!(matches!(write_at(source.engine(), place(1)), MutationOutcome::Written(_)));
    // Nobody ends this one: it ends by itself.
    source.freeze(Duration::from_millis(1));
    assert_eq!(write_at(source.engine(), place(1)), MutationOutcome::Refused(Error::Frozen));
    source.time.advance(1);
    assert!(matches!(write_at(source.engine(), place(1)), MutationOutcome::Written(_)));
}

#[test]
fn a_range_is_given_up_only_while_it_is_frozen_and_nothing_else_is() {
    let (source, target) = pair();
    bring_all(&source, &target);
    let others = [(0, MIDDLE), (MOVING.1, RING)];
    let refused = |epoch, ranges: &[(u32, u32)], frozen_at| {
        let error = source.give_up(epoch, ranges, frozen_at).unwrap_err();
        assert!(matches!(error, Error::NotFrozen { .. }), "{error}");
    };
    refused(2, &others, 0);
    let frozen_before = source.freeze(Duration::from_secs(3600));
    write_at(source.engine(), place(2));
    let frozen_at = source.freeze(Duration::from_secs(3600));
    refused(2, &others, frozen_before);
    refused(2, &[], frozen_at);
    refused(2, &[(0, MIDDLE)], frozen_at);
    source.give_up(2, &others, frozen_at).unwrap();
    // Its answer may have been lost, and the next epoch may have come.
    source.give_up(2, &others, frozen_at).unwrap();
    source.give_up(3, &others, frozen_at).unwrap();
    target.assign(2, &[MOVING]).unwrap();
    assert!(target.engine().read(1, &place(1)).unwrap().is_some());
}

#[test]
fn what_is_being_taken_over_is_seen_by_nobody_and_goes_when_the_move_ends() {
    let (source, target) = pair();
    bring_all(&source, &target);
    assert_eq!(target.engine().stat().documents, 1);
    let error = target.engine().read(1, &place(1)).unwrap_err();
    assert!(matches!(error, Error::WrongShard { .. }), "{error}");
    let outcome = write_at(target.engine(), place(1));
    assert!(matches!(outcome, MutationOutcome::Refused(Error::WrongShard { .. })), "{outcome:?}");
    let import = |id: &str, key: Key| {
        let document = Imported::Put {
            index: 1,
            key,
            version: 9,
            expires_at: 0,
            document: Bytes::from_static(b"x"),
        };
        let (id, note) = (id.to_owned(), Vec::new());
        let import = Import { id, documents: vec![document], whole: None, as_of: 0, note };
        target.engine().import(import).unwrap_err()
    };
    for error in [import("another", place(1)), import(MOVE, place(2))] {
        assert!(matches!(error, Error::NotReceiving { .. }), "{error}");
    }
    let command = Command::Receive { id: "another".to_owned(), ranges: vec![(0, 5)] };
    let error = target.engine().execute(command).unwrap_err();
    assert!(matches!(error, Error::Receiving { .. }), "{error}");
    target.engine().execute(Command::StopReceiving { id: MOVE.to_owned() }).unwrap();
    wait_until("it goes", || {
        target.engine().compact().unwrap();
        target.engine().stat().documents == 0
    });
}

/// An eviction or the end of a time to live there would make it differ from what it comes from.
#[test]
fn what_is_being_taken_over_is_not_evicted_and_does_not_expire() {
    let (source, mut target) = pair();
    (target.policy, target.limit) = (Policy::Lru, 100);
    target.assign(2, &[(0, 1000)]).unwrap();
    let (document, expiry) = (Bytes::from_static(b"expires"), Expiry::After(1));
    let condition = sherd_engine::Condition::Any;
    let key = place(3);
    one(source.engine(), Mutation::Write { index: 1, key, document, condition, expiry });
    bring_all(&source, &target);
    source.time.advance(10_000);
    let own = |i: u32| Key { position: i, bytes: format!("own{i}").into() };
    for i in 0..100 {
        let outcome = write_at(target.engine(), own(i));
        assert!(matches!(outcome, MutationOutcome::Written(_)), "{outcome:?}");
    }
    let brought = target.engine().sums(&[MOVING]).unwrap();
    assert_eq!(brought[&1].documents, 2);
    assert!(target.engine().stat().counts.evicted > 80);
    // Where there is room for nothing else, nothing else is stored.
    (target.policy, target.limit) = (Policy::Lru, 30);
    target.assign(3, &[(0, 1000)]).unwrap();
    let outcome = write_at(target.engine(), own(500));
    assert!(
        matches!(outcome, MutationOutcome::Refused(Error::QuotaExceeded { .. })),
        "{outcome:?}"
    );
    assert_eq!(target.engine().sums(&[MOVING]).unwrap(), brought);
}

/// Whatever the durability: the other shard is about to forget it.
#[test]
fn what_was_taken_over_outlives_a_power_cut() {
    let (source, mut target) = pair();
    target.engine = None;
    let interval = Durability::Interval(Duration::from_secs(3600));
    let options = Options { durability: interval, clock: target.time.clock(), ..options() };
    target.engine = Some(target.machine.open_with(options).unwrap().0);
    // Synced, as all that bootstrap says.
    target.assign(2, &[(0, 1000)]).unwrap();
    bring_all(&source, &target);
    let own = Key { position: 1, bytes: "own".into() };
    let (index, condition) = (1, sherd_engine::Condition::Any);
    let (document, expiry) = (Bytes::from_static(b"x"), Expiry::Default);
    let write = Mutation::Write { index, key: own.clone(), document, condition, expiry };
    assert!(matches!(one(target.engine(), write), MutationOutcome::Written(_)));
    target.cut_power(false);
    assert_eq!(target.engine().read(1, &own).unwrap(), None, "nobody synced it");
    let brought = target.engine().sums(&[MOVING]).unwrap();
    assert_eq!(brought[&1].documents, 1);
    assert!(target.engine().stat().incoming.is_some_and(|held| !held.note.is_empty()));
}

/// What comes goes with the batches of those who write at the target: with groups that fail, removals, and LSNs
/// that skip between them.
#[test]
fn who_writes_beside_what_comes_finds_all_of_it_and_so_does_the_new_owner() {
    const WRITERS: u32 = 3;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let time = Time::default();
    let mut target = Shard::new("away", &time, &[(0, MIDDLE)]);
    target.receive();
    let stopped = AtomicBool::new(false);
    let (mut written, mut brought) = (BTreeMap::new(), BTreeMap::new());
    std::thread::scope(|scope| {
        let (engine, stopped) = (target.engine(), &stopped);
        let write = move |writer: u32| {
            let mut rng = StdRng::seed_from_u64(seed + u64::from(writer));
            let mut model: BTreeMap<Bytes, String> = BTreeMap::new();
            for round in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let key = |i: u32| Key {
                    position: i * 1000 + writer,
                    bytes: format!("{writer}-{i}").into(),
                };
                let [one, other] = [(); 2].map(|()| key(rng.random_range(0..50)));
                let put = |key: &Key, condition| Mutation::Write {
                    index: 1,
                    key: key.clone(),
                    document: format!("{writer} {round}").into(),
                    condition,
                    expiry: Expiry::Default,
                };
                if rng.random_bool(0.3) {
                    let remove = Mutation::Remove { index: 1, key: one.clone(), version: None };
                    mutate(engine, vec![remove], false);
                    model.remove(&one.bytes);
                    continue;
                }
                // Of two, the second may fail, and the first with it.
                let condition = if rng.random() {
                    sherd_engine::Condition::Any
                } else {
                    sherd_engine::Condition::Version(u64::MAX)
                };
                let group = vec![put(&one, sherd_engine::Condition::Any), put(&other, condition)];
                let outcomes = mutate(engine, group, true);
                if outcomes.iter().all(|it| matches!(it, MutationOutcome::Written(_))) {
                    model.insert(one.bytes, format!("{writer} {round}"));
                    model.insert(other.bytes, format!("{writer} {round}"));
                }
            }
            model
        };
        let writers: Vec<_> =
            (1..=WRITERS).map(|writer| scope.spawn(move || write(writer))).collect();
        let mut rng = StdRng::seed_from_u64(seed);
        let mut version = 1;
        for round in 0..300 {
            // Now and then so far ahead that LSNs skip.
            version += if round % 50 == 49 { 1 << 24 } else { rng.random_range(1..10) };
            let mut documents = Vec::new();
            for i in 0..rng.random_range(1..20) {
                let key = place(rng.random_range(0..300) * 2 + 1);
                let (index, version) = (1, version + i);
                if rng.random_bool(0.2) {
                    brought.remove(&key.bytes);
                    documents.push(Imported::Removed { index, key, version });
                } else {
                    let text = format!("{round} {i}");
                    brought.insert(key.bytes.clone(), text.clone());
                    let document = text.into();
                    documents.push(Imported::Put { index, key, version, expires_at: 0, document });
                }
            }
            version += documents.len() as u64;
            let (id, note) = (MOVE.to_owned(), Vec::new());
            engine.import(Import { id, documents, whole: None, as_of: version, note }).unwrap();
            if round % 60 == 30 {
                engine.checkpoint().unwrap();
            }
        }
        stopped.store(true, Ordering::Relaxed);
        for writer in writers {
            written.extend(writer.join().unwrap());
        }
    });
    let documents = (written.len() + brought.len()) as u64;
    let texts = |target: &Shard| -> BTreeMap<Bytes, String> {
        let found = scan_index(target.engine(), 1).into_iter();
        let text = |document: Document| String::from_utf8(document.bytes.to_vec()).unwrap();
        found.map(|(key, document)| (Bytes::from(key), text(document))).collect()
    };
    target.assign(2, &[(0, RING)]).unwrap();
    let expected: BTreeMap<_, _> = written.into_iter().chain(brought).collect();
    for index_lost in [false, true] {
        assert_eq!(target.engine().stat().documents, documents);
        assert_eq!(texts(&target), expected);
        target.cut_power(index_lost);
    }
    assert_eq!(texts(&target), expected);
}

/// All went with one batch, however many they were.
#[test]
fn of_a_page_that_leaves_much_out_what_goes_does_so_in_many_batches() {
    let time = Time::default();
    let mut target = Shard::new("away", &time, &[]);
    target.receive();
    let import = |documents, whole| {
        let (id, note) = (MOVE.to_owned(), b"note".to_vec());
        Import { id, documents, whole, as_of: 10_000, note }
    };
    for some in 0..100 {
        let put = |i: u32| Imported::Put {
            index: 1,
            key: place((some * 60 + i) * 2 + 1),
            version: 1,
            expires_at: 0,
            document: Bytes::from_static(b"document"),
        };
        target.engine().import(import((0..60).map(put).collect(), None)).unwrap();
    }
    assert_eq!(target.engine().stat().documents, 6_000);
    let span = Span { index: 1, range: MOVING, after: None, until: None };
    let kept = Imported::Put {
        index: 1,
        key: place(6_001),
        version: 1,
        expires_at: 0,
        document: Bytes::from_static(b"document"),
    };
    target.engine().import(import(vec![kept], Some(span))).unwrap();
    let stat = target.engine().stat();
    assert_eq!((stat.documents, stat.incoming.unwrap().note), (1, b"note".to_vec()));
    let lengths = target.machine.fs.paths().into_iter();
    let longest = lengths.filter_map(|path| Some(target.machine.fs.bytes(&path)?.len())).max();
    // Whoever writes meanwhile waits for one batch.
    assert!(longest.unwrap() < 100_000, "a batch made a segment of {longest:?} bytes");
    target.cut_power(true);
    assert_eq!(target.engine().stat().documents, 1);
}

/// An index's limit on a shard is a share for the ranges that it owns: the documents of others fill it no more.
#[test]
fn what_is_not_owned_does_not_count_against_the_limits_of_an_index() {
    let limits = |max_documents, policy| IndexSettings {
        max_documents: Some(max_documents),
        max_bytes: Some(max_documents * 20),
        policy: Some(policy),
        ..IndexSettings::default()
    };
    for policy in [Policy::Reject, Policy::Fifo] {
        let (source, mut target) = pair();
        let own = |i: u32| Key { position: i, bytes: format!("own{i}").into() };
        let written =
            |outcome: MutationOutcome| assert!(matches!(outcome, MutationOutcome::Written(_)));
        for i in 1..40 {
            written(write_at(source.engine(), place(i)));
        }
        for i in 0..4 {
            written(write_at(source.engine(), own(i)));
        }
        let set = |shard: &Shard, settings| {
            let command = Command::SetIndex { id: 1, settings, force: true };
            shard.engine().execute(command).unwrap();
        };
        // What arrives is another's: the target's share is smaller than that.
        target.assign(2, &[(0, 1000)]).unwrap();
        set(&target, limits(5, policy));
        bring_all(&source, &target);
        for i in 0..4 {
            written(write_at(target.engine(), own(i)));
        }
        target.cut_power(false);
        written(write_at(target.engine(), own(4)));
        let of_target = target.engine().sums(&[(0, 1000)]).unwrap()[&1].documents;
        assert_eq!(of_target, 5, "{policy:?}");
        assert_eq!(target.engine().stat().indexes[0].documents, 25, "its totals are of all");
        // What was given up is not there any more, removed or not.
        let frozen_at = source.freeze(Duration::from_secs(60));
        source.give_up(2, &[(0, MIDDLE), (MOVING.1, RING)], frozen_at).unwrap();
        set(&source, limits(30, policy));
        for i in 100..103 {
            written(write_at(source.engine(), own(i)));
        }
        let given_up = source.engine().sums(&[MOVING]).unwrap()[&1].documents;
        assert_eq!((given_up, source.engine().stat().counts.evicted), (20, 0), "{policy:?}");
        // Once owned, it counts.
        target.assign(3, &[(0, 1000), MOVING]).unwrap();
        let outcome = write_at(target.engine(), own(5));
        match policy {
            Policy::Reject => assert!(
                matches!(outcome, MutationOutcome::Refused(Error::IndexFull { .. })),
                "{outcome:?}"
            ),
            _ => wait_until("it is evicted", || target.engine().stat().indexes[0].documents == 5),
        }
    }
}

/// Where nearly all documents are arriving, and are older than the target's own, it took them all for victims,
/// gave up after a thousand, and refused the write.
#[test]
fn a_cache_that_receives_thousands_of_documents_goes_on_evicting_its_own() {
    const ARRIVING: u32 = 3_000;
    for policy in [Policy::Fifo, Policy::Lru, Policy::Ttl] {
        let time = Time::default();
        let mut target = Shard::new("away", &time, &[]);
        (target.policy, target.limit) = (policy, 60_000);
        target.assign(2, &[(0, 1000)]).unwrap();
        target.receive();
        let expires_at = time.now() + 1_000_000;
        let import = |i: u32| Imported::Put {
            index: 1,
            key: place(i * 2 + 1),
            version: u64::from(i) + 1,
            expires_at,
            document: Bytes::from_static(b"arriving"),
        };
        let bring = |target: &Shard, which: std::ops::Range<u32>| {
            let (id, note, whole) = (MOVE.to_owned(), Vec::new(), None);
            let documents = which.map(import).collect();
            let import = Import { id, documents, whole, as_of: u64::from(ARRIVING), note };
            target.engine().import(import).unwrap();
        };
        let own = |target: &Shard, i: u32| {
            let (document, expiry) = (Bytes::from_static(b"own"), Expiry::After(2_000_000));
            let key = Key { position: i % 1000, bytes: format!("own{i}").into() };
            let condition = sherd_engine::Condition::Any;
            let write = Mutation::Write { index: 1, key, document, condition, expiry };
            let outcome = one(target.engine(), write);
            assert!(matches!(outcome, MutationOutcome::Written(_)), "{policy:?}: {outcome:?}");
        };
        bring(&target, 0..ARRIVING);
        let arrived = |target: &Shard| target.engine().sums(&[MOVING]).unwrap()[&1].documents;
        let of_its_own = |target: &Shard| target.engine().sums(&[(0, 1000)]).unwrap()[&1].documents;
        for i in 0..3_000 {
            own(&target, i);
        }
        // What comes makes its own go as well.
        let before = of_its_own(&target);
        bring(&target, ARRIVING..ARRIVING + 100);
        assert!(of_its_own(&target) < before, "{policy:?}");
        // And so after a restart, and when the index is rebuilt.
        for index_lost in [false, true] {
            target.cut_power(index_lost);
            for i in 3_000..3_200 {
                own(&target, i);
            }
        }
        assert_eq!(arrived(&target), u64::from(ARRIVING) + 100, "{policy:?}");
        let tracked = target.engine().stat().tracked_documents;
        assert_eq!(tracked, target.engine().stat().documents, "{policy:?}");
        // Once owned, what arrived goes first: it is older, and expires sooner.
        target.assign(3, &[(0, 1000), MOVING]).unwrap();
        let before = of_its_own(&target);
        for i in 5_000..5_300 {
            own(&target, i);
        }
        assert!(of_its_own(&target) >= before + 250, "{policy:?}");
        assert_eq!(target.engine().stat().tracked_documents, target.engine().stat().documents);
    }
}

/// What the reader of the log has not read is held, for as long as it asks.
#[test]
fn compaction_leaves_what_a_reader_of_the_log_has_not_read() {
    let (source, target) = pair();
    let mut progress = bring_all(&source, &target);
    let removed = Mutation::Remove { index: 1, key: place(1), version: None };
    one(source.engine(), removed);
    for i in 0..200 {
        put_to(source.engine(), 2, "hot", &format!("{i} {}", "x".repeat(100)));
    }
    while source.engine().compact().unwrap().is_some_and(|compacted| compacted.moved > 0) {}
    while !progress.step(source.engine(), target.engine()).unwrap() {}
    assert_eq!(target.engine().sums(&[MOVING]).unwrap(), BTreeMap::new());
    let (source_sums, target_sums) = (source.engine().sums(&[MOVING]), Ok(BTreeMap::new()));
    assert_eq!(source_sums, target_sums);
}

/// Under overwrites it moves several documents for each that is written, and a target that repeated them
/// came never to the end.
#[test]
fn what_compaction_moves_is_not_read_again_and_what_is_touched_is() {
    let (source, target) = pair();
    let progress = bring_all(&source, &target);
    for i in 0..200 {
        put_to(source.engine(), 2, "hot", &format!("{i} {}", "x".repeat(100)));
    }
    let compact = |_| source.engine().compact().unwrap().map_or(0, |compacted| compacted.moved);
    let moved: u64 = (0..100).map(compact).sum();
    assert!(moved > 0);
    let tail = source.engine().tail(progress.tail, &[(0, RING)], usize::MAX).unwrap();
    let hot = |read: &&Imported| matches!(read, Imported::Put { index: 2, .. });
    let count = tail.documents.iter().filter(hot).count();
    assert_eq!((count, tail.documents.len()), (200, 200));
    let (key, document) = (place(1), Bytes::from_static(b"document"));
    let version = source.engine().version(1, &key).unwrap().unwrap();
    let expiry = Expiry::After(1_000);
    one(source.engine(), Mutation::Touch { index: 1, key, version, document, expiry });
    let tail = source.engine().tail(tail.next, &[(0, RING)], usize::MAX).unwrap();
    let [Imported::Put { index: 1, version: read, expires_at, .. }] = &tail.documents[..] else {
        panic!("{:?}", tail.documents)
    };
    assert_eq!(*read, version);
    assert!(*expires_at > 0);
}

/// A cursor comes over the wire.
#[test]
fn a_cursor_from_nowhere_is_refused() {
    let (source, _) = pair();
    for segment in [0, u32::MAX] {
        let nowhere = TailCursor { lsn: 0, segment, offset: segment };
        let error = source.engine().tail(nowhere, &[MOVING], 100).unwrap_err();
        assert_eq!(error, Error::LogGone { after: 0 });
        assert!(!source.engine().hold_log(nowhere));
    }
}

/// Nothing may happen any more at which it would be deleted.
#[test]
fn what_was_held_goes_by_itself_when_nobody_asks_any_more() {
    let machine = Machine::default();
    let options = Options { compaction: true, log_held: Duration::from_secs(3), ..options() };
    let (engine, _) = machine.open_with(options).unwrap();
    set_up(&engine);
    engine.tail_end();
    for i in 0..2_000 {
        put(&engine, "hot", &format!("{i} {}", "x".repeat(100)));
    }
    wait_until("the log is as short as it can be", || engine.stat().segments < 10);
}

/// While it copies pages it reads nothing of the log, however long that takes.
#[test]
fn who_has_the_log_held_finds_it_later_and_is_told_where_it_is_gone() {
    let (mut source, target) = pair();
    let progress = bring_all(&source, &target);
    // A restart holds nothing, as after a minute without a word.
    source.cut_power(false);
    assert!(source.engine().hold_log(progress.tail));
    let compact_all = |source: &Shard, texts: std::ops::Range<u32>| {
        for i in texts {
            put_to(source.engine(), 2, "hot", &format!("{i} {}", "x".repeat(100)));
        }
        while source.engine().compact().unwrap().is_some_and(|compacted| compacted.moved > 0) {}
        source.engine().checkpoint().unwrap();
    };
    one(source.engine(), Mutation::Remove { index: 1, key: place(1), version: None });
    compact_all(&source, 0..200);
    assert!(source.engine().hold_log(progress.tail));
    let mut behind = progress.clone();
    while !behind.step(source.engine(), target.engine()).unwrap() {}
    assert_eq!(behind.tail.lsn, source.engine().stat().durable_lsn + 1, "it read the log");
    assert_eq!(target.engine().sums(&[MOVING]).unwrap(), BTreeMap::new());
    source.cut_power(false);
    compact_all(&source, 200..400);
    while source.engine().compact().unwrap().is_some() {}
    assert!(!source.engine().hold_log(progress.tail), "it is gone");
    let error = source.engine().tail(progress.tail, &[MOVING], 100).unwrap_err();
    assert!(matches!(error, Error::LogGone { .. }), "{error}");
}

/// Where it was deleted, the range is read anew, and what is not there any more goes.
#[test]
fn a_reader_that_comes_too_late_begins_again_and_misses_nothing() {
    let (mut source, target) = pair();
    let progress = bring_all(&source, &target);
    // A restart holds nothing.
    source.cut_power(false);
    one(source.engine(), Mutation::Remove { index: 1, key: place(1), version: None });
    for i in 0..200 {
        put_to(source.engine(), 2, "hot", &format!("{i} {}", "x".repeat(100)));
    }
    while source.engine().compact().unwrap().is_some() {}
    let error = source.engine().tail(progress.tail, &[MOVING], 100).unwrap_err();
    assert!(matches!(error, Error::LogGone { .. }), "{error}");
    let mut progress = progress;
    while !progress.step(source.engine(), target.engine()).unwrap() {}
    assert_eq!(target.engine().sums(&[MOVING]).unwrap(), BTreeMap::new());
}

/// A key that was there and is not any more brings nothing to the target but the LSN of its removal.
#[test]
fn a_key_that_was_removed_before_the_move_gets_no_version_that_it_had() {
    let (source, target) = pair();
    for i in 0..100 {
        put_to(source.engine(), 2, "hot", &format!("{i}"));
    }
    let gone = Mutation::Remove { index: 1, key: place(1), version: None };
    let MutationOutcome::Removed(removed) = one(source.engine(), gone) else {
        panic!("it was there")
    };
    bring_all(&source, &target);
    let frozen_at = source.freeze(Duration::from_secs(3600));
    source.give_up(2, &[(0, MIDDLE), (MOVING.1, RING)], frozen_at).unwrap();
    target.assign(2, &[MOVING]).unwrap();
    let MutationOutcome::Written(version) = write_at(target.engine(), place(1)) else {
        panic!("it is not written")
    };
    assert!(version > removed, "{version} after {removed}");
}

/// What the source removes of the range when it has given it up is no removal of the documents: the
/// target may read on before it is told that it owns the range.
#[test]
fn what_the_source_clears_away_is_not_cleared_away_at_the_target() {
    let (source, target) = pair();
    let progress = bring_all(&source, &target);
    let frozen_at = source.freeze(Duration::from_secs(3600));
    source.give_up(2, &[(0, MIDDLE), (MOVING.1, RING)], frozen_at).unwrap();
    wait_until("it is cleared away", || {
        source.engine().compact().unwrap();
        source.engine().stat().documents == 1
    });
    let error = source.engine().tail(progress.tail, &[MOVING], 100).unwrap_err();
    assert!(matches!(error, Error::WrongShard { .. }), "{error}");
    // The range comes back, and with it who reads the log from there on.
    target.assign(2, &[MOVING]).unwrap();
    source.assign(3, &[(0, RING)]).unwrap();
    let tail = source.engine().tail(progress.tail, &[MOVING], 100).unwrap();
    assert_eq!(tail.documents, []);
}
