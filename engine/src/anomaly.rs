//! The most anomalous regimes or observations of a collection.

use std::cmp::Ordering;

use crate::{
    collection::CollectionName,
    distance::{in_units, nearest, squash},
    engine::Engine,
    error::ReadError,
    observation::{EntityId, Timestamp},
    question::{Asked, Coverage, Detail, Question, SLACK, Source, TimeRange, keep_best, limited},
    score::{Factors, Nearest, Reference, ScoresQuery, check_references, scores_of},
};

/// What is scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Whole regimes, sealed and open.
    Regimes,
    /// Single observations of a lossless collection.
    Observations {
        /// Over how many observations a score is the mean.
        window: usize,
    },
}

/// A question for what is most anomalous.
#[derive(Clone, Debug, PartialEq)]
pub struct AnomaliesQuery {
    /// The collection.
    pub collection: CollectionName,
    /// Only this entity.
    pub entity: Option<EntityId>,
    /// Only what overlaps this range.
    pub range: TimeRange,
    /// How many to return.
    pub k: usize,
    /// Behaviors that count as known besides each entity's own past.
    pub references: Vec<Reference>,
    /// Regimes or observations.
    pub level: Level,
}

/// The most anomalous first.
#[derive(Clone, Debug, PartialEq)]
pub struct AnomaliesAnswer {
    /// By falling score; ties by entity, then start.
    pub anomalies: Vec<Anomaly>,
    /// What was looked at.
    pub coverage: Coverage,
}

/// Something anomalous.
#[derive(Clone, Debug, PartialEq)]
pub struct Anomaly {
    /// Whose it is.
    pub entity: EntityId,
    /// Time of its first observation.
    pub start: Timestamp,
    /// Time of its last observation; the same for an observation.
    pub end: Timestamp,
    /// 0 to 1.
    pub score: f64,
    /// What made the score.
    pub factors: Factors,
    /// The sealed segment or that the regime is open; `None` for observations.
    pub source: Option<Source>,
}

/// One entity's regimes before the one that is scored.
struct Past<'a> {
    rows: Vec<f64>,
    cids: Vec<dunlin_wire::Cid>,
    foreign: Vec<f64>,
    references: &'a [Reference],
    threshold: f64,
}

impl Engine {
    /// Returns the most anomalous regimes or observations.
    ///
    /// A regime is compared with the entity's own earlier regimes, as many as the policy looks back at,
    /// and with the references; one with nothing to compare with scores 0.
    ///
    /// # Errors
    ///
    /// Fails when there is no such collection or entity, the collection is not lossless but observations
    /// are asked for, or a reference or the range is not usable.
    pub fn anomalies(&self, query: &AnomaliesQuery) -> Result<AnomaliesAnswer, ReadError> {
        query.range.bounds()?;
        let detail = match query.level {
            Level::Regimes => Detail::Means,
            Level::Observations { .. } => Detail::Rows,
        };
        let question = self.question(&query.collection, query.entity.as_ref(), detail)?;
        check_references(&question, &query.references)?;
        let mut coverage = Coverage { range: query.range, complete: true, ..Coverage::default() };
        let mut anomalies = Vec::new();
        let k = limited(query.k);
        for asked in &question.entities {
            match query.level {
                Level::Regimes => regimes(&question, asked, query, &mut anomalies, &mut coverage)?,
                Level::Observations { window } => {
                    question.need_lossless()?;
                    let of_entity = ScoresQuery {
                        collection: query.collection.clone(),
                        entity: asked.id.clone(),
                        range: query.range,
                        known_until: None,
                        references: query.references.clone(),
                        window,
                    };
                    let answer = scores_of(&question, asked, &of_entity)?;
                    coverage.segments_scanned += answer.coverage.segments_scanned;
                    coverage.hot_regimes += answer.coverage.hot_regimes;
                    anomalies.extend(answer.scores.into_iter().map(|score| Anomaly {
                        entity: asked.id.clone(),
                        start: score.timestamp,
                        end: score.timestamp,
                        score: score.score,
                        factors: score.factors,
                        source: None,
                    }));
                }
            }
            keep_best(&mut anomalies, k, SLACK, order);
        }
        anomalies.sort_by(order);
        anomalies.truncate(k);
        Ok(AnomaliesAnswer { anomalies, coverage })
    }
}

/// Scores the regimes of one entity.
fn regimes(
    question: &Question,
    asked: &Asked,
    query: &AnomaliesQuery,
    anomalies: &mut Vec<Anomaly>,
    coverage: &mut Coverage,
) -> Result<(), ReadError> {
    let (from, to) = query.range.bounds()?;
    let units = &asked.inverse_unit;
    let rows_max = question.spec.policy.novelty_regimes_max as usize * units.len();
    let mut past = Past {
        rows: Vec::new(),
        cids: Vec::new(),
        foreign: query.references.iter().flat_map(|r| in_units(&r.centroid, units)).collect(),
        references: &query.references,
        threshold: question.spec.policy.threshold,
    };
    for stored in question.reader.of_entity(question.number, &asked.id, i64::MIN, to)? {
        let stored = stored?;
        let segment = &stored.segment;
        coverage.segments_scanned += 1;
        let mean = in_units(segment.mean(), units);
        if segment.end().0 >= from {
            let factors = past.factors(&mean, f64::from(segment.drift_max()), rows_max);
            anomalies.push(Anomaly {
                entity: asked.id.clone(),
                start: segment.start(),
                end: segment.end(),
                score: factors.novelty,
                factors,
                source: Some(Source::Sealed(stored.cid)),
            });
        }
        past.rows.extend(mean);
        past.cids.push(stored.cid);
    }
    if let Some(open) = asked.open_between(from, to) {
        coverage.hot_regimes += 1;
        let factors = past.factors(&in_units(&open.mean, units), open.drift, rows_max);
        anomalies.push(Anomaly {
            entity: asked.id.clone(),
            start: Timestamp(open.start),
            end: Timestamp(open.end),
            score: factors.novelty,
            factors,
            source: Some(Source::Open),
        });
    }
    Ok(())
}

impl Past<'_> {
    fn factors(&self, mean: &[f64], drift: f64, rows_max: usize) -> Factors {
        let forgotten = self.rows.len().saturating_sub(rows_max);
        let own = nearest(&self.rows[forgotten..], mean);
        let own =
            own.map(|(index, d)| (Nearest::Own(self.cids[index + forgotten / mean.len()]), d));
        let foreign = nearest(&self.foreign, mean);
        let foreign = foreign.map(|(i, d)| (Nearest::Reference(self.references[i].id.clone()), d));
        let (nearest, distance) = match (own, foreign) {
            (Some(own), Some(foreign)) if foreign.1 < own.1 => foreign,
            (Some(own), _) => own,
            (None, Some(foreign)) => foreign,
            (None, None) => (Nearest::None, 0.0),
        };
        let novelty = squash(distance, self.threshold);
        Factors { novelty, drift: squash(drift, self.threshold), nearest }
    }
}

fn order(a: &Anomaly, b: &Anomaly) -> Ordering {
    let by_score = b.score.total_cmp(&a.score);
    by_score.then_with(|| a.entity.cmp(&b.entity)).then_with(|| a.start.cmp(&b.start))
}
