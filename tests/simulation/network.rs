//! The simulated network, as listener of nodes and as what clients dial over.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use sherd_client::{ConnectOptions, Dial, Dialled, Network, Stream};
use sherd_node::Listener;
use turmoil::net::{TcpListener, TcpStream};

use super::SILENCE_TIME;

/// The port of every node.
pub(crate) const PORT: u16 = 7000;

/// A listener of the host that makes it.
pub(crate) struct Simulated(TcpListener);

impl Simulated {
    pub(crate) async fn bind() -> io::Result<Self> {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await.map(Self)
    }
}

impl Listener for Simulated {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.0.accept().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

struct Dialler;

impl Dial for Dialler {
    fn dial(&self, address: &str) -> Dialled {
        let address = address.to_owned();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

/// Connections over the simulated network; what is lost on it is noticed soon.
pub(crate) fn connect_options() -> ConnectOptions {
    ConnectOptions {
        network: Network::new(Dialler),
        silence_time: SILENCE_TIME,
        ..ConnectOptions::default()
    }
}
