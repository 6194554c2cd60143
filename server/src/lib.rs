//! The shard process as a library: [`run`] opens a data directory and serves it on a listener.
//!
//! A request is decoded without copying: keys and documents go to the engine as slices of the
//! frame that they came in, and no task is made for them. Changes are submitted to the engine's
//! sequencer, which answers when they are durable; reads are answered at once, and pages of scans
//! from a blocking thread.
//!
//! * `shard`: what all operations share: engine, ring, bounds;
//! * `operation`: one module for each operation;
//! * `receiver`: taking ranges over from other shards;
//! * `refusal`: the engine's errors as they travel.
//!
//! # What is bounded
//! Commands that wait for the sequencer are the requests in flight, so [`sherd_node::Limits`]
//! bounds them: their number by `connections * in_flight`, their bytes by the budgets of requests.
//! Nothing queues elsewhere; pages that are being read are few ([`MAX_SCANS_AT_ONCE`]), and what is
//! answered counts towards the budget of answers before it is there.
//!
//! # Example
//! ```no_run
//! use sherd_server::{Config, run};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let config = Config::new("data");
//! let shutdown = async { _ = tokio::signal::ctrl_c().await };
//! run(listener, config, |_recovery, address| println!("ready {address}"), shutdown).await?;
//! # Ok(())
//! # }
//! ```

mod config;
mod error;
mod found_at;
mod operation;
mod parked;
mod receiver;
mod refusal;
mod run;
mod shard;

pub use config::Config;
pub use error::{Error, Result};
pub use operation::{MAX_ATTEMPTS, MAX_PAGE_DOCUMENTS, MAX_SCANS_AT_ONCE, PAGE_BYTES};
pub use run::{run, serve};
