//! HonestNeverQuarantined: no honest node holds another in quarantine, whatever up to a third of all say together, and
//! whatever the network loses.

use dunlin_trust::Standing;

use super::{Checked, Invariant, View, honest};
use crate::sim::fact::Fact;

#[derive(Debug)]
pub(super) struct HonestNeverQuarantined;

impl Invariant for HonestNeverQuarantined {
    fn name(&self) -> &'static str {
        "HonestNeverQuarantined"
    }

    fn on_fact(&mut self, view: &View<'_>, fact: &Fact) -> Checked {
        match fact {
            Fact::Moved { at, peer, to: Standing::Quarantined }
                if view.town.is_honest_peer(peer) =>
            {
                Err(format!("node {at} quarantined {peer}, which is honest"))
            }
            Fact::Moved { .. } => Ok(1),
            _ => Ok(0),
        }
    }

    fn check(&mut self, view: &View<'_>) -> Checked {
        let mut checks = 0;
        for node in honest(view) {
            let now = node.unix_at(view.now_ms);
            for peer in node.trust.peers().filter(|peer| view.town.is_honest_peer(peer)) {
                checks += 1;
                if node.trust.standing(now, peer) == Standing::Quarantined {
                    return Err(format!("node {} holds {peer} in quarantine", node.me));
                }
            }
        }
        Ok(checks)
    }
}
