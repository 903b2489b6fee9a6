//! The bytes of every message, as they are on the wire. A change here is a change of the format: it needs
//! a new version, `docs/formats/messages.md`, and a thought for those who still speak the old one.

use std::fmt::Debug;

use dunlin_protocols::{
    Keypair,
    messages::{
        CatalogRoot, Catalogs, CatalogsRequest, CatalogsResponse, ConsolePeer, ConsoleRequest,
        ConsoleResponse, ConsoleSegment, ConsoleView, MembershipRequest, MembershipResponse,
        Message, PinOutcome, RefusalReason, ReplicaBlock, ReplicaObject, ReplicasRequest,
        ReplicasResponse, Revocation, SegmentAnnouncement, SegmentsRequest, SegmentsResponse,
        TemplateAnnouncement, TemplatesRequest, TemplatesResponse, Testimony, Ticket,
    },
};
use dunlin_trust::{
    Authorities, Endorsements, License, Revocations, SyncAnswer, UnixMillis, Withdrawal,
};
use dunlin_wire::{
    block::{Block, Codec},
    cbor,
    envelope::{self, Payload},
};
use serde_bytes::{ByteArray, ByteBuf};

/// CIDv1, raw, sha2-256 of `dunlin`, as tag 42 over 37 bytes that begin with a zero.
const CID: &str = "d82a 5825 00 01551220 \
    e72e6c4a31460c16c66158b378a9d288f3beb4cec77132b2c5642e9d33e4a004";

fn block() -> Block {
    Block::new(Codec::Raw, b"dunlin".to_vec())
}

fn bytes_of(hex: &[&str]) -> Vec<u8> {
    let digits: Vec<u8> = hex.concat().bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).expect("hex digits are text");
        u8::from_str_radix(text, 16).expect("pairs of hex digits")
    };
    digits.chunks(2).map(byte).collect()
}

#[track_caller]
fn assert_golden<M: Message + PartialEq + Debug>(message: &M, hex: &[&str]) {
    let golden = bytes_of(hex);
    assert_eq!(message.encode().expect("a message within its limits"), golden);
    assert_eq!(M::decode(&golden).expect("a message"), *message);
}

#[test]
fn a_question_for_blocks() {
    let request = SegmentsRequest::Blocks { cids: vec![*block().cid()] };
    assert_golden(
        &request,
        &[
            "a1",              // map of 1
            "66 626c6f636b73", // "blocks"
            "a1 64 63696473",  // map of 1, "cids"
            "81",              // list of 1
            CID,
        ],
    );
}

#[test]
fn a_question_for_a_list() {
    let collection = "fleet".to_owned();
    let after = Some(*block().cid());
    let request = SegmentsRequest::List { collection: collection.clone(), after, limit: 256 };
    assert_golden(
        &request,
        &[
            "a1 64 6c697374 a3", // map of 1, "list", map of 3
            "65 6166746572",     // "after"
            CID,
            "65 6c696d6974 190100",    // "limit", 256
            "6a 636f6c6c656374696f6e", // "collection"
            "65 666c656574",           // "fleet"
        ],
    );
    let first = SegmentsRequest::List { collection, after: None, limit: 256 };
    assert_golden(
        &first,
        &[
            "a1 64 6c697374 a3",
            "65 6166746572 f6", // "after", null
            "65 6c696d6974 190100",
            "6a 636f6c6c656374696f6e",
            "65 666c656574",
        ],
    );
}

#[test]
fn an_answer_with_blocks() {
    let response = SegmentsResponse::Blocks {
        blocks: vec![block().into()],
        missing: vec![*block().cid()],
        served: None,
    };
    assert_golden(
        &response,
        &[
            "a1 66 626c6f636b73 a2", // map of 1, "blocks", map of 2
            "66 626c6f636b73 81",    // "blocks", list of 1
            "a2 63 636964",          // map of 2, "cid"
            CID,
            "65 6279746573",        // "bytes"
            "46 64756e6c696e",      // 6 bytes
            "67 6d697373696e67 81", // "missing", list of 1
            CID,
        ],
    );
}

