//! `dunlin trust`: what it may be told.

use clap::Subcommand;
use libp2p_identity::PeerId;

#[derive(Debug, Subcommand)]
pub(crate) enum TrustCommand {
    /// List the peers that the node is connected to or remembers, and what each may do.
    Ls,
    /// Explain the score of a peer, line by line.
    Show {
        /// The peer.
        peer: PeerId,
    },
    /// Hear a peer no more, until you release it: nothing that it sends is acted on, nothing that it asks for is
    /// answered. To shut one out of the network for ever, see `dunlin network revoke`.
    Quarantine {
        /// The peer.
        peer: PeerId,
    },
    /// End a quarantine, whether you began it or evidence did. What is held against the peer is forgiven.
    Release {
        /// The peer.
        peer: PeerId,
    },
}
