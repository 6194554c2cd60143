//! `sherd up`: a whole cluster on this machine.

use std::path::PathBuf;

use clap::Args;
use clap::builder::RangedU64ValueParser;
use sherd_client::Policy;

use crate::cluster::{self, DataDir, Options, Plan};
use crate::error::Error;
use crate::units::{Durability, parse_limit};

use super::Context;

/// The most shards that `up` runs: each is a process of its own on this one machine.
const MAX_SHARDS: u64 = 64;

/// A whole cluster on this machine
///
/// Starts a bootstrap and some shards, each its own process, and keeps them running: one that ends
/// is started again. Prints who is who, then a line starting with `ready HOST:PORT` each time all
/// of it serves, and a line starting with `restarted` for each process started again. Ctrl-C or
/// SIGTERM stops it cleanly; the exit status is 1 if one of the processes did not.
///
/// The number of shards, their size, policy, host and ports are taken from the first start and kept
/// in DIR/cluster.json, a bootstrap config; later starts take them from there. `sherd shard set`
/// changes size and policy.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// The data directory; made if it is not there
    #[arg(long, value_name = "DIR", default_value = "sherd-data")]
    data: PathBuf,
    /// How many shards, 64 at most [first start: 2]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u16>::new().range(1..=MAX_SHARDS))]
    shards: Option<u16>,
    /// The address to listen on [first start: 127.0.0.1]
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// The port of bootstrap, 0 for any; the shards have the ports after it [first start: 9192]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// How many bytes of keys and documents each shard may hold, such as 64MiB or 2GB
    /// [first start: 4GiB]
    #[arg(long, value_name = "BYTES", value_parser = parse_limit)]
    size: Option<u64>,
    /// What becomes of a write for which there is no room: `reject`, or which documents are evicted:
    /// `lru`, `lfu`, `fifo`, `random`, `ttl` [first start: reject]
    #[arg(long, value_name = "POLICY")]
    policy: Option<Policy>,
    /// When a write is acknowledged: `always`, once it is on disk; or `interval:1s`, before, with
    /// the disk synced at that interval: a power loss then costs what came in since the last sync
    #[arg(long, value_name = "WHEN", default_value_t)]
    durability: Durability,
    /// Let this shard begin empty, for its data directory is lost: without it bootstrap leaves a shard
    /// alone that has forgotten what it had. May be given several times; for one start
    #[arg(long, value_name = "SHARD")]
    lost: Vec<String>,
}

impl Up {
    /// Runs until asked to stop.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let Self { shards, host, port, size, policy, .. } = self;
        let options = Options { shards, host, port, size, policy };
        // What cannot be is refused before a directory is made for it.
        let new = Plan::new(&options)?;
        let data = DataDir::open(&self.data)?;
        let stored = data.load()?;
        if let Some(plan) = &stored {
            plan.check(&options)?;
        }
        let is_stored = stored.is_some();
        let how = cluster::How { durability: self.durability, lost: self.lost };
        cluster::run(context, &data, stored.unwrap_or(new), is_stored, how).await
    }
}
