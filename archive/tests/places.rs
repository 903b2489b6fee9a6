//! The store remembers what belongs in another backend, what is there, and what has changed since.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use dunlin_archive::{Archive, Config, Errand, Object, Pin, Placing, Selection};
use dunlin_wire::{
    Cid,
    block::{Block, Codec},
};

fn block(content: &str) -> Block {
    Block::new(Codec::Raw, content.as_bytes().to_vec())
}

fn leaf(pin: &Pin, content: &str) -> Object {
    Object::leaf(pin.clone(), block(content))
}

fn open(folder: &tempfile::TempDir) -> Archive {
    Archive::open(&folder.path().join("blocks.redb"), Config::default()).unwrap()
}

fn archive() -> (tempfile::TempDir, Archive) {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(&folder);
    (folder, archive)
}

fn roots(errands: &[Errand]) -> Vec<Cid> {
    errands.iter().map(|errand| errand.root).collect()
}

/// Carries out everything that is due; returns how much that was.
fn settle_all(archive: &Archive) -> usize {
    let errands = archive.errands(None, 1_000).unwrap();
    archive.begin(&errands).unwrap();
    archive.settle(&errands).unwrap();
    errands.len()
}

#[test]
fn a_store_without_another_backend_remembers_nothing() {
    let (_folder, archive) = archive();
    archive.put(&[leaf(&Pin::public("x"), "a"), leaf(&Pin::own("x"), "b")], None).unwrap();
    assert!(archive.errands(None, 10).unwrap().is_empty());
    assert_eq!(archive.placing().unwrap(), Placing::default());
}

#[test]
fn only_what_strangers_may_have_is_selected_by_default() {
    let (_folder, archive) = archive();
    archive.select(Selection::Public, "kubo").unwrap();
    let pins = ["own/x", "fetched/x", "imported/x", "public/x"];
    let all = [Pin::own("x"), Pin::fetched("x"), Pin::imported("x"), Pin::public("x")];
    for (pin, name) in all.iter().zip(pins) {
        archive.put(&[leaf(pin, name)], None).unwrap();
    }
    let catalog = Pin::public("catalog/sealed/x");
    archive.put(&[leaf(&catalog, "it changes all the time")], None).unwrap();
    let errands = archive.errands(None, 10).unwrap();
    assert_eq!(roots(&errands), [*block("public/x").cid()]);
    // Everything that is this node's own work; what others have, too, is not kept twice.
    archive.select(Selection::Everything, "kubo").unwrap();
    let errands = archive.errands(None, 10).unwrap();
    let names = ["own/x", "imported/x", "public/x"];
    let mut expected: Vec<_> = names.iter().map(|name| *block(name).cid()).collect();
    expected.sort_by_key(Cid::to_bytes);
    assert_eq!(roots(&errands), expected);
}

#[test]
fn errands_survive_a_restart_and_are_done_once() {
    let (folder, archive) = archive();
    archive.select(Selection::Public, "kubo").unwrap();
    let pin = Pin::public("x");
    let object = Object { pin: pin.clone(), root: block("root"), links: vec![block("link")] };
    archive.put(&[object, leaf(&pin, "other")], None).unwrap();
    drop(archive);
    let archive = open(&folder);
    archive.select(Selection::Public, "kubo").unwrap();
    assert_eq!(archive.placing().unwrap(), Placing { placed: 0, due: 2 });
    let root = *block("root").cid();
    let errands = archive.errands(None, 10).unwrap();
    let errand = errands.iter().find(|errand| errand.root == root).unwrap();
    assert_eq!(errand.wanted, Some((pin.clone(), vec![*block("link").cid()])));
    assert_eq!(errand.placed, None);
    archive.settle(std::slice::from_ref(errand)).unwrap();
    drop(archive);
    let archive = open(&folder);
    assert_eq!(archive.placing().unwrap(), Placing { placed: 1, due: 1 });
    let left = archive.errands(None, 10).unwrap();
    assert_eq!(roots(&left), [*block("other").cid()]);
    // Pages go on behind the last root.
    assert!(archive.errands(Some(&left[0].root), 10).unwrap().is_empty());
    settle_all(&archive);
    // The same again changes nothing.
    archive.put(&[leaf(&pin, "other")], None).unwrap();
    assert_eq!(archive.placing().unwrap(), Placing { placed: 2, due: 0 });
}

