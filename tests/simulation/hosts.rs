//! The hosts of a simulation: a bootstrap, shards with their disks, and clients.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sherd_bootstrap::ClusterConfig;
use sherd_client::{Client, Options};
use sherd_engine::fs::SimFs;
use sherd_engine::index::{IndexStore, MemoryStore};
use sherd_engine::{Clock, Engine};
use sherd_server::Config;
use turmoil::Sim;

use super::network::{PORT, Simulated, connect_options};

/// The host of bootstrap.
pub(crate) const BOOTSTRAP: &str = "bootstrap";

/// The hosts of the shards: the last is not in the cluster at the beginning.
pub(crate) const SHARDS: [&str; 3] = ["one", "two", "three"];

/// How often a shard checkpoints, removes what it has given up, and compacts a segment.
const UPKEEP_INTERVAL: Duration = Duration::from_millis(700);

/// Some records.
const LOST_BYTES: usize = 1500;

/// More than the header of a segment takes.
const HEADER_BYTES: usize = 128;

/// What of a shard outlives its process.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    fs: SimFs,
    index: MemoryStore,
}

impl Disk {
    /// What a power loss leaves: of what was not synced, some. Nothing may have it open.
    pub(crate) fn lose_power(&self, rng: &mut StdRng) {
        let kept = rng.random();
        self.fs.crash(|| rng.random_bool(kept));
        self.index.crash(rng.random());
    }

    /// The end of the log is gone, as from a disk that had said that it was synced; and the index, which may
    /// have some of it.
    pub(crate) fn lose_end_of_log(&self) {
        let logs =
            self.fs.paths().into_iter().filter(|path| path.extension() == Some("log".as_ref()));
        let Some(last) = logs.max() else { return };
        let mut bytes = self.fs.bytes(&last).expect("it is there");
        // Behind what was written there are zeros.
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let begin = end.saturating_sub(LOST_BYTES).max(HEADER_BYTES).min(end);
        bytes[begin..end].fill(0);
        self.fs.damage(&last, bytes);
        _ = self.index.discard();
    }
}

/// The time of day of all shards.
#[derive(Clone, Default)]
pub(crate) struct Time(Arc<AtomicU64>);

impl Time {
    pub(crate) fn set(&self, since: Duration) {
        self.0.store(since.as_millis() as u64, Ordering::Relaxed);
    }
}

/// Adds a bootstrap that keeps its state in a directory.
pub(crate) fn add_bootstrap(sim: &mut Sim<'_>, data: &Path) {
    let shard = |name: &str| {
        format!(r#"{{"name": "{name}", "size": 1073741824, "host": "{name}", "port": {PORT}}}"#)
    };
    let shards: Vec<_> = SHARDS[..2].iter().map(|name| shard(name)).collect();
    let config = format!(r#"{{"shards": [{}]}}"#, shards.join(", "));
    let config = ClusterConfig::parse(&config).expect("it is one");
    let data = data.to_owned();
    sim.host(BOOTSTRAP, move || {
        let (config, data) = (config.clone(), data.clone());
        async move {
            let mut options = sherd_bootstrap::Options::new(data);
            options.connect = connect_options();
            let listener = Simulated::bind().await?;
            sherd_bootstrap::run(listener, config, options, |_| (), std::future::pending()).await?;
            Ok(())
        }
    });
}

/// Adds a shard with its disk.
pub(crate) fn add_shard(sim: &mut Sim<'_>, name: &'static str, disk: &Disk, time: &Time) {
    let (disk, time) = (disk.clone(), time.clone());
    sim.host(name, move || {
        let (disk, time) = (disk.clone(), time.clone());
        async move {
            let data = Path::new("/data");
            let engine = sherd_engine::Options {
                segment_bytes: 16 * 1024,
                checkpoint_keys: usize::MAX / 16,
                checkpoint_interval: Duration::from_secs(3600),
                compaction: false,
                clock: Clock::settable(time.0),
                in_step: true,
                ..sherd_engine::Options::default()
            };
            let fs = Arc::new(disk.fs.clone());
            let opened = Engine::open_with(fs, &disk.index, data, engine)?;
            let engine = opened.0.clone();
            tokio::spawn(async move {
                // In the place of the engine's own threads, at the same moments each time.
                loop {
                    tokio::time::sleep(UPKEEP_INTERVAL).await;
                    if let Err(error) = engine.checkpoint().and_then(|()| engine.compact()) {
                        panic!("upkeep: {error}");
                    }
                }
            });
            let config = Config { connect: connect_options(), ..Config::new(data) };
            let listener = Simulated::bind().await?;
            let pending = std::future::pending();
            sherd_server::serve(opened, listener, config, |_, _| (), pending).await?;
            Ok(())
        }
    });
}

/// What a client connects with.
pub(crate) async fn connect(deadline: Duration) -> turmoil::Result<Client> {
    let options = Options { deadline, connect: connect_options(), ..Options::default() };
    Ok(Client::connect(&format!("{BOOTSTRAP}:{PORT}"), options).await?)
}

/// What hosts leave for who runs the simulation, all on one thread.
pub(crate) type Left<T> = Rc<RefCell<T>>;

/// A generator of its own for a part of a simulation.
pub(crate) fn generator(seed: u64, part: u64) -> StdRng {
    StdRng::seed_from_u64(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ part)
}
