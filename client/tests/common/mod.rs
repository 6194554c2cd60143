//! Nodes for the client to talk to: real shards, and scripted nodes that fail on demand.

#![allow(dead_code, reason = "each test file uses a part of this")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use sherd_client::{Client, ConnectOptions, Options};
use sherd_node::{Handler, Limits, Node, Responder, check_token};
use sherd_protocol::message::*;
use sherd_protocol::range_map::OwnedRange;
use sherd_protocol::ring::RING_SIZE;
use sherd_protocol::{
    HashMethod, IndexSettings, PROTOCOL_VERSION, Policy, Range, RangeMap, ShardInfo, WireError,
    frame,
};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Longer than anything takes that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const CLUSTER: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";

/// A document.
pub(crate) const NIL: &[u8] = b"\xc0";

type Script = Box<dyn Fn(&[u8], Responder) + Send + Sync>;

/// A node whose answers a test decides.
pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    pub(crate) node: Node,
    served: JoinHandle<()>,
    shutdown: Option<oneshot::Sender<()>>,
}

struct Act {
    role: Role,
    name: String,
    token: Option<String>,
    script: Script,
}

impl Handler for Act {
    fn welcome(&self, hello: &Hello) -> Result<Welcome, WireError> {
        check_token(self.token.as_deref(), hello)?;
        let (role, name) = (self.role, self.name.clone());
        Ok(Welcome { version: PROTOCOL_VERSION, role, name, epoch: 1 })
    }

    fn handle(&self, operation: Bytes, responder: Responder) {
        (self.script)(&operation, responder);
    }
}

impl Scripted {
    /// A shard.
    pub(crate) async fn shard(
        name: &str,
        script: impl Fn(ShardOperation<'_>, Responder) + Send + Sync + 'static,
    ) -> Self {
        Self::shard_on("127.0.0.1:0".parse().unwrap(), name, script).await
    }

    pub(crate) async fn shard_on(
        address: SocketAddr,
        name: &str,
        script: impl Fn(ShardOperation<'_>, Responder) + Send + Sync + 'static,
    ) -> Self {
        let script = Box::new(move |body: &[u8], responder: Responder| {
            script(frame::decode(body).unwrap(), responder);
        });
        let act = Act { role: Role::Shard, name: name.to_owned(), token: None, script };
        Self::start(address, act).await
    }

    /// A shard that wants a token.
    pub(crate) async fn guarded(token: &str) -> Self {
        let script = Box::new(|_: &[u8], responder: Responder| {
            responder.send(&ShardAnswer::Done);
        });
        let (name, token) = (String::new(), Some(token.to_owned()));
        let act = Act { role: Role::Shard, name, token, script };
        Self::start("127.0.0.1:0".parse().unwrap(), act).await
    }

    async fn start(address: SocketAddr, act: Act) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let node = Node::new(Limits::default());
        let (shutdown, stopped) = oneshot::channel();
        let serving = node.clone();
        let served = tokio::spawn(async move {
            serving.serve(listener, act, async { _ = stopped.await }).await;
        });
        Self { address, node, served, shutdown: Some(shutdown) }
    }

    /// Cuts all connections and stops listening, as a killed process does.
    pub(crate) async fn kill(mut self) -> SocketAddr {
        let shutdown = self.shutdown.take();
        self.served.abort();
        until("the node is gone", || self.served.is_finished()).await;
        drop(shutdown);
        self.address
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.served.abort();
    }
}

/// What a scripted bootstrap hands out, and how often it was asked.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) map: Arc<Mutex<RangeMap>>,
    pub(crate) indexes: Arc<Mutex<Vec<Index>>>,
    pub(crate) maps_asked: Arc<Mutex<u32>>,
}

impl Cluster {
    /// Shards with equal parts of the ring.
    pub(crate) fn of(shards: &[(&str, SocketAddr)]) -> Self {
        let infos = shards.iter().map(|(name, address)| ShardInfo {
            name: (*name).to_owned(),
            host: address.ip().to_string(),
            port: address.port(),
            size: 1 << 30,
            policy: Policy::Reject,
        });
        let count = shards.len() as u32;
        let bound =
            |place: u32| (u64::from(RING_SIZE) * u64::from(place) / u64::from(count)) as u32;
        let ranges = (0..count).map(|place| OwnedRange {
            start: bound(place),
            end: bound(place + 1),
            shard: shards[place as usize].0.to_owned(),
        });
        let map = RangeMap {
            cluster: CLUSTER.to_owned(),
            epoch: 1,
            hash_method: HashMethod::Md5,
            shards: infos.collect(),
            ranges: ranges.collect(),
        };
        let indexes =
            vec![Index { id: 1, name: "i".to_owned(), settings: IndexSettings::default() }];
        Self {
            map: Arc::new(Mutex::new(map)),
            indexes: Arc::new(Mutex::new(indexes)),
            maps_asked: Arc::default(),
        }
    }

