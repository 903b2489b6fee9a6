//! One side of a measured transfer: serves made-up blocks from an archive, or fetches them from anybody.
//!
//! Both sides make the same blocks out of the same numbers, so nothing but an address has to be told. What
//! is printed is one JSON object. `bench/bitswap/run` starts two of these, and Kubo beside them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::{Args, Parser};
use dunlin_archive::{Archive, Object, Pin, bitswap::BATCH_BYTES_MAX};
use dunlin_protocols::{
    Config, Event, Found, Handle, Keypair, Multiaddr, Network, PeerId, Query, Search,
};
use dunlin_trust::Trust;
use dunlin_wire::{
    block::{Block, Codec},
    cbor,
};
use serde_json::json;
use tokio::{io::AsyncReadExt, sync::mpsc, time::timeout};

/// Blocks that one commit stores, and their bytes: as a node does with what it fetches.
const COMMIT_BLOCKS: usize = 256;
const COMMIT_BYTES: usize = 16 << 20;

/// Longest that a transfer may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// The key of whoever fetches.
const FETCHER: u8 = 7;

#[derive(Parser)]
enum Command {
    /// Serve blocks until the input ends.
    Serve {
        #[command(flatten)]
        blocks: Blocks,
        /// Another peer that may have them.
        #[arg(long)]
        own: Vec<PeerId>,
        /// Folder of the archive.
        #[arg(long)]
        dir: PathBuf,
    },
    /// Fetch blocks from a peer.
    Fetch {
        #[command(flatten)]
        blocks: Blocks,
        /// Where it is, with its peer id.
        #[arg(long)]
        from: Multiaddr,
        /// Its peer id.
        #[arg(long)]
        peer: PeerId,
        /// Store them in an archive in this folder, and not only verify them.
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Print the blocks' CIDs, and write each into a file.
    Write {
        #[command(flatten)]
        blocks: Blocks,
        /// Folder for the files.
        #[arg(long)]
        dir: PathBuf,
    },
}

#[derive(Args)]
struct Blocks {
    /// How many.
    #[arg(long)]
    count: u64,
    /// How large.
    #[arg(long)]
    bytes: usize,
    /// Other numbers make other blocks.
    #[arg(long)]
    seed: u64,
}

impl Blocks {
    /// Makes the blocks. Their bytes cannot be compressed.
    fn make(&self) -> Vec<Block> {
        let block = |index: u64| {
            let mut state = (self.seed << 32 | index) * 2 + 1;
            let mut bytes = Vec::with_capacity(self.bytes + 8);
            while bytes.len() < self.bytes {
                // splitmix64 (Steele, Lea, Flood 2014).
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut word = state;
                word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
                bytes.extend((word ^ word >> 31).to_le_bytes());
            }
            bytes.truncate(self.bytes);
            Block::new(Codec::Raw, bytes)
        };
        (0..self.count).map(block).collect()
    }
}

/// Returns the object that links to all blocks.
fn root(blocks: &[Block]) -> anyhow::Result<Block> {
    let links: Vec<_> = blocks.iter().map(|block| *block.cid()).collect();
    Ok(Block::new(Codec::DagCbor, cbor::encode(&links)?))
}

fn main() -> anyhow::Result<()> {
    let command = Command::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // As a node has.
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match command {
            Command::Serve { blocks, own, dir } => serve(&blocks, own, &dir).await,
            Command::Fetch { blocks, from, peer, dir } => {
                timeout(PATIENCE, fetch(&blocks, from, peer, dir.as_deref())).await?
            }
            Command::Write { blocks, dir } => write(&blocks, &dir),
        }
    })
}

fn key(number: u8) -> anyhow::Result<Keypair> {
    Ok(Keypair::ed25519_from_bytes([number; 32])?)
}

async fn start(
    keypair: Keypair,
    own: Vec<PeerId>,
) -> anyhow::Result<(Handle, mpsc::Receiver<Event>, Network)> {
    let mut config = Config::new("bench".parse()?);
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse()?];
    config.mdns = false;
    config.one_machine = true;
    let own_peers = own.into_iter().collect();
    let trust = dunlin_trust::Config { own_peers, ..dunlin_trust::Config::default() };
    Ok(Network::start(config, keypair, Trust::new(trust, Vec::new())).await?)
}

fn archive(dir: &Path) -> anyhow::Result<Archive> {
    std::fs::create_dir_all(dir)?;
    Ok(Archive::open(&dir.join("blocks.redb"), dunlin_archive::Config::default())?)
}

