//! What nodes did that invariants look at.

use std::sync::Arc;

use dunlin_protocols::PeerId;
use dunlin_trust::Standing;
use dunlin_wire::Cid;

use super::notary::Hash;

/// Something that a node did, told by its shell as it does it.
#[derive(Clone, Debug)]
pub(super) enum Fact {
    /// It answered a question.
    Served { by: usize, to: usize },
    /// It looks at what a peer sent, so that it may have an effect. The author is another one where it was passed on.
    Heard { at: usize, from: usize, author: Option<usize> },
    /// It counts a signed object.
    Believed { at: usize, what: &'static str, hash: Hash },
    /// It counts a proof against a peer.
    Proven { at: usize, peer: PeerId },
    /// It counts more revocations than before.
    Revoked { at: usize },
    /// It stored a segment.
    Stored { at: usize, cid: Cid, bytes: Arc<[u8]> },
    /// It uses a template set of a peer.
    Used { at: usize, author: usize, hash: Hash },
    /// A peer stands elsewhere than before.
    Moved { at: usize, peer: PeerId, to: Standing },
    /// It started again.
    Restarted { at: usize },
}

impl Fact {
    /// Returns which node did it.
    pub(super) fn at(&self) -> usize {
        match self {
            Self::Served { by: at, .. }
            | Self::Heard { at, .. }
            | Self::Believed { at, .. }
            | Self::Proven { at, .. }
            | Self::Revoked { at }
            | Self::Stored { at, .. }
            | Self::Used { at, .. }
            | Self::Moved { at, .. }
            | Self::Restarted { at } => *at,
        }
    }
}
