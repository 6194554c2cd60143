//! The outgoing half of a connection: answers gather here, from any thread, until the connection's
//! task writes them.
//!
//! Invariants: every request gets exactly one answer, also when its [`Responder`] is dropped; an
//! answer wakes the connection's task only if that went to sleep; what is unsent is known, per
//! connection and over all of them, so that no more requests are handled while it is too much. No
//! thread waits for another to encode an answer.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Waker;

use bytes::BytesMut;
use parking_lot::Mutex;
use serde::Serialize;
use sherd_protocol::message::Answer;
use sherd_protocol::{FrameError, WireError, frame};

use crate::budget::{Budget, Charge};
use crate::limits::{COPIED_ANSWER_BYTES, FREE_ANSWER_BYTES};

thread_local! {
    /// Where the thread encodes its answers, so that short ones need no memory of their own.
    static SCRATCH: Cell<BytesMut> = Cell::default();
}

/// Answers of one connection on their way out.
pub(crate) struct Outbox {
    frame_bytes: usize,
    /// What all connections' unsent answers are charged to.
    budget: Arc<Budget>,
    /// `unsent` and `reserved`, readable without the lock: looked at before each request.
    load: AtomicUsize,
    /// One lock for all, held for as long as [`COPIED_ANSWER_BYTES`] are copied at most.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Encoded answers, not yet taken by the connection's task: those in `whole` first, long ones
    /// each in a buffer of its own, and then the short ones in `pending`.
    whole: VecDeque<BytesMut>,
    pending: BytesMut,
    /// The bytes of `whole` and `pending`.
    unsent: usize,
    /// What of `unsent` is charged to the budget: all but [`FREE_ANSWER_BYTES`].
    charged: usize,
    /// Bytes announced for answers to come.
    reserved: usize,
    /// Requests answered in the life of the connection.
    answered: u64,
    /// The connection's task, while it sleeps.
    waker: Option<Waker>,
    draining: bool,
    closed: bool,
}

/// What the connection's task learns on each round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Requests answered so far.
    pub(crate) answered: u64,
    /// Whether the node shuts down.
    pub(crate) draining: bool,
}

/// The error answer, which all roles share.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Failure<'a> {
    Error(&'a WireError),
}

impl Outbox {
    pub(crate) fn new(frame_bytes: usize, budget: Arc<Budget>) -> Arc<Self> {
        Arc::new(Self { frame_bytes, budget, load: AtomicUsize::new(0), state: Mutex::default() })
    }

    /// Bytes unsent or announced, apart from those that the task has taken.
    pub(crate) fn load(&self) -> usize {
        self.load.load(Relaxed)
    }

    /// Hands over the next of the encoded answers, and what of them is charged, in exchange for an
    /// empty buffer.
    pub(crate) fn take(&self, writing: &mut BytesMut, charged: &mut usize) -> Seen {
        let mut state = self.state.lock();
        if writing.is_empty() {
            match state.whole.pop_front() {
                Some(answers) => *writing = answers,
                None => std::mem::swap(writing, &mut state.pending),
            }
            state.unsent -= writing.len();
            let chargeable = state.chargeable();
            *charged = state.charged - chargeable;
            state.charged = chargeable;
            self.load.store(state.unsent + state.reserved, Relaxed);
        }
        state.seen()
    }

    /// Registers the task for a wake-up, unless something came that `seen` does not have or that
    /// could be written; then returns `false`.
    pub(crate) fn sleep(&self, waker: &Waker, seen: Seen, can_write: bool) -> bool {
        let mut state = self.state.lock();
        if state.seen() != seen || (can_write && state.unsent > 0) {
            return false;
        }
        match &mut state.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        true
    }

