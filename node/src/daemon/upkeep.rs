//! Keeps the engine in shape while nobody waits for it: brings its index up to date, compacts what is old,
//! and removes entities that were silent for as long as the operator said.
//!
//! How old something is, is told by the clock and by the newest observation of its collection, whichever is
//! earlier: neither a clock that is years ahead nor the import of an old archive makes everything old.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use dunlin_archive::Pin;
use dunlin_engine::{
    CollectionName, EntityId, Life, SegmentQuery, TimeRange, Timestamp, WriteError,
};
use tokio_util::sync::CancellationToken;

use super::{clock, shared::Shared};

/// How long after there was nothing to do for the index it is looked again. Questions are right without it.
const PAUSE: Duration = Duration::from_secs(5);

/// How long after it failed: making a part takes a minute of a processor, and a disk stays full for longer.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(60);

/// How often it is looked for what is old: days count, not minutes.
const AGES_EVERY: Duration = Duration::from_secs(600);

/// Entities that are looked at together.
const PAGE: usize = 10_000;

/// Segments of an entity that are looked for in the archive together.
const SEGMENTS_PAGE: usize = 1_000;

/// Runs until `stop`. A failure is reported and tried again: ingest and questions go on without it.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut looked: Option<Instant> = None;
    loop {
        let mut pause = maintain(&shared, &stop).await?;
        if looked.is_none_or(|last| last.elapsed() >= AGES_EVERY) {
            let more = [
                report(&shared, "compaction", shared.blocking(Shared::compact_old).await),
                report(&shared, "retention", shared.blocking(retain).await),
            ];
            // What waits for the archive, or was more than fits one turn, goes on soon.
            let is_done = !more.contains(&true);
            looked = is_done.then(Instant::now);
            pause = if is_done { pause } else { pause.min(PAUSE) };
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Takes one step of the index; returns when to look again. It has a thread of its own, because a large part
/// takes a minute, and requests must not wait for its place.
async fn maintain(shared: &Arc<Shared>, stop: &CancellationToken) -> anyhow::Result<Duration> {
    let (work, stop) = (Arc::clone(shared), stop.clone());
    let step = move || work.engine.maintain_index(&|| !stop.is_cancelled());
    let step = tokio::task::spawn_blocking(step).await.context("the index's thread failed")?;
    Ok(match step {
        Ok(is_more) => {
            shared.recovered("index");
            if is_more { Duration::ZERO } else { PAUSE }
        }
        Err(cause) => {
            shared.report("index", format!("{:#}", anyhow::Error::from(cause)));
            PAUSE_AFTER_FAILURE
        }
    })
}

/// Tells how a part of the work went; returns whether there is more of it.
fn report(shared: &Shared, part: &'static str, done: anyhow::Result<bool>) -> bool {
    match done {
        Ok(is_more) => {
            shared.recovered(part);
            is_more
        }
        Err(cause) => {
            shared.report(part, format!("{cause:#}"));
            false
        }
    }
}

/// Removes the entities that were silent for too long and whose segments are all archived. What an open
/// regime holds is sealed first, so that it is archived too, and removed when that is done. Says whether
/// something waits for the archive.
fn retain(shared: &Shared) -> anyhow::Result<bool> {
    let Some(silence) = shared.config.engine.forget_silent else { return Ok(false) };
    let (mut is_more, mut failed) = (false, None);
    for spec in shared.engine.collections()? {
        let before = shared.moment_before(&spec.name, silence)?;
        for life in shared.lives(&spec.name)?.into_iter().filter(|life| life.last < before) {
            match retain_one(shared, &spec.name, &life) {
                Ok(waits) => is_more |= waits,
                // Others must not wait for the one that cannot be read.
                Err(cause) => failed = failed.or(Some(cause)),
            }
        }
    }
    failed.map_or(Ok(is_more), Err)
}

/// Seals or removes a silent entity; says whether it waits for the archive.
fn retain_one(shared: &Shared, collection: &CollectionName, life: &Life) -> anyhow::Result<bool> {
    if life.is_open {
        shared.engine.seal(collection, &life.entity)?;
        shared.sealed.notify_one();
        return Ok(true);
    }
    if !is_archived(shared, collection, &life.entity)? {
        return Ok(true);
    }
    match shared.engine.remove_if(collection, &life.entity, Some(life.observations)) {
        Ok(removed) => {
            let segments = removed.segments;
            tracing::info!(segments, "an entity was silent for too long and is forgotten");
        }
        // It woke up, or somebody else removed it.
        Err(WriteError::Changed { .. } | WriteError::UnknownEntity { .. }) => {}
        Err(cause) => return Err(cause.into()),
    }
    Ok(false)
}

/// Returns whether all segments of an entity are in the archive.
fn is_archived(
    shared: &Shared,
    collection: &CollectionName,
    entity: &EntityId,
) -> anyhow::Result<bool> {
    let pin = Pin::own(collection.as_str());
    let mut query = SegmentQuery {
        collection: collection.clone(),
        entity: Some(entity.clone()),
        range: TimeRange::ALL,
        after: 0,
        limit: SEGMENTS_PAGE,
    };
    loop {
        let page = shared.engine.segments(&query)?;
        let Some(last) = page.segments.last() else { return Ok(true) };
        query.after = last.number;
        for stored in &page.segments {
            if !shared.archive.is_pinned(&pin, &stored.cid)? {
                return Ok(false);
            }
        }
    }
}

impl Shared {
    /// Returns all entities of a collection.
    pub(super) fn lives(
        &self,
        collection: &CollectionName,
    ) -> Result<Vec<Life>, dunlin_engine::ReadError> {
        let mut lives: Vec<Life> = Vec::new();
        loop {
            let after = lives.last().map(|life| &life.entity);
            let page = self.engine.lives(collection, after, PAGE)?;
            let is_last = page.len() < PAGE;
            lives.extend(page);
            if is_last {
                return Ok(lives);
            }
        }
    }

    /// Returns the moment that is so long ago, by the clock or by the newest observation of a collection,
    /// whichever is earlier.
    pub(super) fn moment_before(
        &self,
        collection: &CollectionName,
        age: Duration,
    ) -> Result<Timestamp, dunlin_engine::ReadError> {
        let newest = self.lives(collection)?.iter().map(|life| life.last.0).max();
        let clock = i64::try_from(clock::now().0).unwrap_or(i64::MAX / 1_000).saturating_mul(1_000);
        let age_us = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        Ok(Timestamp(newest.unwrap_or(i64::MIN).min(clock).saturating_sub(age_us)))
    }
}
