//! libp2p by hand: TCP, multistream-select, Noise and Yamux, without a swarm that would keep the rules.

use std::{
    future::poll_fn,
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::{core::upgrade::OutboundConnectionUpgrade as _, identity::Keypair, noise};
use socket2::{Domain, Socket, Type};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};

use crate::{
    Target,
    proto::{Proto, varint},
    tally::Tally,
};

/// How long one step of a handshake may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Streams that wait to be opened on one connection.
const OPENING_MAX: usize = 64;

/// A connection as far as TCP goes.
pub(crate) type Socketed = Compat<TcpStream>;

/// A connection whose bytes are encrypted.
pub(crate) type Secured = noise::Output<Socketed>;

/// What an attacker says when the victim asks who it is.
#[derive(Clone, Debug)]
pub(crate) struct Introduction {
    message: Arc<Vec<u8>>,
    is_told: Arc<AtomicBool>,
}

impl Introduction {
    /// Says these bytes.
    pub(crate) fn new(message: Vec<u8>) -> Self {
        Self { message: Arc::new(message), is_told: Arc::default() }
    }

    /// Returns whether the victim has asked, and was told.
    pub(crate) fn is_told(&self) -> bool {
        self.is_told.load(Ordering::Relaxed)
    }

    /// Says what an honest peer of the network would.
    pub(crate) fn honest(target: &Target, keypair: &Keypair, protocols: &[&str]) -> Self {
        let message = Self::begin(target, keypair);
        let message = protocols
            .iter()
            .fold(message, |message, protocol| message.bytes(3, protocol.as_bytes()));
        Self::new(message.framed())
    }

    /// Returns the part that lets a peer into the network.
    pub(crate) fn begin(target: &Target, keypair: &Keypair) -> Proto {
        Proto::default()
            .bytes(1, &keypair.public().encode_protobuf())
            .bytes(5, format!("/dunlin/{}/1", target.network).as_bytes())
            .bytes(6, b"dunlin/0.1.0")
    }
}

/// Connects from one of the attacker's addresses.
pub(crate) async fn dial(target: &Target, source: Ipv4Addr) -> io::Result<Socketed> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Ports of many connections run out, when those of closed ones wait.
    socket.set_linger(Some(Duration::ZERO))?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    let socket = TcpSocket::from_std_stream(socket.into());
    let stream = timeout(PATIENCE, socket.connect(target.address.into())).await??;
    stream.set_nodelay(true)?;
    Ok(stream.compat())
}

/// Encrypts a connection.
pub(crate) async fn secure(socket: Socketed, keypair: &Keypair) -> io::Result<Secured> {
    let handshake = async {
        let mut socket = socket;
        select(&mut socket, "/noise").await?;
        let config = noise::Config::new(keypair).map_err(io::Error::other)?;
        let secured = config.upgrade_outbound(socket, "/noise").await;
        let (_, mut secured) = secured.map_err(io::Error::other)?;
        select(&mut secured, "/yamux/1.0.0").await?;
        Ok(secured)
    };
    timeout(PATIENCE, handshake).await?
}

/// A connection on which streams may be opened.
#[derive(Debug)]
pub(crate) struct Session {
    requests: mpsc::Sender<oneshot::Sender<yamux::Stream>>,
    driver: tokio::task::JoinHandle<()>,
}

impl Session {
    /// Connects with a key, all the way.
    pub(crate) async fn open(
        target: &Target,
        number: usize,
        keypair: &Keypair,
        introduction: Introduction,
        tally: &Arc<Tally>,
    ) -> io::Result<Self> {
        tally.tried();
        let opened = async {
            let socket = dial(target, target.source(number)).await?;
            secure(socket, keypair).await
        };
        let secured = opened.await.inspect_err(|_| tally.refused())?;
        tally.connected();
        let mut config = yamux::Config::default();
        config.set_max_num_streams(4_096).set_max_connection_receive_window(None);
        let connection = yamux::Connection::new(secured, config, yamux::Mode::Client);
        let (requests, inbox) = mpsc::channel(OPENING_MAX);
        let driver = tokio::spawn(drive(connection, inbox, introduction, Arc::clone(tally)));
        Ok(Self { requests, driver })
    }

    /// Opens a stream and asks for a protocol.
    pub(crate) async fn stream(&self, protocol: &str) -> io::Result<yamux::Stream> {
        let mut stream = self.bare().await?;
        timeout(PATIENCE, select(&mut stream, protocol)).await??;
        Ok(stream)
    }

