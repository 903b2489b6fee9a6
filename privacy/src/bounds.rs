//! Public bounds per channel, and the integer grid that bounded observations live on.
//!
//! Bounds are chosen without looking at the data (from what a channel means: a load is a part of 1).
//! Everything after clipping counts in steps of `2^-20` of a channel's range, measured from its
//! midpoint. On integers a sum is exact, so the sensitivities claimed for it hold to the last bit;
//! sums of floats do not have that property (Casacuberta, Shoemate, Vadhan and Wagaman, "Widespread
//! Underestimation of Sensitivity in Differentially Private Libraries and How to Fix It", 2022).

/// Grid steps in a channel's range.
pub(crate) const STEPS: i64 = 1 << 20;
/// The largest distance of a grid value from the midpoint.
pub(crate) const STEP_MAX: i64 = STEPS / 2;

/// The largest dimension of a collection.
pub(crate) const DIM_MAX: usize = 4096;

/// The public range of every channel. Values outside are clipped to it before anything else.
#[derive(Clone, Debug, PartialEq)]
pub struct Bounds {
    lower: Vec<f32>,
    upper: Vec<f32>,
}

/// Why bounds were refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BoundsError {
    /// There are no channels, or too many.
    #[error("{dim} channels, expected 1 to {DIM_MAX}")]
    Dim {
        /// How many.
        dim: usize,
    },
    /// The two sides have different numbers of channels.
    #[error("{lower} lower bounds but {upper} upper bounds")]
    Length {
        /// How many lower ones.
        lower: usize,
        /// How many upper ones.
        upper: usize,
    },
    /// A bound is not finite, or the lower is not below the upper.
    #[error("channel {channel}: bounds {lower} to {upper} are no finite range")]
    Range {
        /// Which channel, from 0.
        channel: usize,
        /// Its lower bound.
        lower: f32,
        /// Its upper bound.
        upper: f32,
    },
}

impl Bounds {
    /// Takes the bounds of every channel.
    ///
    /// # Errors
    ///
    /// Unless both sides have the same number of channels, 1 to 4,096, and each is a finite range.
    pub fn new(lower: Vec<f32>, upper: Vec<f32>) -> Result<Self, BoundsError> {
        if lower.len() != upper.len() {
            return Err(BoundsError::Length { lower: lower.len(), upper: upper.len() });
        }
        if lower.is_empty() || lower.len() > DIM_MAX {
            return Err(BoundsError::Dim { dim: lower.len() });
        }
        for (channel, (&low, &up)) in lower.iter().zip(&upper).enumerate() {
            // The range itself must be finite in the arithmetic that uses it, which is f64.
            if !(low.is_finite() && up.is_finite() && low < up) {
                return Err(BoundsError::Range { channel, lower: low, upper: up });
            }
        }
        Ok(Self { lower, upper })
    }

    /// Takes one range for `dim` channels.
    ///
    /// # Errors
    ///
    /// As [`Bounds::new`].
    pub fn uniform(dim: usize, lower: f32, upper: f32) -> Result<Self, BoundsError> {
        if dim == 0 || dim > DIM_MAX {
            return Err(BoundsError::Dim { dim });
        }
        Self::new(vec![lower; dim], vec![upper; dim])
    }

    /// Returns the number of channels.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.lower.len()
    }

    /// Returns the lower bound of every channel.
    #[must_use]
    pub fn lower(&self) -> &[f32] {
        &self.lower
    }

    /// Returns the upper bound of every channel.
    #[must_use]
    pub fn upper(&self) -> &[f32] {
        &self.upper
    }

    /// Returns the grid value of a finite `value` in `channel`, clipped to the bounds.
    pub(crate) fn to_grid(&self, channel: usize, value: f32) -> i32 {
        let (middle, range) = self.middle_and_range(channel);
        let steps = ((f64::from(value) - middle) / range * STEPS as f64).round();
        // In range by the clamp, and finite because the value is and the range is not 0.
        steps.clamp(-STEP_MAX as f64, STEP_MAX as f64) as i32
    }

    /// Returns the value at `steps` (which need not be whole), clipped to the bounds.
    pub(crate) fn value_at(&self, channel: usize, steps: f64) -> f32 {
        let (middle, range) = self.middle_and_range(channel);
        let value = middle + steps / STEPS as f64 * range;
        (value as f32).clamp(self.lower[channel], self.upper[channel])
    }

    fn middle_and_range(&self, channel: usize) -> (f64, f64) {
        let (lower, upper) = (f64::from(self.lower[channel]), f64::from(self.upper[channel]));
        (lower.midpoint(upper), upper - lower)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_that_are_none_are_refused() {
        for (lower, upper) in [(1.0, 1.0), (2.0, 1.0), (f32::NAN, 1.0), (0.0, f32::INFINITY)] {
            let refused = Bounds::new(vec![0.0, lower], vec![1.0, upper]);
            assert!(matches!(refused, Err(BoundsError::Range { channel: 1, .. })), "{refused:?}");
        }
        assert!(Bounds::new(vec![0.0], vec![]).is_err());
        assert!(Bounds::new(vec![], vec![]).is_err());
        assert!(Bounds::uniform(DIM_MAX + 1, 0.0, 1.0).is_err());
    }

    proptest! {
        #[test]
        fn every_finite_value_lands_on_the_grid_within_half_a_step(
            low in -1e30f32..1e30, width in 1e-3f32..1e30, value in any::<f32>(),
        ) {
            prop_assume!(value.is_finite() && low < low + width);
            let bounds = Bounds::new(vec![low], vec![low + width]).unwrap();
            let steps = bounds.to_grid(0, value);
            prop_assert!(i64::from(steps).abs() <= STEP_MAX);
            let back = f64::from(bounds.value_at(0, f64::from(steps)));
            let range = f64::from(low + width) - f64::from(low);
            let clipped = f64::from(value.clamp(low, low + width));
            // Half a step, and the rounding of the result to f32.
            let tolerance = range / STEPS as f64 * 0.51 + back.abs() * 1e-7;
            prop_assert!((back - clipped).abs() <= tolerance, "{back} {clipped}");
        }
    }
}
