//! Batches over several shards.
//!
//! A batch is cut by shard, and each shard's part into requests that fit a frame. The shards work
//! at the same time; the requests to one shard follow each other, and none holds a key twice, so
//! that changes of one key happen in the order in which the caller listed them, retries included.
//!
//! Otherwise they are in ring order: neighbours lie together in the shard's index, and will in its log.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use sherd_protocol::message::{self, Condition, MAX_BATCH_MUTATIONS, ShardOperation};
use sherd_protocol::{Expiry, OwnedRange, Position, WireError, document, name};

use crate::call::{Call, Remedy, ask_once, unexpected};
use crate::client::{Client, check_expiry};
use crate::error::Error;
use crate::join::join_all;
use crate::reply::ShardReply;
use crate::retry::{Attempts, Deadline};
use crate::topology::Topology;

/// The bytes after which a request is full: enough to make the round trip cheap, and small against
/// a node's budgets and the time that it has the sequencer.
const REQUEST_BYTES: usize = 1 << 20;

/// The changes after which a request is full, for the same reasons.
const REQUEST_CHANGES: usize = 4096;

const _: () = assert!(REQUEST_CHANGES <= MAX_BATCH_MUTATIONS);

/// What a change takes in a request beside names and document, at most.
const CHANGE_OVERHEAD_BYTES: usize = 64;

/// One change of a batch. Those of one batch may share the name of their index.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "as the methods of the same names")]
pub enum Mutation {
    Write { index: Arc<str>, key: String, document: Bytes, condition: Condition, expiry: Expiry },
    Remove { index: Arc<str>, key: String, version: Option<u64> },
}

/// What became of one change of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Stored, with its new version.
    Written(u64),
    /// Removed; the version is the removal's.
    Removed(u64),
    /// There was nothing to remove.
    Missing,
    /// The condition does not hold; the version there is, if any.
    ConditionFailed(Option<u64>),
    /// Not done because another change of the atomic batch was not.
    Abandoned,
}

impl Mutation {
    /// The index.
    pub fn index(&self) -> &str {
        match self {
            Self::Write { index, .. } | Self::Remove { index, .. } => index,
        }
    }

    /// The key.
    pub fn key(&self) -> &str {
        match self {
            Self::Write { key, .. } | Self::Remove { key, .. } => key,
        }
    }

    fn operation(&self) -> &'static str {
        match self {
            Self::Write { .. } => "write",
            Self::Remove { .. } => "remove",
        }
    }

    /// The part of a batch's call that is this change.
    fn call<'a>(&'a self, of_batch: Call<'a>) -> Call<'a> {
        Call { operation: self.operation(), index: self.index(), key: self.key(), ..of_batch }
    }

    fn bytes(&self) -> usize {
        let document = match self {
            Self::Write { document, .. } => document.len(),
            Self::Remove { .. } => 0,
        };
        CHANGE_OVERHEAD_BYTES + self.index().len() + self.key().len() + document
    }

    fn check(&self) -> Result<(), Error> {
        name::check_index(self.index())?;
        name::check_key(self.key())?;
        if let Self::Write { document, expiry, .. } = self {
            document::check(document)?;
            check_expiry(*expiry)?;
        }
        Ok(())
    }

    fn borrowed(&self) -> message::Mutation<'_> {
        match self {
            Self::Write { index, key, document, condition, expiry } => {
                message::Mutation::Write(message::Write {
                    index,
                    key,
                    document,
                    condition: *condition,
                    expiry: *expiry,
                })
            }
            Self::Remove { index, key, version } => {
                message::Mutation::Remove(message::Remove { index, key, version: *version })
            }
        }
    }
}

