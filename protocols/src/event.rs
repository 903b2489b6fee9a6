//! What the network tells the shell.

use dunlin_archive::bitswap::{Found, Query};
use dunlin_trust::Record;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::oneshot;

use crate::{
    known_peers::KnownPeer,
    messages::{
        CatalogsRequest, CatalogsResponse, ConsoleView, RefusalReason, ReplicasRequest,
        ReplicasResponse, SegmentAnnouncement, SegmentsRequest, SegmentsResponse,
        TemplateAnnouncement, TemplatesRequest, TemplatesResponse,
    },
};

/// Something that happened. Whoever holds the queue reads it all the time: when it is full, requests are
/// refused as busy and the rest is dropped and counted.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The node listens here; the address ends in its peer id.
    Listening(Multiaddr),
    /// A peer of our network is connected and known by its protocols.
    PeerConnected(PeerId),
    /// The last connection with a peer is gone.
    PeerDisconnected(PeerId),
    /// A peer that may ask for segments does, or a stranger asks for blocks.
    SegmentsRequested {
        /// The peer.
        peer: PeerId,
        /// What it may have.
        audience: Audience,
        /// What it asks.
        request: SegmentsRequest,
        /// Where the answer goes.
        reply: SegmentsReply,
    },
    /// A peer wants blocks over bitswap.
    BlocksWanted {
        /// The peer.
        peer: PeerId,
        /// What it may have.
        audience: Audience,
        /// What to look up, most wanted first.
        queries: Vec<Query>,
        /// Where the answer goes.
        reply: BlocksReply,
    },
    /// A peer that may ask for templates does.
    TemplatesRequested {
        /// The peer.
        peer: PeerId,
        /// What it asks.
        request: TemplatesRequest,
        /// Where the answer goes.
        reply: TemplatesReply,
    },
    /// An own peer wants to know whether both know the same.
    CatalogsRequested {
        /// The peer.
        peer: PeerId,
        /// What it asks, and what it knows.
        request: CatalogsRequest,
        /// Where the answer goes.
        reply: CatalogsReply,
    },
    /// A peer that may have objects held here wants something about them.
    ReplicasRequested {
        /// The peer.
        peer: PeerId,
        /// What it asks.
        request: ReplicasRequest,
        /// Where the answer goes.
        reply: ReplicasReply,
    },
    /// The operator's console, which was let in, wants to be shown what the node knows.
    ConsoleLooks {
        /// The console.
        peer: PeerId,
        /// Where the answer goes.
        reply: ConsoleReply,
    },
    /// A peer in good standing has new segments.
    SegmentsAnnounced {
        /// The peer whose segments they are.
        peer: PeerId,
        /// What it says.
        announcement: SegmentAnnouncement,
    },
    /// A peer in good standing released templates.
    TemplatesAnnounced {
        /// The peer whose templates they are.
        peer: PeerId,
        /// What it says.
        announcement: TemplateAnnouncement,
    },
    /// Revocations were checked, and count once they are on disk: write them down, and say so. None is lost, and
    /// the next ones come when these are kept.
    RevocationsChecked {
        /// Records for [`dunlin_trust::Trust::restore_revocation`], in this order.
        records: Vec<Vec<u8>>,
        /// Whether these take the place of all records before, or come after them.
        is_everything: bool,
        /// Where the answer goes.
        reply: RevocationsKept,
    },
    /// Where peers are has changed: keep it, in place of what was kept. At most once in half a minute, and at the end.
    PeersKnown(Vec<KnownPeer>),
    /// The proofs that this node can show others have changed: keep them, in place of those that were kept. At most once in
    /// some seconds, and at the end.
    ProofsHeld(Vec<Vec<u8>>),
    /// What is known of peers changed: keep it.
    TrustChanged {
        /// Records to keep.
        changed: Vec<Record>,
        /// Peers whose records may go: there are more peers than records are kept of.
        forgotten: Vec<PeerId>,
    },
}

/// Who asks, as far as it decides what may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// One of the operator's own peers: it may have everything.
    OwnPeer,
    /// Somebody else: it may have what is public, and cannot tell whether anything else is here.
    Stranger,
}

/// Where the news goes that revocations are on disk. Dropped without it, they do not count.
#[derive(Debug)]
pub struct RevocationsKept(pub(crate) oneshot::Sender<bool>);

impl RevocationsKept {
    /// Says that they are on disk.
    pub fn kept(self) {
        // The network may have ended.
        self.0.send(true).ok();
    }
}

/// Where the answer to a request goes. Dropped without an answer, it says that the node failed.
#[derive(Debug)]
pub struct SegmentsReply(pub(crate) oneshot::Sender<SegmentsResponse>);

impl SegmentsReply {
    /// Answers the request.
    pub fn send(self, response: SegmentsResponse) {
        // The peer may have given up.
        self.0.send(response).ok();
    }

    /// Answers that there is no answer.
    pub fn refuse(self, reason: RefusalReason) {
        self.send(SegmentsResponse::Refused { reason });
    }
}

/// Where what was found goes. Dropped without an answer, the blocks count as not here.
#[derive(Debug)]
pub struct BlocksReply(pub(crate) oneshot::Sender<Vec<Found>>);

impl BlocksReply {
    /// Answers the queries in their order. Those behind the end of the answer are put again: a shell that
    /// has read [`dunlin_archive::bitswap::BATCH_BYTES_MAX`] stops.
    pub fn send(self, found: Vec<Found>) {
        // The network may have ended.
        self.0.send(found).ok();
    }
}

/// Where the answer to a request goes. Dropped without an answer, it says that the node failed.
#[derive(Debug)]
pub struct TemplatesReply(pub(crate) oneshot::Sender<TemplatesResponse>);

impl TemplatesReply {
    /// Answers the request.
    pub fn send(self, response: TemplatesResponse) {
        // The peer may have given up.
        self.0.send(response).ok();
    }

    /// Answers that there is no answer.
    pub fn refuse(self, reason: RefusalReason) {
        self.send(TemplatesResponse::Refused { reason });
    }
}

/// Where the answer to a request goes. Dropped without an answer, it says that the node failed.
#[derive(Debug)]
pub struct CatalogsReply(pub(crate) oneshot::Sender<CatalogsResponse>);

impl CatalogsReply {
    /// Answers the request.
    pub fn send(self, response: CatalogsResponse) {
        // The peer may have given up.
        self.0.send(response).ok();
    }

    /// Answers that there is no answer.
    pub fn refuse(self, reason: RefusalReason) {
        self.send(CatalogsResponse::Refused { reason });
    }
}

/// Where the answer to a request goes. Dropped without an answer, it says that the node failed.
#[derive(Debug)]
pub struct ReplicasReply(pub(crate) oneshot::Sender<ReplicasResponse>);

impl ReplicasReply {
    /// Answers the request.
    pub fn send(self, response: ReplicasResponse) {
        // The peer may have given up.
        self.0.send(response).ok();
    }

    /// Answers that there is no answer.
    pub fn refuse(self, reason: RefusalReason) {
        self.send(ReplicasResponse::Refused { reason });
    }
}

/// Where what a console is shown goes. Dropped without it, the console is told that the node failed.
#[derive(Debug)]
pub struct ConsoleReply(pub(crate) oneshot::Sender<ConsoleView>);

impl ConsoleReply {
    /// Shows it.
    pub fn send(self, view: ConsoleView) {
        // The console may have gone.
        self.0.send(view).ok();
    }
}
