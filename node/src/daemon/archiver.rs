//! Takes every sealed segment into the archive, in order, and goes on where it stopped.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use dunlin_archive::{Object, Pin, PutError, catalog::Entry};
use dunlin_engine::Segment;
use dunlin_wire::Cid;
use tokio_util::sync::CancellationToken;

use super::{
    sealer::{Fresh, Sealer},
    shared::Shared,
};

/// Segments in one durable commit of the archive.
const BATCH: usize = 256;

/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Segments that are entered in a catalog at once, where it is made again.
const CATALOGED: usize = 4096;

/// What to do about an archive without room.
const FULL: &str = "nothing is archived until there is room: raise `archive.mib_max` and restart the node, or \
                    let go of something (`dunlin archive pins ls --all` shows what takes how much)";

/// Runs until `stop`. A failure is reported and tried again: archiving waits, ingest goes on.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) -> anyhow::Result<()> {
    if let Err(cause) = shared.blocking(catalog_all).await {
        shared.report("catalog", format!("{cause:#}"));
    }
    let mut sealer = Sealer::default();
    loop {
        let mut fresh = Fresh::new();
        let mut pause = match shared.blocking(archive_batch).await {
            Ok(None) => {
                shared.recovered("archive");
                Duration::MAX
            }
            Ok(Some(archived)) => {
                shared.recovered("archive");
                shared.network.stored(archived.cids).await;
                shared.archived();
                shared.recovery.archived();
                shared.news.notify_one();
                fresh = archived.roots;
                Duration::ZERO
            }
            Err(cause) => {
                shared.report("archive", format!("{cause:#}"));
                RETRY
            }
        };
        pause = pause.min(seal_step(&shared, &mut sealer, fresh).await);
        shared.publisher.look();
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = shared.sealed.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Takes a step with the sealed copies; returns when to take the next.
async fn seal_step(shared: &Arc<Shared>, sealer: &mut Sealer, fresh: Fresh) -> Duration {
    let mut at_work = std::mem::take(sealer);
    let (at_work, done) = shared
        .blocking(move |shared| {
            let done = at_work.step(shared, &fresh);
            (at_work, done)
        })
        .await;
    *sealer = at_work;
    match done {
        Ok(step) => {
            shared.recovered("sealing");
            if !step.stored.is_empty() {
                shared.network.stored(step.stored).await;
            }
            if step.is_more { Duration::ZERO } else { step.next.unwrap_or(Duration::MAX) }
        }
        Err(cause) => {
            shared.report("sealing", format!("{cause:#}"));
            RETRY
        }
    }
}

/// What was archived together.
struct Archived {
    /// All blocks.
    cids: Vec<Cid>,
    /// The segments of each collection.
    roots: Fresh,
}

/// Archives the next segments that are not archived yet; returns them, or `None` when there are none.
#[tracing::instrument(skip_all)]
fn archive_batch(shared: &Shared) -> anyhow::Result<Option<Archived>> {
    let newest = shared.engine.last_segment()?;
    let mut position = shared.archive.position()?.unwrap_or(0);
    if position > newest {
        // The engine was restored from an older copy: its numbers begin again, and name other segments.
        tracing::warn!(
            position,
            newest,
            "the archive is ahead of the engine; all is archived again"
        );
        position = 0;
    }
    let sealed = shared.engine.sealed_after(position, BATCH)?;
    let Some(last) = sealed.last() else {
        // What was sealed last is removed already.
        if position < newest {
            shared.archive.put(&[], Some(newest))?;
        }
        return Ok(None);
    };
    let mut objects = Vec::with_capacity(sealed.len());
    let mut roots: Fresh = BTreeMap::new();
    for stored in &sealed {
        if let Some(blocks) = shared.engine.segment_blocks(&stored.cid)? {
            let collection = stored.segment.collection();
            roots.entry(collection.clone()).or_default().push(stored.cid);
            let pin = Pin::own(collection.as_str());
            let object = Object { pin, root: blocks.summary, links: blocks.payload };
            objects.push((stored.segment.start().0, object));
        }
    }
    match shared.archive.put_cataloged(&objects, Some(last.number)) {
        Err(PutError::Catalog { what }) => {
            tracing::warn!(what, "a catalog is damaged and is made again");
            for (_, object) in &objects {
                shared.archive.drop_catalog(&object.pin)?;
            }
            catalog_all(shared)?;
            shared.archive.put_cataloged(&objects, Some(last.number))?;
        }
        Err(full @ PutError::Full { .. }) => {
            // What was fetched may leave for it.
            shared.crowded.notify_one();
            return Err(anyhow::Error::new(full).context(FULL));
        }
        done => done?,
    }
    shared.replicas.archived(objects.iter().map(|(_, object)| object));
    let cids = objects.iter().flat_map(|(_, object)| object.cids()).collect();
    Ok(Some(Archived { cids, roots }))
}

/// Enters what was archived without its catalog: by an older version, or before the catalog was damaged.
fn catalog_all(shared: &Shared) -> anyhow::Result<()> {
    for (pin, count) in shared.archive.pins(Pin::OWN)? {
        let cataloged = shared.archive.catalog(&pin)?.map_or(0, |root| root.count);
        if cataloged >= count {
            continue;
        }
        let mut after = None;
        loop {
            let roots = shared.archive.roots(&pin, after.as_ref(), CATALOGED)?;
            let Some(last) = roots.last() else { break };
            after = Some(*last);
            let mut entries = Vec::with_capacity(roots.len());
            for cid in &roots {
                // One that is damaged on disk is entered when it is whole again.
                let block = shared.stored_block(cid)?;
                let segment = block.and_then(|block| Segment::decode(block.bytes()).ok());
                entries.extend(segment.and_then(|segment| Entry::new(segment.start().0, cid)));
            }
            shared.archive.enter(&pin, &entries)?;
        }
    }
    Ok(())
}
