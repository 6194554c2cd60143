//! A node's address and the few connections kept to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;
use sherd_protocol::message::Role;
use tokio::time::{Instant, timeout_at};

use crate::connection::{ConnectOptions, Connection, node_name};
use crate::error::Error;
use crate::single_flight::SingleFlight;

/// A node that the client talks to. Connections are made when first needed, and again after they
/// have ended.
pub(crate) struct Peer {
    pub(crate) address: String,
    role: Role,
    /// The shard's name in the map; empty for bootstrap.
    name: String,
    options: Arc<ConnectOptions>,
    slots: Vec<Slot>,
    next: AtomicUsize,
}

#[derive(Default)]
struct Slot {
    connection: Mutex<Option<Connection>>,
    connecting: SingleFlight,
}

impl Peer {
    pub(crate) fn new(
        address: String,
        role: Role,
        name: String,
        options: Arc<ConnectOptions>,
        connections: usize,
    ) -> Self {
        let slots = (0..connections.max(1)).map(|_| Slot::default()).collect();
        Self { address, role, name, options, slots, next: AtomicUsize::new(0) }
    }

    /// The node as people look for it.
    pub(crate) fn node(&self) -> String {
        node_name(self.role, &self.name, &self.address)
    }

    /// Whether this is the shard `name` at `address`.
    pub(crate) fn is(&self, name: &str, address: &str) -> bool {
        self.name == name && self.address == address
    }

    /// One of the connections, in turn.
    pub(crate) async fn connection(&self, deadline: Instant) -> Result<Connection, Error> {
        let slot = &self.slots[self.next.fetch_add(1, Relaxed) % self.slots.len()];
        if let Some(connection) = slot.open_connection() {
            return Ok(connection);
        }
        let connecting = slot.connecting.run(async || {
            if slot.open_connection().is_none() {
                let connection = Connection::open(&self.address, &self.options).await;
                let connection = connection.map_err(|error| self.named(error))?;
                self.check(&connection)?;
                *slot.connection.lock() = Some(connection);
            }
            Ok(())
        });
        timeout_at(deadline, connecting).await.map_err(|_| Error::Connect {
            node: self.node(),
            reason: "the deadline passed".to_owned(),
        })??;
        slot.open_connection().ok_or_else(|| Error::NotSent {
            node: self.node(),
            reason: "the connection ended at once".to_owned(),
        })
    }

    /// Uses `connection` no more for new requests: it was silent while a request passed its
    /// deadline, and a new one tells whether the node is still there. Requests under way stay.
    pub(crate) fn retire(&self, connection: &Connection) {
        for slot in &self.slots {
            let mut kept = slot.connection.lock();
            if kept.as_ref().is_some_and(|kept| kept.is_same(connection)) {
                *kept = None;
            }
        }
    }

    /// Whoever listens at the address must be the node that is looked for: after a shard has
    /// moved, another cluster may have its port.
    fn check(&self, connection: &Connection) -> Result<(), Error> {
        let welcome = connection.welcome();
        // A shard that waits for its first assignment has no name yet; it refuses keys.
        let is_named = welcome.name.is_empty() || welcome.name == self.name;
        if welcome.role == self.role && (self.role == Role::Bootstrap || is_named) {
            return Ok(());
        }
        let describe = |role: Role, name: &str| match role {
            Role::Bootstrap => "a bootstrap".to_owned(),
            Role::Shard if name.is_empty() => "a shard".to_owned(),
            Role::Shard => format!("shard {name}"),
        };
        Err(Error::WrongNode {
            address: self.address.clone(),
            expected: describe(self.role, &self.name),
            found: describe(welcome.role, &welcome.name),
        })
    }

    fn named(&self, error: Error) -> Error {
        match error {
            Error::Connect { reason, .. } => Error::Connect { node: self.node(), reason },
            Error::Refused { error, .. } => Error::Refused { node: self.node(), error },
            other => other,
        }
    }
}

impl Slot {
    fn open_connection(&self) -> Option<Connection> {
        let connection = self.connection.lock();
        connection.as_ref().filter(|connection| !connection.is_closed()).cloned()
    }
}
