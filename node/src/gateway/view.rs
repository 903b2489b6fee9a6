//! A segment as a page: for a person with a browser and a CID, and without scripts.

use std::time::Duration;

use dunlin_engine::Segment;
use dunlin_privacy::NoisedSegment;
use dunlin_wire::{
    Cid,
    envelope::{self, Signed},
};

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

/// What a page tells of a segment.
struct About {
    /// Whose it is.
    title: String,
    /// What it is.
    kind: &'static str,
    /// Names and values, in HTML.
    rows: Vec<(&'static str, String)>,
    /// The mean and the spread of each channel, drawn.
    drawing: String,
    /// Further links, in HTML.
    links: String,
}

/// Returns the page of the segment that these bytes are, noised or not; `None` if they are none.
pub(super) fn page(cid: &Cid, bytes: &[u8], host: &str) -> Option<String> {
    let about = match Segment::decode(bytes) {
        Ok(segment) => of_segment(&segment),
        Err(_) => of_noised(&envelope::open::<NoisedSegment>(bytes).ok()?),
    };
    let About { title, kind, mut rows, drawing, links } = about;
    rows.push(("block", size(bytes.len() as u64)));
    rows.push(("CID", format!("<code>{cid}</code>")));
    let rows: String =
        rows.iter().map(|(name, value)| format!("<tr><td>{name}<td>{value}")).collect();
    Some(format!(
        "<!doctype html><html lang=en><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width\">\
         <title>{title} · Dunlin segment</title><style>{STYLE}</style>\
         <h1>{title}</h1><p>{kind}</p>\
         <table>{rows}</table>\
         {drawing}\
         <h2>Get it</h2><ul><li><a href=\"/ipfs/{cid}?format=raw\">the block</a>\
         <li><a href=\"/ipfs/{cid}?format=dag-json\">as DAG-JSON</a>\
         <li><a href=\"/ipfs/{cid}?format=car\">with all that it links to, as a CAR</a>{links}</ul>\
         <h2>Check it yourself</h2><p>The CID is the hash of the block; trust no gateway, this one \
         included. The two hashes that these print are the same:</p>\
         <pre>curl -s 'http://{host}/ipfs/{cid}?format=raw' | sha256sum\necho {digest}</pre>\
         <p>Or let a program check: a Dunlin node, or any IPFS node.</p>\
         <pre>dunlin segments fetch {cid} --gateway http://{host}\n\
         curl -s 'http://{host}/ipfs/{cid}?format=car' | ipfs dag import --pin-roots=false</pre></html>\n",
        title = escape(&title),
        host = escape(host),
        digest = hex(cid.hash().digest()),
    ))
}

fn of_segment(segment: &Segment) -> About {
    let drift = format!("{:.4} mean, {:.4} at most", segment.drift_mean(), segment.drift_max());
    let drawing = drawing(segment.mean(), &segment.spread());
    About {
        title: segment.entity().to_string(),
        kind: "A stretch of steady behavior, folded into one Dunlin segment.",
        rows: vec![
            ("collection", escape(&segment.collection().to_string())),
            ("from", escape(&time(segment.start().0))),
            ("to", escape(&time(segment.end().0))),
            ("observations", segment.count().to_string()),
            ("channels", segment.dim().to_string()),
            ("drift", drift),
            ("anomaly score", format!("{:.4}", segment.score())),
        ],
        drawing: format!(
            "<h2>Mean and spread</h2>{drawing}\
             <p>The mean of each channel, and one spread above and below it.</p>"
        ),
        links: payload(segment),
    }
}

fn of_noised(signed: &Signed<NoisedSegment>) -> About {
    let segment = &signed.value;
    let (window, privacy, mean) = (segment.window(), segment.privacy(), segment.mean());
    let loss =
        format!("epsilon {} per {:?}", privacy.epsilon.as_f64(), privacy.unit).to_lowercase();
    let drawing = drawing(&mean, &vec![0.0; mean.len()]);
    About {
        title: segment.entity().to_string(),
        kind: "What one entity did in a window of time, noised so that no single observation can be read out of it. \
               The entity is a pseudonym.",
        rows: vec![
            ("collection", escape(segment.collection())),
            ("published by", format!("<code>{}</code>", signed.signer)),
            ("from", escape(&time(window.start_us()))),
            (
                "for",
                humantime::format_duration(Duration::from_micros(window.length_us())).to_string(),
            ),
            ("observations", format!("about {}", segment.count())),
            ("channels", mean.len().to_string()),
            ("privacy loss", loss),
        ],
        drawing: format!("<h2>Mean</h2>{drawing}<p>The noised mean of each channel.</p>"),
        links: String::new(),
    }
}

fn payload(segment: &Segment) -> String {
    let link = |(index, cid): (usize, &Cid)| {
        format!("<li><a href=\"/ipfs/{cid}?format=raw\">payload block {}</a>", index + 1)
    };
    segment.payload().iter().enumerate().map(link).collect()
}

/// Returns the means of all channels with one spread on either side: a bar for each, or a band.
fn drawing(mean: &[f32], spread: &[f32]) -> String {
    let step = mean.len().div_ceil(DRAWN_MAX).max(1);
    let channels: Vec<(f32, f32)> =
        mean.iter().copied().zip(spread.iter().copied()).step_by(step).collect();
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
         <text x={WIDTH} y={under} text-anchor=end>{last}</text></svg>",
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

    /// A noised segment of the same, in its envelope.
    const NOISED: &[u8] = include_bytes!("../../../fuzz/corpus/noised_segment/valid-envelope");

    #[test]
    fn a_page_shows_the_segment_and_how_to_check_it() {
        let segment = Segment::decode(SEGMENT).unwrap();
        let cid = segment.cid();
        let page = page(&cid, SEGMENT, "127.0.0.1:4610").unwrap();
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
    fn a_page_of_a_noised_segment_says_what_was_noised_and_who_promises_it() {
        let signed = envelope::open::<NoisedSegment>(NOISED).unwrap();
        let cid = dunlin_wire::block::cid_of(dunlin_wire::block::Codec::DagCbor, NOISED);
        let page = page(&cid, NOISED, "127.0.0.1:4610").unwrap();
        let entity = signed.value.entity().to_string();
        for part in [&entity, &signed.signer.to_string(), "about", "epsilon", "<svg"] {
            assert!(page.contains(part), "{part} is not in {page}");
        }
        assert!(!page.contains("NaN") && !page.contains("spread above"), "{page}");
    }

    #[test]
    fn other_bytes_have_no_page() {
        let cid = dunlin_wire::block::cid_of(dunlin_wire::block::Codec::Raw, b"0123456789");
        assert_eq!(page(&cid, b"0123456789", "here"), None);
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
