//! What a peer does over time, and where it ends up.

use std::{collections::BTreeSet, time::Duration};

use dunlin_trust::{
    Config, Evidence, HELD_MAX, Operation, Record, Standing, StandingChange, Thresholds, Trust,
    UnixMillis,
};
use dunlin_wire::cbor;
use libp2p_identity::{Keypair, PeerId};

const HOUR: u64 = 60 * 60 * 1000;
const DAY: u64 = 24 * HOUR;
const START: u64 = 1_763_700_000_000;

/// Settings under which conduct alone decides: how long a peer is known is what `standing.rs` tests.
fn config() -> Config {
    let thresholds = Thresholds { trust_after: Duration::ZERO, ..Thresholds::default() };
    Config { thresholds, ..Config::default() }
}

fn peer(seed: u8) -> PeerId {
    Keypair::ed25519_from_bytes([seed; 32]).expect("32 bytes are a key").public().to_peer_id()
}

fn at(elapsed_ms: u64) -> UnixMillis {
    UnixMillis(START + elapsed_ms)
}

fn trust() -> Trust {
    Trust::new(config(), Vec::new())
}

fn persisted(trust: &mut Trust) -> Vec<Record> {
    std::iter::from_fn(|| trust.next_dirty())
        .map(|record| cbor::encode(&record).expect("records encode"))
        .map(|bytes| cbor::decode(&bytes, 1024).expect("what was encoded decodes"))
        .collect()
}

#[test]
fn newcomer_is_on_probation_with_one_half() {
    let trust = trust();
    assert_eq!(trust.standing(at(0), &peer(1)), Standing::Probation);
    assert_eq!(trust.score(at(0), &peer(1)), 0.5);
    assert_eq!(trust.peers().count(), 0);
}

#[test]
fn newcomer_is_quarantined_by_its_first_forgery_for_fifteen_days() {
    for forgery in [Evidence::WrongCid, Evidence::BadSignature, Evidence::WrongProof] {
        let mut trust = trust();
        let change = trust.observe(at(0), peer(1), forgery);
        let expected =
            StandingChange { peer: peer(1), from: Standing::Probation, to: Standing::Quarantined };
        assert_eq!(change, Some(expected));
        assert_eq!(trust.standing(at(15 * DAY), &peer(1)), Standing::Quarantined);
        assert_eq!(trust.standing(at(16 * DAY), &peer(1)), Standing::Probation);
    }
}

#[test]
fn trusted_peer_is_quarantined_by_its_second_forgery() {
    let mut trust = trust();
    trust.observe(at(0), peer(1), Evidence::Served { blocks: u32::MAX });
    assert_eq!(trust.standing(at(0), &peer(1)), Standing::Trusted);
    trust.observe(at(1), peer(1), Evidence::WrongCid);
    assert_eq!(trust.standing(at(1), &peer(1)), Standing::Probation);
    trust.observe(at(2), peer(1), Evidence::WrongCid);
    assert_eq!(trust.standing(at(2), &peer(1)), Standing::Quarantined);
}

#[test]
fn doubtful_templates_lower_a_score_and_alone_never_quarantine() {
    let mut trust = trust();
    trust.observe(at(0), peer(1), Evidence::DoubtfulTemplates);
    assert!(trust.score(at(0), &peer(1)) < 0.5);
    for _ in 0..100 {
        trust.observe(at(0), peer(1), Evidence::DoubtfulTemplates);
    }
    assert_eq!(trust.standing(at(0), &peer(1)), Standing::Probation);
    assert_eq!(persisted(&mut trust)[0].tally().doubtful_templates, 101);
}

#[test]
fn third_protocol_violation_quarantines() {
    let mut trust = trust();
    trust.observe(at(0), peer(1), Evidence::ProtocolViolation);
    trust.observe(at(1), peer(1), Evidence::ProtocolViolation);
    assert_eq!(trust.standing(at(1), &peer(1)), Standing::Probation);
    trust.observe(at(2), peer(1), Evidence::ProtocolViolation);
    assert_eq!(trust.standing(at(2), &peer(1)), Standing::Quarantined);
}

