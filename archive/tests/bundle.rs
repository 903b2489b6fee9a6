//! Bundles: what is written is read, whatever is not whole is refused, and an import is all or nothing.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod sender;

use std::io::{self, Read};

use dunlin_archive::{
    Archive, Config, LandError, Landing, Object, Pin,
    bundle::{
        self, Builder, BundleError, ChainError, Counts, Full, Gaps, Kind, Manifest,
        PART_ENTRIES_MAX, Reader, Span, StageError,
    },
    car,
};
use dunlin_wire::{
    Cid,
    block::{Block, Codec, cid_of_digest},
    cbor,
    envelope::{self, Payload},
};
use proptest::prelude::*;
use sender::{Sender, import, import_with, key, payload, segment, template};

/// Reads a bundle to its end; returns how many blocks of it there were.
fn read(bytes: impl Read) -> Result<Counts, BundleError> {
    let mut reader = Reader::open(bytes)?;
    while reader.next_entry()?.is_some() {}
    Ok(reader.read())
}

fn receiver() -> (tempfile::TempDir, Archive) {
    let temp = tempfile::tempdir().unwrap();
    let archive = Archive::open(&temp.path().join("blocks.redb"), Config::default()).unwrap();
    (temp, archive)
}

/// Returns whether the archive shows nothing at all to who asks for blocks or segments.
fn shows_nothing(archive: &Archive, blocks: &[Block]) -> bool {
    let visible = |block: &Block| {
        archive.has(block.cid()).unwrap() || archive.block(block.cid()).unwrap().is_some()
    };
    archive.pins("fetched/").unwrap().is_empty()
        && archive.pins("templates/").unwrap().is_empty()
        && !blocks.iter().any(visible)
}

#[test]
fn what_is_exported_is_imported_as_fetched_segments_with_their_payload() {
    let mut sender = Sender::new(1);
    let (servers, pumps) = (sender.fill("servers", 40, 3), sender.fill("pumps", 5, 1));
    let envelope = template("servers");
    let bytes = sender.export_with(std::slice::from_ref(&envelope));
    let counts = read(&bytes[..]).unwrap();
    assert_eq!((counts.segments, counts.templates), (45, 1));
    assert_eq!(counts.blocks, 40 * 4 + 5 * 2 + 1);

    let (_temp, archive) = receiver();
    let pin = Pin::templates("servers", &key(9).public().to_peer_id());
    let kept = Object::leaf(pin.clone(), envelope.clone());
    import_with(&archive, &bytes[..], &[kept]).unwrap();
    for (name, segments) in [("servers", &servers), ("pumps", &pumps)] {
        let pin = Pin::fetched(name);
        assert_eq!(archive.roots(&pin, None, 1_000).unwrap().len(), segments.len());
        for (root, links) in segments {
            assert!(archive.is_pinned(&pin, root.cid()).unwrap());
            for block in links.iter().chain([root]) {
                assert_eq!(archive.block(block.cid()).unwrap().as_ref(), Some(block));
            }
        }
    }
    assert_eq!(archive.roots(&pin, None, 10).unwrap(), [*envelope.cid()]);
    // Nothing of the bundle itself is left behind, and what is here is counted once.
    assert_eq!(archive.staged().unwrap(), []);
    assert_eq!(archive.stats().unwrap().blocks, counts.blocks);
    let link = archive.last_received(&sender.peer()).unwrap().unwrap();
    assert_eq!(link.sequence, 1);
    assert_eq!(archive.received().unwrap(), [(sender.peer(), link)].into());
}

#[test]
fn the_next_bundle_carries_what_no_other_did_and_names_the_one_before() {
    let mut sender = Sender::new(1);
    sender.fill("servers", 3, 1);
    let first = sender.export();
    let new = sender.fill("pumps", 2, 0);
    let second = sender.export();
    let reader = Reader::open(&second[..]).unwrap();
    let before = Reader::open(&first[..]).unwrap().link();
    assert_eq!(reader.signed().value.previous, Some(before.bundle));
    assert_eq!(reader.signed().value.sequence, 2);
    assert_eq!(read(&second[..]).unwrap().segments, new.len() as u64);
    // As often as wanted, and the same bytes each time.
    assert_eq!(sender.write(1), first);
    assert_eq!(sender.write(2), second);
}

