//! A peer of the node's network that asks for everything, and writes down every byte that reaches it, as its
//! side of the encrypted connection decrypted it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use dunlin_archive::bitswap::{Ask, Message, Version, Want};
use dunlin_protocols::messages::SEGMENTS_PROTOCOL;
use dunlin_wire::{
    Cid,
    block::{Codec, cid_of},
};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, SwarmBuilder, Transport,
    core::upgrade::{
        InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo, Version as Upgrade,
    },
    gossipsub, identify,
    identity::Keypair,
    kad, noise,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use libp2p_stream::Control;
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::common::{PATIENCE, eventually};

const BITSWAP: StreamProtocol = StreamProtocol::new("/ipfs/bitswap/1.2.0");

/// All that reached the peer.
#[derive(Clone, Default)]
struct Heard {
    bytes: Arc<Mutex<Vec<u8>>>,
    blocks: Arc<Mutex<BTreeMap<Cid, Vec<u8>>>>,
    /// CIDs of which something was said over bitswap.
    answered: Arc<Mutex<BTreeSet<Cid>>>,
    gossip: Arc<Mutex<usize>>,
}

/// A connection whose decrypted bytes are written down.
struct Tap<C> {
    inner: C,
    heard: Heard,
}

impl<C: AsyncRead + Unpin> AsyncRead for Tap<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if let Poll::Ready(Ok(count)) = read {
            self.heard.bytes.lock().unwrap().extend_from_slice(&buffer[..count]);
        }
        read
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Tap<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

/// Yamux over a connection that is written down.
#[derive(Clone)]
struct Tapped(yamux::Config, Heard);

impl UpgradeInfo for Tapped {
    type Info = <yamux::Config as UpgradeInfo>::Info;
    type InfoIter = <yamux::Config as UpgradeInfo>::InfoIter;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.protocol_info()
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> InboundConnectionUpgrade<C> for Tapped {
    type Output = <yamux::Config as InboundConnectionUpgrade<Tap<C>>>::Output;
    type Error = <yamux::Config as InboundConnectionUpgrade<Tap<C>>>::Error;
    type Future = <yamux::Config as InboundConnectionUpgrade<Tap<C>>>::Future;

    fn upgrade_inbound(self, inner: C, info: Self::Info) -> Self::Future {
        self.0.upgrade_inbound(Tap { inner, heard: self.1 }, info)
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> OutboundConnectionUpgrade<C> for Tapped {
    type Output = <yamux::Config as OutboundConnectionUpgrade<Tap<C>>>::Output;
    type Error = <yamux::Config as OutboundConnectionUpgrade<Tap<C>>>::Error;
    type Future = <yamux::Config as OutboundConnectionUpgrade<Tap<C>>>::Future;

    fn upgrade_outbound(self, inner: C, info: Self::Info) -> Self::Future {
        self.0.upgrade_outbound(Tap { inner, heard: self.1 }, info)
    }
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    gossip: gossipsub::Behaviour,
    kad: kad::Behaviour<kad::store::MemoryStore>,
    streams: libp2p_stream::Behaviour,
}

enum Order {
    Dial(Multiaddr, oneshot::Sender<PeerId>),
    Providers(kad::RecordKey, oneshot::Sender<()>),
}

/// The peer.
pub(crate) struct Listener {
    runtime: Runtime,
    heard: Heard,
    orders: mpsc::Sender<Order>,
    control: Control,
    node: Option<PeerId>,
}

impl Listener {
    /// Starts a peer of a network.
    pub(crate) fn start(network: &str, key: Keypair) -> Self {
        let runtime = Runtime::new().unwrap();
        let heard = Heard::default();
        let (orders, receiver) = mpsc::channel(8);
        let swarm = {
            let _inside = runtime.enter();
            swarm(network, key, &heard)
        };
        let mut control = swarm.behaviour().streams.new_control();
        let mut incoming = control.accept(BITSWAP).unwrap();
        let tell = heard.clone();
        runtime.spawn(async move {
            while let Some((_, stream)) = incoming.next().await {
                tokio::spawn(read_bitswap(stream, tell.clone()));
            }
        });
        runtime.spawn(drive(swarm, receiver, heard.clone()));
        Self { runtime, heard, orders, control, node: None }
    }

    /// Connects to the node.
    pub(crate) fn meet(&mut self, address: &str) {
        let (tell, met) = oneshot::channel();
        let address = address.parse().unwrap();
        self.node = Some(self.wait(async {
            self.orders.send(Order::Dial(address, tell)).await.unwrap();
            met.await.unwrap()
        }));
    }

    /// Puts a question about segments, and waits for the end of the answer.
    pub(crate) fn ask_segments(&mut self, request: Vec<u8>) {
        let (node, mut control) = (self.node.unwrap(), self.control.clone());
        self.wait(async move {
            let protocol = StreamProtocol::new(SEGMENTS_PROTOCOL);
            let mut stream = control.open_stream(node, protocol).await.unwrap();
            stream.write_all(&request).await.unwrap();
            stream.close().await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            assert!(!answer.is_empty(), "an answer, if only a refusal");
        });
    }

    /// Asks for blocks over bitswap, and for what those link to, until something is said of each.
    pub(crate) fn want(&mut self, cids: &[Cid]) {
        let mut asked = BTreeSet::new();
        let mut wanted: Vec<Cid> = cids.to_vec();
        while !wanted.is_empty() {
            for ask in [Ask::Have, Ask::Block] {
                let want = |cid: &Cid| Want { cid: *cid, ask, priority: 1, send_dont_have: true };
                let message =
                    Message { wants: wanted.iter().map(want).collect(), ..Message::default() };
                self.heard.answered.lock().unwrap().clear();
                self.send_bitswap(&message);
                eventually("every want is answered", || {
                    let answered = self.heard.answered.lock().unwrap();
                    wanted.iter().all(|cid| answered.contains(cid)).then_some(())
                });
            }
            asked.extend(wanted);
            let blocks = self.blocks();
            let links = blocks
                .iter()
                .filter_map(|(cid, bytes)| dunlin_archive::dag::links(cid, bytes).ok());
            let linked: BTreeSet<Cid> = links.flatten().collect();
            wanted = linked.difference(&asked).copied().collect();
        }
    }

    fn send_bitswap(&self, message: &Message) {
        let (node, mut control) = (self.node.unwrap(), self.control.clone());
        let body = message.encode(Version::V1_2);
        self.wait(async move {
            let mut stream = control.open_stream(node, BITSWAP).await.unwrap();
            let (mut frame, mut length) = (Vec::new(), body.len());
            while length >= 0x80 {
                frame.push(length as u8 | 0x80);
                length >>= 7;
            }
            frame.push(length as u8);
            frame.extend(body);
            stream.write_all(&frame).await.unwrap();
            stream.close().await.unwrap();
        });
    }

    /// Asks the DHT who has a block.
    pub(crate) fn ask_providers(&mut self, cid: &Cid) {
        let (tell, told) = oneshot::channel();
        let key = kad::RecordKey::new(&cid.hash().to_bytes());
        self.wait(async {
            self.orders.send(Order::Providers(key, tell)).await.unwrap();
            told.await.unwrap();
        });
    }

    /// Waits until the node has told the network something.
    pub(crate) fn wait_for_gossip(&self) {
        eventually("an announcement", || (*self.heard.gossip.lock().unwrap() > 0).then_some(()));
    }

    /// Returns every byte that reached this peer.
    pub(crate) fn heard(&self) -> Vec<u8> {
        self.heard.bytes.lock().unwrap().clone()
    }

    /// Returns the blocks that it got over bitswap: its block store.
    pub(crate) fn blocks(&self) -> BTreeMap<Cid, Vec<u8>> {
        self.heard.blocks.lock().unwrap().clone()
    }

    #[track_caller]
    fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { timeout(PATIENCE, work).await }).expect("it goes on")
    }
}

fn swarm(network: &str, key: Keypair, heard: &Heard) -> libp2p::Swarm<Behaviour> {
    let author = gossipsub::MessageAuthenticity::Signed(key.clone());
    let mut gossip = gossipsub::Behaviour::new(author, gossipsub::Config::default()).unwrap();
    for kind in ["segments", "templates"] {
        let topic = gossipsub::IdentTopic::new(format!("/dunlin/{network}/{kind}/1"));
        gossip.subscribe(&topic).unwrap();
    }
    let me = key.public().to_peer_id();
    let dht = StreamProtocol::try_from_owned(format!("/dunlin/{network}/kad/1.0.0")).unwrap();
    let mut kad =
        kad::Behaviour::with_config(me, kad::store::MemoryStore::new(me), kad::Config::new(dht));
    kad.set_mode(Some(kad::Mode::Server));
    let identify = identify::Config::new(format!("/dunlin/{network}/1"), key.public());
    let behaviour = Behaviour {
        identify: identify::Behaviour::new(identify),
        gossip,
        kad,
        streams: libp2p_stream::Behaviour::new(),
    };
    let tapped = Tapped(yamux::Config::default(), heard.clone());
    SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_other_transport(|key| {
            tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
                .upgrade(Upgrade::V1Lazy)
                .authenticate(noise::Config::new(key).unwrap())
                .multiplex(tapped)
        })
        .unwrap()
        .with_behaviour(|_| behaviour)
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(600)))
        .build()
}

