//! Groups by density, of points that stand for many.
//!
//! As in Campello, Moulavi and Sander, "Density-Based Clustering Based on Hierarchical Density Estimates" (2013):
//! the core distance of a point is that within which it has so many neighbors; two points are as far apart as their
//! distance or the larger one of their core distances; the tree of least edges in that measure says at
//! which distances groups come apart, and of nested groups those stay that last longest as the distance shrinks. What
//! differs here: a point has a weight, the number of segments that it stands for, which counts wherever there points
//! are counted; and no distance is less than the width of a micro-cluster, below which nothing is known.

use super::micro::{Micro, squares_within};

/// Points with their distances.
struct Space<'a> {
    micros: &'a [Micro],
    core: Vec<f64>,
}

/// A node of the tree in which groups come apart: the points first, then what joins two nodes.
struct Node {
    children: Option<(usize, usize)>,
    /// How far apart the two are; of a point its core distance.
    distance: f64,
    weight: u64,
}

/// A group between two moments at which it comes apart.
struct Group {
    parent: Option<usize>,
    children: Vec<usize>,
    /// One over the distance at which it came into being.
    born: f64,
    stability: f64,
    /// Points that left it before it came apart.
    points: Vec<usize>,
}

/// Returns the points of each group of at least `weight_min`; a point is as dense as the distance to `neighbors`.
/// What is `sparser` times farther from them than the middle of its group is in none.
pub(super) fn groups(
    micros: &[Micro],
    radius: f64,
    neighbors: u64,
    weight_min: u64,
    sparser: f64,
) -> Vec<Vec<usize>> {
    if micros.is_empty() {
        return Vec::new();
    }
    let space = Space::new(micros, radius, neighbors);
    let nodes = space.tree();
    let mut groups = stable(condensed(&nodes, weight_min, micros.len()));
    for group in &mut groups {
        let most = sparser * space.middle_core(group);
        group.retain(|point| space.core[*point] <= most);
    }
    groups.retain(|group| group.iter().map(|at| micros[*at].segments).sum::<u64>() >= weight_min);
    groups
}

impl<'a> Space<'a> {
    fn new(micros: &'a [Micro], radius: f64, neighbors: u64) -> Self {
        let core = micros.iter().map(|micro| {
            if micro.segments >= neighbors {
                return micro.spread().max(radius);
            }
            let mut others: Vec<(f64, u64)> =
                micros.iter().map(|other| (distance(micro, other), other.segments)).collect();
            others.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
            let mut weight = 0;
            let enough = others.iter().find(|(_, segments)| {
                weight += segments;
                weight >= neighbors
            });
            // With fewer than that in all, everything is as far as the farthest.
            enough.or(others.last()).map_or(radius, |(distance, _)| distance.max(radius))
        });
        Self { micros, core: core.collect() }
    }

    fn reach(&self, a: usize, b: usize) -> f64 {
        distance(&self.micros[a], &self.micros[b]).max(self.core[a]).max(self.core[b])
    }

    /// Returns the tree of least edges: Prim's, which needs no edges in memory.
    fn edges(&self) -> Vec<(f64, usize, usize)> {
        let count = self.micros.len();
        let mut nearest = vec![(f64::INFINITY, 0); count];
        let mut is_in = vec![false; count];
        let (mut edges, mut newest) = (Vec::with_capacity(count - 1), 0);
        is_in[0] = true;
        while edges.len() + 1 < count {
            let mut next = (f64::INFINITY, newest);
            for point in 0..count {
                if is_in[point] {
                    continue;
                }
                let reach = self.reach(newest, point);
                if reach < nearest[point].0 {
                    nearest[point] = (reach, newest);
                }
                if nearest[point].0 < next.0 {
                    next = (nearest[point].0, point);
                }
            }
            newest = next.1;
            is_in[newest] = true;
            edges.push((next.0, nearest[newest].1, newest));
        }
        edges.sort_by(|a, b| a.0.total_cmp(&b.0));
        edges
    }

    /// Returns the nodes in which the points join, the last of all at the end.
    fn tree(&self) -> Vec<Node> {
        let leaf = |(micro, core): (&Micro, &f64)| Node {
            children: None,
            distance: *core,
            weight: micro.segments,
        };
        let mut nodes: Vec<Node> = self.micros.iter().zip(&self.core).map(leaf).collect();
        let mut parent: Vec<usize> = (0..2 * nodes.len()).collect();
        for (distance, a, b) in self.edges() {
            let (a, b) = (root(&mut parent, a), root(&mut parent, b));
            (parent[a], parent[b]) = (nodes.len(), nodes.len());
            let weight = nodes[a].weight + nodes[b].weight;
            nodes.push(Node { children: Some((a, b)), distance, weight });
        }
        nodes
    }

    /// Returns the core distance of the segment in the middle of a group.
    fn middle_core(&self, group: &[usize]) -> f64 {
        let mut cores: Vec<(f64, u64)> =
            group.iter().map(|at| (self.core[*at], self.micros[*at].segments)).collect();
        cores.sort_by(|a, b| a.0.total_cmp(&b.0));
        let all: u64 = cores.iter().map(|(_, segments)| segments).sum();
        let mut before = 0;
        let middle = cores.iter().find(|(_, segments)| {
            before += segments;
            2 * before >= all
        });
        middle.map_or(0.0, |(core, _)| *core)
    }
}

