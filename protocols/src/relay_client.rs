//! A relay that answers late: libp2p's relay client takes an accepted place for one that it still wants.
//!
//! It forgets the place when its listener closes (libp2p-relay 0.22, `priv_client.rs`), and panics over the answer that
//! comes afterwards ("Relay connection exist"). A node closes that listener when it finds itself reachable, so a relay
//! that takes its time, or is hostile, would end the node. Here answers about places that are given up go no further.

use std::{
    collections::HashMap,
    fmt,
    ops::{Deref, DerefMut},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{
        Endpoint,
        transport::{ListenerId, PortUse},
    },
    relay,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm,
    },
};

/// What the handler of a connection is told when its relay is to be asked; its type is nobody else's to name.
const RESERVE: &str = "Left(In::Reserve)";

/// The relay client, which hears nothing about places that it has given up.
pub(crate) struct RelayClient {
    inner: relay::client::Behaviour,
    /// Listeners that stand for a place, and its relay. There is one of each relay at most.
    places: HashMap<ListenerId, PeerId>,
    /// Connections for which the client has a place in mind, and their relays.
    wanted: HashMap<ConnectionId, PeerId>,
}

impl RelayClient {
    pub(crate) fn new(inner: relay::client::Behaviour) -> Self {
        Self { inner, places: HashMap::new(), wanted: HashMap::new() }
    }

    /// Notes that a listener stands for a place at a relay, as soon as there is such a listener.
    pub(crate) fn asked(&mut self, relay: PeerId, listener: ListenerId) {
        self.places.insert(listener, relay);
    }
}

impl Deref for RelayClient {
    type Target = relay::client::Behaviour;

    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

impl DerefMut for RelayClient {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.inner
    }
}

impl fmt::Debug for RelayClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayClient").field("places", &self.places.len()).finish_non_exhaustive()
    }
}

impl NetworkBehaviour for RelayClient {
    type ConnectionHandler = THandler<relay::client::Behaviour>;
    type ToSwarm = relay::client::Event;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(id, peer, address, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match &event {
            FromSwarm::ListenerClosed(closed) => {
                if let Some(relay) = self.places.remove(&closed.listener_id) {
                    self.wanted.retain(|_, of| *of != relay);
                }
            }
            FromSwarm::ConnectionClosed(gone) => {
                self.wanted.remove(&gone.connection_id);
            }
            FromSwarm::DialFailure(failure) => {
                self.wanted.remove(&failure.connection_id);
            }
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        // Of connections through relays it tells as well, which nobody needs: the connection itself is told of.
        if self.wanted.contains_key(&connection) {
            self.inner.on_connection_handler_event(peer, connection, event);
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        let action = std::task::ready!(self.inner.poll(cx));
        match &action {
            ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::One(connection), event }
                if format!("{event:?}") == RESERVE =>
            {
                self.wanted.insert(*connection, *peer_id);
            }
            // It dials a relay that is not connected to ask it then, or to be carried, after which it asks for nothing.
            ToSwarm::Dial { opts } => {
                self.wanted.extend(opts.get_peer_id().map(|relay| (opts.connection_id(), relay)));
            }
            _ => {}
        }
        Poll::Ready(action)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
    use libp2p::{
        StreamProtocol, Swarm, SwarmBuilder, identity::Keypair, multiaddr::Protocol, noise,
        swarm::SwarmEvent, tcp,
    };
    use tokio::time::timeout;

    use super::*;
    use crate::multiplexer;

    const PATIENCE: Duration = Duration::from_secs(30);
    const HOP: StreamProtocol = StreamProtocol::new("/libp2p/circuit/relay/0.2.0/hop");

    /// Says that a place is given, as the protocol's messages do: type `STATUS`, a reservation, status `OK`.
    fn accepted(at: &Multiaddr) -> Vec<u8> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let mut reservation = vec![0x08];
        let mut expire = now + 3_600;
        while expire >= 0x80 {
            reservation.push((expire & 0x7f) as u8 | 0x80);
            expire >>= 7;
        }
        reservation.push(expire as u8);
        let at = at.to_vec();
        reservation.extend([&[0x12, u8::try_from(at.len()).unwrap()], at.as_slice()].concat());
        let length = u8::try_from(reservation.len()).unwrap();
        let body = [&[0x08, 2, 0x1a, length], reservation.as_slice(), &[0x28, 100]].concat();
        [&[u8::try_from(body.len()).unwrap()], body.as_slice()].concat()
    }

    fn relay() -> Swarm<libp2p_stream::Behaviour> {
        SwarmBuilder::with_existing_identity(Keypair::generate_ed25519())
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, multiplexer::Upgrade::default)
            .unwrap()
            .with_behaviour(|_| libp2p_stream::Behaviour::new())
            .unwrap()
            .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
            .build()
    }

