//! Carries what belongs in a backend beside the store there, and lets go of what does not any more.
//!
//! The store says what to do and remembers what was done, so that a backend that is down for a week, or a
//! node that is killed in the middle, changes nothing but the time it takes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use dunlin_archive::{Errand, Object, backend::BackendError};
use dunlin_protocols::Multiaddr;
use dunlin_wire::{Cid, block::Block};
use tokio_util::sync::CancellationToken;

use super::{clock, outside::Outside, shared::Shared};

/// How often it is looked whether there is something to do. Looking reads three numbers from the store.
const POLL: Duration = Duration::from_secs(1);

/// How long after a failure the backend is left alone.
const RETRY: Duration = Duration::from_secs(10);

/// How often a backend that has nothing to do is asked whether it is there.
const PROBE_EVERY: Duration = Duration::from_secs(30);

/// Roots that are settled in one durable commit.
const PAGE: usize = 64;

/// Addresses that a pinning service is told or tells; its API allows 20.
const ADDRESSES_MAX: usize = 20;

/// The part of the node that problems are told of.
const BACKEND: &str = "backend";
const PINNING: &str = "pinning";

/// Runs until `stop`. A failure is reported and tried again: everything else goes on.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) -> anyhow::Result<()> {
    let Some(outside) = &shared.outside else {
        stop.cancelled().await;
        return Ok(());
    };
    let (mut probed, mut failed) = (None, None);
    let is_over = |since: Option<Instant>, pause| since.is_none_or(|at| at.elapsed() >= pause);
    loop {
        if is_over(failed, RETRY) {
            let is_probe_due = is_over(probed, PROBE_EVERY);
            let origins = match outside.pinning() {
                Some(_) => origins(&shared, outside).await,
                None => Vec::new(),
            };
            let (work, stopping) = (Arc::clone(&shared), stop.clone());
            // A thread of its own: requests must not wait for its place while it waits for a network.
            let turn = tokio::task::spawn_blocking(move || {
                take_turn(&work, &stopping, &origins, is_probe_due)
            });
            let turn = tokio::select! {
                biased;
                // What is under way ends with the question that it waits for, and is found again.
                () = stop.cancelled() => return Ok(()),
                turn = turn => turn.context("the thread that places failed")?,
            };
            if turn.was_probed {
                probed = Some(Instant::now());
            }
            failed = turn.has_failed.then(Instant::now);
            for address in turn.delegates {
                // They are of the service's nodes, which fetch from us as soon as we are connected.
                shared.network.dial(address).await.ok();
            }
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

/// Returns where a pinning service finds the blocks, unless a Kubo has them and tells.
async fn origins(shared: &Shared, outside: &Outside) -> Vec<String> {
    let named = &shared.config.pinning.origins;
    if !named.is_empty() || outside.kubo().is_some() {
        return named.iter().map(ToString::to_string).collect();
    }
    let me = shared.network.local_peer();
    let listening = shared.network.listening().await;
    let own = shared.config.network.external.iter().chain(&listening).map(ToString::to_string);
    let own = own.map(|address| match address.contains("/p2p/") {
        true => address,
        false => format!("{address}/p2p/{me}"),
    });
    own.take(ADDRESSES_MAX).collect()
}

/// What a turn came to.
#[derive(Default)]
struct Turn {
    was_probed: bool,
    has_failed: bool,
    delegates: Vec<Multiaddr>,
}

fn take_turn(
    shared: &Shared,
    stop: &CancellationToken,
    origins: &[String],
    is_probe_due: bool,
) -> Turn {
    let Some(outside) = &shared.outside else { return Turn::default() };
    let mut turn = Turn::default();
    match carry_all(shared, outside, stop, is_probe_due, &mut turn) {
        Ok(()) => shared.recovered(BACKEND),
        Err(cause) => {
            turn.has_failed = true;
            let due = shared.archive.placing().map(|placing| placing.due).unwrap_or_default();
            shared.report(BACKEND, format!("{due} roots wait: {cause:#}"));
        }
    }
    if !stop.is_cancelled() {
        match advance(outside, origins) {
            Ok(Some(delegates)) => {
                turn.delegates = delegates;
                outside.heard_of_service(None);
                shared.recovered(PINNING);
            }
            Ok(None) => {}
            Err(cause) => {
                turn.has_failed = true;
                let problem = format!("{cause:#}");
                outside.heard_of_service(Some(problem.clone()));
                shared.report(PINNING, problem);
            }
        }
    }
    turn
}

/// Carries out all that is due. What fails by itself holds up nothing else, and is told at the end.
fn carry_all(
    shared: &Shared,
    outside: &Outside,
    stop: &CancellationToken,
    is_probe_due: bool,
    turn: &mut Turn,
) -> anyhow::Result<()> {
    let due = shared.archive.placing()?.due;
    if is_probe_due || due > 0 && !outside.is_reachable() {
        turn.was_probed = true;
        outside.probe();
    }
    if !outside.is_reachable() {
        anyhow::bail!(outside.seen().problem.unwrap_or_default());
    }
    let (mut after, mut failed) = (None, None);
    while !stop.is_cancelled() {
        let errands = shared.archive.errands(after.as_ref(), PAGE)?;
        let Some(last) = errands.last() else { break };
        after = Some(last.root);
        shared.archive.begin(&errands)?;
        let mut done = Vec::with_capacity(errands.len());
        let mut lost = None;
        for errand in errands {
            if stop.is_cancelled() {
                break;
            }
            match carry(shared, outside, &errand) {
                Ok(()) => done.push(errand),
                Err(Failure::Backend(cause)) if cause.is_general() => {
                    lost = Some(anyhow::Error::from(cause));
                    break;
                }
                Err(cause) => failed = failed.or(Some((errand.root, cause))),
            }
        }
        shared.archive.settle(&done)?;
        if let Some(cause) = lost {
            outside.lost(format!("{cause:#}"));
            return Err(cause);
        }
    }
    match failed {
        None => Ok(()),
        Some((root, cause)) => Err(anyhow::Error::from(cause).context(root.to_string())),
    }
}

/// Why a root stays where it is.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error(transparent)]
    Read(#[from] dunlin_archive::ReadError),
    /// A block is damaged on disk, or was removed a moment ago.
    #[error("its block {0} cannot be read")]
    Missing(Cid),
}

fn carry(shared: &Shared, outside: &Outside, errand: &Errand) -> Result<(), Failure> {
    let backend = outside.backend();
    if let Some((pin, links)) = &errand.wanted {
        let block = |cid: &Cid| -> Result<Block, Failure> {
            shared.stored_block(cid)?.ok_or(Failure::Missing(*cid))
        };
        let links = links.iter().map(block).collect::<Result<_, _>>()?;
        let object = Object { pin: pin.clone(), root: block(&errand.root)?, links };
        return Ok(backend.put(&object)?);
    }
    let Some(pin) = &errand.placed else { return Ok(()) };
    // The store is the backend itself: what it holds under a pin is not this task's to let go of.
    if outside.kubo().is_none() && shared.archive.is_pinned(pin, &errand.root)? {
        return Ok(());
    }
    Ok(backend.unpin(pin, &errand.root)?)
}

/// Asks the pinning service what is due; returns what to dial, or nothing when there is no service.
fn advance(outside: &Outside, origins: &[String]) -> anyhow::Result<Option<Vec<Multiaddr>>> {
    let Some(pinning) = outside.pinning() else { return Ok(None) };
    let of_kubo = outside.seen().addresses;
    let origins = if origins.is_empty() { &of_kubo } else { origins };
    let round = pinning.advance(clock::now().0, origins)?;
    if let Some(cause) = round.stopped {
        return Err(cause.into());
    }
    let delegates = round.delegates.iter().take(ADDRESSES_MAX);
    match outside.kubo() {
        Some(kubo) => {
            for address in delegates {
                if let Err(cause) = kubo.connect(address) {
                    tracing::debug!(%cause, "the pinning service's node is not reached");
                }
            }
            Ok(Some(Vec::new()))
        }
        None => Ok(Some(delegates.filter_map(|address| address.parse().ok()).collect())),
    }
}
