//! Scenarios: one CID for everything that is archived, and one for everything that strangers may have.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;

use dunlin_archive::{
    Archive, Config, Object, Pin, Publication,
    catalog::{self, LEAF_ENTRIES_MAX, compare},
    roots::{Listed, Roots},
};
use dunlin_wire::{
    Cid,
    block::{Block, Codec},
    cbor,
};
use tempfile::TempDir;

fn segment(number: u64) -> Block {
    Block::new(Codec::DagCbor, cbor::encode(&number).unwrap())
}

fn archive() -> (TempDir, Archive) {
    let folder = tempfile::tempdir().unwrap();
    let archive = Archive::open(&folder.path().join("blocks.redb"), Config::default()).unwrap();
    (folder, archive)
}

/// Archives segments under a pin.
fn fill(archive: &Archive, pin: &Pin, numbers: std::ops::Range<u64>) {
    let object = |number| (number as i64, Object::leaf(pin.clone(), segment(number)));
    archive.put_cataloged(&numbers.map(object).collect::<Vec<_>>(), None).unwrap();
}

fn roots_in(archive: &Archive, root: &Cid) -> Roots {
    Roots::decode(&archive.get(root).unwrap().expect("the root is here")).unwrap()
}

/// Every segment that a stranger reaches from a published root, reading public blocks alone.
fn reached(archive: &Archive, root: &Cid) -> Result<BTreeSet<Cid>, String> {
    let get = |cid: &Cid| {
        let is_public = archive.is_public(cid).unwrap();
        Ok::<_, String>(archive.get(cid).unwrap().filter(|_| is_public))
    };
    let list = get(root)?.ok_or("the root is gone")?;
    let mut found = BTreeSet::new();
    for Listed(_, cid, count) in Roots::decode(&list).unwrap().catalogs {
        let root = catalog::Root { cid, count };
        catalog::entries(get, &root, (i64::MIN, i64::MAX), |entry| {
            found.insert(entry.cid());
        })
        .map_err(|cause| cause.to_string())?;
    }
    Ok(found)
}

#[test]
fn one_cid_names_everything_that_was_archived() {
    let ((_a, a), (_b, b)) = (archive(), archive());
    assert_eq!(a.own_root().unwrap(), None);
    let (one, two) = (Pin::own("one"), Pin::own("two"));
    fill(&a, &one, 0..400);
    fill(&a, &two, 400..500);
    fill(&a, &one, 500..600);
    // Another order, and the same in the end.
    fill(&b, &two, 400..500);
    fill(&b, &one, 300..600);
    fill(&b, &one, 0..400);
    // What was fetched is somebody else's.
    fill(&b, &Pin::fetched("one"), 600..700);
    let root = a.own_root().unwrap().unwrap();
    let roots = roots_in(&a, &root);
    let expected: Vec<_> = [("one", &one), ("two", &two)]
        .map(|(name, pin)| a.catalog(pin).unwrap().map(|of| Listed(name.into(), of.cid, of.count)))
        .into_iter()
        .flatten()
        .collect();
    assert_eq!((roots.catalogs, roots.left_out), (expected, 0));
    assert_ne!(b.own_root().unwrap().unwrap(), root, "400..500 of one are missing or too many");
    fill(&a, &one, 400..500);
    assert_eq!(a.own_root().unwrap(), b.own_root().unwrap());
    assert_eq!(a.roots(&Pin::own_root(), None, 9).unwrap().len(), 1, "old roots leave");
}

#[test]
fn two_nodes_are_compared_by_reading_what_differs() {
    let ((_a, a), (_b, b)) = (archive(), archive());
    for archive in [&a, &b] {
        for name in ["one", "two", "three"] {
            fill(archive, &Pin::own(name), 0..20_000);
        }
    }
    fill(&b, &Pin::own("two"), 20_000..20_001);
    let list =
        |archive: &Archive| roots_in(archive, &archive.own_root().unwrap().unwrap()).catalogs;
    let (mut missing, mut read) = (Vec::new(), 2);
    for (our, their) in list(&a).iter().zip(&list(&b)) {
        let root = |listed: &Listed| catalog::Root { cid: listed.1, count: listed.2 };
        let (our, their) = (root(our), root(their));
        let (ours, theirs) = (|cid: &Cid| a.get(cid), |cid: &Cid| b.get(cid));
        let difference = compare((Some(&our), ours), (Some(&their), theirs), 100).unwrap();
        assert_eq!(difference.first_only, []);
        missing.extend(difference.second_only.iter().map(catalog::Entry::cid));
        read += difference.blocks_read;
    }
    assert_eq!(missing, [*segment(20_000).cid()]);
    assert!(read < 20, "{read} blocks of some 500");
}

