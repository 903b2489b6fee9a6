//! Every federated operation, and the table that says which standing it needs.

use std::fmt;

use libp2p_identity::PeerId;

use crate::standing::Standing;

/// A thing this node does with, for, or on the word of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Hold a connection with the peer.
    Connect,
    /// Answer its request for segments that are `private`: their CIDs or their blocks.
    ServePrivateSegments,
    /// Answer its request for blocks that everybody may have.
    ServePublicBlocks,
    /// Answer its request for our released templates.
    ServeTemplates,
    /// Ask it for segments.
    FetchSegments,
    /// Ask it for templates.
    FetchTemplates,
    /// Match our own entities against its templates.
    AdoptTemplates,
    /// Hear and forward its announcements, and tell others where it is.
    AcceptAnnouncement,
    /// Tell each other which keys are revoked.
    ExchangeRevocations,
    /// Hear what it reports about third peers.
    AcceptEvidence,
    /// Tell each other which private segments there are, and what was said about those that conflict.
    Reconcile,
    /// Have it hold our objects, whatever they are, and hold its own.
    ReplicatePrivate,
    /// Have it hold our objects that strangers may have, and hold its own.
    ReplicatePublic,
    /// Take in a bundle that it signed.
    ImportBundle,
    /// Dial it back where it asks to be dialled, and ask the same of it: who is reachable by strangers.
    ProbeReach,
    /// Carry its connections with others, and have it carry ours.
    Relay,
    /// Replace a relayed connection with it by a direct one, dialing where it says that it is.
    UpgradeConnection,
    /// Show it this node's peers and segments, as the operator's console. A ticket says besides that it is that.
    ShowConsole,
}

impl Operation {
    /// Every operation, in the order of the table in `docs/trust.md`.
    pub const ALL: [Self; 18] = [
        Self::Connect,
        Self::ServePrivateSegments,
        Self::ServePublicBlocks,
        Self::ServeTemplates,
        Self::FetchSegments,
        Self::FetchTemplates,
        Self::AdoptTemplates,
        Self::AcceptAnnouncement,
        Self::ExchangeRevocations,
        Self::AcceptEvidence,
        Self::Reconcile,
        Self::ReplicatePrivate,
        Self::ReplicatePublic,
        Self::ImportBundle,
        Self::ProbeReach,
        Self::Relay,
        Self::UpgradeConnection,
        Self::ShowConsole,
    ];

    /// Returns whether a peer of this standing passes. An operation that
    /// [needs an own peer](Self::needs_own_peer) asks for that besides.
    ///
    /// No operation admits a revoked peer. A quarantined one may stay connected, because its
    /// packets cost less than its reconnecting, but nothing it says or asks for is acted on.
    #[must_use]
    pub fn admits(self, standing: Standing) -> bool {
        let least = match self {
            Self::Connect => Standing::Quarantined,
            Self::ServePrivateSegments
            | Self::ServePublicBlocks
            | Self::ServeTemplates
            | Self::FetchSegments
            | Self::FetchTemplates
            | Self::AdoptTemplates
            | Self::AcceptAnnouncement
            | Self::ExchangeRevocations
            | Self::Reconcile
            | Self::ReplicatePrivate
            | Self::ImportBundle
            | Self::ProbeReach
            | Self::Relay
            | Self::UpgradeConnection
            | Self::ShowConsole => Standing::Probation,
            Self::AcceptEvidence | Self::ReplicatePublic => Standing::Trusted,
        };
        standing >= least
    }

    /// Returns whether the peer must be one of the operator's own, whatever its standing.
    #[must_use]
    pub fn needs_own_peer(self) -> bool {
        matches!(self, Self::ServePrivateSegments | Self::Reconcile | Self::ReplicatePrivate)
    }

    /// Returns whether a closed network asks for a license first. All do but the connection, over which the
    /// license is presented, and the console: that is the operator's browser and no peer of the network.
    #[must_use]
    pub fn needs_license(self) -> bool {
        !matches!(self, Self::Connect | Self::ShowConsole)
    }

    /// Returns the name used in docs, logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::ServePrivateSegments => "serve_private_segments",
            Self::ServePublicBlocks => "serve_public_blocks",
            Self::ServeTemplates => "serve_templates",
            Self::FetchSegments => "fetch_segments",
            Self::FetchTemplates => "fetch_templates",
            Self::AdoptTemplates => "adopt_templates",
            Self::AcceptAnnouncement => "accept_announcement",
            Self::ExchangeRevocations => "exchange_revocations",
            Self::AcceptEvidence => "accept_evidence",
            Self::Reconcile => "reconcile",
            Self::ReplicatePrivate => "replicate_private",
            Self::ReplicatePublic => "replicate_public",
            Self::ImportBundle => "import_bundle",
            Self::ProbeReach => "probe_reach",
            Self::Relay => "relay",
            Self::UpgradeConnection => "upgrade_connection",
            Self::ShowConsole => "show_console",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why the gate said no. Asking changed nothing; asking again helps once the standing changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The peer's standing is too low for this operation.
    #[error("{operation} refused: {peer} is {standing}")]
    Standing {
        /// Who asked or was to be asked.
        peer: PeerId,
        /// For what.
        operation: Operation,
        /// Where it stands.
        standing: Standing,
    },
    /// The operation is for the operator's own peers and this is not one of them. Only a change of
    /// the configuration helps.
    #[error("{operation} refused: {peer} is not one of the operator's own peers")]
    NotOwnPeer {
        /// Who asked.
        peer: PeerId,
        /// For what.
        operation: Operation,
    },
    /// The network is closed, and the peer has presented no license that opens it.
    #[error("{operation} refused: {peer} has presented no license for this network")]
    Unlicensed {
        /// Who asked or was to be asked.
        peer: PeerId,
        /// For what.
        operation: Operation,
    },
}
