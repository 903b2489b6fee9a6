//! Requests of peers: the gate, the limits, the shell's answer.

use std::{collections::HashMap, future::Future, pin::Pin, time::Instant};

use dunlin_trust::{Evidence, Operation, Refusal};
use libp2p::{
    PeerId,
    request_response::{self, InboundRequestId, Message, ResponseChannel},
};
use tokio::sync::{mpsc::OwnedPermit, oneshot};

use super::{Actor, unix_now};
use crate::{
    Audience, CatalogsReply, Event, ReplicasReply, SegmentsReply, TemplatesReply,
    codec::Received,
    messages::{
        CatalogsRequest, CatalogsResponse, ConsoleResponse, RefusalReason, ReplicasRequest,
        ReplicasResponse, SegmentsRequest, SegmentsResponse, TemplatesRequest, TemplatesResponse,
    },
    requests::{Admission, Blame},
};

/// The future of an answer that the shell is to give.
pub(super) type Serving = Pin<Box<dyn Future<Output = Served> + Send>>;

/// An answer that the shell gave, or failed to give.
pub(super) struct Served {
    pub(super) slot: Slot,
    pub(super) answer: Answer,
}

pub(super) enum Answer {
    Segments(ResponseChannel<SegmentsResponse>, SegmentsResponse),
    Templates(ResponseChannel<TemplatesResponse>, TemplatesResponse),
    Catalogs(ResponseChannel<CatalogsResponse>, CatalogsResponse),
    Replicas(ResponseChannel<ReplicasResponse>, ReplicasResponse),
    Console(ResponseChannel<ConsoleResponse>, ConsoleResponse),
}

/// One request of a peer.
pub(super) type Slot = (Exchange, InboundRequestId);

/// The protocol that a request came by; each counts its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Exchange {
    Segments,
    Templates,
    Catalogs,
    Replicas,
    Membership,
    Console,
}

/// The requests that were taken on. They are no more than [`Admission`](crate::requests::Admission)
/// allows: a place is free again when the shell is done with a request and its stream has ended, so
/// neither a slow reader nor a slow shell can pile them up.
#[derive(Debug, Default)]
pub(super) struct Held(HashMap<Slot, Holding>);

#[derive(Debug)]
struct Holding {
    peer: PeerId,
    is_answered: bool,
    is_closed: bool,
}

impl Held {
    pub(super) fn take_on(&mut self, slot: Slot, peer: PeerId) {
        self.0.insert(slot, Holding { peer, is_answered: false, is_closed: false });
    }

    /// As [`Self::take_on`], for a request that is answered at once.
    pub(super) fn take_on_answered(&mut self, slot: Slot, peer: PeerId) {
        self.0.insert(slot, Holding { peer, is_answered: true, is_closed: false });
    }

    /// Notes a change of a request that is held; returns its peer when its place is free now.
    fn note(&mut self, slot: Slot, change: impl FnOnce(&mut Holding)) -> Option<PeerId> {
        let holding = self.0.get_mut(&slot)?;
        change(holding);
        let is_done = holding.is_answered && holding.is_closed;
        if is_done { self.0.remove(&slot).map(|holding| holding.peer) } else { None }
    }
}

impl Actor {
    pub(super) fn on_segments_event(
        &mut self,
        event: request_response::Event<Received<SegmentsRequest>, SegmentsResponse>,
    ) {
        use request_response::Event as E;
        match event {
            E::Message {
                peer, message: Message::Request { request_id, request, channel }, ..
            } => {
                self.on_segments_request(peer, request_id, request, channel);
            }
            E::Message { message: Message::Response { request_id, response }, .. } => {
                self.counters.answers_received += 1;
                self.segments_asked.answer(&request_id, response);
            }
            E::OutboundFailure { peer, request_id, error, .. } => {
                let blame = self.segments_asked.fail(&request_id, peer, &error);
                self.on_failed_ask(peer, blame);
            }
            E::InboundFailure { request_id, .. } | E::ResponseSent { request_id, .. } => {
                self.on_closed((Exchange::Segments, request_id));
            }
        }
    }

