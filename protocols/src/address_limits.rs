//! Limits for one address: how many connections it may hold, and how fast it may open them.
//!
//! libp2p limits connections by peer, but peer ids cost nothing. Addresses cost something, so inbound
//! connections are counted by IPv4 address, and by /64 for IPv6. Of those that a relay brings only the relay is known, so
//! they are counted by that.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::IpAddr,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    multiaddr::Protocol,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm, dummy,
    },
};

use crate::{
    address_book::relay_of,
    address_rates::{AddressRates, Group},
    rate::Rate,
};

/// Inbound connections of one address, half open ones included.
const CONNECTIONS_MAX: usize = 8;

/// Inbound connections that one relay may bring.
const RELAYED_MAX: usize = 32;

/// How fast one address may open connections.
pub(crate) const OPENING: Rate = Rate { burst: 16, every: Duration::from_millis(500) };

/// Refuses inbound connections beyond the limits for one address.
#[derive(Debug)]
pub(crate) struct Behaviour {
    exempt_loopback: bool,
    connections: HashMap<ConnectionId, Group>,
    counts: HashMap<Group, usize>,
    rates: AddressRates,
    refused: u64,
}

impl Behaviour {
    /// Returns the limits; with `exempt_loopback`, nodes on this machine are not counted.
    pub(crate) fn new(exempt_loopback: bool) -> Self {
        Self {
            exempt_loopback,
            connections: HashMap::new(),
            counts: HashMap::new(),
            rates: AddressRates::new(OPENING),
            refused: 0,
        }
    }

    /// Returns how many connections were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    fn admit(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
        now: Instant,
    ) -> Result<(), Refused> {
        let Some(group) = relay_of(local).map(Group::Relay).or_else(|| self.group_of(remote))
        else {
            return Ok(());
        };
        let count = self.counts.get(&group).copied().unwrap_or(0);
        let count_max = match group {
            Group::Relay(_) => RELAYED_MAX,
            _ => CONNECTIONS_MAX,
        };
        if count >= count_max {
            self.refused += 1;
            return Err(Refused::TooMany);
        }
        if !self.rates.take(group, now) {
            self.refused += 1;
            return Err(Refused::TooFast);
        }
        self.connections.insert(connection, group);
        self.counts.insert(group, count + 1);
        Ok(())
    }

    fn forget(&mut self, connection: ConnectionId) {
        let Some(group) = self.connections.remove(&connection) else { return };
        if let Some(count) = self.counts.get_mut(&group) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&group);
            }
        }
    }

    fn group_of(&self, address: &Multiaddr) -> Option<Group> {
        let address = address.iter().find_map(|part| match part {
            Protocol::Ip4(address) => Some(IpAddr::V4(address)),
            Protocol::Ip6(address) => Some(IpAddr::V6(address).to_canonical()),
            _ => None,
        })?;
        if self.exempt_loopback && address.is_loopback() {
            return None;
        }
        Some(address.into())
    }
}

/// Why a connection was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Refused {
    #[error("the address holds as many connections as it may")]
    TooMany,
    #[error("the address opens connections too fast")]
    TooFast,
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.admit(connection, local, remote, Instant::now()).map_err(ConnectionDenied::new)
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(closed) => self.forget(closed.connection_id),
            FromSwarm::ListenFailure(failure) => self.forget(failure.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> ConnectionId {
        ConnectionId::new_unchecked(number)
    }

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_ninth_connection_of_an_address_is_refused_until_one_closes() {
        let mut limits = Behaviour::new(false);
        let (one, other) = (address("/ip4/192.0.2.1/tcp/1"), address("/ip4/192.0.2.2/tcp/1"));
        let now = Instant::now();
        for number in 0..CONNECTIONS_MAX {
            assert_eq!(limits.admit(id(number), &here(), &one, now), Ok(()));
        }
        assert_eq!(limits.admit(id(8), &here(), &one, now), Err(Refused::TooMany));
        assert_eq!(limits.admit(id(9), &here(), &other, now), Ok(()));
        limits.forget(id(3));
        assert_eq!(limits.admit(id(10), &here(), &one, now), Ok(()));
        assert_eq!(limits.refused(), 1);
    }

    /// Where this node listens.
    fn here() -> Multiaddr {
        address("/ip4/198.51.100.1/tcp/4601")
    }

    #[test]
    fn what_a_relay_brings_counts_for_the_relay() {
        let mut limits = Behaviour::new(false);
        let relay = PeerId::random();
        let through = address(&format!("/ip4/203.0.113.1/tcp/1/p2p/{relay}/p2p-circuit"));
        // They come one after the other, as fast as one address may open connections.
        let mut now = Instant::now();
        let mut admit = |limits: &mut Behaviour, number| {
            now += Duration::from_secs(1);
            let remote = address(&format!("/p2p/{}", PeerId::random()));
            limits.admit(id(number), &through, &remote, now)
        };
        assert!((0..RELAYED_MAX).all(|number| admit(&mut limits, number).is_ok()));
        assert_eq!(admit(&mut limits, 100), Err(Refused::TooMany));
        limits.forget(id(0));
        assert_eq!(admit(&mut limits, 101), Ok(()));
    }

    #[test]
    fn an_address_that_reconnects_all_the_time_is_slowed_down() {
        let mut limits = Behaviour::new(false);
        let remote = address("/ip6/2001:db8::1/tcp/1");
        let start = Instant::now();
        let admitted = |limits: &mut Behaviour, at| {
            let mut count = 0;
            while limits.admit(id(count), &here(), &remote, at).is_ok() {
                limits.forget(id(count));
                count += 1;
            }
            count
        };
        assert_eq!(admitted(&mut limits, start), 16);
        assert_eq!(admitted(&mut limits, start + Duration::from_secs(1)), 2);
    }

    #[test]
    fn a_whole_ipv6_network_counts_as_one_and_loopback_only_when_asked() {
        let mut limits = Behaviour::new(true);
        let now = Instant::now();
        for number in 0..CONNECTIONS_MAX {
            let remote = address(&format!("/ip6/2001:db8::{number}/udp/1/quic-v1"));
            assert_eq!(limits.admit(id(number), &here(), &remote, now), Ok(()));
        }
        let ninth = address("/ip6/2001:db8::ffff/udp/1/quic-v1");
        assert_eq!(limits.admit(id(8), &here(), &ninth, now), Err(Refused::TooMany));
        let local = address("/ip4/127.0.0.1/tcp/1");
        assert!((100..120).all(|number| limits.admit(id(number), &here(), &local, now).is_ok()));
        assert!(
            !(100..120).all(|number| Behaviour::new(false)
                .admit(id(number), &here(), &local, now)
                .is_err())
        );
    }

    #[test]
    fn who_left_is_not_remembered() {
        let mut limits = Behaviour::new(false);
        let now = Instant::now();
        for number in 0..500 {
            let remote = address(&format!("/ip4/10.0.{}.{}/tcp/1", number / 256, number % 256));
            limits.admit(id(number), &here(), &remote, now).unwrap();
            limits.forget(id(number));
        }
        assert!(limits.counts.is_empty() && limits.connections.is_empty());
    }
}
