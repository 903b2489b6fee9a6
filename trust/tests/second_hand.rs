//! Hearsay and proofs: what others say can withhold trust and no more, and what they prove counts in full.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::Duration;

use dunlin_trust::{
    Claim, Config, Evidence, Exclusive, ForgedStatement, Kind, Operation, PROOF_BYTES_MAX,
    PROOF_NAME_BYTES, PROOFS_HELD_MAX, Passed, Proof, ProofError, Proofs, Proven,
    REPORT_AGE_MAX_MS, REPORTERS_MAX, Record, Report, ReportError, SERVED_OBJECTS_MAX,
    STATEMENT_BYTES_MAX, SUBJECTS_MAX, SentObject, Served, Standing, Thresholds, Trust, UnixMillis,
    WEIGHT_MAX, WrongObject,
};
use dunlin_wire::{
    Cid,
    block::{Codec, cid_of},
    cbor,
    envelope::{self, OpenError, Payload, Signed},
};
use libp2p_identity::{Keypair, PeerId};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

const NOW: UnixMillis = UnixMillis(1_763_700_000_000);
const HOUR_MS: u64 = 3_600_000;
const ACCUSED: u64 = 1_000;

/// A statement as announcements are: one for each name and number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Note(String, u64, String);

impl Payload for Note {
    const TYPE: &'static str = "test/note/1";
    const BYTES_MAX: usize = 128;
}

impl Exclusive for Note {
    fn place(&self) -> (&str, u64) {
        (&self.0, self.1)
    }
}

const KINDS: [Kind; 1] = [Kind::of::<Note>()];

const NETWORK: &str = "home";

/// Settings under which conduct alone decides: how long a peer is known is what `standing.rs` tests.
fn config() -> Config {
    let thresholds = Thresholds { trust_after: Duration::ZERO, ..Thresholds::default() };
    Config { thresholds, ..Config::default() }
}

fn key(seed: u64) -> Keypair {
    let mut secret = [9; 32];
    secret[..8].copy_from_slice(&seed.to_le_bytes());
    Keypair::ed25519_from_bytes(secret).unwrap()
}

fn peer(seed: u64) -> PeerId {
    key(seed).public().to_peer_id()
}

fn report(by: u64, about: u64, issued: UnixMillis) -> Signed<Report> {
    envelope::sign(&key(by), Report::new(peer(about), Claim::WrongCid, issued)).unwrap()
}

fn note(by: u64, number: u64, text: &str) -> Vec<u8> {
    envelope::sign(&key(by), Note("x".into(), number, text.into())).unwrap().bytes
}

fn equivocation(by: u64, number: u64) -> Proven {
    let proof = Proof::of_equivocation::<Note>(&note(by, number, "a"), &note(by, number, "b"));
    proof.verify(NETWORK, &KINDS).unwrap()
}

/// A node to which these peers have served enough to be trusted.
fn node_that_trusts(trusted: std::ops::Range<u64>) -> Trust {
    let mut trust = Trust::new(config(), Vec::new());
    for seed in trusted {
        trust.observe(NOW, peer(seed), Evidence::Served { blocks: 400 });
        assert_eq!(trust.standing(NOW, &peer(seed)), Standing::Trusted);
    }
    trust
}

#[test]
fn only_trusted_peers_are_heard() {
    let mut trust = node_that_trusts(1..2);
    let before = trust.score(NOW, &peer(ACCUSED));
    let refused = trust.hear(NOW, &report(2, ACCUSED, NOW));
    assert!(matches!(refused, Err(ReportError::Refused(_))));
    assert_eq!(trust.score(NOW, &peer(ACCUSED)), before);
    trust.hear(NOW, &report(1, ACCUSED, NOW)).unwrap();
    assert!(trust.score(NOW, &peer(ACCUSED)) < before);
    assert_eq!(trust.hear(NOW, &report(1, ACCUSED, NOW)), Err(ReportError::Known));
}

