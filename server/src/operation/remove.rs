//! `remove`: removes a document, of any version or of the one named.

use bytes::Bytes;
use sherd_node::Responder;
use sherd_protocol::message::Remove;

use super::mutation;
use crate::shard::Shard;

pub(crate) fn remove(shard: &Shard, body: &Bytes, remove: &Remove<'_>, responder: Responder) {
    match mutation::remove(shard, body, remove, |index| shard.index(index)) {
        Ok(change) => mutation::submit(shard, body, remove.index, change, responder),
        Err(error) => responder.refuse(&error),
    }
}
