//! A set of rows, as filters give it.

/// A set of row numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowSet {
    words: Vec<u64>,
    count: usize,
}

impl RowSet {
    /// Returns those of the rows below `count` that pass.
    pub fn from_fn(count: usize, mut passes: impl FnMut(u32) -> bool) -> Self {
        let mut set = Self { words: vec![0; count.div_ceil(64)], count: 0 };
        for row in 0..count as u32 {
            if passes(row) {
                set.insert(row);
            }
        }
        set
    }

    /// Adds a row.
    pub fn insert(&mut self, row: u32) {
        let (word, bit) = (row as usize / 64, 1_u64 << (row % 64));
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.count += usize::from(self.words[word] & bit == 0);
        self.words[word] |= bit;
    }

    /// Takes a row out.
    pub fn remove(&mut self, row: u32) {
        let bit = 1_u64 << (row % 64);
        if let Some(word) = self.words.get_mut(row as usize / 64) {
            self.count -= usize::from(*word & bit != 0);
            *word &= !bit;
        }
    }

    /// Returns whether a row is in the set.
    #[must_use]
    pub fn contains(&self, row: u32) -> bool {
        self.words.get(row as usize / 64).is_some_and(|word| word >> (row % 64) & 1 == 1)
    }

    /// Returns how many rows there are.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Returns the rows, rising.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().zip((0..).step_by(64)).flat_map(|(word, base)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = rest.trailing_zeros();
                rest &= rest.wrapping_sub(1);
                (bit < 64).then_some(base + bit)
            })
        })
    }
}
