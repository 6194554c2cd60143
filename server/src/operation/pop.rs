//! `pop`: removes a document and returns it.
//!
//! The document is read first, and then removed if it still has the version that was read. So the
//! sequencer never reads a document, and what is removed is what is returned. When another writer
//! came between, it is all done again, on another thread than the sequencer's. Each attempt that
//! fails means that somebody else's write succeeded.

use bytes::Bytes;
use sherd_engine::{Command, Document, Engine, IndexId, Key, Mutation, MutationOutcome};
use sherd_node::Responder;
use sherd_protocol::message::{Found, KeyOf, ShardAnswer};
use sherd_protocol::{Position, WireError};
use tokio::runtime::Handle;

use super::{mutation, read};
use crate::refusal::refusal;
use crate::shard::Shard;

/// How often a pop tries before it gives up a key that is rewritten all the time: some hundred
/// group commits, far beyond what a key under usual contention needs.
pub const MAX_POP_ATTEMPTS: u32 = 256;

pub(crate) fn pop(shard: &Shard, body: &Bytes, at: KeyOf<'_>, responder: Responder) {
    match read::locate(shard, body, at) {
        Ok((index, key)) => Pop {
            engine: shard.engine.clone(),
            runtime: shard.runtime.clone(),
            name: body.slice_ref(at.index.as_bytes()),
            index,
            key,
            attempts: 0,
        }
        .attempt(responder),
        Err(error) => responder.refuse(&error),
    }
}

struct Pop {
    engine: Engine,
    runtime: Handle,
    /// The index as the request named it.
    name: Bytes,
    index: IndexId,
    key: Key,
    attempts: u32,
}

impl Pop {
    fn attempt(mut self, mut responder: Responder) {
        self.attempts += 1;
        let document = match self.engine.read(self.index, &self.key) {
            Ok(Some(document)) => document,
            Ok(None) => return responder.send(&ShardAnswer::Missing),
            Err(error) => return responder.refuse(&self.refusal(error)),
        };
        if self.attempts == 1 {
            // The answer is in memory from here on, also while it waits for the disk.
            responder.reserve(document.bytes.len());
        }
        let version = Some(document.version);
        let remove = Mutation::Remove { index: self.index, key: self.key.clone(), version };
        let command = Command::Mutate { mutations: vec![remove], atomic: false };
        let engine = self.engine.clone();
        let done = move |result| self.removed(mutation::single(result), &document, responder);
        engine.submit(command, Box::new(done));
    }

    /// Runs on the sequencer's thread.
    fn removed(
        self,
        result: sherd_engine::Result<Option<MutationOutcome>>,
        document: &Document,
        responder: Responder,
    ) {
        match result {
            Ok(Some(MutationOutcome::Removed(_))) => {
                responder.send(&ShardAnswer::Document(Found {
                    position: Position(self.key.position),
                    version: document.version,
                    document: &document.bytes,
                }));
            }
            Ok(Some(MutationOutcome::Missing | MutationOutcome::ConditionFailed(None))) => {
                responder.send(&ShardAnswer::Missing);
            }
            Ok(Some(MutationOutcome::ConditionFailed(Some(_)))) => self.again(responder),
            Ok(Some(MutationOutcome::Refused(error))) | Err(error) => {
                responder.refuse(&self.refusal(error));
            }
            Ok(_) => responder.refuse(&mutation::unexpected()),
        }
    }

    fn again(self, responder: Responder) {
        if self.attempts < MAX_POP_ATTEMPTS {
            let runtime = self.runtime.clone();
            runtime.spawn_blocking(move || self.attempt(responder));
        } else {
            responder.refuse(&WireError::Unavailable {
                what: "pop".to_owned(),
                why: format!("the document was rewritten {MAX_POP_ATTEMPTS} times meanwhile"),
            });
        }
    }

    fn refusal(&self, error: sherd_engine::Error) -> WireError {
        refusal(error, mutation::name(&self.name))
    }
}
