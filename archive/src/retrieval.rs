//! Which peer to ask for which block: a pure core.
//!
//! A peer is whatever the shell can put a question to: one of the swarm, or a gateway.
//!
//! [`Retrieval`] spreads the wanted blocks over the peers that may have them, asks each peer for one
//! window of blocks at a time, and moves a block on to the next peer when one does not have it, serves
//! other bytes, refuses or does not answer. It ends when every block is there or everyone was asked.
//! Time is the shell's: a question that took too long comes back as [`Answer::failed`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dunlin_wire::{Cid, block::Block};
use libp2p_identity::PeerId;

/// Blocks in one question. Far below the message limit for summaries; for large payload blocks the peer
/// sends what fits and the rest is asked for again.
const WINDOW: usize = 32;

/// Peers that are asked at the same time.
const ASKS_MAX: usize = 8;

/// A question to put to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask<P = PeerId> {
    /// Whom.
    pub peer: P,
    /// For what.
    pub cids: Vec<Cid>,
}

/// A peer's answer to the question that it was asked.
#[derive(Clone, Debug)]
pub struct Answer<P = PeerId> {
    peer: P,
    kind: AnswerKind,
}

#[derive(Clone, Debug)]
enum AnswerKind {
    Blocks { blocks: Vec<Block>, missing: Vec<Cid>, wrong: Vec<Cid> },
    Refused,
    Failed,
}

impl<P> Answer<P> {
    /// The peer sent `blocks`, does not have `missing`, and sent bytes for `wrong` that do not hash to
    /// them. What is in none of the three did not fit, and is asked for again.
    #[must_use]
    pub fn blocks(peer: P, blocks: Vec<Block>, missing: Vec<Cid>, wrong: Vec<Cid>) -> Self {
        Self { peer, kind: AnswerKind::Blocks { blocks, missing, wrong } }
    }

    /// The peer does not serve us.
    #[must_use]
    pub fn refused(peer: P) -> Self {
        Self { peer, kind: AnswerKind::Refused }
    }

    /// No answer came, or none that could be read.
    #[must_use]
    pub fn failed(peer: P) -> Self {
        Self { peer, kind: AnswerKind::Failed }
    }
}

/// How one peer answered for one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// With the right bytes.
    Verified,
    /// With other bytes.
    Wrong,
    /// It does not have the block.
    Missing,
    /// It does not serve us.
    Refused,
    /// Not at all.
    Failed,
}

/// One peer's part in fetching one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt<P = PeerId> {
    /// The peer.
    pub peer: P,
    /// How it answered.
    pub outcome: AttemptOutcome,
}

/// What became of one wanted block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome<P = PeerId> {
    /// The block.
    pub cid: Cid,
    /// Whether it arrived.
    pub is_found: bool,
    /// Who was asked, in order.
    pub attempts: Vec<Attempt<P>>,
}

/// The state of fetching a set of blocks.
#[derive(Debug)]
pub struct Retrieval<P = PeerId> {
    peers: Peers<P>,
    /// In the order in which they were wanted.
    order: Vec<Cid>,
    wants: BTreeMap<Cid, Want<P>>,
    /// The one question that each asked peer has not answered yet.
    asked: BTreeMap<P, Vec<Cid>>,
}

/// The peers that may be asked.
#[derive(Debug)]
struct Peers<P> {
    /// Asked before the others, in this order.
    first: Vec<P>,
    others: Vec<P>,
    /// Those that refused or failed are not asked again.
    lost: BTreeMap<P, AttemptOutcome>,
}

#[derive(Debug)]
struct Want<P> {
    /// Peers still to ask.
    candidates: VecDeque<P>,
    attempts: Vec<Attempt<P>>,
    state: WantState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WantState {
    Open,
    Asked,
    Found,
}

impl<P: Copy + Ord> Retrieval<P> {
    /// Returns the retrieval of `wanted` blocks: from the peers in `first`, in that order, then from
    /// `others`, among whom the blocks are spread.
    #[must_use]
    pub fn new(wanted: &[Cid], first: &[P], others: &[P]) -> Self {
        let is_first: BTreeSet<_> = first.iter().collect();
        let others = others.iter().filter(|peer| !is_first.contains(peer)).copied().collect();
        let peers = Peers { first: first.to_vec(), others, lost: BTreeMap::new() };
        let mut retrieval =
            Self { peers, order: Vec::new(), wants: BTreeMap::new(), asked: BTreeMap::new() };
        retrieval.want(wanted);
        retrieval
    }

