//! `sherd shard`: one shard node.

use std::path::PathBuf;

use clap::Args;
use sherd_engine::Options;

use crate::error::Error;
use crate::node::{announce, listen, raise_file_limit, stop_requested};
use crate::units::Durability;

use super::Context;

/// One shard node
///
/// Prints a line starting with `ready HOST:PORT` once it listens. Bootstrap gives it its name,
/// ranges and size; it remembers them, and serves them after a restart also while bootstrap is
/// down. SIGTERM or SIGINT stops it cleanly; the exit status is 1 if it had stopped writing after a
/// failure, or could not bring its index up to date.
#[derive(Debug, Args)]
pub(crate) struct Shard {
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
    /// Runs until asked to stop.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
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