#[test]
fn an_export_that_was_interrupted_leaves_nothing_and_takes_no_number() {
    let mut sender = Sender::new(1);
    let segments = sender.fill("servers", 3, 1);
    let before = sender.archive.stats().unwrap();
    let mut export = bundle::Export::begin(&sender.archive).unwrap();
    export.template(&template("servers")).unwrap();
    drop(export);
    let bytes = sender.export();
    assert_eq!(read(&bytes[..]).unwrap().segments, segments.len() as u64);
    assert_eq!(Reader::open(&bytes[..]).unwrap().link().sequence, 1);
    // The template of the first attempt is gone: four frames are all that is new.
    assert_eq!(sender.archive.stats().unwrap().blocks, before.blocks + 4);
}

#[test]
fn a_payload_block_of_two_segments_is_in_the_file_once() {
    let mut sender = Sender::new(1);
    let shared = payload(7);
    let one = segment("a", &[&shared, &shared]);
    let other = segment("b", &[&shared]);
    sender.add("servers", &one, std::slice::from_ref(&shared));
    sender.add("servers", &other, std::slice::from_ref(&shared));
    let bytes = sender.export();
    assert_eq!(read(&bytes[..]).unwrap().blocks, 3);
    let (_temp, archive) = receiver();
    import(&archive, &bytes[..], Gaps::Refused).unwrap();
    assert_eq!(archive.block(shared.cid()).unwrap(), Some(shared));
}

#[test]
fn replayed_early_and_forked_bundles_are_refused_and_say_what_is_missing() {
    let mut sender = Sender::new(1);
    let mut bundles = Vec::new();
    for round in 0..4 {
        sender.fill(&format!("round-{round}"), 2, 1);
        bundles.push(sender.export());
    }
    let (_temp, archive) = receiver();
    let refused = |bytes: &[u8]| match import(&archive, bytes, Gaps::Refused) {
        Err(LandError::Chain(cause)) => cause,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&bundles[2]), ChainError::Missing { first: 1, last: 2 });
    import(&archive, &bundles[0][..], Gaps::Refused).unwrap();
    let early = refused(&bundles[2]);
    assert_eq!(early, ChainError::Missing { first: 2, last: 2 });
    assert!(early.to_string().contains("bundle 2 must be imported first"), "{early}");
    assert!(early.to_string().contains("--again 2"), "{early}");
    assert_eq!(refused(&bundles[0]), ChainError::Replayed { sequence: 1, last: 1 });
    import(&archive, &bundles[1][..], Gaps::Refused).unwrap();
    assert_eq!(refused(&bundles[0]), ChainError::Replayed { sequence: 1, last: 2 });
    // The operator may go on without the third, and never back.
    import(&archive, &bundles[3][..], Gaps::Accepted).unwrap();
    for old in &bundles[..3] {
        let replayed = import(&archive, &old[..], Gaps::Accepted);
        assert!(matches!(replayed, Err(LandError::Chain(ChainError::Replayed { .. }))));
    }
    // A copy of the sender that went its own way.
    let mut copy = Sender::new(1);
    for round in 0..5 {
        copy.fill(&format!("copy-{round}"), 1, 0);
        bundles.push(copy.export());
    }
    assert_eq!(refused(&bundles[7]), ChainError::Forked { sequence: 4 });
    assert_eq!(refused(&bundles[8]), ChainError::Forked { sequence: 4 });
    // Another sender has a chain of its own.
    let mut other = Sender::new(2);
    other.fill("other", 1, 0);
    import(&archive, &other.export()[..], Gaps::Refused).unwrap();
}

