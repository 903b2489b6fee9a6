//! A little internet in network namespaces: a street with public addresses, a bootstrap node on it, and houses whose
//! routers do NAT, each with one node inside.

use std::{
    fs::{self, File},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use dunlin_testnet::nat::{self, Mapping};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use super::common::{dunlin, eventually, stdout};

/// Houses.
pub(crate) const HOUSES: usize = 2;

/// The bootstrap node's address.
const BOOT: &str = "203.0.113.1";

/// The namespaces. They go when this is dropped.
pub(crate) struct Town {
    street: String,
    routers: [String; HOUSES],
    homes: [String; HOUSES],
    boot: String,
}

impl Town {
    /// Builds it, or says why it cannot be built here: only root may.
    pub(crate) fn build(name: &str, mapping: Mapping) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root may make network namespaces");
            return None;
        }
        let id = std::process::id();
        let space = |what: &str| format!("dn{id}-{name}-{what}");
        let town = Self {
            street: space("street"),
            routers: [0, 1].map(|house| space(&format!("router{house}"))),
            homes: [0, 1].map(|house| space(&format!("home{house}"))),
            boot: space("boot"),
        };
        for space in town.spaces() {
            ip(&["netns", "add", space]);
            ip(&["-n", space, "link", "set", "lo", "up"]);
        }
        ip(&["-n", &town.street, "link", "add", "street", "type", "bridge"]);
        ip(&["-n", &town.street, "link", "set", "street", "up"]);
        town.join_street(&town.boot, "boot", BOOT);
        for house in 0..HOUSES {
            town.build_house(house, mapping);
        }
        Some(town)
    }

    fn spaces(&self) -> impl Iterator<Item = &String> {
        [&self.street, &self.boot].into_iter().chain(&self.routers).chain(&self.homes)
    }

    /// Lays a cable from a namespace to the street.
    fn join_street(&self, space: &str, plug: &str, address: &str) {
        let street = &self.street;
        let cable = ["type", "veth", "peer", "name", "wan", "netns", space];
        ip(&[&["-n", street, "link", "add", plug][..], &cable].concat());
        ip(&["-n", street, "link", "set", plug, "master", "street", "up"]);
        ip(&["-n", space, "address", "add", &format!("{address}/24"), "dev", "wan"]);
        ip(&["-n", space, "link", "set", "wan", "up"]);
    }

    fn build_house(&self, house: usize, mapping: Mapping) {
        let (router, home) = (&self.routers[house], &self.homes[house]);
        self.join_street(router, &format!("router{house}"), &Self::public_address(house));
        let cable = ["type", "veth", "peer", "name", "eth0", "netns", home];
        ip(&[&["-n", router, "link", "add", "lan"][..], &cable].concat());
        // Both houses use the same addresses, as houses do.
        ip(&["-n", router, "address", "add", "192.168.1.1/24", "dev", "lan"]);
        ip(&["-n", router, "link", "set", "lan", "up"]);
        ip(&["-n", home, "address", "add", "192.168.1.2/24", "dev", "eth0"]);
        ip(&["-n", home, "link", "set", "eth0", "up"]);
        ip(&["-n", home, "route", "add", "default", "via", "192.168.1.1"]);
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
        ip(&["netns", "exec", router, "sh", "-c", forward]);
        masquerade(router, mapping);
    }

    /// Returns what the street sees of a house.
    pub(crate) fn public_address(house: usize) -> String {
        format!("203.0.113.{}", 10 * (house + 1))
    }

    /// Gives the node of a house another address, as a laptop gets that is carried to another room.
    pub(crate) fn move_home(&self, house: usize) {
        let home = &self.homes[house];
        ip(&["-n", home, "address", "delete", "192.168.1.2/24", "dev", "eth0"]);
        ip(&["-n", home, "address", "add", "192.168.1.3/24", "dev", "eth0"]);
        ip(&["-n", home, "route", "add", "default", "via", "192.168.1.1"]);
    }

    /// Returns how many bytes went over the cable of a house's node so far, in both directions and with all headers.
    pub(crate) fn wire_bytes(&self, house: usize) -> u64 {
        let mut list = Command::new("ip");
        list.args(["netns", "exec", &self.homes[house], "cat", "/proc/net/dev"]);
        let list = stdout(&mut list);
        let line = list.lines().find_map(|line| line.trim().strip_prefix("eth0:")).unwrap();
        let numbers: Vec<u64> = line.split_whitespace().map(|word| word.parse().unwrap()).collect();
        // Received bytes come first, and eight columns later those that were sent.
        numbers[0] + numbers[8]
    }

    /// Starts a bootstrap node; returns it with its address over a transport.
    pub(crate) fn start_boot(&self, dir: &Path, transport: &str) -> (Resident, String) {
        let id = init(dir, "");
        let boot = Resident::start(&self.boot, dir, "bootstrap");
        eventually("the bootstrap node listens", || {
            fs::read_to_string(dir.join("network.address")).ok().filter(|text| text.contains(BOOT))
        });
        (boot, format!("/ip4/{BOOT}{transport}/p2p/{id}"))
    }

    /// Starts a node in a house that knows the bootstrap node.
    pub(crate) fn start_home(&self, house: usize, dir: &Path, boot: &str) -> Resident {
        init(dir, boot);
        Resident::started(&self.homes[house], dir)
    }
}

