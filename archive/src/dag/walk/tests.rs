//! What a walk hands out, over graphs made here.

use std::{collections::HashMap, convert::Infallible};

use dunlin_wire::{
    block::{Codec, cid_of},
    cbor,
};
use multihash::Multihash;
use proptest::prelude::*;

use super::*;
use crate::dag::{ResolveError, hamt::Bits, resolve};

/// Blocks in memory, and a little of what `ipfs add` does.
#[derive(Debug, Default)]
struct Memory(HashMap<Cid, Vec<u8>>);

impl Source for Memory {
    type Error = Infallible;

    fn block(&self, cid: &Cid) -> Result<Option<Vec<u8>>, Infallible> {
        Ok(self.0.get(cid).cloned())
    }
}

fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = content.len();
    while length > 0x7f {
        bytes.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    bytes.push(u8::try_from(length).unwrap());
    bytes.extend_from_slice(content);
    bytes
}

impl Memory {
    fn raw(&mut self, bytes: &[u8]) -> Cid {
        let cid = cid_of(Codec::Raw, bytes);
        self.0.insert(cid, bytes.to_vec());
        cid
    }

    fn object<T: serde::Serialize>(&mut self, value: &T) -> Cid {
        let bytes = cbor::encode(value).unwrap();
        let cid = cid_of(Codec::DagCbor, &bytes);
        self.0.insert(cid, bytes);
        cid
    }

    fn pb(&mut self, links: &[(&str, Cid)], data: &[u8]) -> Cid {
        let mut bytes = Vec::new();
        for (name, cid) in links {
            let link = [field(1, &cid.to_bytes()), field(2, name.as_bytes())].concat();
            bytes.extend(field(2, &link));
        }
        bytes.extend(field(1, data));
        let cid = Cid::new_v1(DAG_PB, *cid_of(Codec::Raw, &bytes).hash());
        self.0.insert(cid, bytes);
        cid
    }

    /// A file of pieces of these sizes; returns it and its pieces.
    fn file(&mut self, pieces: &[u8]) -> (Cid, Vec<Cid>) {
        let leaves: Vec<_> = pieces
            .iter()
            .enumerate()
            .map(|(index, size)| self.raw(&vec![u8::try_from(index).unwrap(); usize::from(*size)]))
            .collect();
        let mut data = vec![8, 2];
        for size in pieces {
            data.extend([0x20, *size]);
        }
        let links: Vec<_> = leaves.iter().map(|cid| ("", *cid)).collect();
        (self.pb(&links, &data), leaves)
    }

    fn directory(&mut self, entries: &[(&str, Cid)]) -> Cid {
        self.pb(entries, &[8, 1])
    }

    fn walk(&self, plan: &Plan) -> Result<Vec<Cid>, WalkError<Infallible>> {
        let mut walk = Walk::new(self, plan);
        std::iter::from_fn(|| walk.next_block().map(|next| next.map(|block| block.cid)).transpose())
            .collect()
    }

    fn of(&self, last: Cid, scope: Scope) -> Vec<Cid> {
        let plan = Plan { trail: Vec::new(), last, scope, with_duplicates: false };
        self.walk(&plan).unwrap()
    }
}

fn entity(from: i64, to: Option<i64>) -> Scope {
    Scope::Entity(ByteRange { from, to })
}

fn path(text: &str) -> Vec<String> {
    text.split('/').map(str::to_owned).collect()
}