#[test]
fn what_is_published_is_public_and_nothing_else() {
    let (_folder, archive) = archive();
    fill(&archive, &Pin::own("secret"), 0..600);
    fill(&archive, &Pin::fetched("secret"), 600..700);
    archive.put(&[Object::leaf(Pin::imported("bafkqaaa"), segment(700))], None).unwrap();
    assert_eq!(archive.publish().unwrap(), None);
    assert_eq!((archive.public_roots().unwrap(), archive.published().unwrap()), (None, None));

    let graph = segment(1_000);
    let import = Pin::public(&graph.cid().to_string());
    archive.put(&[Object::leaf(import, graph.clone())], None).unwrap();
    // Its root has not come yet.
    let other = Pin::public(&segment(1_001).cid().to_string());
    archive.put(&[Object::leaf(other, segment(1_002))], None).unwrap();
    fill(&archive, &Pin::public("sealed"), 2_000..2_600);
    let before = archive.public_roots().unwrap().unwrap();
    let published = archive.publish().unwrap().unwrap();
    assert_eq!(published, before);
    assert_eq!(archive.published().unwrap().as_ref(), Some(&published));
    let Publication { root, roots } = &published;
    assert_eq!(roots.graphs, [*graph.cid()]);
    let sealed = archive.catalog(&Pin::public("sealed")).unwrap().unwrap();
    assert_eq!(roots.catalogs, [Listed(String::new(), sealed.cid, 600)], "without a name");
    let public: BTreeSet<_> = (2_000..2_600).map(|number| *segment(number).cid()).collect();
    assert_eq!(reached(&archive, root).unwrap(), public);
    for cid in published.all() {
        assert!(archive.is_public(cid).unwrap());
    }
    // Neither segments nor the catalog or the root of what is private.
    let private = (0..701).map(|number| *segment(number).cid());
    let nodes = archive.roots(&Pin::catalog(&Pin::own("secret")), None, 99).unwrap();
    assert!(nodes.len() > 1);
    for cid in private.chain(nodes).chain(archive.own_root().unwrap()) {
        assert!(archive.has(&cid).unwrap() && !archive.is_public(&cid).unwrap());
    }
}

#[test]
fn who_resolved_the_name_a_moment_ago_still_finds_everything() {
    let (_folder, archive) = archive();
    let pin = Pin::public("sealed");
    let step = LEAF_ENTRIES_MAX as u64 * 2;
    fill(&archive, &pin, 0..step);
    let first = archive.publish().unwrap().unwrap();
    let at_first = reached(&archive, &first.root).unwrap();
    assert_eq!(at_first.len() as u64, step);
    // The catalog grows on, time and again.
    for part in 0..16 {
        fill(&archive, &pin, step + part * 32..step + (part + 1) * 32);
        assert_eq!(reached(&archive, &first.root).as_ref(), Ok(&at_first));
    }
    // A newer publication does not take it away, for others may still have its record.
    let second = archive.publish().unwrap().unwrap();
    assert_ne!(second.root, first.root);
    assert_eq!(reached(&archive, &first.root).as_ref(), Ok(&at_first));
    assert_eq!(reached(&archive, &second.root).unwrap().len() as u64, 2 * step);
    // Two newer ones do: not everything of every moment stays for ever.
    let mut blocks = Vec::new();
    for part in 16..40 {
        fill(&archive, &pin, step + part * 32..step + (part + 1) * 32);
        archive.publish().unwrap().unwrap();
        blocks.push(archive.stats().unwrap().blocks - (step + (part + 1) * 32));
    }
    assert!(reached(&archive, &first.root).is_err());
    assert!(blocks.iter().all(|nodes| *nodes < 60), "{blocks:?}");
    assert_eq!(archive.public_roots().unwrap(), archive.published().unwrap());
}

#[test]
fn publishing_the_same_again_changes_nothing() {
    let (_folder, archive) = archive();
    fill(&archive, &Pin::public("sealed"), 0..10);
    let published = archive.publish().unwrap();
    let stats = archive.stats().unwrap();
    for _ in 0..3 {
        assert_eq!(archive.publish().unwrap(), published);
    }
    assert_eq!(archive.stats().unwrap(), stats);
}

#[test]
fn what_is_public_no_more_leaves_no_trace() {
    let (_folder, archive) = archive();
    let empty = archive.stats().unwrap();
    let graph = segment(1);
    let import = Pin::public(&graph.cid().to_string());
    for _ in 0..3 {
        archive.put(&[Object::leaf(import.clone(), graph.clone())], None).unwrap();
        let published = archive.publish().unwrap().unwrap();
        archive.unpin(&import).unwrap();
        assert!(!archive.is_public(graph.cid()).unwrap());
        assert_eq!(archive.publish().unwrap(), None);
        assert!(!archive.has(&published.root).unwrap());
    }
    assert_eq!(archive.stats().unwrap(), empty);
}
