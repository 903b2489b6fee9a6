//! How a release's budget is split over its stages, and what each stage's noise is.
//!
//! A release has `DEPTH + 1` stages: the whole data set, then 2, 4, 8 and 16 cells. Stages see the
//! same observations, so their losses add up (sequential composition); within a stage an observation
//! is in one cell, so its cells cost no more than one (parallel composition). A stage releases noisy
//! counts and noisy centred sums, whose losses add up again.

use crate::epsilon::Epsilon;
use crate::noise::{NoiseError, loss};

use crate::bounds::{STEP_MAX, STEPS};

/// Levels of splits. 16 leaves are as many as templates are released.
pub(crate) const DEPTH: usize = 4;

/// Counts are noised in steps of `2^-10`, so that their noise scale rounds to a whole number of steps.
pub(crate) const COUNT_STEPS: i64 = 1 << 10;

/// The part of epsilon for the first stage: a mean over everything is exact enough with little.
const ROOT_SHARE: f64 = 0.05;

/// Each level gets this many times the budget of the one above, because its cells hold half as many
/// observations. The leaves get 8/15 of what the root leaves over.
const LEVEL_GROWTH: f64 = 2.0;

/// The part of a stage's epsilon for counts; the rest is for sums, whose sensitivity is larger.
const COUNT_SHARE: f64 = 0.05;

/// Kept unspent, a billionth, so that rounding in the split can never pass the whole.
const SLACK: f64 = 1e-9;

/// The probability that an empty cell's noisy count passes the threshold by noise alone.
const FALSE_CELL: f64 = 1e-3;

/// The noise of every stage of one release, fixed before any data are seen.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) stages: [StageNoise; DEPTH + 1],
    /// The least noisy count of a released leaf.
    pub(crate) count_min: f64,
}

/// Noise scales of one stage, in steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StageNoise {
    pub(crate) count_scale: u64,
    pub(crate) sum_scale: u64,
}

impl Plan {
    /// Splits `epsilon` for vectors of `dim` channels. `centroid_noise_max` is the widest standard
    /// deviation of a released centroid's channel, in parts of its range: a cell whose noisy count is
    /// too small for that says nothing and is dropped.
    pub(crate) fn new(epsilon: Epsilon, dim: usize, centroid_noise_max: f64) -> Self {
        let epsilon = epsilon.as_f64() * (1.0 - SLACK);
        let shares = stage_shares();
        let stages = shares.map(|share| StageNoise {
            count_scale: scale(COUNT_SENSITIVITY, share * COUNT_SHARE * epsilon),
            sum_scale: scale(sum_sensitivity(dim), share * (1.0 - COUNT_SHARE) * epsilon),
        });
        Self { stages, count_min: stages[DEPTH].count_min(centroid_noise_max) }
    }

    /// Returns OpenDP's upper bound on the privacy loss of all stages together.
    pub(crate) fn loss(&self, dim: usize) -> Result<f64, NoiseError> {
        self.stages.iter().try_fold(0.0, |sum, stage| {
            let counts = loss(COUNT_SENSITIVITY, stage.count_scale)?;
            Ok(sum + counts + loss(sum_sensitivity(dim), stage.sum_scale)?)
        })
    }
}

impl StageNoise {
    /// The least noisy count at which a cell's centroid is exact enough, and the cell likely real.
    fn count_min(&self, centroid_noise_max: f64) -> f64 {
        let sum_deviation = std::f64::consts::SQRT_2 * self.sum_scale as f64 / STEPS as f64;
        let count_scale = self.count_scale as f64 / COUNT_STEPS as f64;
        (sum_deviation / centroid_noise_max).max(-FALSE_CELL.ln() * count_scale)
    }
}

/// One observation more or less changes one cell's count by one.
pub(crate) const COUNT_SENSITIVITY: u64 = COUNT_STEPS as u64;

/// One observation more or less changes one cell's centred sum by at most half a range per channel.
pub(crate) const fn sum_sensitivity(dim: usize) -> u64 {
    dim as u64 * STEP_MAX as u64
}

fn stage_shares() -> [f64; DEPTH + 1] {
    let weight = |stage: usize| LEVEL_GROWTH.powi(stage as i32);
    let total: f64 = (1..=DEPTH).map(weight).sum();
    std::array::from_fn(|stage| match stage {
        0 => ROOT_SHARE,
        _ => (1.0 - ROOT_SHARE) * weight(stage) / total,
    })
}

/// Rounds up: more noise, never less.
fn scale(sensitivity: u64, epsilon: f64) -> u64 {
    (sensitivity as f64 / epsilon).ceil() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn stages_never_cost_more_than_the_whole(nanos in 1_000_000u64..=100_000_000_000, dim in 1usize..=4096) {
            let epsilon = Epsilon::from_nanos(nanos);
            let loss = Plan::new(epsilon, dim, 0.08).loss(dim).unwrap();
            prop_assert!(loss <= epsilon.as_f64(), "{loss}");
            // Nor do they waste more than rounding a scale up to the next step wastes.
            prop_assert!(loss >= epsilon.as_f64() * 0.9, "{loss}");
        }
    }

    #[test]
    fn plan_agrees_with_the_closed_form() {
        let plan = Plan::new(Epsilon::new(1.0).unwrap(), 19, 0.08);
        let leaf = 0.95 * 16.0 / 30.0;
        let sum_scale = 19.0 / 2.0 / (0.95 * leaf);
        let found = plan.stages[DEPTH].sum_scale as f64 / STEPS as f64;
        assert!((found - sum_scale).abs() < 1e-5, "{found} {sum_scale}");
        assert!((plan.count_min - 2f64.sqrt() * sum_scale / 0.08).abs() < 1e-2);
    }
}
