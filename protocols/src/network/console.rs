//! The operator's console: a browser that is no peer of any network, and is shown what the node knows.

use std::time::Instant;

use dunlin_trust::Operation;
use libp2p::{
    PeerId,
    request_response::{self, InboundRequestId, Message, ResponseChannel},
};
use tokio::sync::oneshot;

use super::{
    Actor,
    serving::{Answer, Exchange, Served},
};
use crate::{
    ConsoleReply, Event,
    codec::Received,
    messages::{ConsoleRequest, ConsoleResponse, RefusalReason, Ticket},
};

impl Actor {
    /// Expects a console of this peer id, and nobody else, to come with this ticket.
    pub(super) fn expect_console(&mut self, peer: PeerId, ticket: Ticket) {
        self.consoles.expect(peer, ticket, Instant::now());
    }

    /// Returns whether a peer is a console of the operator's, or is about to be.
    pub(super) fn is_console(&self, peer: &PeerId) -> bool {
        self.consoles.knows(peer, Instant::now())
    }

    pub(super) fn on_console_event(
        &mut self,
        event: request_response::Event<Received<ConsoleRequest>, ConsoleResponse>,
    ) {
        use request_response::Event as E;
        match event {
            E::Message {
                peer, message: Message::Request { request_id, request, channel }, ..
            } => self.on_console_request(peer, request_id, request, channel),
            E::InboundFailure { request_id, .. } | E::ResponseSent { request_id, .. } => {
                self.on_closed((Exchange::Console, request_id));
            }
            // Nothing is asked of a console.
            E::Message { .. } | E::OutboundFailure { .. } => {}
        }
    }

    fn on_console_request(
        &mut self,
        peer: PeerId,
        id: InboundRequestId,
        request: Received<ConsoleRequest>,
        channel: ResponseChannel<ConsoleResponse>,
    ) {
        let Received::Message(request) = request else { return self.on_damaged(peer) };
        let room = match self.take_on(peer, Operation::ShowConsole) {
            Ok(room) => room,
            Err(reason) => return self.send_console(channel, ConsoleResponse::Refused { reason }),
        };
        let slot = (Exchange::Console, id);
        let now = Instant::now();
        let is_let_in = match &request {
            ConsoleRequest::Enter { ticket } => self.consoles.enter(peer, ticket, now),
            ConsoleRequest::Look {} => self.consoles.hear(&peer, now),
        };
        let at_once = match request {
            _ if !is_let_in => {
                tracing::debug!(%peer, "a console without a ticket");
                Some(ConsoleResponse::Refused { reason: RefusalReason::Denied })
            }
            ConsoleRequest::Enter { .. } => {
                tracing::info!(%peer, "a console was let in");
                Some(ConsoleResponse::Entered {})
            }
            ConsoleRequest::Look {} => None,
        };
        if let Some(response) = at_once {
            self.held.take_on_answered(slot, peer);
            self.count_console(&response);
            return self.send_console(channel, response);
        }
        let (reply, answer) = oneshot::channel();
        room.send(Event::ConsoleLooks { peer, reply: ConsoleReply(reply) });
        self.held.take_on(slot, peer);
        self.serving.push(Box::pin(async move {
            let failed = ConsoleResponse::Refused { reason: RefusalReason::Failed };
            let shown = answer.await.map(|view| ConsoleResponse::Shown { view });
            Served { slot, answer: Answer::Console(channel, shown.unwrap_or(failed)) }
        }));
    }

    pub(super) fn count_console(&mut self, response: &ConsoleResponse) {
        self.count_answer(match response {
            ConsoleResponse::Refused { reason } => Some(*reason),
            ConsoleResponse::Entered {} | ConsoleResponse::Shown { .. } => None,
        });
    }

    pub(super) fn send_console(
        &mut self,
        channel: ResponseChannel<ConsoleResponse>,
        response: ConsoleResponse,
    ) {
        // An asker that has gone needs no answer.
        self.swarm.behaviour_mut().console.send_response(channel, response).ok();
    }
}
