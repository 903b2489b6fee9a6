//! What is held here for others: answering their questions, and fetching what they want to be held.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use dunlin_archive::{
    Archive, Object, Pin, PutError, ReadError,
    replication::{AskOutcome, Batch, Nonce, Offer, proof},
};
use dunlin_protocols::{
    PeerId, ReplicasReply,
    messages::{
        PinOutcome, RefusalReason, ReplicaBlock, ReplicaObject, ReplicasRequest, ReplicasResponse,
    },
};
use dunlin_wire::{Cid, block::Block};
use serde_bytes::ByteArray;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{super::shared::Shared, lock};

/// Batches that are fetched at once, each from another peer, with up to 64 MiB in memory.
const FETCHES_MAX: usize = 2;

/// How long everybody is told that there is no room, when the archive was full.
const FULL_PAUSE: Duration = Duration::from_secs(60);

/// What is counted about what is held for others.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// Objects that were fetched and stored.
    pub(crate) stored: AtomicU64,
    /// Objects that were refused.
    pub(crate) refused: AtomicU64,
    /// Objects that were let go of.
    pub(crate) released: AtomicU64,
    /// Blocks that were proved.
    pub(crate) proofs: AtomicU64,
    /// When the archive had no room, as far as it is known.
    full_at: std::sync::Mutex<Option<Instant>>,
}

impl Kept {
    fn is_full(&self) -> bool {
        lock(&self.full_at).is_some_and(|at| at.elapsed() < FULL_PAUSE)
    }
}

/// Returns how much the archive holds for each peer.
pub(super) fn used(archive: &Archive) -> Result<BTreeMap<PeerId, u64>, ReadError> {
    let usage = archive.usage(Pin::REPLICA)?;
    Ok(usage.iter().filter_map(|(pin, usage)| Some((holder_of(pin)?, usage.bytes))).collect())
}

/// Returns for whom a pin holds what it holds.
pub(super) fn holder_of(pin: &Pin) -> Option<PeerId> {
    pin.as_str().strip_prefix(Pin::REPLICA)?.parse().ok()
}

/// Answers a question of a peer that the gate let through.
pub(in super::super) async fn answer(
    shared: &Arc<Shared>,
    peer: PeerId,
    request: ReplicasRequest,
    reply: ReplicasReply,
) {
    let answered = shared.blocking(move |shared| respond(shared, peer, request)).await;
    match answered {
        Ok(response) => {
            shared.replicas.work.notify_one();
            reply.send(response);
        }
        Err(cause) => {
            shared.report("replicas", format!("{cause:#}"));
            reply.refuse(RefusalReason::Failed);
        }
    }
}

fn respond(
    shared: &Shared,
    peer: PeerId,
    request: ReplicasRequest,
) -> anyhow::Result<ReplicasResponse> {
    Ok(match request {
        ReplicasRequest::Pin { objects } => {
            let outcomes = objects.into_iter().map(|object| take(shared, peer, object));
            ReplicasResponse::Pinned { outcomes: outcomes.collect::<Result<_, _>>()? }
        }
        ReplicasRequest::Challenge { nonce, blocks } => {
            let nonce = Nonce(nonce.into_array());
            let proofs = blocks.iter().map(|block| prove(shared, &peer, &nonce, block));
            ReplicasResponse::Proved { proofs: proofs.collect::<Result<_, _>>()? }
        }
        ReplicasRequest::Release { roots } => {
            ReplicasResponse::Released { count: release(shared, &peer, &roots)? }
        }
    })
}

/// Says how it stands with an object that a peer wants to be held.
fn take(shared: &Shared, peer: PeerId, object: ReplicaObject) -> Result<PinOutcome, ReadError> {
    let ReplicaObject { root, links, bytes } = object;
    let held = shared.archive.held(&Pin::replica(&peer), &root)?;
    if held.is_some_and(|held| links.iter().all(|link| held.links.contains(link))) {
        return Ok(PinOutcome::Held);
    }
    let mut seen = BTreeSet::from([root]);
    let links = links.into_iter().filter(|link| seen.insert(*link)).collect();
    let is_own = shared.config.network.own_peers.contains(&peer);
    let kept = &shared.replicas.kept;
    let outcome = if kept.is_full() {
        AskOutcome::Full
    } else {
        lock(&shared.replicas.keeper).ask(peer, is_own, Offer { root, links, bytes })
    };
    if matches!(outcome, AskOutcome::Full | AskOutcome::Denied) {
        kept.refused.fetch_add(1, Ordering::Relaxed);
    }
    Ok(match outcome {
        AskOutcome::Held => PinOutcome::Held,
        AskOutcome::Pending => PinOutcome::Pending,
        AskOutcome::Busy => PinOutcome::Busy,
        AskOutcome::Full => PinOutcome::Full,
        AskOutcome::Denied | AskOutcome::Absent => PinOutcome::Denied,
    })
}

