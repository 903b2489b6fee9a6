//! The numbers behind a score. `docs/trust.md` publishes the defaults with their reasons.

use std::collections::BTreeSet;
use std::time::Duration;

use libp2p_identity::PeerId;

use crate::authorities::Authorities;

/// Largest weight, so that no sum of them leaves what a float counts well.
pub const WEIGHT_MAX: f64 = 1e6;

/// Smallest prior. Below it the first evidence of any kind would decide.
pub const PRIOR_MIN: f64 = 0.01;

/// Shortest half-life. Below it evidence is gone before a node has written it down.
pub const HALF_LIFE_MIN: Duration = Duration::from_secs(60);

/// Longest half-life, ten years.
pub const HALF_LIFE_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Most peers that can be remembered, about 60 MiB of memory and 20 MiB on disk.
pub const PEERS_MAX: usize = 100_000;

/// How this node judges its peers.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The operator's own peers: the only ones that `private` segments are served to. Being one
    /// gives no score; an own peer that lies is quarantined like any other. Default: none.
    pub own_peers: BTreeSet<PeerId>,
    /// Who licenses peers and revokes them in a closed network. Default: nobody; the network is open.
    pub authorities: Option<Authorities>,
    /// What each kind of evidence adds, and the prior it is weighed against.
    pub weights: Weights,
    /// How fast evidence fades.
    pub half_lives: HalfLives,
    /// Where scores turn into standings.
    pub thresholds: Thresholds,
    /// Most peers remembered. Default [`PEERS_MAX`]. Higher remembers more strangers between
    /// their visits; when full, the peer whose record says least is forgotten first, but never a
    /// revoked or own peer, and a quarantined one only when they are more than half. Range: 1 to [`PEERS_MAX`].
    pub peers_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            own_peers: BTreeSet::new(),
            authorities: None,
            weights: Weights::default(),
            half_lives: HalfLives::default(),
            thresholds: Thresholds::default(),
            peers_max: PEERS_MAX,
        }
    }
}

/// What evidence adds to the three sums of a record. All are from 0 to [`WEIGHT_MAX`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// The prior on each side: how much evidence it takes to move a newcomer away from 0.5.
    /// Default 4. Higher makes every judgement slower, in both directions. Above 0.
    pub prior: f64,
    /// Earned by one verified block. Default 0.02: trust after some 270 of them.
    pub block_served: f64,
    /// Earned by one hour connected. Default 0.02: too little to become trusted by it alone.
    pub session_hour: f64,
    /// Most that can be earned, so that no past pays for a row of lies. Default 8.
    pub earned_max: f64,
    /// Grave: a block that does not match its CID. Default 9: a newcomer's first one quarantines.
    pub wrong_cid: f64,
    /// Grave: a signature that does not verify. Default 9.
    pub bad_signature: f64,
    /// Grave: a broken protocol. Default 3: a newcomer's third one quarantines.
    pub violation: f64,
    /// Grave: a proof of a block that it does not hold. Default 9: a newcomer's first one quarantines.
    pub wrong_proof: f64,
    /// Grave: two signed statements that cannot both be true. Default 9.
    pub equivocation: f64,
    /// Most grave evidence held against a peer, which bounds the longest quarantine. Default 64.
    pub grave_max: f64,
    /// What grave evidence leaves of what was earned: a factor in [0, 1]. Default 0.5.
    pub earned_kept: f64,
    /// Slight: a request that timed out. Default 0.25.
    pub timeout: f64,
    /// Slight: an announced thing that it did not have. Default 0.25.
    pub not_served: f64,
    /// Slight: an object that it had confirmed to hold, and lost. Default 1: disks fail, and who keeps its
    /// word counts more.
    pub replica_lost: f64,
    /// Slight: templates that others and one's own past contradict. Default 2: seen again and again it halves
    /// a newcomer's chances, and a peer that serves well gets over it.
    pub doubtful_templates: f64,
    /// Most slight evidence held against a peer. Default 6, which leaves a newcomer at 0.286:
    /// a slow or absent peer is used less, but only proof of misconduct quarantines.
    pub slight_max: f64,
    /// What one trusted peer's report about another adds to the slight sum of that. Default 1. Higher withholds
    /// trust on fewer voices; no value lets reports quarantine.
    pub hearsay: f64,
    /// Most that all reports about a peer add, however many trusted peers agree. Default 3, which takes trust
    /// from a peer that earned less than 6.5 and leaves it to others.
    pub hearsay_max: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            prior: 4.0,
            block_served: 0.02,
            session_hour: 0.02,
            earned_max: 8.0,
            wrong_cid: 9.0,
            bad_signature: 9.0,
            violation: 3.0,
            wrong_proof: 9.0,
            equivocation: 9.0,
            grave_max: 64.0,
            earned_kept: 0.5,
            timeout: 0.25,
            not_served: 0.25,
            replica_lost: 1.0,
            doubtful_templates: 2.0,
            slight_max: 6.0,
            hearsay: 1.0,
            hearsay_max: 3.0,
        }
    }
}

