//! An honest client, as light as one can be: a thousand of them at once show what a thousand clients cost a node.
//!
//! It comes from an address of its own, says who it is, leaves a record of what it provides, and stays.

use std::{io, net::Ipv4Addr, sync::Arc, time::Duration};

use dunlin_protocols::{Multiaddr, PeerId};
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::identity::Keypair;
use tokio::{sync::Mutex, time::timeout};

use crate::{
    HostileError, Target,
    client::{Introduction, Session},
    proto::{Proto, fields},
    tally::Tally,
};

/// Kinds of messages of the DHT.
const ADD_PROVIDER: u64 = 2;
const GET_PROVIDERS: u64 = 3;

/// Fields of an answer: who provides, and of such an entry, its id.
const PROVIDER: u64 = 9;
const PEER: u64 = 1;

/// What a client says that it speaks.
const PROTOCOLS: [&str; 4] =
    ["/ipfs/id/1.0.0", "/ipfs/ping/1.0.0", "/dunlin/segments/1", "/dunlin/templates/1"];

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Longest answer that is read, in bytes: twenty providers with sixteen addresses each.
const ANSWER_BYTES_MAX: usize = 128 * 1_024;

/// A client that is connected. It leaves when it is dropped.
#[derive(Debug)]
pub struct Guest {
    peer: PeerId,
    address: Multiaddr,
    introduction: Introduction,
    session: Session,
    /// It asks one thing after the other. The stream stays open, as a client's would, and with it the connection.
    dht: Mutex<yamux::Stream>,
}

impl Guest {
    /// Connects to a node of a network, as a new peer that comes from an address of this machine.
    ///
    /// # Errors
    ///
    /// Fails when the node is not on this machine or a private network, is not named in full, or refuses.
    pub async fn arrive(
        node: &Multiaddr,
        network: &str,
        from: Ipv4Addr,
    ) -> Result<Self, HostileError> {
        let target = Target::of(node, network, from, 1)?;
        let keypair = Keypair::generate_ed25519();
        let refused = |cause| HostileError::Refused { target: node.clone(), cause };
        let address: Multiaddr = [
            libp2p::multiaddr::Protocol::Ip4(from),
            libp2p::multiaddr::Protocol::Tcp(target.address.port()),
        ]
        .into_iter()
        .collect();
        let protocol = format!("/dunlin/{network}/kad/1.0.0");
        let spoken = PROTOCOLS.iter().copied().chain([protocol.as_str()]);
        let introduction = Introduction::begin(&target, &keypair).bytes(2, &address.to_vec());
        let introduction =
            spoken.fold(introduction, |message, spoken| message.bytes(3, spoken.as_bytes()));
        let introduction = Introduction::new(introduction.framed());
        let tally = Arc::new(Tally::default());
        let session = Session::open(&target, 0, &keypair, introduction.clone(), &tally);
        let session = session.await.map_err(refused)?;
        let dht = session.stream(&protocol).await.map_err(refused)?;
        let peer = keypair.public().to_peer_id();
        Ok(Self { peer, address, introduction, session, dht: Mutex::new(dht) })
    }

    /// Returns who it is.
    #[must_use]
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Returns whether the node ended the connection.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.session.is_over()
    }

    /// Returns whether the node has asked who it is: before, it takes no record of it.
    #[must_use]
    pub fn is_introduced(&self) -> bool {
        self.introduction.is_told()
    }

    /// Leaves the record that it provides what is called after it. The node may pass it over, and does not say so.
    ///
    /// # Errors
    ///
    /// Fails when the connection does.
    pub async fn announce(&self) -> io::Result<()> {
        let provider =
            Proto::default().bytes(PEER, &self.peer.to_bytes()).bytes(2, &self.address.to_vec());
        let message = Proto::default()
            .number(1, ADD_PROVIDER)
            .bytes(2, &key_of(self.peer))
            .message(PROVIDER, provider)
            .framed();
        let mut dht = self.dht.lock().await;
        timeout(PATIENCE, async { dht.write_all(&message).await.and(dht.flush().await) }).await?
    }

    /// Asks the node whether it has the record of another client.
    ///
    /// # Errors
    ///
    /// Fails when the connection does, or the answer is longer than one may be.
    pub async fn knows(&self, other: PeerId) -> io::Result<bool> {
        let message = Proto::default().number(1, GET_PROVIDERS).bytes(2, &key_of(other)).framed();
        let mut dht = self.dht.lock().await;
        let answer = async {
            dht.write_all(&message).await?;
            dht.flush().await?;
            read_framed(&mut dht).await
        };
        let answer = timeout(PATIENCE, answer).await??;
        let id = other.to_bytes();
        let is_other = |provider: &[u8]| fields(provider).any(|field| field == (PEER, &*id));
        Ok(fields(&answer).any(|(field, value)| field == PROVIDER && is_other(value)))
    }
}

/// Returns the key of a client's record: a multihash, as those of blocks.
fn key_of(peer: PeerId) -> Vec<u8> {
    [0x12, 0x20].into_iter().chain(peer.to_bytes().into_iter().rev().take(32)).collect()
}

async fn read_framed(stream: &mut yamux::Stream) -> io::Result<Vec<u8>> {
    let (mut length, mut shift) = (0_usize, 0);
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 {
            break;
        }
        if shift > 21 {
            return Err(io::Error::other("a length without an end"));
        }
    }
    if length > ANSWER_BYTES_MAX {
        return Err(io::Error::other(format!("an answer of {length} bytes")));
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
