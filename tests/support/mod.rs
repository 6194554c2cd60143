//! Real processes for tests: clusters run by `sherd up`, single nodes, and commands against them.
//!
//! Everything listens on port 0 and writes to a temporary directory, so that tests run side by
//! side. A process is ended by its id when its handle is dropped, also when a test panics; the
//! children of a killed `up` end by themselves.

// Each test file uses its own part of this.
#![allow(dead_code, unused_imports, reason = "not every test needs every helper")]
#![allow(clippy::expect_used, reason = "a helper fails its test by panicking")]

pub(crate) mod by_hand;
pub(crate) mod history;
pub(crate) mod load;
pub(crate) mod nodes;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take before a test fails: far more than it ever should.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The binary under test, with none of the environment that would change what it does.
pub(crate) fn sherd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sherd"));
    for name in ["SHERD_BOOTSTRAP", "SHERD_TOKEN", "SHERD_LOG"] {
        command.env_remove(name);
    }
    command
}

/// What a command that ran to its end left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Asserts the exit status, and returns standard output.
    #[track_caller]
    pub(crate) fn expect(self, status: i32) -> String {
        assert_eq!(self.status, status, "{self:#?}");
        self.stdout
    }
}

/// Runs a command to its end, which must come in time, with `input` as its standard input.
#[track_caller]
pub(crate) fn run(command: &mut Command, input: impl AsRef<[u8]>) -> Ran {
    let input = input.as_ref().to_vec();
    run_fed(command, move |stdin| _ = stdin.write_all(&input))
}

/// The same, with what `feed` writes as its standard input.
#[track_caller]
pub(crate) fn run_fed(
    command: &mut Command,
    feed: impl FnOnce(&mut ChildStdin) + Send + 'static,
) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the command starts");
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    // Apart, for the command may answer before it has read everything.
    let feeder = std::thread::spawn(move || feed(&mut stdin));
    let stdout = read_all(child.stdout.take().expect("stdout is a pipe"));
    let stderr = read_all(child.stderr.take().expect("stderr is a pipe"));
    let mut status = None;
    let ended = eventually(|| {
        status = child.try_wait().expect("the command can be waited for");
        status.is_some()
    });
    if !ended {
        _ = child.kill();
        _ = child.wait();
    }
    feeder.join().expect("the input is written");
    let [stdout, stderr] = [stdout, stderr].map(|reader| reader.join().expect("UTF-8"));
    let status = status.unwrap_or_else(|| panic!("{command:?} does not end: {stdout}{stderr}"));
    Ran { status: status.code().unwrap_or(-1), stdout, stderr }
}

/// Reads to the end, apart, so that nobody waits for it.
fn read_all(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        _ = from.read_to_end(&mut all);
        String::from_utf8(all).expect("UTF-8")
    })
}

/// A long-running `sherd`; killed when dropped.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    /// Standard output so far.
    seen: Vec<String>,
    stderr: Arc<Mutex<String>>,
    /// Fills `stderr`.
    reader: Option<JoinHandle<()>>,
    _stdin: Option<ChildStdin>,
}

impl Process {
    /// Starts a process whose standard input stays open for as long as the handle.
    pub(crate) fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the process starts");
        let (sender, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                _ = sender.send(line);
            }
        });
        let stderr = Arc::new(Mutex::new(String::new()));
        let mut from = child.stderr.take().expect("stderr is a pipe");
        let to = Arc::clone(&stderr);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = from.read(&mut buffer) {
                to.lock()
                    .expect("no reader panics")
                    .push_str(&String::from_utf8_lossy(&buffer[..read]));
            }
        });
        let stdin = child.stdin.take();
        let reader = Some(reader);
        Self { child, lines, seen: Vec::new(), stderr, reader, _stdin: stdin }
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to standard error so far.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.lock().expect("no writer panics").clone()
    }

    /// Waits for a line on standard output that starts so; lines before it are passed over.
    #[track_caller]
    pub(crate) fn wait_for_line(&mut self, start: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line);
                    if let Some(line) = self.seen.last().filter(|line| line.starts_with(start)) {
                        return line.clone();
                    }
                }
                Err(_) => {
                    panic!("no line {start:?}\nstdout: {:#?}\nstderr: {}", self.seen, self.stderr())
                }
            }
        }
    }

    /// Waits for the ready line; its address.
    #[track_caller]
    pub(crate) fn wait_ready(&mut self) -> SocketAddr {
        let line = self.wait_for_line("ready ");
        let address = line.split(' ').nth(1).and_then(|address| address.parse().ok());
        address.unwrap_or_else(|| panic!("no address in {line:?}"))
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        signal(self.pid(), Signal::TERM);
    }

    /// Sends SIGKILL and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }

    /// Waits until it ends and all that it said is known.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        let ended = eventually(|| {
            status = self.child.try_wait().expect("the process can be waited for");
            status.is_some()
        });
        assert!(ended, "it does not end\nstderr: {}", self.stderr());
        if let Some(reader) = self.reader.take() {
            reader.join().expect("stderr is read to its end");
        }
        status.expect("it has ended")
    }

    /// Sends SIGTERM, and asserts that it ends with 0.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        self.terminate();
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "stderr: {}", self.stderr());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A cluster run by `sherd up`, and its data.
pub(crate) struct Cluster {
    pub(crate) up: Process,
    /// Where its bootstrap is.
    pub(crate) address: SocketAddr,
    data: PathBuf,
    dir: Option<tempfile::TempDir>,
}

