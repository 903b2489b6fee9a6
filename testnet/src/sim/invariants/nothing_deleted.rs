//! NothingDeleted: a segment that a node ever stored is still there, in memory and on disk, whatever was merged since and
//! however often the node fell over.

use std::collections::BTreeSet;

use dunlin_wire::Cid;

use super::{Checked, Invariant, View, honest};
use crate::sim::fact::Fact;

#[derive(Debug)]
pub(super) struct NothingDeleted {
    stored: Vec<BTreeSet<Cid>>,
}

impl NothingDeleted {
    pub(super) fn new(nodes: usize) -> Self {
        Self { stored: vec![BTreeSet::new(); nodes] }
    }

    fn look(&self, view: &View<'_>, node: usize) -> Checked {
        let (stored, held) = (&self.stored[node], &view.nodes[node]);
        let on_disk = &held.disk.contents().segments;
        let gone = stored
            .iter()
            .find(|cid| !held.segments.contains_key(*cid) || !on_disk.contains_key(*cid));
        match gone {
            Some(cid) => Err(format!("node {node} had {cid}, and has it no more")),
            None => Ok(stored.len() as u64),
        }
    }
}

impl Invariant for NothingDeleted {
    fn name(&self) -> &'static str {
        "NothingDeleted"
    }

    fn on_fact(&mut self, view: &View<'_>, fact: &Fact) -> Checked {
        match fact {
            Fact::Stored { at, cid, .. } => {
                self.stored[*at].insert(*cid);
                self.look(view, *at)
            }
            Fact::Restarted { at } => self.look(view, *at),
            _ => Ok(0),
        }
    }

    fn check(&mut self, view: &View<'_>) -> Checked {
        honest(view).map(|node| self.look(view, node.me)).sum()
    }
}
