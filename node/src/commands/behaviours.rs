//! `behaviours`: what a fleet does again and again, and what it did hardly ever.

use std::time::Duration;

use dunlin_client::{Behaviour, BehavioursAnswer, Client, Outlier};

use crate::{
    cli::BehavioursArgs,
    output::{Output, Table, time},
};

/// Outliers that are printed; `--json` has all.
const OUTLIERS_SHOWN: usize = 10;

/// From never to most.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

pub(super) fn behaviours(
    client: &Client,
    args: &BehavioursArgs,
    out: Output,
) -> anyhow::Result<()> {
    out.show(&client.behaviours(&args.collection, args.details)?, text)
}

fn text(answer: &BehavioursAnswer) -> String {
    let mut parts = Vec::new();
    if answer.behaviours.is_empty() {
        parts.push("nothing is done often enough yet to be called a behaviour".to_owned());
    } else {
        let mut table = Table::new([
            "id",
            "behaviour",
            "segments",
            "share",
            "entities",
            "a stay",
            "hours 0-23 UTC",
            "last seen",
        ]);
        answer.behaviours.iter().for_each(|behaviour| table.row(row(behaviour)));
        parts.push(table.to_string());
    }
    if !answer.outliers.is_empty() {
        let mut table =
            Table::new(["outlier", "like it", "from", "to", "nearest", "distance", "segment"]);
        answer.outliers.iter().take(OUTLIERS_SHOWN).for_each(|one| table.row(outlier_row(one)));
        parts.push(table.to_string());
    }
    let coverage = &answer.coverage;
    let missing = coverage.missing.as_ref().map_or(String::new(), |why| format!("; {why}"));
    parts.push(format!(
        "{} of {} segments are in no behaviour; looked at in {:.1} ms{missing}",
        answer.outlier_segments,
        coverage.segments,
        Duration::from_micros(coverage.elapsed_us).as_secs_f64() * 1e3,
    ));
    parts.join("\n")
}

fn row(behaviour: &Behaviour) -> [String; 8] {
    let more = if behaviour.entities_cut { "+" } else { "" };
    // Whole seconds: nobody reads more of a mean.
    let dwell = Duration::from_secs(behaviour.dwell_us / 1_000_000);
    [
        behaviour.id.to_string(),
        behaviour.name.clone(),
        behaviour.segments.to_string(),
        format!("{:.1} %", 100.0 * behaviour.share),
        format!("{}{more}", behaviour.entities),
        humantime::format_duration(dwell).to_string(),
        bars(&behaviour.hours),
        time(behaviour.last_us),
    ]
}

fn outlier_row(outlier: &Outlier) -> [String; 7] {
    let nearest = outlier.nearest;
    [
        outlier.entity.clone(),
        outlier.segments.to_string(),
        time(outlier.start_us),
        time(outlier.end_us),
        nearest.map_or("-".to_owned(), |nearest| nearest.id.to_string()),
        nearest.map_or("-".to_owned(), |nearest| format!("{:.4}", nearest.distance)),
        outlier.cid.clone(),
    ]
}

/// Draws one bar for each hour, the highest one full.
fn bars(hours: &[f64]) -> String {
    let most = hours.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 7")]
    let bar = |hour: &f64| BARS[((hour / most * 7.0).round() as usize).min(7)];
    hours.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_bar_is_full_and_never_is_the_lowest() {
        assert_eq!(bars(&[0.0, 0.1, 0.2]), "▁▅█");
        assert_eq!(bars(&[0.0; 24]), "▁".repeat(24));
    }
}
