//! Endless random overwrites: disk use, throughput, and the longest waits of writes, with the times
//! that the disk took beside them.
//!
//! ```sh
//! cargo bench -p sherd-engine --bench overwrite -- --seconds 600 --keys 300000 --bytes 1024
//! ```
//!
//! `--quiet N` adds a run of N seconds without compaction before, to compare the throughput with.

#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::any::Any;
use std::io::Result;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use sherd_engine::fs::{DiskFs, File, Fs};
use sherd_engine::index::SledStore;
use sherd_engine::{
    Assignment, Command, Condition, Engine, Expiry, IndexSettings, Key, Mutation, Options, Policy,
};

/// Writes that took longer are listed.
const STALL: Duration = Duration::from_millis(100);

/// How often the disk use is taken.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

const RING: u32 = 10_000_000;
const INDEX: u32 = 1;

fn main() {
    let mut arguments = Arguments::default();
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|word| word.parse().ok()).unwrap();
        match word.as_str() {
            "--seconds" => arguments.seconds = number(),
            "--quiet" => arguments.quiet = number(),
            "--keys" => arguments.keys = number() as u32,
            "--bytes" => arguments.bytes = number() as usize,
            "--in-flight" => arguments.in_flight = number() as usize,
            "--seed" => arguments.seed = number(),
            other => panic!("unknown argument {other}"),
        }
    }
    println!("{arguments:?}");
    let dir = tempfile::tempdir_in(std::env::var_os("BENCH_DIR").unwrap_or(".".into())).unwrap();
    let disk = Timing::default();
    let open = |compaction| {
        let store = SledStore::new(dir.path().join("index"), 64 << 20);
        let options = Options { compaction, ..Options::default() };
        Engine::open_with(Arc::new(disk.clone()), &store, dir.path(), options).unwrap().0
    };
    let mut run = Run { dir: dir.path(), arguments: &arguments, disk: &disk, rng: arguments.rng() };

    let engine = open(false);
    set_up(&engine);
    let loading = run.load(&engine);
    println!("loaded {} documents in {loading:.1?}", arguments.keys);
    if arguments.quiet > 0 {
        println!("\nwithout compaction, {} s", arguments.quiet);
        run.overwrite(&engine, Duration::from_secs(arguments.quiet));
    }
    engine.close().unwrap();
    drop(engine);
    let engine = open(true);
    println!("\nwith compaction, {} s", arguments.seconds);
    run.overwrite(&engine, Duration::from_secs(arguments.seconds));
    engine.close().unwrap();
}

#[derive(Debug)]
struct Arguments {
    seconds: u64,
    quiet: u64,
    keys: u32,
    bytes: usize,
    in_flight: usize,
    seed: u64,
}

impl Default for Arguments {
    fn default() -> Self {
        Self { seconds: 60, quiet: 0, keys: 300_000, bytes: 1024, in_flight: 50, seed: 1 }
    }
}

impl Arguments {
    fn rng(&self) -> StdRng {
        StdRng::seed_from_u64(self.seed)
    }
}

fn set_up(engine: &Engine) {
    let assignment = Assignment {
        cluster: "bench".to_owned(),
        name: "shard0".to_owned(),
        hash_method: "xxh3".to_owned(),
        epoch: 1,
        lineage: 0,
        ranges: vec![(0, RING)],
        limit: u64::MAX,
        policy: Policy::Reject,
    };
    engine.execute(Command::Assign(assignment)).unwrap();
    engine
        .execute(Command::CreateIndex {
            id: INDEX,
            name: "index".to_owned(),
            settings: IndexSettings::default(),
        })
        .unwrap();
}

struct Run<'a> {
    dir: &'a Path,
    arguments: &'a Arguments,
    disk: &'a Timing,
    rng: StdRng,
}

/// A write that was answered.
struct Done {
    begun: Instant,
    ended: Instant,
}

