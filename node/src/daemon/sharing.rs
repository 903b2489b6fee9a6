//! Templates: released here, fetched from peers, put before the gate, and used.
//!
//! Envelopes live in the archive under a pin for each collection and signer, so they survive a restart.
//! The cost of a release stands in the ledger before its noise is drawn; `privacy` sees to that.

mod adoption;
mod release;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Context;
use dunlin_archive::{Archive, Object, Pin};
use dunlin_engine::{CollectionName, CollectionSpec, Metric, Reference, Units};
use dunlin_privacy::{ChannelsDigest, Epsilon, Ledger, TemplateSet, adoption::permuted};
use dunlin_protocols::{Keypair, NetworkError, PeerId};
use dunlin_trust::{Evidence, Operation};
use dunlin_wire::{
    block::{Block, Codec},
    envelope::{self, OpenError, Signed},
};

pub(crate) use self::{adoption::Judged, release::SharingError};
use super::{clock, shared::Shared};
use crate::{config::Config, data_dir::DataDir};

/// Sets of peers that are kept. When there are as many, those of further peers are passed over.
const RECEIVED_MAX: usize = 256;

/// What a node shares and what others shared with it.
#[derive(Debug)]
pub(crate) struct Sharing {
    identity: Keypair,
    ledger: Mutex<Ledger>,
    sets: Mutex<Sets>,
}

/// All sets by collection and signer.
type Sets = BTreeMap<(String, PeerId), Held>;

/// A set that this node holds.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) signed: Arc<Signed<TemplateSet>>,
    /// What the gate said; `None` for an own set, or before it was asked.
    pub(crate) judged: Option<Judged>,
}

impl Sharing {
    /// Opens the ledger, and reads the envelopes that the archive holds.
    pub(super) fn open(
        dir: &DataDir,
        config: &Config,
        identity: &Keypair,
        archive: &Archive,
    ) -> anyhow::Result<Self> {
        let path = dir.room("privacy")?.join("ledger");
        let epsilon_max = Epsilon::new(config.privacy.epsilon_max)?;
        let ledger = Ledger::open(&path, epsilon_max).with_context(|| {
            format!("cannot open {}; sharing would not know what it spent", path.display())
        })?;
        let mut sets = Sets::new();
        for pin in archive.pins("templates/")?.into_keys() {
            for cid in archive.roots(&pin, None, 1)? {
                let bytes = archive.get(&cid)?.unwrap_or_default();
                // An envelope of a version that this build no longer reads is passed over.
                if let Ok(signed) = envelope::open::<TemplateSet>(&bytes) {
                    let place = (signed.value.collection().to_owned(), signed.signer);
                    sets.insert(place, Held { signed: Arc::new(signed), judged: None });
                }
            }
        }
        let sharing =
            Self { identity: identity.clone(), ledger: Mutex::new(ledger), sets: Mutex::new(sets) };
        Ok(sharing)
    }

    fn me(&self) -> PeerId {
        self.identity.public().to_peer_id()
    }

    /// Returns all sets: own ones first, then by collection and peer.
    pub(crate) fn held(&self) -> Vec<Held> {
        let me = self.me();
        let mut held: Vec<_> = self.sets().values().cloned().collect();
        held.sort_by_key(|held| held.signed.signer != me);
        held
    }

    /// Returns whether a set was released by this node.
    pub(crate) fn is_own(&self, held: &Held) -> bool {
        held.signed.signer == self.me()
    }

    /// Returns the envelope of the newest own set of a collection.
    pub(super) fn own_envelope(&self, collection: &str) -> Option<Vec<u8>> {
        let held = self.sets().get(&(collection.to_owned(), self.me())).cloned()?;
        held.signed.value.is_current(clock::now().0).then(|| held.signed.bytes.clone())
    }

