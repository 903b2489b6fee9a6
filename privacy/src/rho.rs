//! Zero-concentrated differential privacy (Bun and Steinke, "Concentrated Differential Privacy:
//! Simplifications, Extensions, and Lower Bounds", 2016): how Gaussian noise is accounted.
//!
//! A mechanism is rho-zCDP if its Rényi divergence of every order alpha above 1 is at most
//! `rho * alpha`. Losses add up; `epsilon`-privacy is `epsilon^2 / 2`-zCDP (their proposition 1.4); a
//! group of k units loses `k^2 rho` (proposition 1.9).

use serde::{Deserialize, Serialize};

use crate::epsilon::Epsilon;

const PICOS_PER_UNIT: f64 = 1e12;

/// How often the interval around the best order is halved or so: the bound holds at every order, so
/// more steps only tighten it, and this many leave nothing to gain in double precision.
const SEARCH_STEPS: usize = 100;

/// What the arithmetic of a conversion may be off by, relatively. Every result is moved to the
/// cautious side by it; the error of a hundred or so operations in double precision is far below.
const ARITHMETIC: f64 = 1e-9;

/// A privacy loss rho in trillionths: sums of it are exact.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Rho(u64);

impl Rho {
    /// No loss at all.
    pub const ZERO: Self = Self(0);

    /// Returns the loss of `picos` trillionths.
    #[must_use]
    pub const fn from_picos(picos: u64) -> Self {
        Self(picos)
    }

    /// Returns the loss in trillionths.
    #[must_use]
    pub const fn as_picos(self) -> u64 {
        self.0
    }

    /// Returns the loss as a float.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / PICOS_PER_UNIT
    }

    /// Returns the loss of both together; it never wraps to less.
    #[must_use]
    pub const fn compose(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Returns the loss of a group of `units`.
    #[must_use]
    pub const fn of_group(self, units: u64) -> Self {
        Self(self.0.saturating_mul(units.saturating_mul(units)))
    }

    /// Returns the least loss that covers every `epsilon`-private mechanism.
    #[must_use]
    pub fn of_pure(epsilon: Epsilon) -> Self {
        // Nanos squared are 10^-18; half of that in 10^-12, rounded up.
        let nanos = u128::from(epsilon.as_nanos());
        let picos = (nanos * nanos).div_ceil(2_000_000);
        Self(u64::try_from(picos).unwrap_or(u64::MAX))
    }

    /// Returns the largest loss that is (`epsilon`, `delta`)-private by [`Rho::epsilon`]; zero when
    /// delta is out of range.
    #[must_use]
    pub fn within(epsilon: Epsilon, delta: f64) -> Self {
        // An epsilon of 100 is reached far below 10^14 picos, whatever the delta.
        let (mut low, mut high) = (0, 100_000_000_000_000_u64);
        while low + 1 < high {
            let middle = low.midpoint(high);
            if Self(middle).epsilon(delta).is_some_and(|reached| reached <= epsilon) {
                low = middle;
            } else {
                high = middle;
            }
        }
        Self(low)
    }

    /// Returns the epsilon of this loss at `delta`, rounded up; `None` unless `0 < delta < 1`, or when
    /// it is larger than an epsilon can be.
    ///
    /// Canonne, Kamath and Steinke, "The Discrete Gaussian for Differential Privacy", 2020, corollary
    /// 13, solved for epsilon: for every alpha above 1,
    /// `epsilon = rho alpha + ln(1 - 1/alpha) + (ln(1/delta) - ln(alpha)) / (alpha - 1)`.
    #[must_use]
    pub fn epsilon(self, delta: f64) -> Option<Epsilon> {
        if !(delta > 0.0 && delta < 1.0) {
            return None;
        }
        if self == Self::ZERO {
            return Some(Epsilon::ZERO);
        }
        let rho = self.as_f64();
        let bound = |log_beta: f64| epsilon_at(rho, delta, log_beta.exp());
        // Over ln(alpha - 1), the bound falls and then rises.
        let (mut low, mut high) = (-20.0_f64, 40.0_f64);
        for _ in 0..SEARCH_STEPS {
            let (left, right) = (low + (high - low) / 3.0, high - (high - low) / 3.0);
            if bound(left) < bound(right) { high = right } else { low = left }
        }
        let epsilon = bound(low.midpoint(high)).max(0.0) * (1.0 + ARITHMETIC);
        let nanos = (epsilon * 1e9).ceil();
        (nanos <= Epsilon::MAX.as_nanos() as f64).then(|| Epsilon::from_nanos(nanos as u64))
    }
}

