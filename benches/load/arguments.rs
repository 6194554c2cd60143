//! What the load tool is told.

use std::time::Duration;

use clap::{Parser, ValueEnum};
use sherd_protocol::Policy;

use crate::SETTLE;
use crate::generator::{Load, Requests};

/// Requests in flight on each connection while documents are filled in.
const FILL_PIPELINE: usize = 16;

/// What is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    /// A shard.
    Sherd,
    /// A Redis.
    Redis,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Operation {
    /// Writes of random keys, whatever is there.
    Write,
    /// Reads of random keys, all of which are there.
    Read,
    /// Half of each, at random.
    Mixed,
}

/// Drives a shard or a Redis and says how fast it is
#[derive(Clone, Debug, Parser)]
pub(crate) struct Arguments {
    /// What to drive
    #[arg(long, value_enum, default_value = "sherd")]
    pub(crate) target: Target,
    /// Where it is; without, it is started for the run. A shard must own the whole ring and have
    /// the index `load`
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) address: Option<String>,
    /// Connections
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) connections: usize,
    /// Requests in flight on each connection
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) pipeline: usize,
    /// What to ask
    #[arg(long, value_enum, default_value = "write")]
    pub(crate) operation: Operation,
    /// How many different keys
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub(crate) documents: u64,
    /// Bytes of each document, 8 at least
    #[arg(long, value_name = "BYTES", default_value_t = 128,
          value_parser = clap::value_parser!(u32).range(8..))]
    pub(crate) size: u32,
    /// How long each round is measured
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    pub(crate) seconds: f64,
    /// Start a shard and a Redis that syncs as often, and alternate between them
    #[arg(long)]
    pub(crate) compare: bool,
    /// Write new keys into a shard at its limit of that many documents, which evicts by this policy,
    /// and into an empty one, and alternate between them
    #[arg(long, value_name = "POLICY", conflicts_with_all = ["compare", "address", "target", "operation"])]
    pub(crate) full: Option<Policy>,
    /// Rounds of each in a comparison
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) pairs: usize,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Given by cargo
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

impl Arguments {
    /// Whether nobody told it anything: cargo runs it along with other benchmarks or tests.
    pub(crate) fn is_smoke(&self) -> bool {
        std::env::args().skip(1).all(|argument| argument == "--bench")
    }

    /// The arguments of the run that only sees whether it works.
    pub(crate) fn shortened(&self) -> Self {
        Self { connections: 8, documents: 500, seconds: 0.2, pairs: 1, ..self.clone() }
    }

    /// What these requests come to; filling in takes as long as it takes, and all of it counts.
    pub(crate) fn load(&self, requests: Requests) -> Load {
        let (connections, documents, size) = (self.connections, self.documents, self.size);
        let (pipeline, warm_up, time) = match requests {
            Requests::Fill => (FILL_PIPELINE, Duration::ZERO, Duration::MAX),
            _ => (self.pipeline, self.warm_up(), self.time()),
        };
        Load { connections, pipeline, requests, documents, size, warm_up, time }
    }

    /// How long a round is measured.
    pub(crate) fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.clamp(0.01, 1e6))
    }

    /// How long a round runs before it is measured.
    pub(crate) fn warm_up(&self) -> Duration {
        self.time().mul_f64(0.1).min(Duration::from_secs(1))
    }

    /// How long to wait between two rounds.
    pub(crate) fn settle(&self) -> Duration {
        SETTLE.min(self.time())
    }
}