    /// Returns collection, number of templates and digest of each own set that still counts.
    pub(super) fn own_sets(&self) -> Vec<(String, u32, [u8; 32])> {
        let now = clock::now().0;
        let own = |held: Held| {
            let set = &held.signed.value;
            let count = u32::try_from(set.templates().len()).unwrap_or(u32::MAX);
            (set.collection().to_owned(), count, digest(&held.signed.bytes))
        };
        let held = self.held().into_iter();
        held.filter(|held| self.is_own(held) && held.signed.value.is_current(now))
            .map(own)
            .collect()
    }

    /// Returns whether the set with this digest is here already.
    pub(super) fn has(&self, peer: &PeerId, collection: &str, announced: &[u8; 32]) -> bool {
        let sets = self.sets();
        let held = sets.get(&(collection.to_owned(), *peer));
        held.is_some_and(|held| digest(&held.signed.bytes) == *announced)
    }

    /// Returns the received sets of a collection that still count, whatever the gate said.
    fn current(&self, collection: &CollectionName) -> Vec<Held> {
        let now = clock::now().0;
        let mut held = self.held();
        held.retain(|held| {
            let set = &held.signed.value;
            !self.is_own(held) && set.collection() == collection.as_str() && set.is_current(now)
        });
        held
    }

    /// Returns the ledger, for reading.
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // The ledger refuses further entries by itself when one was not written whole.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sets(&self) -> MutexGuard<'_, Sets> {
        // Sets are replaced whole.
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self, held: Held) {
        let place = (held.signed.value.collection().to_owned(), held.signed.signer);
        self.sets().insert(place, held);
    }

    fn has_room_for(&self, collection: &str, peer: &PeerId) -> bool {
        let sets = self.sets();
        sets.len() < RECEIVED_MAX || sets.contains_key(&(collection.to_owned(), *peer))
    }
}

impl Shared {
    /// Returns the adopted templates of a collection, as known behaviour.
    pub(crate) async fn adopted(&self, collection: &CollectionName) -> Vec<Reference> {
        let mut sets = self.heard_sets(collection).await;
        sets.retain(|held| held.judged.as_ref().is_some_and(|judged| judged.is_adopted));
        sets.iter().flat_map(references).collect()
    }

    /// Returns all received templates of a collection with their channels shuffled, the same way for
    /// all of them: what they say is gone, how they are spread is not.
    pub(crate) async fn control(&self, collection: &CollectionName, seed: u64) -> Vec<Reference> {
        let sets = self.heard_sets(collection).await;
        let shuffled = sets.iter().flat_map(references).map(|mut reference| {
            reference.centroid = permuted(&reference.centroid, reference.centroid.len(), seed);
            reference
        });
        shuffled.collect()
    }

    /// Returns the sets of peers that are heard now: a peer that was quarantined after its templates
    /// were adopted changes nothing any more.
    async fn heard_sets(&self, collection: &CollectionName) -> Vec<Held> {
        let mut heard = Vec::new();
        for held in self.sharing.current(collection) {
            if self.network.may(held.signed.signer, Operation::AdoptTemplates).await.is_ok() {
                heard.push(held);
            }
        }
        heard
    }

    /// Fetches a peer's templates of one collection, or of all that this node has, and puts them before
    /// the gate. What fails is logged: the next announcement tries again.
    pub(super) async fn fetch_templates(self: Arc<Self>, peer: PeerId, collection: Option<String>) {
        let specs = self.blocking(|shared| shared.engine.collections()).await.unwrap_or_default();
        for spec in specs {
            if collection.as_ref().is_some_and(|wanted| wanted != spec.name.as_str()) {
                continue;
            }
            match self.network.templates(peer, spec.name.as_str()).await {
                Ok(envelopes) => {
                    for bytes in envelopes {
                        self.receive(peer, &spec, bytes).await;
                    }
                }
                Err(NetworkError::Gate(refusal)) => {
                    tracing::debug!(%refusal, "templates not asked for")
                }
                Err(cause) => tracing::debug!(%peer, %cause, "no templates"),
            }
        }
    }

