//! Who provides what, as far as the DHT trusts this node to remember: records of providers, and in
//! [`NameStore`] the only values there are, those of names.
//!
//! libp2p's own store keeps one limit for this node's keys and everybody's, so that a stranger who fills
//! it keeps the node from announcing itself, and it drops expired records only when somebody asks for
//! them. Here own keys have their own room, every provider has a quota, and a full store is swept.

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map},
    iter,
    time::{Duration, Instant},
};

use libp2p::{
    PeerId,
    kad::{
        ProviderRecord, Record, RecordKey,
        store::{Error, RecordStore, Result},
    },
};

use crate::name_store::NameStore;

/// Keys that this node provides: the rendezvous, roots and what the operator named; the schedule in
/// `dunlin_archive::providing` has lower limits.
const OWN_MAX: usize = 20_000;

/// Records of one provider, so that one identity cannot fill the store.
const PER_PROVIDER_MAX: usize = 256;

/// Providers of one key: as many as an answer holds.
const PER_KEY_MAX: usize = 20;

/// A full store is swept for expired records this often at most.
const SWEEP_PAUSE: Duration = Duration::from_secs(60);

/// The records.
#[derive(Debug)]
pub(crate) struct ProviderStore {
    /// The records of names.
    pub(crate) names: NameStore,
    me: PeerId,
    /// Records of others. When there are as many, new ones are refused.
    others_max: usize,
    own: HashMap<RecordKey, ProviderRecord>,
    others: HashMap<RecordKey, Vec<ProviderRecord>>,
    counts: HashMap<PeerId, usize>,
    count: usize,
    next_sweep: Instant,
}

impl ProviderStore {
    /// Returns the empty store of `me`, with room for so many records of others.
    pub(crate) fn new(me: PeerId, others_max: usize, now: Instant) -> Self {
        Self {
            names: NameStore::new(me, now),
            me,
            others_max,
            own: HashMap::new(),
            others: HashMap::new(),
            counts: HashMap::new(),
            count: 0,
            next_sweep: now,
        }
    }

    /// Returns all records of providers: the key, and who says to have what it names.
    pub(crate) fn all_providers(&self) -> impl Iterator<Item = (Vec<u8>, PeerId)> {
        let all = self.own.values().chain(self.others.values().flatten());
        all.map(|record| (record.key.to_vec(), record.provider))
    }

    /// Forgets what a provider told, so that nobody is sent its way.
    pub(crate) fn forget(&mut self, provider: &PeerId) {
        if self.counts.remove(provider).is_none() {
            return;
        }
        self.others.retain(|_, records| {
            records.retain(|record| record.provider != *provider);
            !records.is_empty()
        });
        self.count = self.others.values().map(Vec::len).sum();
    }

    fn add_own(&mut self, record: ProviderRecord) -> Result<()> {
        if self.own.len() >= OWN_MAX && !self.own.contains_key(&record.key) {
            return Err(Error::MaxProvidedKeys);
        }
        self.own.insert(record.key.clone(), record);
        Ok(())
    }

    fn add_other(&mut self, record: ProviderRecord, now: Instant) -> Result<()> {
        let known = self.others.get_mut(&record.key);
        let renewed = known
            .and_then(|records| records.iter_mut().find(|known| known.provider == record.provider));
        if let Some(renewed) = renewed {
            *renewed = record;
            return Ok(());
        }
        if self.count >= self.others_max {
            self.sweep(now);
        }
        let of_provider = self.counts.get(&record.provider).copied().unwrap_or(0);
        let of_key = self.others.get(&record.key).map_or(0, Vec::len);
        if self.count >= self.others_max || of_provider >= PER_PROVIDER_MAX || of_key >= PER_KEY_MAX
        {
            return Err(Error::MaxRecords);
        }
        self.count += 1;
        self.counts.insert(record.provider, of_provider + 1);
        self.others.entry(record.key.clone()).or_default().push(record);
        Ok(())
    }

    fn sweep(&mut self, now: Instant) {
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + SWEEP_PAUSE;
        let mut gone = Vec::new();
        self.others.retain(|_, records| {
            gone.extend(records.extract_if(.., |record| record.is_expired(now)));
            !records.is_empty()
        });
        gone.iter().for_each(|record| self.uncount(&record.provider));
    }

    fn uncount(&mut self, provider: &PeerId) {
        self.count -= 1;
        if let Some(count) = self.counts.get_mut(provider) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(provider);
            }
        }
    }
}

impl RecordStore for ProviderStore {
    type RecordsIter<'a> = iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = iter::Map<
        hash_map::Values<'a, RecordKey, ProviderRecord>,
        fn(&'a ProviderRecord) -> Cow<'a, ProviderRecord>,
    >;

    fn get(&self, key: &RecordKey) -> Option<Cow<'_, Record>> {
        self.names.get(key).map(Cow::Borrowed)
    }

