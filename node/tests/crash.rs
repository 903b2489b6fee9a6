//! Acknowledged is durable: a node that is killed at any moment has everything that it acknowledged,
//! once, and goes on.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use common::{Node, eventually, observation, stdout, two_channels};
use dunlin_client::{Client, HistoryQuery, IngestRequest};

/// How often the node is killed; ten times as often with `DUNLIN_SLOW_TESTS` set.
const KILLS: u32 = 20;

/// Observations in one request: small, so that many requests are under way over the test.
const BATCH: u32 = 16;

/// Writers at once, each with an entity of its own, so that one sync is for several of them.
const WRITERS: usize = 3;

#[test]
fn kill_9_loses_nothing_acknowledged_and_makes_no_duplicate() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("node");
    let mut node = Node::start(&dir);
    node.client().create_collection(&two_channels("pairs")).unwrap();
    let mut acknowledged = [0; WRITERS];
    let times = if std::env::var_os("DUNLIN_SLOW_TESTS").is_some() { 10 } else { 1 };
    for kill in 0..times * KILLS {
        let reached = acknowledged.map(|from| Arc::new(AtomicU32::new(from)));
        let writer = |writer| {
            let (from, reached) = (acknowledged[writer], Arc::clone(&reached[writer]));
            write_until_it_fails(node.client(), writer, from, reached)
        };
        let writers: [_; WRITERS] = std::array::from_fn(writer);
        let goal = acknowledged[0] + 100 + kill * 37 % 200;
        eventually("the node acknowledges", || {
            (reached[0].load(Ordering::SeqCst) >= goal).then_some(())
        });
        node.kill();
        let told = writers.map(|writer| writer.join().unwrap());
        node = Node::start(&dir);
        acknowledged = std::array::from_fn(|writer| check(&node.client(), writer, told[writer]));
    }
    let segments_before = node.client().status().unwrap().segments;
    assert!(segments_before > 10, "regimes are sealed along the way: {segments_before}");
    node.stop();
    let node = Node::start(&dir);
    assert_eq!(node.client().status().unwrap().segments, segments_before);
    for (writer, told) in acknowledged.into_iter().enumerate() {
        assert_eq!(check(&node.client(), writer, told), told);
    }
}

/// Writes batch after batch until the node is gone; returns how many observations it acknowledged.
fn write_until_it_fails(
    client: Client,
    writer: usize,
    from: u32,
    reached: Arc<AtomicU32>,
) -> std::thread::JoinHandle<u32> {
    std::thread::spawn(move || {
        let mut next = from;
        loop {
            let entity = format!("e{writer}");
            let observations =
                (next..next + BATCH).map(|index| observation(&entity, index)).collect();
            if client.ingest("pairs", &IngestRequest { observations }).is_err() {
                return next;
            }
            next += BATCH;
            reached.store(next, Ordering::SeqCst);
        }
    })
}

/// Compares all that the node has of a writer with what was sent. A batch that was not acknowledged may be
/// there or not, but whole; returns how many observations are there.
#[track_caller]
fn check(client: &Client, writer: usize, acknowledged: u32) -> u32 {
    let (collection, entity) = ("pairs".to_owned(), format!("e{writer}"));
    let query = HistoryQuery {
        collection,
        entity: entity.clone(),
        from_us: None,
        to_us: None,
        limit: Some(100_000),
        matches: None,
    };
    let points = client.history(&query).unwrap().points;
    let count = u32::try_from(points.len()).unwrap();
    assert!(count == acknowledged || count == acknowledged + BATCH, "{count} of {acknowledged}");
    for (index, point) in (0..).zip(&points) {
        let sent = observation(&entity, index);
        assert_eq!((point.timestamp_us, &point.vector), (sent.timestamp_us, &sent.vector));
    }
    count
}

/// A small disk of its own, gone when the test ends.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one, as root; others are told that they cannot.
    fn mount(path: &Path) -> Option<Self> {
        std::fs::create_dir(path).unwrap();
        let disk = Self(path.into());
        disk.run(&["-t", "tmpfs", "-o", "size=16m", "tmpfs"]).then_some(disk)
    }

    fn enlarge(&self) {
        assert!(self.run(&["-o", "remount,size=128m"]));
    }

    fn run(&self, args: &[&str]) -> bool {
        let mounted = Command::new("mount").args(args).arg(&self.0).stderr(Stdio::null()).status();
        mounted.is_ok_and(|status| status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).stderr(Stdio::null()).status().ok();
    }
}

#[test]
fn a_full_disk_refuses_by_name_and_loses_nothing_acknowledged() {
    let temp = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&temp.path().join("disk")) else {
        // Only root may mount; the engine's tests fill a disk in memory for everybody.
        return eprintln!("not run: mounting a small disk needs root");
    };
    let dir = disk.0.join("node");
    let node = Node::start(&dir);
    node.client().create_collection(&two_channels("pairs")).unwrap();
    let mut acknowledged = 0;
    let refusal = loop {
        let observations =
            (acknowledged..acknowledged + 1_000).map(|i| observation("e", i)).collect();
        match node.client().ingest("pairs", &IngestRequest { observations }) {
            Ok(_) => acknowledged += 1_000,
            Err(refusal) => break refusal,
        }
        assert!(acknowledged < 2_000_000, "the disk was never full");
    };
    assert!(acknowledged > 1_000);
    assert!(refusal.is_refusal("store_failed"), "{refusal:?}");
    assert!(format!("{refusal:#}").contains("restart"), "{refusal:#}");
    // It says so to everybody, still answers, and does not come back by itself.
    let allowed = [u64::from(acknowledged), u64::from(acknowledged) + 1_000];
    let shown = node.client().status().unwrap().observations;
    assert!(allowed.contains(&shown), "{shown} of {acknowledged}");
    let again = IngestRequest { observations: vec![observation("e", acknowledged)] };
    assert!(node.client().ingest("pairs", &again).unwrap_err().is_refusal("store_failed"));
    assert!(!node.client().status().unwrap().problems.is_empty());
    node.kill();
    disk.enlarge();
    let node = Node::start(&dir);
    let there = node.client().status().unwrap().observations;
    assert!(allowed.contains(&there), "{there} of {acknowledged}");
    assert_eq!(node.client().ingest("pairs", &again).unwrap().late, u64::from(there > allowed[0]));
    node.stop();
}

#[test]
fn ingest_waits_for_a_node_that_restarts() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("node");
    let node = Node::start(&dir);
    let file = temp.path().join("metrics.csv");
    let rows: String = (0..20_000).map(|t| format!("web,{t},0.{}\n", t % 7)).collect();
    std::fs::write(&file, format!("entity,t,cpu\n{rows}")).unwrap();
    let mut command = node.command(&["ingest", file.to_str().unwrap(), "--batch", "100", "--json"]);
    let client = node.client();
    let ingest = std::thread::spawn(move || stdout(&mut command));
    eventually("ingest has begun", || {
        client.status().ok().filter(|status| status.observations > 1_000)
    });
    node.kill();
    std::thread::sleep(Duration::from_millis(200));
    let node = Node::start(&dir);
    let summary: serde_json::Value = serde_json::from_str(&ingest.join().unwrap()).unwrap();
    assert_eq!(node.client().status().unwrap().observations, 20_000);
    let count = |key: &str| summary[key].as_u64().unwrap();
    assert_eq!(count("accepted") + count("duplicate") + count("late"), 20_000, "{summary}");
}
