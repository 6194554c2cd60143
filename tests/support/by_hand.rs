//! A cluster without a supervisor.

use std::path::Path;

use serde_json::json;

use super::{Process, sherd};

/// Three shards put together by hand, whose keys lie by another hash than those of `sherd up`.
pub(crate) struct ByXxh3 {
    pub(crate) address: String,
    _processes: Vec<Process>,
}

impl ByXxh3 {
    pub(crate) fn start(dir: &Path) -> Self {
        let mut processes = Vec::new();
        let mut shards = Vec::new();
        for i in 0..3 {
            let data = dir.join(format!("shard{i}"));
            let mut shard =
                Process::start(sherd().args(["shard", "--port", "0", "--data"]).arg(data));
            let port = shard.wait_ready().port();
            shards.push(json!({
                "name": format!("s{i}"), "size": 1 << 30, "host": "127.0.0.1", "port": port
            }));
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
