//! A soak as a picture: resident memory and descriptors of every node that ran all the time.

use super::{Slope, SoakReport};
use crate::report::markup::{Markup, escape};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 110.0;
const TOP: f64 = 30.0;

/// Colors that people who see few colors tell apart.
const COLORS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f", "#000000"];

/// Returns the picture.
pub(super) fn svg(soak: &SoakReport) -> String {
    let mut svg = Markup::default();
    let height = 2.0 * (HEIGHT + 2.0 * TOP);
    svg.add(format_args!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="11" role="img"><title>Memory and descriptors over {:.1} minutes</title><rect width="100%" height="100%" fill="white"/>"#,
        soak.minutes
    ));
    let mib = |sample: &(f64, u64, u64)| sample.1 as f64 / f64::from(1 << 20);
    chart(&mut svg, soak, TOP, "resident memory, MiB", mib);
    chart(&mut svg, soak, HEIGHT + 3.0 * TOP, "descriptors", |sample| sample.2 as f64);
    svg.add(format_args!("</svg>\n"));
    svg.into_string()
}

fn chart(
    svg: &mut Markup,
    soak: &SoakReport,
    top: f64,
    title: &str,
    value: impl Fn(&(f64, u64, u64)) -> f64,
) {
    let length = soak.minutes * 60.0;
    let samples = soak.nodes.iter().flat_map(|node| &node.samples);
    let highest = samples.map(&value).fold(1.0, f64::max) * 1.1;
    let (wide, bottom) = (WIDTH - LEFT - RIGHT, top + HEIGHT);
    svg.add(format_args!(
        r##"<text x="{LEFT}" y="{:.0}">{title}</text><path d="M{LEFT} {top}V{bottom}H{:.0}" fill="none" stroke="#444"/>"##,
        top - 8.0,
        LEFT + wide
    ));
    for part in 0..=4 {
        let share = f64::from(part) / 4.0;
        let (x, y) = (LEFT + wide * share, bottom - HEIGHT * share);
        svg.add(format_args!(
            r#"<text x="{:.0}" y="{:.0}" text-anchor="end">{:.0}</text><text x="{x:.0}" y="{:.0}" text-anchor="middle">{:.1} min</text>"#,
            LEFT - 6.0,
            y + 4.0,
            highest * share,
            bottom + 15.0,
            soak.minutes * share
        ));
    }
    for (node, color) in soak.nodes.iter().zip(COLORS.iter().cycle()) {
        let points = line(node, |sample| {
            let x = LEFT + wide * (sample.0 / length).min(1.0);
            (x, bottom - HEIGHT * value(sample) / highest)
        });
        svg.add(format_args!(r#"<polyline points="{points}" fill="none" stroke="{color}"/>"#));
        let Some(last) = node.samples.last() else { continue };
        svg.add(format_args!(
            r#"<text x="{:.0}" y="{:.1}" fill="{color}">{}</text>"#,
            LEFT + wide + 6.0,
            bottom - HEIGHT * value(last) / highest + 4.0,
            escape(&node.name)
        ));
    }
}

fn line(node: &Slope, place: impl Fn(&(f64, u64, u64)) -> (f64, f64)) -> String {
    let points = node.samples.iter().map(|sample| {
        let (x, y) = place(sample);
        format!("{x:.1},{y:.1}")
    });
    points.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_has_a_line_in_both_charts() {
        let node = |name: &str| Slope {
            name: name.to_owned(),
            resident_bytes: 1 << 20,
            resident_mib_per_hour: 0.0,
            descriptors: 9,
            descriptors_per_hour: 0.0,
            samples: vec![(0.0, 1 << 20, 9), (60.0, 2 << 20, 9)],
        };
        let soak = SoakReport {
            minutes: 1.0,
            observations: 1,
            questions: 1,
            questions_failed: 0,
            restarts: 0,
            limits: (1.0, 1.0),
            nodes: vec![node("a"), node("<b>")],
        };
        let svg = svg(&soak);
        assert_eq!(svg.matches("<polyline").count(), 4);
        assert!(svg.contains("&lt;b&gt;") && !svg.contains("<b>"), "{svg}");
        assert!(!svg.contains("NaN"));
    }
}
