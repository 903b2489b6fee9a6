//! What a peer costs with whom there is nothing to talk about.

use std::time::Duration;

use super::common::{Mute, Node, local};

/// Longest traffic with an unused peer, in bytes a second, both ways.
const IDLE_BYTES_PER_S_MAX: u64 = 2_048;

#[tokio::test]
async fn an_unused_peer_costs_less_than_two_kib_a_second() {
    let mut alice = Node::start(1, local(), &[], Mute).await;
    let mut bob = Node::start(2, local(), &[], Mute).await;
    alice.meet(&mut bob).await;
    // Getting to know each other is no idling.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let traffic = async |node: &Node| {
        let counters = node.handle.counters().await;
        counters.bytes_sent + counters.bytes_received
    };
    let before = traffic(&alice).await;
    let time = Duration::from_secs(20);
    tokio::time::sleep(time).await;
    let rate = (traffic(&alice).await - before) / time.as_secs();
    eprintln!("an unused peer costs {rate} B/s");
    assert!(rate < IDLE_BYTES_PER_S_MAX, "{rate} B/s");
    // Both count the same bytes.
    let view = alice.handle.explain(bob.peer()).await.unwrap();
    let link = view.link.unwrap();
    assert!(link.traffic.up + link.traffic.down <= traffic(&alice).await);
    assert!(link.traffic.up > 0 && link.traffic.down > 0);
}