#[test]
fn a_report_says_when_it_was_made_and_not_of_oneself() {
    let mut trust = node_that_trusts(1..2);
    let day_ahead = UnixMillis(NOW.0 + 24 * HOUR_MS);
    trust.hear(NOW, &report(1, ACCUSED, day_ahead)).unwrap();
    let future = UnixMillis(NOW.0 + 30 * HOUR_MS);
    let heard = trust.hear(NOW, &report(1, ACCUSED, future));
    assert_eq!(heard, Err(ReportError::Future { issued: future }));
    let stale = UnixMillis(NOW.0 - REPORT_AGE_MAX_MS - 1);
    let heard = trust.hear(NOW, &report(1, 2, stale));
    assert_eq!(heard, Err(ReportError::Stale { issued: stale }));
    let heard = trust.hear(NOW, &report(1, 1, NOW));
    assert_eq!(heard, Err(ReportError::OfItself { reporter: peer(1) }));
}

#[test]
fn a_reporter_that_is_distrusted_counts_no_more() {
    let mut trust = node_that_trusts(1..3);
    let clear = trust.score(NOW, &peer(ACCUSED));
    trust.hear(NOW, &report(1, ACCUSED, NOW)).unwrap();
    assert!(trust.score(NOW, &peer(ACCUSED)) < clear);
    trust.observe(NOW, peer(1), Evidence::WrongCid);
    trust.observe(NOW, peer(1), Evidence::WrongCid);
    assert_eq!(trust.standing(NOW, &peer(1)), Standing::Quarantined);
    assert_eq!(trust.score(NOW, &peer(ACCUSED)), clear);
}

#[test]
fn hearsay_withholds_trust_and_never_quarantines() {
    let reporters = 1..40;
    let mut trust = node_that_trusts(reporters.clone());
    // The least that trust takes, and the most slight evidence there is.
    trust.observe(NOW, peer(ACCUSED), Evidence::Served { blocks: 270 });
    assert_eq!(trust.standing(NOW, &peer(ACCUSED)), Standing::Trusted);
    for by in reporters.clone() {
        trust.hear(NOW, &report(by, ACCUSED, NOW)).unwrap_or(());
    }
    assert_eq!(trust.standing(NOW, &peer(ACCUSED)), Standing::Probation);
    for _ in 0..100 {
        trust.observe(NOW, peer(ACCUSED), Evidence::Timeout);
        trust.observe(NOW, peer(2_000), Evidence::Timeout);
    }
    let alone = trust.score(NOW, &peer(2_000));
    for by in reporters {
        trust.hear(NOW, &report(by, 2_000, NOW)).unwrap_or(());
        // A day later they say it again, and again.
        for day in 1..9 {
            let later = UnixMillis(NOW.0 + day * 24 * HOUR_MS);
            trust.hear(later, &report(by, 2_000, later)).unwrap_or(());
            assert_ne!(trust.standing(later, &peer(2_000)), Standing::Quarantined);
        }
    }
    assert_eq!(trust.score(NOW, &peer(2_000)), alone, "hearsay has no room beside timeouts");
}

#[test]
fn no_setting_lets_hearsay_quarantine() {
    let mut config = config();
    (config.weights.hearsay, config.weights.hearsay_max) = (WEIGHT_MAX, WEIGHT_MAX);
    config.weights.slight_max = 7.99;
    let mut trust = Trust::new(config, Vec::new());
    for seed in [1, ACCUSED] {
        trust.observe(NOW, peer(seed), Evidence::Served { blocks: 400 });
    }
    trust.hear(NOW, &report(1, ACCUSED, NOW)).unwrap();
    assert_eq!(trust.standing(NOW, &peer(ACCUSED)), Standing::Probation);
    // What is written into the record from here on is first hand.
    trust.observe(NOW, peer(ACCUSED), Evidence::Served { blocks: 1 });
    assert_eq!(trust.standing(NOW, &peer(ACCUSED)), Standing::Probation);
    let month = UnixMillis(NOW.0 + 24 * 30 * HOUR_MS);
    trust.observe(month, peer(ACCUSED), Evidence::Served { blocks: 400 });
    assert_eq!(trust.standing(month, &peer(ACCUSED)), Standing::Trusted);
}

