//! `dunlin demo` and `dunlin testnet` as their user meets them: what they print, and what they leave.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use common::{dunlin, eventually, output, stdout};
use serde_json::Value;

/// Longest end of a demo that was interrupted.
const END_MAX: Duration = Duration::from_secs(10);

/// Segments that the newcomer fetches.
const FETCHED: u64 = 50;

/// What issue and README promise of `report.json`.
const KEYS: [&str; 18] = [
    "peers",
    "observations",
    "segments",
    "ratio",
    "nrmse",
    "r2",
    "window_ratio",
    "archived",
    "fetched_verified",
    "corrupt_refused",
    "templates_published",
    "templates_adopted",
    "epsilon_spent",
    "ap_alone",
    "ap_with_templates",
    "ap_control",
    "acked_lost",
    "elapsed_s",
];

/// A demo whose temporary files and processes are recognised by a folder of its own.
fn demo(temp: &Path, out: &Path) -> Command {
    let mut command = dunlin(&["demo", "--json", "--out"]);
    command.arg(out).env("TMPDIR", temp);
    command
}

/// Fails unless the folder is empty and no process was started with a path in it.
#[track_caller]
fn assert_nothing_left(temp: &Path) {
    let left: Vec<_> = fs::read_dir(temp).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left, Vec::<PathBuf>::new());
    assert_eq!(processes_of(temp), Vec::<String>::new());
}

