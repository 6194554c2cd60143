//! Comma- and tab-separated values under a header, as RFC 4180 has them.
//!
//! A cell in quotes is a string. One without is what it looks like, if it prints again as the same
//! number: an integer, a float, `true` or `false`; empty it is null; anything else is a string, such
//! as `007`, `+1` and numbers with more digits than a float keeps. A schema says what a column is
//! instead.
//!
//! | header | key | document |
//! | --- | --- | --- |
//! | `key` and `record`, `version`, `expires_at` or not | `key` | `record`, as JSON |
//! | `key` and others | `key` | an object of the others |
//! | any, where it is said what makes the key | that | an object of all |
//!
//! Written as columns are only objects of scalars that have exactly these fields, in this order; one
//! column `record` holds any document. The parser is our own, for those at hand do not tell cells in
//! quotes from others, nor bound what they hold of a record.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::str::FromStr;

use rmp::encode::{self, ValueWriteError};
use sherd_protocol::document::check;
use sherd_protocol::name::check_key;

use crate::document::tokens::{Reader, Token};
use crate::document::{Duplicates, JsonReader, append_json};

use super::jsonl::{BYTE_ORDER_MARK, write_document};
use super::lines::{MAX_LINE_BYTES, skip_bytes};
use super::{
    BadRow, Entry, Fault, Fields, KEPT_OF_LONG_BYTES, KeyOf, Place, ReadError, ReadOptions,
};

/// The columns of entries.
const KEY: &str = "key";
const RECORD: &str = "record";
const VERSION: &str = "version";
const EXPIRES_AT: &str = "expires_at";
const HASH: &str = "hash_";

/// More characters of a cell are not quoted in messages.
const QUOTED_CHARACTERS: usize = 40;

/// A record of more cells is a bad row: of a line that is nothing but delimiters, they would take many times its
/// length in memory.
const MAX_CELLS: usize = 1 << 16;

/// What the cells of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Int,
    Float,
    Bool,
    String,
    Json,
}

impl Type {
    const NAMES: [(&'static str, Self); 5] = [
        ("int", Self::Int),
        ("float", Self::Float),
        ("bool", Self::Bool),
        ("string", Self::String),
        ("json", Self::Json),
    ];
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(_, of)| of == self);
        f.write_str(name.map_or("", |(name, _)| name))
    }
}

/// Types by the names of columns: `name:string,population:int`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Schema(Vec<(String, Type)>);

impl FromStr for Schema {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut columns: Vec<(String, Type)> = Vec::new();
        for column in text.split(',') {
            let (name, of) = column.rsplit_once(':').ok_or_else(|| {
                format!("{column:?} has no type: use {column}:string or the like")
            })?;
            let of = Type::NAMES.iter().find(|(name, _)| *name == of.trim()).ok_or_else(|| {
                format!("{of:?} is no type: use int, float, bool, string or json")
            })?;
            if columns.iter().any(|(before, _)| before == name) {
                return Err(format!("column {name:?} is there twice"));
            }
            columns.push((name.to_owned(), of.1));
        }
        Ok(Self(columns))
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<_> = self.0.iter().map(|(name, of)| format!("{name}:{of}")).collect();
        f.write_str(&columns.join(","))
    }
}

