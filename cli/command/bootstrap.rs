//! `sherd bootstrap`: the control node.

use std::path::PathBuf;

use clap::Args;
use sherd_bootstrap::{ClusterConfig, Options, Started};

use crate::error::Error;
use crate::node::{announce, listen, raise_file_limit, stop_requested};

use super::Context;

/// The control node
///
/// Keeps the range map and the index catalogue, and gives the shards their names, ranges and
/// sizes. Prints a line starting with `ready HOST:PORT` once it listens; it waits for shards that
/// are not up yet. On the first start the map is taken from the config; from then on the map in
/// the data directory counts, and a config that differs is reported. SIGTERM or SIGINT stops it
/// cleanly.
#[derive(Debug, Args)]
pub(crate) struct Bootstrap {
    /// The data directory; made if it is not there
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The cluster's config: JSON as in the README
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The address to listen on, instead of the config's
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// The port to listen on, instead of the config's; 0 for any
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Let this shard begin empty, for its data directory is lost: without it bootstrap leaves a shard
    /// alone that has forgotten what it had. May be given several times; for one start
    #[arg(long, value_name = "SHARD")]
    lost: Vec<String>,
    /// Stop at the end of standard input
    #[arg(long, hide = true)]
    exit_with_parent: bool,
}

impl Bootstrap {
    /// Runs until asked to stop.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        raise_file_limit();
        let shutdown = stop_requested(self.exit_with_parent)?;
        let text = std::fs::read_to_string(&self.config);
        let text = text.map_err(Error::file("read", &self.config))?;
        let mut config = ClusterConfig::parse(&text)
            .map_err(|fault| Error::Failed(format!("{}: {fault}", self.config.display())))?;
        config.host = self.host.unwrap_or(config.host);
        config.port = self.port.unwrap_or(config.port);
        let listener = listen(&config.host, config.port).await?;
        let mut options = Options::new(&self.data);
        options.token.clone_from(&context.token);
        options.lost = self.lost;
        let shards = config.shards.len();
        let ready = |started: &Started| {
            let made = if started.is_new { ", a new cluster" } else { "" };
            announce(started.address, format_args!("bootstrap of {shards} shards{made}"));
        };
        sherd_bootstrap::run(listener, config, options, ready, shutdown).await?;
        Ok(())
    }
}
