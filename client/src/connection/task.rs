//! The task of a connection, and what it shares with callers.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use sherd_protocol::frame::{LENGTH_BYTES, Stream};
use sherd_protocol::message::split_id;
use sherd_protocol::{DEFAULT_MAX_FRAME_BYTES, FrameError, frame};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tokio_util::io::poll_read_buf;
use tokio_util::sync::CancellationToken;

use super::ConnectOptions;

/// Room made for each read: some hundred usual answers at once.
const READ_BYTES: usize = 64 * 1024;

/// A write buffer that grew beyond is not kept.
const KEPT_BYTES: usize = 64 * 1024;

/// How coarsely the task looks at its time limits, at most.
const MAX_TICK: Duration = Duration::from_secs(1);

/// How coarsely the task looks at its time limits, at least: for tests with short limits.
const MIN_TICK: Duration = Duration::from_millis(5);

/// The connection ended before the answer. The node can have executed the request only if all of
/// it was `sent`.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) sent: bool,
}

type Outcome = Result<Bytes, Lost>;

/// What callers and the task share.
pub(super) struct Shared {
    /// One lock, held for as long as one request is encoded.
    state: Mutex<State>,
    /// Bytes read since the hello.
    received: AtomicU64,
    /// Cancelled when the connection has ended.
    pub(super) ended: CancellationToken,
}

#[derive(Default)]
struct State {
    /// Encoded requests that the task has not taken.
    outgoing: BytesMut,
    /// Bytes handed to `outgoing`, and written to the socket, since the hello.
    queued: u64,
    written: u64,
    next_id: u64,
    /// Who waits for an answer. A caller that gave up stays here until the node has answered, for
    /// its request still takes up one of the slots.
    waiting: HashMap<u64, Waiting>,
    /// The task, while it sleeps.
    waker: Option<Waker>,
    /// No caller is left.
    abandoned: bool,
    /// Why the connection ended.
    failed: Option<Arc<str>>,
}

struct Waiting {
    /// `State::queued` after the request: it is sent once that much is written.
    end: u64,
    answer: oneshot::Sender<Outcome>,
    _slot: OwnedSemaphorePermit,
}

impl Shared {
    /// Starts the task on a connection whose hellos are exchanged.
    pub(super) fn start(
        stream: impl Stream,
        buffer: BytesMut,
        options: &ConnectOptions,
    ) -> Arc<Self> {
        let (state, received, ended) = Default::default();
        let shared = Arc::new(Self { state, received, ended });
        let (idle_time, silence_time) = (options.idle_time, options.silence_time);
        let tick = (idle_time.min(silence_time) / 4).clamp(MIN_TICK, MAX_TICK);
        let mut ticker = interval(tick);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let task = Task {
            shared: Arc::clone(&shared),
            stream,
            buffer,
            writing: BytesMut::new(),
            sent: 0,
            gathering: false,
            ticker,
            idle_time,
            silence_time,
            quiet: (0, Instant::now()),
        };
        tokio::spawn(task.run());
        shared
    }

