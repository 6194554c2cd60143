//! Each key is linearizable while nodes are killed with SIGKILL, and no client meets an error.
//!
//! Eight clients read, write on every condition, remove and pop a few hundred keys, a few of them
//! at the same time, while shards and bootstrap are killed and started again. What they asked and
//! were answered must have an order that explains it; outcomes that they were told are unknown may
//! have happened or not. Twelve kills among the tests; for more:
//!
//! ```sh
//! SHERD_LINEARIZABLE_KILLS=100 cargo test --release --test linearizable -- --nocapture
//! ```
//!
//! `SHERD_LINEARIZABLE_SEED` repeats the choices of an earlier run (though not its timing).

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use sherd_client::{Client, Error};
use sherd_protocol::message::MoveStep;
use sherd_protocol::{Action, RangeMap};
use support::history::{Answer, MUTATIONS, Operation, check};
use support::load::{Load, LoadOptions};
use support::nodes::Nodes;
use support::{Cluster, from_environment};

/// Of each client, for each kill.
const OPERATIONS_OF_A_KILL: u64 = 250;

fn seed() -> u64 {
    let seed = from_environment("SHERD_LINEARIZABLE_SEED").unwrap_or_else(rand::random);
    println!("seed {seed}");
    seed
}

/// Asserts that a history is linearizable, and says how much that means.
fn assert_linearizable(history: &[Operation]) {
    let started = Instant::now();
    check(history).unwrap_or_else(|violation| panic!("{violation}"));
    let took = started.elapsed();
    let unknown = history.iter().filter(|operation| operation.answer == Answer::Unknown).count();
    let (all, met) = (history.len(), keys(history).iter().map(|key| meetings(key)).sum::<usize>());
    println!("{all} operations, {met} began beside another one on their key");
    println!("{unknown} of unknown outcome; checked in {took:?}");
}

/// The operations of each key, in the order of invocation.
fn keys(history: &[Operation]) -> Vec<Vec<Operation>> {
    let mut keys: BTreeMap<_, Vec<Operation>> = BTreeMap::new();
    for operation in history {
        keys.entry(&operation.key).or_default().push(operation.clone());
    }
    for key in keys.values_mut() {
        key.sort_by_key(|operation| operation.invoked);
    }
    keys.into_values().collect()
}

/// How many operations of a key began while another one was under way.
fn meetings(key: &[Operation]) -> usize {
    let mut latest = Duration::ZERO;
    let began_beside = |operation: &&Operation| {
        let beside = operation.invoked <= latest;
        latest = latest.max(operation.answered);
        beside
    };
    key.iter().filter(began_beside).count()
}

