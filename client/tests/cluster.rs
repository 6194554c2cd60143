//! Whole clusters, of a real bootstrap and real shards: any start order, restarts, and what a
//! shard missed while it was away.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use common::{NIL, PATIENCE, RealShard, key_of, soon};
use sherd_bootstrap::{ClusterConfig, Error as BootstrapError, Started};
use sherd_client::{Client, Condition, Error, Options};
use sherd_protocol::WireError;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A real bootstrap in this process.
struct Bootstrap {
    started: Started,
    shutdown: oneshot::Sender<()>,
    served: JoinHandle<Result<(), BootstrapError>>,
}

impl Bootstrap {
    async fn start(data: &Path, config: &str, address: Option<SocketAddr>) -> Self {
        let config = ClusterConfig::parse(config).unwrap();
        let address = address.unwrap_or_else(|| "127.0.0.1:0".parse().unwrap());
        let listener = TcpListener::bind(address).await.unwrap();
        let options = sherd_bootstrap::Options::new(data);
        let (shutdown, stopping) = oneshot::channel::<()>();
        let (ready, is_ready) = oneshot::channel();
        let served = tokio::spawn(async move {
            let ready = move |started: &Started| ready.send(started.clone()).unwrap();
            sherd_bootstrap::run(listener, config, options, ready, async { _ = stopping.await })
                .await
        });
        Self { started: soon(is_ready).await.unwrap(), shutdown, served }
    }

    async fn client(&self) -> Client {
        let options = Options { deadline: Duration::from_secs(10), ..Options::default() };
        soon(Client::connect(&self.started.address.to_string(), options)).await.unwrap()
    }

    async fn stop(self) -> SocketAddr {
        self.shutdown.send(()).unwrap();
        soon(self.served).await.unwrap().unwrap();
        self.started.address
    }
}

/// Ports that are free now: shards are configured before they are started.
async fn addresses<const COUNT: usize>() -> [SocketAddr; COUNT] {
    let mut addresses = Vec::new();
    let mut listeners = Vec::new();
    for _ in 0..COUNT {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.push(listener.local_addr().unwrap());
        listeners.push(listener);
    }
    addresses.try_into().unwrap()
}

