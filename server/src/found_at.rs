//! Where bootstrap found the shard last: the file `FOUND_AT` of the data directory.
//!
//! Bootstrap looks for a shard at the address that the map has, and cannot tell one that listens somewhere
//! else from one that is down. The shard can: it was given an assignment where it listened before.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

const FILE: &str = "FOUND_AT";
const TEMPORARY_FILE: &str = "FOUND_AT.new";

/// Where the shard listens, and whether that is known to be where it is found.
pub(crate) struct FoundAt {
    data: PathBuf,
    here: SocketAddr,
    is_noted: AtomicBool,
}

impl FoundAt {
    /// Of a shard that listens `here`.
    pub(crate) fn new(data: &Path, here: SocketAddr) -> Self {
        Self { data: data.to_owned(), here, is_noted: AtomicBool::new(false) }
    }

    /// Where it was found, if that was elsewhere. What cannot be read is of no use, and no harm.
    pub(crate) fn elsewhere(&self) -> Option<SocketAddr> {
        let found = match fs::read_to_string(self.data.join(FILE)) {
            Ok(found) => found,
            Err(error) => {
                if error.kind() != ErrorKind::NotFound {
                    tracing::debug!(%error, "where the shard was found before is not known");
                }
                return None;
            }
        };
        let found: SocketAddr = found.trim().parse().ok()?;
        // One that listens on all addresses is found at each of them.
        let is_other_host = found.ip() != self.here.ip()
            && !found.ip().is_unspecified()
            && !self.here.ip().is_unspecified();
        (found.port() != self.here.port() || is_other_host).then_some(found)
    }

    /// Whether it is still to be noted that it was found here; asked once.
    pub(crate) fn is_new(&self) -> bool {
        !self.is_noted.swap(true, Ordering::Relaxed)
    }

    /// Notes that it was found here. A crash may lose that, and then nobody is warned.
    pub(crate) fn note(&self) {
        let temporary = self.data.join(TEMPORARY_FILE);
        let written = fs::write(&temporary, format!("{}\n", self.here))
            .and_then(|()| fs::rename(&temporary, self.data.join(FILE)));
        if let Err(error) = written {
            tracing::debug!(%error, "where the shard is found is not remembered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_port_or_host_is_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let at = |address: &str| FoundAt::new(dir.path(), address.parse().unwrap());
        let before = at("127.0.0.1:5050");
        assert_eq!(before.elsewhere(), None, "it was found nowhere");
        assert!(before.is_new() && !before.is_new());
        before.note();
        let found = Some("127.0.0.1:5050".parse().unwrap());
        for (address, elsewhere) in [
            ("127.0.0.1:5050", None),
            ("0.0.0.0:5050", None),
            ("127.0.0.1:5051", found),
            ("0.0.0.0:5051", found),
            ("127.0.0.2:5050", found),
        ] {
            assert_eq!(at(address).elsewhere(), elsewhere, "{address}");
        }
    }
}
