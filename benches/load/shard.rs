//! A shard: started as a process of its own, given the whole ring, and spoken to in frames.

use std::path::Path;
use std::process::Stdio;

use bytes::{Bytes, BytesMut};
use sherd_protocol::message::{
    Assignment, Condition, Hello, HelloAnswer, Index, KeyOf, Request as WireRequest, ShardAnswer,
    ShardOperation, ShardStat, Welcome, Write, split_id,
};
use sherd_protocol::{
    DEFAULT_MAX_FRAME_BYTES, Expiry, HashMethod, IndexSettings, PROTOCOL_VERSION, Policy, Range,
    frame,
};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::error::Error;
use crate::generator::{Dialect, Request};
use crate::process::Process;

/// The index that the documents go to.
const INDEX: &str = "load";

/// What a shard that is started here may hold: more than a run can write.
const SIZE_BYTES: u64 = 1 << 40;

/// How long a document lives that is not evicted before: `ttl` evicts only what expires at all.
const TTL_MILLISECONDS: u64 = 24 * 60 * 60 * 1000;

/// What a shard may hold, and what it does when that is reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    pub(crate) bytes: u64,
    pub(crate) policy: Policy,
}

impl Default for Bound {
    fn default() -> Self {
        Self { bytes: SIZE_BYTES, policy: Policy::Reject }
    }
}

impl Bound {
    fn index_settings(self) -> IndexSettings {
        let ttl = (self.policy == Policy::Ttl).then_some(TTL_MILLISECONDS);
        IndexSettings { ttl, ..IndexSettings::default() }
    }
}

/// Starts a shard that owns the whole ring.
pub(crate) async fn start(data: &Path, bound: Bound) -> Result<(Process, String), Error> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sherd"));
    command.arg("shard").arg("--data").arg(data);
    command.args(["--host", "127.0.0.1", "--port", "0", "--exit-with-parent"]);
    command.env("SHERD_LOG", "warn");
    let mut process = Process::start(command.stdin(Stdio::piped()))?;
    let address = |line: &str| line.strip_prefix("ready ")?.split(' ').next().map(str::to_owned);
    let address = process.wait_for_line(address).await?;
    let mut control = Control::open(&address).await?;
    let assignment = Assignment {
        cluster: "load".to_owned(),
        name: "load".to_owned(),
        epoch: 1,
        lineage: 0,
        hash_method: HashMethod::default(),
        ranges: vec![Range::FULL],
        size: bound.bytes,
        policy: bound.policy,
        gives_up: None,
    };
    control.done(ShardOperation::Assign(assignment)).await?;
    let index = Index { id: 1, name: INDEX.to_owned(), settings: bound.index_settings() };
    control.done(ShardOperation::CreateIndex(index)).await?;
    Ok((process, address))
}

/// Checks that a shard that runs already can be driven.
///
/// # Errors
/// When it does not own the whole ring, or lacks the index.
pub(crate) async fn check(address: &str) -> Result<(), Error> {
    let stat = stat(address).await?;
    if stat.ranges != [Range::FULL] {
        let what = format!(
            "the shard at {address} does not own the whole ring: start a cluster of one shard, \
             `sherd up --shards 1`, or leave the address out"
        );
        return Err(Error::Failed(what));
    }
    if !stat.indexes.iter().any(|index| index.name == INDEX) {
        let what = format!("no index {INDEX:?}: create it with `sherd index create {INDEX}`");
        return Err(Error::Failed(what));
    }
    Ok(())
}

/// What a shard has, and what happened in it.
pub(crate) async fn stat(address: &str) -> Result<ShardStat, Error> {
    let mut control = Control::open(address).await?;
    let answer = control.ask(ShardOperation::Stat).await?;
    match frame::decode::<ShardAnswer<'_>>(&answer) {
        Ok(ShardAnswer::Stat(stat)) => Ok(*stat),
        other => Err(Error::Refused(format!("{other:?}"))),
    }
}

