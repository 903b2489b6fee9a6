//! Islands meet whom and when their operator wants; air-gapped nodes nobody.

use std::time::Duration;

use dunlin_protocols::Island;

use super::common::{Mute, Node, connected_to, disconnected_from, local, peer};

#[tokio::test]
async fn an_island_meets_its_operators_own_peers_and_nobody_else() {
    let mut config = local();
    config.island =
        Some(Island { only_own_peers: true, every: None, length: Duration::from_secs(60) });
    let mut island = Node::start(1, config, &[2], Mute).await;
    let stranger = Node::start(3, local(), &[], Mute).await;
    let mut own = Node::start(2, local(), &[1], Mute).await;

    for _ in 0..3 {
        stranger.handle.dial(island.address.clone()).await.unwrap();
    }
    own.meet(&mut island).await;

    island
        .settles(async |handle| {
            let closed = handle.counters().await.connections_closed;
            let views = handle.connected().await;
            (closed > 0 && views.iter().all(|view| view.peer == peer(2))).then_some(())
        })
        .await;
}

#[tokio::test]
async fn an_island_comes_back_at_its_next_contact() {
    let mut config = local();
    let length = Duration::from_secs(3);
    config.island = Some(Island { only_own_peers: false, every: Some(3 * length), length });
    let mut other = Node::start(2, local(), &[], Mute).await;
    config.bootstrap = vec![other.address.clone()];
    let mut island = Node::start(1, config, &[], Mute).await;

    island.until(|event| connected_to(event, peer(2))).await;
    island.until(|event| disconnected_from(event, peer(2))).await;
    other.until(|event| disconnected_from(event, peer(1))).await;
    island.until(|event| connected_to(event, peer(2))).await;
}

#[tokio::test]
async fn an_air_gapped_node_listens_nowhere_and_dials_nobody() {
    let other = Node::start(2, local(), &[], Mute).await;
    let mut config = local();
    config.is_air_gapped = true;
    config.mdns = true;
    config.bootstrap = vec![other.address.clone()];
    let trust = dunlin_trust::Trust::new(dunlin_trust::Config::default(), Vec::new());
    let started = dunlin_protocols::Network::start(config, super::common::key(1), trust).await;
    let (handle, _events, network) = started.unwrap();

    handle.dial(other.address.clone()).await.unwrap();

    // More than a dial on this machine takes.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(handle.listening().await, []);
    assert_eq!(handle.connected().await.len(), 0);
    network.shutdown().await;
    assert_eq!(other.handle.connected().await.len(), 0);
}
