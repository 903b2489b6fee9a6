//! The most anomalous regimes or observations of a collection.

use std::cmp::Ordering;

use crate::{
    collection::CollectionName,
    distance::squash,
    engine::Engine,
    error::ReadError,
    known::{Behavior, Judged, Known, blend},
    observation::{EntityId, Timestamp},
    peers::Peers,
    preferred::{OWN, Preferred},
    question::{Asked, Coverage, Detail, Question, SLACK, Source, TimeRange, keep_best, limited},
    references::Reference,
    score::{Factors, ScoreUnits, ScoresQuery, check_references, scores_of},
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
    /// As in [`ScoresQuery`].
    pub fade_us: Option<u64>,
    /// Regimes or observations.
    pub level: Level,
    /// The units of distances.
    pub units: ScoreUnits,
    /// How long after its end a regime counts as known, in microseconds.
    pub known_after_us: u64,
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

/// A regime that may be among the most anomalous; what the others did is looked up for those that are.
struct Candidate {
    anomaly: Anomaly,
    mean: Vec<f32>,
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
        self.anomalies_with(query, &OWN)
    }

    /// As [`Self::anomalies`], with what other nodes sealed in the place of some own segments.
    ///
    /// # Errors
    ///
    /// As [`Self::anomalies`].
    pub fn anomalies_with(
        &self,
        query: &AnomaliesQuery,
        preferred: &Preferred<'_>,
    ) -> Result<AnomaliesAnswer, ReadError> {
        query.range.bounds()?;
        let detail = match query.level {
            Level::Regimes => Detail::Means,
            Level::Observations { .. } => Detail::Rows,
        };
        let entity = query.entity.as_ref();
        let question = self.question(&query.collection, entity, detail, preferred)?;
        check_references(&question, &query.references)?;
        match query.level {
            Level::Regimes => self.anomalous_regimes(&question, query),
            Level::Observations { window } => {
                question.need_lossless()?;
                self.anomalous_observations(&question, query, window)
            }
        }
    }

    fn anomalous_regimes(
        &self,
        question: &Question,
        query: &AnomaliesQuery,
    ) -> Result<AnomaliesAnswer, ReadError> {
        let (_, to) = query.range.bounds()?;
        let (reader, number) = (&question.reader, question.number);
        // What is new in the range is told by all that was before.
        let is_compacted = reader.has_outlines(number, query.entity.as_ref(), i64::MIN, to)?;
        let mut coverage = Coverage { is_compacted, ..question.coverage(query.range) };
        let mut candidates = Vec::new();
        let k = limited(query.k);
        let by_order = |a: &Candidate, b: &Candidate| order(&a.anomaly, &b.anomaly);
        for asked in &question.entities {
            regimes(question, asked, query, &mut candidates, &mut coverage)?;
            keep_best(&mut candidates, k, SLACK, by_order);
        }
        candidates.sort_by(by_order);
        candidates.truncate(k);
        // By entity and time, so that each entity's neighbors are read once and in order.
        candidates.sort_by(|a, b| {
            let (a, b) = (&a.anomaly, &b.anomaly);
            a.entity.cmp(&b.entity).then(a.start.cmp(&b.start))
        });
        for of_entity in candidates.chunk_by_mut(|a, b| a.anomaly.entity == b.anomaly.entity) {
            self.compare_with_peers(question, query, of_entity)?;
        }
        let mut anomalies: Vec<_> = candidates.into_iter().map(|c| c.anomaly).collect();
        anomalies.sort_by(order);
        Ok(AnomaliesAnswer { anomalies, coverage })
    }

    /// Fills in how far the regimes of one entity, in order, are from what the others did.
    fn compare_with_peers(
        &self,
        question: &Question,
        query: &AnomaliesQuery,
        candidates: &mut [Candidate],
    ) -> Result<(), ReadError> {
        let Some(first) = candidates.first().map(|c| c.anomaly.clone()) else { return Ok(()) };
        let to = candidates.iter().map(|c| c.anomaly.end.0).max().unwrap_or(first.end.0);
        let place = question.entities.binary_search_by(|asked| asked.id.cmp(&first.entity));
        let asked = &question.entities[place.expect("what was scored was asked about, in order")];
        let others = self.neighbors(&query.collection, &asked.id)?;
        let mut peers = Peers::new(question, asked, &others, first.start.0, to)?;
        for Candidate { anomaly, mean } in candidates {
            anomaly.factors.peers = peers.divergence(mean, anomaly.start.0, anomaly.end.0);
        }
        Ok(())
    }

    fn anomalous_observations(
        &self,
        question: &Question,
        query: &AnomaliesQuery,
        window: usize,
    ) -> Result<AnomaliesAnswer, ReadError> {
        let mut coverage = question.coverage(query.range);
        let mut anomalies = Vec::new();
        let k = limited(query.k);
        for asked in &question.entities {
            let of_entity = ScoresQuery {
                collection: query.collection.clone(),
                entity: asked.id.clone(),
                range: query.range,
                known_until: None,
                references: query.references.clone(),
                fade_us: query.fade_us,
                window,
                units: query.units,
                known_after_us: query.known_after_us,
            };
            let others = self.neighbors(&query.collection, &asked.id)?;
            let answer = scores_of(question, asked, &others, &of_entity)?;
            coverage.segments_scanned += answer.coverage.segments_scanned;
            coverage.hot_regimes += answer.coverage.hot_regimes;
            coverage.unread += answer.coverage.unread;
            coverage.complete &= answer.coverage.complete;
            anomalies.extend(answer.scores.into_iter().map(|score| Anomaly {
                entity: asked.id.clone(),
                start: score.timestamp,
                end: score.timestamp,
                score: score.score,
                factors: score.factors,
                source: None,
            }));
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
    candidates: &mut Vec<Candidate>,
    coverage: &mut Coverage,
) -> Result<(), ReadError> {
    let (from, to) = query.range.bounds()?;
    let sets = [query.references.clone()];
    let (fade, units, after) = (query.fade_us, query.units, query.known_after_us);
    let mut known = Known::new(question, &asked.inverse_unit, &sets, fade, units, after);
    let threshold = question.spec.policy.threshold;
    let mut judge = |known: &mut Known<'_>, regime: &Behavior, drift: f64, source| {
        let Judged { levels, nearest, distance, margin, timing } =
            known.judge(&regime.mean, regime.start, regime.end);
        let novelty = squash(blend(&levels), 1.0);
        let drift = squash(drift, threshold);
        let factors = Factors { novelty, drift, timing, peers: None, nearest, distance, margin };
        let anomaly = Anomaly {
            entity: asked.id.clone(),
            start: Timestamp(regime.start),
            end: Timestamp(regime.end),
            score: novelty,
            factors,
            source: Some(source),
        };
        candidates.push(Candidate { anomaly, mean: regime.mean.clone() });
    };
    for stored in question.sealed(asked, (i64::MIN, to))? {
        let stored = stored?;
        coverage.segments_scanned += 1;
        let regime = Behavior::sealed(&stored);
        if regime.end >= from {
            let drift = f64::from(stored.segment.drift_max());
            judge(&mut known, &regime, drift, Source::Sealed(stored.cid));
        }
        known.await_end(regime);
    }
    if let Some(open) = asked.open_between(from, to) {
        coverage.hot_regimes += 1;
        judge(&mut known, &Behavior::open(open), open.drift, Source::Open);
    }
    Ok(())
}

fn order(a: &Anomaly, b: &Anomaly) -> Ordering {
    let by_score = b.score.total_cmp(&a.score);
    by_score.then_with(|| a.entity.cmp(&b.entity)).then_with(|| a.start.cmp(&b.start))
}