    pub(crate) async fn bootstrap(&self) -> Scripted {
        let cluster = self.clone();
        let script = Box::new(move |body: &[u8], responder: Responder| {
            let answer = match frame::decode::<BootstrapOperation<'_>>(body).unwrap() {
                BootstrapOperation::Map => {
                    *cluster.maps_asked.lock() += 1;
                    BootstrapAnswer::Map(cluster.map.lock().clone())
                }
                BootstrapOperation::Indexes => {
                    BootstrapAnswer::Indexes(cluster.indexes.lock().clone())
                }
                // Creating is never answered.
                BootstrapOperation::CreateIndex(_) => return forget(responder),
                other => {
                    BootstrapAnswer::Error(WireError::bad_request("test", format!("{other:?}")))
                }
            };
            responder.send(&answer);
        });
        let act = Act { role: Role::Bootstrap, name: String::new(), token: None, script };
        Scripted::start("127.0.0.1:0".parse().unwrap(), act).await
    }

    /// A bootstrap that answers what is not a question with an error.
    pub(crate) async fn failing_bootstrap(&self, error: WireError) -> Scripted {
        let cluster = self.clone();
        let script = Box::new(move |body: &[u8], responder: Responder| {
            match frame::decode::<BootstrapOperation<'_>>(body).unwrap() {
                BootstrapOperation::Map => {
                    responder.send(&BootstrapAnswer::Map(cluster.map.lock().clone()));
                }
                _ => responder.refuse(&error),
            }
        });
        let act = Act { role: Role::Bootstrap, name: String::new(), token: None, script };
        Scripted::start("127.0.0.1:0".parse().unwrap(), act).await
    }

    /// Changes the map and its epoch.
    pub(crate) fn change(&self, change: impl FnOnce(&mut RangeMap)) {
        let mut map = self.map.lock();
        map.epoch += 1;
        change(&mut map);
    }
}

/// Never answers, as a node that hangs.
pub(crate) fn forget(responder: Responder) {
    std::mem::forget(responder);
}

/// A client with a deadline that fails a test soon.
pub(crate) async fn client(bootstrap: &Scripted) -> Client {
    let options = Options { deadline: Duration::from_secs(5), ..Options::default() };
    soon(Client::connect(&bootstrap.address.to_string(), options)).await.unwrap()
}

/// A real shard in this process.
pub(crate) struct RealShard {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    shutdown: oneshot::Sender<()>,
    served: JoinHandle<Result<(), sherd_server::Error>>,
}

impl RealShard {
    pub(crate) async fn start(name: &str, data: &Path, address: Option<SocketAddr>) -> Self {
        let address = address.unwrap_or_else(|| "127.0.0.1:0".parse().unwrap());
        let listener = TcpListener::bind(address).await.unwrap();
        let (shutdown, stopping) = oneshot::channel::<()>();
        let (ready, is_ready) = oneshot::channel();
        let config = sherd_server::Config::new(data);
        let served = tokio::spawn(async move {
            let ready = move |_: &_, address| ready.send(address).unwrap();
            sherd_server::run(listener, config, ready, async { _ = stopping.await }).await
        });
        let address = soon(is_ready).await.unwrap();
        Self { name: name.to_owned(), address, shutdown, served }
    }

    pub(crate) async fn stop(self) -> SocketAddr {
        self.shutdown.send(()).unwrap();
        soon(self.served).await.unwrap().unwrap();
        self.address
    }

    /// Does what bootstrap does: tells the shard what the map says of it, and its indexes.
    pub(crate) async fn assign(&self, cluster: &Cluster) {
        let map = cluster.map.lock().clone();
        let assignment = Assignment {
            cluster: map.cluster.clone(),
            name: self.name.clone(),
            epoch: map.epoch,
            lineage: map.epoch,
            hash_method: map.hash_method,
            ranges: map.ranges_of(&self.name),
            size: 1 << 30,
            policy: Policy::Reject,
            gives_up: None,
        };
        self.done(&ShardOperation::Assign(assignment)).await;
        let indexes = cluster.indexes.lock().clone();
        for index in indexes {
            self.done(&ShardOperation::CreateIndex(index)).await;
        }
    }

    async fn done(&self, operation: &ShardOperation<'_>) {
        let address = self.address.to_string();
        let connection =
            sherd_client::Connection::open(&address, &ConnectOptions::default()).await.unwrap();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let reply = connection.shard(operation, deadline).await.unwrap();
        assert_eq!(reply, sherd_client::ShardReply::Done);
    }
}

/// Real shards of a cluster with the index `i`.
pub(crate) async fn real_cluster(names: &[&str], data: &Path) -> (Vec<RealShard>, Cluster) {
    let mut shards = Vec::new();
    for name in names {
        shards.push(RealShard::start(name, &data.join(name), None).await);
    }
    let named: Vec<_> = shards.iter().map(|shard| (shard.name.as_str(), shard.address)).collect();
    let cluster = Cluster::of(&named);
    for shard in &shards {
        shard.assign(&cluster).await;
    }
    (shards, cluster)
}

/// A key on the shard's ranges.
pub(crate) fn key_of(map: &RangeMap, shard: &str, salt: u32) -> String {
    let of_shard = |key: &String| {
        map.owner(map.hash_method.position(key)).is_some_and(|owned| owned.shard == shard)
    };
    (0u32..).map(|n| format!("key-{salt}-{n}")).find(of_shard).unwrap()
}

pub(crate) fn full(map: &mut RangeMap, shard: &str) {
    let Range { start, end } = Range::FULL;
    map.ranges = vec![OwnedRange { start, end, shard: shard.to_owned() }];
}

/// Fails the test where `future` takes longer than anything that works.
pub(crate) async fn soon<F: IntoFuture>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

/// Waits for a condition that another task brings about.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waited = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waited).await.is_ok(), "waited too long for: {what}");
}

/// The length of an encoded message.
pub(crate) fn length<T: Serialize>(message: &T) -> usize {
    let mut out = bytes::BytesMut::new();
    frame::encode(&mut out, message, usize::MAX).unwrap();
    out.len()
}
