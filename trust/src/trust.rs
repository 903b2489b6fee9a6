//! The one judge: records of peers, the gate, and what must be persisted.

mod second_hand;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use libp2p_identity::PeerId;

use crate::authorities::Endorsements;
use crate::config::Config;
use crate::evidence::{Evidence, Tally};
use crate::explanation::{self, Explanation};
use crate::hearsay::Hearsay;
use crate::license::{License, LicenseError, has_ended};
use crate::operation::{Operation, Refusal};
use crate::record::Record;
use crate::revocation::Subject;
use crate::revocations::{Acquaintance, Pending, RevocationError, Revocations};
use crate::score::Sums;
use crate::standing::{Standing, StandingChange};
use crate::table::{Shelf, Table};
use crate::time::UnixMillis;

/// Most peers that wait to be handed out by [`Trust::next_forgotten`], about 5 MiB. A shell that
/// drains never gets near it; beyond it a hint is dropped.
const FORGOTTEN_MAX: usize = 65_536;

/// How often quarantines that time alone has ended are looked for: that looks at all of them.
const SWEEP_PAUSE_MS: u64 = 60 * 60 * 1000;

/// Most peers that the operator may hold in quarantine: people name them one by one.
pub const HELD_MAX: usize = 4_096;

/// Most licenses that are remembered, about 6 MiB: authorities made each. One more has to be presented again
/// and again, until others have ended.
const LICENSED_MAX: usize = 100_000;

/// More peers than the operator may hold in quarantine. Nothing was changed; release one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{HELD_MAX} peers are held in quarantine, and no more can be")]
pub struct HeldError;

/// What this node knows about its peers' conduct.
///
/// One owner holds it (the swarm's actor) and every federated operation asks it. After each
/// [`observe`](Self::observe) the shell drains [`next_dirty`](Self::next_dirty) and
/// [`next_forgotten`](Self::next_forgotten).
#[derive(Debug)]
pub struct Trust {
    config: Config,
    records: Table,
    next_sweep: UnixMillis,
    /// A part of the keys of `records`.
    dirty: BTreeSet<PeerId>,
    forgotten: BTreeSet<PeerId>,
    unrecorded: u64,
    revocations: Revocations,
    /// Who presented a license, and when it ends.
    licensed: BTreeMap<Subject, UnixMillis>,
    /// Whom the operator quarantined. It is no evidence, so it needs no record and does not fade.
    held: BTreeMap<Subject, PeerId>,
    /// What trusted peers report about others. Not persisted: all that it does is to withhold trust.
    hearsay: Hearsay,
}

impl Trust {
    /// Starts from what was persisted. Records beyond `peers_max` are forgotten, the least useful
    /// first.
    ///
    /// # Panics
    ///
    /// If [`Config::mistakes`] is not empty: the shell checks its configuration first.
    #[must_use]
    pub fn new(config: Config, records: Vec<Record>) -> Self {
        let mistakes = config.mistakes();
        assert!(mistakes.is_empty(), "trust config is wrong: {mistakes:?}");
        let mut trust = Self {
            revocations: Revocations::new(config.authorities.clone()),
            licensed: BTreeMap::new(),
            held: BTreeMap::new(),
            hearsay: Hearsay::default(),
            records: Table::new(config.half_lives),
            config,
            next_sweep: UnixMillis(0),
            dirty: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            unrecorded: 0,
        };
        for mut record in records {
            record.sums = record.sums.sane(&trust.config.weights);
            record.revoked |= record.standing == Standing::Revoked;
            trust.file(record);
        }
        // No time is known yet, so nothing has decayed: who was quarantined is kept, within its share.
        trust.limit_quarantined(UnixMillis(0), None);
        trust.shrink_to(UnixMillis(0), trust.config.peers_max);
        trust
    }

