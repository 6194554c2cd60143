//! The life of a shard process: open, serve, drain, close.

use std::net::SocketAddr;
use std::sync::Arc;

use sherd_engine::{Engine, Recovery};
use sherd_node::{Listener, Node, blocking};
use sherd_protocol::DEFAULT_MAX_FRAME_BYTES;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::found_at::FoundAt;
use crate::shard::{Service, Shard};

/// Opens the data directory and serves it on `listener` until `shutdown` completes.
///
/// `ready` is called once, when the recovery is done and before the first connection is accepted.
/// After `shutdown`, requests that arrive are refused, those in flight are finished, and the
/// engine is checkpointed and closed.
///
/// # Errors
/// When the directory cannot be opened, and when it cannot be closed cleanly: in particular
/// [`sherd_engine::Error::Poisoned`] when writing had stopped on the way.
pub async fn run(
    listener: impl Listener,
    config: Config,
    ready: impl FnOnce(&Recovery, SocketAddr),
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    check(&config)?;
    let (data, options) = (config.data.clone(), config.engine.clone());
    let opened = done("the recovery", move || Engine::open(&data, options)).await?;
    let opened = opened.map_err(|error| Error::Open { data: config.data.clone(), error })?;
    serve(opened, listener, config, ready, shutdown).await
}

/// Serves an engine that is open already, as [`run`] does, whatever options the config has for it.
///
/// # Errors
/// As [`run`], but for the opening.
pub async fn serve(
    (engine, recovery): (Engine, Recovery),
    listener: impl Listener,
    config: Config,
    ready: impl FnOnce(&Recovery, SocketAddr),
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    check(&config)?;
    let Config { data, engine: _, token, limits, connect } = config;
    let address = listener.local_addr().map_err(Error::Address)?;
    let node = Node::new(limits);
    let found_at = FoundAt::new(&data, address);
    if let Some(held) = engine.assignment()
        && let Some(before) = found_at.elsewhere()
    {
        tracing::warn!(
            "bootstrap found shard {:?} at {before} last, and it listens at {address} now: it is looked \
             for at the address in the map (`sherd map`); start it with --host {} --port {}, unless it \
             has left the cluster and is added anew",
            held.name,
            before.ip(),
            before.port()
        );
    }
    let served = match Shard::new(engine.clone(), node.clone(), token, connect, found_at) {
        Ok(shard) => {
            ready(&recovery, address);
            node.serve(listener, Service(Arc::new(shard)), shutdown).await;
            Ok(())
        }
        Err(label) => Err(Error::HashMethod { data: data.clone(), label }),
    };
    let closed = done("the checkpoint", move || engine.close()).await?;
    served.and(closed.map_err(|error| Error::Close { data, error }))
}

fn check(config: &Config) -> Result<()> {
    match config.limits.frame_bytes {
        limit if limit < DEFAULT_MAX_FRAME_BYTES => Err(Error::FrameLimit { limit }),
        _ => Ok(()),
    }
}

async fn done<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    blocking(work).await.map_err(|_| Error::Panicked { what })
}
