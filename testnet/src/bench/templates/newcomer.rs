//! The node that has just started: a short history, a gate, and scores.

use anyhow::ensure;
use dunlin_engine::{
    CollectionName, CollectionSpec, Config, Dim, Engine, EntityId, Fidelity, Observation,
    Reference, ScoreUnits, ScoresQuery, SegmentQuery, TimeRange, Timestamp, Units,
    storage::Simulated,
};
use dunlin_privacy::{
    Bounds,
    adoption::{self, History},
    doubt,
};
use dunlin_protocols::PeerId;
use dunlin_trust::{Config as TrustConfig, Evidence, Trust, UnixMillis};

use super::super::{BATCH, anomalies::WINDOW, baselines::range_of};
use crate::{average_precision::average_precision, vts1::Series};

/// One entity that knows the last hours of its train half, in an engine in memory.
pub(super) struct Newcomer<'a> {
    series: &'a Series,
    engine: Engine,
    name: CollectionName,
    entity: EntityId,
    bounds: Bounds,
    /// Centroids of the older half of what it knows, and the newer half.
    regimes: Vec<f32>,
    second_half: Vec<f32>,
    known_us: u64,
    /// How many rows of its test half are scored.
    scored: usize,
}

/// From how much own history on templates count no more: a node's default.
const FADE_US: u64 = 3 * DAY_US;

/// From how much own history on a node tells who whitelists: a day shows every hour once.
const JUDGES_AFTER_US: u64 = DAY_US;

const DAY_US: u64 = 86_400_000_000;

/// Sets that a newcomer hears, one for each source; empty ones were never released.
pub(super) type Heard = Vec<Vec<f32>>;

/// What a question of the newcomer is about.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) heard: Heard,
    /// Whether its gate is asked. A control goes without: it shows what shuffled templates would do.
    pub(super) is_gated: bool,
}

impl<'a> Newcomer<'a> {
    /// Starts it with `history_h` hours of its train half, and lets its test half happen.
    pub(super) fn start(series: &'a Series, history_h: u64) -> anyhow::Result<Self> {
        let rows = usize::try_from(history_h * 3600 / series.step_s)?.clamp(2, series.rows_train);
        let known = series.rows_train - rows..series.rows_train;
        let (lower, upper): (Vec<f32>, Vec<f32>) =
            (0..series.dims).map(|channel| range_of(series, channel)).unzip();
        let name = CollectionName::new("bench")?;
        let units = Units::Range { lower: lower.clone(), upper: upper.clone() };
        let spec = CollectionSpec::new(name.clone(), Dim::new(series.dims.try_into()?)?, units);
        let engine =
            Engine::open_storage(std::sync::Arc::new(Simulated::new()), Config::default())?;
        engine.create_collection(CollectionSpec { fidelity: Fidelity::Lossless, ..spec })?;
        let mut newcomer = Self {
            series,
            engine,
            name,
            entity: EntityId::new(series.entity.clone())?,
            bounds: Bounds::new(lower, upper)?,
            regimes: Vec::new(),
            second_half: Vec::new(),
            known_us: rows as u64 * series.step_s * 1_000_000,
            scored: cold_start(series.labels(), series.step_s),
        };
        newcomer.ingest(known.clone())?;
        newcomer.halve(known)?;
        newcomer.ingest(series.rows_train..series.rows_train + newcomer.scored)?;
        Ok(newcomer)
    }

    /// Returns how long it is scored, in hours.
    pub(super) fn scored_h(&self) -> f64 {
        self.scored as f64 * self.series.step_s as f64 / 3600.0
    }

    /// Returns which sets the gate lets in.
    pub(super) fn adopted(&self, heard: &Heard) -> Vec<bool> {
        let history = History { regimes: &self.regimes, second_half: &self.second_half };
        let gate = adoption::Config::default();
        let is_adopted =
            |set: &Vec<f32>| adoption::judge(history, set, &self.bounds, &gate).is_adopted();
        heard.iter().map(is_adopted).collect()
    }

    /// Returns the average precision of each case; `None` without incidents.
    pub(super) fn average_precisions(&self, cases: &[Case]) -> anyhow::Result<Option<Vec<f64>>> {
        let sets: Vec<Vec<Reference>> = cases.iter().map(|case| self.references(case)).collect();
        let levels = self.levels(&sets, Some(FADE_US))?;
        let labels = &self.series.labels()[..self.scored];
        Ok(levels.iter().map(|levels| average_precision(levels, labels)).collect())
    }

    /// Returns the mean score for trust, after one look at the sets, of the sources that lie and of the others.
    pub(super) fn standings(&self, heard: &Heard, lies: &[bool]) -> anyhow::Result<[f64; 2]> {
        let sets: Vec<&[f32]> = heard.iter().map(Vec::as_slice).collect();
        let mut doubts = doubt::straying(&sets, &self.regimes, &self.bounds);
        if self.known_us >= JUDGES_AFTER_US {
            let of = |set: &Vec<f32>| {
                self.references(&Case { heard: vec![set.clone()], is_gated: false })
            };
            let sets: Vec<_> = heard.iter().map(of).collect();
            // What counts no more for scores still tells who says what.
            let whitelisting = doubt::whitelisting(&self.levels(&sets, None)?);
            doubts.iter_mut().zip(whitelisting).for_each(|(doubt, other)| *doubt = doubt.or(other));
        }
        let mut sums = [(0.0, 0.0); 2];
        for ((doubt, set), lies) in doubts.iter().zip(heard).zip(lies) {
            let evidence = match doubt {
                // No release has the same template twice, so such a set is refused as malformed.
                _ if has_duplicates(set, self.series.dims) => Some(Evidence::ProtocolViolation),
                Some(_) => Some(Evidence::DoubtfulTemplates),
                None => None,
            };
            let (sum, count) = &mut sums[usize::from(!lies)];
            *sum += score_after(evidence);
            *count += 1.0;
        }
        Ok(sums.map(|(sum, count)| sum / f64::max(count, 1.0)))
    }

