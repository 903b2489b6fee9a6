//! Ports that the node will listen on, and whether the bootstrap nodes answer.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket},
    time::Duration,
};

use dunlin_protocols::{Multiaddr, Protocol};

use super::Finding;
use crate::config::{Config, Mode, NetworkConfig};

/// Longest wait for a bootstrap node to take a connection.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// Bootstrap nodes that are tried; each may take [`DIAL_TIMEOUT`].
const DIALED_MAX: usize = 8;

/// What of a multiaddr matters here.
#[derive(Debug, PartialEq, Eq)]
struct Endpoint {
    host: String,
    is_tcp: bool,
    port: u16,
}

impl Endpoint {
    /// Returns where an address leads to, when that is a host and a port.
    fn of(address: &Multiaddr) -> Option<Self> {
        let text = address.to_string();
        let mut parts = text.split('/').skip(1);
        let kind = parts.next()?;
        let host =
            matches!(kind, "ip4" | "ip6" | "dns" | "dns4" | "dns6").then(|| parts.next())??;
        let is_tcp = match parts.next()? {
            "tcp" => true,
            "udp" => false,
            _ => return None,
        };
        Some(Self { host: host.to_owned(), is_tcp, port: parts.next()?.parse().ok()? })
    }

    fn bind(&self) -> io::Result<()> {
        let host: IpAddr = self.host.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
        let address = SocketAddr::new(host, self.port);
        if self.is_tcp {
            TcpListener::bind(address).map(drop)
        } else {
            UdpSocket::bind(address).map(drop)
        }
    }

    fn dial(&self) -> io::Result<SocketAddr> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in (self.host.as_str(), self.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, DIAL_TIMEOUT) {
                Ok(_) => return Ok(address),
                Err(cause) => last = cause,
            }
        }
        Err(last)
    }
}

/// Tries every address that the node is going to listen on.
pub(super) fn free(config: &Config) -> Vec<Finding> {
    let is_air_gapped = config.network.mode == Mode::AirGapped;
    let listen = config.network.listen.iter().filter(|_| !is_air_gapped);
    let mut taken = Vec::new();
    for address in listen {
        if let Some(Err(cause)) = Endpoint::of(address).map(|endpoint| endpoint.bind()) {
            taken.push(Finding::broken(
                "ports",
                format!("cannot listen on {address}: {cause}"),
                "stop what uses it, or choose another one in `network.listen`",
            ));
        }
    }
    let gateway = config.gateway.listen.0.map(|address| ("gateway", address));
    for (what, address) in [("api", config.api.listen)].into_iter().chain(gateway) {
        if let Err(cause) = TcpListener::bind(address) {
            taken.push(Finding::broken(
                "ports",
                format!("cannot listen on {address}: {cause}"),
                format!("stop what uses it, or choose another one in `{what}.listen`"),
            ));
        }
    }
    if taken.is_empty() {
        taken.push(Finding::fine("ports", "all addresses that it listens on are free"));
    }
    taken
}

/// Looks whom a node may ask about the names of bootstrap nodes; nothing where none has a name.
pub(super) fn names(network: &NetworkConfig) -> Option<Finding> {
    let is_name = |part| {
        use Protocol::{Dns, Dns4, Dns6, Dnsaddr};
        matches!(part, Dns(_) | Dns4(_) | Dns6(_) | Dnsaddr(_))
    };
    network.bootstrap.iter().find(|address| address.iter().any(is_name))?;
    Some(match dunlin_protocols::check_name_servers(&network.dns) {
        Ok(()) => Finding::fine("names", "there is a server to ask about names"),
        Err(cause) => Finding::doubtful(
            "names",
            format!("the system names no server to ask about names: {cause}"),
            "name one in `network.dns`; until then, addresses with names are not reached",
        ),
    })
}

/// Dials the bootstrap nodes, as far as TCP reaches them.
pub(super) fn bootstrap(network: &NetworkConfig, connected: u64) -> Vec<Finding> {
    if network.bootstrap.is_empty() {
        return vec![match (network.mdns, connected) {
            (_, 1..) | (true, _) => {
                Finding::fine("bootstrap", "none named; peers are found by mDNS")
            }
            (false, 0) => Finding::doubtful(
                "bootstrap",
                "none named, and `network.mdns` is off: nobody will be found",
                "name a bootstrap node in `network.bootstrap`, or turn mDNS on",
            ),
        }];
    }
    let dial = |address: &Multiaddr| match Endpoint::of(address) {
        Some(endpoint) if endpoint.is_tcp => match endpoint.dial() {
            Ok(reached) => Finding::fine("bootstrap", format!("{address} answers at {reached}")),
            Err(cause) => Finding::doubtful(
                "bootstrap",
                format!("{address} does not answer: {cause}"),
                "check the address, and that a firewall lets it out; peers that are known already are \
                 found without it",
            ),
        },
        _ => Finding::fine("bootstrap", format!("{address} is tried by a running node alone")),
    };
    let mut findings: Vec<_> = network.bootstrap.iter().take(DIALED_MAX).map(dial).collect();
    if let Some(left @ 1..) = network.bootstrap.len().checked_sub(DIALED_MAX) {
        findings.push(Finding::fine("bootstrap", format!("{left} more were not tried")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_read() {
        let read = |text: &str| Endpoint::of(&text.parse().unwrap());
        let endpoint =
            |host: &str, is_tcp, port| Some(Endpoint { host: host.to_owned(), is_tcp, port });
        assert_eq!(read("/ip4/127.0.0.1/tcp/4602/ws"), endpoint("127.0.0.1", true, 4_602));
        assert_eq!(read("/ip6/::/udp/4601/quic-v1"), endpoint("::", false, 4_601));
        assert_eq!(read("/dns4/a.example/tcp/1"), endpoint("a.example", true, 1));
        assert_eq!(read("/dnsaddr/a.example"), None);
    }
}
