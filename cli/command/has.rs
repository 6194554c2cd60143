//! `sherd has`: whether there are documents under keys.

use clap::Args;
use serde::Serialize;

use crate::error::Error;
use crate::output::Output;

use super::Context;
use super::documents::{Documents, done};

/// Say whether documents are there
///
/// One key: `true` or `false`. Several: a row `key|true` or `key|false` for each. The exit status
/// is 0 if all are there, else 3.
#[derive(Debug, Args)]
pub(crate) struct Has {
    #[command(flatten)]
    documents: Documents,
}

#[derive(Serialize)]
struct Answer<'a> {
    key: &'a str,
    has: bool,
}

impl Has {
    /// Asks and prints.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let Documents { index, keys } = &self.documents;
        let client = context.connect().await?;
        let mut output = Output::new();
        let mut all_there = true;
        for key in keys {
            let has = client.has(index, key).await?.is_some();
            all_there &= has;
            if context.json {
                output.json(&Answer { key, has })?;
            } else if keys.len() == 1 {
                output.line(has)?;
            } else {
                output.line(format_args!("{key}|{has}"))?;
            }
        }
        output.flush()?;
        done(all_there)
    }
}
