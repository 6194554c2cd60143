//! Histories spoiled on purpose, to see that the checker finds it.
//!
//! Each mutation changes answers of a history that is right, such that it would be the history of a
//! store with a certain mistake. Not every such change makes a violation: a read that overlaps a
//! write may find either document. Where it must be one, whatever else was under way, this is
//! known *by construction*, from instants and versions alone and without any search.

use rand::Rng;
use rand::seq::IndexedRandom;
use sherd_client::Condition;

use super::{Answer, Call, History, Operation};

/// A mistake that a store may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// A read finds a document that was there earlier.
    StaleRead,
    /// Reads find what was there before an acknowledged write instead of what it wrote.
    LostWrite,
    /// Two pops return the same document.
    DoubledPop,
    /// Of two writes the later one has the lower version.
    VersionsSwapped,
    /// A write on condition of a version succeeds against another one.
    WrongCondition,
}

/// All of them.
pub(crate) const MUTATIONS: [Mutation; 5] = [
    Mutation::StaleRead,
    Mutation::LostWrite,
    Mutation::DoubledPop,
    Mutation::VersionsSwapped,
    Mutation::WrongCondition,
];

/// A history of one key with a mistake in it.
pub(crate) struct Mutated {
    pub(crate) history: History,
    /// Whether it must be a violation.
    pub(crate) by_construction: bool,
}

impl Mutation {
    /// Spoils a history of one key that is right; `None` where what was drawn does not allow it.
    pub(crate) fn spoil(self, history: &[Operation], rng: &mut impl Rng) -> Option<Mutated> {
        let mut history = history.to_vec();
        let by_construction = match self {
            Self::StaleRead => stale_read(&mut history, rng),
            Self::LostWrite => lost_write(&mut history, rng),
            Self::DoubledPop => doubled_pop(&mut history, rng),
            Self::VersionsSwapped => versions_swapped(&mut history, rng),
            Self::WrongCondition => wrong_condition(&mut history, rng),
        }?;
        Some(Mutated { history, by_construction })
    }
}

/// A violation if a third operation changed the key after the write and before the read.
fn stale_read(history: &mut [Operation], rng: &mut impl Rng) -> Option<bool> {
    let read = any(history, rng, |operation| {
        operation.call == Call::Read
            && !matches!(operation.answer, Answer::Unknown | Answer::Refused)
    })?;
    let reader = history[read].clone();
    let write = any(history, rng, |operation| {
        written(operation).is_some()
            && operation.precedes(&reader)
            && operation.value() != reader.value()
    })?;
    let writer = history[write].clone();
    history[read].answer = found(&writer)?;
    let between = |operation: &Operation| {
        operation.changed() && writer.precedes(operation) && operation.precedes(&reader)
    };
    Some(history.iter().any(between))
}

/// A violation if a read that follows the write finds a document that was written before, or
/// nothing, although no removal was under way from the write to the read.
fn lost_write(history: &mut [Operation], rng: &mut impl Rng) -> Option<bool> {
    let write = any(history, rng, |operation| written(operation).is_some())?;
    let lost = history[write].clone();
    let readers: Vec<_> = (0..history.len())
        .filter(|&at| history[at].call == Call::Read && history[at].value() == lost.value())
        .collect();
    let earlier =
        |operation: &&Operation| written(operation).is_some() && operation.precedes(&lost);
    let earlier = history.iter().filter(earlier).max_by_key(|operation| operation.invoked);
    let before = match earlier {
        Some(earlier) if rng.random_bool(0.7) => found(earlier)?,
        _ => Answer::Missing,
    };
    let removals: Vec<_> = history.iter().filter(|operation| may_remove(operation)).collect();
    let must_see = |read: &Operation| {
        let between = |removal: &&Operation| !removal.precedes(&lost) && !read.precedes(removal);
        lost.precedes(read) && (before != Answer::Missing || !removals.iter().any(between))
    };
    let by_construction = readers.iter().any(|&at| must_see(&history[at]));
    for &at in &readers {
        history[at].answer = before;
    }
    (!readers.is_empty()).then_some(by_construction)
}

/// Always a violation: what is written once is not removed twice.
fn doubled_pop(history: &mut [Operation], rng: &mut impl Rng) -> Option<bool> {
    let is_pop = |operation: &Operation| operation.call == Call::Pop;
    let first = any(history, rng, |operation| is_pop(operation) && operation.changed())?;
    let answer = history[first].answer;
    let second = any(history, rng, |operation| is_pop(operation) && operation.answer != answer)?;
    history[second].answer = answer;
    Some(true)
}

/// Always a violation: the writes did not overlap.
fn versions_swapped(history: &mut [Operation], rng: &mut impl Rng) -> Option<bool> {
    let first = any(history, rng, |operation| written(operation).is_some())?;
    let earlier = history[first].clone();
    let second =
        any(history, rng, |operation| written(operation).is_some() && earlier.precedes(operation))?;
    history[first].answer = history[second].answer;
    history[second].answer = earlier.answer;
    Some(true)
}

/// A violation if the version that was really there is an acknowledged write's: then that write
/// lies, by the versions, between the one named and this.
fn wrong_condition(history: &mut [Operation], rng: &mut impl Rng) -> Option<bool> {
    let conditional = |operation: &Operation| match operation.call {
        Call::Write { value, condition: Condition::Version(version) } => Some((value, version)),
        _ => None,
    };
    let write = any(history, rng, |operation| {
        conditional(operation).is_some() && written(operation).is_some()
    })?;
    let (value, right) = conditional(&history[write])?;
    let other =
        any(history, rng, |operation| written(operation).is_some_and(|version| version != right))?;
    let condition = Condition::Version(written(&history[other])?);
    history[write].call = Call::Write { value, condition };
    Some(history.iter().any(|operation| written(operation) == Some(right)))
}

/// The place of one operation of a kind, each equally likely.
fn any(
    history: &[Operation],
    rng: &mut impl Rng,
    is_it: impl Fn(&Operation) -> bool,
) -> Option<usize> {
    let places: Vec<_> = (0..history.len()).filter(|&at| is_it(&history[at])).collect();
    places.choose(rng).copied()
}

/// The version of an acknowledged write.
fn written(operation: &Operation) -> Option<u64> {
    match operation.answer {
        Answer::Written { version } => Some(version),
        _ => None,
    }
}

/// What a read of its document finds.
fn found(write: &Operation) -> Option<Answer> {
    Some(Answer::Found { value: write.value()?, version: written(write)? })
}

/// Whether it removed a document, or may have.
fn may_remove(operation: &Operation) -> bool {
    let removes = matches!(operation.call, Call::Remove { .. } | Call::Pop);
    removes && (operation.changed() || operation.answer == Answer::Unknown)
}
