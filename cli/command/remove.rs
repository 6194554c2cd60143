//! `sherd remove`: removes documents by key.

use clap::Args;
use serde::Serialize;

use crate::error::Error;
use crate::output::Output;

use super::Context;
use super::documents::{Documents, done, missing};

/// Remove documents
///
/// Keys that are not there are named on standard error, and the exit status is 3.
#[derive(Debug, Args)]
pub(crate) struct Remove {
    #[command(flatten)]
    documents: Documents,
}

#[derive(Serialize)]
struct Removed<'a> {
    key: &'a str,
    removed: bool,
}

impl Remove {
    /// Removes.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let Documents { index, keys } = &self.documents;
        let client = context.connect().await?;
        let mut output = Output::new();
        let mut all_there = true;
        for key in keys {
            let removed = client.remove(index, key, None).await?.is_some();
            if !removed {
                all_there = missing(index, key);
            }
            if context.json {
                output.json(&Removed { key, removed })?;
            }
        }
        output.flush()?;
        done(all_there)
    }
}
