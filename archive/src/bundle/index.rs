//! The index: every block of a bundle, in order, in parts of bounded size.

use std::collections::HashSet;

use dunlin_wire::{
    Cid,
    block::{Block, Codec},
    cbor,
    limits::BLOCK_BYTES_MAX,
};
use serde::{Deserialize, Serialize};

use super::{
    Counts, Span,
    manifest::{BLOCKS_MAX, TEMPLATES_MAX},
};

/// Most blocks that one part lists: 336 KiB. A reader holds one part.
pub const PART_ENTRIES_MAX: usize = 8192;

/// Most parts of an index: a part for each of thousands of collections, beside the 128 full ones that all
/// blocks need.
const PARTS_MAX: usize = 4096;

/// The version of root, index and parts.
const VERSION: u8 = 1;

/// The root of a bundle's file: version, link to the signed manifest, link to the index.
#[derive(Serialize, Deserialize)]
pub(crate) struct Root(pub(crate) u8, pub(crate) Cid, pub(crate) Cid);

/// The index: version, links to its parts.
#[derive(Serialize, Deserialize)]
pub(crate) struct Index(pub(crate) u8, pub(crate) Vec<Cid>);

/// A part: version, kind, collection, links to the blocks.
#[derive(Serialize, Deserialize)]
pub(crate) struct Part(pub(crate) u8, pub(crate) PartKind, pub(crate) String, pub(crate) Vec<Cid>);

/// What a part lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub(crate) enum PartKind {
    /// Segments of one collection, each with the payload blocks that were not listed before behind it.
    Segments,
    /// Envelopes of template sets, of any collection.
    Templates,
}

impl From<PartKind> for u8 {
    fn from(kind: PartKind) -> Self {
        match kind {
            PartKind::Segments => 0,
            PartKind::Templates => 1,
        }
    }
}

impl TryFrom<u8> for PartKind {
    type Error = &'static str;

    fn try_from(kind: u8) -> Result<Self, &'static str> {
        match kind {
            0 => Ok(Self::Segments),
            1 => Ok(Self::Templates),
            _ => Err("a kind of part that does not exist"),
        }
    }
}

impl Root {
    pub(crate) fn new(manifest: Cid, content: Cid) -> Self {
        Self(VERSION, manifest, content)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        decode(bytes).filter(|Self(version, ..)| *version == VERSION)
    }

    pub(crate) fn to_block(&self) -> Block {
        to_block(self)
    }
}

impl Index {
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        decode(bytes).filter(|Self(version, parts)| *version == VERSION && parts.len() <= PARTS_MAX)
    }
}

impl Part {
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        decode(bytes).filter(|Self(version, kind, collection, entries)| {
            *version == VERSION
                && (1..=PART_ENTRIES_MAX).contains(&entries.len())
                && (*kind == PartKind::Segments) != collection.is_empty()
        })
    }
}

fn decode<T: Serialize + serde::de::DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    cbor::decode(bytes, BLOCK_BYTES_MAX).ok()
}

fn to_block(value: &impl Serialize) -> Block {
    let bytes = cbor::encode(value).expect("numbers, text and links have an encoding");
    Block::new(Codec::DagCbor, bytes)
}

/// A bundle has no room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a bundle has at most {BLOCKS_MAX} blocks, {TEMPLATES_MAX} of them templates")]
pub struct Full;

/// Makes the index of a bundle from the CIDs of its blocks, which stay where they are.
///
/// Parts are handed out as soon as they are complete, for the caller to keep. In memory are one part, and
/// what is remembered of payload blocks to list each once.
#[derive(Debug)]
pub struct Builder {
    kind: PartKind,
    collection: String,
    entries: Vec<Cid>,
    parts: Vec<Cid>,
    payload: HashSet<u128>,
    counts: Counts,
    span: Option<Span>,
}

