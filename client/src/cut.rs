//! Cuts of all shards at once, and what is in them: what a backup is made of.

use bytes::Bytes;
use sherd_protocol::message::{
    BeginCut, Cut, CutOperation, Digests, EndCut, FetchPiece, Index, KeepLog, SegmentSum,
    ShardOperation, SumSegment,
};
use sherd_protocol::{Digest, RangeMap};

use crate::call::{Call, HELP_TIME, Target, unexpected};
use crate::client::Client;
use crate::contents::unsettled;
use crate::error::Error;
use crate::join::join_all;
use crate::reply::ShardReply;
use crate::retry::Attempts;

/// The whole cluster, each shard as of one LSN, all under one epoch: every document is in it once.
#[derive(Clone, Debug)]
pub struct ClusterCut {
    /// The map of that epoch.
    pub map: RangeMap,
    /// The catalogue of that epoch.
    pub indexes: Vec<Index>,
    /// The cut of each shard of the map, in its order, with the shard's name.
    pub shards: Vec<(String, Cut)>,
}

impl Client {
    /// Takes a cut of every shard; `keep_log` as in [`BeginCut`]. Everything that was acknowledged before the call is in it, and nothing
    /// that begins after it. While a range is handed over, or the catalogue changes, it is tried again.
    ///
    /// # Errors
    /// When a shard or bootstrap does not answer, and [`Error::Unsettled`], as the last reason of a call
    /// given up, where there is no moment of one epoch until the deadline.
    pub async fn cut(&self, keep_log: Option<u64>) -> Result<ClusterCut, Error> {
        let call = self.call_of("taking a cut of all shards", "", "", false);
        let mut attempts = Attempts::until(call.deadline);
        loop {
            let what = match self.cut_once(&call, keep_log).await {
                Ok(Ok(cut)) => return Ok(cut),
                Ok(Err(what)) => what,
                // It left the cluster just now.
                Err(error @ Error::NoSuchShard { .. }) => error.to_string(),
                Err(error) => return Err(error),
            };
            let goes_on = attempts.again(Error::Unsettled { what }).await;
            goes_on.map_err(|last| call.given_up(attempts.failed, last))?;
            self.cache.refresh_if_possible(HELP_TIME).await;
        }
    }

    /// A cut, or why what was cut is not of one epoch.
    async fn cut_once(
        &self,
        all: &Call<'_>,
        keep_log: Option<u64>,
    ) -> Result<Result<ClusterCut, String>, Error> {
        let map = self.map().await?;
        let indexes = self.indexes().await?;
        let asked = map.shards.iter().map(async |shard| {
            let call = Call { operation: "cut", key: &shard.name, ..*all };
            let operation = CutOperation::Begin(BeginCut { keep_log });
            match self.ask_for_cut(&call, &shard.name, operation).await? {
                ShardReply::Cut(cut) => Ok((shard.name.clone(), *cut)),
                other => Err(unexpected(format!("shard {}", shard.name), &other)),
            }
        });
        let cuts: Vec<_> = join_all(asked).await;
        let taken = cuts.iter().filter_map(|cut| cut.as_ref().ok());
        let owned = taken.map(|(_, cut)| Digests {
            epoch: cut.epoch,
            ranges: cut.ranges.clone(),
            sums: Vec::new(),
        });
        let owned: Vec<_> = owned.collect();
        let after = self.map().await;
        let what = match &after {
            _ if owned.len() < cuts.len() => None,
            // The catalogue as well is of this epoch: each change of it takes one.
            Ok(after) if after.epoch != map.epoch => {
                Some(format!("the map went from epoch {} to {}", map.epoch, after.epoch))
            }
            Ok(_) => unsettled(&owned).or_else(|| {
                let cut = owned.first().map_or(map.epoch, |cut| cut.epoch);
                (cut != map.epoch)
                    .then(|| format!("the shards are at epoch {cut}, the map at {}", map.epoch))
            }),
            Err(_) => None,
        };
        if what.is_none() && after.is_ok() && owned.len() == cuts.len() {
            let shards = cuts.into_iter().collect::<Result<Vec<_>, _>>()?;
            return Ok(Ok(ClusterCut { map, indexes, shards }));
        }
        let mut failure = after.err();
        for cut in cuts {
            match cut {
                // Whether it is let go now or in a minute makes little difference.
                Ok((shard, cut)) => _ = self.end_cut(&shard, cut.id).await,
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        match (what, failure) {
            (_, Some(error)) => Err(error),
            (what, None) => Ok(Err(what.unwrap_or_default())),
        }
    }

    /// Some bytes of a segment of a shard's cut, from an offset on; none at its end. The cut is held on.
    ///
    /// # Errors
    /// When the shard does not answer, or does not hold the cut any more.
    pub async fn fetch_piece(&self, shard: &str, piece: FetchPiece) -> Result<Bytes, Error> {
        let call = self.call_of("reading a cut", "", shard, false);
        match self.ask_for_cut(&call, shard, CutOperation::Fetch(piece)).await? {
            ShardReply::Piece(bytes) => Ok(bytes),
            other => Err(unexpected(format!("shard {shard}"), &other)),
        }
    }

    /// The XXH3 of 128 bits of a segment of a shard's cut.
    ///
    /// # Errors
    /// As [`Client::fetch_piece`].
    pub async fn sum_segment(&self, shard: &str, id: u64, segment: u32) -> Result<Digest, Error> {
        let call = self.call_of("summing up a segment of a cut", "", shard, false);
        let operation = CutOperation::Sum(SumSegment { id, segment });
        match self.ask_for_cut(&call, shard, operation).await? {
            ShardReply::SegmentSum(SegmentSum { sum }) => Ok(sum),
            other => Err(unexpected(format!("shard {shard}"), &other)),
        }
    }

    /// Has a shard keep its log after an LSN, and nothing before it, as long as that takes no more bytes;
    /// 0 for nothing.
    ///
    /// # Errors
    /// When the shard does not answer.
    pub async fn keep_log(&self, shard: &str, keep: KeepLog) -> Result<(), Error> {
        let call = self.call_of("keeping the log", "", shard, false);
        match self.ask_for_cut(&call, shard, CutOperation::KeepLog(keep)).await? {
            ShardReply::Done => Ok(()),
            other => Err(unexpected(format!("shard {shard}"), &other)),
        }
    }

    /// Lets go of a shard's cut.
    ///
    /// # Errors
    /// When the shard does not answer; it lets go by itself after a minute.
    pub async fn end_cut(&self, shard: &str, id: u64) -> Result<(), Error> {
        let call = self.call_of("letting go of a cut", "", shard, false);
        let operation = CutOperation::End(EndCut { id });
        match self.ask_for_cut(&call, shard, operation).await? {
            ShardReply::Done => Ok(()),
            other => Err(unexpected(format!("shard {shard}"), &other)),
        }
    }

    async fn ask_for_cut(
        &self,
        call: &Call<'_>,
        shard: &str,
        operation: CutOperation,
    ) -> Result<ShardReply, Error> {
        let target = Target::Shard(shard);
        self.cache.ask_shard(call, target, |_| ShardOperation::Cut(operation)).await
    }
}
