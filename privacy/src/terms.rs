//! The terms of a release: what it protects, how well, by which noise, and how much of each unit it
//! looks at. The operator chooses them, the ledger keeps them, and the released set states them.

use serde::{Deserialize, Serialize};

use crate::epsilon::Epsilon;

/// Most cells of one stage that a unit may contribute to: one for each leaf of the partition.
pub const CELLS_MAX: u8 = 16;

/// The least epsilon of a release. Below it no cell of a realistic collection passes its threshold.
pub const EPSILON_MIN: Epsilon = Epsilon::from_nanos(1_000_000);

/// The largest delta: one in a hundred. A promise that fails more often than that is none.
pub const DELTA_MAX: f64 = 0.01;

/// The smallest delta other than 0. Below it the sampler's arithmetic is no longer what limits trust.
pub const DELTA_MIN: f64 = 1e-15;

/// Names what feeds OpenDP's samplers here, as sets state it; `docs/privacy.md` says the rest.
pub const GENERATOR: &str = "rand-0.7-thread-rng-chacha20";

/// What one unit of privacy protects: neighbouring data differ in one unit, added or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// One observation. What an entity did over many observations is not hidden.
    Observation,
    /// All observations of one entity in one day of UTC. What it does day after day is not hidden.
    EntityDay,
    /// All observations of one entity.
    Entity,
}

impl Unit {
    /// All units, the finest first.
    pub const ALL: [Self; 3] = [Self::Observation, Self::EntityDay, Self::Entity];

    /// Returns the name that sets and ledgers use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Observation => "observation",
            Self::EntityDay => "entity-day",
            Self::Entity => "entity",
        }
    }

    /// Returns the unit of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|unit| unit.name() == name)
    }
}

impl std::fmt::Display for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The noise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mechanism {
    /// Discrete Laplace noise, scaled to L1 sensitivities: pure epsilon, delta 0.
    Laplace,
    /// Discrete Gaussian noise, scaled to L2 sensitivities: zero-concentrated privacy, stated as
    /// (epsilon, delta). Far less noise where a unit touches many channels and cells.
    Gaussian,
}

impl Mechanism {
    /// Returns the name that sets and ledgers use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Laplace => "laplace",
            Self::Gaussian => "gaussian",
        }
    }

    /// Returns the mechanism of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Laplace, Self::Gaussian].into_iter().find(|mechanism| mechanism.name() == name)
    }
}

/// What one release promises, per unit. Always valid: [`Terms::new`] checks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    unit: Unit,
    mechanism: Mechanism,
    epsilon: Epsilon,
    delta: f64,
    cells_max: u8,
}

/// Why terms are none.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TermsError {
    /// The epsilon of one release is out of range.
    #[error("epsilon {epsilon}, expected {EPSILON_MIN} to {max}", max = Epsilon::MAX)]
    Epsilon {
        /// What was asked for.
        epsilon: Epsilon,
    },
    /// Laplace noise has delta 0, and Gaussian noise has a delta.
    #[error(
        "delta {delta} with {name} noise; laplace takes 0, gaussian {DELTA_MIN} to {DELTA_MAX}",
        name = mechanism.name()
    )]
    Delta {
        /// What was asked for.
        delta: f64,
        /// With which noise.
        mechanism: Mechanism,
    },
    /// The contribution limit is out of range.
    #[error("{cells_max} cells for each unit, expected 1 to {CELLS_MAX}")]
    Cells {
        /// What was asked for.
        cells_max: u8,
    },
}

