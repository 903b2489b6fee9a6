//! The archive and retrieval from peers as JSON.

use serde::{Deserialize, Serialize};

use crate::engine::Segment;

/// What the node's archive holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveStatus {
    /// Own segments that are archived and pinned.
    pub archived: u64,
    /// Sealed segments that wait to be archived.
    pub due: u64,
    /// Segments fetched from other peers.
    pub fetched: u64,
    /// Blocks in the store.
    pub blocks: u64,
    /// Their size.
    pub bytes: u64,
    /// Blocks that peers sent and that did not hash to their CID: refused, never stored.
    pub corrupt_refused: u64,
    /// When the newest segment was archived, in milliseconds since the epoch.
    pub last_archive_ms: Option<u64>,
    /// One CID for each collection that names all of its own archived segments.
    #[serde(default)]
    pub catalogs: Vec<CatalogRoot>,
    /// How many peers shall hold a copy of each object.
    #[serde(default)]
    pub replicas: u64,
    /// Objects of which so many peers hold one.
    #[serde(default)]
    pub replicated: u64,
    /// Objects of which fewer do.
    #[serde(default)]
    pub under_replicated: u64,
    /// Where blocks are kept beside the node's own store.
    #[serde(default)]
    pub backend: BackendStatus,
    /// The collections of which there are sealed copies.
    #[serde(default)]
    pub sealed: Vec<SealedCopies>,
    /// The collections of which noised segments are released.
    #[serde(default)]
    pub noised: Vec<NoisedReleases>,
    /// One CID that names all of these catalogs, and so everything that was archived.
    #[serde(default)]
    pub root: Option<String>,
    /// What the node's name stands for, once something was published.
    #[serde(default)]
    pub published: Option<PublishedName>,
    /// What the DHT is told.
    #[serde(default)]
    pub providing: Providing,
    /// What own peers say about the same collections.
    #[serde(default)]
    pub recovery: RecoveryStatus,
}

/// What recovery did since the start, and what is known now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RecoveryStatus {
    /// Whether catalogs are compared with own peers.
    pub enabled: bool,
    /// All that is known of each collection, own segments and those of own peers. Nodes that know the same have the
    /// same roots.
    pub known: Vec<CatalogRoot>,
    /// Segments that recovery brought, since it began.
    pub held: u64,
    /// Conflicts between segments: see `dunlin review`.
    pub conflicts: u64,
    /// Comparisons that found a peer to know the same.
    pub same: u64,
    /// Comparisons that found it to know something else.
    pub different: u64,
    /// Comparisons that failed.
    pub failed: u64,
    /// Segments that came from peers, since the start.
    pub recovered: u64,
    /// Bytes of blocks that came for it: of catalogs, segments and statements.
    pub received_bytes: u64,
    /// Statements about conflicts that were kept, since the start.
    pub statements: u64,
    /// Statements that nobody signed who may, or that make no sense.
    pub statements_refused: u64,
}

/// Copies of this node's objects at peers, and of peers' objects here, as they stood a few seconds ago.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Replicas {
    /// How many peers shall hold each object.
    pub replicas: u64,
    /// Objects by how many peers hold them now, from none on.
    pub objects: Vec<u64>,
    /// Objects that cannot have copies: too large, or not readable here.
    pub unfit: u64,
    /// Objects beyond the number that is looked after.
    pub untracked: u64,
    /// Peers that hold copies or could.
    pub peers: Vec<ReplicaPeer>,
    /// What is held here for others.
    pub kept: Vec<KeptFor>,
}

/// A peer that holds copies or could.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaPeer {
    /// The peer.
    pub peer: String,
    /// What it may hold: `all`, `public`, or `nothing`.
    pub may_hold: String,
    /// Whether it is connected.
    pub connected: bool,
    /// Objects that it confirmed.
    pub held: u64,
    /// Objects that it was asked to hold.
    pub asked: u64,
    /// Objects that it is to be told to let go of.
    pub lost: u64,
    /// Seconds for which nothing more is given to it: it refused, or failed a proof.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_s: Option<u64>,
    /// Seconds since it last proved all that it was asked for; absent when it has not since the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proved_s_ago: Option<u64>,
    /// Blocks that it proved since the start.
    pub proofs_right: u64,
    /// Blocks that it could not prove.
    pub proofs_failed: u64,
}

/// What is held here for one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptFor {
    /// The peer.
    pub peer: String,
    /// Objects.
    pub objects: u64,
    /// Their size.
    pub bytes: u64,
}

