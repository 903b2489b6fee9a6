//! Copies of objects at other peers: who shall hold what, whether they do, and what is done when they do not.
//!
//! [`Replication`] is a pure core. It is told which objects there are, which peers, and what they answered;
//! it says whom to ask, whom to challenge, and what to write down. It chooses peers by rendezvous hash
//! (Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", 1998): each object ranks the
//! peers in an order of its own, so load spreads evenly, and a peer that comes or goes moves nothing but its
//! own share. Nothing is moved for a better rank alone.
//!
//! A choice is written down before anybody hears of it, so a node that is killed asks the same peer again,
//! and asking twice means the same as asking once. So there are never more copies than wanted that this
//! node does not know of. Peers are not believed: see [`proof`]. [`Keeper`] is the other side: what this
//! node holds for others. `docs/replication.md` tells it to operators.

mod keeper;
mod object;
mod peer;
mod proof;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
    time::Duration,
};

use dunlin_wire::Cid;
use libp2p_identity::PeerId;
use rand_chacha::{
    ChaCha12Rng,
    rand_core::{Rng as _, SeedableRng as _},
};

pub use self::{
    keeper::{Batch, Keeper, KeeperConfig, Offer},
    object::Placed,
    peer::Fit,
    proof::{NONCE_BYTES, Nonce, Proof, proof},
};
use self::{
    object::{Holder, Key, Object},
    peer::{Peer, Peers, Presence},
};

/// Most replicas of one object.
pub const REPLICAS_MAX: usize = 8;

/// Most objects that are looked after, about 100 bytes each; those beyond have no replicas and are counted.
pub const OBJECTS_MAX: usize = 1 << 20;

/// Objects in one question to hold them.
pub const ASK_MAX: usize = 64;

/// Objects in one release.
pub const RELEASE_MAX: usize = 256;

/// Blocks in one challenge. A peer that lost a tenth of them is caught by four in five challenges.
pub const SAMPLES: usize = 16;

/// Largest object that can have replicas, in bytes: what a keeper fetches is in its memory. Segments have
/// half of it at most.
pub const OBJECT_BYTES_MAX: u64 = 64 << 20;

/// Most blocks that an object with replicas links to.
pub const LINKS_MAX: usize = 512;

/// Placements that wait for an answer at once. Others wait for their turn on disk, where they are anyway.
const OPEN_MAX: usize = 8_192;

/// Requests under way at once, one with each peer.
const REQUESTS_MAX: usize = 32;

/// Objects that are looked at in one call, so that none takes long.
const STEP: usize = 1_024;

/// Objects that are to be looked at soon by name. When there are more, all are looked at.
const DUE_MAX: usize = 8_192;

/// Peers that lost an object and are still to be told so. The first of more is forgotten: its copy stays
/// until its keeper removes it.
const LOST_MAX: usize = 8;

/// Objects that are passed when one is looked for that a peer holds.
const SAMPLING_MAX: usize = 4_096;

/// First pause between two questions about an object that a peer is fetching; it doubles.
const PENDING_PAUSE: Duration = Duration::from_secs(1);

/// Longest such pause.
const PENDING_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Questions about one object that a peer may answer with "not yet": half an hour.
const PENDING_MAX: u8 = 34;

/// Pause after our own side could not ask.
const UNSENT_PAUSE: Duration = Duration::from_secs(1);

/// How long nothing more is given to a peer that has no room.
const FULL_PAUSE: Duration = Duration::from_secs(60 * 60);

/// How long nothing more is given to a peer that does not hold anything for us.
const DENIED_PAUSE: Duration = Duration::from_secs(6 * 60 * 60);

/// How long nothing more is given to a peer that lost a replica; it doubles with each time.
const FAILED_PAUSE: Duration = Duration::from_secs(10 * 60);

/// Challenges in a row that a connected peer may leave without an answer; then its replicas count as lost.
const MISSES_MAX: u8 = 3;

/// Shortest pause after such a challenge: a peer that is leaving is known to be gone by then.
const MISS_PAUSE: Duration = Duration::from_secs(5);

/// A check that failed or found a loss is repeated after this part of the usual time.
const HASTE: u32 = 8;

