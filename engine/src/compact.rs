//! Compaction: many regimes of one entity become one small outline of its course.
//!
//! Sealing decides online and early, so neighbors are often nearly alike. Here the pair of neighbors
//! whose merging adds the least squared error goes first (Ward 1963, for neighbors alone). What remains
//! is written with each channel holding its level over as many pieces as the error allows, because a
//! change of regime rarely moves all channels. Merged boundaries across which the entity moved far stay
//! as flags, so that events survive their regimes.
//!
//! This is a pure function of segments: it stores nothing and removes nothing.

mod hold;
mod merge;
mod stream;

use dunlin_wire::{Cid, cbor};

use self::merge::Merging;
use crate::{
    collection::{CollectionName, Fidelity, Metric},
    observation::{EntityId, Timestamp},
    segment::{DecodeError, Segment},
};

/// The version of the layout without payload.
const VERSION: u8 = 1;

/// The version of the layout with links to payload.
const VERSION_KEEPING: u8 = 2;

/// Most pieces, and most flags, of one outline.
pub const PIECES_MAX: usize = 65_536;

/// Largest encoding of an outline.
pub const OUTLINE_BYTES_MAX: usize = 1024 * 1024;

/// Most cells (pieces x channels) of one outline; they bound what a hostile one costs its reader.
pub(crate) const CELLS_MAX: usize = 1 << 21;

/// Levels of a mean are this share of the error budget apart: their rounding adds two percent to it.
const STEP_SHARE: f64 = 0.5;

/// Shares of the squared error that merging may use before holding levels uses the rest; the one with
/// the fewest bytes is taken. Smaller ones never won on server telemetry.
const MERGE_SHARES: [f64; 3] = [0.8, 0.9, 0.96];

/// Halvings of an interval in a search for the budget: one part in four thousand.
const SEARCH_STEPS: u32 = 12;

/// How far to go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// The root mean square error over all values, in widths, may reach this: above 0, up to 1.
    Nrmse(f64),
    /// The encoded outline may have this many bytes.
    Bytes(usize),
}

/// What to keep, and in which units errors count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compaction<'a> {
    /// How far to go.
    pub budget: Budget,
    /// Width of each channel, finite and above 0: what an error of 1 is.
    pub widths: &'a [f32],
    /// A merged boundary stays as a flag when the means on its sides are at least this far apart, as the
    /// root mean square over channels in widths. Lower values keep more events and cost about three
    /// bytes for each.
    pub flag_drift_min: f64,
}

/// The course of one entity in pieces; where observations are kept, with links to them.
#[derive(Clone, PartialEq)]
pub struct Outline {
    pub(crate) collection: CollectionName,
    pub(crate) metric: Metric,
    pub(crate) entity: EntityId,
    pub(crate) pieces: Vec<Piece>,
    pub(crate) flags: Vec<Flag>,
    /// For each channel, what its means are multiples of.
    pub(crate) steps: Vec<f32>,
    pub(crate) fidelity: Fidelity,
    pub(crate) payload: Vec<Cid>,
}

/// A stretch in which nothing changes, as far as the outline tells.
#[derive(Clone, PartialEq)]
pub struct Piece {
    /// Time of the first observation.
    pub start: Timestamp,
    /// Time of the last observation.
    pub end: Timestamp,
    /// How many observations there were.
    pub count: u32,
    /// Mean of each channel, within what the budget allowed.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel around its mean, to a factor of three.
    pub spread: Vec<f32>,
}

/// A boundary between regimes that were merged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flag {
    /// Time of the first observation behind the boundary.
    pub time: Timestamp,
    /// How far the entity moved across it, in widths, to one part in eight.
    pub drift: f32,
}

/// Why segments cannot be compacted. The same segments fail again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompactError {
    /// There is no segment.
    #[error("no segments to compact")]
    Empty,
    /// Segments are of different entities or collections, or not in the order of their times.
    #[error("segment {index} does not continue the one before it")]
    NotOneCourse {
        /// Index of the first segment that does not fit.
        index: usize,
    },
    /// There are more segments or values than one outline holds.
    #[error("{segments} segments; one outline holds {PIECES_MAX} and {CELLS_MAX} means")]
    TooMany {
        /// How many there are.
        segments: usize,
    },
    /// The widths do not fit the dimension, or are not above zero; or the budget is none.
    #[error("the {what} cannot be used")]
    Setting {
        /// Which setting.
        what: &'static str,
    },
}

/// Merges neighboring segments of one entity, oldest first, until the budget is used.
///
/// Flags stay whatever the budget, but where nothing else is left to give up, the weakest of them go.
/// Where no outline is within a byte budget, the one that merges everything is returned; where the
/// segments themselves are already beyond an error budget, none are merged and none held.
///
/// # Errors
///
/// Fails when the segments are not one course, or a setting makes no sense.
pub fn compact(segments: &[Segment], how: &Compaction<'_>) -> Result<Outline, CompactError> {
    check(segments, how)?;
    let merging = Merging::new(segments, how.widths);
    match how.budget {
        Budget::Nrmse(nrmse) => Ok(within(&merging, segments, how, nrmse)),
        Budget::Bytes(bytes) => {
            // The error that bytes buy is searched for by its logarithm.
            let (mut low, mut high) = (1e-4_f64, 1.0_f64);
            let mut best = within(&merging, segments, how, high);
            for _ in 0..SEARCH_STEPS {
                let middle = (low * high).sqrt();
                let outline = within(&merging, segments, how, middle);
                if outline.encode().len() <= bytes {
                    (best, high) = (outline, middle);
                } else {
                    low = middle;
                }
            }
            Ok(with_strongest_flags(best, bytes))
        }
    }
}

