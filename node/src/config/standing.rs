//! `[trust]`: the numbers behind a peer's score. `docs/trust.md` has the formula.

use std::{ops::RangeInclusive, time::Duration};

use dunlin_trust::{
    ConfigError, HALF_LIFE_MAX, HALF_LIFE_MIN, HalfLives, PEERS_MAX, PRIOR_MIN, Thresholds,
    WEIGHT_MAX, Weights,
};

use super::reader::Section;

const HOUR_SECS: f64 = 3_600.0;

/// How the node judges its peers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TrustConfig {
    /// What evidence adds.
    pub(crate) weights: Weights,
    /// How fast it fades.
    pub(crate) half_lives: HalfLives,
    /// Where scores turn into standings.
    pub(crate) thresholds: Thresholds,
    /// Most peers remembered.
    pub(crate) peers_max: usize,
}

impl TrustConfig {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let peers_max = section.integer("peers_max", PEERS_MAX as u64, 1..=PEERS_MAX as u64);
        let trust = Self {
            weights: weights(section),
            half_lives: half_lives(section),
            thresholds: thresholds(section),
            peers_max: usize::try_from(peers_max).unwrap_or(PEERS_MAX),
        };
        let together = dunlin_trust::Config {
            weights: trust.weights,
            half_lives: trust.half_lives,
            thresholds: trust.thresholds,
            peers_max: trust.peers_max,
            ..dunlin_trust::Config::default()
        };
        // What is wrong alone was refused and has its default here.
        for mistake in together.mistakes() {
            let key = match mistake {
                ConfigError::SlightQuarantines { .. } => "slight_max",
                ConfigError::PresenceTrusts { .. } => "session_hour",
                _ => "trust_at",
            };
            section.object(key, &mistake.to_string());
        }
        trust
    }
}

fn weights(section: &mut Section<'_>) -> Weights {
    let default = Weights::default();
    let mut weight = |key, default| section.float(key, default, 0.0..=WEIGHT_MAX);
    let mut weights = Weights {
        block_served: weight("block_served", default.block_served),
        session_hour: weight("session_hour", default.session_hour),
        earned_max: weight("earned_max", default.earned_max),
        wrong_cid: weight("wrong_cid", default.wrong_cid),
        bad_signature: weight("bad_signature", default.bad_signature),
        wrong_proof: weight("wrong_proof", default.wrong_proof),
        equivocation: weight("equivocation", default.equivocation),
        violation: weight("violation", default.violation),
        grave_max: weight("grave_max", default.grave_max),
        timeout: weight("timeout", default.timeout),
        not_served: weight("not_served", default.not_served),
        replica_lost: weight("replica_lost", default.replica_lost),
        doubtful_templates: weight("doubtful_templates", default.doubtful_templates),
        slight_max: weight("slight_max", default.slight_max),
        hearsay: weight("hearsay", default.hearsay),
        hearsay_max: weight("hearsay_max", default.hearsay_max),
        ..default
    };
    weights.prior = section.float("prior", default.prior, PRIOR_MIN..=WEIGHT_MAX);
    weights.earned_kept = section.float("earned_kept", default.earned_kept, 0.0..=1.0);
    weights
}

/// Reads a time in hours, as whole seconds, since rounding could leave the range.
fn hours(
    section: &mut Section<'_>,
    key: &'static str,
    default: Duration,
    range: RangeInclusive<Duration>,
) -> Duration {
    let hours = |time: &Duration| time.as_secs_f64() / HOUR_SECS;
    let range = hours(range.start())..=hours(range.end());
    let chosen = section.float(key, hours(&default), range);
    Duration::from_secs((chosen * HOUR_SECS).round() as u64)
}

fn half_lives(section: &mut Section<'_>) -> HalfLives {
    let default = HalfLives::default();
    let mut half_life = |key, default| hours(section, key, default, HALF_LIFE_MIN..=HALF_LIFE_MAX);
    HalfLives {
        earned: half_life("earned_half_life_hours", default.earned),
        grave: half_life("grave_half_life_hours", default.grave),
        slight: half_life("slight_half_life_hours", default.slight),
        hearsay: half_life("hearsay_half_life_hours", default.hearsay),
    }
}

fn thresholds(section: &mut Section<'_>) -> Thresholds {
    let default = Thresholds::default();
    let mut threshold = |key, default| section.float(key, default, 0.0..=1.0);
    Thresholds {
        quarantine_at: threshold("quarantine_at", default.quarantine_at),
        release_at: threshold("release_at", default.release_at),
        keep_at: threshold("keep_at", default.keep_at),
        trust_at: threshold("trust_at", default.trust_at),
        trust_after: hours(
            section,
            "trust_after_hours",
            default.trust_after,
            Duration::ZERO..=HALF_LIFE_MAX,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let text = "
            [trust]
            prior = 0
            wrong_cid = -1
            grave_half_life_hours = 0.001
            peers_max = 100001
            release_at = 0.1
            eqivocation = 3
        ";
        let message = Config::parse(text).unwrap_err().to_string();
        for part in [
            "6 mistakes",
            "trust.prior",
            "trust.wrong_cid",
            "trust.grave_half_life_hours",
            "trust.peers_max",
            "quarantine_at < release_at",
            "did you mean `equivocation`",
        ] {
            assert!(message.contains(part), "{part} is not in:\n{message}");
        }
    }

    #[test]
    fn numbers_that_break_a_promise_together_are_refused() {
        let text = "[trust]\nslight_max = 8\nsession_hour = 0.1\n";
        let message = Config::parse(text).unwrap_err().to_string();
        for part in ["trust.slight_max", "below 8 slight", "trust.session_hour", "below 5.33"] {
            assert!(message.contains(part), "{part} is not in:\n{message}");
        }
        let config = Config::parse("[trust]\nslight_half_life_hours = 0.5\n").unwrap();
        assert_eq!(config.trust.half_lives.slight.as_secs(), 1_800);
    }
}
