//! QuarantinedNotHeard: what a peer sends or signed has no effect on a node that quarantined it once; a quarantine lasts
//! for days, and no run does.

use std::collections::BTreeSet;

use dunlin_protocols::PeerId;
use dunlin_trust::Standing;

use super::{Checked, Invariant, View};
use crate::sim::fact::Fact;

#[derive(Debug)]
pub(super) struct QuarantinedNotHeard {
    quarantined: Vec<BTreeSet<PeerId>>,
}

impl QuarantinedNotHeard {
    pub(super) fn new(nodes: usize) -> Self {
        Self { quarantined: vec![BTreeSet::new(); nodes] }
    }
}

impl Invariant for QuarantinedNotHeard {
    fn name(&self) -> &'static str {
        "QuarantinedNotHeard"
    }

    fn on_fact(&mut self, view: &View<'_>, fact: &Fact) -> Checked {
        match fact {
            Fact::Moved { at, peer, to: Standing::Quarantined } => {
                self.quarantined[*at].insert(*peer);
                Ok(0)
            }
            Fact::Heard { at, from, author } => {
                let from = view.town.peers[*from];
                let heard = author.iter().chain([&from]);
                let mut silenced = heard.filter(|peer| self.quarantined[*at].contains(*peer));
                match silenced.next() {
                    Some(peer) => Err(format!("node {at} heard {peer}, which it quarantined")),
                    None => Ok(1),
                }
            }
            _ => Ok(0),
        }
    }
}
