//! Keeps the engine in shape while nobody waits for it: brings its index up to date, compacts what is old,
//! and removes entities that were silent for as long as the operator said.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use dunlin_engine::{CollectionName, EntityView, SegmentQuery, TimeRange, Timestamp};
use tokio_util::sync::CancellationToken;

use super::{clock, shared::Shared};

/// How long after there was nothing to do it is looked again. Questions are right without it, too.
const PAUSE: Duration = Duration::from_secs(5);

/// How often silent entities are looked for: days count, not minutes.
const RETENTION_EVERY: Duration = Duration::from_secs(600);

/// Runs until `stop`. A failure is reported and tried again: ingest and questions go on without it.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut retained: Option<Instant> = None;
    loop {
        let pause = match maintain(&shared, &stop).await? {
            true => Duration::ZERO,
            false => PAUSE,
        };
        let pause = match shared.blocking(|shared| shared.compact_old(now())).await {
            Ok(more) => {
                shared.recovered("compaction");
                if more { Duration::ZERO } else { pause }
            }
            Err(cause) => {
                shared.report("compaction", format!("{:#}", anyhow::Error::from(cause)));
                pause
            }
        };
        if retained.is_none_or(|last| last.elapsed() >= RETENTION_EVERY) {
            let retain = shared.blocking(retain).await;
            match &retain {
                Ok(_) => shared.recovered("retention"),
                Err(cause) => shared.report("retention", format!("{cause:#}")),
            }
            // What waits for the archive is removed as soon as it is there.
            retained = (!matches!(retain, Ok(Retained::Some))).then(Instant::now);
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Takes one step of the index; says whether there may be more. It has a thread of its own, because a
/// large part takes a minute, and requests must not wait for its place.
async fn maintain(shared: &Arc<Shared>, stop: &CancellationToken) -> anyhow::Result<bool> {
    let (work, stop) = (Arc::clone(shared), stop.clone());
    let step = move || work.engine.maintain_index(&|| !stop.is_cancelled());
    match tokio::task::spawn_blocking(step).await.context("the index's thread failed")? {
        Ok(more) => {
            shared.recovered("index");
            Ok(more)
        }
        Err(cause) => {
            shared.report("index", format!("{:#}", anyhow::Error::from(cause)));
            Ok(false)
        }
    }
}

fn now() -> Timestamp {
    Timestamp(i64::try_from(clock::now().0).unwrap_or(i64::MAX / 1_000).saturating_mul(1_000))
}

/// Whether entities are left that should be removed.
enum Retained {
    Some,
    None,
}

/// Removes the entities that were silent for too long and whose segments are all archived. What an open
/// regime holds is sealed first, so that it is archived too, and removed when that is done.
fn retain(shared: &Shared) -> anyhow::Result<Retained> {
    let mut retained = Retained::None;
    let Some(silence) = shared.config.engine.forget_silent else { return Ok(retained) };
    let silence_us = i64::try_from(silence.as_micros()).unwrap_or(i64::MAX);
    let archived = shared.archive.position()?.unwrap_or(0);
    for spec in shared.engine.collections()? {
        for view in shared.engine.entities(&spec.name, None, usize::MAX)? {
            if now().0.saturating_sub(view.last.0) < silence_us {
                continue;
            }
            if view.open.is_some() || view.waiting > 0 {
                shared.engine.seal(&spec.name, &view.entity)?;
                shared.sealed.notify_one();
                retained = Retained::Some;
            } else if is_archived(shared, &spec.name, &view, archived)? {
                let segments = shared.engine.remove(&spec.name, &view.entity)?.segments;
                tracing::info!(segments, "an entity was silent for too long and is forgotten");
            } else {
                retained = Retained::Some;
            }
        }
    }
    Ok(retained)
}

/// Returns whether all segments of an entity are in the archive, which takes them in order.
fn is_archived(
    shared: &Shared,
    collection: &CollectionName,
    view: &EntityView,
    archived: u64,
) -> anyhow::Result<bool> {
    let newer = SegmentQuery {
        collection: collection.clone(),
        entity: Some(view.entity.clone()),
        range: TimeRange::ALL,
        after: archived,
        limit: 1,
    };
    Ok(shared.engine.segments(&newer)?.segments.is_empty())
}
