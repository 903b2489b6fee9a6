//! Compaction in the store: an outline takes the place of an entity's oldest segments.
//!
//! Where observations are kept, those of all its segments come under one model, which is what makes them
//! small: segments by themselves each begin to learn anew. Bit for bit stays bit for bit, and a value that
//! was moved within its error once stays where it is.
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
    codec::Tolerance,
    collection::{CollectionName, Fidelity},
    compact::{Budget, CELLS_MAX, CompactError, Compaction, OUTLINE_BYTES_MAX, Outline, compact},
    engine::Engine,
    error::{CompactionError, ReadError, StoreError},
    observation::{EntityId, Timestamp},
    payload,
    preferred::OWN,
    question::{Detail, Question},
    rows::Rows,
    segment::{Segment, to_f32},
    store::{NewOutline, Stored},
};

/// Most segments of one step: writers wait while they are taken out.
const SEGMENTS_MAX: usize = 4_096;

/// Observations with which an outline is full, in bytes of times and values. Whoever reads one of them
/// decodes all, a fraction of a second; the coder learns little from more.
const CONTENT_BYTES: usize = 2 * 1024 * 1024;

/// What to compact, and how far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CompactionPolicy {
    /// Only segments that ended before.
    pub before: Timestamp,
    /// How far it goes.
    pub budget: CompactionBudget,
    /// Changes at least this far stay as flags where their regimes are merged, in the same units.
    pub flag_drift_min: f64,
    /// Fewest segments that are worth an outline of their own, at least 1; so many may be left. Lower values
    /// make more and smaller outlines.
    pub segments_min: usize,
}

/// How far the compaction of a past goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CompactionBudget {
    /// Up to this root mean square error, in the collection's units: above 0, up to 1.
    Nrmse(f64),
    /// Until outlines take this part of the bytes of their segments: above 0, up to 1. The error is the least that this
    /// allows. Where even a single piece takes more, that is what is left. Observations that are kept do not count.
    Share(f64),
}

impl CompactionBudget {
    /// Returns the budget for segments of so many bytes.
    fn of(self, bytes: usize) -> Result<Budget, CompactError> {
        match self {
            Self::Nrmse(nrmse) => Ok(Budget::Nrmse(nrmse)),
            Self::Share(share) if share > 0.0 && share <= 1.0 => {
                Ok(Budget::Bytes((bytes as f64 * share).ceil() as usize))
            }
            Self::Share(_) => Err(CompactError::Setting { what: "share" }),
        }
    }
}

impl CompactionPolicy {
    /// A sensible fewest number of segments for an outline.
    pub const SEGMENTS_MIN: usize = 64;
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
    /// Bytes of the segments and their payload.
    pub bytes_before: u64,
    /// Bytes of the outline and its payload.
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
    /// Fails when there is no such collection or entity, a setting makes no sense, or nothing can be written.
    pub fn compact_course(
        &self,
        collection: &CollectionName,
        entity: &EntityId,
        policy: &CompactionPolicy,
        may_go: &dyn Fn(&Cid) -> bool,
    ) -> Result<Option<Compacted>, CompactionError> {
        let question = self.question(collection, Some(entity), Detail::Means, &OWN)?;
        let (mut chosen, is_full) = question.oldest(entity, policy.before, may_go)?;
        let inverse_unit = question.entities[0].inverse_unit.iter();
        let widths: Vec<f32> = inverse_unit
            .map(|inverse| to_f32(1.0 / inverse).clamp(f32::MIN_POSITIVE, f32::MAX))
            .collect();
        let segments_min = policy.segments_min.max(1);
        let mut is_enough = is_full || chosen.len() >= segments_min;
        while is_enough {
            if let Some(compacted) = self.compact_chosen(&question, &chosen, &widths, policy)? {
                return Ok(Some(compacted));
            }
            // Many channels that all move may make an outline too large.
            chosen.truncate(chosen.len() / 2);
            is_enough = chosen.len() >= segments_min;
        }
        Ok(None)
    }

