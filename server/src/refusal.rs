//! The engine's errors as they travel: all of them, in one place.

use sherd_engine::Error;
use sherd_protocol::WireError;

/// What the client is told. The engine knows indexes by their ids; `index` is the name that the
/// request had, empty where it had none.
pub(crate) fn refusal(error: Error, index: &str) -> WireError {
    match error {
        // Dropped between the look-up of its id and the execution.
        Error::IndexNotFound(_) => WireError::IndexNotFound { index: index.to_owned() },
        Error::IndexExists { name, .. } => WireError::IndexExists { index: name },
        error @ Error::IndexIdUsed { .. } => WireError::bad_request("id", error),
        Error::QuotaExceeded { used, limit, needed } => {
            WireError::QuotaExceeded { used, limit, needed }
        }
        Error::IndexFull { what, used, limit, needed, .. } => {
            let (index, what, shard) = (index.to_owned(), what.to_owned(), String::new());
            WireError::IndexFull { index, what, used, limit, needed, shard }
        }
        error @ Error::LoweringAnother => WireError::Unavailable {
            what: "the lowering of a limit".to_owned(),
            why: error.to_string(),
        },
        Error::WrongShard { epoch } => WireError::WrongShard { epoch },
        Error::Locked { owner } => WireError::Locked { owner },
        // To whoever assigns, the range is locked for a while.
        Error::NotCleared { .. } => {
            WireError::Locked { owner: "the removal of what it held".into() }
        }
        error @ Error::Frozen => WireError::Unavailable {
            what: "the range of the key".to_owned(),
            why: error.to_string(),
        },
        Error::NotFrozen { id } => WireError::NotFrozen { id },
        Error::LogGone { after } => WireError::LogGone { after },
        Error::CutGone { id } => WireError::CutGone { id },
        error @ Error::NotInCut { .. } => WireError::bad_request("segment", error),
        Error::TooManyCuts { limit } => {
            WireError::Busy { what: "cuts".to_owned(), limit: limit as u64 }
        }
        error @ (Error::Receiving { .. } | Error::NotReceiving { .. } | Error::Owned { .. }) => {
            WireError::bad_request("id", error)
        }
        error @ Error::ImpossibleVersion { .. } => WireError::bad_request("version", error),
        Error::TooLarge { what, size, limit } => {
            WireError::TooLarge { what: what.to_owned(), size, limit }
        }
        Error::StaleEpoch { offered, held } => WireError::StaleEpoch { offered, held },
        Error::WrongCluster { held, name, offered, .. } => {
            WireError::WrongCluster { held, name, offered }
        }
        Error::Poisoned { reason } => WireError::Poisoned { reason: reason.as_ref().to_owned() },
        Error::OutcomeUnknown { reason } => {
            WireError::OutcomeUnknown { reason: reason.as_ref().to_owned() }
        }
        Error::DiskFull { what } => WireError::DiskFull { what: what.as_ref().to_owned() },
        Error::NoDescriptors { what } => WireError::Unavailable {
            what: "the shard's log".to_owned(),
            why: format!("too many files are open: {what}"),
        },
        // Over within seconds, which a client waits for.
        error @ Error::IndexClosed { .. } => {
            WireError::Unavailable { what: "the shard's index".to_owned(), why: error.to_string() }
        }
        Error::Corrupt { ref file, offset, .. } => {
            // Rare, and whoever runs the shard must hear of it, not only who asked.
            tracing::error!(%error, "a stored document is damaged");
            WireError::Corrupt { file: file.display().to_string(), offset }
        }
        Error::Closed => WireError::ShuttingDown,
        error @ (Error::InUse { .. }
        | Error::UnknownFormat { .. }
        | Error::Io { .. }
        | Error::Index(_)) => {
            tracing::error!(%error, "a request failed");
            WireError::Internal { what: error.to_string() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_tries_again_while_the_index_is_closed_and_not_when_it_is_lost() {
        let closed = refusal(Error::IndexClosed { why: "it failed".into() }, "cities");
        assert!(closed.is_retryable(), "{closed}");
        assert!(matches!(closed, WireError::Unavailable { .. }), "{closed}");
        let lost = refusal(Error::Index("restart the shard to rebuild it".into()), "cities");
        assert!(!lost.is_retryable(), "{lost}");
    }
}
