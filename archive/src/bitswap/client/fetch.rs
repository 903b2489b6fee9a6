//! One fetch: its wants, its candidates, and which of them was asked for what.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dunlin_wire::Cid;
use libp2p_identity::PeerId;

use super::{Action, FetchId, Search};
use crate::{Attempt, AttemptOutcome, Outcome};

/// Wants of one fetch that one peer is asked for at a time. Helia queues ten messages a peer and others
/// keep 1,024 wants; more than 32 gain nothing where the line is as slow as a disk. Half of it must be free
/// before it is filled again: few messages with many wants.
const WINDOW: usize = 32;

/// The same for a peer that sends many blocks in one message: they are small, or it has them at hand.
const WINDOW_OF_BATCHES: usize = ROOM;

/// Candidates that are connected to and asked at the same time.
const ACTIVE_MAX: usize = 8;

/// Candidates of one fetch. Those that come behind are passed over.
const CANDIDATES_MAX: usize = 64;

/// Blocks that are on their way or wait for the caller: at most 128 MiB of the largest ones.
const ROOM: usize = 64;

/// One fetch.
#[derive(Debug)]
pub(super) struct Fetch {
    /// In the order in which they were wanted.
    order: Vec<Cid>,
    wants: BTreeMap<Cid, Wanted>,
    /// Wants that nobody is asked for now, those first that are due first.
    open: VecDeque<Cid>,
    /// Those that are asked first, first.
    candidates: Vec<PeerId>,
    lost: BTreeSet<PeerId>,
    /// For how many blocks each peer is asked.
    in_flight: BTreeMap<PeerId, usize>,
    in_flight_all: usize,
    /// Blocks that were handed out and not taken yet.
    untaken: usize,
    /// Who was asked whether it has the root.
    probed: BTreeSet<PeerId>,
    search: SearchState,
    is_settled: bool,
}

#[derive(Debug)]
struct Wanted {
    attempts: Vec<Attempt>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Asked(PeerId),
    Found,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SearchState {
    Possible,
    UnderWay,
    Over,
}

/// What follows when nobody is left to ask.
pub(super) enum Conclusion {
    Search(Cid),
    Settled(usize),
}

impl Conclusion {
    pub(super) fn into_action(self, fetch: FetchId) -> Action {
        match self {
            Self::Search(cid) => Action::Search { fetch, cid },
            Self::Settled(wants) => Action::Settled { fetch, wants },
        }
    }
}

impl Fetch {
    pub(super) fn new(candidates: &[PeerId], search: Search) -> Self {
        let mut fetch = Self {
            order: Vec::new(),
            wants: BTreeMap::new(),
            open: VecDeque::new(),
            candidates: Vec::new(),
            lost: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            in_flight_all: 0,
            untaken: 0,
            probed: BTreeSet::new(),
            search: match search {
                Search::Never => SearchState::Over,
                Search::Once => SearchState::Possible,
            },
            is_settled: false,
        };
        fetch.push_candidates(candidates);
        fetch
    }

    /// Wants a block; returns false when it was wanted before.
    pub(super) fn want(&mut self, cid: Cid) -> bool {
        if self.wants.contains_key(&cid) {
            return false;
        }
        self.wants.insert(cid, Wanted { attempts: Vec::new(), state: State::Open });
        self.order.push(cid);
        self.open.push_back(cid);
        self.is_settled = false;
        true
    }

    pub(super) fn wants(&self) -> usize {
        self.order.len()
    }

    pub(super) fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// Returns the first want.
    pub(super) fn root(&self) -> Cid {
        self.order.first().copied().unwrap_or_default()
    }

    pub(super) fn candidates(&self) -> impl Iterator<Item = &PeerId> {
        self.candidates.iter()
    }

    pub(super) fn has_candidate(&self, peer: &PeerId) -> bool {
        self.candidates.contains(peer) && !self.lost.contains(peer)
    }

    pub(super) fn probed(&self) -> impl Iterator<Item = &PeerId> {
        self.probed.iter()
    }

