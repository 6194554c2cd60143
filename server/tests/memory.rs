//! Memory stays flat under attack. In a binary of its own, for it looks at the whole process, the
//! attackers included.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::*;
use sherd_protocol::message::*;
use sherd_server::Config;
use tokio::io::AsyncWriteExt;

/// More than the process may grow by: far below what the attackers promise or ask for.
const ROOM_BYTES: usize = 96 << 20;

/// The memory that the process has in use.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// Watches the memory while the attack goes on.
struct Watch {
    before: usize,
    peak: usize,
}

impl Watch {
    fn start() -> Self {
        let before = resident_bytes();
        Self { before, peak: before }
    }

    async fn watch_for(&mut self, time: Duration) {
        let end = tokio::time::Instant::now() + time;
        while tokio::time::Instant::now() < end {
            self.peak = self.peak.max(resident_bytes());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn check(&self, attack: &str) {
        let grown = self.peak - self.before;
        println!("{attack}: {} KiB more than before", grown / 1024);
        assert!(grown < ROOM_BYTES, "{attack}: {grown} bytes more than before");
    }
}

/// All in one test, for tests in one process run at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_stays_flat_under_attack() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(dir.path());
    config.limits.total_answer_bytes = 16 << 20;
    config.limits.large_request_bytes = 32 << 20;
    config.limits.small_request_bytes = 8 << 20;
    config.engine.document_cache_bytes = 4 << 20;
    let (shard, mut bystander) = Shard::with_index(config).await;
    let address = shard.address;
    let large = [&[0xc6, 0, 0x10, 0, 0][..], &vec![7; 1 << 20]].concat();
    bystander.write("large", &large).await;
    let few = [&[0xc4, 98][..], &[7; 98]].concat();
    for i in 0..100 {
        bystander.write(&format!("key:{i}"), &few).await;
    }

    // Large frames announced, and a little of each sent: 200 times 16 MiB promised.
    let mut watch = Watch::start();
    let mut attackers = Vec::new();
    for _ in 0..200 {
        let mut attacker = Connection::open(address).await;
        let announced = (16u32 << 20).to_be_bytes();
        attacker.send_raw(&[&announced[..], &[0x92, 1], &[0; 2000]].concat()).await;
        attackers.push(attacker);
    }
    watch.watch_for(Duration::from_millis(300)).await;
    watch.check("frames announced and not sent");
    bystander.write("key:1", &few).await;
    drop(attackers);

    // Nesting bombs and garbage as long as a frame may be.
    let mut watch = Watch::start();
    let mut attackers = Vec::new();
    for bomb in [0x91, 0xc1, 0x00, 0xa0] {
        for _ in 0..2 {
            attackers.push(tokio::spawn(async move {
                let mut attacker = Connection::open(address).await;
                let chunk = vec![bomb; 64 * 1024];
                let announced = (8u32 << 20) + 2;
                attacker.send_raw(&announced.to_be_bytes()).await;
                attacker.send_raw(&[0x92, 1]).await;
                for _ in 0..128 {
                    attacker.send_raw(&chunk).await;
                }
                assert!(matches!(
                    attacker.receive().await.expect("an answer").answer(),
                    ShardAnswer::Error(sherd_protocol::WireError::BadRequest(_))
                ));
            }));
        }
    }
    watch.watch_for(Duration::from_millis(500)).await;
    for attacker in attackers {
        attacker.await.unwrap();
    }
    watch.check("garbage");
    bystander.write("key:1", &few).await;

    // Large documents asked for and never taken: 40 times 100 times 1 MiB.
    for operation in [read("large"), scan()] {
        let mut watch = Watch::start();
        let mut attackers = Vec::new();
        let frame = framed(&Request { id: 1, operation: operation.clone() });
        let many = frame.repeat(100);
        for _ in 0..40 {
            let mut attacker = Connection::open(address).await;
            attacker.stream.write_all(&many).await.unwrap();
            attackers.push(attacker);
        }
        watch.watch_for(Duration::from_millis(500)).await;
        drop(attackers);
        watch.check(&format!("answers not taken, of {operation:?}"));
        bystander.write("large", &large).await;
    }

    // Small requests without end from connections that never read.
    let mut watch = Watch::start();
    let mut attackers = Vec::new();
    for _ in 0..40 {
        attackers.push(tokio::spawn(async move {
            let mut attacker = Connection::open(address).await;
            let operation = write("key:2", b"\xc0", Condition::Any);
            let many = framed(&Request { id: 1, operation }).repeat(100);
            while attacker.stream.write_all(&many).await.is_ok() {}
        }));
    }
    watch.watch_for(Duration::from_secs(1)).await;
    watch.check("requests without end");
    bystander.write("key:1", &few).await;
    for attacker in attackers {
        attacker.abort();
        _ = attacker.await;
    }
    assert_eq!(bystander.read("key:1").await, Some(few));
}

fn scan() -> ShardOperation<'static> {
    ShardOperation::Scan(Scan {
        index: INDEX,
        range: sherd_protocol::Range::FULL,
        after: None,
        limit: u32::MAX,
        keys_only: false,
    })
}
