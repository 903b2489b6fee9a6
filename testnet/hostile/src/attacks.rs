//! The attacks. Each is what one attacker does again and again; many do it at once.

mod connections;
mod gossip;
mod identify;
mod kad;
mod messages;
mod quic;
mod yamux;

use std::{sync::Arc, time::Duration};

use libp2p::identity::Keypair;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout_at},
};

use crate::{
    Attack, Target,
    client::{Introduction, Session},
    tally::Tally,
};

/// What an attacker claims to speak.
const PROTOCOLS: [&str; 8] = [
    "/dunlin/segments/1",
    "/dunlin/templates/1",
    "/dunlin/catalog/1",
    "/dunlin/catalog/2",
    "/dunlin/replicas/1",
    "/dunlin/membership/1",
    "/dunlin/console/1",
    "/ipfs/bitswap/1.2.0",
];

/// How a stream begins.
const HELLO: &[u8] = b"\x13/multistream/1.0.0\n";

/// Asks for a protocol that nobody has, again and again. Whoever waits until the answers are read does not read on.
fn questions() -> Vec<u8> {
    b"\x03/x\n".repeat(16 * 1024)
}

/// How long an attacker waits when nothing it does gets through: it is no use to spin.
const PAUSE: Duration = Duration::from_millis(5);

/// Attacks until the time is over.
pub(crate) async fn run(attack: Attack, target: Target, tally: &Arc<Tally>) {
    let deadline = target.deadline();
    let mut attackers = JoinSet::new();
    for number in 0..attackers_of(attack) {
        let (target, tally) = (target.clone(), Arc::clone(tally));
        attackers.spawn(async move {
            loop {
                let tried = one(attack, &target, number, &tally).await;
                if tried.is_err() {
                    sleep(PAUSE).await;
                }
            }
        });
    }
    timeout_at(deadline, attackers.join_all()).await.ok();
}

/// How many do it at once.
fn attackers_of(attack: Attack) -> usize {
    match attack {
        Attack::ConnectionsOne | Attack::Unread => 256,
        Attack::ConnectionsMany
        | Attack::SlowHandshakes
        | Attack::QuicHalf
        | Attack::QuicConnections => 512,
        Attack::KadEclipse | Attack::QuicUnread => 64,
        Attack::Streams | Attack::Half | Attack::Identify => 16,
        Attack::Oversize
        | Attack::Gossip
        | Attack::KadRecords
        | Attack::Yamux
        | Attack::Nesting
        | Attack::QuicInitials => 8,
    }
}

/// Does it once.
async fn one(
    attack: Attack,
    target: &Target,
    number: usize,
    tally: &Arc<Tally>,
) -> std::io::Result<()> {
    match attack {
        Attack::ConnectionsOne => connections::hold(target, 0, tally).await,
        Attack::ConnectionsMany => connections::join(target, number, tally).await,
        Attack::SlowHandshakes => connections::dawdle(target, number, tally).await,
        Attack::Streams => messages::silent(target, number, tally).await,
        Attack::Oversize => messages::oversize(target, number, tally).await,
        Attack::Half => messages::half(target, number, tally).await,
        Attack::Unread => messages::unread(target, number, tally).await,
        Attack::Nesting => messages::nested(target, number, tally).await,
        Attack::Gossip => gossip::flood(target, number, tally).await,
        Attack::KadRecords => kad::records(target, number, tally).await,
        Attack::KadEclipse => kad::eclipse(target, tally).await,
        Attack::Identify => identify::bomb(target, number, tally).await,
        Attack::Yamux => yamux::abuse(target, number, tally).await,
        Attack::QuicInitials => quic::initials(target, tally).await,
        Attack::QuicHalf => quic::half(target, number, tally).await,
        Attack::QuicConnections => quic::join(target, number, tally).await,
        Attack::QuicUnread => quic::unread(target, number, tally).await,
    }
}

/// Connects with a new key, and is a peer like others as far as identify goes.
async fn session(
    target: &Target,
    number: usize,
    protocols: &[&str],
    tally: &Arc<Tally>,
) -> std::io::Result<Session> {
    let keypair = Keypair::generate_ed25519();
    let introduction = Introduction::honest(target, &keypair, protocols);
    Session::open(target, number, &keypair, introduction, tally).await
}
