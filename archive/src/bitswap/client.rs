//! What to ask of whom: a pure core.
//!
//! A fetch is a set of wanted blocks and the peers that may have them, its *candidates*. Its wants are
//! spread over the candidates that are connected, a window of them at each at a time, and a want moves on
//! to the next candidate when a peer says that it does not have the block, sends something else, goes or
//! stalls. The first want, the root, is also put as WANT_HAVE to every candidate, and who has it is asked
//! first for what follows. When nobody is left to ask, the fetch may have the shell search for providers,
//! once. It has settled when every want was found or everyone was asked.
//!
//! Bitswap sends a block without saying for which want, so bytes that were forged and a block that was
//! never asked for look alike: both hash to a CID that this peer was not asked for. Both are reported and
//! never delivered, and the peer has no part in the fetch any more.

mod fetch;
mod peer;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use dunlin_wire::{Cid, block::Block};
use libp2p_identity::PeerId;

use self::{
    fetch::Fetch,
    peer::{Link, Peer},
};
use super::{
    Instant,
    message::{Ask, Named, Presence, Want},
};
use crate::{AttemptOutcome, Outcome};

/// Fetches under way. Each takes memory for its wants and its window; more are refused.
const FETCHES_MAX: usize = 64;

/// Wants of one fetch: more than the blocks of the largest segment, and a wantlist's worth several times.
const WANTS_PER_FETCH_MAX: usize = 4_096;

/// A connected peer that owes blocks and gave nothing for this long is passed over. Longer than a slow
/// disk behind a slow line needs for one block, and bearable for a person who waits.
const STALL: Duration = Duration::from_secs(10);

/// A connection that is not there after this does not come.
const CONNECT: Duration = Duration::from_secs(15);

/// Pause before a peer that went is dialled again; it doubles each time. A restart takes seconds.
const RETRY: Duration = Duration::from_millis(250);

/// How often a peer that went is dialled again, over some 16 s.
const RETRIES_MAX: u32 = 6;

/// Names one fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FetchId(pub u64);

/// What to do when no candidate is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// Give up.
    Never,
    /// Look for more providers, once.
    Once,
}

/// What the shell has to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Connect to a peer, and report how it went.
    Connect(PeerId),
    /// Send changes of our wantlist, or with `is_full` all of it, and call [`Client::on_sent`].
    Send {
        /// To whom.
        peer: PeerId,
        /// What we want.
        wants: Vec<Want>,
        /// Whether that is all.
        is_full: bool,
    },
    /// Hand out verified blocks, and call [`Client::on_taken`] when they were taken.
    Deliver {
        /// For whom.
        fetch: FetchId,
        /// Who sent them.
        from: PeerId,
        /// The blocks.
        blocks: Vec<Block>,
    },
    /// Search for providers of this block: call [`Client::on_providers`] with some of them as often as
    /// there are more, and [`Client::on_search_done`] in the end.
    Search {
        /// For whom.
        fetch: FetchId,
        /// The block.
        cid: Cid,
    },
    /// Everything was found, or everyone was asked. More may be wanted, or [`Client::finish`] called.
    Settled {
        /// The fetch.
        fetch: FetchId,
        /// How many wants it had.
        wants: usize,
    },
    /// A peer did something that bears on its standing.
    Report {
        /// The peer.
        peer: PeerId,
        /// What.
        conduct: Conduct,
    },
}

/// What a peer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// Sent blocks that it was asked for.
    Served {
        /// How many.
        blocks: u32,
        /// Their size.
        bytes: u64,
    },
    /// Sent a block that it was not asked for, or bytes that are not what it was asked for.
    Unasked,
    /// Owed blocks and gave nothing for too long.
    Stalled,
}

/// Why a fetch does not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Too many are under way. Later it may.
    #[error("{FETCHES_MAX} fetches are under way; try again later")]
    TooManyFetches,
    /// It wants too much at once.
    #[error("more than {WANTS_PER_FETCH_MAX} blocks; fetch them in parts")]
    TooManyWants,
}

/// All fetches, and the peers that they ask.
#[derive(Debug, Default)]
pub struct Client {
    fetches: BTreeMap<FetchId, Fetch>,
    peers: BTreeMap<PeerId, Peer>,
    /// Who wants a block that has not been found.
    wanted: BTreeMap<Cid, BTreeSet<FetchId>>,
    last_fetch: u64,
    actions: VecDeque<Action>,
}

