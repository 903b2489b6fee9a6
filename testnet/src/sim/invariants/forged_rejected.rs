//! ForgedRejected: nothing counts that nobody signed who may, and no bytes are stored under a name that is not theirs.

use dunlin_wire::block;

use super::{Checked, Invariant, View};
use crate::sim::fact::Fact;

#[derive(Debug)]
pub(super) struct ForgedRejected;

impl Invariant for ForgedRejected {
    fn name(&self) -> &'static str {
        "ForgedRejected"
    }

    fn on_fact(&mut self, view: &View<'_>, fact: &Fact) -> Checked {
        match fact {
            Fact::Believed { at, what, hash } if !view.notary.is_genuine(hash) => {
                Err(format!("node {at} believes a forged {what}"))
            }
            Fact::Stored { at, cid, bytes } if block::verify(cid, bytes).is_err() => {
                Err(format!("node {at} stored other bytes than {cid} names"))
            }
            Fact::Proven { at, peer } if view.town.is_honest_peer(peer) => {
                Err(format!("node {at} holds a proof against {peer}, which is honest"))
            }
            Fact::Revoked { at } => {
                let revocations = view.nodes[*at].trust.revocations();
                // Of those who are nobody here, flooders withdrew the keys themselves.
                let revoked = revocations.iter().filter_map(|key| view.town.peer_of(&key));
                let mut wrong = revoked.filter(|peer| !view.truth.revoked.contains(*peer));
                match wrong.next() {
                    Some(peer) => {
                        Err(format!("node {at} holds {peer} revoked, and nobody who may did that"))
                    }
                    None => Ok(revocations.len() as u64),
                }
            }
            Fact::Believed { .. } | Fact::Stored { .. } | Fact::Proven { .. } => Ok(1),
            _ => Ok(0),
        }
    }
}
