//! The configuration: a TOML file in the data folder, with every key documented and checked.
//!
//! Reading collects every mistake before anything starts, each with its key, its value and what would
//! be accepted. [`DEFAULT_TOML`] is both what `dunlin init` writes and the documentation of the keys;
//! a test reads it back and compares it with [`Config::default`], so neither can drift.

mod dns;
mod reader;
mod relay;
mod standing;

use std::{
    net::{AddrParseError, SocketAddr},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use dunlin_archive::{
    Selection,
    backend::{ServiceUrl, UrlError},
    replication::REPLICAS_MAX,
};
use dunlin_privacy::{CELLS_MAX, DELTA_MAX, Mechanism, Unit};
use dunlin_protocols::{Bandwidth, Island, Multiaddr, NetworkName, Reach, StreamProtocol};
use dunlin_trust::{AUTHORITIES_MAX, Authorities, AuthoritiesError};
use dunlin_wire::Cid;
use libp2p_identity::PeerId;

pub(crate) use self::reader::ConfigError;
use self::reader::{Reader, Section};
pub(crate) use self::{relay::RelayConfig, standing::TrustConfig};

/// What `dunlin init` writes: every key with its default and what it does.
pub(crate) const DEFAULT_TOML: &str = include_str!("config/default.toml");

/// All settings of a node, checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    /// How the node meets others.
    pub(crate) network: NetworkConfig,
    /// Whom it helps to be reached.
    pub(crate) relay: RelayConfig,
    /// How the node judges its peers.
    pub(crate) trust: TrustConfig,
    /// The local HTTP API.
    pub(crate) api: ApiConfig,
    /// Segments and their store.
    pub(crate) engine: EngineConfig,
    /// The archive of blocks.
    pub(crate) archive: ArchiveConfig,
    /// The Kubo that is the archive's backend.
    pub(crate) kubo: KuboConfig,
    /// The pinning service that keeps what may leave.
    pub(crate) pinning: PinningConfig,
    /// The trustless gateway.
    pub(crate) gateway: GatewayConfig,
    /// The page that a bootstrap node shows.
    pub(crate) page: PageConfig,
    /// What leaves the node, and at what cost.
    pub(crate) privacy: PrivacyConfig,
    /// What the node takes from others.
    pub(crate) templates: TemplatesConfig,
    /// What the node writes about itself.
    pub(crate) log: LogConfig,
}

/// How the node meets others.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NetworkConfig {
    /// Networks of different names never meet.
    pub(crate) name: NetworkName,
    /// Whom it meets, if anybody.
    pub(crate) mode: Mode,
    /// Whom it meets as an island, and when.
    pub(crate) island: Island,
    /// Addresses to listen on.
    pub(crate) listen: Vec<Multiaddr>,
    /// Addresses under which others reach this node, where they are others than it listens on.
    pub(crate) external: Vec<Multiaddr>,
    /// Peers to dial first, each with its `/p2p` part.
    pub(crate) bootstrap: Vec<Multiaddr>,
    /// Servers to ask about names in addresses; those of the system when empty.
    pub(crate) dns: Vec<SocketAddr>,
    /// Whether to find peers on the local network.
    pub(crate) mdns: bool,
    /// Whether strangers reach this node.
    pub(crate) reach: Reach,
    /// Peers of the same operator, who alone may have private segments.
    pub(crate) own_peers: Vec<PeerId>,
    /// The protocol of the DHT to take part in, when it is not one of this network alone.
    pub(crate) dht: Option<StreamProtocol>,
    /// Exempt loopback from the limit on connections from one address.
    pub(crate) one_machine: bool,
    /// Whether to ask the router to forward ports.
    pub(crate) upnp: bool,
    /// Ceilings on what goes over the wire.
    pub(crate) bandwidth: Bandwidth,
    /// Who licenses peers and revokes them. Without any, the network is open.
    pub(crate) authorities: Vec<PeerId>,
    /// How many of them must agree.
    pub(crate) threshold: usize,
}

/// Whom a node meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The peers of its network.
    Federated,
    /// Those that the operator wants, when the operator wants.
    Island,
    /// Nobody: it opens no socket but that of its API, on this machine.
    AirGapped,
}

const MODES: [(&str, Mode); 3] =
    [("federated", Mode::Federated), ("island", Mode::Island), ("air-gapped", Mode::AirGapped)];

