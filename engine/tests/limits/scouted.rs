//! Victims that were found beforehand.

use std::collections::{BTreeMap, HashMap};

use twox_hash::XxHash3_64;

use super::*;

/// A key whose position is as a hash would have it: of two documents with one tag either may go, which
/// hardly ever happens with these.
fn spread_key(name: &str) -> Key {
    let number: u64 = name.trim_start_matches("key").parse().unwrap();
    let position = (number * 7_919_999 % u64::from(RING)) as u32;
    Key { position, ..key(name) }
}

fn spread(name: &str, condition: Condition) -> Mutation {
    let (key, document) = (spread_key(name), DOCUMENT.into());
    Mutation::Write { index: INDEX, key, document, condition, expiry: Expiry::Default }
}

/// With many documents victims are found beforehand. What is read, overwritten or removed between
/// that and its eviction must not be what goes.
///
/// Returns what of the others went.
fn evict_scouted(seed: u64, defects: Defects) -> Option<String> {
    const MOST: usize = 12_000;
    let mut rng = StdRng::seed_from_u64(seed);
    let machine = Machine::default();
    let options = Options { segment_bytes: 1 << 20, checkpoint_keys: 2000, defects, ..options() };
    let (engine, _) = machine.open_with(options).unwrap();
    assign(&engine, u64::MAX, Policy::Lru);
    let max_documents = Some(MOST as u64);
    create_index(&engine, INDEX, IndexSettings { max_documents, ..Default::default() });
    // In the order of their last accesses.
    let mut order: VecDeque<String> = VecDeque::new();
    let (mut written, mut removed) = (0, 0);
    let write_some = |order: &mut VecDeque<String>, written: &mut usize, count| {
        let names: Vec<_> = (*written..*written + count).map(|i| format!("key{i}")).collect();
        let mutations = names.iter().map(|name| spread(name, Condition::Any)).collect();
        let outcomes = mutate(&engine, mutations, false);
        assert!(outcomes.iter().all(|outcome| matches!(outcome, MutationOutcome::Written(_))));
        *written += count;
        order.extend(names);
    };
    for _ in 0..MOST / 100 {
        write_some(&mut order, &mut written, 100);
    }
    for round in 0..100 {
        // The first to go are what was found; now they are the last.
        let mut kept = Vec::new();
        while kept.len() < 400 {
            let name = order.pop_front().unwrap();
            let key = spread_key(&name);
            let Some(version) = engine.version(INDEX, &key).unwrap() else { continue };
            match rng.random_range(0..20) {
                0 => {
                    one(&engine, Mutation::Remove { index: INDEX, key, version: Some(version) });
                    removed += 1;
                    continue;
                }
                1..5 => _ = one(&engine, spread(&name, Condition::Version(version))),
                _ => {}
            }
            kept.push(name);
        }
        write_some(&mut order, &mut written, 50);
        for name in &kept {
            if engine.read(INDEX, &spread_key(name)).unwrap().is_none() {
                return Some(format!("round {round}: {name}"));
            }
        }
        order.extend(kept);
        let stat = engine.stat();
        assert!(stat.documents <= MOST as u64, "round {round}: {}", stat.documents);
        if round % 10 == 9 {
            engine.checkpoint().unwrap();
        }
    }
    let left = names(&engine);
    assert_eq!(left.len() as u64, engine.stat().documents);
    assert_eq!(evicted(&engine), (written - left.len()) as u64 - removed);
    assert!(evicted(&engine) > 1000);
    None
}

#[test]
fn victims_that_were_found_beforehand_are_still_the_right_ones() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    assert_eq!(evict_scouted(seed, Defects::default()), None);
    // And they are found beforehand: else this would be nobody's mistake.
    assert!(evict_scouted(seed, Defects::from(Defect::StaleVictimEvicted)).is_some());
}

/// Keys that the engine remembers alike, two at each of the first positions.
fn twins(pairs: u32) -> Vec<[Key; 2]> {
    let mut alone: HashMap<u64, String> = HashMap::new();
    let mut twins = Vec::new();
    for number in 0u32.. {
        let name = format!("key{number}");
        // Sixteen bits of the hash, and the position, are what is remembered.
        let bits = XxHash3_64::oneshot(name.as_bytes()) >> 48;
        let Some(other) = alone.remove(&bits) else {
            alone.insert(bits, name);
            continue;
        };
        let position = twins.len() as u32;
        twins.push([other, name].map(|name| Key { position, bytes: name.into() }));
        if position + 1 == pairs {
            break;
        }
    }
    twins
}