#[test]
fn hearsay_is_explained() {
    let mut trust = node_that_trusts(1..2);
    trust.hear(NOW, &report(1, ACCUSED, NOW)).unwrap();
    let text = trust.explain(NOW, &peer(ACCUSED)).to_string();
    assert!(text.contains("hearsay") && text.contains("says wrong CID"), "{text}");
}

#[test]
fn a_proof_counts_in_full_once_and_whoever_brings_it() {
    let mut trust = Trust::new(config(), Vec::new());
    let proven = equivocation(7, 1);
    trust.observe_proof(NOW, &proven).unwrap();
    assert_eq!(trust.standing(NOW, &peer(7)), Standing::Quarantined);
    assert!(trust.has_counted(&proven));
    let score = trust.score(NOW, &peer(7));
    assert_eq!(trust.observe_proof(NOW, &proven), None);
    assert_eq!(trust.score(NOW, &peer(7)), score);
    // Nor again after a restart.
    let records: Vec<Record> = std::iter::from_fn(|| trust.next_dirty())
        .map(|record| cbor::decode(&cbor::encode(&record).unwrap(), 1 << 16).unwrap())
        .collect();
    let mut restarted = Trust::new(config(), records);
    assert_eq!(restarted.observe_proof(NOW, &proven), None);
    assert_eq!(restarted.score(NOW, &peer(7)), score);
    restarted.observe_proof(NOW, &equivocation(7, 2));
    assert!(restarted.score(NOW, &peer(7)) < score);
}

#[test]
fn no_more_proofs_are_kept_than_count() {
    let mut trust = Trust::new(config(), Vec::new());
    for number in 0..20 {
        trust.observe_proof(NOW, &equivocation(7, number));
    }
    let record = std::iter::from_fn(|| trust.next_dirty()).last().unwrap();
    assert_eq!(record.tally().equivocations, 8);
    assert!(cbor::encode(&record).unwrap().len() < 700);
}

#[test]
fn two_statements_for_one_place_convict_their_signer() {
    let proven = equivocation(7, 1);
    assert_eq!((*proven.peer(), proven.evidence()), (peer(7), Evidence::Equivocation));
    let (a, b) = (note(7, 1, "a"), note(7, 1, "b"));
    let same = [Proof::of_equivocation::<Note>(&a, &b), Proof::of_equivocation::<Note>(&b, &a)];
    assert_eq!(same[0], same[1]);
    let harmless = [
        (note(7, 1, "a"), note(7, 2, "b"), "other places"),
        (note(7, 1, "a"), note(8, 1, "b"), "other signers"),
        (note(7, 1, "a"), note(7, 1, "a"), "the same"),
    ];
    for (one, other, why) in harmless {
        let proof = Proof::of_equivocation::<Note>(&one, &other);
        assert_eq!(proof.verify(NETWORK, &KINDS), Err(ProofError::Harmless), "{why}");
    }
    let Proof::Equivocation { payload_type, first, second } = same[0].clone() else { panic!() };
    let turned = Proof::Equivocation { payload_type, first: second, second: first };
    assert_eq!(turned.verify(NETWORK, &KINDS), Err(ProofError::Harmless), "one pair has one name");
    assert_eq!(same[0].verify(NETWORK, &[]), Err(ProofError::Kind));
}

/// Objects of an answer, of which those at `wrong` are sent with other bytes.
fn sent(count: usize, wrong: &[usize]) -> Vec<SentObject> {
    let object = |number: usize| {
        let bytes = format!("object {number}");
        let cid = cid_of(Codec::DagCbor, bytes.as_bytes());
        if wrong.contains(&number) {
            SentObject::new(cid, b"a lie")
        } else {
            SentObject::whole(cid, b"")
        }
    };
    (0..count).map(object).collect()
}

fn served(by: u64, network: &str, sent: &[SentObject]) -> Vec<u8> {
    envelope::sign(&key(by), Served::new(network, sent).unwrap()).unwrap().bytes
}

/// The proof that the first wrong object of an answer is among it.
fn lie(by: u64, network: &str, sent: &[SentObject]) -> Proof {
    let wrong = WrongObject::first_of(sent).unwrap().into();
    Proof::WrongCid { served: served(by, network, sent).into(), wrong }
}

