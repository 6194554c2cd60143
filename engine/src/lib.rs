//! The storage engine of a shard: an append log that is the database, and an index over it that
//! can always be rebuilt.
//!
//! * An acknowledged effect is in synced bytes, and nothing that can be read is not (unless
//!   [`Durability::Interval`] is asked for).
//! * A crash at any point recovers to a prefix of the effects that holds all that was
//!   acknowledged; a recovery interrupted by a crash recovers again.
//! * The index is a function of the log, and totals equal a recount.
//! * Bytes that were durable and have changed are found by their checksum and reported with file
//!   and offset: never served, never silently cut.
//!
//! ```
//! use sherd_engine::{
//!     Assignment, Command, Condition, Engine, Expiry, IndexSettings, Key, Mutation, Options, Policy,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let options = Options { segment_bytes: 65_536, ..Options::default() };
//! let (engine, _) = Engine::open(dir.path(), options)?;
//! engine.execute(Command::Assign(Assignment {
//!     cluster: "example".to_owned(),
//!     name: "shard0".to_owned(),
//!     hash_method: "md5".to_owned(),
//!     epoch: 1,
//!     lineage: 0,
//!     ranges: vec![(0, 10_000_000)],
//!     limit: 1 << 20,
//!     policy: Policy::Reject,
//! }))?;
//! engine.execute(Command::CreateIndex {
//!     id: 1,
//!     name: "cities".to_owned(),
//!     settings: IndexSettings::default(),
//! })?;
//! let key = Key { position: 1_671_936, bytes: "test".into() };
//! let write = Mutation::Write {
//!     index: 1,
//!     key: key.clone(),
//!     document: "hello world".into(),
//!     condition: Condition::Absent,
//!     expiry: Expiry::Never,
//! };
//! engine.execute(Command::Mutate { mutations: vec![write], atomic: false })?;
//! let document = engine.read(1, &key)?.ok_or("not there")?;
//! assert_eq!(&document.bytes[..], b"hello world");
//! engine.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Caveats
//! Reads block on the disk when the operating system has not cached the document. What is remembered of accesses for an eviction does not
//! survive a restart.

mod cache;
mod checkpoint;
mod clock;
mod command;
mod compaction;
mod cut;
mod defect;
mod effect;
mod engine;
mod error;
pub mod fs;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod hash;
pub mod index;
mod kept;
mod limits;
mod log;
mod manifest;
mod overlay;
mod queue;
mod read;
mod rebuild;
mod recovery;
mod residents;
mod scout;
mod sequencer;
mod shared;
mod space;
mod state;
mod sweeper;
mod tail;
mod usage;
pub mod verify;

pub use clock::Clock;
pub use command::{
    Assignment, Command, Compacted, Condition, Document, Import, Imported, Incoming, IndexId,
    IndexStat, Key, Mutation, MutationOutcome, Outcome, Page, Scan, Span, Stat, Version,
};
pub use cut::{Cut, CutSegment};
#[doc(hidden)]
pub use defect::{Defect, Defects};
pub use effect::content_hash;
pub use engine::{Completion, Durability, Engine, Options, Recovery};
pub use error::{Error, Result};
pub use limits::{Counts, Expiry, IndexSettings, Policy};
pub use rebuild::{Rebuilt, rebuild};
pub use state::Sums;
pub use tail::{Tail, TailCursor};
