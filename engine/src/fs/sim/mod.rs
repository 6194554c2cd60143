//! A filesystem in memory that crashes and fails on demand.
//!
//! It keeps what the process sees, and a [journal](Event) of all that was asked of it. From the
//! journal follows what the power may leave at any moment ([`Medium`]). [`SimFs::crash`] picks one
//! such state now; a test that wants to try them all takes the journal ([`SimFs::journal`]) and
//! makes a filesystem of each ([`SimFs::from_image`]). [`SimFs::fail`] makes a later operation fail.

mod journal;
mod medium;

pub use journal::{Event, FileId, Step};
pub use medium::{Image, Medium, Pending};

use std::any::Any;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, ThreadId};

use parking_lot::Mutex;

use self::medium::Node;
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

/// Called before each operation that changes the filesystem or syncs it, on the thread that asked
/// for it.
pub type Observer = Arc<dyn Fn() + Send + Sync>;

/// A filesystem in memory. Clones share it.
#[derive(Clone, Default)]
pub struct SimFs(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// What the process sees.
    names: BTreeMap<Arc<Path>, Node>,
    files: BTreeMap<FileId, Arc<Vec<u8>>>,
    next_file: FileId,
    /// What was on the disk when the machine was started, and what happened since.
    started: Image,
    journal: Vec<Step>,
    locks: HashMap<PathBuf, ()>,
    fault: Option<ArmedFault>,
    /// Threads that are in [`SimFs::fail_sync_of`].
    failing_a_sync: HashSet<ThreadId>,
    observer: Option<Observer>,
    /// Handles made before the last crash are dead: a stopped process writes no more.
    generation: u64,
}

/// A fault to come.
struct ArmedFault {
    fault: Fault,
    /// How many more such operations succeed.
    after: u32,
    error: ErrorKind,
    /// Only on the thread of this name, and only once.
    once_on: Option<&'static str>,
}

impl SimFs {
    /// An empty filesystem.
    pub fn new() -> Self {
        Self::default()
    }

    /// A machine that is started with what lies on its disk.
    pub fn from_image(image: Image) -> Self {
        let fs = Self::new();
        fs.0.lock().start(image);
        fs
    }

    /// Stops the world and starts it again: what was not synced is lost, except for the names,
    /// lengths and sectors for which `survives` says otherwise.
    /// Open handles and locks are void.
    pub fn crash(&self, mut survives: impl FnMut() -> bool) {
        let mut state = self.0.lock();
        let pending = state.medium().pending(SECTOR_BYTES);
        let pick = |options: usize| (1..options).take_while(|_| survives()).count();
        let picks: Vec<_> = pending.options().into_iter().map(pick).collect();
        state.start(pending.image(&picks));
    }

    /// Lets `after` more operations of the kind succeed, then fails each of them until
    /// [`SimFs::heal`].
    pub fn fail(&self, fault: Fault, after: u32, error: ErrorKind) {
        self.0.lock().fault = Some(ArmedFault { fault, after, error, once_on: None });
    }

    /// Lets `after` more operations of the kind by the thread of that name succeed, then fails one.
    pub fn fail_once_on(&self, thread: &'static str, fault: Fault, after: u32, error: ErrorKind) {
        self.0.lock().fault = Some(ArmedFault { fault, after, error, once_on: Some(thread) });
    }

    /// Syncs a file, which fails: nothing is known of its bytes from then on. What other threads sync
    /// meanwhile is not concerned.
    pub fn fail_sync_of(&self, file: &dyn File) {
        let thread = thread::current().id();
        self.0.lock().failing_a_sync.insert(thread);
        _ = file.sync_data();
        self.0.lock().failing_a_sync.remove(&thread);
    }

    /// Ends a fault.
    pub fn heal(&self) {
        self.0.lock().fault = None;
    }

    /// Has `observer` called from now on.
    pub fn observe(&self, observer: Option<Observer>) {
        self.0.lock().observer = observer;
    }

    /// Stops the process but not the machine: what was written stays visible, synced or not. Open
    /// handles and locks are void.
    pub fn stop_process(&self) {
        self.0.lock().stop_process();
    }

    /// Notes something in the journal.
    pub fn mark(&self, mark: u64) {
        self.0.lock().log(Event::Mark(mark));
    }

    /// What was on the disk when the machine was started, and all that happened since.
    pub fn journal(&self) -> (Image, Vec<Step>) {
        let state = self.0.lock();
        (state.started.clone(), state.journal.clone())
    }

    /// The bytes of a file as the process sees them.
    pub fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.0.lock();
        let file = state.file(path).ok()?;
        state.files.get(&file).map(|bytes| bytes.as_ref().clone())
    }

    /// Replaces the bytes of a file, durably, as damage would.
    pub fn damage(&self, path: &Path, bytes: Vec<u8>) {
        let mut state = self.0.lock();
        if let Ok(file) = state.file(path) {
            state.log(Event::Damage { file, bytes: bytes.as_slice().into() });
            state.files.insert(file, Arc::new(bytes));
        }
    }

    /// The paths of the files there are.
    pub fn paths(&self) -> Vec<PathBuf> {
        let state = self.0.lock();
        let files = state.names.iter().filter(|(_, node)| matches!(node, Node::File(_)));
        files.map(|(path, _)| path.to_path_buf()).collect()
    }

    fn handle(&self, file: FileId, generation: u64) -> Arc<dyn File> {
        Arc::new(SimFile { fs: self.clone(), file, generation })
    }

    fn tell_observer(&self) {
        let observer = self.0.lock().observer.clone();
        if let Some(observer) = observer {
            observer();
        }
    }
}

