//! The formats in which documents are loaded and unloaded.
//!
//! * `rows`: `key|value`, one a line;
//! * `jsonl`: JSON, one object a line;
//! * `csv`: comma- and tab-separated values under a header;
//! * `msgpack`: a stream of MessagePack maps;
//! * `input`: files and standard input, plain or compressed; `output`: their counterpart;
//! * `key`, `lines`, `summed`: what several of them need.
//!
//! A reader gives entries and bad rows one by one, each with its number, and can begin at a place
//! that it was at before. What it holds is bounded: [`MAX_LINE_BYTES`] for a row, and its document.
//! A writer appends entries to a buffer. What a format cannot hold it refuses and says why: what is
//! written reads back as the same document, byte for byte.

mod csv;
mod input;
mod jsonl;
mod key;
mod lines;
mod msgpack;
mod output;
mod rows;
mod summed;

#[cfg(test)]
mod tests;

use std::io::{self, BufReader, Read};
use std::path::Path;

use sherd_protocol::MAX_DOCUMENT_BYTES;
use sherd_protocol::document::DocumentError;
use sherd_protocol::name::{MAX_KEY_BYTES, NameError};
use thiserror::Error;

use crate::document::JsonFault;

pub(crate) use csv::{Schema, Shape, Type};
pub(crate) use input::{Source, open};
pub(crate) use key::KeyOf;
pub(crate) use lines::{Keys, MAX_LINE_BYTES};
pub(crate) use output::{Compression, Encoder};

use summed::Summed;

/// The longest item of a stream: the largest document with its key, and what is around them.
const MAX_ITEM_BYTES: usize = MAX_DOCUMENT_BYTES + MAX_KEY_BYTES + 1024;

/// How much of a row is kept that is too long to be kept as a whole.
const KEPT_OF_LONG_BYTES: usize = 4096;

/// What is found in a format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its line, or item, from 1.
    pub(crate) number: u64,
    pub(crate) key: String,
    /// MessagePack.
    pub(crate) document: Vec<u8>,
    pub(crate) version: Option<u64>,
    /// In milliseconds since 1970; `None` where that is not said, or never.
    pub(crate) expires_at: Option<u64>,
    /// The row as it was, where rows are kept.
    pub(crate) row: Vec<u8>,
}

/// A row that is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadRow {
    /// Its line, or item, from 1.
    pub(crate) number: u64,
    pub(crate) fault: Fault,
    /// The row as it was; the beginning of one that is too long.
    pub(crate) row: Vec<u8>,
}

/// What is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fields<'a> {
    pub(crate) key: &'a str,
    /// MessagePack.
    pub(crate) document: &'a [u8],
    pub(crate) version: Option<u64>,
    /// In milliseconds since 1970, where it does.
    pub(crate) expires_at: Option<u64>,
}

/// Why a row is none, or an entry cannot be written.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum Fault {
    #[error("no \"|\" between key and value")]
    NoSeparator,
    /// The bytes before; people count from 1, as in what is no JSON.
    #[error("not UTF-8 at byte {}", .0 + 1)]
    NotUtf8(usize),
    #[error("over {0} bytes")]
    TooLong(usize),
    #[error(transparent)]
    Key(#[from] NameError),
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error(transparent)]
    Json(#[from] JsonFault),
    #[error("the document is no object, and so has no field {field:?} for its key")]
    NoObject { field: String },
    #[error("no field {field:?} for the key")]
    NoKeyField { field: String },
    #[error("the field {field:?} of the key is {what}; use one that holds text or a number")]
    NoScalar { field: String, what: &'static str },
    #[error(
        "a CR (\\r) without LF (\\n), which is to be {0}; where all lines end with CR alone, convert \
         them first, as with tr '\\r' '\\n'"
    )]
    LoneReturn(&'static str),
    #[error("over {0} cells")]
    TooManyCells(usize),
    #[error("{found} cell{} where the header has {expected}", if *found == 1 { "" } else { "s" })]
    Cells { found: usize, expected: usize },
    #[error("text after the closing quote of cell {cell}{}", lost_lines(*lines))]
    AfterQuote { cell: usize, lines: u64 },
    #[error("the quote that opens cell {cell} is not closed{}", lost_lines(*lines))]
    OpenQuote { cell: usize, lines: u64 },
    #[error("column {column:?}: {text:?} is no {of}")]
    Cell { column: String, text: String, of: Type },
    #[error("the item is no map")]
    NoMap,
    #[error("the item has no field {0:?}")]
    NoItemField(&'static str),
    #[error("the field {field:?} of the item {what}")]
    ItemField { field: String, what: &'static str },
    #[error("a key with {0} has no place in this format; use jsonl, msgpack or csv")]
    KeyNotHeld(&'static str),
    #[error(
        "the document expires, which this format does not hold; leave that out, or use jsonl or \
         msgpack"
    )]
    ExpiryNotHeld,
    #[error("{0}; use one column for the record, or jsonl or msgpack")]
    ColumnsNotHeld(String),
}

/// Says how many lines are lost that a quote took with it.
fn lost_lines(lines: u64) -> String {
    match lines {
        0 => String::new(),
        1 => ", and the next line went with it".to_owned(),
        lines => format!(", and the next {lines} lines went with it"),
    }
}

/// Why nothing more can be read.
#[derive(Debug, Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The input is not of its format from here on, or its header is wrong.
    #[error("{0}")]
    Format(String),
}

/// A place in an input, between two rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Place {
    /// Bytes before it, uncompressed.
    pub(crate) offset: u64,
    /// Lines or items before it.
    pub(crate) row: u64,
}

