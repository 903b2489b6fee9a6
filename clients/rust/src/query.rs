//! Questions and answers as JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{engine::Fidelity, review::TouchedConflict};

/// Which segments a question looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The node's own: open regimes and sealed segments.
    #[default]
    Local,
    /// The node's own open regimes alone: how its entities are now.
    Open,
    /// The node's own sealed segments alone: how they were.
    Sealed,
    /// Segments that were fetched from other peers.
    Fetched,
    /// Adopted templates of other peers.
    Templates,
}

/// What an answer covers, and what it could not reach.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Coverage {
    /// Sealed segments, or templates, that were looked at one by one.
    pub segments: u64,
    /// Sealed segments that an index stood for: a walk compared those near the vector, and may have missed
    /// some of the nearest.
    #[serde(default)]
    pub indexed_segments: u64,
    /// Outlines of compacted segments that were looked at.
    #[serde(default)]
    pub outlines: u64,
    /// Open regimes that were looked at.
    pub open_regimes: u64,
    /// Whether all that was asked about was looked at.
    pub complete: bool,
    /// What is missing and why, when not complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// Conflicts that the answer touches, the first hundred: other nodes say something else about the same time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<TouchedConflict>,
    /// How many there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub conflicts_total: u64,
    /// Time the answer took.
    pub elapsed_us: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The regimes nearest to a vector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnnQuery {
    /// In this collection.
    pub collection: String,
    /// `dim` finite numbers.
    pub vector: Vec<f32>,
    /// How many: 1 to 10,000.
    pub k: u32,
    /// Of this entity alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entity: Option<String>,
    /// Ending at or after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_us: Option<i64>,
    /// Starting at or before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_us: Option<i64>,
    /// Which segments to look at.
    #[serde(default)]
    pub scope: Scope,
    /// Of entities alone whose newest metadata has all of these pairs; not with the scopes `fetched` and `templates`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Compare everything, instead of walking an index that may miss some of the nearest.
    #[serde(default)]
    pub exact: bool,
}

impl KnnQuery {
    /// Returns the question for the `k` regimes of a node's own nearest to a vector.
    #[must_use]
    pub fn new(collection: impl Into<String>, vector: Vec<f32>, k: u32) -> Self {
        Self {
            collection: collection.into(),
            vector,
            k,
            entity: None,
            from_us: None,
            to_us: None,
            scope: Scope::Local,
            metadata: BTreeMap::new(),
            exact: false,
        }
    }
}

/// One regime, or template, near the vector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KnnHit {
    /// The segment; absent for an open regime and for a template.
    pub cid: Option<String>,
    /// The template, with the scope `templates`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Its entity; empty for a template.
    pub entity: String,
    /// First observation; 0 for a template.
    pub start_us: i64,
    /// Last observation so far; 0 for a template.
    pub end_us: i64,
    /// Distance by the collection's metric: small is near.
    pub distance: f64,
}

/// Answer to a [`KnnQuery`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KnnAnswer {
    /// Nearest first.
    pub hits: Vec<KnnHit>,
    /// What was looked at.
    pub coverage: Coverage,
}

/// Whether adopted templates count as known behaviour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TemplateUse {
    /// The node's own past alone.
    None,
    /// The adopted templates too.
    #[default]
    Adopted,
    /// Every received template with its channels shuffled: a check that a gain is the templates' own.
    Control,
}

/// In what units the distance to known behaviour is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreUnits {
    /// The geometric mean of the other three, and a regime counts by how much was seen of it.
    #[default]
    Blended,
    /// The collection's own: the declared width of each channel, or the learned noise floor.
    Range,
    /// Standard deviations of everything known.
    Z,
    /// Standard deviations within the known regimes.
    Noise,
}

/// The most anomalous regimes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnomaliesQuery {
    /// In this collection.
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
    /// How many: 1 to 10,000.
    pub k: u32,
    /// Whether templates count as known behaviour.
    #[serde(default)]
    pub templates: TemplateUse,
    /// The units of distances.
    #[serde(default)]
    pub units: ScoreUnits,
    /// How long after its end a regime counts as known, in microseconds.
    #[serde(default)]
    pub known_after_us: u64,
}

/// What an anomaly score is made of, each from 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Factors {
    /// How far the nearest known behaviour is.
    pub novelty: f64,
    /// How far the baseline of its own regime is.
    pub drift: f64,
    /// How unusual the nearest known behaviour is at this time, from the entity's own past; absent while
    /// it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timing: Option<Timing>,
    /// How far it is from what other entities of the collection do at the time, each in its own units;
    /// absent when there are none with a past.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<f64>,
    /// The nearest known behaviour; absent when nothing was known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest: Option<Nearest>,
    /// How far that is, over the threshold of the unit: up to 1 it is alike. Absent when nothing was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distance: Option<f64>,
    /// How much farther the second nearest is, over the threshold of the unit; near 0 it is as likely.
    /// Absent when fewer than two are known. Not limited to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
}

/// How unusual a behaviour is at its time, each from 0 to 1; in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// At this hour of the day.
    pub hour: f64,
    /// On this weekday.
    pub weekday: f64,
}

/// The known behaviour that lies nearest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nearest {
    /// A segment of the entity's own past.
    Segment(String),
    /// The regime that was open when learning stopped.
    OpenRegime,
    /// A template: the peer that released it and its place in that peer's set.
    Template(String),
}

/// The known behaviour that an observation or a regime is nearest to, in the collection's own units.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Matched {
    /// Which one.
    pub nearest: Nearest,
    /// How far it is, over the threshold at which a regime ends: up to 1 it is alike. A template counts as the
    /// farther the less is left of its time, and no nearer than most peers have it.
    pub distance: f64,
    /// How much farther the second nearest is, over the threshold: near 0 it is as likely. Absent when only
    /// one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
}

