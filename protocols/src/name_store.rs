//! The values that the DHT trusts this node to remember: records of IPNS names, and nothing else.
//!
//! A record proves itself: the name's key has signed it, and of two the newer one counts. So whoever sends one
//! can neither forge nor roll back what a name says, here or anywhere; what is left to limit is how much.

use std::{
    cmp::Ordering,
    collections::HashMap,
    time::{Duration, Instant, SystemTime},
};

use dunlin_archive::ipns::{InvalidRecord, Name, Record};
use libp2p::{
    PeerId,
    kad::{self, RecordKey},
};

use crate::rate::{Bucket, Rate};

/// Records of others. When the store is full, new names are refused.
const OTHERS_MAX: usize = 4096;

/// Their bytes. A record has some 400, and may have 10 KiB.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// Names of which one peer may send the first record, so that one identity cannot fill the store.
const PER_SENDER_MAX: usize = 64;

/// How long a record is kept that nobody sends again, as everywhere on the IPFS DHT.
const KEPT: Duration = Duration::from_secs(48 * 3600);

/// A full store is swept for expired records this often at most.
const SWEEP_PAUSE: Duration = Duration::from_secs(60);

/// Signatures that strangers may have us check: each costs a tenth of a millisecond.
const CHECKS: Rate = Rate { burst: 256, every: Duration::from_millis(10) };

/// The records.
#[derive(Debug)]
pub(crate) struct NameStore {
    own_key: RecordKey,
    own: Option<kad::Record>,
    others: HashMap<RecordKey, Kept>,
    counts: HashMap<PeerId, usize>,
    bytes: usize,
    next_sweep: Instant,
    checks: Bucket,
}

/// A record of somebody else.
#[derive(Debug)]
struct Kept {
    record: Record,
    stored: kad::Record,
    /// Who sent the first one.
    sender: PeerId,
}

/// Why a record is not kept.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// It is under a key that is no name's.
    #[error("no name has such a key")]
    NoName,
    /// It is not valid.
    #[error(transparent)]
    Invalid(#[from] InvalidRecord),
    /// A newer one is here.
    #[error("a newer record is known")]
    Old,
    /// There is no room, or too much to check.
    #[error("too many records")]
    Full,
}

impl NameStore {
    /// Returns the empty store of `me`.
    pub(crate) fn new(me: PeerId, now: Instant) -> Self {
        Self {
            own_key: Name::of(&me).map_or_else(|| RecordKey::new(&[]), |name| key_of(&name)),
            own: None,
            others: HashMap::new(),
            counts: HashMap::new(),
            bytes: 0,
            next_sweep: now,
            checks: Bucket::full(CHECKS, now),
        }
    }

    /// Keeps the node's own record, which the node has signed itself.
    pub(crate) fn put_own(&mut self, record: kad::Record) -> bool {
        let is_own = record.key == self.own_key;
        if is_own {
            self.own = Some(record);
        }
        is_own
    }

    /// Keeps what a peer sent, when it is a valid record and there is room for it.
    pub(crate) fn offer(
        &mut self,
        sender: PeerId,
        sent: kad::Record,
        wall: SystemTime,
        now: Instant,
    ) -> Result<(), Refused> {
        let name = Name::from_routing_key(sent.key.as_ref()).ok_or(Refused::NoName)?;
        if sent.key == self.own_key {
            // What this node says it knows best.
            return Err(Refused::Old);
        }
        let known = self.others.get_mut(&sent.key);
        if let Some(known) = known
            && known.record.bytes() == sent.value
        {
            // It was checked when it came first.
            known.stored.expires = Some(expiry(&known.record, wall, now));
            return Ok(());
        }
        if !self.checks.take(CHECKS, now) {
            return Err(Refused::Full);
        }
        let record = Record::open(&name, &sent.value, wall)?;
        let known = self.others.get(&sent.key);
        if known.is_some_and(|known| known.record.compare(&record) == Ordering::Greater) {
            return Err(Refused::Old);
        }
        let mut stored = kad::Record::new(sent.key, sent.value);
        stored.expires = Some(expiry(&record, wall, now));
        self.insert(sender, record, stored, now)
    }

    /// Returns a record, which may have expired.
    pub(crate) fn get(&self, key: &RecordKey) -> Option<&kad::Record> {
        match &self.own {
            Some(own) if own.key == *key => Some(own),
            _ => self.others.get(key).map(|kept| &kept.stored),
        }
    }

