//! Graphs of blocks: what links to what, how a path is followed, and in which order blocks are handed out.
//!
//! It reads what IPFS nodes make: `dag-pb` (UnixFS files, directories, and HAMT directories), `dag-cbor`,
//! `dag-json`, and `raw`, under CIDs of version 0 and 1 with sha2-256 or identity hashes. Blocks come from
//! a [`Source`]; nothing here knows where they are kept. [`resolve`] follows a path, [`Walk`] hands out the
//! blocks behind it, depth first, as the trustless gateway specification wants them.
//!
//! Blocks are verified by whoever hands them in, and may still have been made to harm: every loop here has
//! a limit, and no decoder is recursive.

pub(crate) mod cbor;
mod hamt;
mod json;
mod path;
mod pb;
mod walk;

use dunlin_wire::Cid;
use sha2::{Digest, Sha256};

pub use self::{
    json::to_json,
    path::{PATH_SEGMENTS_MAX, ResolveError, Resolved, resolve},
    pb::{Node, NodeError, PbLink, UnixFs, UnixFsKind},
    walk::{BLOCKS_MAX, ByteRange, Plan, Scope, Walk, WalkError},
};

/// The multicodec number of `raw`.
pub const RAW: u64 = 0x55;
/// The multicodec number of `dag-pb`.
pub const DAG_PB: u64 = 0x70;
/// The multicodec number of `dag-cbor`.
pub const DAG_CBOR: u64 = 0x71;
/// The multicodec number of `dag-json`.
pub const DAG_JSON: u64 = 0x0129;

/// The multihash code of sha2-256.
const SHA2_256: u64 = 0x12;
/// The multihash code of identity: the digest is the data.
const IDENTITY: u64 = 0x00;

/// Where blocks come from. What it returns must be what the CID names; see [`check`].
pub trait Source {
    /// Why a block could not be read.
    type Error;

    /// Returns the bytes of a block, or nothing when it is not there.
    ///
    /// # Errors
    ///
    /// Fails when the store behind it does.
    fn block(&self, cid: &Cid) -> Result<Option<Vec<u8>>, Self::Error>;
}

impl<S: Source + ?Sized> Source for &S {
    type Error = S::Error;

    fn block(&self, cid: &Cid) -> Result<Option<Vec<u8>>, Self::Error> {
        (**self).block(cid)
    }
}

/// Checks that `bytes` are what `cid` names, whatever its codec.
///
/// # Errors
///
/// Fails when they are not, or when the hash is none that is known here.
pub fn check(cid: &Cid, bytes: &[u8]) -> Result<(), CheckError> {
    let hash = cid.hash();
    let is_same = match hash.code() {
        SHA2_256 => hash.digest() == Sha256::digest(bytes).as_slice(),
        IDENTITY => hash.digest() == bytes,
        code => return Err(CheckError::Unsupported { code }),
    };
    if is_same { Ok(()) } else { Err(CheckError::Mismatch) }
}

/// Returns the content of a CID that carries it in itself.
#[must_use]
pub fn inline(cid: &Cid) -> Option<&[u8]> {
    (cid.hash().code() == IDENTITY).then(|| cid.hash().digest())
}

/// Reads a block from itself or from the source.
fn load<S: Source>(source: &S, cid: &Cid) -> Result<Option<Vec<u8>>, S::Error> {
    match inline(cid) {
        Some(bytes) => Ok(Some(bytes.to_vec())),
        None => source.block(cid),
    }
}

/// Returns the blocks that a block links to, in the order in which they stand in it; of a codec that is
/// not known here, none.
///
/// # Errors
///
/// Fails when the block is none of its codec.
pub fn links(cid: &Cid, bytes: &[u8]) -> Result<Vec<Cid>, NodeError> {
    match cid.codec() {
        DAG_PB => Ok(Node::decode(bytes)?.links.iter().map(|link| link.cid).collect()),
        DAG_CBOR => cbor::links(bytes),
        DAG_JSON => json::links(bytes),
        _ => Ok(Vec::new()),
    }
}

/// Why bytes are not what a CID names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// The bytes hash to something else: they were damaged or forged.
    #[error("its bytes hash to something else")]
    Mismatch,
    /// Hashes of this kind cannot be checked here.
    #[error("its hash has the multihash code {code:#x}; sha2-256 (0x12) is known")]
    Unsupported {
        /// The multihash code.
        code: u64,
    },
}