#[test]
fn a_signed_answer_with_other_bytes_convicts_its_signer() {
    for (count, at) in [(1, 0), (2, 1), (3, 2), (7, 6), (100, 64), (SERVED_OBJECTS_MAX, 255)] {
        let sent = sent(count, &[at, count - 1]);
        let proof = lie(7, NETWORK, &sent);
        let lie = proof.verify(NETWORK, &KINDS).unwrap();
        assert_eq!((*lie.peer(), lie.evidence()), (peer(7), Evidence::WrongCid));
        let bytes = proof.encode();
        assert!(bytes.len() < 800, "{} bytes", bytes.len());
        assert_eq!(Proof::decode(&bytes), Ok(proof));
        let signed = envelope::open::<Served>(&served(7, NETWORK, &sent)).unwrap().value;
        assert!(signed.is_about(NETWORK, &sent) && !signed.is_about("other", &sent));
    }
    assert_eq!(Served::new(NETWORK, &[]), None);
    assert_eq!(Served::new(NETWORK, &sent(SERVED_OBJECTS_MAX + 1, &[])), None);
}

#[test]
fn an_honest_answer_convicts_nobody_however_it_is_shown() {
    let honest = sent(5, &[]);
    assert_eq!(WrongObject::first_of(&honest), None);
    // What a whole object hashes to is not looked at: its CID says it.
    let cid = cid_of(Codec::Raw, b"the truth");
    assert_eq!(SentObject::whole(cid, b"rot"), SentObject::new(cid, b"the truth"));
    // Somebody shows an honest answer with an object that was not in it, or not so.
    let others = [sent(5, &[2]), sent(1, &[0]), sent(4, &[3])];
    for other in &others {
        let wrong = WrongObject::first_of(other).unwrap().into();
        let proof = Proof::WrongCid { served: served(7, NETWORK, &honest).into(), wrong };
        assert_eq!(proof.verify(NETWORK, &KINDS), Err(ProofError::Harmless));
    }
    // An answer of another network, shown in this one.
    let elsewhere = lie(7, "elsewhere", &sent(5, &[2]));
    assert_eq!(elsewhere.verify(NETWORK, &KINDS), Err(ProofError::Harmless));
    assert!(elsewhere.verify("elsewhere", &KINDS).is_ok());
    // A CID that names no sha2-256: nobody can tell.
    let odd = [0x1e, 0x12].map(|code| {
        let hash = multihash::Multihash::wrap(code, &[7; 16]).unwrap();
        SentObject::new(Cid::new_v1(0x55, hash), b"anything")
    });
    assert_eq!(WrongObject::first_of(&odd), None);
}

/// What a liar signs in the place of [`Passed`], which cannot be made of what nobody signed.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
struct Vouched(Served);

impl Payload for Vouched {
    const TYPE: &'static str = Passed::TYPE;
    const BYTES_MAX: usize = Passed::BYTES_MAX;
}

/// An envelope whose signature is not that of the key it names.
fn forged(number: u64) -> Vec<u8> {
    let mut envelope = note(8, number, "a");
    let name = envelope.windows(9).position(|bytes| bytes == b"signature").unwrap();
    envelope[name + 20] ^= 1;
    assert_eq!(envelope::open::<Note>(&envelope), Err(OpenError::Signature));
    envelope
}

/// Envelopes that are handed on, of which those at `bad` nobody signed.
fn statements(count: usize, bad: &[usize]) -> Vec<Vec<u8>> {
    let statement = |number: usize| match bad.contains(&number) {
        true => forged(number as u64),
        false => note(8, number as u64, "a"),
    };
    (0..count).map(statement).collect()
}

fn as_blocks(statements: &[Vec<u8>]) -> Vec<SentObject> {
    statements.iter().map(|one| SentObject::whole(cid_of(Codec::DagCbor, one), one)).collect()
}

/// What a liar signs for, whatever it hands on.
fn vouched(by: u64, network: &str, statements: &[Vec<u8>]) -> Vec<u8> {
    let served = Served::new(network, &as_blocks(statements)).unwrap();
    envelope::sign(&key(by), Vouched(served)).unwrap().bytes
}

