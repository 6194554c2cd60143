//! One call, attempted until it succeeds, fails for good, or its deadline passes.
//!
//! What is tried again is what cannot do harm: requests that were refused without effect or never
//! sent, and those sent that change nothing. A change that was sent and not answered, or whose
//! shard cannot say, is reported as of unknown outcome, never repeated.

use std::sync::Arc;
use std::time::Duration;

use sherd_protocol::message::{BootstrapAnswer, BootstrapOperation, ShardOperation};
use sherd_protocol::{Position, WireError};
use tokio::time::Instant;

use crate::connection::Connection;
use crate::error::{Error, OutcomeUnknown};
use crate::peer::Peer;
use crate::reply::ShardReply;
use crate::retry::{Attempts, Deadline};
use crate::topology::{MapCache, Topology};

/// The most that asking bootstrap for help may delay the next attempt at a shard.
pub(crate) const HELP_TIME: Duration = Duration::from_secs(1);

/// The most characters of an unexpected answer that an error quotes.
const MAX_QUOTED: usize = 200;

/// What a call is about, for routing and for messages.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    /// The operation, such as `write`.
    pub(crate) operation: &'static str,
    /// Empty where the operation has none.
    pub(crate) index: &'a str,
    /// Empty where the operation has none.
    pub(crate) key: &'a str,
    /// Whether doing it twice differs from doing it once.
    pub(crate) changes: bool,
    pub(crate) deadline: Deadline,
}

/// Which shard a call goes to.
#[derive(Clone, Copy)]
pub(crate) enum Target<'a> {
    /// The one that owns the position.
    Position(Position),
    /// The one of that name.
    Shard(&'a str),
}

/// What may help after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Nothing: the failure is the call's.
    Nothing,
    /// The next attempt may succeed: the map has changed.
    AtOnce,
    /// The next attempt may succeed after a pause.
    Later,
}

impl Call<'_> {
    fn what(&self) -> String {
        let Self { operation, index, key, .. } = *self;
        match (index, key) {
            ("", "") => operation.to_owned(),
            ("", key) => format!("{operation} {key:?}"),
            (index, "") => format!("{operation} {index:?}"),
            (index, key) => format!("{operation} of {key:?} in index {index:?}"),
        }
    }

    /// A failure as the caller sees it: a change that was sent and not answered, or not for sure,
    /// is of unknown outcome.
    pub(crate) fn failed(&self, error: Error) -> Error {
        let (node, reason) = match error {
            Error::Unanswered { node, reason } if self.changes => (node, reason),
            Error::Protocol { node, what } if self.changes => (node, what),
            Error::Refused {
                node,
                error: error @ (WireError::OutcomeUnknown { .. } | WireError::Internal { .. }),
            } if self.changes => (node, error.to_string()),
            other => return other,
        };
        let Self { operation, index, key, .. } = *self;
        let (index, key, what) = (index.to_owned(), key.to_owned(), self.what());
        Error::OutcomeUnknown(Box::new(OutcomeUnknown {
            operation,
            index,
            key,
            node,
            reason,
            what,
        }))
    }

    /// The failure after the last attempt that the deadline allowed.
    pub(crate) fn given_up(&self, attempts: u32, last: Error) -> Error {
        let (what, deadline, last) = (self.what(), self.deadline.total, Box::new(last));
        Error::Deadline { what, deadline, attempts, last }
    }
}