#[test]
fn a_range_of_a_file_needs_only_its_pieces() {
    let mut memory = Memory::default();
    // Two levels: pieces of 10, 20 and 30 bytes, and in front of those a file of 5 and 5.
    let (inner, small) = memory.file(&[5, 6]);
    let large = memory.raw(&[9; 20]);
    let root = memory.pb(&[("", inner), ("", large)], &[8, 2, 0x20, 11, 0x20, 20]);
    let all = vec![root, inner, small[0], small[1], large];
    assert_eq!(memory.of(root, Scope::Entity(ByteRange::ALL)), all);
    assert_eq!(memory.of(root, Scope::All), all);
    assert_eq!(memory.of(root, Scope::Block), [root]);
    assert_eq!(memory.of(root, entity(0, Some(0))), [root, inner, small[0]]);
    assert_eq!(memory.of(root, entity(5, Some(10))), [root, inner, small[1]]);
    assert_eq!(memory.of(root, entity(4, Some(5))), [root, inner, small[0], small[1]]);
    assert_eq!(memory.of(root, entity(11, None)), [root, large]);
    assert_eq!(memory.of(root, entity(-1, None)), [root, large]);
    assert_eq!(memory.of(root, entity(-9999, Some(-22))), [root, inner, small[0], small[1]]);
    assert_eq!(memory.of(root, entity(i64::MIN, Some(i64::MAX))), all);
    for (from, to) in [(31, None), (5, Some(4)), (i64::MAX, Some(i64::MIN))] {
        assert_eq!(memory.of(root, entity(from, to)), [root], "{from}:{to:?}");
    }
}

#[test]
fn a_missing_piece_outside_the_range_does_not_matter() {
    let mut memory = Memory::default();
    let (root, pieces) = memory.file(&[5, 5, 5]);
    memory.0.remove(&pieces[1]);
    assert_eq!(memory.of(root, entity(10, None)), [root, pieces[2]]);
    let plan = Plan { trail: vec![], last: root, scope: Scope::All, with_duplicates: false };
    assert!(matches!(memory.walk(&plan), Err(WalkError::Missing { cid }) if cid == pieces[1]));
}

#[test]
fn paths_pass_directories_and_objects() {
    let mut memory = Memory::default();
    let (file, _) = memory.file(&[1, 2]);
    let document = memory.object(&HashMap::from([("files", vec![file])]));
    let inner = memory.directory(&[("document", document)]);
    let root = memory.directory(&[("inner", inner), ("other", file)]);
    let resolved = resolve(&memory, &root, &path("inner/document/files/0")).unwrap();
    assert_eq!(resolved.trail, [root, inner, document]);
    assert_eq!((resolved.last, resolved.inside), (file, 0));
    assert_eq!(resolved.roots, [root, inner, document, file]);
    let resolved = resolve(&memory, &root, &path("inner/document/files")).unwrap();
    assert_eq!((resolved.last, resolved.inside), (document, 1));
    for missing in ["none", "inner/none", "other/x", "inner/document/files/1"] {
        let error = resolve(&memory, &root, &path(missing)).unwrap_err();
        assert!(matches!(error, ResolveError::NoSuchName { .. }), "{missing}: {error}");
    }
    let long = vec!["x".to_owned(); 65];
    assert!(matches!(resolve(&memory, &root, &long), Err(ResolveError::TooLong { .. })));
    memory.0.remove(&inner);
    let error = resolve(&memory, &root, &path("inner")).unwrap_err();
    assert!(matches!(error, ResolveError::Missing { cid } if cid == inner));
}

#[test]
fn blocks_that_are_nothing_but_a_link_lead_on_for_a_while() {
    let mut memory = Memory::default();
    let end = memory.object(&HashMap::from([("a", 1)]));
    let chain =
        |memory: &mut Memory, links: usize| (0..links).fold(end, |last, _| memory.object(&last));
    let short = chain(&mut memory, 127);
    let resolved = resolve(&memory, &short, &path("a")).unwrap();
    assert_eq!((resolved.last, resolved.roots.len()), (end, 128));
    let long = chain(&mut memory, 128);
    let error = resolve(&memory, &long, &path("a")).unwrap_err();
    assert!(matches!(error, ResolveError::TooFar { cid } if cid == end), "{error}");
}