impl Client {
    /// Begins to fetch blocks from candidates, the first ones first.
    ///
    /// # Errors
    ///
    /// Fails beyond the limits.
    pub fn fetch(
        &mut self,
        now: Instant,
        wanted: &[Cid],
        candidates: &[PeerId],
        search: Search,
    ) -> Result<FetchId, Refusal> {
        if self.fetches.len() >= FETCHES_MAX {
            return Err(Refusal::TooManyFetches);
        }
        if wanted.len() > WANTS_PER_FETCH_MAX {
            return Err(Refusal::TooManyWants);
        }
        self.last_fetch += 1;
        let id = FetchId(self.last_fetch);
        self.fetches.insert(id, Fetch::new(candidates, search));
        self.take_wants(id, wanted);
        self.advance(now, id);
        self.send();
        Ok(id)
    }

    /// Wants more blocks, such as those that a fetched one links to. What is there already is not fetched
    /// again.
    ///
    /// # Errors
    ///
    /// Fails beyond the limits; nothing more is wanted then.
    pub fn want(&mut self, now: Instant, id: FetchId, more: &[Cid]) -> Result<(), Refusal> {
        let Some(fetch) = self.fetches.get(&id) else { return Ok(()) };
        if fetch.wants() + more.len() > WANTS_PER_FETCH_MAX {
            return Err(Refusal::TooManyWants);
        }
        self.take_wants(id, more);
        self.advance(now, id);
        self.send();
        Ok(())
    }

    /// Returns how many blocks a fetch wants, each counted once.
    #[must_use]
    pub fn wants(&self, id: FetchId) -> usize {
        self.fetches.get(&id).map_or(0, Fetch::wants)
    }

    /// Ends a fetch; returns what became of every want, in their order.
    pub fn finish(&mut self, now: Instant, id: FetchId) -> Vec<Outcome> {
        let Some(fetch) = self.fetches.remove(&id) else { return Vec::new() };
        for (cid, peer) in fetch.asked() {
            self.withdraw(id, &cid, &peer);
        }
        for peer in fetch.probed() {
            self.withdraw(id, &fetch.root(), peer);
        }
        for cid in fetch.unfound() {
            self.unwant(id, &cid);
        }
        let idle: Vec<_> = fetch.candidates().copied().collect();
        for peer in idle {
            self.forget_if_idle(&peer);
        }
        // Others may have waited for the room that this one had with a peer.
        self.advance_all(now);
        self.send();
        fetch.into_outcomes()
    }

    /// The caller of a fetch took this many blocks.
    pub fn on_taken(&mut self, now: Instant, id: FetchId, count: usize) {
        let Some(fetch) = self.fetches.get_mut(&id) else { return };
        fetch.taken(count);
        self.advance(now, id);
        self.send();
    }

    /// The search that [`Action::Search`] asked for found these. It may find more.
    pub fn on_providers(&mut self, now: Instant, id: FetchId, providers: &[PeerId]) {
        let Some(fetch) = self.fetches.get_mut(&id) else { return };
        fetch.push_candidates(providers);
        self.advance(now, id);
        self.send();
    }

    /// The search is over.
    pub fn on_search_done(&mut self, now: Instant, id: FetchId) {
        let Some(fetch) = self.fetches.get_mut(&id) else { return };
        fetch.end_search();
        self.advance(now, id);
        self.send();
    }