/// Says hello on a connection.
pub(crate) async fn greet(stream: &mut TcpStream) -> Result<Frames, Error> {
    let mut out = BytesMut::new();
    let token = std::env::var("SHERD_TOKEN").ok();
    let hello = Hello { version: PROTOCOL_VERSION, client: "load".to_owned(), token };
    encode(&mut out, &hello)?;
    stream.write_all(&out).await?;
    let answer = receive(stream, &mut BytesMut::new()).await?;
    match frame::decode::<HelloAnswer>(&answer) {
        Ok(HelloAnswer::Welcome(Welcome { .. })) => Ok(Frames),
        Ok(HelloAnswer::Refused(error)) => Err(Error::Refused(error.to_string())),
        Err(error) => Err(Error::Refused(error.to_string())),
    }
}

/// One thing at a time.
struct Control {
    stream: TcpStream,
}

impl Control {
    async fn open(address: &str) -> Result<Self, Error> {
        let connect_error = |error| Error::Connect { address: address.to_owned(), error };
        let mut stream = TcpStream::connect(address).await.map_err(connect_error)?;
        greet(&mut stream).await?;
        Ok(Self { stream })
    }

    async fn ask(&mut self, operation: ShardOperation<'_>) -> Result<Bytes, Error> {
        let mut out = BytesMut::new();
        encode(&mut out, &WireRequest { id: 0, operation })?;
        self.stream.write_all(&out).await?;
        let body = receive(&mut self.stream, &mut BytesMut::new()).await?;
        let (_, outcome) = split_id(&body).map_err(|error| Error::Refused(error.to_string()))?;
        Ok(body.slice_ref(outcome))
    }

    async fn done(&mut self, operation: ShardOperation<'_>) -> Result<(), Error> {
        let answer = self.ask(operation).await?;
        match frame::decode::<ShardAnswer<'_>>(&answer) {
            Ok(ShardAnswer::Done) => Ok(()),
            other => Err(Error::Refused(format!("{other:?}"))),
        }
    }
}

/// The requests' ids are their slots.
pub(crate) struct Frames;

impl Dialect for Frames {
    fn encode(
        &mut self,
        out: &mut BytesMut,
        slot: usize,
        request: &Request<'_>,
    ) -> Result<(), Error> {
        let operation = match *request {
            Request::Write { key, document } => {
                let condition = Condition::Any;
                let expiry = Expiry::Default;
                ShardOperation::Write(Write { index: INDEX, key, document, condition, expiry })
            }
            Request::Read { key } => ShardOperation::Read(KeyOf { index: INDEX, key }),
        };
        encode(out, &WireRequest { id: slot as u64, operation })
    }

    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<usize>, Error> {
        let refused = |error: sherd_protocol::FrameError| Error::Refused(error.to_string());
        let Some(body) = frame::split(input, DEFAULT_MAX_FRAME_BYTES).map_err(refused)? else {
            return Ok(None);
        };
        let (id, outcome) = split_id(&body).map_err(refused)?;
        match frame::decode::<ShardAnswer<'_>>(outcome).map_err(refused)? {
            ShardAnswer::Written { .. } | ShardAnswer::Document(_) => Ok(Some(id as usize)),
            other => Err(Error::Refused(format!("{other:?}"))),
        }
    }
}

fn encode(out: &mut BytesMut, message: &impl serde::Serialize) -> Result<(), Error> {
    frame::encode(out, message, DEFAULT_MAX_FRAME_BYTES)
        .map_err(|error| Error::Failed(error.to_string()))
}

async fn receive(stream: &mut TcpStream, buffer: &mut BytesMut) -> Result<Bytes, Error> {
    let body = frame::read(stream, buffer, DEFAULT_MAX_FRAME_BYTES).await;
    body.map_err(|error| Error::Refused(error.to_string()))?.ok_or(Error::Closed)
}
