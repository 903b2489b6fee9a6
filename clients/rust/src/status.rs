//! The state of a node and of what it sees of its network, as JSON.

use serde::{Deserialize, Serialize};

/// A node's own state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its peer id.
    pub peer: String,
    /// Its version.
    pub version: String,
    /// Its network's name.
    pub network: String,
    /// Its process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Addresses it listens on.
    pub listen: Vec<String>,
    /// Address of this API.
    pub api: String,
    /// Its data folder.
    pub data_dir: String,
    /// Collections.
    pub collections: u64,
    /// Entities.
    pub entities: u64,
    /// Acknowledged observations.
    pub observations: u64,
    /// Sealed segments.
    pub segments: u64,
    /// Archived segments.
    pub archived: u64,
    /// Where archived blocks are kept, and whether that is reachable.
    #[serde(default)]
    pub backend: String,
    /// Whether strangers reach it, as far as peers have tried: `public`, `private` or `unknown`.
    #[serde(default)]
    pub reachability: String,
    /// Addresses at which they do, those at relays included.
    #[serde(default)]
    pub external: Vec<String>,
    /// Relays at which it has a place.
    #[serde(default)]
    pub relays: Vec<String>,
    /// Connected peers.
    pub peers: u64,
    /// Template sets adopted.
    pub templates_adopted: u64,
    /// Resident memory, in bytes; absent where the system does not tell.
    pub resident_bytes: Option<u64>,
    /// What is wrong now; empty when all is well.
    pub problems: Vec<String>,
}

/// The network as this node sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The network's name.
    pub cluster_id: String,
    /// `p2p`: nobody coordinates.
    pub topology: String,
    /// This node and the peers it remembers.
    pub node_count: u64,
    /// 0: the network is not sharded.
    pub shard_count: u64,
    /// `healthy`, or `degraded` when something is wrong here.
    pub status: String,
    /// This node first.
    pub members: Vec<Member>,
    /// How replicas agree.
    pub replication: Replication,
    /// Other networks.
    pub federation: Federation,
    /// What is archived by CID.
    pub ipfs: IpfsStatus,
    /// What is shared, and how.
    pub privacy: PrivacyStatus,
}

/// Whether a member answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// Connected.
    Alive,
    /// Known, not connected.
    Unreachable,
}

/// One node of the network. What this node does not know of a peer is absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Peer id.
    pub node_id: String,
    /// Peer id again, under the name that other tools expect.
    pub peer_id: String,
    /// `tcp`, `quic` or `websocket`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// Where it is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Whether it answers.
    pub state: MemberState,
    /// `self`, `own` or `peer`.
    pub role: String,
    /// Its entities; known for this node alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entities: Option<u64>,
    /// Seconds since it started, or since the connection was opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime_seconds: Option<u64>,
    /// When it last gave us something, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sync_ms: Option<u64>,
}

/// How replicas agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replication {
    /// Conflict-free types in use.
    pub crdt_types: Vec<String>,
    /// `none`: nothing is replicated without being asked for.
    pub convergence_status: String,
}

/// Templates shared with others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Federation {
    /// Networks besides our own.
    pub connected_clusters: u64,
    /// Templates that this node released or received.
    pub shared_templates: u64,
    /// When templates last arrived, in milliseconds since the epoch.
    pub last_sync_ms: Option<u64>,
}

/// What is archived by CID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpfsStatus {
    /// Own archived segments.
    pub archived_segments: u64,
    /// CIDs in the store.
    pub total_cids: u64,
    /// Nodes that pin them: this one.
    pub pinned_nodes: u64,
    /// When the newest was archived, in milliseconds since the epoch.
    pub last_archive_ms: Option<u64>,
}

/// What is shared, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivacyStatus {
    /// Always true: templates leave the node noised or not at all.
    pub differential_privacy_enabled: bool,
    /// Noised segments that everybody may fetch.
    pub shared_segments_noised: u64,
}