/// The index of a bundle, and what the manifest says of it.
#[derive(Debug)]
pub struct Contents {
    /// The last part, when there is one.
    pub part: Option<Block>,
    /// The block that links to all parts.
    pub index: Block,
    /// How much there is.
    pub counts: Counts,
    /// The time that the segments cover.
    pub span: Option<Span>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            kind: PartKind::Segments,
            collection: String::new(),
            entries: Vec::new(),
            parts: Vec::new(),
            payload: HashSet::new(),
            counts: Counts::default(),
            span: None,
        }
    }
}

impl Builder {
    /// Lists a segment with the blocks that it links to, each with its size, in their order. Returns the
    /// part that is complete before it.
    ///
    /// # Errors
    ///
    /// Fails when the bundle is full; the segment is not in it then.
    pub fn segment(
        &mut self,
        collection: &str,
        segment: (Cid, usize),
        payload: &[(Cid, usize)],
        span: Span,
    ) -> Result<Option<Block>, Full> {
        let mut blocks = vec![segment];
        for (cid, bytes) in payload {
            let is_listed = self.payload.contains(&fingerprint(cid))
                || blocks.iter().any(|(listed, _)| listed == cid);
            if !is_listed {
                blocks.push((*cid, *bytes));
            }
        }
        let part = self.add(PartKind::Segments, collection, &blocks)?;
        self.payload.extend(blocks[1..].iter().map(|(cid, _)| fingerprint(cid)));
        self.counts.segments += 1;
        self.span = Some(self.span.map_or(span, |covered| covered.and(span)));
        Ok(part)
    }

    /// Lists the envelope of a template set. Returns the part that is complete before it.
    ///
    /// # Errors
    ///
    /// As [`Self::segment`].
    pub fn template(&mut self, cid: Cid, bytes: usize) -> Result<Option<Block>, Full> {
        if self.counts.templates == TEMPLATES_MAX {
            return Err(Full);
        }
        let part = self.add(PartKind::Templates, "", &[(cid, bytes)])?;
        self.counts.templates += 1;
        Ok(part)
    }

    /// Returns how much is listed so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Returns the index.
    #[must_use]
    pub fn finish(mut self) -> Contents {
        let part = self.complete();
        let index = to_block(&Index(VERSION, std::mem::take(&mut self.parts)));
        Contents { part, index, counts: self.counts, span: self.span }
    }

    /// Lists blocks that stay together: a part between a segment and its payload would be elsewhere in a
    /// walk, which comes to payload from the segment first.
    fn add(
        &mut self,
        kind: PartKind,
        collection: &str,
        blocks: &[(Cid, usize)],
    ) -> Result<Option<Block>, Full> {
        let is_other = (self.kind, self.collection.as_str()) != (kind, collection);
        let begins = is_other || self.entries.len() + blocks.len() > PART_ENTRIES_MAX;
        // The part that this one begins, and the one that is complete by it.
        let parts = self.parts.len() + 2 * usize::from(begins);
        if self.counts.blocks + blocks.len() as u64 > BLOCKS_MAX || parts > PARTS_MAX {
            return Err(Full);
        }
        let part = if begins { self.complete() } else { None };
        (self.kind, self.collection) = (kind, collection.to_owned());
        for (cid, bytes) in blocks {
            self.entries.push(*cid);
            self.counts.blocks += 1;
            self.counts.bytes += *bytes as u64;
        }
        Ok(part)
    }

    fn complete(&mut self) -> Option<Block> {
        if self.entries.is_empty() {
            return None;
        }
        let entries = std::mem::take(&mut self.entries);
        let part = to_block(&Part(VERSION, self.kind, self.collection.clone(), entries));
        self.parts.push(*part.cid());
        Some(part)
    }
}

/// Returns half of a digest, to remember a block by: whoever finds two blocks with the same half, at a cost
/// of 2^64 hashes, keeps one of them out of a bundle.
pub(super) fn fingerprint(cid: &Cid) -> u128 {
    let half = cid.hash().digest().first_chunk::<16>();
    half.map_or(0, |half| u128::from_be_bytes(*half))
}