/// One anomalous regime.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Anomaly {
    /// Its segment; absent while the regime is open.
    pub cid: Option<String>,
    /// Its entity.
    pub entity: String,
    /// First observation.
    pub start_us: i64,
    /// Last observation.
    pub end_us: i64,
    /// 0 to 1: large is unusual.
    pub score: f64,
    /// What the score is made of.
    pub factors: Factors,
}

/// Answer to an [`AnomaliesQuery`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnomaliesAnswer {
    /// Most anomalous first.
    pub anomalies: Vec<Anomaly>,
    /// What was looked at.
    pub coverage: Coverage,
}

/// The anomaly score of every observation of an entity in a time range.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoresQuery {
    /// A lossless collection.
    pub collection: String,
    /// The entity.
    pub entity: String,
    /// From this observation on.
    pub from_us: i64,
    /// To this observation.
    pub to_us: i64,
    /// Judge by what was known at this time; by what was known at each observation when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_until_us: Option<i64>,
    /// Whether templates count as known behaviour.
    #[serde(default)]
    pub templates: TemplateUse,
    /// Which shuffle of the control.
    #[serde(default)]
    pub seed: u64,
    /// The units of distances.
    #[serde(default)]
    pub units: ScoreUnits,
    /// How long after its end a regime counts as known, in microseconds; without effect
    /// beside `known_until_us`.
    #[serde(default)]
    pub known_after_us: u64,
}

/// The score of one observation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// When.
    pub timestamp_us: i64,
    /// 0 to 1: large is unusual.
    pub score: f64,
    /// What the score is made of.
    pub factors: Factors,
}

/// Answer to a [`ScoresQuery`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoresAnswer {
    /// In order of time.
    pub scores: Vec<Score>,
    /// Templates that counted as known.
    pub templates: u64,
    /// What was looked at.
    pub coverage: Coverage,
}

/// How an entity behaved over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryQuery {
    /// In this collection.
    pub collection: String,
    /// The entity.
    pub entity: String,
    /// From this time on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_us: Option<i64>,
    /// To this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_us: Option<i64>,
    /// At most this many points, up to 100,000; 1,000 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Say of each point what it was nearest to, of the entity's past then and of these templates now. Nothing
    /// is said when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<TemplateUse>,
}

/// One point of a history, at the fidelity that was stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryPoint {
    /// When.
    pub timestamp_us: i64,
    /// The observation, bit for bit; of a summary, the mean of the regime that began or ended here.
    pub vector: Vec<f32>,
    /// What it was nearest to, when that was asked for and anything was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched: Option<Matched>,
    /// The CID of another node's segment that says this, where that one is preferred to what this node sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_segment: Option<String>,
}

/// Answer to a [`HistoryQuery`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryAnswer {
    /// In order of time: every observation, or the start and the end of every regime.
    pub points: Vec<HistoryPoint>,
    /// Which of the two.
    pub fidelity: Fidelity,
    /// Largest error of each channel, with fidelity `bounded`, of what this node observed itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_max: Option<Vec<f32>>,
    /// What was looked at.
    pub coverage: Coverage,
}

/// Which changes come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeOrder {
    /// The newest.
    #[default]
    Newest,
    /// The largest.
    Largest,
}

/// The moments at which entities began to behave differently.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangesQuery {
    /// In this collection.
    pub collection: String,
    /// Of this entity alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entity: Option<String>,
    /// At or after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_us: Option<i64>,
    /// At or before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_us: Option<i64>,
    /// How many: 1 to 10,000; 100 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Which come first.
    #[serde(default)]
    pub order: ChangeOrder,
}

/// A moment at which an entity left one regime for another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Its entity.
    pub entity: String,
    /// First observation of the new regime.
    pub at_us: i64,
    /// The segment that it left, or the outline that this was compacted into.
    pub from_cid: String,
    /// The segment, or outline, that it went to; absent while that regime is open.
    pub to_cid: Option<String>,
    /// Root mean square over channels of the difference of both means, in units.
    pub distance: f64,
    /// The same from 0 to below 1; one half at the policy's threshold.
    pub score: f64,
    /// Time between both regimes.
    pub gap_us: u64,
    /// The channels that moved furthest, up to three.
    pub moves: Vec<ChannelMove>,
}

/// How one channel moved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChannelMove {
    /// Its index.
    pub channel: u32,
    /// Its name, where the collection has names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its mean before.
    pub from: f32,
    /// Its mean after.
    pub to: f32,
}

/// Answer to a [`ChangesQuery`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChangesAnswer {
    /// In the order that was asked for.
    pub changes: Vec<Change>,
    /// What was looked at.
    pub coverage: Coverage,
}

/// One course: an entity in a stretch of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Course {
    /// The entity.
    pub entity: String,
    /// From here on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_us: Option<i64>,
    /// Up to here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_us: Option<i64>,
}

/// How alike two courses are, whatever their pace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrajectoryQuery {
    /// The collection of both.
    pub collection: String,
    /// One course.
    pub a: Course,
    /// The other.
    pub b: Course,
    /// Points of each course: 2 to 4,096; 512 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub points: Option<u32>,
}

/// Two moments that are matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// Moment of the first course.
    pub a_us: i64,
    /// Moment of the second one.
    pub b_us: i64,
}

/// Answer to a [`TrajectoryQuery`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrajectoryAnswer {
    /// Mean distance of what is matched, in units: small is alike.
    pub distance: f64,
    /// The same as a score, above 0 to 1: 1 for equal courses, one half at the policy's threshold.
    pub similarity: f64,
    /// Where the pace of one against the other changes, from the first moment to the last.
    pub matches: Vec<Match>,
    /// What was looked at of both courses.
    pub coverage: Coverage,
}
