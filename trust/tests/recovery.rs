//! Conflicts after a split: both versions stay, both are flagged, and all nodes with the same evidence prefer the
//! same one.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;

use dunlin_trust::{
    Standing, UnixMillis,
    recovery::{
        ATTESTED_MAX, Attestation, ConflictError, Conflicts, Decision, MAKERS_MAX,
        REASONS_TRUSTED_MAX, Reason, Series, Version,
    },
};
use dunlin_wire::{
    Cid,
    block::{Codec, cid_of},
    envelope::{self, Signed},
};
use libp2p_identity::{Keypair, PeerId};
use proptest::prelude::*;

const NOW: UnixMillis = UnixMillis(1_763_700_000_000);

fn key(seed: u8) -> Keypair {
    Keypair::ed25519_from_bytes([seed; 32]).unwrap()
}

fn peer(seed: u8) -> PeerId {
    key(seed).public().to_peer_id()
}

fn cid(name: &str) -> Cid {
    cid_of(Codec::DagCbor, name.as_bytes())
}

fn series() -> Series {
    Series { collection: "servers".into(), entity: "web-1".into() }
}

fn version(name: &str, start: i64, end: i64, makers: &[u8]) -> Version {
    let mut version = Version::new(cid(name), start, end);
    for maker in makers {
        version.attest(peer(*maker), all_trusted);
    }
    version
}

fn all_trusted(_: &PeerId) -> Standing {
    Standing::Trusted
}

fn attestation(by: u8, names: &[&str]) -> Signed<Attestation> {
    let segments = names.iter().map(|name| cid(name)).collect();
    envelope::sign(&key(by), Attestation::new(segments)).unwrap()
}

fn decision(by: u8, preferred: &str, other: &str, after_ms: u64) -> Signed<Decision> {
    let issued = UnixMillis(NOW.0 + after_ms);
    envelope::sign(&key(by), Decision::new(cid(preferred), cid(other), issued)).unwrap()
}

/// Two versions, made by peers 1 and 2, in conflict.
fn node() -> Conflicts {
    let mut conflicts = Conflicts::default();
    let (a, b) = (version("a", 0, 10, &[1]), version("b", 5, 15, &[2]));
    assert_eq!(conflicts.land(&series(), &b, &[a]), 1);
    conflicts
}

fn preferred(conflicts: &Conflicts, standing: impl Fn(&PeerId) -> Standing) -> (Cid, Reason) {
    let preference = conflicts.preference(conflicts.iter().next().unwrap(), standing);
    (preference.cid, preference.reason)
}

fn restarted(conflicts: &mut Conflicts) -> Conflicts {
    let mut again = Conflicts::default();
    while let Some(record) = conflicts.next_dirty() {
        again.restore(&record).unwrap();
    }
    again
}

#[test]
fn overlapping_segments_are_both_flagged() {
    let conflicts = node();
    for name in ["a", "b"] {
        let others: Vec<_> = conflicts.of(&cid(name)).map(|conflict| conflict.pair()).collect();
        assert_eq!(others, [(cid("a").min(cid("b")), cid("a").max(cid("b")))]);
    }
    assert_eq!(conflicts.of(&cid("c")).count(), 0);
}

#[test]
fn what_does_not_overlap_or_is_the_same_is_no_conflict() {
    let mut conflicts = Conflicts::default();
    let landed = version("a", 0, 10, &[1]);
    let others = [
        version("a", 0, 10, &[2]),
        version("after", 11, 20, &[2]),
        version("before", -5, -1, &[2]),
        version("begins where it ends", 10, 12, &[2]),
    ];
    assert_eq!(conflicts.land(&series(), &landed, &others), 0);
    // Who made it does not matter.
    let others = [
        version("its own", 5, 8, &[1]),
        version("of nobody", 3, 3, &[]),
        version("an instant at its beginning", 0, 0, &[2]),
    ];
    assert_eq!(conflicts.land(&series(), &landed, &others), 3);
    assert_eq!(conflicts.land(&series(), &landed, &others), 0, "they are known");
}