/// What an honest peer signs for of these, and what it hands on.
fn honestly(by: u64, network: &str, statements: &[Vec<u8>]) -> Option<(Vec<Vec<u8>>, Vec<u8>)> {
    let (kept, passed) = Passed::new(network, statements.to_vec())?;
    Some((kept, envelope::sign(&key(by), passed).unwrap().bytes))
}

fn bad_signature(passed: Vec<u8>, of: &[Vec<u8>]) -> Proof {
    let forged = ForgedStatement::first_of(of).unwrap().into();
    Proof::BadSignature { forged, passed: passed.into() }
}

#[test]
fn whoever_vouches_for_what_nobody_signed_is_convicted() {
    for (count, at) in [(1, 0), (2, 1), (3, 2), (7, 6), (64, 40), (SERVED_OBJECTS_MAX, 255)] {
        let handed_on = statements(count, &[at, count - 1]);
        let proof = bad_signature(vouched(7, NETWORK, &handed_on), &handed_on);
        let proven = proof.verify(NETWORK, &KINDS).unwrap();
        assert_eq!((*proven.peer(), proven.evidence()), (peer(7), Evidence::BadSignature));
        assert!(proven.evidence() == Evidence::BadSignature && *proven.peer() != peer(8));
        assert_eq!(Proof::decode(&proof.encode()), Ok(proof.clone()));
        // Whoever the statement is said to be of has nothing to do with it, and another network neither.
        assert_eq!(proof.verify("elsewhere", &KINDS), Err(ProofError::Harmless));
    }
    // The largest one fits where proofs are told.
    let mut large = envelope::sign(&key(8), Long(vec![7; STATEMENT_BYTES_MAX - 3].into())).unwrap();
    let last = large.bytes.len() - 1;
    let name = large.bytes.windows(9).position(|bytes| bytes == b"signature").unwrap();
    assert!(name + 20 < last);
    large.bytes[name + 20] ^= 1;
    let mut handed_on = statements(SERVED_OBJECTS_MAX - 1, &[]);
    handed_on.push(large.bytes);
    let proof = bad_signature(vouched(7, &"n".repeat(64), &handed_on), &handed_on);
    assert!(proof.verify(&"n".repeat(64), &KINDS).is_ok());
    assert!(proof.encode().len() <= PROOF_BYTES_MAX);
}

/// A statement as long as statements may be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Long(serde_bytes::ByteBuf);

impl Payload for Long {
    const TYPE: &'static str = "test/long/1";
    const BYTES_MAX: usize = STATEMENT_BYTES_MAX;
}

#[test]
fn an_honest_peer_vouches_for_nothing_that_nobody_signed_whatever_it_has() {
    let junk = [
        forged(1),
        b"noise".to_vec(),
        Vec::new(),
        // Not canonical, too long, and an envelope of a version to come: nobody can tell who signed them.
        [&note(8, 1, "a")[..], b"x"].concat(),
        vec![0; STATEMENT_BYTES_MAX * 2],
    ];
    assert!(honestly(7, NETWORK, &junk).is_none());
    let good = note(8, 1, "a");
    let all = [&junk[..], std::slice::from_ref(&good), &junk[..]].concat();
    let (kept, signed) = honestly(7, NETWORK, &all).unwrap();
    assert_eq!(kept, std::slice::from_ref(&good));
    let passed = envelope::open::<Passed>(&signed).unwrap().value;
    assert!(passed.is_about(NETWORK, &kept));
    assert!(!passed.is_about(NETWORK, &all) && !passed.is_about("elsewhere", &kept));
    assert_eq!(ForgedStatement::first_of(&kept), None);
    assert!(Passed::new(NETWORK, vec![good; SERVED_OBJECTS_MAX + 1]).is_none());
}

/// A [`ForgedStatement`] as anybody may write one.
#[derive(Serialize)]
struct Shown {
    at: u16,
    envelope: serde_bytes::ByteBuf,
    path: Vec<serde_bytes::ByteArray<32>>,
}

