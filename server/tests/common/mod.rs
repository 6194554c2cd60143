//! A shard in this process, on a port of its own, and a client that speaks frames and no more.

#![expect(dead_code, reason = "each test binary uses its part")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sherd_protocol::message::*;
use sherd_protocol::{
    DEFAULT_MAX_FRAME_BYTES, Expiry, HashMethod, IndexSettings, PROTOCOL_VERSION, Policy, Range,
    frame,
};
use sherd_server::{Config, Error};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Longer than anything here takes, so that what hangs fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const CLUSTER: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";

/// The index that [`Shard::with_index`] makes, and its id.
pub(crate) const INDEX: &str = "test_index";
pub(crate) const INDEX_ID: u32 = 1;

/// A running shard. Ends when it is dropped, cleanly with [`Shard::stop`].
pub(crate) struct Shard {
    pub(crate) address: SocketAddr,
    shutdown: oneshot::Sender<()>,
    served: JoinHandle<Result<(), Error>>,
}

impl Shard {
    /// Starts on a data directory.
    pub(crate) async fn start(data: &Path) -> Self {
        Self::start_with(Config::new(data)).await
    }

    pub(crate) async fn start_with(config: Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (shutdown, stopping) = oneshot::channel::<()>();
        let (ready, is_ready) = oneshot::channel();
        let served = tokio::spawn(async move {
            let ready = move |_: &_, address| ready.send(address).unwrap();
            let stopping = async { _ = stopping.await };
            sherd_server::run(listener, config, ready, stopping).await
        });
        let address = is_ready.await.expect("the shard does not start");
        Self { address, shutdown, served }
    }

    /// Starts and gives it the whole ring, 1 GiB and an index.
    pub(crate) async fn with_index(config: Config) -> (Self, Connection) {
        let shard = Self::start_with(config).await;
        let mut connection = Connection::open(shard.address).await;
        connection.done(ShardOperation::Assign(assignment())).await;
        let settings = IndexSettings::default();
        let index = Index { id: INDEX_ID, name: INDEX.to_owned(), settings };
        connection.done(ShardOperation::CreateIndex(index)).await;
        (shard, connection)
    }

    /// Tells it to stop, without waiting.
    pub(crate) fn begin_stop(self) -> JoinHandle<Result<(), Error>> {
        _ = self.shutdown.send(());
        self.served
    }

    /// Tells it to stop, and waits until it has.
    pub(crate) async fn stop(self) -> Result<(), Error> {
        tokio::time::timeout(PATIENCE, self.begin_stop()).await.expect("stops in time").unwrap()
    }
}

/// The whole ring, at epoch 1.
pub(crate) fn assignment() -> Assignment {
    Assignment {
        cluster: CLUSTER.to_owned(),
        name: "shard0".to_owned(),
        epoch: 1,
        lineage: 7,
        hash_method: HashMethod::Md5,
        ranges: vec![Range::FULL],
        size: 1 << 30,
        policy: Policy::Reject,
        gives_up: None,
    }
}

