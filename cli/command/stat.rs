//! `sherd stat`: what the shards say of themselves.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde::ser::SerializeMap;
use sherd_client::ShardView;
use sherd_protocol::message::ShardStat;
use sherd_protocol::{Position, Range};

use crate::document::to_json;
use crate::error::Error;
use crate::output::{Output, say, table};
use crate::units::show_size;

use super::Context;

/// How long bootstrap has to say how it sees the shards: it was there a moment ago.
const STATUS_TIME: Duration = Duration::from_secs(2);

/// Print what the shards hold, and how they are
///
/// With --json, one object keyed by the shards' names. Sizes count the bytes of keys and documents,
/// nothing else. If a shard does not answer, the exit status is 1.
#[derive(Debug, Args)]
pub(crate) struct Stat {}

impl Stat {
    /// Asks all shards and prints their answers.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let client = context.connect().await?;
        let views = client.stat().await;
        let mut output = Output::new();
        if context.json {
            output.json(&ByName(&views))?;
        } else {
            print_table(&mut output, &views)?;
        }
        output.flush()?;
        let mut all_answered = true;
        for view in &views {
            if let Err(error) = &view.stat {
                say!("shard {}: {error}", view.shard.name);
                all_answered = false;
            }
        }
        // A shard may serve and bootstrap still have something to say, of an old copy of its data
        // for example.
        if let Ok(shards) = client.with_deadline(STATUS_TIME).status().await {
            for shard in shards {
                if let Some(why) = shard.why {
                    say!("bootstrap about shard {}: {why}", shard.name);
                }
            }
        }
        if all_answered { Ok(()) } else { Err(Error::FailedSaid) }
    }
}

fn print_table(output: &mut Output, views: &[ShardView]) -> Result<(), Error> {
    let mut shards =
        table(["NAME", "ADDRESS", "PID", "RANGES", "DOCUMENTS", "USED", "SIZE", "LOG", "STATE"]);
    for ShardView { shard, stat } in views {
        let (name, address) = (shard.name.clone(), shard.address());
        match stat {
            Ok(stat) => shards.add_row([
                name,
                address,
                stat.pid.to_string(),
                stat.ranges.iter().map(Range::to_string).collect::<Vec<_>>().join(" "),
                stat.documents.to_string(),
                show_size(stat.used),
                show_size(stat.max_size),
                show_size(stat.log_bytes),
                state(stat),
            ]),
            Err(_) => {
                let unknown = || "?".to_owned();
                let size = show_size(shard.size);
                let row = [name, address, unknown(), unknown(), unknown(), unknown(), size];
                shards.add_row(row.into_iter().chain([unknown(), "no answer".to_owned()]))
            }
        };
    }
    output.line(shards.trim_fmt())
}

fn state(stat: &ShardStat) -> String {
    // The gravest first.
    let states = [
        ("poisoned, reads only: ", &stat.poisoned),
        ("disk full, no writes: ", &stat.disk_full),
        ("checkpoints fail: ", &stat.checkpoint_error),
        ("locked by ", &stat.locked_by),
    ];
    let state = states.iter().find_map(|(what, why)| Some(format!("{what}{}", why.as_ref()?)));
    state.unwrap_or_else(|| "serving".to_owned())
}

/// All shards, keyed by name.
struct ByName<'a>(&'a [ShardView]);

impl Serialize for ByName<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(Some(self.0.len()))?;
        for ShardView { shard, stat } in self.0 {
            let address = shard.address();
            match stat {
                Ok(stat) => object.serialize_entry(&shard.name, &View::of(address, stat))?,
                Err(error) => {
                    let error = error.to_string();
                    object.serialize_entry(&shard.name, &NoAnswer { address, error })?;
                }
            }
        }
        object.end()
    }
}

/// A shard that did not answer.
#[derive(Serialize)]
struct NoAnswer {
    address: String,
    error: String,
}

