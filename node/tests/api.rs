//! The local HTTP API as `docs/api.md` promises it: who gets in, what is refused and how, and that the
//! answers are true.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{collections::BTreeMap, io::Write};

use common::{
    Node, complaint, dunlin, eventually,
    http::{self, Answer, authorization, metrics, send, send_json},
    observation, stdout, two_channels,
};
use dunlin_client::{
    ChangeOrder, ChangesQuery, Course, Fidelity, HistoryQuery, IngestRequest, KnnQuery, Nearest,
    Observation, Scope, ScoreUnits, ScoresQuery, SegmentsQuery, TemplateUse, TrajectoryQuery,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Most bytes of a request body, as `docs/api.md` says.
const BODY_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Observations of each entity.
const LIFE: u32 = 400;

/// A node with the lives of two entities.
fn lived() -> (TempDir, Node, Vec<Observation>) {
    let temp = tempfile::tempdir().unwrap();
    let node = Node::start(&temp.path().join("node"));
    let mut observations: Vec<_> = (0..LIFE).map(|index| observation("db", index)).collect();
    observations.extend((0..LIFE).map(|index| shifted(observation("web", index))));
    node.fill(&two_channels("pairs"), observations.clone());
    (temp, node, observations)
}

/// The other entity is not where the first one is.
fn shifted(mut observation: Observation) -> Observation {
    observation.vector[0] *= 0.5;
    observation
}

#[test]
fn without_the_token_nothing_is_said() {
    let temp = tempfile::tempdir().unwrap();
    let node = Node::start(&temp.path().join("node"));
    let wrong = "Authorization: Bearer 0123456789abcdef\r\n";
    let basic = authorization(&node).replace("Bearer", "Basic");
    let twice = format!("{}x\r\n", authorization(&node).trim_end());
    let requests = [
        "GET /v1/status",
        "GET /metrics",
        "POST /v1/collections",
        "GET /v1/blocks/x",
        "GET /no/such/call",
    ];
    for request in requests {
        for headers in ["", wrong, &basic, &twice] {
            send(&node, request, headers, "").assert_refused(401, "unauthorized");
        }
    }
    let health = send(&node, "GET /healthz", "", "");
    assert_eq!((health.status, health.body.as_str()), (200, "ok\n"));
    assert_eq!(send(&node, "GET /v1/status", &authorization(&node), "").status, 200);
}

#[test]
fn every_refusal_has_a_code_and_a_message() {
    let temp = tempfile::tempdir().unwrap();
    let node = Node::start(&temp.path().join("node"));
    let ask = |request: &str, body: &str| send_json(&node, request, body);
    ask("GET /v1/nonsense", "").assert_refused(404, "not_found");
    ask("GET /v1", "").assert_refused(404, "not_found");
    // The page is for who calls the node by its address, which is none of this test's names.
    ask("GET /", "").assert_refused(403, "foreign_origin");
    for body in ["", "{", "[]", "{\"collection\": 1}", "{\"colection\": \"x\"}", "\u{0}"] {
        ask("POST /v1/query/segments", body).assert_refused(400, "bad_json");
    }
    let no_type = send(&node, "POST /v1/query/segments", &authorization(&node), "{}");
    no_type.assert_refused(400, "bad_json");
    ask("GET /v1/segments/nonsense", "").assert_refused(400, "bad_query");
    let unknown = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku";
    ask(&format!("GET /v1/segments/{unknown}"), "").assert_refused(404, "not_found");
    ask(&format!("GET /v1/blocks/{unknown}"), "").assert_refused(404, "not_found");
    ask("GET /v1/collections/none/entities", "").assert_refused(404, "not_found");
    ask("POST /v1/collections/none/seal", "{\"entity\":\"e\"}").assert_refused(404, "not_found");
    ask("DELETE /v1/status", "").assert_refused(405, "method_not_allowed");
    ask("GET /v1/segments/%FF%FE", "").assert_refused(400, "bad_query");
    let nameless = json!({ "name": "No Name", "dim": 2 }).to_string();
    ask("POST /v1/collections", &nameless).assert_refused(400, "bad_collection");
    assert!(ask("GET /v1/status", "").json()["problems"].as_array().unwrap().is_empty());
}

#[test]
fn a_body_beyond_the_limit_is_refused_and_the_node_stays_well() {
    let (_temp, node, observations) = lived();
    let headers = format!("{}Content-Type: application/json\r\n", authorization(&node));
    let open = |length: &str| {
        let mut stream = http::connect(&node);
        let head = format!(
            "POST /v1/collections/pairs/observations HTTP/1.1\r\nHost: dunlin\r\nConnection: close\r\n{headers}{length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let mut one_too_many = open(&format!("Content-Length: {}", BODY_BYTES_MAX + 1));
    // The node may hang up before it has all of it.
    one_too_many.write_all(&vec![b' '; BODY_BYTES_MAX + 1]).ok();
    let refused = http::read(one_too_many);
    refused.assert_refused(413, "too_large");
    // One that does not say how long it is is cut off.
    let mut endless = open("Transfer-Encoding: chunked");
    let chunk = format!("100000\r\n{}\r\n", " ".repeat(1 << 20));
    let sent = (0..64).take_while(|_| endless.write_all(chunk.as_bytes()).is_ok()).count();
    assert!(sent < 64, "the node took {sent} MiB");
    // Up to the limit it is read: this one is refused for what it says, not for its size.
    let full = format!("{{\"observations\": []{}}}", " ".repeat(BODY_BYTES_MAX - 20));
    assert_eq!(full.len(), BODY_BYTES_MAX);
    let taken = send_json(&node, "POST /v1/collections/pairs/observations", &full);
    assert_eq!(taken.status, 200, "{}", taken.body);
    assert_eq!(send(&node, "GET /healthz", "", "").status, 200);
    assert_eq!(node.client().status().unwrap().observations, observations.len() as u64);
}

#[test]
fn cluster_status_has_its_shape_and_is_true() {
    let (_temp, node, _) = lived();
    let archived = node.archive_all("pairs", "db").len();
    let json = send(&node, "GET /v1/cluster/status", &authorization(&node), "").json();
    let has = |value: &Value, keys: &[&str]| {
        for key in keys {
            assert!(value.get(key).is_some(), "{key} is not in {value}");
        }
    };
    has(&json, &["cluster_id", "topology", "node_count", "shard_count", "status", "members"]);
    has(&json["replication"], &["crdt_types", "convergence_status"]);
    has(&json["federation"], &["connected_clusters", "shared_templates"]);
    has(&json["ipfs"], &["archived_segments", "total_cids", "pinned_nodes", "last_archive_ms"]);
    has(&json["privacy"], &["differential_privacy_enabled", "shared_segments_noised"]);
    let me = &json["members"][0];
    has(me, &["node_id", "peer_id", "address", "state", "role", "entities", "uptime_seconds"]);
    let status = node.client().status().unwrap();
    assert_eq!((&me["peer_id"], &me["node_id"]), (&json!(status.peer), &json!(status.peer)));
    assert_eq!((&me["state"], &me["role"]), (&json!("alive"), &json!("self")));
    assert_eq!((&me["entities"], &me["address"]), (&json!(2), &json!(status.listen[0])));
    assert_eq!((&json["status"], &json["topology"]), (&json!("healthy"), &json!("p2p")));
    assert_eq!(json["node_count"], json!(json["members"].as_array().unwrap().len()));
    assert_eq!(json["cluster_id"], json!(status.network));
    assert_eq!(json["ipfs"]["archived_segments"], json!(archived));
    // Each lossless segment of this size has one payload block besides its own; their catalog is a block too,
    // and so is the root over all catalogs.
    assert_eq!(json["ipfs"]["total_cids"], json!(2 * archived + 2));
    assert!(json["ipfs"]["last_archive_ms"].as_u64().is_some_and(|ms| ms > 1_700_000_000_000));
    assert_eq!(json["federation"]["shared_templates"], json!(0));
}

#[test]
fn metrics_count_what_happened() {
    let (_temp, node, observations) = lived();
    let client = node.client();
    let count = observations.len() as u64;
    client.ingest("pairs", &IngestRequest { observations: observations.clone() }).unwrap();
    let late = Observation { timestamp_us: -1, ..observations[0].clone() };
    client.ingest("pairs", &IngestRequest { observations: vec![late] }).unwrap();
    let wrong = Observation { vector: vec![0.0; 3], ..observations[0].clone() };
    client.ingest("pairs", &IngestRequest { observations: vec![wrong] }).unwrap_err();
    let segments = node.archive_all("pairs", "db").len();
    let status = client.status().unwrap();
    assert_eq!(status.segments, segments as u64);
    let metrics = metrics(&node);
    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    let expected = BTreeMap::from([
        ("dunlin_engine_observations_accepted_total", count as f64),
        // Of what is sent again, the newest of each entity is known to be there; what is older came
        // too late, there or not.
        ("dunlin_engine_observations_duplicate_total", 2.0),
        ("dunlin_engine_observations_late_total", count as f64 - 2.0 + 1.0),
        ("dunlin_engine_writes_refused_total", 1.0),
        ("dunlin_engine_segments_sealed_total", segments as f64),
        ("dunlin_engine_segments", segments as f64),
        ("dunlin_engine_observations", count as f64),
        ("dunlin_engine_entities", 2.0),
        ("dunlin_engine_collections", 1.0),
        ("dunlin_archive_segments", segments as f64),
        ("dunlin_archive_due_segments", 0.0),
        ("dunlin_node_problems", 0.0),
        ("dunlin_privacy_epsilon_spent", 0.0),
    ]);
    for (name, value) in expected {
        assert_eq!(metrics.get(name), Some(&value), "{name}");
    }
}

#[test]
fn limits_hold_and_say_what_they_are() {
    let (_temp, node, _) = lived();
    let cids = node.archive_all("pairs", "db");
    let knn = |k: u64, vector: &[f32]| {
        let body = json!({ "collection": "pairs", "vector": vector, "k": k }).to_string();
        send_json(&node, "POST /v1/query/knn", &body)
    };
    knn(0, &[0.5, 0.5]).assert_refused(400, "bad_query");
    knn(10_001, &[0.5, 0.5]).assert_refused(400, "bad_query");
    knn(1 << 40, &[0.5, 0.5]).assert_refused(400, "bad_json");
    knn(1, &[0.5]).assert_refused(400, "bad_query");
    assert_eq!(knn(10_000, &[0.5, 0.5]).status, 200);
    for k in [0, 10_001] {
        let body = json!({ "collection": "pairs", "k": k }).to_string();
        send_json(&node, "POST /v1/query/anomalies", &body).assert_refused(400, "bad_query");
    }
    let fetch = |cids: &[String]| -> Answer {
        let body = json!({ "cids": cids }).to_string();
        send_json(&node, "POST /v1/segments/fetch", &body)
    };
    let many = vec![cids[0].clone(); 1_001];
    fetch(&many).assert_refused(400, "bad_query");
    fetch(&["nonsense".to_owned()]).assert_refused(400, "bad_query");
    let answer = fetch(&many[..1_000]).json();
    let fetched = answer["segments"].as_array().unwrap();
    assert_eq!(fetched.len(), 1, "the same CID is one wish");
    assert_eq!(fetched[0]["local"], json!(true));
    let bad_peer = json!({ "cids": [cids[0]], "peers": ["nobody"] }).to_string();
    send_json(&node, "POST /v1/segments/fetch", &bad_peer).assert_refused(400, "bad_query");
    let history = json!({ "collection": "pairs", "entity": "db", "limit": 7 }).to_string();
    let history = send_json(&node, "POST /v1/query/history", &history).json();
    assert_eq!(history["points"].as_array().unwrap().len(), 7);
    assert_eq!(history["coverage"]["complete"], json!(false), "what is left out is said");
}

#[test]
fn history_and_scores_are_of_what_was_ingested() {
    let (_temp, node, observations) = lived();
    let client = node.client();
    for entity in ["db", "web"] {
        let query = HistoryQuery {
            collection: "pairs".into(),
            entity: entity.into(),
            from_us: None,
            to_us: None,
            limit: Some(100_000),
            matches: None,
        };
        let history = client.history(&query).unwrap();
        assert!(history.fidelity == Fidelity::Lossless && history.coverage.complete);
        let sent = observations.iter().filter(|sent| sent.entity == entity);
        let sent: Vec<_> = sent.map(|sent| (sent.timestamp_us, &sent.vector)).collect();
        let there: Vec<_> =
            history.points.iter().map(|point| (point.timestamp_us, &point.vector)).collect();
        assert_eq!(there, sent);

        let (from, to) = (100 * 1_000_000, 299 * 1_000_000);
        let query = ScoresQuery {
            collection: "pairs".into(),
            entity: entity.into(),
            from_us: from,
            to_us: to,
            known_until_us: None,
            templates: TemplateUse::None,
            seed: 0,
            units: ScoreUnits::Blended,
            known_after_us: 0,
        };
        let scores = client.scores(&query).unwrap().scores;
        let times: Vec<_> = scores.iter().map(|score| score.timestamp_us).collect();
        let sent: Vec<_> =
            sent.iter().map(|(time, _)| *time).filter(|time| (from..=to).contains(time)).collect();
        assert_eq!(times, sent, "one score for each observation");
        assert!(scores.iter().all(|score| (0.0..=1.0).contains(&score.score)));
        let has_timing = |score: &dunlin_client::Score| score.factors.timing.is_some();
        assert!(scores.iter().any(has_timing) && scores.iter().any(|s| s.factors.peers.is_some()));
    }
}

#[test]
fn history_and_entities_say_which_known_behaviour_was_nearest() {
    let (_temp, node, _) = lived();
    let client = node.client();
    let query = HistoryQuery {
        collection: "pairs".into(),
        entity: "db".into(),
        from_us: None,
        to_us: None,
        limit: Some(LIFE - 10),
        matches: Some(TemplateUse::Adopted),
    };
    let points = client.history(&query).unwrap().points;
    let query = ScoresQuery {
        collection: "pairs".into(),
        entity: "db".into(),
        from_us: i64::MIN,
        to_us: i64::MAX,
        known_until_us: None,
        templates: TemplateUse::Adopted,
        seed: 0,
        units: ScoreUnits::Range,
        known_after_us: 0,
    };
    // The factors of a score say the same.
    let scores = client.scores(&query).unwrap().scores;
    assert_eq!(points.len() + 10, scores.len());
    for (point, score) in points.iter().zip(&scores) {
        let (matched, factors) = (point.matched.as_ref(), &score.factors);
        assert_eq!(matched.map(|matched| &matched.nearest), factors.nearest.as_ref());
        assert_eq!(matched.map(|matched| matched.distance), factors.distance);
        assert_eq!(matched.and_then(|matched| matched.margin), factors.margin);
    }
    // Levels come back after four of them, so what was seen then is known, and by which segment.
    let last = points.last().unwrap().matched.clone().unwrap();
    let Nearest::Segment(cid) = &last.nearest else { panic!("{last:?}") };
    assert_eq!(client.segment(cid).unwrap().entity, "db");
    assert!(last.distance < 1.0 && last.margin.is_some());
    // So does the live view, of the newest observation.
    let entity = client.entities("pairs").unwrap().entities.remove(0);
    let (matched, factors) = (entity.matched.unwrap(), &scores.last().unwrap().factors);
    assert_eq!(Some(&matched.nearest), factors.nearest.as_ref());
    assert!((matched.distance - factors.distance.unwrap()).abs() < 1e-9);
    let text = stdout(&mut node.command(&["history", "db", "-c", "pairs"]));
    assert!(text.contains("nearest known") && text.contains(&cid[cid.len() - 8..]), "{text}");
    let text = stdout(&mut node.command(&["collections", "entities", "pairs"]));
    assert!(text.contains("now nearest to"), "{text}");
    let counted = metrics(&node);
    let of = |name: &str| counted[&format!("dunlin_engine_observations_{name}_total")];
    assert!(of("like_own") > 100.0 && of("unlike") > 0.0 && of("like_template") == 0.0);
}

#[test]
fn behaviours_are_what_entities_do_again_and_again() {
    let temp = tempfile::tempdir().unwrap();
    let node = Node::start(&temp.path().join("node"));
    let spec = dunlin_client::CollectionSpec {
        channels: Some(vec!["load".to_owned(), "idle".to_owned()]),
        ..two_channels("pairs")
    };
    // Two levels in turn; once, one entity is elsewhere.
    let turn = |entity: &str, index: u32| {
        let level = if (index / 20).is_multiple_of(2) { 0.2 } else { 0.8 };
        let is_odd = entity == "c" && index / 20 == 21;
        let vector = if is_odd { vec![0.45, 0.95] } else { vec![level, 1.0 - level] };
        Observation { vector, ..observation(entity, index) }
    };
    let lives = ["a", "b", "c"].map(|entity| (0..1_000).map(move |index| (entity, index)));
    node.fill(&spec, lives.into_iter().flatten().map(|(id, index)| turn(id, index)).collect());
    let client = node.client();
    let answer = client.behaviours("pairs", true).unwrap();
    assert_eq!(answer.behaviours.len(), 2, "{answer:?}");
    assert_eq!(answer.coverage.segments, 3 * 49);
    assert_eq!(answer.outlier_segments, 1);
    let outlier = &answer.outliers[0];
    assert_eq!((outlier.entity.as_str(), outlier.segments), ("c", 1));
    assert!(client.segment(&outlier.cid).unwrap().entity == "c" && outlier.nearest.is_some());
    for behaviour in &answer.behaviours {
        assert_eq!((behaviour.entities, behaviour.entities_cut), (3, false));
        assert_eq!(behaviour.dwell_us, 19_000_000);
        let of_details: u64 = behaviour.details.iter().map(|detail| detail.segments).sum();
        assert_eq!((of_details, behaviour.hours.len()), (behaviour.segments, 24));
    }
    let mut names: Vec<_> = answer.behaviours.iter().map(|one| one.name.clone()).collect();
    names.sort();
    assert!(names[0].contains("load high") || names[1].contains("load high"), "{names:?}");
    let text = stdout(&mut node.command(&["behaviours", "pairs"]));
    assert!(text.contains("load high") && text.contains("1 of 147 segments"), "{text}");

    // What is sealed later is in the next answer, and what was removed is not.
    client.seal("pairs", "a").unwrap();
    assert_eq!(client.behaviours("pairs", false).unwrap().coverage.segments, 3 * 49 + 1);
    client.remove("pairs", "c").unwrap();
    let answer = client.behaviours("pairs", false).unwrap();
    assert_eq!((answer.coverage.segments, answer.outliers.len()), (2 * 49 + 1, 0));
    assert!(answer.behaviours.iter().all(|one| one.entities == 2 && one.details.is_empty()));

    let rangeless = dunlin_client::CollectionSpec {
        units: dunlin_client::Units::NoiseFloor,
        ..two_channels("odd")
    };
    client.create_collection(&rangeless).unwrap();
    assert!(client.behaviours("odd", false).unwrap_err().is_refusal("bad_query"));
    assert!(client.behaviours("none", false).unwrap_err().is_refusal("not_found"));
}

#[test]
fn knn_agrees_with_brute_force_over_all_segments() {
    let (_temp, node, _) = lived();
    let client = node.client();
    ["db", "web"].into_iter().for_each(|entity| {
        client.seal("pairs", entity).unwrap();
    });
    let query = SegmentsQuery {
        collection: "pairs".into(),
        limit: Some(100_000),
        ..SegmentsQuery::default()
    };
    let segments = client.segments(&query).unwrap().segments;
    assert!(segments.len() >= 10, "{} segments", segments.len());
    for (vector, k) in [(vec![0.1, 0.9], 3), (vec![0.6, 0.4], 5), (vec![2.0, -1.0], 1_000)] {
        let distance = |mean: &[f32]| {
            let squares = mean.iter().zip(&vector).map(|(a, b)| f64::from(a - b).powi(2));
            squares.sum::<f64>().sqrt()
        };
        let mut expected: Vec<_> =
            segments.iter().map(|segment| (distance(&segment.mean), &segment.cid)).collect();
        expected.sort_by(|a, b| a.0.total_cmp(&b.0));
        let query = KnnQuery::new("pairs", vector.clone(), k);
        let answer = client.knn(&query).unwrap();
        assert_eq!(answer.coverage.segments, segments.len() as u64);
        assert_eq!(answer.hits.len(), segments.len().min(k as usize));
        for (hit, (distance, _)) in answer.hits.iter().zip(&expected) {
            // Segments of equal distance may change places, so distances are compared and CIDs owned.
            assert!((hit.distance - distance).abs() < 1e-5, "{hit:?} {distance}");
            let cid = hit.cid.as_ref().unwrap();
            let own = expected.iter().find(|(_, known)| *known == cid).unwrap().0;
            assert!((hit.distance - own).abs() < 1e-5, "{hit:?} {own}");
        }
    }
}

#[test]
fn how_entities_are_now_and_how_they_were_can_be_asked_for_alone() {
    let (_temp, node, _) = lived();
    let hits = |scope: Scope| {
        let query = KnnQuery { scope, ..KnnQuery::new("pairs", vec![0.3, 0.6], 1_000) };
        let answer = node.client().knn(&query).unwrap();
        assert!(answer.coverage.elapsed_us > 0, "{:?}", answer.coverage);
        let counts = (answer.coverage.open_regimes, answer.coverage.segments);
        (answer.hits, counts)
    };
    let ((all, counts), (open, of_open)) = (hits(Scope::Local), hits(Scope::Open));
    let (sealed, of_sealed) = hits(Scope::Sealed);
    assert!(open.len() == 2 && open.iter().all(|hit| hit.cid.is_none()), "{open:?}");
    assert!(sealed.len() > 1 && sealed.iter().all(|hit| hit.cid.is_some()), "{sealed:?}");
    assert_eq!((of_open, of_sealed), ((2, 0), (0, sealed.len() as u64)));
    assert_eq!((all.len(), counts), (2 + sealed.len(), (2, sealed.len() as u64)));
    let shown = |scope| {
        let mut command = node.command(&["knn", "0.3,0.6", "-c", "pairs", "--scope", scope]);
        stdout(&mut command)
    };
    assert!(shown("open").contains("(open regime)") && !shown("sealed").contains("(open regime)"));
}

#[test]
fn questions_with_a_vector_of_another_length_are_refused_everywhere() {
    let (_temp, node, _) = lived();
    for scope in ["local", "open", "sealed", "fetched"] {
        let query = json!({ "collection": "pairs", "vector": [0.5], "k": 1, "scope": scope });
        let answer = send_json(&node, "POST /v1/query/knn", &query.to_string());
        answer.assert_refused(400, "bad_query");
    }
}

#[test]
fn changes_and_courses_are_told_by_the_api_and_the_command_line() {
    let (_temp, node, _) = lived();
    let query = ChangesQuery {
        collection: "pairs".into(),
        entity: Some("db".into()),
        ..Default::default()
    };
    let answer = node.client().changes(&query).unwrap();
    assert!(answer.changes.len() >= 2 && answer.coverage.complete, "{answer:?}");
    assert!(answer.changes.is_sorted_by(|a, b| a.at_us > b.at_us));
    for change in &answer.changes {
        let before = node.client().segment(&change.from_cid).unwrap();
        assert!(before.end_us < change.at_us && change.score > 0.0 && !change.moves.is_empty());
        let moved = &change.moves[0];
        assert_eq!(before.mean[moved.channel as usize], moved.from);
    }
    let largest = ChangesQuery { order: ChangeOrder::Largest, limit: Some(1), ..query };
    let largest = node.client().changes(&largest).unwrap().changes.remove(0);
    assert!(answer.changes.iter().all(|change| change.distance <= largest.distance));

    let course = |entity: &str| Course { entity: entity.into(), from_us: None, to_us: None };
    let ask = |a, b| {
        let query = TrajectoryQuery {
            collection: "pairs".into(),
            a: course(a),
            b: course(b),
            points: None,
        };
        node.client().trajectory(&query).unwrap()
    };
    assert_eq!(ask("db", "db").similarity, 1.0);
    let between = ask("db", "web");
    assert!(between.similarity < 1.0 && between.matches.len() >= 2);
    for points in [1, 5_000] {
        let query = json!({
            "collection": "pairs", "a": { "entity": "db" }, "b": { "entity": "web" }, "points": points,
        });
        send_json(&node, "POST /v1/query/trajectory", &query.to_string())
            .assert_refused(400, "bad_query");
    }

    let printed = |args: &[&str]| stdout(dunlin(args).arg("--data-dir").arg(&node.dir));
    let table = printed(&["changes", "-c", "pairs", "--largest", "--limit", "1"]);
    assert!(table.contains("channel ") && table.contains(" to "), "{table}");
    let text = printed(&["trajectory", "db", "web", "-c", "pairs"]);
    assert!(text.starts_with(&format!("similarity {:.4}", between.similarity)), "{text}");
}

#[test]
fn ctrl_c_ends_a_node_cleanly() {
    let (_temp, mut node, observations) = lived();
    let dir = node.dir.clone();
    assert!(dir.join("api.address").exists() && dir.join("network.address").exists());
    node.signal(rustix::process::Signal::INT);
    let status = eventually("the node ends", || node.try_wait());
    assert_eq!(status.code(), Some(0), "{}", node.log());
    assert!(!dir.join("api.address").exists() && !dir.join("network.address").exists());
    let node = Node::start(&dir);
    assert_eq!(node.client().status().unwrap().observations, observations.len() as u64);
}

#[test]
fn metadata_chooses_entities_and_a_removed_one_is_gone() {
    let temp = tempfile::tempdir().unwrap();
    let node = Node::start(&temp.path().join("node"));
    let of_site = |entity: &str, site: &str| -> Vec<Observation> {
        let noted = |index| Observation {
            metadata: Some(BTreeMap::from([("site".to_owned(), site.to_owned())])),
            ..observation(entity, index)
        };
        (0..LIFE).map(noted).collect()
    };
    node.fill(&two_channels("pairs"), of_site("db", "berlin"));
    let client = node.client();
    let more = IngestRequest { observations: of_site("web", "oslo") };
    client.ingest("pairs", &more).unwrap();
    let ask = |site: &str, exact: bool| {
        let query = KnnQuery {
            metadata: BTreeMap::from([("site".to_owned(), site.to_owned())]),
            exact,
            ..KnnQuery::new("pairs", vec![0.3, 0.6], 1_000)
        };
        let hits = client.knn(&query).unwrap().hits;
        hits.into_iter().map(|hit| hit.entity).collect::<std::collections::BTreeSet<_>>()
    };
    for exact in [false, true] {
        assert_eq!(ask("berlin", exact), ["db".to_owned()].into());
        assert_eq!(ask("oslo", exact), ["web".to_owned()].into());
        assert!(ask("paris", exact).is_empty());
    }
    let entities = client.entities("pairs").unwrap().entities;
    assert_eq!(entities[0].metadata["site"], "berlin");
    let fetched = KnnQuery {
        scope: dunlin_client::Scope::Fetched,
        metadata: BTreeMap::from([("site".to_owned(), "oslo".to_owned())]),
        ..KnnQuery::new("pairs", vec![0.3, 0.6], 1)
    };
    assert!(client.knn(&fetched).unwrap_err().to_string().contains("own entities"));

    let dir = temp.path().join("node");
    let remove = |flags: &[&str]| {
        let mut command = dunlin(&["--data-dir", dir.to_str().unwrap()]);
        command.args(["collections", "remove", "pairs", "db"]).args(flags);
        command
    };
    assert!(complaint(&mut remove(&[])).contains("--yes"), "it is not removed by accident");
    assert_eq!(client.entities("pairs").unwrap().entities.len(), 2);
    let segments = entities[0].segments;
    let said = stdout(&mut remove(&["--yes"]));
    assert!(said.contains(&format!("{segments} segments of {LIFE} observations")), "{said}");
    assert!(ask("berlin", false).is_empty());
    assert!(complaint(&mut remove(&["--yes"])).contains("no entity db"));
}

#[test]
fn silent_entities_are_forgotten_when_the_operator_says_so_and_the_archive_keeps_them() {
    let (temp, node, _) = lived();
    let before = node.client().archive().unwrap().archived;
    node.stop();
    let config = temp.path().join("node/config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace("forget_silent_days = 0", "forget_silent_days = 30");
    std::fs::write(&config, text).unwrap();
    let node = Node::start(&temp.path().join("node"));
    let client = node.client();
    // In a collection where nothing is new, nothing is old either, whatever the clock says.
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(client.entities("pairs").unwrap().entities.len(), 2);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let timestamp_us = i64::try_from(now.as_micros()).unwrap();
    let awake = Observation { timestamp_us, ..observation("awake", 0) };
    client.ingest("pairs", &IngestRequest { observations: vec![awake] }).unwrap();
    node.stop();
    let node = Node::start(&temp.path().join("node"));
    let client = node.client();
    eventually("silent entities are forgotten", || {
        let entities = client.entities("pairs").unwrap().entities;
        (entities.len() == 1 && entities[0].entity == "awake").then_some(())
    });
    let after = client.archive().unwrap();
    assert!(after.archived > before, "the open regimes were sealed and archived first");
}

#[test]
fn old_summaries_are_compacted_and_answers_say_so() {
    let temp = tempfile::tempdir().unwrap();
    let node = Node::start(&temp.path().join("node"));
    let spec =
        dunlin_client::CollectionSpec { fidelity: Fidelity::Summary, ..two_channels("pairs") };
    // A new level every eight seconds.
    let stepping = |index: u32| Observation {
        vector: vec![(index / 8 * 37 % 100) as f32 / 100.0, 0.5],
        ..observation("db", index)
    };
    node.fill(&spec, (0..8_000).map(stepping).collect());
    let client = node.client();
    let segments = client.entities("pairs").unwrap().entities[0].segments;
    eventually("all is archived", || (client.archive().unwrap().due == 0).then_some(()));
    let query = KnnQuery::new("pairs", vec![0.3, 0.5], 3);
    assert!(client.knn(&query).unwrap().coverage.complete);
    let far = "2999-01-01T00:00:00Z";
    let command = |flags: &[&str]| {
        let mut command = node.command(&["collections", "compact", "pairs", "--before", far]);
        command.args(flags);
        command
    };
    assert!(complaint(&mut command(&["--share", "0.1", "--nrmse", "0.1"])).contains("cannot be"));
    assert!(complaint(&mut command(&["--share", "1.5"])).contains("share"));
    let mut compact = command(&["--share", "0.02", "--json"]);
    let done: Value = serde_json::from_str(&stdout(&mut compact)).unwrap();
    assert_eq!(done["segments"].as_u64().unwrap(), segments - 512, "{done}");
    assert!(50 * done["bytes_after"].as_u64().unwrap() <= done["bytes_before"].as_u64().unwrap());
    assert!(complaint(&mut node.command(&["knn", "0.3,nan"])).contains("not a finite number"));
    let coverage = client.knn(&query).unwrap().coverage;
    assert!(!coverage.complete && coverage.missing.unwrap().contains("compacted"));
    let history = HistoryQuery {
        collection: "pairs".into(),
        entity: "db".into(),
        from_us: None,
        to_us: None,
        limit: Some(100_000),
        matches: None,
    };
    let history = client.history(&history).unwrap();
    assert!(history.coverage.complete && history.coverage.outlines == 1);
    assert!(history.points.len() > 500, "{}", history.points.len());
    // One CID names all that was archived, before and after.
    let catalogs = client.archive().unwrap().catalogs;
    assert_eq!((catalogs.len(), catalogs[0].segments), (1, segments));
    let node_of_it = client.block(&catalogs[0].root).unwrap();
    assert_eq!(cid_of(&node_of_it), catalogs[0].root);
    let said = stdout(&mut node.command(&["archive", "status"]));
    assert!(said.contains(&catalogs[0].root), "{said}");
    assert_eq!(client.archive().unwrap().archived, segments, "the archive has them all");
    let nothing = stdout(&mut command(&[]));
    assert!(nothing.contains("nothing to compact"), "{nothing}");
}

/// Returns the CID of a `dag-cbor` block.
fn cid_of(bytes: &[u8]) -> String {
    dunlin_wire::block::cid_of(dunlin_wire::block::Codec::DagCbor, bytes).to_string()
}
