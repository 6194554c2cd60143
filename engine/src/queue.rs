//! The queue of commands between the callers and the sequencer.
//!
//! The sequencer takes all that waits at once. A lock around a vector does: it is held for a push
//! or a swap. How much may wait is bounded by the callers, who know whom to slow down.

use std::sync::mpsc::SyncSender;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::command::Command;
use crate::engine::Completion;
use crate::error::{Error, Result};

/// What the sequencer is asked.
pub(crate) enum Task {
    Command(Command, Completion),
    /// A checkpoint of all that came before; the answer is sent.
    Checkpoint(SyncSender<Result<()>>),
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
    /// The sequencer waits: only then is it worth a system call to wake it.
    waiting: bool,
}

impl Queue {
    /// Adds a task, or gives it back when the queue is closed.
    pub(crate) fn push(&self, task: Task) {
        let mut state = self.state.lock();
        if state.closed {
            drop(state);
            match task {
                Task::Command(_, done) => done(Err(Error::Closed)),
                Task::Checkpoint(done) => _ = done.send(Err(Error::Closed)),
            }
            return;
        }
        state.tasks.push(task);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        if waiting {
            self.filled.notify_one();
        }
    }

    /// Waits for tasks, to the deadline at most, and takes them all. `false` when the queue is
    /// closed: these are the last.
    pub(crate) fn take(&self, tasks: &mut Vec<Task>, deadline: Option<Instant>) -> bool {
        let mut state = self.state.lock();
        while state.tasks.is_empty() && !state.closed {
            state.waiting = true;
            match deadline {
                Some(deadline) => {
                    if self.filled.wait_until(&mut state, deadline).timed_out() {
                        break;
                    }
                }
                None => self.filled.wait(&mut state),
            }
        }
        state.waiting = false;
        std::mem::swap(&mut state.tasks, tasks);
        !state.closed
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

    pub(crate) fn is_abandoned(&self) -> bool {
        self.state.lock().abandoned
    }
}