    pub(super) fn on_templates_event(
        &mut self,
        event: request_response::Event<Received<TemplatesRequest>, TemplatesResponse>,
    ) {
        use request_response::Event as E;
        match event {
            E::Message {
                peer, message: Message::Request { request_id, request, channel }, ..
            } => {
                self.on_templates_request(peer, request_id, request, channel);
            }
            E::Message { message: Message::Response { request_id, response }, .. } => {
                self.counters.answers_received += 1;
                self.templates_asked.answer(&request_id, response);
            }
            E::OutboundFailure { peer, request_id, error, .. } => {
                let blame = self.templates_asked.fail(&request_id, peer, &error);
                self.on_failed_ask(peer, blame);
            }
            E::InboundFailure { request_id, .. } | E::ResponseSent { request_id, .. } => {
                self.on_closed((Exchange::Templates, request_id));
            }
        }
    }

    pub(super) fn on_catalogs_event(
        &mut self,
        event: request_response::Event<Received<CatalogsRequest>, CatalogsResponse>,
    ) {
        use request_response::Event as E;
        match event {
            E::Message {
                peer, message: Message::Request { request_id, request, channel }, ..
            } => {
                self.on_catalogs_request(peer, request_id, request, channel);
            }
            E::Message { message: Message::Response { request_id, response }, .. } => {
                self.counters.answers_received += 1;
                self.catalogs_asked.answer(&request_id, response);
            }
            E::OutboundFailure { peer, request_id, error, .. } => {
                let blame = self.catalogs_asked.fail(&request_id, peer, &error);
                self.on_failed_ask(peer, blame);
            }
            E::InboundFailure { request_id, .. } | E::ResponseSent { request_id, .. } => {
                self.on_closed((Exchange::Catalogs, request_id));
            }
        }
    }

    pub(super) fn on_replicas_event(
        &mut self,
        event: request_response::Event<Received<ReplicasRequest>, ReplicasResponse>,
    ) {
        use request_response::Event as E;
        match event {
            E::Message {
                peer, message: Message::Request { request_id, request, channel }, ..
            } => {
                self.on_replicas_request(peer, request_id, request, channel);
            }
            E::Message { message: Message::Response { request_id, response }, .. } => {
                self.counters.answers_received += 1;
                self.replicas_asked.answer(&request_id, response);
            }
            E::OutboundFailure { peer, request_id, error, .. } => {
                let blame = self.replicas_asked.fail(&request_id, peer, &error);
                self.on_failed_ask(peer, blame);
            }
            E::InboundFailure { request_id, .. } | E::ResponseSent { request_id, .. } => {
                self.on_closed((Exchange::Replicas, request_id));
            }
        }
    }

    fn on_segments_request(
        &mut self,
        peer: PeerId,
        id: InboundRequestId,
        request: Received<SegmentsRequest>,
        channel: ResponseChannel<SegmentsResponse>,
    ) {
        let Received::Message(request) = request else { return self.on_damaged(peer) };
        let audience = match &request {
            SegmentsRequest::Blocks { .. } => self.audience_of(&peer),
            // What there is, is for own peers alone.
            SegmentsRequest::List { .. } => Audience::OwnPeer,
        };
        let operation = match audience {
            Audience::OwnPeer => Operation::ServePrivateSegments,
            Audience::Stranger => Operation::ServePublicBlocks,
        };
        let room = match self.take_on(peer, operation) {
            Ok(room) => room,
            Err(reason) => {
                return self.send_segments(channel, SegmentsResponse::Refused { reason });
            }
        };
        let (reply, answer) = oneshot::channel();
        let reply = SegmentsReply(reply);
        room.send(Event::SegmentsRequested { peer, audience, request, reply });
        let slot = (Exchange::Segments, id);
        self.held.take_on(slot, peer);
        self.serving.push(Box::pin(async move {
            let failed = SegmentsResponse::Refused { reason: RefusalReason::Failed };
            Served { slot, answer: Answer::Segments(channel, answer.await.unwrap_or(failed)) }
        }));
    }

