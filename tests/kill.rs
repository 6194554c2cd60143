//! Processes killed with SIGKILL at random moments, under load: what was acknowledged is there,
//! what was not is there as a whole or not at all, and totals equal a recount.
//!
//! Eight clients write, remove and pop keys of their own, of which each knows the exact state, and
//! pop tokens that others wrote, which must come out once at most. Every round kills a shard,
//! bootstrap, or every node at once. Six rounds run among the tests; for more:
//!
//! ```sh
//! SHERD_KILL_ROUNDS=30 cargo test --release --test kill -- --nocapture
//! ```
//!
//! `SHERD_KILL_SEED` repeats the choices of an earlier run (though not its timing).

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use sherd_client::{Client, Condition, Error, Options, ScanOptions};
use support::nodes::Nodes;
use support::{Cluster, from_environment};

const CLIENTS: u64 = 8;
const SHARDS: usize = 3;
const KEYS_OF_A_CLIENT: u64 = 40;
const STEPS_OF_A_ROUND: u64 = 80;

type Bytes = Vec<u8>;

/// What a key may hold: one state if it is known, two after an unknown outcome.
type Possible = Vec<Option<Bytes>>;

/// What happened to a token.
#[derive(Default)]
struct Token {
    /// Its write was acknowledged.
    written: bool,
    popped: u32,
    /// Pops whose outcome is unknown.
    unknown: u32,
}

/// What the clients know together.
#[derive(Default)]
struct Shared {
    tokens: parking_lot::Mutex<HashMap<String, Token>>,
    /// Counts the answers of the round, so that kills come in the middle of the load.
    answers: AtomicU64,
}

struct Worker {
    id: u64,
    client: Client,
    rng: StdRng,
    keys: BTreeMap<String, Possible>,
    /// Makes every document unlike any other.
    serial: u64,
    shared: Arc<Shared>,
    unknown: u64,
}

impl Worker {
    async fn round(mut self) -> Self {
        for _ in 0..STEPS_OF_A_ROUND {
            if self.rng.random_bool(0.3) {
                self.token_step().await;
            } else {
                self.own_key_step().await;
            }
            self.shared.answers.fetch_add(1, Ordering::Relaxed);
        }
        self
    }

    fn document(&mut self) -> Bytes {
        self.serial += 1;
        let filler = "x".repeat(self.rng.random_range(0..2000));
        rmp_serde::to_vec(&(self.id, self.serial, filler)).expect("it encodes")
    }

    async fn own_key_step(&mut self) {
        let key = format!("{}:{}", self.id, self.rng.random_range(0..KEYS_OF_A_CLIENT));
        let before = self.keys.get(&key).cloned().unwrap_or_else(|| vec![None]);
        let new = self.document();
        let (client, index) = (self.client.clone(), "own");
        // What the key may hold now if the step succeeds, and what else if nobody knows.
        let (after, effect) = match self.rng.random_range(0..5) {
            0 | 1 => {
                let written = client.write(index, &key, &new, Condition::Any).await;
                (written.map(|_| vec![Some(new.clone())]), Some(new))
            }
            2 => match client.write(index, &key, &new, Condition::Absent).await {
                Err(Error::ConditionFailed { .. }) => {
                    let there: Possible = before.iter().filter(|s| s.is_some()).cloned().collect();
                    assert!(!there.is_empty(), "{key} is said to be there and was removed");
                    (Ok(there), None)
                }
                written => {
                    if written.is_ok() {
                        assert!(before.contains(&None), "{key} was overwritten as absent");
                    }
                    (written.map(|_| vec![Some(new.clone())]), Some(new))
                }
            },
            3 => {
                let removed = client.remove(index, &key, None).await;
                if let Ok(version) = removed {
                    assert!(before.iter().any(|s| s.is_some() == version.is_some()), "{key}");
                }
                (removed.map(|_| vec![None]), None)
            }
            _ => {
                let popped = client.pop(index, &key).await;
                if let Ok(document) = &popped {
                    let popped = document.as_ref().map(|document| document.bytes.to_vec());
                    assert!(before.contains(&popped), "{key}: popped what it never held");
                }
                (popped.map(|_| vec![None]), None)
            }
        };
        let now = match after {
            Ok(now) => now,
            Err(Error::OutcomeUnknown(_)) => {
                self.unknown += 1;
                let mut possible = before;
                possible.push(effect);
                possible
            }
            Err(error) => panic!("{key}: {error}"),
        };
        self.keys.insert(key.clone(), now);
        if self.rng.random_bool(0.3) {
            self.check(&key).await;
        }
    }

    /// Reads a key and compares; an unknown outcome is known afterwards.
    async fn check(&mut self, key: &str) {
        let document = self.client.read("own", key).await.unwrap_or_else(|e| panic!("{key}: {e}"));
        let found = document.map(|document| document.bytes.to_vec());
        let possible = self.keys.get_mut(key).expect("it was used");
        assert!(possible.contains(&found), "{key} holds {found:?}, not one of {possible:?}");
        *possible = vec![found];
    }

