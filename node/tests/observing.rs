//! What an operator sees from outside: metrics and their dashboard, the live view, and logs that tell no secrets.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
};

use common::{Node, dunlin, eventually, http, observation, peers, stdout, two_channels};
use dunlin_client::{IngestRequest, Observation};
use serde_json::Value;

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Returns every name of a metric in these texts.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    text.split(move |letter| !is_part(letter)).filter(|word| word.starts_with("dunlin_"))
}

/// Collects the queries of all panels.
fn queries(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == "expr" || name == "query" => {
                        found.push(text.clone());
                    }
                    value => queries(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| queries(value, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_asks_for_metrics_that_exist_and_shows_every_room() {
    let temp = tempfile::tempdir().unwrap();
    let node = Node::start(&temp.path().join("node"));
    let served: BTreeSet<_> = http::metrics(&node).into_keys().collect();
    let dashboard = std::fs::read(workspace().join("deploy/grafana/dunlin.json")).unwrap();

    let mut asked = Vec::new();
    queries(&serde_json::from_slice(&dashboard).unwrap(), &mut asked);
    let asked: BTreeSet<_> = asked.iter().flat_map(|query| names(query)).collect();

    for name in &asked {
        assert!(served.contains(*name), "the dashboard asks for {name}, which no node serves");
    }
    let room = |name: &str| name.split('_').nth(1).unwrap().to_owned();
    let shown: BTreeSet<_> = asked.iter().map(|name| room(name)).collect();
    for name in &served {
        let room = room(name);
        // Bundles are made by hand.
        assert!(room == "bundles" || shown.contains(&room), "nothing of {room} is shown");
    }
}

#[test]
fn every_metric_says_what_it_counts() {
    let temp = tempfile::tempdir().unwrap();
    let node = Node::start(&temp.path().join("node"));
    let answer = http::send(&node, "GET /metrics", &http::authorization(&node), "");
    let described: BTreeSet<_> = answer
        .body
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '))
        .filter(|(_, help)| help.len() > 3)
        .map(|(name, _)| name.to_owned())
        .collect();
    for name in http::metrics(&node).keys() {
        let family = name.strip_suffix("_total").unwrap_or(name);
        assert!(described.contains(family), "{name} has no help text");
    }
}

#[test]
fn the_live_view_shows_what_changes_until_it_is_interrupted() {
    let temp = tempfile::tempdir().unwrap();
    let node = Node::start(&temp.path().join("node"));
    let mut watching = node
        .command(&["--json", "status", "--watch", "50ms"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut frames = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&frames.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["status"]["observations"], 0);

    let observations: Vec<_> = (0..100).map(|index| observation("db", index)).collect();
    node.fill(&two_channels("pairs"), observations);

    eventually("the view shows what came in", || {
        (next()["status"]["observations"] == 100).then_some(())
    });
    let pid = rustix::process::Pid::from_child(&watching);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert!(eventually("the view ends", || watching.try_wait().unwrap()).success());
}

#[test]
fn logs_tell_no_vectors_keys_or_tokens_at_any_level() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("node");
    let told = Observation {
        entity: "db".to_owned(),
        timestamp_us: 7,
        vector: vec![0.123_456_79, 0.765_432_1],
        metadata: None,
    };
    let wrong = Observation { vector: vec![0.987_654_3; 3], ..told.clone() };
    let node = Node::start_tracing(&dir);
    node.fill(&two_channels("pairs"), vec![told.clone()]);
    let request = IngestRequest { observations: vec![wrong.clone()] };
    node.client().ingest("pairs", &request).unwrap_err();
    http::send(&node, "GET /v1/status", &http::authorization(&node), "").json();
    http::send(&node, "GET /v1/status", "Authorization: Bearer not-the-token\r\n", "");
    stdout(&mut node.command(&["collections", "share", "pairs", "sealed"]));
    node.archive_all("pairs", "db");
    let log = node.log();
    node.stop();
    assert!(log.contains("TRACE"), "the log has all that can be logged");

    let token = std::fs::read_to_string(dir.join("api.token")).unwrap();
    let mut secrets = vec![token.trim().to_owned(), "not-the-token".to_owned()];
    let values = told.vector.iter().chain(&wrong.vector);
    secrets.extend(values.map(ToString::to_string));
    // A key of Ed25519: four bytes say what it is, then comes the secret half, then the public one.
    let identity = std::fs::read(dir.join("identity.key")).unwrap()[4..36].to_vec();
    let sealing = std::fs::read(dir.join("sealing.keys")).unwrap();
    let sealing = after(&sealing, b"\x58\x20").to_vec();
    for key in [identity, sealing] {
        secrets.push(key.iter().map(|byte| format!("{byte:02x}")).collect());
        secrets.push(format!("{key:?}"));
    }
    for secret in &secrets {
        assert!(!log.contains(secret), "the log tells {secret}");
    }
}

/// Returns the 32 bytes behind a marker: that of a string of 32 bytes in CBOR.
fn after<'a>(bytes: &'a [u8], marker: &[u8]) -> &'a [u8] {
    let at = bytes.windows(marker.len()).position(|part| part == marker).unwrap() + marker.len();
    &bytes[at..at + 32]
}

#[test]
fn a_bootstrap_node_shows_how_it_is_and_who_is_connected_to_nobody() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("boot");
    peers::init(&dir, "page-test");
    // A port that was free a moment ago.
    let at = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let page = format!("[page]\nlisten = \"{at}\"");
    let config = std::fs::read_to_string(dir.join("config.toml")).unwrap();
    let before = config.split_once("[page]").unwrap().0;
    let after = config.split_once("[privacy]").unwrap().1;
    std::fs::write(dir.join("config.toml"), format!("{before}{page}\n[privacy]{after}")).unwrap();
    let flags = ["bootstrap", "--listen", "/ip4/127.0.0.1/tcp/0", "--data-dir"];
    let _boot = peers::KillOnDrop::spawn(dunlin(&flags).arg(&dir));
    let address = eventually("it listens", || peers::address_in(&dir));
    let node_dir = temp.path().join("node");
    let peer = peers::init(&node_dir, "page-test");
    let node =
        Node::start_with(&node_dir, &["--listen", "/ip4/127.0.0.1/tcp/0", "--bootstrap", &address]);
    node.wait_for_peer(address.rsplit_once("/p2p/").unwrap().1);

    let connected = "dunlin_protocols_peers_connected 1";
    let metrics = eventually("it counts its peer", || {
        Some(page_at(at, "/metrics")).filter(|text| text.contains(connected))
    });
    assert!(metrics.contains("application/openmetrics-text") && metrics.ends_with("# EOF\n"));
    for name in ["relay_reservations", "probes_served", "records_stored", "connections_refused"] {
        assert!(metrics.contains(&format!("# HELP dunlin_protocols_{name} ")), "{name}: {metrics}");
    }
    assert!(page_at(at, "/healthz").ends_with("ok\n"));
    let shown = page_at(at, "/");
    for part in [address.as_str(), "page-test", "Connected peers<td>1<", "default-src 'none'"] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    assert!(!shown.contains(&peer), "{shown}");
    assert!(page_at(at, "/v1/status").starts_with("HTTP/1.1 404"));
}

