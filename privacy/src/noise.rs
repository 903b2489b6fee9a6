//! Integer Laplace noise, drawn by OpenDP.

use opendp::core::Measurement;
use opendp::domains::{AtomDomain, VectorDomain};
use opendp::measurements::make_laplace;
use opendp::measures::MaxDivergence;
use opendp::metrics::L1Distance;

type Laplace = Measurement<VectorDomain<AtomDomain<i64>>, L1Distance<i64>, MaxDivergence, Vec<i64>>;

/// The sampler failed, for want of entropy or by its own word. No noised value exists.
#[derive(Debug, thiserror::Error)]
#[error("the noise sampler failed")]
pub struct NoiseError(#[source] opendp::error::Error);

/// Where noise comes from. Tests put a transcript in its place to check sensitivities.
pub(crate) trait Noise {
    /// Returns `values`, each with independent discrete Laplace noise of `scale` grid steps:
    /// `P(x) ~ exp(-|x| / scale)`.
    fn laplace(&mut self, values: Vec<i64>, scale: u64) -> Result<Vec<i64>, NoiseError>;
}

/// OpenDP's exact sampler (Canonne, Kamath and Steinke, "The Discrete Gaussian for Differential
/// Privacy", 2020, algorithm 2), on big integers: there is no floating-point noise to attack.
/// `docs/privacy.md` says which generator feeds it.
#[derive(Debug)]
pub(crate) struct OpenDp;

impl Noise for OpenDp {
    fn laplace(&mut self, values: Vec<i64>, scale: u64) -> Result<Vec<i64>, NoiseError> {
        mechanism(scale).and_then(|laplace| laplace.invoke(&values)).map_err(NoiseError)
    }
}

/// Returns OpenDP's own bound, rounded up, on the privacy loss of noise of `scale` on values with
/// this L1 sensitivity.
pub(crate) fn loss(l1_sensitivity: u64, scale: u64) -> Result<f64, NoiseError> {
    // A sensitivity is at most 2^19 steps times 4,096 channels.
    let sensitivity = i64::try_from(l1_sensitivity).unwrap_or(i64::MAX);
    mechanism(scale).and_then(|laplace| laplace.map(&sensitivity)).map_err(NoiseError)
}

fn mechanism(scale: u64) -> Result<Laplace, opendp::error::Error> {
    debug_assert!(scale < 1 << 53, "scale {scale} is not exact as a float");
    make_laplace(
        VectorDomain::new(AtomDomain::<i64>::default()),
        L1Distance::<i64>::default(),
        scale as f64,
        None,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the distribution is the discrete Laplace that the accounting assumes.
    ///
    /// Method: the empirical distribution function of 20,000 draws against the closed form
    /// (Dvoretzky-Kiefer-Wolfowitz with Massart's constant: a deviation above 0.0195 has probability
    /// below 2 exp(-2 n 0.0195^2) = 5e-7, also for discrete distributions). The generator is
    /// OpenDP's own and takes no seed, so this test fails wrongly once in 2,000,000 runs.
    #[test]
    fn noise_is_discrete_laplace() {
        const DRAWS: usize = 20_000;
        const SCALE: u64 = 37;
        let mut draws = OpenDp.laplace(vec![0; DRAWS], SCALE).unwrap();
        draws.sort_unstable();
        let ratio = (-1.0 / SCALE as f64).exp();
        // P(X <= k) for k >= 0, and by symmetry P(X <= k) = P(X >= -k) for k < 0.
        let below = |k: i64| match k {
            0.. => 1.0 - ratio.powf(k as f64 + 1.0) / (1.0 + ratio),
            _ => ratio.powf(-k as f64) / (1.0 + ratio),
        };
        let widest = (-400i64..=400)
            .map(|k| {
                let empirical = draws.partition_point(|&draw| draw <= k) as f64 / DRAWS as f64;
                (empirical - below(k)).abs()
            })
            .fold(0.0, f64::max);
        assert!(widest < 0.0195, "{widest}");
    }

    #[test]
    fn noise_is_added_to_the_values_and_differs_between_draws() {
        let far = OpenDp.laplace(vec![1 << 40, -(1 << 40)], 2).unwrap();
        // A draw beyond 200 scales has probability e^-200.
        assert!((far[0] - (1 << 40)).abs() < 400 && (far[1] + (1 << 40)).abs() < 400);
        let twice = [0, 1].map(|_| OpenDp.laplace(vec![0; 64], 1 << 30).unwrap());
        assert_ne!(twice[0], twice[1]);
    }

    #[test]
    fn loss_is_sensitivity_over_scale() {
        assert_eq!(loss(10, 20).unwrap(), 0.5);
        let third = loss(1, 3).unwrap();
        assert!((1.0 / 3.0..0.333_333_4).contains(&third));
    }
}
