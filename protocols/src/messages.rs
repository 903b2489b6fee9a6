//! What peers say to each other: requests, responses and announcements.
//!
//! All of it is canonical DAG-CBOR; `docs/formats/messages.md` has the tables and
//! `protocols/tests/golden.rs` the bytes. Types here are pure: they know no stream and no swarm.

use dunlin_wire::{Cid, block::Block, cbor, envelope::Payload, limits::MESSAGE_BYTES_MAX};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Protocol id of segment exchange.
pub const SEGMENTS_PROTOCOL: &str = "/dunlin/segments/1";
/// Protocol id of template exchange.
pub const TEMPLATES_PROTOCOL: &str = "/dunlin/templates/1";

/// Largest request: a full list of CIDs, with room.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Largest response.
pub const RESPONSE_BYTES_MAX: usize = MESSAGE_BYTES_MAX;
/// Most CIDs in one request.
pub const CIDS_PER_REQUEST_MAX: usize = 256;
/// Most CIDs on one page of a list.
pub const CIDS_PER_PAGE_MAX: usize = 1024;
/// Longest name of a collection, in bytes.
pub const COLLECTION_BYTES_MAX: usize = 64;
/// Most template envelopes in one response.
pub const ENVELOPES_MAX: usize = 16;

/// An object of the protocol: bytes of bounded size that mean exactly one thing.
pub trait Message: Serialize + DeserializeOwned {
    /// Largest encoding, in bytes.
    const BYTES_MAX: usize;

    /// Checks what the types alone do not.
    ///
    /// # Errors
    ///
    /// Fails when a list or name is longer than the protocol allows.
    fn check(&self) -> Result<(), MessageError>;

    /// Returns the canonical bytes.
    ///
    /// # Errors
    ///
    /// Fails when the message breaks a limit.
    fn encode(&self) -> Result<Vec<u8>, MessageError> {
        self.check()?;
        let bytes = cbor::encode(self)?;
        at_most("a message with bytes", bytes.len(), Self::BYTES_MAX)?;
        Ok(bytes)
    }

    /// Returns the object in `bytes`.
    ///
    /// # Errors
    ///
    /// Fails on anything but the canonical encoding of an object within all limits.
    fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let message: Self = cbor::decode(bytes, Self::BYTES_MAX)?;
        message.check()?;
        Ok(message)
    }
}

/// Why bytes are no message, or a message has no bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Not canonical DAG-CBOR of this kind of message.
    #[error(transparent)]
    Decode(#[from] cbor::DecodeError),
    /// There is no encoding.
    #[error(transparent)]
    Encode(#[from] cbor::EncodeError),
    /// A list or name is longer than the protocol allows.
    #[error("{what} of {count}, but at most {max} are allowed")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        count: usize,
        /// How much there may be.
        max: usize,
    },
}

fn at_most(what: &'static str, count: usize, max: usize) -> Result<(), MessageError> {
    if count <= max { Ok(()) } else { Err(MessageError::TooMany { what, count, max }) }
}

/// A question about segments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SegmentsRequest {
    /// For blocks: segment summaries or payload blocks.
    Blocks {
        /// At most [`CIDS_PER_REQUEST_MAX`].
        cids: Vec<Cid>,
    },
    /// For the CIDs of a collection's segments, in order of their bytes.
    List {
        /// The collection.
        collection: String,
        /// Behind this CID.
        after: Option<Cid>,
        /// At most this many, up to [`CIDS_PER_PAGE_MAX`].
        limit: u16,
    },
}

impl Message for SegmentsRequest {
    const BYTES_MAX: usize = REQUEST_BYTES_MAX;

    fn check(&self) -> Result<(), MessageError> {
        match self {
            Self::Blocks { cids } => at_most("a list of CIDs", cids.len(), CIDS_PER_REQUEST_MAX),
            Self::List { collection, limit, .. } => {
                at_most("a page", usize::from(*limit), CIDS_PER_PAGE_MAX)?;
                at_most("a name with bytes", collection.len(), COLLECTION_BYTES_MAX)
            }
        }
    }
}

/// Bytes that claim to be a block. Whoever receives them checks.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimedBlock {
    /// What they claim to be.
    pub cid: Cid,
    /// The bytes.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for ClaimedBlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClaimedBlock").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl From<Block> for ClaimedBlock {
    fn from(block: Block) -> Self {
        Self { cid: *block.cid(), bytes: block.into_bytes() }
    }
}

/// An answer about segments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SegmentsResponse {
    /// Blocks, as many as fit; those in neither list are to be asked for again.
    Blocks {
        /// What is here.
        blocks: Vec<ClaimedBlock>,
        /// What is not.
        missing: Vec<Cid>,
    },
    /// One page of CIDs; the last page is shorter than was asked for.
    Page {
        /// In order of their bytes.
        cids: Vec<Cid>,
    },
    /// No answer.
    Refused {
        /// Why.
        reason: RefusalReason,
    },
}

impl SegmentsResponse {
    /// Returns the answer with as many of `found` as fit into one message; the rest is left out, so
    /// that it is asked for again.
    #[must_use]
    pub fn fitting(found: Vec<Block>, missing: Vec<Cid>) -> Self {
        // A CID and the framing around a block take less than this.
        const FRAMING_BYTES: usize = 64;
        let mut room = RESPONSE_BYTES_MAX - FRAMING_BYTES * (missing.len() + 1);
        let mut blocks = Vec::new();
        for block in found {
            let Some(left) = room.checked_sub(block.bytes().len() + FRAMING_BYTES) else {
                continue;
            };
            room = left;
            blocks.push(block.into());
        }
        Self::Blocks { blocks, missing }
    }
}

