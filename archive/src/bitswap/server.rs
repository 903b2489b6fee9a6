//! What peers want of us: one bounded wantlist each, answered in turn.
//!
//! Wants are looked up in batches, and a batch is one message. Only so many batches are under way for one
//! peer and for all of them, so neither a peer that asks for everything nor one that never reads makes
//! this node hold more. A want whose block is not here stays in the list, as the protocol says, and is
//! looked up again when [`Server::on_stored`] tells that blocks arrived; it leaves when its place is
//! needed.

use std::collections::{BTreeMap, VecDeque};

use dunlin_wire::{Cid, block::Block};
use libp2p_identity::PeerId;

use super::message::{Ask, Claim, Message, Presence, WANTS_MAX, Want};

/// Bytes of blocks after which a batch reads no further. With one block of 2 MiB on top it still fits into
/// a message of 4 MiB; smaller messages would cost more turns, larger ones more memory.
pub const BATCH_BYTES_MAX: usize = 1 << 20;

/// Wants of one batch: blocks of 4 KiB fill it.
const BATCH_WANTS_MAX: usize = 256;

/// Batches of one peer that are under way, from being looked up until they have left: while one is
/// written, the next is read.
const BATCHES_PER_PEER_MAX: usize = 3;

/// Batches under way in all that are being looked up or have blocks: at most 16 of 3 MiB. Answers without
/// blocks are small, and bounded for each peer.
const BATCHES_MAX: usize = 16;

/// Wants of all peers together, of about 150 bytes each: 10 MiB. Above, new ones are passed over.
const WANTS_IN_ALL_MAX: usize = 65_536;

/// Names one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(u64);

/// What to look up for one want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// Which block.
    pub cid: Cid,
    /// Whether its bytes are wanted, and not only whether it is here.
    pub is_for_block: bool,
}

/// What was found for one query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The block itself.
    Block(Block),
    /// It is here; its bytes were not asked for.
    Here,
    /// It is not here, or not for this peer: nobody can tell which.
    Absent,
    /// The batch was full before it; ask again.
    Later,
}

/// What the shell has to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Look these up, as far as the peer may have them, and call [`Server::on_found`].
    LookUp {
        /// The batch.
        batch: BatchId,
        /// Who asks.
        peer: PeerId,
        /// What it asks, most wanted first.
        queries: Vec<Query>,
    },
    /// Send this, and call [`Server::on_sent`] when it has left or is lost.
    Send {
        /// The batch.
        batch: BatchId,
        /// To whom.
        peer: PeerId,
        /// What.
        message: Message,
    },
}

/// What the server did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Wants that stand in wantlists now.
    pub wants: usize,
    /// Wants that were passed over because a list was full.
    pub wants_refused: u64,
}

/// What peers want, and how far their answers are.
#[derive(Debug, Default)]
pub struct Server {
    peers: BTreeMap<PeerId, Ledger>,
    /// Peers that have wants to look up, in turn.
    turns: VecDeque<PeerId>,
    batches: BTreeMap<BatchId, Batch>,
    /// How many of `batches` are looked up or have blocks.
    heavy: usize,
    last_batch: u64,
    totals: Totals,
    actions: VecDeque<Action>,
}

#[derive(Debug)]
struct Batch {
    peer: PeerId,
    is_heavy: bool,
    queries: Vec<Query>,
}

/// What one peer wants.
#[derive(Debug, Default)]
struct Ledger {
    wants: BTreeMap<Cid, Standing>,
    /// What to look up next, most wanted first. What was cancelled since is passed over.
    queue: VecDeque<Cid>,
    /// What was looked up and is not here, longest ago first; it may have been cancelled since.
    absent: VecDeque<Cid>,
    /// Batches that are under way.
    batches: usize,
    is_in_turn: bool,
}

#[derive(Clone, Copy, Debug)]
struct Standing {
    is_for_block: bool,
    send_dont_have: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Queued,
    LookedUp,
    Absent,
}

impl Server {
    /// Takes a peer's wants: changes to its list, or with `is_full` the whole list. Returns how many found no
    /// room.
    pub fn on_wants(&mut self, peer: PeerId, mut wants: Vec<Want>, is_full: bool) -> usize {
        if wants.is_empty() && !is_full {
            return 0;
        }
        let ledger = self.peers.entry(peer).or_default();
        let before = ledger.wants.len();
        if is_full {
            ledger.retain(&wants);
        }
        wants.sort_by_key(|want| std::cmp::Reverse(want.priority));
        let others = self.totals.wants - before;
        let mut refused = 0;
        for want in wants {
            let has_room = others + ledger.wants.len() < WANTS_IN_ALL_MAX;
            refused += usize::from(!ledger.apply(&want, has_room));
        }
        ledger.forget_cancelled();
        self.totals.wants = others + ledger.wants.len();
        self.totals.wants_refused += refused as u64;
        self.queue_up(peer);
        self.take_turns();
        refused
    }

