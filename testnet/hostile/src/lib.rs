//! A hostile client: what a stranger with time and addresses may try against a node, for tests on one's own machine.
//!
//! It speaks libp2p by hand (`client.rs`), because a swarm would keep the rules. Each [`Attack`] is one file of
//! `attacks/`. It reaches loopback and private addresses alone: this is no tool against others. [`Guest`] is the honest
//! one, for crowds.

#![forbid(unsafe_code)]

mod attacks;
mod client;
mod guest;
mod proto;
mod tally;

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use dunlin_protocols::{Multiaddr, PeerId};
use libp2p::multiaddr::Protocol;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use self::tally::Tally;
pub use self::{guest::Guest, tally::Report};

/// What is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attack {
    /// Connections from one address, as many as there can be, each held.
    ConnectionsOne,
    /// The same from many addresses, each with a key of its own.
    ConnectionsMany,
    /// Handshakes of a byte a second.
    SlowHandshakes,
    /// Streams of every protocol that are opened, and on which nothing is said.
    Streams,
    /// Messages far beyond every limit, on every protocol.
    Oversize,
    /// Messages that begin, and never end.
    Half,
    /// Questions without end, whose answers are not read.
    Unread,
    /// Gossip: subscriptions, messages and talk about messages, all of it junk.
    Gossip,
    /// Records and providers that nobody made, with private addresses.
    KadRecords,
    /// Many keys at one address that want to be all that a node knows.
    KadEclipse,
    /// Introductions of a mebibyte, with thousands of addresses and protocols, again and again.
    Identify,
    /// Yamux: streams without end, more than the window, pings, and windows that overflow.
    Yamux,
    /// Requests that nest as deeply as they can.
    Nesting,
    /// Packets from one address that each begin a QUIC connection, of which nothing comes.
    QuicInitials,
    /// QUIC handshakes from many addresses that stay half.
    QuicHalf,
    /// QUIC connections from many addresses, each with a key of its own, as many as there can be, each held.
    QuicConnections,
    /// The same as [`Unread`](Self::Unread), on as many streams as a QUIC connection may have.
    QuicUnread,
}

impl Attack {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::ConnectionsOne,
        Self::ConnectionsMany,
        Self::SlowHandshakes,
        Self::Streams,
        Self::Oversize,
        Self::Half,
        Self::Unread,
        Self::Gossip,
        Self::KadRecords,
        Self::KadEclipse,
        Self::Identify,
        Self::Yamux,
        Self::Nesting,
        Self::QuicInitials,
        Self::QuicHalf,
        Self::QuicConnections,
        Self::QuicUnread,
    ];

    /// Returns whether it needs a victim that listens on QUIC; all others take TCP.
    #[must_use]
    pub fn is_over_quic(self) -> bool {
        matches!(
            self,
            Self::QuicInitials | Self::QuicHalf | Self::QuicConnections | Self::QuicUnread
        )
    }

    /// Returns what the command line calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ConnectionsOne => "connections-one",
            Self::ConnectionsMany => "connections-many",
            Self::SlowHandshakes => "slow-handshakes",
            Self::Streams => "streams",
            Self::Oversize => "oversize",
            Self::Half => "half",
            Self::Unread => "unread",
            Self::Gossip => "gossip",
            Self::KadRecords => "kad-records",
            Self::KadEclipse => "kad-eclipse",
            Self::Identify => "identify",
            Self::Yamux => "yamux",
            Self::Nesting => "nesting",
            Self::QuicInitials => "quic-initials",
            Self::QuicHalf => "quic-half",
            Self::QuicConnections => "quic-connections",
            Self::QuicUnread => "quic-unread",
        }
    }
}

impl std::str::FromStr for Attack {
    type Err = UnknownAttack;

    fn from_str(name: &str) -> Result<Self, UnknownAttack> {
        let found = Self::ALL.into_iter().find(|attack| attack.name() == name);
        found.ok_or_else(|| UnknownAttack { name: name.to_owned() })
    }
}

impl std::fmt::Display for Attack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// No attack has this name.
#[derive(Debug, thiserror::Error)]
#[error(
    "no attack is called {name:?}; there are connections-one, connections-many, slow-handshakes, streams, oversize, half, unread, gossip, kad-records, kad-eclipse, identify, yamux, nesting, quic-initials, quic-half, quic-connections and quic-unread"
)]
pub struct UnknownAttack {
    /// The name.
    pub name: String,
}

/// Whom to attack, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// What to try.
    pub attack: Attack,
    /// The victim: an IPv4 address with TCP, or QUIC where the attack is over that, and its peer id.
    pub target: Multiaddr,
    /// Its network.
    pub network: String,
    /// The first address to come from.
    pub from: Ipv4Addr,
    /// How many addresses follow each other from there.
    pub addresses: u8,
    /// For how long.
    pub during: Duration,
}

