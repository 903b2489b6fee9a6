//! Real nodes on loopback, for tests that read as stories. Everything waits for events, and for none
//! longer than [`PATIENCE`].

pub(crate) mod foreigner;
pub(crate) mod stranger;

use std::{collections::BTreeSet, future::Future, time::Duration};

use dunlin_archive::bitswap::BATCH_BYTES_MAX;
use dunlin_protocols::{
    Audience, Config, Event, Found, Handle, Keypair, KnownPeer, Multiaddr, Network, PeerId, Query,
    messages::{
        CatalogsRequest, CatalogsResponse, ConsoleView, RefusalReason, ReplicasRequest,
        ReplicasResponse, SegmentsRequest, SegmentsResponse, TemplatesRequest, TemplatesResponse,
    },
};
use dunlin_trust::{Explanation, Trust};
use dunlin_wire::block::Block;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};

/// Longest time that anything here may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What a node answers.
pub(crate) trait Shell: Send + 'static {
    fn segments(&mut self, _: SegmentsRequest) -> Option<SegmentsResponse> {
        None
    }

    fn templates(&mut self, _: TemplatesRequest) -> Option<TemplatesResponse> {
        None
    }

    fn blocks(&mut self, _: Vec<Query>) -> Option<Vec<Found>> {
        None
    }

    fn replicas(&mut self, _: ReplicasRequest) -> Option<ReplicasResponse> {
        None
    }

    fn catalogs(&mut self, _: CatalogsRequest) -> Option<CatalogsResponse> {
        None
    }

    /// What a console is shown.
    fn shows(&mut self) -> Option<ConsoleView> {
        None
    }

    /// Writes revocations down; says whether they are on disk.
    fn keeps(&mut self, _: Vec<Vec<u8>>) -> bool {
        true
    }

    /// What strangers may have.
    fn public_blocks(&mut self, queries: Vec<Query>) -> Vec<Found> {
        vec![Found::Absent; queries.len()]
    }
}

/// A shell that answers nothing.
pub(crate) struct Mute;

impl Shell for Mute {}

/// A shell that answers questions about segments with a function.
pub(crate) struct Segments<F>(pub(crate) F);

impl<F: FnMut(SegmentsRequest) -> SegmentsResponse + Send + 'static> Shell for Segments<F> {
    fn segments(&mut self, request: SegmentsRequest) -> Option<SegmentsResponse> {
        Some((self.0)(request))
    }
}

/// A shell that answers questions about templates with a function.
pub(crate) struct Templates<F>(pub(crate) F);

impl<F: FnMut(TemplatesRequest) -> TemplatesResponse + Send + 'static> Shell for Templates<F> {
    fn templates(&mut self, request: TemplatesRequest) -> Option<TemplatesResponse> {
        Some((self.0)(request))
    }
}

/// A shell that answers questions about replicas with a function.
pub(crate) struct Replicas<F>(pub(crate) F);

impl<F: FnMut(ReplicasRequest) -> ReplicasResponse + Send + 'static> Shell for Replicas<F> {
    fn replicas(&mut self, request: ReplicasRequest) -> Option<ReplicasResponse> {
        Some((self.0)(request))
    }
}

/// A shell that answers questions about catalogs with a function.
pub(crate) struct CatalogsOf<F>(pub(crate) F);

impl<F: FnMut(CatalogsRequest) -> CatalogsResponse + Send + 'static> Shell for CatalogsOf<F> {
    fn catalogs(&mut self, request: CatalogsRequest) -> Option<CatalogsResponse> {
        Some((self.0)(request))
    }
}

/// A shell that shows this to consoles.
pub(crate) struct Shows(pub(crate) ConsoleView);

impl Shell for Shows {
    fn shows(&mut self) -> Option<ConsoleView> {
        Some(self.0.clone())
    }
}

/// A shell that has blocks.
pub(crate) struct Blocks(pub(crate) Vec<Block>);