impl Drop for Town {
    fn drop(&mut self) {
        remove_namespaces(self.spaces());
    }
}

/// Removes them with all cables. What was not made cannot be removed.
pub(crate) fn remove_namespaces<'a>(spaces: impl IntoIterator<Item = &'a String>) {
    for space in spaces {
        try_ip(&["netns", "delete", space]);
    }
}

/// Makes the folder of a node on the open internet; returns its id.
pub(crate) fn init(dir: &Path, boot: &str) -> String {
    let network = format!("nat-{}", std::process::id());
    let made = stdout(dunlin(&["init", "--json", "--network", &network, "--data-dir"]).arg(dir));
    let made: Value = serde_json::from_str(&made).unwrap();
    let file = dir.join("config.toml");
    let config = fs::read_to_string(&file).unwrap();
    let mut changed = config
        .replace("reach = \"local\"", "reach = \"public\"")
        .replace("mdns = true", "mdns = false")
        .replace("level = \"error,dunlin=info\"", "level = \"error,dunlin=debug\"");
    if !boot.is_empty() {
        changed = changed.replace("bootstrap = []", &format!("bootstrap = [\"{boot}\"]"));
    }
    assert_ne!(changed, config);
    fs::write(file, changed).unwrap();
    made["peer"].as_str().unwrap().to_owned()
}

/// A process in a namespace.
pub(crate) struct Resident {
    space: String,
    dir: PathBuf,
    child: Child,
}

impl Resident {
    fn start(space: &str, dir: &Path, command: &str) -> Self {
        let log = File::create(dir.with_extension("log")).unwrap();
        let mut program = program_in(space);
        program.arg(command).arg("--data-dir").arg(dir);
        let child = program.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Self { space: space.to_owned(), dir: dir.to_owned(), child }
    }

    /// Starts a node in a namespace, and waits until it answers.
    pub(crate) fn started(space: &str, dir: &Path) -> Self {
        let node = Self::start(space, dir, "run");
        eventually("the node answers", || {
            node.command(&["status"]).output().is_ok_and(|ran| ran.status.success()).then_some(())
        });
        node
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = program_in(&self.space);
        command.args(args).arg("--data-dir").arg(&self.dir);
        command
    }

    /// Asks the node something by the command line.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&stdout(self.command(args).arg("--json"))).unwrap()
    }

    /// Returns what `dunlin doctor` says of a part, whether or not the others are well.
    pub(crate) fn diagnosis(&self, check: &str) -> Value {
        let ran = self.command(&["doctor", "--json"]).output().unwrap();
        let found: Value = serde_json::from_slice(&ran.stdout).unwrap();
        let mut found = found.as_array().unwrap().iter();
        found.find(|of| of["check"] == check).unwrap().clone()
    }

    /// Returns how the node is connected with a peer, if it is.
    pub(crate) fn link_to(&self, peer: &str) -> Option<Value> {
        let peers = self.json(&["peers"]);
        let mut peers = peers["peers"].as_array().unwrap().iter();
        peers.find(|of| of["peer"] == peer && of["connected"] == true).cloned()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.with_extension("log")).unwrap()
    }

    pub(crate) fn id(&self) -> String {
        self.json(&["status"])["peer"].as_str().unwrap().to_owned()
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(40)..].join("\n");
            eprintln!("-- the last lines of {}:\n{last}", self.dir.display());
        }
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn program_in(space: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", space, env!("CARGO_BIN_EXE_dunlin")]);
    command.env_remove("DUNLIN_DATA_DIR").env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// Makes a router of a namespace.
fn masquerade(namespace: &str, mapping: Mapping) {
    let namespace = File::open(format!("/run/netns/{namespace}")).unwrap();
    // A namespace is a thread's own.
    let enter = move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        nat::masquerade(mapping).expect("the kernel does NAT");
    };
    std::thread::spawn(enter).join().unwrap();
}

#[track_caller]
pub(crate) fn ip(args: &[&str]) {
    assert!(try_ip(args), "ip {args:?}");
}

fn try_ip(args: &[&str]) -> bool {
    Command::new("ip").args(args).stderr(Stdio::null()).status().is_ok_and(|ran| ran.success())
}