impl Client {
    /// Executes changes on all shards concerned; the results are in the order of the changes. Each
    /// change stands for itself: those that are refused, invalid or of unknown outcome are
    /// reported in their place and stop no other. Changes of one key happen in their order.
    ///
    /// The deadline is for the time without any progress.
    pub async fn batch(&self, mutations: &[Mutation]) -> Vec<Result<Outcome, Error>> {
        let mut results = Results::new(mutations);
        for (place, mutation) in mutations.iter().enumerate() {
            if let Err(error) = mutation.check() {
                results.settle(place, Err(Box::new(error)));
            }
        }
        let mut attempts = Attempts::until(Deadline::after(self.deadline));
        loop {
            let unsettled = results.unsettled();
            if unsettled.is_empty() {
                return results.finish();
            }
            let topology = self.cache.known();
            let parts = self.by_shard(&topology, mutations, &unsettled);
            let rounds = parts
                .iter()
                .map(|(shard, places)| self.shard_round(&topology, shard, mutations, places));
            let mut repeat = None;
            for round in join_all(rounds).await {
                for (place, result) in round.settled {
                    results.settle(place, result);
                }
                repeat = repeat.or(round.repeat);
            }
            let left = results.unsettled();
            if left.len() < unsettled.len() {
                attempts = Attempts::until(Deadline::after(self.deadline));
            }
            if let Some((error, remedy)) = repeat {
                let goes_on = match remedy {
                    Remedy::AtOnce => attempts.at_once(error),
                    _ => attempts.again(error).await,
                };
                if let Err(last) = goes_on {
                    let call = self.call_of("batch", "", "", true);
                    results.fail(&left, &call.given_up(attempts.failed, last));
                }
            }
        }
    }

    /// Executes changes all or none, also across a crash; nobody sees a part of them. All keys must
    /// be on one shard. When one change fails, the result is its failure in its place, and
    /// [`Outcome::Abandoned`] in the others'.
    ///
    /// # Errors
    /// [`Error::NotOneShard`] and invalid changes, before anything is sent; [`Error::TooLarge`] for
    /// more than a frame holds; [`Error::OutcomeUnknown`] for the batch as a whole.
    pub async fn atomic_batch(
        &self,
        mutations: &[Mutation],
    ) -> Result<Vec<Result<Outcome, Error>>, Error> {
        mutations.iter().try_for_each(Mutation::check)?;
        if mutations.len() > MAX_BATCH_MUTATIONS {
            let (count, limit) = (mutations.len(), MAX_BATCH_MUTATIONS);
            return Err(Error::TooManyChanges { count, limit });
        }
        let Some(first) = mutations.first() else { return Ok(Vec::new()) };
        let call = self.call_of("atomic batch", first.index(), first.key(), true);
        let mut attempts = Attempts::until(call.deadline);
        let places: Vec<_> = (0..mutations.len()).collect();
        loop {
            let topology = self.cache.known();
            let parts = self.by_shard(&topology, mutations, &places);
            let mut shards = parts.iter();
            if let (Some((shard, one)), Some((other_shard, other))) = (shards.next(), shards.next())
            {
                let key = |places: &[Place]| mutations[places[0].number].key().to_owned();
                return Err(Error::NotOneShard {
                    key: key(one),
                    shard: (*shard).to_owned(),
                    other_key: key(other),
                    other_shard: (*other_shard).to_owned(),
                });
            }
            let shard = parts.keys().next().copied().unwrap_or_default();
            let request = Request { call, shard, mutations, places: &places, atomic: true };
            let (error, remedy) = match self.request(&topology, request).await {
                Ok((settled, None)) => {
                    return Ok(settled.into_iter().map(|(_, result)| unboxed(result)).collect());
                }
                Ok((_, Some(repeat))) => repeat,
                Err((error, Remedy::Nothing)) => return Err(call.failed(error)),
                Err(repeat) => repeat,
            };
            let goes_on = match remedy {
                Remedy::AtOnce => attempts.at_once(error),
                _ => attempts.again(error).await,
            };
            goes_on.map_err(|last| call.given_up(attempts.failed, last))?;
        }
    }

