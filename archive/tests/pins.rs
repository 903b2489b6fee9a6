//! Pins that the operator sets, and what leaves by itself: what is promised never does.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use dunlin_archive::{
    Archive, Config, Depth, Object, Pin, PinError, PinName, PutError, Retention, Stats, Usage, dag,
    replication::{Placed, Record},
};
use dunlin_wire::{
    Cid,
    block::{Block, Codec},
    cbor,
};
use libp2p_identity::Keypair;
use proptest::prelude::*;

fn leaf(number: u64, bytes: usize) -> Block {
    let mut content = vec![7; bytes];
    content[..8].copy_from_slice(&number.to_be_bytes());
    Block::new(Codec::Raw, content)
}

/// A block that links to others.
fn node(links: &[&Block]) -> Block {
    let links: Vec<Cid> = links.iter().map(|block| *block.cid()).collect();
    Block::new(Codec::DagCbor, cbor::encode(&links).unwrap())
}

fn name(text: &str) -> PinName {
    text.parse().unwrap()
}

fn archive(bytes_max: u64) -> (tempfile::TempDir, Archive) {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { bytes_max, ..Config::default() };
    let archive = Archive::open(&folder.path().join("blocks.redb"), config).unwrap();
    (folder, archive)
}

fn store(archive: &Archive, pin: &Pin, blocks: &[&Block]) {
    let objects: Vec<_> =
        blocks.iter().map(|block| Object::leaf(pin.clone(), (*block).clone())).collect();
    archive.put(&objects, None).unwrap();
}

#[test]
fn a_recursive_pin_holds_the_whole_graph_and_a_direct_one_the_root() {
    let (_folder, archive) = archive(1 << 30);
    let leaves: Vec<Block> = (0..1_500).map(|number| leaf(number, 16)).collect();
    let middle: Vec<Block> =
        leaves.chunks(100).map(|part| node(&part.iter().collect::<Vec<_>>())).collect();
    let root = node(&middle.iter().collect::<Vec<_>>());
    let imported = Pin::imported("graph");
    let all: Vec<&Block> = leaves.iter().chain(&middle).chain([&root]).collect();
    store(&archive, &imported, &all);
    let whole = archive.set_pin(&name("whole"), root.cid(), Depth::Recursive).unwrap();
    let top = archive.set_pin(&name("top"), root.cid(), Depth::Direct).unwrap();
    let bytes: usize = all.iter().map(|block| block.bytes().len()).sum();
    assert_eq!((whole.blocks, whole.bytes), (all.len() as u64, bytes as u64));
    assert_eq!((top.blocks, top.bytes), (1, root.bytes().len() as u64));
    // The same again changes nothing.
    assert_eq!(archive.set_pin(&name("whole"), root.cid(), Depth::Recursive).unwrap(), whole);
    assert_eq!(archive.named_pins().unwrap(), [top.clone(), whole]);
    let usage = archive.usage("named/").unwrap()[&Pin::named(&name("whole"))];
    assert_eq!((usage.blocks, usage.bytes), (all.len() as u64, bytes as u64));

    archive.unpin(&imported).unwrap();
    assert_eq!(archive.stats().unwrap(), Stats { blocks: all.len() as u64, bytes: bytes as u64 });
    archive.remove_pin(&name("whole")).unwrap().unwrap();
    assert_eq!(archive.stats().unwrap().blocks, 1, "the direct one still holds the root");
    assert_eq!(archive.remove_pin(&name("top")).unwrap(), Some(top));
    assert_eq!(archive.stats().unwrap(), Stats::default());
    assert_eq!(archive.remove_pin(&name("top")).unwrap(), None);
}

#[test]
fn a_pin_with_a_block_missing_is_refused_and_leaves_nothing() {
    let (_folder, archive) = archive(1 << 30);
    let (here, gone) = (leaf(1, 16), leaf(2, 16));
    let root = node(&[&here, &gone]);
    store(&archive, &Pin::fetched("c"), &[&root, &here]);
    let refused = archive.set_pin(&name("a"), root.cid(), Depth::Recursive);
    assert!(matches!(refused, Err(PinError::Missing { cid }) if cid == *gone.cid()), "{refused:?}");
    assert!(archive.named_pins().unwrap().is_empty());
    assert!(archive.usage("named/").unwrap().is_empty());
    archive.set_pin(&name("a"), root.cid(), Depth::Direct).unwrap();
    let other = archive.set_pin(&name("a"), here.cid(), Depth::Direct);
    assert!(matches!(other, Err(PinError::Taken { .. })), "{other:?}");
    let deeper = archive.set_pin(&name("a"), root.cid(), Depth::Recursive);
    assert!(matches!(deeper, Err(PinError::Taken { .. })), "{deeper:?}");
}

