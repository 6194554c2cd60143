//! Redis, as much of it as is needed: `SET`, `GET` and their answers.

use std::collections::VecDeque;
use std::path::Path;

use bytes::{Buf, BytesMut};
use tokio::process::Command;

use crate::error::Error;
use crate::generator::{Dialect, Request};
use crate::process::Process;

/// Starts a Redis that syncs before it acknowledges, as a shard does.
pub(crate) async fn start(data: &Path) -> Result<(Process, String), Error> {
    let free_port = || std::net::TcpListener::bind("127.0.0.1:0")?.local_addr();
    let port = free_port()?.port().to_string();
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &port, "--save", ""]);
    command.args(["--appendonly", "yes", "--appendfsync", "always"]).arg("--dir").arg(data);
    let mut process = Process::start(&mut command)?;
    let ready = |line: &str| line.contains("Ready to accept connections").then_some(());
    process.wait_for_line(ready).await?;
    Ok((process, format!("127.0.0.1:{port}")))
}

/// A connection's requests in flight: Redis answers in their order.
#[derive(Default)]
pub(crate) struct Resp {
    in_flight: VecDeque<usize>,
}

impl Dialect for Resp {
    fn encode(
        &mut self,
        out: &mut BytesMut,
        slot: usize,
        request: &Request<'_>,
    ) -> Result<(), Error> {
        match request {
            Request::Write { key, document } => {
                out.extend_from_slice(b"*3\r\n$3\r\nSET\r\n");
                bulk(out, key.as_bytes())?;
                bulk(out, document)?;
            }
            Request::Read { key } => {
                out.extend_from_slice(b"*2\r\n$3\r\nGET\r\n");
                bulk(out, key.as_bytes())?;
            }
        }
        self.in_flight.push_back(slot);
        Ok(())
    }

    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<usize>, Error> {
        let Some(end) = input.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        let line = &input[..end];
        let length = match line {
            b"+OK" => end + 2,
            [b'$', digits @ ..] => {
                let text = || String::from_utf8_lossy(line).into_owned();
                let length = std::str::from_utf8(digits).ok().and_then(|d| d.parse::<i64>().ok());
                let length = length.ok_or_else(|| Error::Refused(text()))?;
                let length = usize::try_from(length)
                    .map_err(|_| Error::Refused("the key is not there".to_owned()))?;
                end + 2 + length + 2
            }
            other => return Err(Error::Refused(String::from_utf8_lossy(other).into_owned())),
        };
        if input.len() < length {
            return Ok(None);
        }
        input.advance(length);
        let slot = self.in_flight.pop_front();
        slot.map(Some).ok_or_else(|| Error::Refused("more than it was asked".to_owned()))
    }
}

fn bulk(out: &mut BytesMut, bytes: &[u8]) -> Result<(), Error> {
    std::fmt::write(out, format_args!("${}\r\n", bytes.len()))
        .map_err(|error| Error::Failed(error.to_string()))?;
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
    Ok(())
}
