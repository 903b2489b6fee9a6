//! Who is a member: licenses are presented, and peers that present none are sent away.
//!
//! In an open network everybody is, from the moment that it says what it is.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use dunlin_trust::{EndorsementError, Endorsements, Evidence, LicenseError, Operation};
use dunlin_wire::envelope::OpenError;
use libp2p::{
    PeerId,
    request_response::{
        self, InboundRequestId, Message, OutboundFailure, OutboundRequestId, ResponseChannel,
    },
    swarm::ConnectionId,
};

use super::{Actor, serving::Exchange, unix_now};
use crate::{
    Event,
    codec::{self, Received},
    messages::{MembershipRequest, MembershipResponse, RefusalReason},
    requests::Blame,
};

/// How long a peer may be connected to a closed network without a license. It presents it as soon as it knows
/// what this node is, so only a slow line needs any of this.
const INTRODUCTION_TIME: Duration = Duration::from_secs(15);

/// Those peers of our network that are connected and said what they are. Bounded by the limit on connections.
#[derive(Debug, Default)]
pub(super) struct Members {
    known: HashMap<PeerId, Member>,
    /// What was asked: at most a license and two more questions for each of them.
    asked: HashMap<OutboundRequestId, Question>,
}

#[derive(Debug)]
pub(super) struct Member {
    /// Whether it takes us for a member.
    has_admitted_us: bool,
    /// Whether the shell knows of it.
    is_welcome: bool,
    /// What is going on about revocations.
    pub(super) comparison: Comparison,
    /// What is going on about proofs.
    pub(super) proofs: Comparison,
}

/// How far the comparison of revocations, or of proofs, with one peer is.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// The digest of ours that it was last told, or told us.
    pub(super) told: Option<[u8; 32]>,
    /// Whether an answer is to come.
    pub(super) is_asked: bool,
    /// The tick from which on to compare, unless the other does before.
    pub(super) due: u64,
}

/// What was asked of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    License,
    Compare,
    CatchUp,
    CompareProofs,
    Proofs,
}

impl Members {
    pub(super) fn get_mut(&mut self, peer: &PeerId) -> Option<&mut Member> {
        self.known.get_mut(peer)
    }

    /// Returns whether the shell knows of a peer.
    pub(super) fn is_welcome(&self, peer: &PeerId) -> bool {
        self.known.get(peer).is_some_and(|member| member.is_welcome)
    }

    /// Returns how many peers of our network are connected.
    pub(super) fn count(&self) -> usize {
        self.known.len()
    }

    /// Returns the peers that the shell knows of, in order.
    pub(super) fn welcome(&mut self) -> Vec<(PeerId, &mut Member)> {
        let welcome = self.known.iter_mut().filter(|(_, member)| member.is_welcome);
        let mut welcome: Vec<_> = welcome.map(|(peer, member)| (*peer, member)).collect();
        welcome.sort_unstable_by_key(|(peer, _)| *peer);
        welcome
    }
}

impl Actor {
    pub(super) fn is_closed_network(&self) -> bool {
        self.trust.revocations().authorities().is_some()
    }

    /// Meets a peer of our network that said what it is for the first time.
    pub(super) fn introduce(&mut self, peer: PeerId) {
        let has_admitted_us = !self.is_closed_network();
        let member = Member {
            has_admitted_us,
            is_welcome: false,
            comparison: Comparison::default(),
            proofs: Comparison::default(),
        };
        self.members.known.insert(peer, member);
        if let Some(endorsements) = self.config.license.clone().filter(|_| !has_admitted_us) {
            self.ask_member(peer, Question::License, MembershipRequest::License { endorsements });
        }
    }

    /// Tells the shell of a peer, once each takes the other for a member.
    pub(super) fn welcome(&mut self, peer: PeerId) {
        let may = self.trust.may(unix_now(), &peer, Operation::AcceptAnnouncement).is_ok();
        let Some(member) = self.members.get_mut(&peer) else { return };
        if !may || !member.has_admitted_us || member.is_welcome {
            return;
        }
        member.is_welcome = true;
        // Who dialled compares at once, and the other in a moment, if it was not asked by then.
        let is_dialer = self.peers.is_dialed(&peer);
        member.comparison.due = self.ticks + if is_dialer { 0 } else { 2 };
        member.proofs.due = member.comparison.due;
        self.swarm.behaviour_mut().bitswap.on_kin(peer);
        self.discovery.on_new_contact(Instant::now(), self.peers.ids().count());
        self.remember(peer);
        self.tell(Event::PeerConnected(peer));
        self.compare_revocations();
        self.compare_proofs();
    }

