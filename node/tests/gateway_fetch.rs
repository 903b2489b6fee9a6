//! Fetching segments over trustless gateways: honest ones, and such as lie, stand still or are not there.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    time::{Duration, Instant},
};

use common::{Node, complaint, eventually, observation, stdout, two_channels};
use dunlin_client::{AttemptOutcome, FetchRequest, FetchResponse, SegmentsQuery};
use tempfile::TempDir;

/// A node with segments that shows everything over its gateway, and one with nothing.
struct Fixture {
    _temp: TempDir,
    full: Node,
    empty: Node,
    cids: Vec<String>,
}

impl Fixture {
    fn start() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let listen = ["--listen", "/ip4/127.0.0.1/tcp/0"];
        let gateway = ["--gateway", "127.0.0.1:0", "--gateway-serve", "all"];
        let full = Node::start_with(&temp.path().join("full"), &[&listen[..], &gateway].concat());
        let empty = Node::start_with(&temp.path().join("empty"), &listen);
        let lives = (0..8).flat_map(|n| (0..400).map(move |i| observation(&format!("db{n}"), i)));
        full.fill(&two_channels("pairs"), lives.collect());
        let query = SegmentsQuery { collection: "pairs".into(), ..SegmentsQuery::default() };
        let page = full.client().segments(&query).unwrap();
        let cids: Vec<_> = page.segments.into_iter().map(|segment| segment.cid).collect();
        assert!(cids.len() >= 40, "{} segments", cids.len());
        Self { _temp: temp, full, empty, cids }
    }

    fn honest(&self) -> String {
        let address = fs::read_to_string(self.full.dir.join("gateway.address")).unwrap();
        format!("http://{}", address.trim())
    }

    fn fetch(&self, gateways: &[String]) -> FetchResponse {
        let request = FetchRequest {
            cids: self.cids.clone(),
            gateways: gateways.to_vec(),
            payload: true,
            ..FetchRequest::default()
        };
        self.empty.client().fetch(&request).unwrap()
    }

    /// Checks that every segment is here with its payload, as the other node has it.
    #[track_caller]
    fn assert_all_here(&self, answer: &FetchResponse) {
        for fetched in &answer.segments {
            assert!(fetched.missing_payload.is_empty(), "{fetched:?}");
            let segment = fetched.segment.as_ref().unwrap_or_else(|| panic!("{fetched:?}"));
            for cid in std::iter::once(&segment.cid).chain(&segment.payload) {
                let here = self.empty.client().block(cid).unwrap();
                assert_eq!(here, self.full.client().block(cid).unwrap(), "{cid}");
            }
        }
    }
}

/// Serves every connection with `answer` for each request; returns the URL. Ends with the test.
fn gateway(answer: impl Fn(&mut std::net::TcpStream) + Send + Sync + Copy + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut request = [0; 4096];
                while stream.read(&mut request).is_ok_and(|count| count > 0) {
                    answer(&mut stream);
                }
            });
        }
    });
    url
}

fn say(stream: &mut std::net::TcpStream, status: &str, body: &[u8]) {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), body].concat()).ok();
}

#[test]
fn a_segment_comes_over_a_gateway_and_who_served_it_is_said() {
    let fixture = Fixture::start();
    let (cid, url) = (fixture.cids[0].as_str(), fixture.honest());
    let text = stdout(&mut fixture.empty.command(&[
        "segments",
        "fetch",
        cid,
        "--payload",
        "--gateway",
        &url,
    ]));
    assert!(text.contains(&format!("{url} verified")), "{text}");
    assert!(text.contains("1 of 1 segments"), "{text}");
    let again = stdout(&mut fixture.empty.command(&["segments", "fetch", cid, "--payload"]));
    assert!(again.contains("was here already"), "{again}");
    let nowhere =
        fixture.empty.command(&["segments", "fetch", cid, "--gateway", "gopher://x"]).output();
    assert!(!nowhere.unwrap().status.success());
    let said =
        complaint(&mut fixture.empty.command(&["segments", "fetch", cid, "--gateway", "nowhere"]));
    assert!(said.contains("is no gateway's address"), "{said}");
}

#[test]
fn gateways_that_lie_or_are_not_there_cost_nothing_but_questions() {
    let fixture = Fixture::start();
    let liar = gateway(|stream| say(stream, "200 OK", b"trust me"));
    let flood = gateway(|stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").ok();
        let chunk = [b"10000\r\n", vec![7; 0x10000].as_slice(), b"\r\n"].concat();
        // Until nobody listens any more.
        while stream.write_all(&chunk).is_ok() {}
    });
    let empty = gateway(|stream| say(stream, "404 Not Found", b"no"));
    let broken = gateway(|stream| say(stream, "500 Internal Server Error", b""));
    let busy = gateway(|stream| say(stream, "429 Too Many Requests", b""));
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let urls = [liar.clone(), flood.clone(), empty, broken, busy, gone, fixture.honest()];
    let answer = fixture.fetch(&urls);
    fixture.assert_all_here(&answer);
    let attempts: Vec<_> = answer.segments.iter().flat_map(|fetched| &fetched.attempts).collect();
    let outcomes = |url: &str| {
        let of = attempts.iter().filter(|a| a.peer == url);
        of.map(|a| a.outcome).collect::<Vec<_>>()
    };
    assert!(outcomes(&liar).iter().all(|outcome| *outcome == AttemptOutcome::Corrupt));
    assert!(outcomes(&flood).iter().all(|outcome| *outcome == AttemptOutcome::Corrupt));
    assert!(outcomes(&fixture.honest()).contains(&AttemptOutcome::Verified));
    let served = attempts.iter().filter(|a| a.outcome == AttemptOutcome::Verified);
    assert!(served.map(|a| &a.peer).all(|peer| *peer == fixture.honest()));
}

#[test]
fn a_gateway_that_stands_still_is_left_for_another() {
    let fixture = Fixture::start();
    let still = gateway(|_| {});
    let begun = Instant::now();
    let answer = fixture.fetch(&[still.clone(), fixture.honest()]);
    fixture.assert_all_here(&answer);
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    // Without another, it ends all the same, and says what is missing.
    let lonely = Fixture::start();
    let answer = lonely.fetch(&[still]);
    assert!(answer.segments.iter().all(|fetched| fetched.segment.is_none()));
}

#[test]
fn peers_and_gateways_are_asked_together() {
    let fixture = Fixture::start();
    eventually("archived", || {
        Some(()).filter(|()| fixture.full.client().archive().unwrap().due == 0)
    });
    let nobody = "12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5";
    let request = FetchRequest {
        cids: fixture.cids.clone(),
        peers: vec![nobody.to_owned()],
        gateways: vec![fixture.honest()],
        ..FetchRequest::default()
    };
    let answer = fixture.empty.client().fetch(&request).unwrap();
    fixture.assert_all_here_without_payload(&answer);
    let first = &answer.segments[0].attempts;
    assert_eq!(first[0].peer, nobody);
    assert_eq!(first[1].peer, fixture.honest());
}

impl Fixture {
    #[track_caller]
    fn assert_all_here_without_payload(&self, answer: &FetchResponse) {
        assert_eq!(answer.segments.len(), self.cids.len());
        assert!(answer.segments.iter().all(|fetched| fetched.segment.is_some()));
    }
}