/// The local HTTP API.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ApiConfig {
    /// Where it listens.
    pub(crate) listen: SocketAddr,
}

/// Segments and their store.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct EngineConfig {
    /// Requests that may be inside the engine at once.
    pub(crate) requests_max: NonZeroUsize,
    /// Entities that say nothing for so long are removed; `None`: never.
    pub(crate) forget_silent: Option<Duration>,
    /// Segments older than this are compacted into outlines; `None`: never.
    pub(crate) compact_after: Option<Duration>,
    /// Error that compaction may reach.
    pub(crate) compact_nrmse: f64,
    /// What the index may take in memory, in bytes.
    pub(crate) index_bytes: u64,
    /// What is read from the store and kept, in bytes.
    pub(crate) store_cache_bytes: u64,
    /// Past regimes that are kept in memory to compare with, in bytes.
    pub(crate) baseline_cache_bytes: u64,
}

/// The archive of blocks.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ArchiveConfig {
    /// Largest size of all blocks.
    pub(crate) bytes_max: u64,
    /// How long fetched segments are kept; `None`: as long as there is room.
    pub(crate) keep_fetched: Option<Duration>,
    /// How many peers shall hold each archived segment.
    pub(crate) replicas: usize,
    /// How often each of them proves that it does.
    pub(crate) replica_check: Duration,
    /// How long a peer may be away before its replicas are made elsewhere.
    pub(crate) replica_away: Duration,
    /// What is held here for each of the operator's own peers.
    pub(crate) replicate_for_own_bytes: u64,
    /// What is held here for each other trusted peer.
    pub(crate) replicate_for_bytes: u64,
    /// What is fetched that own peers know of the same collections.
    pub(crate) recover: Recover,
    /// Where blocks are kept.
    pub(crate) backend: BackendKind,
    /// Whether what is public is published under the node's name and told to the DHT.
    pub(crate) publish: bool,
    /// How long a record of the name is valid.
    pub(crate) ipns_lifetime: Duration,
    /// How often the DHT is told again.
    pub(crate) provide_every: Duration,
    /// Objects that the operator may name to be told of.
    pub(crate) provide_max: usize,
}

/// What recovery brings of segments that own peers sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recover {
    /// Their summaries.
    Summaries,
    /// Their payload, too.
    All,
    /// Nothing; nor is it told what is here.
    Off,
}

/// Where archived blocks are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BackendKind {
    /// In the node's own store.
    Embedded,
    /// There, and in a Kubo node.
    Kubo,
}

/// The Kubo that is the archive's backend.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KuboConfig {
    /// Where its RPC listens.
    pub(crate) url: ServiceUrl,
    /// The file with what it asks for, relative to the data folder.
    pub(crate) auth_file: Option<PathBuf>,
    /// What it gets.
    pub(crate) holds: Selection,
}

/// The pinning service that keeps what may leave.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PinningConfig {
    /// Where its API is, if there is one.
    pub(crate) url: ServiceAt,
    /// The file with its token, relative to the data folder.
    pub(crate) token_file: Option<PathBuf>,
    /// Where it finds the blocks, when not at the addresses that the node knows of.
    pub(crate) origins: Vec<Multiaddr>,
}

/// A service, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceAt(pub(crate) Option<ServiceUrl>);

impl FromStr for ServiceAt {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        if text == "off" { Ok(Self(None)) } else { text.parse().map(|url| Self(Some(url))) }
    }
}

/// The page that a bootstrap node shows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PageConfig {
    /// Where it listens, if at all.
    pub(crate) listen: ListenOn,
}

/// The trustless gateway.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GatewayConfig {
    /// Where it listens, if at all.
    pub(crate) listen: ListenOn,
    /// What it serves.
    pub(crate) serve: Serve,
    /// What it does not serve whatever `serve` says, by the bytes that these CIDs name.
    pub(crate) denied: Vec<Cid>,
    /// Requests under way at once.
    pub(crate) requests_max: NonZeroUsize,
    /// How long one request may take.
    pub(crate) request_timeout: Duration,
    /// Largest CAR.
    pub(crate) car_bytes_max: u64,
}

/// An address, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListenOn(pub(crate) Option<SocketAddr>);

