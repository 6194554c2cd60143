//! How fast whole files go in and out: `cargo bench --bench import`.
//!
//! In turns, each with a fresh directory: `redis-cli --pipe` loads a file into a Redis with `appendfsync
//! everysec`, and `sherd import` loads a file of the same documents into a cluster of `sherd up`, with full
//! durability; then `sherd export` writes them to a file again. Reported are documents a second,
//! the most memory that the tool had resident, and the processor time of tool and servers;
//! beside them, how fast this disk takes as many bytes as went into the cluster's log when they are written
//! one after the other and synced once.
//!
//! Options: `--documents N`, `--shards N`, `--rounds N`, `--format F`. Without a `redis-server`
//! there is no comparison.

#![allow(clippy::expect_used, reason = "a benchmark that cannot go on has nothing to report")]

mod common;
#[path = "../tests/support/mod.rs"]
mod support;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::median::median;
use common::{document, key, text};
use support::{Cluster, eventually};

const INDEX: &str = "documents";

/// What is written at once to see what the disk takes.
const CHUNK_BYTES: usize = 1 << 20;

/// How often a process is looked at.
const LOOK: Duration = Duration::from_millis(20);

struct Arguments {
    documents: u64,
    shards: String,
    rounds: usize,
    format: String,
}

impl Arguments {
    fn parse() -> Self {
        let (shards, format) = ("2".to_owned(), "jsonl".to_owned());
        let mut parsed = Self { documents: 5_000_000, shards, rounds: 3, format };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().expect("a value behind it");
            match word.as_str() {
                "--documents" => parsed.documents = value().parse().expect("a number"),
                "--shards" => parsed.shards = value(),
                "--rounds" => parsed.rounds = value().parse().expect("a number"),
                "--format" => parsed.format = value(),
                // Given by cargo.
                "--bench" => {}
                other => panic!("{other} is no option"),
            }
        }
        parsed
    }
}

fn main() {
    let arguments = Arguments::parse();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (ours, theirs) = (dir.path().join("documents"), dir.path().join("commands"));
    let with_redis = has_redis();
    write_documents(&ours, &arguments);
    if with_redis {
        write_commands(&theirs, arguments.documents);
    } else {
        println!("no comparison, for redis-server is not installed");
    }
    println!("               documents/s  tool: memory  CPU us/document  servers: CPU us/document");
    let mut ratios = Vec::new();
    for _ in 0..arguments.rounds {
        let redis = with_redis.then(|| load_redis(dir.path(), &theirs, arguments.documents));
        let imported = import_and_export(dir.path(), &ours, &arguments);
        if let Some(redis) = redis {
            println!("import / redis-cli --pipe: {:.2}", imported / redis);
            ratios.push(imported / redis);
        }
    }
    if with_redis {
        println!("median: {:.2} times as fast as redis-cli --pipe", median(ratios));
    }
}

fn has_redis() -> bool {
    let asked = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}

fn write_documents(path: &Path, arguments: &Arguments) {
    let mut out = BufWriter::new(File::create(path).expect("a file"));
    let (text, document) = (text(), document());
    for number in 0..arguments.documents {
        let key = key(number);
        let written = match arguments.format.as_str() {
            "jsonl" => writeln!(out, r#"{{"key":"{key}","record":"{text}"}}"#),
            "rows" => writeln!(out, "{key}|{text}"),
            "msgpack" => {
                // A map of two fields, and before the key its length.
                let parts = [b"\x82\xa3key", &[0xa0 | key.len() as u8] as &[u8], key.as_bytes()];
                let parts = parts.into_iter().chain([b"\xa6record", &document[..]]);
                parts.into_iter().try_for_each(|part| out.write_all(part))
            }
            other => panic!("no documents of format {other} here"),
        };
        written.expect("it is written");
    }
    out.flush().expect("it is written");
}

fn write_commands(path: &Path, documents: u64) {
    let mut out = BufWriter::new(File::create(path).expect("a file"));
    // As many bytes as a document has.
    let document = format!("{}xx", text());
    for number in 0..documents {
        let key = key(number);
        let (length, key_length) = (document.len(), key.len());
        write!(out, "*3\r\n$3\r\nSET\r\n${key_length}\r\n{key}\r\n${length}\r\n{document}\r\n")
            .expect("it is written");
    }
    out.flush().expect("it is written");
}

/// What a process took so far: CPU time, and the most memory resident, in bytes.
#[derive(Clone, Copy, Default)]
struct Usage {
    cpu: Duration,
    memory: u64,
}

impl Usage {
    /// `None` once the process has ended.
    fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may have spaces and parentheses of its own; utime and stime are fields 14 and 15.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kilobytes: u64 = peak.split_whitespace().next()?.parse().ok()?;
        let cpu =
            Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64);
        Some(Self { cpu, memory: kilobytes * 1024 })
    }
}

