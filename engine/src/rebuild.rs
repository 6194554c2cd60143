//! Rebuilding the index on request.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Stat;
use crate::engine::{INDEX_DIR, Options};
use crate::error::{Error, Result};
use crate::fs::{DiskFs, Fs};
use crate::index::SledStore;
use crate::manifest::Manifest;
use crate::recovery::{self, IndexUse};

/// What a rebuild did.
#[derive(Clone, Debug)]
pub struct Rebuilt {
    /// The records that were read.
    pub records: u64,
    /// What is stored.
    pub stat: Stat,
    /// Where the index that there was is now; `None` when there was none.
    pub set_aside: Option<PathBuf>,
}

/// Sets the index of a data directory aside and rebuilds it from the log, as opening does when the
/// index is damaged. Otherwise this is an opening: it cleans up what a crash left behind.
///
/// The log is read to its end first: where it is damaged, nothing is changed, for the index may
/// still serve the documents that are not.
///
/// # Errors
/// [`Error::InUse`] while another process has it open, [`Error::Corrupt`], [`Error::UnknownFormat`],
/// [`Error::Io`], [`Error::DiskFull`], [`Error::Index`].
pub fn rebuild(dir: &Path, options: &Options) -> Result<Rebuilt> {
    let manifest = Manifest::path(dir);
    // Opening makes what is not there.
    _ = DiskFs.open(&manifest).map_err(|error| Error::io("open the manifest", &manifest, error))?;
    let store = SledStore::new(dir.join(INDEX_DIR), options.index_cache_bytes);
    let set_aside = dir.join(INDEX_DIR).exists().then(|| store.set_aside_path(1));
    let recovered =
        recovery::recover(Arc::new(DiskFs), dir, &store, options, IndexUse::RebuiltAnyway)?;
    Ok(Rebuilt { records: recovered.report.replayed, stat: recovered.shared.stat(), set_aside })
}
