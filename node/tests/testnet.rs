//! `dunlin testnet` as its user meets it: networks of real processes, what is done to them, and that nothing is left of
//! them, however they end. What needs network namespaces says so and does nothing where there are none.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use common::{complaint, dunlin, eventually, output, stdout};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A test network in a folder of its own.
struct Net {
    temp: tempfile::TempDir,
}

impl Net {
    /// Starts one with these flags.
    #[track_caller]
    fn up(flags: &[&str]) -> Self {
        let net = Self { temp: tempfile::tempdir().unwrap() };
        stdout(net.command("up").args(flags));
        net
    }

    fn dir(&self) -> PathBuf {
        self.temp.path().join("net")
    }

    fn command(&self, name: &str) -> Command {
        let mut command = dunlin(&["testnet", name, "--json", "--dir"]);
        command.arg(self.dir());
        command
    }

    #[track_caller]
    fn tell(&self, args: &[&str]) {
        stdout(self.command(args[0]).args(&args[1..]));
    }

    #[track_caller]
    fn status(&self) -> Vec<Value> {
        serde_json::from_str(&stdout(&mut self.command("status"))).unwrap()
    }

    /// Returns a number that `status` shows of a peer.
    #[track_caller]
    fn number(&self, peer: usize, field: &str) -> Option<u64> {
        self.status()[peer][field].as_u64()
    }

    #[track_caller]
    fn wait(&self, what: &str, is_so: impl Fn(&[Value]) -> bool) {
        // A line that is cut is noticed by pings, of which two fail first.
        let deadline = Instant::now() + Duration::from_secs(180);
        while !is_so(&self.status()) {
            assert!(Instant::now() < deadline, "never: {what}: {:?}", self.status());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Returns the processes of the nodes, and the one that keeps them.
    #[track_caller]
    fn processes(&self) -> (Vec<u32>, u32) {
        let nodes = self.status().iter().map(|node| pid(&node["pid"])).collect();
        let state = fs::read(self.dir().join("testnet.json")).unwrap();
        let state: Value = serde_json::from_slice(&state).unwrap();
        (nodes, pid(&state["pid"]))
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        output(self.command("down").arg("--purge"));
    }
}

fn pid(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap()).unwrap()
}

fn is_running(pid: u32) -> bool {
    // One that waits for its parent's look has ended.
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim().starts_with('Z'))
}

/// Returns the network namespace of a process.
fn namespace(pid: impl std::fmt::Display) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/net")).ok()
}

/// Returns whether any process of this machine is in one of these namespaces.
fn are_used(spaces: &[PathBuf]) -> bool {
    let processes = fs::read_dir("/proc").unwrap();
    processes
        .filter_map(|entry| namespace(entry.unwrap().file_name().to_string_lossy()))
        .any(|space| spaces.contains(&space))
}

/// One network at a time: they share the processors, and some of them are about how long things take.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A test that failed has taken its network with it.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says why namespaces with cables cannot be made here.
fn obstacle() -> Option<String> {
    let script = "ip tuntap add dev eth0 mode tun && ip link set eth0 up";
    match Command::new("unshare").args(["--net", "sh", "-c", script]).output() {
        Err(cause) => Some(format!("`unshare` cannot be run: {cause}")),
        Ok(made) if made.status.success() => None,
        Ok(made) => Some(String::from_utf8_lossy(&made.stderr).trim().to_owned()),
    }
}

#[test]
fn nodes_are_paused_killed_and_started_by_commands_of_their_own() {
    let _alone = alone();
    let net = Net::up(&["-n", "2"]);
    net.wait("the peers meet", |nodes| nodes[1]["peers"].as_u64() >= Some(2));
    net.tell(&["pause", "1"]);
    assert_eq!(net.status()[1]["paused"], true);
    net.tell(&["heal"]);
    assert_eq!(net.status()[1]["paused"], false);
    let before = net.number(2, "pid");
    net.tell(&["kill", "peer-2"]);
    assert_eq!(net.status()[2]["alive"], false);
    net.tell(&["start", "2"]);
    assert_eq!(net.status()[2]["alive"], true);
    assert_ne!(net.number(2, "pid"), before);
    net.tell(&["churn", "--every", "1s", "--for", "1s"]);
    assert!(net.status().iter().all(|node| node["alive"] == true));
    let logs = stdout(net.command("logs").args(["2", "-n", "5"]));
    assert!(logs.contains("peer-2"), "{logs}");
    let no_links = complaint(net.command("partition").arg("1|2"));
    assert!(no_links.contains("--netns"), "{no_links}");
    let nobody = complaint(net.command("kill").arg("7"));
    assert!(nobody.contains("peers are 1 to 2"), "{nobody}");
}

