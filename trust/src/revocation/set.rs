//! The exact set of revoked keys, asked before every federated operation.

use std::collections::BTreeSet;

use super::Subject;

/// Keys of the recent tier that are merged at once, where the large tier is small.
const RECENT_MIN: usize = 1_024;

/// Above so many keys a table says where those with the same first two bytes begin.
const TABLE_FROM: usize = 4_096;

/// An exact set of keys: a sorted array, 32 bytes a key, with a small tree in front for what is new.
///
/// A hash table would need a secret seed against keys that are made to collide; here the worst that chosen
/// keys can do is a binary search over all of them. With keys as they come, those that share their first two
/// bytes are a few, next to each other, so that a look-up touches two or three cache lines.
#[derive(Clone, Debug, Default)]
pub(crate) struct SubjectSet {
    sorted: Vec<Subject>,
    /// Where the keys begin whose first two bytes are the index; one more at the end. Empty for small sets.
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
        let mut new = Vec::new();
        for subject in subjects {
            if !self.contains(subject) {
                self.recent.insert(*subject);
                new.push(*subject);
            }
        }
        if self.recent.len() > RECENT_MIN.max(self.sorted.len() / 64) {
            self.merge();
        }
        new
    }

    fn merge(&mut self) {
        self.sorted.extend(std::mem::take(&mut self.recent));
        self.sorted.sort_unstable();
        self.starts.clear();
        if self.sorted.len() > TABLE_FROM {
            self.starts.reserve_exact((1 << 16) + 1);
            let mut at = 0;
            for prefix in 0..=u16::MAX {
                let ahead = self.sorted.get(at..).unwrap_or_default();
                self.starts.push(at as u32);
                at += ahead.iter().take_while(|subject| prefix_of(subject) == prefix).count();
            }
            self.starts.push(at as u32);
        }
    }

    fn sorted_near(&self, subject: &Subject) -> &[Subject] {
        let prefix = usize::from(prefix_of(subject));
        match (self.starts.get(prefix), self.starts.get(prefix + 1)) {
            (Some(&from), Some(&to)) => &self.sorted[from as usize..to as usize],
            _ => &self.sorted,
        }
    }
}

fn prefix_of(subject: &Subject) -> u16 {
    u16::from_be_bytes([subject.0[0], subject.0[1]])
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
