//! Steps 5 and 6: templates travel, and the newcomer's scores are measured with and without them.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, ensure};
use dunlin_client::{
    PublishRequest, Score, ScoreUnits, ScoresQuery, TemplateSet, TemplateSource, TemplateUse,
};

use super::{COLLECTION, PEERS, past_rows, stage::Stage};
use crate::{
    average_precision::average_precision,
    report::{EdgeKind, GateReport, Report, Timeline},
    vts1::Series,
};

/// Privacy loss of each release, for one observation.
const EPSILON: f64 = 1.0;

/// How long announced templates may take to reach the newcomer and pass its gate.
const TRAVEL_TIMEOUT: Duration = Duration::from_secs(60);

/// Shuffles whose mean is the control: one alone may be lucky.
const CONTROL_SEEDS: u64 = 5;

/// Lets peers 1 to 5 release templates and waits until the newcomer has judged every set.
pub(super) fn trade(stage: &Stage<'_>, report: &mut Report) -> anyhow::Result<()> {
    let makers = &stage.peers[..PEERS - 1];
    let step = stage.progress.step("templates", 2 * makers.len() as u64);
    for peer in makers {
        stage.interrupt.check()?;
        let request = PublishRequest {
            collection: COLLECTION.to_owned(),
            epsilon: Some(EPSILON),
            // The page and the report speak of observations.
            unit: Some("observation".to_owned()),
            ..PublishRequest::default()
        };
        let released = peer
            .client
            .publish_templates(&request)
            .with_context(|| format!("{} was asked to release templates", peer.name))?;
        report.templates_published += released.set.templates;
        report.template_bytes += released.set.bytes;
        report.template_sets_published += 1;
        step.inc(1);
    }
    let mut judged = Vec::new();
    let arrived = stage.wait_for("not all templates arrived", TRAVEL_TIMEOUT, || {
        judged = judged_sets(stage)?;
        step.set((makers.len() + judged.len()) as u64);
        Ok((judged.len() >= makers.len()).then_some(()))
    });
    stage.interrupt.check()?;
    if let Err(late) = arrived {
        // What arrived is still measured, and the report says what did not.
        report.problems.push(format!("{late:#}"));
    }
    for set in &judged {
        record_verdict(report, set);
    }
    report.gate.sort_by(|a, b| a.from.cmp(&b.from));
    record_travel(stage, report)?;
    step.done(&format!(
        "{} released, {} adopted by the newcomer's gate",
        report.templates_published, report.templates_adopted
    ));
    Ok(())
}

/// Scores the newcomer's test half alone, with adopted templates, and with shuffled ones.
pub(super) fn score(stage: &Stage<'_>, series: &Series, report: &mut Report) -> anyhow::Result<()> {
    let step = stage.progress.step("score the test half", 4 + CONTROL_SEEDS);
    let labels = series.labels();
    let ask = |templates, seed, known| {
        let run = scores(stage, series, templates, seed, known)?;
        step.inc(1);
        anyhow::Ok((average_precision(&run.scores, labels), run))
    };
    // Judged by what was known when the six hours ended: what follows is not learned from.
    let (ap_alone, alone) = ask(TemplateUse::None, 0, Known::Past)?;
    let (ap_with_templates, with) = ask(TemplateUse::Adopted, 0, Known::Past)?;
    let mut runs = Vec::new();
    for seed in 1..=CONTROL_SEEDS {
        runs.extend(ask(TemplateUse::Control, seed, Known::Past)?.0);
    }
    report.ap_alone = ap_alone;
    report.ap_with_templates = ap_with_templates;
    report.ap_control = (!runs.is_empty()).then(|| runs.iter().sum::<f64>() / runs.len() as f64);
    report.ap_control_runs = runs;
    report.ap_alone_online = ask(TemplateUse::None, 0, Known::Online)?.0;
    report.ap_with_templates_online = ask(TemplateUse::Adopted, 0, Known::Online)?.0;
    if (alone.templates, with.templates) != (0, report.templates_adopted) {
        // The gate has judged again, or scores use what they should not.
        report.problems.push(format!(
            "{} templates were adopted, but {} counted alone and {} with templates",
            report.templates_adopted, alone.templates, with.templates
        ));
    }
    let labelled = labels.iter().filter(|label| **label).count();
    report.ap_random = labelled as f64 / labels.len() as f64;
    report.timeline = Timeline::new(series, &alone.scores, &with.scores);
    let shown = |ap: Option<f64>| ap.map_or("-".to_owned(), |ap| format!("{ap:.3}"));
    step.done(&format!(
        "average precision {} alone, {} with templates, {} shuffled",
        shown(report.ap_alone),
        shown(report.ap_with_templates),
        shown(report.ap_control)
    ));
    Ok(())
}

