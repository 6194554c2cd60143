//! What connections are made over: TCP, or what a test puts in its place.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use sherd_protocol::frame::Stream;
use tokio::net::TcpStream;

/// The outcome of [`Dial::dial`], once it is there.
pub type Dialled = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send>>;

/// Makes connections over another network than the system's: over a simulated one.
pub trait Dial: Send + Sync {
    /// Connects to `host:port`.
    fn dial(&self, address: &str) -> Dialled;
}

/// What connections are made over. Default: TCP.
#[derive(Clone, Default)]
pub struct Network(Option<Arc<dyn Dial>>);

impl Network {
    /// Another one than TCP.
    pub fn new(dial: impl Dial + 'static) -> Self {
        Self(Some(Arc::new(dial)))
    }

    pub(super) async fn connect(&self, address: &str) -> io::Result<Connected> {
        if let Some(network) = &self.0 {
            return Ok(Connected::Other(network.dial(address).await?));
        }
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connected::Tcp(stream))
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "another network" } else { "TCP" })
    }
}

/// A connection that was made, apart by its type: TCP's calls are direct ones.
pub(super) enum Connected {
    Tcp(TcpStream),
    Other(Box<dyn Stream>),
}