#[test]
fn absence_alone_never_quarantines_and_is_soon_forgotten() {
    let mut trust = trust();
    for _ in 0..10_000 {
        trust.observe(at(0), peer(1), Evidence::Timeout);
        trust.observe(at(0), peer(1), Evidence::NotServed);
        trust.observe(at(0), peer(1), Evidence::ReplicaLost);
    }
    assert_eq!(trust.standing(at(0), &peer(1)), Standing::Probation);
    assert!(trust.score(at(0), &peer(1)) < 0.3);
    assert!(trust.score(at(12 * HOUR), &peer(1)) > 0.499);
}

#[test]
fn serving_earns_trust_slowly_and_idleness_loses_it() {
    let mut trust = trust();
    let blocks = (1..).find(|_| {
        trust.observe(at(0), peer(1), Evidence::Served { blocks: 1 });
        trust.standing(at(0), &peer(1)) == Standing::Trusted
    });
    assert_eq!(blocks, Some(267));
    // It holds its standing below the score that gave it, until the lower threshold.
    assert_eq!(trust.standing(at(5 * DAY), &peer(1)), Standing::Trusted);
    assert_eq!(trust.standing(at(14 * DAY), &peer(1)), Standing::Probation);
}

#[test]
fn being_connected_alone_never_makes_trusted() {
    let mut trust = trust();
    for hour in 0..24 * 365 {
        trust.observe(at(hour * HOUR), peer(1), Evidence::Session { seconds: 3600 });
        assert_eq!(trust.standing(at(hour * HOUR), &peer(1)), Standing::Probation);
    }
}

#[test]
fn reconnecting_and_restarting_wash_nothing_off() {
    let mut trust = trust();
    trust.observe(at(0), peer(1), Evidence::WrongCid);
    let before = trust.score(at(0), &peer(1));
    for _ in 0..1_000 {
        trust.observe(at(1), peer(1), Evidence::Session { seconds: 0 });
    }
    let records = persisted(&mut trust);
    let mut trust = Trust::new(config(), records);
    assert_eq!(trust.standing(at(1), &peer(1)), Standing::Quarantined);
    assert!((trust.score(at(1), &peer(1)) - before).abs() < 1e-6);
    assert!(trust.next_dirty().is_none(), "nothing new to persist");
}

#[test]
fn quarantined_peer_cannot_serve_its_way_out() {
    let mut trust = trust();
    for _ in 0..5 {
        trust.observe(at(0), peer(1), Evidence::BadSignature);
    }
    // The most that can be earned leaves it at 12 / 61.
    trust.observe(at(0), peer(1), Evidence::Served { blocks: u32::MAX });
    assert_eq!(trust.standing(at(0), &peer(1)), Standing::Quarantined);
}

#[test]
fn clock_going_backwards_raises_no_score() {
    let mut trust = trust();
    trust.observe(at(30 * DAY), peer(1), Evidence::ProtocolViolation);
    let before = trust.score(at(30 * DAY), &peer(1));
    assert_eq!(trust.score(UnixMillis(0), &peer(1)), before);
    trust.observe(UnixMillis(0), peer(1), Evidence::ProtocolViolation);
    assert!(trust.score(UnixMillis(0), &peer(1)) < before);
    // Nor does the time counted twice fade anything twice.
    let now = trust.score(at(30 * DAY), &peer(1));
    assert_eq!(now, trust.score(at(0), &peer(1)));
}

fn small(peers_max: usize, own: &[PeerId]) -> Trust {
    let own_peers: BTreeSet<PeerId> = own.iter().copied().collect();
    Trust::new(Config { own_peers, peers_max, ..config() }, Vec::new())
}

#[test]
fn the_least_useful_peer_is_forgotten_first() {
    let mut trust = small(4, &[peer(9)]);
    trust.observe(at(0), peer(9), Evidence::Timeout);
    trust.observe(at(0), peer(1), Evidence::WrongCid);
    trust.observe(at(0), peer(2), Evidence::ProtocolViolation);
    trust.observe(at(0), peer(3), Evidence::Served { blocks: 9 });
    trust.observe(at(1), peer(4), Evidence::Served { blocks: 1 });
    let left: BTreeSet<&PeerId> = trust.peers().collect();
    assert_eq!(left, BTreeSet::from([&peer(9), &peer(1), &peer(2), &peer(4)]));
    assert_eq!(trust.next_forgotten(), Some(peer(3)));
    assert_eq!(trust.next_forgotten(), None);
    assert!(persisted(&mut trust).iter().all(|record| *record.peer() != peer(3)));
}

