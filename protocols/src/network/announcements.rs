//! Announcements by gossip: signed, checked before they are passed on, and each heard once.

use std::time::{Duration, Instant};

use dunlin_trust::{Evidence, Operation};
use dunlin_wire::envelope::{self, OpenError};
use libp2p::{
    PeerId,
    gossipsub::{self, IdentTopic, MessageAcceptance, PublishError, TopicHash},
};

use super::{Actor, unix_now};
use crate::{
    Event,
    messages::{Announcement, SegmentAnnouncement, TemplateAnnouncement},
    rate::{Bucket, Rate},
    requests::Bounded,
};

/// How fast one author may announce.
const ANNOUNCING: Rate = Rate { burst: 64, every: Duration::from_secs(1) };

/// What was heard, and from whom how often.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// The newest announcement of each author about each collection.
    newest: Bounded<(PeerId, TopicHash, String), u64>,
    rates: Bounded<PeerId, Bucket>,
}

/// What to do with a message.
enum Verdict<T> {
    /// Believe it and pass it on.
    Accept { author: PeerId, announcement: T },
    /// Drop it, without blame: it is old, or comes too often.
    Ignore,
    /// Drop it: nobody should have passed it on.
    Reject { is_forged: bool },
}

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
        match self.verdict(message) {
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

    fn verdict<T: Announcement>(&mut self, message: &gossipsub::Message) -> Verdict<T> {
        let signed = match envelope::open::<T>(&message.data) {
            Ok(signed) => signed,
            Err(error) => return Verdict::Reject { is_forged: error == OpenError::Signature },
        };
        let author = signed.signer;
        if message.source != Some(author) || !signed.value.is_valid() {
            return Verdict::Reject { is_forged: false };
        }
        // What a peer that is not heard says is dropped without blame for those who still hear it.
        if self.trust.may(unix_now(), &author, Operation::AcceptAnnouncement).is_err() {
            return Verdict::Ignore;
        }
        let (collection, sequence) = signed.value.place();
        let place = (author, message.topic.clone(), collection.to_owned());
        // Old news, which anybody can repeat, do not use up what their author may say.
        if self.heard.newest.get(&place).is_some_and(|newest| sequence <= *newest) {
            return Verdict::Ignore;
        }
        let now = Instant::now();
        let bucket = self.heard.rates.get_or_insert(author, || Bucket::full(ANNOUNCING, now));
        if !bucket.take(ANNOUNCING, now) {
            return Verdict::Ignore;
        }
        *self.heard.newest.get_or_insert(place, || 0) = sequence;
        Verdict::Accept { author, announcement: signed.value }
    }
}
