//! TCP, QUIC and WebSocket, each from the dial to a verified block; and addresses that cannot be had.

use std::time::Instant;

use dunlin_protocols::{
    Bandwidth, Config, Direction, Network, StartError, Transport, messages::SegmentsResponse,
};
use dunlin_trust::Trust;
use dunlin_wire::block::{Block, Codec};

use super::common::{Mute, Node, Segments, key, local};

async fn meets_over(listen: &str, transport: Transport) {
    let block = Block::new(Codec::Raw, vec![7; 100_000]);
    let found = block.clone();
    let shelf = Segments(move |_| SegmentsResponse::fitting(vec![found.clone()], Vec::new()));
    let mut config = local();
    config.listen = vec![listen.parse().unwrap()];
    let mut alice = Node::start(1, local(), &[], Mute).await;
    let mut bob = Node::start(2, config, &[1], shelf).await;

    alice.meet(&mut bob).await;

    for (node, other, direction) in
        [(&alice, &bob, Direction::Outbound), (&bob, &alice, Direction::Inbound)]
    {
        let view = node.handle.peers().await.into_iter().find(|view| view.peer == other.peer());
        let link = view.and_then(|view| view.link).unwrap();
        assert_eq!((link.transport, link.direction), (transport, direction));
    }
    let answer = alice.handle.blocks(bob.peer(), vec![*block.cid()]).await.unwrap();
    assert_eq!(answer.blocks, [block]);
}

#[tokio::test]
async fn tcp_connects() {
    meets_over("/ip4/127.0.0.1/tcp/0", Transport::Tcp).await;
}

#[tokio::test]
async fn quic_connects() {
    meets_over("/ip4/127.0.0.1/udp/0/quic-v1", Transport::Quic).await;
}

#[tokio::test]
async fn websocket_connects() {
    meets_over("/ip4/127.0.0.1/tcp/0/ws", Transport::WebSocket).await;
}

#[tokio::test]
async fn all_three_connect_over_ipv6() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: this machine has no IPv6");
        return;
    }
    meets_over("/ip6/::1/tcp/0", Transport::Tcp).await;
    meets_over("/ip6/::1/udp/0/quic-v1", Transport::Quic).await;
    meets_over("/ip6/::1/tcp/0/ws", Transport::WebSocket).await;
}

/// A ceiling of 400,000 bytes a second.
const CEILING: Option<u64> = Some(400_000);

/// Measures how fast a block of a million bytes comes when one of both ends has a ceiling of 400,000 bytes a second.
async fn comes_slowly_over(listen: &str, giver: Bandwidth, asker: Bandwidth) {
    let block = Block::new(Codec::Raw, vec![7; 1_000_000]);
    let found = block.clone();
    let shelf = Segments(move |_| SegmentsResponse::fitting(vec![found.clone()], Vec::new()));
    let mut config = local();
    config.listen = vec![listen.parse().unwrap()];
    config.bandwidth = giver;
    let asking = Config { bandwidth: asker, ..local() };
    let mut alice = Node::start(1, asking, &[], Mute).await;
    let mut bob = Node::start(2, config, &[1], shelf).await;
    alice.meet(&mut bob).await;

    let started = Instant::now();
    let answer = alice.handle.blocks(bob.peer(), vec![*block.cid()]).await.unwrap();
    let took = started.elapsed();

    assert_eq!(answer.blocks, [block]);
    let rate = 1_000_000.0 / took.as_secs_f64();
    eprintln!("{rate:.0} B/s over {listen}");
    // A busy machine is slower than the ceiling, and none is faster.
    assert!(rate <= 440_000.0, "{rate} B/s");
}

#[tokio::test]
async fn each_ceiling_slows_tcp_down() {
    let (listen, none) = ("/ip4/127.0.0.1/tcp/0", Bandwidth::default());
    tokio::join!(
        comes_slowly_over(listen, Bandwidth { up: CEILING, ..none }, none),
        comes_slowly_over(listen, Bandwidth { peer_up: CEILING, ..none }, none),
        comes_slowly_over(listen, none, Bandwidth { down: CEILING, ..none }),
        comes_slowly_over(listen, none, Bandwidth { peer_down: CEILING, ..none }),
    );
}

#[tokio::test]
async fn a_ceiling_slows_quic_down() {
    let (listen, none) = ("/ip4/127.0.0.1/udp/0/quic-v1", Bandwidth::default());
    comes_slowly_over(listen, Bandwidth { up: CEILING, ..none }, none).await;
}

#[tokio::test]
async fn an_address_in_use_is_reported() {
    for listen in
        ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0/ws"]
    {
        let mut config = local();
        config.listen = vec![listen.parse().unwrap()];
        let first = Node::start(1, config.clone(), &[], Mute).await;
        let mut taken = first.address.clone();
        taken.pop();
        config.listen = vec![taken];
        let trust = Trust::new(dunlin_trust::Config::default(), Vec::new());
        let second = Network::start(config, key(2), trust).await;
        assert!(matches!(second, Err(StartError::Listen { .. })), "{listen}");
    }
}
