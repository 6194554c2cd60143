//! A filesystem that fails where it is told to, over any other.
//!
//! A *site* is an operation on a kind of file: a write to a segment of the log, the rename of the
//! manifest. [`FaultFs`] counts the calls of each site and lets the nth fail with an error of the
//! operating system, once or from then on. A write may fail short: a part of it arrives. It also
//! says how much space is free, where a test wants to.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::io::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{File, Fs};

/// What is done to a file or a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is the function of its name")]
pub enum Operation {
    CreateDir,
    Create,
    Open,
    /// Reads are not counted among the calls.
    Read,
    Write,
    Sync,
    SetLen,
    Rename,
    Remove,
    SyncDir,
}

/// To what it is done, told by the name. A file that is renamed is from then on what its new name
/// says; the renaming itself is told by the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A segment of the log.
    Segment,
    /// The next segment, being prepared.
    Spare,
    /// The manifest, and the one that is to replace it.
    Manifest,
    /// The reserve.
    Reserve,
    /// The directory of the segments.
    LogDir,
    /// The data directory and those above it.
    DataDir,
    /// Anything else.
    Other,
}

impl Kind {
    fn of(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match name.as_ref() {
            "spare" => Self::Spare,
            "reserve" => Self::Reserve,
            "log" => Self::LogDir,
            name if name.starts_with("MANIFEST") => Self::Manifest,
            name if name.ends_with(".log") => Self::Segment,
            _ => Self::Other,
        }
    }

    fn of_dir(path: &Path) -> Self {
        match Self::of(path) {
            Self::LogDir => Self::LogDir,
            _ => Self::DataDir,
        }
    }
}

/// An operation on a kind of file.
pub type Site = (Operation, Kind);

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The number of the operating system's error.
    pub errno: i32,
    /// Not only the one call, but all of the site after it.
    pub for_good: bool,
    /// How much of a write arrives, in 256ths.
    pub arrives: u8,
}

/// Says how many bytes are free.
type FreeBytes = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What happens before a read.
type BeforeRead = Box<dyn FnOnce() + Send>;

/// What happens to a file whose sync fails.
type FailedSync = Arc<dyn Fn(&dyn File) + Send + Sync>;

/// A filesystem that fails where it is told to. Clones share the faults.
#[derive(Clone)]
pub struct FaultFs<F> {
    fs: F,
    state: Arc<Mutex<State>>,
    failed_sync: FailedSync,
}

#[derive(Default)]
struct State {
    calls: BTreeMap<Site, u64>,
    /// What the files that are open are by now.
    kinds: HashMap<PathBuf, Arc<Mutex<Kind>>>,
    /// The fault to come: its site, how many of its calls succeed before, and how it fails.
    fault: Option<(Site, u64, Failure)>,
    failed: u64,
    free_bytes: Option<FreeBytes>,
    before_read: Option<BeforeRead>,
}

impl State {
    /// Counts a call; how it fails, if it does.
    fn call(&mut self, site: Site) -> Option<Failure> {
        *self.calls.entry(site).or_default() += 1;
        self.fails(site)
    }

    /// How a call fails, if it does.
    fn fails(&mut self, site: Site) -> Option<Failure> {
        let (at, before, failure) = self.fault.as_mut()?;
        if *at != site {
            return None;
        }
        if *before > 0 {
            *before -= 1;
            return None;
        }
        let failure = *failure;
        if !failure.for_good {
            self.fault = None;
        }
        self.failed += 1;
        Some(failure)
    }
}

impl<F: Fs> FaultFs<F> {
    /// Over `fs`, without a fault.
    pub fn new(fs: F) -> Self {
        Self { fs, state: Arc::default(), failed_sync: Arc::new(|_| {}) }
    }

    /// Lets `run` do to a file what a sync that fails does to it, in place of nothing.
    #[must_use]
    pub fn when_a_sync_fails(mut self, run: impl Fn(&dyn File) + Send + Sync + 'static) -> Self {
        self.failed_sync = Arc::new(run);
        self
    }

    /// Lets `before` more calls of the site succeed, then the next one fail.
    pub fn fail(&self, site: Site, before: u64, failure: Failure) {
        let mut state = self.state.lock();
        state.fault = Some((site, before, failure));
        state.failed = 0;
    }

    /// Ends the fault.
    pub fn heal(&self) {
        self.state.lock().fault = None;
    }

