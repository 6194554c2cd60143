//! A move whose source, target or bootstrap is killed exactly at a named step, or which is cancelled
//! there.
//!
//! The process is started with `SHERD_HOLD_AT`, which builds for tests know: it stops at the step and
//! says so. `SHERD_MOVE_KILLS` says how often each step is tried, once unless told.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use sherd_client::{Client, Condition, Options};
use support::{Process, Ran, eventually, run, sherd};

/// The steps at which the source may be killed, and so on.
const SOURCE_STEPS: [&str; 2] = ["source frozen", "source given up"];
const TARGET_STEPS: [&str; 5] =
    ["target copying", "target freezing", "target frozen", "target brought", "target compared"];
const BOOTSTRAP_STEPS: [&str; 5] = [
    "bootstrap beginning",
    "bootstrap copied",
    "bootstrap handing over",
    "bootstrap given up",
    "bootstrap owned",
];

const DOCUMENTS: usize = 300;

/// Two shards and bootstrap, each a process of its own that can be killed and started again.
struct TwoShards {
    dir: tempfile::TempDir,
    processes: [Option<Process>; 3],
    /// Of the processes, once they have listened.
    addresses: [String; 3],
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Node {
    Source = 0,
    Target = 1,
    Bootstrap = 2,
}

impl TwoShards {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let addresses = std::array::from_fn(|_| "127.0.0.1:0".to_owned());
        let mut nodes = Self { dir, processes: [const { None }; 3], addresses };
        for node in [Node::Source, Node::Target] {
            nodes.start_node(node, None);
        }
        let shard = |name: &str, node: Node, start: f64, end: f64| {
            let (host, port) = nodes.addresses[node as usize].rsplit_once(':').unwrap();
            let port: u16 = port.parse().unwrap();
            json!({"name": name, "host": host, "port": port, "size": 1 << 30, "start": start, "end": end})
        };
        let config = json!({"shards": [
            shard("source", Node::Source, 0.0, 0.5),
            shard("target", Node::Target, 0.5, 1.0),
        ]});
        std::fs::write(nodes.dir.path().join("config.json"), config.to_string()).unwrap();
        nodes.start_node(Node::Bootstrap, None);
        nodes
    }

    /// Starts a process, which is to be held at a step.
    fn start_node(&mut self, node: Node, hold_at: Option<&str>) {
        let data = |name: &str| self.dir.path().join(name);
        let port = self.addresses[node as usize].rsplit(':').next().unwrap().to_owned();
        let mut command = sherd();
        match node {
            Node::Source => command.args(["shard", "--port", &port, "--data"]).arg(data("source")),
            Node::Target => command.args(["shard", "--port", &port, "--data"]).arg(data("target")),
            Node::Bootstrap => command
                .args(["bootstrap", "--port", &port, "--data"])
                .arg(data("bootstrap"))
                .arg("--config")
                .arg(data("config.json")),
        };
        if let Some(step) = hold_at {
            command.env("SHERD_HOLD_AT", step);
        }
        let mut process = Process::start(&mut command);
        self.addresses[node as usize] = process.wait_ready().to_string();
        self.processes[node as usize] = Some(process);
    }

    fn kill(&mut self, node: Node) {
        self.processes[node as usize] = None;
    }

    fn try_run(&self, arguments: &[&str], input: &str) -> Ran {
        let bootstrap = &self.addresses[Node::Bootstrap as usize];
        run(sherd().args(["-b", bootstrap]).args(arguments), input)
    }

    fn run(&self, arguments: &[&str]) -> String {
        self.try_run(arguments, "").expect(0)
    }

    fn fill(&self) {
        let mut rows = String::new();
        for i in 0..DOCUMENTS {
            writeln!(rows, "key{i}|{{\"n\": {i}}}").unwrap();
        }
        self.try_run(&["write", "index", "--force"], &rows).expect(0);
    }

    fn wait_held(&self, node: Node, step: &str) {
        let process = self.processes[node as usize].as_ref().unwrap();
        let held = || process.stderr().contains(&format!("held at {step}"));
        assert!(eventually(held), "never at {step}: {}", process.stderr());
    }

    fn nothing_moves(&self) -> bool {
        self.try_run(&["--json", "cluster", "status"], "").stdout.contains("\"moves\": []")
    }

    /// Who owns the first position of the ring.
    fn first_owner(&self) -> String {
        let map: Value = serde_json::from_str(&self.run(&["--json", "map"])).unwrap();
        map["ranges"][0]["shard"].as_str().unwrap().to_owned()
    }

    /// Where the range is after all, it can be written and read, and nothing else has changed.
    fn check(&self, before: &str, what: &str) {
        // All that is there can be read, by way of whoever owns it.
        let there = || self.try_run(&["digest"], "");
        assert!(eventually(|| there().stdout == before), "{what}: {:?}", there());
        let count = || self.run(&["keys", "index"]).lines().count();
        assert_eq!(count(), DOCUMENTS, "{what}");
        let probe = |arguments: &[&str]| self.run(arguments);
        probe(&["write", "index", "probe", "1"]);
        probe(&["write", "index", "test", "1"]);
        probe(&["remove", "index", "probe", "test"]);
        assert_eq!(self.run(&["digest"]), before, "{what}");
    }

    fn data(&self) -> &Path {
        self.dir.path()
    }
}

