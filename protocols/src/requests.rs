//! Requests under way: our own until they are answered, and those of peers until we answer.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

use libp2p::{
    PeerId,
    request_response::{OutboundFailure, OutboundRequestId},
};
use tokio::sync::oneshot;

use crate::{
    codec,
    handle::NetworkError,
    rate::{Bucket, Rate},
};

/// Own requests of one protocol that may be under way; more are refused at once. Each may bring 4 MiB, so
/// this bounds what all peers together make us hold to 256 MiB.
const ASKED_MAX: usize = 64;

/// Requests of peers that may be under way; more are refused as busy. A request is under way until its
/// answer has left, so slow readers hold at most this many answers of up to 4 MiB here.
const SERVING_MAX: usize = 64;

/// Requests of one peer that may be under way: with 4 MiB each, 32 MiB in flight.
const SERVING_PER_PEER_MAX: usize = 8;

/// How fast one peer may ask.
const ASKING: Rate = Rate { burst: 64, every: Duration::from_millis(25) };

/// How fast one peer may ask about replicas, beside that: each question may have 32 MiB read here.
const REPLICATING: Rate = Rate { burst: 32, every: Duration::from_millis(50) };

/// How fast one peer may present licenses and ask about revocations, beside that: each license may have 16
/// signatures to verify, each answer 4 MiB. Peers that meet ask up to five times.
const INTRODUCING: Rate = Rate { burst: 24, every: Duration::from_millis(500) };

/// Entries of a [`Bounded`] map. More peers than can be connected fit, so none escapes its rate by
/// reconnecting; of authors that are heard through others, the longest silent one is forgotten.
const RATES_MAX: usize = 1024;

/// Where an answer goes.
type Waiter<R> = oneshot::Sender<Result<R, NetworkError>>;

/// Own requests of one protocol.
#[derive(Debug)]
pub(crate) struct Asked<R> {
    waiting: HashMap<OutboundRequestId, Waiter<R>>,
}

/// How an own request ended, as far as the peer is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    None,
    Timeout,
    Violation,
}

impl<R> Default for Asked<R> {
    fn default() -> Self {
        Self { waiting: HashMap::new() }
    }
}

impl<R> Asked<R> {
    /// Returns whether one more may be sent.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.len() < ASKED_MAX
    }

    pub(crate) fn insert(&mut self, id: OutboundRequestId, waiter: Waiter<R>) {
        self.waiting.insert(id, waiter);
    }

    pub(crate) fn answer(&mut self, id: &OutboundRequestId, response: R) {
        if let Some(waiter) = self.waiting.remove(id) {
            // Whoever asked may have given up.
            waiter.send(Ok(response)).ok();
        }
    }

    /// Ends a request without an answer; returns what the peer is to blame for.
    pub(crate) fn fail(
        &mut self,
        id: &OutboundRequestId,
        peer: PeerId,
        failure: &OutboundFailure,
    ) -> Blame {
        let (blame, error) = match failure {
            OutboundFailure::Timeout => (Blame::Timeout, NetworkError::Timeout { peer }),
            OutboundFailure::Io(cause) if codec::is_violation(cause) => {
                (Blame::Violation, NetworkError::Violation { peer })
            }
            other => (Blame::None, NetworkError::Failed { peer, cause: other.to_string() }),
        };
        if let Some(waiter) = self.waiting.remove(id) {
            // Whoever asked may have given up.
            waiter.send(Err(error)).ok();
        }
        blame
    }
}

/// Decides whether a request of a peer is taken on now.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    rates: Bounded<PeerId, Bucket>,
    replicating: Bounded<PeerId, Bucket>,
    introducing: Bounded<PeerId, Bucket>,
    serving: HashMap<PeerId, usize>,
    under_way: usize,
}

