//! The command line: what `dunlin --help` teaches.

mod archive;
mod behaviours;
mod bench;
mod bundle;
mod identity;
mod keys;
mod network;
mod review;
mod sim;
mod testnet;
mod trust;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use dunlin_client::{Fidelity, Metric, Scope, ScoreUnits, Share, TemplateUse};
use dunlin_protocols::{Multiaddr, NetworkName};
use libp2p_identity::PeerId;

pub(crate) use self::behaviours::{BehavioursArgs, HistoryArgs};
pub(crate) use self::{
    archive::{ArchiveCommand, PinsCommand},
    bench::{BenchArgs, BenchCommand, BenchData},
    bundle::{BundleCommand, ExportArgs, Since},
    identity::IdentityCommand,
    keys::KeysCommand,
    network::{NetworkCommand, SigningArgs},
    review::ReviewCommand,
    sim::SimArgs,
    testnet::{DemoArgs, LinkProfile, TestnetCommand, TestnetDir, TestnetNodes},
    trust::TrustCommand,
};
use crate::{
    config::{ListenOn, Serve},
    data_dir::DataDir,
    input::TimeUnit,
};

/// A peer-to-peer database for behaviour over time.
///
/// A node takes in vectors that describe what things do, folds each stable stretch into one small
/// segment, answers similarity and anomaly questions, archives segments by content address, and
/// trades noised templates with other peers. Nobody is in charge, and every node works alone.
#[derive(Debug, Parser)]
#[command(
    name = "dunlin",
    version,
    after_help = "Start here:\n  dunlin demo                     see a network of six peers at work\n  dunlin run                      run a node\n  dunlin ingest metrics.csv       give it something to remember\n  dunlin anomalies -c default     ask what was unusual"
)]
pub(crate) struct Cli {
    /// The node's data folder.
    #[arg(long, global = true, env = "DUNLIN_DATA_DIR", value_name = "DIR", default_value_os_t = DataDir::default_path())]
    pub(crate) data_dir: PathBuf,
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a data folder: identity, token, configuration.
    Init(InitArgs),
    /// Run a node until Ctrl-C.
    Run(RunArgs),
    /// Run a bootstrap node: it introduces peers to each other and stores nothing.
    Bootstrap(NetworkArgs),
    /// Give observations to a running node, from CSV or NDJSON.
    Ingest(IngestArgs),
    /// Show a running node's state.
    Status(StatusArgs),
    /// List the peers that the node is connected to or remembers.
    Peers,
    /// Print an address for your browser that shows the running node: its peers and newest segments, live.
    ///
    /// The address lets in whoever opens it first, once and within two minutes. `--json` says until when.
    Console,
    /// Look for what is wrong with the node or its surroundings, and say what to do.
    ///
    /// It looks at the data folder, the configuration, keys, clock, disk, ports, bootstrap nodes and multicast,
    /// and asks the node when it runs. It changes nothing. The exit code is 1 when something is broken.
    Doctor,
    /// List or create collections, and say what of them may leave.
    #[command(subcommand)]
    Collections(CollectionsCommand),
    /// List, show, seal or fetch segments.
    #[command(subcommand)]
    Segments(SegmentsCommand),
    /// Bring blocks of other IPFS nodes into the archive.
    #[command(subcommand)]
    Archive(ArchiveCommand),
    /// Protect the node's own key with a passphrase, or have another one follow it.
    #[command(subcommand, visible_alias = "key")]
    Identity(IdentityCommand),
    /// List, export, import or rotate the keys of sealed segments.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Carry segments and templates where no network goes, in signed files.
    #[command(subcommand)]
    Bundle(BundleCommand),
    /// Close a network, license its peers, and revoke them for ever.
    #[command(subcommand)]
    Network(NetworkCommand),
    /// See how the node judges its peers, quarantine one or release it.
    #[command(subcommand)]
    Trust(TrustCommand),
    /// See where your nodes say different things about one time, and decide which answers use.
    #[command(subcommand)]
    Review(ReviewCommand),
    /// Find the regimes nearest to a vector.
    Knn(KnnArgs),
    /// Show what was unusual, most unusual first.
    Anomalies(AnomaliesArgs),
    /// Show the anomaly score of every observation of one entity.
    Scores(ScoresArgs),
    /// Show what the entities of a collection do again and again, and what they did hardly ever.
    ///
    /// Sealed segments are grouped by density. Each behaviour is named by the channels in which it differs
    /// most from what is usual, with how many segments and entities it has, how long a stay lasts, at which
    /// hours it comes, and when it was last seen; then the newest segments that are in none. The collection
    /// needs declared ranges. Nothing of this is private, and nothing of it leaves the node.
    Behaviours(BehavioursArgs),
    /// Show how one entity behaved over time, and which known behaviour each moment was nearest to.
    ///
    /// Distances are over the threshold at which a regime ends: up to 1, the behaviour was known. The margin
    /// is how much farther the second nearest is; near 0, it is as likely.
    History(HistoryArgs),
    /// Find the moments at which entities began to behave differently.
    Changes(ChangesArgs),
    /// Say how alike two courses are, whatever their pace: two entities, or one at two times.
    Trajectory(TrajectoryArgs),
    /// List, release or adopt templates.
    #[command(subcommand)]
    Templates(TemplatesCommand),
    /// Show what sharing has cost.
    #[command(subcommand)]
    Privacy(PrivacyCommand),
    /// See a network of peers at work on real telemetry, on this machine.
    Demo(DemoArgs),
    /// Run a network of peers on this machine.
    #[command(subcommand)]
    Testnet(TestnetCommand),
    /// Measure this program on real telemetry, beside others in the same run.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// Settings that win over the configuration file.
#[derive(Debug, Default, Args)]
pub(crate) struct NetworkArgs {
    /// Name of the network; networks of different names never meet.
    #[arg(long, value_name = "NAME")]
    pub(crate) network: Option<NetworkName>,
    /// Address to listen on; may be repeated.
    #[arg(long, value_name = "MULTIADDR")]
    pub(crate) listen: Vec<Multiaddr>,
    /// Peer to dial first, with its /p2p part; may be repeated.
    #[arg(long, value_name = "MULTIADDR")]
    pub(crate) bootstrap: Vec<Multiaddr>,
    /// Several nodes share this machine: do not limit connections from loopback.
    #[arg(long)]
    pub(crate) one_machine: bool,
    /// Write the log to this file instead of the terminal.
    #[arg(long, value_name = "FILE")]
    pub(crate) log_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Name of the network to write into the configuration.
    #[arg(long, value_name = "NAME")]
    pub(crate) network: Option<NetworkName>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
    /// Peer of the same operator, who may fetch this node's segments; may be repeated.
    #[arg(long, value_name = "PEER")]
    pub(crate) own_peer: Vec<PeerId>,
    /// Address of the local API; port 0 takes any free one.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) api: Option<SocketAddr>,
    /// Address of the trustless gateway, or `off`; port 0 takes any free one.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) gateway: Option<ListenOn>,
    /// What the gateway serves: `public`, or `all`, private segments included.
    #[arg(long, value_name = "WHAT")]
    pub(crate) gateway_serve: Option<Serve>,
}

/// How input is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum InputFormat {
    /// A header line, then one observation a line.
    Csv,
    /// One JSON object a line: {"entity": …, "timestamp_us": …, "vector": […]}.
    Ndjson,
}

