//! What is agreed upon with everybody: TLS, streams, windows, and how many may wait.

use std::{io, net::UdpSocket, sync::Arc, time::Duration};

use libp2p::identity::Keypair;
use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};

use crate::config::{QUIC_SEND_BYTES_MAX, QUIC_STREAM_BYTES_MAX, QUIC_STREAMS_MAX};

/// A connection on which nothing was heard for so long is gone.
const IDLE_TIMEOUT_MS: u32 = 10_000;

/// How often an idle connection is kept alive, and what a NAT lets through with it.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Bytes that a peer may send ahead on a new connection, on all streams together.
pub(super) const RECEIVE_BYTES: u32 = 256 << 10;

/// First packets that wait to be judged, some 8 KiB each. What comes while so many wait is refused unread.
const WAITING_MAX: usize = 1_024;

/// Bytes that may follow a first packet before it was judged: a handshake's first flight has two or three packets.
const WAITING_BYTES_MAX: u64 = 8 << 10;

/// The same, of all that wait.
const WAITING_BYTES_IN_ALL_MAX: u64 = 1 << 20;

/// Why a key cannot speak QUIC.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Certificate(#[from] libp2p_tls::certificate::GenError),
    #[error(transparent)]
    Cipher(#[from] NoInitialCipherSuite),
}

pub(super) struct Settings {
    client: quinn::ClientConfig,
    server: quinn::ServerConfig,
    endpoint: quinn::EndpointConfig,
}

impl Settings {
    pub(super) fn new(keypair: &Keypair) -> Result<Self, Error> {
        let transport = Arc::new(transport());
        let tls = libp2p_tls::make_client_config(keypair, None)?;
        let mut client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        client.transport_config(Arc::clone(&transport));

        let tls = libp2p_tls::make_server_config(keypair)?;
        let tls = QuicServerConfig::try_from(tls)?;
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls));
        server.transport_config(transport);
        // The swarm knows a connection by its address, which stays.
        server.migration(false);
        server.max_incoming(WAITING_MAX);
        server.incoming_buffer_size(WAITING_BYTES_MAX);
        server.incoming_buffer_size_total(WAITING_BYTES_IN_ALL_MAX);

        let mut endpoint = quinn::EndpointConfig::default();
        endpoint.supported_versions(vec![1]);
        Ok(Self { client, server, endpoint })
    }

    pub(super) fn client(&self) -> quinn::ClientConfig {
        self.client.clone()
    }

    pub(super) fn server(&self) -> quinn::ServerConfig {
        self.server.clone()
    }

    /// Begins to speak QUIC on a socket, and to be spoken to with `server`.
    pub(super) fn endpoint(
        &self,
        socket: UdpSocket,
        server: Option<quinn::ServerConfig>,
    ) -> io::Result<quinn::Endpoint> {
        let runtime = Arc::new(quinn::TokioRuntime);
        quinn::Endpoint::new(self.endpoint.clone(), server, socket, runtime)
    }
}

fn transport() -> quinn::TransportConfig {
    let mut transport = quinn::TransportConfig::default();
    // libp2p's streams go both ways, and it has no datagrams.
    transport.max_concurrent_uni_streams(0_u32.into());
    transport.max_concurrent_bidi_streams(QUIC_STREAMS_MAX.into());
    transport.datagram_receive_buffer_size(None);
    transport.keep_alive_interval(Some(KEEP_ALIVE));
    transport.max_idle_timeout(Some(quinn::VarInt::from_u32(IDLE_TIMEOUT_MS).into()));
    transport.allow_spin(false);
    transport.stream_receive_window(QUIC_STREAM_BYTES_MAX.into());
    transport.receive_window(RECEIVE_BYTES.into());
    transport.send_window(QUIC_SEND_BYTES_MAX);
    transport
}
