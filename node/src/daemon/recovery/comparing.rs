//! Catalogs are compared with a peer: what it has and this node lacks is fetched, verified and kept.

use std::{collections::BTreeMap, sync::Arc};

use dunlin_archive::{
    Object, Pin, ReadError,
    catalog::{CatalogError, Comparison, ComparisonError, Entry, Root, Step},
};
use dunlin_engine::Segment;
use dunlin_protocols::{
    NetworkError, PeerId,
    messages::{CATALOGS_MAX, CatalogRoot, Catalogs, STATEMENTS_PER_REQUEST_MAX},
};
use dunlin_trust::Evidence;
use dunlin_wire::{Cid, block::Block};
use tokio::time::Instant;

use super::{
    super::shared::Shared,
    landing::arrival,
    sides::{Said, Verdict},
};
use crate::config::Recover;

/// Blocks of both catalogs that one comparison reads, about 500 MiB. One that needs more ends there, and what it
/// found need not be found again.
const BLOCKS_MAX: u64 = 65_536;

/// Differences that are looked for before they are fetched and kept.
const TOGETHER: usize = 256;

/// Blocks of a peer's catalog that are asked for at once, up to 1 MiB.
const ASK: usize = 64;

/// Blocks of a peer's catalog in memory, up to 16 MiB; beyond, they are asked for again.
const CACHED_MAX: usize = 1_024;

/// Most bytes of what is fetched at once: 256 segments of 4,096 channels fit, and 64 blocks of a catalog.
const FETCH_BYTES_MAX: u64 = 64 << 20;

/// Payload blocks that are fetched at once, up to 1 MiB each. They are in memory until they are stored.
const PAYLOAD_TOGETHER: usize = 32;

/// Why catalogs were not compared to the end. What came until then is kept.
#[derive(Debug)]
pub(super) enum Failure {
    /// The peer did not answer, or answered wrongly.
    Peer(NetworkError),
    /// This node cannot read or write.
    Store(anyhow::Error),
}

/// What a comparison with a peer came to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcome {
    /// Segments and statements that came.
    pub(super) gained: usize,
    /// When to ask again about what another peer fetches meanwhile.
    pub(super) again: Option<Instant>,
}

/// Whether a peer knows something else about a collection, and what to do about that.
#[derive(Clone, Copy, Debug)]
enum Judged {
    Same,
    Differs(Verdict),
}

/// What came of one collection.
enum Turned {
    Gained(usize),
    Later(Instant),
}

/// What came from a peer.
#[derive(Clone, Copy, Debug)]
struct Caught {
    /// Segments or statements that were new.
    gained: usize,
    /// All that its catalog names is here now.
    is_whole: bool,
}

impl Caught {
    fn add(&mut self, more: Self) {
        self.gained += more.gained;
        self.is_whole &= more.is_whole;
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(cause: E) -> Self {
        Self::Store(cause.into())
    }
}

/// Which of a collection's two catalogs is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Segments,
    Statements,
}

impl Of {
    fn pin(self, collection: &str) -> Pin {
        match self {
            Self::Segments => Pin::recovered(collection),
            Self::Statements => Pin::statements(collection),
        }
    }
}

impl Shared {
    /// Returns what this node knows of those of its collections that are `wanted`.
    pub(super) fn catalogs(&self, wanted: impl Fn(&str) -> bool) -> anyhow::Result<Vec<Catalogs>> {
        let mut catalogs = Vec::new();
        for spec in self.engine.collections()? {
            let name = spec.name.as_str();
            if !wanted(name) {
                continue;
            }
            let root = |of: Of| self.archive.catalog(&of.pin(name)).map(|root| root.map(told));
            catalogs.push(Catalogs {
                collection: name.to_owned(),
                segments: root(Of::Segments)?,
                statements: root(Of::Statements)?,
            });
        }
        Ok(catalogs)
    }

