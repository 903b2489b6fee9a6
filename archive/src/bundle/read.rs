//! Reading a bundle: who signed it first, then block after block, each in its place.

use std::{collections::HashSet, io::Read, vec};

use dunlin_wire::{
    Cid,
    block::{Block, Codec, VerifyError},
    envelope::{self, OpenError, Signed},
};

use super::{
    Counts, Index, Link, Manifest, Part, PartKind,
    index::{Root, fingerprint},
};
use crate::{
    car::{self, CarError, Section},
    dag,
};

/// Reads a bundle from its first byte to its last.
///
/// In memory are one block, one part of the index, and half of the digest of each payload block.
#[derive(Debug)]
pub struct Reader<R> {
    car: car::Reader<R>,
    signed: Signed<Manifest>,
    bundle: Cid,
    index: Block,
    parts: vec::IntoIter<Cid>,
    kind: PartKind,
    collection: String,
    entries: vec::IntoIter<Cid>,
    read: Counts,
    payload: HashSet<u128>,
    /// Links of the last segment.
    awaited: Vec<Cid>,
}

/// A block of a bundle, in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// The block.
    pub block: Block,
}

/// What a block of a bundle is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A part of the index.
    Part,
    /// A segment of this collection, as the index says: whether it is one is for the caller to see.
    Segment {
        /// The collection.
        collection: String,
    },
    /// Payload of a segment before it.
    Payload,
    /// The envelope of a template set: likewise.
    Template,
}

impl<R: Read> Reader<R> {
    /// Reads as far as the manifest, and checks its signature.
    ///
    /// # Errors
    ///
    /// Fails when `input` does not begin like a bundle.
    pub fn open(input: R) -> Result<Self, BundleError> {
        let mut car = car::Reader::open(input)?;
        let &[root] = car.roots() else { return Err(BundleError::NoBundle) };
        // Until the index is there, nobody says how much is missing.
        let mut next = |expected: &Cid| take(&mut car, expected, Counts::default(), 0);
        let block = next(&root)?;
        let Root(_, bundle, content) = Root::decode(block.bytes()).ok_or(BundleError::NoBundle)?;
        if Root::new(bundle, content).to_block().cid() != &root {
            return Err(BundleError::NoBundle);
        }
        let signed = envelope::open::<Manifest>(next(&bundle)?.bytes())?;
        if signed.value.content != content {
            return Err(BundleError::Content);
        }
        let index = next(&content)?;
        let Index(_, parts) = Index::decode(index.bytes()).ok_or(BundleError::Index)?;
        Ok(Self {
            car,
            signed,
            bundle,
            index,
            parts: parts.into_iter(),
            kind: PartKind::Segments,
            collection: String::new(),
            entries: Vec::new().into_iter(),
            read: Counts::default(),
            payload: HashSet::new(),
            awaited: Vec::new(),
        })
    }

    /// Returns the manifest with its signer. Whether that one is trusted is for the caller to say.
    #[must_use]
    pub fn signed(&self) -> &Signed<Manifest> {
        &self.signed
    }

    /// Returns the bundle's place in the chain of its sender.
    #[must_use]
    pub fn link(&self) -> Link {
        Link { sequence: self.signed.value.sequence, bundle: self.bundle }
    }

    /// Returns the block that links to all parts of the index.
    #[must_use]
    pub fn index(&self) -> &Block {
        &self.index
    }

    /// Returns what was read so far.
    #[must_use]
    pub fn read(&self) -> Counts {
        self.read
    }

