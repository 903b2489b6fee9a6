//! One request and one response on a stream: canonical DAG-CBOR, bounded before it is read.

use std::{io, marker::PhantomData};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{StreamProtocol, request_response};

use crate::messages::Message;

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

impl<Q: Message + Send + Sync, R: Message + Send + Sync> request_response::Codec for Codec<Q, R> {
    type Protocol = StreamProtocol;
    type Request = Q;
    type Response = R;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Q>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<R>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io).await
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: Q,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, &request).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        response: R,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, &response).await
    }
}

/// Reads one message to the end of the stream. Memory grows with what arrives, and one byte beyond the
/// limit ends it.
async fn read<M: Message, T: AsyncRead + Unpin + Send>(io: &mut T) -> io::Result<M> {
    let mut bytes = Vec::new();
    io.take(M::BYTES_MAX as u64 + 1).read_to_end(&mut bytes).await?;
    M::decode(&bytes).map_err(|cause| io::Error::new(io::ErrorKind::InvalidData, cause))
}

async fn write<M: Message, T: AsyncWrite + Unpin + Send>(
    io: &mut T,
    message: &M,
) -> io::Result<()> {
    let bytes =
        message.encode().map_err(|cause| io::Error::new(io::ErrorKind::InvalidInput, cause))?;
    io.write_all(&bytes).await
}

/// Returns whether a failure of reading says that the other side broke the protocol.
pub(crate) fn is_violation(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidData
}
