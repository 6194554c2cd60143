//! `sherd map`: which shard owns which part of the ring.

use clap::Args;
use serde::Serialize;
use sherd_protocol::{Position, RangeMap, message};

use crate::error::Error;
use crate::output::{Output, table};
use crate::units::show_time;

use super::Context;

/// Print the range map: its epoch, and which shard owns which part of the ring
#[derive(Debug, Args)]
pub(crate) struct Map {
    /// Print the maps before the present one, what replaced each and when, the oldest first
    #[arg(long)]
    history: bool,
}

/// The map for programs; the ends of ranges are fractions, as in a config.
#[derive(Serialize)]
struct View<'a> {
    cluster: &'a str,
    epoch: u64,
    hash_method: String,
    ranges: Vec<RangeView<'a>>,
}

#[derive(Serialize)]
struct RangeView<'a> {
    start: f64,
    end: f64,
    shard: &'a str,
    address: String,
}

impl Map {
    /// Prints the map.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let client = context.connect().await?;
        let mut output = Output::new();
        if self.history {
            print_history(&mut output, &client.history().await?, context.json)?;
            return output.flush();
        }
        let map = client.known_map();
        if context.json {
            output.json(&View::of(&map))?;
        } else {
            output.line(format_args!("epoch {}, hash method {}", map.epoch, map.hash_method))?;
            let mut table = table(["RANGE", "SHARD", "ADDRESS"]);
            for owned in &map.ranges {
                let address = address(&map, &owned.shard);
                table.add_row([owned.range().to_string(), owned.shard.clone(), address]);
            }
            output.line(table.trim_fmt())?;
        }
        output.flush()
    }
}

impl<'a> View<'a> {
    fn of(map: &'a RangeMap) -> Self {
        let ranges = map.ranges.iter().map(|owned| RangeView {
            start: Position(owned.start).fraction(),
            end: Position(owned.end).fraction(),
            shard: &owned.shard,
            address: address(map, &owned.shard),
        });
        Self {
            cluster: &map.cluster,
            epoch: map.epoch,
            hash_method: map.hash_method.to_string(),
            ranges: ranges.collect(),
        }
    }
}

fn print_history(
    output: &mut Output,
    history: &[message::PastMap],
    json: bool,
) -> Result<(), Error> {
    if json {
        return history.iter().try_for_each(|past| output.json(past));
    }
    let mut table = table(["EPOCH", "UNTIL", "REPLACED BY", "RANGES"]);
    for past in history {
        let ranges = past.map.ranges.iter();
        let ranges = ranges.map(|owned| format!("{} {}", owned.range(), owned.shard));
        table.add_row([
            past.map.epoch.to_string(),
            show_time(past.until),
            past.why.clone(),
            ranges.collect::<Vec<_>>().join(", "),
        ]);
    }
    output.line(table.trim_fmt())
}

fn address(map: &RangeMap, shard: &str) -> String {
    map.shard(shard).map_or_else(String::new, sherd_protocol::ShardInfo::address)
}
