//! What the compiler and clippy cannot check: the shape that ARCHITECTURE.md promises.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Rooms from the top down: each may depend on those behind it, and on no other.
const ROOMS: [&str; 11] = [
    "node",
    "testnet",
    "testnet/hostile",
    "bootstrap",
    "clients/rust",
    "protocols",
    "archive",
    "engine",
    "trust",
    "privacy",
    "wire",
];

/// Rooms that decide and never act: no clock, no task, no socket, no randomness of the system.
const CORES: [&str; 4] = ["engine", "trust", "privacy", "wire"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn sources(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
}

fn room_sources(room: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    sources(&root().join(room).join("src"), &mut found);
    assert!(!found.is_empty(), "{room} has no source");
    found
}

/// The part of a source file before its tests, without comments.
fn code(text: &str) -> String {
    let product = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    product
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn every_file_says_what_it_is() {
    let mut silent = Vec::new();
    for room in ROOMS {
        for (path, text) in room_sources(room) {
            if !text.starts_with("//!") {
                silent.push(path);
            }
        }
    }
    assert!(silent.is_empty(), "no `//!` at the top of {silent:#?}");
}

#[test]
fn cores_read_no_clock_spawn_nothing_and_draw_no_randomness() {
    let forbidden = [
        "SystemTime::now",
        "Instant::now",
        "thread::spawn",
        "thread::sleep",
        "tokio::",
        "std::net::",
        "thread_rng",
        "OsRng",
        "getrandom",
        "rand::random",
        "std::env::",
    ];
    let mut sins = Vec::new();
    for room in CORES {
        for (path, text) in room_sources(room) {
            let code = code(&text);
            sins.extend(
                forbidden
                    .iter()
                    .filter(|word| code.contains(**word))
                    .map(|word| (path.clone(), *word)),
            );
        }
    }
    assert!(sins.is_empty(), "{sins:#?}");
}

/// It is no core, but all that it has to do with the network stands in one place. One other file has threads, which
/// end with the call that starts them: they sync files beside each other.
#[test]
fn one_file_of_the_archive_opens_sockets_and_waits() {
    let forbidden = [
        "ureq::Agent",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "Instant::now",
        "SystemTime::now",
        "thread::",
        "tokio::",
    ];
    let mut sins = Vec::new();
    for (path, text) in room_sources("archive") {
        if !path.ends_with("backend/http.rs") {
            let mut code = code(&text);
            if path.ends_with("archive/large.rs") {
                code = code.replace("thread::scope", "").replace("thread::Builder", "");
            }
            sins.extend(
                forbidden
                    .iter()
                    .filter(|word| code.contains(**word))
                    .map(|word| (path.clone(), *word)),
            );
        }
    }
    assert!(sins.is_empty(), "{sins:#?}");
}

#[test]
fn arrows_point_down() {
    let mut packages = BTreeMap::new();
    for room in ROOMS {
        let text = fs::read_to_string(root().join(room).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = text.parse().unwrap();
        packages.insert(room, manifest);
    }
    let name = |room: &str| packages[room]["package"]["name"].as_str().unwrap().to_owned();
    let names: Vec<_> = ROOMS.iter().map(|room| name(room)).collect();
    for (position, room) in ROOMS.iter().enumerate() {
        let dependencies = packages[room]["dependencies"].as_table().unwrap();
        for dependency in dependencies.keys() {
            if let Some(target) = names.iter().position(|name| name == dependency) {
                assert!(target > position, "{room} depends on {dependency}, which is above it");
            }
            let is_core = CORES.contains(room);
            let heavy = dependency.starts_with("tokio")
                || dependency == "libp2p"
                || dependency == "libp2p-swarm";
            assert!(!(is_core && heavy), "{room} is a core, but depends on {dependency}");
        }
    }
}

/// Every call that takes segments or other objects out of the stores, and the files of the shells that make it: a person asks
/// for it, or a policy of the operator's does. Recovery is none of them. Whoever adds a caller adds it here.
const REMOVING: [(&str, &[&str]); 11] = [
    ("engine.remove(", &["node/src/api/collections.rs"]),
    ("engine.remove_if(", &["node/src/daemon/upkeep.rs"]),
    ("engine.compact_course(", &["node/src/daemon/compaction.rs"]),
    ("archive.unpin(", &["node/src/daemon/sharing.rs"]),
    ("archive.unpin_root(", &[]),
    ("archive.unpin_roots(", &["node/src/daemon/replication/keeping.rs"]),
    ("archive.unpin_part(", &["node/src/api/pins.rs", "node/src/daemon/sealer.rs"]),
    ("archive.remove_pin(", &["node/src/api/pins.rs"]),
    ("archive.replace(", &["node/src/daemon/sharing.rs"]),
    ("Retention::", &["node/src/daemon/retention.rs"]),
    ("backend.unpin(", &["node/src/daemon/placing.rs"]),
];

#[test]
fn nothing_but_people_and_retention_takes_segments_out() {
    let mut shells: Vec<_> = room_sources("node");
    shells.extend(["bootstrap", "protocols"].into_iter().flat_map(room_sources));
    // Where a call is broken over lines, it is one all the same.
    let joined = |text: &str| code(text).split_whitespace().collect::<String>();
    let shells: Vec<_> = shells.iter().map(|(path, text)| (path, joined(text))).collect();
    for (call, callers) in REMOVING {
        let calling = shells.iter().filter(|(_, code)| code.contains(call));
        let calling: Vec<_> =
            calling.map(|(path, _)| path.strip_prefix(root()).unwrap().to_owned()).collect();
        let mut expected: Vec<_> = callers.iter().map(PathBuf::from).collect();
        expected.sort();
        let mut found = calling.clone();
        found.sort();
        assert_eq!(found, expected, "{call}");
    }
    // Below the shells, what lands by recovery lets go of nothing.
    let archive = room_sources("archive").into_iter().chain(room_sources("trust"));
    let recovery = archive.filter(|(path, _)| {
        let path = path.strip_prefix(root()).unwrap().to_string_lossy();
        path.ends_with("archive/recovered.rs") || path.contains("src/recovery")
    });
    let recovery: Vec<_> = recovery.collect();
    assert!(recovery.len() >= 4, "{recovery:?}");
    for (path, text) in recovery {
        for call in ["unpin", "release(", "delete", "remove_pin", "Retention"] {
            assert!(!code(&text).contains(call), "{} calls {call}", path.display());
        }
    }
}

/// The gate is asked about every operation by whoever carries it out: one that no shell asks about is done unasked.
#[test]
fn every_federated_operation_asks_the_gate() {
    // Of reports, `Trust::hear` itself asks.
    let asking: Vec<_> = ["protocols", "node", "trust"]
        .into_iter()
        .flat_map(room_sources)
        .map(|(_, text)| code(&text))
        .collect();
    for operation in dunlin_trust::Operation::ALL {
        let name = format!("Operation::{operation:?}");
        assert!(asking.iter().any(|code| code.contains(&name)), "nobody asks about {name}");
    }
    // Whatever a peer asks for or passes on comes to one of these, and each asks before it does anything else with it.
    let mut handlers = 0;
    for (path, text) in room_sources("protocols") {
        let text = code(&text);
        for (at, _) in text.match_indices("fn on_") {
            let (name, body) = text[at..].split_once('(').unwrap_or_default();
            if name.ends_with("_request") || name.ends_with("_gossip") {
                let body = body.split("\n    }\n").next().unwrap_or_default();
                let asks = ["trust.may(", "self.take_on(", "self.take_on_if("];
                let is_asking = asks.iter().any(|ask| body.contains(ask));
                assert!(is_asking, "{name} in {} asks nobody", path.display());
                handlers += 1;
            }
        }
    }
    // Segments, templates, catalogs, replicas, membership, the console; revocations and testimony by gossip.
    assert!(handlers >= 8, "{handlers} handlers were found");
}

#[test]
fn no_file_is_a_catch_all() {
    let mut long = Vec::new();
    for room in ROOMS {
        for (path, text) in room_sources(room) {
            let lines = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default().lines().count();
            if lines > 700 {
                long.push((path, lines));
            }
        }
    }
    assert!(long.is_empty(), "split these by concept: {long:#?}");
}
