//! QUIC: a transport that asks who comes before it does anything for them.
//!
//! The one that libp2p brings accepts whoever sends a first packet, which costs the sender nothing, under an address that
//! may be forged; and it cannot be told how many may wait. Here `admission` judges each first packet, and the queue in
//! front of it is short. The rest, addresses, TLS and streams, is as the
//! [specification](https://github.com/libp2p/specs/blob/master/quic/README.md) has it: TLS 1.3 with the peer's key in its
//! certificate, and a stream of QUIC for each stream of libp2p.

mod admission;
mod connection;
mod listener;
mod punching;
mod settings;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::SelectAll};
use libp2p::{
    Multiaddr, PeerId, TransportError,
    core::{
        Endpoint,
        transport::{DialOpts, ListenerId, PortUse, TransportEvent},
    },
    identity::Keypair,
    multiaddr::Protocol,
};
use quinn::rustls::pki_types::CertificateDer;
use tokio::{sync::oneshot, time::timeout};

pub(crate) use self::admission::TurnedAway;
use self::{
    admission::{Admission, Verdict},
    connection::Connection,
    listener::{Found, Listener},
    settings::Settings,
};

/// A handshake that takes longer is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// First packets that are judged before anything else of the node has its turn.
const ROUND: usize = 64;

type Connected = (PeerId, Connection);
type Upgrade = BoxFuture<'static, Result<Connected, Error>>;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Dial(#[from] quinn::ConnectError),
    #[error(transparent)]
    Connection(#[from] quinn::ConnectionError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the handshake took too long")]
    Slow,
    #[error("the peer did not show who it is")]
    Nameless,
    #[error("this node listens on no address that {0} could come to")]
    NotListening(SocketAddr),
    #[error("a connection from {0} is waited for already")]
    Awaited(SocketAddr),
}

/// QUIC on any number of addresses.
pub(crate) struct Transport {
    settings: Settings,
    admission: Admission,
    listeners: SelectAll<Listener>,
    /// Where to dial IPv4 and IPv6 from as long as nothing listens there.
    dialers: HashMap<bool, quinn::Endpoint>,
    /// Who is expected to come through a hole that is being punched.
    awaited: HashMap<SocketAddr, oneshot::Sender<quinn::Connecting>>,
    waker: Option<Waker>,
}

impl Transport {
    /// Makes a transport that counts in `turned_away` what it does not let in. With `one_machine`, connections from loopback are
    /// not counted by address.
    ///
    /// # Errors
    ///
    /// Fails when no certificate can be made of the key.
    pub(crate) fn new(
        keypair: &Keypair,
        one_machine: bool,
        turned_away: Arc<TurnedAway>,
    ) -> Result<Self, settings::Error> {
        Ok(Self {
            settings: Settings::new(keypair)?,
            admission: Admission::new(one_machine, turned_away, Instant::now()),
            listeners: SelectAll::new(),
            dialers: HashMap::new(),
            awaited: HashMap::new(),
            waker: None,
        })
    }

    /// Returns where to dial `remote` from: the port that this node listens on, so that a NAT lets both directions through
    /// one hole, or any other.
    fn dialer(&mut self, remote: SocketAddr, port: PortUse) -> io::Result<quinn::Endpoint> {
        if port == PortUse::New {
            return self.unbound(remote);
        }
        if let Some(listener) = self.listeners.iter().find(|listener| listener.reaches(remote)) {
            return Ok(listener.endpoint().clone());
        }
        if let Some(dialer) = self.dialers.get(&remote.is_ipv4()) {
            return Ok(dialer.clone());
        }
        let dialer = self.unbound(remote)?;
        self.dialers.insert(remote.is_ipv4(), dialer.clone());
        Ok(dialer)
    }

    fn unbound(&self, remote: SocketAddr) -> io::Result<quinn::Endpoint> {
        let any: IpAddr = if remote.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        self.settings.endpoint(UdpSocket::bind((any, 0))?, None)
    }

    /// Waits for who was told to dial this node, and opens the NAT in front of it for them meanwhile.
    fn await_through_hole(&mut self, remote: SocketAddr) -> Result<Upgrade, Error> {
        let listener = self.listeners.iter().find(|listener| listener.reaches(remote));
        let socket = listener.ok_or(Error::NotListening(remote))?.socket()?;
        self.awaited.retain(|_, waiting| !waiting.is_closed());
        if self.awaited.contains_key(&remote) {
            return Err(Error::Awaited(remote));
        }
        let (sender, arrival) = oneshot::channel();
        self.awaited.insert(remote, sender);
        Ok(async move {
            let arrival = tokio::select! {
                arrival = arrival => arrival.map_err(|_| Error::NotListening(remote))?,
                failed = punching::punch(&socket, remote) => return Err(failed.into()),
                () = tokio::time::sleep(HANDSHAKE_TIMEOUT) => return Err(Error::Slow),
            };
            handshake(arrival).await
        }
        .boxed())
    }

