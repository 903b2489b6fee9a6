//! What the links between nodes do to packets: delay, loss, bandwidth, and cuts. It decides, and touches no clock.
//!
//! Each node hangs on one access line, as in life: what it sends queues for the line's bandwidth upwards, crosses to
//! the other line, and queues there downwards. Delay and loss of a path are those of both lines.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rand_chacha::{
    ChaCha12Rng,
    rand_core::{Rng as _, SeedableRng as _},
};
use serde::{Deserialize, Serialize};

/// How long a packet may wait for a line. Packets that would wait longer are dropped, as in any router: senders
/// notice, and slow down.
const QUEUE_MAX: Duration = Duration::from_millis(250);

/// What lines are like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Machines in one room: 0.2 ms, 1 Gbit/s.
    #[default]
    Lan,
    /// Servers in different places: 40 ms, 0.1 % loss, 100 Mbit/s.
    Wan,
    /// Devices at the edge, by radio: 120 ms with 40 ms of jitter, 1 % loss, 8 Mbit/s down, 2 Mbit/s up.
    Edge,
}

impl Profile {
    /// Returns the line of a node.
    #[must_use]
    pub fn line(self) -> Line {
        let ms = Duration::from_millis;
        let mbit = |number: u64| number * 125_000;
        // A path has two lines: each has half of the delay and of the loss.
        match self {
            Self::Lan => Line {
                delay: Duration::from_micros(100),
                jitter: Duration::ZERO,
                loss: 0.0,
                up_bytes_s: mbit(1_000),
                down_bytes_s: mbit(1_000),
            },
            Self::Wan => Line {
                delay: ms(20),
                jitter: ms(2),
                loss: 0.0005,
                up_bytes_s: mbit(100),
                down_bytes_s: mbit(100),
            },
            Self::Edge => Line {
                delay: ms(60),
                jitter: ms(20),
                loss: 0.005,
                up_bytes_s: mbit(2),
                down_bytes_s: mbit(8),
            },
        }
    }
}

/// One node's line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// How long a packet is under way on it.
    pub delay: Duration,
    /// Up to so much longer.
    pub jitter: Duration,
    /// How probable it is that a packet is lost on it, from 0 to 1.
    pub loss: f64,
    /// Bytes that the node sends in a second.
    pub up_bytes_s: u64,
    /// Bytes that it receives in a second.
    pub down_bytes_s: u64,
}

/// A node's place in the network.
pub(crate) type Place = usize;

/// All lines, and what is cut.
#[derive(Debug)]
pub(crate) struct Links {
    profile: Profile,
    lines: BTreeMap<Place, State>,
    /// From whom nothing reaches whom.
    cuts: BTreeSet<(Place, Place)>,
    rng: ChaCha12Rng,
    counts: Counts,
}

/// When a line is free again, upwards and downwards, since the start.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    up: Duration,
    down: Duration,
}

/// What became of packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// They arrived, or will.
    pub passed: u64,
    /// Bytes of those.
    pub passed_bytes: u64,
    /// They met a cut.
    pub cut: u64,
    /// They were lost by chance.
    pub lost: u64,
    /// They found a line's queue full.
    pub crowded: u64,
}

impl Links {
    /// Returns links without cuts.
    pub(crate) fn new(profile: Profile, seed: u64) -> Self {
        Self {
            profile,
            lines: BTreeMap::new(),
            cuts: BTreeSet::new(),
            rng: ChaCha12Rng::seed_from_u64(seed),
            counts: Counts::default(),
        }
    }

    /// Decides about a packet at `now`, since the start: when it arrives, or that it never does.
    pub(crate) fn pass(
        &mut self,
        now: Duration,
        from: Place,
        to: Place,
        bytes: usize,
    ) -> Option<Duration> {
        if self.cuts.contains(&(from, to)) {
            self.counts.cut += 1;
            return None;
        }
        let line = self.profile.line();
        if self.chance() < 1.0 - (1.0 - line.loss).powi(2) {
            self.counts.lost += 1;
            return None;
        }
        let takes = |bytes_s: u64| {
            Duration::from_nanos((bytes as u64).saturating_mul(1_000_000_000) / bytes_s.max(1))
        };
        let up = self.lines.get(&from).map_or(now, |state| state.up.max(now));
        let sent = up + takes(line.up_bytes_s);
        let jitter = (line.jitter * 2).mul_f64(self.chance());
        let across = sent + 2 * line.delay + jitter;
        let down = self.lines.get(&to).map_or(across, |state| state.down.max(across));
        if up - now > QUEUE_MAX || down - across > QUEUE_MAX {
            self.counts.crowded += 1;
            return None;
        }
        let arrives = down + takes(line.down_bytes_s);
        self.lines.entry(from).or_default().up = sent;
        self.lines.entry(to).or_default().down = arrives;
        self.counts.passed += 1;
        self.counts.passed_bytes += bytes as u64;
        Some(arrives)
    }

    /// Lets nothing pass from one node to another until [`Self::heal`].
    pub(crate) fn cut(&mut self, from: Place, to: Place) {
        self.cuts.insert((from, to));
    }

    /// Takes all cuts away.
    pub(crate) fn heal(&mut self) {
        self.cuts.clear();
    }

    /// Returns what became of all packets so far.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// Returns a number from 0 to 1.
    fn chance(&mut self) -> f64 {
        f64::from(self.rng.next_u32()) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: usize = 1_400;

    #[test]
    fn a_cut_is_one_way_until_it_is_healed() {
        let mut links = Links::new(Profile::Lan, 1);
        links.cut(0, 1);
        assert_eq!(links.pass(Duration::ZERO, 0, 1, PACKET), None);
        assert!(links.pass(Duration::ZERO, 1, 0, PACKET).is_some());
        links.heal();
        assert!(links.pass(Duration::ZERO, 0, 1, PACKET).is_some());
        assert_eq!((links.counts().cut, links.counts().passed), (1, 2));
    }

    #[test]
    fn delay_and_loss_are_those_of_the_profile() {
        let mut links = Links::new(Profile::Edge, 1);
        let mut lost = 0;
        for second in 0..20_000 {
            let now = Duration::from_secs(second);
            match links.pass(now, 0, 1, PACKET) {
                None => lost += 1,
                Some(arrives) => {
                    let took = (arrives - now).as_millis();
                    assert!((120..=170).contains(&took), "{took} ms");
                }
            }
        }
        // 1 % of 20,000, give or take four standard deviations.
        assert!((144..=256).contains(&lost), "{lost} lost");
    }

    #[test]
    fn nobody_sends_faster_than_a_line_is() {
        let mut links = Links::new(Profile::Edge, 1);
        // Ten times what the line takes upwards, for ten seconds.
        let mut last = Duration::ZERO;
        for packet in 0..17_850_u32 {
            let now = Duration::from_micros(560) * packet;
            if let Some(arrives) = links.pass(now, 0, 1, PACKET) {
                last = last.max(arrives);
            }
        }
        let rate = links.counts().passed_bytes as f64 / last.as_secs_f64();
        assert!((0.9..=1.05).contains(&(rate / 250_000.0)), "{rate} bytes/s");
        assert!(links.counts().crowded > 10_000, "{:?}", links.counts());
        assert!(last < Duration::from_millis(10_500), "the queue is short: {last:?}");
    }

    #[test]
    fn the_same_seed_does_the_same() {
        let run = |seed| {
            let mut links = Links::new(Profile::Edge, seed);
            let times =
                (0..1_000_u64).map(|n| links.pass(Duration::from_millis(n * 20), 0, 1, 100));
            times.collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }
}
