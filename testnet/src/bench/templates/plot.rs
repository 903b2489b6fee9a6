//! The means as a picture: what templates are worth as one's own history grows, and as privacy does.

use std::fmt::Write as _;

use super::summary::Mean;

/// Size of one panel, and the space around its axes, in pixels.
const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 48.0;
const RIGHT: f64 = 118.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 40.0;

/// Readable in print and by most who are color-blind (Okabe and Ito, 2008).
const COLORS: [&str; 6] = ["#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#999999"];

/// A name, and the average precision at some of the panel's places.
type Line = (String, Vec<Option<f64>>);

struct Panel {
    title: String,
    places: Vec<String>,
    axis: &'static str,
    lines: Vec<Line>,
}

/// Returns an SVG of two panels for each set.
pub(super) fn draw(means: &[Mean]) -> String {
    let mut sets: Vec<&str> = means.iter().map(|mean| mean.set.as_str()).collect();
    sets.dedup();
    let height = HEIGHT * sets.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        2.0 * WIDTH
    );
    for (row, set) in sets.iter().enumerate() {
        let of_set: Vec<&Mean> =
            means.iter().filter(|mean| mean.set == *set && mean.attack.is_none()).collect();
        let panels = [by_history(set, &of_set), by_epsilon(set, &of_set)];
        for (column, panel) in panels.iter().enumerate() {
            draw_panel(&mut svg, panel, column as f64 * WIDTH, row as f64 * HEIGHT);
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn by_history(set: &str, means: &[&Mean]) -> Panel {
    let peers = means.iter().map(|mean| mean.peers).max().unwrap_or(0);
    let mut hours: Vec<(bool, u64)> = means
        .iter()
        .map(|mean| (mean.is_full, if mean.is_full { 0 } else { mean.history_h }))
        .collect();
    hours.sort_unstable();
    hours.dedup();
    let line = |unit: &str, peers: usize, value: fn(&Mean) -> f64| -> Vec<Option<f64>> {
        let is_it = |mean: &&&Mean, place: &(bool, u64)| {
            let is_there = mean.is_full == place.0 && (mean.is_full || mean.history_h == place.1);
            let is_plain = mean.epsilon.is_none_or(|epsilon| epsilon == 1.0);
            is_there && is_plain && mean.unit == unit && mean.peers == peers
        };
        let at = |place| means.iter().find(|mean| is_it(mean, place)).map(|mean| value(mean));
        hours.iter().map(at).collect()
    };
    let mut lines: Vec<Line> = vec![
        ("alone".to_owned(), line("observation", peers, |mean| mean.alone)),
        (format!("{peers} peers, epsilon 1"), line("observation", peers, |mean| mean.with)),
        ("no noise".to_owned(), line("none", peers, |mean| mean.with)),
        ("2 peers".to_owned(), line("observation", 2, |mean| mean.with)),
        ("1 peer".to_owned(), line("observation", 1, |mean| mean.with)),
        ("shuffled".to_owned(), line("observation", peers, |mean| mean.control)),
    ];
    lines.retain(|(_, values)| values.iter().any(Option::is_some));
    let places = hours.iter().map(
        |(is_full, hours)| {
            if *is_full { "all".to_owned() } else { format!("{hours} h") }
        },
    );
    Panel {
        title: format!("{set}: per observation, by own history"),
        places: places.collect(),
        axis: "own history",
        lines,
    }
}

fn by_epsilon(set: &str, means: &[&Mean]) -> Panel {
    let peers = means.iter().map(|mean| mean.peers).max().unwrap_or(0);
    let short: Vec<&&Mean> =
        means.iter().filter(|mean| mean.history_h == 6 && mean.peers == peers).collect();
    let mut epsilons: Vec<f64> = short.iter().filter_map(|mean| mean.epsilon).collect();
    epsilons.sort_by(f64::total_cmp);
    epsilons.dedup();
    let mut kinds: Vec<(&str, usize)> = Vec::new();
    for mean in short.iter().filter(|mean| mean.epsilon.is_some()) {
        let kind = (mean.unit, if mean.unit == "entity" { mean.units } else { 0 });
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let line = |(unit, units): &(&str, usize)| -> Line {
        let is_it = |mean: &&&&Mean, epsilon: f64| {
            mean.unit == *unit
                && mean.epsilon == Some(epsilon)
                && (*units == 0 || mean.units == *units)
        };
        let at =
            |epsilon: &f64| short.iter().find(|mean| is_it(mean, *epsilon)).map(|mean| mean.with);
        let name =
            if *units == 0 { (*unit).to_owned() } else { format!("{units} {unit}, resampled") };
        (name, epsilons.iter().map(at).collect())
    };
    let mut lines: Vec<Line> = Vec::new();
    if let Some(mean) = short.first() {
        lines.push(("alone".to_owned(), vec![Some(mean.alone); epsilons.len()]));
    }
    lines.extend(kinds.iter().map(line));
    lines.truncate(COLORS.len());
    Panel {
        title: format!("{set}: 6 hours of own history, by epsilon"),
        places: epsilons.iter().map(f64::to_string).collect(),
        axis: "epsilon",
        lines,
    }
}

fn draw_panel(svg: &mut String, panel: &Panel, left: f64, top: f64) {
    let values = panel.lines.iter().flat_map(|(_, values)| values.iter().flatten());
    let most = (values.copied().fold(0.1_f64, f64::max) * 10.0).ceil() / 10.0;
    let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let x = |place: usize| {
        left + LEFT + width * (place as f64 + 0.5) / panel.places.len().max(1) as f64
    };
    let y = |value: f64| top + TOP + height * (1.0 - value / most);
    let mut text = |x: f64, y: f64, anchor: &str, color: &str, text: &str| {
        // Everything written is ours: names of sets come from a manifest and are escaped.
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{color}\">{text}</text>")
            .expect("a string takes everything");
    };
    text(left + LEFT, top + 18.0, "start", "#000", &panel.title);
    text(left + LEFT + width / 2.0, top + HEIGHT - 8.0, "middle", "#000", panel.axis);
    for (place, name) in panel.places.iter().enumerate() {
        text(x(place), top + HEIGHT - BOTTOM + 15.0, "middle", "#000", name);
    }
    for tick in 0..=5 {
        let value = most * f64::from(tick) / 5.0;
        text(left + LEFT - 6.0, y(value) + 4.0, "end", "#000", &format!("{value:.2}"));
    }
    let mut low = f64::INFINITY;
    let mut labels: Vec<(f64, &str, &str)> = Vec::new();
    for ((name, values), color) in panel.lines.iter().zip(COLORS) {
        if let Some(last) = values.iter().rev().flatten().next() {
            labels.push((y(*last), name, color));
        }
    }
    // From the lowest up, each at least a line above the one below.
    labels.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (at, name, color) in labels {
        low = at.min(low - 12.0);
        text(left + LEFT + width + 4.0, low + 4.0, "start", color, name);
    }
    for tick in 0..=5 {
        let (y, from) = (y(most * f64::from(tick) / 5.0), left + LEFT);
        writeln!(svg, "<path d=\"M{from:.1} {y:.1}h{width:.1}\" stroke=\"#ddd\"/>")
            .expect("a string takes everything");
    }
    for ((_, values), color) in panel.lines.iter().zip(COLORS) {
        let points: Vec<(f64, f64)> = values
            .iter()
            .enumerate()
            .filter_map(|(place, value)| value.map(|value| (x(place), y(value))))
            .collect();
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.6\"/>",
            path.join(" ")
        )
        .expect("a string takes everything");
        for (x, y) in points {
            writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.6\" fill=\"{color}\"/>")
                .expect("a string takes everything");
        }
    }
}
