//! The network's one task: it owns the swarm and the trust of the node, and does one thing at a time.

mod announcements;
mod blocks;
mod console;
mod membership;
mod proofs;
mod reaching;
mod reconnecting;
mod records;
mod revoking;
mod serving;
mod standing;
mod swarm_events;
mod testimony;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    io,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use dunlin_archive::bitswap::FetchId;
use dunlin_trust::{Evidence, Explanation, Operation, Subject, Trust, UnixMillis};
use dunlin_wire::Cid;
use futures::{StreamExt, stream::FuturesUnordered};
use libp2p::{
    Multiaddr, PeerId, Swarm, TransportError,
    identity::Keypair,
    kad::{QueryId, RecordKey},
    swarm::{
        SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::{
    sync::mpsc,
    task::{JoinSet, yield_now},
    time::{sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    blocks::{Fetches, LookingUp},
    membership::Members,
    records::Telling,
    revoking::Revoking,
    serving::{Held, Serving},
    testimony::Testifying,
};
use crate::{
    Config, ConfigError, Counters, Event, Handle, NetworkError,
    address_book::{AddressBook, with_peer},
    bandwidth::Meters,
    behaviour::{self, Behaviour, BehaviourEvent},
    codec::Received,
    consoles::Consoles,
    discovery::{DIALS_PER_ROUND_MAX, Discovery},
    handle::{COMMANDS_MAX, Command, Reply},
    hearing::Heard,
    island::Contact,
    messages::{CatalogsResponse, ReplicasResponse, SegmentsResponse, TemplatesResponse},
    peers::{PeerView, Peers},
    quic::TurnedAway,
    reachability::Probes,
    relays::Relays,
    requests::{Admission, Asked},
    transport,
};

/// Events that may wait for the shell. Far more than a moment's; a shell that stands still loses news.
const EVENTS_MAX: usize = 256;

/// How often housekeeping is done: records handed out, time with peers credited.
const TICK: Duration = Duration::from_secs(1);

/// Ticks after which a peer's time with us becomes evidence.
const TICKS_PER_CREDIT: u64 = 60;

/// Remembered peers that are shown at once: to explain all of 100,000 would stop the network for a second.
const NOTABLE_MAX: usize = 1_000;

/// Ticks between two tries to reach those of the operator's own peers that are not connected.
const TICKS_PER_REDIAL: u64 = 5;

/// Questions to the DHT that may be under way.
const QUERIES_MAX: usize = 64;

/// Longest goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// The running network. It ends when it is shut down or dropped.
#[derive(Debug)]
pub struct Network {
    stop: CancellationToken,
    /// The actor's task alone. A set says again and again that it is empty; a handle may be asked once.
    task: JoinSet<()>,
}

impl Network {
    /// Builds the swarm, listens on all addresses, and begins to look for peers.
    ///
    /// # Errors
    ///
    /// Fails when an address cannot be listened on, or a setting cannot be used. Nothing runs then.
    #[expect(clippy::unused_async, reason = "its tasks need the runtime that polls this")]
    pub async fn start(
        config: Config,
        keypair: Keypair,
        trust: Trust,
    ) -> Result<(Handle, mpsc::Receiver<Event>, Self), StartError> {
        let mut config = config.in_effect();
        let bootstrap = config.bootstrap_peers()?;
        let is_closed = trust.revocations().authorities().is_some();
        let meters = Arc::new(Meters::new(config.bandwidth));
        let turned_away = Arc::<TurnedAway>::default();
        let mut swarm = behaviour::swarm(&keypair, &config, is_closed, &meters, &turned_away)?;
        for address in &config.external {
            swarm.add_external_address(address.clone());
        }
        for address in &config.listen {
            let listening = transport::check_free(address).map_err(TransportError::Other);
            let listening = listening.and_then(|()| swarm.listen_on(address.clone()));
            listening.map_err(|cause| StartError::Listen { address: address.clone(), cause })?;
        }
        let (commands, command_queue) = mpsc::channel(COMMANDS_MAX);
        let (events, event_queue) = mpsc::channel(EVENTS_MAX);
        let (me, network) = (*swarm.local_peer_id(), config.network.as_str().into());
        let now = Instant::now();
        let known_peers = std::mem::take(&mut config.known_peers);
        let proofs = std::mem::take(&mut config.proofs);
        let book = AddressBook::new(config.reach, known_peers, unix_now(), now, rand::make_rng());
        let mut actor = Actor {
            swarm,
            trust,
            keypair,
            bootstrap,
            by_hand: VecDeque::new(),
            commands: command_queue,
            events,
            peers: Peers::default(),
            discovery: Discovery::new(now),
            book,
            next_keeping: 0,
            next_tick: now + TICK,
            ticks: 0,
            round: Round::default(),
            queries: HashMap::new(),
            telling: Telling::default(),
            segments_asked: Asked::default(),
            templates_asked: Asked::default(),
            catalogs_asked: Asked::default(),
            replicas_asked: Asked::default(),
            admission: Admission::default(),
            serving: FuturesUnordered::new(),
            looking_up: FuturesUnordered::new(),
            fetches: Fetches::default(),
            held: Held::default(),
            heard: Heard::default(),
            members: Members::default(),
            consoles: Consoles::default(),
            revoking: Revoking::default(),
            testifying: Testifying::default(),
            counters: Counters::default(),
            meters,
            turned_away,
            probes: Probes::new(config.reach),
            relays: Relays::default(),
            contact: Contact::new(config.island, now),
            config,
        };
        actor.restore_proofs(&proofs);
        actor.follow_reach();
        actor.fill_routing_table();
        let stop = CancellationToken::new();
        let mut task = JoinSet::new();
        task.spawn(actor.run(stop.clone()));
        Ok((Handle { me, network, commands }, event_queue, Self { stop, task }))
    }

    /// Says goodbye to all peers and ends. The queue of events then holds all that the shell has to keep,
    /// as far as it reads on until the queue ends.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        self.ended().await;
    }

    /// Waits until the network ends by itself, which it does when it fails.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn ended(&mut self) {
        // Only the end matters: a task that panicked has ended, too.
        while self.task.join_next().await.is_some() {}
    }
}

/// Why the network did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address cannot be listened on: it is in use, or not this machine's.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// Why.
        #[source]
        cause: TransportError<io::Error>,
    },
    /// A transport cannot be built.
    #[error("cannot build the transports: {cause}")]
    Transport {
        /// Why.
        cause: String,
    },
    /// Gossip cannot be built.
    #[error("cannot build gossip: {cause}")]
    Gossip {
        /// Why.
        cause: String,
    },
}

