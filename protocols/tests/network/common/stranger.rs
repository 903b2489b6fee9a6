//! A peer that speaks libp2p and none of our rules: it sends and answers whatever bytes it is given.

use dunlin_protocols::{
    Keypair, Multiaddr, PeerId,
    messages::{
        CONSOLE_PROTOCOL, MEMBERSHIP_PROTOCOL, SEGMENTS_PROTOCOL, SIGNED_SEGMENTS_PROTOCOL,
        TEMPLATES_PROTOCOL,
    },
};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::{
    StreamProtocol, Swarm, SwarmBuilder, gossipsub, identify, noise,
    request_response::{self, ProtocolSupport},
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use tokio::task::JoinHandle;

use super::within;

/// Whatever bytes, one way and back.
#[derive(Clone, Default)]
struct Bytes;

impl request_response::Codec for Bytes {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> std::io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut bytes = Vec::new();
        io.read_to_end(&mut bytes).await?;
        Ok(bytes)
    }

    async fn read_response<T>(
        &mut self,
        protocol: &StreamProtocol,
        io: &mut T,
    ) -> std::io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        self.read_request(protocol, io).await
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> std::io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&bytes).await
    }

    async fn write_response<T>(
        &mut self,
        protocol: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> std::io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        self.write_request(protocol, io, bytes).await
    }
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    gossip: gossipsub::Behaviour,
    bytes: request_response::Behaviour<Bytes>,
    membership: request_response::Behaviour<Bytes>,
}

/// The stranger.
pub(crate) struct Stranger {
    swarm: Swarm<Behaviour>,
}

/// What nodes of these tests' network say that they speak.
const FAMILY: &str = "/dunlin/test/1";

/// Topics in the network of these tests.
pub(crate) const SEGMENTS_TOPIC: &str = "/dunlin/test/segments/1";
pub(crate) const REVOCATIONS_TOPIC: &str = "/dunlin/test/revocations/1";

impl Stranger {
    /// Makes a stranger with a key, who says that it is of the tests' network.
    pub(crate) fn new(keypair: Keypair) -> Self {
        Self::speaking(keypair, FAMILY, &[SEGMENTS_PROTOCOL, TEMPLATES_PROTOCOL], &[])
    }

    /// Makes one who knows of signed answers and of no others.
    pub(crate) fn with_signed_answers(keypair: Keypair) -> Self {
        Self::speaking(keypair, FAMILY, &[SIGNED_SEGMENTS_PROTOCOL], &[])
    }

    /// Makes one who asks for what consoles are shown, and says to be of the tests' network.
    pub(crate) fn console(keypair: Keypair) -> Self {
        Self::speaking(keypair, FAMILY, &[CONSOLE_PROTOCOL], &[])
    }

    /// Makes a browser's page, which is of no network.
    pub(crate) fn page(keypair: Keypair) -> Self {
        Self::speaking(keypair, "ipfs/0.1.0", &[CONSOLE_PROTOCOL], &[])
    }

    /// Makes one who speaks of membership as well.
    pub(crate) fn member(keypair: Keypair) -> Self {
        let exchanges = [SEGMENTS_PROTOCOL, TEMPLATES_PROTOCOL];
        Self::speaking(keypair, FAMILY, &exchanges, &[MEMBERSHIP_PROTOCOL])
    }

