//! Collections: the fixed agreements under which observations become segments.
//!
//! A specification never changes once a collection exists. Segments depend on nothing but an entity's
//! ordered observations and these numbers, so two nodes with equal specifications make equal CIDs.

use dunlin_wire::cbor;
use serde::{Deserialize, Serialize};

use crate::Config;

/// Longest collection name, in bytes.
pub const COLLECTION_NAME_BYTES_MAX: usize = 64;

/// Largest dimension of a collection.
pub const DIM_MAX: u16 = 4096;

/// Longest channel name, in bytes.
pub(crate) const CHANNEL_NAME_BYTES_MAX: usize = 64;

/// Most observations in one segment, whatever a policy says: it bounds what an open regime keeps in
/// memory in collections that keep observations.
pub const SEGMENT_OBSERVATIONS_MAX: u32 = 65_536;

/// Longest lateness window: one day. A longer one would hold back a day of observations per entity.
pub const LATENESS_US_MAX: u64 = 86_400_000_000;

/// Largest encoded specification: names and bounds of 4,096 channels.
const SPEC_BYTES_MAX: usize = 1024 * 1024;

/// A namespace of observations with one shape and one policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectionSpec {
    /// The name, unique on this node.
    pub name: CollectionName,
    /// How many channels every vector has.
    pub dim: Dim,
    /// How `knn` compares vectors. Drift and anomaly scores always use [`Self::units`].
    pub metric: Metric,
    /// What a segment keeps of its observations.
    pub fidelity: Fidelity,
    /// How far a kept value may be from the observed one: with fidelity `bounded`, and only then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_bound: Option<ErrorBound>,
    /// What one unit of drift means in each channel.
    pub units: Units,
    /// When a regime ends.
    pub policy: SegmentPolicy,
    /// How much older than the entity's newest observation another may be, in microseconds. Rising
    /// values accept more disorder and delay every observation's effect by as much.
    pub lateness_us: u64,
    /// Names of the channels, for people; `None` numbers them.
    pub channels: Option<Vec<String>>,
    /// Most entities that may report into the collection; a batch that brings one more is refused.
    pub entities_max: u32,
}

impl CollectionSpec {
    /// Returns a summary collection compared by euclidean distance, with the default policy for
    /// `units`, no lateness, and room for 10,000 entities.
    #[must_use]
    pub fn new(name: CollectionName, dim: Dim, units: Units) -> Self {
        Self {
            name,
            dim,
            metric: Metric::Euclidean,
            fidelity: Fidelity::Summary,
            error_bound: None,
            policy: SegmentPolicy::for_units(&units),
            units,
            lateness_us: 0,
            channels: None,
            entities_max: 10_000,
        }
    }

    /// Returns what canonical DAG-CBOR says, or `None` when that is no usable specification.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let spec: Self = cbor::decode(bytes, SPEC_BYTES_MAX).ok()?;
        spec.check().is_ok().then_some(spec)
    }

    /// Checks everything that the types alone do not.
    ///
    /// # Errors
    ///
    /// Returns the first rule that is broken.
    pub fn check(&self) -> Result<(), SpecError> {
        self.units.check(self.dim)?;
        self.check_error_bound()?;
        self.policy.check()?;
        if self.lateness_us > LATENESS_US_MAX {
            return Err(SpecError::Lateness { lateness_us: self.lateness_us });
        }
        if let Some(names) = &self.channels {
            if names.len() != self.dim.get() {
                return Err(SpecError::Channels { expected: self.dim.get(), found: names.len() });
            }
            let bad = |name: &String| name.is_empty() || name.len() > CHANNEL_NAME_BYTES_MAX;
            if let Some(channel) = names.iter().position(bad) {
                return Err(SpecError::ChannelName { channel });
            }
        }
        match self.entities_max {
            1..=Config::ENTITIES_MAX => Ok(()),
            entities_max => Err(SpecError::EntitiesMax { entities_max }),
        }
    }

    /// Returns the largest error of each channel, in its own unit, with fidelity `bounded`.
    #[must_use]
    pub fn error_max(&self) -> Option<Vec<f32>> {
        match (self.error_bound.as_ref()?, &self.units) {
            (ErrorBound::Absolute(errors), _) => Some(errors.clone()),
            (ErrorBound::OfRange(share), Units::Range { lower, upper }) => {
                let errors = lower
                    .iter()
                    .zip(upper)
                    .map(|(lower, upper)| below(share * (f64::from(*upper) - f64::from(*lower))));
                Some(errors.collect())
            }
            (ErrorBound::OfRange(_), Units::NoiseFloor) => None,
        }
    }

    fn check_error_bound(&self) -> Result<(), SpecError> {
        let wrong = |what| Err(SpecError::ErrorBound { what });
        match (&self.error_bound, self.fidelity) {
            (None, Fidelity::Bounded) => wrong("missing: fidelity `bounded` needs one"),
            (None, _) => Ok(()),
            (Some(_), Fidelity::Summary | Fidelity::Lossless) => {
                wrong("out of place: only fidelity `bounded` has one")
            }
            (Some(ErrorBound::OfRange(_)), _) if self.units == Units::NoiseFloor => {
                wrong("a share of the range, but the units declare no range")
            }
            (Some(ErrorBound::OfRange(share)), _) if !(1e-9..=1.0).contains(share) => {
                wrong("not a share of the range from 1e-9 to 1")
            }
            (Some(ErrorBound::Absolute(errors)), _) if errors.len() != self.dim.get() => {
                wrong("for another number of channels")
            }
            (Some(ErrorBound::Absolute(errors)), _)
                if !errors.iter().all(|error| error.is_finite() && *error >= 0.0) =>
            {
                wrong("not a finite number of at least 0 in every channel")
            }
            (Some(_), Fidelity::Bounded) => Ok(()),
        }
    }

    /// Returns how many bytes one observation's values have.
    #[must_use]
    pub const fn row_bytes(&self) -> usize {
        self.dim.get() * size_of::<f32>()
    }
}

