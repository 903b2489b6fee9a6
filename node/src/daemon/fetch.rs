//! Fetching segments by CID from peers and gateways: the archive's pure core decides whom to ask, this asks.
//!
//! Which CIDs a node looks for tells what it looks at, so only its own peers are asked, and the peers and
//! gateways that the user names; the DHT is searched when the user wishes so. What nobody there gave, nodes
//! of IPFS are asked for over bitswap. What comes sealed is opened with a key of the ring, and kept as what it
//! is then.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use dunlin_archive::{
    Answer, Attempt, AttemptOutcome, Object, Outcome, Pin, PutError, ReadError, Retrieval,
};
use dunlin_engine::Segment;
use dunlin_privacy::NoisedSegment;
use dunlin_protocols::{Handle, NetworkError, PeerId, Search, messages::RefusalReason};
use dunlin_wire::{Cid, block::Block, envelope::Signed};
use tokio::task::JoinSet;

use super::{
    clock,
    gateways::{GatewayUrl, Gateways},
    opening::{self, FromSealed, Opened},
    shared::Shared,
    sharing::segments::noised_in,
};
use crate::key_ring::{KeyRing, KeyRingError};

/// Segments that are fetched and stored together. What they bring is in memory until then.
const TOGETHER_MAX: usize = 256;

/// Segments that are fetched and stored together with their payload: 32 MiB each as nodes make them, 256
/// MiB (128 blocks of 2 MiB) as a hostile one might.
const TOGETHER_WITH_PAYLOAD_MAX: usize = 2;

/// Pauses before a peer that is busy is asked again; then it counts as one that refuses.
const BUSY_PAUSES_MS: [u64; 5] = [50, 100, 200, 400, 500];

/// What to fetch, and from whom first.
#[derive(Clone, Debug)]
pub(crate) struct FetchWish {
    pub(crate) cids: Vec<Cid>,
    pub(crate) first: Vec<PeerId>,
    /// Asked beside the operator's own peers.
    pub(crate) gateways: Vec<GatewayUrl>,
    pub(crate) payload: bool,
    /// Whether to ask the DHT who has what nobody else gave. Strangers learn what is looked for.
    pub(crate) search: Search,
}

/// What became of one CID.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) cid: Cid,
    pub(crate) segment: Option<Segment>,
    /// What the CID named was sealed: with which key, and why it stays so.
    pub(crate) sealed: Option<FromSealed>,
    /// What the CID named was a noised segment of somebody.
    pub(crate) noised: Option<Box<Signed<NoisedSegment>>>,
    /// Payload blocks that were wished for and that nobody had.
    pub(crate) missing_payload: Vec<Cid>,
    pub(crate) block_bytes: usize,
    /// Whether all that was wished for was here already.
    pub(crate) is_local: bool,
    /// Who was asked, in order, by name.
    pub(crate) attempts: Vec<Attempt<String>>,
}

/// Who may have a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Provider {
    /// A peer of the swarm.
    Peer(PeerId),
    /// A gateway, by its place in the wish.
    Gateway(usize),
}