/// A shard for programs: first Pyshard's fields under their names, then ours.
#[derive(Serialize)]
struct View<'a> {
    /// Where its first range starts, as a fraction of the ring.
    start: f64,
    /// Where its last range ends.
    end: f64,
    empty: bool,
    max_size: u64,
    free_mem: u64,
    /// Documents by fifths of the ranges, keyed by where each fifth starts.
    distribution: Distribution<'a>,

    address: String,
    pid: u32,
    cluster: &'a str,
    epoch: u64,
    ranges: Vec<(f64, f64)>,
    documents: u64,
    used: u64,
    indexes: Vec<IndexView<'a>>,
    locked_by: Option<&'a str>,
    poisoned: Option<&'a str>,
    disk_full: Option<&'a str>,
    checkpoint_error: Option<&'a str>,
    durable_lsn: u64,
    checkpoint_lsn: u64,
    segments: u64,
    log_bytes: u64,
    connections: u64,
}

#[derive(Serialize)]
struct IndexView<'a> {
    name: &'a str,
    id: u32,
    documents: u64,
    used: u64,
}

impl<'a> View<'a> {
    fn of(address: String, stat: &'a ShardStat) -> Self {
        let fraction = |position| Position(position).fraction();
        let ends = |range: &Range| (fraction(range.start), fraction(range.end));
        let indexes = stat.indexes.iter().map(|index| IndexView {
            name: &index.name,
            id: index.id,
            documents: index.documents,
            used: index.used,
        });
        Self {
            start: stat.ranges.first().map_or(0.0, |range| fraction(range.start)),
            end: stat.ranges.last().map_or(0.0, |range| fraction(range.end)),
            empty: stat.documents == 0,
            max_size: stat.max_size,
            free_mem: stat.max_size.saturating_sub(stat.used),
            distribution: Distribution(stat),
            address,
            pid: stat.pid,
            cluster: &stat.cluster,
            epoch: stat.epoch,
            ranges: stat.ranges.iter().map(ends).collect(),
            documents: stat.documents,
            used: stat.used,
            indexes: indexes.collect(),
            locked_by: stat.locked_by.as_deref(),
            poisoned: stat.poisoned.as_deref(),
            disk_full: stat.disk_full.as_deref(),
            checkpoint_error: stat.checkpoint_error.as_deref(),
            durable_lsn: stat.durable_lsn,
            checkpoint_lsn: stat.checkpoint_lsn,
            segments: stat.segments,
            log_bytes: stat.log_bytes,
            connections: stat.connections,
        }
    }
}

struct Distribution<'a>(&'a ShardStat);

impl Serialize for Distribution<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(ShardStat { ranges, distribution, .. }) = self;
        let mut object = serializer.serialize_map(Some(distribution.len()))?;
        for (fifth, documents) in (0..).zip(distribution) {
            if let Some(start) = start_of_fifth(ranges, fifth) {
                let start = to_json(&start).map_err(serde::ser::Error::custom)?;
                object.serialize_entry(&start, documents)?;
            }
        }
        object.end()
    }
}

/// Where a fifth of the positions owned starts, as a fraction of the ring. Ranges are counted as if
/// they were one.
fn start_of_fifth(ranges: &[Range], fifth: u64) -> Option<f64> {
    let width = |range: &Range| u64::from(range.width());
    let total: u64 = ranges.iter().map(width).sum();
    // In fifths of a position, so that it is exact.
    let mut offset = fifth * total;
    for range in ranges {
        if offset < 5 * width(range) {
            let fifths = 5 * u64::from(range.start) + offset;
            return Some(fifths as f64 / 5.0 / f64::from(sherd_protocol::ring::RING_SIZE));
        }
        offset -= 5 * width(range);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifths_start_where_the_positions_do() {
        let starts = |ranges: &[(u32, u32)]| -> Vec<f64> {
            let ranges: Vec<_> = ranges.iter().map(|&(start, end)| Range { start, end }).collect();
            (0..5).filter_map(|fifth| start_of_fifth(&ranges, fifth)).collect()
        };
        assert_eq!(starts(&[(0, 10_000_000)]), [0.0, 0.2, 0.4, 0.6, 0.8]);
        assert_eq!(starts(&[(5_000_000, 10_000_000)]), [0.5, 0.6, 0.7, 0.8, 0.9]);
        let two = [(0, 1_000_000), (5_000_000, 9_000_000)];
        assert_eq!(starts(&two), [0.0, 0.5, 0.6, 0.7, 0.8]);
        assert!(starts(&[]).is_empty());
    }
}
