//! A driver moves a range to and fro between two simulated machines, while documents are written, removed, touched,
//! expire and are compacted, and while power is cut on either side. At the end the new owner has exactly what the
//! model has.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sherd_engine::{
    Command, Condition, Engine, Error, Expiry, IndexId, Key, Mutation, MutationOutcome, Scan,
};

use super::progress::Progress;
use super::shards::*;
use crate::common::*;

fn is_moving(key: &Key) -> bool {
    (MOVING.0..MOVING.1).contains(&key.position)
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
            let condition = Condition::Any;
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
