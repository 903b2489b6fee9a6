//! Protocol buffers by hand, as far as junk needs them.

/// Bytes of a message that is being made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proto(Vec<u8>);

impl Proto {
    /// Adds a field of bytes, text, or a message.
    pub(crate) fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        varint(field << 3 | 2, &mut self.0);
        varint(bytes.len() as u64, &mut self.0);
        self.0.extend_from_slice(bytes);
        self
    }

    /// Adds a number.
    pub(crate) fn number(mut self, field: u64, number: u64) -> Self {
        varint(field << 3, &mut self.0);
        varint(number, &mut self.0);
        self
    }

    /// Adds a message.
    pub(crate) fn message(self, field: u64, message: Self) -> Self {
        self.bytes(field, &message.0)
    }

    /// Returns the message behind its length, as streams carry it.
    pub(crate) fn framed(self) -> Vec<u8> {
        let mut framed = Vec::new();
        varint(self.0.len() as u64, &mut framed);
        framed.extend(self.0);
        framed
    }
}

/// Appends a number in 7 bits each.
pub(crate) fn varint(mut number: u64, to: &mut Vec<u8>) {
    while number >= 0x80 {
        to.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

/// Returns the fields of a message that hold bytes, with their numbers. It ends where the message makes no sense.
pub(crate) fn fields(mut message: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    std::iter::from_fn(move || {
        loop {
            let tag = take_varint(&mut message)?;
            let number = take_varint(&mut message)?;
            match tag & 7 {
                0 => {}
                2 => {
                    let (value, rest) = message.split_at_checked(usize::try_from(number).ok()?)?;
                    message = rest;
                    return Some((tag >> 3, value));
                }
                _ => return None,
            }
        }
    })
}

/// Takes a number off the front.
fn take_varint(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_those_of_the_encoding() {
        let inner = Proto::default().number(1, 300);
        let message = Proto::default().bytes(2, b"testing").message(3, inner).framed();
        let expected = b"\x0e\x12\x07testing\x1a\x03\x08\xac\x02";
        assert_eq!(message, expected);
        let read: Vec<_> = fields(&message[1..]).collect();
        assert_eq!(read, [(2, &b"testing"[..]), (3, b"\x08\xac\x02")]);
        assert_eq!(fields(&message[..5]).count(), 0);
    }
}
