//! The end of a move: the range is frozen at the source, the rest is brought, and both are compared.

use std::time::Duration;

use sherd_node::{blocking, hold_at};
use sherd_protocol::message::RangeSum;
use sherd_protocol::{Range, WireError};
use tokio::time::Instant;

use super::Pull;
use crate::operation::sums;
use crate::receiver::source::SourceClient;
use crate::receiver::unavailable;

/// How many pages of the log are read before the range is frozen, to be nearly up to date.
const PAGES_BEFORE_FREEZE: usize = 50;

/// For how long the source freezes the range at most. What is left then is short, and bootstrap has
/// the source give the range up at once.
const FREEZE_TIME: Duration = Duration::from_secs(5);

/// For how much of that the rest of the log is waited for. What is left of it is for the comparison, and
/// for bootstrap to persist the map.
const DRAIN_TIME: Duration = Duration::from_secs(2);

const _: () = assert!(DRAIN_TIME.as_millis() < FREEZE_TIME.as_millis());

impl Pull {
    /// Freezes the range at the source, brings the rest, and sees that both have the same. Where that
    /// fails, the source goes on with the range at once. Returns the LSN after which nothing changes.
    pub(super) async fn complete(
        &mut self,
        source: &SourceClient,
        id: &str,
    ) -> Result<u64, WireError> {
        let mut pages = 0;
        while !self.step(source, id).await? {
            pages += 1;
            if pages >= PAGES_BEFORE_FREEZE {
                return Err(unavailable(id, "the target is not up to date yet"));
            }
        }
        hold_at("target freezing").await;
        let frozen_at = source.freeze(id, FREEZE_TIME).await?;
        hold_at("target frozen").await;
        let brought = self.bring_rest(source, id, frozen_at).await;
        if brought.is_err() {
            _ = source.thaw(id).await;
        }
        brought.map(|()| frozen_at)
    }

    async fn bring_rest(
        &mut self,
        source: &SourceClient,
        id: &str,
        frozen_at: u64,
    ) -> Result<(), WireError> {
        let until = Instant::now() + DRAIN_TIME;
        while self.note(source).await?.tail.lsn <= frozen_at {
            if Instant::now() > until {
                return Err(unavailable(id, "the target could not keep up with the source"));
            }
            self.step(source, id).await?;
        }
        // Also where nothing was brought: versions go on from there.
        let note = self.note(source).await?.clone();
        if !note.copied {
            return Err(unavailable(id, "the range is read anew: the source's log went on"));
        }
        self.import(id, Vec::new(), None, note).await?;
        hold_at("target brought").await;
        let theirs = source.sums(id, frozen_at).await?;
        let ours = self.sums(source.range).await?;
        hold_at("target compared").await;
        let Some((index, what)) = difference(&theirs, &ours) else { return Ok(()) };
        let is_here = self.engine.stat().indexes.iter().any(|known| known.id == index);
        if !is_here || !source.indexes().await?.contains(&index) {
            return Err(unavailable(id, "an index is being created or dropped"));
        }
        Err(WireError::Mismatch { id: id.to_owned(), what })
    }

    async fn sums(&self, range: Range) -> Result<Vec<RangeSum>, WireError> {
        let engine = self.engine.clone();
        let counted = blocking(move || sums(&engine, &[range])).await;
        counted.map_err(|error| WireError::Internal { what: error.to_string() })?
    }
}

/// In which index the documents of source and target differ, and how, if they do.
fn difference(source: &[RangeSum], target: &[RangeSum]) -> Option<(u32, String)> {
    if source == target {
        return None;
    }
    let of = |sums: &[RangeSum], index: u32| {
        let found = sums.iter().find(|sum| sum.index == index);
        found.map_or((0, 0, None), |sum| (sum.documents, sum.bytes, Some(sum.digest)))
    };
    let indexes = source.iter().chain(target).map(|sum| sum.index);
    let differs = |&index: &u32| of(source, index) != of(target, index);
    let index = indexes.filter(differs).min()?;
    let ((documents, bytes, _), (ours, our_bytes, _)) = (of(source, index), of(target, index));
    let what = format!(
        "of the index with the id {index} the source has {documents} documents of {bytes} bytes, the \
         target {ours} of {our_bytes}, or others"
    );
    Some((index, what))
}

#[cfg(test)]
mod tests {
    use sherd_protocol::Digest;

    use super::*;

    #[test]
    fn the_first_index_that_differs_is_named_with_how() {
        let sum = |index, documents, bytes, digest| RangeSum {
            index,
            documents,
            bytes,
            digest: Digest(digest),
        };
        let (one, two) = (sum(1, 2, 20, 7), sum(2, 1, 10, 9));
        assert_eq!(difference(&[one, two], &[one, two]), None);
        assert_eq!(difference(&[], &[]), None);
        // The digest alone, one less, one that only one of them has.
        for (target, index) in [
            (&[sum(1, 2, 20, 8), sum(2, 1, 10, 8)][..], 1),
            (&[one, sum(2, 2, 10, 9)], 2),
            (&[one], 2),
            (&[two], 1),
            (&[one, two, sum(3, 1, 1, 1)], 3),
        ] {
            let (found, what) = difference(&[one, two], target).unwrap();
            assert_eq!(found, index, "{target:?}");
            assert!(what.contains(&format!("the id {index} ")), "{what}");
        }
        let (_, what) = difference(&[one, two], &[one]).unwrap();
        assert!(what.contains("1 documents of 10 bytes, the target 0 of 0"), "{what}");
    }
}
