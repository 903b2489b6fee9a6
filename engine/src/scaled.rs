//! Half-precision vectors with one shared power of two, so that no value overflows.
//!
//! A half float reaches 65,504 and has 11 significant bits. Channels come in any unit, so a vector is
//! divided by the power of two that brings its largest magnitude to 2^14..2^15. Values down to 2^-29 of
//! the largest keep all bits, smaller ones lose some, and those below 2^-40 become zero.

use half::f16;

/// A vector of half floats times 2^exponent.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Scaled {
    exponent: i8,
    codes: Vec<u16>,
}

impl Scaled {
    /// Returns the nearest representation of finite `values`.
    pub(crate) fn encode(values: impl Iterator<Item = f64> + Clone) -> Self {
        let largest = values.clone().fold(0.0_f64, |max, value| max.max(value.abs()));
        let exponent = exponent_of(largest);
        let factor = power_of_two(-i32::from(exponent));
        let codes = values.map(|value| f16::from_f64(value * factor).to_bits()).collect();
        Self { exponent, codes }
    }

    /// Returns the values.
    pub(crate) fn values(&self) -> impl ExactSizeIterator<Item = f64> + Clone + '_ {
        let factor = power_of_two(i32::from(self.exponent));
        self.codes.iter().map(move |code| f16::from_bits(*code).to_f64() * factor)
    }

    /// Returns the exponent and the codes as little-endian bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.exponent.to_le_bytes()[0]];
        bytes.extend(self.codes.iter().flat_map(|code| code.to_le_bytes()));
        bytes
    }

    /// Returns the vector of `dim` values in `bytes`, when all of them are finite.
    pub(crate) fn from_bytes(bytes: &[u8], dim: usize) -> Option<Self> {
        let (exponent, codes) = bytes.split_first()?;
        if codes.len() != dim * 2 {
            return None;
        }
        let codes = codes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        let scaled = Self { exponent: i8::from_le_bytes([*exponent]), codes: codes.collect() };
        scaled.codes.iter().all(|code| f16::from_bits(*code).is_finite()).then_some(scaled)
    }

    /// Returns whether no value is below zero.
    pub(crate) fn is_non_negative(&self) -> bool {
        self.codes.iter().all(|code| f16::from_bits(*code) >= f16::ZERO)
    }
}

/// Returns the exponent that brings `largest` to 2^14..2^15, within what one byte holds.
fn exponent_of(largest: f64) -> i8 {
    if largest == 0.0 {
        return 0;
    }
    // The exponent's bits of a normal double; doubles made from floats are never subnormal.
    let binary = i32::try_from((largest.to_bits() >> 52) & 0x7ff).unwrap_or(0) - 1023;
    i8::try_from((binary - 14).clamp(-128, 127)).expect("clamped to what a byte holds")
}

/// Returns 2^exponent exactly, for exponents of a byte.
fn power_of_two(exponent: i32) -> f64 {
    let biased = u64::try_from(exponent + 1023).expect("a byte is far from the smallest exponent");
    f64::from_bits(biased << 52)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn extremes_stay_finite() {
        for value in [0.0, f64::from(f32::MAX) * 2.0, 1e-3, f64::from(f32::MIN_POSITIVE)] {
            let scaled = Scaled::encode([value, -value].into_iter());
            let back: Vec<f64> = scaled.values().collect();
            assert!((back[0] - value).abs() <= value * 0.0005, "{value} {back:?}");
            assert_eq!(back[0], -back[1]);
        }
    }

    proptest! {
        #[test]
        fn error_is_below_one_part_in_two_thousand(values in prop::collection::vec(-1e30_f64..1e30, 1..40)) {
            let scaled = Scaled::encode(values.iter().copied());
            let largest = values.iter().fold(0.0_f64, |max, value| max.max(value.abs()));
            for (value, back) in values.iter().zip(scaled.values()) {
                prop_assert!((value - back).abs() <= value.abs() / 2048.0 + largest * 1e-12);
            }
            prop_assert!(Scaled::from_bytes(&scaled.to_bytes(), values.len()) == Some(scaled));
        }
    }
}