    pub(crate) fn remove(&mut self, key: &RecordKey) {
        if *key == self.own_key {
            self.own = None;
        } else if let Some(kept) = self.others.remove(key) {
            self.uncount(&kept);
        }
    }

    /// Returns the names of which records are here.
    pub(crate) fn names(&self) -> impl Iterator<Item = Name> {
        let keys = self.own.iter().map(|own| &own.key).chain(self.others.keys());
        keys.filter_map(|key| Name::from_routing_key(key.as_ref()))
    }

    fn insert(
        &mut self,
        sender: PeerId,
        record: Record,
        stored: kad::Record,
        now: Instant,
    ) -> Result<(), Refused> {
        let more = stored.value.len();
        if !self.has_room(&stored.key, more) {
            self.sweep(now);
        }
        if !self.has_room(&stored.key, more) {
            return Err(Refused::Full);
        }
        let sender = match self.others.get(&stored.key) {
            Some(known) => known.sender,
            None if self.counts.get(&sender).is_some_and(|count| *count >= PER_SENDER_MAX) => {
                return Err(Refused::Full);
            }
            None => sender,
        };
        self.remove(&stored.key.clone());
        self.bytes += more;
        *self.counts.entry(sender).or_default() += 1;
        self.others.insert(stored.key.clone(), Kept { record, stored, sender });
        Ok(())
    }

    fn has_room(&self, key: &RecordKey, more: usize) -> bool {
        let known = self.others.get(key).map(|known| known.stored.value.len());
        let count = self.others.len() + usize::from(known.is_none());
        count <= OTHERS_MAX && self.bytes - known.unwrap_or(0) + more <= BYTES_MAX
    }

    fn sweep(&mut self, now: Instant) {
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + SWEEP_PAUSE;
        let expired = self.others.extract_if(|_, kept| kept.stored.is_expired(now));
        for kept in expired.map(|(_, kept)| kept).collect::<Vec<_>>() {
            self.uncount(&kept);
        }
    }

    fn uncount(&mut self, kept: &Kept) {
        self.bytes -= kept.stored.value.len();
        if let Some(count) = self.counts.get_mut(&kept.sender) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&kept.sender);
            }
        }
    }
}

/// Returns when a record is forgotten that came, or came again, now.
fn expiry(record: &Record, wall: SystemTime, now: Instant) -> Instant {
    let left = record.eol().duration_since(wall).unwrap_or_default();
    now + left.min(KEPT)
}

/// Returns the key of a name's record on the DHT.
pub(crate) fn key_of(name: &Name) -> RecordKey {
    RecordKey::from(name.routing_key())
}

#[cfg(test)]
mod tests {
    use dunlin_archive::ipns::Terms;
    use libp2p::identity::Keypair;

    use super::*;

    fn wall() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn key(number: u16) -> Keypair {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        Keypair::ed25519_from_bytes(bytes).unwrap()
    }

    fn record(key: &Keypair, sequence: u64, value_bytes: usize) -> kad::Record {
        let terms = Terms {
            value: format!("/ipfs/{}", "x".repeat(value_bytes)),
            sequence,
            eol: wall() + Duration::from_secs(60),
            ttl: Duration::ZERO,
        };
        let name = Name::of(&key.public().to_peer_id()).unwrap();
        let bytes = Record::sign(key, &terms).unwrap().bytes().to_vec();
        kad::Record::new(key_of(&name), bytes)
    }

    struct Fixture {
        store: NameStore,
        me: Keypair,
        now: Instant,
    }

    impl Fixture {
        fn new() -> Self {
            let (me, now) = (key(9999), Instant::now());
            Self { store: NameStore::new(me.public().to_peer_id(), now), me, now }
        }

        fn offer(&mut self, sender: PeerId, record: kad::Record) -> Result<(), Refused> {
            // Checking is paced; a second between any two is slow enough.
            self.now += Duration::from_secs(1);
            self.store.offer(sender, record, wall(), self.now)
        }
    }

