//! The storage engine of a shard: an append log that is the database, and an index over it that
//! can always be rebuilt.

mod command;
mod engine;
mod error;

pub use command::{
    Assignment, Command, Condition, Document, IndexId, IndexStat, Key, Mutation, MutationOutcome,
    Outcome, Page, Scan, Stat, Version,
};
pub use engine::{Completion, Durability, Engine, Options, Recovery};
pub use error::{Error, Result};