impl Schema {
    /// Whether it says nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Reads records.
pub(crate) struct Records<R> {
    scanner: RecordScanner<R>,
    columns: Vec<Column>,
    plan: Plan,
    keep_rows: bool,
}

#[derive(Debug)]
struct Column {
    name: String,
    of: Option<Type>,
}

/// What a record is made into.
#[derive(Debug)]
enum Plan {
    /// The places of the columns of an entry.
    Entry { key: usize, record: usize, version: Option<usize>, expires_at: Option<usize> },
    /// The key is in this column, the others are the document.
    Others(usize),
    /// All columns are the document.
    All(KeyOf),
}

impl<R: Read> Records<R> {
    /// Reads the header; then goes to `place`, if that is behind it.
    pub(super) fn new(
        input: BufReader<R>,
        delimiter: u8,
        options: &ReadOptions,
        place: Place,
    ) -> Result<Self, ReadError> {
        let mut scanner = RecordScanner::new(input, delimiter);
        let names = match scanner.next()? {
            None => Vec::new(),
            Some(_) => scanner.header()?,
        };
        let plan = plan(&names, options)?;
        let type_of = |name: &str| {
            let mut types = options.schema.0.iter();
            types.find(|(of, _)| of == name).map(|(_, of)| *of)
        };
        for (name, _) in &options.schema.0 {
            if !names.is_empty() && !names.contains(name) {
                return Err(ReadError::Format(format!(
                    "the header has no column {name:?} of the schema; it has {}",
                    names.join(", ")
                )));
            }
        }
        let columns = names.into_iter().map(|name| Column { of: type_of(&name), name }).collect();
        if let Some(skipped) = place.offset.checked_sub(scanner.place.offset) {
            skip_bytes(&mut scanner.input, skipped)?;
            if skipped > 0 {
                scanner.place = place;
            }
        }
        Ok(Self { scanner, columns, plan, keep_rows: options.keep_rows })
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Result<Entry, BadRow>>> {
        let Some(number) = self.scanner.next()? else { return Ok(None) };
        let entry = self.parse(number);
        let row = || self.scanner.raw_without_end().to_vec();
        Ok(Some(match entry {
            Ok(entry) if self.keep_rows => Ok(Entry { row: row(), ..entry }),
            Ok(entry) => Ok(entry),
            Err(fault) => Err(BadRow { number, fault, row: row() }),
        }))
    }

    pub(super) fn place(&self) -> Place {
        self.scanner.place
    }

    pub(super) fn has_more_at_hand(&self) -> bool {
        !self.scanner.input.buffer().is_empty()
    }

    fn parse(&self, number: u64) -> Result<Entry, Fault> {
        if let Some(fault) = &self.scanner.fault {
            return Err(fault.clone());
        }
        let cells = self.scanner.cells()?;
        let (found, expected) = (cells.len(), self.columns.len());
        if found != expected {
            return Err(Fault::Cells { found, expected });
        }
        let text = |at: usize| cells[at].text;
        let (mut version, mut expires_at) = (None, None);
        let (key, document) = match &self.plan {
            Plan::Entry { key, record, version: at_version, expires_at: at_expires } => {
                let number = |at: Option<usize>| match at.map(|at| (at, text(at))) {
                    None | Some((_, "")) => Ok(None),
                    Some((at, text)) => {
                        text.parse().map(Some).map_err(|_| self.wrong_cell(at, text, Type::Int))
                    }
                };
                (version, expires_at) = (number(*at_version)?, number(*at_expires)?);
                let document = JsonReader::read_value(text(*record), Duplicates::Refused)?;
                (text(*key).to_owned(), document)
            }
            Plan::Others(key) => (text(*key).to_owned(), self.document(&cells, Some(*key))?),
            Plan::All(of) => {
                // By its values and not its texts: what is null, or has several texts, is no key.
                let document = self.document(&cells, None)?;
                (of.of_document(&document)?, document)
            }
        };
        check_key(&key)?;
        check(&document)?;
        let (expires_at, row) = (expires_at.filter(|&at| at != 0), Vec::new());
        Ok(Entry { number, key, document, version, expires_at, row })
    }

    /// An object of all cells but one.
    fn document(&self, cells: &[Cell<'_>], but: Option<usize>) -> Result<Vec<u8>, Fault> {
        let mut out = Vec::new();
        let count = (cells.len() - usize::from(but.is_some())) as u32;
        in_memory(encode::write_map_len(&mut out, count).map(drop));
        for (at, (cell, column)) in cells.iter().zip(&self.columns).enumerate() {
            if Some(at) != but {
                in_memory(encode::write_str(&mut out, &column.name));
                push_cell(&mut out, cell, column.of).map_err(|of| match of {
                    NotIts::Type(of) => self.wrong_cell(at, cell.text, of),
                    NotIts::Json(fault) => fault,
                })?;
            }
        }
        Ok(out)
    }

    fn wrong_cell(&self, at: usize, text: &str, of: Type) -> Fault {
        let text = text.chars().take(QUOTED_CHARACTERS).collect();
        Fault::Cell { column: self.columns[at].name.clone(), text, of }
    }
}

/// What the columns make.
fn plan(names: &[String], options: &ReadOptions) -> Result<Plan, ReadError> {
    let place = |wanted: &str| names.iter().position(|name| name == wanted);
    let all = || names.join(", ");
    if let Some(of) = &options.key {
        if !names.is_empty()
            && let Some(missing) = of.fields().find(|name| place(name).is_none())
        {
            let why = format!("the header has no column {missing:?} for the key; it has {}", all());
            return Err(ReadError::Format(why));
        }
        return Ok(Plan::All(of.clone()));
    }
    let Some(key) = place(KEY).or(names.is_empty().then_some(0)) else {
        return Err(ReadError::Format(format!(
            "the header has no column \"key\"; say with --key which of {} makes the key",
            all()
        )));
    };
    let is_of_entry =
        |name: &String| [KEY, RECORD, VERSION, EXPIRES_AT, HASH].contains(&name.as_str());
    match place(RECORD) {
        Some(record) if names.iter().all(is_of_entry) => {
            let (version, expires_at) = (place(VERSION), place(EXPIRES_AT));
            Ok(Plan::Entry { key, record, version, expires_at })
        }
        _ => Ok(Plan::Others(key)),
    }
}

/// A cell.
#[derive(Clone, Copy, Debug)]
struct Cell<'a> {
    text: &'a str,
    is_quoted: bool,
}

/// Why a cell is not what its column is.
enum NotIts {
    Type(Type),
    Json(Fault),
}

/// Appends the value of a cell.
fn push_cell(out: &mut Vec<u8>, cell: &Cell<'_>, of: Option<Type>) -> Result<(), NotIts> {
    let Cell { text, is_quoted } = *cell;
    if text.is_empty() && !is_quoted {
        in_memory(encode::write_nil(out).map_err(ValueWriteError::InvalidMarkerWrite));
        return Ok(());
    }
    let value = match of {
        None if is_quoted => Scalar::String,
        None => infer(text),
        Some(Type::String) => Scalar::String,
        Some(Type::Json) => {
            let value = JsonReader::read_value(text, Duplicates::Refused);
            out.extend_from_slice(&value.map_err(|fault| NotIts::Json(fault.into()))?);
            return Ok(());
        }
        Some(of) => {
            let text = text.trim();
            let value = match of {
                Type::Int => integer(text),
                Type::Float => {
                    text.parse().ok().filter(|value: &f64| value.is_finite()).map(Scalar::Float)
                }
                _ if text.eq_ignore_ascii_case("true") => Some(Scalar::Bool(true)),
                _ if text.eq_ignore_ascii_case("false") => Some(Scalar::Bool(false)),
                _ => None,
            };
            value.ok_or(NotIts::Type(of))?
        }
    };
    let written = match value {
        Scalar::Bool(value) => {
            encode::write_bool(out, value).map_err(ValueWriteError::InvalidMarkerWrite)
        }
        Scalar::Unsigned(value) => encode::write_uint(out, value).map(drop),
        Scalar::Signed(value) => encode::write_sint(out, value).map(drop),
        Scalar::Float(value) => encode::write_f64(out, value),
        Scalar::String => encode::write_str(out, text),
    };
    in_memory(written);
    Ok(())
}

/// What the text of a cell is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scalar {
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    String,
}

/// What a cell without quotes looks like, where nothing is lost by that.
fn infer(text: &str) -> Scalar {
    match text {
        "true" => return Scalar::Bool(true),
        "false" => return Scalar::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    let whole = digits.bytes().take_while(u8::is_ascii_digit).count();
    if whole == 0 || (whole > 1 && digits.starts_with('0')) {
        return Scalar::String;
    }
    if whole == digits.len() {
        return match integer(text) {
            Some(number) if text != "-0" => number,
            _ => Scalar::String,
        };
    }
    match text.parse::<f64>() {
        Ok(value)
            if value.is_finite()
                && let Some(written) = Decimal::of(text)
                && Decimal::of(&format!("{value:?}")).is_some_and(|printed| printed == written) =>
        {
            Scalar::Float(value)
        }
        _ => Scalar::String,
    }
}

fn integer(text: &str) -> Option<Scalar> {
    match text.parse() {
        Ok(value) => Some(Scalar::Unsigned(value)),
        Err(_) => text.parse().ok().map(Scalar::Signed),
    }
}

/// A decimal number as JSON writes floats, apart from how it is written.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    is_negative: bool,
    /// Without zeros at either end.
    digits: String,
    /// Of the last digit.
    exponent: i64,
}

impl Decimal {
    fn of(text: &str) -> Option<Self> {
        let (is_negative, text) = match text.strip_prefix('-') {
            Some(text) => (true, text),
            None => (false, text),
        };
        let (number, exponent) = match text.split_once(['e', 'E']) {
            Some((number, exponent)) => (number, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let are_digits =
            |part: &str| !part.is_empty() && part.bytes().all(|it| it.is_ascii_digit());
        if !are_digits(whole) || !are_digits(fraction) {
            return None;
        }
        let digits = whole.to_owned() + fraction;
        let significant = digits.trim_end_matches('0');
        let zeros = (digits.len() - significant.len()) as i64;
        let exponent = i64::from(exponent) - fraction.len() as i64 + zeros;
        let digits = significant.trim_start_matches('0').to_owned();
        let exponent = if digits.is_empty() { 0 } else { exponent };
        Some(Self { is_negative, digits, exponent })
    }
}

/// Reads records of cells, of bounded length.
struct RecordScanner<R> {
    input: BufReader<R>,
    delimiter: u8,
    place: Place,
    /// The record as it was.
    raw: Vec<u8>,
    /// The texts of the cells.
    text: Vec<u8>,
    /// Where each cell ends in `text`, and whether it was in quotes.
    ends: Vec<(usize, bool)>,
    is_quoted: bool,
    /// Why the record is none.
    fault: Option<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    CellStart,
    Unquoted,
    Quoted,
    /// The end of a cell, or a quote in it.
    QuoteInQuoted,
    /// The end of the line, if that follows.
    ReturnAfterQuote,
    /// The record is too long: on to the end of a line.
    Skipping,
}

impl<R: Read> RecordScanner<R> {
    fn new(input: BufReader<R>, delimiter: u8) -> Self {
        let (raw, text, ends) = (Vec::new(), Vec::new(), Vec::new());
        let place = Place::default();
        Self { input, delimiter, place, raw, text, ends, is_quoted: false, fault: None }
    }

    /// Reads the next record that is not blank; the line on which it begins.
    fn next(&mut self) -> io::Result<Option<u64>> {
        loop {
            let number = self.place.row + 1;
            if !self.read_record()? {
                return Ok(None);
            }
            if self.fault.is_some() || !self.raw.trim_ascii().is_empty() {
                return Ok(Some(number));
            }
        }
    }

    /// Reads a record; `false` at the end.
    fn read_record(&mut self) -> io::Result<bool> {
        self.raw.clear();
        self.text.clear();
        self.ends.clear();
        (self.is_quoted, self.fault) = (false, None);
        let mut state = State::CellStart;
        let mut length = 0;
        loop {
            let chunk = match self.input.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if chunk.is_empty() {
                if length == 0 {
                    return Ok(false);
                }
                self.place.row += 1;
                self.ends_at_end(state);
                return Ok(true);
            }
            let (mut taken, mut is_end) = (0, false);
            for &byte in chunk {
                taken += 1;
                self.place.row += u64::from(byte == b'\n');
                if state == State::Skipping {
                    is_end = byte == b'\n';
                } else {
                    self.raw.push(byte);
                    (state, is_end) = step(
                        state,
                        byte,
                        self.delimiter,
                        &mut self.text,
                        &mut self.ends,
                        &mut self.is_quoted,
                        &mut self.fault,
                    );
                    let is_long = self.raw.len() > MAX_LINE_BYTES;
                    if (is_long || self.ends.len() > MAX_CELLS) && !is_end {
                        state = State::Skipping;
                        let many = Fault::TooManyCells(MAX_CELLS);
                        self.fault =
                            Some(if is_long { Fault::TooLong(MAX_LINE_BYTES) } else { many });
                        self.raw.truncate(KEPT_OF_LONG_BYTES);
                        self.raw.shrink_to_fit();
                        self.text = Vec::new();
                    }
                }
                if is_end {
                    break;
                }
            }
            self.input.consume(taken);
            self.place.offset += taken as u64;
            length += taken;
            if is_end {
                return Ok(true);
            }
        }
    }

    /// The input ends without an end of the line.
    fn ends_at_end(&mut self, state: State) {
        match state {
            State::Skipping => {}
            State::Quoted => {
                let fault = Fault::OpenQuote { cell: self.ends.len() + 1 };
                self.fault.get_or_insert(fault);
            }
            _ => {
                if state == State::Unquoted {
                    self.text.pop_if(|last| *last == b'\r');
                }
                self.ends.push((self.text.len(), self.is_quoted));
            }
        }
    }

    /// The cells of the record.
    fn cells(&self) -> Result<Vec<Cell<'_>>, Fault> {
        let text = std::str::from_utf8(&self.text).map_err(|error| {
            let valid = std::str::from_utf8(&self.raw).map_or_else(|it| it.valid_up_to(), str::len);
            Fault::NotUtf8(if valid < self.raw.len() { valid } else { error.valid_up_to() })
        })?;
        let mut start = 0;
        let cell = |&(end, is_quoted): &(usize, bool)| {
            let text = text.get(start..end).unwrap_or_default();
            start = end;
            Cell { text, is_quoted }
        };
        Ok(self.ends.iter().map(cell).collect())
    }

    /// The record as it was, without the end of its line.
    fn raw_without_end(&self) -> &[u8] {
        let raw = self.raw.strip_suffix(b"\n").unwrap_or(&self.raw);
        raw.strip_suffix(b"\r").unwrap_or(raw)
    }

    /// The record as the names of columns.
    fn header(&self) -> Result<Vec<String>, ReadError> {
        let wrong = |why: String| ReadError::Format(format!("the header is wrong: {why}"));
        if let Some(fault) = &self.fault {
            return Err(wrong(fault.to_string()));
        }
        let cells = self.cells().map_err(|fault| wrong(fault.to_string()))?;
        let mut names: Vec<String> = cells.iter().map(|cell| cell.text.to_owned()).collect();
        if let Some(first) = names.first_mut()
            && let Some(name) = first.strip_prefix(BYTE_ORDER_MARK)
        {
            *first = name.trim_matches('"').to_owned();
        }
        let mut seen = HashSet::new();
        match names.iter().find(|name| name.is_empty() || !seen.insert(name.as_str())) {
            Some(name) if name.is_empty() => Err(wrong("a column has no name".to_owned())),
            Some(name) => Err(wrong(format!("column {name:?} is there twice"))),
            None => Ok(names),
        }
    }
}

/// Takes a byte of a record; the next state, and whether the record ends.
fn step(
    state: State,
    byte: u8,
    delimiter: u8,
    text: &mut Vec<u8>,
    ends: &mut Vec<(usize, bool)>,
    is_quoted: &mut bool,
    fault: &mut Option<Fault>,
) -> (State, bool) {
    match (state, byte) {
        (State::Quoted, b'"') => return (State::QuoteInQuoted, false),
        (State::QuoteInQuoted, b'"') | (State::Quoted, _) => {
            text.push(byte);
            return (State::Quoted, false);
        }
        (State::CellStart, b'"') => {
            *is_quoted = true;
            return (State::Quoted, false);
        }
        (State::QuoteInQuoted, b'\r') => return (State::ReturnAfterQuote, false),
        (State::ReturnAfterQuote, b'\n') => {}
        (_, _) if byte == delimiter && state != State::ReturnAfterQuote => {
            ends.push((text.len(), *is_quoted));
            *is_quoted = false;
            return (State::CellStart, false);
        }
        (_, b'\n') => {
            if state == State::Unquoted {
                text.pop_if(|last| *last == b'\r');
            }
        }
        (State::QuoteInQuoted | State::ReturnAfterQuote, _) => {
            fault.get_or_insert(Fault::AfterQuote { cell: ends.len() + 1 });
            return (State::Unquoted, false);
        }
        (_, _) => {
            text.push(byte);
            return (State::Unquoted, false);
        }
    }
    ends.push((text.len(), *is_quoted));
    (State::CellStart, true)
}

/// How documents become records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One column `record`, which holds any document as JSON, and `version` and `expires_at`.
    Record,
    /// A column for each field.
    Columns(Vec<String>),
    /// The fields of the first document that can be written so.
    OfFirst,
}

impl Shape {
    /// The columns after the key, where they do not depend on the documents.
    fn columns(&self) -> Option<Vec<String>> {
        match self {
            Self::Record => Some([RECORD, VERSION, EXPIRES_AT].map(str::to_owned).to_vec()),
            Self::Columns(columns) => Some(columns.clone()),
            Self::OfFirst => None,
        }
    }
}

/// Writes records.
#[derive(Debug)]
pub(crate) struct Writer {
    delimiter: u8,
    shape: Shape,
    has_header: bool,
}

impl Writer {
    pub(super) fn new(delimiter: u8, shape: Shape) -> Self {
        Self { delimiter, shape, has_header: false }
    }

