//! A socket that strangers come to, and the addresses that it has.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    task::{Context, Poll, Waker},
};

use futures::{FutureExt as _, Stream, future::BoxFuture};
use if_watch::{IfEvent, tokio::IfWatcher};
use libp2p::core::transport::{ListenerId, TransportEvent};
use socket2::{Domain, Socket, Type};

use super::{Error, Upgrade, multiaddr, settings::Settings};

/// What comes of a listener.
#[expect(clippy::large_enum_variant, reason = "each is taken apart at once")]
pub(super) enum Found {
    Event(TransportEvent<Upgrade, Error>),
    /// Somebody's first packet.
    Arrival {
        listener_id: ListenerId,
        local: SocketAddr,
        arrival: quinn::Incoming,
    },
}

pub(super) struct Listener {
    id: ListenerId,
    /// Where it is bound, which may be every address of this machine.
    bound: SocketAddr,
    socket: std::net::UdpSocket,
    endpoint: quinn::Endpoint,
    arriving: BoxFuture<'static, Option<quinn::Incoming>>,
    /// This machine's addresses, as they come and go, where it is bound to all of them.
    addresses: Option<IfWatcher>,
    /// To be told next.
    news: Option<TransportEvent<Upgrade, Error>>,
    is_closed: bool,
    waker: Option<Waker>,
}

impl Listener {
    pub(super) fn new(id: ListenerId, at: SocketAddr, settings: &Settings) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(at), Type::DGRAM, None)?;
        if at.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&at.into())?;
        let socket = std::net::UdpSocket::from(socket);
        let bound = socket.local_addr()?;
        let (addresses, news) = if bound.ip().is_unspecified() {
            (Some(IfWatcher::new()?), None)
        } else {
            let listen_addr = multiaddr(bound);
            (None, Some(TransportEvent::NewAddress { listener_id: id, listen_addr }))
        };
        let endpoint = settings.endpoint(socket.try_clone()?, Some(settings.server()))?;
        let arriving = next(&endpoint);
        Ok(Self {
            id,
            bound,
            socket,
            endpoint,
            arriving,
            addresses,
            news,
            is_closed: false,
            waker: None,
        })
    }

    pub(super) fn id(&self) -> ListenerId {
        self.id
    }

    pub(super) fn endpoint(&self) -> &quinn::Endpoint {
        &self.endpoint
    }

    /// Returns its socket once more, to send what is not QUIC.
    pub(super) fn socket(&self) -> io::Result<tokio::net::UdpSocket> {
        tokio::net::UdpSocket::from_std(self.socket.try_clone()?)
    }

    /// Whether what is sent from here may arrive there.
    pub(super) fn reaches(&self, remote: SocketAddr) -> bool {
        let (here, there) = (self.bound.ip(), remote.ip());
        !self.is_closed
            && here.is_ipv4() == there.is_ipv4()
            && (here.is_unspecified() || here.is_loopback() == there.is_loopback())
    }

    /// Ends it, and all connections that it has.
    pub(super) fn close(&mut self) {
        if self.is_closed {
            return;
        }
        self.endpoint.close(0_u32.into(), &[]);
        self.is_closed = true;
        self.news = Some(TransportEvent::ListenerClosed { listener_id: self.id, reason: Ok(()) });
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Returns the next change of this machine's addresses, of those that can be bound to here.
    fn poll_addresses(&mut self, cx: &mut Context<'_>) -> Poll<TransportEvent<Upgrade, Error>> {
        let Some(addresses) = &mut self.addresses else { return Poll::Pending };
        let (id, bound) = (self.id, self.bound);
        let here = |ip: IpAddr| {
            (ip.is_ipv4() == bound.is_ipv4()).then(|| multiaddr(SocketAddr::new(ip, bound.port())))
        };
        while let Poll::Ready(change) = addresses.poll_if_event(cx) {
            let event = match change {
                Ok(IfEvent::Up(net)) => here(net.addr())
                    .map(|listen_addr| TransportEvent::NewAddress { listener_id: id, listen_addr }),
                Ok(IfEvent::Down(net)) => here(net.addr()).map(|listen_addr| {
                    TransportEvent::AddressExpired { listener_id: id, listen_addr }
                }),
                Err(cause) => {
                    Some(TransportEvent::ListenerError { listener_id: id, error: cause.into() })
                }
            };
            if let Some(event) = event {
                return Poll::Ready(event);
            }
        }
        Poll::Pending
    }
}

fn next(endpoint: &quinn::Endpoint) -> BoxFuture<'static, Option<quinn::Incoming>> {
    let endpoint = endpoint.clone();
    async move { endpoint.accept().await }.boxed()
}

impl Stream for Listener {
    type Item = Found;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Found>> {
        loop {
            if let Some(event) = self.news.take() {
                return Poll::Ready(Some(Found::Event(event)));
            }
            if self.is_closed {
                return Poll::Ready(None);
            }
            if let Poll::Ready(event) = self.poll_addresses(cx) {
                return Poll::Ready(Some(Found::Event(event)));
            }
            match self.arriving.poll_unpin(cx) {
                Poll::Ready(Some(arrival)) => {
                    self.arriving = next(&self.endpoint);
                    let (listener_id, local) = (self.id, self.bound);
                    return Poll::Ready(Some(Found::Arrival { listener_id, local, arrival }));
                }
                Poll::Ready(None) => self.close(),
                Poll::Pending => {
                    self.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
    }
}
