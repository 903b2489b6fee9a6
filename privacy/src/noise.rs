//! Integer noise, drawn by OpenDP.

use opendp::core::Measurement;
use opendp::domains::{AtomDomain, VectorDomain};
use opendp::error::Error;
use opendp::measurements::{make_gaussian, make_laplace};
use opendp::measures::{MaxDivergence, ZeroConcentratedDivergence};
use opendp::metrics::{L1Distance, L2Distance};

use crate::terms::Mechanism;

type Integers = VectorDomain<AtomDomain<i64>>;
type Laplace = Measurement<Integers, L1Distance<i64>, MaxDivergence, Vec<i64>>;
type Gaussian = Measurement<Integers, L2Distance<f64>, ZeroConcentratedDivergence, Vec<i64>>;

/// The sampler failed, for want of entropy or by its own word. No noised value exists.
#[derive(Debug, thiserror::Error)]
#[error("the noise sampler failed")]
pub struct NoiseError(#[source] Error);

/// Noise of one query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scale {
    pub(crate) mechanism: Mechanism,
    /// In steps: Laplace's parameter, `P(x) ~ exp(-|x| / steps)`, or the Gaussian's deviation.
    pub(crate) steps: u64,
}

/// Where noise comes from. Tests put a transcript in its place to check sensitivities.
pub(crate) trait Noise {
    /// Returns `values`, each with independent noise of `scale`.
    fn add(&mut self, values: Vec<i64>, scale: Scale) -> Result<Vec<i64>, NoiseError>;
}

/// OpenDP's exact samplers (Canonne, Kamath and Steinke, "The Discrete Gaussian for Differential
/// Privacy", 2020, algorithms 1 to 3), on big integers: there is no floating-point noise to attack.
/// `docs/privacy.md` says which generator feeds them.
#[derive(Debug)]
pub(crate) struct OpenDp;

impl Noise for OpenDp {
    fn add(&mut self, values: Vec<i64>, scale: Scale) -> Result<Vec<i64>, NoiseError> {
        let noised = match scale.mechanism {
            Mechanism::Laplace => laplace(scale.steps).and_then(|it| it.invoke(&values)),
            Mechanism::Gaussian => gaussian(scale.steps).and_then(|it| it.invoke(&values)),
        };
        noised.map_err(NoiseError)
    }
}

impl Scale {
    /// Returns OpenDP's own bound, rounded up, on the privacy loss of this noise on values with this
    /// sensitivity (L1 for Laplace, L2 for Gaussian): an epsilon for Laplace, a rho for Gaussian.
    pub(crate) fn loss(self, sensitivity: f64) -> Result<f64, NoiseError> {
        let loss = match self.mechanism {
            // Rounded up: OpenDP's map for integers takes an integer.
            Mechanism::Laplace => {
                laplace(self.steps).and_then(|it| it.map(&(sensitivity.ceil() as i64)))
            }
            Mechanism::Gaussian => gaussian(self.steps).and_then(|it| it.map(&sensitivity)),
        };
        loss.map_err(NoiseError)
    }

    /// Returns the standard deviation, in steps.
    pub(crate) fn deviation(self) -> f64 {
        match self.mechanism {
            Mechanism::Laplace => std::f64::consts::SQRT_2 * self.steps as f64,
            Mechanism::Gaussian => self.steps as f64,
        }
    }

    /// Returns what one draw passes with probability below `part`, in steps.
    pub(crate) fn tail(self, part: f64) -> f64 {
        match self.mechanism {
            // P(X >= t) = exp(-t / b) / (1 + exp(-1 / b)), below exp(-t / b).
            Mechanism::Laplace => -part.ln() * self.steps as f64,
            // P(X > t) <= exp(-t^2 / 2 sigma^2), the Chernoff bound, which the discrete one keeps.
            Mechanism::Gaussian => (-2.0 * part.ln()).sqrt() * self.steps as f64,
        }
    }
}

fn laplace(steps: u64) -> Result<Laplace, Error> {
    debug_assert!(steps < 1 << 53, "scale {steps} is not exact as a float");
    make_laplace(integers(), L1Distance::<i64>::default(), steps as f64, None)
}

fn gaussian(steps: u64) -> Result<Gaussian, Error> {
    debug_assert!(steps < 1 << 53, "scale {steps} is not exact as a float");
    make_gaussian(integers(), L2Distance::<f64>::default(), steps as f64, None)
}

fn integers() -> Integers {
    VectorDomain::new(AtomDomain::<i64>::default())
}

