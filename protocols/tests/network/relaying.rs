//! Relays and AutoNAT: what they do for peers, within which limits, and for whom they do nothing.
//!
//! On loopback everybody is reachable, so the nodes here are told to use a relay; that they find one by themselves
//! behind a NAT is tested with real ones (`node/tests/nat`).

use std::time::Duration;

use dunlin_protocols::{
    Config, Multiaddr, NetworkError, Reachability, RelayLimits, messages::SegmentsResponse,
};
use dunlin_wire::block::{Block, Codec};
use tokio::time::timeout;

use super::common::{Mute, Node, Segments, connected_to, disconnected_from, local, peer, within};

/// A node that relays, and dials back.
async fn relay(number: u8, limits: RelayLimits) -> Node {
    let mut config = local();
    config.helping = Some(limits);
    Node::start(number, config, &[], Mute).await
}

/// The configuration of a node that is reached through a relay alone.
fn behind(relay: &Node) -> Config {
    let mut config = local();
    config.listen = vec![relay.address.clone().with(libp2p::multiaddr::Protocol::P2pCircuit)];
    config
}

/// Has one node dial another until they meet: a relay may not yet have a place for it. What is dialled twice at once may
/// become two connections, so a dial has its time.
async fn meet_through(dialer: &mut Node, other: &mut Node) {
    let (address, them, me) = (other.address.clone(), other.peer(), dialer.peer());
    assert!(address.to_string().contains("p2p-circuit"), "{address}");
    within(async {
        loop {
            dialer.handle.dial(address.clone()).await.unwrap();
            let met = dialer.until(|event| connected_to(event, them));
            if timeout(Duration::from_secs(5), met).await.is_ok() {
                break;
            }
        }
    })
    .await;
    other.until(|event| connected_to(event, me)).await;
}

#[tokio::test]
async fn peers_that_cannot_dial_each_other_meet_through_a_relay() {
    let relay = relay(1, RelayLimits::default()).await;
    let block = Block::new(Codec::Raw, vec![7; 100_000]);
    let found = block.clone();
    let shelf = Segments(move |_| SegmentsResponse::fitting(vec![found.clone()], Vec::new()));
    let mut bob = Node::start(2, behind(&relay), &[3], shelf).await;
    let mut alice = Node::start(3, behind(&relay), &[], Mute).await;

    meet_through(&mut alice, &mut bob).await;

    for (node, other) in [(&alice, bob.peer()), (&bob, alice.peer())] {
        let view = node.handle.explain(other).await.unwrap();
        let link = view.link.unwrap();
        assert_eq!(link.relay, Some(relay.peer()), "{link:?}");
    }
    let answer = alice.handle.blocks(bob.peer(), vec![*block.cid()]).await.unwrap();
    assert_eq!(answer.blocks, [block]);
    let view = alice.handle.explain(bob.peer()).await.unwrap();
    assert!(view.link.unwrap().traffic.down > 100_000);
    assert!(view.protocols.iter().any(|name| name.as_ref() == "/dunlin/segments/1"));
    let counters = relay.handle.counters().await;
    assert_eq!((counters.relay_reservations, counters.relay_refused), (2, 0));
    assert!(counters.relay_circuits >= 1 && counters.bytes_sent > 100_000, "{counters:?}");
}

#[tokio::test]
async fn a_relayed_connection_that_carries_too_much_is_cut() {
    let limits = RelayLimits { circuit_bytes: 64 << 10, ..RelayLimits::default() };
    let relay = relay(1, limits).await;
    let shelf = Segments(move |_| {
        SegmentsResponse::fitting(vec![Block::new(Codec::Raw, vec![7; 200_000])], Vec::new())
    });
    let mut bob = Node::start(2, behind(&relay), &[3], shelf).await;
    let mut alice = Node::start(3, behind(&relay), &[], Mute).await;
    meet_through(&mut alice, &mut bob).await;

    let cid = *Block::new(Codec::Raw, vec![7; 200_000]).cid();
    let failed = alice.handle.blocks(bob.peer(), vec![cid]).await;

    assert!(matches!(failed, Err(NetworkError::Failed { .. })), "{failed:?}");
    // It is the connection that has an end, not the peers' acquaintance. Each notices the end in its own time, and
    // who dials before that dials a peer that it believes to have.
    for (node, other) in [(&mut alice, peer(2)), (&mut bob, peer(3))] {
        node.until(|event| disconnected_from(event, other)).await;
    }
    meet_through(&mut alice, &mut bob).await;
}

#[tokio::test]
async fn a_relay_has_as_many_places_as_it_may_have() {
    let limits = RelayLimits { reservations: 2, ..RelayLimits::default() };
    let mut relay = relay(1, limits).await;
    let _first = Node::start(2, behind(&relay), &[], Mute).await;
    let _second = Node::start(3, behind(&relay), &[], Mute).await;

    // This one is not told where it listens, because it does not.
    let trust = dunlin_trust::Trust::new(dunlin_trust::Config::default(), Vec::new());
    let third =
        dunlin_protocols::Network::start(behind(&relay), super::common::key(4), trust).await;
    let (third, _events, _network) = third.unwrap();

    relay.settles(async |handle| (handle.counters().await.relay_refused > 0).then_some(())).await;
    assert_eq!(third.listening().await, Vec::<Multiaddr>::new());
    assert_eq!(relay.handle.counters().await.relay_reservations, 2);
}

#[tokio::test]
async fn a_quarantined_peer_is_not_relayed_to() {
    let relay = relay(1, RelayLimits::default()).await;
    let mut bob = Node::start(2, behind(&relay), &[], Mute).await;
    let mut alice = Node::start(3, behind(&relay), &[], Mute).await;
    meet_through(&mut alice, &mut bob).await;

    relay.handle.quarantine(bob.peer(), true).await.unwrap();

    // What goes on stands still, and nothing new begins.
    let carol = Node::start(4, behind(&relay), &[], Mute).await;
    for _ in 0..5 {
        carol.handle.dial(bob.address.clone()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let views = carol.handle.connected().await;
    assert!(views.iter().all(|view| view.peer != bob.peer()));
}

#[tokio::test]
async fn a_node_finds_out_that_strangers_reach_it() {
    let helper = relay(1, RelayLimits::default()).await;
    let mut config = local();
    config.bootstrap = vec![helper.address.clone()];
    let mut node = Node::start(2, config, &[], Mute).await;
    assert_eq!(node.handle.reaching().await.reachability, Reachability::Unknown);

    let found = node
        .settles(async |handle| {
            let reaching = handle.reaching().await;
            (reaching.reachability == Reachability::Public).then_some(reaching)
        })
        .await;

    let mut listening = node.address.clone();
    listening.pop();
    assert_eq!(found.external, [listening]);
    assert_eq!(found.relays, [], "who is reached needs none");
    assert!(helper.handle.counters().await.probes_served > 0);
}

#[tokio::test]
async fn who_is_not_heard_is_not_dialled_back() {
    let helper = relay(1, RelayLimits::default()).await;
    helper.handle.quarantine(peer(2), true).await.unwrap();
    let mut config = local();
    config.bootstrap = vec![helper.address.clone()];
    let mut node = Node::start(2, config, &[], Mute).await;
    let them = helper.peer();
    node.settles(async |handle| {
        handle.connected().await.into_iter().find(|view| view.peer == them && view.agent.is_some())
    })
    .await;

    // Several times as long as it takes to ask.
    within(tokio::time::sleep(Duration::from_secs(8))).await;

    assert_eq!(helper.handle.counters().await.probes_served, 0);
    assert_eq!(node.handle.reaching().await.reachability, Reachability::Unknown);
}
