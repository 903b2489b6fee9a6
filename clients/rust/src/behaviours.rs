//! What a fleet does, as JSON.

use serde::{Deserialize, Serialize};

use crate::query::Coverage;

/// What the entities of a collection do again and again, and what they did hardly ever.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BehavioursAnswer {
    /// The most frequent first.
    pub behaviours: Vec<Behaviour>,
    /// What is in none of them: the newest, up to 100.
    pub outliers: Vec<Outlier>,
    /// Segments in none of them, listed or not.
    pub outlier_segments: u64,
    /// How near two segments are told apart, in parts of the declared ranges.
    pub resolution: f64,
    /// What was looked at.
    pub coverage: Coverage,
}

/// Something that is done again and again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Behaviour {
    /// Its place in the answer, from 1. It may change when more is seen.
    pub id: u32,
    /// What is special about it, in words: its channels that differ most from what the fleet usually does.
    pub name: String,
    /// Sealed segments.
    pub segments: u64,
    /// The part of all segments that these are.
    pub share: f64,
    /// Observations in them.
    pub observations: u64,
    /// Entities that were seen in it.
    pub entities: u64,
    /// Whether there may be more of these: 256 are remembered of each detail.
    pub entities_cut: bool,
    /// How long a stay lasts, in the mean.
    pub dwell_us: u64,
    /// Which part of the time spent in it falls into each hour of the day, UTC; 24 of them.
    pub hours: Vec<f64>,
    /// When it was first seen.
    pub first_us: i64,
    /// When it was last seen.
    pub last_us: i64,
    /// Root mean square distance of its segments from the centroid, in parts of the declared ranges.
    pub spread: f64,
    /// Mean of its segments.
    pub centroid: Vec<f32>,
    /// What it consists of, the most frequent first; only when asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<BehaviourDetail>,
}

/// Segments of a behaviour that are hardly told apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BehaviourDetail {
    /// How many.
    pub segments: u64,
    /// Their mean.
    pub centroid: Vec<f32>,
}

/// Something that was done hardly ever.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outlier {
    /// The newest segment of it.
    pub cid: String,
    /// Its entity.
    pub entity: String,
    /// First observation of that segment.
    pub start_us: i64,
    /// Last observation of that segment.
    pub end_us: i64,
    /// Segments like it, itself among them.
    pub segments: u64,
    /// The behaviour that is nearest, and how far its nearest part is, in parts of the declared ranges; absent
    /// when there is no behaviour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest: Option<NearestBehaviour>,
}

/// The behaviour that is nearest to an outlier.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NearestBehaviour {
    /// Its id.
    pub id: u32,
    /// How far its nearest part is.
    pub distance: f64,
}
