//! `sherd has`: whether there are documents under keys.

use clap::Args;
use serde::Serialize;

use crate::error::Error;
use crate::output::Output;

use super::{Context, parse_index, parse_key};

/// Say whether documents are there
///
/// One key: `true` or `false`. Several: a row `key|true` or `key|false` for each. The exit status
/// is 0 if all are there, else 3.
#[derive(Debug, Args)]
pub(crate) struct Has {
    /// The index
    #[arg(value_name = "INDEX", value_parser = parse_index)]
    index: String,
    /// The keys
    #[arg(value_name = "KEY", required = true, value_parser = parse_key, allow_negative_numbers = true)]
    keys: Vec<String>,
}

#[derive(Serialize)]
struct Answer<'a> {
    key: &'a str,
    has: bool,
}

impl Has {
    /// Asks and prints.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let client = context.connect().await?;
        let mut output = Output::new();
        let mut all_there = true;
        for key in &self.keys {
            let has = client.has(&self.index, key).await?.is_some();
            all_there &= has;
            if context.json {
                output.json(&Answer { key, has })?;
            } else if self.keys.len() == 1 {
                output.line(has)?;
            } else {
                output.line(format_args!("{key}|{has}"))?;
            }
        }
        output.flush()?;
        if all_there { Ok(()) } else { Err(Error::DoesNotHoldSaid) }
    }
}
