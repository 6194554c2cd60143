//! `sherd map`: which shard owns which part of the ring.

use clap::Args;
use serde::Serialize;
use sherd_protocol::{Position, RangeMap};

use crate::error::Error;
use crate::output::{Output, table};

use super::Context;

/// Print the range map: its epoch, and which shard owns which part of the ring
#[derive(Debug, Args)]
pub(crate) struct Map {}

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
        let map = context.connect().await?.known_map();
        let mut output = Output::new();
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

fn address(map: &RangeMap, shard: &str) -> String {
    map.shard(shard).map_or_else(String::new, sherd_protocol::ShardInfo::address)
}
