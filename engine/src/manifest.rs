//! The manifest: what a data directory is, and the state at its checkpoint.
//!
//! The file `MANIFEST` is replaced as a whole:
//!
//! | offset | bytes | field, little-endian |
//! | --- | --- | --- |
//! | 0 | 8 | magic `SHERDMAN` |
//! | 8 | 4 | format version: 3 is written, 2 is read too |
//! | 12 | 4 | length of the body |
//! | 16 | 4 | CRC-32 of the bytes before and of the body |
//! | 20 | | the body: a MessagePack map with the fields of [`Manifest`] |

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::command::{Assignment, Incoming, IndexId};
use crate::error::{Error, Result};
use crate::fs::{self, Fs};
use crate::log::record::u32_at;
use crate::log::{
    FORMAT_VERSION, FORMAT_VERSIONS_READ, Lsn, MAX_LSN, SEGMENT_HEADER_BYTES, Segment, Segments,
};
use crate::overlay::Overlay;
use crate::shared::View;
use crate::state::{IndexState, Removals, State};
use crate::usage::{BySegment, Usage};

const NAME: &str = "MANIFEST";
const MAGIC: &[u8; 8] = b"SHERDMAN";
pub(crate) const HEADER_BYTES: usize = 20;

/// What a data directory is, and the state at its checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Drawn when the directory was made; every segment repeats it.
    pub(crate) identity: u128,
    /// The index holds every effect up to this LSN.
    pub(crate) checkpoint_lsn: Lsn,
    /// The catalogue, with totals.
    pub(crate) indexes: BTreeMap<IndexId, IndexState>,
    /// Name, ranges with their epoch, and limit.
    pub(crate) assignment: Option<Assignment>,
    /// Who holds the lock.
    pub(crate) locked_by: Option<String>,
    /// The highest id that an index ever had.
    pub(crate) highest_index_id: IndexId,
    /// What was evicted and what expired, ever.
    #[serde(default)]
    pub(crate) removals: Removals,
    /// What is being taken over from another shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) incoming: Option<Incoming>,
    /// The segments of the log, in the order of their numbers. One with a number below the last
    /// one's that is not among them was deleted, whether its file is still there or not.
    pub(crate) segments: Vec<SegmentInfo>,
}

/// A segment of the log at the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SegmentInfo {
    pub(crate) number: u32,
    /// In bytes; 0 of one that was not sealed.
    pub(crate) length: u32,
    /// The bytes of its records of removals up to the checkpoint.
    pub(crate) tombstones: u64,
}

impl SegmentInfo {
    fn is_possible(&self) -> bool {
        let length_is_possible = self.length == 0 || self.length as usize >= SEGMENT_HEADER_BYTES;
        length_is_possible && self.tombstones <= u64::from(u32::MAX)
    }

    /// The segments of a log, but for those left out.
    pub(crate) fn list(segments: &Segments, tombstones: &BySegment, left_out: &[u32]) -> Vec<Self> {
        let all = segments.all();
        let listed = all.iter().filter(|segment| !left_out.contains(&segment.number));
        let info = |segment: &Arc<Segment>| Self {
            number: segment.number,
            length: segment.sealed.get().copied().unwrap_or(0),
            tombstones: tombstones.get(&segment.number).copied().unwrap_or(0),
        };
        listed.map(info).collect()
    }
}

impl Manifest {
    /// The manifest of a new, empty directory.
    pub(crate) fn new(identity: u128) -> Self {
        Self::of(identity, 0, &State::default(), Vec::new())
    }

    pub(crate) fn of(
        identity: u128,
        checkpoint_lsn: Lsn,
        state: &State,
        segments: Vec<SegmentInfo>,
    ) -> Self {
        Self {
            identity,
            checkpoint_lsn,
            indexes: state.indexes.clone(),
            assignment: state.assignment.as_deref().cloned(),
            locked_by: state.locked_by.clone(),
            removals: state.removals,
            incoming: state.incoming.as_deref().cloned(),
            highest_index_id: state.highest_index_id,
            segments,
        }
    }

    /// What was published at the checkpoint, without the documents.
    pub(crate) fn view(&self) -> View {
        let tombstones = self.segments.iter().map(|info| (info.number, info.tombstones)).collect();
        let usage = Usage::with_tombstones(tombstones);
        View { state: self.state(), overlay: Overlay::default(), usage }
    }

    pub(crate) fn state(&self) -> State {
        let mut state = State::new(
            self.indexes.clone(),
            self.assignment.clone(),
            self.locked_by.clone(),
            self.highest_index_id,
            self.removals,
        );
        state.incoming = self.incoming.clone().map(Arc::new);
        state
    }

    /// Where the manifest of a data directory is.
    pub(crate) fn path(dir: &Path) -> PathBuf {
        dir.join(NAME)
    }

    /// Reads the manifest of a data directory; `None` when there is none.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::UnknownFormat`], [`Error::Io`].
    pub(crate) fn read(fs: &dyn Fs, dir: &Path) -> Result<Option<Self>> {
        let path = Self::path(dir);
        let bytes = match fs::read_all(fs, &path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read the manifest", path, error)),
        };
        Self::decode(&path, &bytes).map(Some)
    }

