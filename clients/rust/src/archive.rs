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
    /// The collections of which there are sealed copies.
    #[serde(default)]
    pub sealed: Vec<SealedCopies>,
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
    /// Up to 1,000 CIDs of what is archived: sealed copies, their catalogs, or what was imported as public.
    pub cids: Vec<String>,
    /// Announce private segments, too. Strangers learn their CIDs, which confirm a guess of their content; only
    /// own peers can fetch them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub private: bool,
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
    /// What the CID names is sealed. When it could be opened, `segment` has the CID of what was in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<FetchedSealed>,
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
