//! Why a shard process ends other than by being told to.

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
        _ => format!("the data directory {data} cannot be opened: {error}"),
    }
}

/// What [`crate::run`] returns.
pub type Result<T> = std::result::Result<T, Error>;
