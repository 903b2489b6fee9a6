//! Replicas: of this node's objects at peers (`placing.rs`), and of peers' objects here (`keeping.rs`).
//!
//! The archive's pure core decides; this carries its questions over the network, writes down what it wants
//! kept, and answers what peers ask. What there is to see of it is in [`Replicas`].

mod keeping;
mod placing;

use std::sync::{Mutex, MutexGuard, PoisonError};

use dunlin_archive::{
    Archive, Object, Pin, ReadError,
    replication::{Counters, Keeper, KeeperConfig, Summary, Wanted},
};
use tokio::sync::Notify;

pub(crate) use self::keeping::Kept;
pub(super) use self::{
    keeping::{answer, run as keep},
    placing::run as place,
};
use crate::config::ArchiveConfig;

/// Newly archived objects that wait to be looked at. When there are more, all objects are told anew.
const NEWS_MAX: usize = 65_536;

/// What the parts of a node share about replicas.
#[derive(Debug)]
pub(crate) struct Replicas {
    /// Wakes the task that places replicas: there are new objects.
    news: Notify,
    fresh: Mutex<Fresh>,
    status: Mutex<ReplicaStatus>,
    keeper: Mutex<Keeper>,
    /// Wakes the task that fetches what is to be held for others.
    work: Notify,
    kept: Kept,
}

/// Objects that nobody has looked at yet.
#[derive(Debug, Default)]
struct Fresh {
    wanted: Vec<Wanted>,
    /// Whether all are to be told anew.
    is_stale: bool,
}

/// How things stood a moment ago.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReplicaStatus {
    pub(crate) summary: Summary,
    pub(crate) counters: Counters,
}

impl Replicas {
    /// Opens with what the archive holds for others.
    pub(super) fn open(archive: &Archive, config: &ArchiveConfig) -> Result<Self, ReadError> {
        let limits = KeeperConfig {
            own_bytes_max: config.replicate_for_own_bytes,
            others_bytes_max: config.replicate_for_bytes,
        };
        Ok(Self {
            news: Notify::new(),
            fresh: Mutex::default(),
            status: Mutex::default(),
            keeper: Mutex::new(Keeper::new(limits, keeping::used(archive)?)),
            work: Notify::new(),
            kept: Kept::default(),
        })
    }

    /// Notes that objects were archived, which shall have replicas.
    pub(super) fn archived<'a>(&self, objects: impl Iterator<Item = &'a Object>) {
        let mut fresh = lock(&self.fresh);
        for object in objects {
            if fresh.wanted.len() == NEWS_MAX {
                fresh.is_stale = true;
                break;
            }
            let (root, is_public) = (*object.root.cid(), object.pin.is_public());
            fresh.wanted.push(Wanted { root, is_public });
        }
        drop(fresh);
        self.news.notify_one();
    }

    /// Notes that pins changed in a way that only looking at all of them shows.
    pub(crate) fn pins_changed(&self) {
        lock(&self.fresh).is_stale = true;
        self.news.notify_one();
    }

    /// Notes that the operator let go of all that a pin held.
    pub(crate) fn removed(&self, pin: &Pin) {
        if let Some(peer) = keeping::holder_of(pin) {
            lock(&self.keeper).on_removed(&peer, u64::MAX);
        }
    }

    /// Returns how things stood a moment ago.
    pub(crate) fn status(&self) -> ReplicaStatus {
        lock(&self.status).clone()
    }

    /// Returns what is counted about what is held for others.
    pub(crate) fn kept(&self) -> &Kept {
        &self.kept
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each of them is whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
