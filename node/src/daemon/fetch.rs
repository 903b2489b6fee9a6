//! Fetches segments from peers: verified, decoded, kept, and with a record of who served what.

use std::{collections::BTreeMap, sync::Arc};

use dunlin_archive::{Answer, Ask, Attempt, Object, Pin, Retrieval};
use dunlin_engine::Segment;
use dunlin_protocols::{Handle, NetworkError, PeerId};
use dunlin_wire::{Cid, block::Block};
use tokio::task::JoinSet;

use super::shared::Shared;

/// What to fetch, and from whom first.
#[derive(Clone, Debug)]
pub(crate) struct FetchWish {
    pub(crate) cids: Vec<Cid>,
    pub(crate) first: Vec<PeerId>,
    pub(crate) payload: bool,
}

/// What became of one CID.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) cid: Cid,
    pub(crate) segment: Option<Segment>,
    pub(crate) block_bytes: usize,
    pub(crate) is_local: bool,
    pub(crate) attempts: Vec<Attempt>,
}

impl Shared {
    /// Fetches segments that are not here from the connected peers, and stores what is whole.
    ///
    /// # Errors
    ///
    /// Fails when the archive cannot be read or written; what was stored before stays.
    pub(crate) async fn fetch(self: &Arc<Self>, wish: FetchWish) -> anyhow::Result<Vec<Fetched>> {
        let FetchWish { cids, first, payload } = wish;
        let asked = cids.clone();
        let here = self.blocking(move |shared| local(shared, &asked)).await?;
        let wanted: Vec<Cid> = cids.iter().filter(|cid| !here.contains_key(cid)).copied().collect();
        let mut retrieval = Retrieval::new(&wanted, &first, &self.candidates().await);
        let mut arrived = self.retrieve(&mut retrieval, payload).await;
        let mut attempts: BTreeMap<Cid, Vec<Attempt>> = retrieval
            .into_outcomes()
            .into_iter()
            .map(|outcome| (outcome.cid, outcome.attempts))
            .collect();
        let mut objects = Vec::new();
        let mut fetched = Vec::with_capacity(cids.len());
        for cid in cids {
            let is_local = here.contains_key(&cid);
            let block = here.get(&cid).or_else(|| arrived.get(&cid)).cloned();
            // Bytes with the right hash may still be no segment: they are not kept as one.
            let segment = block.as_ref().and_then(|block| Segment::decode(block.bytes()).ok());
            let block_bytes = block.as_ref().map_or(0, |block| block.bytes().len());
            let attempts = attempts.remove(&cid).unwrap_or_default();
            fetched.push(Fetched { cid, segment, block_bytes, is_local, attempts });
            if let (Some(root), Some(found), false) = (block, fetched.last(), is_local) {
                objects.extend(object(found.segment.as_ref(), root, payload, &mut arrived));
            }
        }
        self.blocking(move |shared| shared.archive.put(&objects, None)).await?;
        Ok(fetched)
    }

    /// Carries the retrieval's questions to peers until it is done; returns what arrived.
    async fn retrieve(&self, retrieval: &mut Retrieval, payload: bool) -> BTreeMap<Cid, Block> {
        let mut arrived = BTreeMap::new();
        let mut asks = JoinSet::new();
        loop {
            while let Some(ask) = retrieval.next_ask() {
                asks.spawn(put_question(self.network.clone(), ask));
            }
            let Some(answer) = asks.join_next().await else { return arrived };
            let (peer, answer) = answer.expect("asking does not panic");
            let blocks = retrieval.handle(answer);
            if !blocks.is_empty() {
                self.synced(peer);
            }
            for block in blocks {
                if payload && let Ok(segment) = Segment::decode(block.bytes()) {
                    retrieval.want(segment.payload());
                }
                arrived.insert(*block.cid(), block);
            }
        }
    }

    /// Returns the connected peers: those who announced most segments first.
    async fn candidates(&self) -> Vec<PeerId> {
        let announced = self.observed().announced;
        let views = self.network.peers().await;
        let mut peers: Vec<_> =
            views.iter().filter(|view| view.link.is_some()).map(|view| view.peer).collect();
        peers.sort_by_key(|peer| (std::cmp::Reverse(announced.get(peer).copied()), *peer));
        peers
    }
}

/// Returns what of `cids` the archive holds.
fn local(shared: &Shared, cids: &[Cid]) -> anyhow::Result<BTreeMap<Cid, Block>> {
    let mut here = BTreeMap::new();
    for cid in cids {
        if let Some(bytes) = shared.archive.get(cid)? {
            here.insert(*cid, Block::verified(*cid, bytes)?);
        }
    }
    Ok(here)
}

/// Returns the object to store for a fetched segment; none when it is no segment, or not whole.
fn object(
    segment: Option<&Segment>,
    root: Block,
    payload: bool,
    arrived: &mut BTreeMap<Cid, Block>,
) -> Option<Object> {
    let segment = segment?;
    let links = if payload {
        segment.payload().iter().map(|cid| arrived.remove(cid)).collect::<Option<Vec<_>>>()?
    } else {
        Vec::new()
    };
    Some(Object { pin: Pin::fetched(segment.collection().as_str()), root, links })
}

async fn put_question(network: Handle, ask: Ask) -> (PeerId, Answer) {
    let Ask { peer, cids } = ask;
    let answer = match network.blocks(peer, cids).await {
        Ok(answer) => Answer::blocks(peer, answer.blocks, answer.missing, answer.wrong),
        Err(NetworkError::Refused { .. } | NetworkError::Gate(_)) => Answer::refused(peer),
        Err(cause) => {
            tracing::debug!(%peer, %cause, "no blocks");
            Answer::failed(peer)
        }
    };
    (peer, answer)
}
