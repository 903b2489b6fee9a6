//! The swarm's behaviours, each with its limits, and how the swarm is built.

use std::{
    collections::HashSet,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use libp2p::{
    Swarm,
    autonat::v2 as autonat,
    dcutr,
    gossipsub::{self, MessageAuthenticity, ValidationMode, WhitelistSubscriptionFilter},
    identify,
    identity::Keypair,
    kad, mdns, memory_connection_limits, relay,
    request_response::{self, ProtocolSupport},
    swarm::{self, NetworkBehaviour, StreamProtocol, behaviour::toggle::Toggle},
    upnp,
};

use crate::{
    address_limits,
    bandwidth::Meters,
    bitswap,
    codec::Codec,
    config::{
        Config, IDLE_TIMEOUT, MEMORY_BYTES_MAX, NEGOTIATING_MAX, REQUEST_STREAMS_MAX,
        REQUEST_TIMEOUT, Reach, RelayLimits,
    },
    connection_limits,
    guarded::Guarded,
    members_only::MembersOnly,
    messages::{
        CATALOG_PROTOCOL, CHECKED_CATALOG_PROTOCOL, CONSOLE_PROTOCOL, CatalogsRequest,
        CatalogsResponse, ConsoleRequest, ConsoleResponse, MEMBERSHIP_PROTOCOL, MembershipRequest,
        MembershipResponse, REPLICAS_PROTOCOL, ReplicasRequest, ReplicasResponse,
        SEGMENTS_PROTOCOL, SIGNED_SEGMENTS_PROTOCOL, SegmentsRequest, SegmentsResponse,
        TEMPLATES_PROTOCOL, TESTIMONY_BYTES_MAX, TemplatesRequest, TemplatesResponse,
    },
    network::StartError,
    pinging::Pinging,
    provider_store::ProviderStore,
    quic::TurnedAway,
    relay_client::RelayClient,
    transport,
};

/// What identify tells about this program.
const AGENT: &str = concat!("dunlin/", env!("CARGO_PKG_VERSION"));
/// Largest announcement by gossip, in bytes: its payload and envelope have at most 512.
const ANNOUNCEMENT_BYTES_MAX: usize = 1024;
/// Largest revocation by gossip, in bytes: the signatures of 16 authorities and some 200 keys. Larger ones are
/// told when peers compare what they know.
pub(crate) const REVOCATION_GOSSIP_BYTES_MAX: usize = 16 * 1024;
/// Bytes that gossip puts around a message: its own signature, source and topic.
const GOSSIP_FRAMING_BYTES_MAX: usize = 512;
/// Largest frame of gossip, in bytes: gossip's own talk about which messages there are needs more room
/// than the messages.
const GOSSIP_BYTES_MAX: usize = 64 * 1024;

/// How long gossip remembers how a peer behaved that has left. It remembers all of them, some 2 KiB each, without another
/// limit, so that strangers who come with ever new keys would fill an hour, which is the default; what peers did that bears on
/// their standing, `trust` remembers, within limits.
const SCORE_RETENTION: Duration = Duration::from_secs(60);

/// Places at this relay that one peer may hold, less one: the crate refuses the one behind the next.
const RESERVATIONS_PER_PEER: usize = 1;
/// Connections with one peer that this relay carries at once, less one.
const CIRCUITS_PER_PEER: usize = 4;
/// How often an address may ask this relay for a place or a connection, and one peer: so many at once, and one more each
/// minute. Many peers may be behind one address.
const RELAY_ASKS_PER_ADDRESS: u32 = 64;
/// See [`RELAY_ASKS_PER_ADDRESS`].
const RELAY_ASKS_PER_PEER: u32 = 16;
/// How long a place at a relay is kept. Its holder renews it in time.
const RESERVATION_DURATION: Duration = Duration::from_secs(60 * 60);
/// How soon after it was seen somewhere a node asks to be dialled there. Newcomers find out in seconds.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// Addresses that are tried at a time.
const PROBES_AT_ONCE: usize = 4;

pub(crate) type SegmentsExchange =
    request_response::Behaviour<Codec<SegmentsRequest, SegmentsResponse>>;
pub(crate) type TemplatesExchange =
    request_response::Behaviour<Codec<TemplatesRequest, TemplatesResponse>>;

pub(crate) type CatalogsExchange =
    request_response::Behaviour<Codec<CatalogsRequest, CatalogsResponse>>;

pub(crate) type ReplicasExchange =
    request_response::Behaviour<Codec<ReplicasRequest, ReplicasResponse>>;

pub(crate) type MembershipExchange =
    request_response::Behaviour<Codec<MembershipRequest, MembershipResponse>>;

pub(crate) type ConsoleExchange =
    request_response::Behaviour<Codec<ConsoleRequest, ConsoleResponse>>;

pub(crate) type Gossip =
    gossipsub::Behaviour<gossipsub::IdentityTransform, WhitelistSubscriptionFilter>;

/// Everything that the swarm does. Limits come first: they must see a connection before the others.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) connection_limits: connection_limits::Behaviour,
    pub(crate) memory_limits: memory_connection_limits::Behaviour,
    pub(crate) address_limits: address_limits::Behaviour,
    pub(crate) identify: identify::Behaviour,
    pub(crate) ping: Pinging,
    pub(crate) mdns: Toggle<mdns::tokio::Behaviour>,
    pub(crate) kad: MembersOnly<kad::Behaviour<ProviderStore>>,
    pub(crate) gossip: MembersOnly<Gossip>,
    pub(crate) bitswap: bitswap::Behaviour,
    pub(crate) segments: SegmentsExchange,
    pub(crate) templates: TemplatesExchange,
    pub(crate) catalogs: CatalogsExchange,
    pub(crate) replicas: ReplicasExchange,
    pub(crate) membership: MembershipExchange,
    pub(crate) console: ConsoleExchange,
    pub(crate) relay_client: RelayClient,
    pub(crate) relay: Toggle<MembersOnly<relay::Behaviour>>,
    pub(crate) autonat_client: MembersOnly<Guarded<autonat::client::Behaviour>>,
    pub(crate) autonat_server: Toggle<MembersOnly<Guarded<autonat::server::Behaviour>>>,
    pub(crate) dcutr: MembersOnly<Guarded<dcutr::Behaviour>>,
    pub(crate) upnp: Toggle<upnp::tokio::Behaviour>,
}

