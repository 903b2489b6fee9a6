//! Sealed copies: public as long as they are there, found by what they are of, gone without a trace.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;

use dunlin_archive::{
    Archive, Config, Object, Pin, SealedCopy, Stats,
    catalog::{self, Entry},
};
use dunlin_wire::{
    Cid,
    block::{Block, Codec},
};

fn raw(content: String) -> Block {
    Block::new(Codec::Raw, content.into_bytes())
}

fn root(content: String) -> Block {
    Block::new(Codec::DagCbor, content.into_bytes())
}

/// Own segment number `number`, with payload.
fn segment(own: &Pin, number: u32) -> (i64, Object) {
    let links = vec![raw(format!("rows {number}"))];
    (number.into(), Object { pin: own.clone(), root: root(format!("segment {number}")), links })
}

/// The copy of it, as far as a store can tell.
fn copy(of_copies: &Pin, number: u32) -> SealedCopy {
    let links = vec![raw(format!("sealed rows {number}"))];
    let pin = of_copies.clone();
    let object = Object { pin, root: root(format!("sealed segment {number}")), links };
    SealedCopy { of: *root(format!("segment {number}")).cid(), object }
}

/// An archive of so many segments.
fn archive(count: u32) -> (tempfile::TempDir, Archive, Pin, Pin) {
    let folder = tempfile::tempdir().unwrap();
    let archive = Archive::open(&folder.path().join("blocks.redb"), Config::default()).unwrap();
    let (own, copies) = (Pin::own("servers"), Pin::sealed("servers"));
    let segments: Vec<_> = (0..count).map(|number| segment(&own, number)).collect();
    archive.put_cataloged(&segments, None).unwrap();
    (folder, archive, own, copies)
}

fn cataloged(archive: &Archive, pin: &Pin) -> Vec<Entry> {
    let root = archive.catalog(pin).unwrap().unwrap();
    let mut entries = Vec::new();
    catalog::entries(|cid| archive.get(cid), &root, (i64::MIN, i64::MAX), |e| entries.push(e))
        .unwrap();
    entries
}

#[test]
fn copies_are_public_and_what_they_are_of_is_not() {
    let (_folder, archive, own, copies) = archive(3);
    archive.put_copies(&own, &[copy(&copies, 0), copy(&copies, 1)]).unwrap();
    for number in 0..2 {
        let SealedCopy { of, object } = copy(&copies, number);
        assert_eq!(archive.copy_of(&own, &of).unwrap(), Some(*object.root.cid()));
        for cid in object.cids() {
            assert!(archive.is_public(&cid).unwrap());
        }
        for cid in segment(&own, number).1.cids() {
            assert!(!archive.is_public(&cid).unwrap(), "a segment itself is private");
        }
    }
    assert_eq!(archive.copy_of(&own, segment(&own, 2).1.root.cid()).unwrap(), None);
    // Of a collection with a name that begins alike, nothing is known.
    assert_eq!(archive.copy_of(&Pin::own("server"), &copy(&copies, 0).of).unwrap(), None);
}

#[test]
fn the_catalog_of_copies_is_public_and_tells_no_times() {
    let (_folder, archive, own, copies) = archive(600);
    let all: Vec<_> = (0..600).map(|number| copy(&copies, number)).collect();
    for part in all.chunks(250) {
        archive.put_copies(&own, part).unwrap();
    }
    let entries = cataloged(&archive, &copies);
    assert!(entries.iter().all(|entry| entry.start == 0));
    let named: BTreeSet<Cid> = entries.iter().map(Entry::cid).collect();
    assert_eq!(named, all.iter().map(|copy| *copy.object.root.cid()).collect());
    let nodes = archive.roots(&Pin::catalog(&copies), None, 1_000).unwrap();
    assert!(nodes.len() > 1);
    assert!(nodes.iter().all(|node| archive.is_public(node).unwrap()));
    let of_own = archive.roots(&Pin::catalog(&own), None, 1_000).unwrap();
    assert!(of_own.iter().all(|node| !archive.is_public(node).unwrap()));
}

#[test]
fn what_has_no_copy_is_found_from_anywhere() {
    let (_folder, archive, own, copies) = archive(20);
    let made: Vec<_> = (0..20).step_by(3).map(|number| copy(&copies, number)).collect();
    archive.put_copies(&own, &made).unwrap();
    let mut without = BTreeSet::new();
    let mut after = None;
    loop {
        let page = archive.without_copy(&own, after.as_ref(), 4).unwrap();
        assert!(page.is_sorted_by_key(Cid::to_bytes) && page.len() <= 4);
        let Some(last) = page.last() else { break };
        after = Some(*last);
        without.extend(page);
    }
    let of = |number| copy(&copies, number).of;
    assert_eq!(without, (0..20).filter(|number| number % 3 != 0).map(of).collect());
}

#[test]
fn a_segment_keeps_the_copy_that_it_has() {
    let (_folder, archive, own, copies) = archive(1);
    archive.put_copies(&own, &[copy(&copies, 0)]).unwrap();
    let before = archive.stats().unwrap();
    // One under another key.
    let other = SealedCopy { of: copy(&copies, 0).of, ..copy(&copies, 9) };
    archive.put_copies(&own, std::slice::from_ref(&other)).unwrap();
    assert_eq!(archive.stats().unwrap(), before);
    assert!(!archive.has(other.object.root.cid()).unwrap());
}

#[test]
fn dropped_copies_leave_nothing_behind_and_segments_alone() {
    let (_folder, archive, own, copies) = archive(10);
    let before = archive.stats().unwrap();
    let all: Vec<_> = (0..10).map(|number| copy(&copies, number)).collect();
    archive.put_copies(&own, &all).unwrap();
    assert_eq!(archive.drop_copies(&own, &copies, 4).unwrap().len(), 4);
    assert_eq!(archive.catalog(&copies).unwrap(), None, "no catalog names what is gone");
    assert_eq!(archive.roots(&copies, None, 100).unwrap().len(), 6);
    assert_eq!(archive.without_copy(&own, None, 100).unwrap().len(), 4);
    assert_eq!(archive.drop_copies(&own, &copies, 6).unwrap().len(), 6);
    assert_eq!(archive.drop_copies(&own, &copies, 6).unwrap(), []);
    assert_eq!(archive.stats().unwrap(), before);
    for copy in &all {
        assert!(copy.object.cids().all(|cid| !archive.is_public(&cid).unwrap()));
        assert!(archive.has(&copy.of).unwrap());
    }
    assert_eq!(archive.without_copy(&own, None, 100).unwrap().len(), 10);
}

#[test]
fn copies_beyond_the_quota_are_refused_whole() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { bytes_max: 40, ..Config::default() };
    let archive = Archive::open(&folder.path().join("blocks.redb"), config).unwrap();
    let (own, copies) = (Pin::own("servers"), Pin::sealed("servers"));
    archive.put(&[segment(&own, 0).1], None).unwrap();
    let Stats { blocks, .. } = archive.stats().unwrap();
    assert!(archive.put_copies(&own, &[copy(&copies, 0)]).is_err());
    assert_eq!(archive.stats().unwrap().blocks, blocks);
    assert_eq!(archive.copy_of(&own, &copy(&copies, 0).of).unwrap(), None);
}
