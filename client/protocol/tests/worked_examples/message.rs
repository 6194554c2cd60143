//! A message of either side, and what several examples share.

use bytes::BytesMut;
use sherd_protocol::message::*;
use sherd_protocol::{DEFAULT_MAX_FRAME_BYTES, Expiry, frame};

#[derive(Debug, PartialEq)]
pub(super) enum Message {
    Hello(Hello),
    HelloAnswer(HelloAnswer),
    ToShard(u64, ShardOperation<'static>),
    FromShard(u64, ShardAnswer<'static>),
    ToBootstrap(u64, BootstrapOperation<'static>),
    FromBootstrap(u64, BootstrapAnswer),
}

use Message::{FromBootstrap, FromShard, ToBootstrap, ToShard};

impl Message {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut wire = BytesMut::new();
        let limit = DEFAULT_MAX_FRAME_BYTES;
        match self {
            Self::Hello(hello) => frame::encode(&mut wire, hello, limit),
            Self::HelloAnswer(answer) => frame::encode(&mut wire, answer, limit),
            ToShard(id, operation) => {
                frame::encode(&mut wire, &Request { id: *id, operation }, limit)
            }
            FromShard(id, outcome) => frame::encode(&mut wire, &Answer { id: *id, outcome }, limit),
            ToBootstrap(id, operation) => {
                frame::encode(&mut wire, &Request { id: *id, operation }, limit)
            }
            FromBootstrap(id, outcome) => {
                frame::encode(&mut wire, &Answer { id: *id, outcome }, limit)
            }
        }
        .unwrap();
        wire.to_vec()
    }

    /// Decodes `bytes` as a message of the same kind as `self`.
    pub(super) fn decode_alike(&self, bytes: &'static [u8]) -> Self {
        let length = frame::body_length(bytes, DEFAULT_MAX_FRAME_BYTES).unwrap().unwrap();
        let body = &bytes[frame::LENGTH_BYTES..];
        assert_eq!(body.len(), length, "the length in front does not fit the body");
        match self {
            Self::Hello(_) => Self::Hello(frame::decode(body).unwrap()),
            Self::HelloAnswer(_) => Self::HelloAnswer(frame::decode(body).unwrap()),
            message => {
                let (id, rest) = split_id(body).unwrap();
                match message {
                    ToShard(..) => ToShard(id, frame::decode(rest).unwrap()),
                    FromShard(..) => FromShard(id, frame::decode(rest).unwrap()),
                    ToBootstrap(..) => ToBootstrap(id, frame::decode(rest).unwrap()),
                    _ => FromBootstrap(id, frame::decode(rest).unwrap()),
                }
            }
        }
    }
}

pub(super) const CLUSTER: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";

pub(super) const LINEAGE: u64 = 0x1234_5678_9abc_def0;

/// The beginning of the year 2030.
pub(super) const EXPIRES_AT: u64 = 1_893_456_000_000;

/// `"hello world"`, as a document.
pub(super) const HELLO_WORLD: &[u8] = b"\xabhello world";

/// `{"hello": "world"}`, as a document.
pub(super) const HELLO_MAP: &[u8] = b"\x81\xa5hello\xa5world";

pub(super) fn write(condition: Condition) -> Write<'static> {
    let expiry = Expiry::Default;
    Write { index: "test_index", key: "test", document: HELLO_WORLD, condition, expiry }
}

pub(super) fn key_of(key: &'static str) -> KeyOf<'static> {
    KeyOf { index: "test_index", key }
}
