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

/// It is no core, but all that it has to do with the network stands in one place.
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
