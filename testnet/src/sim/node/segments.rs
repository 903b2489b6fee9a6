//! Segments of the simulated node: stored, indexed, compared, served.
//!
//! They are small blocks of the simulator's own, because recovery reads nothing of a segment but its name, what it
//! is about, and when.

use std::{convert::Infallible, sync::Arc};

use dunlin_archive::catalog::{self, Entry};
use dunlin_trust::{
    Evidence, Operation, Proof, SentObject, Served, WrongObject,
    recovery::{Attestation, Series, Version},
};
use dunlin_wire::{
    Cid,
    block::{self, Block, Codec},
    cbor,
    envelope::Signed,
};
use serde::{Deserialize, Serialize};

use super::{Context, Node};
use crate::sim::{
    bug::Bug,
    disk::Write,
    fact::Fact,
    message::{Item, Kind, Message, Sent},
    notary::NETWORK,
};

/// Largest segment, in bytes.
const SEGMENT_BYTES_MAX: usize = 1_024;

/// Segments in one answer.
const SENT_MAX: usize = 64;

/// What a segment says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::sim) struct Body {
    pub(in crate::sim) entity: String,
    pub(in crate::sim) start: i64,
    pub(in crate::sim) end: i64,
    pub(in crate::sim) content: u64,
}

/// A segment that is here.
#[derive(Clone, Debug)]
pub(in crate::sim) struct Stored {
    pub(in crate::sim) body: Body,
    pub(in crate::sim) bytes: Arc<[u8]>,
}

impl Body {
    pub(in crate::sim) fn to_block(&self) -> Block {
        Block::new(Codec::DagCbor, cbor::encode(self).expect("plain fields have an encoding"))
    }

    pub(in crate::sim) fn decode(bytes: &[u8]) -> Option<Self> {
        let body: Self = cbor::decode(bytes, SEGMENT_BYTES_MAX).ok()?;
        (body.start <= body.end).then_some(body)
    }

    pub(in crate::sim) fn version(&self, cid: Cid) -> Version {
        Version::new(cid, self.start, self.end)
    }

    pub(in crate::sim) fn series(&self) -> Series {
        Series { collection: "servers".to_owned(), entity: self.entity.clone() }
    }
}

impl Node {
    /// Seals a segment: stores it, attests to it, and announces that there is one more.
    pub(in crate::sim) fn seal(&mut self, ctx: &mut Context<'_>, body: &Body) {
        let block = body.to_block();
        let cid = *block.cid();
        self.land(ctx, cid, &Arc::from(block.bytes()));
        let value = Attestation::new(vec![cid]);
        let bytes = ctx.notary.sign(&ctx.town.keys[self.me], value.clone());
        let signed = Signed { signer: ctx.town.peers[self.me], value, bytes: bytes.to_vec() };
        let item = Item::new(Kind::Attestation, bytes);
        self.attest(ctx, &signed, &item);
        self.disk.sync();
        self.publish(ctx, &item);
        self.announce(ctx);
    }

    pub(super) fn on_ask_segments(&mut self, ctx: &mut Context<'_>, from: usize, cids: &[Cid]) {
        if !self.serves(ctx, from) {
            return;
        }
        let found = cids.iter().take(SENT_MAX).filter_map(|cid| {
            let bytes = self.segments.get(cid)?.bytes.clone();
            Some(Sent { cid: *cid, bytes, served: None })
        });
        ctx.out.push((from, Message::Segments(found.collect())));
    }

    pub(super) fn on_segments(&mut self, ctx: &mut Context<'_>, from: usize, sent: &[Sent]) {
        if !self.hears(ctx, from, Operation::FetchSegments) {
            return;
        }
        ctx.facts.push(Fact::Heard { at: self.me, from, author: None });
        for Sent { cid, bytes, served } in sent.iter().take(SENT_MAX) {
            if ctx.has(Bug::SkipHash) || block::verify(cid, bytes).is_ok() {
                self.land(ctx, *cid, bytes);
                continue;
            }
            // A lie that its author signed is one for everybody.
            match served {
                Some(served) if self.is_signed_lie(ctx, from, (cid, bytes), served) => {
                    let objects = [SentObject::new(*cid, bytes)];
                    if let Some(wrong) = WrongObject::first_of(&objects).map(Box::new) {
                        let served = served.to_vec().into();
                        self.prove(ctx, &Proof::WrongCid { served, wrong });
                    }
                }
                _ => self.observe(ctx, ctx.town.peers[from], Evidence::WrongCid),
            }
            return;
        }
    }

