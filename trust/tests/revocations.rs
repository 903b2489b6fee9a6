//! Revoked is for ever: what counts as a revocation, what it costs, and how peers that missed some catch up.

use dunlin_trust::{
    Acquaintance, Authorities, Config, Endorsements, Extension, LOG_KEYS_MAX, LOGS_MAX, Operation,
    Pending, RevocationError, Revocations, Standing, Subject, SyncAnswer, SyncRequest, Trust,
    UNKNOWN_WITHDRAWALS_MAX, UnixMillis, Withdrawal,
};
use dunlin_wire::{cbor, envelope};
use libp2p_identity::{Keypair, PeerId};
use proptest::prelude::*;

const NOW: UnixMillis = UnixMillis(1_763_700_000_000);
const NETWORK: &str = "plant-7";
/// Keys 1 to 4 are authorities, of which two must agree.
const ANNA: u64 = 1;
const BEN: u64 = 2;
const CLEO: u64 = 3;
const DAN: u64 = 4;

fn key(seed: u64) -> Keypair {
    let mut secret = [7; 32];
    secret[..8].copy_from_slice(&seed.to_le_bytes());
    Keypair::ed25519_from_bytes(secret).expect("made for this test")
}

fn peer(seed: u64) -> PeerId {
    key(seed).public().to_peer_id()
}

/// Ids that no key need exist for: making thousands of keys takes seconds.
fn peers(seeds: std::ops::Range<u64>) -> Vec<PeerId> {
    let hashed = |seed: u64| {
        let mut bytes = vec![0x12, 0x20];
        bytes.extend(seed.to_be_bytes().repeat(4));
        PeerId::from_bytes(&bytes).expect("made for this test")
    };
    seeds.map(hashed).collect()
}

fn authorities() -> Authorities {
    Authorities::new(NETWORK, [ANNA, BEN, CLEO, DAN].map(peer), 2).expect("made for this test")
}

fn node() -> Revocations {
    Revocations::new(Some(authorities()))
}

fn revoke(by: &Revocations, revoked: &[PeerId], signers: &[u64]) -> Extension {
    let draft = by.draft(revoked, NOW).expect("made for this test");
    let envelopes = signers
        .iter()
        .map(|signer| draft.sign(&key(*signer)).expect("made for this test"))
        .collect();
    draft.signed(envelopes).expect("made for this test")
}

fn withdrawal(seed: u64, by: Option<&Revocations>) -> Vec<u8> {
    let stands_by = by.and_then(|by| by.signed_by(&peer(seed)));
    envelope::sign(&key(seed), Withdrawal::new(NOW, stands_by)).expect("made for this test").bytes
}

fn take(node: &mut Revocations, checked: Result<Option<Pending>, RevocationError>) -> usize {
    checked.expect("made for this test").map_or(0, |pending| node.apply(pending).len())
}

fn extend(node: &mut Revocations, extension: &Extension) -> usize {
    let checked = node.check_extension(extension.clone());
    take(node, checked)
}

fn withdraw(node: &mut Revocations, bytes: &[u8]) -> usize {
    let checked = node.check_withdrawal(bytes, Acquaintance::Known);
    take(node, checked)
}

/// Has `node` ask `other` once; returns the bytes on the wire, both ways.
fn sync(node: &mut Revocations, other: &Revocations) -> usize {
    let request = cbor::encode(&node.sync_request()).expect("made for this test");
    let asked: SyncRequest = cbor::decode(&request, 1 << 20).expect("made for this test");
    let answer = cbor::encode(&other.sync_answer(&asked, 4 << 20)).expect("made for this test");
    let told: SyncAnswer = cbor::decode(&answer, 5 << 20).expect("made for this test");
    for extension in &told.extensions {
        if let Ok(Some(pending)) = node.check_extension(extension.clone()) {
            node.apply(pending);
        }
    }
    for bytes in &told.withdrawals {
        withdraw(node, bytes);
    }
    request.len() + answer.len()
}

fn restarted(node: &Revocations) -> Revocations {
    let mut again = Revocations::new(Some(authorities()));
    for record in node.snapshot() {
        again.restore(&record).expect("made for this test");
    }
    again
}