    fn references(&self, case: &Case) -> Vec<Reference> {
        let adopted =
            if case.is_gated { self.adopted(&case.heard) } else { vec![true; case.heard.len()] };
        let dims = self.series.dims;
        let of_source = |(source, (set, is_adopted)): (usize, (&'_ Vec<f32>, bool))| {
            let centroids: Vec<Vec<f32>> = set.chunks_exact(dims).map(<[f32]>::to_vec).collect();
            centroids.into_iter().map(move |centroid| Reference {
                id: "peer".to_owned(),
                source: source.to_string(),
                is_witness: !is_adopted,
                centroid,
            })
        };
        case.heard.iter().zip(adopted).enumerate().flat_map(of_source).collect()
    }

    /// Returns the levels of the test half with each set of references.
    fn levels(
        &self,
        sets: &[Vec<Reference>],
        fade_us: Option<u64>,
    ) -> anyhow::Result<Vec<Vec<f64>>> {
        let series = self.series;
        let time = |row| Timestamp(series.timestamp_us(row));
        let query = ScoresQuery {
            collection: self.name.clone(),
            entity: self.entity.clone(),
            range: TimeRange::between(
                time(series.rows_train),
                time(series.rows_train + self.scored - 1),
            ),
            known_until: Some(time(series.rows_train - 1)),
            references: Vec::new(),
            window: WINDOW,
            // A few hours of one's own past are too little to learn units from.
            units: ScoreUnits::Range,
            known_after_us: 0,
            fade_us,
        };
        let levels = self.engine.levels(&query, sets)?;
        let are_whole = levels.iter().all(|levels| levels.len() == self.scored);
        ensure!(are_whole, "observations without a score");
        Ok(levels)
    }

    fn ingest(&self, rows: std::ops::Range<usize>) -> anyhow::Result<()> {
        let observation = |row: usize| Observation {
            entity: self.entity.clone(),
            timestamp: Timestamp(self.series.timestamp_us(row)),
            vector: self.series.row(row).to_vec(),
            metadata: None,
        };
        for start in rows.clone().step_by(BATCH) {
            let batch = start..(start + BATCH).min(rows.end);
            self.engine.ingest(&self.name, batch.map(observation).collect())?;
        }
        Ok(())
    }

    /// Splits what it knows as a node does: the regimes that ended in the older half, the rest of that half
    /// as one more, and the newer half as it was.
    fn halve(&mut self, known: std::ops::Range<usize>) -> anyhow::Result<()> {
        let middle = known.start + known.len() / 2;
        let query = SegmentQuery {
            collection: self.name.clone(),
            entity: Some(self.entity.clone()),
            range: TimeRange { from: None, to: None },
            after: 0,
            limit: usize::MAX,
        };
        let mut covered = known.start;
        for stored in self.engine.segments(&query)?.segments {
            let end = (stored.segment.end().0 / 1_000_000) as u64 / self.series.step_s;
            let end = usize::try_from(end)? + 1;
            if end <= middle {
                self.regimes.extend_from_slice(stored.segment.mean());
                covered = covered.max(end);
            }
        }
        let rest = middle - covered;
        if rest > 0 {
            let mut sums = vec![0.0_f64; self.series.dims];
            for row in covered..middle {
                let row = self.series.row(row);
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
            }
            self.regimes.extend(sums.iter().map(|sum| (sum / rest as f64) as f32));
        }
        self.second_half =
            (middle..known.end).flat_map(|row| self.series.row(row)).copied().collect();
        Ok(())
    }
}

/// Returns how many rows of a test half are a newcomer's cold start: those of the time in which templates count, or,
/// where no incident falls into it, all until the first one has ended.
fn cold_start(labels: &[bool], step_s: u64) -> usize {
    let fading = usize::try_from(FADE_US / 1_000_000 / step_s).unwrap_or(usize::MAX);
    let first = labels.iter().position(|is_incident| *is_incident).unwrap_or(0);
    let ended = first + labels[first..].iter().take_while(|is_incident| **is_incident).count();
    let rows = if first < fading { fading } else { ended };
    rows.min(labels.len())
}

fn has_duplicates(set: &[f32], dims: usize) -> bool {
    let rows: Vec<&[f32]> = set.chunks_exact(dims).collect();
    rows.iter().enumerate().any(|(at, row)| rows[..at].contains(row))
}

/// Returns the score of a peer of which nothing is known but this.
fn score_after(evidence: Option<Evidence>) -> f64 {
    let mut trust = Trust::new(TrustConfig::default(), Vec::new());
    let (peer, now) = (PeerId::random(), UnixMillis(0));
    if let Some(evidence) = evidence {
        trust.observe(now, peer, evidence);
    }
    trust.score(now, &peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One row an hour: 72 are the fading time.
    fn rows(incident: std::ops::Range<usize>, all: usize) -> usize {
        let labels: Vec<bool> = (0..all).map(|row| incident.contains(&row)).collect();
        cold_start(&labels, 3600)
    }

    #[test]
    fn a_cold_start_lasts_as_long_as_templates_count_or_until_the_first_incident_has_ended() {
        assert_eq!(rows(10..20, 360), 72);
        // An incident that goes on is cut, like everything after it.
        assert_eq!(rows(70..90, 360), 72);
        assert_eq!(rows(100..110, 360), 110);
        assert_eq!([rows(0..0, 360), rows(10..20, 30), rows(25..30, 30)], [72, 30, 30]);
    }
}
