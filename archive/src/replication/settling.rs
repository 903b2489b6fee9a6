//! Bringing one object nearer to how it shall be: who counts no more, who takes its place, who is told.

use std::time::Duration;

use super::{
    Action, Fit, Kind, LOST_MAX, Placed, Record, Replication,
    object::{Holder, Key, Object},
    peer::{Peer, Presence},
};

impl Replication {
    /// Brings one object nearer to how it shall be.
    pub(super) fn settle(&mut self, now: Duration, key: Key) {
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
    pub(super) fn set_state(&mut self, key: Key, object: &mut Object, place: usize, state: Placed) {
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

    pub(super) fn remove_holder(&mut self, key: Key, object: &mut Object, place: usize) {
        let holder = object.holders.remove(place);
        let peer = &mut self.peers[holder.peer];
        self.open -= usize::from(holder.state == Placed::Asked);
        peer.held -= u32::from(holder.state == Placed::Held);
        peer.rows -= 1;
        peer.forget(&key);
        let (root, peer) = (key.cid(), peer.id);
        self.actions.push_back(Action::Keep(Record { root, peer, state: None }));
    }
}
