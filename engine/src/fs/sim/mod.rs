//! A filesystem in memory that crashes and fails on demand.
//!
//! It keeps two states of every file and directory: what the process sees, and what is durable.
//! [`SimFs::crash`] throws the first away, except for a part of the unsynced bytes that a seeded
//! choice lets survive, sector by sector, as a disk might. [`SimFs::fail`] makes a later operation
//! fail.
//!
//! # Caveats
//! Directory changes that were not synced are all lost at a crash, never in part.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::io::{Error, ErrorKind, Result};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{File, Fs};

/// What survives a crash is decided for pieces of this size.
const SECTOR_BYTES: usize = 512;

/// Which operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A write to a file.
    Write,
    /// A sync of a file.
    Sync,
    /// The creation of a file.
    Create,
}

/// A filesystem in memory. Clones share it.
#[derive(Clone, Default)]
pub struct SimFs(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// What is visible and what is durable under each name. An inode is its index in `inodes`.
    visible: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    inodes: Vec<Inode>,
    locks: HashMap<PathBuf, ()>,
    /// The fault to come: how many more such operations succeed, and the error.
    fault: Option<(Fault, u32, ErrorKind)>,
    /// Handles made before the last crash are dead: a stopped process writes no more.
    generation: u64,
}

#[derive(Default)]
struct Inode {
    visible: Vec<u8>,
    durable: Vec<u8>,
    /// What was written since the last sync, also one that failed: Linux then takes the bytes for
    /// clean, and a later sync does not write them.
    dirty: Vec<Range<usize>>,
}

impl SimFs {
    /// An empty filesystem.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops the world and starts it again: what was not synced is lost, except for the sectors
    /// for which `survives` says otherwise. Open handles and locks are void.
    pub fn crash(&self, mut survives: impl FnMut() -> bool) {
        let mut state = self.0.lock();
        state.generation += 1;
        state.locks.clear();
        state.fault = None;
        state.visible = state.durable.clone();
        for inode in &mut state.inodes {
            // A file may have grown without its bytes having arrived, or with some of them.
            let grown = survives();
            if grown && inode.visible.len() > inode.durable.len() {
                inode.durable.resize(inode.visible.len(), 0);
            }
            for start in (0..inode.durable.len()).step_by(SECTOR_BYTES) {
                let end = (start + SECTOR_BYTES).min(inode.durable.len());
                if let Some(new) = inode.visible.get(start..end)
                    && new != &inode.durable[start..end]
                    && survives()
                {
                    inode.durable[start..end].copy_from_slice(new);
                }
            }
            inode.visible = inode.durable.clone();
            inode.dirty.clear();
        }
    }

    /// Lets `after` more operations of the kind succeed, then fails each of them until
    /// [`SimFs::heal`].
    pub fn fail(&self, fault: Fault, after: u32, error: ErrorKind) {
        self.0.lock().fault = Some((fault, after, error));
    }

    /// Ends a fault.
    pub fn heal(&self) {
        self.0.lock().fault = None;
    }

    /// Stops the process but not the machine: what was written stays visible, synced or not. Open
    /// handles and locks are void.
    pub fn stop_process(&self) {
        let mut state = self.0.lock();
        state.generation += 1;
        state.locks.clear();
        state.fault = None;
    }

    /// The bytes of a file as the process sees them.
    pub fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.0.lock();
        state.visible.get(path).map(|&inode| state.inodes[inode].visible.clone())
    }

    /// Replaces the bytes of a file, durably, as damage would.
    pub fn damage(&self, path: &Path, bytes: Vec<u8>) {
        let mut state = self.0.lock();
        if let Some(&inode) = state.visible.get(path) {
            let dirty = Vec::new();
            state.inodes[inode] = Inode { visible: bytes.clone(), durable: bytes, dirty };
        }
    }

    /// The paths of the files there are.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.0.lock().visible.keys().cloned().collect()
    }

    fn handle(&self, inode: usize, generation: u64) -> Arc<dyn File> {
        Arc::new(SimFile { fs: self.clone(), inode, generation })
    }
}