    /// Takes what was found for a batch, in the order of its queries. What is missing at the end is
    /// looked up later.
    pub fn on_found(&mut self, id: BatchId, found: Vec<Found>) {
        let Some(batch) = self.batches.get_mut(&id) else { return };
        let peer = batch.peer;
        let queries = std::mem::take(&mut batch.queries);
        let has_blocks = found.iter().any(|found| matches!(found, Found::Block(_)));
        if batch.is_heavy && !has_blocks {
            batch.is_heavy = false;
            self.heavy -= 1;
        }
        let mut message = Message::default();
        if let Some(ledger) = self.peers.get_mut(&peer) {
            let before = ledger.wants.len();
            let found = found.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
            let mut later = Vec::new();
            for (query, found) in queries.into_iter().zip(found) {
                match found {
                    None | Some(Found::Later) => later.push(query.cid),
                    Some(found) => ledger.answer(query, found, &mut message),
                }
            }
            ledger.postpone(later);
            self.totals.wants = self.totals.wants + ledger.wants.len() - before;
        }
        if message.is_empty() {
            self.end(id);
        } else {
            self.actions.push_back(Action::Send { batch: id, peer, message });
        }
        self.queue_up(peer);
        self.take_turns();
    }

    /// The message of a batch has left, or was lost.
    pub fn on_sent(&mut self, batch: BatchId) {
        self.end(batch);
        self.take_turns();
    }

    /// Forgets a peer and what it wants: it is gone, or not heard any more. What is under way for it
    /// still has to be reported.
    pub fn on_gone(&mut self, peer: &PeerId) {
        if let Some(ledger) = self.peers.remove(peer) {
            self.totals.wants -= ledger.wants.len();
        }
        self.turns.retain(|other| other != peer);
    }

    /// Looks again for whoever wants one of these blocks, which have just been stored.
    pub fn on_stored(&mut self, cids: &[Cid]) {
        let mut woken = Vec::new();
        for (peer, ledger) in self.peers.iter_mut().filter(|(_, ledger)| !ledger.absent.is_empty())
        {
            let before = ledger.queue.len();
            for cid in cids {
                if let Some(standing) = ledger.wants.get_mut(cid)
                    && standing.state == State::Absent
                {
                    standing.state = State::Queued;
                    ledger.queue.push_back(*cid);
                }
            }
            if ledger.queue.len() > before {
                ledger.forget_cancelled();
                woken.push(*peer);
            }
        }
        for peer in woken {
            self.queue_up(peer);
        }
        self.take_turns();
    }

    /// Returns the next thing to do; drain to `None` after every call above.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Returns what the server holds and did.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    fn queue_up(&mut self, peer: PeerId) {
        if let Some(ledger) = self.peers.get_mut(&peer) {
            if ledger.wants.is_empty() && ledger.batches == 0 {
                self.peers.remove(&peer);
            } else if !ledger.queue.is_empty() && !ledger.is_in_turn {
                ledger.is_in_turn = true;
                self.turns.push_back(peer);
            }
        }
    }

    /// Begins batches, one peer after the other, as many as may be under way.
    fn take_turns(&mut self) {
        for _ in 0..self.turns.len() {
            if self.heavy >= BATCHES_MAX {
                return;
            }
            let Some(peer) = self.turns.pop_front() else { return };
            let Some(ledger) = self.peers.get_mut(&peer) else { continue };
            ledger.is_in_turn = false;
            while ledger.batches < BATCHES_PER_PEER_MAX && self.heavy < BATCHES_MAX {
                let queries = ledger.next_queries();
                if queries.is_empty() {
                    break;
                }
                ledger.batches += 1;
                self.last_batch += 1;
                let batch = BatchId(self.last_batch);
                self.heavy += 1;
                let under_way = Batch { peer, is_heavy: true, queries: queries.clone() };
                self.batches.insert(batch, under_way);
                self.actions.push_back(Action::LookUp { batch, peer, queries });
            }
            // One that has all its batches under way comes back when the next of them ends.
            if ledger.batches < BATCHES_PER_PEER_MAX {
                self.queue_up(peer);
            }
        }
    }

    fn end(&mut self, id: BatchId) {
        let Some(batch) = self.batches.remove(&id) else { return };
        self.heavy -= usize::from(batch.is_heavy);
        if let Some(ledger) = self.peers.get_mut(&batch.peer) {
            // A peer that went and came back owes nothing for what was under way before.
            ledger.batches = ledger.batches.saturating_sub(1);
            self.queue_up(batch.peer);
        }
    }
}