impl std::fmt::Display for Rho {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.as_f64())
    }
}

/// The bound at order `1 + beta`.
fn epsilon_at(rho: f64, delta: f64, beta: f64) -> f64 {
    let alpha = 1.0 + beta;
    // ln(1 - 1/alpha) = ln(beta) - ln(alpha)
    rho * alpha + beta.ln() - alpha.ln() + (-delta.ln() - alpha.ln()) / beta
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rho(value: f64) -> Rho {
        Rho::from_picos((value * PICOS_PER_UNIT) as u64)
    }

    #[test]
    fn conversion_agrees_with_opendp_and_beats_the_textbook_bound() {
        for value in [1e-6, 1e-4, 0.01, 0.1, 0.5, 2.0] {
            for delta in [1e-12_f64, 1e-9, 1e-6, 1e-3] {
                let ours = rho(value).epsilon(delta).unwrap().as_f64();
                let theirs = crate::noise::zcdp_epsilon(value, delta).unwrap();
                // OpenDP rounds its own way; both are upper bounds of one infimum.
                let apart = (ours - theirs).abs();
                assert!(apart <= 1e-4 * theirs + 1e-7, "{value} {delta}: {ours} {theirs}");
                let textbook = value + 2.0 * (value * (1.0 / delta).ln()).sqrt();
                assert!(ours < textbook, "{value} {delta}");
            }
        }
    }

    #[test]
    fn conversion_is_the_minimum_over_orders() {
        let (value, delta) = (0.02, 1e-6);
        let found = rho(value).epsilon(delta).unwrap().as_f64();
        let scanned = (1..400_000)
            .map(|step| epsilon_at(value, delta, f64::from(step) * 0.001))
            .fold(f64::INFINITY, f64::min);
        assert!(found <= scanned + 1e-7 && found >= scanned - 1e-5, "{found} {scanned}");
    }

    #[test]
    fn pure_loss_is_half_its_square_rounded_up() {
        assert_eq!(Rho::of_pure(Epsilon::new(1.0).unwrap()), rho(0.5));
        assert_eq!(Rho::of_pure(Epsilon::from_nanos(1)), Rho::from_picos(1));
        assert_eq!(Rho::of_pure(Epsilon::MAX), rho(5_000.0));
        assert_eq!(rho(0.5).of_group(2), rho(2.0));
    }

    #[test]
    fn no_delta_is_no_conversion() {
        for delta in [0.0, -1.0, 1.0, f64::NAN] {
            assert_eq!(rho(0.1).epsilon(delta), None);
            assert_eq!(Rho::within(Epsilon::MAX, delta), Rho::ZERO);
        }
        assert_eq!(rho(1e6).epsilon(1e-6), None, "more than an epsilon can be");
    }

    proptest! {
        #[test]
        fn what_is_within_is_the_most_that_is(nanos in 1_000_000u64..=100_000_000_000, exponent in 1.0f64..15.0) {
            let (epsilon, delta) = (Epsilon::from_nanos(nanos), 10f64.powf(-exponent));
            let most = Rho::within(epsilon, delta);
            prop_assert!(most.epsilon(delta).unwrap() <= epsilon);
            let more = Rho::from_picos(most.as_picos() + 1 + most.as_picos() / 1_000);
            prop_assert!(more.epsilon(delta).is_none_or(|reached| reached > epsilon));
        }
    }
}