/// What the operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How many peers shall hold each object, up to [`REPLICAS_MAX`]. More survive more losses and take
    /// that many times the room. 0 releases all.
    pub replicas: usize,
    /// How often each peer has to prove that it holds what it said. Less often costs less and finds a
    /// loss later.
    pub check_every: Duration,
    /// How long a peer may be away before its replicas are made elsewhere. Shorter repairs sooner, and
    /// makes copies for peers that only slept.
    pub away_max: Duration,
}

/// A request that is under way; its answer names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// An object that shall have replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The object's root.
    pub root: Cid,
    /// Whether strangers may have it.
    pub is_public: bool,
}

/// A peer that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The peer.
    pub peer: PeerId,
    /// What it may hold.
    pub fit: Fit,
    /// Whether it is connected.
    pub is_here: bool,
}

/// What a peer said to holding an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskOutcome {
    /// It holds the object, durably.
    Held,
    /// It will, and fetches it.
    Pending,
    /// It has too much to fetch now.
    Busy,
    /// It has no room for us.
    Full,
    /// It does not hold such a thing for us.
    Denied,
    /// This node has no such object, or none that can have replicas; the peer was not asked.
    Absent,
}

/// What a challenge showed about one sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds the block.
    Right,
    /// Its proof is of something else.
    Wrong,
    /// It says that it does not hold the block.
    Missing,
    /// This node cannot tell: its own copy is not readable.
    Unknown,
}

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No answer came; what the peer did is unknown.
    Unanswered,
    /// The peer does nothing of the kind for us.
    Denied,
    /// The request was never sent, or the peer was too busy to read it.
    Unsent,
}

/// A fact that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// From here on all objects are told anew.
    Telling,
    /// These objects shall have replicas.
    Wanted(Vec<Wanted>),
    /// All were told since [`Input::Telling`]: the replicas of others are released.
    Told,
    /// These are all the peers that are known.
    Peers(Vec<Candidate>),
    /// The answer to [`Action::Ask`], for each of its roots.
    Asked(RequestId, Result<Vec<AskOutcome>, Failure>),
    /// The answer to [`Action::Release`].
    Released(RequestId, Result<(), Failure>),
    /// What [`Action::Challenge`] showed, for each of its samples.
    Challenged(RequestId, Result<Vec<Verdict>, Failure>),
}

/// Something to do. What an [`Action::Keep`] says is to be durable before anything behind it is done; when it
/// cannot be written, requests behind it are answered with [`Failure::Unsent`] and it is handed in again by
/// the next start, which finds the state before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write down where an object is.
    Keep(Record),
    /// Ask a peer to hold objects, or whether it does by now.
    Ask {
        /// Its name.
        request: RequestId,
        /// Whom.
        peer: PeerId,
        /// What, at most [`ASK_MAX`].
        roots: Vec<Cid>,
    },
    /// Tell a peer that it need not hold objects.
    Release {
        /// Its name.
        request: RequestId,
        /// Whom.
        peer: PeerId,
        /// What, at most [`RELEASE_MAX`].
        roots: Vec<Cid>,
    },
    /// Have a peer prove that it holds blocks.
    Challenge {
        /// Its name.
        request: RequestId,
        /// Whom.
        peer: PeerId,
        /// Used once.
        nonce: Nonce,
        /// Which blocks, at most [`SAMPLES`].
        samples: Vec<Sample>,
    },
    /// A peer confirmed that it holds an object, and does not.
    Judge {
        /// The peer.
        peer: PeerId,
        /// How it came out.
        conduct: Conduct,
    },
}

/// How a peer failed a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// It says that it lost something.
    Lost,
    /// It gave a proof of something that it does not hold.
    WrongProof,
}

/// A block to be proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The object.
    pub root: Cid,
    /// Which of its blocks: this number, modulo how many there are, counted from the root on.
    pub pick: u64,
}

/// Where an object is, as it is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The object.
    pub root: Cid,
    /// The peer.
    pub peer: PeerId,
    /// In which state; nothing, when the record is to be removed.
    pub state: Option<Placed>,
}

/// What was done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Placements that peers confirmed.
    pub placed: u64,
    /// Placements that peers refused.
    pub refused: u64,
    /// Placements that were lost: the peer left, lost standing, or failed a challenge.
    pub lost: u64,
    /// Placements that were released.
    pub released: u64,
    /// Challenges that were sent.
    pub challenges: u64,
    /// Blocks that were proved.
    pub proofs_right: u64,
    /// Blocks that were not.
    pub proofs_failed: u64,
    /// Challenges without an answer.
    pub challenges_unanswered: u64,
}