/// The state of the network's task.
struct Actor {
    config: Config,
    swarm: Swarm<Behaviour>,
    trust: Trust,
    keypair: Keypair,
    bootstrap: Vec<(PeerId, Multiaddr)>,
    /// Addresses that the operator had dialled, the newest last.
    by_hand: VecDeque<Multiaddr>,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    peers: Peers,
    discovery: Discovery,
    book: AddressBook,
    /// The tick from which on changes of the book are handed out again.
    next_keeping: u64,
    next_tick: Instant,
    ticks: u64,
    round: Round,
    queries: HashMap<QueryId, Providers>,
    telling: Telling,
    segments_asked: Asked<SegmentsResponse>,
    templates_asked: Asked<TemplatesResponse>,
    catalogs_asked: Asked<CatalogsResponse>,
    replicas_asked: Asked<ReplicasResponse>,
    admission: Admission,
    serving: FuturesUnordered<Serving>,
    looking_up: FuturesUnordered<LookingUp>,
    fetches: Fetches,
    held: Held,
    heard: Heard,
    members: Members,
    consoles: Consoles,
    revoking: Revoking,
    testifying: Testifying,
    counters: Counters,
    meters: Arc<Meters>,
    turned_away: Arc<TurnedAway>,
    probes: Probes,
    relays: Relays,
    contact: Contact,
}

