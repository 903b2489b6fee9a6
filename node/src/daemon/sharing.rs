//! Templates: released here, fetched from peers, put before the gate, and used.
//!
//! Envelopes live in the archive under a pin for each collection and signer, so they survive a restart.
//! The cost of a release stands in the ledger before its noise is drawn; `privacy` sees to that.

mod adoption;
mod doubts;
mod release;
pub(crate) mod segments;
mod set_aside;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Context;
use dunlin_archive::{Archive, Object, Pin, PutError};
use dunlin_engine::{CollectionName, CollectionSpec, Metric, Reference, Units};
use dunlin_privacy::{
    Ceiling, ChannelsDigest, Epsilon, Ledger, Normalization, TemplateSet, adoption::permuted,
};
use dunlin_protocols::{Keypair, NetworkError, PeerId};
use dunlin_trust::{Evidence, Operation};
use dunlin_wire::{
    block::{Block, Codec},
    envelope::{self, OpenError, Signed},
};

use self::set_aside::SetAside;
pub(crate) use self::{
    adoption::Judged,
    release::{ReleaseRequest, SharingError},
};
use super::{clock, exchanges::Wish, shared::Shared};
use crate::{config::Config, data_dir::DataDir};

/// Sets that are kept. When there are as many, the least useful one makes room; one that is adopted stays
/// until it expires, so that no crowd of strangers can push it out.
const SETS_MAX: usize = 256;

/// How far the clocks of two peers may be apart. A set from later would outlast all others.
const CLOCKS_APART_MS: u64 = 24 * 60 * 60 * 1_000;

/// What a node shares and what others shared with it.
#[derive(Debug)]
pub(crate) struct Sharing {
    identity: Keypair,
    ledger: Mutex<Ledger>,
    sets: Mutex<Sets>,
    /// Held before `sets` when both are.
    set_aside: Mutex<SetAside>,
}

/// All sets by collection and signer.
type Sets = BTreeMap<Place, Held>;

