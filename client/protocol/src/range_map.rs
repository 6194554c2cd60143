//! The range map: which shard owns which positions, at which epoch.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits::Policy;
use crate::ring::{HashMethod, Position, RING_SIZE};

/// A half-open range `[start, end)` of positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Range {
    /// The first position inside.
    pub start: u32,
    /// The first position after; at most [`RING_SIZE`].
    pub end: u32,
}

impl Range {
    /// The whole ring.
    pub const FULL: Self = Self { start: 0, end: RING_SIZE };

    /// Whether `position` lies inside.
    pub fn contains(self, position: Position) -> bool {
        (self.start..self.end).contains(&position.0)
    }

    /// The number of positions inside.
    pub fn width(self) -> u32 {
        self.end.saturating_sub(self.start)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fraction = |end: u32| f64::from(end) / f64::from(RING_SIZE);
        write!(f, "[{}, {})", fraction(self.start), fraction(self.end))
    }
}

/// A shard as the map names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardInfo {
    /// The unique name.
    pub name: String,
    /// The host that clients reach it at.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// How many bytes of keys and documents it may hold.
    pub size: u64,
    /// What becomes of a write for which there is no room.
    #[serde(default, skip_serializing_if = "Policy::is_default")]
    pub policy: Policy,
}

impl ShardInfo {
    /// The address as `host:port`, with brackets around an IPv6 host.
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// One range and the name of the shard that owns it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedRange {
    /// The first position inside.
    pub start: u32,
    /// The first position after.
    pub end: u32,
    /// The owner's name, one of the map's shards.
    pub shard: String,
}

impl OwnedRange {
    /// The range alone.
    pub fn range(&self) -> Range {
        Range { start: self.start, end: self.end }
    }
}

/// Which shard owns which positions.
///
/// Invariant of a map that passed [`RangeMap::check`]: the ranges are in ring order and cover the
/// whole ring with no gap or overlap, and every owner is one of the shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeMap {
    /// The cluster this map is of: 32 hex digits, drawn when the cluster was made.
    pub cluster: String,
    /// Grows by one with every change of the map or of the index catalogue.
    pub epoch: u64,
    /// How keys become positions; fixed for the life of the cluster.
    pub hash_method: HashMethod,
    /// The shards, in the order of the config.
    pub shards: Vec<ShardInfo>,
    /// The ranges, in ring order.
    pub ranges: Vec<OwnedRange>,
}

/// What is wrong with a range map.
#[derive(Debug, Error, PartialEq, Eq)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum MapFault {
    #[error("the map has no ranges")]
    Empty,
    #[error("ranges meet at {expected}, but {shard} starts at {start}")]
    NotMeeting { shard: String, expected: u32, start: u32 },
    #[error("the range of {shard} ends at {end}, not after its start")]
    EmptyRange { shard: String, end: u32 },
    #[error("the last range ends at {end}, not at {RING_SIZE}")]
    NotCovering { end: u32 },
    #[error("a range belongs to {shard}, which is not a shard of the map")]
    UnknownShard { shard: String },
}

impl RangeMap {
    /// Checks the invariant of the type.
    ///
    /// # Errors
    /// The first fault, in ring order.
    pub fn check(&self) -> Result<(), MapFault> {
        let mut expected = 0;
        for owned in &self.ranges {
            let shard = || owned.shard.clone();
            if owned.start != expected {
                let start = owned.start;
                return Err(MapFault::NotMeeting { shard: shard(), expected, start });
            }
            if owned.end <= owned.start {
                return Err(MapFault::EmptyRange { shard: shard(), end: owned.end });
            }
            if self.shard(&owned.shard).is_none() {
                return Err(MapFault::UnknownShard { shard: shard() });
            }
            expected = owned.end;
        }
        match expected {
            0 => Err(MapFault::Empty),
            RING_SIZE => Ok(()),
            end => Err(MapFault::NotCovering { end }),
        }
    }

    /// The shard of that name.
    pub fn shard(&self, name: &str) -> Option<&ShardInfo> {
        self.shards.iter().find(|shard| shard.name == name)
    }

    /// The range that holds `position`: always one in a map that passed [`RangeMap::check`].
    pub fn owner(&self, position: Position) -> Option<&OwnedRange> {
        let after = self.ranges.partition_point(|owned| owned.start <= position.0);
        let owned = self.ranges.get(after.checked_sub(1)?)?;
        owned.range().contains(position).then_some(owned)
    }

