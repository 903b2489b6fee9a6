//! What every backend promises, tried over its public interface: `conforms` is run over each of them.

use std::collections::BTreeMap;

use dunlin_archive::{
    Object, Pin,
    backend::{Backend, BackendError},
};
use dunlin_wire::{
    block::{Block, Codec},
    cbor,
    limits::BLOCK_BYTES_MAX,
};

/// A backend, and how to make it remove what no pin holds.
pub(crate) struct Subject<'a> {
    pub(crate) backend: &'a dyn Backend,
    pub(crate) collect_garbage: &'a dyn Fn(),
}

/// Tries everything. The backend has none of our pins before, and none afterwards.
pub(crate) fn conforms(subject: &Subject<'_>) {
    let said = subject.backend.describe().unwrap();
    assert!(!said.is_empty());
    what_is_not_there_is_not_there(subject);
    an_object_comes_back_as_it_was(subject);
    putting_twice_is_putting_once(subject);
    what_a_pin_holds_stays_and_the_rest_may_go(subject);
    blocks_of_any_size_and_codec_are_kept(subject);
    a_root_may_be_kept_without_what_it_links_to(subject);
    an_object_with_some_of_its_links_is_whole_or_refused(subject);
    pins_are_counted_by_name(subject);
    assert_eq!(subject.backend.pins().unwrap(), BTreeMap::new(), "nothing is left behind");
}

fn raw(content: &str) -> Block {
    Block::new(Codec::Raw, content.as_bytes().to_vec())
}

/// Returns a root of dag-cbor with what it links to.
pub(crate) fn object(pin: &Pin, name: &str, links: Vec<Block>) -> Object {
    let cids: Vec<_> = links.iter().map(|link| *link.cid()).collect();
    let root = BTreeMap::from([(name, cids)]);
    Object {
        pin: pin.clone(),
        root: Block::new(Codec::DagCbor, cbor::encode(&root).unwrap()),
        links,
    }
}

fn blocks(object: &Object) -> impl Iterator<Item = &Block> {
    object.links.iter().chain([&object.root])
}

fn what_is_not_there_is_not_there(Subject { backend, .. }: &Subject<'_>) {
    let (pin, block) = (Pin::own("conformance"), raw("nobody has this"));
    assert_eq!(backend.block(block.cid()).unwrap(), None);
    assert!(!backend.has(block.cid()).unwrap());
    assert!(!backend.is_pinned(&pin, block.cid()).unwrap());
    assert_eq!(backend.pins().unwrap(), BTreeMap::new());
    // Letting go of it is no error.
    backend.unpin(&pin, block.cid()).unwrap();
}

fn an_object_comes_back_as_it_was(Subject { backend, collect_garbage }: &Subject<'_>) {
    let pin = Pin::own("conformance");
    let object = object(&pin, "whole", vec![raw("payload 1"), raw("payload 2")]);
    backend.put(&object).unwrap();
    collect_garbage();
    for block in blocks(&object) {
        assert!(backend.has(block.cid()).unwrap());
        assert_eq!(backend.block(block.cid()).unwrap().as_ref(), Some(block));
    }
    assert!(backend.is_pinned(&pin, object.root.cid()).unwrap());
    assert!(!backend.is_pinned(&pin, object.links[0].cid()).unwrap(), "it is held, not a root");
    assert!(!backend.is_pinned(&Pin::own("other"), object.root.cid()).unwrap());
    assert!(backend.bytes().unwrap() > 0);
    backend.unpin(&pin, object.root.cid()).unwrap();
}

fn putting_twice_is_putting_once(Subject { backend, .. }: &Subject<'_>) {
    let pin = Pin::own("conformance");
    let object = object(&pin, "twice", vec![raw("payload")]);
    backend.put(&object).unwrap();
    backend.put(&object).unwrap();
    assert_eq!(backend.pins().unwrap(), BTreeMap::from([(pin.clone(), 1)]));
    backend.unpin(&pin, object.root.cid()).unwrap();
    assert_eq!(backend.pins().unwrap(), BTreeMap::new());
    backend.unpin(&pin, object.root.cid()).unwrap();
}

