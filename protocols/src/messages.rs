//! What peers say to each other: requests, responses and announcements.
//!
//! All of it is canonical DAG-CBOR; `docs/formats/messages.md` has the tables and
//! `protocols/tests/golden.rs` the bytes. Types here are pure: they know no stream and no swarm.

mod catalogs;
mod console;
mod membership;
mod replicas;
mod testimony;

use dunlin_trust::{Exclusive, SERVED_OBJECTS_MAX, SentObject, Served};
use dunlin_wire::{
    Cid,
    block::Block,
    cbor,
    envelope::{self, Payload, SignError},
    limits::{ENVELOPE_OVERHEAD_BYTES_MAX, MESSAGE_BYTES_MAX},
};
use libp2p::identity::Keypair;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;

pub use self::{
    catalogs::{
        CATALOGS_MAX, CatalogRoot, Catalogs, CatalogsRequest, CatalogsResponse,
        STATEMENTS_PER_REQUEST_MAX,
    },
    console::{
        CONSOLE_PEERS_MAX, CONSOLE_PROBLEMS_MAX, CONSOLE_PROTOCOLS_MAX, CONSOLE_REQUEST_BYTES_MAX,
        CONSOLE_RESPONSE_BYTES_MAX, CONSOLE_SEGMENTS_MAX, CONSOLE_TEXT_BYTES_MAX, ConsolePeer,
        ConsoleRequest, ConsoleResponse, ConsoleSegment, ConsoleView, Ticket, console_text,
    },
    membership::{MembershipRequest, MembershipResponse, PROOFS_PER_ANSWER_MAX, Revocation},
    replicas::{PinOutcome, ReplicaBlock, ReplicaObject, ReplicasRequest, ReplicasResponse},
    testimony::{TESTIMONY_BYTES_MAX, Testimony},
};

/// Protocol id of segment exchange, as it was before answers were signed.
pub const SEGMENTS_PROTOCOL: &str = "/dunlin/segments/1";
/// Protocol id of segment exchange with signed answers.
pub const SIGNED_SEGMENTS_PROTOCOL: &str = "/dunlin/segments/2";
/// Protocol id of template exchange.
pub const TEMPLATES_PROTOCOL: &str = "/dunlin/templates/1";
/// Protocol id of the comparison of catalogs, as it was before statements were handed on with it.
pub const CATALOG_PROTOCOL: &str = "/dunlin/catalog/1";
/// Protocol id of the comparison of catalogs, and of statements that whoever hands them on has checked.
pub const CHECKED_CATALOG_PROTOCOL: &str = "/dunlin/catalog/2";
/// Protocol id of replication.
pub const REPLICAS_PROTOCOL: &str = "/dunlin/replicas/1";
/// Protocol id of licenses and revocations.
pub const MEMBERSHIP_PROTOCOL: &str = "/dunlin/membership/1";
/// Protocol id of the operator's console.
pub const CONSOLE_PROTOCOL: &str = "/dunlin/console/1";

/// Largest request: a full list of CIDs, with room.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Largest response.
pub const RESPONSE_BYTES_MAX: usize = MESSAGE_BYTES_MAX;
/// Most CIDs in one request.
pub const CIDS_PER_REQUEST_MAX: usize = SERVED_OBJECTS_MAX;
/// Largest envelope around what is said about the blocks of an answer.
const SERVED_BYTES_MAX: usize = Served::BYTES_MAX + ENVELOPE_OVERHEAD_BYTES_MAX;
/// Most CIDs on one page of a list.
pub const CIDS_PER_PAGE_MAX: usize = 1024;
/// Longest name of a collection, in bytes.
pub const COLLECTION_BYTES_MAX: usize = 64;
/// Most template envelopes in one response.
pub const ENVELOPES_MAX: usize = 16;