/// How things stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many replicas each object shall have.
    pub replicas: usize,
    /// Objects by how many replicas they have now, from none on.
    pub objects: Vec<u64>,
    /// Objects that cannot have replicas: too large, or not readable here.
    pub unfit: u64,
    /// Objects for which there was no place in memory.
    pub untracked: u64,
    /// Peers that hold something or could.
    pub peers: Vec<PeerSummary>,
}

/// How things stand with one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSummary {
    /// The peer.
    pub peer: PeerId,
    /// What it may hold.
    pub fit: Fit,
    /// Whether it is connected.
    pub is_here: bool,
    /// Replicas that it confirmed.
    pub held: u64,
    /// Replicas that it was asked for.
    pub asked: u64,
    /// Replicas that count no more, and that it is to be told to let go of.
    pub lost: u64,
    /// How long nothing more is given to it.
    pub paused: Option<Duration>,
    /// How long ago it last proved all that it was asked for.
    pub proved_ago: Option<Duration>,
    /// Blocks that it proved since the start.
    pub proofs_right: u64,
    /// Blocks that it did not.
    pub proofs_failed: u64,
}

/// Looks after the replicas of this node's objects. After each [`handle`](Self::handle) and
/// [`wake`](Self::wake) the shell drains [`next_action`](Self::next_action). Times are since the start.
#[derive(Debug)]
pub struct Replication {
    config: Config,
    rng: ChaCha12Rng,
    objects: BTreeMap<Key, Object>,
    peers: Peers,
    requests: BTreeMap<RequestId, UnderWay>,
    next_request: u64,
    actions: VecDeque<Action>,
    /// Objects to look at.
    due: BTreeSet<Key>,
    /// Behind which object looking at all of them goes on; nothing while nobody does.
    sweep: Option<Bound<Key>>,
    /// Whether something changed that the sweep under way may have passed.
    is_stale: bool,
    /// Placements in state [`Placed::Asked`].
    open: usize,
    round: u32,
    is_telling: bool,
    untracked: u64,
    counters: Counters,
}

/// A request under way.
#[derive(Debug)]
struct UnderWay {
    peer: u16,
    kind: Kind,
    keys: Vec<Key>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ask,
    Release,
    Challenge,
}

impl Replication {
    /// Starts from what was written down.
    #[must_use]
    pub fn new(config: Config, records: impl IntoIterator<Item = Record>, seed: [u8; 32]) -> Self {
        let config = Config { replicas: config.replicas.min(REPLICAS_MAX), ..config };
        let mut replication = Self {
            peers: Peers::new(config.away_max),
            config,
            rng: ChaCha12Rng::from_seed(seed),
            objects: BTreeMap::new(),
            requests: BTreeMap::new(),
            next_request: 0,
            actions: VecDeque::new(),
            due: BTreeSet::new(),
            sweep: Some(Bound::Unbounded),
            is_stale: false,
            open: 0,
            round: 0,
            is_telling: true,
            untracked: 0,
            counters: Counters::default(),
        };
        for record in records {
            replication.restore(&record);
        }
        replication
    }

    fn restore(&mut self, record: &Record) {
        let (Some(key), Some(state)) = (Key::of(&record.root), record.state) else { return };
        let number = self.peers.remember(record.peer);
        let object = self.objects.entry(key).or_insert_with(|| Object::new(0, false));
        if object.holder(number).is_some() {
            return;
        }
        let peer = &mut self.peers[number];
        object.holders.push(Holder { peer: number, state, generation: peer.generation });
        peer.rows += 1;
        match state {
            // It may have been told before the end, or not: asking again does no harm.
            Placed::Asked => {
                peer.waiting.insert(key);
                self.open += 1;
            }
            Placed::Held => peer.held += 1,
            Placed::Lost => {}
        }
    }

    /// Takes a fact.
    pub fn handle(&mut self, now: Duration, input: Input) {
        match input {
            Input::Telling => {
                self.round += 1;
                self.is_telling = true;
                self.untracked = 0;
            }
            Input::Wanted(wanted) => wanted.iter().for_each(|wanted| self.want(wanted)),
            Input::Told => {
                self.is_telling = false;
                self.look_at_all();
            }
            Input::Peers(candidates) => {
                if self.peers.update(now, self.config.check_every, &candidates) {
                    self.look_at_all();
                }
            }
            Input::Asked(request, answer) => self.on_asked(now, request, answer),
            Input::Released(request, answer) => self.on_released(now, request, answer),
            Input::Challenged(request, answer) => self.on_challenged(now, request, answer),
        }
        self.advance(now);
    }