impl FromStr for ListenOn {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        if text == "off" { Ok(Self(None)) } else { text.parse().map(|address| Self(Some(address))) }
    }
}

/// Whose blocks a gateway serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Serve {
    /// What strangers may have.
    Public,
    /// Everything that the node holds.
    All,
}

/// What leaves the node, and at what cost.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PrivacyConfig {
    /// Privacy loss of one release.
    pub(crate) epsilon: f64,
    /// Ceiling of the privacy loss of each unit of a collection, for ever.
    pub(crate) epsilon_max: f64,
    /// What is protected, unless a request says otherwise.
    pub(crate) unit: Unit,
    /// By which noise, unless a request says otherwise.
    pub(crate) mechanism: Mechanism,
    /// How probable a larger loss may be, over all releases.
    pub(crate) delta: f64,
    /// How many behaviours of an entity, or of its day, count at most.
    pub(crate) cells_max: u8,
    /// Most templates in one release.
    pub(crate) templates_max: usize,
    /// How long a release counts.
    pub(crate) expiry: Duration,
}

/// What the node takes from others.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TemplatesConfig {
    /// Whether to fetch templates of peers and to put them before the adoption gate.
    pub(crate) adopt: bool,
    /// How much worse than the node's own history a set may explain it.
    pub(crate) gate_ratio: f64,
    /// How much own history of an entity ends the use of templates for it; `None` for never.
    pub(crate) fade: Option<Duration>,
}

/// What the node writes about itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LogConfig {
    /// A `tracing` filter.
    pub(crate) level: String,
    /// As text or as JSON lines.
    pub(crate) format: LogFormat,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

impl Config {
    /// Returns the configuration in the file at `path`.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be read, is not TOML, or has any key or value that is not accepted;
    /// the error lists all of them.
    pub(crate) fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|cause| ConfigError::Read { path: path.into(), cause })?;
        Self::parse(&text).map_err(|error| error.in_file(path))
    }

    /// Returns the configuration that `text` spells out; keys that are absent have their defaults.
    fn parse(text: &str) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(text)?;
        let config = Self {
            network: reader.section("network", NetworkConfig::read),
            relay: reader.section("relay", RelayConfig::read),
            trust: reader.section("trust", TrustConfig::read),
            api: reader.section("api", ApiConfig::read),
            engine: reader.section("engine", EngineConfig::read),
            archive: reader.section("archive", ArchiveConfig::read),
            kubo: reader.section("kubo", KuboConfig::read),
            pinning: reader.section("pinning", PinningConfig::read),
            gateway: reader.section("gateway", GatewayConfig::read),
            page: reader.section("page", PageConfig::read),
            privacy: reader.section("privacy", PrivacyConfig::read),
            templates: reader.section("templates", TemplatesConfig::read),
            log: reader.section("log", LogConfig::read),
        };
        for (key, problem) in config.sockets() {
            if config.network.mode == Mode::AirGapped {
                reader.object(key, problem);
            }
        }
        reader.finish()?;
        Ok(config)
    }

    /// Returns what would have the node open a socket to the outside, beside the network itself.
    fn sockets(&self) -> Vec<(&'static str, &'static str)> {
        const NO_SOCKET: &str = "an air-gapped node has no socket for this; leave it out";
        let sockets = [
            ("gateway.listen", self.gateway.listen.0.is_some(), NO_SOCKET),
            ("archive.backend", self.archive.backend == BackendKind::Kubo, NO_SOCKET),
            ("pinning.url", self.pinning.url.0.is_some(), NO_SOCKET),
            (
                "api.listen",
                !self.api.listen.ip().is_loopback(),
                "the API of an air-gapped node is for its own machine; give a loopback address",
            ),
        ];
        let open = sockets.into_iter().filter(|(_, is_open, _)| *is_open);
        open.map(|(key, _, problem)| (key, problem)).collect()
    }

    /// Checks that flags ask for no socket that the mode does not allow.
    ///
    /// # Errors
    ///
    /// Fails with the first that does.
    pub(crate) fn check_mode(&self) -> Result<(), String> {
        match self.sockets().first() {
            Some((key, problem)) if self.network.mode == Mode::AirGapped => {
                Err(format!("{key}: {problem}"))
            }
            _ => Ok(()),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::parse("").expect("no key is required")
    }
}