impl Terms {
    /// Checks and returns terms. `cells_max` is how many cells of one stage a unit contributes to, one
    /// vector to each; an observation has one vector, so for it the limit is always 1.
    ///
    /// # Errors
    ///
    /// If a number is out of range, or delta and noise do not go together.
    pub fn new(
        unit: Unit,
        mechanism: Mechanism,
        epsilon: Epsilon,
        delta: f64,
        cells_max: u8,
    ) -> Result<Self, TermsError> {
        if !(EPSILON_MIN..=Epsilon::MAX).contains(&epsilon) {
            return Err(TermsError::Epsilon { epsilon });
        }
        let is_fitting = match mechanism {
            Mechanism::Laplace => delta == 0.0,
            Mechanism::Gaussian => (DELTA_MIN..=DELTA_MAX).contains(&delta),
        };
        if !is_fitting {
            return Err(TermsError::Delta { delta, mechanism });
        }
        if !(1..=CELLS_MAX).contains(&cells_max) {
            return Err(TermsError::Cells { cells_max });
        }
        let cells_max = if unit == Unit::Observation { 1 } else { cells_max };
        Ok(Self { unit, mechanism, epsilon, delta, cells_max })
    }

    /// Returns the terms of pure privacy for single observations, with Laplace noise.
    ///
    /// # Errors
    ///
    /// As [`Terms::new`].
    pub fn observation(epsilon: Epsilon) -> Result<Self, TermsError> {
        Self::new(Unit::Observation, Mechanism::Laplace, epsilon, 0.0, 1)
    }

    /// Returns what is protected.
    #[must_use]
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// Returns the noise.
    #[must_use]
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Returns the privacy loss of each unit.
    #[must_use]
    pub fn epsilon(&self) -> Epsilon {
        self.epsilon
    }

    /// Returns the probability that the loss is larger; 0 for Laplace noise.
    #[must_use]
    pub fn delta(&self) -> f64 {
        self.delta
    }

    /// Returns how many cells of one stage a unit contributes to, at most.
    #[must_use]
    pub fn cells_max(&self) -> u8 {
        self.cells_max
    }

    /// Returns how many of a stage's `cells` one unit more or less changes, at most.
    pub(crate) fn cells_changed(&self, cells: usize) -> u64 {
        usize::from(self.cells_max).min(cells) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eps(value: f64) -> Epsilon {
        Epsilon::new(value).unwrap()
    }

    #[test]
    fn delta_and_noise_must_go_together() {
        let terms = |mechanism, delta| Terms::new(Unit::Entity, mechanism, eps(1.0), delta, 4);
        assert!(terms(Mechanism::Laplace, 0.0).is_ok());
        assert!(terms(Mechanism::Laplace, 1e-6).is_err());
        assert!(terms(Mechanism::Gaussian, 1e-6).is_ok());
        for delta in [0.0, -1e-6, 0.02, 1.0, f64::NAN] {
            assert!(terms(Mechanism::Gaussian, delta).is_err(), "{delta}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        let terms = |epsilon, cells| {
            Terms::new(Unit::EntityDay, Mechanism::Laplace, eps(epsilon), 0.0, cells)
        };
        assert!(matches!(terms(0.000_9, 4), Err(TermsError::Epsilon { .. })));
        assert!(matches!(terms(1.0, 0), Err(TermsError::Cells { .. })));
        assert!(matches!(terms(1.0, 17), Err(TermsError::Cells { .. })));
    }

    #[test]
    fn an_observation_contributes_to_one_cell() {
        let terms = Terms::new(Unit::Observation, Mechanism::Laplace, eps(1.0), 0.0, 8).unwrap();
        assert_eq!(terms.cells_max(), 1);
        assert_eq!(terms, Terms::observation(eps(1.0)).unwrap());
        let entity = Terms::new(Unit::Entity, Mechanism::Laplace, eps(1.0), 0.0, 4).unwrap();
        assert_eq!([1, 2, 4, 8, 16].map(|cells| entity.cells_changed(cells)), [1, 2, 4, 4, 4]);
    }

    #[test]
    fn names_come_back() {
        for unit in Unit::ALL {
            assert_eq!(Unit::from_name(unit.name()), Some(unit));
        }
        assert_eq!(Unit::from_name("fleet"), None);
        assert_eq!(Mechanism::from_name("gaussian"), Some(Mechanism::Gaussian));
        assert_eq!(Mechanism::from_name("cauchy"), None);
    }
}
