//! `report.html`: one file, no script, nothing loaded from anywhere, readable without its charts.

use dunlin_client::Standing;
use serde_json::Value;

use super::{
    PeerReport, Report, graph,
    markup::{Markup, bytes, count, decimal, escape},
    scatter, timeline,
};

const STYLE: &str = include_str!("style.css");

/// Returns the page.
pub(super) fn page(report: &Report) -> String {
    let mut page = Markup::default();
    page.add(format_args!(
        r##"<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>Dunlin: a network of peers at work</title>
<style>
{STYLE}</style></head><body>
<a class="skip" href="#timeline">Skip to the results</a>"##
    ));
    head(&mut page, report);
    page.add(format_args!("<main>"));
    problems(&mut page, report);
    incidents(&mut page, report);
    size(&mut page, report);
    network(&mut page, report);
    peers(&mut page, report);
    figures(&mut page, report);
    method(&mut page, report);
    page.add(format_args!(
        "</main><footer><p>Dunlin {}. The same figures are in <code>report.json</code> beside this file.</p></footer></body></html>",
        env!("CARGO_PKG_VERSION")
    ));
    page.into_string()
}

fn head(page: &mut Markup, report: &Report) {
    let data = &report.data;
    page.add(format_args!(
        r#"<header><h1>A network of peers at work</h1>
<p class="lead">A bootstrap node and {} peers ran as separate processes on this machine for {} s. They replayed {} observations of {} channels, folded them into {} segments, archived each under its CID, and traded noised templates. {}</p>
<ul class="tiles">"#,
        report.peers,
        decimal(Some(report.elapsed_s), 0),
        count(report.observations),
        data.dim,
        count(report.segments),
        conclusion(report),
    ));
    let hours = decimal(Some(data.newcomer_past_s as f64 / 3600.0), 0);
    let tiles = [
        (
            format!("{} → {}", decimal(report.ap_alone, 3), decimal(report.ap_with_templates, 3)),
            format!(
                "average precision of a newcomer with {hours} hours of its own, alone → with templates"
            ),
        ),
        (
            format!("{}×", decimal(Some(report.ratio), 1)),
            format!("smaller at nRMSE {}", decimal(Some(report.nrmse), 3)),
        ),
        (
            format!("{} of {}", report.fetched_verified, report.fetched_asked),
            format!(
                "segments fetched by CID and verified; {} corrupted block refused",
                report.corrupt_refused
            ),
        ),
        (
            format!("{} lost", count(report.acked_lost)),
            "acknowledged observations, after a SIGKILL in the middle of ingest".to_owned(),
        ),
    ];
    for (figure, what) in tiles {
        page.add(format_args!("<li><strong>{figure}</strong><span>{what}</span></li>"));
    }
    page.add(format_args!("</ul></header>"));
}

/// Says what the templates did, whichever way it went.
fn conclusion(report: &Report) -> &'static str {
    match (report.ap_alone, report.ap_with_templates, report.ap_control) {
        _ if report.template_sets_adopted == 0 => {
            "The newcomer's gate adopted none of them, so its scores are its own."
        }
        (Some(alone), Some(with), Some(control)) if with > alone && with > control => {
            "The newcomer found its incidents better with them than alone, and better than with shuffled ones."
        }
        (Some(alone), Some(with), _) if with > alone => {
            "The newcomer found its incidents better with them than alone, but shuffled ones helped as much: this run does not show that the templates did it."
        }
        (Some(_), Some(_), _) => {
            "On this data the newcomer did not find its incidents better with them."
        }
        _ => "The test half has no labelled incident, so detection could not be measured.",
    }
}

