//! How a release's budget is split over its queries, and what each query's noise is.
//!
//! A release first asks how many units there are: the *probe*. From its noisy answer follows how deep the
//! partition may go before its cells sink into the noise, or that not even two of them would rise out of
//! it; then nothing more is drawn, and the rest of the budget is not spent. A partition of depth `d` has
//! `d + 1` stages: how everything lies across a direction, then counts and the same of 2, 4, ... cells, and of the
//! `2^d` leaves counts and sums.
//!
//! All queries see the same units, so their losses add up (sequential composition; the choice of the
//! depth by a noised number is adaptive composition, which costs nothing more as long as the sum stays
//! below what was reserved). Within a stage a unit contributes to at most `cells_max` cells, one vector
//! to each. `docs/privacy.md` derives every sensitivity.

use crate::bounds::{STEP_MAX, STEPS};
use crate::noise::{NoiseError, Scale};
use crate::rho::Rho;
use crate::terms::{Mechanism, Terms};

/// Most levels of splits. 16 leaves are as many as templates are released.
pub(crate) const DEPTH_MAX: usize = 4;

/// Counts are noised in steps of `2^-10`, so that their noise scale rounds to a whole number of steps.
pub(crate) const COUNT_STEPS: i64 = 1 << 10;

/// The part of the budget for the probe. What a refused release costs.
const PROBE_SHARE: f64 = 0.05;

/// Each level gets this many times the budget of the one above. Its cells hold half as many units, so twice as much would
/// keep the noise of a mean the same part of it; but only the leaves are released, and where the others are split
/// need not be known as well.
const LEVEL_GROWTH: f64 = 3.0;

/// Kept unspent, a billionth, so that rounding in the split can never pass the whole.
const SLACK: f64 = 1e-9;

/// The probability that an empty cell's noisy count passes the threshold by noise alone, and that a
/// fleet of as many units as are said to be needed is refused because of the probe's noise.
const FALSE_ALARM: f64 = 1e-3;

/// The noise of every query of one release, fixed before any data are seen but for the depth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Plan {
    terms: Terms,
    dim: usize,
    /// What may be spent: an epsilon, or a rho.
    total: f64,
    centroid_noise_max: f64,
}

/// Noise of one stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StageNoise {
    /// `None` for the first stage: how many there are in all, the probe has said.
    pub(crate) count: Option<Scale>,
    /// Of the sums of leaves, and of how other cells lie across a direction.
    pub(crate) sum: Scale,
}

impl Plan {
    /// Splits what `terms` allow for vectors of `dim` channels; with Gaussian noise that is `rho`.
    /// `centroid_noise_max` is the widest standard deviation of a released centroid's channel, in parts
    /// of its range: a cell whose noisy count is too small for that says nothing and is dropped.
    pub(crate) fn new(terms: Terms, rho: Rho, dim: usize, centroid_noise_max: f64) -> Self {
        let total = match terms.mechanism() {
            Mechanism::Laplace => terms.epsilon().as_f64(),
            Mechanism::Gaussian => rho.as_f64(),
        };
        Self { terms, dim, total: total * (1.0 - SLACK), centroid_noise_max }
    }

    /// Returns the noise of the probe.
    pub(crate) fn probe(&self) -> Scale {
        // A unit is counted once.
        self.scale(COUNT_STEPS as f64, PROBE_SHARE)
    }

    /// Returns the deepest partition whose cells rise out of the noise if the units spread over them
    /// evenly; `None` if not even two cells would.
    pub(crate) fn depth(&self, units_noised: f64) -> Option<usize> {
        (1..=DEPTH_MAX)
            .rev()
            .find(|&depth| units_noised * self.even_part(depth) >= self.count_min(depth))
    }

    /// Returns the noise of the stages of a partition of `depth`, from the whole to the leaves.
    pub(crate) fn stages(&self, depth: usize) -> Vec<StageNoise> {
        (0..=depth).map(|level| self.stage(level, depth)).collect()
    }

