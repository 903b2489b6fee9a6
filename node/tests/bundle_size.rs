//! Large bundles: made, written and taken in with little memory, and broken off on the way.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{
    fs,
    io::{Read, Write},
    path::Path,
    process::{Child, Stdio},
    time::Instant,
};

use common::{Node, complaint, eventually, output, peers::init, stdout};
use dunlin_archive::{Archive, Config, Object, Pin};
use dunlin_client::{BundleImported, BundleMade};
use dunlin_engine::Segment;
use dunlin_wire::block::{Block, Codec};
use rustix::process::{Pid, Signal};

/// Payload of the bundle, in MiB; 1 GiB with `DUNLIN_SLOW_TESTS` set.
const MIB: u64 = 160;

/// What a node may need beside what it needs to do nothing, in KiB: less than half of the bundle.
const GROWTH_KIB_MAX: u64 = 72 * 1024;

/// A segment, whose one link is replaced.
const SEGMENT: &[u8] = include_bytes!("../../fuzz/corpus/segment/valid-lossless");

#[test]
fn a_bundle_larger_than_all_that_a_node_needs_to_carry_it() {
    let mib = if std::env::var_os("DUNLIN_SLOW_TESTS").is_some() { 1_024 } else { MIB };
    let temp = tempfile::tempdir().unwrap();
    let dirs = ["sender", "receiver"].map(|name| temp.path().join(name));
    let sender_id = init(&dirs[0], "island-0");
    init(&dirs[1], "island-1");
    archive(&dirs[0], mib);
    let [sender, receiver] = dirs.map(|dir| Node::start(&dir));
    let before = [&sender, &receiver].map(peak_kib);
    let file = temp.path().join("large.car");
    let started = Instant::now();
    let made = stdout(sender.command(&["bundle", "export", "--json"]).arg("-o").arg(&file));
    let (exported, length) = (started.elapsed(), fs::metadata(&file).unwrap().len());
    let made: BundleMade = serde_json::from_str(&made).unwrap();
    assert_eq!((made.bundle.segments, made.bundle.blocks), (mib, 2 * mib));
    assert!(length > mib << 20);
    let started = Instant::now();
    let mut import = receiver.command(&["bundle", "import", "--json", "--from", &sender_id]);
    let imported: BundleImported = serde_json::from_str(&stdout(import.arg(&file))).unwrap();
    assert_eq!(imported.bundle, made.bundle);
    assert_eq!(receiver.client().archive().unwrap().fetched, mib);
    let after = [&sender, &receiver].map(peak_kib);
    // Shown with `--nocapture`.
    eprintln!(
        "{} MiB: exported in {exported:.1?}, imported in {:.1?}; peak resident memory of the sender {} -> {} MiB, \
         of the receiver {} -> {} MiB",
        length >> 20,
        started.elapsed(),
        before[0] >> 10,
        after[0] >> 10,
        before[1] >> 10,
        after[1] >> 10,
    );
    for (before, after) in before.into_iter().zip(after) {
        assert!(after - before < GROWTH_KIB_MAX, "from {before} to {after} KiB");
    }
}

#[test]
fn an_export_that_ends_early_leaves_no_file_and_loses_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("sender");
    init(&dir, "island-0");
    // Far more than what waits between the node and the reader of standard output.
    archive(&dir, 24);
    let sender = Node::start(&dir);
    // It cannot be written where there is no folder, and that costs no number.
    let nowhere = temp.path().join("no/f.car");
    complaint(sender.command(&["bundle", "export"]).arg("-o").arg(nowhere));
    assert_eq!(sender.client().bundles().unwrap().sent, None);
    // The reader of standard output takes a little and leaves.
    let mut command = sender.command(&["bundle", "export", "-o", "-"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut little = vec![0; 100_000];
    child.stdout.take().unwrap().read_exact(&mut little).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert!(!ended.status.success());
    let told = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(told.contains("--again 1"), "{told}");
    let folder = temp.path().join("stick");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("f.car");
    stdout(sender.command(&["bundle", "export", "--again", "1"]).arg("-o").arg(&file));
    assert!(fs::read(&file).unwrap().starts_with(&little));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "no unfinished file is left");
    assert_eq!(sender.client().bundles().unwrap().sent.unwrap().sequence, 1);
}

