//! Rebuilding the index on request.

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use crate::Stat;
use crate::engine::{INDEX_DIR, Options};
use crate::error::{Error, Result};
use crate::fs::{DiskFs, Fs};
use crate::index::{IndexStore, SledStore};
use crate::manifest::Manifest;
use crate::recovery::{self, IndexUse, Recovered};

/// What a rebuild did.
#[derive(Clone, Debug)]
pub struct Rebuilt {
    /// The records that were read.
    pub records: u64,
    /// What is stored.
    pub stat: Stat,
    /// Whether there was an index, which is deleted.
    pub replaced: bool,
}

/// Makes the index of a data directory anew from the log, and replaces the one there is by it.
/// Otherwise this is an opening: it cleans up what a crash left behind.
///
/// The log is read to its end first: where it is damaged, nothing is changed, for the index may
/// still serve the documents that are not. For the same reason the new index is made next to the
/// old one, which stays until the new one is complete.
///
/// # Errors
/// [`Error::InUse`] while another process has it open, [`Error::Corrupt`], [`Error::UnknownFormat`],
/// [`Error::Io`], [`Error::DiskFull`], [`Error::Index`]. The index is as it was.
pub fn rebuild(dir: &Path, options: &Options) -> Result<Rebuilt> {
    let manifest = Manifest::path(dir);
    // Opening makes what is not there.
    _ = DiskFs.open(&manifest).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::corrupt(&manifest, 0, "the manifest is missing"),
        _ => Error::io("open the manifest", &manifest, error),
    })?;
    let lock = recovery::lock(&DiskFs, dir)?;
    let old = SledStore::new(dir.join(INDEX_DIR), options.index_cache_bytes);
    let made = make(dir, Arc::clone(&lock), &old, options);
    made.map_err(|error| {
        // What there is of the new one takes space.
        match old.remove_unfinished() {
            Ok(()) => what_to_do(error, dir, &old),
            Err(_) => error,
        }
    })
}

fn make(dir: &Path, lock: recovery::Lock, old: &SledStore, options: &Options) -> Result<Rebuilt> {
    let new = old.replacement()?;
    let recovered =
        recovery::recover(Arc::new(DiskFs), dir, lock, &new, options, IndexUse::RebuiltAnyway)?;
    let Recovered { shared, log, report } = recovered;
    let stat = shared.stat();
    // sled may panic on its way out; it then reads what it wrote when it is opened.
    _ = catch_unwind(AssertUnwindSafe(move || drop((log, shared))));
    let replaced = dir.join(INDEX_DIR).exists();
    old.replace()?;
    Ok(Rebuilt { records: report.replayed, stat, replaced })
}

/// A failure, with what can be done about it.
fn what_to_do(error: Error, dir: &Path, old: &SledStore) -> Error {
    let index = dir.join(INDEX_DIR);
    match error {
        Error::DiskFull { what } => {
            let may_go = old.all_set_aside().unwrap_or_default();
            let may_go: String =
                may_go.iter().map(|path| format!("{} may be deleted; ", path.display())).collect();
            let what = format!(
                "{what}; {} is as it was, and the new index needs about as much space besides; \
                 {may_go}free some and rebuild again",
                index.display()
            );
            Error::DiskFull { what: what.into() }
        }
        Error::Index(what) => {
            let what = format!("{what}; {} is as it was; rebuild again", index.display());
            Error::Index(what.into())
        }
        error => error,
    }
}
