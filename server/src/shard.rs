//! What the operations share, and the choice of the operation for a request.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use sherd_client::ConnectOptions;
use sherd_engine::{Engine, IndexId};
use sherd_node::{Handler, Node, Responder, blocking, check_token};
use sherd_protocol::message::{Hello, Role, ShardOperation, Welcome};
use sherd_protocol::{HashMethod, PROTOCOL_VERSION, Position, WireError, frame, name};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::found_at::FoundAt;
use crate::operation::{self, MAX_SCANS_AT_ONCE};
use crate::parked::{self, Parked};
use crate::receiver::Receiver;

/// What the operations of a shard share.
pub(crate) struct Shard {
    pub(crate) engine: Engine,
    /// For its number of connections.
    pub(crate) node: Node,
    token: Option<String>,
    /// How keys become positions: known from the first assignment on, and fixed from then on.
    method: OnceLock<HashMethod>,
    /// One permit for each page, or sum of a range, that may be read at a time.
    reads: Arc<Semaphore>,
    /// What takes ranges over from other shards.
    pub(crate) receiver: Receiver,
    /// Changes that wait for a moment.
    pub(crate) parked: Parked,
    /// How many requests of clients there were.
    served: Arc<AtomicU64>,
    /// Where it listens.
    pub(crate) found_at: Arc<FoundAt>,
    /// For what an answer from the sequencer's thread must do elsewhere.
    pub(crate) runtime: Handle,
}

impl Shard {
    /// # Errors
    /// The label of the hash method that the data directory has, if it is not known.
    pub(crate) fn new(
        engine: Engine,
        node: Node,
        token: Option<String>,
        connect: ConnectOptions,
        found_at: FoundAt,
    ) -> Result<Self, String> {
        let method = OnceLock::new();
        if let Some(assignment) = engine.assignment() {
            let label = &assignment.hash_method;
            _ = method.set(label.parse().map_err(|_| label.clone())?);
        }
        let reads = Arc::new(Semaphore::new(MAX_SCANS_AT_ONCE));
        let served = Arc::new(AtomicU64::new(0));
        let receiver = Receiver::new(
            engine.clone(),
            ConnectOptions { client: "sherd-shard".to_owned(), token: token.clone(), ..connect },
            Arc::clone(&served),
        );
        let (parked, runtime) = (Parked::default(), Handle::current());
        let found_at = Arc::new(found_at);
        Ok(Self { engine, node, token, method, reads, receiver, parked, served, found_at, runtime })
    }

    /// The position of a key.
    ///
    /// # Errors
    /// [`WireError::WrongShard`] of epoch 0 before the first assignment.
    pub(crate) fn position(&self, key: &str) -> Result<Position, WireError> {
        let method = match self.method.get() {
            Some(method) => *method,
            None => self.learn_method()?,
        };
        Ok(method.position(key))
    }

    #[cold]
    fn learn_method(&self) -> Result<HashMethod, WireError> {
        let unassigned = WireError::WrongShard { epoch: 0 };
        let assignment = self.engine.assignment().ok_or(unassigned)?;
        let method = assignment.hash_method.parse();
        let method = method.map_err(|what: String| WireError::Internal { what })?;
        Ok(*self.method.get_or_init(|| method))
    }

    /// The id of an index.
    ///
    /// # Errors
    /// When the name is not allowed or there is no such index, and [`WireError::WrongShard`] of
    /// epoch 0 before the first assignment.
    pub(crate) fn index(&self, index: &str) -> Result<IndexId, WireError> {
        match self.engine.index_id(index) {
            Some(id) => Ok(id),
            None => Err(self.no_such_index(index)),
        }
    }

    #[cold]
    fn no_such_index(&self, index: &str) -> WireError {
        if let Err(error) = name::check_index(index) {
            return WireError::bad_request("index", error);
        }
        if self.engine.assignment().is_none() {
            // It knows of no cluster, so it must not say what the cluster does not have.
            return WireError::WrongShard { epoch: 0 };
        }
        WireError::IndexNotFound { index: index.to_owned() }
    }

    /// The engine's key for a key in `body`, without copying it.
    ///
    /// # Errors
    /// When the length is not allowed, and as [`Shard::position`].
    pub(crate) fn key(&self, body: &Bytes, key: &str) -> Result<sherd_engine::Key, WireError> {
        name::check_key(key).map_err(|error| WireError::bad_request("key", error))?;
        let position = self.position(key)?.0;
        Ok(sherd_engine::Key { position, bytes: body.slice_ref(key.as_bytes()) })
    }

