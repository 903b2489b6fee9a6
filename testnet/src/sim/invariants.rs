//! What must hold at every moment, whatever goes wrong. Each invariant is in a file of its own, and none of them asks the
//! code under test whether it did right: they know what is true from the run itself.

mod bounded;
mod conflict_flagged;
mod converges;
mod forged_rejected;
mod honest_never_quarantined;
mod nothing_deleted;
mod quarantined_not_heard;
mod revocation_monotone;
mod revoked_never_served;
mod templates_fit;

pub(super) use self::converges::agree;
use super::{
    fact::Fact,
    node::Node,
    notary::Notary,
    town::{Town, Truth},
};

/// What an invariant may look at.
pub(super) struct View<'a> {
    pub(super) now_ms: u64,
    pub(super) town: &'a Town,
    pub(super) truth: &'a Truth,
    pub(super) notary: &'a Notary,
    pub(super) nodes: &'a [Node],
    /// When nothing went wrong any more; `None` before.
    pub(super) healed_ms: Option<u64>,
}

/// How many things were looked at, or what is wrong.
pub(super) type Checked = Result<u64, String>;

/// A promise.
pub(super) trait Invariant: std::fmt::Debug {
    /// Returns its name.
    fn name(&self) -> &'static str;

    /// Looks at what an honest node just did.
    fn on_fact(&mut self, _view: &View<'_>, _fact: &Fact) -> Checked {
        Ok(0)
    }

    /// Looks at all nodes, every few seconds of virtual time and at the end.
    fn check(&mut self, _view: &View<'_>) -> Checked {
        Ok(0)
    }
}

/// Returns all of them, for a network of so many nodes.
pub(super) fn all(nodes: usize) -> Vec<Box<dyn Invariant + Send>> {
    vec![
        Box::new(revoked_never_served::RevokedNeverServed::new(nodes)),
        Box::new(revocation_monotone::RevocationMonotone::new(nodes)),
        Box::new(forged_rejected::ForgedRejected),
        Box::new(honest_never_quarantined::HonestNeverQuarantined),
        Box::new(quarantined_not_heard::QuarantinedNotHeard::new(nodes)),
        Box::new(templates_fit::TemplatesFit::new(nodes)),
        Box::new(nothing_deleted::NothingDeleted::new(nodes)),
        Box::new(conflict_flagged::ConflictFlagged::default()),
        Box::new(converges::Converges::new(nodes)),
        Box::new(bounded::Bounded),
    ]
}

/// Returns the honest nodes that are up and were not revoked: those that promises are about.
fn honest<'a>(view: &View<'a>) -> impl Iterator<Item = &'a Node> {
    let (town, truth) = (view.town, view.truth);
    view.nodes.iter().filter(move |node| {
        node.is_up && town.is_honest(node.me) && !truth.revoked.contains(&town.peers[node.me])
    })
}