    fn is_signed_lie(
        &self,
        ctx: &mut Context<'_>,
        from: usize,
        (cid, bytes): (&Cid, &[u8]),
        served: &[u8],
    ) -> bool {
        let hash = crate::sim::notary::hash(served);
        ctx.notary.open::<Served>(&hash, served).is_ok_and(|signed| {
            let objects = [SentObject::new(*cid, bytes)];
            signed.signer == ctx.town.peers[from] && signed.value.is_about(NETWORK, &objects)
        })
    }

    /// Stores a segment, and looks for what it contradicts.
    fn land(&mut self, ctx: &mut Context<'_>, cid: Cid, bytes: &Arc<[u8]>) {
        let Some(body) = Body::decode(bytes).filter(|_| !self.segments.contains_key(&cid)) else {
            return;
        };
        let landed = self.known_version(ctx, &body, cid);
        let others: Vec<Version> = self
            .by_series
            .get(&body.entity)
            .into_iter()
            .flatten()
            .filter_map(|other| {
                Some(self.known_version(ctx, &self.segments.get(other)?.body, *other))
            })
            .filter(|other| landed.contradicts(other))
            .collect();
        if ctx.has(Bug::KeepFirst) && !others.is_empty() {
            return;
        }
        self.disk.write(Write::Segment(cid, bytes.clone()));
        self.conflicts.land(&body.series(), &landed, &others);
        self.keep_conflicts(ctx);
        self.disk.sync();
        self.index(cid, bytes);
        self.grow_catalog(&[cid]);
        ctx.facts.push(Fact::Stored { at: self.me, cid, bytes: bytes.clone() });
        if ctx.has(Bug::DeleteLoser) {
            self.delete_losers(ctx, &cid);
        }
    }

    /// Returns what is known of a segment, with those who attest to it.
    fn known_version(&self, ctx: &Context<'_>, body: &Body, cid: Cid) -> Version {
        let mut version = body.version(cid);
        let now = self.unix(ctx);
        for maker in self.makers(ctx.town, &cid) {
            version.attest(*maker, |peer| self.trust.standing(now, peer));
        }
        version
    }

    /// Takes a segment that is on disk into memory.
    pub(super) fn index(&mut self, cid: Cid, bytes: &Arc<[u8]>) {
        let Some(body) = Body::decode(bytes) else { return };
        self.by_series.entry(body.entity.clone()).or_default().push(cid);
        self.segments.insert(cid, Stored { body, bytes: bytes.clone() });
    }

    pub(super) fn grow_catalog(&mut self, cids: &[Cid]) {
        let entry = |cid: &Cid| Entry::new(self.segments.get(cid)?.body.start, cid);
        let entries: Vec<_> = cids.iter().filter_map(entry).collect();
        let get = |cid: &Cid| Ok::<_, Infallible>(self.blocks.get(cid).map(|bytes| bytes.to_vec()));
        let grown = catalog::insert(get, self.catalog.as_ref(), &entries);
        let Some(update) = grown.expect("its own catalog is whole") else { return };
        for block in update.added {
            self.blocks.insert(*block.cid(), block.bytes().into());
        }
        for cid in update.removed {
            self.blocks.remove(&cid);
        }
        self.catalog = Some(update.root);
    }

    /// What a node does that takes a preference for a verdict.
    fn delete_losers(&mut self, ctx: &Context<'_>, landed: &Cid) {
        let now = self.unix(ctx);
        let losers: Vec<_> = self
            .conflicts
            .of(landed)
            .map(|conflict| {
                let (first, second) = conflict.pair();
                if self.preference(now, conflict).cid == first { second } else { first }
            })
            .collect();
        for cid in losers {
            self.segments.remove(&cid);
            self.disk.write(Write::Remove(cid));
        }
        self.disk.sync();
    }
}
