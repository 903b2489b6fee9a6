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
use crate::codes::{
    bounds_from_bytes, codes_from_bytes, codes_to_bytes, decode_codes, encode_codes,
    floats_to_bytes,
};
use crate::epsilon::Epsilon;
use crate::release::{Release, TEMPLATES_MAX};
use crate::terms::{CELLS_MAX, GENERATOR, Mechanism, Unit};

/// The version of the encoding.
const VERSION: u8 = 3;

/// A version that is read: it does not state its normalization, and may say the same thing twice.
const VERSION_WITHOUT_UNITS: u8 = 2;

/// The oldest version, which is read: it states neither noise, nor contribution limit, nor generator.
const VERSION_FIRST: u8 = 1;

/// Longest name of a generator, in bytes.
const GENERATOR_BYTES_MAX: usize = 64;

/// Longest collection name in a set, in bytes.
pub(crate) const COLLECTION_BYTES_MAX: usize = 256;

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

/// In what values centroids are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Normalization {
    /// In the collection's own, within its declared ranges: what this program publishes.
    Shared,
    /// In standard deviations from each entity's own mean. This program reads and keeps such sets, and does
    /// not adopt them: whose mean and deviation they would be put into is not its to guess.
    Entity,
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

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, TemplateError> {
        let digest = bytes.try_into().map_err(|_| TemplateError::Length {
            field: "channels",
            bytes: bytes.len(),
            expected: 32,
        })?;
        Ok(Self(digest))
    }
}

/// Noised templates of one collection, with what it takes to use and to judge them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct TemplateSet {
    collection: String,
    metric: Metric,
    channels: ChannelsDigest,
    /// `None` in a set of an older version.
    normalization: Option<Normalization>,
    bounds: Bounds,
    templates: Vec<Template>,
    privacy: Privacy,
    issued_unix_ms: u64,
    expires_unix_ms: u64,
}

/// What a set says of its privacy: what its publisher promised, which nobody else can check.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Privacy {
    /// What the loss is per.
    pub unit: Unit,
    /// The privacy loss of each unit by this set alone.
    pub epsilon: Epsilon,
    /// The probability that the loss is larger.
    pub delta: f64,
    /// How the noise was made; `None` in a set of version 1.
    pub noise: Option<NoiseStatement>,
}

/// What a set says of its noise.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct NoiseStatement {
    /// Its distribution.
    pub mechanism: Mechanism,
    /// How many cells of one stage a unit contributed to, at most.
    pub cells_max: u8,
    /// What the randomness came from.
    pub generator: String,
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

