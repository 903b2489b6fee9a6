//! Segments of several nodes land side by side: what overlaps in time is found, and a crash or a refusal leaves
//! nothing half done.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use dunlin_archive::{Archive, Arrival, Config, NamedRecord, Object, Overlapping, Pin, PutError};
use dunlin_wire::{
    Cid,
    block::{Block, Codec},
    cbor,
};
use proptest::prelude::*;
use tempfile::TempDir;

fn archive(bytes_max: u64) -> (TempDir, Archive) {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { bytes_max, ..Config::default() };
    let archive = Archive::open(&folder.path().join("blocks.redb"), config).unwrap();
    (folder, archive)
}

fn block(number: u64) -> Block {
    Block::new(Codec::DagCbor, cbor::encode(&number).unwrap())
}

fn cid(number: u64) -> Cid {
    *block(number).cid()
}

fn arrival(entity: &str, number: u64, time: (i64, i64)) -> Arrival {
    let object = Object::leaf(Pin::recovered("fleet"), block(number));
    Arrival { entity: entity.to_owned(), time, cid: cid(number), object: Some(object) }
}

/// Has segments land one after another; returns what each was told to overlap.
fn land(archive: &Archive, arrivals: &[Arrival]) -> Vec<Vec<Cid>> {
    let mut told = Vec::new();
    let on_landed = |_: &Arrival, others: &[Overlapping], is_cut: bool| {
        assert!(!is_cut);
        let mut cids: Vec<_> = others.iter().map(|other| other.cid).collect();
        cids.sort_unstable();
        told.push(cids);
        Vec::<NamedRecord>::new()
    };
    archive.take_in("fleet", arrivals, on_landed).unwrap();
    told
}

#[test]
fn a_segment_is_told_what_it_overlaps_and_nothing_else() {
    let (_folder, archive) = archive(1 << 30);
    let told = land(
        &archive,
        &[
            arrival("a", 1, (0, 100)),
            arrival("a", 2, (200, 300)),
            // Within the first one, though it begins long after it.
            arrival("a", 3, (90, 95)),
            arrival("b", 4, (0, 1_000)),
            arrival("a", 5, (50, 250)),
        ],
    );
    let sorted = |mut cids: Vec<Cid>| {
        cids.sort_unstable();
        cids
    };
    let expected = [vec![], vec![], vec![cid(1)], vec![], sorted(vec![cid(1), cid(2), cid(3)])];
    assert_eq!(told, expected);
    // The same again is no news, and is entered once.
    assert_eq!(land(&archive, &[arrival("a", 5, (50, 250))]), Vec::<Vec<Cid>>::new());
    assert_eq!(archive.catalog(&Pin::recovered("fleet")).unwrap().unwrap().count, 5);
    assert_eq!(archive.snapshot().unwrap().get(&cid(3)).unwrap().unwrap(), block(3).bytes());
}

#[test]
fn what_is_refused_leaves_neither_segment_nor_conflict() {
    let (_folder, archive) = archive(40);
    let records = |name: u8| vec![(vec![name], vec![name; 3])];
    let landed = archive.take_in("fleet", &[arrival("a", 1, (0, 1))], |_, _, _| records(1));
    assert!(matches!(landed, Err(PutError::Full { .. })), "the catalog alone has more");
    assert_eq!(archive.conflict_records().unwrap(), Vec::<Vec<u8>>::new());
    assert_eq!(archive.catalog(&Pin::recovered("fleet")).unwrap(), None);
    assert!(!archive.has(&cid(1)).unwrap());
}

#[test]
fn a_record_takes_the_place_of_the_one_with_its_name_and_statements_are_kept() {
    let (_folder, archive) = archive(1 << 30);
    let first = vec![(vec![1], vec![10]), (vec![2], vec![20])];
    archive.take_in("fleet", &[arrival("a", 1, (0, 1))], |_, _, _| first.clone()).unwrap();
    let statement = Object::leaf(Pin::statements("fleet"), block(9));
    archive.put_statements("fleet", &[statement], &[(vec![1], vec![11])]).unwrap();
    assert_eq!(archive.conflict_records().unwrap(), [vec![11], vec![20]]);
    assert_eq!(archive.catalog(&Pin::statements("fleet")).unwrap().unwrap().count, 1);
    assert!(!archive.is_public(&cid(9)).unwrap());
}

proptest! {
    /// Any segments of one entity, in any order: each pair that overlaps is told of once, to the later one.
    #[test]
    fn every_overlap_is_found(times in prop::collection::vec((-50i64..50, 0i64..60), 1..24)) {
        let (_folder, archive) = archive(1 << 30);
        let arrivals: Vec<_> = (0u64..)
            .zip(&times)
            .map(|(number, (start, length))| arrival("a", number, (*start, start + length)))
            .collect();
        let told = land(&archive, &arrivals);
        for (later, told) in told.iter().enumerate() {
            let (start, end) = arrivals[later].time;
            let overlaps = |one: &&Arrival| one.time.0 <= end && one.time.1 >= start;
            let mut expected: Vec<_> =
                arrivals[..later].iter().filter(overlaps).map(|one| one.cid).collect();
            expected.sort_unstable();
            prop_assert_eq!(told, &expected);
        }
    }
}