impl Shell for Blocks {
    fn blocks(&mut self, queries: Vec<Query>) -> Option<Vec<Found>> {
        Some(self.find(queries))
    }
}

/// A shell that has blocks for everybody, and others.
pub(crate) struct Public {
    pub(crate) public: Blocks,
    pub(crate) private: Blocks,
}

impl Shell for Public {
    fn blocks(&mut self, queries: Vec<Query>) -> Option<Vec<Found>> {
        Some(Blocks([&self.public.0[..], &self.private.0].concat()).find(queries))
    }

    fn public_blocks(&mut self, queries: Vec<Query>) -> Vec<Found> {
        self.public.find(queries)
    }
}

impl Blocks {
    fn find(&self, queries: Vec<Query>) -> Vec<Found> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        for query in queries {
            if bytes > BATCH_BYTES_MAX {
                break;
            }
            found.push(match self.0.iter().find(|block| *block.cid() == query.cid) {
                Some(block) if query.is_for_block => {
                    bytes += block.bytes().len();
                    Found::Block(block.clone())
                }
                Some(_) => Found::Here,
                None => Found::Absent,
            });
        }
        found
    }
}

/// A running node.
pub(crate) struct Node {
    pub(crate) handle: Handle,
    pub(crate) address: Multiaddr,
    news: mpsc::Receiver<Event>,
    network: Option<Network>,
    shell: JoinHandle<()>,
}

/// Returns the key of the node with this number.
pub(crate) fn key(number: u8) -> Keypair {
    Keypair::ed25519_from_bytes([number; 32]).unwrap()
}

/// Returns the peer id of the node with this number.
pub(crate) fn peer(number: u8) -> PeerId {
    key(number).public().to_peer_id()
}

/// Returns a configuration for many nodes on this machine.
pub(crate) fn local() -> Config {
    let mut config = Config::new("test".parse().unwrap());
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    config.mdns = false;
    config.one_machine = true;
    config
}

impl Node {
    /// Starts the node with this number, whose own peers are those with the numbers `own`.
    pub(crate) async fn start(number: u8, config: Config, own: &[u8], shell: impl Shell) -> Self {
        let own_peers: BTreeSet<_> = own.iter().map(|number| peer(*number)).collect();
        let mut trust = dunlin_trust::Config { own_peers, ..dunlin_trust::Config::default() };
        // What a peer earns here counts at once.
        trust.thresholds.trust_after = Duration::ZERO;
        Self::start_trusting(number, config, Trust::new(trust, Vec::new()), shell).await
    }

