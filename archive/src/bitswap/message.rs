//! One bitswap message, and its bytes in each version of the protocol.
//!
//! A message that is read has at most [`WANTS_MAX`] wants and as many presences: what is beyond them is
//! passed over, as every implementation does with long wantlists. What no honest peer sends is an error.

use dunlin_wire::{
    Cid,
    block::{Block, Codec},
    limits::BLOCK_BYTES_MAX,
};

use super::{
    MESSAGE_BYTES_MAX,
    protobuf::{Malformed, Reader, Value, put_bytes, put_integer, put_length, put_varint, varint},
};

/// Wants of one message that are read, and presences; the rest is passed over. A peer may have as many
/// wants with us in all.
pub const WANTS_MAX: usize = 1_024;

/// Entries of one message, wants or presences, above which its sender breaks the protocol: 64 times what
/// anyone keeps, so that somebody who asks for a lot at once does nothing wrong.
pub const ENTRIES_MAX: usize = 65_536;

/// Blocks of one message: 4 MiB of blocks of 1 KiB.
pub const BLOCKS_MAX: usize = 4_096;

/// Longest CID that is read. Ours have 36 bytes; identity CIDs of other nodes up to 134.
pub const CID_BYTES_MAX: usize = 160;

/// A version of the protocol that a stream was opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// Blocks without their CIDs' prefixes.
    V1_0,
    /// Blocks with prefixes.
    V1_1,
    /// And WANT_HAVE, HAVE, DONT_HAVE.
    V1_2,
}

/// What an entry of a wantlist asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ask {
    /// Send the block.
    Block,
    /// Say whether you have it.
    Have,
    /// Forget it.
    Cancel,
}

/// An entry of a wantlist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// Of which block.
    pub cid: Cid,
    /// What about it.
    pub ask: Ask,
    /// Higher comes first.
    pub priority: i32,
    /// Whether to say it when the block is not there.
    pub send_dont_have: bool,
}

/// What a peer says about a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// The block.
    pub cid: Cid,
    /// Whether the peer has it.
    pub is_here: bool,
}

/// The bytes of a block and what the message says that they are. Nobody has checked anything.
#[derive(Clone, PartialEq, Eq)]
pub struct Claim {
    /// What they are.
    pub kind: Kind,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// What the bytes of a block are, by the prefix of a CID that is sent with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// CIDv1, sha2-256, and this codec.
    Ours(Codec),
    /// Any other prefix: nothing that we ever ask for.
    Foreign,
    /// No prefix, as in version 1.0.0.
    Bare,
}

/// A block by the CID that its bytes have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// By its prefix.
    Block(Block),
    /// Without a prefix, so that it may be the one or the other.
    Either {
        /// As bytes.
        raw: Block,
        /// As an object.
        dag_cbor: Block,
    },
    /// Nothing that we ever ask for.
    Foreign,
}

/// One message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// What the sender wants, and no longer wants.
    pub wants: Vec<Want>,
    /// Whether `wants` are all that it wants, and not only changes.
    pub is_full: bool,
    /// Blocks.
    pub blocks: Vec<Claim>,
    /// What the sender has and does not have.
    pub presences: Vec<Presence>,
    /// Entries that were passed over: beyond the limits, or with a CID that nobody can read.
    pub passed_over: usize,
}

/// Why bytes are no message. Its sender broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// It is longer than [`MESSAGE_BYTES_MAX`].
    #[error("a message of {bytes} bytes, but at most {MESSAGE_BYTES_MAX} are accepted")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// It is no protobuf, or a field has another type.
    #[error("malformed")]
    Malformed,
    /// It has more than [`ENTRIES_MAX`] entries.
    #[error("more than {ENTRIES_MAX} entries")]
    TooManyEntries,
    /// It has more than [`BLOCKS_MAX`] blocks.
    #[error("more than {BLOCKS_MAX} blocks")]
    TooManyBlocks,
    /// A block has more than 2 MiB.
    #[error("a block of {bytes} bytes, but at most {BLOCK_BYTES_MAX} are accepted")]
    BlockTooLarge {
        /// How large it is.
        bytes: usize,
    },
}

