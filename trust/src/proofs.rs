//! The proofs that a node can show others: what a peer that was away missed.
//!
//! Two peers compare digests of the names of what they hold. Where those differ, one tells its names, and the other
//! answers with the proofs that it lacks. What a proof counts for does not depend on this: [`crate::Trust`] counts
//! each once, whether its bytes are kept or not.

use std::collections::{BTreeMap, VecDeque};

use dunlin_wire::cbor;
use serde_bytes::ByteBuf;
use sha2::{Digest as _, Sha256};

use crate::proof::{PROOF_BYTES_MAX, ProofId, Proven};

/// Most proofs that are kept, at most about 5 MiB. The oldest goes: it has been told for longest.
pub const PROOFS_HELD_MAX: usize = 512;

/// The version of what [`encode_proofs`] returns.
const VERSION: u8 = 1;

/// Largest encoding of all that are kept.
const FILE_BYTES_MAX: usize = PROOFS_HELD_MAX * (PROOF_BYTES_MAX + 16);

/// Bytes of a proof's name.
pub const PROOF_NAME_BYTES: usize = 16;

/// Proofs with their bytes.
#[derive(Clone, Debug, Default)]
pub struct Proofs {
    held: BTreeMap<ProofId, Vec<u8>>,
    order: VecDeque<ProofId>,
    is_changed: bool,
}

impl Proofs {
    /// Takes in the bytes of a proof that was verified; returns whether they are new.
    pub fn insert(&mut self, proven: &Proven, bytes: Vec<u8>) -> bool {
        let name = *proven.id();
        if self.held.contains_key(&name) {
            return false;
        }
        if self.held.len() >= PROOFS_HELD_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.held.remove(&oldest);
        }
        self.order.push_back(name);
        self.held.insert(name, bytes);
        self.is_changed = true;
        true
    }

    /// Returns a short name for all of them. Who has the same has nothing to tell.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        self.held.keys().for_each(|name| hash.update(name.as_slice()));
        hash.finalize().into()
    }

    /// Returns their names, [`PROOF_NAME_BYTES`] each, one after another.
    #[must_use]
    pub fn names(&self) -> Vec<u8> {
        self.held.keys().flat_map(|name| **name).collect()
    }

    /// Returns the bytes of proofs that whoever told `names` lacks, the newest first and at most `count`, and whether
    /// there are more. What is left over of the names means nothing.
    #[must_use]
    pub fn lacking(&self, names: &[u8], count: usize) -> (Vec<&[u8]>, bool) {
        let (theirs, _) = names.as_chunks::<PROOF_NAME_BYTES>();
        let mut theirs = theirs.to_vec();
        theirs.sort_unstable();
        let lacks = |name: &&ProofId| theirs.binary_search(&***name).is_err();
        let mut missing = self.order.iter().rev().filter(lacks);
        let told = missing.by_ref().take(count).filter_map(|name| self.held.get(name));
        let told = told.map(Vec::as_slice).collect();
        (told, missing.next().is_some())
    }

    /// Returns the bytes of all of them, the oldest first, if there are others than when this was asked last: the shell
    /// keeps them over a restart ([`encode_proofs`]).
    pub fn changes(&mut self) -> Option<Vec<Vec<u8>>> {
        let all = || self.order.iter().filter_map(|name| self.held.get(name)).cloned().collect();
        std::mem::take(&mut self.is_changed).then(all)
    }

    /// Returns how many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

/// Returns proofs as they are kept over a restart; `docs/formats/evidence.md` has the bytes.
#[must_use]
pub fn encode_proofs(proofs: &[Vec<u8>]) -> Vec<u8> {
    let proofs: Vec<_> = proofs.iter().map(|proof| serde_bytes::Bytes::new(proof)).collect();
    cbor::encode(&(VERSION, proofs)).expect("numbers and bytes have an encoding")
}

/// Returns the proofs that were kept, in their order. Nobody has verified them.
///
/// # Errors
///
/// Fails on anything that [`encode_proofs`] did not return.
pub fn decode_proofs(bytes: &[u8]) -> Result<Vec<Vec<u8>>, ProofsError> {
    let (version, proofs): (u8, Vec<ByteBuf>) = cbor::decode(bytes, FILE_BYTES_MAX)?;
    if version != VERSION {
        return Err(ProofsError::Version { version });
    }
    // Those that were kept last are the newest.
    let surplus = proofs.len().saturating_sub(PROOFS_HELD_MAX);
    Ok(proofs.into_iter().skip(surplus).map(ByteBuf::into_vec).collect())
}

/// Why proofs that were kept are of no use.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofsError {
    /// The bytes are damaged.
    #[error(transparent)]
    Decode(#[from] cbor::DecodeError),
    /// A newer version wrote them.
    #[error("version {version}, but only {VERSION} is known")]
    Version {
        /// The version they claim.
        version: u8,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_has_these_bytes_and_damage_is_found() {
        let proofs = [vec![1, 2, 3], vec![4]];
        let bytes = encode_proofs(&proofs);
        // A list of two: the version, and a list of two byte strings.
        assert_eq!(bytes, [0x82, 0x01, 0x82, 0x43, 1, 2, 3, 0x41, 4]);
        assert_eq!(decode_proofs(&bytes).unwrap(), proofs);
        for at in 0..bytes.len() {
            assert!(decode_proofs(&bytes[..at]).is_err(), "cut at {at}");
        }
        let mut newer = bytes;
        newer[1] = 2;
        assert_eq!(decode_proofs(&newer), Err(ProofsError::Version { version: 2 }));
        let many: Vec<_> =
            (0..PROOFS_HELD_MAX as u16 + 3).map(|n| n.to_be_bytes().to_vec()).collect();
        assert_eq!(decode_proofs(&encode_proofs(&many)).unwrap(), many[3..]);
    }
}