#[test]
fn a_signed_answer_with_blocks() {
    let response = SegmentsResponse::Blocks {
        blocks: vec![block().into()],
        missing: Vec::new(),
        served: Some(vec![1, 2, 3].into()),
    };
    assert_golden(
        &response,
        &[
            "a1 66 626c6f636b73 a3", // map of 1, "blocks", map of 3
            "66 626c6f636b73 81",    // "blocks", list of 1
            "a2 63 636964",          // map of 2, "cid"
            CID,
            "65 6279746573",        // "bytes"
            "46 64756e6c696e",      // 6 bytes
            "66 736572766564",      // "served"
            "43 010203",            // 3 bytes
            "67 6d697373696e67 80", // "missing", empty list
        ],
    );
}

#[test]
fn an_answer_with_a_page() {
    let response = SegmentsResponse::Page { cids: vec![*block().cid()] };
    // map of 1, "page", map of 1, "cids", list of 1
    assert_golden(&response, &["a1 64 70616765", "a1 64 63696473 81", CID]);
}

#[test]
fn refusals() {
    let reasons = [
        (RefusalReason::Denied, "66 64656e696564"), // "denied"
        (RefusalReason::Busy, "64 62757379"),       // "busy"
        (RefusalReason::Failed, "66 6661696c6564"), // "failed"
    ];
    for (reason, hex) in reasons {
        // map of 1, "refused", map of 1, "reason"
        let hex = ["a1 67 72656675736564", "a1 66 726561736f6e", hex];
        assert_golden(&SegmentsResponse::Refused { reason }, &hex);
        assert_golden(&TemplatesResponse::Refused { reason }, &hex);
        assert_golden(&ReplicasResponse::Refused { reason }, &hex);
        assert_golden(&CatalogsResponse::Refused { reason }, &hex);
    }
}

#[test]
fn a_question_for_templates_and_its_answer() {
    assert_golden(
        &TemplatesRequest::new("fleet"),
        &[
            "a2",                      // map of 2
            "67 76657273696f6e 01",    // "version", 1
            "6a 636f6c6c656374696f6e", // "collection"
            "65 666c656574",           // "fleet"
        ],
    );
    let envelopes = vec![serde_bytes::ByteBuf::from(vec![1, 2, 3])];
    assert_golden(
        &TemplatesResponse::Envelopes { envelopes },
        &[
            "a1 69 656e76656c6f706573", // map of 1, "envelopes"
            "a1 69 656e76656c6f706573", // map of 1, "envelopes"
            "81 43 010203",             // list of 1, 3 bytes
        ],
    );
}

#[test]
fn a_comparison_of_catalogs_and_its_answer() {
    let root = CatalogRoot { cid: *block().cid(), count: 300 };
    let of = Catalogs { collection: "fleet".to_owned(), segments: Some(root), statements: None };
    let hex = [
        "a1 68 636174616c6f6773 81", // map of 1, "catalogs", list of 1
        "a3 68 7365676d656e7473",    // map of 3, "segments"
        "a2 63 636964",              // map of 2, "cid"
        CID,
        "65 636f756e74 19012c",       // "count", 300
        "6a 636f6c6c656374696f6e",    // "collection"
        "65 666c656574",              // "fleet"
        "6a 73746174656d656e7473 f6", // "statements", null
    ];
    let compare = [&["a1 67 636f6d70617265"][..], &hex].concat(); // map of 1, "compare"
    assert_golden(&CatalogsRequest::Compare { catalogs: vec![of.clone()] }, &compare);
    let compared = [&["a1 68 636f6d7061726564"][..], &hex].concat(); // map of 1, "compared"
    assert_golden(&CatalogsResponse::Compared { catalogs: vec![of] }, &compared);
}

#[test]
fn a_question_for_statements_and_its_answer() {
    let request = CatalogsRequest::Statements { cids: vec![*block().cid()] };
    // map of 1, "statements", map of 1, "cids", list of 1
    assert_golden(&request, &["a1 6a 73746174656d656e7473 a1 64 63696473 81", CID]);
    let statements = vec![ByteBuf::from(vec![1, 2, 3])];
    let response = CatalogsResponse::Statements { statements, passed: Some(vec![4].into()) };
    assert_golden(
        &response,
        &[
            "a1 6a 73746174656d656e7473 a2", // map of 1, "statements", map of 2
            "66 706173736564 41 04",         // "passed", 1 byte
            "6a 73746174656d656e7473 81 43 010203", // "statements", list of 1, 3 bytes
        ],
    );
    let nothing = CatalogsResponse::Statements { statements: Vec::new(), passed: None };
    assert_golden(
        &nothing,
        &["a1 6a 73746174656d656e7473 a2 66 706173736564 f6 6a 73746174656d656e7473 80"],
    );
}

