//! Templates, the adoption gate and the privacy ledger as JSON.

use serde::{Deserialize, Serialize};

/// Which collection's templates to release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishRequest {
    /// The collection.
    pub collection: String,
    /// Privacy loss of this release; the configured default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<f64>,
}

/// What was released.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PublishResponse {
    /// The released set.
    pub set: TemplateSet,
    /// Privacy loss spent on this collection so far, this release included.
    pub epsilon_spent: f64,
    /// The ceiling.
    pub epsilon_max: f64,
}

/// Which received sets to put before the adoption gate again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdoptRequest {
    /// The collection.
    pub collection: String,
}

/// Where a template set comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TemplateSource {
    /// Released by this node.
    Own,
    /// Received from a peer.
    Peer,
}

/// All template sets that a node holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Templates {
    /// Own first, then by peer.
    pub sets: Vec<TemplateSet>,
}

/// One signed set of templates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TemplateSet {
    /// Its collection.
    pub collection: String,
    /// Who signed it.
    pub signer: String,
    /// Own or a peer's.
    pub source: TemplateSource,
    /// How many templates it holds.
    pub templates: u64,
    /// Size of the signed envelope.
    pub bytes: u64,
    /// The unit of privacy.
    pub unit: String,
    /// Its privacy loss.
    pub epsilon: f64,
    /// When it was issued, in milliseconds since the epoch.
    pub issued_ms: u64,
    /// When it stops to count.
    pub expires_ms: u64,
    /// Noised centroids, one row a template.
    pub centroids: Vec<Vec<f32>>,
    /// Noised number of observations behind each template.
    pub support: Vec<f64>,
    /// What the adoption gate said; absent for own sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<GateVerdict>,
}

/// What the adoption gate found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GateVerdict {
    /// Whether the set counts as known behaviour.
    pub adopted: bool,
    /// How far the second half of our history lies from the first, 90th percentile.
    pub own_q90: Option<f64>,
    /// How far it lies from the set.
    pub foreign_q90: Option<f64>,
    /// Why.
    pub reason: String,
}

/// The privacy ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LedgerView {
    /// In the order in which they were written.
    pub entries: Vec<LedgerEntry>,
    /// Sum of epsilon over all entries.
    pub epsilon_spent: f64,
    /// The ceiling for each collection.
    pub epsilon_max: f64,
}

/// One intended release: it was written before any noise was drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// The collection.
    pub collection: String,
    /// The unit of privacy.
    pub unit: String,
    /// Privacy loss.
    pub epsilon: f64,
    /// Probability of failure of the promise; 0 for pure epsilon.
    pub delta: f64,
    /// When, in milliseconds since the epoch.
    pub time_ms: u64,
    /// What for.
    pub purpose: String,
    /// Whether the release was made; one that a crash prevented costs all the same.
    pub released: bool,
}
