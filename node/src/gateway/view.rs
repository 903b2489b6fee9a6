//! A segment as a page: for a person with a browser and a CID, and without scripts.

use dunlin_engine::Segment;
use dunlin_wire::Cid;

use crate::output::{size, time};

/// The drawing's width and height, in its own units, and the room at its left and below for labels.
const WIDTH: f32 = 720.0;
const HEIGHT: f32 = 220.0;
const LEFT: f32 = 70.0;
const BELOW: f32 = 24.0;

/// Most channels that are drawn; of more, every n-th.
const DRAWN_MAX: usize = 720;

/// Up to so many channels, each has a bar of its own; more are a band.
const BARS_MAX: usize = 64;

const STYLE: &str = ":root{color-scheme:light dark}\
body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}\
h1{margin:0;overflow-wrap:anywhere}h2{font-size:1.1rem;margin:2rem 0 .5rem}p{margin:.3rem 0}\
table{border-collapse:collapse;width:100%;margin-top:1rem}\
td{padding:.3rem 1rem .3rem 0;vertical-align:top;border-bottom:1px solid #8883}\
td:first-child{color:#777;white-space:nowrap}\
code,pre{font-size:.85rem}\
pre{background:#8881;padding:1rem;border-radius:.4rem;white-space:pre-wrap;overflow-wrap:anywhere}\
code{overflow-wrap:anywhere}ul{padding-left:1.2rem}\
svg{display:block;width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:#777}\
.axis{stroke:#8886;fill:none}.band{fill:#47a6;stroke:none}.line{fill:none;stroke:#47a;stroke-width:1.5}";

/// Returns the page of a segment.
pub(super) fn page(cid: &Cid, segment: &Segment, block_bytes: usize, host: &str) -> String {
    let (collection, entity) = (segment.collection().to_string(), segment.entity().to_string());
    let rows = [
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
         <h1>{title}</h1><p>A stretch of steady behavior, folded into one Dunlin segment.</p>\
         <table>{rows}</table>\
         <h2>Mean and spread</h2>{drawing}\
         <h2>Get it</h2><ul><li><a href=\"/ipfs/{cid}?format=raw\">the block</a>\
         <li><a href=\"/ipfs/{cid}?format=dag-json\">as DAG-JSON</a>\
         <li><a href=\"/ipfs/{cid}?format=car\">with all that it links to, as a CAR</a>{payload}</ul>\
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

/// Returns the means of all channels with one spread on either side: a bar for each, or a band.
fn drawing(segment: &Segment) -> String {
    let (mean, spread) = (segment.mean(), segment.spread());
    let step = mean.len().div_ceil(DRAWN_MAX).max(1);
    let channels: Vec<(f32, f32)> = mean.iter().copied().zip(spread).step_by(step).collect();
    let frame = Frame::around(&channels);
    let marks =
        if channels.len() <= BARS_MAX { bars(&channels, &frame) } else { band(&channels, &frame) };
    let bottom = HEIGHT - BELOW;
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=img aria-label=\"mean and spread by channel\">\
         <path class=axis d=\"M{LEFT},0V{bottom}H{WIDTH}\"/>{marks}\
         <text x={label} y=12 text-anchor=end>{high}</text>\
         <text x={label} y={bottom} text-anchor=end>{low}</text>\
         <text x={LEFT} y={under}>channel 0</text>\
         <text x={WIDTH} y={under} text-anchor=end>{last}</text></svg>\
         <p>The mean of each channel, and one spread above and below it.</p>",
        label = LEFT - 6.0,
        under = HEIGHT - 8.0,
        high = short(frame.high),
        low = short(frame.low),
        last = if mean.len() > 1 { format!("channel {}", mean.len() - 1) } else { String::new() },
    )
}

/// Where values and channels stand in the drawing.
struct Frame {
    low: f32,
    high: f32,
    /// The width that each channel has.
    step: f32,
}

impl Frame {
    fn around(channels: &[(f32, f32)]) -> Self {
        let low = channels.iter().map(|(m, s)| m - s).fold(f32::INFINITY, f32::min);
        let high = channels.iter().map(|(m, s)| m + s).fold(f32::NEG_INFINITY, f32::max);
        #[expect(clippy::cast_precision_loss, reason = "there are a few hundred")]
        let step = (WIDTH - LEFT) / channels.len().max(1) as f32;
        Self { low, high, step }
    }

    fn y(&self, value: f32) -> f32 {
        // A regime without any spread is a line at the bottom.
        let range = if self.high > self.low { self.high - self.low } else { 1.0 };
        (HEIGHT - BELOW) * (1.0 - ((value - self.low) / range).clamp(0.0, 1.0))
    }

    /// The middle of a channel.
    fn x(&self, index: usize) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "there are a few hundred")]
        let index = index as f32;
        LEFT + self.step * (index + 0.5)
    }
}

