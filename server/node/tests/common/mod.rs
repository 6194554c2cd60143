//! A node with a handler that does as it is told, and peers that write raw bytes to it.

#![allow(dead_code, reason = "each test file uses a part of this")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sherd_node::{Handler, Limits, Node, Responder, check_token};
use sherd_protocol::message::{Hello, HelloAnswer, Request, Role, Welcome, decode_with_id};
use sherd_protocol::{PROTOCOL_VERSION, WireError, frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Longer than anything takes that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const TOKEN: &str = "open sesame";

/// What the test handler is asked to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Do {
    /// Answer the length of these bytes at once.
    Measure(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Answer that many bytes at once.
    Give(usize),
    /// Announce that many bytes, and answer 0 when told to.
    Hold(usize),
    /// Answer from another thread.
    Elsewhere,
    /// Drop the request.
    Forget,
    Panic,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Told {
    Length(usize),
    Bytes(#[serde(with = "serde_bytes")] Vec<u8>),
    Error(WireError),
}

/// Requests that wait to be let go, by the order of their arrival.
pub(crate) type Held = Arc<Mutex<Vec<Responder>>>;

#[derive(Clone, Default)]
pub(crate) struct Obedient {
    pub(crate) held: Held,
}

impl Handler for Obedient {
    fn welcome(&self, hello: &Hello) -> Result<Welcome, WireError> {
        check_token(Some(TOKEN), hello)?;
        let name = "obedient".to_owned();
        Ok(Welcome { version: PROTOCOL_VERSION, role: Role::Shard, name, epoch: 7 })
    }

    fn handle(&self, operation: Bytes, mut responder: Responder) {
        match frame::decode::<Do>(&operation) {
            Ok(Do::Measure(bytes)) => responder.send(&Told::Length(bytes.len())),
            Ok(Do::Give(length)) => responder.send(&Told::Bytes(vec![7; length])),
            Ok(Do::Hold(reserved)) => {
                responder.reserve(reserved);
                self.held.lock().push(responder);
            }
            Ok(Do::Elsewhere) => {
                std::thread::spawn(move || responder.send(&Told::Length(0)));
            }
            Ok(Do::Forget) => drop(responder),
            Ok(Do::Panic) => panic!("as told"),
            Err(error) => responder.refuse(&WireError::bad_request("operation", error)),
        }
    }
}

/// A served node.
pub(crate) struct Served {
    pub(crate) node: Node,
    pub(crate) address: SocketAddr,
    pub(crate) held: Held,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
}

impl Served {
    pub(crate) async fn start(limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let node = Node::new(limits);
        let handler = Obedient::default();
        let held = Arc::clone(&handler.held);
        let serving = node.clone();
        let served = tokio::spawn(async move {
            serving.serve(listener, handler, async { _ = stopped.await }).await;
        });
        Self { node, address, held, stop: Some(stop), served }
    }

    pub(crate) async fn peer(&self) -> Peer {
        let mut peer = Peer::connect(self.address).await;
        let answer = peer.hello(PROTOCOL_VERSION, Some(TOKEN)).await;
        assert!(matches!(answer, HelloAnswer::Welcome(_)), "{answer:?}");
        peer
    }

    /// Tells the node to shut down.
    pub(crate) fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Waits until the node has drained.
    pub(crate) async fn drained(self) {
        soon(self.served).await.unwrap();
    }

    pub(crate) fn release(&self) {
        for responder in std::mem::take(&mut *self.held.lock()) {
            responder.send(&Told::Length(0));
        }
    }
}

/// A client that may misbehave.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    buffer: BytesMut,
}

impl Peer {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        Self { stream, buffer: BytesMut::new() }
    }

    pub(crate) async fn hello(&mut self, version: u32, token: Option<&str>) -> HelloAnswer {
        let (client, token) = ("test".to_owned(), token.map(str::to_owned));
        self.raw(&frame_of(&Hello { version, client, token })).await;
        self.hello_answer().await
    }

    pub(crate) async fn hello_answer(&mut self) -> HelloAnswer {
        frame::decode(&self.frame().await.expect("an answer to the hello")).unwrap()
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn send(&mut self, id: u64, operation: Do) {
        self.raw(&request(id, operation)).await;
    }

    /// The next answer, or `None` where the node closed the connection.
    pub(crate) async fn answer(&mut self) -> Option<(u64, Told)> {
        let body = self.frame().await?;
        Some(decode_with_id(&body).unwrap())
    }

    pub(crate) async fn ask(&mut self, id: u64, operation: Do) -> Told {
        self.send(id, operation).await;
        let (answered, told) = self.answer().await.expect("an answer");
        assert_eq!(answered, id);
        told
    }

    /// `count` answers, by id.
    pub(crate) async fn answers(&mut self, count: usize) -> HashMap<u64, Told> {
        let mut answers = HashMap::new();
        for _ in 0..count {
            let (id, told) = self.answer().await.expect("an answer");
            assert!(answers.insert(id, told).is_none(), "{id} is answered twice");
        }
        answers
    }

    pub(crate) async fn is_well(&mut self) {
        assert_eq!(self.ask(99, Do::Measure(vec![0; 100])).await, Told::Length(100));
    }

    /// Waits until the node has closed the connection, answers unread.
    pub(crate) async fn closed(&mut self) {
        let mut discarded = vec![0; 1 << 16];
        let closed = async { while let Ok(1..) = self.stream.read(&mut discarded).await {} };
        soon(closed).await;
    }

    async fn frame(&mut self) -> Option<Bytes> {
        soon(frame::read(&mut self.stream, &mut self.buffer, 32 << 20)).await.ok().flatten()
    }
}

pub(crate) fn frame_of<T: Serialize>(message: &T) -> BytesMut {
    let mut out = BytesMut::new();
    frame::encode(&mut out, message, 64 << 20).unwrap();
    out
}

pub(crate) fn request(id: u64, operation: Do) -> BytesMut {
    frame_of(&Request { id, operation })
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
