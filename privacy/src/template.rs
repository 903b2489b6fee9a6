//! The template set: released centroids as an object that peers trade.
//!
//! One set is the payload of one signed envelope (`docs/formats/template.md`). A value of
//! [`TemplateSet`] is always valid: decoding checks everything before one exists. Centroids travel as
//! 16-bit codes within the set's own bounds, so 16 centroids of 19 channels take 608 bytes; the
//! rounding is at most 1/131,070 of a channel's range, far below the noise.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use sha2::{Digest, Sha256};

use dunlin_wire::envelope::Payload;

use crate::bounds::{Bounds, BoundsError, DIM_MAX};
use crate::epsilon::Epsilon;
use crate::release::{Release, TEMPLATES_MAX, Unit};

/// The version of the encoding.
const VERSION: u8 = 1;

/// Longest collection name in a set, in bytes.
const COLLECTION_BYTES_MAX: usize = 256;

/// Longest life of a set: 90 days. What a fleet did a season ago is no guide, and a set cannot be
/// called back.
pub const LIFETIME_MS_MAX: u64 = 90 * 24 * 60 * 60 * 1000;

/// How the collection compares vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// One minus the cosine of the angle.
    Cosine,
    /// The root of the summed squared differences.
    Euclidean,
    /// The negated dot product.
    Dot,
}

/// Names the channels and their order: sets of differently named channels do not mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChannelsDigest(pub [u8; 32]);

impl ChannelsDigest {
    /// Returns the digest of channel names in order; of no names if the channels are only numbered.
    #[must_use]
    pub fn of(names: &[String]) -> Self {
        let mut hash = Sha256::new_with_prefix(b"dunlin channel names 1");
        for name in names {
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name.as_bytes());
        }
        Self(hash.finalize().into())
    }
}

/// Noised templates of one collection, with what it takes to use and to judge them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct TemplateSet {
    collection: String,
    metric: Metric,
    channels: ChannelsDigest,
    bounds: Bounds,
    templates: Vec<Template>,
    epsilon: Epsilon,
    delta: f64,
    unit: Unit,
    issued_unix_ms: u64,
    expires_unix_ms: u64,
}

/// One template of a set.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    codes: Vec<u16>,
    spread: Option<Vec<u16>>,
    dwell_ms: Option<u64>,
    support: u64,
}

/// What a set says besides the release itself.
#[derive(Clone, Debug)]
pub struct About<'a> {
    /// The collection the observations are of.
    pub collection: &'a str,
    /// How it compares vectors.
    pub metric: Metric,
    /// Its channels' names.
    pub channels: ChannelsDigest,
    /// The wall clock, in milliseconds since the Unix epoch.
    pub issued_unix_ms: u64,
    /// When to forget the set: later than issued, by at most 90 days.
    pub expires_unix_ms: u64,
}

/// What is wrong with a set. Nothing of it may be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// A version this program does not know.
    #[error("template set version {version}, but only {VERSION} is known")]
    Version {
        /// The version it claims.
        version: u8,
    },
    /// The collection's name is empty or too long.
    #[error("a collection name of {bytes} bytes, expected 1 to {COLLECTION_BYTES_MAX}")]
    Collection {
        /// Its length.
        bytes: usize,
    },
    /// A byte string does not have the length that the dimension asks for.
    #[error("{field} has {bytes} bytes, expected {expected}")]
    Length {
        /// Which.
        field: &'static str,
        /// Its length.
        bytes: usize,
        /// What it should be.
        expected: usize,
    },
    /// The bounds are none.
    #[error(transparent)]
    Bounds(#[from] BoundsError),
    /// No templates, or more than a release makes.
    #[error("{templates} templates, expected 1 to {TEMPLATES_MAX}")]
    Count {
        /// How many.
        templates: usize,
    },
    /// A template that stands for nobody, or out of the order of falling support.
    #[error("template {index}: support {support} is 0 or rises")]
    Support {
        /// Which, from 0.
        index: usize,
        /// What it claims.
        support: u64,
    },
    /// Epsilon or delta is out of range.
    #[error("epsilon {epsilon} or delta {delta} is out of range")]
    Loss {
        /// The epsilon it claims.
        epsilon: Epsilon,
        /// The delta it claims.
        delta: f64,
    },
    /// It expires before it is issued, or lives too long.
    #[error("issued at {issued_unix_ms} ms, expires at {expires_unix_ms} ms")]
    Lifetime {
        /// When issued.
        issued_unix_ms: u64,
        /// When it ends.
        expires_unix_ms: u64,
    },
}

impl Payload for TemplateSet {
    const TYPE: &'static str = "dunlin/templates/1";
    /// Both bounds of 4,096 channels, 16 centroids and spreads of them, and the rest.
    const BYTES_MAX: usize = 2 * 4 * DIM_MAX + 2 * 2 * TEMPLATES_MAX * DIM_MAX + 8192;
}