/// Fetches a page, with its head.
fn page_at(at: std::net::SocketAddr, path: &str) -> String {
    use std::io::{Read, Write};

    let mut stream = std::net::TcpStream::connect(at).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[cfg(feature = "otel")]
#[test]
fn traces_go_to_the_collector_that_the_environment_names() {
    use std::io::{Read, Write};

    let collector = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", collector.local_addr().unwrap());
    let (tell, told) = std::sync::mpsc::sync_channel(16);
    std::thread::spawn(move || {
        for stream in collector.incoming() {
            let mut stream = stream.unwrap();
            let mut bytes = Vec::new();
            let (mut part, mut whole) = ([0; 4096], usize::MAX);
            while bytes.len() < whole {
                let count = stream.read(&mut part).unwrap();
                bytes.extend_from_slice(&part[..count]);
                let end = bytes.windows(4).position(|part| part == b"\r\n\r\n");
                if let Some(end) = end.filter(|_| whole == usize::MAX) {
                    let head = String::from_utf8(bytes[..end].to_ascii_lowercase()).unwrap();
                    let length = head.split("content-length: ").nth(1).unwrap().lines().next();
                    whole = end + 4 + length.unwrap().parse::<usize>().unwrap();
                }
            }
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                .unwrap();
            tell.send(bytes).ok();
        }
    });
    let temp = tempfile::tempdir().unwrap();
    let node = Node::start_exporting(&temp.path().join("node"), &url);
    let token = http::authorization(&node);
    http::send(&node, "GET /v1/status", &token, "").json();
    node.stop();

    let sent: Vec<u8> = told.try_iter().flatten().collect();
    let text = String::from_utf8_lossy(&sent);
    assert!(text.starts_with("POST /v1/traces"), "{text}");
    for part in ["dunlin", "http.route", "/v1/status", "http.response.status_code"] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    assert!(!text.contains(token.trim_start_matches("Authorization: Bearer ").trim()));
}
