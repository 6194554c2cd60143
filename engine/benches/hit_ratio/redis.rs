//! A Redis on the loopback interface.
//!
//! An access is a call of a script that gets, and sets where nothing was got: so hundreds of them
//! can be on their way, and none overtakes another. Redis bounds all memory that it takes, with
//! buffers and tables; the bound is set, and followed up, so that it holds as many documents as the
//! others do.
//!
//! Its clock for `allkeys-lru` ticks once a second, in which a replay makes a hundred thousand
//! accesses. So that it can tell them apart, it can be given a clock that runs faster.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::trace::{Trace, key};
use crate::{DOCUMENT_BYTES, Replayed};

/// Accesses on their way at once: few enough that their bytes are small beside the least bound.
const WINDOW: usize = 100;

/// After so many windows the bound is followed up.
const FOLLOW_UP: usize = 20;

/// Of which clock a Redis is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Time {
    Real,
    /// 250 seconds a second.
    Fast,
}

/// The library that gives a process the fast clock.
struct FastClock(tempfile::NamedTempFile);

impl FastClock {
    /// `None` where there is no C compiler.
    fn compile() -> Option<Self> {
        let library = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new("cc");
        command.args(["-O2", "-shared", "-fPIC", "-x", "c", "-", "-o"]).arg(library.path());
        let mut compiler = match command.stdin(Stdio::piped()).spawn() {
            Ok(compiler) => compiler,
            Err(error) => {
                println!("no fast clock without a C compiler: {error}");
                return None;
            }
        };
        let source = include_bytes!("fast_clock.c");
        compiler.stdin.take().unwrap().write_all(source).unwrap();
        assert!(compiler.wait().unwrap().success(), "the C compiler fails");
        Some(Self(library))
    }
}

struct Redis {
    process: Child,
    output: TcpStream,
    input: BufReader<TcpStream>,
}

impl Drop for Redis {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

impl Redis {
    /// `None` where there is no Redis on this machine.
    fn start(time: Time) -> Option<Self> {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.unwrap();
        let port = address.port().to_string();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no"]);
        // So that the clock of its policies ticks as finely as it can.
        command.args(["--hz", "500"]);
        let library;
        if time == Time::Fast {
            library = FastClock::compile()?;
            command.env("LD_PRELOAD", library.0.path());
        }
        let process = match command.stdout(Stdio::null()).spawn() {
            Ok(process) => process,
            Err(error) => {
                println!("no redis-server: {error}");
                return None;
            }
        };
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(100));
            if let Ok(output) = TcpStream::connect(address) {
                output.set_nodelay(true).unwrap();
                let input = BufReader::new(output.try_clone().unwrap());
                return Some(Self { process, output, input });
            }
        }
        panic!("redis-server does not answer");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.input.read_line(&mut line).unwrap();
        assert!(line.ends_with("\r\n") && !line.starts_with('-'), "Redis answered {line:?}");
        line.truncate(line.len() - 2);
        line
    }

    /// What is answered: a line, or all lines of a bulk string.
    fn ask(&mut self, words: &[&str]) -> String {
        let mut request = Vec::new();
        encode(&mut request, words.iter().map(|word| word.as_bytes()));
        self.output.write_all(&request).unwrap();
        let line = self.line();
        let Some(bytes) = line.strip_prefix('$') else { return line };
        let (bytes, mut text) = (bytes.parse::<usize>().unwrap(), String::new());
        while text.len() < bytes + 2 {
            self.input.read_line(&mut text).unwrap();
        }
        text
    }

    fn documents(&mut self) -> i64 {
        self.ask(&["DBSIZE"]).trim_start_matches(':').parse().unwrap()
    }

    fn used_memory(&mut self) -> i64 {
        let info = self.ask(&["INFO", "memory"]);
        let line = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
        line.unwrap().parse().unwrap()
    }

    fn bound(&mut self, bytes: i64) {
        self.ask(&["CONFIG", "SET", "maxmemory", &bytes.to_string()]);
    }
}

fn encode<'a>(out: &mut Vec<u8>, words: impl ExactSizeIterator<Item = &'a [u8]>) {
    write!(out, "*{}\r\n", words.len()).unwrap();
    for word in words {
        write!(out, "${}\r\n", word.len()).unwrap();
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

pub(crate) fn replay(
    trace: &Trace,
    policy: &str,
    documents: usize,
    time: Time,
) -> Option<Replayed> {
    let mut redis = Redis::start(time)?;
    redis.ask(&["CONFIG", "SET", "maxmemory-policy", policy]);
    let document = "d".repeat(DOCUMENT_BYTES);
    let script = format!(
        "if redis.call('GET', KEYS[1]) then return 1 end \
         redis.call('SET', KEYS[1], '{document}') return 0"
    );
    let script = redis.ask(&["SCRIPT", "LOAD", &script]).trim().to_owned();
    let documents = documents as i64;

    let empty = redis.used_memory();
    let (mut bound, mut bytes) = (0, 0.0);
    let (mut hits, mut counts, mut samples) = (0, 0, 0);
    let mut request = Vec::new();
    for (i, window) in trace.accesses.chunks(WINDOW).enumerate() {
        request.clear();
        for &number in window {
            let key = key(number);
            let words = [&b"EVALSHA"[..], script.as_bytes(), b"1", &key];
            encode(&mut request, words.into_iter());
        }
        redis.output.write_all(&request).unwrap();
        for _ in window {
            hits += u64::from(redis.line() == ":1");
        }
        if bound == 0 {
            // Until it is full, every time: it must not come to hold more.
            if redis.documents() + WINDOW as i64 > documents {
                bound = redis.used_memory();
                bytes = (bound - empty) as f64 / redis.documents() as f64;
                redis.bound(bound);
            }
        } else if i % FOLLOW_UP == 0 {
            let found = redis.documents();
            bound += ((documents - found) as f64 * bytes) as i64;
            redis.bound(bound);
            if i * WINDOW > trace.accesses.len() / 2 {
                counts += found;
                samples += 1;
            }
        }
    }
    Some(Replayed { hits, documents: counts as f64 / f64::from(samples.max(1)), bytes })
}