    /// Opens a stream on which nothing is said.
    pub(crate) async fn bare(&self) -> io::Result<yamux::Stream> {
        let (reply, answer) = oneshot::channel();
        let gone = || io::Error::from(io::ErrorKind::ConnectionReset);
        self.requests.send(reply).await.map_err(|_| gone())?;
        timeout(PATIENCE, answer).await?.map_err(|_| gone())
    }

    /// Returns whether the victim closed the connection.
    pub(crate) fn is_over(&self) -> bool {
        self.driver.is_finished()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Moves bytes, opens streams that are asked for, and answers those that the victim opens.
async fn drive(
    mut connection: yamux::Connection<Secured>,
    mut inbox: mpsc::Receiver<oneshot::Sender<yamux::Stream>>,
    introduction: Introduction,
    tally: Arc<Tally>,
) {
    let mut asked = None;
    loop {
        let event = poll_fn(|cx| next(&mut connection, &mut inbox, &mut asked, cx)).await;
        match event {
            Some(stream) => {
                let introduction = introduction.clone();
                tokio::spawn(async move { answer(stream, &introduction).await.ok() });
            }
            None => break,
        }
    }
    tally.ended();
}

/// Returns the next stream that the victim opened, or nothing when the connection is over.
fn next(
    connection: &mut yamux::Connection<Secured>,
    inbox: &mut mpsc::Receiver<oneshot::Sender<yamux::Stream>>,
    asked: &mut Option<oneshot::Sender<yamux::Stream>>,
    cx: &mut Context<'_>,
) -> Poll<Option<yamux::Stream>> {
    loop {
        if asked.is_none()
            && let Poll::Ready(Some(next)) = inbox.poll_recv(cx)
        {
            *asked = Some(next);
        }
        if asked.is_some() {
            match connection.poll_new_outbound(cx) {
                Poll::Ready(Ok(stream)) => {
                    // Whoever asked may have given up.
                    asked.take().and_then(|reply| reply.send(stream).err());
                    continue;
                }
                Poll::Ready(Err(_)) => return Poll::Ready(None),
                Poll::Pending => {}
            }
        }
        return match connection.poll_next_inbound(cx) {
            Poll::Ready(Some(Ok(stream))) => Poll::Ready(Some(stream)),
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        };
    }
}

/// Answers a stream of the victim: who the attacker is, and the same bytes to a ping.
async fn answer(mut stream: yamux::Stream, introduction: &Introduction) -> io::Result<()> {
    let begin = read_line(&mut stream).await?;
    write_line(&mut stream, &begin).await?;
    loop {
        let protocol = read_line(&mut stream).await?;
        match protocol.as_str() {
            "/ipfs/id/1.0.0" => {
                write_line(&mut stream, &protocol).await?;
                stream.write_all(&introduction.message).await?;
                stream.close().await?;
                introduction.is_told.store(true, Ordering::Relaxed);
                return Ok(());
            }
            "/ipfs/ping/1.0.0" => {
                write_line(&mut stream, &protocol).await?;
                let mut bytes = [0; 32];
                loop {
                    stream.read_exact(&mut bytes).await?;
                    stream.write_all(&bytes).await?;
                    stream.flush().await?;
                }
            }
            _ => write_line(&mut stream, "na").await?,
        }
    }
}

/// Asks for a protocol, and waits until the other side agrees.
pub(crate) async fn select<S>(stream: &mut S, protocol: &str) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    write_line(stream, "/multistream/1.0.0").await?;
    write_line(stream, protocol).await?;
    read_line(stream).await?;
    let said = read_line(stream).await?;
    if said == protocol { Ok(()) } else { Err(io::Error::other(format!("{protocol}: {said}"))) }
}

async fn write_line<S: AsyncWrite + Unpin>(stream: &mut S, line: &str) -> io::Result<()> {
    let mut bytes = Vec::new();
    varint(line.len() as u64 + 1, &mut bytes);
    bytes.extend_from_slice(line.as_bytes());
    bytes.push(b'\n');
    stream.write_all(&bytes).await?;
    stream.flush().await
}

async fn read_line<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<String> {
    let mut length = 0_usize;
    let mut byte = [0_u8];
    for shift in [0, 7] {
        stream.read_exact(&mut byte).await?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut line = vec![0; length];
    stream.read_exact(&mut line).await?;
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

/// Reads whatever comes until the other side ends it.
pub(crate) async fn until_ended<S: AsyncRead + Unpin>(mut stream: S) {
    let mut bytes = [0; 1024];
    let read = poll_fn(|cx: &mut Context<'_>| {
        loop {
            match Pin::new(&mut stream).poll_read(cx, &mut bytes) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    });
    read.await;
}
