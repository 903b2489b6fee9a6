//! What the engine stores of one entity, and what comes back out of it.

use anyhow::Context as _;
use dunlin_engine::{
    CollectionName, CollectionSpec, Dim, Engine, EntityId, ErrorBound, Fidelity, HistoryQuery,
    Rows, SEGMENT_OBSERVATIONS_MAX, Segment, SegmentPolicy, TimeRange, Units,
};

use crate::vts1::Series;

/// An engine in memory that holds the sealed segments of one entity.
pub(super) struct Stored {
    engine: Engine,
    spec: CollectionSpec,
    entity: EntityId,
    /// Oldest first.
    pub(super) segments: Vec<Segment>,
    /// Bytes of all blocks: segments and payload.
    pub(super) bytes: usize,
}

/// When segments end.
#[derive(Clone, Copy)]
pub(super) enum Sealing {
    /// Where the entity's behaviour changes by this drift, in shares of the range.
    Regimes(f64),
    /// After so many observations.
    Windows(u32),
    /// Where a segment is full: what someone chooses who wants the observations, not the regimes.
    Full,
}

impl Stored {
    /// Seals all of a series into segments.
    pub(super) fn seal(
        series: &Series,
        ranges: &[(f32, f32)],
        fidelity: Fidelity,
        error_bound: Option<ErrorBound>,
        sealing: Sealing,
    ) -> anyhow::Result<Self> {
        let dim = Dim::new(series.dims.try_into()?)?;
        let (lower, upper) = ranges.iter().copied().unzip();
        let units = Units::Range { lower, upper };
        let policy = policy(&units, sealing);
        let spec = CollectionSpec::new(CollectionName::new("bench")?, dim, units);
        let spec = CollectionSpec { fidelity, error_bound, policy, ..spec };
        let (engine, entity) = super::taken_in(series, spec.clone())?;
        engine.seal(&spec.name, &entity)?;
        let (mut segments, mut bytes) = (Vec::new(), 0);
        for stored in engine.sealed_after(0, usize::MAX)? {
            let blocks = engine.segment_blocks(&stored.cid)?.context("a segment without blocks")?;
            let payload: usize = blocks.payload.iter().map(|block| block.bytes().len()).sum();
            bytes += blocks.summary.bytes().len() + payload;
            segments.push(stored.segment);
        }
        Ok(Self { engine, spec, entity, segments, bytes })
    }

    /// Returns what the engine answers for the whole course of the entity.
    pub(super) fn history(&self) -> anyhow::Result<Rows> {
        let query = HistoryQuery {
            collection: self.spec.name.clone(),
            entity: self.entity.clone(),
            range: TimeRange::ALL,
            resolution_us: None,
        };
        Ok(self.engine.history(&query)?.points)
    }
}

fn policy(units: &Units, sealing: Sealing) -> SegmentPolicy {
    let policy = SegmentPolicy::for_units(units);
    match sealing {
        Sealing::Regimes(threshold) => {
            // The default policy's share of the slow threshold.
            let slow_threshold = threshold * policy.slow_threshold / policy.threshold;
            SegmentPolicy { threshold, slow_threshold, ..policy }
        }
        Sealing::Windows(observations_max) => {
            SegmentPolicy { threshold: 1e9, slow_threshold: 1e9, observations_max, ..policy }
        }
        Sealing::Full => self::policy(units, Sealing::Windows(SEGMENT_OBSERVATIONS_MAX)),
    }
}
