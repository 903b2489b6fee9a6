//! Who fetches first when a network that was split is one again, so that what one side lacks crosses the link once.
//!
//! No node knows where the link is. But each knows which of its peers had the same as it has until another one showed up with
//! much more: they lack the same. Of these the one with the least peer id fetches at once, and the others wait,
//! get from it what it has so far, and fetch for themselves when nothing comes. Nobody is told to lead: each judges by what it
//! heard, and where two judge differently, both fetch. Waiting costs time alone: it ends by itself, and nothing is forgotten over it.
//!
//! Catalogs only grow, which is what all of this is counted by: a peer whose catalog of 100 entries this node has all of, and that now
//! has 150, has at most 50 that are new here.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use dunlin_protocols::{PeerId, messages::CatalogRoot};
use tokio::time::Instant;

/// A difference up to this is fetched at once by everybody, a batch of segments: about 100 KB, and what passes between peers that
/// are always connected.
const LARGE: u64 = 256;

/// Who is to fetch is judged so long after a large difference showed up: by then every connected peer was asked what it has.
const GRACE: Duration = Duration::from_secs(1);

/// How long who comes next waits for the one before it, while nothing comes. A batch takes less on a link of 1 Mbit/s, and on a
/// machine with more to do than it can.
const STEP: Duration = Duration::from_secs(5);

/// How much longer the first wait is: own peers are dialled every 5 seconds, and the one before may not be connected yet.
const HEAD_START: Duration = Duration::from_secs(3);

/// Whoever comes later than this waits no longer: one who does nothing is enough to be unlucky.
const RANK_MAX: usize = 2;

/// Nobody waits longer than this, however much comes: a peer that gives one segment at a time must not keep others from
/// where all of them are.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Catalogs that are remembered of which this node has all, of each collection, about 13 KiB.
const HELD_MAX: usize = 256;

/// How often those are asked that lack the same, while somebody waits.
pub(super) const FOLLOW: Duration = Duration::from_secs(1);

/// What to do about what a peer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// This node has all of it.
    Held,
    /// Fetch what is missing.
    Fetch,
    /// Somebody else does; ask again then.
    Wait(Instant),
}

/// What a peer said that it has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said<'a> {
    pub(super) peer: PeerId,
    pub(super) collection: &'a str,
    /// What this node had then.
    pub(super) ours: Option<CatalogRoot>,
    pub(super) theirs: Option<CatalogRoot>,
    pub(super) now: Instant,
}

/// Who has what, for each collection.
#[derive(Debug)]
pub(super) struct Sides {
    me: PeerId,
    of: BTreeMap<String, Side>,
}

#[derive(Debug, Default)]
struct Side {
    /// Own peers alone say anything here, and the configuration bounds them.
    peers: BTreeMap<PeerId, Known>,
    /// Catalogs of which this node has all, the newest last.
    held: VecDeque<CatalogRoot>,
    /// How many entries this node has itself.
    count: u64,
    heal: Option<Heal>,
}

/// What is known of a peer.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// What it said last, and when.
    root: Option<CatalogRoot>,
    at: Instant,
    /// Entries of the largest of its catalogs of which this node has all; nothing while there was none.
    common: Option<u64>,
    /// Entries that it had when this node had waited long enough. For those it waits no more.
    waited_for: u64,
}

impl Known {
    /// Returns how many entries it may have that this node has not, and has not waited for in vain.
    fn lacking(&self) -> u64 {
        self.count().saturating_sub(self.common.unwrap_or(0).max(self.waited_for))
    }

    fn count(&self) -> u64 {
        self.root.map_or(0, |root| root.count)
    }
}

/// A large difference that is being made up for.
#[derive(Debug)]
struct Heal {
    /// How large it was.
    lacking: u64,
    since: Instant,
    /// When something came last.
    progress: Instant,
    /// Who lacks the same; nothing while they are asked.
    near: Option<BTreeSet<PeerId>>,
    /// Who would lack the same, and had much more when it was asked: it began before, or nobody on this side has anything new, and it is
    /// on the other one.
    ahead: BTreeSet<PeerId>,
    /// The others that have something else.
    apart: BTreeSet<PeerId>,
    /// This node fetches from those.
    is_leading: bool,
    /// One of those has nothing more for this node. What the others have is what they get from each other, and from here.
    is_caught_up: bool,
}

