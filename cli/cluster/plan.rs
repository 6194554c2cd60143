//! Which processes a cluster has: from options on its first start, from then on as stored.

use std::io;
use std::net::{IpAddr, ToSocketAddrs};

use serde::{Deserialize, Serialize};
use sherd_bootstrap::{DEFAULT_HOST, DEFAULT_PORT};
use sherd_client::Policy;

use crate::error::Error;

/// The options of `sherd up` that are fixed by the first start. `None` for those not given.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) shards: Option<u16>,
    pub(crate) host: Option<String>,
    /// 0 for any free port.
    pub(crate) port: Option<u16>,
    pub(crate) size: Option<u64>,
    pub(crate) policy: Option<Policy>,
}

const DEFAULT_SHARDS: u16 = 2;
const DEFAULT_SIZE: u64 = 4 << 30;

/// The processes of a cluster. Serialized, it is a bootstrap config; unmarked shards divide the
/// ring by their sizes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    #[serde(default)]
    pub(crate) bootstrap: Bootstrap,
    pub(crate) shards: Vec<Shard>,
}

/// Where the control process listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bootstrap {
    pub(crate) host: String,
    /// 0, and left out in the config, until it has listened once.
    #[serde(default, skip_serializing_if = "is_unknown")]
    pub(crate) port: u16,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_unknown(port: &u16) -> bool {
    *port == 0
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { host: DEFAULT_HOST.to_owned(), port: DEFAULT_PORT }
    }
}

impl Bootstrap {
    /// The address as `HOST:PORT`, with brackets around an IPv6 host.
    pub(crate) fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// A shard and where it listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shard {
    pub(crate) name: String,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) policy: Policy,
    pub(crate) host: String,
    /// 0 until it has listened once.
    pub(crate) port: u16,
}

