//! What peers did, what the operator says of them, and what follows for their connections.

use dunlin_trust::{Evidence, Explanation, Operation, Standing, StandingChange};
use libp2p::PeerId;

use super::{Actor, unix_now};
use crate::NetworkError;

impl Actor {
    /// Does as the operator says about a peer. One that is released meets us anew, so that all who stopped to hear
    /// it do again.
    pub(super) fn quarantine(
        &mut self,
        peer: PeerId,
        is_held: bool,
    ) -> Result<Explanation, NetworkError> {
        let now = unix_now();
        let change = if is_held {
            self.trust
                .hold(now, peer)
                .map_err(|cause| NetworkError::Impossible { cause: cause.to_string() })?
        } else {
            self.trust.release(now, peer)
        };
        if let Some(change) = change {
            if change.to <= Standing::Quarantined {
                self.stop_hearing(peer);
            } else {
                self.close(peer);
            }
        }
        Ok(self.trust.explain(now, &peer))
    }

    /// Forgets what a peer wants, and sends nobody its way.
    pub(super) fn stop_hearing(&mut self, peer: PeerId) {
        self.book.forget(&peer);
        let behaviour = self.swarm.behaviour_mut();
        behaviour.kad.remove_peer(&peer);
        behaviour.kad.store_mut().forget(&peer);
        behaviour.bitswap.mute(peer);
        self.stop_helping(peer);
    }

    /// Takes evidence about a peer; one that may no longer be connected is not.
    pub(super) fn observe(&mut self, peer: PeerId, evidence: Evidence) {
        if let Some(change) = self.trust.observe(unix_now(), peer, evidence) {
            self.on_standing_changed(change);
        }
        self.report(peer, evidence);
    }

    pub(super) fn on_standing_changed(&mut self, change: StandingChange) {
        let (now, peer) = (unix_now(), change.peer);
        tracing::debug!(%peer, from = ?change.from, to = ?change.to, "standing changed");
        if !Operation::AcceptAnnouncement.admits(self.trust.standing(now, &peer)) {
            self.stop_hearing(peer);
        }
        if self.trust.may(now, &peer, Operation::Connect).is_err() {
            self.close(peer);
        }
    }
}
