//! Links between simulated nodes: how long a message takes, whether it arrives, and how often.

use super::{
    faults::{Fault, Faults, Injected},
    rng::{Chance, below, between, per_mille},
};

/// A network that fell into two parts.
#[derive(Clone, Debug)]
struct Split {
    is_far: Vec<bool>,
    kind: SplitKind,
    since_ms: u64,
}

/// How it fell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SplitKind {
    /// Neither part hears the other.
    Symmetric,
    /// The far part hears the near one, and is not heard.
    OneWay,
    /// Neither hears the other, in turns with both hearing.
    Flapping,
}

/// Neighbors of a node in gossip.
const NEIGHBORS: usize = 8;

/// How long a flapping link is down, and then up, in milliseconds.
const FLAP_MS: u64 = 4_000;

/// The links.
#[derive(Debug)]
pub(super) struct Network {
    faults: Faults,
    split: Option<Split>,
}

impl Network {
    pub(super) fn new(faults: Faults) -> Self {
        Self { faults, split: None }
    }

    /// Lets the network fall into two parts.
    pub(super) fn split(&mut self, rng: &mut Chance, nodes: usize, now_ms: u64) {
        let far = between(rng, 200, 700);
        let is_far = (0..nodes).map(|_| per_mille(rng, far)).collect();
        let kinds = [SplitKind::Symmetric, SplitKind::OneWay, SplitKind::Flapping];
        let kind = kinds[below(rng, kinds.len())];
        self.split = Some(Split { is_far, kind, since_ms: now_ms });
    }

    /// Joins the parts again.
    pub(super) fn mend(&mut self) {
        self.split = None;
    }

    /// Ends all faults.
    pub(super) fn heal(&mut self) {
        self.split = None;
        self.faults = Faults::none();
    }

    /// Returns after how many milliseconds a message arrives: never, once, or twice.
    pub(super) fn arrivals(
        &self,
        rng: &mut Chance,
        (from, to): (usize, usize),
        now_ms: u64,
        injected: &mut Injected,
    ) -> [Option<u64>; 2] {
        let mut count = |fault: &'static str| *injected.entry(fault).or_default() += 1;
        if self.split.as_ref().is_some_and(|split| split.blocks(from, to, now_ms)) {
            count("partitioned messages");
            return [None, None];
        }
        if self.faults.has(Fault::Loss) && per_mille(rng, 50) {
            count("lost messages");
            return [None, None];
        }
        let delay = |rng: &mut Chance, count: &mut dyn FnMut(&'static str)| {
            let mut delay_ms = between(rng, 10, 120);
            if self.faults.has(Fault::Delay) && per_mille(rng, 100) {
                count("delayed messages");
                delay_ms += between(rng, 0, 2_000);
            }
            delay_ms
        };
        let first = delay(rng, &mut count);
        let again = (self.faults.has(Fault::Duplication) && per_mille(rng, 30)).then(|| {
            count("doubled messages");
            delay(rng, &mut count)
        });
        [Some(first), again]
    }
}

impl Split {
    fn blocks(&self, from: usize, to: usize, now_ms: u64) -> bool {
        let (from, to) = (self.is_far[from], self.is_far[to]);
        from != to
            && match self.kind {
                SplitKind::Symmetric => true,
                SplitKind::OneWay => from,
                SplitKind::Flapping => ((now_ms - self.since_ms) / FLAP_MS).is_multiple_of(2),
            }
    }
}

/// Returns the neighbors of each node: a ring, so that all hang together, and random others.
pub(super) fn mesh(rng: &mut Chance, count: usize) -> Vec<Vec<usize>> {
    let mut mesh = vec![Vec::new(); count];
    let mut join = |a: usize, b: usize| {
        if a != b && !mesh[a].contains(&b) {
            mesh[a].push(b);
            mesh[b].push(a);
        }
    };
    for node in 0..count {
        join(node, (node + 1) % count);
        for _ in 0..NEIGHBORS / 2 - 1 {
            join(node, below(rng, count));
        }
    }
    mesh
}
