//! What a person is told of a history that is not linearizable.

use std::fmt;
use std::time::Duration;

use super::state::{State, Version};
use super::{Answer, Operation};

/// The most operations that are shown: a screen.
const MAX_SHOWN: usize = 24;

/// How many of the last changes are shown whatever they have to do with it: what led there.
const LAST_CHANGES: usize = 4;

/// What became of an operation in the longest order that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// It is in the order.
    Came,
    /// It is among those one of which must come next, and none can.
    Stuck,
    /// Its outcome is unknown, and it is not in the order.
    Open,
}

/// A key whose operations no order explains.
#[derive(Debug)]
pub(crate) struct Violation {
    /// The key.
    pub(crate) key: String,
    /// What it holds at the end of the longest order.
    state: State,
    /// The operations that tell, in the order of invocation.
    window: Vec<(Mark, Operation)>,
}

impl Violation {
    /// Keeps what tells of all operations of a key.
    pub(super) fn new(state: State, mut marked: Vec<(Mark, &Operation)>) -> Self {
        let is_stuck = |mark: &Mark| *mark == Mark::Stuck;
        let stuck: Vec<_> = marked
            .iter()
            .filter_map(|&(mark, operation)| is_stuck(&mark).then_some(operation))
            .collect();
        let key = stuck.first().map(|operation| operation.key.to_string()).unwrap_or_default();
        let recent = recent(&marked);
        marked.retain(|(mark, operation)| {
            let is_recent = operation.changed() && operation.invoked >= recent;
            is_stuck(mark) || is_recent || tells(state, &stuck, operation)
        });
        // The nearest in time, if there are more than anyone would read.
        let begin = stuck.iter().map(|operation| operation.invoked).min().unwrap_or_default();
        marked.sort_by_key(|(mark, operation)| {
            (!is_stuck(mark), is_bystander(operation), distance(operation, begin))
        });
        marked.truncate(MAX_SHOWN);
        marked.sort_by_key(|(_, operation)| operation.invoked);
        let own = |(mark, operation): (Mark, &Operation)| (mark, operation.clone());
        Self { key, state, window: marked.into_iter().map(own).collect() }
    }
}

/// Since when the last changes of the order are.
fn recent(marked: &[(Mark, &Operation)]) -> Duration {
    let came = marked.iter().filter(|(mark, operation)| *mark == Mark::Came && operation.changed());
    let mut invoked: Vec<_> = came.map(|(_, operation)| operation.invoked).collect();
    invoked.sort_unstable();
    invoked[invoked.len().saturating_sub(LAST_CHANGES)..].first().copied().unwrap_or_default()
}

/// Whether an operation has to do with what is stuck, or with the state before it.
fn tells(state: State, stuck: &[&Operation], operation: &Operation) -> bool {
    let near = stuck.iter().any(|stuck| stuck.overlaps(operation));
    let of_state = operation.value().is_some() && operation.value() == state.value
        || operation.answer.version().is_some_and(|version| Version::Is(version) == state.version);
    let of_stuck = stuck.iter().any(|stuck| {
        stuck.value().is_some() && stuck.value() == operation.value()
            || stuck.answer.version().is_some()
                && stuck.answer.version() == operation.answer.version()
    });
    near || (of_state || of_stuck) && !is_bystander(operation)
}

/// Whether it changed nothing.
fn is_bystander(operation: &Operation) -> bool {
    !operation.changed() && operation.answer != Answer::Unknown
}

fn distance(operation: &Operation, moment: Duration) -> Duration {
    operation.invoked.abs_diff(moment)
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, state, window } = self;
        writeln!(f, "key {key:?}: no order of its operations explains their answers.")?;
        writeln!(f, "The longest order ends with {state}.")?;
        writeln!(f, "> could be next, but not with its answer; ? may have happened after it.")?;
        for (mark, operation) in window {
            let mark = match mark {
                Mark::Came => ' ',
                Mark::Stuck => '>',
                Mark::Open => '?',
            };
            writeln!(f, "{mark} {operation}")?;
        }
        Ok(())
    }
}
