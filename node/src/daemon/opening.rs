//! What a fetched root is, a segment or a sealed one, and opening the latter with a key of the ring.

use std::collections::BTreeMap;

use dunlin_archive::{
    Object, Pin,
    sealing::{KeyId, SealedRoot, SealingKey},
};
use dunlin_engine::Segment;
use dunlin_wire::{Cid, block::Block};

use crate::key_ring::KeyRing;

/// A segment that came sealed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FromSealed {
    /// The key that it was sealed with.
    pub(crate) key: KeyId,
    /// Why it could not be opened.
    pub(crate) problem: Option<Unopened>,
}

/// Why a sealed segment stays closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unopened {
    /// The key is not in the ring.
    NoKey,
    /// Whoever made it has no key, or sealed what is no segment.
    Forged,
}

/// Returns what a root links to: the payload of a segment, plain or sealed. Of anything else, nothing.
pub(super) fn payload_of(root: &Block) -> Vec<Cid> {
    if let Ok(segment) = Segment::decode(root.bytes()) {
        return segment.payload().to_vec();
    }
    SealedRoot::decode(root.bytes()).map_or_else(|_| Vec::new(), |root| root.links().to_vec())
}

/// Returns whether a root is that of a sealed segment.
pub(super) fn is_sealed(root: &Block) -> bool {
    SealedRoot::decode(root.bytes()).is_ok()
}

/// A segment as it is to be kept.
pub(super) struct Opened {
    pub(super) segment: Segment,
    /// The segment with all of its payload that is here.
    pub(super) object: Object,
    pub(super) from: Option<FromSealed>,
}

/// Returns the segment that a root holds, with what of its payload is among `blocks`.
///
/// # Errors
///
/// Fails with what is known of a sealed segment that cannot be opened, or nothing of what is none at all.
pub(super) fn open(
    root: &Block,
    blocks: &BTreeMap<Cid, Block>,
    ring: &KeyRing,
) -> Result<Opened, Option<FromSealed>> {
    if let Ok(segment) = Segment::decode(root.bytes()) {
        let links = segment.payload().iter().filter_map(|cid| blocks.get(cid).cloned()).collect();
        let object = fetched(&segment, root.clone(), links);
        return Ok(Opened { segment, object, from: None });
    }
    let sealed = SealedRoot::decode(root.bytes()).map_err(|_| None)?;
    let unopened = |problem| Some(FromSealed { key: sealed.key(), problem: Some(problem) });
    let held = ring.get(&sealed.key()).ok_or(unopened(Unopened::NoKey))?;
    let (segment, object) =
        open_with(&held.key, &sealed, blocks).ok_or(unopened(Unopened::Forged))?;
    Ok(Opened { segment, object, from: Some(FromSealed { key: sealed.key(), problem: None }) })
}

/// Opens a root and its payload; each payload block must be the one at its place in the segment.
fn open_with(
    key: &SealingKey,
    sealed: &SealedRoot,
    blocks: &BTreeMap<Cid, Block>,
) -> Option<(Segment, Object)> {
    let root = key.open(sealed).ok()?;
    let segment = Segment::decode(root.bytes()).ok()?;
    if segment.payload().len() != sealed.links().len() {
        return None;
    }
    let mut links = Vec::new();
    for (cid, link) in segment.payload().iter().zip(sealed.links()) {
        let Some(block) = blocks.get(link) else { continue };
        let block = key.open_payload(block.bytes()).ok()?;
        if block.cid() != cid {
            return None;
        }
        links.push(block);
    }
    let object = fetched(&segment, root, links);
    Some((segment, object))
}

fn fetched(segment: &Segment, root: Block, links: Vec<Block>) -> Object {
    Object { pin: Pin::fetched(segment.collection().as_str()), root, links }
}
