//! What rules out that a key is revoked, without reading the table of keys.
//!
//! A Bloom filter (Bloom, 1970) whose bits for a key lie in one word (Putze, Sanders and Singler, "Cache-, Hash- and
//! Space-Efficient Bloom Filters", 2007), so that asking it reads memory once. Keys are spread as hashes are, so their
//! bytes are their hashes. Whoever makes keys of which all set the same bits gains that those are looked up.

use super::Subject;

/// Bits for each key: with four of them set, one key in about 200 that is not there is not ruled out.
const BITS_PER_KEY: usize = 16;

/// Fewest keys that there is room for, in 64 bytes.
const KEYS_MIN: usize = 32;

/// Bits of a word.
const WORD_BITS: usize = 64;

/// The filter; without room it contains nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    words: Vec<u64>,
}

impl Filter {
    /// Returns the filter of these keys, with room for as many again.
    pub(super) fn of(count: usize, keys: impl Iterator<Item = Subject>) -> Self {
        let room = (2 * count).max(KEYS_MIN);
        let mut filter = Self { words: vec![0; (room * BITS_PER_KEY).div_ceil(WORD_BITS)] };
        keys.for_each(|key| filter.insert(&key));
        filter
    }

    /// Returns whether so many keys leave it as good as it should be.
    pub(super) fn has_room_for(&self, keys: usize) -> bool {
        keys * BITS_PER_KEY <= self.words.len() * WORD_BITS
    }

    pub(super) fn insert(&mut self, key: &Subject) {
        let (word, bits) = self.place_of(key);
        if let Some(word) = self.words.get_mut(word) {
            *word |= bits;
        }
    }

    /// Returns false when the key was never inserted.
    pub(super) fn may_contain(&self, key: &Subject) -> bool {
        let (word, bits) = self.place_of(key);
        self.words.get(word).is_some_and(|word| word & bits == bits)
    }

    /// Returns the word of a key, and its bits. The first bytes of a key name its place in the table; these are others.
    fn place_of(&self, key: &Subject) -> (usize, u64) {
        let [_, _, _, _, _, _, _, _, a, b, c, d, e, f, g, h, i, j, k, l, ..] = key.0;
        let word = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let word = ((u128::from(word) * self.words.len() as u128) >> 64) as usize;
        let bits = [i, j, k, l].iter().fold(0, |bits, byte| bits | 1 << (byte & 63));
        (word, bits)
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    fn key(number: u32) -> Subject {
        Subject(Sha256::digest(number.to_be_bytes()).into())
    }

    #[test]
    fn it_rules_out_nothing_that_is_there_and_nearly_all_that_is_not() {
        let keys: Vec<_> = (0..10_000).map(key).collect();
        let mut filter = Filter::of(5_000, keys[..5_000].iter().copied());
        assert!(filter.has_room_for(10_000) && !filter.has_room_for(10_001));
        keys[5_000..].iter().for_each(|key| filter.insert(key));
        assert!(keys.iter().all(|key| filter.may_contain(key)));
        let passed = (10_000..110_000).filter(|number| filter.may_contain(&key(*number))).count();
        assert!((100..1_000).contains(&passed), "{passed} of 100,000");
    }

    #[test]
    fn one_without_room_contains_nothing() {
        let filter = Filter::default();
        assert!(!filter.may_contain(&key(1)) && filter.has_room_for(0) && !filter.has_room_for(1));
    }
}