#[test]
fn testimony() {
    let bytes = || ByteBuf::from(vec![1, 2, 3]);
    // map of 1, "report", 3 bytes
    assert_golden(&Testimony::Report(bytes()), &["a1 66 7265706f7274 43 010203"]);
    // map of 1, "proof", 3 bytes
    assert_golden(&Testimony::Proof(bytes()), &["a1 65 70726f6f66 43 010203"]);
}

#[test]
fn a_wish_to_hold_an_object_and_its_answer() {
    let cid = *block().cid();
    let object = ReplicaObject { root: cid, links: vec![cid], bytes: 300 };
    assert_golden(
        &ReplicasRequest::Pin { objects: vec![object] },
        &[
            "a1 63 70696e",               // map of 1, "pin"
            "a1 67 6f626a65637473 81 a3", // map of 1, "objects", list of 1, map of 3
            "64 726f6f74",                // "root"
            CID,
            "65 6279746573 19012c", // "bytes", 300
            "65 6c696e6b73 81",     // "links", list of 1
            CID,
        ],
    );
    let outcomes = [
        (PinOutcome::Held, "64 68656c64"),          // "held"
        (PinOutcome::Pending, "67 70656e64696e67"), // "pending"
        (PinOutcome::Busy, "64 62757379"),          // "busy"
        (PinOutcome::Full, "64 66756c6c"),          // "full"
        (PinOutcome::Denied, "66 64656e696564"),    // "denied"
    ];
    for (outcome, hex) in outcomes {
        // map of 1, "pinned", map of 1, "outcomes", list of 1
        let hex = ["a1 66 70696e6e6564", "a1 68 6f7574636f6d6573 81", hex];
        assert_golden(&ReplicasResponse::Pinned { outcomes: vec![outcome] }, &hex);
    }
}

#[test]
fn a_challenge_and_its_proofs() {
    let cid = *block().cid();
    let nonce = ByteArray::new([0xd3; 32]);
    assert_golden(
        &ReplicasRequest::Challenge { nonce, blocks: vec![ReplicaBlock { root: cid, cid }] },
        &[
            "a1 69 6368616c6c656e6765", // map of 1, "challenge"
            "a2 65 6e6f6e6365 5820",    // map of 2, "nonce", 32 bytes
            "d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3",
            "66 626c6f636b73 81", // "blocks", list of 1
            "a2 63 636964",       // map of 2, "cid"
            CID,
            "64 726f6f74", // "root"
            CID,
        ],
    );
    assert_golden(
        &ReplicasResponse::Proved { proofs: vec![Some(ByteArray::new([0xd4; 32])), None] },
        &[
            "a1 66 70726f766564",    // map of 1, "proved"
            "a1 66 70726f6f6673 82", // map of 1, "proofs", list of 2
            "5820 d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4",
            "f6", // null
        ],
    );
}

