//! Replication: an object's owner asks a peer to hold it, has it prove that it does, and lets it go.

use dunlin_wire::Cid;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;

use super::{
    CIDS_PER_REQUEST_MAX, Message, MessageError, OBJECT_CIDS_MAX, OBJECTS_PER_REQUEST_MAX,
    PROOFS_MAX, REQUEST_BYTES_MAX, RefusalReason, at_most,
};

/// What an owner wants of a peer that holds its objects, or shall.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ReplicasRequest {
    /// To hold objects. Asked again, it says how far the peer has come.
    Pin {
        /// At most [`OBJECTS_PER_REQUEST_MAX`], with at most [`OBJECT_CIDS_MAX`] CIDs in all.
        objects: Vec<ReplicaObject>,
    },
    /// To prove that it holds blocks of such objects.
    Challenge {
        /// Used once.
        nonce: ByteArray<32>,
        /// At most [`PROOFS_MAX`].
        blocks: Vec<ReplicaBlock>,
    },
    /// To let go of objects.
    Release {
        /// At most [`CIDS_PER_REQUEST_MAX`].
        roots: Vec<Cid>,
    },
}

/// An object that is to be held. It does not say of which collection it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaObject {
    /// Size of all its blocks.
    pub bytes: u64,
    /// What the root links to.
    pub links: Vec<Cid>,
    /// Its root.
    pub root: Cid,
}

/// A block of an object that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaBlock {
    /// The block.
    pub cid: Cid,
    /// The object's root.
    pub root: Cid,
}

impl Message for ReplicasRequest {
    const BYTES_MAX: usize = REQUEST_BYTES_MAX;

    fn check(&self) -> Result<(), MessageError> {
        match self {
            Self::Pin { objects } => {
                at_most("a list of objects", objects.len(), OBJECTS_PER_REQUEST_MAX)?;
                let cids = objects.iter().map(|object| 1 + object.links.len()).sum();
                at_most("a list of CIDs", cids, OBJECT_CIDS_MAX)
            }
            Self::Challenge { blocks, .. } => at_most("a list of blocks", blocks.len(), PROOFS_MAX),
            Self::Release { roots } => at_most("a list of CIDs", roots.len(), CIDS_PER_REQUEST_MAX),
        }
    }
}

/// The peer's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ReplicasResponse {
    /// How it stands with each object, in the order of the request.
    Pinned {
        /// At most [`OBJECTS_PER_REQUEST_MAX`].
        outcomes: Vec<PinOutcome>,
    },
    /// A proof of each block, in the order of the request; none of what is not held.
    Proved {
        /// At most [`PROOFS_MAX`].
        proofs: Vec<Option<ByteArray<32>>>,
    },
    /// What was to be let go of is not held any more.
    Released {
        /// How many of them were.
        count: u64,
    },
    /// No answer.
    Refused {
        /// Why.
        reason: RefusalReason,
    },
}

/// How it stands with an object that a peer is to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PinOutcome {
    /// All of it is held, durably.
    Held,
    /// It will be: its blocks are fetched from the asker.
    Pending,
    /// Too much waits to be fetched; ask again.
    Busy,
    /// There is no room for the asker.
    Full,
    /// Nothing of the kind is held for the asker.
    Denied,
}

impl Message for ReplicasResponse {
    const BYTES_MAX: usize = REQUEST_BYTES_MAX;

    fn check(&self) -> Result<(), MessageError> {
        match self {
            Self::Pinned { outcomes } => {
                at_most("a list of outcomes", outcomes.len(), OBJECTS_PER_REQUEST_MAX)
            }
            Self::Proved { proofs } => at_most("a list of proofs", proofs.len(), PROOFS_MAX),
            Self::Released { .. } | Self::Refused { .. } => Ok(()),
        }
    }
}
