//! The index as the engine holds it: it may fail, and be closed and opened again while running.
//!
//! What a failed write leaves of an index is not known. sled refuses everything from then on, and
//! what it did not write may be gone without a word. So the index is closed, and what only it could
//! answer is refused, until it was opened again and found whole ([`Handle::reopen`]). What is in the
//! overlay is answered all the while.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::{MappedRwLockReadGuard, RwLock, RwLockReadGuard};

use super::{Index, IndexStore};
use crate::error::{Error, Result};

/// An index that is open, or why it is not.
pub(crate) struct Handle {
    state: RwLock<State>,
    store: Arc<dyn IndexStore>,
}

enum State {
    Open(Arc<dyn Index>),
    Closed {
        why: Arc<str>,
        /// It was opened again and is not whole: only a rebuild helps.
        lost: bool,
        /// Answers in its place.
        stand_in: Option<Arc<dyn Index>>,
    },
}

impl Handle {
    pub(crate) fn new(index: Arc<dyn Index>, store: Arc<dyn IndexStore>) -> Self {
        Self { state: RwLock::new(State::Open(index)), store }
    }

    /// An index that could not be opened yet, and one that is as it should be at the checkpoint.
    pub(crate) fn closed(
        why: Arc<str>,
        stand_in: Arc<dyn Index>,
        store: Arc<dyn IndexStore>,
    ) -> Self {
        let closed = State::Closed { why, lost: false, stand_in: Some(stand_in) };
        Self { state: RwLock::new(closed), store }
    }

    /// The index, or what stands in for it. It is not closed before the guard is dropped.
    ///
    /// # Errors
    /// [`Error::IndexClosed`] while it is closed; [`Error::Index`] when only a restart opens it.
    pub(crate) fn get(&self) -> Result<MappedRwLockReadGuard<'_, dyn Index>> {
        let open = RwLockReadGuard::try_map(self.state.read(), |state| match state {
            State::Open(index) => Some(index.as_ref()),
            State::Closed { stand_in, .. } => stand_in.as_deref(),
        });
        open.map_err(|state| state.refusal())
    }

    /// Closes the index after a failure. Waits for those who read from it.
    pub(crate) fn close(&self, error: &Error) {
        let why = format!("{error}; it is being opened again");
        let closed = State::Closed { why: why.into(), lost: false, stand_in: None };
        let before = std::mem::replace(&mut *self.state.write(), closed);
        // sled may panic on its way out as well.
        _ = catch_unwind(AssertUnwindSafe(move || drop(before)));
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
            State::Open(_) => return Ok(()),
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
        _ = catch_unwind(AssertUnwindSafe(move || drop(index)));
        let reason = format!("after a failure, {}; restart the shard to rebuild it", wrong?);
        let mut state = self.state.write();
        if let State::Closed { why, lost, .. } = &mut *state {
            *why = reason.into();
            *lost = true;
        }
        Err(state.refusal())
    }
}

impl State {
    /// For what only the index could answer.
    fn refusal(&self) -> Error {
        match self {
            Self::Closed { why, lost: true, .. } => Error::Index(Arc::clone(why)),
            Self::Closed { why, .. } => Error::IndexClosed { why: Arc::clone(why) },
            Self::Open(_) => Error::IndexClosed { why: "it is open again".into() },
        }
    }
}
