//! The noised segment: what one entity did in one window of time, as an object that anybody may have.
//!
//! It is the payload of a signed envelope (`docs/formats/noised-segment.md`). A value of [`NoisedSegment`] is
//! always valid: decoding checks everything before one exists. The entity is a [`Pseudonym`], the window lies
//! on a public grid, and count and mean are noised; nothing else about the observations is in it.

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use sha2::Sha256;

use dunlin_wire::envelope::Payload;

use crate::bounds::{Bounds, DIM_MAX};
use crate::codes::{
    bounds_from_bytes, codes_from_bytes, codes_to_bytes, decode_codes, encode_codes,
    floats_to_bytes,
};
use crate::release::ReleasedSegment;
use crate::template::{
    COLLECTION_BYTES_MAX, ChannelsDigest, Metric, NoiseStatement, Privacy, TemplateError,
    WirePrivacy,
};
use crate::terms::{GENERATOR, Terms, Unit};

/// The version of the encoding.
const VERSION: u8 = 1;

/// Bytes of a pseudonym.
const PSEUDONYM_BYTES: usize = 16;

/// The shortest window, in microseconds: ten minutes. Each is an entry of the ledger, which has room for
/// about five years of such.
pub const WINDOW_US_MIN: u64 = 600_000_000;

/// The longest window, in microseconds: 31 days.
pub const WINDOW_US_MAX: u64 = 31 * 24 * 60 * 60 * 1_000_000;

/// Who an entity is to strangers: the same in all segments of one node and collection, and nothing that leads
/// back to its name without the node's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pseudonym(pub [u8; PSEUDONYM_BYTES]);

impl Pseudonym {
    /// Returns the pseudonym of an entity under a secret `key`: the first 16 bytes of an HMAC-SHA256 over the
    /// lengths and texts of collection and entity.
    ///
    /// # Panics
    ///
    /// Never: HMAC takes keys of any length.
    #[must_use]
    pub fn of(key: &[u8; 32], collection: &str, entity: &str) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes any key");
        mac.update(b"dunlin pseudonym 1");
        for text in [collection, entity] {
            mac.update(&(text.len() as u64).to_le_bytes());
            mac.update(text.as_bytes());
        }
        let tag = mac.finalize().into_bytes();
        Self(std::array::from_fn(|index| tag[index]))
    }
}

impl std::fmt::Display for Pseudonym {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A stretch of time on the grid of its length: it begins at a multiple of that since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Window {
    start_us: i64,
    length_us: u64,
}

impl Window {
    /// Returns the first window of this length that begins at `from_us` or later; `None` if the length is out
    /// of range, or there is no such window.
    #[must_use]
    pub fn at_or_after(from_us: i64, length_us: u64) -> Option<Self> {
        if !(WINDOW_US_MIN..=WINDOW_US_MAX).contains(&length_us) {
            return None;
        }
        let length = i64::try_from(length_us).ok()?;
        let before = from_us.div_euclid(length).checked_mul(length)?;
        let start_us = if before == from_us { before } else { before.checked_add(length)? };
        start_us.checked_add(length)?;
        Some(Self { start_us, length_us })
    }

    /// Returns its beginning, in microseconds since the Unix epoch.
    #[must_use]
    pub fn start_us(&self) -> i64 {
        self.start_us
    }

    /// Returns its length, in microseconds.
    #[must_use]
    pub fn length_us(&self) -> u64 {
        self.length_us
    }

    /// Returns its last microsecond.
    #[must_use]
    pub fn last_us(&self) -> i64 {
        self.start_us.saturating_add_unsigned(self.length_us - 1)
    }
}

/// What one entity did in one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct NoisedSegment {
    collection: String,
    metric: Metric,
    channels: ChannelsDigest,
    bounds: Bounds,
    entity: Pseudonym,
    window: Window,
    count: u64,
    codes: Vec<u16>,
    privacy: Privacy,
}

/// What a noised segment says besides the release itself.
#[derive(Clone, Debug)]
pub struct AboutSegment<'a> {
    /// The collection the observations are of.
    pub collection: &'a str,
    /// How it compares vectors.
    pub metric: Metric,
    /// Its channels' names.
    pub channels: ChannelsDigest,
    /// The public ranges of its channels.
    pub bounds: &'a Bounds,
    /// What was promised.
    pub terms: Terms,
    /// Who the entity is to strangers.
    pub entity: Pseudonym,
    /// The span of the data.
    pub window: Window,
}

impl Payload for NoisedSegment {
    const TYPE: &'static str = "dunlin/noised-segment/1";
    /// Both bounds and the codes of 4,096 channels, and the rest.
    const BYTES_MAX: usize = 10 * DIM_MAX + 4096;
}

