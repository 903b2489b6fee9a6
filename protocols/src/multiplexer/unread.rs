//! What streams were sent and nobody has read yet: counted for each connection and for all together.
//!
//! Yamux lets a peer send 256 KiB on a stream before anybody has looked at it, so whoever opens many streams on many
//! connections fills memory with what is never read. A limit for each stream is the protocol's and one for each
//! connection would have to be as large as all its streams need, so the limit is one for all connections: beyond it a
//! connection that holds more than its share is not read on until some of that is taken or dropped, and its peer has
//! to wait, as on a slow line.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use futures::{AsyncRead, AsyncWrite};

/// Bytes that all connections may hold unread before any of them has to wait.
pub(crate) const ALL_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Bytes that a connection may hold unread whatever the others do.
pub(crate) const SHARE_BYTES: usize = 128 * 1024;

const HEADER_BYTES: usize = 12;
const TYPE_DATA: u8 = 0;
const TYPE_WINDOW: u8 = 1;
const FLAG_SYN: u16 = 1;

/// The unread bytes of all connections of a node.
#[derive(Debug, Default)]
pub(crate) struct Unread(AtomicUsize);

/// The unread bytes of one connection.
#[derive(Debug)]
pub(crate) struct Account {
    all: Arc<Unread>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    /// Of each stream that somebody may still read.
    streams: HashMap<u32, usize>,
    /// Who reads the connection, while it has to wait.
    reader: Option<Waker>,
}

impl Account {
    pub(crate) fn new(all: &Arc<Unread>) -> Arc<Self> {
        Arc::new(Self { all: Arc::clone(all), held: Mutex::default() })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a stream, whose bytes count from now on.
    pub(crate) fn open(&self, stream: u32) {
        self.held().streams.entry(stream).or_default();
    }

    /// Notes that a stream was dropped, and with it what nobody had read.
    pub(crate) fn drop_stream(&self, stream: u32) {
        let mut held = self.held();
        let bytes = held.streams.remove(&stream).unwrap_or_default();
        self.give_back(&mut held, bytes);
    }

    /// Notes that bytes of a stream were read.
    pub(crate) fn read(&self, stream: u32, bytes: usize) {
        let mut held = self.held();
        let Some(unread) = held.streams.get_mut(&stream) else { return };
        let bytes = bytes.min(*unread);
        *unread -= bytes;
        self.give_back(&mut held, bytes);
    }

    /// Notes bytes that arrived for a stream. Those for one that was dropped are thrown away by yamux.
    fn arrived(&self, stream: u32, bytes: usize) {
        let mut held = self.held();
        let Some(unread) = held.streams.get_mut(&stream) else { return };
        *unread += bytes;
        held.bytes += bytes;
        self.all.0.fetch_add(bytes, Ordering::Relaxed);
    }

    fn give_back(&self, held: &mut Held, bytes: usize) {
        held.bytes -= bytes;
        self.all.0.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(reader) = held.reader.take() {
            reader.wake();
        }
    }

    /// Returns whether the connection may be read on; otherwise wakes the reader when that may have changed.
    fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let mut held = self.held();
        if held.bytes <= SHARE_BYTES || self.all.0.load(Ordering::Relaxed) <= ALL_BYTES_MAX {
            return Poll::Ready(());
        }
        // Whoever holds more than the share has streams that are going to be read or dropped, which wakes.
        held.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let held = self.held().bytes;
        self.all.0.fetch_sub(held, Ordering::Relaxed);
    }
}

/// A connection, of which it is read along whose bytes arrive.
#[derive(Debug)]
pub(crate) struct Counted<C> {
    connection: C,
    account: Arc<Account>,
    frames: Frames,
}

impl<C> Counted<C> {
    pub(crate) fn new(connection: C, account: Arc<Account>) -> Self {
        Self { connection, account, frames: Frames::default() }
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Counted<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        // What is begun is finished: a frame can be read by nobody before all of it is here.
        if self.frames.is_between() && self.account.poll_room(cx).is_pending() {
            return Poll::Pending;
        }
        let this = &mut *self;
        let read = std::task::ready!(Pin::new(&mut this.connection).poll_read(cx, buffer))?;
        this.frames.follow(&buffer[..read], &this.account);
        Poll::Ready(Ok(read))
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Counted<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_close(cx)
    }
}