    /// Appends the header, if the columns are known.
    pub(super) fn begin(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        if let Some(columns) = self.shape.columns() {
            self.push_header(out, &columns)?;
            self.has_header = true;
        }
        Ok(())
    }

    /// Leaves the header out: it is in front of what goes on.
    pub(super) fn go_on(&mut self) {
        self.has_header = true;
    }

    fn push_header(&self, out: &mut Vec<u8>, columns: &[String]) -> Result<(), Fault> {
        if self.shape != Shape::Record {
            check_columns(columns)?;
        }
        self.push_text(out, KEY);
        for column in columns {
            out.push(self.delimiter);
            self.push_text(out, column);
        }
        out.push(b'\n');
        Ok(())
    }

    /// Appends a record.
    pub(super) fn write(&mut self, out: &mut Vec<u8>, fields: &Fields<'_>) -> Result<(), Fault> {
        let found;
        let columns = match &self.shape {
            Shape::Record => &[][..],
            Shape::Columns(columns) => columns,
            Shape::OfFirst => {
                found = columns_of(fields.document)?;
                &found
            }
        };
        if !self.has_header {
            match self.shape.columns() {
                Some(columns) => self.push_header(out, &columns)?,
                None => self.push_header(out, columns)?,
            }
        }
        let start = out.len();
        self.push_text(out, fields.key);
        match &self.shape {
            Shape::Record => self.push_record(out, start, fields)?,
            _ => self.push_columns(out, columns, fields)?,
        }
        out.push(b'\n');
        if out.len() - start > MAX_LINE_BYTES {
            return Err(Fault::TooLong(MAX_LINE_BYTES));
        }
        if self.shape == Shape::OfFirst {
            self.shape = Shape::Columns(columns.to_vec());
        }
        self.has_header = true;
        Ok(())
    }

