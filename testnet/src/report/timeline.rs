//! The newcomer's anomaly scores over its test half: alone above, with templates below, on one time axis.

use serde::Serialize;

use super::{
    Report,
    markup::{Markup, count, decimal},
};
use crate::vts1::Series;

/// Stretches of the chart: each shows the highest score in it, so that no peak is lost.
const BUCKETS_MAX: usize = 480;

const DAY_S: f64 = 86_400.0;

/// Scores over time.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Timeline {
    /// The newcomer's entity.
    pub(crate) entity: String,
    /// Length of the test half.
    pub(crate) length_s: u64,
    /// Length of each bucket.
    pub(crate) bucket_s: u64,
    /// Highest score in each bucket, by the newcomer's own past.
    pub(crate) alone: Vec<f64>,
    /// The same with adopted templates.
    pub(crate) with_templates: Vec<f64>,
    /// Labelled stretches.
    pub(crate) incidents: Vec<Incident>,
}

/// One labelled stretch of the test half.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Incident {
    /// From the begin of the test half.
    pub(crate) start_s: u64,
    /// From the begin of the test half.
    pub(crate) end_s: u64,
    /// Labelled observations.
    pub(crate) observations: u64,
    /// Highest score in it, by the newcomer's own past.
    pub(crate) peak_alone: f64,
    /// The same with adopted templates.
    pub(crate) peak_with_templates: f64,
    /// Share of the observations outside incidents that score as high as the peak, or higher.
    pub(crate) false_share_alone: f64,
    /// The same with adopted templates.
    pub(crate) false_share_with_templates: f64,
}

impl Timeline {
    /// Sums up two runs over the same test half.
    pub(crate) fn new(series: &Series, alone: &[f64], with_templates: &[f64]) -> Self {
        let rows = series.labels().len();
        let bucket = rows.div_ceil(BUCKETS_MAX).max(1);
        let peaks = |scores: &[f64]| scores.chunks(bucket).map(peak).collect();
        let mut incidents = Vec::new();
        let mut start = 0;
        for run in series.labels().chunk_by(|a, b| a == b) {
            let end = start + run.len();
            if run[0] {
                incidents.push(Incident::new(series, start..end, alone, with_templates));
            }
            start = end;
        }
        Self {
            entity: series.entity.clone(),
            length_s: rows as u64 * series.step_s,
            bucket_s: bucket as u64 * series.step_s,
            alone: peaks(alone),
            with_templates: peaks(with_templates),
            incidents,
        }
    }
}

impl Incident {
    fn new(series: &Series, rows: std::ops::Range<usize>, alone: &[f64], with: &[f64]) -> Self {
        let false_share = |scores: &[f64], peak: f64| {
            let normal = scores.iter().zip(series.labels()).filter(|(_, label)| !**label);
            let (above, all) = normal.fold((0_u64, 0_u64), |(above, all), (score, _)| {
                (above + u64::from(*score >= peak), all + 1)
            });
            super::quotient(above as f64, all as f64)
        };
        let (peak_alone, peak_with_templates) =
            (peak(&alone[rows.clone()]), peak(&with[rows.clone()]));
        Self {
            start_s: rows.start as u64 * series.step_s,
            end_s: rows.end as u64 * series.step_s,
            observations: rows.len() as u64,
            peak_alone,
            peak_with_templates,
            false_share_alone: false_share(alone, peak_alone),
            false_share_with_templates: false_share(with, peak_with_templates),
        }
    }
}

fn peak(scores: &[f64]) -> f64 {
    scores.iter().copied().fold(0.0, f64::max)
}

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 12.0;
const PANEL_TOPS: [f64; 2] = [34.0, 214.0];
const PANEL_HEIGHT: f64 = 132.0;
const HEIGHT: f64 = 384.0;

/// Returns the chart.
pub(super) fn chart(report: &Report) -> String {
    let timeline = &report.timeline;
    let mut svg = Markup::default();
    svg.add(format_args!(
        r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="timeline-title timeline-desc" class="chart">
<title id="timeline-title">Anomaly score of the newcomer over its test half</title>
<desc id="timeline-desc">Two panels over {:.1} days with {} labelled incidents shaded. Above, scores by the newcomer's own six hours: average precision {}. Below, with adopted templates: average precision {}. The table below the chart lists each incident.</desc>
<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="6" height="6" class="incident-fill"/><line x1="0" y1="0" x2="0" y2="6" class="incident-line"/></pattern></defs>"#,
        timeline.length_s as f64 / DAY_S,
        timeline.incidents.len(),
        decimal(report.ap_alone, 3),
        decimal(report.ap_with_templates, 3),
    ));
    let panels = [
        ("alone", "by its own six hours alone", report.ap_alone, &timeline.alone),
        ("with", "with adopted templates", report.ap_with_templates, &timeline.with_templates),
    ];
    for (top, (class, title, ap, scores)) in PANEL_TOPS.into_iter().zip(panels) {
        panel(&mut svg, timeline, top, class, scores);
        svg.add(format_args!(
            r#"<text x="{LEFT}" y="{}" class="panel-title"><tspan class="{class}-text">●</tspan> {title} · average precision {}</text>"#,
            top - 10.0,
            decimal(ap, 3)
        ));
    }
    axis(&mut svg, timeline);
    svg.add(format_args!("</svg>"));
    svg.into_string()
}

fn x(timeline: &Timeline, seconds: f64) -> f64 {
    LEFT + (WIDTH - LEFT - RIGHT) * super::quotient(seconds, timeline.length_s as f64)
}

