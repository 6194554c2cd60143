//! Where connections come from: TCP, or what a test puts in its place.

use std::io;
use std::net::SocketAddr;

use sherd_protocol::frame::Stream;
use tokio::net::{TcpListener, TcpStream};

/// Accepts connections. A node is served on a [`TcpListener`]; a simulated network has its own.
pub trait Listener: Send + Sync + 'static {
    /// A connection.
    type Stream: Stream;

    /// Waits for a connection; says whose it is.
    ///
    /// # Errors
    /// Why none can be accepted now.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = self.accept().await?;
        if let Err(error) = stream.set_nodelay(true) {
            // Of a connection that is gone: reading it will say so.
            tracing::debug!(%peer, %error, "small answers may be delayed");
        }
        Ok((stream, peer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }
}
