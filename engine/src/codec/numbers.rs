//! Codes single numbers whose size is not known: how many bits they have, which adapts, and the bits.

use super::{coder::BitCoder, mixing::Slot};

/// Nodes of the tree of bit counts, 0 to 64.
const WIDTH_NODES: usize = 128;

/// Statistics of the sizes of a few kinds of numbers.
pub(crate) struct Numbers {
    slots: Vec<Slot>,
}

impl Numbers {
    pub(crate) fn new(kinds: usize) -> Self {
        Self { slots: vec![Slot::FRESH; kinds * WIDTH_NODES] }
    }

    /// Codes a number of one kind; any bits decode to some number.
    pub(crate) fn code(&mut self, coder: &mut impl BitCoder, kind: usize, value: u64) -> u64 {
        let width = u64::BITS - value.leading_zeros();
        let mut node = 1;
        for at in (0..7).rev() {
            let bit = self.slots[kind * WIDTH_NODES + node].code(coder, width >> at & 1 == 1);
            node = node << 1 | usize::from(bit);
        }
        let width = (node - WIDTH_NODES).min(64) as u32;
        let Some(below) = width.checked_sub(1) else { return 0 };
        let (high, low) = (below.saturating_sub(32), below.min(32));
        let upper = coder.code_plain((value >> 32) as u32, high);
        let lower = coder.code_plain(value as u32, low);
        1 << below | u64::from(upper) << 32 | u64::from(lower)
    }

    /// As [`Self::code`], for numbers of either sign.
    pub(crate) fn code_signed(
        &mut self,
        coder: &mut impl BitCoder,
        kind: usize,
        value: i64,
    ) -> i64 {
        let folded = self.code(coder, kind, ((value << 1) ^ (value >> 63)).cast_unsigned());
        (folded >> 1).cast_signed() ^ -((folded & 1).cast_signed())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::coder::{Decoder, Encoder},
        *,
    };

    proptest! {
        #[test]
        fn numbers_come_back(values in prop::collection::vec((any::<i64>(), 0_u32..64), 1..50)) {
            let values: Vec<i64> = values.into_iter().map(|(value, shift)| value >> shift).collect();
            let mut encoder = Encoder::new(Vec::new());
            let mut numbers = Numbers::new(1);
            for value in [i64::MIN, i64::MAX, 0].iter().chain(&values) {
                numbers.code_signed(&mut encoder, 0, *value);
            }
            let bytes = encoder.finish();
            let mut decoder = Decoder::new(&bytes);
            let mut numbers = Numbers::new(1);
            for value in [i64::MIN, i64::MAX, 0].iter().chain(&values) {
                prop_assert_eq!(numbers.code_signed(&mut decoder, 0, 0), *value);
            }
        }
    }
}
