//! JSON to MessagePack in one pass, without a tree of the values.

use std::convert::Infallible;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rmp::encode::buffer::ByteBuf;
use rmp::encode::{self, ValueWriteError};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::de::StrRead;
use sherd_protocol::document::{self, MAX_NESTING};
use thiserror::Error;

use super::tokens::{Reader, Token};
use super::{BINARY, FLOAT, FLOAT32, MAP, MESSAGE_PACK, shortened};

/// How deep JSON may nest to be worth parsing: a `$map` takes three levels for one of the document,
/// and a scalar in it may be an object. Bounds the recursion of the parser.
const MAX_JSON_NESTING: usize = 3 * MAX_NESTING + 1;

/// From here on floats may be integers in the text that lost digits.
const BEYOND_64_BITS: f64 = 18_446_744_073_709_551_616.0;
const BELOW_64_BITS: f64 = -9_223_372_036_854_775_808.0;

/// The fields of objects that stand for something else, and what they hold then.
const TAGS: [(&str, &str); 5] = [
    (BINARY, "bytes in base64, padded with ="),
    (FLOAT, "\"NaN\", \"Infinity\" or \"-Infinity\""),
    (FLOAT32, "a number with a point that 32 bits hold exactly, or a name as $float does"),
    (MAP, "an array of arrays of two, key and value"),
    (MESSAGE_PACK, "a whole document as MessagePack, in base64 padded with ="),
];

/// Up to so many fields are compared each with each other.
const FEW_NAMES: usize = 8;

/// From so many fields on it is looked for some that are there twice before all are read: a row may hold
/// millions of one name.
const MANY_NAMES: usize = 1 << 16;

/// Why text is no JSON, or none that is taken.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum JsonFault {
    #[error("not JSON: {0}")]
    NotJson(String),
    /// It is JSON, but not what is expected.
    #[error("{0}")]
    Unexpected(String),
    #[error("{name} is no JSON number; write {{\"$float\": \"{name}\"}}", name = .0)]
    NotANumber(&'static str),
    #[error(
        "the number {0} has more than 64 bits and would lose digits; write it as a string, or \
         with a point or an exponent as a float"
    )]
    Beyond64Bits(String),
    #[error("the field {0:?} is there twice")]
    Duplicate(String),
    #[error(
        "an object of the one field {tag:?} holds {expected}; one that is meant as an object is \
         written {{\"$map\": [[{tag:?}, …]]}}"
    )]
    Tag { tag: &'static str, expected: &'static str },
    #[error("no field {0:?}")]
    NoField(&'static str),
    #[error("the field {0:?} is not one of key, record, version, expires_at and hash_")]
    UnknownField(String),
    /// The bytes before; people count from 1, as serde does.
    #[error("it nests deeper than {MAX_JSON_NESTING} at byte {}", offset + 1)]
    TooDeep { offset: usize },
}

/// What becomes of what is not certain: a field that is there twice, an integer of more than 64 bits,
/// and an object that resembles one that stands for something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duplicates {
    /// The last value counts, and the integer is a float, as in most readers of JSON; an object is an
    /// object.
    LastCounts,
    /// It is refused: something would be lost, or guessed.
    Refused,
}

/// Where the name of a field is, in what was written so far.
#[derive(Clone, Copy)]
struct Name {
    start: u32,
    end: u32,
}

impl Name {
    /// Text of gigabytes, in which a place would not fit, is refused long before.
    fn new(start: usize, end: usize) -> Self {
        Self { start: start as u32, end: end as u32 }
    }

    fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..self.end as usize]
    }
}

/// Turns JSON values into MessagePack, while serde reads what is around them.
pub(crate) struct JsonReader {
    duplicates: Duplicates,
    out: ByteBuf,
    depth: usize,
    /// What serde's error was about.
    fault: Option<JsonFault>,
    /// A float may have been an integer.
    is_large: bool,
}

