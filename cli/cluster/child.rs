//! One supervised child process.
//!
//! It is started again when it ends: at once the first time, later and later while it keeps
//! ending before it has served for [`STABLE_AFTER`].

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// A child that has served this long did not end because of how it was started.
const STABLE_AFTER: Duration = Duration::from_secs(1);

/// The wait before the second start in a row; it doubles from there to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The longest wait where it has served at all: a process that is killed again and again is still
/// back within two seconds each time.
const LONGEST_WAIT_AFTER_SERVING: Duration = Duration::from_secs(1);

/// How long a child may take to stop before it is killed: it may have a checkpoint to write.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the last output of a child that has ended may take to pass on: it is in the pipe, so
/// this matters only where nobody reads ours.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What to start.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub(super) name: String,
    /// All but the port.
    pub(super) arguments: Vec<OsString>,
    /// 0 for any; then the first one found is kept.
    pub(super) port: u16,
    pub(super) program: PathBuf,
    /// When it is to stop.
    pub(super) until: Wish,
}

/// What happened to a child, told by its place in the list of children.
#[derive(Debug)]
pub(super) enum Event {
    /// It serves.
    Ready { child: usize, pid: u32, address: SocketAddr },
    /// It ended by itself and will be started again after `wait`, for the `failures`th time in a
    /// row.
    Ended { child: usize, how: String, failures: u32, wait: Duration },
    /// It was asked to stop and did; how, if not cleanly.
    Stopped { child: usize, unclean: Option<String> },
}

/// What the children are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wish {
    /// All are to run.
    Run,
    /// Bootstrap is to stop: before the shards, which it would report as missing.
    StopBootstrap,
    /// All are to stop.
    StopAll,
    /// All are to end at once, without a chance to finish.
    Die,
}

/// Keeps a child running until told otherwise.
pub(super) async fn supervise(
    child: usize,
    mut spec: Spec,
    events: mpsc::Sender<Event>,
    mut wish: watch::Receiver<Wish>,
) {
    let mut backoff = Backoff::default();
    loop {
        let ended = match Running::start(&spec) {
            Err(error) => format!("cannot be started: {error}"),
            Ok(mut running) => loop {
                let pid = running.pid;
                tokio::select! {
                    Some(address) = once(&mut running.ready) => {
                        spec.port = address.port();
                        backoff.served();
                        _ = events.send(Event::Ready { child, pid, address }).await;
                    }
                    ended = running.child.wait() => {
                        running.last_words().await;
                        break format!("(process {pid}) ended with {}", describe(ended));
                    }
                    () = wished(&mut wish, spec.until) => {
                        let unclean = running.stop(&mut wish).await;
                        running.last_words().await;
                        _ = events.send(Event::Stopped { child, unclean }).await;
                        return;
                    }
                }
            },
        };
        let wait = backoff.ended();
        let event = Event::Ended { child, how: ended, failures: backoff.failures, wait };
        _ = events.send(event).await;
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = wished(&mut wish, spec.until) => {
                _ = events.send(Event::Stopped { child, unclean: None }).await;
                return;
            }
        }
    }
}

/// Waits for a wish at least as strong.
async fn wished(wish: &mut watch::Receiver<Wish>, least: Wish) {
    // The sender going away means that nobody is left to wish for anything else.
    _ = wish.wait_for(|wish| *wish >= least).await;
}

fn describe(status: std::io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => format!("an unknown status ({error})"),
    }
}

/// A started child. Killed when dropped.
struct Running {
    child: Child,
    pid: u32,
    /// Held open: the child ends when it is closed, by us or by the end of this process.
    _stdin: Option<ChildStdin>,
    /// The address of its ready line, until that has come.
    ready: Option<oneshot::Receiver<SocketAddr>>,
    /// Pass on what it says; end with it.
    outputs: JoinSet<()>,
}

impl Running {
    fn start(spec: &Spec) -> std::io::Result<Self> {
        let mut child = Command::new(&spec.program)
            .args(&spec.arguments)
            .arg("--port")
            .arg(spec.port.to_string())
            .arg("--exit-with-parent")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A Ctrl-C in the terminal is for this process alone, which stops them in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let (tell_ready, ready) = oneshot::channel();
        let mut outputs = JoinSet::new();
        if let Some(stdout) = child.stdout.take() {
            outputs.spawn(pass_stdout(spec.name.clone(), stdout, tell_ready));
        }
        if let Some(stderr) = child.stderr.take() {
            outputs.spawn(pass_stderr(spec.name.clone(), stderr));
        }
        let pid = child.id().unwrap_or_default();
        Ok(Self { pid, _stdin: child.stdin.take(), child, ready: Some(ready), outputs })
    }

    /// Waits until all that it said has been passed on, once it has ended.
    async fn last_words(&mut self) {
        let all = async { while self.outputs.join_next().await.is_some() {} };
        _ = tokio::time::timeout(LAST_WORDS, all).await;
    }

