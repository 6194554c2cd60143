//! The nodes of a cluster, to be killed.

use std::collections::BTreeMap;

use rustix::process::Signal;

use super::{Cluster, signal};

/// The nodes and their process ids as they change.
pub(crate) struct Nodes {
    cluster: Cluster,
    pids: BTreeMap<String, u32>,
}

impl Nodes {
    /// Those of a cluster that was just started.
    pub(crate) fn of(cluster: Cluster) -> Self {
        let members = cluster.members().into_iter();
        let pids = members.map(|member| (member.name, member.pid)).collect();
        Self { cluster, pids }
    }

    /// All of them, bootstrap included.
    pub(crate) fn names(&self) -> Vec<String> {
        self.pids.keys().cloned().collect()
    }

    /// Kills nodes at once, and waits until all are restarted.
    pub(crate) fn kill(&mut self, names: &[String]) {
        for name in names {
            signal(self.pids[name], Signal::KILL);
        }
        for _ in names {
            // In whichever order they come: "restarted NAME pid PID ADDRESS".
            let line = self.cluster.up.wait_for_line("restarted ");
            let words: Vec<_> = line.split_whitespace().collect();
            let [_, name, "pid", pid, _] = words[..] else { panic!("{line}") };
            self.pids.insert(name.to_owned(), pid.parse().expect("a process id"));
        }
    }

    /// As [`Nodes::kill`], where others go on meanwhile.
    pub(crate) async fn kill_apart(mut self, names: Vec<String>) -> Self {
        let killed = tokio::task::spawn_blocking(move || {
            self.kill(&names);
            self
        });
        killed.await.expect("the nodes come back")
    }
}