    #[test]
    fn only_newer_records_of_names_are_kept() {
        let mut fixture = Fixture::new();
        let (alice, sender) = (key(1), PeerId::random());
        let key_of_alice = record(&alice, 0, 9).key;
        for sequence in [3, 3, 4] {
            fixture.offer(sender, record(&alice, sequence, 9)).unwrap();
        }
        assert_eq!(fixture.offer(sender, record(&alice, 3, 9)), Err(Refused::Old));
        let forged = kad::Record::new(key_of_alice.clone(), record(&key(2), 9, 9).value);
        let refused = fixture.offer(sender, forged);
        assert_eq!(refused, Err(Refused::Invalid(InvalidRecord::Signature)));
        let other = kad::Record::new(b"/pk/something".to_vec(), b"a value".to_vec());
        assert_eq!(fixture.offer(sender, other), Err(Refused::NoName));
        let kept = fixture.store.get(&key_of_alice).unwrap();
        assert_eq!(kept.value, record(&alice, 4, 9).value);
        assert_eq!(fixture.store.names().count(), 1);
        fixture.store.remove(&key_of_alice);
        let store = &fixture.store;
        assert!(store.others.is_empty() && store.counts.is_empty() && store.bytes == 0);
    }

    #[test]
    fn nobody_else_says_what_the_own_name_stands_for() {
        let mut fixture = Fixture::new();
        let own = record(&fixture.me, 1, 9);
        let later = record(&fixture.me, 2, 9);
        assert_eq!(fixture.offer(PeerId::random(), later.clone()), Err(Refused::Old));
        assert!(fixture.store.put_own(own.clone()));
        assert_eq!(fixture.offer(PeerId::random(), later), Err(Refused::Old));
        assert_eq!(fixture.store.get(&own.key), Some(&own));
        assert!(!fixture.store.put_own(record(&key(1), 1, 9)), "it is of another name");
        fixture.store.remove(&own.key);
        assert_eq!(fixture.store.get(&own.key), None);
    }

    #[test]
    fn one_sender_cannot_fill_the_store() {
        let mut fixture = Fixture::new();
        let (sender, other) = (PeerId::random(), PeerId::random());
        for number in 0..PER_SENDER_MAX as u16 {
            fixture.offer(sender, record(&key(number), 1, 9)).unwrap();
        }
        let last = PER_SENDER_MAX as u16;
        assert_eq!(fixture.offer(sender, record(&key(last), 1, 9)), Err(Refused::Full));
        fixture.offer(sender, record(&key(0), 2, 9)).unwrap();
        fixture.offer(other, record(&key(last), 1, 9)).unwrap();
        // Who renews a record of another does not take its place in the count.
        fixture.offer(other, record(&key(0), 3, 9)).unwrap();
        assert_eq!((fixture.store.counts[&sender], fixture.store.counts[&other]), (64, 1));
    }

    #[test]
    fn bytes_have_a_limit_and_a_full_store_forgets_what_has_expired() {
        let mut fixture = Fixture::new();
        let large = 4_000;
        let size = record(&key(0), 1, large).value.len();
        let mut number = 0;
        while fixture.store.bytes + size <= BYTES_MAX {
            fixture.offer(PeerId::random(), record(&key(number), 1, large)).unwrap();
            number += 1;
        }
        assert!(usize::from(number) < OTHERS_MAX);
        fixture.now = Instant::now();
        assert_eq!(
            fixture.offer(PeerId::random(), record(&key(number), 1, large)),
            Err(Refused::Full)
        );
        fixture.offer(PeerId::random(), record(&key(0), 2, large)).unwrap();
        fixture.now += KEPT;
        fixture.offer(PeerId::random(), record(&key(number), 1, large)).unwrap();
        assert_eq!((fixture.store.others.len(), fixture.store.bytes), (1, size));
    }

    #[test]
    fn strangers_cannot_keep_us_busy_with_signatures() {
        let mut fixture = Fixture::new();
        let (alice, mallory) = (key(1), PeerId::random());
        fixture.offer(mallory, record(&alice, 1, 9)).unwrap();
        let forged = kad::Record::new(record(&alice, 1, 9).key, record(&key(2), 1, 9).value);
        let now = fixture.now;
        let mut refusals = Vec::new();
        for _ in 0..2 * CHECKS.burst {
            refusals.push(fixture.store.offer(mallory, forged.clone(), wall(), now).unwrap_err());
        }
        let unchecked = refusals.iter().filter(|refused| **refused == Refused::Full).count();
        assert!(unchecked >= CHECKS.burst as usize, "{unchecked}");
        // What is known needs no new check.
        fixture.store.offer(PeerId::random(), record(&alice, 1, 9), wall(), now).unwrap();
    }
}
