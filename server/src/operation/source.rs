//! What the target of a move asks of the source: pages of a range, the end of the log, a freeze.

use std::time::Duration;

use bytes::Bytes;
use sherd_engine::{Command, Engine, Imported, Outcome};
use sherd_node::{Responder, is_held_at};
use sherd_protocol::message::{
    Export, Freeze, ReadTail, ShardAnswer, SourceOperation, SumUp, Tail, TailChange, TailCursor,
};
use sherd_protocol::{Position, WireError};

use super::control::submit;
use super::digests::sums;
use super::scan::{self, MAX_PAGE_DOCUMENTS};
use crate::refusal::refusal;
use crate::shard::Shard;

/// The bytes of keys and documents after which a page for a target ends: what the target stores with
/// one batch, for which its own callers wait.
const PAGE_BYTES: usize = 64 * 1024;

/// The longest that a range may be frozen at a time, whoever asks: whoever asked may be gone.
const LONGEST_FREEZE: Duration = Duration::from_secs(30);

pub(crate) fn source(
    shard: &Shard,
    body: &Bytes,
    operation: &SourceOperation<'_>,
    responder: Responder,
) {
    match operation {
        SourceOperation::TailEnd => {
            responder.send(&ShardAnswer::TailEnd(on_the_wire(shard.engine.tail_end())));
        }
        SourceOperation::Export(export) => match prepare(body, export) {
            Ok(wanted) => {
                let hold = export.hold;
                shard.read(responder, PAGE_BYTES, move |engine, responder| {
                    answer_page(engine, &wanted, hold, responder);
                });
            }
            Err(error) => responder.refuse(&error),
        },
        SourceOperation::Tail(tail) => match scan::check_range(tail.range) {
            Ok(()) => {
                let tail = *tail;
                shard.read(responder, PAGE_BYTES, move |engine, responder| {
                    answer_tail(engine, tail, responder);
                });
            }
            Err(error) => responder.refuse(&error),
        },
        SourceOperation::Freeze(freeze) => freeze_range(shard, freeze, responder),
        SourceOperation::Thaw(id) => {
            submit(shard, Command::Thaw { id: id.id.to_owned() }, responder);
        }
        SourceOperation::Sums(wanted) => sum_up(shard, wanted, responder),
    }
}

fn prepare(body: &Bytes, export: &Export<'_>) -> Result<sherd_engine::Scan, WireError> {
    let Export { index, range, after, .. } = export;
    scan::check_range(*range)?;
    Ok(sherd_engine::Scan {
        index: *index,
        range: (range.start, range.end),
        after: scan::cursor(body, *range, after.as_ref())?,
        max_documents: MAX_PAGE_DOCUMENTS,
        max_bytes: PAGE_BYTES,
        keys_only: false,
    })
}

fn answer_page(
    engine: &Engine,
    wanted: &sherd_engine::Scan,
    hold: Option<TailCursor>,
    responder: Responder,
) {
    if let Some(hold) = hold
        && !engine.hold_log(to_engine(hold))
    {
        // What more is copied would be copied in vain.
        return responder.refuse(&WireError::LogGone { after: hold.lsn.saturating_sub(1) });
    }
    match engine.export(wanted) {
        Ok(page) => scan::send(&page, "", responder),
        Err(error) => responder.refuse(&refusal(error, "")),
    }
}

fn answer_tail(engine: &Engine, ReadTail { from, range }: ReadTail, responder: Responder) {
    let tail = match engine.tail(to_engine(from), &[(range.start, range.end)], PAGE_BYTES) {
        Ok(tail) => tail,
        Err(error) => return responder.refuse(&refusal(error, "")),
    };
    let changes: Result<Vec<_>, _> = tail.documents.iter().map(change).collect();
    match changes {
        Ok(changes) => {
            let (next, durable_lsn) = (on_the_wire(tail.next), tail.durable_lsn);
            responder.send(&ShardAnswer::Tail(Tail { changes, next, durable_lsn }));
        }
        Err(error) => responder.refuse(&error),
    }
}

fn change(imported: &Imported) -> Result<TailChange<'_>, WireError> {
    let (index, key, version, document, expires_at) = match imported {
        Imported::Put { index, key, version, expires_at, document } => {
            (*index, key, *version, Some(&document[..]), *expires_at)
        }
        Imported::Removed { index, key, version } => (*index, key, *version, None, 0),
    };
    let position = Position(key.position);
    // Keys are stored as they came, and they came as strings.
    let key = std::str::from_utf8(&key.bytes).map_err(|error| WireError::Internal {
        what: format!("a stored key of index {index} is not UTF-8: {error}"),
    })?;
    Ok(TailChange { index, position, key, version, document, expires_at })
}

fn freeze_range(shard: &Shard, freeze: &Freeze<'_>, responder: Responder) {
    let Freeze { id, range, at_most } = *freeze;
    if let Err(error) = scan::check_range(range) {
        return responder.refuse(&error);
    }
    let command = Command::Freeze {
        id: id.to_owned(),
        ranges: vec![(range.start, range.end)],
        at_most: Duration::from_millis(at_most).min(LONGEST_FREEZE),
    };
    let done = move |result: sherd_engine::Result<_>| match result {
        // Never answered.
        Ok(Outcome::Frozen(_)) if is_held_at("source frozen") => std::mem::forget(responder),
        Ok(Outcome::Frozen(lsn)) => responder.send(&ShardAnswer::Frozen { lsn }),
        Ok(_) => responder.refuse(&super::mutation::unexpected()),
        Err(error) => responder.refuse(&refusal(error, "")),
    };
    shard.engine.submit(command, Box::new(done));
}

/// Sums a frozen range up. Where the freeze has run out by then, the sums may be of something else than
/// what the target has, and would be taken for a fault.
fn sum_up(shard: &Shard, wanted: &SumUp<'_>, responder: Responder) {
    let SumUp { id, lsn, range } = *wanted;
    if let Err(error) = scan::check_range(range) {
        return responder.refuse(&error);
    }
    let check = Command::CheckFrozen { id: id.to_owned(), frozen_at: lsn };
    shard.read(responder, 0, move |engine, responder| match sums(engine, &[range]) {
        Ok(sums) => {
            let done = move |result: sherd_engine::Result<_>| match result {
                Ok(_) => responder.send(&ShardAnswer::Sums(sums)),
                Err(error) => responder.refuse(&refusal(error, "")),
            };
            engine.submit(check, Box::new(done));
        }
        Err(error) => responder.refuse(&error),
    });
}

fn to_engine(cursor: TailCursor) -> sherd_engine::TailCursor {
    let TailCursor { lsn, segment, offset } = cursor;
    sherd_engine::TailCursor { lsn, segment, offset }
}

fn on_the_wire(cursor: sherd_engine::TailCursor) -> TailCursor {
    let sherd_engine::TailCursor { lsn, segment, offset } = cursor;
    TailCursor { lsn, segment, offset }
}