impl From<Malformed> for MessageError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl Message {
    /// Reads a message, without the length before it.
    ///
    /// # Errors
    ///
    /// Fails on what no honest peer sends. Nothing is allocated for what the message only claims to have.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(MessageError::TooLong { bytes: bytes.len() });
        }
        let (mut message, mut entries) = (Self::default(), Counted(0));
        let mut fields = Reader::new(bytes);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1, Value::Bytes(wantlist)) => message.read_wantlist(wantlist, &mut entries)?,
                (2, Value::Bytes(block)) => message.push_block(Kind::Bare, block)?,
                (3, Value::Bytes(payload)) => message.read_payload(payload)?,
                (4, Value::Bytes(presence)) => {
                    entries.one_more()?;
                    message.read_presence(presence)?;
                }
                (1..=4, _) => return Err(MessageError::Malformed),
                // How many bytes are pending, and what is yet to be invented.
                _ => {}
            }
        }
        Ok(message)
    }

    /// Returns the bytes of the message, without the length before it, as far as the version can say it:
    /// before 1.2.0 there are no presences, and a WANT_HAVE would be taken for a WANT_BLOCK.
    #[must_use]
    pub fn encode(&self, version: Version) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.encode_into(version, &mut bytes);
        bytes
    }

    /// Appends what [`Self::encode`] returns.
    pub fn encode_into(&self, version: Version, bytes: &mut Vec<u8>) {
        let content: usize = self.blocks.iter().map(|block| block.bytes.len() + 24).sum();
        let entries = self.wants.len() + self.presences.len();
        bytes.reserve(content + entries * 64 + 8);
        let is_newest = version == Version::V1_2;
        let mut wantlist = Vec::with_capacity(self.wants.len() * 64);
        for want in self.wants.iter().filter(|want| is_newest || want.ask != Ask::Have) {
            put_bytes(&mut wantlist, 1, &want.encode(version));
        }
        put_integer(&mut wantlist, 2, self.is_full.into());
        if !wantlist.is_empty() {
            put_bytes(bytes, 1, &wantlist);
        }
        for block in &self.blocks {
            block.encode(version, bytes);
        }
        for presence in self.presences.iter().filter(|_| is_newest) {
            let mut inner = Vec::with_capacity(48);
            put_bytes(&mut inner, 1, &presence.cid.to_bytes());
            put_integer(&mut inner, 2, (!presence.is_here).into());
            put_bytes(bytes, 4, &inner);
        }
    }

    /// Returns whether there is nothing to say.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wants.is_empty()
            && !self.is_full
            && self.blocks.is_empty()
            && self.presences.is_empty()
    }

    fn read_wantlist(&mut self, bytes: &[u8], entries: &mut Counted) -> Result<(), MessageError> {
        let mut fields = Reader::new(bytes);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1, Value::Bytes(entry)) => {
                    entries.one_more()?;
                    let want = Want::decode(entry)?.filter(|_| self.wants.len() < WANTS_MAX);
                    self.passed_over += usize::from(want.is_none());
                    self.wants.extend(want);
                }
                (2, Value::Varint(is_full)) => self.is_full = is_full != 0,
                (1..=2, _) => return Err(MessageError::Malformed),
                _ => {}
            }
        }
        Ok(())
    }

    fn read_payload(&mut self, bytes: &[u8]) -> Result<(), MessageError> {
        let (mut prefix, mut data) = (&[][..], &[][..]);
        let mut fields = Reader::new(bytes);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1, Value::Bytes(bytes)) => prefix = bytes,
                (2, Value::Bytes(bytes)) => data = bytes,
                (1..=2, _) => return Err(MessageError::Malformed),
                _ => {}
            }
        }
        self.push_block(Kind::of_prefix(prefix), data)
    }

    fn push_block(&mut self, kind: Kind, bytes: &[u8]) -> Result<(), MessageError> {
        if self.blocks.len() == BLOCKS_MAX {
            return Err(MessageError::TooManyBlocks);
        }
        if bytes.len() > BLOCK_BYTES_MAX {
            return Err(MessageError::BlockTooLarge { bytes: bytes.len() });
        }
        // What we never ask for is only counted.
        let bytes = if kind == Kind::Foreign { Vec::new() } else { bytes.to_vec() };
        self.blocks.push(Claim { kind, bytes });
        Ok(())
    }

    fn read_presence(&mut self, bytes: &[u8]) -> Result<(), MessageError> {
        let (mut cid, mut is_here) = (None, true);
        let mut fields = Reader::new(bytes);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1, Value::Bytes(bytes)) => cid = read_cid(bytes),
                (2, Value::Varint(kind)) => is_here = kind == 0,
                (1..=2, _) => return Err(MessageError::Malformed),
                _ => {}
            }
        }
        match cid.filter(|_| self.presences.len() < WANTS_MAX) {
            Some(cid) => self.presences.push(Presence { cid, is_here }),
            None => self.passed_over += 1,
        }
        Ok(())
    }
}