/// Returns the outline with as many of its flags as fit, the strongest first.
fn with_strongest_flags(outline: Outline, bytes: usize) -> Outline {
    if outline.encode().len() <= bytes {
        return outline;
    }
    let mut order: Vec<usize> = (0..outline.flags.len()).collect();
    order.sort_by(|a, b| outline.flags[*b].drift.total_cmp(&outline.flags[*a].drift));
    let with = |count: usize| {
        let mut kept = order[..count].to_vec();
        kept.sort_unstable();
        let flags = kept.into_iter().map(|at| outline.flags[at]).collect();
        Outline { flags, ..outline.clone() }
    };
    let (mut fits, mut too_many) = (0, order.len());
    while fits + 1 < too_many {
        let middle = fits.midpoint(too_many);
        if with(middle).encode().len() <= bytes {
            fits = middle;
        } else {
            too_many = middle;
        }
    }
    with(fits)
}

/// Returns the outline with the fewest bytes within an error.
fn within(merging: &Merging, segments: &[Segment], how: &Compaction<'_>, nrmse: f64) -> Outline {
    let squares = nrmse * nrmse * merging.values();
    let outline = |share: f64| {
        let merges = merging.merges_within(squares * share);
        let (pieces, mut flags) = merging.pieces(segments, merges);
        flags.retain(|flag| f64::from(flag.drift) >= how.flag_drift_min);
        flags.truncate(PIECES_MAX);
        let left = squares - merging.error_after(merges);
        let outline = Outline {
            collection: segments[0].collection().clone(),
            metric: segments[0].metric(),
            entity: segments[0].entity().clone(),
            pieces,
            flags,
            steps: Vec::new(),
            fidelity: Fidelity::Summary,
            payload: Vec::new(),
        };
        hold::hold(outline, how.widths, nrmse * STEP_SHARE, left)
    };
    let outlines = MERGE_SHARES.into_iter().map(outline);
    outlines.min_by_key(|outline| outline.encode().len()).expect("there are shares to try")
}

fn check(segments: &[Segment], how: &Compaction<'_>) -> Result<(), CompactError> {
    let first = segments.first().ok_or(CompactError::Empty)?;
    let continues = |pair: &[Segment]| {
        let [before, segment] = pair else { return true };
        segment.entity() == first.entity()
            && segment.collection() == first.collection()
            && segment.metric() == first.metric()
            && segment.dim() == first.dim()
            && segment.start() > before.end()
    };
    if let Some(index) = segments.windows(2).position(|pair| !continues(pair)) {
        return Err(CompactError::NotOneCourse { index: index + 1 });
    }
    if segments.len() > PIECES_MAX || segments.len() * first.dim() > CELLS_MAX {
        return Err(CompactError::TooMany { segments: segments.len() });
    }
    let usable = |width: &f32| width.is_finite() && *width >= f32::MIN_POSITIVE;
    if how.widths.len() != first.dim() || !how.widths.iter().all(usable) {
        return Err(CompactError::Setting { what: "widths" });
    }
    let budget = match how.budget {
        Budget::Nrmse(nrmse) => nrmse > 0.0 && nrmse <= 1.0,
        Budget::Bytes(bytes) => bytes > 0,
    };
    if budget { Ok(()) } else { Err(CompactError::Setting { what: "budget" }) }
}

impl Outline {
    /// Returns the outline in bytes from anywhere.
    ///
    /// # Errors
    ///
    /// Fails when the bytes are no outline.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        // Canonical CBOR says in its first byte how many items a short list has.
        if bytes.first() == Some(&stream::KEEPING_HEAD) {
            return stream::decode_keeping(cbor::decode(bytes, OUTLINE_BYTES_MAX)?);
        }
        stream::decode(cbor::decode(bytes, OUTLINE_BYTES_MAX)?)
    }

    /// Returns the bytes; equal outlines have equal bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let bytes = match self.fidelity {
            Fidelity::Summary => cbor::encode(&stream::encode(self)),
            Fidelity::Bounded | Fidelity::Lossless => cbor::encode(&stream::encode_keeping(self)),
        };
        bytes.expect("an outline holds integers, text, bytes and links only")
    }

    /// Returns the pieces, oldest first.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Returns the flags of merged boundaries, oldest first.
    #[must_use]
    pub fn flags(&self) -> &[Flag] {
        &self.flags
    }

    /// Returns the times of the first and the last observation.
    #[must_use]
    pub fn span(&self) -> (Timestamp, Timestamp) {
        let (first, last) = (self.pieces.first(), self.pieces.last());
        let (first, last) = (first.expect("there are pieces"), last.expect("there are pieces"));
        (first.start, last.end)
    }

    /// Returns the number of channels.
    #[must_use]
    pub const fn dim(&self) -> usize {
        self.steps.len()
    }

    /// Returns what was kept of the observations.
    #[must_use]
    pub const fn fidelity(&self) -> Fidelity {
        self.fidelity
    }

    /// Returns the payload blocks in the order of their observations; none where only summaries were kept.
    #[must_use]
    pub fn payload(&self) -> &[Cid] {
        &self.payload
    }

    /// Returns the thing observed.
    #[must_use]
    pub const fn entity(&self) -> &EntityId {
        &self.entity
    }

    /// Returns the collection that the observations were made for.
    #[must_use]
    pub const fn collection(&self) -> &CollectionName {
        &self.collection
    }
}

impl std::fmt::Debug for Outline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outline")
            .field("collection", &self.collection)
            .field("pieces", &self.pieces.len())
            .field("flags", &self.flags.len())
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Piece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Piece")
            .field("start", &self.start)
            .field("end", &self.end)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}
