//! `dag-pb` nodes and the UnixFS data in them.
//!
//! Two small Protocol Buffers messages each; the specifications of DAG-PB and UnixFS name the fields.
//! Unknown fields are refused in a node, where canonical bytes have none, and passed over in UnixFS data,
//! which has gained some over time.

use dunlin_wire::Cid;

/// Most children of a part of a HAMT directory; Kubo makes 256.
const FANOUT_MAX: u64 = 1024;

/// A `dag-pb` node.
#[derive(Clone, PartialEq, Eq)]
pub struct Node<'a> {
    /// In the order in which they stand.
    pub links: Vec<PbLink<'a>>,
    /// What a UnixFS message is in.
    pub data: Option<&'a [u8]>,
}

/// A link of a `dag-pb` node.
#[derive(Clone, PartialEq, Eq)]
pub struct PbLink<'a> {
    /// Where it leads.
    pub cid: Cid,
    /// Its name; empty in files.
    pub name: &'a [u8],
    /// The size of all behind it, as whoever made the link claims.
    pub size: Option<u64>,
}

/// What a UnixFS node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnixFsKind {
    /// A piece of a file.
    Raw,
    /// A directory whose links are its entries.
    Directory,
    /// A file, or a part of one.
    File,
    /// A symbolic link.
    Symlink,
    /// A part of a directory that is spread over many nodes by the hashes of names.
    Hamt {
        /// Children that each part may have: a power of two, at most 1,024.
        fanout: u64,
    },
}

/// The UnixFS message in a node.
#[derive(Clone, PartialEq, Eq)]
pub struct UnixFs<'a> {
    /// What it is.
    pub kind: UnixFsKind,
    /// Content that stands before that of the children.
    pub data: &'a [u8],
    /// How much content each child has.
    pub block_sizes: Vec<u64>,
}

impl std::fmt::Debug for Node<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("links", &self.links.len()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for PbLink<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PbLink").field("cid", &self.cid.to_string()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for UnixFs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UnixFs").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl<'a> Node<'a> {
    /// Reads a node.
    ///
    /// # Errors
    ///
    /// Fails when the bytes are no `dag-pb`.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, NodeError> {
        let (mut links, mut data) = (Vec::new(), None);
        let mut fields = Fields(bytes);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Bytes(content)) if data.is_none() => data = Some(content),
                (2, Value::Bytes(link)) => links.push(decode_link(link)?),
                _ => return Err(NodeError::Malformed),
            }
        }
        Ok(Self { links, data })
    }

    /// Returns the UnixFS message in it, when there is one.
    #[must_use]
    pub fn unixfs(&self) -> Option<UnixFs<'a>> {
        UnixFs::decode(self.data?).ok()
    }
}

impl<'a> UnixFs<'a> {
    /// Reads a UnixFS message.
    ///
    /// # Errors
    ///
    /// Fails when the bytes are none, or of a kind that this build does not know.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, NodeError> {
        let (mut kind, mut data, mut fanout) = (None, &[][..], None);
        let mut block_sizes = Vec::new();
        let mut fields = Fields(bytes);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Number(number)) => kind = Some(number),
                (2, Value::Bytes(content)) => data = content,
                (4, Value::Number(size)) => block_sizes.push(size),
                (4, Value::Bytes(mut packed)) => {
                    while !packed.is_empty() {
                        block_sizes.push(varint(&mut packed)?);
                    }
                }
                (6, Value::Number(number)) => fanout = Some(number),
                (1 | 2 | 6, _) => return Err(NodeError::Malformed),
                _ => {}
            }
        }
        let kind = match kind {
            Some(0) => UnixFsKind::Raw,
            Some(1) => UnixFsKind::Directory,
            Some(2) => UnixFsKind::File,
            Some(4) => UnixFsKind::Symlink,
            Some(5) => {
                let fanout = fanout.unwrap_or(256);
                if !fanout.is_power_of_two() || !(2..=FANOUT_MAX).contains(&fanout) {
                    return Err(NodeError::Malformed);
                }
                UnixFsKind::Hamt { fanout }
            }
            _ => return Err(NodeError::Malformed),
        };
        Ok(Self { kind, data, block_sizes })
    }
}

/// Why a block is none of its codec. Its bytes are what its CID names: asking another peer does not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// It is not what its codec says.
    #[error("the block is not of the codec that its CID names")]
    Malformed,
    /// It nests deeper than any object is read.
    #[error("the block is nested too deeply")]
    TooDeep,
    /// It has more values than are shown.
    #[error("the block has too many values to show")]
    TooLarge,
}

fn decode_link(bytes: &[u8]) -> Result<PbLink<'_>, NodeError> {
    let (mut cid, mut name, mut size) = (None, &[][..], None);
    let mut fields = Fields(bytes);
    while let Some(field) = fields.next()? {
        match field {
            (1, Value::Bytes(bytes)) if cid.is_none() => {
                cid = Some(Cid::try_from(bytes).map_err(|_| NodeError::Malformed)?);
            }
            (2, Value::Bytes(text)) => name = text,
            (3, Value::Number(number)) => size = Some(number),
            _ => return Err(NodeError::Malformed),
        }
    }
    Ok(PbLink { cid: cid.ok_or(NodeError::Malformed)?, name, size })
}

/// The fields of a Protocol Buffers message, front to back.
struct Fields<'a>(&'a [u8]);

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, NodeError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = varint(&mut self.0)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut self.0)?),
            1 => Value::Bytes(self.take(8)?),
            2 => {
                let length = varint(&mut self.0)?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Bytes(self.take(4)?),
            _ => return Err(NodeError::Malformed),
        };
        Ok(Some((key >> 3, value)))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], NodeError> {
        let length = usize::try_from(length).map_err(|_| NodeError::Malformed)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(NodeError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }
}

/// Takes an unsigned LEB128 number from the front.
fn varint(bytes: &mut &[u8]) -> Result<u64, NodeError> {
    let mut value = 0_u64;
    for index in 0..10 {
        let (&byte, rest) = bytes.split_first().ok_or(NodeError::Malformed)?;
        *bytes = rest;
        if index == 9 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(NodeError::Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_directory_is_read() {
        // QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn, the empty directory of every IPFS node.
        let node = Node::decode(&[0x0a, 2, 8, 1]).unwrap();
        assert_eq!(node.unixfs().unwrap().kind, UnixFsKind::Directory);
        assert!(node.links.is_empty());
    }

    #[test]
    fn lengths_beyond_the_input_are_refused() {
        for bytes in [&[0x0a, 0xff, 0xff, 0xff, 0x7f][..], &[0x0a], &[0x12, 1, 0x0a], &[0xff; 11]] {
            assert_eq!(Node::decode(bytes), Err(NodeError::Malformed), "{bytes:02x?}");
        }
        // A HAMT of a fanout that divides by zero or has no padding.
        for fanout in [0, 1, 3, 127] {
            assert_eq!(
                UnixFs::decode(&[8, 5, 0x30, fanout]),
                Err(NodeError::Malformed),
                "{fanout}"
            );
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in any::<Vec<u8>>()) {
            if let Ok(node) = Node::decode(&bytes) {
                let _ = node.unixfs();
            }
            UnixFs::decode(&bytes).ok();
        }
    }
}