impl MapCache {
    /// Asks a shard until it answers; `operation` is made anew for each attempt, with the map of
    /// the moment.
    pub(crate) async fn ask_shard<'a>(
        &self,
        call: &Call<'_>,
        target: Target<'_>,
        mut operation: impl FnMut(&Topology) -> ShardOperation<'a>,
    ) -> Result<ShardReply, Error> {
        let mut attempts = Attempts::until(call.deadline);
        loop {
            let topology = self.known();
            let peer = find(&topology, target)?;
            let error = match ask_once(peer, &operation(&topology), call.deadline.at).await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            let (error, remedy) = self.remedy(call, topology.map.epoch, error).await;
            let goes_on = match remedy {
                Remedy::Nothing => return Err(call.failed(error)),
                Remedy::AtOnce => attempts.at_once(error),
                Remedy::Later => attempts.again(error).await,
            };
            goes_on.map_err(|last| call.given_up(attempts.failed, last))?;
        }
    }

    /// Asks bootstrap until it answers.
    pub(crate) async fn ask_bootstrap(
        &self,
        call: &Call<'_>,
        operation: &BootstrapOperation<'_>,
    ) -> Result<BootstrapAnswer, Error> {
        let mut attempts = Attempts::until(call.deadline);
        loop {
            let error = match self.ask_bootstrap_once(operation, call.deadline.at).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if !may_repeat(call, &error) {
                return Err(call.failed(error));
            }
            let goes_on = attempts.again(error).await;
            goes_on.map_err(|last| call.given_up(attempts.failed, last))?;
        }
    }

    /// Asks bootstrap for its map until it answers.
    pub(crate) async fn fetch(&self, call: &Call<'_>) -> Result<(), Error> {
        let mut attempts = Attempts::until(call.deadline);
        while let Err(error) = self.refresh(call.deadline.at).await {
            if !may_repeat(call, &error) {
                return Err(error);
            }
            let goes_on = attempts.again(error).await;
            goes_on.map_err(|last| call.given_up(attempts.failed, last))?;
        }
        Ok(())
    }

    /// Whether to attempt a call again that failed under the map of `epoch`, after doing what can
    /// be done about it. The error may come back more telling.
    pub(crate) async fn remedy(
        &self,
        call: &Call<'_>,
        epoch: u64,
        error: Error,
    ) -> (Error, Remedy) {
        match error {
            Error::Refused { node, error: WireError::WrongShard { epoch: newer } }
                if newer > epoch =>
            {
                if self.known().map.epoch >= newer {
                    // Another call has got it meanwhile.
                    let error = WireError::WrongShard { epoch: newer };
                    return (Error::Refused { node, error }, Remedy::AtOnce);
                }
                let refreshed = self.refresh(call.deadline.step(HELP_TIME)).await;
                if self.known().map.epoch > epoch {
                    let error = WireError::WrongShard { epoch: newer };
                    return (Error::Refused { node, error }, Remedy::AtOnce);
                }
                let reason = refreshed.err().map_or_else(
                    || format!("{} has epoch {epoch} still", self.bootstrap.node()),
                    |error| error.to_string(),
                );
                (Error::StaleMap { node, epoch: newer, reason }, Remedy::Later)
            }
            Error::Refused { error: WireError::IndexNotFound { ref index }, .. } => {
                let remedy =
                    if self.lacks_index(index).await { Remedy::Nothing } else { Remedy::Later };
                (error, remedy)
            }
            Error::Refused { error: WireError::WrongShard { .. }, .. } => {
                // The shard has not heard of the assignment, and may never: a move may have gone
                // back, and the shard have left the cluster since.
                self.refresh_if_possible(HELP_TIME.min(call.deadline.total)).await;
                let is_newer = self.known().map.epoch > epoch;
                (error, if is_newer { Remedy::AtOnce } else { Remedy::Later })
            }
            Error::Connect { .. } | Error::WrongNode { .. } => {
                // The shard may have moved.
                self.refresh_if_possible(HELP_TIME.min(call.deadline.total)).await;
                (error, Remedy::Later)
            }
            error if may_repeat(call, &error) => (error, Remedy::Later),
            error => (error, Remedy::Nothing),
        }
    }

    /// Whether bootstrap says that there is no such index. If it has it, or cannot be asked, a shard that
    /// does not know it may be about to.
    async fn lacks_index(&self, index: &str) -> bool {
        let deadline = Instant::now() + HELP_TIME;
        match self.ask_bootstrap_once(&BootstrapOperation::Indexes, deadline).await {
            Ok(BootstrapAnswer::Indexes(indexes)) => indexes.iter().all(|at| at.name != index),
            _ => false,
        }
    }

    async fn ask_bootstrap_once(
        &self,
        operation: &BootstrapOperation<'_>,
        deadline: Instant,
    ) -> Result<BootstrapAnswer, Error> {
        let peer = &self.bootstrap;
        let connection = peer.connection(deadline).await?;
        let received = connection.received();
        let result = connection.bootstrap(operation, deadline).await;
        retire_if_silent(peer, &connection, received, result.as_ref().err());
        result
    }
}

/// The peer that a target is.
pub(crate) fn find<'a>(topology: &'a Topology, target: Target<'_>) -> Result<&'a Arc<Peer>, Error> {
    let (found, name) = match target {
        Target::Position(position) => {
            (topology.owner(position).map(|(_, peer)| peer), position.0.to_string())
        }
        Target::Shard(name) => (topology.shard(name), name.to_owned()),
    };
    found.ok_or(Error::NoSuchShard { shard: name })
}

/// The error for an answer that is none to what was asked.
pub(crate) fn unexpected(node: String, reply: &impl std::fmt::Debug) -> Error {
    let what = format!("unexpected answer {reply:?}").chars().take(MAX_QUOTED).collect();
    Error::Protocol { node, what }
}

/// Asks a shard once.
pub(crate) async fn ask_once(
    peer: &Peer,
    operation: &ShardOperation<'_>,
    deadline: Instant,
) -> Result<ShardReply, Error> {
    let connection = peer.connection(deadline).await?;
    let received = connection.received();
    let result = connection.shard(operation, deadline).await;
    retire_if_silent(peer, &connection, received, result.as_ref().err());
    result
}

fn retire_if_silent(peer: &Peer, connection: &Connection, received: u64, error: Option<&Error>) {
    let unanswered = matches!(error, Some(Error::Unanswered { .. }));
    if unanswered && connection.received() == received {
        peer.retire(connection);
    }
}

fn may_repeat(call: &Call<'_>, error: &Error) -> bool {
    let harmless = !call.changes && matches!(error, Error::Unanswered { .. });
    harmless || error.is_retryable()
}