impl TemplateSet {
    /// Makes the set of a release.
    ///
    /// # Errors
    ///
    /// If nothing was released, or `about` is out of range.
    pub fn new(release: &Release, about: &About<'_>) -> Result<Self, TemplateError> {
        let template = |centroid: &crate::release::ReleasedCentroid| Template {
            codes: encode_codes(&centroid.centroid, &release.bounds),
            spread: None,
            dwell_ms: None,
            support: centroid.noised_support,
        };
        Self {
            collection: about.collection.to_owned(),
            metric: about.metric,
            channels: about.channels,
            bounds: release.bounds.clone(),
            templates: release.centroids.iter().map(template).collect(),
            epsilon: release.cost,
            delta: 0.0,
            unit: release.unit,
            issued_unix_ms: about.issued_unix_ms,
            expires_unix_ms: about.expires_unix_ms,
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

    /// Returns the number of channels.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.bounds.dim()
    }

    /// Returns the public bounds of the release.
    #[must_use]
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Returns the templates, by falling support.
    #[must_use]
    pub fn templates(&self) -> &[Template] {
        &self.templates
    }

    /// Returns the centroids, row-major `[n, dim]`, by falling support.
    #[must_use]
    pub fn centroids(&self) -> Vec<f32> {
        let rows =
            self.templates.iter().map(|template| decode_codes(&template.codes, &self.bounds));
        rows.flatten().collect()
    }

    /// Returns the privacy loss of each observation by this set alone.
    #[must_use]
    pub fn epsilon(&self) -> Epsilon {
        self.epsilon
    }

    /// Returns the probability that the loss is larger; 0 for every set this program makes.
    #[must_use]
    pub fn delta(&self) -> f64 {
        self.delta
    }

    /// Returns what the loss is per.
    #[must_use]
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// Returns when the set was issued, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn issued_unix_ms(&self) -> u64 {
        self.issued_unix_ms
    }

    /// Returns when the set ends, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn expires_unix_ms(&self) -> u64 {
        self.expires_unix_ms
    }

    /// Returns whether the set may still be used. One from the future may: clocks differ.
    #[must_use]
    pub fn is_current(&self, now_unix_ms: u64) -> bool {
        now_unix_ms < self.expires_unix_ms
    }

    fn checked(self) -> Result<Self, TemplateError> {
        let bytes = self.collection.len();
        if !(1..=COLLECTION_BYTES_MAX).contains(&bytes) {
            return Err(TemplateError::Collection { bytes });
        }
        let templates = self.templates.len();
        if !(1..=TEMPLATES_MAX).contains(&templates) {
            return Err(TemplateError::Count { templates });
        }
        let mut support_max = u64::MAX;
        for (index, &Template { support, .. }) in self.templates.iter().enumerate() {
            if support == 0 || support > support_max {
                return Err(TemplateError::Support { index, support });
            }
            support_max = support;
        }
        let (epsilon, delta) = (self.epsilon, self.delta);
        if epsilon == Epsilon::ZERO || epsilon > Epsilon::MAX || !(0.0..1.0).contains(&delta) {
            return Err(TemplateError::Loss { epsilon, delta });
        }
        let (issued_unix_ms, expires_unix_ms) = (self.issued_unix_ms, self.expires_unix_ms);
        let life_ms = expires_unix_ms.saturating_sub(issued_unix_ms);
        if !(1..=LIFETIME_MS_MAX).contains(&life_ms) {
            return Err(TemplateError::Lifetime { issued_unix_ms, expires_unix_ms });
        }
        Ok(self)
    }
}

impl Template {
    /// Returns about how many observations the template stands for.
    #[must_use]
    pub fn support(&self) -> u64 {
        self.support
    }

    /// Returns the centroid within the bounds of its set.
    #[must_use]
    pub fn centroid(&self, bounds: &Bounds) -> Vec<f32> {
        decode_codes(&self.codes, bounds)
    }

    /// Returns the spread per channel, if its publisher paid for one.
    #[must_use]
    pub fn spread(&self, bounds: &Bounds) -> Option<Vec<f32>> {
        let spread = |(code, channel): (&u16, usize)| {
            let range = f64::from(bounds.upper()[channel]) - f64::from(bounds.lower()[channel]);
            (f64::from(*code) / f64::from(u16::MAX) * range) as f32
        };
        self.spread.as_ref().map(|codes| codes.iter().zip(0..).map(spread).collect())
    }

    /// Returns how long entities stay in the behaviour, if its publisher paid for saying so.
    #[must_use]
    pub fn dwell_ms(&self) -> Option<u64> {
        self.dwell_ms
    }
}

fn encode_codes(values: &[f32], bounds: &Bounds) -> Vec<u16> {
    let code = |(channel, &value): (usize, &f32)| {
        let lower = f64::from(bounds.lower()[channel]);
        let range = f64::from(bounds.upper()[channel]) - lower;
        ((f64::from(value) - lower) / range * f64::from(u16::MAX)).round() as u16
    };
    values.iter().enumerate().map(code).collect()
}

