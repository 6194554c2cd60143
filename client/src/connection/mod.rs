//! One TCP connection to a node, shared by any number of callers.
//!
//! Requests carry ids, so many may be under way at once; a single task writes what has gathered
//! with one system call, reads what has arrived with another, and routes each answer to its caller.
//! A failure says whether the node can have executed the request: it cannot as long as a byte of
//! the frame was still unwritten when the connection ended.
//!
//! The socket and the task end with the last clone of the [`Connection`], after a time without
//! requests, and when the node answers nothing for long while it is asked.

mod network;
mod task;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use sherd_protocol::frame::Stream;
use sherd_protocol::message::{
    BootstrapAnswer, BootstrapOperation, Hello, HelloAnswer, Request, Role, ShardOperation, Welcome,
};
use sherd_protocol::{DEFAULT_MAX_FRAME_BYTES, FrameError, PROTOCOL_VERSION, WireError, frame};
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::Error;
use crate::reply::ShardReply;
use network::Connected;
pub use network::{Dial, Dialled, Network};
use task::{Lost, Shared};

/// How a connection is made and kept.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Who connects, for the node's log.
    pub client: String,
    /// The cluster's secret, if it has one.
    pub token: Option<String>,
    /// From the first packet to the node's welcome. Default 2 s: a node that is up answers within
    /// milliseconds, and there may be another to ask.
    pub connect_time: Duration,
    /// Requests under way at once; more wait. Default 128: half of what a node allows.
    pub in_flight: usize,
    /// Without requests for that long, the connection is closed. Default 5 min: well before the
    /// node would do it, so that no request crosses the closing.
    pub idle_time: Duration,
    /// The node lets requests wait and sends nothing for that long: it is taken for dead.
    /// Default 30 s.
    pub silence_time: Duration,
    /// Default: TCP.
    pub network: Network,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            client: concat!("sherd-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            token: None,
            connect_time: Duration::from_secs(2),
            in_flight: 128,
            idle_time: Duration::from_secs(5 * 60),
            silence_time: Duration::from_secs(30),
            network: Network::default(),
        }
    }
}

/// A connection to a node. Cheap to clone; closed with its last clone.
#[derive(Clone)]
pub struct Connection {
    handle: Arc<Handle>,
}

struct Handle {
    node: String,
    welcome: Welcome,
    slots: Arc<Semaphore>,
    in_flight: usize,
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Whoever waits for an answer holds a handle, so nobody does.
        self.shared.abandon();
    }
}

impl Connection {
    /// Connects to `address` (`host:port`) and exchanges hellos.
    ///
    /// # Errors
    /// [`Error::Connect`] when nobody answers as a node; [`Error::Refused`] when the node does not
    /// want this client. Nothing is under way after either.
    pub async fn open(address: &str, options: &ConnectOptions) -> Result<Self, Error> {
        let fail = |reason: String| Error::Connect { node: address.to_owned(), reason };
        let greeting = timeout(options.connect_time, greet(address, options)).await;
        let Greeted { stream, buffer, answer } = greeting
            .map_err(|_| fail(format!("no answer within {:?}", options.connect_time)))?
            .map_err(|error| fail(error.to_string()))?;
        let welcome = match answer {
            HelloAnswer::Welcome(welcome) => welcome,
            HelloAnswer::Refused(error) => {
                return Err(Error::Refused { node: address.to_owned(), error });
            }
        };
        if welcome.version != PROTOCOL_VERSION {
            let (client, server) = (PROTOCOL_VERSION, welcome.version);
            let error = WireError::UnsupportedVersion { client, server };
            return Err(Error::Refused { node: address.to_owned(), error });
        }
        let slots = Arc::new(Semaphore::new(options.in_flight));
        let shared = match stream {
            Connected::Tcp(stream) => Shared::start(stream, buffer, options),
            Connected::Other(stream) => Shared::start(stream, buffer, options),
        };
        let node = node_name(welcome.role, &welcome.name, address);
        let in_flight = options.in_flight;
        Ok(Self { handle: Arc::new(Handle { node, welcome, slots, in_flight, shared }) })
    }

    /// What the node said of itself when the connection was made.
    pub fn welcome(&self) -> &Welcome {
        &self.handle.welcome
    }

    /// The node's role, name and address, for people.
    pub fn node(&self) -> &str {
        &self.handle.node
    }

    /// Whether the connection has ended: no request will be sent over it any more.
    pub fn is_closed(&self) -> bool {
        self.handle.shared.ended.is_cancelled()
    }

    /// Waits until the connection has ended; returns why.
    pub async fn closed(&self) -> String {
        self.handle.shared.ended.cancelled().await;
        self.handle.shared.why_ended().to_string()
    }

