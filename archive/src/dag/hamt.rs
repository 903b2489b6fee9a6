//! HAMT directories: which child of a node a name is under.
//!
//! A name is hashed with the first half of MurmurHash3 x64 128 (Appleby 2011, public domain; seed 0), and
//! each level takes as many bits from the top as its fanout has. A link begins with its index as hex
//! digits; behind them stands the name of an entry, or nothing, when the link leads to the next level.

use super::pb::{Node, PbLink};

/// The bits of a name's hash that are not used yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bits {
    hash: u64,
    left: u32,
}

impl Bits {
    pub(super) fn of(name: &[u8]) -> Self {
        Self { hash: murmur3(name), left: u64::BITS }
    }

    /// Takes the index at the next level; nothing, when the hash is used up.
    pub(super) fn next(&mut self, fanout: u64) -> Option<u64> {
        let width = fanout.trailing_zeros();
        if width == 0 || width > self.left {
            return None;
        }
        self.left -= width;
        Some((self.hash >> self.left) & (fanout - 1))
    }
}

/// Returns how many hex digits stand before the names in a node of this fanout.
pub(super) fn prefix_length(fanout: u64) -> usize {
    // The digits of the largest index.
    format!("{:X}", fanout - 1).len()
}

/// What a name leads to in a node.
pub(super) enum Step<'a, 'b> {
    Entry(&'b PbLink<'a>),
    Deeper(&'b PbLink<'a>),
}

/// Returns where `name` leads from `node`, if anywhere.
pub(super) fn step<'a, 'b>(
    node: &'b Node<'a>,
    fanout: u64,
    bits: &mut Bits,
    name: &[u8],
) -> Option<Step<'a, 'b>> {
    let length = prefix_length(fanout);
    let prefix = format!("{:0length$X}", bits.next(fanout)?);
    let link = node.links.iter().find(|link| link.name.starts_with(prefix.as_bytes()))?;
    match &link.name[length..] {
        [] => Some(Step::Deeper(link)),
        found if found == name => Some(Step::Entry(link)),
        _ => None,
    }
}

/// Returns the first 64 bits of MurmurHash3 x64 128.
fn murmur3(bytes: &[u8]) -> u64 {
    const C1: u64 = 0x87c3_7b91_1142_53d5;
    const C2: u64 = 0x4cf5_ad43_2745_937f;
    let word =
        |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |word, &byte| word << 8 | u64::from(byte));
    let mix1 = |k: u64| k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2);
    let mix2 = |k: u64| k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1);
    let (mut h1, mut h2) = (0_u64, 0_u64);
    let mut blocks = bytes.chunks_exact(16);
    for block in &mut blocks {
        h1 ^= mix1(word(&block[..8]));
        h1 = h1.rotate_left(27).wrapping_add(h2).wrapping_mul(5).wrapping_add(0x52dc_e729);
        h2 ^= mix2(word(&block[8..]));
        h2 = h2.rotate_left(31).wrapping_add(h1).wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    let tail = blocks.remainder();
    let (low, high) = tail.split_at(tail.len().min(8));
    // Mixing zero gives zero, so an absent half changes nothing.
    h2 ^= mix2(word(high));
    h1 ^= mix1(word(low));
    h1 ^= bytes.len() as u64;
    h2 ^= bytes.len() as u64;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    finalize(h1).wrapping_add(finalize(h2))
}

fn finalize(mut k: u64) -> u64 {
    k ^= k >> 33;
    k = k.wrapping_mul(0xff51_afd7_ed55_8ccd);
    k ^= k >> 33;
    k = k.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    k ^ (k >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_murmur3() {
        // Values of the reference implementation.
        assert_eq!(murmur3(b""), 0);
        assert_eq!(murmur3(b"hello"), 0xcbd8_a7b3_41bd_9b02);
        assert_eq!(murmur3(b"hello, world"), 0x342f_ac62_3a5e_bc8e);
        assert_eq!(murmur3(b"The quick brown fox jumps over the lazy dog."), 0xcd99_481f_9ee9_02c9);
    }

    #[test]
    fn a_hash_is_used_up_in_eight_levels_of_256() {
        let mut bits = Bits::of(b"hello");
        let indexes: Vec<_> = std::iter::from_fn(|| bits.next(256)).collect();
        assert_eq!(indexes, [0xcb, 0xd8, 0xa7, 0xb3, 0x41, 0xbd, 0x9b, 0x02]);
        assert_eq!((prefix_length(256), prefix_length(16), prefix_length(1024)), (2, 1, 3));
    }
}
