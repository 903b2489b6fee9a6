//! Places at relays that this node holds or seeks, while strangers do not reach it.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use libp2p::{PeerId, core::transport::ListenerId};

/// Relays at which a node wants a place: one may go away.
pub(crate) const RELAYS_WANTED: usize = 2;

/// Pause before a relay is asked again that refused or was lost; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_secs(2);

/// Longest pause before a relay is asked again.
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// Relays that are remembered for having failed. When there are more, those that failed the longest ago are forgotten.
const FAILED_MAX: usize = 64;

/// The places, and the relays that gave none.
#[derive(Debug, Default)]
pub(crate) struct Relays {
    places: HashMap<PeerId, Place>,
    failed: HashMap<PeerId, Failed>,
}

#[derive(Debug)]
struct Place {
    listener: ListenerId,
    /// Whether the relay has agreed.
    is_held: bool,
}

#[derive(Debug)]
struct Failed {
    times: u32,
    at: Instant,
}

impl Failed {
    fn until(&self) -> Instant {
        let pause = PAUSE_MIN.saturating_mul(1 << self.times.saturating_sub(1).min(16));
        self.at + pause.min(PAUSE_MAX)
    }
}

impl Relays {
    /// Returns how many more are wanted.
    pub(crate) fn wanted(&self) -> usize {
        RELAYS_WANTED.saturating_sub(self.places.len())
    }

    /// Returns whether a relay may be asked for a place now.
    pub(crate) fn may_ask(&self, relay: &PeerId, now: Instant) -> bool {
        let is_resting = |failed: &Failed| failed.until() > now;
        !self.places.contains_key(relay) && !self.failed.get(relay).is_some_and(is_resting)
    }

    /// A relay was asked for a place.
    pub(crate) fn asked(&mut self, relay: PeerId, listener: ListenerId) {
        self.places.insert(relay, Place { listener, is_held: false });
    }

    /// A relay has agreed; returns whether it is one that was asked, and had not before.
    pub(crate) fn agreed(&mut self, relay: &PeerId) -> bool {
        self.failed.remove(relay);
        let place = self.places.get_mut(relay);
        place.is_some_and(|place| !std::mem::replace(&mut place.is_held, true))
    }

    /// A relay gave no place that it was asked for.
    pub(crate) fn failed(&mut self, relay: PeerId, now: Instant) {
        if self.failed.len() >= FAILED_MAX && !self.failed.contains_key(&relay) {
            let oldest = self.failed.iter().min_by_key(|(_, failed)| failed.at);
            let oldest = oldest.map(|(relay, _)| *relay);
            oldest.and_then(|relay| self.failed.remove(&relay));
        }
        let failed = self.failed.entry(relay).or_insert(Failed { times: 0, at: now });
        *failed = Failed { times: failed.times.saturating_add(1), at: now };
    }

    /// A listener is gone; returns the relay whose place that was.
    pub(crate) fn lost(&mut self, listener: ListenerId, now: Instant) -> Option<PeerId> {
        let mut places = self.places.iter();
        let relay = *places.find(|(_, place)| place.listener == listener)?.0;
        self.places.remove(&relay);
        self.failed(relay, now);
        Some(relay)
    }

    /// This node is elsewhere now: what failed before says nothing any more.
    pub(crate) fn moved(&mut self) {
        self.failed.clear();
    }

    /// Returns the listener of a place, or of all, that are to be given up.
    pub(crate) fn give_up(&mut self, relay: Option<PeerId>) -> Vec<ListenerId> {
        let is_meant = |of: &PeerId| relay.is_none_or(|relay| relay == *of);
        let mut listeners = Vec::new();
        self.places.retain(|of, place| {
            let stays = !is_meant(of);
            if !stays {
                listeners.push(place.listener);
            }
            stays
        });
        listeners
    }

    /// Returns the relays at which this node has a place, in order.
    pub(crate) fn held(&self) -> Vec<PeerId> {
        let held = self.places.iter().filter(|(_, place)| place.is_held);
        let mut held: Vec<_> = held.map(|(relay, _)| *relay).collect();
        held.sort_unstable();
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_that_fails_is_asked_again_ever_more_rarely() {
        let mut relays = Relays::default();
        let (relay, mut now) = (PeerId::random(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let listener = ListenerId::next();
            assert!(relays.may_ask(&relay, now));
            relays.asked(relay, listener);
            assert!(!relays.may_ask(&relay, now), "it is being asked");
            assert_eq!(relays.lost(listener, now), Some(relay));
            let start = now;
            while !relays.may_ask(&relay, now) {
                now += Duration::from_secs(1);
            }
            pauses.push((now - start).as_secs());
        }
        assert_eq!(&pauses[..4], [2, 4, 8, 16]);
        assert_eq!(pauses.last(), Some(&600));
        relays.asked(relay, ListenerId::next());
        assert!(relays.agreed(&relay) && !relays.agreed(&relay));
        relays.lost(ListenerId::next(), now);
        assert_eq!(relays.held(), [relay], "another listener is none of its");
        assert_eq!(relays.give_up(None).len(), 1);
        assert!(relays.may_ask(&relay, now), "it did well");
        relays.failed(relay, now);
        relays.moved();
        assert!(relays.may_ask(&relay, now));
    }

    #[test]
    fn relays_that_fail_take_no_more_room_than_they_may() {
        let mut relays = Relays::default();
        let now = Instant::now();
        let liars: Vec<_> = (0..500).map(|_| PeerId::random()).collect();
        for (number, relay) in (0..).zip(&liars) {
            relays.failed(*relay, now + Duration::from_millis(number));
        }
        assert_eq!(relays.failed.len(), FAILED_MAX);
        assert!(!relays.may_ask(&liars[499], now) && relays.may_ask(&liars[0], now));
    }
}