#[test]
fn nothing_that_an_honest_peer_signs_shows_that_it_vouched_for_a_forgery() {
    let lied = statements(5, &[2]);
    let (_, honest) = honestly(7, NETWORK, &statements(5, &[])).unwrap();
    let harmless = |passed: Vec<u8>, why: &str| {
        let proof = bad_signature(passed, &lied);
        assert!(proof.verify(NETWORK, &KINDS).is_err(), "{why}");
    };
    harmless(honest, "it vouched for others");
    let (_, rest) = honestly(7, NETWORK, &lied).unwrap();
    harmless(rest, "it left the forgery out");
    // A block that somebody archived by hand is served under its CID, which promises nothing but its bytes.
    harmless(
        served(7, NETWORK, &as_blocks(&lied)),
        "it served a block, and vouched for no statement",
    );
    harmless(vouched(7, "elsewhere", &lied), "what is lied elsewhere is proven there");
    harmless(note(7, 1, "a"), "it said something else");
    // A statement that somebody signed is shown as if nobody had, and so is one that nobody can tell.
    for shown in [note(8, 1, "a"), b"noise".to_vec(), vec![0; STATEMENT_BYTES_MAX * 2]] {
        let alone = [shown.clone()];
        let as_forged = cbor::encode(&Shown { at: 0, envelope: shown.into(), path: Vec::new() });
        let forged: ForgedStatement = cbor::decode(&as_forged.unwrap(), 1 << 16).unwrap();
        let passed = vouched(7, NETWORK, &alone).into();
        let proof = Proof::BadSignature { forged: forged.into(), passed };
        assert_eq!(proof.verify(NETWORK, &KINDS), Err(ProofError::Harmless));
    }
    // What cannot be told to be forged proves nothing, even where it was vouched for.
    for whole in [note(8, 2, "a"), b"noise".to_vec(), vec![0; STATEMENT_BYTES_MAX * 2]] {
        let mut handed_on = lied.clone();
        handed_on[2] = whole;
        assert_eq!(ForgedStatement::first_of(&handed_on), None);
        // The place of the forgery, of an answer that had something else there.
        harmless(vouched(7, NETWORK, &handed_on), "it was not among them");
    }
}

#[test]
fn nobody_can_be_convicted_by_another() {
    let honest = note(7, 1, "a");
    let framed = Proof::of_equivocation::<Note>(&honest, &note(8, 1, "b"));
    assert_eq!(framed.verify(NETWORK, &KINDS), Err(ProofError::Harmless));
    let bytes = equivocation_bytes(7);
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        let verified = Proof::decode(&damaged).map(|proof| proof.verify(NETWORK, &KINDS));
        assert!(!matches!(verified, Ok(Ok(_))), "byte {at}");
    }
}