#[test]
fn names_are_plain_and_paths_of_promises_cannot_be_removed_by_hand() {
    for bad in ["", "a/b", "a b", "ä", &"x".repeat(65)] {
        assert!(bad.parse::<PinName>().is_err(), "{bad}");
    }
    for path in ["imported/a", "public/a", "fetched/a", "replica/a"] {
        assert!(Pin::removable(path).is_some(), "{path}");
    }
    for path in ["own/a", "templates/a/b", "catalog/own/a", "named/a", "fetched/", "x"] {
        assert!(Pin::removable(path).is_none(), "{path}");
    }
}

#[test]
fn blocks_of_other_codecs_are_pinned_too() {
    let (_folder, archive) = archive(1 << 30);
    let block = leaf(1, 16);
    store(&archive, &Pin::imported("a"), &[&block]);
    let v0 = Cid::new_v0(*block.cid().hash()).unwrap();
    let foreign = Cid::new_v1(dag::DAG_JSON, *block.cid().hash());
    for (text, cid) in [("v0", v0), ("json", foreign)] {
        archive.set_pin(&name(text), &cid, Depth::Direct).unwrap();
    }
    archive.unpin(&Pin::imported("a")).unwrap();
    assert!(archive.has(block.cid()).unwrap());
}

/// Takes steps until nothing more leaves; returns how many objects did.
fn retain(retention: &mut Retention, archive: &Archive, now_ms: u64) -> u64 {
    let mut objects = 0;
    loop {
        let step = retention.step(archive, now_ms).unwrap();
        objects += step.objects;
        if !step.is_more {
            return objects;
        }
    }
}

fn fetched(number: u64) -> Object {
    let root = node(&[&leaf(number, 1_000)]);
    Object { pin: Pin::fetched("c"), root, links: vec![leaf(number, 1_000)] }
}

const DAY_MS: u64 = 24 * 3_600 * 1_000;

#[test]
fn fetched_objects_leave_when_they_are_old_and_nothing_else_ever_does() {
    let (_folder, archive) = archive(1 << 30);
    for day in 0..100 {
        let objects: Vec<_> = (0..3).map(|part| fetched(day * 3 + part)).collect();
        archive.put_fetched(&objects, day * DAY_MS).unwrap();
    }
    let peer = Keypair::generate_ed25519().public().to_peer_id();
    let promised = [Pin::own("c"), Pin::imported("c"), Pin::public("c"), Pin::replica(&peer)];
    for (number, pin) in promised.iter().enumerate() {
        store(&archive, pin, &[&leaf(1_000 + number as u64, 1_000)]);
    }
    // Two that the operator wants to keep, one of which is a segment that was sealed here, too.
    let pinned = fetched(0);
    archive.set_pin(&name("keep"), pinned.root.cid(), Depth::Recursive).unwrap();
    let own = Object { pin: Pin::own("c"), ..fetched(1) };
    archive.put(std::slice::from_ref(&own), None).unwrap();

    let mut never = Retention::new(None);
    assert_eq!(retain(&mut never, &archive, 1_000 * DAY_MS), 0);
    let mut retention = Retention::new(Some(Duration::from_secs(30 * 24 * 3_600)));
    assert_eq!(retain(&mut retention, &archive, 50 * DAY_MS), 21 * 3 - 2);
    let left = archive.usage(Pin::FETCHED).unwrap()[&Pin::fetched("c")];
    assert_eq!(left.roots, 79 * 3 + 2);
    // Fetched again, it counts from the first time it came, and one that left counts anew.
    archive.put_fetched(&[fetched(100), fetched(3)], 49 * DAY_MS).unwrap();
    assert_eq!(retain(&mut retention, &archive, 70 * DAY_MS), 20 * 3);
    assert!(!archive.has(fetched(100).root.cid()).unwrap());
    assert!(archive.has(fetched(3).root.cid()).unwrap());
    assert_eq!(retain(&mut retention, &archive, 1_000 * DAY_MS), 59 * 3 + 1);
    for (number, pin) in promised.iter().enumerate() {
        let block = leaf(1_000 + number as u64, 1_000);
        assert!(archive.is_pinned(pin, block.cid()).unwrap(), "{}", pin.as_str());
        assert!(archive.get(block.cid()).unwrap().is_some());
    }
    for object in [&pinned, &own] {
        assert!(archive.get(object.root.cid()).unwrap().is_some());
        assert!(archive.get(object.links[0].cid()).unwrap().is_some());
    }
}