impl JsonReader {
    /// Reads `text` by `read`, which takes values with [`JsonReader::value`]; what it returns, and
    /// the values as MessagePack.
    ///
    /// # Errors
    /// When `text` is not one JSON value, or `read` does not take it.
    pub(crate) fn read<'t, T>(
        text: &'t str,
        duplicates: Duplicates,
        read: impl FnOnce(
            &mut Self,
            &mut serde_json::Deserializer<StrRead<'t>>,
        ) -> serde_json::Result<T>,
    ) -> Result<(T, Vec<u8>), JsonFault> {
        let out = ByteBuf::with_capacity(text.len());
        let mut reader = Self { duplicates, out, depth: 0, fault: None, is_large: false };
        let mut deserializer = serde_json::Deserializer::from_str(text);
        deserializer.disable_recursion_limit();
        let read = read(&mut reader, &mut deserializer)
            .and_then(|value| deserializer.end().map(|()| value));
        match read {
            Ok(value) => {
                if duplicates == Duplicates::Refused
                    && reader.is_large
                    && let Some(number) = integer_beyond_64_bits(text)
                {
                    return Err(JsonFault::Beyond64Bits(shortened(number)));
                }
                Ok((value, reader.out.into_vec()))
            }
            Err(error) => Err(match reader.fault {
                Some(JsonFault::TooDeep { .. }) => {
                    JsonFault::TooDeep { offset: too_deep_at(text).unwrap_or(text.len()) }
                }
                Some(fault) => fault,
                // It may be text of any kind: why it is not JSON is not asked.
                None if duplicates == Duplicates::LastCounts => JsonFault::NotJson(String::new()),
                None => not_json(text, &error),
            }),
        }
    }

    /// Reads a value and nothing else, as MessagePack.
    ///
    /// # Errors
    /// When `text` is no JSON value.
    pub(crate) fn read_value(text: &str, duplicates: Duplicates) -> Result<Vec<u8>, JsonFault> {
        let read = Self::read(text, duplicates, |reader, deserializer| {
            reader.value().deserialize(deserializer)
        });
        read.map(|((), bytes)| bytes)
    }

    /// Takes a value.
    pub(crate) fn value(&mut self) -> Value<'_> {
        Value(self)
    }

    /// For `read` to say why it takes no more.
    pub(crate) fn refuse<E: serde::de::Error>(&mut self, fault: JsonFault) -> E {
        let error = E::custom(&fault);
        self.fault = Some(fault);
        error
    }

    fn bytes(&mut self) -> &mut Vec<u8> {
        self.out.as_mut_vec()
    }

    fn descend<E: serde::de::Error>(&mut self) -> Result<usize, E> {
        self.depth += 1;
        if self.depth > MAX_JSON_NESTING {
            return Err(self.refuse(JsonFault::TooDeep { offset: 0 }));
        }
        let start = self.bytes().len();
        self.bytes().push(0);
        Ok(start)
    }

    /// Puts the header of an array or a map in the place kept for it.
    fn ascend(&mut self, start: usize, count: usize, write: impl FnOnce(&mut ByteBuf, u32)) {
        self.depth -= 1;
        let mut header = ByteBuf::new();
        // More entries than that are text of gigabytes, which is refused long before.
        write(&mut header, u32::try_from(count).unwrap_or(u32::MAX));
        match header.as_slice() {
            [only] => self.bytes()[start] = *only,
            header => drop(self.bytes().splice(start..=start, header.iter().copied())),
        }
    }

    /// The name of a field that is there twice. Of many, the names are sorted by that: of a line that is
    /// nothing but short names a copy of them would take several times its length.
    fn duplicate(&self, names: &mut [Name]) -> Option<String> {
        let bytes = self.out.as_slice();
        let same = if names.len() <= FEW_NAMES {
            let twice = |&(at, name): &(usize, &Name)| {
                names[..at].iter().any(|before| before.of(bytes) == name.of(bytes))
            };
            names.iter().enumerate().find(twice).map(|(_, name)| *name)
        } else {
            names.sort_unstable_by(|a, b| a.of(bytes).cmp(b.of(bytes)));
            let twice = |pair: &&[Name]| pair[0].of(bytes) == pair[1].of(bytes);
            names.windows(2).find(twice).map(|pair| pair[0])
        }?;
        let mut reader = Reader { bytes: same.of(bytes), offset: 0 };
        match reader.next() {
            Ok(Token::String(name)) => Some(shortened(name)),
            _ => None,
        }
    }

    /// Leaves of each field of the map that begins at `start` the first name and the last value.
    fn deduplicate(&mut self, start: usize, names: &mut Vec<Name>) {
        let bytes = self.out.as_slice();
        names.sort_unstable_by(|a, b| a.of(bytes).cmp(b.of(bytes)).then(a.start.cmp(&b.start)));
        let same = names.chunk_by(|a, b| a.of(bytes) == b.of(bytes));
        let ends = same.filter_map(|names| Some((*names.first()?, *names.last()?)));
        let mut fields: Vec<(Name, Name)> = ends.collect();
        fields.sort_unstable_by_key(|(first, _)| first.start);
        names.clear();
        let mut body = Vec::new();
        for (first, last) in &fields {
            let name = start + 1 + body.len();
            body.extend_from_slice(first.of(bytes));
            names.push(Name::new(name, start + 1 + body.len()));
            let mut reader = Reader { bytes, offset: last.end as usize };
            // What is there was written a moment ago.
            _ = reader.skip();
            body.extend_from_slice(&bytes[last.end as usize..reader.offset]);
        }
        self.bytes().truncate(start + 1);
        self.bytes().extend_from_slice(&body);
    }

    /// Refuses a name that is there twice, or leaves the last value of it.
    fn without_duplicates<E: serde::de::Error>(
        &mut self,
        start: usize,
        names: &mut Vec<Name>,
    ) -> Result<(), E> {
        match (self.duplicate(names), self.duplicates) {
            (None, _) => {}
            (Some(name), Duplicates::Refused) => {
                return Err(self.refuse(JsonFault::Duplicate(name)));
            }
            (Some(_), Duplicates::LastCounts) => self.deduplicate(start, names),
        }
        Ok(())
    }

    /// Turns the map of one entry that begins at `start`, where it stands for something else, into
    /// that.
    ///
    /// # Errors
    /// When its field is that of something else, and its value is not: the field, and what would be.
    fn replace_special(&mut self, start: usize) -> Result<(), JsonFault> {
        let mut reader = Reader { bytes: &self.out.as_slice()[start..], offset: 1 };
        let Ok(Token::String(tag)) = reader.next() else { return Ok(()) };
        let Some(tag) = TAGS.iter().find(|(name, _)| *name == tag) else { return Ok(()) };
        let Some(out) = special(tag.0, &mut reader) else {
            return Err(JsonFault::Tag { tag: tag.0, expected: tag.1 });
        };
        self.bytes().truncate(start);
        self.bytes().extend_from_slice(&out);
        Ok(())
    }
}