/// One node, or every fourth time all at once.
fn victims(nodes: &Nodes, rng: &mut StdRng) -> Vec<String> {
    let names = nodes.names();
    if rng.random_ratio(1, 4) {
        return names;
    }
    names.choose(rng).into_iter().cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_linearizable_while_nodes_are_killed() {
    let kills = from_environment("SHERD_LINEARIZABLE_KILLS").unwrap_or(12);
    let mut rng = StdRng::seed_from_u64(seed());
    let cluster = Cluster::start_with(["--port", "0", "--shards", "2"]);
    let address = cluster.address.to_string();
    let mut nodes = Nodes::of(cluster);
    let defaults = LoadOptions::default();
    let operations = kills * OPERATIONS_OF_A_KILL;
    let options = LoadOptions { seed: rng.random(), operations, ..defaults };
    let of_a_kill = options.clients as u64 * OPERATIONS_OF_A_KILL;
    let load = Load::start(&address, options).await;
    for kill in 0..kills {
        // At any moment, and the last one while there is still something to do.
        load.reach(kill * of_a_kill + rng.random_range(0..of_a_kill * 3 / 4)).await;
        let victims = victims(&nodes, &mut rng);
        nodes = nodes.kill_apart(victims).await;
    }
    let history = load.finish().await;
    assert_linearizable(&history);
}

/// Plans that take a cluster from two shards to four and back, with splits, merges and an evening out.
fn growing_and_shrinking(map: &RangeMap) -> Vec<Vec<Action>> {
    let shard = |name: &str| map.shard(name).expect("it was there at the start").clone();
    let add = |name: &str| Action::Add { shard: shard(name) };
    let remove = |name: &str| Action::Remove { shard: name.to_owned() };
    let split = |name: &str| Action::Split { shard: name.to_owned(), at: None };
    let merge =
        |into: &str, from: &str| Action::Merge { into: into.to_owned(), from: from.to_owned() };
    vec![
        vec![add("shard2")],
        vec![split("shard0")],
        vec![add("shard3")],
        vec![merge("shard1", "shard0")],
        vec![Action::Rebalance],
        vec![remove("shard3")],
        vec![split("shard1"), merge("shard2", "shard0")],
        vec![Action::Rebalance],
        vec![remove("shard2")],
    ]
}

/// Plans and applies, and tries again while a node is away. Returns how many moves it takes.
async fn apply(client: &Client, actions: &[Action]) -> usize {
    loop {
        let planned = match client.plan(actions.to_vec()).await {
            Ok(plan) => {
                let moves = plan.moves.len();
                client.apply(plan, None).await.map(|()| moves)
            }
            Err(error) => Err(error),
        };
        match planned {
            Ok(moves) => return moves,
            // It may have begun: then it is waited for.
            Err(Error::OutcomeUnknown(_)) => return 0,
            Err(error @ (Error::Deadline { .. } | Error::Connect { .. })) => {
                println!("tried again: {error}");
            }
            Err(error) => panic!("{actions:?}: {error}"),
        }
    }
}

/// Waits until nothing moves.
async fn moved(client: &Client) {
    let begun = Instant::now();
    loop {
        match client.moves().await {
            Ok(status) if status.moves.is_empty() => return,
            Ok(status) => {
                let failed = status.moves.iter().find(|it| it.step == MoveStep::Failed);
                assert!(failed.is_none(), "{failed:?}");
                assert!(begun.elapsed() < Duration::from_secs(120), "no end: {status:?}");
            }
            // Bootstrap is killed as well.
            Err(error) => println!("asked again: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Two shards, three, four, three, two, while all of it is used and nodes are killed.
///
/// `SHERD_MOVE_ROUNDS` says how many times, once unless told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_linearizable_while_ranges_move_and_nodes_are_killed() {
    let rounds = from_environment("SHERD_MOVE_ROUNDS").unwrap_or(1);
    let mut rng = StdRng::seed_from_u64(seed());
    let cluster = Cluster::start_with(["--port", "0", "--shards", "4"]);
    let address = cluster.address.to_string();
    let mut nodes = Nodes::of(cluster);
    let defaults = LoadOptions::default();
    let client = Client::connect(&address, defaults.options.clone()).await.expect("it serves");
    let plans = growing_and_shrinking(&client.known_map());
    let leave = ["shard2", "shard3"].map(|name| Action::Remove { shard: name.to_owned() });
    apply(&client, &leave).await;
    moved(&client).await;
    // Until it is stopped.
    let options = LoadOptions { seed: rng.random(), operations: u64::MAX, ..defaults };
    let load = Load::start(&address, options).await;
    let (mut moves, mut kills) = (0, 0);
    for _ in 0..rounds {
        for actions in &plans {
            moves += apply(&client, actions).await;
            for _ in 0..rng.random_range(0..3) {
                // At any moment of the moves.
                load.reach(load.answers() + rng.random_range(0..200)).await;
                let victims = victims(&nodes, &mut rng);
                kills += victims.len();
                nodes = nodes.kill_apart(victims).await;
            }
            moved(&client).await;
            load.reach(load.answers() + 100).await;
        }
        let map = client.map().await.expect("bootstrap answers");
        assert_eq!(map.shards.len(), 2, "{map:?}");
    }
    println!("{moves} moves, {kills} kills");
    let history = load.stop().await;
    assert_linearizable(&history);
}

/// How many mutations of a kind were tried, had to be found, and were found.
#[derive(Debug, Default)]
struct Tally {
    tried: u32,
    due: u32,
    found: u32,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_put_into_a_real_history_are_found() {
    const ROUNDS: u32 = 300;
    let mut rng = StdRng::seed_from_u64(seed());
    let cluster = Cluster::start_with(["--port", "0", "--shards", "2"]);
    let address = cluster.address.to_string();
    let mut nodes = Nodes::of(cluster);
    // Few keys, so that clients meet on each.
    let options =
        LoadOptions { seed: rng.random(), keys: 40, operations: 400, ..LoadOptions::default() };
    let load = Load::start(&address, options).await;
    // With unknown outcomes in the history there is more that may explain a mistake.
    for moment in [500, 1500] {
        load.reach(moment).await;
        let victims = victims(&nodes, &mut rng);
        nodes = nodes.kill_apart(victims).await;
    }
    let history = load.finish().await;
    assert_linearizable(&history);

    let keys = keys(&history);
    for mutation in MUTATIONS {
        let mut tally = Tally::default();
        for _ in 0..ROUNDS {
            let key = keys.choose(&mut rng).expect("there are keys");
            let Some(mutated) = mutation.spoil(key, &mut rng) else { continue };
            let found = check(&mutated.history).is_err();
            tally.tried += 1;
            tally.due += u32::from(mutated.by_construction);
            tally.found += u32::from(found);
            assert!(found || !mutated.by_construction, "{mutation:?}: {:#?}", mutated.history);
        }
        println!("{mutation:?}: {tally:?}");
        assert!(tally.due > 20, "{mutation:?} was hardly tried: {tally:?}");
    }
}
