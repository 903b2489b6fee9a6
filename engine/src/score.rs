//! Anomaly scores: how far observations and regimes are from everything known before them.
//!
//! Novelty against past regimes is the score; drift from the regime's own baseline stands beside it as a
//! factor. The distance of an observation is the root mean square of its differences from the nearest
//! known regime's mean, in the collection's units; the score is the mean of the newest distances, put
//! between 0 and 1 by distance / (distance + threshold), which keeps their order. It looks back only:
//! an observation is compared with what had ended before it.

use dunlin_wire::Cid;

use crate::{
    collection::CollectionName,
    distance::{in_units, nearest, rms, squash},
    engine::Engine,
    error::ReadError,
    observation::{EntityId, Timestamp},
    question::{Asked, Coverage, Question, TimeRange},
    rows::Rows,
    store::Stored,
};

/// Longest causal window.
pub const SCORE_WINDOW_MAX: usize = 1000;

/// Most references that one question may bring.
pub const REFERENCES_MAX: usize = 65_536;

/// A behavior known from elsewhere, such as a peer's template.
#[derive(Clone, PartialEq)]
pub struct Reference {
    /// A name for the answer.
    pub id: String,
    /// Its center, in the collection's own values and dimension.
    pub centroid: Vec<f32>,
}

impl std::fmt::Debug for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reference").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A question for the scores of one entity's observations.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoresQuery {
    /// The collection, which must be lossless.
    pub collection: CollectionName,
    /// The entity.
    pub entity: EntityId,
    /// Which observations to score.
    pub range: TimeRange,
    /// When given, only what was observed until then counts as known: regimes that had ended, and the
    /// one open at that moment with its observations up to it.
    pub known_until: Option<Timestamp>,
    /// Behaviors that count as known besides the entity's own.
    pub references: Vec<Reference>,
    /// Over how many observations a score is the mean: 1 to [`SCORE_WINDOW_MAX`]; 10 is a good choice.
    pub window: usize,
}

/// Scores in time order.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoresAnswer {
    /// One per observation in the range.
    pub scores: Vec<Score>,
    /// What was looked at.
    pub coverage: Coverage,
}

/// How anomalous an observation is.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// When it was made.
    pub timestamp: Timestamp,
    /// 0 to 1, from the mean distance over the window; 0 while nothing is known.
    pub score: f64,
    /// That mean distance, in the collection's units.
    pub distance: f64,
    /// What made the score.
    pub factors: Factors,
}

/// What made a score.
#[derive(Clone, Debug, PartialEq)]
pub struct Factors {
    /// From the distance to the nearest known regime, of this observation or regime alone; 0 to 1.
    pub novelty: f64,
    /// From the drift away from its own regime's baseline; 0 to 1.
    pub drift: f64,
    /// The nearest known regime.
    pub nearest: Nearest,
}

/// A known regime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nearest {
    /// One of the entity's own segments.
    Own(Cid),
    /// One of the references.
    Reference(String),
    /// The entity's own regime that was open at the moment `known_until`.
    Open,
    /// Nothing was known yet.
    None,
}

impl Engine {
    /// Returns the anomaly scores of an entity's observations.
    ///
    /// Takes time proportional to observations times known regimes times channels.
    ///
    /// # Errors
    ///
    /// Fails when there is no such collection or entity, the collection is not lossless, or a reference
    /// or the range is not usable.
    pub fn scores(&self, query: &ScoresQuery) -> Result<ScoresAnswer, ReadError> {
        let question = self.lossless_question(&query.collection, &query.entity)?;
        scores_of(&question, &question.entities[0], query)
    }
}

/// Scores the observations of one entity; the query's own entity is not looked at.
pub(crate) fn scores_of(
    question: &Question,
    asked: &Asked,
    query: &ScoresQuery,
) -> Result<ScoresAnswer, ReadError> {
    let (from, to) = query.range.bounds()?;
    check_references(question, &query.references)?;
    let window = query.window.clamp(1, SCORE_WINDOW_MAX);
    let past = question.reader.of_entity(question.number, &asked.id, i64::MIN, to)?;
    let past = past.collect::<Result<Vec<Stored>, _>>()?;
    let known = Known::new(question, asked, &past, query)?;
    let threshold = question.spec.policy.threshold;
    let mut causal = Causal { window, distances: Vec::new() };
    let mut scores = Vec::new();
    let first = first_needed(&past, from, window);
    let mut walk = Walk::new(past[..first].last(), &asked.inverse_unit);
    let mut visit = |rows: &Rows| {
        walk.begin_regime();
        for (time, values) in rows.iter().filter(|(time, _)| time.0 <= to) {
            let point = in_units(values, &asked.inverse_unit);
            let drift = walk.next_drift(&point);
            let (near, distance) = known.nearest(time.0, &point);
            let mean = causal.next_mean(distance);
            if time.0 >= from {
                let novelty = squash(distance, threshold);
                let factors =
                    Factors { novelty, drift: squash(drift, threshold), nearest: known.name(near) };
                let score = squash(mean, threshold);
                scores.push(Score { timestamp: time, score, distance: mean, factors });
            }
        }
    };
    for stored in &past[first..] {
        visit(&question.rows_of(stored)?);
    }
    let open = asked.open.as_ref().filter(|open| open.start <= to);
    if let Some(rows) = open.and_then(|open| open.rows.as_ref()) {
        visit(rows);
    }
    let coverage = Coverage {
        segments_scanned: past.len() as u64,
        hot_regimes: u64::from(open.is_some()),
        range: query.range,
        complete: true,
    };
    Ok(ScoresAnswer { scores, coverage })
}