#[test]
fn a_spread_directory_is_passed_and_listed() {
    let mut memory = Memory::default();
    let file = memory.raw(b"content");
    let other = memory.raw(b"other");
    let data = [8, 5, 0x28, 0x22, 0x30, 16];
    let mut bits = Bits::of(b"name.txt");
    let indexes = [bits.next(16).unwrap(), bits.next(16).unwrap()];
    let beside = (indexes[0] + 1) % 16;
    let deep = memory.pb(&[(&format!("{:X}name.txt", indexes[1]), file)], &data);
    let prefix = format!("{:X}", indexes[0]);
    let entry = format!("{beside:X}other");
    let root = memory.pb(&[(&prefix, deep), (&entry, other)], &data);
    let resolved = resolve(&memory, &root, &path("name.txt")).unwrap();
    assert_eq!((resolved.trail, resolved.last), (vec![root, deep], file));
    // The same place in the tree, another name.
    let error = resolve(&memory, &root, &path("name.tx")).unwrap_err();
    assert!(matches!(error, ResolveError::NoSuchName { .. }), "{error}");
    assert_eq!(memory.of(root, Scope::Entity(ByteRange::ALL)), [root, deep]);
    assert_eq!(memory.of(root, Scope::All), [root, deep, file, other]);
}

#[test]
fn duplicates_are_handed_out_on_demand_and_identities_never() {
    let mut memory = Memory::default();
    let inline = Cid::new_v1(0x55, Multihash::wrap(0, b"inline").unwrap());
    let (file, pieces) = memory.file(&[3, 4]);
    let root = memory.directory(&[("a", file), ("b", inline), ("c", file)]);
    let once = vec![root, file, pieces[0], pieces[1]];
    assert_eq!(memory.of(root, Scope::All), once);
    let plan = Plan { trail: vec![], last: root, scope: Scope::All, with_duplicates: true };
    let again = [&once[..], &once[1..]].concat();
    assert_eq!(memory.walk(&plan).unwrap(), again);
    assert!(memory.of(inline, Scope::All).is_empty());
    assert_eq!(resolve(&memory, &root, &path("b")).unwrap().last, inline);
}

#[test]
fn a_graph_with_exponentially_many_ways_ends() {
    let mut memory = Memory::default();
    let mut root = memory.raw(b"bottom");
    for _ in 0..64 {
        root = memory.object(&[root, root]);
    }
    assert_eq!(memory.of(root, Scope::All).len(), 65);
    let plan = Plan { trail: vec![], last: root, scope: Scope::All, with_duplicates: true };
    assert!(matches!(memory.walk(&plan), Err(WalkError::TooManyBlocks)));
}

#[test]
fn sizes_that_lie_overflow_nothing() {
    let mut memory = Memory::default();
    let leaf = memory.raw(b"leaf");
    let huge = [0x20, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    let data = [&[8, 2][..], &huge, &huge].concat();
    let root = memory.pb(&[("", leaf), ("", leaf), ("", leaf)], &data);
    assert_eq!(memory.of(root, Scope::Entity(ByteRange::ALL)), [root, leaf]);
    assert_eq!(memory.of(root, entity(-5, None)), [root, leaf]);
}

proptest! {
    #[test]
    fn a_range_needs_exactly_the_pieces_it_touches(
        sizes in prop::collection::vec(1u8..100, 1..20), from in -200i64..2000, to in prop::option::of(-200i64..2000),
    ) {
        let mut memory = Memory::default();
        let (root, pieces) = memory.file(&sizes);
        let size: i64 = sizes.iter().map(|size| i64::from(*size)).sum();
        let place = |offset: i64| if offset < 0 { size + offset } else { offset };
        let (first, last) = (place(from).max(0), to.map_or(size - 1, place).min(size - 1));
        let mut start = 0;
        let mut expected = vec![root];
        for (size, piece) in sizes.iter().zip(&pieces) {
            let end = start + i64::from(*size);
            if first <= last && start <= last && end > first {
                expected.push(*piece);
            }
            start = end;
        }
        prop_assert_eq!(memory.of(root, entity(from, to)), expected);
    }
}
