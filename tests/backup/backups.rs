//! Directories of backups, and the clusters that they are of.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::support::{Cluster, Ran, run, sherd};

/// A directory for backups.
pub(super) struct Backups(tempfile::TempDir);

impl Backups {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn path(&self) -> PathBuf {
        self.0.path().join("backups")
    }

    /// `sherd backup DIR`, as fast as it goes.
    pub(super) fn command(&self, cluster: &Cluster, options: &[&str]) -> std::process::Command {
        let mut command = cluster.command(["--json", "backup"]);
        command.arg(self.path()).args(options);
        command
    }

    #[track_caller]
    pub(super) fn take(&self, cluster: &Cluster) -> Value {
        let taken = run(&mut self.command(cluster, &["--share", "100"]), "").expect(0);
        serde_json::from_str(&taken).unwrap()
    }

    pub(super) fn verify(&self) -> Ran {
        run(sherd().args(["backup", "verify"]).arg(self.path()), "")
    }

    pub(super) fn list(&self) -> Vec<Value> {
        let listed = run(sherd().args(["--json", "backup", "list"]).arg(self.path()), "").expect(0);
        listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(super) fn restore(&self, address: &str, options: &[&str]) -> Ran {
        let mut command = sherd();
        command.args(["-b", address, "restore"]).arg(self.path()).args(options);
        run(&mut command, "")
    }

    /// What a backup says of itself.
    pub(super) fn says(&self, backup: &Value) -> Value {
        let path = self.path().join(backup["backup"].as_str().unwrap()).join("BACKUP.json");
        let says: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        says["backup"].clone()
    }

    /// Its files, but for the lock.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let (mut dirs, mut files) = (vec![self.path()], Vec::new());
        while let Some(dir) = dirs.pop() {
            // It may be removed just now.
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                let is_lock = path.file_name().is_some_and(|name| name == "LOCK");
                if path.is_dir() {
                    dirs.push(path);
                } else if !is_lock {
                    files.push(path);
                }
            }
        }
        files.sort();
        files
    }
}

/// Three indexes: one with limits that are not met, one whose documents expire one day, an empty one.
pub(super) fn fill(cluster: &Cluster, documents: usize) {
    cluster
        .run(["index", "create", "bounded", "--max-documents", "100000", "--policy", "lru"])
        .expect(0);
    cluster.run(["index", "create", "mortal", "--ttl", "7d"]).expect(0);
    cluster.run(["index", "create", "empty"]).expect(0);
    for index in ["bounded", "mortal"] {
        let mut rows = String::new();
        for i in 0..documents {
            let text = "x".repeat(i % 90);
            writeln!(rows, "{index}{i}|{{\"n\": {i}, \"text\": \"{text}\"}}").unwrap();
        }
        cluster.feed(["write", index], rows).expect(0);
    }
    // Some are overwritten, some go.
    cluster.feed(["write", "bounded", "--overwrite"], "bounded3|3\nbounded4|\"four\"\n").expect(0);
    cluster.run(["remove", "mortal", "mortal5"]).expect(0);
}

/// The settings of each index.
pub(super) fn settings(cluster: &Cluster) -> BTreeMap<String, Value> {
    let listed = cluster.run(["--json", "index", "list"]).expect(0);
    let of_line = |line: &str| {
        let mut index: Value = serde_json::from_str(line).unwrap();
        index["id"].take();
        (index["name"].as_str().unwrap().to_owned(), index)
    };
    listed.lines().map(of_line).collect()
}

pub(super) fn digest(address: &str) -> Value {
    let ran = run(sherd().args(["--json", "-b", address, "digest"]), "").expect(0);
    serde_json::from_str(&ran).unwrap()
}

pub(super) fn milliseconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// A write of a new key, in milliseconds since 1970.
pub(super) struct Written {
    pub(super) key: String,
    pub(super) begun: u64,
    /// When it was acknowledged.
    pub(super) done: u64,
}
