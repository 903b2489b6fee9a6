//! Privacy loss as an exact number, so that a ledger's sum is what was spent.

use std::fmt;

use serde::{Deserialize, Serialize};

const NANOS_PER_UNIT: f64 = 1e9;

/// A privacy loss epsilon in billionths: sums of it are exact.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epsilon(u64);

/// A number that is no epsilon.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("epsilon {value} is outside 0 to {max}", max = Epsilon::MAX)]
pub struct EpsilonError {
    /// What was given.
    pub value: f64,
}

impl Epsilon {
    /// No loss at all.
    pub const ZERO: Self = Self(0);
    /// The largest representable loss, 100: at that, nothing is private any more.
    pub const MAX: Self = Self(100_000_000_000);

    /// Returns `value` rounded to the nearest billionth. Every use of the result, noise and ledger
    /// alike, means the rounded number.
    ///
    /// # Errors
    ///
    /// If `value` is not a number from 0 to 100.
    pub fn new(value: f64) -> Result<Self, EpsilonError> {
        let nanos = (value * NANOS_PER_UNIT).round();
        if (0.0..=Self::MAX.0 as f64).contains(&nanos) {
            Ok(Self(nanos as u64))
        } else {
            Err(EpsilonError { value })
        }
    }

    /// Returns the loss of `nanos` billionths.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Returns the loss in billionths.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Returns the loss as a float.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / NANOS_PER_UNIT
    }

    /// Returns the loss of both together, by sequential composition; it never wraps to less.
    #[must_use]
    pub const fn compose(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Returns what is left of `self` after `spent`.
    #[must_use]
    pub const fn left_after(self, spent: Self) -> Self {
        Self(self.0.saturating_sub(spent.0))
    }
}

impl fmt::Display for Epsilon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenths_add_up_exactly() {
        let tenth = Epsilon::new(0.1).unwrap();
        let ten = (0..100).fold(Epsilon::ZERO, |sum, _| sum.compose(tenth));
        assert_eq!(ten, Epsilon::new(10.0).unwrap());
        assert_eq!(tenth.to_string(), "0.1");
    }

    #[test]
    fn what_is_no_loss_is_refused() {
        for value in [-0.1, f64::NAN, f64::INFINITY, 100.1] {
            assert!(Epsilon::new(value).is_err(), "{value}");
        }
    }
}