impl Plan {
    /// The plan of a first start.
    ///
    /// # Errors
    /// When the options make no cluster.
    pub(crate) fn new(options: &Options) -> Result<Self, Error> {
        let host = options.host.clone().unwrap_or_else(|| DEFAULT_HOST.to_owned());
        let count = options.shards.unwrap_or(DEFAULT_SHARDS);
        let size = options.size.unwrap_or(DEFAULT_SIZE);
        let policy = options.policy.unwrap_or_default();
        let first = options.port.unwrap_or(DEFAULT_PORT);
        if host.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified()) {
            return Err(Error::Usage(format!(
                "--host {host} is no address that clients can connect to: give one of this machine's"
            )));
        }
        let port = |offset: u16| match first {
            0 => Some(0),
            first => first.checked_add(offset),
        };
        let shards = (0..count).map(|number| {
            let port = port(number + 1)?;
            let (name, host) = (format!("shard{number}"), host.clone());
            Some(Shard { name, size, policy, host, port })
        });
        let shards = shards.collect::<Option<_>>().ok_or_else(|| {
            Error::Usage(format!("--port {first} leaves no ports for {count} shards above it"))
        })?;
        Ok(Self { bootstrap: Bootstrap { host, port: first }, shards })
    }

    /// A stored plan.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        sherd_bootstrap::ClusterConfig::parse(text).map_err(|error| error.to_string())?;
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// The plan as a bootstrap config.
    ///
    /// # Errors
    /// None in practice: those of serialization.
    pub(crate) fn to_json(&self) -> io::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Checks that the options given now say nothing else than the plan.
    ///
    /// # Errors
    /// The first option that does, with both values.
    pub(crate) fn check(&self, options: &Options) -> Result<(), Error> {
        let contradicts = |option: &str, given: &dyn std::fmt::Display, stored: String| {
            let change = match option {
                "size" | "policy" => "; `sherd shard set` changes it",
                _ => "",
            };
            Err(Error::Usage(format!(
                "--{option} {given} contradicts the cluster's {stored}, which it was made with: \
                 leave --{option} out, or make another cluster with another --data{change}"
            )))
        };
        if let Some(given) = options.shards
            && usize::from(given) != self.shards.len()
        {
            return contradicts("shards", &given, format!("{} shards", self.shards.len()));
        }
        if let Some(given) = &options.host
            && *given != self.bootstrap.host
        {
            return contradicts("host", given, format!("host {}", self.bootstrap.host));
        }
        if let Some(given) = options.port
            && ![0, self.bootstrap.port].contains(&given)
        {
            return contradicts("port", &given, format!("port {}", self.bootstrap.port));
        }
        if let Some(given) = options.size
            && let Some(shard) = self.shards.iter().find(|shard| shard.size != given)
        {
            return contradicts("size", &given, format!("size {} of {}", shard.size, shard.name));
        }
        if let Some(given) = options.policy
            && let Some(shard) = self.shards.iter().find(|shard| shard.policy != given)
        {
            let stored = format!("policy {} of {}", shard.policy, shard.name);
            return contradicts("policy", &given, stored);
        }
        Ok(())
    }

    /// Every address the cluster will listen on, with the name of the process, except where the
    /// port is still to be found.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = (&str, &str, u16)> {
        let bootstrap = ("bootstrap", self.bootstrap.host.as_str(), self.bootstrap.port);
        let shards = self.shards.iter().map(|s| (s.name.as_str(), s.host.as_str(), s.port));
        std::iter::once(bootstrap).chain(shards).filter(|&(_, _, port)| port != 0)
    }

    /// Tries whether the ports are free, so that a clash is told before anything is started.
    ///
    /// # Errors
    /// The first that is not, with the name of the process.
    pub(crate) fn check_ports(&self) -> Result<(), Error> {
        self.addresses().try_for_each(|(name, host, port)| {
            let bind = || {
                let addresses: Vec<_> = (host, port).to_socket_addrs()?.collect();
                std::net::TcpListener::bind(&addresses[..])
            };
            bind().map(drop).map_err(|error| Error::Listen {
                address: format!("{host}:{port} for {name}"),
                error,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ports_follow_the_first() {
        let plan = Plan::new(&Options { port: Some(7000), ..Options::default() }).unwrap();
        let addresses: Vec<_> = plan.addresses().collect();
        assert_eq!(
            addresses,
            [
                ("bootstrap", "127.0.0.1", 7000),
                ("shard0", "127.0.0.1", 7001),
                ("shard1", "127.0.0.1", 7002)
            ]
        );
        let free = Plan::new(&Options { port: Some(0), ..Options::default() }).unwrap();
        assert_eq!(free.addresses().count(), 0);
    }

    #[test]
    fn options_that_make_no_cluster_are_wrong_usage() {
        for options in [
            Options { port: Some(65_535), ..Options::default() },
            Options { host: Some("0.0.0.0".to_owned()), ..Options::default() },
            Options { host: Some("::".to_owned()), ..Options::default() },
        ] {
            let error = Plan::new(&options).unwrap_err();
            assert_eq!(error.exit_status(), 2, "{error}");
        }
    }

    #[test]
    fn options_that_contradict_the_stored_plan_are_refused_with_both_values() {
        let plan = Plan::new(&Options::default()).unwrap();
        let default = Options::default();
        for (options, given, stored) in [
            (Options { shards: Some(3), ..default.clone() }, "--shards 3", "2 shards"),
            (Options { host: Some("h".into()), ..default.clone() }, "--host h", "host 127.0.0.1"),
            (Options { port: Some(1), ..default.clone() }, "--port 1", "port 9192"),
            (Options { size: Some(1), ..default.clone() }, "--size 1", "size 4294967296"),
            (
                Options { policy: Some(Policy::Lru), ..default.clone() },
                "--policy lru",
                "policy reject",
            ),
        ] {
            let error = plan.check(&options).unwrap_err();
            assert_eq!(error.exit_status(), 2);
            let error = error.to_string();
            assert!(error.contains(given) && error.contains(stored), "{error}");
        }
        for agreeing in [
            default.clone(),
            Options { port: Some(0), ..default.clone() },
            Options { port: Some(9192), shards: Some(2), ..default },
        ] {
            plan.check(&agreeing).unwrap();
        }
    }

    #[test]
    fn a_port_in_use_is_named_with_its_process() {
        let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let mut plan = Plan::new(&Options { port: Some(0), ..Options::default() }).unwrap();
        plan.shards[1].port = port;
        let error = plan.check_ports().unwrap_err().to_string();
        assert!(error.contains(&format!("127.0.0.1:{port} for shard1")), "{error}");
    }
}
