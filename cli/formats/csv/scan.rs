//! Bytes into records and their cells, of bounded length.

use std::collections::HashSet;
use std::io::{self, BufRead, Read};

use crate::document::shortened;
use crate::formats::jsonl::BYTE_ORDER_MARK;
use crate::formats::lines::{KEPT_BUFFER_BYTES, MAX_LINE_BYTES, kept};
use crate::formats::summed::Summed;
use crate::formats::{Fault, KEPT_OF_LONG_BYTES, Place, ReadError, lost_lines};

use super::OF_JSON_LINES;
use super::cell::Cell;

/// A record of more cells is a bad row: of a line that is nothing but delimiters, they would take many times its
/// length in memory.
const MAX_CELLS: usize = 1 << 16;

/// Reads records of cells, of bounded length.
pub(super) struct RecordScanner<R> {
    pub(super) input: Summed<R>,
    delimiter: u8,
    pub(super) place: Place,
    /// The record as it was.
    raw: Vec<u8>,
    /// The texts of the cells.
    text: Vec<u8>,
    /// Where each cell ends in `text`, and whether it was in quotes.
    ends: Vec<(usize, bool)>,
    is_quoted: bool,
    /// The line on which the last quote opens that begins a cell.
    quote_line: u64,
    /// Why the record is none.
    pub(super) fault: Option<Fault>,
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
    pub(super) fn new(input: Summed<R>, delimiter: u8) -> Self {
        let (raw, text, ends) = (Vec::new(), Vec::new(), Vec::new());
        let place = Place::default();
        let (is_quoted, quote_line, fault) = (false, 0, None);
        Self { input, delimiter, place, raw, text, ends, is_quoted, quote_line, fault }
    }

    /// Reads the next record that is not blank; the line on which it begins.
    ///
    /// # Errors
    /// When the input cannot be read, or a quote is not closed within the longest record: where the
    /// next one begins cannot be told then.
    pub(super) fn next(&mut self) -> Result<Option<u64>, ReadError> {
        loop {
            let number = self.place.row + 1;
            if !self.read_record()? {
                return Ok(None);
            }
            if let Some(Fault::AfterQuote { lines, .. }) = &mut self.fault {
                *lines = self.place.row - number;
            }
            if self.fault.is_some() || !self.raw.trim_ascii().is_empty() {
                return Ok(Some(number));
            }
        }
    }

    /// Reads a record; `false` at the end.
    fn read_record(&mut self) -> Result<bool, ReadError> {
        for buffer in [&mut self.raw, &mut self.text] {
            if buffer.capacity() > KEPT_BUFFER_BYTES {
                *buffer = Vec::new();
            }
            buffer.clear();
        }
        self.ends.clear();
        (self.is_quoted, self.fault) = (false, None);
        let mut state = State::CellStart;
        let mut length = 0;
        loop {
            let chunk = match self.input.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            if chunk.is_empty() {
                if length == 0 {
                    return Ok(false);
                }
                // The last line has no end, unless that is in quotes.
                let is_ended = state == State::Quoted && self.raw.last() == Some(&b'\n');
                self.place.row += u64::from(!is_ended);
                self.ends_at_end(state);
                return Ok(true);
            }
            let (mut taken, mut is_end) = (0, false);
            for &byte in chunk {
                taken += 1;
                if state == State::CellStart && byte == b'"' {
                    self.quote_line = self.place.row + 1;
                }
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
                    if is_long && state == State::Quoted {
                        return Err(self.never_closed());
                    }
                    // Behind a quote in a quoted cell, the next byte tells whether the cell is still open.
                    let is_too_long = is_long && state != State::QuoteInQuoted;
                    if (is_too_long || self.ends.len() > MAX_CELLS) && !is_end {
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

    /// A quote that is open where the record is as long as one may be.
    fn never_closed(&self) -> ReadError {
        let (cell, line) = (self.ends.len() + 1, self.quote_line);
        let lost = lost_lines(self.place.row + 1 - line);
        ReadError::Format(format!(
            "the quote that opens cell {cell} in line {line} is not closed within the {MAX_LINE_BYTES} \
             bytes that a row may have{lost}; where the next row begins cannot be told: close the \
             quote, or write one that is part of the text as \"\" in a cell in quotes"
        ))
    }

    /// The input ends without an end of the line.
    fn ends_at_end(&mut self, state: State) {
        match state {
            State::Skipping => {}
            State::Quoted => {
                let lines = self.place.row - self.quote_line;
                let fault = Fault::OpenQuote { cell: self.ends.len() + 1, lines };
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
    pub(super) fn cells(&self) -> Result<Vec<Cell<'_>>, Fault> {
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
        let cells: Vec<Cell<'_>> = self.ends.iter().map(cell).collect();
        let is_lone = |cell: &Cell<'_>| !cell.is_quoted && cell.text.contains('\r');
        if self.text.contains(&b'\r') && cells.iter().any(is_lone) {
            return Err(Fault::LoneReturn("in quotes"));
        }
        Ok(cells)
    }

    /// The record as it was, without the end of its line.
    pub(super) fn raw_without_end(&self) -> &[u8] {
        let raw = self.raw.strip_suffix(b"\n").unwrap_or(&self.raw);
        raw.strip_suffix(b"\r").unwrap_or(raw)
    }

    /// The record as it was, without the end of its line, to be kept.
    pub(super) fn take_row(&mut self) -> Vec<u8> {
        self.raw.truncate(self.raw_without_end().len());
        kept(&mut self.raw)
    }

    /// The record as the names of columns.
    pub(super) fn header(&self) -> Result<Vec<String>, ReadError> {
        let hint = if self.raw.starts_with(b"{") { OF_JSON_LINES } else { "" };
        let wrong = |why: String| ReadError::Format(format!("the header is wrong: {why}{hint}"));
        if has_lone_return(self.raw_without_end()) {
            return Err(wrong(
                "its line goes on behind a CR (\\r) without LF (\\n); if all lines end with CR alone, \
                 as old Macs write them, convert them first, as with tr '\\r' '\\n'"
                    .to_owned(),
            ));
        }
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
            Some(name) => Err(wrong(format!("column {:?} is there twice", shortened(name)))),
            None => Ok(names),
        }
    }
}

/// Whether there is a CR outside of quotes. RFC 4180 has none but before LF.
fn has_lone_return(record: &[u8]) -> bool {
    let mut is_quoted = false;
    record.iter().any(|&byte| {
        is_quoted ^= byte == b'"';
        byte == b'\r' && !is_quoted
    })
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
            fault.get_or_insert(Fault::AfterQuote { cell: ends.len() + 1, lines: 0 });
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