#[test]
fn flood_of_fresh_keys_is_bounded_and_washes_nobody() {
    let mut trust = small(16, &[]);
    trust.observe(at(0), peer(0), Evidence::WrongCid);
    trust.observe(at(0), peer(1), Evidence::ProtocolViolation);
    for seed in 2..=255 {
        trust.observe(at(u64::from(seed)), peer(seed), Evidence::Timeout);
        assert!(trust.peers().count() <= 16);
    }
    assert_eq!(trust.standing(at(300), &peer(0)), Standing::Quarantined);
    assert!(trust.score(at(300), &peer(1)) < 0.4);
}

#[test]
fn keys_that_misbehave_in_masses_do_not_close_the_node_to_newcomers() {
    let mut trust = small(8, &[peer(9)]);
    // One that lied twice, before the flood, and one that served well.
    trust.observe(at(0), peer(0), Evidence::WrongCid);
    trust.observe(at(0), peer(0), Evidence::WrongCid);
    trust.observe(at(0), peer(1), Evidence::Served { blocks: 500 });
    for seed in 10..=255 {
        trust.observe(at(1), peer(seed), Evidence::WrongCid);
        assert_eq!(trust.standing(at(1), &peer(seed)), Standing::Quarantined, "it counts at once");
        assert!(trust.peers().count() <= 8);
    }
    assert_eq!(std::iter::from_fn(|| trust.next_forgotten()).count(), 246 - 3);
    assert_eq!(trust.standing(at(1), &peer(0)), Standing::Quarantined, "the worst is remembered");
    assert_eq!(trust.standing(at(1), &peer(1)), Standing::Trusted, "and so is the best");
    assert!(trust.may(at(1), &peer(5), Operation::FetchTemplates).is_ok(), "newcomers are heard");
    assert!(trust.observe(at(1), peer(5), Evidence::BadSignature).is_some(), "and judged");
}

#[test]
fn lowering_the_limit_forgets_at_start() {
    let mut trust = trust();
    for seed in 0..8 {
        trust.observe(at(0), peer(seed), Evidence::Served { blocks: 1 + u32::from(seed) });
    }
    let records = persisted(&mut trust);
    let mut trust = Trust::new(Config { peers_max: 3, ..config() }, records);
    assert_eq!(trust.peers().count(), 3);
    assert_eq!(std::iter::from_fn(|| trust.next_forgotten()).count(), 5);
}

#[test]
fn explanation_accounts_for_the_score() {
    let mut trust = trust();
    trust.observe(at(0), peer(1), Evidence::Served { blocks: 100 });
    trust.observe(at(0), peer(1), Evidence::WrongCid);
    trust.observe(at(0), peer(1), Evidence::Timeout);
    let explanation = trust.explain(at(0), &peer(1));
    let amount = |part| explanation.lines.iter().find(|line| line.part == part).unwrap().amount;
    let good = 4.0 + amount("earned");
    let score = good / (good + 4.0 + amount("grave") + amount("slight"));
    assert!((score - explanation.score).abs() < 1e-12);
    let text = explanation.to_string();
    assert!(text.contains("1 wrong CIDs") && text.contains("100 verified blocks"), "{text}");
    assert_eq!(text.lines().count(), 4);
}

#[test]
fn a_record_without_the_newest_counts_is_as_an_older_version_wrote_it() {
    let mut trust = trust();
    trust.observe(at(0), peer(1), Evidence::Timeout);
    let old = cbor::encode(&trust.next_dirty().unwrap()).unwrap();
    let has = |bytes: &[u8], word: &[u8]| bytes.windows(word.len()).any(|window| window == word);
    assert!(!has(&old, b"replicas_lost") && !has(&old, b"wrong_proofs"));
    let record: Record = cbor::decode(&old, 1024).unwrap();
    assert_eq!((record.tally().timeouts, record.tally().replicas_lost), (1, 0));
    trust.observe(at(1), peer(1), Evidence::ReplicaLost);
    trust.observe(at(1), peer(1), Evidence::WrongProof);
    let record = persisted(&mut trust).remove(0);
    assert_eq!((record.tally().replicas_lost, record.tally().wrong_proofs), (1, 1));
}

