//! The search for an order of a key's operations that explains their answers.
//!
//! It is that of Wing and Gong (*Testing and Verifying Concurrent Objects*, 1993): whichever
//! operation was invoked before any other was answered may be the next one, and each of these is
//! tried. Nothing is tried twice, which is Lowe's part (*Testing for Linearizability*, 2017): two
//! orders of the same operations that leave the same state go on alike. Porcupine (Athalye, 2017)
//! has both, and shows how well that works. Three more things make it fast for this model:
//!
//! * An operation that leaves the state as it is, as a read does, comes as soon as it can: in
//!   whichever order it comes later, it may come now as well.
//! * An operation of unknown outcome need not come. It is tried where all else has failed; and of
//!   two orders that differ in such operations alone, the one with fewer leads as far. A write
//!   whose document was found is none of these: it came before that; and of those that do the
//!   same, the first comes first.
//! * Versions of acknowledged changes only grow, and so leave few orders to try.
//!
//! Where no operation is under way all that came before is one number, so the work at each
//! operation depends on how many are under way with it, not on the length of the history.
//!
//! # Caveats
//! The search ends, but may take long where dozens of operations of unknown outcome touch one key
//! and there is no order.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::state::{State, Version};
use super::violation::{Mark, Violation};
use super::{Answer, Call, Operation, Value};

/// Checks that each key of a history is linearizable.
pub(crate) fn check(history: &[Operation]) -> Result<(), Violation> {
    let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        keys.entry(&operation.key).or_default().push(operation);
    }
    keys.into_values().try_for_each(check_key)
}

/// Checks the operations of one key.
fn check_key(mut operations: Vec<&Operation>) -> Result<(), Violation> {
    operations.sort_by_key(|operation| operation.invoked);
    let search = Search::new(&operations);
    search.run().map_err(|furthest| search.explain(&furthest))
}

/// The search through the operations of a key.
struct Search<'a> {
    /// Those that are known to have happened, in the order of invocation.
    known: Vec<Known<'a>>,
    /// Changes that may have happened, in the order of invocation.
    open: Vec<&'a Operation>,
}

/// An operation that happened.
struct Known<'a> {
    recorded: &'a Operation,
    /// The same with its outcome, if that was unknown: some other operation found what it wrote,
    /// and did so after it.
    operation: Cow<'a, Operation>,
}

/// Where an order has led.
#[derive(Clone)]
struct Place {
    /// The operations of known outcome that have come.
    come: Come,
    /// Those of unknown outcome that have come, in ascending order.
    happened: Vec<usize>,
    state: State,
}

