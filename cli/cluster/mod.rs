//! A whole cluster on this machine, as `sherd up` runs it.
//!
//! One data directory holds it all: `lock`, held while it runs; `cluster.json`, the bootstrap
//! config with the ports in use, written on the first start; and a directory for each process.
//! Each process is a child, started again when it ends; the children end when this process does,
//! however it ends, for they watch their standard input.

mod child;
mod data_dir;
mod plan;
mod supervisor;

pub(crate) use data_dir::DataDir;
pub(crate) use plan::{Options, Plan};
pub(crate) use supervisor::{How, run};