#[test]
fn enough_authorities_revoke_and_too_few_do_not() {
    let mut node = node();
    let one = revoke(&node, &[peer(100)], &[ANNA]);
    let error = node.check_extension(one).unwrap_err();
    assert_eq!(error.to_string(), "1 authorities signed, but 2 must");
    let strangers = revoke(&node, &[peer(100)], &[ANNA, 50, 51]);
    assert!(node.check_extension(strangers).is_err());
    let two = revoke(&node, &[peer(100)], &[ANNA, CLEO]);
    assert_eq!(extend(&mut node, &two), 1);
    assert!(node.is_revoked(&peer(100)) && !node.is_revoked(&peer(101)));
    assert_eq!(extend(&mut node, &two), 0, "a replay changes nothing");
}

#[test]
fn the_same_authority_twice_is_one() {
    let draft = node().draft(&[peer(100)], NOW).unwrap();
    let twice = vec![draft.sign(&key(ANNA)).unwrap(), draft.sign(&key(ANNA)).unwrap()];
    assert!(draft.signed(twice).is_err());
}

#[test]
fn what_is_not_what_was_signed_is_refused() {
    let mut node = node();
    let first = revoke(&node, &[peer(100)], &[ANNA, BEN]);
    extend(&mut node, &first);
    let honest = cbor::encode(&revoke(&node, &[peer(101), peer(102)], &[ANNA, BEN])).unwrap();
    // Every byte of it matters: the keys, the chain, the signatures.
    for at in 0..honest.len() {
        let mut forged = honest.clone();
        forged[at] ^= 1;
        if let Ok(forged) = cbor::decode::<Extension>(&forged, 1 << 20) {
            assert!(node.check_extension(forged).is_err(), "byte {at}");
        }
    }
    let elsewhere =
        Revocations::new(Some(Authorities::new("yard", [ANNA, BEN].map(peer), 2).unwrap()));
    let foreign = revoke(&elsewhere, &[peer(103)], &[ANNA, BEN]);
    assert_eq!(node.check_extension(foreign).unwrap_err(), RevocationError::OtherNetwork);
}

#[test]
fn an_open_network_hears_no_authorities_but_keys_themselves() {
    let mut open = Revocations::new(None);
    let extension = revoke(&node(), &[peer(100)], &[ANNA, BEN]);
    assert_eq!(open.check_extension(extension).unwrap_err(), RevocationError::NoAuthorities);
    assert_eq!(withdraw(&mut open, &withdrawal(100, None)), 1);
    assert!(open.is_revoked(&peer(100)));
    assert_eq!(withdraw(&mut open, &withdrawal(100, None)), 0);
}

#[test]
fn a_withdrawal_is_the_keys_own_and_no_other_statement() {
    let node = node();
    let mut forged = withdrawal(100, None);
    let at = forged.len() - 1;
    forged[at] ^= 1;
    assert!(node.check_withdrawal(&forged, Acquaintance::Known).is_err());
    let draft = node.draft(&[peer(101)], NOW).unwrap();
    let other = draft.sign(&key(ANNA)).unwrap();
    assert!(node.check_withdrawal(&other, Acquaintance::Known).is_err(), "another type");
}

#[test]
fn a_restart_forgets_nothing() {
    let mut node = node();
    let extension = revoke(&node, &peers(0..500), &[ANNA, BEN]);
    extend(&mut node, &extension);
    withdraw(&mut node, &withdrawal(200, None));
    let again = restarted(&node);
    assert_eq!((again.len(), again.digest()), (501, node.digest()));
    assert!(peers(0..500).iter().chain([&peer(200)]).all(|peer| again.is_revoked(peer)));
}

#[test]
fn a_record_counts_only_once_it_is_applied() {
    let node = node();
    let extension = revoke(&node, &[peer(100)], &[ANNA, BEN]);
    let pending = node.check_extension(extension).unwrap().unwrap();
    assert!(!node.is_revoked(&peer(100)), "it is not on disk yet");
    let mut again = self::node();
    again.restore(&pending.record()).unwrap();
    assert!(again.is_revoked(&peer(100)));
}