    /// Acts on every deadline at or before `now`.
    pub fn wake(&mut self, now: Duration) {
        self.advance(now);
    }

    /// Returns when to call [`wake`](Self::wake) next.
    #[must_use]
    pub fn next_wake(&self) -> Option<Duration> {
        if !self.due.is_empty() || (self.sweep.is_some() && self.open < OPEN_MAX) {
            return Some(Duration::ZERO);
        }
        let can_ask = self.requests.len() < REQUESTS_MAX;
        self.peers.iter().filter_map(|peer| peer.next_wake(can_ask)).min()
    }

    /// Returns the next thing to do; drain to `None`.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Returns what was done since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Returns how things stand. Takes time linear in the number of objects.
    #[must_use]
    pub fn summary(&self, now: Duration) -> Summary {
        let mut objects = vec![0; self.config.replicas + 1];
        let mut by_peer = vec![(0, 0); self.peers.len()];
        let mut unfit = 0;
        for object in self.objects.values() {
            let mut live = 0;
            for holder in &object.holders {
                let (asked, lost) = &mut by_peer[usize::from(holder.peer)];
                *asked += u64::from(holder.state == Placed::Asked);
                *lost += u64::from(holder.state == Placed::Lost);
                let is_held = holder.state == Placed::Held && !self.is_void(object, holder);
                live += usize::from(is_held);
            }
            if self.is_wanted(object) {
                unfit += u64::from(object.is_unfit);
                if !object.is_unfit {
                    objects[live.min(self.config.replicas)] += 1;
                }
            }
        }
        let peers = self.peers.iter().zip(by_peer).filter(|(peer, _)| peer.is_of_interest());
        let peers = peers.map(|(peer, (asked, lost))| PeerSummary {
            peer: peer.id,
            fit: peer.fit,
            is_here: peer.presence == Presence::Here,
            held: u64::from(peer.held),
            asked,
            lost,
            paused: peer.paused.and_then(|until| until.checked_sub(now)),
            proved_ago: peer.proved.map(|at| now.saturating_sub(at)),
            proofs_right: peer.proofs_right,
            proofs_failed: peer.proofs_failed,
        });
        let peers = peers.collect();
        Summary { replicas: self.config.replicas, objects, unfit, untracked: self.untracked, peers }
    }

    fn want(&mut self, wanted: &Wanted) {
        let Some(key) = Key::of(&wanted.root) else {
            self.untracked += 1;
            return;
        };
        if self.objects.len() >= OBJECTS_MAX && !self.objects.contains_key(&key) {
            self.untracked += 1;
            return;
        }
        let round = self.round;
        let object = self.objects.entry(key).or_insert_with(|| Object::new(round, false));
        let is_first = object.told != round;
        let was_public = object.is_public;
        object.told = round;
        // One that is both is public, whichever is told first.
        object.is_public = wanted.is_public || (object.is_public && !is_first);
        object.is_unfit &= !is_first;
        if object.is_public != was_public || object.holders.len() < self.config.replicas {
            self.look_at(key);
        }
    }

    /// Whether an object shall have replicas. Until all were told, those of the round before do.
    fn is_wanted(&self, object: &Object) -> bool {
        object.told == self.round || (self.is_telling && object.told + 1 >= self.round)
    }

    fn is_void(&self, object: &Object, holder: &Holder) -> bool {
        let peer = &self.peers[holder.peer];
        holder.generation != peer.generation || peer.is_gone() || !peer.may_hold(object.is_public)
    }

    fn look_at(&mut self, key: Key) {
        if self.due.len() < DUE_MAX {
            self.due.insert(key);
        } else {
            self.look_at_all();
        }
    }

    fn look_at_all(&mut self) {
        if self.sweep.is_some() {
            self.is_stale = true;
        } else {
            self.sweep = Some(Bound::Unbounded);
        }
    }

    /// Does what can be done now.
    fn advance(&mut self, now: Duration) {
        if self.peers.pass(now) {
            self.look_at_all();
        }
        let mut left = STEP;
        while left > 0
            && let Some(key) = self.due.pop_first()
        {
            self.settle(now, key);
            left -= 1;
        }
        self.go_on_sweeping(now, left);
        self.dispatch(now);
    }

