//! What is searched for, in every form in which it could stand somewhere.

use std::collections::{BTreeMap, BTreeSet};

/// Bytes that a needle has at least: fewer would be found by chance.
const NEEDLE_BYTES_MIN: usize = 6;

/// Bytes of each piece of payload that is searched for.
const PAYLOAD_PIECE_BYTES: usize = 24;

/// Needles, with what they are.
#[derive(Default)]
pub(crate) struct Secrets(BTreeMap<Vec<u8>, String>);

impl Secrets {
    /// Adds a name as it is.
    pub(crate) fn add_name(&mut self, name: &str) {
        self.add(format!("name {name}"), name.as_bytes().to_vec());
    }

    /// Adds a vector: as floats of both sizes and orders, and each value as text.
    pub(crate) fn add_vector(&mut self, vector: &[f32]) {
        let what = |form: &str| format!("{form} of {vector:?}");
        let flat = |bytes: fn(f32) -> Vec<u8>| vector.iter().copied().flat_map(bytes).collect();
        self.add(what("f32 little endian"), flat(|value| value.to_le_bytes().to_vec()));
        self.add(what("f32 big endian"), flat(|value| value.to_be_bytes().to_vec()));
        self.add(what("f64 little endian"), flat(|value| f64::from(value).to_le_bytes().to_vec()));
        self.add(what("f64 big endian"), flat(|value| f64::from(value).to_be_bytes().to_vec()));
        self.add(what("f16 little endian"), flat(|value| half(value).to_le_bytes().to_vec()));
        self.add(what("f16 big endian"), flat(|value| half(value).to_be_bytes().to_vec()));
        for value in vector {
            let text = value.to_string();
            if text.len() > NEEDLE_BYTES_MIN {
                self.add(format!("text of {text}"), text.into_bytes());
            }
        }
    }

    /// Adds payload, in pieces.
    pub(crate) fn add_payload(&mut self, block: &[u8]) {
        for (number, piece) in block.chunks_exact(PAYLOAD_PIECE_BYTES).enumerate() {
            self.add(format!("payload piece {number}"), piece.to_vec());
        }
    }

    fn add(&mut self, what: String, needle: Vec<u8>) {
        assert!(needle.len() >= NEEDLE_BYTES_MIN, "{what} is too short to be told from chance");
        self.0.entry(needle).or_insert(what);
    }

    /// Returns which of them stand in these bytes.
    pub(crate) fn found_in(&self, bytes: &[u8]) -> Vec<String> {
        // By what they begin with, so that the bytes are walked once.
        let mut by_start: BTreeMap<&[u8], Vec<&[u8]>> = BTreeMap::new();
        for needle in self.0.keys() {
            by_start.entry(&needle[..NEEDLE_BYTES_MIN]).or_default().push(needle);
        }
        let mut found: BTreeSet<&[u8]> = BTreeSet::new();
        for (at, start) in bytes.windows(NEEDLE_BYTES_MIN).enumerate() {
            let candidates = by_start.get(start).into_iter().flatten();
            found.extend(candidates.filter(|needle| bytes[at..].starts_with(needle)).copied());
        }
        found.into_iter().map(|needle| self.0[needle].clone()).collect()
    }
}

/// Returns the nearest half float of a value in (0, 65504): what these vectors are made of.
fn half(value: f32) -> u16 {
    assert!(value > 0.0 && value < 2.0);
    let exponent = value.log2().floor();
    let mantissa = ((value / exponent.exp2() - 1.0) * 1024.0).round() as u16;
    (((exponent as i16 + 15) as u16) << 10) + mantissa
}

#[test]
fn every_form_of_a_secret_is_found() {
    let vector = [0.217_339_f32, 0.013_717, 1.5];
    assert_eq!((half(1.0), half(1.5), half(0.1)), (0x3c00, 0x3e00, 0x2e66));
    let mut secrets = Secrets::default();
    secrets.add_vector(&vector);
    let form =
        |bytes: Vec<u8>| secrets.found_in(&[b"before".as_slice(), &bytes, b"after"].concat());
    let flat = |bytes: fn(f32) -> Vec<u8>| form(vector.iter().copied().flat_map(bytes).collect());
    for (found, what) in [
        (flat(|value| value.to_le_bytes().to_vec()), "f32 little endian"),
        (flat(|value| value.to_be_bytes().to_vec()), "f32 big endian"),
        (flat(|value| f64::from(value).to_le_bytes().to_vec()), "f64 little endian"),
        (flat(|value| f64::from(value).to_be_bytes().to_vec()), "f64 big endian"),
        (flat(|value| half(value).to_le_bytes().to_vec()), "f16 little endian"),
        (flat(|value| half(value).to_be_bytes().to_vec()), "f16 big endian"),
        (form(b"[0.217339,".to_vec()), "text of 0.217339"),
    ] {
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(what), "{found:?}");
    }
    assert!(form(b"0.2173".to_vec()).is_empty());
}
