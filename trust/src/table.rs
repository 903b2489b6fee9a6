//! The records of peers, in the order in which they are forgotten.
//!
//! What is held against a peer, and what it earned, fades with time, but for all records at the same pace: so the
//! order of two of them never changes, and can be kept instead of sought. With a half-life `h`, a sum `s` of the
//! time `t` is less than another exactly when `log2(s) + t / h` is.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::Duration,
};

use libp2p_identity::PeerId;

use crate::{config::HalfLives, record::Record, revocation::Subject, time::UnixMillis};

/// All records. Finding the one to forget takes a logarithm of their number.
///
/// Keys are the 32 bytes that tell peers apart, not the 80 of a peer id: a table of many peers is looked up with every
/// question to the gate, and what it costs is reading memory.
#[derive(Debug)]
pub(crate) struct Table {
    half_lives: HalfLives,
    records: BTreeMap<Subject, Filed>,
    forgettable: BTreeSet<Rank>,
    quarantined: BTreeSet<Rank>,
}

#[derive(Debug)]
struct Filed {
    record: Record,
    shelf: Shelf,
}

/// Where a record waits to be forgotten, by what its peer was when that was last looked at: time alone moves a
/// standing, too, and whoever forgets looks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shelf {
    /// May be forgotten at any time.
    Forgettable,
    /// May be forgotten when there are too many of them.
    Quarantined,
    /// Is never forgotten.
    Kept,
}

/// How useful a record is: the least against its peer first, then the least earned, then the oldest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    grave: Fading,
    earned: Fading,
    updated: UnixMillis,
    peer: Subject,
}

/// The logarithm of a sum, as it would have been at the epoch.
#[derive(Clone, Copy, Debug)]
struct Fading(f64);

impl Fading {
    #[expect(clippy::cast_precision_loss, reason = "a float has the present time to a microsecond")]
    fn of(sum: f64, updated: UnixMillis, half_life: Duration) -> Self {
        Self(sum.log2() + updated.0 as f64 / (half_life.as_secs_f64() * 1e3))
    }
}

impl PartialEq for Fading {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Fading {}

impl PartialOrd for Fading {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Fading {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl Table {
    /// Returns the empty table.
    pub(crate) fn new(half_lives: HalfLives) -> Self {
        let (forgettable, quarantined) = (BTreeSet::new(), BTreeSet::new());
        Self { half_lives, records: BTreeMap::new(), forgettable, quarantined }
    }

    /// Puts a record on a shelf, in place of the one of the same peer.
    pub(crate) fn insert(&mut self, record: Record, shelf: Shelf) {
        self.remove(record.peer());
        let rank = self.rank(&record);
        let peer = rank.peer;
        if let Some(ranks) = self.ranks_mut(shelf) {
            ranks.insert(rank);
        }
        self.records.insert(peer, Filed { record, shelf });
    }

    /// Takes a record out.
    pub(crate) fn remove(&mut self, peer: &PeerId) -> Option<Record> {
        let Filed { record, shelf } = self.records.remove(&Subject::of(peer))?;
        let rank = self.rank(&record);
        if let Some(ranks) = self.ranks_mut(shelf) {
            ranks.remove(&rank);
        }
        Some(record)
    }

