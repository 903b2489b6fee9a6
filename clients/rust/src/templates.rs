//! Templates, the adoption gate and the privacy ledger as JSON.

use serde::{Deserialize, Serialize};

/// Which collection's templates to release, and under which terms. What is absent is as configured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishRequest {
    /// The collection.
    pub collection: String,
    /// Privacy loss of this release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<f64>,
    /// What it protects: `observation`, `entity-day` or `entity`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The noise: `laplace` or `gaussian`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mechanism: Option<String>,
    /// How many behaviours of an entity, or of its day, count at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cells_max: Option<u8>,
    /// Leave out what has too little of its budget left, instead of refusing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fresh: bool,
}

/// What was released.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PublishResponse {
    /// The released set.
    pub set: TemplateSet,
    /// Whether nothing had changed since that set was released: then it is sent once more, for nothing.
    #[serde(default)]
    pub unchanged: bool,
    /// Privacy loss of the unit that has lost most of those that took part, over all releases; absent if
    /// it has no bound.
    pub epsilon_spent: Option<f64>,
    /// The ceiling.
    pub epsilon_max: f64,
    /// Where data were left out because their budget is spent: the time from which on they took part, in
    /// microseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_us: Option<i64>,
    /// How many entities were left out for that reason.
    #[serde(default)]
    pub entities_left_out: u64,
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
    /// The probability of a larger one.
    #[serde(default)]
    pub delta: f64,
    /// The noise; absent if its publisher did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mechanism: Option<String>,
    /// How many behaviours of each unit counted at most; absent if its publisher did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cells_max: Option<u8>,
    /// What the randomness came from; absent if its publisher did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generator: Option<String>,
    /// When it was issued, in milliseconds since the epoch.
    pub issued_ms: u64,
    /// When it stops to count.
    pub expires_ms: u64,
    /// Noised centroids, one row a template.
    pub centroids: Vec<Vec<f32>>,
    /// Noised number of units behind each template.
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

/// Which received sets shall count no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollBackRequest {
    /// The collection.
    pub collection: String,
    /// Only the set of this peer; all of them when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
}

/// The privacy ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LedgerView {
    /// In the order in which they were written.
    pub entries: Vec<LedgerEntry>,
    /// Sum of epsilon over all entries.
    pub epsilon_spent: f64,
    /// The ceiling for each unit of a collection.
    pub epsilon_max: f64,
    /// How probable a larger loss may be.
    #[serde(default)]
    pub delta: f64,
    /// What the units of each collection have lost.
    #[serde(default)]
    pub accounts: Vec<LedgerAccount>,
    /// What entities have lost, if that was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entities: Vec<LedgerEntity>,
    /// Whether there are more entities than an answer lists.
    #[serde(default)]
    pub entities_cut: bool,
}

/// What one kind of unit has lost in one collection, by composition over all releases.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LedgerAccount {
    /// The collection.
    pub collection: String,
    /// The unit of privacy.
    pub unit: String,
    /// Privacy loss of the unit that has lost most; absent if it has no bound, because it was in a release
    /// that protects finer units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epsilon_spent: Option<f64>,
    /// What that unit may still lose.
    pub epsilon_left: f64,
}

/// What one entity has lost as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LedgerEntity {
    /// The entity.
    pub entity: String,
    /// Its privacy loss; absent if it has no bound, because it was in a release that protects finer units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epsilon_spent: Option<f64>,
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
    /// The noise; empty if a crash tore the entry.
    #[serde(default)]
    pub mechanism: String,
    /// With Gaussian noise, the loss as rho of zero-concentrated privacy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rho: Option<f64>,
    /// How many entities took part; absent if everyone counts as having done so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entities: Option<u64>,
    /// When, in milliseconds since the epoch.
    pub time_ms: u64,
    /// What for.
    pub purpose: String,
    /// Whether the release was made; one that a crash prevented costs all the same.
    pub released: bool,
    /// How many units it would have taken, if there were too few.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units_needed: Option<u64>,
}
