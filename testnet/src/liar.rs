//! A peer that lies: it joins a network with a key of its own and serves one block with a flipped byte, for which it signs.
//!
//! It runs on the same swarm as everyone else, so that what refuses it in a test is what refuses a
//! stranger's bytes in life. The demo starts it as `dunlin testnet liar`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use dunlin_protocols::{
    Config, Event, Keypair, Multiaddr, Network, NetworkName, PeerId,
    messages::{ClaimedBlock, SegmentsRequest, SegmentsResponse},
};
use dunlin_trust::{SentObject, Served, Trust};
use dunlin_wire::{Cid, block, envelope, limits::BLOCK_BYTES_MAX};
use tokio::signal::unix::{SignalKind, signal};

use crate::peer::NETWORK_ADDRESS_FILE;

/// Whom to lie to, about what.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder for `network.address`; made if needed. The key is a new one each time and kept nowhere.
    pub data_dir: PathBuf,
    /// The network to join.
    pub network: NetworkName,
    /// Addresses to listen on.
    pub listen: Vec<Multiaddr>,
    /// Peers to dial first.
    pub bootstrap: Vec<Multiaddr>,
    /// Whether several nodes share this machine.
    pub one_machine: bool,
    /// Peers that are answered: segments are served to named peers only, also by a liar.
    pub victims: Vec<PeerId>,
    /// File with the true bytes.
    pub block: PathBuf,
    /// The CID to lie about.
    pub cid: String,
}

/// Lies until SIGINT or SIGTERM; blocks.
///
/// # Errors
///
/// Fails when the block cannot be read or is not the CID's, or the network does not start or fails.
pub fn run(options: Options) -> anyhow::Result<()> {
    let keypair = Keypair::generate_ed25519();
    let lie = Lie::read(&options.block, &options.cid)?.signed(&options.network, &keypair)?;
    fs::create_dir_all(&options.data_dir)
        .with_context(|| format!("cannot make {}", options.data_dir.display()))?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(serve(options, keypair, lie))
}

async fn serve(options: Options, keypair: Keypair, lie: Lie) -> anyhow::Result<()> {
    let config = Config {
        listen: options.listen,
        bootstrap: options.bootstrap,
        one_machine: options.one_machine,
        ..Config::new(options.network)
    };
    let own_peers = options.victims.into_iter().collect::<BTreeSet<_>>();
    let trust = Trust::new(dunlin_trust::Config { own_peers, ..Default::default() }, Vec::new());
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (_handle, mut events, network) = Network::start(config, keypair, trust).await?;
    let address_file = options.data_dir.join(NETWORK_ADDRESS_FILE);
    let mut addresses = String::new();
    loop {
        let event = tokio::select! {
            biased;
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            event = events.recv() => event.context("the network has failed")?,
        };
        match event {
            Event::Listening(address) => {
                addresses += &format!("{address}\n");
                replace(&address_file, &addresses)?;
            }
            Event::SegmentsRequested { request, reply, .. } => reply.send(lie.answer(request)),
            // Whoever asks for templates learns from the dropped reply that there are none.
            _ => {}
        }
    }
    network.shutdown().await;
    fs::remove_file(address_file).ok(); // It was never written when nothing listened.
    Ok(())
}

/// Writes a file so that a reader sees all of it or what was there before.
fn replace(path: &Path, content: &str) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, content)
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// A block that is not what its CID says.
struct Lie {
    cid: Cid,
    bytes: Vec<u8>,
    /// Its signature for an answer with these bytes.
    served: Option<Vec<u8>>,
}

impl Lie {
    /// Reads the truth and flips one byte of it.
    fn read(path: &Path, cid: &str) -> anyhow::Result<Self> {
        let cid = Cid::try_from(cid).with_context(|| format!("{cid:?} is no CID"))?;
        let size = fs::metadata(path).map(|file| file.len());
        let size = size.with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(
            size <= BLOCK_BYTES_MAX as u64,
            "{} has {size} bytes; a block has at most {BLOCK_BYTES_MAX}",
            path.display()
        );
        let mut bytes =
            fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        block::verify(&cid, &bytes)
            .context("the block is not the CID's: lying begins with the truth")?;
        let middle = bytes.len() / 2;
        let byte = bytes.get_mut(middle).context("the block is empty: there is nothing to flip")?;
        *byte ^= 1;
        Ok(Self { cid, bytes, served: None })
    }

    /// Signs for the bytes, which a node that has what it says never does.
    fn signed(self, network: &NetworkName, keypair: &Keypair) -> anyhow::Result<Self> {
        let sent = [SentObject::new(self.cid, &self.bytes)];
        let served = Served::new(network.as_str(), &sent).context("there is an object")?;
        let served = envelope::sign(keypair, served)?.bytes;
        Ok(Self { served: Some(served), ..self })
    }

    fn answer(&self, request: SegmentsRequest) -> SegmentsResponse {
        match request {
            SegmentsRequest::List { .. } => SegmentsResponse::Page { cids: vec![self.cid] },
            SegmentsRequest::Blocks { cids } => {
                let (asked, missing): (Vec<_>, Vec<_>) =
                    cids.into_iter().partition(|cid| *cid == self.cid);
                let lie = |cid| ClaimedBlock { cid, bytes: self.bytes.clone() };
                let blocks: Vec<_> = asked.into_iter().take(1).map(lie).collect();
                let served = self.served.clone().filter(|_| !blocks.is_empty());
                SegmentsResponse::Blocks { blocks, missing, served: served.map(Into::into) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use dunlin_wire::block::{Block, Codec};

    use super::*;

    #[test]
    fn a_lie_is_one_byte_from_the_truth_and_told_about_one_cid_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("block");
        let (truth, other) =
            (Block::new(Codec::Raw, vec![7; 100]), Block::new(Codec::Raw, vec![8; 100]));
        fs::write(&path, truth.bytes()).unwrap();
        assert!(Lie::read(&path, &other.cid().to_string()).is_err(), "not its block");
        let lie = Lie::read(&path, &truth.cid().to_string()).unwrap();
        let request = SegmentsRequest::Blocks { cids: vec![*truth.cid(), *other.cid()] };
        let SegmentsResponse::Blocks { blocks, missing, .. } = lie.answer(request) else {
            panic!("blocks were asked for")
        };
        assert_eq!(missing, [*other.cid()]);
        let [claimed] = blocks.as_slice() else { panic!("one block is served") };
        assert_eq!(claimed.cid, *truth.cid());
        let differing = claimed.bytes.iter().zip(truth.bytes()).filter(|(a, b)| a != b);
        assert_eq!(differing.count(), 1);
        assert!(block::verify(&claimed.cid, &claimed.bytes).is_err());
    }
}
