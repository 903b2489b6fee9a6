//! Three decaying sums, and the score they make.
//!
//! With prior `p`, earned `e`, grave `g` and slight `s`:
//!
//! ```text
//! score = (p + e) / (2p + e + g + s)
//! ```
//!
//! This is the mean of a Beta(p + e, p + g + s) distribution (Jøsang and Ismail, "The Beta
//! Reputation System", 2002, eq. 3, with their prior of 1 replaced by `p`), with forgetting by
//! half-life in place of their forgetting factor. It rises in `e` and falls in `g` and `s`. Every
//! step below keeps the order of two sums that were ordered before it, so an extra good deed never
//! ends in a lower score and an extra bad one never in a higher, at any later time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{HalfLives, Weights};
use crate::evidence::Evidence;

/// What is held for and against a peer at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sums {
    pub(crate) earned: f64,
    pub(crate) grave: f64,
    pub(crate) slight: f64,
}

impl Sums {
    /// Returns the score, strictly between 0 and 1; 0.5 for a newcomer.
    pub(crate) fn score(&self, weights: &Weights) -> f64 {
        let good = weights.prior + self.earned;
        good / (good + weights.prior + self.grave + self.slight)
    }

    /// Returns what is left after `elapsed_ms`.
    pub(crate) fn decayed(&self, elapsed_ms: u64, half_lives: &HalfLives) -> Self {
        Self {
            earned: faded(self.earned, elapsed_ms, half_lives.earned),
            grave: faded(self.grave, elapsed_ms, half_lives.grave),
            slight: faded(self.slight, elapsed_ms, half_lives.slight),
        }
    }

    /// Returns the sums with what others say held against the peer. Slight evidence and hearsay share one
    /// ceiling, so that they do no more together than slight evidence alone.
    pub(crate) fn with_hearsay(&self, hearsay: f64, weights: &Weights) -> Self {
        let most = weights.slight_max.max(self.slight);
        Self { slight: (self.slight + hearsay.min(weights.hearsay_max)).min(most), ..*self }
    }

    /// Returns the sums with one piece of evidence added.
    pub(crate) fn with(&self, evidence: Evidence, weights: &Weights) -> Self {
        match evidence {
            Evidence::Served { blocks } => {
                self.with_earned(f64::from(blocks) * weights.block_served, weights)
            }
            Evidence::Session { seconds } => {
                self.with_earned(f64::from(seconds) / 3600.0 * weights.session_hour, weights)
            }
            Evidence::WrongCid => self.with_grave(weights.wrong_cid, weights),
            Evidence::BadSignature => self.with_grave(weights.bad_signature, weights),
            Evidence::ProtocolViolation => self.with_grave(weights.violation, weights),
            Evidence::Timeout => self.with_slight(weights.timeout, weights),
            Evidence::NotServed => self.with_slight(weights.not_served, weights),
            Evidence::ReplicaLost => self.with_slight(weights.replica_lost, weights),
            Evidence::WrongProof => self.with_grave(weights.wrong_proof, weights),
            Evidence::Equivocation => self.with_grave(weights.equivocation, weights),
            Evidence::DoubtfulTemplates => self.with_slight(weights.doubtful_templates, weights),
        }
    }

    /// Returns sums that could have come from evidence: bytes from disk are suspect, and a sum that
    /// is no number counts as the worst there is.
    pub(crate) fn sane(&self, weights: &Weights) -> Self {
        Self {
            earned: Some(self.earned)
                .filter(|sum| sum.is_finite())
                .map_or(0.0, |sum| sum.clamp(0.0, weights.earned_max)),
            grave: worst_if_odd(self.grave, weights.grave_max),
            slight: worst_if_odd(self.slight, weights.slight_max),
        }
    }

    fn with_earned(&self, weight: f64, weights: &Weights) -> Self {
        Self { earned: (self.earned + weight).min(weights.earned_max), ..*self }
    }

    fn with_grave(&self, weight: f64, weights: &Weights) -> Self {
        Self {
            earned: self.earned * weights.earned_kept,
            grave: (self.grave + weight).min(weights.grave_max),
            ..*self
        }
    }

    fn with_slight(&self, weight: f64, weights: &Weights) -> Self {
        Self { slight: (self.slight + weight).min(weights.slight_max), ..*self }
    }
}

fn worst_if_odd(sum: f64, max: f64) -> f64 {
    if sum.is_finite() && sum >= 0.0 { sum.min(max) } else { max }
}

/// What is left of a sum. Most sums of most peers are nothing, and the gate is asked often.
fn faded(sum: f64, elapsed_ms: u64, half_life: Duration) -> f64 {
    if sum == 0.0 { sum } else { sum * kept(elapsed_ms, half_life) }
}

/// The part of a sum that is left: `2^(-elapsed / half_life)`.
pub(crate) fn kept(elapsed_ms: u64, half_life: Duration) -> f64 {
    // The cast rounds beyond 2^53 ms, some 285,000 years.
    (-(elapsed_ms as f64) / (half_life.as_secs_f64() * 1000.0)).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newcomer_scores_one_half() {
        assert_eq!(Sums::default().score(&Weights::default()), 0.5);
    }

    #[test]
    fn half_is_left_after_a_half_life() {
        let sums = Sums { earned: 4.0, grave: 2.0, slight: 1.0 };
        let half_lives = HalfLives::default();
        let later = sums.decayed(half_lives.earned.as_millis() as u64, &half_lives);
        assert_eq!(later.earned, 2.0);
        assert_eq!(later.grave, 1.0);
        assert!(later.slight < 1e-30);
    }

    #[test]
    fn sums_that_are_no_numbers_count_as_the_worst() {
        let weights = Weights::default();
        let odd = Sums { earned: f64::INFINITY, grave: f64::NAN, slight: -1.0 };
        let sane = odd.sane(&weights);
        assert_eq!(sane.earned, 0.0);
        assert_eq!(sane.grave, weights.grave_max);
        assert_eq!(sane.slight, weights.slight_max);
    }
}