/// What is wrong with a set or a noised segment. Nothing of it may be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// A version this program does not know.
    #[error("template set version {version}, but only {VERSION_FIRST} to {VERSION} are known")]
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
    /// A template that stands there already: it says nothing, and no noise falls twice like that.
    #[error("template {index} is there twice")]
    Duplicate {
        /// Which, from 0.
        index: usize,
    },
    /// Epsilon or delta is out of range.
    #[error("epsilon {epsilon} or delta {delta} is out of range")]
    Loss {
        /// The epsilon it claims.
        epsilon: Epsilon,
        /// The delta it claims.
        delta: f64,
    },
    /// The normalization is not stated, or is in a version that does not know it.
    #[error("version {version}: the normalization is not stated as it should be")]
    Normalization {
        /// The version it claims.
        version: u8,
    },
    /// The statement on the noise is out of range, or not the one of its version.
    #[error("version {version}: the noise is not stated as it should be")]
    Noise {
        /// The version it claims.
        version: u8,
    },
    /// A window that is not on its grid, too short, or too long.
    #[error("a window of {window_us} us from {start_us} us is none")]
    Window {
        /// Its beginning.
        start_us: i64,
        /// Its length.
        window_us: u64,
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
        let terms = &release.terms;
        let mut templates: Vec<Template> = release.centroids.iter().map(template).collect();
        let mut before: Vec<Vec<u16>> = Vec::new();
        // Clamped to the bounds, two of few channels may come out the same.
        templates.retain(|template| {
            let is_new = !before.contains(&template.codes);
            before.push(template.codes.clone());
            is_new
        });
        Self {
            collection: about.collection.to_owned(),
            metric: about.metric,
            channels: about.channels,
            normalization: Some(Normalization::Shared),
            bounds: release.bounds.clone(),
            templates,
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
            issued_unix_ms: about.issued_unix_ms,
            expires_unix_ms: about.expires_unix_ms,
        }
        .checked()
    }

    /// Returns the same set with another life. It says nothing new, so it costs nothing.
    ///
    /// # Errors
    ///
    /// If it would expire before it is issued, or live too long.
    pub fn renewed(
        &self,
        issued_unix_ms: u64,
        expires_unix_ms: u64,
    ) -> Result<Self, TemplateError> {
        Self { issued_unix_ms, expires_unix_ms, ..self.clone() }.checked()
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

    /// Returns in what values the centroids are.
    #[must_use]
    pub fn normalization(&self) -> Normalization {
        // The older versions knew one.
        self.normalization.unwrap_or(Normalization::Shared)
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

    /// Returns what the set says of its privacy.
    #[must_use]
    pub fn privacy(&self) -> &Privacy {
        &self.privacy
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
        if self.normalization.is_some()
            && let Some(index) = first_duplicate(&self.templates)
        {
            return Err(TemplateError::Duplicate { index });
        }
        self.privacy.check()?;
        let (issued_unix_ms, expires_unix_ms) = (self.issued_unix_ms, self.expires_unix_ms);
        let life_ms = expires_unix_ms.saturating_sub(issued_unix_ms);
        if !(1..=LIFETIME_MS_MAX).contains(&life_ms) {
            return Err(TemplateError::Lifetime { issued_unix_ms, expires_unix_ms });
        }
        Ok(self)
    }
}

impl Privacy {
    /// Checks what no type checks.
    pub(crate) fn check(&self) -> Result<(), TemplateError> {
        let (epsilon, delta) = (self.epsilon, self.delta);
        if epsilon == Epsilon::ZERO || epsilon > Epsilon::MAX || !(0.0..1.0).contains(&delta) {
            return Err(TemplateError::Loss { epsilon, delta });
        }
        if let Some(NoiseStatement { cells_max, generator, .. }) = &self.noise {
            let is_named = (1..=GENERATOR_BYTES_MAX).contains(&generator.len());
            if !is_named || !(1..=CELLS_MAX).contains(cells_max) {
                return Err(TemplateError::Noise { version: VERSION });
            }
        }
        Ok(())
    }
}

impl Template {
    /// Returns about how many units know the behaviour: observations, days of entities, or entities.
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

fn first_duplicate(templates: &[Template]) -> Option<usize> {
    let is_there =
        |at: &usize| templates[..*at].iter().any(|before| before.codes == templates[*at].codes);
    (1..templates.len()).find(is_there)
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
    #[serde(skip_serializing_if = "Option::is_none", default)]
    normalization: Option<Normalization>,
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
pub(crate) struct WirePrivacy {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    cells_max: Option<u8>,
    delta: f64,
    epsilon_nanos: Epsilon,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    generator: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    mechanism: Option<Mechanism>,
    unit: Unit,
}

impl From<Privacy> for WirePrivacy {
    fn from(privacy: Privacy) -> Self {
        let (cells_max, generator, mechanism) = match privacy.noise {
            None => (None, None, None),
            Some(noise) => (Some(noise.cells_max), Some(noise.generator), Some(noise.mechanism)),
        };
        let Privacy { unit, epsilon, delta, .. } = privacy;
        Self { cells_max, delta, epsilon_nanos: epsilon, generator, mechanism, unit }
    }
}

impl WirePrivacy {
    /// Version 1 states no noise, and only observations; the others state all.
    pub(crate) fn into_privacy(self, version: u8) -> Result<Privacy, TemplateError> {
        let noise = match (self.mechanism, self.cells_max, self.generator) {
            (None, None, None) => None,
            (Some(mechanism), Some(cells_max), Some(generator)) => {
                Some(NoiseStatement { mechanism, cells_max, generator })
            }
            _ => return Err(TemplateError::Noise { version }),
        };
        let is_before = version == VERSION_FIRST;
        let is_of_version =
            noise.is_none() == is_before && (!is_before || self.unit == Unit::Observation);
        if !is_of_version {
            return Err(TemplateError::Noise { version });
        }
        let (unit, epsilon, delta) = (self.unit, self.epsilon_nanos, self.delta);
        Ok(Privacy { unit, epsilon, delta, noise })
    }
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
            version: match (set.normalization, &set.privacy.noise) {
                (Some(_), _) => VERSION,
                (None, Some(_)) => VERSION_WITHOUT_UNITS,
                (None, None) => VERSION_FIRST,
            },
            collection: set.collection,
            metric: set.metric,
            dim: set.bounds.dim() as u32,
            channels: ByteBuf::from(set.channels.0),
            normalization: set.normalization,
            lower: floats_to_bytes(set.bounds.lower()),
            upper: floats_to_bytes(set.bounds.upper()),
            templates: set.templates.into_iter().map(template).collect(),
            privacy: set.privacy.into(),
            issued_unix_ms: set.issued_unix_ms,
            expires_unix_ms: set.expires_unix_ms,
        }
    }
}

impl TryFrom<Wire> for TemplateSet {
    type Error = TemplateError;

    fn try_from(wire: Wire) -> Result<Self, TemplateError> {
        if !(VERSION_FIRST..=VERSION).contains(&wire.version) {
            return Err(TemplateError::Version { version: wire.version });
        }
        if wire.normalization.is_some() != (wire.version == VERSION) {
            return Err(TemplateError::Normalization { version: wire.version });
        }
        let dim = wire.dim as usize;
        let bounds = bounds_from_bytes(&wire.lower, &wire.upper, dim)?;
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
            channels: ChannelsDigest::from_bytes(&wire.channels)?,
            normalization: wire.normalization,
            bounds,
            templates: templates?,
            privacy: wire.privacy.into_privacy(wire.version)?,
            issued_unix_ms: wire.issued_unix_ms,
            expires_unix_ms: wire.expires_unix_ms,
        }
        .checked()
    }
}

#[cfg(test)]
mod tests;
