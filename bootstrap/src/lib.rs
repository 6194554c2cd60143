//! Bootstrap: the control process of a cluster.
//!
//! It persists the range map and the index catalogue, hands them to clients, and keeps the shards
//! up to them. It is not on the path of reads and writes: shards remember their assignment and
//! serve while it is down.
//!
//! * [`ClusterConfig`] is the config file, Pyshard's with additions.
//! * The state (map, catalogue, lineage) changes through one pure function, from a command to the
//!   next state, and is persisted before anyone sees it.
//! * Which ranges move, and to whom, is planned by another pure function, from the map and what is
//!   stored where.
//! * [`run`] is the process.

mod config;
mod control;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod mover;
mod moves;
mod planner;
mod server;
mod shard;
mod state;
mod store;

pub use config::{ClusterConfig, ConfigError, DEFAULT_HOST, DEFAULT_PORT};
pub use error::Error;
pub use server::{Options, Started, run};
pub use store::StoreError;
