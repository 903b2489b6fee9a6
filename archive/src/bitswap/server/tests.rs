//! Peers that ask for little, for a lot, and for everything at once.

use dunlin_wire::block::Codec;
use libp2p_identity::Keypair;

use super::*;
use crate::bitswap::Kind;

fn peer(seed: u8) -> PeerId {
    Keypair::ed25519_from_bytes([seed + 1; 32]).unwrap().public().to_peer_id()
}

fn block(number: u32) -> Block {
    Block::new(Codec::Raw, number.to_be_bytes().to_vec())
}

fn want(number: u32, ask: Ask) -> Want {
    Want { cid: *block(number).cid(), ask, priority: 0, send_dont_have: true }
}

fn wants(numbers: std::ops::Range<u32>) -> Vec<Want> {
    numbers.map(|number| want(number, Ask::Block)).collect()
}

/// A server whose shell has the blocks with numbers below `stored`.
struct World {
    server: Server,
    stored: u32,
    /// What was sent and has not left.
    on_the_way: Vec<(BatchId, PeerId, Message)>,
}

impl World {
    fn new(stored: u32) -> Self {
        Self { server: Server::default(), stored, on_the_way: Vec::new() }
    }

    /// Looks up whatever is asked for.
    fn settle(&mut self) {
        while let Some(action) = self.server.next_action() {
            match action {
                Action::LookUp { batch, queries, .. } => {
                    let found = queries.iter().map(|query| self.look_up(query)).collect();
                    self.server.on_found(batch, found);
                }
                Action::Send { batch, peer, message } => {
                    self.on_the_way.push((batch, peer, message));
                }
            }
        }
    }

    fn look_up(&self, query: &Query) -> Found {
        let block = (0..self.stored).map(block).find(|block| *block.cid() == query.cid);
        match block {
            Some(block) if query.is_for_block => Found::Block(block),
            Some(_) => Found::Here,
            None => Found::Absent,
        }
    }

    /// Lets everything that is on its way leave, until nothing follows; returns it.
    fn drain(&mut self) -> Vec<(PeerId, Message)> {
        let mut sent = Vec::new();
        self.settle();
        while !self.on_the_way.is_empty() {
            for (batch, peer, message) in std::mem::take(&mut self.on_the_way) {
                self.server.on_sent(batch);
                sent.push((peer, message));
            }
            self.settle();
        }
        sent
    }
}

fn blocks(sent: &[(PeerId, Message)]) -> usize {
    sent.iter().map(|(_, message)| message.blocks.len()).sum()
}

#[test]
fn what_is_here_is_sent_and_what_is_not_is_said() {
    let mut world = World::new(2);
    let asked = vec![
        want(0, Ask::Block),
        want(1, Ask::Have),
        want(2, Ask::Block),
        Want { send_dont_have: false, ..want(3, Ask::Block) },
    ];
    world.server.on_wants(peer(0), asked, false);
    let sent = world.drain();
    let [(to, message)] = sent.as_slice() else { panic!("{sent:?}") };
    assert_eq!(*to, peer(0));
    assert_eq!(message.blocks, [Claim::of(block(0))]);
    let presences: Vec<_> =
        message.presences.iter().map(|presence| (presence.cid, presence.is_here)).collect();
    assert_eq!(presences, [(*block(1).cid(), true), (*block(2).cid(), false)]);
    // What is not here stays wanted.
    assert_eq!(world.server.totals().wants, 2);
}

#[test]
fn a_block_that_arrives_is_sent_to_those_who_asked_before() {
    let mut world = World::new(0);
    world.server.on_wants(peer(0), wants(0..3), false);
    world.server.on_wants(peer(1), wants(2..3), false);
    assert_eq!(blocks(&world.drain()), 0);
    world.stored = 1;
    world.server.on_stored(&[*block(0).cid()]);
    let sent = world.drain();
    assert_eq!((sent.len(), sent[0].0), (1, peer(0)));
    assert_eq!(sent[0].1.blocks, [Claim::of(block(0))]);
    assert_eq!(world.server.totals().wants, 3);
}

#[test]
fn a_cancelled_want_is_not_answered() {
    let mut world = World::new(2);
    world.server.on_wants(peer(0), wants(0..2), false);
    world.server.on_wants(peer(0), vec![want(0, Ask::Cancel)], false);
    let sent = world.drain();
    assert_eq!(blocks(&sent), 1);
    assert_eq!(sent[0].1.blocks, [Claim::of(block(1))]);
    assert_eq!(world.server.totals().wants, 0);
    assert!(world.server.peers.is_empty(), "nothing is kept of a peer that wants nothing");
}

#[test]
fn a_full_wantlist_replaces_the_one_before() {
    let mut world = World::new(0);
    world.server.on_wants(peer(0), wants(0..10), false);
    world.drain();
    world.server.on_wants(peer(0), wants(9..11), true);
    world.drain();
    assert_eq!(world.server.totals().wants, 2);
    world.server.on_wants(peer(0), Vec::new(), true);
    assert_eq!(world.server.totals().wants, 0);
}

#[test]
fn what_is_wanted_most_comes_first() {
    let mut world = World::new(3);
    let asked = [(0, 1), (1, 7), (2, -7)];
    let asked = asked.map(|(number, priority)| Want { priority, ..want(number, Ask::Block) });
    world.server.on_wants(peer(0), asked.to_vec(), false);
    let sent = world.drain();
    let expected = [1, 0, 2].map(|number| Claim::of(block(number)));
    assert_eq!(sent[0].1.blocks, expected);
}