fn what_a_pin_holds_stays_and_the_rest_may_go(Subject { backend, collect_garbage }: &Subject<'_>) {
    let pin = Pin::own("conformance");
    let one = object(&pin, "one", vec![raw("shared"), raw("of one alone")]);
    let other = object(&pin, "other", vec![raw("shared")]);
    backend.put(&one).unwrap();
    backend.put(&other).unwrap();
    backend.unpin(&pin, one.root.cid()).unwrap();
    collect_garbage();
    for block in blocks(&other) {
        assert_eq!(backend.block(block.cid()).unwrap().as_ref(), Some(block));
    }
    assert!(!backend.has(one.root.cid()).unwrap());
    assert_eq!(backend.block(one.links[1].cid()).unwrap(), None);
    backend.unpin(&pin, other.root.cid()).unwrap();
    collect_garbage();
    assert!(!backend.has(other.links[0].cid()).unwrap());
    // What left can come again.
    backend.put(&one).unwrap();
    assert!(backend.has(one.links[1].cid()).unwrap());
    backend.unpin(&pin, one.root.cid()).unwrap();
}

fn blocks_of_any_size_and_codec_are_kept(Subject { backend, .. }: &Subject<'_>) {
    let pin = Pin::public("conformance");
    let large: Vec<u8> = (0..BLOCK_BYTES_MAX).map(|at| (at % 251) as u8).collect();
    let leaves = [
        Block::new(Codec::Raw, Vec::new()),
        Block::new(Codec::Raw, large),
        Block::new(Codec::Raw, b"\r\n--a line of a form\r\n\r\n".to_vec()),
        Block::new(Codec::DagCbor, vec![0xa0]),
    ];
    for leaf in leaves {
        backend.put(&Object::leaf(pin.clone(), leaf.clone())).unwrap();
        assert_eq!(backend.block(leaf.cid()).unwrap(), Some(leaf.clone()));
        backend.unpin(&pin, leaf.cid()).unwrap();
    }
    let many = object(&pin, "many", (0..100).map(|n| raw(&format!("payload {n}"))).collect());
    backend.put(&many).unwrap();
    for block in blocks(&many) {
        assert!(backend.has(block.cid()).unwrap());
    }
    backend.unpin(&pin, many.root.cid()).unwrap();
}

/// Blocks of a CAR file are each pinned by themselves.
fn a_root_may_be_kept_without_what_it_links_to(Subject { backend, collect_garbage }: &Subject<'_>) {
    let pin = Pin::public("conformance");
    let Object { root, .. } = object(&pin, "alone", vec![raw("far away")]);
    backend.put(&Object::leaf(pin.clone(), root.clone())).unwrap();
    collect_garbage();
    assert!(backend.is_pinned(&pin, root.cid()).unwrap());
    assert_eq!(backend.block(root.cid()).unwrap(), Some(root.clone()));
    backend.unpin(&pin, root.cid()).unwrap();
    assert!(!backend.is_pinned(&pin, root.cid()).unwrap());
}

fn an_object_with_some_of_its_links_is_whole_or_refused(Subject { backend, .. }: &Subject<'_>) {
    let pin = Pin::own("conformance");
    let mut partial = object(&pin, "partial", vec![raw("here"), raw("still missing")]);
    partial.links.pop();
    match backend.put(&partial) {
        Ok(()) => assert!(backend.has(partial.links[0].cid()).unwrap()),
        Err(BackendError::Incomplete { root }) => {
            assert_eq!(root, *partial.root.cid());
            assert!(!backend.is_pinned(&pin, &root).unwrap());
        }
        Err(cause) => panic!("{cause}"),
    }
    backend.unpin(&pin, partial.root.cid()).unwrap();
}

fn pins_are_counted_by_name(Subject { backend, .. }: &Subject<'_>) {
    let names = ["a", "b", "with spaces & signs", "b"].map(Pin::own);
    let objects: Vec<_> = (0..)
        .zip(&names)
        .map(|(n, pin)| Object::leaf(pin.clone(), raw(&format!("counted {n}"))))
        .collect();
    for object in &objects {
        backend.put(object).unwrap();
    }
    let [a, b, signs, _] = names;
    assert_eq!(backend.pins().unwrap(), BTreeMap::from([(a, 1), (b, 2), (signs, 1)]));
    for object in &objects {
        backend.unpin(&object.pin, object.root.cid()).unwrap();
    }
}