impl Ledger {
    /// Keeps of the list what is in the new one.
    fn retain(&mut self, wants: &[Want]) {
        let kept: std::collections::BTreeSet<_> = wants.iter().map(|want| want.cid).collect();
        self.wants.retain(|cid, _| kept.contains(cid));
    }

    /// Takes one entry; returns false when there is no room for it.
    fn apply(&mut self, want: &Want, has_room: bool) -> bool {
        if want.ask == Ask::Cancel {
            self.wants.remove(&want.cid);
            return true;
        }
        let is_for_block = want.ask == Ask::Block;
        if let Some(standing) = self.wants.get_mut(&want.cid) {
            standing.send_dont_have |= want.send_dont_have;
            // Asked again, it is answered again; what was asked for stays the larger of the two.
            let is_more = is_for_block && !standing.is_for_block;
            standing.is_for_block |= is_for_block;
            if standing.state == State::Absent || (standing.state == State::LookedUp && is_more) {
                standing.state = State::Queued;
                self.queue.push_back(want.cid);
            }
            return true;
        }
        if !has_room || (self.wants.len() == WANTS_MAX && !self.forget_absent()) {
            return false;
        }
        let standing =
            Standing { is_for_block, send_dont_have: want.send_dont_have, state: State::Queued };
        self.wants.insert(want.cid, standing);
        self.queue.push_back(want.cid);
        true
    }

    /// Gives up a want whose block has not been here for longest; returns whether there was one.
    fn forget_absent(&mut self) -> bool {
        while let Some(cid) = self.absent.pop_front() {
            if self.wants.get(&cid).is_some_and(|standing| standing.state == State::Absent) {
                self.wants.remove(&cid);
                return true;
            }
        }
        false
    }

    /// Keeps both queues as short as the list, whatever comes and is cancelled again.
    fn forget_cancelled(&mut self) {
        let is_in = |wants: &BTreeMap<Cid, Standing>, cid: &Cid, state| {
            wants.get(cid).is_some_and(|standing| standing.state == state)
        };
        if self.queue.len() > 2 * self.wants.len() {
            let mut seen = std::collections::BTreeSet::new();
            self.queue.retain(|cid| is_in(&self.wants, cid, State::Queued) && seen.insert(*cid));
        }
        if self.absent.len() > 2 * self.wants.len() {
            let mut seen = std::collections::BTreeSet::new();
            self.absent.retain(|cid| is_in(&self.wants, cid, State::Absent) && seen.insert(*cid));
        }
    }

    /// Takes the next wants to look up off the queue.
    fn next_queries(&mut self) -> Vec<Query> {
        let mut queries = Vec::new();
        while queries.len() < BATCH_WANTS_MAX {
            let Some(cid) = self.queue.pop_front() else { break };
            let Some(standing) = self.wants.get_mut(&cid) else { continue };
            if standing.state == State::Queued {
                standing.state = State::LookedUp;
                queries.push(Query { cid, is_for_block: standing.is_for_block });
            }
        }
        queries
    }

    /// Puts what was found for one want into the message, unless it was cancelled meanwhile.
    fn answer(&mut self, query: Query, found: Found, message: &mut Message) {
        let Some(standing) = self.wants.get_mut(&query.cid) else { return };
        match found {
            Found::Block(block) => {
                self.wants.remove(&query.cid);
                message.blocks.push(Claim::of(block));
            }
            Found::Here => {
                message.presences.push(Presence { cid: query.cid, is_here: true });
                // Meanwhile it may have been asked for itself.
                if !standing.is_for_block {
                    self.wants.remove(&query.cid);
                }
            }
            Found::Absent | Found::Later => {
                if standing.send_dont_have {
                    message.presences.push(Presence { cid: query.cid, is_here: false });
                }
                if standing.state == State::LookedUp {
                    standing.state = State::Absent;
                    self.absent.push_back(query.cid);
                }
            }
        }
    }

    /// Puts wants back to the front of the queue, in their order.
    fn postpone(&mut self, cids: Vec<Cid>) {
        for cid in cids.into_iter().rev() {
            if let Some(standing) = self.wants.get_mut(&cid)
                && standing.state == State::LookedUp
            {
                standing.state = State::Queued;
                self.queue.push_front(cid);
            }
        }
    }
}

#[cfg(test)]
mod tests;