    /// Keeps what this node itself puts: its name's record. What others put is checked before.
    fn put(&mut self, record: Record) -> Result<()> {
        if self.names.put_own(record) { Ok(()) } else { Err(Error::MaxRecords) }
    }

    fn remove(&mut self, key: &RecordKey) {
        self.names.remove(key);
    }

    fn records(&self) -> Self::RecordsIter<'_> {
        iter::empty()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        if record.provider == self.me {
            self.add_own(record)
        } else {
            self.add_other(record, Instant::now())
        }
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        self.own
            .get(key)
            .into_iter()
            .chain(self.others.get(key).into_iter().flatten())
            .cloned()
            .collect()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        self.own.values().map(Cow::Borrowed)
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        if *provider == self.me {
            self.own.remove(key);
            return;
        }
        let Some(records) = self.others.get_mut(key) else { return };
        let Some(place) = records.iter().position(|record| record.provider == *provider) else {
            return;
        };
        records.remove(place);
        if records.is_empty() {
            self.others.remove(key);
        }
        self.uncount(provider);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHERS_MAX: usize = 8192;

    fn record(key: usize, provider: PeerId, expires: Option<Instant>) -> ProviderRecord {
        let key = RecordKey::new(&key.to_be_bytes());
        ProviderRecord { key, provider, expires, addresses: Vec::new() }
    }

    fn store() -> ProviderStore {
        ProviderStore::new(PeerId::random(), OTHERS_MAX, Instant::now())
    }

    #[test]
    fn strangers_cannot_keep_a_node_from_announcing_itself() {
        let mut store = store();
        let strangers: Vec<_> =
            (0..OTHERS_MAX / PER_PROVIDER_MAX).map(|_| PeerId::random()).collect();
        for (number, stranger) in strangers.iter().enumerate() {
            let keys = number * PER_PROVIDER_MAX..(number + 1) * PER_PROVIDER_MAX;
            for key in keys {
                store.add_provider(record(key, *stranger, None)).unwrap();
            }
            assert!(store.add_provider(record(usize::MAX, *stranger, None)).is_err());
        }
        assert!(store.add_provider(record(usize::MAX, PeerId::random(), None)).is_err());
        let me = store.me;
        store.add_provider(record(0, me, None)).unwrap();
        assert_eq!(store.provided().count(), 1);
        assert_eq!(store.providers(&record(0, me, None).key).len(), 2);
    }

    #[test]
    fn what_a_provider_told_is_forgotten_as_a_whole() {
        let mut store = store();
        let [stays, goes] = [(); 2].map(|()| PeerId::random());
        for key in 0..3 {
            store.add_provider(record(key, stays, None)).unwrap();
            store.add_provider(record(key + 1, goes, None)).unwrap();
        }
        store.forget(&goes);
        store.forget(&PeerId::random());
        assert_eq!((store.count, store.counts.len(), store.others.len()), (3, 1, 3));
        assert!(store.all_providers().all(|(_, provider)| provider == stays));
    }

    #[test]
    fn a_full_store_forgets_what_has_expired() {
        let mut store = store();
        let now = Instant::now();
        for key in 0..OTHERS_MAX {
            let provider = PeerId::random();
            store.add_other(record(key, provider, Some(now + SWEEP_PAUSE)), now).unwrap();
        }
        assert!(store.add_other(record(OTHERS_MAX, PeerId::random(), None), now).is_err());
        let later = now + 2 * SWEEP_PAUSE;
        store.add_other(record(OTHERS_MAX, PeerId::random(), None), later).unwrap();
        assert_eq!((store.count, store.counts.len(), store.others.len()), (1, 1, 1));
    }

    #[test]
    fn a_record_is_renewed_in_place_and_removed_without_a_trace() {
        let mut store = store();
        let (me, other) = (store.me, PeerId::random());
        let now = Instant::now();
        for peer in [me, other] {
            store.add_provider(record(1, peer, None)).unwrap();
            store.add_provider(record(1, peer, Some(now))).unwrap();
        }
        let key = record(1, me, None).key;
        let records = store.providers(&key);
        assert_eq!(records.len(), 2);
        assert!(records.iter().all(|record| record.expires == Some(now)));
        store.remove_provider(&key, &PeerId::random());
        for peer in [me, other] {
            store.remove_provider(&key, &peer);
        }
        assert!(store.providers(&key).is_empty() && store.counts.is_empty() && store.count == 0);
    }

    #[test]
    fn one_key_has_as_many_providers_as_an_answer_holds() {
        let mut store = store();
        for _ in 0..PER_KEY_MAX {
            store.add_provider(record(1, PeerId::random(), None)).unwrap();
        }
        assert!(store.add_provider(record(1, PeerId::random(), None)).is_err());
    }
}
