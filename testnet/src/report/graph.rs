//! The network: who was connected to whom, and who fetched what from whom.

use std::{collections::BTreeMap, f64::consts::TAU};

use super::{
    Edge, EdgeKind, NodeReport, Report, Role,
    markup::{Markup, count, escape},
};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 370.0;
const CENTER: (f64, f64) = (360.0, 185.0);
const RADIUS: f64 = 162.0;
const NODE_RADIUS: f64 = 29.0;
/// The bootstrap node stands apart: it introduces and serves nothing.
const BOOTSTRAP: (f64, f64) = (70.0, 185.0);
/// So does the liar, on the newcomer's side.
const LIAR: (f64, f64) = (660.0, 185.0);

/// Returns the graph.
pub(super) fn graph(report: &Report) -> String {
    let places = places(&report.nodes);
    let mut svg = Markup::default();
    svg.add(format_args!(
        r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="graph-title graph-desc" class="chart">
<title id="graph-title">Who fetched what from whom</title>
<desc id="graph-desc">{} processes. Thin dashed lines are connections. Arrows lead from who served to who fetched: segments, templates, and in red what was refused. The table beside the graph lists every arrow.</desc>
<defs>"#,
        report.nodes.len()
    ));
    for kind in ["segments", "templates", "refused"] {
        svg.add(format_args!(
            r#"<marker id="arrow-{kind}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0L10 5L0 10z" class="{kind}-fill"/></marker>"#
        ));
    }
    svg.add(format_args!("</defs>"));
    for connection in &report.connections {
        if let (Some(a), Some(b)) =
            (places.get(connection.a.as_str()), places.get(connection.b.as_str()))
        {
            svg.add(format_args!(
                r#"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" class="connection"/>"#,
                a.0, a.1, b.0, b.1
            ));
        }
    }
    let newcomer = report.per_peer.last().map_or("", |peer| peer.name.as_str());
    // What matters most is drawn last, on top.
    for kind in [EdgeKind::Templates, EdgeKind::Segments, EdgeKind::Refused] {
        for edge in report.edges.iter().filter(|edge| edge.kind == kind) {
            if let (Some(from), Some(to)) =
                (places.get(edge.from.as_str()), places.get(edge.to.as_str()))
            {
                arrow(&mut svg, *from, *to, edge, newcomer);
            }
        }
    }
    for node in &report.nodes {
        if let Some(place) = places.get(node.name.as_str()) {
            circle(&mut svg, *place, node);
        }
    }
    svg.add(format_args!("</svg>"));
    svg.into_string()
}

/// Peers on a circle with the last one on the right, the others beside it.
fn places(nodes: &[NodeReport]) -> BTreeMap<&str, (f64, f64)> {
    let peers = nodes.iter().filter(|node| node.role == Role::Peer).count().max(1);
    let mut index = 0;
    nodes
        .iter()
        .map(|node| {
            let place = match node.role {
                Role::Bootstrap => BOOTSTRAP,
                Role::Liar => LIAR,
                Role::Peer => {
                    index += 1;
                    let angle = TAU * index as f64 / peers as f64;
                    (CENTER.0 + RADIUS * angle.cos(), CENTER.1 + RADIUS * angle.sin())
                }
            };
            (node.name.as_str(), place)
        })
        .collect()
}

fn kind_name(kind: EdgeKind) -> &'static str {
    match kind {
        EdgeKind::Segments => "segments",
        EdgeKind::Templates => "templates",
        EdgeKind::Refused => "refused",
    }
}

fn in_words(edge: &Edge) -> String {
    let what = match edge.kind {
        EdgeKind::Segments => "segments, verified",
        EdgeKind::Templates => "templates",
        EdgeKind::Refused => "corrupted block, refused",
    };
    format!("{} {what}", count(edge.count))
}

