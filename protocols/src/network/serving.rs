//! Requests of peers: the gate, the limits, the shell's answer.

use std::{future::Future, pin::Pin, time::Instant};

use dunlin_trust::{Evidence, Operation};
use libp2p::{
    PeerId,
    request_response::{self, InboundFailure, Message, ResponseChannel},
};
use tokio::sync::oneshot;

use super::{Actor, unix_now};
use crate::{
    Event, SegmentsReply, TemplatesReply, codec,
    messages::{
        RefusalReason, SegmentsRequest, SegmentsResponse, TemplatesRequest, TemplatesResponse,
    },
    requests::Blame,
};

/// The future of an answer that the shell is to give.
pub(super) type Serving = Pin<Box<dyn Future<Output = Served> + Send>>;

/// An answer that the shell gave, or failed to give.
pub(super) struct Served {
    peer: PeerId,
    answer: Answer,
}

enum Answer {
    Segments(ResponseChannel<SegmentsResponse>, SegmentsResponse),
    Templates(ResponseChannel<TemplatesResponse>, TemplatesResponse),
}

impl Actor {
    pub(super) fn on_segments_event(
        &mut self,
        event: request_response::Event<SegmentsRequest, SegmentsResponse>,
    ) {
        use request_response::Event as E;
        match event {
            E::Message { peer, message: Message::Request { request, channel, .. }, .. } => {
                self.on_segments_request(peer, request, channel);
            }
            E::Message { message: Message::Response { request_id, response }, .. } => {
                self.counters.answers_received += 1;
                self.segments_asked.answer(&request_id, response);
            }
            E::OutboundFailure { peer, request_id, error, .. } => {
                let blame = self.segments_asked.fail(&request_id, peer, &error);
                self.on_failed_ask(peer, blame);
            }
            E::InboundFailure { peer, error, .. } => self.on_inbound_failure(peer, &error),
            E::ResponseSent { .. } => {}
        }
    }

    pub(super) fn on_templates_event(
        &mut self,
        event: request_response::Event<TemplatesRequest, TemplatesResponse>,
    ) {
        use request_response::Event as E;
        match event {
            E::Message { peer, message: Message::Request { request, channel, .. }, .. } => {
                self.on_templates_request(peer, request, channel);
            }
            E::Message { message: Message::Response { request_id, response }, .. } => {
                self.counters.answers_received += 1;
                self.templates_asked.answer(&request_id, response);
            }
            E::OutboundFailure { peer, request_id, error, .. } => {
                let blame = self.templates_asked.fail(&request_id, peer, &error);
                self.on_failed_ask(peer, blame);
            }
            E::InboundFailure { peer, error, .. } => self.on_inbound_failure(peer, &error),
            E::ResponseSent { .. } => {}
        }
    }

    fn on_segments_request(
        &mut self,
        peer: PeerId,
        request: SegmentsRequest,
        channel: ResponseChannel<SegmentsResponse>,
    ) {
        if let Err(reason) = self.take_on(peer, Operation::ServePrivateSegments) {
            return self.send_segments(channel, SegmentsResponse::Refused { reason });
        }
        let (reply, answer) = oneshot::channel();
        self.ask_shell(Event::SegmentsRequested { peer, request, reply: SegmentsReply(reply) });
        self.serving.push(Box::pin(async move {
            let failed = SegmentsResponse::Refused { reason: RefusalReason::Failed };
            Served { peer, answer: Answer::Segments(channel, answer.await.unwrap_or(failed)) }
        }));
    }

    fn on_templates_request(
        &mut self,
        peer: PeerId,
        request: TemplatesRequest,
        channel: ResponseChannel<TemplatesResponse>,
    ) {
        if let Err(reason) = self.take_on(peer, Operation::ServeTemplates) {
            return self.send_templates(channel, TemplatesResponse::Refused { reason });
        }
        let (reply, answer) = oneshot::channel();
        self.ask_shell(Event::TemplatesRequested { peer, request, reply: TemplatesReply(reply) });
        self.serving.push(Box::pin(async move {
            let failed = TemplatesResponse::Refused { reason: RefusalReason::Failed };
            Served { peer, answer: Answer::Templates(channel, answer.await.unwrap_or(failed)) }
        }));
    }

    /// Decides whether a peer's request is taken on, and counts why it is not.
    fn take_on(&mut self, peer: PeerId, operation: Operation) -> Result<(), RefusalReason> {
        if let Err(refusal) = self.trust.may(unix_now(), &peer, operation) {
            tracing::debug!(%refusal, "request refused");
            self.counters.requests_denied += 1;
            return Err(RefusalReason::Denied);
        }
        if !self.admission.admit(peer, Instant::now()) {
            self.counters.requests_busy += 1;
            return Err(RefusalReason::Busy);
        }
        Ok(())
    }

    /// Puts a request before the shell. When its queue is full, the reply is dropped with the event, and
    /// the peer is told that the node failed.
    fn ask_shell(&mut self, event: Event) {
        self.tell(event);
    }

    pub(super) fn on_served(&mut self, served: Served) {
        let Served { peer, answer } = served;
        self.admission.done(&peer);
        match answer {
            Answer::Segments(channel, response) => {
                self.count_answer(matches!(response, SegmentsResponse::Refused { .. }));
                if let SegmentsResponse::Blocks { blocks, .. } = &response {
                    let bytes: usize = blocks.iter().map(|block| block.bytes.len()).sum();
                    self.counters.block_bytes_served += bytes as u64;
                }
                self.send_segments(channel, response);
            }
            Answer::Templates(channel, response) => {
                self.count_answer(matches!(response, TemplatesResponse::Refused { .. }));
                self.send_templates(channel, response);
            }
        }
    }

    fn count_answer(&mut self, is_refusal: bool) {
        if is_refusal {
            self.counters.requests_failed += 1;
        } else {
            self.counters.requests_served += 1;
        }
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

    fn on_failed_ask(&mut self, peer: PeerId, blame: Blame) {
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

    fn on_inbound_failure(&mut self, peer: PeerId, failure: &InboundFailure) {
        match failure {
            InboundFailure::Io(cause) if codec::is_violation(cause) => {
                self.counters.violations += 1;
                self.observe(peer, Evidence::ProtocolViolation);
            }
            other => tracing::trace!(%peer, cause = %other, "a request ended without an answer"),
        }
    }
}