    /// Queues a request; `None` when the connection has ended.
    pub(super) fn send(
        &self,
        slot: OwnedSemaphorePermit,
        encode: impl FnOnce(u64, &mut BytesMut) -> Result<(), FrameError>,
    ) -> Result<Option<oneshot::Receiver<Outcome>>, FrameError> {
        let (answer, answered) = oneshot::channel();
        let waker = {
            let mut state = self.state.lock();
            if state.failed.is_some() {
                return Ok(None);
            }
            let id = state.next_id;
            let before = state.outgoing.len();
            encode(id, &mut state.outgoing)?;
            state.queued += (state.outgoing.len() - before) as u64;
            state.next_id += 1;
            let end = state.queued;
            state.waiting.insert(id, Waiting { end, answer, _slot: slot });
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(Some(answered))
    }

    pub(super) fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    pub(super) fn why_ended(&self) -> Arc<str> {
        self.state.lock().failed.clone().unwrap_or_else(|| "the connection is open".into())
    }

    /// Ends the connection for want of callers.
    pub(super) fn abandon(&self) {
        let waker = {
            let mut state = self.state.lock();
            state.abandoned = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ends the connection: everyone waiting learns whether its request was sent.
    fn fail(&self, why: &str) {
        let (waiting, written) = {
            let mut state = self.state.lock();
            if state.failed.is_some() {
                return;
            }
            state.failed = Some(why.into());
            state.outgoing = BytesMut::new();
            (std::mem::take(&mut state.waiting), state.written)
        };
        self.ended.cancel();
        for waiting in waiting.into_values() {
            // Whoever gave up does not listen any more.
            _ = waiting.answer.send(Err(Lost { sent: waiting.end <= written }));
        }
    }
}

struct Task<S> {
    shared: Arc<Shared>,
    stream: S,
    /// Bytes read and not yet routed.
    buffer: BytesMut,
    /// Requests taken from the shared state, of which `sent` bytes are written.
    writing: BytesMut,
    sent: usize,
    /// Whether the task has let other callers run before it writes.
    gathering: bool,
    ticker: Interval,
    idle_time: Duration,
    silence_time: Duration,
    /// The bytes queued, written and read when last looked at, and since when they are the same.
    quiet: (u64, Instant),
}

impl<S> Drop for Task<S> {
    fn drop(&mut self) {
        // Also when the runtime shuts down: nobody waits for a task that is gone.
        self.shared.fail("the connection's task was stopped");
    }
}

impl<S: Stream> Task<S> {
    async fn run(mut self) {
        let why = poll_fn(|cx| self.poll(cx)).await;
        self.shared.fail(&why);
    }

    /// Goes on until the connection ends; returns why.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        while self.ticker.poll_tick(cx).is_ready() {
            if let Err(why) = self.check_times() {
                return Poll::Ready(why);
            }
        }
        loop {
            match self.write(cx) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(error) => return Poll::Ready(format!("the connection was lost: {error}")),
            }
            match self.read(cx) {
                Poll::Ready(Ok(())) => continue,
                Poll::Ready(Err(why)) => return Poll::Ready(why),
                Poll::Pending => {}
            }
            let mut state = self.shared.state.lock();
            if state.abandoned {
                return Poll::Ready("nobody uses the connection any more".to_owned());
            }
            if state.outgoing.is_empty() || !self.writing.is_empty() {
                state.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
    }

    /// Writes until there is nothing or the socket is full. `false` when it lets others go first.
    fn write(&mut self, cx: &mut Context<'_>) -> std::io::Result<bool> {
        if self.writing.is_empty() {
            let mut state = self.shared.state.lock();
            if state.outgoing.is_empty() {
                return Ok(true);
            }
            if state.waiting.len() > 1 && !self.gathering {
                // Others are at it too: those that are ready to run add their requests to this
                // write. A lone caller does not wait.
                self.gathering = true;
                cx.waker().wake_by_ref();
                return Ok(false);
            }
            std::mem::swap(&mut self.writing, &mut state.outgoing);
        }
        self.gathering = false;
        let mut written = 0;
        let result = loop {
            let unsent = &self.writing[self.sent..];
            if unsent.is_empty() {
                break Ok(());
            }
            match Pin::new(&mut self.stream).poll_write(cx, unsent) {
                Poll::Ready(Ok(count)) => {
                    self.sent += count;
                    written += count as u64;
                }
                Poll::Ready(Err(error)) => break Err(error),
                Poll::Pending => break Ok(()),
            }
        };
        self.shared.state.lock().written += written;
        result?;
        if self.sent == self.writing.len() {
            self.sent = 0;
            if self.writing.capacity() > KEPT_BYTES {
                self.writing = BytesMut::new();
            } else {
                self.writing.clear();
            }
        }
        Ok(true)
    }

    /// Reads what is there and routes the answers.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        self.make_room();
        let stream = Pin::new(&mut self.stream);
        let count = match poll_read_buf(stream, cx, &mut self.buffer) {
            Poll::Ready(Ok(0)) => {
                return Poll::Ready(Err("the connection was closed by the node".to_owned()));
            }
            Poll::Ready(Ok(count)) => count as u64,
            Poll::Ready(Err(error)) => {
                return Poll::Ready(Err(format!("the connection was lost: {error}")));
            }
            Poll::Pending => return Poll::Pending,
        };
        Poll::Ready(self.route(count))
    }

    /// Makes room for the rest of the frame that has begun, or for many small ones.
    fn make_room(&mut self) {
        let begun = frame::body_length(&self.buffer, DEFAULT_MAX_FRAME_BYTES).ok().flatten();
        let whole = begun.map_or(0, |length| LENGTH_BYTES + length);
        let missing = whole.saturating_sub(self.buffer.len());
        if self.buffer.capacity() - self.buffer.len() < missing.max(READ_BYTES / 8) {
            self.buffer.reserve(missing.max(READ_BYTES));
        }
    }

    fn route(&mut self, count: u64) -> Result<(), String> {
        let mut answered = Vec::new();
        let broken = loop {
            match frame::split(&mut self.buffer, DEFAULT_MAX_FRAME_BYTES) {
                Ok(Some(body)) => match split_id(&body) {
                    Ok((id, outcome)) => answered.push((id, body.slice_ref(outcome))),
                    Err(error) => break Some(error.to_string()),
                },
                Ok(None) => break None,
                Err(error) => break Some(error.to_string()),
            }
        };
        self.shared.received.fetch_add(count, Relaxed);
        let mut state = self.shared.state.lock();
        let found: Vec<_> = answered
            .into_iter()
            .map(|(id, outcome)| (state.waiting.remove(&id), outcome))
            .collect();
        drop(state);
        let mut strangers = 0;
        for (waiting, outcome) in found {
            match waiting {
                Some(waiting) => _ = waiting.answer.send(Ok(outcome)),
                None => strangers += 1,
            }
        }
        match broken {
            Some(what) => Err(format!("the node broke the protocol: {what}")),
            None if strangers > 0 => {
                Err("the node broke the protocol: it answered what nobody asked".to_owned())
            }
            None => Ok(()),
        }
    }

    fn check_times(&mut self) -> Result<(), String> {
        let now = Instant::now();
        let (moved, waiting) = {
            let state = self.shared.state.lock();
            // With what is queued, so that the time starts anew with a request after a pause.
            (state.queued + state.written + self.shared.received(), state.waiting.len())
        };
        if self.quiet.0 != moved {
            self.quiet = (moved, now);
        }
        let quiet = now - self.quiet.1;
        if waiting > 0 && quiet > self.silence_time {
            return Err(format!("the node was silent for {quiet:.1?}"));
        }
        if waiting == 0 && quiet > self.idle_time {
            return Err("the connection was idle".to_owned());
        }
        Ok(())
    }
}