fn equivocation_bytes(by: u64) -> Vec<u8> {
    Proof::of_equivocation::<Note>(&note(by, 1, "a"), &note(by, 1, "b")).encode()
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Byte(u8),
    Signer,
    Network,
    Order,
    Truth,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// As below, of statements: what convicts is the word of whoever handed the forgery on, as a whole, in its network.
    #[test]
    fn a_proof_of_a_forged_statement_cannot_be_made_by_another(
        count in 1usize..40, at in any::<prop::sample::Index>(), place in any::<prop::sample::Index>(),
        change in prop_oneof![
            (1u8..).prop_map(Change::Byte), Just(Change::Signer), Just(Change::Network),
            Just(Change::Order), Just(Change::Truth),
        ],
    ) {
        let at = at.index(count);
        let lied = statements(count, &[at]);
        let proof = bad_signature(vouched(7, NETWORK, &lied), &lied);
        prop_assert_eq!(proof.verify(NETWORK, &KINDS).map(|proven| *proven.peer()), Ok(peer(7)));
        let changed = match change {
            Change::Byte(flip) => {
                let mut bytes = proof.encode();
                let place = place.index(bytes.len());
                bytes[place] ^= flip;
                match Proof::decode(&bytes) {
                    Ok(changed) => changed,
                    Err(_) => return Ok(()),
                }
            }
            // An honest peer was asked for the same.
            Change::Signer => match honestly(8, NETWORK, &lied) {
                Some((_, passed)) => bad_signature(passed, &lied),
                None => return Ok(()),
            },
            Change::Network => bad_signature(vouched(7, "elsewhere", &lied), &lied),
            Change::Order => {
                let mut turned = lied.clone();
                turned.rotate_left(1);
                if turned == lied { return Ok(()) }
                bad_signature(vouched(7, NETWORK, &turned), &lied)
            }
            Change::Truth => bad_signature(vouched(7, NETWORK, &statements(count, &[])), &lied),
        };
        prop_assert!(changed.verify(NETWORK, &KINDS).is_err(), "{:?}", change);
    }

    /// A proof names who signed the lie, and no change of it proves anything, against that one or anybody else.
    #[test]
    fn a_proof_of_a_wrong_answer_cannot_be_made_by_another(
        count in 1usize..40, at in any::<prop::sample::Index>(), place in any::<prop::sample::Index>(),
        change in prop_oneof![
            (1u8..).prop_map(Change::Byte), Just(Change::Signer), Just(Change::Network),
            Just(Change::Order), Just(Change::Truth),
        ],
    ) {
        let at = at.index(count);
        let lied = sent(count, &[at]);
        let proof = lie(7, NETWORK, &lied);
        prop_assert_eq!(proof.verify(NETWORK, &KINDS).map(|proven| *proven.peer()), Ok(peer(7)));
        let Proof::WrongCid { served: signed, wrong } = proof.clone() else { panic!("that kind") };
        let changed = match change {
            Change::Byte(flip) => {
                let mut bytes = proof.encode();
                let place = place.index(bytes.len());
                bytes[place] ^= flip;
                match Proof::decode(&bytes) {
                    Ok(changed) => changed,
                    Err(_) => return Ok(()),
                }
            }
            // An honest peer signed another answer about the same.
            Change::Signer => {
                Proof::WrongCid { served: served(8, NETWORK, &sent(count, &[])).into(), wrong }
            }
            Change::Network => lie(7, "elsewhere", &lied),
            // The same objects elsewhere in the answer.
            Change::Order => {
                let mut turned = lied.clone();
                turned.rotate_left(1);
                if turned == lied { return Ok(()) }
                Proof::WrongCid { served: served(7, NETWORK, &turned).into(), wrong }
            }
            Change::Truth => {
                let truth = sent(count, &[]);
                let wrong = WrongObject::first_of(&lied).unwrap().into();
                prop_assert_ne!(served(7, NETWORK, &truth), signed.into_vec());
                Proof::WrongCid { served: served(7, NETWORK, &truth).into(), wrong }
            }
        };
        prop_assert!(changed.verify(NETWORK, &KINDS).is_err(), "{:?}", change);
    }
}

/// What may happen about one peer: seen, said or proven.
#[derive(Clone, Debug)]
enum Happened {
    Seen(Evidence),
    Said { by: u64, ago_ms: u64 },
    Proven(u64),
}

fn happened() -> impl Strategy<Value = Happened> {
    prop_oneof![
        (0u32..300).prop_map(|blocks| Happened::Seen(Evidence::Served { blocks })),
        Just(Happened::Seen(Evidence::Timeout)),
        Just(Happened::Seen(Evidence::ProtocolViolation)),
        bad(),
    ]
}

fn bad() -> impl Strategy<Value = Happened> {
    prop_oneof![
        (1u64..13, 0..100 * HOUR_MS).prop_map(|(by, ago_ms)| Happened::Said { by, ago_ms }),
        (0u64..4).prop_map(Happened::Proven),
    ]
}

/// A report, or a proof that is none of those: one that comes earlier fades earlier, and is the same one.
fn another() -> impl Strategy<Value = Happened> {
    bad().prop_map(|bad| if matches!(bad, Happened::Proven(_)) { Happened::Proven(4) } else { bad })
}