/// Draws a bent arrow: each kind bends by another amount, so that none hides another. What does not lead to the
/// newcomer is drawn faintly: the story is about what it fetched.
fn arrow(svg: &mut Markup, from: (f64, f64), to: (f64, f64), edge: &Edge, newcomer: &str) {
    let kind = kind_name(edge.kind);
    let bend = match edge.kind {
        EdgeKind::Segments => 26.0,
        EdgeKind::Templates => -14.0,
        EdgeKind::Refused => 0.0,
    };
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let length = dx.hypot(dy).max(1.0);
    let (ux, uy) = (dx / length, dy / length);
    let gap = NODE_RADIUS + 4.0;
    let start = (from.0 + ux * gap, from.1 + uy * gap);
    let end = (to.0 - ux * gap, to.1 - uy * gap);
    // The control point of a quadratic curve lies twice as far out as the curve's middle.
    let middle = (f64::midpoint(start.0, end.0), f64::midpoint(start.1, end.1));
    let control = (middle.0 - uy * bend * 2.0, middle.1 + ux * bend * 2.0);
    let label = (middle.0 - uy * bend, middle.1 + ux * bend);
    svg.add(format_args!(
        r##"<g{}><title>{} to {}: {}</title><path d="M{:.1} {:.1}Q{:.1} {:.1} {:.1} {:.1}" class="{kind}-edge" marker-end="url(#arrow-{kind})"/>"##,
        if edge.to == newcomer { "" } else { r#" class="aside""# },
        escape(&edge.from),
        escape(&edge.to),
        in_words(edge),
        start.0, start.1, control.0, control.1, end.0, end.1
    ));
    if edge.kind == EdgeKind::Refused {
        let (x, y) = label;
        svg.add(format_args!(
            r#"<circle cx="{x:.1}" cy="{y:.1}" r="11" class="refused-stop"/><path d="M{} {}l10 10m0 -10l-10 10" class="refused-cross"/>"#,
            x - 5.0,
            y - 5.0
        ));
    } else if edge.kind == EdgeKind::Segments {
        svg.add(format_args!(
            r#"<text x="{:.1}" y="{:.1}" class="edge-label middle">{}</text>"#,
            label.0,
            label.1 + 4.0,
            count(edge.count)
        ));
    }
    svg.add(format_args!("</g>"));
}

fn circle(svg: &mut Markup, (x, y): (f64, f64), node: &NodeReport) {
    let role = match node.role {
        Role::Peer => "peer",
        Role::Bootstrap => "bootstrap",
        Role::Liar => "liar",
    };
    svg.add(format_args!(
        r#"<g><title>{}: {}</title><circle cx="{x:.1}" cy="{y:.1}" r="{NODE_RADIUS}" class="{role}-node"/>"#,
        escape(&node.name),
        escape(&node.peer)
    ));
    let entity = node.entity.as_deref().map(|entity| escape(&shortened(entity)));
    let name_y = if entity.is_some() { y - 1.0 } else { y + 4.0 };
    svg.add(format_args!(
        r#"<text x="{x:.1}" y="{name_y:.1}" class="node-label middle">{}</text>"#,
        escape(&shortened(&node.name))
    ));
    if let Some(entity) = entity {
        svg.add(format_args!(
            r#"<text x="{x:.1}" y="{:.1}" class="node-entity middle">{entity}</text>"#,
            y + 12.0
        ));
    }
    svg.add(format_args!("</g>"));
}

/// Returns what fits into a node.
fn shortened(text: &str) -> String {
    if text.chars().count() <= 9 {
        return text.to_owned();
    }
    text.chars().take(8).chain(['…']).collect()
}

/// Returns the same as a table: one line for each two processes, in the order of who fetched.
pub(super) fn edges(report: &Report) -> String {
    let mut pairs: BTreeMap<(&str, &str), Vec<&Edge>> = BTreeMap::new();
    for edge in &report.edges {
        pairs.entry((&edge.to, &edge.from)).or_default().push(edge);
    }
    let mut table = Markup::default();
    table.add(format_args!(
        r#"<table><caption>Every arrow of the graph</caption><thead><tr><th scope="col">who fetched</th><th scope="col">from whom</th><th scope="col">what</th></tr></thead><tbody>"#
    ));
    for ((to, from), edges) in pairs {
        let refused = edges.iter().any(|edge| edge.kind == EdgeKind::Refused);
        let class = if refused { r#" class="refused-row""# } else { "" };
        let what: Vec<_> = edges.into_iter().map(in_words).collect();
        table.add(format_args!(
            r#"<tr{class}><td>{}</td><td>{}</td><td>{}</td></tr>"#,
            escape(to),
            escape(from),
            what.join("; ")
        ));
    }
    table.add(format_args!("</tbody></table>"));
    table.into_string()
}