/// The name of a collection: `[a-z0-9][a-z0-9_-]{0,63}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CollectionName(String);

impl CollectionName {
    /// Returns the name when it is well formed.
    ///
    /// # Errors
    ///
    /// Fails on anything but `[a-z0-9][a-z0-9_-]{0,63}`.
    pub fn new(name: impl Into<String>) -> Result<Self, CollectionNameError> {
        let name = name.into();
        let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let well_formed = name.as_bytes().first().is_some_and(plain)
            && name.len() <= COLLECTION_NAME_BYTES_MAX
            && name.bytes().all(|byte| plain(&byte) || byte == b'_' || byte == b'-');
        if well_formed { Ok(Self(name)) } else { Err(CollectionNameError { name }) }
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for CollectionName {
    type Error = CollectionNameError;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::new(name)
    }
}

impl std::str::FromStr for CollectionName {
    type Err = CollectionNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::new(name)
    }
}

impl From<CollectionName> for String {
    fn from(name: CollectionName) -> Self {
        name.0
    }
}

impl std::fmt::Display for CollectionName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A collection name that is not well formed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("collection name {name:?} is not [a-z0-9][a-z0-9_-]{{0,63}}")]
pub struct CollectionNameError {
    /// What was given.
    pub name: String,
}

/// How many channels the vectors of a collection have: 1 to [`DIM_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Dim(u16);

impl Dim {
    /// Returns the dimension when it is allowed.
    ///
    /// # Errors
    ///
    /// Fails outside 1 to [`DIM_MAX`].
    pub const fn new(dim: u16) -> Result<Self, DimError> {
        if dim >= 1 && dim <= DIM_MAX { Ok(Self(dim)) } else { Err(DimError { dim }) }
    }

    /// Returns the number of channels.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

impl TryFrom<u16> for Dim {
    type Error = DimError;

    fn try_from(dim: u16) -> Result<Self, Self::Error> {
        Self::new(dim)
    }
}

impl From<Dim> for u16 {
    fn from(dim: Dim) -> Self {
        dim.0
    }
}

impl std::fmt::Display for Dim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A dimension that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("dimension {dim}; it must be 1 to {DIM_MAX}")]
pub struct DimError {
    /// What was given.
    pub dim: u16,
}

/// How `knn` compares two vectors; each gives a distance, where small is near.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// One minus the cosine of the angle, 0 to 2. A zero vector is at distance 1 from every vector but
    /// another zero vector, which is at 0.
    Cosine,
    /// The square root of the summed squared differences.
    Euclidean,
    /// The negated dot product.
    Dot,
}

/// What a segment keeps of its observations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fidelity {
    /// The summary alone.
    Summary,
    /// Every observation at its time, every value within [`CollectionSpec::error_bound`].
    Bounded,
    /// Every observation, bit for bit.
    Lossless,
}

/// How far a kept value may be from the observed one. It holds for every value without exception: a
/// channel in which some value cannot be kept within it as cheaply is kept bit for bit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorBound {
    /// This share of each channel's declared range, 1e-9 to 1; needs [`Units::Range`].
    OfRange(f64),
    /// This much in each channel, in the channel's own unit; 0 keeps the channel bit for bit.
    Absolute(Vec<f32>),
}

/// Returns the largest finite float that is not above a finite, positive value.
fn below(value: f64) -> f32 {
    let nearest = (value as f32).min(f32::MAX);
    if f64::from(nearest) > value { nearest.next_down() } else { nearest }
}

