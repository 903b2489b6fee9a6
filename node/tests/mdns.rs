//! Two nodes on a network of their own: without a bootstrap node and without each other's address they find each other by
//! mDNS alone, and one that gets another address is soon back. Loopback has neither, so each node gets a network namespace,
//! and a bridge joins them. Making those needs root and `ip`; without them the test says so and proves nothing.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use common::{dunlin, eventually, observation, peers, stdout, with_input};
use serde_json::Value;

/// Observations enough that the noise of a release at epsilon 1 is far below what the gate allows.
const LIFE: u32 = 20_000;

#[test]
fn nodes_on_a_lan_find_each_other_and_trade_templates() {
    let Some(lan) = Lan::new('m') else { return };
    let temp = tempfile::tempdir().unwrap();
    let name = format!("lan-{}", std::process::id());
    let init = |node: &str| {
        let dir = temp.path().join(node);
        let made = stdout(dunlin(&["init", "--json", "--network", &name, "--data-dir"]).arg(&dir));
        let made: Value = serde_json::from_str(&made).unwrap();
        (dir, made["peer"].as_str().unwrap().to_owned())
    };
    let ((a_dir, a_id), (b_dir, b_id)) = (init("a"), init("b"));
    let a = LanNode::start(&lan, 0, a_dir);
    a.fill("web");
    a.json(&["templates", "publish", "--collection", "pairs"]);

    let b = LanNode::start(&lan, 1, b_dir);
    b.fill("db");
    let met = |node: &LanNode, id: &str| {
        let peers = node.json(&["peers"]);
        let mut peers = peers["peers"].as_array().unwrap().iter();
        peers.any(|peer| peer["peer"] == id && peer["connected"] == true)
    };
    eventually("the peers meet", || (met(&a, &b_id) && met(&b, &a_id)).then_some(()));
    eprintln!("peers met {:?} after the second one's start", b.started.elapsed());
    eventually("templates arrive and are judged", || b.verdict_on(&a_id));
    // They may have come before the life that they are judged by.
    b.json(&["templates", "adopt", "--collection", "pairs"]);
    let verdict = b.verdict_on(&a_id).unwrap();
    assert_eq!(verdict["adopted"], true, "{verdict}");
    // Nobody else told them: neither knows a bootstrap node.
    for node in [&a, &b] {
        assert_eq!(node.json(&["peers"])["peers"].as_array().unwrap().len(), 1);
    }
    b.stop();

    // A fresh peer has a life of its own before it meets anybody.
    let (c_dir, _) = init("c");
    peers::set(&c_dir, "mdns = true", "mdns = false");
    let c = LanNode::start(&lan, 1, c_dir.clone());
    c.fill("app");
    c.stop();
    peers::set(&c_dir, "mdns = false", "mdns = true");
    let c = LanNode::start(&lan, 1, c_dir);
    let verdict = eventually("the first set arrives", || c.verdict_on(&a_id));
    eprintln!(
        "first template from a fresh peer on a LAN: {:?} after its start",
        c.started.elapsed()
    );
    assert_eq!(verdict["adopted"], true, "{verdict}");
}

/// How soon a node that got another address is connected again.
const BACK_WITHIN: Duration = Duration::from_secs(10);

#[test]
fn a_node_that_gets_another_address_is_back_within_ten_seconds() {
    let Some(lan) = Lan::new('a') else { return };
    let temp = tempfile::tempdir().unwrap();
    let (home_dir, laptop_dir) = (temp.path().join("home"), temp.path().join("laptop"));
    let network = format!("moves-{}", std::process::id());
    let home_id = peers::init(&home_dir, &network);
    let laptop_id = peers::init(&laptop_dir, &network);
    let home = LanNode::start(&lan, 0, home_dir.clone());
    let at = eventually("the node at home listens", || {
        let told = fs::read_to_string(home_dir.join("network.address")).ok()?;
        told.lines().find(|line| line.contains("/10.213.7.1/")).map(str::to_owned)
    });
    let laptop = LanNode::start_with(&lan, 1, laptop_dir, &["--bootstrap", &at]);
    let knows = |node: &LanNode, id: &str, at: &str| {
        let told = node.json(&["peers"]);
        let mut peers = told["peers"].as_array().unwrap().iter();
        peers.any(|peer| {
            let mut addresses = peer["addresses"].as_array().unwrap().iter();
            let is_there = addresses.any(|known| known.as_str().unwrap().contains(at));
            peer["peer"] == id && peer["connected"] == true && is_there
        })
    };
    eventually("they meet", || knows(&home, &laptop_id, "/10.213.7.2/").then_some(()));

    // The old address is gone before the new one is there, as it is when a cable is pulled.
    let [_, space] = &lan.spaces;
    let card = format!("{}i2", lan.bridge);
    ip(&["-n", space, "address", "delete", "10.213.7.2/24", "dev", &card]);
    eventually("the laptop is alone", || (!knows(&laptop, &home_id, "/10.213.7.1/")).then_some(()));
    let moved = Instant::now();
    ip(&["-n", space, "address", "add", "10.213.7.9/24", "dev", &card]);
    // The node at home hears of the new address over a connection from there, and from nobody else.
    eventually("it is back", || knows(&home, &laptop_id, "/10.213.7.9/").then_some(()));
    // A command may take seconds on a busy machine: what counts is since when the connection has been open.
    eventually("it was back within ten seconds", || {
        let told = laptop.json(&["peers"]);
        let peer = told["peers"].as_array().unwrap().iter().find(|peer| peer["peer"] == home_id)?;
        let open = Duration::from_secs(peer["connected_s"].as_u64()?);
        (moved.elapsed() < BACK_WITHIN + open).then_some(())
    });
}

