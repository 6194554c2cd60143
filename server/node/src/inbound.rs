//! The incoming half of a connection: bytes in, whole frames out.
//!
//! Small frames are read into one buffer that lives as long as the connection, many at a time, and
//! copied out, so that a request which is kept pins nothing but itself. A large frame gets memory
//! of its own, is read straight into it, and is handed out without a copy.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use sherd_protocol::FrameError;
use sherd_protocol::frame::{self, LENGTH_BYTES};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;

use crate::budget::Charge;
use crate::limits::READ_BUFFER_BYTES;

/// What the bytes read so far begin with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// Nothing, or a part of a frame: read on.
    Partial,
    /// A whole small frame.
    Small(usize),
    /// The length of a large frame, which [`Inbound::begin_large`] makes room for.
    Large(usize),
    /// A whole large frame.
    Whole,
}

/// Bytes read and not yet handed out.
pub(crate) struct Inbound {
    limit: usize,
    /// Allocated once; `start..end` of it are unread bytes.
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// The large frame being read; the buffer is then empty.
    large: Option<Large>,
    /// Bytes read in the life of the connection: moves while the peer sends.
    pub(crate) bytes: u64,
}

struct Large {
    body: BytesMut,
    length: usize,
    charge: Charge,
}

impl Inbound {
    pub(crate) fn new(limit: usize) -> Self {
        let buffer = vec![0; READ_BUFFER_BYTES].into_boxed_slice();
        Self { limit, buffer, start: 0, end: 0, large: None, bytes: 0 }
    }

    /// Sets the longest frame allowed.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Whether no frame has begun.
    pub(crate) fn is_empty(&self) -> bool {
        self.large.is_none() && self.start == self.end
    }

    /// Whether a large frame is being read.
    pub(crate) fn is_large(&self) -> bool {
        self.large.is_some()
    }

    /// What is there.
    pub(crate) fn head(&self) -> Result<Head, FrameError> {
        if let Some(large) = &self.large {
            let whole = large.body.len() == large.length;
            return Ok(if whole { Head::Whole } else { Head::Partial });
        }
        let buffered = &self.buffer[self.start..self.end];
        Ok(match frame::body_length(buffered, self.limit)? {
            Some(length) if LENGTH_BYTES + length > READ_BUFFER_BYTES => Head::Large(length),
            Some(length) if LENGTH_BYTES + length <= buffered.len() => Head::Small(length),
            _ => Head::Partial,
        })
    }

    /// The bytes after the length of the frame that begins the buffer: those that are there.
    pub(crate) fn body(&self) -> &[u8] {
        self.buffer.get(self.start + LENGTH_BYTES..self.end).unwrap_or_default()
    }

    /// Passes a small frame whose body has `length` bytes.
    pub(crate) fn consume(&mut self, length: usize) {
        self.start += LENGTH_BYTES + length;
        if self.start >= self.end {
            // The next read goes to the front again: memory that is in the cache.
            (self.start, self.end) = (0, 0);
        }
    }

    /// Makes room for a large frame; its memory is paid for by `charge`.
    pub(crate) fn begin_large(&mut self, length: usize, charge: Charge) {
        let mut body = BytesMut::with_capacity(length);
        body.put_slice(self.body());
        (self.start, self.end) = (0, 0);
        self.large = Some(Large { body, length, charge });
    }

    /// Hands out a large frame that is whole.
    pub(crate) fn take_large(&mut self) -> Option<(Bytes, Charge)> {
        let large = self.large.take_if(|large| large.body.len() == large.length)?;
        Some((large.body.freeze(), large.charge))
    }

    /// Reads what is there, after [`Inbound::head`] said [`Head::Partial`]; `false` at the end of
    /// the stream.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> Poll<std::io::Result<bool>> {
        let stream = Pin::new(stream);
        let count = if let Some(large) = &mut self.large {
            let rest = large.length - large.body.len();
            let mut rest = (&mut large.body).limit(rest);
            ready!(poll_read_buf(stream, cx, &mut rest))?
        } else {
            if self.start > 0 {
                // A part of a small frame: it must fit behind its beginning.
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            let mut room = ReadBuf::new(&mut self.buffer[self.end..]);
            ready!(stream.poll_read(cx, &mut room))?;
            let count = room.filled().len();
            self.end += count;
            count
        };
        self.bytes += count as u64;
        Poll::Ready(Ok(count > 0))
    }
}
