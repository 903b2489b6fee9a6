//! The backend beside the node's own store, where there is one: a Kubo, a pinning service, or both.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, bail};
use dunlin_archive::{
    Archive, Selection,
    backend::{Backend, Credential, Embedded, Kubo, Pinning, Requests, Service, Timeouts},
};
use dunlin_protocols::PeerId;
use dunlin_wire::{Cid, block::Block};

use crate::{
    config::{BackendKind, Config},
    data_dir::DataDir,
};

/// File of what a pinning service was asked for.
const REQUESTS_FILE: &str = "pinning.redb";

/// A backend beside the store, and what was seen of it.
#[derive(Debug)]
pub(crate) struct Outside {
    keeper: Keeper,
    kubo: Option<Kubo>,
    is_reachable: AtomicBool,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
enum Keeper {
    Plain(Box<dyn Backend>),
    Pinning(Pinning<Box<dyn Backend>>),
}

/// What was seen last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// What the backend says that it is.
    pub(crate) described: Option<String>,
    /// Where others reach a Kubo.
    pub(super) addresses: Vec<String>,
    /// Why it cannot be used.
    pub(crate) problem: Option<String>,
    /// Why the pinning service cannot be used.
    pub(crate) service_problem: Option<String>,
}

impl Outside {
    /// Returns the backend that the configuration names, if it names one beside the store itself, and tells
    /// the store what belongs there. Nothing is asked of it yet: it may be down.
    ///
    /// # Errors
    ///
    /// Fails when a credential cannot be read or a file of ours not be opened.
    pub(super) fn open(
        dir: &DataDir,
        config: &Config,
        me: PeerId,
        archive: &Arc<Archive>,
    ) -> anyhow::Result<Option<Self>> {
        let owner = me.to_string();
        let kubo = match config.archive.backend {
            BackendKind::Embedded => None,
            BackendKind::Kubo => {
                let file = config.kubo.auth_file.as_deref();
                let credential = file.map(|file| credential(dir, file)).transpose()?;
                let url = config.kubo.url.clone();
                Some(Kubo::new(url, &owner, credential, Timeouts::default()))
            }
        };
        let service = match (&config.pinning.url.0, config.pinning.token_file.as_deref()) {
            (Some(url), Some(file)) => {
                let token = credential(dir, file)?;
                Some(Service::new(url.clone(), &owner, token, Timeouts::default()))
            }
            _ => None,
        };
        let (selection, place) = match (&kubo, &service) {
            (None, None) => (Selection::None, String::new()),
            (None, Some(service)) => (Selection::Public, format!("embedded, {service}")),
            (Some(_), None) => (config.kubo.holds, format!("kubo {}", config.kubo.url)),
            (Some(_), Some(service)) => {
                (config.kubo.holds, format!("kubo {}, {service}", config.kubo.url))
            }
        };
        archive.select(selection, &place).context("cannot select what belongs in the backend")?;
        let inner: Box<dyn Backend> = match &kubo {
            Some(kubo) => Box::new(kubo.clone()),
            None => Box::new(Embedded::new(Arc::clone(archive))),
        };
        let keeper = match service {
            Some(service) => {
                let requests = Requests::open(&dir.room("archive")?.join(REQUESTS_FILE))?;
                Keeper::Pinning(Pinning::new(inner, service, requests))
            }
            None if kubo.is_some() => Keeper::Plain(inner),
            None => return Ok(None),
        };
        let (is_reachable, seen) = (AtomicBool::new(false), Mutex::default());
        Ok(Some(Self { keeper, kubo, is_reachable, seen }))
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        match &self.keeper {
            Keeper::Plain(backend) => backend,
            Keeper::Pinning(backend) => backend,
        }
    }

    pub(crate) fn pinning(&self) -> Option<&Pinning<Box<dyn Backend>>> {
        match &self.keeper {
            Keeper::Plain(_) => None,
            Keeper::Pinning(pinning) => Some(pinning),
        }
    }

    pub(crate) fn kubo(&self) -> Option<&Kubo> {
        self.kubo.as_ref()
    }

    /// Returns a block that the backend has, verified. A backend that was out of reach a moment ago is not
    /// waited for: somebody waits for us.
    pub(super) fn block(&self, cid: &Cid) -> Option<Block> {
        if !self.is_reachable() {
            return None;
        }
        let block = self.backend().block(cid);
        block.inspect_err(|cause| tracing::debug!(%cid, %cause, "no block")).ok().flatten()
    }

    /// Returns whether the backend answered when it was asked last.
    pub(crate) fn is_reachable(&self) -> bool {
        self.is_reachable.load(Ordering::Relaxed)
    }

    /// Asks the backend whether it is there.
    pub(super) fn probe(&self) {
        let addresses = || self.kubo.as_ref().map_or(Ok(Vec::new()), Kubo::addresses);
        let asked = self.backend().describe().and_then(|said| Ok((said, addresses()?)));
        match asked {
            Ok((described, addresses)) => {
                self.is_reachable.store(true, Ordering::Relaxed);
                let mut seen = self.lock();
                (seen.described, seen.addresses, seen.problem) = (Some(described), addresses, None);
            }
            Err(cause) => self.lost(format!("{:#}", anyhow::Error::from(cause))),
        }
    }

    /// Notes that the backend cannot be used.
    pub(super) fn lost(&self, problem: String) {
        self.is_reachable.store(false, Ordering::Relaxed);
        self.lock().problem = Some(problem);
    }

    /// Notes whether the pinning service can be used.
    pub(super) fn heard_of_service(&self, problem: Option<String>) {
        self.lock().service_problem = problem;
    }

    /// Returns what was seen last.
    pub(crate) fn seen(&self) -> Seen {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        // Plain facts are whole after every statement.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a credential from a file that its owner alone may read. What stands in it is in no message.
fn credential(dir: &DataDir, file: &Path) -> anyhow::Result<Credential> {
    let path = dir.path().join(file);
    let shown = path.display();
    let read = || format!("cannot read the credential in {shown}");
    let mode = fs::metadata(&path).with_context(read)?.permissions().mode();
    if mode & 0o077 != 0 {
        bail!("others may read the credential in {shown}; `chmod 600` it");
    }
    let text = fs::read_to_string(&path).with_context(read)?;
    Credential::parse(&text).with_context(|| format!("{shown} holds no credential"))
}