/// Most objects in one question to hold them.
pub const OBJECTS_PER_REQUEST_MAX: usize = 64;
/// Most CIDs of all objects in one question to hold them.
pub const OBJECT_CIDS_MAX: usize = 1024;
/// Most blocks in one challenge.
pub const PROOFS_MAX: usize = 16;
/// Largest revocation that is handed over whole: a log of all the keys that it may have, with its signatures.
pub const REVOCATION_BYTES_MAX: usize = MESSAGE_BYTES_MAX;

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

    /// Leaves out what a version of its protocol does not have. Most have one version.
    fn leave_out(&mut self, _protocol: &str) {}

    /// Checks what a version of its protocol asks for beside that.
    ///
    /// # Errors
    ///
    /// Fails when that version has no such message.
    fn check_version(&self, _protocol: &str) -> Result<(), MessageError> {
        Ok(())
    }

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
    /// Blocks are signed for in the version with signed answers, and in no other; statements are in any.
    #[error("an answer that is not signed where it has to be, or signed where nobody asked for it")]
    Signature,
    /// Its version of the protocol has no such message.
    #[error("a message that this version of the protocol does not have")]
    Version,
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
        /// The envelope of a [`Served`] about the blocks, in their order; none where there are no blocks, nor in the version
        /// without signed answers. Who answers leaves it out: the network signs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        served: Option<ByteBuf>,
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
        let framing = FRAMING_BYTES * (missing.len() + 1);
        let mut room = RESPONSE_BYTES_MAX - SERVED_BYTES_MAX - framing;
        let mut blocks = Vec::new();
        for block in found {
            let Some(left) = room.checked_sub(block.bytes().len() + FRAMING_BYTES) else {
                continue;
            };
            room = left;
            blocks.push(block.into());
        }
        Self::Blocks { blocks, missing, served: None }
    }

    /// Signs for the blocks, if there are any and nobody has.
    ///
    /// What is signed is what their CIDs say: they were verified when they were read.
    ///
    /// # Errors
    ///
    /// Fails when the key is of a kind that Dunlin does not use.
    pub fn sign(&mut self, network: &str, keypair: &Keypair) -> Result<(), SignError> {
        let Self::Blocks { blocks, served: served @ None, .. } = self else { return Ok(()) };
        let sent: Vec<_> =
            blocks.iter().map(|one| SentObject::whole(one.cid, &one.bytes)).collect();
        if let Some(statement) = Served::new(network, &sent) {
            *served = Some(envelope::sign(keypair, statement)?.bytes.into());
        }
        Ok(())
    }
}

impl Message for SegmentsResponse {
    const BYTES_MAX: usize = RESPONSE_BYTES_MAX;

    fn leave_out(&mut self, protocol: &str) {
        if let Self::Blocks { served, .. } = self
            && protocol != SIGNED_SEGMENTS_PROTOCOL
        {
            *served = None;
        }
    }

    fn check_version(&self, protocol: &str) -> Result<(), MessageError> {
        let Self::Blocks { blocks, served, .. } = self else { return Ok(()) };
        let is_due = protocol == SIGNED_SEGMENTS_PROTOCOL && !blocks.is_empty();
        if is_due == served.is_some() { Ok(()) } else { Err(MessageError::Signature) }
    }

