//! Step 4: a seventh process offers one block with a flipped byte, and is refused.

use std::{fs, time::Duration};

use anyhow::Context as _;
use dunlin_client::{AttemptOutcome, FetchRequest, Standing};

use super::{
    fetch::{Selection, record_attempts},
    stage::Stage,
};
use crate::{
    peer::{Home, peer_of},
    report::{Lie, NodeReport, Report, Role},
};

/// What the liar is called in the report.
const LIAR: &str = "liar";

/// How long the newcomer may take to meet the liar: both only know the bootstrap node.
const MEET_TIMEOUT: Duration = Duration::from_secs(90);

/// Lets a stranger lie to the newcomer about one block, and the newcomer find out.
pub(super) fn be_lied_to(
    stage: &mut Stage<'_>,
    selection: &Selection,
    report: &mut Report,
) -> anyhow::Result<()> {
    let step = stage.progress.step("a liar offers a block", 3);
    let cid = &selection.contested.segment.cid;
    let owner = &stage.peers[selection.contested.owner];
    let bytes = owner.client.block(cid).with_context(|| owner.says("block"))?;
    let block = stage.folder.join("contested.block");
    fs::write(&block, bytes).with_context(|| format!("cannot write {}", block.display()))?;

    let home = Home::new(&stage.folder, LIAR);
    let victim = stage.newcomer().id.as_str();
    let command = stage.program.liar(&home, &stage.bootstrap, victim, &block, cid);
    let process = stage.supervisor.spawn("the liar", command, &home.log)?;
    let address = stage.await_address(&home, &process)?;
    let liar = peer_of(&address).context("the liar's address has no peer id")?.to_owned();
    report.nodes.push(NodeReport {
        name: LIAR.to_owned(),
        role: Role::Liar,
        peer: liar.clone(),
        entity: None,
    });
    step.inc(1);
    let newcomer = stage.newcomer();
    stage.wait_for("the newcomer did not meet the liar", MEET_TIMEOUT, || {
        let peers = newcomer.client.peers().with_context(|| newcomer.says("peers"))?.peers;
        Ok(peers.iter().any(|peer| peer.connected && peer.peer == liar).then_some(()))
    })?;
    step.inc(1);
    let request = FetchRequest {
        cids: vec![cid.clone()],
        peers: vec![liar.clone()],
        payload: false,
        dht: false,
    };
    let answer = newcomer.client.fetch(&request).with_context(|| newcomer.says("fetch"))?;
    let fetched = answer.segments.first().context("the newcomer's answer names no segment")?;
    record_attempts(report, &newcomer.name, fetched);
    let position = |outcome, is_liar| {
        fetched.attempts.iter().position(|a| a.outcome == outcome && (a.peer == liar) == is_liar)
    };
    let refused = position(AttemptOutcome::Corrupt, true);
    let honest = position(AttemptOutcome::Verified, false);
    let archive = newcomer.client.archive().with_context(|| newcomer.says("archive"))?;
    report.corrupt_refused = archive.corrupt_refused;
    let (trust, standing) = opinion_of(stage, &liar)?.unzip();
    report.lie = Some(Lie {
        cid: cid.clone(),
        refused: refused.is_some(),
        then_verified: honest.is_some() && honest > refused && fetched.segment.is_some(),
        trust,
        standing,
    });
    step.done(&format!("{} refused, then fetched from an honest peer", report.corrupt_refused));
    Ok(())
}

/// Returns what the newcomer now thinks of the liar: a score from 0 to 1, and its standing.
fn opinion_of(stage: &Stage<'_>, liar: &str) -> anyhow::Result<Option<(f64, Standing)>> {
    let newcomer = stage.newcomer();
    let peers = newcomer.client.peers().with_context(|| newcomer.says("peers"))?.peers;
    Ok(peers.iter().find(|peer| peer.peer == liar).map(|peer| (peer.score, peer.standing)))
}