    async fn token_step(&mut self) {
        let mine = self.rng.random_bool(0.5);
        let others: Vec<_> = self.shared.tokens.lock().keys().cloned().collect();
        if mine || others.is_empty() {
            let document = self.document();
            let key = format!("token:{}:{}", self.id, self.serial);
            let written = self.client.write("tokens", &key, &document, Condition::Absent).await;
            match written {
                Ok(_) => self.shared.tokens.lock().entry(key).or_default().written = true,
                Err(Error::OutcomeUnknown(_)) => self.unknown += 1,
                Err(error) => panic!("{key}: {error}"),
            }
            return;
        }
        let key = others.choose(&mut self.rng).expect("not empty");
        let popped = self.client.pop("tokens", key).await;
        let mut tokens = self.shared.tokens.lock();
        let token = tokens.entry(key.clone()).or_default();
        match popped {
            Ok(Some(_)) => token.popped += 1,
            // Another client's pop may have come first and not been answered yet; the end of the
            // round tells.
            Ok(None) => {}
            Err(Error::OutcomeUnknown(_)) => {
                token.unknown += 1;
                self.unknown += 1;
            }
            Err(error) => panic!("{key}: {error}"),
        }
    }
}

/// Everything in an index.
async fn contents(client: &Client, index: &str) -> BTreeMap<String, Bytes> {
    let mut scan = client.scan(index, ScanOptions::default()).expect("a name");
    let mut contents = BTreeMap::new();
    while let Some(item) = scan.next().await.expect("a scan") {
        let again = contents.insert(item.key.clone(), item.document.bytes.to_vec());
        assert!(again.is_none(), "{} came twice", item.key);
    }
    contents
}

/// Compares the cluster with what the clients know.
async fn verify(client: &Client, workers: &mut [Worker], shared: &Shared) {
    let own = contents(client, "own").await;
    for worker in &mut *workers {
        for (key, possible) in &mut worker.keys {
            let found = own.get(key).cloned();
            assert!(possible.contains(&found), "{key} holds {found:?}, not one of {possible:?}");
            *possible = vec![found];
        }
    }
    let known = |key: &String| workers.iter().any(|worker| worker.keys.contains_key(key));
    assert!(own.keys().all(known), "a key that nobody wrote");
    let tokens = contents(client, "tokens").await;
    for (key, token) in shared.tokens.lock().iter() {
        assert!(token.popped <= 1, "{key} was popped {} times", token.popped);
        let there = tokens.contains_key(key);
        assert!(!(there && token.popped == 1), "{key} was popped and is there");
        let lost = token.written && !there && token.popped + token.unknown == 0;
        assert!(!lost, "{key} was written and is gone");
    }
    let map = client.map().await.expect("bootstrap is back");
    let mut counted: HashMap<String, (u64, u64)> = HashMap::new();
    for (key, document) in own.iter().chain(&tokens) {
        let owner = map.owner(client.position(key)).expect("the ring is covered");
        let (documents, bytes) = counted.entry(owner.shard.clone()).or_default();
        *documents += 1;
        *bytes += (key.len() + document.len()) as u64;
    }
    for view in client.stat().await {
        let stat = view.stat.expect("the shard is back");
        let (documents, bytes) = counted.get(&view.shard.name).copied().unwrap_or_default();
        assert_eq!((stat.documents, stat.used), (documents, bytes), "{}", view.shard.name);
        assert_eq!(stat.distribution.iter().sum::<u64>(), documents, "{}", view.shard.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_nodes_are_killed() {
    let seed = from_environment("SHERD_KILL_SEED").unwrap_or_else(rand::random);
    let rounds = from_environment("SHERD_KILL_ROUNDS").unwrap_or(6);
    println!("seed {seed}, {rounds} rounds");
    let mut rng = StdRng::seed_from_u64(seed);
    let cluster = Cluster::start_with(["--port", "0", "--shards", "3"]);
    let address = cluster.address.to_string();
    let mut nodes = Nodes::of(cluster);
    assert_eq!(nodes.names().len(), SHARDS + 1);

    // Longer than any restart takes on a machine that is busy with other tests.
    let options = Options { deadline: Duration::from_secs(60), ..Options::default() };
    let client = Client::connect(&address, options.clone()).await.expect("the cluster serves");
    for index in ["own", "tokens"] {
        client.create_index(index).await.expect("it is created");
    }
    let shared = Arc::new(Shared::default());
    let mut workers = Vec::new();
    for id in 0..CLIENTS {
        workers.push(Worker {
            id,
            client: Client::connect(&address, options.clone()).await.expect("it serves"),
            rng: StdRng::seed_from_u64(rng.random()),
            keys: BTreeMap::new(),
            serial: 0,
            shared: Arc::clone(&shared),
            unknown: 0,
        });
    }
    for round in 0..rounds {
        let names: Vec<String> = match round % 3 {
            0 => vec![format!("shard{}", rng.random_range(0..SHARDS))],
            1 => vec!["bootstrap".to_owned()],
            _ => nodes.names(),
        };
        shared.answers.store(0, Ordering::Relaxed);
        let running: Vec<_> = workers.drain(..).map(|w| tokio::spawn(w.round())).collect();
        let moment = rng.random_range(0..CLIENTS * STEPS_OF_A_ROUND * 3 / 4);
        while shared.answers.load(Ordering::Relaxed) < moment
            && !running.iter().all(tokio::task::JoinHandle::is_finished)
        {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        nodes = nodes.kill_apart(names).await;
        for worker in running {
            workers.push(worker.await.expect("no client fails"));
        }
        verify(&client, &mut workers, &shared).await;
    }
    let unknown: u64 = workers.iter().map(|worker| worker.unknown).sum();
    println!("{rounds} rounds, {} answers, {unknown} unknown", rounds * CLIENTS * STEPS_OF_A_ROUND);
}