#[derive(Debug, Args)]
pub(crate) struct IngestArgs {
    /// The file, or `-` for standard input.
    pub(crate) file: PathBuf,
    /// The collection; it is created when it does not exist.
    #[arg(long, short, default_value = "default")]
    pub(crate) collection: String,
    /// The format; guessed from the file's name when absent.
    #[arg(long, value_enum)]
    pub(crate) format: Option<InputFormat>,
    /// CSV: all rows are observations of this entity.
    #[arg(long, value_name = "ID", conflicts_with = "entity_column")]
    pub(crate) entity: Option<String>,
    /// CSV: the column that names the entity.
    #[arg(long, value_name = "COLUMN", default_value = "entity")]
    pub(crate) entity_column: String,
    /// CSV: the column that holds the time.
    #[arg(long, value_name = "COLUMN", default_value = "t")]
    pub(crate) time_column: String,
    /// CSV: what the time column counts, since the epoch; RFC 3339 times need no unit.
    #[arg(long, value_enum, default_value = "s")]
    pub(crate) time_unit: TimeUnit,
    /// CSV: the channel columns, in order; all other numeric columns when absent.
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',')]
    pub(crate) channels: Vec<String>,
    /// CSV: columns that are not channels.
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',')]
    pub(crate) ignore: Vec<String>,
    /// What a collection that is created now keeps of sealed observations.
    #[arg(long, value_parser = fidelity::<Fidelity>, default_value = "summary")]
    pub(crate) fidelity: Fidelity,
    /// Largest error of what is kept, as a share of the range: for fidelity bounded.
    #[arg(long, value_name = "SHARE")]
    pub(crate) error: Option<f64>,
    /// Public range of all channels of a collection that is created now, as LOWER,UPPER.
    #[arg(long, value_name = "LOWER,UPPER", value_parser = range)]
    pub(crate) range: Option<(f32, f32)>,
    /// Report bad lines and go on.
    #[arg(long)]
    pub(crate) skip_bad: bool,
    /// Observations in one request.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) batch: u32,
    /// How long to wait for a node that does not answer, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) wait: u64,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Show the whole network as this node sees it.
    #[arg(long)]
    pub(crate) cluster: bool,
    /// Show it again and again until Ctrl-C, with what changed in a second and who is connected; say how often (2s).
    #[arg(long, value_name = "PAUSE", num_args = 0..=1, default_missing_value = "2s", conflicts_with = "cluster")]
    pub(crate) watch: Option<humantime::Duration>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CollectionsCommand {
    /// List collections.
    Ls,
    /// Create a collection.
    Create {
        /// Its name.
        name: String,
        /// Channels of every vector.
        #[arg(long)]
        dim: u32,
        /// How vectors are compared: euclidean, cosine or dot.
        #[arg(long, value_parser = metric, default_value = "euclidean")]
        metric: Metric,
        /// What is kept of sealed observations: summary, bounded or lossless.
        #[arg(long, value_parser = fidelity::<Fidelity>, default_value = "summary")]
        fidelity: Fidelity,
        /// Largest error of what is kept, as a share of the range: for fidelity bounded.
        #[arg(long, value_name = "SHARE")]
        error: Option<f64>,
        /// Public range of all channels, as LOWER,UPPER; drift is then measured in fractions of it.
        #[arg(long, value_name = "LOWER,UPPER", value_parser = range)]
        range: Option<(f32, f32)>,
        /// Drift beyond which a regime ends.
        #[arg(long)]
        threshold: Option<f64>,
        /// How late an observation may come, in microseconds.
        #[arg(long, default_value_t = 0)]
        lateness_us: u64,
    },
    /// Say in what form the segments of a collection may leave: `private` (to your own peers alone, the
    /// default), `sealed` (encrypted copies for everybody) or `noised` (a noised mean for each entity and
    /// window of time, for everybody; spends privacy budget). docs/sharing.md has what each tells strangers.
    Share {
        /// Its name.
        name: String,
        /// private, sealed or noised.
        #[arg(value_parser = share)]
        form: Share,
        /// With noised: release nothing that was observed before this; now, when not given. Microseconds
        /// since the epoch, or RFC 3339.
        #[arg(long, value_name = "TIME", value_parser = crate::input::parse_time, allow_hyphen_values = true)]
        since: Option<i64>,
        /// With noised: how long a window is, from 10min to 31days. The longer, the more exact its mean.
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "1day")]
        window: Duration,
    },
    /// Show how small a collection became, and what that cost.
    Quality {
        /// Its name.
        name: String,
    },
    /// List the entities of a collection.
    Entities {
        /// Its name.
        name: String,
    },
    /// Compact older segments of a collection into outlines, a small fraction of their size. Observations
    /// that the collection keeps stay as they are, in fewer bytes. Only what is archived is compacted, and
    /// each entity keeps its newest 512 segments. History, changes and trajectory look at outlines; knn,
    /// anomalies and scores do not, and say so.
    Compact {
        /// Its name.
        name: String,
        /// Of this entity alone.
        #[arg(long)]
        entity: Option<String>,
        /// Only what ended before this time: microseconds since the epoch, or RFC 3339.
        #[arg(long, value_name = "TIME", value_parser = crate::input::parse_time, allow_hyphen_values = true)]
        before: i64,
        /// Root mean square error that compaction may reach, in the collection's units.
        #[arg(long, conflicts_with = "share")]
        nrmse: Option<f64>,
        /// Instead, the part of the segments' bytes that outlines may take, whatever the error: 0.02 is one fiftieth.
        /// Observations that the collection keeps do not count.
        #[arg(long)]
        share: Option<f64>,
    },
    /// Remove an entity and all its segments from this node's store. What was archived or given to peers
    /// stays where it is; new observations of the same name begin a new life.
    Remove {
        /// The collection's name.
        name: String,
        /// The entity.
        entity: String,
        /// Really remove it: there is no way back.
        #[arg(long)]
        yes: bool,
    },
}

