//! The scout: finds beforehand which documents are to be evicted next.
//!
//! The residents know a victim by its tag; its key and entry are found by a range of the index, which
//! takes as long as all the rest of a write. The scout does that on a thread of its own, a few
//! victims ahead, so that the sequencer has only to see that nothing has changed: that the victim was
//! not accessed since, and that it still lies where it lay. What has changed is passed over.
//!
//! With `ttl` the victim is exactly the document that expires soonest. So the ones that do are found together,
//! in their order. They are the next to go as long as no document has come that expires sooner, and the
//! residents keep note of the soonest that has ([`Residents::soonest_new`]): what expires later than that is
//! forgotten. The note begins anew before the residents are asked again: what came before is found by then, and
//! what comes later is noted.
//!
//! It works for the group of indexes that evicted last. With another one, and where it is behind, the
//! sequencer looks for itself.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::command::IndexId;
use crate::index::IndexKey;
use crate::residents::{Resident, Residents};
use crate::shared::{LookedUp, Shared};

/// How many victims are found ahead: more than most batches need, and few enough to be those that would
/// be chosen now.
const AHEAD: usize = 128;

/// How long the scout rests where it finds no victim.
const REST: Duration = Duration::from_millis(20);

/// A document to evict, as it was found. It is remembered by the residents still.
pub(crate) struct Candidate {
    pub(crate) victim: Resident,
    pub(crate) key: IndexKey,
    pub(crate) found: LookedUp,
}

/// What the scout has found.
#[derive(Default)]
pub(crate) struct Scout {
    state: Mutex<State>,
    wanted: Condvar,
}

#[derive(Default)]
struct State {
    /// The indexes that evict for each other.
    group: Vec<IndexId>,
    /// Their policy is `ttl`.
    exact: bool,
    /// Counts what all that was found was forgotten for: another group, or another policy.
    generation: u64,
    /// The next to go is the first one.
    found: VecDeque<Candidate>,
    /// The scout waits to be asked for more.
    rests: bool,
    closed: bool,
}

impl State {
    /// Of `ttl`: forgets what expires after a second.
    fn forget_after(&mut self, second: u32) {
        while self.found.back().is_some_and(|last| last.victim.expiry() > second) {
            self.found.pop_back();
        }
    }

    /// Down to how many it may go before more are looked for. Those that expire soonest are looked for all at
    /// once.
    fn enough(&self) -> usize {
        if self.exact { AHEAD / 2 + 1 } else { AHEAD }
    }
}

impl Scout {
    /// The next victim of a group that was found beforehand, if there is one. `exact` says that the policy is
    /// `ttl`.
    pub(crate) fn next(
        &self,
        group: &[IndexId],
        exact: bool,
        residents: &Residents,
    ) -> Option<Candidate> {
        let mut state = self.state.lock();
        if state.group != group || state.exact != exact {
            state.group = group.to_vec();
            state.exact = exact;
            state.generation += 1;
            state.found.clear();
        }
        if exact {
            state.forget_after(residents.soonest_new(group));
        }
        let candidate = state.found.pop_front();
        if state.rests && state.found.len() <= AHEAD / 2 {
            state.rests = false;
            drop(state);
            self.wanted.notify_one();
        }
        candidate
    }

    /// Ends the scout.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.wanted.notify_one();
    }
}

/// Works until the scout is closed.
pub(crate) fn run(shared: &Shared) {
    let scout = &shared.scout;
    let mut group = Vec::new();
    loop {
        let (exact, generation) = {
            let mut state = scout.state.lock();
            while !state.closed && (state.group.is_empty() || state.found.len() >= state.enough()) {
                state.rests = true;
                scout.wanted.wait(&mut state);
            }
            if state.closed {
                return;
            }
            group.clone_from(&state.group);
            (state.exact, state.generation)
        };
        let (found, goes_on) = if exact {
            find_soonest(shared, &group, generation)
        } else {
            let found = Vec::from_iter(find(shared, &group));
            let is_any = !found.is_empty();
            (found, is_any)
        };
        let mut state = scout.state.lock();
        if state.generation != generation {
            continue;
        }
        state.found.extend(found);
        if exact {
            state.found.make_contiguous().sort_by_key(|found| found.victim.expiry());
        }
        if !goes_on {
            state.rests = true;
            _ = scout.wanted.wait_for(&mut state, REST);
        }
    }
}

/// Finds a victim of a sample. An index that fails is for the sequencer to report.
fn find(shared: &Shared, group: &[IndexId]) -> Option<Candidate> {
    let newest = shared.durable_lsn.load(Ordering::Acquire);
    look_up(shared, shared.residents.victim(group, newest)?)
}

/// Finds the victims of `ttl`, as many as are wanted with those that were found before; and whether it is of use
/// to look for more at once: some were found, and each could be looked up.
fn find_soonest(shared: &Shared, group: &[IndexId], generation: u64) -> (Vec<Candidate>, bool) {
    let residents = &shared.residents;
    let (known, soonest) = {
        let mut state = shared.scout.state.lock();
        if state.generation != generation {
            return (Vec::new(), true);
        }
        state.forget_after(residents.take_soonest_new(group));
        let known: HashSet<_> = state.found.iter().map(|found| found.victim).collect();
        (known, residents.soonest(group, AHEAD))
    };
    let mut found = Vec::new();
    for victim in soonest.into_iter().filter(|victim| !known.contains(victim)) {
        let Some(candidate) = look_up(shared, victim) else {
            // Not published yet: what expires later is not the next to go.
            residents.note_soonest(victim);
            return (found, false);
        };
        found.push(candidate);
    }
    let is_any = !found.is_empty();
    (found, is_any)
}

/// The key and the entry of a victim.
fn look_up(shared: &Shared, victim: Resident) -> Option<Candidate> {
    let (key, found) = shared.any_of(victim.index, victim.slot.tag).ok()??;
    Some(Candidate { victim, key, found })
}
