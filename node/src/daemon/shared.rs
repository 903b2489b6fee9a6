//! What the API and the tasks of a node use together.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use dunlin_archive::Archive;
use dunlin_engine::Engine;
use dunlin_protocols::{Handle, PeerId};
use tokio::sync::{Notify, Semaphore};

use super::{clock, sharing::Sharing};
use crate::{config::Config, data_dir::DataDir};

/// Peers whose announcements are remembered; those of others are heard but not kept.
const ANNOUNCERS_MAX: usize = 1024;

/// Everything that a node consists of, for those who act in its name.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) dir: DataDir,
    pub(crate) engine: Engine,
    pub(crate) archive: Archive,
    pub(crate) network: Handle,
    pub(crate) sharing: Sharing,
    /// Wakes the archiver: segments were sealed.
    pub(crate) sealed: Notify,
    /// Wakes the announcer: there is news for peers.
    pub(crate) news: Notify,
    /// Wakes the responder: there is a new collection that peers may have templates for.
    pub(crate) curious: Notify,
    pub(crate) api_address: SocketAddr,
    permits: Semaphore,
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
    /// Segments that peers said they have.
    pub(crate) announced: BTreeMap<PeerId, u64>,
}

/// The parts that [`Shared::new`] puts together.
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) dir: DataDir,
    pub(super) engine: Engine,
    pub(super) archive: Archive,
    pub(super) network: Handle,
    pub(super) sharing: Sharing,
    pub(super) api_address: SocketAddr,
}

impl Shared {
    pub(super) fn new(parts: Parts) -> Arc<Self> {
        let Parts { config, dir, engine, archive, network, sharing, api_address } = parts;
        let permits = Semaphore::new(config.engine.requests_max.get());
        Arc::new(Self {
            config,
            dir,
            engine,
            archive,
            network,
            sharing,
            sealed: Notify::new(),
            news: Notify::new(),
            curious: Notify::new(),
            api_address,
            permits,
            started: Instant::now(),
            observed: Mutex::default(),
        })
    }

    /// Runs work on disks or vectors on a thread of its own, when there is room for it.
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
        let _permit = self.permits.acquire().await.expect("the semaphore is never closed");
        let shared = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&shared)).await;
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

    /// Notes how many segments a peer says it has.
    pub(crate) fn heard_of_segments(&self, peer: PeerId, count: u64) {
        let mut observed = self.lock();
        if observed.announced.len() < ANNOUNCERS_MAX || observed.announced.contains_key(&peer) {
            observed.announced.insert(peer, count);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Observed> {
        // Plain facts are whole after every statement.
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