    /// Takes one piece of evidence; returns the change if the standing moved.
    ///
    /// Evidence dated before what is already known counts as simultaneous with it: it is weighed in
    /// full and nothing decays. Evidence about a stranger is dropped (and counted) when every
    /// record is one that must not be forgotten; such a stranger stands as quarantined. Evidence about a
    /// revoked peer changes nothing. What others report has no part in the change that is returned.
    pub fn observe(
        &mut self,
        now: UnixMillis,
        peer: PeerId,
        evidence: Evidence,
    ) -> Option<StandingChange> {
        if self.revocations.is_revoked(&peer) {
            return None;
        }
        let seen = self.first_hand_standing(now, &peer);
        let from = self.conduct(now, &peer, self.records.get(&peer));
        if !self.make_room_for(now, &peer) {
            self.unrecorded = self.unrecorded.saturating_add(1);
            return None;
        }
        let mut record = self.take_record(now, peer);
        record.tally.count(evidence);
        record.sums = self.sums_at(now, &record).with(evidence, &self.config.weights);
        record.updated = record.updated.max(now);
        let score = record.sums.score(&self.config.weights);
        record.standing = from.next(score, record.known_for(now), &self.config.thresholds);
        self.put_record(record);
        let change = self.moved(now, peer, seen);
        if change.is_some_and(|change| change.to == Standing::Quarantined) {
            self.limit_quarantined(now, Some(&peer));
        }
        change
    }

    /// Quarantines a peer by the operator's word, until [`release`](Self::release); returns the change if the
    /// standing moved. The shell keeps who is held, and says so again after a restart.
    ///
    /// # Errors
    ///
    /// Fails when [`HELD_MAX`] are held.
    pub fn hold(
        &mut self,
        now: UnixMillis,
        peer: PeerId,
    ) -> Result<Option<StandingChange>, HeldError> {
        if self.held.len() >= HELD_MAX && !self.is_held(&peer) {
            return Err(HeldError);
        }
        let from = self.first_hand_standing(now, &peer);
        self.held.insert(Subject::of(&peer), peer);
        self.refile(&peer);
        Ok(self.moved(now, peer, from))
    }

    /// Ends a peer's quarantine by the operator's word, whether the operator began it or evidence did: what is
    /// held against it is forgiven, what it earned and how often it did what stays. Returns the change if the
    /// standing moved. Of a revoked peer nothing changes.
    pub fn release(&mut self, now: UnixMillis, peer: PeerId) -> Option<StandingChange> {
        let from = self.first_hand_standing(now, &peer);
        self.held.remove(&Subject::of(&peer));
        self.refile(&peer);
        if self.first_hand_standing(now, &peer) == Standing::Quarantined
            && let Some(mut record) = self.records.get(&peer).cloned()
        {
            record.sums = Sums { grave: 0.0, slight: 0.0, ..self.sums_at(now, &record) };
            record.updated = record.updated.max(now);
            record.standing = Standing::Probation;
            self.put_record(record);
        }
        self.moved(now, peer, from)
    }

    /// Returns whether the operator holds a peer in quarantine.
    #[must_use]
    pub fn is_held(&self, peer: &PeerId) -> bool {
        !self.held.is_empty() && self.held.contains_key(&Subject::of(peer))
    }

    fn moved(&self, now: UnixMillis, peer: PeerId, from: Standing) -> Option<StandingChange> {
        let to = self.first_hand_standing(now, &peer);
        (from != to).then_some(StandingChange { peer, from, to })
    }

    /// Returns the revocations that are known.
    #[must_use]
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// Takes in a record of a revocation that was stored.
    ///
    /// # Errors
    ///
    /// As [`Revocations::restore`].
    pub fn restore_revocation(&mut self, record: &[u8]) -> Result<(), RevocationError> {
        self.revocations.restore(record)
    }

    /// Makes a revocation count that was checked and is on disk; returns how many keys it is new for.
    pub fn apply_revocation(&mut self, pending: Pending) -> usize {
        let new = self.revocations.apply(pending).len();
        if new > 0 {
            self.licensed.retain(|peer, _| !self.revocations.holds(peer));
            self.hearsay.forget(|peer| self.revocations.is_revoked(peer));
            // Nothing that it did or does matters any more.
            let is_revoked = |peer: &&PeerId| self.revocations.is_revoked(peer);
            let gone: Vec<_> = self.records.peers().filter(is_revoked).copied().collect();
            for peer in gone {
                self.remove(peer);
            }
        }
        new
    }

    /// Returns whether this node has dealt with a peer, so that it was not made to be withdrawn.
    #[must_use]
    pub fn acquaintance(&self, peer: &PeerId) -> Acquaintance {
        let has_earned = self.records.get(peer).is_some_and(|record| record.sums.earned > 0.0);
        if has_earned || self.is_own(peer) || self.licensed.contains_key(&Subject::of(peer)) {
            Acquaintance::Known
        } else {
            Acquaintance::Unknown
        }
    }

