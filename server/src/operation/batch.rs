//! `batch`: several writes and removes as one command.
//!
//! What is wrong with the form of a mutation refuses the batch before anything is done. An index
//! that does not exist is the fate of its mutation, as if the engine had found it out.

use bytes::Bytes;
use sherd_engine::{Command, IndexId, Mutation, Outcome};
use sherd_node::Responder;
use sherd_protocol::message::{self, Batch, MAX_BATCH_MUTATIONS, MutationOutcome, ShardAnswer};
use sherd_protocol::{BadRequest, WireError};

use super::mutation;
use crate::refusal::refusal;
use crate::shard::Shard;

/// What an outcome takes in an answer, about.
const OUTCOME_BYTES: usize = 32;

pub(crate) fn batch(shard: &Shard, body: &Bytes, batch: &Batch<'_>, mut responder: Responder) {
    let Prepared { mutations, names, refused } = match prepare(shard, body, batch) {
        Ok(prepared) => prepared,
        Err(error) => return responder.refuse(&error),
    };
    if !refused.is_empty() && batch.atomic {
        let outcomes = vec![MutationOutcome::Abandoned; mutations.len()];
        return responder.send(&ShardAnswer::Batch(with_refused(outcomes, refused)));
    }
    if mutations.is_empty() {
        return responder.send(&ShardAnswer::Batch(with_refused(Vec::new(), refused)));
    }
    responder.reserve(batch.mutations.len() * OUTCOME_BYTES);
    let command = Command::Mutate { mutations, atomic: batch.atomic };
    let done = move |result| match result {
        Ok(Outcome::Mutated(outcomes)) => {
            let places = outcomes.into_iter().enumerate();
            let outcomes =
                places.map(|(i, outcome)| mutation::on_the_wire(outcome, names.name(i))).collect();
            responder.send(&ShardAnswer::Batch(with_refused(outcomes, refused)));
        }
        Ok(Outcome::Done | Outcome::Frozen(_)) => responder.refuse(&mutation::unexpected()),
        // Errors of a whole command concern no single index.
        Err(error) => responder.refuse(&refusal(error, "")),
    };
    shard.engine.submit(command, Box::new(done));
}

/// A batch for the engine.
#[derive(Default)]
struct Prepared {
    mutations: Vec<Mutation>,
    names: Names,
    /// The mutations that the engine does not get, by their place in the batch, in order.
    refused: Vec<(usize, WireError)>,
}

fn prepare(shard: &Shard, body: &Bytes, batch: &Batch<'_>) -> Result<Prepared, WireError> {
    let count = batch.mutations.len();
    if count > MAX_BATCH_MUTATIONS {
        return Err(WireError::bad_request(
            "mutations",
            format!("a batch has at most {MAX_BATCH_MUTATIONS} mutations, this one has {count}"),
        ));
    }
    let mut prepared = Prepared {
        mutations: Vec::with_capacity(count),
        names: Names::default(),
        refused: Vec::new(),
    };
    for (i, mutation) in batch.mutations.iter().enumerate() {
        let place = prepared.mutations.len();
        let index = |name| prepared.names.look_up(shard, body, name, place);
        let change = match mutation {
            message::Mutation::Write(write) => mutation::write(shard, body, write, index),
            message::Mutation::Remove(remove) => mutation::remove(shard, body, remove, index),
        };
        match change {
            Ok(change) => prepared.mutations.push(change),
            Err(error @ WireError::IndexNotFound { .. }) => prepared.refused.push((i, error)),
            Err(error) => return Err(within(error, i)),
        }
    }
    Ok(prepared)
}

/// The indexes of the mutations, as the request named them: most batches are of one.
#[derive(Default)]
struct Names {
    /// From which mutation on which index is named.
    runs: Vec<(usize, Bytes, IndexId)>,
}

impl Names {
    /// The index that is named for the mutation at a place, the last so far.
    fn look_up(
        &mut self,
        shard: &Shard,
        body: &Bytes,
        name: &str,
        place: usize,
    ) -> Result<IndexId, WireError> {
        match self.runs.last() {
            Some((_, last, id)) if last == name.as_bytes() => Ok(*id),
            _ => {
                let id = shard.index(name)?;
                self.runs.push((place, body.slice_ref(name.as_bytes()), id));
                Ok(id)
            }
        }
    }

    fn name(&self, place: usize) -> &str {
        let after = self.runs.partition_point(|(from, ..)| *from <= place);
        let run = after.checked_sub(1).and_then(|last| self.runs.get(last));
        run.map_or("", |(_, name, _)| mutation::name(name))
    }
}

/// Says which mutation of the batch an error is about.
fn within(error: WireError, i: usize) -> WireError {
    match error {
        WireError::BadRequest(BadRequest { what, place }) => {
            WireError::BadRequest(BadRequest { what, place: format!("mutations[{i}].{place}") })
        }
        WireError::TooLarge { what, size, limit } => {
            WireError::TooLarge { what: format!("{what} of mutations[{i}]"), size, limit }
        }
        other => other,
    }
}

/// Puts the refusals of mutations that the engine did not get in their places.
fn with_refused(
    mut outcomes: Vec<MutationOutcome>,
    refused: Vec<(usize, WireError)>,
) -> Vec<MutationOutcome> {
    if refused.is_empty() {
        return outcomes;
    }
    let mut rest = std::mem::take(&mut outcomes).into_iter();
    for (i, error) in refused {
        outcomes.extend(rest.by_ref().take(i - outcomes.len()));
        outcomes.push(MutationOutcome::Error(error));
    }
    outcomes.extend(rest);
    outcomes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_stand_where_their_mutations_stood() {
        let written = |version| MutationOutcome::Written { version };
        let lost = || WireError::IndexNotFound { index: "i".to_owned() };
        let error = || MutationOutcome::Error(lost());
        let merged = |outcomes: &[u64], refused: &[usize]| {
            let outcomes = outcomes.iter().copied().map(written).collect();
            with_refused(outcomes, refused.iter().map(|&i| (i, lost())).collect())
        };
        assert_eq!(merged(&[1, 2], &[]), [written(1), written(2)]);
        assert_eq!(merged(&[1, 2], &[0, 3]), [error(), written(1), written(2), error()]);
        assert_eq!(merged(&[1, 2], &[1, 2]), [written(1), error(), error(), written(2)]);
        assert_eq!(merged(&[], &[0, 1]), [error(), error()]);
    }
}
