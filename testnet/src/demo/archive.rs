//! Step 2: every open regime is sealed, every segment archived, and the result measured.

use std::{ops::Range, time::Duration};

use anyhow::Context as _;

use super::{COLLECTION, stage::Stage};
use crate::{
    report::{PeerReport, Report, count},
    vts1::Series,
};

/// How long a peer may take to archive what it has sealed.
const ARCHIVE_TIMEOUT: Duration = Duration::from_secs(120);

/// Seals the open regimes of some peers and waits until their archives hold every segment.
pub(super) fn seal_and_archive(
    stage: &Stage<'_>,
    title: &'static str,
    peers: Range<usize>,
) -> anyhow::Result<()> {
    let step = stage.progress.step(title, 0);
    let peers = &stage.peers[peers];
    let mut sealed = 0;
    for peer in peers {
        let entities = peer.client.entities(COLLECTION).with_context(|| peer.says("entities"))?;
        for entity in entities.entities {
            peer.client
                .seal(COLLECTION, &entity.entity)
                .with_context(|| format!("{} was asked to seal {}", peer.name, entity.entity))?;
        }
        sealed += peer.client.status().with_context(|| peer.says("status"))?.segments;
    }
    step.set_length(sealed);
    let what = "the archives did not take every sealed segment in";
    stage.wait_for(what, ARCHIVE_TIMEOUT, || {
        let (mut archived, mut due) = (0, 0);
        for peer in peers {
            let archive = peer.client.archive().with_context(|| peer.says("archive"))?;
            archived += archive.archived;
            due += archive.due;
        }
        step.set(archived);
        Ok((due == 0 && archived >= sealed).then_some(()))
    })?;
    step.done(&format!("{} segments, each under its CID", count(sealed)));
    Ok(())
}

/// Asks every peer what it holds, how small it is, and what that cost.
pub(super) fn measure(
    stage: &Stage<'_>,
    series: &[Series],
    report: &mut Report,
) -> anyhow::Result<()> {
    let step = stage.progress.step("size and error", stage.peers.len() as u64);
    for (peer, series) in stage.peers.iter().zip(series) {
        stage.interrupt.check()?;
        let quality = peer.client.quality(COLLECTION).with_context(|| peer.says("quality"))?;
        let archive = peer.client.archive().with_context(|| peer.says("archive"))?;
        let ledger = peer.client.ledger().with_context(|| peer.says("ledger"))?;
        report.per_peer.push(PeerReport {
            name: peer.name.clone(),
            peer: peer.id.clone(),
            entity: series.entity.clone(),
            observations: quality.observations,
            segments: quality.segments,
            raw_bytes: quality.raw_bytes,
            stored_bytes: quality.stored_bytes,
            ratio: quality.ratio,
            nrmse: quality.nrmse,
            r2: quality.r2,
            window_ratio: quality.window_ratio,
            window_observations: quality.window_observations,
            archived: archive.archived,
            archive_bytes: archive.bytes,
            epsilon_spent: ledger.epsilon_spent,
            resident_bytes: None,
        });
        step.inc(1);
    }
    report.pool();
    step.done(&format!(
        "{:.1} times smaller at nRMSE {:.3}, R² {:.2}",
        report.ratio, report.nrmse, report.r2
    ));
    Ok(())
}
