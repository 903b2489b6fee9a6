//! What the engine stores of one entity, and what comes back out of it.

use anyhow::Context as _;
use dunlin_engine::{
    CollectionName, CollectionSpec, CompactionBudget, CompactionPolicy, Dim, Engine, EntityId,
    ErrorBound, Fidelity, HistoryQuery, Rows, SEGMENT_OBSERVATIONS_MAX, Segment, SegmentPolicy,
    TimeRange, Timestamp, Units,
};

use super::summary::FLAG_DRIFT_MIN;
use crate::vts1::Series;

/// An engine in memory that holds the sealed segments of one entity.
pub(super) struct Stored {
    engine: Engine,
    spec: CollectionSpec,
    entity: EntityId,
    /// Oldest first; without those that were compacted.
    pub(super) segments: Vec<Segment>,
    /// What compacted segments became.
    pub(super) outlines: usize,
    /// Bytes of all blocks: segments, outlines and payload.
    pub(super) bytes: usize,
}

/// Regimes that stay as they were sealed. A node leaves 512 by default, which are a small part of a long
/// life and most of the short ones that are measured here.
const REGIMES_LEFT: u32 = 16;

/// The error that pieces of outlines may have, in shares of the range: a node's default.
const OUTLINE_NRMSE: f64 = 0.05;

/// When segments end.
#[derive(Clone, Copy)]
pub(super) enum Sealing {
    /// Where the entity's behaviour changes by this drift, in shares of the range.
    Regimes(f64),
    /// Likewise, and then all but the newest [`REGIMES_LEFT`] are compacted.
    Compacted(f64),
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
        let (mut segments, mut outlines, mut bytes) = (Vec::new(), 0, 0);
        let how = CompactionPolicy {
            before: Timestamp(i64::MAX),
            budget: CompactionBudget::Nrmse(OUTLINE_NRMSE),
            flag_drift_min: FLAG_DRIFT_MIN,
            segments_min: CompactionPolicy::SEGMENTS_MIN,
        };
        while matches!(sealing, Sealing::Compacted(_))
            && let Some(done) = engine.compact_course(&spec.name, &entity, &how, &|_| true)?
        {
            outlines += 1;
            bytes += usize::try_from(done.bytes_after)?;
        }
        for stored in engine.sealed_after(0, usize::MAX)? {
            let blocks = engine.segment_blocks(&stored.cid)?.context("a segment without blocks")?;
            let payload: usize = blocks.payload.iter().map(|block| block.bytes().len()).sum();
            bytes += blocks.summary.bytes().len() + payload;
            segments.push(stored.segment);
        }
        Ok(Self { engine, spec, entity, segments, outlines, bytes })
    }

    /// Returns how many segments and outlines there are.
    pub(super) const fn count(&self) -> usize {
        self.segments.len() + self.outlines
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
        Sealing::Compacted(threshold) => SegmentPolicy {
            novelty_regimes_max: REGIMES_LEFT,
            ..self::policy(units, Sealing::Regimes(threshold))
        },
        Sealing::Windows(observations_max) => {
            SegmentPolicy { threshold: 1e9, slow_threshold: 1e9, observations_max, ..policy }
        }
        Sealing::Full => self::policy(units, Sealing::Windows(SEGMENT_OBSERVATIONS_MAX)),
    }
}