impl Behaviour {
    fn new(
        keypair: &Keypair,
        config: &Config,
        is_closed: bool,
        relay_client: relay::client::Behaviour,
    ) -> Result<Self, StartError> {
        let me = keypair.public().to_peer_id();
        let guarded_server = || {
            let server = Guarded::new(autonat::server::Behaviour::default(), config.reach);
            MembersOnly::new(server, is_closed)
        };
        let dcutr = Guarded::new(dcutr::Behaviour::new(me), config.reach);
        Ok(Self {
            connection_limits: connection_limits::Behaviour::new(config.room.inbound),
            memory_limits: memory_connection_limits::Behaviour::with_max_bytes(MEMORY_BYTES_MAX),
            address_limits: address_limits::Behaviour::new(config.one_machine),
            identify: identify(keypair, config),
            ping: Pinging::default(),
            mdns: mdns(keypair, config).into(),
            kad: MembersOnly::new(kad(keypair, config), is_closed),
            gossip: MembersOnly::new(gossip(keypair, config)?, is_closed),
            bitswap: bitswap::Behaviour::default(),
            // The first one that both speak is spoken.
            segments: exchange(
                [SIGNED_SEGMENTS_PROTOCOL, SEGMENTS_PROTOCOL],
                ProtocolSupport::Full,
            ),
            templates: exchange([TEMPLATES_PROTOCOL], ProtocolSupport::Full),
            catalogs: exchange([CHECKED_CATALOG_PROTOCOL, CATALOG_PROTOCOL], ProtocolSupport::Full),
            replicas: exchange([REPLICAS_PROTOCOL], ProtocolSupport::Full),
            membership: exchange([MEMBERSHIP_PROTOCOL], ProtocolSupport::Full),
            console: exchange([CONSOLE_PROTOCOL], ProtocolSupport::Inbound),
            relay_client: RelayClient::new(relay_client),
            relay: config
                .helping
                .map(|limits| MembersOnly::new(relay(me, limits), is_closed))
                .into(),
            autonat_client: MembersOnly::new(
                Guarded::new(autonat_client(), config.reach),
                is_closed,
            ),
            autonat_server: config.helping.map(|_| guarded_server()).into(),
            dcutr: MembersOnly::new(dcutr, is_closed),
            upnp: config.upnp.then(upnp::tokio::Behaviour::default).into(),
        })
    }
}