/// The operator's pins, and what every pin holds when that was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pins {
    /// Pins that the operator set.
    pub named: Vec<NamedPin>,
    /// Every pin, the node's own among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all: Option<Vec<PinUsage>>,
}

/// A pin that the operator set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedPin {
    /// Its name.
    pub name: String,
    /// The block that it was set on.
    pub root: String,
    /// Whether the root alone is pinned.
    pub direct: bool,
    /// Blocks that it holds.
    pub blocks: u64,
    /// Their size.
    pub bytes: u64,
    /// False when setting or removing it was cut off: do it again.
    pub complete: bool,
}

/// What one pin holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinUsage {
    /// The pin's path.
    pub pin: String,
    /// Roots that it holds.
    pub roots: u64,
    /// Blocks, each once for each root that reaches it.
    pub blocks: u64,
    /// Their size.
    pub bytes: u64,
}

/// A pin to set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinRequest {
    /// Its name: letters, digits, `-`, `_` and `.`, at most 64.
    pub name: String,
    /// What to pin.
    pub cid: String,
    /// The block alone, instead of all that it links to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub direct: bool,
}

/// A pin to let go of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnpinRequest {
    /// The name of an own pin, or the path of one that holds imports, copies, or what is held for others.
    pub pin: String,
}

/// What was let go of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnpinResponse {
    /// Blocks that left the archive: no other pin held them.
    pub blocks: u64,
    /// Their size.
    pub bytes: u64,
}

/// The archive's backend: where blocks are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// `embedded`: in the node's own store alone; `kubo`: in a Kubo node, too.
    pub kind: String,
    /// What the backend says that it is and where, when it has answered.
    pub described: Option<String>,
    /// Whether it answered when it was asked last. The embedded one always does.
    pub reachable: bool,
    /// Why not, or what else keeps roots waiting.
    pub problem: Option<String>,
    /// Roots that it keeps beside the store.
    pub placed: u64,
    /// Roots that wait to be brought there or to leave it.
    pub due: u64,
    /// The pinning service, if there is one.
    pub pinning: Option<PinningStatus>,
}

/// What a pinning service keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinningStatus {
    /// Where its API is.
    pub service: String,
    /// Why it cannot be used, when it cannot.
    pub problem: Option<String>,
    /// Roots that will be asked for.
    pub waiting: u64,
    /// Roots that the service has not begun with.
    pub queued: u64,
    /// Roots that the service fetches.
    pub pinning: u64,
    /// Roots that the service keeps.
    pub pinned: u64,
    /// Roots that the service gave up on. They are asked for again.
    pub failed: u64,
    /// Roots whose request will be taken back.
    pub leaving: u64,
    /// Roots that the service complained about, a few of them, with what it said.
    pub complaints: Vec<Complaint>,
}

/// What a pinning service said about a root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complaint {
    /// The root.
    pub root: String,
    /// Its words, shortened.
    pub problem: String,
}

/// The sealed copies of a collection's archived segments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedCopies {
    /// The collection.
    pub collection: String,
    /// How many there are.
    pub copies: u64,
    /// Archived segments that wait for theirs.
    pub due: u64,
    /// The root of their catalog: one CID that names all of them, for everybody.
    pub root: Option<String>,
}

/// The noised segments of a collection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoisedReleases {
    /// The collection.
    pub collection: String,
    /// How many there are.
    pub segments: u64,
    /// The end of the last window that was paid for, in microseconds since the epoch.
    pub until_us: Option<i64>,
    /// The root of their catalog: one CID that names all of them, for everybody.
    pub root: Option<String>,
}

/// What the DHT is told of roots and objects. Each is told again in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Providing {
    /// Told, and not yet to be told again.
    pub provided: u64,
    /// To be told as soon as it is their turn, or there is somebody to hear it.
    pub due: u64,
    /// Told to nobody when it was tried last; it is tried again.
    pub failed: u64,
    /// Left out, because there are too many.
    pub left_out: u64,
}

/// The node's name, and the newest record of what it stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedName {
    /// The IPNS name: the node's key.
    pub name: String,
    /// The root over everything public; absent when the newest record is known by its number alone.
    pub root: Option<String>,
    /// The record's number, which only rises.
    pub sequence: u64,
    /// When it ends, in milliseconds since the epoch.
    pub eol_ms: u64,
    /// When the DHT last took it, in milliseconds since the epoch.
    pub told_ms: Option<u64>,
    /// How many peers took it then, at most 20.
    pub peers: u64,
    /// How often that failed since.
    pub failures: u32,
    /// Whether a newer root waits to be published.
    pub due: bool,
}

