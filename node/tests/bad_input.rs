//! Whatever is wrong with the input, the user is told what and where, and nothing good is lost.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{fs, net::TcpListener};

use common::{Node, complaint, dunlin, output, stdout, two_channels, with_input};
use dunlin_client::{IngestRequest, Observation};

#[test]
fn a_broken_csv_line_is_named_and_what_came_before_it_is_kept() {
    let temp = tempfile::tempdir().unwrap();
    let node = Node::start(&temp.path().join("node"));
    let file = temp.path().join("metrics.csv");
    fs::write(&file, "entity,t,cpu,mem\nweb,1,0.1,0.2\nweb,2,0.1\nweb,3,0.1,0.2\nweb,4,0.1,oops\nweb,5,0.1,0.2\n").unwrap();
    let path = file.to_str().unwrap();

    let said = complaint(&mut node.command(&["ingest", path]));
    assert!(said.contains("line 3: 3 fields, but the header has 4"), "{said}");
    assert!(said.contains("--skip-bad"), "{said}");
    let entities = node.client().entities("default").unwrap().entities;
    assert_eq!((entities[0].observations, entities[0].last_us), (1, 1_000_000));

    let json = stdout(&mut node.command(&["ingest", path, "--skip-bad", "--json"]));
    let summary: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((summary["accepted"].as_u64(), summary["bad"].as_u64()), (Some(2), Some(2)));
    assert_eq!(summary["resumed"], 1);
}

#[test]
fn the_same_file_twice_is_taken_once() {
    let temp = tempfile::tempdir().unwrap();
    let node = Node::start(&temp.path().join("node"));
    let rows: String = (0..2_500)
        .map(|t| format!("{{\"entity\":\"web\",\"timestamp_us\":{t},\"vector\":[0.5]}}\n"))
        .collect();
    for accepted in [2_500, 0] {
        let ran =
            with_input(&mut node.command(&["ingest", "-", "--format", "ndjson", "--json"]), &rows);
        let summary: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
        assert_eq!(summary["accepted"], accepted, "{summary}");
    }
    assert_eq!(node.client().status().unwrap().observations, 2_500);
}

#[test]
fn a_malformed_observation_refuses_its_batch_and_nothing_else() {
    let temp = tempfile::tempdir().unwrap();
    let node = Node::start(&temp.path().join("node"));
    let client = node.client();
    client.create_collection(&two_channels("pairs")).unwrap();
    let good = |t| Observation {
        entity: "e".into(),
        timestamp_us: t,
        vector: vec![0.1, 0.2],
        metadata: None,
    };
    client.ingest("pairs", &IngestRequest { observations: vec![good(1)] }).unwrap();

    let wrong_dim = Observation { vector: vec![0.1], ..good(3) };
    let endless = Observation { vector: vec![f32::INFINITY, 0.0], ..good(3) };
    let nameless = Observation { entity: String::new(), ..good(3) };
    let long = Observation { entity: "x".repeat(10_000), ..good(3) };
    let empty = Observation { vector: Vec::new(), ..good(3) };
    let bomb = |pairs: usize, bytes: usize| Observation {
        metadata: Some((0..pairs).map(|i| (i.to_string(), "x".repeat(bytes))).collect()),
        ..good(3)
    };
    for bad in [wrong_dim, endless, nameless, long, empty, bomb(1_000, 0), bomb(1, 1 << 20)] {
        let batch = IngestRequest { observations: vec![good(2), bad] };
        let error = client.ingest("pairs", &batch).unwrap_err();
        assert!(error.is_refusal("bad_observation") || error.is_refusal("bad_json"), "{error:?}");
    }
    let entity = &client.entities("pairs").unwrap().entities[0];
    assert_eq!((entity.observations, entity.last_us), (1, 1));
    // The collection is not there, or another one has its name.
    assert!(
        client
            .ingest("nothing", &IngestRequest { observations: vec![good(2)] })
            .unwrap_err()
            .is_refusal("not_found")
    );
    let mut other = two_channels("pairs");
    other.dim = 3;
    other.units = dunlin_client::Units::NoiseFloor;
    assert!(client.create_collection(&other).unwrap_err().is_refusal("collection_differs"));
}

#[test]
fn a_second_process_on_the_folder_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let node = Node::start(&temp.path().join("node"));
    let said = complaint(&mut node.command(&["run", "--api", "127.0.0.1:0"]));
    assert!(said.contains("another process") && said.contains(&node.pid().to_string()), "{said}");
    // The first one never noticed.
    node.client().status().unwrap();
}

#[test]
fn a_foreign_or_unreadable_folder_is_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("thesis.tex"), "x").unwrap();
    let dir = temp.path().to_str().unwrap();
    let said = complaint(&mut dunlin(&["run", "--data-dir", dir]));
    assert!(said.contains("not a Dunlin data folder"), "{said}");
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    let file = temp.path().join("thesis.tex/node");
    let said = complaint(&mut dunlin(&["init", "--data-dir", file.to_str().unwrap()]));
    assert!(said.contains("cannot use"), "{said}");
}

#[test]
fn a_port_in_use_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let dir = temp.path().join("node");
    let dir = dir.to_str().unwrap();
    let api = address.to_string();
    let said = complaint(&mut dunlin(&[
        "run",
        "--data-dir",
        dir,
        "--api",
        &api,
        "--listen",
        "/ip4/127.0.0.1/tcp/0",
    ]));
    assert!(said.contains(&api) && said.contains("in use"), "{said}");
    let listen = format!("/ip4/127.0.0.1/tcp/{}", address.port());
    let said = complaint(&mut dunlin(&[
        "run",
        "--data-dir",
        dir,
        "--api",
        "127.0.0.1:0",
        "--listen",
        &listen,
    ]));
    assert!(said.contains(&listen) && said.contains("in use"), "{said}");
}

#[test]
fn every_mistake_in_the_configuration_is_reported_at_once() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("node");
    stdout(dunlin(&["init", "--data-dir"]).arg(&dir));
    let config = dir.join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    let text = text.replace("mdns = true", "mdsn = true").replace("epsilon = 1.0", "epsilon = 50");
    fs::write(&config, text).unwrap();
    let said = complaint(dunlin(&["run", "--data-dir"]).arg(&dir));
    for part in
        ["2 mistakes", "network.mdsn", "did you mean `mdns`", "privacy.epsilon", "0.01 to 10"]
    {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
}

#[test]
fn without_a_node_commands_say_how_to_start_one() {
    let temp = tempfile::tempdir().unwrap();
    let said = complaint(dunlin(&["status", "--data-dir"]).arg(temp.path()));
    assert!(said.contains("no node is running") && said.contains("dunlin run"), "{said}");
}

#[test]
fn completions_and_help_need_no_node() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(stdout(&mut dunlin(&["completions", shell])).contains("dunlin"));
    }
    assert!(stdout(&mut dunlin(&["--help"])).contains("dunlin demo"));
    assert_eq!(output(&mut dunlin(&["no-such-command"])).status.code(), Some(2));
}