/// What an object of one field stands for whose value is the next, if that can be.
fn special(tag: &str, reader: &mut Reader<'_>) -> Option<Vec<u8>> {
    let mut out = ByteBuf::new();
    match (tag, reader.next().ok()?) {
        (BINARY, Token::String(text)) => {
            encode::write_bin(&mut out, &BASE64.decode(text).ok()?).map_err(never).ok()?;
        }
        (MESSAGE_PACK, Token::String(text)) => {
            let bytes = BASE64.decode(text).ok()?;
            document::check(&bytes).ok()?;
            *out.as_mut_vec() = bytes;
        }
        (FLOAT, Token::String(name)) => {
            encode::write_f64(&mut out, float(name)?).map_err(never).ok()?;
        }
        (FLOAT32, value) => {
            let value = match value {
                Token::String("NaN") => f32::NAN,
                Token::String(name) => float(name)? as f32,
                Token::Float(value) => {
                    let single = value as f32;
                    (f64::from(single) == value).then_some(single)?
                }
                _ => return None,
            };
            encode::write_f32(&mut out, value).map_err(never).ok()?;
        }
        (MAP, Token::Array(count)) => {
            encode::write_map_len(&mut out, u32::try_from(count).ok()?).map_err(never).ok()?;
            for _ in 0..count {
                let Token::Array(2) = reader.next().ok()? else { return None };
                let from = reader.offset;
                reader.skip().ok()?;
                reader.skip().ok()?;
                out.as_mut_vec().extend_from_slice(&reader.bytes[from..reader.offset]);
            }
        }
        _ => return None,
    }
    Some(out.into_vec())
}

