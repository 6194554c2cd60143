//! The listener that a shard and bootstrap share: it accepts connections, exchanges hellos, cuts
//! the stream into requests, writes the answers, and bounds everything that a peer can make grow.
//!
//! * [`Node::serve`] runs a [`Handler`] on a listener until told to shut down, then drains.
//! * [`Handler::handle`] gets one request at a time, on the connection's task, and must not block;
//!   it answers through a [`Responder`], at once or later, from any thread.
//! * [`Limits`] names every bound, with its reason.
//!
//! A connection is one task. It reads what is there with one system call, hands out the whole
//! requests, and writes all answers that have gathered with one system call; no task is made per
//! request, and a responder wakes the connection's task only while that sleeps.
//!
//! # Example
//! ```no_run
//! use bytes::Bytes;
//! use sherd_node::{Handler, Limits, Node, Responder};
//! use sherd_protocol::message::{BootstrapAnswer, Hello, Role, Welcome};
//! use sherd_protocol::{PROTOCOL_VERSION, WireError};
//!
//! struct Yes;
//!
//! impl Handler for Yes {
//!     fn welcome(&self, _hello: &Hello) -> Result<Welcome, WireError> {
//!         let (version, role, name) = (PROTOCOL_VERSION, Role::Bootstrap, String::new());
//!         Ok(Welcome { version, role, name, epoch: 0 })
//!     }
//!
//!     fn handle(&self, _operation: Bytes, responder: Responder) {
//!         responder.send(&BootstrapAnswer::Done);
//!     }
//! }
//!
//! # async fn example() -> std::io::Result<()> {
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! Node::new(Limits::default()).serve(listener, Yes, std::future::pending()).await;
//! # Ok(())
//! # }
//! ```

mod blocking;
mod budget;
mod connection;
mod hello;
mod hold;
mod inbound;
mod limits;
mod net;
mod node;
mod outbox;
mod stall;

pub use blocking::blocking;
pub use hello::check_token;
#[doc(hidden)]
pub use hold::{hold_at, is_held_at};
pub use limits::Limits;
pub use net::Listener;
pub use node::{Handler, Node};
pub use outbox::Responder;
