//! Which rows each node stands for.
//!
//! Equal rows are one node: a walk could not choose among them, ties would not be by row, and many
//! copies of one row would fill every neighbor list around it with themselves.

use super::random::mixed;

/// Nodes and their rows. Nodes are in the order of their first rows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Groups {
    row_count: usize,
    /// Where each node's rows begin in `rows`, and the end. Empty when every row is a node.
    starts: Vec<u32>,
    /// Rows, rising in each node.
    rows: Vec<u32>,
    /// The node of each row. Empty when every row is a node.
    nodes: Vec<u32>,
}

impl Groups {
    /// Returns the groups of rows that are equal in value.
    pub(super) fn of_equal_rows(dim: usize, values: &[f32]) -> Self {
        let row = |index: u32| &values[index as usize * dim..][..dim];
        let count = values.len() / dim;
        let mut hashed: Vec<(u64, u32)> =
            (0..count as u32).map(|index| (hash(row(index)), index)).collect();
        hashed.sort_unstable();
        // The first row that each row is equal to.
        let mut firsts: Vec<u32> = (0..count as u32).collect();
        for run in hashed.chunk_by(|a, b| a.0 == b.0) {
            let mut distinct: Vec<u32> = Vec::new();
            for (_, index) in run {
                match distinct.iter().find(|other| row(**other) == row(*index)) {
                    Some(first) => firsts[*index as usize] = *first,
                    None => distinct.push(*index),
                }
            }
        }
        let mut node_count = 0;
        let mut nodes = Vec::with_capacity(count);
        for (index, first) in firsts.iter().enumerate() {
            if *first as usize == index {
                nodes.push(node_count);
                node_count += 1;
            } else {
                nodes.push(nodes[*first as usize]);
            }
        }
        Self::from_nodes(nodes, node_count as usize)
    }

    /// Returns a node for each of `row_count` rows.
    pub(super) const fn of_distinct_rows(row_count: usize) -> Self {
        Self { row_count, starts: Vec::new(), rows: Vec::new(), nodes: Vec::new() }
    }

    /// Returns the groups in which row `i` belongs to `nodes[i]`, which is below `node_count`.
    pub(super) fn from_nodes(nodes: Vec<u32>, node_count: usize) -> Self {
        let row_count = nodes.len();
        if node_count == row_count {
            return Self::of_distinct_rows(row_count);
        }
        let mut starts = vec![0_u32; node_count + 1];
        for node in &nodes {
            starts[*node as usize + 1] += 1;
        }
        for node in 0..node_count {
            starts[node + 1] += starts[node];
        }
        let mut free = starts.clone();
        let mut rows = vec![0; row_count];
        for (row, node) in nodes.iter().enumerate() {
            rows[free[*node as usize] as usize] = row as u32;
            free[*node as usize] += 1;
        }
        Self { row_count, starts, rows, nodes }
    }

    /// Returns how many rows there are.
    pub(super) const fn row_count(&self) -> usize {
        self.row_count
    }

    /// Returns how many nodes there are.
    pub(super) const fn node_count(&self) -> usize {
        if self.nodes.is_empty() { self.row_count } else { self.starts.len() - 1 }
    }

    /// Returns the node of each row, or nothing when every row is a node.
    pub(super) fn nodes(&self) -> &[u32] {
        &self.nodes
    }

    /// Returns the node of a row.
    pub(super) fn node_of(&self, row: u32) -> u32 {
        self.nodes.get(row as usize).copied().unwrap_or(row)
    }

    /// Returns the first row of a node.
    pub(super) fn first(&self, node: u32) -> u32 {
        if self.nodes.is_empty() { node } else { self.rows[self.starts[node as usize] as usize] }
    }

    /// Returns the rows of a node, rising.
    pub(super) fn rows(&self, node: u32) -> impl Iterator<Item = u32> + '_ {
        let (alone, many) = if self.nodes.is_empty() {
            (Some(node), &[][..])
        } else {
            let range =
                self.starts[node as usize] as usize..self.starts[node as usize + 1] as usize;
            (None, &self.rows[range])
        };
        alone.into_iter().chain(many.iter().copied())
    }

    /// Returns how many bytes of memory the groups take.
    pub(super) const fn byte_count(&self) -> usize {
        4 * (self.starts.len() + self.rows.len() + self.nodes.len())
    }
}

fn hash(row: &[f32]) -> u64 {
    // Both zeros are one value.
    row.iter().fold(0x9E37, |hash, value| mixed(hash ^ u64::from((value + 0.0).to_bits())))
}
