//! Anomaly scores: how far observations and regimes are from everything known before them.
//!
//! Novelty against past regimes is the score; drift from the regime's own baseline, the hour and weekday,
//! and the distance from what other entities do stand beside it as factors. A distance over its
//! threshold is a level; the score is the mean of the newest levels, put between 0 and 1 by
//! level / (level + 1), which keeps their order. It looks back only: an observation is compared with
//! what had ended before it. `known.rs` says what is compared, and in which units.

use std::collections::VecDeque;

use dunlin_wire::Cid;
use serde::{Deserialize, Serialize};

use crate::{
    collection::CollectionName,
    distance::{in_units, rms, squash},
    engine::Engine,
    error::ReadError,
    known::{Behavior, Judged, Known, blend},
    observation::{EntityId, Timestamp},
    peers::Peers,
    preferred::{OWN, Preferred},
    question::{Asked, Coverage, Question, TimeRange},
    references::Reference,
    rows::Rows,
    store::Stored,
    timing::Timing,
};

/// Longest causal window.
pub const SCORE_WINDOW_MAX: usize = 1000;

/// Most references that one question may bring.
pub const REFERENCES_MAX: usize = 65_536;

/// In what units distances are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
    /// From how much own past on, in microseconds, references count no more; until then they count the
    /// less the longer it is. Without it they count for ever.
    pub fade_us: Option<u64>,
    /// Over how many observations a score is the mean: 1 to [`SCORE_WINDOW_MAX`]; 10 is a good choice.
    pub window: usize,
    /// The units of distances.
    pub units: ScoreUnits,
    /// How long after its end a regime counts as known, in microseconds; without effect beside
    /// `known_until`. With a day an incident stays one while it lasts, at the price of knowing nothing on
    /// the first day.
    pub known_after_us: u64,
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
    /// 0 to 1, from the mean level over the window; 0 while nothing is known. One half where the
    /// distance is at its threshold: the policy's in `range`, 1 in `z`, 3 in `noise`; in the blend where
    /// the geometric mean of the three distances over their thresholds is 1.
    pub score: f64,
    /// That mean level: the distance over its threshold.
    pub level: f64,
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
    /// How unusual the nearest known behavior is at this hour and on this weekday, from the entity's own
    /// past; `None` while it has none.
    pub timing: Option<Timing>,
    /// How far it is from what other entities of the collection do at the time, each in its own units; 0
    /// to 1, `None` without others that have a past.
    pub peers: Option<f64>,
    /// The nearest known regime.
    pub nearest: Nearest,
    /// How far that is, over the threshold of the first unit: up to 1 it is alike. A template counts as the
    /// farther the less is left of its time. `None` when nothing is known.
    pub distance: Option<f64>,
    /// How much farther the second nearest is, over the threshold: near 0, the match is one of several.
    /// `None` when fewer than two are known.
    pub margin: Option<f64>,
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
        self.scores_with(query, &OWN)
    }

    /// As [`Self::scores`], with what other nodes sealed in the place of some own segments. Those of them whose
    /// observations are not here are known as regimes, and their time has no scores ([`Coverage::unread`]).
    ///
    /// # Errors
    ///
    /// As [`Self::scores`].
    pub fn scores_with(
        &self,
        query: &ScoresQuery,
        preferred: &Preferred<'_>,
    ) -> Result<ScoresAnswer, ReadError> {
        let question = self.lossless_question(&query.collection, &query.entity, preferred)?;
        let others = self.neighbors(&query.collection, &query.entity)?;
        scores_of(&question, &question.entities[0], &others, query)
    }

    /// Returns what [`Score::level`] would be with each of `sets` in place of the query's references: for
    /// each set one level for each observation in the range. So references are compared with one another,
    /// for the work of one question.
    ///
    /// # Errors
    ///
    /// As [`Self::scores`]; together the sets may hold [`REFERENCES_MAX`] references.
    pub fn levels(
        &self,
        query: &ScoresQuery,
        sets: &[Vec<Reference>],
    ) -> Result<Vec<Vec<f64>>, ReadError> {
        let question = self.lossless_question(&query.collection, &query.entity, &OWN)?;
        levels_of(&question, query, sets)
    }
}

/// Returns the levels of one entity's observations with each set of references in turn.
fn levels_of(
    question: &Question,
    query: &ScoresQuery,
    sets: &[Vec<Reference>],
) -> Result<Vec<Vec<f64>>, ReadError> {
    let (from, to) = query.range.bounds()?;
    let asked = &question.entities[0];
    let references: usize = sets.iter().map(Vec::len).sum();
    if references > REFERENCES_MAX {
        return Err(ReadError::TooManyRows { rows_max: REFERENCES_MAX });
    }
    sets.iter().try_for_each(|set| check_references(question, set))?;
    let window = query.window.clamp(1, SCORE_WINDOW_MAX);
    let past = question.sealed(asked, (i64::MIN, to))?;
    let past = past.collect::<Result<Vec<Stored>, _>>()?;
    let first = first_needed(&past, from, window);
    let mut known = known(question, asked, &past, query, sets)?;
    let causal = || Causal { window, levels: VecDeque::new() };
    let mut causals: Vec<Causal> = sets.iter().map(|_| causal()).collect();
    let mut all = vec![Vec::new(); sets.len()];
    let mut visit = |rows: &Rows| {
        for (time, values) in rows.iter().take_while(|(time, _)| time.0 <= to) {
            let levels = known.levels(values, time.0);
            for ((causal, of_set), levels) in causals.iter_mut().zip(&mut all).zip(levels) {
                let level = blend(&causal.next_means(levels));
                if time.0 >= from {
                    of_set.push(level);
                }
            }
        }
    };
    for stored in &past[first..] {
        question.rows_of(stored)?.iter().for_each(&mut visit);
    }
    let open = asked.open.as_ref().filter(|open| open.start <= to);
    open.and_then(|open| open.rows.as_ref()).into_iter().for_each(visit);
    Ok(all)
}

