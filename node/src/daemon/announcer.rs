//! Tells peers what is new, soon after it is, and again now and then for those who missed it.

use std::{sync::Arc, time::Duration};

use dunlin_protocols::messages::{SegmentAnnouncement, TemplateAnnouncement};
use tokio_util::sync::CancellationToken;

use super::{clock, shared::Shared};

/// How long news are collected before they are told.
const COLLECT: Duration = Duration::from_millis(300);

/// How often everything is told again.
const REPEAT: Duration = Duration::from_secs(600);

/// Runs until `stop`.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = shared.news.notified() => {}
            () = tokio::time::sleep(REPEAT) => {}
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(COLLECT) => {}
        }
        match shared.blocking(segment_announcements).await {
            Ok(announcements) => {
                for announcement in announcements {
                    shared.network.announce_segments(announcement).await;
                }
            }
            Err(cause) => shared.report("announcements", format!("{cause:#}")),
        }
        for (collection, count, digest) in shared.sharing.own_sets() {
            let announcement = TemplateAnnouncement::new(collection, count, digest, clock::now().0);
            shared.network.announce_templates(announcement).await;
        }
    }
}

/// Says how many segments of each collection are archived here. Only own peers could fetch them, so
/// without own peers there is nobody to tell.
fn segment_announcements(shared: &Shared) -> anyhow::Result<Vec<SegmentAnnouncement>> {
    if shared.config.network.own_peers.is_empty() {
        return Ok(Vec::new());
    }
    let mut announcements = Vec::new();
    for pin in shared.archive.pins("own/")?.into_keys() {
        let digest = shared.archive.digest(&pin)?;
        let collection = pin.as_str().trim_start_matches("own/");
        announcements.push(SegmentAnnouncement::new(
            collection,
            digest.count,
            digest.sha256,
            clock::now().0,
        ));
    }
    Ok(announcements)
}
