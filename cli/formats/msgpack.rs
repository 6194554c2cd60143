//! A stream of MessagePack maps: `{"key", "record", "version", "expires_at"}`, the last two where they
//! are known. The record is a value in the map, and not its bytes in a string, so that any reader of
//! MessagePack has it. Where it is said what makes the key, an item is the document itself.
//!
//! A stream has no marks to find the next item by: bytes that are no MessagePack end it, while an item
//! that is, but no entry, is a bad row.

use std::io::{self, BufRead, Read};

use rmp::encode;
use sherd_protocol::document::check;
use sherd_protocol::name::check_key;

use crate::document::shortened;
use crate::document::tokens::{Reader, Token};

use super::lines::{KEPT_BUFFER_BYTES, kept};
use super::summed::Summed;
use super::{
    BadRow, Entry, Fault, Fields, KEPT_OF_LONG_BYTES, KeyOf, MAX_ITEM_BYTES, Place, ReadError,
    ReadOptions,
};

/// Reads items.
pub(crate) struct Items<R> {
    input: Summed<R>,
    place: Place,
    key: Option<KeyOf>,
    keep_rows: bool,
    item: Vec<u8>,
}

impl<R: Read> Items<R> {
    /// Of an input that is at `place`.
    pub(super) fn new(input: Summed<R>, options: &ReadOptions, place: Place) -> Self {
        let (key, keep_rows) = (options.key.clone(), options.keep_rows);
        Self { input, place, key, keep_rows, item: Vec::new() }
    }

