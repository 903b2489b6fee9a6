//! The trustless gateway as an HTTP client meets it: what it serves to whom, and in which words it refuses.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
};

use common::{Node, PATIENCE, complaint, dunlin, eventually, observation, stdout, two_channels};
use dunlin_archive::car;
use dunlin_client::SegmentsQuery;
use dunlin_wire::{
    Cid,
    block::{Block, Codec, cid_of},
    cbor,
};
use tempfile::TempDir;

/// A node with a gateway.
struct Fixture {
    temp: TempDir,
    node: Node,
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: ureq::http::HeaderMap,
    /// Nothing, when the answer was cut off.
    body: Option<Vec<u8>>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn text(&self) -> String {
        String::from_utf8(self.body.clone().unwrap()).unwrap()
    }

    /// The CIDs of a CAR, each checked.
    fn car(&self) -> Vec<Cid> {
        let body = self.body.as_deref().expect("a whole CAR");
        let mut reader = car::Reader::open(body).unwrap();
        std::iter::from_fn(|| reader.next_section().unwrap()).map(|block| block.cid).collect()
    }
}

impl Fixture {
    fn start(config: &str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("node");
        stdout(dunlin(&["init", "--data-dir"]).arg(&dir));
        fs::write(dir.join("config.toml"), format!("[gateway]\nlisten = '127.0.0.1:0'\n{config}"))
            .unwrap();
        let node = Node::start(&dir);
        Self { temp, node }
    }

    fn address(&self) -> String {
        fs::read_to_string(self.node.dir.join("gateway.address")).unwrap().trim().to_owned()
    }

    fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[])
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .proxy(None);
        let agent = config.build().new_agent();
        let url = format!("http://{}{path}", self.address());
        let mut request = ureq::http::Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut answer = agent.run(request.body(()).unwrap()).unwrap();
        let body = answer.body_mut().with_config().limit(1 << 30).read_to_vec().ok();
        Answer { status: answer.status().as_u16(), headers: answer.headers().clone(), body }
    }

    /// Imports a CAR of these blocks.
    fn import(&self, blocks: &[(Cid, Vec<u8>)], flags: &[&str]) {
        let mut bytes = car::header(&[blocks[0].0]);
        for (cid, content) in blocks {
            car::section(&mut bytes, cid, content);
        }
        let file = self.temp.path().join("import.car");
        fs::write(&file, bytes).unwrap();
        stdout(self.node.command(&["archive", "import"]).arg(&file).args(flags));
    }

    /// A sealed segment with payload.
    fn segment(&self) -> dunlin_client::Segment {
        self.node.fill(&two_channels("pairs"), (0..200).map(|i| observation("db", i)).collect());
        let query = SegmentsQuery { collection: "pairs".into(), ..SegmentsQuery::default() };
        let page = self.node.client().segments(&query).unwrap();
        page.segments.into_iter().next().unwrap()
    }
}

fn raw(content: &[u8]) -> (Cid, Vec<u8>) {
    (cid_of(Codec::Raw, content), content.to_vec())
}

/// An object that links to `blocks`.
fn object(blocks: &[(Cid, Vec<u8>)]) -> (Cid, Vec<u8>) {
    let links: Vec<_> = blocks.iter().map(|(cid, _)| *cid).collect();
    let block = Block::new(Codec::DagCbor, cbor::encode(&links).unwrap());
    (*block.cid(), block.into_bytes())
}

/// A UnixFS file of pieces, each of fewer than 128 bytes.
fn file(pieces: &[(Cid, Vec<u8>)]) -> (Cid, Vec<u8>) {
    let field = |number: u8, content: &[u8]| {
        [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
    };
    let mut data = vec![8, 2];
    let mut bytes = Vec::new();
    for (cid, content) in pieces {
        bytes.extend(field(2, &field(1, &cid.to_bytes())));
        data.extend([0x20, u8::try_from(content.len()).unwrap()]);
    }
    bytes.extend(field(1, &data));
    (Cid::new_v1(0x70, *cid_of(Codec::Raw, &bytes).hash()), bytes)
}

#[test]
fn nobody_has_a_gateway_who_did_not_ask_for_one() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("node");
    let _node = Node::start(&dir);
    assert!(!dir.join("gateway.address").exists());
}

