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

use super::tokens::{Reader, Token};
use super::{BINARY, FLOAT, FLOAT32, MAP, MESSAGE_PACK, is_reserved};

/// Prints anything as JSON on one line, spaced as Python's `json.dumps` does, in raw UTF-8.
///
/// # Errors
/// What the value's `Serialize` reports; printing itself does not fail.
pub(crate) fn to_json<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<String> {
    let mut out = Vec::new();
    append_json(&mut out, value)?;
    String::from_utf8(out).map_err(serde_json::Error::custom)
}

/// Appends what [`to_json`] prints.
///
/// # Errors
/// As [`to_json`].
pub(crate) fn append_json<T: Serialize + ?Sized>(
    out: &mut Vec<u8>,
    value: &T,
) -> serde_json::Result<()> {
    write_json(out, value)
}

/// Writes what [`to_json`] prints, and holds nothing of it.
///
/// # Errors
/// As [`to_json`], and when it cannot be written.
pub(crate) fn write_json<T: Serialize + ?Sized>(
    writer: impl io::Write,
    value: &T,
) -> serde_json::Result<()> {
    value.serialize(&mut serde_json::Serializer::with_formatter(writer, Spaced))
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
    form: Form,
}

/// How much of a document is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// The values.
    Values,
    /// Also which floats have 32 bits.
    Exact,
    /// The bytes.
    Bytes,
}

impl<'a> Printable<'a> {
    /// Checks that `bytes` are a document.
    ///
    /// # Errors
    /// What is wrong with them, and where.
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, DocumentError> {
        let (objects, _) = surveyed(bytes)?;
        Ok(Self { bytes, objects, form: Form::Values })
    }

    /// As [`Printable::new`], for what is to be read back byte for byte.
    ///
    /// # Errors
    /// As [`Printable::new`].
    pub(crate) fn exact(bytes: &'a [u8]) -> Result<Self, DocumentError> {
        let (objects, is_shortest) = surveyed(bytes)?;
        let form = if is_shortest { Form::Exact } else { Form::Bytes };
        Ok(Self { bytes, objects, form })
    }

    /// A document of any kind as its bytes.
    pub(crate) fn as_bytes(bytes: &'a [u8]) -> Self {
        Self { bytes, objects: Vec::new(), form: Form::Bytes }
    }
}

/// For each map of a document whether it is an object, and whether the document is the shortest
/// MessagePack.
fn surveyed(bytes: &[u8]) -> Result<(Vec<bool>, bool), DocumentError> {
    document::check(bytes)?;
    let mut objects = Vec::new();
    let mut reader = Reader { bytes, offset: 0 };
    let (token, shortest) = reader.next_of_length()?;
    let is_shortest = shortest & survey(&mut reader, token, &mut objects)?;
    Ok((objects, is_shortest))
}

impl Serialize for Printable<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.form == Form::Bytes {
            return tagged(serializer, MESSAGE_PACK, &BASE64.encode(self.bytes));
        }
        let reader = Reader { bytes: self.bytes, offset: 0 };
        let (objects, form) = (self.objects.iter(), self.form);
        let walk = RefCell::new(Walk { reader, objects, form });
        Next(&walk).serialize(serializer)
    }
}

/// A place in the document while it is printed.
struct Walk<'a> {
    reader: Reader<'a>,
    objects: std::slice::Iter<'a, bool>,
    form: Form,
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
            Token::Float(value) => float(serializer, FLOAT, value, false),
            Token::Single(value) => {
                let is_exact = self.0.borrow().form == Form::Exact;
                let tag = if is_exact { FLOAT32 } else { FLOAT };
                float(serializer, tag, f64::from(value), is_exact)
            }
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

/// A number, under a tag where it is asked for or JSON has no such number.
fn float<S: Serializer>(
    serializer: S,
    tag: &str,
    value: f64,
    is_tagged: bool,
) -> Result<S::Ok, S::Error> {
    match (value.is_finite(), is_tagged) {
        (true, false) => serializer.serialize_f64(value),
        (true, true) => tagged(serializer, tag, &value),
        (false, _) => tagged(serializer, tag, float_name(value)),
    }
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

/// Up to so many names are compared each with each other.
const FEW_NAMES: usize = 8;

/// The names of a map so far.
struct Names<'a> {
    few: Vec<&'a str>,
    many: HashSet<&'a str>,
}

impl<'a> Names<'a> {
    /// `false` for one that is there already.
    fn insert(&mut self, name: &'a str) -> bool {
        if self.few.contains(&name) {
            return false;
        }
        if self.few.len() < FEW_NAMES {
            self.few.push(name);
            return true;
        }
        self.many.insert(name)
    }
}

/// Passes over the value that begins with `token` and notes for each map whether it can be printed
/// as an object. Returns whether all of it is the shortest MessagePack that there is for it, which
/// is what JSON becomes.
fn survey<'a>(
    reader: &mut Reader<'a>,
    token: Token<'a>,
    objects: &mut Vec<bool>,
) -> Result<bool, DocumentError> {
    let mut is_shortest = true;
    match token {
        Token::Array(count) => {
            for _ in 0..count {
                let (element, shortest) = reader.next_of_length()?;
                is_shortest &= shortest & survey(reader, element, objects)?;
            }
        }
        Token::Map(count) => {
            let slot = objects.len();
            objects.push(true);
            let mut is_object = true;
            let mut keys = Names { few: Vec::new(), many: HashSet::new() };
            for _ in 0..count {
                let (key, shortest) = reader.next_of_length()?;
                is_object &= match key {
                    Token::String(key) => keys.insert(key) && !(count == 1 && is_reserved(key)),
                    _ => false,
                };
                is_shortest &= shortest & survey(reader, key, objects)?;
                let (value, shortest) = reader.next_of_length()?;
                is_shortest &= shortest & survey(reader, value, objects)?;
            }
            objects[slot] = is_object;
        }
        _ => {}
    }
    Ok(is_shortest)
}