fn identify(keypair: &Keypair, config: &Config) -> identify::Behaviour {
    let settings = identify::Config::new(config.network.family(), keypair.public())
        .with_agent_version(AGENT.to_owned())
        .with_hide_listen_addrs(config.reach == Reach::Public)
        .with_push_listen_addr_updates(true)
        // Addresses that peers tell are filtered before they are kept, which this cache does not do.
        .with_cache_size(0);
    identify::Behaviour::new(settings)
}

/// Returns mDNS, unless it is off or the system has no network for it: the node works without.
fn mdns(keypair: &Keypair, config: &Config) -> Option<mdns::tokio::Behaviour> {
    if !config.mdns {
        return None;
    }
    mdns::tokio::Behaviour::new(mdns::Config::default(), keypair.public().to_peer_id())
        .inspect_err(|cause| tracing::warn!(%cause, "mdns is not available; peers are found by the dht alone"))
        .ok()
}

fn kad(keypair: &Keypair, config: &Config) -> kad::Behaviour<ProviderStore> {
    let me = keypair.public().to_peer_id();
    let mut settings = kad::Config::new(config.kad_protocol());
    settings
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        // The shell decides when something is told again. The jobs of the crate would do it all at once,
        // forget it with every restart, and remember every key that anybody ever tried to put here.
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None)
        .set_query_timeout(Duration::from_secs(20))
        .set_periodic_bootstrap_interval(Some(Duration::from_secs(300)));
    let store = ProviderStore::new(me, config.room.records, Instant::now());
    let mut kad = kad::Behaviour::with_config(me, store, settings);
    // On the open internet a node serves the DHT once it has an address there (`network/reaching.rs`), for which the
    // crate would take one at a relay as well; a local network has none to wait for.
    let is_local = config.reach == Reach::Local;
    kad.set_mode(Some(if is_local { kad::Mode::Server } else { kad::Mode::Client }));
    kad
}

/// Returns what finds out whether strangers reach this node.
pub(crate) fn autonat_client() -> autonat::client::Behaviour {
    let settings = autonat::client::Config::default()
        .with_probe_interval(PROBE_INTERVAL)
        .with_max_candidates(PROBES_AT_ONCE);
    autonat::client::Behaviour::new(rand::make_rng(), settings)
}

fn relay(me: libp2p::PeerId, limits: RelayLimits) -> relay::Behaviour {
    let [per_address, per_peer] = [RELAY_ASKS_PER_ADDRESS, RELAY_ASKS_PER_PEER]
        .map(|asks| NonZeroU32::new(asks).unwrap_or(NonZeroU32::MIN));
    let minute = Duration::from_secs(60);
    let settings = relay::Config {
        max_reservations: limits.reservations,
        max_reservations_per_peer: RESERVATIONS_PER_PEER,
        reservation_duration: RESERVATION_DURATION,
        reservation_rate_limiters: Vec::new(),
        max_circuits: limits.circuits,
        max_circuits_per_peer: CIRCUITS_PER_PEER,
        max_circuit_duration: limits.circuit_duration,
        max_circuit_bytes: limits.circuit_bytes,
        circuit_src_rate_limiters: Vec::new(),
    };
    // Addresses first: keys cost nothing, and each that is let through is remembered for a while.
    let settings = settings
        .reservation_rate_per_ip(per_address, minute)
        .reservation_rate_per_peer(per_peer, minute)
        .circuit_src_per_ip(per_address, minute)
        .circuit_src_per_peer(per_peer, minute);
    relay::Behaviour::new(me, settings)
}

