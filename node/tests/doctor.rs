//! What `dunlin doctor` sees, on nodes and folders that are broken on purpose.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use common::{
    Node, dunlin, eventually, output,
    peers::{KillOnDrop, address_in, init, set},
};
use serde_json::Value;

/// A data folder of a node that would listen where nobody else does.
fn made(temp: &Path) -> PathBuf {
    let dir = temp.join("node");
    init(&dir, "doctor");
    set(&dir, "127.0.0.1:4600", "127.0.0.1:0");
    let ports = "listen = [\"/ip4/127.0.0.1/tcp/0\", \"/ip4/127.0.0.1/udp/0/quic-v1\"]";
    let text = fs::read_to_string(dir.join("config.toml")).unwrap();
    let start = text.find("listen = [").unwrap();
    let end = start + text[start..].find(']').unwrap() + 1;
    fs::write(dir.join("config.toml"), [&text[..start], ports, &text[end..]].concat()).unwrap();
    dir
}

/// Runs the doctor; returns whether nothing is broken, and the findings.
fn doctor(dir: &Path) -> (bool, Vec<Value>) {
    let output = output(dunlin(&["doctor", "--json", "--data-dir"]).arg(dir));
    let findings = serde_json::from_slice(&output.stdout).unwrap();
    (output.status.success(), findings)
}

/// The findings of a check: state, what was found, and what to do.
fn of<'a>(findings: &'a [Value], check: &str) -> Vec<(&'a str, &'a str, &'a str)> {
    let found = findings.iter().filter(|finding| finding["check"] == check);
    let text = |value: &'a Value| value.as_str().unwrap_or_default();
    found.map(|one| (text(&one["state"]), text(&one["found"]), text(&one["advice"]))).collect()
}

#[track_caller]
fn is_broken(dir: &Path, check: &str, found: &str, advice: &str) {
    let (is_well, findings) = doctor(dir);
    let seen = of(&findings, check);
    assert!(!is_well, "{findings:?}");
    assert!(
        seen.iter().any(|(state, seen, told)| *state == "broken"
            && seen.contains(found)
            && told.contains(advice)),
        "{findings:?}"
    );
}

#[test]
fn a_node_that_is_well_is_found_so_running_or_not() {
    let temp = tempfile::tempdir().unwrap();
    let dir = made(temp.path());
    let (is_well, findings) = doctor(&dir);
    assert!(is_well, "{findings:?}");
    assert_eq!(of(&findings, "node"), [("fine", "not running", "")]);
    assert_eq!(of(&findings, "ports")[0].0, "fine");
    let node = Node::start(&dir);
    let (is_well, findings) = doctor(&dir);
    assert!(is_well, "{findings:?}");
    let peer = node.client().status().unwrap().peer;
    assert!(of(&findings, "node")[0].1.contains(&peer));
    assert!(of(&findings, "ports").is_empty(), "they are its own");
    // Nobody is there to meet, and nobody will be.
    assert_eq!(of(&findings, "peers")[0].0, "doubtful");
    assert_eq!(of(&findings, "bootstrap")[0].0, "doubtful");
}

#[test]
fn a_machine_without_multicast_is_told_that_mdns_is_blocked() {
    let temp = tempfile::tempdir().unwrap();
    let dir = made(temp.path());
    set(&dir, "mdns = false", "mdns = true");
    // A network of its own, which has not even loopback.
    let mut alone = Command::new("unshare");
    alone.args(["--user", "--map-root-user", "--net", env!("CARGO_BIN_EXE_dunlin")]);
    let seen = alone.args(["doctor", "--json", "--data-dir"]).arg(&dir).output();
    let Some(seen) = seen.ok().filter(|seen| !seen.stdout.is_empty()) else {
        eprintln!("skipped: no network namespaces here");
        return;
    };
    let findings: Vec<Value> = serde_json::from_slice(&seen.stdout).unwrap();
    let [(state, found, advice)] = of(&findings, "mdns")[..] else { panic!("{findings:?}") };
    assert!(state == "doubtful" && found.contains("multicast"), "{found}");
    assert!(advice.contains("network.bootstrap"), "{advice}");
}

#[test]
fn ports_of_a_bootstrap_node_are_its_own() {
    let temp = tempfile::tempdir().unwrap();
    let dir = made(temp.path());
    // It listens where its configuration says; the port is free until it does.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    set(&dir, "/ip4/127.0.0.1/tcp/0", &format!("/ip4/127.0.0.1/tcp/{port}"));
    let _node = KillOnDrop::spawn(dunlin(&["bootstrap", "--data-dir"]).arg(&dir));
    eventually("the bootstrap node listens", || address_in(&dir));
    let (is_well, findings) = doctor(&dir);
    assert!(is_well, "{findings:?}");
    assert!(of(&findings, "node")[0].1.contains("bootstrap"), "{findings:?}");
    assert!(of(&findings, "ports").is_empty(), "{findings:?}");
}

#[test]
fn a_folder_that_is_not_there_is_no_failure_and_is_not_made() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("new");
    let (_, findings) = doctor(&dir);
    let [(state, _, advice)] = of(&findings, "folder")[..] else { panic!("{findings:?}") };
    assert!(state == "doubtful" && advice.contains("dunlin run"), "{advice}");
    assert!(!dir.exists());
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("thesis.txt"), "mine").unwrap();
    is_broken(&dir, "folder", "no identity.key", "--data-dir");
}

#[test]
fn what_is_broken_is_named_with_what_to_do() {
    let temp = tempfile::tempdir().unwrap();
    let dir = made(temp.path());
    let mode =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();

    mode(&dir.join("identity.key"), 0o644);
    is_broken(&dir, "keys", "chmod 600", "");
    mode(&dir.join("identity.key"), 0o600);
    mode(&dir, 0o777);
    is_broken(&dir, "folder", "others may write", "chmod 700");
    mode(&dir, 0o700);

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    set(&dir, "/ip4/127.0.0.1/tcp/0", &format!("/ip4/127.0.0.1/tcp/{port}"));
    is_broken(&dir, "ports", &format!("tcp/{port}"), "network.listen");
    drop(taken);
    assert!(doctor(&dir).0);

    let later = SystemTime::now() + Duration::from_secs(3 * 86_400);
    fs::File::open(dir.join("identity.key")).unwrap().set_modified(later).unwrap();
    is_broken(&dir, "clock", "before the node last wrote", "NTP");
    fs::File::open(dir.join("identity.key")).unwrap().set_modified(SystemTime::now()).unwrap();

    set(&dir, "mdns = false", "mdns = 7");
    is_broken(&dir, "config", "network.mdns", "correct");
}

#[test]
fn a_bootstrap_node_that_does_not_answer_is_doubtful() {
    let temp = tempfile::tempdir().unwrap();
    let dir = made(temp.path());
    let answers = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";
    let address = |listener: &TcpListener| {
        format!("/ip4/127.0.0.1/tcp/{}/p2p/{peer}", listener.local_addr().unwrap().port())
    };
    let both = format!("bootstrap = ['{}', '{}']", address(&answers), address(&gone));
    set(&dir, "bootstrap = []", &both);
    drop(gone);
    let (is_well, findings) = doctor(&dir);
    let states: Vec<_> = of(&findings, "bootstrap").iter().map(|(state, ..)| *state).collect();
    assert!(is_well, "a node works without: {findings:?}");
    assert_eq!(states, ["fine", "doubtful"], "{findings:?}");
}
