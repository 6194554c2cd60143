//! `sherd read`: documents by key.

use clap::Args;

use crate::error::Error;
use crate::output::Output;
use crate::record::{Form, show};

use super::{Context, missing, parse_index, parse_key};

/// Print documents
///
/// One key: its document, as `{"hash_": 0.1671936, "record": "hello world"}`. Several: a row
/// `key|{…}` for each. Keys that are not there are named on standard error, and the exit status
/// is 3.
#[derive(Debug, Args)]
pub(crate) struct Read {
    /// The index
    #[arg(value_name = "INDEX", value_parser = parse_index)]
    index: String,
    /// The keys
    #[arg(value_name = "KEY", required = true, value_parser = parse_key, allow_negative_numbers = true)]
    keys: Vec<String>,
}

impl Read {
    /// Reads and prints.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let client = context.connect().await?;
        let mut output = Output::new();
        let form = Form::of_keys(context, &self.keys);
        let mut all_there = true;
        for key in &self.keys {
            match client.read(&self.index, key).await? {
                Some(found) => show(&mut output, form, key, &found)?,
                None => all_there = missing(&self.index, key),
            }
        }
        output.flush()?;
        if all_there { Ok(()) } else { Err(Error::DoesNotHoldSaid) }
    }
}