impl NetworkConfig {
    fn read(section: &mut Section<'_>) -> Self {
        let (authorities, threshold) = authorities(section);
        let listen =
            ["/ip4/0.0.0.0/tcp/4601", "/ip4/0.0.0.0/udp/4601/quic-v1", "/ip4/0.0.0.0/tcp/4602/ws"];
        Self {
            name: section.parsed("name", "dunlin", "letters, digits, `-` and `_`, at most 64"),
            mode: section.choice("mode", &MODES),
            island: island(section),
            listen: section.parsed_list(
                "listen",
                &listen,
                "a multiaddr like /ip4/0.0.0.0/tcp/4601",
            ),
            external: section.parsed_list(
                "external",
                &[],
                "a multiaddr like /dns4/node.example.org/tcp/4601",
            ),
            bootstrap: section.parsed_list(
                "bootstrap",
                &[],
                "a multiaddr that ends in /p2p/<peer id>",
            ),
            dns: dns::servers(section),
            mdns: section.boolean("mdns", true),
            reach: section.choice("reach", &[("local", Reach::Local), ("public", Reach::Public)]),
            own_peers: section.parsed_list("own_peers", &[], "a peer id like 12D3KooW…"),
            dht: dht(section, !authorities.is_empty()),
            one_machine: section.boolean("one_machine", false),
            upnp: section.boolean("upnp", true),
            bandwidth: bandwidth(section),
            authorities,
            threshold,
        }
    }

    /// Returns who speaks for the network, when it is a closed one.
    pub(crate) fn authorities(&self) -> Option<Authorities> {
        let keys = self.authorities.iter().copied();
        let authorities = Authorities::new(self.name.as_str(), keys, self.threshold);
        // They were checked when they were read.
        authorities.ok().filter(|_| !self.authorities.is_empty())
    }
}

fn island(section: &mut Section<'_>) -> Island {
    const MINUTE: u64 = 60;
    let only_own_peers = section.choice("island_meets", &[("own", true), ("all", false)]);
    let every = section.integer("island_every_mins", 0, 0..=DAY / MINUTE);
    let length = section.integer("island_for_mins", 10, 1..=DAY / MINUTE);
    if every > 0 && every <= length {
        section.object("island_for_mins", "must be less than `island_every_mins`");
    }
    Island {
        only_own_peers,
        every: (every > 0).then(|| Duration::from_secs(every * MINUTE)),
        length: Duration::from_secs(length * MINUTE),
    }
}

fn bandwidth(section: &mut Section<'_>) -> Bandwidth {
    let mut ceiling = |key| {
        let kib = section.integer(key, 0, 0..=1 << 30);
        (kib > 0).then_some(kib << 10)
    };
    Bandwidth {
        up: ceiling("up_kib"),
        down: ceiling("down_kib"),
        peer_up: ceiling("peer_up_kib"),
        peer_down: ceiling("peer_down_kib"),
    }
}

fn authorities(section: &mut Section<'_>) -> (Vec<PeerId>, usize) {
    let authorities: Vec<PeerId> =
        section.parsed_list("authorities", &[], "the peer id of a key, like 12D3KooW…");
    let threshold = section.integer("threshold", 1, 1..=AUTHORITIES_MAX as u64) as usize;
    if authorities.is_empty() {
        if threshold > 1 {
            section.object("threshold", "there are no `authorities` that could agree");
        }
    } else if let Err(cause) = Authorities::new("any", authorities.iter().copied(), threshold) {
        let key = match cause {
            AuthoritiesError::Count { .. } => "authorities",
            _ => "threshold",
        };
        section.object(key, &cause.to_string());
    }
    (authorities, threshold)
}

fn dht(section: &mut Section<'_>, is_closed: bool) -> Option<StreamProtocol> {
    let parse = |text: &str| StreamProtocol::try_from_owned(text.to_owned()).ok();
    let is_accepted = |text: &str| text.is_empty() || parse(text).is_some();
    let accepted = "a protocol like /ipfs/kad/1.0.0, or nothing";
    let dht = parse(&section.checked("dht", "", accepted, is_accepted));
    if is_closed && dht.is_some() {
        section.object("dht", "a network with `authorities` has a DHT of its own: leave this out");
    }
    dht
}