fn decode_codes(codes: &[u16], bounds: &Bounds) -> Vec<f32> {
    let value = |(channel, &code): (usize, &u16)| {
        let (lower, upper) = (bounds.lower()[channel], bounds.upper()[channel]);
        let range = f64::from(upper) - f64::from(lower);
        let value = f64::from(lower) + f64::from(code) / f64::from(u16::MAX) * range;
        (value as f32).clamp(lower, upper)
    };
    codes.iter().enumerate().map(value).collect()
}

/// The set as it travels. DAG-CBOR sorts the fields.
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
    templates: Vec<WireTemplate>,
    privacy: WirePrivacy,
    issued_unix_ms: u64,
    expires_unix_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireTemplate {
    centroid: ByteBuf,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    dwell_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    spread: Option<ByteBuf>,
    support: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WirePrivacy {
    delta: f64,
    epsilon_nanos: Epsilon,
    unit: Unit,
}

impl From<TemplateSet> for Wire {
    fn from(set: TemplateSet) -> Self {
        let template = |template: Template| WireTemplate {
            centroid: codes_to_bytes(&template.codes),
            dwell_ms: template.dwell_ms,
            spread: template.spread.as_deref().map(codes_to_bytes),
            support: template.support,
        };
        Self {
            version: VERSION,
            collection: set.collection,
            metric: set.metric,
            dim: set.bounds.dim() as u32,
            channels: ByteBuf::from(set.channels.0),
            lower: floats_to_bytes(set.bounds.lower()),
            upper: floats_to_bytes(set.bounds.upper()),
            templates: set.templates.into_iter().map(template).collect(),
            privacy: WirePrivacy { delta: set.delta, epsilon_nanos: set.epsilon, unit: set.unit },
            issued_unix_ms: set.issued_unix_ms,
            expires_unix_ms: set.expires_unix_ms,
        }
    }
}

impl TryFrom<Wire> for TemplateSet {
    type Error = TemplateError;

    fn try_from(wire: Wire) -> Result<Self, TemplateError> {
        if wire.version != VERSION {
            return Err(TemplateError::Version { version: wire.version });
        }
        let dim = wire.dim as usize;
        let bounds = Bounds::new(
            floats_from_bytes("lower", &wire.lower, dim)?,
            floats_from_bytes("upper", &wire.upper, dim)?,
        )?;
        let channels = wire.channels.as_slice().try_into().map_err(|_| TemplateError::Length {
            field: "channels",
            bytes: wire.channels.len(),
            expected: 32,
        })?;
        let template = |template: WireTemplate| {
            let spread = template.spread.map(|bytes| codes_from_bytes("spread", &bytes, dim));
            Ok(Template {
                codes: codes_from_bytes("centroid", &template.centroid, dim)?,
                spread: spread.transpose()?,
                dwell_ms: template.dwell_ms,
                support: template.support,
            })
        };
        let templates: Result<Vec<Template>, TemplateError> =
            wire.templates.into_iter().map(template).collect();
        Self {
            collection: wire.collection,
            metric: wire.metric,
            channels: ChannelsDigest(channels),
            bounds,
            templates: templates?,
            epsilon: wire.privacy.epsilon_nanos,
            delta: wire.privacy.delta,
            unit: wire.privacy.unit,
            issued_unix_ms: wire.issued_unix_ms,
            expires_unix_ms: wire.expires_unix_ms,
        }
        .checked()
    }
}

fn floats_to_bytes(values: &[f32]) -> ByteBuf {
    ByteBuf::from(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
}

fn codes_to_bytes(codes: &[u16]) -> ByteBuf {
    ByteBuf::from(codes.iter().flat_map(|code| code.to_le_bytes()).collect::<Vec<u8>>())
}

fn floats_from_bytes(
    field: &'static str,
    bytes: &[u8],
    dim: usize,
) -> Result<Vec<f32>, TemplateError> {
    check_length(field, bytes, dim, 4)?;
    let (floats, _) = bytes.as_chunks::<4>();
    Ok(floats.iter().map(|float| f32::from_le_bytes(*float)).collect())
}

fn codes_from_bytes(
    field: &'static str,
    bytes: &[u8],
    dim: usize,
) -> Result<Vec<u16>, TemplateError> {
    check_length(field, bytes, dim, 2)?;
    let (codes, _) = bytes.as_chunks::<2>();
    Ok(codes.iter().map(|code| u16::from_le_bytes(*code)).collect())
}

fn check_length(
    field: &'static str,
    bytes: &[u8],
    dim: usize,
    width: usize,
) -> Result<(), TemplateError> {
    let expected = dim.saturating_mul(width);
    if bytes.len() == expected {
        Ok(())
    } else {
        Err(TemplateError::Length { field, bytes: bytes.len(), expected })
    }
}

#[cfg(test)]
mod tests;
