//! Histories of what concurrent clients asked and were answered, and a check that they are
//! linearizable.
//!
//! A history is linearizable if each operation can be given a moment between its invocation and its
//! answer, such that all of them, one at a time in the order of these moments, give the answers
//! that were given (Herlihy and Wing, *Linearizability: A Correctness Condition for Concurrent
//! Objects*, 1990). That is what Sherd promises of each key, and nothing across keys. A whole is
//! linearizable if each of its keys is, so every key is checked by itself, which makes it fast.
//!
//! * An operation of *unknown* outcome may have happened at any moment from its invocation on, also
//!   long after the client was told, or never. One that was *refused* did not happen.
//! * Versions are part of the promise: those of a key only grow, also across removals.
//! * A read of everything after the load belongs to a history: what was acknowledged and is lost,
//!   or was removed and is back, is then found however it came about.
//!
//! ```text
//! let mut recorder = Recorder::new(0, Clock::start());
//! recorder.record(&key, Call::Pop, async { /* ask, and say what was answered */ }).await;
//! let history: History = recorders.into_iter().flat_map(Recorder::into_operations).collect();
//! check(&history).unwrap_or_else(|violation| panic!("{violation}"));
//! ```
//!
//! # Caveats
//! Documents that expire or are evicted are not modelled. Of an operation that says how a document
//! was left and nothing of how it was found, little can be wrong: reads are what finds mistakes.

mod mutation;
mod search;
mod state;
mod violation;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sherd_client::Condition;

pub(crate) use mutation::{MUTATIONS, Mutated, Mutation};
pub(crate) use search::check;
pub(crate) use violation::Violation;

/// A document, of which the checker only has to know which one it is: no two writes of a history
/// have the same.
pub(crate) type Value = u64;

/// All operations of all clients, in any order.
pub(crate) type History = Vec<Operation>;

/// What a client asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Read,
    /// Asks for the version alone.
    Has,
    Write {
        value: Value,
        condition: Condition,
    },
    /// Removes what is there, or only that version.
    Remove {
        version: Option<u64>,
    },
    Pop,
}

/// What a client was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// To a read or a pop.
    Found {
        value: Value,
        version: u64,
    },
    /// To a has.
    There {
        version: u64,
    },
    /// To all but a write.
    Missing,
    Written {
        version: u64,
    },
    /// With the version of the removal.
    Removed {
        version: u64,
    },
    /// With the version that is there instead.
    ConditionFailed {
        version: Option<u64>,
    },
    /// It happened after its invocation, or never.
    Unknown,
    /// It did not happen.
    Refused,
}

/// A call, its answer, and when they were, since the start of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) client: usize,
    pub(crate) key: Arc<str>,
    pub(crate) call: Call,
    pub(crate) invoked: Duration,
    pub(crate) answer: Answer,
    pub(crate) answered: Duration,
}

impl Operation {
    /// Whether it was answered before the other was asked. An equal instant says nothing.
    pub(crate) fn precedes(&self, other: &Self) -> bool {
        self.answer != Answer::Unknown && self.answered < other.invoked
    }

    /// Whether neither precedes the other.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        !self.precedes(other) && !other.precedes(self)
    }

    /// Whether it is known to have changed what the key holds.
    pub(crate) fn changed(&self) -> bool {
        match self.answer {
            Answer::Written { .. } | Answer::Removed { .. } => true,
            Answer::Found { .. } => self.call == Call::Pop,
            _ => false,
        }
    }

    /// The value that it wrote or found.
    fn value(&self) -> Option<Value> {
        match (self.call, self.answer) {
            (Call::Write { value, .. }, _) | (_, Answer::Found { value, .. }) => Some(value),
            _ => None,
        }
    }
}

impl Answer {
    /// The version that it names.
    pub(crate) fn version(self) -> Option<u64> {
        match self {
            Self::Found { version, .. }
            | Self::There { version }
            | Self::Written { version }
            | Self::Removed { version } => Some(version),
            Self::ConditionFailed { version } => version,
            Self::Missing | Self::Unknown | Self::Refused => None,
        }
    }
}

/// Tells the time since the start of a history; cheap to clone.
#[derive(Clone)]
pub(crate) struct Clock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl Clock {
    pub(crate) fn new(elapsed: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(elapsed))
    }

    /// Time that passes from now on.
    pub(crate) fn start() -> Self {
        let start = Instant::now();
        Self::new(move || start.elapsed())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        (self.0)()
    }
}

/// Takes down what one client does; all clients of a history have the same clock.
pub(crate) struct Recorder {
    client: usize,
    clock: Clock,
    operations: Vec<Operation>,
}

impl Recorder {
    pub(crate) fn new(client: usize, clock: Clock) -> Self {
        Self { client, clock, operations: Vec::new() }
    }

    /// Runs an operation to its end; returns its answer.
    pub(crate) async fn record(
        &mut self,
        key: &Arc<str>,
        call: Call,
        operation: impl Future<Output = Answer>,
    ) -> Answer {
        // A future does nothing before it is awaited.
        let invoked = self.clock.elapsed();
        let answer = operation.await;
        let answered = self.clock.elapsed();
        let (client, key) = (self.client, Arc::clone(key));
        self.operations.push(Operation { client, key, call, invoked, answer, answered });
        answer
    }

    pub(crate) fn into_operations(self) -> Vec<Operation> {
        self.operations
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read => write!(f, "read"),
            Self::Has => write!(f, "has"),
            Self::Write { value, condition } => match condition {
                Condition::Any => write!(f, "write {value}"),
                Condition::Absent => write!(f, "write {value} if absent"),
                Condition::Present => write!(f, "write {value} if present"),
                Condition::Version(version) => write!(f, "write {value} if version {version}"),
            },
            Self::Remove { version: None } => write!(f, "remove"),
            Self::Remove { version: Some(version) } => write!(f, "remove if version {version}"),
            Self::Pop => write!(f, "pop"),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found { value, version } => write!(f, "value {value}, version {version}"),
            Self::There { version } => write!(f, "version {version} is there"),
            Self::Missing => write!(f, "missing"),
            Self::Written { version } => write!(f, "written, version {version}"),
            Self::Removed { version } => write!(f, "removed, version {version}"),
            Self::ConditionFailed { version: Some(version) } => {
                write!(f, "condition failed, version {version} is there")
            }
            Self::ConditionFailed { version: None } => write!(f, "condition failed, missing"),
            Self::Unknown => write!(f, "outcome unknown"),
            Self::Refused => write!(f, "refused"),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, call, invoked, answer, answered, .. } = self;
        let invoked = format!("{:.6}", invoked.as_secs_f64());
        let answered = match answer {
            Answer::Unknown => "...".to_owned(),
            _ => format!("{:.6}", answered.as_secs_f64()),
        };
        write!(f, "{invoked:>11} to {answered:>11} s  client {client}  {call}: {answer}")
    }
}
