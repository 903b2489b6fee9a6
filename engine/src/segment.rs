//! Segments: sealed regimes as canonical bytes. `docs/formats/segment.md` is the format.
//!
//! One segment is one `dag-cbor` block, a list of fifteen items, with links to payload blocks when the
//! collection is lossless. It says nothing about who made it, so equal observations under equal
//! specifications give equal CIDs. Bytes from outside are decoded strictly: only the one encoding of a
//! value whose every invariant holds is accepted.

use dunlin_wire::{
    Cid,
    block::{Block, Codec},
    cbor,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{
    collection::{
        CollectionName, CollectionNameError, Dim, DimError, Fidelity, Metric,
        SEGMENT_OBSERVATIONS_MAX,
    },
    observation::{EntityId, EntityIdError, Timestamp},
    scaled::Scaled,
};

/// The version of the encoding.
pub const SEGMENT_VERSION: u8 = 1;

/// Largest encoded segment: 4,096 channels with every link that is allowed.
pub const SEGMENT_BYTES_MAX: usize = 64 * 1024;

/// Most payload blocks that a segment may link to.
pub const PAYLOAD_LINKS_MAX: usize = 128;

/// A sealed regime.
#[derive(Clone, PartialEq)]
pub struct Segment {
    pub(crate) collection: CollectionName,
    pub(crate) metric: Metric,
    pub(crate) entity: EntityId,
    pub(crate) start: Timestamp,
    pub(crate) end: Timestamp,
    pub(crate) count: u32,
    pub(crate) mean: Vec<f32>,
    pub(crate) spread: Scaled,
    pub(crate) first: Scaled,
    pub(crate) last: Scaled,
    pub(crate) measures: Measures,
    pub(crate) fidelity: Fidelity,
    pub(crate) payload: Vec<Cid>,
}

/// The single numbers of a segment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Measures {
    pub(crate) drift_mean: f32,
    pub(crate) drift_max: f32,
    pub(crate) score: f32,
}