#[test]
fn an_archive_that_is_nearly_full_lets_the_oldest_go_and_makes_room_for_what_is_sealed() {
    let (_folder, archive) = archive(100_000);
    for number in 0..80 {
        archive.put_fetched(&[fetched(number)], number).unwrap();
    }
    let mut retention = Retention::new(None);
    assert_eq!(retain(&mut retention, &archive, DAY_MS), 0, "there is room yet");
    let mut number = 1_000;
    let full = loop {
        match archive.put(&[Object::leaf(Pin::own("c"), leaf(number, 1_000))], None) {
            Ok(()) => number += 1,
            Err(full) => break full,
        }
    };
    assert!(matches!(full, PutError::Full { .. }), "{full}");
    let gone = retain(&mut retention, &archive, DAY_MS);
    assert!(gone > 10, "{gone}");
    let stats = archive.stats().unwrap();
    assert!(stats.bytes <= 80_000 && stats.bytes > 75_000, "{stats:?}");
    for number in 0..80 {
        assert_eq!(archive.has(fetched(number).root.cid()).unwrap(), number >= gone, "{number}");
    }
    archive.put(&[Object::leaf(Pin::own("c"), leaf(number, 1_000))], None).unwrap();
}

#[test]
fn an_archive_full_of_promises_says_so_and_loses_nothing() {
    let (_folder, archive) = archive(50_000);
    for number in 0..48 {
        store(&archive, &Pin::own("c"), &[&leaf(number, 1_000)]);
    }
    let before = archive.stats().unwrap();
    let mut retention = Retention::new(Some(Duration::from_secs(1)));
    assert_eq!(retain(&mut retention, &archive, u64::MAX), 0);
    assert_eq!(archive.stats().unwrap(), before);
    let more = [fetched(1_001), fetched(1_002), fetched(1_003)];
    let refused = archive.put_fetched(&more, 0);
    assert!(matches!(refused, Err(PutError::Full { .. })), "{refused:?}");
}

#[test]
fn what_an_older_version_fetched_counts_from_when_it_is_first_looked_at() {
    let (_folder, archive) = archive(1 << 30);
    // As versions before wrote it: without a date.
    let objects: Vec<_> = (0..200).map(fetched).collect();
    archive.put(&objects, None).unwrap();
    let mut retention = Retention::new(Some(Duration::from_secs(24 * 3_600)));
    assert_eq!(retain(&mut retention, &archive, 100 * DAY_MS), 0);
    assert_eq!(retain(&mut retention, &archive, 101 * DAY_MS - 1), 0);
    assert_eq!(retain(&mut retention, &archive, 101 * DAY_MS), 200);
    assert_eq!(archive.stats().unwrap(), Stats::default());
}

#[test]
fn writers_come_between_the_steps_and_a_pin_set_meanwhile_is_heeded() {
    let (_folder, archive) = archive(1 << 30);
    let objects: Vec<_> = (0..2_000).map(fetched).collect();
    archive.put_fetched(&objects, 0).unwrap();
    let mut retention = Retention::new(Some(Duration::from_secs(1)));
    // The first step has chosen all of them.
    retention.step(&archive, DAY_MS).unwrap();
    let kept: Vec<_> = objects
        .iter()
        .filter(|object| archive.has(object.root.cid()).unwrap())
        .step_by(100)
        .collect();
    for (number, object) in kept.iter().enumerate() {
        let name = name(&format!("keep-{number}"));
        archive.set_pin(&name, object.root.cid(), Depth::Recursive).unwrap();
    }
    let is_done = AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut written = 0_u64;
            while !is_done.load(Ordering::Relaxed) {
                store(&archive, &Pin::own("c"), &[&leaf(10_000 + written, 16)]);
                written += 1;
            }
            written
        });
        retain(&mut retention, &archive, DAY_MS);
        is_done.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    assert!(written > 0);
    for object in &kept {
        assert!(archive.get(object.links[0].cid()).unwrap().is_some());
    }
    assert_eq!(archive.usage(Pin::FETCHED).unwrap()[&Pin::fetched("c")].roots, kept.len() as u64);
}