    /// Returns the least noisy count of a released leaf: at it, a centroid's channel has a standard
    /// deviation of `centroid_noise_max` at most, and an empty cell is unlikely to get there.
    pub(crate) fn count_min(&self, depth: usize) -> f64 {
        let StageNoise { count, sum } = self.stage(depth, depth);
        self.count_min_with(count.expect("the leaves are counted"), sum)
    }

    /// Returns the noise of the count and of the sums of a cell, where there is one stage of cells that
    /// everybody knows beforehand, and neither a probe nor a partition has to be paid for.
    pub(crate) fn single(&self) -> (Scale, Scale) {
        let count_part = self.count_part();
        let count = self.scale(self.count_sensitivity(0), count_part);
        (count, self.scale(self.sum_sensitivity(0), 1.0 - count_part))
    }

    /// Returns OpenDP's upper bound on the loss of such a release: an epsilon, or a rho.
    pub(crate) fn single_loss(&self) -> Result<f64, NoiseError> {
        let (count, sum) = self.single();
        Ok(count.loss(self.count_sensitivity(0))? + sum.loss(self.sum_sensitivity(0))?)
    }

    /// Returns the least noisy count of a released cell whose queries have this noise, as
    /// [`Plan::count_min`].
    pub(crate) fn count_min_with(&self, count: Scale, sum: Scale) -> f64 {
        // A centroid is sum over count: an error of the count moves it by up to half a range.
        let by_sum = sum.deviation() / STEPS as f64;
        let by_count = count.deviation() / COUNT_STEPS as f64 / 2.0;
        (by_sum.hypot(by_count) / self.centroid_noise_max)
            .max(count.tail(FALSE_ALARM) / COUNT_STEPS as f64)
            .max(1.0)
    }

    /// Returns with how many units a release of two behaviours is not refused, but by bad luck: a
    /// public number, from signal against noise alone.
    pub(crate) fn units_needed(&self) -> u64 {
        let for_cells = self.count_min(1) / self.even_part(1);
        let for_probe = self.probe().tail(FALSE_ALARM) / COUNT_STEPS as f64;
        (for_cells + for_probe).ceil() as u64
    }

    /// Returns OpenDP's upper bound on the loss of the probe alone: an epsilon, or a rho.
    pub(crate) fn probe_loss(&self) -> Result<f64, NoiseError> {
        self.probe().loss(COUNT_STEPS as f64)
    }

    /// Returns OpenDP's upper bound on the loss of a release of this depth: an epsilon, or a rho.
    pub(crate) fn loss(&self, depth: usize) -> Result<f64, NoiseError> {
        let mut stages = self.stages(depth).into_iter().zip(0..);
        stages.try_fold(self.probe_loss()?, |loss, (stage, level)| {
            let counts = match stage.count {
                Some(count) => count.loss(self.count_sensitivity(level))?,
                None => 0.0,
            };
            Ok(loss + counts + stage.sum.loss(self.stage_sensitivity(level, depth))?)
        })
    }

    fn stage(&self, level: usize, depth: usize) -> StageNoise {
        let weight = |level: usize| LEVEL_GROWTH.powi(level as i32);
        let total: f64 = (0..=depth).map(weight).sum();
        let share = (1.0 - PROBE_SHARE) * weight(level) / total;
        let count_part = if level == 0 { 0.0 } else { self.count_part() };
        StageNoise {
            count: (level > 0)
                .then(|| self.scale(self.count_sensitivity(level), share * count_part)),
            sum: self.scale(self.stage_sensitivity(level, depth), share * (1.0 - count_part)),
        }
    }

