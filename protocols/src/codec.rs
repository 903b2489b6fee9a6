//! One request and one response on a stream: canonical DAG-CBOR, bounded before it is read.

use std::{io, marker::PhantomData};

use dunlin_wire::cbor::DecodeError;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{StreamProtocol, request_response};

use crate::messages::{Message, MessageError};

/// Reads and writes requests `Q` and responses `R`.
#[derive(Debug)]
pub(crate) struct Codec<Q, R>(PhantomData<fn() -> (Q, R)>);

impl<Q, R> Default for Codec<Q, R> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Q, R> Clone for Codec<Q, R> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// A request as it came. libp2p keeps failures to read a request to itself, so what is no message is
/// handed up like one: its sender broke the protocol, and the gate has to know.
#[derive(Debug)]
pub(crate) enum Received<Q> {
    /// A request.
    Message(Q),
    /// Something else.
    Damaged,
}

impl<Q: Message + Send + Sync, R: Message + Send + Sync> request_response::Codec for Codec<Q, R> {
    type Protocol = StreamProtocol;
    type Request = Received<Q>;
    type Response = R;

    async fn read_request<T>(
        &mut self,
        protocol: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Received<Q>>
    where
        T: AsyncRead + Unpin + Send,
    {
        match read(protocol, io).await {
            Ok(message) => Ok(Received::Message(message)),
            Err(cause) if is_violation(&cause) => Ok(Received::Damaged),
            Err(cause) => Err(cause),
        }
    }

    async fn read_response<T>(&mut self, protocol: &StreamProtocol, io: &mut T) -> io::Result<R>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(protocol, io).await
    }

    async fn write_request<T>(
        &mut self,
        protocol: &StreamProtocol,
        io: &mut T,
        request: Received<Q>,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        match request {
            Received::Message(message) => write(protocol, io, message).await,
            Received::Damaged => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    async fn write_response<T>(
        &mut self,
        protocol: &StreamProtocol,
        io: &mut T,
        response: R,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(protocol, io, response).await
    }
}

/// Reads one message to the end of the stream. Memory grows with what arrives, and one byte beyond the
/// limit ends it.
async fn read<M: Message, T: AsyncRead + Unpin + Send>(
    protocol: &StreamProtocol,
    io: &mut T,
) -> io::Result<M> {
    let mut bytes = Vec::new();
    io.take(M::BYTES_MAX as u64 + 1).read_to_end(&mut bytes).await?;
    let decoded = M::decode(&bytes).and_then(|message| {
        message.check_version(protocol.as_ref())?;
        Ok(message)
    });
    decoded.map_err(|cause| {
        // A connection that is cut, and a node that gives up on an answer, end the stream early.
        // Anybody's line may do that, so it is no violation.
        let is_cut = matches!(cause, MessageError::Decode(DecodeError::Truncated { .. }));
        let kind = if is_cut { io::ErrorKind::UnexpectedEof } else { io::ErrorKind::InvalidData };
        io::Error::new(kind, cause)
    })
}

async fn write<M: Message, T: AsyncWrite + Unpin + Send>(
    protocol: &StreamProtocol,
    io: &mut T,
    mut message: M,
) -> io::Result<()> {
    message.leave_out(protocol.as_ref());
    let encoded = message.check_version(protocol.as_ref()).and_then(|()| message.encode());
    let bytes = encoded.map_err(|cause| io::Error::new(io::ErrorKind::InvalidInput, cause))?;
    io.write_all(&bytes).await
}

/// Returns whether a failure of reading says that the other side broke the protocol.
pub(crate) fn is_violation(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidData
}
