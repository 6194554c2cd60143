//! Rows of `key|value`, one a line, as `write` reads them.
//!
//! Lines end with `\n` or `\r\n`; lines of nothing but white space are passed over, and counted.
//! The row is split at the first `|`, so a key read from a row has none in it. A line is held in
//! memory only up to [`MAX_LINE_BYTES`]; the rest of a longer one is read and thrown away.

use std::io::{self, BufRead, BufReader, Read};

use sherd_protocol::MAX_DOCUMENT_BYTES;
use sherd_protocol::document::DocumentError;
use sherd_protocol::name::{MAX_KEY_BYTES, NameError, check_key};
use thiserror::Error;

use crate::document;

/// The longest line: the largest document as JSON usually has it, twice its bytes at most
/// (base64, and decimals, take less), with its key.
const MAX_LINE_BYTES: usize = 2 * MAX_DOCUMENT_BYTES + MAX_KEY_BYTES + 1;

/// A row that can be written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// Its line, from 1.
    pub(crate) line: u64,
    pub(crate) key: String,
    /// The document as MessagePack.
    pub(crate) document: Vec<u8>,
}

/// Why a line is no row.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum RowFault {
    #[error("no \"|\" between key and value")]
    NoSeparator,
    #[error("not UTF-8 at byte {0}")]
    NotUtf8(usize),
    #[error("over {MAX_LINE_BYTES} bytes")]
    TooLong,
    #[error(transparent)]
    Key(#[from] NameError),
    #[error(transparent)]
    Document(#[from] DocumentError),
}

/// A line that is no row.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadRow {
    /// Its line, from 1.
    pub(crate) line: u64,
    pub(crate) fault: RowFault,
}

/// Reads rows.
pub(crate) struct Rows<R> {
    lines: Lines<R>,
}

impl<R: Read> Rows<R> {
    pub(crate) fn new(input: BufReader<R>) -> Self {
        Self { lines: Lines::new(input) }
    }

    /// Whether the next row is likely to come without waiting for it.
    pub(crate) fn has_more_at_hand(&self) -> bool {
        !self.lines.input.buffer().is_empty()
    }

    /// The next row or bad row; `None` at the end.
    ///
    /// # Errors
    /// When the input cannot be read.
    pub(crate) fn next(&mut self) -> io::Result<Option<Result<Row, BadRow>>> {
        let Some(Line { number: line, content }) = self.lines.next()? else { return Ok(None) };
        let row = content.and_then(parse);
        Ok(Some(match row {
            Ok((key, document)) => Ok(Row { line, key, document }),
            Err(fault) => Err(BadRow { line, fault }),
        }))
    }
}

/// Reads keys, one a line, as `cat --keys` takes them.
pub(crate) struct Keys<R> {
    lines: Lines<R>,
}

impl<R: Read> Keys<R> {
    pub(crate) fn new(input: BufReader<R>) -> Self {
        Self { lines: Lines::new(input) }
    }

    /// The next key or bad line; `None` at the end.
    ///
    /// # Errors
    /// When the input cannot be read.
    pub(crate) fn next(&mut self) -> io::Result<Option<Result<String, BadRow>>> {
        let Some(Line { number: line, content }) = self.lines.next()? else { return Ok(None) };
        let key = content.and_then(|content| {
            let key = utf8(content)?;
            check_key(key)?;
            Ok(key.to_owned())
        });
        Ok(Some(key.map_err(|fault| BadRow { line, fault })))
    }
}

fn parse(line: &[u8]) -> Result<(String, Vec<u8>), RowFault> {
    let (key, value) = utf8(line)?.split_once('|').ok_or(RowFault::NoSeparator)?;
    check_key(key)?;
    Ok((key.to_owned(), document::parse(value)?))
}

fn utf8(line: &[u8]) -> Result<&str, RowFault> {
    std::str::from_utf8(line).map_err(|error| RowFault::NotUtf8(error.valid_up_to()))
}

/// A line that is not blank.
struct Line<'a> {
    /// From 1; blank lines count.
    number: u64,
    /// Without its end.
    content: Result<&'a [u8], RowFault>,
}

/// Reads lines that are not blank.
struct Lines<R> {
    input: BufReader<R>,
    number: u64,
    buffer: Vec<u8>,
}

impl<R: Read> Lines<R> {
    fn new(input: BufReader<R>) -> Self {
        Self { input, number: 0, buffer: Vec::new() }
    }