fn after(events: &[(u64, Happened)]) -> Trust {
    let mut trust = node_that_trusts(1..13);
    for (time, event) in events {
        let now = UnixMillis(NOW.0 + time);
        match event {
            Happened::Seen(evidence) => {
                trust.observe(now, peer(ACCUSED), *evidence);
            }
            Happened::Said { by, ago_ms } => {
                trust.hear(now, &report(*by, ACCUSED, UnixMillis(now.0 - ago_ms))).ok();
            }
            Happened::Proven(number) => {
                trust.observe_proof(now, &equivocation(ACCUSED, *number));
            }
        }
    }
    trust
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Reports and proofs are as monotone as what is seen: one more never ends in a higher score.
    #[test]
    fn one_more_report_or_proof_never_ends_higher(
        events in prop::collection::vec((0..12 * HOUR_MS, happened()), 0..16),
        at in any::<prop::sample::Index>(), extra in another(), later in 0..12 * HOUR_MS,
    ) {
        let mut events = events;
        events.sort_by_key(|(time, _)| *time);
        let mut longer = events.clone();
        let at = at.index(events.len() + 1);
        let time = events[..at].last().map_or(0, |(time, _)| *time);
        longer.insert(at, (time, extra));
        let (less, more) = (after(&events), after(&longer));
        let now = UnixMillis(NOW.0 + 12 * HOUR_MS + later);
        let (worse, better) = (more.score(now, &peer(ACCUSED)), less.score(now, &peer(ACCUSED)));
        prop_assert!(worse <= better + 1e-9, "{worse} above {better}");
        prop_assert!(more.standing(now, &peer(ACCUSED)) <= less.standing(now, &peer(ACCUSED)));
    }

    /// Whatever is said and however often: who did nothing worse than time out is not quarantined.
    #[test]
    fn reports_alone_never_quarantine(
        said in prop::collection::vec((0..200 * HOUR_MS, 1u64..13, 0..100 * HOUR_MS), 0..60),
        timeouts in 0usize..40, blocks in 0u32..400,
    ) {
        let mut trust = node_that_trusts(1..13);
        trust.observe(NOW, peer(ACCUSED), Evidence::Served { blocks });
        for _ in 0..timeouts {
            trust.observe(NOW, peer(ACCUSED), Evidence::Timeout);
        }
        for (time, by, ago_ms) in said {
            let now = UnixMillis(NOW.0 + time);
            trust.hear(now, &report(by, ACCUSED, UnixMillis(now.0 - ago_ms))).ok();
            prop_assert!(trust.standing(now, &peer(ACCUSED)) > Standing::Quarantined);
            prop_assert!(trust.may(now, &peer(ACCUSED), Operation::FetchSegments).is_ok());
            prop_assert!(trust.reports() <= SUBJECTS_MAX * REPORTERS_MAX);
        }
    }
}

#[test]
fn two_that_compare_what_they_hold_end_with_the_same_and_hold_so_much_at_most() {
    let hold = |held: &mut Proofs, number: u64| {
        let proof = Proof::of_equivocation::<Note>(&note(1, number, "a"), &note(1, number, "b"));
        held.insert(&proof.verify(NETWORK, &KINDS).unwrap(), proof.encode())
    };
    let (mut one, mut other) = (Proofs::default(), Proofs::default());
    assert_eq!(one.digest(), other.digest());
    (0..10).for_each(|number| assert!(hold(&mut one, number)));
    (5..8).for_each(|number| assert!(hold(&mut other, number)));
    assert!(!hold(&mut one, 3), "it is here already");
    assert_ne!(one.digest(), other.digest());
    assert_eq!(one.names().len(), 10 * PROOF_NAME_BYTES);
    assert!(other.lacking(&one.names(), 64).0.is_empty(), "it has nothing to tell");

    // In several answers, each the newest that the other lacks.
    for expected in [4, 3] {
        let (told, is_partial) = one.lacking(&other.names(), 4);
        assert_eq!((told.len(), is_partial), (expected, expected == 4));
        for bytes in told {
            let proof = Proof::decode(bytes).unwrap();
            assert!(other.insert(&proof.verify(NETWORK, &KINDS).unwrap(), bytes.to_vec()));
        }
    }
    assert_eq!((one.digest(), one.len()), (other.digest(), other.len()));
    // Whatever the names are of, whoever tells them.
    assert_eq!(one.lacking(b"no name at all, and one more byte", 64).0.len(), 10);

    (10..10 + PROOFS_HELD_MAX as u64).for_each(|number| assert!(hold(&mut one, number)));
    assert_eq!(one.len(), PROOFS_HELD_MAX);
    assert!(hold(&mut one, 0), "the oldest went");
}
