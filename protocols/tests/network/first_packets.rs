//! First packets of QUIC connections, faster than anybody answers them.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use dunlin_protocols::{Keypair, Multiaddr, Protocol, Transport};
use quinn_proto::{ClientConfig, Endpoint, EndpointConfig, crypto::rustls::QuicClientConfig};

use super::common::{Mute, Node, local};

/// Sends first packets, up to 2,000 a second, until it is dropped.
struct Flood {
    is_over: Arc<AtomicBool>,
    sender: Option<JoinHandle<()>>,
}

impl Flood {
    fn on(target: SocketAddr) -> Self {
        let packets: Vec<_> = (0..16).map(|_| first_packet(target)).collect();
        let is_over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&is_over);
        let send = move || {
            let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
            // What was not accepted leaves nothing behind: the same packet is a new one each time.
            for pair in packets.chunks(2).cycle().take_while(|_| !ended.load(Relaxed)) {
                for packet in pair {
                    // A full queue is what a flood is for.
                    socket.send_to(packet, target).ok();
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        Self { is_over, sender: Some(std::thread::spawn(send)) }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
        let ended = self.sender.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

fn first_packet(target: SocketAddr) -> Vec<u8> {
    let tls = libp2p_tls::make_client_config(&Keypair::generate_ed25519(), None).unwrap();
    let settings = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, false, None);
    let now = Instant::now();
    let (_, mut connection) = endpoint.connect(now, settings, target, "l").unwrap();
    let mut packet = Vec::new();
    let sent = connection.poll_transmit(now, 1, &mut packet).unwrap();
    packet.truncate(sent.size);
    packet
}

fn socket_address(address: &Multiaddr) -> SocketAddr {
    let mut parts = address.iter();
    let (Some(Protocol::Ip4(ip)), Some(Protocol::Udp(port))) = (parts.next(), parts.next()) else {
        panic!("{address}");
    };
    (ip, port).into()
}

#[tokio::test]
async fn who_comes_by_quic_during_a_flood_of_first_packets_is_let_in() {
    let mut config = local();
    config.listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap()];
    let mut bob = Node::start(1, config, &[], Mute).await;
    let mut alice = Node::start(2, local(), &[], Mute).await;
    let flood = Flood::on(socket_address(&bob.address));

    bob.settles(async |bob| (bob.counters().await.quic_asked > 500).then_some(())).await;
    alice.meet(&mut bob).await;

    let view = bob.handle.explain(alice.peer()).await.unwrap();
    assert_eq!(view.link.unwrap().transport, Transport::Quic);
    drop(flood);
    // Half of a handshake is no connection, and of these nobody finished one.
    assert_eq!(bob.handle.connected().await.len(), 1);
}