    /// Compares all collections with an own peer that has them, too, and takes in what this node lacks, unless another one does so
    /// for it. `connected` are all own peers that can be asked.
    #[tracing::instrument(skip_all, fields(%peer))]
    pub(super) async fn reconcile(
        self: &Arc<Self>,
        peer: PeerId,
        connected: &[PeerId],
    ) -> Result<Outcome, Failure> {
        let ours = self.blocking(|shared| shared.catalogs(|_| true)).await?;
        let mut outcome = Outcome::default();
        for ours in ours.chunks(CATALOGS_MAX) {
            for theirs in self.ask_catalogs(peer, ours).await? {
                self.recovery.count(|counts| match ours.contains(&theirs) {
                    true => counts.same += 1,
                    false => counts.different += 1,
                });
                let verdict = self.judge_catalog(peer, (ours, &theirs), connected);
                match self.take_turn(peer, theirs, verdict, connected).await? {
                    Turned::Gained(new) => outcome.gained += new,
                    Turned::Later(when) => {
                        outcome.again = Some(outcome.again.map_or(when, |again| again.min(when)));
                    }
                }
            }
        }
        Ok(outcome)
    }

    async fn ask_catalogs(
        &self,
        peer: PeerId,
        ours: &[Catalogs],
    ) -> Result<Vec<Catalogs>, Failure> {
        self.network.compare_catalogs(peer, ours.to_vec()).await.map_err(Failure::Peer)
    }

    /// Does about a collection what was decided. When another peer had to be waited for, that is decided again by what both know then.
    async fn take_turn(
        self: &Arc<Self>,
        peer: PeerId,
        theirs: Catalogs,
        verdict: Judged,
        connected: &[PeerId],
    ) -> Result<Turned, Failure> {
        match verdict {
            Judged::Same => return Ok(Turned::Gained(0)),
            Judged::Differs(Verdict::Wait(when)) => return Ok(Turned::Later(when)),
            Judged::Differs(verdict @ (Verdict::Fetch | Verdict::Held)) => {
                if let Ok(_taking) = self.recovery.taking.try_lock() {
                    return self.take_in_all(peer, theirs, verdict).await;
                }
            }
        }
        let _taking = self.recovery.taking.lock().await;
        let name = theirs.collection;
        let ours = self.blocking(move |shared| shared.catalogs(|one| one == name)).await?;
        let Some(theirs) = self.ask_catalogs(peer, &ours).await?.pop() else {
            return Ok(Turned::Gained(0));
        };
        match self.judge_catalog(peer, (&ours, &theirs), connected) {
            Judged::Same => Ok(Turned::Gained(0)),
            Judged::Differs(Verdict::Wait(when)) => Ok(Turned::Later(when)),
            Judged::Differs(verdict) => self.take_in_all(peer, theirs, verdict).await,
        }
    }

    fn judge_catalog(
        &self,
        peer: PeerId,
        (ours, theirs): (&[Catalogs], &Catalogs),
        connected: &[PeerId],
    ) -> Judged {
        let Some(ours) = ours.iter().find(|ours| ours.collection == theirs.collection) else {
            return Judged::Same;
        };
        let verdict = self.recovery.sides().judge(&said(peer, ours, theirs), connected);
        tracing::debug!(%peer, ?verdict, "a catalog was compared");
        if ours == theirs { Judged::Same } else { Judged::Differs(verdict) }
    }

    /// Notes what a peer said when it asked.
    pub(super) fn heard_catalogs(&self, peer: PeerId, ours: &[Catalogs], theirs: &[Catalogs]) {
        let mut sides = self.recovery.sides();
        for theirs in theirs {
            let ours = ours.iter().find(|ours| ours.collection == theirs.collection);
            if let Some(ours) = ours {
                sides.hear(&said(peer, ours, theirs));
            }
        }
    }

    /// Takes in what a peer has of a collection.
    async fn take_in_all(
        self: &Arc<Self>,
        peer: PeerId,
        theirs: Catalogs,
        verdict: Verdict,
    ) -> Result<Turned, Failure> {
        // Segments first: statements are kept about those that are in a conflict.
        let Catalogs { collection, segments, statements } = theirs;
        let mut gained = 0;
        if let Some(root) = segments.filter(|_| verdict != Verdict::Held) {
            let caught = self.catch_up_with(peer, &collection, Of::Segments, root).await?;
            gained += caught.gained;
            tracing::debug!(%peer, gained, is_whole = caught.is_whole, "a catalog was read");
            if caught.is_whole {
                self.recovery.sides().caught_up(&collection, &peer, root);
            }
        }
        if let Some(root) = statements {
            gained += self.catch_up_with(peer, &collection, Of::Statements, root).await?.gained;
        }
        Ok(Turned::Gained(gained))
    }