async fn serve(blocks: &Blocks, mut own: Vec<PeerId>, dir: &Path) -> anyhow::Result<()> {
    let archive = Arc::new(archive(dir)?);
    let links = blocks.make();
    let root = root(&links)?;
    let root_cid = *root.cid();
    archive.put(&[Object { pin: Pin::own("bench"), root, links }], None)?;
    own.push(key(FETCHER)?.public().to_peer_id());
    let (handle, mut events, network) = start(key(1)?, own).await?;
    let mut input = [0; 1];
    let mut stdin = tokio::io::stdin();
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(Event::Listening(address)) => {
                    let peer = handle.local_peer().to_string();
                    println!("{}", json!({"address": address, "peer": peer, "root": root_cid.to_string()}));
                }
                Some(Event::BlocksWanted { queries, reply, .. }) => {
                    let archive = Arc::clone(&archive);
                    tokio::task::spawn_blocking(move || reply.send(look_up(&archive, &queries)));
                }
                Some(_) => {}
                None => break,
            },
            read = stdin.read(&mut input) => if read? == 0 { break },
        }
    }
    network.shutdown().await;
    Ok(())
}

/// As a node looks up what is wanted.
fn look_up(archive: &Archive, queries: &[Query]) -> Vec<Found> {
    let (mut found, mut bytes) = (Vec::with_capacity(queries.len()), 0);
    for query in queries {
        if bytes > BATCH_BYTES_MAX {
            break;
        }
        found.push(match archive.block(&query.cid).ok().flatten() {
            Some(_) if !query.is_for_block => Found::Here,
            Some(block) => {
                bytes += block.bytes().len();
                Found::Block(block)
            }
            None => Found::Absent,
        });
    }
    found
}

async fn fetch(
    blocks: &Blocks,
    from: Multiaddr,
    peer: PeerId,
    dir: Option<&Path>,
) -> anyhow::Result<()> {
    let wanted: Vec<_> = blocks.make().iter().map(|block| *block.cid()).collect();
    let archive = dir.map(archive).transpose()?.map(Arc::new);
    let (handle, mut events, network) = start(key(FETCHER)?, Vec::new()).await?;
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    handle.dial(from).await?;
    while !handle.peers().await.iter().any(|view| view.peer == peer && view.agent.is_some()) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let began = Instant::now();
    let count = wanted.len();
    let mut fetch = handle.fetch(wanted, vec![peer], Search::Never).await?;
    let (mut found, mut bytes) = (0, 0);
    let (mut due, mut due_bytes) = (Vec::new(), 0);
    let mut storing = tokio::task::JoinSet::new();
    while let Some((_, arrived)) = fetch.next().await {
        found += arrived.len();
        let size: usize = arrived.iter().map(|block| block.bytes().len()).sum();
        bytes += size;
        due_bytes += size;
        due.extend(arrived);
        if archive.is_none() {
            due.clear();
        } else if due.len() >= COMMIT_BLOCKS || due_bytes >= COMMIT_BYTES {
            store(&mut storing, archive.as_ref(), std::mem::take(&mut due)).await?;
            due_bytes = 0;
        }
    }
    let fetched = began.elapsed();
    store(&mut storing, archive.as_ref(), due).await?;
    while let Some(done) = storing.join_next().await {
        done??;
    }
    let all = began.elapsed();
    ensure!(found == count, "{found} of {count} blocks");
    let seconds = all.as_secs_f64();
    println!(
        "{}",
        json!({
            "blocks": found,
            "bytes": bytes,
            "seconds": seconds,
            "fetch_seconds": fetched.as_secs_f64(),
            "is_stored": archive.is_some(),
        })
    );
    network.shutdown().await;
    Ok(())
}

/// Stores blocks on a thread of their own, one commit at a time.
async fn store(
    storing: &mut tokio::task::JoinSet<anyhow::Result<()>>,
    archive: Option<&Arc<Archive>>,
    blocks: Vec<Block>,
) -> anyhow::Result<()> {
    let Some(archive) = archive.filter(|_| !blocks.is_empty()).map(Arc::clone) else {
        return Ok(());
    };
    if let Some(done) = storing.join_next().await {
        done??;
    }
    storing.spawn_blocking(move || {
        let objects: Vec<_> =
            blocks.into_iter().map(|block| Object::leaf(Pin::fetched("bench"), block)).collect();
        Ok(archive.put(&objects, None)?)
    });
    Ok(())
}

fn write(blocks: &Blocks, dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir)?;
    let blocks = blocks.make();
    let root = root(&blocks)?;
    let mut cids = Vec::with_capacity(blocks.len());
    for block in &blocks {
        let cid = block.cid().to_string();
        std::fs::write(dir.join(&cid), block.bytes()).context("cannot write a block")?;
        cids.push(cid);
    }
    std::fs::write(dir.join("root"), root.bytes())?;
    println!("{}", json!({"root": root.cid().to_string(), "blocks": cids}));
    Ok(())
}
