//! A bootstrap operator's node: a first address for newcomers, and nothing else.
//!
//! It runs the same swarm as every node (`dunlin_protocols`), keeps a place on the DHT, and introduces
//! peers to each other. It has no engine and no archive. Segments it denies, as it has no peers of its
//! own to give them to; templates it denies because it releases none.
//!
//! **Invariant**: it writes nothing to disk, and how peers behave it forgets when it ends. Revocations, and where peers
//! are, whoever runs it is given to keep.

#![forbid(unsafe_code)]

use anyhow::Context;
use dunlin_protocols::{
    Config, Event, Handle, Keypair, KnownPeer, Multiaddr, Network, messages::RefusalReason,
};
use dunlin_trust::Trust;
use tokio_util::sync::CancellationToken;

/// What a bootstrap node asks of whoever runs it.
#[derive(Debug)]
pub struct Shell<S, L, R, P> {
    /// Is given the network once it runs, to ask it how it is.
    pub on_start: S,
    /// Is given every address that it listens on, with its peer id, as soon as it does.
    pub on_listening: L,
    /// Writes records of revocations down, behind all before or, if told so, in place of them, and says whether they
    /// are on disk.
    pub keep_revocations: R,
    /// Writes down where peers are, in place of what it wrote before: the next run's [`Config::known_peers`].
    pub keep_peers: P,
}

/// Runs a bootstrap node until `stop` is cancelled, and then takes leave of its peers.
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
    mut shell: Shell<
        impl FnOnce(Handle) + Send,
        impl FnMut(&Multiaddr) + Send,
        impl FnMut(Vec<Vec<u8>>, bool) -> bool + Send,
        impl FnMut(Vec<KnownPeer>) + Send,
    >,
) -> anyhow::Result<()> {
    let (handle, mut events, network) =
        Network::start(config, keypair, trust).await.context("the bootstrap node cannot start")?;
    (shell.on_start)(handle);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            event = events.recv() => match event {
                Some(Event::RevocationsChecked { records, is_everything, reply }) => {
                    if (shell.keep_revocations)(records, is_everything) {
                        reply.kept();
                    }
                }
                Some(Event::PeersKnown(known)) => (shell.keep_peers)(known),
                Some(event) => on_event(event, &mut shell.on_listening),
                None => anyhow::bail!("the network ended by itself; restart the bootstrap node"),
            },
        }
    }
    network.shutdown().await;
    while let Some(event) = events.recv().await {
        if let Event::PeersKnown(known) = event {
            (shell.keep_peers)(known);
        }
    }
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
    use std::{
        sync::{Arc, Mutex},
        time::Duration,
    };

    use dunlin_protocols::{NetworkError, PeerId};
    use tokio::{
        sync::{mpsc, oneshot},
        task::JoinHandle,
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

    /// A bootstrap node that runs, and what it last gave to keep.
    struct Boot {
        address: Multiaddr,
        kept: Arc<Mutex<Vec<KnownPeer>>>,
        stop: CancellationToken,
        running: JoinHandle<anyhow::Result<()>>,
    }

    impl Boot {
        async fn start(known_peers: Vec<KnownPeer>) -> Self {
            let (stop, (tell, told)) = (CancellationToken::new(), oneshot::channel());
            let mut tell = Some(tell);
            let on_listening = move |address: &Multiaddr| {
                tell.take().map(|tell| tell.send(address.clone()));
            };
            let kept = Arc::new(Mutex::new(Vec::new()));
            let keeping = Arc::clone(&kept);
            let shell = Shell {
                on_start: drop,
                on_listening,
                keep_revocations: |_, _| true,
                keep_peers: move |known| *keeping.lock().unwrap() = known,
            };
            let config = Config { known_peers, ..config(Vec::new()) };
            let trust = Trust::new(dunlin_trust::Config::default(), Vec::new());
            let running = tokio::spawn(run(config, key(1), trust, stop.clone(), shell));
            let address = timeout(PATIENCE, told).await.unwrap().unwrap();
            Self { address, kept, stop, running }
        }

        /// Waits until a peer is among those that it keeps: it does not know where a peer is before that peer said it.
        async fn keeps(&self, peer: PeerId) {
            let kept = async {
                while !self.kept.lock().unwrap().iter().any(|known| known.peer == peer) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            timeout(PATIENCE, kept).await.expect("it keeps where the peer is, in time");
        }

        async fn stop(self) -> Vec<KnownPeer> {
            self.stop.cancel();
            timeout(PATIENCE, self.running).await.unwrap().unwrap().unwrap();
            self.kept.lock().unwrap().clone()
        }
    }

    #[tokio::test]
    async fn peers_meet_through_it_and_it_gives_nothing_else() {
        let running = Boot::start(Vec::new()).await;

        let (alice, mut alice_events, _alice_network) = peer(2, &running.address).await;
        let (bob, mut bob_events, _bob_network) = peer(3, &running.address).await;
        meets(&mut alice_events, bob.local_peer()).await;
        meets(&mut bob_events, alice.local_peer()).await;

        let boot = key(1).public().to_peer_id();
        let segments = alice.segments(boot, "c", None, 1).await;
        let templates = alice.templates(boot, "c").await;
        let denied = NetworkError::Refused { peer: boot, reason: RefusalReason::Denied };
        assert_eq!((segments.unwrap_err(), templates.unwrap_err()), (denied.clone(), denied));

        running.stop().await;
    }

    #[tokio::test]
    async fn after_a_restart_it_still_knows_its_peers_and_introduces_newcomers_to_them() {
        let first = Boot::start(Vec::new()).await;
        let (alice, _alice_events, _alice_network) = peer(2, &first.address).await;
        first.keeps(alice.local_peer()).await;
        let kept = first.stop().await;
        assert_eq!(kept.iter().map(|known| known.peer).collect::<Vec<_>>(), [alice.local_peer()]);

        // It listens on another port, so that nobody finds it: it finds its peers.
        let again = Boot::start(kept).await;
        let (_bob, mut bob_events, _bob_network) = peer(3, &again.address).await;
        meets(&mut bob_events, alice.local_peer()).await;

        again.stop().await;
    }
}
