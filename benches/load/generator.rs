//! The loop that drives a target: the same for both.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::Instant;

use crate::arguments::{Operation, Target};
use crate::error::Error;
use crate::{redis, shard};

/// The longest latency that is told from a longer one.
const MAX_MICROSECONDS: u64 = 60_000_000;

/// What a connection reads at once.
const READ_BYTES: usize = 64 * 1024;

/// What to do to a target.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    /// Requests in flight on each connection.
    pub(crate) pipeline: usize,
    pub(crate) requests: Requests,
    /// How many different keys.
    pub(crate) documents: u64,
    /// Bytes of each document.
    pub(crate) size: u32,
    /// Before it counts.
    pub(crate) warm_up: Duration,
    /// While it counts.
    pub(crate) time: Duration,
}

/// Which requests come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Requests {
    /// A write of each document, once.
    Fill,
    /// Writes of keys that were never there, from that number on.
    New { from: u64 },
    /// Random ones; how many reads in a hundred.
    Random { reads: u32 },
}

impl Requests {
    pub(crate) fn of(operation: Operation) -> Self {
        let reads = match operation {
            Operation::Write => 0,
            Operation::Read => 100,
            Operation::Mixed => 50,
        };
        Self::Random { reads }
    }
}

/// One request, for a dialect to write down.
pub(crate) enum Request<'a> {
    Write { key: &'a str, document: &'a [u8] },
    Read { key: &'a str },
}

/// How a target is spoken to, on one connection.
pub(crate) trait Dialect {
    /// Appends a request; `slot` is what its answer is known by.
    ///
    /// # Errors
    /// When it cannot be written down.
    fn encode(
        &mut self,
        out: &mut BytesMut,
        slot: usize,
        request: &Request<'_>,
    ) -> Result<(), Error>;

    /// Takes an answer off the bytes received, if it is all there, and returns its slot.
    ///
    /// # Errors
    /// When it is not the answer that the request deserves.
    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<usize>, Error>;
}

/// What came of it.
pub(crate) struct Measured {
    /// In microseconds, one value for each operation that was answered while it counted.
    pub(crate) latencies: Histogram<u64>,
    pub(crate) time: Duration,
    /// How many documents were filled in, or keys new, also while it did not count.
    pub(crate) written: u64,
}

/// What the connections share; they all run on one thread.
struct Shared {
    load: Load,
    document: Vec<u8>,
    latencies: RefCell<Histogram<u64>>,
    /// How many documents were filled in, or keys new.
    filled: Cell<u64>,
    counts_from: Instant,
    ends: Option<Instant>,
}

/// Drives a target.
pub(crate) async fn drive(target: Target, address: &str, load: &Load) -> Result<Measured, Error> {
    let mut streams = Vec::new();
    for _ in 0..load.connections {
        let connected = TcpStream::connect(address).await.and_then(|stream| {
            stream.set_nodelay(true)?;
            Ok(stream)
        });
        let connect_error = |error| Error::Connect { address: address.to_owned(), error };
        let mut stream = connected.map_err(connect_error)?;
        let dialect: Box<dyn Dialect> = match target {
            Target::Sherd => Box::new(shard::greet(&mut stream).await?),
            Target::Redis => Box::new(redis::Resp::default()),
        };
        streams.push((stream, dialect));
    }
    let latencies = Histogram::new_with_max(MAX_MICROSECONDS, 3)
        .map_err(|error| Error::Failed(format!("no histogram: {error}")))?;
    let started = Instant::now();
    let counts_from = started + load.warm_up;
    let shared = Rc::new(Shared {
        document: document(load.size),
        latencies: RefCell::new(latencies),
        filled: Cell::new(0),
        counts_from,
        ends: counts_from.checked_add(load.time),
        load: load.clone(),
    });
    let seed: u64 = rand::random();
    let local = LocalSet::new();
    let mut connections = JoinSet::new();
    for (i, (stream, dialect)) in streams.into_iter().enumerate() {
        let random = StdRng::seed_from_u64(seed.wrapping_add(i as u64));
        let connection = converse(stream, dialect, Rc::clone(&shared), random);
        connections.spawn_local_on(connection, &local);
    }
    let finished = async {
        while let Some(ended) = connections.join_next().await {
            ended.map_err(|error| Error::Failed(format!("a connection's task: {error}")))??;
        }
        Ok::<_, Error>(())
    };
    local.run_until(finished).await?;
    let time = if shared.ends.is_some() { load.time } else { started.elapsed() };
    let written = shared.filled.get();
    Ok(Measured { latencies: shared.latencies.borrow().clone(), time, written })
}

/// One connection's life.
async fn converse(
    mut stream: TcpStream,
    mut dialect: Box<dyn Dialect>,
    shared: Rc<Shared>,
    mut random: StdRng,
) -> Result<(), Error> {
    let mut free: Vec<usize> = (0..shared.load.pipeline).collect();
    let mut sent_at = vec![Instant::now(); shared.load.pipeline];
    let (mut out, mut input) = (BytesMut::new(), BytesMut::new());
    let mut key = String::new();
    loop {
        let now = Instant::now();
        while let Some(&slot) = free.last()
            && let Some(read) = shared.next(now, &mut random, &mut key)
        {
            let request = if read {
                Request::Read { key: &key }
            } else {
                Request::Write { key: &key, document: &shared.document }
            };
            dialect.encode(&mut out, slot, &request)?;
            sent_at[slot] = now;
            free.pop();
        }
        if !out.is_empty() {
            stream.write_all(&out).await?;
            out.clear();
        }
        if free.len() == sent_at.len() {
            return Ok(());
        }
        input.reserve(READ_BYTES);
        if stream.read_buf(&mut input).await? == 0 {
            return Err(Error::Closed);
        }
        let now = Instant::now();
        while let Some(slot) = dialect.decode(&mut input)? {
            shared.record(sent_at[slot], now);
            free.push(slot);
        }
    }
}

impl Shared {
    /// Chooses the next request: its key, and whether it is a read. `None` when there are no more.
    fn next(&self, now: Instant, random: &mut StdRng, key: &mut String) -> Option<bool> {
        if self.ends.is_some_and(|ends| now >= ends) {
            return None;
        }
        let (number, read) = match self.load.requests {
            Requests::Fill => {
                let number = self.filled.get();
                if number >= self.load.documents {
                    return None;
                }
                self.filled.set(number + 1);
                (number, false)
            }
            Requests::New { from } => {
                let number = self.filled.get();
                self.filled.set(number + 1);
                (from + number, false)
            }
            Requests::Random { reads } => {
                (random.random_range(0..self.load.documents), random.random_range(0..100) < reads)
            }
        };
        key.clear();
        // Writing to a string does not fail.
        _ = std::fmt::write(key, format_args!("key:{number:012}"));
        Some(read)
    }

    fn record(&self, sent: Instant, answered: Instant) {
        if answered >= self.counts_from && self.ends.is_none_or(|ends| answered <= ends) {
            let microseconds = (answered - sent).as_micros() as u64;
            self.latencies.borrow_mut().saturating_record(microseconds);
        }
    }
}

/// A document of that many bytes: MessagePack, for a shard takes nothing else. The bytes are such
/// that they would not compress.
fn document(size: u32) -> Vec<u8> {
    const HEADER_BYTES: u32 = 5;
    let length = size.saturating_sub(HEADER_BYTES);
    let mut document = vec![0xc6];
    document.extend_from_slice(&length.to_be_bytes());
    let mut random = StdRng::seed_from_u64(1);
    document.extend((0..length).map(|_| random.random::<u8>()));
    document
}