/// Where a set belongs: its collection and its signer.
type Place = (String, PeerId);

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
        let epsilon = Epsilon::new(config.privacy.epsilon_max)?;
        let ceiling = Ceiling { epsilon, delta: config.privacy.delta };
        let ledger = Ledger::open(&path, ceiling).with_context(|| {
            format!("cannot open {}; sharing would not know what it spent", path.display())
        })?;
        let now = clock::now().0;
        let mut sets = Sets::new();
        for pin in archive.pins("templates/")?.into_keys() {
            // An own release was paid for, and stays whatever this build thinks of it.
            let mut is_used = pin.as_str().ends_with(&identity.public().to_peer_id().to_string());
            for cid in archive.roots(&pin, None, 1)? {
                // A damaged one is gone; its signer announces it again.
                let bytes = archive.get(&cid).ok().flatten().unwrap_or_default();
                // What expired, and what this build cannot read, leaves.
                let signed = envelope::open::<TemplateSet>(&bytes).ok();
                if let Some(signed) = signed.filter(|signed| signed.value.is_current(now)) {
                    let held = Held { signed: Arc::new(signed), judged: None };
                    sets.insert(held.place(), held);
                    is_used = true;
                }
            }
            if !is_used {
                archive.unpin(&pin)?;
            }
        }
        Ok(Self {
            identity: identity.clone(),
            ledger: Mutex::new(ledger),
            sets: Mutex::new(sets),
            set_aside: Mutex::new(SetAside::open(dir)?),
        })
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

    /// Returns the received sets that still count, whatever the gate said.
    fn current(&self) -> Vec<Held> {
        let now = clock::now().0;
        let mut held = self.held();
        held.retain(|held| !self.is_own(held) && held.signed.value.is_current(now));
        held
    }

    /// Returns the received sets of a collection that still count, whatever the gate said.
    fn current_of(&self, collection: &CollectionName) -> Vec<Held> {
        let mut held = self.current();
        held.retain(|held| held.signed.value.collection() == collection.as_str());
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

    /// Returns the sets that a bundle may carry: all that count, of these collections, or of all when none
    /// are named.
    pub(super) fn bundled(&self, collections: &[String]) -> Vec<Held> {
        let now = clock::now().0;
        let is_wished = |held: &Held| {
            let set = &held.signed.value;
            let is_named = collections.iter().any(|name| name == set.collection());
            (collections.is_empty() || is_named) && set.is_current(now)
        };
        self.held().into_iter().filter(is_wished).collect()
    }

    /// Returns whether a set is of another peer and newer than what is here of it.
    pub(super) fn is_news(&self, signed: &Signed<TemplateSet>) -> bool {
        let place = (signed.value.collection().to_owned(), signed.signer);
        let issued = |held: &Held| held.signed.value.issued_unix_ms();
        let here = self.sets().get(&place).map(issued);
        signed.signer != self.me() && here.is_none_or(|here| here < signed.value.issued_unix_ms())
    }

    /// Holds a set in place of the last one of its signer. One that is here already, as when news of it came by two ways at
    /// once, keeps what the gate said of it.
    pub(super) fn hold(&self, held: Held) {
        let mut sets = self.sets();
        let place = held.place();
        if sets.get(&place).is_none_or(|there| there.signed.bytes != held.signed.bytes) {
            sets.insert(place, held);
        }
    }

    /// Notes what the gate said of a set, unless a newer one has taken its place meanwhile.
    fn note_verdict(&self, judged: &Held) {
        if let Some(held) = self.sets().get_mut(&judged.place())
            && Arc::ptr_eq(&held.signed, &judged.signed)
        {
            held.judged.clone_from(&judged.judged);
        }
    }

    /// Returns whether the operator took a set back.
    fn is_taken_back(&self, held: &Held) -> bool {
        let aside = self.set_aside.lock().unwrap_or_else(PoisonError::into_inner);
        aside.contains(&held.digest())
    }

    fn has_room_for(&self, place: &Place) -> bool {
        let sets = self.sets();
        sets.len() < SETS_MAX || sets.contains_key(place)
    }

    /// Returns the received set that is missed least: one that expired, or else the oldest of those that
    /// the gate did not let in.
    fn least_useful(&self) -> Option<Place> {
        let (me, now) = (self.me(), clock::now().0);
        let sets = self.sets();
        let received = sets.iter().filter(|((_, signer), _)| *signer != me);
        let useless =
            received.filter(|(_, held)| !held.is_adopted() || !held.signed.value.is_current(now));
        let least = useless.min_by_key(|(_, held)| {
            (held.signed.value.is_current(now), held.signed.value.issued_unix_ms())
        });
        least.map(|(place, _)| place.clone())
    }
}

impl Held {
    /// Returns a set that the gate has not judged.
    pub(super) fn new(signed: Signed<TemplateSet>) -> Self {
        Self { signed: Arc::new(signed), judged: None }
    }

    /// Returns the set as the archive keeps it.
    pub(super) fn to_object(&self) -> Object {
        let (collection, signer) = self.place();
        let block = Block::new(Codec::DagCbor, self.signed.bytes.clone());
        Object::leaf(Pin::templates(&collection, &signer), block)
    }

    fn place(&self) -> Place {
        (self.signed.value.collection().to_owned(), self.signed.signer)
    }

    fn digest(&self) -> [u8; 32] {
        digest(&self.signed.bytes)
    }

    /// Returns whether the operator took it back.
    fn is_set_aside(&self) -> bool {
        self.judged.as_ref().is_some_and(|judged| judged.is_set_aside)
    }

    fn is_adopted(&self) -> bool {
        self.judged.as_ref().is_some_and(|judged| judged.is_adopted)
    }
}

