//! Rows on their way to a file: gathered to blocks, compressed and written a block at a time.
//!
//! A block ends after the row that fills it, so the bytes of a file follow from its rows alone, wherever
//! an export was interrupted. A compressed block is a gzip member or a zstd frame of its own: where it
//! ends, a file may be cut and gone on with, and files may be put together.

use std::fs::File;
use std::io::{self, Stdout, Write};
use std::path::PathBuf;

use crate::error::Error;
use crate::formats::{Compression, Encoder};

/// How many bytes of rows make a block, before they are compressed: enough for a compressor to learn, and for a
/// write to be worth its call.
pub(super) const BLOCK_BYTES: usize = 1 << 20;

/// Where blocks go.
pub(super) enum Target {
    File(File, PathBuf),
    Stdout(Stdout),
}

impl Target {
    /// Writes bytes.
    ///
    /// # Errors
    /// With the name of the file; [`Error::OutputClosed`] when nobody reads standard output any more.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        match self {
            Self::File(file, path) => {
                file.write_all(bytes).map_err(Error::file("write", path.as_path()))
            }
            Self::Stdout(stdout) => {
                let mut stdout = stdout.lock();
                let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
                written.map_err(|error| match error.kind() {
                    io::ErrorKind::BrokenPipe => Error::OutputClosed,
                    _ => Error::Failed(format!("cannot write to standard output: {error}")),
                })
            }
        }
    }
}

/// Writes blocks, and sums up what was written.
pub(super) struct Blocks {
    target: Target,
    compression: Compression,
    /// The rows of the block that is not full yet.
    pub(super) rows: Vec<u8>,
    compressed: Vec<u8>,
    /// How many bytes were written, and their CRC-32.
    pub(super) bytes: u64,
    pub(super) crc: crc32fast::Hasher,
}

impl Blocks {
    /// Goes on after `bytes` bytes with the checksum `crc`.
    pub(super) fn new(target: Target, compression: Compression, (bytes, crc): (u64, u32)) -> Self {
        let rows = Vec::with_capacity(BLOCK_BYTES + BLOCK_BYTES / 8);
        let crc = crc32fast::Hasher::new_with_initial_len(crc, bytes);
        Self { target, compression, rows, compressed: Vec::new(), bytes, crc }
    }

    /// Whether the rows make a block.
    pub(super) fn is_full(&self) -> bool {
        self.rows.len() >= BLOCK_BYTES
    }

    /// Writes the rows as a block, if there are any.
    ///
    /// # Errors
    /// As [`Target::write`].
    pub(super) fn write(&mut self) -> Result<(), Error> {
        if self.rows.is_empty() { Ok(()) } else { self.write_always() }
    }

    /// Writes the rows as a block, also where there are none.
    ///
    /// # Errors
    /// As [`Target::write`].
    pub(super) fn write_always(&mut self) -> Result<(), Error> {
        let bytes = match self.compression {
            Compression::Plain => &self.rows,
            compression => {
                self.compressed.clear();
                let compressed = compress(&self.rows, &mut self.compressed, compression);
                compressed.map_err(|error| Error::Failed(format!("cannot compress: {error}")))?;
                &self.compressed
            }
        };
        self.target.write(bytes)?;
        self.crc.update(bytes);
        self.bytes += bytes.len() as u64;
        self.rows.clear();
        if self.rows.capacity() > 4 * BLOCK_BYTES {
            // One large document is no reason to keep its memory.
            self.rows.shrink_to(BLOCK_BYTES);
        }
        Ok(())
    }
}

fn compress(rows: &[u8], out: &mut Vec<u8>, compression: Compression) -> io::Result<()> {
    let mut encoder = Encoder::new(out, compression)?;
    encoder.write_all(rows)?;
    encoder.finish().map(drop)
}
