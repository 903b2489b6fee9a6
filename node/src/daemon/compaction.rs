//! Compaction of summaries: which segments may become outlines, and how much of it is done at a time.

use std::time::{Duration, Instant};

use dunlin_engine::{
    CollectionName, CompactionError, CompactionPolicy, EntityId, Fidelity, Timestamp,
};

use super::shared::Shared;

/// Changes this far, in a collection's units, stay as flags: what twice the usual threshold seals at.
const FLAG_DRIFT_MIN: f64 = 0.16;

/// How long one call goes on before it says that there is more to do.
const TURN: Duration = Duration::from_secs(1);

/// What is to be compacted.
#[derive(Clone, Debug)]
pub(crate) struct CompactionWish {
    pub(crate) name: CollectionName,
    /// Of this entity alone.
    pub(crate) entity: Option<EntityId>,
    /// Only what ended before.
    pub(crate) before: Timestamp,
    pub(crate) nrmse: f64,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CompactionDone {
    pub(crate) segments: u64,
    pub(crate) outlines: u64,
    pub(crate) bytes_before: u64,
    pub(crate) bytes_after: u64,
}

impl Shared {
    /// Compacts archived segments of a collection for a while; returns what was done, and whether there may
    /// be more to do. What is not archived yet stays as it is.
    pub(crate) fn compact(
        &self,
        wish: &CompactionWish,
    ) -> Result<(CompactionDone, bool), CompactionFailure> {
        let started = Instant::now();
        let policy = CompactionPolicy {
            before: wish.before,
            number_max: self.archive.position()?.unwrap_or(0),
            nrmse: wish.nrmse,
            flag_drift_min: FLAG_DRIFT_MIN,
        };
        let entities = match &wish.entity {
            Some(entity) => vec![entity.clone()],
            None => {
                let views = self.engine.entities(&wish.name, None, usize::MAX);
                views.map_err(CompactionError::from)?.into_iter().map(|view| view.entity).collect()
            }
        };
        let mut done = CompactionDone::default();
        for entity in entities {
            while let Some(step) = self.engine.compact_course(&wish.name, &entity, &policy)? {
                done.segments += step.segments;
                done.outlines += 1;
                done.bytes_before += step.bytes_before;
                done.bytes_after += step.bytes_after;
                if started.elapsed() >= TURN {
                    return Ok((done, true));
                }
            }
        }
        Ok((done, false))
    }

    /// Compacts what is older than the operator wants segments to be, for a while, in every collection of
    /// summaries; says whether there may be more to do.
    pub(super) fn compact_old(&self, now: Timestamp) -> Result<bool, CompactionFailure> {
        let Some(age) = self.config.engine.compact_after else { return Ok(false) };
        let age_us = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        let before = Timestamp(now.0.saturating_sub(age_us));
        for spec in self.engine.collections().map_err(CompactionError::from)? {
            if spec.fidelity != Fidelity::Summary {
                continue;
            }
            let nrmse = self.config.engine.compact_nrmse;
            let wish = CompactionWish { name: spec.name.clone(), entity: None, before, nrmse };
            let (done, more) = self.compact(&wish)?;
            if done.segments > 0 {
                let (segments, outlines) = (done.segments, done.outlines);
                tracing::info!(segments, outlines, "compacted");
            }
            if more {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Why nothing more was compacted. What was done so far stays done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompactionFailure {
    #[error(transparent)]
    Engine(#[from] CompactionError),
    #[error(transparent)]
    Archive(#[from] dunlin_archive::ReadError),
}
