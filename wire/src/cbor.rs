//! Strict canonical DAG-CBOR: one value, one encoding, one decoding.
//!
//! `serde_ipld_dagcbor` writes canonical bytes, but reads a little more than it writes: it takes
//! indefinite-length strings, ignores fields that a type does not know and reads null for an absent
//! one. So [`decode`] first walks the framing (sizes and nesting, before anything is allocated), then
//! decodes, then encodes again and compares. Whatever passes has exactly one byte string, which is
//! what makes a CID or a signature over it mean something.

use serde::{Serialize, de::DeserializeOwned};

use crate::limits::NESTING_MAX;

/// Returns the canonical DAG-CBOR bytes of `value`.
///
/// # Errors
///
/// Fails on what DAG-CBOR cannot say: a float that is not finite, an integer beyond 64 bits, or a map
/// whose keys are not strings.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, EncodeError> {
    serde_ipld_dagcbor::to_vec(value).map_err(|cause| EncodeError(cause.to_string()))
}

/// Returns the value whose canonical encoding is `bytes`, of at most `bytes_max` bytes.
///
/// # Errors
///
/// Fails when `bytes` is too large, nests too deeply, is damaged, is not of type `T`, or is any
/// encoding but the canonical one. Nothing larger than `bytes` is allocated before that is known.
pub fn decode<T: Serialize + DeserializeOwned>(
    bytes: &[u8],
    bytes_max: usize,
) -> Result<T, DecodeError> {
    if bytes.len() > bytes_max {
        return Err(DecodeError::TooLarge { bytes: bytes.len(), bytes_max });
    }
    check_framing(bytes)?;
    let value: T = serde_ipld_dagcbor::from_slice(bytes)
        .map_err(|cause| DecodeError::Mismatch { cause: cause.to_string() })?;
    let again = encode(&value).map_err(|_| DecodeError::NotCanonical)?;
    if again == bytes { Ok(value) } else { Err(DecodeError::NotCanonical) }
}

/// Why a value has no DAG-CBOR encoding.
#[derive(Debug, thiserror::Error)]
#[error("value cannot be written as dag-cbor: {0}")]
pub struct EncodeError(String);

/// Why bytes are not the canonical DAG-CBOR of the expected type. Trying again cannot help.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// There are more bytes than this kind of object may have.
    #[error("{bytes} bytes, but at most {bytes_max} are accepted")]
    TooLarge {
        /// How many there are.
        bytes: usize,
        /// How many there may be.
        bytes_max: usize,
    },
    /// Arrays, maps and tags nest deeper than [`NESTING_MAX`].
    #[error("nested deeper than {NESTING_MAX} levels")]
    TooDeep,
    /// The bytes end inside an item, or an item claims to be longer than what is left.
    #[error("truncated at byte {offset}")]
    Truncated {
        /// Where the item that does not fit begins.
        offset: usize,
    },
    /// There are bytes after the one value.
    #[error("{bytes} bytes after the value")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// The value is well framed, but not of the expected type.
    #[error("not the expected object: {cause}")]
    Mismatch {
        /// What the decoder found.
        cause: String,
    },
    /// The value decodes, but these are not the bytes that it encodes to.
    #[error("not the canonical encoding")]
    NotCanonical,
}

/// Walks all item headers, so that the recursive decoder only sees bounded input.
fn check_framing(bytes: &[u8]) -> Result<(), DecodeError> {
    // How many items each open array, map or tag still waits for.
    let mut open: Vec<u64> = Vec::with_capacity(NESTING_MAX);
    let mut offset = 0;
    loop {
        let item = Header::read(bytes, offset)?;
        offset = item.end;
        if item.children > 0 {
            if open.len() == NESTING_MAX {
                return Err(DecodeError::TooDeep);
            }
            open.push(item.children);
            continue;
        }
        while let Some(left) = open.last_mut() {
            *left -= 1;
            if *left > 0 {
                break;
            }
            open.pop();
        }
        if open.is_empty() {
            break;
        }
    }
    match bytes.len() - offset {
        0 => Ok(()),
        bytes => Err(DecodeError::Trailing { bytes }),
    }
}

/// One CBOR item without its children.
struct Header {
    /// The offset behind the header and, for a string, its content.
    end: usize,
    /// How many items follow that belong to this one.
    children: u64,
}

