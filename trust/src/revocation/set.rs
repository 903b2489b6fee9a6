//! The exact set of revoked keys, asked before every federated operation.

mod filter;

use std::collections::BTreeSet;

use self::filter::Filter;
use super::Subject;

/// Keys that wait in front of the table until they are put into it together.
const RECENT_MAX: usize = 1_024;

/// A key stands in one of so many slots, from the one on that its first bits name.
const REACH: usize = 16;

/// A slot of the table: a key as words, so that comparing two mostly takes one step, and at an address that has it in one
/// line of the processor's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(align(32))]
struct Slot([u64; 4]);

/// What stands in a slot without a key. A key of these bytes is kept beside the table.
const EMPTY: Slot = Slot([0; 4]);

impl Slot {
    fn of(subject: &Subject) -> Self {
        let (words, _) = subject.0.as_chunks::<8>();
        let mut slot = EMPTY;
        slot.0.iter_mut().zip(words).for_each(|(to, word)| *to = u64::from_be_bytes(*word));
        slot
    }

    fn subject(self) -> Subject {
        let mut bytes = [0; 32];
        let (words, _) = bytes.as_chunks_mut::<8>();
        words.iter_mut().zip(self.0).for_each(|(to, word)| *to = word.to_be_bytes());
        Subject(bytes)
    }

    /// Returns where a key stands by its first bits, of so many places.
    fn place(&self, places: usize) -> usize {
        ((u128::from(self.0[0]) * places as u128) >> 64) as usize
    }
}

/// An exact set of keys: a sorted table with gaps, and a small tree in front for what is new.
///
/// The first bits of a key name its place in the table, as a hash would; keys that find theirs taken follow it
/// in order, so that the table is sorted. Looking one up is a single jump to memory and a few comparisons, until a
/// gap or a greater key ends it. A third of the slots are gaps: 48 bytes a key.
///
/// A hash table would need a secret seed against keys that are made to collide. Here such keys find no slot within
/// reach and go into a sorted list beside the table, and the worst that they do is a binary search over themselves.
///
/// Nearly everybody who is asked about is not revoked. A filter in front of all of it says so for most of them out of
/// the processor's cache. It never says yes: what it does not rule out is looked up.
#[derive(Clone, Debug, Default)]
pub(crate) struct SubjectSet {
    filter: Filter,
    slots: Vec<Slot>,
    /// Keys in `slots`.
    placed: usize,
    crowded: Vec<Slot>,
    recent: BTreeSet<Subject>,
}

impl SubjectSet {
    pub(crate) fn contains(&self, subject: &Subject) -> bool {
        self.filter.may_contain(subject) && self.holds(subject)
    }

    fn holds(&self, subject: &Subject) -> bool {
        self.is_settled(subject) || (!self.recent.is_empty() && self.recent.contains(subject))
    }

    pub(crate) fn len(&self) -> usize {
        self.placed + self.crowded.len() + self.recent.len()
    }

    /// Adds keys; returns those that are new, in their order.
    pub(crate) fn extend(&mut self, subjects: &[Subject]) -> Vec<Subject> {
        let mut new: Vec<_> =
            subjects.iter().filter(|subject| !self.contains(subject)).copied().collect();
        let mut seen = BTreeSet::new();
        new.retain(|subject| seen.insert(*subject));
        self.recent.append(&mut seen);
        if self.recent.len() > RECENT_MAX {
            self.rebuild();
        }
        if self.filter.has_room_for(self.len()) {
            new.iter().for_each(|subject| self.filter.insert(subject));
        } else {
            self.filter = Filter::of(self.len(), self.iter());
        }
        new
    }

    /// Returns all keys, those of the table first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Subject> {
        let placed = self.slots.iter().filter(|slot| **slot != EMPTY);
        placed.chain(&self.crowded).map(|slot| slot.subject()).chain(self.recent.iter().copied())
    }

    fn rebuild(&mut self) {
        let mut all = std::mem::take(&mut self.slots);
        all.retain(|slot| *slot != EMPTY);
        all.append(&mut self.crowded);
        all.extend(std::mem::take(&mut self.recent).iter().map(Slot::of));
        // Three runs that are sorted: a stable sort only merges them.
        all.sort();
        let places = all.len() + all.len() / 2;
        let mut slots = vec![EMPTY; places + REACH];
        let mut free = 0;
        self.placed = 0;
        for key in all {
            let place = key.place(places);
            let slot = place.max(free);
            if key == EMPTY || slot >= place + REACH {
                self.crowded.push(key);
            } else {
                slots[slot] = key;
                free = slot + 1;
                self.placed += 1;
            }
        }
        self.slots = slots;
    }

    fn is_settled(&self, subject: &Subject) -> bool {
        let Some(places) = self.slots.len().checked_sub(REACH) else { return false };
        let key = Slot::of(subject);
        if key == EMPTY {
            return self.crowded.first() == Some(&key);
        }
        let place = key.place(places);
        for slot in &self.slots[place..place + REACH] {
            if *slot == key {
                return true;
            }
            // A key behind these would have found this slot.
            if *slot == EMPTY || *slot > key {
                return false;
            }
        }
        self.crowded.binary_search(&key).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Keys whose first bytes collide often, so that some are crowded out; those that all have in common, too.
    fn subjects() -> impl Strategy<Value = Vec<Subject>> {
        let chosen = (0_u8..3, 0_u8..3, any::<[u8; 2]>()).prop_map(|(first, second, rest)| {
            let mut key = [0; 32];
            key[..2].copy_from_slice(&[first, second.wrapping_sub(1)]);
            key[29..31].copy_from_slice(&rest);
            Subject(key)
        });
        let subject = prop_oneof![chosen, any::<[u8; 32]>().prop_map(Subject)];
        prop::collection::vec(subject, 0..6_000)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn it_agrees_with_a_plain_set(added in prop::collection::vec(subjects(), 1..4), asked in subjects()) {
            let (mut set, mut model) = (SubjectSet::default(), BTreeSet::new());
            for batch in &added {
                let new = set.extend(batch);
                prop_assert_eq!(new.len(), batch.iter().filter(|key| model.insert(**key)).count());
            }
            prop_assert_eq!(set.len(), model.len());
            for subject in asked.iter().chain(added.iter().flatten()) {
                prop_assert_eq!(set.contains(subject), model.contains(subject));
            }
        }
    }

    #[test]
    fn keys_at_the_ends_and_keys_that_crowd_each_other_are_found() {
        let key = |first: u8, last: u16| {
            let mut key = [first; 32];
            key[30..].copy_from_slice(&last.to_be_bytes());
            Subject(key)
        };
        let mut all: Vec<_> = (0..2_000).flat_map(|last| [key(0, last), key(255, last)]).collect();
        all.push(Subject([255; 32]));
        let mut set = SubjectSet::default();
        assert_eq!(set.extend(&all).len(), all.len());
        assert!(set.crowded.len() > 3_900 && set.crowded.contains(&EMPTY));
        assert_eq!(set.iter().collect::<BTreeSet<_>>(), all.iter().copied().collect());
        assert!(all.iter().all(|subject| set.contains(subject)));
        assert!(!set.contains(&key(0, 2_000)) && !set.contains(&key(1, 1)));
        assert_eq!(set.len(), all.len());
    }
}