/// A command that ran to its end.
struct Run {
    took: Duration,
    usage: Usage,
}

fn run(command: &mut Command) -> Run {
    let begun = Instant::now();
    let mut child = command.stdout(Stdio::null()).spawn().expect("it starts");
    let mut usage = Usage::default();
    let status = loop {
        // A process that has ended has no memory any more, and its last moments are not seen.
        usage = Usage::of(child.id()).unwrap_or(usage);
        if let Some(status) = child.try_wait().expect("it can be waited for") {
            break status;
        }
        std::thread::sleep(LOOK);
    };
    assert!(status.success(), "{command:?}: {status}");
    Run { took: begun.elapsed(), usage }
}

/// Prints a row, and returns documents a second.
fn report(what: &str, documents: u64, run: &Run, servers: Duration) -> f64 {
    let count = documents as f64;
    let rate = count / run.took.as_secs_f64();
    println!(
        "{what:13}  {rate:11.0}  {:9.1} MB  {:15.2}  {:24.2}",
        run.usage.memory as f64 / 1e6,
        run.usage.cpu.as_secs_f64() * 1e6 / count,
        servers.as_secs_f64() * 1e6 / count,
    );
    rate
}

/// A Redis that is killed when this is dropped.
struct Redis(Child);

impl Drop for Redis {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// Returns documents a second.
fn load_redis(dir: &Path, commands: &Path, documents: u64) -> f64 {
    let data = tempfile::tempdir_in(dir).expect("a temporary directory");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("its address").port().to_string();
    drop(listener);
    let mut server = Command::new("redis-server");
    server.args(["--bind", "127.0.0.1", "--port", &port, "--save", ""]);
    server.args(["--appendonly", "yes", "--appendfsync", "everysec"]).arg("--dir").arg(data.path());
    let redis = Redis(server.stdout(Stdio::null()).spawn().expect("it starts"));
    let answers = || std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_ok();
    assert!(eventually(answers), "Redis does not answer");
    let mut tool = Command::new("redis-cli");
    tool.args(["-p", &port, "--pipe"]).stdin(File::open(commands).expect("the commands"));
    let ran = run(&mut tool);
    let servers = Usage::of(redis.0.id()).expect("Redis runs").cpu;
    report("redis-cli", documents, &ran, servers)
}

/// Returns documents a second of the import.
fn import_and_export(dir: &Path, documents: &Path, arguments: &Arguments) -> f64 {
    let cluster = Cluster::start_with(["--port", "0", "--shards", &arguments.shards]);
    let pids: Vec<u32> = cluster.members().iter().map(|member| member.pid).collect();
    let cpu = || pids.iter().filter_map(|pid| Usage::of(*pid)).map(|usage| usage.cpu).sum();
    let mut tool = cluster.command(["import", INDEX, "--force", "--format", &arguments.format]);
    let imported = run(tool.arg(documents).current_dir(dir));
    let after_import: Duration = cpu();
    let rate = report("sherd import", arguments.documents, &imported, after_import);
    let log_bytes = log_bytes(cluster.data());
    let out = dir.join("exported");
    let mut tool = cluster.command(["export", INDEX, "--format", &arguments.format]);
    let exported = run(tool.arg("-o").arg(&out));
    let exported_rate =
        report("sherd export", arguments.documents, &exported, cpu() - after_import);
    std::fs::remove_file(out).expect("there is an export");
    drop(cluster);
    let disk = disk_bytes_a_second(dir, log_bytes);
    println!(
        "export / import: {:.2}; the log took {:.0} MB/s, and this disk takes {:.0} MB/s",
        exported_rate / rate,
        log_bytes as f64 / imported.took.as_secs_f64() / 1e6,
        disk / 1e6
    );
    rate
}

/// The bytes of all segments below a directory.
fn log_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).expect("a directory").flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => log_bytes(&entry.path()),
        Ok(metadata) if entry.path().extension().is_some_and(|end| end == "log") => metadata.len(),
        _ => 0,
    });
    sizes.sum()
}

/// How fast a file of that size is written and synced.
fn disk_bytes_a_second(dir: &Path, bytes: u64) -> f64 {
    let mut file = tempfile::tempfile_in(dir).expect("a file");
    let chunk = vec![0x5a; CHUNK_BYTES];
    let begun = Instant::now();
    for _ in 0..bytes.div_ceil(CHUNK_BYTES as u64) {
        file.write_all(&chunk).expect("it is written");
    }
    file.sync_data().expect("it is synced");
    bytes as f64 / begun.elapsed().as_secs_f64()
}