    /// Returns what was asked of whom and is not answered.
    pub(super) fn asked(&self) -> Vec<(Cid, PeerId)> {
        let asked = |(cid, want): (&Cid, &Wanted)| match want.state {
            State::Asked(peer) => Some((*cid, peer)),
            _ => None,
        };
        self.wants.iter().filter_map(asked).collect()
    }

    pub(super) fn unfound(&self) -> Vec<Cid> {
        let unfound = self.wants.iter().filter(|(_, want)| want.state != State::Found);
        unfound.map(|(cid, _)| *cid).collect()
    }

    pub(super) fn end_search(&mut self) {
        self.search = SearchState::Over;
    }

    pub(super) fn push_candidates(&mut self, peers: &[PeerId]) {
        for peer in peers {
            if self.candidates.len() < CANDIDATES_MAX && !self.candidates.contains(peer) {
                self.candidates.push(*peer);
            }
        }
    }

    /// Returns the candidates to connect to and to ask now: those that were not asked for everything yet.
    pub(super) fn active(&self) -> impl Iterator<Item = PeerId> {
        let alive = self.candidates.iter().filter(|peer| self.is_of_use(peer));
        alive.copied().take(ACTIVE_MAX)
    }

    fn is_of_use(&self, peer: &PeerId) -> bool {
        let is_asked = || self.in_flight.get(peer).is_some_and(|count| *count > 0);
        !self.lost.contains(peer)
            && (is_asked() || self.open.iter().any(|cid| self.is_untried(cid, peer)))
    }

    /// Returns whether a want is open and the peer was not asked for it.
    fn is_untried(&self, cid: &Cid, peer: &PeerId) -> bool {
        let Some(want) = self.wants.get(cid) else { return false };
        want.state == State::Open && want.attempts.iter().all(|attempt| attempt.peer != *peer)
    }

    /// Returns the root, when this peer is to be asked whether it has it: it is one of several.
    pub(super) fn probe(&mut self, peer: &PeerId) -> Option<Cid> {
        let root = self.root();
        let others_asked = match self.wants.get(&root)?.state {
            State::Asked(other) => other != *peer,
            _ => false,
        };
        (others_asked && self.probed.insert(*peer)).then_some(root)
    }

    /// Returns what to ask a peer for: as much as its window, `peer_room` and the caller allow.
    pub(super) fn assign(&mut self, peer: &PeerId, peer_room: usize, batches: bool) -> Vec<Cid> {
        let window = if batches { WINDOW_OF_BATCHES } else { WINDOW };
        let in_flight = self.in_flight.get(peer).copied().unwrap_or_default();
        let room = ROOM.saturating_sub(self.in_flight_all + self.untaken);
        let room = room.min(peer_room).min(window.saturating_sub(in_flight));
        // Few at a time would be many messages; but the last ones do not wait.
        if room == 0
            || self.open.is_empty()
            || (in_flight > 0 && room < (window / 2).min(self.open.len()))
        {
            return Vec::new();
        }
        let mut taken = Vec::with_capacity(room);
        let wants = &mut self.wants;
        self.open.retain(|cid| {
            let Some(want) = wants.get_mut(cid) else { return false };
            if want.state != State::Open {
                return false;
            }
            let was_tried = want.attempts.iter().any(|attempt| attempt.peer == *peer);
            if taken.len() == room || was_tried {
                return true;
            }
            want.state = State::Asked(*peer);
            taken.push(*cid);
            false
        });
        *self.in_flight.entry(*peer).or_default() += taken.len();
        self.in_flight_all += taken.len();
        taken
    }

    /// Notes that a block arrived; returns who else was asked for it.
    pub(super) fn found(&mut self, cid: &Cid, from: PeerId) -> Option<PeerId> {
        let want = self.wants.get_mut(cid)?;
        let was = std::mem::replace(&mut want.state, State::Found);
        want.attempts.push(Attempt { peer: from, outcome: AttemptOutcome::Verified });
        self.untaken += 1;
        match was {
            State::Asked(peer) => {
                self.landed(&peer);
                Some(peer)
            }
            _ => None,
        }
    }