    fn node() -> Swarm<RelayClient> {
        SwarmBuilder::with_existing_identity(Keypair::generate_ed25519())
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, multiplexer::Upgrade::default)
            .unwrap()
            .with_relay_client(noise::Config::new, multiplexer::Upgrade::default)
            .unwrap()
            .with_behaviour(|_, client| RelayClient::new(client))
            .unwrap()
            .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
            .build()
    }

    /// Has a node ask a relay for a place; returns the listener that stands for it, and what the relay answers on.
    async fn ask(
        node: &mut Swarm<RelayClient>,
        relay: &mut Swarm<libp2p_stream::Behaviour>,
        incoming: &mut libp2p_stream::IncomingStreams,
        at: &Multiaddr,
    ) -> (ListenerId, libp2p::Stream) {
        let id = *relay.local_peer_id();
        let place = at.clone().with(Protocol::P2p(id)).with(Protocol::P2pCircuit);
        let listener = node.listen_on(place).unwrap();
        node.behaviour_mut().asked(id, listener);
        let asked = async {
            loop {
                tokio::select! {
                    Some((_, stream)) = incoming.next() => return stream,
                    _ = relay.select_next_some() => {}
                    _ = node.select_next_some() => {}
                }
            }
        };
        let mut stream = timeout(PATIENCE, asked).await.unwrap();
        let mut byte = [0];
        timeout(PATIENCE, async {
            tokio::select! {
                read = stream.read_exact(&mut byte) => read.unwrap(),
                () = async { loop { tokio::select! {
                    _ = relay.select_next_some() => {}
                    _ = node.select_next_some() => {}
                } } } => {}
            }
        })
        .await
        .unwrap();
        (listener, stream)
    }

    /// Lets both go on until the node's listener is what is wanted, or for a moment when nothing is.
    async fn go_on(
        node: &mut Swarm<RelayClient>,
        relay: &mut Swarm<libp2p_stream::Behaviour>,
        is_wanted: impl Fn(&SwarmEvent<relay::client::Event>) -> bool,
        patience: Duration,
    ) -> bool {
        let seen = async {
            loop {
                tokio::select! {
                    _ = relay.select_next_some() => {}
                    event = node.select_next_some() => if is_wanted(&event) { return },
                }
            }
        };
        timeout(patience, seen).await.is_ok()
    }

    #[tokio::test]
    async fn a_relay_that_accepts_when_the_place_is_given_up_ends_nothing() {
        let (mut relay, mut node) = (relay(), node());
        let mut incoming = relay.behaviour().new_control().accept(HOP).unwrap();
        relay.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        let at = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = relay.select_next_some().await {
                break address;
            }
        };
        let (listener, mut late) = ask(&mut node, &mut relay, &mut incoming, &at).await;
        assert!(node.remove_listener(listener));
        let is_closed = |event: &_| matches!(event, SwarmEvent::ListenerClosed { .. });
        assert!(go_on(&mut node, &mut relay, is_closed, PATIENCE).await);
        late.write_all(&accepted(&at)).await.unwrap();
        late.flush().await.unwrap();
        let is_accepted = |event: &_| {
            matches!(
                event,
                SwarmEvent::Behaviour(relay::client::Event::ReservationReqAccepted { .. })
            )
        };
        let moment = Duration::from_millis(500);
        assert!(!go_on(&mut node, &mut relay, is_accepted, moment).await, "it is not told");

        // A place that is wanted is taken as ever, over the same connection.
        let (_, mut stream) = ask(&mut node, &mut relay, &mut incoming, &at).await;
        stream.write_all(&accepted(&at)).await.unwrap();
        stream.flush().await.unwrap();
        assert!(go_on(&mut node, &mut relay, is_accepted, PATIENCE).await);
    }
}