    /// Returns the next block, or nothing at the end, when all of the bundle was there and nothing else.
    ///
    /// # Errors
    ///
    /// Fails when the bundle is cut off, altered, or not what its manifest says.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, BundleError> {
        if let Some(cid) = self.entries.next() {
            return self.entry(&cid).map(Some);
        }
        self.check_payload()?;
        match self.parts.next() {
            Some(cid) => self.part(&cid).map(Some),
            None => self.check_end().map(|()| None),
        }
    }

    fn part(&mut self, cid: &Cid) -> Result<Entry, BundleError> {
        let block = self.take(cid)?;
        let Part(_, kind, collection, entries) =
            Part::decode(block.bytes()).ok_or(BundleError::Index)?;
        (self.kind, self.collection, self.entries) = (kind, collection, entries.into_iter());
        Ok(Entry { kind: Kind::Part, block })
    }

    fn entry(&mut self, cid: &Cid) -> Result<Entry, BundleError> {
        let kind = match (self.kind, Codec::of(cid)) {
            (PartKind::Segments, Some(Codec::DagCbor)) => {
                Kind::Segment { collection: self.collection.clone() }
            }
            (PartKind::Segments, Some(Codec::Raw)) => Kind::Payload,
            (PartKind::Templates, Some(Codec::DagCbor)) => Kind::Template,
            _ => return Err(BundleError::Index),
        };
        if self.read.blocks == self.signed.value.counts.blocks {
            return Err(BundleError::Counts);
        }
        let block = self.take(cid)?;
        match &kind {
            Kind::Segment { .. } => {
                self.check_payload()?;
                self.read.segments += 1;
                self.awaited = dag::links(cid, block.bytes()).map_err(|_| BundleError::Index)?;
            }
            Kind::Payload => drop(self.payload.insert(fingerprint(cid))),
            _ => self.read.templates += 1,
        }
        self.read.blocks += 1;
        self.read.bytes += block.bytes().len() as u64;
        Ok(Entry { kind, block })
    }

    /// Checks that all the last segment links to was there.
    fn check_payload(&mut self) -> Result<(), BundleError> {
        let missing = |cid: &Cid| !self.payload.contains(&fingerprint(cid));
        match self.awaited.iter().find(|cid| missing(cid)) {
            Some(cid) => Err(BundleError::Payload { cid: Box::new(*cid) }),
            None => {
                self.awaited.clear();
                Ok(())
            }
        }
    }

    fn check_end(&mut self) -> Result<(), BundleError> {
        if self.read != self.signed.value.counts {
            return Err(BundleError::Counts);
        }
        match self.car.next_claimed()? {
            Some(_) => Err(BundleError::Longer),
            None => Ok(()),
        }
    }

    fn take(&mut self, expected: &Cid) -> Result<Block, BundleError> {
        take(&mut self.car, expected, self.read, self.signed.value.counts.blocks)
    }
}

/// Reads the block that has to come next.
fn take<R: Read>(
    car: &mut car::Reader<R>,
    expected: &Cid,
    read: Counts,
    of: u64,
) -> Result<Block, BundleError> {
    let truncated = || BundleError::Truncated { read: read.blocks, of };
    let section = car.next_claimed().map_err(|cause| match cause {
        CarError::Truncated { .. } => truncated(),
        cause => cause.into(),
    })?;
    let Section { cid, bytes } = section.ok_or_else(truncated)?;
    if cid != *expected {
        let (expected, found) = (Box::new(*expected), Box::new(cid));
        return Err(BundleError::Other { expected, found });
    }
    Ok(Block::verified(cid, bytes)?)
}

/// Why a file is no whole bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The file cannot be read, or is no CAR.
    #[error(transparent)]
    Car(#[from] CarError),
    /// A CAR file of something else, or of a newer version.
    #[error("this file is no bundle, or one that a newer version made")]
    NoBundle,
    /// The manifest is not signed, or not by the key that it names.
    #[error("the bundle's manifest cannot be believed")]
    Manifest(#[from] OpenError),
    /// The manifest is of another bundle.
    #[error("the bundle's manifest is that of another one")]
    Content,
    /// A part of the index is none.
    #[error("the bundle's index lists what no bundle has")]
    Index,
    /// The file ends early.
    #[error("the bundle is cut off after {read} blocks; copy it again, and import it again")]
    Truncated {
        /// Blocks that were there.
        read: u64,
        /// Blocks that the manifest names; none, when the file ends before it.
        of: u64,
    },
    /// Another block stands where one should be: the bundle was altered.
    #[error("the bundle was altered: {found} stands where {expected} should be")]
    Other {
        /// What should be there.
        expected: Box<Cid>,
        /// What is there.
        found: Box<Cid>,
    },
    /// A block is not what its CID names: the bundle was altered or damaged.
    #[error("the bundle was altered or damaged")]
    Block(#[from] VerifyError),
    /// A segment links to what is not in the bundle.
    #[error("the bundle lacks the payload block {cid} of a segment")]
    Payload {
        /// The CID of the block.
        cid: Box<Cid>,
    },
    /// The manifest counts something else.
    #[error("the bundle has another number of blocks than its manifest says")]
    Counts,
    /// There is more behind the last block.
    #[error("the bundle was altered: there is more behind its end")]
    Longer,
}

impl BundleError {
    /// Returns whether the file could not be read, which says nothing of what is in it.
    #[must_use]
    pub fn is_io(&self) -> bool {
        matches!(self, Self::Car(CarError::Io(_)))
    }
}
