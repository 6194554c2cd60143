//! `sherd rebuild`: the index of a shard, anew from its log.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use sherd_engine::{Options, Rebuilt, rebuild};

use crate::error::Error;
use crate::output::Output;
use crate::units::show_size;

use super::{Context, blocking, shard_directory, shard_error};

/// Rebuild the index of a shard's data directory from its log
///
/// Reads the whole log first, and changes nothing if it is damaged. Then makes the new index next to
/// the old one, which needs as much space again, and replaces it; if that fails, the old one stays. A
/// shard does this by itself when its index is missing or damaged; this is for when `sherd verify`
/// finds faults in the index, or to make a smaller one. The shard must be stopped.
#[derive(Debug, Args)]
pub(crate) struct Rebuild {
    /// The data directory of one shard; with `sherd up` DIR/shard0 and so on
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}

/// What was done, for programs.
#[derive(Serialize)]
struct View {
    records: u64,
    indexes: u64,
    documents: u64,
    used: u64,
    replaced: bool,
    seconds: f64,
}

impl Rebuild {
    /// Rebuilds the index.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        shard_directory(&self.data)?;
        let begun = Instant::now();
        let data = self.data;
        let rebuilt = move || rebuild(&data, &Options::default()).map_err(shard_error);
        let Rebuilt { records, stat, replaced } = blocking(rebuilt).await?;
        let seconds = begun.elapsed().as_secs_f64();
        let mut output = Output::new();
        if context.json {
            let (indexes, documents, used) = (stat.indexes.len() as u64, stat.documents, stat.used);
            output.json(&View { records, indexes, documents, used, replaced, seconds })?;
        } else {
            output.line(format_args!(
                "rebuilt: {} documents of {} from {records} records in {seconds:.1} s",
                stat.documents,
                show_size(stat.used),
            ))?;
        }
        output.flush()
    }
}
