//! `read` and `has`: answered at once, mostly from memory.

use bytes::Bytes;
use sherd_engine::{IndexId, Key};
use sherd_node::Responder;
use sherd_protocol::message::{Found, KeyOf, ShardAnswer};
use sherd_protocol::{Position, WireError};

use crate::refusal::refusal;
use crate::shard::Shard;

pub(crate) fn read(shard: &Shard, body: &Bytes, at: KeyOf<'_>, responder: Responder) {
    let found = locate(shard, body, at).and_then(|(index, key)| {
        let document = shard.engine.read(index, &key);
        Ok((key, document.map_err(|error| refusal(error, at.index))?))
    });
    match found {
        Ok((key, Some(document))) => responder.send(&ShardAnswer::Document(Found {
            position: Position(key.position),
            version: document.version,
            expires_at: document.expires_at,
            document: &document.bytes,
        })),
        Ok((_, None)) => responder.send(&ShardAnswer::Missing),
        Err(error) => responder.refuse(&error),
    }
}

pub(crate) fn has(shard: &Shard, body: &Bytes, at: KeyOf<'_>, responder: Responder) {
    let found = locate(shard, body, at).and_then(|(index, key)| {
        let version = shard.engine.version(index, &key);
        Ok((key, version.map_err(|error| refusal(error, at.index))?))
    });
    match found {
        Ok((key, Some(version))) => responder.send(&ShardAnswer::Document(Found {
            position: Position(key.position),
            version,
            expires_at: 0,
            document: &[],
        })),
        Ok((_, None)) => responder.send(&ShardAnswer::Missing),
        Err(error) => responder.refuse(&error),
    }
}

/// Where a document is, for the engine.
///
/// # Errors
/// What is wrong with the request.
pub(super) fn locate(
    shard: &Shard,
    body: &Bytes,
    at: KeyOf<'_>,
) -> Result<(IndexId, Key), WireError> {
    let key = shard.key(body, at.key)?;
    Ok((shard.index(at.index)?, key))
}
