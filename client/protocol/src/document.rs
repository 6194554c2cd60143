//! Documents: one MessagePack value each, carried as bytes.
//!
//! A shard never decodes a document. It checks once, at write, that the bytes are exactly one
//! well-formed value of the types a document may have, nested no deeper than [`MAX_NESTING`]; from
//! then on they are stored and returned as they came.
//!
//! # Caveats
//! Extension types (timestamps among them) are refused, and so is invalid UTF-8 in a string. Map
//! keys may be of any type, also twice the same: JSON has neither, so printing such a document as
//! JSON is lossy.

use thiserror::Error;

/// The largest document, in bytes of MessagePack: with the longest key and index name it still
/// fits a frame of the default limit.
pub const MAX_DOCUMENT_BYTES: usize = 15 * 1024 * 1024;

/// How deep arrays and maps may nest: `[[1]]` nests two deep.
pub const MAX_NESTING: usize = 128;

/// Why bytes are not a document.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum DocumentError {
    #[error("the document has {size} bytes, the limit is {MAX_DOCUMENT_BYTES}")]
    TooLarge { size: usize },
    #[error("the document nests deeper than {MAX_NESTING} at byte {offset}")]
    TooDeep { offset: usize },
    #[error("the document ends inside a value at byte {offset}")]
    Truncated { offset: usize },
    #[error("the document goes on after its value, at byte {offset}")]
    TrailingBytes { offset: usize },
    #[error("byte {offset} begins no document type (0x{marker:02x})")]
    BadMarker { offset: usize, marker: u8 },
    #[error("the string at byte {offset} is not UTF-8")]
    NotUtf8 { offset: usize },
}

/// Checks that `bytes` are one document.
///
/// Runs in time linear in the bytes and in constant memory: a header that promises more elements
/// than there are bytes fails as truncated, and allocates nothing.
///
/// # Errors
/// The first fault, with its offset.
pub fn check(bytes: &[u8]) -> Result<(), DocumentError> {
    if bytes.len() > MAX_DOCUMENT_BYTES {
        return Err(DocumentError::TooLarge { size: bytes.len() });
    }
    well_formed(bytes)
}

/// Checks that `bytes` are one well-formed value, of any size; see [`check`].
pub(crate) fn well_formed(bytes: &[u8]) -> Result<(), DocumentError> {
    let mut scanner = Scanner { bytes, offset: 0 };
    // How many values each open array or map still awaits; the first is for the document itself.
    let mut awaited = [0u64; MAX_NESTING + 1];
    awaited[0] = 1;
    let mut depth = 0;
    loop {
        while awaited[depth] == 0 {
            if depth == 0 {
                return scanner.finish();
            }
            depth -= 1;
        }
        awaited[depth] -= 1;
        let start = scanner.offset;
        let inner = scanner.value()?;
        if let Some(values) = inner {
            if depth == MAX_NESTING {
                return Err(DocumentError::TooDeep { offset: start });
            }
            depth += 1;
            awaited[depth] = values;
        }
    }
}

