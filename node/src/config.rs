//! The configuration: a TOML file in the data folder, with every key documented and checked.
//!
//! Reading collects every mistake before anything starts, each with its key, its value and what would
//! be accepted. [`DEFAULT_TOML`] is both what `dunlin init` writes and the documentation of the keys;
//! a test reads it back and compares it with [`Config::default`], so neither can drift.

mod reader;

use std::{
    net::{AddrParseError, SocketAddr},
    num::NonZeroUsize,
    path::Path,
    str::FromStr,
    time::Duration,
};

use dunlin_protocols::{Multiaddr, NetworkName, Reach, StreamProtocol};
use libp2p_identity::PeerId;

pub(crate) use self::reader::ConfigError;
use self::reader::{Reader, Section};

/// What `dunlin init` writes: every key with its default and what it does.
pub(crate) const DEFAULT_TOML: &str = include_str!("config/default.toml");

/// All settings of a node, checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    /// How the node meets others.
    pub(crate) network: NetworkConfig,
    /// The local HTTP API.
    pub(crate) api: ApiConfig,
    /// Segments and their store.
    pub(crate) engine: EngineConfig,
    /// The archive of blocks.
    pub(crate) archive: ArchiveConfig,
    /// The trustless gateway.
    pub(crate) gateway: GatewayConfig,
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
    /// Addresses to listen on.
    pub(crate) listen: Vec<Multiaddr>,
    /// Addresses under which others reach this node, where they are others than it listens on.
    pub(crate) external: Vec<Multiaddr>,
    /// Peers to dial first, each with its `/p2p` part.
    pub(crate) bootstrap: Vec<Multiaddr>,
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
}

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
}

/// The archive of blocks.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ArchiveConfig {
    /// Largest size of all blocks.
    pub(crate) bytes_max: u64,
}

/// The trustless gateway.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GatewayConfig {
    /// Where it listens, if at all.
    pub(crate) listen: ListenOn,
    /// What it serves.
    pub(crate) serve: Serve,
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
    /// Ceiling of the privacy loss of one collection, for ever.
    pub(crate) epsilon_max: f64,
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
            api: reader.section("api", ApiConfig::read),
            engine: reader.section("engine", EngineConfig::read),
            archive: reader.section("archive", ArchiveConfig::read),
            gateway: reader.section("gateway", GatewayConfig::read),
            privacy: reader.section("privacy", PrivacyConfig::read),
            templates: reader.section("templates", TemplatesConfig::read),
            log: reader.section("log", LogConfig::read),
        };
        reader.finish()?;
        Ok(config)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::parse("").expect("no key is required")
    }
}

impl NetworkConfig {
    fn read(section: &mut Section<'_>) -> Self {
        let listen =
            ["/ip4/0.0.0.0/tcp/4601", "/ip4/0.0.0.0/udp/4601/quic-v1", "/ip4/0.0.0.0/tcp/4602/ws"];
        Self {
            name: section.parsed("name", "dunlin", "letters, digits, `-` and `_`, at most 64"),
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
            mdns: section.boolean("mdns", true),
            reach: section.choice("reach", &[("local", Reach::Local), ("public", Reach::Public)]),
            own_peers: section.parsed_list("own_peers", &[], "a peer id like 12D3KooW…"),
            dht: dht(section),
            one_machine: section.boolean("one_machine", false),
        }
    }
}

fn dht(section: &mut Section<'_>) -> Option<StreamProtocol> {
    let parse = |text: &str| StreamProtocol::try_from_owned(text.to_owned()).ok();
    let is_accepted = |text: &str| text.is_empty() || parse(text).is_some();
    parse(&section.checked("dht", "", "a protocol like /ipfs/kad/1.0.0, or nothing", is_accepted))
}

impl ApiConfig {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            listen: section.parsed("listen", "127.0.0.1:4600", "an address like 127.0.0.1:4600"),
        }
    }
}

/// Seconds.
const DAY: u64 = 24 * 60 * 60;

impl EngineConfig {
    fn read(section: &mut Section<'_>) -> Self {
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
        }
    }
}

impl ArchiveConfig {
    fn read(section: &mut Section<'_>) -> Self {
        const MIB: u64 = 1 << 20;
        Self { bytes_max: section.integer("mib_max", 10_240, 1..=1 << 30) * MIB }
    }
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
            requests_max: requests_max.unwrap_or(NonZeroUsize::MIN),
            request_timeout: Duration::from_secs(seconds),
            car_bytes_max: section.integer("car_mib_max", 1024, 1..=1 << 20) * MIB,
        }
    }
}

impl PrivacyConfig {
    fn read(section: &mut Section<'_>) -> Self {
        let templates_max = section.integer("templates_max", 16, 1..=16);
        Self {
            epsilon: section.float("epsilon", 1.0, 0.01..=10.0),
            epsilon_max: section.float("epsilon_max", 4.0, 0.01..=100.0),
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
        let names = reader.section("network", |section| {
            NetworkConfig::read(section);
            section.known().to_vec()
        });
        let documented: toml::Table = DEFAULT_TOML.parse().unwrap();
        for name in names {
            assert!(documented["network"].get(name).is_some(), "network.{name}");
        }
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let text = "
            [network]
            name = 'no spaces please'
            lisen = ['/ip4/0.0.0.0/tcp/1']
            bootstrap = ['/nonsense']
            mdns = 'yes'
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
            "privacy.epsilon",
            "did you mean `log`",
        ] {
            assert!(message.contains(part), "{part} is not in:\n{message}");
        }
        assert_eq!(error.mistakes().len(), 6, "{message}");
    }

    #[test]
    fn a_syntax_error_names_the_line() {
        let error = Config::parse("[network]\nname = ").unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