impl ApiConfig {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            listen: section.parsed("listen", "127.0.0.1:4600", "an address like 127.0.0.1:4600"),
        }
    }
}

/// Seconds.
const HOUR: u64 = 60 * 60;

/// Seconds.
const DAY: u64 = 24 * HOUR;

impl EngineConfig {
    fn read(section: &mut Section<'_>) -> Self {
        const MIB: u64 = 1 << 20;
        let requests = section.integer("requests_max", 64, 1..=4096);
        let requests_max = usize::try_from(requests).ok().and_then(NonZeroUsize::new);
        let mut days = |key| {
            let days = section.integer(key, 0, 0..=36_500);
            (days > 0).then(|| Duration::from_secs(days * DAY))
        };
        let (forget_silent, compact_after) =
            (days("forget_silent_days"), days("compact_after_days"));
        Self {
            requests_max: requests_max.unwrap_or(NonZeroUsize::MIN),
            forget_silent,
            compact_after,
            compact_nrmse: section.float("compact_nrmse", 0.05, 0.001..=1.0),
            index_bytes: MIB * section.integer("index_mib", 2_048, 16..=1_048_576),
            store_cache_bytes: MIB * section.integer("store_cache_mib", 8, 1..=1_048_576),
            baseline_cache_bytes: MIB * section.integer("baseline_cache_mib", 64, 1..=1_048_576),
        }
    }
}

impl ArchiveConfig {
    fn read(section: &mut Section<'_>) -> Self {
        const MIB: u64 = 1 << 20;
        let mut hours =
            |key, default, range| Duration::from_secs(section.integer(key, default, range) * HOUR);
        let ipns_lifetime = hours("ipns_hours", 48, 1..=720);
        let provide_every = hours("provide_hours", 22, 1..=47);
        let provide_max = section.integer("provide_max", 1000, 0..=8000);
        let recover =
            [("summaries", Recover::Summaries), ("all", Recover::All), ("off", Recover::Off)];
        let backends = [("embedded", BackendKind::Embedded), ("kubo", BackendKind::Kubo)];
        let keep_days = section.integer("keep_days", 0, 0..=36_500);
        let replicas = section.integer("replicas", 0, 0..=REPLICAS_MAX as u64);
        Self {
            bytes_max: section.integer("mib_max", 10_240, 1..=1 << 30) * MIB,
            keep_fetched: (keep_days > 0).then(|| Duration::from_secs(keep_days * DAY)),
            replicas: usize::try_from(replicas).unwrap_or(0),
            replica_check: Duration::from_secs(section.integer(
                "replica_check_secs",
                3_600,
                1..=30 * DAY,
            )),
            replica_away: Duration::from_secs(section.integer(
                "replica_away_secs",
                DAY,
                1..=365 * DAY,
            )),
            replicate_for_own_bytes: section.integer("replicate_for_own_mib", 10_240, 0..=1 << 30)
                * MIB,
            replicate_for_bytes: section.integer("replicate_for_mib", 0, 0..=1 << 30) * MIB,
            recover: section.choice("recover", &recover),
            backend: section.choice("backend", &backends),
            publish: section.boolean("publish", true),
            ipns_lifetime,
            provide_every,
            provide_max: usize::try_from(provide_max).unwrap_or(usize::MAX),
        }
    }
}

/// A credential that goes in the clear over a network is none any more.
const IN_THE_CLEAR: &str =
    "a credential would go there in the clear; use https, or an address of this machine";

impl KuboConfig {
    fn read(section: &mut Section<'_>) -> Self {
        let url: ServiceUrl =
            section.parsed("url", "http://127.0.0.1:5001", "an address like http://127.0.0.1:5001");
        let auth_file = file(section, "auth_file");
        if auth_file.is_some() && !url.is_confidential() {
            section.object("url", IN_THE_CLEAR);
        }
        let holds = [("public", Selection::Public), ("all", Selection::Everything)];
        Self { url, auth_file, holds: section.choice("holds", &holds) }
    }
}

