//! Proofs that a peer missed: compared by digest when peers meet, and after a change.
//!
//! Gossip tells a proof to those who are there. Whoever was away, or behind a split, learns of it here, from whichever peer
//! it meets first. Each proof is verified as one by gossip is, and none is passed on: the others compare, too. The shell keeps them,
//! so that a restart loses none.

use dunlin_trust::{Evidence, Operation, Proof};
use libp2p::PeerId;
use serde_bytes::{ByteArray, ByteBuf};

use super::{Actor, membership::Question, testimony::Heard, unix_now};
use crate::{
    Event,
    messages::{MembershipRequest, MembershipResponse, PROOFS_PER_ANSWER_MAX},
};

/// Peers that are asked for a comparison at one moment; the others follow at the next tick.
const COMPARISONS_MAX: usize = 64;

/// Ticks between two comparisons with one peer. Who makes keys to have them convicted causes no more of them.
const PAUSE_TICKS: u64 = 30;

/// Ticks between two times that the shell is given all proofs to keep. They are few, unless somebody makes keys to have them
/// convicted.
const KEEPING_TICKS: u64 = 5;

impl Actor {
    /// Takes in the proofs that were held before a restart, as if they were heard now: they counted then, and do once.
    pub(super) fn restore_proofs(&mut self, kept: &[Vec<u8>]) {
        for bytes in kept {
            let heard = Proof::decode(bytes).map(|proof| self.hear_proof(&proof));
            if !matches!(heard, Ok(Heard::News | Heard::Nothing)) {
                tracing::warn!("a proof on disk proves nothing, and is dropped");
            }
        }
        // They are on disk.
        self.testifying.proofs.changes();
    }

    /// Gives the shell the proofs to keep. When its queue is full, that waits.
    pub(super) fn hand_out_proofs(&mut self) {
        if self.ticks < self.testifying.next_keeping {
            return;
        }
        let Ok(room) = self.events.try_reserve() else { return };
        if let Some(held) = self.testifying.proofs.changes() {
            room.send(Event::ProofsHeld(held));
            self.testifying.next_keeping = self.ticks + KEEPING_TICKS;
        }
    }

    /// Tells those peers the digest of our proofs who were told another one, or none.
    pub(super) fn compare_proofs(&mut self) {
        let digest = self.testifying.proofs.digest();
        let (now, ticks, trust) = (unix_now(), self.ticks, &self.trust);
        let mut due = Vec::new();
        for (peer, member) in self.members.welcome() {
            let comparison = &mut member.proofs;
            let is_due = comparison.told != Some(digest)
                && !comparison.is_asked
                && ticks >= comparison.due
                && due.len() < COMPARISONS_MAX
                && trust.may(now, &peer, Operation::AcceptAnnouncement).is_ok();
            if is_due {
                comparison.told = Some(digest);
                comparison.is_asked = true;
                comparison.due = ticks + PAUSE_TICKS;
                due.push(peer);
            }
        }
        for peer in due {
            let request = MembershipRequest::CompareProofs { digest: ByteArray::new(digest) };
            self.ask_member(peer, Question::CompareProofs, request);
        }
    }

    /// A peer tells its digest.
    pub(super) fn on_proofs_compared(
        &mut self,
        peer: PeerId,
        theirs: [u8; 32],
    ) -> MembershipResponse {
        let ours = self.testifying.proofs.digest();
        if let Some(member) = self.members.get_mut(&peer) {
            // It learns from the answer how ours stands to its own.
            member.proofs.told = Some(ours);
        }
        if theirs != ours {
            self.ask_for_proofs(peer);
        }
        MembershipResponse::Compared { same: theirs == ours }
    }

    /// Compares with a peer in some time, whatever it was told.
    pub(super) fn compare_proofs_later(&mut self, peer: &PeerId) {
        let due = self.ticks + PAUSE_TICKS;
        if let Some(member) = self.members.get_mut(peer) {
            member.proofs.told = None;
            member.proofs.due = due;
        }
    }

    /// Asks a peer for the proofs that are not here.
    pub(super) fn ask_for_proofs(&mut self, peer: PeerId) {
        if self.trust.may(unix_now(), &peer, Operation::AcceptAnnouncement).is_err() {
            return;
        }
        let known = ByteBuf::from(self.testifying.proofs.names());
        let Some(member) = self.members.get_mut(&peer) else { return };
        if !member.proofs.is_asked {
            member.proofs.is_asked = true;
            self.ask_member(peer, Question::Proofs, MembershipRequest::Proofs { known });
        }
    }

    /// Returns the proofs that an asking peer lacks.
    pub(super) fn missing_proofs(&self, known: &[u8]) -> MembershipResponse {
        let (proofs, is_partial) = self.testifying.proofs.lacking(known, PROOFS_PER_ANSWER_MAX);
        let proofs = proofs.into_iter().map(ByteBuf::from).collect();
        MembershipResponse::Proofs { proofs, is_partial }
    }

    /// A peer told what we lacked.
    pub(super) fn on_proofs(&mut self, peer: PeerId, proofs: &[ByteBuf], is_partial: bool) {
        let mut is_news = false;
        for bytes in proofs {
            let heard = match Proof::decode(bytes) {
                Ok(proof) => self.hear_proof(&proof),
                Err(_) => Heard::Wrong { is_forged: false },
            };
            match heard {
                Heard::News => is_news = true,
                Heard::Nothing => {}
                // Every honest peer verifies what it keeps. Nothing else that this one says is worth the time.
                Heard::Wrong { is_forged: true } => {
                    return self.observe(peer, Evidence::BadSignature);
                }
                Heard::Wrong { is_forged: false } => {
                    self.counters.violations += 1;
                    return self.observe(peer, Evidence::ProtocolViolation);
                }
            }
        }
        // Without news the rest would be none either, and asking would go on for as long as the peer likes.
        if is_partial && is_news {
            self.ask_for_proofs(peer);
        }
    }
}