impl NoisedSegment {
    /// Makes the object of a release.
    ///
    /// # Errors
    ///
    /// If `about` is out of range, or of other channels than the release.
    pub fn new(
        released: &ReleasedSegment,
        about: &AboutSegment<'_>,
    ) -> Result<Self, TemplateError> {
        let (bytes, expected) = (released.centroid.len() * 2, about.bounds.dim() * 2);
        if bytes != expected {
            return Err(TemplateError::Length { field: "mean", bytes, expected });
        }
        let terms = about.terms;
        Self {
            collection: about.collection.to_owned(),
            metric: about.metric,
            channels: about.channels,
            bounds: about.bounds.clone(),
            entity: about.entity,
            window: about.window,
            count: released.noised_count,
            codes: encode_codes(&released.centroid, about.bounds),
            privacy: Privacy {
                unit: terms.unit(),
                epsilon: terms.epsilon(),
                delta: terms.delta(),
                noise: Some(NoiseStatement {
                    mechanism: terms.mechanism(),
                    cells_max: terms.cells_max(),
                    generator: GENERATOR.to_owned(),
                }),
            },
        }
        .checked()
    }

    /// Returns the collection's name, as its publisher has it.
    #[must_use]
    pub fn collection(&self) -> &str {
        &self.collection
    }

    /// Returns how the collection compares vectors.
    #[must_use]
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// Returns the digest of the channels' names.
    #[must_use]
    pub fn channels(&self) -> ChannelsDigest {
        self.channels
    }

    /// Returns the public ranges of the channels.
    #[must_use]
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Returns who it is about.
    #[must_use]
    pub fn entity(&self) -> Pseudonym {
        self.entity
    }

    /// Returns when it is about.
    #[must_use]
    pub fn window(&self) -> Window {
        self.window
    }

    /// Returns about how many observations there were, at least 1.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns their noised mean, within the bounds.
    #[must_use]
    pub fn mean(&self) -> Vec<f32> {
        decode_codes(&self.codes, &self.bounds)
    }

    /// Returns what its publisher promised, which nobody else can check.
    #[must_use]
    pub fn privacy(&self) -> &Privacy {
        &self.privacy
    }

    fn checked(self) -> Result<Self, TemplateError> {
        let bytes = self.collection.len();
        if !(1..=COLLECTION_BYTES_MAX).contains(&bytes) {
            return Err(TemplateError::Collection { bytes });
        }
        if self.count == 0 {
            return Err(TemplateError::Support { index: 0, support: 0 });
        }
        // One entity's window tells days and entities apart, whatever the noise: there is no such promise.
        if self.privacy.unit != Unit::Observation || self.privacy.noise.is_none() {
            return Err(TemplateError::Noise { version: VERSION });
        }
        self.privacy.check()?;
        Ok(self)
    }
}

/// The segment as it travels. DAG-CBOR sorts the fields.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    version: u8,
    collection: String,
    metric: Metric,
    dim: u32,
    channels: ByteBuf,
    lower: ByteBuf,
    upper: ByteBuf,
    entity: ByteBuf,
    start_us: i64,
    window_us: u64,
    count: u64,
    mean: ByteBuf,
    privacy: WirePrivacy,
}

impl From<NoisedSegment> for Wire {
    fn from(segment: NoisedSegment) -> Self {
        Self {
            version: VERSION,
            collection: segment.collection,
            metric: segment.metric,
            dim: segment.bounds.dim() as u32,
            channels: ByteBuf::from(segment.channels.0),
            lower: floats_to_bytes(segment.bounds.lower()),
            upper: floats_to_bytes(segment.bounds.upper()),
            entity: ByteBuf::from(segment.entity.0),
            start_us: segment.window.start_us,
            window_us: segment.window.length_us,
            count: segment.count,
            mean: codes_to_bytes(&segment.codes),
            privacy: segment.privacy.into(),
        }
    }
}

impl TryFrom<Wire> for NoisedSegment {
    type Error = TemplateError;

    fn try_from(wire: Wire) -> Result<Self, TemplateError> {
        if wire.version != VERSION {
            return Err(TemplateError::Version { version: wire.version });
        }
        let dim = wire.dim as usize;
        let window = Window::at_or_after(wire.start_us, wire.window_us)
            .filter(|window| window.start_us == wire.start_us)
            .ok_or(TemplateError::Window { start_us: wire.start_us, window_us: wire.window_us })?;
        let entity = wire.entity.as_slice().try_into().map_err(|_| TemplateError::Length {
            field: "entity",
            bytes: wire.entity.len(),
            expected: PSEUDONYM_BYTES,
        })?;
        Self {
            collection: wire.collection,
            metric: wire.metric,
            channels: ChannelsDigest::from_bytes(&wire.channels)?,
            bounds: bounds_from_bytes(&wire.lower, &wire.upper, dim)?,
            entity: Pseudonym(entity),
            window,
            count: wire.count,
            codes: codes_from_bytes("mean", &wire.mean, dim)?,
            privacy: wire.privacy.into_privacy(VERSION_WITH_NOISE)?,
        }
        .checked()
    }
}

/// The version of a template set from which on all of its noise is stated, as it is here.
const VERSION_WITH_NOISE: u8 = 2;

#[cfg(test)]
mod tests;
