//! Names, framing, and how much of it may be in memory.
//!
//! A message is a varint with its length and that many bytes. Any number of messages follow each other on
//! a stream, in one direction; answers come on streams of the other side.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use dunlin_archive::bitswap::{
    MESSAGE_BYTES_MAX, Message, MessageError, Named, Presence, Version, Want,
};
use futures::{
    AsyncRead, AsyncReadExt, AsyncWriteExt,
    future::{Ready, ready},
};
use libp2p::{
    StreamProtocol,
    core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo},
    swarm::Stream,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// Versions and their names, the best one first.
const NAMES: [(Version, StreamProtocol); 3] = [
    (Version::V1_2, StreamProtocol::new("/ipfs/bitswap/1.2.0")),
    (Version::V1_1, StreamProtocol::new("/ipfs/bitswap/1.1.0")),
    (Version::V1_0, StreamProtocol::new("/ipfs/bitswap/1.0.0")),
];

/// A stream on which nothing comes for this long is closed; its owner opens another when it needs one.
const IDLE: Duration = Duration::from_secs(120);

/// Longest time that one message may take, either way: 4 MiB at 70 KiB/s.
const MESSAGE: Duration = Duration::from_secs(60);

/// Messages up to this size are read without asking for room: a wantlist of 1,024 is no longer. With 32
/// streams a connection holds 2 MiB of them.
const SMALL_BYTES: usize = 64 * 1024;

/// Messages of this size and more are read into blocks, and hashed, on a thread of their own: meanwhile the
/// connection goes on. For less, a thread costs more time than it saves.
const THREADED_BYTES_MIN: usize = 256 * 1024;

/// Room for longer messages of peers that were asked for something: 16 of the longest at a time.
const ASKED_BYTES_MAX: usize = 64 << 20;

/// Room for longer messages of peers that were asked for nothing: 4 of the longest at a time. Nobody has a
/// reason to send them, so those who do wait for each other.
const UNASKED_BYTES_MAX: usize = 16 << 20;

/// Bytes of a length: four times seven bits are more than 4 MiB need.
const LENGTH_BYTES_MAX: usize = 4;

/// What one permit stands for.
const UNIT_BYTES: usize = 1024;

/// Returns whether a protocol is a version of bitswap that is spoken here.
pub(crate) fn is_protocol(name: &StreamProtocol) -> bool {
    NAMES.iter().any(|(_, known)| known == name)
}

/// Negotiates a version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upgrade {
    /// The only one to offer; all when there is none.
    pub(super) only: Option<Version>,
}

impl UpgradeInfo for Upgrade {
    type Info = StreamProtocol;
    type InfoIter = Vec<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        let offered =
            NAMES.into_iter().filter(|(version, _)| self.only.is_none_or(|only| only == *version));
        offered.map(|(_, name)| name).collect()
    }
}

impl InboundUpgrade<Stream> for Upgrade {
    type Output = (Version, Stream);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((version(&name), stream)))
    }
}

impl OutboundUpgrade<Stream> for Upgrade {
    type Output = (Version, Stream);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((version(&name), stream)))
    }
}

fn version(name: &StreamProtocol) -> Version {
    let known = NAMES.into_iter().find(|(_, known)| known == name);
    known.map_or(Version::V1_0, |(version, _)| version)
}

/// The room for long messages that are being read, of all connections together.
#[derive(Clone, Debug)]
pub(super) struct Room {
    asked: Arc<Semaphore>,
    unasked: Arc<Semaphore>,
}

impl Default for Room {
    fn default() -> Self {
        let room = |bytes: usize| Arc::new(Semaphore::new(bytes / UNIT_BYTES));
        Self { asked: room(ASKED_BYTES_MAX), unasked: room(UNASKED_BYTES_MAX) }
    }
}

impl Room {
    async fn take(&self, bytes: usize, is_asked: bool) -> Option<OwnedSemaphorePermit> {
        if bytes <= SMALL_BYTES {
            return None;
        }
        let room = if is_asked { &self.asked } else { &self.unasked };
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        Arc::clone(room).acquire_many_owned(units).await.ok()
    }
}

/// A message as the behaviour gets it: its blocks are hashed.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(super) wants: Vec<Want>,
    pub(super) is_full: bool,
    pub(super) blocks: Vec<Named>,
    pub(super) presences: Vec<Presence>,
    pub(super) passed_over: usize,
    /// Given back when the message has been taken in.
    _room: Option<OwnedSemaphorePermit>,
}

impl Incoming {
    fn decode(bytes: Vec<u8>, room: Option<OwnedSemaphorePermit>) -> Result<Self, ReadError> {
        let message = Message::decode(&bytes).map_err(ReadError::Violation)?;
        drop(bytes);
        Ok(Self {
            wants: message.wants,
            is_full: message.is_full,
            blocks: message.blocks.into_iter().map(|claim| claim.name()).collect(),
            presences: message.presences,
            passed_over: message.passed_over,
            _room: room,
        })
    }
}

