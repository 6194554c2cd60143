//! What the two kinds of nodes, shard and bootstrap, have in common as processes: binding, the
//! ready line, and when to stop.

use std::fmt::Display;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::error::Error;

/// Listens on `host:port`; port 0 for any.
///
/// # Errors
/// When the address cannot be had.
pub(crate) async fn listen(host: &str, port: u16) -> Result<TcpListener, Error> {
    let listener = TcpListener::bind((host, port)).await;
    listener.map_err(|error| Error::Listen { address: format!("{host}:{port}"), error })
}

/// Lets the process open as many files as the system allows it: each segment of a log and each
/// connection is one, and the usual limit of 1024 is meant for programs that use `select`.
pub(crate) fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit on open files stays at {:?}", limit.current);
    }
}

/// Prints the line that says that the node serves. Whoever started it may have gone away since,
/// which is no reason not to serve.
pub(crate) fn announce(address: SocketAddr, details: impl Display) {
    let mut stdout = std::io::stdout().lock();
    _ = writeln!(stdout, "ready {address} {details}").and_then(|()| stdout.flush());
}

/// The signals that ask a process to stop, caught from here on.
pub(crate) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// # Errors
    /// When the operating system refuses the handlers.
    pub(crate) fn catch() -> Result<Self, Error> {
        let catch = |kind| {
            signal(kind).map_err(|error| Error::Failed(format!("cannot catch signals: {error}")))
        };
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
        })
    }

    /// Waits for one of them.
    pub(crate) async fn received(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Waits until the node is to stop: on a signal and, if so wished, at the end of standard input,
/// which a supervisor holds open for as long as it lives.
///
/// # Errors
/// When the operating system refuses the handlers or a thread.
pub(crate) fn stop_requested(exit_with_parent: bool) -> Result<impl Future<Output = ()>, Error> {
    let mut signals = StopSignals::catch()?;
    let (orphaned, mut parent_ended) = oneshot::channel();
    if exit_with_parent {
        // Not a task: a runtime waits for its blocking reads before it ends.
        let watch = move || {
            let mut ignored = [0; 512];
            let mut stdin = std::io::stdin().lock();
            loop {
                match stdin.read(&mut ignored) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
            }
            _ = orphaned.send(());
        };
        let thread = std::thread::Builder::new().name("parent".to_owned()).spawn(watch);
        thread.map_err(|error| Error::Failed(format!("cannot start a thread: {error}")))?;
    }
    Ok(async move {
        let why = tokio::select! {
            signal = signals.received() => signal,
            // Fails at once, and is then waited for no more, where nobody watches.
            Ok(()) = &mut parent_ended => "the end of the parent process",
        };
        tracing::info!("stopping on {why}");
    })
}
