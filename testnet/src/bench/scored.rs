//! What the engine says of one labelled entity.

use anyhow::ensure;
use dunlin_engine::{
    CollectionName, CollectionSpec, Dim, Engine, EntityId, Fidelity, Score, ScoreUnits,
    ScoresQuery, TimeRange, Timestamp, Units,
};

use super::{anomalies::WINDOW, baselines::range_of};
use crate::vts1::Series;

/// An engine in memory that has seen one entity.
pub(super) struct Scored<'a> {
    engine: Engine,
    name: CollectionName,
    entity: EntityId,
    series: &'a Series,
}

impl<'a> Scored<'a> {
    /// Ingests both halves into a collection with the default policy.
    pub(super) fn ingest(series: &'a Series) -> anyhow::Result<Self> {
        let dim = Dim::new(series.dims.try_into()?)?;
        let range = (0..series.dims).map(|channel| range_of(series, channel));
        let (lower, upper) = range.unzip();
        let name = CollectionName::new("bench")?;
        let spec = CollectionSpec::new(name.clone(), dim, Units::Range { lower, upper });
        let spec = CollectionSpec { fidelity: Fidelity::Lossless, ..spec };
        let (engine, entity) = super::taken_in(series, spec)?;
        Ok(Self { engine, name, entity, series })
    }

    /// Scores the test half: by the train half alone, or learning on with this delay.
    pub(super) fn scores(
        &self,
        units: ScoreUnits,
        learning_after_us: Option<u64>,
    ) -> anyhow::Result<Vec<Score>> {
        let series = self.series;
        let time = |row| Timestamp(series.timestamp_us(row));
        let query = ScoresQuery {
            collection: self.name.clone(),
            entity: self.entity.clone(),
            range: TimeRange::between(time(series.rows_train), time(series.rows() - 1)),
            known_until: learning_after_us.is_none().then(|| time(series.rows_train - 1)),
            references: Vec::new(),
            fade_us: None,
            window: WINDOW,
            units,
            known_after_us: learning_after_us.unwrap_or_default(),
        };
        let scores = self.engine.scores(&query)?.scores;
        let rows = series.rows_train..series.rows();
        let in_order = scores.iter().map(|score| score.timestamp).eq(rows.map(time));
        ensure!(in_order, "the scores are not those of the test half");
        Ok(scores)
    }
}
