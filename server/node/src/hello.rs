//! The first exchange of a connection.

use std::future::poll_fn;
use std::time::Duration;

use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use sherd_protocol::frame::Stream;
use sherd_protocol::message::{Hello, HelloAnswer};
use sherd_protocol::{PROTOCOL_VERSION, WireError, frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::inbound::{Head, Inbound};
use crate::limits::MAX_HELLO_BYTES;
use crate::node::Handler;

/// Bytes thrown away at a time while a peer is waited for to close.
const DISCARD_BYTES: usize = 4096;

/// The part of a hello that no version changes.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Checks the token of a hello against the cluster's, in a time that does not depend on where they
/// differ. Without an `expected` token everyone is welcome.
///
/// # Errors
/// [`WireError::Unauthorized`].
pub fn check_token(expected: Option<&str>, hello: &Hello) -> Result<(), WireError> {
    let Some(expected) = expected else { return Ok(()) };
    let offered = hello.token.as_deref().unwrap_or_default();
    let differ = |bits: u8, (one, other): (u8, u8)| bits | (one ^ other);
    let bits = offered.bytes().zip(expected.bytes()).fold(0, differ);
    let same = bits == 0 && offered.len() == expected.len();
    if same { Ok(()) } else { Err(WireError::Unauthorized) }
}

/// Reads the hello and answers it; `None` when the connection is to be closed, the peer told why
/// where that was possible.
pub(crate) async fn greet<H: Handler>(
    stream: &mut impl Stream,
    handler: &H,
    frame_bytes: usize,
) -> std::io::Result<Option<Inbound>> {
    let mut inbound = Inbound::new(MAX_HELLO_BYTES);
    let length = loop {
        match inbound.head() {
            Ok(Head::Small(length)) => break length,
            Ok(Head::Partial) => {}
            // Whoever begins like this speaks another protocol.
            Ok(Head::Large(_) | Head::Whole) | Err(_) => return Ok(None),
        }
        if !poll_fn(|cx| inbound.poll_read(cx, stream)).await? {
            return Ok(None);
        }
    };
    let answer = match welcome(&inbound.body()[..length], handler) {
        Ok(welcome) => HelloAnswer::Welcome(welcome),
        Err(error) => HelloAnswer::Refused(error),
    };
    inbound.consume(length);
    send(stream, &answer).await?;
    inbound.set_limit(frame_bytes);
    Ok(matches!(answer, HelloAnswer::Welcome(_)).then_some(inbound))
}

fn welcome<H: Handler>(
    body: &[u8],
    handler: &H,
) -> Result<sherd_protocol::message::Welcome, WireError> {
    let malformed = |error: sherd_protocol::FrameError| WireError::bad_request("hello", error);
    let Version { version } = frame::decode(body).map_err(malformed)?;
    if version != PROTOCOL_VERSION {
        return Err(WireError::UnsupportedVersion { client: version, server: PROTOCOL_VERSION });
    }
    handler.welcome(&frame::decode(body).map_err(malformed)?)
}

/// Tells a peer over the limit of connections so.
pub(crate) async fn refuse(mut stream: impl Stream, error: WireError, linger_time: Duration) {
    if send(&mut stream, &HelloAnswer::Refused(error)).await.is_ok() {
        linger(&mut stream, linger_time).await;
    }
}

/// Ends the node's side, and gives the peer a moment to read what was said and end its own.
pub(crate) async fn linger(stream: &mut impl Stream, linger_time: Duration) {
    let ended = async {
        let mut discarded = [0; DISCARD_BYTES];
        stream.shutdown().await?;
        while stream.read(&mut discarded).await? > 0 {}
        std::io::Result::Ok(())
    };
    if !matches!(timeout(linger_time, ended).await, Ok(Ok(()))) {
        tracing::trace!("a peer did not end its side in time");
    }
}

async fn send<M: Serialize>(stream: &mut impl Stream, message: &M) -> std::io::Result<()> {
    let mut out = BytesMut::new();
    frame::encode(&mut out, message, sherd_protocol::DEFAULT_MAX_FRAME_BYTES)
        .map_err(std::io::Error::other)?;
    stream.write_all(&out).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_token_is_welcome() {
        let hello = |token: Option<&str>| Hello {
            version: PROTOCOL_VERSION,
            client: "test".to_owned(),
            token: token.map(str::to_owned),
        };
        assert_eq!(check_token(None, &hello(None)), Ok(()));
        assert_eq!(check_token(None, &hello(Some("any"))), Ok(()));
        assert_eq!(check_token(Some("secret"), &hello(Some("secret"))), Ok(()));
        for wrong in [None, Some(""), Some("secre"), Some("secret2"), Some("secreT")] {
            assert_eq!(check_token(Some("secret"), &hello(wrong)), Err(WireError::Unauthorized));
        }
    }
}
