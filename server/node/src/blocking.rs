//! Work that blocks.

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::{JoinError, spawn_blocking};

/// Does work that blocks, on a thread of its own.
///
/// On a runtime of a single thread it is done in place, so that everything happens in the same order
/// each time: simulations rest on that.
///
/// # Errors
/// When the work panicked, or the runtime is shut down.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => Ok(work()),
        _ => spawn_blocking(work).await,
    }
}