#[test]
fn a_release_and_its_answer() {
    let release = ReplicasRequest::Release { roots: vec![*block().cid()] };
    // map of 1, "release", map of 1, "roots", list of 1
    assert_golden(&release, &["a1 67 72656c65617365", "a1 65 726f6f7473 81", CID]);
    let released = ReplicasResponse::Released { count: 1 };
    // map of 1, "released", map of 1, "count", 1
    assert_golden(&released, &["a1 68 72656c6561736564", "a1 65 636f756e74 01"]);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_license_and_its_answers() {
    let key = Keypair::ed25519_from_bytes([1; 32]).expect("32 bytes are a key");
    let peer = key.public().to_peer_id();
    let license = License::new("plant-7", peer, UnixMillis(1_000), UnixMillis(2_000));
    let envelope = envelope::sign(&key, license).expect("a license within limits").bytes;
    let endorsements = Endorsements::collect::<License>(vec![envelope.clone()]).expect("signed");
    // `trust/tests/golden.rs` has the bytes of the envelope.
    assert_golden(
        &MembershipRequest::License { endorsements },
        &[
            "a1 67 6c6963656e7365",              // map of 1, "license"
            "a1 6c 656e646f7273656d656e7473 81", // map of 1, "endorsements", list of 1
            &format!("59 {:04x}", envelope.len()),
            &hex(&envelope),
        ],
    );
    // map of 1, "admitted", map of 0
    assert_golden(&MembershipResponse::Admitted {}, &["a1 68 61646d6974746564 a0"]);
    // map of 1, "refused", map of 1, "reason", "denied"
    let refused = MembershipResponse::Refused { reason: RefusalReason::Denied };
    assert_golden(&refused, &["a1 67 72656675736564 a1 66 726561736f6e 66 64656e696564"]);
}

#[test]
fn a_comparison_of_revocations_and_what_follows() {
    let digest = ByteArray::new([0xd5; 32]);
    assert_golden(
        &MembershipRequest::Compare { digest },
        &[
            "a1 67 636f6d70617265",    // map of 1, "compare"
            "a1 66 646967657374 5820", // map of 1, "digest", 32 bytes
            "d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5",
        ],
    );
    // map of 1, "compared", map of 1, "same", true
    let compared = MembershipResponse::Compared { same: true };
    assert_golden(&compared, &["a1 68 636f6d7061726564 a1 64 73616d65 f5"]);
    let [asked, answered] = [
        MembershipRequest::Compare { digest }.encode().expect("within limits").len(),
        compared.encode().expect("within limits").len(),
    ];
    assert!(asked + answered <= 100, "{asked} and {answered} bytes tell that two know the same");
    assert_golden(
        &MembershipRequest::CatchUp { known: Revocations::new(None).sync_request() },
        &[
            "a1 68 63617463685f7570",       // map of 1, "catch_up"
            "a1 65 6b6e6f776e a3",          // map of 1, "known", map of 3
            "64 6c6f6773 80",               // "logs", list of 0
            "6b 69735f6275636b65746564 f4", // "is_bucketed", false
            "6b 7769746864726177616c73 40", // "withdrawals", 0 bytes
        ],
    );
    let answer = SyncAnswer {
        extensions: Vec::new(),
        withdrawals: vec![ByteBuf::from([7, 7])],
        is_partial: true,
    };
    assert_golden(
        &MembershipResponse::Missing { answer },
        &[
            "a1 67 6d697373696e67",                 // map of 1, "missing"
            "a1 66 616e73776572 a3",                // map of 1, "answer", map of 3
            "6a 657874656e73696f6e73 80",           // "extensions", list of 0
            "6a 69735f7061727469616c f5",           // "is_partial", true
            "6b 7769746864726177616c73 81 42 0707", // "withdrawals", list of 1, 2 bytes
        ],
    );
}

#[test]
fn proofs_as_they_are_compared_and_told() {
    assert_golden(
        &MembershipRequest::CompareProofs { digest: ByteArray::new([0xd5; 32]) },
        &[
            "a1 6e 636f6d706172655f70726f6f6673", // map of 1, "compare_proofs"
            "a1 66 646967657374 5820",            // map of 1, "digest", 32 bytes
            "d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5",
        ],
    );
    assert_golden(
        &MembershipRequest::Proofs { known: ByteBuf::from([0xa7; 16]) },
        &[
            "a1 66 70726f6f6673",                                   // map of 1, "proofs"
            "a1 65 6b6e6f776e 50 a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7", // map of 1, "known", 16 bytes
        ],
    );
    assert_golden(
        &MembershipResponse::Proofs { proofs: vec![ByteBuf::from([7, 7])], is_partial: true },
        &[
            "a1 66 70726f6f6673 a2",      // map of 1, "proofs", map of 2
            "66 70726f6f6673 81 42 0707", // "proofs", list of 1, 2 bytes
            "6a 69735f7061727469616c f5", // "is_partial", true
        ],
    );
}

#[test]
fn a_revocation_as_it_is_handed_over() {
    let key = Keypair::ed25519_from_bytes([1; 32]).expect("32 bytes are a key");
    let peer = key.public().to_peer_id();
    let withdrawal = envelope::sign(&key, Withdrawal::new(UnixMillis(1_000), None))
        .expect("within limits")
        .bytes;
    assert_golden(
        &Revocation::Withdrawal(ByteBuf::from(withdrawal.clone())),
        // map of 1, "withdrawal", bytes
        &["a1 6a 7769746864726177616c", &format!("58 {:02x}", withdrawal.len()), &hex(&withdrawal)],
    );
    let authorities = Authorities::new("plant-7", [peer], 1).expect("one of one");
    let draft = Revocations::new(Some(authorities)).draft(&[peer], UnixMillis(1)).expect("a draft");
    let signature = draft.sign(&key).expect("an Ed25519 key");
    let extension = draft.signed(vec![signature]).expect("of this draft");
    let inner = hex(&cbor::encode(&extension).expect("an extension has an encoding"));
    // map of 1, "extension"; `trust/tests/golden.rs` has what is in it
    assert_golden(&Revocation::Extension(extension), &["a1 69 657874656e73696f6e", &inner]);
}

#[track_caller]
fn assert_golden_envelope<T: Payload + Clone + PartialEq + Debug>(announcement: T, hex: &[&str]) {
    let key = Keypair::ed25519_from_bytes([1; 32]).expect("32 bytes are a key");
    let golden = bytes_of(hex);
    let signed = envelope::sign(&key, announcement.clone()).expect("an announcement within limits");
    assert_eq!(signed.bytes, golden);
    let opened = envelope::open::<T>(&golden).expect("a signed announcement");
    assert_eq!((opened.value, opened.signer), (announcement, key.public().to_peer_id()));
}

/// The public key of the seed of 32 ones.
const KEY: &str = "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c";

#[test]
fn an_announcement_of_segments() {
    assert_golden_envelope(
        SegmentAnnouncement::new("fleet", 300, [0xd1; 32], 1_763_700_000_000),
        &[
            "a5",             // map of 5
            "63 6b6579 5820", // "key", 32 bytes
            KEY,
            "67 7061796c6f6164 585f", // "payload", 95 bytes
            "  a5",                   //   map of 5
            "  65 636f756e74 19012c", //   "count", 300
            "  66 646967657374 5820", //   "digest", 32 bytes
            "    d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1",
            "  67 76657273696f6e 01",     //   "version", 1
            "  68 73657175656e6365",      //   "sequence"
            "    1b 0000019aa4b64500",    //     1,763,700,000,000
            "  6a 636f6c6c656374696f6e",  //   "collection"
            "    65 666c656574",          //     "fleet"
            "67 76657273696f6e 01",       // "version", 1
            "69 7369676e6174757265 5840", // "signature", 64 bytes
            "b589f1a9e3c5a5586786d58c165a6ab88138e6d8bcd8f05a71f5ae537aeca72d",
            "4134df0e64eb91c2fae153eeef7a9868f4da2cbe86cb1a7af14efdfe7449f406",
            "6c 7061796c6f61645f74797065", // "payload_type"
            "781d 64756e6c696e2f7365676d656e742d616e6e6f756e63656d656e742f31",
        ],
    );
}

#[test]
fn an_announcement_of_templates() {
    assert_golden_envelope(
        TemplateAnnouncement::new("fleet", 16, [0xd2; 32], 1_763_700_000_000),
        &[
            "a5 63 6b6579 5820", // map of 5, "key", 32 bytes
            KEY,
            "67 7061796c6f6164 585d", // "payload", 93 bytes
            "  a5 65 636f756e74 10",  //   map of 5, "count", 16
            "  66 646967657374 5820", //   "digest", 32 bytes
            "    d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2",
            "  67 76657273696f6e 01",     //   "version", 1
            "  68 73657175656e6365",      //   "sequence"
            "    1b 0000019aa4b64500",    //     1,763,700,000,000
            "  6a 636f6c6c656374696f6e",  //   "collection"
            "    65 666c656574",          //     "fleet"
            "67 76657273696f6e 01",       // "version", 1
            "69 7369676e6174757265 5840", // "signature", 64 bytes
            "c6381fdb1ffc63e08673a55f9ce9458f983ed5c19e3666a4502206e5118a23ed",
            "19d726e42c58279f07d45bad27d43f2e09c5e2f1f9dfb97fc48156f884717808",
            "6c 7061796c6f61645f74797065", // "payload_type"
            "781e 64756e6c696e2f74656d706c6174652d616e6e6f756e63656d656e742f31",
        ],
    );
}

#[test]
fn a_console_enters_and_looks() {
    assert_golden(
        &ConsoleRequest::Enter { ticket: Ticket::new([0x7c; 32]) },
        &[
            "a1 65 656e746572",        // map of 1, "enter"
            "a1 66 7469636b6574 5820", // map of 1, "ticket", 32 bytes
            "7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c",
        ],
    );
    // map of 1, "look", map of 0
    assert_golden(&ConsoleRequest::Look {}, &["a1 64 6c6f6f6b a0"]);
    // map of 1, "entered", map of 0
    assert_golden(&ConsoleResponse::Entered {}, &["a1 67 656e7465726564 a0"]);
    // map of 1, "refused", map of 1, "reason", "denied"
    let refused = ConsoleResponse::Refused { reason: RefusalReason::Denied };
    assert_golden(&refused, &["a1 67 72656675736564 a1 66 726561736f6e 66 64656e696564"]);
}

#[test]
fn what_a_console_is_shown() {
    let peer = ConsolePeer {
        peer: "12D3Koo".to_owned(),
        address: Some("/ip4/127.0.0.1/tcp/4601".to_owned()),
        transport: Some("quic".to_owned()),
        relay: None,
        rtt_us: Some(1_500),
        standing: "probation".to_owned(),
        score: 50,
        own: true,
        bytes_up: 70_000,
        bytes_down: 3,
        agent: Some("dunlin/0.1.0".to_owned()),
        protocols: vec!["/ipfs/ping/1.0.0".to_owned()],
    };
    let segment = ConsoleSegment {
        collection: "fleet".to_owned(),
        entity: "web-1".to_owned(),
        start_us: -1,
        end_us: 1_773_057_600_000_000,
        count: 60,
        cid: "bafy".to_owned(),
        link: None,
    };
    let view = ConsoleView {
        peer: "12D3Kme".to_owned(),
        version: "0.1.0".to_owned(),
        network: "dunlin".to_owned(),
        uptime_s: 61,
        reachability: "unknown".to_owned(),
        problems: vec!["gate: closed".to_owned()],
        peers: vec![peer],
        peers_known: 2,
        segments: vec![segment],
    };
    assert_golden(
        &ConsoleResponse::Shown { view },
        &[
            "a1",                                                                  // map of 1
            "65 73686f776e a1",                          // "shown", map of 1
            "64 76696577 a9",                            // "view", map of 9
            "64 70656572 67 313244334b6d65",             // "peer", "12D3Kme"
            "65 7065657273 81",                          // "peers", list of 1
            "ac",                                        // map of 12
            "63 6f776e f5",                              // "own", true
            "64 70656572 67 313244334b6f6f",             // "peer", "12D3Koo"
            "65 6167656e74 6c 64756e6c696e2f302e312e30", // "agent", "dunlin/0.1.0"
            "65 72656c6179 f6",                          // "relay", null
            "65 73636f7265 1832",                        // "score", 50
            "66 7274745f7573 1905dc",                    // "rtt_us", 1500
            "67 61646472657373 77 2f6970342f3132372e302e302e312f7463702f34363031", // "address", "/ip4/127.0.0.1/tcp/4601"
            "68 62797465735f7570 1a00011170", // "bytes_up", 70000
            "68 7374616e64696e67 69 70726f626174696f6e", // "standing", "probation"
            "69 70726f746f636f6c73 81",       // "protocols", list of 1
            "70 2f697066732f70696e672f312e302e30", // "/ipfs/ping/1.0.0"
            "69 7472616e73706f7274 64 71756963", // "transport", "quic"
            "6a 62797465735f646f776e 03",     // "bytes_down", 3
            "67 6e6574776f726b 66 64756e6c696e", // "network", "dunlin"
            "67 76657273696f6e 65 302e312e30", // "version", "0.1.0"
            "68 70726f626c656d73 81",         // "problems", list of 1
            "6c 676174653a20636c6f736564",    // "gate: closed"
            "68 7365676d656e7473 81",         // "segments", list of 1
            "a7",                             // map of 7
            "63 636964 64 62616679",          // "cid", "bafy"
            "64 6c696e6b f6",                 // "link", null
            "65 636f756e74 183c",             // "count", 60
            "66 656e645f7573 1b00064c96246a1000", // "end_us", 1773057600000000
            "66 656e74697479 65 7765622d31",  // "entity", "web-1"
            "68 73746172745f7573 20",         // "start_us", -1
            "6a 636f6c6c656374696f6e 65 666c656574", // "collection", "fleet"
            "68 757074696d655f73 183d",       // "uptime_s", 61
            "6b 70656572735f6b6e6f776e 02",   // "peers_known", 2
            "6c 72656163686162696c697479 67 756e6b6e6f776e", // "reachability", "unknown"
        ],
    );
}
