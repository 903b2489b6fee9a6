//! What the API and the tasks of a node use together.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use dunlin_archive::{Archive, Object, ReadError};
use dunlin_engine::Engine;
use dunlin_protocols::{Handle, PeerId};
use dunlin_trust::Endorsements;
use dunlin_wire::{Cid, block::Block};
use tokio::sync::{Notify, Semaphore};

use super::{
    bundles::BundleCounters, clock, console::Passes, fleets::Fleets, holds::Holds,
    outside::Outside, publisher, recovery::Recovery, replication::Replicas, shares::Shares,
    sharing::Sharing,
};
use crate::{config::Config, data_dir::DataDir, gateway};

/// Peers whose announcements and gifts are remembered; those of others are heard but not kept.
const ANNOUNCERS_MAX: usize = 1024;

/// Collections of one peer whose announcements are remembered.
const ANNOUNCED_MAX: usize = 1024;

/// Damaged blocks that are remembered by name.
const DAMAGED_MAX: usize = 1024;

/// Everything that a node consists of, for those who act in its name.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) dir: DataDir,
    pub(crate) engine: Engine,
    pub(crate) archive: Arc<Archive>,
    /// Where archived blocks are kept as well, if anywhere.
    pub(crate) outside: Option<Outside>,
    pub(crate) network: Handle,
    pub(crate) sharing: Sharing,
    /// What the own fleets do.
    pub(crate) fleets: Fleets,
    /// Copies of objects: of this node's at peers, and of peers' here.
    pub(crate) replicas: Replicas,
    /// What own peers say about the same collections, and what of it conflicts.
    pub(crate) recovery: Recovery,
    /// Wakes retention: something found no room in the archive.
    pub(crate) crowded: Notify,
    /// In what form segments may leave.
    pub(crate) shares: Shares,
    /// Publishes what is public.
    pub(crate) publisher: publisher::Handle,
    /// Wakes the archiver: segments were sealed, or are to be shared in another form.
    pub(crate) sealed: Notify,
    /// Wakes the responder: templates of a peer arrived, which the gate has not judged.
    pub(crate) arrived: Notify,
    /// Wakes who tells the engine what peers teach: something of that may have changed.
    pub(crate) taught: Notify,
    /// Wakes the announcer: there is news for peers.
    pub(crate) news: Notify,
    /// Wakes the announcer: an own peer came, to whom all is news.
    pub(crate) newcomer: Notify,
    /// Wakes the responder: there is a new collection that peers may have templates for.
    pub(crate) curious: Notify,
    /// Held by who makes or takes in a bundle: one at a time.
    pub(crate) bundles: Mutex<()>,
    pub(crate) api_address: SocketAddr,
    /// Where the gateway listens, if it does.
    pub(crate) gateway_address: Option<SocketAddr>,
    /// Lets browsers get to the console.
    pub(crate) passes: Passes,
    /// What lets the node into a closed network.
    pub(super) license: Option<Endorsements>,
    /// Whom the operator quarantined.
    pub(crate) holds: Holds,
    /// What the gateway did.
    pub(crate) gateway: gateway::Counters,
    /// What became of bundles.
    pub(crate) bundle_counters: BundleCounters,
    permits: Arc<Semaphore>,
    started: Instant,
    observed: Mutex<Observed>,
}

/// Facts that come and go while the node runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    /// Problems by the part that has them; gone when it works again.
    pub(crate) problems: BTreeMap<&'static str, String>,
    /// When the newest segment was archived, in milliseconds since the epoch.
    pub(crate) last_archive_ms: Option<u64>,
    /// When each peer last gave us something, in milliseconds since the epoch.
    pub(crate) last_sync_ms: BTreeMap<PeerId, u64>,
    /// How many segments of each collection own peers said they have, and the digest of them.
    pub(crate) announced: BTreeMap<PeerId, BTreeMap<String, (u64, [u8; 32])>>,
    /// Archived blocks that were found damaged and are so still.
    damaged: BTreeSet<Cid>,
}

/// The parts that [`Shared::new`] puts together.
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) dir: DataDir,
    pub(super) engine: Engine,
    pub(super) archive: Arc<Archive>,
    pub(super) outside: Option<Outside>,
    pub(super) network: Handle,
    pub(super) sharing: Sharing,
    pub(super) replicas: Replicas,
    pub(super) recovery: Recovery,
    pub(super) shares: Shares,
    pub(super) publisher: publisher::Handle,
    pub(super) api_address: SocketAddr,
    pub(super) gateway_address: Option<SocketAddr>,
    pub(super) license: Option<Endorsements>,
    pub(super) holds: Holds,
}