    pub(super) fn taken(&mut self, count: usize) {
        self.untaken = self.untaken.saturating_sub(count);
    }

    /// Asks a peer that has the root before the others for what is yet to be asked.
    pub(super) fn prefer(&mut self, peer: PeerId) {
        let is_asked = |peer: &PeerId| self.in_flight.get(peer).is_some_and(|count| *count > 0);
        let first_idle = self.candidates.iter().position(|candidate| !is_asked(candidate));
        let here = self.candidates.iter().position(|candidate| *candidate == peer);
        if let (Some(to), Some(from)) = (first_idle, here)
            && to < from
        {
            self.candidates.remove(from);
            self.candidates.insert(to, peer);
        }
    }

    /// Notes that a peer does not give a block; the next one is asked.
    pub(super) fn pass_over(&mut self, cid: &Cid, peer: PeerId, outcome: AttemptOutcome) {
        let Some(want) = self.wants.get_mut(cid).filter(|want| want.state != State::Found) else {
            return;
        };
        if want.attempts.iter().all(|attempt| attempt.peer != peer) {
            want.attempts.push(Attempt { peer, outcome });
        }
        if want.state == State::Asked(peer) {
            want.state = State::Open;
            self.open.push_front(*cid);
            self.landed(&peer);
        }
    }

    /// Passes over a peer for every want, now and from here on.
    pub(super) fn lose(&mut self, peer: &PeerId, outcome: AttemptOutcome) {
        if !self.lost.insert(*peer) {
            return;
        }
        let asked: Vec<_> = self.asked_of(peer);
        let was_asked = !asked.is_empty();
        for cid in asked.iter().rev() {
            self.pass_over(cid, *peer, outcome);
        }
        // One that could not even be asked still is an answer to the question who was tried.
        if !was_asked && let Some(cid) = self.open.front().copied() {
            self.pass_over(&cid, *peer, outcome);
        }
    }

    /// Opens what a peer was asked for again; it may be asked again, too.
    pub(super) fn reopen(&mut self, peer: &PeerId) {
        for cid in self.asked_of(peer).into_iter().rev() {
            if let Some(want) = self.wants.get_mut(&cid) {
                want.state = State::Open;
                self.open.push_front(cid);
                self.landed(peer);
            }
        }
        self.probed.remove(peer);
    }

    /// Says what follows when nobody is asked for anything and nobody comes any more.
    pub(super) fn conclude(&mut self, may_come: impl Fn(&PeerId) -> bool) -> Option<Conclusion> {
        if self.is_settled || self.in_flight_all > 0 {
            return None;
        }
        self.open.retain(|cid| self.wants.get(cid).is_some_and(|want| want.state == State::Open));
        let Some(first) = self.open.front().copied() else { return Some(self.settle()) };
        if self.active().any(|peer| may_come(&peer)) {
            return None;
        }
        match self.search {
            SearchState::Possible => {
                self.search = SearchState::UnderWay;
                Some(Conclusion::Search(first))
            }
            SearchState::UnderWay => None,
            SearchState::Over => Some(self.settle()),
        }
    }

    fn settle(&mut self) -> Conclusion {
        self.is_settled = true;
        Conclusion::Settled(self.order.len())
    }

    /// Returns what became of every want, in their order.
    pub(super) fn into_outcomes(mut self) -> Vec<Outcome> {
        let outcome = |cid: Cid| {
            let want = self.wants.remove(&cid).expect("every ordered CID is wanted, once");
            Outcome { cid, is_found: want.state == State::Found, attempts: want.attempts }
        };
        self.order.into_iter().map(outcome).collect()
    }

    fn asked_of(&self, peer: &PeerId) -> Vec<Cid> {
        let asked =
            |cid: &&Cid| self.wants.get(cid).is_some_and(|want| want.state == State::Asked(*peer));
        self.order.iter().filter(asked).copied().collect()
    }

    fn landed(&mut self, peer: &PeerId) {
        self.in_flight_all -= 1;
        if let Some(count) = self.in_flight.get_mut(peer) {
            *count -= 1;
        }
    }
}
