//! A segment as a page: for a person with a browser and a CID, and without scripts.

use std::fmt::Write as _;

use dunlin_engine::Segment;
use dunlin_wire::Cid;

use crate::output::{size, time};

/// The drawing's width and height, in its own units.
const WIDTH: f32 = 720.0;
const HEIGHT: f32 = 200.0;

/// Most channels that are drawn; of more, every n-th.
const DRAWN_MAX: usize = 720;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}\
table{border-collapse:collapse}td{padding:.15rem 1rem .15rem 0;vertical-align:top}\
code,pre{font-size:.85rem}pre{background:#8881;padding:1rem;overflow-x:auto}\
code{word-break:break-all}svg{width:100%;height:auto;border:1px solid #8884}\
.band{fill:#47a3;stroke:none}.line{fill:none;stroke:#258;stroke-width:1.5}\
:root{color-scheme:light dark}";

/// Returns the page of a segment.
pub(super) fn page(cid: &Cid, segment: &Segment, block_bytes: usize, host: &str) -> String {
    let (collection, entity) = (segment.collection().to_string(), segment.entity().to_string());
    let rows = [
        ("entity", escape(&entity)),
        ("collection", escape(&collection)),
        ("from", escape(&time(segment.start().0))),
        ("to", escape(&time(segment.end().0))),
        ("observations", segment.count().to_string()),
        ("channels", segment.dim().to_string()),
        ("drift", format!("{:.4} mean, {:.4} at most", segment.drift_mean(), segment.drift_max())),
        ("anomaly score", format!("{:.4}", segment.score())),
        ("block", size(block_bytes as u64)),
        ("CID", format!("<code>{cid}</code>")),
    ];
    let rows: String =
        rows.iter().map(|(name, value)| format!("<tr><td>{name}<td>{value}")).collect();
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width\">\
         <title>{title} · Dunlin segment</title><style>{STYLE}</style>\
         <h1>{title}</h1><p>A stretch of behavior, folded into one segment.</p>\
         <table>{rows}</table>\
         <h2>Mean and spread</h2>{drawing}\
         <h2>Get it</h2><ul><li><a href=\"/ipfs/{cid}?format=raw\">the block</a>\
         <li><a href=\"/ipfs/{cid}?format=dag-json\">as DAG-JSON</a>\
         <li><a href=\"/ipfs/{cid}?format=car\">with its payload, as a CAR</a>{payload}</ul>\
         <h2>Check it yourself</h2><p>The CID is the hash of the block; trust no gateway, this one \
         included. The two hashes that these print are the same:</p>\
         <pre>curl -s 'http://{host}/ipfs/{cid}?format=raw' | sha256sum\necho {digest}</pre>\
         <p>Or let a program check: a Dunlin node, or any IPFS node.</p>\
         <pre>dunlin segments fetch {cid} --gateway http://{host}\n\
         curl -s 'http://{host}/ipfs/{cid}?format=car' | ipfs dag import --pin-roots=false</pre></html>\n",
        title = escape(&entity),
        drawing = drawing(segment),
        payload = payload(segment),
        host = escape(host),
        digest = hex(cid.hash().digest()),
    )
}

fn payload(segment: &Segment) -> String {
    let link = |(index, cid): (usize, &Cid)| {
        format!("<li><a href=\"/ipfs/{cid}?format=raw\">payload block {}</a>", index + 1)
    };
    segment.payload().iter().enumerate().map(link).collect()
}

/// Returns the means of all channels as a line, with a band of one spread on either side.
fn drawing(segment: &Segment) -> String {
    let (mean, spread) = (segment.mean(), segment.spread());
    let step = mean.len().div_ceil(DRAWN_MAX).max(1);
    let channels: Vec<(f32, f32)> = mean.iter().copied().zip(spread).step_by(step).collect();
    let low = channels.iter().map(|(m, s)| m - s).fold(f32::INFINITY, f32::min);
    let high = channels.iter().map(|(m, s)| m + s).fold(f32::NEG_INFINITY, f32::max);
    // A regime without any spread is a line in the middle.
    let range = if high > low { high - low } else { 1.0 };
    let y = |value: f32| HEIGHT * (0.95 - 0.9 * ((value - low) / range).clamp(0.0, 1.0));
    #[expect(clippy::cast_precision_loss, reason = "there are a few hundred")]
    let x = |index: usize| WIDTH * (index as f32 + 0.5) / channels.len() as f32;
    let point = |text: &mut String, index: usize, value: f32| {
        // Writing to a string does not fail.
        write!(text, "{:.1},{:.1} ", x(index), y(value)).ok();
    };
    let (mut line, mut band) = (String::new(), String::new());
    for (index, (mean, spread)) in channels.iter().enumerate() {
        point(&mut line, index, *mean);
        point(&mut band, index, mean + spread);
    }
    for (index, (mean, spread)) in channels.iter().enumerate().rev() {
        point(&mut band, index, mean - spread);
    }
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=img aria-label=\"mean and spread by channel\">\
         <polygon class=band points=\"{}\"/><polyline class=line points=\"{}\"/></svg>\
         <p>{} channels from left to right, {low:.4} to {high:.4}.</p>",
        band.trim_end(),
        line.trim_end(),
        mean.len(),
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes text harmless in a page, in attributes too.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A segment of the fuzz corpus.
    const SEGMENT: &[u8] = include_bytes!("../../../fuzz/corpus/segment/valid-lossless");

    #[test]
    fn a_page_shows_the_segment_and_how_to_check_it() {
        let segment = Segment::decode(SEGMENT).unwrap();
        let cid = segment.cid();
        let page = page(&cid, &segment, SEGMENT.len(), "127.0.0.1:4610");
        for part in [
            &cid.to_string(),
            "<svg",
            "payload block 1",
            "dunlin segments fetch",
            "sha256sum",
            &hex(cid.hash().digest()),
        ] {
            assert!(page.contains(part), "{part} is not in {page}");
        }
        assert!(!page.contains("NaN") && !page.contains("<script"), "{page}");
    }

    #[test]
    fn text_is_harmless() {
        assert_eq!(escape("<b onx='\"&"), "&lt;b onx=&#39;&quot;&amp;");
    }
}