/// Scores the observations of one entity; the query's own entity is not looked at.
pub(crate) fn scores_of(
    question: &Question,
    asked: &Asked,
    others: &[Asked],
    query: &ScoresQuery,
) -> Result<ScoresAnswer, ReadError> {
    let (from, to) = query.range.bounds()?;
    check_references(question, &query.references)?;
    let window = query.window.clamp(1, SCORE_WINDOW_MAX);
    let past = question.sealed(asked, (i64::MIN, to))?;
    let past = past.collect::<Result<Vec<Stored>, _>>()?;
    let first = first_needed(&past, from, window);
    let sets = [query.references.clone()];
    let mut scoring = Scoring {
        known: known(question, asked, &past, query, &sets)?,
        peers: Peers::new(question, asked, others, from, to)?,
        causal: Causal { window, levels: VecDeque::new() },
        walk: Walk::new(past[..first].last(), &asked.inverse_unit),
        inverse_unit: &asked.inverse_unit,
        threshold: question.spec.policy.threshold,
    };
    let (mut scores, mut unread) = (Vec::new(), 0);
    let mut visit = |scoring: &mut Scoring<'_>, rows: &Rows| {
        scoring.walk.begin_regime();
        for (time, values) in rows.iter().take_while(|(time, _)| time.0 <= to) {
            scores.extend(scoring.next_score(time, values, time.0 >= from));
        }
    };
    for stored in &past[first..] {
        match question.rows_of(stored)? {
            Some(rows) => visit(&mut scoring, &rows),
            None => {
                scoring.walk = Walk::new(Some(stored), &asked.inverse_unit);
                unread += u64::from(stored.segment.end().0 >= from);
            }
        }
    }
    let open = asked.open.as_ref().filter(|open| open.start <= to);
    if let Some(rows) = open.and_then(|open| open.rows.as_ref()) {
        visit(&mut scoring, rows);
    }
    let mut coverage = question.coverage(query.range);
    coverage.complete &= unread == 0;
    coverage.unread = unread;
    coverage.segments_scanned = past.len() as u64;
    coverage.hot_regimes = u64::from(open.is_some());
    coverage.is_compacted =
        question.reader.has_outlines(question.number, Some(&asked.id), from, to)?;
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

/// Returns what the observations are compared with.
fn known<'a>(
    question: &Question,
    asked: &'a Asked,
    past: &[Stored],
    query: &ScoresQuery,
    sets: &'a [Vec<Reference>],
) -> Result<Known<'a>, ReadError> {
    let (fade, units, after) = (query.fade_us, query.units, query.known_after_us);
    let mut known = Known::new(question, &asked.inverse_unit, sets, fade, units, after);
    let Some(until) = query.known_until else {
        past.iter().for_each(|stored| known.await_end(Behavior::sealed(stored)));
        return Ok(known);
    };
    for stored in past.iter().filter(|stored| stored.segment.end() <= until) {
        known.learn(Behavior::sealed(stored));
    }
    if let Some(open) = open_at(question, asked, until.0)? {
        known.learn(open);
    }
    Ok(known)
}

/// Returns the regime that was open then, as far as its observations up to `until` go.
fn open_at(question: &Question, asked: &Asked, until: i64) -> Result<Option<Behavior>, ReadError> {
    let sealed = question.sealed(asked, (until, until))?.next().transpose()?;
    let rows = match sealed {
        Some(stored) if stored.segment.end().0 > until => match question.rows_of(&stored)? {
            Some(rows) => rows,
            // What was known of it then cannot be told from its summary.
            None => return Ok(None),
        },
        // A regime that ended at that very moment is among the sealed ones.
        Some(_) => return Ok(None),
        None => match asked.open.as_ref().and_then(|open| open.rows.as_ref()) {
            Some(rows) => rows.clone(),
            None => return Ok(None),
        },
    };
    Ok(Behavior::of_rows(&rows, until))
}

/// Everything that goes along with an entity's observations.
struct Scoring<'a> {
    known: Known<'a>,
    peers: Peers,
    causal: Causal,
    walk: Walk,
    inverse_unit: &'a [f64],
    threshold: f64,
}

impl Scoring<'_> {
    /// Takes the next observation, and scores it when it is wanted.
    fn next_score(&mut self, time: Timestamp, values: &[f32], is_wanted: bool) -> Option<Score> {
        let drift = self.walk.next_drift(&in_units(values, self.inverse_unit));
        let judged = self.known.judge(values, time.0, time.0);
        let Judged { levels, nearest, distance, margin, timing } = judged;
        let novelty = squash(blend(&levels), 1.0);
        let level = blend(&self.causal.next_means(levels));
        is_wanted.then(|| Score {
            timestamp: time,
            score: squash(level, 1.0),
            level,
            factors: Factors {
                novelty,
                drift: squash(drift, self.threshold),
                timing,
                peers: self.peers.divergence(values, time.0, time.0),
                nearest,
                distance,
                margin,
            },
        })
    }
}

/// The means of the newest levels, each unit for itself.
struct Causal {
    window: usize,
    levels: VecDeque<Vec<f64>>,
}

impl Causal {
    fn next_means(&mut self, levels: Vec<f64>) -> Vec<f64> {
        let units = levels.len();
        self.levels.push_back(levels);
        if self.levels.len() > self.window {
            self.levels.pop_front();
        }
        let count = self.levels.len() as f64;
        (0..units).map(|unit| self.levels.iter().map(|l| l[unit]).sum::<f64>() / count).collect()
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