    fn go_on_sweeping(&mut self, now: Duration, mut left: usize) {
        while left > 0
            && self.open < OPEN_MAX
            && let Some(behind) = self.sweep
        {
            let next = self.objects.range((behind, Bound::Unbounded)).next().map(|(key, _)| *key);
            match next {
                Some(key) => {
                    self.sweep = Some(Bound::Excluded(key));
                    self.settle(now, key);
                    left -= 1;
                }
                None => {
                    self.sweep = self.is_stale.then_some(Bound::Unbounded);
                    self.is_stale = false;
                }
            }
        }
    }

    /// Brings one object nearer to how it shall be.
    fn settle(&mut self, now: Duration, key: Key) {
        let Some(mut object) = self.objects.remove(&key) else { return };
        self.lose_void(key, &mut object);
        let wanted = self.is_wanted(&object) && !object.is_unfit;
        let wanted = if wanted { self.config.replicas } else { 0 };
        while object.live() < wanted && self.place(now, key, &mut object) {}
        while object.live() > wanted {
            self.give_up_one(key, &mut object);
        }
        self.release_lost(key, &mut object);
        if self.is_wanted(&object) || !object.holders.is_empty() {
            self.objects.insert(key, object);
        }
    }

    /// Counts holders no more that are gone, or that may not hold the object.
    fn lose_void(&mut self, key: Key, object: &mut Object) {
        for place in 0..object.holders.len() {
            let holder = object.holders[place];
            if holder.state != Placed::Lost && self.is_void(object, &holder) {
                self.counters.lost += 1;
                self.set_state(key, object, place, Placed::Lost);
            }
        }
    }

    /// Finds one more holder: one that had the object before, or the best of the others. Says whether there
    /// was one.
    fn place(&mut self, now: Duration, key: Key, object: &mut Object) -> bool {
        let can_take = |peer: &Peer| {
            peer.presence == Presence::Here
                && peer.may_hold(object.is_public)
                && peer.paused.is_none_or(|until| until <= now)
        };
        let is_being_released = |peer: &Peer| {
            let request = peer.request.and_then(|request| self.requests.get(&request));
            request.is_some_and(|way| way.kind == Kind::Release && way.keys.contains(&key))
        };
        let lost = object.holders.iter().enumerate().filter(|(_, holder)| {
            let peer = &self.peers[holder.peer];
            holder.state == Placed::Lost && can_take(peer) && !is_being_released(peer)
        });
        let rank = |peer: &Peer| (key.rank(peer.seed), peer.id);
        if let Some((place, _)) = lost.max_by_key(|(_, holder)| rank(&self.peers[holder.peer])) {
            self.set_state(key, object, place, Placed::Asked);
            return true;
        }
        let free = self
            .peers
            .numbered()
            .filter(|(number, peer)| object.holder(*number).is_none() && can_take(peer));
        let Some((number, _)) = free.max_by_key(|(_, peer)| rank(peer)) else { return false };
        let generation = self.peers[number].generation;
        object.holders.push(Holder { peer: number, state: Placed::Lost, generation });
        self.peers[number].rows += 1;
        self.set_state(key, object, object.holders.len() - 1, Placed::Asked);
        true
    }

    /// Lets one holder go that is not needed: one that has not confirmed yet, or else the worst.
    fn give_up_one(&mut self, key: Key, object: &mut Object) {
        let live = object.holders.iter().enumerate();
        let live = live.filter(|(_, holder)| holder.state != Placed::Lost);
        let worst = live.min_by_key(|(_, holder)| {
            let peer = &self.peers[holder.peer];
            (holder.state == Placed::Held, key.rank(peer.seed), peer.id)
        });
        let (place, _) = worst.expect("there are more than are wanted");
        self.set_state(key, object, place, Placed::Lost);
    }

    /// Has those told that count no more, as far as they can be.
    fn release_lost(&mut self, key: Key, object: &mut Object) {
        let lost = |holder: &Holder| holder.state == Placed::Lost;
        while object.holders.iter().filter(|holder| lost(holder)).count() > LOST_MAX {
            let place = object.holders.iter().position(lost).expect("there are some");
            self.remove_holder(key, object, place);
        }
        for holder in object.holders.iter().filter(|holder| lost(holder)) {
            let peer = &mut self.peers[holder.peer];
            if peer.presence == Presence::Here && peer.fit != Fit::None {
                peer.releasing.insert(key);
            }
        }
    }

