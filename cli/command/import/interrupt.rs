//! The first Ctrl-C stops an import where it is, with a checkpoint; the second one ends it.

use tokio::sync::watch;

use crate::output::say;

/// Whether Ctrl-C was pressed.
pub(super) struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    pub(super) async fn comes(&mut self) {
        if self.0.wait_for(|came| *came).await.is_err() {
            // Nobody listens for it.
            std::future::pending::<()>().await;
        }
    }
}

/// Listens for Ctrl-C; the second one ends the process at once.
pub(super) fn on_interrupt() -> Interrupt {
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            say!("stopping; Ctrl-C again stops at once");
            _ = sender.send(true);
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(130);
        }
    });
    Interrupt(receiver)
}