/// OpenDP's own conversion of rho at delta, to check ours against.
#[cfg(test)]
pub(crate) fn zcdp_epsilon(rho: f64, delta: f64) -> Result<f64, Error> {
    use opendp::combinators::make_zCDP_to_approxDP;
    // Noise of deviation 2^30 on this sensitivity has a loss of rho.
    let steps = 1_u64 << 30;
    let private = make_zCDP_to_approxDP(gaussian(steps)?)?;
    private.map(&((2.0 * rho).sqrt() * steps as f64))?.epsilon(delta)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: usize = 20_000;

    fn scale(mechanism: Mechanism, steps: u64) -> Scale {
        Scale { mechanism, steps }
    }

    /// The widest distance between the empirical distribution function of draws and `below`.
    fn widest(scale: Scale, below: impl Fn(i64) -> f64) -> f64 {
        let mut draws = OpenDp.add(vec![0; DRAWS], scale).unwrap();
        draws.sort_unstable();
        (-400i64..=400)
            .map(|k| {
                let empirical = draws.partition_point(|&draw| draw <= k) as f64 / DRAWS as f64;
                (empirical - below(k)).abs()
            })
            .fold(0.0, f64::max)
    }

    /// Goal: the distribution is the discrete Laplace that the accounting assumes.
    ///
    /// Method: the empirical distribution function of 20,000 draws against the closed form
    /// (Dvoretzky-Kiefer-Wolfowitz with Massart's constant: a deviation above 0.0195 has probability
    /// below 2 exp(-2 n 0.0195^2) = 5e-7, also for discrete distributions). The generator is
    /// OpenDP's own and takes no seed, so this test fails wrongly once in 2,000,000 runs.
    #[test]
    fn noise_is_discrete_laplace() {
        let ratio = (-1.0 / 37.0_f64).exp();
        // P(X <= k) for k >= 0, and by symmetry P(X <= k) = P(X >= -k) for k < 0.
        let below = |k: i64| match k {
            0.. => 1.0 - ratio.powf(k as f64 + 1.0) / (1.0 + ratio),
            _ => ratio.powf(-k as f64) / (1.0 + ratio),
        };
        let widest = widest(scale(Mechanism::Laplace, 37), below);
        assert!(widest < 0.0195, "{widest}");
    }

    /// Goal, method and error rate as for the Laplace noise; the distribution function is summed.
    #[test]
    fn noise_is_discrete_gaussian() {
        let weight = |k: i64| (-(k * k) as f64 / (2.0 * 37.0 * 37.0)).exp();
        let total: f64 = (-1_000..=1_000).map(weight).sum();
        let below = |k: i64| (-1_000..=k).map(weight).sum::<f64>() / total;
        let widest = widest(scale(Mechanism::Gaussian, 37), below);
        assert!(widest < 0.0195, "{widest}");
    }

    /// Goal: the two tests above have teeth: noise that is a quarter too narrow fails them.
    #[test]
    fn noise_that_is_a_little_too_narrow_would_be_noticed() {
        let ratio = (-1.0 / 37.0_f64).exp();
        let below = |k: i64| match k {
            0.. => 1.0 - ratio.powf(k as f64 + 1.0) / (1.0 + ratio),
            _ => ratio.powf(-k as f64) / (1.0 + ratio),
        };
        // The distribution functions of scales 28 and 37 are up to 0.051 apart, nine deviations of the
        // empirical one above the threshold.
        let widest = widest(scale(Mechanism::Laplace, 28), below);
        assert!(widest > 0.0195, "{widest}");
    }

    #[test]
    fn noise_is_added_to_the_values_and_differs_between_draws() {
        for mechanism in [Mechanism::Laplace, Mechanism::Gaussian] {
            let far = OpenDp.add(vec![1 << 40, -(1 << 40)], scale(mechanism, 2)).unwrap();
            // A draw beyond 200 scales has probability e^-200.
            assert!((far[0] - (1 << 40)).abs() < 400 && (far[1] + (1 << 40)).abs() < 400);
            let wide = scale(mechanism, 1 << 30);
            let twice = [0, 1].map(|_| OpenDp.add(vec![0; 64], wide).unwrap());
            assert_ne!(twice[0], twice[1]);
        }
    }

    #[test]
    fn loss_is_sensitivity_over_scale() {
        assert_eq!(scale(Mechanism::Laplace, 20).loss(10.0).unwrap(), 0.5);
        let third = scale(Mechanism::Laplace, 3).loss(1.0).unwrap();
        assert!((1.0 / 3.0..0.333_333_4).contains(&third));
        assert_eq!(scale(Mechanism::Gaussian, 20).loss(10.0).unwrap(), 0.125);
        let eighteenth = scale(Mechanism::Gaussian, 3).loss(1.0).unwrap();
        assert!((1.0 / 18.0..0.055_555_6).contains(&eighteenth));
    }
}