impl Admission {
    /// Takes a request on, when the peer keeps to its rate and there is room.
    pub(crate) fn admit(&mut self, peer: PeerId, now: Instant) -> bool {
        let bucket = self.rates.get_or_insert(peer, || Bucket::full(ASKING, now));
        if !bucket.take(ASKING, now) || self.under_way == SERVING_MAX {
            return false;
        }
        let serving = self.serving.entry(peer).or_default();
        if *serving == SERVING_PER_PEER_MAX {
            return false;
        }
        *serving += 1;
        self.under_way += 1;
        true
    }

    /// As [`Self::admit`], for a request about replicas.
    pub(crate) fn admit_replicating(&mut self, peer: PeerId, now: Instant) -> bool {
        let bucket = self.replicating.get_or_insert(peer, || Bucket::full(REPLICATING, now));
        bucket.take(REPLICATING, now) && self.admit(peer, now)
    }

    /// As [`Self::admit`], for a request about membership.
    pub(crate) fn admit_introducing(&mut self, peer: PeerId, now: Instant) -> bool {
        let bucket = self.introducing.get_or_insert(peer, || Bucket::full(INTRODUCING, now));
        bucket.take(INTRODUCING, now) && self.admit(peer, now)
    }

    /// Ends a request that was taken on.
    pub(crate) fn done(&mut self, peer: &PeerId) {
        self.under_way -= 1;
        if let Some(serving) = self.serving.get_mut(peer) {
            *serving -= 1;
            if *serving == 0 {
                self.serving.remove(peer);
            }
        }
    }
}

/// A map that forgets the entry that was not used for longest when it is full.
#[derive(Debug)]
pub(crate) struct Bounded<K, V> {
    /// With the number of its last use.
    entries: HashMap<K, (u64, V)>,
    uses: u64,
}

impl<K, V> Default for Bounded<K, V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), uses: 0 }
    }
}

impl<K: Hash + Eq + Clone, V> Bounded<K, V> {
    /// Returns a value; looking at it is no use.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    pub(crate) fn get_or_insert(&mut self, key: K, value: impl FnOnce() -> V) -> &mut V {
        if self.entries.len() >= RATES_MAX && !self.entries.contains_key(&key) {
            let oldest =
                self.entries.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| key.clone());
            oldest.and_then(|key| self.entries.remove(&key));
        }
        self.uses += 1;
        let (used, value) = self.entries.entry(key).or_insert_with(|| (0, value()));
        *used = self.uses;
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_cannot_take_all_the_room() {
        let mut admission = Admission::default();
        let now = Instant::now();
        let (greedy, modest) = (PeerId::random(), PeerId::random());
        let taken = (0..100).filter(|_| admission.admit(greedy, now)).count();
        assert_eq!(taken, SERVING_PER_PEER_MAX);
        assert!(admission.admit(modest, now));
        admission.done(&modest);
        for _ in 0..taken {
            admission.done(&greedy);
        }
        // All its room is free, but it asked 100 times within its burst of 64.
        assert!(!admission.admit(greedy, now));
        assert!(admission.admit(greedy, now + Duration::from_secs(1)));
    }

    #[test]
    fn all_peers_together_are_bounded_and_so_is_the_memory() {
        let mut admission = Admission::default();
        let now = Instant::now();
        let taken = (0..2_000).filter(|_| admission.admit(PeerId::random(), now)).count();
        assert_eq!(taken, SERVING_MAX);
        assert_eq!(admission.rates.entries.len(), RATES_MAX);
        assert_eq!(admission.serving.len(), SERVING_MAX);
    }

    #[test]
    fn who_is_heard_often_is_not_forgotten() {
        let mut bounded = Bounded::default();
        *bounded.get_or_insert(0, || 0) = 7;
        for stranger in 1..10 * RATES_MAX {
            bounded.get_or_insert(stranger, || 0);
            bounded.get_or_insert(0, || 0);
        }
        assert_eq!((bounded.get(&0), bounded.entries.len()), (Some(&7), RATES_MAX));
    }
}
