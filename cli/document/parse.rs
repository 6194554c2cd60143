//! Text to MessagePack.

use std::convert::Infallible;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rmp::encode::buffer::ByteBuf;
use rmp::encode::{self, ValueWriteError};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use sherd_protocol::document::{self, DocumentError, MAX_NESTING};

use super::{BINARY, FLOAT, MAP};

/// How deep JSON may nest to be worth parsing: a `$map` takes three levels for one of the document,
/// and a scalar in it may be an object. Bounds the recursion of the parser.
const MAX_JSON_NESTING: usize = 3 * MAX_NESTING + 1;

/// The document that `text` stands for, as MessagePack.
///
/// # Errors
/// When it nests too deep or has too many bytes to be a document.
pub(crate) fn parse(text: &str) -> Result<Vec<u8>, DocumentError> {
    let mut out = ByteBuf::new();
    let Ok(()) = match json(text)? {
        Some(value) => write_value(&mut out, &value),
        None => encode::write_str(&mut out, text).map_err(never),
    };
    let bytes = out.into_vec();
    document::check(&bytes)?;
    Ok(bytes)
}

/// The JSON value in `text`; `None` when it is not JSON.
fn json(text: &str) -> Result<Option<Value>, DocumentError> {
    if let Some(offset) = too_deep_at(text) {
        // Skipping a value, other than building it, takes no recursion.
        return match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => Err(DocumentError::TooDeep { offset }),
            Err(_) => Ok(None),
        };
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    deserializer.disable_recursion_limit();
    let value = Value::deserialize(&mut deserializer);
    Ok(value.ok().filter(|_| deserializer.end().is_ok()))
}

/// Where `text`, read as JSON, nests deeper than [`MAX_JSON_NESTING`].
fn too_deep_at(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut in_string = false;
    let mut escaped = false;
    for (offset, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_JSON_NESTING {
                    return Some(offset);
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

fn write_value(out: &mut ByteBuf, value: &Value) -> Result<(), Infallible> {
    match value {
        Value::Null => encode::write_nil(out),
        Value::Bool(value) => encode::write_bool(out, *value),
        Value::Number(number) => {
            if let Some(number) = number.as_u64() {
                encode::write_uint(out, number).map(drop).map_err(never)
            } else if let Some(number) = number.as_i64() {
                encode::write_sint(out, number).map(drop).map_err(never)
            } else {
                // Every number that is no 64-bit integer is a float.
                let number = number.as_f64().unwrap_or(f64::NAN);
                encode::write_f64(out, number).map_err(never)
            }
        }
        Value::String(text) => encode::write_str(out, text).map_err(never),
        Value::Array(values) => {
            encode::write_array_len(out, length(values.len())).map_err(never)?;
            values.iter().try_for_each(|value| write_value(out, value))
        }
        Value::Object(object) => match Special::of(object) {
            Some(special) => special.write(out),
            None => {
                encode::write_map_len(out, length(object.len())).map_err(never)?;
                object.iter().try_for_each(|(key, value)| {
                    encode::write_str(out, key).map_err(never)?;
                    write_value(out, value)
                })
            }
        },
    }
}

/// What an object with one of the reserved keys stands for.
enum Special<'a> {
    Binary(Vec<u8>),
    Float(f64),
    Map(Vec<(&'a Value, &'a Value)>),
}

impl<'a> Special<'a> {
    fn of(object: &'a Map<String, Value>) -> Option<Self> {
        let mut entries = object.iter();
        let (Some((key, value)), None) = (entries.next(), entries.next()) else { return None };
        match (key.as_str(), value) {
            (BINARY, Value::String(text)) => BASE64.decode(text).ok().map(Self::Binary),
            (FLOAT, Value::String(text)) => match text.as_str() {
                "NaN" => Some(Self::Float(f64::NAN)),
                "Infinity" => Some(Self::Float(f64::INFINITY)),
                "-Infinity" => Some(Self::Float(f64::NEG_INFINITY)),
                _ => None,
            },
            (MAP, Value::Array(pairs)) => {
                let pair = |pair: &'a Value| match pair.as_array().map(Vec::as_slice) {
                    Some([key, value]) => Some((key, value)),
                    _ => None,
                };
                pairs.iter().map(pair).collect::<Option<_>>().map(Self::Map)
            }
            _ => None,
        }
    }

    fn write(self, out: &mut ByteBuf) -> Result<(), Infallible> {
        match self {
            Self::Binary(bytes) => encode::write_bin(out, &bytes).map_err(never),
            Self::Float(number) => encode::write_f64(out, number).map_err(never),
            Self::Map(pairs) => {
                encode::write_map_len(out, length(pairs.len())).map_err(never)?;
                pairs.iter().try_for_each(|(key, value)| {
                    write_value(out, key)?;
                    write_value(out, value)
                })
            }
        }
    }
}

/// A length as MessagePack has it. Text of 4 GiB, the only way to a longer array, is refused long
/// before.
fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Writing to memory does not fail.
#[expect(clippy::needless_pass_by_value, reason = "given to map_err")]
fn never(error: ValueWriteError<Infallible>) -> Infallible {
    match error {
        ValueWriteError::InvalidMarkerWrite(never) | ValueWriteError::InvalidDataWrite(never) => {
            never
        }
    }
}