    /// Serves what answers by itself over a new connection, when the peer is a member by now.
    pub(super) fn open_if_licensed(&mut self, peer: PeerId, connection: ConnectionId) {
        if self.trust.is_licensed(unix_now(), &peer) {
            self.open_doors(peer, vec![connection]);
        }
    }

    fn open_doors(&mut self, peer: PeerId, connections: Vec<ConnectionId>) {
        let behaviour = self.swarm.behaviour_mut();
        behaviour.kad.open(peer, connections.iter().copied());
        behaviour.gossip.open(peer, connections.iter().copied());
        behaviour.autonat_client.open(peer, connections.iter().copied());
        behaviour.dcutr.open(peer, connections.iter().copied());
        if let Some(server) = behaviour.autonat_server.as_mut() {
            server.open(peer, connections.iter().copied());
        }
        if let Some(relay) = behaviour.relay.as_mut() {
            relay.open(peer, connections.into_iter());
        }
    }

    /// The last connection with a peer is gone.
    pub(super) fn on_member_gone(&mut self, peer: &PeerId) {
        self.members.known.remove(peer);
        self.trust.forget_license(peer);
    }

    /// Sends away those that were long enough with us without a license, or whose license has ended.
    pub(super) fn send_unlicensed_away(&mut self, now: Instant) {
        if !self.is_closed_network() {
            return;
        }
        let unix_now = unix_now();
        for peer in self.peers.connected_for(now, INTRODUCTION_TIME) {
            if !self.trust.is_licensed(unix_now, &peer) && !self.is_console(&peer) {
                self.close(peer);
            }
        }
    }

    pub(super) fn ask_member(
        &mut self,
        peer: PeerId,
        question: Question,
        request: MembershipRequest,
    ) {
        let request = Received::Message(request);
        let id = self.swarm.behaviour_mut().membership.send_request(&peer, request);
        self.members.asked.insert(id, question);
    }

    pub(super) fn on_membership_event(
        &mut self,
        event: request_response::Event<Received<MembershipRequest>, MembershipResponse>,
    ) {
        use request_response::Event as E;
        match event {
            E::Message {
                peer, message: Message::Request { request_id, request, channel }, ..
            } => self.on_membership_request(peer, request_id, request, channel),
            E::Message { peer, message: Message::Response { request_id, response }, .. } => {
                if let Some(question) = self.members.asked.remove(&request_id) {
                    self.on_membership_answer(peer, question, response);
                }
            }
            E::OutboundFailure { peer, request_id, error, .. } => {
                if let Some(question) = self.members.asked.remove(&request_id) {
                    self.on_membership_failed(peer, question, &error);
                }
            }
            E::InboundFailure { request_id, .. } | E::ResponseSent { request_id, .. } => {
                self.on_closed((Exchange::Membership, request_id));
            }
        }
    }

    fn on_membership_request(
        &mut self,
        peer: PeerId,
        id: InboundRequestId,
        request: Received<MembershipRequest>,
        channel: ResponseChannel<MembershipResponse>,
    ) {
        let Received::Message(request) = request else { return self.on_damaged(peer) };
        let operation = match &request {
            MembershipRequest::License { .. } => Operation::Connect,
            MembershipRequest::Compare { .. } | MembershipRequest::CatchUp { .. } => {
                Operation::ExchangeRevocations
            }
            // As if the other told each of them by gossip.
            MembershipRequest::CompareProofs { .. } | MembershipRequest::Proofs { .. } => {
                Operation::AcceptAnnouncement
            }
        };
        let slot = (Exchange::Membership, id);
        let response = if let Err(refusal) = self.trust.may(unix_now(), &peer, operation) {
            tracing::debug!(%refusal, "request refused");
            self.counters.requests_denied += 1;
            MembershipResponse::Refused { reason: RefusalReason::Denied }
        } else if !self.admission.admit_introducing(peer, Instant::now()) {
            self.counters.requests_busy += 1;
            MembershipResponse::Refused { reason: RefusalReason::Busy }
        } else {
            self.held.take_on_answered(slot, peer);
            self.answer_member(peer, request)
        };
        // An asker that has gone needs no answer.
        self.swarm.behaviour_mut().membership.send_response(channel, response).ok();
    }

