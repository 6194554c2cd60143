//! What the shards say of themselves, for programs.

use serde::Serialize;
use serde::ser::SerializeMap;
use sherd_client::{Policy, ShardView};
use sherd_protocol::message::{Counts, ShardStat};
use sherd_protocol::{Position, Range};

use crate::document::to_json;

/// All shards, keyed by name.
pub(super) struct ByName<'a>(pub(super) &'a [ShardView]);

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
    policy: Policy,
    #[serde(flatten)]
    counts: Counts,
    indexes: Vec<IndexView<'a>>,
    locked_by: Option<&'a str>,
    damaged: Option<&'a str>,
    poisoned: Option<&'a str>,
    disk_full: Option<&'a str>,
    checkpoint_error: Option<&'a str>,
    durable_lsn: u64,
    checkpoint_lsn: u64,
    segments: u64,
    log_bytes: u64,
    tracked_documents: u64,
    tracked_bytes: u64,
    connections: u64,
}

/// An index: its limits are this shard's share of them.
#[derive(Serialize)]
struct IndexView<'a> {
    name: &'a str,
    id: u32,
    documents: u64,
    used: u64,
    max_bytes: Option<u64>,
    max_documents: Option<u64>,
    /// What is in force: the index's own or the shard's.
    policy: Policy,
    /// In milliseconds.
    ttl: Option<u64>,
    #[serde(flatten)]
    counts: Counts,
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
            max_bytes: index.settings.max_bytes,
            max_documents: index.settings.max_documents,
            policy: index.settings.policy.unwrap_or(stat.policy),
            ttl: index.settings.ttl,
            counts: index.counts,
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
            policy: stat.policy,
            counts: stat.counts,
            indexes: indexes.collect(),
            locked_by: stat.locked_by.as_deref(),
            damaged: stat.damaged.as_deref(),
            poisoned: stat.poisoned.as_deref(),
            disk_full: stat.disk_full.as_deref(),
            checkpoint_error: stat.checkpoint_error.as_deref(),
            durable_lsn: stat.durable_lsn,
            checkpoint_lsn: stat.checkpoint_lsn,
            segments: stat.segments,
            log_bytes: stat.log_bytes,
            tracked_documents: stat.tracked_documents,
            tracked_bytes: stat.tracked_bytes,
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
