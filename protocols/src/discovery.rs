//! When to look for peers: often at the start, when few are known, and rarely later.

use std::time::{Duration, Instant};

use crate::rate::{Bucket, Rate};

/// First pause between two rounds; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(250);

/// Longest pause between two rounds.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// Longest pause of a node that is alone: its bootstrap node may be back, or its network.
const PAUSE_ALONE_MAX: Duration = Duration::from_secs(15);

/// Connected peers from which on a new one is no reason to hurry.
pub(crate) const PEERS_ENOUGH: usize = 8;

/// How often a new peer may make us hurry: peers that come and go must not set our pace.
const HURRYING: Rate = Rate { burst: 4, every: Duration::from_secs(10) };

/// Peers that the DHT's rendezvous record may make us dial in one round.
pub(crate) const DIALS_PER_ROUND_MAX: usize = 32;

/// The schedule of rounds. In each, the node tells the DHT that it is here, and asks who else is.
#[derive(Debug)]
pub(crate) struct Discovery {
    next: Instant,
    pause: Duration,
    hurries: Bucket,
}

impl Discovery {
    /// Returns a schedule whose first round is due at once.
    pub(crate) fn new(now: Instant) -> Self {
        Self { next: now, pause: PAUSE_MIN, hurries: Bucket::full(HURRYING, now) }
    }

    /// Returns when the next round is due.
    pub(crate) fn next_wake(&self) -> Instant {
        self.next
    }

    /// Returns whether a round is due, and sets the time of the next, which comes sooner for a node that
    /// is connected to nobody.
    pub(crate) fn wake(&mut self, now: Instant, is_alone: bool) -> bool {
        if now < self.next {
            return false;
        }
        self.next = now + self.pause;
        let pause_max = if is_alone { PAUSE_ALONE_MAX } else { PAUSE_MAX };
        self.pause = (2 * self.pause).min(pause_max);
        true
    }

    /// The last peer is gone: look again as soon as one who is alone does.
    pub(crate) fn on_alone(&mut self, now: Instant) {
        self.pause = self.pause.min(PAUSE_ALONE_MAX);
        self.next = self.next.min(now + self.pause);
    }

    /// This node is elsewhere now: tell the others soon.
    pub(crate) fn on_moved(&mut self, now: Instant) {
        self.pause = self.pause.min(4 * PAUSE_MIN);
        self.next = self.next.min(now + PAUSE_MIN);
    }

    /// A peer was met: while few are known, others may be found through it, so look again soon.
    pub(crate) fn on_new_contact(&mut self, now: Instant, connected: usize) {
        if connected <= PEERS_ENOUGH && self.hurries.take(HURRYING, now) {
            self.on_moved(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_frequent_first_and_rare_later() {
        let start = Instant::now();
        let mut discovery = Discovery::new(start);
        let (mut now, mut rounds) = (start, 0);
        while now < start + Duration::from_secs(3_600) {
            assert!(discovery.wake(now, false));
            assert!(!discovery.wake(now, false));
            rounds += 1;
            now = discovery.next_wake();
            if rounds == 4 {
                assert!(now < start + Duration::from_secs(4));
            }
        }
        assert!((15..30).contains(&rounds), "{rounds}");
        discovery.on_new_contact(now - Duration::from_secs(100), 1);
        assert!(discovery.next_wake() < now);
    }

    #[test]
    fn peers_that_come_and_go_do_not_set_the_pace() {
        let start = Instant::now();
        let mut discovery = Discovery::new(start);
        let (mut now, mut rounds) = (start, 0);
        while now < start + Duration::from_secs(600) {
            now += Duration::from_millis(100);
            discovery.on_new_contact(now, 3);
            rounds += usize::from(discovery.wake(now, false));
        }
        // One new peer every 100 ms for ten minutes; without a limit there would be 2,400 rounds.
        assert!(rounds < 300, "{rounds}");
        let calm = discovery.next_wake();
        discovery.on_new_contact(now + Duration::from_secs(3_600), PEERS_ENOUGH + 1);
        assert_eq!(discovery.next_wake(), calm);
    }

    #[test]
    fn a_node_that_is_alone_keeps_trying() {
        let mut now = Instant::now();
        let mut discovery = Discovery::new(now);
        for _ in 0..30 {
            assert!(discovery.wake(now, true));
            now = discovery.next_wake();
        }
        assert!(discovery.wake(now, true));
        assert!(discovery.next_wake() <= now + PAUSE_ALONE_MAX);
        // One that had company for long does not wait as if it still had.
        for _ in 0..30 {
            now = discovery.next_wake();
            assert!(discovery.wake(now, false));
        }
        assert!(discovery.next_wake() > now + PAUSE_ALONE_MAX);
        discovery.on_alone(now);
        assert!(discovery.next_wake() <= now + PAUSE_ALONE_MAX);
    }
}