    /// Whether both are clones of one connection.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.handle, &other.handle)
    }

    /// Bytes received so far: stands still while the node is silent.
    pub(crate) fn received(&self) -> u64 {
        self.handle.shared.received()
    }

    /// Asks a shard, and waits for the answer until `deadline`.
    ///
    /// # Errors
    /// [`Error::Refused`] is the shard's answer; [`Error::NotSent`] and [`Error::TooLarge`] say
    /// that it got no request; after [`Error::Unanswered`] and [`Error::Protocol`] it may have
    /// executed it.
    pub async fn shard(
        &self,
        operation: &ShardOperation<'_>,
        deadline: Instant,
    ) -> Result<ShardReply, Error> {
        let outcome = self.request(operation, deadline).await?;
        let reply = ShardReply::decode(&outcome).map_err(|error| self.broken(&error))?;
        reply.map_err(|error| Error::Refused { node: self.handle.node.clone(), error })
    }

    /// Asks bootstrap, and waits for the answer until `deadline`.
    ///
    /// # Errors
    /// As [`Connection::shard`].
    pub async fn bootstrap(
        &self,
        operation: &BootstrapOperation<'_>,
        deadline: Instant,
    ) -> Result<BootstrapAnswer, Error> {
        let outcome = self.request(operation, deadline).await?;
        match frame::decode(&outcome).map_err(|error| self.broken(&error))? {
            BootstrapAnswer::Error(error) => {
                Err(Error::Refused { node: self.handle.node.clone(), error })
            }
            answer => Ok(answer),
        }
    }

    fn broken(&self, error: &FrameError) -> Error {
        Error::Protocol { node: self.handle.node.clone(), what: error.to_string() }
    }

    async fn request<O: Serialize>(
        &self,
        operation: &O,
        deadline: Instant,
    ) -> Result<Bytes, Error> {
        let shared = &self.handle.shared;
        let not_sent = |reason: String| Error::NotSent { node: self.handle.node.clone(), reason };
        let slot = self.slot(deadline).await?;
        let sent = shared.send(slot, |id, out| {
            frame::encode(out, &Request { id, operation }, DEFAULT_MAX_FRAME_BYTES)
        });
        let answer = match sent {
            Ok(Some(answer)) => answer,
            Ok(None) => return Err(not_sent(shared.why_ended().to_string())),
            Err(FrameError::TooLarge { length, limit }) => {
                return Err(Error::TooLarge { size: length, limit });
            }
            Err(error) => return Err(not_sent(error.to_string())),
        };
        let unanswered =
            |reason: String| Error::Unanswered { node: self.handle.node.clone(), reason };
        match timeout_at(deadline, answer).await {
            Ok(Ok(Ok(outcome))) => Ok(outcome),
            Ok(Ok(Err(Lost { sent: false }))) => Err(not_sent(shared.why_ended().to_string())),
            Ok(Ok(Err(Lost { sent: true })) | Err(_)) => {
                Err(unanswered(shared.why_ended().to_string()))
            }
            Err(_) => Err(unanswered("the deadline passed".to_owned())),
        }
    }

    async fn slot(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, Error> {
        let Handle { node, slots, in_flight, shared, .. } = &*self.handle;
        let reason = match Arc::clone(slots).try_acquire_owned() {
            Ok(slot) => return Ok(slot),
            Err(_) => match timeout_at(deadline, Arc::clone(slots).acquire_owned()).await {
                Ok(Ok(slot)) => return Ok(slot),
                Ok(Err(_)) => shared.why_ended().to_string(),
                Err(_) => format!("{in_flight} requests before it were still under way"),
            },
        };
        Err(Error::NotSent { node: node.clone(), reason })
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Connection").field(&self.handle.node).finish()
    }
}

/// A node as people look for it.
pub(crate) fn node_name(role: Role, name: &str, address: &str) -> String {
    match (role, name) {
        (Role::Bootstrap, _) => format!("bootstrap ({address})"),
        (Role::Shard, "") => format!("shard ({address})"),
        (Role::Shard, name) => format!("shard {name} ({address})"),
    }
}

/// A connection whose hellos are exchanged.
struct Greeted {
    stream: Connected,
    /// What came behind the answer.
    buffer: BytesMut,
    answer: HelloAnswer,
}

async fn greet(address: &str, options: &ConnectOptions) -> Result<Greeted, FrameError> {
    let mut connected = options.network.connect(address).await?;
    let (buffer, answer) = match &mut connected {
        Connected::Tcp(stream) => exchange_hellos(stream, options).await?,
        Connected::Other(stream) => exchange_hellos(stream, options).await?,
    };
    Ok(Greeted { stream: connected, buffer, answer })
}

async fn exchange_hellos(
    stream: &mut impl Stream,
    options: &ConnectOptions,
) -> Result<(BytesMut, HelloAnswer), FrameError> {
    let (client, token) = (options.client.clone(), options.token.clone());
    let mut buffer = BytesMut::new();
    let hello = Hello { version: PROTOCOL_VERSION, client, token };
    frame::encode(&mut buffer, &hello, DEFAULT_MAX_FRAME_BYTES)?;
    stream.write_all(&buffer).await?;
    buffer.clear();
    let answer = frame::read(stream, &mut buffer, DEFAULT_MAX_FRAME_BYTES).await?;
    let answer = frame::decode(&answer.ok_or(FrameError::Truncated)?)?;
    Ok((buffer, answer))
}