fn distance(a: &Micro, b: &Micro) -> f64 {
    let squares = squares_within(&a.center, &b.center, f64::INFINITY).unwrap_or(f64::INFINITY);
    (squares / a.center.len() as f64).sqrt()
}

/// Returns the node that a node is in by now, and shortens the way there.
fn root(parent: &mut [usize], mut node: usize) -> usize {
    while parent[node] != node {
        parent[node] = parent[parent[node]];
        node = parent[node];
    }
    node
}

/// Returns the groups that the tree comes apart into; what is lighter than `weight_min` leaves its group instead.
fn condensed(nodes: &[Node], weight_min: u64, points: usize) -> Vec<Group> {
    let group = |parent, born| Group {
        parent,
        children: Vec::new(),
        born,
        stability: 0.0,
        points: Vec::new(),
    };
    let mut groups = vec![group(None, 0.0)];
    let mut open = vec![(nodes.len() - 1, 0)];
    while let Some((node, of)) = open.pop() {
        let Node { children, distance, weight } = &nodes[node];
        let density = 1.0 / distance;
        let lasted = density - groups[of].born;
        let Some((a, b)) = *children else {
            groups[of].stability += *weight as f64 * lasted;
            groups[of].points.push(node);
            continue;
        };
        let [is_a, is_b] = [a, b].map(|child| nodes[child].weight >= weight_min);
        if is_a && is_b {
            groups[of].stability += *weight as f64 * lasted;
            for child in [a, b] {
                let place = groups.len();
                groups.push(group(Some(of), density));
                groups[of].children.push(place);
                open.push((child, place));
            }
            continue;
        }
        for (child, stays) in [(a, is_a), (b, is_b)] {
            if stays {
                open.push((child, of));
                continue;
            }
            groups[of].stability += nodes[child].weight as f64 * lasted;
            let mut leaving = vec![child];
            while let Some(node) = leaving.pop() {
                match nodes[node].children {
                    Some((a, b)) => leaving.extend([a, b]),
                    None => groups[of].points.push(node),
                }
            }
        }
    }
    debug_assert_eq!(groups.iter().map(|group| group.points.len()).sum::<usize>(), points);
    groups
}

/// Returns the points of the groups that last longest, of nested ones. That of everything is one of them only when it
/// never comes apart.
fn stable(groups: Vec<Group>) -> Vec<Vec<usize>> {
    let mut best: Vec<f64> = groups.iter().map(|group| group.stability).collect();
    let mut is_chosen = vec![true; groups.len()];
    // Children come behind their parents.
    for place in (0..groups.len()).rev() {
        let group = &groups[place];
        if group.children.is_empty() {
            continue;
        }
        let of_children: f64 = group.children.iter().map(|child| best[*child]).sum();
        if group.parent.is_none() || of_children > group.stability {
            is_chosen[place] = false;
            best[place] = of_children;
        }
    }
    let mut of_group: Vec<Option<usize>> = vec![None; groups.len()];
    let mut chosen: Vec<Vec<usize>> = Vec::new();
    for (place, group) in groups.iter().enumerate() {
        of_group[place] = group.parent.and_then(|parent| of_group[parent]);
        if of_group[place].is_none() && is_chosen[place] {
            of_group[place] = Some(chosen.len());
            chosen.push(Vec::new());
        }
        if let Some(of) = of_group[place] {
            chosen[of].extend(&group.points);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::Stay;

    fn micro(segments: u64, center: &[f64]) -> Micro {
        let mean = vec![0.0; center.len()];
        let stay =
            Stay { segment: 0, entity: 0, start_us: 0, end_us: 0, observations: 1, mean: &mean };
        let one = Micro::of(&stay, center.to_vec());
        let mut all = one.clone();
        (1..segments).for_each(|_| all.join(&one));
        all
    }

    fn found(micros: &[Micro], weight_min: u64) -> Vec<Vec<usize>> {
        let mut groups = groups(micros, 0.01, 5, weight_min, 3.0);
        groups.iter_mut().for_each(|group| group.sort_unstable());
        groups.sort();
        groups
    }

    #[test]
    fn groups_of_any_shape_come_apart_where_it_is_sparse() {
        // A long chain, a heavy point, and two that are alone.
        let mut micros: Vec<Micro> =
            (0..40).map(|at| micro(3, &[f64::from(at) * 0.012, 0.0])).collect();
        micros.push(micro(100, &[0.2, 0.6]));
        micros.push(micro(1, &[0.9, 0.9]));
        micros.push(micro(1, &[0.9, 0.2]));
        let chain: Vec<usize> = (0..40).collect();
        assert_eq!(found(&micros, 20), [chain, vec![40]]);
    }

    #[test]
    fn what_never_comes_apart_is_one_group_without_what_is_far_off() {
        let mut micros: Vec<Micro> = (0..30)
            .map(|at| micro(4, &[0.5 + f64::from(at % 6) * 0.01, 0.5 + f64::from(at / 6) * 0.01]))
            .collect();
        micros.push(micro(1, &[0.9, 0.1]));
        assert_eq!(found(&micros, 10), [(0..30).collect::<Vec<_>>()]);
    }

    #[test]
    fn few_points_are_no_group() {
        assert_eq!(found(&[], 5), Vec::<Vec<usize>>::new());
        assert_eq!(found(&[micro(4, &[0.5])], 5), Vec::<Vec<usize>>::new());
        assert_eq!(found(&[micro(5, &[0.5])], 5), [[0]]);
    }
}
