//! How the graph is made: nodes are put in one after the other, twice.
//!
//! Each node is looked for in the graph so far; of the nearest that were met, those become neighbors
//! that no nearer neighbor occludes (the robust pruning of DiskANN, Subramanya et al. 2019, algorithm 2),
//! and the node is offered to them in turn. The second round sees the finished graph. All distances are
//! those of codes. Last, what no walk can reach is linked.

use super::{
    codes::{Codes, Scores},
    graph::{Graph, Hubs, Walk},
    random::Random,
};
use crate::simd::Level;

/// Most neighbors of a node when the graph is finished: two lines.
pub(super) const DEGREE: usize = 32;

/// Most neighbors while it is made. A list is pruned only when it has grown this long.
const DEGREE_GROWING: usize = 48;

/// How many of the nearest nodes are looked at when a node is put in.
const EF_CONSTRUCTION: usize = 96;

/// In each round, a candidate is occluded by a neighbor when the square of its distance to it, this many
/// times over, is less than that to the node. A larger value leaves more and longer edges.
const ALPHAS: [f32; 2] = [1.0, 1.2];

/// Most hubs: a walk compares all of them.
const HUBS_MAX: usize = 256;

/// Seed of the order in which nodes are put in.
const SEED: u64 = 0x00d0_0d1e;

/// Nodes that are put in before it is asked again whether to go on: some milliseconds.
const ASKED_EVERY: usize = 256;

/// Returns the graph over all rows of `codes`, which are at least one; `None` when it was not to go on.
pub(super) fn build(level: Level, codes: &Codes, going: &dyn Fn() -> bool) -> Option<Graph> {
    let count = codes.count();
    let order = Random::new(SEED).order(count as u32);
    // Enough to begin near, few enough to compare with all.
    let hub_count = (count.isqrt() / 4).clamp(1, HUBS_MAX);
    let hubs = Hubs::new(order[..hub_count].to_vec(), codes);
    let graph = Graph::new(count, DEGREE_GROWING, hubs);
    let walk = Walk::new(count, EF_CONSTRUCTION);
    let mut builder =
        Builder { level, codes, graph, walk, scores: Scores::default(), alpha: ALPHAS[0] };
    for alpha in ALPHAS {
        builder.alpha = alpha;
        for nodes in order.chunks(ASKED_EVERY) {
            if !going() {
                return None;
            }
            nodes.iter().for_each(|node| builder.put(*node));
        }
    }
    builder.finish();
    builder.link_the_unreachable();
    Some(builder.graph)
}

struct Builder<'a> {
    level: Level,
    codes: &'a Codes,
    graph: Graph,
    walk: Walk,
    scores: Scores,
    alpha: f32,
}

impl Builder<'_> {
    /// Looks for a node, and links it with what is near.
    fn put(&mut self, node: u32) {
        let (query, bias) = self.codes.as_query(node);
        self.graph.walk(self.level, self.codes, &query, &mut self.walk);
        let mut candidates: Vec<(f32, u32)> =
            self.walk.pool.nearest().map(|(score, other)| (score + bias, other)).collect();
        let known: Vec<u32> = self.graph.neighbors(node).collect();
        self.codes.scores(self.level, &query, &known, &mut self.scores);
        candidates.extend(self.scores.values.iter().map(|score| score + bias).zip(known));
        let neighbors = self.pruned(node, candidates);
        self.graph.set(node, neighbors.iter().copied());
        for neighbor in neighbors {
            self.link(neighbor, node);
        }
    }

    /// Adds an edge.
    fn link(&mut self, from: u32, to: u32) {
        if self.graph.neighbors(from).any(|known| known == to) || self.graph.add(from, to) {
            return;
        }
        let mut neighbors: Vec<u32> = self.graph.neighbors(from).collect();
        neighbors.push(to);
        self.prune(from, &neighbors);
    }

    /// Replaces the neighbors of a node by the best of `neighbors`.
    fn prune(&mut self, node: u32, neighbors: &[u32]) {
        let (query, bias) = self.codes.as_query(node);
        self.codes.scores(self.level, &query, neighbors, &mut self.scores);
        let distances = self.scores.values.iter().map(|score| score + bias);
        let candidates = distances.zip(neighbors.iter().copied()).collect();
        let kept = self.pruned(node, candidates);
        self.graph.set(node, kept);
    }

    /// Returns the candidates, with their distances to the node, that no nearer one occludes.
    fn pruned(&mut self, node: u32, mut candidates: Vec<(f32, u32)>) -> Vec<u32> {
        candidates.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        candidates.dedup_by_key(|(_, candidate)| *candidate);
        candidates.retain(|(_, candidate)| *candidate != node);
        let mut kept = Vec::with_capacity(DEGREE);
        let mut rest: Vec<u32> = Vec::with_capacity(candidates.len());
        while !candidates.is_empty() && kept.len() < DEGREE {
            let (_, nearest) = candidates.remove(0);
            kept.push(nearest);
            let (query, bias) = self.codes.as_query(nearest);
            rest.clear();
            rest.extend(candidates.iter().map(|(_, candidate)| *candidate));
            self.codes.scores(self.level, &query, &rest, &mut self.scores);
            let mut between = self.scores.values.iter().map(|score| score + bias);
            candidates.retain(|(distance, _)| {
                between.next().is_some_and(|between| between * self.alpha >= *distance)
            });
        }
        kept
    }

    /// Prunes every list to the final degree, and packs the lists.
    fn finish(&mut self) {
        let mut finished = Graph::new(self.graph.count(), DEGREE, self.graph.hubs.clone());
        for node in 0..self.graph.count() as u32 {
            let neighbors: Vec<u32> = self.graph.neighbors(node).collect();
            if neighbors.len() > DEGREE {
                self.prune(node, &neighbors);
            }
            finished.set(node, self.graph.neighbors(node));
        }
        self.graph = finished;
    }

    /// Links every node that no path from a hub leads to.
    ///
    /// An edge to it goes where there is room, from the nearest node that can be reached. Nothing is taken
    /// away, so what was reachable stays so. Where there is no room at all the node becomes a hub.
    fn link_the_unreachable(&mut self) {
        let count = self.graph.count() as u32;
        let mut reached = vec![false; count as usize];
        let mut rest: Vec<u32> = self.graph.hubs.nodes.clone();
        self.reach(&mut reached, &mut rest);
        for node in 0..count {
            if reached[node as usize] {
                continue;
            }
            let (query, _) = self.codes.as_query(node);
            self.graph.walk(self.level, self.codes, &query, &mut self.walk);
            let near: Vec<u32> = self.walk.pool.nearest().map(|(_, near)| near).collect();
            if !near.into_iter().any(|near| self.graph.add(near, node)) {
                let mut hubs = self.graph.hubs.nodes.clone();
                hubs.push(node);
                self.graph.hubs = Hubs::new(hubs, self.codes);
            }
            rest.push(node);
            self.reach(&mut reached, &mut rest);
        }
    }

    /// Marks all that paths from `rest` lead to.
    fn reach(&self, reached: &mut [bool], rest: &mut Vec<u32>) {
        while let Some(node) = rest.pop() {
            if !reached[node as usize] {
                reached[node as usize] = true;
                rest.extend(self.graph.neighbors(node));
            }
        }
    }
}