impl Shared {
    /// Returns the templates of a collection that were heard: those of adopted sets are known behaviour, the
    /// others bear witness. None when no set is adopted.
    pub(crate) async fn adopted(&self, collection: &CollectionName) -> Vec<Reference> {
        let mut sets = self.heard(self.sharing.current_of(collection)).await;
        sets.retain(|held| held.judged.is_some() && !held.is_set_aside());
        if !sets.iter().any(Held::is_adopted) {
            return Vec::new();
        }
        sets.iter().flat_map(|held| references(held, !held.is_adopted())).collect()
    }

    /// Takes back the received sets of a collection, of one peer or of all: they count no more, until they
    /// are adopted again or their signer releases another one. Returns how many there were.
    ///
    /// # Durability
    ///
    /// It is on disk before this returns.
    pub(crate) fn set_aside(
        &self,
        collection: &CollectionName,
        peer: Option<PeerId>,
    ) -> anyhow::Result<usize> {
        let mut sets = self.sharing.current_of(collection);
        sets.retain(|held| peer.is_none_or(|peer| held.signed.signer == peer));
        self.change_set_aside(&sets, true)?;
        self.judge_templates(collection)?;
        Ok(sets.len())
    }

    /// Puts all received sets of a collection before the gate again, those too that were taken back. Returns
    /// whom this makes doubtful.
    pub(crate) fn adopt_again(&self, collection: &CollectionName) -> anyhow::Result<Vec<PeerId>> {
        self.change_set_aside(&self.sharing.current_of(collection), false)?;
        self.judge_templates(collection)
    }

    fn change_set_aside(&self, changed: &[Held], is_aside: bool) -> anyhow::Result<()> {
        let mut aside = self.sharing.set_aside.lock().unwrap_or_else(PoisonError::into_inner);
        let held = self.sharing.held().iter().map(Held::digest).collect();
        aside.change(&self.dir, &held, &changed.iter().map(Held::digest).collect(), is_aside)
    }

    /// Holds it against peers that their templates are contradicted.
    pub(crate) async fn report_doubts(&self, peers: Vec<PeerId>) {
        for peer in peers {
            self.network.judge(peer, Evidence::DoubtfulTemplates, 1).await;
        }
    }

    /// Returns how many sets are adopted, over all collections.
    pub(crate) async fn adopted_count(&self) -> usize {
        self.heard(self.sharing.current()).await.iter().filter(|held| held.is_adopted()).count()
    }

    /// Returns all received templates of a collection with their channels shuffled, the same way for
    /// all of them: what they say is gone, how they are spread is not.
    pub(crate) async fn control(&self, collection: &CollectionName, seed: u64) -> Vec<Reference> {
        let sets = self.heard(self.sharing.current_of(collection)).await;
        let all = sets.iter().flat_map(|held| references(held, false));
        let shuffled = all.map(|mut reference| {
            reference.centroid = permuted(&reference.centroid, reference.centroid.len(), seed);
            reference
        });
        shuffled.collect()
    }

    /// Returns those sets whose signers are heard now: a peer that was quarantined after its templates
    /// were adopted changes nothing any more.
    async fn heard(&self, sets: Vec<Held>) -> Vec<Held> {
        let mut heard = Vec::new();
        for held in sets {
            if self.network.may(held.signed.signer, Operation::AdoptTemplates).await.is_ok() {
                heard.push(held);
            }
        }
        heard
    }

    /// Fetches a peer's templates of one collection, or of all that this node has, and puts them before
    /// the gate. What fails is logged: the next announcement tries again.
    #[tracing::instrument(skip_all, fields(%peer))]
    pub(super) async fn fetch_templates(self: Arc<Self>, peer: PeerId, collection: Wish) {
        let specs = self.blocking(|shared| shared.engine.collections()).await.unwrap_or_default();
        for spec in specs {
            // Asking tells the collection's name, so nobody is asked in vain.
            if !matches!(spec.units, Units::Range { .. }) {
                continue;
            }
            if collection.as_ref().is_some_and(|wanted| wanted != spec.name.as_str()) {
                continue;
            }
            match self.network.templates(peer, spec.name.as_str()).await {
                Ok(envelopes) => {
                    // A peer has one current set of a collection; more would only keep the gate busy.
                    if let Some(bytes) = envelopes.into_iter().next() {
                        self.receive(peer, &spec, bytes).await;
                    }
                }
                // It would be the same for the other collections, and one that is mute would take long.
                Err(NetworkError::Gate(refusal)) => {
                    return tracing::debug!(%refusal, "templates not asked for");
                }
                Err(cause) => return tracing::debug!(%peer, %cause, "no templates"),
            }
        }
    }

