//! Where the state is kept: one file, replaced as a whole before anyone sees the new state.
//!
//! `state.json` in bootstrap's data directory holds one JSON object, so that an operator can read
//! it: `format` (1), `crc32` (of the bytes of `state` as they stand in the file) and `state`. It is
//! written to a temporary file, synced, renamed, and the directory is synced.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;

use crate::state::State;

/// The version of the file's format.
const FORMAT_VERSION: u32 = 1;

const STATE_FILE: &str = "state.json";
/// The next state while it is written. One left by a process that was killed is overwritten.
const TEMPORARY_FILE: &str = "state.json.new";

const LOCK_FILE: &str = "LOCK";

/// Why the state cannot be kept or read.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum StoreError {
    #[error("cannot {what} {}: {error}", path.display())]
    Io { what: &'static str, path: PathBuf, error: io::Error },
    #[error("the data directory {} is in use by another bootstrap; stop that first, or use another directory", dir.display())]
    InUse { dir: PathBuf },
    #[error("{} is damaged: {what}; restore it from a copy", path.display())]
    Damaged { path: PathBuf, what: String },
    #[error("{}: format version {found} is not known here, {FORMAT_VERSION} is", path.display())]
    UnknownFormat { path: PathBuf, found: u32 },
}

type Result<T> = std::result::Result<T, StoreError>;

/// A data directory, owned as long as this lives.
#[derive(Debug)]
pub(crate) struct Store {
    dir: PathBuf,
    _lock: File,
}

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    format: u32,
    crc32: u32,
    #[serde(borrow)]
    state: &'a RawValue,
}

impl Store {
    /// Takes a data directory, making it if needed, and reads the state, if there is one.
    ///
    /// # Errors
    /// [`StoreError`]; a damaged state is never taken for none.
    pub(crate) fn open(dir: &Path) -> Result<(Self, Option<State>)> {
        fs::create_dir_all(dir).map_err(failed("make", dir))?;
        // The directory's own name, and what an earlier process renamed and did not sync before it
        // was killed: it is about to be built on.
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        for synced in [dir, parent.unwrap_or(Path::new("."))] {
            let sync = File::open(synced).and_then(|dir| dir.sync_all());
            sync.map_err(failed("sync", synced))?;
        }
        let path = dir.join(LOCK_FILE);
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let lock = lock.map_err(failed("open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::InUse { dir: dir.to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
        }
        let store = Self { dir: dir.to_owned(), _lock: lock };
        let state = store.read()?;
        Ok((store, state))
    }

    /// Replaces the state, durably.
    ///
    /// # Errors
    /// [`StoreError::Io`]: the old state is kept, or the new one is.
    pub(crate) fn write(&self, state: &State) -> Result<()> {
        let path = self.path();
        let write = || {
            let body = serde_json::value::to_raw_value(state)?;
            let crc32 = crc32fast::hash(body.get().as_bytes());
            let envelope = Envelope { format: FORMAT_VERSION, crc32, state: &body };
            let temporary = self.dir.join(TEMPORARY_FILE);
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec(&envelope)?)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(failed("write", &path))
    }

    fn path(&self) -> PathBuf {
        self.dir.join(STATE_FILE)
    }

    fn read(&self) -> Result<Option<State>> {
        let path = self.path();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let damaged = |what: String| StoreError::Damaged { path: path.clone(), what };
        let envelope: Envelope<'_> =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        let crc32 = crc32fast::hash(envelope.state.get().as_bytes());
        if crc32 != envelope.crc32 {
            let found = envelope.crc32;
            return Err(damaged(format!("the checksum is {crc32}, the file says {found}")));
        }
        if envelope.format != FORMAT_VERSION {
            return Err(StoreError::UnknownFormat { path, found: envelope.format });
        }
        let state: State = serde_json::from_str(envelope.state.get())
            .map_err(|error| damaged(error.to_string()))?;
        state.map.check().map_err(|fault| damaged(fault.to_string()))?;
        Ok(Some(state))
    }
}

fn failed(what: &'static str, path: &Path) -> impl Fn(io::Error) -> StoreError {
    let path = path.to_owned();
    move |error| StoreError::Io { what, path: path.clone(), error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClusterConfig;
    use sherd_protocol::IndexSettings;

    use crate::state::Command;

    fn state() -> State {
        let text = r#"{"shards": [{"name": "a", "size": 10, "host": "h", "port": 1}]}"#;
        State::new(&ClusterConfig::parse(text).unwrap(), "c0ffee".to_owned())
    }

    #[test]
    fn the_state_comes_back_and_the_newest_wins() {
        let dir = tempfile::tempdir().unwrap();
        let (store, found) = Store::open(dir.path()).unwrap();
        assert_eq!(found, None);
        store.write(&state()).unwrap();
        let made =
            Command::CreateIndex { name: "x".to_owned(), settings: IndexSettings::default() };
        let newer = state().apply(&made).unwrap();
        store.write(&newer).unwrap();
        drop(store);
        let (_store, found) = Store::open(dir.path()).unwrap();
        assert_eq!(found, Some(newer));
    }

    #[test]
    fn damage_to_any_byte_is_found_and_never_taken_for_a_state() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path()).unwrap();
        store.write(&state()).unwrap();
        drop(store);
        let path = dir.path().join(STATE_FILE);
        let bytes = fs::read(&path).unwrap();
        for byte in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[byte] ^= 1;
            fs::write(&path, &flipped).unwrap();
            let error = Store::open(dir.path()).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(STATE_FILE), "byte {byte}: {error}");
            fs::write(&path, &bytes[..byte]).unwrap();
            assert!(Store::open(dir.path()).is_err(), "cut at {byte}");
        }
    }

    #[test]
    fn an_unknown_format_is_refused_with_both_versions_named() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path()).unwrap();
        store.write(&state()).unwrap();
        drop(store);
        let path = dir.path().join(STATE_FILE);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("\"format\":1", "\"format\":2", 1)).unwrap();
        let error = Store::open(dir.path()).unwrap_err().to_string();
        assert!(error.ends_with("format version 2 is not known here, 1 is"), "{error}");
    }

    #[test]
    fn a_second_bootstrap_is_kept_out() {
        let dir = tempfile::tempdir().unwrap();
        let (_store, _) = Store::open(dir.path()).unwrap();
        assert!(matches!(Store::open(dir.path()), Err(StoreError::InUse { .. })));
    }
}