/// What one unit of drift means in each channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Units {
    /// The declared width of each channel: drift 1 is a move across the whole range.
    Range {
        /// Lowest expected value of each channel.
        lower: Vec<f32>,
        /// Highest expected value of each channel, above the lowest.
        upper: Vec<f32>,
    },
    /// The entity's own noise in each channel, learned from the differences of neighboring
    /// observations: drift 1 is one typical step.
    NoiseFloor,
}

impl Fidelity {
    /// Returns whether segments link to their observations.
    pub(crate) const fn keeps_observations(self) -> bool {
        matches!(self, Self::Bounded | Self::Lossless)
    }
}

impl Units {
    /// Returns the range 0 to 1 in each of `dim` channels.
    #[must_use]
    pub fn unit_range(dim: Dim) -> Self {
        Self::Range { lower: vec![0.0; dim.get()], upper: vec![1.0; dim.get()] }
    }

    fn check(&self, dim: Dim) -> Result<(), SpecError> {
        let Self::Range { lower, upper } = self else { return Ok(()) };
        for bounds in [lower, upper] {
            if bounds.len() != dim.get() {
                return Err(SpecError::Bounds { expected: dim.get(), found: bounds.len() });
            }
        }
        let bad = |(low, high): (&f32, &f32)| !(low.is_finite() && high.is_finite() && low < high);
        match lower.iter().zip(upper).position(bad) {
            Some(channel) => Err(SpecError::Range { channel }),
            None => Ok(()),
        }
    }
}

/// When a regime ends. Every constant that decides about segments stands here, so that it is part of
/// the specification that two nodes must share to make equal segments.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentPolicy {
    /// Drift beyond which an observation counts against the open regime, in units. Higher values make
    /// fewer, coarser segments. FACTS: 0.08 of the range keeps R2 near .8 to .9 on server telemetry.
    pub threshold: f64,
    /// Drift of the decaying mean residual beyond which an observation counts against the regime, in
    /// units; below `threshold`, so that a slow move is seen before it is large.
    pub slow_threshold: f64,
    /// What the decaying mean residual keeps per observation, 0 to below 1. Higher values see slower
    /// moves, later.
    pub decay: f64,
    /// How many observations in a row must count against the regime to end it; they begin the next.
    pub hysteresis: u32,
    /// Fewest observations that a regime must have before drift may end it.
    pub observations_min: u32,
    /// Most observations in one segment, up to [`SEGMENT_OBSERVATIONS_MAX`].
    pub observations_max: u32,
    /// Novelty looks back at this many of the entity's latest regimes, up to 4,096.
    pub novelty_regimes_max: u32,
    /// Weight of the newest difference in the noise floor (noise-floor units only).
    pub noise_weight: f64,
    /// The noise floor is at least this share of the channel's typical magnitude.
    pub noise_relative_min: f64,
    /// The noise floor is at least this, in the channel's own unit.
    pub noise_absolute_min: f64,
    /// How many observations of an entity teach the noise floor before any regime may end.
    pub noise_warmup: u32,
}

impl SegmentPolicy {
    /// Returns the default policy for `units`.
    #[must_use]
    pub const fn for_units(units: &Units) -> Self {
        let (threshold, slow_threshold) = match units {
            Units::Range { .. } => (0.08, 0.06),
            Units::NoiseFloor => (4.0, 3.0),
        };
        Self {
            threshold,
            slow_threshold,
            decay: 0.9,
            hysteresis: 3,
            observations_min: 3,
            observations_max: SEGMENT_OBSERVATIONS_MAX,
            novelty_regimes_max: 512,
            noise_weight: 1.0 / 64.0,
            noise_relative_min: 0.01,
            noise_absolute_min: 1e-6,
            noise_warmup: 32,
        }
    }

    /// Returns the names, values and allowed ranges of the numbers that are out of range.
    fn check(&self) -> Result<(), SpecError> {
        let limits = [
            ("threshold", self.threshold, 1e-9, 1e9),
            ("slow_threshold", self.slow_threshold, 1e-9, 1e9),
            ("decay", self.decay, 0.0, 0.9999),
            ("hysteresis", f64::from(self.hysteresis), 1.0, 64.0),
            ("observations_min", f64::from(self.observations_min), 1.0, 1024.0),
            (
                "observations_max",
                f64::from(self.observations_max),
                f64::from(self.hysteresis) + 1.0,
                f64::from(SEGMENT_OBSERVATIONS_MAX),
            ),
            ("novelty_regimes_max", f64::from(self.novelty_regimes_max), 1.0, 4096.0),
            ("noise_weight", self.noise_weight, 1e-6, 1.0),
            ("noise_relative_min", self.noise_relative_min, 0.0, 1.0),
            ("noise_absolute_min", self.noise_absolute_min, 1e-30, 1e30),
            ("noise_warmup", f64::from(self.noise_warmup), 2.0, 65_536.0),
        ];
        for (name, value, min, max) in limits {
            if !(min..=max).contains(&value) {
                return Err(SpecError::Policy { name, value, min, max });
            }
        }
        Ok(())
    }
}