    /// Adds blocks, such as those that a fetched one links to.
    pub fn want(&mut self, wanted: &[Cid]) {
        for cid in wanted {
            if self.wants.contains_key(cid) {
                continue;
            }
            let candidates = self.peers.candidates(self.order.len());
            let want = Want { candidates, attempts: Vec::new(), state: WantState::Open };
            self.wants.insert(*cid, want);
            self.order.push(*cid);
        }
    }

    /// Returns the next question; drain to `None` after every other call. A peer has one question at a
    /// time.
    pub fn next_ask(&mut self) -> Option<Ask<P>> {
        if self.asked.len() == ASKS_MAX {
            return None;
        }
        let peer = self.order.iter().find_map(|cid| {
            let want = self.wants.get(cid).filter(|want| want.state == WantState::Open)?;
            want.candidates.front().filter(|peer| !self.asked.contains_key(peer)).copied()
        })?;
        let mut cids = Vec::new();
        for cid in &self.order {
            let Some(want) = self.wants.get_mut(cid) else { continue };
            if want.state == WantState::Open && want.candidates.front() == Some(&peer) {
                want.state = WantState::Asked;
                cids.push(*cid);
                if cids.len() == WINDOW {
                    break;
                }
            }
        }
        self.asked.insert(peer, cids.clone());
        Some(Ask { peer, cids })
    }

    /// Takes an answer; returns the blocks that were wanted and arrived, to store. An answer that
    /// nobody waits for changes nothing.
    pub fn handle(&mut self, answer: Answer<P>) -> Vec<Block> {
        let Answer { peer, kind } = answer;
        let Some(asked) = self.asked.remove(&peer) else { return Vec::new() };
        match kind {
            AnswerKind::Blocks { blocks, missing, wrong } => {
                self.take_blocks(peer, &asked, blocks, &missing, &wrong)
            }
            AnswerKind::Refused => self.lose(peer, &asked, AttemptOutcome::Refused),
            AnswerKind::Failed => self.lose(peer, &asked, AttemptOutcome::Failed),
        }
    }

    /// Returns whether every block is there, or nobody is left to ask.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let settled = |want: &Want<P>| want.state == WantState::Found || want.candidates.is_empty();
        self.asked.is_empty() && self.wants.values().all(settled)
    }

    /// Returns the peers that did not answer: the next retrieval may pass over them from the beginning.
    pub fn failed(&self) -> impl Iterator<Item = P> {
        let failed = |(peer, outcome): (&P, &AttemptOutcome)| {
            (*outcome == AttemptOutcome::Failed).then_some(*peer)
        };
        self.peers.lost.iter().filter_map(failed)
    }

    /// Returns what became of every block, in the order in which they were wanted.
    #[must_use]
    pub fn into_outcomes(mut self) -> Vec<Outcome<P>> {
        let outcome = |cid: Cid| {
            let want = self.wants.remove(&cid).expect("every ordered CID is wanted, once");
            Outcome { cid, is_found: want.state == WantState::Found, attempts: want.attempts }
        };
        self.order.into_iter().map(outcome).collect()
    }

    fn take_blocks(
        &mut self,
        peer: P,
        asked: &[Cid],
        blocks: Vec<Block>,
        missing: &[Cid],
        wrong: &[Cid],
    ) -> Vec<Block> {
        let mut arrived = Vec::new();
        for block in blocks {
            let asked = asked.contains(block.cid());
            let want = self
                .wants
                .get_mut(block.cid())
                .filter(|want| asked && want.state == WantState::Asked);
            if let Some(want) = want {
                want.state = WantState::Found;
                want.attempts.push(Attempt { peer, outcome: AttemptOutcome::Verified });
                arrived.push(block);
            }
        }
        let mut progress = !arrived.is_empty();
        for cid in asked {
            let Some(want) = self.wants.get_mut(cid).filter(|want| want.state == WantState::Asked)
            else {
                continue;
            };
            want.state = WantState::Open;
            let outcome = match (missing.contains(cid), wrong.contains(cid)) {
                (_, true) => AttemptOutcome::Wrong,
                (true, false) => AttemptOutcome::Missing,
                // It did not fit: ask again, but only as long as that gets us anywhere.
                (false, false) if progress => continue,
                (false, false) => AttemptOutcome::Failed,
            };
            progress = true;
            want.pass_over(peer, outcome);
        }
        arrived
    }

