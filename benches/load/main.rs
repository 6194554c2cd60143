//! The load tool: drives a shard or a Redis over real sockets, and says how many operations a
//! second there were and how long they took.
//!
//! ```text
//! cargo bench --bench load -- --operation write --connections 50 --seconds 10
//! cargo bench --bench load -- --compare --operation write
//! cargo bench --bench load -- --full lru --documents 200000 --size 1024
//! cargo bench --bench load -- --target redis --address 127.0.0.1:6379 --json
//! ```
//!
//! Both targets are driven by the same loop, on one thread: each connection sends a request,
//! waits for its answer, and sends the next (or keeps `--pipeline` requests in flight). So this is
//! a closed loop: a target that stalls is asked less, and its latencies look better than an open
//! system's would.
//!
//! Without an address the tool starts the target itself, with a data directory that goes away
//! afterwards: the real `sherd` binary as one shard that owns the whole ring, or a `redis-server`
//! with `appendfsync always`. `--compare` starts both and alternates between them, for what else
//! the machine does changes from minute to minute. Without arguments there is a short run of
//! everything, to see that the tool works.

mod arguments;
mod error;
mod generator;
#[path = "../common/median.rs"]
mod median;
mod process;
mod redis;
mod report;
mod shard;

use std::fmt::Display;
use std::io::Write;
use std::time::Duration;

use clap::Parser;
use sherd_protocol::Policy;
use tempfile::TempDir;

use arguments::{Arguments, Operation, Target};
use error::Error;
use generator::{Load, Measured, Requests, drive};
use process::Process;
use report::{Comparison, Filled, Round, target_name};
use shard::Bound;

/// Between two rounds: the background work of the last round must not be in the way of the next.
const SETTLE: Duration = Duration::from_secs(1);

/// Bytes of each key.
const KEY_BYTES: u64 = 16;

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(&arguments)),
        Err(error) => Err(Error::Failed(format!("cannot start a runtime: {error}"))),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), Error> {
    if arguments.is_smoke() {
        let short = arguments.shortened();
        for operation in [Operation::Write, Operation::Read, Operation::Mixed] {
            single(&Arguments { operation, ..short.clone() }).await?;
        }
        return compare(&short).await;
    }
    match arguments.full {
        Some(policy) => full(arguments, policy).await,
        None if arguments.compare => compare(arguments).await,
        None => single(arguments).await,
    }
}

/// One target, one round.
async fn single(arguments: &Arguments) -> Result<(), Error> {
    let target = Running::start(arguments.target, arguments.address.clone()).await?;
    target.fill(arguments).await?;
    let round = target.round(arguments).await?;
    if arguments.json { print(round.json()) } else { print(round) }
}

/// Both targets, in turns.
async fn compare(arguments: &Arguments) -> Result<(), Error> {
    let redis = match Running::start(Target::Redis, None).await {
        Err(Error::NotInstalled(program)) => {
            eprintln!("load: no comparison, for {program} is not installed");
            return Ok(());
        }
        started => started?,
    };
    let shard = Running::start(Target::Sherd, None).await?;
    let mut comparison = Comparison::default();
    for target in [&shard, &redis] {
        target.fill(arguments).await?;
        tokio::time::sleep(arguments.settle()).await;
    }
    for _ in 0..arguments.pairs {
        for (target, rounds) in [(&shard, &mut comparison.sherd), (&redis, &mut comparison.redis)] {
            let round = target.round(arguments).await?;
            if !arguments.json {
                print(&round)?;
            }
            rounds.push(round);
            tokio::time::sleep(arguments.settle()).await;
        }
    }
    if arguments.json { print(comparison.json()) } else { print(comparison) }
}

/// An empty shard and one that evicts on each write, in turns. The empty one is a new one each time.
async fn full(arguments: &Arguments, policy: Policy) -> Result<(), Error> {
    let bytes = arguments.documents * (u64::from(arguments.size) + KEY_BYTES);
    let full = Running::start_shard(Bound { bytes, policy }).await?;
    let mut written = full.drive(&arguments.load(Requests::Fill)).await?.written;
    tokio::time::sleep(arguments.settle()).await;
    let mut comparison = Filled::default();
    for _ in 0..arguments.pairs {
        // As many as it has of the policy, so that `ttl` has its times in both.
        let empty = Running::start_shard(Bound { policy, ..Bound::default() }).await?;
        let measured = empty.drive(&arguments.load(Requests::New { from: 0 })).await?;
        comparison.empty.push(Round::new("empty", arguments, &measured));
        drop(empty);
        tokio::time::sleep(arguments.settle()).await;
        let evicted = shard::stat(&full.address).await?.counts.evicted;
        let measured = full.drive(&arguments.load(Requests::New { from: written })).await?;
        written += measured.written;
        let evicted = shard::stat(&full.address).await?.counts.evicted - evicted;
        if evicted < measured.written {
            let what = format!("{evicted} evictions for {} writes", measured.written);
            return Err(Error::Failed(what));
        }
        comparison.full.push(Round::new("full", arguments, &measured));
        tokio::time::sleep(arguments.settle()).await;
        if !arguments.json {
            let last = [&comparison.empty, &comparison.full].map(|rounds| rounds.last());
            for round in last.into_iter().flatten() {
                print(round)?;
            }
        }
    }
    if arguments.json { print(comparison.json()) } else { print(comparison) }
}

/// Prints a line; whoever reads may have gone.
fn print(line: impl Display) -> Result<(), Error> {
    let written = writeln!(std::io::stdout(), "{line}");
    written.map_err(|error| Error::Failed(format!("cannot print: {error}")))
}

/// A target that answers, and ends with this if it was started here.
struct Running {
    target: Target,
    address: String,
    // In this order: the process ends before its directory goes.
    _process: Option<Process>,
    _data: Option<TempDir>,
}

impl Running {
    async fn start(target: Target, address: Option<String>) -> Result<Self, Error> {
        if let Some(address) = address {
            if target == Target::Sherd {
                shard::check(&address).await?;
            }
            return Ok(Self { target, address, _process: None, _data: None });
        }
        let data = temporary_directory()?;
        let (process, address) = match target {
            Target::Sherd => shard::start(data.path(), Bound::default()).await?,
            Target::Redis => redis::start(data.path()).await?,
        };
        Ok(Self { target, address, _process: Some(process), _data: Some(data) })
    }

    async fn start_shard(bound: Bound) -> Result<Self, Error> {
        let data = temporary_directory()?;
        let (process, address) = shard::start(data.path(), bound).await?;
        let target = Target::Sherd;
        Ok(Self { target, address, _process: Some(process), _data: Some(data) })
    }

    /// Writes each document once, where reads need them.
    async fn fill(&self, arguments: &Arguments) -> Result<(), Error> {
        if arguments.operation == Operation::Write {
            return Ok(());
        }
        self.drive(&arguments.load(Requests::Fill)).await.map(|_| ())
    }

    async fn round(&self, arguments: &Arguments) -> Result<Round, Error> {
        let load = arguments.load(Requests::of(arguments.operation));
        let measured = self.drive(&load).await?;
        Ok(Round::new(target_name(self.target), arguments, &measured))
    }

    async fn drive(&self, load: &Load) -> Result<Measured, Error> {
        drive(self.target, &self.address, load).await
    }
}

fn temporary_directory() -> Result<TempDir, Error> {
    tempfile::tempdir().map_err(|error| Error::Failed(error.to_string()))
}
