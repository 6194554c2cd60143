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
//! | `{"$map": [[key, value], …]}` | map | whose keys are not all strings, or not all different |
//!
//! Whatever is printed reads back as the same document, with one exception: 32-bit floats come
//! back as 64-bit ones of the same value. That is why a map is also printed as `$map` when it
//! would otherwise be taken for one of the three forms above. An object that only resembles them
//! (`{"$binary": 5}`) is an object like any other.

mod parse;
mod print;

#[cfg(test)]
mod tests;

pub(crate) use parse::parse;
pub(crate) use print::{Printable, to_json};

/// The key of an object that stands for binary data.
const BINARY: &str = "$binary";
/// The key of an object that stands for a float that JSON has no number for.
const FLOAT: &str = "$float";
/// The key of an object that stands for a map that is no JSON object.
const MAP: &str = "$map";

/// Whether a map with this key alone needs the `$map` form.
fn is_reserved(key: &str) -> bool {
    [BINARY, FLOAT, MAP].contains(&key)
}
