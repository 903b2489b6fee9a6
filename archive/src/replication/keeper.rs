//! What this node holds for others: whom it says yes to, and what it fetches next.
//!
//! An answer of yes is worth what is durable behind it, so a keeper confirms an object only when it is in
//! the archive. Until then it says "not yet", and the asker asks again. It keeps nothing on disk itself: who
//! is killed while it fetches is asked again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dunlin_wire::Cid;
use libp2p_identity::PeerId;

use super::{ASK_MAX, AskOutcome, LINKS_MAX, OBJECT_BYTES_MAX};

/// Objects of one peer that wait to be fetched; it is told to come back with more.
const WAITING_PER_PEER_MAX: usize = 256;

/// Objects of all peers that wait to be fetched: 64 bytes each, and 512 links of a hundred bytes at most.
const WAITING_MAX: usize = 2_048;

/// Bytes that are fetched together, and in memory until they are stored; one larger object is fetched alone.
const BATCH_BYTES_MAX: u64 = 16 << 20;

/// Peers for whom something is held. More are refused.
const PEERS_MAX: usize = 1_024;

/// How much this node holds for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeeperConfig {
    /// For each of the operator's own peers, in bytes.
    pub own_bytes_max: u64,
    /// For each other trusted peer, in bytes.
    pub others_bytes_max: u64,
}

/// An object that a peer wants to be held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Its root.
    pub root: Cid,
    /// What the root links to, each once.
    pub links: Vec<Cid>,
    /// How large all of it is, as the peer says.
    pub bytes: u64,
}

/// What is to be fetched from one peer, together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The peer that wants it to be held.
    pub peer: PeerId,
    /// At most [`ASK_MAX`] objects.
    pub offers: Vec<Offer>,
}

/// Decides what is held for whom.
#[derive(Debug)]
pub struct Keeper {
    config: KeeperConfig,
    /// What is stored for each peer, in bytes.
    used: BTreeMap<PeerId, u64>,
    queues: BTreeMap<PeerId, Queue>,
    /// The peer that was served last: others come before it.
    served: Option<PeerId>,
    waiting: usize,
}

/// What one peer waits for.
#[derive(Debug, Default)]
struct Queue {
    offers: VecDeque<Offer>,
    /// Those in `offers`, and those that are being fetched.
    roots: BTreeSet<Cid>,
    /// How large they are.
    bytes: u64,
    /// Being fetched. One batch at a time: a slow peer takes no other's place.
    fetching: Vec<(Cid, u64)>,
}

impl Keeper {
    /// Starts with what is stored for each peer.
    #[must_use]
    pub fn new(config: KeeperConfig, used: BTreeMap<PeerId, u64>) -> Self {
        Self { config, used, queues: BTreeMap::new(), served: None, waiting: 0 }
    }

    /// Answers a peer that wants an object to be held and that is not held for it yet.
    pub fn ask(&mut self, peer: PeerId, is_own: bool, offer: Offer) -> AskOutcome {
        let used = self.used(&peer);
        let queue = self.queues.get(&peer);
        if queue.is_some_and(|queue| queue.roots.contains(&offer.root)) {
            return AskOutcome::Pending;
        }
        let KeeperConfig { own_bytes_max, others_bytes_max } = self.config;
        let bytes_max = if is_own { own_bytes_max } else { others_bytes_max };
        let is_too_large = offer.bytes > OBJECT_BYTES_MAX || offer.links.len() > LINKS_MAX;
        if bytes_max == 0 || is_too_large {
            return AskOutcome::Denied;
        }
        let (count, reserved) = queue.map_or((0, 0), |queue| (queue.roots.len(), queue.bytes));
        let is_stranger = queue.is_none() && !self.used.contains_key(&peer);
        let is_crowded = is_stranger && self.used.len() + self.queues.len() >= PEERS_MAX;
        if is_crowded || used.saturating_add(reserved).saturating_add(offer.bytes) > bytes_max {
            return AskOutcome::Full;
        }
        if count >= WAITING_PER_PEER_MAX || self.waiting >= WAITING_MAX {
            return AskOutcome::Busy;
        }
        let queue = self.queues.entry(peer).or_default();
        queue.roots.insert(offer.root);
        queue.bytes += offer.bytes;
        queue.offers.push_back(offer);
        self.waiting += 1;
        AskOutcome::Pending
    }

