//! Converges: some time after everything healed, all honest nodes know the same revocations, have the same segments, and
//! flag the same conflicts.

use std::collections::BTreeSet;

use super::{Checked, Invariant, View, honest};
use crate::sim::{node::Node, world::converge_ms_max};

#[derive(Debug)]
pub(super) struct Converges {
    within_ms: u64,
}

impl Converges {
    pub(super) fn new(nodes: usize) -> Self {
        Self { within_ms: converge_ms_max(nodes) }
    }
}

impl Invariant for Converges {
    fn name(&self) -> &'static str {
        "Converges"
    }

    fn check(&mut self, view: &View<'_>) -> Checked {
        match view.healed_ms {
            Some(healed_ms) if view.now_ms >= healed_ms + self.within_ms => agree(view),
            _ => Ok(0),
        }
    }
}

/// Returns how many nodes agree, or which do not.
pub(in crate::sim) fn agree(view: &View<'_>) -> Checked {
    let mut nodes = honest(view);
    let Some(first) = nodes.next() else { return Ok(0) };
    let mut checks = 0;
    for node in nodes {
        checks += 1;
        if let Some(what) = differs(first, node) {
            return Err(format!("nodes {} and {} differ in {what}", first.me, node.me));
        }
    }
    Ok(checks)
}

fn differs(a: &Node, b: &Node) -> Option<String> {
    let pairs = |node: &Node| -> BTreeSet<_> {
        node.conflicts.iter().map(|conflict| conflict.pair()).collect()
    };
    let (a_revoked, b_revoked) = (a.trust.revocations(), b.trust.revocations());
    if a_revoked.digest() != b_revoked.digest() || a_revoked.len() != b_revoked.len() {
        return Some(format!("revocations: {} and {}", a_revoked.len(), b_revoked.len()));
    }
    if a.catalog != b.catalog {
        return Some(format!("segments: {} and {}", a.segments.len(), b.segments.len()));
    }
    (pairs(a) != pairs(b))
        .then(|| format!("conflicts: {} and {}", a.conflicts.len(), b.conflicts.len()))
}