/// A line of the table that `up` prints.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) role: String,
    pub(crate) pid: u32,
    pub(crate) address: String,
}

impl Cluster {
    /// A new cluster of two shards on free ports.
    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::start_with(["--port", "0"])
    }

    /// A new cluster, with options for `up`.
    #[track_caller]
    pub(crate) fn start_with<const N: usize>(options: [&str; N]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = dir.path().join("data");
        let mut cluster = Self::start_on(&data, options);
        cluster.dir = Some(dir);
        cluster
    }

    /// A cluster on data that is there or not.
    #[track_caller]
    pub(crate) fn start_on<const N: usize>(data: &Path, options: [&str; N]) -> Self {
        Self::start_as(sherd(), data, options)
    }

    /// A cluster on data that is there or not, run by a command that ends in `sherd`.
    #[track_caller]
    pub(crate) fn start_as<const N: usize>(
        mut sherd: Command,
        data: &Path,
        options: [&str; N],
    ) -> Self {
        let mut up = Process::start(sherd.args(["up", "--data"]).arg(data).args(options));
        let address = up.wait_ready();
        Self { up, address, data: data.to_owned(), dir: None }
    }

    /// A `sherd` command against this cluster.
    pub(crate) fn command<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = sherd();
        command.args(["-b", &self.address.to_string()]).args(arguments);
        command
    }

    /// Runs a `sherd` command against this cluster.
    #[track_caller]
    pub(crate) fn run<const N: usize>(&self, arguments: [&str; N]) -> Ran {
        run(&mut self.command(arguments), "")
    }

    /// Runs a `sherd` command against this cluster, with input.
    #[track_caller]
    pub(crate) fn feed<const N: usize>(
        &self,
        arguments: [&str; N],
        input: impl AsRef<[u8]>,
    ) -> Ran {
        run(&mut self.command(arguments), input)
    }

    /// Who is who, from the table printed before the first ready line.
    pub(crate) fn members(&self) -> Vec<Member> {
        let lines = self.up.seen.iter().skip_while(|line| !line.starts_with("NAME"));
        let lines = lines.skip(1).take_while(|line| !line.starts_with("ready"));
        let member = |line: &String| {
            let mut words = line.split_whitespace().map(str::to_owned);
            let mut word = || words.next().expect("a full row");
            let (name, role) = (word(), word());
            Member { name, role, pid: word().parse().expect("a process id"), address: word() }
        };
        lines.map(member).collect()
    }

    /// The data directory.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Ends the cluster with SIGTERM; the data stay, with whoever keeps the directory.
    #[track_caller]
    pub(crate) fn stop(mut self) -> Option<tempfile::TempDir> {
        self.up.stop();
        self.dir.take()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Killed, so that a hanging cluster does not hang the tests; then its children end by
        // themselves, which is waited for before the data directory goes.
        let members = self.members();
        self.up.kill();
        eventually(|| members.iter().all(|member| !is_running(member.pid)));
    }
}

/// A number that the environment sets for a test.
pub(crate) fn from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

/// Whether there is a process of that id that still runs.
pub(crate) fn is_running(pid: u32) -> bool {
    // A zombie has ended; whoever is to take note of it may never come.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
}

/// Sends a signal to a process.
#[track_caller]
pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a process id");
    kill_process(pid, signal).expect("the process is there");
}

/// Whether `condition` comes true in time.
pub(crate) fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}
