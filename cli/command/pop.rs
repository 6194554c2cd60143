//! `sherd pop`: documents by key, removed as they are read.

use clap::Args;

use crate::error::Error;
use crate::output::Output;
use crate::record::{Form, show};

use super::Context;
use super::documents::{Documents, done, missing};

/// Remove documents and print them
///
/// Prints as `read` does. Each document is removed before it is printed.
#[derive(Debug, Args)]
pub(crate) struct Pop {
    #[command(flatten)]
    documents: Documents,
}

impl Pop {
    /// Pops and prints.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let Documents { index, keys } = &self.documents;
        let client = context.connect().await?;
        let mut output = Output::new();
        let form = Form::of_keys(context, keys);
        let mut all_there = true;
        for key in keys {
            match client.pop(index, key).await? {
                Some(found) => {
                    show(&mut output, form, key, &found)?;
                    // Before the next is removed: what is popped must not be lost with us.
                    output.flush()?;
                }
                None => all_there = missing(index, key),
            }
        }
        done(all_there)
    }
}
