//! A bootstrap operator's node: a first address for newcomers, and nothing else.
//!
//! It runs the same swarm as every node (`dunlin_protocols`), keeps a place on the DHT, and introduces
//! peers to each other. It has no engine and no archive. Segments it denies, as it has no peers of its
//! own to give them to; templates it denies because it releases none.
//!
//! **Invariant**: it writes nothing to disk; what it learns about peers ends with the process. Revocations alone
//! do not, and whoever runs it is given them to keep.

#![forbid(unsafe_code)]

use anyhow::Context;
use dunlin_protocols::{Config, Event, Keypair, Multiaddr, Network, messages::RefusalReason};
use dunlin_trust::Trust;
use tokio_util::sync::CancellationToken;

/// Runs a bootstrap node until `stop` is cancelled, and then takes leave of its peers. `on_listening` is
/// given every address that it listens on, with its peer id, as soon as it does. `keep` writes records of
/// revocations down, behind all before or in place of them, and says whether they are on disk.
///
/// # Errors
///
/// Fails when it cannot start, or when the network ends by itself.
///
/// # Cancel safety
///
/// Dropping the future ends the node without a goodbye.
pub async fn run(
    config: Config,
    keypair: Keypair,
    trust: Trust,
    stop: CancellationToken,
    mut on_listening: impl FnMut(&Multiaddr) + Send,
    mut keep: impl FnMut(Vec<Vec<u8>>, bool) -> bool + Send,
) -> anyhow::Result<()> {
    let (_handle, mut events, network) =
        Network::start(config, keypair, trust).await.context("the bootstrap node cannot start")?;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            event = events.recv() => match event {
                Some(Event::RevocationsChecked { records, is_everything, reply }) => {
                    if keep(records, is_everything) {
                        reply.kept();
                    }
                }
                Some(event) => on_event(event, &mut on_listening),
                None => anyhow::bail!("the network ended by itself; restart the bootstrap node"),
            },
        }
    }
    network.shutdown().await;
    Ok(())
}

fn on_event(event: Event, on_listening: &mut (impl FnMut(&Multiaddr) + Send)) {
    match event {
        Event::Listening(address) => {
            tracing::info!(%address, "listening");
            on_listening(&address);
        }
        Event::PeerConnected(peer) => tracing::debug!(%peer, "peer connected"),
        Event::PeerDisconnected(peer) => tracing::debug!(%peer, "peer disconnected"),
        Event::SegmentsRequested { reply, .. } => reply.refuse(RefusalReason::Denied),
        Event::TemplatesRequested { reply, .. } => reply.refuse(RefusalReason::Denied),
        // Announcements are passed on by gossip; records of peers are for this run alone.
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dunlin_protocols::{Handle, NetworkError, PeerId};
    use tokio::{
        sync::{mpsc, oneshot},
        time::timeout,
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn key(number: u8) -> Keypair {
        Keypair::ed25519_from_bytes([number; 32]).unwrap()
    }

    fn config(bootstrap: Vec<Multiaddr>) -> Config {
        let mut config = Config::new("test".parse().unwrap());
        config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        config.bootstrap = bootstrap;
        config.mdns = false;
        config.one_machine = true;
        config
    }

    async fn peer(number: u8, boot: &Multiaddr) -> (Handle, mpsc::Receiver<Event>, Network) {
        let config = config(vec![boot.clone()]);
        let trust = Trust::new(dunlin_trust::Config::default(), Vec::new());
        Network::start(config, key(number), trust).await.unwrap()
    }

    async fn meets(events: &mut mpsc::Receiver<Event>, other: PeerId) {
        let met = async {
            while let Some(event) = events.recv().await {
                if matches!(event, Event::PeerConnected(peer) if peer == other) {
                    return;
                }
            }
            panic!("the network ended");
        };
        timeout(PATIENCE, met).await.expect("they meet in time");
    }

    #[tokio::test]
    async fn peers_meet_through_it_and_it_gives_nothing_else() {
        let (stop, (tell, told)) = (CancellationToken::new(), oneshot::channel());
        let mut tell = Some(tell);
        let trust = Trust::new(dunlin_trust::Config::default(), Vec::new());
        let on_listening = move |address: &Multiaddr| {
            tell.take().map(|tell| tell.send(address.clone()));
        };
        let config_of_boot = config(Vec::new());
        let keep = |_, _| true;
        let running =
            tokio::spawn(run(config_of_boot, key(1), trust, stop.clone(), on_listening, keep));
        let address = timeout(PATIENCE, told).await.unwrap().unwrap();

        let (alice, mut alice_events, _alice_network) = peer(2, &address).await;
        let (bob, mut bob_events, _bob_network) = peer(3, &address).await;
        meets(&mut alice_events, bob.local_peer()).await;
        meets(&mut bob_events, alice.local_peer()).await;

        let boot = key(1).public().to_peer_id();
        let segments = alice.segments(boot, "c", None, 1).await;
        let templates = alice.templates(boot, "c").await;
        let denied = NetworkError::Refused { peer: boot, reason: RefusalReason::Denied };
        assert_eq!((segments.unwrap_err(), templates.unwrap_err()), (denied.clone(), denied));

        stop.cancel();
        timeout(PATIENCE, running).await.unwrap().unwrap().unwrap();
    }
}