    /// Checks an envelope that a peer sent and keeps it; the responder puts it before the gate.
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
        let place = (spec.name.to_string(), peer);
        if self.network.may(peer, Operation::AdoptTemplates).await.is_err()
            || !self.make_room_for(&place).await
        {
            return;
        }
        match self.blocking(move |shared| shared.keep(signed)).await {
            Ok(()) => {
                self.arrived.notify_one();
                self.synced(peer);
                self.recovered("templates");
            }
            Err(cause) => self.report("templates", format!("{cause:#}")),
        }
    }

    /// Makes room for one more set, when there is none: first by dropping those of peers that are not
    /// heard any more, then the one that is missed least. Returns whether there is room.
    async fn make_room_for(self: &Arc<Self>, place: &Place) -> bool {
        if self.sharing.has_room_for(place) {
            return true;
        }
        for held in self.sharing.current() {
            if self.network.may(held.signed.signer, Operation::AdoptTemplates).await.is_err() {
                self.drop_set(held.place()).await;
            }
        }
        while !self.sharing.has_room_for(place) {
            let Some(least) = self.sharing.least_useful() else { return false };
            self.drop_set(least).await;
        }
        true
    }

    /// Makes room for the sets of a bundle, oldest first, as far as what is here is missed less; leaves out
    /// those for which there is none.
    pub(super) fn make_room_for_all(&self, sets: &mut Vec<Held>) -> Result<(), PutError> {
        let places: BTreeSet<Place> = sets.iter().map(Held::place).collect();
        let mut more =
            places.iter().filter(|place| !self.sharing.sets().contains_key(place)).count();
        while self.sharing.sets().len() + more > SETS_MAX {
            match self.sharing.least_useful() {
                Some(least) if !places.contains(&least) => {
                    self.sharing.sets().remove(&least);
                    self.archive.unpin(&Pin::templates(&least.0, &least.1))?;
                }
                _ => {
                    sets.retain(|held| self.sharing.sets().contains_key(&held.place()));
                    more = 0;
                }
            }
        }
        Ok(())
    }

    async fn drop_set(self: &Arc<Self>, place: Place) {
        let pin = Pin::templates(&place.0, &place.1);
        self.sharing.sets().remove(&place);
        if let Err(cause) = self.blocking(move |shared| shared.archive.unpin(&pin)).await {
            // Then it is dropped at the next start.
            self.report("templates", format!("{:#}", anyhow::Error::from(cause)));
        }
    }

    /// Stores an envelope in place of the last one of its signer.
    fn keep(&self, signed: Signed<TemplateSet>) -> anyhow::Result<()> {
        let held = Held::new(signed);
        self.archive.replace(&held.to_object())?;
        self.sharing.hold(held);
        Ok(())
    }
}

/// Returns the templates of a set, each named by its signer and its place.
fn references(held: &Held, is_witness: bool) -> Vec<Reference> {
    let set = &held.signed.value;
    let templates = set.templates().iter().zip(0_usize..);
    let reference = |(template, place): (&dunlin_privacy::Template, usize)| Reference {
        id: format!("{}/{place}", held.signed.signer),
        source: held.signed.signer.to_string(),
        is_witness,
        centroid: template.centroid(set.bounds()),
    };
    templates.map(reference).collect()
}

