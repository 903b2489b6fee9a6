//! A real split: nodes in network namespaces, the cable between them cut, both sides writing, and the cable mended.
//! Where that cannot be made, the tests say so and do nothing.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{
    fs,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::{dunlin, eventually, output};

/// Says why namespaces cannot be made here.
fn obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("only root may make network namespaces".to_owned());
    }
    // Containers may be root and still not be allowed to, or lack bridges.
    let script =
        "mount -t tmpfs tmpfs /run && ip netns add space0 && ip link add bridge0 type bridge";
    let args = ["--net", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", script];
    match Command::new("unshare").args(args).output() {
        Err(cause) => Some(format!("`unshare` cannot be run: {cause}")),
        Ok(made) if made.status.success() => None,
        Ok(made) => Some(String::from_utf8_lossy(&made.stderr).trim().to_owned()),
    }
}

#[test]
fn a_network_that_was_split_becomes_one_without_loss() {
    if let Some(obstacle) = obstacle() {
        eprintln!("skipped: {obstacle}");
        return;
    }
    let made = output(&mut dunlin(&["testnet", "split", "--json", "--seconds", "2"]));
    let errors = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{}: {errors}", made.status);
    let report: dunlin_testnet::SplitReport = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!((report.nodes, report.lost, report.undecided), (6, 0, 0), "{report:?}");
    assert!(report.conflicts > 0, "both sides saw the same entities: {report:?}");
    assert!(report.differing > 0 && report.differing < report.segments, "{report:?}");
}

#[test]
fn a_split_that_is_killed_leaves_nothing_behind() {
    if let Some(obstacle) = obstacle() {
        eprintln!("skipped: {obstacle}");
        return;
    }
    let before = devices();
    let mut command = dunlin(&["testnet", "split", "--seconds", "600"]);
    // A group of its own, by which its processes are known, until `dunlin` gives each node one.
    command.process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let nodes = eventually("its nodes run", || {
        let nodes = descendants(child.id());
        // The program goes on as `unshare`, below which are the one inside, and six nodes.
        (nodes.len() >= 7).then_some(nodes)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let deadline = Instant::now() + common::PATIENCE;
    while nodes.iter().any(|pid| is_running(*pid)) {
        assert!(Instant::now() < deadline, "{nodes:?} outlive it");
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(devices(), before, "devices are left");
    assert!(
        fs::read_dir("/run/netns")
            .map_or(true, |mut names| { !names.any(|name| name.unwrap().file_name() == "node0") })
    );
}

/// Returns the network devices of this machine.
fn devices() -> Vec<String> {
    let devices = fs::read_to_string("/proc/net/dev").unwrap();
    let name = |line: &str| line.split_once(':').map(|(name, _)| name.trim().to_owned());
    devices.lines().filter_map(name).collect()
}

/// Returns the processes that a process started, and those that these did.
fn descendants(of: u32) -> Vec<u32> {
    let (mut found, mut next) = (Vec::new(), vec![of]);
    while let Some(parent) = next.pop() {
        let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten();
        for task in tasks.filter_map(Result::ok) {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
                found.push(child);
                next.push(child);
            }
        }
    }
    found
}

fn is_running(pid: u32) -> bool {
    // One that waits for its parent's look has ended.
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim().starts_with('Z'))
}
