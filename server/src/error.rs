//! Why a shard process ends other than by being told to.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use sherd_protocol::DEFAULT_MAX_FRAME_BYTES;
use thiserror::Error as ThisError;

/// Why a shard process could not start, or did not end cleanly.
#[derive(Debug, ThisError)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error("{}", not_opened(data, error))]
    Open { data: PathBuf, error: sherd_engine::Error },
    #[error(
        "the data directory {} belongs to a cluster with the hash method {label:?}, which this \
         version does not know: use the version that wrote it, or a newer one",
        data.display()
    )]
    HashMethod { data: PathBuf, label: String },
    #[error("the limit on frames is {limit} bytes, the least is {DEFAULT_MAX_FRAME_BYTES}")]
    FrameLimit { limit: usize },
    #[error("the listener has no address: {0}")]
    Address(std::io::Error),
    /// Acknowledged changes are in the log all the same, and the next start recovers them.
    #[error("the data directory {} was not closed cleanly: {error}", data.display())]
    Close { data: PathBuf, error: sherd_engine::Error },
    #[error("{what} panicked: the log of the process says where")]
    Panicked { what: &'static str },
}

/// Why a data directory cannot be opened, and what to do about it.
fn not_opened(data: &Path, error: &sherd_engine::Error) -> String {
    let data = data.display();
    match error {
        sherd_engine::Error::InUse { .. } => {
            format!("{error}; stop that first, or use another directory")
        }
        sherd_engine::Error::Corrupt { .. } => format!(
            "the data directory {data} cannot be opened: {error}; `sherd verify --data {data}` says \
             what it costs"
        ),
        sherd_engine::Error::Io { error: io, .. } => {
            format!("the data directory {data} cannot be opened: {error}{}", io_hint(io))
        }
        _ => format!("the data directory {data} cannot be opened: {error}"),
    }
}

/// What to do where a directory cannot be used, if that follows from the error.
fn io_hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound => "; check the path",
        ErrorKind::PermissionDenied => "; check who owns it and may use it",
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            "; there is a file where a directory is to be: use another path"
        }
        ErrorKind::ReadOnlyFilesystem => {
            "; mount it so that it can be written to, or use another place"
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; make space, or use another disk",
        _ => "",
    }
}

/// What [`crate::run`] returns.
pub type Result<T> = std::result::Result<T, Error>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_that_cannot_be_is_said_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let data = file.join("data");
        let opened = sherd_engine::Engine::open(&data, sherd_engine::Options::default());
        let error = opened.map(drop).unwrap_err();
        let said = not_opened(&data, &error);
        assert!(said.contains("there is a file where a directory is to be"), "{said}");
    }
}
