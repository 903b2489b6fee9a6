//! The catalog as sets see it: what it holds, how it differs, what it refuses.

use std::{collections::BTreeMap, convert::Infallible};

use dunlin_wire::block::{Codec, cid_of};
use proptest::prelude::*;

use super::{node::Node, *};

/// Blocks in memory, and the tree that they make.
#[derive(Clone, Default)]
struct Grown {
    blocks: BTreeMap<Cid, Vec<u8>>,
    root: Option<Root>,
}

impl Grown {
    fn get(&self) -> impl FnMut(&Cid) -> Result<Option<Vec<u8>>, Infallible> + '_ {
        |cid| Ok(self.blocks.get(cid).cloned())
    }

    fn of(entries: &[Entry]) -> Self {
        let mut grown = Self::default();
        grown.insert(entries);
        grown
    }

    fn insert(&mut self, entries: &[Entry]) -> usize {
        let Some(update) = insert(self.get(), self.root.as_ref(), entries).unwrap() else {
            return 0;
        };
        let written = update.added.len();
        for block in update.added {
            self.blocks.insert(*block.cid(), block.into_bytes());
        }
        for cid in update.removed {
            assert!(self.blocks.remove(&cid).is_some(), "only what was there is removed");
        }
        self.root = Some(update.root);
        written
    }

    fn all(&self) -> Vec<Entry> {
        self.within(i64::MIN, i64::MAX)
    }

    fn within(&self, from: i64, to: i64) -> Vec<Entry> {
        let mut found = Vec::new();
        if let Some(root) = &self.root {
            entries(self.get(), root, (from, to), |entry| found.push(entry)).unwrap();
        }
        found
    }

    fn difference(&self, other: &Self) -> Difference {
        let (a, b) = (self.root.as_ref(), other.root.as_ref());
        let mut found = compare((a, self.get()), (b, other.get()), usize::MAX).unwrap();
        found.first_only.sort();
        found.second_only.sort();
        found
    }
}

fn entry(start: i64, seed: u64) -> Entry {
    let cid = cid_of(Codec::DagCbor, &seed.to_be_bytes());
    Entry::new(start, &cid).unwrap()
}

/// A segment each minute.
fn minutes(range: std::ops::Range<u64>) -> Vec<Entry> {
    range.map(|minute| entry(1_700_000_000_000_000 + minute as i64 * 60_000_000, minute)).collect()
}

fn sorted(entries: &[Entry]) -> Vec<Entry> {
    let mut keys: Vec<Key> = entries.iter().map(Key::of).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.iter().map(Key::entry).collect()
}

#[test]
fn a_small_catalog_is_these_bytes() {
    let grown = Grown::of(&[entry(-1, 2), entry(5, 1)]);
    let root = grown.root.unwrap();
    let mut expected = vec![0x85, 1, 0, 0, 0x40, 0x82];
    for (start, seed) in [(0x20_u8, 2_u64), (0x05, 1)] {
        expected.extend([0x83, start, 0, 0xd8, 0x2a, 0x58, 37, 0]);
        expected.extend(cid_of(Codec::DagCbor, &seed.to_be_bytes()).to_bytes());
    }
    assert_eq!(grown.blocks[&root.cid], expected);
    assert_eq!((root.count, grown.blocks.len()), (2, 1));
}

#[test]
fn a_growing_catalog_writes_little_and_leaves_nothing_behind() {
    let mut grown = Grown::default();
    let all = minutes(0..20_000);
    for batch in all.chunks(100) {
        assert!(grown.insert(batch) <= 8, "a batch of neighbors touches one path");
    }
    assert_eq!(grown.insert(&all[50..90]), 0, "what is known changes nothing");
    assert_eq!((grown.root.unwrap().count, grown.all()), (20_000, all.clone()));
    let at_once = Grown::of(&all);
    assert_eq!((at_once.root, at_once.blocks.len()), (grown.root, grown.blocks.len()));
    let (from, to) = (all[700].start, all[900].start);
    assert_eq!(grown.within(from, to), all[700..=900]);
    assert_eq!(grown.within(from + 1, from + 2), []);
    assert_eq!(grown.within(to, from), []);
}

#[test]
fn a_small_difference_is_found_by_reading_little() {
    let all = minutes(0..50_000);
    let (first, mut second) = (Grown::of(&all), Grown::of(&all));
    assert_eq!(first.difference(&second), Difference::default());
    let odd = [entry(all[77].start + 5, 1 << 40), entry(all[40_000].start, 1 << 41)];
    second.insert(&odd);
    let found = first.difference(&second);
    assert_eq!((found.first_only.len(), &found.second_only), (0, &sorted(&odd)));
    assert!(found.blocks_read < 24, "{} blocks", found.blocks_read);
    let limited = compare((None, first.get()), (second.root.as_ref(), second.get()), 100);
    let limited = limited.unwrap();
    assert!((100..1_000).contains(&limited.second_only.len()) && limited.blocks_read < 30);
}