    /// Returns what is to be fetched next: peers take turns.
    pub fn next_batch(&mut self) -> Option<Batch> {
        let is_ready = |queue: &Queue| queue.fetching.is_empty() && !queue.offers.is_empty();
        let ready =
            || self.queues.iter().filter(|(_, queue)| is_ready(queue)).map(|(peer, _)| peer);
        let behind = ready().find(|peer| self.served.is_none_or(|served| **peer > served));
        let peer = *behind.or_else(|| ready().next())?;
        let queue = self.queues.get_mut(&peer)?;
        let (mut offers, mut bytes) = (Vec::new(), 0);
        while let Some(offer) = queue.offers.front()
            && (offers.is_empty() || bytes + offer.bytes <= BATCH_BYTES_MAX)
            && offers.len() < ASK_MAX
        {
            bytes += offer.bytes;
            offers.extend(queue.offers.pop_front());
        }
        queue.fetching = offers.iter().map(|offer| (offer.root, offer.bytes)).collect();
        self.served = Some(peer);
        Some(Batch { peer, offers })
    }

    /// The batch of a peer is done: `stored` bytes of it are durable. What is missing is asked for again by
    /// whoever wants it.
    pub fn on_fetched(&mut self, peer: &PeerId, stored: u64) {
        if let Some(queue) = self.queues.get_mut(peer) {
            let fetched = std::mem::take(&mut queue.fetching);
            self.waiting -= fetched.len();
            for (root, bytes) in fetched {
                queue.roots.remove(&root);
                queue.bytes -= bytes;
            }
            if queue.roots.is_empty() {
                self.queues.remove(peer);
            }
        }
        if stored > 0 {
            *self.used.entry(*peer).or_default() += stored;
        }
    }

    /// A peer released an object: it is not fetched any more, unless that has begun. What was stored of it
    /// is told by [`on_removed`](Self::on_removed).
    pub fn on_released(&mut self, peer: &PeerId, root: &Cid) {
        let Some(queue) = self.queues.get_mut(peer) else { return };
        let Some(place) = queue.offers.iter().position(|offer| offer.root == *root) else { return };
        let Some(offer) = queue.offers.remove(place) else { return };
        queue.roots.remove(root);
        queue.bytes -= offer.bytes;
        self.waiting -= 1;
        if queue.roots.is_empty() {
            self.queues.remove(peer);
        }
    }

    /// So many bytes that were stored for a peer are gone.
    pub fn on_removed(&mut self, peer: &PeerId, bytes: u64) {
        if let Some(used) = self.used.get_mut(peer) {
            *used = used.saturating_sub(bytes);
            if *used == 0 {
                self.used.remove(peer);
            }
        }
    }

