//! What is read: a file or standard input, plain or compressed by gzip or zstd.
//!
//! The compression is told by the first bytes, with which no text and no map of MessagePack begins.
//! Data that are cut off or damaged are an error, never an end.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;

use super::output::Compression;

/// How much is read at a time.
const READ_BYTES: usize = 256 * 1024;

/// The first bytes of a gzip member, and of a zstd frame.
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// Whether a frame of zstd begins that holds no data, and is passed over: pzstd puts one before each of its own.
fn is_skippable(magic: &[u8]) -> bool {
    matches!(magic, [0x50..=0x5f, 0x2a, 0x4d, 0x18])
}

/// Where an input comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Stdin,
    File(PathBuf),
}

impl Source {
    /// Its name for people.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Stdin => "standard input".to_owned(),
            Self::File(path) => path.display().to_string(),
        }
    }

    /// The file, if it is one.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::Stdin => None,
            Self::File(path) => Some(path),
        }
    }
}

/// An input, uncompressed.
pub(crate) type Input = BufReader<Box<dyn Read + Send>>;

/// Opens a source. `read` counts the bytes that are read of it, as they are in the file.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn open(source: &Source, read: Arc<AtomicU64>) -> io::Result<Input> {
    match source {
        Source::Stdin => uncompressed(Box::new(io::stdin()), read),
        Source::File(path) => uncompressed(Box::new(File::open(path)?), read),
    }
}

/// What is in `input`, uncompressed.
pub(super) fn uncompressed(input: Box<dyn Read + Send>, read: Arc<AtomicU64>) -> io::Result<Input> {
    let mut input = Counted { input, read };
    let mut magic = Vec::new();
    (&mut input).take(ZSTD_MAGIC.len() as u64).read_to_end(&mut magic)?;
    let compression = match magic.as_slice() {
        magic if magic.starts_with(GZIP_MAGIC) => Compression::Gzip,
        magic if magic == ZSTD_MAGIC || is_skippable(magic) => Compression::Zstd,
        _ => Compression::Plain,
    };
    let read = Arc::clone(&input.read);
    let whole = Cursor::new(magic).chain(input);
    let of_all: Box<dyn Read + Send> = match compression {
        Compression::Plain => Box::new(whole),
        Compression::Gzip => {
            Box::new(MultiGzDecoder::new(BufReader::with_capacity(READ_BYTES, whole)))
        }
        Compression::Zstd => {
            let input = BufReader::with_capacity(READ_BYTES, whole);
            Box::new(zstd::stream::read::Decoder::with_buffer(input)?)
        }
    };
    let explained = Explained { input: of_all, compression, uncompressed: 0, read };
    Ok(BufReader::with_capacity(READ_BYTES, Box::new(explained)))
}

/// Counts what is read.
struct Counted<R> {
    input: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Says of an error where it is.
struct Explained {
    input: Box<dyn Read + Send>,
    compression: Compression,
    /// How many bytes have come.
    uncompressed: u64,
    /// How many were read for them, at most.
    read: Arc<AtomicU64>,
}

impl Read for Explained {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.input.read(buffer) {
            Ok(read) => {
                self.uncompressed += read as u64;
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let (kind, after) = (error.kind(), self.uncompressed);
                let within = self.read.load(Ordering::Relaxed);
                let what = match (self.compression, kind) {
                    (Compression::Plain, _) => format!("after byte {after}: {error}"),
                    (_, io::ErrorKind::UnexpectedEof) => format!(
                        "the compressed data are cut off: they end at byte {within} of the file, \
                         after {after} bytes uncompressed"
                    ),
                    _ => format!(
                        "the compressed data are damaged before byte {within} of the file, after \
                         {after} bytes uncompressed: {error}"
                    ),
                };
                Err(io::Error::new(kind, what))
            }
        }
    }
}