impl State {
    fn start(&mut self, image: Image) {
        self.stop_process();
        self.names = image.names.clone();
        self.files = image.files.clone();
        self.next_file = self.files.keys().last().map_or(0, |file| file + 1);
        self.started = image;
        self.journal.clear();
    }

    fn stop_process(&mut self) {
        self.generation += 1;
        self.locks.clear();
        self.fault = None;
    }

    /// The disk as far as it is known now.
    fn medium(&self) -> Medium {
        let mut medium = Medium::new(&self.started);
        for step in &self.journal {
            medium.apply(&step.event);
        }
        medium
    }

    fn log(&mut self, event: Event) {
        let thread = thread::current().name().unwrap_or_default().into();
        self.journal.push(Step { thread, event });
    }

    fn file(&self, path: &Path) -> Result<FileId> {
        match self.names.get(path) {
            Some(Node::File(file)) => Ok(*file),
            _ => Err(Error::from(ErrorKind::NotFound)),
        }
    }

    fn check(&mut self, operation: Fault) -> Result<()> {
        if operation == Fault::Sync && self.failing_a_sync.contains(&thread::current().id()) {
            return Err(Error::from(ErrorKind::Other));
        }
        let Some(ArmedFault { fault, after, error, once_on }) = &mut self.fault else {
            return Ok(());
        };
        let here = once_on.is_none() || *once_on == thread::current().name();
        if *fault != operation || !here {
            return Ok(());
        }
        if *after > 0 {
            *after -= 1;
            return Ok(());
        }
        let error = Error::from(*error);
        if once_on.is_some() {
            self.fault = None;
        }
        Err(error)
    }
}

impl Fs for SimFs {
    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        self.tell_observer();
        let mut state = self.0.lock();
        let above: Vec<_> = dir.ancestors().collect();
        for path in above.into_iter().rev().filter(|path| path.file_name().is_some()) {
            if !state.names.contains_key(path) {
                let path: Arc<Path> = path.into();
                state.log(Event::MakeDir { path: Arc::clone(&path) });
                state.names.insert(path, Node::Directory);
            }
        }
        Ok(())
    }

    fn create(&self, path: &Path) -> Result<Arc<dyn File>> {
        self.tell_observer();
        let mut state = self.0.lock();
        state.check(Fault::Create)?;
        let file = state.next_file;
        state.next_file += 1;
        let path: Arc<Path> = path.into();
        state.log(Event::Create { path: Arc::clone(&path), file });
        state.names.insert(path, Node::File(file));
        state.files.insert(file, Arc::default());
        Ok(self.handle(file, state.generation))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn File>> {
        let state = self.0.lock();
        let file = state.file(path)?;
        Ok(self.handle(file, state.generation))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.tell_observer();
        let mut state = self.0.lock();
        let node = state.names.remove(from).ok_or(Error::from(ErrorKind::NotFound))?;
        let to: Arc<Path> = to.into();
        state.log(Event::Rename { from: from.into(), to: Arc::clone(&to) });
        state.names.insert(to, node);
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.tell_observer();
        let mut state = self.0.lock();
        state.names.remove(path).ok_or(Error::from(ErrorKind::NotFound))?;
        state.log(Event::Remove { path: path.into() });
        Ok(())
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        let state = self.0.lock();
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_string_lossy().into())).collect())
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.tell_observer();
        let mut state = self.0.lock();
        state.check(Fault::Sync)?;
        state.log(Event::SyncDir { dir: dir.into() });
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
    file: FileId,
    generation: u64,
}

impl SimFile {
    fn with<T>(&self, run: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let mut state = self.fs.0.lock();
        if state.generation != self.generation {
            return Err(Error::other("the simulated machine has crashed"));
        }
        run(&mut state)
    }
}

impl State {
    fn bytes(&self, file: FileId) -> &[u8] {
        self.files.get(&file).map_or(&[], |bytes| bytes)
    }

    fn bytes_mut(&mut self, file: FileId) -> &mut Vec<u8> {
        Arc::make_mut(self.files.entry(file).or_default())
    }
}

impl File for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.with(|state| {
            let rest = state.bytes(self.file).get(offset as usize..).unwrap_or_default();
            let count = rest.len().min(buffer.len());
            buffer[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        })
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.fs.tell_observer();
        self.with(|state| {
            state.check(Fault::Write)?;
            let offset = offset as usize;
            state.log(Event::Write { file: self.file, offset, bytes: bytes.into() });
            let visible = state.bytes_mut(self.file);
            let end = offset + bytes.len();
            if visible.len() < end {
                visible.resize(end, 0);
            }
            visible[offset..end].copy_from_slice(bytes);
            Ok(())
        })
    }

    fn sync_data(&self) -> Result<()> {
        self.fs.tell_observer();
        self.with(|state| {
            let synced = state.check(Fault::Sync);
            state.log(Event::SyncFile { file: self.file, failed: synced.is_err() });
            synced
        })
    }

    fn set_len(&self, length: u64) -> Result<()> {
        self.fs.tell_observer();
        self.with(|state| {
            let length = length as usize;
            state.log(Event::SetLength { file: self.file, length });
            state.bytes_mut(self.file).resize(length, 0);
            Ok(())
        })
    }

    fn length(&self) -> Result<u64> {
        self.with(|state| Ok(state.bytes(self.file).len() as u64))
    }
}
