//! `dunlin identity`: a passphrase around the node's key, and a key that follows another.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use common::{Node, complaint, dunlin, stdout};
use serde_json::Value;

/// A command about the node in a folder.
fn identity(dir: &Path, args: &[&str]) -> Command {
    let mut command = dunlin(&["identity", "--json"]);
    command.args(args).arg("--data-dir").arg(dir);
    command
}

#[track_caller]
fn shown(command: &mut Command) -> Value {
    serde_json::from_str(&stdout(command)).unwrap()
}

/// Writes a passphrase where only its owner reads it.
fn secret(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

#[test]
fn a_protected_key_opens_with_its_passphrase_and_no_other() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("node");
    let plain = shown(&mut identity(&dir, &["show"]));
    assert_eq!(plain["protected"], false);
    let right = secret(temp.path(), "right", "correct horse\n");
    let wrong = secret(temp.path(), "wrong", "battery staple\n");
    let mut protect = identity(&dir, &["protect"]);
    let protected = shown(protect.env("DUNLIN_NEW_PASSPHRASE_FILE", &right));
    assert_eq!((&protected["protected"], &protected["peer"]), (&Value::Bool(true), &plain["peer"]));
    let mode = fs::metadata(dir.join("identity.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let none = complaint(&mut identity(&dir, &["show"]));
    assert!(none.contains("DUNLIN_PASSPHRASE_FILE"), "{none}");
    let refused = complaint(identity(&dir, &["show"]).env("DUNLIN_PASSPHRASE_FILE", &wrong));
    assert!(refused.contains("not its passphrase"), "{refused}");
    fs::set_permissions(&right, fs::Permissions::from_mode(0o644)).unwrap();
    let exposed = complaint(identity(&dir, &["show"]).env("DUNLIN_PASSPHRASE_FILE", &right));
    assert!(exposed.contains("chmod 600"), "{exposed}");
    fs::set_permissions(&right, fs::Permissions::from_mode(0o600)).unwrap();
    let open = shown(identity(&dir, &["unprotect"]).env("DUNLIN_PASSPHRASE_FILE", &right));
    assert_eq!((&open["protected"], &open["peer"]), (&Value::Bool(false), &plain["peer"]));
    Node::start(&dir).stop();
}

#[test]
fn a_node_starts_with_the_passphrase_of_its_key_alone_and_never_says_it() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("node");
    let peer = shown(&mut identity(&dir, &["show"]))["peer"].clone();
    let right = secret(temp.path(), "right", "kumquat zyzzyva\n");
    let wrong = secret(temp.path(), "wrong", "battery staple\n");
    shown(identity(&dir, &["protect"]).env("DUNLIN_NEW_PASSPHRASE_FILE", &right));
    let sealed = fs::read(dir.join("identity.key")).unwrap();
    for command in ["run", "bootstrap"] {
        // There is no terminal to ask on.
        let start = || {
            let mut start = dunlin(&[command, "--data-dir"]);
            start.arg(&dir).env("RUST_LOG", "trace");
            start
        };
        let none = complaint(&mut start());
        assert!(none.contains("name a file with it in DUNLIN_PASSPHRASE_FILE"), "{none}");
        let refused = complaint(start().env("DUNLIN_PASSPHRASE_FILE", &wrong));
        assert!(refused.contains("this is not its passphrase"), "{refused}");
        assert!(!refused.contains("battery") && !refused.contains("kumquat"), "{refused}");
        let absent = complaint(start().env("DUNLIN_PASSPHRASE_FILE", temp.path().join("absent")));
        assert!(absent.contains("absent"), "{absent}");
    }
    let node = Node::start_sealed(&dir, &right);
    assert_eq!(node.client().status().unwrap().peer, peer.as_str().unwrap());
    let log = node.log();
    node.stop();
    assert!(log.len() > 1_000, "it logs everything");
    for secret in ["kumquat", "zyzzyva"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    // It is sealed as it was: no copy in the clear, and nothing of it elsewhere in the folder.
    assert_eq!(fs::read(dir.join("identity.key")).unwrap(), sealed);
}

#[test]
fn a_rotated_key_keeps_its_lineage_and_the_old_one_is_retired_for_good() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("node");
    let first = shown(&mut identity(&dir, &["show"]));
    let old_file = fs::read(dir.join("identity.key")).unwrap();
    let unsure = complaint(&mut identity(&dir, &["rotate"]));
    assert!(unsure.contains("--yes"), "{unsure}");
    let second = shown(&mut identity(&dir, &["rotate", "--yes"]));
    assert_ne!(second["peer"], first["peer"]);
    let third = shown(&mut identity(&dir, &["rotate", "--yes"]));
    let lineage = third["lineage"].as_array().unwrap();
    assert_eq!((&lineage[0]["old"], &lineage[1]["new"]), (&first["peer"], &third["peer"]));
    // Others check the file by itself, and notice when it was changed.
    let file = dir.join("lineage.cbor");
    let verified = shown(identity(temp.path(), &["verify"]).arg(&file));
    assert_eq!(verified.as_array().unwrap().len(), 2);
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let changed = temp.path().join("changed");
    fs::write(&changed, bytes).unwrap();
    complaint(identity(temp.path(), &["verify"]).arg(&changed));

    // The node runs with its new key, and with the old one it knows itself revoked.
    let node = Node::start(&dir);
    assert_eq!(node.client().status().unwrap().peer, third["peer"].as_str().unwrap());
    assert!(node.client().status().unwrap().problems.is_empty());
    node.stop();
    fs::write(dir.join("identity.key"), old_file).unwrap();
    let node = Node::start(&dir);
    common::eventually("it says that its key is revoked", || {
        let problems = node.client().status().unwrap().problems;
        problems.iter().any(|problem| problem.contains("revoked for ever")).then_some(())
    });
}

#[test]
fn a_node_that_runs_keeps_its_key() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("node");
    let node = Node::start(&dir);
    let busy = complaint(&mut identity(&dir, &["rotate", "--yes"]));
    assert!(busy.contains("runs") || busy.contains("process"), "{busy}");
    node.stop();
}