impl State {
    fn check(&mut self, operation: Fault) -> Result<()> {
        match &mut self.fault {
            Some((fault, 0, error)) if *fault == operation => Err(Error::from(*error)),
            Some((fault, after, _)) if *fault == operation => {
                *after -= 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Fs for SimFs {
    fn create_dir_all(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn create(&self, path: &Path) -> Result<Arc<dyn File>> {
        let mut state = self.0.lock();
        state.check(Fault::Create)?;
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.visible.insert(path.to_owned(), inode);
        let generation = state.generation;
        Ok(self.handle(inode, generation))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn File>> {
        let state = self.0.lock();
        let inode = *state.visible.get(path).ok_or(Error::from(ErrorKind::NotFound))?;
        Ok(self.handle(inode, state.generation))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let mut state = self.0.lock();
        let inode = state.visible.remove(from).ok_or(Error::from(ErrorKind::NotFound))?;
        state.visible.insert(to.to_owned(), inode);
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<()> {
        match self.0.lock().visible.remove(path) {
            Some(_) => Ok(()),
            None => Err(Error::from(ErrorKind::NotFound)),
        }
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        let state = self.0.lock();
        let inside = state.visible.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_string_lossy().into())).collect())
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        let mut state = self.0.lock();
        state.check(Fault::Sync)?;
        let inside = |path: &Path| path.parent() == Some(dir);
        let State { visible, durable, .. } = &mut *state;
        durable.retain(|path, _| !inside(path));
        durable.extend(visible.iter().filter(|(p, _)| inside(p)).map(|(p, &i)| (p.clone(), i)));
        Ok(())
    }

    fn free_bytes(&self, _: &Path) -> Result<u64> {
        Ok(u64::MAX)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Any + Send + Sync>> {
        let mut state = self.0.lock();
        if state.locks.insert(path.to_owned(), ()).is_some() {
            return Err(Error::from(ErrorKind::WouldBlock));
        }
        let generation = state.generation;
        Ok(Box::new(SimLock { fs: self.clone(), path: path.to_owned(), generation }))
    }
}

struct SimLock {
    fs: SimFs,
    path: PathBuf,
    generation: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.fs.0.lock();
        if state.generation == self.generation {
            state.locks.remove(&self.path);
        }
    }
}

struct SimFile {
    fs: SimFs,
    inode: usize,
    generation: u64,
}

impl SimFile {
    fn with<T>(&self, run: impl FnOnce(&mut State, usize) -> Result<T>) -> Result<T> {
        let mut state = self.fs.0.lock();
        if state.generation != self.generation {
            return Err(Error::other("the simulated machine has crashed"));
        }
        run(&mut state, self.inode)
    }
}

impl File for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.with(|state, inode| {
            let bytes = &state.inodes[inode].visible;
            let rest = bytes.get(offset as usize..).unwrap_or_default();
            let count = rest.len().min(buffer.len());
            buffer[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        })
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.with(|state, inode| {
            state.check(Fault::Write)?;
            let Inode { visible, dirty, .. } = &mut state.inodes[inode];
            let end = offset as usize + bytes.len();
            if visible.len() < end {
                visible.resize(end, 0);
            }
            visible[offset as usize..end].copy_from_slice(bytes);
            dirty.push(offset as usize..end);
            Ok(())
        })
    }

    fn sync_data(&self) -> Result<()> {
        self.with(|state, inode| {
            let failed = state.check(Fault::Sync);
            let Inode { visible, durable, dirty } = &mut state.inodes[inode];
            let dirty = std::mem::take(dirty);
            failed?;
            durable.resize(visible.len(), 0);
            for range in dirty {
                let range = range.start.min(visible.len())..range.end.min(visible.len());
                durable[range.clone()].copy_from_slice(&visible[range]);
            }
            Ok(())
        })
    }

    fn set_len(&self, length: u64) -> Result<()> {
        self.with(|state, inode| {
            state.inodes[inode].visible.resize(length as usize, 0);
            Ok(())
        })
    }

    fn length(&self) -> Result<u64> {
        self.with(|state, inode| Ok(state.inodes[inode].visible.len() as u64))
    }
}