    /// Does work that reads much and answers, on a blocking thread, a few at a time over all
    /// connections. `bytes` is about how long the answer gets.
    pub(crate) fn read(
        &self,
        mut responder: Responder,
        bytes: usize,
        work: impl FnOnce(&Engine, Responder) + Send + 'static,
    ) {
        responder.reserve(bytes);
        let (engine, turns) = (self.engine.clone(), Arc::clone(&self.reads));
        self.runtime.spawn(async move {
            // The semaphore is never closed. A responder that is dropped answers all the same.
            let Ok(turn) = turns.acquire_owned().await else { return };
            let done = blocking(move || {
                work(&engine, responder);
                drop(turn);
            });
            if let Err(error) = done.await {
                tracing::error!(%error, "reading for an answer failed");
            }
        });
    }
}

/// A shard as the node sees it.
pub(crate) struct Service(pub(crate) Arc<Shard>);

impl Handler for Service {
    fn welcome(&self, hello: &Hello) -> Result<Welcome, WireError> {
        check_token(self.0.token.as_deref(), hello)?;
        let assignment = self.0.engine.assignment();
        let (name, epoch) =
            assignment.map_or_else(Default::default, |held| (held.name.clone(), held.epoch));
        Ok(Welcome { version: PROTOCOL_VERSION, role: Role::Shard, name, epoch })
    }

    fn handle(&self, body: Bytes, mut responder: Responder) {
        match frame::decode(&body) {
            Ok(operation) => {
                if parked::is_frozen(&self.0, &operation) {
                    match Parked::park(self, &body, responder) {
                        Ok(()) => return,
                        Err(refused) => responder = refused,
                    }
                }
                self.dispatch(&body, operation, responder);
            }
            Err(error) => responder.refuse(&WireError::bad_request("operation", error)),
        }
    }
}

impl Service {
    /// Executes a request, whatever is frozen.
    pub(crate) fn execute(&self, body: &Bytes, responder: Responder) {
        match frame::decode(body) {
            Ok(operation) => self.dispatch(body, operation, responder),
            Err(error) => responder.refuse(&WireError::bad_request("operation", error)),
        }
    }

    fn dispatch(&self, body: &Bytes, operation: ShardOperation<'_>, responder: Responder) {
        let shard = &*self.0;
        if is_of_client(&operation) {
            shard.served.fetch_add(1, Ordering::Relaxed);
        }
        match operation {
            ShardOperation::Write(write) => operation::write(shard, body, &write, responder),
            ShardOperation::Read(read) => operation::read(shard, body, read, responder),
            ShardOperation::Has(has) => operation::has(shard, body, has, responder),
            ShardOperation::Pop(pop) => operation::pop(shard, body, pop, responder),
            ShardOperation::Remove(remove) => operation::remove(shard, body, &remove, responder),
            ShardOperation::Touch(touch) => operation::touch(shard, body, touch, responder),
            ShardOperation::Batch(batch) => operation::batch(shard, body, &batch, responder),
            ShardOperation::Scan(scan) => operation::scan(shard, body, &scan, responder),
            ShardOperation::Stat => operation::stat(shard, responder),
            ShardOperation::Digests => operation::digests(shard, responder),
            ShardOperation::Buckets => operation::buckets(shard, responder),
            ShardOperation::Source(source) => operation::source(shard, body, &source, responder),
            ShardOperation::Cut(asked) => operation::cut(shard, asked, responder),
            ShardOperation::Target(target) => operation::target(shard, &target, responder),
            ShardOperation::Assign(assign) => operation::assign(shard, assign, responder),
            ShardOperation::Lock(lock) => operation::lock(shard, lock, responder),
            ShardOperation::Release(lock) => operation::release(shard, lock, responder),
            ShardOperation::CreateIndex(index) => {
                operation::create_index(shard, index, responder);
            }
            ShardOperation::SetIndex(set) => operation::set_index(shard, set, responder),
            ShardOperation::DropIndex(index) => operation::drop_index(shard, index, responder),
            ShardOperation::SetSize(set) => operation::set_size(shard, set, responder),
        }
    }
}

/// Whether it is one that clients wait for, and many of them in a second.
fn is_of_client(operation: &ShardOperation<'_>) -> bool {
    use ShardOperation::{Batch, Has, Pop, Read, Remove, Scan, Touch, Write};
    matches!(
        operation,
        Write(_) | Read(_) | Has(_) | Pop(_) | Remove(_) | Touch(_) | Batch(_) | Scan(_)
    )
}
