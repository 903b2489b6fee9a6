//! TemplatesFit: the templates that a node uses were signed by their author, tell of a life like its own, and are of
//! nobody whom it quarantined once or knows to be revoked.

use std::collections::BTreeSet;

use dunlin_trust::Standing;

use super::{Checked, Invariant, View};
use crate::sim::fact::Fact;

#[derive(Debug)]
pub(super) struct TemplatesFit {
    /// By node, whom it quarantined.
    quarantined: Vec<BTreeSet<usize>>,
}

impl TemplatesFit {
    pub(super) fn new(nodes: usize) -> Self {
        Self { quarantined: vec![BTreeSet::new(); nodes] }
    }

    fn look(&self, view: &View<'_>, (at, author): (usize, usize), hash: &[u8; 32]) -> Checked {
        let peer = &view.town.peers[author];
        let said = if !view.notary.is_genuine(hash) {
            "that nobody signed"
        } else if view.truth.sets.get(hash).copied().flatten() != Some(view.town.lives[at]) {
            "of another life"
        } else if self.quarantined[at].contains(&author) {
            "of a peer that it quarantined"
        } else if view.nodes[at].trust.revocations().is_revoked(peer) {
            "of a peer that is revoked"
        } else {
            return Ok(4);
        };
        Err(format!("node {at} uses templates {said}: {peer}"))
    }
}

impl Invariant for TemplatesFit {
    fn name(&self) -> &'static str {
        "TemplatesFit"
    }

    fn on_fact(&mut self, view: &View<'_>, fact: &Fact) -> Checked {
        match fact {
            Fact::Moved { at, peer, to: Standing::Quarantined } => {
                if let Some(node) = view.town.index.get(peer) {
                    self.quarantined[*at].insert(*node);
                }
                Ok(0)
            }
            Fact::Used { at, author, hash } => self.look(view, (*at, *author), hash),
            _ => Ok(0),
        }
    }
}