    /// Starts the node with this number, which judges its peers by `trust`.
    pub(crate) async fn start_trusting(
        number: u8,
        config: Config,
        trust: Trust,
        mut shell: impl Shell,
    ) -> Self {
        let (handle, mut events, network) =
            Network::start(config, key(number), trust).await.unwrap();
        let (tell, mut news) = mpsc::channel(1024);
        let shell = tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                match event {
                    Event::SegmentsRequested { audience: Audience::Stranger, reply, .. } => {
                        reply.refuse(RefusalReason::Denied);
                    }
                    Event::SegmentsRequested { request, reply, .. } => {
                        if let Some(answer) = shell.segments(request) {
                            reply.send(answer);
                        }
                    }
                    Event::BlocksWanted {
                        audience: Audience::Stranger, queries, reply, ..
                    } => reply.send(shell.public_blocks(queries)),
                    Event::BlocksWanted { queries, reply, .. } => {
                        if let Some(found) = shell.blocks(queries) {
                            reply.send(found);
                        }
                    }
                    Event::CatalogsRequested { request, reply, .. } => {
                        if let Some(answer) = shell.catalogs(request) {
                            reply.send(answer);
                        }
                    }
                    Event::ReplicasRequested { request, reply, .. } => {
                        if let Some(answer) = shell.replicas(request) {
                            reply.send(answer);
                        }
                    }
                    Event::ConsoleLooks { reply, .. } => {
                        if let Some(view) = shell.shows() {
                            reply.send(view);
                        }
                    }
                    Event::TemplatesRequested { request, reply, .. } => {
                        if let Some(answer) = shell.templates(request) {
                            reply.send(answer);
                        }
                    }
                    Event::RevocationsChecked { records, reply, .. } => {
                        if shell.keeps(records) {
                            reply.kept();
                        }
                    }
                    // A test that has ended wants no news.
                    other => drop(tell.try_send(other)),
                }
            }
        });
        let address = within(async {
            loop {
                if let Some(Event::Listening(address)) = news.recv().await {
                    break address;
                }
            }
        })
        .await;
        Self { handle, address, news, network: Some(network), shell }
    }

    pub(crate) fn peer(&self) -> PeerId {
        self.handle.local_peer()
    }

    /// Dials `other` and waits until both know each other.
    pub(crate) async fn meet(&mut self, other: &mut Self) {
        self.handle.dial(other.address.clone()).await.unwrap();
        let (me, them) = (self.peer(), other.peer());
        self.until(|event| connected_to(event, them)).await;
        other.until(|event| connected_to(event, me)).await;
    }

    /// Waits for the first event that `wanted` makes something of.
    pub(crate) async fn until<T>(&mut self, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
        within(async {
            loop {
                let event = self.news.recv().await.expect("the network runs");
                if let Some(found) = wanted(event) {
                    break found;
                }
            }
        })
        .await
    }

    /// Returns how this node judges the one with a number.
    pub(crate) async fn opinion_of(&self, number: u8) -> Explanation {
        let views = self.handle.peers().await;
        views.into_iter().find(|view| view.peer == peer(number)).expect("a known peer").trust
    }

    /// Waits until this node's state is as `is_so` wants it, looking again whenever something happened.
    pub(crate) async fn settles<T>(
        &mut self,
        mut look: impl AsyncFnMut(&Handle) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(&self.handle).await {
                return found;
            }
            // Not everything is an event, so look at least ten times a second.
            assert!(Instant::now() < deadline, "the node did not settle in {PATIENCE:?}");
            let next = Instant::now() + Duration::from_millis(100);
            timeout_at(next, self.news.recv()).await.ok();
        }
    }

    /// Ends the network; what it said last can still be read.
    pub(crate) async fn end_network(&mut self) {
        within(self.network.take().unwrap().shutdown()).await;
    }

    /// Ends the network; returns the peers that it gave to keep last.
    pub(crate) async fn end(mut self) -> Vec<KnownPeer> {
        self.end_network().await;
        let mut kept = Vec::new();
        while let Some(event) = within(self.news.recv()).await {
            if let Event::PeersKnown(known) = event {
                kept = known;
            }
        }
        kept
    }

    /// Ends the network; returns the proofs that it gave to keep last.
    pub(crate) async fn end_and_keep_proofs(mut self) -> Vec<Vec<u8>> {
        self.end_network().await;
        let mut kept = Vec::new();
        while let Some(event) = within(self.news.recv()).await {
            if let Event::ProofsHeld(held) = event {
                kept = held;
            }
        }
        kept
    }

    pub(crate) async fn shutdown(mut self) {
        self.end_network().await;
        within(self.shell).await.unwrap();
    }
}

/// Picks the moment when `peer` is connected.
pub(crate) fn connected_to(event: Event, peer: PeerId) -> Option<()> {
    matches!(event, Event::PeerConnected(other) if other == peer).then_some(())
}

/// Picks the moment when `peer` is connected no more.
pub(crate) fn disconnected_from(event: Event, peer: PeerId) -> Option<()> {
    matches!(event, Event::PeerDisconnected(other) if other == peer).then_some(())
}

/// Waits, but not forever.
#[track_caller]
pub(crate) fn within<T>(future: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        match timeout(PATIENCE, future).await {
            Ok(value) => value,
            Err(_) => panic!("nothing happened within {PATIENCE:?} at {caller}"),
        }
    }
}