#[test]
fn each_maker_counts_once() {
    let mut conflicts = node();
    let standing = all_trusted;
    for _ in 0..5 {
        conflicts.attest(&attestation(2, &["b"]), standing);
        conflicts.attest(&attestation(2, &["b", "b", "b"]), standing);
    }
    assert!(matches!(preferred(&conflicts, standing).1, Reason::Tie { points: 2 }));
    assert_eq!(conflicts.attest(&attestation(3, &["a"]), standing), 1);
    let expected = (cid("a"), Reason::Standing { points: 4, against: 2 });
    assert_eq!(preferred(&conflicts, standing), expected);
}

#[test]
fn keys_that_cost_nothing_weigh_less_than_one_trusted_peer() {
    let mut conflicts = node();
    let standing = |peer_id: &PeerId| {
        if *peer_id == peer(1) { Standing::Trusted } else { Standing::Probation }
    };
    for sybil in 10..200 {
        conflicts.attest(&attestation(sybil, &["b"]), standing);
    }
    let conflict = conflicts.iter().next().unwrap();
    assert!(conflict.first.makers().count().max(conflict.second.makers().count()) <= MAKERS_MAX);
    let expected = (cid("a"), Reason::Standing { points: 2, against: 1 });
    assert_eq!(preferred(&conflicts, standing), expected);
}

#[test]
fn more_trusted_peers_than_a_ceiling_add_nothing() {
    let mut conflicts = node();
    for maker in 10..10 + 2 * REASONS_TRUSTED_MAX as u8 {
        conflicts.attest(&attestation(maker, &["a"]), all_trusted);
    }
    for maker in 100..99 + REASONS_TRUSTED_MAX as u8 {
        conflicts.attest(&attestation(maker, &["b"]), all_trusted);
    }
    let points = 2 * REASONS_TRUSTED_MAX;
    assert_eq!(
        preferred(&conflicts, all_trusted),
        (cid("a").min(cid("b")), Reason::Tie { points })
    );
}

#[test]
fn quarantined_makers_are_not_heard_nor_counted() {
    let mut conflicts = node();
    let quarantined = |seed: u8| {
        move |peer_id: &PeerId| {
            if *peer_id == peer(seed) { Standing::Quarantined } else { Standing::Trusted }
        }
    };
    assert_eq!(conflicts.attest(&attestation(3, &["a"]), quarantined(3)), 0);
    assert_eq!(preferred(&conflicts, quarantined(1)).0, cid("b"));
    assert_eq!(preferred(&conflicts, quarantined(2)).0, cid("a"));
}

#[test]
fn a_decision_counts_until_a_later_one_and_removes_nothing() {
    let mut conflicts = node();
    for maker in 3..9 {
        conflicts.attest(&attestation(maker, &["a"]), all_trusted);
    }
    let operator = |signer: &PeerId| *signer == peer(200);
    assert!(conflicts.decide(decision(200, "b", "a", 0), operator).unwrap());
    let expected = (cid("b"), Reason::Decided { by: peer(200) });
    assert_eq!(preferred(&conflicts, all_trusted), expected);
    assert_eq!((conflicts.len(), conflicts.of(&cid("a")).count()), (1, 1));
    assert!(conflicts.decide(decision(200, "a", "b", 5), operator).unwrap());
    assert!(!conflicts.decide(decision(200, "b", "a", 4), operator).unwrap(), "an older one");
    assert_eq!(preferred(&conflicts, all_trusted).0, cid("a"));
    let refused = conflicts.decide(decision(3, "b", "a", 9), operator);
    assert_eq!(refused, Err(ConflictError::NotAllowed { signer: peer(3) }));
    let refused = conflicts.decide(decision(200, "a", "a", 9), operator);
    assert_eq!(refused, Err(ConflictError::Senseless));
}

#[test]
fn flags_makers_and_decisions_survive_a_restart() {
    let mut conflicts = node();
    conflicts.attest(&attestation(3, &["a"]), all_trusted);
    conflicts.decide(decision(200, "b", "a", 0), |_| true).unwrap();
    let before: Vec<_> = conflicts.iter().cloned().collect();
    let again = restarted(&mut conflicts);
    assert_eq!(again.iter().cloned().collect::<Vec<_>>(), before);
    assert_eq!(preferred(&again, all_trusted).1, Reason::Decided { by: peer(200) });
    assert_eq!(again.decisions().count(), 1);
    assert!(Conflicts::default().restore(b"noise").is_err());
}

