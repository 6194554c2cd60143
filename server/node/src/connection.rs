//! One connection after its hello: a single task that reads requests, hands them out and writes
//! the answers.
//!
//! Each round writes what has gathered, hands out whole requests as far as the bounds allow, and
//! reads more; the task sleeps when none of these can go on. It looks at time limits only at
//! ticks, so that a request costs no look at the clock.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sherd_protocol::frame::Stream;
use sherd_protocol::message::split_id;
use sherd_protocol::{FrameError, WireError};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use crate::budget::Charge;
use crate::inbound::{Head, Inbound};
use crate::limits::FREE_ANSWER_BYTES;
use crate::node::{Handler, Shared};
use crate::outbox::{Outbox, Responder, Seen};
use crate::stall::Stall;

/// Why a connection was closed other than by its peer or by shutdown.
#[derive(Debug)]
pub(crate) enum Closed {
    /// What the peer did not do, within which time.
    TooSlow(&'static str, Duration),
    Io(std::io::Error),
}

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooSlow(what, time) => write!(f, "{what} took longer than {time:?}"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl From<std::io::Error> for Closed {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// Why no more requests are handed out in this round.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Intake {
    /// More bytes are needed.
    Hungry,
    /// A bound is reached; whatever frees it wakes the task.
    Blocked,
}

pub(crate) struct Connection<'a, H, S> {
    stream: &'a mut S,
    inbound: Inbound,
    handler: &'a H,
    shared: &'a Shared,
    /// Unique in the node: its name where it waits for a budget.
    id: u64,
    outbox: Arc<Outbox>,
    /// Answers taken from the outbox: empty once all are written.
    writing: BytesMut,
    /// How many bytes of `writing` are written.
    sent: usize,
    /// What of `writing` is charged to the budget of answers.
    charged: usize,
    /// Bytes written, and requests handed out, in the life of the connection.
    written: u64,
    dispatched: u64,
    seen: Seen,
    intake: Intake,
    /// Nothing more is read: the peer ended its side or sent what cannot be answered.
    ending: bool,
    ticker: Interval,
    frame: Stall,
    large: Stall,
    write: Stall,
    idle: Stall,
}

impl<'a, H: Handler, S: Stream> Connection<'a, H, S> {
    pub(crate) fn new(
        stream: &'a mut S,
        inbound: Inbound,
        handler: &'a H,
        shared: &'a Shared,
        id: u64,
        outbox: Arc<Outbox>,
    ) -> Self {
        let mut ticker = interval(shared.limits.tick());
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            stream,
            inbound,
            handler,
            shared,
            id,
            outbox,
            writing: BytesMut::new(),
            sent: 0,
            charged: 0,
            written: 0,
            dispatched: 0,
            seen: Seen::default(),
            intake: Intake::Hungry,
            ending: false,
            ticker,
            frame: Stall::default(),
            large: Stall::default(),
            write: Stall::default(),
            idle: Stall::default(),
        }
    }

