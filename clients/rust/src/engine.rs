//! Collections, observations, entities and segments as JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::query::Matched;

/// How two vectors are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// 1 minus the cosine of the angle.
    Cosine,
    /// Straight-line distance.
    #[default]
    Euclidean,
    /// Negated inner product.
    Dot,
}

/// What is kept of the observations of a sealed regime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fidelity {
    /// The summary alone.
    #[default]
    Summary,
    /// Every value within a stated error.
    Bounded,
    /// Every value, bit for bit.
    Lossless,
}

/// How far a kept value may be from the observed one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorBound {
    /// This share of each channel's declared range, above 0 to 1.
    OfRange(f64),
    /// This much in each channel, in its own unit; 0 keeps the channel bit for bit.
    Absolute(Vec<f32>),
}

/// In which units drift and distances are measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Units {
    /// Fractions of the declared, public range of each channel.
    Range {
        /// Lower bound of each channel.
        lower: Vec<f32>,
        /// Upper bound of each channel, above the lower one.
        upper: Vec<f32>,
    },
    /// Multiples of each entity's own noise in each channel.
    #[default]
    NoiseFloor,
}

/// A collection: a namespace with one dimension, one metric and one segment policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectionSpec {
    /// Lower-case letters, digits, `-` and `_`; at most 64 bytes.
    pub name: String,
    /// Channels of every vector: 1 to 4096.
    pub dim: u32,
    /// How vectors are compared.
    #[serde(default)]
    pub metric: Metric,
    /// What is kept of a sealed regime's observations.
    #[serde(default)]
    pub fidelity: Fidelity,
    /// The largest error of fidelity `bounded`, which needs one; no other has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_bound: Option<ErrorBound>,
    /// Units of drift and distance.
    #[serde(default)]
    pub units: Units,
    /// Drift beyond which a regime ends, in `units`; the node's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// How late an observation may come and still be taken in order, in microseconds.
    #[serde(default)]
    pub lateness_us: u64,
    /// Names of the channels, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<Vec<String>>,
}

/// All collections of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Collections {
    /// By name.
    pub collections: Vec<CollectionSpec>,
    /// In what form segments may leave, for those that are not private.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shares: BTreeMap<String, Share>,
}

/// In what form the segments of a collection may leave the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// To the operator's own peers alone.
    #[default]
    Private,
    /// As encrypted copies, to everybody; who has the key reads them.
    Sealed,
    /// A noised mean for each entity and window of time, in the open; entities have pseudonyms.
    Noised,
}

/// In what form the segments of a collection shall leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareRequest {
    /// The form.
    pub share: Share,
    /// With `noised`: what was observed before this is not released, in microseconds since the epoch. Now, when
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_us: Option<i64>,
    /// With `noised`: the length of a window in microseconds, from 10 minutes to 31 days. A day, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_us: Option<u64>,
}

/// In what form the segments of a collection leave from now on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShareResponse {
    /// The form before.
    pub before: Share,
    /// The form now.
    pub share: Share,
    /// The id of the key that seals, when one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What noised segments promise, when they are made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noised: Option<NoisedTerms>,
}

/// What noised segments promise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NoisedTerms {
    /// Since when, in microseconds since the epoch.
    pub since_us: i64,
    /// The length of a window, in microseconds.
    pub window_us: u64,
    /// The privacy loss of each observation by its window.
    pub epsilon: f64,
    /// The probability that it is larger.
    pub delta: f64,
    /// With about how many observations of an entity a window is released.
    pub observations_needed: u64,
}

/// One input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observation {
    /// The thing observed: 1 to 256 bytes.
    pub entity: String,
    /// When.
    pub timestamp_us: i64,
    /// `dim` finite numbers.
    pub vector: Vec<f32>,
    /// Short notes about this observation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
}

/// Observations to take in together: all of them, or none when one is malformed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IngestRequest {
    /// In order of time for each entity.
    pub observations: Vec<Observation>,
}

/// The observations are durable: no crash loses them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngestAck {
    /// Taken in now.
    pub accepted: u64,
    /// Known already, by entity and timestamp.
    pub duplicate: u64,
    /// Older than the lateness window allows; not taken.
    pub late: u64,
    /// Regimes that these observations ended.
    pub sealed: u64,
}

/// All entities of a collection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entities {
    /// By id.
    pub entities: Vec<Entity>,
}

