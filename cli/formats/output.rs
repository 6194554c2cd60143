//! What is written, plain or compressed.

use std::io::{self, Write};
use std::path::Path;

use flate2::write::GzEncoder;

/// How the bytes of a file are compressed.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Compression {
    /// Not at all
    Plain,
    Gzip,
    Zstd,
}

impl Compression {
    /// How the names of such files end.
    pub(super) const NAMES: [(&'static str, Self); 4] =
        [(".gz", Self::Gzip), (".gzip", Self::Gzip), (".zst", Self::Zstd), (".zstd", Self::Zstd)];

    /// How the names of files end that are compressed otherwise: what is none of those must not be called so.
    const OTHERS: [&'static str; 8] = [".bz2", ".lz4", ".xz", ".lzma", ".br", ".sz", ".zip", ".7z"];

    /// What a file's name tells of a compression that there is none of here.
    pub(crate) fn other_of_path(path: &Path) -> Option<&'static str> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        Self::OTHERS.into_iter().find(|end| name.ends_with(end))
    }

    /// What a file's name tells.
    pub(crate) fn of_path(path: &Path) -> Self {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let name = name.to_ascii_lowercase();
        let found = Self::NAMES.iter().find(|(end, _)| name.ends_with(end));
        found.map_or(Self::Plain, |(_, compression)| *compression)
    }
}

/// Compresses what is written to it.
pub(crate) enum Encoder<W: Write> {
    Plain(W),
    Gzip(GzEncoder<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    /// # Errors
    /// When the compressor cannot be set up.
    pub(crate) fn new(writer: W, compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::Plain => Self::Plain(writer),
            Compression::Gzip => Self::Gzip(GzEncoder::new(writer, flate2::Compression::default())),
            // Level 0 is the default one.
            Compression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(writer, 0)?;
                encoder.include_checksum(true)?;
                Self::Zstd(encoder)
            }
        })
    }

    /// Writes the end; the writer behind it, which is not flushed.
    ///
    /// # Errors
    /// When that cannot be written.
    pub(crate) fn finish(self) -> io::Result<W> {
        match self {
            Self::Plain(writer) => Ok(writer),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(writer) => writer.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(writer) => writer.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}
