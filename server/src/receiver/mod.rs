//! Taking a range over from another shard: the target's part of a move.
//!
//! One task at a time pulls from the source: page by page all documents of the range, then the end of
//! the source's log. What it brings goes into the engine together with how far it is, so that it goes
//! on from there after a restart of either; bootstrap tells it to, for it alone knows where the source
//! is. A page holds all that the source has between two keys, so a range that has to be read anew (the
//! source's log was compacted meanwhile) is read over what is there already.

mod note;
mod pace;
mod pull;
mod shown;
mod source;
#[cfg(test)]
mod tests;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use sherd_client::ConnectOptions;
use sherd_engine::Engine;
use sherd_node::Responder;
use sherd_protocol::message::MoveProgress;
use sherd_protocol::{Range, WireError};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use self::note::Note;
use self::pace::Pace;
use self::pull::Pull;
use self::waiting::Waiting;

/// What is to be taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) range: Range,
    /// The address of the source.
    pub(crate) from: String,
    /// Bytes a second; 0 for none now.
    pub(crate) rate: Option<u64>,
}

/// What takes ranges over.
#[derive(Clone)]
pub(crate) struct Receiver(Arc<Inner>);

struct Inner {
    engine: Engine,
    options: ConnectOptions,
    runtime: Handle,
    /// How many requests of clients the shard had.
    served: Arc<AtomicU64>,
    current: Mutex<Option<Current>>,
}

/// The move under way.
struct Current {
    job: watch::Sender<Job>,
    shared: Arc<Shared>,
    task: AbortHandle,
}

/// What the receiver and the task of a move share.
struct Shared {
    progress: Mutex<MoveProgress>,
    /// Who waits for its completion.
    waiting: Waiting,
    /// It is complete, and nothing more is brought unless it is told to go on: the source may have given
    /// the range up.
    completed: AtomicBool,
}

impl Receiver {
    /// `served` counts the requests of clients: a move gives way to them.
    pub(crate) fn new(engine: Engine, options: ConnectOptions, served: Arc<AtomicU64>) -> Self {
        let (runtime, current) = (Handle::current(), Mutex::default());
        Self(Arc::new(Inner { engine, options, runtime, served, current }))
    }

    /// Takes a job on, which the engine has begun, in the place of any other.
    pub(crate) fn take_on(&self, job: Job) {
        let mut current = self.0.current.lock();
        if let Some(current) = &*current
            && current.job.borrow().id == job.id
            && !current.task.is_finished()
        {
            current.job.send_if_modified(|held| std::mem::replace(held, job.clone()) != job);
            // It is not handed over, or bootstrap would not say so.
            current.shared.completed.store(false, Ordering::Release);
            return;
        }
        end(current.take());
        let progress = MoveProgress { id: job.id.clone(), ..MoveProgress::default() };
        let shared = Arc::new(Shared {
            progress: Mutex::new(progress),
            waiting: Waiting::default(),
            completed: AtomicBool::new(false),
        });
        let (job, jobs) = watch::channel(job);
        let Inner { engine, options, runtime, served, .. } = &*self.0;
        let pace = Pace::new(Arc::clone(served));
        let pull = Pull::new(engine.clone(), options.clone(), jobs, Arc::clone(&shared), pace);
        let task = runtime.spawn(pull.run()).abort_handle();
        *current = Some(Current { job, shared, task });
    }

    /// Ends a job.
    pub(crate) fn stop(&self, id: &str) {
        end(self.0.current.lock().take_if(|current| current.job.borrow().id == id));
    }

    /// Completes a job, and answers then.
    pub(crate) fn complete(&self, id: &str, responder: Responder) {
        let current = self.0.current.lock();
        match current.as_ref().filter(|current| current.job.borrow().id == id) {
            Some(current) => current.shared.waiting.put(id, responder),
            None => responder.refuse(&unavailable(id, "it was not told to receive anything")),
        }
    }

    /// How far the move is that the engine knows of.
    pub(crate) fn progress(&self, held: Option<&sherd_engine::Incoming>) -> Option<MoveProgress> {
        let held = held?;
        let current = self.0.current.lock();
        if let Some(current) = current.as_ref().filter(|it| it.job.borrow().id == held.id) {
            return Some(current.shared.progress.lock().clone());
        }
        let note = Note::decode(&held.note).unwrap_or_default();
        let error = Some("it waits to be told to go on".to_owned());
        Some(MoveProgress { error, ..note.progress(&held.id) })
    }
}

fn end(current: Option<Current>) {
    if let Some(current) = current {
        current.task.abort();
    }
}

fn unavailable(id: &str, why: impl std::fmt::Display) -> WireError {
    WireError::Unavailable { what: format!("the move {id}"), why: format!("{why}") }
}