fn panel(svg: &mut Markup, timeline: &Timeline, top: f64, class: &str, scores: &[f64]) {
    let right = WIDTH - RIGHT;
    let bottom = top + PANEL_HEIGHT;
    for incident in &timeline.incidents {
        let start = x(timeline, incident.start_s as f64);
        // Short incidents stay visible: two units are a thousandth of the width or so.
        let width = (x(timeline, incident.end_s as f64) - start).max(2.0);
        svg.add(format_args!(
            r##"<rect x="{start:.1}" y="{top}" width="{width:.1}" height="{PANEL_HEIGHT}" fill="url(#hatch)"><title>incident on day {:.2}, {} observations</title></rect>"##,
            incident.start_s as f64 / DAY_S,
            incident.observations
        ));
    }
    for (score, label) in [(0.0, "0"), (0.5, "0.5"), (1.0, "1")] {
        let y = bottom - PANEL_HEIGHT * score;
        svg.add(format_args!(
            r#"<line x1="{LEFT}" y1="{y}" x2="{right}" y2="{y}" class="grid"/><text x="{}" y="{}" class="tick end">{label}</text>"#,
            LEFT - 8.0,
            y + 4.0
        ));
    }
    let points: Vec<_> = scores
        .iter()
        .enumerate()
        .map(|(index, score)| {
            let middle = (index as f64 + 0.5) * timeline.bucket_s as f64;
            let x = x(timeline, middle.min(timeline.length_s as f64));
            format!("{x:.1},{:.1}", bottom - PANEL_HEIGHT * score)
        })
        .collect();
    if let (Some(first), Some(last)) = (points.first(), points.last()) {
        let edge = |point: &str| point.split(',').next().unwrap_or_default().to_owned();
        svg.add(format_args!(
            r#"<polygon points="{},{bottom} {} {},{bottom}" class="{class}-area"/><polyline points="{}" class="{class}-line"/>"#,
            edge(first),
            points.join(" "),
            edge(last),
            points.join(" ")
        ));
    }
}

fn axis(svg: &mut Markup, timeline: &Timeline) {
    let days = timeline.length_s as f64 / DAY_S;
    // One to fifteen ticks, whatever the length.
    let step = [0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]
        .into_iter()
        .find(|step| days / step <= 15.0)
        .unwrap_or(days / 10.0);
    let bottom = PANEL_TOPS[1] + PANEL_HEIGHT;
    let mut day = 0.0;
    while step > 0.0 && day <= days {
        let x = x(timeline, day * DAY_S);
        svg.add(format_args!(
            r#"<line x1="{x:.1}" y1="{bottom}" x2="{x:.1}" y2="{}" class="axis"/><text x="{x:.1}" y="{}" class="tick middle">{day}</text>"#,
            bottom + 5.0,
            bottom + 19.0
        ));
        day += step;
    }
    svg.add(format_args!(
        r#"<text x="{}" y="{}" class="tick middle">days into the test half</text>"#,
        LEFT + (WIDTH - LEFT - RIGHT) / 2.0,
        HEIGHT - 4.0
    ));
}

/// Returns the same as a table, incident by incident.
pub(super) fn incidents(report: &Report) -> String {
    let mut table = Markup::default();
    table.add(format_args!(
        r#"<table><caption>Labelled incidents of {}. The share in brackets says how much of the normal time scores as high as the incident's peak: small is good.</caption>
<thead><tr><th scope="col">day</th><th scope="col" class="n">observations</th><th scope="col" class="n">peak alone</th><th scope="col" class="n">peak with templates</th></tr></thead><tbody>"#,
        super::markup::escape(&report.timeline.entity)
    ));
    for incident in &report.timeline.incidents {
        let peak =
            |peak: f64, share: f64| format!("{peak:.3} <small>({:.1} %)</small>", share * 100.0);
        table.add(format_args!(
            r#"<tr><th scope="row">{:.2}</th><td class="n">{}</td><td class="n">{}</td><td class="n">{}</td></tr>"#,
            incident.start_s as f64 / DAY_S,
            count(incident.observations),
            peak(incident.peak_alone, incident.false_share_alone),
            peak(incident.peak_with_templates, incident.false_share_with_templates),
        ));
    }
    table.add(format_args!("</tbody></table>"));
    table.into_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vts1::Dataset;

    #[test]
    fn incidents_are_the_labelled_stretches() {
        let series = &Dataset::embedded().unwrap().read_alike(6).unwrap()[5];
        let rows = series.labels().len();
        let alone: Vec<f64> = (0..rows).map(|row| row as f64 / rows as f64).collect();
        let with = vec![0.5; rows];
        let timeline = Timeline::new(series, &alone, &with);
        assert_eq!(timeline.incidents.len(), 10, "the published number of events of omi-6");
        let labelled: u64 = timeline.incidents.iter().map(|i| i.observations).sum();
        assert_eq!(labelled, 198);
        for incident in &timeline.incidents {
            // A rising score: the peak is the last row of the incident, and whatever is later is higher.
            let last = (incident.end_s / 300 - 1) as usize;
            assert!((incident.peak_alone - alone[last]).abs() < 1e-12);
            let later = series.labels()[last..].iter().filter(|label| !**label).count();
            let normal = (rows - 198) as f64;
            assert!((incident.false_share_alone - later as f64 / normal).abs() < 1e-12);
            assert!((incident.false_share_with_templates - 1.0).abs() < 1e-12);
        }
        assert_eq!(timeline.alone.len(), 480);
        assert_eq!((timeline.bucket_s, timeline.length_s), (2_700, 1_296_000));
    }
}
