//! Changes of one document: from the wire to the engine, and what became of them back.

use bytes::Bytes;
use sherd_engine::{Command, Condition, Expiry, IndexId, Mutation, Outcome};
use sherd_node::Responder;
use sherd_protocol::document::{self, DocumentError};
use sherd_protocol::message::{self, MutationOutcome, Remove, Write};
use sherd_protocol::{MAX_DOCUMENT_BYTES, WireError};

use crate::refusal::refusal;
use crate::shard::Shard;

/// The engine's mutation for a write in `body`, checked and not copied; `index` looks its index up.
///
/// # Errors
/// What is wrong with the request.
pub(super) fn write<'a>(
    shard: &Shard,
    body: &Bytes,
    write: &Write<'a>,
    index: impl FnOnce(&'a str) -> Result<IndexId, WireError>,
) -> Result<Mutation, WireError> {
    let key = shard.key(body, write.key)?;
    document::check(write.document).map_err(|error| match error {
        DocumentError::TooLarge { size } => WireError::TooLarge {
            what: "the document".to_owned(),
            size: size as u64,
            limit: MAX_DOCUMENT_BYTES as u64,
        },
        fault => WireError::bad_request("document", fault),
    })?;
    let index = index(write.index)?;
    let condition = match write.condition {
        message::Condition::Absent => Condition::Absent,
        message::Condition::Any => Condition::Any,
        message::Condition::Present => Condition::Present,
        message::Condition::Version(version) => Condition::Version(version),
    };
    let (document, expiry) = (body.slice_ref(write.document), expiry(write.expiry)?);
    Ok(Mutation::Write { index, key, document, condition, expiry })
}

/// When a document is to expire.
///
/// # Errors
/// When that is no time.
pub(super) fn expiry(expiry: sherd_protocol::Expiry) -> Result<Expiry, WireError> {
    expiry.check().map_err(|error| WireError::bad_request("expiry", error))?;
    Ok(match expiry {
        sherd_protocol::Expiry::Default => Expiry::Default,
        sherd_protocol::Expiry::Never => Expiry::Never,
        sherd_protocol::Expiry::After(milliseconds) => Expiry::After(milliseconds),
        sherd_protocol::Expiry::At(milliseconds) => Expiry::At(milliseconds),
    })
}

/// The engine's mutation for a remove in `body`; `index` looks its index up.
///
/// # Errors
/// What is wrong with the request.
pub(super) fn remove<'a>(
    shard: &Shard,
    body: &Bytes,
    remove: &Remove<'a>,
    index: impl FnOnce(&'a str) -> Result<IndexId, WireError>,
) -> Result<Mutation, WireError> {
    let key = shard.key(body, remove.key)?;
    let index = index(remove.index)?;
    Ok(Mutation::Remove { index, key, version: remove.version })
}

/// Submits one mutation and answers when it is durable.
pub(super) fn submit(
    shard: &Shard,
    body: &Bytes,
    index: &str,
    mutation: Mutation,
    responder: Responder,
) {
    let index = body.slice_ref(index.as_bytes());
    let command = Command::Mutate { mutations: vec![mutation], atomic: false };
    let done = move |result| match single(result) {
        Ok(outcome) => answer(outcome, name(&index), responder),
        Err(error) => responder.refuse(&refusal(error, name(&index))),
    };
    shard.engine.submit(command, Box::new(done));
}

/// What became of the only mutation of a command; `None` is for an engine that does not say.
pub(super) fn single(
    result: sherd_engine::Result<Outcome>,
) -> sherd_engine::Result<Option<sherd_engine::MutationOutcome>> {
    Ok(match result? {
        Outcome::Mutated(mut outcomes) => outcomes.pop(),
        Outcome::Done | Outcome::Frozen(_) => None,
    })
}

/// The name of an index that was taken as bytes from a string of the request.
pub(super) fn name(index: &Bytes) -> &str {
    std::str::from_utf8(index).unwrap_or_default()
}

fn answer(outcome: Option<sherd_engine::MutationOutcome>, index: &str, responder: Responder) {
    match outcome {
        // The variants of a batch's outcomes are those of the answer to a single mutation, under
        // the same names.
        Some(outcome) => responder.send(&on_the_wire(outcome, index)),
        None => responder.refuse(&unexpected()),
    }
}

/// What became of a mutation, as it travels.
pub(super) fn on_the_wire(outcome: sherd_engine::MutationOutcome, index: &str) -> MutationOutcome {
    use sherd_engine::MutationOutcome as Engine;
    match outcome {
        Engine::Written(version) => MutationOutcome::Written { version },
        Engine::Removed(version) => MutationOutcome::Removed { version },
        Engine::Missing => MutationOutcome::Missing,
        Engine::ConditionFailed(version) => MutationOutcome::ConditionFailed { version },
        Engine::Refused(error) => MutationOutcome::Error(refusal(error, index)),
        Engine::Abandoned => MutationOutcome::Abandoned,
        // Nothing of a batch is touched.
        Engine::Touched(..) => MutationOutcome::Error(unexpected()),
    }
}

/// The engine answered what it does not answer to the command.
pub(super) fn unexpected() -> WireError {
    WireError::Internal { what: "the engine answered another command".to_owned() }
}
