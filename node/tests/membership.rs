//! A closed network of real processes, from its first key to a revocation, and what no crash takes back.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use common::{
    Node, complaint, dunlin, eventually, observation,
    peers::{KillOnDrop, address_in, init, set},
    stdout, two_channels,
};
use dunlin_client::{AttemptOutcome, FetchRequest};
use serde_json::Value;

const LISTEN: &str = "/ip4/127.0.0.1/tcp/0";

/// A closed network with two authorities, who must agree.
struct Closed {
    temp: tempfile::TempDir,
    name: String,
    config: String,
    keys: [PathBuf; 2],
}

impl Closed {
    fn create() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let name = format!("closed-{}", std::process::id());
        let dir = temp.path().join("authorities");
        let mut create = dunlin(&["network", "create", &name, "-n", "2", "--json", "--dir"]);
        let made: Value = serde_json::from_str(&stdout(create.arg(&dir))).unwrap();
        let keys = [1, 2].map(|number| dir.join(format!("authority-{number}.key")));
        for key in &keys {
            assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let config = made["config"].as_str().unwrap().to_owned();
        assert_eq!(fs::read_to_string(dir.join("network.toml")).unwrap(), config);
        assert!(complaint(&mut create).contains("not empty"), "keys are not replaced");
        Self { temp, name, config, keys }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn arg(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Makes the folder of a node, and puts the lines in that `create` printed.
    fn init(&self, node: &str) -> String {
        let peer = init(&self.path(node), &self.name);
        let lines = self.config.split_once("authorities").unwrap().1;
        set(&self.path(node), "authorities = []\nthreshold = 1\n", &format!("authorities{lines}"));
        peer
    }

    fn run(&self, node: &str, args: &[&str]) -> std::process::Command {
        let mut command = dunlin(args);
        command.arg("--data-dir").arg(self.path(node));
        command
    }

    /// Has one authority after the other license a node.
    fn license(&self, node: &str, peer: &str) {
        let file = self.arg(&format!("{node}.license"));
        let config = self.arg("authorities/network.toml");
        let [first, second] = self.keys.each_ref().map(|key| key.display().to_string());
        stdout(&mut dunlin(&[
            "network", "license", peer, "--config", &config, "--key", &first, "-o", &file,
        ]));
        let early = complaint(&mut self.run(node, &["network", "join", &file]));
        assert!(early.contains("1 authorities signed, but 2 must"), "{early}");
        stdout(&mut self.run(node, &["network", "sign", &file, "--key", &second]));
        stdout(&mut self.run(node, &["network", "join", &file]));
    }

    fn start(&self, node: &str, flags: &[&str]) -> Node {
        let base = ["--listen", LISTEN, "--one-machine"];
        Node::start_with(&self.path(node), &[&base, flags].concat())
    }

    /// Has authorities revoke a peer, by what `node` knows; returns the file.
    fn revoke(&self, node: &str, peer: &str, keys: &[PathBuf], file: &str) -> String {
        let file = self.arg(file);
        let mut command = self.run(node, &["network", "revoke", peer, "-o", &file]);
        for key in keys {
            command.arg("--key").arg(key);
        }
        stdout(&mut command);
        file
    }
}

fn address(dir: &Path) -> String {
    eventually("it listens", || address_in(dir))
}

fn revoked_keys(node: &Node) -> u64 {
    node.client().membership().unwrap().revoked_keys
}

fn publish(node: &Node, file: &str) -> Value {
    let done = stdout(&mut node.command(&["network", "publish", file, "--json"]));
    serde_json::from_str(&done).unwrap()
}

#[test]
fn a_closed_network_from_its_first_key_to_a_revocation_that_no_crash_forgets() {
    let net = Closed::create();
    let names = ["boot", "a", "b", "c"];
    let [_, a_id, b_id, c_id] = names.map(|node| {
        let peer = net.init(node);
        net.license(node, &peer);
        peer
    });
    let mut command = net.run("boot", &["bootstrap", "--one-machine", "--listen", LISTEN]);
    let _boot = KillOnDrop::spawn(&mut command);
    let boot = address(&net.path("boot"));
    let known = ["--bootstrap", &boot];
    let a = net.start("a", &[&known[..], &["--own-peer", &b_id]].concat());
    let b = net.start("b", &[&known[..], &["--own-peer", &a_id]].concat());
    let c = net.start("c", &known);
    for (node, others) in [(&a, [&b_id, &c_id]), (&b, [&a_id, &c_id])] {
        others.iter().for_each(|other| node.wait_for_peer(other));
    }

    // Members work as in any network, and who has no license knows why it does not.
    a.fill(&two_channels("pairs"), (0..120).map(|index| observation("web", index)).collect());
    let cids = a.archive_all("pairs", "web");
    b.client().create_collection(&two_channels("pairs")).unwrap();
    let request =
        FetchRequest { cids: cids[..1].to_vec(), peers: vec![a_id], ..FetchRequest::default() };
    // Being connected comes a moment before being admitted.
    eventually("b is served", || {
        let fetched = b.client().fetch(&request).unwrap();
        let last = fetched.segments[0].attempts.last()?.outcome;
        (last == AttemptOutcome::Verified).then_some(())
    });
    net.init("stranger");
    let stranger = net.start("stranger", &known);
    assert!(stranger.client().membership().unwrap().license_problem.is_some());
    assert_eq!(a.client().membership().unwrap().license_problem, None);
    eventually("it says so", || {
        let problems = stranger.client().status().unwrap().problems;
        problems.iter().any(|problem| problem.contains("dunlin network join")).then_some(())
    });

    // One authority is not enough; both are, and what was acknowledged outlives a crash at once.
    let half = net.revoke("a", &c_id, &net.keys[..1], "half.revocation");
    let refused = complaint(&mut a.command(&["network", "publish", &half]));
    assert!(refused.contains("1 authorities signed, but 2 must"), "{refused}");
    let file = net.revoke("a", &c_id, &net.keys, "c.revocation");
    assert_eq!(publish(&a, &file)["revoked"], 1);
    a.kill();
    let a = net.start("a", &[&known[..], &["--own-peer", &b_id]].concat());
    assert_eq!(revoked_keys(&a), 1, "a restart forgets nothing");
    eventually("b has heard of it, or learns it now", || (revoked_keys(&b) == 1).then_some(()));
    eventually("c is shut out", || (!b.is_connected_to(&c_id)).then_some(()));
    a.wait_for_peer(&b_id);

    // It comes again, at another address, and straight to them.
    c.kill();
    let before = b.metric("dunlin_protocols_connections_closed_total");
    let b_address = address(&net.path("b"));
    let c = net.start("c", &[&known[..], &["--bootstrap", &b_address]].concat());
    eventually("b closes its connection", || {
        (b.metric("dunlin_protocols_connections_closed_total") > before).then_some(())
    });
    eventually("c is with nobody", || {
        let peers = c.client().peers().unwrap().peers;
        (!peers.iter().any(|peer| peer.connected)).then_some(())
    });
    // The same again is nothing new, and b needs nobody to remember it.
    assert_eq!(publish(&b, &file)["revoked"], 0);
    b.kill();
    let b = net.start("b", &[]);
    assert_eq!(revoked_keys(&b), 1);
}

#[test]
fn a_key_that_was_stolen_withdraws_itself_in_an_open_network() {
    let temp = tempfile::tempdir().unwrap();
    let name = format!("open-{}", std::process::id());
    let dir = |node: &str| temp.path().join(node);
    let [_, thief_id] = ["a", "thief"].map(|node| init(&dir(node), &name));
    let a = Node::start_with(&dir("a"), &["--listen", LISTEN, "--one-machine"]);
    let flags = ["--listen", LISTEN, "--one-machine", "--bootstrap", &address(&dir("a"))];
    let thief = Node::start_with(&dir("thief"), &flags);
    a.wait_for_peer(&thief_id);

    let file = dir("stolen.withdrawal").display().to_string();
    let mut command = dunlin(&["network", "withdraw", "-o", &file, "--key"]);
    command.arg(dir("thief").join("identity.key")).arg("--data-dir").arg(dir("a"));
    assert!(complaint(&mut command).contains("--yes"));
    stdout(command.arg("--yes"));
    assert_eq!(publish(&a, &file)["revoked"], 1);

    eventually("the thief is shut out", || (!a.is_connected_to(&thief_id)).then_some(()));
    drop(thief);
    a.kill();
    let a = Node::start_with(&dir("a"), &["--listen", LISTEN, "--one-machine"]);
    assert_eq!(revoked_keys(&a), 1);
}

#[test]
fn the_operators_quarantine_outlives_a_crash_and_ends_by_a_word() {
    let temp = tempfile::tempdir().unwrap();
    let name = format!("held-{}", std::process::id());
    let dir = |node: &str| temp.path().join(node);
    let [_, peer] = ["a", "b"].map(|node| init(&dir(node), &name));
    let trust = |node: &Node, args: &[&str]| -> Value {
        let args = [&["trust"], args, &["--json"]].concat();
        serde_json::from_str(&stdout(&mut node.command(&args))).unwrap()
    };
    let a = Node::start(&dir("a"));
    assert_eq!(trust(&a, &["show", &peer])["standing"], "probation");
    assert_eq!(trust(&a, &["quarantine", &peer])["standing"], "quarantined");
    a.kill();

    let a = Node::start(&dir("a"));
    let shown = trust(&a, &["show", &peer]);
    assert_eq!((&shown["standing"], &shown["held"]), (&"quarantined".into(), &true.into()));
    assert_eq!(trust(&a, &["ls"])[0]["peer"], peer);
    let text = stdout(&mut a.command(&["trust", "show", &peer]));
    assert!(text.contains("you quarantined it") && text.contains("(4 + 0.000)"), "{text}");
    assert_eq!(trust(&a, &["release", &peer])["standing"], "probation");
    a.kill();

    let a = Node::start(&dir("a"));
    assert_eq!(trust(&a, &["show", &peer])["held"], false);
    assert!(complaint(&mut a.command(&["trust", "show", "nobody"])).contains("nobody"));
}