/// Two namespaces, each with one end of a cable; the other ends are on one bridge.
struct Lan {
    bridge: String,
    spaces: [String; 2],
}

impl Lan {
    /// Returns `None`, and says so, where this cannot be done. Each test has a letter of its own.
    fn new(test: char) -> Option<Self> {
        let has_ip = Command::new("ip").arg("-V").output().is_ok_and(|ran| ran.status.success());
        if !rustix::process::geteuid().is_root() || !has_ip {
            eprintln!(
                "NOT TESTED: this takes root and `ip` to make two networks joined by a bridge"
            );
            return None;
        }
        // Names of interfaces have at most 15 bytes.
        let bridge = format!("dl{test}{}", std::process::id());
        let lan = Self { spaces: [0, 1].map(|n| format!("{bridge}-{n}")), bridge };
        if !try_ip(&["link", "add", &lan.bridge, "type", "bridge"]) {
            eprintln!("NOT TESTED: this takes a bridge, and this system makes none");
            return None;
        }
        ip(&["link", "set", &lan.bridge, "up"]);
        for (n, space) in (1..).zip(&lan.spaces) {
            let (outer, inner) = (format!("{}o{n}", lan.bridge), format!("{}i{n}", lan.bridge));
            ip(&["netns", "add", space]);
            ip(&["link", "add", &outer, "type", "veth", "peer", "name", &inner]);
            ip(&["link", "set", &outer, "master", &lan.bridge, "up"]);
            ip(&["link", "set", &inner, "netns", space]);
            let address = format!("10.213.7.{n}/24");
            ip(&["-n", space, "address", "add", &address, "dev", &inner]);
            ip(&["-n", space, "link", "set", &inner, "up"]);
            ip(&["-n", space, "link", "set", "lo", "up"]);
            ip(&["-n", space, "route", "add", "default", "dev", &inner]);
        }
        Some(lan)
    }

    /// Returns a command of the program under test, in one of the namespaces.
    fn command(&self, node: usize, args: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.spaces[node], env!("CARGO_BIN_EXE_dunlin")]);
        command.args(args).env_remove("DUNLIN_DATA_DIR").env_remove("RUST_LOG");
        command.stdin(Stdio::null());
        command
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        // A cable goes with its namespace. What was not made cannot be removed.
        for space in &self.spaces {
            try_ip(&["netns", "delete", space]);
        }
        try_ip(&["link", "delete", &self.bridge]);
    }
}

#[track_caller]
fn ip(args: &[&str]) {
    assert!(try_ip(args), "ip {args:?}");
}

fn try_ip(args: &[&str]) -> bool {
    Command::new("ip").args(args).stderr(Stdio::null()).status().is_ok_and(|ran| ran.success())
}

/// A node in a namespace: its API is there too, so it is asked by commands.
struct LanNode<'a> {
    lan: &'a Lan,
    space: usize,
    dir: PathBuf,
    child: Child,
    started: Instant,
}

impl<'a> LanNode<'a> {
    #[track_caller]
    fn start(lan: &'a Lan, space: usize, dir: PathBuf) -> Self {
        Self::start_with(lan, space, dir, &[])
    }

    #[track_caller]
    fn start_with(lan: &'a Lan, space: usize, dir: PathBuf, flags: &[&str]) -> Self {
        let log = fs::File::create(dir.with_extension("log")).unwrap();
        let mut command = lan.command(space, &["run", "--listen", "/ip4/0.0.0.0/tcp/0"]);
        let command =
            command.args(flags).arg("--data-dir").arg(&dir).stdout(Stdio::null()).stderr(log);
        let (started, child) = (Instant::now(), command.spawn().unwrap());
        let mut node = Self { lan, space, dir, child, started };
        eventually("the node answers", || {
            let log = fs::read_to_string(node.dir.with_extension("log")).unwrap();
            assert_eq!(node.child.try_wait().unwrap(), None, "the node ended: {log}");
            node.command(&["status"]).output().unwrap().status.success().then_some(())
        });
        node
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.lan.command(self.space, args);
        command.arg("--data-dir").arg(&self.dir);
        command
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&stdout(self.command(args).arg("--json"))).unwrap()
    }

    /// Makes the collection and gives it the life of an entity.
    #[track_caller]
    fn fill(&self, entity: &str) {
        let create = ["collections", "create", "pairs", "--dim", "2", "--range", "0,1"];
        self.json(&[&create[..], &["--fidelity", "lossless"]].concat());
        let lines = (0..LIFE).map(|index| serde_json::to_string(&observation(entity, index)));
        let lines: String = lines.map(|line| line.unwrap() + "\n").collect();
        let mut ingest = self.command(&["ingest", "-", "--format", "ndjson", "-c", "pairs"]);
        let ran = with_input(&mut ingest, &lines);
        assert!(ran.status.success(), "{ran:?}");
    }

    /// What the gate said of a peer's set, once there is one.
    fn verdict_on(&self, peer: &str) -> Option<Value> {
        let held = self.json(&["templates", "ls"]);
        let mut sets = held["sets"].as_array().unwrap().iter();
        let set = sets.find(|set| set["signer"] == peer && set["verdict"].is_object())?;
        Some(set["verdict"].clone())
    }

    #[track_caller]
    fn stop(mut self) {
        // `ip netns exec` becomes the program that it starts, so this reaches the node.
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let status = eventually("the node ends", || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}");
    }
}

impl Drop for LanNode<'_> {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
