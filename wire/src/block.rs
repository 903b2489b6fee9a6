//! Blocks and their content identifiers: CIDv1, sha2-256, `dag-cbor` or `raw`.
//!
//! A CID is the data: [`verify`] is the one place where bytes from outside earn their name, and a
//! [`Block`] can only be had by making it here or by passing that check.

use std::sync::Arc;

use cid::{Cid, Version, multihash::Multihash};
use sha2::{Digest, Sha256};

use crate::limits::BLOCK_BYTES_MAX;

/// The multihash code of sha2-256.
const SHA2_256: u64 = 0x12;

/// What the bytes of a block are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Canonical DAG-CBOR, which may link to other blocks.
    DagCbor,
    /// Bytes without links.
    Raw,
}

impl Codec {
    /// Returns the multicodec number that stands in a CID.
    #[must_use]
    pub const fn code(self) -> u64 {
        match self {
            Self::DagCbor => 0x71,
            Self::Raw => 0x55,
        }
    }

    /// Returns the codec that `cid` names, when it is one of ours.
    #[must_use]
    pub fn of(cid: &Cid) -> Option<Self> {
        [Self::DagCbor, Self::Raw].into_iter().find(|codec| codec.code() == cid.codec())
    }
}

/// Returns the CID of `bytes`.
#[must_use]
pub fn cid_of(codec: Codec, bytes: &[u8]) -> Cid {
    cid_of_digest(codec, Sha256::digest(bytes).into())
}

/// Returns the CID of bytes that have this sha2-256 digest.
#[must_use]
pub fn cid_of_digest(codec: Codec, digest: [u8; 32]) -> Cid {
    let hash =
        Multihash::wrap(SHA2_256, &digest).expect("a sha2-256 digest is 32 bytes and 64 fit");
    Cid::new_v1(codec.code(), hash)
}

/// Checks that `bytes` are what `cid` names.
///
/// # Errors
///
/// Fails when the CID is not of the kind that Dunlin makes, or when the bytes have another hash.
pub fn verify(cid: &Cid, bytes: &[u8]) -> Result<(), VerifyError> {
    if bytes.len() > BLOCK_BYTES_MAX {
        return Err(VerifyError::TooLarge { bytes: bytes.len() });
    }
    let supported = cid.version() == Version::V1 && cid.hash().code() == SHA2_256;
    let Some(codec) = Codec::of(cid).filter(|_| supported) else {
        return Err(VerifyError::Unsupported { cid: *cid });
    };
    if cid_of(codec, bytes) == *cid { Ok(()) } else { Err(VerifyError::Mismatch { cid: *cid }) }
}

/// Bytes together with the CID that they hash to. Clones share the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Block {
    cid: Cid,
    bytes: Arc<Vec<u8>>,
}

impl Block {
    /// Returns the block that holds `bytes`.
    #[must_use]
    pub fn new(codec: Codec, bytes: Vec<u8>) -> Self {
        Self { cid: cid_of(codec, &bytes), bytes: Arc::new(bytes) }
    }

    /// Returns the block when `bytes` are what `cid` names.
    ///
    /// # Errors
    ///
    /// As [`verify`].
    pub fn verified(cid: Cid, bytes: Vec<u8>) -> Result<Self, VerifyError> {
        verify(&cid, &bytes)?;
        Ok(Self { cid, bytes: Arc::new(bytes) })
    }

    /// As [`Self::verified`], for who needs the bytes when they are something else.
    ///
    /// # Errors
    ///
    /// Gives the bytes back where [`verify`] fails.
    pub fn verified_or_bytes(cid: Cid, bytes: Vec<u8>) -> Result<Self, Vec<u8>> {
        match verify(&cid, &bytes) {
            Ok(()) => Ok(Self { cid, bytes: Arc::new(bytes) }),
            Err(_) => Err(bytes),
        }
    }

    /// Returns the content identifier.
    #[must_use]
    pub const fn cid(&self) -> &Cid {
        &self.cid
    }

    /// Returns the content.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the content, without a copy unless there is a clone.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        Arc::unwrap_or_clone(self.bytes)
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Content is the user's and does not belong in a log.
        f.debug_struct("Block")
            .field("cid", &self.cid.to_string())
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

/// Why bytes are not what a CID names. State is unchanged; another source may have the right bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The CID has a version, codec or hash that Dunlin does not use.
    #[error("{cid} is not a CIDv1 of dag-cbor or raw bytes with sha2-256")]
    Unsupported {
        /// The CID that was asked for.
        cid: Cid,
    },
    /// The bytes hash to something else: they were damaged or forged.
    #[error("the bytes do not hash to {cid}")]
    Mismatch {
        /// The CID that was asked for.
        cid: Cid,
    },
    /// No block may be this large.
    #[error("a block of {bytes} bytes, but at most {BLOCK_BYTES_MAX} are accepted")]
    TooLarge {
        /// How many bytes there are.
        bytes: usize,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cids_are_those_of_ipfs() {
        // The empty raw block and the empty dag-cbor map, as every IPFS implementation names them.
        let empty = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku";
        assert_eq!(cid_of(Codec::Raw, b"").to_string(), empty);
        let map = "bafyreigbtj4x7ip5legnfznufuopl4sg4knzc2cof6duas4b3q2fy6swua";
        assert_eq!(cid_of(Codec::DagCbor, &[0xa0]).to_string(), map);
    }

    #[test]
    fn foreign_kinds_of_cid_are_refused() {
        let hash = Multihash::wrap(0x1e, &[7; 32]).unwrap();
        let v0 = Cid::new_v0(Multihash::wrap(SHA2_256, &[7; 32]).unwrap()).unwrap();
        for cid in [Cid::new_v1(0x55, hash), Cid::new_v1(0x70, *v0.hash()), v0] {
            assert_eq!(verify(&cid, b""), Err(VerifyError::Unsupported { cid }));
        }
        let large = vec![0; BLOCK_BYTES_MAX + 1];
        let error = VerifyError::TooLarge { bytes: large.len() };
        assert_eq!(verify(&cid_of(Codec::Raw, &large), &large), Err(error));
    }

    proptest! {
        #[test]
        fn one_flipped_bit_is_found(bytes in prop::collection::vec(any::<u8>(), 1..512), at in any::<prop::sample::Index>(), bit in 0..8) {
            let block = Block::new(Codec::Raw, bytes);
            let mut damaged = block.bytes().to_vec();
            damaged[at.index(block.bytes().len())] ^= 1u8 << bit;
            prop_assert_eq!(Block::verified_or_bytes(*block.cid(), damaged.clone()), Err(damaged.clone()));
            prop_assert!(Block::verified(*block.cid(), damaged).is_err());
            prop_assert!(Block::verified(*block.cid(), block.bytes().to_vec()).is_ok());
        }
    }
}
