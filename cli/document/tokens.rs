//! MessagePack, token by token.

use sherd_protocol::document::DocumentError;

/// A scalar, or the head of an array or a map with the number of its entries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Token<'a> {
    Nil,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    /// A float of 32 bits.
    Single(f32),
    String(&'a str),
    Binary(&'a [u8]),
    Array(usize),
    Map(usize),
}

/// Whether a token that begins with this marker could not begin with one for fewer bytes.
fn is_shortest(marker: u8, token: Token<'_>) -> bool {
    // The first of the markers for lengths and numbers of 8, 16, 32 and 64 bits, by width.
    let of_width = |number: u64, markers: [u8; 4]| match number {
        0..=0xff => markers[0],
        0x100..=0xffff => markers[1],
        0x1_0000..=0xffff_ffff => markers[2],
        _ => markers[3],
    };
    let (number, small, markers) = match token {
        Token::Nil | Token::Bool(_) => return true,
        Token::Float(value) => return !value.is_nan() || value.to_bits() == f64::NAN.to_bits(),
        Token::Single(value) => return !value.is_nan() || value.to_bits() == f32::NAN.to_bits(),
        Token::Signed(0..) => return false,
        Token::Signed(-32..) => return marker >= 0xe0,
        // As many bits, without the sign.
        Token::Signed(value) => ((value.unsigned_abs() - 1) * 2 + 1, 0, [0xd0, 0xd1, 0xd2, 0xd3]),
        Token::Unsigned(value) => (value, 0x80, [0xcc, 0xcd, 0xce, 0xcf]),
        Token::String(text) => (text.len() as u64, 32, [0xd9, 0xda, 0xdb, 0xdb]),
        Token::Binary(bytes) => (bytes.len() as u64, 0, [0xc4, 0xc5, 0xc6, 0xc6]),
        Token::Array(count) => (count as u64, 16, [0xdc, 0xdc, 0xdd, 0xdd]),
        Token::Map(count) => (count as u64, 16, [0xde, 0xde, 0xdf, 0xdf]),
    };
    if number < small { !markers.contains(&marker) } else { marker == of_width(number, markers) }
}

/// Reads a checked document; what the check has ruled out is an error all the same.
pub(crate) struct Reader<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) offset: usize,
}

impl<'a> Reader<'a> {
    /// The next token, and whether there is no shorter MessagePack for it. Only one of the NaNs has
    /// such a form.
    ///
    /// # Errors
    /// Where the bytes are no document.
    pub(crate) fn next_of_length(&mut self) -> Result<(Token<'a>, bool), DocumentError> {
        let marker = self.bytes.get(self.offset).copied().unwrap_or_default();
        let token = self.next()?;
        Ok((token, is_shortest(marker, token)))
    }

    /// The next token.
    ///
    /// # Errors
    /// Where the bytes are no document.
    pub(crate) fn next(&mut self) -> Result<Token<'a>, DocumentError> {
        let start = self.offset;
        let marker = self.array::<1>()?[0];
        Ok(match marker {
            0xc0 => Token::Nil,
            0xc2 => Token::Bool(false),
            0xc3 => Token::Bool(true),
            0x00..=0x7f => Token::Unsigned(u64::from(marker)),
            0xcc..=0xcf => Token::Unsigned(self.unsigned(1 << (marker - 0xcc))?),
            0xe0..=0xff => Token::Signed(i64::from(marker.cast_signed())),
            0xd0 => Token::Signed(i64::from(i8::from_be_bytes(self.array()?))),
            0xd1 => Token::Signed(i64::from(i16::from_be_bytes(self.array()?))),
            0xd2 => Token::Signed(i64::from(i32::from_be_bytes(self.array()?))),
            0xd3 => Token::Signed(i64::from_be_bytes(self.array()?)),
            0xca => Token::Single(f32::from_be_bytes(self.array()?)),
            0xcb => Token::Float(f64::from_be_bytes(self.array()?)),
            0xa0..=0xbf => self.string(start, usize::from(marker & 0x1f))?,
            0xd9..=0xdb => {
                let length = self.length(1 << (marker - 0xd9))?;
                self.string(start, length)?
            }
            0xc4..=0xc6 => {
                let length = self.length(1 << (marker - 0xc4))?;
                Token::Binary(self.take(length)?)
            }
            0x90..=0x9f => Token::Array(usize::from(marker & 0x0f)),
            0xdc | 0xdd => Token::Array(self.length(2 << (marker - 0xdc))?),
            0x80..=0x8f => Token::Map(usize::from(marker & 0x0f)),
            0xde | 0xdf => Token::Map(self.length(2 << (marker - 0xde))?),
            0xc1 | 0xc7..=0xc9 | 0xd4..=0xd8 => {
                return Err(DocumentError::BadMarker { offset: start, marker });
            }
        })
    }

    /// Passes over a value.
    ///
    /// # Errors
    /// As [`Reader::next`].
    pub(crate) fn skip(&mut self) -> Result<(), DocumentError> {
        let mut awaited = 1usize;
        while awaited > 0 {
            awaited -= 1;
            match self.next()? {
                Token::Array(count) => awaited += count,
                Token::Map(count) => awaited += 2 * count,
                _ => {}
            }
        }
        Ok(())
    }

    fn string(&mut self, start: usize, length: usize) -> Result<Token<'a>, DocumentError> {
        match std::str::from_utf8(self.take(length)?) {
            Ok(text) => Ok(Token::String(text)),
            Err(_) => Err(DocumentError::NotUtf8 { offset: start }),
        }
    }

    fn length(&mut self, width: usize) -> Result<usize, DocumentError> {
        Ok(self.unsigned(width)? as usize)
    }

    fn unsigned(&mut self, width: usize) -> Result<u64, DocumentError> {
        Ok(self.take(width)?.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DocumentError> {
        let truncated = DocumentError::Truncated { offset: self.offset };
        self.take(N)?.try_into().map_err(|_| truncated)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], DocumentError> {
        let rest = &self.bytes[self.offset..];
        let taken = rest.get(..count).ok_or(DocumentError::Truncated { offset: self.offset })?;
        self.offset += count;
        Ok(taken)
    }
}
