//! Text to MessagePack.

use rmp::encode;
use rmp::encode::buffer::ByteBuf;
use serde::de::IgnoredAny;
use sherd_protocol::document::{self, DocumentError};

use super::json::{Duplicates, JsonFault, JsonReader, never};

/// The document that `text` stands for, as MessagePack.
///
/// # Errors
/// When it nests too deep or has too many bytes to be a document.
pub(crate) fn parse(text: &str) -> Result<Vec<u8>, DocumentError> {
    let bytes = match json(text)? {
        Some(bytes) => bytes,
        None => {
            let mut out = ByteBuf::new();
            let Ok(()) = encode::write_str(&mut out, text).map_err(never);
            out.into_vec()
        }
    };
    document::check(&bytes)?;
    Ok(bytes)
}

/// The JSON value in `text` as MessagePack; `None` when it is not JSON.
fn json(text: &str) -> Result<Option<Vec<u8>>, DocumentError> {
    match JsonReader::read_value(text, Duplicates::LastCounts) {
        Ok(bytes) => Ok(Some(bytes)),
        // Skipping a value, other than reading it, takes no recursion.
        Err(JsonFault::TooDeep { offset }) => match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => Err(DocumentError::TooDeep { offset }),
            Err(_) => Ok(None),
        },
        Err(_) => Ok(None),
    }
}
