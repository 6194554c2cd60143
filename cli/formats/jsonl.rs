//! JSON, one object a line.
//!
//! `{"key": …, "record": …}`, with `"version"` and `"expires_at"` (milliseconds since 1970) where they
//! are known, is an entry; `"hash_"` is passed over, so that what `cat --json` prints is read. Where it
//! is said what makes the key, an object is the document itself.
//!
//! Values are those of [`crate::document`], printed so that they read back byte for byte. Nothing is
//! guessed: a field that is there twice, an unknown one, a bare NaN and an integer of more than 64
//! bits make a bad row.

use std::fmt;
use std::io::{self, Read};

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Unexpected, Visitor,
};
use sherd_protocol::document::check;
use sherd_protocol::name::check_key;

use crate::document::{Duplicates, JsonFault, JsonReader, Printable, append_json, shortened};

use super::lines::{Line, Lines, utf8};
use super::summed::Summed;
use super::{BadRow, Entry, Fault, Fields, KeyOf, MAX_LINE_BYTES, Place, ReadOptions};

/// What some programs put before UTF-8.
pub(super) const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Reads objects.
pub(crate) struct Objects<R> {
    lines: Lines<R>,
    key: Option<KeyOf>,
    keep_rows: bool,
}

impl<R: Read> Objects<R> {
    /// Of an input that is at `place`.
    pub(super) fn new(input: Summed<R>, options: &ReadOptions, place: Place) -> Self {
        let (key, keep_rows) = (options.key.clone(), options.keep_rows);
        Self { lines: Lines::new(input, place), key, keep_rows }
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Result<Entry, BadRow>>> {
        self.lines.next_entry(self.keep_rows, |line| parse(line, self.key.as_ref()))
    }

    pub(super) fn place(&self) -> Place {
        self.lines.place()
    }

    pub(super) fn crc32(&mut self) -> u32 {
        self.lines.crc32()
    }

    pub(super) fn has_more_at_hand(&self) -> bool {
        self.lines.has_more_at_hand()
    }
}

fn parse(line: &Line<'_>, key: Option<&KeyOf>) -> Result<Entry, Fault> {
    let mut text = utf8(line.whole()?)?;
    if line.number == 1 {
        text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    }
    let number = line.number;
    let entry = match key {
        None => {
            let (Known { key, version, expires_at }, document) =
                JsonReader::read(text, Duplicates::Refused, |reader, deserializer| {
                    // Not as a map: where it is none, serde would quote all of it.
                    deserializer.deserialize_any(EntryOf(reader))
                })?;
            let (expires_at, row) = (expires_at.filter(|&at| at != 0), Vec::new());
            Entry { number, key, document, version, expires_at, row }
        }
        Some(key) => {
            let document = JsonReader::read_value(text, Duplicates::Refused)?;
            let key = key.of_document(&document)?;
            let row = Vec::new();
            Entry { number, key, document, version: None, expires_at: None, row }
        }
    };
    check_key(&entry.key)?;
    check(&entry.document)?;
    Ok(entry)
}

/// What an entry has beside the document.
struct Known {
    key: String,
    version: Option<u64>,
    expires_at: Option<u64>,
}

/// Reads an entry, whose record it leaves with the reader.
struct EntryOf<'r>(&'r mut JsonReader);

impl<'de> Visitor<'de> for EntryOf<'_> {
    type Value = Known;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with key and record")
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Known, E> {
        Err(E::invalid_type(A_STRING, &self))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Known, A::Error> {
        let Self(reader) = self;
        let (mut key, mut has_record) = (None, false);
        let (mut version, mut expires_at) = (None, None);
        while let Some(name) = fields.next_key::<Field>()? {
            let is_twice = match &name {
                Field::Key => key.is_some(),
                Field::Record => has_record,
                Field::Version => version.is_some(),
                Field::ExpiresAt => expires_at.is_some(),
                Field::Hash | Field::Other(_) => false,
            };
            if is_twice {
                return Err(reader.refuse(JsonFault::Duplicate(name.name().to_owned())));
            }
            match name {
                Field::Key => key = Some(fields.next_value()?),
                Field::Record => {
                    fields.next_value_seed(reader.value())?;
                    has_record = true;
                }
                Field::Version => version = Some(fields.next_value_seed(Number)?),
                Field::ExpiresAt => expires_at = Some(fields.next_value_seed(Number)?),
                Field::Hash => _ = fields.next_value::<IgnoredAny>()?,
                Field::Other(name) => return Err(reader.refuse(JsonFault::UnknownField(name))),
            }
        }
        let Some(key) = key else { return Err(reader.refuse(JsonFault::NoField("key"))) };
        if !has_record {
            return Err(reader.refuse(JsonFault::NoField("record")));
        }
        Ok(Known { key, version: version.flatten(), expires_at: expires_at.flatten() })
    }
}

