//! What simulated nodes say to each other.
//!
//! Signed objects travel as their real bytes, and so do blocks; what is around them is plain values, because the
//! encoding of messages has tests of its own.

use std::sync::Arc;

use dunlin_archive::catalog::Root;
use dunlin_trust::{SyncAnswer, SyncRequest};
use dunlin_wire::Cid;

use super::notary::{Hash, hash};

/// What kind of signed object it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A segment announcement.
    Announcement,
    /// What authorities revoked.
    Extension,
    /// What a key revoked: itself.
    Withdrawal,
    /// What one says of another.
    Report,
    /// What is proven of another.
    Proof,
    /// Who made which segments.
    Attestation,
    /// What a person prefers.
    Decision,
    /// A template announcement.
    TemplateAnnouncement,
    /// A template set. It is asked for, and does not go round.
    Templates,
}

/// A signed object that goes round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) kind: Kind,
    pub(super) bytes: Arc<[u8]>,
    pub(super) hash: Hash,
}

impl Item {
    pub(super) fn new(kind: Kind, bytes: impl Into<Arc<[u8]>>) -> Arc<Self> {
        let bytes = bytes.into();
        let hash = hash(&bytes);
        Arc::new(Self { kind, bytes, hash })
    }

    /// Returns a short name, for traces and sets.
    pub(super) fn id(&self) -> u64 {
        let (first, _) = self.hash.split_first_chunk::<8>().expect("a hash has 32 bytes");
        u64::from_be_bytes(*first)
    }
}

/// What a node knows, in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) revocations: [u8; 32],
    pub(super) catalog: Option<Root>,
    /// Over attestations, decisions and proofs.
    pub(super) statements: u64,
}

/// A segment on its way, with what its sender signed about it.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) cid: Cid,
    pub(super) bytes: Arc<[u8]>,
    pub(super) served: Option<Arc<[u8]>>,
}

/// A message.
#[derive(Clone, Debug)]
pub(super) enum Message {
    /// A signed object, from whoever heard it.
    Gossip(Arc<Item>),
    /// What the sender knows. The other answers with what it knows itself.
    Hello(Arc<Summary>),
    /// The answer.
    Welcome(Arc<Summary>),
    /// A question for revocations that were missed.
    AskRevocations(Arc<SyncRequest>),
    /// The answer.
    Revocations(Arc<SyncAnswer>),
    /// A question for nodes of the catalog.
    AskNodes(Vec<Cid>),
    /// The answer.
    Nodes(Vec<(Cid, Arc<[u8]>)>),
    /// A question for segments.
    AskSegments(Vec<Cid>),
    /// The answer.
    Segments(Vec<Sent>),
    /// Names of all statements that the sender has.
    AskStatements(Arc<[u64]>),
    /// The others.
    Statements(Vec<Arc<Item>>),
    /// A question for the receiver's own template set.
    AskTemplates,
    /// The answer.
    Templates(Arc<Item>),
}

impl Message {
    /// Returns its name, for traces.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Gossip(item) => match item.kind {
                Kind::Announcement => "announcement",
                Kind::Extension => "extension",
                Kind::Withdrawal => "withdrawal",
                Kind::Report => "report",
                Kind::Proof => "proof",
                Kind::Attestation => "attestation",
                Kind::Decision => "decision",
                Kind::TemplateAnnouncement => "new-templates",
                Kind::Templates => "template-set",
            },
            Self::Hello(_) => "hello",
            Self::Welcome(_) => "welcome",
            Self::AskRevocations(_) => "ask-revocations",
            Self::Revocations(_) => "revocations",
            Self::AskNodes(_) => "ask-nodes",
            Self::Nodes(_) => "nodes",
            Self::AskSegments(_) => "ask-segments",
            Self::Segments(_) => "segments",
            Self::AskStatements(_) => "ask-statements",
            Self::Statements(_) => "statements",
            Self::AskTemplates => "ask-templates",
            Self::Templates(_) => "templates",
        }
    }

    /// Returns a number that stands for its content in traces.
    pub(super) fn id(&self) -> u64 {
        let of = |cids: &[Cid]| cids.first().map_or(0, |cid| of_bytes(cid.hash().digest()));
        match self {
            Self::Gossip(item) | Self::Templates(item) => item.id(),
            Self::Hello(summary) | Self::Welcome(summary) => {
                let root = summary.catalog.map_or(0, |root| of_bytes(root.cid.hash().digest()));
                of_bytes(&summary.revocations) ^ root ^ summary.statements
            }
            Self::AskRevocations(_) | Self::AskTemplates => 0,
            Self::Revocations(answer) => {
                (answer.extensions.len() + answer.withdrawals.len()) as u64
            }
            Self::AskNodes(cids) | Self::AskSegments(cids) => of(cids),
            Self::Nodes(blocks) => blocks.first().map_or(0, |(cid, _)| of(&[*cid])),
            Self::Segments(sent) => sent.first().map_or(0, |sent| of_bytes(&sent.bytes)),
            Self::AskStatements(names) => names.len() as u64,
            Self::Statements(items) => items.first().map_or(0, |item| item.id()),
        }
    }
}

fn of_bytes(bytes: &[u8]) -> u64 {
    bytes.first_chunk::<8>().map_or(bytes.len() as u64, |first| u64::from_be_bytes(*first))
}
