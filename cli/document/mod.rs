//! Documents as people write and read them.
//!
//! A value that parses as JSON is JSON, anything else is a string. JSON becomes MessagePack and
//! back:
//!
//! | JSON | MessagePack | notes |
//! | --- | --- | --- |
//! | `null`, `true`, `false`, strings, arrays | the same | |
//! | integers from −2^63 to 2^64−1 | integer | |
//! | other numbers | 64-bit float | printed in the shortest form that reads back the same, as Python does: `1.0`, `1e+16` |
//! | objects | map | the order of the keys is kept; of a key given twice the last value counts |
//! | `{"$binary": "aGk="}` | binary | base64 |
//! | `{"$float": "NaN"}`, `"Infinity"`, `"-Infinity"` | float | |
//! | `{"$float32": 0.5}` | 32-bit float | also with a name as above |
//! | `{"$map": [[key, value], …]}` | map | whose keys are not all strings, or not all different |
//! | `{"$msgpack": "base64"}` | as it is | |
//!
//! Whatever is printed reads back as the same document, with one exception: 32-bit floats come
//! back as 64-bit ones of the same value. That is why a map is also printed as `$map` when it
//! would otherwise be taken for one of the forms above. An object that only resembles them
//! (`{"$binary": 5}`) is an object like any other where a person writes it, and refused where
//! nothing is guessed.
//!
//! Printed to be exact ([`Printable::exact`]), it reads back byte for byte: 32-bit floats as
//! `$float32`, and a document that is not the shortest MessagePack, as some writers make it, as
//! `$msgpack`.

mod json;
mod parse;
mod print;
pub(crate) mod tokens;

#[cfg(test)]
mod tests;

pub(crate) use json::{Duplicates, JsonFault, JsonReader};
pub(crate) use parse::parse;
pub(crate) use print::{Printable, append_json, to_json, write_json};

/// More characters of what was read are not quoted in messages: a name may be as long as a row.
const QUOTED_CHARACTERS: usize = 40;

/// Text as it is quoted in messages.
pub(crate) fn shortened(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The key of an object that stands for binary data.
const BINARY: &str = "$binary";
/// The key of an object that stands for a float that JSON has no number for.
const FLOAT: &str = "$float";
/// The key of an object that stands for a float of 32 bits.
const FLOAT32: &str = "$float32";
/// The key of an object that stands for MessagePack as it is.
const MESSAGE_PACK: &str = "$msgpack";
/// The key of an object that stands for a map that is no JSON object.
const MAP: &str = "$map";

/// Whether a map with this key alone needs the `$map` form.
fn is_reserved(key: &str) -> bool {
    [BINARY, FLOAT, FLOAT32, MAP, MESSAGE_PACK].contains(&key)
}
