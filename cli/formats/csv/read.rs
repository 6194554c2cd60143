//! Records into entries: the header tells which columns are the key, and which the document.

use std::io::Read;

use rmp::encode;
use sherd_protocol::document::check;
use sherd_protocol::name::check_key;

use crate::document::{Duplicates, JsonReader, shortened};
use crate::formats::lines::skip_bytes;
use crate::formats::summed::Summed;
use crate::formats::{BadRow, Entry, Fault, KeyOf, Place, ReadError, ReadOptions};

use super::cell::{Cell, NotIts, in_memory, push_cell};
use super::scan::RecordScanner;
use super::{EXPIRES_AT, HASH, KEY, OF_JSON_LINES, RECORD, Type, VERSION};

/// More columns are not named in messages.
const LISTED_COLUMNS: usize = 10;

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
    pub(in crate::formats) fn new(
        input: Summed<R>,
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
            options.schema.columns().find(|(column, _)| *column == name).map(|(_, of)| of)
        };
        for (name, _) in options.schema.columns() {
            if !names.is_empty() && !names.iter().any(|column| column == name) {
                return Err(ReadError::Format(format!(
                    "the header has no column {name:?} of the schema; it has {}",
                    listed(&names)
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

    pub(in crate::formats) fn next(&mut self) -> Result<Option<Result<Entry, BadRow>>, ReadError> {
        let Some(number) = self.scanner.next()? else { return Ok(None) };
        Ok(Some(match self.parse(number) {
            Ok(entry) if self.keep_rows => Ok(Entry { row: self.scanner.take_row(), ..entry }),
            Ok(entry) => Ok(entry),
            Err(fault) => Err(BadRow { number, fault, row: self.scanner.take_row() }),
        }))
    }

    pub(in crate::formats) fn place(&self) -> Place {
        self.scanner.place
    }

    pub(in crate::formats) fn crc32(&mut self) -> u32 {
        self.scanner.input.crc32()
    }

    pub(in crate::formats) fn has_more_at_hand(&self) -> bool {
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
        Fault::Cell { column: shortened(&self.columns[at].name), text: shortened(text), of }
    }
}

/// The names of columns, or the first of many.
fn listed(names: &[String]) -> String {
    let first: Vec<_> = names.iter().take(LISTED_COLUMNS).map(|name| shortened(name)).collect();
    match names.len().saturating_sub(LISTED_COLUMNS) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// What a header may be instead, where it is not what it should be.
fn looks_like(names: &[String]) -> &'static str {
    match names {
        [first, ..] if first.starts_with('{') => OF_JSON_LINES,
        [one] if one.contains([',', ';', '\t', '|']) => {
            "; it is one column: cells of csv are parted by commas, those of tsv by tabs"
        }
        _ => "",
    }
}

/// What the columns make.
fn plan(names: &[String], options: &ReadOptions) -> Result<Plan, ReadError> {
    let place = |wanted: &str| names.iter().position(|name| name == wanted);
    let all = || listed(names);
    if let Some(of) = &options.key {
        if !names.is_empty()
            && let Some(missing) = of.fields().find(|name| place(name).is_none())
        {
            let why = format!("the header has no column {missing:?} for the key; it has {}", all());
            return Err(ReadError::Format(why + looks_like(names)));
        }
        return Ok(Plan::All(of.clone()));
    }
    let Some(key) = place(KEY).or(names.is_empty().then_some(0)) else {
        return Err(ReadError::Format(format!(
            "the header has no column \"key\"; say with --key which of {} makes the key{}",
            all(),
            looks_like(names)
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
