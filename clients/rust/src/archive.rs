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
    /// Where blocks are kept beside the node's own store.
    #[serde(default)]
    pub backend: BackendStatus,
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

/// Segments to announce on the DHT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProvideRequest {
    /// Up to 1,000 CIDs of archived segments.
    pub cids: Vec<String>,
}

/// What was announced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvideResponse {
    /// How many segments.
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