fn config(shards: &[(&str, SocketAddr)], size: u64) -> String {
    let shards: Vec<_> = shards
        .iter()
        .map(|(name, address)| {
            let (host, port) = (address.ip(), address.port());
            format!(r#"{{"name": "{name}", "size": {size}, "host": "{host}", "port": {port}}}"#)
        })
        .collect();
    format!(r#"{{"shards": [{}]}}"#, shards.join(", "))
}

const SIZE: u64 = 1 << 30;

/// Waits until bootstrap says of the shard what is expected; returns why it is not ready.
async fn status_of(client: &Client, shard: &str, expected: bool) -> Option<String> {
    let seen = async {
        loop {
            let shards = client.status().await.unwrap();
            let status = shards.into_iter().find(|status| status.name == shard).unwrap();
            if status.ready == expected {
                return status.why;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.expect("the status in time")
}

async fn all_work(client: &Client, index: &str) {
    let map = client.known_map();
    for shard in &map.shards {
        let key = key_of(&map, &shard.name, 7);
        client.write(index, &key, NIL, Condition::Any).await.unwrap();
        assert!(client.read(index, &key).await.unwrap().is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bootstrap_may_start_before_between_and_after_the_shards() {
    for before in 0..=2 {
        let data = tempfile::tempdir().unwrap();
        let addresses = addresses::<2>().await;
        let named = [("a", addresses[0]), ("b", addresses[1])];
        let config = config(&named, SIZE);
        let mut shards = Vec::new();
        let bootstrap_data = data.path().join("bootstrap");
        for (name, address) in &named[..before] {
            shards.push(RealShard::start(name, &data.path().join(name), Some(*address)).await);
        }
        let bootstrap = Bootstrap::start(&bootstrap_data, &config, None).await;
        for (name, address) in &named[before..] {
            shards.push(RealShard::start(name, &data.path().join(name), Some(*address)).await);
        }
        assert!(bootstrap.started.is_new);
        let client = bootstrap.client().await;
        client.create_index("i").await.unwrap();
        all_work(&client, "i").await;
        bootstrap.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_bootstrap_remembers_and_a_changed_config_is_reported() {
    let data = tempfile::tempdir().unwrap();
    let [address] = addresses::<1>().await;
    let shard = RealShard::start("a", &data.path().join("a"), Some(address)).await;
    let bootstrap_data = data.path().join("bootstrap");
    let bootstrap = Bootstrap::start(&bootstrap_data, &config(&[("a", address)], SIZE), None).await;
    let client = bootstrap.client().await;
    client.create_index("i").await.unwrap();
    client.create_index("dropped").await.unwrap();
    client.drop_index("dropped").await.unwrap();
    let map = client.map().await.unwrap();
    let listening = bootstrap.stop().await;

    // Documents are served meanwhile.
    client.write("i", "k", NIL, Condition::Absent).await.unwrap();

    let changed = config(&[("a", address)], 2 * SIZE);
    let bootstrap = Bootstrap::start(&bootstrap_data, &changed, Some(listening)).await;
    assert!(!bootstrap.started.is_new);
    let [difference] = &bootstrap.started.differences[..] else {
        panic!("{:?}", bootstrap.started.differences);
    };
    assert!(difference.contains("\"a\"") && difference.contains("size"), "{difference}");
    assert_eq!(client.map().await.unwrap(), map, "the same client goes on");
    let indexes = client.indexes().await.unwrap();
    assert_eq!(indexes.iter().map(|index| index.name.as_str()).collect::<Vec<_>>(), ["i"]);
    let created = client.create_index("dropped").await.unwrap();
    assert_eq!(created.id, 3, "no id is given twice");
    assert_eq!(status_of(&client, "a", true).await, None);
    assert!(client.has("i", "k").await.unwrap().is_some());
    shard.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_was_away_gets_what_it_missed() {
    let data = tempfile::tempdir().unwrap();
    let [a, b] = addresses().await;
    let config = config(&[("a", a), ("b", b)], SIZE);
    let bootstrap = Bootstrap::start(&data.path().join("bootstrap"), &config, None).await;
    let _a = RealShard::start("a", &data.path().join("a"), Some(a)).await;
    let shard = RealShard::start("b", &data.path().join("b"), Some(b)).await;
    let client = bootstrap.client().await;
    client.create_index("kept").await.unwrap();
    client.create_index("renewed").await.unwrap();
    let key = key_of(&client.known_map(), "b", 0);
    for index in ["kept", "renewed"] {
        client.write(index, &key, NIL, Condition::Absent).await.unwrap();
    }
    shard.stop().await;
    let why = status_of(&client, "b", false).await;
    assert!(why.is_some());

    client.create_index("new").await.unwrap();
    // A drop waits for the shard, which would take writes for a new index into the old one.
    let dropping = tokio::spawn({
        let client = client.with_deadline(PATIENCE);
        async move {
            loop {
                match client.drop_index("renewed").await {
                    Err(error) if matches!(error.wire(), Some(WireError::IndexHeld { .. })) => {}
                    result => return result,
                }
            }
        }
    });
    while client.indexes().await.unwrap().iter().any(|index| index.name == "renewed") {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(!dropping.is_finished());
    let too_early = client.create_index("renewed").await.unwrap_err();
    let Some(WireError::IndexHeld { shards, .. }) = too_early.wire() else { panic!("{too_early}") };
    assert_eq!(shards, "b");
    let waiting = tokio::spawn({
        let (client, key) = (client.clone(), key.clone());
        async move { client.write("new", &key, NIL, Condition::Absent).await }
    });
    let _b = RealShard::start("b", &data.path().join("b"), Some(b)).await;
    soon(waiting).await.unwrap().unwrap();
    soon(dropping).await.unwrap().unwrap();
    client.create_index("renewed").await.unwrap();
    status_of(&client, "b", true).await;
    assert!(client.has("kept", &key).await.unwrap().is_some());
    // The index of the same name is another one.
    assert_eq!(client.has("renewed", &key).await.unwrap(), None);
    all_work(&client, "renewed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_exists_once_and_is_gone_when_dropped() {
    let data = tempfile::tempdir().unwrap();
    let [a, b] = addresses().await;
    let config = config(&[("a", a), ("b", b)], SIZE);
    let bootstrap = Bootstrap::start(&data.path().join("bootstrap"), &config, None).await;
    let _shards = [
        RealShard::start("a", &data.path().join("a"), Some(a)).await,
        RealShard::start("b", &data.path().join("b"), Some(b)).await,
    ];
    let client = bootstrap.client().await;
    client.create_index("i").await.unwrap();
    all_work(&client, "i").await;
    let error = client.create_index("i").await.unwrap_err();
    assert!(matches!(error.wire(), Some(WireError::IndexExists { .. })), "{error:?}");
    assert!(error.does_not_hold());
    client.drop_index("i").await.unwrap();
    let error = client.drop_index("i").await.unwrap_err();
    assert!(matches!(error.wire(), Some(WireError::IndexNotFound { .. })), "{error:?}");
    let error = client.read("i", "k").await.unwrap_err();
    assert!(error.does_not_hold(), "{error:?}");
    assert!(matches!(client.create_index("no/slash").await, Err(Error::Name(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_size_below_what_is_used_is_refused_and_not_kept() {
    let data = tempfile::tempdir().unwrap();
    let [address] = addresses::<1>().await;
    let config = config(&[("a", address)], 1000);
    let bootstrap_data = data.path().join("bootstrap");
    let bootstrap = Bootstrap::start(&bootstrap_data, &config, None).await;
    let _shard = RealShard::start("a", &data.path().join("a"), Some(address)).await;
    let client = bootstrap.client().await;
    client.create_index("i").await.unwrap();
    let document = [&[0xc4, 200][..], &[0; 200]].concat();
    client.write("i", "k", &document, Condition::Absent).await.unwrap();

    let epoch = client.map().await.unwrap().epoch;
    let error = client.set_shard("a", Some(100), None).await.unwrap_err();
    assert!(matches!(error.wire(), Some(WireError::QuotaExceeded { .. })), "{error:?}");
    let map = client.map().await.unwrap();
    assert_eq!((map.epoch, map.shards[0].size), (epoch, 1000), "nothing changed");

    client.set_shard("a", Some(300), None).await.unwrap();
    let map = client.map().await.unwrap();
    assert_eq!((map.epoch, map.shards[0].size), (epoch + 1, 300));
    assert_eq!(client.stat().await[0].stat.as_ref().unwrap().max_size, 300);
    let error = client.write("i", "l", &document, Condition::Absent).await.unwrap_err();
    assert!(matches!(error.wire(), Some(WireError::QuotaExceeded { .. })), "{error:?}");

    let listening = bootstrap.stop().await;
    let bootstrap = Bootstrap::start(&bootstrap_data, &config, Some(listening)).await;
    assert_eq!(client.map().await.unwrap().shards[0].size, 300);
    status_of(&client, "a", true).await;
    assert_eq!(client.stat().await[0].stat.as_ref().unwrap().max_size, 300);
    bootstrap.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_of_another_cluster_is_left_alone_and_the_status_says_so() {
    let data = tempfile::tempdir().unwrap();
    let [address] = addresses::<1>().await;
    let config = config(&[("a", address)], SIZE);
    let _shard = RealShard::start("a", &data.path().join("a"), Some(address)).await;
    let first = Bootstrap::start(&data.path().join("first"), &config, None).await;
    let client = first.client().await;
    client.create_index("i").await.unwrap();
    client.write("i", "k", NIL, Condition::Absent).await.unwrap();
    let cluster = client.known_map().cluster;
    first.stop().await;

    let second = Bootstrap::start(&data.path().join("second"), &config, None).await;
    let other = second.client().await;
    assert_ne!(other.known_map().cluster, cluster);
    let told = async {
        loop {
            let why = status_of(&other, "a", false).await.unwrap_or_default();
            if why.contains(&cluster) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(told).await;
    // Its documents are where they were.
    assert!(client.has("i", "k").await.unwrap().is_some());
}

/// A bootstrap that ran on a restored copy of its data made the shards drop every index that was
/// created after the copy, as soon as it had gone on to the epoch that they held.
#[tokio::test(flavor = "multi_thread")]
async fn a_bootstrap_on_an_old_copy_of_its_data_is_found_out_and_destroys_nothing() {
    let data = tempfile::tempdir().unwrap();
    let [address] = addresses::<1>().await;
    let _shard = RealShard::start("a", &data.path().join("a"), Some(address)).await;
    let (bootstrap_data, copy) = (data.path().join("bootstrap"), data.path().join("copy"));
    let config = config(&[("a", address)], SIZE);
    let bootstrap = Bootstrap::start(&bootstrap_data, &config, None).await;
    let client = bootstrap.client().await;
    client.create_index("before").await.unwrap();
    std::fs::create_dir(&copy).unwrap();
    std::fs::copy(bootstrap_data.join("state.json"), copy.join("state.json")).unwrap();
    client.create_index("after").await.unwrap();
    client.write("after", "k", NIL, Condition::Absent).await.unwrap();
    let listening = bootstrap.stop().await;

    let old = Bootstrap::start(&copy, &config, Some(listening)).await;
    let impatient = old.client().await.with_deadline(Duration::from_secs(1));
    let why = loop {
        match status_of(&impatient, "a", false).await {
            Some(why) if why.contains("old copy") => break why,
            _ => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    };
    assert!(why.contains("start it on the newest"), "{why}");
    for index in ["other", "another"] {
        impatient.create_index(index).await.unwrap_err();
    }
    impatient.drop_index("before").await.unwrap_err();
    let names: Vec<_> =
        impatient.indexes().await.unwrap().into_iter().map(|index| index.name).collect();
    assert_eq!(names, ["before"], "nothing is changed on the copy");
    assert!(client.has("after", "k").await.unwrap().is_some(), "the shard serves on");
    let listening = old.stop().await;

    let _newest = Bootstrap::start(&bootstrap_data, &config, Some(listening)).await;
    assert_eq!(status_of(&client, "a", true).await, None);
    assert!(client.has("after", "k").await.unwrap().is_some());
    all_work(&client, "after").await;
}
