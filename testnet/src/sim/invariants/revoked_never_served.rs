//! RevokedNeverServed: a node that ever learned that a peer is revoked answers none of its questions.

use std::collections::BTreeSet;

use dunlin_protocols::PeerId;

use super::{Checked, Invariant, View};
use crate::sim::fact::Fact;

#[derive(Debug)]
pub(super) struct RevokedNeverServed {
    learned: Vec<BTreeSet<PeerId>>,
}

impl RevokedNeverServed {
    pub(super) fn new(nodes: usize) -> Self {
        Self { learned: vec![BTreeSet::new(); nodes] }
    }
}

impl Invariant for RevokedNeverServed {
    fn name(&self) -> &'static str {
        "RevokedNeverServed"
    }

    fn on_fact(&mut self, view: &View<'_>, fact: &Fact) -> Checked {
        match fact {
            Fact::Revoked { at } => {
                let known = view.nodes[*at].trust.revocations();
                let revoked = view.truth.revoked.iter().filter(|peer| known.is_revoked(peer));
                self.learned[*at].extend(revoked);
                Ok(0)
            }
            Fact::Served { by, to } => {
                let peer = view.town.peers[*to];
                if self.learned[*by].contains(&peer) {
                    return Err(format!("node {by} served {peer}, which it knew to be revoked"));
                }
                Ok(1)
            }
            _ => Ok(0),
        }
    }
}