impl Sides {
    pub(super) fn new(me: PeerId) -> Self {
        Self { me, of: BTreeMap::new() }
    }

    /// Notes what a peer says.
    pub(super) fn hear(&mut self, said: &Said<'_>) {
        self.side(said.collection).hear(said);
    }

    /// Notes what a peer says, and decides what to do about it. `connected` are all own peers that can be asked.
    pub(super) fn judge(&mut self, said: &Said<'_>, connected: &[PeerId]) -> Verdict {
        let me = self.me;
        let side = self.side(said.collection);
        if let Some(heal) = &mut side.heal {
            heal.apart.retain(|other| connected.contains(other));
        }
        side.hear(said);
        side.verdict(said, (me, connected))
    }

    /// Notes that segments came.
    pub(super) fn gained(&mut self, collection: &str, now: Instant) {
        if let Some(heal) = &mut self.side(collection).heal {
            heal.progress = heal.progress.max(now);
        }
    }

    /// Notes that this node has all that a peer's catalog names.
    pub(super) fn caught_up(&mut self, collection: &str, peer: &PeerId, with: CatalogRoot) {
        let side = self.side(collection);
        if let Some(heal) = &mut side.heal
            && heal.apart.contains(peer)
        {
            (heal.is_leading, heal.is_caught_up) = (false, true);
        }
        side.hold(with);
    }

    /// Forgets what this node has of a collection: some of it was damaged, and may be gone.
    pub(super) fn forget(&mut self, collection: &str) {
        self.of.remove(collection);
    }

    /// Returns whether a peer is one from whom this node may get what it waits for.
    pub(super) fn follows(&self, peer: &PeerId) -> bool {
        let heals = self.of.values().filter_map(|side| side.heal.as_ref());
        heals.filter_map(|heal| heal.near.as_ref()).any(|near| near.contains(peer))
    }

    fn side(&mut self, collection: &str) -> &mut Side {
        if !self.of.contains_key(collection) {
            self.of.insert(collection.to_owned(), Side::default());
        }
        self.of.get_mut(collection).expect("it is there, or was just put there")
    }
}

impl Side {
    fn hear(&mut self, said: &Said<'_>) {
        if let Some(ours) = said.ours {
            self.count = ours.count;
            self.hold(ours);
        }
        let Said { peer, theirs: root, now: at, .. } = *said;
        let before = self.peers.get(&peer).copied();
        let common = before.and_then(|known| known.common);
        let waited_for = before.map_or(0, |known| known.waited_for);
        self.peers.insert(peer, Known { root, at, common, waited_for });
        let is_news = before.is_none_or(|known| known.root != root);
        if let Some(heal) = &mut self.heal
            && is_news
            && heal.is_caught_up
            && heal.apart.contains(&peer)
        {
            heal.progress = heal.progress.max(at);
        }
        self.settle(at);
    }

    fn hold(&mut self, root: CatalogRoot) {
        if self.held.contains(&root) {
            return;
        }
        if self.held.len() == HELD_MAX {
            self.held.pop_front();
        }
        self.held.push_back(root);
    }

    /// Notes of whom this node has all. A heal ends when they have all of this node, too: while they take that in, what they say is
    /// new to this node only to look at. Or it ends when nobody waits any more.
    fn settle(&mut self, now: Instant) {
        for (peer, known) in &mut self.peers {
            if known.root.is_some_and(|root| !self.held.contains(&root)) {
                continue;
            }
            known.common = Some(known.common.unwrap_or(0).max(known.count()));
            if let Some(heal) = &mut self.heal
                && known.count().saturating_add(LARGE) >= self.count
            {
                heal.apart.remove(peer);
            }
        }
        if let Some(over) = self.heal.take_if(|heal| now >= heal.end() || heal.apart.is_empty()) {
            for peer in over.apart {
                if let Some(known) = self.peers.get_mut(&peer) {
                    known.waited_for = known.count();
                }
            }
        }
    }