/// A stretch of time.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct TimeRange {
    /// From this time on: microseconds since the epoch, or RFC 3339.
    #[arg(long, value_name = "TIME", value_parser = crate::input::parse_time, allow_hyphen_values = true)]
    pub(crate) from: Option<i64>,
    /// Up to this time.
    #[arg(long, value_name = "TIME", value_parser = crate::input::parse_time, allow_hyphen_values = true)]
    pub(crate) to: Option<i64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SegmentsCommand {
    /// List segments in the order in which they were sealed.
    Ls {
        /// The collection.
        #[arg(long, short, default_value = "default")]
        collection: String,
        /// Of this entity alone.
        #[arg(long)]
        entity: Option<String>,
        #[command(flatten)]
        range: TimeRange,
        /// At most this many.
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Show one segment, own or fetched.
    Show {
        /// Its CID.
        cid: String,
        /// Write its block to this file, byte for byte.
        #[arg(long, value_name = "FILE")]
        block: Option<PathBuf>,
    },
    /// Seal the open regime of an entity.
    Seal {
        /// The entity.
        entity: String,
        /// The collection.
        #[arg(long, short, default_value = "default")]
        collection: String,
    },
    /// Fetch segments from the network: verified, decoded, kept.
    Fetch {
        /// Their CIDs.
        #[arg(required = true)]
        cids: Vec<String>,
        /// Ask this peer first; may be repeated.
        #[arg(long = "peer", value_name = "PEER")]
        peers: Vec<String>,
        /// Ask this trustless gateway, too, by its URL; may be repeated.
        #[arg(long = "gateway", value_name = "URL")]
        gateways: Vec<String>,
        /// Fetch the observations too.
        #[arg(long)]
        payload: bool,
        /// Ask the DHT who has them, when no peer gives them; strangers learn what is looked for.
        #[arg(long)]
        dht: bool,
    },
    /// Have the DHT told that this node has public objects, now and again. Whoever keeps its records learns
    /// their CIDs, so what is not public is refused: share its collection sealed, or make it public with
    /// `dunlin archive import --public`.
    Provide {
        /// Their CIDs.
        #[arg(required = true)]
        cids: Vec<String>,
    },
}

/// Numbers with commas. A type of its own, because clap takes a plain `Vec` for an argument that may be
/// repeated, which then swallows the flags behind it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Vector(pub(crate) Vec<f32>);

#[derive(Debug, Args)]
pub(crate) struct KnnArgs {
    /// The vector: numbers with commas.
    #[arg(value_name = "N,N,…", value_parser = vector, allow_hyphen_values = true)]
    pub(crate) vector: Vector,
    /// The collection.
    #[arg(long, short, default_value = "default")]
    pub(crate) collection: String,
    /// How many.
    #[arg(long, short, default_value_t = 10)]
    pub(crate) k: u32,
    /// Of this entity alone.
    #[arg(long)]
    pub(crate) entity: Option<String>,
    #[command(flatten)]
    pub(crate) range: TimeRange,
    /// Among the node's own regimes (local), those of them that are open (open) or sealed (sealed), the fetched
    /// segments (fetched) or the adopted templates of peers (templates).
    #[arg(long, value_parser = scope, default_value = "local")]
    pub(crate) scope: Scope,
    /// Of entities alone whose newest metadata says this; may be repeated.
    #[arg(long = "where", value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) metadata: Vec<(String, String)>,
    /// Compare every segment, instead of walking an index that may miss some of the nearest.
    #[arg(long)]
    pub(crate) exact: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AnomaliesArgs {
    /// The collection.
    #[arg(long, short, default_value = "default")]
    pub(crate) collection: String,
    /// Of this entity alone.
    #[arg(long)]
    pub(crate) entity: Option<String>,
    #[command(flatten)]
    pub(crate) range: TimeRange,
    /// How many.
    #[arg(long, short, default_value_t = 10)]
    pub(crate) k: u32,
    /// Count adopted templates as known behaviour (adopted), or not (none), or shuffled (control).
    #[arg(long, value_parser = template_use, default_value = "adopted")]
    pub(crate) templates: TemplateUse,
    /// The units of distances: blended, range, z or noise.
    #[arg(long, value_parser = score_units, default_value = "blended")]
    pub(crate) units: ScoreUnits,
    /// How long after its end a regime counts as known; 86400 keeps an incident one for a day.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub(crate) known_after: u32,
}

#[derive(Debug, Args)]
pub(crate) struct ScoresArgs {
    /// The entity, in a lossless collection.
    pub(crate) entity: String,
    /// The collection.
    #[arg(long, short, default_value = "default")]
    pub(crate) collection: String,
    #[command(flatten)]
    pub(crate) range: TimeRange,
    /// Judge by what was known at this time.
    #[arg(long, value_name = "TIME", value_parser = crate::input::parse_time, allow_hyphen_values = true)]
    pub(crate) known_until: Option<i64>,
    /// Count adopted templates as known behaviour (adopted), or not (none), or shuffled (control).
    #[arg(long, value_parser = template_use, default_value = "adopted")]
    pub(crate) templates: TemplateUse,
    /// The units of distances: blended, range, z or noise.
    #[arg(long, value_parser = score_units, default_value = "blended")]
    pub(crate) units: ScoreUnits,
    /// How long after its end a regime counts as known; 86400 keeps an incident one for a day.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub(crate) known_after: u32,
}

#[derive(Debug, Args)]
pub(crate) struct ChangesArgs {
    /// The collection.
    #[arg(long, short, default_value = "default")]
    pub(crate) collection: String,
    /// Of this entity alone.
    #[arg(long)]
    pub(crate) entity: Option<String>,
    #[command(flatten)]
    pub(crate) range: TimeRange,
    /// At most this many.
    #[arg(long, default_value_t = 20)]
    pub(crate) limit: u32,
    /// The largest first, instead of the newest.
    #[arg(long)]
    pub(crate) largest: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TrajectoryArgs {
    /// One entity.
    pub(crate) a: String,
    /// The other entity; it may be the same at another time.
    pub(crate) b: String,
    /// The collection.
    #[arg(long, short, default_value = "default")]
    pub(crate) collection: String,
    /// Where the first course begins: RFC 3339, or microseconds since 1970.
    #[arg(long, value_name = "TIME", value_parser = crate::input::parse_time, allow_hyphen_values = true)]
    pub(crate) a_from: Option<i64>,
    /// Where the first course ends.
    #[arg(long, value_name = "TIME", value_parser = crate::input::parse_time, allow_hyphen_values = true)]
    pub(crate) a_to: Option<i64>,
    /// Where the second course begins.
    #[arg(long, value_name = "TIME", value_parser = crate::input::parse_time, allow_hyphen_values = true)]
    pub(crate) b_from: Option<i64>,
    /// Where the second course ends.
    #[arg(long, value_name = "TIME", value_parser = crate::input::parse_time, allow_hyphen_values = true)]
    pub(crate) b_to: Option<i64>,
    /// Points of each course: more see shorter regimes.
    #[arg(long, default_value_t = 512)]
    pub(crate) points: u32,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TemplatesCommand {
    /// List the template sets that the node holds, and what the gate said of each.
    Ls,
    /// Release a collection's templates to the network. This spends privacy budget.
    Publish {
        /// The collection.
        #[arg(long, short, default_value = "default")]
        collection: String,
        /// Privacy loss of this release; the configured one when absent.
        #[arg(long)]
        epsilon: Option<f64>,
        /// What is protected: observation, entity-day or entity; the configured one when absent.
        #[arg(long)]
        unit: Option<String>,
        /// By which noise: laplace, or gaussian, which needs a `delta` in the configuration.
        #[arg(long)]
        mechanism: Option<String>,
        /// How many behaviours of an entity, or of its day, count at most, from 1 to 16.
        #[arg(long, value_name = "COUNT")]
        cells_max: Option<u8>,
        /// Leave out data whose budget is spent, instead of refusing.
        #[arg(long)]
        fresh: bool,
    },
    /// Take received sets back: they count no more until `adopt`, or until their peer releases another one.
    Rollback {
        /// The collection.
        #[arg(long, short, default_value = "default")]
        collection: String,
        /// Only the set of this peer.
        #[arg(long)]
        peer: Option<String>,
    },
    /// Put the received sets of a collection before the adoption gate again, also those taken back.
    Adopt {
        /// The collection.
        #[arg(long, short, default_value = "default")]
        collection: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PrivacyCommand {
    /// Show every release, what it cost, and what is left of the budget.
    Ledger {
        /// Show this collection alone, and what each of its entities has lost.
        #[arg(long, short)]
        collection: Option<String>,
    },
}

/// Reads an enum of the API by the name that it has in JSON.
fn named<T: serde::de::DeserializeOwned>(text: &str, names: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned()))
        .map_err(|_| format!("expected one of: {names}"))
}

fn fidelity<F: serde::de::DeserializeOwned>(text: &str) -> Result<F, String> {
    named(text, "summary, bounded, lossless")
}

fn share(text: &str) -> Result<Share, String> {
    named(text, "private, sealed, noised")
}

fn metric(text: &str) -> Result<Metric, String> {
    named(text, "euclidean, cosine, dot")
}

fn scope(text: &str) -> Result<Scope, String> {
    named(text, "local, open, sealed, fetched, templates")
}

fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
    pair.ok_or_else(|| format!("{text:?} has no `=`; write key=value"))
}

fn score_units(text: &str) -> Result<ScoreUnits, String> {
    named(text, "blended, range, z, noise")
}

fn template_use(text: &str) -> Result<TemplateUse, String> {
    named(text, "adopted, none, control")
}

fn vector(text: &str) -> Result<Vector, String> {
    let number = |part: &str| {
        let parsed = part.trim().parse::<f32>().ok().filter(|number| number.is_finite());
        parsed.ok_or_else(|| format!("`{part}` is not a finite number"))
    };
    text.split(',').map(number).collect::<Result<_, _>>().map(Vector)
}

fn range(text: &str) -> Result<(f32, f32), String> {
    let parsed = text.split_once(',').and_then(|(lower, upper)| {
        Some((lower.trim().parse::<f32>().ok()?, upper.trim().parse::<f32>().ok()?))
    });
    parsed
        .filter(|(lower, upper)| lower.is_finite() && upper.is_finite() && lower < upper)
        .ok_or_else(|| "expected two finite numbers, LOWER,UPPER, the first one smaller".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_may_follow_a_vector_that_begins_with_a_minus() {
        let cli =
            Cli::try_parse_from(["dunlin", "knn", "-0.5,1", "-c", "servers", "--json"]).unwrap();
        let Command::Knn(args) = cli.command else { panic!("not knn") };
        assert_eq!((args.vector, args.collection.as_str()), (Vector(vec![-0.5, 1.0]), "servers"));
        assert!(Cli::try_parse_from(["dunlin", "knn", "1,x"]).is_err());
    }

    #[test]
    fn ranges_must_rise() {
        assert_eq!(range("-1, 2.5"), Ok((-1.0, 2.5)));
        for bad in ["1", "2,1", "0,NaN", "0,inf", "a,b"] {
            assert!(range(bad).is_err(), "{bad}");
        }
    }
}
