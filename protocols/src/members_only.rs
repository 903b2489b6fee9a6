//! A behaviour that does not serve a connection before it is told to, nor after it is told not to.
//!
//! The DHT and gossip know nothing of licenses: they answer and tell whoever is connected. In a closed network
//! a stranger shall not learn from them who the members are and what they announce, so their side of a
//! connection stands still until the peer has presented its license: streams that it opens wait unread, and
//! nothing is sent. To refuse those streams instead would tell an honest peer that the protocols are not
//! spoken here, which it remembers for the whole connection.
//!
//! Relays, AutoNAT and hole punching answer by themselves as well, in open networks too: their doors are shut to a peer
//! that is not heard any more.

use std::{
    collections::VecDeque,
    ops::{Deref, DerefMut},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, NotifyHandler, SubstreamProtocol, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
        handler::{ConnectionEvent, FullyNegotiatedInbound},
    },
};

/// Streams of one connection that wait to be read; more are closed. A peer needs one for gossip, and opens one
/// for each question to the DHT.
const STREAMS_WAITING_MAX: usize = 8;

/// A behaviour behind a door. In an open network the door is never shut.
pub(crate) struct MembersOnly<B> {
    inner: B,
    is_closed_network: bool,
    /// Doors to open or shut, next. At most a few for each connection, whose number is limited.
    doors: VecDeque<(PeerId, ConnectionId, bool)>,
}

impl<B> MembersOnly<B> {
    /// Returns the behaviour, with doors shut at first in a closed network.
    pub(crate) fn new(inner: B, is_closed_network: bool) -> Self {
        Self { inner, is_closed_network, doors: VecDeque::new() }
    }

    /// Serves these connections of a peer from now on.
    pub(crate) fn open(&mut self, peer: PeerId, connections: impl Iterator<Item = ConnectionId>) {
        if self.is_closed_network {
            self.doors.extend(connections.map(|connection| (peer, connection, true)));
        }
    }

    /// Serves these connections of a peer no longer. What goes on over them stands still.
    pub(crate) fn shut(&mut self, peer: PeerId, connections: impl Iterator<Item = ConnectionId>) {
        self.doors.extend(connections.map(|connection| (peer, connection, false)));
    }
}

impl<B> Deref for MembersOnly<B> {
    type Target = B;

    fn deref(&self) -> &B {
        &self.inner
    }
}

impl<B> DerefMut for MembersOnly<B> {
    fn deref_mut(&mut self) -> &mut B {
        &mut self.inner
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for MembersOnly<B> {
    type ConnectionHandler = Door<THandler<B>>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let inner = self.inner.handle_established_inbound_connection(id, peer, local, remote)?;
        Ok(Door::new(inner, self.is_closed_network))
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner.handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let inner =
            self.inner.handle_established_outbound_connection(id, peer, address, role, port_use)?;
        Ok(Door::new(inner, self.is_closed_network))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.inner.on_connection_handler_event(peer, connection, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some((peer_id, connection, is_open)) = self.doors.pop_front() {
            let handler = NotifyHandler::One(connection);
            let event = if is_open { Order::Open } else { Order::Shut };
            return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event });
        }
        self.inner.poll(cx).map(|action| action.map_in(Order::Inner))
    }
}

/// What goes to the handler of a connection.
#[derive(Debug)]
pub(crate) enum Order<E> {
    /// Serve it.
    Open,
    /// Serve it no longer.
    Shut,
    /// What the behaviour behind the door says.
    Inner(E),
}

/// The door of one connection.
pub(crate) struct Door<H: ConnectionHandler> {
    inner: H,
    /// While it is shut, the streams that the peer opened.
    waiting: Option<Waiting<H>>,
}

type Waiting<H> = VecDeque<
    FullyNegotiatedInbound<
        <H as ConnectionHandler>::InboundProtocol,
        <H as ConnectionHandler>::InboundOpenInfo,
    >,
>;

impl<H: ConnectionHandler> Door<H> {
    fn new(inner: H, is_shut: bool) -> Self {
        Self { inner, waiting: is_shut.then(VecDeque::new) }
    }
}

impl<H: ConnectionHandler> ConnectionHandler for Door<H> {
    type FromBehaviour = Order<H::FromBehaviour>;
    type ToBehaviour = H::ToBehaviour;
    type InboundProtocol = H::InboundProtocol;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = H::InboundOpenInfo;
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        self.inner.listen_protocol()
    }

    fn connection_keep_alive(&self) -> bool {
        self.waiting.is_none() && self.inner.connection_keep_alive()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<
        ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>,
    > {
        // Whoever opens the door polls again.
        if self.waiting.is_some() { Poll::Pending } else { self.inner.poll(cx) }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        self.inner.poll_close(cx)
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        match event {
            Order::Inner(event) => self.inner.on_behaviour_event(event),
            Order::Shut => {
                self.waiting.get_or_insert_default();
            }
            Order::Open => {
                for stream in self.waiting.take().into_iter().flatten() {
                    self.inner.on_connection_event(ConnectionEvent::FullyNegotiatedInbound(stream));
                }
            }
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        match (event, &mut self.waiting) {
            (ConnectionEvent::FullyNegotiatedInbound(stream), Some(waiting)) => {
                if waiting.len() < STREAMS_WAITING_MAX {
                    waiting.push_back(stream);
                }
            }
            (event, _) => self.inner.on_connection_event(event),
        }
    }
}
