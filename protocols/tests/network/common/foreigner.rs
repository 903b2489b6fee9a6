//! A node of IPFS, as far as a test needs one: it reads and writes bitswap streams byte by byte, and is of
//! no Dunlin network.

use std::time::Duration;

use dunlin_archive::bitswap::{Message, Version};
use dunlin_protocols::{Keypair, Multiaddr, PeerId};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{
    Stream, StreamProtocol, Swarm, SwarmBuilder, identify, noise,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use libp2p_stream::Control;
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};

use super::within;

/// The newest version of the protocol.
pub(crate) const NEWEST: StreamProtocol = StreamProtocol::new("/ipfs/bitswap/1.2.0");

/// What it does with the streams that are opened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Reads message after message, as Kubo and Helia do.
    Loops,
    /// Reads one message, and closes the stream.
    OneMessage,
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    streams: libp2p_stream::Behaviour,
}

/// The foreigner.
pub(crate) struct Foreigner {
    node: Option<PeerId>,
    protocol: StreamProtocol,
    control: Control,
    messages: mpsc::Receiver<Message>,
    dial: mpsc::Sender<Multiaddr>,
    connected: mpsc::Receiver<PeerId>,
    tasks: Vec<JoinHandle<()>>,
}

impl Foreigner {
    /// Starts one that speaks a version.
    pub(crate) fn start(keypair: Keypair, protocol: StreamProtocol, reader: Reader) -> Self {
        let identify = identify::Config::new("ipfs/0.1.0".to_owned(), keypair.public());
        let behaviour = Behaviour {
            identify: identify::Behaviour::new(identify),
            streams: libp2p_stream::Behaviour::new(),
        };
        let mut swarm = SwarmBuilder::with_existing_identity(keypair)
            .with_tokio()
            .with_tcp(
                tcp::Config::default().nodelay(true),
                noise::Config::new,
                yamux::Config::default,
            )
            .unwrap()
            .with_behaviour(|_| behaviour)
            .unwrap()
            .with_swarm_config(|config| {
                config.with_idle_connection_timeout(Duration::from_secs(60))
            })
            .build();
        let mut control = swarm.behaviour().streams.new_control();
        let mut incoming = control.accept(protocol.clone()).unwrap();
        let (dial, mut dials) = mpsc::channel(8);
        let (tell_connected, connected) = mpsc::channel(64);
        let (tell, messages) = mpsc::channel(4_096);
        let driver =
            tokio::spawn(async move { drive(&mut swarm, &mut dials, tell_connected).await });
        let acceptor = tokio::spawn(async move {
            let mut readers = JoinSet::new();
            while let Some((_, stream)) = incoming.next().await {
                readers.spawn(read_messages(stream, reader, tell.clone()));
            }
        });
        let tasks = vec![driver, acceptor];
        Self { node: None, protocol, control, messages, dial, connected, tasks }
    }

    /// Connects to a node.
    pub(crate) async fn meet(&mut self, node: PeerId, address: &Multiaddr) {
        self.dial.send(address.clone()).await.unwrap();
        self.until_connected(node).await;
    }

    /// Waits until a node is connected.
    pub(crate) async fn until_connected(&mut self, node: PeerId) {
        within(async { while self.connected.recv().await != Some(node) {} }).await;
        self.node = Some(node);
    }

    /// Opens a stream to the node.
    pub(crate) async fn open(&mut self) -> Stream {
        self.open_for(self.protocol.clone()).await
    }

    /// Opens a stream of any protocol to the node.
    pub(crate) async fn open_for(&mut self, protocol: StreamProtocol) -> Stream {
        let node = self.node.expect("it met one");
        within(self.control.open_stream(node, protocol)).await.unwrap()
    }

    /// Sends messages on one stream, and closes it.
    pub(crate) async fn send(&mut self, messages: &[Message]) {
        let bytes: Vec<u8> = messages.iter().flat_map(frame).collect();
        self.send_bytes(&bytes).await;
    }

    /// Writes bytes to a stream, and closes it. The node may have had enough before.
    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        let mut stream = self.open().await;
        within(async {
            stream.write_all(bytes).await.ok();
            stream.close().await.ok();
        })
        .await;
    }

    /// Returns the next message that came.
    pub(crate) async fn next(&mut self) -> Message {
        within(self.messages.recv()).await.expect("it is running")
    }

    /// Goes on by itself: answers messages with a function.
    pub(crate) fn answer(
        mut self,
        mut answer: impl FnMut(Message) -> Option<Message> + Send + 'static,
    ) -> JoinHandle<()> {
        tokio::spawn(async move {
            while let Some(message) = self.messages.recv().await {
                if let Some(message) = answer(message) {
                    while let Ok(peer) = self.connected.try_recv() {
                        self.node = Some(peer);
                    }
                    self.send(&[message]).await;
                }
            }
        })
    }
}

impl Drop for Foreigner {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn drive(
    swarm: &mut Swarm<Behaviour>,
    dials: &mut mpsc::Receiver<Multiaddr>,
    connected: mpsc::Sender<PeerId>,
) {
    loop {
        tokio::select! {
            Some(address) = dials.recv() => swarm.dial(address).unwrap(),
            event = swarm.select_next_some() => {
                if let SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                    peer_id, ..
                })) = event
                {
                    // Nobody may be interested.
                    connected.try_send(peer_id).ok();
                }
            }
        }
    }
}

async fn read_messages(mut stream: Stream, reader: Reader, tell: mpsc::Sender<Message>) {
    while let Some(bytes) = read_frame(&mut stream).await {
        tell.send(Message::decode(&bytes).unwrap()).await.unwrap();
        if reader == Reader::OneMessage {
            break;
        }
    }
}

async fn read_frame(stream: &mut Stream) -> Option<Vec<u8>> {
    let (mut length, mut shift) = (0, 0);
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.ok()?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.ok()?;
    Some(bytes)
}

/// Returns a message as it goes over a stream.
pub(crate) fn frame(message: &Message) -> Vec<u8> {
    frame_bytes(&message.encode(Version::V1_2))
}

/// Puts the length before bytes.
pub(crate) fn frame_bytes(body: &[u8]) -> Vec<u8> {
    let (mut bytes, mut length) = (Vec::new(), body.len());
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend_from_slice(body);
    bytes
}