/// Why nothing more was fetched. What was stored before stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The archive cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The archive does not take it.
    #[error(transparent)]
    Put(#[from] PutError),
    /// A sealed segment came, and the key ring cannot be read.
    #[error(transparent)]
    Keys(#[from] KeyRingError),
}

impl Shared {
    /// Fetches segments that are not here, and stores them.
    ///
    /// # Errors
    ///
    /// Fails when the archive cannot be read or written.
    #[tracing::instrument(skip_all, fields(objects = wish.cids.len()))]
    pub(crate) async fn fetch(
        self: &Arc<Self>,
        wish: FetchWish,
    ) -> Result<Vec<Fetched>, FetchError> {
        let FetchWish { cids, first, gateways, payload, search } = wish;
        let Connected { own, own_foreign, foreign, ours } = self.own_peers().await;
        let (foreign, first): (Vec<_>, Vec<_>) =
            first.into_iter().partition(|peer| foreign.contains(peer));
        // Those whose kind nobody knows come last: they will have been asked in vain a moment before.
        let unknown = first.iter().filter(|peer| !ours.contains(peer)).copied().collect();
        let mut asked = Asked {
            by_bitswap: [foreign, own_foreign, unknown].concat(),
            search,
            first: first.into_iter().map(Provider::Peer).collect(),
            others: (0..gateways.len())
                .map(Provider::Gateway)
                .chain(own.into_iter().map(Provider::Peer))
                .collect(),
            gateways,
            http: Gateways::new(),
        };
        let together = if payload { TOGETHER_WITH_PAYLOAD_MAX } else { TOGETHER_MAX };
        let mut fetched = Vec::with_capacity(cids.len());
        for cids in cids.chunks(together) {
            fetched.extend(self.fetch_together(cids.to_vec(), payload, &mut asked).await?);
        }
        Ok(fetched)
    }

    async fn fetch_together(
        self: &Arc<Self>,
        cids: Vec<Cid>,
        payload: bool,
        whom: &mut Asked,
    ) -> Result<Vec<Fetched>, FetchError> {
        let asked = cids.clone();
        let mut blocks = self.blocking(move |shared| local(shared, &asked, payload)).await?;
        let here: BTreeSet<Cid> = blocks.keys().copied().collect();
        let wanted: Vec<_> = cids.iter().flat_map(|cid| missing(*cid, &blocks, payload)).collect();
        let mut retrieval = Retrieval::new(&wanted, &whom.first, &whom.others);
        self.retrieve(whom, &mut retrieval, payload.then_some(&cids), &mut blocks).await;
        // A gateway that stood still would hold up every further part as long; the swarm watches peers.
        for failed in retrieval.failed().filter(|failed| matches!(failed, Provider::Gateway(_))) {
            whom.others.retain(|provider| *provider != failed);
        }
        let mut attempts: BTreeMap<Cid, Vec<Attempt<Provider>>> = BTreeMap::new();
        for outcome in retrieval.into_outcomes() {
            attempts.entry(outcome.cid).or_default().extend(outcome.attempts);
        }
        // Who answered at all is a node of Dunlin's, and would answer the same once more.
        let answered: BTreeSet<_> = attempts
            .values()
            .flatten()
            .filter(|attempt| attempt.outcome != AttemptOutcome::Failed)
            .map(|attempt| attempt.peer)
            .collect();
        whom.by_bitswap.retain(|peer| !answered.contains(&Provider::Peer(*peer)));
        let wanted: Vec<_> = cids.iter().flat_map(|cid| missing(*cid, &blocks, payload)).collect();
        let roots = payload.then_some(&cids);
        for outcome in self.fetch_by_bitswap(wanted, whom, roots, &mut blocks).await {
            let named = |attempt: Attempt| Attempt {
                peer: Provider::Peer(attempt.peer),
                outcome: attempt.outcome,
            };
            let attempts = attempts.entry(outcome.cid).or_default();
            attempts.extend(outcome.attempts.into_iter().map(named));
        }
        let ring = self.ring_for(&cids, &blocks).await?;
        let (mut fetched, mut objects) = (Vec::with_capacity(cids.len()), Vec::new());
        for cid in cids {
            let (one, object) = Arrived { blocks: &blocks, here: &here, ring: &ring }
                .judge(cid, payload, &attempts, whom);
            // What was sealed and is here, may have been so without its key.
            objects.extend(object.filter(|_| !one.is_local || one.sealed.is_some()));
            fetched.push(one);
        }
        if objects.is_empty() {
            return Ok(fetched);
        }
        let cids = objects.iter().flat_map(Object::cids).collect();
        let fetched = self
            .blocking(move |shared| {
                let objects = not_own(shared, objects)?;
                let stored = shared.archive.put_fetched(&objects, clock::now().0);
                stored.inspect_err(|_| shared.crowded.notify_one())?;
                shared.mended(&objects);
                Ok::<_, FetchError>(fetched)
            })
            .await?;
        self.network.stored(cids).await;
        Ok(fetched)
    }

    /// Returns the key ring, when there is something to open.
    async fn ring_for(
        self: &Arc<Self>,
        cids: &[Cid],
        blocks: &BTreeMap<Cid, Block>,
    ) -> Result<KeyRing, FetchError> {
        let mut roots = cids.iter().filter_map(|cid| blocks.get(cid));
        if !roots.any(opening::is_sealed) {
            return Ok(KeyRing::default());
        }
        Ok(self.blocking(|shared| KeyRing::load(&shared.dir)).await?)
    }

    /// Carries the retrieval's questions to peers until it is done; adds what arrives to `blocks`, and the
    /// payload of `roots`. What else looks like a segment links to nothing: it would have no end.
    async fn retrieve(
        &self,
        whom: &Asked,
        retrieval: &mut Retrieval<Provider>,
        roots: Option<&Vec<Cid>>,
        blocks: &mut BTreeMap<Cid, Block>,
    ) {
        let mut asks = JoinSet::new();
        loop {
            while let Some(ask) = retrieval.next_ask() {
                match ask.peer {
                    Provider::Peer(peer) => {
                        asks.spawn(put_question(self.network.clone(), peer, ask.cids));
                    }
                    Provider::Gateway(index) => {
                        let (http, url) = (whom.http.clone(), whom.gateways[index].clone());
                        asks.spawn(
                            async move { (ask.peer, http.ask(&url, ask.peer, ask.cids).await) },
                        );
                    }
                }
            }
            let Some(answer) = asks.join_next().await else { return };
            let (peer, answer) = answer.expect("asking does not panic");
            let arrived = retrieval.handle(answer);
            if let (Provider::Peer(peer), false) = (peer, arrived.is_empty()) {
                self.synced(peer);
            }
            for block in arrived {
                let cid = *block.cid();
                blocks.insert(cid, block);
                if roots.is_some_and(|roots| roots.contains(&cid)) {
                    retrieval.want(&missing(cid, blocks, true));
                }
            }
        }
    }

    /// Fetches over bitswap: from nodes of IPFS, and from whom the DHT names when it is to be searched.
    async fn fetch_by_bitswap(
        &self,
        wanted: Vec<Cid>,
        whom: &Asked,
        roots: Option<&Vec<Cid>>,
        blocks: &mut BTreeMap<Cid, Block>,
    ) -> Vec<Outcome> {
        if wanted.is_empty() || (whom.by_bitswap.is_empty() && whom.search == Search::Never) {
            return Vec::new();
        }
        let begun = self.network.fetch(wanted, whom.by_bitswap.clone(), whom.search).await;
        let mut fetch = match begun {
            Ok(fetch) => fetch,
            Err(cause) => {
                tracing::debug!(%cause, "nothing fetched over bitswap");
                return Vec::new();
            }
        };
        while let Some((peer, arrived)) = fetch.next().await {
            self.synced(peer);
            let mut more = Vec::new();
            for block in arrived {
                let cid = *block.cid();
                blocks.insert(cid, block);
                if roots.is_some_and(|roots| roots.contains(&cid)) {
                    more.extend(missing(cid, blocks, true));
                }
            }
            if !more.is_empty()
                && let Err(cause) = fetch.want(more).await
            {
                tracing::debug!(%cause, "payload not fetched over bitswap");
            }
        }
        fetch.finish().await
    }

    /// Fetches blocks from one peer, over whatever it speaks; gives up when it has sent more than
    /// `bytes_max`.
    pub(super) async fn fetch_from(
        &self,
        peer: PeerId,
        wanted: &[Cid],
        bytes_max: u64,
    ) -> BTreeMap<Cid, Block> {
        let (mut blocks, mut bytes) = (BTreeMap::new(), 0);
        let mut take = |blocks: &mut BTreeMap<Cid, Block>, arrived: Vec<Block>| {
            bytes += arrived.iter().map(|block| block.bytes().len() as u64).sum::<u64>();
            blocks.extend(arrived.into_iter().map(|block| (*block.cid(), block)));
            bytes <= bytes_max
        };
        let mut retrieval = Retrieval::new(wanted, &[Provider::Peer(peer)], &[]);
        while let Some(ask) = retrieval.next_ask() {
            let (_, answer) = put_question(self.network.clone(), peer, ask.cids).await;
            if !take(&mut blocks, retrieval.handle(answer)) {
                return blocks;
            }
        }
        let missing: Vec<_> =
            wanted.iter().filter(|cid| !blocks.contains_key(cid)).copied().collect();
        if missing.is_empty() {
            return blocks;
        }
        let Ok(mut fetch) = self.network.fetch(missing, vec![peer], Search::Never).await else {
            return blocks;
        };
        while let Some((_, arrived)) = fetch.next().await {
            if !take(&mut blocks, arrived) {
                break;
            }
        }
        fetch.finish().await;
        blocks
    }

    /// Returns the connected peers that may be asked besides those whom the user names.
    async fn own_peers(&self) -> Connected {
        let announced = self.observed().announced;
        let views = self.network.connected().await;
        let connected = || views.iter();
        let own = connected().filter(|view| view.trust.is_own);
        let (own_foreign, own): (Vec<_>, Vec<_>) = own.partition(|view| view.is_foreign);
        let mut own: Vec<_> = own.into_iter().map(|view| view.peer).collect();
        let count = |peer: &PeerId| {
            announced.get(peer).map(|counts| counts.values().map(|(count, _)| count).sum::<u64>())
        };
        own.sort_by_key(|peer: &PeerId| (std::cmp::Reverse(count(peer)), *peer));
        Connected {
            own,
            own_foreign: own_foreign.into_iter().map(|view| view.peer).collect(),
            foreign: connected().filter(|view| view.is_foreign).map(|view| view.peer).collect(),
            ours: connected()
                .filter(|view| view.agent.is_some() && !view.is_foreign)
                .map(|view| view.peer)
                .collect(),
        }
    }
}

/// Who is connected, as far as it may be asked.
struct Connected {
    /// Peers of this node's operator and network: those who announced most segments first.
    own: Vec<PeerId>,
    /// Peers of this node's operator that are nodes of IPFS.
    own_foreign: Vec<PeerId>,
    /// All nodes of IPFS.
    foreign: BTreeSet<PeerId>,
    /// All nodes of our network.
    ours: BTreeSet<PeerId>,
}

/// Whom a retrieval asks.
struct Asked {
    first: Vec<Provider>,
    others: Vec<Provider>,
    /// Asked over bitswap for what nobody of those gave.
    by_bitswap: Vec<PeerId>,
    search: Search,
    gateways: Vec<GatewayUrl>,
    http: Gateways,
}

impl Asked {
    fn name(&self, provider: Provider) -> String {
        match provider {
            Provider::Peer(peer) => peer.to_string(),
            Provider::Gateway(index) => self.gateways[index].to_string(),
        }
    }
}

/// Returns what of `cids`, and of their payload when it is wished for, the archive holds.
fn local(shared: &Shared, cids: &[Cid], payload: bool) -> Result<BTreeMap<Cid, Block>, FetchError> {
    let mut here = BTreeMap::new();
    for cid in cids {
        here.extend(shared.stored_block(cid)?.map(|block| (*cid, block)));
        for link in missing(*cid, &here, payload) {
            here.extend(shared.stored_block(&link)?.map(|block| (link, block)));
        }
    }
    Ok(here)
}

/// Returns those that this node did not seal itself: its own copies open to its own segments.
fn not_own(shared: &Shared, objects: Vec<Object>) -> Result<Vec<Object>, ReadError> {
    let mut others = Vec::with_capacity(objects.len());
    for object in objects {
        let own = object.pin.collection().map(Pin::own);
        let is_own = match own {
            Some(own) => shared.archive.is_pinned(&own, object.root.cid())?,
            None => false,
        };
        if !is_own {
            others.push(object);
        }
    }
    Ok(others)
}

/// Returns what has to be fetched for a segment: itself, or its payload when that is wished for.
fn missing(cid: Cid, blocks: &BTreeMap<Cid, Block>, payload: bool) -> Vec<Cid> {
    let Some(root) = blocks.get(&cid) else { return vec![cid] };
    if !payload {
        return Vec::new();
    }
    // Bytes with the right hash may still be no segment, and then link to nothing.
    opening::payload_of(root).into_iter().filter(|link| !blocks.contains_key(link)).collect()
}

/// All that is here of what was wished for.
struct Arrived<'a> {
    blocks: &'a BTreeMap<Cid, Block>,
    /// What was here before.
    here: &'a BTreeSet<Cid>,
    ring: &'a KeyRing,
}

