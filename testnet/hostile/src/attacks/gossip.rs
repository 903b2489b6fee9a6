//! Gossip that nobody asked for: subscriptions, messages, and talk about messages.

use std::{io, sync::Arc};

use futures::AsyncWriteExt as _;
use libp2p::identity::Keypair;

use super::session;
use crate::{Target, proto::Proto, tally::Tally};

const PROTOCOL: &str = "/meshsub/1.1.0";

/// Frames on one connection, after which another key comes.
const FRAMES: u64 = 5_000;

/// Floods one connection.
pub(super) async fn flood(target: &Target, number: usize, tally: &Arc<Tally>) -> io::Result<()> {
    let session = session(target, number, &[PROTOCOL], tally).await?;
    let mut stream = session.stream(PROTOCOL).await?;
    tally.opened();
    let keypair = Keypair::generate_ed25519();
    for count in 0..FRAMES {
        let frame = frame(target, &keypair, count);
        if stream.write_all(&frame).await.is_err() {
            tally.ended();
            break;
        }
        tally.sent(frame.len());
        if session.is_over() {
            break;
        }
    }
    stream.flush().await
}

/// Returns one of the kinds of junk in turn.
fn frame(target: &Target, keypair: &Keypair, count: u64) -> Vec<u8> {
    let topic = format!("/dunlin/{}/segments/1", target.network);
    let none = Proto::default();
    let rpc = match count % 4 {
        // Subscriptions to topics that there are not.
        0 => (0..500).fold(none, |rpc, number| {
            let name = format!("junk-{count}-{number}");
            rpc.message(1, Proto::default().number(1, 1).bytes(2, name.as_bytes()))
        }),
        // A message with a signature that is none.
        1 => rpc_of_message(&topic, keypair, count, 900),
        // One that is as large as a frame may be.
        2 => rpc_of_message(&topic, keypair, count, 60_000),
        // Messages that one could have, and messages that one wants.
        _ => {
            let ids = |ihave: Proto, first: u64| {
                (0..1_000).fold(ihave, |message, number| {
                    message.bytes(first, format!("{count}-{number}").as_bytes())
                })
            };
            let ihave = ids(Proto::default().bytes(1, topic.as_bytes()), 2);
            let iwant = ids(Proto::default(), 1);
            let graft = Proto::default().bytes(1, topic.as_bytes());
            let control = Proto::default().message(1, ihave).message(2, iwant).message(3, graft);
            none.message(3, control)
        }
    };
    rpc.framed()
}

fn rpc_of_message(topic: &str, keypair: &Keypair, count: u64, bytes: usize) -> Proto {
    let message = Proto::default()
        .bytes(1, &keypair.public().to_peer_id().to_bytes())
        .bytes(2, &vec![0x55; bytes])
        .bytes(3, &count.to_be_bytes())
        .bytes(4, topic.as_bytes())
        .bytes(5, &[7; 64]);
    Proto::default().message(2, message)
}
