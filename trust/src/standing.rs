//! What a peer may do in four words, and how a score turns into one of them.

use std::{fmt, time::Duration};

use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};

use crate::config::Thresholds;

/// What a peer may do. [`crate::Operation::admits`] says which operation needs which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// For good: no evidence, restart or passing of time leads out of it.
    Revoked,
    /// Not heard: what it sends changes nothing. Ends when its bad evidence has decayed.
    Quarantined,
    /// Where every peer starts.
    Probation,
    /// Has served well for long enough.
    Trusted,
}

impl Standing {
    /// Every standing, from the least to the most.
    pub const ALL: [Self; 4] = [Self::Revoked, Self::Quarantined, Self::Probation, Self::Trusted];

    /// Returns the word used in docs, logs and the HTTP API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Quarantined => "quarantined",
            Self::Probation => "probation",
            Self::Trusted => "trusted",
        }
    }

    /// Returns the standing that follows `self` at `score`.
    ///
    /// The two thresholds on each side (hysteresis) keep a score that hovers from flapping the
    /// standing. It is monotone in both `self` and `score`, so better conduct never ends worse. `known_for` is how
    /// long ago the peer was first seen.
    pub(crate) fn next(self, score: f64, known_for: Duration, thresholds: &Thresholds) -> Self {
        match self.by_score(score, thresholds) {
            Self::Trusted if known_for < thresholds.trust_after => Self::Probation,
            next => next,
        }
    }

    fn by_score(self, score: f64, thresholds: &Thresholds) -> Self {
        match self {
            Self::Revoked => Self::Revoked,
            Self::Quarantined if score < thresholds.release_at => Self::Quarantined,
            _ if score <= thresholds.quarantine_at => Self::Quarantined,
            _ if score >= thresholds.trust_at => Self::Trusted,
            Self::Trusted if score >= thresholds.keep_at => Self::Trusted,
            _ => Self::Probation,
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A peer whose standing an observation moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandingChange {
    /// Whose.
    pub peer: PeerId,
    /// Before the observation.
    pub from: Standing,
    /// After it.
    pub to: Standing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_score_or_better_past_never_ends_worse() {
        let thresholds = Thresholds::default();
        for (worse, better) in Standing::ALL.iter().zip(Standing::ALL.iter().skip(1)) {
            for percent in 0..=100 {
                let score = f64::from(percent) / 100.0;
                let higher = (score + 0.01).min(1.0);
                for known_for in [Duration::ZERO, thresholds.trust_after] {
                    let next = |from: &Standing, score| from.next(score, known_for, &thresholds);
                    assert!(next(worse, score) <= next(better, score));
                    assert!(next(better, score) <= next(better, higher));
                    let longer = better.next(score, Duration::MAX, &thresholds);
                    assert!(next(better, score) <= longer);
                }
            }
        }
    }

    #[test]
    fn thresholds_have_hysteresis() {
        let thresholds = Thresholds::default();
        let known_for = thresholds.trust_after;
        let between = (thresholds.quarantine_at + thresholds.release_at) / 2.0;
        assert_eq!(
            Standing::Quarantined.next(between, known_for, &thresholds),
            Standing::Quarantined
        );
        assert_eq!(Standing::Probation.next(between, known_for, &thresholds), Standing::Probation);
        let between = (thresholds.keep_at + thresholds.trust_at) / 2.0;
        assert_eq!(Standing::Trusted.next(between, known_for, &thresholds), Standing::Trusted);
        assert_eq!(Standing::Probation.next(between, known_for, &thresholds), Standing::Probation);
    }

    #[test]
    fn a_newcomer_is_not_trusted_whatever_it_did() {
        let thresholds = Thresholds::default();
        let nearly = thresholds.trust_after - Duration::from_millis(1);
        assert_eq!(Standing::Probation.next(1.0, nearly, &thresholds), Standing::Probation);
        let enough = thresholds.trust_after;
        assert_eq!(Standing::Probation.next(1.0, enough, &thresholds), Standing::Trusted);
    }

    #[test]
    fn revoked_stays_revoked_at_any_score() {
        assert_eq!(
            Standing::Revoked.next(1.0, Duration::MAX, &Thresholds::default()),
            Standing::Revoked
        );
    }
}