impl Run<'_> {
    fn write(&mut self, number: u32) -> Mutation {
        // Spread over the ring as a hash would.
        let position = (u64::from(number) * 7_919_999 % u64::from(RING)) as u32;
        let mut document = vec![0; self.arguments.bytes];
        self.rng.fill_bytes(&mut document[..16.min(self.arguments.bytes)]);
        let key = Key { position, bytes: Bytes::from(format!("key{number:09}")) };
        let condition = Condition::Any;
        Mutation::Write {
            index: INDEX,
            key,
            document: document.into(),
            condition,
            expiry: Expiry::Never,
        }
    }

    fn load(&mut self, engine: &Engine) -> Duration {
        let begun = Instant::now();
        let keys: Vec<u32> = (0..self.arguments.keys).collect();
        for some in keys.chunks(500) {
            let mutations = some.iter().map(|&number| self.write(number)).collect();
            engine.execute(Command::Mutate { mutations, atomic: false }).unwrap();
        }
        begun.elapsed()
    }

    /// Keeps so many writes in flight until the time is over.
    fn overwrite(&mut self, engine: &Engine, time: Duration) {
        let (sender, receiver) = mpsc::channel();
        let submit = |run: &mut Self| {
            let number = run.rng.random_range(0..run.arguments.keys);
            let mutations = vec![run.write(number)];
            let (sender, begun) = (sender.clone(), Instant::now());
            let done = move |result: sherd_engine::Result<_>| {
                result.unwrap();
                _ = sender.send(Done { begun, ended: Instant::now() });
            };
            engine.submit(Command::Mutate { mutations, atomic: false }, Box::new(done));
        };
        let begun = Instant::now();
        self.disk.operations.lock().clear();
        for _ in 0..self.arguments.in_flight {
            submit(self);
        }
        let mut latencies = Histogram::<u64>::new(3).unwrap();
        let mut stalls: Vec<Done> = Vec::new();
        let (mut sampled, mut answered, mut peak) = (begun, 0u64, Sample::default());
        let mut in_flight = self.arguments.in_flight;
        let mut windows = Vec::new();
        let mut window = 0;
        while in_flight > 0 {
            let done = receiver.recv().unwrap();
            let took = done.ended - done.begun;
            latencies.record(took.as_micros() as u64).unwrap();
            if took >= STALL {
                stalls.push(done);
            }
            answered += 1;
            window += 1;
            if begun.elapsed() < time {
                submit(self);
            } else {
                in_flight -= 1;
            }
            if sampled.elapsed() >= SAMPLE_INTERVAL {
                windows.push(f64::from(window) / sampled.elapsed().as_secs_f64());
                (sampled, window) = (Instant::now(), 0);
                let sample = Sample::take(self.dir, engine, self.arguments);
                if begun.elapsed() > time / 4 && sample.ratio() > peak.ratio() {
                    peak = sample;
                }
            }
        }
        let elapsed = begun.elapsed().as_secs_f64();
        windows.sort_by(f64::total_cmp);
        println!(
            "  {:.0} writes/s (seconds: median {:.0}, worst {:.0})",
            answered as f64 / elapsed,
            windows[windows.len() / 2],
            windows[0]
        );
        let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
        println!(
            "  a write took ms: p50 {:.2}, p99 {:.2}, p99.9 {:.2}, p99.99 {:.2}, longest {:.1}",
            at(0.5),
            at(0.99),
            at(0.999),
            at(0.9999),
            at(1.0)
        );
        let last = Sample::take(self.dir, engine, self.arguments);
        for (when, sample) in [("at the end", last), ("at its peak", peak)] {
            println!("  {when}: {sample}, {:.2} of the live records", sample.ratio());
        }
        self.report_disk(&stalls);
    }

    fn report_disk(&self, stalls: &[Done]) {
        let operations = self.disk.operations.lock();
        for what in ["sync", "write"] {
            let of_kind = operations.iter().filter(|operation| operation.what == what);
            let mut times: Vec<_> = of_kind.map(Operation::took).collect();
            times.sort_unstable();
            let Some(longest) = times.last() else { continue };
            let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
            println!(
                "  {what}s of the disk: {}, p50 {:.2?}, p99 {:.2?}, p99.9 {:.2?}, longest {longest:.1?}",
                times.len(),
                at(0.5),
                at(0.99),
                at(0.999)
            );
        }
        println!("  waits of {STALL:?} and more: {}", stalls.len());
        let mut last_end = None;
        for stall in stalls {
            // Writes of one batch wait together.
            if last_end.is_some_and(|end| stall.begun < end) {
                continue;
            }
            last_end = Some(stall.ended);
            let overlap = |operation: &&Operation| {
                let from = operation.begun.max(stall.begun);
                operation.ended.min(stall.ended).saturating_duration_since(from)
            };
            let inside = |thread| -> Duration {
                let of_thread = operations.iter().filter(|operation| operation.thread == thread);
                of_thread.map(|operation| overlap(&operation)).sum()
            };
            println!(
                "    {:.0?}: {:.0?} of it in writes and syncs of the log, {:.0?} in preparing the next segment",
                stall.ended - stall.begun,
                inside(Thread::Sequencer),
                inside(Thread::Spare)
            );
        }
    }
}