    /// Changes the state of a holder, writes that down, and keeps the counts and queues right.
    fn set_state(&mut self, key: Key, object: &mut Object, place: usize, state: Placed) {
        let holder = &mut object.holders[place];
        let peer = &mut self.peers[holder.peer];
        self.open -= usize::from(holder.state == Placed::Asked);
        self.open += usize::from(state == Placed::Asked);
        peer.held -= u32::from(holder.state == Placed::Held);
        peer.held += u32::from(state == Placed::Held);
        peer.waiting.remove(&key);
        peer.releasing.remove(&key);
        if state == Placed::Asked {
            peer.waiting.insert(key);
        }
        if state != Placed::Asked {
            peer.pending.remove(&key);
        }
        if state != Placed::Lost {
            holder.generation = peer.generation;
        }
        holder.state = state;
        let (root, peer) = (key.cid(), peer.id);
        self.actions.push_back(Action::Keep(Record { root, peer, state: Some(state) }));
    }

    fn remove_holder(&mut self, key: Key, object: &mut Object, place: usize) {
        let holder = object.holders.remove(place);
        let peer = &mut self.peers[holder.peer];
        self.open -= usize::from(holder.state == Placed::Asked);
        peer.held -= u32::from(holder.state == Placed::Held);
        peer.rows -= 1;
        peer.forget(&key);
        let (root, peer) = (key.cid(), peer.id);
        self.actions.push_back(Action::Keep(Record { root, peer, state: None }));
    }

    /// Sends what waits for peers that have nothing under way.
    fn dispatch(&mut self, now: Duration) {
        for number in self.peers.numbers() {
            if self.requests.len() >= REQUESTS_MAX {
                return;
            }
            let peer = &mut self.peers[number];
            if peer.request.is_some() || peer.presence != Presence::Here || peer.fit == Fit::None {
                continue;
            }
            peer.take_pending(now);
            if peer.held > 0 && now >= peer.check_at {
                self.challenge(now, number);
            } else if now < peer.not_before {
                continue;
            } else if !peer.releasing.is_empty() {
                let keys = first(&mut peer.releasing, RELEASE_MAX);
                let (peer, roots) = (peer.id, keys.iter().map(Key::cid).collect());
                let request = self.begin(number, Kind::Release, keys);
                self.actions.push_back(Action::Release { request, peer, roots });
            } else if !peer.waiting.is_empty() {
                let keys = first(&mut peer.waiting, ASK_MAX);
                let (peer, roots) = (peer.id, keys.iter().map(Key::cid).collect());
                let request = self.begin(number, Kind::Ask, keys);
                self.actions.push_back(Action::Ask { request, peer, roots });
            }
        }
    }

    fn begin(&mut self, peer: u16, kind: Kind, keys: Vec<Key>) -> RequestId {
        let request = RequestId(self.next_request);
        self.next_request += 1;
        self.requests.insert(request, UnderWay { peer, kind, keys });
        self.peers[peer].request = Some(request);
        request
    }

    /// Ends a request; nothing, when there is none of that kind and name.
    fn end(&mut self, request: RequestId, kind: Kind) -> Option<(u16, Vec<Key>)> {
        let under_way = self.requests.get(&request).filter(|way| way.kind == kind)?.peer;
        let way = self.requests.remove(&request)?;
        self.peers[under_way].request = None;
        Some((way.peer, way.keys))
    }

    fn challenge(&mut self, now: Duration, number: u16) {
        let mut keys: Vec<Key> = Vec::with_capacity(SAMPLES);
        for _ in 0..SAMPLES {
            keys.extend(self.sample(number));
        }
        if keys.is_empty() {
            // What it holds is hidden among far more that it does not; another place is tried next time.
            self.peers[number].check_at = now + self.config.check_every;
            return;
        }
        let mut nonce = [0; NONCE_BYTES];
        self.rng.fill_bytes(&mut nonce);
        let samples = keys.iter().map(|key| (key.cid(), self.rng.next_u64()));
        let samples = samples.map(|(root, pick)| Sample { root, pick }).collect();
        let peer = self.peers[number].id;
        let request = self.begin(number, Kind::Challenge, keys);
        self.counters.challenges += 1;
        self.actions.push_back(Action::Challenge { request, peer, nonce: Nonce(nonce), samples });
    }