/// After how long half of the evidence of a sort has faded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HalfLives {
    /// Of what was earned. Default 7 days: a peer that stopped serving drifts back to probation.
    pub earned: Duration,
    /// Of grave evidence. Default 7 days: one lie of a newcomer quarantines it for 15 days.
    pub grave: Duration,
    /// Of slight evidence. Default 1 hour: a night offline is forgotten by noon.
    pub slight: Duration,
    /// Of what others report, from when they signed it. Default 1 day: who is accused and does nothing wrong is
    /// clear of it within days.
    pub hearsay: Duration,
}

impl Default for HalfLives {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let slight = Duration::from_secs(60 * 60);
        Self { earned: DAY * 7, grave: DAY * 7, slight, hearsay: DAY }
    }
}

/// Scores at which standings change: `quarantine_at < release_at <= keep_at < trust_at`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// At or below it a peer is quarantined. Default 0.25.
    pub quarantine_at: f64,
    /// A quarantined peer is released at or above it. Default 0.40.
    pub release_at: f64,
    /// A trusted peer stays so at or above it. Default 0.60.
    pub keep_at: f64,
    /// At or above it a peer is trusted. Default 0.70.
    pub trust_at: f64,
    /// How long after it was first seen a peer is trusted at the soonest, whatever it did. Keys cost nothing, and much
    /// can be served within minutes: time is what cannot be made. Default one hour.
    pub trust_after: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            quarantine_at: 0.25,
            release_at: 0.40,
            keep_at: 0.60,
            trust_at: 0.70,
            trust_after: Duration::from_secs(60 * 60),
        }
    }
}

/// A number that would break the score's guarantees.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A weight is negative, no number, above [`WEIGHT_MAX`], or below what it must be.
    #[error("weight {name} is {value}, outside its range")]
    Weight {
        /// Which.
        name: &'static str,
        /// What was given.
        value: f64,
    },
    /// A half-life is shorter than [`HALF_LIFE_MIN`] or longer than [`HALF_LIFE_MAX`].
    #[error("half-life {name} is {value:?}, outside its range")]
    HalfLife {
        /// Which.
        name: &'static str,
        /// What was given.
        value: Duration,
    },
    /// What is no proof of misconduct could quarantine: a slow link, or what others say.
    #[error(
        "slight_max is {slight_max}, but below {limit} slight evidence alone quarantines nobody; \
         lower it or quarantine_at, or raise the prior"
    )]
    SlightQuarantines {
        /// What was given.
        slight_max: f64,
        /// What it must be below, with this prior and this threshold.
        limit: f64,
    },
    /// Who stays connected and gives nothing could become trusted, and connections cost nothing.
    #[error(
        "by being connected alone a peer would earn {earned:.2}, but below {limit:.2} that never takes it to trust_at; \
         lower session_hour or its half-life, or raise trust_at or the prior"
    )]
    PresenceTrusts {
        /// Where it levels off.
        earned: f64,
        /// What it must be below, with this prior and this threshold.
        limit: f64,
    },
    /// The thresholds are not in order within (0, 1), or a newcomer would not start on probation.
    #[error(
        "thresholds must satisfy 0 < quarantine_at < release_at <= 0.5 <= keep_at < trust_at < 1"
    )]
    Thresholds,
    /// No peer could be remembered, or more than there is room for.
    #[error("peers_max must be from 1 to {PEERS_MAX}")]
    PeersMax,
}

impl Config {
    /// Returns every mistake, or none.
    #[must_use]
    pub fn mistakes(&self) -> Vec<ConfigError> {
        let mut mistakes = self.weights.mistakes();
        let half_lives = [
            ("earned", self.half_lives.earned),
            ("grave", self.half_lives.grave),
            ("slight", self.half_lives.slight),
            ("hearsay", self.half_lives.hearsay),
        ];
        mistakes.extend(
            half_lives
                .into_iter()
                .filter(|(_, value)| !(HALF_LIFE_MIN..=HALF_LIFE_MAX).contains(value))
                .map(|(name, value)| ConfigError::HalfLife { name, value }),
        );
        if !self.thresholds.are_ordered() {
            mistakes.push(ConfigError::Thresholds);
        }
        if !(1..=PEERS_MAX).contains(&self.peers_max) {
            mistakes.push(ConfigError::PeersMax);
        }
        if mistakes.is_empty() {
            mistakes.extend(self.promises());
        }
        mistakes
    }

