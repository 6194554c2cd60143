//! Victims that were found beforehand.

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
#[test]
fn victims_that_were_found_beforehand_are_still_the_right_ones() {
    const MOST: usize = 4000;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let machine = Machine::default();
    let options = Options { segment_bytes: 1 << 20, checkpoint_keys: 2000, ..options() };
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
            let found = engine.read(INDEX, &spread_key(name)).unwrap();
            assert!(found.is_some(), "round {round}: {name}");
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
}
