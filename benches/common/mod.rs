//! What the benchmarks of whole clusters share: their documents, and the median of rounds.

#![allow(dead_code, reason = "not every benchmark needs every helper")]

pub(crate) mod median;

use bytes::Bytes;
use sherd_client::{Client, Condition, Expiry, Mutation};

/// The bytes of a document: a MessagePack string of 126 characters, two bytes before them.
pub(crate) const DOCUMENT_BYTES: usize = 128;

/// Documents written with one call.
const BATCH: usize = 2000;

/// The text of each document.
pub(crate) fn text() -> String {
    "x".repeat(DOCUMENT_BYTES - 2)
}

/// A document.
pub(crate) fn document() -> Bytes {
    let mut document = vec![0xd9, (DOCUMENT_BYTES - 2) as u8];
    document.extend_from_slice(text().as_bytes());
    document.into()
}

/// The key of that number.
pub(crate) fn key(number: u64) -> String {
    format!("key:{number:012}")
}

/// Writes a document under each key.
pub(crate) async fn load(client: &Client, index: &str, keys: impl IntoIterator<Item = String>) {
    let mut keys = keys.into_iter().peekable();
    while keys.peek().is_some() {
        let write = |key| Mutation::Write {
            index: index.into(),
            key,
            document: document(),
            condition: Condition::Any,
            expiry: Expiry::Default,
        };
        let batch: Vec<_> = keys.by_ref().take(BATCH).map(write).collect();
        for result in client.batch(&batch).await {
            result.expect("it is written");
        }
    }
}