    fn speaking(
        keypair: Keypair,
        family: &str,
        exchanges: &[&'static str],
        of_membership: &[&'static str],
    ) -> Self {
        let identify = identify::Config::new(family.to_owned(), keypair.public());
        let author = gossipsub::MessageAuthenticity::Signed(keypair.clone());
        let mut gossip = gossipsub::Behaviour::new(author, gossipsub::Config::default()).unwrap();
        for topic in [SEGMENTS_TOPIC, REVOCATIONS_TOPIC] {
            gossip.subscribe(&gossipsub::IdentTopic::new(topic)).unwrap();
        }
        let exchange = |names: &[&'static str]| {
            let protocols =
                names.iter().map(|name| (StreamProtocol::new(name), ProtocolSupport::Full));
            request_response::Behaviour::new(protocols, request_response::Config::default())
        };
        let behaviour = Behaviour {
            identify: identify::Behaviour::new(identify),
            gossip,
            bytes: exchange(exchanges),
            membership: exchange(of_membership),
        };
        let swarm = SwarmBuilder::with_existing_identity(keypair)
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(|_| behaviour)
            .unwrap()
            .build();
        Self { swarm }
    }

    /// Connects to a node.
    pub(crate) async fn meet(&mut self, address: &Multiaddr) {
        self.swarm.dial(address.clone()).unwrap();
        self.until(|event| matches!(event, SwarmEvent::ConnectionEstablished { .. }).then_some(()))
            .await;
    }

    /// Asks a node for segments with these bytes; returns whether it answered.
    pub(crate) async fn ask(&mut self, node: PeerId, bytes: Vec<u8>) -> bool {
        self.answer_to(node, bytes).await.is_some()
    }

    /// Asks a node with these bytes; returns what it answered.
    pub(crate) async fn answer_to(&mut self, node: PeerId, bytes: Vec<u8>) -> Option<Vec<u8>> {
        self.send(node, bytes);
        self.next_answer().await
    }

    /// Asks a node with these bytes, and waits for nothing.
    pub(crate) fn send(&mut self, node: PeerId, bytes: Vec<u8>) {
        self.swarm.behaviour_mut().bytes.send_request(&node, bytes);
    }

    /// Returns the next answer to what was sent; none when that failed.
    pub(crate) async fn next_answer(&mut self) -> Option<Vec<u8>> {
        self.until(|event| match event {
            SwarmEvent::Behaviour(BehaviourEvent::Bytes(event)) => match event {
                request_response::Event::Message { message, .. } => match message {
                    request_response::Message::Response { response, .. } => {
                        Some((!response.is_empty()).then_some(response))
                    }
                    request_response::Message::Request { .. } => None,
                },
                request_response::Event::OutboundFailure { .. } => Some(None),
                _ => None,
            },
            _ => None,
        })
        .await
    }

    /// Waits until a node has sent this peer away.
    pub(crate) async fn until_sent_away(&mut self) {
        self.until(|event| matches!(event, SwarmEvent::ConnectionClosed { .. }).then_some(()))
            .await;
    }

    /// Waits until a node has said what it is, which it was told of this peer by then.
    pub(crate) async fn until_identified(&mut self) {
        let is_told = |event: &_| {
            matches!(
                event,
                SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Sent { .. }))
            )
        };
        self.until(|event| is_told(&event).then_some(())).await;
    }

    /// Publishes bytes as an announcement of segments, as soon as somebody listens.
    pub(crate) async fn publish(&mut self, bytes: Vec<u8>) {
        self.publish_on(SEGMENTS_TOPIC, bytes).await;
    }

    /// Publishes bytes on a topic, as soon as somebody listens.
    pub(crate) async fn publish_on(&mut self, topic: &str, bytes: Vec<u8>) {
        let topic = gossipsub::IdentTopic::new(topic);
        while self.swarm.behaviour_mut().gossip.publish(topic.clone(), bytes.clone()).is_err() {
            self.until(|event| {
                let subscribed = matches!(
                    event,
                    SwarmEvent::Behaviour(BehaviourEvent::Gossip(
                        gossipsub::Event::Subscribed { .. }
                    ))
                );
                subscribed.then_some(())
            })
            .await;
        }
    }

    /// Goes on by itself, and answers every request with these bytes.
    pub(crate) fn answer(self, bytes: Vec<u8>) -> JoinHandle<()> {
        self.answer_each(move |_| bytes.clone())
    }

    /// Goes on by itself, and answers every request with what this makes of it.
    pub(crate) fn answer_each(
        mut self,
        mut answer: impl FnMut(&[u8]) -> Vec<u8> + Send + 'static,
    ) -> JoinHandle<()> {
        use request_response::{Event, Message};
        tokio::spawn(async move {
            loop {
                let SwarmEvent::Behaviour(event) = self.swarm.select_next_some().await else {
                    continue;
                };
                let (BehaviourEvent::Bytes(asked) | BehaviourEvent::Membership(asked)) = event
                else {
                    continue;
                };
                if let Event::Message {
                    message: Message::Request { request, channel, .. }, ..
                } = asked
                {
                    // Which of both sends it does not matter: the channel knows its stream.
                    let bytes = answer(&request);
                    self.swarm.behaviour_mut().bytes.send_response(channel, bytes).ok();
                }
            }
        })
    }

    async fn until<T>(
        &mut self,
        mut wanted: impl FnMut(SwarmEvent<BehaviourEvent>) -> Option<T>,
    ) -> T {
        within(async {
            loop {
                if let Some(found) = wanted(self.swarm.select_next_some().await) {
                    break found;
                }
            }
        })
        .await
    }
}
