//! `sherd index`: the index catalogue.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use sherd_client::{Change, IndexSettings, Policy, SettingsChange};
use sherd_protocol::message;

use crate::error::Error;
use crate::output::Output;
use crate::units::{parse_limit, parse_ttl};

use super::evicted::{Evicted, Limited};
use super::{Context, SETTING, parse_index, saying};

/// How long `set` waits for the shards to evict down to a lower limit.
const EVICTION_TIME: Duration = Duration::from_secs(600);

/// Create, change, drop and list indexes
#[derive(Debug, Subcommand)]
pub(crate) enum Index {
    Create(Create),
    Set(Set),
    /// Drop an index with all its documents
    Drop(Name),
    /// Print the names of the indexes, one a line; with --json, their settings too
    List,
}

#[derive(Debug, Args)]
pub(crate) struct Name {
    /// The index: 1 to 64 of the characters A-Z a-z 0-9 _ . -
    #[arg(value_name = "NAME", value_parser = parse_index)]
    name: String,
}

/// Create an index, on all shards; one that is down gets it when it is back
///
/// Limits are of the whole index: each shard gets a share of them, by the width of its ranges.
#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    name: Name,
    /// The most bytes of keys and documents, such as 64MiB or 2GB
    #[arg(long, value_name = "BYTES", value_parser = parse_limit)]
    max_bytes: Option<u64>,
    /// The most documents
    #[arg(long, value_name = "N", value_parser = parse_number)]
    max_documents: Option<u64>,
    /// What becomes of a write for which there is no room: `reject`, or which documents are evicted:
    /// `lru`, `lfu`, `fifo`, `random`, `ttl` [what the shard does]
    #[arg(long, value_name = "POLICY")]
    policy: Option<Policy>,
    /// How long documents live that are written without --ttl, such as 500ms, 30s or 7d [for ever]
    #[arg(long, value_name = "DURATION", value_parser = parse_ttl)]
    ttl: Option<u64>,
}

/// Change limits, policy and time to live of an index, those that are given
///
/// Where a limit is lowered below what is used, and the policy is `reject`, it is refused; otherwise
/// documents are evicted first. A time to live is for documents written from now on.
#[derive(Debug, Args)]
pub(crate) struct Set {
    #[command(flatten)]
    name: Name,
    #[command(flatten)]
    changes: Changes,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Changes {
    /// The most bytes of keys and documents, such as 64MiB or 2GB, or `none`
    #[arg(long, value_name = "BYTES", value_parser = change_of(parse_limit))]
    max_bytes: Option<Change<u64>>,
    /// The most documents, or `none`
    #[arg(long, value_name = "N", value_parser = change_of(parse_number))]
    max_documents: Option<Change<u64>>,
    /// `reject`, `lru`, `lfu`, `fifo`, `random` or `ttl`, or `none` for what the shard does
    #[arg(long, value_name = "POLICY", value_parser = change_of(str::parse::<Policy>))]
    policy: Option<Change<Policy>>,
    /// How long documents live that are written without --ttl, or `none`
    #[arg(long, value_name = "DURATION", value_parser = change_of(parse_ttl))]
    ttl: Option<Change<u64>>,
}

/// An index for programs.
#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
    id: u32,
    max_bytes: Option<u64>,
    max_documents: Option<u64>,
    /// `null` for what the shard does.
    policy: Option<Policy>,
    /// In milliseconds.
    ttl: Option<u64>,
}

impl<'a> From<&'a message::Index> for Entry<'a> {
    fn from(index: &'a message::Index) -> Self {
        let IndexSettings { max_bytes, max_documents, policy, ttl } = index.settings;
        Self { name: &index.name, id: index.id, max_bytes, max_documents, policy, ttl }
    }
}

impl Index {
    /// Runs the subcommand.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let client = context.connect().await?;
        let mut output = Output::new();
        match self {
            Self::Create(Create { name, max_bytes, max_documents, policy, ttl }) => {
                let settings = IndexSettings { max_bytes, max_documents, policy, ttl };
                let index = client.create_index_with(&name.name, settings).await?;
                if context.json {
                    output.json(&Entry::from(&index))?;
                }
            }
            Self::Set(Set { name, changes }) => {
                let Changes { max_bytes, max_documents, policy, ttl } = changes;
                let change = SettingsChange {
                    max_bytes: max_bytes.unwrap_or_default(),
                    max_documents: max_documents.unwrap_or_default(),
                    policy: policy.unwrap_or_default(),
                    ttl: ttl.unwrap_or_default(),
                };
                let limited = Limited::Index(&name.name);
                let before = Evicted::of(&client, limited).await;
                let patient = client.with_deadline(EVICTION_TIME);
                let set = saying(patient.set_index(&name.name, change), SETTING).await;
                // Also where one shard has evicted and another has refused.
                Evicted::say_since(before, &client, limited).await;
                let index = set?;
                if context.json {
                    output.json(&Entry::from(&index))?;
                }
            }
            Self::Drop(Name { name }) => client.drop_index(&name).await?,
            Self::List => {
                for index in client.indexes().await? {
                    if context.json {
                        output.json(&Entry::from(&index))?;
                    } else {
                        output.line(index.name)?;
                    }
                }
            }
        }
        output.flush()
    }
}

/// Parses a new setting, or `none`.
fn change_of<T, E: ToString>(
    parse: impl Fn(&str) -> Result<T, E> + Clone,
) -> impl Fn(&str) -> Result<Change<T>, String> + Clone {
    move |text| match text {
        "none" => Ok(Change::Unset),
        text => parse(text).map(Change::Set).map_err(|error| error.to_string()),
    }
}

fn parse_number(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Err("a limit of 0 would refuse every document".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err("expected a whole number of documents, such as 1000".to_owned()),
    }
}
