//! Peers find each other again when whoever introduced them is gone.

use dunlin_protocols::{
    Config, KnownPeer, Multiaddr, Source, decode_known_peers, encode_known_peers,
};
use dunlin_trust::Evidence;

use super::common::{Mute, Node, connected_to, disconnected_from, local, peer};

const BOOT: u8 = 100;

/// A node that was told one address, and remembers these.
fn knowing(address: &Multiaddr, known_peers: Vec<KnownPeer>) -> Config {
    Config { bootstrap: vec![address.clone()], known_peers, ..local() }
}

/// Waits until a node is connected to so many.
async fn has_company(node: &mut Node, count: usize) {
    let company = node.settles(async |handle| {
        let views = handle.peers().await;
        let connected = views.iter().filter(|view| view.link.is_some() && view.agent.is_some());
        (connected.count() >= count).then_some(())
    });
    company.await;
}

#[tokio::test]
async fn a_node_that_restarts_finds_its_peers_though_its_bootstrap_node_is_gone() {
    let boot = Node::start(BOOT, local(), &[], Mute).await;
    let address = boot.address.clone();
    let mut alice = Node::start(1, knowing(&address, Vec::new()), &[], Mute).await;
    let bob = Node::start(2, knowing(&address, Vec::new()), &[], Mute).await;
    alice.until(|event| connected_to(event, peer(2))).await;
    let kept = alice.end().await;
    boot.shutdown().await;
    let known = |number| kept.iter().find(|known| known.peer == peer(number)).unwrap();
    assert!(known(BOOT).addresses.iter().any(|known| known.source == Source::Config));
    assert!(known(2).addresses.iter().all(|known| known.source != Source::Config));

    // As the shell keeps them.
    let kept = decode_known_peers(&encode_known_peers(&kept)).unwrap();
    let mut alice = Node::start(1, knowing(&address, kept), &[], Mute).await;

    alice.until(|event| connected_to(event, peer(2))).await;
    drop(bob);
}

#[tokio::test]
async fn what_the_operator_has_dialled_is_kept_as_the_operators_word() {
    let mut alice = Node::start(1, local(), &[], Mute).await;
    let mut bob = Node::start(2, local(), &[], Mute).await;
    alice.meet(&mut bob).await;
    let kept = alice.end().await;
    let known = kept.iter().find(|known| known.peer == peer(2)).unwrap();
    let sources: Vec<_> = known.addresses.iter().map(|known| known.source).collect();
    assert_eq!(sources, [Source::Config]);
}

#[tokio::test]
async fn a_peer_that_was_away_is_dialled_again() {
    let mut alice = Node::start(1, local(), &[], Mute).await;
    let mut bob = Node::start(2, local(), &[], Mute).await;
    alice.meet(&mut bob).await;
    let address = bob.address.clone();
    bob.shutdown().await;
    alice.until(|event| disconnected_from(event, peer(2))).await;

    // It knows nobody.
    let config = Config { listen: vec![without_peer(address)], ..local() };
    let _bob = Node::start(2, config, &[], Mute).await;

    alice.until(|event| connected_to(event, peer(2))).await;
}

fn without_peer(mut address: Multiaddr) -> Multiaddr {
    address.pop();
    address
}

#[tokio::test]
async fn who_lied_is_not_remembered() {
    let mut alice = Node::start(1, local(), &[], Mute).await;
    let (mut bob, mut carol) =
        (Node::start(2, local(), &[], Mute).await, Node::start(3, local(), &[], Mute).await);
    alice.meet(&mut bob).await;
    alice.meet(&mut carol).await;

    alice.handle.judge(peer(2), Evidence::WrongCid, 1).await;

    let kept = alice.end().await;
    assert_eq!(kept.iter().map(|known| known.peer).collect::<Vec<_>>(), [peer(3)]);
}

#[tokio::test]
async fn twenty_peers_go_on_without_the_node_that_introduced_them() {
    let boot = Node::start(BOOT, local(), &[], Mute).await;
    let address = boot.address.clone();
    let mut peers = Vec::new();
    for number in 0..20 {
        peers.push(Node::start(number, knowing(&address, Vec::new()), &[], Mute).await);
    }
    for node in &mut peers {
        has_company(node, 8).await;
    }
    boot.shutdown().await;

    // A new one is told of one of them, and finds others.
    let mut newcomer = Node::start(50, knowing(&peers[7].address, Vec::new()), &[], Mute).await;
    has_company(&mut newcomer, 8).await;

    // Five leave at once, and come back to other ports with what they remember.
    let mut left = Vec::new();
    for number in 0..5 {
        left.push((number, peers.remove(0).end().await));
    }
    let mut back = Vec::new();
    for (number, kept) in left {
        assert!(kept.len() >= 8, "{} are known", kept.len());
        back.push(Node::start(number, knowing(&address, kept), &[], Mute).await);
    }
    for node in &mut back {
        has_company(node, 8).await;
    }
    // And one that none of them knew comes by one of those.
    let mut late = Node::start(51, knowing(&back[2].address, Vec::new()), &[], Mute).await;
    has_company(&mut late, 8).await;
}
