//! Nodes without a supervisor.

use std::path::Path;

use serde_json::json;

use super::{Process, sherd};

/// Starts a shard that waits for its first assignment, or goes on with what is in the directory.
pub(crate) fn start_shard(data: &Path) -> Process {
    Process::start(sherd().args(["shard", "--port", "0", "--data"]).arg(data))
}

/// A shard that waits for its first assignment.
pub(crate) struct Spare {
    pub(crate) process: Process,
    pub(crate) address: String,
    _dir: tempfile::TempDir,
}

impl Spare {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut process = start_shard(&dir.path().join("data"));
        let address = process.wait_ready().to_string();
        Self { process, address, _dir: dir }
    }
}

/// Shards put together by hand, whose keys lie by another hash than those of `sherd up`.
pub(crate) struct ByXxh3 {
    pub(crate) address: String,
    _processes: Vec<Process>,
}

impl ByXxh3 {
    pub(crate) fn start(dir: &Path, names: &[&str]) -> Self {
        let mut processes = Vec::new();
        let mut shards = Vec::new();
        for (i, name) in names.iter().enumerate() {
            let mut shard = start_shard(&dir.join(format!("shard{i}")));
            let port = shard.wait_ready().port();
            shards.push(json!({"name": name, "size": 1 << 30, "host": "127.0.0.1", "port": port}));
            processes.push(shard);
        }
        let config = dir.join("config.json");
        let text = json!({ "shards": shards, "hash_method": "xxh3" }).to_string();
        std::fs::write(&config, text).expect("it is written");
        let mut bootstrap = Process::start(
            sherd()
                .args(["bootstrap", "--port", "0", "--data"])
                .arg(dir.join("bootstrap"))
                .arg("--config")
                .arg(config),
        );
        let address = bootstrap.wait_ready().to_string();
        processes.push(bootstrap);
        Self { address, _processes: processes }
    }
}
