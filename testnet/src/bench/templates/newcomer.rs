//! The node that has just started: a short history, a gate, and scores.

use anyhow::ensure;
use dunlin_engine::{
    CollectionName, CollectionSpec, Config, Dim, Engine, EntityId, Fidelity, Observation,
    Reference, ScoreUnits, ScoresQuery, SegmentQuery, TimeRange, Timestamp, Units,
    storage::Simulated,
};
use dunlin_privacy::{
    Bounds,
    adoption::{self, History, permuted},
};

use super::{
    super::{BATCH, anomalies::WINDOW, baselines::range_of},
    fleet::Fleet,
};
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
}

/// What templates did for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    pub(super) adopted: usize,
    pub(super) ap_with: f64,
    pub(super) ap_control: f64,
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
        };
        newcomer.ingest(known.clone())?;
        newcomer.halve(known)?;
        newcomer.ingest(series.rows_train..series.rows())?;
        Ok(newcomer)
    }

    /// Returns the average precision without anybody's templates; `None` without incidents.
    pub(super) fn ap_alone(&self) -> anyhow::Result<Option<f64>> {
        self.average_precision(Vec::new())
    }

    /// Puts what a fleet released before the gate and uses what it lets in; and, as a control, all of it
    /// with shuffled channels.
    pub(super) fn measure(&self, fleet: &Fleet, seed: u64) -> anyhow::Result<Measured> {
        let history = History { regimes: &self.regimes, second_half: &self.second_half };
        let gate = adoption::Config::default();
        let is_adopted =
            |set: &&Vec<f32>| adoption::judge(history, set, &self.bounds, &gate).is_adopted();
        let adopted: Vec<&Vec<f32>> = fleet.sets.iter().filter(is_adopted).collect();
        let count = adopted.len();
        let with = adopted.into_iter().flat_map(|set| self.references(set)).collect();
        let dims = self.series.dims;
        let shuffled = fleet.sets.iter().map(|set| permuted(set, dims, seed));
        let control = shuffled.flat_map(|set| self.references(&set)).collect();
        let ap = |references| -> anyhow::Result<f64> {
            Ok(self.average_precision(references)?.unwrap_or_default())
        };
        Ok(Measured { adopted: count, ap_with: ap(with)?, ap_control: ap(control)? })
    }

    fn references(&self, set: &[f32]) -> Vec<Reference> {
        let centroids = set.chunks_exact(self.series.dims);
        let reference =
            |centroid: &[f32]| Reference { id: "peer".to_owned(), centroid: centroid.to_vec() };
        centroids.map(reference).collect()
    }

    fn average_precision(&self, references: Vec<Reference>) -> anyhow::Result<Option<f64>> {
        let series = self.series;
        let time = |row| Timestamp(series.timestamp_us(row));
        let query = ScoresQuery {
            collection: self.name.clone(),
            entity: self.entity.clone(),
            range: TimeRange::between(time(series.rows_train), time(series.rows() - 1)),
            known_until: Some(time(series.rows_train - 1)),
            references,
            window: WINDOW,
            // A few hours of one's own past are too little to learn units from.
            units: ScoreUnits::Range,
            known_after_us: 0,
        };
        let scores = self.engine.scores(&query)?.scores;
        ensure!(scores.len() == series.labels().len(), "observations without a score");
        let levels: Vec<f64> = scores.iter().map(|score| score.level).collect();
        Ok(average_precision(&levels, series.labels()))
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