    /// Replaces the manifest of a data directory, durably.
    ///
    /// # Errors
    /// [`Error::DiskFull`], [`Error::Io`]: the old one is still there, or the new one is.
    pub(crate) fn write(&self, fs: &dyn Fs, dir: &Path) -> Result<()> {
        let failed = |error| Error::io("write the manifest", Self::path(dir), error);
        let bytes = self.encode().map_err(|error| failed(std::io::Error::other(error)))?;
        fs::replace(fs, dir, NAME, &bytes).map_err(failed)
    }

    pub(crate) fn encode(&self) -> std::result::Result<Vec<u8>, rmp_serde::encode::Error> {
        rmp_serde::to_vec_named(self).map(|body| Self::with_header(&body))
    }

    /// The file that has this body.
    pub(crate) fn with_header(body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&checksum(&bytes, body).to_le_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    pub(crate) fn decode(path: &Path, bytes: &[u8]) -> Result<Self> {
        let corrupt = |offset, what: &str| Err(Error::corrupt(path, offset, what));
        if bytes.len() < HEADER_BYTES {
            return corrupt(bytes.len(), "the manifest's header is cut off");
        }
        let (header, body) = bytes.split_at(HEADER_BYTES);
        if &header[..8] != MAGIC {
            return corrupt(0, "no manifest of a Sherd shard");
        }
        if u32_at(header, 12) as usize != body.len() {
            return corrupt(12, "the manifest's length is wrong");
        }
        if checksum(&header[..16], body) != u32_at(header, 16) {
            return corrupt(0, "the manifest's checksum is wrong");
        }
        let found = u32_at(header, 8);
        if !FORMAT_VERSIONS_READ.contains(&found) {
            let file = path.to_owned();
            return Err(Error::UnknownFormat { file, found, known: FORMAT_VERSION });
        }
        match rmp_serde::from_slice::<Self>(body) {
            Ok(manifest) if manifest.checkpoint_lsn > MAX_LSN => {
                corrupt(HEADER_BYTES, "the manifest's checkpoint LSN is impossible")
            }
            Ok(manifest) if !manifest.segments.iter().all(SegmentInfo::is_possible) => {
                corrupt(HEADER_BYTES, "the manifest's segments are impossible")
            }
            Ok(manifest) => Ok(manifest),
            Err(_) => corrupt(HEADER_BYTES, "the manifest's fields are malformed"),
        }
    }
}

fn checksum(header: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{IndexSettings, Policy};
    use crate::state::{Buckets, Totals};

    fn manifest() -> Manifest {
        let totals = Totals { documents: 3, bytes: 99, digest: u128::MAX / 3, versions: 9 };
        let index = IndexState {
            name: "cities".into(),
            totals,
            settings: IndexSettings { ttl: Some(1), ..IndexSettings::default() },
            removals: Removals { evicted: 1, expired: 2 },
            distribution: [0; 5],
            owned_bytes: 0,
            buckets: Buckets::default(),
        };
        Manifest {
            identity: u128::MAX / 7,
            checkpoint_lsn: 12,
            indexes: BTreeMap::from([(4, index)]),
            assignment: Some(Assignment {
                cluster: "c".to_owned(),
                name: "shard0".to_owned(),
                hash_method: "md5".to_owned(),
                epoch: 2,
                lineage: 0,
                ranges: vec![(0, 10_000_000)],
                limit: 1024,
                policy: Policy::Ttl,
            }),
            locked_by: Some("bootstrap".to_owned()),
            highest_index_id: 4,
            removals: Removals { evicted: 3, expired: 4 },
            incoming: Some(Incoming { id: "5".to_owned(), ranges: vec![(1, 2)], note: vec![3] }),
            segments: vec![SegmentInfo { number: 1, length: 4096, tombstones: 112 }],
        }
    }

    #[test]
    fn a_manifest_comes_back_and_every_flipped_byte_and_cut_is_noticed() {
        let manifest = manifest();
        let path = Path::new("MANIFEST");
        let bytes = manifest.encode().unwrap();
        assert_eq!(Manifest::decode(path, &bytes), Ok(manifest));
        for byte in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[byte] ^= 1;
            assert!(Manifest::decode(path, &flipped).is_err(), "byte {byte}");
            assert!(Manifest::decode(path, &bytes[..byte]).is_err(), "cut at {byte}");
        }
    }

    #[test]
    fn a_segment_that_ends_inside_its_header_is_refused() {
        for (length, is_possible) in [(0, true), (1, false), (63, false), (64, true)] {
            let mut manifest = manifest();
            manifest.segments[0].length = length;
            let decoded = Manifest::decode(Path::new("MANIFEST"), &manifest.encode().unwrap());
            assert_eq!(decoded.is_ok(), is_possible, "{length}: {decoded:?}");
        }
    }

    #[test]
    fn an_unknown_version_is_refused_with_both_versions_named() {
        let mut bytes = manifest().encode().unwrap();
        bytes[8] = 9;
        let crc = checksum(&bytes[..16], &bytes[HEADER_BYTES..]);
        bytes[16..20].copy_from_slice(&crc.to_le_bytes());
        let error = Manifest::decode(Path::new("MANIFEST"), &bytes).unwrap_err();
        assert_eq!(error.to_string(), "MANIFEST: format version 9 is not known here, 3 is");
    }
}