impl Arrived<'_> {
    /// Returns what became of one segment, and what to keep of it.
    fn judge(
        &self,
        cid: Cid,
        payload: bool,
        attempts: &BTreeMap<Cid, Vec<Attempt<Provider>>>,
        whom: &Asked,
    ) -> (Fetched, Option<Object>) {
        let root = self.blocks.get(&cid);
        let links = root.filter(|_| payload).map(opening::payload_of).unwrap_or_default();
        let wished: Vec<Cid> = std::iter::once(cid).chain(links).collect();
        let mut told: Vec<Attempt<String>> = Vec::new();
        for attempt in wished.iter().filter_map(|cid| attempts.get(cid)).flatten() {
            let attempt = Attempt { peer: whom.name(attempt.peer), outcome: attempt.outcome };
            if !told.contains(&attempt) {
                told.push(attempt);
            }
        }
        let (opened, unopened) = match root.map(|root| opening::open(root, self.blocks, self.ring))
        {
            Some(Ok(opened)) => (Some(opened), None),
            Some(Err(unopened)) => (None, unopened),
            None => (None, None),
        };
        let noised = root.filter(|_| opened.is_none()).and_then(noised_in).map(Box::new);
        let block_bytes = opened.as_ref().map_or(0, |opened| opened.object.root.bytes().len());
        let (segment, sealed, object) = match opened {
            Some(Opened { segment, object, from }) => (Some(segment), from, Some(object)),
            None => (None, unopened, noised.as_deref().zip(root).map(noised_object)),
        };
        let missing = wished[1..].iter().filter(|cid| !self.blocks.contains_key(cid));
        let fetched = Fetched {
            cid,
            segment,
            sealed,
            noised,
            missing_payload: missing.copied().collect(),
            block_bytes,
            is_local: wished.iter().all(|cid| self.here.contains(cid)),
            attempts: told,
        };
        (fetched, object)
    }
}

/// Returns a noised segment as it is to be kept.
fn noised_object((signed, root): (&Signed<NoisedSegment>, &Block)) -> Object {
    Object::leaf(Pin::fetched_noised(signed.value.collection()), root.clone())
}

async fn put_question(
    network: Handle,
    peer: PeerId,
    cids: Vec<Cid>,
) -> (Provider, Answer<Provider>) {
    let provider = Provider::Peer(peer);
    let mut pauses = BUSY_PAUSES_MS.into_iter();
    let answer = loop {
        let is_busy = match network.blocks(peer, cids.clone()).await {
            Ok(answer) => {
                break Answer::blocks(provider, answer.blocks, answer.missing, answer.wrong);
            }
            Err(NetworkError::Busy) => true,
            Err(NetworkError::Refused { reason, .. }) => reason == RefusalReason::Busy,
            Err(NetworkError::Gate(_)) => false,
            Err(cause) => {
                tracing::debug!(%peer, %cause, "no blocks");
                break Answer::failed(provider);
            }
        };
        match pauses.next().filter(|_| is_busy) {
            Some(pause) => tokio::time::sleep(Duration::from_millis(pause)).await,
            None => break Answer::refused(provider),
        }
    };
    (provider, answer)
}