/// Returns the command lines of all processes that mention a path.
fn processes_of(path: &Path) -> Vec<String> {
    let processes = fs::read_dir("/proc").into_iter().flatten();
    let lines = processes.filter_map(|process| {
        // One that has just ended has no command line any more.
        let line = fs::read(process.ok()?.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(path.to_str().unwrap())).collect()
}

#[test]
fn the_demo_keeps_its_promises() {
    let temp = tempfile::tempdir().unwrap();
    let out = tempfile::tempdir().unwrap();
    let ran = output(&mut demo(temp.path(), &out.path().join("report")));
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{}: {errors}", ran.status);
    assert_nothing_left(temp.path());
    let report: Value = serde_json::from_slice(&ran.stdout).unwrap();
    check_figures(&report);
    check_parts(&report);

    let saved = fs::read(out.path().join("report/report.json")).unwrap();
    assert_eq!(saved, ran.stdout, "what is printed is what is saved");
    let page = fs::read_to_string(out.path().join("report/report.html")).unwrap();
    check_page(&page);
}

#[track_caller]
fn check_figures(report: &Value) {
    for key in KEYS {
        assert!(report[key].is_number(), "{key} is {}", report[key]);
    }
    let count = |key: &str| report[key].as_u64().unwrap_or_else(|| panic!("{key}: {report}"));
    let figure = |key: &str| report[key].as_f64().unwrap();
    assert_eq!((count("peers"), count("acked_lost"), count("acked_repeated")), (6, 0, 0));
    assert_eq!(count("observations"), observations_in_data());
    assert_eq!((count("fetched_verified"), count("fetched_asked")), (FETCHED, FETCHED));
    assert!(count("corrupt_refused") >= 1);
    assert_eq!(count("archived"), count("segments"));
    assert!(count("segments") > 100, "{}", count("segments"));
    assert!(count("templates_published") >= count("templates_adopted"));
    assert_eq!((count("template_sets_published"), figure("epsilon_spent")), (5, 1.0));
    // Smaller than fixed windows of the same error, and still the data.
    assert!(figure("window_ratio") > 1.0 && figure("ratio") > figure("window_ratio"));
    assert!((0.0..0.5).contains(&figure("nrmse")) && (0.0..=1.0).contains(&figure("r2")));
    for key in ["ap_alone", "ap_with_templates", "ap_control", "ap_random"] {
        assert!(figure(key) > 0.0 && figure(key) <= 1.0, "{key}");
    }
    assert!(figure("elapsed_s") > 0.0);
    assert_eq!(report["problems"], serde_json::json!([]));
}

/// What the parts say has to add up to what the whole says.
#[track_caller]
fn check_parts(report: &Value) {
    let peers = report["per_peer"].as_array().unwrap();
    assert_eq!(peers.len(), 6);
    for key in ["observations", "segments", "archived"] {
        let sum: u64 = peers.iter().map(|peer| peer[key].as_u64().unwrap()).sum();
        assert_eq!(Some(sum), report[key].as_u64(), "{key}");
    }
    let bytes = |key: &str| -> f64 { peers.iter().map(|peer| peer[key].as_f64().unwrap()).sum() };
    let ratio = bytes("raw_bytes") / bytes("stored_bytes");
    assert!((ratio - report["ratio"].as_f64().unwrap()).abs() < 1e-9);
    let adopted = report["gate"].as_array().unwrap().iter().filter(|set| set["adopted"] == true);
    let templates: u64 = adopted.map(|set| set["templates"].as_u64().unwrap()).sum();
    assert_eq!(Some(templates), report["templates_adopted"].as_u64());
    assert_eq!(report["crash"]["lost"], 0);
    assert!(report["crash"]["acked"].as_u64().unwrap() > 0, "it was killed amid its ingest");
    assert_eq!(report["lie"]["refused"], true);
    assert_eq!(report["lie"]["then_verified"], true);
    assert_eq!(report["lie"]["standing"], "quarantined");
}

/// Counts what the peers replay: all of five entities, and of the sixth its first six hours and its test
/// half.
fn observations_in_data() -> u64 {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../testnet/data/asd/manifest.json");
    let manifest: Value = serde_json::from_slice(&fs::read(manifest).unwrap()).unwrap();
    let entities = &manifest["entities"].as_array().unwrap()[..6];
    let of = |entity: &Value, key: &str| entity[key].as_u64().unwrap();
    let full: u64 = entities[..5].iter().map(|entity| of(entity, "rows")).sum();
    full + 6 * 3600 / of(&entities[5], "step_s") + of(&entities[5], "rows_test")
}

/// The page has to be whole wherever it is sent: it loads nothing.
#[track_caller]
fn check_page(page: &str) {
    assert!(page.starts_with("<!") && page.trim_end().ends_with("</html>"));
    assert!(page.contains("<svg"), "it draws");
    for loaded in ["src=", "@import", "<link", "<script src", "<iframe", "href=\"http"] {
        assert!(!page.contains(loaded), "{loaded} in the page");
    }
    let urls = page.match_indices("url(").map(|(at, _)| &page[at..]);
    assert!(urls.into_iter().all(|url| url.starts_with("url(#")), "of the page itself alone");
    let is_name = |rest: &str| rest.starts_with("http://www.w3.org/");
    let addresses = page.match_indices("http").map(|(at, _)| &page[at..]);
    let links =
        addresses.filter(|rest| rest.starts_with("http://") || rest.starts_with("https://"));
    let foreign: Vec<_> = links.filter(|rest| !is_name(rest)).collect();
    assert!(foreign.is_empty(), "{:?}", foreign.iter().map(|rest| rest.get(..60)));
}

#[test]
fn ctrl_c_at_any_time_leaves_nothing_behind() {
    // As soon as there is a folder; when the first peer answers; when the last one does.
    for moment in ["", "peer-1/api.address", "peer-6/api.address"] {
        let temp = tempfile::tempdir().unwrap();
        let out = tempfile::tempdir().unwrap();
        let mut command = demo(temp.path(), &out.path().join("report"));
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut demo = Demo(child);
        eventually("the demo gets there", || {
            assert_eq!(demo.0.try_wait().unwrap(), None, "the demo ended before {moment:?}");
            let folder = fs::read_dir(temp.path()).unwrap().next()?.unwrap().path();
            folder.join(moment).exists().then_some(())
        });
        let pid = rustix::process::Pid::from_child(&demo.0);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let asked = Instant::now();
        let status = eventually("the demo ends", || demo.0.try_wait().unwrap());
        assert!(asked.elapsed() < END_MAX, "it took {:?}", asked.elapsed());
        assert_eq!(status.code(), Some(130), "{moment:?}");
        assert_nothing_left(temp.path());
        assert!(!out.path().join("report").exists(), "no report, no folder for it");
    }
}

/// A demo that does not outlive its test.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        // Its own children end with it.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_testnet_goes_up_and_down_without_a_trace() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("net");
    let testnet = |args: &[&str]| {
        let mut command = dunlin(&["testnet"]);
        command.args(args).arg("--dir").arg(&dir).arg("--json");
        command
    };
    let _down = Down(&dir);
    let up: Value = serde_json::from_str(&stdout(&mut testnet(&["up", "-n", "2"]))).unwrap();
    let names = |nodes: &Value| -> Vec<String> {
        let nodes = nodes.as_array().unwrap().iter();
        let mut names: Vec<_> =
            nodes.map(|node| node["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&up), ["bootstrap", "peer-1", "peer-2"]);
    assert!(up.as_array().unwrap().iter().all(|node| node["alive"] == true), "{up}");
    eventually("its peers meet", || {
        let status: Value = serde_json::from_str(&stdout(&mut testnet(&["status"]))).unwrap();
        let peers = status.as_array().unwrap().iter().filter(|node| node["api"].is_string());
        // The other peer, and the bootstrap node.
        peers.into_iter().all(|peer| peer["peers"].as_u64() >= Some(2)).then_some(())
    });
    let again = output(&mut testnet(&["up", "-n", "2"]));
    assert!(!again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains("runs in"), "{again:?}");
    let down: Value = serde_json::from_str(&stdout(&mut testnet(&["down", "--purge"]))).unwrap();
    assert_eq!((&down["stopped"], &down["purged"]), (&3.into(), &true.into()));
    assert_nothing_left(temp.path());
    assert!(!output(&mut testnet(&["status"])).status.success(), "there is none any more");
}

#[test]
fn a_testnet_that_is_interrupted_on_its_way_up_says_so_and_can_be_taken_down() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("net");
    let _down = Down(&dir);
    let mut command = dunlin(&["testnet", "up", "-n", "8", "--dir"]);
    let mut up = Demo(command.arg(&dir).stderr(Stdio::null()).spawn().unwrap());
    eventually("its first node is under way", || {
        dir.exists().then(|| fs::read_dir(&dir).unwrap().count()).filter(|count| *count > 1)
    });
    let pid = rustix::process::Pid::from_child(&up.0);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ended = eventually("it ends", || up.0.try_wait().unwrap());
    assert_eq!(ended.code(), Some(130));
    output(dunlin(&["testnet", "down", "--purge", "--dir"]).arg(&dir));
    assert_nothing_left(temp.path());
}

/// Stops the testnet of a test that failed halfway.
struct Down<'a>(&'a Path);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        if self.0.exists() {
            output(dunlin(&["testnet", "down", "--purge", "--dir"]).arg(self.0));
        }
    }
}