    /// Compacts these segments; `None` when the outline would be too large, or no gain, or one of them is gone.
    fn compact_chosen(
        &self,
        question: &Question,
        chosen: &[Stored],
        widths: &[f32],
        policy: &CompactionPolicy,
    ) -> Result<Option<Compacted>, CompactionError> {
        let kept = match question.spec.fidelity {
            Fidelity::Summary => None,
            Fidelity::Bounded | Fidelity::Lossless => Some(question.rows_together(chosen)?),
        };
        let chosen = &chosen[..kept.as_ref().map_or(chosen.len(), |kept| kept.segments)];
        let segments: Vec<Segment> = chosen.iter().map(|stored| stored.segment.clone()).collect();
        let sizes = segments.iter().map(|segment| segment.to_block().bytes().len());
        let mut bytes_before = sizes.sum::<usize>();
        let budget = policy.budget.of(bytes_before)?;
        let how = Compaction { budget, widths, flag_drift_min: policy.flag_drift_min };
        let mut outline = compact(&segments, &how)?;
        let mut payload = Vec::new();
        if let Some(Kept { rows, bytes, .. }) = &kept {
            bytes_before += bytes;
            payload = question.packed_again(rows);
            outline.fidelity = question.spec.fidelity;
            outline.payload = payload.iter().map(|block| *block.cid()).collect();
            // What takes the place of a past must be readable.
            let back = payload::decode_outlined(&outline, &payload).map_err(StoreError::from)?;
            if !question.is_as_good(rows, &back) {
                return Ok(None);
            }
        }
        let block = Block::new(Codec::DagCbor, outline.encode());
        let blocks = std::iter::once(&block).chain(&payload);
        let bytes_after = blocks.map(|block| block.bytes().len()).sum::<usize>();
        if block.bytes().len() > OUTLINE_BYTES_MAX || bytes_after >= bytes_before {
            return Ok(None);
        }
        if Outline::decode(block.bytes()).ok().as_ref() != Some(&outline) {
            return Ok(None);
        }
        let start = |stored: &Stored| (stored.number, stored.segment.start().0);
        let replaced: Vec<(u64, i64)> = chosen.iter().map(start).collect();
        let new = NewOutline { outline: &outline, block: &block, payload: &payload };
        let is_done = self.replace(question.number, &replaced, &new)?;
        Ok(is_done.then(|| Compacted {
            segments: replaced.len() as u64,
            pieces: outline.pieces().len() as u64,
            flags: outline.flags().len() as u64,
            bytes_before: bytes_before as u64,
            bytes_after: bytes_after as u64,
        }))
    }
}

/// Observations of segments that follow each other.
struct Kept {
    rows: Rows,
    /// Of how many segments they are.
    segments: usize,
    /// Bytes of the blocks that they are in.
    bytes: usize,
}

impl Question<'_> {
    /// Returns the oldest segments of an entity that may go, and whether they are as many as one outline
    /// holds.
    fn oldest(
        &self,
        entity: &EntityId,
        before: Timestamp,
        may_go: &dyn Fn(&Cid) -> bool,
    ) -> Result<(Vec<Stored>, bool), ReadError> {
        let kept = self.spec.policy.novelty_regimes_max as usize;
        let count = self.reader.count_of_entity(self.number, entity)?;
        let most = SEGMENTS_MAX.min(CELLS_MAX / self.spec.dim.get());
        let mut chosen: Vec<Stored> = Vec::new();
        let mut content = 0;
        let all = self.reader.of_entity(self.number, entity, i64::MIN, i64::MAX)?;
        for stored in all.take(count.saturating_sub(kept).min(most)) {
            let stored = stored?;
            if stored.segment.end() >= before || !may_go(&stored.cid) {
                break;
            }
            if self.spec.fidelity.keeps_observations() {
                let row_bytes = size_of::<i64>() + self.spec.row_bytes();
                content += stored.segment.count() as usize * row_bytes;
                if content > CONTENT_BYTES && !chosen.is_empty() {
                    return Ok((chosen, true));
                }
            }
            chosen.push(stored);
        }
        Ok((chosen, content > CONTENT_BYTES))
    }

    /// Returns the observations of segments that follow each other, until they are enough for one outline.
    fn rows_together(&self, chosen: &[Stored]) -> Result<Kept, ReadError> {
        let mut kept = Kept { rows: Rows::new(self.spec.dim.get()), segments: 0, bytes: 0 };
        for stored in chosen {
            let blocks = self.reader.payload_of(stored)?;
            let more = payload::decode(&stored.segment, &blocks).map_err(StoreError::from)?;
            // What the observations carry along may be larger than they are.
            let bytes = kept.rows.byte_count() + more.byte_count();
            if bytes > CONTENT_BYTES && kept.segments > 0 {
                break;
            }
            kept.rows.append(&more);
            kept.segments += 1;
            kept.bytes += blocks.iter().map(|block| block.bytes().len()).sum::<usize>();
        }
        Ok(kept)
    }

    /// Returns observations that were kept in several segments as the blocks of one outline.
    fn packed_again(&self, rows: &Rows) -> Vec<Block> {
        let errors = self.spec.error_max();
        payload::pack(rows, errors.as_deref().map_or(Tolerance::Exact, Tolerance::Again))
    }

    /// Returns whether observations are what they were: each bit, or each value within its error.
    fn is_as_good(&self, rows: &Rows, back: &Rows) -> bool {
        let errors = self.spec.error_max().unwrap_or_else(|| vec![0.0; rows.dim()]);
        let near = |((a, b), error): ((&f32, &f32), &f32)| {
            let apart = (f64::from(*a) - f64::from(*b)).abs();
            a.to_bits() == b.to_bits() || (*error > 0.0 && apart <= f64::from(*error))
        };
        let pairs = rows.values().iter().zip(back.values());
        let carried = |rows: &Rows| rows.metadata_between(0, rows.count());
        rows.times() == back.times()
            && rows.values().len() == back.values().len()
            && pairs.zip(errors.iter().cycle()).all(near)
            && carried(rows) == carried(back)
    }
}

impl From<StoreError> for CompactionError {
    fn from(cause: StoreError) -> Self {
        Self::Read(cause.into())
    }
}