    /// Passes over `peer` for every block, now and from here on.
    fn lose(&mut self, peer: P, asked: &[Cid], outcome: AttemptOutcome) -> Vec<Block> {
        self.peers.lost.insert(peer, outcome);
        for (cid, want) in &mut self.wants {
            if want.state == WantState::Asked && asked.contains(cid) {
                want.state = WantState::Open;
                want.pass_over(peer, outcome);
            } else if want.state == WantState::Open {
                want.candidates.retain(|candidate| *candidate != peer);
            }
        }
        Vec::new()
    }
}

impl<P: Copy + Ord> Peers<P> {
    /// Returns whom to ask for want number `index`: the first peers, then the others from another
    /// beginning for each window, so that the work is spread.
    fn candidates(&self, index: usize) -> VecDeque<P> {
        let mut others: VecDeque<_> = self.others.iter().copied().collect();
        if !others.is_empty() {
            let count = others.len();
            others.rotate_left(index / (WINDOW / 4) % count);
        }
        let all = self.first.iter().copied().chain(others);
        all.filter(|peer| !self.lost.contains_key(peer)).collect()
    }
}

impl<P: Copy + Ord> Want<P> {
    fn pass_over(&mut self, peer: P, outcome: AttemptOutcome) {
        self.attempts.push(Attempt { peer, outcome });
        self.candidates.retain(|candidate| *candidate != peer);
    }
}

#[cfg(test)]
mod tests {
    use dunlin_wire::block::Codec;
    use libp2p_identity::Keypair;
    use proptest::prelude::*;

    use super::*;

    fn peer(seed: u8) -> PeerId {
        Keypair::ed25519_from_bytes([seed + 1; 32]).unwrap().public().to_peer_id()
    }

    fn block(index: usize) -> Block {
        Block::new(Codec::Raw, index.to_be_bytes().to_vec())
    }

    fn cids(count: usize) -> Vec<Cid> {
        (0..count).map(|index| *block(index).cid()).collect()
    }

    /// Answers a question with all of its first `count` blocks.
    fn serve(ask: &Ask, all: usize) -> Answer {
        let blocks = (0..all).map(block).filter(|block| ask.cids.contains(block.cid())).collect();
        Answer::blocks(ask.peer, blocks, Vec::new(), Vec::new())
    }

    #[test]
    fn a_liar_that_is_asked_first_is_passed_over() {
        let (liar, honest) = (peer(0), peer(1));
        let wanted = cids(1);
        let mut retrieval = Retrieval::new(&wanted, &[liar], &[honest, liar]);
        let ask = retrieval.next_ask().unwrap();
        assert_eq!((ask.peer, ask.cids.as_slice()), (liar, wanted.as_slice()));
        assert_eq!(retrieval.next_ask(), None);
        assert!(retrieval.handle(Answer::blocks(liar, Vec::new(), Vec::new(), wanted)).is_empty());
        let ask = retrieval.next_ask().unwrap();
        assert_eq!(ask.peer, honest);
        assert_eq!(retrieval.handle(serve(&ask, 1)), [block(0)]);
        assert!(retrieval.is_done());
        let outcome = &retrieval.into_outcomes()[0];
        let outcomes: Vec<_> = outcome.attempts.iter().map(|attempt| attempt.outcome).collect();
        assert_eq!(outcomes, [AttemptOutcome::Wrong, AttemptOutcome::Verified]);
        assert!(outcome.is_found);
    }

    #[test]
    fn work_is_spread_over_the_peers_in_windows() {
        let peers: Vec<_> = (0..3).map(peer).collect();
        let mut retrieval = Retrieval::new(&cids(200), &[], &peers);
        let asks: Vec<_> = std::iter::from_fn(|| retrieval.next_ask()).collect();
        assert_eq!(asks.len(), 3);
        assert!(asks.iter().all(|ask| ask.cids.len() == WINDOW));
    }

