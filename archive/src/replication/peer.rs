//! The peers that hold objects or could, and what each waits for.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{Index, IndexMut},
    time::Duration,
};

use libp2p_identity::PeerId;
use sha2::{Digest, Sha256};

use super::{
    Candidate, HASTE, PENDING_MAX, PENDING_PAUSE, PENDING_PAUSE_MAX, RequestId, object::Key,
};

/// Peers that are remembered, more than can be connected. Of more, newcomers are passed over.
const PEERS_MAX: usize = 1_024;

/// First pause after a peer did not answer; it doubles.
const BACK_OFF: Duration = Duration::from_secs(5);

/// Most doublings of pauses: of five seconds to five minutes, of ten minutes to a week.
const BACK_OFF_MAX: u8 = 6;
const STRIKES_MAX: u8 = 10;

/// What a peer may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// All objects: it is one of the operator's own.
    All,
    /// Objects that strangers may have: it is a stranger that earned trust.
    Public,
    /// Nothing: it is not in good standing, or none of our network.
    None,
}

/// Whether a peer is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Here,
    /// It counts until then.
    Away {
        until: Duration,
    },
    Gone,
}

/// An object that a peer is fetching.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    /// When to ask again; nothing while that is under way.
    at: Option<Duration>,
    tries: u8,
}

/// One peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: PeerId,
    /// Of its rendezvous hash.
    pub(super) seed: u64,
    pub(super) fit: Fit,
    pub(super) presence: Presence,
    /// Objects of which it is a holder in any state.
    pub(super) rows: u32,
    /// Objects that it confirmed.
    pub(super) held: u32,
    pub(super) generation: u8,
    /// Up to when nothing more is given to it.
    pub(super) paused: Option<Duration>,
    /// Challenges that it failed, less those that it passed.
    pub(super) strikes: u8,
    /// Requests in a row that it did not answer.
    pub(super) failures: u8,
    /// Before this, it is asked nothing.
    pub(super) not_before: Duration,
    /// To be asked for.
    pub(super) waiting: BTreeSet<Key>,
    /// Being fetched by it.
    pub(super) pending: BTreeMap<Key, Pending>,
    /// To be released.
    pub(super) releasing: BTreeSet<Key>,
    pub(super) request: Option<RequestId>,
    /// When it is to prove something next.
    pub(super) check_at: Duration,
    /// Challenges in a row that it did not answer.
    pub(super) misses: u8,
    pub(super) proved: Option<Duration>,
    pub(super) proofs_right: u64,
    pub(super) proofs_failed: u64,
}

impl Peer {
    fn new(id: PeerId, presence: Presence) -> Self {
        let digest = Sha256::digest(id.to_bytes());
        let (seed, _) = digest.split_first_chunk().expect("a digest has 32 bytes");
        Self {
            id,
            seed: u64::from_be_bytes(*seed),
            // What was asked to hold something was fit; it is asked nothing until it is here and known.
            fit: Fit::All,
            presence,
            rows: 0,
            held: 0,
            generation: 0,
            paused: None,
            strikes: 0,
            failures: 0,
            not_before: Duration::ZERO,
            waiting: BTreeSet::new(),
            pending: BTreeMap::new(),
            releasing: BTreeSet::new(),
            request: None,
            check_at: Duration::ZERO,
            misses: 0,
            proved: None,
            proofs_right: 0,
            proofs_failed: 0,
        }
    }

    pub(super) fn may_hold(&self, is_public: bool) -> bool {
        match self.fit {
            Fit::All => true,
            Fit::Public => is_public,
            Fit::None => false,
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        self.presence == Presence::Gone
    }

    /// Whether an operator wants to read of it.
    pub(super) fn is_of_interest(&self) -> bool {
        self.rows > 0 || (self.presence == Presence::Here && self.fit != Fit::None)
    }

    /// Returns when something is to be done about it.
    pub(super) fn next_wake(&self, can_ask: bool) -> Option<Duration> {
        let away = match self.presence {
            Presence::Away { until } if self.rows > 0 => Some(until),
            _ => None,
        };
        let can_ask = can_ask
            && self.request.is_none()
            && self.presence == Presence::Here
            && self.fit != Fit::None;
        let check = (can_ask && self.held > 0).then_some(self.check_at);
        let has_work = !self.waiting.is_empty() || !self.releasing.is_empty();
        let work = (can_ask && has_work).then_some(self.not_before);
        let pending = self.pending.values().filter(|_| can_ask).filter_map(|pending| pending.at);
        let pending = pending.min().map(|at| at.max(self.not_before));
        [away, self.paused, check, work, pending].into_iter().flatten().min()
    }

    /// Notes that it is to be asked again later for an object; says whether it may be.
    pub(super) fn ask_later(&mut self, now: Duration, key: Key) -> bool {
        let tries = self.pending.get(&key).map_or(0, |known| known.tries);
        if tries == PENDING_MAX {
            return false;
        }
        let pause = PENDING_PAUSE_MAX.min(PENDING_PAUSE * (1 << tries.min(BACK_OFF_MAX)));
        self.pending.insert(key, Pending { at: Some(now + pause), tries: tries + 1 });
        true
    }

    /// Has what it was to be asked again for by now wait for that.
    pub(super) fn take_pending(&mut self, now: Duration) {
        for (key, pending) in &mut self.pending {
            if pending.at.take_if(|at| *at <= now).is_some() {
                self.waiting.insert(*key);
            }
        }
    }

    /// Forgets an object that it no longer holds.
    pub(super) fn forget(&mut self, key: &Key) {
        self.waiting.remove(key);
        self.releasing.remove(key);
        self.pending.remove(key);
    }

    /// It did not answer; says whether that was once too often.
    pub(super) fn back_off(&mut self, now: Duration) -> bool {
        self.not_before = now + BACK_OFF * (1 << self.failures);
        self.failures += 1;
        let is_enough = self.failures > BACK_OFF_MAX;
        if is_enough {
            self.failures = 0;
        }
        is_enough
    }

    pub(super) fn strike(&mut self) {
        self.strikes = (self.strikes + 1).min(STRIKES_MAX);
    }

    fn arrive(&mut self, now: Duration, check_every: Duration) {
        self.presence = Presence::Here;
        // It may be another program by now, with other settings. What it lost is not forgiven.
        (self.failures, self.not_before) = (0, now);
        if self.strikes == 0 {
            self.paused = None;
        }
        // It may have lost something while it was away.
        self.check_at = now + check_every / HASTE;
    }
}

/// All peers, by number.
#[derive(Debug)]
pub(super) struct Peers {
    peers: Vec<Peer>,
    numbers: BTreeMap<PeerId, u16>,
    away_max: Duration,
}

impl Peers {
    pub(super) fn new(away_max: Duration) -> Self {
        Self { peers: Vec::new(), numbers: BTreeMap::new(), away_max }
    }

