//! The transports: TCP, QUIC, WebSocket, and connections that a relay carries.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use libp2p::{
    Multiaddr, PeerId, Transport as _,
    core::{
        muxing::{StreamMuxer, StreamMuxerBox},
        transport::{Boxed, timeout::TransportTimeout},
        upgrade::Version,
    },
    dns,
    identity::Keypair,
    multiaddr::Protocol,
    noise, relay, tcp, websocket,
};

use crate::{
    address_book::is_relayed,
    bandwidth::{Meter, Metered, Meters},
    config::Config,
    multiplexer,
    network::StartError,
    quic::{self, TurnedAway},
    refusals::Deciding,
};

/// A connection that is not agreed upon after this is given up, dialled or accepted: whoever sends half a handshake
/// holds its place no longer. AutoNAT gives a peer its answer within 10 s or never, and a firewall that drops what it does
/// not let in makes every dial last this long: less leaves time for that answer.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(8);

/// Returns what reaches nobody: connections that a relay carries, without any to reach a relay by.
pub(crate) fn none(
    keypair: &Keypair,
    relayed: relay::client::Transport,
    meters: &Arc<Meters>,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, StartError> {
    let fail = |cause: noise::Error| StartError::Transport { cause: cause.to_string() };
    let security = noise::Config::new(keypair).map_err(fail)?;
    Ok(carried(relayed, security, meters, multiplexer::Upgrade::default()))
}

fn carried(
    relayed: relay::client::Transport,
    security: noise::Config,
    meters: &Arc<Meters>,
    yamux: multiplexer::Upgrade,
) -> Boxed<(PeerId, StreamMuxerBox)> {
    let counting = Arc::clone(meters);
    let relayed = relayed.upgrade(Version::V1Lazy).authenticate(security);
    let relayed = relayed
        .multiplex(yamux)
        .map(move |(peer, muxer), _| (peer, boxed(muxer, counting.connection(peer, true))));
    relayed.boxed()
}

/// Returns a connection that is counted, and ends when its peer only asks.
fn boxed<M>(connection: M, meters: Vec<Arc<Meter>>) -> StreamMuxerBox
where
    M: StreamMuxer<Substream: Send + Unpin + 'static, Error: Send + Sync + 'static>
        + Send
        + Unpin
        + 'static,
{
    StreamMuxerBox::new(Metered::new(Deciding::new(connection), meters))
}

/// Returns all transports as one; which of a peer's addresses are tried first is the swarm's business. What QUIC does not
/// let in is counted in `turned_away`.
pub(crate) fn all(
    keypair: &Keypair,
    relayed: relay::client::Transport,
    meters: &Arc<Meters>,
    config: &Config,
    turned_away: &Arc<TurnedAway>,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, StartError> {
    let fail = |cause: &dyn std::fmt::Display| StartError::Transport { cause: cause.to_string() };
    let security = noise::Config::new(keypair).map_err(|cause| fail(&cause))?;
    let plain_tcp = || tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    let yamux = multiplexer::Upgrade::default();

    let counting = Arc::clone(meters);
    let tcp = plain_tcp()
        .upgrade(Version::V1Lazy)
        .authenticate(security.clone())
        .multiplex(yamux.clone())
        .map(move |(peer, muxer), _| (peer, boxed(muxer, counting.connection(peer, false))));

    let counting = Arc::clone(meters);
    let quic = quic::Transport::new(keypair, config.one_machine, Arc::clone(turned_away));
    let quic = quic
        .map_err(|cause| fail(&cause))?
        .map(move |(peer, muxer), _| (peer, boxed(muxer, counting.connection(peer, false))));

    let direct = tcp.or_transport(quic).map(|either, _| either.into_inner());
    let names = names_or_none(&config.dns);
    let direct = named(direct, &names);

    let counting = Arc::clone(meters);
    let websocket = websocket::Config::new(named(plain_tcp(), &names))
        .upgrade(Version::V1Lazy)
        .authenticate(security.clone())
        .multiplex(yamux.clone())
        .map(move |(peer, muxer), _| (peer, boxed(muxer, counting.connection(peer, false))));

    // Relayed and WebSocket addresses are longer ones of the others, so these must see them first.
    let all = carried(relayed, security, meters, yamux)
        .or_transport(websocket)
        .map(|either, _| either.into_inner())
        .or_transport(direct)
        .map(|either, _| either.into_inner());
    Ok(TransportTimeout::new(all, HANDSHAKE_TIMEOUT).boxed())
}

/// Whom to ask about names, and how.
type Names = (ResolverConfig, ResolverOpts);

/// Checks that there is somebody to ask about names: one of `servers`, or else whom the system names.
///
/// # Errors
///
/// Fails when the system names nobody, or in a way that cannot be read. A node starts nevertheless, and reaches addresses
/// without names.
pub fn check_name_servers(servers: &[SocketAddr]) -> io::Result<()> {
    names(servers).map(drop)
}

fn names(servers: &[SocketAddr]) -> io::Result<Names> {
    if servers.is_empty() {
        return hickory_resolver::system_conf::read_system_conf().map_err(io::Error::other);
    }
    let servers = servers.iter().map(name_server).collect();
    Ok((ResolverConfig::from_parts(None, Vec::new(), servers), ResolverOpts::default()))
}

/// A machine whose system names no server, or in a way that no resolver understands, still reaches addresses.
fn names_or_none(servers: &[SocketAddr]) -> Names {
    names(servers).unwrap_or_else(|cause| {
        tracing::warn!(%cause, "the system names no server for names; addresses with names are not reached");
        (ResolverConfig::from_parts(None, Vec::new(), Vec::new()), ResolverOpts::default())
    })
}

/// Returns a transport that also dials names.
fn named<T>(inner: T, names: &Names) -> dns::tokio::Transport<T> {
    dns::tokio::Transport::custom(inner, names.0.clone(), names.1.clone())
}

fn name_server(at: &SocketAddr) -> NameServerConfig {
    let ways = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut way| {
        way.port = at.port();
        way
    });
    NameServerConfig::new(at.ip(), true, ways.into())
}

/// Checks that nobody listens on a TCP address. libp2p shares its ports, so without this a second node on
/// the port of another would start, and each would be met by half of their peers.
pub(crate) fn check_free(address: &Multiaddr) -> io::Result<()> {
    // At a relay it is the relay that listens.
    if is_relayed(address) {
        return Ok(());
    }
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next() {
        Some(Protocol::Ip4(ip)) => ip.into(),
        Some(Protocol::Ip6(ip)) => ip.into(),
        _ => return Ok(()),
    };
    match parts.next() {
        Some(Protocol::Tcp(port)) if port != 0 => TcpListener::bind((ip, port)).map(drop),
        _ => Ok(()),
    }
}
