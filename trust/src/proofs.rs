//! The proofs that a node can show others: what a peer that was away missed.
//!
//! Two peers compare digests of the names of what they hold. Where those differ, one tells its names, and the other
//! answers with the proofs that it lacks. What a proof counts for does not depend on this: [`crate::Trust`] counts
//! each once, whether its bytes are kept or not.

use std::collections::{BTreeMap, VecDeque};

use sha2::{Digest as _, Sha256};

use crate::proof::{ProofId, Proven};

/// Most proofs that are kept, at most about 5 MiB. The oldest goes: it has been told for longest.
pub const PROOFS_HELD_MAX: usize = 512;

/// Bytes of a proof's name.
pub const PROOF_NAME_BYTES: usize = 16;

/// Proofs with their bytes.
#[derive(Clone, Debug, Default)]
pub struct Proofs {
    held: BTreeMap<ProofId, Vec<u8>>,
    order: VecDeque<ProofId>,
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