/// A whole number, or null.
struct Number;

impl<'de> DeserializeSeed<'de> for Number {
    type Value = Option<u64>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<u64>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Number {
    type Value = Option<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("u64")
    }

    fn visit_u64<E>(self, number: u64) -> Result<Option<u64>, E> {
        Ok(Some(number))
    }

    fn visit_unit<E>(self) -> Result<Option<u64>, E> {
        Ok(None)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Option<u64>, E> {
        Err(E::invalid_type(A_STRING, &self))
    }
}

/// For messages, in which a string may be as long as a row.
const A_STRING: Unexpected<'static> = Unexpected::Other("string");

/// The name of a field of an entry.
enum Field {
    Key,
    Record,
    Version,
    ExpiresAt,
    Hash,
    Other(String),
}

impl Field {
    fn name(&self) -> &str {
        match self {
            Self::Key => "key",
            Self::Record => "record",
            Self::Version => "version",
            Self::ExpiresAt => "expires_at",
            Self::Hash => "hash_",
            Self::Other(name) => name,
        }
    }
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Named;
        impl Visitor<'_> for Named {
            type Value = Field;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a field")
            }

            fn visit_str<E>(self, name: &str) -> Result<Field, E> {
                Ok(match name {
                    "key" => Field::Key,
                    "record" => Field::Record,
                    "version" => Field::Version,
                    "expires_at" => Field::ExpiresAt,
                    "hash_" => Field::Hash,
                    name => Field::Other(shortened(name)),
                })
            }
        }
        deserializer.deserialize_str(Named)
    }
}

/// What comes before a version and before the time at which a document expires.
const VERSION: &[u8] = b", \"version\": ";
const EXPIRES_AT: &[u8] = b", \"expires_at\": ";

/// What a line may have behind its document: both, numbers of 64 bits, and its end.
const MAX_REST_BYTES: usize = VERSION.len() + EXPIRES_AT.len() + 2 * 20 + 2;

/// Appends a line.
pub(super) fn write(out: &mut Vec<u8>, fields: &Fields<'_>) -> Result<(), Fault> {
    let Fields { key, document, version, expires_at } = *fields;
    let start = out.len();
    out.extend_from_slice(b"{\"key\": ");
    append(out, key)?;
    out.extend_from_slice(b", \"record\": ");
    write_document(out, start, document, MAX_REST_BYTES)?;
    for (name, value) in [(VERSION, version), (EXPIRES_AT, expires_at)] {
        if let Some(value) = value {
            out.extend_from_slice(name);
            append(out, &value)?;
        }
    }
    out.extend_from_slice(b"}\n");
    Ok(())
}

/// Appends a document to the line that begins at `start`, of which `rest` bytes are to come. Where its
/// JSON takes more than a line may have, as bytes, which always fit.
pub(super) fn write_document(
    out: &mut Vec<u8>,
    start: usize,
    document: &[u8],
    rest: usize,
) -> Result<(), Fault> {
    let before = out.len();
    append(out, &Printable::exact(document)?)?;
    if out.len() - start + rest > MAX_LINE_BYTES {
        out.truncate(before);
        write_as_bytes(out, document)?;
    }
    Ok(())
}

/// Appends a document as its bytes, in which there is hardly anything that a format would have to quote.
pub(super) fn write_as_bytes(out: &mut Vec<u8>, document: &[u8]) -> Result<(), Fault> {
    append(out, &Printable::as_bytes(document))
}

fn append<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result<(), Fault> {
    let fault = |error: serde_json::Error| JsonFault::Unexpected(error.to_string());
    Ok(append_json(out, value).map_err(fault)?)
}