    fn push_record(
        &self,
        out: &mut Vec<u8>,
        start: usize,
        fields: &Fields<'_>,
    ) -> Result<(), Fault> {
        let Fields { document, version, expires_at, .. } = *fields;
        let mut record = Vec::new();
        write_document(&mut record, 0, document, out.len() - start)?;
        out.push(self.delimiter);
        push_quoted(out, &record);
        // Quotes are doubled, which may take as much again.
        if out.len() - start > MAX_LINE_BYTES {
            return Err(Fault::TooLong(MAX_LINE_BYTES));
        }
        for number in [version, expires_at] {
            out.push(self.delimiter);
            if let Some(number) = number {
                out.extend_from_slice(number.to_string().as_bytes());
            }
        }
        Ok(())
    }

    fn push_columns(
        &self,
        out: &mut Vec<u8>,
        columns: &[String],
        fields: &Fields<'_>,
    ) -> Result<(), Fault> {
        let Fields { document, expires_at, .. } = *fields;
        if expires_at.is_some() {
            return Err(Fault::ExpiryNotHeld);
        }
        check(document)?;
        let not_held = |why: String| Err(Fault::ColumnsNotHeld(why));
        let mut reader = Reader { bytes: document, offset: 0 };
        let (Token::Map(count), true) = reader.next_of_length()? else {
            return not_held("the document is no object".to_owned());
        };
        if count != columns.len() {
            return not_held(format!(
                "the document has {count} fields where there are {} columns",
                columns.len()
            ));
        }
        for column in columns {
            let (name, is_shortest) = reader.next_of_length()?;
            if name != Token::String(column) || !is_shortest {
                return not_held(match name {
                    Token::String(name) if name != column => {
                        format!(
                            "the document has the field {name:?} in the place of column {column:?}"
                        )
                    }
                    _ => "the document has a field that is no column".to_owned(),
                });
            }
            out.push(self.delimiter);
            let (value, is_shortest) = reader.next_of_length()?;
            let what = match value {
                _ if !is_shortest => "not the shortest MessagePack",
                Token::Nil => continue,
                Token::Bool(value) => {
                    out.extend_from_slice(if value { b"true" } else { b"false" });
                    continue;
                }
                Token::Unsigned(number) => {
                    out.extend_from_slice(number.to_string().as_bytes());
                    continue;
                }
                Token::Signed(number) => {
                    out.extend_from_slice(number.to_string().as_bytes());
                    continue;
                }
                Token::Float(number) if number.is_finite() => {
                    _ = append_json(out, &number);
                    continue;
                }
                Token::String(text) => {
                    match infer(text) {
                        Scalar::String if !text.is_empty() => self.push_text(out, text),
                        _ => push_quoted(out, text.as_bytes()),
                    }
                    continue;
                }
                Token::Float(_) => "no number of CSV",
                Token::Single(_) => "a 32-bit float",
                Token::Binary(_) => "binary",
                Token::Array(_) => "an array",
                Token::Map(_) => "an object",
            };
            return not_held(format!("the field {column:?} is {what}"));
        }
        Ok(())
    }