    fn answer_member(&mut self, peer: PeerId, request: MembershipRequest) -> MembershipResponse {
        match request {
            MembershipRequest::License { endorsements } => self.on_license(peer, &endorsements),
            MembershipRequest::Compare { digest } => self.on_comparison(peer, *digest),
            MembershipRequest::CatchUp { known } => self.missing(&known),
            MembershipRequest::CompareProofs { digest } => self.on_proofs_compared(peer, *digest),
            MembershipRequest::Proofs { known } => self.missing_proofs(&known),
        }
    }

    fn on_license(&mut self, peer: PeerId, license: &Endorsements) -> MembershipResponse {
        match self.trust.present_license(unix_now(), peer, license) {
            Ok(()) => {
                let connections = self.peers.connections(&peer);
                self.open_doors(peer, connections);
                self.keep_addresses(peer);
                self.welcome(peer);
                MembershipResponse::Admitted {}
            }
            Err(cause) => {
                tracing::debug!(%peer, %cause, "license refused");
                self.counters.licenses_refused += 1;
                let forged = EndorsementError::Envelope(OpenError::Signature);
                if cause == LicenseError::Endorsement(forged) {
                    self.observe(peer, Evidence::BadSignature);
                }
                MembershipResponse::Refused { reason: RefusalReason::Denied }
            }
        }
    }

    fn on_membership_answer(
        &mut self,
        peer: PeerId,
        question: Question,
        response: MembershipResponse,
    ) {
        self.on_answered(&peer, question);
        match (question, response) {
            (Question::License, MembershipResponse::Admitted {}) => {
                if let Some(member) = self.members.get_mut(&peer) {
                    member.has_admitted_us = true;
                }
                self.welcome(peer);
            }
            (Question::Compare, MembershipResponse::Compared { same: true }) => {}
            (Question::Compare, MembershipResponse::Compared { same: false }) => {
                self.catch_up(peer);
            }
            (Question::CatchUp, MembershipResponse::Missing { answer }) => {
                self.on_missing(peer, answer);
            }
            (Question::CompareProofs, MembershipResponse::Compared { same: true }) => {}
            (Question::CompareProofs, MembershipResponse::Compared { same: false }) => {
                self.ask_for_proofs(peer);
            }
            (Question::Proofs, MembershipResponse::Proofs { proofs, is_partial }) => {
                self.on_proofs(peer, &proofs, is_partial);
            }
            (question, MembershipResponse::Refused { reason }) => {
                tracing::debug!(%peer, ?question, ?reason, "refused");
                match question {
                    // It is presented when the peers meet the next time.
                    Question::License if reason == RefusalReason::Busy => self.close(peer),
                    Question::License => {}
                    Question::Compare | Question::CatchUp => self.compare_later(&peer),
                    Question::CompareProofs | Question::Proofs => self.compare_proofs_later(&peer),
                }
            }
            _ => {
                self.counters.violations += 1;
                self.observe(peer, Evidence::ProtocolViolation);
            }
        }
    }

    fn on_membership_failed(
        &mut self,
        peer: PeerId,
        question: Question,
        failure: &OutboundFailure,
    ) {
        self.on_answered(&peer, question);
        let blame = match failure {
            OutboundFailure::Timeout => Blame::Timeout,
            OutboundFailure::Io(cause) if codec::is_violation(cause) => Blame::Violation,
            _ => Blame::None,
        };
        self.on_failed_ask(peer, blame);
    }

    fn on_answered(&mut self, peer: &PeerId, question: Question) {
        let Some(member) = self.members.get_mut(peer) else { return };
        match question {
            Question::License => {}
            Question::Compare | Question::CatchUp => member.comparison.is_asked = false,
            Question::CompareProofs | Question::Proofs => member.proofs.is_asked = false,
        }
    }
}