struct Scanner<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Scanner<'a> {
    /// Passes one scalar, or the header of an array or map, whose number of values it returns.
    fn value(&mut self) -> Result<Option<u64>, DocumentError> {
        let start = self.offset;
        let marker = self.take(1)?[0];
        let mut inner = None;
        match marker {
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => {}
            0x80..=0x8f => inner = Some(2 * u64::from(marker & 0x0f)),
            0x90..=0x9f => inner = Some(u64::from(marker & 0x0f)),
            0xa0..=0xbf => self.string(start, usize::from(marker & 0x1f))?,
            0xc4..=0xc6 => {
                let length = self.length(1 << (marker - 0xc4))?;
                self.take(length)?;
            }
            0xca | 0xce | 0xd2 => _ = self.take(4)?,
            0xcb | 0xcf | 0xd3 => _ = self.take(8)?,
            0xcc | 0xd0 => _ = self.take(1)?,
            0xcd | 0xd1 => _ = self.take(2)?,
            0xd9..=0xdb => {
                let length = self.length(1 << (marker - 0xd9))?;
                self.string(start, length)?;
            }
            0xdc | 0xdd => inner = Some(self.length(2 << (marker - 0xdc))? as u64),
            0xde | 0xdf => inner = Some(2 * self.length(2 << (marker - 0xde))? as u64),
            0xc1 | 0xc7..=0xc9 | 0xd4..=0xd8 => {
                return Err(DocumentError::BadMarker { offset: start, marker });
            }
        }
        Ok(inner)
    }

    fn string(&mut self, start: usize, length: usize) -> Result<(), DocumentError> {
        match std::str::from_utf8(self.take(length)?) {
            Ok(_) => Ok(()),
            Err(_) => Err(DocumentError::NotUtf8 { offset: start }),
        }
    }

    /// Reads a big-endian length of `width` bytes.
    fn length(&mut self, width: usize) -> Result<usize, DocumentError> {
        Ok(self.take(width)?.iter().fold(0, |length, &byte| length << 8 | usize::from(byte)))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], DocumentError> {
        let rest = &self.bytes[self.offset..];
        let taken = rest.get(..count).ok_or(DocumentError::Truncated { offset: self.offset })?;
        self.offset += count;
        Ok(taken)
    }

    fn finish(&self) -> Result<(), DocumentError> {
        if self.offset == self.bytes.len() {
            Ok(())
        } else {
            Err(DocumentError::TrailingBytes { offset: self.offset })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_of_every_type_passes() {
        let documents: &[&[u8]] = &[
            b"\xc0",
            b"\xc2",
            b"\xc3",
            b"\x00",
            b"\x7f",
            b"\xe0",
            b"\xff",
            b"\xcc\xff",
            b"\xcd\xff\xff",
            b"\xce\xff\xff\xff\xff",
            b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\xd0\x80",
            b"\xd1\x80\x00",
            b"\xd2\x80\x00\x00\x00",
            b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00",
            b"\xca\x3f\x80\x00\x00",
            b"\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00",
            b"\xa0",
            b"\xa2hi",
            b"\xd9\x02hi",
            b"\xda\x00\x02hi",
            b"\xdb\x00\x00\x00\x02hi",
            b"\xc4\x01\xff",
            b"\xc5\x00\x01\xff",
            b"\xc6\x00\x00\x00\x01\xff",
            b"\x90",
            b"\x92\x01\x91\x02",
            b"\xdc\x00\x01\x01",
            b"\xdd\x00\x00\x00\x01\x01",
            b"\x80",
            b"\x81\xa1a\x81\xa1b\xc0",
            b"\xde\x00\x01\xa1a\x01",
            b"\xdf\x00\x00\x00\x01\xa1a\x01",
        ];
        for document in documents {
            assert_eq!(check(document), Ok(()), "{document:02x?}");
            for cut in 0..document.len() {
                assert!(
                    matches!(check(&document[..cut]), Err(DocumentError::Truncated { .. })),
                    "{document:02x?} cut at {cut}"
                );
            }
        }
    }

    #[test]
    fn what_is_not_one_document_is_refused_where_it_goes_wrong() {
        assert_eq!(check(b"\x01\x02"), Err(DocumentError::TrailingBytes { offset: 1 }));
        assert_eq!(check(b"\x91\xc1"), Err(DocumentError::BadMarker { offset: 1, marker: 0xc1 }));
        assert_eq!(
            check(b"\xd6\xff\x00\x00\x00\x00"),
            Err(DocumentError::BadMarker { offset: 0, marker: 0xd6 })
        );
        assert_eq!(check(b"\x91\xa1\xff"), Err(DocumentError::NotUtf8 { offset: 1 }));
        assert_eq!(check(b"\xdd\xff\xff\xff\xff"), Err(DocumentError::Truncated { offset: 5 }));
        assert_eq!(check(b"\xdb\xff\xff\xff\xff"), Err(DocumentError::Truncated { offset: 5 }));
    }

    #[test]
    fn nesting_is_allowed_to_the_limit_and_not_beyond() {
        let nested = |depth: usize| [vec![0x91; depth], vec![0xc0]].concat();
        assert_eq!(check(&nested(MAX_NESTING)), Ok(()));
        assert_eq!(
            check(&nested(MAX_NESTING + 1)),
            Err(DocumentError::TooDeep { offset: MAX_NESTING })
        );
        assert_eq!(check(&nested(1_000_000)), Err(DocumentError::TooDeep { offset: MAX_NESTING }));
    }

    #[test]
    fn the_largest_document_passes_and_one_byte_more_does_not() {
        let header = |length: usize| {
            let mut document = vec![0xc6];
            document.extend_from_slice(&(length as u32).to_be_bytes());
            document.resize(5 + length, 7);
            document
        };
        assert_eq!(check(&header(MAX_DOCUMENT_BYTES - 5)), Ok(()));
        assert_eq!(
            check(&header(MAX_DOCUMENT_BYTES - 4)),
            Err(DocumentError::TooLarge { size: MAX_DOCUMENT_BYTES + 1 })
        );
    }
}
