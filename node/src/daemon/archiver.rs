//! Takes every sealed segment into the archive, in order, and goes on where it stopped.

use std::{sync::Arc, time::Duration};

use dunlin_archive::{Object, Pin};
use dunlin_wire::Cid;
use tokio_util::sync::CancellationToken;

use super::shared::Shared;

/// Segments in one durable commit of the archive.
const BATCH: usize = 256;

/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Runs until `stop`. A failure is reported and tried again: archiving waits, ingest goes on.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        let pause = match shared.blocking(archive_batch).await {
            Ok(cids) if cids.is_empty() => {
                shared.recovered("archive");
                Duration::MAX
            }
            Ok(cids) => {
                shared.recovered("archive");
                shared.network.stored(cids).await;
                shared.archived();
                shared.news.notify_one();
                Duration::ZERO
            }
            Err(cause) => {
                shared.report("archive", format!("{cause:#}"));
                RETRY
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = shared.sealed.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Archives the next segments that are not archived yet; returns their blocks.
fn archive_batch(shared: &Shared) -> anyhow::Result<Vec<Cid>> {
    let position = shared.archive.position()?.unwrap_or(0);
    let sealed = shared.engine.sealed_after(position, BATCH)?;
    let Some(last) = sealed.last() else { return Ok(Vec::new()) };
    let mut objects = Vec::with_capacity(sealed.len());
    for stored in &sealed {
        if let Some(blocks) = shared.engine.segment_blocks(&stored.cid)? {
            let pin = Pin::own(stored.segment.collection().as_str());
            objects.push(Object { pin, root: blocks.summary, links: blocks.payload });
        }
    }
    shared.archive.put(&objects, Some(last.number))?;
    Ok(objects.iter().flat_map(Object::cids).collect())
}