    /// The places of each shard, in the order in which they are sent.
    fn by_shard<'t>(
        &self,
        topology: &'t Topology,
        mutations: &[Mutation],
        places: &[usize],
    ) -> BTreeMap<&'t str, Vec<Place>> {
        let placed = places.iter().map(|&number| {
            let position = topology.map.hash_method.position(mutations[number].key());
            Place { turn: 0, position, number }
        });
        let mut placed: Vec<_> = placed.collect();
        placed.sort_unstable();
        let is_repeated = number_turns(&mut placed, mutations);
        let mut parts: BTreeMap<_, Vec<Place>> = BTreeMap::new();
        let mut rest = placed.as_slice();
        while let Some(first) = rest.first() {
            // A checked map has an owner for every position.
            let owned = topology.owner(first.position).map(|(owned, _)| owned);
            let end = |owned: &OwnedRange| rest.partition_point(|it| it.position.0 < owned.end);
            let (here, later) = rest.split_at(owned.map_or(rest.len(), end).max(1));
            let shard = owned.map_or("", |owned| owned.shard.as_str());
            parts.entry(shard).or_default().extend_from_slice(here);
            rest = later;
        }
        if is_repeated {
            parts.values_mut().for_each(|places| places.sort_unstable());
        }
        parts
    }

    /// Sends one shard its part, request after request, until something must be repeated: then the
    /// rest waits too, so that no later change of a key overtakes an earlier one.
    async fn shard_round(
        &self,
        topology: &Topology,
        shard: &str,
        mutations: &[Mutation],
        places: &[Place],
    ) -> Round {
        let mut round = Round::default();
        let mut rest = places;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(request_length(mutations, rest));
            rest = later;
            let call = self.call_of("batch", "", "", true);
            let now: Vec<_> = now.iter().map(|place| place.number).collect();
            let request = Request { call, shard, mutations, places: &now, atomic: false };
            match self.request(topology, request).await {
                Ok((settled, repeat)) => {
                    round.settled.extend(settled);
                    round.repeat = repeat;
                }
                Err((error, Remedy::Nothing)) => {
                    let failed = now.iter().map(|&place| {
                        (place, Err(Box::new(mutations[place].call(call).failed(error.clone()))))
                    });
                    round.settled.extend(failed);
                }
                Err(repeat) => round.repeat = Some(repeat),
            }
            if round.repeat.is_some() {
                break;
            }
        }
        round
    }

    /// Sends one request: what of it is settled, and why something is to be repeated. The error is
    /// of the request as a whole.
    async fn request(
        &self,
        topology: &Topology,
        request: Request<'_>,
    ) -> Result<(Settled, Option<(Error, Remedy)>), (Error, Remedy)> {
        let Request { call, shard, mutations, places, atomic } = request;
        let epoch = topology.map.epoch;
        let missing = || Error::NoSuchShard { shard: shard.to_owned() };
        let peer = topology.shard(shard).ok_or_else(|| (missing(), Remedy::Nothing))?;
        let batch = message::Batch {
            mutations: places.iter().map(|&place| mutations[place].borrowed()).collect(),
            atomic,
        };
        let asked = ask_once(peer, &ShardOperation::Batch(batch), call.deadline.at).await;
        let outcomes = match asked {
            Ok(ShardReply::Batch(outcomes)) if outcomes.len() == places.len() => outcomes,
            Ok(reply) => return Err((unexpected(peer.node(), &reply), Remedy::Nothing)),
            Err(error) => return Err(self.cache.remedy(&call, epoch, error).await),
        };
        let (mut settled, mut repeat) = (Vec::with_capacity(places.len()), None);
        // Whether bootstrap has an index is asked once, however many changes name it.
        let mut awaited_indexes = HashMap::new();
        for (&place, outcome) in places.iter().zip(outcomes) {
            let refusal = match outcome_of(outcome) {
                Ok(outcome) => {
                    settled.push((place, Ok(outcome)));
                    continue;
                }
                Err(refusal) => refusal,
            };
            let index = match &refusal {
                WireError::IndexNotFound { index } => Some(index.clone()),
                _ => None,
            };
            let known = match &index {
                Some(index) => awaited_indexes.get(index).copied(),
                // The remedy for the first one is a remedy for all.
                None => (repeat.is_some() && refusal.is_retryable()).then_some(true),
            };
            let mut error = Error::Refused { node: peer.node(), error: refusal };
            let mut is_repeated = known == Some(true);
            if known.is_none() {
                let remedy;
                (error, remedy) = self.cache.remedy(&call, epoch, error).await;
                is_repeated = remedy != Remedy::Nothing;
                awaited_indexes.extend(index.map(|index| (index, is_repeated)));
                if is_repeated && repeat.is_none() {
                    repeat = Some((error.clone(), remedy));
                }
            }
            if !is_repeated {
                settled.push((place, Err(Box::new(mutations[place].call(call).failed(error)))));
            }
        }
        Ok((settled, repeat))
    }
}

/// A mutation of a batch, in the order in which they are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// How many changes of its key come before it.
    turn: usize,
    position: Position,
    /// Which of the mutations it is.
    number: usize,
}

/// A request to one shard.
struct Request<'a> {
    call: Call<'a>,
    shard: &'a str,
    mutations: &'a [Mutation],
    /// Which of the mutations.
    places: &'a [usize],
    atomic: bool,
}