/// What the newcomer may know when it scores.
#[derive(Clone, Copy, Debug)]
enum Known {
    /// Its six hours.
    Past,
    /// Whatever it had seen before each observation.
    Online,
}

/// Returns one score for each row of the test half.
fn scores(
    stage: &Stage<'_>,
    series: &Series,
    templates: TemplateUse,
    seed: u64,
    known: Known,
) -> anyhow::Result<Run> {
    stage.interrupt.check()?;
    let newcomer = stage.newcomer();
    let last_known = series.timestamp_us(past_rows(series) - 1);
    let query = ScoresQuery {
        collection: COLLECTION.to_owned(),
        entity: series.entity.clone(),
        from_us: series.timestamp_us(series.rows_train),
        to_us: series.timestamp_us(series.rows() - 1),
        known_until_us: matches!(known, Known::Past).then_some(last_known),
        templates,
        seed,
        // Six hours of one's own past are too little to learn units from.
        units: ScoreUnits::Range,
        known_after_us: 0,
    };
    let answer = newcomer.client.scores(&query).with_context(|| newcomer.says("scores"))?;
    Ok(Run { scores: in_row_order(series, &answer.scores)?, templates: answer.templates })
}

/// One pass over the test half.
struct Run {
    /// In the order of the test rows.
    scores: Vec<f64>,
    /// Templates that counted as known behaviour.
    templates: u64,
}

/// Returns the scores in the order of the test rows: each row has to have exactly one.
fn in_row_order(series: &Series, scores: &[Score]) -> anyhow::Result<Vec<f64>> {
    let expected = series.labels().len();
    ensure!(scores.len() == expected, "{} scores for {expected} observations", scores.len());
    let rows = series.rows_train..series.rows();
    for (row, score) in rows.zip(scores) {
        ensure!(
            score.timestamp_us == series.timestamp_us(row),
            "the score of row {row} is of another time, {} µs",
            score.timestamp_us
        );
        ensure!(
            (0.0..=1.0).contains(&score.score),
            "the score of row {row} is {}, which is not in 0 to 1",
            score.score
        );
    }
    Ok(scores.iter().map(|score| score.score).collect())
}

/// Returns the newcomer's received sets that its gate has judged, one for each signer.
fn judged_sets(stage: &Stage<'_>) -> anyhow::Result<Vec<TemplateSet>> {
    let newcomer = stage.newcomer();
    let held = newcomer.client.templates().with_context(|| newcomer.says("templates"))?;
    let mut signers = BTreeSet::new();
    let is_judged = |set: &TemplateSet| {
        set.collection == COLLECTION
            && set.source == TemplateSource::Peer
            && set.verdict.is_some()
            && signers.insert(set.signer.clone())
    };
    Ok(held.sets.into_iter().filter(is_judged).collect())
}

fn record_verdict(report: &mut Report, set: &TemplateSet) {
    let Some(verdict) = &set.verdict else { return };
    if verdict.adopted {
        report.templates_adopted += set.templates;
        report.template_sets_adopted += 1;
    }
    let from = report.node_name(&set.signer).unwrap_or(&set.signer).to_owned();
    report.gate.push(GateReport {
        from,
        templates: set.templates,
        adopted: verdict.adopted,
        own_q90: verdict.own_q90,
        foreign_q90: verdict.foreign_q90,
        reason: verdict.reason.clone(),
    });
}

/// Writes down whose templates each peer holds by now. Only the newcomer was waited for.
fn record_travel(stage: &Stage<'_>, report: &mut Report) -> anyhow::Result<()> {
    for peer in &stage.peers {
        let held = peer.client.templates().with_context(|| peer.says("templates"))?;
        for set in held.sets.iter().filter(|set| set.source == TemplateSource::Peer) {
            report.add_edge(&set.signer, &peer.name, EdgeKind::Templates, set.templates);
        }
    }
    Ok(())
}
