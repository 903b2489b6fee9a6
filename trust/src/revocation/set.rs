//! The exact set of revoked keys, asked before every federated operation.

use std::collections::BTreeSet;

use super::Subject;

/// Keys of the recent tier that are merged at once, where the large tier is small.
const RECENT_MIN: usize = 1_024;

/// Above so many keys a table says where those with the same first bits begin.
const TABLE_FROM: usize = 4_096;

/// An exact set of keys: a sorted array, 32 bytes a key, with a small tree in front for what is new.
///
/// A hash table would need a secret seed against keys that are made to collide; here the worst that chosen
/// keys can do is a binary search over all of them. A table by the first bits, as many as make about one key
/// an entry, takes the search to the place: two cache misses for most keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct SubjectSet {
    sorted: Vec<Subject>,
    /// Where the keys begin whose first bits are the index; one more at the end. Empty for small sets.
    starts: Vec<u32>,
    recent: BTreeSet<Subject>,
}

impl SubjectSet {
    pub(crate) fn contains(&self, subject: &Subject) -> bool {
        self.sorted_near(subject).binary_search(subject).is_ok()
            || (!self.recent.is_empty() && self.recent.contains(subject))
    }

    pub(crate) fn len(&self) -> usize {
        self.sorted.len() + self.recent.len()
    }

    /// Adds keys; returns those that are new, in their order.
    pub(crate) fn extend(&mut self, subjects: &[Subject]) -> Vec<Subject> {
        let mut new: Vec<_> =
            subjects.iter().filter(|subject| !self.contains(subject)).copied().collect();
        let mut seen = BTreeSet::new();
        new.retain(|subject| seen.insert(*subject));
        self.recent.append(&mut seen);
        if self.recent.len() > RECENT_MIN.max(self.sorted.len() / 64) {
            self.merge();
        }
        new
    }

    fn merge(&mut self) {
        self.sorted.extend(std::mem::take(&mut self.recent));
        // Two runs that are sorted: a stable sort only merges them.
        self.sorted.sort();
        self.starts.clear();
        if self.sorted.len() > TABLE_FROM {
            let entries = self.sorted.len().next_power_of_two();
            self.starts.reserve_exact(entries + 1);
            for (at, subject) in self.sorted.iter().enumerate() {
                let entry = entry_of(subject, entries);
                while self.starts.len() <= entry {
                    self.starts.push(at as u32);
                }
            }
            self.starts.resize(entries + 1, self.sorted.len() as u32);
        }
    }

    fn sorted_near(&self, subject: &Subject) -> &[Subject] {
        let Some(entries) = self.starts.len().checked_sub(1) else { return &self.sorted };
        let entry = entry_of(subject, entries);
        &self.sorted[self.starts[entry] as usize..self.starts[entry + 1] as usize]
    }
}

/// Returns the entry of a table, of a power of two of them, for a key: its first bits.
fn entry_of(subject: &Subject, entries: usize) -> usize {
    let [a, b, c, d, ..] = subject.0;
    ((u64::from(u32::from_be_bytes([a, b, c, d])) * entries as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Keys whose first bytes collide often.
    fn subjects() -> impl Strategy<Value = Vec<Subject>> {
        let subject = (0_u8..3, 0_u8..3, any::<[u8; 2]>()).prop_map(|(first, second, rest)| {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&[first, second.wrapping_sub(1), rest[0], rest[1]]);
            Subject(key)
        });
        prop::collection::vec(subject, 0..8_000)
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
}