/// Attacks until the time is over, and returns what came of it; blocks.
///
/// # Errors
///
/// Fails when the target is not on this machine or a private network, or is not named in full.
pub fn run(options: &Options) -> Result<Report, HostileError> {
    // In life an attacker has machines of its own, and takes none of the victim's processor.
    rustix::process::nice(10).ok();
    let target = Target::read(options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|cause| HostileError::Runtime { cause })?;
    let tally = Arc::new(Tally::default());
    runtime.block_on(attacks::run(options.attack, target, &tally));
    runtime.shutdown_background();
    Ok(tally.report(options.attack))
}

/// The victim, and where attackers come from.
#[derive(Clone, Debug)]
struct Target {
    address: SocketAddrV4,
    peer: PeerId,
    network: String,
    from: Ipv4Addr,
    addresses: u8,
    end: Duration,
}

impl Target {
    fn read(options: &Options) -> Result<Self, HostileError> {
        let Options { attack, target, network, from, addresses, during } = options;
        let over = if attack.is_over_quic() { Over::Quic } else { Over::Tcp };
        Ok(Self { end: *during, ..Self::named(target, over, network, *from, *addresses)? })
    }

    /// Returns a target that is reached by TCP, for no time.
    fn of(
        target: &Multiaddr,
        network: &str,
        from: Ipv4Addr,
        addresses: u8,
    ) -> Result<Self, HostileError> {
        Self::named(target, Over::Tcp, network, from, addresses)
    }

    fn named(
        target: &Multiaddr,
        over: Over,
        network: &str,
        from: Ipv4Addr,
        addresses: u8,
    ) -> Result<Self, HostileError> {
        let bad = || HostileError::Target { target: target.clone() };
        let (mut host, mut port, mut peer) = (None, None, None);
        for part in target {
            match part {
                Protocol::Ip4(address) => host = Some(address),
                Protocol::Tcp(number) if over == Over::Tcp => port = Some(number),
                Protocol::Udp(number) if over == Over::Quic => port = Some(number),
                Protocol::P2p(id) => peer = Some(id),
                _ => {}
            }
        }
        let (Some(host), Some(port), Some(peer)) = (host, port, peer) else { return Err(bad()) };
        if !(host.is_loopback() || host.is_private()) {
            return Err(HostileError::Foreign { target: target.clone() });
        }
        Ok(Self {
            address: SocketAddrV4::new(host, port),
            peer,
            network: network.to_owned(),
            from,
            addresses: addresses.max(1),
            end: Duration::ZERO,
        })
    }

    /// Returns one of the addresses to come from.
    fn source(&self, number: usize) -> Ipv4Addr {
        let [a, b, c, d] = self.from.octets();
        let step = u8::try_from(number % usize::from(self.addresses)).unwrap_or(0);
        Ipv4Addr::new(a, b, c, d.wrapping_add(step))
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.end
    }
}

/// What a target is reached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Tcp,
    Quic,
}

/// Why an attack, or a visit, cannot begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostileError {
    /// The target is not named in full.
    #[error(
        "{target} is not /ip4/ADDRESS/tcp/PORT/p2p/PEER, or .../udp/PORT/quic-v1/p2p/PEER for attacks over QUIC"
    )]
    Target {
        /// What was given.
        target: Multiaddr,
    },
    /// It is no test network's.
    #[error(
        "{target} is neither on this machine nor private; attacks are for networks of one's own"
    )]
    Foreign {
        /// What was given.
        target: Multiaddr,
    },
    /// It did not let a client in.
    #[error("{target} does not let a client in")]
    Refused {
        /// What was given.
        target: Multiaddr,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// The system gives no threads.
    #[error("cannot start threads")]
    Runtime {
        /// Why.
        #[source]
        cause: std::io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_attacks() {
        for attack in Attack::ALL {
            assert_eq!(attack.name().parse::<Attack>().unwrap(), attack);
        }
        assert!("ddos".parse::<Attack>().is_err());
    }

    #[test]
    fn nobody_elses_machine_is_attacked() {
        let peer = PeerId::random();
        let options = |target: &str| Options {
            attack: Attack::Half,
            target: target.parse().unwrap(),
            network: "test".to_owned(),
            from: Ipv4Addr::LOCALHOST,
            addresses: 1,
            during: Duration::ZERO,
        };
        let foreign = options(&format!("/ip4/8.8.8.8/tcp/1/p2p/{peer}"));
        assert!(matches!(run(&foreign), Err(HostileError::Foreign { .. })));
        assert!(matches!(run(&options("/ip4/127.0.0.1/tcp/1")), Err(HostileError::Target { .. })));
    }
}