fn gossip(keypair: &Keypair, config: &Config) -> Result<Gossip, StartError> {
    let sized = [
        (config.network.segments_topic(), ANNOUNCEMENT_BYTES_MAX),
        (config.network.templates_topic(), ANNOUNCEMENT_BYTES_MAX),
        (config.network.evidence_topic(), TESTIMONY_BYTES_MAX + GOSSIP_FRAMING_BYTES_MAX),
        (
            config.network.revocations_topic(),
            REVOCATION_GOSSIP_BYTES_MAX + GOSSIP_FRAMING_BYTES_MAX,
        ),
    ];
    let mut settings = gossipsub::ConfigBuilder::default();
    for (topic, bytes_max) in &sized {
        settings.max_transmit_size_for_topic(*bytes_max, topic.hash());
    }
    let topics = sized.map(|(topic, _)| topic);
    let settings = settings
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .max_transmit_size(GOSSIP_BYTES_MAX)
        .heartbeat_interval(Duration::from_millis(700))
        .build()
        .map_err(|cause| StartError::Gossip { cause: cause.to_string() })?;
    let allowed: HashSet<_> = topics.iter().map(|topic| topic.hash()).collect();
    let failed = |cause: &str| StartError::Gossip { cause: cause.to_owned() };
    let mut gossip = gossipsub::Behaviour::new_with_subscription_filter(
        MessageAuthenticity::Signed(keypair.clone()),
        settings,
        WhitelistSubscriptionFilter(allowed),
    )
    .map_err(failed)?;
    // Invalid messages and broken promises count; silence does not, as announcements are rare here.
    let scores = gossipsub::PeerScoreParams {
        ip_colocation_factor_weight: if config.one_machine { 0.0 } else { -5.0 },
        topics: topics.iter().map(|topic| (topic.hash(), quiet_topic())).collect(),
        retain_score: SCORE_RETENTION,
        ..gossipsub::PeerScoreParams::default()
    };
    gossip
        .with_peer_score(scores, gossipsub::PeerScoreThresholds::default())
        .map_err(|cause| StartError::Gossip { cause })?;
    for topic in &topics {
        gossip.subscribe(topic).map_err(|cause| StartError::Gossip { cause: cause.to_string() })?;
    }
    Ok(gossip)
}

fn quiet_topic() -> gossipsub::TopicScoreParams {
    gossipsub::TopicScoreParams {
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: -10.0,
        invalid_message_deliveries_decay: 0.9,
        ..gossipsub::TopicScoreParams::default()
    }
}

fn exchange<Q, R, const VERSIONS: usize>(
    versions: [&'static str; VERSIONS],
    support: ProtocolSupport,
) -> request_response::Behaviour<Codec<Q, R>>
where
    Codec<Q, R>:
        request_response::Codec<Protocol = StreamProtocol> + Default + Clone + Send + 'static,
{
    let settings = request_response::Config::default()
        .with_request_timeout(REQUEST_TIMEOUT)
        .with_max_concurrent_streams(REQUEST_STREAMS_MAX);
    let versions = versions.map(|version| (StreamProtocol::new(version), support.clone()));
    request_response::Behaviour::new(versions, settings)
}

/// Returns the swarm, which listens nowhere yet. In a closed network it serves none but members.
pub(crate) fn swarm(
    keypair: &Keypair,
    config: &Config,
    is_closed: bool,
    meters: &Arc<Meters>,
    turned_away: &Arc<TurnedAway>,
) -> Result<Swarm<Behaviour>, StartError> {
    let me = keypair.public().to_peer_id();
    let (relayed, relay_client) = relay::client::new(me);
    let transport = if config.is_air_gapped {
        transport::none(keypair, relayed, meters)?
    } else {
        transport::all(keypair, relayed, meters, config, turned_away)?
    };
    let behaviour = Behaviour::new(keypair, config, is_closed, relay_client)?;
    let settings = swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(IDLE_TIMEOUT)
        .with_max_negotiating_inbound_streams(NEGOTIATING_MAX)
        .with_smart_dial();
    Ok(Swarm::new(transport, behaviour, me, settings))
}
