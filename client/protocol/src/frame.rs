//! Frames: a big-endian `u32` length, then that many bytes holding one MessagePack value.
//!
//! Structures are maps from field name to value, so that a later version can add a field that an
//! older peer passes over; enum variants are a map of one entry, or a string where they have no
//! fields.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rmp_serde::Serializer;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use crate::document;

/// The longest frame body a peer accepts unless configured otherwise: room for the largest
/// document with the longest names.
pub const DEFAULT_MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;

/// The length in front of each body.
pub const LENGTH_BYTES: usize = 4;

/// The most that is reserved ahead of the bytes that have arrived, so that a length alone, without
/// the bytes it promises, costs no memory.
const READ_AHEAD_BYTES: usize = 64 * 1024;

/// How much is said about what is wrong with a message: a fault quotes names that the message
/// has, and one as long as a frame must not come back whole.
const MAX_FAULT_CHARS: usize = 512;

const _: () = assert!(crate::MAX_DOCUMENT_BYTES + 64 * 1024 < DEFAULT_MAX_FRAME_BYTES);

/// What frames are sent and received on: a TCP connection, or what a test puts in its place.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// Why a frame could not be read or made.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum FrameError {
    #[error("a frame of {length} bytes is over the limit of {limit}")]
    TooLarge { length: usize, limit: usize },
    #[error("the connection ended inside a frame")]
    Truncated,
    #[error("not the expected MessagePack: {0}")]
    Malformed(String),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Appends `message` to `out` as one frame.
///
/// # Errors
/// [`FrameError::TooLarge`] when the body is longer than `limit`; `out` is then as before.
pub fn encode<T: Serialize>(
    out: &mut BytesMut,
    message: &T,
    limit: usize,
) -> Result<(), FrameError> {
    let start = out.len();
    out.put_u32(0);
    let mut writer = out.writer();
    let result = message.serialize(&mut Serializer::new(&mut writer).with_struct_map());
    let length = out.len() - start - LENGTH_BYTES;
    match (result, u32::try_from(length)) {
        (Ok(()), Ok(prefix)) if length <= limit => {
            out[start..start + LENGTH_BYTES].copy_from_slice(&prefix.to_be_bytes());
            Ok(())
        }
        (Ok(()), _) => {
            out.truncate(start);
            Err(FrameError::TooLarge { length, limit })
        }
        (Err(error), _) => {
            out.truncate(start);
            Err(FrameError::Malformed(error.to_string()))
        }
    }
}

/// Decodes a frame's body, all of it. Strings and binaries may borrow from `body`.
///
/// # Errors
/// [`FrameError::Malformed`] when the body is not exactly one such message, or nests deeper than a
/// document may.
pub fn decode<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, FrameError> {
    // The pass before serde's bounds the depth of fields that serde would skip by recursion.
    let malformed = |what: &dyn std::fmt::Display| {
        FrameError::Malformed(what.to_string().chars().take(MAX_FAULT_CHARS).collect())
    };
    document::well_formed(body).map_err(|error| malformed(&error))?;
    rmp_serde::from_slice(body).map_err(|error| malformed(&error))
}

/// The length of the body that `buffer` begins with, if its four bytes are there.
///
/// # Errors
/// [`FrameError::TooLarge`] when it is over `limit`.
pub fn body_length(buffer: &[u8], limit: usize) -> Result<Option<usize>, FrameError> {
    let Some(prefix) = buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let length = u32::from_be_bytes(*prefix) as usize;
    if length > limit { Err(FrameError::TooLarge { length, limit }) } else { Ok(Some(length)) }
}

/// Takes the first whole frame off `buffer` and returns its body.
///
/// # Errors
/// [`FrameError::TooLarge`] as soon as the length is there.
pub fn split(buffer: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, FrameError> {
    match body_length(buffer, limit)? {
        Some(length) if buffer.len() >= LENGTH_BYTES + length => {
            buffer.advance(LENGTH_BYTES);
            Ok(Some(buffer.split_to(length).freeze()))
        }
        _ => Ok(None),
    }
}

/// Reads some more bytes into `buffer`; `false` at the end of the stream.
///
/// # Errors
/// What the stream reports.
pub async fn fill<R: AsyncRead + Unpin>(
    stream: &mut R,
    buffer: &mut BytesMut,
) -> Result<bool, FrameError> {
    buffer.reserve(READ_AHEAD_BYTES / 4);
    let room = READ_AHEAD_BYTES;
    Ok(stream.read_buf(&mut buffer.limit(room)).await? > 0)
}

/// Reads the next frame's body; `None` when the stream ends between frames.
///
/// # Errors
/// As [`split`] and [`fill`], and [`FrameError::Truncated`] when the stream ends inside a frame.
pub async fn read<R: AsyncRead + Unpin>(
    stream: &mut R,
    buffer: &mut BytesMut,
    limit: usize,
) -> Result<Option<Bytes>, FrameError> {
    loop {
        if let Some(body) = split(buffer, limit)? {
            return Ok(Some(body));
        }
        if !fill(stream, buffer).await? {
            return if buffer.is_empty() { Ok(None) } else { Err(FrameError::Truncated) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_whole_however_the_bytes_arrive() {
        let mut wire = BytesMut::new();
        encode(&mut wire, &("hello", 1u32), 100).unwrap();
        encode(&mut wire, &("again", 2u32), 100).unwrap();
        let mut buffer = BytesMut::new();
        let mut seen = Vec::new();
        for byte in wire {
            buffer.put_u8(byte);
            while let Some(body) = split(&mut buffer, 100).unwrap() {
                seen.push(decode::<(String, u32)>(&body).unwrap());
            }
        }
        assert_eq!(seen, [("hello".to_owned(), 1), ("again".to_owned(), 2)]);
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_from_its_length_alone() {
        let mut buffer = BytesMut::from(&[0xff, 0xff, 0xff, 0xff][..]);
        assert!(matches!(
            split(&mut buffer, 1024),
            Err(FrameError::TooLarge { length: 0xffff_ffff, limit: 1024 })
        ));
        let mut out = BytesMut::from("kept");
        assert!(encode(&mut out, &"too long", 4).is_err());
        assert_eq!(&out[..], b"kept");
    }

    #[test]
    fn bytes_after_a_message_are_malformed() {
        assert_eq!(decode::<u32>(b"\x05").unwrap(), 5);
        assert!(matches!(decode::<u32>(b"\x05\x06"), Err(FrameError::Malformed(_))));
        let name = "x".repeat(1 << 20);
        let mut out = BytesMut::new();
        encode(&mut out, &name, 2 << 20).unwrap();
        let Err(FrameError::Malformed(fault)) = decode::<crate::HashMethod>(&out[LENGTH_BYTES..])
        else {
            panic!("no hash method has such a name");
        };
        assert_eq!(fault.chars().count(), MAX_FAULT_CHARS);
    }
}
