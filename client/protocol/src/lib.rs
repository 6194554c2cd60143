//! The wire contract of Sherd: what a client and a node say to each other, byte for byte.
//!
//! The crate holds no sockets and no storage, so that a client never links the engine:
//!
//! * [`frame`]: a length, then that many bytes of MessagePack;
//! * [`message`]: the hello, requests and answers that frames carry;
//! * [`document`]: what a well-formed document is, checked without decoding it;
//! * [`ring`]: how a key becomes a position;
//! * [`range_map`]: which shard owns which positions, at which epoch;
//! * [`plan`]: which ranges are to move, and to whom;
//! * [`digest`]: whether two sets of documents are the same;
//! * [`limits`]: what bounds shards and indexes, and when documents expire.
//!
//! `docs/protocol.md` specifies the same for readers who write a client in another language; its
//! worked examples are checked against this crate.

pub mod digest;
pub mod document;
pub mod frame;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod limits;
pub mod message;
pub mod name;
pub mod plan;
pub mod range_map;
pub mod ring;

mod error;

pub use digest::Digest;
pub use document::MAX_DOCUMENT_BYTES;
pub use error::{BadRequest, WireError};
pub use frame::{DEFAULT_MAX_FRAME_BYTES, FrameError};
pub use limits::{Change, Expiry, IndexSettings, Policy, SettingsChange};
pub use plan::{Action, Plan, PlannedMove, ShardBytes};
pub use range_map::{OwnedRange, Range, RangeMap, ShardInfo};
pub use ring::{HashMethod, Position, RING_BUCKETS, RING_SIZE, bucket_of, bucket_start};

/// The protocol version this crate speaks, sent in the first frame of a connection.
pub const PROTOCOL_VERSION: u32 = 1;