impl Header {
    fn read(bytes: &[u8], offset: usize) -> Result<Self, DecodeError> {
        let truncated = DecodeError::Truncated { offset };
        let Some(&first) = bytes.get(offset) else { return Err(truncated) };
        let (major, low) = (first >> 5, first & 0x1f);
        let width = match low {
            0..=23 => 0,
            24..=27 => 1_usize << (low - 24),
            // 28 to 30 are reserved; 31 opens an indefinite length, which DAG-CBOR does not have.
            _ => return Err(DecodeError::NotCanonical),
        };
        let start = offset + 1;
        let Some(argument) = bytes.get(start..start + width) else { return Err(truncated) };
        let value = match width {
            0 => u64::from(low),
            _ => argument.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte)),
        };
        let body = start + width;
        let left = (bytes.len() - body) as u64;
        let (content, children) = match major {
            2 | 3 => (value, 0),
            4 => (0, value),
            5 => (0, value.checked_mul(2).ok_or(DecodeError::Truncated { offset })?),
            6 => (0, 1),
            _ => (0, 0),
        };
        // Every child takes at least one byte, so a count beyond what is left is a lie.
        if content > left || children > left {
            return Err(truncated);
        }
        let content = usize::try_from(content).map_err(|_| truncated)?;
        Ok(Self { end: body + content, children })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Clone, Serialize, Deserialize)]
    struct Sample {
        name: String,
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
        numbers: Vec<i64>,
        ratio: f64,
        note: Option<String>,
    }

    fn samples() -> impl Strategy<Value = Sample> {
        let finite = any::<f64>().prop_filter("finite", |x| x.is_finite());
        (".*", any::<Vec<u8>>(), any::<Vec<i64>>(), finite, any::<Option<String>>()).prop_map(
            |(name, bytes, numbers, ratio, note)| Sample { name, bytes, numbers, ratio, note },
        )
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_the_same_value(sample in samples()) {
            let bytes = encode(&sample).unwrap();
            prop_assert_eq!(decode::<Sample>(&bytes, bytes.len()).unwrap(), sample);
        }

        #[test]
        fn what_decodes_has_exactly_these_bytes(bytes in any::<Vec<u8>>()) {
            if let Ok(sample) = decode::<Sample>(&bytes, 4096) {
                prop_assert_eq!(encode(&sample).unwrap(), bytes);
            }
        }

        #[test]
        fn one_changed_byte_never_panics_or_decodes_to_other_bytes(
            sample in samples(), at in any::<prop::sample::Index>(), flip in 1u8..,
        ) {
            let mut bytes = encode(&sample).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            if let Ok(other) = decode::<Sample>(&bytes, bytes.len()) {
                prop_assert_eq!(encode(&other).unwrap(), bytes);
            }
        }

        #[test]
        fn every_truncation_is_refused(sample in samples(), at in any::<prop::sample::Index>()) {
            let bytes = encode(&sample).unwrap();
            prop_assert!(decode::<Sample>(&bytes[..at.index(bytes.len())], 1 << 20).is_err());
        }
    }

    #[test]
    fn other_encodings_of_a_value_are_refused() {
        // 1 as one byte, and the same number in two, three and nine.
        assert_eq!(decode::<u8>(&[0x01], 9), Ok(1));
        for long in [&[0x18, 1][..], &[0x19, 0, 1], &[0x1b, 0, 0, 0, 0, 0, 0, 0, 1]] {
            assert!(decode::<u8>(long, 9).is_err(), "{long:02x?}");
        }
        // An indefinite-length text string "a", and an indefinite-length array.
        assert_eq!(decode::<String>(&[0x7f, 0x61, 0x61, 0xff], 9), Err(DecodeError::NotCanonical));
        assert_eq!(decode::<Vec<u8>>(&[0x9f, 0xff], 9), Err(DecodeError::NotCanonical));
        // Half precision, infinity and NaN are not DAG-CBOR.
        assert!(decode::<f64>(&[0xf9, 0x3c, 0x00], 9).is_err());
        assert!(decode::<f64>(&[0xfb, 0x7f, 0xf0, 0, 0, 0, 0, 0, 0], 9).is_err());
        assert!(encode(&f64::NAN).is_err());
    }

    #[test]
    fn unsorted_duplicate_and_unknown_keys_are_refused() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Pair {
            a: u8,
            b: u8,
        }
        let canonical = [0xa2, 0x61, b'a', 1, 0x61, b'b', 2];
        assert_eq!(decode::<Pair>(&canonical, 64), Ok(Pair { a: 1, b: 2 }));
        let unsorted = [0xa2, 0x61, b'b', 2, 0x61, b'a', 1];
        let duplicate = [0xa3, 0x61, b'a', 1, 0x61, b'a', 1, 0x61, b'b', 2];
        let unknown = [0xa3, 0x61, b'a', 1, 0x61, b'b', 2, 0x61, b'c', 3];
        for bytes in [&unsorted[..], &duplicate, &unknown] {
            assert!(decode::<Pair>(bytes, 64).is_err(), "{bytes:02x?}");
        }
    }

    #[test]
    fn null_does_not_stand_for_an_absent_field() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Sparse {
            #[serde(skip_serializing_if = "Option::is_none", default)]
            a: Option<u8>,
        }
        assert_eq!(decode::<Sparse>(&[0xa0], 9), Ok(Sparse { a: None }));
        assert_eq!(decode::<Sparse>(&[0xa1, 0x61, b'a', 0xf6], 9), Err(DecodeError::NotCanonical));
    }

    #[test]
    fn lengths_beyond_the_input_are_refused_before_allocation() {
        for claim in [0x5b_u8, 0x7b, 0x9b, 0xbb] {
            let mut bytes = vec![claim];
            bytes.extend_from_slice(&u64::MAX.to_be_bytes());
            assert_eq!(
                decode::<serde_bytes::ByteBuf>(&bytes, 64),
                Err(DecodeError::Truncated { offset: 0 })
            );
        }
        assert_eq!(
            decode::<Vec<u8>>(&[0x80; 9], 8),
            Err(DecodeError::TooLarge { bytes: 9, bytes_max: 8 })
        );
    }

    #[test]
    fn nesting_is_bounded() {
        let bomb = vec![0x81; 1 << 20];
        assert_eq!(decode::<Vec<u8>>(&bomb, 1 << 20), Err(DecodeError::TooDeep));
        assert_eq!(decode::<u8>(&[1, 1], 9), Err(DecodeError::Trailing { bytes: 1 }));
        assert_eq!(decode::<u8>(&[], 9), Err(DecodeError::Truncated { offset: 0 }));
    }
}