/// A float by the name that it has in JSON.
fn float(name: &str) -> Option<f64> {
    match name {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// A value to be appended to what the reader has.
pub(crate) struct Value<'r>(&'r mut JsonReader);

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        let Ok(()) = encode::write_nil(&mut self.0.out);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        let Ok(()) = encode::write_bool(&mut self.0.out, value);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        let Ok(_) = encode::write_uint(&mut self.0.out, value).map_err(never);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        let Ok(_) = encode::write_sint(&mut self.0.out, value).map_err(never);
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.0.is_large |= !(BELOW_64_BITS < value && value < BEYOND_64_BITS);
        let Ok(()) = encode::write_f64(&mut self.0.out, value).map_err(never);
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        let Ok(()) = encode::write_str(&mut self.0.out, value).map_err(never);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        let reader = self.0;
        let start = reader.descend()?;
        let mut count = 0;
        while values.next_element_seed(reader.value())?.is_some() {
            count += 1;
        }
        reader.ascend(start, count, |header, count| {
            let Ok(_) = encode::write_array_len(header, count).map_err(never);
        });
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let reader = self.0;
        let start = reader.descend()?;
        let (mut names, mut checked_at) = (Vec::new(), MANY_NAMES);
        loop {
            let name = reader.bytes().len();
            if entries.next_key_seed(reader.value())?.is_none() {
                break;
            }
            names.push(Name::new(name, reader.bytes().len()));
            entries.next_value_seed(reader.value())?;
            if names.len() >= checked_at {
                reader.without_duplicates(start, &mut names)?;
                checked_at = MANY_NAMES.max(2 * names.len());
            }
        }
        reader.without_duplicates(start, &mut names)?;
        let count = names.len();
        reader.ascend(start, count, |header, count| {
            let Ok(_) = encode::write_map_len(header, count).map_err(never);
        });
        if count == 1
            && let Err(fault) = reader.replace_special(start)
            && reader.duplicates == Duplicates::Refused
        {
            return Err(reader.refuse(fault));
        }
        Ok(())
    }
}

/// Why `text` is not JSON, without the line, of which there is one.
fn not_json(text: &str, error: &serde_json::Error) -> JsonFault {
    let column = error.column();
    // The column is that of the character at which it is no number, or the one before.
    for at in column.saturating_sub(3)..=column {
        for name in ["-Infinity", "Infinity", "NaN"] {
            if text.get(at..).is_some_and(|rest| rest.starts_with(name)) {
                return JsonFault::NotANumber(name);
            }
        }
    }
    let what = error.to_string().replace(" at line 1 column ", " at byte ");
    if error.is_data() { JsonFault::Unexpected(what) } else { JsonFault::NotJson(what) }
}

/// The first integer in JSON that has more than 64 bits.
fn integer_beyond_64_bits(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let start = at;
                while at < bytes.len()
                    && matches!(bytes[at], b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')
                {
                    at += 1;
                }
                let number = &text[start..at];
                let is_integer = !number.contains(['.', 'e', 'E']);
                if is_integer && number.parse::<u64>().is_err() && number.parse::<i64>().is_err() {
                    return Some(number);
                }
            }
            _ => at += 1,
        }
    }
    None
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

/// Writing to memory does not fail.
#[expect(clippy::needless_pass_by_value, reason = "given to map_err")]
pub(super) fn never(error: ValueWriteError<Infallible>) -> Infallible {
    match error {
        ValueWriteError::InvalidMarkerWrite(never) | ValueWriteError::InvalidDataWrite(never) => {
            never
        }
    }
}