    pub(super) fn next(&mut self) -> Result<Option<Result<Entry, BadRow>>, ReadError> {
        let Some(bytes) = self.read_item()? else { return Ok(None) };
        let number = self.place.row;
        let entry = match bytes {
            ..=MAX_ITEM_BYTES => parse(&self.item, number, self.key.as_ref()),
            _ => Err(Fault::TooLong(MAX_ITEM_BYTES)),
        };
        Ok(Some(match entry {
            Ok(entry) if self.keep_rows => Ok(Entry { row: kept(&mut self.item), ..entry }),
            Ok(entry) => Ok(entry),
            Err(fault) => Err(BadRow { number, fault, row: kept(&mut self.item) }),
        }))
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    pub(super) fn crc32(&mut self) -> u32 {
        self.input.crc32()
    }

    pub(super) fn has_more_at_hand(&self) -> bool {
        !self.input.buffer().is_empty()
    }

    /// Reads the next item, of which it keeps the beginning if it is too long; its length.
    fn read_item(&mut self) -> Result<Option<usize>, ReadError> {
        if self.item.capacity() > KEPT_BUFFER_BYTES {
            self.item = Vec::new();
        }
        self.item.clear();
        let mut scanner = Scanner::default();
        let mut length = 0;
        while !scanner.is_done() {
            let chunk = match self.input.fill_buf() {
                Ok([]) if length == 0 => return Ok(None),
                Ok([]) => return Err(self.wrong("the input ends inside the item")),
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let Some(taken) = scanner.pass(chunk) else {
                return Err(self.wrong("it is no MessagePack (a byte 0xc1)"));
            };
            length += taken;
            if length <= MAX_ITEM_BYTES {
                self.item.extend_from_slice(&chunk[..taken]);
            } else {
                self.item.truncate(KEPT_OF_LONG_BYTES);
                self.item.shrink_to_fit();
            }
            self.input.consume(taken);
        }
        self.place.row += 1;
        self.place.offset += length as u64;
        Ok(Some(length))
    }

    fn wrong(&self, what: &str) -> ReadError {
        let Place { offset, row } = self.place;
        ReadError::Format(format!("item {} at byte {offset}: {what}", row + 1))
    }
}

fn parse(item: &[u8], number: u64, key: Option<&KeyOf>) -> Result<Entry, Fault> {
    let entry = match key {
        Some(key) => {
            check(item)?;
            let (key, document) = (key.of_document(item)?, item.to_vec());
            let row = Vec::new();
            Entry { number, key, document, version: None, expires_at: None, row }
        }
        None => parse_entry(item, number)?,
    };
    check_key(&entry.key)?;
    Ok(entry)
}

fn parse_entry(item: &[u8], number: u64) -> Result<Entry, Fault> {
    let mut reader = Reader { bytes: item, offset: 0 };
    let Ok(Token::Map(count)) = reader.next() else { return Err(Fault::NoMap) };
    let (mut key, mut record, mut version, mut expires_at) = (None, None, None, None);
    let fault = |field: &str, what| Fault::ItemField { field: shortened(field), what };
    for _ in 0..count {
        let Ok(Token::String(name)) = reader.next() else {
            return Err(fault("", "has a name that is no string"));
        };
        let is_twice = match name {
            "key" => key.is_some(),
            "record" => record.is_some(),
            "version" => version.is_some(),
            "expires_at" => expires_at.is_some(),
            "hash_" => false,
            _ => return Err(fault(name, "is not one of key, record, version and expires_at")),
        };
        if is_twice {
            return Err(fault(name, "is there twice"));
        }
        let value = &item[reader.offset..];
        let value = &value[..Scanner::length(value).unwrap_or(value.len())];
        reader.offset += value.len();
        let token = || Reader { bytes: value, offset: 0 }.next();
        let number = || match token() {
            Ok(Token::Unsigned(number)) => Ok(Some(number)),
            Ok(Token::Nil) => Ok(None),
            _ => Err(fault(name, "is no whole number")),
        };
        match name {
            "key" => match token() {
                Ok(Token::String(text)) => key = Some(text.to_owned()),
                _ => return Err(fault(name, "is no string")),
            },
            "record" => {
                check(value)?;
                record = Some(value.to_vec());
            }
            "version" => version = Some(number()?),
            "expires_at" => expires_at = Some(number()?),
            _ => {}
        }
    }
    let (version, expires_at) = (version.flatten(), expires_at.flatten().filter(|&at| at != 0));
    let key = key.ok_or(Fault::NoItemField("key"))?;
    let document = record.ok_or(Fault::NoItemField("record"))?;
    Ok(Entry { number, key, document, version, expires_at, row: Vec::new() })
}

/// Appends an item.
pub(super) fn write(out: &mut Vec<u8>, fields: &Fields<'_>) -> Result<(), Fault> {
    let Fields { key, document, version, expires_at } = *fields;
    check(document)?;
    let numbers = [("version", version), ("expires_at", expires_at)];
    let numbers = numbers.into_iter().filter_map(|(name, value)| value.map(|value| (name, value)));
    let count = 2 + numbers.clone().count() as u32;
    let written: Result<(), encode::ValueWriteError> = (|| {
        encode::write_map_len(out, count)?;
        encode::write_str(out, "key")?;
        encode::write_str(out, key)?;
        encode::write_str(out, "record")?;
        out.extend_from_slice(document);
        for (name, value) in numbers {
            encode::write_str(out, name)?;
            encode::write_uint(out, value)?;
        }
        Ok(())
    })();
    // Writing to memory does not fail.
    debug_assert!(written.is_ok());
    Ok(())
}

/// Finds where a value ends, however its bytes arrive, and remembers nothing of them.
struct Scanner {
    /// Values that have not begun.
    awaited: u64,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    Marker,
    /// So many bytes of a length are to come, after what was read of it.
    Length(u32, u64, Head),
    Payload(u64),
}

/// What a length is of.
#[derive(Clone, Copy)]
enum Head {
    Bytes,
    /// There is a byte for the type, too.
    Extension,
    Array,
    Map,
}

impl Default for Scanner {
    fn default() -> Self {
        Self { awaited: 1, state: State::Marker }
    }
}

impl Scanner {
    fn is_done(&self) -> bool {
        self.awaited == 0 && matches!(self.state, State::Marker)
    }

    /// The length of the value that `bytes` begin with, if they hold it.
    fn length(bytes: &[u8]) -> Option<usize> {
        let mut scanner = Self::default();
        let length = scanner.pass(bytes)?;
        scanner.is_done().then_some(length)
    }

    /// Passes over what of `bytes` belongs to the value; `None` for the one byte that is no
    /// MessagePack.
    fn pass(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() && !self.is_done() {
            match self.state {
                State::Payload(left) => {
                    let taken = left.min((bytes.len() - at) as u64);
                    at += taken as usize;
                    self.awaits_payload(left - taken);
                }
                State::Length(left, read, head) => {
                    let read = read << 8 | u64::from(bytes[at]);
                    at += 1;
                    match left {
                        1 => self.has_length(read, head),
                        _ => self.state = State::Length(left - 1, read, head),
                    }
                }
                State::Marker => {
                    self.awaited -= 1;
                    let marker = bytes[at];
                    at += 1;
                    self.has_marker(marker)?;
                }
            }
        }
        Some(at)
    }

    fn has_marker(&mut self, marker: u8) -> Option<()> {
        match marker {
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => {}
            0x80..=0x8f => self.awaited += 2 * u64::from(marker & 0x0f),
            0x90..=0x9f => self.awaited += u64::from(marker & 0x0f),
            0xa0..=0xbf => self.awaits_payload(u64::from(marker & 0x1f)),
            0xc4..=0xc6 => self.state = State::Length(1 << (marker - 0xc4), 0, Head::Bytes),
            0xc7..=0xc9 => self.state = State::Length(1 << (marker - 0xc7), 0, Head::Extension),
            0xca => self.awaits_payload(4),
            0xcb => self.awaits_payload(8),
            0xcc..=0xcf => self.awaits_payload(1 << (marker - 0xcc)),
            0xd0..=0xd3 => self.awaits_payload(1 << (marker - 0xd0)),
            0xd4..=0xd8 => self.awaits_payload(1 + (1 << (marker - 0xd4))),
            0xd9..=0xdb => self.state = State::Length(1 << (marker - 0xd9), 0, Head::Bytes),
            0xdc | 0xdd => self.state = State::Length(2 << (marker - 0xdc), 0, Head::Array),
            0xde | 0xdf => self.state = State::Length(2 << (marker - 0xde), 0, Head::Map),
            0xc1 => return None,
        }
        Some(())
    }

    fn has_length(&mut self, length: u64, head: Head) {
        self.state = State::Marker;
        match head {
            Head::Bytes => self.awaits_payload(length),
            Head::Extension => self.awaits_payload(length + 1),
            Head::Array => self.awaited = self.awaited.saturating_add(length),
            Head::Map => self.awaited = self.awaited.saturating_add(2 * length),
        }
    }

    fn awaits_payload(&mut self, length: u64) {
        self.state = if length == 0 { State::Marker } else { State::Payload(length) };
    }
}
