//! `pop` and `touch`: changes of a document that was read before.
//!
//! The document is read first, and then changed if it still has the version that was read. So the
//! sequencer never reads a document, and what a pop removes is what it returns. When another writer
//! came between, it is all done again, on another thread than the sequencer's. Each attempt that
//! fails means that somebody else's write succeeded.

use bytes::Bytes;
use sherd_engine::{Command, Document, Engine, Expiry, IndexId, Key, Mutation, MutationOutcome};
use sherd_node::{Responder, blocking};
use sherd_protocol::message::{Found, KeyOf, ShardAnswer, Touch};
use sherd_protocol::{Position, WireError};
use tokio::runtime::Handle;

use super::{mutation, read};
use crate::refusal::refusal;
use crate::shard::Shard;

/// How often a change is tried before it gives up a key that is rewritten all the time: some hundred
/// group commits, far beyond what a key under usual contention needs.
pub const MAX_ATTEMPTS: u32 = 256;

pub(crate) fn pop(shard: &Shard, body: &Bytes, at: KeyOf<'_>, responder: Responder) {
    begin(shard, body, at, Kind::Pop, responder);
}

pub(crate) fn touch(shard: &Shard, body: &Bytes, touch: Touch<'_>, responder: Responder) {
    let Touch { index, key, expiry } = touch;
    match mutation::expiry(expiry) {
        Ok(expiry) => begin(shard, body, KeyOf { index, key }, Kind::Touch(expiry), responder),
        Err(error) => responder.refuse(&error),
    }
}

/// What is done with the document.
#[derive(Clone, Copy)]
enum Kind {
    Pop,
    Touch(Expiry),
}

struct Change {
    kind: Kind,
    engine: Engine,
    runtime: Handle,
    /// The index as the request named it.
    name: Bytes,
    index: IndexId,
    key: Key,
    attempts: u32,
}

fn begin(shard: &Shard, body: &Bytes, at: KeyOf<'_>, kind: Kind, responder: Responder) {
    match read::locate(shard, body, at) {
        Ok((index, key)) => Change {
            kind,
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

impl Change {
    fn attempt(mut self, mut responder: Responder) {
        self.attempts += 1;
        let document = match self.engine.read(self.index, &self.key) {
            Ok(Some(document)) => document,
            Ok(None) => return responder.send(&ShardAnswer::Missing),
            Err(error) => return responder.refuse(&self.refusal(error)),
        };
        if self.attempts == 1 {
            // It is in memory from here on, also while it waits for the disk.
            responder.reserve(document.bytes.len());
        }
        let command = Command::Mutate { mutations: vec![self.mutation(&document)], atomic: false };
        let engine = self.engine.clone();
        let done = move |result| self.changed(mutation::single(result), &document, responder);
        engine.submit(command, Box::new(done));
    }

    fn mutation(&self, document: &Document) -> Mutation {
        let (index, key, version) = (self.index, self.key.clone(), document.version);
        match self.kind {
            Kind::Pop => Mutation::Remove { index, key, version: Some(version) },
            Kind::Touch(expiry) => {
                let document = document.bytes.clone();
                Mutation::Touch { index, key, version, document, expiry }
            }
        }
    }

    /// Runs on the sequencer's thread.
    fn changed(
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
                    expires_at: document.expires_at,
                    document: &document.bytes,
                }));
            }
            Ok(Some(MutationOutcome::Touched(version, expires_at))) => {
                responder.send(&ShardAnswer::Touched { version, expires_at });
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
        if self.attempts < MAX_ATTEMPTS {
            let runtime = self.runtime.clone();
            runtime.spawn(blocking(move || self.attempt(responder)));
        } else {
            let what = match self.kind {
                Kind::Pop => "pop",
                Kind::Touch(_) => "touch",
            };
            responder.refuse(&WireError::Unavailable {
                what: what.to_owned(),
                why: format!("the document was rewritten {MAX_ATTEMPTS} times meanwhile"),
            });
        }
    }

    fn refusal(&self, error: sherd_engine::Error) -> WireError {
        refusal(error, mutation::name(&self.name))
    }
}