    /// A peer is connected.
    pub fn on_connected(&mut self, now: Instant, peer: PeerId) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        known.connected(now);
        self.advance_those_with(now, &peer);
        self.send();
    }

    /// The connection over which a peer was asked is gone, and others are there: what it was asked is
    /// asked again.
    pub fn on_moved(&mut self, peer: &PeerId) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.start_over();
        }
        self.send();
    }

    /// The last connection with a peer is gone. One that was there is given time to come back.
    pub fn on_disconnected(&mut self, now: Instant, peer: &PeerId) {
        let fetches = self.fetches_with(peer);
        let Some(known) = self.peers.get_mut(peer) else { return };
        let retries = known.disconnected(now);
        for id in &fetches {
            match self.fetches.get_mut(id) {
                Some(fetch) if retries => fetch.reopen(peer),
                Some(fetch) => fetch.lose(peer, AttemptOutcome::Failed),
                None => {}
            }
        }
        self.forget_if_idle(peer);
        for id in fetches {
            self.advance(now, id);
        }
        self.send();
    }

    /// A peer cannot be connected to.
    pub fn on_unreachable(&mut self, now: Instant, peer: &PeerId) {
        match self.peers.get(peer) {
            Some(known) if !known.is_connected() => self.on_disconnected(now, peer),
            _ => {}
        }
    }

    /// A peer does not speak bitswap, or is not to be asked any more.
    pub fn on_refused(&mut self, now: Instant, peer: &PeerId) {
        self.lose(now, peer, AttemptOutcome::Refused);
        self.send();
    }

    /// What was to be sent to a peer has left, or is lost.
    pub fn on_sent(&mut self, peer: &PeerId) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.is_sending = false;
        }
        self.send();
    }

    /// Takes what a peer sent; hands out what was wanted.
    pub fn on_message(
        &mut self,
        now: Instant,
        from: PeerId,
        blocks: Vec<Named>,
        presences: &[Presence],
    ) {
        let mut has_unasked = false;
        let mut touched = BTreeSet::new();
        let mut deliveries: BTreeMap<FetchId, Vec<Block>> = BTreeMap::new();
        let (mut served, mut bytes) = (0, 0);
        for block in blocks {
            match self.peers.get_mut(&from).map(|peer| peer.take_block(now, block)) {
                Some(Received::Asked(block)) => {
                    served += 1;
                    bytes += block.bytes().len() as u64;
                    self.deliver(from, block, &mut deliveries, &mut touched);
                }
                Some(Received::Late) => {}
                Some(Received::Unasked) | None => has_unasked = true,
            }
        }
        for presence in presences {
            self.take_presence(now, from, presence, &mut touched);
        }
        for (fetch, blocks) in deliveries {
            self.actions.push_back(Action::Deliver { fetch, from, blocks });
        }
        if let Some(known) = self.peers.get_mut(&from) {
            known.served(served);
        }
        if served > 0 {
            let conduct = Conduct::Served { blocks: served, bytes };
            self.actions.push_back(Action::Report { peer: from, conduct });
        }
        if has_unasked {
            self.actions.push_back(Action::Report { peer: from, conduct: Conduct::Unasked });
            self.lose(now, &from, AttemptOutcome::Wrong);
        }
        for id in touched {
            self.advance(now, id);
        }
        self.send();
    }

    /// Acts on every deadline at or before `now`.
    pub fn wake(&mut self, now: Instant) {
        let due: Vec<_> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.deadline().is_some_and(|deadline| deadline <= now))
            .map(|(id, peer)| (*id, peer.link()))
            .collect();
        for (peer, link) in due {
            match link {
                Link::Waiting { .. } => self.dial(now, peer),
                Link::Connecting { .. } => self.on_disconnected(now, &peer),
                Link::On => {
                    let conduct = Conduct::Stalled;
                    self.actions.push_back(Action::Report { peer, conduct });
                    self.lose(now, &peer, AttemptOutcome::Failed);
                }
                Link::Off => {}
            }
        }
        self.send();
    }

    /// Returns when [`Self::wake`] has something to do.
    #[must_use]
    pub fn next_wake(&self) -> Option<Instant> {
        self.peers.values().filter_map(Peer::deadline).min()
    }

    /// Returns the next thing to do; drain to `None` after every call above.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn take_wants(&mut self, id: FetchId, wanted: &[Cid]) {
        let Some(fetch) = self.fetches.get_mut(&id) else { return };
        for cid in wanted {
            if fetch.want(*cid) {
                self.wanted.entry(*cid).or_default().insert(id);
            }
        }
    }

    /// Gives a block to everyone who wants it, and takes it back from others that were asked.
    fn deliver(
        &mut self,
        from: PeerId,
        block: Block,
        deliveries: &mut BTreeMap<FetchId, Vec<Block>>,
        touched: &mut BTreeSet<FetchId>,
    ) {
        let cid = *block.cid();
        let mut fetches = self.wanted.remove(&cid).unwrap_or_default().into_iter().peekable();
        let mut block = Some(block);
        while let Some(id) = fetches.next() {
            // The last one gets the block itself.
            let own = if fetches.peek().is_some() { block.clone() } else { block.take() };
            let Some(fetch) = self.fetches.get_mut(&id) else { continue };
            let other = fetch.found(&cid, from);
            deliveries.entry(id).or_default().extend(own);
            touched.insert(id);
            if let Some(other) = other.filter(|other| *other != from) {
                self.withdraw(id, &cid, &other);
            }
        }
    }

    fn take_presence(
        &mut self,
        now: Instant,
        from: PeerId,
        presence: &Presence,
        touched: &mut BTreeSet<FetchId>,
    ) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let fetches = peer.take_presence(now, presence);
        for id in fetches {
            let Some(fetch) = self.fetches.get_mut(&id) else { continue };
            if presence.is_here {
                fetch.prefer(from);
            } else {
                fetch.pass_over(&presence.cid, from, AttemptOutcome::Missing);
            }
            touched.insert(id);
        }
    }

    /// Passes over a peer in every fetch that has it as a candidate.
    fn lose(&mut self, now: Instant, peer: &PeerId, outcome: AttemptOutcome) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.withdraw_all();
        }
        for id in self.fetches_with(peer) {
            if let Some(fetch) = self.fetches.get_mut(&id) {
                fetch.lose(peer, outcome);
            }
            self.advance(now, id);
        }
        self.forget_if_idle(peer);
    }

    fn fetches_with(&self, peer: &PeerId) -> Vec<FetchId> {
        let has = |fetch: &Fetch| fetch.has_candidate(peer);
        self.fetches.iter().filter(|(_, fetch)| has(fetch)).map(|(id, _)| *id).collect()
    }

    fn advance_those_with(&mut self, now: Instant, peer: &PeerId) {
        for id in self.fetches_with(peer) {
            self.advance(now, id);
        }
    }

    fn advance_all(&mut self, now: Instant) {
        for id in self.fetches.keys().copied().collect::<Vec<_>>() {
            self.advance(now, id);
        }
    }

    /// Moves a fetch on: connects to candidates, asks them, searches, or says that it has settled.
    fn advance(&mut self, now: Instant, id: FetchId) {
        let Some(fetch) = self.fetches.get(&id) else { return };
        if fetch.is_settled() {
            return;
        }
        let active: Vec<_> = fetch.active().collect();
        for peer in active {
            match self.peers.entry(peer).or_default().link() {
                Link::Off => self.dial(now, peer),
                Link::On => self.ask(now, id, peer),
                Link::Waiting { .. } | Link::Connecting { .. } => {}
            }
        }
        let Some(fetch) = self.fetches.get_mut(&id) else { return };
        let peers = &self.peers;
        let may_come = |peer: &PeerId| peers.get(peer).is_some_and(Peer::may_come);
        let action = fetch.conclude(may_come).map(|conclusion| conclusion.into_action(id));
        self.actions.extend(action);
    }

    fn dial(&mut self, now: Instant, peer: PeerId) {
        self.peers.entry(peer).or_default().dialled(now);
        self.actions.push_back(Action::Connect(peer));
    }

    /// Asks a connected candidate for as much as it may be asked.
    fn ask(&mut self, now: Instant, id: FetchId, peer: PeerId) {
        let (Some(fetch), Some(known)) = (self.fetches.get_mut(&id), self.peers.get_mut(&peer))
        else {
            return;
        };
        if let Some(root) = fetch.probe(&peer) {
            known.ask(now, id, root, Ask::Have);
        }
        for cid in fetch.assign(&peer, known.room(), known.batches()) {
            known.ask(now, id, cid, Ask::Block);
        }
    }

    /// Takes back what a fetch asked of a peer, unless another one still wants it there.
    fn withdraw(&mut self, id: FetchId, cid: &Cid, peer: &PeerId) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.withdraw(id, cid);
        }
    }

    fn unwant(&mut self, id: FetchId, cid: &Cid) {
        if let Some(fetches) = self.wanted.get_mut(cid) {
            fetches.remove(&id);
            if fetches.is_empty() {
                self.wanted.remove(cid);
            }
        }
    }

    /// Keeps of peers that no fetch has to do with only those that are connected and were asked: what
    /// they still send must be known for what it is.
    fn forget_if_idle(&mut self, peer: &PeerId) {
        let is_idle = self.peers.get(peer).is_some_and(|known| !known.is_connected());
        if is_idle && self.fetches_with(peer).is_empty() {
            self.peers.remove(peer);
        }
    }

    /// Sends what has changed to every peer to which nothing is on its way.
    fn send(&mut self) {
        for (peer, known) in &mut self.peers {
            if let Some((wants, is_full)) = known.next_message() {
                self.actions.push_back(Action::Send { peer: *peer, wants, is_full });
            }
        }
    }
}

/// What a received block is.
enum Received {
    Asked(Block),
    /// It was asked for once and is not needed any more.
    Late,
    Unasked,
}

#[cfg(test)]
mod tests;