impl Message for SegmentsResponse {
    const BYTES_MAX: usize = RESPONSE_BYTES_MAX;

    fn check(&self) -> Result<(), MessageError> {
        match self {
            Self::Blocks { blocks, missing } => {
                at_most("a list of blocks", blocks.len() + missing.len(), CIDS_PER_REQUEST_MAX)
            }
            Self::Page { cids } => at_most("a list of CIDs", cids.len(), CIDS_PER_PAGE_MAX),
            Self::Refused { .. } => Ok(()),
        }
    }
}

/// A question for released templates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplatesRequest {
    /// Of this collection.
    pub collection: String,
    /// Version of the request.
    pub version: u8,
}

impl TemplatesRequest {
    /// Returns the request for a collection's templates.
    #[must_use]
    pub fn new(collection: impl Into<String>) -> Self {
        Self { collection: collection.into(), version: VERSION }
    }
}

impl Message for TemplatesRequest {
    const BYTES_MAX: usize = REQUEST_BYTES_MAX;

    fn check(&self) -> Result<(), MessageError> {
        at_most("a version", self.version.into(), VERSION.into())?;
        at_most("a name with bytes", self.collection.len(), COLLECTION_BYTES_MAX)
    }
}

/// An answer with released templates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TemplatesResponse {
    /// Signed envelopes, newest release first.
    Envelopes {
        /// Each is an encoded envelope.
        envelopes: Vec<serde_bytes::ByteBuf>,
    },
    /// No answer.
    Refused {
        /// Why.
        reason: RefusalReason,
    },
}

impl Message for TemplatesResponse {
    const BYTES_MAX: usize = RESPONSE_BYTES_MAX;

    fn check(&self) -> Result<(), MessageError> {
        match self {
            Self::Envelopes { envelopes } => {
                at_most("a list of envelopes", envelopes.len(), ENVELOPES_MAX)
            }
            Self::Refused { .. } => Ok(()),
        }
    }
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalReason {
    /// The asker may not have this.
    Denied,
    /// Too many requests; ask again later.
    Busy,
    /// The node failed to read its store.
    Failed,
}

/// Version of announcements.
const VERSION: u8 = 1;

/// Says how many segments of a collection a peer has. It does not say which: a CID of private data is a
/// way to test a guess about it, so those who may know ask for the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentAnnouncement {
    /// The collection.
    pub collection: String,
    /// How many segments.
    pub count: u64,
    /// Sha2-256 over their CIDs, in order: equal sets have equal digests.
    #[serde(with = "serde_bytes")]
    pub digest: [u8; 32],
    /// Counts up with every announcement of this peer: what is not newer is old news.
    pub sequence: u64,
    /// Version of this object.
    pub version: u8,
}

impl SegmentAnnouncement {
    /// Returns the announcement of `count` segments whose CIDs hash to `digest`.
    #[must_use]
    pub fn new(collection: impl Into<String>, count: u64, digest: [u8; 32], sequence: u64) -> Self {
        Self { collection: collection.into(), count, digest, sequence, version: VERSION }
    }
}

impl Payload for SegmentAnnouncement {
    const TYPE: &'static str = "dunlin/segment-announcement/1";
    const BYTES_MAX: usize = 256;
}

/// Says that a peer released templates, and which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateAnnouncement {
    /// The collection.
    pub collection: String,
    /// How many templates the set holds.
    pub count: u32,
    /// Sha2-256 of the set's envelope: who has it already need not ask.
    #[serde(with = "serde_bytes")]
    pub digest: [u8; 32],
    /// Counts up with every announcement of this peer.
    pub sequence: u64,
    /// Version of this object.
    pub version: u8,
}

impl TemplateAnnouncement {
    /// Returns the announcement of a set of `count` templates whose envelope hashes to `digest`.
    #[must_use]
    pub fn new(collection: impl Into<String>, count: u32, digest: [u8; 32], sequence: u64) -> Self {
        Self { collection: collection.into(), count, digest, sequence, version: VERSION }
    }
}

impl Payload for TemplateAnnouncement {
    const TYPE: &'static str = "dunlin/template-announcement/1";
    const BYTES_MAX: usize = 256;
}

/// What both kinds of announcement have in common.
pub(crate) trait Announcement: Payload {
    fn is_valid(&self) -> bool;
    /// The collection and the place in the order of its author's announcements.
    fn place(&self) -> (&str, u64);
}

impl Announcement for SegmentAnnouncement {
    fn is_valid(&self) -> bool {
        self.version == VERSION && self.collection.len() <= COLLECTION_BYTES_MAX
    }

    fn place(&self) -> (&str, u64) {
        (&self.collection, self.sequence)
    }
}

impl Announcement for TemplateAnnouncement {
    fn is_valid(&self) -> bool {
        self.version == VERSION && self.collection.len() <= COLLECTION_BYTES_MAX
    }

    fn place(&self) -> (&str, u64) {
        (&self.collection, self.sequence)
    }
}
