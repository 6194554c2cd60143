//! `sherd read`: documents by key.

use clap::Args;

use crate::error::Error;
use crate::output::Output;
use crate::record::{Form, show};

use super::Context;
use super::documents::{Documents, done, missing};

/// Print documents
///
/// One key: its document, as `{"hash_": 0.1671936, "record": "hello world"}`. Several: a row
/// `key|{…}` for each. Keys that are not there are named on standard error, and the exit status
/// is 3.
#[derive(Debug, Args)]
pub(crate) struct Read {
    #[command(flatten)]
    documents: Documents,
}

impl Read {
    /// Reads and prints.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let Documents { index, keys } = &self.documents;
        let client = context.connect().await?;
        let mut output = Output::new();
        let form = Form::of_keys(context, keys);
        let mut all_there = true;
        for key in keys {
            match client.read(index, key).await? {
                Some(found) => show(&mut output, form, key, &found)?,
                None => all_there = missing(index, key),
            }
        }
        output.flush()?;
        done(all_there)
    }
}
