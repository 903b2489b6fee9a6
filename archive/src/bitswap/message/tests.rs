//! Golden bytes, limits, and what is refused.

use proptest::prelude::*;

use super::*;

fn block() -> Block {
    Block::new(Codec::Raw, b"dunlin".to_vec())
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn cid_hex() -> String {
    block().cid().to_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn everything() -> Message {
    let cid = *block().cid();
    let want = |ask, priority, send_dont_have| Want { cid, ask, priority, send_dont_have };
    Message {
        wants: vec![
            want(Ask::Block, 1, true),
            want(Ask::Have, -1, false),
            want(Ask::Cancel, 0, false),
        ],
        is_full: true,
        blocks: vec![Claim::of(block())],
        presences: vec![Presence { cid, is_here: true }, Presence { cid, is_here: false }],
        passed_over: 0,
    }
}

/// Every field of a message, byte by byte, as the specification's schema says.
#[test]
fn golden_bytes_of_version_1_2_0() {
    let cid = cid_hex();
    let expected: String = [
        // The wantlist, 141 bytes.
        "0a8d01",
        // WANT_BLOCK with priority 1; send DONT_HAVE.
        &format!("0a2a 0a24{cid} 1001 2801"),
        // WANT_HAVE with priority -1.
        &format!("0a33 0a24{cid} 10ffffffffffffffffff01 2001"),
        // A cancel.
        &format!("0a28 0a24{cid} 1801"),
        // This is all that is wanted.
        "1001",
        // A block: the prefix of its CID, its bytes.
        "1a0e 0a04 01551220 1206 64756e6c696e",
        // HAVE and DONT_HAVE.
        &format!("2226 0a24{cid}"),
        &format!("2228 0a24{cid} 1001"),
    ]
    .concat();
    let expected = hex(&expected);
    assert_eq!(everything().encode(Version::V1_2), expected);
    assert_eq!(Message::decode(&expected), Ok(everything()));
}

#[test]
fn older_versions_say_what_they_can() {
    let older = Message::decode(&everything().encode(Version::V1_1)).unwrap();
    // A WANT_HAVE would be taken for a WANT_BLOCK, and nobody would understand a presence.
    let asks: Vec<_> = older.wants.iter().map(|want| (want.ask, want.send_dont_have)).collect();
    assert_eq!(asks, [(Ask::Block, false), (Ask::Cancel, false)]);
    assert_eq!((older.presences.len(), older.blocks.as_slice()), (0, &[Claim::of(block())][..]));
    let oldest = everything().encode(Version::V1_0);
    assert!(oldest.ends_with(&hex("1206 64756e6c696e")), "the bytes alone");
    let bare = Message::decode(&oldest).unwrap().blocks.remove(0);
    assert_eq!(bare.kind, Kind::Bare);
    let Named::Either { raw, dag_cbor } = bare.name() else { panic!("no prefix says which") };
    assert_eq!((raw, dag_cbor.cid().codec()), (block(), 0x71));
}

#[test]
fn a_foreign_prefix_is_nothing_that_was_asked_for() {
    // CIDv0's dag-pb, blake3, a hash of another length, more than a prefix, none at all.
    for prefix in ["00701220", "01551e20", "01551214", "0155122001", ""] {
        let prefix = hex(prefix);
        let mut inner = Vec::new();
        put_bytes(&mut inner, 1, &prefix);
        put_bytes(&mut inner, 2, b"dunlin");
        let mut bytes = Vec::new();
        put_bytes(&mut bytes, 3, &inner);
        let message = Message::decode(&bytes).unwrap();
        assert_eq!(message.blocks, [Claim { kind: Kind::Foreign, bytes: Vec::new() }]);
    }
}

#[test]
fn unknown_fields_are_passed_over_and_wrong_types_are_not() {
    // pendingBytes, a fixed64, a fixed32 and bytes with numbers that nobody knows.
    let unknown = hex("2805 f9010000000000000000 fd0100000000 fa010161");
    assert_eq!(Message::decode(&unknown), Ok(Message::default()));
    for bad in ["0801", "1001", "1801", "2001", "0a020801", "0a021200", "0a00ff", "0b", "0aff01"] {
        assert_eq!(Message::decode(&hex(bad)), Err(MessageError::Malformed), "{bad}");
    }
}

#[test]
fn a_want_for_what_nobody_can_read_is_passed_over() {
    let mut identity = vec![1, 0x55, 0, 0x80, 1];
    identity.extend([7; 128]);
    for cid in [&b"no cid"[..], &identity, &[0; CID_BYTES_MAX + 1], b""] {
        let mut entry = Vec::new();
        put_bytes(&mut entry, 1, cid);
        let mut wantlist = Vec::new();
        put_bytes(&mut wantlist, 1, &entry);
        let mut bytes = Vec::new();
        put_bytes(&mut bytes, 1, &wantlist);
        let message = Message::decode(&bytes).unwrap();
        assert_eq!((message.wants.len(), message.passed_over), (0, 1));
    }
}

/// Returns a message with this many wants of different blocks.
pub(crate) fn many_wants(count: u32) -> Vec<u8> {
    let mut wantlist = Vec::new();
    for number in 0..count {
        let cid = *Block::new(Codec::Raw, number.to_be_bytes().to_vec()).cid();
        let want = Want { cid, ask: Ask::Block, priority: 1, send_dont_have: true };
        put_bytes(&mut wantlist, 1, &want.encode(Version::V1_2));
    }
    let mut bytes = Vec::new();
    put_bytes(&mut bytes, 1, &wantlist);
    bytes
}

#[test]
fn no_more_wants_are_read_than_anyone_keeps() {
    let message = Message::decode(&many_wants(5_000)).unwrap();
    assert_eq!((message.wants.len(), message.passed_over), (WANTS_MAX, 5_000 - WANTS_MAX));
    let hostile = many_wants(ENTRIES_MAX as u32 + 1);
    assert!(hostile.len() < MESSAGE_BYTES_MAX);
    assert_eq!(Message::decode(&hostile), Err(MessageError::TooManyEntries));
}

#[test]
fn large_blocks_are_taken_and_larger_ones_refused() {
    let message = |bytes: usize| {
        let blocks = vec![Claim { kind: Kind::Ours(Codec::Raw), bytes: vec![7; bytes] }];
        Message { blocks, ..Message::default() }.encode(Version::V1_2)
    };
    let largest = Message::decode(&message(BLOCK_BYTES_MAX)).unwrap();
    assert_eq!(largest.blocks[0].bytes.len(), BLOCK_BYTES_MAX);
    let bytes = BLOCK_BYTES_MAX + 1;
    let refused = Message::decode(&message(bytes));
    assert_eq!(refused, Err(MessageError::BlockTooLarge { bytes }));
    let bytes = MESSAGE_BYTES_MAX + 1;
    assert_eq!(Message::decode(&vec![0; bytes]), Err(MessageError::TooLong { bytes }));
    // Blocks of no bytes take more memory here than on the wire.
    let empty = vec![Claim { kind: Kind::Ours(Codec::Raw), bytes: Vec::new() }; BLOCKS_MAX + 1];
    let bytes = Message { blocks: empty, ..Message::default() }.encode(Version::V1_2);
    assert_eq!(Message::decode(&bytes), Err(MessageError::TooManyBlocks));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        if let Ok(message) = Message::decode(&bytes) {
            let again = Message::decode(&message.encode(Version::V1_2)).unwrap();
            prop_assert_eq!(again.wants, message.wants);
            prop_assert_eq!(again.presences, message.presences);
        }
    }

    #[test]
    fn a_damaged_message_is_read_without_a_panic(at in any::<prop::sample::Index>(), bit in 0..8) {
        let mut bytes = everything().encode(Version::V1_2);
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        if let Ok(message) = Message::decode(&bytes) {
            message.blocks.into_iter().for_each(|claim| drop(claim.name()));
        }
    }

    #[test]
    fn a_message_is_read_as_it_was_written(
        numbers in prop::collection::vec((any::<u16>(), 0..3, any::<i32>(), any::<bool>()), 0..20),
        is_full: bool,
        data in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..8),
    ) {
        let cid = |number: u16| *Block::new(Codec::DagCbor, number.to_be_bytes().to_vec()).cid();
        let want = |(number, ask, priority, send_dont_have): (u16, i32, i32, bool)| Want {
            cid: cid(number),
            ask: [Ask::Block, Ask::Have, Ask::Cancel][ask as usize],
            priority,
            send_dont_have,
        };
        let message = Message {
            presences: numbers.iter().map(|(number, .., is_here)| Presence { cid: cid(*number), is_here: *is_here }).collect(),
            wants: numbers.into_iter().map(want).collect(),
            is_full,
            blocks: data.into_iter().map(|bytes| Claim::of(Block::new(Codec::Raw, bytes))).collect(),
            passed_over: 0,
        };
        prop_assert_eq!(Message::decode(&message.encode(Version::V1_2)), Ok(message));
    }
}