impl Segment {
    /// Returns the segment in a block's bytes from anywhere.
    ///
    /// # Errors
    ///
    /// Fails when the bytes are not the canonical encoding of a valid segment.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let encoded: Encoded = cbor::decode(bytes, SEGMENT_BYTES_MAX)?;
        Self::try_from(encoded)
    }

    /// Returns the canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode(&Encoded::from(self))
            .expect("a segment holds integers, strings and bytes only")
    }

    /// Returns the block that other nodes fetch, named by its CID.
    #[must_use]
    pub fn to_block(&self) -> Block {
        Block::new(Codec::DagCbor, self.encode())
    }

    /// Returns the content identifier.
    #[must_use]
    pub fn cid(&self) -> Cid {
        *self.to_block().cid()
    }

    /// Returns the collection that the observations were made for.
    #[must_use]
    pub const fn collection(&self) -> &CollectionName {
        &self.collection
    }

    /// Returns the number of channels.
    #[must_use]
    pub const fn dim(&self) -> usize {
        self.mean.len()
    }

    /// Returns how vectors of the collection are compared.
    #[must_use]
    pub const fn metric(&self) -> Metric {
        self.metric
    }

    /// Returns the thing observed.
    #[must_use]
    pub const fn entity(&self) -> &EntityId {
        &self.entity
    }

    /// Returns the time of the first observation.
    #[must_use]
    pub const fn start(&self) -> Timestamp {
        self.start
    }

    /// Returns the time of the last observation.
    #[must_use]
    pub const fn end(&self) -> Timestamp {
        self.end
    }

    /// Returns how many observations there were.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Returns the mean of each channel.
    #[must_use]
    pub fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// Returns the standard deviation of each channel, to one part in two thousand.
    #[must_use]
    pub fn spread(&self) -> Vec<f32> {
        self.spread.values().map(to_f32).collect()
    }

    /// Returns the first vector; its distance from the mean is kept to one part in two thousand.
    #[must_use]
    pub fn first(&self) -> Vec<f32> {
        self.moved_by(&self.first)
    }

    /// Returns the last vector, as [`Self::first`].
    #[must_use]
    pub fn last(&self) -> Vec<f32> {
        self.moved_by(&self.last)
    }

    /// Returns the mean drift over the observations, in the collection's units.
    #[must_use]
    pub const fn drift_mean(&self) -> f32 {
        self.measures.drift_mean
    }

    /// Returns the largest drift of an observation, in the collection's units.
    #[must_use]
    pub const fn drift_max(&self) -> f32 {
        self.measures.drift_max
    }

    /// Returns the novelty against the entity's own earlier regimes, 0 to 1; 0 for its first.
    #[must_use]
    pub const fn score(&self) -> f32 {
        self.measures.score
    }

    /// Returns what was kept of the observations.
    #[must_use]
    pub const fn fidelity(&self) -> Fidelity {
        self.fidelity
    }

    /// Returns the payload blocks in the order of their observations.
    #[must_use]
    pub fn payload(&self) -> &[Cid] {
        &self.payload
    }

    fn moved_by(&self, residual: &Scaled) -> Vec<f32> {
        let sum = |(mean, residual): (&f32, f64)| to_f32(f64::from(*mean) + residual);
        self.mean.iter().zip(residual.values()).map(sum).collect()
    }

    /// Returns the rule that is broken, when one is.
    fn check(&self) -> Result<(), DecodeError> {
        let invalid = |what| Err(DecodeError::Invalid { what });
        if self.count == 0 || self.count > SEGMENT_OBSERVATIONS_MAX {
            return invalid("count");
        }
        if self.start > self.end || (self.start == self.end) != (self.count == 1) {
            return invalid("times");
        }
        if self.mean.iter().any(|value| !value.is_finite()) {
            return invalid("mean");
        }
        if !self.spread.is_non_negative() {
            return invalid("spread");
        }
        let Measures { drift_mean, drift_max, score } = self.measures;
        let ordered = 0.0 <= drift_mean && drift_mean <= drift_max && drift_max.is_finite();
        if !ordered || !(0.0..=1.0).contains(&score) {
            return invalid("measures");
        }
        let links_fit = match self.fidelity {
            Fidelity::Summary => self.payload.is_empty(),
            Fidelity::Bounded | Fidelity::Lossless => {
                (1..=PAYLOAD_LINKS_MAX).contains(&self.payload.len())
            }
        };
        let raw = self.payload.iter().all(|cid| Codec::of(cid) == Some(Codec::Raw));
        if links_fit && raw { Ok(()) } else { invalid("links") }
    }
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The values are the user's and do not belong in a log.
        f.debug_struct("Segment")
            .field("collection", &self.collection)
            .field("dim", &self.dim())
            .field("start", &self.start)
            .field("end", &self.end)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