#[test]
fn what_an_authority_signed_before_it_was_revoked_stands_and_later_does_not() {
    let mut node = node();
    let before = revoke(&node, &[peer(100)], &[ANNA, BEN]);
    extend(&mut node, &before);
    let of_anna = revoke(&node, &[peer(ANNA)], &[CLEO, DAN]);
    extend(&mut node, &of_anna);
    let later = revoke(&node, &[peer(101)], &[ANNA, BEN]);
    assert!(node.check_extension(later).is_err());
    assert!(node.is_revoked(&peer(100)) && !node.is_revoked(&peer(101)));
    // Who comes later learns both, in whatever order, and after a restart as well.
    let mut newcomer = self::node();
    sync(&mut newcomer, &node);
    assert_eq!(newcomer.digest(), node.digest());
    assert!(newcomer.is_revoked(&peer(100)) && newcomer.is_revoked(&peer(ANNA)));
    assert_eq!(restarted(&node).digest(), node.digest());
}

#[test]
fn an_authority_that_withdraws_stands_by_what_it_names() {
    let mut node = node();
    let before = revoke(&node, &[peer(100)], &[ANNA, BEN]);
    extend(&mut node, &before);
    let thief = revoke(&self::node(), &[peer(101)], &[ANNA, BEN]);
    let own = withdrawal(ANNA, Some(&node));
    withdraw(&mut node, &own);
    assert!(node.check_extension(thief).is_err(), "signed with the lost key");
    let mut newcomer = self::node();
    withdraw(&mut newcomer, &withdrawal(ANNA, Some(&node)));
    sync(&mut newcomer, &node);
    assert!(newcomer.is_revoked(&peer(100)), "what it stood by");
    assert_eq!(newcomer.digest(), node.digest());
}

#[test]
fn authorities_that_did_not_know_of_each_other_are_both_heard_and_put_together() {
    let (mut north, mut south) = (node(), node());
    let common = revoke(&north, &peers(0..10), &[ANNA, BEN]);
    extend(&mut north, &common);
    extend(&mut south, &common);
    let of_north = revoke(&north, &peers(10..13), &[ANNA, BEN]);
    let of_south = revoke(&south, &peers(20..24), &[CLEO, DAN]);
    extend(&mut north, &of_north);
    extend(&mut south, &of_south);
    sync(&mut north, &south);
    sync(&mut south, &north);
    assert_eq!((north.len(), south.len()), (17, 17));
    assert_eq!(north.digest(), south.digest());
    // The next revocation takes the fork in.
    let merged = revoke(&north, &[peer(100)], &[ANNA, DAN]);
    extend(&mut north, &merged);
    assert_eq!(north.snapshot().count(), 1);
    assert_eq!(north.len(), 18);
    sync(&mut south, &north);
    assert_eq!(south.digest(), north.digest());
}

#[test]
fn ten_thousand_revocations_are_small_to_keep_and_to_compare() {
    let mut node = node();
    // One at a time, as they come.
    for batch in 0..100 {
        let extension = revoke(&node, &peers(batch * 100..(batch + 1) * 100), &[ANNA, BEN]);
        extend(&mut node, &extension);
    }
    assert_eq!(node.len(), 10_000);
    let stored: usize = node.snapshot().map(|record| record.len()).sum();
    assert!(stored <= 50 * 10_000, "{stored} bytes");
    assert_eq!(node.digest().len(), 32, "all that a synced pair exchanges");
    let mut away = restarted(&node);
    let missed = revoke(&node, &peers(50_000..50_010), &[BEN, CLEO]);
    extend(&mut node, &missed);
    let bytes = sync(&mut away, &node);
    assert_eq!(away.digest(), node.digest(), "in one exchange");
    assert!(bytes < 4_096, "{bytes} bytes");
}

#[test]
fn many_withdrawals_are_compared_by_buckets() {
    let (mut node, mut away) = (Revocations::new(None), Revocations::new(None));
    for seed in 0..300 {
        let bytes = withdrawal(seed, None);
        withdraw(&mut node, &bytes);
        withdraw(&mut away, &bytes);
    }
    assert_eq!(node.digest(), away.digest());
    withdraw(&mut node, &withdrawal(1_000, None));
    let bytes = sync(&mut away, &node);
    assert_eq!(away.digest(), node.digest());
    assert!(bytes < 6_000, "{bytes} bytes");
    // Nobody has to have many: the other way round it works, too.
    let mut empty = Revocations::new(None);
    sync(&mut empty, &node);
    assert_eq!(empty.digest(), node.digest());
}

