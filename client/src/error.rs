//! The client's one error type.
//!
//! What a caller needs to know after a failure is whether anything was changed and whether the same
//! call may succeed later. Each variant answers both; [`Error::is_retryable`] and
//! [`Error::is_outcome_unknown`] ask.

use std::time::Duration;

use sherd_protocol::WireError;
use sherd_protocol::document::DocumentError;
use sherd_protocol::message::Condition;
use sherd_protocol::name::NameError;
use thiserror::Error as ThisError;

/// Why a call failed.
///
/// A `node` is named as people look for it: `shard left (127.0.0.1:5050)`.
#[derive(Clone, Debug, ThisError, PartialEq)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Error {
    /// Nothing was sent.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Nothing was sent.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// Nothing was sent: when the document is to expire is no time.
    #[error("the time to live cannot be: {what}")]
    InvalidTime { what: &'static str },
    /// Nothing was sent.
    #[error("the request has {size} bytes, a frame holds {limit}; split it")]
    TooLarge { size: usize, limit: usize },
    /// Nothing was sent.
    #[error("an atomic batch has at most {limit} changes, this one has {count}; split it")]
    TooManyChanges { count: usize, limit: usize },
    /// Nothing was sent: only documents of one shard can change together.
    #[error(
        "an atomic batch changes one shard, but {key:?} is on {shard} and {other_key:?} on \
         {other_shard}; use keys of one shard, or a batch that is not atomic"
    )]
    NotOneShard { key: String, shard: String, other_key: String, other_shard: String },

    /// Nothing was changed.
    #[error("{}", condition_text(index, key, *condition, *version))]
    ConditionFailed { index: String, key: String, condition: Condition, version: Option<u64> },
    /// The node refused the request, which had no effect; but see
    /// [`WireError::OutcomeUnknown`].
    #[error("{node}: {error}")]
    Refused { node: String, error: WireError },
    /// There is no shard of that name.
    #[error("the cluster has no shard {shard:?}; `sherd map` lists its shards")]
    NoSuchShard { shard: String },

    /// Nothing was sent.
    #[error("cannot connect to {node}: {reason}")]
    Connect { node: String, reason: String },
    /// Nothing was sent: who answers there is somebody else.
    #[error("{address} is {found}, not {expected}; check the address")]
    WrongNode { address: String, expected: String, found: String },
    /// Nothing was sent: bootstrap belongs to another cluster than before.
    #[error(
        "{node} serves cluster {found}, but this client is of cluster {known}; \
         check the address, and bootstrap's data directory"
    )]
    WrongCluster { node: String, known: String, found: String },
    /// Nothing was changed: the map that says where the key is now cannot be had.
    #[error(
        "{node} has handed the key over at map epoch {epoch}, and the map cannot be had: {reason}"
    )]
    StaleMap { node: String, epoch: u64, reason: String },
    /// While a range is handed over, for a moment nobody owns it.
    #[error(
        "what the shards own is not the whole ring just now: {what}; see `sherd cluster status`"
    )]
    Unsettled { what: String },
    /// The connection ended before the request was sent.
    #[error("the request was not sent to {node}: {reason}")]
    NotSent { node: String, reason: String },
    /// The request was sent and may have been executed.
    #[error("{node} did not answer: {reason}")]
    Unanswered { node: String, reason: String },
    /// The request may have been executed.
    #[error("{node} broke the protocol: {what}; check that its version is this client's")]
    Protocol { node: String, what: String },

    /// A change was sent, and not answered, or the shard's log failed under it.
    #[error(transparent)]
    OutcomeUnknown(Box<OutcomeUnknown>),
    /// Tried until the deadline, every time without an effect.
    #[error("{what} was given up after {deadline:?} and {attempts} attempts: {last}")]
    Deadline { what: String, deadline: Duration, attempts: u32, last: Box<Error> },
}

/// A change that may or may not have happened.
#[derive(Clone, Debug, ThisError, PartialEq, Eq)]
#[error(
    "it is unknown whether {what} happened: {node} was sent the request and did not confirm it \
     ({reason}); look before repeating it"
)]
#[expect(missing_docs, reason = "described above")]
pub struct OutcomeUnknown {
    /// The operation, such as `write` or `pop`.
    pub operation: &'static str,
    /// The index; empty where the operation has none.
    pub index: String,
    /// The key; empty where the operation has none.
    pub key: String,
    pub node: String,
    pub reason: String,
    /// Operation, key and index, for people.
    pub what: String,
}

impl Error {
    /// Whether the call had no effect and may succeed later, unchanged: no retry can do harm.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::NotSent { .. }
            | Self::WrongNode { .. }
            | Self::Unsettled { .. }
            | Self::StaleMap { .. } => true,
            Self::Refused { error, .. } => error.is_retryable(),
            Self::Deadline { last, .. } => !last.is_outcome_unknown(),
            _ => false,
        }
    }

    /// Whether the call may have had an effect, or not.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(
            self,
            Self::OutcomeUnknown(_)
                | Self::Unanswered { .. }
                | Self::Protocol { .. }
                | Self::Refused { error: WireError::OutcomeUnknown { .. }, .. }
        )
    }

    /// Whether what the call named, or what it made a condition, does not hold: the index does not
    /// exist, or does already; the document has another version.
    pub fn does_not_hold(&self) -> bool {
        match self {
            Self::ConditionFailed { .. } | Self::NoSuchShard { .. } => true,
            _ => matches!(
                self.wire(),
                Some(WireError::IndexNotFound { .. } | WireError::IndexExists { .. })
            ),
        }
    }

    /// What a node answered, also as the last reason of a call given up.
    pub fn wire(&self) -> Option<&WireError> {
        match self {
            Self::Refused { error, .. } => Some(error),
            Self::Deadline { last, .. } => last.wire(),
            _ => None,
        }
    }
}

fn condition_text(index: &str, key: &str, condition: Condition, version: Option<u64>) -> String {
    let there = match version {
        Some(version) => format!("has version {version}"),
        None => "does not exist".to_owned(),
    };
    let wanted = match condition {
        Condition::Absent => "it must be absent".to_owned(),
        Condition::Any => "anything is allowed".to_owned(),
        Condition::Present => "it must be present".to_owned(),
        Condition::Version(version) => format!("it must have version {version}"),
    };
    format!("{key:?} of index {index:?} {there}, but {wanted}")
}
