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
    /// One CID that names all of these catalogs, and so everything that was archived.
    #[serde(default)]
    pub root: Option<String>,
    /// What the node's name stands for, once something was published.
    #[serde(default)]
    pub published: Option<PublishedName>,
    /// What the DHT is told.
    #[serde(default)]
    pub providing: Providing,
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
    /// CIDs of payload blocks that were wished for and that nobody served.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_payload: Vec<String>,
    /// Whether all that was wished for was in the local store already.
    pub local: bool,
    /// Which peers and gateways were asked, in order, and how they answered.
    pub attempts: Vec<Attempt>,
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
