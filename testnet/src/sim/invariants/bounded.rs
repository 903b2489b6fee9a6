//! Bounded: nothing that a node holds in memory for others passes its limit, however many send however much.

use dunlin_trust::{REPORTERS_MAX, REPORTS_OF_ONE_MAX, SUBJECTS_MAX};

use super::{Checked, Invariant, View, honest};
use crate::sim::node::{SAID_MAX, SEEN_MAX, SESSIONS_MAX, SETS_MAX, STATEMENTS_MAX};

#[derive(Debug)]
pub(super) struct Bounded;

impl Invariant for Bounded {
    fn name(&self) -> &'static str {
        "Bounded"
    }

    fn check(&mut self, view: &View<'_>) -> Checked {
        let mut checks = 0;
        for node in honest(view) {
            let [seen, said, sessions, statements, asked, sets] = node.held();
            let reports_max = SUBJECTS_MAX * REPORTERS_MAX;
            let reports_max = reports_max.min(view.nodes.len() * REPORTS_OF_ONE_MAX);
            let held = [
                ("names of gossip", seen, SEEN_MAX),
                ("announcements", said, SAID_MAX),
                ("comparisons", sessions, SESSIONS_MAX),
                ("statements", statements, STATEMENTS_MAX),
                ("questions", asked, 16),
                ("template sets", sets, SETS_MAX),
                ("reports", node.trust.reports(), reports_max),
                ("records of peers", node.trust.peers().count(), view.town.config.peers_max),
            ];
            for (what, count, max) in held {
                checks += 1;
                if count > max {
                    return Err(format!("node {} holds {count} {what}, more than {max}", node.me));
                }
            }
        }
        Ok(checks)
    }
}
