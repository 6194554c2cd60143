//! The index as the engine holds it: it may fail, and be closed and opened again while running.
//!
//! What a failed write leaves of an index is not known. sled refuses everything from then on, and
//! what it did not write may be gone without a word. So the index is closed, and what only it could
//! answer is refused, until it was opened again and found whole ([`Handle::reopen`]). What is in the
//! overlay is answered all the while.
//!
//! Where there is no space for a checkpoint, it is *parked* in memory, and put back on the disk when
//! there is ([`Handle::park`], [`Handle::put_back`]).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::{MappedRwLockReadGuard, RwLock, RwLockReadGuard};

use super::{Index, IndexStore, ParkedIndex, copy};
use crate::error::{Error, Result};

/// An index that is open, or why it is not.
pub(crate) struct Handle {
    state: RwLock<State>,
    store: Arc<dyn IndexStore>,
}

enum State {
    Open(Arc<dyn Index>),
    Parked(Arc<ParkedIndex>),
    Closed {
        why: Arc<str>,
        /// It was opened again and is not whole: only a rebuild helps.
        lost: bool,
    },
}

impl Handle {
    pub(crate) fn new(index: Arc<dyn Index>, store: Arc<dyn IndexStore>) -> Self {
        Self { state: RwLock::new(State::Open(index)), store }
    }

    /// An index that could not be opened for want of space, and one in memory in its place.
    pub(crate) fn new_parked(index: Arc<ParkedIndex>, store: Arc<dyn IndexStore>) -> Self {
        Self { state: RwLock::new(State::Parked(index)), store }
    }

    /// The index. It is not closed before the guard is dropped.
    ///
    /// # Errors
    /// [`Error::IndexClosed`] while it is closed; [`Error::Index`] when only a restart opens it.
    pub(crate) fn get(&self) -> Result<MappedRwLockReadGuard<'_, dyn Index>> {
        let open = RwLockReadGuard::try_map(self.state.read(), |state| match state {
            State::Open(index) => Some(index.as_ref()),
            State::Parked(index) => Some(index.as_ref() as &dyn Index),
            State::Closed { .. } => None,
        });
        open.map_err(|state| state.refusal())
    }

    /// Closes the index after a failure. Waits for those who read from it.
    pub(crate) fn close(&self, error: &Error) {
        let why = format!("{error}; it is being opened again");
        let closed = State::Closed { why: why.into(), lost: false };
        self.replace(closed);
    }

    /// Opens the index again if it is closed. `check` says what is wrong with it; then it stays
    /// closed.
    ///
    /// # Errors
    /// Why it is still closed.
    pub(crate) fn reopen(
        &self,
        check: impl FnOnce(&dyn Index) -> Result<Option<String>>,
    ) -> Result<()> {
        match &*self.state.read() {
            State::Open(_) | State::Parked(_) => return Ok(()),
            lost @ State::Closed { lost: true, .. } => return Err(lost.refusal()),
            State::Closed { .. } => {}
        }
        let index = self.store.open().map_err(|error| match error {
            // Damaged by the failure, or not yet closed by a thread of its own: it is tried again.
            Error::Index(what) => Error::Index(
                format!("it cannot be opened again ({what}); restart the shard to rebuild it")
                    .into(),
            ),
            error => error,
        })?;
        let wrong = match check(index.as_ref()) {
            Ok(None) => {
                *self.state.write() = State::Open(index);
                return Ok(());
            }
            Ok(Some(what)) => Ok(what),
            Err(Error::Index(what)) => Ok(what.as_ref().to_owned()),
            Err(error) => Err(error),
        };
        drop_guarded(index);
        let reason = format!("after a failure, {}; restart the shard to rebuild it", wrong?);
        let mut state = self.state.write();
        if let State::Closed { why, lost, .. } = &mut *state {
            *why = reason.into();
            *lost = true;
        }
        Err(state.refusal())
    }

    /// The index, if it is in memory for want of space.
    pub(crate) fn parked(&self) -> Option<Arc<ParkedIndex>> {
        match &*self.state.read() {
            State::Parked(index) => Some(Arc::clone(index)),
            _ => None,
        }
    }

    /// Moves the index to memory, and deletes what there is of it on the disk. Only the checkpointer
    /// may, so that nothing is put meanwhile.
    ///
    /// # Errors
    /// [`Error::Index`] where it cannot be read; nothing has changed then.
    pub(crate) fn park(&self) -> Result<()> {
        let parked = ParkedIndex::default();
        copy(&*self.get()?, &parked)?;
        self.replace(State::Parked(Arc::new(parked)));
        self.store.discard()
    }

    /// Has an index that was put back be in memory again, and deletes what there is of it on the disk.
    /// `parked` must be as it was put back, and hold nothing less.
    ///
    /// # Errors
    /// Of the disk; it is in memory all the same.
    pub(crate) fn take_back(&self, parked: Arc<ParkedIndex>) -> Result<()> {
        self.replace(State::Parked(parked));
        self.store.discard()
    }

    /// Deletes what there is on the disk of a parked index. Once there is a checkpoint that it does not
    /// hold, nothing of it can be used.
    ///
    /// # Errors
    /// Of the disk.
    pub(crate) fn discard_if_parked(&self) -> Result<()> {
        if self.parked().is_some() { self.store.discard() } else { Ok(()) }
    }

    /// Puts a parked index back on the disk.
    ///
    /// # Errors
    /// Why it stays parked.
    pub(crate) fn put_back(&self, parked: &ParkedIndex) -> Result<()> {
        self.store.discard()?;
        let index = self.store.open()?;
        if let Err(error) = copy(parked, index.as_ref()) {
            drop_guarded(index);
            self.store.discard()?;
            return Err(error);
        }
        *self.state.write() = State::Open(index);
        Ok(())
    }

    /// Waits for those who read from the index.
    fn replace(&self, state: State) {
        let before = std::mem::replace(&mut *self.state.write(), state);
        drop_guarded(before);
    }
}

/// Drops an index: sled may panic on its way out as well.
fn drop_guarded<T>(index: T) {
    _ = catch_unwind(AssertUnwindSafe(move || drop(index)));
}

impl State {
    /// For what only the index could answer.
    fn refusal(&self) -> Error {
        match self {
            Self::Closed { why, lost: true } => Error::Index(Arc::clone(why)),
            Self::Closed { why, .. } => Error::IndexClosed { why: Arc::clone(why) },
            Self::Open(_) | Self::Parked(_) => {
                Error::IndexClosed { why: "it is open again".into() }
            }
        }
    }
}
