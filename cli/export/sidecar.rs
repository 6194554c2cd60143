//! What is said of a whole export: how much it has, and a digest, by which `import` checks it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sherd_protocol::{RING_SIZE, Range};

use super::Export;
use crate::file::beside;
use crate::formats::{Compression, Format};

/// The version of the sidecar.
const VERSION: u32 = 1;

/// `FILE.digest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sidecar {
    /// `export`: what made it.
    pub(crate) sherd: String,
    pub(crate) version: u32,
    /// The index; its name is in the digest.
    pub(crate) index: String,
    pub(crate) documents: u64,
    /// The sum of the content hashes of the documents as the file has them (`docs/format.md`), 32
    /// hexadecimal digits.
    pub(crate) digest: String,
    /// The length of the file as it lies there, and the CRC-32 of its bytes, 8 hexadecimal digits.
    pub(crate) bytes: u64,
    pub(crate) crc32: String,
    pub(crate) format: Format,
    pub(crate) compression: Compression,
    pub(crate) prefix: Option<String>,
    /// The part of the ring, as fractions; nothing for all of it.
    pub(crate) range: Option<[f64; 2]>,
    pub(crate) cluster: String,
    pub(crate) hash_method: String,
}

impl Sidecar {
    /// What its name has behind that of the file.
    pub(crate) const SUFFIX: &str = ".digest.json";

    /// Where that of a file is.
    pub(crate) fn path_of(file: &Path) -> PathBuf {
        beside(file, Self::SUFFIX)
    }

    /// Whether a file is whole: its sidecar is written last.
    pub(crate) fn is_beside(path: &Path) -> bool {
        path.exists() && Self::path_of(path).exists()
    }

    pub(super) fn new(export: &Export) -> Self {
        let (wanted, total) = (&export.wanted, export.total());
        let map = export.client.known_map();
        let Range { start, end } = wanted.range;
        let is_part = wanted.range != Range::FULL;
        let fraction = |at: u32| f64::from(at) / f64::from(RING_SIZE);
        Self {
            sherd: "export".to_owned(),
            version: VERSION,
            index: wanted.index.clone(),
            documents: total.documents,
            digest: total.digest.to_string(),
            bytes: total.bytes,
            crc32: format!("{:08x}", total.crc),
            format: wanted.format,
            compression: wanted.compression,
            prefix: wanted.prefix.clone(),
            range: is_part.then(|| [fraction(start), fraction(end)]),
            cluster: map.cluster,
            hash_method: map.hash_method.to_string(),
        }
    }
}
