//! Holding a process at a named step, for the tests that kill it exactly there.
//!
//! Only in builds with debug assertions: what users run knows nothing of it.

use std::sync::LazyLock;

static HELD_AT: LazyLock<Option<String>> = LazyLock::new(|| {
    // Names the step, in the environment of the process that is to be held.
    if cfg!(debug_assertions) { std::env::var("SHERD_HOLD_AT").ok() } else { None }
});

/// Waits for ever where the process is to be held at this step.
pub async fn hold_at(step: &str) {
    if is_held_at(step) {
        std::future::pending::<()>().await;
    }
}

/// Whether the process is to be held at this step, which is then said on standard error.
pub fn is_held_at(step: &str) -> bool {
    let is_held = HELD_AT.as_deref() == Some(step);
    if is_held {
        tracing::error!("held at {step}");
    }
    is_held
}