impl Shared {
    pub(super) fn new(parts: Parts) -> Arc<Self> {
        let Parts {
            config,
            dir,
            engine,
            archive,
            outside,
            network,
            sharing,
            replicas,
            recovery,
            shares,
            publisher,
            api_address,
            gateway_address,
            license,
            holds,
        } = parts;
        let permits = Arc::new(Semaphore::new(config.engine.requests_max.get()));
        Arc::new(Self {
            config,
            dir,
            engine,
            archive,
            outside,
            network,
            sharing,
            fleets: Fleets::default(),
            replicas,
            recovery,
            crowded: Notify::new(),
            shares,
            publisher,
            sealed: Notify::new(),
            arrived: Notify::new(),
            taught: Notify::new(),
            news: Notify::new(),
            newcomer: Notify::new(),
            curious: Notify::new(),
            bundles: Mutex::new(()),
            api_address,
            gateway_address,
            passes: Passes::default(),
            license,
            holds,
            gateway: gateway::Counters::default(),
            bundle_counters: BundleCounters::default(),
            permits,
            started: Instant::now(),
            observed: Mutex::default(),
        })
    }

    /// Runs work on disks or vectors on a thread of its own, when there is room for it. The room is taken
    /// until the work ends, even when nobody waits for it any more.
    ///
    /// # Panics
    ///
    /// Panics when the work does: a store in an unknown state must not be used on.
    ///
    /// # Cancel safety
    ///
    /// Not started work is dropped; started work goes on to its end.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> T {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        let shared = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work(&shared)
        });
        let done = done.await;
        done.unwrap_or_else(|failure| std::panic::resume_unwind(failure.into_panic()))
    }

    /// Returns how long the node has been running.
    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Returns what was observed so far.
    pub(crate) fn observed(&self) -> Observed {
        self.lock().clone()
    }

    /// Notes that a part of the node has a problem.
    pub(crate) fn report(&self, part: &'static str, problem: String) {
        if self.lock().problems.insert(part, problem.clone()).as_ref() != Some(&problem) {
            tracing::warn!(part, problem, "degraded");
        }
    }

    /// Notes that a part of the node works.
    pub(crate) fn recovered(&self, part: &'static str) {
        if self.lock().problems.remove(part).is_some() {
            tracing::info!(part, "works again");
        }
    }

    /// Notes that segments were archived now.
    pub(crate) fn archived(&self) {
        self.lock().last_archive_ms = Some(clock::now().0);
    }

    /// Notes that a peer gave us something now.
    pub(crate) fn synced(&self, peer: PeerId) {
        let mut observed = self.lock();
        if observed.last_sync_ms.len() < ANNOUNCERS_MAX || observed.last_sync_ms.contains_key(&peer)
        {
            observed.last_sync_ms.insert(peer, clock::now().0);
        }
    }

    /// Notes how many segments of a collection an own peer says it has; what others have is none of ours. Returns
    /// whether it says something else than before.
    pub(crate) fn heard_of_segments(
        &self,
        peer: PeerId,
        collection: String,
        count: u64,
        digest: [u8; 32],
    ) -> bool {
        if !self.config.network.own_peers.contains(&peer) {
            return false;
        }
        let mut observed = self.lock();
        let counts = observed.announced.entry(peer).or_default();
        if counts.len() >= ANNOUNCED_MAX && !counts.contains_key(&collection) {
            return true;
        }
        counts.insert(collection, (count, digest)) != Some((count, digest))
    }

    /// Returns an archived block. One that is damaged on disk counts as missing, unless the engine still
    /// has it, or another backend: then it is written again.
    pub(crate) fn stored_block(&self, cid: &Cid) -> Result<Option<Block>, ReadError> {
        match self.archive.block(cid) {
            Ok(block) => Ok(block),
            Err(ReadError::Damaged { cid }) => Ok(self.mend(&cid)),
            Err(cause) => Err(cause),
        }
    }

    fn mend(&self, cid: &Cid) -> Option<Block> {
        let elsewhere = || self.outside.as_ref()?.block(cid);
        let block = self.engine.block(cid).ok().flatten().or_else(elsewhere);
        match block.as_ref().map(|block| self.archive.mend(block)) {
            Some(Ok(())) => {
                tracing::info!(%cid, "a block that was damaged on disk is whole again");
                self.whole_again([*cid]);
            }
            _ => self.found_damaged(*cid),
        }
        block
    }

    fn found_damaged(&self, cid: Cid) {
        let (count, first) = {
            let mut observed = self.lock();
            if observed.damaged.len() < DAMAGED_MAX {
                observed.damaged.insert(cid);
            }
            // Always the same one, so that reading on says nothing new.
            (observed.damaged.len(), observed.damaged.first().copied().unwrap_or(cid))
        };
        self.report(
            "blocks",
            format!(
                "{count} archived blocks are damaged on disk, {first} among them; \
                 fetch their segments again with `dunlin segments fetch --payload`"
            ),
        );
    }

    /// Notes that objects were stored: their blocks are whole.
    pub(super) fn mended(&self, objects: &[Object]) {
        let blocks = objects.iter().flat_map(|object| object.links.iter().chain([&object.root]));
        self.whole_again(blocks.map(|block| *block.cid()));
    }

    fn whole_again(&self, cids: impl IntoIterator<Item = Cid>) {
        let is_whole = {
            let mut observed = self.lock();
            if observed.damaged.is_empty() {
                return;
            }
            for cid in cids {
                observed.damaged.remove(&cid);
            }
            observed.damaged.is_empty()
        };
        if is_whole {
            self.recovered("blocks");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Observed> {
        // Plain facts are whole after every statement.
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