/// A connection that asks one thing at a time, or several with [`Connection::send`].
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    buffer: BytesMut,
    next_id: u64,
    pub(crate) welcome: Welcome,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        match Self::greet(address, &hello()).await {
            (stream, HelloAnswer::Welcome(welcome)) => {
                Self { stream, buffer: BytesMut::new(), next_id: 0, welcome }
            }
            (_, HelloAnswer::Refused(error)) => panic!("refused: {error}"),
        }
    }

    /// Says hello and returns the answer.
    pub(crate) async fn greet(address: SocketAddr, hello: &Hello) -> (TcpStream, HelloAnswer) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(&framed(hello)).await.unwrap();
        let mut buffer = BytesMut::new();
        let answer = next_frame(&mut stream, &mut buffer).await.expect("an answer to the hello");
        (stream, frame::decode(&answer).unwrap())
    }

    /// Sends a request and returns its id.
    pub(crate) async fn send(&mut self, operation: &ShardOperation<'_>) -> u64 {
        self.next_id += 1;
        let request = Request { id: self.next_id, operation: operation.clone() };
        self.stream.write_all(&framed(&request)).await.unwrap();
        self.next_id
    }

    /// Sends bytes as they are.
    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next answer; `None` when the node closed the connection.
    pub(crate) async fn receive(&mut self) -> Option<Reply> {
        let body = next_frame(&mut self.stream, &mut self.buffer).await?;
        let (id, outcome) = split_id(&body).unwrap();
        Some(Reply { id, outcome: body.slice_ref(outcome) })
    }

    /// Asks and waits for the answer.
    pub(crate) async fn ask(&mut self, operation: ShardOperation<'_>) -> Reply {
        let id = self.send(&operation).await;
        let reply = self.receive().await.expect("an answer");
        assert_eq!(reply.id, id);
        reply
    }

    /// Asks for what is answered `done`.
    pub(crate) async fn done(&mut self, operation: ShardOperation<'_>) {
        assert_eq!(self.ask(operation).await.answer(), ShardAnswer::Done);
    }

    /// Asks for what is answered with an error.
    pub(crate) async fn error(
        &mut self,
        operation: ShardOperation<'_>,
    ) -> sherd_protocol::WireError {
        match self.ask(operation).await.answer() {
            ShardAnswer::Error(error) => error,
            other => panic!("not an error: {other:?}"),
        }
    }

    /// Writes, and returns the version.
    pub(crate) async fn write(&mut self, key: &str, document: &[u8]) -> u64 {
        match self.ask(write(key, document, Condition::Any)).await.answer() {
            ShardAnswer::Written { version } => version,
            other => panic!("not written: {other:?}"),
        }
    }

    /// Reads a document's bytes.
    pub(crate) async fn read(&mut self, key: &str) -> Option<Vec<u8>> {
        match self.ask(read(key)).await.answer() {
            ShardAnswer::Document(found) => Some(found.document.to_vec()),
            ShardAnswer::Missing => None,
            other => panic!("no answer to a read: {other:?}"),
        }
    }

    pub(crate) async fn stat(&mut self) -> ShardStat {
        match self.ask(ShardOperation::Stat).await.answer() {
            ShardAnswer::Stat(stat) => *stat,
            other => panic!("no answer to stat: {other:?}"),
        }
    }

    pub(crate) async fn digests(&mut self) -> Digests {
        match self.ask(ShardOperation::Digests).await.answer() {
            ShardAnswer::Digests(digests) => *digests,
            other => panic!("no answer to digests: {other:?}"),
        }
    }

    /// Whether the node closes the connection, whatever it answers before.
    pub(crate) async fn is_closed(&mut self) -> bool {
        let ended = async { while self.receive().await.is_some() {} };
        tokio::time::timeout(PATIENCE, ended).await.is_ok()
    }
}

/// An answer and its id.
pub(crate) struct Reply {
    pub(crate) id: u64,
    outcome: Bytes,
}

impl Reply {
    pub(crate) fn answer(&self) -> ShardAnswer<'_> {
        frame::decode(&self.outcome).unwrap()
    }
}

pub(crate) fn hello() -> Hello {
    Hello { version: PROTOCOL_VERSION, client: "test".to_owned(), token: None }
}

pub(crate) fn write<'a>(
    key: &'a str,
    document: &'a [u8],
    condition: Condition,
) -> ShardOperation<'a> {
    let expiry = Expiry::Default;
    ShardOperation::Write(Write { index: INDEX, key, document, condition, expiry })
}

pub(crate) fn read(key: &str) -> ShardOperation<'_> {
    ShardOperation::Read(KeyOf { index: INDEX, key })
}

pub(crate) fn has(key: &str) -> ShardOperation<'_> {
    ShardOperation::Has(KeyOf { index: INDEX, key })
}

pub(crate) fn pop(key: &str) -> ShardOperation<'_> {
    ShardOperation::Pop(KeyOf { index: INDEX, key })
}

pub(crate) fn remove(key: &str, version: Option<u64>) -> ShardOperation<'_> {
    ShardOperation::Remove(Remove { index: INDEX, key, version })
}

/// A message as a frame.
pub(crate) fn framed(message: &impl serde::Serialize) -> Bytes {
    let mut out = BytesMut::new();
    frame::encode(&mut out, message, DEFAULT_MAX_FRAME_BYTES).unwrap();
    out.freeze()
}

/// A body as a frame, whatever it holds.
pub(crate) fn frame_of(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes(), body].concat()
}

async fn next_frame(stream: &mut TcpStream, buffer: &mut BytesMut) -> Option<Bytes> {
    let read = frame::read(stream, buffer, DEFAULT_MAX_FRAME_BYTES);
    let read = tokio::time::timeout(PATIENCE, read).await.expect("an answer in time");
    // A connection that is reset is closed, too.
    read.unwrap_or_default()
}
