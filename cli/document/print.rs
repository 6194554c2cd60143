//! MessagePack to JSON.
//!
//! The bytes are checked once, then printed straight from where they lie: no tree is built, for a
//! tree of a large document takes many times its size.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::ser::{Error as _, SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use sherd_protocol::document::{self, DocumentError};

use super::{BINARY, FLOAT, MAP, is_reserved};

/// Prints anything as JSON on one line, spaced as Python's `json.dumps` does, in raw UTF-8.
///
/// # Errors
/// What the value's `Serialize` reports; printing itself does not fail.
pub(crate) fn to_json<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<String> {
    let mut out = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Spaced))?;
    String::from_utf8(out).map_err(serde_json::Error::custom)
}

/// Separators and floats as Python prints them.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        // Rust's `Debug` changes to exponents at the same magnitudes as Python's `repr`, below
        // 1e-4 and from 1e16, and differs in how it writes them: 1e16 and 1e-7, not 1e+16, 1e-07.
        let text = format!("{value:?}");
        match text.split_once('e') {
            None => writer.write_all(text.as_bytes()),
            Some((digits, exponent)) => {
                let (sign, exponent) = match exponent.strip_prefix('-') {
                    Some(exponent) => ('-', exponent),
                    None => ('+', exponent),
                };
                write!(writer, "{digits}e{sign}{exponent:0>2}")
            }
        }
    }
}

/// A document that serializes as the JSON of the module's table.
pub(crate) struct Printable<'a> {
    bytes: &'a [u8],
    /// For each map, in the order in which they begin: whether it is printed as an object.
    objects: Vec<bool>,
}

impl<'a> Printable<'a> {
    /// Checks that `bytes` are a document.
    ///
    /// # Errors
    /// What is wrong with them, and where.
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, DocumentError> {
        document::check(bytes)?;
        let mut objects = Vec::new();
        let mut reader = Reader { bytes, offset: 0 };
        let token = reader.next()?;
        reader.survey(token, &mut objects)?;
        Ok(Self { bytes, objects })
    }
}

impl Serialize for Printable<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let reader = Reader { bytes: self.bytes, offset: 0 };
        let walk = RefCell::new(Walk { reader, objects: self.objects.iter() });
        Next(&walk).serialize(serializer)
    }
}

/// A place in the document while it is printed.
struct Walk<'a> {
    reader: Reader<'a>,
    objects: std::slice::Iter<'a, bool>,
}

/// Serializes the value at which the walk stands, and leaves it behind that value.
struct Next<'w, 'a>(&'w RefCell<Walk<'a>>);

impl Serialize for Next<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let token = self.0.borrow_mut().reader.next().map_err(S::Error::custom)?;
        match token {
            Token::Nil => serializer.serialize_unit(),
            Token::Bool(value) => serializer.serialize_bool(value),
            Token::Unsigned(value) => serializer.serialize_u64(value),
            Token::Signed(value) => serializer.serialize_i64(value),
            Token::Float(value) if value.is_finite() => serializer.serialize_f64(value),
            Token::Float(value) => tagged(serializer, FLOAT, float_name(value)),
            Token::String(value) => serializer.serialize_str(value),
            Token::Binary(value) => tagged(serializer, BINARY, &BASE64.encode(value)),
            Token::Array(count) => {
                let mut array = serializer.serialize_seq(Some(count))?;
                for _ in 0..count {
                    array.serialize_element(&Next(self.0))?;
                }
                array.end()
            }
            Token::Map(count) => {
                let is_object = self.0.borrow_mut().objects.next().copied();
                if !is_object.unwrap_or(false) {
                    return tagged(serializer, MAP, &Pairs(self.0, count));
                }
                let mut object = serializer.serialize_map(Some(count))?;
                for _ in 0..count {
                    object.serialize_entry(&Next(self.0), &Next(self.0))?;
                }
                object.end()
            }
        }
    }
}

/// The entries of a map as an array of arrays of two.
struct Pairs<'w, 'a>(&'w RefCell<Walk<'a>>, usize);

impl Serialize for Pairs<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut pairs = serializer.serialize_seq(Some(self.1))?;
        for _ in 0..self.1 {
            pairs.serialize_element(&(Next(self.0), Next(self.0)))?;
        }
        pairs.end()
    }
}