    #[test]
    fn a_peer_that_vanishes_is_not_asked_again() {
        let (gone, there) = (peer(0), peer(1));
        let mut retrieval = Retrieval::new(&cids(100), &[gone], &[there]);
        let ask = retrieval.next_ask().unwrap();
        assert_eq!(ask.peer, gone);
        retrieval.handle(Answer::failed(gone));
        while let Some(ask) = retrieval.next_ask() {
            assert_eq!(ask.peer, there);
            retrieval.handle(serve(&ask, 100));
        }
        assert!(retrieval.is_done());
        assert!(retrieval.into_outcomes().iter().all(|outcome| outcome.is_found));
    }

    #[test]
    fn what_did_not_fit_is_asked_for_again_but_not_for_ever() {
        let (slow, empty) = (peer(0), peer(1));
        let wanted = cids(3);
        let mut retrieval = Retrieval::new(&wanted, &[slow, empty], &[]);
        retrieval.next_ask().unwrap();
        assert_eq!(
            retrieval.handle(Answer::blocks(slow, vec![block(0)], Vec::new(), Vec::new())).len(),
            1
        );
        let ask = retrieval.next_ask().unwrap();
        assert_eq!((ask.peer, ask.cids.len()), (slow, 2));
        // An answer with nothing in it counts as a failure for the first block, so that this ends.
        for _ in 0..2 {
            retrieval.handle(Answer::blocks(slow, Vec::new(), Vec::new(), Vec::new()));
            while let Some(ask) = retrieval.next_ask() {
                if ask.peer == slow {
                    retrieval.handle(Answer::blocks(slow, Vec::new(), Vec::new(), Vec::new()));
                } else {
                    retrieval.handle(Answer::blocks(empty, Vec::new(), ask.cids, Vec::new()));
                }
            }
        }
        assert!(retrieval.is_done());
        let found: Vec<_> =
            retrieval.into_outcomes().iter().map(|outcome| outcome.is_found).collect();
        assert_eq!(found, [true, false, false]);
    }

    #[test]
    fn blocks_that_nobody_asked_for_are_dropped() {
        let mut retrieval = Retrieval::new(&cids(1), &[], &[peer(0)]);
        assert!(retrieval.handle(serve(&Ask { peer: peer(0), cids: cids(1) }, 1)).is_empty());
        retrieval.next_ask().unwrap();
        let extra =
            Answer::blocks(peer(0), vec![block(7), block(0), block(0)], Vec::new(), Vec::new());
        assert_eq!(retrieval.handle(extra), [block(0)]);
    }

    #[test]
    fn links_are_wanted_later() {
        let mut retrieval = Retrieval::new(&cids(1), &[], &[peer(0)]);
        let ask = retrieval.next_ask().unwrap();
        retrieval.handle(serve(&ask, 1));
        retrieval.want(&cids(2));
        assert!(!retrieval.is_done());
        assert_eq!(retrieval.next_ask().unwrap().cids, cids(2)[1..]);
    }

    proptest! {
        /// Whatever peers answer, it ends, and finds exactly what some asked peer served.
        #[test]
        fn every_retrieval_ends(count in 0usize..120, peers in 0u8..5, answers in prop::collection::vec(0u8..5, 400)) {
            let peers: Vec<_> = (0..peers).map(peer).collect();
            let mut retrieval = Retrieval::new(&cids(count), &[], &peers);
            let mut answers = answers.into_iter().chain(std::iter::repeat(4));
            let mut stored = 0;
            for _ in 0..10_000 {
                let Some(ask) = retrieval.next_ask() else { break };
                let answer = match answers.next() {
                    Some(0) => serve(&ask, count),
                    Some(1) => Answer::blocks(ask.peer, Vec::new(), ask.cids, Vec::new()),
                    Some(2) => Answer::blocks(ask.peer, Vec::new(), Vec::new(), ask.cids),
                    Some(3) => Answer::refused(ask.peer),
                    _ => Answer::blocks(ask.peer, Vec::new(), Vec::new(), Vec::new()),
                };
                stored += retrieval.handle(answer).len();
            }
            prop_assert!(retrieval.is_done());
            let found = retrieval.into_outcomes().iter().filter(|outcome| outcome.is_found).count();
            prop_assert_eq!(found, stored);
        }
    }
}
