//! The part of protobuf that bitswap and IPNS need: varints, length-delimited fields, skipping what is unknown.
//!
//! Written by hand, because a reader that hands out slices of the message allocates nothing for what the
//! message claims, and can stop at a limit in the middle of a list.

/// A field of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// An integer, a boolean or an enum.
    Varint(u64),
    /// Bytes, text or a message.
    Bytes(&'a [u8]),
    /// Four or eight bytes, which nothing here uses.
    Fixed,
}

/// Why bytes are no protobuf. It does not matter to anyone more than that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Reads the fields of a message in their order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Returns the number and the value of the next field.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let (number, kind) = (tag >> 3, tag & 7);
        if number == 0 {
            return Err(Malformed);
        }
        let value = match kind {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            // Groups are long out of use.
            _ => return Err(Malformed),
        };
        Ok(Some((number, value)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let (value, rest) = varint(self.0).ok_or(Malformed)?;
        self.0 = rest;
        Ok(value)
    }
}

/// Returns a varint of at most 64 bits and what is behind it.
pub(crate) fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        let part = u64::from(byte & 0x7f);
        // The tenth byte has room for one bit.
        if index == 9 && part > 1 {
            return None;
        }
        value |= part << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index + 1..)?));
        }
    }
    None
}

pub(crate) fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Appends an integer field; zero is the default and is left out.
pub(crate) fn put_integer(bytes: &mut Vec<u8>, number: u64, value: u64) {
    if value != 0 {
        put_varint(bytes, number << 3);
        put_varint(bytes, value);
    }
}

/// Appends a field of bytes, also when there are none.
pub(crate) fn put_bytes(bytes: &mut Vec<u8>, number: u64, value: &[u8]) {
    put_length(bytes, number, value.len());
    bytes.extend_from_slice(value);
}

/// Appends what is before the `length` bytes of a field.
pub(crate) fn put_length(bytes: &mut Vec<u8>, number: u64, length: usize) {
    put_varint(bytes, number << 3 | 2);
    put_varint(bytes, length as u64);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn varints_beyond_64_bits_and_cut_ones_are_refused() {
        for bad in [&[0x80][..], &[], &[0xff; 10], &[0xff; 11]] {
            assert_eq!(varint(bad), None, "{bad:?}");
        }
        let most = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(varint(&most), Some((u64::MAX, &[][..])));
    }

    #[test]
    fn a_length_beyond_the_message_is_refused() {
        for bad in [&[0x0a, 2, 1][..], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], &[0x0b], &[0x00, 0]] {
            assert_eq!(Reader::new(bad).next(), Err(Malformed), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_varint_is_read_as_written(value: u64, behind: Vec<u8>) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            bytes.extend(&behind);
            prop_assert_eq!(varint(&bytes), Some((value, &behind[..])));
        }
    }
}