/// What the disk holds.
#[derive(Clone, Copy, Default)]
struct Sample {
    live: u64,
    /// With the reserve and the manifest.
    log: u64,
    index: u64,
    segments: u64,
}

impl Sample {
    fn take(dir: &Path, engine: &Engine, arguments: &Arguments) -> Self {
        let record = (32 + 72 + 12 + arguments.bytes).next_multiple_of(8);
        let index = allocated(&dir.join("index"));
        Self {
            live: engine.stat().documents * record as u64,
            log: allocated(dir).saturating_sub(index),
            index,
            segments: engine.stat().segments,
        }
    }

    /// Of the disk use to the live records, four segments not counted.
    fn ratio(&self) -> f64 {
        if self.live == 0 {
            return 0.0;
        }
        let four = 4 * u64::from(Options::default().segment_bytes);
        (self.log + self.index).saturating_sub(four) as f64 / self.live as f64
    }
}

impl std::fmt::Display for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        write!(
            f,
            "{:.0} MiB live, log {:.0} MiB in {} segments, index {:.0} MiB",
            mib(self.live),
            mib(self.log),
            self.segments,
            mib(self.index)
        )
    }
}

fn allocated(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let bytes = entries.flatten().filter_map(|entry| {
        let metadata = entry.metadata().ok()?;
        Some(if metadata.is_dir() { allocated(&entry.path()) } else { metadata.blocks() * 512 })
    });
    bytes.sum()
}

/// The real filesystem, timed.
#[derive(Clone, Default)]
struct Timing {
    operations: Arc<Mutex<Vec<Operation>>>,
}

struct Operation {
    what: &'static str,
    thread: Thread,
    begun: Instant,
    ended: Instant,
}

/// Who asked the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Thread {
    /// Writes wait for it.
    Sequencer,
    /// Writes wait for it where the next segment is not ready in time.
    Spare,
    Other,
}

impl Thread {
    fn current() -> Self {
        match std::thread::current().name() {
            Some("sequencer") => Self::Sequencer,
            Some("log-spare") => Self::Spare,
            _ => Self::Other,
        }
    }
}

impl Operation {
    fn took(&self) -> Duration {
        self.ended - self.begun
    }
}

impl Timing {
    fn time<T>(&self, what: &'static str, run: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let result = run();
        let ended = Instant::now();
        let thread = Thread::current();
        self.operations.lock().push(Operation { what, thread, begun, ended });
        result
    }

    fn file(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(TimedFile { file, timing: self.clone() })
    }
}

impl Fs for Timing {
    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        DiskFs.create_dir_all(dir)
    }

    fn create(&self, path: &Path) -> Result<Arc<dyn File>> {
        self.time("create", || DiskFs.create(path)).map(|file| self.file(file))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn File>> {
        DiskFs.open(path).map(|file| self.file(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.time("rename", || DiskFs.rename(from, to))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.time("remove", || DiskFs.remove(path))
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        DiskFs.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.time("sync", || DiskFs.sync_dir(dir))
    }

    fn free_bytes(&self, dir: &Path) -> Result<u64> {
        DiskFs.free_bytes(dir)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Any + Send + Sync>> {
        DiskFs.lock(path)
    }
}

struct TimedFile {
    file: Arc<dyn File>,
    timing: Timing,
}

impl File for TimedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.timing.time("write", || self.file.write_all_at(bytes, offset))
    }

    fn sync_data(&self) -> Result<()> {
        self.timing.time("sync", || self.file.sync_data())
    }

    fn set_len(&self, length: u64) -> Result<()> {
        self.timing.time("set_len", || self.file.set_len(length))
    }

    fn length(&self) -> Result<u64> {
        self.file.length()
    }
}