    /// Runs until the peer is done or the node shuts down, and all answers are written.
    pub(crate) async fn run(mut self) -> Result<(), Closed> {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        while self.ticker.poll_tick(cx).is_ready() {
            self.check_times()?;
        }
        loop {
            self.write(cx)?;
            self.intake = self.dispatch(cx);
            if self.intake == Intake::Hungry
                && let Poll::Ready(more) = self.inbound.poll_read(cx, self.stream)?
            {
                self.ending |= !more;
                continue;
            }
            let done = self.writing.is_empty() && self.dispatched == self.seen.answered;
            let can_write = self.writing.is_empty();
            if self.outbox.sleep(cx.waker(), self.seen, can_write) {
                let finished = done && (self.ending || self.seen.draining);
                return if finished { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
        }
    }

    /// Takes the answers that have gathered, once those taken before are written, and writes them
    /// until there are none or the socket is full.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), Closed> {
        self.seen = self.outbox.take(&mut self.writing, &mut self.charged);
        if self.writing.is_empty() {
            return Ok(());
        }
        while self.sent < self.writing.len() {
            let unsent = &self.writing[self.sent..];
            let Poll::Ready(count) = Pin::new(&mut *self.stream).poll_write(cx, unsent)? else {
                return Ok(());
            };
            self.sent += count;
            self.written += count as u64;
        }
        self.sent = 0;
        self.shared.answers.give(std::mem::take(&mut self.charged));
        if self.writing.capacity() > FREE_ANSWER_BYTES {
            // Memory that grew for a large answer is not kept.
            self.writing = BytesMut::new();
        } else {
            self.writing.clear();
        }
        Ok(())
    }

    /// Hands out the requests that are there, as far as the bounds allow.
    fn dispatch(&mut self, cx: &Context<'_>) -> Intake {
        let shared = self.shared;
        while !self.ending {
            let in_flight = self.dispatched - self.seen.answered;
            let unsent = self.writing.len() - self.sent + self.outbox.load();
            if in_flight >= shared.limits.in_flight as u64
                || unsent >= shared.limits.answer_bytes
                || shared.answers.poll_left(cx, self.id).is_pending()
            {
                return Intake::Blocked;
            }
            match self.inbound.head() {
                Ok(Head::Partial) => return Intake::Hungry,
                Ok(Head::Small(length)) => {
                    let Poll::Ready(charge) = shared.small.poll_take(cx, self.id, length) else {
                        return Intake::Blocked;
                    };
                    let split = split_id(&self.inbound.body()[..length])
                        .map(|(id, operation)| (id, Bytes::copy_from_slice(operation)));
                    self.inbound.consume(length);
                    self.hand_out(split, charge);
                }
                Ok(Head::Large(length)) => {
                    let Poll::Ready(charge) = shared.large.poll_take(cx, self.id, length) else {
                        return Intake::Blocked;
                    };
                    self.inbound.begin_large(length, charge);
                }
                Ok(Head::Whole) => {
                    if let Some((body, charge)) = self.inbound.take_large() {
                        let split =
                            split_id(&body).map(|(id, operation)| (id, body.slice_ref(operation)));
                        self.hand_out(split, charge);
                    }
                }
                Err(error) => self.refuse_oversized(&error, cx),
            }
        }
        Intake::Blocked
    }

    fn hand_out(&mut self, request: Result<(u64, Bytes), FrameError>, charge: Charge) {
        let Ok((id, operation)) = request else {
            // Without an id there is no answer: what else comes cannot be trusted either.
            self.ending = true;
            return;
        };
        self.dispatched += 1;
        let responder = Responder::new(Arc::clone(&self.outbox), id, charge);
        if self.seen.draining {
            responder.refuse(&WireError::ShuttingDown);
        } else {
            self.handler.handle(operation, responder);
        }
    }

    /// Answers a frame whose length is over the limit, if its id came along with the length, and
    /// ends the connection: what the frame holds will not be read.
    fn refuse_oversized(&mut self, error: &FrameError, cx: &Context<'_>) {
        self.ending = true;
        let FrameError::TooLarge { length, limit } = *error else { return };
        let Ok((id, _)) = split_id(self.inbound.body()) else { return };
        let Poll::Ready(charge) = self.shared.small.poll_take(cx, self.id, 0) else { return };
        self.dispatched += 1;
        Responder::new(Arc::clone(&self.outbox), id, charge).refuse(&WireError::TooLarge {
            what: "the frame".to_owned(),
            size: length as u64,
            limit: limit as u64,
        });
    }

    /// Ends the connection when its peer lets the node wait for too long.
    fn check_times(&mut self) -> Result<(), Closed> {
        let (limits, now) = (&self.shared.limits, Instant::now());
        let within = |what, stalled: Duration, time: Duration| {
            if stalled > time { Err(Closed::TooSlow(what, time)) } else { Ok(()) }
        };
        let pressed = |time: Duration, exhausted: bool| {
            if exhausted { time.min(limits.pressure_time) } else { time }
        };

        let waits_for_reader = !self.writing.is_empty();
        let write_time = pressed(limits.write_time, self.shared.answers.is_exhausted());
        let stalled = self.write.observe(waits_for_reader.then_some(self.written), now);
        within("taking answers", stalled, write_time)?;

        let waits_for_frame = self.intake == Intake::Hungry && !self.inbound.is_empty();
        let stalled = self.frame.observe(waits_for_frame.then_some(self.dispatched), now);
        within("sending a frame", stalled, limits.frame_time)?;

        let waits_for_large = self.intake == Intake::Hungry && self.inbound.is_large();
        let stalled = self.large.observe(waits_for_large.then_some(self.inbound.bytes), now);
        let large_time = pressed(limits.frame_time, self.shared.large.is_exhausted());
        within("sending a large frame", stalled, large_time)?;

        let idle = self.inbound.is_empty()
            && self.writing.is_empty()
            && self.dispatched == self.seen.answered;
        let stalled = self.idle.observe(idle.then_some(self.dispatched), now);
        within("the next request", stalled, limits.idle_time)
    }
}

impl<H, S> Drop for Connection<'_, H, S> {
    fn drop(&mut self) {
        self.shared.answers.give(std::mem::take(&mut self.charged));
    }
}