#[test]
fn unsigned_and_badly_signed_bundles_are_refused() {
    let mut sender = Sender::new(1);
    sender.fill("servers", 2, 1);
    let bytes = sender.export();
    let manifest = Reader::open(&bytes[..]).unwrap().signed().value.clone();
    let with_envelope = |envelope: Vec<u8>| {
        let envelope = Block::new(Codec::DagCbor, envelope);
        let root = cbor::encode(&(1, *envelope.cid(), manifest.content)).unwrap();
        let root = Block::new(Codec::DagCbor, root);
        let mut file = car::header(&[*root.cid()]);
        for block in [&root, &envelope] {
            car::section(&mut file, block.cid(), block.bytes());
        }
        let mut frames = car::Reader::open(&bytes[..]).unwrap();
        let mut index = 0;
        while let Some(section) = frames.next_section().unwrap() {
            if index >= 2 {
                car::section(&mut file, &section.cid, &section.bytes);
            }
            index += 1;
        }
        file
    };
    let right = envelope::sign(&key(1), manifest.clone()).unwrap().bytes;
    assert_eq!(with_envelope(right.clone()), bytes);
    // The manifest alone, and an envelope whose signature is of another key.
    let plain = with_envelope(cbor::encode(&manifest).unwrap());
    assert!(matches!(read(&plain[..]), Err(BundleError::Manifest(_))));
    let other_key = key(2).public().try_into_ed25519().unwrap().to_bytes();
    let own_key = key(1).public().try_into_ed25519().unwrap().to_bytes();
    let at = right.windows(32).position(|window| window == own_key).unwrap();
    let stolen = [&right[..at], &other_key[..], &right[at + 32..]].concat();
    let refused = read(&with_envelope(stolen)[..]);
    assert!(matches!(refused, Err(BundleError::Manifest(envelope::OpenError::Signature))));
    // A signed manifest of another bundle.
    sender.fill("pumps", 1, 0);
    let other = sender.export();
    let other = Reader::open(&other[..]).unwrap().signed().bytes.clone();
    assert!(matches!(read(&with_envelope(other)[..]), Err(BundleError::Content)));
    // A CAR file of something else.
    let mut file = car::header(&[*payload(1).cid()]);
    car::section(&mut file, payload(1).cid(), payload(1).bytes());
    assert!(matches!(read(&file[..]), Err(BundleError::NoBundle)));
    assert!(matches!(read(&car::header(&[])[..]), Err(BundleError::NoBundle)));
}

#[test]
fn blocks_that_are_left_out_moved_added_or_exchanged_are_found() {
    let mut sender = Sender::new(1);
    sender.fill("servers", 4, 2);
    let bytes = sender.export();
    let mut sections = Vec::new();
    let mut reader = car::Reader::open(&bytes[..]).unwrap();
    let roots = reader.roots().to_vec();
    while let Some(section) = reader.next_section().unwrap() {
        sections.push(section);
    }
    let refused = |sections: &[car::Section]| {
        let mut file = car::header(&roots);
        for section in sections {
            car::section(&mut file, &section.cid, &section.bytes);
        }
        read(&file[..]).unwrap_err()
    };
    for at in 0..sections.len() {
        let without = [&sections[..at], &sections[at + 1..]].concat();
        refused(&without);
        let twice = [&sections[..=at], &sections[at..]].concat();
        refused(&twice);
        if at > 0 {
            let mut swapped = sections.clone();
            swapped.swap(at - 1, at);
            assert!(matches!(refused(&swapped), BundleError::Other { .. }));
        }
    }
    let more = [&sections[..], &sections[4..5]].concat();
    assert!(matches!(refused(&more), BundleError::Longer));
}

#[test]
fn a_segment_whose_payload_is_not_in_the_bundle_is_refused() {
    let (listed, missing) = (payload(1), payload(2));
    let root = segment("a", &[&listed, &missing]);
    let mut builder = Builder::default();
    let sizes = [(*listed.cid(), listed.bytes().len())];
    let span = Span { from_us: 0, to_us: 1 };
    let of_root = (*root.cid(), root.bytes().len());
    assert_eq!(builder.segment("servers", of_root, &sizes, span), Ok(None));
    let bytes = sender::write_by_hand(builder, &[root, listed], |_| {});
    let refused = read(&bytes[..]).unwrap_err();
    assert!(
        matches!(&refused, BundleError::Payload { cid } if **cid == *missing.cid()),
        "{refused:?}"
    );
}

#[test]
fn counts_that_are_not_those_of_the_index_are_refused() {
    let root = segment("a", &[]);
    for change in [
        |counts: &mut Counts| counts.blocks += 1,
        |counts: &mut Counts| counts.bytes -= 1,
        |counts: &mut Counts| counts.segments += 1,
    ] {
        let mut builder = Builder::default();
        let span = Span { from_us: 0, to_us: 1 };
        builder.segment("servers", (*root.cid(), root.bytes().len()), &[], span).unwrap();
        let bytes = sender::write_by_hand(builder, std::slice::from_ref(&root), |manifest| {
            manifest.counts.blocks += 1;
            change(&mut manifest.counts);
        });
        assert!(matches!(read(&bytes[..]), Err(BundleError::Counts)));
    }
}

