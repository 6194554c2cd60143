//! What bounds a shard and an index: limits, what happens at them, and times to live.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::range_map::Range;
use crate::ring::RING_SIZE;

/// The least limit in bytes that is worth one: below, hardly any key with a document has room, and what
/// was meant has another unit.
pub const MIN_LIMIT_BYTES: u64 = 256;

/// The highest limit in bytes: an exbibyte, more than any disk has.
pub const MAX_LIMIT_BYTES: u64 = 1 << 60;

const _: () = assert!(MIN_LIMIT_BYTES < MAX_LIMIT_BYTES);

/// What becomes of a write for which there is no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// It is refused.
    #[default]
    Reject,
    /// The documents that were not read or written for the longest time are evicted.
    Lru,
    /// The documents that are read and written least often are evicted.
    Lfu,
    /// The documents whose last write is the longest ago are evicted.
    Fifo,
    /// Documents are evicted at random.
    Random,
    /// The documents that expire soonest are evicted; those that never expire are not.
    Ttl,
}

impl Policy {
    /// All there are, in the order in which they are listed to people.
    pub const ALL: [Self; 6] =
        [Self::Reject, Self::Lru, Self::Lfu, Self::Fifo, Self::Random, Self::Ttl];

    /// The name, as on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::Lru => "lru",
            Self::Lfu => "lfu",
            Self::Fifo => "fifo",
            Self::Random => "random",
            Self::Ttl => "ttl",
        }
    }

    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|policy| policy.name() == text);
        found.ok_or_else(|| {
            format!("{text:?} is no policy: use {}", Self::ALL.map(Self::name).join(", "))
        })
    }
}

/// When a document expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expiry {
    /// After the time to live of its index; never where that has none.
    #[default]
    Default,
    /// Never.
    Never,
    /// So many milliseconds after the shard executes the request, at least 1.
    After(u64),
    /// At that time, in milliseconds since 1970, at least 1.
    At(u64),
}

impl Expiry {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::Default
    }

    /// Checks that the time is one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(self) -> Result<(), &'static str> {
        match self {
            Self::After(0) | Self::At(0) => Err("a time is at least 1 ms"),
            _ => Ok(()),
        }
    }
}

/// The settings of an index: in the catalogue those of the whole, at a shard that shard's share.
/// What is `None` is left out on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct IndexSettings {
    /// The limit on the bytes of keys and documents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// The limit on the number of documents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_documents: Option<u64>,
    /// What becomes of a write for which there is no room; `None` for what the shard does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// How long a document lives that is written with [`Expiry::Default`], in milliseconds; `None`
    /// for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u64>,
}

impl IndexSettings {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The part of the settings that a shard with these ranges gets: of each limit as much as the
    /// ranges have of the ring. The parts of all shards come to the limit exactly.
    #[must_use]
    pub fn share(&self, ranges: &[Range]) -> Self {
        let of_ranges = |limit| share(limit, ranges);
        Self {
            max_bytes: self.max_bytes.map(of_ranges),
            max_documents: self.max_documents.map(of_ranges),
            ..*self
        }
    }

    /// Whether a limit is lower than before, or there was none.
    pub fn is_lower_than(&self, before: &Self) -> bool {
        let lower = |now: Option<u64>, before: Option<u64>| {
            now.is_some_and(|now| before.is_none_or(|before| now < before))
        };
        lower(self.max_bytes, before.max_bytes) || lower(self.max_documents, before.max_documents)
    }
}

/// The part of a limit that ranges have. Up to each position of the ring there is a part rounded
/// down, and a range has the difference between its ends: so parts that meet add up.
fn share(limit: u64, ranges: &[Range]) -> u64 {
    let up_to = |position: u32| {
        let part = u128::from(limit) * u128::from(position) / u128::from(RING_SIZE);
        u64::try_from(part).unwrap_or(limit)
    };
    ranges.iter().map(|range| up_to(range.end).saturating_sub(up_to(range.start))).sum()
}

/// A change of one setting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change<T> {
    /// It stays as it is.
    #[default]
    Keep,
    /// There is none from now on.
    Unset,
    /// It is this one from now on.
    Set(T),
}

impl<T: Copy> Change<T> {
    fn is_keep(&self) -> bool {
        matches!(self, Self::Keep)
    }

    fn apply(self, to: &mut Option<T>) {
        match self {
            Self::Keep => {}
            Self::Unset => *to = None,
            Self::Set(value) => *to = Some(value),
        }
    }
}

/// A change of an index's settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "as in the settings")]
pub struct SettingsChange {
    #[serde(skip_serializing_if = "Change::is_keep")]
    pub max_bytes: Change<u64>,
    #[serde(skip_serializing_if = "Change::is_keep")]
    pub max_documents: Change<u64>,
    #[serde(skip_serializing_if = "Change::is_keep")]
    pub policy: Change<Policy>,
    #[serde(skip_serializing_if = "Change::is_keep")]
    pub ttl: Change<u64>,
}

impl SettingsChange {
    /// The settings after the change.
    #[must_use]
    pub fn apply(&self, settings: IndexSettings) -> IndexSettings {
        let mut changed = settings;
        self.max_bytes.apply(&mut changed.max_bytes);
        self.max_documents.apply(&mut changed.max_documents);
        self.policy.apply(&mut changed.policy);
        self.ttl.apply(&mut changed.ttl);
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_come_to_the_limit_whatever_the_ranges() {
        let cuts = [0, 1, 3_333_333, 5_000_000, 5_000_001, 9_999_999, RING_SIZE];
        for limit in [0, 1, 2, 7, 1000, 64 << 20, u64::MAX / 3, u64::MAX] {
            let of_one: u128 = cuts
                .windows(2)
                .map(|ends| u128::from(share(limit, &[Range { start: ends[0], end: ends[1] }])))
                .sum();
            assert_eq!(of_one, u128::from(limit));
            let (even, odd): (Vec<_>, Vec<_>) = cuts
                .windows(2)
                .map(|ends| Range { start: ends[0], end: ends[1] })
                .enumerate()
                .partition(|(i, _)| i % 2 == 0);
            let ranges = |of: Vec<(usize, Range)>| of.into_iter().map(|(_, range)| range).collect();
            let (even, odd): (Vec<_>, Vec<_>) = (ranges(even), ranges(odd));
            assert_eq!(share(limit, &even) + share(limit, &odd), limit);
        }
        let quarter = Range { start: 0, end: RING_SIZE / 4 };
        assert_eq!(share(1000, &[quarter]), 250);
    }

    #[test]
    fn names_come_back() {
        for policy in Policy::ALL {
            assert_eq!(policy.name().parse(), Ok(policy));
            assert_eq!(rmp_serde::to_vec(&policy).unwrap()[1..], *policy.name().as_bytes());
        }
        let error = "LRU".parse::<Policy>().unwrap_err();
        assert_eq!(error, "\"LRU\" is no policy: use reject, lru, lfu, fifo, random, ttl");
    }

    #[test]
    fn a_change_leaves_what_it_does_not_name() {
        let before = IndexSettings { max_bytes: Some(1), ttl: Some(5), ..Default::default() };
        let change = SettingsChange {
            max_documents: Change::Set(3),
            ttl: Change::Unset,
            ..SettingsChange::default()
        };
        let after = change.apply(before);
        let expected =
            IndexSettings { max_bytes: Some(1), max_documents: Some(3), ..Default::default() };
        assert_eq!(after, expected);
        assert!(after.is_lower_than(&before) && !before.is_lower_than(&before));
    }
}