    /// Returns the number of a peer that holds something since before the start. Its time away begins now:
    /// how long it was away before, nobody knows.
    pub(super) fn remember(&mut self, id: PeerId) -> u16 {
        if let Some(number) = self.numbers.get(&id) {
            return *number;
        }
        self.add(Peer::new(id, Presence::Away { until: self.away_max }))
    }

    /// Takes in which peers there are; returns whether objects have to be looked at for it.
    pub(super) fn update(
        &mut self,
        now: Duration,
        check_every: Duration,
        candidates: &[Candidate],
    ) -> bool {
        let mut is_changed = false;
        let known: BTreeMap<_, _> =
            candidates.iter().map(|candidate| (candidate.peer, candidate)).collect();
        for peer in &mut self.peers {
            let candidate = known.get(&peer.id);
            if let Some(candidate) = candidate {
                is_changed |= peer.fit != candidate.fit;
                peer.fit = candidate.fit;
            }
            let is_here = candidate.is_some_and(|candidate| candidate.is_here);
            match (peer.presence, is_here) {
                (Presence::Here, false) => {
                    peer.presence = Presence::Away { until: now + self.away_max };
                }
                (Presence::Away { .. } | Presence::Gone, true) => {
                    peer.arrive(now, check_every);
                    is_changed = true;
                }
                _ => {}
            }
        }
        for candidate in known.values() {
            let is_new = !self.numbers.contains_key(&candidate.peer);
            if is_new && candidate.is_here && candidate.fit != Fit::None {
                is_changed |= self.meet(now, check_every, candidate);
            }
        }
        is_changed
    }

    fn meet(&mut self, now: Duration, check_every: Duration, candidate: &Candidate) -> bool {
        let mut peer = Peer::new(candidate.peer, Presence::Here);
        peer.fit = candidate.fit;
        peer.arrive(now, check_every);
        if self.peers.len() < PEERS_MAX {
            self.add(peer);
            return true;
        }
        // The place of one that is not here and holds nothing.
        let is_free = |peer: &Peer| {
            peer.rows == 0 && peer.request.is_none() && peer.presence != Presence::Here
        };
        let Some(free) = self.peers.iter().position(is_free) else { return false };
        self.numbers.remove(&self.peers[free].id);
        let number = u16::try_from(free).expect("there are few peers");
        self.numbers.insert(peer.id, number);
        self.peers[free] = peer;
        true
    }

    fn add(&mut self, peer: Peer) -> u16 {
        let number = u16::try_from(self.peers.len()).expect("records name few peers");
        self.numbers.insert(peer.id, number);
        self.peers.push(peer);
        number
    }

    /// Lets deadlines pass; returns whether objects have to be looked at for it.
    pub(super) fn pass(&mut self, now: Duration) -> bool {
        let mut is_changed = false;
        for peer in &mut self.peers {
            if peer.paused.take_if(|until| *until <= now).is_some() {
                is_changed = true;
            }
            if let Presence::Away { until } = peer.presence
                && until <= now
            {
                peer.presence = Presence::Gone;
                is_changed |= peer.rows > 0;
            }
        }
        is_changed
    }

    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter()
    }

    pub(super) fn numbers(&self) -> std::ops::Range<u16> {
        0..u16::try_from(self.peers.len()).expect("there are few peers")
    }

    pub(super) fn numbered(&self) -> impl Iterator<Item = (u16, &Peer)> {
        self.numbers().zip(&self.peers)
    }
}

impl Index<u16> for Peers {
    type Output = Peer;

    fn index(&self, number: u16) -> &Peer {
        &self.peers[usize::from(number)]
    }
}

impl IndexMut<u16> for Peers {
    fn index_mut(&mut self, number: u16) -> &mut Peer {
        &mut self.peers[usize::from(number)]
    }
}
