//! `sherd backup DIR`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::backup::{Directory, Options, Pace, Taken, take};
use crate::error::Error;
use crate::interrupt::unless_interrupted;
use crate::output::Output;
use crate::units::{parse_size, show_count, show_size};

use super::super::Context;

/// How long a moment is looked for at which no range is handed over and no index is being created.
const CUT_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct Take {
    /// The directory for backups; made if it is not there
    #[arg(value_name = "DIR", required = true)]
    dir: Option<PathBuf>,
    /// The share of its time in which a shard is asked for something, in percent: with more, the backup
    /// is faster, and writes are slower
    #[arg(long, value_name = "PERCENT", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=100))]
    share: u32,
    /// Fetch this many bytes a second from each shard at most
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    rate: Option<u64>,
    /// Fetch everything, and share nothing with earlier backups
    #[arg(long)]
    full: bool,
    /// Have each shard keep its log from this backup to the next one, as long as that takes no more of its
    /// disk than this; 0 for not any more. Then the cluster can be restored to any moment between the two
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    keep_log: Option<u64>,
}

/// What was taken, for programs.
#[derive(Serialize)]
struct View<'a> {
    backup: &'a str,
    shards: usize,
    documents: u64,
    digest: &'a str,
    bytes: u64,
    shared_bytes: u64,
    fetched_bytes: u64,
    builds_on: &'a [String],
    /// The backup since which the cluster can be restored to any moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    follows: Option<&'a str>,
}

impl Take {
    /// Takes the backup.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let Some(dir) = &self.dir else {
            return Err(Error::Usage("name the directory for backups".to_owned()));
        };
        let client = context.connect().await?.with_deadline(CUT_PATIENCE);
        let pace = Pace { share: self.share, rate: self.rate };
        let options = Options { pace, full: self.full, keep_log: self.keep_log };
        let left = || {
            let dir = dir.display();
            format!(
                "interrupted; unless `sherd backup list {dir}` shows it there is no backup of it, and the \
                 next one into {dir} removes what is left: take another one"
            )
        };
        let directory = Directory::new(dir);
        let taken = unless_interrupted(take(&client, &directory, options), left).await?;
        let Taken { backup, fetched } = &taken;
        let (bytes, shared_bytes) = backup.bytes();
        let mut output = Output::new();
        if context.json {
            output.json(&View {
                backup: &backup.id,
                shards: backup.shards.len(),
                documents: backup.total.documents,
                digest: &backup.total.digest,
                bytes,
                shared_bytes,
                fetched_bytes: *fetched,
                builds_on: &backup.builds_on,
                follows: backup.follows(),
            })?;
        } else {
            output.line(format_args!(
                "backup {}: {}, digest {}",
                backup.id,
                show_count(backup.total.documents, "document"),
                backup.total.digest
            ))?;
            output.line(format_args!(
                "  {} of {}; {} fetched, {} shared with earlier backups",
                show_size(bytes),
                show_count(backup.shards.len(), "shard"),
                show_size(*fetched),
                show_size(shared_bytes)
            ))?;
            if let Some(before) = backup.follows() {
                let when = if backup.is_timed() { "" } else { ", but not when it was written" };
                output.line(format_args!("  with everything since {before}{when}"))?;
            }
        }
        output.flush()
    }
}
