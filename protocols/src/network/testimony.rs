//! What peers say of each other's conduct, by gossip: claims of those who are trusted, and proofs of anybody.
//!
//! What this node saw itself of grave misconduct it reports, once an hour for each peer and kind. Two announcements of one
//! place are a proof, and so is a signed answer with bytes that are not what their CID names: those are told at once. Each is judged by `trust` before it is passed on: a
//! report that does not count here goes no further, and a proof goes to everybody. Who was not there gets the proofs that it
//! missed when peers meet (`proofs.rs`).

use std::time::{Duration, Instant};

use dunlin_trust::{
    Claim, Evidence, Kind, Operation, Proof, ProofError, Proofs, Report, ReportError,
};
use dunlin_wire::envelope::{self, OpenError};
use libp2p::{
    PeerId,
    gossipsub::{self, MessageAcceptance, PublishError},
};

use super::{Actor, unix_now};
use crate::{
    messages::{Message, SegmentAnnouncement, TemplateAnnouncement, Testimony},
    rate::{Bucket, Rate},
    requests::Bounded,
};

/// How fast one peer may pass testimony on: each has up to two signatures to verify.
const PASSING: Rate = Rate { burst: 32, every: Duration::from_secs(1) };

/// How fast this node reports, whatever it sees.
const REPORTING: Rate = Rate { burst: 16, every: Duration::from_secs(10) };

/// How long nothing is said again of one peer and one kind of misconduct. Reports fade within days.
const AGAIN: Duration = Duration::from_secs(3_600);

/// The kinds of statements of which a peer makes one for each place.
const KINDS: [Kind; 2] = [Kind::of::<SegmentAnnouncement>(), Kind::of::<TemplateAnnouncement>()];

/// What was said, and how often.
#[derive(Debug, Default)]
pub(super) struct Testifying {
    passing: Bounded<PeerId, Bucket>,
    /// When this node last reported a peer, by what it did.
    reported: Bounded<(PeerId, String), Option<Instant>>,
    own: Option<Bucket>,
    /// Proofs that this node can show others.
    pub(super) proofs: Proofs,
    /// The tick from which on they may be given to the shell.
    pub(super) next_keeping: u64,
}

/// What becomes of testimony that was heard.
pub(super) enum Heard {
    /// It counts, and is passed on.
    News,
    /// It says nothing new here, or is of somebody who is not heard.
    Nothing,
    /// Nobody should have passed it on.
    Wrong { is_forged: bool },
}

impl Actor {
    /// Tells others what a peer did, when it was grave and that was not told lately.
    pub(super) fn report(&mut self, peer: PeerId, evidence: Evidence) {
        let Some(claim) = claim_of(evidence) else { return };
        let now = Instant::now();
        let told = self.testifying.reported.get_or_insert((peer, claim.to_string()), || None);
        let own = self.testifying.own.get_or_insert_with(|| Bucket::full(REPORTING, now));
        if told.is_some_and(|at| now < at + AGAIN) || !own.take(REPORTING, now) {
            return;
        }
        *told = Some(now);
        match envelope::sign(&self.keypair, Report::new(peer, claim, unix_now())) {
            Ok(signed) => self.tell_testimony(&Testimony::Report(signed.bytes.into())),
            Err(cause) => tracing::error!(%cause, "a report cannot be signed"),
        }
    }

    /// Takes a proof that this node found, and tells it to everybody.
    pub(super) fn prove(&mut self, proof: &Proof) {
        if matches!(self.hear_proof(proof), Heard::News) {
            self.tell_testimony(&Testimony::Proof(proof.encode().into()));
        }
    }