async fn drive(
    mut swarm: libp2p::Swarm<Behaviour>,
    mut orders: mpsc::Receiver<Order>,
    heard: Heard,
) {
    let mut dialling = None;
    let mut searching = HashMap::new();
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Dial(address, tell)) => {
                    swarm.dial(address).unwrap();
                    dialling = Some(tell);
                }
                Some(Order::Providers(key, tell)) => {
                    searching.insert(swarm.behaviour_mut().kad.get_providers(key), tell);
                }
                None => return,
            },
            event = swarm.select_next_some() => match event {
                SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                    peer_id, info, ..
                })) => {
                    for address in info.listen_addrs {
                        swarm.behaviour_mut().kad.add_address(&peer_id, address);
                    }
                    if let Some(tell) = dialling.take() {
                        tell.send(peer_id).ok();
                    }
                }
                SwarmEvent::Behaviour(BehaviourEvent::Gossip(gossipsub::Event::Message { .. })) => {
                    *heard.gossip.lock().unwrap() += 1;
                }
                SwarmEvent::Behaviour(BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
                    id, step, ..
                })) if step.last => {
                    if let Some(tell) = searching.remove(&id) {
                        tell.send(()).ok();
                    }
                }
                _ => {}
            },
        }
    }
}

async fn read_bitswap(mut stream: Stream, heard: Heard) {
    while let Some(bytes) = read_frame(&mut stream).await {
        let message = Message::decode(&bytes).unwrap();
        let mut answered = heard.answered.lock().unwrap();
        answered.extend(message.presences.iter().map(|presence| presence.cid));
        for claim in message.blocks {
            // A block has no CID here; which codec it is of, its links tell.
            for codec in [Codec::DagCbor, Codec::Raw] {
                let cid = cid_of(codec, &claim.bytes);
                answered.insert(cid);
                heard.blocks.lock().unwrap().insert(cid, claim.bytes.clone());
            }
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
