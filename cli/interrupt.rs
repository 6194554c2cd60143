//! Signals that ask a command to end, Ctrl-C and SIGTERM: it says then what is left, and how to go on.

use tokio::signal::unix::{self, SignalKind};
use tokio::sync::watch;

use crate::error::Error;
use crate::output::say;

/// A signal that asks a command to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Of Ctrl-C.
    Interrupt,
    Terminate,
}

impl Signal {
    /// What the command ends with.
    pub(crate) fn ends(self, what: String) -> Error {
        match self {
            Self::Interrupt => Error::Interrupted(what),
            Self::Terminate => Error::Terminated(what),
        }
    }
}

/// The signals, caught from here on.
struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
}

impl Signals {
    fn catch() -> Result<Self, Error> {
        let catch = |kind| {
            let failed = |error| Error::Failed(format!("cannot catch signals: {error}"));
            unix::signal(kind).map_err(failed)
        };
        Ok(Self {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
        }
    }
}

/// Does work that may end anywhere, unless a signal comes first. Then `left` says what there is, and how to
/// go on.
///
/// # Errors
/// That of the work; [`Signal::ends`]; and when signals cannot be caught.
pub(crate) async fn unless_interrupted<T>(
    work: impl Future<Output = Result<T, Error>>,
    left: impl FnOnce() -> String,
) -> Result<T, Error> {
    let mut signals = Signals::catch()?;
    tokio::select! {
        biased;
        result = work => result,
        signal = signals.next() => Err(signal.ends(left())),
    }
}

/// Whether a signal came, for work that comes to an end by itself then.
pub(crate) struct Stopping(watch::Receiver<Option<Signal>>);

impl Stopping {
    /// Waits for the signal.
    pub(crate) async fn asked(&mut self) -> Signal {
        match self.0.wait_for(Option::is_some).await.map(|signal| *signal) {
            Ok(Some(signal)) => signal,
            // Nobody listens for it.
            _ => std::future::pending().await,
        }
    }
}

/// Listens for signals: the first one is told, the second one ends the process at once.
///
/// # Errors
/// When they cannot be caught.
pub(crate) fn stopping() -> Result<Stopping, Error> {
    let mut signals = Signals::catch()?;
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        let first = signals.next().await;
        say!("stopping; a second signal, as of Ctrl-C, stops at once");
        _ = sender.send(Some(first));
        let second = signals.next().await.ends(String::new());
        std::process::exit(second.exit_status().into());
    });
    Ok(Stopping(receiver))
}