    /// The next line.
    fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        loop {
            self.buffer.clear();
            // One byte more than a line may have, and two for its end.
            let limit = MAX_LINE_BYTES as u64 + 3;
            if (&mut self.input).take(limit).read_until(b'\n', &mut self.buffer)? == 0 {
                return Ok(None);
            }
            self.number += 1;
            if self.buffer.pop_if(|last| *last == b'\n').is_some() {
                self.buffer.pop_if(|last| *last == b'\r');
            } else if self.buffer.len() as u64 == limit {
                skip_line(&mut self.input)?;
            }
            if self.buffer.len() > MAX_LINE_BYTES {
                self.buffer = Vec::new();
                return Ok(Some(Line { number: self.number, content: Err(RowFault::TooLong) }));
            }
            if !self.buffer.trim_ascii().is_empty() {
                break;
            }
        }
        Ok(Some(Line { number: self.number, content: Ok(&self.buffer) }))
    }
}

/// Reads on to the end of the line.
fn skip_line(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let (skipped, done) = match input.fill_buf() {
            Ok([]) => return Ok(()),
            Ok(bytes) => match bytes.iter().position(|&byte| byte == b'\n') {
                Some(end) => (end + 1, true),
                None => (bytes.len(), false),
            },
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        input.consume(skipped);
        if done {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Line, key and document, or line and fault.
    type Parsed = Result<(u64, String, Vec<u8>), (u64, RowFault)>;

    fn read(input: &[u8]) -> Vec<Parsed> {
        // A buffer of one byte, so that every boundary is met.
        let mut rows = Rows::new(BufReader::with_capacity(1, input));
        let mut all = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            all.push(match row {
                Ok(row) => Ok((row.line, row.key, row.document)),
                Err(bad) => Err((bad.line, bad.fault)),
            });
        }
        all
    }

    fn row(line: u64, key: &str, value: &str) -> Parsed {
        Ok((line, key.to_owned(), document::parse(value).unwrap()))
    }

    #[test]
    fn the_rows_of_the_walk_through() {
        assert_eq!(
            read(b"1|test\n2|{\"test\": \"test\"}\n3|42\n4|0.9\n"),
            [
                row(1, "1", "test"),
                row(2, "2", r#"{"test": "test"}"#),
                row(3, "3", "42"),
                row(4, "4", "0.9")
            ]
        );
    }

    #[test]
    fn line_ends_blank_lines_and_a_last_line_without_end() {
        assert_eq!(
            read("\r\na|1\r\n\n  \t\nä|x y |z\n b |\nc|1".as_bytes()),
            [row(2, "a", "1"), row(5, "ä", "x y |z"), row(6, " b ", ""), row(7, "c", "1")]
        );
        assert_eq!(read(b""), []);
    }

    #[test]
    fn bad_rows_are_told_by_line_and_do_not_stop_the_rest() {
        let key = "k".repeat(MAX_KEY_BYTES + 1);
        let deep = "[".repeat(200) + &"]".repeat(200);
        let input =
            [b"no separator\n|1\nk|\xff\n", key.as_bytes(), b"|1\nd|", deep.as_bytes(), b"\nz|1\n"];
        let rows = read(&input.concat());
        assert_eq!(rows[0], Err((1, RowFault::NoSeparator)));
        assert_eq!(rows[1], Err((2, RowFault::Key(NameError::KeyLength(0)))));
        assert_eq!(rows[2], Err((3, RowFault::NotUtf8(2))));
        assert_eq!(rows[3], Err((4, RowFault::Key(NameError::KeyLength(1025)))));
        assert!(matches!(rows[4], Err((5, RowFault::Document(DocumentError::TooDeep { .. })))));
        assert_eq!(rows[5], row(6, "z", "1"));
    }

    #[test]
    fn a_line_without_end_takes_bounded_memory() {
        let endless = io::repeat(b'x').take(3 * MAX_LINE_BYTES as u64).chain(&b"\nk|1\n"[..]);
        let mut rows = Rows::new(BufReader::new(endless));
        assert_eq!(rows.next().unwrap(), Some(Err(BadRow { line: 1, fault: RowFault::TooLong })));
        assert!(rows.lines.buffer.capacity() <= MAX_LINE_BYTES);
        assert!(matches!(rows.next().unwrap(), Some(Ok(Row { line: 2, .. }))));
    }

    #[test]
    fn the_longest_line_is_read_whole_and_one_byte_more_is_refused() {
        let line = |length: usize, end: &str| {
            let mut line = b"k|".to_vec();
            line.resize(length, b' ');
            line.extend_from_slice(end.as_bytes());
            line
        };
        for end in ["", "\n", "\r\n"] {
            // White space around a value is no part of it, where it is JSON; here it is a string
            // that is too large, which shows that the line was read.
            let rows = read_fast(&line(MAX_LINE_BYTES, end));
            assert!(matches!(rows, Some(Err(BadRow { fault: RowFault::Document(_), .. }))));
            let rows = read_fast(&line(MAX_LINE_BYTES + 1, end));
            assert!(matches!(rows, Some(Err(BadRow { fault: RowFault::TooLong, .. }))));
        }
    }

    fn read_fast(input: &[u8]) -> Option<Result<Row, BadRow>> {
        Rows::new(BufReader::new(input)).next().unwrap()
    }
}