/// Why bytes are not a segment. Nothing in them may be used; the same bytes fail again.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes are not canonical DAG-CBOR of a segment's shape.
    #[error(transparent)]
    Cbor(#[from] cbor::DecodeError),
    /// A version that this build does not know.
    #[error("segment version {version}, but only {SEGMENT_VERSION} is known")]
    Version {
        /// The version it claims.
        version: u8,
    },
    /// The collection's name is not well formed.
    #[error(transparent)]
    Collection(#[from] CollectionNameError),
    /// The dimension is not allowed.
    #[error(transparent)]
    Dim(#[from] DimError),
    /// The entity's name is too long or empty.
    #[error(transparent)]
    Entity(#[from] EntityIdError),
    /// A part contradicts another, or is not finite.
    #[error("the segment's {what} cannot be")]
    Invalid {
        /// Which part.
        what: &'static str,
    },
}

/// The list as it is encoded; the order of its items is the format.
#[derive(Serialize, Deserialize)]
struct Encoded(
    u8,
    String,
    u16,
    u8,
    String,
    i64,
    i64,
    u32,
    ByteBuf,
    ByteBuf,
    ByteBuf,
    ByteBuf,
    ByteBuf,
    u8,
    Vec<Cid>,
);

impl From<&Segment> for Encoded {
    fn from(segment: &Segment) -> Self {
        let Measures { drift_mean, drift_max, score } = segment.measures;
        Self(
            SEGMENT_VERSION,
            segment.collection.as_str().to_owned(),
            u16::try_from(segment.mean.len()).expect("a dimension is at most 4,096"),
            metric_code(segment.metric),
            segment.entity.as_str().to_owned(),
            segment.start.0,
            segment.end.0,
            segment.count,
            floats_to_bytes(&segment.mean),
            ByteBuf::from(segment.spread.to_bytes()),
            ByteBuf::from(segment.first.to_bytes()),
            ByteBuf::from(segment.last.to_bytes()),
            floats_to_bytes(&[drift_mean, drift_max, score]),
            fidelity_code(segment.fidelity),
            segment.payload.clone(),
        )
    }
}

impl TryFrom<Encoded> for Segment {
    type Error = DecodeError;

    fn try_from(encoded: Encoded) -> Result<Self, DecodeError> {
        let Encoded(
            version,
            collection,
            dim,
            metric,
            entity,
            start,
            end,
            count,
            mean,
            spread,
            first,
            last,
            measures,
            fidelity,
            payload,
        ) = encoded;
        if version != SEGMENT_VERSION {
            return Err(DecodeError::Version { version });
        }
        let invalid = |what| DecodeError::Invalid { what };
        let dim = Dim::new(dim)?.get();
        let scaled = |bytes: &ByteBuf, what| Scaled::from_bytes(bytes, dim).ok_or(invalid(what));
        let measures = floats_from_bytes(&measures, 3).ok_or(invalid("measures"))?;
        let segment = Self {
            collection: CollectionName::new(collection)?,
            metric: metric_of(metric).ok_or(invalid("metric"))?,
            entity: EntityId::new(entity)?,
            start: Timestamp(start),
            end: Timestamp(end),
            count,
            mean: floats_from_bytes(&mean, dim).ok_or(invalid("mean"))?,
            spread: scaled(&spread, "spread")?,
            first: scaled(&first, "first vector")?,
            last: scaled(&last, "last vector")?,
            measures: Measures {
                drift_mean: measures[0],
                drift_max: measures[1],
                score: measures[2],
            },
            fidelity: fidelity_of(fidelity).ok_or(invalid("fidelity"))?,
            payload,
        };
        segment.check()?;
        Ok(segment)
    }
}

pub(crate) const fn metric_code(metric: Metric) -> u8 {
    match metric {
        Metric::Cosine => 0,
        Metric::Euclidean => 1,
        Metric::Dot => 2,
    }
}

pub(crate) fn metric_of(code: u8) -> Option<Metric> {
    [Metric::Cosine, Metric::Euclidean, Metric::Dot]
        .into_iter()
        .find(|metric| metric_code(*metric) == code)
}

pub(crate) const fn fidelity_code(fidelity: Fidelity) -> u8 {
    match fidelity {
        Fidelity::Summary => 0,
        Fidelity::Bounded => 1,
        Fidelity::Lossless => 2,
    }
}

pub(crate) fn fidelity_of(code: u8) -> Option<Fidelity> {
    [Fidelity::Summary, Fidelity::Bounded, Fidelity::Lossless]
        .into_iter()
        .find(|fidelity| fidelity_code(*fidelity) == code)
}

fn floats_to_bytes(values: &[f32]) -> ByteBuf {
    ByteBuf::from(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
}

fn floats_from_bytes(bytes: &[u8], count: usize) -> Option<Vec<f32>> {
    let float = |quad: &[u8]| f32::from_le_bytes([quad[0], quad[1], quad[2], quad[3]]);
    (bytes.len() == count * 4).then(|| bytes.chunks_exact(4).map(float).collect())
}

/// Returns the nearest finite float.
pub(crate) const fn to_f32(value: f64) -> f32 {
    (value as f32).clamp(f32::MIN, f32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(super) fn segment(dim: usize, count: u32) -> Segment {
        let wave = |scale: f64| (0..dim).map(move |channel| (channel as f64 + 1.0) * scale);
        Segment {
            collection: CollectionName::new("asd").unwrap(),
            metric: Metric::Euclidean,
            entity: EntityId::new("omi-1").unwrap(),
            start: Timestamp(1_700_000_000_000_000),
            end: Timestamp(1_700_000_000_000_000 + i64::from(count - 1) * 300_000_000),
            count,
            mean: wave(0.25).map(to_f32).collect(),
            spread: Scaled::encode(wave(0.01)),
            first: Scaled::encode(wave(-0.125)),
            last: Scaled::encode(wave(0.5)),
            measures: Measures { drift_mean: 0.03125, drift_max: 0.0625, score: 0.5 },
            fidelity: Fidelity::Summary,
            payload: Vec::new(),
        }
    }

    #[test]
    fn a_summary_of_36_000_observations_of_128_dimensions_fits_in_1_792_bytes() {
        let mut large = segment(128, 36_000);
        large.collection = CollectionName::new("c".repeat(64)).unwrap();
        large.entity = EntityId::new("e".repeat(256)).unwrap();
        assert!(large.encode().len() <= 1792, "{}", large.encode().len());
        assert!(segment(19, 25).encode().len() <= 260, "{}", segment(19, 25).encode().len());
    }

    #[test]
    fn encoding_round_trips() {
        let lossless = Segment {
            fidelity: Fidelity::Lossless,
            payload: vec![*Block::new(Codec::Raw, vec![1]).cid(); 3],
            ..segment(5, 7)
        };
        for segment in [segment(1, 1), segment(4096, 65_536), lossless] {
            assert_eq!(Segment::decode(&segment.encode()).unwrap(), segment);
        }
    }

    #[test]
    fn broken_invariants_are_refused() {
        let good = segment(3, 4);
        let broken = [
            Segment { count: 0, ..good.clone() },
            Segment { count: SEGMENT_OBSERVATIONS_MAX + 1, ..good.clone() },
            Segment { end: Timestamp(good.start.0 - 1), ..good.clone() },
            Segment { end: good.start, ..good.clone() },
            Segment { mean: vec![0.0, f32::NAN, 0.0], ..good.clone() },
            Segment { mean: vec![0.0; 4], ..good.clone() },
            Segment { spread: Scaled::encode([1.0, -1.0, 0.0].into_iter()), ..good.clone() },
            Segment { measures: Measures { score: 1.5, ..good.measures }, ..good.clone() },
            Segment { measures: Measures { drift_mean: 9.0, ..good.measures }, ..good.clone() },
            Segment { payload: vec![good.cid()], ..good.clone() },
            Segment { fidelity: Fidelity::Lossless, ..good.clone() },
            Segment { fidelity: Fidelity::Bounded, ..good.clone() },
            Segment { fidelity: Fidelity::Lossless, payload: vec![good.cid()], ..good.clone() },
        ];
        for (index, segment) in broken.iter().enumerate() {
            assert!(Segment::decode(&segment.encode()).is_err(), "case {index}");
        }
        assert!(Segment::decode(&good.encode()).is_ok());
    }

    proptest! {
        #[test]
        fn damaged_bytes_never_panic(at in any::<prop::sample::Index>(), flip in 1u8.., cut in any::<prop::sample::Index>()) {
            let mut bytes = segment(6, 9).encode();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            if let Ok(decoded) = Segment::decode(&bytes) {
                prop_assert_eq!(decoded.encode(), bytes.clone());
            }
            prop_assert!(Segment::decode(&bytes[..cut.index(bytes.len())]).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in any::<Vec<u8>>()) {
            prop_assert!(Segment::decode(&bytes).is_err());
        }
    }
}