    /// Returns an object that a peer holds, any with nearly the same chance: the next one behind a random
    /// place, and digests are spread evenly.
    fn sample(&mut self, number: u16) -> Option<Key> {
        let (place, generation) = (Key::random(&mut self.rng), self.peers[number].generation);
        let behind = self.objects.range(place..).chain(self.objects.range(..place));
        let held = |(key, object): (&Key, &Object)| {
            let holder = object.holder(number)?;
            let is_held = holder.state == Placed::Held && holder.generation == generation;
            is_held.then_some(*key)
        };
        behind.take(SAMPLING_MAX).find_map(held)
    }

    fn on_asked(
        &mut self,
        now: Duration,
        request: RequestId,
        answer: Result<Vec<AskOutcome>, Failure>,
    ) {
        let Some((number, keys)) = self.end(request, Kind::Ask) else { return };
        match answer {
            Ok(outcomes) => {
                let peer = &mut self.peers[number];
                (peer.failures, peer.not_before) = (0, now);
                for (key, outcome) in keys.iter().zip(&outcomes) {
                    self.on_outcome(now, number, *key, *outcome);
                }
                // An answer that is too short says nothing about the rest.
                self.wait_again(number, keys.get(outcomes.len()..).unwrap_or_default());
            }
            Err(failure) => {
                self.wait_again(number, &keys);
                self.on_failure(now, number, failure);
            }
        }
    }

    /// Puts placements back that are still to be asked for.
    fn wait_again(&mut self, number: u16, keys: &[Key]) {
        for key in keys {
            if self.state_at(number, key) == Some(Placed::Asked) {
                self.peers[number].waiting.insert(*key);
            }
        }
    }

    fn state_at(&self, number: u16, key: &Key) -> Option<Placed> {
        self.objects.get(key)?.holder(number).map(|holder| holder.state)
    }

    fn on_outcome(&mut self, now: Duration, number: u16, key: Key, outcome: AskOutcome) {
        // It may have been given up meanwhile.
        if self.state_at(number, &key) != Some(Placed::Asked) {
            return;
        }
        match outcome {
            AskOutcome::Held => {
                self.counters.placed += 1;
                self.change(number, key, Placed::Held);
                let peer = &mut self.peers[number];
                if peer.held == 1 {
                    // The first one is checked soon: a peer that only says so shall not get many.
                    peer.check_at = now + self.config.check_every / HASTE;
                }
            }
            AskOutcome::Pending | AskOutcome::Busy => {
                if !self.peers[number].ask_later(now, key) {
                    self.change(number, key, Placed::Lost);
                    self.pause(now, number, FULL_PAUSE);
                }
            }
            AskOutcome::Full | AskOutcome::Denied => {
                self.counters.refused += 1;
                self.forget(number, key);
                let is_full = outcome == AskOutcome::Full;
                self.pause(now, number, if is_full { FULL_PAUSE } else { DENIED_PAUSE });
            }
            AskOutcome::Absent => {
                if let Some(object) = self.objects.get_mut(&key) {
                    object.is_unfit = true;
                }
                self.look_at(key);
            }
        }
    }

    /// Gives a peer nothing more for a while; what was not asked of it yet goes to others.
    fn pause(&mut self, now: Duration, number: u16, pause: Duration) {
        let peer = &mut self.peers[number];
        peer.paused = peer.paused.max(Some(now + pause));
        for key in std::mem::take(&mut peer.waiting) {
            self.change(number, key, Placed::Lost);
        }
    }

    fn change(&mut self, number: u16, key: Key, state: Placed) {
        let Some(mut object) = self.objects.remove(&key) else { return };
        if let Some(place) = object.place_of(number) {
            self.set_state(key, &mut object, place, state);
        }
        self.objects.insert(key, object);
        if state == Placed::Lost {
            self.look_at(key);
        }
    }

    fn forget(&mut self, number: u16, key: Key) {
        let Some(mut object) = self.objects.remove(&key) else { return };
        if let Some(place) = object.place_of(number) {
            self.remove_holder(key, &mut object, place);
        }
        self.objects.insert(key, object);
        self.look_at(key);
    }