#[test]
fn a_public_gateway_serves_nothing_private() {
    let fixture = Fixture::start("");
    let segment = fixture.segment();
    eventually("the segment is archived", || {
        Some(()).filter(|()| fixture.node.client().archive().unwrap().due == 0)
    });
    let (private, public) = (raw(b"private"), raw(b"public"));
    fixture.import(std::slice::from_ref(&private), &[]);
    fixture.import(std::slice::from_ref(&public), &["--public"]);
    for cid in [&segment.cid, &segment.payload[0], &private.0.to_string()] {
        for form in ["raw", "car", "dag-json", "html", "car&dag-scope=block"] {
            let answer = fixture.get(&format!("/ipfs/{cid}?format={form}"));
            assert_eq!(answer.status, 404, "{cid} as {form}: {answer:?}");
        }
        // Nor does it tell that it has the block by other means.
        let known = [("if-none-match", "*"), ("cache-control", "only-if-cached")];
        let answer = fixture.send("HEAD", &format!("/ipfs/{cid}?format=raw"), &known);
        assert_eq!(answer.status, 412);
    }
    // A public graph that links to something private does not open the way to it.
    let root = object(&[public.clone(), private.clone()]);
    fixture.import(std::slice::from_ref(&root), &["--public"]);
    assert_eq!(fixture.get(&format!("/ipfs/{}/0?format=raw", root.0)).status, 200);
    assert_eq!(fixture.get(&format!("/ipfs/{}/1?format=raw", root.0)).status, 404);
    assert_eq!(fixture.get(&format!("/ipfs/{}?format=car", root.0)).body, None);
    let answer = fixture.get(&format!("/ipfs/{}?format=raw", public.0));
    assert_eq!((answer.status, answer.body.as_deref()), (200, Some(&b"public"[..])));
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert_eq!(answer.header("cache-control"), "public, max-age=29030400, immutable");
}

#[test]
fn a_gateway_for_everything_shows_segments_to_its_own_machine() {
    let fixture = Fixture::start("serve = 'all'");
    let segment = fixture.segment();
    let cid: Cid = segment.cid.parse().unwrap();
    let bytes = fixture.node.client().block(&segment.cid).unwrap();
    let path = format!("/ipfs/{cid}");
    let answer = fixture.get(&format!("{path}?format=raw"));
    assert_eq!((answer.status, answer.body.as_ref()), (200, Some(&bytes)));
    assert_eq!(answer.header("access-control-allow-origin"), "");
    assert_eq!(answer.header("cache-control"), "private, max-age=29030400, immutable");
    let payload: Vec<Cid> = segment.payload.iter().map(|cid| cid.parse().unwrap()).collect();
    let answer = fixture.get(&format!("{path}?format=car"));
    assert_eq!(answer.car(), [&[cid], &payload[..]].concat());
    assert_eq!(
        answer.header("content-type"),
        "application/vnd.ipld.car; version=1; order=dfs; dups=n"
    );
    let answer = fixture.get(&format!("{path}?format=dag-json"));
    let json: serde_json::Value = serde_json::from_str(&answer.text()).unwrap();
    assert_eq!(json[4], "db", "{json}");
    let answer = fixture.send("GET", &path, &[("accept", "text/html,*/*;q=0.8")]);
    assert!(answer.text().contains("<svg") && answer.text().contains(&segment.payload[0]));
    assert!(answer.header("content-security-policy").contains("default-src 'none'"));
    // A page of a stranger whose name points here gets nothing.
    let answer = fixture.send("GET", &format!("{path}?format=raw"), &[("host", "evil.example")]);
    assert_eq!(answer.status, 403);
}

#[test]
fn what_the_operator_denies_is_gone_in_every_form() {
    let (open, denied) = (raw(b"open"), raw(b"denied"));
    let root = object(&[open.clone(), denied.clone()]);
    let fixture = Fixture::start(&format!("denied = ['{}']", denied.0));
    fixture.import(&[root.clone(), open.clone(), denied.clone()], &["--public"]);
    let other_codec = Cid::new_v1(0x70, *denied.0.hash());
    for cid in [denied.0, other_codec] {
        for form in ["raw", "car", "dag-json", "html"] {
            let answer = fixture.get(&format!("/ipfs/{cid}?format={form}"));
            assert_eq!(answer.status, 410, "{cid} as {form}: {answer:?}");
        }
    }
    assert_eq!(fixture.get(&format!("/ipfs/{}/1?format=raw", root.0)).status, 410);
    assert_eq!(fixture.get(&format!("/ipfs/{}/0?format=raw", root.0)).status, 200);
    // A graph around it ends where it would come.
    assert_eq!(fixture.get(&format!("/ipfs/{}?format=car", root.0)).body, None);
    // For whoever runs the node it is still there.
    assert_eq!(fixture.node.client().block(&denied.0.to_string()).unwrap(), denied.1);
}

