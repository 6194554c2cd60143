//! The queue of commands between the callers and the sequencer.
//!
//! The sequencer takes all that waits at once. A lock around a vector does: it is held for a push
//! or a swap. How much may wait is bounded by the callers, who know whom to slow down.

use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::command::{Command, Import, IndexId};
use crate::compaction::Survivor;
use crate::cut::Cut;
use crate::engine::Completion;
use crate::error::{Error, Result};
use crate::index::IndexKey;
use crate::shared::{Found, LookedUp};

/// Called once with a cut, on the sequencer's thread.
pub(crate) type CutDone = Box<dyn FnOnce(Result<Cut>) + Send>;

/// What the sequencer is asked.
pub(crate) enum Task {
    Command(Command, Completion),
    /// Of a move, with what was found of its documents.
    Import(Import, Found, Completion),
    /// Of the compactor: to append what outlives a segment.
    Relocate(Vec<Survivor>, Completion),
    /// Of the compactor: to remove what lies outside the owned ranges.
    Sweep(Vec<(IndexId, IndexKey)>, Completion),
    /// Of the sweeper: to remove what has expired, as it was looked up.
    Expire(Vec<(IndexId, IndexKey, LookedUp)>, Completion),
    /// A cut of all that came before, and how much of the log is to be kept after it.
    Cut(Option<u64>, CutDone),
    /// A checkpoint of all that came before; the answer is sent.
    Checkpoint(SyncSender<Result<()>>),
    /// A checkpoint at the next occasion, without waiting for it.
    CheckpointSoon,
}

impl Task {
    /// Whether a caller waits for it, who will ask again.
    pub(crate) fn is_of_caller(&self) -> bool {
        !self.is_of_compactor() && !matches!(self, Self::Expire(..) | Self::Import(..))
    }

    pub(crate) fn is_of_compactor(&self) -> bool {
        matches!(self, Self::Relocate(..) | Self::Sweep(..))
    }
}

/// What the sequencer waits for once there is a task.
pub(crate) struct Gather {
    /// So many tasks;
    pub(crate) tasks: usize,
    /// or, instead, one of the compactor;
    pub(crate) compactor: bool,
    /// for so long at most.
    pub(crate) time: Duration,
}

#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Default)]
struct State {
    tasks: Vec<Task>,
    closed: bool,
    /// Closed without a checkpoint.
    abandoned: bool,
    /// How many tasks the sequencer waits for, 0 when it does not: only when they are there is it
    /// worth a system call to wake it.
    awaited: usize,
}

impl Queue {
    /// Adds a task, or answers it when the queue is closed.
    pub(crate) fn push(&self, task: Task) {
        let mut state = self.state.lock();
        if state.closed {
            drop(state);
            match task {
                Task::Command(_, done)
                | Task::Import(_, _, done)
                | Task::Relocate(_, done)
                | Task::Sweep(_, done)
                | Task::Expire(_, done) => done(Err(Error::Closed)),
                Task::Checkpoint(done) => _ = done.send(Err(Error::Closed)),
                Task::Cut(_, done) => done(Err(Error::Closed)),
                Task::CheckpointSoon => {}
            }
            return;
        }
        state.tasks.push(task);
        let wake = state.awaited > 0 && state.tasks.len() >= state.awaited;
        if wake {
            state.awaited = 0;
        }
        drop(state);
        if wake {
            self.filled.notify_one();
        }
    }

    /// Waits for a task, to the deadline at most, and then for more as `gather` says, then takes
    /// all there are. `false` when the queue is closed: these are the last.
    pub(crate) fn take(
        &self,
        tasks: &mut Vec<Task>,
        deadline: Option<Instant>,
        gather: &Gather,
    ) -> bool {
        let mut state = self.state.lock();
        self.wait(&mut state, 1, deadline);
        let until = Instant::now() + gather.time;
        if gather.compactor {
            while !state.tasks.is_empty()
                && !state.tasks.iter().any(Task::is_of_compactor)
                && Instant::now() < until
                && !state.closed
            {
                let one_more = state.tasks.len() + 1;
                self.wait(&mut state, one_more, Some(until));
            }
        } else if !state.tasks.is_empty() && state.tasks.len() < gather.tasks {
            self.wait(&mut state, gather.tasks, Some(until));
        }
        std::mem::swap(&mut state.tasks, tasks);
        !state.closed
    }

    /// How many tasks wait.
    pub(crate) fn len(&self) -> usize {
        self.state.lock().tasks.len()
    }

    fn wait(&self, state: &mut MutexGuard<'_, State>, tasks: usize, deadline: Option<Instant>) {
        while state.tasks.len() < tasks && !state.closed {
            state.awaited = tasks;
            match deadline {
                Some(deadline) => {
                    if self.filled.wait_until(state, deadline).timed_out() {
                        break;
                    }
                }
                None => self.filled.wait(state),
            }
        }
        state.awaited = 0;
    }

    /// Takes no more tasks; those that wait are still worked off. With `abandon`, there is no
    /// checkpoint at the end.
    pub(crate) fn close(&self, abandon: bool) {
        let mut state = self.state.lock();
        state.abandoned |= abandon && !state.closed;
        state.closed = true;
        drop(state);
        self.filled.notify_one();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.state.lock().abandoned
    }
}