    /// The part of a stage's budget for counts that makes a centroid's error smallest, in the channel
    /// of a behaviour at the edge of its bounds: the minimum over c of `(D / 2)^2 / (1 - c)^2 +
    /// (1 / 2)^2 / c^2` for Laplace noise, and of `D / 4 / (1 - c) + 1 / 4 / c` for Gaussian.
    fn count_part(&self) -> f64 {
        let dim = self.dim as f64;
        match self.terms.mechanism() {
            Mechanism::Laplace => 1.0 / (1.0 + dim.powf(2.0 / 3.0)),
            Mechanism::Gaussian => 1.0 / (1.0 + dim.sqrt()),
        }
    }

    /// The part of the units that each cell gets if they spread evenly.
    fn even_part(&self, depth: usize) -> f64 {
        let cells = 1 << depth;
        self.terms.cells_changed(cells) as f64 / cells as f64
    }

    /// How much one unit changes the counts of a level: by one, in so many cells.
    fn count_sensitivity(&self, level: usize) -> f64 {
        let cells = self.terms.cells_changed(1 << level) as f64;
        COUNT_STEPS as f64 * self.norm(cells)
    }

    /// How much one unit changes the centred sums of a level: by at most half a range, in so many cells
    /// and all of their channels.
    fn sum_sensitivity(&self, level: usize) -> f64 {
        let cells = self.terms.cells_changed(1 << level) as f64;
        STEP_MAX as f64 * self.norm(cells * self.dim as f64)
    }

    /// How much one unit changes the sums of a level across one direction: in so many cells by at most half a range for
    /// each channel, whichever sign the direction has there.
    fn split_sensitivity(&self, level: usize) -> f64 {
        let cells = self.terms.cells_changed(1 << level) as f64;
        STEP_MAX as f64 * self.dim as f64 * self.norm(cells)
    }

    fn stage_sensitivity(&self, level: usize, depth: usize) -> f64 {
        if level == depth { self.sum_sensitivity(level) } else { self.split_sensitivity(level) }
    }

    /// The norm of as many ones: L1 for Laplace noise, L2 for Gaussian, rounded up.
    fn norm(&self, ones: f64) -> f64 {
        match self.terms.mechanism() {
            Mechanism::Laplace => ones,
            Mechanism::Gaussian => ones.sqrt().next_up(),
        }
    }

