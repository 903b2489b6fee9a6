//! Whether strangers reach this node, as far as others have tried.
//!
//! Peers say where they see this node. What they say costs them nothing, so each may name a few addresses and all of
//! them a few dozen; which of those are true, peers find out by dialing them (AutoNAT).

use std::collections::BTreeMap;

use libp2p::{Multiaddr, PeerId};

use crate::{
    address_book::{is_dialable, is_relayed, without_peer},
    config::Reach,
};

/// Addresses that peers may have tested; more are passed over until the node's own addresses change.
const CANDIDATES_MAX: usize = 32;

/// Addresses that one peer may name: one for each way that it is connected, and what follows from it.
const CANDIDATES_OF_PEER_MAX: usize = 6;

/// Whether strangers reach a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reachability {
    /// Nobody has tried yet, or nobody could.
    #[default]
    Unknown,
    /// A peer dialled it and came through.
    Public,
    /// Peers dialled it, and none came through: it is behind a NAT or a firewall.
    Private,
}

impl Reachability {
    /// Returns its name, in small letters.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Public => "public",
            Self::Private => "private",
        }
    }
}

/// Returns where this node would be seen by who dials it, when it was seen somewhere: that host, with the ports that it
/// listens on for the same transport.
pub(crate) fn listening_at(seen: &Multiaddr, listening: &[Multiaddr]) -> Vec<Multiaddr> {
    let Some(host) = seen.iter().next() else { return Vec::new() };
    let kind = |address: &Multiaddr| -> Vec<_> { address.iter().map(|part| part.tag()).collect() };
    let alike =
        listening.iter().filter(|address| !is_relayed(address) && kind(address) == kind(seen));
    let mut there: Vec<_> = alike.filter_map(|at| at.replace(0, |_| Some(host.clone()))).collect();
    there.sort_unstable();
    there.dedup();
    there
}

/// Where this node was seen, and what came of dialing it there.
#[derive(Debug)]
pub(crate) struct Probes {
    reach: Reach,
    candidates: BTreeMap<Multiaddr, Candidate>,
}

#[derive(Debug)]
struct Candidate {
    named_by: PeerId,
    is_reachable: Option<bool>,
}

impl Probes {
    pub(crate) fn new(reach: Reach) -> Self {
        Self { reach, candidates: BTreeMap::new() }
    }

    /// A peer says where it sees this node. Returns the address when it is news and may be tested.
    pub(crate) fn seen_at(&mut self, peer: PeerId, address: &Multiaddr) -> Option<Multiaddr> {
        let address = without_peer(address.clone());
        let by_peer = self.candidates.values().filter(|of| of.named_by == peer).count();
        if !is_dialable(&address, self.reach)
            || is_relayed(&address)
            || self.candidates.contains_key(&address)
            || self.candidates.len() >= CANDIDATES_MAX
            || by_peer >= CANDIDATES_OF_PEER_MAX
        {
            return None;
        }
        let candidate = Candidate { named_by: peer, is_reachable: None };
        self.candidates.insert(address.clone(), candidate);
        Some(address)
    }

    /// A peer dialled one of the candidates. Returns whether that changed what this node knows of itself.
    pub(crate) fn tested(&mut self, address: &Multiaddr, is_reachable: bool) -> bool {
        let before = self.reachability();
        if let Some(candidate) = self.candidates.get_mut(&without_peer(address.clone())) {
            candidate.is_reachable = Some(is_reachable);
        }
        self.reachability() != before
    }

    /// The node is somewhere else now. What was found out counts no more.
    pub(crate) fn forget(&mut self) {
        self.candidates.clear();
    }

    /// Returns what the tests say.
    pub(crate) fn reachability(&self) -> Reachability {
        let found = |wanted| self.candidates.values().any(|of| of.is_reachable == Some(wanted));
        match (found(true), found(false)) {
            (true, _) => Reachability::Public,
            (false, true) => Reachability::Private,
            (false, false) => Reachability::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: usize) -> Multiaddr {
        format!("/ip4/203.0.113.1/tcp/{number}").parse().unwrap()
    }

    #[test]
    fn a_node_is_private_when_all_tests_fail_and_public_when_one_does_not() {
        let mut probes = Probes::new(Reach::Public);
        let peer = PeerId::random();
        assert_eq!(probes.reachability(), Reachability::Unknown);
        assert!(probes.seen_at(peer, &address(1)).is_some());
        assert!(probes.seen_at(peer, &address(2)).is_some());
        assert!(!probes.tested(&address(9), true), "nobody has seen it there");
        assert_eq!(probes.reachability(), Reachability::Unknown);
        assert!(probes.tested(&address(1), false));
        assert_eq!(probes.reachability(), Reachability::Private);
        assert!(probes.tested(&address(2), true));
        assert!(!probes.tested(&address(1), false));
        assert_eq!(probes.reachability(), Reachability::Public);
        probes.forget();
        assert_eq!(probes.reachability(), Reachability::Unknown);
    }

    #[test]
    fn from_a_passing_port_follows_where_the_node_listens() {
        let parse = |text: &str| text.parse::<Multiaddr>().unwrap();
        let listening = [
            parse("/ip4/192.168.1.2/tcp/4601"),
            parse("/ip4/127.0.0.1/tcp/4601"),
            parse("/ip4/192.168.1.2/udp/4601/quic-v1"),
            parse("/ip4/192.168.1.2/tcp/4602/ws"),
            parse("/ip6/fd00::2/tcp/4601"),
        ];
        let there = |seen: &str| listening_at(&parse(seen), &listening);
        assert_eq!(there("/ip4/203.0.113.9/tcp/50123"), [parse("/ip4/203.0.113.9/tcp/4601")]);
        let quic = parse("/ip4/203.0.113.9/udp/4601/quic-v1");
        assert_eq!(there("/ip4/203.0.113.9/udp/7/quic-v1"), [quic]);
        assert_eq!(there("/ip6/2001:db8::9/tcp/7"), [parse("/ip6/2001:db8::9/tcp/4601")]);
        assert_eq!(there("/ip6/2001:db8::9/udp/7/quic-v1"), []);
    }

    #[test]
    fn strangers_name_a_few_addresses_and_none_that_only_this_site_knows() {
        let mut probes = Probes::new(Reach::Public);
        let relayed = format!("/ip4/203.0.113.1/tcp/1/p2p/{}/p2p-circuit", PeerId::random());
        for bad in ["/ip4/127.0.0.1/tcp/1", "/ip4/192.168.0.9/tcp/1", "/memory/1", &relayed] {
            assert_eq!(probes.seen_at(PeerId::random(), &bad.parse().unwrap()), None, "{bad}");
        }
        let liar = PeerId::random();
        let taken = (1..100).filter(|port| probes.seen_at(liar, &address(*port)).is_some());
        assert_eq!(taken.count(), CANDIDATES_OF_PEER_MAX);
        assert_eq!(probes.seen_at(PeerId::random(), &address(1)), None, "it is no news");
        for port in 1..1_000 {
            probes.seen_at(PeerId::random(), &address(port));
        }
        assert_eq!(probes.candidates.len(), CANDIDATES_MAX);
    }
}
