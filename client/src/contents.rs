//! What the whole cluster holds, counted and digested.
//!
//! Each shard answers for what it owns, and under which epoch. Of one epoch a position has one owner,
//! so answers of one epoch whose ranges are the whole ring count every document once: also while a
//! range moves and two shards have its documents. Otherwise all are asked again.

use std::collections::BTreeMap;

use sherd_protocol::message::{Digests, RangeSum, ShardOperation};
use sherd_protocol::ring::RING_SIZE;
use sherd_protocol::{Digest, Range};

use crate::call::{Call, HELP_TIME, Target, unexpected};
use crate::client::Client;
use crate::error::Error;
use crate::join::join_all;
use crate::reply::ShardReply;
use crate::retry::Attempts;

/// What the documents of an index come to, on all shards together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// How many there are.
    pub documents: u64,
    /// The bytes of their keys and documents.
    pub bytes: u64,
    /// The sum of their content hashes.
    pub digest: Digest,
}

impl Contents {
    /// Of both together.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self {
            documents: self.documents.saturating_add(other.documents),
            bytes: self.bytes.saturating_add(other.bytes),
            digest: [self.digest, other.digest].into_iter().sum(),
        }
    }
}

impl Client {
    /// What each index of the cluster has, by name: the same wherever the documents lie, and while they
    /// move. What is written meanwhile is in it or not; a document that has expired counts until it is
    /// removed.
    ///
    /// # Errors
    /// When a shard or bootstrap does not answer, and [`Error::Unsettled`], as the last reason of a call
    /// given up, where a hand-over takes longer than the deadline.
    pub async fn contents(&self) -> Result<BTreeMap<String, Contents>, Error> {
        let call = self.call_of("summing up all documents", "", "", false);
        let mut attempts = Attempts::until(call.deadline);
        let by_id = loop {
            let what = match self.digests(&call).await {
                Ok(digests) => match unsettled(&digests) {
                    None => break total(digests),
                    Some(what) => what,
                },
                // It left the cluster just now.
                Err(error @ Error::NoSuchShard { .. }) => error.to_string(),
                Err(error) => return Err(error),
            };
            let goes_on = attempts.again(Error::Unsettled { what }).await;
            goes_on.map_err(|last| call.given_up(attempts.failed, last))?;
            self.cache.refresh_if_possible(HELP_TIME).await;
        };
        // Of an index that was dropped since, what is left counts for nothing.
        let indexes = self.indexes().await?.into_iter();
        let contents = |id| by_id.get(&id).copied().unwrap_or_default();
        Ok(indexes.map(|index| (index.name, contents(index.id))).collect())
    }

    /// What each shard of the map owns.
    async fn digests(&self, all: &Call<'_>) -> Result<Vec<Digests>, Error> {
        let topology = self.cache.known();
        let asked = topology.map.shards.iter().map(async |shard| {
            let call = Call { operation: "digests", key: &shard.name, ..*all };
            let target = Target::Shard(&shard.name);
            match self.cache.ask_shard(&call, target, |_| ShardOperation::Digests).await? {
                ShardReply::Digests(digests) => Ok(*digests),
                other => Err(unexpected(format!("shard {}", shard.name), &other)),
            }
        });
        join_all(asked).await.into_iter().collect()
    }
}

/// Why answers do not count every document once, if they do not.
pub(crate) fn unsettled(digests: &[Digests]) -> Option<String> {
    let epochs = || digests.iter().map(|of_shard| of_shard.epoch);
    let (oldest, newest) = (epochs().min(), epochs().max());
    if let (Some(oldest), Some(newest)) = (oldest, newest)
        && oldest != newest
    {
        return Some(format!("one shard is at epoch {oldest}, another at {newest}"));
    }
    let mut ranges: Vec<_> = digests.iter().flat_map(|of_shard| &of_shard.ranges).collect();
    ranges.sort_unstable();
    let mut end = 0;
    for range in ranges {
        if range.start != end {
            let (start, end) = (end.min(range.start), end.max(range.start));
            return Some(format!("{} has no owner, or two", Range { start, end }));
        }
        end = range.end;
    }
    let rest = Range { start: end, end: RING_SIZE };
    (end != RING_SIZE).then(|| format!("{rest} has no owner"))
}

/// What all shards have together, by the index's id.
fn total(digests: Vec<Digests>) -> BTreeMap<u32, Contents> {
    let mut all: BTreeMap<u32, Contents> = BTreeMap::new();
    for RangeSum { index, documents, bytes, digest } in
        digests.into_iter().flat_map(|of_shard| of_shard.sums)
    {
        let sum = all.entry(index).or_default();
        *sum = sum.with(Contents { documents, bytes, digest });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_of_one_epoch_for_the_whole_ring_are_added_up() {
        let owning = |epoch, ranges: &[(u32, u32)]| {
            let ranges = ranges.iter().map(|&(start, end)| Range { start, end }).collect();
            Digests { epoch, ranges, sums: Vec::new() }
        };
        let (half, end) = (RING_SIZE / 2, RING_SIZE);
        let whole = [owning(3, &[(half, end)]), owning(3, &[]), owning(3, &[(0, half)])];
        assert_eq!(unsettled(&whole), None);
        for (what, digests) in [
            // The map names the target already, and the source has not given the range up.
            ("epoch 3, another at 4", vec![owning(3, &[(0, end)]), owning(4, &[])]),
            ("[0.5, 1) has no owner", vec![owning(3, &[(0, half)]), owning(3, &[])]),
            ("[0, 0.5) has no owner", vec![owning(3, &[(half, end)])]),
            (
                "[0.5, 1) has no owner, or two",
                vec![owning(3, &[(0, end)]), owning(3, &[(half, end)])],
            ),
            ("[0, 1) has no owner", vec![]),
        ] {
            let said = unsettled(&digests).unwrap_or_default();
            assert!(said.contains(what), "{said:?} and not {what:?}");
        }
    }
}
