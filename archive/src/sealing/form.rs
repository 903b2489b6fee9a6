//! The bytes of a sealed root, and what each sealed part is bound to.

use dunlin_wire::{
    Cid,
    block::{Block, Codec},
    cbor,
    limits::PAYLOAD_BLOCK_BYTES_MAX,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{
    KeyId, LINKS_MAX, ROOT_BYTES_MAX, VERSION,
    key::{NONCE_BYTES, TAG_BYTES},
    padding::class_of,
};

/// Largest sealed root: the largest class of a root, and every link.
pub(super) const BLOCK_BYTES_MAX: usize = 160 * 1024;

/// A sealed root as anybody can read it.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedRoot {
    pub(super) key: KeyId,
    pub(super) nonce: [u8; NONCE_BYTES],
    pub(super) sealed: Vec<u8>,
    pub(super) links: Vec<Cid>,
}

impl SealedRoot {
    /// Returns the key that opens it.
    #[must_use]
    pub const fn key(&self) -> KeyId {
        self.key
    }

    /// Returns the sealed payload blocks, in the order of the segment's.
    #[must_use]
    pub fn links(&self) -> &[Cid] {
        &self.links
    }

    /// Returns the block that holds it.
    #[must_use]
    pub fn to_block(&self) -> Block {
        let encoded = Encoded(
            VERSION,
            ByteBuf::from(*self.key.as_bytes()),
            ByteBuf::from(self.nonce),
            ByteBuf::from(self.sealed.clone()),
            self.links.clone(),
        );
        let bytes = cbor::encode(&encoded).expect("integers, bytes and links have an encoding");
        Block::new(Codec::DagCbor, bytes)
    }

    pub(super) fn from_encoded(encoded: Encoded) -> Option<Self> {
        let Encoded(version, key, nonce, sealed, links) = encoded;
        let root = Self {
            key: KeyId::from_bytes(&key)?,
            nonce: nonce.as_slice().try_into().ok()?,
            sealed: sealed.into_vec(),
            links,
        };
        // A length that no root is padded to is nobody's.
        let padded = root.sealed.len().checked_sub(TAG_BYTES)?;
        let is_class = padded <= class_of(ROOT_BYTES_MAX)?
            && (padded.is_power_of_two() && class_of(0)? <= padded);
        let is_raw = root.links.iter().all(|link| Codec::of(link) == Some(Codec::Raw));
        let is_whole = version == VERSION && is_class && is_raw && root.links.len() <= LINKS_MAX;
        is_whole.then_some(root)
    }
}

impl std::fmt::Debug for SealedRoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedRoot")
            .field("key", &self.key)
            .field("bytes", &self.sealed.len())
            .field("links", &self.links.len())
            .finish_non_exhaustive()
    }
}

/// A sealed root as it is encoded: version, key, nonce, what is sealed, links.
#[derive(Serialize, Deserialize)]
pub(super) struct Encoded(u8, ByteBuf, ByteBuf, ByteBuf, Vec<Cid>);

/// What is sealed. A part opens only as the part that it was sealed as.
pub(super) enum Part<'a> {
    /// A root, with all that stands beside it in the clear.
    Root { key: KeyId, links: &'a [Cid] },
    /// A payload block.
    Payload,
}

impl Part<'_> {
    /// Returns what is authenticated with the part.
    pub(super) fn context(&self) -> Vec<u8> {
        match self {
            Self::Root { key, links } => {
                let mut context = b"dunlin sealed 1 root".to_vec();
                context.extend_from_slice(key.as_bytes());
                links.iter().for_each(|link| context.extend_from_slice(&link.to_bytes()));
                context
            }
            Self::Payload => b"dunlin sealed 1 payload".to_vec(),
        }
    }

    pub(super) const fn bytes_max(&self) -> usize {
        match self {
            Self::Root { .. } => ROOT_BYTES_MAX,
            Self::Payload => PAYLOAD_BLOCK_BYTES_MAX,
        }
    }
}