    /// The least noise whose loss is at most this share of the whole. Rounds up: more noise, never less.
    fn scale(&self, sensitivity: f64, share: f64) -> Scale {
        let loss = self.total * share;
        let steps = match self.terms.mechanism() {
            Mechanism::Laplace => sensitivity / loss,
            Mechanism::Gaussian => sensitivity / (2.0 * loss).sqrt(),
        };
        Scale { mechanism: self.terms.mechanism(), steps: steps.ceil() as u64 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::epsilon::Epsilon;
    use crate::terms::Unit;

    fn terms(unit: Unit, mechanism: Mechanism, epsilon: f64, cells_max: u8) -> Terms {
        let delta = if mechanism == Mechanism::Laplace { 0.0 } else { 1e-6 };
        Terms::new(unit, mechanism, Epsilon::new(epsilon).unwrap(), delta, cells_max).unwrap()
    }

    fn plan(terms: Terms, dim: usize) -> Plan {
        let rho = Rho::within(terms.epsilon(), terms.delta());
        Plan::new(terms, rho, dim, 0.08)
    }

    proptest! {
        #[test]
        fn queries_never_cost_more_than_the_whole(
            nanos in 1_000_000u64..=100_000_000_000, dim in 1usize..=4096, depth in 1usize..=4,
            cells_max in 1u8..=16, is_gaussian in any::<bool>(),
        ) {
            let mechanism = if is_gaussian { Mechanism::Gaussian } else { Mechanism::Laplace };
            let epsilon = nanos as f64 / 1e9;
            let plan = plan(terms(Unit::Entity, mechanism, epsilon, cells_max), dim);
            let whole = plan.total / (1.0 - SLACK);
            let loss = plan.loss(depth).unwrap();
            prop_assert!(loss <= whole, "{loss}");
            // Nor do they waste more than rounding a scale up to the next step wastes.
            prop_assert!(loss >= whole * 0.9, "{loss}");
        }
    }

    #[test]
    fn plan_agrees_with_the_closed_form() {
        let plan = plan(terms(Unit::Observation, Mechanism::Laplace, 1.0, 1), 19);
        let leaf = 0.95 * 81.0 / 121.0;
        let for_counts = 1.0 / (1.0 + 19f64.powf(2.0 / 3.0));
        let sum_scale = 19.0 / 2.0 / ((1.0 - for_counts) * leaf);
        let count_scale = 1.0 / (for_counts * leaf);
        let stages = plan.stages(4);
        let found = stages[4].sum.steps as f64 / STEPS as f64;
        assert!((found - sum_scale).abs() < 1e-5, "{found} {sum_scale}");
        let found = stages[4].count.unwrap().steps as f64 / COUNT_STEPS as f64;
        assert!((found - count_scale).abs() < 1e-2, "{found} {count_scale}");
        // Across a direction lies half a range for each channel.
        let found = stages[0].sum.steps as f64 / STEPS as f64;
        let split_scale = 19.0 / 2.0 / (0.95 / 121.0);
        assert!((found - split_scale).abs() < 1e-5, "{found} {split_scale}");
        let count_min = 2f64.sqrt() * sum_scale.hypot(count_scale / 2.0) / 0.08;
        assert!((plan.count_min(4) - count_min).abs() < 0.1);
    }

    #[test]
    fn gaussian_plan_agrees_with_the_closed_form() {
        let terms = terms(Unit::Entity, Mechanism::Gaussian, 1.0, 4);
        let rho = Rho::within(terms.epsilon(), terms.delta()).as_f64();
        let leaf = rho * 0.95 * 9.0 / 13.0;
        let for_counts = 1.0 / (1.0 + 19f64.sqrt());
        // Four cells of 19 channels, each by half a range.
        let deviation = (4.0 * 19.0_f64).sqrt() / 2.0 / (2.0 * (1.0 - for_counts) * leaf).sqrt();
        let stages = plan(terms, 19).stages(2);
        let found = stages[2].sum.steps as f64 / STEPS as f64;
        assert!((found - deviation).abs() < 1e-5, "{found} {deviation}");
        // Two cells, in each of which half a range for each channel lies across a direction.
        let split = rho * 0.95 * 3.0 / 13.0;
        let deviation = 2f64.sqrt() * 19.0 / 2.0 / (2.0 * (1.0 - for_counts) * split).sqrt();
        let found = stages[1].sum.steps as f64 / STEPS as f64;
        assert!((found - deviation).abs() < 1e-5, "{found} {deviation}");
    }

    #[test]
    fn more_units_allow_a_deeper_partition_and_too_few_none() {
        for mechanism in [Mechanism::Laplace, Mechanism::Gaussian] {
            for (unit, cells_max) in [(Unit::Observation, 1), (Unit::Entity, 4)] {
                let plan = plan(terms(unit, mechanism, 1.0, cells_max), 19);
                let needed = plan.units_needed() as f64;
                assert!(plan.depth(needed).is_some());
                assert_eq!(plan.depth(plan.count_min(1) - 1.0), None);
                let depths = [1.0, 4.0, 16.0, 256.0].map(|times| plan.depth(times * needed));
                assert!(depths.is_sorted() && depths[3] == Some(DEPTH_MAX), "{depths:?}");
            }
        }
    }

    #[test]
    fn fewer_units_are_needed_with_more_epsilon_or_gaussian_noise() {
        let needed = |mechanism, epsilon| {
            plan(terms(Unit::Entity, mechanism, epsilon, 4), 19).units_needed()
        };
        assert!(needed(Mechanism::Laplace, 10.0) < needed(Mechanism::Laplace, 1.0) / 9);
        assert!(needed(Mechanism::Gaussian, 1.0) < needed(Mechanism::Laplace, 1.0) / 2);
    }
}
