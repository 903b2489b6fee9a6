//! Compaction in the store: an outline takes the place of an entity's oldest segments.
//!
//! It is done right behind a checkpoint and durable when it returns, so no replay ever meets a past that it
//! has changed. Interrupted before that it has done nothing, and can be done again; one step takes a limited
//! number of segments, and the next goes on behind it. The newest segments of an entity stay, as many as its
//! regimes are compared with: what will be sealed must not depend on what was compacted.

use dunlin_wire::{
    Cid,
    block::{Block, Codec},
};

use crate::{
    collection::{CollectionName, Fidelity},
    compact::{Budget, CELLS_MAX, Compaction, OUTLINE_BYTES_MAX, Outline, compact},
    engine::Engine,
    error::{CompactionError, ReadError, StoreError},
    observation::{EntityId, Timestamp},
    question::Detail,
    segment::{Segment, to_f32},
    store::{NewOutline, Stored},
};

/// Fewest segments that are worth an outline of their own.
const SEGMENTS_MIN: usize = 64;

/// Most segments of one step: writers wait while they are taken out.
const SEGMENTS_MAX: usize = 4_096;

/// What to compact, and how far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CompactionPolicy {
    /// Only segments that ended before.
    pub before: Timestamp,
    /// Root mean square error that compaction may reach, in the collection's units: above 0, up to 1.
    pub nrmse: f64,
    /// Changes at least this far stay as flags where their regimes are merged, in the same units.
    pub flag_drift_min: f64,
}

/// What one step of compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compacted {
    /// Segments that the outline stands for.
    pub segments: u64,
    /// Pieces of the outline.
    pub pieces: u64,
    /// Its flags.
    pub flags: u64,
    /// Bytes of the segments.
    pub bytes_before: u64,
    /// Bytes of the outline.
    pub bytes_after: u64,
}

impl Engine {
    /// Puts an outline in place of the oldest segments of an entity, up to the first that may not go, and
    /// says what it did; `None` when there was not enough to do. Call it again for the rest.
    ///
    /// # Durability
    ///
    /// When this returns, what it did survives a power loss; before, nothing changed.
    ///
    /// # Errors
    ///
    /// Fails when there is no such collection or entity, the collection keeps more than summaries, a setting
    /// makes no sense, or nothing can be written.
    pub fn compact_course(
        &self,
        collection: &CollectionName,
        entity: &EntityId,
        policy: &CompactionPolicy,
        may_go: &dyn Fn(&Cid) -> bool,
    ) -> Result<Option<Compacted>, CompactionError> {
        let question = self.question(collection, Some(entity), Detail::Means)?;
        if question.spec.fidelity != Fidelity::Summary {
            return Err(CompactionError::NotSummary { name: collection.clone() });
        }
        let (number, reader) = (question.number, &question.reader);
        let kept = question.spec.policy.novelty_regimes_max as usize;
        let count = reader.count_of_entity(number, entity).map_err(ReadError::from)?;
        let most = SEGMENTS_MAX.min(CELLS_MAX / question.spec.dim.get());
        let mut chosen: Vec<Stored> = Vec::new();
        let all = reader.of_entity(number, entity, i64::MIN, i64::MAX).map_err(ReadError::from)?;
        for stored in all.take(count.saturating_sub(kept).min(most)) {
            let stored = stored.map_err(ReadError::from)?;
            if stored.segment.end() >= policy.before || !may_go(&stored.cid) {
                break;
            }
            chosen.push(stored);
        }
        let inverse_unit = question.entities[0].inverse_unit.iter();
        let widths: Vec<f32> = inverse_unit
            .map(|inverse| to_f32(1.0 / inverse).clamp(f32::MIN_POSITIVE, f32::MAX))
            .collect();
        while chosen.len() >= SEGMENTS_MIN {
            if let Some(compacted) = self.compact_chosen(number, &chosen, &widths, policy)? {
                return Ok(Some(compacted));
            }
            // Many channels that all move may make an outline too large.
            chosen.truncate(chosen.len() / 2);
        }
        Ok(None)
    }

    /// Compacts these segments; `None` when the outline would be too large, or no gain, or one of them is gone.
    fn compact_chosen(
        &self,
        collection: u32,
        chosen: &[Stored],
        widths: &[f32],
        policy: &CompactionPolicy,
    ) -> Result<Option<Compacted>, CompactionError> {
        let segments: Vec<Segment> = chosen.iter().map(|stored| stored.segment.clone()).collect();
        let how = Compaction {
            budget: Budget::Nrmse(policy.nrmse),
            widths,
            flag_drift_min: policy.flag_drift_min,
        };
        let outline = compact(&segments, &how)?;
        let block = Block::new(Codec::DagCbor, outline.encode());
        let sizes = segments.iter().map(|segment| segment.to_block().bytes().len());
        let (bytes_before, bytes_after) = (sizes.sum::<usize>(), block.bytes().len());
        let (Some(first), Some(last)) = (outline.pieces().first(), outline.pieces().last()) else {
            return Ok(None);
        };
        if bytes_after > OUTLINE_BYTES_MAX || bytes_after >= bytes_before {
            return Ok(None);
        }
        let new = NewOutline {
            entity: outline.entity(),
            start: first.start.0,
            end: last.end.0,
            block: &block,
        };
        // What takes the place of a past must be readable.
        if Outline::decode(block.bytes()).ok().as_ref() != Some(&outline) {
            return Ok(None);
        }
        let start = |stored: &Stored| (stored.number, stored.segment.start().0);
        let replaced: Vec<(u64, i64)> = chosen.iter().map(start).collect();
        let is_done = self.replace(collection, &replaced, &new)?;
        Ok(is_done.then(|| Compacted {
            segments: replaced.len() as u64,
            pieces: outline.pieces().len() as u64,
            flags: outline.flags().len() as u64,
            bytes_before: bytes_before as u64,
            bytes_after: bytes_after as u64,
        }))
    }
}

impl From<StoreError> for CompactionError {
    fn from(cause: StoreError) -> Self {
        Self::Read(cause.into())
    }
}