    fn on_templates_request(
        &mut self,
        peer: PeerId,
        id: InboundRequestId,
        request: Received<TemplatesRequest>,
        channel: ResponseChannel<TemplatesResponse>,
    ) {
        let Received::Message(request) = request else { return self.on_damaged(peer) };
        let room = match self.take_on(peer, Operation::ServeTemplates) {
            Ok(room) => room,
            Err(reason) => {
                return self.send_templates(channel, TemplatesResponse::Refused { reason });
            }
        };
        let (reply, answer) = oneshot::channel();
        room.send(Event::TemplatesRequested { peer, request, reply: TemplatesReply(reply) });
        let slot = (Exchange::Templates, id);
        self.held.take_on(slot, peer);
        self.serving.push(Box::pin(async move {
            let failed = TemplatesResponse::Refused { reason: RefusalReason::Failed };
            Served { slot, answer: Answer::Templates(channel, answer.await.unwrap_or(failed)) }
        }));
    }

    fn on_catalogs_request(
        &mut self,
        peer: PeerId,
        id: InboundRequestId,
        request: Received<CatalogsRequest>,
        channel: ResponseChannel<CatalogsResponse>,
    ) {
        let Received::Message(request) = request else { return self.on_damaged(peer) };
        let room = match self.take_on(peer, Operation::Reconcile) {
            Ok(room) => room,
            Err(reason) => {
                return self.send_catalogs(channel, CatalogsResponse::Refused { reason });
            }
        };
        let (reply, answer) = oneshot::channel();
        room.send(Event::CatalogsRequested { peer, request, reply: CatalogsReply(reply) });
        let slot = (Exchange::Catalogs, id);
        self.held.take_on(slot, peer);
        self.serving.push(Box::pin(async move {
            let failed = CatalogsResponse::Refused { reason: RefusalReason::Failed };
            Served { slot, answer: Answer::Catalogs(channel, answer.await.unwrap_or(failed)) }
        }));
    }

    fn on_replicas_request(
        &mut self,
        peer: PeerId,
        id: InboundRequestId,
        request: Received<ReplicasRequest>,
        channel: ResponseChannel<ReplicasResponse>,
    ) {
        let Received::Message(request) = request else { return self.on_damaged(peer) };
        let admit = Admission::admit_replicating;
        let room = match self.take_on_if(peer, self.may_replicate(&peer), admit) {
            Ok(room) => room,
            Err(reason) => {
                return self.send_replicas(channel, ReplicasResponse::Refused { reason });
            }
        };
        let (reply, answer) = oneshot::channel();
        room.send(Event::ReplicasRequested { peer, request, reply: ReplicasReply(reply) });
        let slot = (Exchange::Replicas, id);
        self.held.take_on(slot, peer);
        self.serving.push(Box::pin(async move {
            let failed = ReplicasResponse::Refused { reason: RefusalReason::Failed };
            Served { slot, answer: Answer::Replicas(channel, answer.await.unwrap_or(failed)) }
        }));
    }

    /// Asks the gate whether a peer and this node hold objects for each other, of whatever kind.
    pub(super) fn may_replicate(&self, peer: &PeerId) -> Result<(), Refusal> {
        let may = |operation| self.trust.may(unix_now(), peer, operation);
        may(Operation::ReplicatePrivate).or_else(|_| may(Operation::ReplicatePublic))
    }

    /// Returns whether a peer may have private segments, or only what everybody may have.
    pub(super) fn audience_of(&self, peer: &PeerId) -> Audience {
        match self.trust.may(unix_now(), peer, Operation::ServePrivateSegments) {
            Ok(()) => Audience::OwnPeer,
            Err(_) => Audience::Stranger,
        }
    }

    /// Decides whether a peer's request is taken on, and counts why it is not. When it is, there is room
    /// to put it before the shell.
    pub(super) fn take_on(
        &mut self,
        peer: PeerId,
        operation: Operation,
    ) -> Result<OwnedPermit<Event>, RefusalReason> {
        let gate = self.trust.may(unix_now(), &peer, operation);
        self.take_on_if(peer, gate, Admission::admit)
    }

    fn take_on_if(
        &mut self,
        peer: PeerId,
        gate: Result<(), Refusal>,
        admit: fn(&mut Admission, PeerId, Instant) -> bool,
    ) -> Result<OwnedPermit<Event>, RefusalReason> {
        if let Err(refusal) = gate {
            tracing::debug!(%refusal, "request refused");
            self.counters.requests_denied += 1;
            return Err(RefusalReason::Denied);
        }
        // The room comes first: what the shell has none for shall not hold a place.
        let room = self.events.clone().try_reserve_owned().ok();
        let room = room.filter(|_| admit(&mut self.admission, peer, Instant::now()));
        room.ok_or_else(|| {
            self.counters.requests_busy += 1;
            RefusalReason::Busy
        })
    }

