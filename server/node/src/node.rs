//! Accepting connections, and ending them all.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use sherd_protocol::WireError;
use sherd_protocol::frame::Stream;
use sherd_protocol::message::{Hello, Welcome};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::budget::Budget;
use crate::connection::{self, Connection};
use crate::hello;
use crate::limits::{ACCEPT_PAUSE, Limits, MAX_REFUSALS};
use crate::net::Listener;
use crate::outbox::{Outbox, Responder};

/// What a node does with a connection's hello and requests.
pub trait Handler: Send + Sync + 'static {
    /// Says who answers, or why the peer is refused. The protocol's version is checked already;
    /// for the token there is [`crate::check_token`].
    ///
    /// # Errors
    /// What the peer is told before the connection is closed.
    fn welcome(&self, hello: &Hello) -> Result<Welcome, WireError>;

    /// Handles one request: decodes `operation` and answers, now or later. A request that cannot
    /// be decoded is answered [`WireError::BadRequest`].
    ///
    /// Called on the connection's task, one request after the other in the order of their arrival:
    /// it must not block, for the other connections of the thread wait. The bytes are the
    /// request's own, so keeping a part of them keeps this request and nothing else.
    fn handle(&self, operation: Bytes, responder: Responder);
}

/// A listener's connections and their bounds. Cheap to clone: all clones are the same node.
#[derive(Clone)]
pub struct Node {
    shared: Arc<Shared>,
}

/// What the connections of a node share.
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) small: Arc<Budget>,
    pub(crate) large: Arc<Budget>,
    pub(crate) answers: Arc<Budget>,
    /// Set once, before the connections in the registry are told; connections that come to be
    /// afterwards drain from the start.
    draining: watch::Sender<bool>,
    registry: Mutex<Registry>,
}

#[derive(Default)]
struct Registry {
    next: u64,
    /// The connections that said hello, so that all can be told to drain.
    open: HashMap<u64, Arc<Outbox>>,
}

impl Node {
    /// A node that serves nobody yet.
    pub fn new(limits: Limits) -> Self {
        let small = Budget::new(limits.small_request_bytes);
        let large = Budget::new(limits.large_request_bytes);
        let answers = Budget::new(limits.total_answer_bytes);
        let (draining, registry) = (watch::Sender::new(false), Mutex::default());
        Self { shared: Arc::new(Shared { limits, small, large, answers, draining, registry }) }
    }

    /// How many connections are open, from their hello on.
    pub fn connections(&self) -> usize {
        self.shared.registry.lock().open.len()
    }

    /// Bytes of requests in flight and of unsent answers that count towards the limits.
    pub fn bytes_held(&self) -> usize {
        let Shared { small, large, answers, .. } = &*self.shared;
        small.used() + large.used() + answers.used()
    }

    /// Serves `handler` on `listener` until `shutdown` completes. Then no connection is accepted
    /// any more, connections without a hello are closed, requests that arrive are refused as
    /// [`WireError::ShuttingDown`], those in flight are finished and their answers written, and
    /// the connections are closed; what has not finished within [`Limits::drain_time`] is cut. A
    /// node serves once.
    pub async fn serve<H: Handler>(
        &self,
        listener: impl Listener,
        handler: H,
        shutdown: impl Future<Output = ()>,
    ) {
        let handler = Arc::new(handler);
        let mut tasks = JoinSet::new();
        {
            let accepting = self.accept(listener, &handler, &mut tasks);
            tokio::select! {
                biased;
                () = shutdown => {}
                () = accepting => {}
            }
        }
        // The listener is closed here: who connects now is refused at once.
        self.drain();
        let drained = async { while tasks.join_next().await.is_some() {} };
        let drain_time = self.shared.limits.drain_time;
        if timeout(drain_time, drained).await.is_err() {
            tracing::warn!(connections = tasks.len(), ?drain_time, "connections are cut");
            tasks.shutdown().await;
        }
    }

    async fn accept<H: Handler>(
        &self,
        listener: impl Listener,
        handler: &Arc<H>,
        tasks: &mut JoinSet<()>,
    ) {
        let limits = &self.shared.limits;
        let slots = Arc::new(Semaphore::new(limits.connections));
        let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
        loop {
            let accepted = tokio::select! {
                biased;
                // Takes tasks that ended out of the set, which else keeps them.
                Some(ended) = tasks.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a connection's task failed");
                    }
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "no connection can be accepted, trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if let Ok(slot) = Arc::clone(&slots).try_acquire_owned() {
                let (shared, handler) = (Arc::clone(&self.shared), Arc::clone(handler));
                tasks.spawn(async move {
                    match converse(stream, &shared, &*handler).await {
                        Ok(()) => tracing::debug!(%peer, "connection closed"),
                        Err(reason) => tracing::debug!(%peer, %reason, "connection closed"),
                    }
                    drop(slot);
                });
            } else if let Ok(turn) = Arc::clone(&refusals).try_acquire_owned() {
                let limit = limits.connections as u64;
                let error = WireError::Busy { what: "connections".to_owned(), limit };
                let linger_time = limits.linger_time;
                tasks.spawn(async move {
                    hello::refuse(stream, error, linger_time).await;
                    drop(turn);
                });
            }
        }
    }

    /// Tells all connections to finish.
    fn drain(&self) {
        self.shared.draining.send_replace(true);
        self.shared.registry.lock().open.values().for_each(|outbox| outbox.drain());
    }
}

/// A connection's life.
async fn converse<H: Handler>(
    mut stream: impl Stream,
    shared: &Shared,
    handler: &H,
) -> Result<(), connection::Closed> {
    let Limits { hello_time, linger_time, frame_bytes, .. } = shared.limits;
    let mut draining = shared.draining.subscribe();
    let greeting = tokio::select! {
        // Whose hello is there already is answered.
        biased;
        greeting = timeout(hello_time, hello::greet(&mut stream, handler, frame_bytes)) => greeting,
        // Nothing was said to the peer that it might need time to read.
        _ = draining.wait_for(|&draining| draining) => return Ok(()),
    };
    let inbound = greeting.map_err(|_| connection::Closed::TooSlow("hello", hello_time))??;
    if let Some(inbound) = inbound {
        let registered = Registered::new(shared);
        let outbox = Arc::clone(&registered.outbox);
        Connection::new(&mut stream, inbound, handler, shared, registered.id, outbox).run().await?;
    }
    linger(&mut stream, linger_time).await;
    Ok(())
}

async fn linger(stream: &mut impl Stream, time: Duration) {
    hello::linger(stream, time).await;
}

/// A connection's place in the registry, given up on drop, also when the task is cut or panics.
struct Registered<'a> {
    shared: &'a Shared,
    id: u64,
    outbox: Arc<Outbox>,
}

impl<'a> Registered<'a> {
    fn new(shared: &'a Shared) -> Self {
        let outbox = Outbox::new(shared.limits.frame_bytes, Arc::clone(&shared.answers));
        let mut registry = shared.registry.lock();
        registry.next += 1;
        let id = registry.next;
        registry.open.insert(id, Arc::clone(&outbox));
        // Read under the lock: whoever is not seen here sees this connection in the registry.
        if *shared.draining.borrow() {
            outbox.drain();
        }
        drop(registry);
        Self { shared, id, outbox }
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.shared.registry.lock().open.remove(&self.id);
        self.outbox.close();
    }
}
