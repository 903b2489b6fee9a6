//! Connections of strangers, within limits: so many at once, none that stands still, none for ever.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep_until},
};

/// Connections at once. More wait in the kernel's queue. Each costs some 20 KiB here.
const CONNECTIONS_MAX: usize = 256;

/// How long a connection may move no byte in either direction.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection may last: one that sends a byte of its request now and then holds its place no
/// longer. It is far more than the longest request.
const LIFETIME: Duration = Duration::from_secs(60 * 60);

/// How long accepting rests after it failed, such as for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(500);

/// A listener that keeps within the limits.
pub(crate) struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl Bounded {
    pub(crate) fn new(listener: TcpListener) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }
}

impl Listener for Bounded {
    type Io = Timed;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Timed, SocketAddr) {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => return (Timed::new(stream, place), address),
                Err(cause) => {
                    tracing::debug!(%cause, "cannot accept");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when it stands still or has lasted too long.
pub(crate) struct Timed {
    stream: TcpStream,
    end: Instant,
    idle: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Timed {
    fn new(stream: TcpStream, place: OwnedSemaphorePermit) -> Self {
        let now = Instant::now();
        let idle = Box::pin(sleep_until(now + IDLE_TIMEOUT));
        Self { stream, end: now + LIFETIME, idle, _place: place }
    }

    /// Notes that bytes moved, or fails when none did for too long.
    fn check<T>(
        &mut self,
        context: &mut Context<'_>,
        moved: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if moved.is_ready() {
            let next = (Instant::now() + IDLE_TIMEOUT).min(self.end);
            self.idle.as_mut().reset(next);
            return moved;
        }
        match self.idle.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Timed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.check(context, read)
    }
}

impl AsyncWrite for Timed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.check(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.check(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
