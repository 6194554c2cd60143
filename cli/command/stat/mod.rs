//! `sherd stat`: what the shards say of themselves.

mod json;
mod tables;

use std::io::{IsTerminal, stdout};
use std::time::Duration;

use clap::Args;
use sherd_client::Client;

use crate::error::Error;
use crate::output::{Output, say};
use crate::units::parse_duration;

use super::Context;

/// How long a shard may take to answer, and bootstrap to say how it sees the shards: it was there a
/// moment ago.
const ANSWER_TIME: Duration = Duration::from_secs(3);

/// Clears a terminal and goes to its upper left corner (ECMA-48).
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Print what the shards hold, and how they are
///
/// For each shard how full it is, and how its documents are spread over fifths of its ranges; for
/// each index what it has on all shards together. Evicted and expired documents are counted for
/// ever; refused writes, hits and misses of reads since the shards were started.
///
/// With --json, one object keyed by the shards' names, a line for each time it is printed. Sizes
/// count the bytes of keys and documents, nothing else. If a shard does not answer, the exit status
/// is 1.
#[derive(Debug, Args)]
pub(crate) struct Stat {
    /// Print it again and again [each second]
    #[arg(
        long,
        value_name = "INTERVAL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1s",
        value_parser = parse_interval
    )]
    watch: Option<Duration>,
}

impl Stat {
    /// Asks all shards and prints their answers.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let client = context.connect().await?.with_deadline(ANSWER_TIME);
        let Some(interval) = self.watch else {
            let all_answered = print(context, &client, false).await?;
            return if all_answered { Ok(()) } else { Err(Error::FailedSaid) };
        };
        let is_terminal = stdout().is_terminal() && !context.json;
        loop {
            print(context, &client, is_terminal).await?;
            tokio::time::sleep(interval).await;
        }
    }
}

/// Prints what the shards say now. Returns whether all answered.
async fn print(context: &Context, client: &Client, clear: bool) -> Result<bool, Error> {
    let (views, shards) = tokio::join!(client.stat(), client.status());
    let mut output = Output::new();
    if clear {
        output.text(CLEAR)?;
    }
    if context.json {
        output.json(&json::ByName(&views))?;
    } else {
        tables::print(&mut output, &views)?;
    }
    output.flush()?;
    let mut all_answered = true;
    for view in &views {
        if let Err(error) = &view.stat {
            say!("shard {}: {error}", view.shard.name);
            all_answered = false;
        }
    }
    // A shard may serve and bootstrap still have something to say, of an old copy of its data for
    // example.
    for shard in shards.into_iter().flatten() {
        if let Some(why) = shard.why {
            say!("bootstrap about shard {}: {why}", shard.name);
        }
    }
    Ok(all_answered)
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("the interval must be longer than 0".to_owned()),
        interval => Ok(interval),
    }
}