    /// Returns what is stored for a peer, in bytes.
    #[must_use]
    pub fn used(&self, peer: &PeerId) -> u64 {
        self.used.get(peer).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use dunlin_wire::block::{Block, Codec};
    use libp2p_identity::Keypair;

    use super::*;

    fn peer(seed: u8) -> PeerId {
        Keypair::ed25519_from_bytes([seed; 32]).unwrap().public().to_peer_id()
    }

    fn root(number: u64) -> Cid {
        *Block::new(Codec::DagCbor, number.to_be_bytes().to_vec()).cid()
    }

    const CONFIG: KeeperConfig = KeeperConfig { own_bytes_max: 1_000, others_bytes_max: 100 };

    fn offer(number: u64, bytes: u64) -> Offer {
        Offer { root: root(number), links: Vec::new(), bytes }
    }

    #[test]
    fn a_peer_gets_its_quota_and_no_more_and_room_that_it_gave_back() {
        let mut keeper = Keeper::new(CONFIG, BTreeMap::from([(peer(1), 300)]));
        assert_eq!(keeper.ask(peer(1), true, offer(1, 400)), AskOutcome::Pending);
        assert_eq!(keeper.ask(peer(1), true, offer(2, 400)), AskOutcome::Full, "it is reserved");
        assert_eq!(
            keeper.ask(peer(2), true, offer(2, 400)),
            AskOutcome::Pending,
            "others have theirs"
        );
        let batches: Vec<_> = std::iter::from_fn(|| keeper.next_batch()).collect();
        let expected = Batch { peer: peer(1), offers: vec![offer(1, 400)] };
        assert!(batches.len() == 2 && batches.contains(&expected), "{batches:?}");
        keeper.on_fetched(&peer(1), 390);
        assert_eq!(keeper.used(&peer(1)), 690);
        keeper.on_removed(&peer(1), 300);
        assert_eq!(keeper.ask(peer(1), true, offer(2, 600)), AskOutcome::Pending);
    }

    #[test]
    fn strangers_have_a_quota_of_their_own_which_may_be_none() {
        let mut keeper = Keeper::new(CONFIG, BTreeMap::new());
        assert_eq!(keeper.ask(peer(1), false, offer(1, 100)), AskOutcome::Pending);
        assert_eq!(keeper.ask(peer(1), false, offer(2, 1)), AskOutcome::Full);
        let none = KeeperConfig { others_bytes_max: 0, ..CONFIG };
        let mut keeper = Keeper::new(none, BTreeMap::new());
        assert_eq!(keeper.ask(peer(1), false, offer(1, 0)), AskOutcome::Denied);
    }

    #[test]
    fn the_queue_is_bounded_peers_take_turns_and_a_lost_batch_is_asked_for_again() {
        let plenty = KeeperConfig { own_bytes_max: u64::MAX, others_bytes_max: 0 };
        let mut keeper = Keeper::new(plenty, BTreeMap::new());
        let taken = (0..5_000)
            .filter(|number| keeper.ask(peer(1), true, offer(*number, 1)) == AskOutcome::Pending);
        let taken = taken.count();
        assert!(taken < 5_000 && taken > 0);
        assert_eq!(keeper.ask(peer(2), true, offer(1, 1)), AskOutcome::Pending);
        let turns: Vec<_> = std::iter::from_fn(|| keeper.next_batch()).collect();
        assert_eq!(turns.len(), 2, "one at a time of each");
        assert_ne!(turns[0].peer, turns[1].peer);
        keeper.on_fetched(&peer(1), 0);
        let again = keeper.next_batch().unwrap();
        assert_eq!(again.peer, peer(1));
        assert_ne!(again.offers[0].root, turns[0].offers[0].root);
        let lost = turns.iter().find(|batch| batch.peer == peer(1)).unwrap().offers[0].clone();
        assert_eq!(keeper.ask(peer(1), true, lost), AskOutcome::Pending);
    }

    #[test]
    fn what_is_too_large_is_denied_and_what_is_released_is_not_fetched() {
        let plenty = KeeperConfig { own_bytes_max: u64::MAX, others_bytes_max: 0 };
        let mut keeper = Keeper::new(plenty, BTreeMap::new());
        let large = offer(1, OBJECT_BYTES_MAX + 1);
        assert_eq!(keeper.ask(peer(1), true, large), AskOutcome::Denied);
        let many = Offer { links: vec![root(9); LINKS_MAX + 1], ..offer(1, 1) };
        assert_eq!(keeper.ask(peer(1), true, many), AskOutcome::Denied);
        keeper.ask(peer(1), true, offer(1, 1));
        keeper.on_released(&peer(1), &root(1));
        assert_eq!(keeper.next_batch(), None);
    }
}