    /// Checks an envelope that a peer sent, keeps it, and puts it before the gate.
    async fn receive(self: &Arc<Self>, peer: PeerId, spec: &Arc<CollectionSpec>, bytes: Vec<u8>) {
        let signed = match envelope::open::<TemplateSet>(&bytes) {
            Ok(signed) => signed,
            Err(OpenError::Signature) => {
                return self.network.judge(peer, Evidence::BadSignature, 1).await;
            }
            Err(_) => return self.network.judge(peer, Evidence::ProtocolViolation, 1).await,
        };
        if signed.signer != peer {
            return self.network.judge(peer, Evidence::ProtocolViolation, 1).await;
        }
        if let Some(misfit) = misfit(&signed.value, spec) {
            return tracing::debug!(%peer, misfit, "templates passed over");
        }
        if self.network.may(peer, Operation::AdoptTemplates).await.is_err()
            || !self.sharing.has_room_for(spec.name.as_str(), &peer)
        {
            return;
        }
        let name = spec.name.clone();
        let kept = self.blocking(move |shared| {
            shared.keep(signed).and_then(|()| shared.judge_templates(&name))
        });
        match kept.await {
            Ok(()) => {
                self.synced(peer);
                self.recovered("templates");
            }
            Err(cause) => self.report("templates", format!("{cause:#}")),
        }
    }

    /// Stores an envelope in place of the last one of its signer.
    fn keep(&self, signed: Signed<TemplateSet>) -> anyhow::Result<()> {
        let pin = Pin::templates(signed.value.collection(), &signed.signer);
        self.archive
            .replace(&Object::leaf(pin, Block::new(Codec::DagCbor, signed.bytes.clone())))?;
        self.sharing.hold(Held { signed: Arc::new(signed), judged: None });
        Ok(())
    }
}

/// Returns the templates of a set, each named by its signer and its place.
fn references(held: &Held) -> Vec<Reference> {
    let set = &held.signed.value;
    let templates = set.templates().iter().zip(0_usize..);
    let reference = |(template, place): (&dunlin_privacy::Template, usize)| Reference {
        id: format!("{}/{place}", held.signed.signer),
        centroid: template.centroid(set.bounds()),
    };
    templates.map(reference).collect()
}

/// Returns why a set cannot be used for a collection, whatever it says.
fn misfit(set: &TemplateSet, spec: &CollectionSpec) -> Option<&'static str> {
    let Units::Range { lower, upper } = &spec.units else {
        return Some("the collection has no declared ranges");
    };
    let bounds = set.bounds();
    let misfits = [
        (set.collection() != spec.name.as_str(), "another collection"),
        (!set.is_current(clock::now().0), "it does not count any more"),
        (set.dim() != spec.dim.get(), "another dimension"),
        (set.metric() != metric(spec.metric), "another metric"),
        (set.channels() != channels(spec), "other channels"),
        (bounds.lower() != lower.as_slice() || bounds.upper() != upper.as_slice(), "other ranges"),
    ];
    misfits.into_iter().find_map(|(is_misfit, why)| is_misfit.then_some(why))
}

fn metric(metric: Metric) -> dunlin_privacy::Metric {
    match metric {
        Metric::Cosine => dunlin_privacy::Metric::Cosine,
        Metric::Euclidean => dunlin_privacy::Metric::Euclidean,
        Metric::Dot => dunlin_privacy::Metric::Dot,
    }
}

fn channels(spec: &CollectionSpec) -> ChannelsDigest {
    ChannelsDigest::of(spec.channels.as_deref().unwrap_or_default())
}

/// Returns the digest by which a set is announced.
fn digest(envelope: &[u8]) -> [u8; 32] {
    let cid = dunlin_wire::block::cid_of(Codec::DagCbor, envelope);
    cid.hash().digest().try_into().expect("our CIDs hold a sha2-256 digest of 32 bytes")
}
