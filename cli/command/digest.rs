//! `sherd digest`: whether two clusters hold the same.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;
use sherd_client::{Contents, Error as ClientError};
use sherd_protocol::WireError;

use crate::error::Error;
use crate::output::Output;

use super::{Context, parse_index};

/// Print a digest of the documents: 32 hexadecimal digits
///
/// The same for the same index names, keys, documents and times of expiry, whatever the shards, the
/// range map, the hash method and the order of the writes. Of all indexes together unless one is
/// named. What is written meanwhile is in it or not; a document that has expired counts until it is
/// removed. All shards must answer, under one epoch of the map: while a range is handed over they are
/// asked again, until the deadline.
///
/// With --json, also of each index, and how many documents there are.
#[derive(Debug, Args)]
pub(crate) struct Digest {
    /// The index, where it is not to be of all
    #[arg(value_name = "INDEX", value_parser = parse_index)]
    index: Option<String>,
}

/// Contents for programs.
#[derive(Serialize)]
struct View {
    digest: String,
    documents: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    indexes: Option<BTreeMap<String, View>>,
}

impl From<&Contents> for View {
    fn from(Contents { digest, documents, .. }: &Contents) -> Self {
        Self { digest: digest.to_string(), documents: *documents, indexes: None }
    }
}

/// What to do where the shards are not all there.
fn what_next(error: &ClientError) -> String {
    match error {
        ClientError::Deadline { last, .. } => what_next(last),
        ClientError::Connect { node, .. }
        | ClientError::NotSent { node, .. }
        | ClientError::Unanswered { node, .. } => {
            format!("there is no digest without {node}: start it there and ask again")
        }
        _ => "there is no digest without all shards: ask again once they serve".to_owned(),
    }
}

impl Digest {
    /// Asks all shards and prints the digest.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let client = context.connect().await?;
        let indexes = match client.contents().await {
            Ok(indexes) => indexes,
            Err(error) => {
                return Err(Error::Failed(format!("{error}; {}", what_next(&error))));
            }
        };
        let view = match &self.index {
            Some(index) => View::from(match indexes.get(index) {
                Some(contents) => contents,
                None => {
                    let index = index.clone();
                    return Err(Error::DoesNotHold(WireError::IndexNotFound { index }.to_string()));
                }
            }),
            None => {
                let all = indexes.values().fold(Contents::default(), |all, of| all.with(*of));
                let views = indexes.iter().map(|(name, of)| (name.clone(), View::from(of)));
                View { indexes: Some(views.collect()), ..View::from(&all) }
            }
        };
        let mut output = Output::new();
        if context.json {
            output.json(&view)?;
        } else {
            output.line(view.digest)?;
        }
        output.flush()
    }
}
