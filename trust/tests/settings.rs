//! What must hold under every setting that is accepted.

use std::time::Duration;

use dunlin_trust::{
    Claim, Config, Evidence, HALF_LIFE_MAX, HALF_LIFE_MIN, HalfLives, PRIOR_MIN, Report, Standing,
    Thresholds, Trust, UnixMillis, WEIGHT_MAX, Weights,
};
use dunlin_wire::envelope;
use libp2p_identity::{Keypair, PeerId};
use proptest::prelude::*;

const HOUR_MS: u64 = 60 * 60 * 1000;
const NOW: UnixMillis = UnixMillis(1_763_700_000_000);

fn key(seed: u8) -> Keypair {
    Keypair::ed25519_from_bytes([seed; 32]).expect("32 bytes are a key")
}

fn peer(seed: u8) -> PeerId {
    key(seed).public().to_peer_id()
}

/// Numbers over the whole of a range, as many small ones as large ones.
fn over(min: f64, max: f64) -> impl Strategy<Value = f64> {
    (min.ln()..max.ln()).prop_map(move |exponent| exponent.exp().clamp(min, max))
}

fn weight() -> impl Strategy<Value = f64> {
    prop_oneof![1 => Just(0.0), 1 => Just(WEIGHT_MAX), 8 => over(1e-3, WEIGHT_MAX)]
}

fn half_life() -> impl Strategy<Value = Duration> {
    let seconds = over(HALF_LIFE_MIN.as_secs_f64(), HALF_LIFE_MAX.as_secs_f64());
    seconds.prop_map(|seconds| Duration::from_secs(seconds.round() as u64))
}

prop_compose! {
    fn weights()(
        prior in over(PRIOR_MIN, WEIGHT_MAX),
        [block_served, session_hour, earned_max] in [weight(), weight(), weight()],
        [wrong_cid, bad_signature, violation, wrong_proof, equivocation, grave_max]
            in [weight(), weight(), weight(), weight(), weight(), weight()],
        earned_kept in 0.0..=1.0,
        [timeout, not_served, replica_lost, doubtful_templates, slight_max]
            in [weight(), weight(), weight(), weight(), weight()],
        [hearsay, hearsay_max] in [weight(), weight()],
    ) -> Weights {
        Weights {
            prior, block_served, session_hour, earned_max, wrong_cid, bad_signature, violation, wrong_proof,
            equivocation, grave_max, earned_kept, timeout, not_served, replica_lost, doubtful_templates,
            slight_max, hearsay, hearsay_max,
        }
    }
}

prop_compose! {
    fn thresholds()(
        low in (0.001..0.5, 0.001..0.5),
        high in (0.5..0.999, 0.5..0.999),
        trust_after_s in 0_u64..7_200,
    ) -> Thresholds {
        Thresholds {
            quarantine_at: f64::min(low.0, low.1),
            release_at: f64::max(low.0, low.1),
            keep_at: f64::min(high.0, high.1),
            trust_at: f64::max(high.0, high.1),
            trust_after: Duration::from_secs(trust_after_s),
        }
    }
}

prop_compose! {
    /// Settings that are accepted. What is too much is brought down as an operator would.
    fn config()(
        mut weights in weights(),
        thresholds in thresholds(),
        [earned, grave, slight, hearsay] in [half_life(), half_life(), half_life(), half_life()],
        part in 0.0..0.99,
    ) -> Config {
        let half_lives = HalfLives { earned, grave, slight, hearsay };
        let most_slight = weights.prior / thresholds.quarantine_at - 2.0 * weights.prior;
        weights.slight_max = weights.slight_max.min(part * most_slight);
        let config = Config { weights, thresholds, half_lives, ..Config::default() };
        if config.mistakes().is_empty() {
            return config;
        }
        weights.session_hour = 0.0;
        Config { weights, ..config }
    }
}

fn good() -> impl Strategy<Value = Evidence> {
    prop_oneof![
        (0u32..500).prop_map(|blocks| Evidence::Served { blocks }),
        (0u32..100_000).prop_map(|seconds| Evidence::Session { seconds }),
    ]
}

fn grave() -> impl Strategy<Value = Evidence> {
    prop_oneof![
        Just(Evidence::WrongCid),
        Just(Evidence::BadSignature),
        Just(Evidence::ProtocolViolation),
        Just(Evidence::WrongProof),
        Just(Evidence::Equivocation),
    ]
}

