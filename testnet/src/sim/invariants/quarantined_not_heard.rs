//! QuarantinedNotHeard: what a peer sends or signed has no effect on a node that quarantined it once; a quarantine lasts
//! for days, and no run does.

use std::collections::BTreeSet;

use dunlin_trust::Standing;

use super::{Checked, Invariant, View};
use crate::sim::fact::Fact;

#[derive(Debug)]
pub(super) struct QuarantinedNotHeard {
    /// By node, whom it quarantined.
    quarantined: Vec<BTreeSet<u32>>,
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
                // Who is not of this network was never heard.
                if let Some(node) = view.town.index.get(peer) {
                    self.quarantined[*at].insert(short(*node));
                }
                Ok(0)
            }
            Fact::Heard { at, from, author } => {
                let heard = author.iter().chain([from]);
                let quarantined = &self.quarantined[*at];
                let mut silenced = heard.filter(|node| quarantined.contains(&short(**node)));
                match silenced.next() {
                    Some(node) => {
                        let peer = view.town.peers[*node];
                        Err(format!("node {at} heard {peer}, which it quarantined"))
                    }
                    None => Ok(1),
                }
            }
            _ => Ok(0),
        }
    }
}

fn short(node: usize) -> u32 {
    u32::try_from(node).expect("so many nodes fit no memory")
}