    /// Takes in what is below a peer's root and not below this node's.
    async fn catch_up_with(
        self: &Arc<Self>,
        peer: PeerId,
        collection: &str,
        of: Of,
        CatalogRoot { cid, count }: CatalogRoot,
    ) -> Result<Caught, Failure> {
        let theirs = Root { cid, count };
        let pin = of.pin(collection);
        let begun = self.blocking(move |shared| Walk::begin(shared, pin, &theirs)).await?;
        let mut caught = Caught { gained: 0, is_whole: true };
        let Some(mut walk) = begun else { return Ok(caught) };
        loop {
            let (after, step) = self.blocking(move |shared| walk.advance(shared)).await;
            walk = after;
            let step = match step {
                Ok(step) => step,
                Err(Stopped::Theirs(cause)) => {
                    tracing::debug!(%peer, %cause, "its catalog is none");
                    return Err(self.blame(peer).await);
                }
                Err(Stopped::Ours(cause)) => return Err(Failure::Store(cause)),
            };
            let found = walk.comparison.take_difference();
            let is_found = !found.first_only.is_empty() || !found.second_only.is_empty();
            caught.add(match of {
                Of::Segments => self.fetch_segments(peer, collection, &found.second_only).await?,
                Of::Statements => {
                    self.fetch_statements(peer, collection, &found.second_only).await?
                }
            });
            match step {
                Step::Ask(cids) => {
                    let arrived = self.fetch_for_recovery(peer, &cids).await;
                    if arrived.is_empty() {
                        // The peer's tree grew, and these are gone from it. It says so with its next news.
                        self.recovery.wish(peer);
                        return Ok(Caught { is_whole: false, ..caught });
                    }
                    walk.take(arrived);
                }
                Step::Done if is_found => {}
                Step::Done => {
                    caught.is_whole &= !walk.comparison.is_cut();
                    return Ok(caught);
                }
            }
        }
    }

    async fn blame(&self, peer: PeerId) -> Failure {
        self.network.judge(peer, Evidence::ProtocolViolation, 1).await;
        Failure::Peer(NetworkError::Violation { peer })
    }

    /// Fetches segments that a peer has, and has them land.
    async fn fetch_segments(
        self: &Arc<Self>,
        peer: PeerId,
        collection: &str,
        entries: &[Entry],
    ) -> Result<Caught, Failure> {
        let mut caught = Caught { gained: 0, is_whole: true };
        for entries in entries.chunks(TOGETHER) {
            let blocks = self.here_or_fetched(peer, entries).await?;
            let mut segments = Vec::with_capacity(blocks.len());
            for entry in entries {
                let Some(root) = blocks.get(&entry.cid()) else { continue };
                match Segment::decode(root.bytes()) {
                    Ok(segment)
                        if segment.start().0 == entry.start
                            && segment.collection().as_str() == collection =>
                    {
                        segments.push((root.clone(), segment));
                    }
                    _ => return Err(self.blame(peer).await),
                }
            }
            let missing = entries.len() - segments.len();
            if missing > 0 {
                caught.is_whole = false;
                tracing::debug!(%peer, missing, "its catalog names what it does not give");
                self.network.judge(peer, Evidence::NotServed, 1).await;
            }
            let parts = match self.config.archive.recover {
                Recover::All => by_payload(segments),
                Recover::Summaries | Recover::Off => vec![segments],
            };
            for segments in parts {
                caught.gained += self.keep_segments(peer, collection, segments).await?;
            }
        }
        Ok(caught)
    }

