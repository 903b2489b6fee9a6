//! Holes in NATs: who sends to somebody may be answered.

use std::{convert::Infallible, io, net::SocketAddr, time::Duration};

use tokio::{net::UdpSocket, time::sleep};

/// Bytes of a packet that opens a hole. It says nothing, and no QUIC packet is so short.
const PACKET_BYTES: usize = 64;

/// Milliseconds between two of them, so that two sides do not go on missing each other.
const REST_MS: std::ops::RangeInclusive<u64> = 10..=200;

/// Sends to `remote` until it is dropped.
pub(super) async fn punch(socket: &UdpSocket, remote: SocketAddr) -> io::Error {
    let Err(cause) = send_forever(socket, remote).await;
    cause
}

async fn send_forever(socket: &UdpSocket, remote: SocketAddr) -> io::Result<Infallible> {
    loop {
        let packet: [u8; PACKET_BYTES] = rand::random();
        socket.send_to(&packet, remote).await?;
        sleep(Duration::from_millis(rand::random_range(REST_MS))).await;
    }
}
