//! DAG-CBOR of any shape: its links, a path through it, and its values.
//!
//! The objects of Dunlin are decoded strictly, into types, by `dunlin_wire::cbor`. This walks what others
//! made, item by item and without building anything, so that a block of two million empty arrays costs no
//! more memory than its two megabytes.

use dunlin_wire::Cid;

use super::pb::NodeError;

/// The tag of a link.
const TAG_LINK: u64 = 42;

/// One item without its children.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Item<'a> {
    Unsigned(u64),
    /// `-1 - n`.
    Negative(u64),
    Bytes(&'a [u8]),
    Text(&'a str),
    /// So many values follow.
    Array(u64),
    /// So many pairs of a text and a value follow.
    Map(u64),
    Link(Cid),
    Bool(bool),
    Null,
    Float(f64),
}

/// Where a path leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follow {
    /// To another block, after this many segments.
    Link { cid: Cid, used: usize },
    /// To a value in this block.
    Inside,
    /// Nowhere.
    Missing,
}

/// Returns all links, in order.
pub(crate) fn links(bytes: &[u8]) -> Result<Vec<Cid>, NodeError> {
    let mut cursor = Cursor(bytes);
    let mut links = Vec::new();
    cursor.skip(|item| {
        if let Item::Link(cid) = item {
            links.push(cid);
        }
    })?;
    if cursor.0.is_empty() { Ok(links) } else { Err(NodeError::Malformed) }
}

/// Follows a path as far as this block goes.
pub(crate) fn follow(bytes: &[u8], path: &[String]) -> Result<Follow, NodeError> {
    let mut cursor = Cursor(bytes);
    for (used, segment) in path.iter().enumerate() {
        match cursor.next()? {
            Item::Link(cid) => return Ok(Follow::Link { cid, used }),
            Item::Map(pairs) => {
                if !cursor.find_key(pairs, segment)? {
                    return Ok(Follow::Missing);
                }
            }
            Item::Array(count) => {
                let Some(index) = segment.parse().ok().filter(|index: &u64| *index < count) else {
                    return Ok(Follow::Missing);
                };
                for _ in 0..index {
                    cursor.skip(drop)?;
                }
            }
            _ => return Ok(Follow::Missing),
        }
    }
    Ok(match cursor.next()? {
        Item::Link(cid) if !path.is_empty() => Follow::Link { cid, used: path.len() },
        _ => Follow::Inside,
    })
}

/// A place in a block.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