    fn on_failure(&mut self, now: Duration, number: u16, failure: Failure) {
        let peer = &mut self.peers[number];
        match failure {
            Failure::Unsent => peer.not_before = now + UNSENT_PAUSE,
            Failure::Unanswered => {
                if peer.back_off(now) {
                    self.pause(now, number, FULL_PAUSE);
                }
            }
            Failure::Denied => {
                peer.not_before = now + DENIED_PAUSE;
                self.pause(now, number, DENIED_PAUSE);
            }
        }
    }

    fn on_released(&mut self, now: Duration, request: RequestId, answer: Result<(), Failure>) {
        let Some((number, keys)) = self.end(request, Kind::Release) else { return };
        match answer {
            Ok(()) => {
                let peer = &mut self.peers[number];
                (peer.failures, peer.not_before) = (0, now);
                for key in keys {
                    if self.state_at(number, &key) == Some(Placed::Lost) {
                        self.counters.released += 1;
                        self.forget(number, key);
                    }
                }
            }
            Err(failure) => {
                for key in keys {
                    if self.state_at(number, &key) == Some(Placed::Lost) {
                        self.peers[number].releasing.insert(key);
                    }
                }
                self.on_failure(now, number, failure);
            }
        }
    }

    fn on_challenged(
        &mut self,
        now: Duration,
        request: RequestId,
        answer: Result<Vec<Verdict>, Failure>,
    ) {
        let Some((number, keys)) = self.end(request, Kind::Challenge) else { return };
        // Some time earlier or later, so that a peer cannot tell when it will be looked at.
        let every = self.config.check_every;
        let jitter = self.rng.next_u32() % 256;
        let usual = every * 3 / 4 + every * jitter / 512;
        let peer = &mut self.peers[number];
        match answer {
            Ok(verdicts) => {
                peer.misses = 0;
                peer.check_at = now + usual;
                self.on_verdicts(now, number, &keys, &verdicts);
            }
            Err(Failure::Unsent) => peer.check_at = now + usual / HASTE,
            Err(Failure::Unanswered | Failure::Denied) => {
                self.counters.challenges_unanswered += 1;
                peer.check_at = now + MISS_PAUSE.max(usual / HASTE);
                peer.misses += 1;
                if peer.misses >= MISSES_MAX {
                    peer.misses = 0;
                    self.void_all(now, number);
                }
            }
        }
    }

    fn on_verdicts(&mut self, now: Duration, number: u16, keys: &[Key], verdicts: &[Verdict]) {
        let count = |wanted: Verdict| verdicts.iter().filter(|found| **found == wanted).count();
        let (right, wrong, missing) =
            (count(Verdict::Right), count(Verdict::Wrong), count(Verdict::Missing));
        let failed = wrong + missing;
        self.counters.proofs_right += right as u64;
        self.counters.proofs_failed += failed as u64;
        let peer = &mut self.peers[number];
        peer.proofs_right += right as u64;
        peer.proofs_failed += failed as u64;
        if failed == 0 {
            if right > 0 {
                peer.proved = Some(now);
                peer.strikes = peer.strikes.saturating_sub(1);
            }
            return;
        }
        peer.check_at = now + self.config.check_every / HASTE;
        let conduct = if wrong > 0 { Conduct::WrongProof } else { Conduct::Lost };
        self.actions.push_back(Action::Judge { peer: peer.id, conduct });
        for (key, verdict) in keys.iter().zip(verdicts) {
            let is_lost = matches!(verdict, Verdict::Wrong | Verdict::Missing);
            // One object may have been sampled twice.
            if is_lost && self.state_at(number, key) == Some(Placed::Held) {
                self.counters.lost += 1;
                self.change(number, *key, Placed::Lost);
            }
        }
        if failed >= right {
            self.void_all(now, number);
        } else {
            self.strike(now, number);
        }
    }

    /// Counts nothing more that a peer holds.
    fn void_all(&mut self, now: Duration, number: u16) {
        let peer = &mut self.peers[number];
        peer.generation = peer.generation.wrapping_add(1);
        self.strike(now, number);
        self.look_at_all();
    }

    fn strike(&mut self, now: Duration, number: u16) {
        let peer = &mut self.peers[number];
        let pause = FAILED_PAUSE * (1 << peer.strikes);
        peer.strike();
        self.pause(now, number, pause);
    }
}

/// Takes the first keys out of a set.
fn first(keys: &mut BTreeSet<Key>, count: usize) -> Vec<Key> {
    std::iter::from_fn(|| keys.pop_first()).take(count).collect()
}
