//! What a record looks like, and that nothing but the name's own word passes.

use std::{
    cmp::Ordering,
    time::{Duration, SystemTime},
};

use dunlin_wire::cbor;
use libp2p_identity::{Keypair, PeerId};
use proptest::prelude::*;
use serde_bytes::ByteBuf;

use super::*;
use crate::bitswap::protobuf::{put_bytes, put_integer};

const VALUE: &str = "/ipfs/bafyreigy3zbmmzewmxhaygbt4b2ulfwlrsd2xvhyuoedk4bwqxhcrnnfba";

fn key(number: u8) -> Keypair {
    Keypair::ed25519_from_bytes([number; 32]).unwrap()
}

fn name(number: u8) -> Name {
    Name::of(&key(number).public().to_peer_id()).unwrap()
}

fn moment(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A minute before the records of these tests end.
const NOW: u64 = 1_800_000_000;

fn terms(sequence: u64) -> Terms {
    Terms { value: VALUE.to_owned(), sequence, eol: moment(NOW + 60), ttl: Duration::from_secs(60) }
}

fn record() -> Record {
    Record::sign(&key(7), &terms(3)).unwrap()
}

/// A record of version 2 alone around any data, signed as it should be.
fn signed(data: &[u8]) -> Vec<u8> {
    let signature = key(7).sign(&[b"ipns-signature:", data].concat()).unwrap();
    let mut bytes = Vec::new();
    put_bytes(&mut bytes, 8, &signature);
    put_bytes(&mut bytes, 9, data);
    bytes
}

#[derive(serde::Serialize, Clone)]
#[serde(rename_all = "PascalCase")]
struct Entries {
    #[serde(rename = "TTL")]
    ttl: u64,
    value: ByteBuf,
    sequence: u64,
    validity: ByteBuf,
    validity_type: u64,
    #[serde(rename = "_extra", skip_serializing_if = "Option::is_none")]
    extra: Option<Vec<u8>>,
}

fn entries() -> Entries {
    Entries {
        ttl: 0,
        value: ByteBuf::from(VALUE.as_bytes()),
        sequence: 9,
        validity: ByteBuf::from(b"2100-01-01T00:00:00Z".as_slice()),
        validity_type: 0,
        extra: None,
    }
}

fn open(bytes: &[u8]) -> Result<Record, InvalidRecord> {
    Record::open(&name(7), bytes, moment(NOW))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_record_has_these_bytes() {
    let value = hex(VALUE.as_bytes());
    let date = hex(b"2027-01-15T08:01:00.000000000Z");
    let data = [
        "a5", // a map of five, shortest keys first
        "63",
        &hex(b"TTL"),
        "1b0000000df8475800", // a minute, in nanoseconds
        "65",
        &hex(b"Value"),
        "5841",
        &value,
        "68",
        &hex(b"Sequence"),
        "03",
        "68",
        &hex(b"Validity"),
        "581e",
        &date,
        "6c",
        &hex(b"ValidityType"),
        "00",
    ]
    .concat();
    let record = record();
    let bytes = hex(record.bytes());
    let expected = [
        "0a41",
        &value, // 1: the value
        "1240",
        &bytes[2 * 69..2 * 133], // 2: the old signature, below
        "1800",                  // 3: it ends at a date
        "221e",
        &date,            // 4: this one
        "2803",           // 5: the sequence number
        "3080b09dc2df01", // 6: a minute, in nanoseconds
        "4240",
        &bytes[2 * 178..2 * 242], // 8: the signature, below
        "4a9801",
        &data, // 9: what it signs
    ]
    .concat();
    assert_eq!(bytes, expected);
    // Ed25519 signatures are the same every time.
    let v1 = key(7).sign(&[VALUE.as_bytes(), b"2027-01-15T08:01:00.000000000Z0"].concat()).unwrap();
    assert_eq!(record.bytes()[69..133], v1);
    let message = [&b"ipns-signature:"[..], &record.bytes()[245..]].concat();
    assert_eq!(record.bytes()[178..242], key(7).sign(&message).unwrap());
}

#[test]
fn a_name_has_these_forms() {
    let name = name(7);
    let key = key(7).public().try_into_ed25519().unwrap().to_bytes();
    let routing = [b"/ipns/\x00\x24\x08\x01\x12\x20".as_slice(), &key].concat();
    assert_eq!(name.routing_key(), routing);
    assert_eq!(Name::from_routing_key(&routing), Some(name));
    let text = name.to_string();
    assert!(text.starts_with("k51qzi5uqu5d") && text.len() == 62, "{text}");
    let peer = name.peer().to_string();
    for text in [text.clone(), format!("/ipns/{text}"), peer.clone(), format!("/ipns/{peer}")] {
        assert_eq!(text.parse(), Ok(name), "{text}");
    }
    for text in ["", "/ipns/", "k51", "servers", "bafkqaaa"] {
        assert_eq!(text.parse::<Name>(), Err(NameError::NoKey), "{text}");
    }
    // The hash of a key that does not fit: nobody could check its records.
    let hashed = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N";
    assert_eq!(hashed.parse::<Name>(), Err(NameError::NotEd25519));
    assert_eq!(Name::of(&hashed.parse::<PeerId>().unwrap()), None);
    for key in [&b"/ipns/"[..], b"/pk/x", &routing[..routing.len() - 1], &routing[1..]] {
        assert_eq!(Name::from_routing_key(key), None);
    }
}

#[test]
fn what_is_signed_is_read_back() {
    let record = record();
    let again = open(record.bytes()).unwrap();
    assert_eq!(again, record);
    assert_eq!((again.sequence(), again.eol()), (3, moment(NOW + 60)));
    assert_eq!(again.cid().unwrap().to_string(), VALUE.strip_prefix("/ipfs/").unwrap());
    let other = Terms { value: "/ipns/example.org".to_owned(), ..terms(0) };
    assert_eq!(Record::sign(&key(7), &other).unwrap().cid(), None);
}

#[test]
fn a_record_counts_for_its_name_and_its_time_alone() {
    let record = record();
    let other = Record::open(&name(8), record.bytes(), moment(NOW));
    assert_eq!(other, Err(InvalidRecord::Signature));
    let eol = record.eol();
    let late = Record::open(&name(7), record.bytes(), eol);
    assert_eq!(late, Err(InvalidRecord::Expired { eol }));
    assert_eq!(Record::read(&name(7), record.bytes()).unwrap(), record);
    assert!(Record::open(&name(7), record.bytes(), eol - Duration::from_nanos(1)).is_ok());
}

#[test]
fn a_higher_sequence_counts_more_and_then_a_later_end() {
    let one = record();
    let next = Record::sign(&key(7), &terms(4)).unwrap();
    let longer = Terms { eol: moment(NOW + 61), ..terms(3) };
    let longer = Record::sign(&key(7), &longer).unwrap();
    assert_eq!(one.compare(&next), Ordering::Less);
    assert_eq!(longer.compare(&one), Ordering::Greater);
    assert_eq!(next.compare(&longer), Ordering::Greater);
    assert_eq!(one.compare(&one), Ordering::Equal);
}

#[test]
fn version_2_alone_is_enough_and_unknown_entries_are_passed_over() {
    let with_extra = Entries { extra: Some(vec![1, 2, 3]), ..entries() };
    for entries in [entries(), with_extra] {
        let mut bytes = signed(&cbor::encode(&entries).unwrap());
        assert_eq!(open(&bytes).unwrap().sequence(), 9);
        put_integer(&mut bytes, 99, 5);
        assert_eq!(open(&bytes).unwrap().sequence(), 9);
    }
}

#[test]
fn version_1_alone_is_nothing() {
    let (value, date) = (VALUE.as_bytes(), b"2100-01-01T00:00:00Z");
    let mut bytes = Vec::new();
    put_bytes(&mut bytes, 1, value);
    put_bytes(&mut bytes, 2, &key(7).sign(&[value, date, b"0"].concat()).unwrap());
    put_bytes(&mut bytes, 4, date);
    assert_eq!(open(&bytes), Err(InvalidRecord::Unsigned));
    assert_eq!(open(&[]), Err(InvalidRecord::Unsigned));
}

#[test]
fn old_fields_that_say_something_else_are_refused() {
    let data = cbor::encode(&entries()).unwrap();
    for (number, other) in [(1, &b"/ipfs/bafkqaaa"[..]), (2, b"any signature")] {
        let mut bytes = signed(&data);
        put_bytes(&mut bytes, number, other);
        assert_eq!(open(&bytes), Err(InvalidRecord::Contradiction), "field {number}");
    }
}

#[test]
fn data_that_are_signed_but_no_record_are_refused() {
    let good = entries();
    let malformed = [
        Entries { validity_type: 1, ..good.clone() },
        Entries { validity: ByteBuf::from(b"soon".as_slice()), ..good.clone() },
        Entries { validity: ByteBuf::from(b"\xff".as_slice()), ..good.clone() },
    ];
    let lists = cbor::encode(&vec![1, 2]).unwrap();
    let twice = [&[0xa2][..], b"\x65Value\x41a", b"\x65Value\x41b"].concat();
    let unsorted = [&[0xa2][..], b"\x68Sequence\x01", b"\x63TTL\x00"].concat();
    let behind = [cbor::encode(&good).unwrap(), vec![0]].concat();
    let datas = malformed.iter().map(|entries| cbor::encode(entries).unwrap());
    for data in datas.chain([lists, twice, unsorted, behind, vec![0xa0]]) {
        let result = open(&signed(&data));
        assert!(matches!(result, Err(InvalidRecord::Malformed(_))), "{result:?}");
    }
}

#[test]
fn fields_that_come_twice_or_with_another_type_are_refused() {
    let record = record();
    let mut twice = record.bytes().to_vec();
    put_integer(&mut twice, 5, 4);
    let mut other_type = signed(&cbor::encode(&entries()).unwrap());
    put_integer(&mut other_type, 1, 4);
    for bytes in [twice, other_type] {
        assert!(matches!(open(&bytes), Err(InvalidRecord::Malformed(_))));
    }
    let mut other_key = record.bytes().to_vec();
    put_bytes(&mut other_key, 7, &key(8).public().encode_protobuf());
    assert_eq!(open(&other_key), Err(InvalidRecord::Signature));
    let mut own_key = record.bytes().to_vec();
    put_bytes(&mut own_key, 7, &key(7).public().encode_protobuf());
    assert_eq!(open(&own_key).unwrap().sequence(), 3);
}

#[test]
fn records_have_a_largest_size() {
    let mut bytes = record().bytes().to_vec();
    let room = RECORD_BYTES_MAX - bytes.len() - 3;
    put_bytes(&mut bytes, 99, &vec![0; room]);
    bytes.truncate(RECORD_BYTES_MAX + 1);
    let length = bytes.len();
    assert_eq!(open(&bytes), Err(InvalidRecord::TooLarge { bytes: length }));
    let long = Terms { value: "x".repeat(RECORD_BYTES_MAX / 2), ..terms(1) };
    assert!(matches!(Record::sign(&key(7), &long), Err(SignError::TooLarge { .. })));
    let no_date = Terms { eol: moment(253_402_300_800), ..terms(1) };
    assert_eq!(Record::sign(&key(7), &no_date), Err(SignError::Date));
}

proptest! {
    /// The legacy signature signs too little to be believed, so what is in it changes nothing; and a kind of
    /// validity that is absent is the only one that there is.
    #[test]
    fn damaged_bytes_never_say_anything_else(at in any::<prop::sample::Index>(), flip in 1_u8..) {
        let record = record();
        let mut bytes = record.bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(read) = open(&bytes) {
            prop_assert!((67..=133).contains(&at), "byte {at} is signed");
            prop_assert_eq!((read.value(), read.sequence()), (record.value(), record.sequence()));
            prop_assert_eq!(read.eol(), record.eol());
        }
    }

    #[test]
    fn cut_and_arbitrary_bytes_never_pass_nor_panic(
        length in any::<prop::sample::Index>(),
        bytes in any::<Vec<u8>>(),
    ) {
        let record = record();
        prop_assert!(open(&record.bytes()[..length.index(record.bytes().len())]).is_err());
        prop_assert!(open(&bytes).is_err());
        prop_assert!(open(&signed(&bytes)).is_err());
    }

    #[test]
    fn whatever_terms_are_signed_are_read_back(
        value in "[ -~]{0,200}", sequence: u64, seconds in 0_u64..253_402_300_799, nanos in 0_u32..1_000_000_000,
    ) {
        let eol = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos);
        let terms = Terms { value, sequence, eol, ttl: Duration::from_secs(1) };
        let record = Record::sign(&key(7), &terms).unwrap();
        let read = Record::read(&name(7), record.bytes()).unwrap();
        prop_assert_eq!(read.value(), terms.value.as_bytes());
        prop_assert_eq!((read.sequence(), read.eol()), (sequence, eol));
    }
}
