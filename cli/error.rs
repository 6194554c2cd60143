//! Why a command ended, and the exit status that says so.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// What a command that did not do its work ends with.
#[derive(Debug, Error)]
pub(crate) enum Error {
    /// The command was called wrongly, beyond what the argument parser sees.
    #[error("{0}")]
    Usage(String),
    /// The key, index or condition asked about does not hold.
    #[error("{0}")]
    DoesNotHold(String),
    /// As the first two, but said already, item by item.
    #[error("some of it does not hold")]
    DoesNotHoldSaid,
    #[error("some of it failed")]
    FailedSaid,
    /// Nobody reads the output any more: an end, not a failure.
    #[error("standard output was closed")]
    OutputClosed,
    #[error("{0}")]
    Failed(String),
    /// The person has interrupted it.
    #[error("{0}")]
    Interrupted(String),
    /// It was told to end by SIGTERM.
    #[error("{0}")]
    Terminated(String),
    #[error("cannot {what} {}: {error}{}", path.display(), file_hint(error))]
    File { what: &'static str, path: PathBuf, error: io::Error },
    #[error("cannot listen on {address}: {error}; {}", listen_hint(error))]
    Listen { address: String, error: io::Error },
    #[error("{0}{hint}", hint = client_hint(.0))]
    Client(Box<sherd_client::Error>),
    #[error(transparent)]
    Shard(Box<sherd_server::Error>),
    #[error(transparent)]
    Bootstrap(#[from] sherd_bootstrap::Error),
}

impl Error {
    /// The exit status: 0 done, 1 failed, 2 wrong usage, 3 what was asked about does not hold, 130
    /// interrupted, 143 terminated.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::Usage(_) => 2,
            Self::DoesNotHold(_) | Self::DoesNotHoldSaid => 3,
            // 128 and the signal's number, as a shell has it.
            Self::Interrupted(_) => 130,
            Self::Terminated(_) => 143,
            Self::Client(error) if error.does_not_hold() => 3,
            _ => 1,
        }
    }

    /// Whether the message is still to be printed.
    pub(crate) fn is_unsaid(&self) -> bool {
        !matches!(self, Self::DoesNotHoldSaid | Self::FailedSaid | Self::OutputClosed)
    }

    /// For `map_err`: what was being done to which file.
    pub(crate) fn file(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::File { what, path, error }
    }
}

impl From<sherd_client::Error> for Error {
    fn from(error: sherd_client::Error) -> Self {
        Self::Client(Box::new(error))
    }
}

impl From<sherd_server::Error> for Error {
    fn from(error: sherd_server::Error) -> Self {
        Self::Shard(Box::new(error))
    }
}

/// What to do where a file cannot be used, if that follows from the error.
pub(crate) fn file_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AlreadyExists => "; there is a file of that name: use another name",
        io::ErrorKind::NotADirectory => {
            "; there is a file where a directory is to be: use another path"
        }
        io::ErrorKind::IsADirectory => "; name a file",
        io::ErrorKind::NotFound => "; check the path",
        io::ErrorKind::PermissionDenied => "; check who owns it and may use it",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; make space, or use another disk"
        }
        io::ErrorKind::ReadOnlyFilesystem => "; use another place, which can be written to",
        _ => "",
    }
}

/// What to do where a node was waited for, and did not come.
fn client_hint(error: &sherd_client::Error) -> &'static str {
    use sherd_client::Error::{Connect, Deadline};
    match error {
        Deadline { last, .. } if matches!(**last, Connect { .. }) => {
            "; start it there, and give the command again"
        }
        _ => "",
    }
}

/// What to do about a failed bind.
fn listen_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another process has the port: stop it or use another --port",
        io::ErrorKind::AddrNotAvailable => "this machine has no such address: check --host",
        io::ErrorKind::PermissionDenied => "ports below 1024 need privileges: use another --port",
        _ => "check --host and --port",
    }
}
