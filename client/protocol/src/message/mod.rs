//! The messages that frames carry.
//!
//! The first frame of a connection is a [`Hello`], answered by a [`HelloAnswer`]. After that the
//! client sends [`Request`]s and the node [`Answer`]s; an answer carries the id of its request and
//! may come out of order. Requests that a client sends without waiting are executed in any order.
//!
//! Strings and documents borrow from the frame they were decoded from, so that a node handles a
//! document without copying or decoding it.

mod bootstrap;
mod cut;
mod handover;
mod shard;
mod stat;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};

pub use self::bootstrap::*;
pub use self::cut::*;
pub use self::handover::*;
pub use self::shard::*;
pub use self::stat::*;
use crate::error::WireError;
use crate::frame::{self, FrameError};

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Keeps documents.
    Shard,
    /// Keeps the range map and the index catalogue.
    Bootstrap,
}

/// The first frame of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::PROTOCOL_VERSION`] of the client.
    pub version: u32,
    /// Who connects, for the node's log.
    pub client: String,
    /// The shared secret, where the cluster has one.
    #[serde(default)]
    pub token: Option<String>,
}

/// The answer to a [`Hello`]; after a refusal the node closes the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "described by the types they hold")]
pub enum HelloAnswer {
    Welcome(Welcome),
    Refused(WireError),
}

/// Who answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// [`crate::PROTOCOL_VERSION`] of the node.
    pub version: u32,
    /// What the node is.
    pub role: Role,
    /// The shard's name; empty for a bootstrap and for a shard that waits for its first
    /// assignment.
    pub name: String,
    /// The epoch of the range map that the node knows; 0 for none.
    pub epoch: u64,
}

/// A request: an id that the answer repeats, and the operation.
///
/// On the wire an array of two, so that the id can be read where the operation is not understood.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "described above")]
pub struct Request<O> {
    pub id: u64,
    pub operation: O,
}

/// An answer: the id of its request, and the outcome. On the wire an array of two.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "described above")]
pub struct Answer<A> {
    pub id: u64,
    pub outcome: A,
}

impl<O: Serialize> Serialize for Request<O> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.id, &self.operation).serialize(serializer)
    }
}

impl<A: Serialize> Serialize for Answer<A> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.id, &self.outcome).serialize(serializer)
    }
}

/// Takes the id off the body of a request or an answer; the rest is the operation or outcome, for
/// [`frame::decode`].
///
/// # Errors
/// [`FrameError::Malformed`] when the body is no array of two that begins with an unsigned
/// integer: there is no id to answer to.
pub fn split_id(mut body: &[u8]) -> Result<(u64, &[u8]), FrameError> {
    let malformed = |what: &str| FrameError::Malformed(format!("{what} at the head of a message"));
    match rmp::decode::read_array_len(&mut body) {
        Ok(2) => {}
        Ok(length) => return Err(malformed(&format!("an array of {length}, not of 2"))),
        Err(_) => return Err(malformed("no array")),
    }
    let id = rmp::decode::read_int(&mut body).map_err(|_| malformed("no unsigned id"))?;
    Ok((id, body))
}

/// Decodes a whole request or answer.
///
/// # Errors
/// [`FrameError::Malformed`].
pub fn decode_with_id<T: DeserializeOwned>(body: &[u8]) -> Result<(u64, T), FrameError> {
    let (id, rest) = split_id(body)?;
    Ok((id, frame::decode(rest)?))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::{Expiry, IndexSettings, Policy, Position, Range};

    fn round_trip<T: Serialize>(message: &T) -> BytesMut {
        let mut wire = BytesMut::new();
        frame::encode(&mut wire, message, 1 << 20).unwrap();
        wire.split_off(frame::LENGTH_BYTES)
    }

    #[test]
    fn operations_come_back_as_they_went_and_borrow_from_the_frame() {
        let operations = [
            ShardOperation::Write(Write {
                index: "i",
                key: "k|ä",
                document: b"\x81\xa1a\x01",
                condition: Condition::Version(7),
                expiry: Expiry::After(2000),
            }),
            ShardOperation::Touch(Touch { index: "i", key: "k", expiry: Expiry::Never }),
            ShardOperation::SetIndex(SetShare {
                id: 7,
                name: "i",
                settings: IndexSettings { policy: Some(Policy::Lfu), ..IndexSettings::default() },
                force: true,
            }),
            ShardOperation::Stat,
            ShardOperation::Batch(Batch {
                mutations: vec![
                    Mutation::Write(Write {
                        index: "i",
                        key: "k",
                        document: b"\xc0",
                        condition: Condition::Absent,
                        expiry: Expiry::Default,
                    }),
                    Mutation::Remove(Remove { index: "i", key: "l", version: None }),
                ],
                atomic: true,
            }),
            ShardOperation::Scan(Scan {
                index: "i",
                range: Range::FULL,
                after: Some(Cursor { position: Position(3), key: "k" }),
                limit: 10,
                keys_only: false,
            }),
        ];
        for operation in operations {
            let body = round_trip(&Request { id: u64::MAX, operation: operation.clone() });
            let (id, rest) = split_id(&body).unwrap();
            assert_eq!(id, u64::MAX);
            assert_eq!(frame::decode::<ShardOperation<'_>>(rest).unwrap(), operation);
        }
    }

    #[test]
    fn answers_come_back_as_they_went() {
        let outcomes = [
            ShardAnswer::Written { version: 3 },
            ShardAnswer::Missing,
            ShardAnswer::Touched { version: 3, expires_at: 7 },
            ShardAnswer::Document(Found {
                position: Position(1),
                version: 2,
                expires_at: 3,
                document: b"\xc0",
            }),
            ShardAnswer::Page(Page {
                items: [0, 1 << 40]
                    .map(|expires_at| Item {
                        position: Position(1),
                        key: "k",
                        version: 2,
                        document: b"",
                        expires_at,
                    })
                    .to_vec(),
                more: true,
            }),
            ShardAnswer::Stat(Box::default()),
            ShardAnswer::Error(WireError::QuotaExceeded { used: 1, limit: 2, needed: 3 }),
            ShardAnswer::Error(WireError::bad_request("key", "too short")),
        ];
        for outcome in outcomes {
            let body = round_trip(&Answer { id: 1, outcome: outcome.clone() });
            let (_, rest) = split_id(&body).unwrap();
            assert_eq!(frame::decode::<ShardAnswer<'_>>(rest).unwrap(), outcome);
        }
    }

    #[test]
    fn the_id_is_read_where_the_operation_is_unknown() {
        let body = round_trip(&(5u64, "levitate"));
        let (id, rest) = split_id(&body).unwrap();
        assert_eq!(id, 5);
        assert!(frame::decode::<ShardOperation<'_>>(rest).is_err());
        assert!(split_id(b"\xc0").is_err());
        assert!(split_id(b"\x92\xa1x\xc0").is_err());
    }

    #[test]
    fn fields_a_later_version_adds_are_passed_over() {
        #[derive(Serialize)]
        struct Later {
            index: &'static str,
            key: &'static str,
            colour: &'static str,
        }
        let body = round_trip(&Later { index: "i", key: "k", colour: "blue" });
        assert_eq!(frame::decode::<KeyOf<'_>>(&body).unwrap(), KeyOf { index: "i", key: "k" });
    }
}