impl PinningConfig {
    fn read(section: &mut Section<'_>) -> Self {
        let url: ServiceAt =
            section.parsed("url", "off", "\"off\" or an address like https://api.example.org/psa");
        let token_file = file(section, "token_file");
        if let ServiceAt(Some(service)) = &url {
            if token_file.is_none() {
                section.object("token_file", "a pinning service asks for a token");
            }
            if !service.is_confidential() {
                section.object("url", IN_THE_CLEAR);
            }
        }
        let origins = section.parsed_list(
            "origins",
            &[],
            "a multiaddr like /dns4/node.example.org/tcp/4601/p2p/<peer id>",
        );
        Self { url, token_file, origins }
    }
}

fn file(section: &mut Section<'_>, key: &'static str) -> Option<PathBuf> {
    let name = section.checked(key, "", "a file name", |_| true);
    (!name.is_empty()).then(|| PathBuf::from(name))
}

impl GatewayConfig {
    fn read(section: &mut Section<'_>) -> Self {
        const MIB: u64 = 1 << 20;
        let requests = section.integer("requests_max", 64, 1..=1024);
        let requests_max = usize::try_from(requests).ok().and_then(NonZeroUsize::new);
        let seconds = section.integer("request_secs", 300, 1..=3600);
        Self {
            listen: section.parsed("listen", "off", "\"off\" or an address like 127.0.0.1:4610"),
            serve: section.choice("serve", &[("public", Serve::Public), ("all", Serve::All)]),
            denied: section.parsed_list("denied", &[], "a CID like bafkrei…"),
            requests_max: requests_max.unwrap_or(NonZeroUsize::MIN),
            request_timeout: Duration::from_secs(seconds),
            car_bytes_max: section.integer("car_mib_max", 1024, 1..=1 << 20) * MIB,
        }
    }
}

impl PageConfig {
    fn read(section: &mut Section<'_>) -> Self {
        let accepted = "\"off\" or an address like 127.0.0.1:4603";
        Self { listen: section.parsed("listen", "off", accepted) }
    }
}

impl PrivacyConfig {
    fn read(section: &mut Section<'_>) -> Self {
        let templates_max = section.integer("templates_max", 16, 1..=16);
        Self {
            epsilon: section.float("epsilon", 1.0, 0.01..=10.0),
            epsilon_max: section.float("epsilon_max", 4.0, 0.01..=100.0),
            unit: section.choice("unit", &Unit::ALL.map(|unit| (unit.name(), unit))),
            mechanism: section.choice(
                "mechanism",
                &[Mechanism::Laplace, Mechanism::Gaussian].map(|it| (it.name(), it)),
            ),
            delta: section.float("delta", 0.0, 0.0..=DELTA_MAX),
            cells_max: u8::try_from(section.integer("cells_max", 4, 1..=u64::from(CELLS_MAX)))
                .unwrap_or(CELLS_MAX),
            templates_max: usize::try_from(templates_max).unwrap_or(usize::MAX),
            expiry: Duration::from_secs(section.integer("expiry_days", 30, 1..=90) * DAY),
        }
    }
}

impl TemplatesConfig {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            adopt: section.boolean("adopt", true),
            gate_ratio: section.float("gate_ratio", 1.25, 1.0..=10.0),
            fade: match section.integer("fade_days", 3, 0..=3_650) {
                0 => None,
                days => Some(Duration::from_secs(days * DAY)),
            },
        }
    }
}