/// Checks the references that came with a question.
pub(crate) fn check_references(
    question: &Question,
    references: &[Reference],
) -> Result<(), ReadError> {
    if references.len() > REFERENCES_MAX {
        return Err(ReadError::TooManyRows { rows_max: REFERENCES_MAX });
    }
    references.iter().try_for_each(|reference| question.check_vector(&reference.centroid))
}

/// Returns the first segment whose observations are needed: enough before `from` to fill the window.
fn first_needed(past: &[Stored], from: i64, window: usize) -> usize {
    let mut first = past.partition_point(|stored| stored.segment.end().0 < from);
    let mut before = 0;
    while first > 0 && before + 1 < window {
        first -= 1;
        before += past[first].segment.count() as usize;
    }
    first
}

/// Everything that observations are compared with, in units, row-major.
struct Known<'a> {
    own: Vec<f64>,
    /// When each own regime ended, rising; it is known from then on.
    ends: Vec<i64>,
    cids: Vec<Option<Cid>>,
    foreign: Vec<f64>,
    references: &'a [Reference],
    /// With `known_until` all of them are known at any time.
    fixed: bool,
}

/// A known regime by its place.
#[derive(Clone, Copy)]
enum Near {
    Own(usize),
    Foreign(usize),
    Nothing,
}

impl<'a> Known<'a> {
    fn new(
        question: &Question,
        asked: &Asked,
        past: &[Stored],
        query: &'a ScoresQuery,
    ) -> Result<Self, ReadError> {
        let units = &asked.inverse_unit;
        let mut known = Self {
            own: Vec::new(),
            ends: Vec::new(),
            cids: Vec::new(),
            foreign: query.references.iter().flat_map(|r| in_units(&r.centroid, units)).collect(),
            references: &query.references,
            fixed: query.known_until.is_some(),
        };
        let until = query.known_until.unwrap_or(Timestamp(i64::MAX));
        for stored in past.iter().filter(|stored| stored.segment.end() <= until) {
            known.own.extend(in_units(stored.segment.mean(), units));
            known.ends.push(stored.segment.end().0);
            known.cids.push(Some(stored.cid));
        }
        if known.fixed
            && let Some(mean) = open_mean(question, asked, until.0)?
        {
            known.own.extend(in_units(&mean, units));
            known.cids.push(None);
        }
        Ok(known)
    }

    /// Returns the nearest of what is known at a time, and its distance; 0 when nothing is.
    fn nearest(&self, time: i64, point: &[f64]) -> (Near, f64) {
        let count = match self.fixed {
            true => self.cids.len(),
            false => self.ends.partition_point(|end| *end < time),
        };
        let own = nearest(&self.own[..count * point.len()], point);
        let foreign = nearest(&self.foreign, point);
        match (own, foreign) {
            (Some((index, own)), Some((_, foreign))) if own <= foreign => (Near::Own(index), own),
            (_, Some((index, foreign))) => (Near::Foreign(index), foreign),
            (Some((index, own)), None) => (Near::Own(index), own),
            (None, None) => (Near::Nothing, 0.0),
        }
    }

    fn name(&self, near: Near) -> Nearest {
        match near {
            Near::Own(index) => self.cids[index].map_or(Nearest::Open, Nearest::Own),
            Near::Foreign(index) => Nearest::Reference(self.references[index].id.clone()),
            Near::Nothing => Nearest::None,
        }
    }
}

/// Returns the mean of the observations, up to `until`, of the regime that was open then.
fn open_mean(
    question: &Question,
    asked: &Asked,
    until: i64,
) -> Result<Option<Vec<f32>>, ReadError> {
    let (reader, number) = (&question.reader, question.number);
    let sealed = reader.of_entity(number, &asked.id, until, until)?.next().transpose()?;
    let rows = match sealed {
        Some(stored) if stored.segment.end().0 > until => question.rows_of(&stored)?,
        // A regime that ended at that very moment is among the sealed ones.
        Some(_) => return Ok(None),
        None => match asked.open.as_ref().and_then(|open| open.rows.as_ref()) {
            Some(rows) => rows.clone(),
            None => return Ok(None),
        },
    };
    let mut sums = vec![0.0_f64; rows.dim()];
    let mut count = 0.0;
    for (_, values) in rows.iter().filter(|(time, _)| time.0 <= until) {
        count += 1.0;
        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    Ok((count > 0.0).then(|| sums.iter().map(|sum| (sum / count) as f32).collect()))
}

/// The mean of the newest distances.
struct Causal {
    window: usize,
    distances: Vec<f64>,
}

impl Causal {
    fn next_mean(&mut self, distance: f64) -> f64 {
        self.distances.push(distance);
        let newest = &self.distances[self.distances.len().saturating_sub(self.window)..];
        newest.iter().sum::<f64>() / newest.len() as f64
    }
}

/// Follows an entity's regimes and tells each observation's drift from the baseline before it.
struct Walk {
    mean: Vec<f64>,
    count: f64,
}

impl Walk {
    /// Begins after a sealed regime, if there was one.
    fn new(before: Option<&Stored>, inverse_unit: &[f64]) -> Self {
        let mean = before.map(|stored| in_units(stored.segment.mean(), inverse_unit));
        Self { mean: mean.unwrap_or_default(), count: 0.0 }
    }

    /// The next observation is the first of a regime; it is compared with the regime before.
    fn begin_regime(&mut self) {
        self.count = 0.0;
    }

    fn next_drift(&mut self, point: &[f64]) -> f64 {
        let drift = if self.mean.is_empty() { 0.0 } else { rms(&self.mean, point) };
        if self.count == 0.0 {
            self.mean = point.to_vec();
        }
        self.count += 1.0;
        let share = 1.0 / self.count;
        self.mean.iter_mut().zip(point).for_each(|(mean, value)| *mean += (value - *mean) * share);
        drift
    }
}