#[test]
fn a_peer_that_asks_for_everything_is_kept_to_its_limit() {
    let mut world = World::new(0);
    for first in (0..800_000).step_by(1_000) {
        world.server.on_wants(peer(0), wants(first..first + 1_000), false);
        world.settle();
        world.on_the_way.clear();
    }
    assert_eq!(world.server.totals().wants, WANTS_MAX);
    let ledger = &world.server.peers[&peer(0)];
    assert!(ledger.wants.len() <= WANTS_MAX);
    assert!(ledger.queue.len() <= 2 * WANTS_MAX && ledger.absent.len() <= 2 * WANTS_MAX);
    // It never read an answer, so only so many were made.
    assert_eq!(world.server.batches.len(), BATCHES_PER_PEER_MAX);
}

#[test]
fn asking_and_cancelling_for_ever_piles_nothing_up() {
    let mut server = Server::default();
    for round in 0..10_000 {
        server.on_wants(peer(0), vec![want(round, Ask::Block)], false);
        server.on_wants(peer(0), vec![want(round, Ask::Cancel)], false);
        while server.next_action().is_some() {}
    }
    assert!(server.peers.get(&peer(0)).is_none_or(|ledger| ledger.queue.len() <= 2));
    assert!(server.batches.len() <= BATCHES_PER_PEER_MAX);
}

#[test]
fn all_peers_together_are_kept_to_a_limit() {
    let mut server = Server::default();
    for seed in 0..100 {
        server.on_wants(peer(seed), wants(0..1_000), false);
        while server.next_action().is_some() {}
    }
    assert_eq!(server.totals().wants, WANTS_IN_ALL_MAX);
    assert!(server.totals().wants_refused > 0);
    assert!(server.heavy <= BATCHES_MAX && server.batches.len() <= BATCHES_MAX);
    for seed in 0..100 {
        server.on_gone(&peer(seed));
    }
    assert_eq!(server.totals().wants, 0);
}

#[test]
fn a_reader_that_stands_still_does_not_stop_the_others() {
    let mut world = World::new(2_000);
    world.server.on_wants(peer(0), wants(0..1_000), false);
    world.settle();
    // Nothing leaves for the first peer; its batches are under way, and no more of them than allowed.
    assert_eq!(world.on_the_way.len(), BATCHES_PER_PEER_MAX);
    let stuck = std::mem::take(&mut world.on_the_way);
    world.server.on_wants(peer(1), wants(1_000..1_100), false);
    assert_eq!(blocks(&world.drain()), 100);
    for (batch, ..) in stuck {
        world.server.on_sent(batch);
    }
    assert_eq!(blocks(&world.drain()), 1_000 - BATCHES_PER_PEER_MAX * BATCH_WANTS_MAX);
    assert_eq!((world.server.heavy, world.server.batches.len()), (0, 0));
}

#[test]
fn what_did_not_fit_is_looked_up_again() {
    let mut server = Server::default();
    server.on_wants(peer(0), wants(0..10), false);
    let mut received = Vec::new();
    while let Some(action) = server.next_action() {
        match action {
            Action::LookUp { batch, queries, .. } => {
                // A shell that reads three blocks at a time, and stops without a word.
                let read = queries.iter().take(3);
                let number = |query: &Query| {
                    (0..10).map(block).find(|block| *block.cid() == query.cid).unwrap()
                };
                server.on_found(batch, read.map(|query| Found::Block(number(query))).collect());
            }
            Action::Send { batch, message, .. } => {
                received.extend(message.blocks);
                server.on_sent(batch);
            }
        }
    }
    let all: Vec<_> = (0..10).map(|number| Claim::of(block(number))).collect();
    received.sort_by_key(|claim| claim.bytes.clone());
    assert_eq!(received, all);
}

#[test]
fn a_peer_that_goes_leaves_nothing_behind() {
    let mut world = World::new(600);
    world.server.on_wants(peer(0), wants(0..600), false);
    world.settle();
    world.server.on_gone(&peer(0));
    let sent = world.drain();
    assert_eq!(blocks(&sent), 600, "what was on its way goes on, and nothing follows");
    assert!(world.server.peers.is_empty() && world.server.batches.is_empty());
    assert_eq!((world.server.heavy, world.server.totals().wants), (0, 0));
    // What it asks when it comes back is answered.
    world.server.on_wants(peer(0), wants(0..5), true);
    assert_eq!(blocks(&world.drain()), 5);
}

#[test]
fn a_block_asked_for_while_its_presence_is_looked_up_is_sent() {
    let mut server = Server::default();
    server.on_wants(peer(0), vec![want(0, Ask::Have)], false);
    let Some(Action::LookUp { batch, .. }) = server.next_action() else { panic!() };
    server.on_wants(peer(0), vec![want(0, Ask::Block)], false);
    server.on_found(batch, vec![Found::Here]);
    let mut has_block = false;
    while let Some(action) = server.next_action() {
        match action {
            Action::LookUp { batch, .. } => server.on_found(batch, vec![Found::Block(block(0))]),
            Action::Send { batch, message, .. } => {
                has_block |=
                    message.blocks.iter().any(|claim| claim.kind == Kind::Ours(Codec::Raw));
                server.on_sent(batch);
            }
        }
    }
    assert!(has_block);
}