impl<'a> Search<'a> {
    /// Of the operations of a key, in the order of invocation.
    fn new(operations: &[&'a Operation]) -> Self {
        let found = found(operations);
        let mut search = Self { known: Vec::new(), open: Vec::new() };
        for &recorded in operations {
            let operation = match (recorded.answer, recorded.call) {
                (Answer::Unknown, Call::Read | Call::Has) | (Answer::Refused, _) => continue,
                (Answer::Unknown, Call::Write { value, .. }) if found.contains_key(&value) => {
                    let (answered, version) = found[&value];
                    let answer = Answer::Written { version };
                    Cow::Owned(Operation { answer, answered, ..recorded.clone() })
                }
                (Answer::Unknown, _) => {
                    search.open.push(recorded);
                    continue;
                }
                _ => Cow::Borrowed(recorded),
            };
            search.known.push(Known { recorded, operation });
        }
        search
    }

    /// Looks for an order.
    ///
    /// # Errors
    /// The furthest that any order leads, where none leads to the end.
    fn run(&self) -> Result<(), Place> {
        let mut furthest = Place { come: Come::default(), happened: Vec::new(), state: State::NEW };
        let mut seen = Seen::default();
        let mut todo = vec![furthest.clone()];
        while let Some(place) = todo.pop() {
            if place.come.first == self.known.len() {
                return Ok(());
            }
            if !seen.is_new(&place) {
                continue;
            }
            self.push_next(&place, &mut todo);
            if place.come.len() > furthest.come.len() {
                furthest = place;
            }
        }
        Err(furthest)
    }

    /// Adds where one more operation leads, the most promising last.
    fn push_next(&self, place: &Place, todo: &mut Vec<Place>) {
        let next = self.next(place);
        let led: Vec<_> = next
            .iter()
            .filter_map(|&at| Some((at, place.state.after(&self.known[at].operation)?)))
            .collect();
        let come = |(at, state): (usize, State)| {
            let (come, happened) = (place.come.with(at), place.happened.clone());
            Place { come, happened, state }
        };
        if let Some(&unchanged) = led.iter().find(|(_, state)| *state == place.state) {
            todo.push(come(unchanged));
            return;
        }
        // Tried last, so that what needs fewer of them is seen before.
        for at in self.open_next(place, &next) {
            if let Some(state) = place.state.after(self.open[at]) {
                let (come, happened) = (place.come.clone(), with(&place.happened, at));
                todo.push(Place { come, happened, state });
            }
        }
        todo.extend(led.into_iter().rev().map(come));
    }

    /// The operations of known outcome that may come next: of those that have not come, the ones
    /// that none of the others precedes.
    fn next(&self, place: &Place) -> Vec<usize> {
        let mut next = Vec::new();
        let mut horizon = None;
        for at in place.come.first..self.known.len() {
            if place.come.contains(at) {
                continue;
            }
            let operation = &self.known[at].operation;
            if horizon.is_some_and(|horizon| operation.invoked > horizon) {
                break;
            }
            next.push(at);
            let answered = operation.answered;
            horizon = Some(horizon.map_or(answered, |horizon| answered.min(horizon)));
        }
        next
    }

    /// The operations of unknown outcome that may come next, where the others are `next`. Of those
    /// that do the same it is the first, which may come wherever a later one may.
    fn open_next(&self, place: &Place, next: &[usize]) -> Vec<usize> {
        let horizon = next.iter().map(|&at| self.known[at].operation.answered).min();
        let possible = self.open.partition_point(|open| Some(open.invoked) <= horizon);
        let mut kinds: Vec<usize> = Vec::new();
        for at in 0..possible {
            let known = |&kind: &usize| does_the_same(self.open[kind].call, self.open[at].call);
            if place.happened.binary_search(&at).is_err() && !kinds.iter().any(known) {
                kinds.push(at);
            }
        }
        kinds
    }

    /// What is to be told where there is no order.
    fn explain(&self, furthest: &Place) -> Violation {
        let next = self.next(furthest);
        let mut marked = Vec::new();
        for (at, known) in self.known.iter().enumerate() {
            if furthest.come.contains(at) {
                marked.push((Mark::Came, known.recorded));
            } else if next.contains(&at) {
                marked.push((Mark::Stuck, known.recorded));
            }
        }
        for (at, &operation) in self.open.iter().enumerate() {
            let happened = furthest.happened.binary_search(&at).is_ok();
            marked.push((if happened { Mark::Came } else { Mark::Open }, operation));
        }
        Violation::new(furthest.state, marked)
    }
}

/// Whether two changes are alike, if nobody finds what they write.
fn does_the_same(one: Call, other: Call) -> bool {
    match (one, other) {
        (Call::Write { condition: one, .. }, Call::Write { condition: other, .. }) => one == other,
        (
            Call::Remove { version: None } | Call::Pop,
            Call::Remove { version: None } | Call::Pop,
        ) => true,
        (one, other) => one == other,
    }
}

/// Of each value that was found, the first answer that tells so, and the version.
fn found(operations: &[&Operation]) -> HashMap<Value, (Duration, u64)> {
    let mut all = HashMap::new();
    for operation in operations {
        if let Answer::Found { value, version } = operation.answer {
            let first = all.entry(value).or_insert((operation.answered, version));
            first.0 = first.0.min(operation.answered);
        }
    }
    all
}

/// What was tried, by the operations that have come and the document.
#[derive(Default)]
struct Seen(HashMap<(Come, Option<Value>), Vec<Tried>>);

/// The rest of a place that was tried.
struct Tried {
    version: Version,
    happened: Vec<usize>,
}

impl Seen {
    /// Whether nothing that was tried leads as far as `place`, which counts as tried from here on.
    fn is_new(&mut self, place: &Place) -> bool {
        let State { value, version } = place.state;
        let tried = self.0.entry((place.come.clone(), value)).or_default();
        let leads_as_far = |tried: &Tried| {
            tried.version.admits(version) && is_part(&tried.happened, &place.happened)
        };
        let new = !tried.iter().any(leads_as_far);
        if new {
            tried.push(Tried { version, happened: place.happened.clone() });
        }
        new
    }
}

/// A set of operations of which nearly all of the first are in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Come {
    /// The first that is not in the set.
    first: usize,
    /// Those after it that are, in ascending order.
    beyond: Vec<usize>,
}

impl Come {
    fn with(&self, at: usize) -> Self {
        let Self { mut first, beyond } = self.clone();
        let mut beyond = if at == first { beyond } else { with(&beyond, at) };
        if at == first {
            first += 1;
            let joined = beyond.iter().zip(first..).take_while(|(at, next)| *at == next).count();
            beyond.drain(..joined);
            first += joined;
        }
        Self { first, beyond }
    }

    fn contains(&self, at: usize) -> bool {
        at < self.first || self.beyond.binary_search(&at).is_ok()
    }

    fn len(&self) -> usize {
        self.first + self.beyond.len()
    }
}

/// An ascending list with one more number.
fn with(list: &[usize], number: usize) -> Vec<usize> {
    let place = list.partition_point(|&other| other < number);
    [&list[..place], &[number], &list[place..]].concat()
}

/// Whether all numbers of an ascending list are in another one.
fn is_part(list: &[usize], of: &[usize]) -> bool {
    list.iter().all(|number| of.binary_search(number).is_ok())
}
