//! Padding: content takes the next size class, so that its own length does not show.

/// The smallest class, in bytes.
const CLASS_BYTES_MIN: usize = 512;

/// Above this, classes no longer double.
const DOUBLING_BYTES_MAX: usize = 1024 * 1024;

/// The largest class: a payload block of 1 MiB with its length, rounded up. Another doubling would not fit a
/// block.
const CLASS_BYTES_MAX: usize = DOUBLING_BYTES_MAX + 1024;

/// Bytes of the length in front of the content.
const LENGTH_BYTES: usize = 4;

/// A length, the content, and zeros up to the class.
pub(super) struct Padded(Vec<u8>);

impl Padded {
    /// Pads content of at most 1 MiB.
    pub(super) fn of(content: &[u8]) -> Self {
        let class =
            class_of(content.len()).expect("a block has been checked to have at most 1 MiB");
        let mut bytes = Vec::with_capacity(class);
        bytes.extend_from_slice(&(content.len() as u32).to_be_bytes());
        bytes.extend_from_slice(content);
        bytes.resize(class, 0);
        Self(bytes)
    }

    /// Takes what was decrypted, or nothing when nobody pads so.
    pub(super) fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        let length = length_of(&bytes)?;
        let is_zero = |byte: &u8| *byte == 0;
        let is_padded = class_of(length) == Some(bytes.len())
            && bytes.get(LENGTH_BYTES + length..)?.iter().all(is_zero);
        is_padded.then_some(Self(bytes))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn into_content(self) -> Option<Vec<u8>> {
        let length = length_of(&self.0)?;
        Some(self.0.get(LENGTH_BYTES..LENGTH_BYTES + length)?.to_vec())
    }
}

fn length_of(bytes: &[u8]) -> Option<usize> {
    let length = bytes.first_chunk::<LENGTH_BYTES>()?;
    usize::try_from(u32::from_be_bytes(*length)).ok()
}

/// Returns the size class of content of this length; none, when it is too long.
pub(super) fn class_of(length: usize) -> Option<usize> {
    let bytes = length.checked_add(LENGTH_BYTES)?;
    match bytes {
        _ if bytes <= CLASS_BYTES_MIN => Some(CLASS_BYTES_MIN),
        _ if bytes <= DOUBLING_BYTES_MAX => Some(bytes.next_power_of_two()),
        _ if bytes <= CLASS_BYTES_MAX => Some(CLASS_BYTES_MAX),
        _ => None,
    }
}