impl LogConfig {
    fn read(section: &mut Section<'_>) -> Self {
        let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        Self {
            level: section.checked(
                "level",
                "error,dunlin=info",
                "a filter like `info` or `error,dunlin=debug`",
                |text| tracing_subscriber::EnvFilter::try_new(text).is_ok(),
            ),
            format: section.choice("format", &formats),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_defaults_are_the_defaults() {
        assert_eq!(Config::parse(DEFAULT_TOML).unwrap(), Config::default());
    }

    #[test]
    fn every_key_is_documented() {
        // Reading an empty file registers every key that the code asks for.
        let mut reader = Reader::new("").unwrap();
        let documented: toml::Table = DEFAULT_TOML.parse().unwrap();
        let mut check = |name, read: fn(&mut Section<'_>)| {
            let keys = reader.section(name, |section| {
                read(section);
                section.known().to_vec()
            });
            for key in keys {
                assert!(documented[name].get(key).is_some(), "{name}.{key}");
            }
        };
        check("network", |section| {
            NetworkConfig::read(section);
        });
        check("relay", |section| {
            RelayConfig::read(section);
        });
        check("trust", |section| {
            TrustConfig::read(section);
        });
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let text = "
            [network]
            name = 'no spaces please'
            lisen = ['/ip4/0.0.0.0/tcp/1']
            bootstrap = ['/nonsense']
            mdns = 'yes'
            dns = ['dns.example.org']
            [privacy]
            epsilon = -1
            [lgo]
            level = 'info'
        ";
        let error = Config::parse(text).unwrap_err();
        let message = error.to_string();
        for part in [
            "network.name",
            "network.lisen",
            "did you mean `listen`",
            "network.bootstrap",
            "network.mdns",
            "network.dns",
            "privacy.epsilon",
            "did you mean `log`",
        ] {
            assert!(message.contains(part), "{part} is not in:\n{message}");
        }
        assert_eq!(error.mistakes().len(), 7, "{message}");
    }

    #[test]
    fn credentials_do_not_travel_in_the_clear() {
        let text = "
            [kubo]
            url = 'http://192.168.1.7:5001'
            auth_file = 'kubo.auth'
            [pinning]
            url = 'http://api.example.org'
        ";
        let message = Config::parse(text).unwrap_err().to_string();
        for part in [
            "3 mistakes",
            "kubo.url: a credential",
            "pinning.url: a credential",
            "pinning.token_file",
        ] {
            assert!(message.contains(part), "{part} is not in:\n{message}");
        }
        let fine = "
            [archive]
            backend = 'kubo'
            [kubo]
            url = 'http://192.168.1.7:5001'
            holds = 'all'
            [pinning]
            url = 'https://api.example.org/psa/'
            token_file = 'pinning.token'
        ";
        let config = Config::parse(fine).unwrap();
        assert_eq!(config.archive.backend, BackendKind::Kubo);
        assert_eq!(config.kubo.holds, Selection::Everything);
        assert_eq!(config.pinning.url.0.unwrap().to_string(), "https://api.example.org/psa");
    }

    #[test]
    fn an_air_gapped_node_has_no_setting_that_would_open_a_socket() {
        let text = "
            [network]
            mode = 'air-gapped'
            [api]
            listen = '0.0.0.0:4600'
            [gateway]
            listen = '127.0.0.1:4610'
            [archive]
            backend = 'kubo'
            [pinning]
            url = 'https://api.example.org/psa'
            token_file = 'pinning.token'
        ";
        let message = Config::parse(text).unwrap_err().to_string();
        for part in ["4 mistakes", "api.listen", "gateway.listen", "archive.backend", "pinning.url"]
        {
            assert!(message.contains(part), "{part} is not in:\n{message}");
        }
        let mut config = Config::parse("[network]\nmode = 'air-gapped'").unwrap();
        assert_eq!(config.check_mode(), Ok(()));
        config.gateway.listen = ListenOn(Some(config.api.listen));
        assert!(config.check_mode().unwrap_err().starts_with("gateway.listen"));
        config.network.mode = Mode::Federated;
        assert_eq!(config.check_mode(), Ok(()));
    }

    #[test]
    fn authorities_must_be_able_to_agree() {
        let key = "12D3KooWCYJGHHBLAYG1oAnwoSTfZkEo3QVuaRfJSRW2FsTNzXHs";
        let closed = format!("[network]\nauthorities = ['{key}']\nthreshold = 1\n");
        let config = Config::parse(&closed).unwrap();
        assert_eq!(config.network.authorities().unwrap().threshold(), 1);
        assert_eq!(Config::default().network.authorities(), None);
        for (wrong, key_of_mistake) in [
            (format!("{closed}dht = '/ipfs/kad/1.0.0'"), "network.dht"),
            (closed.replace("= 1", "= 2"), "network.threshold"),
            // The same key twice is one.
            (
                closed.replace("= 1", "= 2").replace("']", &format!("', '{key}']")),
                "network.threshold",
            ),
            ("[network]\nthreshold = 2".to_owned(), "network.threshold"),
            ("[network]\nauthorities = ['anna']".to_owned(), "network.authorities"),
        ] {
            let message = Config::parse(&wrong).unwrap_err().to_string();
            assert!(message.contains(key_of_mistake), "{key_of_mistake} is not in:\n{message}");
        }
    }

    #[test]
    fn a_syntax_error_names_the_line() {
        let error = Config::parse("[network]\nname = ").unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
