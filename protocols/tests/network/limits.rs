//! Limits of one address, over real sockets.

use libp2p::multiaddr::Protocol;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::common::{Mute, Node, local, within};

const CONNECTIONS_MAX: usize = 8;

/// Opens connections until one is closed by the other side without a word; returns how many were not.
async fn accepted(port: u16, tries: usize) -> usize {
    let mut open = Vec::new();
    for _ in 0..tries {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        // A node that lets us stay answers in kind. One that does not may have closed before we wrote.
        stream.write_all(b"\x13/multistream/1.0.0\n").await.ok();
        let mut byte = [0];
        match within(stream.read(&mut byte)).await {
            Ok(1) => open.push(stream),
            _ => break,
        }
    }
    open.len()
}

fn port_of(node: &Node) -> u16 {
    let tcp = |part| if let Protocol::Tcp(port) = part { Some(port) } else { None };
    node.address.iter().find_map(tcp).unwrap()
}

#[tokio::test]
async fn the_ninth_connection_of_one_address_is_refused() {
    let mut config = local();
    config.one_machine = false;
    let node = Node::start(1, config, &[], Mute).await;

    assert_eq!(accepted(port_of(&node), 12).await, CONNECTIONS_MAX);

    assert_eq!(node.handle.counters().await.connections_refused_by_address, 1);
}

#[tokio::test]
async fn on_one_machine_loopback_is_not_counted() {
    let node = Node::start(1, local(), &[], Mute).await;
    assert_eq!(accepted(port_of(&node), 20).await, 20);
    assert_eq!(node.handle.counters().await.connections_refused_by_address, 0);
}
