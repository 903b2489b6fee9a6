//! What a core of replication is told, what it says, and what there is to see of it.

use std::time::Duration;

use dunlin_wire::Cid;
use libp2p_identity::PeerId;

use super::{Fit, Nonce, Placed};

/// A request that is under way; its answer names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// An object that shall have replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The object's root.
    pub root: Cid,
    /// Whether strangers may have it.
    pub is_public: bool,
}

/// A peer that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The peer.
    pub peer: PeerId,
    /// What it may hold.
    pub fit: Fit,
    /// Whether it is connected.
    pub is_here: bool,
}

/// What a peer said to holding an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskOutcome {
    /// It holds the object, durably.
    Held,
    /// It will, and fetches it.
    Pending,
    /// It has too much to fetch now.
    Busy,
    /// It has no room for us.
    Full,
    /// It does not hold such a thing for us.
    Denied,
    /// This node has no such object, or none that can have replicas; the peer was not asked.
    Absent,
}

/// What a challenge showed about one sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds the block.
    Right,
    /// Its proof is of something else.
    Wrong,
    /// It says that it does not hold the block.
    Missing,
    /// This node cannot tell: its own copy is not readable.
    Unknown,
}

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No answer came; what the peer did is unknown.
    Unanswered,
    /// The peer does nothing of the kind for us.
    Denied,
    /// The request was never sent, or the peer was too busy to read it.
    Unsent,
}

/// A fact that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// From here on all objects are told anew.
    Telling,
    /// These objects shall have replicas.
    Wanted(Vec<Wanted>),
    /// All were told since [`Input::Telling`]: the replicas of others are released.
    Told,
    /// These are all the peers that are known.
    Peers(Vec<Candidate>),
    /// The answer to [`Action::Ask`], for each of its roots.
    Asked(RequestId, Result<Vec<AskOutcome>, Failure>),
    /// The answer to [`Action::Release`].
    Released(RequestId, Result<(), Failure>),
    /// What [`Action::Challenge`] showed, for each of its samples.
    Challenged(RequestId, Result<Vec<Verdict>, Failure>),
}

/// Something to do. What an [`Action::Keep`] says is to be durable before anything behind it is done; when it
/// cannot be written, requests behind it are answered with [`Failure::Unsent`] and it is handed in again by
/// the next start, which finds the state before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write down where an object is.
    Keep(Record),
    /// Ask a peer to hold objects, or whether it does by now.
    Ask {
        /// Its name.
        request: RequestId,
        /// Whom.
        peer: PeerId,
        /// What, at most [`ASK_MAX`](super::ASK_MAX).
        roots: Vec<Cid>,
    },
    /// Tell a peer that it need not hold objects.
    Release {
        /// Its name.
        request: RequestId,
        /// Whom.
        peer: PeerId,
        /// What, at most [`RELEASE_MAX`](super::RELEASE_MAX).
        roots: Vec<Cid>,
    },
    /// Have a peer prove that it holds blocks.
    Challenge {
        /// Its name.
        request: RequestId,
        /// Whom.
        peer: PeerId,
        /// Used once.
        nonce: Nonce,
        /// Which blocks, at most [`SAMPLES`](super::SAMPLES).
        samples: Vec<Sample>,
    },
    /// A peer confirmed that it holds an object, and does not.
    Judge {
        /// The peer.
        peer: PeerId,
        /// How it came out.
        conduct: Conduct,
    },
}

/// How a peer failed a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// It says that it lost something.
    Lost,
    /// It gave a proof of something that it does not hold.
    WrongProof,
}

/// A block to be proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The object.
    pub root: Cid,
    /// Which of its blocks: this number, modulo how many there are, counted from the root on.
    pub pick: u64,
}

/// Where an object is, as it is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The object.
    pub root: Cid,
    /// The peer.
    pub peer: PeerId,
    /// In which state; nothing, when the record is to be removed.
    pub state: Option<Placed>,
}

/// What was done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Placements that peers confirmed.
    pub placed: u64,
    /// Placements that peers refused.
    pub refused: u64,
    /// Placements that were lost: the peer left, lost standing, or failed a challenge.
    pub lost: u64,
    /// Placements that were released.
    pub released: u64,
    /// Challenges that were sent.
    pub challenges: u64,
    /// Blocks that were proved.
    pub proofs_right: u64,
    /// Blocks that were not.
    pub proofs_failed: u64,
    /// Challenges without an answer.
    pub challenges_unanswered: u64,
}

/// How things stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many replicas each object shall have.
    pub replicas: usize,
    /// Objects by how many replicas they have now, from none on.
    pub objects: Vec<u64>,
    /// Objects that cannot have replicas: too large, or not readable here.
    pub unfit: u64,
    /// Objects for which there was no place in memory.
    pub untracked: u64,
    /// Peers that hold something or could.
    pub peers: Vec<PeerSummary>,
}

/// How things stand with one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSummary {
    /// The peer.
    pub peer: PeerId,
    /// What it may hold.
    pub fit: Fit,
    /// Whether it is connected.
    pub is_here: bool,
    /// Replicas that it confirmed.
    pub held: u64,
    /// Replicas that it was asked for.
    pub asked: u64,
    /// Replicas that count no more, and that it is to be told to let go of.
    pub lost: u64,
    /// How long nothing more is given to it.
    pub paused: Option<Duration>,
    /// How long ago it last proved all that it was asked for.
    pub proved_ago: Option<Duration>,
    /// Blocks that it proved since the start.
    pub proofs_right: u64,
    /// Blocks that it did not.
    pub proofs_failed: u64,
}
