//! `sherd pop`: documents by key, removed as they are read.

use clap::Args;

use crate::error::Error;
use crate::output::Output;
use crate::record::{Form, show};

use super::{Context, missing, parse_index, parse_key};

/// Remove documents and print them
///
/// Prints as `read` does. Each document is removed before it is printed.
#[derive(Debug, Args)]
pub(crate) struct Pop {
    /// The index
    #[arg(value_name = "INDEX", value_parser = parse_index)]
    index: String,
    /// The keys
    #[arg(value_name = "KEY", required = true, value_parser = parse_key, allow_negative_numbers = true)]
    keys: Vec<String>,
}

impl Pop {
    /// Pops and prints.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let client = context.connect().await?;
        let mut output = Output::new();
        let form = Form::of_keys(context, &self.keys);
        let mut all_there = true;
        for key in &self.keys {
            match client.pop(&self.index, key).await? {
                Some(found) => {
                    show(&mut output, form, key, &found)?;
                    // Before the next is removed: what is popped must not be lost with us.
                    output.flush()?;
                }
                None => all_there = missing(&self.index, key),
            }
        }
        if all_there { Ok(()) } else { Err(Error::DoesNotHoldSaid) }
    }
}
