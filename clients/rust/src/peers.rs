//! Peers as JSON.

use serde::{Deserialize, Serialize};

/// What a peer may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// New: little is known of it.
    Probation,
    /// It has earned our trust.
    Trusted,
    /// It is not heard.
    Quarantined,
    /// Shut out for ever.
    Revoked,
}

/// The peers that a node is connected to or remembers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peers {
    /// By peer id.
    pub peers: Vec<Peer>,
}

/// One remote node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Its id.
    pub peer: String,
    /// Whether a connection is open now.
    pub connected: bool,
    /// Its addresses; the connected one first.
    pub addresses: Vec<String>,
    /// `tcp`, `quic` or `websocket`; absent when not connected.
    pub transport: Option<String>,
    /// The relay that carries the connection; absent when it is a direct one.
    #[serde(default)]
    pub relay: Option<String>,
    /// Bytes of streams that went to the peer while it has been connected.
    #[serde(default)]
    pub bytes_up: Option<u64>,
    /// Bytes of streams that came from the peer while it has been connected.
    #[serde(default)]
    pub bytes_down: Option<u64>,
    /// Protocols that it says to speak, at most 48.
    #[serde(default)]
    pub protocols: Vec<String>,
    /// `inbound` or `outbound`; absent when not connected.
    pub direction: Option<String>,
    /// How long the connection has been open.
    pub connected_s: Option<u64>,
    /// Round-trip time of the last ping, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// What it says that it runs.
    pub agent: Option<String>,
    /// What it may do.
    pub standing: Standing,
    /// Trust score, 0 to 1.
    pub score: f64,
    /// One line for each kind of evidence behind the score.
    pub evidence: Vec<String>,
    /// Whether it belongs to the same operator.
    pub own: bool,
}

/// One page of peers and how the node judges them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrustPage {
    /// By peer id.
    pub peers: Vec<PeerTrust>,
    /// Whether there are more behind the last one.
    pub more: bool,
}

/// Why a peer stands where it stands.
///
/// The score is `(prior + earned) / (2 prior + earned + grave + slight)`, with the amounts of the lines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerTrust {
    /// Its id.
    pub peer: String,
    /// What it may do.
    pub standing: Standing,
    /// Trust score, 0 to 1.
    pub score: f64,
    /// What the evidence is weighed against, on each side.
    pub prior: f64,
    /// Whether it belongs to the same operator.
    pub own: bool,
    /// Whether the operator quarantined it, whatever its score.
    pub held: bool,
    /// Whether a connection is open now.
    pub connected: bool,
    /// When evidence about it last arrived, in milliseconds since the epoch; absent for a stranger.
    pub updated_ms: Option<u64>,
    /// What the score is made of.
    pub lines: Vec<TrustLine>,
}

/// One part of a score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrustLine {
    /// The sum of the formula: `earned`, `grave` or `slight`.
    pub part: String,
    /// What is left of it now.
    pub amount: f64,
    /// The evidence that it came from, counted for as long as the peer is remembered.
    pub evidence: String,
}