/// The questions to the DHT by which the node looks for peers, while they are under way. A slow DHT gets
/// each of them once at a time.
#[derive(Debug, Default)]
struct Round {
    /// Who is near.
    bootstrap: Option<QueryId>,
    /// Telling that this node is here.
    provide: Option<QueryId>,
    /// Who else is in the network.
    rendezvous: Option<QueryId>,
}

impl Round {
    fn end(&mut self, id: QueryId) {
        for query in [&mut self.bootstrap, &mut self.provide, &mut self.rendezvous] {
            query.take_if(|under_way| *under_way == id);
        }
    }
}

/// A question for the providers of a CID.
struct Providers {
    found: BTreeSet<PeerId>,
    asker: Asker,
}

/// Who wants to know the providers.
enum Asker {
    /// The shell, all of them at the end.
    Shell(Reply<Vec<PeerId>>),
    /// A fetch, each as soon as it is found: until the question ends, the DHT knows where they are.
    Fetch(FetchId),
}

impl Actor {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            let deadline = self.next_tick.min(self.discovery.next_wake());
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(served) = self.serving.next() => self.on_served(served),
                Some(found) = self.looking_up.next() => self.on_looked_up(found),
                is_kept = self.revoking.kept() => self.on_revocations_kept(is_kept),
                () = sleep_until(deadline.into()) => self.wake(Instant::now()),
                Some(command) = self.commands.recv() => self.on_command(command),
                event = self.swarm.select_next_some() => self.on_swarm_event(event),
                () = yield_now(), if self.revoking.is_ready() => self.keep_revocations(),
            }
        }
        // What was found out about peers before the end still counts.
        while let Ok(command) = self.commands.try_recv() {
            self.on_command(command);
        }
        self.say_goodbye().await;
    }

    async fn say_goodbye(&mut self) {
        let peers: Vec<_> = self.peers.ids().copied().collect();
        for peer in peers {
            self.book.lost(unix_now(), Instant::now(), &peer);
            // It may be gone by now.
            self.swarm.disconnect_peer_id(peer).ok();
        }
        let closed = async {
            while self.swarm.connected_peers().next().is_some() {
                if let SwarmEvent::ConnectionClosed { .. } = self.swarm.select_next_some().await {}
            }
        };
        if timeout(GOODBYE, closed).await.is_err() {
            tracing::debug!("some peers did not take leave in time");
        }
        if let Some(event) = changed(&mut self.trust)
            && timeout(GOODBYE, self.events.send(event)).await.is_err()
        {
            tracing::warn!("the last evidence about peers was not kept");
        }
        if let Some(known) = self.book.changes() {
            timeout(GOODBYE, self.events.send(Event::PeersKnown(known))).await.ok();
        }
        if let Some(held) = self.testifying.proofs.changes() {
            timeout(GOODBYE, self.events.send(Event::ProofsHeld(held))).await.ok();
        }
    }

    fn wake(&mut self, now: Instant) {
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.tick(now);
        }
        if self.discovery.wake(now, self.peers.ids().next().is_none()) {
            self.look_for_peers();
        }
    }

    fn tick(&mut self, now: Instant) {
        self.ticks += 1;
        if self.ticks.is_multiple_of(TICKS_PER_CREDIT) {
            for (peer, seconds) in self.peers.credit(now) {
                self.observe(peer, Evidence::Session { seconds });
            }
            self.look_through_book();
        }
        self.keep_island(now);
        self.reconnect(now);
        self.seek_relays(now);
        self.drop_relayed(now);
        self.hand_out_book();
        self.hand_out_proofs();
        if self.ticks.is_multiple_of(TICKS_PER_REDIAL) {
            self.redial_own_peers();
        }
        self.hand_out_records();
        self.finish_abandoned_fetches();
        self.send_unlicensed_away(now);
        self.keep_revocations();
        self.compare_revocations();
        self.compare_proofs();
    }

    fn look_for_peers(&mut self) {
        for (peer, address) in self.bootstrap.clone() {
            if self.may_meet(&peer) && !self.swarm.is_connected(&peer) {
                self.dial(DialOpts::peer_id(peer).addresses(vec![address]));
            }
        }
        self.dial_neighbours();
        let kad = &mut self.swarm.behaviour_mut().kad;
        if self.round.bootstrap.is_none() {
            // It fails while nobody of the DHT is known; there is nobody to ask the rest, either.
            let Ok(id) = kad.bootstrap() else { return };
            self.round.bootstrap = Some(id);
        }
        let key = record_key(&self.config.network.rendezvous());
        if self.round.provide.is_none() {
            self.round.provide = kad
                .start_providing(key.clone())
                .inspect_err(
                    |cause| tracing::debug!(%cause, "cannot announce this node on the dht"),
                )
                .ok();
        }
        self.round.rendezvous.get_or_insert_with(|| kad.get_providers(key));
    }

    /// Dials peers that mDNS found and that are not connected.
    pub(super) fn dial_neighbours(&mut self) {
        let found = self.swarm.behaviour().mdns.as_ref().map(|mdns| mdns.discovered_nodes());
        let found = found.into_iter().flatten().filter(|peer| !self.swarm.is_connected(peer));
        // One peer has several addresses, and is in the list once for each.
        let found: BTreeSet<_> = found.copied().take(DIALS_PER_ROUND_MAX).collect();
        for peer in found {
            self.dial_by_id(peer);
        }
    }

    /// Dials a peer wherever the behaviours know it to be.
    fn dial_by_id(&mut self, peer: PeerId) {
        if !self.may_meet(&peer) {
            return;
        }
        let everywhere = DialOpts::peer_id(peer).addresses(Vec::new());
        self.dial(everywhere.extend_addresses_through_behaviour());
    }

    fn dial(&mut self, opts: libp2p::swarm::dial_opts::WithPeerIdWithAddresses) {
        let opts = opts.condition(PeerCondition::DisconnectedAndNotDialing).build();
        if let Err(cause) = self.swarm.dial(opts) {
            tracing::trace!(%cause, "not dialled");
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Segments { peer, request, reply } => {
                if let Some(reply) = self.pass_gate(peer, Operation::FetchSegments, reply) {
                    if !self.segments_asked.has_room() {
                        return refuse(reply, NetworkError::Busy);
                    }
                    let id = self
                        .swarm
                        .behaviour_mut()
                        .segments
                        .send_request(&peer, Received::Message(request));
                    self.segments_asked.insert(id, reply);
                }
            }
            Command::Templates { peer, request, reply } => {
                if let Some(reply) = self.pass_gate(peer, Operation::FetchTemplates, reply) {
                    if !self.templates_asked.has_room() {
                        return refuse(reply, NetworkError::Busy);
                    }
                    let id = self
                        .swarm
                        .behaviour_mut()
                        .templates
                        .send_request(&peer, Received::Message(request));
                    self.templates_asked.insert(id, reply);
                }
            }
            Command::Catalogs { peer, request, reply } => {
                if let Some(reply) = self.pass_gate(peer, Operation::Reconcile, reply) {
                    if !self.catalogs_asked.has_room() {
                        return refuse(reply, NetworkError::Busy);
                    }
                    let request = Received::Message(request);
                    let id = self.swarm.behaviour_mut().catalogs.send_request(&peer, request);
                    self.catalogs_asked.insert(id, reply);
                }
            }
            Command::Replicas { peer, request, reply } => {
                if let Err(refusal) = self.may_replicate(&peer) {
                    self.counters.asks_denied += 1;
                    return refuse(reply, NetworkError::Gate(refusal));
                }
                if !self.replicas_asked.has_room() {
                    return refuse(reply, NetworkError::Busy);
                }
                let request = Received::Message(request);
                let id = self.swarm.behaviour_mut().replicas.send_request(&peer, request);
                self.replicas_asked.insert(id, reply);
            }
            Command::Fetch { wanted, candidates, search, reply } => {
                self.begin_fetch(&wanted, candidates, search, reply);
            }
            Command::FetchMore { fetch, wanted, reply } => {
                let wants = self.swarm.behaviour_mut().bitswap.want(fetch, &wanted);
                reply.send(wants.map_err(NetworkError::Fetch)).ok();
            }
            Command::FetchTaken { fetch, blocks } => {
                self.swarm.behaviour_mut().bitswap.on_taken(fetch, blocks);
            }
            Command::FetchFinish { fetch, reply } => {
                reply.send(Ok(self.finish_fetch(fetch))).ok();
            }
            Command::Stored(cids) => self.swarm.behaviour_mut().bitswap.on_stored(&cids),
            Command::AnnounceSegments(announcement) => {
                self.announce(self.config.network.segments_topic(), announcement);
            }
            Command::AnnounceTemplates(announcement) => {
                self.announce(self.config.network.templates_topic(), announcement);
            }
            Command::Dial { address, reply } => {
                self.dialled_by_hand(address.clone());
                let dialled = self.swarm.dial(address);
                let dialled =
                    dialled.map_err(|cause| NetworkError::Impossible { cause: cause.to_string() });
                reply.send(dialled).ok();
            }
            Command::Provide { cid, reply } => self.provide(&cid, reply),
            Command::Hold(cids) => self.hold(&cids),
            Command::Withdraw(cid) => self.withdraw(&cid),
            Command::PutName { name, record, reply } => self.put_name(&name, &record, reply),
            Command::ResolveName { name, reply } => self.resolve_name(name, reply),
            Command::Records { reply } => drop(reply.send(self.records())),
            Command::Providers { cid, reply } => self.find_providers(cid, reply),
            Command::Judge { peer, evidence, times } => {
                if evidence == Evidence::WrongCid {
                    self.counters.wrong_cids += times as u64;
                }
                (0..times).for_each(|_| self.observe(peer, evidence));
            }
            Command::Prove { proof } => {
                self.counters.wrong_cids += 1;
                self.prove(&proof);
            }
            Command::Revoke { revocation, reply } => self.revoke(revocation, reply),
            Command::Quarantine { peer, is_held, reply } => {
                reply.send(self.quarantine(peer, is_held)).ok();
            }
            Command::Explain { peer, reply } => {
                let trust = self.trust.explain(unix_now(), &peer);
                reply.send(self.view(trust)).ok();
            }
            Command::Revocations { reply } => drop(reply.send(self.revocations())),
            Command::May { peer, operation, reply } => {
                reply.send(self.trust.may(unix_now(), &peer, operation)).ok();
            }
            Command::ExpectConsole { peer, ticket, reply } => {
                self.expect_console(peer, ticket);
                reply.send(()).ok();
            }
            Command::Connected { reply } => {
                let connected: BTreeSet<_> = self.peers.ids().copied().collect();
                reply.send(self.views(connected)).ok();
            }
            Command::PeersAfter { after, count, reply } => {
                let from = after.as_ref().map(Subject::of);
                let connected = self.peers.ids().filter(|peer| Some(Subject::of(peer)) > from);
                let known = self.trust.peers_after(after.as_ref(), count).chain(connected);
                let known: BTreeMap<_, _> = known.map(|peer| (Subject::of(peer), *peer)).collect();
                let known = known.into_values().filter(|peer| !self.is_console(peer));
                reply.send(self.views(known.take(count))).ok();
            }
            Command::Peers { reply } => {
                let known = self.trust.notable_peers(NOTABLE_MAX).chain(self.peers.ids());
                let known: BTreeSet<_> = known.copied().collect();
                reply.send(self.views(known)).ok();
            }
            Command::Listening { reply } => {
                let me = *self.swarm.local_peer_id();
                let addresses = self.swarm.listeners().map(|address| with_peer(address, me));
                reply.send(addresses.collect()).ok();
            }
            Command::Reaching { reply } => drop(reply.send(self.reaching())),
            Command::Counters { reply } => {
                let limits = self.swarm.behaviour();
                let (wants, passed_over) = limits.bitswap.totals();
                let dialing_back = limits.autonat_server.as_ref().map_or(0, |at| at.refused());
                let traffic = self.meters.traffic();
                let counters = Counters {
                    wants_refused: wants.wants_refused + passed_over,
                    wants_standing: wants.wants as u64,
                    connections_refused: limits.connection_limits.refused(),
                    connections_refused_by_address: limits.address_limits.refused(),
                    quic_asked: self.turned_away.asked(),
                    quic_refused: self.turned_away.refused(),
                    quic_ignored: self.turned_away.ignored(),
                    told_dials_refused: limits.dcutr.refused() + dialing_back,
                    bytes_sent: traffic.up,
                    bytes_received: traffic.down,
                    ..self.counters
                };
                reply.send(counters).ok();
            }
            Command::Received { bytes } => self.counters.block_bytes_received += bytes,
        }
    }

    fn views(&self, peers: impl IntoIterator<Item = PeerId>) -> Vec<PeerView> {
        let now = unix_now();
        let view = |peer| self.view(self.trust.explain(now, &peer));
        // The operator's browser is no peer: nothing is counted of it, and nobody asks it for anything.
        let peers = peers.into_iter().filter(|peer| !self.is_console(peer));
        peers.map(view).collect()
    }

    fn view(&self, trust: Explanation) -> PeerView {
        let traffic = self.meters.traffic_of(&trust.peer);
        self.peers.view(trust, traffic, Instant::now())
    }

    /// Asks the gate about an own request; answers the asker when it refuses.
    fn pass_gate<T>(
        &mut self,
        peer: PeerId,
        operation: Operation,
        reply: Reply<T>,
    ) -> Option<Reply<T>> {
        match self.trust.may(unix_now(), &peer, operation) {
            Ok(()) => Some(reply),
            Err(refusal) => {
                self.counters.asks_denied += 1;
                refuse(reply, NetworkError::Gate(refusal));
                None
            }
        }
    }

    fn find_providers(&mut self, cid: Cid, reply: Reply<Vec<PeerId>>) {
        if self.queries.len() >= QUERIES_MAX {
            return refuse(reply, NetworkError::Busy);
        }
        self.ask_dht(&cid, Asker::Shell(reply));
    }

    fn ask_dht(&mut self, cid: &Cid, asker: Asker) {
        let id = self.swarm.behaviour_mut().kad.get_providers(record_key(cid));
        self.queries.insert(id, Providers { found: BTreeSet::new(), asker });
    }

    /// Gives the shell the records that changed, to keep. When its queue is full they wait in `trust`,
    /// which bounds them.
    fn hand_out_records(&mut self) {
        let Ok(room) = self.events.try_reserve() else { return };
        if let Some(event) = changed(&mut self.trust) {
            room.send(event);
        }
    }

    fn tell(&mut self, event: Event) {
        if self.events.try_send(event).is_err() {
            self.counters.events_dropped += 1;
        }
    }
}

/// Returns what changed in the records since this was asked last, for the shell to keep.
fn changed(trust: &mut Trust) -> Option<Event> {
    let forgotten: Vec<_> = std::iter::from_fn(|| trust.next_forgotten()).collect();
    let changed: Vec<_> = std::iter::from_fn(|| trust.next_dirty()).collect();
    let is_new = !changed.is_empty() || !forgotten.is_empty();
    is_new.then_some(Event::TrustChanged { changed, forgotten })
}

/// Returns the key of a CID on the DHT: its multihash, as everywhere on IPFS.
fn record_key(cid: &Cid) -> RecordKey {
    RecordKey::new(&cid.hash().to_bytes())
}

/// Answers that it cannot be done; whoever asked may have given up.
fn refuse<T>(reply: Reply<T>, error: NetworkError) {
    reply.send(Err(error)).ok();
}

/// Returns the time of the wall clock, which dates evidence and orders nothing.
fn unix_now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
