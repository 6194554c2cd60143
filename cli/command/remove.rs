//! `sherd remove`: removes documents by key.

use clap::Args;
use serde::Serialize;

use crate::error::Error;
use crate::output::Output;

use super::{Context, missing, parse_index, parse_key};

/// Remove documents
///
/// Keys that are not there are named on standard error, and the exit status is 3.
#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// The index
    #[arg(value_name = "INDEX", value_parser = parse_index)]
    index: String,
    /// The keys
    #[arg(value_name = "KEY", required = true, value_parser = parse_key, allow_negative_numbers = true)]
    keys: Vec<String>,
}

#[derive(Serialize)]
struct Removed<'a> {
    key: &'a str,
    removed: bool,
}

impl Remove {
    /// Removes.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let client = context.connect().await?;
        let mut output = Output::new();
        let mut all_there = true;
        for key in &self.keys {
            let removed = client.remove(&self.index, key, None).await?.is_some();
            if !removed {
                all_there = missing(&self.index, key);
            }
            if context.json {
                output.json(&Removed { key, removed })?;
            }
        }
        output.flush()?;
        if all_there { Ok(()) } else { Err(Error::DoesNotHoldSaid) }
    }
}