#[test]
fn what_is_unpinned_is_to_leave_and_what_is_held_twice_stays() {
    let (_folder, archive) = archive();
    archive.select(Selection::Public, "kubo").unwrap();
    let (a, b) = (Pin::public("a"), Pin::public("b"));
    archive.put(&[leaf(&a, "both"), leaf(&b, "both"), leaf(&a, "a alone")], None).unwrap();
    settle_all(&archive);
    archive.unpin(&a).unwrap();
    let errands = archive.errands(None, 10).unwrap();
    assert_eq!(errands.len(), 2);
    for errand in &errands {
        let wanted = errand.wanted.as_ref().map(|(pin, _)| pin.clone());
        let is_shared = errand.root == *block("both").cid();
        assert_eq!(wanted, is_shared.then(|| b.clone()));
        assert_eq!(errand.placed, Some(a.clone()));
    }
    archive.settle(&errands).unwrap();
    assert_eq!(archive.placing().unwrap(), Placing { placed: 1, due: 0 });
    archive.unpin_root(&b, block("both").cid()).unwrap();
    settle_all(&archive);
    assert_eq!(archive.placing().unwrap(), Placing::default());
}

#[test]
fn a_root_that_changed_while_it_was_carried_stays_due() {
    let (_folder, archive) = archive();
    archive.select(Selection::Everything, "kubo").unwrap();
    let own = Pin::own("x");
    archive.put(&[leaf(&own, "root")], None).unwrap();
    let errands = archive.errands(None, 10).unwrap();
    let grown = Object { pin: own.clone(), root: block("root"), links: vec![block("link")] };
    archive.put(&[grown], None).unwrap();
    archive.settle(&errands).unwrap();
    let again = archive.errands(None, 10).unwrap();
    assert_eq!(again[0].wanted, Some((own.clone(), vec![*block("link").cid()])));
    assert_eq!(again[0].placed, Some(own.clone()));
    archive.unpin(&own).unwrap();
    archive.settle(&again).unwrap();
    assert_eq!(archive.errands(None, 10).unwrap()[0].wanted, None);
}

/// Between bringing a root there and writing that down the node may end.
#[test]
fn what_was_begun_and_is_not_wanted_any_more_is_to_leave() {
    let (folder, archive) = archive();
    archive.select(Selection::Public, "kubo").unwrap();
    let pin = Pin::public("x");
    archive.put(&[leaf(&pin, "root")], None).unwrap();
    archive.begin(&archive.errands(None, 10).unwrap()).unwrap();
    drop(archive);
    let archive = open(&folder);
    archive.unpin(&pin).unwrap();
    let errands = archive.errands(None, 10).unwrap();
    assert_eq!((errands[0].wanted.clone(), errands[0].placed.clone()), (None, Some(pin)));
    assert_eq!(archive.placing().unwrap(), Placing { placed: 0, due: 1 });
    archive.settle(&errands).unwrap();
    assert!(archive.errands(None, 10).unwrap().is_empty());
}

#[test]
fn a_public_pin_goes_before_a_private_one() {
    let (_folder, archive) = archive();
    archive.select(Selection::Everything, "kubo").unwrap();
    let (own, public) = (Pin::own("x"), Pin::public("x"));
    archive.put(&[leaf(&own, "root")], None).unwrap();
    settle_all(&archive);
    archive.put(&[leaf(&public, "root")], None).unwrap();
    let wanted = |archive: &Archive| archive.errands(None, 10).unwrap()[0].wanted.clone();
    assert_eq!(wanted(&archive).unwrap().0, public);
    settle_all(&archive);
    archive.unpin(&public).unwrap();
    assert_eq!(wanted(&archive).unwrap().0, own);
}

#[test]
fn another_place_has_nothing_yet_and_no_place_forgets() {
    let (_folder, archive) = archive();
    archive.put(&[leaf(&Pin::public("x"), "old"), leaf(&Pin::own("x"), "private")], None).unwrap();
    archive.select(Selection::Everything, "one").unwrap();
    assert_eq!(settle_all(&archive), 2);
    archive.select(Selection::Everything, "one").unwrap();
    assert_eq!(archive.placing().unwrap(), Placing { placed: 2, due: 0 }, "nothing changed");
    // Less is selected: what is private leaves that place.
    archive.select(Selection::Public, "one").unwrap();
    let leaving: Vec<_> = archive.errands(None, 10).unwrap();
    let leaving: Vec<_> = leaving.iter().filter(|errand| errand.wanted.is_none()).collect();
    assert_eq!(leaving.len(), 1);
    assert_eq!(leaving[0].root, *block("private").cid());
    settle_all(&archive);
    archive.select(Selection::Public, "two").unwrap();
    assert_eq!(archive.placing().unwrap(), Placing { placed: 0, due: 1 });
    archive.select(Selection::None, "none").unwrap();
    assert_eq!(archive.placing().unwrap(), Placing::default());
    archive.put(&[leaf(&Pin::public("x"), "new")], None).unwrap();
    assert_eq!(archive.placing().unwrap(), Placing::default());
}