/// How many entries a message has had so far.
struct Counted(usize);

impl Counted {
    fn one_more(&mut self) -> Result<(), MessageError> {
        self.0 += 1;
        if self.0 > ENTRIES_MAX { Err(MessageError::TooManyEntries) } else { Ok(()) }
    }
}

impl Want {
    /// Reads an entry; returns none when its CID is of a kind that this node cannot even name.
    fn decode(bytes: &[u8]) -> Result<Option<Self>, MessageError> {
        let (mut cid, mut priority, mut is_cancel, mut is_have, mut send_dont_have) =
            (None, 0, false, false, false);
        let mut fields = Reader::new(bytes);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1, Value::Bytes(bytes)) => cid = read_cid(bytes),
                // Negative numbers are ten bytes long, and what is above 32 bits is cut off.
                (2, Value::Varint(value)) => priority = value as i32,
                (3, Value::Varint(value)) => is_cancel = value != 0,
                (4, Value::Varint(value)) => is_have = value == 1,
                (5, Value::Varint(value)) => send_dont_have = value != 0,
                (1..=5, _) => return Err(MessageError::Malformed),
                _ => {}
            }
        }
        let ask = match (is_cancel, is_have) {
            (true, _) => Ask::Cancel,
            (false, true) => Ask::Have,
            (false, false) => Ask::Block,
        };
        Ok(cid.map(|cid| Self { cid, ask, priority, send_dont_have }))
    }

    fn encode(&self, version: Version) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        put_bytes(&mut bytes, 1, &self.cid.to_bytes());
        // Sign extension is what protobuf does with negative int32.
        put_integer(&mut bytes, 2, i64::from(self.priority) as u64);
        put_integer(&mut bytes, 3, (self.ask == Ask::Cancel).into());
        if version == Version::V1_2 {
            put_integer(&mut bytes, 4, (self.ask == Ask::Have).into());
            put_integer(&mut bytes, 5, self.send_dont_have.into());
        }
        bytes
    }
}

impl Kind {
    /// Reads the prefix of a CID: version, codec, hash function, length of the hash.
    fn of_prefix(bytes: &[u8]) -> Self {
        let mut rest = bytes;
        let mut next = || {
            let (value, behind) = varint(rest)?;
            rest = behind;
            Some(value)
        };
        let parts = [next(), next(), next(), next()];
        [Codec::Raw, Codec::DagCbor]
            .into_iter()
            .find(|codec| parts == Self::prefix(*codec).map(Some) && rest.is_empty())
            .map_or(Self::Foreign, Self::Ours)
    }

    const fn prefix(codec: Codec) -> [u64; 4] {
        [1, codec.code(), 0x12, 32]
    }
}

impl Claim {
    /// Returns the message's part for a block.
    #[must_use]
    pub fn of(block: Block) -> Self {
        let codec = Codec::of(block.cid()).expect("a block has a codec of ours");
        Self { kind: Kind::Ours(codec), bytes: block.into_bytes() }
    }

    /// Hashes the bytes: returns the block that they are, whatever was asked for.
    #[must_use]
    pub fn name(self) -> Named {
        match self.kind {
            Kind::Ours(codec) => Named::Block(Block::new(codec, self.bytes)),
            Kind::Bare => Named::Either {
                raw: Block::new(Codec::Raw, self.bytes.clone()),
                dag_cbor: Block::new(Codec::DagCbor, self.bytes),
            },
            Kind::Foreign => Named::Foreign,
        }
    }

    fn encode(&self, version: Version, bytes: &mut Vec<u8>) {
        let (Kind::Ours(codec), true) = (self.kind, version != Version::V1_0) else {
            return put_bytes(bytes, 2, &self.bytes);
        };
        let mut prefix = Vec::with_capacity(8);
        for part in Kind::prefix(codec) {
            put_varint(&mut prefix, part);
        }
        let mut head = Vec::with_capacity(24);
        put_bytes(&mut head, 1, &prefix);
        put_length(&mut head, 2, self.bytes.len());
        put_length(bytes, 3, head.len() + self.bytes.len());
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&self.bytes);
    }
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Content is the user's and does not belong in a log.
        f.debug_struct("Claim").field("kind", &self.kind).field("bytes", &self.bytes.len()).finish()
    }
}

fn read_cid(bytes: &[u8]) -> Option<Cid> {
    if bytes.len() > CID_BYTES_MAX {
        return None;
    }
    Cid::try_from(bytes).ok()
}

#[cfg(test)]
mod tests;
