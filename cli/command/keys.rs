//! `sherd keys`: the keys of an index.

use clap::Args;
use sherd_client::ScanOptions;

use crate::error::Error;
use crate::output::Output;

use super::{Context, parse_index};

/// Pages on their way while one is printed.
const PAGES_AHEAD: usize = 2;

/// Print the keys of an index
///
/// One a line, in ring order, as they come from the shards. With --json, JSON strings, safe also
/// for keys with a line break in them.
#[derive(Debug, Args)]
pub(crate) struct Keys {
    /// The index
    #[arg(value_name = "INDEX", value_parser = parse_index)]
    index: String,
}

impl Keys {
    /// Prints the keys.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let client = context.connect().await?;
        let mut output = Output::new();
        let options = ScanOptions { keys_only: true, ..ScanOptions::default() };
        let mut scan = client.scan_ahead(&self.index, options, PAGES_AHEAD)?;
        while let Some(items) = scan.next_page().await? {
            for item in items {
                if context.json {
                    output.json(&item.key)?;
                } else {
                    output.line(item.key)?;
                }
            }
            output.flush()?;
        }
        Ok(())
    }
}
