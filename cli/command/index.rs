//! `sherd index`: the index catalogue.

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::error::Error;
use crate::output::Output;

use super::{Context, parse_index};

/// Create, drop and list indexes
#[derive(Debug, Subcommand)]
pub(crate) enum Index {
    /// Create an index, on all shards; one that is down gets it when it is back
    Create(Name),
    /// Drop an index with all its documents
    Drop(Name),
    /// Print the names of the indexes, one a line
    List,
}

#[derive(Debug, Args)]
pub(crate) struct Name {
    /// The index: 1 to 64 of the characters A-Z a-z 0-9 _ . -
    #[arg(value_name = "NAME", value_parser = parse_index)]
    name: String,
}

/// An index for programs.
#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
    id: u32,
}

impl Index {
    /// Runs the subcommand.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let client = context.connect().await?;
        let mut output = Output::new();
        match self {
            Self::Create(Name { name }) => {
                let index = client.create_index(&name).await?;
                if context.json {
                    output.json(&Entry { name: &name, id: index.id })?;
                }
            }
            Self::Drop(Name { name }) => client.drop_index(&name).await?,
            Self::List => {
                for index in client.indexes().await? {
                    if context.json {
                        output.json(&Entry { name: &index.name, id: index.id })?;
                    } else {
                        output.line(index.name)?;
                    }
                }
            }
        }
        output.flush()
    }
}