    pub(super) fn on_testimony_gossip(
        &mut self,
        from: PeerId,
        message: &gossipsub::Message,
    ) -> MessageAcceptance {
        let now = Instant::now();
        let rate = self.testifying.passing.get_or_insert(from, || Bucket::full(PASSING, now));
        let may = self.trust.may(unix_now(), &from, Operation::AcceptAnnouncement);
        let heard = if may.is_err() || !rate.take(PASSING, now) {
            Heard::Nothing
        } else {
            match Testimony::decode(&message.data) {
                Ok(Testimony::Report(bytes)) => self.hear_report(&bytes),
                Ok(Testimony::Proof(bytes)) => match Proof::decode(&bytes) {
                    Ok(proof) => self.hear_proof(&proof),
                    Err(_) => Heard::Wrong { is_forged: false },
                },
                Err(_) => Heard::Wrong { is_forged: false },
            }
        };
        match heard {
            Heard::News => {
                self.counters.announcements_accepted += 1;
                MessageAcceptance::Accept
            }
            Heard::Nothing => {
                self.counters.announcements_ignored += 1;
                MessageAcceptance::Ignore
            }
            Heard::Wrong { is_forged } => {
                self.counters.announcements_rejected += 1;
                // Every honest peer checks before it passes on.
                let evidence =
                    if is_forged { Evidence::BadSignature } else { Evidence::ProtocolViolation };
                self.observe(from, evidence);
                MessageAcceptance::Reject
            }
        }
    }

    fn hear_report(&mut self, bytes: &[u8]) -> Heard {
        let signed = match envelope::open::<Report>(bytes) {
            Ok(signed) => signed,
            Err(cause) => return Heard::Wrong { is_forged: cause == OpenError::Signature },
        };
        // What others say of this node is not for it to judge.
        if signed.value.about() == self.swarm.local_peer_id() {
            return Heard::Nothing;
        }
        match self.trust.hear(unix_now(), &signed) {
            Ok(()) => {
                self.counters.reports_heard += 1;
                Heard::News
            }
            Err(ReportError::Version | ReportError::OfItself { .. }) => {
                Heard::Wrong { is_forged: false }
            }
            // That depends on what is known here, which whoever brought it cannot know.
            Err(_) => Heard::Nothing,
        }
    }

    pub(super) fn hear_proof(&mut self, proof: &Proof) -> Heard {
        match proof.verify(self.config.network.as_str(), &KINDS) {
            Ok(proven) => {
                let is_about_me = proven.peer() == self.swarm.local_peer_id();
                if is_about_me || self.trust.has_counted(&proven) {
                    // After a restart only its name is known; and what is kept need not be told to this node again.
                    self.testifying.proofs.insert(&proven, proof.encode());
                    return Heard::Nothing;
                }
                let change = self.trust.observe_proof(unix_now(), &proven);
                if !self.trust.has_counted(&proven) {
                    return Heard::Nothing;
                }
                self.counters.proofs_taken += 1;
                self.testifying.proofs.insert(&proven, proof.encode());
                if let Some(change) = change {
                    self.on_standing_changed(change);
                }
                Heard::News
            }
            Err(ProofError::Kind) => Heard::Nothing,
            Err(cause) => {
                Heard::Wrong { is_forged: cause == ProofError::Envelope(OpenError::Signature) }
            }
        }
    }

    fn tell_testimony(&mut self, testimony: &Testimony) {
        let Ok(bytes) = testimony.encode() else { return };
        let topic = self.config.network.evidence_topic();
        match self.swarm.behaviour_mut().gossip.publish(topic, bytes) {
            Ok(_) | Err(PublishError::NoPeersSubscribedToTopic) => {}
            Err(cause) => tracing::debug!(%cause, "testimony not gossiped"),
        }
    }
}

/// Returns what is reported of a peer that did this; nothing of what links and disks do as well.
fn claim_of(evidence: Evidence) -> Option<Claim> {
    match evidence {
        Evidence::WrongCid => Some(Claim::WrongCid),
        Evidence::BadSignature => Some(Claim::BadSignature),
        Evidence::WrongProof => Some(Claim::WrongProof),
        Evidence::ProtocolViolation => Some(Claim::ProtocolViolation),
        // Everybody gets its proof.
        Evidence::Equivocation => None,
        _ => None,
    }
}
