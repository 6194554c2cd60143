//! `scan`: a page of documents in ring order.
//!
//! A page reads many documents, so a blocking thread reads it, a few at a time over all
//! connections. It ends where its bytes or its documents reach a bound, and always fits a frame.

use bytes::Bytes;
use sherd_engine::{Engine, Key};
use sherd_node::Responder;
use sherd_protocol::document::MAX_DOCUMENT_BYTES;
use sherd_protocol::message::{Cursor, Item, Page, Scan, ShardAnswer};
use sherd_protocol::name::{self, MAX_KEY_BYTES};
use sherd_protocol::ring::RING_SIZE;
use sherd_protocol::{DEFAULT_MAX_FRAME_BYTES, Position, Range, WireError};

use crate::refusal::refusal;
use crate::shard::Shard;

/// The bytes of keys and documents after which a page ends; the last document may go over. Large
/// enough that the round trip does not count, small enough that the memory of a page does not.
pub const PAGE_BYTES: usize = 512 * 1024;

/// The most documents of a page, whatever was asked: so that a page of short keys alone stays
/// small in memory too.
pub const MAX_PAGE_DOCUMENTS: usize = 8192;

/// How many pages are read at a time: more would not make the disk faster, and each holds a
/// thread and [`PAGE_BYTES`] of memory.
pub const MAX_SCANS_AT_ONCE: usize = 8;

/// What an item takes in a page besides key and document: the array's marker, the longest forms of
/// position, version and expiry, and of the lengths of key and document.
const ITEM_BYTES: usize = 1 + 5 + 9 + 9 + 3 + 5;

/// What a page takes besides its items, and more.
const PAGE_FRAME_BYTES: usize = 64;

const _: () = assert!(
    PAGE_BYTES
        + MAX_KEY_BYTES
        + MAX_DOCUMENT_BYTES
        + MAX_PAGE_DOCUMENTS * ITEM_BYTES
        + PAGE_FRAME_BYTES
        <= DEFAULT_MAX_FRAME_BYTES
);

pub(crate) fn scan(shard: &Shard, body: &Bytes, scan: &Scan<'_>, responder: Responder) {
    let wanted = match prepare(shard, body, scan) {
        Ok(wanted) => wanted,
        Err(error) => return responder.refuse(&error),
    };
    let index = scan.index.to_owned();
    shard.read(responder, PAGE_BYTES, move |engine, responder| {
        answer(engine, &wanted, &index, responder);
    });
}

fn prepare(shard: &Shard, body: &Bytes, scan: &Scan<'_>) -> Result<sherd_engine::Scan, WireError> {
    let range = scan.range;
    check_range(range)?;
    if scan.limit == 0 {
        return Err(WireError::bad_request("limit", "a page has 1 document at least"));
    }
    Ok(sherd_engine::Scan {
        index: shard.index(scan.index)?,
        range: (range.start, range.end),
        after: cursor(body, range, scan.after.as_ref())?,
        max_documents: MAX_PAGE_DOCUMENTS.min(scan.limit as usize),
        max_bytes: PAGE_BYTES,
        keys_only: scan.keys_only,
    })
}

/// Checks that a range is one of the ring.
pub(super) fn check_range(range: Range) -> Result<(), WireError> {
    if range.start > range.end || range.end > RING_SIZE {
        let what = format!("[{}, {}) is not a range of the ring", range.start, range.end);
        return Err(WireError::bad_request("range", what));
    }
    Ok(())
}

/// The key after which a page of a range begins, without copying it.
pub(super) fn cursor(
    body: &Bytes,
    range: Range,
    after: Option<&Cursor<'_>>,
) -> Result<Option<Key>, WireError> {
    let Some(cursor) = after else { return Ok(None) };
    let bad_cursor = |error| WireError::bad_request("after.key", error);
    name::check_key(cursor.key).map_err(bad_cursor)?;
    if !range.contains(cursor.position) {
        let what = format!("{} is outside the range", cursor.position.0);
        return Err(WireError::bad_request("after.position", what));
    }
    let bytes = body.slice_ref(cursor.key.as_bytes());
    Ok(Some(Key { position: cursor.position.0, bytes }))
}

/// Reads the page and answers it. Blocks.
fn answer(engine: &Engine, wanted: &sherd_engine::Scan, index: &str, responder: Responder) {
    match engine.scan(wanted) {
        Ok(page) => send(&page, index, responder),
        Err(error) => responder.refuse(&refusal(error, index)),
    }
}

/// Answers a page.
pub(super) fn send(page: &sherd_engine::Page, index: &str, responder: Responder) {
    let items = page.items.iter().map(|(key, document)| {
        // Keys are stored as they came, and they came as strings.
        let key_string = std::str::from_utf8(&key.bytes).map_err(|error| WireError::Internal {
            what: format!("a stored key of index {index:?} is not UTF-8: {error}"),
        })?;
        Ok(Item {
            position: Position(key.position),
            key: key_string,
            version: document.version,
            document: &document.bytes,
            expires_at: document.expires_at,
        })
    });
    match items.collect() {
        Ok(items) => responder.send(&ShardAnswer::Page(Page { items, more: page.more })),
        Err(error) => responder.refuse(&error),
    }
}