#[test]
fn ctrl_c_ends_an_import_and_an_export_and_loses_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let (from, to) = (temp.path().join("sender"), temp.path().join("receiver"));
    let sender_id = init(&from, "island-0");
    // Far more than what waits between the node and the reader of standard output.
    archive(&from, 24);
    let sender = Node::start(&from);
    let file = temp.path().join("whole.car");
    stdout(sender.command(&["bundle", "export"]).arg("-o").arg(&file));
    let bundle = fs::read(&file).unwrap();
    let interrupt = |child: &Child| {
        rustix::process::kill_process(Pid::from_child(child), Signal::INT).unwrap();
    };

    // Somebody reads an export no further than this.
    let mut command = sender.command(&["bundle", "export", "--again", "1", "-o", "-"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut exported = child.stdout.take().unwrap();
    exported.read_exact(&mut vec![0; 1 << 20]).unwrap();
    interrupt(&child);
    let mut rest = Vec::new();
    exported.read_to_end(&mut rest).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{ended:?}");
    assert!(rest.len() + (1 << 20) < bundle.len(), "it went on to its end");
    assert!(String::from_utf8_lossy(&ended.stderr).contains("--again 1"), "{ended:?}");

    // An import gets half of its bundle, and a little more after it was told to end.
    init(&to, "island-0");
    let receiver = Node::start(&to);
    let mut command = receiver.command(&["bundle", "import", "--from", &sender_id, "-"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&bundle[..bundle.len() / 2]).unwrap();
    interrupt(&child);
    // It takes a moment to be heard of; whoever has ended reads no more.
    eventually("the import ends", || {
        input.write_all(&bundle[..1]).ok();
        child.try_wait().unwrap()
    });
    drop(input);
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{ended:?}");
    assert!(receiver.client().bundles().unwrap().received.is_empty());
    eventually("the node has noticed, and takes the bundle", || {
        let mut again = receiver.command(&["bundle", "import", "--from", &sender_id]);
        output(again.arg(&file)).status.success().then_some(())
    });
    assert_eq!(receiver.client().bundles().unwrap().received.len(), 1);
    let counted = |node: &Node, what: &str| node.metric(&format!("dunlin_bundles_{what}_total"));
    eventually("the node sees that nobody reads any more", || {
        ((counted(&sender, "made"), counted(&sender, "cut")) == (1.0, 1.0)).then_some(())
    });
    assert!(counted(&receiver, "imported") == 1.0 && counted(&receiver, "refused") >= 1.0);
}

/// Archives segments with a MiB of payload each, as if the node in this folder had sealed them.
fn archive(dir: &Path, mib: u64) {
    let folder = dir.join("archive");
    fs::create_dir(&folder).unwrap();
    let archive = Archive::open(&folder.join("blocks.redb"), Config::default()).unwrap();
    let segment = Segment::decode(SEGMENT).unwrap();
    let pin = Pin::own(segment.collection().as_str());
    let link = segment.payload()[0].to_bytes();
    let at = SEGMENT.windows(link.len()).position(|window| window == link).unwrap();
    let mut state = 1_u64;
    for _ in 0..mib {
        let mut noise = Vec::with_capacity(1 << 20);
        while noise.len() < 1 << 20 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            noise.extend(state.to_le_bytes());
        }
        let payload = Block::new(Codec::Raw, noise);
        let mut root = SEGMENT.to_vec();
        root[at..at + link.len()].copy_from_slice(&payload.cid().to_bytes());
        let root = Block::new(Codec::DagCbor, root);
        archive.put(&[Object { pin: pin.clone(), root, links: vec![payload] }], None).unwrap();
    }
}

/// Returns the most memory that a node has had so far.
fn peak_kib(node: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