/// Returns why a set cannot be used for a collection, whatever it says.
pub(super) fn misfit(set: &TemplateSet, spec: &CollectionSpec) -> Option<&'static str> {
    let Units::Range { lower, upper } = &spec.units else {
        return Some("the collection has no declared ranges");
    };
    let (bounds, now) = (set.bounds(), clock::now().0);
    let misfits = [
        (set.collection() != spec.name.as_str(), "another collection"),
        (!set.is_current(now), "it does not count any more"),
        (set.issued_unix_ms() > now.saturating_add(CLOCKS_APART_MS), "it is from the future"),
        (set.dim() != spec.dim.get(), "another dimension"),
        (set.metric() != metric(spec.metric), "another metric"),
        (set.channels() != channels(spec), "other channels"),
        (set.normalization() != Normalization::Shared, "other units"),
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

#[cfg(test)]
mod tests {
    use dunlin_privacy::{About, Bounds, Dataset, Intent, ReleaseConfig, Terms, release};

    use std::time::Duration;

    use super::*;

    /// Returns a store for sharing, and a set of one and the same release for each signer and time.
    struct Fixture {
        temp: tempfile::TempDir,
        released: dunlin_privacy::Release,
    }

    impl Fixture {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            let bounds = Bounds::new(vec![0.0; 2], vec![1.0; 2]).unwrap();
            let data = Dataset::new(&[0.25; 40_000], 2, bounds).unwrap();
            let epsilon = Epsilon::new(1.0).unwrap();
            let mut ledger =
                Ledger::open(&temp.path().join("other-ledger"), Ceiling::pure(epsilon)).unwrap();
            let intent = Intent {
                collection: "pairs",
                data: &data,
                terms: Terms::observation(epsilon).unwrap(),
                now_unix_ms: 0,
                purpose: "test",
            };
            let receipt = ledger.reserve(&intent).unwrap();
            let released = release(&mut ledger, receipt, &data, &ReleaseConfig::default()).unwrap();
            Self { temp, released }
        }

        fn open(&self) -> (Sharing, Archive) {
            let dir = DataDir::open_or_create(&self.temp.path().join("node")).unwrap();
            let archive = Archive::open(
                &dir.room("archive").unwrap().join("blocks.redb"),
                dunlin_archive::Config::default(),
            );
            let archive = archive.unwrap();
            let identity = dir.identity().unwrap();
            let sharing = Sharing::open(&dir, &Config::default(), &identity, &archive);
            (sharing.unwrap(), archive)
        }

        /// Returns a set that was issued so long ago and counts for one day.
        fn set(&self, age: Duration) -> Held {
            let age_ms = u64::try_from(age.as_millis()).unwrap();
            let issued_unix_ms = clock::now().0 - age_ms;
            let about = About {
                collection: "pairs",
                metric: dunlin_privacy::Metric::Euclidean,
                channels: ChannelsDigest::of(&[]),
                issued_unix_ms,
                expires_unix_ms: issued_unix_ms + 24 * 60 * 60 * 1_000,
            };
            let set = TemplateSet::new(&self.released, &about).unwrap();
            let signed = envelope::sign(&Keypair::generate_ed25519(), set).unwrap();
            Held { signed: Arc::new(signed), judged: None }
        }
    }

    const HOUR: Duration = Duration::from_secs(60 * 60);

    #[test]
    fn the_expired_go_first_then_the_refused_and_the_adopted_never() {
        let fixture = Fixture::new();
        let (sharing, _archive) = fixture.open();
        let adopted = Held { judged: Some(Judged::adopted()), ..fixture.set(9 * HOUR) };
        let (old, new) = (fixture.set(5 * HOUR), fixture.set(HOUR));
        let expired = Held { judged: Some(Judged::adopted()), ..fixture.set(30 * HOUR) };
        for held in [&adopted, &new, &expired, &old] {
            sharing.hold(held.clone());
        }
        for expected in [&expired, &old, &new] {
            let least = sharing.least_useful().unwrap();
            assert_eq!(least, expected.place());
            sharing.sets().remove(&least);
        }
        assert_eq!(sharing.least_useful(), None, "what is adopted stays");
        assert_eq!(sharing.current().len(), 1);
    }

    #[test]
    fn a_verdict_on_a_set_that_was_replaced_meanwhile_is_dropped() {
        let fixture = Fixture::new();
        let (sharing, _archive) = fixture.open();
        let key = Keypair::generate_ed25519();
        let signed = |age| envelope::sign(&key, fixture.set(age).signed.value.clone()).unwrap();
        let set = |age| Held { signed: Arc::new(signed(age)), judged: None };
        let (mut judged, newer) = (set(2 * HOUR), set(HOUR));
        sharing.hold(judged.clone());
        judged.judged = Some(Judged::adopted());
        sharing.hold(newer.clone());
        sharing.note_verdict(&judged);
        assert_eq!(sharing.held()[0].judged, None);
        let mut current = sharing.held().remove(0);
        current.judged = Some(Judged::adopted());
        sharing.note_verdict(&current);
        assert!(sharing.held()[0].is_adopted());
        // The same one, from whoever else tells of it.
        let again = Held { signed: Arc::new((*newer.signed).clone()), judged: None };
        sharing.hold(again);
        assert!(sharing.held()[0].is_adopted(), "what the gate said of it stays");
    }

    #[test]
    fn a_set_that_does_not_fit_the_collection_is_passed_over_and_it_is_said_why() {
        let fixture = Fixture::new();
        let held = fixture.set(HOUR);
        let set = &held.signed.value;
        let units = |upper| Units::Range { lower: vec![0.0; 2], upper: vec![1.0, upper] };
        let spec = |dim, units| {
            let dim = dunlin_engine::Dim::new(dim).unwrap();
            CollectionSpec::new(CollectionName::new("pairs").unwrap(), dim, units)
        };
        let fitting = spec(2, units(1.0));
        assert_eq!(misfit(set, &fitting), None);
        let names = |names: [&str; 2]| Some(names.map(str::to_owned).to_vec());
        let cases = [
            (spec(3, units(1.0)), "another dimension"),
            (CollectionSpec { metric: Metric::Cosine, ..fitting.clone() }, "another metric"),
            (spec(2, units(2.0)), "other ranges"),
            (CollectionSpec { channels: names(["a", "b"]), ..fitting.clone() }, "other channels"),
            (spec(2, Units::NoiseFloor), "the collection has no declared ranges"),
        ];
        for (spec, why) in cases {
            assert_eq!(misfit(set, &spec), Some(why));
        }
        // The same names in another order are other channels, too.
        assert_ne!(
            ChannelsDigest::of(&names(["a", "b"]).unwrap()),
            ChannelsDigest::of(&names(["b", "a"]).unwrap())
        );
        // Nothing publishes such a set yet, so one is made from its bytes.
        let bytes = dunlin_wire::cbor::encode(set).unwrap();
        let at = bytes.windows(6).position(|bytes| bytes == b"shared").unwrap();
        let bytes = [&bytes[..at], b"entity", &bytes[at + 6..]].concat();
        let foreign: TemplateSet = dunlin_wire::cbor::decode(&bytes, bytes.len()).unwrap();
        assert_eq!(misfit(&foreign, &fitting), Some("other units"));
    }

    #[test]
    fn what_expired_while_the_node_was_off_leaves_the_archive() {
        let fixture = Fixture::new();
        let (sharing, archive) = fixture.open();
        let (expired, current) = (fixture.set(30 * HOUR), fixture.set(HOUR));
        for held in [&expired, &current] {
            let pin = Pin::templates("pairs", &held.signed.signer);
            let block = Block::new(Codec::DagCbor, held.signed.bytes.clone());
            archive.replace(&Object::leaf(pin, block)).unwrap();
        }
        drop((sharing, archive));
        let (sharing, archive) = fixture.open();
        assert_eq!(sharing.held().len(), 1);
        assert_eq!(sharing.held()[0].place(), current.place());
        assert_eq!(archive.pins("templates/").unwrap().len(), 1);
    }
}