    /// Asks it to stop and waits until it has; how, if not cleanly.
    async fn stop(&mut self, wish: &mut watch::Receiver<Wish>) -> Option<String> {
        // Until it is waited for, its id is not given to another process.
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        if let Some(pid) = pid {
            _ = kill_process(pid, Signal::TERM);
        }
        tokio::select! {
            ended = self.child.wait() => {
                let clean = ended.as_ref().is_ok_and(ExitStatus::success);
                return (!clean).then(|| format!("ended with {}", describe(ended)));
            }
            () = tokio::time::sleep(STOP_TIMEOUT) => {}
            () = wished(wish, Wish::Die) => {}
        }
        _ = self.child.kill().await;
        Some("did not stop in time and was killed".to_owned())
    }
}

/// Waits for what the channel brings, the first time; then for ever.
async fn once<T>(channel: &mut Option<oneshot::Receiver<T>>) -> Option<T> {
    let Some(receiver) = channel else { return std::future::pending().await };
    let value = receiver.await.ok();
    *channel = None;
    value
}

/// Finds the ready line, and passes on everything else.
async fn pass_stdout(name: String, stdout: ChildStdout, ready: oneshot::Sender<SocketAddr>) {
    let mut ready = Some(ready);
    let mut lines = Lines::new(stdout);
    while let Some(line) = lines.next().await {
        match (ready_address(line), ready.take()) {
            (Some(address), Some(ready)) => _ = ready.send(address),
            (_, still) => {
                ready = still;
                pass_line(&name, line).await;
            }
        }
    }
}

async fn pass_stderr(name: String, stderr: ChildStderr) {
    let mut lines = Lines::new(stderr);
    while let Some(line) = lines.next().await {
        pass_line(&name, line).await;
    }
}

/// The address in a line `ready HOST:PORT …`.
fn ready_address(line: &[u8]) -> Option<SocketAddr> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_ascii_whitespace();
    words.next().filter(|word| *word == "ready")?;
    words.next()?.parse().ok()
}

/// Lines of any bytes: reading must go on whatever they are, for a child blocks once its pipe is
/// full.
struct Lines<R> {
    source: BufReader<R>,
    line: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    fn new(source: R) -> Self {
        Self { source: BufReader::new(source), line: Vec::new() }
    }

    async fn next(&mut self) -> Option<&[u8]> {
        self.line.clear();
        match self.source.read_until(b'\n', &mut self.line).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(&self.line),
        }
    }
}

/// Passes a child's line on to standard error, with its name in front.
async fn pass_line(name: &str, line: &[u8]) {
    let mut prefixed = format!("{name} | ").into_bytes();
    prefixed.extend_from_slice(line.trim_ascii_end());
    prefixed.push(b'\n');
    // In one piece, so that the lines of several children do not mix, and flushed, for a write is
    // only begun otherwise. That nobody may be listening is fine.
    let mut stderr = tokio::io::stderr();
    _ = stderr.write_all(&prefixed).await;
    _ = stderr.flush().await;
}

/// How long to wait before the next start.
#[derive(Default)]
struct Backoff {
    /// How often in a row it ended too soon.
    failures: u32,
    serving_since: Option<Instant>,
}

impl Backoff {
    fn served(&mut self) {
        self.serving_since = Some(Instant::now());
    }

    fn ended(&mut self) -> Duration {
        let served = self.serving_since.take();
        let stable = served.is_some_and(|since| since.elapsed() >= STABLE_AFTER);
        self.failures = if stable { 1 } else { self.failures.saturating_add(1) };
        let longest = if served.is_some() { LONGEST_WAIT_AFTER_SERVING } else { LONGEST_WAIT };
        match self.failures {
            0 | 1 => Duration::ZERO,
            failures => {
                let doubled = 2u32.saturating_pow(failures - 2);
                FIRST_WAIT.saturating_mul(doubled).min(longest)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_immediate_and_a_crash_loop_slows_down() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..12).map(|_| backoff.ended().as_millis()).collect();
        assert_eq!(
            waits,
            [0, 100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]
        );
        backoff.serving_since = Instant::now().checked_sub(STABLE_AFTER);
        assert_eq!(backoff.ended(), Duration::ZERO);
        // Having served for a moment only does not count.
        backoff.served();
        assert_eq!(backoff.ended(), FIRST_WAIT);
        backoff.failures = u32::MAX;
        assert_eq!(backoff.ended(), LONGEST_WAIT);
        backoff.served();
        assert_eq!(backoff.ended(), LONGEST_WAIT_AFTER_SERVING);
    }

    #[test]
    fn only_a_whole_ready_line_is_one() {
        let address = ready_address(b"ready 127.0.0.1:5050 shard0\n");
        assert_eq!(address, Some(SocketAddr::from(([127, 0, 0, 1], 5050))));
        for line in [&b"ready\n"[..], b"already 127.0.0.1:1\n", b"ready soon\n", b"\xff\n", b""] {
            assert_eq!(ready_address(line), None);
        }
    }
}