/// Of two documents that are remembered alike, one is found to be the next victim and then removed. The
/// other one is still remembered: else it would be taken for missing by whoever writes it.
#[test]
fn a_document_is_remembered_though_another_one_like_it_goes() {
    const PAIRS: u32 = 6_000;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let machine = Machine::default();
    let options = Options { segment_bytes: 1 << 20, checkpoint_keys: 2000, ..options() };
    let (engine, _) = machine.open_with(options).unwrap();
    // All slots of a tag are the same, whenever they were accessed.
    assign(&engine, u64::MAX, Policy::Random);
    let max_documents = Some(2 * u64::from(PAIRS));
    create_index(&engine, INDEX, IndexSettings { max_documents, ..Default::default() });
    let mut twins = twins(PAIRS);
    let put = |keys: &[Key]| {
        let write = |key: &Key| Mutation::Write {
            index: INDEX,
            key: key.clone(),
            document: DOCUMENT.into(),
            condition: Condition::Any,
            expiry: Expiry::Default,
        };
        mutate(&engine, keys.iter().map(write).collect(), false);
    };
    for some in twins.as_flattened().chunks(500) {
        put(some);
    }
    let mut others = PAIRS..;
    for round in 0..60 {
        let new: Vec<_> = others.by_ref().take(200).collect();
        let other = |i: &u32| Key { position: *i, ..key(&format!("other{i}")) };
        put(&new.iter().map(other).collect::<Vec<_>>());
        for _ in 0..100 {
            let [first, _] = twins.swap_remove(rng.random_range(0..twins.len()));
            one(&engine, Mutation::Remove { index: INDEX, key: first, version: None });
        }
        let stat = engine.stat();
        assert_eq!(stat.tracked_documents, stat.documents, "round {round}");
    }
    recount(&engine);
}

/// Under `ttl` what goes is exactly what expires soonest, whatever comes or is given another time meanwhile.
///
/// Returns what went in the place of another.
fn evict_soonest(seed: u64, defects: Defects) -> Option<String> {
    const MOST: usize = 11_000;
    const FAR: u64 = 4_000_000_000;
    let mut rng = StdRng::seed_from_u64(seed);
    let machine = Machine::default();
    let options = Options { segment_bytes: 1 << 20, checkpoint_keys: 2000, defects, ..options() };
    let (engine, _) = machine.open_with(options).unwrap();
    // Two indexes that make room for each other, with the same keys.
    assign(&engine, MOST as u64 * (8 + DOCUMENT.len() as u64), Policy::Ttl);
    create_index(&engine, INDEX, IndexSettings::default());
    create_index(&engine, OTHER, IndexSettings::default());
    let place = |number: u32| {
        let index = if number.is_multiple_of(2) { INDEX } else { OTHER };
        (index, spread_key(&format!("key{:05}", number / 2)))
    };
    let write = |number: u32, second: u32| Mutation::Write {
        index: place(number).0,
        key: place(number).1,
        document: DOCUMENT.into(),
        condition: Condition::Any,
        expiry: Expiry::At((FAR + u64::from(second)) * 1000),
    };
    // By the second in which it expires; never two in one.
    let mut left: BTreeMap<u32, u32> = BTreeMap::new();
    let free = |left: &BTreeMap<u32, u32>, from: u32| {
        (from..).find(|second| !left.contains_key(second)).unwrap()
    };
    let gone = |number: u32| {
        let (index, key) = place(number);
        engine.version(index, &key).unwrap().is_none()
    };
    for round in 0..180 {
        // Mostly later than all, as of a cache with one time to live; some sooner than all.
        let first = match rng.random_range(0..4) {
            0 => 200_000 - round * 100,
            1 => rng.random_range(0..400_000),
            _ => 400_000 + round * 100,
        };
        let mut mutations = Vec::new();
        for number in round * 100..(round + 1) * 100 {
            let second = free(&left, first);
            mutations.push(write(number, second));
            if left.len() == MOST {
                left.pop_first();
            }
            left.insert(second, number);
        }
        mutate(&engine, mutations, false);
        // Meanwhile the next ones are found.
        if let Some(number) = left.values().take(400).find(|&&number| gone(number)) {
            return Some(format!("round {round}: key{number}"));
        }
        // One that is about to go is given more time, and now and then another one less.
        let later = if rng.random() { 300_000 } else { left.keys().nth(60).unwrap() + 1 };
        let touched = [(30, later), (left.len() / 2, 1000)];
        for &(place, from) in touched.iter().take(rng.random_range(1..3)) {
            let (&old, &number) = left.iter().nth(place).unwrap();
            let second = free(&left, from);
            one(&engine, write(number, second));
            left.remove(&old);
            left.insert(second, number);
        }
    }
    if let Some(number) = left.values().find(|&&number| gone(number)) {
        return Some(format!("in the end: key{number}"));
    }
    assert!(evicted(&engine) > 1000, "{} evicted", evicted(&engine));
    assert_eq!(engine.stat().documents, left.len() as u64);
    None
}

#[test]
fn what_expires_soonest_goes_also_where_it_was_found_beforehand() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    assert_eq!(evict_soonest(seed, Defects::default()), None);
    assert!(evict_soonest(seed, Defects::from(Defect::StaleVictimEvicted)).is_some());
}
