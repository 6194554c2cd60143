//! The scout: finds beforehand which documents are to be evicted next.
//!
//! The residents know a victim by its tag; its key and entry are found by a range of the index, which
//! takes as long as all the rest of a write. The scout does that on a thread of its own, a few
//! victims ahead, so that the sequencer has only to see that nothing has changed: that the victim was
//! not accessed since, and that it still lies where it lay. What has changed is passed over.
//!
//! It works for the group of indexes that evicted last. With another one, and where it is behind, the
//! sequencer looks for itself.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::command::IndexId;
use crate::index::IndexKey;
use crate::residents::Taken;
use crate::shared::{LookedUp, Shared};

/// How many victims are found ahead: more than a batch needs, and few enough to be those that would
/// be chosen now.
const AHEAD: usize = 128;

/// How long the scout rests where it finds no victim.
const REST: Duration = Duration::from_millis(20);

/// A document to evict, as it was found. It is remembered by the residents still.
pub(crate) struct Candidate {
    pub(crate) victim: Taken,
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
    found: VecDeque<Candidate>,
    /// The scout waits to be asked for more.
    rests: bool,
    closed: bool,
}

impl Scout {
    /// The next victim of a group that was found beforehand, if there is one.
    pub(crate) fn next(&self, group: &[IndexId]) -> Option<Candidate> {
        let mut state = self.state.lock();
        if state.group != group {
            state.group = group.to_vec();
            state.found.clear();
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
        {
            let mut state = scout.state.lock();
            while !state.closed && (state.group.is_empty() || state.found.len() >= AHEAD) {
                state.rests = true;
                scout.wanted.wait(&mut state);
            }
            if state.closed {
                return;
            }
            group.clone_from(&state.group);
        }
        let found = find(shared, &group);
        let mut state = scout.state.lock();
        match found {
            Some(candidate) if state.group == group => state.found.push_back(candidate),
            Some(_) => {}
            None => {
                state.rests = true;
                _ = scout.wanted.wait_for(&mut state, REST);
            }
        }
    }
}

/// Finds a victim. An index that fails is for the sequencer to report.
fn find(shared: &Shared, group: &[IndexId]) -> Option<Candidate> {
    let newest = shared.durable_lsn.load(std::sync::atomic::Ordering::Acquire);
    let victim = shared.residents.victim(group, newest)?;
    let (entries, drops) = shared.entries_of(victim.index, victim.slot.tag).ok()?;
    let (key, entry) = entries.into_iter().next()?;
    Some(Candidate { victim, key, found: (entry, drops) })
}
