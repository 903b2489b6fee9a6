//! What must hold for any history: monotone, bounded, deterministic.

use dunlin_trust::{Config, Evidence, Record, Trust, UnixMillis};
use libp2p_identity::{Keypair, PeerId};
use proptest::prelude::*;

fn peer(seed: u8) -> PeerId {
    Keypair::ed25519_from_bytes([seed; 32]).expect("32 bytes are a key").public().to_peer_id()
}

fn good() -> impl Strategy<Value = Evidence> {
    prop_oneof![
        (0u32..500).prop_map(|blocks| Evidence::Served { blocks }),
        (0u32..100_000).prop_map(|seconds| Evidence::Session { seconds }),
    ]
}

fn bad() -> impl Strategy<Value = Evidence> {
    prop_oneof![
        Just(Evidence::WrongCid),
        Just(Evidence::BadSignature),
        Just(Evidence::ProtocolViolation),
        Just(Evidence::Timeout),
        Just(Evidence::NotServed),
        Just(Evidence::ReplicaLost),
        Just(Evidence::WrongProof),
        Just(Evidence::Equivocation),
        Just(Evidence::DoubtfulTemplates),
    ]
}

/// Evidence with the time since the start of the history; times need not be in order.
fn history() -> impl Strategy<Value = Vec<(u64, Evidence)>> {
    prop::collection::vec((0u64..40 * 24 * 3600 * 1000, prop_oneof![good(), bad()]), 0..40)
}

fn after(history: &[(u64, Evidence)]) -> Trust {
    let mut trust = Trust::new(Config::default(), Vec::new());
    for (time, evidence) in history {
        trust.observe(UnixMillis(*time), peer(1), *evidence);
    }
    trust
}

/// The history with `extra` put in at a place, without moving the clock: a later time there would
/// freeze what follows, which is about clocks and not about conduct.
fn with(history: &[(u64, Evidence)], at: usize, extra: Evidence) -> Vec<(u64, Evidence)> {
    let time = history[..at].iter().map(|(time, _)| *time).max().unwrap_or(0);
    let mut longer = history.to_vec();
    longer.insert(at, (time, extra));
    longer
}

fn in_order(mut history: Vec<(u64, Evidence)>) -> Vec<(u64, Evidence)> {
    history.sort_by_key(|(time, _)| *time);
    history
}

// Sums of rounded floats may differ in their last bits where the exact ones are equal.
const ROUNDING: f64 = 1e-9;

proptest! {
    #[test]
    fn extra_good_conduct_never_ends_lower(
        history in history(), at in any::<prop::sample::Index>(), extra in good(), later in 0u64..1 << 36,
    ) {
        let history = in_order(history);
        let longer = with(&history, at.index(history.len() + 1), extra);
        let now = UnixMillis(later);
        let (less, more) = (after(&history), after(&longer));
        prop_assert!(more.score(now, &peer(1)) >= less.score(now, &peer(1)) - ROUNDING);
        prop_assert!(more.standing(now, &peer(1)) >= less.standing(now, &peer(1)));
    }

    #[test]
    fn extra_bad_conduct_never_ends_higher(
        history in history(), at in any::<prop::sample::Index>(), extra in bad(), later in 0u64..1 << 36,
    ) {
        let history = in_order(history);
        let longer = with(&history, at.index(history.len() + 1), extra);
        let now = UnixMillis(later);
        let (less, more) = (after(&history), after(&longer));
        prop_assert!(more.score(now, &peer(1)) <= less.score(now, &peer(1)) + ROUNDING);
        prop_assert!(more.standing(now, &peer(1)) <= less.standing(now, &peer(1)));
    }

    #[test]
    fn any_history_at_any_clock_keeps_the_score_a_score(
        history in history(), now in any::<u64>(), wild in any::<u64>(), extra in bad(),
    ) {
        let mut trust = after(&history);
        trust.observe(UnixMillis(wild), peer(1), extra);
        let score = trust.score(UnixMillis(now), &peer(1));
        prop_assert!(score > 0.0 && score < 1.0);
        let restarted = Trust::new(Config::default(), drained(&mut trust));
        prop_assert_eq!(restarted.score(UnixMillis(now), &peer(1)), score);
    }

    #[test]
    fn stepping_the_clock_back_never_raises_a_score(history in history(), back in 0u64..1 << 36) {
        let trust = after(&history);
        let latest = history.iter().map(|(time, _)| *time).max().unwrap_or(0);
        let before = trust.score(UnixMillis(latest), &peer(1));
        let after = trust.score(UnixMillis(latest.saturating_sub(back)), &peer(1));
        prop_assert!(after <= before);
    }

    #[test]
    fn same_inputs_make_the_same_state(
        events in prop::collection::vec((0u64..1 << 32, any::<u8>(), prop_oneof![good(), bad()]), 0..80),
    ) {
        let run = || {
            let mut trust = Trust::new(Config { peers_max: 8, ..Config::default() }, Vec::new());
            let changes: Vec<_> = events
                .iter()
                .map(|(time, seed, evidence)| {
                    trust.observe(UnixMillis(*time), peer(seed % 24), *evidence)
                })
                .collect();
            (changes, drained(&mut trust), std::iter::from_fn(|| trust.next_forgotten()).collect::<Vec<_>>())
        };
        prop_assert_eq!(run(), run());
    }
}

fn drained(trust: &mut Trust) -> Vec<Record> {
    std::iter::from_fn(|| trust.next_dirty()).collect()
}