#[test]
fn a_decision_may_come_before_its_conflict() {
    let mut conflicts = Conflicts::default();
    conflicts.decide(decision(200, "b", "a", 0), |_| true).unwrap();
    conflicts.land(&series(), &version("b", 5, 15, &[2]), &[version("a", 0, 10, &[1])]);
    assert_eq!(preferred(&conflicts, all_trusted).0, cid("b"));
}

#[test]
fn an_attestation_has_room_for_as_many_segments_as_it_may_have() {
    let segments = (0..2 * ATTESTED_MAX).map(|number| cid(&number.to_string())).collect();
    let signed = envelope::sign(&key(1), Attestation::new(segments)).unwrap();
    let opened = envelope::open::<Attestation>(&signed.bytes).unwrap();
    assert_eq!(opened.value.segments().len(), ATTESTED_MAX);
}

#[derive(Clone, Copy, Debug)]
enum Happened {
    Landed(usize),
    Attested(u8, usize),
    Decided(usize, usize, u64),
}

fn happened() -> impl Strategy<Value = Happened> {
    prop_oneof![
        (0usize..5).prop_map(Happened::Landed),
        (1u8..9, 0usize..5).prop_map(|(by, which)| Happened::Attested(by, which)),
        (0usize..5, 0usize..5, 0u64..3).prop_map(|(a, b, at)| Happened::Decided(a, b, at)),
    ]
}

const NAMES: [(&str, i64, i64); 5] =
    [("v0", 0, 10), ("v1", 4, 9), ("v2", 8, 20), ("v3", 18, 25), ("v4", 0, 25)];

/// A node that keeps what it is told, as a shell does.
fn after(events: &[Happened]) -> Conflicts {
    let mut conflicts = Conflicts::default();
    let mut makers: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
    let mut landed: Vec<usize> = Vec::new();
    for event in events {
        match *event {
            Happened::Landed(which) => {
                let version = |which: usize| {
                    let (name, start, end) = NAMES[which];
                    version(name, start, end, makers.get(&which).map_or(&[][..], |makers| makers))
                };
                let others: Vec<_> = landed.iter().map(|other| version(*other)).collect();
                conflicts.land(&series(), &version(which), &others);
                landed.push(which);
            }
            Happened::Attested(by, which) => {
                makers.entry(which).or_default().push(by);
                conflicts.attest(&attestation(by, &[NAMES[which].0]), mixed);
            }
            Happened::Decided(a, b, at) => {
                conflicts.decide(decision(200, NAMES[a].0, NAMES[b].0, at), |_| true).ok();
            }
        }
    }
    conflicts
}

fn mixed(peer_id: &PeerId) -> Standing {
    let is_trusted = peer_id.to_bytes().last().is_some_and(|byte| byte % 2 == 0);
    if is_trusted { Standing::Trusted } else { Standing::Probation }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the order in which nodes learn it, they prefer the same versions.
    #[test]
    fn the_same_evidence_in_any_order_prefers_the_same(
        events in prop::collection::vec(happened(), 0..24), seed in any::<u64>(),
    ) {
        let mut all: Vec<Happened> = (0..5).map(Happened::Landed).collect();
        all.extend(events);
        let mut shuffled = all.clone();
        for (at, swap) in (1..shuffled.len()).rev().zip(lcg(seed)) {
            shuffled.swap(at, swap as usize % (at + 1));
        }
        let (one, other) = (after(&all), after(&shuffled));
        let preferences = |node: &Conflicts| -> Vec<_> {
            node.iter().map(|conflict| (conflict.pair(), node.preference(conflict, mixed))).collect()
        };
        prop_assert_eq!(preferences(&one), preferences(&other));
    }

    /// Nothing that is told takes a conflict or a decision back.
    #[test]
    fn nothing_is_unflagged(events in prop::collection::vec(happened(), 0..30)) {
        let mut known = (0, 0);
        for length in 0..=events.len() {
            let node = after(&events[..length]);
            let now = (node.len(), node.decisions().count());
            prop_assert!(now.0 >= known.0 && now.1 >= known.1);
            known = now;
        }
    }

    #[test]
    fn arbitrary_records_never_panic(bytes in any::<Vec<u8>>()) {
        Conflicts::default().restore(&bytes).ok();
    }
}

fn lcg(seed: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(seed), |state| {
        Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407))
    })
    .map(|state| state >> 33)
}
