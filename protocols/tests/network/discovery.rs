//! How peers find each other, and whom they do not want to know.

use dunlin_protocols::{Config, Event, Handle, StreamProtocol};
use dunlin_trust::Evidence;
use dunlin_wire::block::{Codec, cid_of};

use super::common::{
    Mute, Node, connected_to, disconnected_from, key, local, peer, stranger::Stranger, within,
};

const BOOT: u8 = 100;

fn knowing(boot: &Node) -> Config {
    let mut config = local();
    config.bootstrap = vec![boot.address.clone()];
    config
}

#[tokio::test]
async fn six_peers_that_know_one_address_all_find_each_other() {
    let boot = Node::start(BOOT, local(), &[], Mute).await;
    let started = std::time::Instant::now();
    let mut nodes = Vec::new();
    for number in 0..6 {
        nodes.push(Node::start(number, knowing(&boot), &[], Mute).await);
    }

    for node in &mut nodes {
        let me = node.peer();
        let all_connected = node.settles(async |handle| {
            let views = handle.peers().await;
            let connected = views.iter().filter(|view| view.link.is_some());
            let known = connected.filter(|view| view.agent.is_some()).count();
            // The other five, and the bootstrap node.
            (known == 6).then_some(())
        });
        all_connected.await;
        assert!(node.handle.peers().await.iter().all(|view| view.peer != me));
    }

    println!("all connected after {:?}", started.elapsed());
}

#[tokio::test]
async fn providers_of_a_cid_are_found_through_the_dht() {
    let boot = Node::start(BOOT, local(), &[], Mute).await;
    let mut alice = Node::start(1, knowing(&boot), &[], Mute).await;
    let mut bob = Node::start(2, knowing(&boot), &[], Mute).await;
    let boot = boot.peer();
    alice.until(|event| connected_to(event, boot)).await;
    bob.until(|event| connected_to(event, boot)).await;
    let cid = cid_of(Codec::Raw, b"a root");

    assert!(within(alice.handle.provide(cid)).await.unwrap(), "there is somebody to hear it");

    let alice = alice.peer();
    bob.settles(async |bob| {
        within(bob.providers(cid)).await.unwrap().contains(&alice).then_some(())
    })
    .await;
}

#[tokio::test]
async fn nobody_is_sent_to_a_peer_that_is_quarantined() {
    let mut alice = Node::start(1, local(), &[], Mute).await;
    let mut bob = Node::start(2, local(), &[], Mute).await;
    alice.meet(&mut bob).await;
    alice.handle.judge(bob.peer(), Evidence::WrongCid, 1).await;
    let cid = cid_of(Codec::Raw, b"a root");

    within(bob.handle.provide(cid)).await.unwrap();

    alice.settles(async |alice| (alice.counters().await.records_refused > 0).then_some(())).await;
    assert_eq!(within(alice.handle.providers(cid)).await.unwrap(), []);
}

#[tokio::test]
async fn a_clean_end_hands_out_what_was_found_out_last() {
    let mut alice = Node::start(1, local(), &[], Mute).await;
    let liar = peer(2);
    alice.handle.judge(liar, Evidence::WrongCid, 1).await;

    alice.end_network().await;

    alice
        .until(|event| match event {
            Event::TrustChanged { changed, .. } => {
                changed.iter().any(|record| *record.peer() == liar).then_some(())
            }
            _ => None,
        })
        .await;
}

#[tokio::test]
async fn a_node_of_another_network_is_shown_the_door() {
    let mut alice = Node::start(1, local(), &[], Mute).await;
    let mut config = local();
    config.network = "other".parse().unwrap();
    let bob = Node::start(2, config, &[], Mute).await;

    bob.handle.dial(alice.address.clone()).await.unwrap();

    alice
        .settles(async |alice| {
            // Whoever hears first who the other is ends it.
            let (one, other) = (alice.counters().await, bob.handle.counters().await);
            let closed = one.connections_closed + other.connections_closed;
            let is_alone = alice.peers().await.iter().all(|view| view.link.is_none());
            (closed > 0 && is_alone).then_some(())
        })
        .await;
}

#[tokio::test]
async fn a_peer_that_shuts_down_is_gone_at_once() {
    let mut alice = Node::start(1, local(), &[], Mute).await;
    let mut bob = Node::start(2, local(), &[], Mute).await;
    alice.meet(&mut bob).await;

    bob.shutdown().await;

    alice.until(|event| disconnected_from(event, peer(2))).await;
}

#[tokio::test]
async fn a_client_of_a_dht_that_is_shared_may_stay() {
    let mut config = local();
    config.dht = Some(StreamProtocol::new("/ipfs/kad/1.0.0"));
    let mut alice = Node::start(1, config, &[], Mute).await;
    // It speaks neither bitswap nor the DHT: it only asks.
    let mut client = Stranger::page(key(2));
    client.meet(&alice.address).await;
    client.until_identified().await;
    let is_known = async |alice: &Handle| {
        let connected = alice.connected().await;
        connected.iter().any(|view| view.peer == peer(2) && view.is_foreign).then_some(())
    };
    alice.settles(is_known).await;
    assert_eq!(alice.handle.counters().await.connections_closed, 0);
}