    /// How many calls have failed since the fault was set.
    pub fn failed(&self) -> u64 {
        self.state.lock().failed
    }

    /// How many calls each site has had.
    pub fn calls(&self) -> BTreeMap<Site, u64> {
        self.state.lock().calls.clone()
    }

    /// Lets `run` come between the next read and what led to it.
    pub fn before_the_next_read(&self, run: impl FnOnce() + Send + 'static) {
        self.state.lock().before_read = Some(Box::new(run));
    }

    /// Says that so many bytes are free as `bytes` does, and not what the filesystem says.
    pub fn set_free_bytes(&self, bytes: impl Fn() -> u64 + Send + Sync + 'static) {
        self.state.lock().free_bytes = Some(Arc::new(bytes));
    }

    fn check(&self, operation: Operation, kind: Kind) -> Result<()> {
        match self.state.lock().call((operation, kind)) {
            Some(failure) => Err(Error::from_raw_os_error(failure.errno)),
            None => Ok(()),
        }
    }

    fn wrap(&self, path: &Path, file: Arc<dyn File>) -> Arc<dyn File> {
        let kind = Arc::new(Mutex::new(Kind::of(path)));
        self.state.lock().kinds.insert(path.to_owned(), Arc::clone(&kind));
        let (state, failed_sync) = (Arc::clone(&self.state), Arc::clone(&self.failed_sync));
        Arc::new(FaultFile { file, kind, state, failed_sync })
    }
}

impl<F: Fs> Fs for FaultFs<F> {
    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        self.check(Operation::CreateDir, Kind::of_dir(dir))?;
        self.fs.create_dir_all(dir)
    }

    fn create(&self, path: &Path) -> Result<Arc<dyn File>> {
        self.check(Operation::Create, Kind::of(path))?;
        Ok(self.wrap(path, self.fs.create(path)?))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn File>> {
        self.check(Operation::Open, Kind::of(path))?;
        Ok(self.wrap(path, self.fs.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.check(Operation::Rename, Kind::of(from))?;
        self.fs.rename(from, to)?;
        let mut state = self.state.lock();
        if let Some(kind) = state.kinds.remove(from) {
            *kind.lock() = Kind::of(to);
            state.kinds.insert(to.to_owned(), kind);
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.check(Operation::Remove, Kind::of(path))?;
        self.fs.remove(path)
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        self.fs.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.check(Operation::SyncDir, Kind::of_dir(dir))?;
        self.fs.sync_dir(dir)
    }

    fn free_bytes(&self, dir: &Path) -> Result<u64> {
        let told = self.state.lock().free_bytes.clone();
        told.map_or_else(|| self.fs.free_bytes(dir), |told| Ok(told()))
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Any + Send + Sync>> {
        self.fs.lock(path)
    }
}

struct FaultFile {
    file: Arc<dyn File>,
    kind: Arc<Mutex<Kind>>,
    state: Arc<Mutex<State>>,
    failed_sync: FailedSync,
}

impl FaultFile {
    fn call(&self, operation: Operation) -> Option<Failure> {
        let kind = *self.kind.lock();
        self.state.lock().call((operation, kind))
    }

    fn check(&self, operation: Operation) -> Result<()> {
        match self.call(operation) {
            Some(failure) => Err(Error::from_raw_os_error(failure.errno)),
            None => Ok(()),
        }
    }
}

impl File for FaultFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let before = self.state.lock().before_read.take();
        if let Some(run) = before {
            run();
        }
        match self.state.lock().fails((Operation::Read, *self.kind.lock())) {
            Some(failure) => Err(Error::from_raw_os_error(failure.errno)),
            None => self.file.read_at(buffer, offset),
        }
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        match self.call(Operation::Write) {
            Some(failure) => {
                let arrives = bytes.len() * usize::from(failure.arrives) / 256;
                self.file.write_all_at(&bytes[..arrives], offset)?;
                Err(Error::from_raw_os_error(failure.errno))
            }
            None => self.file.write_all_at(bytes, offset),
        }
    }

    fn sync_data(&self) -> Result<()> {
        self.check(Operation::Sync).inspect_err(|_| (self.failed_sync)(self.file.as_ref()))?;
        self.file.sync_data()
    }

    fn set_len(&self, length: u64) -> Result<()> {
        self.check(Operation::SetLen)?;
        self.file.set_len(length)
    }

    fn length(&self) -> Result<u64> {
        self.file.length()
    }
}