#[test]
fn heads_tags_and_ranges_are_those_of_http() {
    let fixture = Fixture::start("");
    let block = raw(b"0123456789");
    fixture.import(std::slice::from_ref(&block), &["--public"]);
    let path = format!("/ipfs/{}?format=raw", block.0);
    let head = fixture.send("HEAD", &path, &[]);
    assert_eq!((head.status, head.header("content-length")), (200, "10"));
    let tag = head.header("etag").to_owned();
    let answer = fixture.send("GET", &path, &[("if-none-match", &tag)]);
    assert_eq!((answer.status, answer.body.as_deref()), (304, Some(&[][..])));
    let answer = fixture.send("GET", &path, &[("range", "bytes=2-4")]);
    assert_eq!((answer.status, answer.body.as_deref()), (206, Some(&b"234"[..])));
    assert_eq!(answer.header("content-range"), "bytes 2-4/10");
    let answer = fixture.send("GET", &path, &[("range", "bytes=10-")]);
    assert_eq!((answer.status, answer.header("content-range")), (416, "bytes */10"));
    let car = format!("/ipfs/{}?format=car", block.0);
    let head = fixture.send("HEAD", &car, &[]);
    assert_eq!((head.status, head.header("accept-ranges")), (200, "none"));
    assert_eq!(head.header("content-length"), "", "nobody has counted");
    assert_eq!(fixture.send("OPTIONS", &car, &[]).status, 204);
    let answer = fixture.send("DELETE", &car, &[]);
    assert_eq!((answer.status, answer.header("allow")), (405, "GET, HEAD, OPTIONS"));
    assert_eq!(fixture.get("/ipfs/bafkqaaa").status, 200);
    let plain = format!("/ipfs/{}", block.0);
    assert_eq!(fixture.get(&plain).status, 400);
    assert_eq!(fixture.send("GET", &plain, &[("accept", "application/x-tar")]).status, 406);
    assert_eq!(fixture.get("/ipns/dunlin?format=raw").status, 501);
    assert_eq!(fixture.get("/v1/status").status, 404);
}

#[test]
fn files_come_in_parts_and_what_is_missing_cuts_the_answer() {
    let fixture = Fixture::start("");
    let pieces = [raw(&[1; 20]), raw(&[2; 30]), raw(&[3; 40])];
    let root = file(&pieces);
    // The second piece is nowhere.
    let blocks = [root.clone(), pieces[0].clone(), pieces[2].clone()];
    fixture.import(&blocks, &["--public"]);
    let v0 = Cid::new_v0(*root.0.hash()).unwrap();
    for name in [root.0, v0] {
        let get = |query: &str| fixture.get(&format!("/ipfs/{name}?format=car&{query}"));
        assert_eq!(get("entity-bytes=0:19").car(), [name, pieces[0].0]);
        assert_eq!(get("dag-scope=entity&entity-bytes=-40:*").car(), [name, pieces[2].0]);
        assert_eq!(get("dag-scope=block").car(), [name]);
        let cut = get("dag-scope=all");
        assert_eq!((cut.status, cut.body), (200, None), "no end is no whole answer");
    }
}

#[test]
fn a_gateway_has_limits() {
    let fixture = Fixture::start("requests_max = 1\ncar_mib_max = 16\n");
    let large: Vec<_> = (0..24_u8).map(|n| raw(&vec![n; 1 << 20])).collect();
    let (small, too_large) = (object(&large[..15]), object(&large));
    let blocks = [&[small.clone(), too_large.clone()], &large[..]].concat();
    fixture.import(&blocks, &["--public"]);
    let path = format!("/ipfs/{}?format=car", small.0);
    assert_eq!(fixture.get(&path).car().len(), 16);
    // Somebody asks and does not read.
    let mut idle = TcpStream::connect(fixture.address()).unwrap();
    write!(idle, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    idle.read_exact(&mut [0; 16]).unwrap();
    let answer = fixture.get(&path);
    assert_eq!((answer.status, answer.header("retry-after")), (429, "1"));
    drop(idle);
    eventually("the place is free again", || {
        Some(()).filter(|()| fixture.get(&path).status == 200)
    });
    eventually("a CAR that is too large is cut off", || {
        let answer = fixture.get(&format!("/ipfs/{}?format=car", too_large.0));
        (answer.status == 200).then(|| assert_eq!(answer.body, None))
    });
    let metrics = common::http::metrics(&fixture.node);
    assert!(metrics["dunlin_gateway_requests_busy_total"] >= 1.0);
    assert!(metrics["dunlin_gateway_cars_cut_total"] >= 1.0);
}

#[test]
fn a_damaged_file_is_refused_and_what_came_before_stays() {
    let fixture = Fixture::start("");
    let blocks = [raw(b"first"), raw(b"second")];
    let mut bytes = car::header(&[blocks[0].0]);
    for (cid, content) in &blocks {
        car::section(&mut bytes, cid, content);
    }
    let import = |bytes: &[u8]| {
        let file = fixture.temp.path().join("damaged.car");
        fs::write(&file, bytes).unwrap();
        complaint(fixture.node.command(&["archive", "import", "--public"]).arg(&file))
    };
    let last = bytes.len() - 1;
    assert!(import(&bytes[..last]).contains("cut off"));
    bytes[last] ^= 1;
    assert!(import(&bytes).contains("its bytes hash to something else"));
    assert!(import(b"\x0ano CAR file").contains("no CAR file"));
    for (cid, _) in &blocks {
        assert_eq!(fixture.get(&format!("/ipfs/{cid}?format=raw")).status, 404);
    }
    let missing =
        fixture.node.command(&["archive", "import", "/no/such/file.car"]).output().unwrap();
    assert!(!missing.status.success() && !Path::new("/no/such/file.car").exists());
}
