//! Announcements by gossip: signed, checked before they are passed on, and each heard once.

use std::time::Instant;

use dunlin_trust::Evidence;
use dunlin_wire::envelope;
use libp2p::{
    PeerId,
    gossipsub::{self, IdentTopic, MessageAcceptance, PublishError},
};

use super::{Actor, unix_now};
use crate::{
    Event,
    hearing::Verdict,
    messages::{Announcement, SegmentAnnouncement, TemplateAnnouncement},
};

impl Actor {
    pub(super) fn announce<T: Announcement>(&mut self, topic: IdentTopic, announcement: T) {
        let signed = match envelope::sign(&self.keypair, announcement) {
            Ok(signed) => signed,
            Err(cause) => return tracing::error!(%cause, "an announcement cannot be signed"),
        };
        match self.swarm.behaviour_mut().gossip.publish(topic, signed.bytes) {
            Ok(_) => {}
            // Whoever connects later asks by itself.
            Err(PublishError::NoPeersSubscribedToTopic) => tracing::trace!("nobody listens yet"),
            Err(cause) => tracing::debug!(%cause, "announcement not sent"),
        }
    }

    pub(super) fn on_gossip_event(&mut self, event: gossipsub::Event) {
        let gossipsub::Event::Message { propagation_source, message_id, message } = event else {
            return;
        };
        let acceptance = if message.topic == self.config.network.segments_topic().hash() {
            self.judge_message(
                propagation_source,
                &message,
                |peer, announcement: SegmentAnnouncement| Event::SegmentsAnnounced {
                    peer,
                    announcement,
                },
            )
        } else if message.topic == self.config.network.revocations_topic().hash() {
            self.on_revocation_gossip(propagation_source, &message)
        } else if message.topic == self.config.network.evidence_topic().hash() {
            self.on_testimony_gossip(propagation_source, &message)
        } else {
            self.judge_message(
                propagation_source,
                &message,
                |peer, announcement: TemplateAnnouncement| Event::TemplatesAnnounced {
                    peer,
                    announcement,
                },
            )
        };
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        gossip.report_message_validation_result(&message_id, &propagation_source, acceptance);
    }

    fn judge_message<T: Announcement>(
        &mut self,
        from: PeerId,
        message: &gossipsub::Message,
        event: impl FnOnce(PeerId, T) -> Event,
    ) -> MessageAcceptance {
        let now = (Instant::now(), unix_now());
        let opened = envelope::open::<T>(&message.data);
        let proof = opened.as_ref().ok().and_then(|signed| self.heard.contradiction(signed));
        if let Some(proof) = proof {
            self.prove(&proof);
        }
        let bytes = || message.data.as_slice().into();
        match self.heard.judge(&self.trust, now, message.source, (opened, bytes)) {
            Verdict::Accept { author, announcement } => {
                self.counters.announcements_accepted += 1;
                self.tell(event(author, announcement));
                MessageAcceptance::Accept
            }
            Verdict::Ignore => {
                self.counters.announcements_ignored += 1;
                MessageAcceptance::Ignore
            }
            Verdict::Reject { is_forged } => {
                self.counters.announcements_rejected += 1;
                // Every honest peer checks before it passes on, so the one that passed it on is to blame.
                let evidence =
                    if is_forged { Evidence::BadSignature } else { Evidence::ProtocolViolation };
                self.observe(from, evidence);
                MessageAcceptance::Reject
            }
        }
    }
}