impl<'a> Cursor<'a> {
    /// Takes the next item, without its children.
    pub(crate) fn next(&mut self) -> Result<Item<'a>, NodeError> {
        let (&first, rest) = self.0.split_first().ok_or(NodeError::Malformed)?;
        self.0 = rest;
        let low = first & 0x1f;
        if first >> 5 == 7 {
            return match low {
                20 => Ok(Item::Bool(false)),
                21 => Ok(Item::Bool(true)),
                22 => Ok(Item::Null),
                27 => {
                    let bits = self.take(8)?.try_into().map_err(|_| NodeError::Malformed)?;
                    Ok(Item::Float(f64::from_be_bytes(bits)))
                }
                _ => Err(NodeError::Malformed),
            };
        }
        let value = match low {
            0..=23 => u64::from(low),
            24..=27 => self
                .take(1 << (low - 24))?
                .iter()
                .fold(0, |value, &byte| value << 8 | u64::from(byte)),
            _ => return Err(NodeError::Malformed),
        };
        // A child takes at least a byte, so that a count beyond what is left is a lie.
        let left = self.0.len() as u64;
        match first >> 5 {
            0 => Ok(Item::Unsigned(value)),
            1 => Ok(Item::Negative(value)),
            2 => Ok(Item::Bytes(self.take(value)?)),
            3 => {
                let text = std::str::from_utf8(self.take(value)?);
                text.map(Item::Text).map_err(|_| NodeError::Malformed)
            }
            4 if value <= left => Ok(Item::Array(value)),
            5 if value <= left / 2 => Ok(Item::Map(value)),
            6 if value == TAG_LINK => match self.next_bytes()?.split_first() {
                Some((0, cid)) => {
                    Cid::try_from(cid).map(Item::Link).map_err(|_| NodeError::Malformed)
                }
                _ => Err(NodeError::Malformed),
            },
            _ => Err(NodeError::Malformed),
        }
    }

    /// Takes one value with all its children; shows every item to `visit`.
    pub(crate) fn skip(&mut self, mut visit: impl FnMut(Item<'a>)) -> Result<(), NodeError> {
        // Counts are bounded by the bytes left, which shrink with every item: no sum overflows.
        let mut expected = 1_u64;
        while expected > 0 {
            let item = self.next()?;
            expected -= 1;
            match item {
                Item::Array(count) => expected += count,
                Item::Map(pairs) => expected += 2 * pairs,
                _ => {}
            }
            visit(item);
        }
        Ok(())
    }

    /// Stands before the value of `key` afterwards, when it is one of the next `pairs`.
    fn find_key(&mut self, pairs: u64, key: &str) -> Result<bool, NodeError> {
        for _ in 0..pairs {
            match self.next()? {
                Item::Text(text) if text == key => return Ok(true),
                Item::Text(_) => self.skip(drop)?,
                _ => return Err(NodeError::Malformed),
            }
        }
        Ok(false)
    }

    /// The content of a link is a byte string, and nothing nests here: a tag of a tag would recurse.
    fn next_bytes(&mut self) -> Result<&'a [u8], NodeError> {
        let &[first, ..] = self.0 else { return Err(NodeError::Malformed) };
        if first >> 5 != 2 {
            return Err(NodeError::Malformed);
        }
        match self.next()? {
            Item::Bytes(bytes) => Ok(bytes),
            _ => Err(NodeError::Malformed),
        }
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], NodeError> {
        let length = usize::try_from(length).map_err(|_| NodeError::Malformed)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(NodeError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use dunlin_wire::{
        block::{Codec, cid_of},
        cbor,
    };
    use proptest::prelude::*;

    use super::*;

    fn path(text: &str) -> Vec<String> {
        text.split('/').map(str::to_owned).collect()
    }

    #[test]
    fn paths_lead_through_maps_and_lists_to_links() {
        let cid = cid_of(Codec::Raw, b"a");
        let object = BTreeMap::from([("files", vec![("one", cid)]), ("none", Vec::new())]);
        let bytes = cbor::encode(&object).unwrap();
        assert_eq!(links(&bytes), Ok(vec![cid]));
        let follow = |text| super::follow(&bytes, &path(text)).unwrap();
        assert_eq!(follow("files/0/1"), Follow::Link { cid, used: 3 });
        assert_eq!(follow("files/0/1/more"), Follow::Link { cid, used: 3 });
        assert_eq!(follow("files/0/0"), Follow::Inside);
        for missing in ["files/1", "files/0/1x", "none/0", "nothing", "files/0/0/x"] {
            assert_eq!(follow(missing), Follow::Missing, "{missing}");
        }
    }

    #[test]
    fn lies_about_lengths_and_nests_without_end_are_refused() {
        for claim in [0x5b_u8, 0x7b, 0x9b, 0xbb] {
            let bytes = [&[claim][..], &u64::MAX.to_be_bytes()].concat();
            assert_eq!(links(&bytes), Err(NodeError::Malformed));
        }
        // A million brackets that are never closed, and tags of tags.
        assert_eq!(links(&vec![0x81; 1 << 20]), Err(NodeError::Malformed));
        assert_eq!(links(&[0xd8, 0x2a].repeat(1 << 20)), Err(NodeError::Malformed));
        // The same closed costs no memory and no stack.
        assert_eq!(links(&[vec![0x81; 1 << 20], vec![0]].concat()), Ok(Vec::new()));
        assert_eq!(links(&[0, 0]), Err(NodeError::Malformed));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in any::<Vec<u8>>()) {
            links(&bytes).ok();
            super::follow(&bytes, &path("a/0/b")).ok();
        }
    }
}