#[test]
fn a_manifest_with_anything_unknown_or_impossible_in_it_is_refused() {
    let mut sender = Sender::new(1);
    sender.fill("servers", 1, 0);
    let bytes = sender.export();
    let manifest = Reader::open(&bytes[..]).unwrap().signed().value.clone();
    let encoded = cbor::encode(&manifest).unwrap();
    assert_eq!(cbor::decode::<Manifest>(&encoded, Manifest::BYTES_MAX).unwrap(), manifest);
    // One more field: a map of nine, with a key that sorts first.
    let mut unknown = encoded.clone();
    assert_eq!(unknown[0], 0xa8);
    unknown[0] = 0xa9;
    unknown.splice(1..1, *b"\x61z\x00");
    assert!(cbor::decode::<Manifest>(&unknown, Manifest::BYTES_MAX).is_err());
    let at = encoded.windows(8).position(|window| window == b"gversion").unwrap() + 8;
    let mut newer = encoded.clone();
    newer[at] = 2;
    assert!(cbor::decode::<Manifest>(&newer, Manifest::BYTES_MAX).is_err());
    let impossible: [fn(&mut Manifest); 8] = [
        |manifest| manifest.sequence = 0,
        |manifest| manifest.sequence = 2,
        |manifest| manifest.previous = Some(manifest.content),
        |manifest| manifest.counts.blocks = bundle::BLOCKS_MAX + 1,
        |manifest| manifest.counts.segments = 2,
        |manifest| manifest.span = None,
        |manifest| manifest.policy.collections = vec!["x".repeat(65)],
        |manifest| manifest.content = *payload(1).cid(),
    ];
    for spoil in impossible {
        let mut manifest = manifest.clone();
        spoil(&mut manifest);
        let encoded = cbor::encode(&manifest).unwrap();
        assert!(cbor::decode::<Manifest>(&encoded, Manifest::BYTES_MAX).is_err(), "{manifest:?}");
    }
}

#[test]
fn a_full_index_part_is_followed_by_another_and_a_segment_stays_with_its_payload() {
    let cid = |number: u64| {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&number.to_be_bytes());
        (cid_of_digest(Codec::DagCbor, digest), 10)
    };
    let link = |number: u64| {
        let (cid, bytes) = cid(number);
        (Cid::new_v1(Codec::Raw.code(), *cid.hash()), bytes)
    };
    let span = Span { from_us: 0, to_us: 0 };
    let mut builder = Builder::default();
    for number in 0..PART_ENTRIES_MAX as u64 - 2 {
        assert_eq!(builder.segment("servers", cid(number), &[], span), Ok(None));
    }
    let links = [link(1 << 20), link(2 << 20)];
    let part = builder.segment("servers", cid(1 << 30), &links, span).unwrap();
    assert!(part.is_some(), "three more do not fit");
    // Another collection begins another part; a bundle has an end.
    assert!(builder.segment("pumps", cid(1 << 31), &[], span).unwrap().is_some());
    let full =
        (1 << 32..).find_map(|number| builder.segment("pumps", cid(number), &[], span).err());
    assert_eq!(full, Some(Full));
    assert_eq!(builder.counts().blocks, bundle::BLOCKS_MAX);
}