#[test]
fn record_of_a_foreign_version_is_refused() {
    let mut trust = trust();
    trust.observe(at(0), peer(1), Evidence::Timeout);
    let mut bytes = cbor::encode(&trust.next_dirty().unwrap()).unwrap();
    let key = bytes.windows(8).position(|window| window == b"gversion").unwrap();
    assert_eq!(bytes[key + 8], 1);
    bytes[key + 8] = 2;
    assert!(cbor::decode::<Record>(&bytes, 1024).is_err());
}

#[test]
fn the_operator_quarantines_and_releases_whatever_the_conduct() {
    let mut trust = trust();
    let good = peer(1);
    trust.observe(at(0), good, Evidence::Served { blocks: 400 });
    assert_eq!(trust.standing(at(0), &good), Standing::Trusted);
    let held = trust.hold(at(0), good).unwrap().unwrap();
    assert_eq!((held.from, held.to), (Standing::Trusted, Standing::Quarantined));
    // Nothing that it does, and no time, leads out of it.
    assert_eq!(trust.observe(at(0), good, Evidence::Served { blocks: 400 }), None);
    let later = at(100 * DAY);
    assert_eq!(trust.standing(later, &good), Standing::Quarantined);
    assert!(trust.explain(at(0), &good).to_string().contains("by the operator"));
    assert_eq!(trust.release(at(0), good).unwrap().to, Standing::Trusted);

    // A stranger needs no record, and one whom evidence quarantined is forgiven.
    let stranger = peer(2);
    trust.hold(at(0), stranger).unwrap();
    assert!(trust.may(at(0), &stranger, Operation::FetchTemplates).is_err());
    trust.release(at(0), stranger);
    assert!(trust.may(at(0), &stranger, Operation::FetchTemplates).is_ok());
    let liar = peer(3);
    trust.observe(at(0), liar, Evidence::WrongCid);
    assert_eq!(trust.release(at(0), liar).unwrap().to, Standing::Probation);
    assert_eq!(trust.score(at(0), &liar), 0.5);
    assert_eq!(trust.observe(at(0), liar, Evidence::WrongCid).unwrap().to, Standing::Quarantined);
    assert_eq!(trust.explain(at(0), &liar).lines.len(), 3);
}

#[test]
fn no_more_peers_are_held_than_the_limit() {
    let mut trust = trust();
    let ids = (0..=HELD_MAX as u64).map(|number| {
        let mut bytes = vec![0x12, 0x20];
        bytes.extend(number.to_be_bytes().repeat(4));
        PeerId::from_bytes(&bytes).expect("a hash")
    });
    let held = ids.filter(|peer| trust.hold(at(0), *peer).is_ok()).count();
    assert_eq!(held, HELD_MAX);
}

#[test]
fn a_full_table_takes_newcomers_without_looking_at_everyone() {
    const PEERS_MAX: usize = 100_000;
    let stranger = |number: u64| {
        let mut bytes = vec![0x12, 0x20];
        bytes.extend(number.to_be_bytes().repeat(4));
        PeerId::from_bytes(&bytes).expect("a hash")
    };
    let mut trust = small(PEERS_MAX, &[]);
    let liars = 20_000;
    for number in 0..liars {
        trust.observe(at(number), stranger(number), Evidence::WrongCid);
    }
    let began = std::time::Instant::now();
    for number in liars..250_000 {
        trust.observe(at(number), stranger(number), Evidence::Timeout);
    }
    // To look at all records for each of 150,000 newcomers takes an hour.
    assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
    assert_eq!(trust.peers().count(), PEERS_MAX);
    let is_kept =
        |number: &u64| trust.standing(at(250_000), &stranger(*number)) == Standing::Quarantined;
    assert_eq!((0..liars).filter(is_kept).count(), 20_000, "nobody washed a quarantine off");
}
