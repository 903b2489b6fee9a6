//! Sending what waits: one request at a time to each peer.

use std::{collections::BTreeSet, time::Duration};

use rand_chacha::rand_core::Rng as _;

use super::{
    ASK_MAX, Action, Fit, Kind, NONCE_BYTES, Nonce, Placed, RELEASE_MAX, REQUESTS_MAX, Replication,
    RequestId, SAMPLES, SAMPLING_MAX, Sample, UnderWay,
    object::{Key, Object},
    peer::Presence,
};

impl Replication {
    /// Sends what waits for peers that have nothing under way.
    pub(super) fn dispatch(&mut self, now: Duration) {
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
    pub(super) fn end(&mut self, request: RequestId, kind: Kind) -> Option<(u16, Vec<Key>)> {
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
}

/// Takes the first keys out of a set.
fn first(keys: &mut BTreeSet<Key>, count: usize) -> Vec<Key> {
    std::iter::from_fn(|| keys.pop_first()).take(count).collect()
}