/// A peer whose blocks are fetched in rounds; returns what was found, the rounds and the blocks.
fn fetched(
    ours: &Grown,
    theirs: &Grown,
    ask_max: usize,
) -> (Difference, usize, BTreeMap<Cid, Vec<u8>>) {
    let mut comparison = Comparison::new(ours.root.as_ref(), theirs.root.as_ref(), 1 << 20);
    let (mut here, mut rounds) = (BTreeMap::new(), 0);
    loop {
        let get = |cid: &Cid| Ok::<_, Infallible>(here.get(cid).cloned());
        match comparison.advance(ours.get(), get, (usize::MAX, ask_max)).unwrap() {
            Step::Done => return (comparison.take_difference(), rounds, here),
            Step::Ask(cids) => {
                assert!(cids.len() <= ask_max);
                rounds += 1;
                here.extend(cids.into_iter().map(|cid| (cid, theirs.blocks[&cid].clone())));
            }
        }
    }
}

#[test]
fn a_difference_is_fetched_in_as_many_rounds_as_the_tree_is_deep() {
    let ours = Grown::of(&minutes(0..40_000));
    let mut theirs = Grown::of(&minutes(0..40_000));
    theirs.insert(&minutes(40_000..40_100));
    theirs.insert(&[entry(60_000_000 * 7, 1_000_000)]);
    let (mut found, rounds, fetched_blocks) = fetched(&ours, &theirs, 256);
    found.second_only.sort();
    assert_eq!(found.second_only, ours.difference(&theirs).second_only);
    assert_eq!((found.first_only.len(), found.second_only.len()), (0, 101));
    assert!(rounds <= 12, "{rounds} rounds");
    assert!(fetched_blocks.len() <= 16, "{} blocks", fetched_blocks.len());
}

#[test]
fn a_comparison_stops_at_its_limits_and_goes_on() {
    let (ours, theirs) = (Grown::default(), Grown::of(&minutes(0..4_000)));
    let mut comparison = Comparison::new(None, theirs.root.as_ref(), 1 << 20);
    let (mut found, mut turns) = (Vec::new(), 0);
    while turns == 0 || !found.is_empty() && found.len() < 4_000 {
        assert_eq!(comparison.advance(ours.get(), theirs.get(), (300, 8)).unwrap(), Step::Done);
        let difference = comparison.take_difference();
        // It stops at the leaf with which there are enough.
        assert!(difference.second_only.len() < 300 + LEAF_ENTRIES_MAX);
        found.extend(difference.second_only);
        turns += 1;
    }
    assert_eq!(sorted(&found), theirs.all());
    let mut small = Comparison::new(None, theirs.root.as_ref(), 3);
    small.advance(ours.get(), theirs.get(), (usize::MAX, 8)).unwrap();
    assert!(small.is_cut() && small.difference().blocks_read <= 4);
}

/// Has `ours` take in all of `theirs`, a step at a time, while both grow. Of a tree that grew nothing is left that it no
/// longer has. Returns how many entries were found.
fn taken_in_while_growing(
    ours: &mut Grown,
    theirs: &mut Grown,
    (to_ours, to_theirs): (&[Entry], &[Entry]),
    is_renewed: bool,
) -> usize {
    let mut comparison = Comparison::new(ours.root.as_ref(), theirs.root.as_ref(), u64::MAX);
    let (mut to_ours, mut to_theirs) = (to_ours.chunks(3), to_theirs.chunks(3));
    let mut count = 0;
    loop {
        comparison.renew_first(ours.root.as_ref(), ours.get()).unwrap();
        if is_renewed {
            comparison.renew_second(theirs.root.as_ref(), theirs.get()).unwrap();
        }
        assert_eq!(comparison.advance(ours.get(), theirs.get(), (5, 1)).unwrap(), Step::Done);
        let found = comparison.take_difference();
        if found.first_only.is_empty() && found.second_only.is_empty() {
            return count;
        }
        count += found.second_only.len();
        ours.insert(&found.second_only);
        ours.insert(to_ours.next().unwrap_or_default());
        if is_renewed {
            theirs.insert(to_theirs.next().unwrap_or_default());
        }
    }
}

#[test]
fn many_segments_of_one_moment_are_told_apart() {
    let all: Vec<Entry> = (0..3_000).map(|seed| entry(7, seed)).collect();
    let grown = Grown::of(&all);
    assert_eq!(grown.within(7, 7), sorted(&all));
    assert_eq!(grown.within(8, i64::MAX), []);
}

