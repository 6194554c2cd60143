//! How long a shard is away after a kill -9: `cargo bench --bench restart [-- DOCUMENTS]`.
//!
//! Loads a million documents of 128 bytes (or as many as named) into a cluster of one shard, kills
//! the shard, waits until its supervisor has it serving again, and reads documents back; five
//! times.

#![allow(clippy::expect_used, reason = "a benchmark that cannot go on has nothing to report")]

mod common;
#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use common::{DOCUMENT_BYTES, document, key, load};
use rustix::process::Signal;
use sherd_client::{Client, Options};
use support::Cluster;

const INDEX: &str = "restart";

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let documents = numbers.next().unwrap_or(1_000_000);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(run(documents));
}

async fn run(documents: u64) {
    let mut cluster = Cluster::start_with(["--port", "0", "--shards", "1"]);
    let mut pid = cluster.members().iter().find(|m| m.name == "shard0").expect("the shard").pid;
    let options = Options { deadline: Duration::from_secs(120), ..Options::default() };
    let client = Client::connect(&cluster.address.to_string(), options).await.expect("it serves");
    client.create_index(INDEX).await.expect("a new index");
    let begun = Instant::now();
    load(&client, INDEX, (0..documents).map(key)).await;
    let rate = documents as f64 / begun.elapsed().as_secs_f64();
    println!("{documents} documents of {DOCUMENT_BYTES} bytes written, {rate:.0} per second");

    for round in 1..=5 {
        support::signal(pid, Signal::KILL);
        let begun = Instant::now();
        let line = cluster.up.wait_for_line("restarted shard0 ");
        let serving = begun.elapsed();
        pid = line.split_whitespace().nth(3).and_then(|pid| pid.parse().ok()).expect("a pid");
        for i in (0..documents).step_by((documents / 100).max(1) as usize) {
            let found = client.read(INDEX, &key(i)).await.expect("a read");
            assert_eq!(found.map(|found| found.bytes), Some(document()), "{}", key(i));
        }
        let stat = client.stat().await.remove(0).stat.expect("a stat");
        assert_eq!(stat.documents, documents);
        println!("kill -9, round {round}: serving again after {:.2} s", serving.as_secs_f64());
    }
}