fn slight() -> impl Strategy<Value = Evidence> {
    prop_oneof![
        Just(Evidence::Timeout),
        Just(Evidence::NotServed),
        Just(Evidence::ReplicaLost),
        Just(Evidence::DoubtfulTemplates),
    ]
}

/// Evidence with the hours since the piece before.
fn history(
    evidence: impl Strategy<Value = Evidence>,
) -> impl Strategy<Value = Vec<(u64, Evidence)>> {
    prop::collection::vec((0_u64..100, evidence), 0..30)
}

/// Returns the judge after a history, and the time.
fn after(config: &Config, history: &[(u64, Evidence)]) -> (Trust, UnixMillis) {
    let (mut trust, mut now) = (Trust::new(config.clone(), Vec::new()), NOW);
    for (hours, evidence) in history {
        now = UnixMillis(now.0 + hours * HOUR_MS);
        trust.observe(now, peer(1), *evidence);
    }
    (trust, now)
}

fn with(
    history: &[(u64, Evidence)],
    at: prop::sample::Index,
    extra: Evidence,
) -> Vec<(u64, Evidence)> {
    let mut longer = history.to_vec();
    longer.insert(at.index(history.len() + 1), (0, extra));
    longer
}

fn says(by: u8, about: u8, issued: UnixMillis) -> envelope::Signed<Report> {
    let report = Report::new(peer(about), Claim::WrongCid, issued);
    envelope::sign(&key(by), report).expect("an Ed25519 key")
}

/// Sums of rounded floats may differ in their last bits where the exact ones are equal.
const ROUNDING: f64 = 1e-9;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_newcomer_starts_on_probation_and_a_score_is_a_score(
        config in config(),
        history in history(prop_oneof![good(), grave(), slight()]),
        hours in 0_u64..100_000,
    ) {
        prop_assert_eq!(config.mistakes(), []);
        let (trust, now) = after(&config, &history);
        let later = UnixMillis(now.0 + hours * HOUR_MS);
        let score = trust.score(later, &peer(1));
        prop_assert!(score > 0.0 && score < 1.0, "{score}");
        prop_assert_eq!(trust.score(later, &peer(2)), 0.5);
        prop_assert_eq!(trust.standing(later, &peer(2)), Standing::Probation);
    }

    #[test]
    fn more_of_any_kind_is_never_to_the_contrary(
        config in config(),
        history in history(prop_oneof![good(), grave(), slight()]),
        at in any::<prop::sample::Index>(),
        better in good(),
        worse in prop_oneof![grave(), slight()],
        hours in 0_u64..10_000,
    ) {
        let (plain, now) = after(&config, &history);
        let later = UnixMillis(now.0 + hours * HOUR_MS);
        let score = plain.score(later, &peer(1));
        let (more, _) = after(&config, &with(&history, at, better));
        prop_assert!(more.score(later, &peer(1)) >= score - ROUNDING);
        let (less, _) = after(&config, &with(&history, at, worse));
        prop_assert!(less.score(later, &peer(1)) <= score + ROUNDING);
    }

    #[test]
    fn slow_links_and_presence_decide_nothing(
        config in config(), history in history(slight()), hours in prop::collection::vec(0_u64..50, 1..20),
    ) {
        let (mut trust, mut now) = after(&config, &history);
        prop_assert_eq!(trust.standing(now, &peer(1)), Standing::Probation);
        for hours in hours {
            for _ in 0..hours {
                now = UnixMillis(now.0 + HOUR_MS);
                trust.observe(now, peer(2), Evidence::Session { seconds: 3_600 });
            }
            prop_assert_eq!(trust.standing(now, &peer(2)), Standing::Probation);
        }
    }

    #[test]
    fn hearsay_alone_never_quarantines(
        config in config(), history in history(prop_oneof![good(), slight()]), hours in 0_u64..200,
    ) {
        let (mut trust, now) = after(&config, &history);
        for reporter in 10..16 {
            // As trusted as these settings let anyone become.
            for _ in 0..3 {
                trust.observe(now, peer(reporter), Evidence::Served { blocks: u32::MAX });
            }
            trust.hear(now, &says(reporter, 1, now)).unwrap_or(());
            prop_assert!(trust.standing(now, &peer(1)) >= Standing::Probation);
        }
        let later = UnixMillis(now.0 + hours * HOUR_MS);
        prop_assert!(trust.standing(later, &peer(1)) >= Standing::Probation);
        // Nor is it written into what is first hand.
        trust.observe(later, peer(1), Evidence::Served { blocks: 1 });
        prop_assert!(trust.standing(later, &peer(1)) >= Standing::Probation);
    }
}