    fn check(&self) -> Result<(), MessageError> {
        match self {
            Self::Blocks { blocks, missing, served } => {
                let signed = served.as_ref().map_or(0, |served| served.len());
                at_most("a signature with bytes", signed, SERVED_BYTES_MAX)?;
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

/// What both kinds of announcement have in common. Their place is the collection, and where one stands in the order
/// of its author's announcements: two different ones for one place prove that the author says both.
pub trait Announcement: Exclusive {
    /// Returns whether it is of a known version, and its name no longer than a name may be.
    fn is_valid(&self) -> bool;
}

impl Announcement for SegmentAnnouncement {
    fn is_valid(&self) -> bool {
        self.version == VERSION && self.collection.len() <= COLLECTION_BYTES_MAX
    }
}

impl Announcement for TemplateAnnouncement {
    fn is_valid(&self) -> bool {
        self.version == VERSION && self.collection.len() <= COLLECTION_BYTES_MAX
    }
}

impl Exclusive for SegmentAnnouncement {
    fn place(&self) -> (&str, u64) {
        (&self.collection, self.sequence)
    }
}

impl Exclusive for TemplateAnnouncement {
    fn place(&self) -> (&str, u64) {
        (&self.collection, self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use dunlin_wire::block::{Codec, cid_of};
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    fn cids(max: usize) -> impl Strategy<Value = Vec<Cid>> {
        let cid = any::<u64>().prop_map(|seed| cid_of(Codec::DagCbor, &seed.to_be_bytes()));
        vec(cid, 0..=max)
    }

    fn blocks() -> impl Strategy<Value = Vec<ClaimedBlock>> {
        let block = (any::<u64>(), any::<Vec<u8>>());
        let claimed = |(seed, bytes): (u64, _)| ClaimedBlock {
            cid: cid_of(Codec::Raw, &seed.to_be_bytes()),
            bytes,
        };
        vec(block.prop_map(claimed), 0..8)
    }

    fn reasons() -> impl Strategy<Value = RefusalReason> {
        prop_oneof![
            Just(RefusalReason::Denied),
            Just(RefusalReason::Busy),
            Just(RefusalReason::Failed)
        ]
    }

    fn segments_requests() -> impl Strategy<Value = SegmentsRequest> {
        let list = ("[a-z]{0,64}", option::of(any::<u64>()), 0..=CIDS_PER_PAGE_MAX as u16);
        prop_oneof![
            cids(CIDS_PER_REQUEST_MAX).prop_map(|cids| SegmentsRequest::Blocks { cids }),
            list.prop_map(|(collection, after, limit)| {
                let after = after.map(|seed| cid_of(Codec::Raw, &seed.to_be_bytes()));
                SegmentsRequest::List { collection, after, limit }
            }),
        ]
    }

    fn segments_responses() -> impl Strategy<Value = SegmentsResponse> {
        prop_oneof![
            (blocks(), cids(16), option::of(vec(any::<u8>(), 0..=SERVED_BYTES_MAX))).prop_map(
                |(blocks, missing, served)| SegmentsResponse::Blocks {
                    blocks,
                    missing,
                    served: served.map(ByteBuf::from),
                }
            ),
            cids(64).prop_map(|cids| SegmentsResponse::Page { cids }),
            reasons().prop_map(|reason| SegmentsResponse::Refused { reason }),
        ]
    }

    fn templates_responses() -> impl Strategy<Value = TemplatesResponse> {
        let envelope = any::<Vec<u8>>().prop_map(serde_bytes::ByteBuf::from);
        prop_oneof![
            vec(envelope, 0..=ENVELOPES_MAX)
                .prop_map(|envelopes| TemplatesResponse::Envelopes { envelopes }),
            reasons().prop_map(|reason| TemplatesResponse::Refused { reason }),
        ]
    }

    /// A message survives the wire; damaged, it is refused or it is another message with those bytes.
    fn survives<M: Message + PartialEq + std::fmt::Debug>(message: &M, at: usize, flip: u8) {
        let bytes = message.encode().unwrap();
        assert_eq!(M::decode(&bytes).unwrap(), *message);
        let at = at % bytes.len();
        assert!(M::decode(&bytes[..at]).is_err());
        let mut damaged = bytes;
        damaged[at] ^= flip;
        if let Ok(other) = M::decode(&damaged) {
            assert_eq!(other.encode().unwrap(), damaged);
        }
        damaged.push(0);
        assert!(M::decode(&damaged).is_err());
    }

    proptest! {
        #[test]
        fn messages_survive_the_wire_and_damage_is_seen(
            request in segments_requests(),
            response in segments_responses(),
            templates in templates_responses(),
            collection in "[a-z]{0,64}",
            at in any::<usize>(),
            flip in 1u8..,
        ) {
            survives(&request, at, flip);
            survives(&response, at, flip);
            survives(&templates, at, flip);
            survives(&TemplatesRequest::new(collection), at, flip);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in any::<Vec<u8>>()) {
            SegmentsRequest::decode(&bytes).ok();
            SegmentsResponse::decode(&bytes).ok();
            TemplatesRequest::decode(&bytes).ok();
            TemplatesResponse::decode(&bytes).ok();
        }
    }

    #[test]
    fn what_is_too_large_is_neither_written_nor_read() {
        let cid = cid_of(Codec::Raw, b"x");
        let long = "x".repeat(COLLECTION_BYTES_MAX + 1);
        let requests = [
            SegmentsRequest::Blocks { cids: vec![cid; CIDS_PER_REQUEST_MAX + 1] },
            SegmentsRequest::List { collection: long.clone(), after: None, limit: 1 },
            SegmentsRequest::List { collection: "c".into(), after: None, limit: 1025 },
        ];
        for request in requests {
            assert!(matches!(request.encode(), Err(MessageError::TooMany { .. })));
            let bytes = cbor::encode(&request).unwrap();
            assert!(matches!(SegmentsRequest::decode(&bytes), Err(MessageError::TooMany { .. })));
        }
        assert!(TemplatesRequest::new(long).encode().is_err());
        let mut newer = TemplatesRequest::new("c");
        newer.version = 2;
        assert!(newer.encode().is_err());
        let page = SegmentsResponse::Page { cids: vec![cid; CIDS_PER_PAGE_MAX + 1] };
        assert!(page.encode().is_err());
        let block = ClaimedBlock { cid, bytes: vec![0; RESPONSE_BYTES_MAX] };
        let blocks =
            SegmentsResponse::Blocks { blocks: vec![block], missing: Vec::new(), served: None };
        assert!(blocks.encode().is_err());
        let bytes = cbor::encode(&blocks).unwrap();
        let error = SegmentsResponse::decode(&bytes).unwrap_err();
        assert!(matches!(error, MessageError::Decode(cbor::DecodeError::TooLarge { .. })));
    }

    #[test]
    fn blocks_are_signed_for_in_one_version_and_not_in_the_other() {
        let keypair = Keypair::ed25519_from_bytes([7; 32]).unwrap();
        let block = Block::new(Codec::Raw, vec![7]);
        let mut answer = SegmentsResponse::fitting(vec![block], Vec::new());
        let versions = [SEGMENTS_PROTOCOL, SIGNED_SEGMENTS_PROTOCOL];
        let fits = |answer: &SegmentsResponse| {
            versions.map(|version| answer.check_version(version).is_ok())
        };
        assert_eq!(fits(&answer), [true, false]);
        answer.sign("home", &keypair).unwrap();
        assert_eq!(fits(&answer), [false, true]);
        let signed = answer.clone();
        answer.sign("another", &keypair).unwrap();
        answer.leave_out(SIGNED_SEGMENTS_PROTOCOL);
        assert_eq!(answer, signed, "what is signed is not signed again");
        answer.leave_out(SEGMENTS_PROTOCOL);
        assert_eq!(fits(&answer), [true, false]);
        // Where there is no block, there is nothing to sign for.
        let mut nothing = SegmentsResponse::fitting(Vec::new(), vec![cid_of(Codec::Raw, b"x")]);
        nothing.sign("home", &keypair).unwrap();
        assert_eq!(fits(&nothing), [true, true]);
        let long = SegmentsResponse::Blocks {
            blocks: Vec::new(),
            missing: Vec::new(),
            served: Some(vec![0; SERVED_BYTES_MAX + 1].into()),
        };
        assert!(long.encode().is_err());
    }

    #[test]
    fn the_largest_answers_fit() {
        let half = || Block::new(Codec::Raw, vec![7; 2 * 1024 * 1024]);
        let missing = vec![cid_of(Codec::Raw, b"x"); CIDS_PER_REQUEST_MAX - 2];
        let response = SegmentsResponse::fitting(vec![half(), half()], missing);
        let SegmentsResponse::Blocks { blocks, .. } = &response else { panic!("blocks") };
        // The framing leaves no room for the second; it is asked for again.
        assert_eq!(blocks.len(), 1);
        response.encode().unwrap();
        let many = (0..=255u8).map(|byte| Block::new(Codec::Raw, vec![byte; 20_000])).collect();
        let mut full = SegmentsResponse::fitting(many, Vec::new());
        let keypair = Keypair::ed25519_from_bytes([7; 32]).unwrap();
        full.sign(&"n".repeat(64), &keypair).unwrap();
        full.check_version(SIGNED_SEGMENTS_PROTOCOL).unwrap();
        full.encode().unwrap();
        let cids = vec![cid_of(Codec::Raw, b"x"); CIDS_PER_REQUEST_MAX];
        SegmentsRequest::Blocks { cids }.encode().unwrap();
        let cids = vec![cid_of(Codec::Raw, b"x"); CIDS_PER_PAGE_MAX];
        SegmentsResponse::Page { cids }.encode().unwrap();
    }
}
