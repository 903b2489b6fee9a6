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

mod answering;
mod asking;
mod keeper;
mod messages;
mod object;
mod peer;
mod proof;
mod settling;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
    time::Duration,
};

use rand_chacha::{ChaCha12Rng, rand_core::SeedableRng as _};

pub use self::{
    keeper::{Batch, Keeper, KeeperConfig, Offer},
    messages::{
        Action, AskOutcome, Candidate, Conduct, Counters, Failure, Input, PeerSummary, Record,
        RequestId, Sample, Summary, Verdict, Wanted,
    },
    object::Placed,
    peer::Fit,
    proof::{NONCE_BYTES, Nonce, Proof, proof},
};
use self::{
    object::{Holder, Key, Object},
    peer::{Peers, Presence},
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
}