    /// Stores segments, with their payload where that is wished for.
    async fn keep_segments(
        self: &Arc<Self>,
        peer: PeerId,
        collection: &str,
        segments: Vec<(Block, Segment)>,
    ) -> Result<usize, Failure> {
        let payload = match self.config.archive.recover {
            Recover::All => {
                let links: Vec<_> =
                    segments.iter().flat_map(|(_, segment)| segment.payload()).copied().collect();
                self.fetch_for_recovery(peer, &links).await
            }
            Recover::Summaries | Recover::Off => BTreeMap::new(),
        };
        let pin = Pin::recovered(collection);
        let arrivals: Vec<_> = segments
            .into_iter()
            .map(|(root, segment)| {
                let links = segment.payload().iter().filter_map(|cid| payload.get(cid).cloned());
                let links = links.collect();
                let cid = *root.cid();
                arrival(cid, &segment, Some(Object { pin: pin.clone(), root, links }))
            })
            .collect();
        let name = collection.to_owned();
        let stored: Vec<Cid> = arrivals
            .iter()
            .filter_map(|arrival| arrival.object.as_ref())
            .flat_map(Object::cids)
            .collect();
        let new = self.blocking(move |shared| shared.land(&name, &arrivals)).await?;
        self.network.stored(stored).await;
        self.synced(peer);
        if new > 0 {
            self.recovery.sides().gained(collection, Instant::now());
        }
        self.recovery.count(|counts| counts.recovered += new as u64);
        Ok(new)
    }

    /// Fetches statements that a peer has, and takes in those that bear on something here.
    async fn fetch_statements(
        self: &Arc<Self>,
        peer: PeerId,
        collection: &str,
        entries: &[Entry],
    ) -> Result<Caught, Failure> {
        let mut caught = Caught { gained: 0, is_whole: true };
        for entries in entries.chunks(TOGETHER) {
            let blocks = self.statements_here_or_fetched(peer, entries).await?;
            let (collection, statements) = (collection.to_owned(), blocks.into_values().collect());
            let taken = self
                .blocking(move |shared| shared.take_statements(&collection, statements))
                .await?;
            // Every own peer checks before it keeps one.
            self.network.judge(peer, Evidence::BadSignature, taken.forged).await;
            caught.gained += taken.new;
        }
        Ok(caught)
    }

    /// Returns the blocks of entries, as far as they are here, or the peer gives them.
    async fn here_or_fetched(
        self: &Arc<Self>,
        peer: PeerId,
        entries: &[Entry],
    ) -> Result<BTreeMap<Cid, Block>, Failure> {
        let (mut blocks, missing) = self.here(entries).await?;
        blocks.extend(self.fetch_for_recovery(peer, &missing).await);
        Ok(blocks)
    }

    /// As [`Self::here_or_fetched`], for statements, which the peer vouches for.
    async fn statements_here_or_fetched(
        self: &Arc<Self>,
        peer: PeerId,
        entries: &[Entry],
    ) -> Result<BTreeMap<Cid, Block>, Failure> {
        let (mut blocks, missing) = self.here(entries).await?;
        for cids in missing.chunks(STATEMENTS_PER_REQUEST_MAX) {
            match self.network.statements(peer, cids).await {
                Ok(answer) => {
                    let bytes: usize = answer.blocks.iter().map(|block| block.bytes().len()).sum();
                    self.recovery.count(|counts| {
                        counts.bytes += bytes as u64;
                        counts.statements_refused += answer.forged as u64;
                    });
                    blocks.extend(answer.blocks.into_iter().map(|block| (*block.cid(), block)));
                }
                // One that speaks an older version has them as blocks, for which it vouches to nobody.
                Err(cause) => {
                    tracing::debug!(%peer, %cause, "it hands on no statements");
                    blocks.extend(self.fetch_for_recovery(peer, cids).await);
                }
            }
        }
        Ok(blocks)
    }

    /// Returns the blocks of entries that are here, and what is not.
    async fn here(
        self: &Arc<Self>,
        entries: &[Entry],
    ) -> Result<(BTreeMap<Cid, Block>, Vec<Cid>), Failure> {
        let wanted: Vec<_> = entries.iter().map(Entry::cid).collect();
        let (mut here, mut missing) = (BTreeMap::new(), Vec::new());
        self.blocking(move |shared| {
            for cid in wanted {
                match shared.stored_block(&cid)? {
                    Some(block) => drop(here.insert(cid, block)),
                    None => missing.push(cid),
                }
            }
            Ok((here, missing))
        })
        .await
    }

