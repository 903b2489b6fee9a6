//! Lets fetched segments leave the archive: those that are too old, and the oldest when it is nearly full.
//!
//! It takes one small step after the other and rests as long as each took, so whoever stores something
//! waits for one step at most.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dunlin_archive::Retention;
use tokio_util::sync::CancellationToken;

use super::{clock, shared::Shared};

/// How often it is looked whether something may leave.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Shortest rest between two steps.
const REST: Duration = Duration::from_millis(2);

/// Runs until `stop`. A failure is reported and tried again.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut retention = Retention::new(shared.config.archive.keep_fetched);
    let (mut objects, mut bytes) = (0, 0);
    loop {
        let began = Instant::now();
        let (back, step) = shared
            .blocking(move |shared| {
                let step = retention.step(&shared.archive, clock::now().0);
                (retention, step)
            })
            .await;
        retention = back;
        let pause = match step {
            Ok(step) => {
                shared.recovered("archive-retention");
                (objects, bytes) = (objects + step.objects, bytes + step.bytes);
                if step.is_more { began.elapsed().max(REST) } else { LOOK_EVERY }
            }
            Err(cause) => {
                let cause = format!("{:#}", anyhow::Error::from(cause));
                shared.report("archive-retention", cause);
                LOOK_EVERY
            }
        };
        if pause == LOOK_EVERY && objects > 0 {
            tracing::info!(objects, bytes, "fetched segments left the archive");
            (objects, bytes) = (0, 0);
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = shared.crowded.notified(), if pause == LOOK_EVERY => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}