    /// Returns which promises numbers break that are each in their range.
    fn promises(&self) -> impl Iterator<Item = ConfigError> {
        let Weights { prior, slight_max, .. } = self.weights;
        // Where the score of a newcomer with so much against it is the threshold, and one with so much earned.
        let most_slight = prior / self.thresholds.quarantine_at - 2.0 * prior;
        let trust_at = self.thresholds.trust_at;
        let most_earned = prior * (2.0 * trust_at - 1.0) / (1.0 - trust_at);
        let earned = self.weights.earned_by_presence(self.half_lives.earned);
        let slight = (slight_max >= most_slight)
            .then_some(ConfigError::SlightQuarantines { slight_max, limit: most_slight });
        let presence = (earned >= most_earned)
            .then_some(ConfigError::PresenceTrusts { earned, limit: most_earned });
        slight.into_iter().chain(presence)
    }
}

impl Weights {
    fn mistakes(&self) -> Vec<ConfigError> {
        let any = 0.0..=WEIGHT_MAX;
        let positive = PRIOR_MIN..=WEIGHT_MAX;
        let fields = [
            ("prior", self.prior, positive),
            ("block_served", self.block_served, any.clone()),
            ("session_hour", self.session_hour, any.clone()),
            ("earned_max", self.earned_max, any.clone()),
            ("wrong_cid", self.wrong_cid, any.clone()),
            ("bad_signature", self.bad_signature, any.clone()),
            ("violation", self.violation, any.clone()),
            ("wrong_proof", self.wrong_proof, any.clone()),
            ("equivocation", self.equivocation, any.clone()),
            ("grave_max", self.grave_max, any.clone()),
            ("earned_kept", self.earned_kept, 0.0..=1.0),
            ("timeout", self.timeout, any.clone()),
            ("not_served", self.not_served, any.clone()),
            ("replica_lost", self.replica_lost, any.clone()),
            ("doubtful_templates", self.doubtful_templates, any.clone()),
            ("slight_max", self.slight_max, any.clone()),
            ("hearsay", self.hearsay, any.clone()),
            ("hearsay_max", self.hearsay_max, any),
        ];
        fields
            .into_iter()
            .filter(|(_, value, range)| !range.contains(value))
            .map(|(name, value, _)| ConfigError::Weight { name, value })
            .collect()
    }
}

impl Weights {
    /// Returns where the earned sum of a peer levels off that is always connected and does nothing else.
    fn earned_by_presence(&self, half_life: Duration) -> f64 {
        let kept_each_hour = (-3600.0 / half_life.as_secs_f64()).exp2();
        (self.session_hour / (1.0 - kept_each_hour)).min(self.earned_max)
    }
}

impl Thresholds {
    /// A newcomer scores exactly 0.5, so the middle pair must enclose it.
    fn are_ordered(&self) -> bool {
        0.0 < self.quarantine_at
            && self.quarantine_at < self.release_at
            && self.release_at <= 0.5
            && 0.5 <= self.keep_at
            && self.keep_at < self.trust_at
            && self.trust_at < 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_have_no_mistakes() {
        assert_eq!(Config::default().mistakes(), Vec::new());
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let mut config = Config::default();
        config.weights.prior = 0.0;
        config.weights.timeout = f64::NAN;
        config.half_lives.slight = Duration::ZERO;
        config.thresholds.release_at = 0.1;
        config.peers_max = 0;
        assert_eq!(config.mistakes().len(), 5);
    }

    #[test]
    fn numbers_that_break_a_promise_together_are_mistakes() {
        let mut config = Config::default();
        config.weights.slight_max = 8.0;
        config.weights.session_hour = 0.03;
        let mistakes = config.mistakes();
        assert!(matches!(mistakes[0], ConfigError::SlightQuarantines { limit: 8.0, .. }));
        assert!(matches!(mistakes[1], ConfigError::PresenceTrusts { .. }), "{mistakes:?}");
        config.weights.slight_max = 7.9;
        config.half_lives.earned /= 2;
        assert_eq!(config.mistakes(), []);
    }
}