    fn verdict(&mut self, said: &Said<'_>, (me, connected): (PeerId, &[PeerId])) -> Verdict {
        let Said { peer, now, .. } = *said;
        let Some(known) = self.peers.get(&peer).copied() else { return Verdict::Fetch };
        if known.root.is_none_or(|root| self.held.contains(&root)) {
            return Verdict::Held;
        }
        let lacking = known.lacking();
        if self.heal.is_none() && lacking > LARGE {
            let mut others = connected.iter().filter(|other| **other != peer);
            if others.any(|other| self.was_near(other, lacking)) {
                self.heal = Some(Heal::begin(lacking, now));
            }
        }
        let Some(mut heal) = self.heal.take() else { return Verdict::Fetch };
        let verdict = self.verdict_in(&mut heal, (peer, lacking), (me, connected), now);
        self.heal = Some(heal);
        verdict
    }

    fn verdict_in(
        &self,
        heal: &mut Heal,
        (peer, lacking): (PeerId, u64),
        (me, connected): (PeerId, &[PeerId]),
        now: Instant,
    ) -> Verdict {
        if heal.near.is_none() {
            if now < heal.since + GRACE {
                heal.apart.insert(peer);
                let until = heal.since + GRACE;
                return if lacking <= LARGE { Verdict::Fetch } else { Verdict::Wait(until) };
            }
            let was_near = connected.iter().filter(|one| self.was_near(one, heal.lacking));
            let asked = was_near.filter(|one| self.peers[one].at >= heal.since);
            let (near, ahead): (BTreeSet<_>, _) =
                asked.partition(|one| self.lacking(one) <= heal.lacking / 4);
            heal.apart.retain(|one| !near.contains(one));
            (heal.near, heal.ahead) = (Some(near), ahead);
        }
        let near = heal.near.iter().flatten();
        let near: Vec<_> = near.filter(|one| connected.contains(one)).collect();
        if near.contains(&&peer) {
            // One that has less is taking in what is here. What it has besides is seen when it has that, and costs no reading until then.
            let is_behind = self.peers[&peer].root.is_some_and(|root| root.count < self.count);
            let until = (now + FOLLOW).min(heal.end());
            return if is_behind && now < until { Verdict::Wait(until) } else { Verdict::Fetch };
        }
        heal.apart.insert(peer);
        let before = near.iter().filter(|one| ***one < me).count();
        let is_ahead = heal.ahead.contains(&peer);
        let is_late = heal.is_caught_up || !(is_ahead || heal.ahead.is_empty());
        let rank = if heal.is_leading { 0 } else { before.max(usize::from(is_late)) };
        let until = heal.until(rank);
        if until > now {
            return Verdict::Wait(until);
        }
        heal.is_leading |= rank > 0 || !is_ahead;
        heal.is_caught_up = false;
        Verdict::Fetch
    }

    /// Returns whether a peer had nearly all that this node has, when both last had the same.
    fn was_near(&self, peer: &PeerId, lacking: u64) -> bool {
        let common = self.peers.get(peer).and_then(|known| known.common);
        common.is_some_and(|common| self.count.saturating_sub(common) <= lacking / 4)
    }

    fn lacking(&self, peer: &PeerId) -> u64 {
        self.peers.get(peer).map_or(0, Known::lacking)
    }
}

impl Heal {
    fn begin(lacking: u64, now: Instant) -> Self {
        Self {
            lacking,
            since: now,
            progress: now + GRACE + HEAD_START,
            near: None,
            ahead: BTreeSet::new(),
            apart: BTreeSet::new(),
            is_leading: false,
            is_caught_up: false,
        }
    }

    /// Returns until when who comes after so many others leaves it to them.
    fn until(&self, rank: usize) -> Instant {
        let steps = u32::try_from(rank.min(RANK_MAX)).expect("the least of both is small");
        let until = if steps == 0 { self.since + GRACE } else { self.progress + STEP * steps };
        until.min(self.end())
    }

    /// Returns when nobody waits any more.
    fn end(&self) -> Instant {
        self.since + GRACE + WAIT_MAX
    }
}