fn bars(channels: &[(f32, f32)], frame: &Frame) -> String {
    let width = (frame.step * 0.7).min(60.0);
    let bar = |(index, (mean, spread)): (usize, &(f32, f32))| {
        let (left, top) = (frame.x(index) - width / 2.0, frame.y(mean + spread));
        let (height, middle) = (frame.y(mean - spread) - top, frame.y(*mean));
        format!(
            "<rect class=band x={left:.1} y={top:.1} width={width:.1} height={height:.1}></rect>\
             <path class=line d=\"M{left:.1},{middle:.1}h{width:.1}\"/>"
        )
    };
    channels.iter().enumerate().map(bar).collect()
}

fn band(channels: &[(f32, f32)], frame: &Frame) -> String {
    let point = |index: usize, value: f32| format!("{:.1},{:.1} ", frame.x(index), frame.y(value));
    let all = || channels.iter().enumerate();
    let line: String = all().map(|(index, (mean, _))| point(index, *mean)).collect();
    let above = all().map(|(index, (mean, spread))| point(index, mean + spread));
    let below = all().rev().map(|(index, (mean, spread))| point(index, mean - spread));
    let band: String = above.chain(below).collect();
    format!("<polygon class=band points=\"{band}\"/><polyline class=line points=\"{line}\"/>")
}

/// Returns a number in few digits, large or small.
fn short(value: f32) -> String {
    let digits = match value.abs() {
        size if size == 0.0 || (100.0..1e6).contains(&size) => 0,
        size if !(1e-3..1e6).contains(&size) => return format!("{value:.2e}"),
        size if size < 1.0 => 3,
        size if size < 10.0 => 2,
        _ => 1,
    };
    format!("{value:.digits$}")
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
    fn few_channels_are_bars_and_many_a_band() {
        let few = [(1.0, 0.5), (3.0, 0.0)];
        let frame = Frame::around(&few);
        assert_eq!((frame.low, frame.high), (0.5, 3.0));
        assert_eq!((frame.y(3.0), frame.y(0.5)), (0.0, HEIGHT - BELOW));
        assert_eq!(bars(&few, &frame).matches("<rect").count(), 2);
        // Without any spread there is still a line to see.
        let flat = [(2.0, 0.0)];
        assert!(!bars(&flat, &Frame::around(&flat)).contains("NaN"));
        let many = vec![(1.0, 0.5); 100];
        assert_eq!(band(&many, &Frame::around(&many)).matches(',').count(), 300);
    }

    #[test]
    fn numbers_are_short() {
        let all = [0.0, 0.123_45, -1.5, 99.876, 1_234.4, 123_456.7, 1.5e9, 2e-5];
        let shown: Vec<_> = all.into_iter().map(short).collect();
        assert_eq!(shown, ["0", "0.123", "-1.50", "99.9", "1234", "123457", "1.50e9", "2.00e-5"]);
    }

    #[test]
    fn text_is_harmless() {
        assert_eq!(escape("<b onx='\"&"), "&lt;b onx=&#39;&quot;&amp;");
    }
}