/// Where in the frames of yamux the bytes read so far end.
#[derive(Debug, Default)]
struct Frames {
    header: [u8; HEADER_BYTES],
    /// Bytes of the header that are there.
    have: usize,
    /// The stream that the bytes behind the header are for, and how many of them are to come.
    stream: u32,
    to_come: usize,
}

impl Frames {
    const fn is_between(&self) -> bool {
        self.have == 0 && self.to_come == 0
    }

    fn follow(&mut self, mut bytes: &[u8], account: &Account) {
        while !bytes.is_empty() {
            if self.to_come > 0 {
                let part = bytes.len().min(self.to_come);
                account.arrived(self.stream, part);
                self.to_come -= part;
                bytes = &bytes[part..];
                continue;
            }
            let part = bytes.len().min(HEADER_BYTES - self.have);
            self.header[self.have..self.have + part].copy_from_slice(&bytes[..part]);
            self.have += part;
            bytes = &bytes[part..];
            if self.have == HEADER_BYTES {
                self.have = 0;
                self.begin(account);
            }
        }
    }

    /// Reads the header. What is none ends the connection when yamux sees it.
    fn begin(&mut self, account: &Account) {
        let [_, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3] = self.header;
        self.stream = u32::from_be_bytes([s0, s1, s2, s3]);
        let is_new = u16::from_be_bytes([f0, f1]) & FLAG_SYN != 0;
        if is_new && matches!(kind, TYPE_DATA | TYPE_WINDOW) {
            account.open(self.stream);
        }
        if kind == TYPE_DATA {
            self.to_come = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{
        future::{Future as _, poll_fn},
        io::{AsyncReadExt as _, Cursor},
        task::noop_waker_ref,
    };
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u16, stream: u32, length: u32) -> Vec<u8> {
        let (flags, stream) = (flags.to_be_bytes(), stream.to_be_bytes());
        [&[0, kind], flags.as_slice(), &stream, &length.to_be_bytes()].concat()
    }

    fn data(flags: u16, stream: u32, length: usize) -> Vec<u8> {
        let mut bytes = frame(TYPE_DATA, flags, stream, u32::try_from(length).unwrap());
        bytes.resize(HEADER_BYTES + length, 0x5a);
        bytes
    }

    fn held(account: &Account) -> usize {
        let held = account.held();
        assert_eq!(held.bytes, held.streams.values().sum::<usize>());
        held.bytes
    }

    /// Reads a frame as yamux does, header and body; nothing when it has to wait.
    fn read_frame<C: AsyncRead + Unpin>(counted: &mut Counted<C>) -> Option<()> {
        let mut cx = Context::from_waker(noop_waker_ref());
        let mut header = [0; HEADER_BYTES];
        let mut reading = counted.read_exact(&mut header);
        let Poll::Ready(done) = Pin::new(&mut reading).poll(&mut cx) else { return None };
        done.unwrap();
        let length = u32::from_be_bytes(header[8..].try_into().unwrap()) as usize;
        let mut body = vec![0; if header[1] == TYPE_DATA { length } else { 0 }];
        let mut reading = counted.read_exact(&mut body);
        let Poll::Ready(done) = Pin::new(&mut reading).poll(&mut cx) else { return None };
        done.unwrap();
        Some(())
    }

    /// A node whose other connections hold as much as all may.
    fn crowded() -> (Arc<Unread>, Arc<Account>) {
        let all = Arc::<Unread>::default();
        let other = Account::new(&all);
        other.open(1);
        other.arrived(1, ALL_BYTES_MAX);
        (all, other)
    }

    #[test]
    fn beyond_what_all_may_hold_a_connection_waits_until_it_is_read() {
        let (all, _other) = crowded();
        let account = Account::new(&all);
        let half = SHARE_BYTES / 2;
        let bytes = [1, 3, 5, 7].map(|stream| data(FLAG_SYN, stream, half + 1)).concat();
        let mut counted = Counted::new(Cursor::new(bytes), Arc::clone(&account));
        // What is within the share comes, and what is begun is finished.
        assert_eq!((read_frame(&mut counted), held(&account)), (Some(()), half + 1));
        assert_eq!((read_frame(&mut counted), held(&account)), (Some(()), 2 * half + 2));
        assert_eq!((read_frame(&mut counted), held(&account)), (None, 2 * half + 2));
        // A byte is not enough, two are.
        account.read(1, 1);
        assert_eq!(read_frame(&mut counted), None);
        account.read(3, 1);
        assert_eq!((read_frame(&mut counted), held(&account)), (Some(()), 3 * half + 1));
        assert_eq!(read_frame(&mut counted), None);
        account.drop_stream(1);
        assert_eq!(read_frame(&mut counted), None);
        account.drop_stream(5);
        assert_eq!((read_frame(&mut counted), held(&account)), (Some(()), 2 * half + 1));
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_a_read_and_by_a_stream_that_is_dropped() {
        let (all, _other) = crowded();
        for is_read in [true, false] {
            let account = Account::new(&all);
            account.open(1);
            account.arrived(1, SHARE_BYTES + 1);
            let waiting = Arc::clone(&account);
            let waiting = tokio::spawn(async move {
                poll_fn(|cx| waiting.poll_room(cx)).await;
            });
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished());
            if is_read {
                account.read(1, 1)
            } else {
                account.drop_stream(1)
            }
            waiting.await.unwrap();
        }
    }

    #[test]
    fn whoever_is_gone_holds_nothing_any_more() {
        let (all, other) = crowded();
        let account = Account::new(&all);
        let bytes = [data(FLAG_SYN, 1, SHARE_BYTES + 1), data(0, 1, 10)].concat();
        let mut counted = Counted::new(Cursor::new(bytes), Arc::clone(&account));
        assert_eq!(read_frame(&mut counted), Some(()));
        assert_eq!(read_frame(&mut counted), None);
        drop(other);
        assert_eq!((read_frame(&mut counted), held(&account)), (Some(()), SHARE_BYTES + 11));
        drop((counted, account));
        assert_eq!(all.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn only_bytes_that_somebody_may_read_count() {
        let account = Account::new(&Arc::default());
        let bytes = [
            // A stream without a beginning; one that begins with a window; a ping and its 4,711.
            data(0, 9, 100),
            frame(TYPE_WINDOW, FLAG_SYN, 1, 1 << 20),
            frame(2, FLAG_SYN, 0, 4_711),
            data(0, 1, 50),
        ];
        Frames::default().follow(&bytes.concat(), &account);
        assert_eq!(held(&account), 50);
        // More than there was to read is none of ours.
        account.read(1, 60);
        account.read(9, 60);
        assert_eq!(held(&account), 0);
        account.drop_stream(1);
        Frames::default().follow(&data(0, 1, 50), &account);
        assert_eq!(held(&account), 0);
    }

    proptest! {
        #[test]
        fn frames_are_found_however_they_are_cut(
            lengths in prop::collection::vec((0_usize..40, 0_u32..3), 1..20),
            cuts in prop::collection::vec(1_usize..30, 1..10),
        ) {
            let account = Account::new(&Arc::default());
            (0..3).for_each(|stream| account.open(stream));
            let bytes: Vec<u8> =
                lengths.iter().flat_map(|(length, stream)| data(0, *stream, *length)).collect();
            let (mut frames, mut rest, mut cuts) = (Frames::default(), &bytes[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (part, behind) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                frames.follow(part, &account);
                rest = behind;
            }
            prop_assert!(frames.is_between());
            for stream in 0..3 {
                let sent = lengths.iter().filter(|(_, to)| *to == stream).map(|(length, _)| length);
                prop_assert_eq!(account.held().streams[&stream], sent.sum::<usize>());
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in any::<Vec<u8>>()) {
            Frames::default().follow(&bytes, &Account::new(&Arc::default()));
        }
    }
}