/// What became of a change; with its error in a box, for there are thousands of these and hardly any errors.
type Settlement = Result<Outcome, Box<Error>>;

type Settled = Vec<(usize, Settlement)>;

/// What came of sending a shard its part.
#[derive(Default)]
struct Round {
    settled: Settled,
    /// Why the rest is to be sent again, and when.
    repeat: Option<(Error, Remedy)>,
}

/// The results so far, by place.
struct Results {
    results: Vec<Option<Settlement>>,
}

impl Results {
    fn new(mutations: &[Mutation]) -> Self {
        Self { results: vec![None; mutations.len()] }
    }

    fn settle(&mut self, place: usize, result: Settlement) {
        self.results[place] = Some(result);
    }

    fn fail(&mut self, places: &[usize], error: &Error) {
        for &place in places {
            self.settle(place, Err(Box::new(error.clone())));
        }
    }

    fn unsettled(&self) -> Vec<usize> {
        (0..self.results.len()).filter(|&place| self.results[place].is_none()).collect()
    }

    fn finish(self) -> Vec<Result<Outcome, Error>> {
        self.results.into_iter().flatten().map(unboxed).collect()
    }
}

fn unboxed(settlement: Settlement) -> Result<Outcome, Error> {
    settlement.map_err(|error| *error)
}

/// Numbers the changes of each key, which are in ring order; whether any key has several.
fn number_turns(places: &mut [Place], mutations: &[Mutation]) -> bool {
    let name = |place: &Place| (mutations[place.number].index(), mutations[place.number].key());
    let mut is_repeated = false;
    for i in 1..places.len() {
        let (before, here) = places.split_at_mut(i);
        let here = &mut here[0];
        // Those of one position are few.
        let there = before.iter().rev().take_while(|it| it.position == here.position);
        if let Some(last) = there.into_iter().find(|it| name(it) == name(here)) {
            here.turn = last.turn + 1;
            is_repeated = true;
        }
    }
    is_repeated
}

/// How many of `places` make the next request: as many as are not full and change no key twice,
/// and at least one.
fn request_length(mutations: &[Mutation], places: &[Place]) -> usize {
    let mut bytes = 0;
    let fits = |&(length, place): &(usize, &Place)| {
        bytes += mutations[place.number].bytes();
        let is_of_turn = place.turn == places[0].turn;
        length == 0 || (is_of_turn && bytes <= REQUEST_BYTES && length < REQUEST_CHANGES)
    };
    places.iter().enumerate().take_while(fits).count()
}

fn outcome_of(outcome: message::MutationOutcome) -> Result<Outcome, WireError> {
    Ok(match outcome {
        message::MutationOutcome::Written { version } => Outcome::Written(version),
        message::MutationOutcome::Removed { version } => Outcome::Removed(version),
        message::MutationOutcome::Missing => Outcome::Missing,
        message::MutationOutcome::ConditionFailed { version } => Outcome::ConditionFailed(version),
        message::MutationOutcome::Abandoned => Outcome::Abandoned,
        message::MutationOutcome::Error(error) => return Err(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(key: &str, length: usize) -> Mutation {
        let (index, key) = ("i".into(), key.to_owned());
        let document = Bytes::from(vec![0; length]);
        let (condition, expiry) = (Condition::Any, Expiry::Default);
        Mutation::Write { index, key, document, condition, expiry }
    }

    #[test]
    fn a_request_ends_when_full_or_before_a_key_comes_again() {
        let length = |mutations: &[Mutation]| {
            let place = |number| Place { turn: 0, position: Position(0), number };
            request_length(mutations, &(0..mutations.len()).map(place).collect::<Vec<_>>())
        };
        let turns = [0, 0, 1, 2].map(|turn| Place { turn, position: Position(0), number: 0 });
        assert_eq!(request_length(&[write("a", 1)], &turns), 2);
        assert_eq!(request_length(&[write("a", 1)], &turns[2..]), 1);
        assert_eq!(length(&[write("a", REQUEST_BYTES * 3), write("b", 1)]), 1);
        assert_eq!(length(&[write("a", REQUEST_BYTES / 2), write("b", REQUEST_BYTES)]), 1);
        let many: Vec<_> = (0..REQUEST_CHANGES + 10).map(|n| write(&n.to_string(), 1)).collect();
        assert_eq!(length(&many), REQUEST_CHANGES);
    }
}