/// Why a stream brings nothing more.
#[derive(Debug)]
pub(super) enum ReadError {
    /// It ended between two messages.
    Ended,
    /// It was cut, or took too long: anybody's line may do that.
    Cut,
    /// Its owner broke the protocol.
    Violation(MessageError),
}

/// Reads the next message of a stream.
pub(super) async fn read(
    stream: &mut Stream,
    room: &Room,
    is_asked: impl Fn() -> bool,
) -> Result<Incoming, ReadError> {
    let first = timeout(IDLE, read_byte(stream)).await.map_err(|_| ReadError::Ended)?;
    let first = first.map_err(|_| ReadError::Cut)?.ok_or(ReadError::Ended)?;
    let rest = async {
        let length = read_length(stream, first).await?;
        let room = room.take(length, is_asked()).await;
        // There is room for all of it. Zeroes of the system take no memory before something is written.
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).await.map_err(|_| ReadError::Cut)?;
        if length < THREADED_BYTES_MIN {
            return Incoming::decode(bytes, room);
        }
        let decoding = tokio::task::spawn_blocking(move || Incoming::decode(bytes, room));
        // It fails only when the runtime ends.
        decoding.await.unwrap_or(Err(ReadError::Cut))
    };
    timeout(MESSAGE, rest).await.unwrap_or(Err(ReadError::Cut))
}

/// Reads the rest of a length whose first byte is there.
async fn read_length(stream: &mut Stream, first: u8) -> Result<usize, ReadError> {
    let (mut length, mut byte) = (usize::from(first & 0x7f), first);
    for shift in (1..LENGTH_BYTES_MAX).map(|group| 7 * group) {
        if byte & 0x80 == 0 {
            break;
        }
        byte = read_byte(stream).await.ok().flatten().ok_or(ReadError::Cut)?;
        length |= usize::from(byte & 0x7f) << shift;
    }
    if byte & 0x80 != 0 || length > MESSAGE_BYTES_MAX {
        return Err(ReadError::Violation(MessageError::TooLong { bytes: length }));
    }
    Ok(length)
}

async fn read_byte(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<u8>> {
    let mut byte = [0];
    let count = stream.read(&mut byte).await?;
    Ok((count == 1).then_some(byte[0]))
}

/// A message with its length before it, in one piece: what is large is copied once.
#[derive(Debug)]
pub(super) struct Frame {
    bytes: Vec<u8>,
    /// Where the length begins, which takes up to [`LENGTH_BYTES_MAX`] bytes.
    start: usize,
}

impl Frame {
    pub(super) fn new(message: &Message, version: Version) -> Self {
        let mut bytes = vec![0; LENGTH_BYTES_MAX];
        message.encode_into(version, &mut bytes);
        let length = bytes.len() - LENGTH_BYTES_MAX;
        debug_assert!(length <= MESSAGE_BYTES_MAX, "a batch fits into a message");
        let groups =
            (1..LENGTH_BYTES_MAX).take_while(|group| length >> (7 * group) > 0).count() + 1;
        let start = LENGTH_BYTES_MAX - groups;
        for (group, byte) in bytes[start..LENGTH_BYTES_MAX].iter_mut().enumerate() {
            let is_last = group + 1 == groups;
            *byte = (length >> (7 * group)) as u8 & 0x7f | if is_last { 0 } else { 0x80 };
        }
        Self { bytes, start }
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

/// Writes a framed message, in time.
pub(super) async fn write(stream: &mut Stream, frame: &Frame) -> io::Result<()> {
    let written = async {
        stream.write_all(frame.as_slice()).await?;
        stream.flush().await
    };
    timeout(MESSAGE, written).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use dunlin_archive::bitswap::{Claim, Kind};
    use dunlin_wire::block::Codec;

    use super::*;

    #[test]
    fn a_frame_begins_with_the_length_of_the_message() {
        for bytes in [0, 1, 100, 127, 128, 16_000, 20_000, 2 << 20] {
            let blocks = vec![Claim { kind: Kind::Ours(Codec::Raw), bytes: vec![7; bytes] }];
            let message = Message { blocks, ..Message::default() };
            let body = message.encode(Version::V1_2);
            let mut expected = Vec::new();
            let mut length = body.len();
            while length >= 0x80 {
                expected.push(length as u8 | 0x80);
                length >>= 7;
            }
            expected.push(length as u8);
            expected.extend(body);
            assert!(Frame::new(&message, Version::V1_2).as_slice() == expected, "{bytes}");
        }
        assert_eq!(Frame::new(&Message::default(), Version::V1_2).as_slice(), [0]);
    }
}
