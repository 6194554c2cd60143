//! Lines of bounded length.
//!
//! Lines end with `\n` or `\r\n`; lines of nothing but white space are passed over, and counted. A
//! line is held in memory only up to [`MAX_LINE_BYTES`]; the rest of a longer one is read and thrown
//! away.

use std::io::{self, BufRead, BufReader, Read};

use sherd_protocol::MAX_DOCUMENT_BYTES;
use sherd_protocol::name::{MAX_KEY_BYTES, check_key};

use super::summed::Summed;
use super::{BadRow, Entry, Fault, KEPT_OF_LONG_BYTES, Place};

/// The longest line: the largest document as JSON usually has it, twice its bytes at most
/// (base64, and decimals, take less), with its key and what is around them.
pub(crate) const MAX_LINE_BYTES: usize = 2 * MAX_DOCUMENT_BYTES + MAX_KEY_BYTES + 1;

/// A line that is not blank.
pub(super) struct Line<'a> {
    /// From 1; blank lines count.
    pub(super) number: u64,
    /// Without its end; the beginning of one that is too long.
    pub(super) content: &'a [u8],
    pub(super) is_too_long: bool,
}

impl<'a> Line<'a> {
    /// The line, if it is no longer than a line may be.
    pub(super) fn whole(&self) -> Result<&'a [u8], Fault> {
        if self.is_too_long { Err(Fault::TooLong(MAX_LINE_BYTES)) } else { Ok(self.content) }
    }
}

/// Reads lines that are not blank.
pub(super) struct Lines<R> {
    input: Summed<R>,
    place: Place,
    buffer: Vec<u8>,
}

impl<R: Read> Lines<R> {
    /// Of an input that is at `place`.
    pub(super) fn new(input: Summed<R>, place: Place) -> Self {
        Self { input, place, buffer: Vec::new() }
    }

    /// The next line.
    pub(super) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        if self.buffer.capacity() > KEPT_BUFFER_BYTES {
            self.buffer = Vec::new();
        }
        let mut is_too_long = false;
        loop {
            self.buffer.clear();
            // One byte more than a line may have, and two for its end.
            let limit = MAX_LINE_BYTES as u64 + 3;
            let read = (&mut self.input).take(limit).read_until(b'\n', &mut self.buffer)?;
            if read == 0 {
                return Ok(None);
            }
            self.place.row += 1;
            self.place.offset += read as u64;
            if self.buffer.pop_if(|last| *last == b'\n').is_some() {
                self.buffer.pop_if(|last| *last == b'\r');
            } else if self.buffer.len() as u64 == limit {
                self.place.offset += skip_line(&mut self.input)?;
            }
            if self.buffer.len() > MAX_LINE_BYTES {
                self.buffer.truncate(KEPT_OF_LONG_BYTES);
                self.buffer.shrink_to_fit();
                is_too_long = true;
                break;
            }
            if !self.buffer.trim_ascii().is_empty() {
                break;
            }
        }
        Ok(Some(Line { number: self.place.row, content: &self.buffer, is_too_long }))
    }

    /// The next line as an entry, or why it is none; `None` at the end.
    pub(super) fn next_entry(
        &mut self,
        keep_rows: bool,
        parse: impl FnOnce(&Line<'_>) -> Result<Entry, Fault>,
    ) -> io::Result<Option<Result<Entry, BadRow>>> {
        let Some(line) = self.next()? else { return Ok(None) };
        let number = line.number;
        Ok(Some(match parse(&line) {
            Ok(entry) if keep_rows => Ok(Entry { row: kept(&mut self.buffer), ..entry }),
            Ok(entry) => Ok(entry),
            Err(fault) => Err(BadRow { number, fault, row: kept(&mut self.buffer) }),
        }))
    }

    /// Where the next line begins.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// The CRC-32 of all bytes before the next line.
    pub(super) fn crc32(&mut self) -> u32 {
        self.input.crc32()
    }

    /// Whether the next line is likely to come without waiting for it.
    pub(super) fn has_more_at_hand(&self) -> bool {
        !self.input.buffer().is_empty()
    }
}

/// A buffer that a long line has left is given back.
pub(super) const KEPT_BUFFER_BYTES: usize = 1 << 20;

/// What is in the buffer of a row that was read, to be kept. Of a long one there is no second copy.
pub(super) fn kept(buffer: &mut Vec<u8>) -> Vec<u8> {
    if buffer.capacity() > KEPT_BUFFER_BYTES { std::mem::take(buffer) } else { buffer.clone() }
}

/// The text of a line.
pub(super) fn utf8(line: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(line).map_err(|error| Fault::NotUtf8(error.valid_up_to()))
}

/// Reads on to the end of the line; how many bytes that were.
fn skip_line(input: &mut impl BufRead) -> io::Result<u64> {
    let mut all = 0;
    loop {
        let (skipped, done) = match input.fill_buf() {
            Ok([]) => return Ok(all),
            Ok(bytes) => match bytes.iter().position(|&byte| byte == b'\n') {
                Some(end) => (end + 1, true),
                None => (bytes.len(), false),
            },
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        input.consume(skipped);
        all += skipped as u64;
        if done {
            return Ok(all);
        }
    }
}

/// Reads `count` bytes and throws them away.
///
/// # Errors
/// When there are fewer.
pub(super) fn skip_bytes(input: &mut impl BufRead, count: u64) -> io::Result<()> {
    let skipped = io::copy(&mut input.take(count), &mut io::sink())?;
    if skipped == count {
        return Ok(());
    }
    let why = format!("it ends after {skipped} bytes, before the place to go on from, {count}");
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, why))
}

/// Reads keys, one a line, as `cat --keys` takes them.
pub(crate) struct Keys<R> {
    lines: Lines<R>,
}

impl<R: Read> Keys<R> {
    pub(crate) fn new(input: BufReader<R>) -> Self {
        Self { lines: Lines::new(Summed::new(input), Place::default()) }
    }

    /// The next key or bad line; `None` at the end.
    ///
    /// # Errors
    /// When the input cannot be read.
    pub(crate) fn next(&mut self) -> io::Result<Option<Result<String, BadRow>>> {
        let Some(line) = self.lines.next()? else { return Ok(None) };
        let key = line.whole().and_then(|content| {
            let key = utf8(content)?;
            check_key(key)?;
            Ok(key.to_owned())
        });
        let number = line.number;
        Ok(Some(key.map_err(|fault| BadRow { number, fault, row: line.content.to_vec() })))
    }
}