fn problems(page: &mut Markup, report: &Report) {
    if report.problems.is_empty() {
        return;
    }
    page.add(format_args!(r#"<section class="problems" aria-labelledby="problems"><h2 id="problems">What did not hold</h2><ul>"#));
    for problem in &report.problems {
        page.add(format_args!("<li>{}</li>", escape(problem)));
    }
    page.add(format_args!("</ul></section>"));
}

fn incidents(page: &mut Markup, report: &Report) {
    let data = &report.data;
    page.add(format_args!(
        r#"<section aria-labelledby="timeline"><h2 id="timeline">Incidents at the newcomer</h2>
<p>{} had seen {} of its own observations when its test half began, and learned nothing afterwards. Each point is the highest score of {} minutes. Shaded: what is labelled as an incident, {} % of the observations.</p>
{}
<ul class="legend"><li><svg viewBox="0 0 26 12" aria-hidden="true"><line x1="0" y1="6" x2="26" y2="6" class="alone-line"/></svg>alone</li><li><svg viewBox="0 0 26 12" aria-hidden="true"><line x1="0" y1="6" x2="26" y2="6" class="with-line"/></svg>with adopted templates</li><li><svg viewBox="0 0 26 12" aria-hidden="true"><rect width="26" height="12" class="incident-fill"/></svg>labelled incident</li></ul>
<details><summary>The incidents as a table</summary><div class="scroll" tabindex="0" role="region" aria-label="Incidents">{}</div></details></section>"#,
        escape(&report.timeline.entity),
        count(data.newcomer_past_observations),
        decimal(Some(report.timeline.bucket_s as f64 / 60.0), 0),
        decimal(Some(report.ap_random * 100.0), 1),
        timeline::chart(report),
        timeline::incidents(report),
    ));
}

fn size(page: &mut Markup, report: &Report) {
    page.add(format_args!(
        r#"<section aria-labelledby="size"><div class="columns"><div><h2 id="size">Size against error</h2>
<p>Raw 32-bit floats over summary blocks, beside the error of reading the summaries back. A ratio without its error says nothing.</p>
{}
<ul class="legend"><li><svg viewBox="0 0 26 12" aria-hidden="true"><circle cx="13" cy="6" r="6" class="segment-mark"/></svg>a peer's segments</li><li><svg viewBox="0 0 26 12" aria-hidden="true"><rect x="8" y="1" width="10" height="10" class="window-mark"/></svg>fixed windows of the same error</li></ul></div>
<div><h2>The adoption gate</h2><p>A set counts as known behaviour only if it explains the newer half of the newcomer's own past nearly as well as the older half does, and clearly better than itself with shifted channels.</p><div class="scroll" tabindex="0" role="region" aria-label="Gate">{}</div></div></div></section>"#,
        scatter::chart(report),
        gate(report),
    ));
}

fn gate(report: &Report) -> String {
    let mut table = Markup::default();
    table.add(format_args!(
        r#"<table><caption>Distance within which 90 % of the newer half lie: of the older half's regimes (own), and of the set (foreign)</caption><thead><tr><th scope="col">from</th><th scope="col" class="n">templates</th><th scope="col" class="n">own</th><th scope="col" class="n">foreign</th><th scope="col">verdict</th></tr></thead><tbody>"#
    ));
    for set in &report.gate {
        let (class, verdict) = if set.adopted { ("yes", "adopted") } else { ("no", "refused") };
        table.add(format_args!(
            r#"<tr><th scope="row">{}</th><td class="n">{}</td><td class="n">{}</td><td class="n">{}</td><td><span class="{class}">{verdict}</span>: {}</td></tr>"#,
            escape(&set.from),
            set.templates,
            decimal(set.own_q90, 3),
            decimal(set.foreign_q90, 3),
            escape(&set.reason),
        ));
    }
    table.add(format_args!("</tbody></table>"));
    table.into_string()
}

fn network(page: &mut Markup, report: &Report) {
    page.add(format_args!(
        r#"<section aria-labelledby="network"><h2 id="network">Who fetched what from whom</h2>
<p>The peers were told the bootstrap node's address and the ids of their operator's own peers, to whom alone segments are served. {}</p>
<div class="wide-graph">{}</div>
<ul class="legend"><li><svg viewBox="0 0 26 12" aria-hidden="true"><line x1="0" y1="6" x2="26" y2="6" class="segments-edge"/></svg>segments by CID</li><li><svg viewBox="0 0 26 12" aria-hidden="true"><line x1="0" y1="6" x2="26" y2="6" class="templates-edge"/></svg>templates</li><li><svg viewBox="0 0 26 12" aria-hidden="true"><line x1="0" y1="6" x2="26" y2="6" class="refused-edge"/></svg>refused</li><li><svg viewBox="0 0 26 12" aria-hidden="true"><line x1="0" y1="6" x2="26" y2="6" class="connection"/></svg>connected at the end</li></ul>
<details><summary>The arrows as a table</summary><div class="scroll" tabindex="0" role="region" aria-label="Arrows">{}</div></details></section>"#,
        lie(report),
        graph::graph(report),
        graph::edges(report),
    ));
}

fn lie(report: &Report) -> String {
    let Some(lie) = &report.lie else { return String::new() };
    let refused = if lie.refused { "refused" } else { "not refused" };
    let then = if lie.then_verified {
        "and the same CID was then fetched from a peer that told the truth"
    } else {
        "and no other peer served the true bytes"
    };
    let standing = lie.standing.map_or("", |standing| match standing {
        Standing::Probation => " It is on probation with the newcomer.",
        Standing::Trusted => " The newcomer trusts it all the same.",
        Standing::Quarantined => {
            " It is quarantined since: the newcomer does not hear it any more."
        }
        Standing::Revoked => " It is revoked.",
    });
    format!(
        "A seventh process answered for <code>{}</code> with one byte flipped: it was {refused}, {then}.{standing}",
        escape(&lie.cid)
    )
}

fn peers(page: &mut Markup, report: &Report) {
    page.add(format_args!(
        r#"<section aria-labelledby="peers"><h2 id="peers">Peer by peer</h2><div class="scroll" tabindex="0" role="region" aria-label="Peers"><table>
<caption>Sizes are of summary blocks; the archive keeps every observation bit for bit beside them</caption>
<thead><tr><th scope="col">peer</th><th scope="col">entity</th><th scope="col" class="n">observations</th><th scope="col" class="n">segments</th><th scope="col" class="n">ratio</th><th scope="col" class="n">nRMSE</th><th scope="col" class="n">R²</th><th scope="col" class="n">windows</th><th scope="col" class="n">archived</th><th scope="col" class="n">archive</th><th scope="col" class="n">epsilon</th><th scope="col" class="n">memory</th></tr></thead><tbody>"#
    ));
    for peer in &report.per_peer {
        peer_row(page, peer);
    }
    page.add(format_args!(
        r#"</tbody><tfoot><tr><th scope="row">all</th><td></td><td class="n">{}</td><td class="n">{}</td><td class="n">{}</td><td class="n">{}</td><td class="n">{}</td><td class="n">{}</td><td class="n">{}</td><td></td><td></td><td></td></tr></tfoot></table></div>"#,
        count(report.observations),
        count(report.segments),
        decimal(Some(report.ratio), 1),
        decimal(Some(report.nrmse), 3),
        decimal(Some(report.r2), 2),
        decimal(report.window_ratio, 1),
        count(report.archived),
    ));
    if let Some(crash) = &report.crash {
        page.add(format_args!(
            "<p>{} ended {} in the middle of its ingest, with {} observations acknowledged. It answered again after {} s, had lost {} of them, and finished.</p>",
            escape(&crash.peer),
            escape(&crash.ended),
            count(crash.acked),
            decimal(Some(crash.restart_s), 1),
            count(crash.lost),
        ));
    }
    page.add(format_args!("</section>"));
}

fn peer_row(page: &mut Markup, peer: &PeerReport) {
    page.add(format_args!(
        r#"<tr><th scope="row">{}</th><td>{}</td><td class="n">{}</td><td class="n">{}</td><td class="n">{}</td><td class="n">{}</td><td class="n">{}</td><td class="n">{}</td><td class="n">{}</td><td class="n">{}</td><td class="n">{}</td><td class="n">{}</td></tr>"#,
        escape(&peer.name),
        escape(&peer.entity),
        count(peer.observations),
        count(peer.segments),
        decimal(Some(peer.ratio), 1),
        decimal(Some(peer.nrmse), 3),
        decimal(Some(peer.r2), 2),
        decimal(peer.window_ratio, 1),
        count(peer.archived),
        bytes(peer.archive_bytes),
        decimal(Some(peer.epsilon_spent), 1),
        peer.resident_bytes.map_or("–".to_owned(), bytes),
    ));
}

/// Lists every single figure of `report.json` under its key.
fn figures(page: &mut Markup, report: &Report) {
    let meaning = |key: &str| match key {
        "peers" => "peers; the bootstrap node and the liar are not among them",
        "observations" => "acknowledged observations",
        "segments" => "sealed segments",
        "ratio" => "raw 32-bit floats over summary blocks, in bytes",
        "nrmse" => "root mean square error of the summaries, in fractions of a channel's range",
        "r2" => "share of the variance that the summaries explain",
        "window_ratio" => "the ratio of fixed windows with each peer's error",
        "archived" => "segments in their makers' archives",
        "fetched_verified" => {
            "foreign segments fetched, hashed, decoded and equal to their maker's"
        }
        "corrupt_refused" => "blocks that the newcomer refused because they hash to something else",
        "templates_published" => "templates that peers 1 to 5 released",
        "templates_adopted" => "templates that passed the newcomer's gate",
        "epsilon_spent" => {
            "privacy loss in the ledger of the peer that spent most, for one observation of it"
        }
        "ap_alone" => "average precision by the newcomer's own past alone",
        "ap_with_templates" => "average precision with the adopted templates",
        "ap_control" => "average precision with shuffled templates, mean of several shuffles",
        "acked_lost" => "acknowledged observations that were not there when read back",
        "elapsed_s" => "seconds from the first process's start to the last one's end",
        "acked_repeated" => "acknowledged observations that were there more than once",
        "fetched_asked" => "foreign segments that the newcomer asked for",
        "template_sets_published" => "template sets released, one a peer",
        "template_sets_adopted" => "template sets that passed the gate",
        "template_bytes" => "bytes of all released sets, signatures included",
        "ap_random" => "average precision of a random score",
        "ap_alone_online" => "average precision alone, when the newcomer goes on learning",
        "ap_with_templates_online" => {
            "average precision with the adopted templates, when the newcomer goes on learning"
        }
        "discovery_s" => "seconds until every peer had met every other",
        "ingest_per_s" => "durable observations a second, the kill and the restart included",
        _ => "",
    };
    page.add(format_args!(
        r#"<section aria-labelledby="figures"><h2 id="figures">Every figure</h2><div class="scroll" tabindex="0" role="region" aria-label="Figures"><table><caption>As in <code>report.json</code>, unrounded there</caption><thead><tr><th scope="col">key</th><th scope="col" class="n">value</th><th scope="col">what it is</th></tr></thead><tbody>"#
    ));
    // The report holds numbers, text and lists alone, none of which can fail to become JSON.
    let figures = serde_json::to_value(report).unwrap_or_default();
    for (key, value) in figures.as_object().into_iter().flatten() {
        let shown = match value {
            Value::Null => "–".to_owned(),
            Value::Number(number) => {
                number.as_u64().map_or_else(|| decimal(number.as_f64(), 4), count)
            }
            _ => continue,
        };
        page.add(format_args!(
            r#"<tr><th scope="row"><code>{key}</code></th><td class="n" data-key="{key}" data-value="{value}">{shown}</td><td>{}</td></tr>"#,
            meaning(key)
        ));
    }
    page.add(format_args!("</tbody></table></div></section>"));
}

fn method(page: &mut Markup, report: &Report) {
    let data = &report.data;
    let minutes = decimal(Some(data.step_s as f64 / 60.0), 0);
    let hours = decimal(Some(data.newcomer_past_s as f64 / 3600.0), 0);
    page.add(format_args!(
        r#"<section aria-labelledby="method"><h2 id="method">How it was measured</h2><dl>
<dt>Data</dt><dd>Real telemetry of {entities}: {dim} channels. The newcomer's has one observation every {minutes} minutes, and its test half holds {test} observations, {labelled} of them labelled. The publishers scaled each channel to 0 to 1 per entity, over both halves.</dd>
<dt>Units</dt><dd>The collection declares the public range 0 to 1 for every channel, so drift, distances and errors are fractions of that range. Beyond the publishers' scaling, nothing is fitted to the test half.</dd>
<dt>Size and error</dt><dd>The ratio is raw 32-bit floats over the encoded summary blocks. The error is what reading the summaries back costs, over all sealed observations; R² compares it with the data's own variance. Fixed windows are cut so that they have the same error in the same block format.</dd>
<dt>Average precision</dt><dd>Each observation of the test half gets one score from 0 to 1. Average precision adds precision times gained recall over all thresholds; equal scores share one. There is no point adjustment: an alarm somewhere in an incident does not count for the rest of it.</dd>
<dt>Frozen at {hours} hours</dt><dd>The newcomer's {past} own observations are all it may know, and its gate judged the templates by them before it had seen any of its test half. While learning on, average precision is {online_alone} alone and {online_with} with templates.</dd>
<dt>Control</dt><dd>All received templates, adopted or not, with their channels shuffled, {runs} times: the mean is {control}, the runs are {control_runs}. If they helped as much, the gain would not be the templates' own. A random score has {random}.</dd>
<dt>Privacy</dt><dd>Each release protects one observation of one entity (event level), with epsilon {epsilon} written to the ledger before any noise was drawn. It does not protect an entity's whole history. Each peer's loss concerns its own observations, so losses of different peers do not add up.</dd>
<dt>Durability</dt><dd>After all ingest, every acknowledged observation was read back from the peer that took it and compared bit for bit.</dd>
<dt>Fetching</dt><dd>Segments were chosen evenly over peers 1 to 5 and over their time. For each, the bytes at the newcomer were hashed again here and its content compared with its maker's. Nearest regimes were compared with distances worked out here.</dd>
<dt>Time</dt><dd>{steps}. All processes shared this machine, so times say little about a network of machines.</dd>
</dl></section>"#,
        entities = escape(&data.entities.join(", ")),
        dim = data.dim,
        test = count(data.test_observations),
        labelled = count(data.labelled_observations),
        past = count(data.newcomer_past_observations),
        online_alone = decimal(report.ap_alone_online, 3),
        online_with = decimal(report.ap_with_templates_online, 3),
        runs = report.ap_control_runs.len(),
        control = decimal(report.ap_control, 3),
        control_runs = list(report.ap_control_runs.iter().map(|ap| decimal(Some(*ap), 3))),
        random = decimal(Some(report.ap_random), 3),
        epsilon = decimal(Some(report.epsilon_spent), 1),
        steps = escape(&list(
            report.steps.iter().map(|step| format!("{} {:.1} s", step.step, step.elapsed_s))
        )),
    ));
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<_> = items.collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{json, tests::sample};

    /// Elements in the order in which they open, each with its attributes. Panics where the page is not
    /// well-formed: an element left open, closed twice, or an attribute without quotes.
    fn elements(page: &str) -> Vec<(String, Vec<(String, String)>)> {
        let (mut rest, mut open, mut all) = (page, Vec::new(), Vec::new());
        rest = rest.strip_prefix("<!DOCTYPE html>").unwrap();
        while let Some(start) = rest.find('<') {
            assert!(!rest[..start].contains('>'), "stray > in {:?}", &rest[..start]);
            let end = start + rest[start..].find('>').unwrap();
            let tag = &rest[start + 1..end];
            rest = &rest[end + 1..];
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop().as_deref(), Some(name), "closed in the wrong order");
                continue;
            }
            let is_empty = tag.ends_with('/');
            let (name, attributes) = parse(tag.trim_end_matches('/'));
            if !is_empty {
                open.push(name.clone());
            }
            if name == "style" {
                // A style sheet may hold `>`: skip it.
                rest = &rest[rest.find("</style>").unwrap()..];
            }
            all.push((name, attributes));
        }
        assert_eq!(open, Vec::<String>::new(), "left open");
        all
    }

    fn parse(tag: &str) -> (String, Vec<(String, String)>) {
        let (name, mut rest) = tag.split_once(' ').unwrap_or((tag, ""));
        let mut attributes = Vec::new();
        while !rest.trim().is_empty() {
            let (key, after) = rest.trim_start().split_once("=\"").expect(tag);
            let (value, after) = after.split_once('"').expect(tag);
            attributes.push((key.to_owned(), value.to_owned()));
            rest = after;
        }
        (name.to_owned(), attributes)
    }

    #[test]
    fn the_page_is_well_formed_and_loads_nothing() {
        let page = page(&sample());
        let elements = elements(&page);
        for (name, attributes) in &elements {
            assert!(
                !["script", "link", "img", "iframe", "object"].contains(&name.as_str()),
                "{name}"
            );
            for (key, value) in attributes {
                let is_link = ["href", "src", "xlink:href", "style"].contains(&key.as_str());
                assert!(!is_link || value.starts_with('#'), "{name} {key}={value}");
                assert!(!key.starts_with("on"), "{name} {key}");
            }
        }
        for forbidden in ["http://", "https://", "@import", "url(h", "src="] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
    }

    #[test]
    fn every_chart_has_a_title_a_description_and_no_id_is_used_twice() {
        let elements = elements(&page(&sample()));
        let of = |element: &(String, Vec<(String, String)>), key: &str| {
            element.1.iter().find(|(k, _)| k == key).map(|(_, value)| value.clone())
        };
        let mut ids: Vec<_> = elements.iter().filter_map(|element| of(element, "id")).collect();
        let named = elements.iter().filter_map(|element| of(element, "aria-labelledby"));
        for name in named.flat_map(|names| names.split(' ').map(str::to_owned).collect::<Vec<_>>())
        {
            assert!(ids.contains(&name), "{name}");
        }
        let charts =
            elements.iter().filter(|element| of(element, "role").as_deref() == Some("img"));
        assert_eq!(charts.count(), 3);
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }

    #[test]
    fn figures_are_those_of_the_json() {
        let report = sample();
        let json: Value = serde_json::from_str(&json(&report).unwrap()).unwrap();
        let page = page(&report);
        let mut shown = 0;
        for (_, attributes) in elements(&page) {
            if let [.., (k, key), (v, value)] = attributes.as_slice()
                && (k.as_str(), v.as_str()) == ("data-key", "data-value")
            {
                assert_eq!(json[key].to_string(), *value, "{key}");
                shown += 1;
            }
        }
        let single = json.as_object().unwrap().values().filter(|v| v.is_number() || v.is_null());
        // Absent parts are not figures.
        assert_eq!(shown, single.count());
        assert!(
            !page.contains("<td></td></tr>\n<tr><th scope=\"row\"><code>"),
            "each has a meaning"
        );
    }

    #[test]
    fn text_from_peers_is_escaped() {
        let page = page(&sample());
        assert!(page.contains("&lt;omi &amp; 1&gt;") && !page.contains("<omi"));
        assert!(page.contains("q90 0.11 &lt;= 1.25 x 0.10"));
    }

    #[test]
    fn an_empty_report_is_a_page_too() {
        elements(&page(&Report::default()));
    }

    #[test]
    fn problems_come_first_and_a_failed_network_effect_is_said() {
        let mut report = sample();
        report.problems.push("3 <observations> were lost".to_owned());
        assert!(page(&report).contains("<li>3 &lt;observations&gt; were lost</li>"));
        report.template_sets_adopted = 5;
        report.ap_with_templates = Some(0.1);
        assert!(page(&report).contains("did not find its incidents better"));
    }
}