#[test]
fn an_answer_that_does_not_fit_is_continued() {
    let mut node = Revocations::new(None);
    for seed in 0..50 {
        withdraw(&mut node, &withdrawal(seed, None));
    }
    let mut away = Revocations::new(None);
    let mut rounds = 0;
    while away.digest() != node.digest() {
        let answer = node.sync_answer(&away.sync_request(), 3_000);
        assert!(!answer.withdrawals.is_empty());
        for bytes in &answer.withdrawals {
            withdraw(&mut away, bytes);
        }
        rounds += 1;
        assert!(rounds < 20);
    }
    assert!(rounds > 3);
}

#[test]
fn strangers_that_withdraw_in_masses_leave_room_for_keys_that_were_met() {
    let mut node = Revocations::new(None);
    let mut accepted = 0;
    for seed in 0..(UNKNOWN_WITHDRAWALS_MAX as u64 + 10) {
        let checked = node.check_withdrawal(&withdrawal(seed, None), Acquaintance::Unknown);
        if let Ok(Some(pending)) = checked {
            node.apply(pending);
            accepted += 1;
        }
    }
    assert_eq!(accepted, UNKNOWN_WITHDRAWALS_MAX);
    assert_eq!(withdraw(&mut node, &withdrawal(1 << 32, None)), 1);
}

#[test]
fn logs_are_bounded_however_many_authorities_make() {
    let mut node = node();
    for fork in 0..LOGS_MAX as u64 {
        let extension = revoke(&self::node(), &peers(fork..fork + 1), &[ANNA, BEN]);
        assert_eq!(extend(&mut node, &extension), 1);
    }
    let one_more = revoke(&self::node(), &peers(900..901), &[ANNA, BEN]);
    assert_eq!(node.check_extension(one_more).unwrap_err(), RevocationError::Logs);
    let merged = revoke(&node, &peers(900..901), &[ANNA, BEN]);
    extend(&mut node, &merged);
    assert_eq!((node.len(), node.snapshot().count()), (LOGS_MAX + 1, 1));
}

#[test]
fn a_full_log_is_followed_by_another() {
    let mut node = node();
    let full = revoke(&node, &peers(0..LOG_KEYS_MAX as u64), &[ANNA, BEN]);
    assert!(cbor::encode(&full).unwrap().len() < 4 << 20, "it fits into one message");
    extend(&mut node, &full);
    let next = revoke(&node, &peers(500_000..500_003), &[ANNA, BEN]);
    assert_eq!(extend(&mut node, &next), 3);
    let mut newcomer = self::node();
    while newcomer.digest() != node.digest() {
        assert!(sync(&mut newcomer, &node) > 0);
    }
    assert_eq!(newcomer.len(), LOG_KEYS_MAX + 3);
}

#[test]
fn the_gate_refuses_a_revoked_peer_everything_for_ever() {
    let mut trust = Trust::new(Config::default(), Vec::new());
    trust.observe(NOW, peer(100), dunlin_trust::Evidence::Served { blocks: 1_000 });
    let pending = trust.revocations().check_withdrawal(&withdrawal(100, None), Acquaintance::Known);
    let pending = pending.unwrap().unwrap();
    let record = pending.record();
    assert_eq!(trust.apply_revocation(pending), 1);
    trust.observe(NOW, peer(100), dunlin_trust::Evidence::Served { blocks: u32::MAX });
    let records = std::iter::from_fn(|| trust.next_dirty()).collect();
    let mut restarted = Trust::new(Config::default(), records);
    restarted.restore_revocation(&record).unwrap();
    for now in [UnixMillis(0), NOW, UnixMillis(u64::MAX)] {
        for trust in [&trust, &restarted] {
            assert_eq!(trust.standing(now, &peer(100)), Standing::Revoked);
            assert_eq!(trust.score(now, &peer(100)), 0.0);
            for operation in Operation::ALL {
                assert!(trust.may(now, &peer(100), operation).is_err());
            }
        }
    }
    assert_eq!(trust.peers().count(), 0, "it takes no room");
}