    /// Puts a peer's record on another shelf, if there is one.
    pub(crate) fn refile(&mut self, peer: &PeerId, shelf: Shelf) {
        if let Some(record) = self.remove(peer) {
            self.insert(record, shelf);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn get(&self, peer: &PeerId) -> Option<&Record> {
        self.of(&Subject::of(peer))
    }

    /// As [`Self::get`], of a peer's key.
    pub(crate) fn of(&self, subject: &Subject) -> Option<&Record> {
        self.records.get(subject).map(|filed| &filed.record)
    }

    pub(crate) fn contains(&self, peer: &PeerId) -> bool {
        self.records.contains_key(&Subject::of(peer))
    }

    /// Returns all peers, in the order of their keys.
    pub(crate) fn peers(&self) -> impl Iterator<Item = &PeerId> {
        self.records.values().map(|filed| filed.record.peer())
    }

    /// Returns the peers behind one in the order of their keys, or all of them.
    pub(crate) fn after(&self, peer: Option<&PeerId>) -> impl Iterator<Item = &PeerId> {
        let from = peer.map_or(Bound::Unbounded, |peer| Bound::Excluded(Subject::of(peer)));
        let behind = self.records.range((from, Bound::Unbounded));
        behind.map(|(_, filed)| filed.record.peer())
    }

    /// Returns how many peers stand on a shelf of those who are forgotten.
    pub(crate) fn count(&self, shelf: Shelf) -> usize {
        self.ranks(shelf).map_or(0, BTreeSet::len)
    }

    /// Returns the least useful peer on a shelf that is not this one.
    pub(crate) fn least(&self, shelf: Shelf, except: Option<&PeerId>) -> Option<PeerId> {
        self.ranked(shelf).find(|peer| Some(*peer) != except).copied()
    }

    /// Returns the peers on a shelf of those who are forgotten, the least useful one first.
    pub(crate) fn ranked(&self, shelf: Shelf) -> impl DoubleEndedIterator<Item = &PeerId> {
        let ranks = self.ranks(shelf).into_iter().flatten();
        ranks.filter_map(|rank| Some(self.records.get(&rank.peer)?.record.peer()))
    }

    fn ranks(&self, shelf: Shelf) -> Option<&BTreeSet<Rank>> {
        match shelf {
            Shelf::Forgettable => Some(&self.forgettable),
            Shelf::Quarantined => Some(&self.quarantined),
            Shelf::Kept => None,
        }
    }

    fn ranks_mut(&mut self, shelf: Shelf) -> Option<&mut BTreeSet<Rank>> {
        match shelf {
            Shelf::Forgettable => Some(&mut self.forgettable),
            Shelf::Quarantined => Some(&mut self.quarantined),
            Shelf::Kept => None,
        }
    }

    fn rank(&self, record: &Record) -> Rank {
        let (sums, updated) = (&record.sums, record.updated);
        Rank {
            grave: Fading::of(sums.grave, updated, self.half_lives.grave),
            earned: Fading::of(sums.earned, updated, self.half_lives.earned),
            updated,
            peer: Subject::of(record.peer()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::score::Sums;

    const HOUR: u64 = 3_600_000;

    fn peer(seed: u64) -> PeerId {
        let mut bytes = vec![0x12, 0x20];
        bytes.extend(seed.to_be_bytes().repeat(4));
        PeerId::from_bytes(&bytes).unwrap()
    }

    /// Sums of which no two kinds are nearly equal once they have faded: times are whole hours, and no ratio of two
    /// of these is a power of two but for one that is itself.
    fn record(seed: u64, grave: u8, earned: u8, updated: u64) -> Record {
        let sum = |kind: u8| [0.0, 1.0, 3.0, 5.0, 7.0][usize::from(kind)];
        let mut record = Record::new(peer(seed), UnixMillis(updated * HOUR));
        record.sums = Sums { grave: sum(grave), earned: sum(earned), slight: 0.0 };
        record
    }

    proptest! {
        /// The order that is kept is the one in which a search finds them, at any later time.
        #[test]
        fn it_forgets_in_the_order_that_a_search_finds(
            records in prop::collection::vec((0_u8..5, 0_u8..5, 0_u64..1_000), 1..50),
            later in 1_000_u64..3_000,
        ) {
            let half_lives = HalfLives::default();
            let mut table = Table::new(half_lives);
            for (seed, (grave, earned, updated)) in (0..).zip(records) {
                table.insert(record(seed, grave, earned, updated), Shelf::Forgettable);
            }
            let left = |peer: &PeerId| {
                let record = table.get(peer).unwrap();
                let sums = record.sums.decayed(later * HOUR - record.updated.0, &half_lives);
                (sums, record.updated)
            };
            let ranked: Vec<_> = table.ranked(Shelf::Forgettable).copied().collect();
            let mut searched = ranked.clone();
            searched.sort_by(|a, b| {
                let (a, b) = ((left(a), a), (left(b), b));
                let ((a_sums, a_updated), (b_sums, b_updated)) = (a.0, b.0);
                a_sums.grave.total_cmp(&b_sums.grave)
                    .then(a_sums.earned.total_cmp(&b_sums.earned))
                    .then(a_updated.cmp(&b_updated))
                    .then(a.1.cmp(b.1))
            });
            prop_assert_eq!(ranked, searched);
        }
    }

    #[test]
    fn a_record_stands_on_one_shelf() {
        let mut table = Table::new(HalfLives::default());
        let counts = |table: &Table| {
            (table.count(Shelf::Forgettable), table.count(Shelf::Quarantined), table.len())
        };
        table.insert(record(1, 0, 1, 1), Shelf::Kept);
        assert_eq!(counts(&table), (0, 0, 1));
        table.insert(record(2, 0, 1, 1), Shelf::Forgettable);
        assert_eq!(counts(&table), (1, 0, 2));
        table.insert(record(2, 2, 1, 2), Shelf::Quarantined);
        assert_eq!(counts(&table), (0, 1, 2));
        table.refile(&peer(2), Shelf::Forgettable);
        table.refile(&peer(3), Shelf::Forgettable);
        assert_eq!(counts(&table), (1, 0, 2));
        assert!(table.remove(&peer(2)).is_some());
        assert_eq!(counts(&table), (0, 0, 1));
    }
}