/// Why a specification is not usable. Nothing was changed; the same specification fails again.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The error bound does not fit the fidelity, the units or the dimension, or is no error.
    #[error("the error bound is {what}")]
    ErrorBound {
        /// What is wrong with it.
        what: &'static str,
    },
    /// There are bounds for another number of channels.
    #[error("{found} bounds for {expected} channels")]
    Bounds {
        /// The dimension.
        expected: usize,
        /// How many bounds there are.
        found: usize,
    },
    /// A channel's bounds are not finite, or the lower is not below the upper.
    #[error("channel {channel} needs finite bounds with lower below upper")]
    Range {
        /// Index of the channel.
        channel: usize,
    },
    /// There are names for another number of channels.
    #[error("{found} channel names for {expected} channels")]
    Channels {
        /// The dimension.
        expected: usize,
        /// How many names there are.
        found: usize,
    },
    /// A channel's name is empty or too long.
    #[error("the name of channel {channel} must have 1 to {CHANNEL_NAME_BYTES_MAX} bytes")]
    ChannelName {
        /// Index of the channel.
        channel: usize,
    },
    /// The lateness window is too long.
    #[error("lateness of {lateness_us} us; at most {LATENESS_US_MAX} are allowed")]
    Lateness {
        /// What was asked for.
        lateness_us: u64,
    },
    /// The entity limit is zero or beyond what an engine holds.
    #[error("entities_max {entities_max}; it must be 1 to {}", Config::ENTITIES_MAX)]
    EntitiesMax {
        /// What was asked for.
        entities_max: u32,
    },
    /// A policy number is out of range.
    #[error("policy {name} is {value:?}; it must be {min:?} to {max:?}")]
    Policy {
        /// The field.
        name: &'static str,
        /// Its value.
        value: f64,
        /// Smallest allowed value.
        min: f64,
        /// Largest allowed value.
        max: f64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(dim: u16) -> CollectionSpec {
        let dim = Dim::new(dim).unwrap();
        CollectionSpec::new(CollectionName::new("c").unwrap(), dim, Units::unit_range(dim))
    }

    #[test]
    fn names_and_dimensions_are_checked() {
        for good in ["a", "0", "asd-5min_x", &"a".repeat(64)] {
            assert!(CollectionName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "A", "-a", "_a", "a b", "é", &"a".repeat(65)] {
            assert!(CollectionName::new(bad).is_err(), "{bad}");
        }
        assert!(Dim::new(0).is_err() && Dim::new(4097).is_err() && Dim::new(4096).is_ok());
    }

    #[track_caller]
    fn check_error_bounds() {
        let bounded = CollectionSpec { fidelity: Fidelity::Bounded, ..spec(2) };
        let with = |bound| CollectionSpec { error_bound: Some(bound), ..bounded.clone() };
        let (share, absolute) = (ErrorBound::OfRange, ErrorBound::Absolute);
        for good in [share(0.01), share(1.0), absolute(vec![0.0, 3.0])] {
            assert_eq!(with(good).check(), Ok(()));
        }
        let bad = [share(0.0), share(1.5), share(f64::NAN), absolute(vec![1.0])];
        for bad in bad.into_iter().chain([absolute(vec![1.0, -1.0]), absolute(vec![f32::NAN; 2])]) {
            assert!(matches!(with(bad).check(), Err(SpecError::ErrorBound { .. })));
        }
        let unranged = CollectionSpec { units: Units::NoiseFloor, ..with(share(0.01)) };
        let out_of_place = CollectionSpec { fidelity: Fidelity::Lossless, ..with(share(0.01)) };
        for bad in [bounded.clone(), unranged, out_of_place] {
            assert!(matches!(bad.check(), Err(SpecError::ErrorBound { .. })));
        }
        let tenth = with(share(0.1)).error_max().unwrap();
        assert!(tenth.iter().all(|error| (0.099_999..=0.1).contains(&f64::from(*error))));
    }

    #[test]
    fn a_specification_names_the_rule_that_it_breaks() {
        assert_eq!(spec(2).check(), Ok(()));
        check_error_bounds();
        let units = Units::Range { lower: vec![0.0, 1.0], upper: vec![1.0, 1.0] };
        let flat = CollectionSpec { units, ..spec(2) };
        assert_eq!(flat.check(), Err(SpecError::Range { channel: 1 }));
        let names = CollectionSpec { channels: Some(vec!["a".to_owned()]), ..spec(2) };
        assert_eq!(names.check(), Err(SpecError::Channels { expected: 2, found: 1 }));
        let mut policy = spec(2);
        policy.policy.threshold = f64::NAN;
        assert!(matches!(policy.check(), Err(SpecError::Policy { name: "threshold", .. })));
    }
}
