//! Documents that are named on the command line, by their keys.

use clap::Args;

use crate::error::Error;
use crate::output::say;

use super::{parse_index, parse_key};

// No doc comment: clap would take it for what the command does that this is flattened into.
#[derive(Debug, Args)]
pub(super) struct Documents {
    /// The index
    #[arg(value_name = "INDEX", value_parser = parse_index)]
    pub(super) index: String,
    /// The keys
    #[arg(value_name = "KEY", required = true, value_parser = parse_key, allow_negative_numbers = true)]
    pub(super) keys: Vec<String>,
}

/// Says that a document is not there; `false`, for whoever notes whether all are.
pub(super) fn missing(index: &str, key: &str) -> bool {
    say!("key {key:?} is not in index {index:?}");
    false
}

/// The result of a command that has said which documents are not there.
pub(super) fn done(all_there: bool) -> Result<(), Error> {
    if all_there { Ok(()) } else { Err(Error::DoesNotHoldSaid) }
}
