//! The manifest: what a bundle is, in the words of who signed it.

use dunlin_wire::{Cid, block::Codec, envelope::Payload};
use serde::{Deserialize, Serialize};

/// The version of the manifest.
const VERSION: u8 = 1;

/// Most blocks of one bundle. They bound its index (44 MiB) and what a reader remembers of payload blocks
/// (34 MiB at worst; 1 GiB of full-sized ones are 32 KiB). What does not fit goes into the next bundle.
pub const BLOCKS_MAX: u64 = 1 << 20;

/// Most templates of one bundle: as many as a node holds.
pub const TEMPLATES_MAX: u64 = 256;

/// Most collections to which one bundle may be narrowed.
pub const COLLECTIONS_MAX: usize = 256;

/// Longest name of a collection, in bytes.
const COLLECTION_BYTES_MAX: usize = 64;

/// What a bundle is. Who made it is whoever signed the envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Fields", into = "Fields")]
pub struct Manifest {
    /// Its number among all bundles of its sender, from 1.
    pub sequence: u64,
    /// The CID of the sender's bundle before it; none for the first one.
    pub previous: Option<Cid>,
    /// The wall clock of the sender when it was made, in milliseconds since the epoch.
    pub created_unix_ms: u64,
    /// What went into it, and how.
    pub policy: Policy,
    /// How much is in it.
    pub counts: Counts,
    /// The time that its segments cover; none without segments.
    pub span: Option<Span>,
    /// The index, which names every block: the digest of everything.
    pub content: Cid,
}

/// What the sender chose to put into a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The form in which segments left.
    pub form: Form,
    /// Segments that end at this time or later, in microseconds since the epoch; none says: what no bundle
    /// of the sender carried before.
    pub since_us: Option<i64>,
    /// Of these collections alone; of all, when there are none.
    pub collections: Vec<String>,
}

/// The form of segments in a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// As they are in the store, neither encrypted nor noised: for the operator's own peers.
    Private,
}

/// How much is in a bundle, index and manifest left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Blocks: segments, their payload, templates.
    pub blocks: u64,
    /// Their size.
    pub bytes: u64,
    /// Segments.
    pub segments: u64,
    /// Template sets.
    pub templates: u64,
}

/// A stretch of time, both ends included, in microseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// Its first moment.
    pub from_us: i64,
    /// Its last one.
    pub to_us: i64,
}

impl Span {
    /// Returns the shortest stretch that holds both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { from_us: self.from_us.min(other.from_us), to_us: self.to_us.max(other.to_us) }
    }
}

impl Payload for Manifest {
    const TYPE: &'static str = "dunlin/bundle/1";
    /// All collections with the longest names, and the rest, with room.
    const BYTES_MAX: usize = 20 * 1024;
}

/// The manifest as it is encoded.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    content: Cid,
    counts: Counts,
    created_unix_ms: u64,
    policy: Policy,
    previous: Option<Cid>,
    sequence: u64,
    span: Option<Span>,
    version: u8,
}

impl From<Manifest> for Fields {
    fn from(manifest: Manifest) -> Self {
        let Manifest { sequence, previous, created_unix_ms, policy, counts, span, content } =
            manifest;
        let version = VERSION;
        Self { content, counts, created_unix_ms, policy, previous, sequence, span, version }
    }
}

impl TryFrom<Fields> for Manifest {
    type Error = &'static str;

    fn try_from(fields: Fields) -> Result<Self, &'static str> {
        let Fields { content, counts, created_unix_ms, policy, previous, sequence, span, version } =
            fields;
        let objects = counts.segments.checked_add(counts.templates);
        let is_name = |name: &String| (1..=COLLECTION_BYTES_MAX).contains(&name.len());
        let mistakes = [
            (version != VERSION, "a version that this build does not know"),
            (sequence == 0, "bundles are numbered from 1"),
            ((sequence == 1) != previous.is_none(), "the first bundle alone has none before it"),
            (counts.blocks > BLOCKS_MAX, "too many blocks"),
            (counts.templates > TEMPLATES_MAX, "too many templates"),
            (objects.is_none_or(|objects| objects > counts.blocks), "more objects than blocks"),
            ((counts.segments == 0) != span.is_none(), "a time for segments, and no other"),
            (
                span.is_some_and(|span| span.from_us > span.to_us),
                "a time that ends before it begins",
            ),
            (policy.collections.len() > COLLECTIONS_MAX, "too many collections"),
            (!policy.collections.iter().all(is_name), "a name that no collection has"),
            (!is_ours(&content) || !previous.iter().all(is_ours), "a link to something else"),
        ];
        match mistakes.into_iter().find(|(is_wrong, _)| *is_wrong) {
            Some((_, mistake)) => Err(mistake),
            None => Ok(Self { sequence, previous, created_unix_ms, policy, counts, span, content }),
        }
    }
}

/// Returns whether a CID is of the kind that manifests and indexes have.
fn is_ours(cid: &Cid) -> bool {
    cid.hash().digest().len() == 32
        && dunlin_wire::block::cid_of_digest(
            Codec::DagCbor,
            cid.hash().digest().try_into().expect("32 bytes were counted"),
        ) == *cid
}
