//! `sherd shard`: one shard node, and the settings of those of a cluster.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use sherd_client::Policy;
use sherd_engine::Options;
use sherd_protocol::WireError;

use crate::error::Error;
use crate::node::{announce, listen, raise_file_limit, stop_requested};
use crate::units::{Durability, parse_limit};

use super::evicted::{Evicted, Limited};
use super::{Context, SETTING, saying};

/// How long `set` waits for the shard to evict down to a lower limit.
const EVICTION_TIME: Duration = Duration::from_secs(600);

/// One shard node
///
/// Prints a line starting with `ready HOST:PORT` once it listens. Bootstrap gives it its name,
/// ranges, size and policy; it remembers them, and serves them after a restart also while bootstrap is
/// down. SIGTERM or SIGINT stops it cleanly; the exit status is 1 if it had stopped writing after a
/// failure, or could not bring its index up to date.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Shard {
    #[command(subcommand)]
    setting: Option<Setting>,
    #[command(flatten)]
    node: Option<Node>,
}

#[derive(Debug, Subcommand)]
enum Setting {
    Set(Set),
}

/// Change size and policy of a shard of the cluster, those that are given
///
/// Where the size is lowered below what is used, and the policy is `reject`, it is refused;
/// otherwise documents are evicted first.
#[derive(Debug, Args)]
struct Set {
    /// The shard
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    changes: Changes,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Changes {
    /// How many bytes of keys and documents it may hold, such as 64MiB or 2GB
    #[arg(long, value_name = "BYTES", value_parser = parse_limit)]
    size: Option<u64>,
    /// What becomes of a write for which there is no room: `reject`, or which documents are evicted:
    /// `lru`, `lfu`, `fifo`, `random`, `ttl`
    #[arg(long, value_name = "POLICY")]
    policy: Option<Policy>,
}

#[derive(Debug, Args)]
struct Node {
    /// The data directory; made if it is not there
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The address to listen on
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    host: String,
    /// The port to listen on; 0 for any
    #[arg(long, value_name = "PORT")]
    port: u16,
    /// When a write is acknowledged: `always`, once it is on disk; or `interval:1s`, before, with
    /// the disk synced at that interval: a power loss then costs what came in since the last sync
    #[arg(long, value_name = "WHEN", default_value_t)]
    durability: Durability,
    /// Stop at the end of standard input
    #[arg(long, hide = true)]
    exit_with_parent: bool,
}

impl Shard {
    /// Whether it is a node, and not a change of one.
    pub(crate) fn is_node(&self) -> bool {
        self.setting.is_none()
    }

    /// Runs the node until asked to stop, or changes a setting.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        match (self.setting, self.node) {
            (Some(Setting::Set(set)), _) => set.run(context).await,
            (None, Some(node)) => node.run(context).await,
            // The parser asks for one of them.
            (None, None) => Err(Error::Usage("name a data directory with --data".to_owned())),
        }
    }
}

impl Set {
    async fn run(self, context: &Context) -> Result<(), Error> {
        let client = context.connect().await?;
        if client.known_map().shard(&self.name).is_none() {
            return Err(sherd_client::Error::NoSuchShard { shard: self.name }.into());
        }
        let Changes { size, policy } = self.changes;
        let limited = Limited::Shard(&self.name);
        let before = Evicted::of(&client, limited).await;
        let patient = client.with_deadline(EVICTION_TIME);
        let set = saying(patient.set_shard(&self.name, size, policy), SETTING).await;
        Evicted::say_since(before, &client, limited).await;
        set.map_err(|error| match error.wire() {
            Some(wire @ WireError::QuotaExceeded { .. }) => {
                Error::Failed(format!("shard {:?}: {wire}", self.name))
            }
            _ => error.into(),
        })
    }
}

impl Node {
    async fn run(self, context: &Context) -> Result<(), Error> {
        raise_file_limit();
        let shutdown = stop_requested(self.exit_with_parent)?;
        let listener = listen(&self.host, self.port).await?;
        let durability = match self.durability {
            Durability::Always => sherd_engine::Durability::Always,
            Durability::Interval(interval) => sherd_engine::Durability::Interval(interval),
        };
        let mut config = sherd_server::Config::new(&self.data);
        config.engine = Options { durability, ..Options::default() };
        config.token.clone_from(&context.token);
        let data = self.data.display();
        sherd_server::run(
            listener,
            config,
            |recovery, address| {
                if let Some(why) = &recovery.rebuilt {
                    tracing::warn!("the index was rebuilt from the log: {why}");
                }
                announce(address, format_args!("shard {data}, {} replayed", recovery.replayed));
            },
            shutdown,
        )
        .await?;
        Ok(())
    }
}