#[test]
fn a_tree_that_lies_is_refused() {
    let honest = Grown::of(&minutes(0..2_000));
    let root = honest.root.unwrap();
    let refused = |grown: &Grown, root: Root| {
        let read = entries(grown.get(), &root, (i64::MIN, i64::MAX), |_| ());
        matches!(read, Err(CatalogError::Malformed { .. } | CatalogError::Missing { .. }))
    };
    assert!(!refused(&honest, root));
    assert!(refused(&honest, Root { count: root.count + 1, ..root }));
    assert!(refused(&Grown::default(), root));
    // Every change of a node below breaks a link, so the lies are made in the nodes themselves.
    let lie = |node: Node| {
        let (block, count) = (node.to_block(), node.count());
        let mut grown = honest.clone();
        grown.blocks.insert(*block.cid(), block.bytes().to_vec());
        refused(&grown, Root { cid: *block.cid(), count })
    };
    let keys: Vec<Key> = minutes(0..300).iter().map(Key::of).collect();
    assert!(lie(Node::Leaf(Vec::new())));
    assert!(lie(Node::Leaf(keys.clone())), "a leaf of too many");
    assert!(lie(Node::Leaf(vec![keys[1], keys[0]])), "falling keys");
    let prefix = Prefix::default();
    let child = |nibble, root| Child { nibble, root };
    assert!(lie(Node::Inner { prefix, children: vec![child(8, root)] }), "one branch");
    let twice = vec![child(8, root), child(9, root)];
    assert!(lie(Node::Inner { prefix, children: twice }), "keys that do not belong there");
    let endless = Root { count: 1 << 60, ..root };
    assert!(lie(Node::Inner { prefix, children: vec![child(8, endless), child(9, endless)] }));
    for bytes in [&b""[..], b"\x85", &[0x85, 2, 0, 0, 0x40, 0x80]] {
        assert!(Node::decode(bytes).is_err());
    }
}

/// Entries that share times, prefixes, or nothing.
fn any_entries() -> impl Strategy<Value = Vec<Entry>> {
    let start = prop_oneof![
        -5_i64..5,
        (0_i64..400).prop_map(|minute| 1_700_000_000_000_000 + minute * 60_000_000),
        any::<i64>(),
    ];
    let few = prop::collection::vec((start, 0_u64..2_000), 0..700);
    few.prop_map(|pairs| pairs.into_iter().map(|(start, seed)| entry(start, seed)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_catalog_depends_on_its_entries_alone(
        entries in any_entries(),
        size in 1_usize..200,
        turn in any::<bool>(),
    ) {
        let at_once = Grown::of(&entries);
        let mut grown = Grown::default();
        let mut batches: Vec<&[Entry]> = entries.chunks(size).collect();
        if turn {
            batches.reverse();
        }
        batches.iter().for_each(|batch| {
            grown.insert(batch);
        });
        prop_assert_eq!(grown.root, at_once.root);
        prop_assert_eq!(&grown.blocks, &at_once.blocks);
        prop_assert_eq!(grown.all(), sorted(&entries));
    }

    #[test]
    fn differences_are_what_sets_say(common in any_entries(), a in any_entries(), b in any_entries()) {
        let union = |own: &[Entry]| sorted(&[&common[..], own].concat());
        let (in_a, in_b) = (union(&a), union(&b));
        let found = Grown::of(&in_a).difference(&Grown::of(&in_b));
        let only = |these: &[Entry], others: &[Entry]| {
            let mut only: Vec<Entry> =
                these.iter().filter(|entry| !others.contains(entry)).copied().collect();
            only.sort();
            only
        };
        prop_assert_eq!(&found.first_only, &only(&in_a, &in_b));
        prop_assert_eq!(&found.second_only, &only(&in_b, &in_a));
    }

    #[test]
    fn a_comparison_in_rounds_finds_the_same(
        common in any_entries(), a in any_entries(), b in any_entries(), ask_max in 1usize..4,
    ) {
        let grown = |own: &[Entry]| Grown::of(&[common.as_slice(), own].concat());
        let (a, b) = (grown(&a), grown(&b));
        let (mut found, _, _) = fetched(&a, &b, ask_max);
        found.first_only.sort();
        found.second_only.sort();
        let expected = a.difference(&b);
        prop_assert_eq!(found.first_only, expected.first_only);
        prop_assert_eq!(found.second_only, expected.second_only);
    }

    #[test]
    fn a_comparison_of_trees_that_grow_misses_nothing(
        common in any_entries(), a in any_entries(), b in any_entries(), more_a in any_entries(), more_b in any_entries(),
    ) {
        let grown = |own: &[Entry]| Grown::of(&[common.as_slice(), own].concat());
        let (before, lacking) = (grown(&b), grown(&a).difference(&grown(&b)).second_only);
        let (mut ours, mut theirs) = (grown(&a), grown(&b));
        let found = taken_in_while_growing(&mut ours, &mut theirs, (&more_a, &[]), false);
        // What came by another way meanwhile need not be found.
        prop_assert!(found <= lacking.len() && found + more_a.len() >= lacking.len());
        prop_assert_eq!(ours.difference(&before).second_only, []);
        let mut ours = grown(&a);
        taken_in_while_growing(&mut ours, &mut theirs, (&more_a, &more_b), true);
        prop_assert_eq!(ours.difference(&before).second_only, []);
    }

    #[test]
    fn any_bytes_are_a_node_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(node) = Node::decode(&bytes) {
            let _checked = node.check(&Root { cid: *node.to_block().cid(), count: 1 }, &Prefix::default());
        }
    }
}
