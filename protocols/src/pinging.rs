//! Ping, which answers at once over QUIC, too.
//!
//! The handler of libp2p-ping 0.48 answers one ping and goes to wait for the next, but does not look at its stream again
//! before something else wakes the connection. Over Yamux whatever arrives does. Over QUIC the stream alone would, and it was
//! not asked: a peer that sends its pings on one stream, as Kubo does, hears of the second when this node's own ping
//! is due, up to 15 s later. Here the handler is asked once more after it has nothing to tell.

use std::task::{Context, Poll};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    ping,
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        handler::ConnectionEvent,
    },
};

/// The behaviour of [`ping`], with handlers that look at their stream again.
#[derive(Default)]
pub(crate) struct Pinging(ping::Behaviour);

impl NetworkBehaviour for Pinging {
    type ConnectionHandler = Attentive<THandler<ping::Behaviour>>;
    type ToSwarm = ping::Event;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.0.handle_established_inbound_connection(id, peer, local, remote).map(Attentive)
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
            self.0.handle_established_outbound_connection(id, peer, address, role, port_use)?;
        Ok(Attentive(inner))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.0.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.0.on_connection_handler_event(peer, connection, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.0.poll(cx)
    }
}

/// A handler that is asked once more whenever it has nothing to tell.
pub(crate) struct Attentive<H>(H);

impl<H: ConnectionHandler> ConnectionHandler for Attentive<H> {
    type FromBehaviour = H::FromBehaviour;
    type ToBehaviour = H::ToBehaviour;
    type InboundProtocol = H::InboundProtocol;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = H::InboundOpenInfo;
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        self.0.listen_protocol()
    }

    fn connection_keep_alive(&self) -> bool {
        self.0.connection_keep_alive()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<
        ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>,
    > {
        // The first time it may answer a ping, the second time it asks its stream for the next. Of pings that a peer sends
        // without waiting for the answer, all but the first may still wait.
        if let Poll::Ready(event) = self.0.poll(cx) {
            return Poll::Ready(event);
        }
        self.0.poll(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        self.0.poll_close(cx)
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        self.0.on_behaviour_event(event);
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            '_,
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        self.0.on_connection_event(event);
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
    use libp2p::{
        Swarm, SwarmBuilder, Transport as _, core::muxing::StreamMuxerBox, identity::Keypair,
        swarm::SwarmEvent,
    };
    use tokio::time::timeout;

    use super::*;
    use crate::quic;

    /// Far more than an answer takes, and less than the 15 s after which the node pings by itself.
    const PATIENCE: Duration = Duration::from_secs(10);

    fn over_quic<B: NetworkBehaviour>(behaviour: B) -> Swarm<B> {
        SwarmBuilder::with_existing_identity(Keypair::generate_ed25519())
            .with_tokio()
            .with_other_transport(|keypair| {
                let quic = quic::Transport::new(keypair, true, Arc::default()).unwrap();
                quic.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
            })
            .unwrap()
            .with_behaviour(|_| behaviour)
            .unwrap()
            .with_swarm_config(|config| {
                config.with_idle_connection_timeout(Duration::from_secs(60))
            })
            .build()
    }

    #[tokio::test]
    async fn every_ping_on_one_stream_is_answered_at_once_over_quic() {
        let mut node = over_quic(Pinging::default());
        // It pings by hand alone, for a node answers one stream of each peer, the newest. And it answers, for a node takes who
        // does not for one that knows no pings.
        let mut stranger = over_quic(libp2p_stream::Behaviour::new());
        let mut control = stranger.behaviour().new_control();
        let mut pings = control.accept(ping::PROTOCOL_NAME).unwrap();
        tokio::spawn(async move {
            while let Some((_, stream)) = pings.next().await {
                let (read, mut write) = stream.split();
                tokio::spawn(async move { futures::io::copy(read, &mut write).await.ok() });
            }
        });
        let id = *node.local_peer_id();
        node.listen_on("/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap()).unwrap();
        let at = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = node.select_next_some().await {
                break address;
            }
        };
        tokio::spawn(async move { while node.next().await.is_some() {} });
        stranger.dial(at).unwrap();
        while !stranger.is_connected(&id) {
            timeout(PATIENCE, stranger.select_next_some()).await.unwrap();
        }
        tokio::spawn(async move { while stranger.next().await.is_some() {} });

        let mut stream = control.open_stream(id, ping::PROTOCOL_NAME).await.unwrap();
        for number in 0..5 {
            stream.write_all(&[number; 32]).await.unwrap();
            stream.flush().await.unwrap();
            let mut answer = [0; 32];
            let read = timeout(PATIENCE, stream.read_exact(&mut answer)).await;
            read.unwrap_or_else(|_| panic!("no answer to ping {number}")).unwrap();
            assert_eq!(answer, [number; 32]);
            // What follows comes when nothing else is left to do.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
