//! Why the load tool gives up.

use thiserror::Error as ThisError;

#[derive(Debug, ThisError)]
pub(crate) enum Error {
    #[error("{0} is not installed")]
    NotInstalled(String),
    #[error("{address}: {error}")]
    Connect { address: String, error: std::io::Error },
    #[error("a connection failed: {0}")]
    Connection(#[from] std::io::Error),
    #[error("the target closed a connection")]
    Closed,
    #[error("the target answered: {0}")]
    Refused(String),
    #[error("{0}")]
    Failed(String),
}
