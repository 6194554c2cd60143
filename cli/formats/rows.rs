//! Rows of `key|value`, one a line, as `write` reads them.
//!
//! The row is split at the first `|`, so a key read from a row has none in it. A value that parses
//! as JSON is JSON, else it is a string. A CR in it makes a bad row: the value may be all of a file whose
//! lines end with CR alone. Rows hold neither versions, which are left out, nor when a
//! document expires.

use std::io::{self, Read};

use sherd_protocol::name::check_key;

use crate::document;

use super::lines::{Line, Lines, utf8};
use super::summed::Summed;
use super::{BadRow, Entry, Fault, Fields, Place, ReadOptions, jsonl};

/// Reads rows.
pub(crate) struct Rows<R> {
    lines: Lines<R>,
    keep_rows: bool,
}

impl<R: Read> Rows<R> {
    /// Of an input that is at `place`.
    pub(super) fn new(input: Summed<R>, options: &ReadOptions, place: Place) -> Self {
        Self { lines: Lines::new(input, place), keep_rows: options.keep_rows }
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Result<Entry, BadRow>>> {
        self.lines.next_entry(self.keep_rows, parse)
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

fn parse(line: &Line<'_>) -> Result<Entry, Fault> {
    let (key, value) = utf8(line.whole()?)?.split_once('|').ok_or(Fault::NoSeparator)?;
    check_key(key)?;
    if value.contains('\r') {
        return Err(Fault::LoneReturn("\\r in a JSON string"));
    }
    let (key, document) = (key.to_owned(), document::parse(value)?);
    let (number, row) = (line.number, Vec::new());
    Ok(Entry { number, key, document, version: None, expires_at: None, row })
}

/// Appends a row.
pub(super) fn write(out: &mut Vec<u8>, fields: &Fields<'_>) -> Result<(), Fault> {
    let Fields { key, document, expires_at, .. } = *fields;
    if key.contains('|') {
        return Err(Fault::KeyNotHeld("a \"|\""));
    }
    if key.contains('\n') {
        return Err(Fault::KeyNotHeld("a line break"));
    }
    if expires_at.is_some() {
        return Err(Fault::ExpiryNotHeld);
    }
    let start = out.len();
    out.extend_from_slice(key.as_bytes());
    out.push(b'|');
    jsonl::write_document(out, start, document, 0)?;
    out.push(b'\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use sherd_protocol::document::DocumentError;
    use sherd_protocol::name::{MAX_KEY_BYTES, NameError};

    use std::io::BufReader;

    use super::super::MAX_LINE_BYTES;
    use super::*;

    fn rows<R: Read>(input: BufReader<R>) -> Rows<R> {
        Rows::new(Summed::new(input), &ReadOptions::default(), Place::default())
    }

    /// Line, key and document, or line and fault.
    type Parsed = Result<(u64, String, Vec<u8>), (u64, Fault)>;

    fn read(input: &[u8]) -> Vec<Parsed> {
        // A buffer of one byte, so that every boundary is met.
        let mut rows = rows(BufReader::with_capacity(1, input));
        let mut all = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            all.push(match row {
                Ok(row) => Ok((row.number, row.key, row.document)),
                Err(bad) => Err((bad.number, bad.fault)),
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

    /// All of a file whose lines end with CR alone was the value of its first key.
    #[test]
    fn a_value_goes_on_behind_no_line_end() {
        let lone = |line| Err((line, Fault::LoneReturn("\\r in a JSON string")));
        assert_eq!(read(b"1|test\r2|42\r3|0.9\r"), [lone(1)]);
        assert_eq!(
            read(b"1|a\rb\n2|a\r\r\n3|\"a\\rb\"\r\n"),
            [lone(1), lone(2), row(3, "3", "\"a\\rb\"")]
        );
    }

    #[test]
    fn bad_rows_are_told_by_line_and_do_not_stop_the_rest() {
        let key = "k".repeat(MAX_KEY_BYTES + 1);
        let deep = "[".repeat(200) + &"]".repeat(200);
        let input =
            [b"no separator\n|1\nk|\xff\n", key.as_bytes(), b"|1\nd|", deep.as_bytes(), b"\nz|1\n"];
        let rows = read(&input.concat());
        assert_eq!(rows[0], Err((1, Fault::NoSeparator)));
        assert_eq!(rows[1], Err((2, Fault::Key(NameError::KeyLength(0)))));
        assert_eq!(rows[2], Err((3, Fault::NotUtf8(2))));
        assert_eq!(rows[3], Err((4, Fault::Key(NameError::KeyLength(1025)))));
        assert!(matches!(rows[4], Err((5, Fault::Document(DocumentError::TooDeep { .. })))));
        assert_eq!(rows[5], row(6, "z", "1"));
    }

    #[test]
    fn a_line_without_end_takes_bounded_memory() {
        let endless = io::repeat(b'x').take(3 * MAX_LINE_BYTES as u64).chain(&b"\nk|1\n"[..]);
        let mut rows = rows(BufReader::new(endless));
        let row = vec![b'x'; 4096];
        let fault = Fault::TooLong(MAX_LINE_BYTES);
        assert_eq!(rows.next().unwrap(), Some(Err(BadRow { number: 1, fault, row })));
        assert!(matches!(rows.next().unwrap(), Some(Ok(Entry { number: 2, .. }))));
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
            assert!(matches!(rows, Some(Err(BadRow { fault: Fault::Document(_), .. }))));
            let rows = read_fast(&line(MAX_LINE_BYTES + 1, end));
            assert!(matches!(rows, Some(Err(BadRow { fault: Fault::TooLong(_), .. }))));
        }
    }

    fn read_fast(input: &[u8]) -> Option<Result<Entry, BadRow>> {
        rows(BufReader::new(input)).next().unwrap()
    }
}