    /// Does with who comes what is to be done with them; returns whom to go on with.
    fn receive(&mut self, arrival: quinn::Incoming) -> Result<Option<quinn::Connecting>, Error> {
        let remote = arrival.remote_address();
        if let Some(waiting) = self.awaited.remove(&remote)
            && !waiting.is_closed()
        {
            // Who waited may have given up in this moment.
            waiting.send(arrival.accept()?).ok();
            return Ok(None);
        }
        let is_proven = arrival.remote_address_validated();
        match self.admission.judge(remote.ip(), is_proven, Instant::now()) {
            Verdict::Accept => return Ok(Some(arrival.accept()?)),
            // Whoever may not be asked has proven where it is, and is not asked.
            Verdict::Ask => drop(arrival.retry()),
            Verdict::Refuse => arrival.refuse(),
            Verdict::Ignore => arrival.ignore(),
        }
        Ok(None)
    }
}

impl libp2p::Transport for Transport {
    type Output = Connected;
    type Error = Error;
    type ListenerUpgrade = Upgrade;
    type Dial = Upgrade;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<Error>> {
        let at = socket_address(&address)
            .ok_or_else(|| TransportError::MultiaddrNotSupported(address.clone()))?;
        let listener = Listener::new(id, at, &self.settings);
        self.listeners.push(listener.map_err(|cause| TransportError::Other(cause.into()))?);
        // From here on it is dialled from where this node listens; what goes on from elsewhere goes on.
        self.dialers.remove(&at.is_ipv4());
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        let found = self.listeners.iter_mut().find(|listener| listener.id() == id);
        found.map(Listener::close).is_some()
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        options: DialOpts,
    ) -> Result<Upgrade, TransportError<Error>> {
        let remote = socket_address(&address)
            .filter(|remote| remote.port() != 0 && !remote.ip().is_unspecified())
            .ok_or_else(|| TransportError::MultiaddrNotSupported(address.clone()))?;
        let fail = |cause: io::Error| TransportError::Other(cause.into());
        if (options.role, options.port_use) == (Endpoint::Listener, PortUse::New) {
            return self.await_through_hole(remote).map_err(TransportError::Other);
        }
        let dialer = self.dialer(remote, options.port_use).map_err(fail)?;
        let settings = self.settings.client();
        // TLS wants a name of the server, and libp2p has none: the certificate says whose it is.
        Ok(async move { handshake(dialer.connect_with(settings, remote, "l")?).await }.boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Upgrade, Error>> {
        for _ in 0..ROUND {
            match self.listeners.poll_next_unpin(cx) {
                Poll::Ready(Some(Found::Event(event))) => return Poll::Ready(event),
                Poll::Ready(Some(Found::Arrival { listener_id, local, arrival })) => {
                    let remote = arrival.remote_address();
                    match self.receive(arrival) {
                        Ok(None) => {}
                        Ok(Some(connecting)) => {
                            return Poll::Ready(TransportEvent::Incoming {
                                listener_id,
                                upgrade: handshake(connecting).boxed(),
                                local_addr: multiaddr(local),
                                send_back_addr: multiaddr(remote),
                            });
                        }
                        Err(error) => {
                            return Poll::Ready(TransportEvent::ListenerError {
                                listener_id,
                                error,
                            });
                        }
                    }
                }
                Poll::Ready(None) | Poll::Pending => {
                    self.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

async fn handshake(connecting: quinn::Connecting) -> Result<Connected, Error> {
    let connection = timeout(HANDSHAKE_TIMEOUT, connecting).await.map_err(|_| Error::Slow)??;
    let peer = peer_of(&connection).ok_or(Error::Nameless)?;
    Ok((peer, Connection::new(connection)))
}

/// Returns whose certificate the other side showed. TLS has checked it.
fn peer_of(connection: &quinn::Connection) -> Option<PeerId> {
    let shown = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    Some(libp2p_tls::certificate::parse(shown.first()?).ok()?.peer_id())
}

/// Reads `/ip…/…/udp/…/quic-v1`, with or without a peer at its end.
fn socket_address(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    let Protocol::Udp(port) = parts.next()? else { return None };
    let is_ours =
        parts.next()? == Protocol::QuicV1 && parts.all(|part| matches!(part, Protocol::P2p(_)));
    is_ours.then_some(SocketAddr::new(ip, port))
}

fn multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(Protocol::Udp(address.port())).with(Protocol::QuicV1)
}