#[test]
fn pins_are_listed_by_name_without_reading_what_they_hold() {
    let (_folder, archive) = archive(1 << 30);
    for (number, pin) in ["own/a", "own/ab", "own/b", "public/x"].iter().enumerate() {
        let pin = if let Some(name) = pin.strip_prefix("own/") {
            Pin::own(name)
        } else {
            Pin::public("x")
        };
        store(&archive, &pin, &[&leaf(number as u64, 16), &leaf(100 + number as u64, 16)]);
    }
    let pins = |prefix| -> Vec<(String, u64)> {
        let pins = archive.pins(prefix).unwrap();
        pins.into_iter().map(|(pin, count)| (pin.as_str().to_owned(), count)).collect()
    };
    let two = |name: &str| (name.to_owned(), 2);
    assert_eq!(pins("own/"), [two("own/a"), two("own/ab"), two("own/b")]);
    assert_eq!(pins("public/"), [two("public/x")]);
    assert_eq!(pins("z"), []);
    let usage = archive.usage("own/a").unwrap();
    let one = Usage { roots: 2, blocks: 2, bytes: 32 };
    assert_eq!(usage, BTreeMap::from([(Pin::own("a"), one), (Pin::own("ab"), one)]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_pins_hold_is_counted_as_it_is(
        steps in prop::collection::vec((0_u8..5, 0_usize..3, 0_u64..6), 0..40),
        is_older in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blocks.redb");
        let mut archive = Archive::open(&path, Config::default()).unwrap();
        let pins = [Pin::own("a"), Pin::fetched("a"), Pin::public("x")];
        for (step, pin, number) in steps {
            let (pin, leaf) = (&pins[pin], leaf(number, 16));
            match step {
                0 | 1 => archive.put(&[Object::leaf(pin.clone(), leaf)], None).unwrap(),
                // The same root once more, and twice in one commit.
                2 => archive.put(&[Object::leaf(pin.clone(), leaf.clone()), Object::leaf(pin.clone(), leaf)], None).unwrap(),
                3 => archive.unpin_root(pin, leaf.cid()).unwrap(),
                _ => archive.unpin(pin).unwrap(),
            }
        }
        if is_older {
            drop(archive);
            forget_counts(&path);
            archive = Archive::open(&path, Config::default()).unwrap();
        }
        let usage = archive.usage("").unwrap().into_iter();
        let counted: BTreeMap<_, _> = usage.map(|(pin, usage)| (pin, usage.roots)).collect();
        prop_assert_eq!(archive.pins("").unwrap(), counted);
    }
}

/// Makes the file one of the version that counted nothing.
fn forget_counts(path: &Path) {
    let database = redb::Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    let meta = redb::TableDefinition::<&str, u64>::new("meta");
    transaction.open_table(meta).unwrap().insert("format", 3).unwrap();
    assert!(transaction.delete_table(redb::TableDefinition::<&str, u64>::new("held")).unwrap());
    transaction.commit().unwrap();
}

#[test]
fn placements_are_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blocks.redb");
    let peer = |seed| Keypair::ed25519_from_bytes([seed; 32]).unwrap().public().to_peer_id();
    let record =
        |number, seed, state| Record { root: *leaf(number, 16).cid(), peer: peer(seed), state };
    let archive = Archive::open(&path, Config::default()).unwrap();
    let records = [
        record(1, 1, Some(Placed::Asked)),
        record(1, 2, Some(Placed::Held)),
        record(2, 1, Some(Placed::Lost)),
        record(3, 1, Some(Placed::Held)),
    ];
    archive.keep_placements(&records).unwrap();
    archive.keep_placements(&[record(1, 1, Some(Placed::Held)), record(3, 1, None)]).unwrap();
    drop(archive);
    let archive = Archive::open(&path, Config::default()).unwrap();
    let mut found = BTreeMap::new();
    archive
        .placements(|Record { root, peer, state }| {
            found.insert((root, peer), state.unwrap());
        })
        .unwrap();
    let place = |number, seed| (*leaf(number, 16).cid(), peer(seed));
    let expected = BTreeMap::from([
        (place(1, 1), Placed::Held),
        (place(1, 2), Placed::Held),
        (place(2, 1), Placed::Lost),
    ]);
    assert_eq!(found, expected);
}

#[test]
fn compacting_gives_room_back_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blocks.redb");
    let mut archive = Archive::open(&path, Config::default()).unwrap();
    let blocks: Vec<Block> = (0..64).map(|number| leaf(number, 1 << 17)).collect();
    store(&archive, &Pin::own("c"), &blocks.iter().collect::<Vec<_>>());
    let gone: Vec<Cid> = blocks[..60].iter().map(|block| *block.cid()).collect();
    assert_eq!(archive.unpin_roots(&Pin::own("c"), &gone).unwrap(), 60 << 17);
    let before = std::fs::metadata(&path).unwrap().len();
    while archive.compact().unwrap() {}
    let after = std::fs::metadata(&path).unwrap().len();
    assert!(after < before / 2, "{before} bytes became {after}");
    for block in &blocks[60..] {
        assert_eq!(archive.get(block.cid()).unwrap().unwrap(), block.bytes());
    }
}