    /// Takes the license that a peer presents. In an open network there is nothing to present.
    ///
    /// # Errors
    ///
    /// Says why it does not open the network.
    pub fn present_license(
        &mut self,
        now: UnixMillis,
        peer: PeerId,
        endorsements: &Endorsements,
    ) -> Result<(), LicenseError> {
        if self.config.authorities.is_none() {
            return Ok(());
        }
        let (license, signers) = endorsements.open().map_err(LicenseError::from)?;
        self.present_opened_license(now, peer, license, &signers)
    }

    /// As [`Self::present_license`], of endorsements that [`Endorsements::open`] opened.
    ///
    /// # Errors
    ///
    /// Says why it does not open the network.
    pub fn present_opened_license(
        &mut self,
        now: UnixMillis,
        peer: PeerId,
        license: License,
        signers: &[PeerId],
    ) -> Result<(), LicenseError> {
        let Some(authorities) = &self.config.authorities else { return Ok(()) };
        let is_revoked = |signer: &PeerId| self.revocations.is_revoked(signer);
        let license = authorities.check(license, signers, (&peer, now), is_revoked)?;
        let subject = Subject::of(&peer);
        if self.licensed.len() >= LICENSED_MAX {
            self.licensed.retain(|_, expires| !has_ended(*expires, now));
        }
        if self.licensed.len() < LICENSED_MAX || self.licensed.contains_key(&subject) {
            self.licensed.insert(subject, license.expires());
        }
        Ok(())
    }

    /// Forgets the license of a peer that has gone: it presents it when it comes again.
    pub fn forget_license(&mut self, peer: &PeerId) {
        self.licensed.remove(&Subject::of(peer));
    }

    /// Returns whether the network is open, or this peer has presented a license that opens it.
    #[must_use]
    pub fn is_licensed(&self, now: UnixMillis, peer: &PeerId) -> bool {
        self.config.authorities.is_none()
            || self
                .licensed
                .get(&Subject::of(peer))
                .is_some_and(|expires| !has_ended(*expires, now))
    }

    /// Hands out a record that changed since it was last handed out: the shell persists it.
    /// Drain to `None`.
    pub fn next_dirty(&mut self) -> Option<Record> {
        while let Some(peer) = self.dirty.pop_first() {
            if let Some(record) = self.records.get(&peer) {
                return Some(record.clone());
            }
        }
        None
    }

    /// Hands out a peer whose persisted record may be removed. Drain to `None`. A record that
    /// stays on disk does no harm: it is forgotten again at the next start.
    pub fn next_forgotten(&mut self) -> Option<PeerId> {
        self.forgotten.pop_first()
    }

    /// The gate: may this node do `operation` with `peer`?
    ///
    /// # Errors
    ///
    /// A [`Refusal`] that names the peer, the operation and the reason.
    pub fn may(&self, now: UnixMillis, peer: &PeerId, operation: Operation) -> Result<(), Refusal> {
        let standing = self.standing(now, peer);
        if !operation.admits(standing) {
            return Err(Refusal::Standing { peer: *peer, operation, standing });
        }
        if operation.needs_license() && !self.is_licensed(now, peer) {
            return Err(Refusal::Unlicensed { peer: *peer, operation });
        }
        if operation.needs_own_peer() && !self.is_own(peer) {
            return Err(Refusal::NotOwnPeer { peer: *peer, operation });
        }
        Ok(())
    }

    /// Returns where `peer` stands at `now` by what this node saw itself, or saw proven.
    fn first_hand_standing(&self, now: UnixMillis, peer: &PeerId) -> Standing {
        let subject = Subject::of(peer);
        if self.revocations.holds(&subject) {
            return Standing::Revoked;
        }
        match self.records.of(&subject) {
            Some(record) if record.revoked => Standing::Revoked,
            _ if !self.held.is_empty() && self.held.contains_key(&subject) => Standing::Quarantined,
            record => self.conduct(now, peer, record),
        }
    }

    /// Returns where the conduct of a peer that is not revoked puts it, whatever the operator says. `record` is that of
    /// the peer.
    fn conduct(&self, now: UnixMillis, peer: &PeerId, record: Option<&Record>) -> Standing {
        match record {
            Some(record) => {
                let (score, known_for) = (self.score_of(now, record), record.known_for(now));
                record.standing.next(score, known_for, &self.config.thresholds)
            }
            // A stranger whose misconduct could not be written down is not heard at all.
            None if self.is_closed_to(now, peer) => Standing::Quarantined,
            None => Standing::Probation,
        }
    }