    /// Appends text, in quotes where it needs them.
    fn push_text(&self, out: &mut Vec<u8>, text: &str) {
        let special = |byte: u8| byte == self.delimiter || matches!(byte, b'"' | b'\r' | b'\n');
        let has_edges = text.trim().len() != text.len();
        if text.is_empty()
            || has_edges
            || text.starts_with(BYTE_ORDER_MARK)
            || text.bytes().any(special)
        {
            push_quoted(out, text.as_bytes());
        } else {
            out.extend_from_slice(text.as_bytes());
        }
    }
}

/// The fields of an object as columns.
fn columns_of(document: &[u8]) -> Result<Vec<String>, Fault> {
    check(document)?;
    let not_held = |why: String| Err(Fault::ColumnsNotHeld(why));
    let mut reader = Reader { bytes: document, offset: 0 };
    let Token::Map(count) = reader.next()? else {
        return not_held("the document is no object".to_owned());
    };
    let mut columns = Vec::new();
    for _ in 0..count {
        let Token::String(name) = reader.next()? else {
            return not_held("the document has a field whose name is no string".to_owned());
        };
        columns.push(name.to_owned());
        reader.skip()?;
    }
    Ok(columns)
}

/// Whether columns can stand beside that of the key, and are read as what they are.
fn check_columns(columns: &[String]) -> Result<(), Fault> {
    let mut seen = HashSet::new();
    let wrong = columns.iter().find(|name| {
        name.is_empty() || *name == KEY || *name == RECORD || !seen.insert(name.as_str())
    });
    match wrong {
        None => Ok(()),
        Some(name) => Err(Fault::ColumnsNotHeld(format!(
            "the field {name:?} cannot be a column beside that of the key"
        ))),
    }
}

fn push_quoted(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    for &byte in text {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}

/// Writing to memory does not fail.
#[expect(clippy::needless_pass_by_value, reason = "given what was written")]
fn in_memory(written: Result<(), ValueWriteError>) {
    debug_assert!(written.is_ok());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cell_looks_like_is_taken_only_where_nothing_is_lost() {
        for (text, expected) in [
            ("0", Scalar::Unsigned(0)),
            ("-1", Scalar::Signed(-1)),
            ("18446744073709551615", Scalar::Unsigned(u64::MAX)),
            ("-9223372036854775808", Scalar::Signed(i64::MIN)),
            ("0.1", Scalar::Float(0.1)),
            ("1.10", Scalar::Float(1.1)),
            ("-0.0", Scalar::Float(-0.0)),
            ("1e5", Scalar::Float(1e5)),
            ("1.5E-7", Scalar::Float(1.5e-7)),
            ("1e+16", Scalar::Float(1e16)),
            ("5e-324", Scalar::Float(5e-324)),
            ("9007199254740993", Scalar::Unsigned(9_007_199_254_740_993)),
            ("true", Scalar::Bool(true)),
        ] {
            assert_eq!(infer(text), expected, "{text}");
        }
        for text in [
            "007",
            "-007",
            "00",
            "-0",
            "+1",
            ".5",
            "5.",
            "1e",
            "e5",
            "1_000",
            "1,5",
            " 1",
            "1 ",
            "18446744073709551616",
            "-9223372036854775809",
            "9007199254740993.0",
            "3.141592653589793238",
            "1e999",
            "1e-999",
            "NaN",
            "inf",
            "True",
            "null",
            "0x10",
            "",
            "1e99999999999999999999",
            "abc",
            "1.2.3",
            "--1",
            "1e5.0",
        ] {
            assert_eq!(infer(text), Scalar::String, "{text}");
        }
    }

    #[test]
    fn schemas() {
        let schema: Schema = "name:string,a:b:int".parse().unwrap();
        assert_eq!(schema.to_string(), "name:string,a:b:int");
        for text in ["", "name", "name:", "name:text", "a:int,a:int"] {
            assert!(text.parse::<Schema>().is_err(), "{text}");
        }
    }
}