    async fn fetch_for_recovery(&self, peer: PeerId, cids: &[Cid]) -> BTreeMap<Cid, Block> {
        if cids.is_empty() {
            return BTreeMap::new();
        }
        let blocks = self.fetch_from(peer, cids, FETCH_BYTES_MAX).await;
        let bytes: usize = blocks.values().map(|block| block.bytes().len()).sum();
        self.recovery.count(|counts| counts.bytes += bytes as u64);
        blocks
    }
}

/// A comparison of this node's tree with a peer's.
///
/// The own tree grows meanwhile, by what is found. Each step reads it as it is then, and keeps no snapshot: while there is a
/// reader the store uses no freed page again, and a first comparison of a million segments would fill the disk.
struct Walk {
    pin: Pin,
    /// The root of the own tree that the comparison knows.
    ours: Option<Root>,
    comparison: Comparison,
    /// Blocks of the peer's tree.
    theirs: BTreeMap<Cid, Vec<u8>>,
}

/// Why a comparison cannot go on, and whose tree it is.
enum Stopped {
    Ours(anyhow::Error),
    Theirs(CatalogError<ReadError>),
}

impl<E: Into<anyhow::Error>> From<E> for Stopped {
    fn from(cause: E) -> Self {
        Self::Ours(cause.into())
    }
}

impl Walk {
    /// Begins, unless both trees are the same.
    fn begin(shared: &Shared, pin: Pin, theirs: &Root) -> anyhow::Result<Option<Self>> {
        let ours = shared.archive.catalog(&pin)?;
        if ours.as_ref() == Some(theirs) {
            return Ok(None);
        }
        let comparison = Comparison::new(ours.as_ref(), Some(theirs), BLOCKS_MAX);
        Ok(Some(Self { pin, ours, comparison, theirs: BTreeMap::new() }))
    }

    fn advance(mut self, shared: &Shared) -> (Self, Result<Step, Stopped>) {
        let step = self.step(shared);
        (self, step)
    }

    fn step(&mut self, shared: &Shared) -> Result<Step, Stopped> {
        let snapshot = shared.archive.snapshot()?;
        let ours = snapshot.catalog(&self.pin)?;
        if ours != self.ours {
            self.comparison.renew_first(ours.as_ref(), |cid| snapshot.get(cid))?;
            self.ours = ours;
        }
        let step = self.comparison.advance(
            |cid| snapshot.get(cid),
            // A part that this node has, too, need not come again.
            |cid| match self.theirs.get(cid) {
                Some(bytes) => Ok(Some(bytes.clone())),
                None => snapshot.get(cid),
            },
            (TOGETHER, ASK),
        );
        step.map_err(|cause| match cause {
            ComparisonError::Second(cause) => Stopped::Theirs(cause),
            cause @ ComparisonError::First(_) => Stopped::Ours(cause.into()),
        })
    }

    fn take(&mut self, arrived: BTreeMap<Cid, Block>) {
        if self.theirs.len() + arrived.len() > CACHED_MAX {
            self.theirs.clear();
        }
        self.theirs.extend(arrived.into_iter().map(|(cid, block)| (cid, block.into_bytes())));
    }
}

/// Returns what a peer said of one collection.
fn said<'a>(peer: PeerId, ours: &Catalogs, theirs: &'a Catalogs) -> Said<'a> {
    let Catalogs { collection, segments, .. } = theirs;
    Said { peer, collection, ours: ours.segments, theirs: *segments, now: Instant::now() }
}

fn told(root: Root) -> CatalogRoot {
    CatalogRoot { cid: root.cid, count: root.count }
}

/// Splits segments so that no part has much payload, unless one segment alone has.
fn by_payload(segments: Vec<(Block, Segment)>) -> Vec<Vec<(Block, Segment)>> {
    let mut parts: Vec<Vec<_>> = Vec::new();
    let mut room = 0;
    for (root, segment) in segments {
        let links = segment.payload().len();
        match parts.last_mut().filter(|_| links <= room) {
            Some(part) => {
                room -= links;
                part.push((root, segment));
            }
            None => {
                room = PAYLOAD_TOGETHER.saturating_sub(links);
                parts.push(vec![(root, segment)]);
            }
        }
    }
    parts
}
