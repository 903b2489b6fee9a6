//! Sealing: encrypted copies of segments, which strangers may keep and only holders of the key can read.
//!
//! Sealing is deterministic: one segment under one key has one sealed form, on every node that holds the
//! key, so equal segments still share a CID. It is a synthetic-IV scheme (Rogaway and Shrimpton, "A
//! Provable-Security Treatment of the Key-Wrap Problem", 2006): the nonce is a keyed hash of all that is
//! sealed, and the cipher an AEAD with a nonce of 192 bits, XChaCha20-Poly1305, so that nonces never meet by
//! chance. Opening computes the nonce again. That also binds the key: Poly1305 alone lets one ciphertext
//! open under two keys of an attacker's making.
//!
//! A sealed segment is a `dag-cbor` root with links to `raw` blocks, as the segment is, so any IPFS node can
//! pin it whole. Beside the links, what a stranger sees is the id of the key and how large each part is, up to
//! the next size class. `docs/formats/sealed.md` has the bytes, `docs/sharing.md` the trade-off.

mod form;
mod key;
mod padding;
#[cfg(test)]
mod tests;

use dunlin_wire::{
    Cid,
    block::{Block, Codec},
    cbor,
    limits::PAYLOAD_BLOCK_BYTES_MAX,
};

/// Wipes a secret when it is dropped.
pub use zeroize::Zeroizing;

use self::{form::Part, key::NONCE_BYTES, padding::Padded};
pub use self::{
    form::SealedRoot,
    key::{KEY_BYTES, KeyId, SealingKey},
};

/// Largest root that is sealed: the largest segment.
pub const ROOT_BYTES_MAX: usize = 64 * 1024;

/// Most blocks that a root links to: the payload blocks of the largest segment.
pub const LINKS_MAX: usize = 128;

/// The version of the format.
const VERSION: u8 = 1;

/// A sealed segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The block that names it.
    pub root: Block,
    /// Its payload, in the order of the segment's.
    pub links: Vec<Block>,
}

/// Why something cannot be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// A block is larger than any of a segment's.
    #[error("a block of {bytes} bytes, but at most {bytes_max} are sealed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The largest size.
        bytes_max: usize,
    },
    /// There are more links than a segment has.
    #[error("{links} links, but at most {LINKS_MAX} are sealed")]
    TooManyLinks {
        /// How many.
        links: usize,
    },
}

/// Why bytes cannot be opened. Nothing of them may be used; the same bytes and key fail again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// They are no sealed block of a known version.
    #[error("no sealed block of version {VERSION}")]
    Malformed,
    /// They were sealed with another key.
    #[error("sealed with key {id}")]
    OtherKey {
        /// That key.
        id: KeyId,
    },
    /// They were changed after sealing, or made by somebody without the key.
    #[error("not sealed by a holder of the key")]
    Forged,
}

impl SealingKey {
    /// Returns the sealed form of a root and the blocks that it links to, in the order of its links.
    ///
    /// # Errors
    ///
    /// Fails when a block, or their number, is beyond what a segment may have.
    pub fn seal(&self, root: &Block, links: &[Block]) -> Result<Sealed, SealError> {
        if links.len() > LINKS_MAX {
            return Err(SealError::TooManyLinks { links: links.len() });
        }
        let links: Vec<Block> =
            links.iter().map(|block| self.seal_payload(block)).collect::<Result<_, _>>()?;
        check_size(root, ROOT_BYTES_MAX)?;
        let cids: Vec<Cid> = links.iter().map(|block| *block.cid()).collect();
        let (nonce, sealed) =
            self.encrypt(&Part::Root { key: self.id(), links: &cids }, root.bytes());
        let sealed = SealedRoot { key: self.id(), nonce, sealed, links: cids };
        Ok(Sealed { root: sealed.to_block(), links })
    }

    fn seal_payload(&self, block: &Block) -> Result<Block, SealError> {
        check_size(block, PAYLOAD_BLOCK_BYTES_MAX)?;
        let (nonce, sealed) = self.encrypt(&Part::Payload, block.bytes());
        let mut bytes = Vec::with_capacity(1 + NONCE_BYTES + sealed.len());
        bytes.push(VERSION);
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&sealed);
        Ok(Block::new(Codec::Raw, bytes))
    }

    /// Returns the root that a sealed one holds: the segment's own block, with its own CID.
    ///
    /// # Errors
    ///
    /// Fails when it was sealed with another key, or by nobody who has this one.
    pub fn open(&self, root: &SealedRoot) -> Result<Block, OpenError> {
        if root.key != self.id() {
            return Err(OpenError::OtherKey { id: root.key });
        }
        let part = Part::Root { key: root.key, links: &root.links };
        let bytes = self.decrypt(&part, &root.nonce, &root.sealed)?;
        Ok(Block::new(Codec::DagCbor, bytes))
    }

    /// Returns the payload block that a sealed one holds. That it is the one of its segment is for the caller to
    /// check: its CID must be the one that stands in the segment.
    ///
    /// # Errors
    ///
    /// Fails when it was sealed by nobody who has this key.
    pub fn open_payload(&self, sealed: &[u8]) -> Result<Block, OpenError> {
        let (version, rest) = sealed.split_first().ok_or(OpenError::Malformed)?;
        let (nonce, sealed) =
            rest.split_first_chunk::<NONCE_BYTES>().ok_or(OpenError::Malformed)?;
        if *version != VERSION {
            return Err(OpenError::Malformed);
        }
        let bytes = self.decrypt(&Part::Payload, nonce, sealed)?;
        Ok(Block::new(Codec::Raw, bytes))
    }

    /// Encrypts what a block holds, padded; the nonce follows from all of it.
    fn encrypt(&self, part: &Part<'_>, content: &[u8]) -> ([u8; NONCE_BYTES], Vec<u8>) {
        let (context, padded) = (part.context(), Padded::of(content));
        let nonce = self.nonce(&context, padded.as_bytes());
        (nonce, self.cipher().encrypt(&nonce, &context, padded.into_bytes()))
    }

    fn decrypt(
        &self,
        part: &Part<'_>,
        nonce: &[u8; NONCE_BYTES],
        sealed: &[u8],
    ) -> Result<Vec<u8>, OpenError> {
        let context = part.context();
        let padded = self.cipher().decrypt(nonce, &context, sealed).ok_or(OpenError::Forged)?;
        if !self.has_nonce(&context, &padded, nonce) {
            return Err(OpenError::Forged);
        }
        let content = Padded::from_bytes(padded).and_then(Padded::into_content);
        content.filter(|content| content.len() <= part.bytes_max()).ok_or(OpenError::Forged)
    }
}

fn check_size(block: &Block, bytes_max: usize) -> Result<(), SealError> {
    let bytes = block.bytes().len();
    if bytes > bytes_max { Err(SealError::TooLarge { bytes, bytes_max }) } else { Ok(()) }
}

impl SealedRoot {
    /// Returns the sealed root in a block's bytes from anywhere.
    ///
    /// # Errors
    ///
    /// Fails when the bytes are not the canonical encoding of one.
    pub fn decode(bytes: &[u8]) -> Result<Self, OpenError> {
        let encoded: form::Encoded =
            cbor::decode(bytes, form::BLOCK_BYTES_MAX).map_err(|_| OpenError::Malformed)?;
        Self::from_encoded(encoded).ok_or(OpenError::Malformed)
    }
}