/// A format.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// `key|value`, one a line
    Rows,
    /// JSON objects, one a line
    #[value(alias = "ndjson")]
    Jsonl,
    /// Comma-separated values under a header
    Csv,
    /// Tab-separated values under a header
    Tsv,
    /// A stream of MessagePack maps
    Msgpack,
}

impl Format {
    /// The format that a file's name tells.
    pub(crate) fn of_path(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let name = Compression::NAMES
            .iter()
            .find_map(|(end, _)| name.strip_suffix(end))
            .unwrap_or(name.as_str());
        match name.rsplit_once('.')?.1 {
            "rows" => Some(Self::Rows),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "csv" => Some(Self::Csv),
            "tsv" | "tab" => Some(Self::Tsv),
            "msgpack" | "mpk" => Some(Self::Msgpack),
            _ => None,
        }
    }

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::Msgpack => "msgpack",
        }
    }

    fn delimiter(self) -> u8 {
        if self == Self::Tsv { b'\t' } else { b',' }
    }
}

/// How an input is read.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReadOptions {
    /// Where the key is, if not where exports have it.
    pub(crate) key: Option<KeyOf>,
    /// The types of columns.
    pub(crate) schema: Schema,
    /// Entries have the rows that they are from.
    pub(crate) keep_rows: bool,
}

/// Reads entries.
pub(crate) enum Reader<R> {
    Rows(rows::Rows<R>),
    Jsonl(jsonl::Objects<R>),
    Csv(csv::Records<R>),
    Msgpack(msgpack::Items<R>),
}

impl<R: Read> Reader<R> {
    /// Begins at the beginning, or at a place that this input was at before.
    ///
    /// # Errors
    /// When the input cannot be read, ends before that place, or its header is wrong.
    pub(crate) fn new(
        input: BufReader<R>,
        format: Format,
        options: &ReadOptions,
        place: Place,
    ) -> Result<Self, ReadError> {
        let mut input = Summed::new(input);
        if let Format::Csv | Format::Tsv = format {
            let delimiter = format.delimiter();
            return Ok(Self::Csv(csv::Records::new(input, delimiter, options, place)?));
        }
        lines::skip_bytes(&mut input, place.offset)?;
        Ok(match format {
            Format::Rows => Self::Rows(rows::Rows::new(input, options, place)),
            Format::Msgpack => Self::Msgpack(msgpack::Items::new(input, options, place)),
            _ => Self::Jsonl(jsonl::Objects::new(input, options, place)),
        })
    }

    /// The next entry or bad row; `None` at the end.
    ///
    /// # Errors
    /// When the input cannot be read, or cannot be in its format from here on.
    pub(crate) fn next(&mut self) -> Result<Option<Result<Entry, BadRow>>, ReadError> {
        match self {
            Self::Rows(rows) => Ok(rows.next()?),
            Self::Jsonl(objects) => Ok(objects.next()?),
            Self::Csv(records) => records.next(),
            Self::Msgpack(items) => items.next(),
        }
    }

    /// Where the next row begins.
    pub(crate) fn place(&self) -> Place {
        match self {
            Self::Rows(rows) => rows.place(),
            Self::Jsonl(objects) => objects.place(),
            Self::Csv(records) => records.place(),
            Self::Msgpack(items) => items.place(),
        }
    }

    /// The CRC-32 of all bytes before the next row, by which they are known again.
    pub(crate) fn crc32(&mut self) -> u32 {
        match self {
            Self::Rows(rows) => rows.crc32(),
            Self::Jsonl(objects) => objects.crc32(),
            Self::Csv(records) => records.crc32(),
            Self::Msgpack(items) => items.crc32(),
        }
    }

    /// Whether the next row is likely to come without waiting for it.
    pub(crate) fn has_more_at_hand(&self) -> bool {
        match self {
            Self::Rows(rows) => rows.has_more_at_hand(),
            Self::Jsonl(objects) => objects.has_more_at_hand(),
            Self::Csv(records) => records.has_more_at_hand(),
            Self::Msgpack(items) => items.has_more_at_hand(),
        }
    }
}

/// Writes entries.
#[derive(Debug)]
pub(crate) enum Writer {
    Rows,
    Jsonl,
    Csv(csv::Writer),
    Msgpack,
}

impl Writer {
    /// For a format; `shape` is that of CSV and TSV.
    pub(crate) fn new(format: Format, shape: Shape) -> Self {
        match format {
            Format::Rows => Self::Rows,
            Format::Jsonl => Self::Jsonl,
            Format::Msgpack => Self::Msgpack,
            Format::Csv | Format::Tsv => Self::Csv(csv::Writer::new(format.delimiter(), shape)),
        }
    }

    /// Appends what comes before the first entry, also where there is none: the header of a CSV.
    ///
    /// # Errors
    /// When its columns cannot be read as what they are.
    pub(crate) fn begin(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        match self {
            Self::Csv(writer) => writer.begin(out),
            Self::Rows | Self::Jsonl | Self::Msgpack => Ok(()),
        }
    }

    /// Goes on with what another writer began.
    pub(crate) fn go_on(&mut self) {
        if let Self::Csv(writer) = self {
            writer.go_on();
        }
    }

    /// Appends an entry to `out`; and the header before the first one of a CSV.
    ///
    /// # Errors
    /// When the format cannot hold it; `out` is then as it was.
    pub(crate) fn write(&mut self, out: &mut Vec<u8>, fields: &Fields<'_>) -> Result<(), Fault> {
        let before = out.len();
        let written = match self {
            Self::Rows => rows::write(out, fields),
            Self::Jsonl => jsonl::write(out, fields),
            Self::Csv(writer) => writer.write(out, fields),
            Self::Msgpack => msgpack::write(out, fields),
        };
        if written.is_err() {
            out.truncate(before);
        }
        written
    }
}
