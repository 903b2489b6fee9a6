//! Compaction: which segments may become outlines, and how much of it is done at a time.

use std::time::{Duration, Instant};

use dunlin_archive::Pin;
use dunlin_engine::{
    CollectionName, CompactionBudget, CompactionError, CompactionPolicy, EntityId, Life, ReadError,
    Timestamp,
};
use dunlin_wire::Cid;

use super::shared::Shared;

/// Changes this far, in a collection's units, stay as flags: what twice the usual threshold seals at.
const FLAG_DRIFT_MIN: f64 = 0.16;

/// How long one call goes on before it says that there is more to do; a step that it has begun, it ends.
const TURN: Duration = Duration::from_secs(1);

/// Calls that follow each other without a pause, where nobody waits.
const TURNS: usize = 20;

/// What is to be compacted.
#[derive(Clone, Debug)]
pub(crate) struct CompactionWish {
    pub(crate) name: CollectionName,
    /// Of this entity alone.
    pub(crate) entity: Option<EntityId>,
    /// From this entity on, by name.
    pub(crate) from: Option<EntityId>,
    /// Only what ended before.
    pub(crate) before: Timestamp,
    pub(crate) budget: CompactionBudget,
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub(crate) struct CompactionDone {
    pub(crate) segments: u64,
    pub(crate) outlines: u64,
    pub(crate) bytes_before: u64,
    pub(crate) bytes_after: u64,
    /// The entity to go on from, when there may be more to do.
    pub(crate) next: Option<EntityId>,
}

impl Shared {
    /// Compacts archived segments of a collection for a while. What is not archived stays as it is.
    pub(crate) fn compact(&self, wish: &CompactionWish) -> Result<CompactionDone, CompactionError> {
        let started = Instant::now();
        let policy = CompactionPolicy {
            before: wish.before,
            budget: wish.budget,
            flag_drift_min: FLAG_DRIFT_MIN,
            segments_min: CompactionPolicy::SEGMENTS_MIN,
        };
        let pin = Pin::own(wish.name.as_str());
        // One that cannot be looked for stays.
        let is_archived = |cid: &Cid| self.archive.is_pinned(&pin, cid).unwrap_or(false);
        let entities = match &wish.entity {
            Some(entity) => vec![entity.clone()],
            None => {
                let lives = self.lives(&wish.name)?.into_iter();
                let is_next = |life: &Life| wish.from.as_ref().is_none_or(|at| life.entity >= *at);
                lives.filter(is_next).map(|life| life.entity).collect()
            }
        };
        let mut done = CompactionDone::default();
        for entity in entities {
            loop {
                if started.elapsed() >= TURN {
                    done.next = Some(entity);
                    return Ok(done);
                }
                let step = self.engine.compact_course(&wish.name, &entity, &policy, &is_archived);
                let step = match step {
                    // Somebody removed it meanwhile.
                    Err(CompactionError::Read(ReadError::UnknownEntity { .. }))
                        if wish.entity.is_none() =>
                    {
                        None
                    }
                    step => step?,
                };
                let Some(step) = step else { break };
                done.segments += step.segments;
                done.outlines += 1;
                done.bytes_before += step.bytes_before;
                done.bytes_after += step.bytes_after;
            }
        }
        Ok(done)
    }

    /// Compacts what is older than the operator wants segments to be, in every collection, for a while; says whether there may be more to do.
    pub(super) fn compact_old(&self) -> anyhow::Result<bool> {
        let Some(age) = self.config.engine.compact_after else { return Ok(false) };
        for spec in self.engine.collections()? {
            let before = self.moment_before(&spec.name, age)?;
            let name = spec.name.clone();
            let budget = CompactionBudget::Nrmse(self.config.engine.compact_nrmse);
            let mut wish = CompactionWish { name, entity: None, from: None, before, budget };
            for _ in 0..TURNS {
                let done = self.compact(&wish)?;
                let (segments, outlines) = (done.segments, done.outlines);
                if segments > 0 {
                    tracing::info!(segments, outlines, "compacted");
                }
                wish.from = done.next;
                if wish.from.is_none() {
                    break;
                }
            }
            if wish.from.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
