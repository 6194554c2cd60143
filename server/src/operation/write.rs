//! `write`: stores a document if its condition holds.

use bytes::Bytes;
use sherd_node::Responder;
use sherd_protocol::message::Write;

use super::mutation;
use crate::shard::Shard;

pub(crate) fn write(shard: &Shard, body: &Bytes, write: &Write<'_>, responder: Responder) {
    match mutation::write(shard, body, write, |index| shard.index(index)) {
        Ok(change) => mutation::submit(shard, body, write.index, change, responder),
        Err(error) => responder.refuse(&error),
    }
}