    /// Returns the score of `peer` at `now`, between 0 and 1. A stranger has 0.5; a revoked peer 0.
    #[must_use]
    pub fn score(&self, now: UnixMillis, peer: &PeerId) -> f64 {
        if self.revocations.is_revoked(peer) {
            return 0.0;
        }
        let sums = match self.records.get(peer) {
            Some(record) if record.revoked => return 0.0,
            Some(record) => self.sums_at(now, record),
            None => Sums::default(),
        };
        let hearsay = self.hearsay_about(now, peer);
        sums.with_hearsay(hearsay, &self.config.weights).score(&self.config.weights)
    }

    /// Takes a peer's score apart.
    #[must_use]
    pub fn explain(&self, now: UnixMillis, peer: &PeerId) -> Explanation {
        let record = self.records.get(peer);
        let sums = record.map_or_else(Sums::default, |record| self.sums_at(now, record));
        let tally = record.map_or_else(Tally::default, |record| record.tally);
        Explanation {
            peer: *peer,
            is_own: self.is_own(peer),
            is_held: self.is_held(peer),
            prior: self.config.weights.prior,
            standing: self.standing(now, peer),
            score: self.score(now, peer),
            updated: record.map(|record| record.updated),
            lines: explanation::lines(&sums, &tally)
                .into_iter()
                .chain(self.hearsay_line(now, peer))
                .collect(),
        }
    }

    /// Returns every remembered peer, and everyone whom the operator holds; some of them twice.
    pub fn peers(&self) -> impl Iterator<Item = &PeerId> {
        self.records.peers().chain(self.held.values())
    }

