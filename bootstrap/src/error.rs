//! Why bootstrap ends other than by being told to.

use thiserror::Error as ThisError;

use crate::config::ConfigError;
use crate::store::StoreError;

/// Why bootstrap could not start.
#[derive(Debug, ThisError)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the config makes no new cluster: {0}")]
    Config(#[from] ConfigError),
    #[error("the listener has no address: {0}")]
    Address(std::io::Error),
    #[error("no random bytes for the cluster's id: {0}")]
    Random(getrandom::Error),
    #[error("{what} panicked: the log of the process says where")]
    Panicked { what: &'static str },
}
