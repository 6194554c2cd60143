//! Every bound of a node, with its reason.
//!
//! What a peer can make a node hold is at most, over all connections: [`READ_BUFFER_BYTES`] and
//! [`FREE_ANSWER_BYTES`] each, plus the three budgets, each exceeded by one frame at most.

use std::time::Duration;

use sherd_protocol::DEFAULT_MAX_FRAME_BYTES;

/// The read buffer of a connection: some hundred usual requests in one system call, and still
/// little with all connections open. Frames that fit are *small* and cost no memory of their own
/// before they are whole; others are *large*.
pub(crate) const READ_BUFFER_BYTES: usize = 32 * 1024;

/// Unsent answers of a connection that are not charged to the budget, so that usual answers touch
/// nothing shared.
pub(crate) const FREE_ANSWER_BYTES: usize = 32 * 1024;

/// The longest answer that is copied to those that wait before it; a longer one is handed over as
/// it is. Copying this much takes a few microseconds, for which other threads with an answer for
/// the same connection may well wait.
pub(crate) const COPIED_ANSWER_BYTES: usize = 32 * 1024;

/// The longest hello: names and tokens are short, and nobody has shown a token yet.
pub(crate) const MAX_HELLO_BYTES: usize = 4096;

/// Connections over the limit that are told so at the same time; others are just closed.
pub(crate) const MAX_REFUSALS: usize = 64;

/// The pause after a failed accept: mostly the process is out of file descriptors, and trying
/// again at once would burn a core.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How coarsely a connection looks at its time limits, at most.
pub(crate) const MAX_TICK: Duration = Duration::from_secs(1);

/// How coarsely a connection looks at its time limits, at least: for tests with short limits.
pub(crate) const MIN_TICK: Duration = Duration::from_millis(5);

const _: () = assert!(MAX_HELLO_BYTES < READ_BUFFER_BYTES);

/// The bounds of a node. Each default serves; tests shorten them.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections. Default 1024: a few for each of hundreds of clients, below the usual
    /// limit on a process's file descriptors of 1024 or more where segments take some.
    pub connections: usize,
    /// The longest frame. Default 16 MiB: the largest document with the longest names.
    pub frame_bytes: usize,
    /// Unanswered requests of a connection; while reached, nothing more is read from it.
    /// Default 256: enough to keep a group commit busy from one connection.
    pub in_flight: usize,
    /// Small requests in flight over all connections, in bytes. Default 64 MiB.
    pub small_request_bytes: usize,
    /// Large requests arriving or in flight over all connections, in bytes. Default 256 MiB:
    /// sixteen frames of the greatest length. Apart from the small ones, so that whoever promises
    /// large frames and does not send them stays in the way of large frames only.
    pub large_request_bytes: usize,
    /// Unsent answers of a connection; while reached, no more of its requests are handled.
    /// Default 1 MiB: one answer may go over, so a slow reader costs little more than one answer.
    pub answer_bytes: usize,
    /// Unsent answers over all connections, apart from 32 KiB of each. Default 256 MiB. While
    /// reached, no requests are handled, and readers that stand still have only
    /// [`Limits::pressure_time`].
    pub total_answer_bytes: usize,
    /// From accept to a whole hello. Default 5 s.
    pub hello_time: Duration,
    /// From the first byte of a frame to its last, while the node reads. Default 30 s: 16 MiB at
    /// 5 Mbit/s.
    pub frame_time: Duration,
    /// For a reader that takes no byte of its answers. Default 30 s.
    pub write_time: Duration,
    /// With nothing asked and nothing to answer. Default 15 min: longer than clients keep an idle
    /// connection, so that they close it first and no request is lost in the crossing.
    pub idle_time: Duration,
    /// For a peer that stands still while it holds a part of an exhausted budget. Default 1 s.
    pub pressure_time: Duration,
    /// From shutdown until connections that have not finished are cut. Default 10 s.
    pub drain_time: Duration,
    /// For the peer to close its side after the node's last answer: closing with unread bytes
    /// would reset the connection, and with it answers the peer has not yet read. Default 500 ms.
    pub linger_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            frame_bytes: DEFAULT_MAX_FRAME_BYTES,
            in_flight: 256,
            small_request_bytes: 64 << 20,
            large_request_bytes: 256 << 20,
            answer_bytes: 1 << 20,
            total_answer_bytes: 256 << 20,
            hello_time: Duration::from_secs(5),
            frame_time: Duration::from_secs(30),
            write_time: Duration::from_secs(30),
            idle_time: Duration::from_secs(15 * 60),
            pressure_time: Duration::from_secs(1),
            drain_time: Duration::from_secs(10),
            linger_time: Duration::from_millis(500),
        }
    }
}

impl Limits {
    /// How often a connection looks at its time limits: a quarter of the shortest, within reason.
    pub(crate) fn tick(&self) -> Duration {
        let times = [self.frame_time, self.write_time, self.idle_time, self.pressure_time];
        let shortest = times.into_iter().min().unwrap_or(MAX_TICK);
        (shortest / 4).clamp(MIN_TICK, MAX_TICK)
    }
}