#[test]
fn nothing_outlives_a_supervisor_that_is_killed() {
    let _alone = alone();
    let mut kinds = vec![vec!["-n", "2"]];
    match obstacle() {
        None => kinds.push(vec!["-n", "2", "--netns"]),
        Some(obstacle) => eprintln!("skipped in namespaces: {obstacle}"),
    }
    for flags in kinds {
        let net = Net::up(&flags);
        let (nodes, keeper) = net.processes();
        let spaces: Vec<_> = nodes.iter().filter_map(namespace).collect();
        let is_own = |space: &PathBuf| namespace(std::process::id()).as_ref() != Some(space);
        assert_eq!(spaces.iter().filter(|space| is_own(space)).count(), 3 * (flags.len() - 2));
        assert!(nodes.len() == 3 && nodes.iter().all(|pid| is_running(*pid)), "{nodes:?}");
        let pid = Pid::from_raw(i32::try_from(keeper).unwrap()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
        eventually("it and its nodes end", || {
            nodes.iter().chain([&keeper]).all(|pid| !is_running(*pid)).then_some(())
        });
        if flags.len() > 2 {
            eventually("its namespaces end", || (!are_used(&spaces)).then_some(()));
        }
        assert!(net.status().iter().all(|node| node["alive"] == false));
        // What it left on disk is started again, and taken down.
        stdout(net.command("up").args(&flags));
        stdout(net.command("down").arg("--purge"));
        assert_eq!(fs::read_dir(net.temp.path()).unwrap().count(), 0);
    }
}

#[test]
fn links_between_namespaces_are_cut_and_healed() {
    let _alone = alone();
    if let Some(obstacle) = obstacle() {
        eprintln!("skipped: {obstacle}");
        return;
    }
    let net = Net::up(&["-n", "3", "--netns", "--profile", "wan"]);
    net.wait("the peers meet", |nodes| {
        (1..=3).all(|peer| nodes[peer]["peers"].as_u64() >= Some(3))
    });
    net.tell(&["partition", "bootstrap,1,2|3"]);
    net.wait("the third is alone", |nodes| nodes[3]["peers"] == 0);
    net.tell(&["heal"]);
    net.wait("the third is back", |nodes| nodes[3]["peers"].as_u64() >= Some(1));
}

/// Returns the command that plays a scenario that ships.
fn scenario(name: &str) -> Command {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testnet/scenarios").join(name);
    let mut command = dunlin(&["testnet", "run", "--json"]);
    command.arg(file);
    command
}

/// Plays a scenario that ships, and returns its report.
#[track_caller]
fn play(name: &str) -> Value {
    let _alone = alone();
    let played = output(&mut scenario(name));
    let errors = String::from_utf8_lossy(&played.stderr);
    let text = String::from_utf8_lossy(&played.stdout);
    assert!(played.status.success(), "{name}: {}: {errors}\n{text}", played.status);
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["passed"], true);
    report
}

#[test]
fn a_cold_start_comes_to_agree() {
    let report = play("cold-start.toml");
    assert!(report["acknowledged"].as_u64() >= Some(1_000), "{report}");
}

#[test]
fn a_network_outlives_its_bootstrap_node() {
    play("bootstrap-loss.toml");
}

#[test]
fn churn_loses_nothing() {
    play("churn.toml");
}

#[test]
fn a_network_is_upgraded_node_by_node_while_it_goes_on() {
    let report = play("rolling-upgrade.toml");
    // Ten segments of each of four peers, and what they took in while one of them, or the bootstrap node, was away.
    assert!(report["acknowledged"].as_u64() > Some(4 * 10 * 20), "{report}");
}

#[test]
fn a_laptop_that_slept_catches_up() {
    play("laptop-sleep-short.toml");
}

#[test]
fn a_hostile_peer_is_no_burden_to_honest_ones() {
    let report = play("hostile-peer-short.toml");
    let attacks = report["attacks"].as_array().unwrap();
    assert!(attacks.len() >= 5, "{report}");
    for attack in attacks {
        let attacker = &attack["attacker"];
        let did = attacker["tried"].as_u64().unwrap() + attacker["opened"].as_u64().unwrap();
        assert!(did > 10, "the attacker did something: {attacker}");
    }
}