    /// A peer sent something that is no request; its stream ends without an answer.
    pub(super) fn on_damaged(&mut self, peer: PeerId) {
        self.counters.violations += 1;
        self.observe(peer, Evidence::ProtocolViolation);
    }

    /// The stream of a request has ended, with or without an answer.
    pub(super) fn on_closed(&mut self, slot: Slot) {
        if let Some(peer) = self.held.note(slot, |holding| holding.is_closed = true) {
            self.admission.done(&peer);
        }
    }

    pub(super) fn on_served(&mut self, served: Served) {
        let Served { slot, answer } = served;
        if let Some(peer) = self.held.note(slot, |holding| holding.is_answered = true) {
            self.admission.done(&peer);
        }
        match answer {
            Answer::Segments(channel, mut response) => {
                let refused = match &response {
                    SegmentsResponse::Refused { reason } => Some(*reason),
                    _ => None,
                };
                self.count_answer(refused);
                if let SegmentsResponse::Blocks { blocks, .. } = &response {
                    let bytes: usize = blocks.iter().map(|block| block.bytes.len()).sum();
                    self.counters.block_bytes_served += bytes as u64;
                }
                let network = self.config.network.as_str();
                if let Err(cause) = response.sign(network, &self.keypair) {
                    tracing::error!(%cause, "an answer cannot be signed");
                }
                self.send_segments(channel, response);
            }
            Answer::Templates(channel, response) => {
                let refused = match &response {
                    TemplatesResponse::Refused { reason } => Some(*reason),
                    TemplatesResponse::Envelopes { .. } => None,
                };
                self.count_answer(refused);
                self.send_templates(channel, response);
            }
            Answer::Catalogs(channel, response) => {
                let refused = match &response {
                    CatalogsResponse::Refused { reason } => Some(*reason),
                    CatalogsResponse::Compared { .. } | CatalogsResponse::Statements { .. } => None,
                };
                self.count_answer(refused);
                self.send_catalogs(channel, response);
            }
            Answer::Replicas(channel, response) => {
                let refused = match &response {
                    ReplicasResponse::Refused { reason } => Some(*reason),
                    _ => None,
                };
                self.count_answer(refused);
                self.send_replicas(channel, response);
            }
            Answer::Console(channel, response) => {
                self.count_console(&response);
                self.send_console(channel, response);
            }
        }
    }

    pub(super) fn count_answer(&mut self, refused: Option<RefusalReason>) {
        let counter = match refused {
            None => &mut self.counters.requests_served,
            Some(RefusalReason::Denied) => &mut self.counters.requests_denied,
            Some(_) => &mut self.counters.requests_failed,
        };
        *counter += 1;
    }

    fn send_segments(
        &mut self,
        channel: ResponseChannel<SegmentsResponse>,
        response: SegmentsResponse,
    ) {
        // An asker that has gone needs no answer.
        self.swarm.behaviour_mut().segments.send_response(channel, response).ok();
    }

    fn send_templates(
        &mut self,
        channel: ResponseChannel<TemplatesResponse>,
        response: TemplatesResponse,
    ) {
        // An asker that has gone needs no answer.
        self.swarm.behaviour_mut().templates.send_response(channel, response).ok();
    }

    fn send_catalogs(
        &mut self,
        channel: ResponseChannel<CatalogsResponse>,
        response: CatalogsResponse,
    ) {
        // An asker that has gone needs no answer.
        self.swarm.behaviour_mut().catalogs.send_response(channel, response).ok();
    }

    fn send_replicas(
        &mut self,
        channel: ResponseChannel<ReplicasResponse>,
        response: ReplicasResponse,
    ) {
        // An asker that has gone needs no answer.
        self.swarm.behaviour_mut().replicas.send_response(channel, response).ok();
    }

    pub(super) fn on_failed_ask(&mut self, peer: PeerId, blame: Blame) {
        match blame {
            Blame::None => self.counters.failures += 1,
            Blame::Timeout => {
                self.counters.timeouts += 1;
                self.observe(peer, Evidence::Timeout);
            }
            Blame::Violation => {
                self.counters.violations += 1;
                self.observe(peer, Evidence::ProtocolViolation);
            }
        }
    }
}