#[test]
fn an_import_that_breaks_off_shows_nothing_and_goes_on_where_it_stopped() {
    let mut sender = Sender::new(1);
    let segments = sender.fill("servers", 600, 1);
    let blocks: Vec<Block> =
        segments.iter().flat_map(|(root, links)| links.iter().chain([root])).cloned().collect();
    let bytes = sender.export();
    let (_temp, archive) = receiver();
    let broken = bytes[..bytes.len() / 4 * 3].chain(Broken);
    let mut reader = Reader::open(broken).unwrap();
    let bundle = reader.link().bundle;
    let mut seen = 0;
    let failed = bundle::stage(&archive, &mut reader, |_| {
        seen += 1;
        Ok(())
    });
    let failed = failed.unwrap_err();
    assert!(matches!(&failed, StageError::Bundle(cause) if cause.is_io()), "{failed:?}");
    assert!(shows_nothing(&archive, &blocks));
    let [(staged, count)] = archive.staged().unwrap()[..] else { panic!("one is staged") };
    assert_eq!(staged, bundle);
    // All that arrived, the index with it, and not only full batches.
    assert!(count > 512, "{count}");
    assert_eq!(count, seen + 1);

    let mut reader = Reader::open(&bytes[..]).unwrap();
    let staged = bundle::stage(&archive, &mut reader, |_| Ok(())).unwrap();
    assert_eq!(staged.resumed, count);
    // The index and its part beside the blocks.
    assert_eq!(staged.new, blocks.len() as u64 + 2 - count);
    assert!(shows_nothing(&archive, &blocks));
    let (signed, link) = (reader.signed().clone(), reader.link());
    let landing = Landing {
        signer: &signed.signer,
        bundle: link.bundle,
        manifest: &signed.value,
        gaps: Gaps::Refused,
        templates: &[],
    };
    archive.land(&landing).unwrap();
    assert_eq!(archive.pins("fetched/").unwrap()[&Pin::fetched("servers")], 600);
    assert_eq!(archive.stats().unwrap().blocks, blocks.len() as u64);
    // Landing it again changes nothing.
    assert!(matches!(archive.land(&landing), Err(LandError::Chain(ChainError::Replayed { .. }))));
}

#[test]
fn what_is_given_up_leaves_and_takes_nothing_along_that_was_here() {
    let mut sender = Sender::new(1);
    let segments = sender.fill("servers", 20, 1);
    let bytes = sender.export();
    let (_temp, archive) = receiver();
    // One of the segments was fetched before.
    let (root, links) = segments[3].clone();
    let object = Object { pin: Pin::fetched("servers"), root: root.clone(), links };
    archive.put(&[object], None).unwrap();
    let before = archive.stats().unwrap();
    let mut reader = Reader::open(&bytes[..]).unwrap();
    bundle::stage(&archive, &mut reader, |_| Ok(())).unwrap();
    assert!(archive.has(root.cid()).unwrap(), "what was visible stays so");
    assert!(!archive.has(segments[4].0.cid()).unwrap());
    archive.drop_staged(Some(&reader.link().bundle)).unwrap();
    assert_eq!(archive.staged().unwrap().len(), 1, "it goes on");
    archive.drop_staged(None).unwrap();
    assert_eq!((archive.stats().unwrap(), archive.staged().unwrap()), (before, Vec::new()));
    assert_eq!(archive.block(root.cid()).unwrap(), Some(root));
}

#[test]
fn a_block_that_is_not_what_the_index_says_ends_the_import() {
    let mut sender = Sender::new(1);
    sender.fill("servers", 5, 0);
    let bytes = sender.export();
    let (_temp, archive) = receiver();
    let mut reader = Reader::open(&bytes[..]).unwrap();
    let refused = bundle::stage(&archive, &mut reader, |entry| match entry.kind {
        Kind::Segment { .. } => Err("no segment"),
        _ => Ok(()),
    });
    assert!(matches!(refused, Err(StageError::Content { .. })), "{refused:?}");
    assert!(archive.pins("fetched/").unwrap().is_empty());
}

/// A link that breaks.
struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

/// A small bundle that is the same in every run.
fn golden() -> Vec<u8> {
    let mut sender = Sender::new(7);
    sender.fill("servers", 1, 1);
    sender.export_with(&[template("servers")])
}

#[test]
fn the_bytes_are_those_of_the_format() {
    let hex: String = golden().iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = include_str!("vectors/bundle-1.hex");
    let expected: String = expected
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::split_whitespace)
        .collect();
    assert_eq!(hex, expected);
}

proptest! {
    #[test]
    fn one_changed_byte_anywhere_is_found(at in any::<prop::sample::Index>(), flip in 1_u8..) {
        let mut bytes = golden();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        prop_assert!(read(&bytes[..]).is_err());
    }

    #[test]
    fn every_cut_is_found(at in any::<prop::sample::Index>()) {
        let bytes = golden();
        prop_assert!(read(&bytes[..at.index(bytes.len())]).is_err());
    }

    #[test]
    fn arbitrary_bytes_behind_a_header_never_panic(bytes in any::<Vec<u8>>()) {
        let file = [&car::header(&[*payload(0).cid()])[..], &bytes].concat();
        prop_assert!(read(&file[..]).is_err());
    }
}
