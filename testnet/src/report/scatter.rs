//! Size against error: each peer's segments, and the fixed windows that have the same error.

use super::{
    PeerReport, Report,
    markup::{Markup, decimal, escape},
};

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 46.0;

/// Returns the chart.
pub(super) fn chart(report: &Report) -> String {
    let scale = Scale::of(&report.per_peer);
    let mut svg = Markup::default();
    svg.add(format_args!(
        r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="size-title size-desc" class="chart">
<title id="size-title">Size against error, peer by peer</title>
<desc id="size-desc">For each peer a filled circle at the error and compression ratio of its segments, and a hollow square at the ratio of fixed windows with the same error. Higher is smaller. The table of peers lists the numbers.</desc>"#
    ));
    axes(&mut svg, &scale);
    for peer in &report.per_peer {
        marks(&mut svg, &scale, peer);
    }
    svg.add(format_args!("</svg>"));
    svg.into_string()
}

/// Error to x, linear; ratio to y, logarithmic, between powers of two.
struct Scale {
    error_max: f64,
    ratio_log2: (f64, f64),
}

impl Scale {
    fn of(peers: &[PeerReport]) -> Self {
        let ratios = || {
            peers
                .iter()
                .flat_map(|p| [Some(p.ratio), p.window_ratio])
                .flatten()
                .filter(|ratio| ratio.is_finite() && *ratio > 0.0)
        };
        let low = ratios().fold(f64::INFINITY, f64::min).log2().floor();
        let high = ratios().fold(0.0, f64::max).log2().ceil();
        // Without a ratio there is nothing to scale; an empty chart from 1 to 2 is drawn.
        let ratio_log2 = if low.is_finite() && high.is_finite() {
            (low, high.max(low + 1.0))
        } else {
            (0.0, 1.0)
        };
        let error = peers.iter().map(|p| p.nrmse).fold(0.0, f64::max);
        // Up to the next 0.02, so that ticks are round.
        Self { error_max: ((error / 0.02).floor() + 1.0) * 0.02, ratio_log2 }
    }

    fn x(&self, error: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * error / self.error_max
    }

    fn y(&self, ratio: f64) -> f64 {
        let (low, high) = self.ratio_log2;
        let share = (ratio.log2() - low) / (high - low);
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share
    }
}

fn axes(svg: &mut Markup, scale: &Scale) {
    let (low, high) = scale.ratio_log2;
    for power in low as i32..=high as i32 {
        let ratio = f64::from(power).exp2();
        let y = scale.y(ratio);
        svg.add(format_args!(
            r#"<line x1="{LEFT}" y1="{y:.1}" x2="{}" y2="{y:.1}" class="grid"/><text x="{}" y="{:.1}" class="tick end">{ratio}×</text>"#,
            WIDTH - RIGHT,
            LEFT - 8.0,
            y + 4.0
        ));
    }
    let ticks = 4;
    for tick in 0..=ticks {
        let error = scale.error_max * f64::from(tick) / f64::from(ticks);
        let x = scale.x(error);
        svg.add(format_args!(
            r#"<line x1="{x:.1}" y1="{0}" x2="{x:.1}" y2="{1}" class="axis"/><text x="{x:.1}" y="{2}" class="tick middle">{error:.3}</text>"#,
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 5.0,
            HEIGHT - BOTTOM + 19.0
        ));
    }
    svg.add(format_args!(
        r#"<text x="{}" y="{}" class="tick middle">error, nRMSE (fraction of a channel's range)</text>"#,
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 6.0
    ));
}

fn marks(svg: &mut Markup, scale: &Scale, peer: &PeerReport) {
    if !(peer.ratio > 0.0 && peer.ratio.is_finite()) {
        return;
    }
    let (x, y) = (scale.x(peer.nrmse), scale.y(peer.ratio));
    let label = format!(
        "{}, {}: {} times smaller at nRMSE {}; fixed windows {} times",
        escape(&peer.name),
        escape(&peer.entity),
        decimal(Some(peer.ratio), 1),
        decimal(Some(peer.nrmse), 3),
        decimal(peer.window_ratio, 1)
    );
    svg.add(format_args!("<g><title>{label}</title>"));
    if let Some(windows) = peer.window_ratio.filter(|ratio| *ratio > 0.0 && ratio.is_finite()) {
        let window_y = scale.y(windows);
        svg.add(format_args!(
            r#"<line x1="{x:.1}" y1="{y:.1}" x2="{x:.1}" y2="{window_y:.1}" class="pair"/><rect x="{:.1}" y="{:.1}" width="9" height="9" class="window-mark"/>"#,
            x - 4.5,
            window_y - 4.5
        ));
    }
    let number = peer.name.rsplit(' ').next().unwrap_or_default();
    svg.add(format_args!(
        r#"<circle cx="{x:.1}" cy="{y:.1}" r="9" class="segment-mark"/><text x="{x:.1}" y="{:.1}" class="mark-label middle">{}</text></g>"#,
        y + 4.0,
        escape(number)
    ));
}
