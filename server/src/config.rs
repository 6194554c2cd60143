//! What a shard process is told when it starts.

use std::path::PathBuf;

use sherd_client::ConnectOptions;
use sherd_engine::Options;
use sherd_node::Limits;

/// What a shard process is told when it starts. Name, ranges and size are not among it: bootstrap
/// assigns them, and the data directory remembers.
#[derive(Clone, Debug)]
pub struct Config {
    /// The data directory; made if it is not there.
    pub data: PathBuf,
    /// The engine's options.
    pub engine: Options,
    /// The secret that a hello must show. Default: none, everyone is welcome.
    pub token: Option<String>,
    /// The bounds on what peers can make the process hold. The longest frame is at least the
    /// default one: what was stored must fit the answer to a read.
    pub limits: Limits,
    /// How it connects to a shard that it takes a range over from; as whom, and the token, are its own.
    pub connect: ConnectOptions,
}

impl Config {
    /// The defaults, for a data directory.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            engine: Options::default(),
            token: None,
            limits: Limits::default(),
            connect: ConnectOptions::default(),
        }
    }
}
