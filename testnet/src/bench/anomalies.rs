//! How well scores tell labelled incidents from the rest: the engine's scorers beside plain ones.
//!
//! The train half of each entity is its past; every observation of the test half is scored, and the
//! scores are ranked against the labels by average precision, each observation for itself. No scorer sees
//! a label. All but `random` and `segment-z` are causal means over ten observations, as the engine's are.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use dunlin_engine::ScoreUnits;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{
    baselines::{self, Halves},
    scored::Scored,
};
use crate::{average_precision::average_precision, vts1::Series};

/// Over how many observations a score is the mean.
pub(super) const WINDOW: usize = 10;

/// After how long the learning scorer knows a regime, in microseconds: a day.
const KNOWN_AFTER_US: u64 = 86_400_000_000;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// A folder of VTS1 data; the built-in data when absent.
    pub data: Option<PathBuf>,
    /// Print the rows as JSON.
    pub json: bool,
}

/// One scorer on one entity, or its mean over a set.
#[derive(Clone, Debug, Serialize)]
struct Row {
    set: String,
    entity: String,
    scorer: &'static str,
    ap: f64,
}

/// Measures all scorers on all sets and prints the rows.
///
/// # Errors
///
/// Fails when the data cannot be read, or the engine leaves an observation without a score.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let dataset = super::dataset(options.data.as_deref())?;
    let progress = ProgressBar::new_spinner();
    progress.set_style(ProgressStyle::with_template("{spinner} {msg}")?);
    progress.enable_steady_tick(std::time::Duration::from_millis(200));
    let (mut rows, mut means) = (Vec::new(), Vec::new());
    for set in dataset.sets() {
        let first = rows.len();
        for series in dataset.read_set(&set) {
            let series = series?;
            if series.rows_train == 0 || series.labels().is_empty() {
                let why = "nothing to learn from, or nothing to judge";
                progress.suspend(|| eprintln!("{set} {} is left out: {why}", series.entity));
                continue;
            }
            let say = |scorer: &str| {
                progress.set_message(format!("{set} {}: {scorer}", series.entity));
            };
            measure(&set, &series, &say, &mut rows)
                .with_context(|| format!("entity {} of {set}", series.entity))?;
        }
        means.extend(means_of(&set, &rows[first..]));
    }
    progress.finish_and_clear();
    rows.extend(means);
    super::print(&rows, options.json, ["set", "entity", "scorer", "AP"], |row| {
        [row.set.clone(), row.entity.clone(), row.scorer.to_owned(), format!("{:.3}", row.ap)]
    })?;
    Ok(())
}

/// Measures all scorers on one entity.
fn measure(
    set: &str,
    series: &Series,
    say: &dyn Fn(&str),
    rows: &mut Vec<Row>,
) -> anyhow::Result<()> {
    let mut add = |scorer: &'static str, scores: Vec<f64>| {
        ensure!(scores.len() == series.labels().len(), "{scorer} left observations out");
        // Without an incident there is nothing to find, and no precision to speak of.
        if let Some(ap) = average_precision(&scores, series.labels()) {
            let (set, entity) = (set.to_owned(), series.entity.clone());
            rows.push(Row { set, entity, scorer, ap });
        }
        Ok(())
    };
    // Each baseline in the ranges that it does better with.
    let (halves, of_past) = (Halves::declared(series), Halves::of_past(series));
    add("random", baselines::random(series.labels().len()))?;
    say("mahalanobis");
    add("mahalanobis", baselines::mahalanobis(&halves))?;
    say("pca-residual");
    add("pca-residual", baselines::pca_residual(&halves))?;
    say("raw-knn-5");
    add("raw-knn-5", baselines::raw_knn(&of_past))?;
    say("segment-z");
    add("segment-z", baselines::segment_z(&halves))?;
    add("nearest-regime", baselines::nearest_regime(&of_past))?;
    say("ingest");
    let scored = Scored::ingest(series)?;
    for (scorer, units) in [
        ("dunlin", ScoreUnits::Blended),
        ("dunlin-range", ScoreUnits::Range),
        ("dunlin-z", ScoreUnits::Z),
        ("dunlin-noise", ScoreUnits::Noise),
    ] {
        say(scorer);
        let answer = scored.scores(units, None)?;
        if units == ScoreUnits::Range {
            let drift = answer.iter().map(|score| unsquashed(score.factors.drift));
            add("drift", baselines::causal_means(&drift.collect::<Vec<_>>(), WINDOW))?;
        }
        add(scorer, answer.iter().map(|score| score.level).collect())?;
    }
    say("dunlin-learning");
    let learning = scored.scores(ScoreUnits::Blended, Some(KNOWN_AFTER_US))?;
    add("dunlin-learning", learning.iter().map(|score| score.level).collect())
}

/// Returns the distance, over its threshold, that became a factor.
fn unsquashed(factor: f64) -> f64 {
    factor / (1.0 - factor)
}

/// Returns the mean of each scorer over the entities of a set, in the order of the rows.
fn means_of(set: &str, rows: &[Row]) -> Vec<Row> {
    let mut scorers: Vec<&'static str> = Vec::new();
    for row in rows.iter().filter(|row| row.entity == rows[0].entity) {
        scorers.push(row.scorer);
    }
    let mean = |scorer| {
        let of_scorer = rows.iter().filter(|row| row.scorer == scorer).map(|row| row.ap);
        let ap = of_scorer.clone().sum::<f64>() / of_scorer.count() as f64;
        Row { set: set.to_owned(), entity: "mean".to_owned(), scorer, ap }
    };
    scorers.into_iter().map(mean).collect()
}
