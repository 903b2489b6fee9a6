//! A binary arithmetic coder whose probabilities come from outside, bit by bit.
//!
//! The interval coder follows Witten, Neal and Cleary (1987) with the carry-free renormalization by
//! whole bytes. Encoder and decoder share one trait, so a model is written once for both directions:
//! [`BitCoder::code`] takes the bit that the encoder knows and returns the bit that both know.

/// Probabilities are out of 2^16.
pub(crate) const ONE: u32 = 1 << 16;

/// One direction of the coder.
pub(crate) trait BitCoder {
    /// Codes one bit, which is 1 with a probability of `p1` out of [`ONE`], neither 0 nor all of it.
    ///
    /// An encoder writes `bit` and returns it; a decoder ignores `bit` and returns what it reads.
    fn code(&mut self, bit: bool, p1: u32) -> bool;

    /// Codes the lowest `width` bits of `value`, at most 32, each as likely 0 as 1.
    fn code_plain(&mut self, value: u32, width: u32) -> u32 {
        (0..width).rev().fold(0, |read, at| {
            let bit = self.code(value >> at & 1 == 1, ONE / 2);
            read << 1 | u32::from(bit)
        })
    }
}

/// Writes bits.
pub(crate) struct Encoder {
    low: u32,
    high: u32,
    bytes: Vec<u8>,
}

impl Encoder {
    /// Returns an encoder that appends to `bytes`.
    pub(crate) const fn new(bytes: Vec<u8>) -> Self {
        Self { low: 0, high: u32::MAX, bytes }
    }

    /// Returns the bytes with as few as the last bits need; a decoder reads zeros behind them.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        if self.low > 0 {
            // One byte tells the interval apart unless its ends share it; then a second one does.
            let kept = [0xff00_0000, 0xffff_0000, 0xffff_ff00, u32::MAX];
            let tail = kept.iter().map(|mask| self.high & mask).find(|tail| *tail >= self.low);
            self.bytes.extend(tail.unwrap_or(self.high).to_be_bytes());
        }
        while self.bytes.last() == Some(&0) {
            self.bytes.pop();
        }
        self.bytes
    }
}

impl BitCoder for Encoder {
    fn code(&mut self, bit: bool, p1: u32) -> bool {
        narrow(&mut self.low, &mut self.high, p1, |_| bit);
        while (self.low ^ self.high) >> 24 == 0 {
            self.bytes.push(self.high.to_be_bytes()[0]);
            shift(&mut self.low, &mut self.high);
        }
        bit
    }
}

/// Reads bits. Whatever the bytes are, it goes on for as long as it is asked.
pub(crate) struct Decoder<'a> {
    low: u32,
    high: u32,
    word: u32,
    bytes: std::slice::Iter<'a, u8>,
}

impl<'a> Decoder<'a> {
    /// Returns a decoder of what an encoder wrote.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        let mut decoder = Self { low: 0, high: u32::MAX, word: 0, bytes: bytes.iter() };
        (0..4).for_each(|_| decoder.pull());
        decoder
    }

    fn pull(&mut self) {
        self.word = self.word << 8 | u32::from(self.bytes.next().copied().unwrap_or(0));
    }
}

impl BitCoder for Decoder<'_> {
    fn code(&mut self, _: bool, p1: u32) -> bool {
        let word = self.word;
        let bit = narrow(&mut self.low, &mut self.high, p1, |middle| word <= middle);
        while (self.low ^ self.high) >> 24 == 0 {
            shift(&mut self.low, &mut self.high);
            self.pull();
        }
        bit
    }
}

/// Keeps the part of the interval that belongs to the bit: the lower one for 1.
fn narrow(low: &mut u32, high: &mut u32, p1: u32, bit: impl Fn(u32) -> bool) -> bool {
    // The ends differ whenever a bit begins, so both parts have at least one point.
    let middle = *low + ((u64::from(*high - *low) * u64::from(p1)) >> 16) as u32;
    let bit = bit(middle);
    if bit {
        *high = middle;
    } else {
        *low = middle + 1;
    }
    bit
}

const fn shift(low: &mut u32, high: &mut u32) {
    *low <<= 8;
    *high = *high << 8 | 0xff;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bits_come_back(bits in prop::collection::vec((any::<bool>(), 1..ONE), 0..2000)) {
            let mut encoder = Encoder::new(Vec::new());
            for (bit, p1) in &bits {
                encoder.code(*bit, *p1);
            }
            let bytes = encoder.finish();
            let mut decoder = Decoder::new(&bytes);
            for (bit, p1) in &bits {
                prop_assert_eq!(decoder.code(false, *p1), *bit);
            }
        }

        #[test]
        fn plain_numbers_come_back(values in prop::collection::vec((any::<u32>(), 0_u32..=32), 0..100)) {
            let mut encoder = Encoder::new(Vec::new());
            for (value, width) in &values {
                encoder.code_plain(*value, *width);
            }
            let bytes = encoder.finish();
            let mut decoder = Decoder::new(&bytes);
            for (value, width) in &values {
                let kept = (u64::from(*value) & ((1 << width) - 1)) as u32;
                prop_assert_eq!(decoder.code_plain(0, *width), kept);
            }
        }
    }
}
