//! Errors as they travel: stable codes with fields.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// An error answered by a node. The variant's name in snake case is its code on the wire, and the
/// fields are part of the contract; the text is for people and may change.
#[derive(Clone, Debug, Error, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the messages say it")]
pub enum WireError {
    #[error(
        "index {index:?} does not exist; `sherd index list` shows those that do, `sherd index create` makes \
         one"
    )]
    IndexNotFound { index: String },
    #[error("index {index:?} exists already")]
    IndexExists { index: String },
    /// The index is dropped, but not every shard has confirmed it: one is away, or takes its time.
    /// Until they have, no index of that name is created.
    #[error(
        "index {index:?} is dropped, which is not confirmed by {shards}; start them if they are \
         away, then try again"
    )]
    IndexHeld { index: String, shards: String },
    /// Also of a limit, which needs nothing, that is lower than what is used.
    #[error("{}", quota_exceeded(*used, *limit, *needed))]
    QuotaExceeded { used: u64, limit: u64, needed: u64 },
    /// A limit of the index is met: the shard's share of it.
    #[error("{}", index_full(index, what, *used, *limit, *needed, shard))]
    IndexFull {
        index: String,
        what: String,
        used: u64,
        limit: u64,
        needed: u64,
        /// Its name, where bootstrap has asked it; empty where it answers itself.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        shard: String,
    },
    /// The key is outside the shard's ranges. The client refreshes its map to at least `epoch`.
    #[error("the key belongs to another shard at map epoch {epoch}")]
    WrongShard { epoch: u64 },
    #[error("the shard is locked for writing by {owner:?}")]
    Locked { owner: String },
    #[error("{what} has {size} bytes, the limit is {limit}")]
    TooLarge { what: String, size: u64, limit: u64 },
    #[error("bad request: {0}")]
    BadRequest(BadRequest),
    #[error("unauthorized: the token is missing or wrong; set SHERD_TOKEN to the cluster's token")]
    Unauthorized,
    /// A write or sync failed: nothing more is written until the process is restarted.
    #[error("the shard stopped writing after a failure ({reason}); reads go on; restart it")]
    Poisoned { reason: String },
    /// A write or sync of the log failed under this request; whether it happened is not known
    /// until the shard is restarted.
    #[error(
        "the shard's log failed under the request ({reason}); whether it happened is not known \
         until the shard is restarted"
    )]
    OutcomeUnknown { reason: String },
    #[error("the shard's disk is full: {what}; free some space, writes then go on")]
    DiskFull { what: String },
    #[error("the node is shutting down")]
    ShuttingDown,
    #[error("protocol version {client} is not spoken here, {server} is")]
    UnsupportedVersion { client: u32, server: u32 },
    /// An assignment that is older than the one the shard holds, or of another history.
    #[error(
        "the assignment of epoch {offered} is older than that of epoch {held}, which the shard \
         holds, or of another history"
    )]
    StaleEpoch { offered: u64, held: u64 },
    #[error("the shard belongs to cluster {held} as {name:?}, not to {offered}")]
    WrongCluster { held: String, name: String, offered: String },
    #[error("a stored document is damaged: {file} at offset {offset}; restore the shard's data")]
    Corrupt { file: String, offset: u64 },
    #[error("{what} is not available now: {why}")]
    Unavailable { what: String, why: String },
    /// A range is not given up: it is not frozen for the move any more, and may have changed since.
    #[error("the range is not frozen for the move {id} any more; it stays where it is")]
    NotFrozen { id: String },
    /// What the target of a move has of the range is not what the source has.
    #[error("the move {id} brought other documents than the source has: {what}")]
    Mismatch { id: String, what: String },
    /// Compaction has deleted what was to be read of the log.
    #[error("the log has not all of what came after LSN {after} any more")]
    LogGone { after: u64 },
    /// The shard has let go of a cut: nobody read from it for long, its disk is full, or it was
    /// restarted.
    #[error("the shard does not hold the cut {id} any more; take another backup")]
    CutGone { id: u64 },
    #[error("too many {what}: the limit is {limit}")]
    Busy { what: String, limit: u64 },
    #[error("internal error: {what}")]
    Internal { what: String },
}

/// What is wrong with a request, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are named in the type's summary")]
pub struct BadRequest {
    pub what: String,
    #[serde(rename = "where")]
    pub place: String,
}

impl std::fmt::Display for BadRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

impl WireError {
    /// A bad request: what is wrong, and in which part of the request.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers hand over an error that they have no other use for"
    )]
    pub fn bad_request(place: &str, what: impl ToString) -> Self {
        Self::BadRequest(BadRequest { what: what.to_string(), place: place.to_owned() })
    }

    /// Whether the refused request had no effect and may succeed later, unchanged, at the same
    /// shard or at the one that a newer map names.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::WrongShard { .. }
                | Self::Locked { .. }
                | Self::ShuttingDown
                | Self::Unavailable { .. }
                | Self::Busy { .. }
        )
    }
}

fn quota_exceeded(used: u64, limit: u64, needed: u64) -> String {
    if needed == 0 {
        return format!(
            "the shard uses {used} bytes, more than the new limit of {limit}, and nothing (more) is \
             evicted; remove documents, or set a policy that evicts first"
        );
    }
    if needed > limit {
        return format!(
            "the document needs {needed} bytes, more than the shard may hold, {limit}; raise the limit \
             with `sherd shard set`"
        );
    }
    format!(
        "the shard is full: {used} of {limit} bytes are used and the write needs {needed} more; \
         remove documents or raise the limit with `sherd shard set`"
    )
}

fn index_full(index: &str, what: &str, used: u64, limit: u64, needed: u64, shard: &str) -> String {
    if needed == 0 {
        let at = match shard {
            "" => "one shard".to_owned(),
            shard => format!("shard {shard:?}"),
        };
        return format!(
            "index {index:?} uses {used} {what} at {at}, more than its share of the new limit, \
             {limit}, and nothing (more) is evicted; remove documents, or set a policy that evicts \
             first"
        );
    }
    if needed > limit {
        return format!(
            "the document needs {needed} {what} of index {index:?}, more than this shard's share of the \
             limit, {limit}; raise it with `sherd index set {index}`"
        );
    }
    format!(
        "index {index:?} is full at this shard: {used} of {limit} {what} are used and the write \
         needs {needed} more; remove documents or raise the limit with `sherd index set {index}`"
    )
}