/// What a node knows of one entity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entity {
    /// Its id.
    pub entity: String,
    /// Timestamp of the oldest observation.
    pub first_us: i64,
    /// Timestamp of the newest acknowledged observation: where to resume.
    pub last_us: i64,
    /// Acknowledged observations.
    pub observations: u64,
    /// Sealed segments.
    pub segments: u64,
    /// Observations in the open regime.
    pub open_observations: u64,
    /// Drift of the newest observation from the open regime, in the collection's units.
    pub drift: f64,
    /// What the newest observation that carried metadata said.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// What the newest observation is nearest to, of what was known when it came in. Absent when nothing was,
    /// and from a restart or a change of the adopted templates until the next observation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched: Option<Matched>,
}

/// What to compact in a collection, and how far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompactRequest {
    /// Of this entity alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entity: Option<String>,
    /// From this entity on, by name: where an earlier answer said to go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Only segments that ended before this time.
    pub before_us: i64,
    /// Root mean square error that compaction may reach, in the collection's units; .05 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nrmse: Option<f64>,
    /// Instead, the part of the segments' bytes that outlines may take, whatever the error: above 0, up to 1. Observations
    /// that the collection keeps do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
}

/// What compaction did so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactResponse {
    /// Segments that outlines stand for now.
    pub segments: u64,
    /// Those outlines.
    pub outlines: u64,
    /// Bytes of the segments, and of the observations that were kept with them.
    pub bytes_before: u64,
    /// Bytes of the outlines, and of the same observations.
    pub bytes_after: u64,
    /// The entity to go on from: there may be more to do. Ask again with this as `from`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Which entity to remove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveRequest {
    /// The entity.
    pub entity: String,
}

/// What was removed with an entity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveResponse {
    /// Observations that the node knew, sealed or not.
    pub observations: u64,
    /// Segments that are no longer in the node's store. Archived copies stay in the archive.
    pub segments: u64,
}

/// Which open regime to seal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealRequest {
    /// The entity.
    pub entity: String,
}

/// What sealing did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealResponse {
    /// The new segment; `null` when no regime was open.
    pub cid: Option<String>,
}

/// Which segments to list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentsQuery {
    /// Of this collection.
    pub collection: String,
    /// Of this entity alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entity: Option<String>,
    /// Ending at or after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_us: Option<i64>,
    /// Starting at or before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_us: Option<i64>,
    /// Behind this position, as `next` of the last page said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// At most this many, up to 1,000; 100 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// One page of segments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentPage {
    /// In the order in which they were sealed.
    pub segments: Vec<Segment>,
    /// Ask with `after = next` for more; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// A sealed regime.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Its content identifier.
    pub cid: String,
    /// Its collection.
    pub collection: String,
    /// Its entity.
    pub entity: String,
    /// First observation.
    pub start_us: i64,
    /// Last observation.
    pub end_us: i64,
    /// How many observations it stands for.
    pub count: u64,
    /// Mean of each channel.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel.
    pub spread: Vec<f32>,
    /// Mean drift while the regime was open.
    pub drift_mean: f64,
    /// Largest drift.
    pub drift_max: f64,
    /// Novelty against the entity's own past, 0 to 1.
    pub anomaly_score: f64,
    /// What is kept of the observations.
    pub fidelity: Fidelity,
    /// CIDs of the blocks that hold the observations.
    pub payload: Vec<String>,
    /// Size of the summary block.
    pub block_bytes: u64,
    /// Whether the node's archive holds it.
    pub archived: bool,
    /// The CID of its sealed copy, when there is one: for everybody who has the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<String>,
    /// CIDs of segments that other nodes of the operator sealed, and that say something else about the same time: the
    /// first hundred. `dunlin review` tells which is preferred.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<String>,
}

/// How small a collection became, and what that cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Observations in sealed segments.
    pub observations: u64,
    /// Sealed segments.
    pub segments: u64,
    /// The observations as 32-bit floats.
    pub raw_bytes: u64,
    /// The summary blocks.
    pub stored_bytes: u64,
    /// `raw_bytes / stored_bytes`.
    pub ratio: f64,
    /// Root mean square error of reading the summaries back, as a fraction of each channel's range.
    pub nrmse: f64,
    /// Share of the variance that the summaries explain, pooled over channels.
    pub r2: f64,
    /// The ratio of fixed windows with the same error and block format; absent where it cannot be known.
    pub window_ratio: Option<f64>,
    /// Length of those windows, in observations.
    pub window_observations: Option<f64>,
}
