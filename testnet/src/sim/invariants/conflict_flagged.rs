//! ConflictFlagged: whatever two stored segments contradict each other, both are flagged, after a restart too; and the
//! version that a node uses is the one that its evidence says, each maker counted once.

use std::collections::BTreeMap;

use dunlin_trust::recovery::{Conflicts, Decision, Version};
use dunlin_wire::{
    Cid,
    envelope::{self, Signed},
};

use super::{Checked, Invariant, View, honest};
use crate::sim::{
    fact::Fact,
    node::{Body, Node},
};

/// Above so many nodes, the preferences of one in ten are looked at with each check: in a run of an hour, those of each some
/// six times.
const ALL_MAX: usize = 1_000;
const PARTS: usize = 10;

#[derive(Debug, Default)]
pub(super) struct ConflictFlagged {
    checks: usize,
    /// Decisions whose signature was verified.
    opened: BTreeMap<Vec<u8>, Signed<Decision>>,
}

impl Invariant for ConflictFlagged {
    fn name(&self) -> &'static str {
        "ConflictFlagged"
    }

    fn on_fact(&mut self, view: &View<'_>, fact: &Fact) -> Checked {
        match fact {
            Fact::Stored { at, cid, bytes } => flags_of(&view.nodes[*at], cid, bytes),
            Fact::Restarted { at } => {
                let node = &view.nodes[*at];
                let stored = node.disk.contents().segments.iter();
                stored.map(|(cid, bytes)| flags_of(node, cid, bytes)).sum()
            }
            _ => Ok(0),
        }
    }

    fn check(&mut self, view: &View<'_>) -> Checked {
        self.checks += 1;
        let (part, is_large) = (self.checks % PARTS, view.nodes.len() > ALL_MAX);
        honest(view)
            .filter(|node| !is_large || node.me % PARTS == part)
            .map(|node| self.preferences_of(view, node))
            .sum()
    }
}

/// Compares a segment with all others of the node, in the plainest way.
fn flags_of(node: &Node, cid: &Cid, bytes: &[u8]) -> Checked {
    let Some(body) = Body::decode(bytes) else { return Ok(0) };
    let mut checks = 0;
    for (other, stored) in &node.segments {
        let overlaps = body.entity == stored.body.entity
            && (body.start < stored.body.end && stored.body.start < body.end
                || body.start == stored.body.start);
        if other != cid && overlaps {
            checks += 1;
            let pair = (*cid.min(other), *cid.max(other));
            let flagged =
                |cid: &Cid| node.conflicts.of(cid).any(|conflict| conflict.pair() == pair);
            if !flagged(cid) || !flagged(other) {
                return Err(format!("node {} has {cid} and {other}, and no flag", node.me));
            }
        }
    }
    Ok(checks)
}

impl ConflictFlagged {
    /// Works out what a node should prefer, from the attestations that it has.
    fn preferences_of(&mut self, view: &View<'_>, node: &Node) -> Checked {
        let now = node.unix_at(view.now_ms);
        let mut checks = 0;
        for conflict in node.conflicts.iter() {
            let made = |version: &Version| {
                let mut made = Version::new(version.cid, version.start, version.end);
                for maker in node.makers(view.town, &version.cid) {
                    made.attest(*maker, |peer| node.trust.standing(now, peer));
                }
                made
            };
            let (first, second) = (made(&conflict.first), made(&conflict.second));
            let mut fresh = Conflicts::default();
            fresh.land(&conflict.series, &first, &[second]);
            for decision in node.conflicts.decisions() {
                if !self.opened.contains_key(decision) {
                    let signed = envelope::open(decision).map_err(|error| error.to_string())?;
                    self.opened.insert(decision.to_vec(), signed);
                }
                let signed = &self.opened[decision];
                fresh.decide(signed.clone(), |_| true).map_err(|error| error.to_string())?;
            }
            let expected = fresh
                .iter()
                .map(|conflict| fresh.preference(conflict, |peer| node.trust.standing(now, peer)))
                .next();
            checks += 1;
            let preferred = node.preference(now, conflict);
            if expected != Some(preferred) {
                let me = node.me;
                return Err(format!(
                    "node {me} prefers {preferred:?}, and its evidence {expected:?}"
                ));
            }
        }
        Ok(checks)
    }
}