/// A name to look up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResolveRequest {
    /// An IPNS name like `k51…`, or a peer id.
    pub name: String,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedName {
    /// The name.
    pub name: String,
    /// The peer whose name it is.
    pub peer: String,
    /// What it stands for, as the record says it.
    pub value: String,
    /// The same as a CID, when it is one.
    pub root: Option<String>,
    /// The record's number.
    pub sequence: u64,
    /// When the record ends, in milliseconds since the epoch.
    pub eol_ms: u64,
}

/// The root of the catalog of a collection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogRoot {
    /// The collection.
    pub collection: String,
    /// The root's CID: nodes that archived the same segments have the same.
    pub root: String,
    /// How many segments it names.
    pub segments: u64,
}

/// Segments to fetch from the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FetchRequest {
    /// Up to 1,000 CIDs.
    pub cids: Vec<String>,
    /// Peers to ask first, whoever they are; the operator's own peers follow.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<String>,
    /// Trustless gateways to ask beside the own peers, as `http` or `https` URLs; up to 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<String>,
    /// Fetch the payload blocks too.
    #[serde(default)]
    pub payload: bool,
    /// Ask the DHT who has what these peers do not give. Strangers learn what is looked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dht: bool,
}

/// Public objects to announce on the DHT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProvideRequest {
    /// Up to 1,000 CIDs of blocks that are public here.
    pub cids: Vec<String>,
}

/// What is announced, now and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvideResponse {
    /// How many objects.
    pub provided: u64,
}

/// What became of each CID.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FetchResponse {
    /// In the order of the request.
    pub segments: Vec<FetchedSegment>,
    /// Time the retrieval took.
    pub elapsed_us: u64,
}

/// What became of one CID.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FetchedSegment {
    /// The CID.
    pub cid: String,
    /// The decoded segment, when some peer served the right bytes.
    pub segment: Option<Segment>,
    /// What the CID names is sealed. When it could be opened, `segment` has the CID of what was in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<FetchedSealed>,
    /// What the CID names is a noised segment of somebody. It is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noised: Option<NoisedSegment>,
    /// CIDs of payload blocks that were wished for and that nobody served.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_payload: Vec<String>,
    /// Whether all that was wished for was in the local store already.
    pub local: bool,
    /// Which peers and gateways were asked, in order, and how they answered.
    pub attempts: Vec<Attempt>,
}

/// A sealed segment that was fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchedSealed {
    /// The id of the key that it was sealed with.
    pub key: String,
    /// Whether it could be opened.
    pub outcome: SealedOutcome,
}

/// What one entity of somebody did in one window of time, with noise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NoisedSegment {
    /// Who released and signed it.
    pub signer: String,
    /// The collection's name there.
    pub collection: String,
    /// A pseudonym: the same in all noised segments of that node and collection, in hexadecimal.
    pub entity: String,
    /// When the window begins, in microseconds since the epoch.
    pub start_us: i64,
    /// The length of the window, in microseconds.
    pub window_us: u64,
    /// About how many observations there were.
    pub count: u64,
    /// Their noised mean.
    pub mean: Vec<f32>,
    /// What its signer promised for each `unit`, which nobody else can check.
    pub epsilon: f64,
    /// The probability that the loss is larger.
    pub delta: f64,
    /// What the promise is for: `observation`.
    pub unit: String,
    /// The noise: `laplace` or `gaussian`.
    pub mechanism: String,
}

/// What became of a sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SealedOutcome {
    /// It was opened, and is kept as the segment that it is.
    Opened,
    /// This node does not have the key. Nothing is kept.
    NoKey,
    /// Whoever made it did not have the key, or sealed what is no segment. Nothing is kept.
    Forged,
}

/// One peer's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Whom we asked: a peer's id, or the URL of a gateway.
    pub peer: String,
    /// How it answered.
    pub outcome: AttemptOutcome,
}

/// How a peer answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    /// With bytes that hash to the CID.
    Verified,
    /// With other bytes: refused.
    Corrupt,
    /// It does not have the block.
    Missing,
    /// It does not serve us.
    Refused,
    /// Not in time, or the connection broke.
    Failed,
}

/// What an import brought into the archive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImportResponse {
    /// The roots that the file names.
    pub roots: Vec<String>,
    /// Blocks that were read and are in the archive now.
    pub blocks: u64,
    /// Their size.
    pub bytes: u64,
    /// Blocks whose CID carries their content: they need no place.
    pub inline: u64,
    /// Whether strangers may have them.
    pub public: bool,
}
