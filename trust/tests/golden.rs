//! The bytes of licenses, revocations, reports, proofs and statements about segments: a change here is a change of format.

use dunlin_trust::{
    Authorities, Claim, Endorsements, ForgedStatement, License, Passed, Proof, Report, Revocations,
    SentObject, Served, Standing, UnixMillis, Withdrawal, WrongObject,
    recovery::{Attestation, Conflicts, Decision, Series, Version},
};
use dunlin_wire::{
    block::{Codec, cid_of},
    cbor, envelope,
};
use libp2p_identity::Keypair;
use sha2::{Digest, Sha256};

fn key(seed: u8) -> Keypair {
    Keypair::ed25519_from_bytes([seed; 32]).expect("made for this test")
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_license() {
    let peer = key(3).public().to_peer_id();
    let license = License::new("plant-7", peer, UnixMillis(1_000), UnixMillis(2_000));
    let payload = cbor::encode(&license).unwrap();
    let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, LICENSE);
    let signed = |seed| envelope::sign(&key(seed), license.clone()).unwrap().bytes;
    let endorsements = Endorsements::collect::<License>(vec![signed(1), signed(2)]).unwrap();
    assert_eq!(sha256(&cbor::encode(&endorsements).unwrap()), LICENSE_SIGNED);
}

#[test]
fn a_revocation_and_a_withdrawal() {
    let authorities = Authorities::new("plant-7", [key(1).public().to_peer_id()], 1).unwrap();
    let mut node = Revocations::new(Some(authorities));
    let draft = node.draft(&[key(3).public().to_peer_id()], UnixMillis(1_000)).unwrap();
    let signature = draft.sign(&key(1)).unwrap();
    let extension = draft.signed(vec![signature]).unwrap();
    let pending = node.check_extension(extension).unwrap().unwrap();
    assert_eq!(sha256(&pending.record()), EXTENSION);
    node.apply(pending);
    let stands_by = node.signed_by(&key(1).public().to_peer_id());
    let withdrawal =
        envelope::sign(&key(1), Withdrawal::new(UnixMillis(1_000), stands_by)).unwrap();
    assert_eq!(sha256(&withdrawal.bytes), WITHDRAWAL);
    assert_eq!(sha256(&cbor::encode(&node.sync_request()).unwrap()), REQUEST);
}

const LICENSE: &str = "a564706565725826002408011220ed4928c628d1c2c6eae90338905995612959273a5c63f93636c14614ac8737d1666973737565641903e867657870697265731907d0676e6574776f726b67706c616e742d376776657273696f6e01";
const LICENSE_SIGNED: &str = "b07fa9c1f3e24c3ca85e13197d437ce3fd4a94b4331aa0783118387b31250ede";
const EXTENSION: &str = "07c501d4d8492632a69d0e3f99856f9784bc3414086dfe274d0f8924c5a7eb94";
const WITHDRAWAL: &str = "f308939c6c0eab5139bc6a6718222d3f4aff951662d032624fa29d8eb152c030";
const REQUEST: &str = "44fec9dde29c930e2e9bab13c8f589d98d26ebaa554cc6c401c77045bb72b3bf";

#[test]
fn a_report_and_the_proofs() {
    let report = Report::new(key(3).public().to_peer_id(), Claim::WrongCid, UnixMillis(1_000));
    let signed = envelope::sign(&key(1), report).unwrap();
    let whole = |bytes: &[u8]| SentObject::whole(cid_of(Codec::Raw, bytes), bytes);
    let lie = SentObject::new(cid_of(Codec::DagCbor, b"the truth"), b"a lie");
    let sent = [whole(b"one"), lie, whole(b"two")];
    let served = Served::new("plant-7", &sent).unwrap();
    let hex: String =
        cbor::encode(&served).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, SERVED);
    let served = envelope::sign(&key(1), served).unwrap();
    let wrong = WrongObject::first_of(&sent).unwrap().into();
    let wrong_cid = Proof::WrongCid { served: served.bytes.into(), wrong };
    let mut forged = signed.bytes.clone();
    let place = forged.windows(8).position(|bytes| bytes == b"report/1").unwrap();
    forged[place + 7] = b'2';
    let (_, passed) = Passed::new("plant-7", vec![signed.bytes.clone()]).unwrap();
    let passed = envelope::sign(&key(1), passed).unwrap();
    let statements = [signed.bytes.clone(), forged, signed.bytes.clone()];
    let forged = ForgedStatement::first_of(&statements).unwrap().into();
    let bad_signature = Proof::BadSignature { forged, passed: passed.bytes.into() };
    let equivocation = Proof::Equivocation {
        payload_type: "a type".to_owned(),
        first: vec![1].into(),
        second: vec![2].into(),
    };
    let hashes =
        [signed.bytes, wrong_cid.encode(), bad_signature.encode()].map(|bytes| sha256(&bytes));
    assert_eq!(hashes, REPORT_AND_PROOFS);
    let hex: String = equivocation.encode().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, EQUIVOCATION);
}

const SERVED: &str = "a464726f6f745820ef6f4d2c757238e1d4d626088275df97711e486aa686ab5738eb5d5365f0665365636f756e7403676e6574776f726b67706c616e742d376776657273696f6e01";
const REPORT_AND_PROOFS: [&str; 3] = [
    "2390ed40c5c94d647ccbbcd516c0b7b3505c838f442a0bc30a7f32fb42745f9c",
    "2e8b3d9497e3b5b432ce34b2cea3846639254a72693df49dfc93d8669b223de4",
    "363bb5cb5a49d2a42b96e207ce0a0408746cacf5c609c732fd99b75820fa8950",
];
const EQUIVOCATION: &str = "a16c65717569766f636174696f6ea36566697273744101667365636f6e6441026c7061796c6f61645f7479706566612074797065";

#[test]
fn an_attestation_and_a_decision() {
    let (one, other) = (cid_of(Codec::DagCbor, b"one"), cid_of(Codec::DagCbor, b"other"));
    let attestation = envelope::sign(&key(1), Attestation::new(vec![one, other])).unwrap();
    let decision = Decision::new(one, other, UnixMillis(1_000));
    let decision = envelope::sign(&key(1), decision).unwrap();
    let mut conflicts = Conflicts::default();
    let series = Series { collection: "servers".into(), entity: "web-1".into() };
    let mut version = Version::new(one, -5, 10);
    version.attest(key(3).public().to_peer_id(), |_| Standing::Probation);
    conflicts.land(&series, &version, &[Version::new(other, 0, 20)]);
    let record = conflicts.next_dirty().unwrap();
    let hashes = [attestation.bytes, decision.bytes, record].map(|bytes| sha256(&bytes));
    assert_eq!(hashes, RECOVERY);
}

const RECOVERY: [&str; 3] = [
    "9cd3aa7d31f0a2004617f9806e2dc1eddbb3cf18baed48aa001d3a4a752a5c62",
    "10f0c14fcc3880bc729fd415aba6e60530aae6bb7bea84db06c8b3bbf726a05d",
    "92e5c2daf11de85eb40e12b289ac177275d1f0a47021041d2e3ad809c9d8abd7",
];
