//! RevocationMonotone: who a node holds for revoked stays so, through every restart and merge.

use std::collections::BTreeSet;

use dunlin_protocols::PeerId;

use super::{Checked, Invariant, View, honest};
use crate::sim::fact::Fact;

#[derive(Debug)]
pub(super) struct RevocationMonotone {
    revoked: Vec<BTreeSet<PeerId>>,
    counts: Vec<usize>,
}

impl RevocationMonotone {
    pub(super) fn new(nodes: usize) -> Self {
        Self { revoked: vec![BTreeSet::new(); nodes], counts: vec![0; nodes] }
    }

    fn look(&mut self, view: &View<'_>, node: usize) -> Checked {
        let revocations = view.nodes[node].trust.revocations();
        let (known, count) = (&mut self.revoked[node], &mut self.counts[node]);
        let lost = known.iter().find(|peer| !revocations.is_revoked(peer));
        if let Some(peer) = lost {
            return Err(format!("node {node} held {peer} revoked, and does no more"));
        }
        if revocations.len() < *count {
            return Err(format!(
                "node {node} knew {count} revocations, and knows {}",
                revocations.len()
            ));
        }
        *count = revocations.len();
        let now = view.truth.revoked.iter().filter(|peer| revocations.is_revoked(peer));
        known.extend(now);
        Ok(known.len() as u64 + 1)
    }
}

impl Invariant for RevocationMonotone {
    fn name(&self) -> &'static str {
        "RevocationMonotone"
    }

    fn on_fact(&mut self, view: &View<'_>, fact: &Fact) -> Checked {
        match fact {
            Fact::Revoked { at } | Fact::Restarted { at } => self.look(view, *at),
            _ => Ok(0),
        }
    }

    fn check(&mut self, view: &View<'_>) -> Checked {
        honest(view).map(|node| self.look(view, node.me)).sum()
    }
}