    /// Tells the connection's task that the node shuts down.
    pub(crate) fn drain(&self) {
        let waker = {
            let mut state = self.state.lock();
            state.draining = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The connection is gone: answers are dropped from now on.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.waker = None;
        state.whole = VecDeque::new();
        state.pending = BytesMut::new();
        state.unsent = 0;
        self.budget.give(std::mem::take(&mut state.charged));
    }

    fn reserve(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.reserved += bytes;
        self.load.store(state.unsent + state.reserved, Relaxed);
        self.budget.take_anyway(bytes);
    }

    /// Takes back what was reserved; the answer will have about `expected` bytes, 0 where that is not known.
    fn post<A: Serialize>(&self, id: u64, outcome: &A, reserved: usize, expected: usize) {
        // A thread that ends has no scratch any more; then a buffer is made for the answer.
        let mut answer = SCRATCH.try_with(Cell::take).unwrap_or_default();
        answer.reserve(expected);
        self.encode(&mut answer, id, outcome);
        let waker = {
            let mut state = self.state.lock();
            state.answered += 1;
            state.reserved -= reserved;
            if !state.closed {
                state.append(&mut answer);
                let chargeable = state.chargeable();
                // Only more became unsent, so this does not go below zero.
                self.budget.take_anyway(chargeable - state.charged);
                state.charged = chargeable;
            }
            self.load.store(state.unsent + state.reserved, Relaxed);
            state.waker.take()
        };
        answer.clear();
        // Memory that grew for a long answer that was not handed over is not kept.
        if answer.capacity() <= 2 * COPIED_ANSWER_BYTES {
            _ = SCRATCH.try_with(|scratch| scratch.set(answer));
        }
        if reserved > 0 {
            self.budget.give(reserved);
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn encode<A: Serialize>(&self, out: &mut BytesMut, id: u64, outcome: &A) {
        let Err(error) = frame::encode(out, &Answer { id, outcome }, self.frame_bytes) else {
            return;
        };
        let error = match error {
            FrameError::TooLarge { length, limit } => WireError::TooLarge {
                what: "the answer".to_owned(),
                size: length as u64,
                limit: limit as u64,
            },
            other => WireError::Internal { what: format!("the answer cannot be encoded: {other}") },
        };
        let outcome = Failure::Error(&error);
        if let Err(error) = frame::encode(out, &Answer { id, outcome }, self.frame_bytes) {
            tracing::error!(id, %error, "an answer could not be encoded, its request stays open");
        }
    }
}

impl State {
    /// Adds an encoded answer after those that are there. A long one is taken out of `answer`.
    fn append(&mut self, answer: &mut BytesMut) {
        self.unsent += answer.len();
        if answer.len() <= COPIED_ANSWER_BYTES {
            self.pending.extend_from_slice(answer);
            return;
        }
        if !self.pending.is_empty() {
            self.whole.push_back(std::mem::take(&mut self.pending));
        }
        self.whole.push_back(std::mem::take(answer));
    }

    fn chargeable(&self) -> usize {
        self.unsent.saturating_sub(FREE_ANSWER_BYTES)
    }

    fn seen(&self) -> Seen {
        Seen { answered: self.answered, draining: self.draining }
    }
}

/// The obligation to answer one request. Dropped without an answer, it answers an internal error.
///
/// May be sent to any thread and kept for as long as the request takes; answering never blocks.
#[must_use = "a responder that is dropped answers an internal error"]
pub struct Responder {
    outbox: Arc<Outbox>,
    id: u64,
    reserved: usize,
    answered: bool,
    /// What the request's bytes cost its budget, until it is answered.
    _charge: Charge,
}

impl Responder {
    pub(crate) fn new(outbox: Arc<Outbox>, id: u64, charge: Charge) -> Self {
        Self { outbox, id, reserved: 0, answered: false, _charge: charge }
    }

    /// Announces that the answer, which comes later, will have about `bytes` bytes. Until it is
    /// there they count as unsent, so that what is handled after this request is bounded by it.
    ///
    /// Needed only for large answers that are not sent before [`crate::Handler::handle`] returns.
    pub fn reserve(&mut self, bytes: usize) {
        self.reserved += bytes;
        self.outbox.reserve(bytes);
    }

    /// Answers. An answer that is longer than a frame may be becomes the error `too_large`.
    pub fn send<A: Serialize>(mut self, answer: &A) {
        self.answered = true;
        self.outbox.post(self.id, answer, self.reserved, self.reserved);
    }

    /// Answers with an error: `{"error": …}`, as in all roles' answers.
    pub fn refuse(mut self, error: &WireError) {
        self.answered = true;
        self.outbox.post(self.id, &Failure::Error(error), self.reserved, 0);
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if !self.answered {
            let error = WireError::Internal { what: "the request was dropped".to_owned() };
            self.outbox.post(self.id, &Failure::Error(&error), self.reserved, 0);
        }
    }
}