    /// Returns up to so many remembered peers, and up to so many of those whom the operator holds, each in the order of
    /// their [`Subject`]s and from behind one on.
    pub fn peers_after<'a>(
        &'a self,
        after: Option<&'a PeerId>,
        count: usize,
    ) -> impl Iterator<Item = &'a PeerId> {
        let from = after.map_or(Bound::Unbounded, |peer| Bound::Excluded(Subject::of(peer)));
        let held = self.held.range((from, Bound::Unbounded)).map(|(_, peer)| peer);
        self.records.after(after).take(count).chain(held.take(count))
    }

    /// Returns the own peers, those whom the operator holds, and so many others: those with most against them
    /// first, then those who earned most. Some of them come twice.
    pub fn notable_peers(&self, count: usize) -> impl Iterator<Item = &PeerId> {
        let ranked = |shelf| self.records.ranked(shelf).rev();
        let others = ranked(Shelf::Quarantined).chain(ranked(Shelf::Forgettable)).take(count);
        self.config.own_peers.iter().chain(self.held.values()).chain(others)
    }

    /// Returns whether `peer` is one of the operator's own.
    #[must_use]
    pub fn is_own(&self, peer: &PeerId) -> bool {
        self.config.own_peers.contains(peer)
    }

    /// Returns the operator's own peers.
    pub fn own_peers(&self) -> impl Iterator<Item = &PeerId> {
        self.config.own_peers.iter()
    }

    /// Returns how many pieces of evidence were dropped because there was no room for a record.
    #[must_use]
    pub fn unrecorded(&self) -> u64 {
        self.unrecorded
    }

    fn take_record(&mut self, now: UnixMillis, peer: PeerId) -> Record {
        self.records.remove(&peer).unwrap_or_else(|| Record::new(peer, now))
    }

    fn put_record(&mut self, record: Record) {
        let peer = *record.peer();
        self.forgotten.remove(&peer);
        self.dirty.insert(peer);
        self.file(record);
    }

    fn file(&mut self, record: Record) {
        let shelf = self.shelf_of(&record);
        self.records.insert(record, shelf);
    }

    /// Puts a peer's record where it belongs now that the operator said something else about the peer.
    fn refile(&mut self, peer: &PeerId) {
        if let Some(record) = self.records.remove(peer) {
            self.file(record);
        }
    }

    fn shelf_of(&self, record: &Record) -> Shelf {
        if record.revoked || self.is_own(record.peer()) {
            Shelf::Kept
        } else if record.standing == Standing::Quarantined || self.is_held(record.peer()) {
            Shelf::Quarantined
        } else {
            Shelf::Forgettable
        }
    }

    fn score_of(&self, now: UnixMillis, record: &Record) -> f64 {
        self.sums_at(now, record).score(&self.config.weights)
    }

    fn sums_at(&self, now: UnixMillis, record: &Record) -> Sums {
        let elapsed_ms = now.millis_since(record.updated);
        record.sums.decayed(elapsed_ms, &self.config.half_lives)
    }

    /// Makes room for one more record unless `peer` has one; returns whether there is room.
    fn make_room_for(&mut self, now: UnixMillis, peer: &PeerId) -> bool {
        if self.records.contains(peer) || self.is_own(peer) {
            return true;
        }
        self.shrink_to(now, self.config.peers_max - 1);
        self.records.len() < self.config.peers_max
    }

    fn is_closed_to(&self, now: UnixMillis, peer: &PeerId) -> bool {
        self.records.len() >= self.config.peers_max
            && !self.is_own(peer)
            && self.first_forgettable(now).is_none()
    }

    fn shrink_to(&mut self, now: UnixMillis, peers: usize) {
        while self.records.len() > peers {
            let Some(peer) = self.least_useful(now) else {
                return;
            };
            self.remove(peer);
        }
    }

    /// Forgets quarantined strangers beyond half of `peers_max`, those with the least against them first,
    /// but not `newest`, whose quarantine has only begun.
    ///
    /// Keys cost nothing. Were they all kept, whoever makes enough of them misbehave would fill the table
    /// and close this node to every newcomer; forgotten, each is worth no more to its owner than the fresh
    /// key that it could have made instead.
    fn limit_quarantined(&mut self, now: UnixMillis, newest: Option<&PeerId>) {
        let share = (self.config.peers_max / 2).max(1);
        if self.records.count(Shelf::Quarantined) > share {
            self.sweep(now);
        }
        while self.records.count(Shelf::Quarantined) > share {
            let Some(peer) = self.records.least(Shelf::Quarantined, newest) else { return };
            self.remove(peer);
        }
    }

    /// Puts those whose quarantine time alone has ended back among the others.
    fn sweep(&mut self, now: UnixMillis) {
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = UnixMillis(now.0.saturating_add(SWEEP_PAUSE_MS));
        let is_free = |peer: &&PeerId| self.is_forgettable(now, peer);
        let free: Vec<_> =
            self.records.ranked(Shelf::Quarantined).filter(is_free).copied().collect();
        for peer in free {
            self.records.refile(&peer, Shelf::Forgettable);
        }
    }

    fn remove(&mut self, peer: PeerId) {
        self.records.remove(&peer);
        self.dirty.remove(&peer);
        self.forget(peer);
    }

    fn forget(&mut self, peer: PeerId) {
        // A hint that is dropped costs the shell a record on disk until the next start.
        if self.forgotten.len() >= FORGOTTEN_MAX {
            self.forgotten.pop_first();
        }
        self.forgotten.insert(peer);
    }

    /// The forgettable peer with the least held against it, then the least earned: forgetting it
    /// changes the least, and a flood of fresh identities pushes out only itself.
    fn least_useful(&mut self, now: UnixMillis) -> Option<PeerId> {
        self.sweep(now);
        while let Some(peer) = self.records.least(Shelf::Forgettable, None) {
            if self.is_forgettable(now, &peer) {
                return Some(peer);
            }
            self.records.refile(&peer, Shelf::Quarantined);
        }
        self.first_forgettable(now)
    }

    /// As a rule the first one of all. Those in quarantine are looked at only where nobody else may be forgotten.
    fn first_forgettable(&self, now: UnixMillis) -> Option<PeerId> {
        let ranked = [Shelf::Forgettable, Shelf::Quarantined]
            .into_iter()
            .flat_map(|shelf| self.records.ranked(shelf));
        ranked.copied().find(|peer| self.is_forgettable(now, peer))
    }

    fn is_forgettable(&self, now: UnixMillis, peer: &PeerId) -> bool {
        self.first_hand_standing(now, peer) > Standing::Quarantined && !self.is_own(peer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 3_600_000;
    const PEERS_MAX: usize = 8;

    fn peer(seed: u8) -> PeerId {
        let mut bytes = vec![0x12, 0x20];
        bytes.extend([seed; 32]);
        PeerId::from_bytes(&bytes).unwrap()
    }

    fn evidence() -> impl Strategy<Value = Evidence> {
        prop_oneof![
            4 => (1_u32..400).prop_map(|blocks| Evidence::Served { blocks }),
            3 => Just(Evidence::WrongCid),
            2 => Just(Evidence::ProtocolViolation),
            1 => Just(Evidence::Timeout),
        ]
    }

    /// Least useful first. Of what is left at a later time, which stands in the same order.
    type Rank = (f64, f64, UnixMillis, PeerId);

    impl Trust {
        fn rank(&self, peer: &PeerId) -> Rank {
            let record = self.records.get(peer).unwrap();
            let sums = self.sums_at(UnixMillis(9_000 * HOUR), record);
            (sums.grave, sums.earned, record.updated, *peer)
        }

        fn search(&self, is_wanted: impl Fn(&PeerId) -> bool) -> Vec<Rank> {
            let peers = self.records.peers().filter(|peer| is_wanted(peer) && !self.is_own(peer));
            let mut ranks: Vec<_> = peers.map(|peer| self.rank(peer)).collect();
            ranks.sort_by(|a, b| a.partial_cmp(b).unwrap());
            ranks
        }

        /// Returns who may be forgotten, by looking at everybody.
        fn search_forgettable(&self, now: UnixMillis) -> Vec<Rank> {
            self.search(|peer| self.first_hand_standing(now, peer) > Standing::Quarantined)
        }

        /// Returns who is in quarantine, by looking at everybody.
        fn search_quarantined(&self, now: UnixMillis) -> Vec<Rank> {
            self.search(|peer| self.first_hand_standing(now, peer) == Standing::Quarantined)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// One peer is own, one is held and let go of again; hours pass, so that quarantines end meanwhile.
        #[test]
        fn it_forgets_whom_a_search_over_all_records_finds(
            steps in prop::collection::vec((1_u64..60, 0_u8..24, evidence()), 1..120),
        ) {
            let own_peers = [peer(0)].into();
            let config = Config { own_peers, peers_max: PEERS_MAX, ..Config::default() };
            let mut trust = Trust::new(config, Vec::new());
            let mut now = UnixMillis(HOUR);
            for (at, (hours, seed, evidence)) in steps.into_iter().enumerate() {
                // No two times are whole half-lives apart, so no two sums are nearly equal.
                now = UnixMillis(now.0 + hours * HOUR + 1_234_567);
                match at % 16 {
                    5 => drop(trust.hold(now, peer(1)).unwrap()),
                    13 => drop(trust.release(now, peer(1))),
                    _ => {}
                }
                let (peer, stranger) = (peer(seed), peer(99));
                let before_len = trust.records.len();
                let is_full = before_len >= PEERS_MAX;
                let forgettable = trust.search_forgettable(now);
                prop_assert_eq!(is_full && forgettable.is_empty(), trust.is_closed_to(now, &stranger));
                let needs_room = is_full && !trust.records.contains(&peer) && !trust.is_own(&peer);
                let before: Vec<_> = trust.records.peers().map(|peer| trust.rank(peer)).collect();
                let change = trust.observe(now, peer, evidence);
                let mut gone = before;
                gone.retain(|(.., peer)| !trust.records.contains(peer));
                // Own peers go past the limit, so that a stranger may need more than one place.
                let surplus = (before_len + 1).saturating_sub(PEERS_MAX);
                for least in forgettable.iter().take(if needs_room { surplus } else { 0 }) {
                    prop_assert!(gone.contains(least), "{least:?} is kept and {gone:?} are gone");
                    gone.retain(|rank| rank != least);
                }
                let mut quarantined = trust.search_quarantined(now);
                if change.is_some_and(|change| change.to == Standing::Quarantined) {
                    prop_assert!(quarantined.len() <= PEERS_MAX / 2);
                    prop_assert!(gone.is_empty() || quarantined.len() == PEERS_MAX / 2);
                    quarantined.retain(|(.., other)| *other != peer);
                    for rank in &gone {
                        prop_assert!(quarantined.iter().all(|kept| rank < kept), "{rank:?} is gone");
                    }
                } else {
                    prop_assert_eq!(gone, Vec::new());
                }
            }
        }
    }
}
