//! The mechanism under attack, and what is planted in it. Production code has no such switches: these bugs
//! stand between the release and OpenDP, where a hasty patch might put them.

use crate::bounds::STEP_MAX;
use crate::noise::{Noise, NoiseError, OpenDp, Scale};
use crate::plan::COUNT_STEPS;

/// What is wrong with a mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    None,
    /// Sums, across a direction too, are taken from the lower bounds, so that one vector is up to a whole range; the
    /// noise is scaled for half of one. Of one channel.
    UncentredSum,
    /// Counts of cells are released as they are.
    UnnoisedCount,
    /// Noise is drawn and added as `f32`, from a uniform number of 24 bits (Mironov, "On Significance of
    /// the Least Significant Bits for Differential Privacy", 2012).
    SinglePrecision,
}

/// One query as it reached the noise.
pub(super) struct Asked {
    pub(super) values: Vec<i64>,
    pub(super) answer: Vec<i64>,
    pub(super) scale: Scale,
}

/// Noise with a bug, that remembers all; or, given answers, a replay of them.
pub(super) struct Noised<'a> {
    bug: Bug,
    answers: Option<&'a [Vec<i64>]>,
    asked: Vec<Asked>,
    /// The counts of the stage whose sums come next, in steps, un-noised.
    counts: Vec<i64>,
}

impl<'a> Noised<'a> {
    pub(super) fn new(bug: Bug, answers: Option<&'a [Vec<i64>]>) -> Self {
        Self { bug, answers, asked: Vec::new(), counts: Vec::new() }
    }

    pub(super) fn into_asked(self) -> Vec<Asked> {
        self.asked
    }

    /// The probe, how the whole lies across a direction, and then counts and sums of each level take turns.
    fn is_count(&self) -> bool {
        self.asked.len().is_multiple_of(2)
    }

    fn answer(&self, values: &[i64], scale: Scale) -> Result<Vec<i64>, NoiseError> {
        if let Some(answers) = self.answers {
            return Ok(answers[self.asked.len()].clone());
        }
        match self.bug {
            Bug::UnnoisedCount if self.is_count() && !self.asked.is_empty() => Ok(values.to_vec()),
            Bug::SinglePrecision => {
                let bits = OpenDp.add(vec![0; values.len()], Scale { steps: 1 << 40, ..scale })?;
                let noised = values.iter().zip(bits).map(|(&value, bits)| {
                    let (uniform, is_negative) = (bits & 0xff_ffff, bits >> 24 & 1 == 1);
                    in_single_precision(value, uniform, is_negative, scale.steps)
                });
                Ok(noised.collect())
            }
            _ => OpenDp.add(values.to_vec(), scale),
        }
    }
}

impl Noise for Noised<'_> {
    fn add(&mut self, mut values: Vec<i64>, scale: Scale) -> Result<Vec<i64>, NoiseError> {
        if self.is_count() {
            self.counts.clone_from(&values);
        } else if self.bug == Bug::UncentredSum {
            // A direction of one channel is a sign: that of the whole is negative, that of the next level not.
            assert_eq!(values.len(), self.counts.len());
            let sign = if self.asked.len() == 1 { -1 } else { 1 };
            for (sum, count) in values.iter_mut().zip(&self.counts) {
                *sum += sign * STEP_MAX * (count / COUNT_STEPS);
            }
        }
        let answer = self.answer(&values, scale)?;
        self.asked.push(Asked { values, answer: answer.clone(), scale });
        Ok(answer)
    }
}

/// Laplace noise as a textbook has it, from `uniform` of 24 bits.
fn in_single_precision(value: i64, uniform: i64, is_negative: bool, steps: u64) -> i64 {
    let part = (uniform + 1) as f32 / (1 << 24) as f32;
    let noise = -(steps as f32) * part.ln();
    (value as f32 + if is_negative { -noise } else { noise }).round() as i64
}

/// Whether some noise in single precision turns `value` into `answer`.
pub(super) fn is_reachable(value: i64, answer: i64, steps: u64) -> bool {
    let distance = (answer - value) as f64;
    let nearest = ((-distance.abs() / steps as f64).exp() * f64::from(1 << 24)).round() as i64 - 1;
    // Single precision moves an answer by a few steps, and so the noise by a few of its own.
    (nearest - 8..=nearest + 8)
        .filter(|uniform| (0..1 << 24).contains(uniform))
        .any(|uniform| in_single_precision(value, uniform, distance < 0.0, steps) == answer)
}