/// Proves that a block is here, when it is one of an object that is held for this peer: nobody learns of
/// others whether they are here.
fn prove(
    shared: &Shared,
    peer: &PeerId,
    nonce: &Nonce,
    block: &ReplicaBlock,
) -> Result<Option<ByteArray<32>>, ReadError> {
    let ReplicaBlock { cid, root } = block;
    let Some(held) = shared.archive.held(&Pin::replica(peer), root)? else { return Ok(None) };
    if cid != root && !held.links.contains(cid) {
        return Ok(None);
    }
    let Some(block) = shared.stored_block(cid)? else { return Ok(None) };
    shared.replicas.kept.proofs.fetch_add(1, Ordering::Relaxed);
    Ok(Some(ByteArray::new(proof(nonce, &shared.network.local_peer(), &block))))
}

/// Lets go of objects that are held for a peer; returns how many of them were.
fn release(shared: &Shared, peer: &PeerId, roots: &[Cid]) -> anyhow::Result<u64> {
    let pin = Pin::replica(peer);
    let (mut here, mut bytes) = (Vec::new(), 0);
    for root in roots {
        lock(&shared.replicas.keeper).on_released(peer, root);
        if let Some(held) = shared.archive.held(&pin, root)? {
            here.push(*root);
            bytes += held.bytes;
        }
    }
    if !here.is_empty() {
        shared.archive.unpin_roots(&pin, &here)?;
        lock(&shared.replicas.keeper).on_removed(peer, bytes);
        shared.replicas.kept.released.fetch_add(here.len() as u64, Ordering::Relaxed);
    }
    Ok(here.len() as u64)
}

/// Fetches what is to be held for others, until `stop`.
pub(in super::super) async fn run(
    shared: Arc<Shared>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut fetches = JoinSet::new();
    loop {
        while fetches.len() < FETCHES_MAX
            && let Some(batch) = next_batch(&shared)
        {
            let shared = Arc::clone(&shared);
            fetches.spawn(async move { fetch(&shared, batch).await });
        }
        tokio::select! {
            biased;
            // What is under way is dropped: whoever wants it asks again.
            () = stop.cancelled() => return Ok(()),
            Some(done) = fetches.join_next() => done?,
            () = shared.replicas.work.notified() => {}
        }
    }
}

fn next_batch(shared: &Shared) -> Option<Batch> {
    lock(&shared.replicas.keeper).next_batch()
}

/// Fetches a batch from the peer that wants it to be held, and stores what came whole.
async fn fetch(shared: &Arc<Shared>, batch: Batch) {
    let Batch { peer, offers } = batch;
    let stored = fetch_and_store(shared, peer, offers).await;
    let bytes = match stored {
        Ok(bytes) => {
            shared.recovered("replicas");
            bytes
        }
        Err(cause) => {
            if matches!(cause.downcast_ref(), Some(PutError::Full { .. })) {
                // Said to those who ask; for this node itself nothing is wrong.
                tracing::debug!(%peer, "no room for replicas");
                *lock(&shared.replicas.kept.full_at) = Some(Instant::now());
                shared.crowded.notify_one();
            } else {
                shared.report("replicas", format!("{cause:#}"));
            }
            0
        }
    };
    lock(&shared.replicas.keeper).on_fetched(&peer, bytes);
}

async fn fetch_and_store(
    shared: &Arc<Shared>,
    peer: PeerId,
    offers: Vec<Offer>,
) -> anyhow::Result<u64> {
    let cids: BTreeSet<Cid> =
        offers.iter().flat_map(|offer| offer.links.iter().chain([&offer.root])).copied().collect();
    let bytes_max = offers.iter().map(|offer| offer.bytes).sum();
    let wanted = cids.clone();
    let mut blocks = shared
        .blocking(move |shared| {
            let mut here = BTreeMap::new();
            for cid in wanted {
                here.extend(shared.stored_block(&cid)?.map(|block| (cid, block)));
            }
            Ok::<_, ReadError>(here)
        })
        .await?;
    let missing: Vec<Cid> = cids.iter().filter(|cid| !blocks.contains_key(cid)).copied().collect();
    blocks.extend(shared.fetch_from(peer, &missing, bytes_max).await);
    let (objects, bytes) = whole(&Pin::replica(&peer), &offers, &blocks);
    drop(blocks);
    let count = objects.len() as u64;
    if count > 0 {
        shared.blocking(move |shared| shared.archive.put(&objects, None)).await?;
        shared.network.stored(cids.into_iter().collect()).await;
        shared.replicas.kept.stored.fetch_add(count, Ordering::Relaxed);
    }
    Ok(bytes)
}

/// Returns the objects of which every block is there, and their size; none that is larger than was said.
fn whole(pin: &Pin, offers: &[Offer], blocks: &BTreeMap<Cid, Block>) -> (Vec<Object>, u64) {
    let (mut objects, mut all_bytes) = (Vec::new(), 0);
    for offer in offers {
        let links: Option<Vec<Block>> =
            offer.links.iter().map(|link| blocks.get(link).cloned()).collect();
        let (Some(root), Some(links)) = (blocks.get(&offer.root).cloned(), links) else { continue };
        let bytes: usize = links.iter().chain([&root]).map(|block| block.bytes().len()).sum();
        if bytes as u64 <= offer.bytes {
            all_bytes += bytes as u64;
            objects.push(Object { pin: pin.clone(), root, links });
        }
    }
    (objects, all_bytes)
}