fn rounds() -> usize {
    std::env::var("SHERD_MOVE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Begins a move with one process to be held at a step, and waits until it is.
fn hold(node: Node, step: &str) -> (TwoShards, String) {
    let mut nodes = TwoShards::start();
    nodes.fill();
    let before = nodes.run(&["digest"]);
    nodes.kill(node);
    nodes.start_node(node, Some(step));
    let connected = || nodes.try_run(&["cluster", "plan", "rebalance"], "").status == 0;
    assert!(eventually(connected), "{step}");
    // The answer may be held with the process.
    let begun = nodes.try_run(&["cluster", "apply", "move", "0", "0.3", "target", "--detach"], "");
    assert!(begun.status == 0, "{step}: {begun:?}");
    nodes.wait_held(node, step);
    (nodes, before)
}

/// Tries each step as often as asked, all steps at the same time: it is mostly waiting.
fn each_step(node: Node, steps: &[&'static str], tried: impl Fn(Node, &str, usize) + Sync) {
    std::thread::scope(|scope| {
        for step in steps {
            scope.spawn(|| (0..rounds()).for_each(|round| tried(node, step, round)));
        }
    });
}

fn killed_at(node: Node, step: &str, round: usize) {
    let what = format!("killed at {step}, round {round}");
    let (mut nodes, before) = hold(node, step);
    nodes.kill(node);
    nodes.start_node(node, None);
    assert!(eventually(|| nodes.nothing_moves()), "{what}");
    assert_eq!(nodes.first_owner(), "target", "{what}");
    nodes.check(&before, &what);
    for (node, name) in [(Node::Source, "source"), (Node::Target, "target")] {
        // The log says the same as what was served.
        nodes.processes[node as usize].as_mut().unwrap().stop();
        let data = nodes.data().join(name);
        run(sherd().args(["verify", "--data"]).arg(data), "").expect(0);
    }
}

#[test]
fn a_move_goes_on_when_the_source_is_killed_at_a_step() {
    each_step(Node::Source, &SOURCE_STEPS, killed_at);
}

#[test]
fn a_move_goes_on_when_the_target_is_killed_at_a_step() {
    each_step(Node::Target, &TARGET_STEPS, killed_at);
}

#[test]
fn a_move_goes_on_when_bootstrap_is_killed_at_a_step() {
    each_step(Node::Bootstrap, &BOOTSTRAP_STEPS, killed_at);
}

/// Cancelled while it is held at a step, a move leaves one owner: the source, or, where it is handed
/// over already, the target.
fn cancelled_at(node: Node, step: &str, round: usize) {
    let what = format!("cancelled at {step}, round {round}");
    let (mut nodes, before) = hold(node, step);
    let cancelled = nodes.try_run(&["cluster", "cancel"], "");
    assert_eq!(cancelled.status, 0, "{what}: {cancelled:?}");
    nodes.kill(node);
    nodes.start_node(node, None);
    assert!(eventually(|| nodes.nothing_moves()), "{what}");
    let owner = nodes.first_owner();
    if ["source given up", "bootstrap given up", "bootstrap owned"].contains(&step) {
        assert_eq!(owner, "target", "{what}");
    } else if step != "bootstrap handing over" {
        assert_eq!(owner, "source", "{what}");
    }
    nodes.check(&before, &what);
}

#[test]
fn a_move_that_is_cancelled_leaves_one_owner() {
    each_step(Node::Source, &SOURCE_STEPS, cancelled_at);
    each_step(Node::Target, &TARGET_STEPS, cancelled_at);
}

/// Whoever cancels can write to the range at once, and not when the freeze has run out.
#[test]
fn a_range_that_is_frozen_is_served_when_its_move_is_cancelled() {
    let (nodes, before) = hold(Node::Target, "target frozen");
    nodes.run(&["cluster", "cancel"]);
    let bootstrap = &nodes.addresses[Node::Bootstrap as usize];
    // Much shorter than a freeze.
    let options = Options { deadline: Duration::from_secs(1), ..Options::default() };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let client = Client::connect(bootstrap, options).await.unwrap();
        let is_frozen = |key: &String| client.position(key).0 < 3_000_000;
        let key = (0..).map(|n| format!("new{n}")).find(is_frozen).unwrap();
        client.write("index", &key, b"\x2a", Condition::Absent).await.unwrap();
        client.remove("index", &key, None).await.unwrap();
    });
    nodes.check(&before, "cancelled while it was frozen");
}

#[test]
fn a_move_that_waits_for_a_shard_says_for_which_and_why() {
    let (mut nodes, before) = hold(Node::Source, "source given up");
    nodes.kill(Node::Source);
    let status = |nodes: &TwoShards| nodes.run(&["cluster", "status"]);
    let is_said = || {
        let status = status(&nodes);
        status.contains("shard \"source\", which is to give the range up")
            && status.contains("connect")
    };
    assert!(eventually(is_said), "{}", status(&nodes));
    nodes.start_node(Node::Source, None);
    assert!(eventually(|| nodes.nothing_moves()), "{}", status(&nodes));
    nodes.check(&before, "the source is back");
}

/// Bootstrap answers while its move is held.
#[test]
fn a_move_that_is_cancelled_while_bootstrap_drives_it_leaves_one_owner() {
    each_step(Node::Bootstrap, &BOOTSTRAP_STEPS, cancelled_at);
}