#[test]
fn a_hostile_peer_over_quic_is_no_burden_to_honest_ones() {
    if let Some(obstacle) = obstacle() {
        eprintln!("skipped: {obstacle}");
        return;
    }
    let report = play("hostile-quic-short.toml");
    let attacks = report["attacks"].as_array().unwrap();
    assert_eq!(attacks.len(), 4, "{report}");
    for attack in attacks {
        let attacker = &attack["attacker"];
        assert!(attacker["tried"].as_u64() > Some(10), "the attacker did something: {attacker}");
    }
}

#[test]
fn a_split_network_heals() {
    match obstacle() {
        None => drop(play("split-and-heal.toml")),
        Some(obstacle) => eprintln!("skipped: {obstacle}"),
    }
}

#[test]
fn a_check_that_does_not_hold_fails_the_run_and_says_why() {
    let _alone = alone();
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("scenario.toml");
    let script = "name = \"n\"\nabout = \"a\"\npeers = 2\n[[step]]\ndo = \"connected\"\nat_least = 9\nwithin_s = 1\n[[step]]\ndo = \"heal\"\n";
    fs::write(&file, script).unwrap();
    let out = temp.path().join("out");
    let played = output(dunlin(&["testnet", "run", "--json"]).arg(file).arg("--out").arg(&out));
    assert_eq!(played.status.code(), Some(1));
    assert!(out.join("report.json").exists() && out.join("peer-1.log").exists());
    let report: Value = serde_json::from_slice(&played.stdout).unwrap();
    let steps = report["steps"].as_array().unwrap();
    assert_eq!((report["passed"].as_bool(), steps.len()), (Some(false), 2), "{report}");
    let why = steps[1]["failed"].as_str().unwrap();
    assert!(why.contains("has ") && why.contains("within 1 s"), "{why}");
}

/// Plays a scenario with NATs, if the kernel does them.
#[track_caller]
fn play_behind_nats(name: &str) {
    if let Some(obstacle) = obstacle().or_else(nat_obstacle) {
        eprintln!("skipped: {obstacle}");
        return;
    }
    play(name);
}

/// Says why the kernel does no NAT: a scenario that takes it is refused before anything else.
fn nat_obstacle() -> Option<String> {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("scenario.toml");
    let script = "name = \"n\"\nabout = \"a\"\npeers = 1\nnetns = true\n[nat]\nnodes = \"1\"\nmapping = \"per-source\"\n[[step]]\ndo = \"kept\"\n";
    fs::write(&file, script).unwrap();
    let played = output(dunlin(&["testnet", "run"]).arg(file));
    let errors = String::from_utf8_lossy(&played.stderr).into_owned();
    let is_unable = errors.contains("the kernel does no NAT here");
    assert!(played.status.success() || is_unable, "{errors}");
    is_unable.then_some(errors)
}

#[test]
fn a_pair_behind_nats_meets_by_relay_goes_on_directly_and_trades_templates() {
    play_behind_nats("nat-pair.toml");
}

#[test]
fn a_pair_that_stays_relayed_is_served_within_the_limits_of_the_relay() {
    play_behind_nats("nat-pair-relayed.toml");
}

/// Returns the network namespaces of a process's threads that are not ours.
fn spaces_of(pid: u32) -> Vec<PathBuf> {
    let ours = namespace(std::process::id());
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let spaces = threads.filter_map(|thread| fs::read_link(thread.path().join("ns/net")).ok());
    let mut spaces: Vec<_> = spaces.filter(|space| Some(space) != ours.as_ref()).collect();
    spaces.sort();
    spaces.dedup();
    spaces
}

#[test]
fn nothing_outlives_a_scenario_with_nats_that_is_killed() {
    let _alone = alone();
    if let Some(obstacle) = obstacle().or_else(nat_obstacle) {
        eprintln!("skipped: {obstacle}");
        return;
    }
    let mut child = scenario("nat-pair.toml").stdout(Stdio::null()).spawn().unwrap();
    // A street's end for the bootstrap node, and a home and a router for each peer.
    let spaces = eventually("the homes are built", || {
        Some(spaces_of(child.id())).filter(|spaces| spaces.len() >= 5)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("its processes and namespaces end", || (!are_used(&spaces)).then_some(()));
}