#[test]
fn damaged_records_are_refused() {
    let node = node();
    let extension = revoke(&node, &[peer(100)], &[ANNA, BEN]);
    let record = node.check_extension(extension).unwrap().unwrap().record();
    for at in 0..record.len() {
        let mut damaged = record.clone();
        damaged[at] ^= 0x20;
        let mut node = self::node();
        assert!(node.restore(&damaged).is_err() || node.is_empty(), "byte {at}");
    }
}

#[test]
fn every_kind_of_key_has_a_subject_of_its_own() {
    let hashed = peers(7..8)[0];
    assert_ne!(Subject::of(&hashed), Subject::of(&peer(7)));
    let key = key(7).public().try_into_ed25519().unwrap().to_bytes();
    assert_eq!(Subject::of(&peer(7)).as_bytes(), &key);
}

#[test]
fn signatures_have_one_order() {
    let draft = node().draft(&[peer(100)], NOW).unwrap();
    let (anna, ben) = (draft.sign(&key(ANNA)).unwrap(), draft.sign(&key(BEN)).unwrap());
    let one = draft.clone().signed(vec![anna.clone(), ben.clone()]).unwrap();
    assert_eq!(one, draft.signed(vec![ben.clone(), anna.clone()]).unwrap());
    let mut envelopes = [anna, ben].map(serde_bytes::ByteBuf::from).to_vec();
    let sorted = cbor::encode(&envelopes).unwrap();
    envelopes.reverse();
    let reversed = cbor::encode(&envelopes).unwrap();
    let opens = |bytes: &[u8]| {
        let endorsements: Endorsements = cbor::decode(bytes, 4_096).unwrap();
        endorsements.open::<dunlin_trust::Head>().is_ok()
    };
    assert_ne!(opens(&sorted), opens(&reversed));
}

#[derive(Clone, Debug)]
enum Step {
    Revoke { node: usize, first: u64, count: u64 },
    Withdraw { node: usize, seed: u64 },
    Sync { node: usize, with: usize },
    Restart { node: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let node = 0..3_usize;
    let step = prop_oneof![
        (node.clone(), 0..40_u64, 1..8_u64).prop_map(|(node, first, count)| Step::Revoke {
            node,
            first,
            count
        }),
        (node.clone(), 100..120_u64).prop_map(|(node, seed)| Step::Withdraw { node, seed }),
        (node.clone(), node.clone()).prop_map(|(node, with)| Step::Sync { node, with }),
        node.prop_map(|node| Step::Restart { node }),
    ];
    prop::collection::vec(step, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn nothing_is_ever_unrevoked_and_peers_that_talk_agree(steps in steps()) {
        let mut nodes = [node(), node(), node()];
        let mut revoked = vec![Vec::<PeerId>::new(); 3];
        for step in steps {
            match step {
                Step::Revoke { node, first, count } => {
                    let keys = peers(first..first + count);
                    let extension = revoke(&nodes[node], &keys, &[ANNA, BEN]);
                    extend(&mut nodes[node], &extension);
                    revoked[node].extend(keys);
                }
                Step::Withdraw { node, seed } => {
                    withdraw(&mut nodes[node], &withdrawal(seed, None));
                    revoked[node].push(peer(seed));
                }
                Step::Sync { node, with } if node != with => {
                    let other = nodes[with].clone();
                    sync(&mut nodes[node], &other);
                    let theirs = revoked[with].clone();
                    revoked[node].extend(theirs);
                }
                Step::Sync { .. } => {}
                Step::Restart { node } => nodes[node] = restarted(&nodes[node]),
            }
            for (node, revoked) in nodes.iter().zip(&revoked) {
                prop_assert!(revoked.iter().all(|peer| node.is_revoked(peer)));
            }
        }
        for round in 0..6 {
            let (node, with) = [(0, 1), (1, 2), (2, 0), (0, 1), (1, 2), (2, 0)][round];
            let other = nodes[with].clone();
            sync(&mut nodes[node], &other);
        }
        prop_assert_eq!(nodes[0].len(), nodes[1].len());
        prop_assert_eq!(nodes[1].len(), nodes[2].len());
    }
}