fn tagged<S: Serializer, T: Serialize + ?Sized>(
    serializer: S,
    tag: &str,
    value: &T,
) -> Result<S::Ok, S::Error> {
    let mut object = serializer.serialize_map(Some(1))?;
    object.serialize_entry(tag, value)?;
    object.end()
}

fn float_name(value: f64) -> &'static str {
    if value.is_nan() {
        "NaN"
    } else if value > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}

/// A scalar, or the head of an array or a map with the number of its entries.
#[derive(Clone, Copy)]
enum Token<'a> {
    Nil,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    String(&'a str),
    Binary(&'a [u8]),
    Array(usize),
    Map(usize),
}

/// Reads a checked document; what the check has ruled out is an error all the same.
struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Token<'a>, DocumentError> {
        let start = self.offset;
        let marker = self.array::<1>()?[0];
        Ok(match marker {
            0xc0 => Token::Nil,
            0xc2 => Token::Bool(false),
            0xc3 => Token::Bool(true),
            0x00..=0x7f => Token::Unsigned(u64::from(marker)),
            0xcc..=0xcf => Token::Unsigned(self.unsigned(1 << (marker - 0xcc))?),
            0xe0..=0xff => Token::Signed(i64::from(marker.cast_signed())),
            0xd0 => Token::Signed(i64::from(i8::from_be_bytes(self.array()?))),
            0xd1 => Token::Signed(i64::from(i16::from_be_bytes(self.array()?))),
            0xd2 => Token::Signed(i64::from(i32::from_be_bytes(self.array()?))),
            0xd3 => Token::Signed(i64::from_be_bytes(self.array()?)),
            0xca => Token::Float(f64::from(f32::from_be_bytes(self.array()?))),
            0xcb => Token::Float(f64::from_be_bytes(self.array()?)),
            0xa0..=0xbf => self.string(start, usize::from(marker & 0x1f))?,
            0xd9..=0xdb => {
                let length = self.length(1 << (marker - 0xd9))?;
                self.string(start, length)?
            }
            0xc4..=0xc6 => {
                let length = self.length(1 << (marker - 0xc4))?;
                Token::Binary(self.take(length)?)
            }
            0x90..=0x9f => Token::Array(usize::from(marker & 0x0f)),
            0xdc | 0xdd => Token::Array(self.length(2 << (marker - 0xdc))?),
            0x80..=0x8f => Token::Map(usize::from(marker & 0x0f)),
            0xde | 0xdf => Token::Map(self.length(2 << (marker - 0xde))?),
            0xc1 | 0xc7..=0xc9 | 0xd4..=0xd8 => {
                return Err(DocumentError::BadMarker { offset: start, marker });
            }
        })
    }

    /// Passes over the value that begins with `token` and notes for each map whether it can be
    /// printed as an object.
    fn survey(&mut self, token: Token<'a>, objects: &mut Vec<bool>) -> Result<(), DocumentError> {
        match token {
            Token::Array(count) => {
                for _ in 0..count {
                    let element = self.next()?;
                    self.survey(element, objects)?;
                }
            }
            Token::Map(count) => {
                let slot = objects.len();
                objects.push(true);
                let mut is_object = true;
                let mut keys = HashSet::new();
                for _ in 0..count {
                    let key = self.next()?;
                    is_object &= match key {
                        Token::String(key) => keys.insert(key) && !(count == 1 && is_reserved(key)),
                        _ => false,
                    };
                    self.survey(key, objects)?;
                    let value = self.next()?;
                    self.survey(value, objects)?;
                }
                objects[slot] = is_object;
            }
            _ => {}
        }
        Ok(())
    }

    fn string(&mut self, start: usize, length: usize) -> Result<Token<'a>, DocumentError> {
        match std::str::from_utf8(self.take(length)?) {
            Ok(text) => Ok(Token::String(text)),
            Err(_) => Err(DocumentError::NotUtf8 { offset: start }),
        }
    }

    fn length(&mut self, width: usize) -> Result<usize, DocumentError> {
        Ok(self.unsigned(width)? as usize)
    }

    fn unsigned(&mut self, width: usize) -> Result<u64, DocumentError> {
        Ok(self.take(width)?.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DocumentError> {
        let truncated = DocumentError::Truncated { offset: self.offset };
        self.take(N)?.try_into().map_err(|_| truncated)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], DocumentError> {
        let rest = &self.bytes[self.offset..];
        let taken = rest.get(..count).ok_or(DocumentError::Truncated { offset: self.offset })?;
        self.offset += count;
        Ok(taken)
    }
}