    /// Gives a range to a shard. Ranges of one owner that meet become one.
    pub fn give(&mut self, range: Range, to: &str) {
        let mut pieces: Vec<OwnedRange> = Vec::new();
        for owned in &self.ranges {
            let inside = [range.start, range.end].into_iter();
            let cuts = inside.filter(|&at| owned.start < at && at < owned.end);
            let mut start = owned.start;
            for end in cuts.chain([owned.end]) {
                let is_given = range.start <= start && end <= range.end;
                let shard = if is_given { to } else { &owned.shard };
                match pieces.last_mut() {
                    Some(last) if last.shard == shard => last.end = end,
                    _ => pieces.push(OwnedRange { start, end, shard: shard.to_owned() }),
                }
                start = end;
            }
        }
        self.ranges = pieces;
    }

    /// The ranges that `shard` owns, in ring order.
    pub fn ranges_of(&self, shard: &str) -> Vec<Range> {
        self.ranges.iter().filter(|owned| owned.shard == shard).map(OwnedRange::range).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(ranges: &[(u32, u32, &str)]) -> RangeMap {
        let shard = |name: &str| ShardInfo {
            name: name.to_owned(),
            host: "127.0.0.1".to_owned(),
            port: 1,
            size: 1024,
            policy: Policy::Reject,
        };
        RangeMap {
            cluster: "c".to_owned(),
            epoch: 1,
            hash_method: HashMethod::Md5,
            shards: vec![shard("a"), shard("b")],
            ranges: ranges
                .iter()
                .map(|&(start, end, shard)| OwnedRange { start, end, shard: shard.to_owned() })
                .collect(),
        }
    }

    #[test]
    fn every_position_has_one_owner() {
        let map = map(&[(0, 5_000_000, "a"), (5_000_000, RING_SIZE, "b")]);
        assert_eq!(map.check(), Ok(()));
        for (position, owner) in [(0, "a"), (4_999_999, "a"), (5_000_000, "b"), (9_999_999, "b")] {
            assert_eq!(
                map.owner(Position(position)).map(|owned| owned.shard.as_str()),
                Some(owner)
            );
        }
        assert_eq!(map.owner(Position(RING_SIZE)), None);
    }

    #[test]
    fn a_range_is_given_whoever_owns_parts_of_it() {
        let given = |start, end, to| {
            let mut map = map(&[(0, 5, "a"), (5, 9, "b"), (9, RING_SIZE, "a")]);
            map.give(Range { start, end }, to);
            assert_eq!(map.check(), Ok(()));
            map.ranges.into_iter().map(|it| (it.start, it.end, it.shard)).collect::<Vec<_>>()
        };
        let owned = |start, end, shard: &str| (start, end, shard.to_owned());
        assert_eq!(
            given(2, 7, "b"),
            [owned(0, 2, "a"), owned(2, 9, "b"), owned(9, RING_SIZE, "a")]
        );
        assert_eq!(given(5, 9, "a"), [owned(0, RING_SIZE, "a")]);
        assert_eq!(given(0, RING_SIZE, "b"), [owned(0, RING_SIZE, "b")]);
        assert_eq!(
            given(10, 20, "b"),
            [
                owned(0, 5, "a"),
                owned(5, 9, "b"),
                owned(9, 10, "a"),
                owned(10, 20, "b"),
                owned(20, RING_SIZE, "a")
            ]
        );
    }

    #[test]
    fn gaps_overlaps_and_strangers_are_named() {
        assert_eq!(map(&[]).check(), Err(MapFault::Empty));
        let overlap = map(&[(0, 6, "a"), (5, RING_SIZE, "b")]).check();
        assert_eq!(
            overlap,
            Err(MapFault::NotMeeting { shard: "b".to_owned(), expected: 6, start: 5 })
        );
        assert_eq!(map(&[(0, 5, "a")]).check(), Err(MapFault::NotCovering { end: 5 }));
        assert_eq!(
            map(&[(0, RING_SIZE, "z")]).check(),
            Err(MapFault::UnknownShard { shard: "z".to_owned() })
        );
        assert_eq!(
            map(&[(0, 0, "a")]).check(),
            Err(MapFault::EmptyRange { shard: "a".to_owned(), end: 0 })
        );
    }
}
