//! The routing client of Sherd.
//!
//! [`Client`] is what applications use: it knows which shard owns a key, keeps connections to the
//! shards, tries again what can be tried again without harm, and says of an unknown outcome that
//! it is unknown. [`Connection`] is one connection to one node, for the control process and tools.
//!
//! ```no_run
//! use sherd_client::{Client, Condition, Error, Options};
//!
//! # async fn example() -> Result<(), Error> {
//! let client = Client::connect("127.0.0.1:9192", Options::default()).await?;
//! client.create_index("greetings").await?;
//! // Documents are MessagePack: this is the string "hello".
//! let version = client.write("greetings", "k", b"\xa5hello", Condition::Absent).await?;
//! let document = client.read("greetings", "k").await?;
//! assert_eq!(document.map(|document| document.version), Some(version));
//!
//! let mut keys = client.keys("greetings")?;
//! while let Some(item) = keys.next().await? {
//!     println!("{}", item.key);
//! }
//! # Ok(())
//! # }
//! ```

mod ahead;
mod batch;
mod call;
mod client;
mod cluster;
mod connection;
mod contents;
mod cut;
mod error;
mod join;
mod peer;
mod reply;
mod retry;
mod scan;
mod single_flight;
mod topology;

pub use ahead::Ahead;
pub use batch::{Mutation, Outcome};
pub use client::{Client, Options, ShardView, Touched};
pub use connection::{ConnectOptions, Connection, Dial, Dialled, Network};
pub use contents::Contents;
pub use cut::ClusterCut;
pub use error::{Error, OutcomeUnknown};
pub use reply::{Document, Item, Page, ShardReply, Tail, TailChange};
pub use scan::{Scan, ScanOptions};
pub use sherd_protocol::frame::Stream;
pub use sherd_protocol::message::{Condition, Cut, CutSegment, FetchPiece, KeepLog};
pub use sherd_protocol::{Change, Digest, Expiry, IndexSettings, Policy, SettingsChange};
